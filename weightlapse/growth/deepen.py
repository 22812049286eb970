"""A deeper network that computes the same: identity layers, residual inserts, whole blocks that do nothing yet."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from weightlapse.arguments import examples_of
from weightlapse.errors import CannotGrow, InvalidArgument, UnknownTensor, closest
from weightlapse.growth.blocks import calls_of, silenced
from weightlapse.growth.certificate import Certificate, Trial
from weightlapse.growth.following import Following, what_follows
from weightlapse.growth.layers import (
    Chain,
    calibrated_norm,
    identity_like,
    is_linear,
    zero_residual,
)
from weightlapse.growth.module import copied, parameter_count, tensors_of, unwrapped
from weightlapse.growth.optimizer import powers_of, rebuilt
from weightlapse.growth.result import Growth, Model
from weightlapse.growth.running import check_finite
from weightlapse.wiring.programs.find import is_foreign, is_keras

Kind = Literal["auto", "identity", "residual", "block"]
KINDS: tuple[str, ...] = get_args(Kind)
_COUNTS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "depth",
    "num_blocks",
    "encoder_layers",
    "decoder_layers",
)
_POSITIONS = ("layer_idx", "layer_id", "layer_number", "block_idx")


@dataclass
class Deeper:
    """A network with a new part: ``origin`` maps each of its tensors to the old name (None: new), ``host`` the new
    parameters to the old one whose optimizer group they join."""

    model: nn.Module
    new_paths: list[str]
    origin: dict[str, str | None] = field(default_factory=dict)
    host: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def deepen(
    model: Model,
    *examples: Any,
    example: Any = None,
    after: str,
    kind: Kind = "auto",
    optimizer: Any = None,
    noise: float = 0.0,
    width: int | None = None,
    seed: int | None = None,
) -> Growth[Model]:
    """One more layer (or block) after the module at path ``after``, the same function; the argument is not touched.

    Each example is one input (a tuple is its positional arguments; ``example=x`` is one alone): the result is certified on them.

    ``kind="identity"`` puts the activation and an identity layer between the layer and the activation that follows: exact
    where acting twice is acting once (ReLU, ReLU6, clamp), with Dirac kernels for convolutions, and a BatchNorm calibrated on
    the examples where the network has one there. ``"residual"`` adds ``V act(U x)`` with V = 0 to the layer's output: exact
    for every activation; ``width`` is the number of its hidden units. ``"block"`` repeats a residual block (transformer,
    ResNet) with its branches ending in zeros. ``"auto"`` takes a block where ``after`` names one, else the identity where it is
    exact, else the residual insert. ``noise`` adds that many standard deviations of the layer's weight to the new ones; the
    function then changes, and ``error`` says by how much. ``seed`` fixes the random weights U; None draws anew each time.

    A layer ``fc1`` becomes ``fc1.0`` and the new one ``fc1.2`` (identity) or ``fc1.1`` (residual); behind a norm ``bn1`` the
    new layers are ``bn1.2`` and ``bn1.3``. A block inserted in a list moves the later ones up by one. ``Growth.origin`` maps
    every name to the old one.

    In a Keras model (sequential or functional) the new layer ``NAME_deeper`` stands behind the layer ``NAME``, an identity or a residual insert.

    Raises CannotGrow with the reason when the function would change, VacuousComparison for dead or constant networks,
    UnknownTensor for a path that does not exist.

    Net2DeeperNet (Chen et al. 2016) knows the first kind; the zero residual is Gesmundo & Maile's (2023) layer insertion.

    >>> import torch, weightlapse as wl
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> wl.deepen(net, torch.randn(16, 4), after="0").error
    0.0
    """
    if kind not in KINDS:
        raise InvalidArgument(f"kind must be one of {', '.join(map(repr, KINDS))}; got {kind!r}")
    if noise < 0 or not np.isfinite(noise):
        raise InvalidArgument(f"noise must be a finite number of standard deviations, 0 or more; got {noise!r}")
    examples = examples_of(examples, example)
    if not examples:
        raise InvalidArgument("give at least one example input: the result is certified on it")
    if is_foreign(model):
        if not is_keras(model):
            raise CannotGrow(
                f"{type(model).__name__} is a network of JAX, whose order of layers is written in its code: write the deeper one, and let wl.compare judge it; "
                "wl.widen and wl.narrow do change the sizes of its layers"
            )
        from weightlapse.growth.keras_deepen import deepened

        return deepened(model, examples, after, kind=kind, optimizer=optimizer, noise=noise, width=width, seed=seed)
    if optimizer is not None:
        powers_of(optimizer)
    model, notes = unwrapped(model)
    layer = _module_at(model, after)
    check_finite(model)
    trial = Trial.of(model, examples, share=False)
    draw = seed if seed is not None else int(torch.randint(0, 2**31, ()).item())
    how, grow = _recipe(model, layer, after, kind, examples, trial, width, draw)
    deeper = grow(model, examples)
    _refuse_unused(deeper, examples)
    calibrated = any(
        isinstance(m, nn.modules.batchnorm._BatchNorm)
        for p in deeper.new_paths
        for m in [deeper.model.get_submodule(p)]
    )
    checks = trial.checks(
        lambda old: grow(old, trial.examples).model,
        deeper.model,
        lambda _inputs, mode: not (calibrated and mode == "train"),
    )
    limits = {"own": trial.tolerance, "randomised": trial.tolerance}
    if calibrated and next(deeper.model.parameters()).dtype != torch.float64:
        limits["own"] = max(trial.tolerance, 1e-5)
        deeper.said.append("the new norm undoes its statistics up to the rounding of this dtype; in float64 to 1e-12")
    worst = max((c for c in checks if c.binding), key=lambda c: c.error / limits[c.weights])
    if not trial.allows(worst, limits[worst.weights]):
        raise CannotGrow(
            f"{how} after {after!r} would change the function by {worst.error:.1e} "
            f"({worst.mode} mode, {worst.inputs}, {worst.weights} weights)"
        )
    if noise:
        _add_noise(deeper, layer, noise, draw)
        checks = trial.checks(copied, deeper.model, own_only=True)
    carried = None
    if optimizer is not None:
        known = {new: old for new, old in deeper.origin.items() if old is not None}
        carried = rebuilt(optimizer, known, model, deeper.model, lambda _n, _k, value: value.clone(), deeper.host)
    certificate = Certificate(
        checks=tuple(checks),
        tolerance=float("inf") if noise else max(trial.tolerance, *limits.values()),
        live={},
        parameters=(parameter_count(model), parameter_count(deeper.model)),
        notes=(*notes, *trial.notes, *deeper.said),
    )
    return Growth(deeper.model, carried, {}, certificate, {}, deeper.origin, note=f"{how} after {after}")


Grow = Callable[[nn.Module, Sequence[Any]], Deeper]


def _recipe(
    model: nn.Module,
    layer: nn.Module,
    after: str,
    kind: str,
    examples: Sequence[Any],
    trial: Trial,
    width: int | None,
    seed: int,
) -> tuple[str, Grow]:
    """What to do, in words, and the function that does it to the model or to a twin with other weights."""
    simple = is_linear(layer) or isinstance(layer, nn.modules.conv._ConvNd)
    if kind == "block" or (kind == "auto" and not simple and any(True for _ in layer.children())):
        return "a block that does nothing", lambda m, e: _with_block(m, after, e)
    if not simple:
        raise InvalidArgument(
            f"after must name a linear layer, a convolution or a residual block; {after!r} is a {type(layer).__name__}"
        )
    following = what_follows(trial.doubles["own"], after, trial.examples)
    if kind == "identity" or (kind == "auto" and following.idempotent):
        _refuse_identity(following, after)
        return "an identity layer", lambda m, e: _with_identity(m, after, e)
    activation = following.activation if following.activation is not None else nn.ReLU()
    return "a residual insert", lambda m, _e: _with_residual(m, after, copy.deepcopy(activation), width, seed)


def _refuse_identity(following: Following, after: str) -> None:
    if following.activation is None:
        reads = (
            f"its output goes to {', '.join(dict.fromkeys(following.others))}"
            if following.others
            else "no activation follows"
        )
        raise CannotGrow(f"an identity layer after {after!r} is not possible: {reads}; kind='residual' is exact there")
    if not following.idempotent:
        act = type(following.activation).__name__
        raise CannotGrow(
            f"an identity layer after {after!r} would change the function: {act} follows, and {act}({act}(x)) is not {act}(x); "
            "kind='residual' is exact there"
        )


def _with_identity(model: nn.Module, after: str, examples: Sequence[Any]) -> Deeper:
    grown = copied(model)
    following = what_follows(grown, after, examples)
    _refuse_identity(following, after)
    grown.train(model.training)
    _restore_modes(model, grown)
    layer, last = grown.get_submodule(after), grown.get_submodule(following.last)
    assert following.activation is not None
    parts: list[nn.Module] = [last, following.activation, identity_like(layer, bias=not following.norm)]
    if following.norm:
        seen = torch.cat(
            [_by_channel(following.activation(r.double()), is_linear(layer)) for r in following.results], dim=1
        )
        parts.append(calibrated_norm(layer, seen.mean(1), seen.var(1, unbiased=False)))
    return _wrapped(model, grown, following.last, nn.Sequential(*parts), after, list(range(2, len(parts))))


def _by_channel(values: torch.Tensor, last: bool) -> torch.Tensor:
    axis = -1 if last else 1
    return values.movedim(axis, 0).reshape(values.shape[axis], -1)


def _with_residual(model: nn.Module, after: str, activation: nn.Module, width: int | None, seed: int) -> Deeper:
    grown = copied(model)
    layer = grown.get_submodule(after)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        insert = zero_residual(layer, activation, width)
    return _wrapped(model, grown, after, nn.Sequential(layer, insert), after, [1])


def _wrapped(old: nn.Module, grown: nn.Module, path: str, wrapper: nn.Sequential, after: str, new: list[int]) -> Deeper:
    """``wrapper`` put in place of the module at ``path``, which is its first part, wherever that module is registered."""
    inner = wrapper[0]
    wrapper.training = inner.training
    for part in wrapper[1:]:
        part.train(inner.training)
    names = dict(zip(tensors_of(old), tensors_of(grown), strict=True))
    held = {id(t): name for name, (t, _) in tensors_of(grown).items()}
    for module in [m for m in grown.modules() if m is not inner]:
        for name, child in list(module._modules.items()):
            if child is inner and module is not wrapper:
                module._modules[name] = wrapper
    back = {new_name: old_name for old_name, new_name in names.items()}
    origin = {name: back.get(held.get(id(t), "")) for name, (t, _) in tensors_of(grown).items()}
    anchor = f"{after}.weight"
    host = {n: anchor for n, o in origin.items() if o is None and isinstance(tensors_of(grown)[n][0], nn.Parameter)}
    return Deeper(grown, [f"{path}.{i}" for i in new], origin, host)


def _with_block(model: nn.Module, after: str, examples: Sequence[Any]) -> Deeper:
    grown = copied(model)
    before = {id(t): name for name, (t, _) in zip(tensors_of(model), tensors_of(grown).values(), strict=True)}
    calls = calls_of(grown, after, examples)
    if not calls:
        raise CannotGrow(f"{after!r} is never called on the examples, so nothing is known of it")
    _restore_modes(model, grown)
    block = copied(grown.get_submodule(after))
    for old, new in zip(grown.get_submodule(after).modules(), block.modules(), strict=True):
        if hasattr(old, "config"):
            new.config = old.config  # one config for all blocks, as before
    ends = silenced(block, calls, repr(after))
    _restore_modes(grown.get_submodule(after), block)
    source = {id(t): f"{after}.{name}" for name, (t, _) in tensors_of(block).items()}
    parent_path, _, leaf = after.rpartition(".")
    parent = grown.get_submodule(parent_path) if parent_path else grown
    said = [f"the new block's {', '.join(ends)} are zero"]
    if isinstance(parent, (nn.ModuleList, nn.Sequential)):
        at = int(leaf) + 1
        parent.insert(at, block)
        new_path = f"{parent_path}.{at}".lstrip(".")
        said += _renumbered(grown, parent, parent_path, at)
    else:
        parent._modules[leaf] = Chain(grown.get_submodule(after), block)
        new_path = f"{after}.second"
    tensors = tensors_of(grown)
    origin = {name: before.get(id(t)) for name, (t, _) in tensors.items()}
    host = {
        name: source[id(t)]
        for name, (t, _) in tensors.items()
        if origin[name] is None and id(t) in source and isinstance(t, nn.Parameter)
    }
    return Deeper(grown, [new_path], origin, host, said)


def _renumbered(model: nn.Module, blocks: Any, path: str, at: int) -> list[str]:
    """Layer counts in configs and owners, and the positions that blocks remember, after one was inserted."""
    said = []
    count = len(blocks)
    owner = model.get_submodule(path.rpartition(".")[0]) if "." in path else model
    holders = {id(vars(m)): vars(m) for m in (owner,)} | {
        id(vars(m.config)): vars(m.config) for m in model.modules() if hasattr(getattr(m, "config", None), "__dict__")
    }
    for held in holders.values():
        for name in _COUNTS:
            if held.get(name) == count - 1:
                held[name] = count
                said.append(f"set {name}: {count - 1} -> {count}")
        for name, value in held.items():
            if "layer" in name and isinstance(value, list) and len(value) == count - 1:
                held[name] = [
                    *value[:at],
                    value[at - 1],
                    *value[at:],
                ]  # one entry per block: the new one is as its source
                said.append(f"set {name}: the entry of block {at - 1} twice")
    for position, block in enumerate(blocks):
        for module in block.modules():
            for name in _POSITIONS:
                if type(getattr(module, name, None)) is int:
                    setattr(module, name, position)
    return said


def _refuse_unused(deeper: Deeper, examples: Sequence[Any]) -> None:
    for path in deeper.new_paths:
        try:
            calls = calls_of(copied(deeper.model), path, examples)
        except Exception as error:
            raise CannotGrow(
                f"the network does not run with the new layer {path!r} ({type(error).__name__}: {error}): "
                "its code looks into the module that was wrapped"
            ) from error
        if not calls:
            raise CannotGrow(
                f"the new layer {path!r} would never be called: the network's code does not run what was inserted"
            )


def _add_noise(deeper: Deeper, layer: nn.Module, noise: float, seed: int) -> None:
    weight: Any = layer.weight if hasattr(layer, "weight") else next(layer.parameters())
    spread = float(weight.detach().double().std())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, (tensor, _) in tensors_of(deeper.model).items():
            if deeper.origin[name] is None and isinstance(tensor, nn.Parameter) and tensor.ndim > 1:
                draw = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.add_((noise * spread * draw).to(tensor))


def _restore_modes(source: nn.Module, target: nn.Module) -> None:
    for a, b in zip(source.modules(), target.modules(), strict=True):
        b.training = a.training


def _module_at(model: nn.Module, path: str) -> nn.Module:
    paths = {name: module for name, module in model.named_modules() if name}
    if path not in paths:
        raise UnknownTensor(f"the model has no module {path!r} ({closest(path, paths)})")
    return paths[path]

"""Two networks run under equal conditions: float64, the same random draws, dropout off, nothing of the caller touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from weightlapse.errors import CannotGrow
from weightlapse.growth.module import Slot, copied, tensors_of
from weightlapse.wiring.double import Double, in_double, is_product, with_wide_parts
from weightlapse.wiring.twin import twin

_DROPOUTS = {
    getattr(nn.functional, name)
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
} | {torch.dropout, torch.dropout_, torch.alpha_dropout, torch.feature_dropout}


# How a network is run: on its own weights, widened as they are read; as a copy in float64; as a copy in float32.
HOW = ("widened", "float64", "float32")
_WIDENED = "_weightlapse_widened"  # set on twins that must be run in double precision


def prepared(model: nn.Module, how: str) -> nn.Module:
    """A network to run in place of ``model``, whose dropout modules do nothing.

    "widened" is a twin over the same weights, which `call` runs in double precision; the other two of `HOW` are copies.
    """
    if how == "widened":
        other = sharing(model)
    else:
        other = copied(model)
        other = other.double() if how == "float64" else other.float()
        for tensor, _ in tensors_of(other).values():
            if tensor.is_complex():
                tensor.data = tensor.data.to(torch.complex128 if how == "float64" else torch.complex64)
    for module in other.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
            module.dropout = 0.0
    return other


def sharing(model: nn.Module) -> nn.Module:
    """A twin of a network that is run widened: modules and buffers of its own, over the same weights."""
    other = with_wide_parts(twin(model))
    vars(other)[_WIDENED] = True
    return other


def base_of(model: nn.Module) -> nn.Module:
    """What a changed network starts from: a twin of one that is run widened, a copy of its own of the user's."""
    return sharing(model) if is_widened(model) else copied(model)


def is_widened(model: nn.Module) -> bool:
    """Whether this is a twin of :func:`sharing`, over the weights of another, which :func:`running` runs in double precision."""
    return _WIDENED in vars(model)


def running(model: nn.Module) -> AbstractContextManager[Double | None]:
    """The context in which a prepared network, or a part of it, is run."""
    return in_double(kept=list(model.parameters())) if is_widened(model) else nullcontext()


def working_dtype(how: str) -> torch.dtype:
    """The precision in which two networks are compared: double, unless one of their operations exists in single only."""
    return torch.float32 if how == "float32" else torch.float64


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """``value`` with every tensor inside its tuples, lists and mappings changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return value._replace(data=change(value.data))
    if isinstance(value, tuple):
        changed = [map_tensors(v, change) for v in value]
        return type(value)(*changed) if hasattr(value, "_fields") else type(value)(changed)
    if isinstance(value, list):
        return [map_tensors(v, change) for v in value]
    if isinstance(value, Mapping):
        return {k: map_tensors(v, change) for k, v in value.items()}
    return value


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Every tensor in an output, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in tensors_in(v)]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in tensors_in(v)]
    if is_dataclass(value) and not isinstance(value, type):
        return [t for f in fields(value) for t in tensors_in(getattr(value, f.name))]
    return []


def in_precision(example: Any, precision: torch.dtype) -> Any:
    """``example`` in ``precision``, whole numbers as they are."""

    def changed(t: torch.Tensor) -> torch.Tensor:
        t = t.detach()
        return t.to(precision) if t.is_floating_point() else t.to(precision.to_complex()) if t.is_complex() else t

    return map_tensors(example, changed)


def random_like(example: Any, generator: torch.Generator) -> Any:
    """Random inputs of the same shapes: normal with the example's mean and spread, whole numbers from its range.

    Where that would give the example again (whole numbers that are all alike), they are drawn from 0 to at least 1.
    """
    drawn = map_tensors(example, lambda t: _drawn(t, generator, wider=False))
    pairs = zip(tensors_in(example), tensors_in(drawn), strict=True)
    if all(torch.equal(a, b) for a, b in pairs if a.layout is torch.strided):
        drawn = map_tensors(example, lambda t: _drawn(t, generator, wider=True))
    return drawn


def _drawn(t: torch.Tensor, generator: torch.Generator, *, wider: bool) -> torch.Tensor:
    if t.is_complex() or t.numel() == 0 or t.layout is not torch.strided:
        return t
    if t.is_floating_point():
        spread = t.double().std().item() if t.numel() > 1 else 0.0
        noise = torch.randn(t.shape, generator=generator, dtype=torch.float64) * (spread or 1.0)
        return (noise + t.double().mean().item()).to(device=t.device, dtype=t.dtype)
    low, high = (0, max(1, int(t.max()))) if wider else (int(t.min()), int(t.max()))
    return torch.randint(low, high + 1, t.shape, generator=generator).to(device=t.device, dtype=t.dtype)


def call(model: nn.Module, example: Any) -> Any:
    """The model on one example: a tuple is its positional arguments, a mapping its keyword arguments."""
    example = map_tensors(example, lambda t: t.clone())
    with running(model) as double:
        if double is not None:
            _LAST[model] = double
        if isinstance(example, tuple) and not hasattr(example, "_fields"):
            return model(*example)
        if isinstance(example, Mapping):
            return model(**example)
        return model(example)


_LAST: WeakKeyDictionary[nn.Module, Double] = WeakKeyDictionary()


def last_run(model: nn.Module) -> Double | None:
    """What was seen when a widened network was last run; None for others."""
    return _LAST.get(model)


@contextmanager
def same_draws(seed: int = 0) -> Iterator[None]:
    """Seeds torch's generator for the block and puts its state back."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def outputs(model: nn.Module, example: Any, *, train: bool = False, seed: int = 0) -> list[torch.Tensor]:
    """The output tensors of one run without gradients, dropout off. In train mode the buffers move: give a copy."""
    model.train(train)
    with torch.no_grad(), same_draws(seed), _NoDropout():
        return [t.detach() for t in tensors_in(call(model, example))]


class _NoDropout(TorchFunctionMode):
    """Functional dropout does nothing: replicas would drop out apart from each other."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func is nn.functional.scaled_dot_product_attention:
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs = kwargs | ({"dropout_p": 0.0} if "dropout_p" in kwargs else {})
        return func(*args, **kwargs)


class Precision(TorchDispatchMode):
    """Notes whether anything is computed in less than double precision, and counts the products."""

    low: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise the first use imports torch._dynamo, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.products += is_product(func)
        for t in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(t, torch.Tensor) and t.is_floating_point() and t.dtype != torch.float64 and t.numel() > 1:
                self.low = True
        return result


class Shaken(TorchDispatchMode):
    """Changes the last bit of about every third number that a matrix product or a convolution puts out: rounding, made visible."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in `Precision`

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if is_product(func):
            for t in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(t, torch.Tensor) and t.is_floating_point():
                    signs = torch.randint(-1, 2, t.shape, generator=self._generator).to(t.device)
                    t.mul_(1.0 + torch.finfo(t.dtype).eps * signs.to(t.dtype))
        return result


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy (a twin, of a network that is run widened) whose biases, gains, norm statistics and constant tensors are random: at
    their defaults they hide every error.

    (A forgotten bias shows only where the bias is not zero, a forgotten gain only where it is not one.)
    """
    other = base_of(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, (tensor, slots) in tensors_of(other).items():
            if not tensor.is_floating_point() or tensor.numel() == 0:
                continue
            leaf = name.rpartition(".")[2]
            statistic = "running_var" in leaf or "running_mean" in leaf
            if not statistic and not (isinstance(tensor, nn.Parameter) and (tensor.ndim < 2 or _is_constant(tensor))):
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
            if "running_var" in leaf:
                new = 0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
            else:
                new = 0.5 * noise if statistic else tensor.double() + 0.3 * noise
            if is_widened(model):
                put(slots, tensor, new)
            else:
                tensor.copy_(new)
    return other


def _is_constant(t: torch.Tensor) -> bool:
    some = t.flatten()[:64] if t.is_contiguous() else t
    return bool((some == some.flatten()[0]).all()) and bool((t == t.flatten()[0]).all())


def with_slopes(model: nn.Module, names: Sequence[str]) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A twin in eval mode in which only the tensors ``names`` need gradients, and these tensors, in double precision.

    Names that it does not hold, and tensors of whole numbers, are left out.
    """
    other = base_of(model)
    other.eval()
    for p in other.parameters():
        p.requires_grad_(False)
    held = tensors_of(other)
    found: dict[str, torch.Tensor] = {}
    for name in names:
        if name in held and (held[name][0].is_floating_point() or held[name][0].is_complex()):
            old, slots = held[name]
            if is_widened(model):
                old = put(slots, old, old.detach().to(torch.complex128 if old.is_complex() else torch.float64))
            found[name] = old.requires_grad_(True)
    return other, found


def put(slots: list[Slot], old: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Registers ``values``, in their own precision, wherever ``old`` stands; returns what was registered."""
    new = nn.Parameter(values, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else values
    for module, attribute in slots:
        setattr(module, attribute, new)
    return new


def check_finite(model: nn.Module) -> None:
    """Raises CannotGrow, naming the tensor, where a parameter holds NaN or Inf, or a buffer NaN, or one lies on the meta device."""
    for name, (t, _) in tensors_of(model).items():
        if t.is_meta:
            raise CannotGrow(
                f"{name} is on the meta device: it has a shape but no values, so nothing can be copied or proved; "
                "load the weights first (model.to_empty(device='cpu'), then load_state_dict)"
            )
        if not (t.is_floating_point() or t.is_complex()) or t.layout is not torch.strided:
            continue
        values = t.detach()
        if not isinstance(t, nn.Parameter) and not bool(torch.isnan(values).any()):  # masks hold infinities
            continue
        if values.numel() and not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
            bad = ~torch.isfinite(values)
            kind = "NaN" if bool(torch.isnan(values).any()) else "Inf"
            raise CannotGrow(
                f"{name} holds {kind} ({int(bad.sum())} of {values.numel()} values, the first at {bad.nonzero()[0].tolist()}), so the network's "
                "outputs prove nothing and a wider one would hold more of it; go back to a step before that"
            )

"""What can be seen of a torch network besides its weights: what is frozen or shared, what the optimizer does, where its activations lie.

The forward runs in eval mode without gradients on a structural twin (``wiring/twin.py``); random states stay as they were. Gradients are
read where they lie after the update. Nothing of the training is changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from weightlapse.adapters.activations import EDGE, MOST_UNITS, activation_facts
from weightlapse.adapters.torch import _parameters, _walk, unwrap
from weightlapse.wiring.record import as_call, quietly
from weightlapse.wiring.twin import at_rest

SILENT = 1e-9  # of the median row: below it a gradient is rounding of what is zero
_AXIS_ONE = ("Conv", "BatchNorm", "GroupNorm", "InstanceNorm", "LazyConv", "LazyBatchNorm", "ConvTranspose")


class TorchObserver:
    """Looks at ``model()`` and ``optimizers()`` when asked; ``example`` as in :func:`weightlapse.watch`."""

    def __init__(self, model: Callable[[], Any], example: Any, optimizers: Callable[[], Sequence[Any]]) -> None:
        self._model = model
        self._call = None if example is None else as_call(example)
        self._optimizers = optimizers
        self._told: dict[str, Any] = {}  # what holds until it changes

    def look(self) -> dict[str, Any]:
        """JSON facts, see "Observations" in ``docs/format.md``; empty when there is nothing to say.

        What is still being computed on a device is a function that waits for it and returns the fact, or None: not to be called by who trains.
        """
        module = unwrap(self._model())
        places = _parameters(module)
        names = {id(place.tensor): place.name for place, _ in places}
        tensors = {place.name: place.tensor for place, _ in places}
        seen: dict[str, Any] = {
            "frozen": [name for name, t in tensors.items() if not t.requires_grad],
            "groups": list(_groups(self._optimizers(), names)),
            "shared": _shared(module),
        }
        seen = {key: value for key, value in seen.items() if self._told.get(key, []) != value}
        self._told.update(seen)
        gradients = _gradients(tensors)
        if gradients is not None:
            seen["gradients"] = gradients
        if self._call is not None:
            seen["activations"] = _activations(module, *self._call)
        return seen


def _groups(optimizers: Iterable[Any], names: dict[int, str]) -> Iterator[dict[str, Any]]:
    """What each parameter group is moved by, in plain numbers."""
    for optimizer in optimizers:
        for group in getattr(optimizer, "param_groups", ()):
            held = [names[id(p)] for p in group["params"] if id(p) in names]
            numbers = {"lr": group.get("lr"), "weight_decay": group.get("weight_decay"), "eps": group.get("eps")}
            momentum = group.get("momentum", (group.get("betas") or (None,))[0])
            kind = type(optimizer).__name__
            decoupled = bool(group.get("decoupled_weight_decay", kind in ("AdamW", "SGDW", "Lion", "Adafactor")))
            yield {
                "optimizer": kind,
                "decoupled": decoupled,
                "names": held,
                **{k: _number(v) for k, v in {**numbers, "momentum": momentum}.items()},
            }


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


def _shared(module: nn.Module) -> list[list[str]]:
    """Pairs of names of one parameter that two layers of the same kind use, where the model does not declare that it is meant.

    Two layers that share a parameter, or one layer that stands twice in the same list of layers. Not: an embedding and the layer that reads it
    out, one module that two parts of the model know by name.
    """
    declared = [str(key) for m in module.modules() for key in (getattr(m, "_tied_weights_keys", None) or ())]
    first: dict[int, tuple[str, nn.Module, str]] = {}
    pairs = []
    for prefix, owner in _walk(module):
        for key, tensor in owner._parameters.items():
            if tensor is None:
                continue
            name = prefix + key
            known = first.setdefault(id(tensor), (name, owner, prefix))
            other_name, other, other_prefix = known
            if name == other_name or type(owner) is not type(other) or tensor.ndim < 2:
                continue
            twice = other is not owner or _list_of(other_prefix) == _list_of(prefix) != ""
            if twice and not any(name.endswith(d) or other_name.endswith(d) for d in declared):
                pairs.append([other_name, name])
    return pairs


def _list_of(prefix: str) -> str:
    """``blocks`` of ``blocks.3.``: the list that a layer stands in by its number; the prefix must end in one."""
    parts = prefix.rstrip(".").split(".")
    numbered = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbered[-1]]) + "." if numbered else ""


def _gradients(tensors: dict[str, Tensor]) -> Callable[[], dict[str, Any] | None] | None:
    """Of each weight that has a gradient its norm, and the rows without one. The sizes of the rows are queued here, and nothing is waited for."""
    names: list[str] = []
    sizes: dict[torch.device, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        gradient = tensor.grad
        if gradient is None or gradient.layout is not torch.strided or gradient.ndim == 0 or gradient.is_meta:
            continue
        rows = gradient.detach().reshape(gradient.shape[0], -1)
        rows = rows.abs() if rows.is_complex() else rows
        sizes.setdefault(rows.device, {})[name] = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32)
        names.append(name)
    if not names:
        return None
    coming = [
        ({name: len(rows) for name, rows in parts.items()}, _coming(device, [*parts.values()]))
        for device, parts in sizes.items()
    ]

    def arrived() -> dict[str, Any] | None:
        rows = {
            name: part for lengths, values in coming for name, part in zip(lengths, values().split([*lengths.values()]))
        }
        found = {name: _gradient(rows[name]) for name in names}
        return {name: fact for name, fact in found.items() if fact is not None} or None

    return arrived


def _coming(device: torch.device, parts: list[Tensor]) -> Callable[[], Tensor]:
    """The values (n,) of all parts in memory: the copy is begun, and waited for when they are asked for."""
    values = torch.cat(parts)
    if device.type != "cuda":
        return values.cpu
    here = torch.empty(len(values), dtype=values.dtype, pin_memory=True)
    here.copy_(values, non_blocking=True)
    there = torch.cuda.Event()
    there.record(torch.cuda.current_stream(device))

    def wait() -> Tensor:
        there.synchronize()
        return here

    return wait


def _gradient(rows: Tensor) -> dict[str, Any] | None:
    norm = float(torch.linalg.vector_norm(rows))
    if not math.isfinite(norm):
        return None
    usual = float(rows[rows > 0].median()) if bool((rows > 0).any()) else 0.0
    without = torch.nonzero(rows <= SILENT * usual).flatten().tolist()
    return {"norm": norm, "without": without[:MOST_UNITS]}


# ---- activations ---------------------------------------------------------------------------------------------------

_Flat = Callable[[Tensor], Tensor]  # which values of an output lie where the slope is (nearly) zero
_FLAT: dict[str, _Flat] = {
    "relu": lambda y: y <= 0,
    "tanh": lambda y: y.abs() > EDGE,
    "sigmoid": lambda y: (y - 0.5).abs() > EDGE / 2,
    "hardtanh": lambda y: (y <= y.min()) | (y >= y.max()),
}


class _Looking(TorchDispatchMode):
    """Sees every activation that runs, as a module or as a function, with the layer that ran before it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []
        self.layer: tuple[str, nn.Module] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        op = func.overloadpacket.__name__.rstrip("_")
        if op in _FLAT and isinstance(result, Tensor) and self.layer is not None and result.ndim >= 2:
            self.found.append(_summary(self.layer, op, result))
        return result


def _summary(layer: tuple[str, nn.Module], op: str, values: Tensor) -> dict[str, Any]:
    name, module = layer
    axis = 1 if type(module).__name__.startswith(_AXIS_ONE) else values.ndim - 1
    flat = _FLAT[op](values).movedim(axis, 0).flatten(1)
    off = torch.nonzero(flat.all(dim=1)).flatten().tolist()
    return activation_facts(name, op, flat.shape[0], float(flat.float().mean()), off)


def _activations(module: nn.Module, args: Any, kwargs: Any) -> list[dict[str, Any]]:
    subject = at_rest(module)
    looking = _Looking()
    handles = []
    try:
        for prefix, part in _walk(subject):
            if any(True for _ in part.parameters(recurse=False)):

                def ran(owner: nn.Module, *_: Any, name: str = prefix.rstrip(".")) -> None:
                    looking.layer = (name, owner)

                handles.append(part.register_forward_hook(ran))
        with quietly(), looking:
            subject(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return looking.found

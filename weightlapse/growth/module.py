"""A module and its tensors: unwrap it, copy it, put other tensors into the copy. The argument is never touched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weightlapse.errors import CannotGrow, InvalidArgument
from weightlapse.wiring.programs.program import array_of

Slot = tuple[nn.Module, str]  # a module and the attribute under which it holds a tensor
Array = NDArray[Any]
Change = Callable[[str, Array, str], Array]  # name, values, dtype name -> values of the new shape


def unwrapped(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The module inside ``torch.compile``, DataParallel and DistributedDataParallel, and a note for each wrapper taken off.

    Raises CannotGrow for modules whose tensors cannot be replaced: scripted, sharded, lazy.
    """
    if not isinstance(model, nn.Module):
        raise InvalidArgument(f"model must be a torch.nn.Module, got {type(model).__name__}")
    notes: list[str] = []
    while True:
        kind = type(model).__name__
        if kind == "OptimizedModule":
            inner: Any = model._orig_mod
        elif kind in ("DataParallel", "DistributedDataParallel"):
            inner = model.module
        else:
            break
        notes.append(f"the {kind} wrapper was taken off; wrap the grown model again")
        model = inner
    for path, module in model.named_modules():
        place = path or "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise CannotGrow(
                f"{place} is a scripted module, whose tensors cannot be replaced; change it before scripting"
            )
        if type(module).__name__ == "FullyShardedDataParallel":
            raise CannotGrow(f"{place} is sharded (FSDP); do this to the whole model before sharding it")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedTensorMixin):
            raise CannotGrow(f"{name} has no shape yet (lazy module); run the model once first")
        if hasattr(parameter, "device_mesh"):
            raise CannotGrow(f"{name} is a distributed tensor; do this to the whole model before sharding it")
    return model, tuple(notes)


def tensors_of(model: nn.Module) -> dict[str, tuple[torch.Tensor, list[Slot]]]:
    """Every parameter and buffer under the first of its names, with all the places where it is registered."""
    found: dict[int, tuple[str, torch.Tensor, list[Slot]]] = {}
    for path, module in model.named_modules():
        for attribute, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                name = f"{path}.{attribute}" if path else attribute
                found.setdefault(id(tensor), (name, tensor, []))[2].append((module, attribute))
    return {name: (tensor, slots) for name, tensor, slots in found.values()}


def parameter_count(model: nn.Module) -> int:
    """Numbers that are trained; a shared one counts once."""
    return sum(p.numel() for p in model.parameters())


def copied(model: nn.Module) -> nn.Module:
    """A deep copy with the gradients and Python attributes of the parameters; CannotGrow when the model cannot be copied."""
    try:
        twin = copy.deepcopy(model)
    except Exception as error:
        raise CannotGrow(
            f"the model cannot be copied ({type(error).__name__}: {error}), and the original must not be touched"
        ) from error
    copies = tensors_of(twin)
    for name, (old, _) in tensors_of(model).items():
        new = copies[name][0]
        _carry_attributes(old, new)
        new.grad = None if old.grad is None else old.grad.detach().clone()
    return twin


def replace_tensor(slots: list[Slot], old: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Registers ``values`` in place of ``old`` wherever it stands (tied weights stay tied) and returns what was registered."""
    new: torch.Tensor = values.to(device=old.device, dtype=old.dtype)
    if old.ndim == 4 and old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous():
        new = new.contiguous(memory_format=torch.channels_last)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    else:
        new.requires_grad_(old.requires_grad)
    _carry_attributes(old, new)
    for module, attribute in slots:
        setattr(
            module, attribute, new
        )  # not register_parameter: recurrent layers keep a second list, which setattr renews
    return new


def changed_tensor(name: str, tensor: torch.Tensor, change: Change) -> torch.Tensor:
    """``change`` applied to the values of ``tensor``, in its dtype (bfloat16 goes through float32, which holds it exactly)."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype.startswith("float8") or tensor.is_quantized or tensor.layout is not torch.strided:
        raise CannotGrow(
            f"{name} is stored as {dtype} ({tensor.layout}), which cannot be resized exactly; convert it first"
        )
    grown = np.ascontiguousarray(change(name, array_of(tensor.cpu()), dtype))
    return torch.from_numpy(grown).to(device=tensor.device, dtype=tensor.dtype)


def _carry_attributes(old: torch.Tensor, new: torch.Tensor) -> None:
    for key, value in vars(old).items():
        if not hasattr(new, key):
            setattr(new, key, value)


def with_tensors(model: nn.Module, names: Iterable[str], value: Change, gradient: Change) -> nn.Module:
    """Changes, in place, the tensors ``names`` of a copy of the user's model, and their gradients with them; returns it."""
    held = tensors_of(model)
    for name in names:
        if name not in held:
            raise CannotGrow(f"the wiring speaks of {name}, which the model does not hold as a parameter or buffer")
        tensor, slots = held[name]
        new = replace_tensor(slots, tensor, changed_tensor(name, tensor, value))
        if tensor.grad is not None:
            new.grad = changed_tensor(name, tensor.grad, gradient)
    return model

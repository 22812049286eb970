"""What the layers that read a group's units are given: which units never change, and how their value moves into biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weightlapse.growth.families import Family
from weightlapse.growth.layers import is_linear
from weightlapse.growth.module import replace_tensor, tensors_of
from weightlapse.growth.running import outputs, random_like
from weightlapse.wiring.members import Member

_MORE = 4  # further random inputs per example: a unit that fires rarely shall not be taken for dead
Values = Mapping[str, NDArray[Any]]  # consumer tensor -> the constant at each position of the unit


def constant_units(trial: Any, family: Family) -> dict[int, Values]:
    """Units that are the same for every input of ``trial`` and some more random ones, with what each of their readers is given.

    Only where every reader is a linear layer or a convolution, and can take the constant up: a zero always, another value in a
    bias, behind a convolution only without padding (at the border the unit is missing).
    """
    model = trial.doubles["own"]
    readers = [(m, _reader(model, m)) for m in family.members if "in" in m.roles]
    if not readers or any(layer is None for _, layer in readers):
        return {}
    ranges = _ranges(trial, model, [(m, layer) for m, layer in readers if layer is not None])
    found: dict[int, Values] = {}
    for unit in range(family.size):
        values: dict[str, NDArray[Any]] = {}
        for member, layer in readers:
            low, high = ranges.get(member.tensor, (None, None))
            if low is None or high is None or layer is None:
                break
            at = member.index[unit]
            zero = not (low[at].any() or high[at].any())
            if not (np.array_equal(low[at], high[at]) and (zero or _takes_up(layer))):
                break
            values[member.tensor] = low[at]
        else:
            found[unit] = values
    return found


def fold_constants(model: nn.Module, constants: Sequence[tuple[Family, Mapping[int, Values]]]) -> nn.Module:
    """Adds, in place, to every reader's bias what the constant units give it; returns ``model``."""
    held = tensors_of(model)
    with torch.no_grad():
        for family, units in constants:
            for member in (m for m in family.members if "in" in m.roles and units):
                weight, slots = held[member.tensor]
                layer: Any = slots[0][0]
                total = torch.zeros(
                    layer.bias.shape if layer.bias is not None else (), dtype=torch.float64, device=weight.device
                )
                for unit, values in units.items():
                    if np.any(values[member.tensor]):
                        at = torch.as_tensor(member.index[unit], device=weight.device)
                        columns = weight.double().movedim(member.axis, -1)[..., at] @ torch.as_tensor(
                            values[member.tensor]
                        ).to(device=weight.device, dtype=torch.float64)
                        total = total + columns.reshape(columns.shape[0], -1).sum(1)
                if layer.bias is not None:  # registered anew: the network may share it with another
                    replace_tensor(
                        next(s for t, s in held.values() if t is layer.bias), layer.bias, layer.bias.double() + total
                    )
                    held = tensors_of(model)
    return model


def _reader(model: nn.Module, member: Member) -> nn.Module | None:
    for name, (_, slots) in tensors_of(model).items():
        if name == member.tensor and len(slots) == 1:
            layer, attribute = slots[0]
            plain_conv = isinstance(layer, nn.modules.conv._ConvNd) and not layer.transposed and layer.groups == 1
            if attribute == "weight" and isinstance(layer, nn.Linear) and member.axis == 1:
                return layer
            if attribute == "weight" and plain_conv and member.axis == 1:
                return layer
    return None


def _takes_up(layer: nn.Module) -> bool:
    if layer.bias is None:
        return False
    padding: Any = 0 if is_linear(layer) else layer.padding
    return is_linear(layer) or padding == "valid" or (not isinstance(padding, str) and not any(padding))


def _ranges(
    trial: Any, model: nn.Module, readers: Sequence[tuple[Member, nn.Module]]
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Smallest and largest input of every reader at each position, over all rounds with the network's own weights."""
    ranges: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}

    def watch(tensor: str, layer: nn.Module) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].detach()
            axis = -1 if is_linear(layer) else x.ndim - len(layer.kernel_size) - 1  # type: ignore[arg-type]
            rows = x.movedim(axis, 0).reshape(x.shape[axis], -1)
            low, high = rows.amin(1).cpu().numpy(), rows.amax(1).cpu().numpy()
            if tensor in ranges:
                low, high = np.minimum(low, ranges[tensor][0]), np.maximum(high, ranges[tensor][1])
            ranges[tensor] = (low, high)

        return layer.register_forward_pre_hook(hook)

    handles = [watch(m.tensor, layer) for m, layer in readers]
    runs = [(mode, example) for _, mode, weights, _, example, _ in trial.rounds if weights == "own"]
    generator = torch.Generator().manual_seed(1)
    more = [("eval", random_like(example, generator)) for _, example in runs for _ in range(_MORE)]
    try:
        for mode, example in runs + more:
            _run(model, example, mode)
    finally:
        for handle in handles:
            handle.remove()
    return ranges


def _run(model: nn.Module, example: Any, mode: str) -> None:
    kept = {id(t): t.detach().clone() for t, _ in tensors_of(model).values() if not isinstance(t, nn.Parameter)}
    outputs(model, example, train=mode == "train")
    with torch.no_grad():
        for t, _ in tensors_of(model).values():
            if id(t) in kept:
                t.copy_(kept[id(t)])

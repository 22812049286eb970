"""Units of a program that never change, told by gradients: no layer is known there, whose input could be looked at.

A layer ``y = W x + b`` whose input ``x_u`` is the number c for every sample has dL/dW_u = c dL/db, whatever L is; and no other input has that
for losses drawn at random. So the value of a constant unit is read off two gradients, in any framework, for dense layers, convolutions
without padding, and recurrent kernels. Of a unit that is zero, dL/dW_u is zero, and no bias is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weightlapse.growth.certificate import slopes
from weightlapse.growth.families import Family
from weightlapse.growth.module import replace_tensor, tensors_of
from weightlapse.growth.running import random_like, with_slopes
from weightlapse.wiring.members import Member

_MORE = 4  # further random inputs per example: a unit that fires rarely shall not be taken for dead
_LOSSES = 2  # random losses per input
_SAME = 1e-9  # of the gradient: what differs by more is no constant
Values = Mapping[str, NDArray[Any]]  # consumer tensor -> the constant at each position of the unit


def constant_units(trial: Any, family: Family) -> dict[int, Values]:
    """Units that are the same for every input of ``trial`` and some more random ones, with what each of their readers is given."""
    model = trial.doubles["own"]
    held = {name: t for name, (t, _) in tensors_of(model).items()}
    readers = [m for m in family.members if "in" in m.roles]
    if not readers or any(m.tensor not in held for m in readers):
        return {}
    biases = {m.tensor: bias_of(m.tensor, held) for m in readers}
    wanted = [n for m in readers for n in (m.tensor, biases[m.tensor]) if n is not None]
    seen = [_looked_at(grads, readers, biases) for grads in _gradients(trial, model, list(dict.fromkeys(wanted)))]
    found: dict[int, Values] = {}
    for unit in range(family.size) if seen else ():
        values = {m.tensor: _agreed([look[m.tensor] for look in seen], m.index[unit]) for m in readers}
        if all(v is not None for v in values.values()):
            found[unit] = {name: v for name, v in values.items() if v is not None}
    return found


def fold_constants(model: nn.Module, constants: Sequence[tuple[Family, Mapping[int, Values]]]) -> nn.Module:
    """Adds, in place, to every reader's bias what the constant units give it; returns ``model``."""
    for family, units in constants:
        for member in (m for m in family.members if "in" in m.roles):
            held = tensors_of(model)
            weight = held[member.tensor][0].detach().double().movedim(member.axis, 0)
            total = sum(
                weight[int(at)] * float(c)
                for unit, values in units.items()
                for at, c in zip(member.index[unit], values[member.tensor], strict=True)
                if c
            )
            name = bias_of(member.tensor, {n: t for n, (t, _) in held.items()})
            if isinstance(total, Tensor) and name is not None:
                bias, slots = held[name]
                replace_tensor(slots, bias, bias.detach().double() + total.sum_to_size(bias.shape))
    return model


def bias_of(tensor: str, held: Mapping[str, Tensor]) -> str | None:
    """The bias that is added to what ``tensor`` makes of its input: "fc/kernel" -> "fc/bias"; None where there is none."""
    for leaf in ("kernel", "weight", "weight_ih", "depthwise_kernel", "pointwise_kernel"):
        if tensor.endswith(leaf) and (name := tensor[: len(tensor) - len(leaf)] + "bias") in held:
            return name
    return None


def _looked_at(
    grads: Mapping[str, Tensor], readers: Sequence[Member], biases: Mapping[str, str | None]
) -> dict[str, NDArray[np.float64]]:
    """For each reader the value that each position of its axis must have had in this look; NaN where it was no constant, infinity where all would do."""
    found = {}
    for m in readers:
        rows = grads[m.tensor].movedim(m.axis, 0)
        name = biases[m.tensor]
        quiet = rows.reshape(len(rows), -1).abs().amax(1) == 0
        if name is None:
            found[m.tensor] = torch.where(quiet, 0.0, torch.nan).numpy()
            continue
        try:
            of_bias = grads[name].expand(rows.shape[1:]).reshape(-1)
        except RuntimeError:  # a bias of another form (a GRU's two)
            found[m.tensor] = torch.where(quiet, 0.0, torch.nan).numpy()
            continue
        flat, size = rows.reshape(len(rows), -1), of_bias.square().sum()
        value = flat @ of_bias / size if size else torch.full((len(rows),), torch.inf)
        off = (flat - value.nan_to_num(posinf=0.0)[:, None] * of_bias).abs().amax(1)
        same = off <= _SAME * (flat.abs().amax(1) + of_bias.abs().amax())
        found[m.tensor] = torch.where(quiet & (size > 0), 0.0, torch.where(same, value, torch.nan)).double().numpy()
    return found


def _agreed(looks: Sequence[NDArray[np.float64]], at: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """The value at the positions ``at`` on which all looks agree; None where they do not, or where none could tell."""
    values = np.stack([look[at] for look in looks])
    told = values[~np.isinf(values).any(axis=1)]  # a look in which nothing reached the layer tells nothing
    if not len(told) or np.isnan(told).any():
        return None
    spread = np.abs(told - told[0]).max(initial=0.0)
    return told.mean(axis=0) if spread <= 1e-7 * max(1.0, float(np.abs(told[0]).max())) else None


def _gradients(trial: Any, model: nn.Module, names: Sequence[str]) -> list[dict[str, Tensor]]:
    """Gradients of random sums of the outputs, for every input of the trial and some more."""
    runs = [example for _, mode, weights, _, example, _ in trial.rounds if (mode, weights) == ("eval", "own")]
    generator = torch.Generator().manual_seed(1)
    more = [random_like(example, generator) for example in runs for _ in range(_MORE)]
    model, held = with_slopes(model, names)
    if set(held) != set(names):
        return []
    looks = []
    for example in runs + more:
        for draw in range(_LOSSES):
            found = slopes(model, example, list(held.values()), seed=draw)
            looks.append(
                {
                    n: (torch.zeros_like(t) if g is None else g).double()
                    for (n, t), g in zip(held.items(), found, strict=True)
                }
            )
    return looks

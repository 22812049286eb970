"""Units that a network does not need, and what becomes of its tensors when they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from weightlapse.growth.arrays import Array
from weightlapse.growth.cells import AxisMap, Cells
from weightlapse.growth.families import Family
from weightlapse.growth.module import tensors_of
from weightlapse.wiring.data import Wiring


@dataclass
class Surplus:
    """Which units of one family can go: ``into[u]`` is the unit that unit u is merged into (itself: it stays; -1: it goes).

    ``why`` counts the reasons; ``constant[u]`` are the values of units that go because they never change.
    """

    family: Family
    into: NDArray[np.int64]
    why: dict[str, int] = field(default_factory=dict)
    constant: dict[int, Any] = field(default_factory=dict)

    @property
    def kept(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.into == np.arange(len(self.into)))


def surplus_of(model: nn.Module, family: Family, constants: Mapping[int, Any]) -> Surplus:
    """Units that are doubled, unread or constant, in this order."""
    found = Surplus(family, np.arange(family.size))
    values = {
        name: t.detach().double().cpu().numpy() for name, (t, _) in tensors_of(model).items() if t.is_floating_point()
    }
    made = [m for m in family.members if "in" not in m.roles and m.tensor in values]
    read = [m for m in family.members if "in" in m.roles and m.tensor in values]
    first: dict[bytes, int] = {}
    for unit in range(family.size):
        if read and all(not np.take(values[m.tensor], m.index[unit], axis=m.axis).any() for m in read):
            found.into[unit] = -1
            found.why["unread (outgoing weights zero)"] = found.why.get("unread (outgoing weights zero)", 0) + 1
            continue
        if unit in constants:
            found.into[unit] = -1
            found.constant[unit] = constants[unit]
            dead = all(not np.any(v) for v in constants[unit].values())
            why = "zero for every input tried" if dead else "constant for every input tried"
            found.why[why] = found.why.get(why, 0) + 1
            continue
        if any("out" in m.roles for m in made):
            same = b"".join(
                np.ascontiguousarray(np.take(values[m.tensor], m.index[unit], axis=m.axis)).tobytes() for m in made
            )
            found.into[unit] = first.setdefault(same, unit)
            if found.into[unit] != unit:
                found.why["doubles of another unit"] = found.why.get("doubles of another unit", 0) + 1
    if not len(found.kept):
        found.into[0] = 0
        found.constant.pop(0, None)
    return found


def cells_without(wiring: Wiring, surplus: Sequence[Surplus]) -> Cells:
    """The cells of a network without the units of ``surplus`` that go."""
    keep: dict[tuple[str, int], NDArray[np.bool_]] = {}
    for s in surplus:
        gone = s.into != np.arange(len(s.into))
        for m in s.family.members:
            mask = keep.setdefault((m.tensor, m.axis), np.ones(wiring.shapes[m.tensor][m.axis], dtype=bool))
            mask[m.index[gone]] = False
    axes = {}
    for place, mask in keep.items():
        source = np.flatnonzero(mask)
        ones = np.ones(len(source))
        axes[place] = AxisMap(source, ones, ones, np.zeros(len(source), dtype=bool))
    return Cells(axes, {g.name: s.kept for s in surplus for g in s.family.groups}, {})


def merged_value(surplus: Sequence[Surplus], cells: Cells, name: str, values: Array, _dtype: str) -> Array:
    """Columns of doubles added up, everything else of units that go dropped."""
    return _merged(surplus, cells, name, values, lambda consumer: 1.0 if consumer else 0.0)


def merged_moment(
    surplus: Sequence[Surplus], cells: Cells, power: float, name: str, values: Array, _dtype: str
) -> Array:
    """Gradients of doubles add up where they are made, and are the same where they are read; squares add up as their roots."""
    return _merged(surplus, cells, name, values, lambda consumer: 0.0 if consumer else power)


def _merged(surplus: Sequence[Surplus], cells: Cells, name: str, values: Array, power_of: Any) -> Array:
    out = values
    for s in surplus:
        for m in s.family.members:
            power = power_of("in" in m.roles) if m.tensor == name else 0.0
            if power:
                moved = np.moveaxis(out.astype(np.float64), m.axis, 0)
                for unit, into in enumerate(s.into):
                    if into not in (unit, -1):
                        a, b = moved[m.index[into]], moved[m.index[unit]]
                        moved[m.index[into]] = a + b if power == 1 else (np.sqrt(a) + np.sqrt(b)) ** 2
                out = np.moveaxis(moved, 0, m.axis).astype(values.dtype)
    for axis, axis_map in cells.maps_of(name):
        out = np.take(out, axis_map.source, axis=axis)
    return out

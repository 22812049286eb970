"""Elements of the symmetry group: one permutation and one factor per unit for every group, and what they do to a state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.states import Arrays
from weightlapse.symmetry.units import Units
from weightlapse.wiring.apply import permute_state, scale_state
from weightlapse.wiring.data import Group, Wiring


@dataclass(frozen=True)
class Elements:
    """One element of the symmetry group: per group a permutation and a factor (sign times scale) for each unit.

    Applied parents first: unit u of the result is old unit ``order[u]``, multiplied by ``factor[u]``.
    """

    order: dict[str, NDArray[np.int64]]
    factor: dict[str, NDArray[np.float64]]

    def copy(self) -> Elements:
        return Elements({n: p.copy() for n, p in self.order.items()}, {n: f.copy() for n, f in self.factor.items()})

    def times(self, factors: Mapping[str, NDArray[np.float64]]) -> Elements:
        """The same permutations, followed by further factors."""
        return Elements(self.order, {n: f * factors[n] if n in factors else f for n, f in self.factor.items()})

    def on_arrays(self, arrays: Arrays, units: Mapping[str, Units]) -> Arrays:
        """Applied to plain arrays of the first names, in their own precision; the fast path."""
        out = dict(arrays)
        for u in sorted(units.values(), key=lambda u: depth(u.group, units)):
            order, factor = self._busy(u.name)
            if order is None and factor is None:
                continue
            for p in u.parts:
                if p.tensor in out:
                    out[p.tensor] = p.moved(out[p.tensor], order, factor)
        return out

    def on_state(self, state: Mapping[str, Any], wiring: Wiring) -> dict[str, Any]:
        """Applied to a state dict of arrays or torch tensors, tied names included."""
        out = dict(state)
        named = {g.name: g for g in wiring.groups}
        for g in sorted(wiring.groups, key=lambda g: _depth(g, named)):
            order, factor = self._busy(g.name)
            if order is not None:
                out = permute_state(out, wiring, g.name, order)
            if factor is not None:
                out = scale_state(out, wiring, g.name, factor)
        return out

    def off_state(self, state: Mapping[str, Any], wiring: Wiring) -> dict[str, Any]:
        """The inverse of ``on_state``."""
        out = dict(state)
        named = {g.name: g for g in wiring.groups}
        for g in sorted(wiring.groups, key=lambda g: -_depth(g, named)):
            order, factor = self._busy(g.name)
            if factor is not None:
                out = scale_state(out, wiring, g.name, 1 / factor)
            if order is not None:
                out = permute_state(out, wiring, g.name, np.argsort(order))
        return out

    def _busy(self, name: str) -> tuple[NDArray[np.int64] | None, NDArray[np.float64] | None]:
        order, factor = self.order[name], self.factor[name]
        return (
            None if np.array_equal(order, np.arange(len(order))) else order,
            None if np.all(factor == 1) else factor,
        )


def identity(wiring: Wiring) -> Elements:
    """The element that changes nothing."""
    return Elements(
        {g.name: np.arange(g.size) for g in wiring.groups}, {g.name: np.ones(g.size) for g in wiring.groups}
    )


def depth(group: Group, units: Mapping[str, Units]) -> int:
    """0 for a group on its own, 1 for one inside its units, and so on."""
    return _depth(group, {n: u.group for n, u in units.items()})


def _depth(group: Group, named: Mapping[str, Group]) -> int:
    level = 0
    while group.parent is not None:
        group, level = named[group.parent[0]], level + 1
    return level

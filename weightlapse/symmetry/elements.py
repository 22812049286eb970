"""Elements of the symmetry group: one permutation and one factor per unit for every group, and what they do to a state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.moved import Moved
from weightlapse.symmetry.states import Weights, place_in_memory
from weightlapse.symmetry.units import Units
from weightlapse.wiring.apply import check_shape, checked_factors, checked_order, names_in
from weightlapse.wiring.arrays import shape_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group
from weightlapse.wiring.placement import Placement


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

    def on_arrays(self, arrays: Weights, units: Mapping[str, Units]) -> Moved:
        """Applied to plain arrays of the first names, in their own precision; each is moved when it is looked at."""
        return Moved(arrays, self._placements([u.group for u in units.values()], _shapes(arrays)))

    def on_state(self, state: Mapping[str, Any], wiring: Wiring) -> dict[str, Any]:
        """Applied to a state dict of arrays or torch tensors, tied names included.

        What does not move is shared with ``state``. Tensors that were one under several names are one afterwards.
        """
        return self._made(state, wiring, inverse=False)

    def off_state(self, state: Mapping[str, Any], wiring: Wiring) -> dict[str, Any]:
        """The inverse of ``on_state``."""
        return self._made(state, wiring, inverse=True)

    def placements(self, state: Mapping[str, Any], wiring: Wiring, *, inverse: bool = False) -> dict[str, Placement]:
        """What the element does to each tensor of a state, tied names included.

        Raises UnknownTensor or InvalidArgument where the state does not fit the wiring, or a group has not the symmetry.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        alias: dict[str, list[str]] = {}
        for g in wiring.groups:
            order, factor = self._busy(g.name)
            if order is not None:
                checked_order(g, order)
            if factor is not None:
                checked_factors(g, factor)
            for m in g.members if order is not None or factor is not None else ():
                alias[m.tensor] = names_in(state, wiring, g, m)
                for name in alias[m.tensor]:
                    shapes[m.tensor] = tuple(shape_of(state, name))
                    check_shape(shapes[m.tensor], wiring, name, m)
        return {n: p for t, p in self._placements(wiring.groups, shapes, inverse).items() for n in alias[t]}

    def _made(self, state: Mapping[str, Any], wiring: Wiring, *, inverse: bool) -> dict[str, Any]:
        todo = self.placements(state, wiring, inverse=inverse)
        done: dict[Any, Any] = {}
        out: dict[str, Any] = {}
        for name, value in state.items():
            if name not in todo:
                out[name] = value
                continue
            # a mapping that makes what it is asked for gives every value a place of its own, and may give it again
            key = place_in_memory(value) if type(state) is dict else name
            if key not in done:
                done[key] = todo[name](value)
            out[name] = done[key]
        return out

    def _placements(
        self, groups: Iterable[Group], shapes: Mapping[str, tuple[int, ...]], inverse: bool = False
    ) -> dict[str, Placement]:
        groups = list(groups)
        named = {g.name: g for g in groups}
        found: dict[str, Placement] = {}
        for g in sorted(groups, key=lambda g: _depth(g, named) * (-1 if inverse else 1)):
            order, factor = self._busy(g.name)
            if order is None and factor is None:
                continue
            steps: list[tuple[NDArray[np.int64] | None, NDArray[np.float64] | None]] = [(order, factor)]
            if inverse:  # factors belong to the new places, so they go first
                steps = [(None, None if factor is None else 1 / factor)]
                steps += [(None if order is None else np.argsort(order), None)]
            for m, e in zip(g.members, g.exponents, strict=True):
                if m.tensor not in shapes:
                    continue
                for p, f in steps:
                    if p is not None or (f is not None and e):
                        at = found.get(m.tensor, Placement())
                        found[m.tensor] = at.then(m, shapes[m.tensor][m.axis], p, f**e if f is not None and e else None)
        return found

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


def _shapes(arrays: Weights) -> dict[str, tuple[int, ...]]:
    return {n: shape_of(arrays, n) for n in arrays}

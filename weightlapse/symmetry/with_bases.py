"""Elements of the whole symmetry group: other bases for streams and heads, then orders, signs and scales."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotAlign, InvalidArgument
from weightlapse.symmetry.elements import Elements
from weightlapse.symmetry.states import numbers, place_in_memory
from weightlapse.wiring.arrays import Numbers, device_of, unrounded
from weightlapse.wiring.change import KEEP, Changed, change, fold, left, tensors_of, unfold
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Basis
from weightlapse.wiring.placement import Placement

SMALL = 4_000_000  # numbers; larger networks are moved in the precision that they are in


@dataclass(frozen=True)
class WithBases(Elements):
    """``matrices``: basis -> its matrix; ``gains``: what every folded gain is afterwards. Applied in this order: gains folded,
    matrices, permutations and factors, gains taken out again.
    """

    matrices: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    gains: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    gains_before: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def copy(self) -> WithBases:
        plain = super().copy()
        return WithBases(plain.order, plain.factor, dict(self.matrices), dict(self.gains), dict(self.gains_before))

    def times(self, factors: Mapping[str, NDArray[np.float64]]) -> WithBases:
        plain = super().times(factors)
        return WithBases(plain.order, plain.factor, self.matrices, self.gains, self.gains_before)

    def busy(self, wiring: Wiring) -> list[Basis]:
        """The bases that change, or whose gains do."""
        busy = [b for b in wiring.bases if b.name in self.matrices]
        return [left(b, {n.gain for n in b.norms} - set(self.gains)) for b in busy]

    def on_state(self, state: Mapping[str, Any], wiring: Wiring, device: Any = None) -> dict[str, Any]:
        """As for other elements; ``device``: where to compute, by default where the state is."""
        return self._made(state, wiring, inverse=False, device=device)

    def _made(self, state: Mapping[str, Any], wiring: Wiring, *, inverse: bool, device: Any = None) -> dict[str, Any]:
        moves = super().placements(state, wiring, inverse=inverse)
        changed = self.changed(state, wiring, inverse=inverse, device=device)
        return in_place_of(state, changed, wiring, moves)

    def changed(
        self, state: Mapping[str, Any], wiring: Wiring, *, inverse: bool = False, device: Any = None
    ) -> Changed:
        """The tensors of the bases, by first name, each made when it is looked at: in double precision unless the network is large."""
        bases = self.busy(wiring)
        moves = super().placements(state, wiring, inverse=inverse)
        size = sum(math.prod(wiring.shapes[t]) for t in tensors_of(bases))
        device = device_of(state) if device is None else device
        arrays, double = FirstNames(state, wiring, device), size <= SMALL
        found = Changed(arrays, np.float64 if double else None, KEEP if double else 0, device)
        try:
            (self._back if inverse else self._there)(found, bases, moves)
        except InvalidArgument as error:
            raise CannotAlign(f"this state cannot be brought into that basis: {error}") from None
        return found

    def _there(self, state: Changed, bases: list[Basis], moves: Mapping[str, Placement]) -> None:
        for b in bases:
            fold(state, b)
            if not np.array_equal(self.matrices[b.name], np.eye(b.size)):
                change(state, b, self.matrices[b.name])
        for name in [n for n in tensors_of(bases) if n in moves]:
            state.place(name, moves[name])
        for b in bases:
            unfold(state, b, self.gains)

    def _back(self, state: Changed, bases: list[Basis], moves: Mapping[str, Placement]) -> None:
        for b in bases:
            fold(state, b)
        for name in [n for n in tensors_of(bases) if n in moves]:
            state.place(name, moves[name])
        for b in bases:
            m = self.matrices[b.name]
            if not np.array_equal(m, np.eye(b.size)):
                change(state, b, m.T if b.turns else np.linalg.inv(m))
            unfold(state, b, self.gains_before)


def in_place_of(
    state: Mapping[str, Any], changed: Changed, wiring: Wiring, moves: Mapping[str, Placement] | None = None
) -> dict[str, Any]:
    """A state in which every changed tensor stands under all its names, in the kind and precision of the old one, and others are moved.
    16-bit floats that are changed become float32: they would be rounded, and the function with them.

    What neither touches is shared with ``state``; tensors that were one under several names are one afterwards.
    """
    moves, busy = moves or {}, set(changed.busy)
    out: dict[str, Any] = {}
    done: dict[Any, Any] = {}
    for name, value in state.items():
        tensor = wiring.canonical_name(name)
        if tensor not in busy and name not in moves:
            out[name] = value
            continue
        key = place_in_memory(value) if type(state) is dict else name
        if key not in done:
            done[key] = unrounded(changed[tensor], value) if tensor in busy else moves[name](value)
        out[name] = done[key]
    return out


class FirstNames(Mapping[str, Numbers]):
    """A state as arrays (tensors on a ``device``) under the first of tied names, each read when it is looked at."""

    def __init__(self, state: Mapping[str, Any], wiring: Wiring, device: Any = None) -> None:
        self.state, self.wiring, self.device = state, wiring, device

    def __getitem__(self, tensor: str) -> Numbers:
        name = next((n for n in self.wiring.names_of(tensor) if n in self.state), None)
        if name is None:
            raise CannotAlign(f"the state has no {tensor!r}, which the wiring lists; trace this network")
        return numbers(self.state[name], self.device)

    def __contains__(self, tensor: object) -> bool:
        return any(n in self.state for n in self.wiring.names_of(str(tensor)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)

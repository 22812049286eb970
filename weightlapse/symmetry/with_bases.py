"""Elements of the whole symmetry group: other bases for streams and heads, then orders, signs and scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotAlign, InvalidArgument
from weightlapse.symmetry.elements import Elements
from weightlapse.symmetry.states import as_array, place_in_memory
from weightlapse.wiring.change import Changed, change, fold, tensors_of, unfold
from weightlapse.wiring.data import Basis, Wiring
from weightlapse.wiring.placement import Placement


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
        return [b for b in wiring.bases if b.name in self.matrices]

    def _made(self, state: Mapping[str, Any], wiring: Wiring, *, inverse: bool) -> dict[str, Any]:
        bases = self.busy(wiring)
        out = super()._made(state, wiring, inverse=inverse)
        moves = super().placements(state, wiring, inverse=inverse)
        changed = Changed(FirstNames(state, wiring), np.float64)
        try:
            (self._back if inverse else self._there)(changed, bases, moves)
        except InvalidArgument as error:
            raise CannotAlign(f"this state cannot be brought into that basis: {error}") from None
        for tensor in changed.busy:
            done: dict[Any, Any] = {}
            held = []  # while they are compared, places in memory must stay taken
            for name in (n for n in wiring.names_of(tensor) if n in state):
                held.append(value := state[name])
                key = place_in_memory(value) if type(state) is dict else name
                if key not in done:
                    done[key] = _like(changed[tensor], value)
                out[name] = done[key]
        return out

    def _there(self, state: Changed, bases: list[Basis], moves: Mapping[str, Placement]) -> None:
        for b in bases:
            fold(state, b)
            if not np.array_equal(self.matrices[b.name], np.eye(b.size)):
                change(state, b, self.matrices[b.name])
        for name in [n for n in state.busy if n in moves]:
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
                change(state, b, m.T if b.kind in ("orthogonal", "centred") else np.linalg.inv(m))
            unfold(state, b, self.gains_before)


class FirstNames(Mapping[str, NDArray[Any]]):
    """A state as arrays under the first of tied names, each read when it is looked at."""

    def __init__(self, state: Mapping[str, Any], wiring: Wiring) -> None:
        self.state, self.wiring = state, wiring

    def __getitem__(self, tensor: str) -> NDArray[Any]:
        name = next((n for n in self.wiring.names_of(tensor) if n in self.state), None)
        if name is None:
            raise CannotAlign(f"the state has no {tensor!r}, which the wiring lists; trace this network")
        return as_array(self.state[name])

    def __contains__(self, tensor: object) -> bool:
        return any(n in self.state for n in self.wiring.names_of(str(tensor)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


def _like(value: NDArray[Any], sample: Any) -> Any:
    if hasattr(sample, "new_tensor"):
        return sample.new_tensor(value)
    return value.astype(np.asarray(sample).dtype)

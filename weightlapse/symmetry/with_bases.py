"""Elements of the whole symmetry group: other bases for streams and heads, then orders, signs and scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotAlign, InvalidArgument
from weightlapse.symmetry.elements import Elements
from weightlapse.symmetry.states import as_array, place_in_memory
from weightlapse.wiring.change import change, fold, tensors_of, unfold
from weightlapse.wiring.data import Basis, Wiring
from weightlapse.wiring.placement import Placement

Arrays = dict[str, NDArray[Any]]


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
        arrays = float64s(state, wiring, tensors_of(bases))
        moves = super().placements(state, wiring, inverse=inverse)
        try:
            made = (self._back if inverse else self._there)(arrays, bases, moves)
        except InvalidArgument as error:
            raise CannotAlign(f"this state cannot be brought into that basis: {error}") from None
        done: dict[Any, Any] = {}
        for tensor, value in made.items():
            if value is arrays[tensor]:
                continue
            for name in (n for n in wiring.names_of(tensor) if n in state):
                key = place_in_memory(state[name])
                if key not in done:
                    done[key] = _like(value, state[name])
                out[name] = done[key]
        return out

    def _there(self, arrays: Arrays, bases: list[Basis], moves: Mapping[str, Placement]) -> Arrays:
        state = dict(arrays)
        for b in bases:
            fold(state, b)
            change(state, b, self.matrices[b.name])
        state = {n: moves[n](v) if n in moves else v for n, v in state.items()}
        for b in bases:
            unfold(state, b, self.gains)
        return state

    def _back(self, arrays: Arrays, bases: list[Basis], moves: Mapping[str, Placement]) -> Arrays:
        state = dict(arrays)
        for b in bases:
            fold(state, b)
        state = {n: moves[n](v) if n in moves else v for n, v in state.items()}
        for b in bases:
            change(
                state,
                b,
                np.linalg.inv(self.matrices[b.name])
                if b.kind not in ("orthogonal", "centred")
                else self.matrices[b.name].T,
            )
            unfold(state, b, self.gains_before)
        return state


def float64s(state: Mapping[str, Any], wiring: Wiring, tensors: list[str]) -> Arrays:
    """The tensors, by first name, in double precision."""
    out = {}
    for t in tensors:
        name = next((n for n in wiring.names_of(t) if n in state), None)
        if name is None:
            raise CannotAlign(f"the state has no {t!r}, which the wiring lists; trace this network")
        out[t] = as_array(state[name]).astype(np.float64)
    return out


def _like(value: NDArray[Any], sample: Any) -> Any:
    if hasattr(sample, "new_tensor"):
        return sample.new_tensor(value)
    return value.astype(np.asarray(sample).dtype)

"""Guesses of bases are tried: a copy of the network with random weights must compute the same after random matrices of a guess, and something else after
one half of the change."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightlapse.wiring.bench import Bench
from weightlapse.wiring.change import Changed, change, drawn, fold, held, unfold
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.double import in_double
from weightlapse.wiring.members import Basis

_SERVES = 16
_MANY = 4  # guesses of one place from which on it is asked first whether one of them can hold
_SIGNS = 12  # elements that are tried of a set of signs


class Trial:
    """Tries guesses on a bench, whose weights nobody else changes meanwhile; ``rng`` makes the matrices."""

    def __init__(self, wiring: Wiring, bench: Bench) -> None:
        self.wiring, self.bench = wiring, bench
        self.rng = np.random.default_rng(11)
        self._known, self._uses = self._doubled(), 0  # the outputs before any change, and how often they have served
        self.double = bench.dtype == torch.float64 and bool(len(self._known))  # what casts to float32 is widened
        self.tolerance = 1e-8 if self.double else bench.tolerance

    def _doubled(self) -> NDArray[np.float64]:
        with in_double():
            return self.bench.outputs({})

    def _outputs(self) -> NDArray[np.float64]:
        return self._doubled() if self.double else self.bench.outputs({})

    def _unchanged(self) -> NDArray[np.float64]:
        """The outputs without a change. Undoing one leaves rounding behind, far below the tolerance in double precision for some times."""
        if not self.double or self._uses >= _SERVES:
            self._known, self._uses = self._outputs(), 0
        self._uses += 1
        return self._known

    def sifted(self, guesses: Sequence[Sequence[Basis]]) -> list[Basis]:
        """Of each list the first guess that holds. Guesses of one form stand or fall with the first of them, and are tried together."""
        forms: dict[object, list[Sequence[Basis]]] = {}
        for alternatives in guesses:
            if alternatives:
                forms.setdefault(_form(alternatives[0]), []).append(alternatives)
        chosen: list[Basis] = []
        for same in forms.values():
            i = self._first(same[0])
            if i is not None:
                chosen += [a[i] for a in same if i < len(a)]
        if self.holds(chosen):
            return chosen
        good: list[Basis] = []
        for same in (
            forms.values()
        ):  # layers of one form that differ all the same (some without positions, say): each by itself
            for alternatives in same:
                i = self._first(alternatives)
                good += [] if i is None else [alternatives[i]]
        return good

    def _first(self, alternatives: Sequence[Basis]) -> int | None:
        """The first that holds; of rotary ones the freest, with the fewest pairs: where only some numbers turn, pairs of all hold too."""
        if len(alternatives) > _MANY and not self._flips(alternatives[0]):
            return None
        found = next((i for i, b in enumerate(alternatives) if self.holds([b], alone=True)), None)
        if found is None or alternatives[found].kind != "rotary":
            return found
        failed: list[set[tuple[int, ...]]] = []
        rest = [i for i in range(found + 1, len(alternatives)) if alternatives[i].kind == "rotary"]
        for i in sorted(rest, key=lambda i: -len(alternatives[i].pairs)):
            pairs = set(alternatives[i].pairs)
            if pairs < set(alternatives[found].pairs) and not any(pairs < f for f in failed):
                if self.holds([alternatives[i]], alone=True):
                    found = i
                else:
                    failed.append(pairs)
        return found

    def _flips(self, b: Basis) -> bool:
        """Whether all numbers may change their sign together: those of two sides that are multiplied may, in whatever pairs they are turned besides."""
        return self.holds([replace(b, kind="signs", pairs=(tuple(range(b.size)),))], alone=True)

    def holds(self, bases: Sequence[Basis], *, alone: bool = False) -> bool:
        """Whether all of them together may be changed. ``alone``: and half of the change may not, or nothing was tried."""
        if not bases:
            return True
        return all(self._tried(bases, alone, turn) for turn in range(max(_turns(b) for b in bases)))

    def _tried(self, bases: Sequence[Basis], alone: bool, turn: int) -> bool:
        state = _InPlace(self.bench.state)
        gains, matrices, kept = [], [], {}
        for b in bases:
            for n in held(b):
                kept[n.gain] = state[n.gain].copy()
                state.put(n.gain, np.full_like(kept[n.gain], 1.3 - n.offset))
        x = self._outputs() if kept else self._unchanged()
        scale = float(np.abs(x).max(initial=0.0))
        for b in bases:
            gains.append(fold(state, b))
            matrices.append(_element(b, turn, self.rng))
            change(state, b, matrices[-1])
            unfold(state, b, gains[-1])
        y = self._outputs()
        error = float(np.abs(x - y).max(initial=0.0)) if x.shape == y.shape else np.inf
        good = scale > 0 and error <= self.tolerance * scale
        for b, before, m in zip(reversed(bases), reversed(gains), reversed(matrices)):
            fold(state, b)
            change(state, b, np.linalg.inv(m))
            unfold(state, b, before)
        if good and alone:
            (b,), (m,) = bases, matrices
            seen = self._half(state, b, m, x)
            good = seen > self.tolerance * scale / 10 and error < seen / 50
        for name, value in kept.items():
            state.put(name, value)
        return good

    def _half(self, state: _InPlace, b: Basis, matrix: NDArray[Any], x: NDArray[np.float64]) -> float:
        """How much the outputs change when what makes the numbers is changed, and what reads them is not."""
        makers = replace(b, members=b.members[:1], exponents=b.exponents[:1], norms=())
        change(state, makers, matrix)
        y = self._outputs()
        change(state, makers, np.linalg.inv(matrix))
        return float(np.abs(x - y).max(initial=0.0)) if x.shape == y.shape else np.inf


class _InPlace(Changed):
    """The weights of a bench: each change is made at once, in their own memory, so that a large network is not copied."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__({})
        self.tensors = tensors

    def __getitem__(self, name: str) -> NDArray[Any]:
        found: NDArray[Any] = self.tensors[name].cpu().numpy()
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def _then(self, name: str, step: Any) -> None:
        value = self[name]
        new = step[0](value, *step[1:])
        t = self.tensors[name]
        if t.device.type != "cpu" or new is not value:
            t.copy_(torch.from_numpy(np.ascontiguousarray(new)))


def _turns(b: Basis) -> int:
    """How many elements tell whether all of them hold: of a set that no path connects several, for half of it may hold by chance."""
    return min(len(b.pairs), _SIGNS) if b.kind == "signs" else 1


def _element(b: Basis, turn: int, rng: np.random.Generator) -> NDArray[Any]:
    """One of the kind. Signs: that of each pair by itself, which together make all; of many pairs some, at random."""
    if b.kind != "signs":
        return drawn(b, rng)
    flipped = [turn % len(b.pairs)] if len(b.pairs) <= _SIGNS else rng.permutation(len(b.pairs))[: len(b.pairs) // 2]
    out = np.eye(b.size)
    for i in flipped:
        out[b.pairs[i], b.pairs[i]] = -1.0
    return out


def _form(b: Basis) -> object:
    """What guesses have in common that are tried by the first of them: those of all heads of a group, and of the same matrices of all layers."""
    if b.is_stream:
        return b.name
    members = tuple((m.axis, m.k, m.role) for m in b.members)
    return (b.size, b.kind, members) if b.parent is not None else (b.size, b.kind, members, _without_numbers(b))


def _without_numbers(b: Basis) -> tuple[str, ...]:
    return tuple(re.sub(r"\d+", "#", m.tensor) for m in b.members)

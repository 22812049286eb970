"""Small systems of homogeneous linear equations, over the rationals or over {0, 1}, solved exactly."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

Number = Fraction | int


class Equations:
    """``modulus`` None: rational unknowns; 2: unknowns in {0, 1}. Each equation says that a weighted sum is zero."""

    def __init__(self, modulus: int | None) -> None:
        self.modulus = modulus
        self.solved: dict[Any, dict[Any, Number]] = {}  # unknown -> the others it is a sum of
        self._users: dict[Any, set[Any]] = {}  # unknown -> solved unknowns whose sum holds it

    def copy(self) -> Equations:
        new = Equations(self.modulus)
        new.solved = {k: dict(v) for k, v in self.solved.items()}
        new._users = {k: set(v) for k, v in self._users.items()}
        return new

    def _clean(self, terms: dict[Any, Number]) -> dict[Any, Number]:
        if self.modulus is not None:
            return {k: 1 for k, c in terms.items() if c % self.modulus}
        return {k: c for k, c in terms.items() if c}

    def expression(self, terms: Iterable[tuple[Any, Number]]) -> dict[Any, Number]:
        """A sum of unknowns in terms of the free ones."""
        out: dict[Any, Number] = {}
        for unknown, c in terms:
            known = self.solved.get(unknown)
            if known is None:
                out[unknown] = out.get(unknown, 0) + c
            else:
                for k, e in known.items():
                    out[k] = out.get(k, 0) + c * e
        return self._clean(out)

    def add(self, terms: Iterable[tuple[Any, Number]]) -> None:
        row = self.expression(terms)
        if not row:
            return
        pivot = next(iter(row))
        factor = row.pop(pivot)
        if self.modulus is not None:
            value = row
        elif factor in (1, -1):  # nearly always: whole numbers stay whole, and fast
            value = {k: -c * factor for k, c in row.items()}
        else:
            value = {k: _simple(Fraction(-c) / factor) for k, c in row.items()}
        for user in self._users.pop(pivot, ()):
            old = self.solved[user]
            c = old.pop(pivot)
            for k, e in value.items():
                old[k] = old.get(k, 0) + c * e
            self.solved[user] = new = self._clean(old)
            for k in value:
                if k in new:
                    self._users.setdefault(k, set()).add(user)
                else:
                    self._users.get(k, set()).discard(user)
        self.solved[pivot] = value
        for k in value:
            self._users.setdefault(k, set()).add(pivot)

    def add_all(self, rows: Iterable[Sequence[tuple[Hashable, Number]]]) -> None:
        for row in rows:
            self.add(row)

    def free(self, unknown: Any) -> bool:
        """Whether the unknown may be other than zero."""
        return bool(self.expression([(unknown, 1)]))

    def values(self, given: Mapping[Any, Fraction], wanted: Sequence[Any]) -> list[Fraction]:
        """A solution with ``given`` unknowns; every free unknown that they do not determine is zero."""
        start = dict.fromkeys((k for u in [*given, *wanted] for k in self.expression([(u, 1)])), Fraction(0))
        trial = self.copy()
        for k in list(start):
            probe = trial.copy()
            probe.add([(k, 1)])
            if all(probe.free(g) for g in given):
                trial = probe
        left = {k for g in given for k in trial.expression([(g, 1)])}
        assert len(left) <= 1, "one given unknown is supported"
        unit = next(iter(left), None)
        scale = Fraction(1)
        for g, value in given.items():
            scale = Fraction(value) / trial.expression([(g, 1)])[unit]
        return [sum((c * scale for c in trial.expression([(u, 1)]).values()), Fraction(0)) for u in wanted]

    def solutions(self, groups: Sequence[Sequence[Any]]) -> list[list[Fraction]]:
        """A basis of all values that the unknowns can take, one column per group; unknowns of one group must be equal."""
        tied = self.copy()
        for unknowns in groups:
            for u in unknowns[1:]:
                tied.add([(unknowns[0], 1), (u, -1)])
        columns = [tied.expression([(g[0], 1)]) if g else {} for g in groups]
        free = list(dict.fromkeys(k for c in columns for k in c))
        basis: list[list[Fraction]] = []
        for k in free:
            vector = [Fraction(c.get(k, 0)) for c in columns]
            if any(vector):
                basis.append(vector)
        return basis


def _simple(value: Fraction) -> Number:
    return int(value) if value.denominator == 1 else value

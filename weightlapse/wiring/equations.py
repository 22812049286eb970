"""Small systems of homogeneous linear equations, over the rationals or over {0, 1}, solved exactly.

Nearly all equations here say that two unknowns are equal, or that one is zero; a union-find keeps those cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

Number = Fraction | int
Vector = list[Number]


class Equations:
    """``modulus`` None: rational unknowns; 2: unknowns in {0, 1}. Each equation says that a weighted sum is zero."""

    def __init__(self, modulus: int | None) -> None:
        self.modulus = modulus
        self._parent: dict[Any, Any] = {}
        self._solved: dict[Any, dict[Any, Number]] = {}  # unknown -> the sum of others that it is
        self._users: dict[Any, set[Any]] = {}  # unknown -> solved unknowns whose sum may hold it

    def copy(self) -> Equations:
        new = Equations(self.modulus)
        new._parent = dict(self._parent)
        new._solved = {k: dict(v) for k, v in self._solved.items()}
        new._users = {k: set(v) for k, v in self._users.items()}
        return new

    def _find(self, unknown: Any) -> Any:
        parent = self._parent
        while (up := parent.get(unknown)) is not None:
            unknown = up
        return unknown

    def expression(self, terms: Iterable[tuple[Any, Number]]) -> dict[Any, Number]:
        """A sum of unknowns in terms of the free ones."""
        out: dict[Any, Number] = {}
        for unknown, c in terms:
            root = self._find(unknown)
            known = self._solved.get(root)
            if known is None:
                out[root] = out.get(root, 0) + c
            else:
                for k, e in known.items():
                    k = self._find(k)
                    out[k] = out.get(k, 0) + c * e
        if self.modulus is not None:
            return {k: 1 for k, c in out.items() if c % self.modulus}
        return {k: c for k, c in out.items() if c}

    def add(self, terms: Iterable[tuple[Any, Number]]) -> None:
        row = self.expression(terms)
        if not row:
            return
        if len(row) == 2:
            (a, x), (b, y) = row.items()
            if self.modulus is not None or x == -y:
                self._parent[b] = a
                if b in self._users:
                    self._users.setdefault(a, set()).update(self._users.pop(b))
                return
        pivot = next(iter(row))
        factor = row.pop(pivot)
        if self.modulus is not None:
            value = row
        elif factor in (1, -1):  # whole numbers stay whole
            value = {k: -c * factor for k, c in row.items()}
        else:
            value = {k: _simple(Fraction(-c) / factor) for k, c in row.items()}
        users = self._users.pop(pivot, set())
        self._solved[pivot] = value
        for user in users:
            self._solved[user] = new = self.expression(self._solved[user].items())
            for k in new:
                self._users.setdefault(k, set()).add(user)
        for k in value:
            self._users.setdefault(k, set()).add(pivot)

    def add_all(self, rows: Iterable[Sequence[tuple[Any, Number]]]) -> None:
        for row in rows:
            self.add(row)

    def free(self, unknown: Any) -> bool:
        """Whether the unknown may be other than zero."""
        return bool(self.expression([(unknown, 1)]))

    def ratios(self, unit: Any, wanted: Sequence[Any]) -> Vector:
        """A solution in which ``unit`` is 1 and as many free unknowns as possible are 0."""
        trial = self
        for k in self.expression([(unit, 1)]) if len(self.expression([(unit, 1)])) > 1 else ():
            probe = trial.copy()
            probe.add([(k, 1)])
            if probe.free(unit):
                trial = probe
        ((root, c),) = trial.expression([(unit, 1)]).items()
        return [_simple(Fraction(trial.expression([(u, 1)]).get(root, 0)) / c) for u in wanted]

    def solutions(self, groups: Sequence[Sequence[Any]]) -> list[Vector]:
        """A basis of all values that the unknowns can take, one column per group; unknowns of one group must be equal."""
        tied = self.copy()
        for unknowns in groups:
            for u in unknowns[1:]:
                tied.add([(unknowns[0], 1), (u, -1)])
        columns = [tied.expression([(g[0], 1)]) if g else {} for g in groups]
        free = dict.fromkeys(k for c in columns for k in c)
        span = Span(self.modulus)
        return [vector for k in free if span.grows(vector := [c.get(k, 0) for c in columns])]


class Span:
    """What a growing set of vectors spans."""

    def __init__(self, modulus: int | None) -> None:
        self.modulus = modulus
        self._rows: dict[int, Vector] = {}  # by pivot column

    def _rest(self, vector: Sequence[Number]) -> Vector:
        v: Vector = [int(e) % self.modulus for e in vector] if self.modulus else list(vector)
        for column, row in self._rows.items():
            if v[column]:
                f = v[column] if self.modulus else _simple(Fraction(v[column]) / row[column])
                v = [a - f * b if b else a for a, b in zip(v, row, strict=True)]
                if self.modulus:
                    v = [e % self.modulus for e in v]
        return v

    def holds(self, vector: Sequence[Number]) -> bool:
        return not any(self._rest(vector))

    def grows(self, vector: Sequence[Number]) -> bool:
        """Adds the vector; False when it was spanned already."""
        v = self._rest(vector)
        pivot = next((i for i, e in enumerate(v) if e), None)
        if pivot is not None:
            self._rows[pivot] = v
        return pivot is not None


def _simple(value: Fraction) -> Number:
    return int(value) if value.denominator == 1 else value

"""The numbers of a change, gathered in one pass over both tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from weightlapse.differences.pair import Pair, Slab
from weightlapse.differences.tensor import Doubles

PICTURE = 96  # cells along each side of the picture of a difference, at most
LISTED = 16  # changed positions that are remembered
_LONGEST = 1 << 21  # a vector longer than this keeps no numbers of each of its elements


@dataclass
class Survey:
    """Sums over all elements, over rows and over columns (x is A's value, y is B's, d = y - x; infinities and NaN count as no change in sums)."""

    size: int
    changed: int = 0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0
    dd: float = 0.0
    d_sum: float = 0.0
    d_fourth: float = 0.0
    largest: float = 0.0
    signs: int = 0
    nan: tuple[int, int] = (0, 0)
    inf: tuple[int, int] = (0, 0)
    exact: bool = False  # whether there are whole numbers that float64 does not tell apart
    order_free: tuple[int, int] = (0, 0)
    apart: tuple[float, float] | None = None  # the lengths, where the squares of one side are lost beside the other's
    at: list[int] = field(default_factory=list)
    row_xx: Doubles = field(default_factory=lambda: np.zeros(0))
    row_xy: Doubles = field(default_factory=lambda: np.zeros(0))
    row_yy: Doubles = field(default_factory=lambda: np.zeros(0))
    row_dd: Doubles = field(default_factory=lambda: np.zeros(0))
    row_changed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    column_xx: Doubles = field(default_factory=lambda: np.zeros(0))
    column_xy: Doubles = field(default_factory=lambda: np.zeros(0))
    column_yy: Doubles = field(default_factory=lambda: np.zeros(0))
    column_dd: Doubles = field(default_factory=lambda: np.zeros(0))
    column_changed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    picture: NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, 1), np.float32))

    @property
    def lengths(self) -> tuple[float, float]:
        """Euclidean lengths of A and B, times 2 to the exponent of the pair; 0 of zeros alone."""
        return self.apart or (float(np.sqrt(self.xx)), float(np.sqrt(self.yy)))

    @property
    def share(self) -> float:
        """Changed elements of all, 0 to 1; 0 of an empty tensor."""
        return self.changed / self.size if self.size else 0.0

    @property
    def relative(self) -> float:
        """``||B - A|| / ||A||``; infinite against zeros, and where it is more than float64 can say."""
        length = self.lengths[0]
        if length == 0:
            return 0.0 if self.dd == 0 else float("inf")
        with np.errstate(over="ignore"):
            return float(np.sqrt(self.dd / self.xx) if self.apart is None else np.sqrt(self.dd) / length)

    @property
    def cosine(self) -> float:
        """Of both tensors as vectors, -1 to 1; 0 where one of them is all zeros."""
        one, other = self.lengths
        return float(self.xy / one / other) if one and other else 0.0

    @property
    def finite(self) -> bool:
        """Whether neither side has a NaN or an infinity."""
        return self.nan == (0, 0) and self.inf == (0, 0)


def survey(pair: Pair) -> Survey:
    """Look at every element once."""
    m, n = pair.rows, pair.columns
    found = Survey(pair.a.size)
    keeps = m <= _LONGEST or n > 1
    for name in ("xx", "xy", "yy", "dd", "changed"):
        kind = np.int64 if name == "changed" else np.float64
        setattr(found, f"row_{name}", np.zeros(m if keeps else 0, kind))
        setattr(found, f"column_{name}", np.zeros(n, kind))
    canvas = _Canvas(m, n)
    for slab in pair.slabs():
        _add(found, slab, canvas, n, keeps=keeps)
    found.picture = canvas.picture()
    return found


def lengths_of(pair: Pair) -> tuple[float, float]:
    """`Survey.lengths` in another two passes, without a square that is too small for float64: each side is summed at a scale of its own."""
    most, squares = [0.0, 0.0], [0.0, 0.0]

    def sides() -> Iterator[tuple[int, Doubles]]:
        for slab in pair.slabs():
            good = np.isfinite(slab.x) & np.isfinite(slab.y)
            yield from ((0, slab.x[good]), (1, slab.y[good]))

    for side, values in sides():
        most[side] = max(most[side], float(np.abs(values).max(initial=0.0)))
    for side, values in sides():
        if most[side]:
            squares[side] += float(((values / most[side]) ** 2).sum())
    return most[0] * math.sqrt(squares[0]), most[1] * math.sqrt(squares[1])


def _add(found: Survey, slab: Slab, canvas: _Canvas, n: int, *, keeps: bool) -> None:
    x, y, differs = slab.x, slab.y, slab.differs
    found.order_free = (_sum_of_bits(found.order_free[0], x), _sum_of_bits(found.order_free[1], y))
    with np.errstate(invalid="ignore", over="ignore"):
        d = slab.change
        total = float(x.sum() + y.sum() + d.sum())
    if not np.isfinite(total):
        found.nan = (found.nan[0] + int(np.isnan(x).sum()), found.nan[1] + int(np.isnan(y).sum()))
        found.inf = (found.inf[0] + int(np.isinf(x).sum()), found.inf[1] + int(np.isinf(y).sum()))
        shown = np.where(differs, np.where(np.isfinite(y), d, y), 0.0)
        good = np.isfinite(x) & np.isfinite(y)
        x, y, d = (np.where(good, v, 0.0) for v in (x, y, d))
    else:
        shown = d
    found.exact |= slab.exact is not None
    count = int(differs.sum())
    found.changed += count
    if count and len(found.at) < LISTED:
        found.at += [slab.start * n + int(i) for i in np.flatnonzero(differs)[: LISTED - len(found.at)]]
    with np.errstate(over="ignore", under="ignore"):
        products = {"xx": (x, x), "xy": (x, y), "yy": (y, y), "dd": (d, d)}
        for name, (u, v) in products.items():
            by_row = np.einsum("ij,ij->i", u, v)
            setattr(found, name, getattr(found, name) + float(by_row.sum()))
            if keeps:
                getattr(found, f"row_{name}")[slab.start : slab.stop] = by_row
                getattr(found, f"column_{name}")[:] += np.einsum("ij,ij->j", u, v)
        found.d_sum += float(d.sum())
        square = d * d
        found.d_fourth += float(np.einsum("ij,ij->", square, square))
    if keeps:
        found.row_changed[slab.start : slab.stop] = differs.sum(axis=1)
        found.column_changed += differs.sum(axis=0)
    if count:
        found.largest = max(found.largest, float(np.abs(d).max(initial=0.0)))
        found.signs += int((np.signbit(x) != np.signbit(y)).sum())
    canvas.add(slab.start, shown)


def _sum_of_bits(so_far: int, values: Doubles) -> int:
    with np.errstate(over="ignore"):
        return (so_far + int((values + 0.0).view(np.uint64).sum())) % (1 << 64)


class _Canvas:
    """The difference, thinned: each cell shows the value of largest size in it."""

    def __init__(self, rows: int, columns: int) -> None:
        if columns == 1:  # a vector is shown as a strip
            self._row_cells, self._columns = 1, rows
            self._strip = True
        else:
            self._row_cells, self._columns = min(rows, PICTURE), columns
            self._strip = False
        self._rows = 1 if self._strip else rows
        self._column_cells = min(self._columns, PICTURE if not self._strip else 4 * PICTURE)
        self._high = np.full((self._row_cells, self._column_cells), -np.inf)
        self._low = np.full((self._row_cells, self._column_cells), np.inf)
        self._edges = np.arange(self._column_cells) * self._columns // max(self._column_cells, 1)

    def add(self, start: int, values: Doubles) -> None:
        if self._strip:
            cells = (start + np.arange(len(values))) * self._column_cells // self._columns
            np.maximum.at(self._high[0], cells, values[:, 0])
            np.minimum.at(self._low[0], cells, values[:, 0])
            return
        cells = (start + np.arange(len(values))) * self._row_cells // self._rows
        first = np.flatnonzero(np.diff(cells, prepend=-1))  # whole groups of rows at once
        for extreme, function in ((self._high, np.maximum), (self._low, np.minimum)):
            reduced = function.reduceat(function.reduceat(values, first, axis=0), self._edges, axis=1)
            extreme[cells[first]] = function(extreme[cells[first]], reduced)

    def picture(self) -> NDArray[np.float32]:
        with np.errstate(invalid="ignore", over="ignore"):
            out = np.where(self._high >= -self._low, self._high, self._low).astype(np.float32)
        return np.nan_to_num(out, nan=np.nan, posinf=np.inf, neginf=-np.inf)

"""Is B nothing but A on a coarse grid: quantised and dequantised, with one step for the tensor, a row, a column or a group of a row?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from weightlapse.differences.pair import BLOCK, Pair
from weightlapse.differences.survey import Survey
from weightlapse.differences.tensor import Doubles

LEVELS = 256
GROUPS = (128, 64, 32)
CHANCE = 1e-9  # that a row of any numbers lies on a grid
_SLOTS = 64  # numbers of a group by which grids are ruled out


@dataclass
class Grid:
    """``levels`` distinct numbers at most within each ``by``; ``even``: they are whole multiples of a step; ``steps`` from zero to the largest."""

    by: str
    levels: int
    even: bool
    steps: int = 0

    @property
    def bits(self) -> int:
        """Bits that hold this many levels."""
        return max(1, int(np.ceil(np.log2(max(self.levels, 2)))))


def quantised(pair: Pair, seen: Survey) -> Grid | None:
    """The coarsest description that every value of B fits, or None."""
    if pair.a.size < 32 or pair.b.mantissa is None or not seen.finite or seen.relative > 0.7:
        return None
    whole = _levels(pair, "b", LEVELS)
    if whole is not None:
        before = _levels(pair, "a", 4 * LEVELS)
        few = _not_zero(pair) >= 2 * len(whole) and (before is None or len(before) >= 2 * len(whole))
        steps = _grid(iter([whole[None]]), pair.b.mantissa)
        if few or (steps is not None and (before is None or len(before) > len(whole)) and 2 * steps < pair.a.size):
            return Grid("tensor", len(whole), steps is not None, steps or 0)
    if not pair.is_matrix:
        return None
    n = pair.columns
    for by, width in (
        ("row", n),
        ("column", -pair.rows),
        *((f"group of {g}", g) for g in GROUPS if n % g == 0 and n > g),
    ):
        if abs(width) < 4:
            continue
        steps = _grid(_rows_of(pair, width), pair.b.mantissa)
        if steps is None or _by_chance(steps, abs(width), pair.b.mantissa) > CHANCE:
            continue
        already = None if pair.a.mantissa is None else _grid(_rows_of(pair, width, "a"), pair.a.mantissa)
        if already is None or already >= 2 * steps:
            return Grid(by, 2 * steps + 1, even=True, steps=steps)
    for by, width in (("row", n), *((f"group of {g}", g) for g in GROUPS if n % g == 0 and n > g)):
        if width >= 32 and (book := _code_book(_rows_of(pair, width), pair.b.mantissa)) is not None:
            return Grid(by, book, even=False)
        most = min(16, width // 4)
        if most >= 2 and width >= 32 and _few_in_each(pair, width, most):
            return Grid(by, most, even=False)
    return None


def _levels(pair: Pair, which: str, most: int) -> Doubles | None:
    """The distinct values of one side, None where there are more than ``most``."""
    found = np.zeros(0)
    for slab in pair.slabs():
        values = slab.y if which == "b" else slab.x
        found = np.union1d(found, np.unique(values))
        if len(found) > most:
            return None
    return found


def _not_zero(pair: Pair) -> int:
    return sum(int(np.count_nonzero(slab.y)) for slab in pair.slabs())


def _by_chance(steps: int, width: int, mantissa: int) -> float:
    """How probable it is that ``width`` numbers of any kind look like multiples of one step or another, as far as their digits tell."""
    each = min(2 * steps * 2.0 ** -(mantissa - 1), 1.0)
    return float(LEVELS * each ** (width - 1))


def _rows_of(pair: Pair, width: int, which: str = "b") -> Iterator[Doubles]:
    """B (or A) as rows of ``width`` numbers, in slabs; of a negative width: as columns."""
    side = getattr(pair, which)
    if width < 0:
        step = max(1, BLOCK // pair.rows)
        for start in range(0, pair.columns, step):
            stop = min(start + step, pair.columns)
            lines = [side.values(i * pair.columns + start, i * pair.columns + stop) for i in range(pair.rows)]
            yield np.stack(lines, axis=1)
        return
    for start, stop in pair.spans():
        yield side.values(start * pair.columns, stop * pair.columns).reshape(-1, width)


def _grid(slabs: Iterator[Doubles], mantissa: int) -> int | None:
    """The most steps from zero to the largest value of a row, where in every row all values are whole multiples of one step."""
    known: list[int] = []
    candidates = np.arange(1, LEVELS)
    precision = 2.0 ** -(mantissa - 1)
    candidates = candidates[candidates * precision < 0.05]
    if not len(candidates):
        return None
    for rows in slabs:
        tops = np.abs(rows).max(axis=1)
        ratios = np.abs(rows[tops > 0]) / tops[tops > 0][:, None]
        for steps in known:  # most rows have the steps of one before them
            ratios = ratios[_off(ratios, steps) > steps * precision]
        while len(ratios):
            few = ratios[0, :_SLOTS] * candidates[:, None]
            near = candidates[np.abs(few - np.rint(few)).max(axis=1) <= candidates * precision]
            fits = next((int(k) for k in near if _off(ratios[:1], int(k))[0] <= k * precision), None)
            if fits is None:
                return None
            known.append(fits)
            ratios = ratios[_off(ratios, fits) > fits * precision]
    return max(known, default=None)


def _off(ratios: Doubles, steps: int) -> Doubles:
    """How far each row is from whole multiples of a step, in steps."""
    scaled = ratios * steps
    off: Doubles = np.abs(scaled - np.rint(scaled)).max(axis=1)
    return off


def _code_book(slabs: Iterator[Doubles], mantissa: int) -> int | None:
    """How many numbers there are when each row is divided by its largest size: the entries of a code book, as of NF4; None beyond 32."""
    if mantissa < 10:
        return None
    apart = 2.0 ** -(mantissa - 3)
    book = np.zeros(0)
    for rows in slabs:
        tops = np.abs(rows).max(axis=1)
        ratios = np.unique(rows[tops > 0] / tops[tops > 0][:, None])
        book = np.sort(np.concatenate([book, ratios]))
        first = np.diff(book, prepend=-2) > apart  # of each entry, which rounding has spread a little
        entries, last = book[first], book[np.append(first[1:], True)]
        if len(entries) > 32 or (last - entries).max(initial=0) > apart:
            return None
        book = entries
    return len(book)


def _few_in_each(pair: Pair, width: int, most: int) -> bool:
    looked = False
    for rows in _rows_of(pair, width):
        ordered = np.sort(rows, axis=1)
        if (1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)).max() > most:
            return False
        looked = True
    before = pair.a.values(0, min(width, pair.a.size))
    return looked and len(np.unique(before)) > 2 * most

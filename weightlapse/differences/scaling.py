"""Is B nothing but A times a factor: one for the tensor, one for each row, for each column, or for both? And: A plus one number?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weightlapse.differences.pair import Pair
from weightlapse.differences.survey import Survey
from weightlapse.differences.tensor import Doubles

SUMMED = 2e-14  # what sums in float64 may be off by, relatively
ENOUGH = 3  # numbers that a factor must explain before it explains anything


@dataclass
class Scaling:
    """``by`` is "tensor", "rows", "columns" or "rows and columns"; the factors of what is not scaled are ones."""

    by: str
    rows: Doubles
    columns: Doubles


def scaling(pair: Pair, seen: Survey) -> Scaling | None:
    """The factors, or None; a factor is found by least squares, and must then give every value to its last place."""
    if pair.mantissa is None or not seen.xx or not seen.yy:
        return None
    m, n = pair.rows, pair.columns
    one = Scaling(
        "tensor", np.full(m, seen.xy / seen.xx) if m <= len(seen.row_xx) else np.full(1, seen.xy / seen.xx), np.ones(n)
    )
    if np.count_nonzero(pair.a.values(0, min(pair.a.size, 4096))) >= ENOUGH and _gives(pair, one):
        return one
    if not pair.is_matrix:
        return None
    rows = Scaling("rows", _quotients(seen.row_xy, seen.row_xx), np.ones(n))
    if n >= ENOUGH and _gives(pair, rows):
        return rows
    columns = Scaling("columns", np.ones(m), _quotients(seen.column_xy, seen.column_xx))
    if m >= ENOUGH and _gives(pair, columns):
        return columns
    if min(m, n) >= ENOUGH and (both := _both(pair)) is not None and _gives(pair, both, slack=4):
        return both
    return None


def shift(pair: Pair, seen: Survey) -> float | None:
    """The number that was added to every value, or None."""
    if pair.mantissa is None or pair.a.size < 2 * ENOUGH:
        return None
    c = seen.d_sum / seen.size
    eps = max(2.0**-pair.mantissa, SUMMED)
    for block in pair.blocks():
        if not (np.abs(block.y - (block.x + c)) <= eps * (np.abs(block.y) + abs(c))).all():
            return None
    return c


def _quotients(over: Doubles, under: Doubles) -> Doubles:
    return np.divide(over, under, out=np.ones_like(over), where=under > 0)


def _gives(pair: Pair, scaled: Scaling, slack: float = 1.01) -> bool:
    assert pair.mantissa is not None
    eps = max(slack * 2.0**-pair.mantissa, SUMMED)
    tiny = 1e-38 if pair.mantissa == 23 else 1e-7 if pair.mantissa == 10 else 1e-300
    if pair.mantissa <= 3 or (np.abs(scaled.rows) == 0).any() or (np.abs(scaled.columns) == 0).any():
        return False
    for block in pair.blocks():
        factors = scaled.rows if len(scaled.rows) == 1 else scaled.rows[block.start : block.stop]
        made = block.x * factors[:, None] * scaled.columns
        with np.errstate(invalid="ignore"):
            if not (np.abs(block.y - made) <= eps * np.abs(block.y) + tiny).all():
                return False
    return True


def _both(pair: Pair) -> Scaling | None:
    """Factors of rows and columns from one row and one column that hold no zeros."""
    first = next(pair.blocks())
    whole = np.flatnonzero((first.x != 0).all(axis=1) & (first.y != 0).all(axis=1))
    if not len(whole):
        return None
    pivot = int(whole[np.argmax(np.abs(first.x[whole]).min(axis=1))])
    columns = first.y[pivot] / first.x[pivot]
    rows = np.ones(pair.rows)
    for block in pair.blocks():
        made = block.x * columns
        rows[block.start : block.stop] = _quotients((made * block.y).sum(axis=1), (made * made).sum(axis=1))
    gathered, weight = np.zeros(pair.columns), np.zeros(pair.columns)
    for block in pair.blocks():
        made = block.x * rows[block.start : block.stop, None]
        gathered += (made * block.y).sum(axis=0)
        weight += (made * made).sum(axis=0)
    return Scaling("rows and columns", rows, _quotients(gathered, weight))

"""Is B nothing but A times a factor: one for the tensor, one for each row, for each column, or for both? And: A plus one number?

Each value of A and the rounded value of B beside it leave a factor an interval; a factor is claimed where the intervals of all values that
share it have a point in common, so values that stayed contradict a factor that would have changed them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weightlapse.differences.pair import Pair
from weightlapse.differences.survey import Survey
from weightlapse.differences.tensor import WHOLE, Doubles, Tensor

ENOUGH = 3  # changed numbers that a factor must explain before it explains anything
SUMMED = 2e-14  # what sums in float64 may be off by, relatively
EXPLAINED = 1e-3  # share of the change's energy that factors of rows and columns may leave
_LEAST = {
    "float64": -1022,
    "float32": -126,
    "float16": -14,
    "bfloat16": -126,
}  # exponents of the smallest normal numbers
_SMALL_WHOLE = 2.0**24  # quotients of whole numbers up to here are told apart in float64


@dataclass
class Factors:
    """``by`` is "tensor", "rows", "columns" or "rows and columns"; the factors of what is not scaled are ones."""

    by: str
    rows: Doubles
    columns: Doubles


def factors_of(pair: Pair, seen: Survey) -> Factors | None:
    """The factors, or None; B holds the rounded products of A and the factors (of rows and columns: rounded twice)."""
    if not _arithmetic(pair) or not seen.xx or not seen.yy or seen.changed < ENOUGH:
        return None
    m, n = pair.rows, pair.columns
    large = pair.whole and not _small(pair)
    one = _common(pair, (), seen.xy, seen.yy if _turned(pair) else seen.xx)
    if one is not None and _not_zeros(pair) and (not large or _whole_factor(pair, float(one))):
        return Factors("tensor", np.full(m if m <= len(seen.row_xx) else 1, one), np.ones(n))
    if (factor := _rounded_apart(pair, seen)) is not None:
        return Factors("tensor", np.full(m if m <= len(seen.row_xx) else 1, factor), np.ones(n))
    if not pair.is_matrix or large:
        return None
    turned = _turned(pair)
    if n >= ENOUGH and _enough(seen.row_changed):
        rows = _common(pair, (m, 1), seen.row_xy, seen.row_yy if turned else seen.row_xx)
        if rows is not None:
            return Factors("rows", rows, np.ones(n))
    if m >= ENOUGH and _enough(seen.column_changed):
        columns = _common(pair, (1, n), seen.column_xy, seen.column_yy if turned else seen.column_xx)
        if columns is not None:
            return Factors("columns", np.ones(m), columns)
    if pair.mantissa is None or min(m, n) < ENOUGH:
        return None
    both = _both(pair)
    return both if both is not None and _gives(pair, both, seen.dd, 4 if pair.mantissa >= 23 else 2) else None


def shift(pair: Pair, seen: Survey) -> float | None:
    """The number that was added to every value, or None."""
    if not _arithmetic(pair) or pair.a.size < 2 * ENOUGH or seen.changed < ENOUGH:
        return None
    if pair.whole:
        first = next(float(slab.change.flat[0]) for slab in pair.slabs())
        return first if abs(first) < WHOLE and all((slab.change == first).all() for slab in pair.slabs()) else None
    low, high = -np.inf, np.inf
    for x, y, kept in _sides(pair):
        towards, away = _halves(y, kept, pair.exponent)
        negative = y < 0
        spare = _slack(kept) * (np.abs(x) + np.abs(y))
        least = y - x - np.where(negative, away, towards) - spare
        most = y - x + np.where(negative, towards, away) + spare
        low, high = max(low, float(least.max())), min(high, float(most.min()))
        if low > high:
            return None
    mean = seen.d_sum / seen.size
    added = float(np.clip(-mean if _turned(pair) else mean, low, high))
    return (-added if _turned(pair) else added) or None


# ---- intervals ----------------------------------------------------------------------------------------------------


def _arithmetic(pair: Pair) -> bool:
    """Whether both hold numbers whose rounding is known, and more digits than an eight-bit float."""
    return all(t.mantissa > 3 if t.mantissa is not None else _is_whole(t) for t in (pair.a, pair.b))


def _is_whole(t: Tensor) -> bool:
    return Pair(t, t).whole


def _turned(pair: Pair) -> bool:
    """Whether A is the coarser: then A holds rounded quotients of what B holds."""
    return pair.a.mantissa is not None and pair.b.mantissa is not None and pair.a.mantissa < pair.b.mantissa


def _sides(pair: Pair) -> Iterator[tuple[Doubles, Doubles, Tensor]]:
    """The exact values, those that were rounded, and the tensor of the latter."""
    for slab in pair.slabs():
        yield (slab.y, slab.x, pair.a) if _turned(pair) else (slab.x, slab.y, pair.b)


def _slack(kept: Tensor) -> float:
    """What the arithmetic before the last rounding may be off by, relatively: float32 for short floats, float64 for others."""
    return 2.0**-23 if kept.mantissa is not None and kept.mantissa < 23 else 2.0**-51


def _halves(y: Doubles, kept: Tensor, exponent: int) -> tuple[Doubles, Doubles]:
    """How far from each ``y`` a number may lie, towards zero and away from it, that is rounded to it."""
    if kept.mantissa is None:
        return np.zeros_like(y), np.zeros_like(y)
    least = _LEAST[kept.dtype] + exponent
    part, power = np.frexp(np.abs(y))
    power = np.where(y == 0, least, power - 1)
    away = np.ldexp(1.0, np.maximum(np.maximum(power, least) - kept.mantissa - 1, -1074))
    return np.where((part == 0.5) & (power > least), away / 2, away), away


def _common(pair: Pair, shape: tuple[int, ...], over: Doubles | float, under: Doubles | float) -> Doubles | None:
    """The factors that every value bears out, by least squares within their intervals; None where there are none.

    ``shape`` is that of the factors beside the matrix: () for one, (m, 1) for rows, (1, n) for columns.
    """
    low, high = np.full(shape or (1, 1), -np.inf), np.full(shape or (1, 1), np.inf)
    axes = tuple(axis for axis in (0, 1) if low.shape[axis] == 1)
    by_row = bool(shape) and shape[1] == 1
    start = 0
    for x, y, kept in _sides(pair):
        towards, away = _halves(y, kept, pair.exponent)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            q, size = y / x, np.abs(x)
            below, above = np.where(q < 0, away, towards) / size, np.where(q < 0, towards, away) / size
            spare = _slack(kept) * np.abs(q)
            least, most = q - below - spare, q + above + spare
        zero = x == 0
        least[zero], most[zero] = np.where(y[zero] == 0, -np.inf, np.inf), np.where(y[zero] == 0, np.inf, -np.inf)
        at = slice(start, start + len(x)) if by_row else slice(None)
        low[at] = np.maximum(low[at], least.max(axis=axes if not by_row else 1, keepdims=True))
        high[at] = np.minimum(high[at], most.min(axis=axes if not by_row else 1, keepdims=True))
        if (low[at] > high[at]).any():
            return None
        start += len(x)
    ones = np.ones(low.shape)
    fitted = np.divide(
        np.reshape(over, low.shape), np.reshape(under, low.shape), out=ones, where=np.reshape(under, low.shape) > 0
    )
    factors = np.clip(fitted, low, high).reshape(-1)
    if (factors == 0).any():
        return None
    factors = 1 / factors if _turned(pair) else factors
    return factors if shape else factors[0]


def _enough(changed: NDArray[np.int64]) -> bool:
    """Whether the factors that are not one explain more numbers than they are."""
    return int(changed.sum()) >= ENOUGH * max(int((changed > 0).sum()), 1)


def _not_zeros(pair: Pair) -> bool:
    count = 0
    for slab in pair.slabs():
        count += int(np.count_nonzero(slab.x))
        if count >= ENOUGH:
            return True
    return False


def _small(pair: Pair) -> bool:
    return all(max(np.abs(b.x).max(initial=0), np.abs(b.y).max(initial=0)) < _SMALL_WHOLE for b in pair.slabs())


def _whole_factor(pair: Pair, factor: float) -> bool:
    """Whether large whole numbers bear the factor out: float64 tells only whole factors, and parts of one, exactly."""
    times, parts = np.rint(factor), np.rint(1 / factor)
    return bool(
        (times and all((b.x * times == b.y).all() for b in pair.slabs()))
        or (parts and all((b.y * parts == b.x).all() for b in pair.slabs()))
    )


# ---- rounded twice -------------------------------------------------------------------------------------


def _gives(pair: Pair, scaled: Factors, energy: float, slack: float) -> bool:
    """Whether factors give every value, up to ``slack`` times what rounding A and B each made, and are nearly all of the change."""
    if (scaled.rows == 0).any() or (scaled.columns == 0).any():
        return False
    left = 0.0
    for slab in pair.slabs():
        rows = scaled.rows if len(scaled.rows) == 1 else scaled.rows[slab.start : slab.stop]
        factors = rows[:, None] * scaled.columns
        off = np.abs(slab.y - slab.x * factors)
        apart = np.abs(factors) * _halves(slab.x, pair.a, pair.exponent)[1] + _halves(slab.y, pair.b, pair.exponent)[1]
        if not (off <= slack * apart + SUMMED * np.abs(slab.y)).all():
            return False
        left += float((off * off).sum())
    return left <= EXPLAINED * energy


def _rounded_apart(pair: Pair, seen: Survey) -> float | None:
    """The factor between two roundings of the same numbers; of long floats alone, in which rounding cannot be mistaken for training."""
    if pair.mantissa is None or pair.mantissa < 23:
        return None
    factor = seen.xy / seen.xx
    one = Factors("tensor", np.full(1, factor), np.ones(pair.columns))
    return factor if _not_zeros(pair) and _gives(pair, one, seen.dd, 1.01) else None


def _quotients(over: Doubles, under: Doubles) -> Doubles:
    return np.divide(over, under, out=np.ones_like(over), where=under > 0)


def _both(pair: Pair) -> Factors | None:
    """Factors of rows and columns from one row and one column that hold no zeros."""
    first = next(pair.slabs())
    whole = np.flatnonzero((first.x != 0).all(axis=1) & (first.y != 0).all(axis=1))
    if not len(whole):
        return None
    pivot = int(whole[np.argmax(np.abs(first.x[whole]).min(axis=1))])
    columns = first.y[pivot] / first.x[pivot]
    rows = np.ones(pair.rows)
    for slab in pair.slabs():
        made = slab.x * columns
        rows[slab.start : slab.stop] = _quotients((made * slab.y).sum(axis=1), (made * made).sum(axis=1))
    gathered, weight = np.zeros(pair.columns), np.zeros(pair.columns)
    for slab in pair.slabs():
        made = slab.x * rows[slab.start : slab.stop, None]
        gathered += (made * slab.y).sum(axis=0)
        weight += (made * made).sum(axis=0)
    return Factors("rows and columns", rows, _quotients(gathered, weight))

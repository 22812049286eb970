"""What numbers are like: lowest, highest, sums, counts and how far they moved, of runs of neighbouring columns, frame by frame.

Every value counts as a float64, complex ones with both parts. Lowest, highest and the sums are those of the finite values; a change is one from a
frame to the next, and is measured where both are finite. The compiled twin is ``gauge_kernels.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.layout import TensorSpec, widen
from weightlapse.store.small_floats import FORMATS

_KERNELS = "weightlapse.store.gauge_kernels"
_WORTH_COMPILING = 12 << 20  # values from which on loading the compiler pays
_AT_ONCE = 1 << 17  # values that NumPy looks at together

LOW, HIGH, TOTAL, SQUARE, MOVED, JUMP = range(6)  # of the measures
NAN, INF, ZEROS, CHANGED = range(4)  # of the counts


@dataclass(frozen=True)
class Cells:
    """``measures`` (6, T, runs) float64: lowest and highest (NaN where nothing is finite), sum, square sum, square sum and largest of the changes.

    ``counts`` (4, T, runs) int64: NaN, infinities, zeros, values that are another than in the frame before.
    """

    measures: NDArray[np.float64]
    counts: NDArray[np.int64]


def numbers_of(patterns: NDArray[Any], dtype: str, spec: TensorSpec) -> NDArray[Any]:
    """Stored patterns as float32 (where that holds every value) or float64; ``dtype`` is the one in which the codec sees them."""
    with np.errstate(all="ignore"):  # the patterns of some NaN are odd
        return _numbers(patterns, dtype, spec)


def _numbers(patterns: NDArray[Any], dtype: str, spec: TensorSpec) -> NDArray[Any]:
    if dtype == "bfloat16" or spec.dtype in FORMATS:
        return np.asarray(widen(patterns, spec.dtype if spec.dtype in FORMATS else dtype), np.float32)
    values = patterns.view(np.dtype(dtype)) if dtype != "bool" else patterns.view(np.uint8)
    return values.astype(np.float32 if values.dtype.itemsize <= 2 or values.dtype == "<f4" else np.float64, copy=False)


def compiled(values: int) -> Any:
    """The compiled way, where so many values are worth loading it or it is loaded already; None without numba."""
    if _KERNELS not in sys.modules and (values < _WORTH_COMPILING or importlib.util.find_spec("numba") is None):
        return None
    return importlib.import_module(_KERNELS)


def cells_of(values: NDArray[Any], before: NDArray[Any] | None, edges: NDArray[np.int64], kernels: Any = None) -> Cells:
    """Of ``values`` (T, n), float32 or float64, each run of columns ``[edges[r], edges[r + 1])``; none is empty.

    ``before`` (n,): the frame before the first, None where there is none: then nothing has changed in the first.
    """
    shape = len(values), len(edges) - 1
    measures, counts = np.empty((6, *shape)), np.empty((4, *shape), np.int64)
    if kernels is not None:
        values = np.ascontiguousarray(values)
        kernels.fill(values, values[0] if before is None else np.ascontiguousarray(before), edges, measures, counts)
        return Cells(measures, counts)
    together = max(_AT_ONCE // max(values.shape[1], 1), 1)
    for top in range(0, len(values), together):
        rows = values[top : top + together]
        first = values[top - 1] if top else rows[0] if before is None else before
        _fill(rows, np.concatenate([first[None], rows[:-1]]), edges[:-1], measures[:, top:], counts[:, top:])
    return Cells(measures, counts)


def _fill(rows: Any, before: Any, starts: Any, measures: Any, counts: Any) -> None:
    here = slice(0, len(rows))

    def over(how: np.ufunc, x: Any, dtype: Any = None) -> Any:
        return how.reduceat(x, starts, axis=1, dtype=dtype)

    with np.errstate(all="ignore"):
        wide, base = rows.astype(np.float64), before.astype(np.float64)
        finite, was = np.isfinite(wide), np.isfinite(base)
        if finite.all() and was.all():
            low, high = over(np.minimum, rows), over(np.maximum, rows)
            update = wide - base
        else:
            any_finite = over(np.logical_or, finite)
            low = np.where(any_finite, over(np.minimum, np.where(finite, wide, np.inf)), np.nan)
            high = np.where(any_finite, over(np.maximum, np.where(finite, wide, -np.inf)), np.nan)
            update = np.where(finite & was, wide - base, 0.0)
        nan = np.isnan(wide)
        counts[NAN, here] = over(np.add, nan, np.int64)
        counts[INF, here] = over(np.add, ~finite & ~nan, np.int64)
        counts[ZEROS, here] = over(np.add, wide == 0, np.int64)
        counts[CHANGED, here] = over(np.add, (wide != base) & ~(nan & np.isnan(base)), np.int64)
        wide[~finite] = 0.0
        measures[LOW, here], measures[HIGH, here] = low, high
        measures[TOTAL, here] = over(np.add, wide)
        measures[SQUARE, here] = over(np.add, wide * wide)
        measures[MOVED, here] = over(np.add, update * update)
        measures[JUMP, here] = over(np.maximum, np.abs(update))

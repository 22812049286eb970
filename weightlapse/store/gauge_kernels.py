"""Statistics of runs of columns with a compiler (numba, cached on disk), the interpreter released: each value is touched twice. Twin: ``gauge.py``.

Runs without NaN and infinities, which are nearly all, go through loops in which the compiler may add in any order; the others one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_ANY_ORDER = {"nnan", "nsz", "reassoc", "contract"}  # for runs of finite numbers


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    def compile_(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # read-only installation without a home: numba finds no folder for its cache
            return njit(nogil=True, **options)(function)

    return compile_


@_compiled()
def _odd(bits, mask):  # type: ignore[no-untyped-def]
    """How many patterns are NaN or infinite."""
    found = 0
    for j in range(len(bits)):
        found += (bits[j] & mask) == mask
    return found


@_compiled(fastmath=_ANY_ORDER)
def _finite_run(x):  # type: ignore[no-untyped-def]
    low, high, zeros, total, square = x[0], x[0], 0, 0.0, 0.0
    for j in range(len(x)):
        v = x[j]
        low = v if v < low else low
        high = v if v > high else high
        zeros += v == 0
        d = np.float64(v)
        total += d
        square += d * d
    return low, high, zeros, total, square


@_compiled(fastmath=_ANY_ORDER)
def _finite_move(x, before):  # type: ignore[no-untyped-def]
    moved, jump, changed = 0.0, 0.0, 0
    for j in range(len(x)):
        d = np.float64(x[j]) - np.float64(before[j])
        moved += d * d
        a = abs(d)
        jump = a if a > jump else jump
        changed += x[j] != before[j]
    return moved, jump, changed


@_compiled()
def _odd_run(x, before):  # type: ignore[no-untyped-def]
    low, high, total, square, moved, jump = math.inf, -math.inf, 0.0, 0.0, 0.0, 0.0
    nan, inf, zeros, changed = 0, 0, 0, 0
    for j in range(len(x)):
        v, w = np.float64(x[j]), np.float64(before[j])
        if v != v:
            nan += 1
            changed += w == w
            continue
        changed += v != w
        if math.isinf(v):
            inf += 1
            continue
        zeros += v == 0
        low, high = min(low, v), max(high, v)
        total += v
        square += v * v
        if math.isfinite(w):
            d = v - w
            moved += d * d
            jump = max(jump, abs(d))
    if low > high:
        low = high = math.nan
    return low, high, total, square, moved, jump, nan, inf, zeros, changed


@_compiled()
def _fill(values, bits, before, before_bits, mask, edges, measures, counts):  # type: ignore[no-untyped-def]
    runs = len(edges) - 1
    odd_before = np.empty(runs, np.bool_)
    for r in range(runs):
        odd_before[r] = _odd(before_bits[edges[r] : edges[r + 1]], mask) > 0
    for t in range(values.shape[0]):
        row, base = values[t], before if t == 0 else values[t - 1]
        for r in range(runs):
            a, b = edges[r], edges[r + 1]
            odd = _odd(bits[t, a:b], mask) > 0
            if odd or odd_before[r]:
                low, high, total, square, moved, jump, nan, inf, zeros, changed = _odd_run(row[a:b], base[a:b])
            else:
                low, high, zeros, total, square = _finite_run(row[a:b])
                moved, jump, changed = _finite_move(row[a:b], base[a:b])
                nan = inf = 0
            odd_before[r] = odd
            measures[0, t, r], measures[1, t, r], measures[2, t, r] = low, high, total
            measures[3, t, r], measures[4, t, r], measures[5, t, r] = square, moved, jump
            counts[0, t, r], counts[1, t, r], counts[2, t, r], counts[3, t, r] = nan, inf, zeros, changed


def fill(
    values: NDArray[Any],
    before: NDArray[Any],
    edges: NDArray[np.int64],
    measures: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:
    """See ``gauge.cells_of``: the values (T, n), the frame before them, the edges of the runs, and where the results go."""
    wide = values.dtype.itemsize == 8
    kind = np.int64 if wide else np.int32
    mask = kind(0x7FF << 52) if wide else kind(0xFF << 23)
    _fill(values, values.view(kind), before, before.view(kind), mask, edges, measures, counts)

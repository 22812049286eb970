"""Statistics of runs of columns with a compiler (numba, cached on disk), the interpreter released. Twin: ``gauge.py``.

Runs without NaN and infinities, which are nearly all, go through loops in which the compiler may add in any order; the others one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_TOGETHER = 1024  # changes whose sizes are written down before the largest is sought
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


@_compiled()
def _ends(bits, sign, low, high):  # type: ignore[no-untyped-def]
    """The lowest and highest pattern, as whole numbers in the order of the floats: the compiler is quick with those."""
    for j in range(len(bits)):
        key = bits[j] ^ ((bits[j] >> sign[0]) & sign[1])
        low = min(low, key)
        high = max(high, key)
    return low ^ ((low >> sign[0]) & sign[1]), high ^ ((high >> sign[0]) & sign[1])


@_compiled()
def _zeros(bits, but_sign):  # type: ignore[no-untyped-def]
    found = np.int32(0)
    for j in range(len(bits)):
        found += np.int32((bits[j] & but_sign) == 0)
    return found


@_compiled(fastmath=_ANY_ORDER)
def _sums(x):  # type: ignore[no-untyped-def]
    total, square = 0.0, 0.0
    for j in range(len(x)):
        d = np.float64(x[j])
        total += d
        square += d * d
    return total, square


@_compiled()
def _changed(x, before):  # type: ignore[no-untyped-def]
    found = np.int32(0)
    for j in range(len(x)):
        found += np.int32(x[j] != before[j])
    return found


@_compiled(fastmath=_ANY_ORDER)
def _moves(x, before, sizes):  # type: ignore[no-untyped-def]
    """The square sum of the changes; their sizes are written down."""
    moved = 0.0
    for j in range(len(x)):
        d = np.float64(x[j]) - np.float64(before[j])
        moved += d * d
        sizes[j] = abs(d)
    return moved


@_compiled()
def _largest(keys):  # type: ignore[no-untyped-def]
    """Of sizes as whole numbers, which have the same order."""
    largest = np.int64(0)
    for j in range(len(keys)):
        largest = max(largest, keys[j])
    return largest


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
def _fill(values, bits, before, before_bits, sign, edges, ends, end_bits, measures, counts):  # type: ignore[no-untyped-def]
    runs = len(edges) - 1
    odd_before = np.empty(runs, np.bool_)
    sizes = np.empty(_TOGETHER, np.float64)
    keys = sizes.view(np.int64)
    top_bits = np.empty(1, np.int64)
    top = top_bits.view(np.float64)
    for r in range(runs):
        odd_before[r] = _odd(before_bits[edges[r] : edges[r + 1]], sign[2]) > 0
    for t in range(values.shape[0]):
        row, base = values[t], before if t == 0 else values[t - 1]
        for r in range(runs):
            a, b = edges[r], edges[r + 1]
            odd = _odd(bits[t, a:b], sign[2]) > 0
            if odd or odd_before[r]:
                low, high, total, square, moved, jump, nan, inf, zeros, changed = _odd_run(row[a:b], base[a:b])
            else:
                first = bits[t, a] ^ ((bits[t, a] >> sign[0]) & sign[1])
                end_bits[0], end_bits[1] = _ends(bits[t, a:b], sign, first, first)
                low, high = np.float64(ends[0]), np.float64(ends[1])
                zeros, changed = _zeros(bits[t, a:b], sign[1]), _changed(row[a:b], base[a:b])
                total, square = _sums(row[a:b])
                moved, largest = 0.0, np.int64(0)
                for start in range(a, b, _TOGETHER):
                    stop = min(start + _TOGETHER, b)
                    moved += _moves(row[start:stop], base[start:stop], sizes)
                    largest = max(largest, _largest(keys[: stop - start]))
                top_bits[0] = largest
                jump, nan, inf = top[0], 0, 0
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
    kind, bits = (np.int64, 63) if wide else (np.int32, 31)
    but_sign = kind((1 << bits) - 1)
    exponent = kind(0x7FF << 52) if wide else kind(0xFF << 23)
    end_bits = np.empty(2, kind)
    sign = (kind(bits), but_sign, exponent)
    ends = end_bits.view(values.dtype)
    _fill(values, values.view(kind), before, before.view(kind), sign, edges, ends, end_bits, measures, counts)

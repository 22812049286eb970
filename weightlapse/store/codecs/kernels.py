"""The encoder's passes over all values for the compiler (numba, cached on disk): no array of residuals, no sorted copy, the interpreter released.

Twins in NumPy: ``predict.residuals``, ``classes.magnitudes`` and the gathering of pages in ``encode.py``. The numbers are the same bit for bit: sums
run in the same order, and nothing is fused (three roundings under ``MOMENTUM``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weightlapse.store.codecs.decode import scratch
from weightlapse.store.codecs.form import Columns
from weightlapse.store.codecs.patterns import Pattern
from weightlapse.store.codecs.predict import DAMPED, LAST, LINEAR, MOMENTUM, NONE, SLOPE, Predictor, float_dtype


def _compiled(function: Callable[..., Any]) -> Any:
    """The function compiled by numba: without Python's lock, and kept on disk where there is a folder for it."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # read-only installation without a home: numba finds no folder for its cache
        return njit(nogil=True)(function)


@_compiled
def _order(label, strip, classes, starts, out):  # type: ignore[no-untyped-def]
    """See :func:`order`."""
    at = starts.copy()
    for k in range(-(-len(label) // strip)):
        mine = at[k * classes : (k + 1) * classes]
        for j in range(k * strip, min((k + 1) * strip, len(label))):
            c = label[j]
            out[mine[c]] = j
            mine[c] += 1


def order(columns: Columns, out: NDArray[np.int32]) -> NDArray[np.int32]:
    """``columns.order()`` into ``out`` (n,): by counting, in one pass."""
    _order(columns.label, columns.strip, columns.classes, np.array(columns.starts, np.int64), out)
    return out


@_compiled
def _row(u, w, t, rule, factor, r, q, signed, p, bits):  # type: ignore[no-untyped-def]
    """The residuals of row ``t`` into ``r``. ``q`` with its signed view and ``p`` with its bits are work space of one row."""
    n = u.shape[1]
    if t == 0 or rule == NONE:
        for j in range(n):
            r[j] = u[t, j]
    elif rule == LAST or t == 1 or (rule == SLOPE and t == 2):
        for j in range(n):
            r[j] = u[t, j] - u[t - 1, j]
    elif rule == LINEAR:
        for j in range(n):
            r[j] = u[t, j] - u[t - 1, j] - u[t - 1, j] + u[t - 2, j]
    elif rule == MOMENTUM:
        for j in range(n):
            last = w[t - 1, j]
            p[j] = (last - w[t - 2, j]) * factor + last
        for j in range(n):
            r[j] = u[t, j] - bits[j]
    else:
        back = 2 if rule == DAMPED else 3
        for j in range(n):
            q[j] = u[t - 1, j] - u[t - back, j]
        for j in range(n):
            d = signed[j]
            q[j] = d - (d >> 4) if rule == DAMPED else (d + (1 if d < 0 else 0)) >> 1
        for j in range(n):
            r[j] = u[t, j] - u[t - 1, j] - q[j]


@_compiled
def _sizes(u, w, rule, factor, spans, limit, r, r_signed, q, signed, p, bits, out):  # type: ignore[no-untyped-def]
    """Mean magnitude of the residuals of each tile ``spans[i]`` and column, none counted as more than ``limit``, into ``out`` (tiles, n) float32."""
    n = u.shape[1]
    for i in range(len(spans)):
        top, bottom = spans[i, 0], spans[i, 1]
        for j in range(n):
            out[i, j] = 0
        for t in range(top, bottom):
            _row(u, w, t, rule, factor, r, q, signed, p, bits)
            for j in range(n):
                size = np.float32(abs(np.float32(r_signed[j])))
                out[i, j] += size if size < limit else limit
        count = np.float32(bottom - top)
        for j in range(n):
            out[i, j] /= count


@_compiled
def _pages(u, w, rule, factor, spans, order, starts, begins, r, q, signed, p, bits, key, out):  # type: ignore[no-untyped-def]
    """Row 0 in the order of the columns into ``key``; residuals of group g and tile i row by row into ``out`` from ``begins[g, i]`` on."""
    for j in range(len(order)):
        key[j] = u[0, order[j]]
    for i in range(len(spans)):
        for t in range(spans[i, 0], spans[i, 1]):
            _row(u, w, t, rule, factor, r, q, signed, p, bits)
            for g in range(len(starts) - 1):
                width = starts[g + 1] - starts[g]
                at = begins[g, i] + (t - spans[i, 0]) * width - starts[g]
                for j in range(starts[g], starts[g + 1]):
                    out[at + j] = r[order[j]]


class Passes:
    """The two passes over a chunk ``u`` (T, n) under one predictor: the sizes of its residuals, then its pages."""

    def __init__(
        self, u: NDArray[np.unsignedinteger], pattern: Pattern, predictor: Predictor, spans: list[tuple[int, int]]
    ) -> None:
        """``spans`` are the tiles as [top, bottom); the chunk is one that :meth:`know` is true of."""
        n, signed, floats = u.shape[1], np.dtype(f"i{u.dtype.itemsize}"), float_dtype(pattern)
        # without momentum the floats are none: only the compiler asks for them
        w = u.view(floats) if predictor.rule == MOMENTUM else np.empty((0, 0), floats)
        q, p = np.empty(n, u.dtype), np.empty(n, floats)
        self._u, self._spans = u, np.array(spans, np.int64).reshape(-1, 2)
        self._rule = (u, w, predictor.rule, floats(predictor.factor))
        self._r = np.empty(n, u.dtype)
        self._work = (q, q.view(signed), p, p.view(u.dtype))
        self._signed = signed

    @staticmethod
    def know(u: NDArray[np.unsignedinteger], pattern: Pattern, predictor: Predictor) -> bool:
        """Whether these passes are for such a chunk: not for bytes, nor for momentum in a format that is computed in another."""
        return u.dtype.itemsize >= 2 and not (predictor.rule == MOMENTUM and u.dtype.itemsize < 4)

    def sizes(self) -> NDArray[np.float64]:
        """``classes.magnitudes`` of the residuals: (tiles, n)."""
        limit = np.float32(2.0 ** (self._u.dtype.itemsize * 8 - 4))
        out = np.empty((len(self._spans), self._u.shape[1]), np.float32)
        _sizes(*self._rule, self._spans, limit, self._r, self._r.view(self._signed), *self._work, out)
        return out.astype(np.float64)

    def pages(
        self, columns: Columns, cells: NDArray[np.uint8]
    ) -> tuple[NDArray[Any], list[NDArray[Any]], list[list[int]]]:
        """Row 0 in the order of the columns; for each histogram its numbers in the order of its pages, and how many are in each.

        The numbers lie in work space of this thread, and are there until its next call.
        """
        widths, count = columns.widths, columns.classes
        begins = np.zeros((len(widths), len(self._spans)), np.int64)
        at, streams, sizes = 0, [], []
        for s in range(int(cells.max()) + 1 if cells.size else 0):
            first, own = at, []
            chosen = [[c for c in range(count) if row[c] == s] for row in cells.tolist()]
            for k in range(len(columns.strips)):
                for i, (top, bottom) in enumerate(self._spans.tolist()):
                    for c in chosen[i]:
                        g = k * count + c
                        if widths[g]:
                            begins[g, i] = at
                            own.append((bottom - top) * widths[g])
                            at += own[-1]
            streams.append((first, at))
            sizes.append(own)
        key, out = np.empty(len(self._r), self._u.dtype), scratch("streams", at, self._u.dtype)
        starts = np.array(columns.starts, np.int64)
        arranged = order(columns, np.empty(len(self._r), np.int32))
        _pages(*self._rule, self._spans, arranged, starts, begins, self._r, *self._work, key, out)
        return key, [out[a:b] for a, b in streams], sizes

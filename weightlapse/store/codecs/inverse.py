"""The decoder's pass for the compiler (numba, cached on disk): residuals to patterns, each value touched once and put in its column at once.

Twin in NumPy: ``predict.restore`` and the columns put in order afterwards (``decode.Decoded``). The bits are the same: nothing is fused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.codecs.kernels import _compiled, order
from weightlapse.store.codecs.patterns import Pattern
from weightlapse.store.codecs.predict import DAMPED, LAST, LINEAR, MOMENTUM, NONE, SLOPE, Predictor, float_dtype

__all__ = ["HISTORY", "Inverse", "merge", "order"]
HISTORY = 3  # rows that a predictor looks back


_COLUMNS = 2048  # restored at a time through a whole tile: few enough for the fastest cache


@_compiled
def _row(r, one, two, three, one_f, two_f, now, kind, factor, p, bits, q, signed):  # type: ignore[no-untyped-def]
    """A row from its residuals ``r`` and the rows one, two and three before it; ``kind`` is the rule that holds in this row."""
    n = len(r)
    if kind == NONE:
        for j in range(n):
            now[j] = r[j]
    elif kind == LAST:
        for j in range(n):
            now[j] = r[j] + one[j]
    elif kind == LINEAR:
        for j in range(n):
            now[j] = r[j] + one[j] + one[j] - two[j]
    elif kind == MOMENTUM:
        for j in range(n):
            p[j] = (one_f[j] - two_f[j]) * factor + one_f[j]
        for j in range(n):
            now[j] = r[j] + bits[j]
    elif kind == DAMPED:
        for j in range(n):
            q[j] = one[j] - two[j]
        for j in range(n):
            q[j] = signed[j] - (signed[j] >> 4)
        for j in range(n):
            now[j] = r[j] + one[j] + q[j]
    else:
        for j in range(n):
            q[j] = one[j] - three[j]
        for j in range(n):
            q[j] = (signed[j] + (1 if signed[j] < 0 else 0)) >> 1
        for j in range(n):
            now[j] = r[j] + one[j] + q[j]


@_compiled
def _tile(flat, widths, top, bottom, rule, factor, tail, order, strip, height, keep, low, high, step, out, pitch, place, compare, work):  # type: ignore[no-untyped-def]  # fmt: skip
    """One tile of the strip that begins at column ``strip``: ``flat`` has its residuals class by class, ``tail`` (3, columns) the rows before it,
    in stored order; it becomes the last ``keep`` rows. The
    pages have ``height`` rows. Rows ``low:high:step`` go by ``order`` to ``out``, where the first of them begins at
    ``place`` and each next one ``pitch`` later; with ``compare`` they are held against what is there instead, and the number of differences is
    returned. ``work``: a ring of four rows, and one row of each kind.
    """
    h, hf, p, bits, q, signed = work
    begin, first, wrong = 0, strip, 0
    for width in widths:
        for a in range(0, width, _COLUMNS):
            n = min(_COLUMNS, width - a)
            at = first + a
            for back in range(1, 4):
                if top >= back:
                    before, kept = h[(top - back) & 3], tail[3 - back]
                    for j in range(n):
                        before[j] = kept[at + j]
            for t in range(top, bottom):
                kind = LAST if rule != NONE and (t == 1 or (rule == SLOPE and t == 2)) else rule
                r = flat[begin + (t - top) * width + a : begin + (t - top) * width + a + n]
                i, one, two = t & 3, (t - 1) & 3, (t - 2) & 3
                _row(r, h[one], h[two], h[(t - 3) & 3], hf[one], hf[two], h[i], kind, factor, p, bits, q, signed)
                if low <= t < high and (t - low) % step == 0:
                    now, to = h[i], place + (t - low) // step * pitch
                    if compare:
                        for j in range(n):
                            wrong += out[to + order[at + j]] != now[j]
                    else:
                        for j in range(n):
                            out[to + order[at + j]] = now[j]
            for back in range(1, keep + 1):
                if bottom >= back:
                    before, kept = h[(bottom - back) & 3], tail[3 - back]
                    for j in range(n):
                        kept[at + j] = before[j]
        begin += width * height
        first += width
    return wrong


@_compiled
def _merge(label, starts, row, out):  # type: ignore[no-untyped-def]
    at = starts.copy()
    for j in range(len(label)):
        c = label[j]
        out[j] = row[at[c]]
        at[c] += 1


def merge(
    label: NDArray[np.uint8], starts: NDArray[np.int64], row: NDArray[np.unsignedinteger], out: NDArray[Any]
) -> None:
    """A row of a strip in stored order, where class c begins at ``starts[c]``, into the order of the columns."""
    _merge(label, starts, row, out)


class Inverse:
    """Turns the tiles of one strip after the other into patterns, under one predictor."""

    def __init__(self, pattern: Pattern, predictor: Predictor) -> None:
        kind, width = pattern.unsigned, _COLUMNS
        floats = float_dtype(pattern) if kind.itemsize >= 4 else np.float32
        h, q = np.empty((HISTORY + 1, width), kind), np.empty(width, kind)
        p = np.empty(width, floats)
        wide = kind.itemsize >= 4
        hf = h.view(floats) if wide else np.empty((HISTORY + 1, 1), np.float32)
        bits = p.view(kind) if wide else np.empty(width, kind)
        self._rule = (predictor.rule, floats(predictor.factor))
        self._work = (h, hf, p, bits, q, q.view(pattern.signed))

    @staticmethod
    def knows(pattern: Pattern, predictor: Predictor) -> bool:
        """Whether this pass is for such a chunk: not for bytes, nor for momentum in a format that is computed in another."""
        return pattern.nbytes >= 2 and not (predictor.rule == MOMENTUM and pattern.nbytes < 4)

    def tile(
        self,
        flat: NDArray[np.unsignedinteger],
        widths: NDArray[np.int64],
        span: tuple[int, int],
        tail: NDArray[np.unsignedinteger],
        order: NDArray[np.int32],
        strip: int,
        height: int,
        keep: int,
        rows: slice,
        out: NDArray[Any],
        pitch: int,
        place: int,
        compare: bool,
    ) -> int:
        """Restore the rows ``span`` of the strip from column ``strip`` on, and put those of ``rows`` among them into the flat ``out``.

        ``height``: rows of a page, of which only the first may be wanted; ``keep``: how many of the last rows are left in ``tail``.

        With ``compare`` nothing is written: the number of values that are others than those in ``out`` is returned.
        """
        wanted = (rows.start, rows.stop, rows.step)
        target = (out, pitch, place, compare)
        return int(
            _tile(flat, widths, *span, *self._rule, tail, order, strip, height, keep, *wanted, *target, self._work)
        )

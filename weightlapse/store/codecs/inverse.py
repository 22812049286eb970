"""The decoder's pass for the compiler (numba, cached on disk): residuals to patterns, each value touched once and put in its column at once.

Twin in NumPy: ``predict.restore`` and the columns put in order afterwards (``decode.Decoded``). The bits are the same: nothing is fused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.codecs.decode_kernels import COLUMNS, HISTORY, _grid_values, _merge, _strips, _tile
from weightlapse.store.codecs.kernels import order
from weightlapse.store.codecs.patterns import Pattern
from weightlapse.store.codecs.predict import MOMENTUM, Predictor, float_dtype
from weightlapse.store.codecs.unpack import SLACK, Histograms, all_right, labels, widths, work

__all__ = [
    "HISTORY",
    "SLACK",
    "Histograms",
    "Inverse",
    "all_right",
    "grid_values",
    "labels",
    "merge",
    "order",
    "widths",
]


def merge(
    label: NDArray[np.uint8], starts: NDArray[np.int64], row: NDArray[np.unsignedinteger], out: NDArray[Any]
) -> None:
    """A row of a strip in stored order, where class c begins at ``starts[c]``, into the order of the columns."""
    _merge(label, starts, row, out)


def grid_values(
    codes: NDArray[np.uint32], columns: NDArray[np.int64], steps: NDArray[np.float64], out: NDArray[np.uint32]
) -> None:
    """The float32 patterns of grid codes (n,) into ``out`` (n,): ``columns[i]`` neighbouring ones have the step ``steps[i]``. Twin: ``grid.from_codes``."""
    _grid_values(codes, columns, steps, out.view(np.float32), out)


class Inverse:
    """Turns the tiles of one strip after the other into patterns, under one predictor."""

    def __init__(self, pattern: Pattern, predictor: Predictor) -> None:
        """``pattern`` and ``predictor`` are of a chunk that :meth:`knows` is true of."""
        kind, width, floats = pattern.unsigned, COLUMNS, float_dtype(pattern)
        h, q = np.empty((HISTORY + 1, width), kind), np.empty(width, kind)
        p = np.empty(width, floats)
        self._rule = (predictor.rule, floats(predictor.factor))
        # of 16 bits the floats are none: only the compiler asks for them
        self.work = (h, h.view(floats), p, p.view(kind), q, q.view(pattern.signed))
        self.unpacking = work()

    @staticmethod
    def knows(pattern: Pattern, predictor: Predictor) -> bool:
        """Whether this pass is for such a chunk: not for bytes, nor for momentum in a format that is computed in another."""
        return pattern.nbytes >= 2 and not (predictor.rule == MOMENTUM and pattern.nbytes < 4)

    def strips(
        self,
        bytes_: Any,
        pages: Any,
        tables: Any,
        layout: Any,
        span: Any,
        state: Any,
        rows: slice,
        target: tuple[NDArray[Any], int, int, bool],
        ahead: bool,
        begins: bool,
        flat: NDArray[np.unsignedinteger],
    ) -> int:
        """See ``_strips``."""
        wanted = (rows.start, rows.stop, rows.step)
        own = (pages, tables, layout, span, state, wanted, target, ahead, begins, flat)
        return int(_strips(bytes_, *own, *self._rule, self.work, self.unpacking))

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
            _tile(flat, widths, *span, *self._rule, tail, order, strip, height, keep, *wanted, *target, self.work)
        )

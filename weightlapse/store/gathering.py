"""Statistics of a segment, put together chunk by chunk while its values go by."""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.block import PIECE, lanes
from weightlapse.store.codecs.cutting import Piece
from weightlapse.store.gauge import (
    HIGH,
    INF,
    JUMP,
    LOW,
    MOVED,
    SQUARE,
    TOTAL,
    Cells,
    cells_of,
    compiled,
    numbers_of,
)  # fmt: skip
from weightlapse.store.layout import Layout
from weightlapse.store.segment import Segment
from weightlapse.store.statistics import (
    COUNTS,
    MEASURES,
    Outline,
    Statistics,
    outward,
    row_values,
    starts_of,
    unit_starts_of,
)

_IN_MEMORY = (
    8 << 20
)  # bytes of a frame that are kept in memory until the next block, or segment, has been compared with it


class LastFrame:
    """The frame before those that are looked at, as stored bytes; a large one in a file without a name."""

    def __init__(self, number: int, layout: Layout, folder: Path | None) -> None:
        self.number, self.layout = number, layout
        self._lock = threading.Lock()
        self._held = bytearray(layout.row_nbytes) if layout.row_nbytes <= _IN_MEMORY else None
        self._file: IO[bytes] | None = None
        if self._held is None:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 — it lives as long as this
            weakref.finalize(self, self._file.close)  # whoever looks at values last drops it

    def put(self, pieces: Sequence[Piece], patterns: NDArray[Any]) -> None:
        """The patterns (n,) of these pieces."""
        at = 0
        for start, piece in zip(self._places(pieces, patterns.itemsize), pieces):
            data = patterns[at : at + piece.stop - piece.start].tobytes()
            at += piece.stop - piece.start
            if self._held is not None:
                self._held[start : start + len(data)] = data
                continue
            assert self._file is not None
            with self._lock:
                self._file.seek(start)
                self._file.write(data)

    def get(self, pieces: Sequence[Piece], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The stored patterns of these pieces, one behind the other, as a read-only array (n,) of the codec's ``dtype``."""
        parts = []
        for start, piece in zip(self._places(pieces, dtype.itemsize), pieces):
            nbytes = (piece.stop - piece.start) * dtype.itemsize
            if self._held is not None:
                parts.append(bytes(self._held[start : start + nbytes]))
                continue
            assert self._file is not None
            with self._lock:
                self._file.seek(start)
                parts.append(self._file.read(nbytes))
        return np.frombuffer(b"".join(parts), dtype)

    def _places(self, pieces: Sequence[Piece], itemsize: int) -> list[int]:
        return [self.layout.offsets[piece.tensor] + piece.start * itemsize for piece in pieces]

    def close(self) -> None:
        """Close the file without a name, where there is one, which frees its room on the disk."""
        if self._file is not None:
            self._file.close()


def read_last(block: Segment, number: int, layout: Layout, folder: Path | None) -> LastFrame | None:
    """Frame ``number`` as one that others are compared with; None where it cannot be read."""
    last = LastFrame(number, layout, folder)
    try:
        for i, spec in enumerate(layout.tensors):
            if spec.size:
                values = block.read_frame([i], number - block.first)[0]
                kind = f"<u{spec.storage.itemsize // lanes(spec)[1]}"
                flat = np.ascontiguousarray(values).reshape(-1).view(kind)
                last.put([Piece(i, 0, flat.size)], flat)
    except DamagedRecording:
        last.close()
        return None
    return last


@dataclass(frozen=True)
class Seen:
    """The cells of one piece; ``odd`` (runs,): where infinities come or go, so that nothing bounds the changes."""

    cells: Cells
    odd: NDArray[np.bool_]

    def bounds(self) -> list[Any]:
        """Lowest, highest and largest change, infinities included."""
        measures, infinite = self.cells.measures, self.cells.counts[INF].any()
        low, high = np.fmin.reduce(measures[LOW], axis=None), np.fmax.reduce(measures[HIGH], axis=None)
        if np.isnan(low):  # nothing but NaN
            low, high = np.inf, -np.inf
        if infinite:
            low, high = -np.inf, np.inf
        jump = np.inf if self.odd.any() else measures[JUMP].max()
        return [
            outward(np.array(low), up=False)[()],
            outward(np.array(high), up=True)[()],
            outward(np.array(jump), up=True)[()],
        ]

    def unit_bounds(self) -> NDArray[np.float32]:
        """(2, runs): the largest square sum of the values and of their changes."""
        infinite = self.cells.counts[INF].any(axis=0)
        square, moved = self.cells.measures[SQUARE].max(axis=0), self.cells.measures[MOVED].max(axis=0)
        return np.stack(
            [outward(np.where(infinite, np.inf, square), up=True), outward(np.where(self.odd, np.inf, moved), up=True)]
        )


class Gathering:
    """The statistics of the segment that ``outline`` describes. ``before``: the frame before its first, None where it is not known."""

    def __init__(self, outline: Outline, before: LastFrame | None, folder: Path | None) -> None:
        self.outline = outline
        self.last = LastFrame(outline.first + outline.count - 1, outline.layout, folder)
        self._before = before
        tensors = outline.layout.tensors
        self._starts = starts_of(outline.each, outline.count, outline.blocks)
        self._unit_starts = unit_starts_of(outline.units, outline.layout)
        total, pieces, units = int(self._starts[-1]), len(outline.pieces), int(self._unit_starts[-1])
        self._measures = np.zeros((len(MEASURES), total))
        self._measures[:2] = np.nan
        self._counts = np.zeros((len(COUNTS), total), np.int64)
        self._bounds = np.empty((3, outline.blocks, pieces), np.float32)
        self._units = np.zeros((2, outline.blocks, units), np.float32)
        values = outline.count * sum(spec.size for spec in tensors)
        self._kernels = compiled(values)

    def look(self, b: int, pieces: Sequence[Piece], patterns: NDArray[Any]) -> list[Seen]:
        """What the patterns (T, n) of a chunk are like in time block ``b``: beside other chunks of this block, and of no other."""
        previous = self.last if b else self._before
        before = None if previous is None else previous.get(pieces, patterns.dtype)
        found, at = [], 0
        for piece in pieces:
            spec, stop = self.outline.layout.tensors[piece.tensor], at + piece.stop - piece.start
            dtype = lanes(spec)[0]
            width = row_values(spec) if self.outline.units[piece.tensor] else stop - at
            mine = patterns if stop - at == patterns.shape[1] else np.ascontiguousarray(patterns[:, at:stop])
            base = None if before is None else numbers_of(before[at:stop], dtype, spec)
            edges = np.arange(0, stop - at + 1, width, dtype=np.int64)
            cells = cells_of(numbers_of(mine, dtype, spec), base, edges, self._kernels)
            odd = cells.counts[INF].any(axis=0)
            if base is not None:
                odd |= np.logical_or.reduceat(np.isinf(base), edges[:-1])
            found.append(Seen(cells, odd))
            at = stop
        self.last.put(pieces, patterns[-1])
        return found

    def take(self, b: int, c: int, found: Sequence[Seen]) -> None:
        """Count in what :meth:`look` has seen of chunk ``c``."""
        with np.errstate(all="ignore"):  # infinite sums are what they are
            self._take(b, c, found)

    def _take(self, b: int, c: int, found: Sequence[Seen]) -> None:
        for k, (piece, seen) in enumerate(zip(self.outline.chunks[c], found), self.outline.pieces_at[c]):
            self._count_in(b, piece, seen.cells)
            self._bounds[:, b, k] = seen.bounds()
            if self.outline.units[piece.tensor]:
                row = row_values(self.outline.layout.tensors[piece.tensor])
                first = int(self._unit_starts[piece.tensor]) + piece.start // row
                self._units[:, b, first : first + len(seen.odd)] = seen.unit_bounds()

    def _count_in(self, b: int, piece: Piece, cells: Cells) -> None:
        tensor, rows = piece.tensor, self.outline.rows_of(b)
        begin = int(self._starts[tensor])
        each = bool(self.outline.each[tensor])
        where = slice(begin + rows.start, begin + rows.stop) if each else slice(begin + b, begin + b + 1)
        axis = 1 if each else (0, 1)
        measures, counts = self._measures[:, where], self._counts[:, where]
        measures[LOW] = np.fmin(measures[LOW], np.fmin.reduce(cells.measures[LOW], axis=axis))
        measures[HIGH] = np.fmax(measures[HIGH], np.fmax.reduce(cells.measures[HIGH], axis=axis))
        for k in (TOTAL, SQUARE, MOVED):
            measures[k] += cells.measures[k].sum(axis=axis)
        measures[JUMP] = np.maximum(measures[JUMP], cells.measures[JUMP].max(axis=axis))
        for k in range(len(COUNTS)):
            counts[k] += cells.counts[k].sum(axis=axis)

    def done(self) -> Statistics:
        """The statistics, when every chunk was taken."""
        rows: dict[str, NDArray[Any]] = dict(zip(MEASURES, self._measures)) | dict(zip(COUNTS, self._counts))
        outline = self.outline
        named = [(piece.tensor, piece.start, piece.stop) for piece in outline.pieces]
        columns = np.array(named, PIECE)
        table = {name: np.ascontiguousarray(columns[name]) for name in ("tensor", "start", "stop")}
        return Statistics(
            *(
                outline.first,
                outline.count,
                outline.height,
                outline.layout_crc,
                -1 if self._before is None else self._before.number,
            ),
            *(outline.each, outline.units, table, rows),
            *(*self._bounds, *self._units),
        )

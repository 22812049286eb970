"""A chunk: T steps of n neighbouring weights of one dtype, self-describing and checksummed.

    offset  size
    0       4     magic "WLCK"
    4       4     CRC-32 of bytes 8 to ``head``
    8       4     head: bytes before the first page         (every number unsigned, little-endian)
    12      4     T, steps
    16      4     n, weights
    20      4     strip width W: columns [kW, (k+1)W) make strip k
    24      4     tile height H: rows [kH, (k+1)H) make tile k
    28      1     dtype (see ``patterns.py``)
    29      1     form: 0 plain, 1 packed, 2 packed grid codes
    30      1     rule of the predictor (see ``predict.py``)
    31      1     C, number of scale classes of columns
    32      8     factor of the predictor (float64)
    40      4     G, number of grid entries
    44      4     bytes of the class map
    48      2     S, number of histograms for residuals
    50      ...   G grid entries: columns (u32), step (f64), bound (f64)
                  class map: pcodec page of n classes with its histogram (length u16, bytes); nothing when C < 2
                  histogram of each cell: one byte per tile and class
                  1 + S histograms: length (u16), bytes; the first is that of row 0
                  one entry per page: bytes (u32), CRC-32 (u32)
    head    ...   pages

Plain: one page per strip, its columns' patterns row by row. Packed: per strip, the page of row 0, then for each tile and class the page of
the residuals of that tile's rows (row 0 left out) and that class's columns, row by row; pages without numbers are left out. In a strip the
columns are sorted by class, and by number within a class; row 0 is in the same order.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.codecs import classes, grid
from weightlapse.store.codecs.entropy import PageReader, PageWriter
from weightlapse.store.codecs.patterns import BY_CODE, PATTERNS, Pattern
from weightlapse.store.codecs.predict import (
    GRID_CHOICES,
    LOSSLESS_CHOICES,
    MOMENTUM,
    Predictor,
    choose,
    residuals,
    restore,
    within_momentum_range,
)

MAGIC = b"WLCK"
PLAIN, PACKED, GRID = range(3)
_HEAD = struct.Struct("<4sIIIIIIBBBBdIIH")
_GRID = np.dtype([("columns", "<u4"), ("step", "<f8"), ("bound", "<f8")])
_PAGE = np.dtype([("nbytes", "<u4"), ("crc", "<u4")])
_U16 = struct.Struct("<H")
MAX_ROWS, MAX_COLUMNS, MAX_STRIP = (
    1 << 16,
    1 << 24,
    1 << 20,
)  # far above what is written, far below what would hurt to allocate


@dataclass(frozen=True)
class Shape:
    """How a chunk is cut into pages: narrow strips make one weight cheap to read, short tiles make an early frame cheap."""

    strip: int = 512
    tile: int = 32


def encode(u: NDArray[np.unsignedinteger], dtype: str, shape: Shape = Shape()) -> bytes:  # noqa: B008 (frozen)
    """Patterns ``u`` (T, n) as the bytes of a lossless chunk; never more than the patterns and a small header."""
    pattern = PATTERNS[dtype]
    u = np.ascontiguousarray(u)
    choices = LOSSLESS_CHOICES
    if not within_momentum_range(u, pattern):
        choices = tuple(c for c in choices if c.rule != MOMENTUM)
    packed = _pack(u, pattern, PACKED, choose(u, pattern, choices), shape, np.empty(0, _GRID)) if u.size else b""
    plain_nbytes = _HEAD.size + u.nbytes + _PAGE.itemsize * -(-u.shape[1] // shape.strip)
    return packed if packed and len(packed) < plain_nbytes else _plain(u, pattern, shape)


def encode_bounded(
    u: NDArray[np.unsignedinteger],
    dtype: str,
    columns: list[int],
    bounds: list[float],
    shape: Shape = Shape(),  # noqa: B008
) -> bytes | None:
    """Patterns ``u`` (T, n) as a chunk of grid codes, or None when it must be lossless.

    ``columns[i]`` neighbouring columns belong to one tensor whose values may be off by ``bounds[i]``. Every value is decoded and compared
    here; a NaN, an infinity or a single value out of bounds refuses the chunk.
    """
    pattern = PATTERNS[dtype]
    if u.size == 0 or not pattern.is_float:
        return None
    values = pattern.numbers(u)
    if not np.isfinite(values).all():
        return None
    edges = np.cumsum([0, *columns])
    largest = [float(np.abs(values[:, a:b]).max()) if b > a else 0.0 for a, b in zip(edges[:-1], edges[1:])]
    steps = [grid.grid_step(bound, top, pattern) if top else 1.0 for bound, top in zip(bounds, largest)]
    if not all(step > 0 for step in steps):
        return None
    per_column, limits = np.repeat(steps, columns), np.repeat(bounds, columns)
    codes = grid.to_codes(values, per_column)
    if not grid.within_bound(u, grid.from_codes(codes, per_column, pattern), limits, pattern):
        return None
    table = np.array(list(zip(columns, steps, bounds)), _GRID)
    return _pack(codes, pattern, GRID, choose(codes, PATTERNS["int32"], GRID_CHOICES), shape, table)


def _pack(
    u: NDArray[np.unsignedinteger], pattern: Pattern, form: int, predictor: Predictor, shape: Shape, table: NDArray[Any]
) -> bytes:
    rows, n = u.shape
    number = PATTERNS["int32"] if form == GRID else pattern
    r = residuals(u, number, predictor)
    tiles = _tiles(rows, shape.tile)
    size = classes.magnitudes(r, tiles)
    label = classes.assign(size, max(16, n // 64))
    layout = _Layout(rows, n, shape, label)
    r = np.take(r, layout.order, axis=1)
    key = PageWriter(r[0], [stop - start for start, stop in layout.strips])
    heights = np.array([bottom - top for top, bottom in tiles], np.int64)
    cells = classes.streams(size, label, heights) if tiles else np.empty((0, 0), np.uint8)
    streams = [_stream(r, layout, cells == s) for s in range(int(cells.max()) + 1 if tiles else 0)]
    pages: list[bytes] = []
    taken = [iter(s.pages) for s in streams]
    for k in range(len(layout.strips)):
        pages.append(key.pages[k])
        for i in range(len(tiles)):
            pages.extend(next(taken[cells[i, c]]) for c in range(layout.classes) if layout.width(k, c))
    histograms = cells.tobytes() + b"".join(_sized(w.meta) for w in (key, *streams))
    class_map = b""
    if layout.classes > 1:
        written = PageWriter(label.astype(np.uint16), [n])
        class_map = _sized(written.meta) + written.pages[0]
    return _assemble(rows, n, shape, pattern, form, predictor, layout.classes, len(streams), table, class_map, histograms, pages)


def _stream(r: NDArray[np.unsignedinteger], layout: _Layout, mine: NDArray[np.bool_]) -> PageWriter:
    """The residuals of the cells ``mine`` (tiles, classes) under one histogram, in page order."""
    parts = [
        r[top:bottom, layout.start(k, c) : layout.start(k, c) + layout.width(k, c)].ravel()
        for k in range(len(layout.strips))
        for i, (top, bottom) in enumerate(layout.tiles)
        for c in np.flatnonzero(mine[i]).tolist()
        if layout.width(k, c)
    ]
    return PageWriter(np.concatenate(parts), [len(p) for p in parts])


def _plain(u: NDArray[np.unsignedinteger], pattern: Pattern, shape: Shape) -> bytes:
    rows, n = u.shape
    pages = [u[:, start : start + shape.strip].tobytes() for start in range(0, n, shape.strip)]
    return _assemble(rows, n, shape, pattern, PLAIN, Predictor(0), 0, 0, np.empty(0, _GRID), b"", b"", pages)


def _sized(data: bytes) -> bytes:
    return _U16.pack(len(data)) + data


def _assemble(
    rows: int, n: int, shape: Shape, pattern: Pattern, form: int, predictor: Predictor, count: int, streams: int, table: NDArray[Any],
    class_map: bytes, histograms: bytes, pages: list[bytes],
) -> bytes:  # fmt: skip
    directory = np.array([(len(p), zlib.crc32(p)) for p in pages], _PAGE).tobytes()
    rest = table.tobytes() + class_map + histograms + directory
    head = _HEAD.size + len(rest)
    fixed = _HEAD.pack(
        MAGIC,
        0,
        head,
        rows,
        n,
        shape.strip,
        shape.tile,
        pattern.code,
        form,
        predictor.rule,
        count,
        predictor.factor,
        len(table),
        len(class_map),
        streams,
    )
    crc = zlib.crc32(rest, zlib.crc32(fixed[8:]))
    return b"".join([fixed[:4], struct.pack("<I", crc), fixed[8:], rest, *pages])


def _tiles(rows: int, height: int) -> list[tuple[int, int]]:
    """The tiles as [top, bottom) without row 0, which is stored apart."""
    tops = [max(top, 1) for top in range(0, rows, height)]
    return [(top, min(bottom, rows)) for top, bottom in zip(tops, [*tops[1:], rows]) if bottom > top]


class _Layout:
    """Where the columns and pages of a packed chunk lie, from its shape and classes."""

    def __init__(self, rows: int, n: int, shape: Shape, label: NDArray[np.uint8]) -> None:
        self.strips = [(start, min(start + shape.strip, n)) for start in range(0, n, shape.strip)]
        self.tiles = _tiles(rows, shape.tile)
        self.classes = int(label.max()) + 1 if rows > 1 and n else 0
        strip = np.arange(n) // shape.strip
        key = strip * max(self.classes, 1) + label
        self.order = np.argsort(key, kind="stable")  # stored position -> column
        self.position = np.empty(n, np.int64)  # column -> stored position
        self.position[self.order] = np.arange(n)
        self.group = key  # (strip, class) of each column, as strip * classes + class
        self._widths = np.bincount(key, minlength=len(self.strips) * max(self.classes, 1)).tolist()
        self._starts = np.concatenate([[0], np.cumsum(self._widths)]).tolist()

    def width(self, strip: int, c: int) -> int:
        width: int = self._widths[strip * self.classes + c]
        return width

    def start(self, strip: int, c: int) -> int:
        start: int = self._starts[strip * self.classes + c]
        return start


class Chunk:
    """A chunk's bytes, opened: the head is verified at once, each page when it is read. Only pages that a read needs are decoded."""

    def __init__(self, data: bytes | memoryview | NDArray[np.uint8]) -> None:
        self._data = memoryview(data).cast("B")
        head = self._head()
        self._end, self.rows, self.columns, strip, tile, code, self.form, rule, count = head[2:11]
        factor, grids, mapped, streams = head[11:]
        if code not in BY_CODE or self.form > GRID or rule > 4 or strip < 1 or tile < 1 or count > classes.MAX_CLASSES:
            raise DamagedRecording("the head of a chunk has values that this format does not know")
        self.pattern = BY_CODE[code]
        self.predictor = Predictor(rule, factor)
        self._number = PATTERNS["int32"] if self.form == GRID else self.pattern
        if self.form == GRID and not self.pattern.is_float:
            raise DamagedRecording(f"a chunk of {self.pattern.name} claims to hold grid codes")
        self._shape = Shape(strip, tile)
        self._count = count
        self._at = _HEAD.size
        table = np.frombuffer(self._take(grids * _GRID.itemsize), _GRID)
        self._check_extent(table)
        self.bounds = np.repeat(table["bound"], table["columns"])
        self._steps = np.repeat(table["step"], table["columns"])
        self._layout = self._read_layout(self._take(mapped))
        self._readers: list[PageReader | None] = []
        if self.form != PLAIN:
            tiles = len(self._layout.tiles)
            self._cells = np.frombuffer(self._take(tiles * count), np.uint8).reshape(tiles, count)
            if self._cells.size and int(self._cells.max()) >= streams:
                raise DamagedRecording("a cell of a chunk names a histogram that is not there")
            self._metas = [self._take_sized() for _ in range(1 + streams)]
        self._pages = np.frombuffer(self._take(self._end - self._at), _PAGE)
        self._index_pages()

    # -- the head ----------------------------------------------------------------------------------------------
    def _head(self) -> tuple[Any, ...]:
        if len(self._data) < _HEAD.size:
            raise DamagedRecording("a chunk is shorter than its head")
        head = _HEAD.unpack_from(self._data)
        if (
            head[0] != MAGIC
            or not _HEAD.size <= head[2] <= len(self._data)
            or zlib.crc32(self._data[8 : head[2]]) != head[1]
        ):
            raise DamagedRecording("the head of a chunk fails its checksum")
        return head

    def _take(self, nbytes: int) -> memoryview:
        if nbytes < 0 or self._at + nbytes > self._end:
            raise DamagedRecording("the head of a chunk is shorter than its parts")
        self._at += nbytes
        return self._data[self._at - nbytes : self._at]

    def _take_sized(self) -> bytes:
        return bytes(self._take(_U16.unpack(self._take(2))[0]))

    def _check_extent(self, table: NDArray[Any]) -> None:
        """Refuse before anything of the claimed size is made: each strip has a page, each page eight bytes in the directory."""
        if -(-self.columns // self._shape.strip) > (self._end - self._at) // _PAGE.itemsize and self.rows:
            raise DamagedRecording("the head of a chunk claims more columns than it has pages for")
        if self.form == GRID and int(table["columns"].sum(dtype=np.uint64)) != self.columns:
            raise DamagedRecording("the grid entries of a chunk do not cover its columns")
        if self._shape.strip > MAX_STRIP or self.rows > MAX_ROWS or self.columns > MAX_COLUMNS:
            raise DamagedRecording("the head of a chunk claims a size beyond the format's limits")

    def _read_layout(self, mapped: memoryview) -> _Layout:
        label = np.zeros(self.columns, np.uint8)
        if self._count > 1:
            if len(mapped) < 2:
                raise DamagedRecording("the class map of a chunk is missing")
            size = 2 + _U16.unpack(mapped[:2])[0]
            read = PageReader(bytes(mapped[2:size]), np.dtype(np.uint16)).read(bytes(mapped[size:]), self.columns)
            if read.size and int(read.max()) != self._count - 1:
                raise DamagedRecording("the class map of a chunk does not fit its classes")
            label = read.astype(np.uint8)
        layout = _Layout(self.rows, self.columns, self._shape, label)
        if self.form != PLAIN and layout.classes != self._count:
            raise DamagedRecording("the classes of a chunk do not fit its shape")
        return layout

    def _index_pages(self) -> None:
        layout, strips = self._layout, len(self._layout.strips)
        if self.form == PLAIN:
            per_strip = np.ones(strips, np.int64)
        else:
            present = np.array([[layout.width(k, c) > 0 for c in range(self._count)] for k in range(strips)], np.bool_)
            self._rank = present.reshape(strips, self._count).cumsum(axis=1)
            self._present = self._rank[:, -1] if self._count else np.zeros(strips, np.int64)
            per_strip = 1 + self._present * len(layout.tiles)
        self._first = np.concatenate([[0], np.cumsum(per_strip)])
        offsets = np.concatenate([[0], np.cumsum(self._pages["nbytes"], dtype=np.int64)])
        if len(self._pages) != self._first[-1] or self._end + int(offsets[-1]) != len(self._data):
            raise DamagedRecording("the pages of a chunk do not fit its head")
        self._offsets = offsets + self._end

    # -- pages -------------------------------------------------------------------------------------------------
    def _page(self, number: int) -> bytes:
        page = bytes(self._data[self._offsets[number] : self._offsets[number + 1]])
        if zlib.crc32(page) != self._pages["crc"][number]:
            raise DamagedRecording("a page of a chunk fails its checksum")
        return page

    def _reader(self, stream: int) -> PageReader:
        if not self._readers:
            self._readers = [None] * len(self._metas)
        reader = self._readers[stream]
        if reader is None:
            reader = self._readers[stream] = PageReader(self._metas[stream], self._number.unsigned)
        return reader

    def read(
        self, columns: NDArray[np.int64] | slice = slice(None), start: int = 0, stop: int | None = None
    ) -> NDArray[np.unsignedinteger]:
        """Patterns (stop - start, k) of the given columns, in their order."""
        stop = self.rows if stop is None else stop
        wanted = np.arange(self.columns)[columns]
        r = self.residuals(wanted, stop)
        restore(r, self._number, self.predictor)
        return self.finish(r[start:], wanted)

    def residuals(self, wanted: NDArray[np.int64], stop: int) -> NDArray[np.unsignedinteger]:
        """Residuals (stop, k) of the columns ``wanted`` up to row ``stop``: :func:`restore`, then :meth:`finish`, make them values."""
        if stop < 1 or not len(wanted):
            return np.empty((max(stop, 0), len(wanted)), self._number.unsigned)
        if self.form == PLAIN:
            return self._plain(wanted, stop)
        groups = np.unique(self._layout.group[wanted])
        widths = [self._layout._widths[g] for g in groups]
        starts = np.concatenate([[0], np.cumsum(widths)])
        out = np.empty((stop, int(starts[-1])), self._number.unsigned)
        count = max(self._count, 1)
        keys: dict[int, NDArray[np.unsignedinteger]] = {}
        for g, at, width in zip(groups.tolist(), starts.tolist(), widths):
            k, c = divmod(g, count)
            if k not in keys:
                first, last = self._layout.strips[k]
                keys[k] = self._reader(0).read(self._page(self._first[k]), last - first)
            within = self._layout._starts[g] - self._layout.strips[k][0]
            out[0, at : at + width] = keys[k][within : within + width]
            self._read_tiles(k, c, out[:, at : at + width])
        # stored position of each wanted column, moved to where its group lies in `out`
        shift = dict(zip(groups.tolist(), (starts[:-1] - [self._layout._starts[g] for g in groups]).tolist()))
        where = self._layout.position[wanted]
        moved = (
            where + np.array([shift[g] for g in self._layout.group[wanted].tolist()])
            if len(groups) > 1
            else where + starts[0] - self._layout._starts[groups[0]]
        )
        return np.take(out, moved, axis=1)

    def _read_tiles(self, k: int, c: int, out: NDArray[np.unsignedinteger]) -> None:
        width = out.shape[1]
        for i, (top, bottom) in enumerate(self._layout.tiles):
            if top >= len(out):
                break
            number = self._first[k] + 1 + i * self._present[k] + self._rank[k, c] - 1
            page = self._reader(1 + int(self._cells[i, c])).read(self._page(number), (bottom - top) * width).reshape(bottom - top, width)
            out[top:bottom] = page[: len(out) - top]

    def _plain(self, wanted: NDArray[np.int64], stop: int) -> NDArray[np.unsignedinteger]:
        out = np.empty((stop, len(wanted)), self.pattern.unsigned)
        strip = wanted // self._shape.strip
        for k in np.unique(strip).tolist():
            first, last = self._layout.strips[k]
            page = np.frombuffer(self._page(k), self.pattern.unsigned)
            if len(page) != self.rows * (last - first):
                raise DamagedRecording("a plain page of a chunk has the wrong length")
            mine = strip == k
            out[:, mine] = page.reshape(self.rows, last - first)[:stop, wanted[mine] - first]
        return out

    def finish(self, u: NDArray[np.unsignedinteger], wanted: NDArray[np.int64]) -> NDArray[np.unsignedinteger]:
        """Restored numbers as patterns of the chunk's dtype: grid codes become values, all else already is."""
        return grid.from_codes(u, self._steps[wanted], self.pattern) if self.form == GRID else u

"""Decoding a chunk (see ``form.py``): only the pages that a read needs, each only once."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import accumulate, groupby, pairwise
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.codecs import classes, grid
from weightlapse.store.codecs.entropy import PageReader
from weightlapse.store.codecs.form import (
    ENTRY,
    GRID,
    HEAD,
    MAGIC,
    MAX_COLUMNS,
    MAX_VALUES,
    PAGE,
    PLAIN,
    SIZE,
    Columns,
    Shape,
    tiles,
)
from weightlapse.store.codecs.patterns import BY_CODE, PATTERNS, Pattern
from weightlapse.store.codecs.predict import Predictor, restore, rule_is_for
from weightlapse.store.files import Part
from weightlapse.store.threads import in_order, threads

_NO_GRID = np.empty(0, ENTRY)
Selection = NDArray[np.int64] | None  # column numbers, rising or not; None is all of them
WORTH_THREADS = 1 << 20  # values to decode below which threads cost more than they save
WORTH_COMPILING = 1 << 26  # values to decode from which on loading the compiler pays
_MANY = 1 << 15  # columns from which on their classes are worth the compiled pass
_MANY_GROUPS = 4  # from which on they are counted together
_WORTH_PICKING = 1 << 13  # columns of which few are wanted, from which on those are taken page by page
_HISTORY = 3  # rows that a predictor looks back
_FIRST_LOOK = 8192  # bytes read for the head at first: nearly always enough
_ALONE = 32 << 10  # bytes of a page from which on it is read by itself
_AT_ONCE = 1 << 20  # bytes of neighbouring strips that are read together
_INVERSE = "weightlapse.store.codecs.inverse"


def compiled(values: int) -> Any:
    """The compiled pass of the decoder where it is loaded already or so many values are worth loading it; None without numba."""
    if _INVERSE not in sys.modules and (values < WORTH_COMPILING or importlib.util.find_spec("numba") is None):
        return None
    return importlib.import_module(_INVERSE)


@lru_cache(maxsize=64)
def _plan_of(
    rule: int, factor: float, strip: int, tile: int, rows: int
) -> tuple[Predictor, Shape, list[tuple[int, int]]]:
    """What the chunks of a file have in common, hundreds of them; nobody changes it."""
    return Predictor(rule, factor), Shape(strip, tile), tiles(rows, tile)


# of each group the wanted columns, counted within it, and where they go
Picks = dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]


class Bytes(Protocol):
    """Where a chunk lies, counted from its first byte."""

    size: int

    def read(self, start: int, stop: int) -> bytes:
        """The bytes ``[start, stop)``; fewer where the chunk is cut short."""

    def read_into(self, start: int, out: memoryview) -> None:
        """The bytes from ``start`` on into all of ``out``."""


class Chunk:
    """A chunk, opened: the head is read and verified at once, each page when it is wanted."""

    def __init__(self, source: Bytes | bytes) -> None:
        """Read the head of the chunk and check it; :class:`DamagedRecording` for whatever this format does not know or does not fit."""
        self._source: Bytes = Part(source) if isinstance(source, bytes) else source
        source = self._source
        self._data = memoryview(source.read(0, min(_FIRST_LOOK, source.size)))  # the head
        self._at = HEAD.size
        fields = self._checked_head()
        self._end, self.rows, self.columns, strip, tile, code, self.form, rule, count = fields[2:11]
        factor, entries, mapped, streams = fields[11:]
        if (
            code not in BY_CODE
            or self.form > GRID
            or not rule_is_for(rule, PATTERNS["int32"] if self.form == GRID else BY_CODE[code])
            or count > classes.MAX_CLASSES
            or not strip
            or not tile
        ):
            raise DamagedRecording("the head of a chunk has values that this format does not know")
        if self.columns > MAX_COLUMNS or self.rows * self.columns > MAX_VALUES or not self.rows or not self.columns:
            raise DamagedRecording(
                f"the head of a chunk claims {self.rows} x {self.columns} values, beyond the format's limits"
            )
        self.pattern = BY_CODE[code]
        self.number = PATTERNS["int32"] if self.form == GRID else self.pattern
        self.predictor, self.shape, self.spans = _plan_of(rule, factor, strip, tile, self.rows)
        self.bounds: list[float]
        self._read_grid(entries)
        self._codec = self._take_metas(1)[0].tobytes() if self.form != PLAIN else b""
        self._read_columns(self._take(mapped), count)
        if self.form != PLAIN:
            self._cells = (
                np.frombuffer(self._take(len(self.spans) * count), np.uint8).reshape(len(self.spans), count).tolist()
            )
            if streams < 1 + max((max(row) for row in self._cells), default=-1):
                raise DamagedRecording("a cell of a chunk names a histogram that is not there")
            self._metas = self._take_metas(1 + streams)
            self._readers: list[PageReader | None] = [None] * len(self._metas)
        self._index_pages()

    @property
    def nbytes(self) -> int:
        """About what an opened chunk takes in memory, its pages left out."""
        return 2 * self.columns + 100 * len(self._crcs) + len(self._data) + 4096

    # ---- the head --------------------------------------------------------------------------------------------------

    def _checked_head(self) -> tuple[Any, ...]:
        """The fields of the head, whose bytes are read (twice where it is long) and match their checksum."""
        if len(self._data) < HEAD.size:
            raise DamagedRecording("a chunk is shorter than its head")
        fields = HEAD.unpack_from(self._data)
        if fields[0] != MAGIC or not HEAD.size <= fields[2] <= self._source.size:
            raise DamagedRecording("the head of a chunk fails its checksum")
        if fields[2] > len(self._data):
            self._data = memoryview(self._source.read(0, fields[2]))
        if zlib.crc32(self._data[8 : fields[2]]) != fields[1]:
            raise DamagedRecording("the head of a chunk fails its checksum")
        if fields[2] < len(self._data):
            self._data = memoryview(bytes(self._data[: fields[2]]))  # without what was read behind it
        self.head_crc: int = fields[1]
        return fields

    def _take(self, nbytes: int) -> memoryview:
        """The next ``nbytes`` of the head; refused where it has fewer."""
        if self._at + nbytes > self._end:
            raise DamagedRecording("the head of a chunk is shorter than its parts")
        self._at += nbytes
        return self._data[self._at - nbytes : self._at]

    def _take_metas(self, count: int) -> list[memoryview]:
        """The next ``count`` byte strings of the head, each behind its length (uint16); refused where it has fewer."""
        data, at, end, metas = self._data, self._at, self._end, []
        for _ in range(count):
            if at + SIZE.size > end:
                break
            size = data[at] | data[at + 1] << 8
            metas.append(data[at + SIZE.size : at + SIZE.size + size])
            at += SIZE.size + size
        if len(metas) < count or at > end:
            raise DamagedRecording("the head of a chunk is shorter than its histograms")
        self._at = at
        return metas

    def _read_grid(self, entries: int) -> None:
        """The grid entries; those of grid codes must be of a float dtype and have all columns together."""
        if not entries and self.form != GRID:
            self._grid, self.bounds = _NO_GRID, []
            return
        table = np.frombuffer(self._take(entries * ENTRY.itemsize), ENTRY)
        if self.form == GRID and (
            not self.pattern.is_float or int(table["columns"].sum(dtype=np.uint64)) != self.columns
        ):
            raise DamagedRecording("the grid entries of a chunk do not fit its columns")
        self._grid = table
        self.bounds = table["bound"].tolist()

    def _read_columns(self, mapped: memoryview, count: int) -> None:
        """The class of each column (uint8) from the bytes of the class map, and the order that follows; more than ``count`` classes are refused."""
        inverse = compiled(0) if self.columns >= _MANY else None
        label = np.zeros(self.columns, np.uint8)
        if count > 1:
            size = SIZE.size + int.from_bytes(mapped[: SIZE.size], "little")
            if inverse is None or not inverse.labels(bytes(mapped[SIZE.size :]), size - SIZE.size, label, self._codec):
                histogram = PageReader(bytes(mapped[SIZE.size : size]), label.dtype, self._codec)
                label = histogram.read(bytes(mapped[size:]), self.columns)
        if (count == 0) != (self.form == PLAIN):
            raise DamagedRecording("a chunk has classes where it should not, or none where it should")
        widths = None if inverse is None or count < 2 else inverse.widths(label, self.shape.strip, count)
        self.layout = Columns(self.columns, self.shape.strip, label, max(count, 1), widths)
        if self.layout.classes != max(count, 1):
            raise DamagedRecording("the class map of a chunk does not fit its classes")

    def _index_pages(self) -> None:
        """Where each page begins, and its checksum; refused where they are not as many, or as long together, as the chunk says."""
        if (self._end - self._at) % PAGE.itemsize or self._end == self._at:
            raise DamagedRecording("the list of pages of a chunk is not whole")
        pages = np.frombuffer(self._take(self._end - self._at), PAGE)
        per_strip = [1] * len(self.layout.strips)
        if self.form != PLAIN:
            self._present = [sum(filled) for filled in self.layout.filled]
            per_strip = [1 + present * len(self.spans) for present in self._present]
        self._first = [0, *accumulate(per_strip)]
        offsets = np.cumsum(pages["nbytes"], dtype=np.int64)
        if len(pages) != self._first[-1] or self._end + int(offsets[-1]) != self._source.size:
            raise DamagedRecording("the pages of a chunk do not fit its head")
        self._offsets: list[int] = [self._end, *(offsets + self._end).tolist()]
        self._crcs: list[int] = pages["crc"].tolist()

    # ---- pages -----------------------------------------------------------------------------------------------------

    def _page(self, number: int, run: tuple[int, memoryview] | None = None) -> bytes:
        """The bytes of a page, out of ``run`` where they were read already; refused where the checksum is another."""
        start, stop = self._offsets[number], self._offsets[number + 1]
        page = self._source.read(start, stop) if run is None else bytes(run[1][start - run[0] : stop - run[0]])
        if zlib.crc32(page) != self._crcs[number]:
            raise DamagedRecording("a page of a chunk fails its checksum")
        return page

    def first_page(self, strip: int) -> int:
        """The number of the page of row 0 of a strip; those of its tiles and classes follow."""
        return self._first[strip]

    def stream(self, tile: int, c: int) -> int:
        """The histogram of a tile and class."""
        return 1 + self._cells[tile][c]

    def page_into(
        self, stream: int, number: int, run: tuple[int, memoryview] | None, out: NDArray[np.unsignedinteger]
    ) -> None:
        """The numbers of a page under a histogram into ``out``, which lies together."""
        self._reader(stream).read_into(self._page(number, run), out)

    def tables(self, inverse: Any) -> Any:
        """All histograms as the compiled pass takes them; None where they are left to pcodec."""
        if self.form == PLAIN or self.number.nbytes not in (2, 4):
            return None
        found = inverse.Histograms(self._metas, self.number.bits, self._codec)
        return found if found.known else None

    def cells(self) -> NDArray[np.uint8]:
        """The number, among those of residuals, of the histogram of each tile and class."""
        return np.array(self._cells, np.uint8).reshape(len(self.spans), self.layout.classes)

    def ends(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each page begins, and the last one ends; the first page of each strip."""
        return np.array(self._offsets, np.int64), np.array(self._first, np.int64)

    def together(self, spans: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
        """(first strip, last, tiles) of what is read at once of these tiles: several strips as far as they are short, else some tiles of one."""
        every, k, strips = len(spans) == len(self.spans), 0, len(self.layout.strips)
        while k < strips:
            last = k + 1
            while (
                every
                and last < strips
                and self._offsets[self._first[last + 1]] - self._offsets[self._first[k]] <= _AT_ONCE
            ):
                last += 1
            some: list[tuple[int, int, int]] = []
            for span in spans if last == k + 1 else []:
                if some and self._nbytes(k, [*some, span]) > _AT_ONCE:
                    yield k, last, some
                    some = []
                some.append(span)
            yield k, last, some if last == k + 1 else spans
            k = last

    def _between(self, k: int, last: int, spans: list[tuple[int, int, int]]) -> tuple[int, int]:
        """The first and the last page of these tiles; those of row 0 are with tile 0, and where there is none."""
        first = 0 if not spans or spans[0][0] == 0 else 1 + spans[0][0] * self._present[k]
        stop = 1 + (spans[-1][0] + 1 if spans else 0) * self._present[last - 1]
        return self._first[k] + first, self._first[last - 1] + stop

    def _nbytes(self, k: int, spans: list[tuple[int, int, int]]) -> int:
        """How many bytes these tiles of a strip have together."""
        first, stop = self._between(k, k + 1, spans)
        return self._offsets[stop] - self._offsets[first]

    def right_bytes(
        self, k: int, last: int, spans: list[tuple[int, int, int]], inverse: Any
    ) -> tuple[NDArray[np.uint8], int]:
        """The bytes of these tiles of the strips ``k`` to ``last``, checked, with the slack that unpacking needs; and where they begin."""
        first, stop = self._between(k, last, spans)
        start, n = self._offsets[first], self._offsets[stop] - self._offsets[first]
        data = scratch("bytes", n + inverse.SLACK, np.uint8)
        self._source.read_into(start, data[:n].data)
        sizes = [b - a for a, b in pairwise(self._offsets[first : stop + 1])]
        if not inverse.all_right(data[:n], self._crcs[first:stop], sizes):
            for number in range(first, stop):
                self._page(number)
            raise DamagedRecording("the pages of a chunk change while they are read")
        return data, start

    def refuse(self, number: int, stream: int, count: int) -> NoReturn:
        """Raise for a page that cannot be unpacked: with what pcodec says of it."""
        self._reader(stream).read(self._page(number), count)
        raise DamagedRecording("a page of a chunk cannot be unpacked")

    def run(self, strip: int, spans: list[tuple[int, int, int]]) -> tuple[int, memoryview] | None:
        """The bytes of these tiles of a strip, read at once, and where they begin; None where pages are long enough to be read one by one."""
        if self._offsets[-1] - self._offsets[0] >= _ALONE * len(self._crcs):
            return None
        number = self._first[strip] + 1
        first = number + spans[0][0] * self._present[strip] if spans and spans[0][0] else number - 1
        last = number + (spans[-1][0] + 1) * self._present[strip] if spans else number
        start = self._offsets[first]
        return start, memoryview(self._source.read(start, self._offsets[last]))

    def _reader(self, stream: int) -> PageReader:
        """The decoder of a histogram (0: that of row 0), made when it is needed first."""
        reader = self._readers[stream]
        if reader is None:
            reader = self._readers[stream] = PageReader(bytes(self._metas[stream]), self.number.unsigned, self._codec)
        return reader

    def forget_tables(self) -> None:
        """Free the decoders of the histograms; they are made again when they are needed."""
        self._readers = [None] * len(self._readers)

    def fill(
        self, groups: Iterable[int], start: int, out: NDArray[np.unsignedinteger], picks: Picks | None = None
    ) -> None:
        """Residuals of rows ``start`` and later of these groups, side by side, into ``out`` (rows, their widths); whole tiles only.

        ``picks``: for each group which of its columns are wanted alone, and where they go.
        """
        at, stop, strip, key = 0, start + len(out), -1, None
        count, cells = self.layout.classes, self._cells
        spans = [(i, top, bottom) for i, (top, bottom) in enumerate(self.spans) if start <= top < stop]
        groups = list(groups)
        narrow = len(groups) <= 2  # a few pages of each strip, or most: then each strip is read at once
        run: tuple[int, memoryview] | None = None
        for g in groups:
            k, c = divmod(g, count)
            width = self.layout.width(g)
            if k != strip:
                strip = k
                run = None if narrow else self.run(k, spans)
                if start == 0:
                    first, last = self.layout.strips[k]
                    key = self._reader(0).read(self._page(self._first[k], run), last - first)
            if start == 0:
                assert key is not None
                within = self.layout.within(g)
                if picks is None:
                    out[0, at : at + width] = key[within : within + width]
                else:
                    out[0, picks[g][1]] = key[within + picks[g][0]]
            number = self._first[k] + sum(self.layout.filled[k][: c + 1])
            for i, top, bottom in spans:
                page = self._page(number + i * self._present[k], run)
                rows = slice(top - start, bottom - start)
                if picks is None:
                    values = self._reader(1 + cells[i][c]).read(page, (bottom - top) * width)
                    out[rows, at : at + width] = values.reshape(bottom - top, width)
                else:
                    numbers = scratch("residuals", (bottom - top) * width, out.dtype)
                    self._reader(1 + cells[i][c]).read_into(page, numbers)
                    out[rows, picks[g][1]] = numbers.reshape(bottom - top, width)[:, picks[g][0]]
            at += width

    def plain(self, strip: int) -> NDArray[np.unsignedinteger]:
        """The patterns (T, width) of one strip of a plain chunk."""
        first, last = self.layout.strips[strip]
        page = self._page(strip)
        if len(page) != self.rows * (last - first) * self.pattern.nbytes:
            raise DamagedRecording("a plain page of a chunk has the wrong length")
        return np.frombuffer(page, self.pattern.unsigned).reshape(self.rows, last - first)

    @property
    def grid(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Of each grid entry the number of its columns, and its step."""
        return self._grid["columns"].astype(np.int64), self._grid["step"].astype(np.float64)

    def steps(self, columns: Selection) -> NDArray[np.float64]:
        """The grid step of each selected column."""
        all_steps = np.repeat(self._grid["step"], self._grid["columns"])
        return all_steps if columns is None else all_steps[columns]

    def read(self, columns: Selection = None, start: int = 0, stop: int | None = None) -> NDArray[np.unsignedinteger]:
        """Patterns (stop - start, k) of the selected columns, in their order."""
        return Decoded(self, columns).rows(start, self.rows if stop is None else stop)


_OWN = threading.local()
_MOST_KEPT = 32 << 20  # bytes: a chunk that says it needs more is not one of ours


def scratch(name: str, count: int, dtype: Any) -> NDArray[Any]:
    """Work space of this thread that is kept: new memory for every chunk would cost the system more than the decoding."""
    if count * np.dtype(dtype).itemsize > _MOST_KEPT:
        return np.empty(count, dtype)
    kept: dict[tuple[str, np.dtype[Any]], NDArray[Any]] = _OWN.__dict__.setdefault("kept", {})
    key = name, np.dtype(dtype)
    if key not in kept or len(kept[key]) < count:
        kept[key] = np.empty(count, dtype)
    return kept[key][:count]


def may_run(chunk: Chunk, inverse: Any) -> bool:
    """Whether the compiled pass is there, and for such a chunk."""
    return inverse is not None and chunk.form != PLAIN and bool(inverse.Inverse.knows(chunk.number, chunk.predictor))


class Chosen:
    """Some columns of what is decoded as a whole."""

    fresh = False

    def __init__(self, whole: Decoded, columns: NDArray[np.int64]) -> None:
        """``columns`` (k,) are their numbers among those of ``whole``."""
        self._whole, self._columns, self.width = whole, columns, len(columns)

    def rows(self, start: int, stop: int, step: int = 1) -> NDArray[np.unsignedinteger]:
        """Patterns (n, k) of rows ``start:stop:step``."""
        return self._whole.rows(start, stop, step, self._columns)


class Narrow(Protocol):
    """A few columns of a chunk that have steps through time to take, on their own or together with others."""

    number: Pattern
    predictor: Predictor

    @property
    def decoded(self) -> int:
        """Values of a row that are decoded for the wanted ones."""

    def prepare(self, stop: int) -> tuple[NDArray[np.unsignedinteger], int]:
        """Rows up to ``stop`` at least, the new ones still residuals, and how many are patterns already."""

    def accept(self, rows: NDArray[np.unsignedinteger], lead: int) -> None:
        """Take what :meth:`prepare` gave, restored."""


class Run:
    """All columns of a packed chunk from row 0 on, tile by tile, by the compiled pass. Rows go where they are wanted, and nothing else is held.

    ``once``: only one such run of this thread is needed at a time, so that it may work where the last one did.
    """

    def __init__(self, chunk: Chunk, inverse: Any, *, once: bool = False) -> None:
        """``inverse`` is the module of the compiled pass; the chunk is one that :func:`may_run` is true of."""
        self._chunk = chunk
        kind, n = chunk.number.unsigned, chunk.columns
        self._work = inverse.Inverse(chunk.number, chunk.predictor)
        self._tail = (scratch("tail", _HISTORY * n, kind) if once else np.empty(_HISTORY * n, kind)).reshape(
            _HISTORY, n
        )
        self._inverse, self._once = inverse, once
        self._tables = chunk.tables(inverse)  # None: page by page, with pcodec
        self._order = np.empty(0, np.int32)
        self._tiles = 0  # that are done

    def to(
        self,
        rows: slice,
        out: NDArray[np.unsignedinteger],
        pitch: int,
        place: int = 0,
        *,
        compare: bool = False,
    ) -> int:
        """Go on up to the tile that holds the last of ``rows``, and put them into the flat ``out``, as far as they were not passed before.

        The first begins at ``place``, each next one ``pitch`` later. With ``compare`` they are held against ``out``, and the number of
        differences is returned (else 0).
        """
        chunk, layout, n = self._chunk, self._chunk.layout, self._chunk.columns
        wrong = 0
        if not len(self._order):
            space = scratch("order", n, np.int32) if self._once else np.empty(n, np.int32)
            self._order = self._inverse.order(layout, space)
        spans = [(i, *chunk.spans[i]) for i in range(self._tiles, len(chunk.spans)) if chunk.spans[i][0] < rows.stop]
        most = max((stop - start for start, stop in layout.strips), default=0)
        most *= max((bottom - top for _, top, bottom in spans), default=0)
        flat = scratch("residuals", most, self._tail.dtype)
        target = (out, pitch, place, compare)
        if self._tables is not None:
            wrong = self._at_once(spans, flat, rows, target, ahead=False)
        else:
            wrong = sum(self._strip(k, spans, flat, rows, target) for k in range(len(layout.strips)))
        self._tiles += len(spans)
        return wrong

    def _at_once(
        self,
        spans: list[tuple[int, int, int]],
        flat: NDArray[np.unsignedinteger],
        rows: slice,
        target: tuple[NDArray[np.unsignedinteger], int, int, bool],
        *,
        ahead: bool,
    ) -> int:
        """The tiles ``spans`` of all strips; ``ahead``: only the last row of them is wanted."""
        chunk, tables, layout = self._chunk, self._tables, self._chunk.layout
        pages, wrong = chunk.ends(), 0
        cut = (
            np.array([*(first for first, _ in layout.strips), chunk.columns], np.int64),
            *(np.array(numbers, np.int64) for numbers in (layout.widths, layout.starts)),
            *(layout.label, layout.classes),
        )
        own = (tables.nodes, tables.begins, tables.logs, chunk.cells())
        final = spans[-1:] if ahead or (spans and spans[-1][0] + 1 == len(chunk.spans)) else None
        for k, last, some in chunk.together(spans):
            bytes_ = chunk.right_bytes(k, last, some, self._inverse)
            tiles = np.array(some, np.int64).reshape(-1, 3)
            span = (k, last, tiles, some[-1:] != final)
            begins = self._tiles == 0 and (not some or some[0][0] == 0)
            state = (self._tail, self._order)
            found = self._work.strips(bytes_, pages, own, cut, span, state, rows, target, ahead, begins, flat)
            if found < 0:
                self._refuse(-1 - found)
            wrong += found
        return wrong

    def _refuse(self, page: int) -> NoReturn:
        """Raise for a page that cannot be unpacked."""
        chunk, layout = self._chunk, self._chunk.layout
        k = max(k for k in range(len(layout.strips)) if chunk.first_page(k) <= page)
        widths = [(c, w) for c, w in enumerate(layout.widths[k * layout.classes : (k + 1) * layout.classes]) if w]
        if page == chunk.first_page(k):
            chunk.refuse(page, 0, sum(w for _, w in widths))
        i, rank = divmod(page - chunk.first_page(k) - 1, len(widths))
        c, width = widths[rank]
        top, bottom = chunk.spans[i]
        chunk.refuse(page, chunk.stream(i, c), (bottom - top) * width)

    def row(self, row: int, out: NDArray[np.unsignedinteger]) -> None:
        """The patterns (n,) of one row of a run that has not begun into ``out``."""
        chunk = self._chunk
        if chunk.form != GRID:
            self._row(row, out)
            return
        codes = scratch("codes", chunk.columns, chunk.number.unsigned)
        self._row(row, codes)
        if chunk.pattern.name == "float32":
            columns, steps = chunk.grid
            self._inverse.grid_values(codes, columns, steps, out)
        else:
            out[...] = grid.from_codes(codes[None], chunk.steps(None), chunk.pattern)[0]

    def _row(self, row: int, out: NDArray[np.unsignedinteger]) -> None:
        """The numbers of one row: no row after it is restored, and none before it is put in order."""
        chunk, layout, count = self._chunk, self._chunk.layout, self._chunk.layout.classes
        spans = [(i, top, bottom) for i, (top, bottom) in enumerate(chunk.spans) if top <= row]
        widest = max(stop - start for start, stop in layout.strips)
        flat = scratch("residuals", widest * max((b - t for _, t, b in spans), default=0), self._tail.dtype)
        if self._tables is not None:
            self._at_once(spans, flat, slice(row, row + 1, 1), (out, 0, 0, False), ahead=True)
            return
        starts = np.array(layout.starts, np.int64)
        nowhere = (slice(0, 0, 1), out, 0, 0, False)
        for k, (first, last) in enumerate(layout.strips):
            run, sizes = chunk.run(k, spans), np.array(layout.widths[k * count : (k + 1) * count], np.int64)
            key = self._tail[_HISTORY - 1, first:last]
            chunk.page_into(0, chunk.first_page(k), run, key)
            for i, top, bottom in spans:
                self._pages(k, i, bottom - top, run, flat)
                keep = 1 if (i, top, bottom) == spans[-1] else _HISTORY
                shape = (first, bottom - top, keep)
                span = (top, min(bottom, row + 1))
                self._work.tile(flat, sizes, span, self._tail, self._order, *shape, *nowhere)
            begins = starts[k * count : (k + 1) * count]
            self._inverse.merge(layout.label[first:last], begins, self._tail[_HISTORY - 1], out[first:last])

    def _pages(
        self, k: int, i: int, height: int, run: tuple[int, memoryview] | None, flat: NDArray[np.unsignedinteger]
    ) -> None:
        """The residuals of tile ``i`` of strip ``k`` class by class."""
        chunk, count = self._chunk, self._chunk.layout.classes
        widths = self._chunk.layout.widths[k * count : (k + 1) * count]
        present = [(c, width) for c, width in enumerate(widths) if width]
        number, at = chunk.first_page(k) + 1 + i * len(present), 0
        for c, width in present:
            stop = at + height * width
            chunk.page_into(chunk.stream(i, c), number, run, flat[at:stop])
            number, at = number + 1, stop

    def _strip(
        self,
        k: int,
        spans: list[tuple[int, int, int]],
        flat: NDArray[np.unsignedinteger],
        rows: slice,
        target: tuple[NDArray[np.unsignedinteger], int, int, bool],
    ) -> int:
        """The tiles ``spans`` of one strip, page by page with pcodec; returns the number of differences (see :meth:`to`)."""
        chunk, layout, count = self._chunk, self._chunk.layout, self._chunk.layout.classes
        out, _, place, compare = target
        first, last = layout.strips[k]
        run, wrong = chunk.run(k, spans), 0
        if self._tiles == 0:
            key = self._tail[_HISTORY - 1, first:last]
            chunk.page_into(0, chunk.first_page(k), run, key)
            if rows.start == 0 and compare:
                wrong += int(np.count_nonzero(out[place + self._order[first:last]] != key))
            elif rows.start == 0:
                out[place + self._order[first:last]] = key
        sizes = np.array(layout.widths[k * count : (k + 1) * count], np.int64)
        for i, top, bottom in spans:
            self._pages(k, i, bottom - top, run, flat)
            keep = _HISTORY if i + 1 < len(chunk.spans) else 0
            shape = (first, bottom - top, keep)
            wrong += self._work.tile(flat, sizes, (top, bottom), self._tail, self._order, *shape, rows, *target)
        return wrong


class Decoded:
    """Some columns of a chunk, decoded from row 0 as far as anybody has asked, and kept.

    With ``window`` only the last tile is kept, for chunks of which many must fit into memory; going back then starts anew.
    """

    def __init__(self, chunk: Chunk, columns: Selection = None, *, window: bool = False, inverse: Any = None) -> None:
        """``columns`` (k,): numbers of columns in any order, None for all of them; ``inverse``: the compiled pass, used for all columns alone."""
        self.chunk = chunk
        self.number, self.predictor = chunk.number, chunk.predictor
        self._columns = columns
        self._window = window
        self._steps = chunk.steps(columns) if chunk.form == GRID else None
        layout = chunk.layout
        self._run: Run | None = None
        self._inverse = inverse if columns is None and may_run(chunk, inverse) else None
        if columns is None:
            self._groups = [g for g, width in enumerate(layout.widths) if width]
            self._place = np.empty(chunk.columns, np.int64)
            if self._inverse is None:
                self._place[layout.order()] = np.arange(chunk.columns)
        else:
            self._groups = sorted(set(layout.groups(columns).tolist()))
            if len(self._groups) > _MANY_GROUPS:
                layout.starts  # noqa: B018  counted for all at once
            self._place = layout.places(columns, self._groups)
        self._wide = chunk.columns if columns is None else sum(layout.width(g) for g in self._groups)
        # few of the decoded columns are wanted: drop the others before predicting; else put in order when read
        self.narrow = 2 * len(self._place) <= self._wide
        self.width = len(self._place) if self.narrow else self._wide
        self._base = self.done = 0  # rows [base, done) are held
        self._held = np.empty((0, self.width), chunk.number.unsigned)

    @property
    def nbytes(self) -> int:
        """Bytes held when fully decoded."""
        rows = _HISTORY + self.chunk.shape.tile if self._window else self.chunk.rows
        return rows * self.width * self._held.itemsize + 8 * len(self._place)

    @property
    def decoded(self) -> int:
        """Values of a row that must be decoded to find the wanted ones."""
        return self._wide

    @property
    def fresh(self) -> bool:
        """True while nothing has been decoded of what needs steps through time."""
        return self.done == 0 and self.chunk.form != PLAIN

    def rows(self, start: int, stop: int, step: int = 1, columns: Selection = None) -> NDArray[np.unsignedinteger]:
        """Patterns (n, k) of rows ``start:stop:step`` in the order of the selected columns; ``columns``: of these only those of such numbers."""
        if self.chunk.form == PLAIN:
            plain = self._plain(slice(start, stop, step))
            return plain if columns is None else plain[:, columns]
        if start < self._base:
            self._base = self.done = 0
            self._run = None
        while self.done < stop:
            target = self._tile_end(self.done + 1 if self._window else stop)
            if self._window and self.done > start:
                break
            self.advance(target)
        if self.done < stop:  # a window slides: take what is there, then the rest
            first = self.rows(start, self.done, step, columns)
            return np.concatenate([first, self.rows(start + len(first) * step, stop, step, columns)])
        held = self._held[start - self._base : stop - self._base : step]
        places = columns
        if not (self.narrow or self._inverse is not None):  # not in order
            places = self._place if columns is None else self._place[columns]
        values = held if places is None else np.take(held, places, axis=1)
        if self._steps is None:
            return values
        return grid.from_codes(values, self._steps if columns is None else self._steps[columns], self.chunk.pattern)

    def _tile_end(self, row: int) -> int:
        """The end of the tile that row ``row - 1`` is in."""
        return min(-(-row // self.chunk.shape.tile) * self.chunk.shape.tile, self.chunk.rows)

    def prepare(self, stop: int) -> tuple[NDArray[np.unsignedinteger], int]:
        """Rows up to the tile that ends at or after ``stop`` with the new ones still residuals, and how many are patterns already."""
        stop = self._tile_end(stop)
        lead = min(_HISTORY, self.done)
        picking = self.narrow and (len(self._groups) == 1 or self._wide >= _WORTH_PICKING)
        picks = self._picks() if picking else None
        width = self._wide if picks is None else self.width
        fresh: NDArray[Any] = np.empty((stop - self.done, width), self._held.dtype)
        self.chunk.fill(self._groups, self.done, fresh, picks)
        if self.narrow:
            fresh = fresh if picks is not None else np.take(fresh, self._place, axis=1)
            self.chunk.forget_tables()  # far larger than the few columns: of many chunks they would fill the memory
        if lead == 0:
            return fresh, 0
        return np.concatenate([self._held[len(self._held) - lead :], fresh]), lead

    def _picks(self) -> Picks:
        """Which columns of each group are wanted."""
        if len(self._groups) == 1:
            return {self._groups[0]: (self._place, np.arange(len(self._place)))}
        found, at = {}, 0
        for g in self._groups:
            width = self.chunk.layout.width(g)
            wanted = np.flatnonzero((self._place >= at) & (self._place < at + width))
            found[g] = (self._place[wanted] - at, wanted)
            at += width
        return found

    def accept(self, rows: NDArray[np.unsignedinteger], lead: int) -> None:
        """Take what :meth:`prepare` gave, restored."""
        if self._window or self._base == self.done:
            self._base, self._held = self.done - lead, rows
        else:
            self._held = np.concatenate([self._held, rows[lead:]])
        self.done += len(rows) - lead

    def advance(self, stop: int) -> None:
        """Decode up to the end of the tile that row ``stop - 1`` is in."""
        if self._inverse is not None:
            self._go_on(self._tile_end(stop))
            return
        rows, lead = self.prepare(stop)
        restore(rows, self.chunk.number, self.chunk.predictor, max(lead, 1))
        self.accept(rows, lead)

    def _go_on(self, stop: int) -> None:
        """The compiled way: rows are held in the order of the columns."""
        if self._run is None:
            self._run = Run(self.chunk, self._inverse)
        rows, n = slice(self.done, stop, 1), self.chunk.columns
        if self._window:
            self._base, self._held = self.done, np.empty((stop - self.done, n), self._held.dtype)
        elif self.done == 0:
            self._held = np.empty((self.chunk.rows, n), self._held.dtype)
        self._run.to(rows, self._held.reshape(-1), n, (self.done - self._base) * n)
        self.done = stop

    def _plain(self, rows: slice) -> NDArray[np.unsignedinteger]:
        """Patterns (n, k) of these rows of a plain chunk."""
        columns = np.arange(self.chunk.columns) if self._columns is None else self._columns
        strip = columns // self.chunk.shape.strip
        out = np.empty((len(range(*rows.indices(self.chunk.rows))), len(columns)), self.chunk.pattern.unsigned)
        for k in np.unique(strip).tolist():
            mine = strip == k
            out[:, mine] = self.chunk.plain(k)[rows, columns[mine] - self.chunk.layout.strips[k][0]]
        return out


def advance_together(parts: Sequence[tuple[Narrow, int]]) -> None:
    """Decode several narrow, fresh parts up to their rows: those under one rule take the steps through time together."""

    def kind(part: tuple[Narrow, int]) -> tuple[int, int]:
        """Parts of one kind take their steps in one array."""
        return part[0].number.code, part[0].predictor.rule

    for _, members in groupby(sorted(parts, key=kind), key=kind):
        group = list(members)
        some = [part for part, _ in group]
        work = sum(part.decoded * stop for part, stop in group)
        tasks = (partial(part.prepare, stop) for part, stop in group)
        rows = [fresh for fresh, _ in in_order(tasks, threads() if work >= WORTH_THREADS else 1)]
        # shorter ones end in zeros, whose predictions nobody reads
        together = np.zeros((max(map(len, rows)), sum(own.shape[1] for own in rows)), rows[0].dtype)
        factors = np.repeat([part.predictor.factor for part in some], [own.shape[1] for own in rows])
        at = 0
        for own in rows:
            together[: len(own), at : at + own.shape[1]] = own
            at += own.shape[1]
        with np.errstate(all="ignore"):
            restore(together, some[0].number, some[0].predictor, factors=factors)
        at = 0
        for part, own in zip(some, rows):
            part.accept(np.ascontiguousarray(together[: len(own), at : at + own.shape[1]]), 0)
            at += own.shape[1]

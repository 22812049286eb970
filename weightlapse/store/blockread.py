"""Reading block files: compressed segments, decoded piecewise and only where asked."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weightlapse.store.block as block
from weightlapse.errors import DamagedRecording
from weightlapse.store.block import Index, Opening, lanes, pieces_of, read_chunk_head
from weightlapse.store.cache import Cache
from weightlapse.store.codecs.decode import Chunk, Decoded, Selection, advance_together
from weightlapse.store.codecs.plan import Piece
from weightlapse.store.journal import LayoutEpoch
from weightlapse.store.layout import TensorSpec
from weightlapse.store.log import HEADER_NBYTES, decode_header, record_starts, records
from weightlapse.store.region import Region, flat_elements, region_shape
from weightlapse.store.segment import Damage, Frames, find_layout

_NARROW = 64  # columns: below, blocks are decoded together, because the steps through time cost more than the values


class BlockSegment:
    """A block file over its bytes. ``rebuilt`` says so when its index was lost and found again by a scan."""

    def __init__(self, file: str, data: NDArray[np.uint8], epochs: Sequence[LayoutEpoch], cache: Cache) -> None:
        self.file = file
        self._data = np.asarray(data)  # a plain array: slices of a memmap are slow to make
        self._cache = cache
        self._pieces: dict[int, list[tuple[int, int, Piece]]] = {}
        self.rebuilt: str | None = None
        opening, first = _find_opening(data)
        if opening is None:
            raise DamagedRecording(f"{file} does not begin with the record of a block file, nor can one be found in it")
        layout = find_layout(epochs, opening.epoch, opening.row_nbytes, opening.layout_crc)
        if layout is None or first < 0:
            raise DamagedRecording(f"{file} does not fit any layout of the recording")
        self.layout = layout
        self.opening, self.first, self.count = opening, first, opening.count
        try:
            self._index = self._read_index(opening)
        except DamagedRecording as error:
            self.rebuilt = str(error)
            self._index = self._rebuild()
        self.steps = self._index.steps

    def _read_index(self, opening: Opening) -> Index:
        record = next(records(self._data, opening.index), None) if opening.index else None
        if record is None or record.kind != block.INDEX:
            raise DamagedRecording("the index fails its checksum")
        index = Index.unpack(record.payload.tobytes(), opening.blocks)
        if len(index.steps) != self.count or index.bounds.shape[1] not in (0, len(self.layout.tensors)):
            raise DamagedRecording("the index does not fit the layout")
        return index

    def _rebuild(self) -> Index:
        """The index from the chunks themselves; a chunk that is lost has no place, a lost list of steps only -1."""
        height = self.opening.height
        steps = np.full(self.count, -1, np.int64)
        chunks: dict[tuple[Piece, ...], int] = {}
        found: dict[tuple[int, int], tuple[int, int]] = {}
        for kind, start, payload in _scan(self._data):
            if kind == block.STEPS:
                listed = _steps(payload)
                steps = listed if len(listed) == self.count else steps
            elif kind == block.CHUNK and (head := read_chunk_head(payload)) is not None:
                chunk = chunks.setdefault(head[2], len(chunks))
                found[head[0] // height, chunk] = (start + HEADER_NBYTES + head[3], len(payload) - head[3])
        places = np.zeros((self.opening.blocks, len(chunks), 2), np.uint64)
        for (b, chunk), place in found.items():
            if b < len(places):
                places[b, chunk] = place
        # bounds were only in the index: they are in the chunks too, and read from there
        return Index(tuple(chunks), places, np.empty((len(places), 0)), steps)

    # ---- values ----------------------------------------------------------------------------------------------------

    def read(self, tensor: int, frames: Frames, region: Region) -> NDArray[Any]:
        with self._cache.lock:
            return self.begin(tensor, frames, region)[1]()

    def begin(
        self, tensor: int, frames: Frames, region: Region
    ) -> tuple[list[tuple[Decoded, int]], Callable[[], NDArray[Any]]]:
        """The first half of a read: narrow parts that may be advanced together with those of other segments, and the second half.

        The lock of the cache must be held from here to the end of the second half.
        """
        spec = self.layout.tensors[tensor]
        numbers = np.arange(self.count)[frames]
        shape = (len(numbers), *region_shape(spec.shape, region))
        count = lanes(spec)[1]
        wanted = flat_elements(spec.shape, region, count)
        if not len(wanted) or not len(numbers):
            return [], lambda: np.empty(shape, spec.storage)
        if tensor not in self._pieces:
            self._pieces[tensor] = pieces_of(self._index.chunks, tensor, spec)
        out = np.empty((len(numbers), len(wanted)), f"<u{spec.storage.itemsize // count}")
        todo: list[tuple[Decoded, NDArray[np.int64], Any, Any]] = []
        for b in np.unique(numbers // self.opening.height).tolist():
            here = numbers // self.opening.height == b
            rows = numbers[here] - b * self.opening.height
            where = slice(None) if here.all() else here
            for c, columns, target in _selections(self._pieces[tensor], wanted):
                todo.append((self._decoded(b, c, columns, spec), rows, where, target))
        fresh = [(part, int(rows.max()) + 1) for part, rows, _, _ in todo if part.width < _NARROW and part.fresh]

        def finish() -> NDArray[Any]:
            self._fill(todo, out, spec)
            return out.view(spec.storage).reshape(shape)

        return fresh, finish

    def read_frame(self, tensors: Sequence[int], frame: int) -> list[NDArray[Any]]:
        """Whole tensors at one frame. A chunk that is wanted as a whole, or nearly, is decoded as a whole: once for all its tensors."""
        b, row = divmod(frame, self.opening.height)
        wanted = set(tensors)
        whole: dict[int, NDArray[np.unsignedinteger]] = {}
        with self._cache.lock:
            for c, pieces in enumerate(self._index.chunks):
                inside = sum(p.stop - p.start for p in pieces if p.tensor in wanted)
                if len(pieces) > 1 and 2 * inside > sum(p.stop - p.start for p in pieces):
                    spec = self.layout.tensors[pieces[0].tensor]
                    with self._told(spec):
                        whole[c] = self._decoded(b, c, None, spec).rows(row, row + 1)[0]
            return [self._from_chunks(tensor, frame, whole) for tensor in tensors]

    def _from_chunks(self, tensor: int, frame: int, whole: dict[int, NDArray[np.unsignedinteger]]) -> NDArray[Any]:
        spec = self.layout.tensors[tensor]
        if spec.size == 0:
            return np.empty(spec.shape, spec.storage)
        if tensor not in self._pieces:
            self._pieces[tensor] = pieces_of(self._index.chunks, tensor, spec)
        pieces = self._pieces[tensor]
        if len(pieces) == 1 and pieces[0][0] in whole:
            c, at, piece = pieces[0]
            values = np.array(whole[c][at : at + piece.stop])
            return values.view(spec.storage).reshape(spec.shape)
        return self.read(tensor, slice(frame, frame + 1), (slice(None),) * len(spec.shape))[0, ...]

    def _fill(self, todo: list[Any], out: NDArray[Any], spec: TensorSpec) -> None:
        with self._told(spec):
            fresh = [(part, int(rows.max()) + 1) for part, rows, _, _ in todo if part.width < _NARROW and part.fresh]
            if len(fresh) > 1:
                advance_together(fresh)
            for part, rows, where, target in todo:
                values = _take_rows(part, rows)
                if isinstance(where, slice) or isinstance(target, slice):
                    out[where, target] = values
                else:
                    out[np.ix_(where, target)] = values

    @contextmanager
    def _told(self, spec: TensorSpec) -> Iterator[None]:
        """Damage that is found inside is told with the tensor, the frames and the file."""
        try:
            yield
        except DamagedRecording as error:
            raise DamagedRecording(
                f"values of {spec.name} in frames {self.first} to {self.first + self.count - 1} are damaged in {self.file} ({error}): they are "
                "not returned; other values can still be read, and `weightlapse verify` lists what is damaged"
            ) from error

    def _decoded(self, b: int, c: int, columns: Selection, spec: TensorSpec) -> Decoded:
        chunk = self._chunk(b, c)
        if chunk.pattern.name != lanes(spec)[0]:
            raise DamagedRecording(
                f"a chunk of {self.file} holds {chunk.pattern.name} where {spec.name} is {spec.dtype}"
            )
        if columns is not None and len(columns) == chunk.columns:
            columns = None
        key = (self.file, b, c, None if columns is None else columns.tobytes())
        window = self._frame_nbytes(b) > self._cache.limit // 2
        return self._cache.get(key, lambda: Decoded(chunk, columns, window=window))

    def _frame_nbytes(self, b: int) -> int:
        """Bytes of a whole time block when decoded."""
        return self.layout.row_nbytes * min(self.opening.height, self.count - b * self.opening.height)

    def _chunk(self, b: int, c: int) -> Chunk:
        def opened() -> Chunk:
            start, length = (int(n) for n in self._index.places[b, c])
            if length == 0 or start + length > len(self._data):
                raise DamagedRecording(f"a chunk of {self.file} is lost")
            chunk = Chunk(self._data[start : start + length])
            rows = min(self.opening.height, self.count - b * self.opening.height)
            columns = sum(piece.stop - piece.start for piece in self._index.chunks[c])
            if (chunk.rows, chunk.columns) != (rows, columns):
                raise DamagedRecording(
                    f"a chunk of {self.file} holds {chunk.rows} x {chunk.columns} values, not {rows} x {columns}"
                )
            return chunk

        return self._cache.get((self.file, b, c), opened)

    def bound(self, tensor: int, frame: int) -> float:
        b = frame // self.opening.height
        if self._index.bounds.shape[1]:
            return float(self._index.bounds[b, tensor])
        if self.rebuilt is None:
            return 0.0
        with self._cache.lock:
            bounds = [0.0]
            for c, _, piece in pieces_of(self._index.chunks, tensor, self.layout.tensors[tensor]):
                held = self._chunk(b, c).bounds
                bounds.append(held[self._index.chunks[c].index(piece)] if held else 0.0)
            return max(bounds)

    def bound_changes(self) -> range:
        return range(0, self.count, self.opening.height)

    # ---- checking --------------------------------------------------------------------------------------------------

    def verify(self) -> list[Damage]:
        """Every record and every page; a damaged page costs the frames of its time block for its tensors."""
        found = []
        if self.rebuilt is not None:
            found.append(Damage(self.file, f"{self.rebuilt}; its contents were found by a scan of the file"))
        if (self.steps < 0).any():
            found.append(Damage(self.file, "the step numbers are lost", self.first, self.first + self.count))
        if self.rebuilt is None and not any(kind == block.STEPS for kind, _, _ in _scan(self._data)):
            found.append(Damage(self.file, "the second copy of the step numbers fails its checksum"))
        held = Counter[int]()
        for piece in (p for pieces in self._index.chunks for p in pieces):
            held[piece.tensor] += piece.stop - piece.start
        absent = [spec.name for i, spec in enumerate(self.layout.tensors) if held[i] < spec.size]
        if absent:
            what = f"no chunk holds all of {', '.join(absent[:8])}{', ...' if len(absent) > 8 else ''}"
            found.append(Damage(self.file, what, self.first, self.first + self.count))
        intact = dict(_chunk_records(self._data))
        for b in range(self.opening.blocks):
            first = b * self.opening.height
            last = min(first + self.opening.height, self.count)
            for c, pieces in enumerate(self._index.chunks):
                names = ", ".join(dict.fromkeys(self._name(p.tensor) for p in pieces))
                try:
                    Decoded(self._chunk(b, c)).rows(0, last - first)
                except DamagedRecording as error:
                    found.append(Damage(self.file, f"{names}: {error}", self.first + first, self.first + last))
                    continue
                if not intact.get(int(self._index.places[b, c, 0]), False):
                    found.append(
                        Damage(self.file, f"the record around {names} fails its checksum; its values are whole")
                    )
        return found

    def _name(self, tensor: int) -> str:
        return self.layout.tensors[tensor].name if tensor < len(self.layout.tensors) else f"tensor {tensor}"


def _take_rows(part: Decoded, rows: NDArray[np.int64]) -> NDArray[np.unsignedinteger]:
    start, stop = int(rows.min()), int(rows.max()) + 1
    step = int(rows[1] - rows[0]) if len(rows) > 1 else 1
    if step > 0 and (len(rows) < 3 or (np.diff(rows) == step).all()):
        return part.rows(start, stop, step)
    return part.rows(start, stop)[rows - start]


def _selections(
    pieces: list[tuple[int, int, Piece]], wanted: range | NDArray[np.int64]
) -> Iterator[tuple[int, Selection, Any]]:
    """(chunk, its columns, where they go in the result) for the wanted elements of a tensor."""
    for c, at, piece in pieces:
        if isinstance(wanted, range):
            first, last = max(wanted.start, piece.start), min(wanted.stop, piece.stop)
            if first < last:
                columns = np.arange(first - piece.start + at, last - piece.start + at)
                yield c, columns, slice(first - wanted.start, last - wanted.start)
        else:
            mine = (wanted >= piece.start) & (wanted < piece.stop)
            if mine.any():
                yield c, wanted[mine] - piece.start + at, mine


def _find_opening(data: NDArray[np.uint8]) -> tuple[Opening | None, int]:
    """The opening of a block file and its first frame: from its first record, else from any that repeats it."""
    for kind, _, payload, number in _opening_records(data):
        if kind in (block.BLOCK, block.STEPS):
            try:
                return Opening.unpack(payload.tobytes()[: block.OPENING.size]), number
            except DamagedRecording:
                continue
    return None, -1


def _opening_records(data: NDArray[np.uint8]) -> Iterator[tuple[bytes, int, NDArray[np.uint8], int]]:
    record = next(records(data), None)
    if record is not None:
        yield record.kind, record.start, record.payload, record.number
    if record is None or record.kind != block.BLOCK:
        for start in record_starts(data):
            record = next(records(data, start), None)
            if record is not None:
                yield record.kind, record.start, record.payload, record.number


def _scan(data: NDArray[np.uint8]) -> Iterator[tuple[bytes, int, NDArray[np.uint8]]]:
    """Every record with a right header, whatever lies between; the payload's own checksum is left to its user for chunks."""
    end = 0
    for start in record_starts(data):
        if start < end:
            continue
        header = decode_header(data[start : start + HEADER_NBYTES].tobytes())
        if header is None or header[1] > len(data) - start - HEADER_NBYTES:
            continue
        payload = data[start + HEADER_NBYTES : start + HEADER_NBYTES + header[1]]
        if header[0] != block.CHUNK and zlib.crc32(payload.tobytes()) != header[3]:
            continue
        end = start + HEADER_NBYTES + header[1]
        yield header[0], start, payload


def _steps(payload: NDArray[np.uint8]) -> NDArray[np.int64]:
    try:
        data = block.inflate(payload.tobytes()[block.OPENING.size :])
    except DamagedRecording:
        return np.empty(0, np.int64)
    return np.frombuffer(data[: len(data) // 8 * 8], "<i8").astype(np.int64)


def _chunk_records(data: NDArray[np.uint8]) -> Iterator[tuple[int, bool]]:
    """(where the chunk begins, whether the record's checksum is right) for every CHNK record."""
    for kind, start, payload in _scan(data):
        head = read_chunk_head(payload) if kind == block.CHUNK else None
        if head is not None:
            crc = decode_header(data[start : start + HEADER_NBYTES].tobytes())
            yield start + HEADER_NBYTES + head[3], crc is not None and zlib.crc32(payload.tobytes()) == crc[3]

"""Reading block files: compressed segments, decoded piecewise and only where asked."""

from __future__ import annotations

import importlib
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import count, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import weightlapse.store.block as block
from weightlapse.errors import DamagedRecording
from weightlapse.store.belonging import Belonging, read_copies
from weightlapse.store.block import Index, Opening, Placed, check_pieces, lanes, pieces_by_tensor, read_chunk_head
from weightlapse.store.cache import Cache
from weightlapse.store.codecs.cutting import Piece
from weightlapse.store.codecs.decode import (
    WORTH_THREADS,
    Chosen,
    Chunk,
    Decoded,
    Narrow,
    Run,
    Selection,
    advance_together,
    compiled,
    may_run,
)
from weightlapse.store.codecs.few import Few, few_columns
from weightlapse.store.codecs.form import PACKED
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.files import Ahead, File, Part
from weightlapse.store.layout import TensorSpec
from weightlapse.store.log import BLOCK, HEADER_NBYTES, UNSEALED, Place, Seal, read_record, scan
from weightlapse.store.region import Region, flat_elements, region_shape
from weightlapse.store.segment import Damage, Frames, Out, targets
from weightlapse.store.threads import all_done, threads

_WINDOW = 1 << 20  # bytes read at once for checking
_NARROW = 64  # columns: below, blocks are decoded together, because the steps through time cost more than the values
_OFTEN = 2  # times the columns of a chunk that are unpacked for choices of them before it is unpacked as a whole
_FEW = 8  # columns: up to as many are read past all that would be kept of their chunk
_INSTANCE = count()  # tells the cached chunks of a file from those of one that was opened later under its name


class BlockSegment:
    """A block file. ``rebuilt`` says so when its index was lost and found again by a scan."""

    def __init__(self, number: int, file: File, ours: Belonging, cache: Cache) -> None:
        self.file, self.number = file.name, number
        self._file = file
        self._key = next(_INSTANCE)
        self._cache = cache
        self.rebuilt: str | None = None
        file = Ahead(file)
        found = _find_opening(file, ours.seal)
        if found is None:
            raise DamagedRecording(
                f"{file.name} does not begin with the record of a block file, nor can one be found in it"
            )
        opening, first, after = found
        self._seal = ours.check(file.name, number, opening.number, opening.id)
        layout = ours.layout(opening.epoch, opening.row_nbytes, opening.layout_crc)
        if opening.id is not None:
            ours.take_copies(read_copies(file, after, self._seal)[0], layout=layout is None)
            layout = ours.layout(opening.epoch, opening.row_nbytes, opening.layout_crc)
        if layout is None or first < 0:
            raise DamagedRecording(f"{file.name} does not fit any layout of the recording")
        if layout.value_nbytes and opening.blocks * HEADER_NBYTES > file.size:  # each holds a chunk at least
            raise DamagedRecording(
                f"{file.name} claims {opening.count} frames in {opening.blocks} time blocks, more than its {file.size} bytes can hold"
            )
        self.layout = layout
        self.opening, self.first, self.count = opening, first, opening.count
        try:
            self._index = self._read_index(opening)
        except DamagedRecording as error:
            self.rebuilt = str(error)
            self._index = self._rebuild()
        self.steps = self._index.steps
        self._placed: dict[int, Placed] | None = None
        self._checked: set[int] = set()
        self._spent: dict[
            tuple[int, int], int
        ] = {}  # values of a row that were unpacked for choices of columns, by chunk
        self._seen: set[tuple[int, int]] = set()  # the chunks of which a few columns were read

    def _read_index(self, opening: Opening) -> Index:
        record = read_record(self._file, opening.index, self._seal) if opening.index else None
        if record is None or record.kind != block.INDEX:
            raise DamagedRecording("the index fails its checksum")
        if record.number != self.first:
            raise DamagedRecording("the index is of another segment")
        own = b"" if opening.id is None else opening.id
        if not record.payload.startswith(own):
            raise DamagedRecording("the index is of another recording")
        index = Index.unpack(record.payload[len(own) :], opening.blocks, with_heads=opening.id is not None)
        if len(index.steps) != self.count or index.bounds.shape[1] not in (0, len(self.layout.tensors)):
            raise DamagedRecording("the index does not fit the layout")
        return index

    def _rebuild(self) -> Index:
        """The index from the chunks themselves; a chunk that is lost has no place, a lost list of steps only -1."""
        height = self.opening.height
        steps: NDArray[np.int64] = np.full(self.count, -1, np.int64)
        chunks: dict[tuple[Piece, ...], int] = {}
        found: dict[tuple[int, int], tuple[int, int]] = {}
        for place in scan(self._file):
            if place.kind == block.STEPS:
                listed = self._steps(place)
                steps = listed if len(listed) == self.count and place.number == self.first else steps
            elif place.kind == block.CHUNK and (head := self._chunk_head(place)) is not None:
                if not self._record_is_right(place):  # without an index only its seal says that it belongs here
                    continue
                chunk = chunks.setdefault(head[2], len(chunks))
                found[head[0] // height, chunk] = (place.payload + head[3], place.nbytes - head[3])
        places = np.zeros((self.opening.blocks, len(chunks), 2), np.uint64)
        for (b, chunk), where in found.items():
            if b < len(places):
                places[b, chunk] = where
        # bounds were only in the index: they are in the chunks too, and read from there
        return Index(tuple(chunks), places, np.empty((len(places), 0)), steps)

    def _chunk_head(self, place: Place) -> tuple[int, int, tuple[Piece, ...], int] | None:
        if place.number not in (0, self.number + 1):  # of another segment; earlier versions gave none
            return None
        return read_chunk_head(Part(self._file, place.payload, place.nbytes), self._seal)

    def _steps(self, place: Place) -> NDArray[np.int64]:
        record = read_record(self._file, place.start, self._seal)
        try:
            data = b"" if record is None else block.inflate(record.payload[self.opening.nbytes :])
        except DamagedRecording:
            data = b""
        return np.frombuffer(data[: len(data) // 8 * 8], "<i8").astype(np.int64)

    def _pieces(self, tensor: int) -> Placed:
        """Where the values of a tensor are."""
        if self._placed is None:
            self._placed = pieces_by_tensor(self._index.chunks)
        placed = self._placed.get(tensor, [])
        if tensor not in self._checked:
            with self._told(self.layout.tensors[tensor]):
                check_pieces(placed, self.layout.tensors[tensor])
            self._checked.add(tensor)
        return placed

    def edges(self, name: str) -> list[int]:
        """The elements of a tensor with which another chunk begins: a chunk is unpacked as a whole, or by its strips."""
        return [piece.start for _, _, piece in self._pieces(self.layout.index[name])]

    # ---- values ----------------------------------------------------------------------------------------------------

    def read(self, tensor: int, frames: Frames, region: Region) -> NDArray[Any]:
        """As `Segment.read`, one reader at a time: what is decoded on the way is kept in the cache, under its lock."""
        with self._cache.lock:
            return self.begin(tensor, frames, region)[1]()

    def begin(
        self, tensor: int, frames: Frames, region: Region
    ) -> tuple[list[tuple[Narrow, int]], Callable[[], NDArray[Any]]]:
        """The first half of a read: narrow parts that may be advanced together with those of other segments, and the second half.

        The lock of the cache must be held from here to the end of the second half.
        """
        spec = self.layout.tensors[tensor]
        numbers = range(self.count)[frames] if isinstance(frames, slice) else np.arange(self.count)[frames]
        shape = (len(numbers), *region_shape(spec.shape, region))
        each = lanes(spec)[1]
        wanted = flat_elements(spec.shape, region, each)
        if not len(wanted) or not len(numbers):
            return [], lambda: np.empty(shape, spec.storage)
        out = np.empty((len(numbers), len(wanted)), f"<u{spec.storage.itemsize // each}")
        todo: Todo = []
        parts = list(self._by_block(numbers))
        inverse = compiled(sum(rows.stop for _, rows, _ in parts) * len(wanted))
        selected = list(_selections(self._pieces(tensor), wanted))
        for b, rows, where in parts:
            with self._told(spec, b):
                for c, columns, target in selected:
                    few = self._few(b, c, columns, spec, rows.stop)
                    part = few if few is not None else self._decoded(b, c, columns, spec, inverse)
                    todo.append((part, rows, where, target))
        fresh = _narrow(todo)

        def finish() -> NDArray[Any]:
            self._fill(todo, out, spec)
            return out.view(spec.storage).reshape(shape)

        return fresh, finish

    def _by_block(self, numbers: range | NDArray[np.int64]) -> Iterator[tuple[int, Rows, Any]]:
        """(time block, rows in it, where they are among the frame numbers) for frames of the segment."""
        height = self.opening.height
        if isinstance(numbers, range) and numbers.step > 0:  # nearly always
            at = 0
            while at < len(numbers):
                b, start = divmod(numbers[at], height)
                rows = range(start, min(height, start + numbers.stop - numbers[at]), numbers.step)
                yield b, Rows(rows, start, rows[-1] + 1, numbers.step), slice(at, at + len(rows))
                at += len(rows)
            return
        numbers = np.asarray(numbers)
        blocks = numbers // height
        apart = np.diff(blocks)
        here: Any
        if (apart >= 0).all():  # each block's frames lie together
            edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(numbers)]
            found = [(int(blocks[a]), slice(a, b)) for a, b in pairwise(edges)]
        else:
            found = [(b, blocks == b) for b in np.unique(blocks).tolist()]
        for b, here in found:
            local = numbers[here] - b * height
            yield b, Rows(local, int(local.min()), int(local.max()) + 1, _even(local)), here

    def read_frame(self, tensors: Sequence[int], frame: int, out: Out = None) -> list[NDArray[Any]]:
        """Whole tensors at one frame, into ``out`` (by tensor, each in one piece) where it is given.

        A chunk that is wanted as a whole, or nearly, is decoded as a whole: once for all its tensors.
        """
        b, row = divmod(frame, self.opening.height)
        found = targets(self.layout, tensors, out)
        flat: dict[int, NDArray[Any]] = {}
        for t, values in found.items():
            spec = self.layout.tensors[t]
            if spec.size:
                flat[t] = values.reshape(-1).view(f"<u{spec.storage.itemsize // lanes(spec)[1]}")
                self._pieces(t)  # which are all there
        work = (row + 1) * sum(map(len, flat.values()))
        with self._cache.lock:
            all_done(self._frame_tasks(b, row, flat, compiled(work)), threads() if work >= WORTH_THREADS else 1)
        return [found[t] for t in tensors]

    def _frame_tasks(
        self, b: int, row: int, flat: Mapping[int, NDArray[Any]], inverse: Any
    ) -> Iterator[Callable[[], None]]:
        """What :meth:`read_frame` does, chunk by chunk: each is looked up when a thread is free for it."""
        for c, pieces in enumerate(self._index.chunks):
            for columns, mine in _wanted(pieces, flat):
                spec = self.layout.tensors[mine[0][1].tensor]
                with self._told(spec, b):
                    part = self._decoded(b, c, columns, spec, inverse)
                yield partial(self._frame_part, part, row, mine, flat)

    def _frame_part(
        self, part: Decoded | Chosen | Passing, row: int, pieces: Placing, flat: Mapping[int, NDArray[Any]]
    ) -> None:
        """One row of the columns of these pieces (at where each begins among them) into the tensors."""
        with self._told(self.layout.tensors[pieces[0][1].tensor]):
            at, piece = pieces[0]
            if len(pieces) == 1 and at == 0 and isinstance(part, Passing):
                part.into(
                    Rows(range(row, row + 1), row, row + 1, 1),
                    flat[piece.tensor][None],
                    slice(0, 1),
                    slice(piece.start, piece.stop),
                )
                return
            values = part.rows(row, row + 1)[0]
            for at, piece in pieces:
                flat[piece.tensor][piece.start : piece.stop] = values[at : at + piece.stop - piece.start]

    def _fill(self, todo: list[Any], out: NDArray[Any], spec: TensorSpec) -> None:
        with self._told(spec):
            fresh = _narrow(todo)
            if len(fresh) > 1:
                advance_together(fresh)
            work = sum(part.width * rows.stop for part, rows, _, _ in todo)
            count = threads() if work >= WORTH_THREADS else 1
            all_done((partial(_put, part, rows, out, where, target) for part, rows, where, target in todo), count)

    @contextmanager
    def _told(self, spec: TensorSpec, b: int | None = None) -> Iterator[None]:
        """Damage that is found inside is told with the tensor, the frames (of time block ``b``) and the file."""
        try:
            yield
        except DamagedRecording as error:
            first, stop = 0, self.count
            if b is not None:
                first, stop = b * self.opening.height, min((b + 1) * self.opening.height, self.count)
            raise DamagedRecording(
                f"values of {spec.name} in frames {self.first + first} to {self.first + stop - 1} are damaged in {self.file} ({error}): they are "
                "not returned; other values can still be read, and `weightlapse verify` lists what is damaged"
            ) from error

    def _decoded(
        self, b: int, c: int, columns: Selection, spec: TensorSpec, inverse: Any
    ) -> Decoded | Chosen | Passing:
        """The columns of a chunk, by the compiled pass where it is given.

        Where as much was unpacked for one choice of columns after the other (of one small tensor after the other) as the whole chunk holds, it is
        unpacked as a whole, if there is room to keep it.
        """
        wide = columns is None or len(columns) >= _NARROW
        if wide and self._held_nbytes(b) > self._cache.limit // 2:  # too much to keep any of it for the next read
            n = sum(piece.stop - piece.start for piece in self._index.chunks[c])
            some = None if columns is not None and len(columns) == n else columns
            found = Passing(partial(self._opened, b, c, spec), some, n if some is None else len(some), inverse)
            if some is None and inverse is not None and lanes(spec)[0] == "float32":
                found.straight = partial(self._straight, b, c)
            return found
        chunk = self._chunk(b, c)
        self._check_dtype(chunk, spec)
        if columns is not None and len(columns) == chunk.columns:
            columns = None
        key = (self._key, b, c, None if columns is None else columns.tobytes())
        window = self._frame_nbytes(b) > self._cache.limit // 2
        if columns is None or key in self._cache:
            return self._cache.get(key, lambda: Decoded(chunk, columns, window=window, inverse=inverse))
        every = self._key, b, c, None
        enough = _OFTEN * chunk.columns
        if every in self._cache or (self._spent.get((b, c), 0) >= enough and not window and not self._cache.full):
            return Chosen(self._cache.get(every, lambda: Decoded(chunk, inverse=inverse)), columns)
        part = self._cache.get(key, lambda: Decoded(chunk, columns, window=window, inverse=inverse))
        self._spent[b, c] = self._spent.get((b, c), 0) + part.decoded
        return part

    def _few(self, b: int, c: int, columns: Selection, spec: TensorSpec, stop: int) -> Few | None:
        """A few columns of a chunk that nobody has looked at yet: it is opened for good when somebody comes back to it."""
        if columns is None or len(columns) > _FEW or self._index.heads is None or (b, c) in self._seen:
            return None
        self._seen.add((b, c))
        start, length = self._index.places[b, c].tolist()
        if length == 0 or start + length > self._file.size:
            return None
        shape = min(self.opening.height, self.count - b * self.opening.height), self._columns_of(c)
        source, kind = Part(self._file, start, length), PATTERNS[lanes(spec)[0]]
        return few_columns(source, int(self._index.heads[b, c]), shape, kind, columns.tolist(), stop)

    def _opened(self, b: int, c: int, spec: TensorSpec) -> Chunk:
        chunk = self._open_chunk(b, c)
        self._check_dtype(chunk, spec)
        return chunk

    def _straight(self, b: int, c: int, row: int, out: NDArray[np.unsignedinteger]) -> bool:
        """The patterns of one row of a chunk into ``out``, False where it has to be opened and looked at."""
        start, length = self._index.places[b, c].tolist()
        if length == 0 or start + length > self._file.size:
            return False
        head = None if self._index.heads is None else int(self._index.heads[b, c])
        rows = min(self.opening.height, self.count - b * self.opening.height)
        return straight_row()(Part(self._file, start, length), head, rows, row, out)

    def _check_dtype(self, chunk: Chunk, spec: TensorSpec) -> None:
        if chunk.pattern.name != lanes(spec)[0]:
            raise DamagedRecording(
                f"a chunk of {self.file} holds {chunk.pattern.name} where {spec.name} is {spec.dtype}"
            )

    def _frame_nbytes(self, b: int) -> int:
        """Bytes of a whole time block when decoded."""
        return self.layout.row_nbytes * min(self.opening.height, self.count - b * self.opening.height)

    def _held_nbytes(self, b: int) -> int:
        """Bytes of a time block when of each chunk only what consecutive frames need is held."""
        return min(self._frame_nbytes(b), 20 * self.layout.row_nbytes)

    def _chunk(self, b: int, c: int) -> Chunk:
        return self._cache.get((self._key, b, c), lambda: self._open_chunk(b, c))

    def _open_chunk(self, b: int, c: int) -> Chunk:
        start, length = (int(n) for n in self._index.places[b, c])
        if length == 0 or start + length > self._file.size:
            raise DamagedRecording(f"a chunk of {self.file} is lost")
        chunk = Chunk(Part(self._file, start, length))
        if self._index.heads is not None and chunk.head_crc != self._index.heads[b, c]:
            raise DamagedRecording(f"a chunk of {self.file} is not the one that its index names")
        rows = min(self.opening.height, self.count - b * self.opening.height)
        columns = self._columns_of(c)
        if (chunk.rows, chunk.columns) != (rows, columns):
            raise DamagedRecording(
                f"a chunk of {self.file} holds {chunk.rows} x {chunk.columns} values, not {rows} x {columns}"
            )
        return chunk

    def _columns_of(self, c: int) -> int:
        return sum(piece.stop - piece.start for piece in self._index.chunks[c])

    def bound(self, tensor: int, frame: int) -> float:
        """As `Segment.bound`, which is one for each time block: from the index, or, where that was rebuilt, from the heads of the chunks."""
        b = frame // self.opening.height
        if self._index.bounds.shape[1]:
            return float(self._index.bounds[b, tensor])
        if self.rebuilt is None:
            return 0.0
        with self._cache.lock:
            bounds = [0.0]
            placed = self._pieces(tensor)
            with self._told(self.layout.tensors[tensor], b):
                for c, _, piece in placed:
                    held = self._chunk(b, c).bounds
                    bounds.append(held[self._index.chunks[c].index(piece)] if held else 0.0)
            return max(bounds)

    def bound_changes(self) -> range:
        """The first frame of each time block."""
        return range(0, self.count, self.opening.height)

    @property
    def chunks(self) -> tuple[tuple[Piece, ...], ...]:
        """The pieces of each chunk, the same in all time blocks."""
        return self._index.chunks

    def patterns(self, b: int, c: int) -> NDArray[np.unsignedinteger]:
        """All of chunk ``c`` of time block ``b``, (frames, values): decoded and not kept."""
        rows = min(self.opening.height, self.count - b * self.opening.height)
        for t in dict.fromkeys(piece.tensor for piece in self._index.chunks[c]):
            self._pieces(t)
        with self._told(self.layout.tensors[self._index.chunks[c][0].tensor]):
            chunk = self._open_chunk(b, c)
            return Decoded(chunk, inverse=compiled(chunk.rows * chunk.columns)).rows(0, rows)

    # ---- checking --------------------------------------------------------------------------------------------------

    def verify(self, look: Callable[[int, int, NDArray[Any]], None] | None = None) -> list[Damage]:
        """Every record and every page; a damaged page costs the frames of its time block for its tensors.

        ``look`` is shown all values, chunk by chunk (time block, chunk, patterns).
        """
        found = []
        if self.rebuilt is not None:
            found.append(Damage(self.file, f"{self.rebuilt}; its contents were found by a scan of the file"))
        if (self.steps < 0).any():
            found.append(Damage(self.file, "the step numbers are lost", self.first, self.first + self.count))
        places = list(scan(self._file))
        records = {place.start: self._record_is_right(place) for place in places}
        kinds = [p for p in places if p.kind == block.STEPS and p.number == self.first and records[p.start]]
        if self.rebuilt is None and not kinds:
            found.append(Damage(self.file, "the second copy of the step numbers fails its checksum"))
        held = Counter[int]()
        for piece in (p for pieces in self._index.chunks for p in pieces):
            held[piece.tensor] += piece.stop - piece.start
        absent = [spec.name for i, spec in enumerate(self.layout.tensors) if held[i] < spec.size]
        if absent:
            what = f"no chunk holds all of {', '.join(absent[:8])}{', ...' if len(absent) > 8 else ''}"
            found.append(Damage(self.file, what, self.first, self.first + self.count))
        intact = {}
        for place in places:
            head = self._chunk_head(place) if place.kind == block.CHUNK else None
            if head is not None:
                intact[place.payload + head[3]] = records[place.start]
            elif place.kind not in (BLOCK, block.CHUNK, block.STEPS) and not records[place.start]:
                found.append(
                    Damage(self.file, f"the record {place.kind.decode('ascii', 'replace')} fails its checksum")
                )
        inverse = compiled(self.count * self.layout.row_nbytes // 4)
        for b in range(self.opening.blocks):
            first = b * self.opening.height
            last = min(first + self.opening.height, self.count)
            for c, pieces in enumerate(self._index.chunks):
                names = ", ".join(dict.fromkeys(self._name(p.tensor) for p in pieces))
                try:
                    values = Decoded(self._chunk(b, c), inverse=inverse).rows(0, last - first)
                except DamagedRecording as error:
                    found.append(Damage(self.file, f"{names}: {error}", self.first + first, self.first + last))
                    continue
                if look is not None:
                    look(b, c, values)
                if not intact.get(int(self._index.places[b, c, 0]), False):
                    found.append(
                        Damage(self.file, f"the record around {names} fails its checksum; its values are whole")
                    )
        if not found and not self.records_are_right(records):
            found.append(Damage(self.file, "a record that is there twice fails its checksum; every value is whole"))
        return found

    def records_are_right(self, known: Mapping[int, bool] | None = None) -> bool:
        """Whether the file is whole records with right checksums, one after the other; ``known``: of those that were looked at, by their start."""
        end = 0
        for place in scan(self._file):
            padding = self._file.read(place.payload + place.nbytes, min(place.end, self._file.size))
            right = self._record_is_right(place) if known is None else known[place.start]
            if place.start != end or any(padding) or not right:
                return False
            end = place.end
        return end == self._file.size

    def _record_is_right(self, place: Place) -> bool:
        crc, at = self._seal.at(place.kind, place.start), place.payload
        while at < place.payload + place.nbytes:
            stop = min(at + _WINDOW, place.payload + place.nbytes)
            crc, at = zlib.crc32(self._file.read(at, stop), crc), stop
        return crc == place.crc

    def _name(self, tensor: int) -> str:
        return self.layout.tensors[tensor].name if tensor < len(self.layout.tensors) else f"tensor {tensor}"


@lru_cache(maxsize=1)
def straight_row() -> Callable[..., bool]:
    """``codecs.straight.float_row``, for whom the compiler is loaded."""
    return importlib.import_module("weightlapse.store.codecs.straight").float_row  # type: ignore[no-any-return]


class Rows(NamedTuple):
    """Rows of a time block."""

    numbers: range | NDArray[np.int64]
    start: int  # the first
    stop: int  # behind the last
    step: int  # where they rise evenly, else 0


class Passing:
    """Columns of a chunk that is opened, decoded and dropped when it is read: where too many are wanted to hold them all."""

    fresh = False
    straight: Callable[[int, NDArray[Any]], bool] | None = (
        None  # one row of all columns, where that can be had with less
    )

    def __init__(self, opened: Callable[[], Chunk], columns: Selection, width: int, inverse: Any) -> None:
        self._opened, self._columns, self.width, self._inverse = opened, columns, width, inverse

    def rows(self, start: int, stop: int, step: int = 1) -> NDArray[np.unsignedinteger]:
        """Patterns (n, columns) of rows ``start:stop:step``; the chunk is opened and decoded anew by every call."""
        return Decoded(self._opened(), self._columns).rows(start, stop, step)

    def into(self, rows: Rows, out: NDArray[np.unsignedinteger], where: Any, target: Any) -> None:
        """The rows into ``out[where, target]`` (out in one piece): straight, where the compiled pass can."""
        together, count = isinstance(where, slice) and isinstance(target, slice), len(rows.numbers)
        if self.straight is not None and together and count == 1:
            to = where.start * out.shape[1] + target.start
            if self.straight(rows.start, out.reshape(-1)[to : to + self.width]):
                return
        chunk = self._opened()
        straight = self._columns is None and together and rows.step and may_run(chunk, self._inverse)
        if straight and (chunk.form == PACKED or count == 1):
            pitch = out.shape[1]
            if count == 1:
                to = where.start * pitch + target.start
                Run(chunk, self._inverse, once=True).row(rows.start, out.reshape(-1)[to : to + chunk.columns])
                return
            wanted = slice(rows.start, rows.stop, rows.step)
            Run(chunk, self._inverse, once=True).to(wanted, out.reshape(-1), pitch, where.start * pitch + target.start)
        else:
            part = Decoded(chunk, self._columns, inverse=self._inverse)
            _place(_take_rows(part, rows), out, where, target)


Todo = list[tuple[Decoded | Few | Chosen | Passing, Rows, Any, Any]]  # what, which rows, where they go


def _narrow(todo: Todo) -> list[tuple[Narrow, int]]:
    """The parts of few columns that have not been decoded yet, and up to which row they are wanted."""
    fresh = ((part, rows) for part, rows, _, _ in todo if isinstance(part, (Decoded, Few)) and part.fresh)
    return [(part, rows.stop) for part, rows in fresh if part.width < _NARROW]


def _put(part: Decoded | Few | Chosen | Passing, rows: Rows, out: NDArray[Any], where: Any, target: Any) -> None:
    if isinstance(part, Passing):
        part.into(rows, out, where, target)
    else:
        _place(_take_rows(part, rows), out, where, target)


def _place(values: NDArray[Any], out: NDArray[Any], where: Any, target: Any) -> None:
    if isinstance(where, slice) or isinstance(target, slice):
        out[where, target] = values
    else:
        out[np.ix_(where, target)] = values


def _even(rows: NDArray[np.int64]) -> int:
    """The distance of rows that rise evenly, 0 for others."""
    step = int(rows[1] - rows[0]) if len(rows) > 1 else 1
    return step if step > 0 and (len(rows) < 3 or bool((np.diff(rows) == step).all())) else 0


def _take_rows(part: Decoded | Few | Chosen | Passing, rows: Rows) -> NDArray[np.unsignedinteger]:
    if rows.step:
        return part.rows(rows.start, rows.stop, rows.step)
    return part.rows(rows.start, rows.stop)[np.asarray(rows.numbers) - rows.start]


Placing = list[tuple[int, Piece]]  # pieces, and where each begins among the columns


def _wanted(pieces: tuple[Piece, ...], tensors: Container[int]) -> Iterator[tuple[Selection, Placing]]:
    """The columns of a chunk that hold these tensors: all of them where most are wanted, else those of each piece."""
    at, mine = 0, []
    for piece in pieces:
        if piece.tensor in tensors:
            mine.append((at, piece))
        at += piece.stop - piece.start
    if 2 * sum(piece.stop - piece.start for _, piece in mine) > at:
        yield None, mine
    else:
        for first, piece in mine:
            yield np.arange(first, first + piece.stop - piece.start), [(0, piece)]


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


def _find_opening(file: File, seal: Seal) -> tuple[Opening, int, int] | None:
    """The opening of a block file, its first frame and the end of its list of steps: from its first record, else from the copy with the steps."""
    opening, first, after = None, -1, 0
    for place in _first_records(file):
        if place.kind not in (BLOCK, block.STEPS):
            continue
        record = read_record(file, place.start, UNSEALED if place.kind == BLOCK else seal)
        record = record or read_record(file, place.start, UNSEALED)  # of version 1
        if record is None:
            continue
        after = record.end
        if opening is None:
            try:
                opening, first = Opening.unpack(record.payload), record.number
            except DamagedRecording:
                continue
        if place.kind == block.STEPS:
            break
    return None if opening is None else (opening, first, after)


def _first_records(file: File) -> Iterator[Place]:
    """The records before the first chunk; all that can be found where none of them is a chunk."""
    for place in scan(file):
        if place.kind == block.CHUNK:
            return
        yield place

"""Reading log segments of packed frames (``packed.py`` says what one is)."""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.belonging import Belonging
from weightlapse.store.codecs.cutting import Piece
from weightlapse.store.files import Ahead, File
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.log import HEADER, HEADER_NBYTES, MAGIC, find_magic, record_nbytes
from weightlapse.store.packed import (
    ENTRY,
    FIXED,
    PACKED,
    PAGE_NBYTES,
    PackedFrame,
    group_ends,
    numbers_in,
    pack_frame,
    restored,
)
from weightlapse.store.packed_many import numbers_into
from weightlapse.store.packing import GROUP, Packed
from weightlapse.store.raw import PACKED_PAGES, Codes, RawSegment, find_opening
from weightlapse.store.segment import Damage
from weightlapse.store.threads import in_order, threads

_GRIDDED = ("float32", "bfloat16", "float16")  # dtypes that may have grid codes here
_AT_ONCE = 1024  # groups that one thread unpacks at a time
_HELD_NBYTES = 1 << 30  # of numbers kept between reads, so that the next frame costs one frame
_TABLES_NBYTES = 256 << 20  # of widths kept
_WINDOW = 1 << 20  # bytes read at once for checking


def _at_once(tasks: Sequence[Callable[[], None]]) -> None:
    """By all threads, where there is something to share."""
    for _ in in_order(tasks, threads() if len(tasks) > 1 else 1):
        pass


def open_segment(number: int, file: File, ours: Belonging, *, is_last: bool) -> RawSegment:
    """A log segment of either kind."""
    found = find_opening(Ahead(file))
    kind = PackedSegment if found is not None and found[0].page == PACKED_PAGES else RawSegment
    return kind(number, file, ours, is_last=is_last)


@dataclass(frozen=True)
class _Head:
    """What a frame says before its data."""

    entries: NDArray[Any]
    width_words: int
    number_words: int
    crcs: NDArray[np.uint32]
    data_at: int  # in the file
    data_nbytes: int
    outer_nbytes: int

    def words(self, tensor: int, column: str) -> tuple[int, int]:
        """The first and the last word, of the widths or the numbers, of a tensor."""
        ends = self.entries[column]
        total = self.width_words if column == "widths" else self.number_words
        first = int(ends[tensor])
        return first, int(ends[tensor + 1]) if tensor + 1 < len(ends) else total


class PackedSegment(RawSegment):
    """A segment of packed frames, with the face of a raw one: what a frame holds is what its numbers stand for."""

    _PAGES = (PACKED_PAGES,)
    _places: list[tuple[int, int] | None]  # payload and its length; None where the header of the frame is lost
    _heads: dict[int, _Head]

    def _find_frames(self) -> None:
        self._group_ends = group_ends(self.layout)
        self._heads, self._places = {}, []
        self._keys: list[NDArray[np.int64]] = []  # for each frame: the one that each tensor is added up from
        self._tables_of: OrderedDict[tuple[int, int], Packed] = OrderedDict()
        self._tables_nbytes = 0
        self._held: OrderedDict[int, tuple[int, NDArray[np.int32]]] = OrderedDict()
        self._held_nbytes = 0
        self._left: dict[tuple[int, int, int], tuple[int, NDArray[np.int32]]] = {}
        self._lock = threading.Lock()
        steps: list[int] = []
        crcs: list[int] = []
        self._end = at = self.opening.frames_at
        self._between = False  # whether bytes between frames are none
        while (found := self._next(at, len(steps))) is not None:
            start, number, step, crc, nbytes = found
            self._between |= start != at
            lost = number - len(steps)
            steps += [-1] * lost + [step]
            crcs += [-1] * lost + [crc]
            self._places += [None] * lost + [(start + HEADER_NBYTES, nbytes)]
            at = self._end = start + record_nbytes(nbytes)
        self.count = len(steps)
        self.steps, self._crc = np.array(steps, np.int64), np.array(crcs, np.int64)
        while self.is_last and self.count and not self._is_whole(self.count - 1):
            self.count -= 1
            place = self._places.pop()
            self._end = place[0] - HEADER_NBYTES if place is not None else self._end
        self.steps, self._crc = self.steps[: self.count], self._crc[: self.count]
        pages = max((-(-p[1] // PAGE_NBYTES) for p in self._places if p is not None), default=0)
        self._verified = np.zeros((self.count, pages), np.bool_)

    def _next(self, at: int, number: int) -> tuple[int, int, int, int, int] | None:
        """(offset, number, step, checksum, bytes) of the first frame from ``at`` on, which is ``number`` or later."""
        size = self._file.size
        while at + HEADER_NBYTES <= size:
            found = self._frame_at(at, number)
            if found is not None:
                return found
            following = find_magic(self._file, at + 8, PACKED)
            if following is None:
                return None
            at = following
        return None

    def _frame_at(self, at: int, number: int) -> tuple[int, int, int, int, int] | None:
        head = self._file.read(at, min(at + HEADER_NBYTES + 4, self._file.size))
        if len(head) < HEADER_NBYTES + 4:
            return None
        magic, kind, nbytes, step, crc = HEADER.unpack_from(head)
        claimed, own = int.from_bytes(head[32:36], "little"), int.from_bytes(head[28:32], "little")
        if magic != MAGIC or kind != PACKED or nbytes > self._file.size - at - HEADER_NBYTES:
            return None
        for k in (number, claimed):  # the payload may be damaged where the header is not
            if number <= k < number + (1 << 20) and zlib.crc32(head[:28], self._seed(k)) == own:
                return at, k, step, crc, nbytes
        return None

    @property
    def end(self) -> int:
        """Bytes up to the end of the last frame that can be read; frames differ in length, so it is found and not computed."""
        return self._end

    def cut_to(self, count: int) -> None:
        """As `RawSegment.cut_to`; the places of the frames left out go too."""
        super().cut_to(count)
        self._places = self._places[:count]

    # ---- checked bytes ---------------------------------------------------------------------------------------------

    def _head(self, k: int) -> _Head:
        head = self._heads.get(k)
        if head is None:
            head = self._heads[k] = self._read_head(k)
        return head

    def _read_head(self, k: int) -> _Head:
        place = self._places[k]
        if place is None or place[1] < FIXED.size:
            raise self._damaged(k)
        at, nbytes = place
        fixed = self._file.read(at, at + FIXED.size)
        number, page, head_nbytes, tensors, width_words, number_words = FIXED.unpack(fixed)
        groups, count = self._group_ends[-1], len(self.layout.tensors)
        outer = -(-groups // 4) * 4
        data_nbytes = outer + 4 * (width_words + number_words)
        if page != PAGE_NBYTES or tensors != count or not FIXED.size <= head_nbytes <= nbytes:
            raise self._damaged(k)
        rest = self._file.read(at + FIXED.size, at + head_nbytes)
        if zlib.crc32(rest, zlib.crc32(fixed, self._seed(k))) != self._crc[k]:
            raise self._damaged(k)
        pages = -(-data_nbytes // page)
        whole = head_nbytes == -(-(FIXED.size + ENTRY.itemsize * count + 4 * pages) // 8) * 8
        if number != k or nbytes != head_nbytes + data_nbytes or not whole:
            raise DamagedRecording(f"frame {self.first + k} in {self.file} does not have the length that it claims")
        entries = np.frombuffer(rest, ENTRY, count)
        for column, total in (("widths", width_words), ("numbers", number_words)):
            ends = np.append(entries[column], np.uint64(total))
            if count and (ends[0] != 0 or (ends[1:] < ends[:-1]).any()):
                raise DamagedRecording(f"frame {self.first + k} in {self.file} says tensors lie where they cannot")
        with np.errstate(invalid="ignore"):
            right = np.isfinite(entries["step"]) & (entries["step"] >= 0) & (entries["bound"] >= 0)
        gridded = np.array([t.dtype in _GRIDDED for t in self.layout.tensors], np.bool_)
        if not (right & (gridded | (entries["step"] == 0))).all():
            raise DamagedRecording(f"frame {self.first + k} in {self.file} has steps that cannot be")
        crcs = np.frombuffer(rest, "<u4", pages, ENTRY.itemsize * count)
        return _Head(entries, width_words, number_words, crcs, at + head_nbytes, data_nbytes, outer)

    def _data(self, k: int, low: int, high: int) -> memoryview:
        """Bytes ``[low, high)`` of a frame's data, checked."""
        head = self._head(k)
        if low >= high:
            return memoryview(b"")
        first, stop = low // PAGE_NBYTES, -(-high // PAGE_NBYTES)
        if self._verified[k, first:stop].all():
            return memoryview(self._file.read(head.data_at + low, head.data_at + high))
        begin = first * PAGE_NBYTES
        end = min(stop * PAGE_NBYTES, head.data_nbytes)
        data = memoryview(self._file.read(head.data_at + begin, head.data_at + end))
        for p in range(first, stop):
            if zlib.crc32(data[p * PAGE_NBYTES - begin : (p + 1) * PAGE_NBYTES - begin]) != head.crcs[p]:
                raise self._damaged(k)
        self._verified[k, first:stop] = True
        return data[low - begin : high - begin]

    def checked_nbytes(self, k: int, low: int, high: int) -> int:
        """Room that :meth:`data_into` needs for bytes ``[low, high)`` of a frame's data."""
        first, stop = low // PAGE_NBYTES, -(-high // PAGE_NBYTES)
        if low >= high or self._verified[k, first:stop].all():
            return high - low
        return min(stop * PAGE_NBYTES, self._head(k).data_nbytes) - first * PAGE_NBYTES

    def data_into(self, k: int, low: int, high: int, out: memoryview) -> tuple[int, int]:
        """Bytes ``[low, high)`` of a frame's data, checked, into ``out``: the bytes used there, and where those that are wanted begin."""
        nbytes, head = self.checked_nbytes(k, low, high), self._head(k)
        first, stop = low // PAGE_NBYTES, -(-high // PAGE_NBYTES)
        begin = low if nbytes == high - low else first * PAGE_NBYTES
        self._file.read_into(head.data_at + begin, out[:nbytes])
        if nbytes and not self._verified[k, first:stop].all():
            for p in range(first, stop):
                at = (p - first) * PAGE_NBYTES
                if zlib.crc32(out[at : min(at + PAGE_NBYTES, nbytes)]) != head.crcs[p]:
                    raise self._damaged(k)
            self._verified[k, first:stop] = True
        return nbytes, low - begin

    def _is_whole(self, k: int) -> bool:
        try:
            head = self._head(k)
            pages = range(0, head.data_nbytes, _WINDOW)
            for at in pages:
                stop = min(at + _WINDOW, head.data_nbytes)
                data = memoryview(self._file.read(head.data_at + at, head.data_at + stop))
                for p in range(at // PAGE_NBYTES, -(-stop // PAGE_NBYTES)):
                    if zlib.crc32(data[p * PAGE_NBYTES - at : (p + 1) * PAGE_NBYTES - at]) != head.crcs[p]:
                        return False
        except DamagedRecording:
            return False
        return True

    # ---- numbers ---------------------------------------------------------------------------------------------------

    def _table(self, k: int, tensor: int) -> Packed:  # type: ignore[override]
        """Where the numbers of a tensor lie in a frame."""
        with self._lock:
            table = self._tables_of.get((k, tensor))
        if table is not None:
            return table
        head, ends = self._head(k), self._group_ends
        outer = np.frombuffer(self._data(k, ends[tensor], ends[tensor + 1]), np.uint8)
        low, high = head.words(tensor, "widths")
        at = head.outer_nbytes
        table = Packed(outer, np.frombuffer(self._data(k, at + 4 * low, at + 4 * high), "<u4"))
        self._keep(k, tensor, table)
        return table

    def _keep(self, k: int, tensor: int, table: Packed) -> None:
        low, high = self._head(k).words(tensor, "numbers")
        if table.starts[-1] != high - low:
            raise DamagedRecording(f"frame {self.first + k} in {self.file} has not as many bits as it says")
        with self._lock:
            if (k, tensor) not in self._tables_of:
                self._tables_of[k, tensor] = table
                self._tables_nbytes += table.nbytes
                while self._tables_nbytes > _TABLES_NBYTES and len(self._tables_of) > 1:
                    self._tables_nbytes -= self._tables_of.popitem(last=False)[1].nbytes

    def _keep_all(self, k: int) -> None:
        """The tables of all tensors of a frame at once."""
        head, ends = self._head(k), self._group_ends
        outer = np.frombuffer(self._data(k, 0, ends[-1]), np.uint8)
        at = head.outer_nbytes
        whole = Packed(outer, np.frombuffer(self._data(k, at, at + 4 * head.width_words), "<u4"))
        for tensor in range(len(self.layout.tensors)):
            self._keep(k, tensor, whole.part(ends[tensor], ends[tensor + 1]))

    def _key_of(self, k: int, tensor: int) -> int:
        """The frame that numbers of frame ``k`` are added up from."""
        self._head(k)
        while len(self._keys) <= k:  # where a frame cannot be read: the number of that frame, below zero
            at, before = len(self._keys), self._keys[-1] if self._keys else np.full(len(self.layout.tensors), -1)
            try:
                self._keys.append(np.where(self._head(at).entries["key"] != 0, at, before))
            except DamagedRecording:
                self._keys.append(np.full(len(self.layout.tensors), -1 - at))
        key = int(self._keys[k][tensor])
        if key < 0:
            raise self._damaged(-1 - key)
        return key

    def _words(self, k: int, tensor: int, first: int, stop: int) -> tuple[int, int]:
        """Where in a frame's data the numbers of the groups ``[first, stop)`` lie."""
        head, starts = self._head(k), self._table(k, tensor).starts
        base = head.outer_nbytes + 4 * (head.width_words + head.words(tensor, "numbers")[0])
        return base + 4 * int(starts[first]), base + 4 * int(starts[stop])

    def _add(self, k: int, tensor: int, first: int, stop: int, out: NDArray[np.int32]) -> None:
        """Go on to frame ``k``: numbers of the groups ``[first, stop)``."""
        words = np.frombuffer(self._data(k, *self._words(k, tensor, first, stop)), "<u4")
        self._table(k, tensor).add(first, stop, words, out, fresh=bool(self._head(k).entries["key"][tensor]))

    def _follow(
        self, tensor: int, frames: Sequence[int], first: int, stop: int
    ) -> Iterator[tuple[int, float, NDArray[np.int32]]]:
        """(frame, step, numbers of the groups ``[first, stop)``) for rising frames; the numbers are those of the next when it comes."""
        at, out = -1, np.empty((stop - first) * GROUP, np.int32)
        for k in frames:
            key = self._key_of(k, tensor)
            for each in range(key if key > at else at + 1, k + 1):
                self._add(each, tensor, first, stop, out)
            at = k
            yield k, float(self._head(k).entries["step"][tensor]), out

    def taken_up(self, tensor: int, first: int, stop: int) -> tuple[int, NDArray[np.int32]] | None:
        """What :meth:`leave` left: who reads stretch after stretch goes on where he was."""
        with self._lock:
            return self._left.pop((tensor, first, stop), None)

    def leave(self, tensor: int, first: int, stop: int, at: int, numbers: NDArray[np.int32]) -> None:
        """Keep the numbers of the groups ``[first, stop)`` as they are in frame ``at``, where another follows."""
        if at + 1 < self.count:
            with self._lock:
                self._left[tensor, first, stop] = (at, numbers)

    def prepare(self, rows: slice) -> None:
        """Read the tables of these frames by all threads, as far as they can be kept: whoever reads all pieces of them needs each often."""
        groups = self._group_ends[-1]
        frames = range(rows.start, min(rows.stop, rows.start + _TABLES_NBYTES // max(41 * groups, 1)))
        with contextlib.suppress(DamagedRecording):  # told when the frame itself is read
            _at_once([partial(self._keep_all, k) for k in frames if groups > _AT_ONCE])

    def _whole(self, k: int, tensors: Sequence[int]) -> list[NDArray[np.int32]]:
        """All numbers of tensors at a frame, kept so that the next frame costs only what was added since. Not to be changed."""
        begun: list[tuple[int, int, NDArray[np.int32]]] = []
        for tensor in tensors:
            groups, key = self._group_ends[tensor + 1] - self._group_ends[tensor], self._key_of(k, tensor)
            with self._lock:
                at, out = self._held.pop(tensor, (-1, np.empty(0, np.int32)))
                self._held_nbytes -= out.nbytes
            if not key <= at <= k:
                at, out = key - 1, np.empty(groups * GROUP, np.int32)
            begun.append((tensor, at, out))
        if 2 * sum(out.size for _, _, out in begun) > self._group_ends[-1] * GROUP:
            frames = range(1 + min((at for _, at, _ in begun), default=k), k + 1)
            _at_once([partial(self._keep_all, each) for each in frames])

        def go_on(tensor: int, at: int, out: NDArray[np.int32], a: int, b: int) -> None:
            for each in range(at + 1, k + 1):
                self._add(each, tensor, a, b, out[a * GROUP : b * GROUP])

        _at_once(
            [
                partial(go_on, tensor, at, out, a, min(a + _AT_ONCE, len(out) // GROUP))
                for tensor, at, out in begun
                for a in range(0, len(out) // GROUP, _AT_ONCE)
            ]
        )
        with self._lock:
            for tensor, _, out in begun:
                self._held[tensor] = (k, out)
                self._held_nbytes += out.nbytes
            while self._held_nbytes > _HELD_NBYTES and len(self._held) > 1:
                self._held_nbytes -= self._held.popitem(last=False)[1][1].nbytes
        return [out for _, _, out in begun]

    # ---- values ----------------------------------------------------------------------------------------------------

    def _flat(self, tensor: int, frames: Sequence[int], low: int, high: int) -> Iterator[NDArray[Any]]:
        """Bytes ``[low, high)`` of a tensor at rising frames, as uint8."""
        spec = self.layout.tensors[tensor]
        size = 2 if spec.storage.itemsize == 2 else 4
        first, stop = low // (size * GROUP), -(-high // (size * GROUP))
        begin = first * size * GROUP
        for _, step, numbers in self._follow(tensor, frames, first, stop):
            a, b = (low - begin) // size, -(-(high - begin) // size)
            values = restored(numbers[a:b], step, spec).view(np.uint8)
            yield values[low - begin - a * size : high - begin - a * size]

    def columns(self, start: int, count: int, dtype: np.dtype[Any], rows: slice | None = None) -> NDArray[Any]:
        """As `RawSegment.columns`, unpacked: each frame is worked out from the key before it, and bytes between tensors are zeros."""
        first, stop = (0, self.count) if rows is None else (rows.start, rows.stop)
        nbytes = count * dtype.itemsize
        out = np.empty((stop - first, count), dtype)
        flat = out.view(np.uint8).reshape(stop - first, nbytes)
        done = 0
        while done < nbytes:
            tensor = self._tensor_at(start + done)
            low = start + done - self.layout.offsets[tensor]
            high = min(low + nbytes - done, self.layout.tensors[tensor].nbytes)
            if high <= low:  # zeros between tensors
                following = self.layout.offsets[tensor + 1] if tensor + 1 < len(self.layout.tensors) else 1 << 62
                width = min(following - start - done, nbytes - done)
                flat[:, done : done + width] = 0
            else:
                width = high - low
                if not self._words_into(tensor, range(first, stop), low, out if width == nbytes else out[:, :0]):
                    for row, values in zip(flat, self._flat(tensor, range(first, stop), low, high)):
                        row[done : done + width] = values
            done += width
        return out

    def _words_into(self, tensor: int, frames: range, low: int, out: NDArray[Any]) -> bool:
        """The values from byte ``low`` of a tensor on into the rows of ``out``, where they are four bytes each and the numbers themselves."""
        if out.itemsize != 4 or low % 4 or self.layout.tensors[tensor].storage.itemsize == 2:
            return False
        if any(self._head(k).entries["step"][tensor] for k in frames):
            return False
        return numbers_into(self, tensor, frames, low // 4, out)

    def each_row(self, start: int, count: int, dtype: np.dtype[Any], rows: slice) -> Iterator[NDArray[Any]]:
        """As `RawSegment.each_row`, of one tensor; frames are followed from one to the next, so that none is unpacked twice."""
        tensor = self._tensor_at(start)
        low = start - self.layout.offsets[tensor]
        frames = range(rows.start, rows.stop)
        for values in self._flat(tensor, frames, low, low + count * dtype.itemsize):
            yield np.ascontiguousarray(values).view(dtype)

    def _tensor_at(self, byte: int) -> int:
        """The last tensor with values that begins at this byte of a frame or before."""
        offsets = self.layout.offsets
        i = int(np.searchsorted(np.array(offsets), byte, side="right")) - 1
        while i > 0 and not self.layout.tensors[i].nbytes:
            i -= 1
        return i

    def _fill(
        self, tensor: int, numbers: NDArray[np.int64], low: int, high: int, picked: Any, flat: NDArray[Any]
    ) -> None:
        spec = self.layout.tensors[tensor]
        size = spec.storage.itemsize
        rising = np.unique(numbers)
        if len(rising) == 1 and 2 * (high - low) > spec.size:
            whole = self.read_frame([tensor], int(rising[0]))[0].reshape(-1)
            values = [whole[low:high].view(np.uint8)]
        else:
            values = self._flat(tensor, rising.tolist(), low * size, high * size)  # type: ignore[assignment]
        for k, row in zip(rising.tolist(), values):
            flat[numbers == k] = np.ascontiguousarray(row).view(spec.storage)[picked]

    def read_frame(
        self, tensors: Sequence[int], frame: int, out: Mapping[int, NDArray[Any]] | None = None
    ) -> list[NDArray[Any]]:
        """As `Segment.read_frame`; large tensors are restored in parts, on several threads."""
        specs = {t: self.layout.tensors[t] for t in tensors}
        found = {t: np.empty(spec.shape, spec.storage) if out is None else out[t] for t, spec in specs.items()}
        steps, each = self._head(frame).entries["step"], _AT_ONCE * GROUP
        rest: list[tuple[int, NDArray[Any]]] = []  # whose values are shorter than a number

        def put(numbers: NDArray[np.int32], step: float, spec: TensorSpec, target: NDArray[Any]) -> None:
            target[...] = restored(numbers, step, spec)

        tasks = []
        for (t, spec), numbers in zip(specs.items(), self._whole(frame, list(specs))):
            item, size = 2 if spec.storage.itemsize == 2 else 4, numbers_in(spec)
            if spec.nbytes == item * size:
                target = found[t].reshape(-1).view(f"<u{item}")
            else:
                target = np.empty(size, f"<u{item}")
                rest.append((t, target))
            for a in range(0, size, each):
                tasks.append(
                    partial(put, numbers[a : min(a + each, size)], float(steps[t]), spec, target[a : a + each])
                )
        _at_once(tasks)
        for t, target in rest:
            values = target.view(np.uint8)[: specs[t].nbytes].view(specs[t].storage)
            found[t][...] = values.reshape(specs[t].shape)
        return [found[t] for t in tensors]

    def known_bound(self, tensor: int, rows: slice) -> float:
        """The largest bound that the device wrote into the heads of these frames, float64."""
        return max(self.bound(tensor, k) for k in range(rows.start, rows.stop))

    def gridded(self, pieces: Sequence[Piece], rows: slice) -> list[Codes | None] | None:
        """As `RawSegment.gridded`; codes are int32 (frames, values). None for a piece that none of these frames has on a grid."""
        frames = range(rows.start, rows.stop)
        small = 4 * GROUP * self._group_ends[-1] <= _HELD_NBYTES
        found: list[Codes | None] = []
        for piece in pieces:
            steps = {float(self._head(k).entries["step"][piece.tensor]) for k in frames}
            if steps == {0.0}:
                found.append(None)
                continue
            if len(steps) > 1:
                found.append((0.0, np.empty((0, 0), np.int32)))
                continue
            codes = np.empty((len(frames), piece.stop - piece.start), np.int32)
            if not numbers_into(self, piece.tensor, frames, piece.start, codes, keep=small):
                first, stop = piece.start // GROUP, -(-piece.stop // GROUP)
                low = piece.start - first * GROUP
                for (_, _, numbers), row in zip(self._follow(piece.tensor, frames, first, stop), codes):
                    row[...] = numbers[low : low + len(row)]
            found.append((steps.pop(), codes))
        return found

    def patterns(self, piece: Piece, known: Codes) -> NDArray[np.unsignedinteger[Any]]:
        """As `RawSegment.patterns`: codes times their step, rounded to the tensor's dtype, as unsigned patterns (frames, values)."""
        step, codes = known
        return restored(codes.reshape(-1), step, self.layout.tensors[piece.tensor]).reshape(codes.shape)

    def bound(self, tensor: int, frame: int) -> float:
        """The bound that the device wrote into the head of this frame, float64; 0.0 where the values are exact."""
        return float(self._head(frame).entries["bound"][tensor])

    def bound_changes(self) -> range:
        """All frames: each has bounds of its own."""
        return range(self.count)

    def check_all(self) -> None:
        """As `RawSegment.check_all`; a frame whose header is lost is not whole."""
        for k in range(self.count):
            if not self._is_whole(k):
                raise self._damaged(k)

    def verify(self) -> list[Damage]:
        """As `Segment.verify`: frames that say what was added to a damaged one are lost with it, up to the next keys of all tensors."""
        found, lost = [], False
        keys: NDArray[np.bool_] = np.ones(len(self.layout.tensors), np.bool_)
        for k in range(self.count):
            if not self._is_whole(k):
                found.append(Damage(self.file, "a frame fails its checksum", self.first + k, self.first + k + 1))
                lost, keys = True, np.zeros_like(keys)
            elif lost:
                keys |= self._head(k).entries["key"] != 0
                if not keys.all():
                    what = "a frame says what was added to one that fails its checksum"
                    found.append(Damage(self.file, what, self.first + k, self.first + k + 1))
                lost = not keys.all()
        left = self._file.size - self._end
        if left and not self._is_cut_short(left):
            found.append(Damage(self.file, f"the last {left} bytes are no frame that can be read"))
        if self._between and not found:
            found.append(Damage(self.file, "bytes between its frames are no records"))
        return found + self._damage_before_the_frames()

    def _is_cut_short(self, left: int) -> bool:
        """Whether what follows the last frame is the beginning of one that was being written."""
        if left < HEADER_NBYTES:
            return True
        head = self._file.read(self._end, self._end + HEADER_NBYTES)
        magic, kind, nbytes, _, _ = HEADER.unpack_from(head)
        own = int.from_bytes(head[28:32], "little")
        right = magic == MAGIC and kind == PACKED and zlib.crc32(head[:28], self._seed(self.count)) == own
        return right and record_nbytes(nbytes) > left


def as_key(frame: PackedFrame, layout: Layout, before: RawSegment) -> PackedFrame:
    """The same frame by itself, where the one before it is the last of another segment."""
    if not isinstance(before, PackedSegment) or not before.count:
        raise DamagedRecording(f"{before.file} does not hold the frame that the next one adds to")
    ends, entries = group_ends(layout), frame.entries
    data = np.frombuffer(memoryview(frame.data).cast("B"), np.uint8)
    at = -(-ends[-1] // 4) * 4
    width_words = data[at : at + 4 * frame.width_words].view("<u4")
    words = data[at + 4 * frame.width_words :].view("<u4")
    found = []
    for i, spec in enumerate(layout.tensors):
        (a, b), (c, d) = (
            (int(entries[name][i]), int(entries[name][i + 1]) if i + 1 < len(entries) else total)
            for name, total in (("widths", frame.width_words), ("numbers", frame.number_words))
        )
        table = Packed(data[ends[i] : ends[i + 1]], width_words[a:b])
        numbers = before._whole(before.count - 1, [i])[0].copy()
        table.add(0, ends[i + 1] - ends[i], words[c:d], numbers, fresh=bool(entries["key"][i]))
        found.append(numbers[: numbers_in(spec)])
    return pack_frame(layout, found, entries["step"].tolist(), entries["bound"].tolist(), [True] * len(found))

"""Raw log segments: frames as they were written.

``log/NNNNNN.seg`` is a log (see ``log.py``) that begins with

    SEGM  first frame   number, epoch of its layout, bytes of a frame, CRC-32 of the layout's payload, offset of the first frame,
                        bytes of a page or 0 (six uint64), 16 bytes: the id of the recording
    LAYT, FORK ...      copies of what the journal says of its layout and of all rewinds so far
    SEGM                once more

followed by one record per frame, all of the same length:

    FRAM  step          the frame: one row of its layout
    FRMP  step          the frame, then the CRC-32 of each page of it (uint32); the record's own checksum is that of these alone

Large frames have pages, so that a part of one can be read and trusted without the rest.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.belonging import Belonging, read_copies
from weightlapse.store.codecs.cutting import Piece
from weightlapse.store.files import Ahead, File
from weightlapse.store.log import (
    HEADER_NBYTES,
    MAGIC,
    SEGMENT,
    UNSEALED,
    Seal,
    encode,
    encode_header,
    read_record,
    record_nbytes,
    scan,
)
from weightlapse.store.region import flat_elements, region_shape
from weightlapse.store.segment import Damage, Frames, Out, Region, Whole, targets
from weightlapse.store.threads import in_order, threads

Codes = tuple[float, NDArray[np.int32]]  # a step, and codes (frames, values)

FRAME, PAGED = b"FRAM", b"FRMP"
PAGE_NBYTES = 1 << 16
PAGED_FROM = 2 * PAGE_NBYTES  # bytes of a frame from which on it has pages
_OPENING_V1 = struct.Struct("<4Q")
_OPENING = struct.Struct("<6Q16s")
_HEADER = np.dtype(
    [("magic", "S4"), ("kind", "S4"), ("nbytes", "<u8"), ("step", "<i8"), ("crc", "<u4"), ("own", "<u4")]
)
PACKED_PAGES = 1  # what a segment of packed frames (see ``packed.py``) says instead of the bytes of a page
_PAGES = (0, *(1 << k for k in range(12, 31)))  # bytes that a page may have
_TOGETHER = 4 << 20  # bytes of neighbouring frames that are read at once


@dataclass(frozen=True)
class Opening:
    """The fixed numbers of a segment file."""

    number: int
    epoch: int
    row_nbytes: int
    layout_crc: int
    frames_at: int = record_nbytes(_OPENING_V1.size)
    page: int = 0
    id: bytes | None = None  # of the recording; None in version 1

    def pack(self) -> bytes:
        """The payload of the record: four uint64 in version 1, else six and the 16 bytes of the id."""
        head = (self.number, self.epoch, self.row_nbytes, self.layout_crc)
        return _OPENING_V1.pack(*head) if self.id is None else _OPENING.pack(*head, self.frames_at, self.page, self.id)

    @classmethod
    def unpack(cls, payload: bytes) -> Opening | None:
        """Either version, told apart by length; None where the payload has the length of neither."""
        if len(payload) == _OPENING_V1.size:
            return cls(*_OPENING_V1.unpack(payload))
        return cls(*_OPENING.unpack(payload)) if len(payload) == _OPENING.size else None

    @property
    def frame_nbytes(self) -> int:
        """Bytes of a frame's record."""
        return record_nbytes(self.row_nbytes + table_nbytes(self.row_nbytes, self.page))


def segment_name(number: int) -> str:
    """The file of a log segment within its recording."""
    return f"log/{number:06d}.seg"


def page_of(row_nbytes: int) -> int:
    """Bytes of a page in frames of this length; 0 where they are checked as a whole."""
    return PAGE_NBYTES if row_nbytes >= PAGED_FROM else 0


def table_nbytes(row_nbytes: int, page: int) -> int:
    """Bytes of the checksums behind a frame of so many bytes, in pages of ``page``; 0 where it has no pages."""
    return 4 * -(-row_nbytes // page) if page else 0


def frame_parts(step: int, row: NDArray[np.uint8], page: int, seed: int) -> list[Any]:
    """The record of one frame as buffers; rows are multiples of eight bytes long."""
    if not page:
        return [encode_header(FRAME, len(row), step, zlib.crc32(row.data, seed), seed), row]
    crcs = np.array([zlib.crc32(row[a : a + page].data) for a in range(0, len(row), page)], "<u4").tobytes()
    head = encode_header(PAGED, len(row) + len(crcs), step, zlib.crc32(crcs, seed), seed)
    return [head, row, crcs + bytes(-len(crcs) % 8)]


def find_opening(file: File) -> tuple[Opening, int] | None:
    """The opening of a segment file and the number of its first frame: from either of its two records."""
    record = read_record(file, 0, UNSEALED)
    if record is None:
        record = next((r for p in scan(file) if (r := _opening_at(file, p.start, p.kind)) is not None), None)
    if record is None or record.kind != SEGMENT:
        return None
    opening = Opening.unpack(record.payload)
    return None if opening is None else (opening, record.number)


def _opening_at(file: File, start: int, kind: bytes) -> Any:
    return read_record(file, start, UNSEALED) if kind == SEGMENT else None


class RawSegment(Whole):
    """A raw log segment. ``is_last``: nothing follows, so an invalid tail is a write that was cut short."""

    _PAGES: tuple[int, ...] = _PAGES

    def __init__(self, number: int, file: File, ours: Belonging, *, is_last: bool) -> None:
        file = Ahead(file)
        found = find_opening(file)
        if found is None:
            raise DamagedRecording(f"{file.name} does not begin with the record of a segment")
        self.opening, self.first = found
        self.file, self.number, self.is_last = file.name, number, is_last
        opening = self.opening
        self.seal = ours.check(file.name, number, opening.number, opening.id)
        self.copies: list[tuple[bytes, int, bytes]] = []
        if opening.id is not None:
            head = read_record(file, 0, UNSEALED)
            start = head.end if head is not None else record_nbytes(_OPENING.size)
            self.copies = read_copies(file, start, self.seal)[0]
            known = ours.layout(opening.epoch, opening.row_nbytes, opening.layout_crc) is not None
            ours.take_copies(self.copies, layout=not known)
        layout = ours.layout(opening.epoch, opening.row_nbytes, opening.layout_crc)
        if layout is None or self.first < 0 or opening.page not in self._PAGES:
            raise DamagedRecording(f"{file.name} does not fit any layout of the recording")
        self.layout = layout
        self._file = file
        self.steps: NDArray[np.int64]
        self._crc: NDArray[np.int64]
        self._verified: NDArray[np.bool_]
        self._find_frames()

    def _find_frames(self) -> None:
        opening = self.opening
        self._stride = opening.frame_nbytes
        self.count = max(self._file.size - opening.frames_at, 0) // self._stride
        self._read_headers()
        while self.is_last and self.count and not self._is_whole(self.count - 1):
            self.count -= 1
        self.steps, self._crc = self.steps[: self.count], self._crc[: self.count]
        self._verified = np.zeros((self.count, self._pages()), np.bool_)
        self._tables: dict[int, NDArray[np.uint32]] = {}

    def cut_to(self, count: int) -> None:
        """Leave out what lies behind the first ``count`` frames: a write that could not be taken back, and went on in the next file."""
        self.count = count
        self.steps, self._crc, self._verified = self.steps[:count], self._crc[:count], self._verified[:count]

    @property
    def end(self) -> int:
        """Bytes up to the end of the last valid frame."""
        return self.opening.frames_at + self.count * self._stride

    def _pages(self) -> int:
        page = self.opening.page
        return -(-self.opening.row_nbytes // page) if page else 1

    def _seed(self, k: int) -> int:
        return self.seal.at(FRAME, self.first + k)

    def _read_headers(self) -> None:
        heads = np.empty(self.count, _HEADER)
        at, stride = self.opening.frames_at, self._stride
        if stride > _TOGETHER // 256:
            for k in range(self.count):
                heads[k : k + 1] = np.frombuffer(self._file.read(at, at + HEADER_NBYTES), _HEADER)
                at += stride
        else:
            for a, b in self._runs(0, self.count):
                data = np.frombuffer(self._file.read(at + a * stride, at + b * stride), np.uint8).reshape(b - a, stride)
                heads[a:b] = np.ascontiguousarray(data[:, :HEADER_NBYTES]).view(_HEADER)[:, 0]
        self.steps = heads["step"].astype(np.int64)
        self._crc = heads["crc"].astype(np.int64)
        kind = PAGED if self.opening.page else FRAME
        length = self.opening.row_nbytes + table_nbytes(self.opening.row_nbytes, self.opening.page)
        odd = (heads["magic"] != MAGIC) | (heads["kind"] != kind) | (heads["nbytes"] != length)
        raw, own = heads.tobytes(), heads["own"].tolist()
        wrong = [
            k for k in range(self.count) if zlib.crc32(raw[32 * k : 32 * k + 28], self._seed(k)) != own[k] or odd[k]
        ]  # the header itself is damaged
        self.steps[wrong] = self._crc[wrong] = -1

    def _runs(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Frames that are read at once."""
        each = max(_TOGETHER // self._stride, 1)
        return ((a, min(a + each, stop)) for a in range(first, stop, each))

    # ---- checked bytes ---------------------------------------------------------------------------------------------

    def _row_at(self, k: int) -> int:
        return self.opening.frames_at + k * self._stride + HEADER_NBYTES

    def _table(self, k: int) -> NDArray[np.uint32]:
        """The checksums of a frame's pages, themselves checked."""
        table = self._tables.get(k)
        if table is None:
            at = self._row_at(k) + self.opening.row_nbytes
            data = self._file.read(at, at + table_nbytes(self.opening.row_nbytes, self.opening.page))
            if zlib.crc32(data, self._seed(k)) != self._crc[k]:
                raise self._damaged(k)
            table = self._tables[k] = np.frombuffer(data, "<u4")
        return table

    def _damaged(self, k: int) -> DamagedRecording:
        return DamagedRecording(
            f"frame {self.first + k} (step {self.steps[k]}) fails its checksum in {self.file}: its values cannot be "
            "trusted; other frames can still be read, and `weightlapse verify` lists what is damaged"
        )

    def _bytes(self, k: int, low: int, high: int) -> memoryview:
        """Bytes ``[low, high)`` of one frame, checked."""
        at, page = self._row_at(k), self.opening.page
        if not page:
            return memoryview(self._rows(k, k + 1)[0].data)[low:high]
        first, stop = low // page, -(-high // page)
        if self._verified[k, first:stop].all():
            return memoryview(self._file.read(at + low, at + high))
        table = self._table(k)
        data = memoryview(self._file.read(at + first * page, at + min(stop * page, self.opening.row_nbytes)))
        for p in range(first, stop):
            if zlib.crc32(data[(p - first) * page : (p - first + 1) * page]) != table[p]:
                raise self._damaged(k)
        self._verified[k, first:stop] = True
        return data[low - first * page : high - first * page]

    def _rows(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Frames (n, bytes of a frame) that have no pages, checked."""
        at, stride = self.opening.frames_at, self._stride
        data = np.frombuffer(self._file.read(at + first * stride, at + stop * stride), np.uint8)
        rows = data.reshape(stop - first, stride)[:, HEADER_NBYTES : HEADER_NBYTES + self.opening.row_nbytes]
        for k in np.flatnonzero(~self._verified[first:stop, 0]).tolist():
            if zlib.crc32(rows[k].data, self._seed(first + k)) != self._crc[first + k]:
                raise self._damaged(first + k)
            self._verified[first + k] = True
        return rows

    def _is_whole(self, k: int) -> bool:
        at, row = self._row_at(k), self.opening.row_nbytes
        if not self.opening.page:
            return bool(zlib.crc32(self._file.read(at, at + row), self._seed(k)) == self._crc[k])
        tail = self._file.read(at + row, at + row + table_nbytes(row, self.opening.page))
        if zlib.crc32(tail, self._seed(k)) != self._crc[k]:
            return False
        table, page = np.frombuffer(tail, "<u4").tolist(), self.opening.page
        return all(
            zlib.crc32(self._file.read(at + p * page, at + min((p + 1) * page, row))) == table[p]
            for p in range(self._pages())
        )

    def columns(self, start: int, count: int, dtype: np.dtype[Any], rows: slice | None = None) -> NDArray[Any]:
        """``count`` neighbouring values of ``dtype`` from byte ``start`` of each frame in ``rows`` on: (frames, count), checked."""
        first, stop = (0, self.count) if rows is None else (rows.start, rows.stop)
        out = np.empty((stop - first, count), dtype)
        nbytes = count * dtype.itemsize
        flat = out.view(np.uint8).reshape(stop - first, nbytes)
        if self.opening.page:
            for k in range(first, stop):
                flat[k - first] = np.frombuffer(self._bytes(k, start, start + nbytes), np.uint8)
        else:
            for a, b in self._runs(first, stop):
                flat[a - first : b - first] = self._rows(a, b)[:, start : start + nbytes]
        return out

    def patterns(self, piece: Piece, known: Codes) -> NDArray[np.unsignedinteger[Any]]:
        """The patterns (frames, values) that codes of :meth:`gridded` stand for."""
        raise NotImplementedError

    def prepare(self, rows: slice) -> None:
        """Read by all threads what whoever reads all pieces of these frames needs often."""

    def each_row(self, start: int, count: int, dtype: np.dtype[Any], rows: slice) -> Iterator[NDArray[Any]]:
        """:meth:`columns`, one frame at a time; a row is valid until the next."""
        return (self.columns(start, count, dtype, slice(k, k + 1))[0] for k in range(rows.start, rows.stop))

    def check_all(self) -> None:
        """Raise :class:`DamagedRecording` unless every frame is whole."""
        for k in range(self.count):
            if not self._verified[k].all() and not self._is_whole(k):
                raise self._damaged(k)
            self._verified[k] = True

    # ---- values ----------------------------------------------------------------------------------------------------

    def read(self, tensor: int, frames: Frames, region: Region) -> NDArray[Any]:
        """As `Segment.read`; only the pages of a frame that hold the region are read and checked, where it has pages."""
        spec, numbers = self.layout.tensors[tensor], np.arange(self.count)[frames]
        shape = region_shape(spec.shape, region)
        out = np.empty((len(numbers), *shape), spec.storage)
        wanted = flat_elements(spec.shape, region)
        if not len(wanted) or not len(numbers):
            return out
        low, high = int(wanted[0]), int(wanted[-1]) + 1
        picked: Any = slice(None) if isinstance(wanted, range) else np.asarray(wanted) - low
        self._fill(tensor, numbers, low, high, picked, out.reshape(len(numbers), -1))
        return out

    def _fill(
        self, tensor: int, numbers: NDArray[np.int64], low: int, high: int, picked: Any, flat: NDArray[Any]
    ) -> None:
        """Of the values ``[low, high)`` of a tensor those that are picked, at these frames, into the rows of ``flat``."""
        spec = self.layout.tensors[tensor]
        start, size = self.layout.offsets[tensor], spec.storage.itemsize
        first, stop = int(numbers.min()), int(numbers.max()) + 1
        if not self.opening.page and 2 * len(numbers) > stop - first:  # most of a stretch: read it in large pieces
            order = np.argsort(numbers, kind="stable")
            for a, b in self._runs(first, stop):
                i, j = np.searchsorted(numbers[order], [a, b])
                if i < j:
                    rows = self._some_rows(a, b, numbers[order[i:j]])
                    values = np.ascontiguousarray(rows[:, start + low * size : start + high * size]).view(spec.storage)
                    flat[order[i:j]] = values[:, picked]
            return
        for i, k in enumerate(numbers.tolist()):
            values = np.frombuffer(self._bytes(k, start + low * size, start + high * size), spec.storage)
            flat[i] = values[picked]

    def _some_rows(self, first: int, stop: int, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The frames ``numbers`` among ``[first, stop)``: a damaged one that was not asked for does no harm."""
        if len(numbers) == stop - first:
            return self._rows(first, stop)[numbers - first]
        return np.stack([self._rows(k, k + 1)[0] for k in numbers.tolist()])

    def read_frame(self, tensors: Sequence[int], frame: int, out: Out = None) -> list[NDArray[Any]]:
        """Tensors that lie near each other are read together, large ones in pieces."""
        found = targets(self.layout, tensors, out)
        for group in self._neighbours(sorted(found)):
            low = self.layout.offsets[group[0]]
            high = self.layout.offsets[group[-1]] + self.layout.tensors[group[-1]].nbytes
            if len(group) == 1 and self.opening.page and high - low > _TOGETHER:
                self._in_pieces(frame, low, high, found[group[0]].reshape(-1).view(np.uint8))
                continue
            data = self._bytes(frame, low, high) if high > low else memoryview(b"")
            for t in group:
                spec, start = self.layout.tensors[t], self.layout.offsets[t] - low
                found[t][...] = np.frombuffer(data[start : start + spec.nbytes], spec.storage).reshape(spec.shape)
        return [found[t] for t in tensors]

    def _in_pieces(self, frame: int, low: int, high: int, out: NDArray[np.uint8]) -> None:
        """Bytes ``[low, high)`` of a frame, some whole pages at a time, side by side: memory for a piece of each thread and no more."""

        def piece(a: int, b: int) -> None:
            out[a - low : b - low] = np.frombuffer(self._bytes(frame, a, b), np.uint8)

        edges = [low, *range(-(-(low + 1) // _TOGETHER) * _TOGETHER, high, _TOGETHER), high]
        for _ in in_order((partial(piece, a, b) for a, b in pairwise(edges)), threads()):
            pass

    def _neighbours(self, tensors: list[int]) -> Iterator[list[int]]:
        """Runs of tensors that follow each other closely and are small together."""
        group: list[int] = []
        for t in tensors:
            end = self.layout.offsets[t] + self.layout.tensors[t].nbytes
            if group and end - self.layout.offsets[group[0]] > _TOGETHER:
                yield group
                group = []
            group.append(t)
        if group:
            yield group

    def bound(self, tensor: int, frame: int) -> float:
        """0.0: frames are as they were given."""
        return 0.0

    def known_bound(self, tensor: int, rows: slice) -> float:
        """The bound within which values were rounded before they were written; 0.0 where they were not."""
        return 0.0

    def gridded(self, pieces: Sequence[Piece], rows: slice) -> list[Codes | None] | None:
        """For each piece the step and codes that its values were rounded to before they were written.

        None where they were not; a step of 0, and no codes, where they were to several steps: they are what they are, and nothing may be added.
        """
        return None

    def bound_changes(self) -> range:
        """The first frame alone: the bound is the same in all."""
        return range(1)

    def _beginning_is_right(self) -> bool:
        """Whether the records before the first frame are whole, one after the other."""
        if self.opening.id is None:
            return True  # one record, without which nothing would have been read
        again = opening_records(self.opening, self.first, self.copies, self.seal)
        return len(again) == self.opening.frames_at and self._file.read(0, len(again)) == again

    def _damage_before_the_frames(self) -> list[Damage]:
        if not self.count or self._beginning_is_right():
            return []
        return [Damage(self.file, "a record before the first frame fails its checksum; every frame is whole")]

    def verify(self) -> list[Damage]:
        """As `Segment.verify`; whole frames behind the last valid one count as damage, less than a frame as a write that was cut short."""
        bad = [k for k in range(self.count) if not self._is_whole(k)]
        found = [Damage(self.file, "a frame fails its checksum", self.first + k, self.first + k + 1) for k in bad]
        if self._file.size - self.end >= self._stride:  # less than a frame is only a write that was cut short
            what = "whole frames at its end fail their checksums"
            behind = (self._file.size - self.end) // self._stride
            found.append(Damage(self.file, what, self.first + self.count, self.first + self.count + behind))
        return found + self._damage_before_the_frames()


def opening_records(opening: Opening, first: int, copies: Sequence[tuple[bytes, int, bytes]], seal: Seal) -> bytes:
    """What a segment file begins with; ``frames_at`` is filled in."""
    if opening.id is None:
        return encode(SEGMENT, opening.pack(), first)
    at = record_nbytes(_OPENING.size)
    middle = b""
    for kind, number, payload in copies:
        record = encode(kind, payload, number, seal.at(kind, at))
        middle, at = middle + record, at + len(record)
    own = encode(SEGMENT, replace(opening, frames_at=at + record_nbytes(_OPENING.size)).pack(), first)
    return own + middle + own

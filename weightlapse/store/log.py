"""The framed, append-only log: every file of a recording but the manifest is a sequence of these records.

    offset  size
    0       4     magic "WLPS"
    4       4     kind, four ASCII letters
    8       8     length of the payload in bytes            (unsigned, little-endian, like every number here)
    16      8     a number whose meaning depends on the kind (signed)
    24      4     CRC-32 of the payload, begun with the seal
    28      4     CRC-32 of bytes 0 to 27; of frames begun with the seal
    32      ...   payload, then zeros up to a multiple of eight bytes

A file may end in the middle of a record (the process was killed): everything before it is whole. The :class:`Seal` makes a checksum hold in
one recording and at one place only: a record of another recording, or one that was moved, doubled or left out, does not pass.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weightlapse.store.files import File, open_descriptor
from weightlapse.store.portable import in_use, replace, sync, write_all

MAGIC = b"WLPS"
HEADER = struct.Struct("<4s4sQqI")
HEADER_NBYTES = 32
_CRC = struct.Struct("<I")
_PADDING = bytes(8)
_SMALL = 2048  # bytes
_WINDOW = 1 << 20  # bytes looked at together when a record is searched for

HEAD, SEGMENT, BLOCK = b"HEAD", b"SEGM", b"BLCK"
_OPENINGS = (HEAD, SEGMENT, BLOCK)  # they name the recording, so that one can say whose a foreign file is


@dataclass(frozen=True, slots=True)
class Seal:
    """Where the checksums of a recording begin: ``key`` + place, modulo 2^32; ``None`` in files of version 1, where they begin with 0."""

    key: int | None = None

    def at(self, kind: bytes, place: int) -> int:
        """Where the CRC of a payload begins. ``place``: the record's offset, of a frame its number. Openings have no seal, so that a foreign file can be named."""
        return 0 if self.key is None or kind in _OPENINGS else (self.key + place) & 0xFFFFFFFF


UNSEALED = Seal()


@dataclass(frozen=True, slots=True)
class Record:
    """A record found in a log: ``start`` is the offset of its header; its checksum is verified."""

    kind: bytes
    number: int
    start: int
    payload: bytes

    @property
    def end(self) -> int:
        """Offset of the byte behind it, padding included: where the next record begins."""
        return self.start + record_nbytes(len(self.payload))


@dataclass(frozen=True, slots=True)
class Place:
    """A record whose header is right and whose payload, ``nbytes`` long, has not been looked at."""

    kind: bytes
    number: int
    start: int
    nbytes: int
    crc: int

    @property
    def payload(self) -> int:
        """Offset of its first payload byte."""
        return self.start + HEADER_NBYTES

    @property
    def end(self) -> int:
        """Offset of the byte behind it, padding included; by its header alone, so the file may end before."""
        return self.start + record_nbytes(self.nbytes)


def record_nbytes(payload_nbytes: int) -> int:
    """Bytes that a record takes in the file, header and padding included."""
    return HEADER_NBYTES + -(-payload_nbytes // 8) * 8


def encode_header(kind: bytes, payload_nbytes: int, number: int, payload_crc: int, seed: int = 0) -> bytes:
    """The 32 bytes that a record begins with; ``seed`` is what their own checksum begins with."""
    head = HEADER.pack(MAGIC, kind, payload_nbytes, number, payload_crc)
    return head + _CRC.pack(zlib.crc32(head, seed))


def decode_header(head: bytes) -> tuple[bytes, int, int, int] | None:
    """(kind, payload length, number, payload CRC) of 32 header bytes, or None when they are no header."""
    if len(head) != HEADER_NBYTES or zlib.crc32(head[:28]) != _CRC.unpack_from(head, 28)[0]:
        return None
    magic, kind, length, number, crc = HEADER.unpack_from(head)
    return (kind, length, number, crc) if magic == MAGIC else None


def encode(kind: bytes, payload: bytes, number: int = 0, seed: int = 0) -> bytes:
    """A whole record as bytes; ``seed`` is what its checksum begins with."""
    head = encode_header(kind, len(payload), number, zlib.crc32(payload, seed))
    return head + payload + _PADDING[: -len(payload) % 8]


def records(data: bytes, start: int = 0, seal: Seal = UNSEALED, base: int = 0) -> Iterator[Record]:
    """The records of ``data`` from offset ``start`` up to the first one that is not whole and right.

    ``data`` begins at byte ``base`` of its file; offsets are those of the file.
    """
    while True:
        at = start - base
        header = decode_header(data[at : at + HEADER_NBYTES])
        if header is None:
            return
        kind, length, number, crc = header
        if length > len(data) - at - HEADER_NBYTES:  # checked before anything is read: a length is only a claim
            return
        payload = bytes(data[at + HEADER_NBYTES : at + HEADER_NBYTES + length])
        if zlib.crc32(payload, seal.at(kind, start)) != crc:
            return
        record = Record(kind, number, start, payload)
        yield record
        start = record.end


def next_record(data: bytes, start: int, seal: Seal = UNSEALED, base: int = 0) -> int | None:
    """The offset of the first whole and right record after ``start`` (a multiple of eight), where none is."""
    usable = np.frombuffer(data, np.uint8)[start - base : len(data) // 8 * 8]
    words = usable.view("<u4")[::2]
    candidates = (start + 8 * np.flatnonzero(words == np.frombuffer(MAGIC, "<u4")[0])).tolist()
    return next((at for at in candidates if next(records(data, at, seal, base), None) is not None), None)


def read_place(file: File, start: int) -> Place | None:
    """The record at ``start`` when its header is right and its payload within the file."""
    if start < 0 or start + HEADER_NBYTES > file.size:
        return None
    header = decode_header(file.read(start, start + HEADER_NBYTES))
    if header is None or header[1] > file.size - start - HEADER_NBYTES:
        return None
    kind, length, number, crc = header
    return Place(kind, number, start, length, crc)


def read_record(file: File, start: int, seal: Seal, most: int = 1 << 30) -> Record | None:
    """The record at ``start`` when it is whole and right, and its payload at most ``most`` bytes."""
    if start < 0 or start + HEADER_NBYTES > file.size:
        return None
    begun = file.read(start, min(start + _SMALL, file.size))  # most records are small: one call
    header = decode_header(begun[:HEADER_NBYTES])
    if header is None or header[1] > min(file.size - start - HEADER_NBYTES, most):
        return None
    place = Place(header[0], header[2], start, header[1], header[3])
    payload = begun[HEADER_NBYTES : HEADER_NBYTES + place.nbytes]
    if len(payload) < place.nbytes:
        payload = file.read(place.payload, place.payload + place.nbytes)
    right = zlib.crc32(payload, seal.at(place.kind, start)) == place.crc
    return Record(place.kind, place.number, start, payload) if right else None


def scan(file: File, start: int = 0) -> Iterator[Place]:
    """Every record with a right header from ``start`` on, whatever lies between; their payloads are not looked at."""
    while start + HEADER_NBYTES <= file.size:
        place = read_place(file, start)
        if place is not None:
            yield place
            start = place.end
            continue
        found = find_magic(file, start + 8)
        if found is None:
            return
        start = found


def find_magic(file: File, start: int, kind: bytes = b"") -> int | None:
    """Where the next record may begin, from ``start`` (a multiple of eight) on: one of this kind, where it is given."""
    width = 8 if kind else 4
    magic = np.frombuffer(MAGIC + kind, f"<u{width}")[0]
    while start + HEADER_NBYTES <= file.size:
        stop = min(start + _WINDOW, file.size // 8 * 8)
        hits = np.flatnonzero(np.frombuffer(file.read(start, stop), f"<u{width}")[:: 8 // width] == magic)
        if len(hits):
            return int(start + 8 * hits[0])
        start = stop if stop > start else file.size
    return None


class AppendFile:
    """A file that only grows. Every :meth:`write` reaches the operating system before it returns, so ``kill -9`` cannot take it back.

    A write that fails (disk full) is cut off again, so that the file always ends after a whole record. When even that fails the file is
    ``torn``: the next write tries to cut it again first.
    """

    def __init__(self, path: Path, *, keep: int | None = None) -> None:
        """Open ``path``, new when ``keep`` is None; otherwise cut it to its first ``keep`` bytes and append there."""
        self.path = path
        self.torn = False
        self._fd = open_descriptor(path, os.O_RDWR | os.O_CREAT | (os.O_EXCL if keep is None else 0))
        self.nbytes = keep or 0
        if keep is not None:
            try:
                self._cut()
            except OSError:
                self.close()
                raise

    def write(self, parts: Sequence[Any]) -> None:
        """Append buffers one after the other."""
        if self.torn:
            self._cut()
        try:
            written = write_all(self._fd, parts)
        except BaseException:
            self.torn = True
            with contextlib.suppress(
                OSError
            ):  # the first error is the one that tells; the next write tries to cut again
                self._cut()
            raise
        self.nbytes += written

    def _cut(self) -> None:
        os.ftruncate(self._fd, self.nbytes)
        os.lseek(self._fd, self.nbytes, os.SEEK_SET)
        self.torn = False

    def rewrite(self, start: int, data: bytes) -> None:
        """Replace bytes that are already there: only for files that nobody can see yet."""
        os.lseek(self._fd, start, os.SEEK_SET)
        write_all(self._fd, [memoryview(data)])
        os.lseek(self._fd, self.nbytes, os.SEEK_SET)

    def rename(self, path: Path) -> None:
        """Give the file, which stays open, another name. Where no open file gets one (Windows) it is closed for that moment."""
        try:
            replace(self.path, path, patient=False)
            self.path = path
        except OSError as error:
            if not in_use(error):
                raise
            self.close()
            try:
                replace(self.path, path)
                self.path = path
            finally:
                self.reopen(self.path)

    def reopen(self, path: Path) -> None:
        """Go on after :meth:`close` with the same file, which may have moved."""
        self.path = path
        self._fd = open_descriptor(path, os.O_RDWR)
        os.lseek(self._fd, self.nbytes, os.SEEK_SET)

    def sync(self) -> None:
        """Wait until the bytes are on the device."""
        sync(self._fd)

    def close(self) -> None:
        """Close the descriptor, without a sync; once more does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class RecordFile(AppendFile):
    """An :class:`AppendFile` of sealed records."""

    def __init__(self, path: Path, seal: Seal, *, keep: int | None = None) -> None:
        super().__init__(path, keep=keep)
        self.seal = seal

    def put(self, *entries: tuple[bytes, bytes, int]) -> list[int]:
        """Append records (kind, payload, number), all of them or none; returns where each begins."""
        parts, starts, at = [], [], self.nbytes
        for kind, payload, number in entries:
            parts.append(encode(kind, payload, number, self.seal.at(kind, at)))
            starts.append(at)
            at += len(parts[-1])
        self.write(parts)
        return starts

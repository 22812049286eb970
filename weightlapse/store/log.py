"""The framed, append-only log: every file of a recording but the manifest is a sequence of these records.

    offset  size
    0       4     magic "WLPS"
    4       4     kind, four ASCII letters
    8       8     length of the payload in bytes            (unsigned, little-endian, like every number here)
    16      8     a number whose meaning depends on the kind (signed)
    24      4     CRC-32 of the payload
    28      4     CRC-32 of bytes 0 to 27
    32      ...   payload, then zeros up to a multiple of eight bytes

A file may end in the middle of a record (the process was killed): everything before it is whole.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"WLPS"
HEADER = struct.Struct("<4s4sQqI")
HEADER_NBYTES = 32
_CRC = struct.Struct("<I")
_PARTS_PER_WRITE = 512  # below every system's IOV_MAX
_PADDING = bytes(8)


@dataclass(frozen=True, slots=True)
class Record:
    """A record found in a log: ``start`` is the offset of its header, ``payload`` a view of its bytes (checksum verified)."""

    kind: bytes
    number: int
    start: int
    payload: NDArray[np.uint8]

    @property
    def end(self) -> int:
        return self.start + record_nbytes(len(self.payload))


def record_nbytes(payload_nbytes: int) -> int:
    """Bytes that a record takes in the file, header and padding included."""
    return HEADER_NBYTES + -(-payload_nbytes // 8) * 8


def encode_header(kind: bytes, payload_nbytes: int, number: int, payload_crc: int) -> bytes:
    head = HEADER.pack(MAGIC, kind, payload_nbytes, number, payload_crc)
    return head + _CRC.pack(zlib.crc32(head))


def decode_header(head: bytes) -> tuple[bytes, int, int, int] | None:
    """(kind, payload length, number, payload CRC) of 32 header bytes, or None when they are no header."""
    if len(head) != HEADER_NBYTES or zlib.crc32(head[:28]) != _CRC.unpack_from(head, 28)[0]:
        return None
    magic, kind, length, number, crc = HEADER.unpack_from(head)
    return (kind, length, number, crc) if magic == MAGIC else None


def encode(kind: bytes, payload: bytes, number: int = 0) -> bytes:
    """A whole record as bytes."""
    return encode_header(kind, len(payload), number, zlib.crc32(payload)) + payload + _PADDING[: -len(payload) % 8]


def payload_crc(record: bytes) -> int:
    """The CRC-32 of the payload of an encoded record, from its header."""
    return int(HEADER.unpack_from(record)[4])


def records(data: NDArray[np.uint8], start: int = 0) -> Iterator[Record]:
    """The records of ``data`` from offset ``start`` up to the first one that is not whole and right."""
    while True:
        header = decode_header(data[start : start + HEADER_NBYTES].tobytes())
        if header is None:
            return
        kind, length, number, crc = header
        if length > len(data) - start - HEADER_NBYTES:  # checked before anything is read: a length is only a claim
            return
        payload = data[start + HEADER_NBYTES : start + HEADER_NBYTES + length]
        if zlib.crc32(payload.data) != crc:
            return
        record = Record(kind, number, start, payload)
        yield record
        start = record.end


def record_starts(data: NDArray[np.uint8], start: int = 0) -> Iterator[int]:
    """Offsets from ``start`` (a multiple of eight) on at which a record may begin, by its magic alone."""
    usable = len(data) // 8 * 8
    words = data[start:usable].view("<u4")[::2]
    yield from (start + 8 * np.flatnonzero(words == np.frombuffer(MAGIC, "<u4")[0])).tolist()


def next_record(data: NDArray[np.uint8], start: int) -> int | None:
    """The offset of the first whole and right record after ``start``, where none is."""
    return next((at for at in record_starts(data, start) if next(records(data, at), None) is not None), None)


class AppendFile:
    """A file that only grows. Every :meth:`write` reaches the operating system before it returns, so ``kill -9`` cannot take it back.

    A write that fails (disk full) is cut off again, so that the file always ends after a whole record.
    """

    def __init__(self, path: Path, *, keep: int | None = None) -> None:
        """Open ``path``, new when ``keep`` is None; otherwise cut it to its first ``keep`` bytes and append there."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        self.path = path
        self._fd = os.open(path, flags | (os.O_EXCL if keep is None else 0), 0o666)
        self.nbytes = keep or 0
        if keep is not None:
            os.ftruncate(self._fd, keep)
            os.lseek(self._fd, keep, os.SEEK_SET)

    def write(self, parts: Sequence[Any]) -> None:
        """Append buffers one after the other."""
        start = self.nbytes
        try:
            for i in range(0, len(parts), _PARTS_PER_WRITE):
                self._write_some([memoryview(p).cast("B") for p in parts[i : i + _PARTS_PER_WRITE] if len(p)])
        except BaseException:
            os.ftruncate(self._fd, start)
            os.lseek(self._fd, start, os.SEEK_SET)
            self.nbytes = start
            raise

    def _write_some(self, parts: list[memoryview]) -> None:
        while parts:
            written = os.writev(self._fd, parts)
            self.nbytes += written
            while parts and written >= len(parts[0]):
                written -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][written:]

    def rewrite(self, start: int, data: bytes) -> None:
        """Replace bytes that are already there: only for files that nobody can see yet."""
        os.lseek(self._fd, start, os.SEEK_SET)
        os.write(self._fd, data)
        os.lseek(self._fd, self.nbytes, os.SEEK_SET)

    def sync(self) -> None:
        """Wait until the bytes are on the device."""
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

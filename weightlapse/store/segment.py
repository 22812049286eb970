"""Frames on disk come in segments: runs of consecutive frames of one layout. Raw log segments are one kind of them.

``log/NNNNNN.seg`` is a log (see ``store/log.py``) that begins with

    SEGM  first frame         three uint64: number of the segment, index of its layout epoch, bytes of a frame

followed by one record per frame, all of the same length:

    FRAM  step                the frame: one row of its layout
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.layout import Layout
from weightlapse.store.log import HEADER_NBYTES, decode_header, encode, encode_header, record_nbytes

SEGMENT, FRAME = b"SEGM", b"FRAM"
_OPENING = struct.Struct("<QQQ")
_OPENING_NBYTES = record_nbytes(_OPENING.size)

Frames = slice | NDArray[np.int64]  # frame numbers within the segment
Region = tuple[slice, ...]  # one slice per axis of the tensor


@dataclass(frozen=True)
class Damage:
    """What is wrong in a recording: which file, what, and the frames ``[first, stop)`` that are lost by it."""

    file: str
    what: str
    first: int = 0
    stop: int = 0

    def __str__(self) -> str:
        lost = f" (frames {self.first} to {self.stop - 1})" if self.stop > self.first else ""
        return f"{self.file}: {self.what}{lost}"


class Segment(Protocol):
    """A run of frames ``[first, first + count)`` of one layout, in whatever form they are stored."""

    first: int
    count: int
    layout: Layout
    steps: NDArray[np.int64]

    def read(self, tensor: int, frames: Frames, region: Region) -> NDArray[Any]:
        """Values (n, \\*region) of tensor number ``tensor`` in stored dtype, every checksum on the way verified."""

    def bound(self, tensor: int) -> float:
        """The largest absolute error that a value of this tensor may have here; 0.0 where storage is exact."""

    def verify(self) -> list[Damage]: ...


def segment_name(number: int) -> str:
    return f"log/{number:06d}.seg"


def opening(number: int, first: int, epoch: int, row_nbytes: int) -> bytes:
    """The record that a segment file begins with."""
    return encode(SEGMENT, _OPENING.pack(number, epoch, row_nbytes), first)


def frame_parts(step: int, row: NDArray[np.uint8]) -> tuple[bytes, NDArray[np.uint8]]:
    """The record of one frame as two buffers; rows are multiples of eight bytes long, so there is no padding."""
    return encode_header(FRAME, len(row), step, zlib.crc32(row.data)), row


class RawSegment:
    """A raw log segment over its bytes. ``is_last``: nothing follows, so an invalid tail is a write that was cut short."""

    def __init__(self, file: str, data: NDArray[np.uint8], layouts: list[Layout], *, is_last: bool) -> None:
        head = decode_header(data[:HEADER_NBYTES].tobytes())
        if head is None or head[0] != SEGMENT or head[1] != _OPENING.size or len(data) < _OPENING_NBYTES:
            raise DamagedRecording(f"{file} does not begin with the record of a segment")
        payload = data[HEADER_NBYTES : HEADER_NBYTES + _OPENING.size].tobytes()
        if zlib.crc32(payload) != head[3]:
            raise DamagedRecording(f"the opening record of {file} fails its checksum")
        _, self.epoch, row_nbytes = _OPENING.unpack(payload)
        if self.epoch >= len(layouts) or layouts[self.epoch].row_nbytes != row_nbytes or head[2] < 0:
            raise DamagedRecording(f"{file} does not fit any layout of the recording")
        self.file = file
        self.first: int = head[2]
        self.layout = layouts[self.epoch]
        self._stride = record_nbytes(row_nbytes)
        self._data = data
        self.count = (len(data) - _OPENING_NBYTES) // self._stride
        self.steps = np.empty(self.count, np.int64)
        self._crc = np.empty(self.count, np.int64)  # -1: the header itself is damaged
        for k in range(self.count):
            self._read_header(k)
        while is_last and self.count and not self._is_whole(self.count - 1):
            self.count -= 1
        self.steps, self._crc = self.steps[: self.count], self._crc[: self.count]
        self._verified = np.zeros(self.count, np.bool_)

    @property
    def end(self) -> int:
        """Bytes up to the end of the last valid frame."""
        return _OPENING_NBYTES + self.count * self._stride

    def _read_header(self, k: int) -> None:
        start = _OPENING_NBYTES + k * self._stride
        head = decode_header(self._data[start : start + HEADER_NBYTES].tobytes())
        if head is None or head[0] != FRAME or head[1] != self.layout.row_nbytes:
            self.steps[k], self._crc[k] = -1, -1
        else:
            self.steps[k], self._crc[k] = head[2], head[3]

    def row(self, k: int) -> NDArray[np.uint8]:
        start = _OPENING_NBYTES + k * self._stride + HEADER_NBYTES
        return self._data[start : start + self.layout.row_nbytes]

    def _is_whole(self, k: int) -> bool:
        return bool(zlib.crc32(self.row(k).data) == self._crc[k])

    def _check(self, frames: Frames) -> None:
        wanted = np.arange(self.count)[frames]
        for k in wanted[~self._verified[wanted]]:
            if not self._is_whole(k):
                raise DamagedRecording(
                    f"frame {self.first + k} (step {self.steps[k]}) fails its checksum in {self.file}: its values cannot be "
                    "trusted; other frames can still be read, and `weightlapse verify` lists what is damaged"
                )
            self._verified[k] = True

    def read(self, tensor: int, frames: Frames, region: Region) -> NDArray[Any]:
        self._check(frames)
        spec = self.layout.tensors[tensor]
        if spec.nbytes == 0:
            return np.empty((self.count, *spec.shape), spec.storage)[frames][(slice(None), *region)]
        start = _OPENING_NBYTES + HEADER_NBYTES + self.layout.offsets[tensor]
        inner = _c_strides(spec.shape, spec.storage.itemsize)
        values: NDArray[Any] = np.ndarray(
            (self.count, *spec.shape), spec.storage, buffer=self._data, offset=start, strides=(self._stride, *inner)
        )
        return np.array(values[(slice(None), *region)][frames])

    def bound(self, tensor: int) -> float:
        return 0.0

    def verify(self) -> list[Damage]:
        bad = [k for k in range(self.count) if not self._is_whole(k)]
        found = [Damage(self.file, "a frame fails its checksum", self.first + k, self.first + k + 1) for k in bad]
        if len(self._data) - self.end >= self._stride:  # less than a frame is only a write that was cut short
            found.append(
                Damage(
                    self.file,
                    "whole frames at its end fail their checksums",
                    self.first + self.count,
                    self.first + self.count + 1,
                )
            )
        return found


def _c_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = [itemsize]
    for n in reversed(shape[1:]):
        strides.append(strides[-1] * n)
    return tuple(reversed(strides)) if shape else ()


class LostSegment:
    """Frames that the recording says it has and that no file holds: reading them is an error, not a silence."""

    def __init__(self, first: int, count: int, layout: Layout, reason: str) -> None:
        self.first, self.count, self.layout, self._reason = first, count, layout, reason
        self.steps = np.full(count, -1, np.int64)

    def read(self, tensor: int, frames: Frames, region: Region) -> NDArray[Any]:
        if len(np.arange(self.count)[frames]) == 0:
            spec = self.layout.tensors[tensor]
            return np.empty((0, *spec.shape), spec.storage)[(slice(None), *region)]
        raise DamagedRecording(f"frames {self.first} to {self.first + self.count - 1} are lost: {self._reason}")

    def bound(self, tensor: int) -> float:
        return float("nan")

    def verify(self) -> list[Damage]:
        return [Damage("log", self._reason, self.first, self.first + self.count)]

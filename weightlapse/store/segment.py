"""Frames on disk come in segments: runs of consecutive frames of one layout. Raw log segments are one kind of them.

``log/NNNNNN.seg`` is a log (see ``store/log.py``) that begins with

    SEGM  first frame         four uint64: number of the segment, epoch of its layout, bytes of a frame, CRC-32 of the layout's record

followed by one record per frame, all of the same length:

    FRAM  step                the frame: one row of its layout
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.journal import LayoutEpoch
from weightlapse.store.layout import Layout
from weightlapse.store.log import HEADER_NBYTES, MAGIC, decode_header, encode, encode_header, record_nbytes

SEGMENT, FRAME = b"SEGM", b"FRAM"
_OPENING = struct.Struct("<4Q")
_OPENING_NBYTES = record_nbytes(_OPENING.size)

_HEADER = np.dtype(
    [("magic", "S4"), ("kind", "S4"), ("nbytes", "<u8"), ("step", "<i8"), ("crc", "<u4"), ("own", "<u4")]
)

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

    def read_frame(self, tensors: Sequence[int], frame: int) -> list[NDArray[Any]]:
        """Whole tensors at one frame of the segment."""

    def bound(self, tensor: int, frame: int) -> float:
        """The largest absolute error that a value of this tensor may have at this frame of the segment; 0.0 where storage is exact."""

    def bound_changes(self) -> range:
        """The frames from which on bounds may be others: all that it takes to find the largest."""

    def verify(self) -> list[Damage]: ...


def segment_name(number: int) -> str:
    return f"log/{number:06d}.seg"


def opening(number: int, first: int, epoch: int, row_nbytes: int, layout_crc: int) -> bytes:
    """The record that a segment file begins with."""
    return encode(SEGMENT, _OPENING.pack(number, epoch, row_nbytes, layout_crc), first)


def find_layout(epochs: Sequence[LayoutEpoch], epoch: int, row_nbytes: int, crc: int) -> Layout | None:
    """The layout that a segment names, looked up by checksum: an epoch that is lost in the journal must not shift the others."""
    if epoch < len(epochs) and epochs[epoch].crc == crc:
        found: LayoutEpoch | None = epochs[epoch]
    else:
        found = next((e for e in epochs if e.crc == crc), None)
    return found.layout if found is not None and found.layout.row_nbytes == row_nbytes else None


def frame_parts(step: int, row: NDArray[np.uint8]) -> tuple[bytes, NDArray[np.uint8]]:
    """The record of one frame as two buffers; rows are multiples of eight bytes long, so there is no padding."""
    return encode_header(FRAME, len(row), step, zlib.crc32(row.data)), row


class RawSegment:
    """A raw log segment over its bytes. ``is_last``: nothing follows, so an invalid tail is a write that was cut short."""

    def __init__(self, file: str, data: NDArray[np.uint8], epochs: Sequence[LayoutEpoch], *, is_last: bool) -> None:
        head = decode_header(data[:HEADER_NBYTES].tobytes())
        if head is None or head[0] != SEGMENT or head[1] != _OPENING.size or len(data) < _OPENING_NBYTES:
            raise DamagedRecording(f"{file} does not begin with the record of a segment")
        payload = data[HEADER_NBYTES : HEADER_NBYTES + _OPENING.size].tobytes()
        if zlib.crc32(payload) != head[3]:
            raise DamagedRecording(f"the opening record of {file} fails its checksum")
        self.number, self.epoch, row_nbytes, self.layout_crc = _OPENING.unpack(payload)
        layout = find_layout(epochs, self.epoch, row_nbytes, self.layout_crc)
        if layout is None or head[2] < 0:
            raise DamagedRecording(f"{file} does not fit any layout of the recording")
        self.file = file
        self.is_last = is_last
        self.first: int = head[2]
        self.layout = layout
        self._stride = record_nbytes(row_nbytes)
        self._data = data
        self.count = (len(data) - _OPENING_NBYTES) // self._stride
        heads = self._headers(self.count)
        self.steps = heads["step"].astype(np.int64)
        self._crc = heads["crc"].astype(np.int64)
        wrong = [k for k, head in enumerate(heads) if zlib.crc32(head.tobytes()[:28]) != head["own"]]
        wrong += np.flatnonzero(
            (heads["magic"] != MAGIC) | (heads["kind"] != FRAME) | (heads["nbytes"] != row_nbytes)
        ).tolist()
        self.steps[wrong] = self._crc[wrong] = -1  # the header itself is damaged
        while is_last and self.count and not self._is_whole(self.count - 1):
            self.count -= 1
        self.steps, self._crc = self.steps[: self.count], self._crc[: self.count]
        self._verified = np.zeros(self.count, np.bool_)

    @property
    def end(self) -> int:
        """Bytes up to the end of the last valid frame."""
        return _OPENING_NBYTES + self.count * self._stride

    def _headers(self, count: int) -> NDArray[Any]:
        """The headers of all frames as one array, copied out of the file."""
        strides = (self._stride,)
        view: NDArray[Any] = np.ndarray((count,), _HEADER, buffer=self._data, offset=_OPENING_NBYTES, strides=strides)
        return view.copy()

    def columns(self, start: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """``count`` neighbouring values of ``dtype`` from byte ``start`` of every frame on, as a view (frames, count). Unchecked."""
        where = _OPENING_NBYTES + HEADER_NBYTES + start
        strides = (self._stride, dtype.itemsize)
        view: NDArray[Any] = np.ndarray((self.count, count), dtype, buffer=self._data, offset=where, strides=strides)
        return view

    def check_all(self) -> None:
        """Raise :class:`DamagedRecording` unless every frame is whole."""
        self._check(slice(None))

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

    def read_frame(self, tensors: Sequence[int], frame: int) -> list[NDArray[Any]]:
        self._check(slice(frame, frame + 1))
        rows = self.row(frame)[None]
        return [np.array(self.layout.view(rows, tensor)[0]) for tensor in tensors]

    def bound(self, tensor: int, frame: int) -> float:
        return 0.0

    def bound_changes(self) -> range:
        return range(1)

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

    def read_frame(self, tensors: Sequence[int], frame: int) -> list[NDArray[Any]]:
        raise DamagedRecording(f"frame {self.first + frame} is lost: {self._reason}")

    def bound(self, tensor: int, frame: int) -> float:
        return float("nan")

    def bound_changes(self) -> range:
        return range(0)

    def verify(self) -> list[Damage]:
        return [Damage("log", self._reason, self.first, self.first + self.count)]

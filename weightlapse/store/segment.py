"""Frames on disk come in segments: runs of consecutive frames of one layout. What all kinds of them have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.layout import Layout

Frames = slice | NDArray[np.int64]  # frame numbers within the segment
Region = tuple[slice, ...]  # one slice per axis of the tensor
Out = Mapping[int, NDArray[Any]] | None  # by tensor number
Begun = tuple[list[Any], Callable[[], NDArray[Any]]]


def targets(layout: Layout, tensors: Sequence[int], out: Out) -> dict[int, NDArray[Any]]:
    """Where the values of these tensors go: into ``out``, or into new arrays."""
    specs = {t: layout.tensors[t] for t in tensors}
    return {t: np.empty(spec.shape, spec.storage) if out is None else out[t] for t, spec in specs.items()}


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

    def begin(self, tensor: int, frames: Frames, region: Region) -> Begun:
        """:meth:`read` in two halves: narrow parts that may be decoded together with those of other segments, and the second half."""

    def read_frame(self, tensors: Sequence[int], frame: int, out: Out = None) -> list[NDArray[Any]]:
        """Whole tensors at one frame of the segment; by tensor number into ``out``, arrays of stored dtype in one piece, where they are given."""

    def bound(self, tensor: int, frame: int) -> float:
        """The largest absolute error that a value of this tensor may have at this frame of the segment; 0.0 where storage is exact."""

    def bound_changes(self) -> Sequence[int]:
        """The frames from which on bounds may be others: all that it takes to find the largest."""

    def verify(self) -> list[Damage]:
        """Everything that is wrong, every checksum looked at; empty where all is well. ``first`` and ``stop`` count frames in the order of writing."""


class Whole:
    """What segments without narrow parts share."""

    def begin(self, tensor: int, frames: Frames, region: Region) -> Begun:
        """As `Segment.begin` with no narrow parts: all of the reading is in the second half."""
        return [], lambda: self.read(tensor, frames, region)  # type: ignore[attr-defined,no-any-return]


class LostSegment(Whole):
    """Frames that the recording says it has and that no file holds: reading them is an error, not a silence."""

    def __init__(self, first: int, count: int, layout: Layout, reason: str) -> None:
        self.first, self.count, self.layout, self._reason = first, count, layout, reason
        self.steps: NDArray[np.int64] = np.full(count, -1, np.int64)

    def read(self, tensor: int, frames: Frames, region: Region) -> NDArray[Any]:
        """An empty array (0, *region) for no frames; for any other raises DamagedRecording with the reason."""
        if len(np.arange(self.count)[frames]) == 0:
            spec = self.layout.tensors[tensor]
            return np.empty((0, *spec.shape), spec.storage)[(slice(None), *region)]
        raise DamagedRecording(f"frames {self.first} to {self.first + self.count - 1} are lost: {self._reason}")

    def read_frame(self, tensors: Sequence[int], frame: int, out: Out = None) -> list[NDArray[Any]]:
        """Raises DamagedRecording, always."""
        raise DamagedRecording(f"frame {self.first + frame} is lost: {self._reason}")

    def bound(self, tensor: int, frame: int) -> float:
        """NaN: there are no values that could be off."""
        return float("nan")

    def bound_changes(self) -> range:
        """None, so that the largest bound of a tensor is that of the frames which can be read."""
        return range(0)

    def verify(self) -> list[Damage]:
        """One damage: all of its frames."""
        return [Damage("log", self._reason, self.first, self.first + self.count)]


class SegmentPart:
    """The frames ``[start, start + count)`` of a segment, numbered from ``first`` on."""

    def __init__(self, segment: Segment, start: int, count: int, first: int) -> None:
        self.whole, self._start = segment, start
        self.first, self.count = first, count
        self.layout = segment.layout
        self.steps: NDArray[np.int64] = segment.steps[start : start + count]

    def _frames(self, frames: Frames) -> Frames:
        numbers = np.arange(self._start, self._start + self.count)[frames]
        return numbers if not isinstance(frames, slice) or not len(numbers) else as_slice(numbers)

    def read(self, tensor: int, frames: Frames, region: Region) -> NDArray[Any]:
        """As `Segment.read`; frames are counted from the part's beginning, as in every method but :meth:`verify`."""
        return self.whole.read(tensor, self._frames(frames), region)

    def begin(self, tensor: int, frames: Frames, region: Region) -> Begun:
        """As `Segment.begin` of the whole segment, so that narrow parts are still decoded together."""
        return self.whole.begin(tensor, self._frames(frames), region)

    def read_frame(self, tensors: Sequence[int], frame: int, out: Out = None) -> list[NDArray[Any]]:
        """As `Segment.read_frame`, the frame counted from the part's beginning."""
        return self.whole.read_frame(tensors, frame + self._start, out)

    def bound(self, tensor: int, frame: int) -> float:
        """As `Segment.bound`, the frame counted from the part's beginning."""
        return self.whole.bound(tensor, frame + self._start)

    def bound_changes(self) -> Sequence[int]:
        """Frame 0 and those inside at which the whole segment's bounds may change; empty for a part without frames."""
        inside = [k - self._start for k in self.whole.bound_changes() if self._start < k < self._start + self.count]
        return [0, *inside] if self.count else []

    def verify(self) -> list[Damage]:
        """The damages of the whole segment, also outside of the part."""
        return self.whole.verify()


def as_slice(numbers: NDArray[np.int64]) -> Frames:
    """Evenly rising numbers as a slice, which reads without an index array; others as they are."""
    if len(numbers) == 1:
        return slice(int(numbers[0]), int(numbers[0]) + 1)
    stride = int(numbers[1] - numbers[0])
    if stride > 0 and bool((np.diff(numbers) == stride).all()):
        return slice(int(numbers[0]), int(numbers[-1]) + 1, stride)
    return numbers

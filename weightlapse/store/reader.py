"""Reading a recording: lazily, without locks, also while another process is still writing it."""

from __future__ import annotations

import bisect
import contextlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weightlapse.store.journal as journal
import weightlapse.store.manifest as manifest
from weightlapse.errors import DamagedRecording, InvalidArgument, NotARecording, UnknownTensor, closest
from weightlapse.store.blockread import BlockSegment
from weightlapse.store.cache import Cache
from weightlapse.store.codecs.decode import advance_together
from weightlapse.store.folder import Folder, LocalFolder
from weightlapse.store.journal import Journal, LayoutEpoch
from weightlapse.store.layout import Layout
from weightlapse.store.segment import Damage, Frames, Region, Segment
from weightlapse.store.segments import SegmentList


class Store:
    """A recording as it is on disk: frames in segments, the rest in the journal. Open one with :meth:`open`."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._manifest = manifest.read(folder)
        self.location = folder.location
        self.meta: dict[str, Any] = self._manifest["meta"]
        self.tolerance: float | None = self._manifest["tolerance"]
        self.journal = Journal()
        self.segments: list[Segment] = []
        self.cache = Cache()
        self._list = SegmentList(folder, self.cache)
        self.refresh()

    @classmethod
    def open(cls, path: str | os.PathLike[str] | Folder) -> Store:
        return cls(LocalFolder(path) if isinstance(path, (str, os.PathLike)) else path)

    # ---- what there is ---------------------------------------------------------------------------------------------

    def refresh(self) -> int:
        """Take up what was written since; returns the number of new frames."""
        before = len(self.steps) if self.segments else 0
        self._read_journal()
        closed_at = self.journal.closed_at or 0  # all frames before a close are on disk by now
        if not self.journal.epochs:
            raise DamagedRecording(
                f"the {journal.NAME} of {self.location} does not begin with a layout: nothing can be read"
            )
        segments = self._list.find(self.journal.epochs, closed_at)
        if self._list.damages:  # perhaps only a layout that was written after the journal was read
            self._read_journal()
            segments = self._list.find(self.journal.epochs, closed_at)
        self.segments = segments
        self._firsts = [segment.first for segment in segments]
        self.steps: NDArray[np.int64] = np.concatenate([np.empty(0, np.int64), *(s.steps for s in self.segments)])
        return len(self.steps) - before

    def _read_journal(self) -> None:
        try:
            self.journal.read_on(self._folder.data(journal.NAME))
        except FileNotFoundError:
            raise NotARecording(f"{self.location} has no {journal.NAME}: it is not a whole recording") from None

    @property
    def epochs(self) -> list[LayoutEpoch]:
        """The layout epochs, in order."""
        return self.journal.epochs

    @property
    def stopped(self) -> str | None:
        """Why the recorder had to stop, None when it did not."""
        return self.journal.stopped

    @property
    def layouts(self) -> list[tuple[int, Layout]]:
        """(first frame, layout) of every epoch."""
        return [(epoch.start, epoch.layout) for epoch in self.journal.epochs]

    @property
    def scalars(self) -> dict[str, NDArray[np.float64]]:
        return self.journal.scalars(len(self.steps))

    @property
    def events(self) -> list[tuple[int, str]]:
        return list(self.journal.events)

    @property
    def gaps(self) -> list[tuple[int, int, str]]:
        return list(self.journal.gaps)

    @property
    def wiring_spec(self) -> str | None:
        return self.journal.wiring_spec

    @property
    def closed(self) -> bool:
        return self.journal.closed_at is not None

    @property
    def raw_nbytes(self) -> int:
        """Bytes of all recorded values, uncompressed."""
        return sum(s.count * s.layout.value_nbytes for s in self.segments)

    @property
    def stored_nbytes(self) -> int:
        """Bytes that the recording takes on disk."""
        inside = [f"{below}/{name}" for below in ("log", "blocks") for name in self._folder.names(below)]
        names = [name for name in self._folder.names("") if name not in ("log", "blocks", "ranks")]
        return sum(self._folder.size(name) for name in (*names, *inside))

    @property
    def last_segment_number(self) -> int:
        return self._list.last_number

    # ---- values ----------------------------------------------------------------------------------------------------

    def read(self, name: str, frames: Frames, region: Region | None = None) -> NDArray[Any]:
        """Values (n, \\*region) of a tensor at ``frames`` (a slice or int array of frame numbers) in its stored dtype.

        ``region`` is one slice per axis of the tensor, None for all of it. Only the segments that hold these frames are touched.
        Raises :class:`InvalidArgument` when the tensor has several shapes or dtypes over these frames.
        """
        total = len(self.steps)
        if isinstance(frames, slice):
            numbers = np.arange(*frames.indices(total))
        else:
            numbers = np.asarray(frames, np.int64)
            if len(numbers) and (numbers.min() < 0 or numbers.max() >= total):
                raise InvalidArgument(f"frame {numbers.max()} is not among the {total} frames of {self.location}")
        with self.cache.lock:
            begun = []
            for segment in self.segments:
                inside = (numbers >= segment.first) & (numbers < segment.first + segment.count)
                if inside.any():
                    tensor = self._tensor(name, segment.layout)
                    where = region if region is not None else (slice(None),) * len(segment.layout.tensors[tensor].shape)
                    local = _as_slice(numbers[inside] - segment.first)
                    begun.append((inside, _begin(segment, tensor, local, where)))
            fresh = [part for _, (narrow, _) in begun for part in narrow]
            if len(fresh) > 1:
                with contextlib.suppress(DamagedRecording):  # found again below, where it is known what it means
                    advance_together(fresh)
            parts = [(inside, finish()) for inside, (_, finish) in begun]
        if not parts:
            layout = self.journal.epochs[-1].layout
            spec = layout.tensors[self._tensor(name, layout)]
            return np.empty((0, *spec.shape), spec.storage)[(slice(None), *(region or ()))]
        if len(parts) == 1:
            return parts[0][1]
        kinds = {(values.shape[1:], values.dtype) for _, values in parts}
        if len(kinds) > 1:
            raise InvalidArgument(
                f"{name} changes its shape within these frames: {sorted(map(str, kinds))}; read each epoch alone"
            )
        out = np.empty((len(numbers), *parts[0][1].shape[1:]), parts[0][1].dtype)
        for inside, values in parts:
            out[inside] = values
        return out

    def _tensor(self, name: str, layout: Layout) -> int:
        if name not in layout.index:
            raise UnknownTensor(
                f"{self.location} has no tensor {name!r} at these frames; {closest(name, layout.index)}"
            )
        return layout.index[name]

    def layout_at(self, frame: int) -> Layout:
        return next(e.layout for e in reversed(self.journal.epochs) if e.start <= frame)

    def read_frame(self, frame: int, names: list[str] | None = None) -> dict[str, NDArray[Any]]:
        """One frame as stored arrays by name (without aliases)."""
        segment = self._segment_at(frame)
        wanted = names if names is not None else [t.name for t in segment.layout.tensors]
        tensors = [self._tensor(name, segment.layout) for name in wanted]
        return dict(zip(wanted, segment.read_frame(tensors, frame - segment.first)))

    def _segment_at(self, frame: int) -> Segment:
        i = bisect.bisect_right(self._firsts, frame) - 1
        if i < 0 or frame >= self.segments[i].first + self.segments[i].count:
            raise InvalidArgument(f"frame {frame} is not among the {len(self.steps)} frames of {self.location}")
        return self.segments[i]

    def bound(self, name: str, frame: int | None = None) -> float:
        """The largest absolute error of this tensor's values at this frame, or at any when it is None."""
        if frame is None:
            mine = [s for s in self.segments if name in s.layout.index]
            return max((s.bound(s.layout.index[name], k) for s in mine for k in s.bound_changes()), default=0.0)
        segment = self._segment_at(frame)
        return segment.bound(self._tensor(name, segment.layout), frame - segment.first)

    def verify(self) -> list[Damage]:
        """Check every checksum; an empty list means that all is well."""
        found = list(self._list.damages)
        found += [damage for segment in self.segments for damage in segment.verify()]
        found += [
            Damage(journal.NAME, f"bytes {a} to {b - 1} are no record that can be read")
            for a, b in self.journal.damaged
        ]
        tail = self._folder.size(journal.NAME) - self.journal.end
        if tail and self.closed:
            found.append(Damage(journal.NAME, f"{tail} bytes after the last whole record"))
        return found


def _begin(segment: Segment, tensor: int, frames: Frames, region: Region) -> Any:
    """See :meth:`BlockSegment.begin`; other segments have nothing to share."""
    if isinstance(segment, BlockSegment):
        return segment.begin(tensor, frames, region)
    return [], lambda: segment.read(tensor, frames, region)


def _as_slice(numbers: NDArray[np.int64]) -> Frames:
    """Evenly rising numbers as a slice, which reads without an index array; others as they are."""
    if len(numbers) == 1:
        return slice(int(numbers[0]), int(numbers[0]) + 1)
    stride = int(numbers[1] - numbers[0])
    if stride > 0 and bool((np.diff(numbers) == stride).all()):
        return slice(int(numbers[0]), int(numbers[-1]) + 1, stride)
    return numbers

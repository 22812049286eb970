"""Reading a recording: lazily, without locks, also while another process is still writing it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording, InvalidArgument, NotARecording, UnknownTensor, closest
from weightlapse.store import journal, manifest
from weightlapse.store.folder import Folder, LocalFolder
from weightlapse.store.journal import Journal
from weightlapse.store.layout import Layout
from weightlapse.store.segment import Damage, Frames, LostSegment, RawSegment, Region, Segment


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
        self.last_segment_number = -1
        self.refresh()

    @classmethod
    def open(cls, path: str | os.PathLike[str] | Folder) -> Store:
        return cls(LocalFolder(path) if isinstance(path, (str, os.PathLike)) else path)

    # ---- what there is ---------------------------------------------------------------------------------------------

    def refresh(self) -> int:
        """Take up what was written since; returns the number of new frames."""
        before = len(self.steps) if self.segments else 0
        self._read_journal()
        closed_at = self.journal.closed_at  # all frames before a close are on disk by now
        listed = self._folder.names("log")
        self._read_journal()  # a layout is written before the first segment that uses it
        if not self.journal.epochs:
            raise DamagedRecording(
                f"the {journal.NAME} of {self.location} does not begin with a layout: nothing can be read"
            )
        self._find_segments([name for name in listed if name.endswith(".seg")], closed_at or 0)
        self.steps: NDArray[np.int64] = np.concatenate([np.empty(0, np.int64), *(s.steps for s in self.segments)])
        return len(self.steps) - before

    def _read_journal(self) -> None:
        try:
            self.journal.read_on(self._folder.data(journal.NAME))
        except FileNotFoundError:
            raise NotARecording(f"{self.location} has no {journal.NAME}: it is not a whole recording") from None

    def _find_segments(self, names: list[str], frames: int) -> None:
        layouts = [epoch.layout for epoch in self.journal.epochs]
        found: list[Segment] = []
        for name in names:
            raw = self._raw_segment(f"log/{name}", layouts, is_last=name == names[-1])
            if raw is not None:
                found.append(raw)
        self.last_segment_number = max((int(name[:-4]) for name in names if name[:-4].isdigit()), default=-1)
        self.segments = self._in_order(found, frames)

    def _raw_segment(self, file: str, layouts: list[Layout], *, is_last: bool) -> RawSegment | None:
        data = self._folder.data(file)
        try:
            return RawSegment(file, data, layouts, is_last=is_last)
        except DamagedRecording:
            if is_last and len(data) < 4096:  # begun in this instant
                return None
            raise

    def _in_order(self, found: list[Segment], frames: int) -> list[Segment]:
        """The segments by first frame, with a :class:`LostSegment` wherever some of the ``frames`` are missing."""
        ordered: list[Segment] = []
        expected = 0
        for segment in sorted(found, key=lambda s: s.first):
            if segment.first < expected:
                raise DamagedRecording(
                    f"two files of {self.location} hold frame {segment.first}: which one is right is unknown"
                )
            if segment.first > expected:
                ordered.append(self._lost(expected, segment.first))
            if segment.count:
                ordered.append(segment)
            expected = segment.first + segment.count
        if frames > expected:
            ordered.append(self._lost(expected, frames))
        return ordered

    def _lost(self, first: int, stop: int) -> LostSegment:
        if stop - first > 1 << 24:  # the claim of a damaged number: not worth an array
            raise DamagedRecording(f"{self.location} claims {stop} frames, which no recording can have")
        layout = next(e.layout for e in reversed(self.journal.epochs) if e.start <= first)
        return LostSegment(
            first, stop - first, layout, f"no file of {self.location} holds them (deleted or cut short?)"
        )

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
        names = [*self._folder.names(""), *(f"log/{n}" for n in self._folder.names("log"))]
        return sum(self._folder.size(n) for n in names if n not in ("log", "blocks"))

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
        parts = []
        for segment in self.segments:
            inside = (numbers >= segment.first) & (numbers < segment.first + segment.count)
            if inside.any():
                tensor = self._tensor(name, segment.layout)
                where = region if region is not None else (slice(None),) * len(segment.layout.tensors[tensor].shape)
                local = numbers[inside] - segment.first
                parts.append((inside, segment.read(tensor, _as_slice(local), where)))
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
        wanted = names if names is not None else [t.name for t in self.layout_at(frame).tensors]
        return {name: self.read(name, np.array([frame]))[0, ...] for name in wanted}

    def bound(self, name: str, frame: int) -> float:
        """The largest absolute error of this tensor's values at this frame."""
        for segment in self.segments:
            if segment.first <= frame < segment.first + segment.count:
                return segment.bound(self._tensor(name, segment.layout))
        raise InvalidArgument(f"frame {frame} is not among the {len(self.steps)} frames of {self.location}")

    def verify(self) -> list[Damage]:
        """Check every checksum; an empty list means that all is well."""
        found = [damage for segment in self.segments for damage in segment.verify()]
        tail = self._folder.size(journal.NAME) - self.journal.end
        if tail and self.closed:
            found.append(Damage(journal.NAME, f"{tail} bytes after the last whole record"))
        return found


def _as_slice(numbers: NDArray[np.int64]) -> Frames:
    """Evenly rising numbers as a slice, which reads without an index array; others as they are."""
    if len(numbers) == 1:
        return slice(int(numbers[0]), int(numbers[0]) + 1)
    stride = int(numbers[1] - numbers[0])
    if stride > 0 and bool((np.diff(numbers) == stride).all()):
        return slice(int(numbers[0]), int(numbers[-1]) + 1, stride)
    return numbers

"""Reading a recording: lazily, without locks, also while another process is still writing it."""

from __future__ import annotations

import bisect
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weightlapse.store.manifest as manifest
from weightlapse.errors import DamagedRecording, InvalidArgument, NotARecording, UnknownTensor, closest
from weightlapse.store.belonging import Belonging
from weightlapse.store.blockread import BlockSegment
from weightlapse.store.cache import Cache
from weightlapse.store.codecs.decode import advance_together
from weightlapse.store.folder import Folder, LocalFolder
from weightlapse.store.gathering import LastFrame, read_last
from weightlapse.store.journal import Journal, LayoutEpoch
from weightlapse.store.layout import Layout
from weightlapse.store.lines import OPEN_END, Fork, lines_of, positions, untold
from weightlapse.store.log import UNSEALED
from weightlapse.store.raw import RawSegment
from weightlapse.store.scalars import Scalars
from weightlapse.store.segment import Damage, Frames, Region, Segment, as_slice
from weightlapse.store.segments import SegmentList, TwoCopies, on_line, rising
from weightlapse.store.statistics_check import StatisticsCheck, damage_of
from weightlapse.store.statistics_file import StatisticsFile

_TRIES = 4


class Store:
    """A recording as it is on disk: frames in segments, the rest in the journal. Open one with :meth:`open`.

    It shows one line of it: the main one, or a ``branch`` that was left when the recording was rewound.
    """

    def __init__(self, folder: Folder, branch: str | None = None) -> None:
        self._folder = folder
        self.branch = branch
        self._manifest, self._manifest_fault = manifest.read(folder)
        self.id: str = self._manifest["id"]
        self.version: int = self._manifest["version"]
        self.location = folder.location
        self.meta: dict[str, Any] = self._manifest["meta"]
        self.tolerance: float | None = self._manifest["tolerance"]
        self.journal_name: str = self._manifest.get("journal", manifest.JOURNAL)
        self.ours = self._belonging()
        self._journal_fault: str | None = None
        self.segments: list[Segment] = []
        self.steps: NDArray[np.int64] = np.empty(0, np.int64)
        self.cache = Cache()
        self._list = SegmentList(folder, self.cache, self.ours)
        self._statistics = StatisticsFile(folder, self.ours.id)
        self._take_up()

    def _belonging(self) -> Belonging:
        head = self._manifest
        sealed = head["version"] > 1
        replaced = head.get("replaced") if isinstance(head.get("replaced"), str) else None
        first = head.get("first_segment", 0)
        return Belonging(
            manifest.identity(head),
            manifest.seal_of(head) if sealed else UNSEALED,
            Journal(manifest.seal_of(head) if sealed else UNSEALED),
            unsealed=not sealed or head.get("born") == 1,
            replaced=replaced,
            first_number=first if type(first) is int else 0,
        )

    @classmethod
    def open(cls, path: str | os.PathLike[str] | Folder, branch: str | None = None) -> Store:
        """A path of this machine, or a folder of any kind; ``branch`` None is the main line. Raises NotARecording for what is none."""
        return cls(LocalFolder(path) if isinstance(path, (str, os.PathLike)) else path, branch)

    def __reduce__(self) -> Any:
        """In another process (a DataLoader's worker that is spawned, say) it is opened there, by its place."""
        return _opened_there, (self._folder, self.branch, self.id)

    def on_branch(self, name: str) -> Store:
        """The same recording, seen along one of its branches."""
        return Store(self._folder, name)

    # ---- what there is ---------------------------------------------------------------------------------------------

    @property
    def journal(self) -> Journal:
        """As far as it was read by the last :meth:`refresh`."""
        return self.ours.journal

    def refresh(self) -> int:
        """Take up what was written since; returns the number of new frames.

        Raises :class:`DamagedRecording` when another recording has taken its place.
        """
        if manifest.read(self._folder)[0]["id"] != self.id:
            raise DamagedRecording(
                f"{self.location} was replaced by another recording since it was opened: what was read so far is of the old one; open it again"
            )
        return self._take_up()

    def _take_up(self) -> int:
        before = len(self.steps)
        self._read_journal()
        found = self._list.find(self.journal.closed_at or 0)  # all frames before a close are on disk by now
        if self._list.damages:  # perhaps only a layout that was written after the journal was read
            self._read_journal()
            found = self._list.find(self.journal.closed_at or 0)
        if not self.journal.epochs:
            raise DamagedRecording(
                f"neither {self.journal_name} nor any segment of {self.location} says what its tensors are: nothing can be read"
            )
        self._found = found
        self._lines = self.journal.lines()
        self._lost_rewinds: list[Fork] = []
        if not rising(on_line(found, self._lines[0])):
            told = list(self.journal.forks.values())
            self._lost_rewinds = untold(told, [(s.first, s.steps) for s in found])
            self._lines = lines_of(sorted([*told, *self._lost_rewinds], key=lambda fork: fork.first))
        main, branches = self._lines
        self.line = main if self.branch is None else branches.get(self.branch, ())
        self.branches = list(branches)
        self.segments = on_line(found, self.line)
        self._firsts = [segment.first for segment in self.segments]
        self.steps = np.concatenate([np.empty(0, np.int64), *(s.steps for s in self.segments)])
        self._epochs = self._epochs_on_line()
        return len(self.steps) - before

    def _read_journal(self) -> None:
        self._journal_fault = None
        self._journal_tail = 0
        try:
            file = self._folder.open(self.journal_name)
            if file.size < self.journal.end:
                raise DamagedRecording(f"{self.journal_name} is shorter than it was")
            self.journal.read_on(file)
            self._journal_tail = file.size - self.journal.end
        except FileNotFoundError:
            if not self._folder.names("log") and not self._folder.names("blocks"):
                raise NotARecording(
                    f"{self.location} has no {self.journal_name}: it is not a whole recording"
                ) from None
            self._journal_fault = "is missing: scalars and events are lost, and a rewind of which no frame is left"
        if self._journal_fault is None and (
            self.journal.end == 0
            or (self.journal.head is None and not self.ours.unsealed)
            or (not self.journal.has_layout and bool(self._folder.names("log") or self._folder.names("blocks")))
        ):
            self._journal_fault = "has lost its beginning, or all of it: scalars and events may be lost, and a rewind of which no frame is left"
        whose = manifest.id_in(self.journal.head) if self.journal.head is not None else self.id
        if whose != self.id:
            self._journal_fault = (
                f"belongs to the recording {whose}, not to this one ({self.id}): scalars and events are lost"
            )

    def _epochs_on_line(self) -> list[LayoutEpoch]:
        """The layout epochs, their starts counted along this line; where it comes back to the same layout nothing begins."""
        every = self.journal.epochs
        found: list[LayoutEpoch] = []
        at = 0
        for first, stop in self.line:
            for epoch, following in zip(every, [*(e.start for e in every[1:]), OPEN_END]):
                a, b = max(first, epoch.start), min(stop, following)
                if a >= b:
                    continue
                if not found or found[-1].layout != epoch.layout or epoch.lineage is not None:
                    found.append(replace(epoch, start=at + a - first))
            at += stop - first
        return found or [replace(every[0], start=0)]

    @property
    def epochs(self) -> list[LayoutEpoch]:
        """The layout epochs, in order, along this line."""
        return self._epochs

    @property
    def stopped(self) -> str | None:
        """Why the recorder had to stop, None when it did not."""
        return self.journal.stopped

    @property
    def layouts(self) -> list[tuple[int, Layout]]:
        """(first frame, layout) of every epoch."""
        return [(epoch.start, epoch.layout) for epoch in self._epochs]

    @property
    def written(self) -> int:
        """Frames that were ever written, on all lines."""
        return self._list.written

    @property
    def scalars(self) -> Scalars:
        """Float64 (T,) by name, on the line that is shown; a column is made when it is asked for."""
        return self.journal.scalars(len(self.steps), self.line)

    @property
    def events(self) -> list[tuple[int, str]]:
        """(step, text) of the line that is shown, in the order in which they were marked."""
        return list(self.journal.events if self.branch is None else self.journal.told.get(self.branch, ([], []))[0])

    @property
    def observed(self) -> list[tuple[int, dict[str, Any]]]:
        """(step, facts) of the line that is shown."""
        return list(self.journal.observed if self.branch is None else self.journal.observed_of.get(self.branch, []))

    @property
    def gaps(self) -> list[tuple[int, int, str]]:
        """(first step, last step, reason) of the line that is shown."""
        return list(self.journal.gaps if self.branch is None else self.journal.told.get(self.branch, ([], []))[1])

    @property
    def wiring_spec(self) -> str | None:
        """The text of the wiring that was written last, None where none was; the same on all lines."""
        return self.journal.wiring_spec

    @property
    def closed(self) -> bool:
        """Whether the journal ends with an orderly close; a recording that is resumed is open again."""
        return self.journal.closed_at is not None

    @property
    def raw_nbytes(self) -> int:
        """Bytes of all recorded values, uncompressed."""
        return sum(s.count * s.layout.value_nbytes for s in self.segments)

    @property
    def stored_nbytes(self) -> int:
        """Bytes that the recording takes on disk."""
        names = (f"{below}/{name}" for below in ("log", "blocks") for name in self._folder.names(below))
        total = 0
        for name in (manifest.NAME, self.journal_name, self._statistics.name, *names):
            with contextlib.suppress(FileNotFoundError, DamagedRecording):  # compacted away since, or a link to nothing
                total += self._folder.open(name).size
        return total

    @property
    def statistics(self) -> StatisticsFile:
        """The statistics that are kept of its segments, as they are now."""
        self._statistics.look()
        return self._statistics

    @property
    def written_segments(self) -> list[Segment]:
        """The segments of all lines, in the order of writing."""
        return list(self._found)

    @property
    def last_segment_number(self) -> int:
        """The highest number of a log or block file that is there, -1 where there is none: a writer goes on behind it."""
        return self._list.last_number

    @property
    def raw_segments(self) -> list[RawSegment]:
        """The segments, of all lines, that are a log only."""
        return [segment for segment in self._found if isinstance(segment, RawSegment) and segment.count]

    @property
    def doubled(self) -> list[TwoCopies]:
        """The segments, of all lines, that are there as a log and as a block."""
        return [segment for segment in self._found if isinstance(segment, TwoCopies)]

    @property
    def leftovers(self) -> list[str]:
        """Files of a recording that this one has replaced: the next writer removes them."""
        return self._list.leftovers

    @property
    def stubs(self) -> list[str]:
        """Segments that were never begun: their writer was killed, or begins one in this instant."""
        return self._list.stubs

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
        parts = self._again(lambda: self._parts(name, numbers, region))
        if not parts:
            layout = self._epochs[-1].layout
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

    def _again(self, read: Callable[[], Any]) -> Any:
        """Read, and once more where a log became a block (or another recording took the place) since this one was opened."""
        for attempt in range(_TRIES):
            try:
                return read()
            except FileNotFoundError:
                if attempt == _TRIES - 1:
                    raise DamagedRecording(f"files of {self.location} come and go while they are read") from None
                seen = self.steps
                self.refresh()
                if not np.array_equal(seen, self.steps[: len(seen)]):
                    raise DamagedRecording(
                        f"{self.location} was rewound while it was being read: refresh and read again"
                    ) from None
        raise AssertionError

    def _parts(self, name: str, numbers: NDArray[np.int64], region: Region | None) -> list[tuple[Any, NDArray[Any]]]:
        """(which of the frame numbers, their values) from each segment that holds some."""
        with self.cache.lock:
            begun = []
            for segment in self.segments:
                inside = (numbers >= segment.first) & (numbers < segment.first + segment.count)
                if inside.any():
                    tensor = self._tensor(name, segment.layout)
                    where = region if region is not None else (slice(None),) * len(segment.layout.tensors[tensor].shape)
                    local = as_slice(numbers[inside] - segment.first)
                    begun.append((inside, segment.begin(tensor, local, where)))
            fresh = [part for _, (narrow, _) in begun for part in narrow]
            if len(fresh) > 1:
                with contextlib.suppress(DamagedRecording):  # found again below, where it is known what it means
                    advance_together(fresh)
            return [(inside, finish()) for inside, (_, finish) in begun]

    def _tensor(self, name: str, layout: Layout) -> int:
        if name not in layout.index:
            raise UnknownTensor(
                f"{self.location} has no tensor {name!r} at these frames; {closest(name, layout.index)}"
            )
        return layout.index[name]

    def layout_at(self, frame: int) -> Layout:
        """The layout of a frame: of the segment that holds it, whatever the journal has lost."""
        if 0 <= frame < len(self.steps):
            return self._segment_at(frame).layout
        return next((e.layout for e in reversed(self._epochs) if e.start <= frame), self._epochs[0].layout)

    def read_frame(
        self, frame: int, names: Sequence[str] | None = None, out: Mapping[str, NDArray[Any]] | None = None
    ) -> dict[str, NDArray[Any]]:
        """One frame as stored arrays by name (without aliases); read into the arrays of ``out`` (stored dtype and shape, in one piece) where given."""

        def read() -> dict[str, NDArray[Any]]:
            segment = self._segment_at(frame)
            wanted = names if names is not None else [t.name for t in segment.layout.tensors]
            tensors = [self._tensor(name, segment.layout) for name in wanted]
            into = None if out is None else {t: out[name] for t, name in zip(tensors, wanted)}
            return dict(zip(wanted, segment.read_frame(tensors, frame - segment.first, into)))

        values: dict[str, NDArray[Any]] = self._again(read)
        return values

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

    def _on_lines(self, damage: Damage) -> list[Damage]:
        """Damage of frames in the order of writing, told with the numbers that they have on this line, or on a branch."""
        if damage.stop <= damage.first or self.line == ((0, OPEN_END),):
            return [damage]
        main, branches = self._lines
        told = []
        for name, line in ((None, main), *branches.items()):
            where = positions(line, np.arange(damage.first, damage.stop))
            where = where[where >= 0]
            if len(where):
                prefix = "" if name == self.branch else f"branch {name}: " if name is not None else "main line: "
                told.append(Damage(damage.file, prefix + damage.what, int(where[0]), int(where[-1]) + 1))
        return told

    def _verify_segments(self) -> Iterator[Damage]:
        """Every segment; blocks together with the statistics that are kept of them."""
        kept, last = self.statistics, None
        for segment in self._found:
            held = kept.get(segment.number) if isinstance(segment, BlockSegment) and segment.rebuilt is None else None
            if not isinstance(segment, BlockSegment) or held is None:
                yield from segment.verify()
                continue
            check = StatisticsCheck(held, segment, last, lambda number: self.frame_as_last(number, segment.layout))  # noqa: B023
            found = segment.verify(check.look)
            yield from found
            last = check.last
            if not found and (wrong := check.wrong()):
                yield damage_of(kept.name, segment, wrong)

    def frame_as_last(self, number: int, layout: Layout, folder: Path | None = None) -> LastFrame | None:
        """Frame ``number`` as others are compared with it, where it can be read and has this layout. ``folder``: for what does not fit in memory."""
        segment = next((s for s in self._found if s.first <= number < s.first + s.count), None)
        if segment is None or segment.layout != layout:
            return None
        return read_last(segment, number, layout, folder)

    def journal_damages(self) -> list[Damage]:
        """What cannot be read of everything that is not a frame: scalars, events, gaps."""
        found = [] if self._journal_fault is None else [Damage(self.journal_name, self._journal_fault)]
        found += [
            Damage(self.journal_name, f"bytes {a} to {b - 1} are no record that can be read")
            for a, b in self.journal.damaged
        ]
        tail = self._journal_tail if self._journal_fault is None else 0
        if tail > 0 and (self.closed or not self.journal.cut_short):
            found.append(Damage(self.journal_name, f"the last {tail} bytes are no record that can be read"))
        return found

    def verify(self) -> list[Damage]:
        """Check every checksum, and the statistics against the values; an empty list means that all is well."""
        if self._manifest_fault is not None:
            found = [Damage(manifest.NAME, self._manifest_fault)]
        else:
            found = []
        found += self._list.damages
        found += [told for damage in self._verify_segments() for told in self._on_lines(damage)]
        found += self.statistics.damages(closed=self.closed)
        found += self.journal_damages()
        rewound = "no record is left of a rewind to step {0.step} or before: what the steps show as cut off is branch {0.name}"
        found += [Damage(self.journal_name, rewound.format(fork)) for fork in self._lost_rewinds]
        known = self.steps[self.steps >= 0]
        if (np.diff(known) <= 0).any():
            at = int(np.flatnonzero(np.diff(known) <= 0)[0])
            found.append(
                Damage("log", f"step {known[at + 1]} follows step {known[at]}: frames of several trainings are mixed")
            )
        return found


def _opened_there(folder: Folder, branch: str | None, identity: str) -> Store:
    store = Store(folder, branch)
    if store.id != identity:
        raise DamagedRecording(f"{store.location} was replaced by another recording since it was opened: open it again")
    return store

"""``keep="around_events"``: sparse frames, and around an event every one.

Every step is taken. The recorder's thread holds the last frames in memory and writes a frame only when it leaves there: if its step is one of the sparse
ones, or if an event is near. So what went before an event is on disk too, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.capture.alarm import LossAlarm, WeightsAlarm
from weightlapse.capture.schedule import Schedule, every
from weightlapse.errors import CannotRecord, InvalidArgument
from weightlapse.store.layout import Layout
from weightlapse.store.passing import patiently
from weightlapse.store.writer import Writer

BEFORE = 64  # frames before an event, as far as there is memory: what the autopsy of a spike looks at
AFTER = 32  # frames after it
FEWEST = 8  # frames that must fit into memory: a loss is logged a little later than its frame is taken
_USUAL = 256_000_000  # bytes of frames held, where no memory is given
_SPARSE = 100  # steps from frame to frame where every= says nothing


def sparse_schedule(schedule: Schedule) -> Schedule:
    """The steps that are kept anyway: ``every=1``, which would be all of them, stands for every hundredth."""
    return every(_SPARSE) if isinstance(schedule, every) and schedule.n == 1 else schedule


def check_keep(keep: Any, *, pack: Any, sharded: bool) -> bool:
    """Whether frames are kept around events."""
    if keep == "all":
        return False
    if keep != "around_events":
        raise InvalidArgument(f"keep={keep!r}: choose 'all' or 'around_events'")
    if pack is True:
        raise InvalidArgument(
            "keep='around_events' leaves frames out, and packed frames build on each other: leave out pack=True"
        )
    if sharded:
        raise InvalidArgument(
            "keep='around_events' cannot be told alike on every process of a sharded model: use keep='all'"
        )
    return True


def frames_held(row_nbytes: int, memory: int | None) -> int:
    """How many frames are held: 64, or as many as fit into half of ``memory``."""
    room = _USUAL if memory is None else memory // 2
    count = min(BEFORE, room // max(row_nbytes, 1))
    if count < FEWEST and memory is not None:
        raise CannotRecord(
            f"keep='around_events' holds {FEWEST} frames of {row_nbytes:,} bytes at least, in half of memory={memory:,}: pass memory={2 * FEWEST * row_nbytes} or more"
        )
    return max(count, FEWEST)


@dataclass
class _Held:
    frame: int
    step: int
    row: NDArray[np.uint8]


class KeepingWriter:
    """Has the face of the :class:`Writer` that it writes to; ``frames`` counts those that were given, ``recorded`` those that are there."""

    numbers_first = True  # what was logged is wanted before the frames that it may save

    def __init__(self, writer: Writer, sparse: Schedule, memory: int | None) -> None:
        self._writer, self._sparse, self._memory = writer, sparse, memory
        self.frames = writer.frames
        self.takes_packed = False
        self._before = frames_held(writer.layout.row_nbytes, memory)
        self._held: deque[_Held] = deque()
        self._numbers: dict[int, list[tuple[str, float]]] = {}
        self._losses: dict[str, LossAlarm] = {}
        self._weights = WeightsAlarm(writer.layout)
        self._spans: list[tuple[int, int]] = []  # frames that are kept because of an event, first and behind the last
        self._told: list[tuple[int, str]] = []  # events of frames that are still to come
        self._written: dict[int, int] = {}  # frame as given -> frame of the recording, of the newest ones
        self._first = writer.frames

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    @property
    def recorded(self) -> int:
        """Frames of the recording, on all lines."""
        return self._writer.frames

    # ---- what comes ------------------------------------------------------------------------------------------------

    def append(self, steps: NDArray[np.int64], rows: NDArray[np.uint8] | Sequence[Any]) -> None:
        """As :meth:`Writer.append`; each of these frames is held, and written or dropped when it is the oldest of too many."""
        for step, row in zip(steps.tolist(), rows):
            self._let_go(self._before)  # first: when the disk takes nothing, this frame has not been taken either
            frame = self.frames
            self._held.append(_Held(frame, int(step), np.array(row)))
            self.frames += 1
            if happened := self._weights.see(self._held[-1].row):
                self._keep_around(frame, happened)
            for about in [entry for entry in self._told if entry[0] == frame]:
                self._told.remove(about)
                self._tell(*about)

    def scalars(self, frames: NDArray[np.int64], names: list[str], values: NDArray[np.float64]) -> None:
        """Numbers wait for their frame; those of a frame that is left out are left out with it."""
        now: list[tuple[int, str, float]] = []
        for frame, name, value in zip(frames.tolist(), names, values.tolist()):
            if "loss" in name.lower() and (happened := self._losses.setdefault(name, LossAlarm(name)).hear(value)):
                self._keep_around(frame, happened)
            if frame in self._written:
                now.append((self._written[frame], name, value))
            elif frame >= self._oldest:
                self._numbers.setdefault(frame, []).append((name, value))
        if now:
            numbers, labels, logged = zip(*now)
            self._writer.scalars(np.array(numbers, np.int64), list(labels), np.array(logged, np.float64))

    @property
    def _oldest(self) -> int:
        return self._held[0].frame if self._held else self.frames

    def _keep_around(self, frame: int, happened: str) -> None:
        self._spans.append((frame - self._before, frame + AFTER + 1))
        if frame < self.frames:
            self._tell(frame, happened)
        else:
            self._told.append((frame, happened))

    def _tell(self, frame: int, happened: str) -> None:
        """Say in the recording why steps follow each other so closely here."""
        here = next((held for held in self._held if held.frame == frame), None)
        step = here.step if here is not None else self._writer.last_step
        first = self._held[0].step if self._held else step
        self._writer.event(max(step, 0), f"{happened}: every step from {first} on is kept, to {AFTER} steps after")

    # ---- what goes -------------------------------------------------------------------------------------------------

    def _let_go(self, most: int, *, all_of_it: bool = False, last: bool = False) -> None:
        """Write or drop the oldest frames, until ``most`` are held."""
        while len(self._held) > most:
            oldest = self._held[0]
            near = any(first <= oldest.frame < stop for first, stop in self._spans)
            is_last = last and len(self._held) == 1
            if near or all_of_it or is_last or oldest.frame == self._first or self._sparse.wants(oldest.step):
                if oldest.frame not in self._written:
                    number = self._writer.frames
                    self._writer.append(np.array([oldest.step], np.int64), oldest.row[None])
                    self._written[oldest.frame] = number
                logged = self._numbers.get(oldest.frame, [])
                if logged:
                    names, values = zip(*logged)
                    number = self._written[oldest.frame]
                    self._writer.scalars(np.full(len(names), number), list(names), np.array(values))
            self._numbers.pop(oldest.frame, None)
            self._held.popleft()
            for old in [frame for frame in self._written if frame < oldest.frame - 1024]:
                del self._written[old]
            self._spans = [span for span in self._spans if span[1] > oldest.frame]

    def relayout(self, layout: Layout, note: str, lineage: Any = None) -> None:
        """Another layout is an event of its own: what is held, and some frames after it, are kept."""
        self._let_go(0, all_of_it=True)
        self._spans.append((self.frames, self.frames + AFTER + 1))
        self._writer.relayout(layout, note, lineage)
        self._before = frames_held(layout.row_nbytes, self._memory)
        self._weights = WeightsAlarm(layout)

    def flush(self) -> None:
        """Everything held is kept: after a flush nothing is lost."""
        self._let_go(0, all_of_it=True)
        self._writer.flush()

    def close(self, *, in_order: bool = True, patience: float = 0.0) -> None:
        """The last frame is kept as the first one is."""
        try:
            patiently(lambda: self._let_go(0, last=True), patience)
        finally:
            self._writer.close(in_order=in_order, patience=patience)

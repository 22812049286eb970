"""What the doctor reads of a recording: values, as many as are worth their time, and what was left unread for that."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.part import Part
from weightlapse.measures.stream import parts
from weightlapse.recording.kept import Curve, begins, curves
from weightlapse.recording.recording import Recording
from weightlapse.recording.run import Run
from weightlapse.recording.track import Track
from weightlapse.store.cache import Cache

FEW = 16  # frames that may show already that a weight does not march
SPEED = 150e6  # values that one core unpacks in a second
HELD = 64 << 20  # bytes of values that are kept because they may be asked for again
LIMIT = 2_000_000_000  # values that are unpacked, by default: about ten seconds


@dataclass
class Reading:
    """The ``frames`` of a recording. ``limit``: how many values may be unpacked in all, None: any number.

    ``unread``: {what was not looked at: how many values that would have been}.
    """

    run: Run
    frames: range
    limit: int | None = LIMIT
    spent: int = 0
    unread: dict[str, int] = field(default_factory=dict)
    _held: Cache = field(
        default_factory=lambda: Cache(HELD)
    )  # a tensor belongs to several layers, and these lie beside each other

    def __post_init__(self) -> None:
        part = self.run if isinstance(self.run, Part) else None
        self._recording = self.run if part is None else part.whole
        self._offset = 0 if part is None else part.span.start
        self._begins = (
            begins(self._recording._store) if isinstance(self._recording, Recording) else np.zeros(0, np.int64)
        )

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Of the tensors whose statistics have every one of these frames; those that are not kept are made where that is worth its time."""
        run = self._recording
        if not isinstance(run, Recording) or self.frames.step != 1:
            return {}
        found = curves(run._store)
        if found is None and self.may(run.nbytes // 4):
            found = curves(run._store, make=True)
        return {name: curve for name, curve in (found or {}).items() if curve.exact and curve.linked(self._whole)}

    def curve(self, name: str) -> Curve | None:
        """That of one tensor, which may be tied and go by another name."""
        track = self.run[name] if self.curves else None
        return self.curves.get(track.name) if isinstance(track, Track) else None

    def of(self, column: NDArray[np.float64]) -> NDArray[np.float64]:
        """These frames of a column of a curve."""
        return column[self._whole]

    @property
    def _whole(self) -> slice:
        return slice(self.frames.start + self._offset, self.frames.stop + self._offset)

    def cost(self, name: str, first: int, stop: int) -> int:
        """How many values have to be unpacked to read the frames number ``first`` to ``stop`` (of these): all before them in their time block too."""
        part = self.frames[first:stop]
        return self.cost_at(name, part[0], part[-1] + 1) if len(part) else 0

    def cost_at(self, name: str, first: int, stop: int) -> int:
        """The same of frames ``first`` to ``stop`` of the recording."""
        at = first + self._offset
        i = int(np.searchsorted(self._begins, at, side="right")) - 1
        before = at - int(self._begins[i]) if i >= 0 else 0
        return int(np.prod(self.run.shapes[name], dtype=np.int64)) * (stop - first + before)

    def few(self, name: str) -> list[int]:
        """Some of these frames, the first and the last among them: those that are unpacked first, where there are enough of them."""
        count = len(self.frames)
        at = [self.frames.index(f) for f in (self._begins - self._offset).tolist() if f in self.frames]
        even = np.linspace(0, count - 1, FEW + 1).round().astype(int).tolist()
        if len(at) < FEW // 2:
            return sorted({*even})
        return sorted({0, count - 1, *np.array(at)[np.linspace(0, len(at) - 1, FEW).round().astype(int)].tolist()})

    def may(self, count: int, what: str = "") -> bool:
        """Whether ``count`` values may still be unpacked; they then count. Else ``what`` was not looked at."""
        if self.limit is not None and self.spent + count > self.limit:
            if what:
                self.unread[what] = self.unread.get(what, 0) + count
            return False
        self.spent += count
        return True

    def values(self, name: str, first: int, stop: int) -> NDArray[Any]:
        """(stop - first, \\*S), with an axis of two at the end where complex: the frames number ``first`` to ``stop`` of these."""
        part = self.frames[first:stop]
        return self._held.get(
            (name, first, stop),
            lambda: parts(np.asarray(self.run[name][slice(part.start, part.stop, part.step)])),
        )

    def lengths(self, name: str, frames: range, *, update: bool) -> NDArray[np.float64] | None:
        """(n - 1,) lengths of a tensor, or of its ``update``, at the ``frames`` of the recording but the first; from statistics, None where there are none."""
        curve = self.curve(name)
        here = slice(frames.start + 1 + self._offset, frames.stop + self._offset)
        if curve is None:
            return None
        bad = curve.odd[here] + curve.odd[here.start - 1 : here.stop - 1] * update > 0
        return np.where(bad, np.nan, np.sqrt((curve.moved if update else curve.sumsq)[here]))

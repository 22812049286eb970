"""Eight-bit pictures of all frames of a tensor, made while nobody waits: a jump then shows at once, and playing costs nothing.

A recording packs neighbouring frames together, so that one frame costs as much as all before it in its stretch. Here a whole stretch is unpacked once, a
strip of rows after the other, and each of its frames gets that strip of its picture: what all frames cost together is little more than the last one alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import WeightlapseError

BUDGET = 96_000_000  # bytes of pictures kept
PAUSE = 0.01  # seconds between two looks whether somebody waits

Key = Hashable
Strip = NDArray[np.uint8]  # (frames, rows, columns): the next rows of the pictures of a stretch
Make = Callable[[range], Iterator[Strip]]


@dataclass
class _Stretch:
    """The pictures (frames, rows, columns) of neighbouring frames, as far as they are made."""

    frames: range
    pictures: NDArray[np.uint8]
    done: int = 0  # rows
    strips: Iterator[Strip] | None = None

    @property
    def complete(self) -> bool:
        return self.done == self.pictures.shape[1]


@dataclass
class _Series:
    """All that is made of one tensor at one resolution and scale."""

    open: Callable[[], Make]
    parts: list[range]
    size: tuple[int, int]
    make: Make | None = None
    stretches: dict[int, _Stretch] = field(default_factory=dict)

    def nbytes(self, part: int) -> int:
        return len(self.parts[part]) * self.size[0] * self.size[1]

    def part(self, frame: int) -> int:
        return next((i for i, frames in enumerate(self.parts) if frames.start <= frame < frames.stop), -1)


class Previews:
    """Pictures by (key, frame). One key is worked on at a time, the one last wanted, from the frame on that was wanted last.

    ``busy`` tells whether somebody waits for an answer that needs the recording.
    """

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._key: Key = None
        self._series: _Series | None = None
        self._near = 0
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None

    def get(self, key: Key, frame: int) -> tuple[NDArray[np.uint8], bool] | None:
        """The upper rows of a picture, as far as they are made, and whether they are all; None where nothing is."""
        with self._lock:
            series = self._series if key == self._key else None
            stretch = series.stretches.get(series.part(frame)) if series is not None else None
            if stretch is None or not stretch.done:
                return None
            return stretch.pictures[frame - stretch.frames.start, : stretch.done], stretch.complete

    def coming(self, key: Key, frame: int) -> bool:
        """Whether the picture is on the list of what is made."""
        with self._lock:
            return self._series is not None and key == self._key and self._series.part(frame) >= 0

    def want(self, key: Key, near: int, parts: list[range], size: tuple[int, int], open_: Callable[[], Make]) -> None:
        """Make the pictures (``size`` rows and columns) of ``key``, those of the stretch that holds the frame ``near`` first.

        ``open_()`` opens the recording once more and gives the function that makes the pictures of a stretch; it runs in a thread of its own.
        """
        with self._lock:
            self._near = near
            if key != self._key:  # another tensor or scale: the old pictures are of no use
                most = max(1, BUDGET // 4 // max(1, size[0] * size[1]))
                cut = [range(a, min(a + most, p.stop)) for p in parts for a in range(p.start, p.stop, most)]
                self._key, self._series = key, _Series(open_, cut, size)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="weightlapse-previews", daemon=True)
                self._worker.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                found = self._next()
                if found is None:
                    self._worker = None
                    return
            series, stretch = found
            while self._busy():
                time.sleep(PAUSE)
            try:
                strip = self._strip(series, stretch)
            except WeightlapseError:  # told to whoever asks for such a frame by itself
                strip = None
            except RuntimeError:  # the program ends: its pools take no more work
                return
            with self._lock:
                if strip is None:
                    series.parts[series.part(stretch.frames.start)] = range(0)
                    continue
                stretch.pictures[:, stretch.done : stretch.done + strip.shape[1]] = strip
                stretch.done += strip.shape[1]
                if stretch.complete:
                    stretch.strips = None

    def _strip(self, series: _Series, stretch: _Stretch) -> Strip | None:
        if series.make is None:
            series.make = series.open()
        if stretch.strips is None:
            stretch.strips = series.make(stretch.frames)
        return next(stretch.strips, None)

    def _next(self) -> tuple[_Series, _Stretch] | None:
        """The stretch to go on with: the unfinished one nearest to where the viewer stands, going forwards; None when all is done, or no room is left."""
        series = self._series
        if series is None or not series.parts:
            return None
        here, count = max(0, series.part(self._near)), len(series.parts)
        wanted, room = [], BUDGET
        for i in [*range(here, count), *range(here - 1, -1, -1)]:
            room -= series.nbytes(i)
            if room < 0:
                break
            if series.nbytes(i):
                wanted.append(i)
        for i in wanted:
            if i not in series.stretches:
                self._forget(series, wanted, series.nbytes(i))
                frames = series.parts[i]
                series.stretches[i] = _Stretch(frames, np.zeros((len(frames), *series.size), np.uint8))
            if not series.stretches[i].complete:
                return series, series.stretches[i]
        return None

    def _forget(self, series: _Series, wanted: list[int], nbytes: int) -> None:
        """Drops stretches that are no longer wanted until there is room for another one."""
        kept = series.stretches
        for i in [i for i in kept if i not in wanted]:
            if nbytes + sum(s.pictures.nbytes for s in kept.values()) <= BUDGET:
                return
            del kept[i]

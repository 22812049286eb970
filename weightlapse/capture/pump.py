"""The recorder's thread: takes frames from the ring and notes from a queue, and gives them to the store's writer.

It knows nothing of the recorder, so that a recorder nobody holds any more can be collected and closed.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from weightlapse.capture.ring import Ring
from weightlapse.store.writer import Writer

_IDLE_SECONDS = 0.2  # what is in the ring reaches the disk after this time at the latest


class Pump:
    """Moves frames and notes to ``writer`` until :meth:`close`. ``failure`` holds what went wrong there, if anything did."""

    def __init__(self, writer: Writer, ring: Ring) -> None:
        self.writer = writer
        self.ring = ring
        self.failure: BaseException | None = None
        self.after_close: list[Callable[[], None]] = []  # called once when the recording has been closed
        self._notes: deque[Callable[[Writer], None]] = deque()
        self._logged: deque[tuple[int, str, float]] = deque()
        self._stop = False
        self._closed = False
        self._drained = threading.Condition()
        self._asked = 0  # flushes asked for
        self._done = 0  # flushes done
        self._pid = os.getpid()
        self.thread = threading.Thread(target=self._run, name="weightlapse-writer", daemon=True)
        self.thread.start()

    # ---- the training thread ---------------------------------------------------------------------------------------

    def log(self, frame: int, name: str, value: float) -> None:
        self._logged.append((frame, name, value))

    def note(self, write: Callable[[Writer], None]) -> None:
        """Have ``write(writer)`` called after the frames published so far."""
        self._notes.append(write)

    def flush(self) -> None:
        """Return when everything given so far has been handed to the operating system (or has failed to be)."""
        if self._pid != os.getpid() or self._closed:
            return
        with self._drained:
            self._asked += 1
            mine = self._asked
            self.ring.work.set()
            while self._done < mine and self.failure is None and self.thread.is_alive():
                self._drained.wait(0.1)

    def exchange(self, ring: Ring, write: Callable[[Writer], None]) -> None:
        """Go on with another ring (of another layout) after everything in the present one is written."""
        self.note(write)
        self.flush()
        self.ring = ring

    def close(self) -> None:
        """Write what is left and end the recording. In a forked child, which has no writer thread, do nothing."""
        if self._pid != os.getpid() or self._closed:
            return
        self._closed = True
        self._stop = True
        self.ring.work.set()
        self.thread.join()
        for call in self.after_close:
            call()

    # ---- the recorder's thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                stop = self._stop  # read before draining: what came before it is drained
                asked = self._asked
                self._drain()
                if asked > self._done:
                    self.writer.flush()
                    with self._drained:
                        self._done = asked
                        self._drained.notify_all()
                if stop:
                    break
                self.ring.work.wait(_IDLE_SECONDS)
                self.ring.work.clear()
            self.writer.close()
        except Exception as error:  # noqa: BLE001 — whatever the disk does must not surface in the training thread here
            self.failure = error
            self._give_up(error)

    def _drain(self) -> None:
        notes, logged = len(self._notes), len(self._logged)  # counted first: their frames are published by now
        self._write_frames()
        self._write_logged(logged)
        self._write_notes(notes)

    def _write_frames(self) -> None:
        while (ready := self.ring.ready()) is not None:
            before = self.writer.frames
            try:
                self.writer.append(*ready)
            finally:  # what was written must not be written again by a last attempt
                self.ring.release(self.writer.frames - before)

    def _write_logged(self, count: int) -> None:
        if count:
            frames, names, values = zip(*(self._logged.popleft() for _ in range(count)))
            self.writer.scalars(np.array(frames, np.int64), list(names), np.array(values, np.float64))

    def _write_notes(self, count: int) -> None:
        for _ in range(count):
            self._notes.popleft()(self.writer)

    def _note_missing(self, last: int, reason: str) -> None:
        if self.ring.filled > self.ring.taken:
            self.writer.gap(int(self.ring.steps[self.ring.taken % self.ring.capacity]), last, reason)

    def _give_up(self, error: BaseException) -> None:
        """Save what still can be saved, and say in the recording why it ends and what is missing."""
        ring, reason = self.ring, str(error) or type(error).__name__
        last = int(ring.steps[(ring.filled - 1) % ring.capacity])
        attempts: list[Callable[[], Any]] = [
            self._write_frames,
            lambda: self._write_logged(len(self._logged)),
            lambda: self._write_notes(len(self._notes)),
            lambda: self._note_missing(last, reason),
            lambda: self.writer.stopped(last, reason),
            lambda: self.writer.close(in_order=False),
        ]
        for attempt in attempts:
            try:
                attempt()
            except Exception:  # noqa: BLE001 — each is a last resort; the first error is the one that is reported
                continue
        with self._drained:
            self._drained.notify_all()

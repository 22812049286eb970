"""The recorder's thread: takes frames from the ring and notes from a queue, and gives them to the store's writer.

It knows nothing of the recorder, so that a recorder nobody holds any more can be collected and closed. A store that takes nothing for a while (a
full disk, a quota, too many open files) pauses it: it tries again, while the training goes on and the ring fills.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np

from weightlapse.capture.keeping import KeepingWriter
from weightlapse.capture.ring import Ring
from weightlapse.progress import bar
from weightlapse.store.passing import PASSING
from weightlapse.store.writer import Writer

_SILENT_SECONDS = 2.0  # that close() takes without a word
_LOOK_SECONDS = 0.1
_IDLE_SECONDS = 0.2  # what is in the ring reaches the disk after this time at the latest
_RETRY_SECONDS = (0.05, 1.0)  # first and longest wait before the next attempt


class Pump:
    """Moves frames and notes to ``writer`` until :meth:`close`. ``failure`` holds what went wrong there, if anything did.

    ``paused`` says why the store takes nothing at the moment, None while it does.
    """

    patience = 10.0  # seconds that close() waits for a store that takes nothing

    def __init__(self, writer: Writer | KeepingWriter, ring: Ring) -> None:
        self.writer = writer
        self.failure: BaseException | None = None
        self.paused: str | None = None
        self.lost = 0  # frames that were never written, known after close()
        self.after_close: list[Callable[[], None]] = []  # called once when the recording has been closed
        self._at = (0, ring)  # frames ever published before this ring's first, and the ring: exchanged as one
        self._notes: deque[tuple[int, Callable[[Writer], None]]] = deque()  # each after so many published frames
        self._logged: deque[tuple[int, str, float]] = deque()
        self._stop = threading.Event()
        self._closed = False
        self._alone = False  # whether nobody waits for the end
        self._drained = threading.Condition()
        self._asked = 0  # flushes asked for
        self._done = 0  # flushes done
        self._pid = os.getpid()
        self.thread = threading.Thread(target=self._run, name="weightlapse-writer", daemon=True)
        self.thread.start()

    # ---- the training thread ---------------------------------------------------------------------------------------

    @property
    def ring(self) -> Ring:
        """The ring that frames are taken from now."""
        return self._at[1]

    @property
    def stuck(self) -> bool:
        """Whether waiting for room in the ring is in vain at the moment."""
        return self.paused is not None or not self.thread.is_alive()

    def log(self, frame: int, name: str, value: float) -> None:
        """A scalar of frame number ``frame``, counted as the store does, branches included; never waits: the recorder's thread writes them in batches."""
        self._logged.append((frame, name, value))

    def note(self, write: Callable[[Writer], None]) -> None:
        """Have ``write(writer)`` called after the frames published so far, and before any published later."""
        before, ring = self._at
        self._notes.append((before + ring.filled, write))

    def flush(self) -> bool:
        """Return when everything given so far has been handed to the operating system; False when it could not be."""
        if self._pid != os.getpid() or self._closed:
            return False
        with self._drained:
            self._asked += 1
            mine = self._asked
            self.ring.work.set()
            while self._done < mine and self.failure is None and self.paused is None and self.thread.is_alive():
                self._drained.wait(0.1)
            return self._done >= mine

    def exchange(self, ring: Ring, write: Callable[[Writer], None]) -> bool:
        """Go on with another ring (of another layout) once the present one is written; False, and nothing is done, when it cannot be."""
        if not self.flush():
            return False
        before, old = self._at
        self.note(write)  # before the new ring can be seen, so before its first frame
        self._at = (before + old.filled, ring)
        return True

    def close(self) -> None:
        """Write what is left and end the recording. In a forked child, which has no writer thread, do nothing."""
        if self._pid != os.getpid() or self._closed:
            return
        self._end()
        self.thread.join(_SILENT_SECONDS)
        if self.thread.is_alive():
            self._wait_aloud()
        for call in self.after_close:
            call()

    def _wait_aloud(self) -> None:
        """The end takes long: say what is still to be done, and show how it goes where somebody looks."""
        ring, writer = self.ring, self.writer
        frames = ring.filled - ring.taken
        nbytes = frames * ring.rows.shape[1]
        what = (
            f"{frames} frames {f'({nbytes / 1e6:,.0f} MB) ' if nbytes else ''}are still to be written"
            if frames
            else "the log is being compressed (compact='never' leaves that for later)"
            if writer.uncompressed
            else "the disk is still writing what it was given"
        )
        print(f"weightlapse: closing {writer.path}, {what}", file=sys.stderr)
        for label, left in (
            ("writing frames", lambda: ring.filled - ring.taken),
            ("compressing", lambda: writer.uncompressed),
        ):
            total = before = left()
            with bar(label, total) as advance:
                while before > 0 and self.thread.is_alive():
                    self.thread.join(_LOOK_SECONDS)
                    advance(before - (now := left()))
                    before = now
        self.thread.join()

    def abandon(self) -> None:
        """The same, without waiting for it: called while Python collects garbage, perhaps amid an import, whose locks the thread might need."""
        if self._pid == os.getpid() and not self._closed:
            self._alone = True
            self._end()

    def _end(self) -> None:
        self._closed = True
        self._stop.set()
        self.ring.work.set()

    # ---- the recorder's thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                stop = self._stop.is_set()  # read before draining: what came before it is drained
                asked = self._asked
                self._drain_patiently(flush=asked > self._done)
                if asked > self._done:
                    with self._drained:
                        self._done = asked
                        self._drained.notify_all()
                if stop:
                    break
                ring = self.ring
                ring.work.wait(_IDLE_SECONDS)
                ring.work.clear()
            self.writer.close(patience=self.patience)
        except Exception as error:  # noqa: BLE001 — whatever the disk does must not surface in the training thread here
            self.failure = error
            self._give_up(error)
        if self._alone:
            for call in self.after_close:
                call()

    def _drain_patiently(self, *, flush: bool) -> None:
        """Write all there is; where the store cannot take it now, try again until it can, or until close() has waited long enough."""
        wait, began, patience = _RETRY_SECONDS[0], time.monotonic(), self.patience
        while True:
            try:
                self._drain()
                if flush:
                    self.writer.flush()
                if self.paused is not None:
                    self._tell_pause(self.paused, time.monotonic() - began)
                return
            except OSError as error:
                if error.errno not in PASSING or patience <= 0:
                    raise
                with self._drained:  # whoever waits for a flush or for room goes on
                    self.paused = error.strerror or str(error)
                    self._drained.notify_all()
            self.ring.wake()
            if self._stop.is_set():
                time.sleep(min(wait, patience))
                patience -= wait
            else:
                self._stop.wait(wait)
            wait = min(2 * wait, _RETRY_SECONDS[1])

    def _tell_pause(self, reason: str, seconds: float) -> None:
        step = max(self._last_written(), 0)
        self.writer.event(step, f"[paused] the store took nothing for {seconds:.1f} s ({reason}); it does again")
        self.paused = None

    def _last_written(self) -> int:
        ring = self.ring
        return int(ring.steps[(ring.taken - 1) % ring.capacity])

    def _drain(self) -> None:
        while True:
            at = self._at  # read before the notes: the note that a new ring begins with is there before the ring is
            note = self._notes[0] if self._notes else None
            logged = len(self._logged)  # counted first: their frames are published by now
            self._write_frames(at, None if note is None else note[0])
            self._write_logged(min(logged, len(self._logged)))
            if note is None:
                return
            note[1](self.writer)  # type: ignore[arg-type]
            self._notes.popleft()

    def _write_frames(self, at: tuple[int, Ring], stop: int | None = None) -> None:
        """Write what is published in the ring, up to frame number ``stop`` of all ever published."""
        before, ring = at
        while (ready := ring.ready()) is not None:
            room = len(ready[0]) if stop is None else min(len(ready[0]), stop - before - ring.taken)
            if room <= 0:
                return
            if self.writer.numbers_first:
                self._write_logged(len(self._logged))
            had = self.writer.frames
            try:
                self.writer.append(ready[0][:room], ready[1][:room])
            finally:  # what was written must not be written again by the next attempt
                ring.release(self.writer.frames - had)

    def _write_logged(self, count: int) -> None:
        if count:
            frames, names, values = zip(*islice(self._logged, count))
            self.writer.scalars(np.array(frames, np.int64), list(names), np.array(values, np.float64))
            for _ in range(count):
                self._logged.popleft()

    def _note_missing(self, last: int, reason: str) -> None:
        ring = self.ring
        if ring.filled > ring.taken:
            self.writer.gap(int(ring.steps[ring.taken % ring.capacity]), last, reason)

    def _give_up(self, error: BaseException) -> None:
        """Save what still can be saved, and say in the recording why it ends and what is missing."""
        ring, reason = self.ring, str(error) or type(error).__name__
        last = int(ring.steps[(ring.filled - 1) % ring.capacity])
        attempts: list[Callable[[], Any]] = [
            self._drain,
            lambda: self._write_logged(len(self._logged)),
            *(lambda write=write: write(self.writer) for _, write in tuple(self._notes)),
            lambda: self._note_missing(last, reason),
            lambda: self.writer.stopped(last, reason),
            lambda: self.writer.close(in_order=False),
        ]
        for attempt in attempts:
            try:
                attempt()
            except Exception:  # noqa: BLE001 — each is a last resort; the first error is the one that is reported
                continue
        self.lost = ring.filled - ring.taken
        with self._drained:
            self._drained.notify_all()
        ring.wake()

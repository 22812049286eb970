"""Compaction beside training: finished log segments become blocks, in a thread of the lowest priority or when the recording is closed.

The training thread is never held: it only ever fills its ring. When a core is not free, or ``compact="after"``, all of it waits for the end.

Beside training it is one thread, and wakes no other. Even that one costs a training that is driven by Python and computes on a device: the thread that
queues its work holds the interpreter nearly all the time, and has to give it away hundreds of times a second (measured: 43 % for a GPT-2 on a GPU). So there
("spare") it begins before the end only where the log would else take more than ``_SHARE`` of what is free on the disk.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from weightlapse.errors import DamagedRecording
from weightlapse.progress import bar
from weightlapse.store.belonging import Belonging
from weightlapse.store.files import regular_size
from weightlapse.store.keeper import Keeper
from weightlapse.store.portable import lower_priority
from weightlapse.store.proof import compress
from weightlapse.store.raw import RawSegment, segment_name
from weightlapse.store.threads import stay_alone, threads, usable_cores

_SHARE = (
    1 / 4
)  # of the free room on the disk, that the log may take of it before it is compressed beside a training that should be spared
_ENOUGH_TO_SHOW = 256 << 20  # bytes left at the end above which a terminal gets a progress bar


class Stopped(Exception):
    """The thread was asked to leave a block unfinished; its log is still there."""


def a_core_is_free() -> bool:
    """Whether the machine can run one more thread without taking a core from somebody: this one's own load is allowed for."""
    cores = usable_cores()
    try:
        return cores > 1 and os.getloadavg()[0] < cores + 0.5
    except (AttributeError, OSError):
        return cores > 1


def _always() -> bool:
    return True


class Compactor:
    """Takes finished segments with :meth:`add`; :meth:`finish` compresses what is left and returns when all is done.

    A failure costs nothing but space: the log stays. It is kept in ``failure`` and ends compaction.
    """

    def __init__(
        self, folder: Path, ours: Belonging, tolerance: float | None, mode: str, *, sync: bool, memory: int
    ) -> None:
        self.failure: BaseException | None = None
        self._folder = folder
        self._ours = ours
        self._tolerance = tolerance
        self._sync = sync
        self._memory = memory
        self._keeper = Keeper(folder, ours, tolerance)
        self._waiting: deque[tuple[int, Callable[[], RawSegment]]] = deque()
        self._wake = threading.Event()
        self._ending = False
        self._thread: threading.Thread | None = None
        self._keep_logs = mode == "never"
        self._beside = mode == "live" or (mode in ("auto", "spare") and usable_cores() > 1)
        self._is_free = {"auto": a_core_is_free, "spare": self._log_is_too_large}.get(mode, _always)

    @property
    def waiting(self) -> int:
        """Segments that were added and whose turn is not over, the one at hand counted."""
        return len(self._waiting)

    def add(self, number: int, open_segment: Callable[[], RawSegment]) -> None:
        """Have segment ``number`` compressed; ``open_segment`` is called when its turn comes."""
        if self.failure is not None or self._keep_logs:
            return
        self._waiting.append((number, open_segment))
        if self._beside and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="weightlapse-compactor", daemon=True)
            self._thread.start()
        self._wake.set()

    @property
    def waiting_nbytes(self) -> int:
        """Bytes of the log that are still to be compressed."""
        return sum(regular_size(self._folder / segment_name(number)) for number, _ in tuple(self._waiting))

    def _log_is_too_large(self) -> bool:
        """Whether the log takes so much of the disk that it cannot wait for the end."""
        try:
            return self.waiting_nbytes > _SHARE * shutil.disk_usage(self._folder).free and a_core_is_free()
        except OSError:
            return False

    def _run(self) -> None:
        stay_alone()
        lowered = False
        while not self._ending:
            if self._waiting and self._is_free():
                if not lowered:  # not before there is something to do: some systems lower the whole process
                    lower_priority()  # where threads have no priorities, looking at the load has to do
                    lowered = True
                self._next(pause=self._check_ending)
            else:
                self._wake.wait(1.0)
                self._wake.clear()

    def _check_ending(self) -> None:
        if self._ending:
            raise Stopped

    def _next(self, pause: Callable[[], None] | None = None) -> None:
        _, open_segment = self._waiting[0]
        try:
            segment = open_segment()
            # beside training one thread, of the lowest priority; at the end all there are
            count = 1 if pause is not None else threads()
            settings: dict[str, Any] = {"sync": self._sync, "pause": pause, "memory": self._memory, "count": count}
            compress(self._folder, segment, self._ours, self._tolerance, keeper=self._keeper, **settings)
        except Stopped:
            return
        except DamagedRecording:
            pass  # a frame is damaged: the log stays as it is, and reading says so
        except Exception as error:  # noqa: BLE001 — nothing is lost by a log that stays a log
            self.failure = error
            self._waiting.clear()
            return
        self._waiting.popleft()

    def stop(self) -> None:
        """End the thread; an unfinished block is dropped, its log is still there."""
        self._pause()
        self._keeper.close(sync=self._sync)

    def _pause(self) -> None:
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def finish(self) -> None:
        """Compress everything that was added, in this thread."""
        self._pause()
        left = self.waiting_nbytes
        shown = bar("compressing the recording", len(self._waiting)) if left > _ENOUGH_TO_SHOW else nullcontext(None)
        with shown as advance:
            while self._waiting:
                self._next()
                if advance is not None:
                    advance(1)

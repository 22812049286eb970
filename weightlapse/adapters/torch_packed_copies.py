"""Packed frames on their way from a device to memory, which neither the training nor the device waits for.

    start    a side stream waits for the work queued so far (the update), then packs; its report follows it to the host
    settle   before the next update: the stream that will run it waits, on the device, until the values are packed
    fetch    when the report is there, and with it the length: exactly the frame is copied, on a stream of its own
    arrived  the recorder's thread waits for the oldest frame

A frame lies on the device until it is fetched: there is room for a few. In memory frames lie one behind the other in one piece of (page-locked)
memory, until they are written.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weightlapse.adapters.torch_packing import Packer, Report

_ALIGNMENT = 64


def _at_once(work: Callable[[], None]) -> None:
    work()


class Arena:
    """Pieces of one buffer, given and taken back in the same order."""

    def __init__(self, buffer: torch.Tensor) -> None:
        self.buffer = buffer
        self._pieces: deque[tuple[int, int]] = deque()

    def give(self, nbytes: int) -> tuple[int, int] | None:
        """A free piece [start, stop), None where there is none; a buffer that holds nothing gives all of itself."""
        size = len(self.buffer)
        if not self._pieces:
            found = (0, nbytes) if nbytes <= size else None
        else:
            first, (last, end) = self._pieces[0][0], self._pieces[-1]
            end = -(-end // _ALIGNMENT) * _ALIGNMENT
            room = first if last < first else size  # where the free part behind the newest piece ends
            found = (end, end + nbytes) if end + nbytes <= room else None
            if found is None and last >= first and nbytes <= first:
                found = (0, nbytes)
        if found is not None:
            self._pieces.append(found)
        return found

    def take_back(self) -> None:
        """The oldest piece is free again."""
        self._pieces.popleft()


class Launched:
    """A frame whose packing has been queued."""

    def __init__(self, slot: int, host: torch.Tensor) -> None:
        self.slot = slot
        self.host = host  # where its report arrives
        self.report: Report | None = None
        self.packed: Any = None  # events
        self.copied: Any = None
        self.place: tuple[int, int] | None = None
        self.here = False  # whether its bytes have arrived


class PackedCopies:
    """Takes frames of a :class:`Packer`. ``backend`` has ``Stream``, ``Event``, ``stream`` and ``current_stream`` as ``torch.cuda`` has."""

    def __init__(
        self,
        packer: Packer,
        memory: int,
        backend: Any = None,
        run: Callable[[Callable[[], None]], None] = _at_once,
    ) -> None:
        """``memory``: bytes for frames that wait to be written; never less than one frame takes at the most."""
        self.packer = packer
        on_cuda = packer.device.type == "cuda"
        self._backend = torch.cuda if backend is None and on_cuda else backend
        self._run = run
        self.slots = len(packer.out)
        self.arena = Arena(torch.empty(max(memory, 4 * packer.capacity), dtype=torch.uint8, pin_memory=on_cuda))
        self._reports = [torch.zeros(packer.most_report, dtype=torch.int64, pin_memory=on_cuda) for _ in packer.out]
        self._side: Any = None
        self._bus: Any = None
        if self._backend is not None:
            self._side, self._bus = (self._backend.Stream(packer.device) for _ in range(2))
        self._lock = threading.Lock()
        self._started: Launched | None = None
        self._waiting: deque[Launched] = deque()  # published, not yet released, oldest first
        self._next_slot = 0
        self._fetched = 0  # how many of the waiting ones have a place in memory
        self._last: Any = None  # the event after the last packing

    # ---- the training thread ---------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether another frame can be packed."""
        if self._started is not None:
            return True
        with self._lock:
            self._fetch()
            return sum(not frame.here for frame in self._waiting) < self.slots

    def bind(self, sources: Sequence[torch.Tensor]) -> None:
        """From now on pack these: the same tensors, of the same shapes and dtypes, in other memory."""
        self.packer.bind(sources)

    def copy(self, slot: int) -> None:
        """The face that copies into rows have."""
        self.start()

    def start(self) -> None:
        """Queue the packing of the present values. Call :meth:`settle` before they change, :meth:`publish` if the frame is to be kept."""
        if self._started is not None:
            self.packer.forget()  # the differences of the next frame would be to one that nobody has
        else:
            self._next_slot = (self._next_slot + 1) % self.slots
        frame = self._started = Launched(self._next_slot, self._reports[self._next_slot])

        def pack() -> None:
            with self._lock:  # reports choose the grids
                found, frame.report = self.packer.pack(frame.slot)
            frame.host[: len(found)].copy_(found, non_blocking=True)

        if self._backend is None:
            self._run(pack)
            return
        side, backend = self._side, self._backend
        side.wait_stream(backend.current_stream(self.packer.device))
        with backend.stream(side):
            self._run(pack)
            frame.packed = backend.Event()
            frame.packed.record(side)
        self._last = frame.packed

    def publish(self) -> None:
        """What was started last is a frame."""
        assert self._started is not None
        with self._lock:
            self._waiting.append(self._started)
            self._started = None

    def settle(self) -> None:
        """Let whatever is queued next wait, on the device, until the values are packed."""
        if self._last is not None:
            self._backend.current_stream(self.packer.device).wait_event(self._last)
            self._last = None

    # ---- either thread ---------------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        """Begin the copies of frames whose reports are here, and look which have ended."""
        for frame in self._waiting:
            if not frame.here and frame.place is not None:
                frame.here = frame.copied is None or frame.copied.query()
        while self._fetched < len(self._waiting):
            frame = self._waiting[self._fetched]
            if frame.packed is not None and not frame.packed.query():
                return
            report = frame.report
            assert report is not None
            if not len(report.numbers):
                report.numbers = frame.host[: self._length(report)].numpy().copy()
                self.packer.take(report)
            words = self.packer.outer_words + sum(report.words)
            place = self.arena.give(4 * words)
            if place is None:
                return
            frame.place = place
            self._copy(frame, words)
            self._fetched += 1

    def _length(self, report: Report) -> int:
        return 6 * len(self.packer.sizes) + 2 + 2 * len(report.probed)

    def _copy(self, frame: Launched, words: int) -> None:
        assert frame.place is not None
        target = self.arena.buffer[frame.place[0] : frame.place[1]].view(torch.int32)
        source = self.packer.out[frame.slot][:words]

        def copy() -> None:
            target.copy_(source, non_blocking=True)

        if self._backend is None:
            copy()
            frame.here = True
            return
        with self._backend.stream(self._bus):
            self._bus.wait_event(frame.packed)
            self._run(copy)
            frame.copied = self._backend.Event()
            frame.copied.record(self._bus)

    # ---- the recorder's thread -------------------------------------------------------------------------------------

    def arrived(self) -> list[tuple[Report, NDArray[np.uint8]]]:
        """(report, bytes) of the frames that are here, oldest first: at least one, which is waited for."""
        first = self._waiting[0]
        if first.packed is not None:
            first.packed.synchronize()
        with self._lock:
            self._fetch()  # in an arena that holds nothing before it there is room
        if first.copied is not None:
            first.copied.synchronize()
        found = []
        with self._lock:
            self._fetch()
            for frame in self._waiting:
                if not frame.here:
                    break
                assert frame.place is not None
                assert frame.report is not None
                found.append((frame.report, self.arena.buffer[frame.place[0] : frame.place[1]].numpy()))
        return found

    def release(self, count: int) -> None:
        """The oldest frames are written."""
        with self._lock:
            for _ in range(count):
                self._waiting.popleft()
                self.arena.take_back()
                self._fetched -= 1

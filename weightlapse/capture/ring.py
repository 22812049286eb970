"""The ring between training and disk: the training thread fills rows, the recorder's thread empties them.

One producer and one consumer, so two counters that each side alone advances are all the synchronisation there is: the training thread
takes no lock, and wakes the other one only when a good part of the ring is full.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotRecord

MAX_ROWS = 256  # at most this many frames are lost by a kill -9 without flush
MIN_ROWS = 2


class Ring:
    """``rows`` (capacity, row_nbytes) uint8 and ``steps`` (capacity,) int64; frame number f lies in slot f % capacity."""

    has_rows = True  # whether the values of a frame can be looked at while it waits

    def __init__(
        self, row_nbytes: int, memory: int, allocate: Callable[[tuple[int, int]], NDArray[np.uint8]] | None = None
    ) -> None:
        """As many rows as three quarters of ``memory`` bytes hold, at least 2 and at most 256; the rest is for compressing.

        ``allocate`` makes the memory, where it must be of a special kind.
        """
        capacity = min(MAX_ROWS, memory * 3 // 4 // max(row_nbytes, 1))
        if row_nbytes == 0:
            raise CannotRecord(
                "every tensor to be recorded is empty (a shape with a 0 in it): there is no weight to record; look at the shapes"
            )
        if capacity < MIN_ROWS:
            need = -(-MIN_ROWS * row_nbytes * 4 // 3)
            raise CannotRecord(
                f"one frame takes {row_nbytes:,} bytes and the recorder may use memory={memory:,}: at least two frames must fit; "
                f"pass memory={need} or more, or record fewer tensors (tensors='...')"
            )
        self._begin(capacity)
        shape = (capacity, row_nbytes)
        self.rows: NDArray[np.uint8] = np.empty(shape, np.uint8) if allocate is None else allocate(shape)
        self.rows[:] = 0  # touches the pages now, and keeps padding bytes zero for ever

    def _begin(self, capacity: int) -> None:
        self.capacity = capacity
        self.steps: NDArray[np.int64] = np.zeros(capacity, np.int64)
        self._pending: list[Callable[[], None] | None] = [None] * capacity
        self.filled = 0  # frames ever published: advanced by the producer only
        self.taken = 0  # frames ever released: advanced by the consumer only
        self.work = threading.Event()
        self._space = threading.Event()
        self._wake_every = max(1, capacity // 4)
        self._next_wake = self._wake_every

    def has_room(self) -> bool:
        """Whether the next row is free; asked by the training thread."""
        return self.filled - self.taken < self.capacity

    def wait_for_room(self, stuck: Callable[[], bool]) -> bool:
        """Wait until a row is free; False as soon as ``stuck()`` says that none will be for now."""
        while not self.has_room():
            self._space.clear()
            self.work.set()
            if self.has_room():
                return True
            if stuck():
                return False
            self._space.wait(0.05)
        return True

    def wake(self) -> None:
        """Let whoever waits for room look again at whether that is in vain."""
        self._space.set()

    @property
    def slot(self) -> int:
        """The row to fill next; only valid when there is room."""
        return self.filled % self.capacity

    def publish(self, step: int, pending: Callable[[], None] | None = None) -> None:
        """The row at :attr:`slot` is complete, or will be when ``pending()`` returns (copies from a device run beside the training)."""
        slot = self.filled % self.capacity
        self.steps[slot] = step
        self._pending[slot] = pending
        self.filled += 1
        if self.filled >= self._next_wake:
            self._next_wake = self.filled + self._wake_every
            self.work.set()

    def ready(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]] | None:
        """The oldest published rows that lie next to each other, as views: valid until :meth:`release`."""
        count = self.filled - self.taken
        if count == 0:
            return None
        start = self.taken % self.capacity
        stop = min(start + count, self.capacity)
        for slot in range(start, stop):
            wait, self._pending[slot] = self._pending[slot], None
            if wait is not None:
                wait()
        return self.steps[start:stop], self.rows[start:stop]

    def release(self, count: int) -> None:
        """The recorder's thread is done with the oldest ``count`` frames; the training thread, where it waits for room, wakes."""
        self.taken += count
        self._space.set()

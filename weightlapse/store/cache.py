"""What was decoded or drawn, kept while there is room: consecutive frames and repeated questions make nothing twice."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

DEFAULT_NBYTES = 512 << 20


class Sized(Protocol):
    """What the cache may hold: anything that says how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory, the same for as long as it is kept."""


T = TypeVar("T", bound=Sized)


class Cache:
    """Least recently used things go first when more than ``limit`` bytes are held. ``lock`` guards it and what is in it."""

    def __init__(self, limit: int = DEFAULT_NBYTES) -> None:
        self.limit = limit
        self.nbytes = 0
        self.full = False  # whether something had to go already
        self.lock = threading.RLock()
        self._held: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing of this key, made when it is not there. Its ``nbytes`` must not change."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        return self._keep(key, make())

    def get_apart(self, key: Hashable, make: Callable[[], T]) -> T:
        """The same for many threads: nobody waits while another one makes its own; what takes more than half of the room is not kept."""
        with self.lock:
            if key in self._held:
                return self.get(key, make)
        made = make()
        with self.lock:
            return made if key in self._held or made.nbytes > self.limit // 2 else self._keep(key, made)

    def _keep(self, key: Hashable, made: T) -> T:
        self._held[key] = made
        self.nbytes += made.nbytes
        while self.nbytes > self.limit and len(self._held) > 1:
            self.full = True
            self.nbytes -= self._held.popitem(last=False)[1].nbytes
        return made

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held

    def clear(self) -> None:
        """Drop everything; what somebody still holds lives on with them."""
        self._held.clear()
        self.nbytes, self.full = 0, False

"""A stand-in for a device and its streams: work of a stream happens as late as anything allows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stream:
    """Does queued work only when somebody waits for it."""

    def __init__(self, device: Any = None) -> None:
        self.queue: list[Callable[[], None]] = []
        self.done = 0
        self.lock = threading.RLock()

    def run(self, count: int) -> None:
        with self.lock:
            while self.done < count:
                self.queue[self.done]()
                self.done += 1

    def wait_stream(self, other: Stream) -> None:
        assert other is MAIN, "the side stream waits for the update"

    def wait_event(self, event: Event) -> None:
        if self is MAIN:
            BACKEND.waits += 1
            event.synchronize()
        else:
            self.queue.append(event.synchronize)


class Event:
    def record(self, stream: Stream) -> None:
        self.stream, self.count = stream, len(stream.queue)

    def query(self) -> bool:
        return self.stream.done >= self.count

    def synchronize(self) -> None:
        self.stream.run(self.count)


MAIN = Stream()


class Backend:
    """As much of ``torch.cuda`` as the copies use."""

    Stream, Event = Stream, Event
    waits = 0
    current = MAIN

    def current_stream(self, device: Any) -> Stream:
        return MAIN

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def run(self, work: Callable[[], None]) -> None:
        """Queue work on the current stream."""
        self.current.queue.append(work)


BACKEND = Backend()

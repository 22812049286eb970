"""Threads that encode and decode: pcodec and NumPy release the interpreter, so chunks are worked on side by side."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from weightlapse.errors import InvalidArgument

VARIABLE = "WEIGHTLAPSE_THREADS"
_MOST = 64

T = TypeVar("T")


def usable_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def threads() -> int:
    """How many threads may encode or decode at a time: ``WEIGHTLAPSE_THREADS``, or as many as there are cores."""
    told = os.environ.get(VARIABLE, "")
    if not told:
        return min(usable_cores(), _MOST)
    if not told.isascii() or not told.isdigit() or int(told) < 1:
        raise InvalidArgument(f"{VARIABLE}={told!r}: give the number of threads that may encode and decode, 1 or more")
    return min(int(told), _MOST)


def in_order(tasks: Iterable[Callable[[], T]], count: int) -> Iterator[T]:
    """The results of the tasks in their order; ``count`` of them are worked on at a time, and not many more results are held."""
    if count <= 1:
        yield from (task() for task in tasks)
        return
    waiting: deque[Future[T]] = deque()
    try:
        for task in tasks:
            waiting.append(_pool(count, os.getpid()).submit(task))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # left early: what has begun ends, what has not does not begin
        for future in waiting:
            future.cancel()


@lru_cache(maxsize=4)
def _pool(count: int, process: int) -> ThreadPoolExecutor:
    """One pool for each number of threads; a forked child, which has none of its parent's threads, makes its own."""
    return ThreadPoolExecutor(count, thread_name_prefix="weightlapse-codec")

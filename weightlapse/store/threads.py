"""Threads that encode and decode: pcodec and NumPy release the interpreter, so chunks are worked on side by side."""

from __future__ import annotations

import os
import sys
import threading
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


_ALONE = threading.local()


def stay_alone() -> None:
    """From now on :func:`threads` is 1 in this thread: it works beside a training, and others that it woke would each want the interpreter."""
    _ALONE.told = True


def threads() -> int:
    """How many threads may encode or decode at a time: ``WEIGHTLAPSE_THREADS``, or as many as there are cores."""
    if getattr(_ALONE, "told", False):
        return 1
    told = os.environ.get(VARIABLE, "")
    if not told:
        return min(usable_cores(), _MOST)
    if not told.isascii() or not told.isdigit() or int(told) < 1:
        raise InvalidArgument(f"{VARIABLE}={told!r}: give the number of threads that may encode and decode, 1 or more")
    return min(int(told), _MOST)


def in_order(tasks: Iterable[Callable[[], T]], count: int) -> Iterator[T]:
    """The results of the tasks in their order; ``count`` of them are worked on at a time, and as many more results are held."""
    if count <= 1:
        yield from (task() for task in tasks)
        return
    waiting: deque[Future[T]] = deque()
    _TURNS.begin()
    try:
        for task in tasks:
            waiting.append(_submit(task, count))
            if len(waiting) > 2 * count:  # while one result is taken, which may be written, nobody waits for work
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # left early: what has begun ends, what has not does not begin
        for future in waiting:
            future.cancel()
        _TURNS.end()


def all_done(tasks: Iterable[Callable[[], object]], count: int) -> None:
    """Do the tasks, ``count`` at a time, in any order: each thread takes the next one itself, so that nobody is woken between them.

    When it returns, or raises what one of them raised, none is under way.
    """
    if count <= 1:
        for task in tasks:
            task()
        return
    left, lock = iter(tasks), threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        while not failures:
            with lock:
                task = next(left, None)
            if task is None:
                return
            try:
                task()
            except BaseException as error:  # noqa: BLE001 — raised below, when the others have ended
                failures.append(error)

    for _ in in_order([work] * count, count):
        pass
    if failures:
        raise failures[0]


class _Turns:
    """Shorter turns at the interpreter while many threads share it.

    Each call of a codec gives the interpreter away and wants it back a moment later; at Python's usual five milliseconds a turn, whoever computes in
    Python meanwhile would let all others wait that long, again and again.
    """

    SECONDS = 5e-5

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0.0

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(self._before, self.SECONDS))

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                sys.setswitchinterval(self._before)


_TURNS = _Turns()


def _submit(task: Callable[[], T], count: int) -> Future[T]:
    try:
        return _pool(count, os.getpid()).submit(task)
    except (
        RuntimeError
    ):  # the program is ending, and pools take nothing any more: a recorder that nobody closed works alone
        done: Future[T] = Future()
        done.set_result(task())
        return done


@lru_cache(maxsize=4)
def _pool(count: int, process: int) -> ThreadPoolExecutor:
    """One pool for each number of threads; a forked child, which has none of its parent's threads, makes its own."""
    return ThreadPoolExecutor(count, thread_name_prefix="weightlapse-codec")

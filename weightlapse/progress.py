"""Progress bars on standard error: shown on a terminal, silent everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def bar(label: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """A bar named ``label`` over ``total`` units; yields ``advance(n)``. Nothing is printed when standard error is no terminal."""
    if not sys.stderr.isatty():
        yield _nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield partial(progress.advance, task)


def _nothing(count: float = 1.0) -> None:
    """Where no bar is shown, advancing it is nothing."""


def track(iterable: Iterable[T], label: str, total: float | None = None) -> Iterator[T]:
    """Iterate with a bar; ``total`` defaults to ``len(iterable)`` where it has one.

    >>> list(track([1, 2, 3], "counting"))
    [1, 2, 3]
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with bar(label, total) as advance:
        for item in iterable:
            yield item
            advance(1)

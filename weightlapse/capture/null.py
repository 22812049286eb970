"""The recorder that records nothing: where recording is switched off, and on ranks that leave it to rank 0."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class NullRecorder:
    """The face of :class:`weightlapse.Recorder`, and nothing behind it."""

    failed: str | None = None
    active = False
    frames = last_step = 0

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def step(self, params: Any = None, *, step: int | None = None, **scalars: float) -> None: ...
    def log(self, **scalars: float) -> None: ...
    def mark(self, text: str) -> None: ...
    def gap(self, first: int, last: int, reason: str) -> None: ...
    def grow(self, growth: Any, optimizer: Any = None) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...

    @contextmanager
    def guard(self) -> Iterator[None]:
        yield

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __repr__(self) -> str:
        return f"<Recorder {self.path}: records nothing (WEIGHTLAPSE_MODE=off, or a rank other than 0)>"

"""The recorder that records nothing: where recording is switched off, on ranks that leave it to rank 0, and copies of a recorder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from weightlapse.capture.findings import tell

_OFF = "WEIGHTLAPSE_MODE=off, or a rank other than 0"


class NullRecorder:
    """The face of :class:`weightlapse.Recorder`, and nothing behind it. ``why`` it records nothing is told at its first step when it is ``loud``."""

    failed: str | None = None
    stopped: str | None = None
    active = False
    is_copy = False  # of a recorder that records elsewhere
    frames = last_step = 0

    def __init__(self, path: str | os.PathLike[str], why: str = _OFF, *, loud: bool = False) -> None:
        self.path = Path(os.path.abspath(path))
        self._why = why
        self._loud = loud

    def _tell(self) -> None:
        if self._loud:
            self._loud = False
            tell(f"weightlapse does not record to {self.path}: {self._why}.")

    def step(self, params: Any = None, *, step: int | None = None, **scalars: float) -> None:
        """Nothing; the first call tells why, where that is asked for."""
        self._tell()

    def log(self, **scalars: float) -> None:
        """Nothing; the first call tells why, where that is asked for."""
        self._tell()

    def mark(self, text: str) -> None:
        """Nothing."""

    def gap(self, first: int, last: int, reason: str) -> None:
        """Nothing."""

    def grow(self, growth: Any, optimizer: Any = None) -> None:
        """Nothing."""

    def count_by(self, number: Any) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def close(self, *, last_frame: bool = True) -> None:
        """Nothing."""

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Whatever happens inside happens."""
        yield

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __repr__(self) -> str:
        return f"<Recorder {self.path}: records nothing ({self._why})>"


def inactive_copy(path: str) -> NullRecorder:
    """What a copy of a recorder is, made by copy, deepcopy or pickle."""
    why = "this is a copy of a recorder, and only the one that watch() returned records. Call watch() for what is trained here"
    copy = NullRecorder(path, why, loud=True)
    copy.is_copy = True
    return copy

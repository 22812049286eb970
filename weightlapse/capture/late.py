"""A recorder of a model that gets its weights only when it is trained: it begins then."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from weightlapse.capture.findings import tell
from weightlapse.capture.null import inactive_copy
from weightlapse.capture.recorder import Recorder
from weightlapse.errors import RecordingStopped


class LateRecorder:
    """The face of a :class:`Recorder` before there is one, and then that one's.

    ``begin(first values, step)`` makes the recording; nothing is on disk before. Marks that come earlier are kept for it.
    """

    def __init__(self, path: Path, begin: Callable[[Any, int], Recorder], name: str) -> None:
        self.path = path
        self._begin = begin
        self._name = name
        self._recorder: Recorder | None = None
        self._marks: list[str] = []
        self._over = False
        self._failed: str | None = None

    def start(self, first: Any, step: int) -> None:
        """There are weights now: make the recording. What fails is said, and the training goes on."""
        if self._over or self._recorder is not None:
            return
        try:
            self._recorder = self._begin(first, step)
        except Exception as error:
            self._failed = str(error) or type(error).__name__
            if os.environ.get("WEIGHTLAPSE_STRICT") == "1":
                raise
            tell(f"weightlapse cannot record to {self.path}: {self._failed}. Training goes on.", RecordingStopped)
            return
        for text in self._marks:
            self._recorder.mark(text)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        recorder = self.__dict__.get("_recorder")
        if recorder is not None:
            return getattr(recorder, name)
        before = {"frames": 0, "last_step": 0, "stopped": self._failed, "failed": self._failed}
        if name == "active":
            return not self._over and self._failed is None
        if name in before:
            return before[name]
        if name == "mark":
            return self._marks.append
        if name in ("flush", "tell"):
            return lambda: None
        if name in ("step", "log", "gap", "grow"):
            return lambda *_, **__: tell(
                f"weightlapse, recording to {self.path}: {name}() before {self._name} has weights adds nothing; the recording begins in its first fit()"
            )
        raise AttributeError(f"a recorder has no {name!r}")

    def close(self, *, last_frame: bool = True) -> None:
        """As `Recorder.close`; where no model was ever fitted it says that nothing was recorded. Once more does nothing."""
        if self._recorder is not None:
            self._recorder.close(last_frame=last_frame)
        elif not self._over and self._failed is None:
            tell(f"weightlapse, recording to {self.path}: nothing was recorded, because {self._name} was never fitted")
        self._over = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._recorder is not None:
            self._recorder.__exit__(kind, error, trace)
            self._over = True
        elif error is None:
            self.close()

    def __reduce__(self) -> Any:
        return inactive_copy, (str(self.path),)

    def __repr__(self) -> str:
        return (
            repr(self._recorder)
            if self._recorder is not None
            else f"<Recorder {self.path}: waits for the weights of {self._name}>"
        )

"""What the callbacks of all trainers have in common: they number steps as their trainer does, and can be copied like any callback."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from weightlapse.errors import refuse_unknown


class Watching:
    """The part of a callback that calls :func:`weightlapse.watch`. ``recorder`` is what it returned, None before training begins."""

    path: str | os.PathLike[str] | None
    recorder: Any = None

    def prepare(self, path: str | os.PathLike[str] | None, watch: dict[str, Any]) -> None:
        """Keep the path and the keywords of ``watch()``; unknown ones are refused now, not when training begins."""
        import weightlapse  # the public face: callbacks are users of it

        refuse_unknown(watch, inspect.signature(weightlapse.watch).parameters, type(self).__name__)
        self.path = path
        self.recorder = None
        self.keywords = watch

    def begin(self, model: Any, path: Any, number: Callable[[], int] | None = None, **more: Any) -> bool:
        """Watch ``model``; False where this callback is a copy of one that has recorded, and so records nothing.

        ``number()`` is how many steps the trainer has made. The recording is numbered by it; where it is rewound, because the trainer goes on from
        an earlier checkpoint, what came later becomes a branch. A trainer that starts from 0 says nothing about a model that has been trained
        before: then the weights tell where the recording goes on.
        """
        import weightlapse

        if getattr(self.recorder, "is_copy", False):
            self.recorder.step()  # says so, once
            return False
        keywords = {**self.keywords, **more}
        made = 0 if number is None else number()
        if "first_step" not in keywords and "resume_at" not in keywords and number is not None:
            if keywords.get("resume"):
                keywords = {"missing": "gap", **keywords, "resume_at": made or "weights"}
            else:
                keywords["first_step"] = made
        self.recorder = weightlapse.watch(model, path, **keywords)
        self.offset = self.recorder.last_step - made  # between the numbers of the recording and those of the trainer
        if number is not None:
            self.recorder.count_by(lambda: number() + 1 + self.offset)
        return True

    def end(self) -> None:
        """Training has ended; weights that the trainer puts into the model now (the best it had, an average) are no step of it."""
        if self.recorder is not None:
            self.recorder.close(last_frame=False)

    def fail(self, error: BaseException) -> None:
        """Training ended by an exception: it is marked in the recording, which is closed."""
        if self.recorder is not None:
            self.recorder.mark(f"training ended with {type(error).__name__}: {error}")
            self.end()

    @property
    def active(self) -> bool:
        """Whether a recording has begun here and still records; False in copies and in other processes."""
        return self.recorder is not None and self.recorder.active

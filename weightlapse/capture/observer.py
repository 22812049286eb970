"""A look at the network besides its weights, at a few frames: what is frozen, what the optimizer does, where activations lie."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from weightlapse.adapters.source import Source
from weightlapse.capture.schedule import log_spaced
from weightlapse.store.writer import Writer

PER_DECADE = 4  # looks between frame 1 and 10, 10 and 100, ...


class Observer:
    """Looks at frames 0, 1, 2, 3, 6, 10, 18, ... and the last. A look that fails is the last one: its reason is recorded."""

    def __init__(self, look: Callable[[], dict[str, Any]], note: Callable[[Callable[[Writer], None]], None]) -> None:
        self._look: Callable[[], dict[str, Any]] | None = look
        self._note = note
        self._frames = 0
        self._seen_at = -1
        self._when = log_spaced(per_decade=PER_DECADE)

    def frame(self, step: int) -> None:
        """A frame of this step was taken."""
        if self._when.wants(self._frames):
            self.look(step)
        self._frames += 1

    def look(self, step: int) -> None:
        """Look now, in the training thread, unless this ``step`` was looked at already; the facts go to the recorder's thread to be written."""
        if self._look is None or step == self._seen_at:
            return
        self._seen_at = step
        try:
            seen = self._look()
        except Exception as error:  # noqa: BLE001  whatever a model raises when it is run once more: training must not notice
            seen, self._look = {"failed": f"{type(error).__name__}: {error}"[:500]}, None
        if seen:
            self._note(lambda writer: _write(writer, step, seen))


def _write(writer: Writer, step: int, seen: dict[str, Any]) -> None:
    """Write what was seen, in the recorder's thread: here what is still being computed on a device may be waited for."""
    facts = {key: value for key, value in seen.items() if not callable(value)}
    for key in [k for k in seen if k not in facts]:
        try:
            fact = seen[key]()
        except Exception as error:  # noqa: BLE001  a device that fails fails the training, which says so
            key, fact = "failed", f"{type(error).__name__}: {error}"[:500]
        if fact is not None:
            facts[key] = fact
    if facts:
        writer.observed(step, facts)


def find_look(source: Source, example: Any, steps: Callable[[], Any]) -> Callable[[], dict[str, Any]] | None:
    """How to look at a model of this framework; None where there is no way yet, or where its parts lie on many processes.

    ``steps()`` is what is followed now: a network may grow.
    """
    if source.framework == "keras":
        keras = importlib.import_module("weightlapse.adapters.keras_observe")
        seen: Callable[[], dict[str, Any]] = keras.KerasObserver(source, example, lambda: keras.followed(steps())).look
        return seen
    if source.framework != "torch" or source.module is None or source.shards or (example is None and steps() is None):
        return None
    made = importlib.import_module("weightlapse.adapters.torch_observe").TorchObserver
    optimizers = lambda: getattr(steps(), "leaves", ())  # noqa: E731
    look: Callable[[], dict[str, Any]] = made(lambda: source.module, example, optimizers).look
    return look

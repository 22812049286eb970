"""A recording that is computed instead of read: any number of frames and weights without a disk, and a count of what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


class ImaginedTrack:
    def __init__(self, run: Imagined, name: str) -> None:
        self.run, self.name = run, name
        self.shape = (run.frames, *run.shapes[name])

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        if isinstance(key, tuple):
            return self[key[0]][(slice(None), *key[1:]) if isinstance(key[0], slice) else key[1:]]
        frames = np.arange(self.run.frames)[key]
        if np.ndim(frames) == 0:
            return self._one(int(frames))
        self.run.largest_read = max(self.run.largest_read, len(frames) * int(np.prod(self.run.shapes[self.name])) * 4)
        return np.stack([self._one(int(frame)) for frame in frames])

    def _one(self, frame: int) -> NDArray[np.float32]:
        self.run.reads += 1
        return np.asarray(self.run.value(self.name, frame), dtype=np.float32).reshape(self.run.shapes[self.name])


class Imagined:
    """The face of a recording that films use. ``value(name, frame)`` gives the weights."""

    layouts: tuple[Any, ...] = ()
    wiring = None
    branches: ClassVar[dict[str, Any]] = {}
    observed: tuple[Any, ...] = ()
    stopped = tolerance = None
    name = "imagined"

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], frames: int, value: Callable[[str, int], Any] | None = None
    ) -> None:
        self.shapes, self.frames = dict(shapes), frames
        self.names = list(shapes)
        self.dtypes = dict.fromkeys(shapes, "float32")
        self.steps = np.arange(frames)
        self.scalars: dict[str, NDArray[np.float64]] = {"loss": np.exp(-np.arange(frames) / max(frames, 1) * 5)}
        self.events: list[tuple[int, str]] = []
        self.gaps: list[Any] = []
        self.path = "imagined"
        self.reads = self.largest_read = 0
        self.value = value or self._waves

    def _waves(self, name: str, frame: int) -> NDArray[np.float32]:
        size = int(np.prod(self.shapes[name]))
        return np.sin(np.arange(size) * 0.37 + len(name) + 6 * frame / max(self.frames, 1)).astype(np.float32)

    def __getitem__(self, name: str) -> ImaginedTrack:
        return ImaginedTrack(self, name)

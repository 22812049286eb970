"""The few thousand weights and few dozen frames that stand for a tensor in scales and sparklines: the same for film and page.

Bands of neighbouring cells are read rather than scattered ones, because the store keeps neighbours together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import UnknownTensor, closest
from weightlapse.picture.limits import limit_over
from weightlapse.recording.run import Run, TensorHistory

CELLS = 24_576  # cells of a tensor that stand for all of them
BANDS = 4
FRAMES = 48

Frames = NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """The frames ``start <= frame < stop`` in which a tensor keeps one shape; ``span`` is None for a run of one layout."""

    start: int
    stop: int
    shape: tuple[int, ...]
    span: int | None

    def track(self, run: Run, name: str) -> TensorHistory:
        """The tensor in this piece's layout, its frames counted from ``start``; nothing is read yet."""
        return run[name] if self.span is None else run.layouts[self.span][name]


def pieces(run: Run, name: str) -> list[Piece]:
    """The stretches of frames in which ``run`` has ``name``, in order. Raises UnknownTensor."""
    spans, frames = list(run.layouts), len(run.steps)
    if len(spans) <= 1:
        if name not in run.shapes:
            raise UnknownTensor(f"the recording has no tensor {name!r}; {closest(name, run.names)}")
        return [Piece(0, frames, tuple(run.shapes[name]), None)]
    found = []
    for number, span in enumerate(spans):
        stop = frames if number == len(spans) - 1 else span.stop
        if name in span.shapes and stop > span.start:
            found.append(Piece(span.start, stop, tuple(span.shapes[name]), number))
    if not found:
        known = dict.fromkeys(other for span in spans for other in span.shapes)
        raise UnknownTensor(f"the recording has no tensor {name!r}; {closest(name, known)}")
    return found


def sample(
    run: Run, name: str, frames: Frames | None = None, most: int = FRAMES, parts: Sequence[Piece] | None = None
) -> Iterator[tuple[Frames, NDArray[np.float64]]]:
    """(frames, values of a few thousand cells at them, float64 (frames, cells)) for each piece of a tensor.

    ``frames``: those that matter, all by default; about ``most`` of them are read, evenly spaced, the first and the last of each piece among them.
    """
    wanted = np.arange(len(run.steps)) if frames is None else np.unique(frames)
    with_cells = [piece for piece in parts or pieces(run, name) if math.prod(piece.shape)]
    inside = [wanted[(wanted >= piece.start) & (wanted < piece.stop)] for piece in with_cells]
    stride = max(1, math.ceil(sum(map(len, inside)) / most))
    for piece, there in zip(with_cells, inside, strict=True):
        if not len(there):
            continue
        at = there[::stride]
        if at[-1] != there[-1]:
            at = np.append(at, there[-1])
        track = piece.track(run, name)
        yield at, np.concatenate([_read(track, at - piece.start, where) for where in bands(piece.shape)], axis=1)


def limit(run: Run, name: str, frames: Frames | None = None) -> float:
    """Where the colour scale of a tensor ends over ``frames`` (default: the whole recording)."""
    return limit_over([values for _, values in sample(run, name, frames)])


def _read(track: Any, frames: Frames, where: tuple[slice, ...]) -> NDArray[np.float64]:
    """``frames`` of the cells ``where``, in as few reads as their spacing allows."""
    values = []
    for run in np.split(frames, _breaks(frames)):
        step = int(run[1] - run[0]) if len(run) > 1 else 1
        values.append(np.asarray(track[(slice(int(run[0]), int(run[-1]) + 1, step), *where)], np.float64))
    return np.concatenate([v.reshape(v.shape[0], -1) for v in values])


def _breaks(frames: Frames) -> list[int]:
    """Where evenly spaced stretches end."""
    found, at = [], 0
    while at + 2 < len(frames):
        step, stop = frames[at + 1] - frames[at], at + 2
        while stop < len(frames) and frames[stop] - frames[stop - 1] == step:
            stop += 1
        if stop == len(frames):
            break
        found.append(stop)
        at = stop
    return found


def bands(shape: tuple[int, ...], cells: int = CELLS) -> list[tuple[slice, ...]]:
    """Slices that hold at most ``cells`` cells of a tensor, spread over its first axis."""
    if math.prod(shape) <= cells:
        return [tuple(slice(0, n) for n in shape)]
    budget = cells // BANDS
    tail = []
    for n in reversed(shape[1:]):  # innermost first: neighbours in memory
        take = min(n, max(1, budget))
        tail.append(slice(0, take))
        budget //= take
    height = min(shape[0], max(1, budget))
    count = min(BANDS, shape[0] // height)
    starts = np.linspace(0, shape[0] - height, count).astype(int)
    return [(slice(int(s), int(s) + height), *reversed(tail)) for s in starts]

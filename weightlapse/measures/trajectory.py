"""The path of a training run through weight space, seen in the plane that holds most of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.measures.stream import Array, parts, select
from weightlapse.progress import track
from weightlapse.recording.frames import Frames, rising_frames
from weightlapse.recording.run import Run

SLAB_BYTES = 128 << 20  # float64 bytes of (frames x weights) held at once
MOST_FRAMES = 2000  # the Gram matrix of more frames would take longer than the eye can use


@dataclass(frozen=True)
class Trajectory:
    """Principal components of the weights over time.

    ``coordinates`` (T, k): the run in the plane of its k largest components, centred. ``explained`` (k,): share of the
    variance of each. ``frames`` (T,): which frames; more than 2000 are thinned evenly.
    """

    coordinates: Array
    explained: Array
    frames: NDArray[np.int64]


def trajectory(
    run: Run, *, components: int = 2, tensors: str | Sequence[str] = "*", frames: Frames = None
) -> Trajectory:
    """Exact principal component analysis of the recorded weights, from the Gram matrix of the frames.

    Memory is bounded: the (T, T) Gram matrix is summed over slabs of weights, so the (T, weights) matrix never exists.
    Signs are fixed so that the run ends on the positive side of each component.

    Raises InvalidArgument when fewer than two frames are chosen or a weight is not finite.
    """
    names, index = select(run, tensors), rising_frames(frames, run.frames)
    if index.size > MOST_FRAMES:
        index = index[np.unique(np.linspace(0, index.size - 1, MOST_FRAMES).astype(np.int64))]
    if index.size < 2:
        raise InvalidArgument("a trajectory needs at least two frames; this choice has one")
    gram = np.zeros((index.size, index.size))
    for name in track(names, "trajectory"):
        shape = tuple(run.shapes[name])
        rows = shape[0] if shape else 1
        per_row = 8 * index.size * max(1, int(np.prod(shape[1:], dtype=np.int64)))
        step = max(1, SLAB_BYTES // per_row)
        for first in range(0, rows, step):
            part = (slice(first, first + step),) if shape else ()
            slab = _frames_of(run[name], index, part)
            if not np.isfinite(slab).all():
                raise InvalidArgument(
                    f"{name} has NaN or Inf among the chosen frames; choose frames= before they appear"
                )
            slab -= slab.mean(axis=0)
            gram += slab @ slab.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    count = min(components, index.size)
    coordinates = vectors[:, :count] * np.sqrt(values[:count])
    coordinates = coordinates * np.where(coordinates[-1] < 0, -1.0, 1.0)
    total = values.sum()
    return Trajectory(coordinates, values[:count] / total if total else np.zeros(count), index)


def _frames_of(track_: Any, index: NDArray[np.int64], part: tuple[slice, ...]) -> Array:
    """(len(index), weights) float64 of a track; an even stride is read as one slice."""
    strides = np.diff(index)
    if strides.size and (strides == strides[0]).all():
        block = track_[(slice(int(index[0]), int(index[-1]) + 1, int(strides[0])), *part)]
    else:
        block = np.stack([track_[(int(i), *part)] for i in index])
    return np.asarray(parts(np.asarray(block)), dtype=np.float64).reshape(index.size, -1)

"""Where a colour scale ends: one rule for film, page and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RUNAWAY = 30  # times the middle frame's largest weight, from which on a frame does not count
SMALLEST = 1e-35  # below it float32, in which pictures are drawn, has no digits left


def limit_over(seen: Sequence[NDArray[Any]]) -> float:
    """Where the scale of a tensor ends over time; ``seen``: (frames, values) for each stretch of one shape.

    `limit_of` all of them, without the frames in which the tensor has run away: those whose own largest magnitude is more than 30 times that of the frame
    in the middle of all that are not zero. A training that explodes at its end does not bleach all that was before.

    >>> limit_over([np.array([[1.0, -2.0], [1.5, 2.5], [1e14, -1e15]])])
    2.5
    """
    if not any(values.size for values in seen):
        return 1.0
    with np.errstate(invalid="ignore"):
        sizes = [np.where(np.isfinite(v), np.abs(v), 0).max(axis=1, initial=0) for v in seen]
    largest = np.concatenate(sizes)
    alive = np.sort(largest[largest > 0])
    most = RUNAWAY * float(alive[len(alive) // 2]) if len(alive) else np.inf
    if largest.max(initial=0) <= most:
        return limit_of(np.concatenate([values.ravel() for values in seen]))
    return limit_of(np.concatenate([values[size <= most].ravel() for values, size in zip(seen, sizes, strict=True)]))


def limit_of(values: NDArray[Any]) -> float:
    """Colours run from -limit to +limit: the largest finite magnitude that is no more than three times the 99th percentile.

    One weight that runs away does not turn everything else white; what lies beyond gets a mark of its own. 1.0 where nothing is finite or
    all is zero.

    >>> limit_of(np.array([1.0, -2.0, np.inf]))
    2.0
    >>> limit_of(np.array([*range(200), 1e9]))
    199.0
    """
    array = np.asarray(values)
    magnitude = np.abs(array.astype(np.float64, copy=False)).ravel()
    finite = np.isfinite(magnitude)
    if not finite.all():
        magnitude = magnitude[finite]
    if magnitude.size == 0:
        return 1.0
    largest = float(magnitude.max())
    if largest == 0:
        return 1.0
    rank = int(
        np.floor(0.99 * (magnitude.size - 1) + 0.5)
    )  # a value that is there, so that every language finds the same
    usual = float(np.partition(magnitude, rank)[rank])
    if largest > 3 * usual > 0:
        largest = float(magnitude[magnitude <= 3 * usual].max())
    return max(largest, SMALLEST)

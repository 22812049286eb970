"""Where a colour scale ends: one rule for film, page and figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-35  # below it float32, in which pictures are drawn, has no digits left


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

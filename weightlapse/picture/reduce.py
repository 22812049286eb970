"""Pictures smaller than their tensors: what one cell shows that stands for several weights. A spike (and NaN) always shows.

A screen shows a million cells at most. The page reduces by powers of two to the smallest, the mean and the largest value of every tile,
and draws of these the *extreme* one, the farthest from zero. A film draws the *typical* one: a weight from the middle of the tile, unless
one in it is a spike. Extremes change place and sign from frame to frame, so they would flicker in a film.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODES = ("extreme", "mean", "min", "max")


@dataclass(frozen=True)
class Pooled:
    """Tiles of ``(fr, fc)`` cells, each by its smallest, largest and summed value (float64 sums: the mean stays exact)."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    total: NDArray[np.float64]
    count: NDArray[np.float64]

    def mean(self) -> NDArray[np.float32]:
        with np.errstate(invalid="ignore", over="ignore"):
            return (self.total / self.count).astype(np.float32)


def _as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what is too large for float32 is drawn as infinite
        return np.asarray(values, np.float32)


def _halve(array: NDArray[Any], axis: int, ufunc: np.ufunc) -> NDArray[Any]:
    """Neighbours along ``axis`` combined in pairs; a last one without a partner stays alone."""
    even, odd = (slice(None),) * axis + (slice(0, None, 2),), (slice(None),) * axis + (slice(1, None, 2),)
    first, second = array[even], array[odd]
    if first.shape == second.shape:
        return ufunc(first, second)
    paired = (slice(None),) * axis + (slice(0, -1),)
    out = first.copy()
    ufunc(first[paired], second, out=out[paired])
    return out


def pool(values: NDArray[Any], fr: int, fc: int) -> Pooled:
    """``values`` (rows, cols) reduced by the powers of two ``fr`` and ``fc``. NaN wins in its tile.

    >>> pool(np.arange(6.0).reshape(2, 3), 2, 2).high.tolist()
    [[4.0, 5.0]]
    """
    low = high = _as_float32(values)
    total = np.asarray(values, np.float64)
    count = np.ones(low.shape, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        for axis, factor in ((0, fr), (1, fc)):
            while factor > 1:
                low, high = _halve(low, axis, np.minimum), _halve(high, axis, np.maximum)
                total, count = _halve(total, axis, np.add), _halve(count, axis, np.add)
                factor //= 2
    return Pooled(low, high, total, count)


def reduce_to(values: NDArray[Any], fr: int, fc: int, mode: str) -> NDArray[np.float32]:
    """One number per tile: its ``mean``, ``min``, ``max``, or ``extreme`` (of min and max, the one farther from zero)."""
    low = high = _as_float32(values)
    if fr == fc == 1:
        return low
    if mode == "mean":
        return pool(values, fr, fc).mean()
    with np.errstate(invalid="ignore"):
        for axis, factor in ((0, fr), (1, fc)):
            while factor > 1:
                if mode != "max":
                    low = _halve(low, axis, np.minimum)
                if mode != "min":
                    high = _halve(high, axis, np.maximum)
                factor //= 2
        if mode == "min":
            return low
        if mode == "max":
            return high
        return np.where(high >= -low, high, low)  # NaN compares false, and is then in `low` too


def typical(values: NDArray[Any], rows: int, columns: int, spike: float) -> NDArray[Any]:
    """Of every ``rows`` × ``columns`` block of a 2-D array its middle weight, or, where one is larger than ``spike``, the largest.

    Magnitudes are compared; NaN and Inf count as larger than any spike.

    >>> typical(np.array([[1.0, -9.0, 0.5], [2.0, 0.25, 0.125]]), 2, 2, 5.0).tolist()
    [[-9.0, 0.125]]
    """
    if rows == columns == 1:
        return values
    high, extreme = values.shape[0], values
    middle = values[np.minimum(np.arange(0, high, rows) + rows // 2, high - 1)]
    middle = middle[:, np.minimum(np.arange(0, values.shape[1], columns) + columns // 2, values.shape[1] - 1)]
    for axis, step in ((0, rows), (1, columns)):  # rows first: whole rows are compared at once
        if step > 1:
            extreme = _extremes(extreme, axis, step)
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(extreme) <= spike, middle, extreme)  # false for NaN


def _extremes(values: NDArray[Any], axis: int, step: int) -> NDArray[Any]:
    whole = values.shape[axis] // step * step
    head = values[:, :whole] if axis else values[:whole]
    split = head.reshape((head.shape[0], -1, step) if axis else (-1, step, head.shape[1]))
    parts = [_farthest(split, 2 if axis else 1)]
    if whole < values.shape[axis]:
        tail = values[:, whole:] if axis else values[whole:]
        parts.append(np.expand_dims(_farthest(tail, axis), axis))
    return np.concatenate(parts, axis=axis)


def _farthest(values: NDArray[Any], axis: int) -> NDArray[Any]:
    high, low = values.max(axis=axis), values.min(axis=axis)  # both are NaN where any value is
    with np.errstate(invalid="ignore"):
        picked: NDArray[Any] = np.where(high >= -low, high, low)
    return picked

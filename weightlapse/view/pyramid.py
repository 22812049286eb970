"""Pictures smaller than their tensors: pyramids of min, mean and max, and the eight-bit codes that the page colours.

A screen shows a million cells at most. A larger tensor is reduced by powers of two, and the reduction keeps the smallest, the mean
and the largest value of every tile, so that a single spike (or NaN) among ten million cells still shows.

Eight-bit codes are the same on every path (server, static page, WebGL):

    0 NaN   1 -Inf   2 below the scale   3 .. 253 linear, 128 is zero   254 above the scale   255 +Inf
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 125  # codes on each side of zero
SMALLEST_LIMIT = 1e-35  # below it float32, in which pictures are drawn, has no digits left
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


def codes(values: NDArray[np.float32], limit: float) -> NDArray[np.uint8]:
    """Eight-bit codes of ``values`` on a symmetric scale of +-``limit`` (see the module's table)."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.asarray(values, np.float32) * np.float32(STEPS / limit)
        finite = np.isfinite(scaled.sum(dtype=np.float64))
    if finite:
        np.clip(scaled, -STEPS - 1, STEPS + 1, out=scaled)
        scaled += np.float32(128.5)
        return scaled.astype(np.uint8)
    nan = np.isnan(values)
    with np.errstate(invalid="ignore"):
        out = (np.clip(np.where(nan, 0, scaled), -STEPS - 1, STEPS + 1) + np.float32(128.5)).astype(np.uint8)
    out[nan] = 0
    out[values == -np.inf] = 1
    out[values == np.inf] = 255
    return out


def scale_limit(values: NDArray[Any]) -> float:
    """Where a tensor's colour scale ends: its largest magnitude, or three times the 99th percentile where that is smaller.

    The second rule keeps one outlier from turning everything else white; what lies beyond gets a mark of its own.
    """
    magnitude = np.abs(np.asarray(values, np.float64)).ravel()
    magnitude = magnitude[np.isfinite(magnitude)]
    if magnitude.size == 0:
        return 1.0
    largest = float(magnitude.max())
    limit = min(largest, 3 * float(np.quantile(magnitude, 0.99))) or largest
    return max(limit, SMALLEST_LIMIT) if limit > 0 else 1.0

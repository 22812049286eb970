"""Pictures with fewer cells than weights: each cell stands for a tile of several. One rule for film, page and figures.

A cell shows the *typical* weight of its tile, the one in the middle, unless one of them stands out: beyond three quarters of the scale (or no finite number)
the one farthest from zero is shown. So a picture keeps its look, does not flicker from frame to frame, and no spike hides. Where asked, a
cell is the extreme, the mean, the smallest or the largest of its tile instead. A tile of tiles is a tile: pictures may be reduced step by step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MODES = ("typical", "extreme", "mean", "min", "max")
SPIKE = 0.75  # of the scale: what is farther from zero is drawn even where its cell stands for many weights


def reduce_to(values: NDArray[Any], fr: int, fc: int, mode: str, limit: float = 1.0) -> NDArray[np.float32]:
    """``values`` (rows, cols) by tiles of ``fr`` x ``fc``, one float32 for each: see `MODES`. ``limit``: the end of the scale, for typical ones.

    >>> reduce_to(np.array([[0.125, -0.875, 0.25], [0.25, 0.375, 0.5]]), 2, 2, "typical", 1.0).tolist()
    [[-0.875, 0.5]]
    """
    array = _as_float32(values)
    if fr == fc == 1:
        return array
    if mode == "mean":
        return _mean(values, fr, fc)
    if mode == "typical":
        return typical(array, fr, fc, SPIKE * limit)
    low = array if mode == "max" else _tiled(array, fr, fc, np.minimum)
    high = array if mode == "min" else _tiled(array, fr, fc, np.maximum)
    if mode in ("min", "max"):
        return low if mode == "min" else high
    return _farther(low, high)


def typical(values: NDArray[Any], rows: int, columns: int, spike: float) -> NDArray[Any]:
    """Of every ``rows`` × ``columns`` tile of a 2-D array its middle weight, or, where one is larger than ``spike``, the largest.

    Magnitudes are compared; NaN and Inf count as larger than any spike. Same dtype; of integers float64.

    >>> typical(np.array([[1.0, -9.0, 0.5], [2.0, 0.25, 0.125]]), 2, 2, 5.0).tolist()
    [[-9.0, 0.125]]
    """
    if rows == columns == 1:
        return values
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    high, wide = values.shape
    middle = values[np.minimum(np.arange(0, high, rows) + rows // 2, high - 1)]
    middle = middle[:, np.minimum(np.arange(0, wide, columns) + columns // 2, wide - 1)]
    with np.errstate(invalid="ignore"):
        odd = np.flatnonzero(~(np.abs(values) <= values.dtype.type(spike)))  # NaN too
    if odd.size * rows * columns > values.size // 4:
        extreme = _farther(_tiled(values, rows, columns, np.minimum), _tiled(values, rows, columns, np.maximum))
        with np.errstate(invalid="ignore"):
            return np.where(np.abs(extreme) <= values.dtype.type(spike), middle, extreme)  # false for NaN
    if odd.size:  # nearly always a few: only their tiles are looked at
        down, across = np.divmod(
            np.unique(odd // wide // rows * middle.shape[1] + odd % wide // columns), middle.shape[1]
        )
        inside_down = np.minimum(
            down[:, None] * rows + np.arange(rows), high - 1
        )  # past the edge the last row once more
        inside_across = np.minimum(across[:, None] * columns + np.arange(columns), wide - 1)
        tiles = values[inside_down[:, :, None], inside_across[:, None, :]]
        middle[down, across] = _farther(tiles.min(axis=(1, 2)), tiles.max(axis=(1, 2)))
    return middle


def _as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what is too large for float32 is drawn as infinite
        return np.asarray(values, np.float32)


def _farther(low: NDArray[Any], high: NDArray[Any]) -> NDArray[Any]:
    """Of the smallest and the largest of each tile the one farther from zero."""
    with np.errstate(invalid="ignore"):
        farther: NDArray[Any] = np.where(high >= -low, high, low)  # NaN compares false, and is then in `low` too
    return farther


def _mean(values: NDArray[Any], fr: int, fc: int) -> NDArray[np.float32]:
    """In float64, so that the mean stays exact."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = _tiled(np.asarray(values, np.float64), fr, fc, np.add)
        high, wide = (
            np.minimum(factor, size - np.arange(0, size, factor))
            for factor, size in zip((fr, fc), values.shape, strict=True)
        )
        return (total / np.outer(high, wide)).astype(np.float32)


def _tiled(values: NDArray[Any], fr: int, fc: int, ufunc: np.ufunc) -> NDArray[Any]:
    """``ufunc`` over every tile; rows first, because whole rows are combined at once. NaN wins in its tile."""
    with np.errstate(invalid="ignore"):
        for axis, factor in ((0, fr), (1, fc)):
            while factor > 1 and factor % 2 == 0:
                values, factor = _halved(values, axis, ufunc), factor // 2
            if factor > 1:
                values = ufunc.reduceat(values, np.arange(0, values.shape[axis], factor), axis=axis)
    return values


def _halved(values: NDArray[Any], axis: int, ufunc: np.ufunc) -> NDArray[Any]:
    """Neighbours along ``axis`` combined in pairs; a last one without a partner stays alone."""
    even, odd = (slice(None),) * axis + (slice(0, None, 2),), (slice(None),) * axis + (slice(1, None, 2),)
    first, second = values[even], values[odd]
    if first.shape == second.shape:
        return ufunc(first, second)
    paired = (slice(None),) * axis + (slice(0, -1),)
    out = first.copy()
    ufunc(first[paired], second, out=out[paired])
    return out

"""How a tensor of any shape becomes a flat grid of cells: matrices as they are, kernels tiled in × out, vectors as strips.

What is too large for its place is thinned: a drawn cell then stands for a block of weights and shows the middle one, but
where any of them is a spike (large on the tensor's scale, NaN or Inf), that one: a spike never hides. The label says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weightlapse.film.colours import GROUND, Codes

Values = NDArray[np.generic]


@dataclass(frozen=True)
class Grid:
    """``rows`` × ``columns`` cells; every ``unit_rows`` × ``unit_columns`` of them are one kernel (1 × 1: single weights)."""

    shape: tuple[int, ...]
    rows: int
    columns: int
    unit_rows: int = 1
    unit_columns: int = 1
    channels_last: bool = False

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    @property
    def kernels(self) -> bool:
        return self.unit_rows * self.unit_columns > 1

    def arrange(self, values: Values) -> Values:
        """The values of the tensor as (rows, columns)."""
        if not self.kernels:
            return values.reshape(self.rows, self.columns)
        if self.channels_last:
            values = np.moveaxis(values, (-1, -2), (0, 1))
        out, into = values.shape[:2]
        kernel = values.reshape(out, into, self.unit_rows, self.unit_columns)
        return kernel.transpose(0, 2, 1, 3).reshape(self.rows, self.columns)


def grid(shape: tuple[int, ...], *, channels_last: bool = False) -> Grid:
    """The grid of a tensor. ``channels_last``: kernels are (..., in, out), as Keras and Flax store them.

    >>> grid((16, 3, 5, 5)).rows, grid((16, 3, 5, 5)).columns
    (80, 15)
    >>> grid((10,)).rows
    1
    """
    if len(shape) == 0:
        return Grid(shape, 1, 1)
    if len(shape) == 1:
        return Grid(shape, 1, shape[0])
    if len(shape) == 2:
        return Grid(shape, shape[0], shape[1])
    if channels_last:
        (out, into), kernel = (shape[-1], shape[-2]), shape[:-2]
    else:
        (out, into), kernel = (shape[0], shape[1]), shape[2:]
    unit_rows, unit_columns = math.prod(kernel[:-1]), kernel[-1]
    return Grid(shape, out * unit_rows, into * unit_columns, unit_rows, unit_columns, channels_last)


def thin(values: Values, rows: int, columns: int, spike: float) -> Values:
    """Of every ``rows`` × ``columns`` block of a 2-D array its middle weight, or, where one is larger than ``spike``, the largest.

    Magnitudes are compared; NaN and Inf count as larger than any spike.

    >>> thin(np.array([[1.0, -9.0, 0.5], [2.0, 0.25, 0.125]]), 2, 2, 5.0).tolist()
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


def _extremes(values: Values, axis: int, step: int) -> Values:
    whole = values.shape[axis] // step * step
    head = values[:, :whole] if axis else values[:whole]
    split = head.reshape((head.shape[0], -1, step) if axis else (-1, step, head.shape[1]))
    parts = [_farthest(split, 2 if axis else 1)]
    if whole < values.shape[axis]:
        tail = values[:, whole:] if axis else values[whole:]
        parts.append(np.expand_dims(_farthest(tail, axis), axis))
    return np.concatenate(parts, axis=axis)


def _farthest(values: Values, axis: int) -> Values:
    high, low = values.max(axis=axis), values.min(axis=axis)  # both are NaN where any value is
    with np.errstate(invalid="ignore"):
        picked: Values = np.where(high >= -low, high, low)
    return picked


def fold(codes: Codes, parts: int, *, across: bool, unit: int = 1) -> Codes:
    """Cut a tall grid into ``parts`` columns (``across``) or a wide one into ``parts`` rows; what is missing at the end is ground.

    Cuts fall between groups of ``unit`` rows (or columns): a kernel stays whole.
    """
    if parts == 1:
        return codes
    axis = 0 if across else 1
    length = per_part(codes.shape[axis], parts, unit)
    missing = length * parts - codes.shape[axis]
    pad = ((0, missing), (0, 0)) if across else ((0, 0), (0, missing))
    full = np.pad(codes, pad, constant_values=GROUND)
    if across:
        return full.reshape(parts, length, -1).transpose(1, 0, 2).reshape(length, -1)
    return full.reshape(-1, parts, length).transpose(1, 0, 2).reshape(-1, length)


def per_part(count: int, parts: int, unit: int) -> int:
    """Rows (or columns) in each of ``parts`` pieces of ``count``.

    >>> per_part(24, 3, 3)
    9
    """
    return -(-(count // unit) // parts) * unit


def pixels(count: int, cell: int, group: int, gap: int) -> NDArray[np.intp]:
    """Which of ``count`` cells each pixel shows, ``gap`` pixels (of value ``count``: ground) after every ``group`` cells.

    >>> pixels(4, 2, 2, 2).tolist()
    [0, 0, 1, 1, 4, 4, 2, 2, 3, 3]
    """
    whole = np.repeat(np.arange(count), cell)
    if gap == 0 or group >= count:
        return whole
    breaks = np.arange(group, count, group) * cell
    return np.insert(whole, np.repeat(breaks, gap), count)


def extent(count: int, cell: int, group: int, gap: int) -> int:
    """How many pixels ``pixels`` gives."""
    breaks = 0 if gap == 0 or group >= count else (count - 1) // group
    return count * cell + breaks * gap

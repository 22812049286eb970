"""A tensor of any shape laid out as rows and columns, and the way back to its own index.

A matrix is drawn as it is and a vector as one row. A tensor of more axes is tiled: the first axis runs down and the second across,
and the remaining axes fill the tile (a convolution's kernels stand in x out).

    shape (O, I)          rows O        columns I
    shape (O, I, k)       rows O        columns I*k
    shape (O, I, h, w)    rows O*h      columns I*w
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def plane_axes(ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which axes run down and which across, outermost first, for a tensor of ``ndim`` axes.

    >>> plane_axes(4)
    ((0, 2), (1, 3))
    """
    if ndim < 2:
        return (), tuple(range(ndim))
    if ndim == 2:
        return (0,), (1,)
    return (0, *range(2, ndim - 1)), (1, ndim - 1)


@dataclass(frozen=True)
class Plane:
    """The rows x columns in which a tensor of ``shape`` is drawn."""

    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        return math.prod(self.shape[a] for a in plane_axes(len(self.shape))[0])

    @property
    def cols(self) -> int:
        return math.prod(self.shape[a] for a in plane_axes(len(self.shape))[1])

    def index(self, row: int, col: int) -> tuple[int, ...]:
        """The tensor's own index of the cell (``row``, ``col``)."""
        index = [0] * len(self.shape)
        for axes, rest in zip(plane_axes(len(self.shape)), (row, col), strict=True):
            for axis in reversed(axes):
                rest, index[axis] = divmod(rest, self.shape[axis])
        return tuple(index)

    def cell(self, index: Sequence[int]) -> tuple[int, int]:
        """The cell (row, column) in which the value at ``index`` is drawn."""
        place = []
        for axes in plane_axes(len(self.shape)):
            at = 0
            for axis in axes:
                at = at * self.shape[axis] + int(index[axis])
            place.append(at)
        return place[0], place[1]

    def unfold(self, cells: NDArray[Any]) -> NDArray[Any]:
        """A picture (rows, columns) back in the tensor's own shape."""
        down, across = plane_axes(len(self.shape))
        axes = (*down, *across)
        return cells.reshape([self.shape[a] for a in axes]).transpose(np.argsort(axes)) if axes else cells.reshape(())

    def read(self, source: Any, frame: int, rows: slice, cols: slice) -> NDArray[Any]:
        """The cells ``rows`` x ``cols`` of one frame of ``source`` (anything sliced as ``[frames, axis 0, axis 1, ...]``)."""
        return self.read_many(source, slice(frame, frame + 1, 1), rows, cols)[0]

    def read_many(self, source: Any, frames: slice, rows: slice, cols: slice) -> NDArray[Any]:
        """The same of several frames, in one read: (frames, rows, columns). Only the slab that holds those cells is read."""
        ndim = len(self.shape)
        if ndim == 0:
            return np.asarray(source[frames]).reshape(-1, 1, 1)[:, rows, cols]
        if ndim == 1:
            return np.asarray(source[frames, cols])[:, None, :][:, rows]
        down, across = plane_axes(ndim)
        tile_h = math.prod(self.shape[a] for a in down[1:])
        tile_w = math.prod(self.shape[a] for a in across[1:])
        first = slice(rows.start // max(tile_h, 1), -(-rows.stop // max(tile_h, 1)))
        second = slice(cols.start // max(tile_w, 1), -(-cols.stop // max(tile_w, 1)))
        slab = np.asarray(source[frames, first, second])
        if ndim > 2:
            axes = [0, *(a + 1 for a in (*down, *across))]
            slab = slab.transpose(axes).reshape(slab.shape[0], slab.shape[1] * tile_h, slab.shape[2] * tile_w)
        top, left = first.start * tile_h, second.start * tile_w
        return slab[:, rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]

"""Where each weight of a tensor is drawn: rows and columns of cells, and the way back to the tensor's own index.

An arrangement is two lists of levels, one down and one across, outermost first, like the digits of two numbers: the row of a cell is written
in the digits of the levels down, its column in those across, and each digit adds ``digit * stride`` to the index on its axis. That is
enough for matrices, kernels tiled as filters x inputs, heads, stacks of matrices, and for axes that are wrapped like the lines of a text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Level:
    """``count`` entries of ``axis``, ``stride`` indices apart.

    ``gap``: 0, entries touch; 1, they are set apart; 2, set apart clearly. ``unit`` is what one entry is called ("filter", "head"), ``names``
    are names of single entries ("query", "key", "value").
    """

    axis: int
    count: int
    stride: int = 1
    gap: int = 0
    unit: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arrangement:
    """The picture of a tensor of ``shape``: ``rows`` x ``cols`` cells.

    >>> plain((2, 3)).index(1, 2)
    (1, 2)
    """

    shape: tuple[int, ...]
    down: tuple[Level, ...]
    across: tuple[Level, ...]

    @property
    def rows(self) -> int:
        """Cells from top to bottom, those without a weight at the end of a wrapped line counted."""
        return math.prod(level.count for level in self.down)

    @property
    def cols(self) -> int:
        """Cells from left to right, those without a weight at the end of a wrapped line counted."""
        return math.prod(level.count for level in self.across)

    @cached_property
    def wrapped(self) -> bool:
        """Whether the last line has cells without a weight."""
        return self.rows * self.cols != math.prod(self.shape)

    def index(self, row: int, col: int) -> tuple[int, ...] | None:
        """The tensor's own index of the cell (``row``, ``col``); None where a last line has no weight left."""
        index = [0] * len(self.shape)
        for levels, place in ((self.down, row), (self.across, col)):
            for level in reversed(levels):
                place, digit = divmod(place, level.count)
                index[level.axis] += digit * level.stride
        return tuple(index) if all(i < n for i, n in zip(index, self.shape, strict=True)) else None

    def cell(self, index: Sequence[int]) -> tuple[int, int]:
        """The cell (row, column) in which the value at ``index`` is drawn."""
        place = []
        for levels in (self.down, self.across):
            at = 0
            for level in levels:
                at = at * level.count + int(index[level.axis]) // level.stride % level.count
            place.append(at)
        return place[0], place[1]

    def blank(self) -> NDArray[np.bool_]:
        """Which cells hold no weight, (rows, cols)."""
        out = np.zeros((self.rows, self.cols), bool)
        for axis, size in enumerate(self.shape):
            if any(level.axis == axis for level in self.down) and any(level.axis == axis for level in self.across):
                out |= _along(self.down, axis)[:, None] + _along(self.across, axis) >= size
            elif any(level.axis == axis for level in self.down):
                out |= (_along(self.down, axis) >= size)[:, None]
            else:
                out |= _along(self.across, axis) >= size
        return out

    def moved(self, orders: Mapping[int, NDArray[np.int64]], *, down: bool) -> NDArray[np.int64]:
        """The order of rows (``down``) or columns in which each axis of ``orders`` shows its indices in the order given.

        An axis that runs both down and across (it is wrapped) stays as it is.
        """
        levels, other = (self.down, self.across) if down else (self.across, self.down)
        out = np.arange(self.rows if down else self.cols)
        for axis, order in orders.items():
            if any(level.axis == axis for level in other) or not any(level.axis == axis for level in levels):
                continue
            now = _along(levels, axis)
            span, at = (
                1,
                np.zeros(self.shape[axis], np.int64),
            )  # where the entry i of the axis begins, other digits zero
            for level in reversed(levels):
                if level.axis == axis:
                    at += np.arange(self.shape[axis]) // level.stride % level.count * span
                span *= level.count
            out += at[np.asarray(order)[now]] - at[now]
        return out

    def ends(self) -> list[tuple[int, int, int, int]]:
        """The cells without a weight as rectangles (row, column, rows, columns): the ends of last lines."""
        found = []
        for i, level in enumerate(self.across):
            line = next(
                (other for other in self.down if other.axis == level.axis and other.stride > level.stride), None
            )
            if line is None or not self.wrapped:
                continue
            at = self.down.index(line)
            full, rest = divmod(self.shape[level.axis], line.stride)  # whole lines, and entries on the one after them
            if full >= line.count:
                continue
            rest = -(-rest // level.stride)
            wide = math.prod(inner.count for inner in self.across[i + 1 :])
            high = math.prod(inner.count for inner in self.down[at + 1 :])
            blocks = math.prod(outer.count for outer in self.down[:at])
            found += [
                ((block * line.count + full) * high, rest * wide, high, (level.count - rest) * wide)
                for block in range(blocks)
            ]
        return found

    def arrange(self, values: NDArray[Any]) -> NDArray[Any]:
        """``values`` (..., *shape) as (..., rows, cols). Cells without a weight repeat the last one of their axis, so that they never stand out."""
        values = np.asarray(values)
        lead = values.ndim - len(self.shape)
        digits = [self._digits(axis) for axis in range(len(self.shape))]
        missing = [math.prod(level.count for level in levels) - n for levels, n in zip(digits, self.shape, strict=True)]
        if any(missing):
            values = np.pad(values, [(0, 0)] * lead + [(0, m) for m in missing], mode="edge")
        split = values.reshape((*values.shape[:lead], *(level.count for levels in digits for level in levels)))
        order = {id(level): lead + i for i, level in enumerate(level for levels in digits for level in levels)}
        moved = split.transpose(*range(lead), *(order[id(level)] for level in (*self.down, *self.across)))
        return moved.reshape((*values.shape[:lead], self.rows, self.cols))

    def unfold(self, cells: NDArray[Any]) -> NDArray[Any]:
        """A picture (rows, cols) back in the tensor's own shape."""
        digits = [level for axis in range(len(self.shape)) for level in self._digits(axis)]
        drawn = (*self.down, *self.across)
        order = {id(level): i for i, level in enumerate(drawn)}
        split = cells.reshape([level.count for level in drawn]) if drawn else cells.reshape(())
        moved = split.transpose([order[id(level)] for level in digits])
        whole = moved.reshape(
            [math.prod(level.count for level in self._digits(axis)) for axis in range(len(self.shape))]
        )
        return whole[tuple(slice(0, n) for n in self.shape)]

    def read(self, source: Any, frame: int, rows: slice, cols: slice) -> NDArray[Any]:
        """The cells ``rows`` x ``cols`` of one frame of ``source`` (anything sliced as ``[frames, axis 0, axis 1, ...]``)."""
        return self.read_many(source, slice(frame, frame + 1, 1), rows, cols)[0]

    def read_many(self, source: Any, frames: slice, rows: slice, cols: slice) -> NDArray[Any]:
        """The same of several frames, in one read: (frames, rows, columns). Only the slab that holds those cells is read."""
        wanted = [slice(0, n) for n in self.shape]
        down, top = self._part(self.down, rows, wanted)
        across, left = self._part(self.across, cols, wanted)
        slab = np.asarray(source[(frames, *wanted)])
        inside = Arrangement(slab.shape[slab.ndim - len(self.shape) :], down, across)
        return inside.arrange(slab)[..., rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]

    def _part(self, levels: tuple[Level, ...], cells: slice, wanted: list[slice]) -> tuple[tuple[Level, ...], int]:
        """The levels of the entries that hold ``cells``, and the first cell of these; narrows ``wanted`` on their axis."""
        if not levels or cells.stop <= cells.start:
            return levels, 0
        first = levels[0]
        if first is not self._digits(first.axis)[0]:  # inner digits of an axis are spread over all of it
            return levels, 0
        span = math.prod(level.count for level in levels[1:])
        a, b = cells.start // span, -(-cells.stop // span)
        wanted[first.axis] = slice(a * first.stride, min(b * first.stride, self.shape[first.axis]))
        return (replace(first, count=b - a), *levels[1:]), a * span

    def _digits(self, axis: int) -> list[Level]:
        """The levels of an axis, the one with the largest stride first."""
        return sorted(
            (level for level in (*self.down, *self.across) if level.axis == axis), key=lambda level: -level.stride
        )

    def to_json(self) -> dict[str, Any]:
        """What the page is told; its mirror is viewer/src/picture/layout.ts."""
        return {
            "shape": list(self.shape),
            "down": [_told(level) for level in self.down],
            "across": [_told(level) for level in self.across],
        }


def _told(level: Level) -> list[Any]:
    told: list[Any] = [level.axis, level.count, level.stride, level.gap, level.unit, list(level.names)]
    while len(told) > 2 and told[-1] == [1, 1, 1, 0, "", []][len(told) - 1]:
        told.pop()
    return told


def _along(levels: Iterable[Level], axis: int) -> NDArray[np.int64]:
    """What each row (or column) adds to the index on ``axis``."""
    out = np.zeros(1, np.int64)
    for level in levels:
        step = level.stride if level.axis == axis else 0
        out = (out[:, None] + np.arange(level.count) * step).ravel()
    return out


def plain(shape: tuple[int, ...]) -> Arrangement:
    """A tensor by its axes alone: a vector as one row, a matrix as it is, more axes tiled first x second.

    >>> plain((8, 3, 5, 5)).rows, plain((8, 3, 5, 5)).cols
    (40, 15)
    """
    down, across = plain_axes(len(shape))
    return Arrangement(shape, tuple(Level(a, shape[a]) for a in down), tuple(Level(a, shape[a]) for a in across))


def plain_axes(ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which axes run down and which across, outermost first, where nothing is known of a tensor but its axes.

    >>> plain_axes(4)
    ((0, 2), (1, 3))
    """
    if ndim < 2:
        return (), tuple(range(ndim))
    if ndim == 2:
        return (0,), (1,)
    return (0, *range(2, ndim - 1)), (1, ndim - 1)

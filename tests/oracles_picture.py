"""The slow, obvious twin of `weightlapse.picture`: every weight placed by a loop over what its kind says, every pixel painted by itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Cells = dict[tuple[int, int], tuple[int, ...]]  # (row, column) -> the tensor's own index


def filters(shape: tuple[int, ...], *, filter_axis: int, input_axis: int, per_line: int) -> Cells:
    """Filters like the words of a text, ``per_line`` on a line; in each its inputs side by side, and in each of those the kernel."""
    rest = [axis for axis in range(len(shape)) if axis not in (filter_axis, input_axis)]
    kernel_rows, kernel_columns = rest[:-1], rest[-1]
    high = math.prod(shape[axis] for axis in kernel_rows)
    wide = shape[kernel_columns] * shape[input_axis]
    found: Cells = {}
    for index in np.ndindex(*shape):
        number = index[filter_axis]
        row = number // per_line * high
        inside = 0
        for axis in kernel_rows:
            inside = inside * shape[axis] + index[axis]
        column = number % per_line * wide + index[input_axis] * shape[kernel_columns] + index[kernel_columns]
        found[row + inside, column] = index
    return found


def matrices(shape: tuple[int, ...], per_line: int) -> Cells:
    """A stack of matrices (experts, ...), ``per_line`` side by side."""
    found: Cells = {}
    for n, i, j in np.ndindex(*shape):
        found[n // per_line * shape[1] + i, n % per_line * shape[2] + j] = (n, i, j)
    return found


def as_stored(shape: tuple[int, ...]) -> Cells:
    """A matrix row by row, a vector as one row."""
    return {((0,) * (2 - len(shape)) + index): index for index in np.ndindex(*shape)}  # type: ignore[misc]


def cells_of(layout: Any) -> Cells:
    """What a layout says, cell by cell."""
    found: Cells = {}
    for row in range(layout.rows):
        for column in range(layout.cols):
            index = layout.index(row, column)
            if index is not None:
                found[row, column] = index
    return found


def code(value: float, limit: float) -> int:
    if math.isnan(value):
        return 0
    if math.isinf(value):
        return 255 if value > 0 else 1
    with np.errstate(over="ignore"):
        scaled = np.float32(np.float32(value) * np.float32(125 / limit))
    return int(np.float32(min(max(scaled, np.float32(-126)), np.float32(126)) + np.float32(128.5)))


def starts(levels: Any, place: int) -> int:
    """The largest class of gap that begins at cell ``place``; 0 where none does, and before the first entry."""
    found, every = 0, 1
    for level in reversed(levels):
        if place and place % every == 0:
            found = max(found, level.gap)
        every *= level.count
    return found


def gap(kind: int, cell: int) -> int:
    if kind == 2:
        return 4 if cell >= 12 else 2 if cell >= 4 else 0
    return 2 if kind == 1 and cell >= 6 else 0


def signed(number: int, x: int, y: int, wide: int, high: int) -> bool:
    """Whether the pixel (x, y) of a cell carries the sign of an odd value."""
    u, v, side = 2 * x + 1 - wide, 2 * y + 1 - high, min(wide, high)
    if number in (2, 254):
        return 25 * (u * u + v * v) <= max(4 * side * side, 64)
    if 100 * max(abs(u), abs(v)) > 68 * side:
        return False
    if number == 0:
        return 100 * abs(abs(u) - abs(v)) <= max(16 * side, 120)
    return 200 * abs(u) <= 68 * side + (100 * v if number == 255 else -100 * v)


def paint(
    values: NDArray[Any],
    layout: Any,
    limit: float,
    cell: tuple[int, int],
    table: NDArray[np.uint8],
    ground: tuple[int, int, int],
    between: tuple[int, int, int],
) -> NDArray[np.uint8]:
    """The picture of a tensor, (rows * high, columns * wide, 3), pixel by pixel."""
    wide, high = cell
    out = np.zeros((layout.rows * high, layout.cols * wide, 3), np.uint8)
    for y in range(len(out)):
        for x in range(out.shape[1]):
            row, column = y // high, x // wide
            index = layout.index(row, column)
            free = y % high < gap(starts(layout.down, row), high) or x % wide < gap(starts(layout.across, column), wide)
            if index is None or free:
                out[y, x] = ground if index is None else between
                continue
            number = code(float(values[index]), limit)
            colour = table[number]
            odd = (number < 3 or number > 253) and min(cell) >= 6
            if odd and signed(number, x % wide, y % high, wide, high):
                bright = 3 * int(colour[0]) + 6 * int(colour[1]) + int(colour[2]) > 1275
                colour = np.array([0, 0, 0] if bright else [255, 255, 255])
            out[y, x] = colour
    return out

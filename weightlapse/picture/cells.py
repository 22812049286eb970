"""Cells as pixels: how large the gaps are, and the signs in cells whose value is no ordinary number.

A gap is taken from the first pixels of the entry behind it, so that cell (row, col) always covers the pixels from ``row * height`` and
``col * width``: wherever a picture is drawn, a place in it names a weight by one division.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from weightlapse.picture.arrangement import Level
from weightlapse.picture.codes import MINUS_INF, NAN, OVER, PLUS_INF, UNDER

SIGNED = 6  # pixels from which a cell has room for a sign
GAP = -1  # in the maps of `pixels`


def gap_pixels(gap: int, cell: float) -> int:
    """Pixels between entries of a level of class ``gap`` where a cell has ``cell`` pixels; even, and never more than half a cell.

    >>> [gap_pixels(2, cell) for cell in (2, 4, 12)], [gap_pixels(1, cell) for cell in (4, 6)]
    ([0, 2, 4], [0, 2])
    """
    if gap >= 2:
        return 4 if cell >= 12 else 2 if cell >= 4 else 0
    return 2 if gap == 1 and cell >= 6 else 0


def gaps(levels: Sequence[Level], cell: float) -> list[tuple[int, int]]:
    """(every so many cells, pixels of gap at their beginning), outermost first, where there are any."""
    found = []
    for i, level in enumerate(levels):
        every = math.prod(inner.count for inner in levels[i + 1 :])
        pixels = gap_pixels(level.gap, cell)
        if pixels and level.count > 1:
            found.append((every, pixels))
    return found


def pixels(levels: Sequence[Level], cell: int) -> NDArray[np.intp]:
    """Which cell each pixel shows along one side, ``GAP`` in the gaps.

    >>> pixels((Level(0, 2, 2, gap=2), Level(0, 2)), 4).tolist()
    [0, 0, 0, 0, 1, 1, 1, 1, -1, -1, 2, 2, 3, 3, 3, 3]
    """
    count = math.prod(level.count for level in levels)
    out = np.repeat(np.arange(count), cell)
    inside = np.arange(count * cell)
    for every, wide in gaps(levels, cell):
        out[(inside % (every * cell) < wide) & (inside >= every * cell)] = GAP
    return out


@lru_cache(maxsize=256)
def sign(code: int, width: int, height: int) -> NDArray[np.bool_]:
    """Which pixels of a cell carry the sign of ``code``, (height, width): a cross for NaN, a triangle up or down for ±Inf, a dot beyond the scale.

    In whole numbers, so that a shader and a program paint the same pixels.
    """
    y, x = np.mgrid[0:height, 0:width]
    u, v, side = 2 * x + 1 - width, 2 * y + 1 - height, min(width, height)  # twice the way from the middle
    inside = 100 * np.maximum(np.abs(u), np.abs(v)) <= 68 * side
    if code == NAN:
        return np.asarray(inside & (100 * np.abs(np.abs(u) - np.abs(v)) <= max(16 * side, 120)))
    if code == PLUS_INF:
        return np.asarray(inside & (200 * np.abs(u) <= 100 * v + 68 * side))
    if code == MINUS_INF:
        return np.asarray(inside & (200 * np.abs(u) <= 68 * side - 100 * v))
    if code in (OVER, UNDER):
        return np.asarray(25 * (u * u + v * v) <= max(4 * side * side, 64))
    return np.zeros((height, width), bool)

"""A tensor as pixels: what film, page and notebook show, for whoever wants it without any of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.picture.arrangement import Arrangement
from weightlapse.picture.cells import GAP, SIGNED, pixels, sign
from weightlapse.picture.codes import OVER, UNDER, codes
from weightlapse.picture.palette import light, rgb, table, theme


def raster(
    values: NDArray[Any],
    arrangement: Arrangement,
    limit: float,
    cell: tuple[int, int],
    *,
    theme_name: str = "light",
    cmap: str | None = None,
) -> NDArray[np.uint8]:
    """The picture of ``values``, uint8 (rows * cell height, cols * cell width, 3); ``cell`` = (width, height) in pixels.

    >>> from weightlapse.picture.arrangement import plain
    >>> raster(np.zeros((2, 3)), plain((2, 3)), 1.0, (4, 4)).shape
    (8, 12, 3)
    """
    wide, high = cell
    colours, chosen = table(theme_name, cmap), theme(theme_name)
    ground, gap = rgb(f"{chosen.ground} {chosen.gap}").astype(np.uint8)
    drawn = codes(arrangement.arrange(values), limit)
    rows, cols = pixels(arrangement.down, high), pixels(arrangement.across, wide)
    out = colours[np.repeat(np.repeat(drawn, high, axis=0), wide, axis=1)]
    blank = arrangement.blank() if arrangement.wrapped else np.zeros(drawn.shape, bool)
    if min(cell) >= SIGNED:
        odd = ((drawn <= UNDER) | (drawn >= OVER)) & ~blank
        for row, col in np.argwhere(odd):
            code = int(drawn[row, col])
            part = out[row * high : (row + 1) * high, col * wide : (col + 1) * wide]
            part[sign(code, wide, high)] = 0 if light(colours[code]) else 255
    out[rows == GAP] = gap
    out[:, cols == GAP] = gap
    out[np.repeat(np.repeat(blank, high, axis=0), wide, axis=1)] = ground
    return out

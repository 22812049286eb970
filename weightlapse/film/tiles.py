"""A tile: one tensor at one place of the picture, and how its weights become the pixels there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from weightlapse.film.colours import GAP, GROUND, Codes, encode
from weightlapse.film.frames import Values
from weightlapse.picture.arrangement import Arrangement
from weightlapse.picture.cells import pixels
from weightlapse.picture.reduce import SPIKE, typical


@dataclass(frozen=True)
class Tile:
    """The tensor ``name`` at pixel (x, y), each cell ``cell`` = (width, height) pixels.

    ``thinned`` = (rows, columns) of weights behind one cell. ``part``: where a strip or a grown tensor is laid out otherwise than by its kind
    alone, how (see `shaped`).
    """

    name: str
    arrangement: Arrangement
    cell: tuple[int, int]
    x: int = 0
    y: int = 0
    thinned: tuple[int, int] = (1, 1)

    @property
    def rows(self) -> int:
        """Cells from top to bottom."""
        return -(-self.arrangement.rows // self.thinned[0])

    @property
    def columns(self) -> int:
        """Cells from left to right."""
        return -(-self.arrangement.cols // self.thinned[1])

    @property
    def width(self) -> int:
        """Pixels."""
        return self.columns * self.cell[0]

    @property
    def height(self) -> int:
        """Pixels."""
        return self.rows * self.cell[1]

    @property
    def upright(self) -> bool:
        """A vector drawn as a column, beside the matrix whose rows it belongs to."""
        return len(self.arrangement.shape) == 1 and not self.arrangement.across

    @cached_property
    def row_map(self) -> NDArray[np.intp]:
        """Which row of cells each pixel shows; ``rows`` in the gaps."""
        return _map(pixels(self.arrangement.down, self.cell[1]), self.rows, self.cell[1], self.thinned)

    @cached_property
    def column_map(self) -> NDArray[np.intp]:
        """Which column of cells each pixel shows, intp (width,); ``columns`` in the gaps."""
        return _map(pixels(self.arrangement.across, self.cell[0]), self.columns, self.cell[0], self.thinned)

    @cached_property
    def blank(self) -> NDArray[np.bool_] | None:
        """Cells without a weight, at the end of a last line."""
        return self.arrangement.blank()[:: self.thinned[0], :: self.thinned[1]] if self.arrangement.wrapped else None

    def at(self, x: int, y: int) -> Tile:
        """The same tile with its top left at pixel (x, y)."""
        return replace(self, x=x, y=y)

    def codes(self, values: Values, limit: float) -> Codes:
        """Codes of every cell on ±``limit``, with one row and column at the end for the gaps."""
        drawn = typical(self.arrangement.arrange(values), *self.thinned, SPIKE * limit)
        codes = np.full((self.rows + 1, self.columns + 1), GAP, dtype=np.uint16)
        codes[:-1, :-1] = encode(drawn, limit)
        if self.blank is not None:
            codes[:-1, :-1][self.blank] = GROUND
        return codes


def _map(exact: NDArray[np.intp], count: int, cell: int, thinned: tuple[int, int]) -> NDArray[np.intp]:
    whole = exact if thinned == (1, 1) else np.repeat(np.arange(count), cell)
    return np.where(whole < 0, count, whole)

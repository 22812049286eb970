"""A tile: one tensor at one place of the picture, and how its weights become the pixels there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from weightlapse.film.colours import GROUND, Codes, encode
from weightlapse.film.grids import Grid, Values, extent, fold, grid, per_part, pixels, thin
from weightlapse.film.scales import Scale


@dataclass(frozen=True)
class Tile:
    """The tensor ``name`` at pixel (x, y), each cell ``cell`` = (width, height) pixels.

    ``thinned`` = (rows, columns) of weights behind one cell; ``parts`` > 1: the grid is cut and its pieces set side by side
    (``across``) or below each other; ``upright``: a vector drawn as a column, beside the matrix whose rows it belongs to;
    ``group`` = cells per unit (rows, columns) with ``gap`` pixels between units.
    """

    name: str
    grid: Grid
    cell: tuple[int, int]
    x: int = 0
    y: int = 0
    thinned: tuple[int, int] = (1, 1)
    parts: int = 1
    across: bool = True
    upright: bool = False
    group: tuple[int, int] = (1, 1)
    gap: tuple[int, int] = (0, 0)  # between units down, between units across

    @property
    def rows(self) -> int:
        """Cells from top to bottom."""
        whole = -(-(self.grid.columns if self.upright else self.grid.rows) // self.thinned[0])
        return per_part(whole, self.parts, self.group[0]) if self.across else whole * self.parts

    @property
    def columns(self) -> int:
        """Cells from left to right."""
        whole = -(-(self.grid.rows if self.upright else self.grid.columns) // self.thinned[1])
        return whole * self.parts if self.across else per_part(whole, self.parts, 1)

    @property
    def width(self) -> int:
        return extent(self.columns, self.cell[0], self.group[1], self.gap[1])

    @property
    def height(self) -> int:
        return extent(self.rows, self.cell[1], self.group[0], self.gap[0])

    @cached_property
    def row_map(self) -> NDArray[np.intp]:
        return pixels(self.rows, self.cell[1], self.group[0], self.gap[0])

    @cached_property
    def column_map(self) -> NDArray[np.intp]:
        return pixels(self.columns, self.cell[0], self.group[1], self.gap[1])

    @cached_property
    def starts(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """First pixel of every row and of every column of cells."""
        return np.unique(self.row_map, return_index=True)[1], np.unique(self.column_map, return_index=True)[1]

    def at(self, x: int, y: int) -> Tile:
        return replace(self, x=x, y=y)

    def shaped(self, shape: tuple[int, ...]) -> Tile:
        """The same place and cells for a tensor of another shape (before it grew)."""
        if shape == self.grid.shape:
            return self
        return replace(self, grid=grid(shape, channels_last=self.grid.channels_last))

    def codes(self, values: Values, scale: Scale) -> Codes:
        """Codes of every cell on ``scale``, with one row and column of ground at the end for the gaps."""
        flat = self.grid.arrange(values)
        drawn = thin(flat.T if self.upright else flat, *self.thinned, scale.spike)
        folded = fold(
            encode(drawn, scale.limit), self.parts, across=self.across, unit=self.group[0] if self.across else 1
        )
        codes = np.full((folded.shape[0] + 1, folded.shape[1] + 1), GROUND, dtype=np.uint16)
        codes[:-1, :-1] = folded
        return codes

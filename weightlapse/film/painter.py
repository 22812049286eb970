"""Drawing verbs for panels: text, rectangles, curves, filled outlines, tiles, on a ``Surface``.

Colours are given as a tone: "ink", "muted", "faint", "line", "ground", or a series number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

import weightlapse.film.text as glyphs
from weightlapse.film.colours import (
    GAP,
    GREY,
    GREYS,
    GROUND,
    HIGH,
    LOW,
    MARKS,
    OVER,
    SERIES_LEVELS,
    SIGN_DARK,
    UNDER,
    ZERO,
    Codes,
    series,
)
from weightlapse.film.frames import Values
from weightlapse.film.surface import Surface
from weightlapse.film.tiles import Tile
from weightlapse.picture.cells import SIGNED, sign
from weightlapse.picture.numbers import short

Tone = str | int
_STRENGTH = {"ink": 1.0, "muted": 0.62, "faint": 0.36, "line": 0.16, "ground": 0.0}
_SIGNS_AT_MOST = 4000  # signed cells drawn per tile and frame; the mark's colour alone shows the rest


def ramp(tone: Tone) -> Codes:
    """Codes of a tone for coverage 0 ... 255, uint16 (256,)."""
    return _ramp(tone)


@lru_cache(maxsize=32)
def _ramp(tone: Tone) -> Codes:
    coverage = np.arange(256) / 255.0
    if isinstance(tone, int):
        level = np.rint(coverage * SERIES_LEVELS).astype(np.uint16)
        return np.where(level == 0, GROUND, series(tone) + level - 1).astype(np.uint16)
    return (GREY + np.rint(coverage * _STRENGTH[tone] * (GREYS - 1))).astype(np.uint16)


@dataclass
class Painter:
    """Draws on ``surface``; pure pixels, no memory of what was drawn. ``sign_of``: the code of the sign in a cell of each odd value."""

    surface: Surface
    sign_of: Mapping[int, int] = field(default_factory=lambda: dict.fromkeys(MARKS, SIGN_DARK))
    keeps_curves: ClassVar[bool] = False

    def text(
        self,
        x: int,
        baseline: int,
        string: str,
        px: int,
        *,
        tone: Tone = "ink",
        bold: bool = False,
        anchor: str = "left",
    ) -> int:
        """Write on bare ground; returns the width. ``anchor``: which end of the text is at ``x`` ("left", "right", "middle")."""
        if not string:
            return 0
        wide = glyphs.width(string, px, bold)
        x -= {"left": 0, "right": wide, "middle": wide // 2}[anchor]
        self.surface.paint(x, baseline - glyphs.line(px)[0], ramp(tone)[glyphs.mask(string, px, bold)])
        return wide

    def fill(self, x: int, y: int, width: int, height: int, tone: Tone) -> None:
        """A rectangle in the full colour of a tone, pixels from the top left; what lies outside of the picture is cut off."""
        self.surface.fill(x, y, width, height, int(ramp(tone)[255]))

    def outline(self, x: int, y: int, width: int, height: int, tone: Tone = "faint", line: int = 1) -> None:
        """A frame just outside the rectangle."""
        for box in (
            (x - line, y - line, width + 2 * line, line),
            (x - line, y + height, width + 2 * line, line),
            (x - line, y, line, height),
            (x + width, y, line, height),
        ):
            self.fill(*box, tone)

    def curves(self, x: int, y: int, lines: Sequence[tuple[NDArray[np.float64], Tone]], thickness: float) -> None:
        """Draw curves given in pixels from (x, y); only where ``keeps_curves``, otherwise they are painted as codes."""
        raise NotImplementedError

    def paint(self, x: int, y: int, codes: Codes) -> None:
        """Codes uint16 (height, width) as they are, their top left at (x, y); what lies outside of the picture is cut off."""
        self.surface.paint(x, y, codes)

    def tile(self, tile: Tile, codes: Codes) -> None:
        """The cells of ``tile``, odd values with their signs.

        ``codes`` has one row and column for the gaps at its end, as ``Tile.codes`` gives them.
        """
        self.surface.cells(tile.x, tile.y, codes, tile.row_map, tile.column_map)
        wide, high = tile.cell
        if tile.thinned == (1, 1):
            for row, column, rows, columns in tile.arrangement.ends():
                self.fill(tile.x + column * wide, tile.y + row * high, columns * wide, rows * high, "ground")
        if min(wide, high) < SIGNED:
            return
        inside = codes[:-1, :-1]
        odd = (inside <= UNDER) | ((inside >= OVER) & (inside < 256))
        if not odd.any():
            return
        for row, column in np.argwhere(odd)[:_SIGNS_AT_MOST]:
            top, left = row * high, column * wide
            part = self._cell(int(codes[row, column]), wide, high).copy()
            part[tile.row_map[top : top + high] != row] = GAP  # the gap before a filter stays free
            part[:, tile.column_map[left : left + wide] != column] = GAP
            self.surface.paint(tile.x + left, tile.y + top, part)

    def ring(self, tile: Tile, row: int, column: int, side: int) -> None:
        """A ring around a cell, inside the tile: what must be found although it is small."""
        wide, high = tile.cell
        middle = column * wide + wide // 2, row * high + high // 2
        left, top = (
            max(min(m - side // 2, most - side), 0) // 2 * 2 for m, most in zip(middle, (tile.width, tile.height))
        )
        broad, tall = min(side, tile.width), min(side, tile.height)
        for line, tone in ((4, "ground"), (2, "ink")):
            for x, y, w, h in (
                (0, 0, broad, line),
                (0, tall - line, broad, line),
                (0, 0, line, tall),
                (broad - line, 0, line, tall),
            ):
                self.fill(tile.x + left + x, tile.y + top + y, w, h, tone)

    def signed(self, x: int, y: int, code: int, width: int, height: int) -> None:
        """A cell of an odd value, with its sign."""
        self.surface.paint(x, y, self._cell(code, width, height))

    def _cell(self, code: int, width: int, height: int) -> Codes:
        return np.where(sign(code, width, height), self.sign_of[code], code).astype(np.uint16)

    def numbers(self, tile: Tile, codes: Codes, values: Values, px: int) -> None:
        """Write each value into its cell, where cells are large enough. The letters take their colour from the map itself."""
        wide, high = tile.cell
        if wide < 3.4 * px or high < 1.6 * px or tile.arrangement.wrapped:
            return
        flat = tile.arrangement.arrange(values)
        for (row, column), value in np.ndenumerate(flat):
            code = int(codes[row, column])
            if code <= UNDER or code >= OVER:
                continue
            mask = glyphs.mask(short(float(value), 2), px, False)
            if mask.shape[1] > wide - 4:
                continue
            target = ZERO if abs(code - ZERO) >= 59 else HIGH if code >= ZERO else LOW
            written = np.rint(code + (target - code) * (mask / 255.0)).astype(np.uint16)
            x = tile.x + int(column) * wide + (wide - mask.shape[1]) // 2
            y = tile.y + int(row) * high + (high - px) // 2 - round(px * 0.12)
            self.surface.paint(x // 2 * 2, y // 2 * 2, written)


def stroke(width: int, height: int, lines: Sequence[tuple[NDArray[np.float64], Tone]], thickness: float) -> Codes:
    """Codes (height, width) of antialiased curves on ground. Points are (n, 2) pixels; NaN breaks a line."""
    from PIL import Image, ImageDraw

    sampling = 4
    out = np.full((height, width), GROUND, dtype=np.uint16)
    for points, tone in lines:
        image = Image.new("L", (width * sampling, height * sampling))
        draw = ImageDraw.Draw(image)
        whole = np.asarray(np.isfinite(points).all(axis=1))
        for piece in np.split(np.arange(len(points)), np.flatnonzero(~whole)):
            piece = piece[whole[piece]]
            scaled = [(float(px) * sampling, float(py) * sampling) for px, py in points[piece]]
            if len(scaled) == 1:
                (cx, cy), r = scaled[0], thickness * sampling
                draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=255)
            elif scaled:
                draw.line(
                    scaled,
                    fill=255,
                    width=max(round(thickness * sampling), 1),
                    joint="curve" if len(scaled) < 4000 else None,
                )
        coverage = np.asarray(image.resize((width, height), Image.Resampling.BOX))
        drawn = coverage >= 16
        out[drawn] = ramp(tone)[coverage[drawn]]
    return out


@lru_cache(maxsize=64)
def dot(radius: int, tone: Tone) -> tuple[Codes, NDArray[np.bool_]]:
    """A filled disc: its codes (2r+1, 2r+1), and where it covers what is below."""
    axis = np.arange(-radius, radius + 1)
    coverage = np.clip(radius + 0.5 - np.hypot(axis[:, None], axis[None, :]), 0, 1)
    return ramp(tone)[np.rint(coverage * 255).astype(int)], coverage > 0.15

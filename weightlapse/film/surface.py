"""The picture as planes of bytes, painted in codes: RGB, palette entries, or YUV with or without halved chroma.

Colours are looked up before cells are enlarged, so that a frame costs about what copying its pixels costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from weightlapse.film.colours import GROUND, Codes

Box = tuple[int, int, int, int]  # x, y, width, height in pixels


@dataclass
class Surface:
    """``height`` × ``width`` pixels in one plane per column of ``table``; planes named in ``halved`` have half the size.

    ``table`` is uint8 (CODES, planes). With halved planes, width and height must be even.
    """

    width: int
    height: int
    table: NDArray[np.uint8]
    halved: Sequence[int] = ()
    planes: list[NDArray[np.uint8]] = field(init=False)
    touched: Box | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._luts = [np.ascontiguousarray(self.table[:, i]) for i in range(self.table.shape[1])]
        self.planes = []
        for index, lut in enumerate(self._luts):
            step = 2 if index in self.halved else 1
            self.planes.append(np.full((self.height // step, self.width // step), lut[GROUND], dtype=np.uint8))

    def paint(self, x: int, y: int, codes: Codes) -> None:
        """Put a rectangle of codes (h, w) at (x, y); what lies outside the picture is cut off."""
        x, y, codes = self._cut(x, y, codes)
        if not codes.size:
            return
        height, width = codes.shape
        self._touch(x, y, width, height)
        even: Codes | None = None
        for index, (plane, lut) in enumerate(zip(self.planes, self._luts)):
            if index not in self.halved:
                plane[y : y + height, x : x + width] = lut[codes]
                continue
            if even is None:
                even = _evened(codes, x, y)
            # the mean of two opposite corners of each 2 × 2: half the work of all four, and no visible difference
            mean = (lut[even[::2, ::2]].astype(np.uint16) + lut[even[1::2, 1::2]] + 1) >> 1
            plane[y // 2 : y // 2 + mean.shape[0], x // 2 : x // 2 + mean.shape[1]] = mean

    def cells(self, x: int, y: int, codes: Codes, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> None:
        """Enlarge ``codes``: pixel (i, j) at (x, y) shows ``codes[rows[i], columns[j]]``.

        With halved planes x, y, and every run of equal rows or columns must be even, so that no chroma sample
        falls on two cells.
        """
        self._touch(x, y, len(columns), len(rows))
        for index, (plane, lut) in enumerate(zip(self.planes, self._luts)):
            step = 2 if index in self.halved else 1
            colours = lut[codes]
            wide = colours.take(columns[::step], axis=1)
            top, left = y // step, x // step
            np.take(
                wide,
                rows[::step],
                axis=0,
                out=plane[top : top + len(rows[::step]), left : left + wide.shape[1]],
                mode="clip",
            )

    def fill(self, x: int, y: int, width: int, height: int, code: int) -> None:
        """One colour in a rectangle; what lies outside the picture is cut off."""
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, self.width), min(y + height, self.height)
        if right <= left or bottom <= top:
            return
        self._touch(left, top, right - left, bottom - top)
        for index, (plane, lut) in enumerate(zip(self.planes, self._luts)):
            if index in self.halved:
                plane[top // 2 : (bottom + 1) // 2, left // 2 : (right + 1) // 2] = lut[code]
            else:
                plane[top:bottom, left:right] = lut[code]

    def take_touched(self) -> Box | None:
        """The smallest box around everything painted since the last call; None when nothing was."""
        box, self.touched = self.touched, None
        return box

    def _cut(self, x: int, y: int, codes: Codes) -> tuple[int, int, Codes]:
        left, top = max(-x, 0), max(-y, 0)
        kept = codes[top : max(self.height - y, 0), left : max(self.width - x, 0)]
        return x + left, y + top, kept

    def _touch(self, x: int, y: int, width: int, height: int) -> None:
        if self.touched is None:
            self.touched = (x, y, width, height)
        else:
            left, top, w, h = self.touched
            right, bottom = max(left + w, x + width), max(top + h, y + height)
            left, top = min(left, x), min(top, y)
            self.touched = (left, top, right - left, bottom - top)


def _evened(codes: Codes, x: int, y: int) -> Codes:
    """``codes`` at (x, y) widened by its own edges to even borders, so that it covers whole chroma samples."""
    height, width = codes.shape
    top, left, bottom, right = y % 2, x % 2, (y + height) % 2, (x + width) % 2
    if not (top or left or bottom or right):
        return codes
    even = np.empty((top + height + bottom, left + width + right), dtype=np.uint16)
    even[top : top + height, left : left + width] = codes
    even[:top], even[top + height :] = even[top], even[top + height - 1]
    even[:, :left], even[:, left + width :] = even[:, left : left + 1], even[:, left + width - 1 : left + width]
    return even

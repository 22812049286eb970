"""Colours as small integer codes: a value becomes a code, and a theme turns codes into RGB, YUV or palette entries.

Everything a film paints is a code, so that one picture serves every format: video planes and PNG through a look-up
table, GIF and APNG as palette indices without any quantising.

    0 ... 255      values, as `weightlapse.picture.codes` has them for every picture of the package: 128 is zero
    256, 257       black and white for the signs drawn inside marked cells
    258            the gaps between filters, heads and gates
    264 ... 295    greys, from the ground to the ink
    296 ... 359    eight series colours, in eight steps from the ground
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import weightlapse.picture.palette as palettes
from weightlapse.picture.codes import HIGH, LOW, MINUS_INF, NAN, OVER, PLUS_INF, UNDER, ZERO, codes
from weightlapse.picture.palette import colour_map, light, rgb

Codes = NDArray[np.uint16]

MARKS = (NAN, MINUS_INF, UNDER, OVER, PLUS_INF)
SIGN_DARK, SIGN_LIGHT, GAP = 256, 257, 258
GREY, GREYS = 264, 32
GROUND, INK = GREY, GREY + GREYS - 1
SERIES, SERIES_COUNT, SERIES_LEVELS = 296, 8, 8
CODES = SERIES + SERIES_COUNT * SERIES_LEVELS
__all__ = [
    "HIGH",
    "LOW",
    "MINUS_INF",
    "NAN",
    "OVER",
    "PLUS_INF",
    "UNDER",
    "ZERO",
    "encode",
    "palette",
    "series",
    "signs",
    "table",
    "to_yuv",
]


def encode(values: NDArray[np.generic], limit: float) -> Codes:
    """Codes of ``values`` on the symmetric scale ±``limit``, same shape; NaN, Inf and what lies beyond the scale get marks.

    >>> encode(np.array([-1.0, 0.0, 1.0, 1.5, np.nan]), 1.0).tolist()
    [3, 128, 253, 254, 0]
    """
    return codes(values, limit).astype(np.uint16)


def series(index: int) -> int:
    """The first code of series colour ``index``; add 0 (faint) to 7 (full)."""
    return SERIES + (index % SERIES_COUNT) * SERIES_LEVELS


def table(theme: str, cmap: str | None = None) -> NDArray[np.uint8]:
    """RGB of every code, uint8 (CODES, 3); ``cmap`` None: the map of the theme. Raises InvalidArgument for unknown names."""
    chosen = palettes.theme(theme)
    out = np.zeros((CODES, 3), dtype=np.uint8)
    out[:256] = palettes.table(theme, cmap)
    out[SIGN_LIGHT] = 255
    out[GAP] = rgb(chosen.gap)[0]
    ground, ink = rgb(chosen.ground)[0], rgb(chosen.ink)[0]
    ramp = np.linspace(0, 1, GREYS)[:, None]
    out[GREY : GREY + GREYS] = np.rint(ground + ramp * (ink - ground))
    steps = (np.arange(1, SERIES_LEVELS + 1) / SERIES_LEVELS)[:, None]
    for index, colour in enumerate(rgb(chosen.series)):
        out[series(index) : series(index) + SERIES_LEVELS] = np.rint(ground + steps * (colour - ground))
    return out


def signs(table: NDArray[np.uint8]) -> dict[int, int]:
    """For the code of each odd value the code of its sign: black or white, whichever is read better on its colour in ``table`` (RGB)."""
    return {mark: SIGN_DARK if light(table[mark]) else SIGN_LIGHT for mark in MARKS}


def palette(table: NDArray[np.uint8], series_used: int, cmap: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """At most 256 colours for GIF and APNG: the palette (n, 3) and the entry of every code (CODES,), both uint8.

    Signs and marks keep their colours, greys and series give up every second step, the map takes all entries that are left.
    """
    entry = np.zeros(CODES, dtype=np.uint8)
    kept_whole = [*MARKS, SIGN_DARK, SIGN_LIGHT, GAP]
    colours: list[NDArray[np.uint8]] = [table[kept_whole]]
    entry[kept_whole] = np.arange(8)
    greys = 16
    kept = np.rint(np.linspace(0, GREYS - 1, greys)).astype(int)
    colours.append(table[GREY + kept])
    entry[GREY : GREY + GREYS] = 8 + np.abs(np.arange(GREYS)[:, None] - kept).argmin(axis=1)
    taken = 8 + greys
    for index in range(SERIES_COUNT):
        if index < series_used:
            colours.append(table[series(index) + 1 : series(index) + SERIES_LEVELS : 2])
            entry[series(index) : series(index) + SERIES_LEVELS] = taken + np.arange(SERIES_LEVELS) // 2
            taken += SERIES_LEVELS // 2
    levels = (256 - taken - 1) // 2 * 2 + 1  # odd, so that zero keeps the middle colour
    span = HIGH - LOW
    entry[LOW : HIGH + 1] = taken + np.rint(np.arange(span + 1) * (levels - 1) / span).astype(int)
    colours.append(colour_map(cmap, levels))
    return np.concatenate(colours), entry


def to_yuv(table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """BT.601 limited-range YUV of RGB colours (n, 3), each the triple nearest to its colour after decoding.

    Rounding every channel alone can miss by 3 of 255; of the 27 neighbours the best one is taken (at most 2 off).
    """
    rgb = table.astype(np.float64)
    forward = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255.0
    exact = rgb @ forward.T + np.array([16.0, 128.0, 128.0])
    offsets = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(-1, 3)
    candidates = np.clip(np.rint(exact)[:, None] + offsets, [16, 16, 16], [235, 240, 240])
    back = np.clip(np.rint((candidates - [16.0, 128.0, 128.0]) @ np.linalg.inv(forward).T), 0, 255)
    miss = np.abs(back - rgb[:, None])
    cost = miss.max(axis=2) * 1000 + miss.sum(axis=2) + np.abs(candidates - exact[:, None]).sum(axis=2) / 100
    best = candidates[np.arange(len(rgb)), cost.argmin(axis=1)]
    return best.astype(np.uint8)

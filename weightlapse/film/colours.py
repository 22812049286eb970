"""Colours as small integer codes: a value becomes a code, and a theme turns codes into RGB, YUV or palette entries.

Everything a film paints is a code, so that one picture serves every format: video planes and PNG through a look-up
table, GIF and APNG as palette indices without any quantising.

    0 ... 255      the diverging map, from -scale to +scale (128 is zero)
    256 ... 260    marks: above scale, below scale, NaN, +Inf, -Inf
    261, 262       black and white for the signs drawn inside marked cells
    264 ... 295    greys, from the ground to the ink
    296 ... 359    eight series colours, in eight steps from the ground
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, closest

Codes = NDArray[np.uint16]

ZERO = 128
OVER, UNDER, NAN, PLUS_INF, MINUS_INF = 256, 257, 258, 259, 260
SIGN_DARK, SIGN_LIGHT = 261, 262
GREY, GREYS = 264, 32
GROUND, INK = GREY, GREY + GREYS - 1
SERIES, SERIES_COUNT, SERIES_LEVELS = 296, 8, 8
CODES = SERIES + SERIES_COUNT * SERIES_LEVELS

# ColorBrewer's diverging maps (Brewer 2003), all safe for colour-blind readers; anchors run from the low to the high end.
_ANCHORS = {
    "RdBu": "67001f b2182b d6604d f4a582 fddbc7 f7f7f7 d1e5f0 92c5de 4393c3 2166ac 053061",
    "PuOr": "7f3b08 b35806 e08214 fdb863 fee0b6 f7f7f7 d8daeb b2abd2 8073ac 542788 2d004b",
    "BrBG": "543005 8c510a bf812d dfc27d f6e8c3 f5f5f5 c7eae5 80cdc1 35978f 01665e 003c30",
    "PRGn": "40004b 762a83 9970ab c2a5cf e7d4e8 f7f7f7 d9f0d3 a6dba0 5aae61 1b7837 00441b",
    # dark in the middle, for dark rooms: cold to the left, warm to the right
    "night": "9ad4ff 4fa9f0 2277c4 174a80 122a45 101216 43240f 80401a c4671f f09c4f ffd79a",
}


def _rgb(text: str) -> NDArray[np.float64]:
    return np.array([[int(word[i : i + 2], 16) for i in (0, 2, 4)] for word in text.split()], dtype=np.float64)


def colour_maps() -> list[str]:
    """Names of the maps that need no other package, each also with ``_r`` for the reverse."""
    return sorted([*_ANCHORS, *(f"{name}_r" for name in _ANCHORS)])


@lru_cache(maxsize=32)
def colour_map(name: str, levels: int = 256) -> NDArray[np.uint8]:
    """The map ``name`` in ``levels`` steps, uint8 (levels, 3); names unknown here are asked of Matplotlib.

    >>> colour_map("RdBu_r")[[0, 255]].tolist()
    [[5, 48, 97], [103, 0, 31]]
    """
    base, reverse = (name[:-2], True) if name.endswith("_r") else (name, False)
    if base in _ANCHORS:
        anchors = _rgb(_ANCHORS[base])[:: -1 if reverse else 1]
    else:
        anchors = _from_matplotlib(name)
    position = np.linspace(0, len(anchors) - 1, levels)
    columns = [np.interp(position, np.arange(len(anchors)), anchors[:, i]) for i in range(3)]
    return np.rint(np.stack(columns, axis=1)).astype(np.uint8)


def _from_matplotlib(name: str) -> NDArray[np.float64]:
    try:
        import matplotlib
    except ImportError:
        known = colour_maps()
    else:
        if name in matplotlib.colormaps:
            sampled: NDArray[np.float64] = matplotlib.colormaps[name](np.linspace(0, 1, 1024))[:, :3] * 255.0
            return sampled
        known = [*colour_maps(), *matplotlib.colormaps]
    raise InvalidArgument(f"no colour map is called {name!r} ({closest(name, known)})")


def encode(values: NDArray[np.generic], scale: float) -> Codes:
    """Codes of ``values`` on the symmetric scale ±``scale``, same shape; NaN, Inf and what lies beyond the scale get marks.

    >>> encode(np.array([-1.0, 0.0, 1.0, 1.5, np.nan]), 1.0).tolist()
    [0, 128, 255, 256, 258]
    """
    array = np.asarray(values)
    if array.dtype.kind != "f" or array.dtype.itemsize < 4:
        array = array.astype(np.float32)
    limit = scale if scale > 0 and np.isfinite(scale) else 1.0
    if not array.size:
        return np.zeros(array.shape, dtype=np.uint16)
    edge = limit * 1.000001
    with np.errstate(invalid="ignore", over="ignore"):
        ratio = array / array.dtype.type(limit)
        if -edge <= array.min() and array.max() <= edge:  # false for NaN too: the common case needs no masks
            return np.minimum((ratio * 128 + 128).astype(np.uint16), 255)
        codes = np.clip(np.nan_to_num((ratio + 1.0) * 128.0, nan=0.0), 0, 255).astype(np.uint16)
        codes[ratio > 1.000001] = OVER
        codes[ratio < -1.000001] = UNDER
    codes[np.isnan(array)] = NAN
    codes[array == np.inf] = PLUS_INF
    codes[array == -np.inf] = MINUS_INF
    return codes


def series(index: int) -> int:
    """The first code of series colour ``index``; add 0 (faint) to 7 (full)."""
    return SERIES + (index % SERIES_COUNT) * SERIES_LEVELS


@dataclass(frozen=True)
class Theme:
    """What the codes other than the map look like. Colours are ``rrggbb``."""

    name: str
    ground: str
    ink: str
    # Okabe and Ito (2008) in an order that keeps neighbours apart; darkened or lightened for the ground
    series: str
    marks: str = "ff8c00 7b2fd0 ffe100 ff00c8 00c9a7"  # above, below, NaN, +Inf, -Inf

    def table(self, cmap: str) -> NDArray[np.uint8]:
        """RGB of every code, uint8 (CODES, 3)."""
        table = np.zeros((CODES, 3), dtype=np.uint8)
        table[:256] = colour_map(cmap)
        table[OVER : MINUS_INF + 1] = _rgb(self.marks)
        table[SIGN_LIGHT] = 255
        ground, ink = _rgb(self.ground)[0], _rgb(self.ink)[0]
        ramp = np.linspace(0, 1, GREYS)[:, None]
        table[GREY : GREY + GREYS] = np.rint(ground + ramp * (ink - ground))
        steps = (np.arange(1, SERIES_LEVELS + 1) / SERIES_LEVELS)[:, None]
        for index, colour in enumerate(_rgb(self.series)):
            table[series(index) : series(index) + SERIES_LEVELS] = np.rint(ground + steps * (colour - ground))
        return table


THEMES = {
    "light": Theme("light", "ffffff", "16191d", "0063a6 c8500a 00856a 8c3c86 b8860b 3f9bd0 6b6b6b a5243d"),
    "dark": Theme("dark", "0f1216", "eef1f4", "5ab4f0 f2945a 3cc8a0 d896d2 e8c24a 9ad4ff a8b0b8 ff7f8f"),
}


def theme(name: str) -> Theme:
    """The theme called ``name``."""
    if name not in THEMES:
        raise InvalidArgument(f"no theme is called {name!r}; there are {', '.join(map(repr, THEMES))}")
    return THEMES[name]


def palette(table: NDArray[np.uint8], series_used: int, cmap: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """At most 256 colours for GIF and APNG: the palette (n, 3) and the entry of every code (CODES,), both uint8.

    Signs and marks keep their colours, greys and series give up every second step, the map takes all entries that are left.
    """
    entry = np.zeros(CODES, dtype=np.uint8)
    colours: list[NDArray[np.uint8]] = [table[OVER : SIGN_LIGHT + 1]]
    entry[OVER : SIGN_LIGHT + 1] = np.arange(7)
    greys = 16
    kept = np.rint(np.linspace(0, GREYS - 1, greys)).astype(int)
    colours.append(table[GREY + kept])
    entry[GREY : GREY + GREYS] = 7 + np.abs(np.arange(GREYS)[:, None] - kept).argmin(axis=1)
    taken = 7 + greys
    for index in range(SERIES_COUNT):
        if index < series_used:
            colours.append(table[series(index) + 1 : series(index) + SERIES_LEVELS : 2])
            entry[series(index) : series(index) + SERIES_LEVELS] = taken + np.arange(SERIES_LEVELS) // 2
            taken += SERIES_LEVELS // 2
    levels = (256 - taken - 1) // 2 * 2 + 1  # odd, so that zero keeps the middle colour
    entry[:256] = taken + np.rint(np.arange(256) * (levels - 1) / 255).astype(int)
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

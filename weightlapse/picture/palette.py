"""Colours: diverging maps, and what a theme gives the ground, the ink and the values that are no ordinary number.

Every map is symmetric around zero, which has the colour nearest to that of the page: what is there is what differs from nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, closest
from weightlapse.picture.codes import HIGH, LOW, MINUS_INF, NAN, OVER, PLUS_INF, UNDER

Colours = NDArray[np.uint8]

# ColorBrewer's diverging maps (Brewer 2003), all safe for colour-blind readers; anchors run from the low to the high end.
ANCHORS = {
    "RdBu": "67001f b2182b d6604d f4a582 fddbc7 f7f7f7 d1e5f0 92c5de 4393c3 2166ac 053061",
    "PuOr": "7f3b08 b35806 e08214 fdb863 fee0b6 f7f7f7 d8daeb b2abd2 8073ac 542788 2d004b",
    "BrBG": "543005 8c510a bf812d dfc27d f6e8c3 f5f5f5 c7eae5 80cdc1 35978f 01665e 003c30",
    "PRGn": "40004b 762a83 9970ab c2a5cf e7d4e8 f7f7f7 d9f0d3 a6dba0 5aae61 1b7837 00441b",
    # dark in the middle, for dark rooms: cold to the left, warm to the right
    "night": "bedeff 78b6f2 4286cc 225892 183250 18191c 482418 863c22 c86234 f49860 ffd6b2",
}


ThemeName = Literal["light", "dark"]


@dataclass(frozen=True)
class Theme:
    """Colours as ``rrggbb``. ``gap``: between filters, heads and gates. ``cmap``: the map that suits the ground. ``marks``: those of NaN, -Inf,
    below, above, +Inf.
    """

    name: str
    ground: str
    gap: str
    ink: str
    cmap: str
    # Okabe and Ito (2008) in an order that keeps neighbours apart; darkened or lightened for the ground
    series: str
    marks: str


THEMES = {
    "light": Theme(
        "light",
        "ffffff",
        "c8cbd0",
        "1d1f21",
        "RdBu_r",
        "0063a6 c8500a 00856a 8c3c86 b8860b 3f9bd0 6b6b6b a5243d",
        "ffcd00 009688 001636 3a000e 9c27b0",
    ),
    "dark": Theme(
        "dark",
        "101113",
        "44474d",
        "e9e7e2",
        "night",
        "5ab4f0 f2945a 3cc8a0 d896d2 e8c24a 9ad4ff a8b0b8 ff7f8f",
        "ffe13c 1de9b6 e2f1ff fff0e2 ea80fc",
    ),
}


def rgb(text: str) -> NDArray[np.float64]:
    """``"rrggbb rrggbb"`` as numbers, (n, 3)."""
    return np.array([[int(word[i : i + 2], 16) for i in (0, 2, 4)] for word in text.split()], dtype=np.float64)


def theme(name: str) -> Theme:
    """The theme called ``name``."""
    if name not in THEMES:
        raise InvalidArgument(f"no theme is called {name!r}; there are {', '.join(map(repr, THEMES))}")
    return THEMES[name]


def colour_maps() -> list[str]:
    """Names of the maps that need no other package, each also with ``_r`` for the reverse."""
    return sorted([*ANCHORS, *(f"{name}_r" for name in ANCHORS)])


@lru_cache(maxsize=32)
def colour_map(name: str, levels: int = HIGH - LOW + 1) -> Colours:
    """The map ``name`` in ``levels`` steps, uint8 (levels, 3); names unknown here are asked of Matplotlib.

    >>> colour_map("RdBu_r")[[0, 125, 250]].tolist()
    [[5, 48, 97], [247, 247, 247], [103, 0, 31]]
    """
    base, reverse = (name[:-2], True) if name.endswith("_r") else (name, False)
    anchors = rgb(ANCHORS[base])[:: -1 if reverse else 1] if base in ANCHORS else _from_matplotlib(name)
    position = np.arange(levels) * ((len(anchors) - 1) / (levels - 1))
    low = np.minimum(position.astype(int), len(anchors) - 2)
    mixed = anchors[low] + (anchors[low + 1] - anchors[low]) * (position - low)[:, None]
    return np.floor(mixed + 0.5).astype(np.uint8)


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


def table(theme_name: str, cmap: str | None = None) -> Colours:
    """The colour of each code, uint8 (256, 3); ``cmap`` None: the theme's own map.

    >>> table("light")[128].tolist()
    [247, 247, 247]
    """
    chosen = theme(theme_name)
    out = np.zeros((256, 3), np.uint8)
    out[LOW : HIGH + 1] = colour_map(cmap or chosen.cmap)
    out[[NAN, MINUS_INF, UNDER, OVER, PLUS_INF]] = rgb(chosen.marks)
    return out


def light(colour: NDArray[np.uint8]) -> bool:
    """Whether black is read better than white on ``colour``."""
    return bool(3 * int(colour[0]) + 6 * int(colour[1]) + int(colour[2]) > 1275)

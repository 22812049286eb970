"""Text as coverage masks, put together from cached glyphs: crisp at every size, drawn in microseconds.

The font is DejaVu Sans, which Matplotlib ships; without Matplotlib, Pillow's own scalable font. Nothing is downloaded and
no font of the system is looked for, so a film looks the same on every machine.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import missing_extra

ELLIPSIS = "…"


@lru_cache(maxsize=1)
def _font_folder() -> Path | None:
    spec = importlib.util.find_spec("matplotlib")  # found, not imported: its start-up costs more than a short film
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    return folder if (folder / "DejaVuSans.ttf").is_file() else None


@lru_cache(maxsize=64)
def _font(px: int, bold: bool) -> Any:
    try:
        from PIL import ImageFont
    except ImportError:
        raise missing_extra("pillow", extra="film", purpose="drawing text in pictures") from None
    folder = _font_folder()
    if folder is None:
        return ImageFont.load_default(size=px)
    return ImageFont.truetype(
        str(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), px, layout_engine=ImageFont.Layout.BASIC
    )


@lru_cache(maxsize=8192)
def _glyph(character: str, px: int, bold: bool) -> tuple[NDArray[np.uint8], int, int]:
    """Coverage (ascent + descent, w), left bearing, advance, all in pixels."""
    font = _font(px, bold)
    from PIL import Image, ImageDraw

    ascent, descent = line(px)
    left, _, right, _ = font.getbbox(character, anchor="ls")
    left, right = int(np.floor(left)), int(np.ceil(right))
    image = Image.new("L", (max(right - left, 1), ascent + descent))
    ImageDraw.Draw(image).text((-left, ascent), character, fill=255, font=font, anchor="ls")
    return np.asarray(image), left, round(font.getlength(character))


def line(px: int) -> tuple[int, int]:
    """Pixels above and below the baseline that text of size ``px`` may touch."""
    return px, px // 3 + 1


def width(text: str, px: int, bold: bool = False) -> int:
    """Width of ``text`` in pixels."""
    return sum(_glyph(character, px, bold)[2] for character in text)


@lru_cache(maxsize=2048)
def mask(text: str, px: int, bold: bool = False) -> NDArray[np.uint8]:
    """Coverage of ``text``, uint8 (ascent + descent, width): 0 nothing, 255 full ink.

    >>> mask("step 10", 13).dtype
    dtype('uint8')
    """
    ascent, descent = line(px)
    out = np.zeros((ascent + descent, width(text, px, bold) + 2), dtype=np.uint8)
    pen = 0
    for character in text:
        glyph, left, advance = _glyph(character, px, bold)
        at = max(pen + left, 0)
        room = out[:, at : at + glyph.shape[1]]
        np.maximum(room, glyph[:, : room.shape[1]], out=room)
        pen += advance
    return out


def fit(text: str, px: int, room: int, bold: bool = False) -> str:
    """``text``, with its middle left out where it is wider than ``room`` pixels; empty when not even three letters fit.

    >>> fit("layers.0.attention.query.weight", 12, 10_000)
    'layers.0.attention.query.weight'
    """
    if width(text, px, bold) <= room:
        return text
    # the end of a tensor's name tells more than its beginning
    for kept in range(len(text) - 1, 2, -1):
        head = kept // 3
        short = text[:head] + ELLIPSIS + text[len(text) - (kept - head) :]
        if width(short, px, bold) <= room:
            return short
    return ""

"""SVG and PDF stills: the same panels, with text and curves as vectors and cells as exact, unsmoothed images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import weightlapse.film.text as glyphs
from weightlapse.errors import missing_extra
from weightlapse.film.colours import Codes
from weightlapse.film.painter import Painter, Tone, ramp
from weightlapse.film.panels import Moment
from weightlapse.film.scene import Scene
from weightlapse.film.surface import Surface


@dataclass
class _Paper(Surface):
    """A surface that keeps no pixels: every rectangle of codes becomes an image on a Matplotlib figure."""

    figure: Any = None
    layer: int = 0

    def paint(self, x: int, y: int, codes: Codes) -> None:
        self.image(x, y, codes, codes.shape[1], codes.shape[0])

    def cells(self, x: int, y: int, codes: Codes, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> None:
        self.image(x, y, codes[rows][:, columns], len(columns), len(rows))

    def image(self, x: int, y: int, codes: Codes, width: int, height: int) -> None:
        from matplotlib.image import BboxImage
        from matplotlib.transforms import Bbox, TransformedBbox

        pixels = np.stack([lut[codes] for lut in self._luts], axis=2)
        box = Bbox.from_bounds(x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        image = BboxImage(
            TransformedBbox(box, self.figure.transFigure), interpolation="none", origin="upper", zorder=self.next()
        )
        image.set_data(pixels)
        self.figure.add_artist(image)

    def fill(self, x: int, y: int, width: int, height: int, code: int) -> None:
        from matplotlib.patches import Rectangle

        if width <= 0 or height <= 0:
            return
        corner = (x / self.width, 1 - (y + height) / self.height)
        patch = Rectangle(
            corner,
            width / self.width,
            height / self.height,
            lw=0,
            color=self.colour(code),
            zorder=self.next(),
            transform=self.figure.transFigure,
        )
        self.figure.add_artist(patch)

    def colour(self, code: int) -> str:
        return "#" + "".join(f"{int(lut[code]):02x}" for lut in self._luts)

    def next(self) -> int:
        """What is drawn later lies above."""
        self.layer += 1
        return self.layer


@dataclass
class VectorPainter(Painter):
    """The painter's verbs as Matplotlib artists."""

    surface: _Paper
    keeps_curves: ClassVar[bool] = True

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
        """As `Painter.text`, as vectors; mathematics in dollar signs is not read."""
        paper = self.surface
        place = {"left": "left", "right": "right", "middle": "center"}[anchor]
        paper.figure.text(
            x / paper.width,
            1 - baseline / paper.height,
            string,
            parse_math=False,
            fontsize=px * 72 / paper.figure.dpi,
            fontweight="bold" if bold else "normal",
            color=paper.colour(int(ramp(tone)[255])),
            ha=place,
            va="baseline",
            zorder=paper.next(),
        )
        return glyphs.width(string, px, bold)

    def curves(self, x: int, y: int, lines: Sequence[tuple[NDArray[np.float64], Tone]], thickness: float) -> None:
        """As `Painter.curves`: points float64 (n, 2) in pixels from (x, y), ``thickness`` in pixels too."""
        from matplotlib.lines import Line2D

        paper = self.surface
        for points, tone in lines:
            across, down = (x + points[:, 0]) / paper.width, 1 - (y + points[:, 1]) / paper.height
            line = Line2D(
                across,
                down,
                lw=thickness * 72 / paper.figure.dpi,
                color=paper.colour(int(ramp(tone)[255])),
                transform=paper.figure.transFigure,
                zorder=paper.next(),
                solid_joinstyle="round",
                solid_capstyle="round",
            )
            paper.figure.add_artist(line)


def write_vector(
    out: IO[bytes], form: str, scene: Scene, moment: Moment, size: tuple[int, int], table: NDArray[np.uint8], title: str
) -> None:
    """Draw ``moment`` and write it as ``form`` ("svg" or "pdf"); one pixel of the layout is one CSS pixel (1/96 inch)."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", extra="film", purpose=f"writing .{form} pictures") from None
    dpi = 96
    figure = Figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi)
    paper = _Paper(size[0], size[1], table, figure=figure)
    figure.set_facecolor(paper.colour(int(ramp("ground")[255])))
    scene.draw_on(VectorPainter(paper, scene.signs), moment)
    known = {"Title": title, "Creator": "weightlapse"} | ({"Date": None} if form == "svg" else {"CreationDate": None})
    # the font is named in the file, not drawn as outlines: text stays text, and small
    with (
        warnings.catch_warnings(),
        matplotlib.rc_context(
            {"svg.fonttype": "none", "pdf.fonttype": 42, "font.family": "DejaVu Sans", "svg.hashsalt": "weightlapse"}
        ),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the reader's own fonts will have it
        figure.savefig(out, format=form, dpi=dpi, metadata=known)

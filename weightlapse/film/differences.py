"""`wl.plot.diff`: the tensors that differ, how much, and a picture of each difference."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from weightlapse.errors import InvalidArgument
from weightlapse.film.axes import axes_or_new, finished, listed_map, series_colours
from weightlapse.film.colours import encode
from weightlapse.picture.limits import limit_of as limit_of  # for the page of differences, too

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LISTED = 24  # tensors in the bar chart
PICTURES = 6


def diff(d: Any, ax: Axes | None = None) -> Axes:
    """A figure of what `wl.diff` found: a bar for each tensor that differs and, without ``ax``, a picture of the largest differences.

    Bars show ``||B - A|| / ||A||`` on a logarithmic scale; pictures B - A, thinned, each on a scale of its own. Returns the axes of the bars.

    >>> wl.plot.diff(wl.diff(before, after))                                       # doctest: +SKIP
    """
    if not hasattr(d, "differing"):
        raise InvalidArgument(f"plot.diff({type(d).__name__}): give what wl.diff(a, b) returns")
    drawn = sorted((t for t in d.differing if np.isfinite(t.relative)), key=lambda t: -t.relative)
    pictures = [t for t in drawn if t.picture is not None][:PICTURES] if ax is None else []
    if pictures:
        ax, panels = _figure(len(drawn), len(pictures))
        for panel, t in zip(panels, pictures):
            _picture(panel, t)
    ax = axes_or_new(ax, (8, 1.6 + 0.24 * min(len(drawn), LISTED)))
    _bars(ax, drawn[:LISTED])
    answer = d.summary.split("; ")[0]
    ax.set_title(textwrap.fill(textwrap.shorten(answer, 220, placeholder=" ..."), 90), fontsize=9, loc="left")
    return ax


def _figure(bars: int, pictures: int) -> tuple[Any, list[Any]]:
    import matplotlib.pyplot as pyplot

    high = 1.6 + 0.24 * min(bars, LISTED)
    figure = pyplot.figure(figsize=(9, high + 2.6 * -(-pictures // 3)), layout="constrained")
    grid = figure.add_gridspec(1 + -(-pictures // 3), 3, height_ratios=[high] + [2.6] * -(-pictures // 3))
    return figure.add_subplot(grid[0, :]), [figure.add_subplot(grid[1 + i // 3, i % 3]) for i in range(pictures)]


def _bars(ax: Any, tensors: list[Any]) -> None:
    at = np.arange(len(tensors))
    sizes = np.array([t.relative for t in tensors])
    shown = sizes[sizes > 0]
    low = float(shown.min()) / 3 if len(shown) else 1e-3
    ax.barh(at, np.maximum(sizes, low), color=series_colours()[0], height=0.6)
    ax.set_yticks(at, [t.name for t in tensors], fontsize=7)
    ax.set_xscale("log")
    ax.set_xlim(low, max(float(shown.max(initial=low)) * 4, low * 10))
    for y, t in zip(at, tensors):
        word = f" {t.kind}" + (f" {t.rank}" if t.kind == "low rank" else "")
        ax.text(max(t.relative, low), y, word, va="center", fontsize=7)
    if not tensors:
        ax.text(0.5, 0.5, "no tensor of both differs", ha="center", transform=ax.transAxes)
    ax.invert_yaxis()
    ax.set_xlabel("||B − A|| / ||A||")
    finished(ax)


def _picture(ax: Any, t: Any) -> None:
    listed, norm = listed_map("RdBu_r")
    ax.imshow(encode(t.picture, limit_of(t.picture)), cmap=listed, norm=norm, interpolation="nearest", aspect="auto")
    ax.set_title(f"{t.name}\n{t.kind}, {'×'.join(map(str, t.shape))}", fontsize=7)
    ax.set(xticks=[], yticks=[])

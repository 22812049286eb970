"""`wl.plot.autopsy`: where a loss spike began, and how it spread."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from weightlapse.film.axes import axes_or_new, finished, series_colours
from weightlapse.measures.autopsy import Autopsy, one
from weightlapse.recording.recording import opened
from weightlapse.recording.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TENSORS = 24  # the earliest to leave
STEPS = 40  # before the spike
INSIDE, FAR = 0.5, 1e4  # ends of the scale: values over the largest of the history


def autopsy(run: Run | Autopsy | str | os.PathLike[str], step: int | None = None, ax: Axes | None = None) -> Axes:
    """How far each tensor was outside its own history in the steps before a loss spike, the earliest to leave on top. Returns the axes of the map.

    ``run``: a recording, its path, or one of what `wl.autopsy` returns; ``step``: of several spikes the nearest to it (default: the first).
    Colours show the update (gradient, second moment) over the largest of its history; a mark shows where each left it. Without ``ax`` the loss
    runs above.

    Raises InvalidArgument when no logged loss spikes.

    >>> wl.plot.autopsy(run)                                                       # doctest: +SKIP
    """
    found = run if isinstance(run, Autopsy) else one(opened(run), step)
    left = [d.tensor for d in found.spread]
    names = [*left, *(name for name in found.factors if name not in left)][:TENSORS]
    strip, ax = (None, ax) if ax is not None else _figure(0.22 * max(len(names), 3))
    steps = found.steps[-STEPS:]
    first = len(found.steps) - len(steps)
    image = _map(ax, np.stack([found.factors[name][first:] for name in names]), steps)
    ax.set_yticks(np.arange(len(names)), names, fontsize=7)
    for row, d in enumerate(found.spread[:TENSORS]):
        ax.plot(
            d.step, row, marker="o", ms=7 if row else 10, mfc="none", mec=series_colours()[0], mew=1.5 if row else 2.5
        )
    ax.axvline(found.step, color="0.25", lw=1, ls=":")
    ax.set_xlabel("step")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.9, aspect=25, label="times the largest of its history")
    bar.outline.set_visible(False)
    if strip is not None:
        _loss(strip, found, steps, first)
    (ax if strip is None else strip).set_title(textwrap.fill(found.text, 100), fontsize=8.5, loc="left")
    return ax


def _figure(high: float) -> tuple[Any, Any]:
    """Axes for the loss, and below them for the map, over the same steps."""
    ax = axes_or_new(None, (8.5, high + 2.8))
    figure = ax.figure
    ax.remove()
    strip, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.0, high + 0.4])
    return strip, below


def _map(ax: Any, values: Any, steps: Any) -> Any:
    from matplotlib.colors import LogNorm

    edges = np.concatenate([steps - 0.5 * np.diff(steps, prepend=2 * steps[0] - steps[1]), [steps[-1] + 0.5]])
    rows = np.arange(len(values) + 1) - 0.5
    image = ax.pcolormesh(edges, rows, np.clip(values, INSIDE, FAR), norm=LogNorm(INSIDE, FAR), cmap="Reds", lw=0)
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)
    return image


def _loss(ax: Any, found: Autopsy, steps: Any, first: int) -> None:
    values = found.loss[first:]
    there = np.isfinite(values)
    ax.plot(steps[there], values[there], color=series_colours()[1], lw=1.4)
    ax.axvline(found.step, color="0.25", lw=1, ls=":")
    if there.any() and values[there].min() > 0 and values[there].max() > 20 * values[there].min():
        ax.set_yscale("log")
    ax.tick_params(labelsize=7)
    ax.set_ylabel(found.label, fontsize=8)
    finished(ax)

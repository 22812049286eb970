"""The figure of a comparison: distances per tensor, heat maps side by side, and the barrier or the distances over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import missing_extra
from weightlapse.symmetry.runs import AlignedRuns
from weightlapse.symmetry.states import Weights, distance, float_arrays, parameter_names
from weightlapse.symmetry.verdict import Comparison

MOST = 256  # rows and columns that a heat map shows; more would be thinner than a pixel
_RAW, _ALIGNED, _REPAIRED = "#b35806", "#2166ac", "#1b7837"  # told apart by colour-blind readers


def draw(
    comparison: Comparison,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    *,
    runs: AlignedRuns | None = None,
    tensors: int = 5,
) -> Any:
    """A Matplotlib figure of two states and what `wl.compare` found; ``tensors``: how many get heat maps.

    ``runs`` adds the distances over the steps of two recordings.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", extra="film", purpose="drawing a comparison") from None
    names = [n for n in parameter_names(a, None) if n in b]
    x, y = float_arrays(a, names), float_arrays({n: b[n] for n in names})
    moved = y if comparison.alignment is None else float_arrays({n: comparison.alignment.state[n] for n in names})
    maps = [n for n in x if x[n].ndim >= 2 and x[n].shape == y[n].shape == moved[n].shape][:tensors]
    figure = Figure(figsize=(11, 3.2 + 2.1 * len(maps)), layout="constrained")
    figure.suptitle(f"{comparison.verdict}", fontsize=13)
    grid = figure.add_gridspec(1 + len(maps), 4, height_ratios=[1.5] + [1] * len(maps))
    curve = runs is not None or comparison.barrier is not None
    _distances(figure.add_subplot(grid[0, : 2 if curve else 4]), x, y, moved)
    if curve:
        axes = figure.add_subplot(grid[0, 2:])
        if runs is not None:
            _over_time(axes, runs)
        else:
            _line(axes, comparison)
    for row, name in enumerate(maps, 1):
        _heat_maps(figure, [figure.add_subplot(grid[row, c]) for c in range(4)], name, x[name], y[name], moved[name])
    return figure


def _distances(axes: Any, a: Weights, b: Weights, moved: Weights) -> None:
    names = [n for n in a if a[n].shape == b[n].shape == moved[n].shape][-24:]
    at = np.arange(len(names))
    raw, aligned = ([distance({n: a[n]}, {n: other[n]}) for n in names] for other in (b, moved))
    axes.hlines(at, aligned, raw, color="0.8", linewidth=1)
    axes.plot(raw, at, "o", color=_RAW, label="as they are", markersize=5)
    axes.plot(aligned, at, "D", color=_ALIGNED, label="aligned", markersize=4)
    axes.set_yticks(at, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("||A - B|| / ||A||")
    axes.set_title("distance of each tensor", fontsize=9)
    axes.legend(fontsize=7, frameon=False)


def _line(axes: Any, comparison: Comparison) -> None:
    barrier = comparison.barrier
    assert barrier is not None
    curves = [("as they are", barrier.naive, _RAW), (f"aligned ({barrier.method})", barrier.matched, _ALIGNED)]
    if barrier.repaired is not None:
        curves.append(("variances repaired", barrier.repaired, _REPAIRED))
    for label, height, colour in curves:
        axes.plot(height.at, height.curve, color=colour, label=f"{label}: {float(height):.3g}")
    axes.set_xlabel("from a (0) to b (1)")
    axes.set_title("loss on the line between them", fontsize=9)
    axes.legend(fontsize=7, frameon=False)


def _over_time(axes: Any, runs: AlignedRuns) -> None:
    for label, values, colour in (
        ("as they are", runs.raw_distance, _RAW),
        ("aligned", runs.aligned_distance, _ALIGNED),
    ):
        axes.plot(runs.steps, values, color=colour, label=label, marker="." if len(runs) < 3 else None)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_title("distance over time", fontsize=9)
    axes.legend(fontsize=7, frameon=False)


def _heat_maps(figure: Any, axes: list[Any], name: str, a: NDArray[Any], b: NDArray[Any], moved: NDArray[Any]) -> None:
    import matplotlib

    flat = [v.reshape(len(v), -1)[:MOST, :MOST].astype(np.float64) for v in (a, b, moved, moved - a)]
    finite = np.abs(np.stack(flat[:3]))
    limit = float(finite[np.isfinite(finite)].max(initial=0.0)) or 1.0  # one scale for all four, so colours compare
    cut = "" if a.reshape(len(a), -1).shape == flat[0].shape else f", first {flat[0].shape[0]} x {flat[0].shape[1]}"
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#ffd92f")  # NaN and Inf have a colour of their own
    image = None
    for ax, value, title in zip(axes, flat, (f"a: {name}{cut}", "b", "b aligned", "difference")):
        image = ax.imshow(
            np.ma.masked_invalid(value), cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
        )
        ax.set_title(title, fontsize=8)
        ax.set_xticks([])
        ax.set_yticks([])
    figure.colorbar(image, ax=axes, fraction=0.02, pad=0.01)

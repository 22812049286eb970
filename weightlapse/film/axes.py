"""Matplotlib axes in the films' colours: what the functions of `plot` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from weightlapse.errors import missing_extra
from weightlapse.film.colours import HIGH, LOW, MINUS_INF, NAN, OVER, PLUS_INF, SIGN_DARK, UNDER, table
from weightlapse.picture.numbers import short
from weightlapse.picture.palette import THEMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as pyplot
    except ImportError:
        raise missing_extra("matplotlib", extra="film", purpose="drawing figures") from None
    return pyplot


def axes_or_new(ax: Axes | None, size: tuple[float, float] = (7, 4)) -> Axes:
    """``ax``, or the axes of a new figure of ``size`` inches."""
    if ax is not None:
        return ax
    return _pyplot().subplots(figsize=size, layout="constrained")[1]


def finished(ax: Axes) -> Axes:
    """The axes without the two spines that carry no numbers."""
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def series_colours() -> list[str]:
    """The colours of curves, in their order, as Matplotlib takes them."""
    return ["#" + word for word in THEMES["light"].series.split()]


def listed_map(cmap: str) -> tuple[Any, Any]:
    """A Matplotlib map over codes: the 256 colours and the marks."""
    _pyplot()
    from matplotlib.colors import ListedColormap, NoNorm

    colours = table("light", cmap)[: SIGN_DARK + 1]
    return ListedColormap(colours / 255.0), NoNorm(0, SIGN_DARK)


def colour_bar(ax: Any, image: Any, limit: float, cmap: str) -> None:
    """The scale beside a picture of weights, ``[-limit, limit]``, with a legend of the marks that the picture has (above, below, NaN, infinite)."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.patches import Patch

    colours = table("light", cmap) / 255.0
    bar = ax.figure.colorbar(
        ScalarMappable(Normalize(-limit, limit), ListedColormap(colours[LOW : HIGH + 1])), ax=ax, shrink=0.8, aspect=30
    )
    bar.set_ticks([-limit, 0, limit], labels=[short(-limit, 2), "0", short(limit, 2)])
    bar.outline.set_visible(False)
    words = {OVER: "above", UNDER: "below", NAN: "NaN", PLUS_INF: "+∞", MINUS_INF: "−∞"}
    present = [code for code in words if (np.asarray(image.get_array()) == code).any()]
    if present:
        ax.legend(
            handles=[Patch(color=colours[code], label=words[code]) for code in present],
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            ncols=5,
            frameon=False,
            fontsize="small",
        )

"""The symmetric colour scale of every tensor: one for the whole film, so that a colour keeps its meaning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.film.frames import all_shapes, sample, values_over
from weightlapse.film.grids import Values
from weightlapse.progress import track

MODES = ("tensor", "global", "step")
_READ_AT_MOST = 512 << 20
_LOOKED = 4096  # values of one frame that the percentile is taken from


def check(scale: str) -> str:
    if scale not in MODES:
        raise InvalidArgument(f"scale must be one of {', '.join(map(repr, MODES))}, not {scale!r}")
    return scale


class Scale(NamedTuple):
    """Colours run from -``limit`` to +``limit``; in a thinned tensor weights beyond ±``spike`` are always drawn."""

    limit: float
    spike: float


def of(values: Iterable[Values]) -> Scale:
    """The scale for these values: the largest finite magnitude, but at most three times the 99.5th percentile.

    One weight that runs away must not bleach all others; it is then drawn as out of scale.

    >>> of([np.array([1.0, -2.0, np.inf])]).limit
    2.0
    """
    largest, looked = 0.0, []
    for value in values:
        top = _largest(value)
        largest = max(largest, top)
        part = np.abs(value.reshape(-1)[:: max(value.size // _LOOKED, 1)].astype(np.float64))
        looked.append(part[np.isfinite(part)])
    pooled = np.concatenate(looked) if looked else np.zeros(0)
    usual = float(np.quantile(pooled, 0.995)) if pooled.size else 0.0
    scale = min(largest, 3 * usual) if usual > 0 else largest
    return Scale(scale if scale > 0 else 1.0, 1.3 * usual)


def _largest(value: Values) -> float:
    if not value.size:
        return 0.0
    if value.dtype.kind != "f":
        value = value.astype(np.float64)
    top = float(max(value.max(), -value.min()))
    if np.isfinite(top):
        return top
    finite = value[np.isfinite(value)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def over_frames(run: Any, names: Sequence[str], frames: NDArray[np.int64]) -> dict[str, Scale]:
    """The scale of each tensor over ``frames``: all of them up to 256, fewer where that means reading more than half a gigabyte."""
    shapes = all_shapes(run)
    size = sum(4 * int(np.prod(shapes[name])) for name in names)
    most = int(np.clip(_READ_AT_MOST // max(size, 1), 4, 256))
    looked = sample(frames, most)
    kept: dict[str, list[Values]] = {name: [] for name in names}
    # of every frame a few thousand values and its largest: what the scale is made of, in little memory
    for values in track(values_over(run, names, looked), "finding the colour scales", total=len(looked)):
        for name, value in values.items():
            flat = value.reshape(-1)
            few = np.array(flat[:: max(flat.size // _LOOKED, 1)])
            kept[name].append(np.append(few, np.asarray([_largest(value)], dtype=few.dtype)))
    return {name: of(parts) for name, parts in kept.items()}

"""Measures that follow from the statistics that a recording keeps: no weight is read for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from weightlapse.measures.stream import Array
from weightlapse.recording.kept import Curve, curves
from weightlapse.recording.recording import Recording
from weightlapse.recording.run import Run

# how each follows from a curve over the frames of a stretch, and how many numbers the tensor has in a frame
KEPT: dict[str, Callable[[Curve, slice, int], Array]] = {
    "norm": lambda c, s, _: np.sqrt(c.sumsq[s]),
    "mean": lambda c, s, size: c.total[s] / size,
    "max_abs": lambda c, s, _: np.maximum(c.high[s], -c.low[s]),
    "update_norm": lambda c, s, _: _from_the_second(np.sqrt(c.moved[s])),
    "update_ratio": lambda c, s, _: _from_the_second(_ratio(c, s)),
}


def _from_the_second(values: Array) -> Array:
    return np.concatenate([[np.nan], values[1:]])


def _ratio(c: Curve, s: slice) -> Array:
    before = np.sqrt(np.concatenate([[np.nan], c.sumsq[s][:-1]]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(before > 0, np.sqrt(c.moved[s]) / before, np.nan)


def kept(run: Run, wanted: Sequence[str], names: Sequence[str], span: range) -> dict[str, dict[str, Array]]:
    """``{measure: {name: (T,)}}`` of those tensors of which all of it is kept, frame by frame; of tensors with NaN or Inf the values are looked at."""
    found: dict[str, dict[str, Array]] = {name: {} for name in wanted}
    if (
        not wanted
        or span.step != 1
        or not isinstance(run, Recording)
        or not set(wanted) <= set(KEPT)
        or len(run.layouts) > 1
    ):
        return found
    made = curves(run._store) or {}
    stretch = slice(span.start, span.stop)
    for name in names:
        curve = made.get(run[name].name)
        if (
            curve is None
            or not curve.exact
            or not curve.linked(stretch)
            or curve.odd[stretch].any()
            or "complex" in run.dtypes[name]
        ):
            continue
        size = int(np.prod(run.shapes[name]))
        for what in wanted:
            found[what][name] = KEPT[what](curve, stretch, size)
    return found

"""Curves over time that the kept statistics hold: of a recording of any size, without reading a single weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.reader import Store
from weightlapse.store.stretches import Stretch, sources, stretches


@dataclass(frozen=True)
class Curve:
    """Of one tensor, float64 (T,), NaN where it does not exist: ``sumsq``; ``moved``, the square sum of the change from the frame before; ``odd``, how
    many values are NaN or infinite; ``total``, ``low``, ``high``: sum, lowest and highest value.

    ``exact``: the statistics have every frame; else the sums of a time block are spread over its frames. ``breaks``: the frames that were not compared
    with the one before; the first of the recording is not among them.
    """

    sumsq: NDArray[np.float64]
    moved: NDArray[np.float64]
    odd: NDArray[np.float64]
    total: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    exact: bool
    breaks: tuple[int, ...]

    def linked(self, frames: slice) -> bool:
        """Whether all of ``frames`` but the first were compared with the one before."""
        return not any(frames.start < frame < frames.stop for frame in self.breaks)


def curves(store: Any, *, make: bool = False) -> dict[str, Curve] | None:
    """The curves of all tensors; None where statistics of some frame are not kept, or several processes wrote the recording.

    ``make``: those that are not kept are made from the values, all of which are read once for it.
    """
    if not isinstance(store, Store) or not len(store.steps):
        return None
    found = list(stretches(sources(store)[0], make=make))
    total = len(store.steps)
    if sum(s.stop - s.first for s in found) != total:
        return None
    made: dict[str, NDArray[np.float64]] = {}
    exact: dict[str, bool] = {}
    breaks: dict[str, list[int]] = {}
    for stretch in found:
        for i, spec in enumerate(stretch.layout.tensors):
            rows = _rows(stretch, i)
            if rows is None:
                return None
            if spec.name not in made:
                made[spec.name] = np.full((len(rows), total), np.nan)
            for column, values in zip(made[spec.name], rows):
                column[stretch.first : stretch.stop] = values
            exact[spec.name] = exact.get(spec.name, True) and bool(stretch.statistics.each[i])
            if not stretch.follows and stretch.first:
                breaks.setdefault(spec.name, []).append(stretch.first)
    names = ("sumsq", "moved", "odd", "total", "low", "high")
    return {
        name: Curve(**dict(zip(names, columns)), exact=exact[name], breaks=tuple(breaks.get(name, ())))
        for name, columns in made.items()
    }


def _rows(stretch: Stretch, tensor: int) -> tuple[Any, ...] | None:
    rows = stretch.frame_rows(tensor)
    if rows is not None:
        return rows["sumsq"], rows["update_sumsq"], rows["nan"] + rows["inf"], rows["sum"], rows["min"], rows["max"]
    statistics, count = stretch.statistics, stretch.stop - stretch.first
    if not stretch.whole:
        return None  # a part of a block that has but one row: the values would have to be read
    at = statistics.row(tensor, stretch.local)
    row = {name: float(column[at]) for name, column in statistics.rows.items()}
    each = (row["sumsq"] / count, row["update_sumsq"] / count, row["nan"] + row["inf"], row["sum"] / count)
    return *each, row["min"], row["max"]


def begins(store: Any) -> NDArray[np.int64]:
    """The frames with which a time block begins, in rising order: what is unpacked from there on. Frames that are still a log follow as they are."""
    found: list[int] = []
    for segment in getattr(store, "segments", ()):
        height, start = _height(segment), int(getattr(segment, "_start", 0))
        found += [
            segment.first + max(at - start, 0) for at in range(start // height * height, start + segment.count, height)
        ]
    return np.array(found, np.int64)


def _height(segment: Any) -> int:
    opening = getattr(getattr(segment, "whole", segment), "opening", None)
    return int(getattr(opening, "height", 1) or 1)

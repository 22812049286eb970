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

    ``exact``: the statistics have every frame; else the sums of a time block are spread over its frames. ``linked``: every frame but the first was
    compared with the one before.
    """

    sumsq: NDArray[np.float64]
    moved: NDArray[np.float64]
    odd: NDArray[np.float64]
    total: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    exact: bool
    linked: bool


def curves(store: Any) -> dict[str, Curve] | None:
    """The curves of all tensors; None where statistics of some frame are not kept, or several processes wrote the recording."""
    if not isinstance(store, Store) or not len(store.steps):
        return None
    found = list(stretches(sources(store)[0], make=False))
    total = len(store.steps)
    if sum(s.stop - s.first for s in found) != total:
        return None
    made: dict[str, list[Any]] = {}
    for stretch in found:
        for i, spec in enumerate(stretch.layout.tensors):
            if spec.name not in made:
                made[spec.name] = [*np.full((6, total), np.nan), True, True]
            rows = _rows(stretch, i)
            if rows is None:
                return None
            here = slice(stretch.first, stretch.stop)
            for column, values in zip(made[spec.name], rows):
                column[here] = values
            made[spec.name][6] &= bool(stretch.statistics.each[i])
            made[spec.name][7] &= stretch.follows or stretch.first == 0
    return {name: Curve(*columns) for name, columns in made.items()}


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

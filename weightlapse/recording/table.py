"""The statistics of a recording as a table: a row for each tensor and block."""

from __future__ import annotations

from typing import Any

import numpy as np

from weightlapse.progress import track
from weightlapse.recording.relations import arrow
from weightlapse.store.block import lanes
from weightlapse.store.ranks import RankedStore
from weightlapse.store.reader import Store
from weightlapse.store.stretches import sources, stretches

COLUMNS = {
    "tensor": "string", "stream": "string", "first_step": "int64", "last_step": "int64", "frames": "int64",
    "min": "float64", "max": "float64", "nan": "int64", "inf": "int64", "zeros": "int64", "sum": "float64", "sumsq": "float64",
    "update_sumsq": "float64", "changed": "int64", "updates": "int64", "update_max": "float64", "values": "int64", "rank": "int64",
}  # fmt: skip


def columns(store: Store | RankedStore) -> dict[str, list[Any]]:
    """The columns of :meth:`Recording.table`, by name."""
    found: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for source in sources(store):
        steps = source.store.steps
        for stretch in track(list(stretches(source)), "statistics"):
            for i, spec in enumerate(stretch.layout.tensors):
                if not source.counts(spec.name):
                    continue
                row = stretch.row(i) | {
                    "tensor": spec.name,
                    "stream": spec.stream,
                    "first_step": int(steps[stretch.first]),
                    "last_step": int(steps[stretch.stop - 1]),
                    "frames": stretch.stop - stretch.first,
                    "values": (stretch.stop - stretch.first) * spec.size * lanes(spec)[1],
                    "rank": source.rank,
                }
                for name, column in found.items():
                    column.append(row[name])
    return found


def table(store: Store | RankedStore) -> Any:
    """See :meth:`Recording.table`."""
    pa = arrow("Recording.table")
    made = columns(store)
    order = np.lexsort((made["first_step"], made["rank"])) if made["tensor"] else np.empty(0, np.int64)
    arrays = {name: pa.array(values, pa.type_for_alias(COLUMNS[name])) for name, values in made.items()}
    return pa.table(arrays).take(pa.array(order))

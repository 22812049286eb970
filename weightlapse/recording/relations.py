"""A recording as flat tables: what SQL and data frames can be asked about."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from weightlapse.errors import missing_extra

if TYPE_CHECKING:
    from weightlapse.recording.recording import Recording


def arrow(purpose: str) -> Any:
    """The module ``pyarrow``, imported when it is first needed. Raises MissingExtra, naming ``purpose`` and the extra to install, where it is absent."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError:
        raise missing_extra("pyarrow", extra="export", purpose=purpose) from None


def relation(run: Recording, name: str) -> Any:
    """The table of that name, one of ``RELATIONS``, as a ``pyarrow.Table``."""
    return run.table() if name == "stats" else RELATIONS[name](run, arrow(f"the table {name}"))


def _tensors(run: Recording, pa: Any) -> Any:
    """A row for each tensor and layout: where it changes its shape, one for each shape."""
    rows = []
    for span in run.layouts:
        for spec in span.specs if len(span) else ():
            rows.append(
                {
                    "tensor": spec.name,
                    "stream": spec.stream,
                    "dtype": spec.dtype,
                    "shape": list(spec.shape),
                    "size": spec.size,
                    "aliases": list(spec.aliases),
                    "first_step": int(span.steps[0]),
                    "last_step": int(span.steps[-1]),
                }
            )
    kinds = {
        "tensor": pa.string(),
        "stream": pa.string(),
        "dtype": pa.string(),
        "shape": pa.list_(pa.int64()),
        "size": pa.int64(),
    }
    kinds |= {"aliases": pa.list_(pa.string()), "first_step": pa.int64(), "last_step": pa.int64()}
    return pa.Table.from_pylist(rows, pa.schema(list(kinds.items())))


def _frames(run: Recording, pa: Any) -> Any:
    return pa.table({"frame": pa.array(np.arange(run.frames)), "step": pa.array(run.steps)})


def _scalars(run: Recording, pa: Any) -> Any:
    """A row for each number that was logged."""
    names, frames, values = [], [], []
    for name, column in run.scalars.items():
        logged = np.flatnonzero(~np.isnan(column))
        names += [name] * len(logged)
        frames.append(logged)
        values.append(column[logged])
    at = np.concatenate([np.empty(0, np.int64), *frames])
    numbers = pa.array(np.concatenate([np.empty(0), *values]))
    return pa.table(
        {"frame": pa.array(at), "step": pa.array(run.steps[at]), "name": pa.array(names, pa.string()), "value": numbers}
    )


def _events(run: Recording, pa: Any) -> Any:
    steps, texts = [step for step, _ in run.events], [text for _, text in run.events]
    return pa.table({"step": pa.array(steps, pa.int64()), "text": pa.array(texts, pa.string())})


def _gaps(run: Recording, pa: Any) -> Any:
    columns = list(zip(*run.gaps)) or [(), (), ()]
    kinds = {"first_step": pa.int64(), "last_step": pa.int64(), "reason": pa.string()}
    return pa.table({name: pa.array(list(values), kind) for (name, kind), values in zip(kinds.items(), columns)})


RELATIONS: dict[str, Any] = {
    "tensors": _tensors, "frames": _frames, "stats": None, "scalars": _scalars, "events": _events, "gaps": _gaps,
}  # fmt: skip

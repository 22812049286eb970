"""Going on with a recording that is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from weightlapse.adapters.source import Source
from weightlapse.capture.layouts import rows_of
from weightlapse.capture.numbering import Missing, ResumePoint, Values, resume_point
from weightlapse.capture.ring import Ring
from weightlapse.capture.schedule import Schedule
from weightlapse.errors import CannotRecord, InvalidArgument
from weightlapse.store.layout import Layout
from weightlapse.store.reader import Store
from weightlapse.store.writer import Writer


def is_there(path: Path) -> bool:
    """Whether something is at ``path`` that is not just an empty folder."""
    with cannot_be_written(path):
        return path.exists() and (not path.is_dir() or any(path.iterdir()))


def recorded_names(path: Path) -> list[str]:
    """The names of the tensors that the recording at ``path`` ends with."""
    return [t.name for t in Store.open(path).layouts[-1][1].tensors]


@contextmanager
def cannot_be_written(path: Path) -> Iterator[None]:
    """An OSError inside becomes :class:`CannotRecord`, with the path and what to do."""
    try:
        yield
    except OSError as error:
        raise CannotRecord(f"{path} cannot be written ({error.strerror or error}): choose another path") from error


def present_weights(source: Source, layout: Layout, ring: Ring, params: Any) -> Values:
    """What the model holds now: its weights by name, in stored dtypes. Fills the first row of a ring that nobody uses yet, where it has any."""
    rows = ring.rows if ring.has_rows else np.zeros((1, layout.row_nbytes), np.uint8)
    source.bind(rows_of(layout, rows))
    source.copy(0, params)
    if source.on_device and source.pending is not None:
        source.pending()
    return {t.name: layout.view(rows[:1], i)[0, ...] for i, t in enumerate(layout.tensors) if t.stream == "weights"}


def go_on(
    path: Path,
    layout: Layout,
    facts: dict[str, Any],
    at: int | Literal["weights"] | None,
    present: Callable[[], Values],
    wants: Schedule,
    missing: Missing,
    settings: dict[str, Any],
) -> tuple[Writer, ResumePoint]:
    """The writer that goes on with the recording at ``path``, and where. Nothing is touched when that is refused."""
    before = Store.open(path)
    if before.meta.get("distributed") != facts.get("distributed"):
        raise InvalidArgument(f"{path} was recorded with other processes or shards: it cannot be resumed with these")
    point = resume_point(before, at, present(), wants, missing)
    writer = Writer.resume(path, layout, rewind_to=point.rewind_to, **settings)
    writer.event(point.step, "the recording was resumed")
    return writer, point

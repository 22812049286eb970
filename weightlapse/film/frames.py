"""Reading a recording for a film: which tensors are drawn, and their values frame after frame in bounded memory."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import UnknownTensor, closest
from weightlapse.recording.polar import whole
from weightlapse.recording.run import LayoutSpan, Run
from weightlapse.store.layout import value_dtype

Values = NDArray[np.generic]
READ_BYTES = 32 << 20  # read at once: enough to use a decoded block well, small beside any model


def chosen(run: Run, tensors: str | Sequence[str], frames: NDArray[np.int64] | None = None) -> list[str]:
    """Names of ``run`` that match the globs ``tensors``, in network order.

    ``"*"`` means the network's own floating-point and complex tensors: other streams (``gradients:...``) and integer buffers are drawn
    only when a glob names them.
    """
    patterns = [tensors] if isinstance(tensors, str) else list(tensors)
    names = all_shapes(run, frames)
    dtypes: dict[str, Any] = dict(run.dtypes)
    for span in run.layouts:
        dtypes |= span.dtypes
    kinds = {name: value_dtype(str(dtypes[name])).kind for name in names}

    def wanted(name: str, pattern: str) -> bool:
        if pattern in ("*", "**"):
            return ":" not in name and kinds[name] in "fc"
        own = [name] if whole(run) is run else [name, name.rpartition(".")[0]]  # a complex tensor answers for its parts
        return (":" in name) == (":" in pattern) and any(fnmatch.fnmatchcase(n, pattern) for n in own)

    out = [
        name for name, shape in names.items() if 0 not in shape and any(wanted(name, pattern) for pattern in patterns)
    ]
    if not out:
        words = ", ".join(map(repr, patterns)) or "nothing"
        near = closest(patterns[0] if patterns else "", names)
        raise UnknownTensor(f"no tensor of the recording matches {words}, so there is nothing to draw ({near})")
    return out


def all_shapes(run: Run, frames: NDArray[np.int64] | None = None) -> dict[str, tuple[int, ...]]:
    """Shapes by name, in network order, of every tensor that exists at any of ``frames`` (default: all); where one grew, its last.

    Tensors that only an earlier layout had stand behind what preceded them there.
    """
    spans = list(run.layouts)
    if frames is not None and len(spans) > 1:
        spans = [e for e in spans if ((frames >= e.start) & (frames < e.stop)).any()]
    if len(spans) <= 1:
        return {name: tuple(shape) for name, shape in (spans[0] if spans else run).shapes.items()}
    order: list[str] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for span in reversed(spans):
        before: str | None = None
        for name, shape in span.shapes.items():
            if name not in shapes:
                order.insert(0 if before is None else order.index(before) + 1, name)
                shapes[name] = tuple(shape)
            before = name
    return {name: shapes[name] for name in order}


def span_at(run: Run, frame: int) -> LayoutSpan | None:
    """The layout that holds ``frame``; None when the recording has only one."""
    spans = run.layouts
    if len(spans) <= 1:
        return None
    return next(span for span in spans if span.start <= frame < span.stop)


def values_over(run: Run, names: Sequence[str], frames: NDArray[np.int64]) -> Iterator[dict[str, Values]]:
    """For every entry of ``frames``, in order, the values of ``names`` that the network has at that frame."""
    shapes = all_shapes(run)
    size = sum(4 * int(np.prod(shapes[name])) for name in names)
    batch = max(min(READ_BYTES // max(size, 1), 256), 1)
    for start in range(0, len(frames), batch):
        for part in _same_layout(run, frames[start : start + batch]):
            span = span_at(run, int(part[0]))
            source, local = (run, part) if span is None else (span, part - span.start)
            there = [name for name in names if span is None or name in span.shapes]
            read = {name: _rows(source[name], local) for name in there}
            for i in range(len(part)):
                yield {name: read[name][i] for name in there}


def _same_layout(run: Run, frames: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    starts = [span.start for span in run.layouts]
    if len(starts) <= 1:
        return [frames]
    which = np.searchsorted(starts, frames, side="right")
    return np.split(frames, np.flatnonzero(np.diff(which)) + 1)


def _rows(track: Any, frames: NDArray[np.int64]) -> Values:
    """``track`` at ``frames`` as one slice where they are evenly spaced, one by one otherwise."""
    steps = np.diff(frames)
    if len(frames) > 1 and steps[0] > 0 and (steps == steps[0]).all():
        step = int(steps[0])
        return np.asarray(track[int(frames[0]) : int(frames[-1]) + 1 : step])
    rows: dict[int, Values] = {}
    for frame in frames:
        if int(frame) not in rows:
            rows[int(frame)] = np.asarray(track[int(frame)])
    return np.stack([rows[int(frame)] for frame in frames])


def sample(frames: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most ``most`` of ``frames``: evenly spaced, both ends and the first few (where weights move fastest) among them."""
    unique = np.unique(frames)
    if len(unique) <= most:
        return unique
    even = np.linspace(0, len(unique) - 1, most - most // 4)
    early = np.geomspace(1, len(unique) - 1, most // 4)
    return unique[np.unique(np.rint(np.concatenate([even, early])).astype(int))]

"""One pass over a recording in bounded memory: every measure looks at the same frames while they go by.

Frames are read in time order, a few at a time, tensor by tensor; each tensor is handed on as a `Moment`: the values now,
in the frame before, and at the start. What several measures need (the update, the squared norm) is computed once per moment.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, UnknownTensor, closest
from weightlapse.progress import track

Array = NDArray[np.float64]
Groups = Mapping[str, Any]

CHUNK_BYTES = 32 << 20  # raw bytes of one tensor read at a time


@dataclass
class Moment:
    """One tensor (or group of weights) at one frame, as float64: ``now``, ``before`` (None at the first frame), ``start``."""

    name: str
    frame: int
    step: int
    now: Array
    before: Array | None
    start: Array
    end: Array | None

    @cached_property
    def update(self) -> Array | None:
        """``now - before``, None at the first frame."""
        return None if self.before is None else self.now - self.before

    @cached_property
    def norm(self) -> float:
        return length(self.now)

    @cached_property
    def update_norm(self) -> float:
        return float("nan") if self.update is None else length(self.update)


def length(x: Array) -> float:
    """Euclidean length of all entries of ``x``."""
    flat = x.reshape(-1)
    return float(np.sqrt(np.dot(flat, flat)))


def select(run: Any, tensors: str | Sequence[str] = "*") -> list[str]:
    """Names of ``run`` that match the glob or globs, floating-point ones only; an empty choice is an error.

    Without a colon in the pattern only weights and buffers match, not the streams ``gradients:`` and ``optimizer:``.
    """
    patterns = [tensors] if isinstance(tensors, str) else list(tensors)
    chosen = []
    for name in run.names:
        if any(fnmatch.fnmatchcase(name, p) and (":" in p or ":" not in name) for p in patterns):
            kind = np.dtype(run.dtypes[name]).kind if str(run.dtypes[name]) != "bfloat16" else "f"
            if kind == "f":
                chosen.append(name)
    if not chosen:
        raise UnknownTensor(
            f"no floating-point tensor of the recording matches {tensors!r}; {closest(patterns[0], run.names)}"
        )
    return chosen


def frame_range(run: Any, frames: slice | None) -> range:
    """The frames to look at, in time order, as a range; an empty one is an error."""
    chosen = range(run.frames)[frames or slice(None)]
    if len(chosen) == 0 or chosen.step < 1:
        raise InvalidArgument(
            f"frames={frames} selects nothing of {run.frames} frames; give a slice such as slice(0, 100, 5)"
        )
    return chosen


class Members:
    """Where the entries of one user-named group live: flat positions in each tensor, or ``...`` for all of it."""

    def __init__(self, name: str, members: Any, names: list[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
        if not isinstance(members, Mapping):
            if len(names) != 1:
                raise InvalidArgument(
                    f"group {name!r} gives bare positions, but {len(names)} tensors are selected; "
                    "give a mapping from tensor to positions, or choose one tensor with tensors="
                )
            members = {names[0]: members}
        self.name = name
        self.at: dict[str, NDArray[np.int64] | slice] = {}
        for tensor, positions in members.items():
            if tensor not in names:
                raise UnknownTensor(
                    f"group {name!r} names {tensor!r}, which is not among the measured tensors; {closest(tensor, names)}"
                )
            if positions is ...:
                self.at[tensor] = slice(None)
                continue
            size = int(np.prod(shapes[tensor]))
            flat = np.asarray(positions, dtype=np.int64).reshape(-1)
            if flat.size == 0 or flat.min() < -size or flat.max() >= size:
                raise InvalidArgument(
                    f"group {name!r}: positions in {tensor!r} must be flat indices below {size}, and at least one"
                )
            self.at[tensor] = flat % size


def moments(
    run: Any,
    names: list[str],
    frames: range,
    groups: Groups | None = None,
    *,
    need_end: bool = False,
    label: str = "measuring",
) -> Iterator[Moment]:
    """Every selected tensor (or group) at every selected frame, time outermost within a chunk of frames.

    Values are float64. At most ``CHUNK_BYTES`` of one tensor are in memory besides three frames of it.
    """
    shapes = {n: tuple(run.shapes[n]) for n in names}
    members = [Members(g, m, names, shapes) for g, m in groups.items()] if groups else []
    if members:
        names = [n for n in names if any(n in m.at for m in members)]
    widest = max(8 * int(np.prod(shapes[n], dtype=np.int64)) for n in names)
    per_chunk = max(1, min(len(frames), CHUNK_BYTES // max(widest, 1)))

    def read(name: str, index: slice) -> Array:
        return np.asarray(run[name][index], dtype=np.float64)

    def state(frame: int) -> dict[str, Array]:
        return gather({n: read(n, slice(frame, frame + 1))[0] for n in names})

    def gather(values: dict[str, Array]) -> dict[str, Array]:
        if not members:
            return values
        return {m.name: np.concatenate([values[t].reshape(-1)[at] for t, at in m.at.items()]) for m in members}

    start = state(frames[0])
    end = state(frames[-1]) if need_end else {}
    before: dict[str, Array] = {}
    for chunk in track(range(0, len(frames), per_chunk), label):
        part = frames[chunk : chunk + per_chunk]
        block = {n: run[n][slice(part.start, part.stop, part.step)] for n in names}
        for i, frame in enumerate(part):
            now = gather({n: np.asarray(block[n][i], dtype=np.float64) for n in names})
            step = int(run.steps[frame])
            for key, value in now.items():
                yield Moment(key, frame, step, value, before.get(key), start[key], end.get(key))
            before = now

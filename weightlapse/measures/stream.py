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
from weightlapse.measures.chosen import Chosen
from weightlapse.progress import track
from weightlapse.recording.frames import Frames, rising_frames
from weightlapse.recording.run import Run
from weightlapse.store.layout import value_dtype

Array = NDArray[np.float64]
Values = NDArray[np.floating[Any]]
Groups = Mapping[str, Any]

CHUNK_BYTES = 32 << 20  # bytes of one tensor read at a time
BLOCK = 1 << 15  # entries summed at a time: they stay in the processor's cache


@dataclass
class Moment:
    """One tensor (or group of weights) at one frame: its values ``raw``, those of the frame ``before`` (None at the first), of the
    ``start`` and, where a measure asks for it, of the ``end``, all as they were read.

    ``now`` and ``update`` are float64 copies, made when first asked for. The lengths are summed in float64 block by block, so that no
    copy of a large tensor is made for them.

    Of a complex tensor all of these hold both parts, (..., 2), real first; ``weights`` gives one complex number per weight.
    """

    name: str
    frame: int
    step: int
    raw: Values
    before: Values | None
    start: Values
    end: Values | None
    is_complex: bool = False

    @property
    def weights(self) -> NDArray[Any]:
        """``now`` with one number per weight: float64, or complex128 for a complex tensor."""
        return self.as_weights(self.now)

    def as_weights(self, values: Values) -> NDArray[Any]:
        """``values`` of this moment (``now``, ``before``, an update ...) with one number per weight, in float64 or complex128."""
        wide = np.ascontiguousarray(values, dtype=np.float64)
        return wide.view(np.complex128)[..., 0] if self.is_complex else wide

    @cached_property
    def now(self) -> Array:
        """The values in float64; (..., 2) of a complex tensor."""
        return np.asarray(self.raw, dtype=np.float64)

    @cached_property
    def update(self) -> Array | None:
        """``now - before`` in float64, None at the first frame."""
        return None if self.before is None else self.now - self.before

    @cached_property
    def norm(self) -> float:
        """Euclidean length of the values."""
        return length(self.raw)

    @cached_property
    def update_norm(self) -> float:
        """Euclidean length of the update since the frame before; NaN at the first frame, which has none."""
        return float("nan") if self.before is None else length(self.raw, self.before)


def length(x: Values, origin: Values | None = None) -> float:
    """Euclidean length of all entries of ``x``, or of ``x - origin``, summed in float64."""
    flat, base = x.reshape(-1), None if origin is None else origin.reshape(-1)
    total = 0.0
    for first in range(0, flat.size, BLOCK):
        part = flat[first : first + BLOCK].astype(np.float64)
        if base is not None:
            part -= base[first : first + BLOCK]
        total += float(np.dot(part, part))
    return float(np.sqrt(total))


def parts(values: NDArray[Any]) -> NDArray[Any]:
    """Complex values as the real numbers of both parts, (..., 2), without a copy; real ones as they are."""
    if values.dtype.kind != "c":
        return values
    values = np.ascontiguousarray(values) if values.ndim else values.reshape(1)
    return values.view(values.real.dtype).reshape(*np.shape(values), 2)


def select(run: Run, tensors: str | Sequence[str] = "*") -> list[str]:
    """Names of ``run`` that match the glob or globs, floating-point and complex ones only; an empty choice is an error.

    Without a colon in the pattern only weights and buffers match, not the streams ``gradients:`` and ``optimizer:``.
    """
    patterns = [tensors] if isinstance(tensors, str) else list(tensors)
    chosen = []
    for name in run.names:
        wanted = any(fnmatch.fnmatchcase(name, p) and (":" in p or ":" not in name) for p in patterns)
        if wanted and value_dtype(str(run.dtypes[name])).kind in "fc":
            chosen.append(name)
    if not chosen:
        raise UnknownTensor(
            f"no floating-point tensor of the recording matches {tensors!r}; {closest(patterns[0], run.names)}"
        )
    return chosen


def frames_of(run: Run, frames: Frames) -> tuple[Run, range]:
    """The frames to look at, rising, as a range of ``run``, or, where they are not evenly spaced, of a stand-in that holds no others."""
    at = rising_frames(frames, run.frames)
    far = int(at[1] - at[0]) if len(at) > 1 else 1
    if (np.diff(at) == far).all():
        return run, range(int(at[0]), int(at[-1]) + 1, far)
    return Chosen(run, at), range(len(at))


class Members:
    """Where the entries of one user-named group live: ``at``, tensor -> flat positions, or a slice for all of it.

    ``members``: flat positions (a sequence, a slice, or ``...`` for all) of the only tensor of ``names``, or of the one that bears the group's
    name; ``(tensor, positions)``; or ``{tensor: positions}``. The same for measures and for films.
    """

    def __init__(self, name: str, members: Any, names: list[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
        if isinstance(members, tuple) and len(members) == 2 and isinstance(members[0], str):
            members = {members[0]: members[1]}
        if not isinstance(members, Mapping):
            if name in names:
                names = [name]
            if len(names) != 1:
                raise InvalidArgument(
                    f"group {name!r} gives bare positions, but {len(names)} tensors are selected; "
                    "write {group: {tensor: positions}}, or choose one tensor with tensors="
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
            flat = np.arange(size)[positions] if isinstance(positions, slice) else np.asarray(positions)
            flat = (np.flatnonzero(flat) if flat.dtype == bool else flat.astype(np.int64)).reshape(-1)
            if flat.size == 0 or flat.min() < -size or flat.max() >= size:
                raise InvalidArgument(
                    f"group {name!r} holds no weight of {tensor!r}, or one that it has not: positions must be flat indices below {size}"
                )
            self.at[tensor] = flat % size


def joined(pieces: list[NDArray[Any]]) -> NDArray[Any]:
    """Flat pieces of a group one after the other; where real and complex ones meet, each part of a complex number counts by itself."""
    if len({piece.dtype.kind == "c" for piece in pieces}) > 1:
        pieces = [parts(piece).reshape(-1) for piece in pieces]
    return np.concatenate(pieces)


def moments(
    run: Run,
    names: list[str],
    frames: range,
    groups: Groups | None = None,
    *,
    need_end: bool = False,
    together: bool = False,
    label: str = "measuring",
) -> Iterator[Moment]:
    """Every selected tensor (or group) at every selected frame.

    Tensor after tensor, each through all its frames, so that every block of the recording is unpacked once; where groups span
    tensors, or ``together`` is asked for, frame after frame with all tensors of a frame. At most ``CHUNK_BYTES`` of one tensor are
    read at a time, besides three frames of it.
    """
    if groups or together:
        yield from _frame_by_frame(run, names, frames, groups, need_end, label)
        return
    for name in track(names, label):
        yield from _frame_by_frame(run, [name], frames, None, need_end, "")


def _frame_by_frame(
    run: Run, names: list[str], frames: range, groups: Groups | None, need_end: bool, label: str
) -> Iterator[Moment]:
    shapes = {n: tuple(run.shapes[n]) for n in names}
    members = [Members(g, m, names, shapes) for g, m in groups.items()] if groups else []
    if members:
        names = [n for n in names if any(n in m.at for m in members)]
    widest = max(8 * int(np.prod(shapes[n], dtype=np.int64)) for n in names)
    per_chunk = max(1, min(len(frames), CHUNK_BYTES // max(widest, 1)))

    def state(frame: int) -> dict[str, Values]:
        return gather({n: np.asarray(run[n][frame : frame + 1])[0] for n in names})

    def gather(values: dict[str, Values]) -> dict[str, Values]:
        if not members:
            return values
        return {m.name: joined([values[t].reshape(-1)[at] for t, at in m.at.items()]) for m in members}

    start: dict[str, Values] = {}
    end = {key: parts(value) for key, value in state(frames[-1]).items()} if need_end else {}
    before: dict[str, Values] = {}
    chunks = range(0, len(frames), per_chunk)
    for chunk in track(chunks, label) if label else chunks:
        part = frames[chunk : chunk + per_chunk]
        block = {n: run[n][slice(part.start, part.stop, part.step)] for n in names}
        for i, frame in enumerate(part):
            now = gather({n: np.asarray(block[n][i]) for n in names})
            start = start or {key: parts(value) for key, value in now.items()}
            step = int(run.steps[frame])
            for key, value in list(now.items()):
                raw = value if value.dtype.kind != "c" else parts(value)
                yield Moment(key, frame, step, raw, before.get(key), start[key], end.get(key), value.dtype.kind == "c")
                now[key] = raw
            before = now

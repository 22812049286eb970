"""Two recordings side by side: the second in the unit order of the first, read like any recording, and how far the two are apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, WeightlapseError
from weightlapse.symmetry.runs import AlignedRuns, align_runs
from weightlapse.symmetry.states import distance, float_arrays
from weightlapse.symmetry.units import units_of
from weightlapse.view.manifest import numbers
from weightlapse.view.subject import Subject

CURVE_PAIRS = 80
CURVE_VALUES = 100_000_000  # values that a distance curve may read
READ_VALUES = 8_000_000


class AlignedRun:
    """The face of ``run``, with every tensor moved by one element of the symmetry group."""

    def __init__(self, aligned: AlignedRuns) -> None:
        self._run = aligned.b
        self._element = aligned.element(-1)
        self._units = {g.name: units_of(g, frozenset()) for g in aligned.wiring.groups}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def __getitem__(self, name: str) -> AlignedTrack:
        return AlignedTrack(self, name)

    def moved(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """``values`` (frames, *shape) of one tensor, in the order, signs and scales of the other run."""
        arrays = {name: np.moveaxis(values, 0, -1)}  # the time axis rides along at the end
        return np.moveaxis(np.asarray(self._element.on_arrays(arrays, self._units)[name]), -1, 0)


class AlignedTrack:
    """One tensor of an ``AlignedRun``. A part of it needs the whole tensor, so frames are read a few at a time."""

    def __init__(self, run: AlignedRun, name: str) -> None:
        self._run, self._name = run, name
        self._track = run._run[name]
        self.shape, self.dtype = self._track.shape, self._track.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        frames, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(frames, slice):
            return self._run.moved(self._name, np.asarray(self._track[int(frames)])[None])[(0, *rest)]
        numbers_ = list(range(*frames.indices(self.shape[0])))
        together = max(1, READ_VALUES // max(1, math.prod(self.shape[1:])))
        parts = []
        for at in range(0, len(numbers_), together):
            values = np.asarray(self._track[numbers_[at : at + together]])
            parts.append(self._run.moved(self._name, values)[(slice(None), *rest)])
        return np.concatenate(parts)


def pair(subjects: list[Subject]) -> tuple[dict[str, Any], Subject | None]:
    """How far the first two runs are apart over time, as they are and aligned, and the aligned one as a subject of its own.

    Where they cannot be aligned the answer says why, and holds the raw distance alone.
    """
    if len(subjects) < 2:
        raise InvalidArgument("two recordings are needed for a comparison")
    a, b = (s.reopened() for s in subjects[:2])
    try:
        found = align_runs(a, b)
    except WeightlapseError as error:
        frames, raw = _raw_curve(a, b)
        return {"frames": frames, "raw": numbers(raw), "aligned": None, "reason": str(error)}, None
    pairs = np.stack([found.frames_a, found.frames_b])[:, _some(len(found), subjects[0])]
    few = AlignedRuns(a, b, found.wiring, pairs, [found.element(-1)], "last")
    with np.errstate(invalid="ignore", over="ignore"):  # a NaN on the way is a gap in the curve
        curves = {"raw": numbers(few.raw_distance), "aligned": numbers(few.aligned_distance)}
    aligned = Subject(AlignedRun(found), f"{subjects[1].name}, aligned")
    return {"frames": few.frames_a.tolist(), **curves, "reason": None}, aligned


def _some(count: int, subject: Subject) -> NDArray[np.int64]:
    size = sum(math.prod(shape) for shape in subject.run.shapes.values())
    points = min(count, CURVE_PAIRS, max(4, CURVE_VALUES // max(1, 3 * size)))
    return np.unique(np.linspace(0, count - 1, points).round().astype(np.int64))


def _raw_curve(a: Any, b: Any) -> tuple[list[int], list[float]]:
    """||A - B|| / ||A|| over the tensors that both runs have in one shape, at steps that both recorded; empty where there are none."""
    _, in_a, in_b = np.intersect1d(a.steps, b.steps, return_indices=True)
    count = min(len(in_a), CURVE_PAIRS)
    chosen: NDArray[np.int64] = np.unique(np.linspace(0, max(0, len(in_a) - 1), count).round().astype(np.int64))
    frames, values = [], []
    for i in chosen:
        left, right = a.state(frame=int(in_a[i])), b.state(frame=int(in_b[i]))
        names = {n: None for n in left if n in right and left[n].shape == right[n].shape and left[n].dtype.kind in "fc"}
        if not names:
            return [], []
        frames.append(int(in_a[i]))
        with np.errstate(invalid="ignore", over="ignore"):
            values.append(distance(float_arrays(left, names), float_arrays(right, names)))
    return frames, values

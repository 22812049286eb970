"""Two recordings side by side: the second in the unit order of the first, read like any recording, and how far the two are apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, WeightlapseError
from weightlapse.recording.frames import frame_of_step
from weightlapse.recording.run import Run, Seen, TensorHistory
from weightlapse.symmetry.runs import AlignedRuns, align_runs
from weightlapse.symmetry.states import distance, float_arrays
from weightlapse.symmetry.units import units_of
from weightlapse.view.manifest import numbers
from weightlapse.view.subject import Subject

CURVE_PAIRS = 80
FOLLOWED = 200  # frames from one to the next of which units are followed, where both runs recorded the same steps
CURVE_VALUES = 100_000_000  # values that a distance curve may read
READ_VALUES = 8_000_000


class AlignedRun(Seen):
    """The second of two recordings, every tensor moved by an element of the symmetry group: one for all frames, or, followed, that of the pair before each."""

    def __init__(self, aligned: AlignedRuns) -> None:
        super().__init__(aligned.b)
        self._aligned = aligned
        self._units = {g.name: units_of(g, frozenset()) for g in aligned.wiring.groups}

    def __getitem__(self, name: str, /) -> AlignedTrack:
        return AlignedTrack(self, name, self._run[name])

    def state(self, step: int | None = None, *, frame: int | None = None) -> dict[str, NDArray[Any]]:
        """As `Run.state`: one frame, moved by the element of the group that is right there. Raises MissingStep for a step that was not recorded."""
        number = frame_of_step(self, step) if step is not None else range(self.frames)[-1 if frame is None else frame]
        (pair,) = self._pairs([number])
        return self._aligned.element(pair).on_state(self._run.state(frame=number), self._aligned.wiring)

    def moved(self, name: str, values: NDArray[Any], frames: Sequence[int]) -> NDArray[Any]:
        """``values`` (frames, *shape) of one tensor at ``frames``, in the order, signs and scales of the other run."""
        elements = [self._aligned.element(i) for i in self._pairs(frames)]
        parts, begin = [], 0
        for _, same in itertools.groupby(elements, key=id):
            count = len(list(same))
            arrays = {name: np.moveaxis(values[begin : begin + count], 0, -1)}  # the time axis rides along at the end
            parts.append(np.moveaxis(np.asarray(elements[begin].on_arrays(arrays, self._units)[name]), -1, 0))
            begin += count
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _pairs(self, frames: Sequence[int]) -> list[int]:
        if self._aligned.mode == "last":
            return [len(self._aligned) - 1] * len(frames)
        return np.maximum(np.searchsorted(self._aligned.frames_b, frames, side="right") - 1, 0).tolist()


class AlignedTrack:
    """One tensor of an ``AlignedRun``. A part of it needs the whole tensor, so frames are read a few at a time."""

    def __init__(self, run: AlignedRun, name: str, track: TensorHistory) -> None:
        self._run, self._name, self._track = run, name, track
        self.shape, self.dtype = track.shape, track.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        frames, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(frames, slice):
            frame = range(self.shape[0])[int(frames)]
            return self._run.moved(self._name, np.asarray(self._track[frame])[None], [frame])[(0, *rest)]
        numbers_ = list(range(*frames.indices(self.shape[0])))
        together = max(1, READ_VALUES // max(1, math.prod(self.shape[1:])))
        parts = []
        for at in range(0, len(numbers_), together):
            some = numbers_[at : at + together]
            parts.append(self._run.moved(self._name, np.asarray(self._track[some]), some)[(slice(None), *rest)])
        return np.concatenate(parts)


def pair(subjects: list[Subject], follow: bool = False) -> tuple[dict[str, Any], Subject | None]:
    """How far the first two runs are apart over time, as they are and aligned, and the aligned one as a subject of its own.

    ``follow``: in the frame that follows the units from the first pair on (see `align_runs`); then ``parting`` names, for each group of units, the step from
    which on most of them have no partner any more (None: together at the end). Where they cannot be aligned the answer says why, and holds the raw distance alone.
    """
    if len(subjects) < 2:
        raise InvalidArgument("two recordings are needed for a comparison")
    a, b = (s.reopened() for s in subjects[:2])
    try:
        found = align_runs(a, b, follow=follow, frames=_followed(a, b) if follow else None)
    except WeightlapseError as error:
        frames, raw = _raw_curve(a, b)
        return {"frames": frames, "raw": numbers(raw), "aligned": None, "reason": str(error)}, None
    pairs = np.stack([found.frames_a, found.frames_b])[:, _some(len(found), subjects[0])]
    elements = [found.element(int(np.searchsorted(found.frames_a, f))) for f in pairs[0]]
    few = (
        AlignedRuns(a, b, found.wiring, pairs, elements, found.mode)
        if follow
        else AlignedRuns(a, b, found.wiring, pairs, elements[-1:], "last")
    )
    with np.errstate(invalid="ignore", over="ignore"):  # a NaN on the way is a gap in the curve
        curves = {"raw": numbers(few.raw_distance), "aligned": numbers(few.aligned_distance)}
    aligned = Subject(AlignedRun(found), f"{subjects[1].name}, {'followed' if follow else 'aligned'}")
    report = {"frames": few.frames_a.tolist(), **curves, "reason": None}
    return report | ({"parting": few.parting} if follow else {}), aligned


def _followed(a: Run, b: Run) -> NDArray[np.int64] | None:
    """The frames to chain over: some hundreds of them, evenly spaced; None (all that have a partner) where the runs recorded different steps."""
    if not np.array_equal(a.steps, b.steps):
        return None
    return np.unique(np.linspace(0, len(a.steps) - 1, min(len(a.steps), FOLLOWED)).round().astype(np.int64))


def _some(count: int, subject: Subject) -> NDArray[np.int64]:
    size = sum(math.prod(shape) for shape in subject.run.shapes.values())
    points = min(count, CURVE_PAIRS, max(4, CURVE_VALUES // max(1, 3 * size)))
    return np.unique(np.linspace(0, count - 1, points).round().astype(np.int64))


def _raw_curve(a: Run, b: Run) -> tuple[list[int], list[float]]:
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

"""``wl.align_runs``: one recording in the unit order of another, frame by frame."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from weightlapse.arguments import search_seed
from weightlapse.errors import CannotAlign, InvalidArgument
from weightlapse.progress import track
from weightlapse.recording.frames import Frames, check_frames
from weightlapse.recording.renamed import under_names_of
from weightlapse.recording.run import Run
from weightlapse.symmetry.checks import check_alike
from weightlapse.symmetry.elements import Elements
from weightlapse.symmetry.follow import ALL, PLAIN, begun, chance, own_partners, parting_steps, recording_of, stepped
from weightlapse.symmetry.problem import Problem
from weightlapse.symmetry.search import Budget, automatic_restarts
from weightlapse.symmetry.states import distance, float_arrays, parameter_names
from weightlapse.symmetry.units import allowed_symmetries, units_of
from weightlapse.wiring.data import Wiring

Mode = Literal["last", "each", "follow"]


class AlignedRuns:
    """Recording b seen in the unit order of recording a.

    ``frames_a``, ``frames_b``: int64 (n,), the frames that are paired, in order; ``steps``: a's steps there. ``state(i)``
    is b's aligned state at pair i. With mode "last" one element of the symmetry group, found at the last pair, serves all, so that
    no unit jumps in a film; with "each" every pair has its own; followed, each pair's grows out of the one before. What b computes
    stays the same at every frame.
    """

    def __init__(
        self,
        a: Run,
        b: Run,
        wiring: Wiring,
        frames: NDArray[np.int64],
        elements: list[Elements],
        mode: Mode,
        allowed: frozenset[str] = PLAIN,
    ):
        self.allowed = allowed
        self.a, self.b, self.wiring, self.mode = a, b, wiring, mode
        self.frames_a, self.frames_b = frames[0], frames[1]
        self._elements = elements
        self._curves: dict[bool, NDArray[np.float64]] = {}
        self._matched: NDArray[np.float64] | None = None
        self._parting: dict[str, int | None] | None = None

    def __len__(self) -> int:
        return len(self.frames_a)

    @property
    def steps(self) -> NDArray[np.int64]:
        """The steps of a at which both runs have a frame, int64 (pairs,)."""
        return np.asarray(self.a.steps)[self.frames_a]

    def element(self, i: int) -> Elements:
        """What moves b at pair i."""
        return self._elements[0 if self.mode == "last" else range(len(self))[i]]

    def state_a(self, i: int) -> dict[str, NDArray[Any]]:
        """a's state at pair i."""
        return dict(self.a.state(frame=int(self.frames_a[i])))

    def raw_state(self, i: int) -> dict[str, NDArray[Any]]:
        """b's state at pair i as it was recorded."""
        return dict(self.b.state(frame=int(self.frames_b[i])))

    def state(self, i: int) -> dict[str, NDArray[Any]]:
        """b's state at pair i in a's order of units."""
        return self.element(i).on_state(self.raw_state(i), self.wiring)

    def __getitem__(self, tensor: str) -> NDArray[Any]:
        """One tensor of aligned b at every pair: (n, *shape)."""
        first = self.wiring.canonical_name(tensor)
        if self.mode != "last":
            return np.stack([self.state(i)[first] for i in range(len(self))])
        values = np.asarray(self.b[first][:])[self.frames_b]
        return _moved_over_time(values, first, self._elements[0], self.wiring)

    @property
    def matched(self) -> NDArray[np.float64]:
        """(n, groups): the part of each group's units that have their partner in aligned b (see `own_partners` in ``follow``)."""
        if self._matched is None:
            found = [
                own_partners(self.state_a(i), self.state(i), self.wiring) for i in track(range(len(self)), "partners")
            ]
            self._matched = np.array([[f[g.name] for g in self.wiring.groups] for f in found])
        return self._matched

    @property
    def parting(self) -> dict[str, int | None]:
        """For each group the step at which the runs part ways for good: from then on most of its units have no partner any more.

        None for a group that is together at the end; the first step for one that never was together. What strangers reach by chance (b's numbers
        in random places, aligned to a as b was) is no partnership.
        """
        if self._parting is None:
            by_chance = chance(self.state_a(0), self.raw_state(0), self.wiring, self.allowed)
            self._parting = parting_steps(self.matched, self.steps, [g.name for g in self.wiring.groups], by_chance)
        return dict(self._parting)

    def explain(self) -> str:
        """When each layer's units part for good, in sentences."""
        parting, first = self.parting, int(self.steps[0])
        never = [n for n, s in parting.items() if s == first]
        if parting and len(never) == len(parting):
            return f"The runs were never the same: they are apart at step {first} already, in every layer."
        lines = []
        for name, step in parting.items():
            if step is None:
                lines.append(f"{name}: together until the last step, {int(self.steps[-1])}.")
            elif step == first:
                lines.append(f"{name}: never the same; apart at step {first} already.")
            else:
                lines.append(f"{name}: part ways for good at step {step}.")
        return "\n".join(lines) or "The wiring has no group of units, so nothing can be followed."

    @property
    def raw_distance(self) -> NDArray[np.float64]:
        """``||A - B|| / ||A||`` at every pair, b as recorded."""
        return self._curve(aligned=False)

    @property
    def aligned_distance(self) -> NDArray[np.float64]:
        """The same with b in a's order of units."""
        return self._curve(aligned=True)

    def _curve(self, aligned: bool) -> NDArray[np.float64]:
        if aligned not in self._curves:
            out = np.empty(len(self))
            for i in track(range(len(self)), "distances"):
                a, b = self.state_a(i), self.state(i) if aligned else self.raw_state(i)
                arrays = float_arrays(a, parameter_names(a, self.wiring))
                out[i] = distance(arrays, float_arrays(b, arrays))
            self._curves[aligned] = out
        return self._curves[aligned]


def align_runs(
    a: Run | str | os.PathLike[str],
    b: Run | str | os.PathLike[str],
    wiring: Wiring | None = None,
    mode: Mode = "last",
    frames: Frames = None,
    *,
    symmetries: Literal["auto"] | Sequence[str] = "auto",
    restarts: int | Literal["auto"] = "auto",
    seed: int | None = 0,
    follow: bool = False,
) -> AlignedRuns:
    """Bring recording ``b`` into the unit order of recording ``a``.

    a, b: recordings of the same architecture (``wl.load``), or their paths. wiring: default, the one that a recording holds. mode: "last",
    one alignment from the last frames applied to all; "each", one for every frame, started from its neighbour's.
    frames: which frames to pair (a slice, a range, an integer or several), of the same numbers in both;
    default, the frames at the steps that both have recorded. Where Keras numbered the layers
    of b on, b's tensors are matched by structure and bear a's names. seed: of
    the random starts; None is 0. follow: chain the alignments forward from the first pair, with
    hysteresis (see `weightlapse.symmetry.follow`): right for runs that began alike, and ``.parting`` says when each layer's units lose their partners.

    Raises CannotAlign (different tensors, no common step) and InvalidArgument (no wiring, unknown mode).

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> w = wl.Wiring.from_spec('''
    ... tensor a.weight (3, 2)
    ... tensor b.weight (1, 3)
    ... group a: 3 units, permutation
    ...   a.weight[0]: out
    ...   b.weight[1]: in
    ... ''')
    >>> a = {"a.weight": np.arange(6.0).reshape(3, 2), "b.weight": np.array([[10.0, 20.0, 30.0]])}
    >>> for path, start in ((one := tempfile.mkdtemp(), a), (two := tempfile.mkdtemp(), wl.permute(a, w, "a", [2, 0, 1]))):
    ...     with wl.watch(start, path, wiring=w) as rec:
    ...         rec.step({name: value + 1 for name, value in start.items()})
    >>> pairs = wl.align_runs(wl.load(one), wl.load(two))
    >>> pairs.steps.tolist(), pairs["b.weight"][-1].tolist()
    ([0, 1], [[11.0, 21.0, 31.0]])
    """
    mode = "follow" if follow else mode
    if mode not in ("last", "each", "follow"):
        raise InvalidArgument(f"mode must be 'last', 'each' or 'follow', got {mode!r}")
    a = recording_of(a, "a")
    b = under_names_of(a, recording_of(b, "b"))
    w = wiring or a.wiring or b.wiring
    if w is None:
        raise InvalidArgument(
            "neither recording holds a wiring: pass wiring=wl.trace(model, example), or record with example=... next time"
        )
    pairs = _pairs(a, b, frames)
    at = 0 if mode == "follow" else -1
    last_a, last_b = (dict(r.state(frame=int(f))) for r, f in zip((a, b), pairs[:, at]))
    check_alike((last_a, last_b), w)
    allowed = allowed_symmetries(symmetries) & (ALL if mode == "follow" else PLAIN)
    count = automatic_restarts(float_arrays(last_a, w.shapes)) if restarts == "auto" else int(restarts)
    elements = [begun(Problem.of_states(last_a, last_b, w, allowed, Budget(count, search_seed(seed))))]
    if mode == "each":
        for fa, fb in track(list(pairs.T[:-1][::-1]), "aligning frames"):
            both = a.state(frame=int(fa)), b.state(frame=int(fb))
            search = Problem.of_states(*both, w, allowed).search
            search.polish(elements[-1], "neighbour")
            elements.append(search.best.elements)
        elements.reverse()
    if mode == "follow":
        for fa, fb in track(list(pairs.T[1:]), "following"):
            of_a, of_b = dict(a.state(frame=int(fa))), dict(b.state(frame=int(fb)))
            elements.append(stepped(of_a, of_b, w, elements[-1], allowed))
    return AlignedRuns(a, b, w, pairs, elements, mode, allowed)


def _pairs(a: Run, b: Run, frames: Frames) -> NDArray[np.int64]:
    """Frame numbers, shape (2, n): of a in the first row, of b in the second."""
    if frames is not None:
        of_a, of_b = (check_frames(frames, len(r.steps)) for r in (a, b))
        if len(of_a) != len(of_b):
            raise InvalidArgument(
                f"frames={frames!r} are {len(of_a)} frames of {a.path}, which has {len(a.steps)}, and {len(of_b)} of {b.path}, which has "
                f"{len(b.steps)}; name as many of both"
            )
        return np.stack([of_a, of_b])
    steps_a, steps_b = np.asarray(a.steps), np.asarray(b.steps)
    _, in_a, in_b = np.intersect1d(steps_a, steps_b, return_indices=True)
    if not len(in_a):
        raise CannotAlign(
            f"the recordings have no step in common (one spans {steps_a[0]}..{steps_a[-1]}, the other "
            f"{steps_b[0]}..{steps_b[-1]}); pass frames= to pair frames by number"
        )
    return np.stack([in_a, in_b]).astype(np.int64)


def _moved_over_time(values: NDArray[Any], tensor: str, elements: Elements, wiring: Wiring) -> NDArray[Any]:
    """One tensor with a leading time axis, moved like a state: the time axis rides along as a last axis."""
    probe = {tensor: np.moveaxis(values, 0, -1)}
    units = {g.name: units_of(g, frozenset()) for g in wiring.groups}
    return np.moveaxis(elements.on_arrays(probe, units)[tensor], -1, 0)

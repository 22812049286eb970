"""Following units, and bases, through time: alignments chained frame to frame, and the step at which two runs from one start part ways.

Matching the ends of two long trainings asks too much of the weights: by then a unit may look like another one's past. From one frame to the next it
has hardly moved, so each alignment starts where the one before ended, and is left only for one that is clearly nearer (*hysteresis*): a unit does not
change its name because two candidates come out even once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotAlign, InvalidArgument
from weightlapse.progress import track
from weightlapse.recording.frames import Frames, rising_frames
from weightlapse.recording.recording import opened
from weightlapse.recording.run import Run
from weightlapse.symmetry.checks import check_wiring_fits
from weightlapse.symmetry.elements import Elements, identity
from weightlapse.symmetry.problem import Problem
from weightlapse.symmetry.rebase import Rebase
from weightlapse.symmetry.search import Budget
from weightlapse.symmetry.solvers import by_bases, by_weights
from weightlapse.symmetry.states import distance, float_arrays
from weightlapse.symmetry.units import units_of
from weightlapse.symmetry.with_bases import FirstNames
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Basis

HYSTERESIS = 0.05  # a new alignment must take away at least this part of the distance that the old one leaves
DRIFT = 0.2  # and this part of the distance to an older frame, against which a slow drift adds up
_LEAP = 0.3  # a distance from one frame to the next that no training makes: bases are searched from nothing again
PLAIN = frozenset({"permutation", "sign", "scale"})
ALL = PLAIN | {"basis"}
_NEAR = 0.5  # the cosine that partners have at least
_LOST = 0.5  # a layer has parted when no more than this part of its units has a partner


def stepped(
    a: Mapping[str, Any], b: Mapping[str, Any], wiring: Wiring, before: Elements, allowed: frozenset[str]
) -> Elements:
    """The element that brings b onto a, begun at ``before`` and that one itself unless another is clearly nearer."""
    return nearer(a, b, wiring, before, allowed, HYSTERESIS) or before


def nearer(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    wiring: Wiring,
    before: Elements,
    allowed: frozenset[str],
    by: float,
) -> Elements | None:
    """An element that brings b onto a and leaves at most ``1 - by`` of the distance that ``before`` does; None where there is none.

    Bases have many numbers, which fit some of any movement: what they would take away by chance (as many of its squares as they
    are of the network's numbers) does not count.
    """
    if wiring.bases and "basis" in allowed:
        rebase = Rebase(a, b, wiring, allowed)
        here = _left(rebase, before)
        found = rebase.run(before)
        if found is not None and found.distance > _LEAP:
            afresh = Rebase(a, b, wiring, allowed).run()
            found = afresh if afresh is not None and afresh.distance < found.distance else found
        size = sum(math.prod(wiring.shapes[n]) for n in rebase.names)
        free = min(sum(_free(s) for s in wiring.bases) / size, 0.9)
        some = here * (1 - by) * (1 - free) ** 0.5
        return found.elements if found is not None and found.distance < some else None
    search = Problem.of_states(a, b, wiring, allowed).search
    left = search.judged(before, "before").distance
    polished = search.polish(before, "followed")
    return polished.elements if polished.distance < left * (1 - by) else None


def _left(rebase: Rebase, before: Elements) -> float:
    """The distance that an element leaves; infinite where it cannot be applied any more."""
    try:
        moved = before.on_state(rebase.state_b, rebase.wiring)
    except CannotAlign:
        return math.inf
    x, y = (FirstNames(s, rebase.wiring) for s in (rebase.state_a, moved))
    return distance(x, y, rebase.names)


def _free(s: Basis) -> int:
    """How many numbers a matrix of the basis's kind is given by."""
    rest = s.size - sum(len(p) for p in s.pairs)
    return {
        "orthogonal": s.size * (s.size - 1) // 2,
        "centred": (s.size - 1) * (s.size - 2) // 2,
        "rotary": 2 * len(s.pairs) + rest**2,
        "scales": len(s.pairs),
        "signs": 0,
    }.get(s.kind, s.size**2)


def own_partners(a: Mapping[str, Any], b: Mapping[str, Any], wiring: Wiring) -> dict[str, float]:
    """For each group the part of its units that have their partner in b: the nearest one has the same number, and a cosine of at least a half.

    The cosine is that of all weights of a unit. Any two networks can be put in an order in which most units are each other's nearest; near they are not.
    """
    names = dict.fromkeys(m.tensor for g in wiring.groups for m in g.members if m.roles != {"stat"})
    x, y = float_arrays(a, names), float_arrays(b, names)
    out = {}
    for g in wiring.groups:
        inner, size_a, size_b = np.zeros((g.size, g.size)), np.zeros(g.size), np.zeros(g.size)
        for p in units_of(g, PLAIN).voters:
            if p.tensor in x:
                u, v = p.rows(x[p.tensor]), p.rows(y[p.tensor])
                inner += u @ v.T
                size_a += np.einsum("ij,ij->i", u, u)
                size_b += np.einsum("ij,ij->i", v, v)
        cosine = inner / np.sqrt(np.maximum(size_a[:, None] * size_b[None, :], 1e-300))
        near = (cosine.argmax(axis=1) == np.arange(g.size)) & (cosine.diagonal() >= _NEAR)
        out[g.name] = float(near.mean())
    return out


def chance(
    a: Mapping[str, Any], b: Mapping[str, Any], wiring: Wiring, allowed: frozenset[str], draws: int = 3
) -> dict[str, float]:
    """`own_partners` of each group where there is nothing to find: the largest share over some networks with b's numbers in random places."""
    rng = np.random.default_rng(0)
    wired = {m.tensor for g in wiring.groups for m in g.members if m.roles != {"stat"}}
    most = dict.fromkeys((g.name for g in wiring.groups), 0.0)
    for _ in range(draws):
        stranger = {
            n: rng.permutation(np.asarray(v).ravel()).reshape(np.shape(v))
            if (first := wiring.canonical_name(n)) in wired and n == first
            else v
            for n, v in b.items()
        }
        stranger |= {
            n: stranger[f] for f, rest in wiring.aliases.items() if f in stranger for n in rest if n in stranger
        }
        found = begun(Problem.of_states(a, stranger, wiring, allowed, Budget(0, 0)))
        for name, share in own_partners(a, found.on_state(stranger, wiring), wiring).items():
            most[name] = max(most[name], share)
    return most


def begun(problem: Problem) -> Elements:
    """The element that brings b onto a, from nothing."""
    (found,) = by_weights(problem)
    if found.distance > HYSTERESIS:
        found = min((found, *by_bases(problem)), key=lambda c: c.distance)
    return found.elements


def parting_steps(
    matched: NDArray[np.float64],
    steps: NDArray[np.int64],
    groups: Sequence[str],
    by_chance: Mapping[str, float] | None = None,
) -> dict[str, int | None]:
    """For each group the first step from which on most of its units never find their partner again; None when they do at the end.

    Units of strangers find some: ``by_chance`` is their share, and half of what is above it must be found.
    """
    out: dict[str, int | None] = {}
    for j, name in enumerate(groups):
        lost = max(_LOST, (1 + (by_chance or {}).get(name, 0.0)) / 2)
        held = np.flatnonzero(matched[:, j] > (lost if by_chance else _LOST))
        last = int(held[-1]) if len(held) else -1
        out[name] = int(steps[last + 1]) if last + 1 < len(steps) else None
    return out


class FollowedRun:
    """A recording whose units keep their numbers through time.

    ``frames`` int64 (n,), ``steps`` int64 (n,); ``state(i)`` is the recorded state at frame i in the order of the first one: the function is the
    recorded one. ``moved`` lists the steps at which units changed places; a training that nobody interrupts has none.
    """

    def __init__(self, run: Run, wiring: Wiring, frames: NDArray[np.int64], elements: list[Elements]) -> None:
        self.run, self.wiring, self.frames, self._elements = run, wiring, frames, elements

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def steps(self) -> NDArray[np.int64]:
        """The optimizer steps of the followed frames, int64 (frames,)."""
        return np.asarray(self.run.steps)[self.frames]

    @property
    def moved(self) -> list[int]:
        """The steps at which units changed their order, or streams and heads their basis, against the frame before."""
        return [int(s) for s, x, y in zip(self.steps[1:], self._elements, self._elements[1:]) if x is not y]

    def element(self, i: int) -> Elements:
        """What brings frame i into the followed order."""
        return self._elements[i]

    def state(self, i: int) -> dict[str, Any]:
        """The state at frame i with its units where they were at the start."""
        return self._elements[i].on_state(dict(self.run.state(frame=int(self.frames[i]))), self.wiring)

    def __getitem__(self, tensor: str) -> NDArray[Any]:
        """One tensor at every frame: (n, *shape)."""
        name = self.wiring.canonical_name(tensor)
        return np.stack([self.state(i)[name] for i in range(len(self))])


def recording_of(what: Run | str | os.PathLike[str], which: str) -> Run:
    """A recording, or the one at a path. Raises InvalidArgument for anything else, which has no frames to follow."""
    if isinstance(what, Mapping) or (not isinstance(what, (str, os.PathLike)) and not hasattr(what, "steps")):
        raise InvalidArgument(
            f"{which} must be a recording (wl.load) or the path of one, got {type(what).__name__}; "
            "wl.align compares single networks"
        )
    return opened(what)


def follow(run: Run | str | os.PathLike[str], wiring: Wiring | None = None, frames: Frames = None) -> FollowedRun:
    """Give every unit of a recording one number for all its life.

    A training keeps its units in place, but a file may not: it was resumed from a reordered checkpoint, merged, pruned and sorted. Frame after frame the
    recording is aligned to the followed frame before it (orders, signs, scales and bases of the wiring), with hysteresis; a slow drift of a basis, which no
    single frame shows, is found against the last frame at which something was moved. run: of ``wl.load``, or its path. wiring:
    default, the recording's. frames: which frames, rising (a slice, a range, an integer or several); default all.

    Raises InvalidArgument without a wiring or for frames that are not there, CannotAlign where tensors change their shape in between.

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> w = wl.Wiring.from_spec('''
    ... tensor a.weight (3, 2)
    ... tensor b.weight (1, 3)
    ... group a: 3 units, permutation
    ...   a.weight[0]: out
    ...   b.weight[1]: in
    ... ''')
    >>> state = {"a.weight": np.arange(6.0).reshape(3, 2), "b.weight": np.array([[10.0, 20.0, 30.0]])}
    >>> with wl.watch(state, tempfile.mkdtemp(), wiring=w) as rec:
    ...     rec.step(wl.permute(state, w, "a", [2, 0, 1]))
    >>> followed = wl.follow(wl.load(rec.path))
    >>> followed.moved, followed.state(1)["b.weight"].tolist()
    ([1], [[10.0, 20.0, 30.0]])
    """
    run = recording_of(run, "run")
    w = wiring or run.wiring
    if w is None:
        raise InvalidArgument(
            "the recording holds no wiring: pass wiring=wl.trace(model, example), or record with example=... next time"
        )
    chosen = rising_frames(frames, len(run.steps))
    elements = [identity(w)]
    before = dict(run.state(frame=int(chosen[0])))
    settled = before  # the frame since which nothing was moved
    check_wiring_fits(before, w)
    for frame in track(list(chosen[1:]), "following"):
        state = dict(run.state(frame=int(frame)))
        check_wiring_fits(state, w)
        last = elements[-1]
        found = nearer(before, state, w, last, ALL, HYSTERESIS)
        if found is None and w.bases and settled is not before:
            found = nearer(settled, state, w, last, ALL, DRIFT)
        elements.append(last if found is None else found)
        before = elements[-1].on_state(state, w)
        settled = settled if found is None else before
    return FollowedRun(run, w, chosen, elements)

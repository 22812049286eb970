"""Networks that grow in mid-run: which unit came from which, so that children are drawn beside their parents."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from weightlapse.film.frames import Values, values_over
from weightlapse.recording.run import LayoutSpan, Run

_ALIKE = 0.9  # cosine from which a new unit counts as the child of an old one when the recording does not say

Order = NDArray[np.int64]
Orders = Mapping[str, Mapping[int, tuple[Order, NDArray[np.bool_]]]]


class Lineage:
    """For each layout of ``run`` and each tensor that grew: the order in which the units of an axis are drawn.

    The recording's own lineage (group -> parent of each unit) comes first. Where it says nothing, a unit is the child of the old unit
    whose weights point the same way in the first frame after growing; one that resembles none is drawn at the end.
    """

    def __init__(self, run: Run) -> None:
        self._orders: list[tuple[int, Orders]] = []
        orders: Orders = {}
        for before, after in itertools.pairwise(list(run.layouts)):
            if after.start < after.stop:
                # what did not change keeps its order
                kept = {name: axes for name, axes in orders.items() if after.shapes.get(name) == before.shapes[name]}
                orders = {**kept, **_orders(run, before, after, orders)}
                self._orders.append((after.start, orders))

    def at(self, frame: int) -> Orders:
        """tensor -> axis -> (positions in the order drawn, which of those are new), for the layout that holds ``frame``."""
        return next((orders for start, orders in reversed(self._orders) if frame >= start), {})

    def arranged(self, name: str, value: Values, frame: int) -> Values:
        """``value`` with children beside their parents."""
        for axis, (order, _) in self.at(frame).get(name, {}).items():
            value = np.take(value, order, axis=axis)
        return value

    def new_rows(self, name: str, frame: int) -> NDArray[np.bool_] | None:
        """Which drawn rows of ``name`` are children; None when none are."""
        axes = self.at(frame).get(name, {})
        return axes[0][1] if 0 in axes else None


def events_of(run: Run) -> list[tuple[int, str]]:
    """(step, words) of everything that happened: what the user marked, every change of the layout in a few words, and where branches were left.

    A recorder writes its own, longer event for such a change; that one is left out.
    """
    steps = np.asarray(run.steps)
    spans = list(run.layouts)
    changes = [
        (int(steps[b.start]), _words(a, b)) for a, b in itertools.pairwise(spans) if b.start < min(b.stop, len(steps))
    ]
    notes = {str(span.note) for span in spans[1:]}
    told = [(int(step), str(words)) for step, words in run.events if str(words) not in notes]
    return sorted([*told, *changes, *_left(run, steps)])


def _left(run: Run, steps: NDArray[np.int64]) -> list[tuple[int, str]]:
    """Of each branch, the step that the recording was rewound to and what was trained after it before."""
    found = []
    for name, branch in run.branches.items():
        first, last = int(branch.steps[0]), int(branch.steps[-1])
        at = max(int(np.searchsorted(steps, first)) - 1, 0)
        told = f"branch {name} was left here: steps {first} to {last}, {len(branch.steps)} frames"
        found.append((int(steps[at]) if len(steps) else first, told))
    return found


def stages_of(run: Run, frames: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """Stretches of ``frames`` that share one layout of the picture, each with its first frame.

    A layout holds as long as tensors only grow and appear; where one vanishes, the next begins.
    """
    spans = [e for e in run.layouts if ((frames >= e.start) & (frames < e.stop)).any()]
    if len(spans) <= 1:
        return [(0, frames)]
    starts = [0]
    for before, after in itertools.pairwise(spans):
        if not set(before.shapes) <= set(after.shapes):
            starts.append(after.start)
    ends = [*starts[1:], int(frames.max()) + 1]
    return [(start, frames[(frames >= start) & (frames < end)]) for start, end in zip(starts, ends)]


def _words(before: LayoutSpan, after: LayoutSpan) -> str:
    """What changed, short enough for a caption: "fc1 16 → 26", "new fc3"."""
    said = []
    for name, shape in after.shapes.items():
        layer = name.rpartition(".")[0] or name
        old = before.shapes.get(name)
        if old is None:
            said.append(f"new {layer}")
        elif len(shape) > 1 and old[:1] != tuple(shape[:1]):
            said.append(f"{layer} {old[0]} → {shape[0]}")
    return ", ".join(dict.fromkeys(said)) or str(after.note) or "the network changed"


def _orders(run: Run, before: LayoutSpan, after: LayoutSpan, earlier: Orders) -> Orders:
    """The orders of all tensors that grow from one layout to the next."""
    changed = {
        name: [axis for axis, (old, new) in enumerate(zip(before.shapes[name], shape)) if new > old]
        for name, shape in after.shapes.items()
        if name in before.shapes and len(before.shapes[name]) == len(shape) and before.shapes[name] != shape
    }
    changed = {name: axes for name, axes in changed.items() if axes}
    if not changed:
        return {}
    told = _told(run, after)
    (first,) = values_over(run, list(changed), np.array([after.start]))
    out: dict[str, dict[int, tuple[Order, NDArray[np.bool_]]]] = {}
    for name, axes in changed.items():
        for axis in axes:
            old, new = before.shapes[name][axis], after.shapes[name][axis]
            parents = told.get((name, axis))
            if parents is None or len(parents) != new:
                parents = _alike(first[name], axis, old)
            place = np.arange(new)  # where each unit was drawn until now
            if axis in earlier.get(name, {}):
                place[earlier[name][axis][0]] = np.arange(old)
            child = np.arange(new) >= old
            order = np.lexsort((np.arange(new), child, place[parents])).astype(np.int64)
            out.setdefault(name, {})[axis] = (order, child[order])
    # a bias has one number per unit, which says little: it follows its matrix
    for name, axes_of in out.items():
        matrix = out.get(name.replace("bias", "weight"), {})
        if (
            len(after.shapes[name]) == 1
            and 0 in matrix
            and len(matrix[0][0]) == after.shapes[name][0]
            and (name, 0) not in told
        ):
            axes_of[0] = matrix[0]
    return out


def _told(run: Run, span: LayoutSpan) -> dict[tuple[str, int], Order]:
    """Parents by (tensor, axis) from the lineage that the recording holds, through its wiring or the names of its layers."""
    lineage = span.lineage if isinstance(span.lineage, Mapping) else {}
    told: dict[tuple[str, int], Order] = {}
    wiring = run.wiring
    for group, parents in lineage.items():
        parents = np.asarray(parents, dtype=np.int64)
        for name, shape in span.shapes.items():
            if name.rpartition(".")[0] == group and shape and shape[0] == len(parents):
                told[name, 0] = parents
        for known in wiring.groups if wiring is not None else ():
            if known.name != group:
                continue
            for member in known.members:
                shape = span.shapes.get(member.tensor, ())
                if member.axis < len(shape) and shape[member.axis] == len(parents):
                    told[member.tensor, member.axis] = parents
    return told


def _alike(value: Values, axis: int, old: int) -> Order:
    """The parent of each position: itself for old ones, for new ones the old one most parallel, the last where none is."""
    rows = np.nan_to_num(np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1).astype(np.float64))
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(size > 0, size, 1)
    parents = np.arange(len(rows))
    likeness = unit[old:] @ unit[:old].T
    if rows.shape[1] > 1 and likeness.size:
        best = likeness.argmax(axis=1)
        parents[old:] = np.where(likeness.max(axis=1) >= _ALIKE, best, np.arange(old, len(rows)))
    return parents

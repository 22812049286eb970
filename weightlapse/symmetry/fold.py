"""Folding: a network with its superfluous units merged into others, into biases, or dropped.

A student that is wider than its teacher cannot have the teacher's weights, but it may have the teacher inside: copies of a
unit up to sign and scale share its outgoing weights, constant units act as part of the next bias, and units that nobody
listens to do nothing (the "expand and cluster" of Martinelli et al. 2024, here within one network and exact).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.symmetry.states import Arrays, float_arrays, state_of
from weightlapse.symmetry.units import Part, Units, units_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import SYMMETRIES, Group, Member

Activation = Callable[[NDArray[np.float64]], NDArray[np.float64]]

# activations of a constant input, for constant units; a group with any other operator keeps them
_ACTIVATIONS: dict[str, Activation] = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0.0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softplus": lambda z: np.logaddexp(0.0, z),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "sin": np.sin,
}


@dataclass(frozen=True)
class FoldedGroup:
    """What became of a group's units, by their old numbers: ``kept`` in order; ``merged`` (unit, into, factor);
    ``constant`` ones now in the next biases; ``dropped`` ones that did nothing."""

    kept: tuple[int, ...]
    merged: tuple[tuple[int, int, float], ...] = ()
    constant: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()

    def then(self, later: FoldedGroup) -> FoldedGroup:
        """This fold followed by another, all in the numbers of the first."""
        old = self.kept
        return FoldedGroup(
            tuple(old[u] for u in later.kept),
            self.merged + tuple((old[u], old[v], f) for u, v, f in later.merged),
            self.constant + tuple(old[u] for u in later.constant),
            self.dropped + tuple(old[u] for u in later.dropped),
        )


@dataclass(frozen=True)
class Folded:
    """A smaller network of the same function: float arrays, their wiring, and what was done to each group."""

    state: Arrays = field(repr=False)
    wiring: Wiring = field(repr=False)
    groups: dict[str, FoldedGroup]


def fold(net: Any, wiring: Wiring, *, tolerance: float = 1e-6) -> Folded:
    """Merge, absorb and drop what a network can do without; groups are taken in the wiring's order, input side first.

    tolerance: units whose incoming weights agree to this relative distance, after sign and scale where the group has
    them, are one; their outgoing weights are added up. At 0 < tolerance the function changes by about as much.

    Groups that are nested, occur twice in a tensor, or cannot be widened (``blockers``) are left as they are: there a
    unit is more than its own value. Raises InvalidArgument for a negative tolerance.
    """
    if tolerance < 0:
        raise InvalidArgument(f"tolerance must not be negative, got {tolerance}")
    arrays = {n: v.astype(np.float64) for n, v in float_arrays(state_of(net)).items()}
    names = [g.name for g in wiring.groups if _foldable(units_of(g, frozenset()), wiring)]
    done = {n: FoldedGroup(tuple(range(wiring.group(n).size))) for n in names}
    size = 0
    while size != (size := sum(len(d.kept) for d in done.values())):
        # who is heard only by unheard units shows from the output side; whose inputs are copies, from the input side
        for names_now, merging in ((names[::-1], False), (names, True)):
            for name in names_now:
                units = units_of(wiring.group(name), frozenset(SYMMETRIES))
                arrays, step = _fold_group(arrays, units, tolerance, merging)
                done[name] = done[name].then(step)
                lost = sorted(set(range(units.size)) - set(step.kept))
                if lost:
                    arrays, wiring = without(arrays, wiring, name, lost)
    return Folded(arrays, wiring, done)


def _foldable(u: Units, wiring: Wiring) -> bool:
    g = u.group
    plain = all(m.roles in ({"out"}, {"in"}, {"add"}, {"mul"}, {"stat"}) and m.where is None for m in g.members)
    return bool(
        plain and not g.parent and not g.blockers and not u.twice and g.consumers and not wiring.children(g.name)
    )


def _fold_group(arrays: Arrays, u: Units, tolerance: float, merging: bool) -> tuple[Arrays, FoldedGroup]:
    arrays = dict(arrays)
    readers = [p for p in u.parts if p.member.roles == {"in"}]
    heard = np.sqrt(sum((p.rows(arrays[p.tensor]) ** 2).sum(axis=1) for p in readers))
    alive = heard > tolerance * heard.max(initial=0.0)
    absorbed, merged = np.zeros(u.size, dtype=bool), []
    if merging:
        absorbed = _into_biases(arrays, readers, *_constants(arrays, u, alive, tolerance))
        merged = _merge(arrays, u, readers, heard, np.flatnonzero(alive & ~absorbed), tolerance)
    free = alive & ~absorbed
    gone = {m[0] for m in merged}
    kept = tuple(int(i) for i in np.flatnonzero(free) if i not in gone)
    if not kept and u.size:  # an empty layer is no layer: one silent unit stays
        kept = (0,)
        for p in readers:
            _write(arrays, p, 0, 0.0)
    dropped = tuple(int(i) for i in np.flatnonzero(~alive) if i not in kept)
    return arrays, FoldedGroup(kept, tuple(merged), tuple(int(i) for i in np.flatnonzero(absorbed)), dropped)


def _merge(
    arrays: Arrays, u: Units, readers: list[Part], heard: NDArray[np.float64], free: NDArray[np.int64], tolerance: float
) -> list[tuple[int, int, float]]:
    """Adds up the outgoing weights of units that are multiples of an earlier one; returns (unit, into, factor)."""
    odd, even = _incoming(arrays, u)
    size = np.sqrt((odd**2).sum(axis=1))
    scaled = u.scale and not even.shape[1]
    unit = odd / np.where(scaled & (size > 0), size, 1.0)[:, None]
    merged: list[tuple[int, int, float]] = []
    keepers: list[int] = []
    # the loudest first: its weights are the ones that the function knows best
    for v in sorted(free.tolist(), key=lambda i: -heard[i]):
        for r in keepers:
            reach = tolerance * np.sqrt((unit[r] ** 2).sum() + (even[r] ** 2).sum())
            signs = (1.0, -1.0) if u.sign else (1.0,)
            gaps = [np.sqrt(((unit[v] - s * unit[r]) ** 2).sum() + ((even[v] - even[r]) ** 2).sum()) for s in signs]
            best = int(np.argmin(gaps))
            if gaps[best] <= reach:
                factor = signs[best] * (float(size[v] / size[r]) if scaled and size[r] > 0 else 1.0)
                merged.append((v, r, factor))
                for p in readers:
                    rows = p.rows(arrays[p.tensor])
                    _write(arrays, p, r, rows[r] + factor * rows[v])
                break
        else:
            keepers.append(v)
    return merged


def _incoming(arrays: Arrays, u: Units) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All that makes a unit: what its factor multiplies, and what it leaves as it is."""
    odd, even = [np.zeros((u.size, 0))], [np.zeros((u.size, 0))]
    for p in u.parts:
        if p.member.roles != {"in"} and p.tensor in arrays:
            (odd if p.exponent else even).append(p.rows(arrays[p.tensor]))
    return np.concatenate(odd, axis=1), np.concatenate(even, axis=1)


def _constants(
    arrays: Arrays, u: Units, alive: NDArray[np.bool_], tolerance: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Live units without incoming weights, and what they say for every input."""
    none = np.zeros(u.size, dtype=bool), np.zeros(u.size)
    acts = [_ACTIVATIONS[op] for op in u.group.ops if op in _ACTIVATIONS]
    if len(acts) != 1 or len(u.group.ops) != 1 or any(p.member.roles & {"mul", "stat"} for p in u.parts):
        return none
    makers = [p for p in u.parts if p.member.roles == {"out"}]
    if not makers:
        return none
    fed = np.sqrt(sum((p.rows(arrays[p.tensor]) ** 2).sum(axis=1) for p in makers))
    bias = sum((p.rows(arrays[p.tensor]).sum(axis=1) for p in u.parts if p.member.roles == {"add"}), np.zeros(u.size))
    still = alive & (fed <= tolerance * fed.max(initial=0.0))
    return still, acts[0](bias)


def _into_biases(
    arrays: Arrays, readers: list[Part], constant: NDArray[np.bool_], value: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Adds what constant units contribute to the next biases; returns the units for which that could be done."""
    if not value[constant].any():  # nobody, or units that say zero: nothing to add
        return constant
    homes = [p.tensor.removesuffix("weight") + "bias" for p in readers]
    for p, bias in zip(readers, homes):
        weight = arrays[p.tensor]
        dense = weight.ndim == 2 and p.member.axis == 1 and p.member.index.shape[1] == 1
        if not (dense and bias in arrays and arrays[bias].shape == weight.shape[:1]):
            return np.zeros_like(constant)
    for p, bias in zip(readers, homes):
        arrays[bias] = arrays[bias] + p.rows(arrays[p.tensor])[constant].T @ value[constant]
    return constant


def _write(arrays: Arrays, p: Part, unit: int, row: Any) -> None:
    m = p.member
    out = arrays[p.tensor].copy()
    moved = np.moveaxis(out, m.axis, 0)
    moved[m.index[unit]] = row if np.isscalar(row) else np.reshape(row, moved[m.index[unit]].shape)
    arrays[p.tensor] = out


def without(arrays: Mapping[str, NDArray[Any]], wiring: Wiring, group: str, units: list[int]) -> tuple[Arrays, Wiring]:
    """The arrays and their wiring with some units of one group removed."""
    out = dict(arrays)
    gone: dict[tuple[str, int], NDArray[np.int64]] = {}
    for m in wiring.group(group).members:
        gone[m.tensor, m.axis] = np.unique(np.append(gone.get((m.tensor, m.axis), []), m.index[units])).astype(np.int64)
    for (tensor, axis), positions in gone.items():
        for name in wiring.names_of(tensor):
            if name in out:
                out[name] = np.delete(out[name], positions, axis=axis)

    def moved(tensor: str, axis: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        lost = gone.get((tensor, axis))
        return positions if lost is None else positions - np.searchsorted(lost, positions)

    def shrunk(g: Group) -> Group:
        keep = np.setdiff1d(np.arange(g.size), units) if g.name == group else np.arange(g.size)
        members = tuple(
            Member(
                m.tensor,
                m.axis,
                moved(m.tensor, m.axis, m.index[keep]),
                m.role,
                None if m.where is None else (m.where[0], moved(m.tensor, m.where[0], m.where[1])),
            )
            for m in g.members
        )
        return replace(g, size=len(keep), members=members)

    shapes = {t: tuple(out[t].shape) if t in out else s for t, s in wiring.shapes.items()}
    return out, replace(wiring, groups=tuple(shrunk(g) for g in wiring.groups), shapes=shapes, bases=())

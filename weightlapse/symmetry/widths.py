"""Networks of different widths: fold the surplus away, lay both out in one common size in which they are aligned as any two, and say who has no partner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotAlign
from weightlapse.symmetry.elements import Elements
from weightlapse.symmetry.fold import FoldedGroup, fold
from weightlapse.symmetry.states import Arrays, Weights, distance, float_arrays
from weightlapse.wiring.arrays import shape_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member


def differ_in_width(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two states have the same tensors, some of them of another size."""
    return (
        set(a) == set(b)
        and any(shape_of(a, n) != shape_of(b, n) for n in a)
        and all(len(shape_of(a, n)) == len(shape_of(b, n)) for n in a)
    )


@dataclass(frozen=True)
class Correspondence:
    """Who corresponds to whom in one group, by the unit numbers of both networks.

    ``matched``: (unit of a, unit of b). ``unmatched_a``, ``unmatched_b``: units without partner. ``folded``: what was done to b first;
    a unit into which others were merged is one that b holds split.
    """

    matched: tuple[tuple[int, int], ...]
    unmatched_a: tuple[int, ...]
    unmatched_b: tuple[int, ...]
    folded: FoldedGroup | None = None

    def sentence(self, group: str) -> str:
        parts = [f"{len(self.matched)} units matched"]
        if self.folded:
            for word, units in (
                ("merged", self.folded.merged),
                ("constant, now in the next bias", self.folded.constant),
                ("dropped because nobody listens", self.folded.dropped),
            ):
                if units:
                    parts.append(f"{len(units)} of b {word}")
        if self.unmatched_a:
            parts.append(f"{len(self.unmatched_a)} of a without partner")
        if self.unmatched_b:
            parts.append(f"{len(self.unmatched_b)} of b without partner")
        return f"{group}: " + ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class OneSize:
    """``a`` and ``b``: both networks in the size of ``wiring``, absent units zero; b was folded first where it has more units.

    ``states``, ``wirings``: of both as they came; ``small``: of b as folded; ``folded``: what was done to its groups; ``merge``: how far apart units may
    be that were merged.
    """

    wiring: Wiring
    a: Arrays = field(repr=False)
    b: Arrays = field(repr=False)
    states: tuple[Mapping[str, Any], Mapping[str, Any]] = field(repr=False)
    wirings: tuple[Wiring, Wiring]
    small: Wiring
    folded: Mapping[str, FoldedGroup]
    merge: float

    @classmethod
    def of(
        cls, a: Mapping[str, Any], b: Mapping[str, Any], wiring: Wiring, wiring_b: Wiring | None, merge: float
    ) -> OneSize:
        """Raises CannotAlign where the networks differ by more than the widths of groups that both have."""
        if wiring_b is None:
            wiring_b = wiring_for(wiring, {n: tuple(v.shape) for n, v in b.items()})
        alone = {g.name for g in wiring.groups} ^ {g.name for g in wiring_b.groups}
        if alone:
            some = sorted(alone)[0]
            side, other = ("first", "second") if wiring.find(some) is not None else ("second", "first")
            raise CannotAlign(
                f"group {some!r} of the {side} network is no group of the {other} (a layer of one unit has nothing to exchange, or the two are "
                "wired differently), so their units have no common order"
            )
        arrays: Mapping[str, Any] = float_arrays(b)
        small, what = wiring_b, {}
        if any(h.size > wiring.group(h.name).size for h in wiring_b.groups):
            folded = fold(b, wiring_b, tolerance=merge)
            arrays, small, what = folded.state, folded.wiring, folded.groups
        both = common(wiring, small)
        x = laid_out(float_arrays(a), wiring, both)
        y = laid_out({n: arrays[n] for n in x}, small, both)
        return cls(
            wiring=both, a=x, b=y, states=(a, b), wirings=(wiring, wiring_b), small=small, folded=what, merge=merge
        )

    def units(self, elements: Elements) -> dict[str, Correspondence]:
        """Who corresponds to whom, in each group."""
        found = {}
        for g in self.wiring.groups:
            (h, k), s = (w.group(g.name) for w in self.wirings), self.small.group(g.name)
            found[g.name] = correspondence(elements.order[g.name], h.size, s.size, self.folded.get(g.name), k.size)
        return found

    def notes(self, units: Mapping[str, Correspondence]) -> tuple[str, ...]:
        """A sentence for each group in which not all of b's units have a partner, or not all of a's."""
        wiring_b = self.wirings[1]
        return tuple(
            c.sentence(n) for n, c in units.items() if len(c.matched) < wiring_b.group(n).size or c.unmatched_a
        )

    def apart(self, names: list[str]) -> float:
        """The relative distance of both networks as they came, absent units zero."""
        wide = common(*self.wirings)
        x, y = (laid_out(float_arrays(s), w, wide) for s, w in zip(self.states, self.wirings))
        return distance(x, y, names)

    def given_back(self, moved: Mapping[str, Any]) -> dict[str, Any]:
        """b's state after the moves, of what was not laid out its own, in the kind and precision that b has."""
        return {n: _like(moved[n], v) if n in moved else v for n, v in self.states[1].items()}


def wiring_for(wiring: Wiring, shapes: Mapping[str, tuple[int, ...]]) -> Wiring:
    """The same wiring for a network of other widths, from its shapes alone.

    A group's new size is what the axes of its members say. Raises CannotAlign where positions cannot be told: then trace
    that network too and pass ``wiring_b``.
    """
    groups = tuple(_resized(g, wiring, shapes) for g in wiring.groups)
    return replace(wiring, groups=groups, bases=(), shapes={n: tuple(shapes[n]) for n in wiring.shapes if n in shapes})


def _resized(g: Group, wiring: Wiring, shapes: Mapping[str, tuple[int, ...]]) -> Group:
    if all(tuple(shapes.get(m.tensor, ())) == tuple(wiring.shapes[m.tensor]) for m in g.members):
        return g
    members, sizes = [], set()
    for m in g.members:
        old, new = wiring.shapes[m.tensor][m.axis], tuple(shapes[m.tensor])[m.axis]
        n, k = m.index.shape
        if m.where is not None or m.index.size != old or new % k or g.parent is not None:
            raise CannotAlign(
                f"{m.tensor!r} differs in width and shares its axis {m.axis} between groups, so the units of the second network "
                "cannot be told from its shapes: pass wiring_b=wl.trace(b, example)"
            )
        size = new // k
        if np.array_equal(m.index, np.arange(old).reshape(n, k)):
            index = np.arange(new).reshape(size, k)
        elif np.array_equal(m.index, np.arange(old).reshape(k, n).T):
            index = np.arange(new).reshape(k, size).T
        else:
            raise CannotAlign(
                f"{m.tensor!r} differs in width and holds its units in no simple order: pass wiring_b=wl.trace(b, example)"
            )
        members.append(Member(m.tensor, m.axis, index, m.role))
        sizes.add(size)
    if len(sizes) != 1:
        raise CannotAlign(
            f"the tensors of group {g.name!r} disagree about its size in the second network: {sorted(sizes)}"
        )
    return replace(g, size=sizes.pop(), members=tuple(members))


def common(wiring_a: Wiring, wiring_b: Wiring) -> Wiring:
    """a's wiring with every group as large as the larger of both; new units get new positions behind the old ones."""
    length = {(n, i): s for n, shape in wiring_a.shapes.items() for i, s in enumerate(shape)}
    groups = []
    for g in wiring_a.groups:
        h = wiring_b.group(g.name)
        _check_alike(g, h)
        more = h.size - g.size
        if more > 0:
            members = []
            for m in g.members:
                start = length[m.tensor, m.axis]
                extra = start + np.arange(more * m.k).reshape(more, m.k)
                length[m.tensor, m.axis] += extra.size
                members.append(replace(m, index=np.concatenate([m.index, extra])))
            g = replace(g, size=h.size, members=tuple(members))
        groups.append(g)
    shapes = {n: tuple(length[n, i] for i in range(len(shape))) for n, shape in wiring_a.shapes.items()}
    return replace(wiring_a, groups=tuple(groups), shapes=shapes, bases=())


def _check_alike(g: Group, h: Group) -> None:
    here, there = ([(m.tensor, m.axis, m.role, m.k) for m in x.members] for x in (g, h))
    if here != there:
        raise CannotAlign(
            f"group {g.name!r} lives in other places in the second network, so the two have no common wiring"
        )
    if g.size != h.size and (g.parent or any(m.where for m in g.members) or _mixing(g) or _mixing(h)):
        raise CannotAlign(
            f"group {g.name!r} has {g.size} units in the first network and {h.size} in the second, and its units are mixed "
            f"({', '.join([*g.blockers, *h.blockers]) or 'nested groups'}): silent units would change the function"
        )


def _mixing(g: Group) -> bool:
    return any(word in op for op in g.ops for word in ("norm", "softmax", "mean", "sum")) and "batch_norm" not in g.ops


def laid_out(arrays: Weights, source: Wiring, target: Wiring) -> Arrays:
    """Arrays of one wiring in the positions of another that has at least as many units; absent units are zero."""
    out = dict(arrays)
    moves: dict[tuple[str, int], tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]] = {}
    for g in target.groups:
        for m, n in zip(g.members, source.group(g.name).members, strict=True):
            to, origin = moves.setdefault((m.tensor, m.axis), ([], []))
            to.append(m.index[: n.index.shape[0]].ravel())
            origin.append(n.index.ravel())
    for (tensor, axis), (to, origin) in moves.items():
        if tensor not in out:
            continue
        value = out[tensor]
        rest_to = np.setdiff1d(np.arange(target.shapes[tensor][axis]), _positions(target, tensor, axis))
        rest_from = np.setdiff1d(np.arange(value.shape[axis]), np.concatenate(origin))
        if len(rest_to) != len(rest_from):
            raise CannotAlign(f"{tensor!r} differs in axis {axis} by more than hidden units")
        shape = list(value.shape)
        shape[axis] = target.shapes[tensor][axis]
        new = np.zeros(shape, dtype=value.dtype)
        spot: list[Any] = [slice(None)] * value.ndim
        spot[axis] = np.concatenate([*to, rest_to])
        new[tuple(spot)] = value.take(np.concatenate([*origin, rest_from]), axis=axis)
        out[tensor] = new
    for name, value in out.items():
        expected = target.shapes.get(target.canonical_name(name))
        if expected is not None and tuple(value.shape) != tuple(expected):
            raise CannotAlign(
                f"{name!r} has shape {value.shape} where {tuple(expected)} was expected: they differ by more than hidden units"
            )
    return out


def _positions(w: Wiring, tensor: str, axis: int) -> NDArray[np.int64]:
    return np.concatenate([m.index.ravel() for _, m in w.groups_of(tensor, axis)])


def correspondence(
    order: NDArray[np.int64], size_a: int, size_b: int, folded: FoldedGroup | None, was: int
) -> Correspondence:
    """What an alignment in the common size means for the units of both networks; ``was``: b's size before folding."""
    old = np.asarray(folded.kept if folded else range(was))
    pairs = [(u, int(old[v])) for u, v in enumerate(order) if u < size_a and v < size_b]
    with_a, with_b = {u for u, _ in pairs}, {v for _, v in pairs}
    return Correspondence(
        tuple(pairs),
        tuple(u for u in range(size_a) if u not in with_a),
        tuple(int(v) for v in old if int(v) not in with_b),
        folded,
    )


def _like(value: NDArray[Any], sample: Any) -> Any:
    """An array in the kind and precision of a sample."""
    return sample.new_tensor(value) if hasattr(sample, "new_tensor") else value.astype(np.asarray(sample).dtype)

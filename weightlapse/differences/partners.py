"""Partners of hidden units found twice: by what makes them, and by what reads them. Copies agree; networks made independently do not.

One pass goes forward: it begins at tensors whose other axes have names (inputs, tokens) and matches each group of units by the weights that make it, once all that
these read is in place. The other goes backward from outputs, and matches by the weights that read the group. In a chain of layers the passes use no tensor
twice. A stream that one pass cannot reach (its head is tied to its embedding) is taken over from the other; a group counts only when neither
pass used the other's tensors for it. So nothing agrees because it was made to.

Under the null one match says nothing about the other, so their agreement is that of random orders: k fixed points or more with probability 1 / k! at
most, and N^K / K! for K in N groups (the factorial moments of independent counts).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.assign import assign
from weightlapse.symmetry.fits import polar
from weightlapse.symmetry.units import Part, units_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group

Matrix = NDArray[np.float64]
ALPHA = 1e-4  # what is less probable than this among strangers, is not one
_TINY = 1e-300
_ALONE = 16  # the least units of a group whose agreement counts by itself
_HELD = 4  # tensors of b in a's order that are kept for the next group
_ALL = frozenset({"permutation", "sign", "scale"})


@dataclass(frozen=True)
class Agreement:
    """The part of the units that both passes match alike, how probable that is among strangers, and how many groups were looked at."""

    part: float
    p_value: float
    groups: int


@dataclass(frozen=True, eq=False)
class _Settled:
    """Which unit of b stands for each of a's (times ``factors``), or how b's stream is turned; and the tensors that say so."""

    order: NDArray[np.int64] | None
    factors: Matrix | None
    turn: Matrix | None
    own: frozenset[str]  # the tensors by which it was matched
    all: frozenset[str]  # and those by which what they read was brought into place


def agreement(
    a: Mapping[str, Any], b: Mapping[str, Any], wiring: Wiring, left_out: Collection[str], rng: np.random.Generator
) -> Agreement | None:
    """The best agreement over reordered and turned streams; None where no group has two sides that can be looked at."""
    turnable = any(s.is_stream for s in wiring.bases)
    ways, out = (False, True) if turnable else (False,), carried(wiring)
    found = [f for turned in ways if (f := _Passes(a, b, wiring, left_out, rng, turned).agreement(out)) is not None]
    if not found:
        return None
    best = min(found, key=lambda f: f.p_value)
    return Agreement(best.part, min(1.0, len(ways) * best.p_value), best.groups)


def carried(wiring: Wiring) -> set[str]:
    """The groups that are streams: layers add to what is there already, so that some of what makes the units reads (what was made of) themselves.

    What makes a stream and what reads it are tied to each other by what was learnt, through no more than products: networks that learnt the same from different
    starts match a stream's units alike from both sides, too. So it puts others in place, and is no evidence itself.
    """
    readers: dict[str, list[tuple[int, str]]] = {}  # of each tensor: by which axis a group is read
    for g in wiring.groups:
        for m in g.members:
            if "in" in m.roles:
                readers.setdefault(m.tensor, []).append((m.axis, g.name))
    makers: dict[str, list[set[str]]] = {}  # of each group, matrix by matrix: what it is made of
    made_of: dict[str, set[str]] = {}  # of each group: the others that are made of it
    for g in wiring.groups:
        makers[g.name] = [
            {name for axis, name in readers.get(m.tensor, ()) if axis != m.axis}
            for m in g.members
            if m.roles & {"out", "add"} and len(wiring.shapes[m.tensor]) > 1
        ]
        for name in set().union(*makers[g.name]):
            made_of.setdefault(name, set()).add(g.name)
    found = set()
    for g in wiring.groups:
        reached, waiting = {g.name}, [g.name]  # through any number of layers
        while waiting:
            new = made_of.get(waiting.pop(), set()) - reached
            reached |= new
            waiting += new
        own = [
            bool(reads & reached) for reads in makers[g.name] if reads != {g.name}
        ]  # a recurrent layer does not add to itself
        if any(own) and not all(own):
            found.add(g.name)
    return found


def at_least(k: int, n: int, m: int) -> float:
    """The probability that k or more of n units keep their place in a random choice among m, from above: 1 / k! for n = m."""
    logarithm = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + math.lgamma(m - k + 1) - math.lgamma(m + 1)
    )
    return min(1.0, math.exp(max(logarithm, -700.0)))


def matched(value: Matrix, rng: np.random.Generator) -> NDArray[np.int64]:
    """The best assignment of rows to columns, for as many columns or more. Where several are as good, chance decides, not the numbers of the units."""
    order = rng.permutation(value.shape[1])
    if value.shape[0] == value.shape[1]:
        return order[assign(value[:, order])].astype(np.int64)
    from scipy.optimize import linear_sum_assignment

    found: NDArray[np.int64] = order[linear_sum_assignment(value[:, order], maximize=True)[1]]
    return found


def best_of(counts: list[tuple[int, int]]) -> Agreement | None:
    """All groups together, or one of them that says more; ``counts``: (units that agree, units) of each.

    A small group may agree by chance, and is not looked at alone. None where there are so few units that nothing would be told if all agreed.
    """
    found = _best(counts) if counts else None
    return None if found is None or _best([(n, n) for _, n in counts]).p_value > ALPHA else found


def _best(counts: list[tuple[int, int]]) -> Agreement:
    total, units, many = sum(k for k, _ in counts), sum(n for _, n in counts), len(counts)
    together = math.exp(min(0.0, max(total * math.log(many) - math.lgamma(total + 1), -700.0)))
    if total == units:  # as one group would
        together = min(together, math.exp(max(-sum(math.lgamma(n + 1) for _, n in counts), -700.0)))
    found = [Agreement(total / units, min(1.0, 2 * together), many)]
    found += [Agreement(k / n, min(1.0, 2 * many * at_least(k, n, n)), many) for k, n in counts if n >= _ALONE]
    return min(found, key=lambda f: f.p_value)


class _Passes:
    def __init__(
        self,
        a: Mapping[str, Any],
        b: Mapping[str, Any],
        wiring: Wiring,
        left_out: Collection[str],
        rng: np.random.Generator,
        turned: bool,
    ) -> None:
        self.a, self.b, self.wiring, self.rng, self.turned = a, b, wiring, rng, turned
        self.parts = {g.name: units_of(g, _ALL).parts for g in wiring.groups}
        self.on: dict[str, list[tuple[Group, Part]]] = {}
        for g in wiring.groups:
            for p in self.parts[g.name]:
                self.on.setdefault(p.tensor, []).append((g, p))
        gone = {wiring.canonical_name(n) for n in left_out}
        self.names = {
            t: n
            for t in self.on
            if t not in gone
            and (n := next((n for n in wiring.names_of(t) if n in a and n in b), None)) is not None
            and np.shape(a[n]) == np.shape(b[n]) == tuple(wiring.shapes[t])
        }
        streams = [s for s in wiring.bases if s.is_stream]
        places = {(m.tensor, m.axis) for s in streams for m in s.members}
        self.streams = {
            g.name
            for g in wiring.groups
            if g.parent is None and all((m.tensor, m.axis) in places for m in g.members if m.roles & {"out", "in"})
        }
        self.moved = {(m.tensor, m.axis) for s in wiring.bases for m in s.members}
        self.gains = {
            (t, axis): (n, s.members[[(m.tensor, m.axis) for m in s.members].index((t, axis))].index)
            for s in wiring.bases
            for n in s.norms
            for t, axis in n.readers
        }
        self.held: dict[tuple[Any, ...], Matrix] = {}

    def agreement(self, streams: Collection[str]) -> Agreement | None:
        """Of all groups that are not ``streams``."""
        forward = self._pass({}, lambda p: bool(p.member.roles & {"out", "add"}))
        backward = self._pass({}, lambda p: "in" in p.member.roles and "out" not in p.member.roles)
        forward, backward = (
            self._with_help(forward, backward, lambda p: bool(p.member.roles & {"out", "add"})),
            self._with_help(backward, forward, lambda p: "in" in p.member.roles and "out" not in p.member.roles),
        )
        counts = []
        for g in self.wiring.groups:
            if g.name in streams:
                continue
            one, other = forward.get(g.name), backward.get(g.name)
            if one is None or other is None or one.own & other.all or other.own & one.all:
                continue
            if one.order is not None and other.order is not None and g.size > 1:
                counts.append((int((one.order == other.order).sum()), g.size))
        return best_of(counts)

    def _with_help(
        self, mine: dict[str, _Settled], others: dict[str, _Settled], votes: Callable[[Part], bool]
    ) -> dict[str, _Settled]:
        """The pass goes on from groups that only the other one could reach, one at a time, the first that it reached first."""
        for name, found in others.items():
            if name not in mine:
                mine = self._pass({**mine, name: found}, votes)
        return mine

    def _pass(self, given: Mapping[str, _Settled], votes: Callable[[Part], bool]) -> dict[str, _Settled]:
        done = dict(given)
        while True:
            new = {}
            for g in self.wiring.groups:
                if g.name not in done and "permutation" in g.symmetries:
                    some = [p for p in self.parts[g.name] if votes(p) and self._usable(g, p, done)]
                    if any(len(self.wiring.shapes[p.tensor]) > 1 for p in some):
                        new[g.name] = self._match(g, some, done)
            if not new:
                return done
            done |= new

    def _usable(self, g: Group, p: Part, done: Mapping[str, _Settled]) -> bool:
        """Whether everything else on the tensor is in place: its other axes, and what ``g`` lives in."""
        if p.tensor not in self.names:
            return False
        others = [(h, q) for h, q in self.on[p.tensor] if h is not g]
        for h, q in others:
            inside = h.parent is not None and h.parent[0] == g.name
            around = g.parent is not None and g.parent[0] == h.name
            if (q.member.axis != p.member.axis or inside or around) and h.name not in done:
                return False
        named = {q.member.axis for _, q in others}
        rest = set(range(len(self.wiring.shapes[p.tensor]))) - {p.member.axis} - named
        twice = any(q is not p and q.member.axis != p.member.axis for h, q in self.on[p.tensor] if h is g)
        return not twice and not any((p.tensor, axis) in self.moved for axis in rest)

    def _match(self, g: Group, some: list[Part], done: Mapping[str, _Settled]) -> _Settled:
        rows: tuple[list[Matrix], list[Matrix]] = ([], [])
        for p in some:
            u = p.rows(self._values(self.a, p.tensor))
            v = p.rows(self._in_place(g, p.tensor, done))
            for out, x in zip(rows, (u, v)):
                out.append(x / max(float(np.linalg.norm(x)), _TINY))
        u, v = (np.concatenate(x, axis=1) for x in rows)
        own = frozenset(p.tensor for p in some)
        used = own.union(*(done[h.name].all for p in some for h, _ in self.on[p.tensor] if h.name in done))
        stream = g.name in self.streams
        if stream and self.turned:
            return _Settled(None, None, polar(u @ v.T), own, used)
        sizes = [np.maximum(np.linalg.norm(x, axis=1), _TINY) for x in (u, v)]
        cosine = (u @ v.T) / np.outer(*sizes)
        free = stream or "sign" in g.symmetries
        order = matched(np.abs(cosine) if free else cosine, self.rng)
        sign = np.where(cosine[np.arange(g.size), order] < 0, -1.0, 1.0) if free else np.ones(g.size)
        if stream:
            turn = np.zeros((g.size, g.size))
            turn[np.arange(g.size), order] = sign
            return _Settled(order, None, turn, own, used)
        exponents = {p.exponent for p in some}
        factors = sign
        if "scale" in g.symmetries and len(exponents) == 1 and exponents <= {1, -1}:
            ratio = np.clip(sizes[0] / sizes[1][order], 1e-3, 1e3)
            factors = sign * ratio ** next(iter(exponents))
        return _Settled(order, factors, None, own, used)

    def _values(self, state: Mapping[str, Any], tensor: str) -> Matrix:
        """The tensor with the gains that it reads folded in."""
        found = np.asarray(state[self.names[tensor]], np.float64)
        for axis in range(found.ndim):
            if (tensor, axis) in self.gains:
                norm, index = self.gains[tensor, axis]
                name = next((n for n in self.wiring.names_of(norm.gain) if n in state), None)
                if name is not None and np.size(state[name]) == len(index):
                    along = np.ones(found.shape[axis])
                    along[index] = (norm.offset + np.asarray(state[name], np.float64).reshape(-1))[:, None]
                    found = found * along.reshape([-1 if i == axis else 1 for i in range(found.ndim)])
        return found

    def _in_place(self, g: Group, tensor: str, done: Mapping[str, _Settled]) -> Matrix:
        """b's tensor with all that is settled in a's place."""
        others = [(h, p) for h, p in self.on[tensor] if h is not g and h.name in done]
        key = (tensor, *(done[h.name] for h, _ in others))
        if key not in self.held:
            found = self._values(self.b, tensor)
            for h, p in sorted(
                others, key=lambda o: o[0].parent is not None
            ):  # what is inside moves after what it is in
                s = done[h.name]
                found = _turned(found, p, s.turn) if s.turn is not None else p.moved(found, s.order, s.factors)
            while len(self.held) >= _HELD:
                self.held.pop(next(iter(self.held)))
            self.held[key] = found
        return self.held[key]


def _turned(values: Matrix, part: Part, turn: Matrix) -> Matrix:
    m = part.member
    moved = np.moveaxis(values.copy(), m.axis, 0)
    for slot in m.index.T:
        moved[slot] = np.tensordot(turn, moved[slot], axes=1)
    return np.moveaxis(moved, 0, m.axis)

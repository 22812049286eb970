"""The search over bases: streams that are rotated, heads whose values, queries and keys are written in other bases.

Nothing is guessed and then improved blindly; each step is in closed form and rests on what the steps before have settled.

1. Gains of norms are folded into their readers, in both networks: what is left of a stream is free up to a rotation.
2. A stream is tied to things that no symmetry moves, its *anchors*: embeddings (tokens have names), position tables, the patches of a
   picture, the head, biases. The rotation that brings b's anchors onto a's is found by singular values (Procrustes; Schoenemann 1966). It is
   taken for a reordering with signs when it is nearly one, or when a gain that cannot be folded allows no more.
   A stream that is no basis (norms behind the branches) is ordered by its anchors too.
3. In the settled stream a head is known by what no basis inside it changes: the products of output and value weights, and of query and
   key weights (pair by pair under rotary positions). Their inner products need no large matrix: ``<Y^T X, Y'^T X'> = sum(X X'^T * Y Y'^T)``. Heads
   are assigned by them, query heads that share keys inside.
4. With heads in place, the matrix of each basis has a closed form (`weightlapse.symmetry.fits`).
5. Everything else (hidden units of the feed-forward parts) is left to weight matching.
6. Then all that makes or reads a stream says where it should turn, no longer the anchors alone, until that helps no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.assign import assign, assign_blocks
from weightlapse.symmetry.candidate import Candidate
from weightlapse.symmetry.elements import Elements, identity
from weightlapse.symmetry.fits import Grams, fitted, parts, rotation, signed_order, snapped, whitening
from weightlapse.symmetry.search import Search
from weightlapse.symmetry.states import distance
from weightlapse.symmetry.with_bases import FirstNames, WithBases, in_place_of
from weightlapse.wiring.arrays import Numbers, at_home, doubled, is_single, joined, like, products, size_of, stacked
from weightlapse.wiring.change import (
    Changed,
    change,
    fold,
    gain,
    held,
    is_signed_order,
    left,
    rows,
    tensors_of,
    unfold,
)
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.lone_heads import not_searched
from weightlapse.wiring.members import Basis, Group, Member

Matrix = NDArray[np.float64]
_ROUNDS = 4
_CHANCE = 0.9
_HELD = 2**20  # bytes of a large network's tensors that are held for the next look: its gains
_SMALL = 4_000_000  # numbers; larger networks are matched in the precision that they are in, and decided upon in double


@dataclass
class _At:
    """Where a round ended."""

    elements: Elements
    matrices: dict[str, NDArray[np.float64]]
    b: Changed
    distance: float


class Rebase:
    """The search on two states."""

    def __init__(
        self,
        a: Mapping[str, Any],
        b: Mapping[str, Any],
        wiring: Wiring,
        allowed: frozenset[str],
        device: Any = None,
    ) -> None:
        self.state_a, self.state_b, self.wiring, self.allowed, self.device = a, b, wiring, allowed, device
        self.notes: tuple[str, ...] = ()
        names = dict.fromkeys(m.tensor for g in wiring.groups for m in g.members if m.roles != {"stat"})
        names.update(dict.fromkeys(tensors_of(wiring.bases)))
        self.names = list(names)
        self.a, self.b = _arrays(a, b, wiring, self.names, device)
        low = any(is_single(self.a.arrays[n]) for n in self.names[:1])
        self._same = 1e-6 if low else 1e-9  # a distance that no further round can improve
        self.gains_a: dict[str, NDArray[np.float64]] = {}
        self.gains_b: dict[str, NDArray[np.float64]] = {}
        self.bases = [self._folded(basis) for basis in wiring.bases]
        self.streams = [s for s in self.bases if s.is_stream]
        inside = [s for s in self.bases if s.parent is not None]
        self.heads = [
            g for g in wiring.groups if g.parent is None and any(s.parent and s.parent[0] == g.name for s in inside)
        ]
        solved = {g.name for g in self.heads}
        told = {(m.tensor, m.axis, p) for s in inside for m in s.members for p in m.index.ravel().tolist()}
        solved |= {c.name for g in self.heads for c in wiring.children(g.name) if not _left_inside(c, told)}
        solved |= {g.name for g in wiring.groups for s in self.bases if s.parent is None and _same_units(s, g)}
        rest = [g for g in wiring.groups if g.name not in solved]
        heads = {g.name for g in self.heads}
        rest = [
            replace(g, parent=None) if g.parent and g.parent[0] in heads else g for g in rest
        ]  # in heads that are in place
        self._parts = _connected(wiring, rest)
        read = {m.tensor for s in self.bases if not s.is_stream for m in s.members}
        self.loose = [  # streams that are no basis: their order is as good as that of a basis, and heads stand in it
            g
            for g in wiring.groups
            if g.name not in solved and g.parent is None and read & {m.tensor for m in g.members}
        ]

    def _folded(self, basis: Basis) -> Basis:
        """The basis with its gains folded in both networks, where that is possible."""
        stuck: set[str] = set()
        for norm in basis.norms:
            for state, which in ((self.a, "first"), (self.b, "second")):
                g = gain(state, norm)
                if (norm.readers or norm.bias) and (g == 0).any() and norm.gain not in stuck:
                    stuck.add(norm.gain)
                    self.notes += (
                        f"the {basis.name} was not turned, only reordered and flipped: the gain {norm.gain!r} of the {which} "
                        f"network is 0 at {int(np.flatnonzero(g == 0)[0])}, so it cannot be folded into its readers and out again",
                    )
        basis = left(basis, stuck)
        gains = [fold(v, basis) for v in (self.a, self.b)]
        for mine, found in zip((self.gains_a, self.gains_b), gains):
            mine |= {n: g for n, g in found.items() if n not in stuck}
        return basis

    # ---- the rounds

    def run(self, begin: Elements | None = None) -> Candidate | None:
        """The nearest element that was found; None when there is no basis to change.

        ``begin``: where streams are to begin, an element that brought a network near to b onto one near to a; else their anchors say.
        """
        if not self.bases:
            return None
        if begin is None:
            turns = {s.name: self._turn(s, self.a, self.b, anchors(self.wiring, s)) for s in self.streams}
            order = self._by_anchors()
        else:
            known = begin.matrices if isinstance(begin, WithBases) else {}
            turns, order = {s.name: known.get(s.name, np.eye(s.size)) for s in self.streams}, begin
        best: _At | None = None
        for _ in range(_ROUNDS):
            at = self._round(turns, order)
            if best is not None and at.distance >= best.distance * (1 - 1e-3):
                best = at if at.distance < best.distance else best
                break
            best = at
            if at.distance <= self._same or not (self.streams or self.loose):
                break
            further = {s.name: self._turned_on(s, turns[s.name], at.b) for s in self.streams}
            if self._stand(turns, further, order, at.elements):
                break  # the next round would be this one again
            turns, order = further, at.elements
            best.b.forget()  # the next one makes a network of its own
        assert best is not None
        if best.distance > self._same and (left := not_searched(self.wiring)):
            self.notes += (
                f"{len(left)} matrices read a stream and stand in no group of hidden units and in no basis ({left[0]!r} first): if they make queries, keys or "
                "values of heads, these were not searched for other bases",
            )
        before = dict(self.gains_b)
        matrices = {s.name: best.matrices.get(s.name, np.eye(s.size)) for s in self.bases}
        turned = [matrices[s.name] for s in self.streams]
        plain = all(is_signed_order(m) for m in matrices.values()) and not any((m < 0).any() for m in turned)
        gains, far, moved = self._unfolded(best, matrices)
        found = WithBases(best.elements.order, best.elements.factor, matrices, gains, before)
        return Candidate(found, far, "weights, in other bases", moved, plain, self.notes)

    def _stand(self, turns: Mapping[str, Matrix], further: Mapping[str, Matrix], order: Elements, to: Elements) -> bool:
        """Whether all streams are where they were."""
        return all(np.allclose(turns[n], further[n], rtol=0, atol=1e-9) for n in turns) and all(
            np.array_equal(order.order[g.name], to.order[g.name])
            and np.array_equal(order.factor[g.name], to.factor[g.name])
            for g in self.loose
        )

    def _unfolded(self, at: _At, matrices: Mapping[str, Matrix]) -> tuple[dict[str, Matrix], float, dict[str, Any]]:
        """b's state with its gains taken out of the readers again: the gains that leave it nearest, how near, and that state.

        They are a's; or, where a stream is only reordered, b's own: noise in a gain of a that is nearly 0 would be divided by it.
        """
        choices = [dict(self.gains_a)]
        still = [s for s in self.bases if s.norms and is_signed_order(matrices[s.name])]
        if still and at.distance > self._same:
            own = {
                n.gain: self.gains_b[n.gain][np.abs(matrices[s.name]).argmax(axis=1)]
                for s in still
                for n in s.norms
                if n.gain in self.gains_b
            }
            choices.append(self.gains_a | own)
        tried = []
        for gains in choices:
            made = at.b if len(choices) == 1 else at.b.copy()
            for s in self.bases:
                unfold(made, s, gains)
            moved = in_place_of(self.state_b, made, self.wiring)
            x, y = (FirstNames(s, self.wiring, self.device) for s in (self.state_a, moved))
            tried.append((distance(x, y, self.names), gains, moved))
        far, gains, moved = min(tried, key=lambda t: t[0])
        return gains, far, moved

    def _by_anchors(self) -> Elements:
        """The order, and signs, of streams that are no basis, from their anchors alone."""
        found = identity(self.wiring)
        for g in self.loose:
            some = {id(m) for m in anchors(self.wiring, g)}
            ends = [(m, e) for m, e in zip(g.members, g.exponents) if id(m) in some and m.roles != {"stat"}]
            if ends and "permutation" in g.symmetries & self.allowed:
                members, exponents = zip(*ends)
                held = replace(g, members=members, exponents=exponents, gauges=(), symmetries=g.symmetries - {"scale"})
                part = self._part(replace(self.wiring, groups=(held,), bases=()), self.b)
                found.order.update(part.order)
                found.factor.update(part.factor)
        return found

    def _round(self, turns: Mapping[str, NDArray[np.float64]], begin: Elements) -> _At:
        """Everything but the streams, with these as they are given; those that are no basis begin as in ``begin``."""
        b = self.b.copy()
        b.keeps = True  # it becomes the result
        matrices = dict(turns)
        for s in self.streams:
            change(b, s, turns[s.name])
        for s in self.bases:
            if s.parent is None and s.kind == "scales":
                self._fit(s, b, matrices, sides(self.a, s), sides(b, s))
            elif s.parent is None and s.kind == "invertible":  # rotary pairs and signs wait for their streams
                self._first_guess(s, b, matrices)
        still = [s for s in self.bases if s.parent is None and not s.is_stream and s.name not in matrices]
        order, factor = identity(self.wiring).order, identity(self.wiring).factor
        for g in self.loose:
            order[g.name], factor[g.name] = begin.order[g.name], begin.factor[g.name]
        self._move(b, Elements(order, factor), self.wiring)
        for s in still:
            if self._in_streams(s):
                one = _whole(s)  # the order of query heads that share these numbers is not known yet
                self._fit(one, b, matrices, sides(self.a, one), sides(b, one), s)
        loose, heads = Elements(dict(order), dict(factor)), identity(self.wiring).order
        for g in self.heads:
            self._place_heads(g, b, matrices, heads)
        self._move(b, Elements(heads, identity(self.wiring).factor), self.wiring)
        order |= {n: p for n, p in heads.items() if n not in {g.name for g in self.loose}}
        for part in self._parts:  # layer by layer: their streams are settled, so none needs to know of another
            found = self._part(part, b)
            order |= {n: loose.order[n][p] for n, p in found.order.items()}
            factor |= {n: loose.factor[n][found.order[n]] * f for n, f in found.factor.items()}
            self._move(b, found, part)
        return _At(Elements(order, factor), matrices, b, distance(self.a, b, self.names))

    def _part(self, part: Wiring, b: Changed) -> Elements:
        """What weight matching finds for groups that share no tensor with others."""
        names = [n for n in dict.fromkeys(m.tensor for g in part.groups for m in g.members) if n in b]
        x, y = _Some(self.a, names, self.wiring.shapes), {n: b[n] for n in names}  # b's are turned, which is dear
        return Search(x, y, part, self.allowed).run(0, np.random.default_rng(0)).elements

    def _move(self, b: Changed, elements: Elements, wiring: Wiring) -> None:
        for name, placement in elements.placements(b, wiring).items():
            if name in b:
                b.place(name, placement)

    # ---- streams

    def _turn(self, s: Basis, a: Changed, b: Changed, members: Sequence[Member]) -> NDArray[np.float64]:
        c = np.zeros((s.size, s.size))
        energy, numbers = 0.0, 0
        for m in members:
            x, y = rows(a[m.tensor], m), rows(b[m.tensor], m)
            of_x, of_y = size_of(x), size_of(y)
            if of_x * of_y > 0:
                weight = math.prod(x.shape) / (of_x * of_y)
                c += products(x, y).astype(np.float64) * weight
                energy += weight * (of_x**2 + of_y**2)
                numbers += math.prod(x.shape)
        if not c.any():
            return np.eye(s.size)
        if any(np.ptp(g) > 1e-12 * np.abs(g).max() for n in held(s) for g in (gain(self.b, n),)):
            return signed_order(c, s.kind)
        turn = rotation(c, s.kind, self.device)
        near = snapped(turn, s.kind)
        # what is left by a reordering with noise, a rotation takes a part away of by chance: as many numbers as it has
        chance = min(s.size * (s.size - 1) / max(numbers, 1), _CHANCE)
        gap, least = (max(energy - 2 * float((q * c).sum()), 0.0) for q in (near, turn))
        return near if gap * (1 - chance) <= least + self._same**2 * energy else turn

    def _turned_on(self, s: Basis, turn: NDArray[np.float64], b: Changed) -> NDArray[np.float64]:
        further = self._turn(s, self.a, b, s.members)
        return further @ turn

    # ---- heads

    def _place_heads(
        self, g: Group, b: Changed, matrices: dict[str, NDArray[np.float64]], order: dict[str, NDArray[np.int64]]
    ) -> None:
        families = [[s for s in self.bases if s.parent == (g.name, u)] for u in range(g.size)]
        if len({tuple((s.kind, s.size, len(s.members)) for s in f) for f in families}) != 1:
            return
        shared = [self._sharing(g, u, families[u]) for u in range(g.size)]
        tensors = dict.fromkeys(m.tensor for f in families for s in f for m in s.members)
        in_a, in_b = ({t: v[t] for t in tensors} for v in (self.a, b))  # the attention of one layer, made once
        n = 1 if shared[0] is None else shared[0].size
        value = np.zeros((g.size, g.size, n, n))
        for i in range(len(families[0])):
            some = [f[i] for f in families]
            a_sides = [self._per_head(in_a, s, c, n) for s, c in zip(some, shared)]
            b_sides = [self._per_head(in_b, s, c, n) for s, c in zip(some, shared)]
            value += _products(some[0], *_heard(some[0], a_sides, b_sides))
        chosen = assign_blocks(value)
        total = np.take_along_axis(value, chosen[..., None], axis=-1)[..., 0].sum(-1)
        order[g.name] = assign(total)
        for u, v in enumerate(order[g.name].tolist()):
            inner = chosen[u, v]
            child = shared[u]
            if child is not None:
                order[child.name] = inner
            for s, t in zip(families[u], families[v]):
                ends = (*sides(in_a, s, shared[u]), *sides(in_b, t, shared[v], inner))
                matrices[t.name] = fitted(t, Grams.of(*ends))
        for s in (s for f in families for s in f):  # only now, for each makes its tensors anew
            self._apply(s, b, matrices)

    def _sharing(self, g: Group, unit: int, bases: Sequence[Basis]) -> Group | None:
        """The group of query heads in one head of keys and values."""
        slots = max(m.k for s in bases for m in s.members)
        inside = [c for c in self.wiring.children(g.name) if c.parent == (g.name, unit) and c.size == slots > 1]
        return next(
            (c for c in inside if all(_slots(m, c) is not None for s in bases for m in s.members if m.k == slots)), None
        )

    def _per_head(self, state: Mapping[str, Numbers], s: Basis, child: Group | None, n: int) -> tuple[Numbers, Numbers]:
        """Both sides of a basis for each query head: (n or 1, size, numbers)."""
        both = []
        for sign in (1, -1):
            members = [m for m, e in zip(s.members, s.exponents) if e == sign]
            split = n > 1 and any(m.k == n for m in members)
            each = [
                joined(
                    [rows(state[m.tensor], m, _slot(m, child, i) if m.k == n and split else None) for m in members], 1
                )
                for i in range(n if split else 1)
            ]
            both.append(stacked(each))
        return both[0], both[1]

    def _fit(
        self,
        s: Basis,
        b: Changed,
        matrices: dict[str, NDArray[np.float64]],
        of_a: tuple[Numbers, Numbers],
        of_b: tuple[Numbers, Numbers],
        whole: Basis | None = None,
    ) -> None:
        matrices[s.name] = fitted(s, Grams.of(*of_a, *of_b))
        self._apply(whole or s, b, matrices)

    def _apply(self, s: Basis, b: Changed, matrices: Mapping[str, NDArray[np.float64]]) -> None:
        if not np.array_equal(matrices[s.name], np.eye(s.size)):
            change(b, s, matrices[s.name])

    def _first_guess(self, s: Basis, b: Changed, matrices: dict[str, NDArray[np.float64]]) -> None:
        """A linear layer between others: from whichever side no symmetry moves."""
        settled = {id(m) for m in anchors(self.wiring, s)}
        if not self._in_streams(
            s
        ):  # one end is in what is told later, so the other one has to tell it, if it is in a stream: that is turned already
            moved, turned = moved_axes(self.wiring), {(m.tensor, m.axis) for t in self.streams for m in t.members}
            settled |= {id(m) for m in s.members if {(m.tensor, axis) for axis in moved[m.tensor] - {m.axis}} <= turned}
        for sign in (1, -1):
            some = [m for m, e in zip(s.members, s.exponents) if e == sign]
            if some and all(id(m) in settled for m in some):
                x, y = (
                    at_home(joined([rows(v[m.tensor], m) for m in some], 1)).astype(np.float64) for v in (self.a, b)
                )
                if np.linalg.matrix_rank(y) == s.size:
                    m = np.linalg.lstsq(y.T, x.T, rcond=None)[0].T.astype(np.float64)
                    if np.linalg.cond(m) < 1e8:
                        matrices[s.name] = np.asarray(m if sign > 0 else np.linalg.inv(m).T, np.float64)
                        change(b, s, matrices[s.name])
                        return

    def _in_streams(self, s: Basis) -> bool:
        """Whether the other axes of its members are of streams only, which are settled before: heads that are in no group."""
        ends = [m for t in self.streams for m in t.members] + [m for g in self.loose for m in g.members]
        settled = {(m.tensor, m.axis) for m in ends}
        moved = moved_axes(self.wiring)
        return all((m.tensor, axis) in settled for m in s.members for axis in moved.get(m.tensor, set()) - {m.axis})


def _whole(s: Basis) -> Basis:
    """The basis without the members that several heads share, when another one makes or reads the same numbers once."""
    one = [(m, e) for m, e in zip(s.members, s.exponents) if m.k == 1]
    if not one or len(one) == len(s.members):
        return s
    members, exponents = zip(*one)
    return replace(s, members=members, exponents=exponents)


def anchors(wiring: Wiring, s: Basis | Group) -> list[Member]:
    """Members of a basis, or of a group, whose other axes no symmetry moves."""
    moved = moved_axes(wiring)
    return [m for m in s.members if not moved.get(m.tensor, set()) - {m.axis}]


def moved_axes(wiring: Wiring) -> dict[str, set[int]]:
    """For each tensor its axes that some symmetry moves."""
    found: dict[str, set[int]] = {}
    for members in (*(g.members for g in wiring.groups), *(s.members for s in wiring.bases)):
        for m in members:
            found.setdefault(m.tensor, set()).add(m.axis)
    return found


def sides(
    state: Mapping[str, Numbers], s: Basis, child: Group | None = None, inner: NDArray[np.int64] | None = None
) -> tuple[Numbers, Numbers]:
    """The numbers that the matrix multiplies and those that its inverse transpose does, query heads in the order ``inner``."""
    out = []
    for sign in (1, -1):
        some = []
        for m, e in zip(s.members, s.exponents):
            if e == sign:
                if child is not None and m.k == child.size:
                    units = range(m.k) if inner is None else inner.tolist()
                    some += [rows(state[m.tensor], m, _slot(m, child, u)) for u in units]
                else:
                    some += [rows(state[m.tensor], m, i) for i in range(m.k)]
        out.append(doubled(joined(some, 1)) if some else None)
    x, y = (v if v is not None else 0 * next(u for u in out if u is not None) for v in out)
    return x, y


_Sides = list[tuple[Numbers, Numbers]]


def _heard(s: Basis, of_a: _Sides, of_b: _Sides) -> tuple[_Sides, _Sides]:
    """Both, or where one side of all heads is 0 (branches that begin at nothing) the other one twice, without its basis."""
    for here, there in ((0, 1), (1, 0)):
        if not any(size_of(pair[here]) for pair in (*of_a, *of_b)):
            out = []
            for pair in (*of_a, *of_b):
                x = pair[there]
                white = whitening(s, np.sum([products(v, v).astype(np.float64) for v in x], axis=0))
                if white is None:
                    return of_a, of_b
                x = like(white, x) @ x
                out.append((x, x))
            return out[: len(of_a)], out[len(of_a) :]
    return of_a, of_b


def _products(s: Basis, of_a: Sequence[tuple[Any, Any]], of_b: Sequence[tuple[Any, Any]]) -> NDArray[np.float64]:
    """The inner products of what heads do, every head of a with every one of b: (heads, heads, query heads, query heads)."""
    together = np.zeros((s.size, s.size))
    for at in parts(s):
        together[np.ix_(at, at)] = 1
    grams = []
    for side in (0, 1):
        xa, xb = (stacked([pair[side] for pair in sides]) for sides in (of_a, of_b))  # (heads, n or 1, size, numbers)
        flat = products(xa.reshape(-1, xa.shape[-1]), xb.reshape(-1, xb.shape[-1]))
        grams.append(flat.reshape(*xa.shape[:3], *xb.shape[:3]))
    x, y = np.broadcast_arrays(*(np.moveaxis(m, (0, 3, 1, 4, 2, 5), range(6)) for m in grams))
    value = np.einsum("abijkl,abijkl,kl->abij", x, y, together.astype(x.dtype), dtype=np.float64)
    size = np.sqrt(_energy(together, of_a) * _energy(together, of_b))
    found: NDArray[np.float64] = value / size if size > 0 else value
    return found


def _energy(together: NDArray[np.float64], sides: Sequence[tuple[Numbers, Numbers]]) -> float:
    """The mean square of what the heads do."""
    x, y = (stacked([pair[i] for pair in sides]) for i in (0, 1))
    return float((products(x, x).astype(np.float64) * products(y, y) * together).sum(axis=(-2, -1)).mean())


def _slots(m: Member, child: Group) -> list[int] | None:
    """For each unit of ``child`` the slot of the member that lies in it; None when they do not correspond."""
    for c in child.members:
        if (c.tensor, c.axis) == (m.tensor, m.axis):
            owner = {int(p): u for u, row in enumerate(c.index) for p in row}
            units = [owner.get(int(p)) for p in m.index[0]]
            if None not in units and sorted(units) == list(range(child.size)):  # type: ignore[type-var]
                return [units.index(u) for u in range(child.size)]
    return None


def _slot(m: Member, child: Group | None, unit: int) -> int:
    found = None if child is None else _slots(m, child)
    return unit if found is None else found[unit]


def _connected(wiring: Wiring, groups: Sequence[Group]) -> list[Wiring]:
    """The groups in parts that share no tensor: a wiring for each."""
    parts: list[tuple[set[str], list[Group]]] = []
    for g in groups:
        tensors = {m.tensor for m in g.members}
        near = [p for p in parts if p[0] & tensors]
        parts = [p for p in parts if not p[0] & tensors]
        parts.append((tensors.union(*(p[0] for p in near)), [*(h for p in near for h in p[1]), g]))
    return [replace(wiring, groups=tuple(own), bases=()) for _, own in parts]


def _left_inside(c: Group, told: set[tuple[str, int, int]]) -> bool:
    """Whether these numbers of a head stand in no basis, so that their order and signs are still to be found once heads are in place."""
    return all(m.k == 1 and not any((m.tensor, m.axis, p) in told for p in m.index.ravel().tolist()) for m in c.members)


def _same_units(s: Basis, g: Group) -> bool:
    """Whether the units of a group are numbers of a basis, or the numbers of a basis its units."""
    if g.parent is not None:
        return False
    (mine, theirs) = ({(m.tensor, m.axis, int(p)) for m in x.members for p in m.index.ravel()} for x in (g, s))
    return all(m in g.members for m in s.members) or mine <= theirs


def _arrays(
    a: Mapping[str, Any], b: Mapping[str, Any], wiring: Wiring, names: list[str], device: Any
) -> tuple[Changed, Changed]:
    """The tensors of both networks, double for small ones."""
    first = [FirstNames(s, wiring, device) for s in (a, b)]
    if sum(int(np.prod(wiring.shapes[n])) for n in names) <= _SMALL:
        x, y = (Changed({n: doubled(f[n]) for n in names}, device=device) for f in first)
    else:
        x, y = (Changed(_Some(f, names, wiring.shapes), room=_HELD, device=device) for f in first)
    return x, y


class _Some(Mapping[str, Numbers]):
    """Some of the tensors of a state, in one precision."""

    def __init__(self, arrays: Mapping[str, Numbers], names: list[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.arrays, self.names = arrays, dict.fromkeys(names)
        self.shapes = {n: tuple(shapes[n]) for n in names}

    def __getitem__(self, name: str) -> Numbers:
        if name not in self.names:
            raise KeyError(name)
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

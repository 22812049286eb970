"""The bases of a network that belong to it alone: folded gains, principal axes, balanced heads, sorted spectra."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.elements import Elements, identity
from weightlapse.symmetry.fits import EMPTY, own, polar, principal, signs_of
from weightlapse.symmetry.rebase import anchors, sides
from weightlapse.symmetry.scale import balance, rescaled
from weightlapse.symmetry.units import units_of
from weightlapse.symmetry.with_bases import FirstNames, WithBases
from weightlapse.wiring.arrays import Numbers, at_home, doubled
from weightlapse.wiring.change import Changed, centring, change, fold, gain, held, left, rows, tensors_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Basis, Group, Member

_ROUNDS, _SETTLED = 100, 1e-10
_SMALL, _FAR = 100_000, 1e6  # numbers of a network; of a matrix
_ALIKE = 1e-7  # numbers of a head whose sizes are nearer than this are not told apart by them
_APART = 1e-9  # principal axes whose sizes are nearer than this (relative to the largest) are no axes


class OwnBases:
    """``arrays``: the tensors in these bases; ``rest``: the wiring with what is left to order and to rescale.

    A stream is turned to the principal axes of its anchors (see `weightlapse.symmetry.rebase`), the largest first; one that these do not
    span stays as it is, and one whose gain is 0 somewhere is only ordered and flipped. Inside a head, both sides get one diagonal Gram matrix, sorted.
    """

    def __init__(self, state: Mapping[str, Any], wiring: Wiring, allowed: frozenset[str], device: Any = None) -> None:
        self.wiring = wiring
        names = dict.fromkeys(m.tensor for g in wiring.groups for m in g.members if m.roles != {"stat"})
        names.update(dict.fromkeys(tensors_of(wiring.bases)))
        first = FirstNames(state, wiring, device)
        self.arrays = Changed({n: doubled(first[n]) for n in names}, device=device)
        self.matrices: dict[str, NDArray[np.float64]] = {}
        self.gains: dict[str, NDArray[np.float64]] = {}
        for s in wiring.bases:
            zero = {n.gain for n in s.norms if (n.readers or n.bias) and (gain(self.arrays, n) == 0).any()}
            s = left(s, zero)
            self.gains |= {n: g for n, g in fold(self.arrays, s).items() if n not in zero}
            if s.is_stream:
                self._take(s, self._axes(s))
        inner = [s for s in wiring.bases if not s.is_stream]
        settled = [s for s in inner if self._is_settled(s)]
        self.flipped = [
            s for s in inner if s.kind == "signs" and s not in settled
        ]  # told after the streams that they read
        self._settle(settled, allowed)

    def _is_settled(self, s: Basis) -> bool:
        """Whether the signs of what its numbers are made of, and read by, are settled before: a turn or a sign is told by them.

        (Those of an invertible basis are left to be told with all others.)
        """
        if s.kind == "invertible" and not s.pairs:
            return True
        axes = {(m.tensor, m.axis) for m in s.members}
        tensors = {m.tensor for m in s.members}
        turned = [_places(t.members) for t in self.wiring.bases if t.name in self.matrices]
        for g in self.wiring.groups:
            mine = _places(m for m in g.members if m.role != "mul")
            if (
                any(m.tensor in tensors and (m.tensor, m.axis) not in axes for m in g.members)
                and g.parent is None
                and g.symmetries & {"sign", "scale"}
                and not any(mine <= t for t in turned)
            ):
                return False
        return True

    def _settle(self, bases: list[Basis], allowed: frozenset[str]) -> None:
        """Bases and scales are balanced in turns: each looks at tensors that the other changes. What is left are orders and signs.

        Where that has no end (numbers that nothing is made of can be made ever smaller) the basis stays as it is.
        """
        before = dict(self.matrices)
        given = self.arrays.copy()
        rounds = _ROUNDS if sum(math.prod(self.wiring.shapes[n]) for n in self.arrays) > _SMALL else 20 * _ROUNDS
        for _ in range(rounds):
            worst = 0.0
            for s in bases:
                with np.errstate(all="ignore"):
                    ends = _ends(given, s)
                    m = own(s, *ends)
                    total = m @ self.matrices.get(s.name, np.eye(s.size))
                if not np.isfinite(total).all() or np.abs(total).max() > _FAR:
                    self.matrices = before
                    return self._settle([other for other in bases if other is not s], allowed)
                worst = max(worst, _moved(m, *ends))
                self.matrices[s.name] = total
                change(given, s, m)
            self.rest = self._rest()
            units = [units_of(g, allowed) for g in self.rest.groups] if "scale" in allowed else []
            factors = balance(given, units)
            worst = max([worst, *(float(np.abs(np.log(f)).max(initial=0.0)) for f in factors.values())])
            if worst < _SETTLED:
                break
            moved = rescaled(given, units, factors)
            given = Changed({n: moved[n] for n in self.arrays}, device=given.device)
        for s in bases:
            change(self.arrays, s, self.matrices[s.name])

    def _rest(self) -> Wiring:
        """Without the units whose basis is theirs; those inside a balanced one keep an order and signs."""
        turned = [s for s in self.wiring.bases if s.name in self.matrices]
        inside = {s.parent[0] for s in turned if s.parent is not None}
        numbers = [(s, _places(s.members)) for s in turned]
        groups = []
        for g in self.wiring.groups:
            mine = _places(m for m in g.members if m.role != "mul")
            if not any(mine <= n for _, n in numbers):
                keep = g.symmetries & {"permutation"} if g.name in inside else g.symmetries
                groups.append(replace(g, symmetries=keep, gauges=() if g.name in inside else g.gauges))
        for s in turned:  # their signs are told with those of all others
            if s.kind == "invertible":
                groups.append(Group(s.name, s.size, s.members, frozenset({"sign"}), s.exponents, parent=s.parent))
        for s in self.flipped:
            members = tuple(
                replace(m, index=np.stack([m.index[list(p)].ravel() for p in s.pairs])) for m in s.members if s.pairs
            )
            groups.append(
                Group(s.name, len(s.pairs), members, frozenset({"sign"}), (1,) * len(members), parent=s.parent)
            )
        return replace(self.wiring, groups=tuple(groups), bases=())

    def _take(self, s: Basis, matrix: NDArray[np.float64] | None) -> None:
        if matrix is not None:
            self.matrices[s.name] = matrix
            change(self.arrays, s, matrix)

    def _axes(self, s: Basis) -> NDArray[np.float64] | None:
        some = [
            x / np.linalg.norm(x) * np.sqrt(x.size)
            for m in anchors(self.wiring, s)
            if (x := at_home(rows(self.arrays[m.tensor], m))).any()
        ]
        if not some:
            return None
        x = np.concatenate(some, axis=1)
        ones = x.sum(axis=0)
        along = -1.0 if ones[np.abs(ones).argmax()] < 0 else 1.0
        if any(np.ptp(gain(self.arrays, n)) > 1e-12 * np.abs(gain(self.arrays, n)).max() for n in held(s)):
            order = np.argsort(-np.square(x).sum(axis=1), kind="stable")
            matrix = np.eye(s.size)[order]
            return along * matrix if s.kind == "centred" else signs_of(matrix @ x)[:, None] * matrix
        u = centring(s.size) if s.kind == "centred" else np.eye(s.size)
        flat = u.T @ x
        sizes = np.linalg.svd(flat, compute_uv=False)
        if len(sizes) < u.shape[1] or sizes[-1] < _APART * sizes[0] or (-np.diff(sizes) < _APART * sizes[0]).any():
            return None
        q = principal(flat)
        q = signs_of(q @ flat)[:, None] * q
        found: NDArray[np.float64] = u @ q @ u.T + (along / s.size if s.kind == "centred" else 0.0)
        return found

    def element(self, ordered: Elements, arrays: Mapping[str, Numbers]) -> WithBases:
        """All of it, followed by orders, signs and scales of ``rest``, which led to ``arrays``."""
        plain = identity(self.wiring)
        ones = {n: np.ones_like(g) for n, g in self.gains.items()}
        todo = []
        for s in self._balanced():
            now = self._now_at(s, ordered)
            self.matrices[s.name] = ordered.factor[now.name][:, None] * self.matrices[s.name]
            if _alike(*_ends(arrays, now)):
                todo.append((s, now))
        given = Changed(arrays, device=self.arrays.device)
        while todo:  # what is told by others comes after them
            tried = ((s, now, self._by_others(given, now, [t for _, t in todo if t is not now])) for s, now in todo)
            s, now, m = next((t for t in tried if t[2] is not None), (*todo[0], None))
            if m is None:
                m = _by_reference(*_ends(given, now))
            assert m is not None
            self.matrices[s.name] = m @ self.matrices[s.name]
            change(given, now, m)
            todo = [t for t in todo if t[1] is not now]
        for s in self.flipped:
            signs = np.ones(s.size)
            for pair, sign in zip(s.pairs, ordered.factor[self._now_at(s, ordered).name]):
                signs[list(pair)] = sign
            self.matrices[s.name] = np.diag(signs)
        mine = set(plain.order)  # the groups that told the signs are none of the network's
        order = {n: v for n, v in ordered.order.items() if n in mine}
        factor = {n: v for n, v in ordered.factor.items() if n in mine}
        matrices = {s.name: self.matrices.get(s.name, np.eye(s.size)) for s in self.wiring.bases}
        return WithBases(plain.order | order, plain.factor | factor, matrices, ones, self.gains)

    def _balanced(self) -> list[Basis]:
        return [s for s in self.wiring.bases if s.kind == "invertible" and s.name in self.matrices]

    def untold(self, ordered: Elements, arrays: Mapping[str, Numbers]) -> dict[str, NDArray[np.bool_]]:
        """By tensor, where its numbers are in a basis that no size tells: it is any one as yet, so nothing else may be told by them."""
        return _marks(arrays, [self._now_at(s, ordered) for s in self._balanced()], arrays)

    def _by_others(self, given: Changed, s: Basis, open_: list[Basis]) -> NDArray[np.float64] | None:
        """What turns the basis to where a fixed matrix has it, told by numbers in settled bases alone; None where these are too few."""
        marks = _marks(given, open_, {m.tensor for m in s.members})
        hidden = [(v != 0).any(axis=0) for v in _ends(marks, s)]
        return _by_reference(*_ends(given, s), hidden)

    def _now_at(self, s: Basis, ordered: Elements) -> Basis:
        """The basis in whose place the numbers of this one are, after heads were ordered."""
        if s.parent is None:
            return s
        name, unit = s.parent
        at = [t.name for t in self.wiring.bases if t.parent == s.parent].index(s.name)
        there = int(np.flatnonzero(ordered.order[name] == unit)[0])
        return [t for t in self.wiring.bases if t.parent == (name, there)][at]


def _moved(m: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """How much a matrix changes the sizes of the numbers: what only turns numbers of one size has no end, and needs none."""
    worst = 0.0
    for turn, side in ((m, x), (np.linalg.inv(m).T, y)):
        before = side @ side.T
        after = turn @ before @ turn.T
        worst = max(worst, float(np.abs(after - before).max() / max(np.abs(before).max(), 1e-300)))
    return worst


def _ends(arrays: Mapping[str, Numbers], s: Basis) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = sides(arrays, s)
    return at_home(x), at_home(y)


def _alike(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[tuple[int, NDArray[np.int64]]]:
    """The numbers that no size tells apart, several at once: equal ones (3); those that are read and not made (1), or made and not read (2)."""
    made, read = (np.square(v).sum(axis=1) for v in (x, y))
    some = max(made.max(initial=0.0), read.max(initial=0.0)) * EMPTY**2
    kind = 2 * (made > some) + (read > some)
    found = []
    for of in (1, 2, 3):
        at = np.flatnonzero(kind == of)
        size = np.minimum(made, read)[at] if of == 3 else np.ones(len(at))
        blocks = np.split(at, np.flatnonzero(-np.diff(size) > _ALIKE * size[:-1]) + 1)
        found += [(of, block) for block in blocks if len(block) > 1]
    return found


def _by_reference(
    x: NDArray[np.float64], y: NDArray[np.float64], hidden: list[NDArray[np.bool_]] | None = None
) -> NDArray[np.float64] | None:
    """What turns numbers that no size tells apart to where a fixed matrix has them. ``hidden``: columns of each that tell nothing yet; None, where too few are left."""
    out = np.eye(len(x))
    for of, block in _alike(x, y):
        side = 1 if of == 1 else 0
        told = (x, y)[side][block]
        if hidden is not None:
            told = told[:, ~hidden[side]]
            if np.linalg.matrix_rank(told) < len(block):
                return None
        reference = np.random.default_rng(0).normal(size=(told.shape[1], len(block)))
        out[np.ix_(block, block)] = polar(told @ reference).T
    return out


def _marks(arrays: Mapping[str, Numbers], bases: Iterable[Basis], names: Iterable[str]) -> dict[str, NDArray[np.bool_]]:
    """By tensor, where the numbers of these bases are that no size tells apart."""
    marks = {n: np.zeros(tuple(arrays[n].shape), bool) for n in names}
    for s in bases:
        alike = [block for _, block in _alike(*_ends(arrays, s))]
        for m in s.members if alike else ():
            if m.tensor in marks:
                np.moveaxis(marks[m.tensor], m.axis, 0)[m.index[np.concatenate(alike)].ravel()] = True
    return marks


def _places(members: Iterable[Member]) -> set[tuple[str, int, int]]:
    return {(m.tensor, m.axis, int(p)) for m in members for p in m.index.ravel()}

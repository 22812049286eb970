"""Weight matching: coordinate descent over groups of units, each step an exact assignment.

The objective is the inner product of both networks' weights, which falls with their distance. With every other group held,
it is linear in the permutation of one group, so the best one is an assignment (Ainsworth et al. 2023, "Git Re-Basin").
Beyond that paper: signs are chosen inside the assignment, by ``|C|``; groups nested in units (the dims of each head) are solved
inside the cost of each pair of units; a step is taken only when the true objective rises, so that groups which
occur on both axes of a tensor (recurrent weights), where the cost is quadratic, are safe; and descent can begin from
*signatures*, which need no other group to be solved first.

Signature. A unit's weights to units of an unsolved group come in an unknown order. The largest inner product that two
such rows can have under any order is that of the sorted rows (rearrangement inequality), so sorted rows give an upper
bound of the objective, the bound of Gilmore and Lawler for quadratic assignment. For two networks that are the same up to
order it is tight, and the assignment is exact at once, where plain descent is lost: residual networks with thin ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.assign import assign, assign_blocks
from weightlapse.symmetry.elements import Elements, identity
from weightlapse.symmetry.moved import Moved
from weightlapse.symmetry.nesting import Nesting
from weightlapse.symmetry.sketch import NUMBERS, UNITS, Sketches, plain_partners, surely_partners
from weightlapse.symmetry.states import Weights
from weightlapse.symmetry.units import Part, Units, units_of
from weightlapse.wiring.arrays import (
    Numbers,
    ascending,
    axes_as,
    dot,
    is_single,
    is_tensor,
    joined,
    of_rows,
    products,
    shape_of,
)
from weightlapse.wiring.data import Wiring

Matrix = NDArray[Any]
_COSTS_AT_LEAST = 64 * 2**20  # bytes of cost matrices that are held even for small networks


@dataclass
class Move:
    """What to do with one group: new unit u is old unit ``order[u]``, flipped where ``flip[u]``; then its nested groups."""

    units: Units
    order: NDArray[np.int64]
    flip: NDArray[np.bool_] | None = None
    nested: Sequence[Move] = ()

    def everything(self) -> Iterator[Move]:
        yield self
        for inner in self.nested:
            yield from inner.everything()

    @property
    def idle(self) -> bool:
        return all(
            np.array_equal(m.order, np.arange(len(m.order))) and not (m.flip is not None and m.flip.any())
            for m in self.everything()
        )


@dataclass(frozen=True)
class Pairs:
    """The value of every unit of b in the place of every unit of a, for a group or several sibling groups in a row.

    ``now`` is the value as things stand; ``inner`` holds the same for each nested family, with its best order for each
    pair of units, shape (units, units, size of the family's groups).
    """

    groups: list[Units]
    value: Matrix
    flip: Matrix | None
    now: Matrix
    inner: list[tuple[Pairs, NDArray[np.int64]]]

    def best(self, i: int = 0, j: int = 0, order: NDArray[np.int64] | None = None) -> Move:
        """The move that puts group j of b in the place of group i of a."""
        u = self.groups[i]
        if order is None:
            order = assign(self.value) if u.permute else np.arange(u.size)
        rows, columns = i * u.size + np.arange(u.size), j * u.size + order
        nested = [sub.best(int(r), int(c), chosen[r, c]) for sub, chosen in self.inner for r, c in zip(rows, columns)]
        return Move(u, order, None if self.flip is None else self.flip[rows, columns], nested)

    def gain(self, move: Move) -> float:
        """How much a move of a single group without nested ones raises the objective."""
        units = np.arange(len(move.order))
        moved = move.order != units
        if move.flip is not None:
            moved |= move.flip
        return float(np.sum(self.value[units, move.order][moved] - self.now[moved], dtype=np.float64))


class Matcher:
    """Two networks of one wiring, and the search for the element of the symmetry group that brings b onto a.

    ``a`` and ``b`` map tensor names to float arrays; neither is changed. ``self.b`` is b as moved so far.
    """

    def __init__(self, a: Weights, b: Weights, wiring: Wiring, allowed: frozenset[str]) -> None:
        self.wiring = wiring
        self.units = {g.name: units_of(g, allowed) for g in wiring.groups}
        self.nesting = Nesting(a, wiring, self.units)
        inside = self.nesting.nested
        movable = [u for u in self.units.values() if u.permute or u.sign]
        self._top = [u for u in movable if u.name not in inside]
        self.a = a
        self._axes = _groups_on_axes(self.units)
        self.steps = [u for u in movable if u.name not in inside or u.name in self.nesting.overlaps]
        self._norm: dict[str, float] = {}
        self._epsilon = 1e-13
        for t, v in a.items():
            self._norm[t] = dot(v, v)
            self._epsilon = 1e-6 if is_single(v) else self._epsilon
        self._costs_at_most = max(_COSTS_AT_LEAST, sum(v.nbytes for v in a.values()) // 8)
        self.begin(b)

    # ---- state ---------------------------------------------------------------------------------------------------

    def begin(self, b: Weights, at: Elements | None = None) -> None:
        """Start from ``b``; ``at`` is the element by which it has already been moved."""
        self.b = Moved(b)
        self.at = at.copy() if at else identity(self.wiring)
        self._version = dict.fromkeys(self.b, 0)
        self._cost_cache: dict[tuple[str, int], tuple[int, Matrix]] = {}
        self._visited: dict[str, tuple[int, ...]] = {}
        self._vague: set[str] = set()

    def apply(self, move: Move) -> None:
        """Move b's units, nested ones after the unit that holds them."""
        u, order = move.units, move.order
        name = u.name
        signs = None if move.flip is None or not move.flip.any() else np.where(move.flip, -1.0, 1.0)
        still = np.array_equal(order, np.arange(u.size))
        if signs is not None or not still:
            held = {i: self._cached(u, i, p) for i, p in enumerate(u.parts) if p.tensor not in u.twice}
            for tensor in {p.tensor for p in u.parts}:
                if tensor in self.b:
                    self._version[tensor] += 1
            for i, part in enumerate(u.parts):
                if part.tensor not in self.b:
                    continue
                turn = signs if part.exponent % 2 else None
                self.b.move(part.member, None if still else order, turn)
                cost = held.get(i)
                if cost is not None:  # the group's own move only reorders the columns of its costs
                    cost = cost[:, order]
                    if turn is not None:
                        cost = cost * turn.astype(cost.dtype)
                    self._keep(u, i, part, cost)
            self.at.order[name] = self.at.order[name][order]
            self.at.factor[name] = self.at.factor[name][order] * (1.0 if signs is None else signs)
            self._carry_children(name, order)
        for inner in move.nested:
            self.apply(inner)

    def _carry_children(self, name: str, order: NDArray[np.int64]) -> None:
        # The groups inside a unit travel with it: their elements change place.
        inside = self.nesting.inside(name)
        old = {n: (self.at.order[n], self.at.factor[n]) for unit in inside for n in unit}
        for unit, source in zip(inside, order):
            for n, m in zip(unit, inside[source]):
                self.at.order[n], self.at.factor[n] = old[m]

    # ---- search --------------------------------------------------------------------------------------------------

    def start(self, *, signatures: bool, rng: np.random.Generator | None = None) -> None:
        """Solve group after group from scratch, the one with most known neighbours first (in random order, given ``rng``).

        Weights towards unsolved groups are left out, or compared by their sorted values when ``signatures`` is set.
        """
        known: set[str] = set()
        todo = list(self._top)
        if rng is not None:
            rng.shuffle(todo)  # type: ignore[arg-type]
        while todo:
            best = todo[0] if rng is not None else max(todo, key=lambda u: self._evidence(u, known))
            todo.remove(best)
            if signatures or self._evidence(best, known) > 0:
                self.apply(self._plain(best, known) or self._pairs([best], known, signatures).best())
            known |= {best.name} | {c.name for f in self.nesting.family[best.name] for c in f}

    def descend(
        self, sweeps: int = 100, rng: np.random.Generator | None = None, only: Sequence[Units] | None = None
    ) -> int:
        """Improve group after group (``only`` these) until no step helps; returns the number of sweeps."""
        steps = list(self.steps if only is None else only)
        for sweep in range(1, sweeps + 1):
            moved = False
            if rng is not None:
                rng.shuffle(steps)  # type: ignore[arg-type]
            for u in steps:
                moved |= self.improve(u)
            if not moved:
                return sweep
        return sweeps

    def shuffle(self, rng: np.random.Generator, share: float = 1.0) -> None:
        """Put a random ``share`` of every group's units in random order (and sign)."""
        for u in self.units.values():
            order, flip = np.arange(u.size), None
            if u.permute:
                some = np.flatnonzero(rng.random(u.size) < share)
                order[some] = rng.permutation(some)
            if u.sign:
                flip = (rng.random(u.size) < share) & (rng.random(u.size) < 0.5)
            self.apply(Move(u, order, flip))

    def improve(self, u: Units, some: NDArray[np.int64] | None = None) -> bool:
        """The best move of one group with all others held, taken if it helps; ``some`` lets only these units move."""
        versions = self._versions(u)
        if some is None:
            if self._visited.get(u.name) == versions:
                return False
            self._visited[u.name] = versions
        move, pairs = self._plain(u, None) if some is None else None, None
        if move is None:
            pairs = self._pairs([u], None, False)
            order = None
            if some is not None:
                order = np.arange(u.size)
                order[some] = some[assign(pairs.value[np.ix_(some, some)])]
            move = pairs.best(order=order)
        if move.idle:
            return False
        tensors = {p.tensor for m in move.everything() for p in m.units.voters}
        scale = sum(self._norm[t] for t in tensors) * self._epsilon
        if pairs is not None and not (u.twice or move.nested):
            if pairs.gain(move) <= scale:
                return False
            self.apply(move)
        elif not self._try(move, tensors, scale):
            return False
        if some is None:
            self._visited[u.name] = self._versions(u)
        return True

    def _try(self, move: Move, tensors: set[str], least: float) -> bool:
        """Make the move, and take it back unless the true objective rises."""
        before, version, cost, at = dict(self.b.placements), dict(self._version), dict(self._cost_cache), self.at.copy()
        self.apply(move)
        old = Moved(self.b.arrays, before)
        if sum(dot(self.a[t], self.b[t] - old[t]) for t in tensors) > least:
            return True
        self.b.restore(before)
        self._version, self._cost_cache, self.at = version, cost, at
        return False

    def _plain(self, u: Units, known: set[str] | None) -> Move | None:
        """The best move of a big group where sketches of its units show it beyond doubt; see `weightlapse.symmetry.sketch`.

        A group for which they did not is not asked again in the same descent.
        """
        if not u.permute or u.size < UNITS or self.nesting.family[u.name] or u.name in self._vague:
            return None
        a = self.nesting.weights_of(u.name)
        seen = [p for p in u.parts if p.votes and p.tensor in a and not self._unsolved(p, known)]
        if sum(math.prod(shape_of(a, p.tensor)) for p in seen) < NUMBERS * u.size:
            return None
        if seen and is_tensor(a[seen[0].tensor]):  # there all products are cheap, and what is plain is plain for sure
            pairs = [(u.sign and p.exponent % 2 == 1, p.rows(a[p.tensor]), p.rows(self.b[p.tensor])) for p in seen]
            partners = surely_partners(pairs)
            return None if partners is None else Move(u, *partners)
        even, odd = Sketches(u.size), Sketches(u.size, seed=1)
        filled: set[int] = set()
        for p in seen:
            into = odd if u.sign and p.exponent % 2 else even
            into.add(p.rows(a[p.tensor]), p.rows(self.b[p.tensor]))
            filled.add(id(into))
        found = plain_partners(*(s if id(s) in filled else None for s in (even, odd)))
        if found is None:
            if known is None:
                self._vague.add(u.name)
            return None
        return Move(u, *found)

    def unmistakable(self) -> bool:
        """Whether every unit is so like its partner, in so many numbers, that this cannot be an accident: no other start is needed.

        Two random directions in 64 dimensions have a cosine above 0.8 less than once in 10^10 times.
        """
        for u in self.units.values():
            if not (u.permute or u.sign):
                continue
            inner, norm_a, norm_b, numbers = (np.zeros(u.size) for _ in range(4))
            for p in u.voters:
                if p.tensor in self.a:
                    x, y = p.rows(self.a[p.tensor]), p.rows(self.b[p.tensor])
                    numbers += x.shape[1]
                    for total, (v, w) in zip((inner, norm_a, norm_b), ((x, y), (x, x), (y, y))):
                        total += of_rows(v, w)
            if (numbers < 64).any() or (inner <= 0.8 * np.sqrt(norm_a * norm_b)).any():
                return False
        return True

    # ---- costs ---------------------------------------------------------------------------------------------------

    def _pairs(self, groups: list[Units], known: set[str] | None, signatures: bool) -> Pairs:
        first, size = groups[0], sum(g.size for g in groups)
        a = self.nesting.weights_of(first.name)
        alone = len(groups) == 1 and known is None and not self.nesting.family[first.name]
        odd: Matrix | None = None
        even: Matrix | None = None
        for i, part in enumerate(first.parts):
            if not part.votes or part.tensor not in a:
                continue
            if alone:
                cost, blind = self._cost(first, i, part), False
            else:
                found = self._partial_cost([g.parts[i] for g in groups], first, known, signatures, a)
                if found is None:
                    continue
                cost, blind = found
            if first.sign and part.exponent % 2 and not blind:
                odd = cost if odd is None else odd + cost
            else:
                even = cost if even is None else even + cost
        value = np.zeros((size, size)) if even is None else even
        now, flip = value.diagonal(), None
        if odd is not None:
            now, value, flip = now + odd.diagonal(), value + np.abs(odd), odd < 0
        inner = []
        for family in zip(*(self.nesting.family[g.name] for g in groups)):
            sub = self._pairs([c for siblings in family for c in siblings], known, signatures)
            n = family[0][0].size
            blocks = sub.value.reshape(size, n, size, n).transpose(0, 2, 1, 3)
            if family[0][0].permute:
                chosen = assign_blocks(blocks)
            else:
                chosen = np.broadcast_to(np.arange(n), (size, size, n))
            value = value + np.take_along_axis(blocks, chosen[..., None], axis=-1)[..., 0].sum(-1)
            inner.append((sub, chosen))
        return Pairs(groups, value, flip, now, inner)

    def _cost(self, u: Units, i: int, part: Part) -> Matrix:
        cost = self._cached(u, i, part)
        if cost is None:
            cost = products(part.rows(self.a[part.tensor]), part.rows(self.b[part.tensor]))
            self._keep(u, i, part, cost)
        return cost

    def _keep(self, u: Units, i: int, part: Part, cost: Matrix) -> None:
        """Hold a cost for the next look: the newest ones, as many as an eighth of the weights' memory allows."""
        self._cost_cache.pop((u.name, i), None)
        room = self._costs_at_most - cost.nbytes
        while self._cost_cache and sum(c.nbytes for _, c in self._cost_cache.values()) > room:
            self._cost_cache.pop(next(iter(self._cost_cache)))
        if room >= 0:
            self._cost_cache[u.name, i] = (self._version[part.tensor], cost)

    def _cached(self, u: Units, i: int, part: Part) -> Matrix | None:
        version, cost = self._cost_cache.get((u.name, i), (-1, None))
        return cost if cost is not None and version == self._version[part.tensor] else None

    def _partial_cost(
        self, parts: list[Part], u: Units, known: set[str] | None, signatures: bool, source: Weights
    ) -> tuple[Matrix, bool] | None:
        """Cost from one member, by sorted values along axes of unsolved groups; and whether it is blind to signs."""
        tensor = parts[0].tensor
        a, b = source[tensor], self.b[tensor]
        blind = False
        unsolved = self._unsolved(parts[0], known)
        if unsolved:
            if not signatures:
                return None
            blind = any(g.sign for _, g in unsolved) or (u.sign and parts[0].exponent % 2 == 1)
            axes = tuple(sorted({axis for axis, _ in unsolved}))
            a, b = (_sorted(abs(x) if blind else x, axes) for x in (a, b))
        rows_a, rows_b = (joined([p.rows(x) for p in parts], 0) for x in (a, b))
        return products(rows_a, rows_b), blind

    def _unsolved(self, part: Part, known: set[str] | None) -> list[tuple[int, Units]]:
        """The other axes of a member's tensor whose groups are not solved yet."""
        if known is None:
            return []
        return [
            (axis, g)
            for axis in range(len(shape_of(self.a, part.tensor)))
            if axis != part.member.axis
            for g in self._axes.get((part.tensor, axis), ())
            if g.name not in known
        ]

    def neighbours(self, part: Part) -> list[Units]:
        """The groups on the other axes of a member's tensor."""
        return [g for _, g in self._unsolved(part, set())]

    def _evidence(self, u: Units, known: set[str]) -> float:
        """The share of a unit's weights whose other ends are known."""
        total = seen = 0
        for part in u.voters:
            n = math.prod(shape_of(self.a, part.tensor))
            total += n
            seen += 0 if self._unsolved(part, known) else n
        return seen / max(total, 1)

    def _versions(self, u: Units) -> tuple[int, ...]:
        return tuple(self._version[p.tensor] for p in u.voters)


def _sorted(values: Numbers, axes: tuple[int, ...]) -> Numbers:
    if len(axes) == 1:
        return ascending(values, axes[0])
    order = (*(a for a in range(values.ndim) if a not in axes), *axes)
    moved = axes_as(values, order)
    flat = ascending(moved.reshape(*moved.shape[: values.ndim - len(axes)], -1), -1)
    return axes_as(flat.reshape(moved.shape), tuple(np.argsort(order).tolist()))


def _groups_on_axes(units: dict[str, Units]) -> dict[tuple[str, int], list[Units]]:
    out: dict[tuple[str, int], list[Units]] = {}
    for u in units.values():
        if u.permute or u.sign:
            for p in u.parts:
                out.setdefault((p.tensor, p.member.axis), []).append(u)
    return out

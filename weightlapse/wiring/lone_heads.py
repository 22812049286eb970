"""Guesses for heads that no group holds, or only as whole: one head, one head of keys for all (multi-query), positions that tell heads apart (ALiBi).

What is read from a stream and stands in no basis yet is what queries, keys and values may be made by, in the order of the network: rows of heads
(or all rows) of one matrix and as many of the next one, or of the same where one matrix makes all. Each guess is tried, as every other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Basis, Group, Member
from weightlapse.wiring.query_forms import query_forms

Index = NDArray[np.int64]


@dataclass(frozen=True)
class _Maker:
    """A matrix that reads a stream: ``axis`` is that of its results, ``left`` the results that stand in no basis, ``heads`` the group they are of."""

    tensor: str
    axis: int
    left: Index
    heads: Group | None

    def index_of_heads(self) -> Index:
        """Number by number the results of every head: (size, heads)."""
        assert self.heads is not None
        return next(m.index for m in self.heads.members if (m.tensor, m.axis) == (self.tensor, self.axis)).T


def lone_heads(wiring: Wiring, kept: Sequence[Basis]) -> Iterator[list[Basis]]:
    """For each guess its alternatives, the freest first."""
    makers = _makers(wiring, kept)
    seen: set[str] = set()
    for g in wiring.groups:
        if g.parent is None and any(m.tensor in makers for m in g.members):
            sides = _of_dims(g)
            if sides is not None:
                seen |= {m.tensor for m in g.members}
                yield _queries(wiring, sides[0], sides[1])
    for maker in makers.values():
        if maker.heads is not None:
            yield from _fused(wiring, maker)
    some = [m for m in makers.values() if m.tensor not in seen]
    for first, second in itertools.pairwise(some):
        if second.heads is None:
            queries = first.left[:, None] if first.heads is None else first.index_of_heads()
            if len(queries) == len(second.left):
                made = [(first.tensor, first.axis, queries)], [(second.tensor, second.axis, second.left[:, None])]
                yield _queries(wiring, *made)


def not_searched(wiring: Wiring) -> list[str]:
    """The matrices that make something of a stream, by rows that stand in no basis though other numbers do: heads, as far as is known."""
    return [m.tensor for m in _makers(wiring, wiring.bases).values()] if wiring.bases else []


def _makers(wiring: Wiring, kept: Sequence[Basis]) -> dict[str, _Maker]:
    taken: dict[tuple[str, int], set[int]] = {}
    for b in kept:
        for m in b.members:
            taken.setdefault((m.tensor, m.axis), set()).update(m.index.ravel().tolist())
    for g in wiring.groups:  # hidden units are nobody's queries
        if g.producers and g.consumers and all(m.k == 1 for m in g.members):
            for m in g.members:
                taken.setdefault((m.tensor, m.axis), set()).update(m.index.ravel().tolist())
    reads = {
        (m.tensor, m.axis): None
        for g in wiring.groups
        if g.parent is None
        for m in g.members
        if m.roles == {"in"} and m.where is None and m.k == 1 and m.index.size == wiring.shapes[m.tensor][m.axis]
    }
    found: dict[str, _Maker] = {}
    for tensor, shape in wiring.shapes.items():
        axis = next((a for a in (0, 1) if len(shape) == 2 and (tensor, 1 - a) in reads), None)
        why = "" if axis is None else wiring.fixed.get((tensor, axis), "")
        if axis is None or why.startswith(("output", "vocabulary", "input")):
            continue
        left = np.setdiff1d(np.arange(shape[axis]), list(taken.get((tensor, axis), ())))
        of = [
            g
            for g in wiring.groups
            if g.parent is None and any((m.tensor, m.axis) == (tensor, axis) for m in g.members)
        ]
        heads = next((g for g in of if all(m.k > 1 for m in g.members)), None)
        if len(left):
            found[tensor] = _Maker(tensor, axis, left, heads if heads is not None and heads.consumers else None)
    return found


_Side = list[tuple[str, int, Index]]  # tensor, axis, index


def _of_dims(g: Group) -> tuple[_Side, _Side] | None:
    """Queries and keys of a group of numbers that are made and read by no matrix: of one matrix the last are keys, of two the second makes them."""
    if g.consumers or any(m.where is not None for m in g.members):
        return None
    weights = [m for m in g.members if m.role == "out"]
    if len(weights) == 1 and weights[0].k > 1:
        m = weights[0]
        return [(m.tensor, m.axis, m.index[:, :-1])], [(m.tensor, m.axis, m.index[:, -1:])]
    if len(weights) == 2:
        first, second = ([(m.tensor, m.axis, m.index)] for m in weights)
        return first, second
    return None


def _fused(wiring: Wiring, maker: _Maker) -> Iterator[list[Basis]]:
    """One matrix for all: queries of every head, then the keys and the values that they share, for the whole layer or in each unit of its group."""
    g = maker.heads
    assert g is not None
    mine = next(m for m in g.members if (m.tensor, m.axis) == (maker.tensor, maker.axis))
    readers = [m for m in g.members if m.roles == {"in"}]
    children = {u: [c for c in wiring.children(g.name) if c.parent == (g.name, u)] for u in range(g.size)}
    units: list[tuple[tuple[str, int] | None, Index, Index, list[Member]]] = []
    if not any(children.values()):
        rest = np.setdiff1d(maker.left, mine.index)
        units.append((None, mine.index.T, rest, readers))
    for u, inside in children.items():
        for c in inside:
            rows = next((m.index for m in c.members if (m.tensor, m.axis) == (maker.tensor, maker.axis)), None)
            if rows is not None:
                rest = np.setdiff1d(mine.index[u], rows)
                units.append(((g.name, u), rows.T, rest, [m for m in c.members if m.roles == {"in"}]))
    for parent, queries, rest, read in units:
        d = len(queries)
        if len(rest) != 2 * d:
            continue
        at = (maker.tensor, maker.axis)
        yield _queries(wiring, [(*at, queries)], [(*at, rest[:d, None])], parent)
        values = [Member(t, a, i, r) for t, a, i, r in _with_bias(wiring, [(*at, rest[d:, None])])]
        reads = tuple(Member(m.tensor, m.axis, m.index.T, "in") for m in read)
        name = f"values {maker.tensor}[{parent[1] if parent else 0}]"
        exponents = (1,) * len(values) + (-1,) * len(reads)
        yield [Basis(name, d, "invertible", (*values, *reads), exponents, parent=parent)]


def _with_bias(wiring: Wiring, side: _Side) -> Iterator[tuple[str, int, Index, str]]:
    for tensor, axis, index in side:
        yield tensor, axis, index, "out"
        bias = tensor.removesuffix("weight") + "bias"
        if tensor.endswith("weight") and wiring.shapes.get(bias) == (wiring.shapes[tensor][axis],):
            yield bias, 0, index, "add"


def _queries(wiring: Wiring, first: _Side, second: _Side, parent: tuple[str, int] | None = None) -> list[Basis]:
    made = [[Member(t, a, i, r) for t, a, i, r in _with_bias(wiring, side)] for side in (first, second)]
    members, exponents = (*made[0], *made[1]), (1,) * len(made[0]) + (-1,) * len(made[1])
    name = f"queries {members[0].tensor}[{parent[1] if parent else int(members[0].index.min())}]"
    return query_forms(name, members, exponents, parent)

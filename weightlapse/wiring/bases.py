"""Which numbers of a network may be written in another basis: guessed from the groups and the tape, and each guess tried (see `weightlapse.wiring.trials`).

A guess names the matrices that are said to change nothing, from the largest set to the smallest (queries and keys: any invertible
matrix; with rotary positions only turns of pairs; behind norms only signs). It is kept when a copy of the network with random weights
computes the same after random matrices of that set, to 1e-8 in float64, and something else after one half of the change: what the outputs
do not show is not tried, and not claimed. So no layer is known by its name, and what is kept is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from weightlapse.wiring.bench import Bench
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.infer import Inference
from weightlapse.wiring.lone_heads import lone_heads
from weightlapse.wiring.members import Basis, Group, Member, Norm
from weightlapse.wiring.query_forms import query_forms
from weightlapse.wiring.trials import Trial

# What may act on numbers that are written in another basis: sums, norms and what norms are made of. All else mixes nothing or too much.
_PLAIN = frozenset("add sub mul div neg pow mean rsqrt sqrt reciprocal rms_norm layer_norm".split())
_NORMS = frozenset("pow mean rsqrt sqrt rms_norm layer_norm".split())


def with_bases(wiring: Wiring, bench: Bench, inf: Inference) -> Wiring:
    """The wiring with every basis that was found to be free. Bases are extras: what goes wrong here costs no group."""
    try:
        guesses = [*_streams(wiring, _first_uses(inf)), *_values(wiring), *_queries(wiring)]
        trial = Trial(wiring, bench)
        kept = trial.sifted(guesses)
        kept += trial.sifted(list(lone_heads(wiring, kept)))
        if any(b.kind == "signs" for b in kept):
            kept += trial.sifted(list(_gain_pairs(wiring, kept)))
    except Exception as error:  # noqa: BLE001  a network of another build than any guess foresees
        known = tuple(wiring.report.get("notes", ()))
        wiring.report["notes"] = (*known, f"bases were not found out ({type(error).__name__}: {error})")
        return wiring
    return replace(wiring, bases=tuple(kept))


# ---- streams, and linear layers one behind the other


def _streams(wiring: Wiring, order: Mapping[str, int]) -> Iterator[list[Basis]]:
    for g in wiring.groups:
        plain = g.parent is None and not wiring.children(g.name) and all(m.where is None for m in g.members)
        if not plain or not g.ops <= _PLAIN or not g.producers or not g.consumers:
            continue
        gains = [i for i, m in enumerate(g.members) if m.role == "mul"]
        if any(m.roles & {"mul", "stat"} and m.role != "mul" for m in g.members) or not _in_order(g, gains):
            continue
        moved = [i for i in range(len(g.members)) if i not in gains]
        members = tuple(g.members[i] for i in moved)
        exponents = tuple(-1 if m.role == "in" else 1 for m in members)
        name = f"basis of {g.name}"
        if not g.ops & _NORMS:
            if not gains and not any({"out", "in"} <= m.roles for m in members):
                yield [Basis(name, g.size, "invertible", members, exponents)]
            continue
        norms = _norms(g, gains, order)
        yield [Basis(name, g.size, kind, members, exponents, norms=norms) for kind in ("orthogonal", "centred")]


def _in_order(g: Group, gains: Sequence[int]) -> bool:
    """Whether number u of each gain belongs to unit u."""
    return all(np.array_equal(g.members[i].index, np.arange(g.size)[:, None]) for i in gains)


def _norms(g: Group, gains: Sequence[int], order: Mapping[str, int]) -> tuple[Norm, ...]:
    """The norms of a stream, from the ways in which a gain may be rescaled against what reads it."""
    ways = [x.exponents for x in g.gauges if x.kind == "scale"] + ([g.exponents] if "scale" in g.symmetries else [])
    table = np.array(ways, dtype=np.float64).reshape(len(ways), len(g.members))
    out = []
    for i in gains:
        norm = _known(g, gains, i, table)
        out.append(norm if norm is not None else _read_next(g, gains, i, order))
    return tuple(out)


def _known(g: Group, gains: Sequence[int], i: int, table: NDArray[np.float64]) -> Norm | None:
    """The one way that rescales this gain and no other."""
    if not len(table):
        return None
    want = np.array([float(j == i) for j in gains])
    mix, *_ = np.linalg.lstsq(table[:, list(gains)].T, want, rcond=None)
    way = mix @ table
    if np.abs(way[list(gains)] - want).max() > 1e-9:
        return None
    readers = [j for j, m in enumerate(g.members) if m.role == "in" and abs(way[j] + 1) < 1e-9]
    biases = [j for j, m in enumerate(g.members) if m.role == "add" and abs(way[j] - 1) < 1e-9]
    rest = set(range(len(way))) - {i, *readers, *biases}
    if any(abs(way[j]) > 1e-9 for j in rest) or len(biases) > 1 or not readers:
        return None
    bias = g.members[biases[0]].tensor if biases else None
    return Norm(g.members[i].tensor, 0.0, bias, tuple((g.members[j].tensor, g.members[j].axis) for j in readers))


def _read_next(g: Group, gains: Sequence[int], i: int, order: Mapping[str, int]) -> Norm:
    """A gain that cannot be rescaled: as it is (1 + gain), or before a reader that is tied. Its readers are those that come next.

    Whether that is right is tried, like all else.
    """
    late = 1 << 30
    mine = order.get(g.members[i].tensor, late)
    after = min(
        (order.get(g.members[j].tensor, late) for j in gains if order.get(g.members[j].tensor, late) > mine),
        default=late,
    )
    between = [m for m in g.members if "in" in m.roles and mine < order.get(m.tensor, late) < after]
    last = after == late
    tied = last and any({"in", "out"} <= m.roles for m in g.members)
    bias = next((m.tensor for m in g.members if m.role == "add" and order.get(m.tensor, late) == mine), None)
    readers = () if tied else tuple((m.tensor, m.axis) for m in between)
    return Norm(g.members[i].tensor, 1.0 if bias is None and readers else 0.0, bias, readers)


def _first_uses(inf: Inference) -> dict[str, int]:
    """When each parameter first meets something that is made of the inputs."""
    found: dict[str, int] = {}
    at = 0
    for tape in inf.tapes:
        for call in tape.calls:
            at += 1
            typed = [t for x in call.inputs if (t := inf.types.get(id(x))) is not None]
            if not call.live or (all(t.source is not None for t in typed) and call.name != "embedding"):
                continue
            for t in typed:
                for name, _ in {p for s in t.source or () for p in s}:
                    found.setdefault(name, at)
    return found


# ---- heads


def _values(wiring: Wiring) -> Iterator[list[Basis]]:
    """Between values and what reads them: any invertible matrix."""
    for c in wiring.groups:
        if _is_values(c) and c.parent is not None:
            yield [
                Basis(
                    f"values {c.members[0].tensor}[{c.parent[1]}]",
                    c.size,
                    "invertible",
                    c.members,
                    c.exponents,
                    parent=c.parent,
                )
            ]


def _is_values(c: Group) -> bool:
    """Whether they are made and read by matrices, with no more between than a number for all of a head (a gate)."""
    linear = c.parent is not None and c.ops <= {"mul"} and "scale" in c.symmetries and set(c.exponents) <= {1, -1}
    return bool(linear and c.producers and c.consumers and all(m.where is None for m in c.members))


def _queries(wiring: Wiring) -> Iterator[list[Basis]]:
    for g in wiring.groups:
        children = wiring.children(g.name)
        if any(c.consumers for c in children):
            for unit in range(g.size):
                inside = [c for c in children if c.parent == (g.name, unit)]
                taken = {
                    (m.tensor, m.axis, int(p))
                    for c in inside
                    if _is_values(c)
                    for m in c.members
                    for p in m.index.ravel()
                }
                for sides in _attentions(g, unit, taken, any(_is_values(c) for c in children)):
                    found = _guesses(g, unit, inside, taken, sides)
                    if found and (found[0].size > 1 or any(_is_values(c) for c in children)):
                        yield found  # (one number by itself is a unit, which has a scale)


def _attentions(g: Group, unit: int, taken: set[tuple[str, int, int]], fused: bool) -> list[dict[int, int]]:
    """What makes queries (1) and keys (-1) of one attention after the other, by number of member, for heads may be shared by several.

    The way in which a head's queries may be rescaled against its keys tells them apart; 0 where one matrix makes both (``fused``: when it makes values too).
    """
    makes = {
        i
        for i, m in enumerate(g.members)
        if m.where is None
        and "in" not in m.roles
        and any((m.tensor, m.axis, int(p)) not in taken for p in m.index[unit])
    }
    found: list[dict[int, int]] = []
    for x in g.gauges:
        used = {i: e for i, e in enumerate(x.exponents) if e}
        if x.kind == "scale" and set(used) <= makes and set(used.values()) == {1, -1}:
            found.append({i: -e for i, e in used.items()})
    for x in g.gauges:
        used = {i: e for i, e in enumerate(x.exponents) if e}
        weights = [i for i in used if g.members[i].role != "add"]
        if x.kind == "sign" and set(used) <= makes and len(weights) == 2 and not any(set(used) & set(f) for f in found):
            first = _module(g.members[weights[0]])  # behind norms: which is which does not matter to signs
            found.append({i: 1 if _module(g.members[i]) == first else -1 for i in used})
    if not found and fused and sum(g.members[i].role != "add" for i in makes) == 1:
        found.append(dict.fromkeys(sorted(makes), 0))
    return found


def _module(m: Member) -> str:
    return m.tensor.rpartition(".")[0]


def _guesses(
    g: Group, unit: int, inside: Sequence[Group], taken: set[tuple[str, int, int]], sides_of: Mapping[int, int]
) -> list[Basis]:
    """Guesses for the queries and keys of one head: its rows that are no values."""
    sides: dict[int, list[Member]] = {1: [], -1: []}
    sharing = [c for c in inside if _shares_keys(c, g)]
    for i, e in sides_of.items():
        m = g.members[i]
        free = np.array([p for p in m.index[unit].tolist() if (m.tensor, m.axis, p) not in taken], dtype=np.int64)
        if e == 0:  # one matrix makes queries and keys: they come one after the other
            queries, keys = _fused(free, m, sharing)
            if len(queries[0]) != len(keys):
                return []
            sides[1].append(Member(m.tensor, m.axis, np.stack(queries, axis=1), m.role))
            sides[-1].append(Member(m.tensor, m.axis, keys[:, None], m.role))
        else:
            sides[e].append(Member(m.tensor, m.axis, np.stack(_split(free, m, sharing), axis=1), m.role))
    sizes = {m.index.shape[0] for side in sides.values() for m in side}
    if not sides[1] or not sides[-1] or len(sizes) != 1:
        return []
    members = (*sides[1], *sides[-1])
    exponents = (1,) * len(sides[1]) + (-1,) * len(sides[-1])
    name, parent = f"queries {members[0].tensor}[{unit}]", (g.name, unit)
    kinds = ["scales", "signs"] if all(m.role == "mul" for m in members) else ["rotary", "signs"]  # gains
    rows = {(m.tensor, m.axis, p) for m in members for p in m.index.ravel().tolist()}
    for c in inside:
        if "sign" in c.symmetries and rows <= {
            (m.tensor, m.axis, p) for m in c.members for p in m.index.ravel().tolist()
        }:
            kinds.remove("signs")  # each number has a sign, and a place, by itself: it is a unit
            break
    return query_forms(name, members, exponents, parent, kinds)


def _shares_keys(c: Group, g: Group) -> bool:
    """Whether units inside a head are query heads: what reads them reads heads. (Numbers of queries are read by what makes others, if at all.)"""
    read = {(m.tensor, m.axis) for m in g.consumers}
    return not _is_values(c) and any((m.tensor, m.axis) in read for m in c.consumers)


def _fused(
    free: NDArray[np.int64], m: Member, sharing: Sequence[Group]
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """The rows of each query head, and those of the keys, where one matrix makes both.

    Query heads that share keys are a group of their own, so the rest are keys; a head by itself has as many of both.
    """
    for c in sharing:
        for n in c.members:
            if (n.tensor, n.axis) == (m.tensor, m.axis) and n.index.size < len(free) and np.isin(n.index, free).all():
                return list(n.index), np.setdiff1d(free, n.index)
    half = len(free) // 2
    return [free[:half]], free[half:]


def _split(free: NDArray[np.int64], m: Member, sharing: Sequence[Group]) -> list[NDArray[np.int64]]:
    """The rows of each query head that shares the keys: these heads are a group of their own."""
    for c in sharing:
        for n in c.members:
            if (n.tensor, n.axis, n.index.size) == (m.tensor, m.axis, len(free)) and np.isin(n.index, free).all():
                return list(n.index)
    return [free]


def _gain_pairs(wiring: Wiring, kept: Sequence[Basis]) -> Iterator[list[Basis]]:
    """The gains of the norms of queries and keys, against each other."""
    like = next(b for b in kept if b.kind == "signs")
    held_axes = {(m.tensor, m.axis) for g in wiring.groups for m in g.members}
    gains = [n for n, s in wiring.shapes.items() if s == (like.size,) and (n, 0) not in held_axes]
    index = np.arange(like.size)[:, None]
    for a, b in zip(gains[::2], gains[1::2]):
        members = (Member(a, 0, index, "mul"), Member(b, 0, index, "mul"))
        yield [Basis(f"gains {a}", like.size, "scales", members, (1, -1), like.pairs)]

"""The symmetries of each group, from the equations between exponents."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from weightlapse.wiring.equations import Equations, Number, Span, Vector
from weightlapse.wiring.gauges import Gauges
from weightlapse.wiring.members import Gauge, Group, Member

_ONE = -1  # the unknown that stands for the constant 1


def with_symmetries(groups: Sequence[Group], gauges: Gauges, atom_of: Mapping[str, int]) -> list[Group]:
    """The groups with what may be done to their units: ``symmetries`` and ``exponents``, and any further ``gauges``."""
    known: dict[Hashable, Group] = {}  # the dims of one head and of the next have one answer
    out = []
    for g in groups:
        key = (atom_of[g.name], tuple((m.tensor, m.axis, m.role) for m in g.members))
        if key not in known:
            known[key] = _of(g, gauges, atom_of[g.name])
        like = known[key]
        out.append(replace(g, symmetries=like.symmetries, exponents=like.exponents, gauges=like.gauges))
    return out


def _of(group: Group, gauges: Gauges, atom: int) -> Group:
    """As far as sign and scale can be worked out; permutations do not depend on it."""
    if atom not in gauges.failed:
        try:
            return _solved(group, gauges, atom)
        except Exception as error:  # noqa: BLE001
            gauges.failed[atom] = f"{type(error).__name__}: {error}"
    return replace(group, symmetries=frozenset({"permutation"}), exponents=(0,) * len(group.members), gauges=())


def _solved(group: Group, gauges: Gauges, atom: int) -> Group:
    unknowns = [gauges.of_member(m, atom) for m in group.members]
    scale, sign = gauges.scale[atom].solutions(unknowns), gauges.sign[atom].solutions(unknowns)
    reads = [i for i, m in enumerate(group.members) if "in" in m.roles]
    kinds = {"permutation"}
    main = _chosen(scale, reads, None, group.members)
    if main is not None:
        kinds.add("scale")
        if _span(sign, 2).holds(main):
            kinds.add("sign")
    elif (flip := _chosen(sign, reads, 2, group.members)) is not None:
        main = [-e if i in reads else e for i, e in enumerate(flip)]
        kinds.add("sign")
    more: list[Gauge] = []
    for kind, basis, modulus in (("scale", scale, None), ("sign", sign, 2)):
        known = _span([] if main is None else [main], modulus)
        more += [Gauge(kind, _whole(v)) for v in basis if known.grows(v)]
    exponents = _whole(main) if main is not None else (0,) * len(group.members)
    return replace(group, symmetries=frozenset(kinds), exponents=exponents, gauges=tuple(more))


def _chosen(
    basis: Sequence[Vector], reads: Sequence[int], modulus: int | None, members: Sequence[Member]
) -> Vector | None:
    """The solution in which every reader undoes what the producers do, with as few other exponents as possible.

    Readers that are multiplied with each other (a weight and its mask) would undo it twice: then one of them does.
    """
    found = _undone(basis, reads, modulus, members)
    for i in reversed(reads):
        if found is None or modulus is not None or len(reads) < 2 or _most(found) <= 1:
            break
        fewer = [r for r in reads if r != i]
        other = _undone(basis, fewer, modulus, members)
        if other is not None and _most(other) < _most(found):
            found, reads = other, fewer
    return found


def _undone(
    basis: Sequence[Vector], reads: Sequence[int], modulus: int | None, members: Sequence[Member]
) -> Vector | None:
    if not basis:
        return None
    if not reads:  # queries and keys, say: whatever moves most of the places together
        best = max(basis, key=lambda b: sum(e != 0 for e in b))
        first = next(e for e in best if e)
        return [Fraction(e) / first for e in best]
    combined = Equations(modulus)  # of the coefficients of the basis vectors, and the constant 1
    for i in reads:
        combined.add([*_terms(basis, i), (_ONE, 1)])
    # ask further exponents to vanish, one at a time, as long as that leaves a solution
    order = sorted(range(len(members)), key=lambda i: [r in members[i].roles for r in ("out", "add", "mul")])
    for i in order:
        if i not in reads and combined.free(_ONE) and combined.expression(_terms(basis, i)):
            trial = combined.copy()
            trial.add(_terms(basis, i))
            if trial.free(_ONE):
                combined = trial
    if not combined.free(_ONE):
        return None
    coefficients = combined.ratios(_ONE, range(len(basis)))
    out = [sum(c * b[i] for c, b in zip(coefficients, basis, strict=True)) for i in range(len(members))]
    out = [e % 2 for e in out] if modulus == 2 else out
    return out if all(e.denominator == 1 for e in out) else None


def _most(vector: Vector) -> Fraction:
    return max(abs(Fraction(e)) for e in vector)


def _terms(basis: Sequence[Vector], i: int) -> list[tuple[int, Number]]:
    return [(k, b[i]) for k, b in enumerate(basis) if b[i]]


def _whole(vector: Sequence[Number]) -> tuple[int, ...]:
    lowest = math.lcm(*(e.denominator for e in vector))
    return tuple(int(e * lowest) for e in vector)


def _span(vectors: Sequence[Vector], modulus: int | None) -> Span:
    span = Span(modulus)
    for v in vectors:
        span.grows(v)
    return span

"""The symmetries of each group, from the equations between exponents."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from weightlapse.wiring.data import Gauge, Group, Member
from weightlapse.wiring.equations import Equations
from weightlapse.wiring.gauges import Gauges

Vector = list[Fraction]
_ONE = (-1, 0, 0)  # the unknown that stands for the constant 1


def with_symmetries(groups: Sequence[Group], gauges: Gauges, atom_of: Mapping[str, int]) -> list[Group]:
    """The groups with what may be done to their units: ``symmetries`` and ``exponents``, and any further ``gauges``."""
    known: dict[Hashable, Group] = {}  # the dims of one head and of the next have one answer
    out = []
    for g in groups:
        key = (atom_of[g.name], tuple((m.tensor, m.axis, m.role) for m in g.members))
        if key not in known:
            known[key] = _solved(g, gauges, atom_of[g.name])
        like = known[key]
        out.append(replace(g, symmetries=like.symmetries, exponents=like.exponents, gauges=like.gauges))
    return out


def _solved(group: Group, gauges: Gauges, atom: int) -> Group:
    unknowns = [gauges.of_member(m, atom) for m in group.members]
    scale, sign = gauges.scale[atom].solutions(unknowns), gauges.sign[atom].solutions(unknowns)
    reads = [i for i, m in enumerate(group.members) if "in" in m.roles]
    kinds = {"permutation"}
    main = _chosen(scale, reads, None, group.members)
    if main is not None:
        kinds.add("scale")
        if _spanned(main, sign, 2):
            kinds.add("sign")
    elif (flip := _chosen(sign, reads, 2, group.members)) is not None:
        main = [-e if i in reads else e for i, e in enumerate(flip)]
        kinds.add("sign")
    more: list[Gauge] = []
    for kind, basis, modulus in (("scale", scale, None), ("sign", sign, 2)):
        known = [main] if main is not None and kind in kinds else []
        for vector in basis:
            if not _spanned(vector, known, modulus):
                known.append(vector)
                more.append(Gauge(kind, _whole(vector)))
    exponents = _whole(main) if main is not None else (0,) * len(group.members)
    return replace(group, symmetries=frozenset(kinds), exponents=exponents, gauges=tuple(more))


def _chosen(
    basis: Sequence[Vector], reads: Sequence[int], modulus: int | None, members: Sequence[Member]
) -> Vector | None:
    """The solution in which every reader undoes what the producers do, with as few other exponents as possible."""
    if not basis:
        return None
    if not reads:  # queries and keys, say: whatever moves most of the places together
        best = max(basis, key=lambda b: sum(e != 0 for e in b))
        first = next(e for e in best if e)
        return [e / first for e in best]
    target = Fraction(1) if modulus == 2 else Fraction(-1)
    combined = Equations(modulus)  # of the coefficients of the basis vectors
    for i in reads:
        combined.add([*_terms(basis, i), (_ONE, -target)])
    # ask further exponents to vanish, one at a time, as long as that leaves a solution
    order = sorted(
        range(len(members)),
        key=lambda i: ("out" in members[i].roles, "add" in members[i].roles, "mul" in members[i].roles),
    )
    for i in order:
        if i not in reads and combined.free(_ONE):
            trial = combined.copy()
            trial.add(_terms(basis, i))
            if trial.free(_ONE):
                combined = trial
    if not combined.free(_ONE):
        return None
    coefficients = combined.values({_ONE: Fraction(1)}, [(k, 0, 0) for k in range(len(basis))])
    out = [sum((c * b[i] for c, b in zip(coefficients, basis, strict=True)), Fraction(0)) for i in range(len(members))]
    out = [e % 2 for e in out] if modulus == 2 else out
    return out if all(e.denominator == 1 for e in out) else None


def _terms(basis: Sequence[Vector], i: int) -> list[tuple[tuple[int, int, int], Fraction]]:
    return [((k, 0, 0), b[i]) for k, b in enumerate(basis) if b[i]]


def _whole(vector: Vector) -> tuple[int, ...]:
    lowest = int(np.lcm.reduce([e.denominator for e in vector]))
    return tuple(int(e * lowest) for e in vector)


def _spanned(vector: Vector, basis: Sequence[Vector], modulus: int | None) -> bool:
    """Whether a vector is a combination of basis vectors."""
    equations = Equations(modulus)
    for i, e in enumerate(vector):
        equations.add([*_terms(basis, i), (_ONE, -e)])
    return equations.free(_ONE)

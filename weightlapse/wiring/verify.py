"""The verifier: does the network really compute the same when a group is permuted, flipped or rescaled?

All claims are tried at once on a `Bench`, and only when that fails each half alone, until the wrong ones are found: a group that
fails is dropped and named, a symmetry that fails is taken away.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from weightlapse.wiring.bench import TOLERANCE, Bench
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Gauge, Group
from weightlapse.wiring.placement import Placement

__all__ = ["TOLERANCE", "Bench", "Move", "moved", "shuffle", "signed", "verified", "works"]
_FEW = 16  # units that are moved in each group of a large network


@dataclass(frozen=True)
class Move:
    """One thing that is claimed to change nothing: a group permuted, or its units flipped or rescaled."""

    group: Group
    kind: str
    order: NDArray[np.int64] | None = None
    factors: NDArray[np.float64] | None = None
    exponents: Sequence[int] = ()
    gauge: Gauge | None = None


def moved(moves: Iterable[Move], wiring: Wiring) -> dict[str, Placement]:
    """What the moves, one after the other, do to each tensor."""
    out: dict[str, Placement] = {}
    for _, same in itertools.groupby(moves, key=lambda move: id(move.group)):
        steps = list(same)
        while steps:  # one reordering, and all the rescalings behind it, in one go
            last = next((i for i, move in enumerate(steps) if i and move.order is not None), len(steps))
            _together(out, steps[:last], wiring)
            steps = steps[last:]
    return out


def _together(out: dict[str, Placement], moves: Sequence[Move], wiring: Wiring) -> None:
    group, order = moves[0].group, moves[0].order
    for i, m in enumerate(group.members):
        powers = [move.factors ** move.exponents[i] for move in moves if move.factors is not None and move.exponents[i]]
        if order is not None or powers:
            factors = np.prod(powers, axis=0) if powers else None
            length = wiring.shapes[m.tensor][m.axis]
            out[m.tensor] = out.get(m.tensor, Placement()).then(m, length, order, factors)


def works(bench: Bench, wiring: Wiring, group: Group, rng: np.random.Generator) -> float:
    """The relative error after a random permutation of the group's units."""
    return bench.error_moved(moved([Move(group, "permutation", shuffle(group.size, rng))], wiring))


def signed(
    bench: Bench, wiring: Wiring, group: Group, exponents: Sequence[int], kind: str, rng: np.random.Generator
) -> float:
    """The relative error after flipping (``kind`` "sign") or rescaling ("scale") random units."""
    move = Move(group, kind, factors=_factors(group.size, kind, rng), exponents=exponents)
    return bench.error_moved(moved([move], wiring))


def shuffle(size: int, rng: np.random.Generator, most: int | None = None) -> NDArray[np.int64]:
    """A random order that is not the old one, of at most ``most`` units."""
    order = np.arange(size)
    chosen = rng.permutation(size)[:most]
    order[np.sort(chosen)] = chosen
    return np.roll(order, 1) if np.array_equal(order, np.arange(size)) else order


def _factors(size: int, kind: str, rng: np.random.Generator, most: int | None = None) -> NDArray[np.float64]:
    if kind == "scale":
        factors = np.exp(rng.normal(0.0, 0.5, size))
    else:
        factors = rng.choice([-1.0, 1.0], size)
        factors[rng.integers(size)] = -1.0
    if most is not None:
        factors[rng.permutation(size)[most:]] = 1.0
    return factors


def _moves(wiring: Wiring, rng: np.random.Generator, most: int | None, sample: bool) -> Iterator[Move]:
    sizes = {g.name: g.size for g in wiring.groups}
    for g in wiring.groups:
        if sample and g.parent is not None and 0 < g.parent[1] < sizes.get(g.parent[0], 0) - 1:
            continue  # made by the same rule as those in the first and the last unit
        yield Move(g, "permutation", shuffle(g.size, rng, most))
        own = [Gauge(kind, g.exponents) for kind in ("sign", "scale") if kind in g.symmetries]
        for gauge in [*own, *g.gauges]:
            factors = _factors(g.size, gauge.kind, rng, most)
            yield Move(g, gauge.kind, None, factors, gauge.exponents, gauge if gauge in g.gauges else None)


def _failing(moves: list[Move], wiring: Wiring, bench: Bench) -> dict[int, tuple[Move, float]]:
    """Which moves change the outputs: all are made at once, and only when that fails each half is tried alone."""
    if not moves:
        return {}
    error = bench.error_moved(moved(moves, wiring))
    if error <= bench.tolerance:
        return {}
    if len(moves) == 1:
        return {id(moves[0]): (moves[0], error)}
    half = len(moves) // 2
    return _failing(moves[:half], wiring, bench) | _failing(moves[half:], wiring, bench)


def verified(wiring: Wiring, bench: Bench, *, sample: bool = False) -> Wiring:
    """The wiring without what does not hold: failing groups are dropped and named, failing symmetries taken away.

    ``sample`` leaves out the groups that are nested in units between the first and the last one, unless something fails.
    """
    rng, most = np.random.default_rng(7), _FEW if bench.large else None
    moves = list(_moves(wiring, rng, most, sample))
    if bench.error_moved(moved(moves, wiring)) <= bench.tolerance:  # as a rule: one run for everything
        return wiring
    if sample:
        return verified(wiring, bench)
    # Permutations first: what a wrong group does to its signs is of no interest.
    bad = _failing([m for m in moves if m.kind == "permutation"], wiring, bench)
    gone = {m.group.name: error for m, error in bad.values()}
    rest = [m for m in moves if m.kind != "permutation" and m.group.name not in gone]
    lost = [m for m, _ in _failing(rest, wiring, bench).values()]
    kept: list[Group] = []
    for g in wiring.groups:
        if g.name in gone:
            continue
        kinds = {m.kind for m in lost if m.group.name == g.name and m.gauge is None}
        gauges = [m.gauge for m in lost if m.group.name == g.name and m.gauge is not None]
        kept.append(
            replace(
                g,
                parent=None if g.parent is not None and g.parent[0] in gone else g.parent,
                symmetries=g.symmetries - kinds,
                gauges=tuple(x for x in g.gauges if x not in gauges),
            )
        )
    dropped = [f"{name}: permuting its units changes the outputs by {e:.1e} of their size" for name, e in gone.items()]
    fixed = dict(wiring.fixed)
    for name in gone:
        for member in wiring.group(name).members:
            fixed.setdefault((member.tensor, member.axis), "its group was dropped: permuting it changed the outputs")
    return replace(wiring, groups=tuple(kept), dropped=(*wiring.dropped, *dropped), fixed=fixed)

"""What the rules may have missed, looked for by experiment: a tie that could be split, a fixed axis that could be free.

Two units u and v are made nearly equal in a set of places, each place with a small random difference of its own. Exchanging u and v in
some of the places then changes the outputs by the products of differences across the cut: places belong together when their
common term is not zero. What is found that way to hang together by itself is exchanged for good, with ordinary random weights,
and counts only when the outputs stay the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from weightlapse.wiring.bench import Bench
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member
from weightlapse.wiring.verify import Move, moved, shuffle

# Reasons that say what an axis is, not that its order was found to matter.
SETTLED = ("input", "output", "vocabulary", "size 1", "conv kernel", "space", "never used", "nothing reads")
_MOST_PLACES = 60
_MOST_RUNS = 20_000
_SHARE = 3e-2


@dataclass(frozen=True)
class Missed:
    """Units that could be exchanged and are not: ``text`` says so, ``group`` is the group that they would make."""

    text: str
    group: Group
    reason: str  # the name of the group that is tied too tightly, or why the axis was fixed
    rest: tuple[Group, ...]  # what must have an influence for this to tell anything


def missed(wiring: Wiring, bench: Bench) -> list[Missed]:
    """All that the experiments free. Needs a bench in float64, where small differences can be told from rounding."""
    lab = _Lab(wiring, bench)
    found = [m for g in wiring.groups if g.parent is None or g.parent[1] == 0 for m in _splits(lab, g)]
    found += _freed(lab)
    for seed in (1, 2):  # a unit may be dead with some weights, and free for that reason
        if found and bench.redraw(seed):
            found = [m for m in found if lab.error(m.group) <= bench.tolerance and any(map(lab.matters, m.rest))]
    return found


def _splits(lab: _Lab, group: Group) -> Iterator[Missed]:
    """A part of the group's places whose units may be exchanged while the others stay."""
    places = [p for m in group.members for p in _parts(m, lab.wiring)]
    if not 2 <= len(places) <= _MOST_PLACES:
        return
    seeds = [i for i, p in enumerate(places) if "out" in p.roles] or [0]
    whole = set(range(len(places)))
    seen: set[int] = set()
    for seed in seeds:
        if seed in seen:
            continue
        part = lab.together(places, seed)
        seen |= part
        rest = tuple(_group("rest", group.size, [places[i]]) for i in sorted(whole - part))
        if part and any(map(lab.matters, rest)) and lab.holds(group.size, [places[i] for i in part]):
            names = ", ".join(dict.fromkeys(f"{places[i].tensor}[{places[i].axis}]" for i in sorted(part)))
            made = _group(group.name, group.size, [places[i] for i in sorted(part)])
            yield Missed(f"{group.name}: its units in {names} could have an order of their own", made, group.name, rest)
            return


def _freed(lab: _Lab) -> Iterator[Missed]:
    """A fixed axis whose positions may be exchanged, together with other fixed axes of the same length or a multiple of it."""
    loose = lab.loose()
    done: set[tuple[str, int]] = set()
    for (tensor, axis), positions in loose.items():
        size = len(positions)
        if (tensor, axis) in done or size < 2:
            continue
        for rounds in (False, True):  # one layout at a time: a tensor in two layouts at once would hold nothing
            places = [p for (t, a), at in loose.items() for p in _laid_out(t, a, at, size, rounds)]
            if rounds and all(p.k == 1 for p in places):
                break
            seed = next(i for i, p in enumerate(places) if (p.tensor, p.axis) == (tensor, axis))
            part = lab.together(places[:_MOST_PLACES], seed) if seed < _MOST_PLACES else set()
            chosen = [places[i] for i in sorted(part)]
            if chosen and lab.holds(size, chosen):
                done.update((p.tensor, p.axis) for p in chosen)
                names = ", ".join(dict.fromkeys(f"{p.tensor}[{p.axis}]" for p in chosen))
                why = lab.wiring.fixed.get((tensor, axis), "")
                yield Missed(
                    f"{tensor}[{axis}] is fixed ({why}), but its {size} positions may be exchanged in {names}",
                    _group(tensor, size, chosen),
                    why,
                    tuple(_group("one", size, [p]) for p in chosen),
                )
                break


def _group(name: str, size: int, places: Sequence[Member]) -> Group:
    return Group(name, size, tuple(places), exponents=(0,) * len(places))


def _parts(m: Member, wiring: Wiring) -> list[Member]:
    """A member slot by slot, and in stacks of matrices matrix by matrix."""
    shape = wiring.shapes[m.tensor]
    slots = [replace(m, index=m.index[:, j : j + 1]) for j in range(m.k)] if m.k <= 8 else [m]
    if m.where is None and len(shape) == 3 and m.axis != 0 and shape[0] <= 8:
        return [replace(s, where=(0, np.array([e]))) for s in slots for e in range(shape[0])]
    return slots


def _laid_out(tensor: str, axis: int, positions: np.ndarray, size: int, rounds: bool) -> list[Member]:
    """Where ``size`` units lie on an axis when they lie one after the other in blocks, or over and over again in ``rounds``; none when they do not fit."""
    if len(positions) % size or len(positions) // size > 8:
        return []
    index = positions.reshape(-1, size).T if rounds else positions.reshape(size, -1)
    return [Member(tensor, axis, np.ascontiguousarray(index), "out")]


class _Lab:
    def __init__(self, wiring: Wiring, bench: Bench) -> None:
        self.wiring, self.bench = wiring, bench
        self.small = 1e-3 if bench.tolerance < 1e-8 else 5e-2
        self.rng = np.random.default_rng(5)
        self.runs = 0

    def loose(self) -> dict[tuple[str, int], np.ndarray]:
        """The positions of fixed axes that are in no group, where the reason is not what the axis is."""
        out: dict[tuple[str, int], np.ndarray] = {}
        for (tensor, axis), reason in self.wiring.fixed.items():
            if tensor in self.wiring.unseen or all(any(s in part for s in SETTLED) for part in reason.split("; ")):
                continue
            free = np.ones(self.wiring.shapes[tensor][axis], dtype=bool)
            for _, m in self.wiring.groups_of(tensor, axis):
                free[m.index] = False
            out[tensor, axis] = np.flatnonzero(free)
        return out

    def together(self, places: Sequence[Member], seed: int) -> set[int]:
        """The places that hang together with the seed, through terms that they have in common; empty when nothing can be said."""
        size = places[seed].index.shape[0]
        pairs = [(0, size - 1), (size // 2, (size // 2 + 1) % size)]
        found = {seed}
        told = False
        for u, v in pairs if size > 2 else pairs[:1]:
            if len(found) == len(places):
                break
            state = self.alike(places, u, v)
            with self.bench.holding(state):
                told = self._grow(found, places, seed, state, u, v) or told
        return found if told else set()

    def _grow(
        self, found: set[int], places: Sequence[Member], seed: int, state: Mapping[str, Tensor], u: int, v: int
    ) -> bool:
        """Adds to ``found`` what hangs together with it; False when the seed has no influence on the outputs."""
        base = self.outputs(state, ())
        alone = [self.outputs(state, [(p, u, v)]) - base for p in places]
        strength = [float(np.abs(a).max(initial=0.0)) for a in alone]
        new = {seed}
        while new and self.runs < _MOST_RUNS:
            joint = self.outputs(state, [(places[i], u, v) for i in found]) - base
            new = set()
            for i in set(range(len(places))) - found:
                both = self.outputs(state, [(places[j], u, v) for j in [*found, i]]) - base
                common = float(np.abs(joint + alone[i] - both).max(initial=0.0))
                # Terms between places that have nothing to do with each other are smaller by the size of the differences.
                if common > _SHARE * min(strength[i], max(strength[j] for j in found)) > 0:
                    new.add(i)
            found |= new
        return strength[seed] > 0

    def alike(self, places: Iterable[Member], u: int, v: int) -> dict[str, Tensor]:
        """What becomes of the weights when unit v is nearly equal to unit u in every place."""
        state = {p.tensor: self.bench.state[p.tensor].clone() for p in places}
        for p in places:
            t = state[p.tensor]
            spread = float(t.abs().mean()) or 1.0
            for a, b in zip(p.index[u], p.index[v], strict=True):
                source, target = _slice(t, p, int(a)), _slice(t, p, int(b))
                noise = torch.from_numpy(self.rng.normal(0.0, self.small * spread, tuple(target.shape))).to(t.dtype)
                target.copy_(source + noise)
        return state

    def outputs(self, state: Mapping[str, Tensor], swaps: Sequence[tuple[Member, int, int]]) -> np.ndarray:
        """The outputs with units u and v exchanged in some places; the bench holds ``state``."""
        self.runs += 1
        changed = {name: state[name].clone() for name in dict.fromkeys(p.tensor for p, _, _ in swaps)}
        for p, u, v in swaps:
            for a, b in zip(p.index[u], p.index[v], strict=True):
                first, second = _slice(changed[p.tensor], p, int(a)), _slice(changed[p.tensor], p, int(b))
                kept = first.clone()
                first.copy_(second)
                second.copy_(kept)
        return self.bench.outputs(changed)

    def holds(self, size: int, places: Sequence[Member]) -> bool:
        """Whether exchanging the units in these places, and only there, leaves the outputs as they are, with the weights at random."""
        whole = _group("tried", size, places)
        return all(self.error(whole) <= self.bench.tolerance for _ in range(2)) and all(
            self.matters(_group("one", size, [p])) for p in places
        )

    def matters(self, group: Group) -> bool:
        """Whether the places have any influence: without, they could be exchanged, and that would tell nothing (the bias of keys)."""
        return self.error(group) > self.bench.tolerance

    def error(self, group: Group) -> float:
        """The relative change of the outputs when the group's units are put in another order."""
        return self.bench.error_moved(moved([Move(group, "permutation", shuffle(group.size, self.rng))], self.wiring))


def _slice(t: Tensor, p: Member, position: int) -> Tensor:
    view = t.select(p.axis, position)
    if p.where is None:
        return view
    other = p.where[0] - (p.where[0] > p.axis)
    first = int(p.where[1][0])
    return view.narrow(other, first, len(p.where[1]))

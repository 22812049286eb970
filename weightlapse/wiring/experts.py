"""Experts behind a router: they may change places when the router's rows and all their stacks do so together.

No operator shows it: top-k picks by position, sorts and loops go through the experts in order, and only the sum over the chosen
ones makes the order vanish again. So it is a guess from the shapes, which is claimed only after it was tried.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weightlapse.wiring.bench import Bench
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member, blocks
from weightlapse.wiring.verify import works

_RANKED = ("topk depends", "sort depends", "argmax depends", "argsort depends")
_PICKED = ("indexed by a tensor", "single positions of it are selected", "which matrix a row meets is computed")
_BLOCKER = "experts behind a router: how many are chosen, and from how many, is in the code"


def with_experts(wiring: Wiring, bench: Bench) -> Wiring:
    """The wiring with a group for each set of experts that proved to be exchangeable; their own units become nested groups."""
    rng = np.random.default_rng(11)
    for group in guesses(wiring):
        if all(works(bench, wiring, group, rng) <= bench.tolerance for _ in range(2)) and _matters(
            bench, wiring, group, rng
        ):
            wiring = _joined(wiring, group)
    return wiring


def guesses(wiring: Wiring) -> list[Group]:
    """Axes of one length below one module: rows that are ranked, and stacks of which positions are picked."""
    found: list[Group] = []
    ranked: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for (tensor, axis), why in wiring.fixed.items():
        if any(r in why for r in _RANKED):
            module = tensor.rpartition(".")[0]
            ranked.setdefault((module, wiring.shapes[tensor][axis]), []).append((tensor, axis))
    for (module, size), rows in ranked.items():
        scope = module.rpartition(".")[0]
        prefix = f"{scope}." if scope else ""
        stacks = [
            (tensor, axis)
            for (tensor, axis), why in wiring.fixed.items()
            if tensor.startswith(prefix) and wiring.shapes[tensor][axis] == size and any(p in why for p in _PICKED)
        ]
        if stacks and size > 1:
            members = [_member(t, a, size, "out" if len(wiring.shapes[t]) > 1 else "add") for t, a in rows]
            members += [_member(t, a, size, "in") for t, a in stacks]
            name = module if wiring.find(module) is None else f"{module}.experts"
            found.append(Group(name, size, tuple(members), exponents=(0,) * len(members), blockers=(_BLOCKER,)))
    return found


def _member(tensor: str, axis: int, size: int, role: str) -> Member:
    return Member(tensor, axis, blocks(size), role)


def _matters(bench: Bench, wiring: Wiring, group: Group, rng: np.random.Generator) -> bool:
    """Whether rows or stacks alone could not change places: else their agreement would tell nothing."""
    router = tuple(m for m in group.members if m.role == "out")
    alone = replace(group, members=router, exponents=(0,) * len(router))
    return works(bench, wiring, alone, rng) > bench.tolerance


def _joined(wiring: Wiring, group: Group) -> Wiring:
    stacks = {(m.tensor, m.axis) for m in group.members if m.role == "in"}
    groups = [_inside(g, group, stacks) for g in wiring.groups]
    first = next((i for i, g in enumerate(groups) if g.parent is not None and g.parent[0] == group.name), len(groups))
    groups.insert(first, group)
    fixed = {k: v for k, v in wiring.fixed.items() if k not in {(m.tensor, m.axis) for m in group.members}}
    return replace(wiring, groups=tuple(groups), fixed=fixed)


def _inside(g: Group, outer: Group, stacks: set[tuple[str, int]]) -> Group:
    """``g`` as a group inside one expert, when all its places are."""
    positions = {
        int(m.where[1][0]) if m.where is not None and (m.tensor, m.where[0]) in stacks and len(m.where[1]) == 1 else -1
        for m in g.members
    }
    if g.parent is None and len(positions) == 1 and -1 not in positions:
        return replace(g, parent=(outer.name, positions.pop()))
    return g

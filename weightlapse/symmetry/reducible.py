"""Units that a network could do without: dead, constant, duplicate or linear ones. They make its weights ambiguous."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.activations import standardised
from weightlapse.symmetry.runner import Runner
from weightlapse.symmetry.states import Weights
from weightlapse.symmetry.units import Units, units_of
from weightlapse.wiring.data import Wiring

_TEXT = {
    "dead": "never say anything on the data, or nobody listens to them: any weights would do",
    "constant": "say the same for every input: they could be part of the next bias",
    "duplicate": "say the same as another unit, up to a factor and a constant: one of them would do",
    "linear": "never leave the linear part of their activation on the data: the layer could pass them straight on",
}


@dataclass(frozen=True)
class Reducible:
    """Units of one group that the network could do without. ``network`` is "a" or "b"; ``kind`` one of dead, constant,
    duplicate, linear."""

    network: str
    group: str
    kind: str
    units: tuple[int, ...]

    @property
    def text(self) -> str:
        names = ", ".join(map(str, self.units[:6])) + (", ..." if len(self.units) > 6 else "")
        noun = "unit" if len(self.units) == 1 else "units"
        return f"{self.network}: {len(self.units)} {noun} of {self.group} ({names}) {_TEXT[self.kind]}"


@dataclass(frozen=True)
class Health:
    """How many units of each group are live, and the reducible ones."""

    live: dict[str, int]
    reducible: list[Reducible]


def inspect(network: str, arrays: Weights, wiring: Wiring, runner: Runner | None, state: Mapping[str, Any]) -> Health:
    """Looks at every group that is not nested: by what its units say on the data where that can be seen, else by weights."""
    groups = [g for g in wiring.groups if g.parent is None]
    names = [g.name for g in groups if not wiring.children(g.name)]
    said = runner.units(wiring, names, state) if runner else {}
    made = runner.units(wiring, names, state, made=True) if runner else {}
    live: dict[str, int] = {}
    found: list[Reducible] = []
    for g in groups:
        units = units_of(g, frozenset())
        unheard = _silent_side(arrays, units, "in")
        value = said.get(g.name)
        if value is None:
            kinds = {"dead": unheard | _silent_side(arrays, units, "out")}
        else:
            kinds = _kinds(value.reshape(g.size, -1), unheard, made.get(g.name), g.ops)
        live[g.name] = int(g.size - (kinds["dead"] | kinds.get("constant", np.zeros(g.size, dtype=bool))).sum())
        found += [
            Reducible(network, g.name, kind, tuple(int(u) for u in np.flatnonzero(mask)))
            for kind, mask in kinds.items()
            if mask.any()
        ]
    return Health(live, found)


def _kinds(
    value: NDArray[Any], unheard: NDArray[np.bool_], made: NDArray[Any] | None, ops: frozenset[str]
) -> dict[str, NDArray[np.bool_]]:
    spread = value.max(axis=1) - value.min(axis=1)
    size = float(np.abs(value).max(initial=0.0)) or 1.0
    still = spread <= 1e-12 * size
    zero = np.abs(value).max(axis=1) <= 1e-12 * size
    dead = unheard | (still & zero)
    duplicate = np.zeros(len(value), dtype=bool)
    if value.shape[1] >= 4:  # over fewer samples any two units may agree
        duplicate = _repeats(value, ~(dead | still))
    out = {"dead": dead, "constant": still & ~dead, "duplicate": duplicate}
    if made is not None and ops and made.size == value.size:
        raw = made.reshape(len(value), -1)
        linear = (np.abs(raw - value).max(axis=1) <= 1e-12 * size) & ~(dead | still)
        if not linear[~(dead | still)].all():  # all of them: the group has no activation function at all
            out["linear"] = linear
    return out


def _repeats(value: NDArray[Any], live: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Live units that say the same as an earlier live one: dropping all that are named keeps one of each."""
    rows, _ = standardised(value)
    found = np.zeros(len(value), dtype=bool)
    for start in range(0, len(value), 256):  # all pairs at once would be larger than the layer's weights
        some = np.arange(start, min(start + 256, len(value)))
        same = np.abs(rows[some] @ rows[: some[-1]].T) > 1 - 1e-10
        earlier = np.arange(some[-1]) < some[:, None]
        found[some] = (same & earlier & live[: some[-1]]).any(axis=1) & live[some]
    return found


def _silent_side(arrays: Weights, units: Units, role: str) -> NDArray[np.bool_]:
    """Units whose weights of that role are all zero (none where the group has no such weights)."""
    total = np.zeros(units.size)
    any_ = False
    for p in units.voters:
        if role in p.member.roles and p.tensor in arrays:
            total += np.abs(p.rows(arrays[p.tensor])).sum(axis=1)
            any_ = True
    return total == 0 if any_ else np.zeros(units.size, dtype=bool)

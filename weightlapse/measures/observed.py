"""What the recorder saw of the network besides its weights, as the rules ask for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.stream import Array
from weightlapse.recording.run import Run


@dataclass(frozen=True)
class Activation:
    """One activation at one step: after which ``layer``, ``flat`` share of its values, ``off`` units that are flat for every example."""

    layer: str
    op: str
    units: int
    flat: float
    off: frozenset[int]
    all_off: bool


@dataclass
class Observed:
    """By step. What is not in the recording is empty: that nothing was seen says nothing."""

    frozen: list[tuple[int, frozenset[str]]] = field(default_factory=list)
    groups: list[tuple[int, dict[str, dict[str, Any]]]] = field(
        default_factory=list
    )  # by tensor, the numbers of its group
    shared: list[tuple[str, str]] = field(default_factory=list)
    without: dict[str, list[tuple[int, frozenset[int]]]] = field(
        default_factory=dict
    )  # by tensor, rows without a gradient
    activations: dict[tuple[str, str, int], list[tuple[int, Activation]]] = field(
        default_factory=dict
    )  # (layer, op, which call)

    def frozen_after(self, name: str, step: int) -> bool:
        """Whether ``name`` was found to take no gradient by the last look, taken at or after ``step``; looks say only what changed."""
        return bool(self.frozen) and name in self.frozen[-1][1] and self.frozen[-1][0] >= step

    def number(self, name: str, key: str, steps: NDArray[np.int64]) -> Array:
        """(T,) the optimizer's ``key`` for a tensor at each step, as last seen; NaN where unknown."""
        values = np.full(len(steps), np.nan)
        for step, by_name in self.groups:
            value = by_name.get(name, {}).get(key)
            if isinstance(value, (int, float)):
                values[steps >= step] = float(value)
        return values

    def decay(self, name: str, steps: NDArray[np.int64]) -> Array:
        """(T,) share of a weight that decay alone takes at each optimizer step; 0 where the optimizer is unknown."""
        rate = np.nan_to_num(self.number(name, "lr", steps) * self.number(name, "weight_decay", steps))
        kinds = {str(by_name[name].get("optimizer")) for _, by_name in self.groups if name in by_name}
        plain = bool(kinds) and all("SGD" in kind for kind in kinds)
        if plain:
            momentum = np.nan_to_num(self.number(name, "momentum", steps))
            return np.asarray(rate / np.where(momentum < 1, 1 - momentum, 1))
        return np.asarray(rate * self._decoupled(name))

    def decoupled_decay(self, name: str, steps: NDArray[np.int64]) -> Array:
        """(T,) the same where decay is a part of the update by itself, so that it can be taken off; else 0."""
        rate = np.nan_to_num(self.number(name, "lr", steps) * self.number(name, "weight_decay", steps))
        return np.asarray(rate * self._decoupled(name))

    def _decoupled(self, name: str) -> bool:
        return any(bool(by_name[name].get("decoupled")) for _, by_name in self.groups if name in by_name)


def observed_of(run: Run) -> Observed:
    """From the recording; entries of another form are passed over."""
    seen = Observed()
    for step, facts in run.observed:
        if isinstance(facts.get("frozen"), list):
            seen.frozen.append((step, frozenset(map(str, facts["frozen"]))))
        if isinstance(facts.get("groups"), list):
            groups = [g for g in facts["groups"] if isinstance(g, dict) and isinstance(g.get("names"), list)]
            seen.groups.append((step, {str(name): g for g in groups for name in g["names"]}))
        for pair in facts.get("shared") or ():
            if isinstance(pair, list) and len(pair) == 2 and tuple(pair) not in seen.shared:
                seen.shared.append((str(pair[0]), str(pair[1])))
        for name, entry in _items(facts.get("gradients")):
            if isinstance(entry, dict):
                seen.without.setdefault(name, []).append((step, _numbers(entry.get("without"))))
        calls: dict[tuple[str, str], int] = {}
        for entry in facts.get("activations") or ():
            if not isinstance(entry, dict) or not isinstance(entry.get("flat"), (int, float)):
                continue
            place = str(entry.get("layer")), str(entry.get("op"))
            calls[place] = calls.get(place, -1) + 1
            found = Activation(
                *place,
                int(entry.get("units") or 0),
                float(entry["flat"]) if math.isfinite(entry["flat"]) else 0.0,
                _numbers(entry.get("off")),
                bool(entry.get("all_off")),
            )
            seen.activations.setdefault((*place, calls[place]), []).append((step, found))
    return seen


def _items(value: Any) -> Any:
    return value.items() if isinstance(value, dict) else ()


def _numbers(value: Any) -> frozenset[int]:
    return frozenset(v for v in value if isinstance(v, int)) if isinstance(value, list) else frozenset()

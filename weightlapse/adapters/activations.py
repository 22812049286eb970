"""What is said of an activation that was looked at, whatever the framework."""

from __future__ import annotations

from typing import Any

MOST_UNITS = 1000  # named one by one
EDGE = 0.99  # of the range of tanh and sigmoid: beyond it the slope is below 2 % of its largest


def activation_facts(layer: str, op: str, units: int, flat: float, off: list[int]) -> dict[str, Any]:
    """JSON facts, see "Observations" in ``docs/format.md``. ``flat``: the share of values without slope; ``off``: the units that have nothing else."""
    return {
        "layer": layer,
        "op": op,
        "units": units,
        "flat": flat,
        "off": off[:MOST_UNITS],
        "all_off": len(off) == units,
    }

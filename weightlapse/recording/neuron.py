"""One unit of a network over time, gathered from every tensor that holds a part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument

if TYPE_CHECKING:
    from weightlapse.recording.run import Run
    from weightlapse.wiring.data import Wiring

# the part that a member plays, by its role seen from the unit: what produces it comes in, what consumes it goes out
_PARTS = {"out": "incoming", "in": "outgoing", "add": "bias", "mul": "gain", "stat": "statistics"}


def neuron(run: Run, wiring: Wiring, group: str, unit: int) -> dict[str, NDArray[Any]]:
    """The weights of ``unit`` of ``group``; see :meth:`Recording.neuron`."""
    found = wiring.group(group)
    if not 0 <= unit < found.size:
        raise InvalidArgument(f"group {group!r} has the units 0 to {found.size - 1}; there is no unit {unit}")
    parts: dict[str, NDArray[Any]] = {}
    for member, positions in wiring.neuron(group, unit):
        if member.tensor not in run:
            continue  # wired, but not among the recorded tensors
        part = _PARTS.get(member.role.split("+")[0], member.role)
        key = part if part not in parts else f"{part}:{member.tensor}"
        parts[key] = _over_time(run, member, np.asarray(positions))
    if not parts:
        raise InvalidArgument(f"none of the tensors that hold unit {unit} of {group!r} was recorded")
    return parts


def _over_time(run: Run, member: Any, positions: NDArray[np.int64]) -> NDArray[Any]:
    """(T, ...) values of one member: a single position drops its axis, several keep it."""
    axis = member.axis
    first, last = int(positions.min()), int(positions.max())
    key: list[Any] = [slice(None)] * (1 + (len(run[member.tensor].shape) - 1))
    key[1 + axis] = slice(first, last + 1)
    values = run[member.tensor][tuple(key)]
    values = np.take(values, positions - first, axis=1 + axis)
    if member.where is not None:
        other, slab = member.where
        values = np.take(values, np.asarray(slab), axis=1 + other)
    return values.squeeze(1 + axis) if len(positions) == 1 else values

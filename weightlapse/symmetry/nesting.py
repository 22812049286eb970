"""Groups nested in the units of others: which belong together, and who answers for which weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.states import Weights
from weightlapse.symmetry.units import Units
from weightlapse.wiring.arrays import Numbers, shape_of, without
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group


class Masked(Mapping[str, Numbers]):
    """Arrays with some of their numbers zero; one byte is held for each number of such an array."""

    def __init__(self, arrays: Weights, names: set[str] | None = None) -> None:
        self._arrays = arrays
        self.names = set(arrays) if names is None else names
        self._hidden: dict[str, NDArray[np.bool_]] = {}

    def hide(self, name: str, mask: NDArray[np.bool_]) -> None:
        """Zero where ``mask`` is set, too."""
        if mask.any():
            self._hidden[name] = mask | self._hidden[name] if name in self._hidden else mask

    def __getitem__(self, name: str) -> Numbers:
        if name not in self.names:
            raise KeyError(name)
        value, mask = self._arrays[name], self._hidden.get(name)
        return value if mask is None else without(value, mask)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Nesting:
    """``family[g]`` lists the groups nested in g: one list per family, in the order of g's units.

    Who pays for which weight when pairs of units are valued: a weight inside a nested group is that group's; one that two
    families of the same parent share is nobody's, and ``overlaps`` names the groups that must therefore be improved alone afterwards.
    """

    def __init__(self, a: Weights, wiring: Wiring, units: dict[str, Units]) -> None:
        self._a, self._units = a, units
        self.family = {n: _families(wiring, u, units) for n, u in units.items()}
        self.nested = {c.name for fs in self.family.values() for f in fs for c in f}
        self.overlaps: set[str] = set()
        self._own: dict[str, Weights] = {}
        self._shared = Masked(a)
        for name in units:
            if self.family[name]:
                self._claim(name)

    def weights_of(self, name: str) -> Weights:
        """a's tensors as they count for a group: weights that other groups answer for are zero."""
        return self._own.get(name, self._shared)

    def inside(self, name: str) -> list[list[str]]:
        """Names of all groups below each unit, in corresponding order."""
        out: list[list[str]] = [[] for _ in range(self._units[name].size)]
        for family in self.family[name]:
            for names, child in zip(out, family):
                names.append(child.name)
                names.extend(n for below in self.inside(child.name) for n in below)
        return out

    def cells(self, name: str) -> dict[str, NDArray[np.int8]]:
        """Per tensor, in how many families of nested groups each weight is."""
        count: dict[str, NDArray[np.int8]] = {}
        for family in self.family[name]:
            for tensor, mask in self._cells_of(family).items():
                count[tensor] = count.get(tensor, np.zeros(mask.shape, np.int8)) + mask
        return count

    def _claim(self, name: str) -> None:
        count = self.cells(name)
        for tensor, n in count.items():
            self._shared.hide(tensor, n > 1)
        own = Masked(self._a, {p.tensor for p in self._units[name].voters})
        for tensor in list(own):
            if tensor in count:
                mask = count[tensor] > 0
                if bool(without(self._a[tensor], mask).any()):
                    own.hide(tensor, mask)
                else:
                    own.names.discard(tensor)
        self._own[name] = own
        if any((n > 1).any() for n in count.values()) or any(c.twice for f in self.family[name] for c in f):
            self.overlaps |= {c.name for f in self.family[name] for c in f}

    def _cells_of(self, family: list[Units]) -> dict[str, NDArray[np.bool_]]:
        out: dict[str, NDArray[np.bool_]] = {}
        for c in family:
            for p in c.voters:
                m, shape = p.member, shape_of(self._a, p.tensor)
                mask = np.ones(shape, dtype=bool)
                for axis, positions in ((m.axis, m.index.ravel()), *((m.where,) if m.where else ())):
                    along = np.zeros(shape[axis], dtype=bool)
                    along[positions] = True
                    mask &= along.reshape([-1 if i == axis else 1 for i in range(len(shape))])
                out[p.tensor] = out[p.tensor] | mask if p.tensor in out else mask
        return out


def _families(wiring: Wiring, parent: Units, units: dict[str, Units]) -> list[list[Units]]:
    """The groups nested in ``parent``, one list per family, each in the order of the parent's units.

    Two nested groups belong together when they own the same slots of their parents' positions. A family that does not
    cover every unit of its parent is left out: its groups are then matched alone.
    """
    found: dict[tuple[Any, ...], dict[int, Units]] = {}
    for child in wiring.children(parent.name):
        assert child.parent is not None
        found.setdefault(_slots(child, parent.group), {})[child.parent[1]] = units[child.name]
    return [
        [by_unit[u] for u in range(parent.size)]
        for by_unit in found.values()
        if set(by_unit) == set(range(parent.size))
    ]


def _slots(child: Group, parent: Group) -> tuple[Any, ...]:
    """Where the child lives, told relative to its parent's unit, so that siblings say the same."""
    assert child.parent is not None
    unit = child.parent[1]
    key: list[Any] = [child.size]
    for m in child.members:
        on_axis = [p.index[unit] for p in parent.members if (p.tensor, p.axis) == (m.tensor, m.axis)]
        place = [int(x) for x in m.index.ravel()]
        if on_axis:  # otherwise on an axis of its own: the same positions in every sibling
            slot = {int(x): i for i, x in enumerate(np.concatenate(on_axis))}
            place = [slot.get(x, -1) for x in place]
        key.append((m.tensor, m.axis, tuple(place)))
    return tuple(key)

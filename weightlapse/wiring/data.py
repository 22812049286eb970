"""The wiring of a network: which positions on which axes of which tensors are the same interchangeable units.

NumPy only, so that a recording, a film or an alignment needs no framework. ``trace`` makes a `Wiring` from a torch module,
``Wiring.from_spec`` from a text that a person can write.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, UnknownTensor, closest
from weightlapse.wiring.members import Basis, Group, Member


@dataclass(frozen=True)
class Wiring:
    """All groups of a network, its tied tensors, and the reason for every axis that is in no group.

    >>> import numpy as np
    >>> from weightlapse.wiring.data import Wiring
    >>> w = Wiring.from_spec('''
    ... tensor fc1.weight (8, 4)
    ... tensor fc1.bias (8)
    ... tensor fc2.weight (2, 8)
    ... group fc1: 8 units, permutation
    ...   fc1.weight[0]: out
    ...   fc1.bias[0]: add
    ...   fc2.weight[1]: in
    ... ''')
    >>> w.group("fc1").size
    8
    """

    groups: tuple[Group, ...]
    aliases: dict[str, list[str]] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: dict[tuple[str, int], str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    report: dict[str, Any] = field(default_factory=dict, compare=False)
    bases: tuple[Basis, ...] = ()

    def group(self, name: str) -> Group:
        """The group of that name, or the one whose producing layer or tensor has that name.

        Raises UnknownTensor naming the closest group names.
        """
        found = self.find(name)
        if found is None:
            raise UnknownTensor(
                f"the wiring has no group {name!r} ({closest(name, (g.name for g in self.groups))}); "
                "print the wiring to see every group"
            )
        return found

    def find(self, name: str) -> Group | None:
        """Like ``group``, with None when no group or more than one answers to ``name``."""
        for g in self.groups:
            if g.name == name:
                return g
        canonical = self.canonical_name(name)
        hits = [
            g
            for g in self.groups
            if any(
                m.tensor == canonical or name in (m.tensor.rpartition(".")[0], m.tensor.rpartition("/")[0])
                for m in g.producers
            )
        ]
        top = [g for g in hits if g.parent is None]
        return top[0] if len(top) == 1 else hits[0] if len(hits) == 1 else None

    def canonical_name(self, tensor: str) -> str:
        """The first of tied names; other names stay as they are."""
        for first, rest in self.aliases.items():
            if tensor in rest:
                return first
        return tensor

    def names_of(self, tensor: str) -> list[str]:
        """Every name under which ``tensor`` may stand in a state dict, the first one first."""
        return [tensor, *self.aliases.get(tensor, ())]

    def children(self, group: str) -> tuple[Group, ...]:
        """The groups nested in units of ``group``."""
        return tuple(g for g in self.groups if g.parent is not None and g.parent[0] == group)

    def groups_of(self, tensor: str, axis: int) -> list[tuple[Group, Member]]:
        """Every group with units on that axis."""
        tensor = self.canonical_name(tensor)
        return [(g, m) for g in self.groups for m in g.members if m.tensor == tensor and m.axis == axis]

    def neuron(self, group: str, unit: int) -> list[tuple[Member, NDArray[np.int64]]]:
        """Where one unit lives: for each member its positions on the member's axis."""
        g = self.group(group)
        if not -g.size <= unit < g.size:
            raise InvalidArgument(f"group {g.name!r} has {g.size} units (0 to {g.size - 1}); there is no unit {unit}")
        return [(m, m.index[unit]) for m in g.members]

    def explain(self, tensor: str, axis: int) -> str:
        """Says in words what an axis is: its groups, or why it is fixed."""
        from weightlapse.wiring.words import axis_sentence

        return axis_sentence(self, tensor, axis)

    def to_spec(self) -> str:
        """The wiring as text that a person can read, edit and write; see docs/explain/wiring.md."""
        from weightlapse.wiring.spec import write_spec

        return write_spec(self)

    @classmethod
    def from_spec(cls, text: str) -> Wiring:
        """Reads ``to_spec``'s text; raises InvalidArgument with the line that is wrong."""
        from weightlapse.wiring.spec import read_spec

        return cls(**read_spec(text)._asdict())

    def __str__(self) -> str:
        from weightlapse.wiring.words import wiring_text

        return wiring_text(self)

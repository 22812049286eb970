"""Units as rows: everything that belongs to one unit, gathered from a tensor, and moved to another place in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.wiring.arrays import Numbers, axis_first
from weightlapse.wiring.members import SYMMETRIES, Group, Member


@dataclass(frozen=True)
class Part:
    """One member of a group, ready for arithmetic; ``ordered`` when its index counts positions from 0 on."""

    member: Member
    exponent: int
    ordered: bool
    votes: bool

    @property
    def tensor(self) -> str:
        return self.member.tensor

    def rows(self, values: Numbers) -> Numbers:
        """A matrix (size, k * rest): row u is all that belongs to unit u. A view where NumPy can give one."""
        m = self.member
        if m.where is not None:
            values = values[(slice(None),) * m.where[0] + (m.where[1],)]
        moved = values if m.axis == 0 else axis_first(values, m.axis)
        if not (self.ordered and m.index.size == moved.shape[0]):
            moved = moved[m.index.ravel()]
        return moved.reshape(m.index.shape[0], -1)

    def moved(
        self, values: NDArray[Any], order: NDArray[np.int64] | None, factors: NDArray[np.float64] | None
    ) -> NDArray[Any]:
        """A new array in which unit u is the old unit ``order[u]``, multiplied by ``factors[u] ** exponent``."""
        m = self.member
        if m.where is not None:
            slab = values.take(m.where[1], axis=m.where[0])
            out = values.copy()
            spot: list[Any] = [slice(None)] * values.ndim
            spot[m.where[0]] = m.where[1]
            out[tuple(spot)] = self._moved(slab, order, factors)
            return out
        return self._moved(values, order, factors)

    def _moved(
        self, values: NDArray[Any], order: NDArray[np.int64] | None, factors: NDArray[np.float64] | None
    ) -> NDArray[Any]:
        m = self.member
        out = values
        if order is not None:
            if self.ordered and m.index.shape == (values.shape[m.axis], 1):
                positions = order
            else:
                positions = np.arange(values.shape[m.axis])
                positions[m.index] = m.index[order]
            out = values.take(positions, axis=m.axis)
        if factors is not None and self.exponent:
            along = np.ones(values.shape[m.axis], dtype=values.dtype)
            along[m.index] = (factors**self.exponent)[:, None]
            out = out * along.reshape([-1 if a == m.axis else 1 for a in range(values.ndim)])
        return out


@dataclass(frozen=True)
class Units:
    """A group, its parts, and what the caller allows to be done with it."""

    group: Group
    parts: tuple[Part, ...]
    permute: bool
    sign: bool
    scale: bool

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def size(self) -> int:
        return self.group.size

    @cached_property
    def voters(self) -> tuple[Part, ...]:
        return tuple(p for p in self.parts if p.votes)

    @cached_property
    def twice(self) -> frozenset[str]:
        """Tensors that hold the group on more than one axis: there the cost is not linear in the permutation."""
        seen: dict[str, int] = {}
        for p in self.parts:
            seen[p.tensor] = seen.get(p.tensor, 0) + 1
        return frozenset(t for t, n in seen.items() if n > 1)


def units_of(group: Group, allowed: frozenset[str]) -> Units:
    parts = []
    for m, e in zip(group.members, group.exponents, strict=True):
        ordered = m.where is None and bool(np.array_equal(m.index.ravel(), np.arange(m.index.size)))
        parts.append(Part(m, e, ordered, m.roles != {"stat"}))
    kinds = group.symmetries & allowed
    return Units(group, tuple(parts), "permutation" in kinds, "sign" in kinds, "scale" in kinds)


def allowed_symmetries(symmetries: Any) -> frozenset[str]:
    if symmetries == "auto":
        return frozenset({*SYMMETRIES, "basis"})
    wanted = frozenset([symmetries] if isinstance(symmetries, str) else symmetries)
    unknown = wanted - set(SYMMETRIES) - {"basis"}
    if unknown:
        raise InvalidArgument(
            f"unknown symmetry {sorted(unknown)[0]!r}; known: {', '.join(SYMMETRIES)}, basis, or 'auto'"
        )
    return wanted

"""Arrays with their units moved, made when somebody looks at them: two big networks are compared without a third one in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.states import Weights
from weightlapse.wiring.arrays import Numbers
from weightlapse.wiring.members import Member
from weightlapse.wiring.placement import Placement

KEEP = 16 * 2**20  # bytes of moved arrays that are held for the next look: all of a small network, a layer of a big one


class Moved(Mapping[str, Numbers]):
    """``arrays`` after the moves in ``placements``; further moves are added with ``move``. The arrays are never changed."""

    def __init__(self, arrays: Weights, placements: Mapping[str, Placement] | None = None) -> None:
        self.arrays = arrays
        self.placements = dict(placements or {})
        self._held: dict[str, Numbers] = {}
        self._nbytes = 0
        known = getattr(arrays, "shapes", None)
        self.shapes: dict[str, tuple[int, ...]] = (
            known if known is not None else {n: tuple(v.shape) for n, v in arrays.items()}
        )

    def __getitem__(self, name: str) -> Numbers:
        placement = self.placements.get(name)
        if placement is None:
            return self.arrays[name]
        if name in self._held:
            return self._held[name]
        value: Numbers = placement(self.arrays[name])
        while self._held and self._nbytes + value.nbytes > KEEP:
            self._drop(next(iter(self._held)))
        if value.nbytes <= KEEP:
            self._held[name] = value
            self._nbytes += value.nbytes
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def move(
        self,
        m: Member,
        order: NDArray[np.int64] | None,
        factors: NDArray[np.float64] | None,
    ) -> None:
        """Move the units of one member, after all moves so far; nothing happens where the member's tensor is not held."""
        if m.tensor in self.shapes and (order is not None or factors is not None):
            before = self.placements.get(m.tensor, Placement())
            self._set(m.tensor, before.then(m, self.shapes[m.tensor][m.axis], order, factors))

    def restore(self, placements: Mapping[str, Placement]) -> None:
        """Back to ``placements``, a copy of an earlier ``.placements``."""
        for name in set(self.placements) | set(placements):
            if self.placements.get(name) is not placements.get(name):
                self._set(name, placements.get(name))

    def _set(self, name: str, placement: Placement | None) -> None:
        self._drop(name)
        if placement is None:
            self.placements.pop(name, None)
        else:
            self.placements[name] = placement

    def _drop(self, name: str) -> None:
        value = self._held.pop(name, None)
        self._nbytes -= 0 if value is None else value.nbytes

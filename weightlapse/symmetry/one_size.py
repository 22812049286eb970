"""Networks of different widths laid out in one common size, so that they can be aligned as any two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotAlign
from weightlapse.symmetry.elements import Elements
from weightlapse.symmetry.fold import FoldedGroup, fold
from weightlapse.symmetry.states import Arrays, distance, float_arrays
from weightlapse.symmetry.widths import Correspondence, common, correspondence, laid_out, wiring_for
from weightlapse.wiring.arrays import shape_of
from weightlapse.wiring.data import Wiring


def differ_in_width(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two states have the same tensors, some of them of another size."""
    return (
        set(a) == set(b)
        and any(shape_of(a, n) != shape_of(b, n) for n in a)
        and all(len(shape_of(a, n)) == len(shape_of(b, n)) for n in a)
    )


@dataclass(frozen=True, kw_only=True)
class OneSize:
    """``a`` and ``b``: both networks in the size of ``wiring``, absent units zero; b was folded first where it has more units.

    ``states``, ``wirings``: of both as they came; ``small``: of b as folded; ``folded``: what was done to its groups; ``merge``: how far apart units may
    be that were merged.
    """

    wiring: Wiring
    a: Arrays = field(repr=False)
    b: Arrays = field(repr=False)
    states: tuple[Mapping[str, Any], Mapping[str, Any]] = field(repr=False)
    wirings: tuple[Wiring, Wiring]
    small: Wiring
    folded: Mapping[str, FoldedGroup]
    merge: float

    @classmethod
    def of(
        cls, a: Mapping[str, Any], b: Mapping[str, Any], wiring: Wiring, wiring_b: Wiring | None, merge: float
    ) -> OneSize:
        """Raises CannotAlign where the networks differ by more than the widths of groups that both have."""
        if wiring_b is None:
            wiring_b = wiring_for(wiring, {n: tuple(v.shape) for n, v in b.items()})
        alone = {g.name for g in wiring.groups} ^ {g.name for g in wiring_b.groups}
        if alone:
            some = sorted(alone)[0]
            side, other = ("first", "second") if wiring.find(some) is not None else ("second", "first")
            raise CannotAlign(
                f"group {some!r} of the {side} network is no group of the {other} (a layer of one unit has nothing to exchange, or the two are "
                "wired differently), so their units have no common order"
            )
        arrays: Mapping[str, Any] = float_arrays(b)
        small, what = wiring_b, {}
        if any(h.size > wiring.group(h.name).size for h in wiring_b.groups):
            folded = fold(b, wiring_b, tolerance=merge)
            arrays, small, what = folded.state, folded.wiring, folded.groups
        both = common(wiring, small)
        x = laid_out(float_arrays(a), wiring, both)
        y = laid_out({n: arrays[n] for n in x}, small, both)
        return cls(
            wiring=both, a=x, b=y, states=(a, b), wirings=(wiring, wiring_b), small=small, folded=what, merge=merge
        )

    def units(self, elements: Elements) -> dict[str, Correspondence]:
        """Who corresponds to whom, in each group."""
        found = {}
        for g in self.wiring.groups:
            (h, k), s = (w.group(g.name) for w in self.wirings), self.small.group(g.name)
            found[g.name] = correspondence(elements.order[g.name], h.size, s.size, self.folded.get(g.name), k.size)
        return found

    def notes(self, units: Mapping[str, Correspondence]) -> tuple[str, ...]:
        """A sentence for each group in which not all of b's units have a partner, or not all of a's."""
        wiring_b = self.wirings[1]
        return tuple(
            c.sentence(n) for n, c in units.items() if len(c.matched) < wiring_b.group(n).size or c.unmatched_a
        )

    def apart(self, names: list[str]) -> float:
        """The relative distance of both networks as they came, absent units zero."""
        wide = common(*self.wirings)
        x, y = (laid_out(float_arrays(s), w, wide) for s, w in zip(self.states, self.wirings))
        return distance(x, y, names)

    def given_back(self, moved: Mapping[str, Any]) -> dict[str, Any]:
        """b's state after the moves, of what was not laid out its own, in the kind and precision that b has."""
        return {n: _like(moved[n], v) if n in moved else v for n, v in self.states[1].items()}


def _like(value: NDArray[Any], sample: Any) -> Any:
    """An array in the kind and precision of a sample."""
    return sample.new_tensor(value) if hasattr(sample, "new_tensor") else value.astype(np.asarray(sample).dtype)

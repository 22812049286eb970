"""What no change of basis may change, looked at where the networks cannot be run: what heads do as wholes, and how large the ends of streams are.

Through a head goes the product of what makes its numbers and what reads them. Its squared size (pair by pair under rotary positions) is the same in every
basis of the head and of the streams around it, and in every order of heads and of query heads inside. What anchors a stream (a token's embedding) keeps
its length when the stream turns. So these are compared, in float64, before and after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotAlign
from weightlapse.symmetry.fits import parts
from weightlapse.symmetry.rebase import anchors, sides
from weightlapse.symmetry.with_bases import FirstNames
from weightlapse.wiring.arrays import at_home, doubled, is_single, products, size_of
from weightlapse.wiring.change import Changed, fold, gain, left, rows, tensors_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Basis

_NUMBERS = 4_000_000  # that are looked at: a wrong element is wrong throughout
_LARGEST = 1_000_000  # of a tensor by itself: a table of tokens in double precision would be the peak of the memory


def check_invariants(before: Mapping[str, Any], after: Mapping[str, Any], wiring: Wiring, device: Any = None) -> None:
    """Raises CannotAlign, naming the basis, where one state is no change of basis of the other. Of large networks some layers are looked at."""
    both = [_Folded(state, wiring, device) for state in (before, after)]
    families: dict[Any, list[Basis]] = {}
    stretched = _stretched(wiring)
    for s in wiring.bases:
        if not s.is_stream and any((m.tensor, 1 - m.axis) in stretched for m in s.members):
            continue
        key = (s.parent[0], s.kind, s.members[0].tensor) if s.parent else s.name
        families.setdefault(key, []).append(s)
    keys = list(families)
    np.random.default_rng(0).shuffle(keys)
    room = _NUMBERS
    for some in (families[k] for k in keys):
        if room < 0:
            return
        room -= sum(math.prod(wiring.shapes[t]) for t in tensors_of(some[:1]))
        x, y = (np.sort(_invariants(state, some, wiring)) for state in both)
        gap = float(np.abs(x - y).max(initial=0.0))
        if not gap <= both[1].precision * float(np.abs(x).max(initial=1e-300)):
            raise CannotAlign(
                f"the change of basis that brings the networks together changes what goes through {some[0].name!r} (by {gap:.1e}), so it would change "
                "what the network computes: the wiring is not this network's, or a matrix is nearly singular; trace the network anew, or "
                "align with symmetries=('permutation', 'sign', 'scale')"
            )


def _stretched(wiring: Wiring) -> set[tuple[str, int]]:
    """The axes along which sizes are not kept: those of bases that do more than turn, and of units that may be rescaled.

    (In a stream that turns it is gains that are rescaled, against their readers; both are one once folded.)
    """
    turned = {(m.tensor, m.axis) for s in wiring.bases if s.turns for m in s.members}
    found = {(m.tensor, m.axis) for s in wiring.bases if not s.turns and s.kind != "signs" for m in s.members}
    for g in wiring.groups:
        if "scale" in g.symmetries:
            found |= {(m.tensor, m.axis) for m, e in zip(g.members, g.exponents) if e}
    return found - turned


class _Folded:
    """A state with every gain that can be folded away in its readers."""

    def __init__(self, state: Mapping[str, Any], wiring: Wiring, device: Any) -> None:
        first = FirstNames(state, wiring, device)
        self.arrays = Changed(_Doubled(first), room=0, device=device)
        self.precision = 1e-8
        for s in wiring.bases:
            if s.members and is_single(first[s.members[0].tensor]):
                self.precision = 1e-3
                break
        for s in wiring.bases:
            zero = {n.gain for n in s.norms if (n.readers or n.bias) and (gain(self.arrays, n) == 0).any()}
            fold(self.arrays, left(s, zero))


class _Doubled(dict[str, Any]):
    """Arrays in double precision, each made when it is looked at."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        super().__init__()
        self._arrays = arrays

    def __getitem__(self, name: str) -> Any:
        return doubled(self._arrays[name])

    def __contains__(self, name: object) -> bool:
        return name in self._arrays


def _invariants(state: _Folded, some: list[Basis], wiring: Wiring) -> NDArray[np.float64]:
    arrays = state.arrays
    if some[0].is_stream:
        held = [m for m in anchors(wiring, some[0]) if math.prod(wiring.shapes[m.tensor]) <= _LARGEST]
        lengths = [np.square(at_home(rows(arrays[m.tensor], m))).sum(axis=0) for m in held]
        return np.concatenate(lengths) if lengths else np.zeros(0)
    found = []
    for s in some:
        x, y = sides(arrays, s)
        gx, gy = products(x, x).astype(np.float64), products(y, y).astype(np.float64)
        if size_of(x) == 0 or size_of(y) == 0:  # nothing goes through
            found.append(0.0)
            continue
        together = np.zeros((s.size, s.size))
        for at in parts(s):
            together[np.ix_(at, at)] = 1
        found.append(float((gx * gy * together).sum()) ** 0.5)
    return np.array(found)

"""The bases of a network that belong to it alone: folded gains, principal axes, balanced heads, sorted spectra."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.elements import Elements, identity
from weightlapse.symmetry.fits import own, principal, signs_of
from weightlapse.symmetry.rebase import anchors, sides
from weightlapse.symmetry.with_bases import FirstNames, WithBases
from weightlapse.wiring.change import Changed, centring, change, fold, gain, held, rows, tensors_of
from weightlapse.wiring.data import Basis, Member, Wiring

_APART = 1e-9  # principal axes whose sizes are nearer than this (relative to the largest) are no axes


class OwnBases:
    """``arrays``: the tensors in these bases; ``rest``: the wiring with what is left to order and to rescale.

    A stream is turned to the principal axes of its anchors (see `weightlapse.symmetry.rebase`), the largest first; one that these do not
    span, or whose gain is 0 somewhere, stays as it is. Inside a head, both sides get one diagonal Gram matrix, sorted.
    """

    def __init__(self, state: Mapping[str, Any], wiring: Wiring) -> None:
        self.wiring = wiring
        names = dict.fromkeys(m.tensor for g in wiring.groups for m in g.members if m.roles != {"stat"})
        names.update(dict.fromkeys(tensors_of(wiring.bases)))
        first = FirstNames(state, wiring)
        self.arrays = Changed({n: first[n].astype(np.float64) for n in names})
        self.matrices: dict[str, NDArray[np.float64]] = {}
        self.gains: dict[str, NDArray[np.float64]] = {}
        for s in wiring.bases:
            if all((gain(self.arrays, n) != 0).all() for n in s.norms):
                self.gains |= fold(self.arrays, s)
                if s.parent is None and s.kind in ("orthogonal", "centred"):
                    self._take(s, self._axes(s))
        for s in wiring.bases:
            if s.parent is not None or s.kind not in ("orthogonal", "centred"):
                self._take(s, own(s, *sides(self.arrays, s)))
        turned = [s for s in wiring.bases if s.name in self.matrices]
        inside = {s.parent[0] for s in turned if s.parent is not None}
        numbers = [_places(s.members) for s in turned]
        left = (
            g for g in wiring.groups if not any(_places(m for m in g.members if m.role != "mul") <= n for n in numbers)
        )
        groups = (
            replace(g, symmetries=g.symmetries & {"permutation"}, gauges=()) if g.name in inside else g for g in left
        )
        self.rest = replace(wiring, groups=tuple(groups), bases=())

    def _take(self, s: Basis, matrix: NDArray[np.float64] | None) -> None:
        if matrix is not None:
            self.matrices[s.name] = matrix
            change(self.arrays, s, matrix)

    def _axes(self, s: Basis) -> NDArray[np.float64] | None:
        some = [
            x / np.linalg.norm(x) * np.sqrt(x.size)
            for m in anchors(self.wiring, s)
            if (x := rows(self.arrays[m.tensor], m)).any()
        ]
        if not some:
            return None
        x = np.concatenate(some, axis=1)
        ones = x.sum(axis=0)
        along = -1.0 if ones[np.abs(ones).argmax()] < 0 else 1.0
        if any(np.ptp(gain(self.arrays, n)) > 1e-12 * np.abs(gain(self.arrays, n)).max() for n in held(s)):
            order = np.argsort(-np.square(x).sum(axis=1), kind="stable")
            matrix = np.eye(s.size)[order]
            return along * matrix if s.kind == "centred" else signs_of(matrix @ x)[:, None] * matrix
        u = centring(s.size) if s.kind == "centred" else np.eye(s.size)
        flat = u.T @ x
        sizes = np.linalg.svd(flat, compute_uv=False)
        if len(sizes) < u.shape[1] or sizes[-1] < _APART * sizes[0] or (-np.diff(sizes) < _APART * sizes[0]).any():
            return None
        q = principal(flat)
        q = signs_of(q @ flat)[:, None] * q
        found: NDArray[np.float64] = u @ q @ u.T + (along / s.size if s.kind == "centred" else 0.0)
        return found

    def element(self, ordered: Elements) -> WithBases:
        """All of it, followed by orders, signs and scales of ``rest``."""
        plain = identity(self.wiring)
        ones = {n: np.ones_like(g) for n, g in self.gains.items()}
        matrices = {
            s.name: self.matrices.get(s.name, np.eye(s.size))
            for s in self.wiring.bases
            if all(n.gain in self.gains for n in s.norms)
        }
        return WithBases(plain.order | ordered.order, plain.factor | ordered.factor, matrices, ones, self.gains)


def _places(members: Iterable[Member]) -> set[tuple[str, int, int]]:
    return {(m.tensor, m.axis, int(p)) for m in members for p in m.index.ravel()}

"""Partners that are plain to see, found without comparing every unit with every other in full.

The inner products of all units of a layer with all of another's cost n^2 d multiplications. When two networks do correspond, each
unit has one partner that stands out by far, and a *sketch* shows it: the d numbers of a unit are added up, with random signs, into a
few hundred buckets, which keeps inner products up to an error whose size is known (count sketch; Charikar, Chen,
Farach-Colton 2002). The partners are taken only when every unit's stands out beyond doubt; otherwise the full products decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.wiring.arrays import Numbers, at_home

Matrix = NDArray[Any]

BUCKETS = 384
SIGMAS = (
    5.0  # a choice is wrong only when two estimates are off by this many standard deviations, in opposite directions
)
ROWS = 256  # units that are compared with all others at a time
UNITS = 512  # layers with fewer units are compared in full at once
NUMBERS = 1024  # and so are units of fewer numbers


class Sketches:
    """Every unit of two networks, summed into buckets; ``add`` takes its parts one by one."""

    def __init__(self, units: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self.a: Matrix = np.zeros((BUCKETS, units), np.float32)
        self.b: Matrix = np.zeros((BUCKETS, units), np.float32)

    def add(self, a: Matrix, b: Matrix) -> None:
        """One part of the units, (units, d) in either network; its numbers get random signs, the same in both."""
        signs = self._rng.choice(np.array([-1, 1], np.float32), size=a.shape[1])
        for rows, sums in ((a, self.a), (b, self.b)):
            for start in range(0, rows.shape[1], BUCKETS):
                some = rows.T[start : start + BUCKETS]
                sums[: len(some)] += some * signs[start : start + BUCKETS, None]

    def products(self, some: slice) -> Matrix:
        """Estimates of the inner products of some units of a with all of b, (some, units)."""
        found: Matrix = self.a[:, some].T @ self.b
        return found


def plain_partners(
    even: Sketches | None, odd: Sketches | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None] | None:
    """The partner in b of every unit of a, and where its sign is turned; None unless that is beyond doubt.

    ``odd`` holds the parts that a unit's sign turns: they count by their size. Beyond doubt: the best of a row stays the best when
    it is taken `SIGMAS` standard deviations lower and all others as much higher, and no partner is taken twice; the best of
    every row is then the best assignment.
    """
    sketches = [s for s in (even, odd) if s is not None]
    if not sketches:
        return None
    units = sketches[0].a.shape[1]
    size_a, size_b = (np.sqrt(sum(np.square(getattr(s, n)).sum(axis=0) for s in sketches)) for n in "ab")
    error = SIGMAS / np.sqrt(BUCKETS)  # an estimate of <x, y> is off by about |x| |y| / sqrt(buckets)
    best = np.empty(units, np.int64)
    taken = np.zeros(units, bool)
    for start in range(
        0, units, ROWS
    ):  # a few rows at a time: all products of a wide layer would be as large as the layer
        some = slice(start, start + ROWS)
        value = np.sum([np.abs(s.products(some)) if s is odd else s.products(some) for s in sketches], axis=0)
        mine = value.argmax(axis=1)
        rows = np.arange(len(mine))
        surely = value[rows, mine] - error * size_a[some] * size_b[mine]
        value += (error * size_a[some])[:, None] * size_b
        value[rows, mine] = -np.inf
        if taken[mine].any() or not (surely > value.max(axis=1)).all():
            return None
        best[some] = mine
        taken[mine] = True
    if not taken.all():
        return None
    if odd is None:
        return best, None
    mine, its = odd.a, odd.b[:, best]
    turned = np.einsum("ku,ku->u", mine, its)
    if not (np.abs(turned) > error * np.sqrt(np.square(mine).sum(axis=0) * np.square(its).sum(axis=0))).all():
        return None
    return best, turned < 0


def surely_partners(
    parts: Sequence[tuple[bool, Numbers, Numbers]],
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None] | None:
    """The same from all products, of tensors on a device: (turned by signs, units of a, units of b) for each part.

    None where two units want the same partner. Only the partners leave the device.
    """
    even = odd = None
    for turned, x, y in parts:
        if turned:
            odd = x @ y.T if odd is None else odd + x @ y.T
        else:
            even = x @ y.T if even is None else even + x @ y.T
    value = odd.abs() if even is None else even if odd is None else even + odd.abs()  # type: ignore[union-attr]
    best = value.argmax(dim=1)
    order = at_home(best).astype(np.int64)
    if not (np.bincount(order, minlength=len(order)) == 1).all():
        return None
    return order, None if odd is None else at_home(odd.gather(1, best[:, None])[:, 0] < 0)

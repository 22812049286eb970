"""Is B nothing but A with its slices in another order, along any of its axes, or transposed?

Every slice gets a signature that does not depend on the order of the other axes; signatures are refined by those of the slices across
(colour refinement, Weisfeiler and Leman 1968), slices of equal signature are matched in order, and the order found is checked value by value.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from weightlapse.differences.pair import BLOCK
from weightlapse.differences.tensor import Tensor

Signatures = list[NDArray[np.uint64]]
ROUNDS = 3


def reordering(a: Tensor, b: Tensor) -> list[NDArray[np.int64]] | None:
    """For each axis the position in A of every position in B; None where B is not made of A's slices."""
    one = _signatures(a, [np.zeros(n, np.uint64) for n in a.shape])
    two = _signatures(b, [np.zeros(n, np.uint64) for n in b.shape])
    for _ in range(ROUNDS if len(a.shape) > 1 else 0):
        if not _same(one, two):
            return None
        one, two = _signatures(a, one), _signatures(b, two)
    if not _same(one, two):
        return None
    orders = []
    for mine, theirs in zip(one, two):
        order = np.empty(len(mine), np.int64)
        order[np.argsort(theirs, kind="stable")] = np.argsort(mine, kind="stable")
        orders.append(order)
    return orders if gives(a, b, orders) else None


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one size hold the same values, however often each, in any order (by a sum of 64-bit hashes)."""
    sums = []
    for t in (a, b):
        total = 0
        for start in range(0, t.size, BLOCK):
            with np.errstate(over="ignore"):
                total += int(_mixed(t.keys(start, min(start + BLOCK, t.size))).sum())
        sums.append(total % (1 << 64))
    return sums[0] == sums[1]


def gives(a: Tensor, b: Tensor, orders: list[NDArray[np.int64]]) -> bool:
    """Whether B is A read in these orders, value by value."""
    if len(a.shape) == 1:  # one read for all: the elements of a vector lie anywhere
        return np.array_equal(a.keys(0, a.size)[orders[0]], b.keys(0, b.size))
    for start, stop in _spans(a):
        slab = a.take(orders[0][start:stop])
        for axis, order in enumerate(orders[1:], 1):
            if not _is_identity(order):
                slab = np.take(slab, order, axis=axis)
        if not np.array_equal(slab, b.row_keys(start, stop)):
            return False
    return True


def moved(orders: list[NDArray[np.int64]]) -> list[int]:
    """The axes along which anything moved."""
    return [axis for axis, order in enumerate(orders) if not _is_identity(order)]


def transposition(a: Tensor, b: Tensor) -> tuple[int, ...] | None:
    """The order of A's axes that gives B, or None; the identity does not count."""
    if len(a.shape) != len(b.shape) or not 2 <= len(a.shape) <= 5 or sorted(a.shape) != sorted(b.shape):
        return None
    labels = _positions(b)
    target = [s[0] for s in labels]
    for axes in itertools.permutations(range(len(a.shape))):
        if axes == tuple(range(len(axes))) or tuple(a.shape[i] for i in axes) != b.shape:
            continue
        marks = [_marks(n, 1 + axes.index(axis)) for axis, n in enumerate(a.shape)]
        found = _signatures(a, marks)
        if all(np.array_equal(found[axis], target[place]) for place, axis in enumerate(axes)):
            return axes
    return None


def _positions(t: Tensor) -> list[Signatures]:
    marks = [_marks(n, 1 + axis) for axis, n in enumerate(t.shape)]
    return [[s] for s in _signatures(t, marks)]


def _marks(count: int, salt: int) -> NDArray[np.uint64]:
    return _mixed(np.arange(count, dtype=np.uint64) + np.uint64(salt << 48))


def _same(one: Signatures, two: Signatures) -> bool:
    return all(np.array_equal(np.sort(p), np.sort(q)) for p, q in zip(one, two))


def _is_identity(order: NDArray[np.int64]) -> bool:
    return bool((order == np.arange(len(order))).all())


def _spans(t: Tensor) -> list[tuple[int, int]]:
    each = max(t.size // max(t.shape[0], 1), 1)
    step = max(1, BLOCK // each)
    return [(start, min(start + step, t.shape[0])) for start in range(0, t.shape[0], step)]


def _signatures(t: Tensor, labels: Signatures) -> Signatures:
    """For each position of each axis the sum over its slice of the mixed bits of its values, each marked with the labels of all axes."""
    out: Signatures = [np.zeros(n, np.uint64) for n in t.shape]
    axes = range(len(t.shape))
    with np.errstate(over="ignore"):
        for start, stop in _spans(t):
            marked = _mixed(t.row_keys(start, stop))
            for axis in axes:
                label = labels[axis][start:stop] if axis == 0 else labels[axis]
                marked = marked + _mixed(label).reshape([-1 if i == axis else 1 for i in axes])
            marked = _mixed(marked)
            for axis in axes:
                sums = marked.sum(axis=tuple(i for i in axes if i != axis), dtype=np.uint64)
                if axis == 0:
                    out[0][start:stop] = sums
                else:
                    out[axis] += sums
    return out


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

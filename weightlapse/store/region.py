"""Which elements of a flattened tensor a region of it is."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Region = tuple[slice, ...]  # one rising slice per axis of the tensor


def region_shape(shape: tuple[int, ...], region: Region) -> tuple[int, ...]:
    """The shape of ``region`` of a tensor: one number for each slice, as NumPy counts them."""
    return tuple(len(range(*s.indices(n))) for s, n in zip(region, shape))


def flat_elements(shape: tuple[int, ...], region: Region, lanes: int = 1) -> range | NDArray[np.int64]:
    """The C-order numbers of a region's elements, each counted as ``lanes`` neighbouring ones: a range where they lie together.

    >>> flat_elements((4, 5), (slice(1, 3), slice(0, 5)))
    range(5, 15)
    >>> flat_elements((4, 5), (slice(0, 4, 2), slice(0, 2))).tolist()
    [0, 1, 10, 11]
    """
    axes = [range(*s.indices(n)) for s, n in zip(region, shape)]
    if not all(axes):
        return range(0)
    whole = len(axes)  # axes from here on are taken entirely
    while whole and axes[whole - 1] == range(shape[whole - 1]):
        whole -= 1
    below = math.prod(shape[whole:]) * lanes
    if whole == 0:
        return range(below)
    if all(len(axis) == 1 for axis in axes[: whole - 1]) and (axes[whole - 1].step == 1 or len(axes[whole - 1]) == 1):
        first, stride = 0, below
        for axis, n in zip(reversed(axes[:whole]), reversed(shape[:whole])):
            first += axis[0] * stride
            stride *= n
        return range(first, first + len(axes[whole - 1]) * below)
    numbers = np.zeros(1, np.int64)
    for axis, n in zip(axes[:whole], shape[:whole]):
        numbers = (numbers[:, None] * n + np.arange(axis.start, axis.stop, axis.step)).ravel()
    return (numbers[:, None] * below + np.arange(below)).ravel()

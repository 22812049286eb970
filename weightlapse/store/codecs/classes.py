"""Scale classes: residuals of about the same size share a histogram, so that dead and busy weights, early and late steps, do not.

Columns (weights) are sorted into classes by the size of their residuals, relative to what is usual at each time; then each cell (class, tile of
steps) is given to the histogram of its own size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_CLASSES = 16
SMALLEST_STREAM = 4096  # numbers; a histogram costs one or two hundred bytes


def _octaves(size: NDArray[np.float64]) -> NDArray[np.int64]:
    """The nearest power of two of each size (float64), as int64; of 0: -10."""
    return np.rint(np.log2(size + 2.0**-10)).astype(np.int64)


def magnitudes(r: NDArray[np.unsignedinteger], tiles: list[tuple[int, int]]) -> NDArray[np.float64]:
    """Mean magnitude of residuals ``r`` (T, n), read as signed numbers, per tile and column: (tiles, n)."""
    # a weight that changes sign has one huge residual, which says nothing about the others
    limit = np.float32(2.0 ** (r.dtype.itemsize * 8 - 4))
    out = np.empty((len(tiles), r.shape[1]))
    for i, (top, bottom) in enumerate(tiles):
        size = r[top:bottom].view(np.dtype(f"i{r.dtype.itemsize}")).astype(np.float32)
        np.abs(size, out=size)
        np.minimum(size, limit, out=size)
        out[i] = size.mean(axis=0)
    return out


def assign(size: NDArray[np.float64], smallest: int) -> NDArray[np.uint8]:
    """The class of each column from ``magnitudes`` (tiles, n): octaves, merged with a neighbour until each holds ``smallest`` columns.

    Classes are numbered from 0 by rising size; there are at most ``MAX_CLASSES``.
    """
    tiles, n = size.shape
    if n == 0 or tiles == 0:
        return np.zeros(n, np.uint8)
    usual = size.mean(axis=1, keepdims=True) + 2.0**-20
    octave = _octaves((size / usual).mean(axis=0) * usual.mean())
    return _merged(octave, None, smallest)


def streams(size: NDArray[np.float64], label: NDArray[np.uint8], heights: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The histogram of each cell (tiles, classes): cells of one octave share one, and small ones join their neighbour."""
    widths = np.bincount(label)
    cells = np.stack([np.bincount(label, weights=row) for row in size]) / widths
    numbers = heights[:, None] * widths
    return _merged(_octaves(cells.ravel()), numbers.ravel().astype(np.float64), SMALLEST_STREAM).reshape(cells.shape)


def _merged(octave: NDArray[np.int64], weight: NDArray[np.float64] | None, smallest: float) -> NDArray[np.uint8]:
    """Labels 0, 1, ... by rising octave, where octaves of too little weight have joined a neighbour."""
    octave = octave - octave.min()  # a few dozen different ones: counted, not sorted
    present = np.flatnonzero(np.bincount(octave))
    counts = np.bincount(octave, weights=weight)[present].tolist()
    groups = [[i] for i in range(len(present))]
    while len(groups) > 1 and (len(groups) > MAX_CLASSES or min(counts) < smallest):
        i = int(np.argmin(counts))
        left = i - 1 if i + 1 == len(groups) or (i > 0 and counts[i - 1] <= counts[i + 1]) else i
        groups[left : left + 2] = [groups[left] + groups[left + 1]]
        counts[left : left + 2] = [counts[left] + counts[left + 1]]
    table = np.zeros(int(present[-1]) + 1, np.uint8)
    for k, members in enumerate(groups):
        table[present[members]] = k
    return table[octave]

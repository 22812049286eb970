"""A chunk: T steps of n neighbouring weights of one dtype, self-describing and checksummed.

    offset  size
    0       4     magic "WLCK"
    4       4     CRC-32 of bytes 8 to ``head``
    8       4     head: bytes before the first page         (every number unsigned, little-endian)
    12      4     T, steps
    16      4     n, weights
    20      4     strip width W: columns [kW, (k+1)W) make strip k
    24      4     tile height H: rows [kH, (k+1)H) make tile k
    28      1     dtype (see ``patterns.py``)
    29      1     form: 0 plain, 1 packed, 2 packed grid codes
    30      1     rule of the predictor (see ``predict.py``)
    31      1     C, number of scale classes of columns
    32      8     factor of the predictor (float64)
    40      4     G, number of grid entries
    44      4     bytes of the class map
    48      2     S, number of histograms for residuals
    50      ...   G grid entries: columns (u32), step (f64), bound (f64)
                  pcodec's file header: length (u16), bytes; not in plain chunks
                  class map: pcodec page of n classes with its histogram (length u16, bytes); nothing when C < 2
                  histogram of each cell: one byte per tile and class
                  1 + S histograms: length (u16), bytes; the first is that of row 0
                  one entry per page: bytes (u32), CRC-32 (u32)
    head    ...   pages

Plain: one page per strip, its columns' patterns row by row. Packed: per strip, the page of row 0, then for each tile and class the page of
the residuals of that tile's rows (row 0 left out) and that class's columns, row by row; pages without numbers are left out. In a strip the
columns are sorted by class, and by number within a class; row 0 is in the same order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

MAGIC = b"WLCK"
PLAIN, PACKED, GRID = range(3)
_FEW = 8  # columns up to which counting what lies between them is less work than listing all
HEAD = struct.Struct("<4sIIIIIIBBBBdIIH")
SIZE = struct.Struct("<H")
ENTRY = np.dtype([("columns", "<u4"), ("step", "<f8"), ("bound", "<f8")])
PAGE = np.dtype([("nbytes", "<u4"), ("crc", "<u4")])
MAX_COLUMNS, MAX_VALUES = (
    1 << 17,
    1 << 26,
)  # of a chunk: far above what is written, far below what would hurt to allocate


@dataclass(frozen=True)
class Shape:
    """How a chunk is cut into pages: narrow strips make one weight cheap to read, short tiles make an early frame cheap."""

    strip: int = 2048
    tile: int = 16


def tiles(rows: int, height: int) -> list[tuple[int, int]]:
    """The tiles as [top, bottom) without row 0, which is stored apart; empty ones are left out.

    >>> tiles(10, 4)
    [(1, 4), (4, 8), (8, 10)]
    """
    tops = [max(top, 1) for top in range(0, rows, height)]
    return [(top, min(bottom, rows)) for top, bottom in zip(tops, [*tops[1:], rows]) if bottom > top]


@lru_cache(maxsize=8)
def _first_groups(n: int, strip: int, classes: int) -> NDArray[np.int64]:
    """For each column the number of the first group of its strip."""
    groups = np.arange(n, dtype=np.int64) // strip * classes
    groups.flags.writeable = False
    return groups


class Columns:
    """The order of columns in a packed chunk: strip by strip, by class within a strip, by number within a class.

    A *group* is the columns of one class in one strip, numbered ``strip * classes + class``; its columns lie next to each other.
    """

    def __init__(
        self, n: int, strip: int, label: NDArray[np.uint8], classes: int, widths: list[int] | None = None
    ) -> None:
        """``widths``: how many columns each group has, where somebody has counted."""
        self.strips = [(start, min(start + strip, n)) for start in range(0, n, strip)]
        self.classes = classes if widths is not None else max(classes, 1 + int(label.max(initial=0)))
        self.strip = strip
        self.label = label
        if widths is not None:
            self.__dict__["widths"] = widths

    @cached_property
    def widths(self) -> list[int]:
        """How many columns each group has: counted when all are wanted, for one weight costs more than its values."""
        if len(self.strips) == 1:
            return [int(np.count_nonzero(self.label == c)) for c in range(self.classes)]
        every = self.label + _first_groups(len(self.label), self.strip, self.classes)
        return np.bincount(every, minlength=len(self.strips) * self.classes).tolist()

    @cached_property
    def starts(self) -> list[int]:
        """The position at which each group begins, and the last one ends."""
        return [0, *accumulate(self.widths)]

    @cached_property
    def filled(self) -> list[list[bool]]:
        """For each strip, which of its groups have any column."""
        data = self.label.tobytes()
        strips = (data[start:stop] for start, stop in self.strips)
        return [[c in labels for c in range(self.classes)] for labels in strips]

    def width(self, group: int) -> int:
        """How many columns one group has."""
        if "widths" in self.__dict__:
            return self.widths[group]
        k, c = divmod(group, self.classes)
        first, last = self.strips[k]
        return int(np.count_nonzero(self.label[first:last] == c))

    def within(self, group: int) -> int:
        """At which position of its strip a group begins."""
        k, c = divmod(group, self.classes)
        if "starts" in self.__dict__:
            return self.starts[group] - self.starts[k * self.classes]
        first, last = self.strips[k]
        return int(np.count_nonzero(self.label[first:last] < c))

    def order(self) -> NDArray[np.int64]:
        """The column at each stored position."""
        return np.concatenate([a + np.argsort(self.label[a:b], kind="stable") for a, b in self.strips])

    def groups(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The group of each of these columns."""
        return columns // self.strip * self.classes + self.label[columns]

    def places(self, columns: NDArray[np.int64], groups: list[int]) -> NDArray[np.int64]:
        """Where each column is when only these groups (rising, all that the columns are in) are laid side by side."""
        if len(groups) == 1:
            k, c = divmod(groups[0], self.classes)
            first, last = self.strips[k]
            return _ranks(self.label[first:last] == c, columns - first)
        at, place, mine = 0, np.empty(len(columns), np.int64), self.groups(columns)
        for g in groups:
            k, c = divmod(g, self.classes)
            first, last = self.strips[k]
            wanted = np.flatnonzero(mine == g)
            place[wanted] = at + _ranks(self.label[first:last] == c, columns[wanted] - first)
            at += self.width(g)
        return place


def _ranks(mask: NDArray[np.bool_], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many are true before each of these places."""
    if len(at) == 1:
        return np.array([np.count_nonzero(mask[: at[0]])], np.int64)
    if len(at) > _FEW:
        return np.searchsorted(np.flatnonzero(mask), at)
    order = np.argsort(at, kind="stable")
    edges = [0, *at[order].tolist()]
    ranks = np.empty(len(at), np.int64)
    ranks[order] = [*accumulate(int(np.count_nonzero(mask[a:b])) for a, b in pairwise(edges))]
    return ranks

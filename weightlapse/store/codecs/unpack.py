"""pcodec's pages for the compiler (numba, cached on disk): many of them with one call, and the interpreter released all the while.

The form is that of pcodec's wrapped format (its ``docs/format.md``), in classic mode and without deltas, which is all that ``entropy.py`` writes: numbers
come in batches of 256, first the bins of all of them (four interleaved tANS states), then their offsets in these. Twin: ``entropy.PageReader``. What is
of another kind, or cut short, is left to the twin, which says what is wrong with it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.codecs.decode_kernels import BATCH, _counted, _joined, _tables, unpack

SLACK = 1488  # bytes that a batch may take: 256 numbers of 14 + 32 bits, and a word beyond the last
_MAJOR = 4  # of pcodec's format: within it, what is written in this way stays the same


def all_right(data: NDArray[np.uint8], crcs: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether ``data`` is pages of these sizes with these checksums: with one call of zlib for all, which gives the interpreter away."""
    return bool(zlib.crc32(data.data) == _joined(np.array(crcs, np.uint32), np.array(sizes, np.int64)))


class Histograms:
    """The tables of several histograms of numbers of ``bits`` (16 or 32) bits; not ``known`` when one of them is left to pcodec."""

    def __init__(self, metas: Sequence[bytes | memoryview], bits: int, file_header: bytes) -> None:
        """``metas``: their bytes as pcodec writes them; ``file_header``: which version of pcodec that was."""
        sizes = [1 << (meta[1] & 15) if len(meta) > 1 else 1 for meta in metas]
        self.begins: NDArray[np.int64] = np.array([0, *accumulate(sizes)], np.int64)
        self.logs: NDArray[np.int64] = np.empty(len(metas), np.int64)
        ends = [0, *accumulate(map(len, metas))]
        spans = np.array([*pairwise(ends)], np.int64).reshape(-1, 2)
        data = np.frombuffer(b"".join([*metas, bytes(8)]), np.uint8)
        self.known = file_header[:1] == bytes([_MAJOR])
        self.nodes: NDArray[np.uint64] = np.empty(int(self.begins[-1]) if self.known else 0, np.uint64)
        self.known = self.known and bool(_tables(data, spans, bits, self.nodes, self.begins, self.logs))


def work() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The last two arguments of :func:`unpack`."""
    return np.empty(BATCH, np.uint64), np.empty(4, np.uint64)


def labels(mapped: bytes, size: int, out: NDArray[np.uint8], file_header: bytes) -> bool:
    """The classes of columns, from the ``size`` bytes of their histogram and the page behind it, into ``out``; False when the twin has to say."""
    table = Histograms([mapped[:size]], 16, file_header)
    data = np.frombuffer(mapped + bytes(SLACK), np.uint8)
    where = (size, len(mapped), table.nodes)
    return size <= len(mapped) and table.known and bool(unpack(data, *where, table.logs[0], len(out), out, *work()))


def widths(label: NDArray[np.uint8], strip: int, classes: int) -> list[int] | None:
    """How many columns of each class are in each strip; None where there are more classes."""
    found = np.zeros(-(-len(label) // strip) * classes, np.int64)
    return found.tolist() if _counted(label, strip, classes, found) else None

"""Numbers in as few bits as each needs: what a device packs before its frames cross the bus, and how it is read again.

32 numbers make a *block*, which takes as many bits of each as its largest has: w words of 32 bits, word k holding bit k of all of them, that of
number j in its bit j. 32 blocks make a *group*; their widths w are a block of the same kind. So 1024 equal numbers take one byte, and every
group is found by adding up widths.

Signed numbers are folded first, so that small ones of either sign have few bits: 0, -1, 1, -2, 2, ... become 0, 1, 2, 3, 4, ...

This is the slow and obvious way, in NumPy; ``packing_kernels.py`` reads the same with a compiler.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording

BLOCK = 32  # numbers
GROUP = 32 * BLOCK
MOST_BITS = 32
_LANES = np.arange(BLOCK, dtype=np.uint32)


def groups_of(count: int) -> int:
    """Groups that so many numbers take; what is missing in the last one is zero.

    >>> groups_of(0), groups_of(1), groups_of(1024), groups_of(1025)
    (0, 1, 1, 2)
    """
    return -(-count // GROUP)


def fold(numbers: NDArray[np.int32]) -> NDArray[np.uint32]:
    """
    >>> fold(np.array([0, -1, 1, -2], np.int32)).tolist()
    [0, 1, 2, 3]
    """
    return (numbers.view(np.uint32) << np.uint32(1)) ^ (numbers >> np.int32(31)).view(np.uint32)


def unfold(folded: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Signed numbers again from folded ones: 0, 1, 2, 3 stand for 0, -1, 1, -2."""
    return ((folded >> np.uint32(1)) ^ (np.uint32(0) - (folded & np.uint32(1)))).view(np.int32)


def pack_blocks(values: NDArray[np.uint32]) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Blocks (N, 32) as their widths (N,) and their words, one block after the other."""
    largest = values.max(axis=1, initial=0).astype(np.float64)
    widths = np.frexp(largest)[1].astype(np.uint8)  # exact: every uint32 is a float64
    sizes = widths.astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    words = np.zeros(int(sizes.sum()), np.uint32)
    for width in np.unique(sizes[sizes > 0]).tolist():
        mine = np.flatnonzero(sizes == width)
        for k in range(width):
            bits = (values[mine] >> np.uint32(k)) & np.uint32(1)
            words[starts[mine] + k] = (bits << _LANES).sum(axis=1, dtype=np.uint32)
    return widths, words


def unpack_blocks(widths: NDArray[np.uint8], words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Undo :func:`pack_blocks`: (N, 32). Raises :class:`DamagedRecording` where the words are not as many as the widths say."""
    sizes = widths.astype(np.int64)
    if sizes.max(initial=0) > MOST_BITS or sizes.sum() != len(words):
        raise DamagedRecording("a packed frame has not as many bits as it says")
    starts = np.cumsum(sizes) - sizes
    out = np.zeros((len(widths), BLOCK), np.uint32)
    for width in np.unique(sizes[sizes > 0]).tolist():
        mine = np.flatnonzero(sizes == width)
        picked = words[starts[mine][:, None] + np.arange(width)]
        for k in range(width):
            out[mine] |= ((picked[:, k, None] >> _LANES) & np.uint32(1)) << np.uint32(k)
    return out


def pack(numbers: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.uint32]]:
    """Whole groups of numbers, flat: for each group the width of its widths, the words of the widths, the words of the numbers."""
    widths, words = pack_blocks(fold(numbers).reshape(-1, BLOCK))
    outer, width_words = pack_blocks(widths.astype(np.uint32).reshape(-1, BLOCK))
    return outer, width_words, words


@lru_cache(maxsize=1)
def _kernels() -> Any:
    """The compiled way, None where numba is not installed."""
    if importlib.util.find_spec("numba") is None:
        return None
    return importlib.import_module("weightlapse.store.packing_kernels")


class Packed:
    """The packed numbers of one tensor in one frame: for each group the width of its widths, and the words of the widths.

    The words of the numbers are given when they are wanted: those of groups ``[a, b)`` begin at ``starts[a]`` and end at ``starts[b]``.
    """

    def __init__(self, outer: NDArray[np.uint8], width_words: NDArray[np.uint32], *, compiled: bool = True) -> None:
        self._kernels = _kernels() if compiled else None
        if outer.max(initial=0) > 6 or int(outer.sum(dtype=np.int64)) != len(width_words):
            raise DamagedRecording("a packed frame has not as many widths as it says")
        if self._kernels is None:
            widths = unpack_blocks(outer, width_words)
        else:
            widths = self._kernels.unpack_blocks(outer, width_words)
        if widths.max(initial=0) > MOST_BITS:
            raise DamagedRecording("a packed frame has a block of more than 32 bits")
        self.widths = widths.astype(np.uint8)  # (groups, 32)
        self.starts = np.concatenate([np.zeros(1, np.int64), widths.sum(axis=1, dtype=np.int64).cumsum()])

    def part(self, first: int, stop: int) -> Packed:
        """The groups ``[first, stop)`` by themselves."""
        found = Packed.__new__(Packed)
        found._kernels = self._kernels
        found.widths, found.starts = self.widths[first:stop], self.starts[first : stop + 1] - self.starts[first]
        return found

    @property
    def nbytes(self) -> int:
        """Bytes that widths and starts take in memory; the words themselves are not held."""
        return self.widths.nbytes + self.starts.nbytes

    def add(self, first: int, stop: int, words: NDArray[np.uint32], out: NDArray[np.int32], *, fresh: bool) -> None:
        """Unpack the groups ``[first, stop)`` into ``out``, flat: added to what is there, modulo 2**32, unless ``fresh``."""
        widths = self.widths[first:stop].reshape(-1)
        if len(words) != self.starts[stop] - self.starts[first] or len(out) != (stop - first) * GROUP:
            raise DamagedRecording("a packed frame has not as many bits as it says")
        if self._kernels is not None:
            self._kernels.add_blocks(widths, words, out, fresh)
            return
        numbers = unfold(unpack_blocks(widths, words)).reshape(-1)
        out.view(np.uint32)[...] = numbers.view(np.uint32) if fresh else out.view(np.uint32) + numbers.view(np.uint32)

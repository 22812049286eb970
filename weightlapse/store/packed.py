"""Log segments of packed frames: what a device has made small before it crossed the bus, stored as it is.

Such a segment says 1 as the bytes of its pages. Each frame is a record

    FRPK  step   uint32: number of the frame in the segment, bytes of a page, bytes of the head, tensors
                 two uint64: words of the widths, words of the numbers
                 an entry for each tensor: step, bound (float64), first word of its widths, of its numbers (uint64), key (uint32), 0
                 the CRC-32 of each page of the data (uint32); zeros up to a multiple of 8
                 the data: for each group the width of its widths (uint8), zeros up to a multiple of 4; the words of the widths; those of the numbers

The record's own checksum is that of everything before the data. The numbers of a tensor (``packing.py``) are its grid codes, or where ``step`` is 0
the patterns of its bits: int16, where its dtype has two bytes, else int32. Where ``key`` is 0 they are what was added, modulo 2^32, since the frame
before. The first frame of a segment has keys alone, so that a damaged frame costs nothing behind its segment.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.log import encode_header
from weightlapse.store.packing import GROUP, _kernels, groups_of, pack

PACKED = b"FRPK"
PAGE_NBYTES = 1 << 16
FIXED = struct.Struct("<4I2Q")
ENTRY = np.dtype(
    [("step", "<f8"), ("bound", "<f8"), ("widths", "<u8"), ("numbers", "<u8"), ("key", "<u4"), ("zero", "<u4")]
)


def numbers_in(spec: TensorSpec) -> int:
    """How many numbers stand for a tensor: one for each value of two or four bytes, else one for each four bytes."""
    return -(-spec.nbytes // (2 if spec.storage.itemsize == 2 else 4))


def group_ends(layout: Layout) -> list[int]:
    """Where the groups of each tensor begin, and where all end."""
    ends = [0]
    for spec in layout.tensors:
        ends.append(ends[-1] + groups_of(numbers_in(spec)))
    return ends


def restored(numbers: NDArray[np.int32], step: float, spec: TensorSpec) -> NDArray[np.unsignedinteger[Any]]:
    """The patterns that numbers of this tensor stand for: those of its values, where it has a step, else its words."""
    if step == 0:
        return numbers.astype(np.uint16) if spec.storage.itemsize == 2 else numbers.view(np.uint32)
    kernels = _kernels()
    if kernels is not None and spec.dtype == "float32":
        values: NDArray[np.float32] = kernels.grid_values(numbers, step)
        return values.view(np.uint32)
    return PATTERNS[spec.dtype].of_numbers(numbers * np.float64(step))


@dataclass(frozen=True)
class PackedFrame:
    """A frame as it is stored. ``entries`` (tensors,) of ``ENTRY``; ``data`` as bytes; ``key``: whether all its tensors are keys."""

    entries: NDArray[Any]
    width_words: int
    number_words: int
    data: Any  # a buffer of uint8

    @property
    def key(self) -> bool:
        """Whether it can be read without the frame before it: all its tensors are keys."""
        return bool(self.entries["key"].all())

    def parts(self, step: int, number: int, seed: int) -> list[Any]:
        """The record of this frame, number ``number`` of its segment, as buffers."""
        data = memoryview(self.data).cast("B")
        pages = range(0, len(data), PAGE_NBYTES)
        crcs = np.array([zlib.crc32(data[at : at + PAGE_NBYTES]) for at in pages], "<u4").tobytes()
        table = self.entries.tobytes()
        head_nbytes = -(-(FIXED.size + len(table) + len(crcs)) // 8) * 8
        fixed = FIXED.pack(number, PAGE_NBYTES, head_nbytes, len(self.entries), self.width_words, self.number_words)
        head = fixed + table + crcs
        head += bytes(head_nbytes - len(head))
        nbytes = head_nbytes + len(data)
        return [encode_header(PACKED, nbytes, step, zlib.crc32(head, seed), seed), head, data, bytes(-nbytes % 8)]


def pack_frame(
    layout: Layout,
    numbers: Sequence[NDArray[np.int32]],
    steps: Sequence[float],
    bounds: Sequence[float],
    keys: Sequence[bool],
) -> PackedFrame:
    """The slow and obvious way: numbers of each tensor (what was added, where it is no key) as a frame."""
    outers: list[NDArray[np.uint8]] = []
    widths: list[NDArray[np.uint32]] = []
    words: list[NDArray[np.uint32]] = []
    entries = np.zeros(len(layout.tensors), ENTRY)
    for i, values in enumerate(numbers):
        padded = np.zeros(groups_of(len(values)) * GROUP, np.int32)
        padded[: len(values)] = values
        entries[i] = (steps[i], bounds[i], _total(widths), _total(words), keys[i], 0)
        outer, width_words, number_words = pack(padded)
        outers.append(outer)
        widths.append(width_words)
        words.append(number_words)
    first = b"".join(outer.tobytes() for outer in outers)
    first += bytes(-len(first) % 4)
    rest = [part.tobytes() for part in (*widths, *words)]
    data = np.frombuffer(first + b"".join(rest), np.uint8)
    return PackedFrame(entries, _total(widths), _total(words), data)


def _total(parts: Sequence[NDArray[Any]]) -> int:
    return sum(len(part) for part in parts)

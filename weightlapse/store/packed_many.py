"""Neighbouring numbers of many packed frames at once: the bytes of all are read, then one compiled call adds them up, frame after frame.

Twin: ``PackedSegment._follow``, which goes frame by frame. Of what is here the interpreter is needed for some microseconds a frame, so that many
threads can do it side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.codecs.decode import scratch
from weightlapse.store.packing import GROUP, _kernels

if TYPE_CHECKING:
    from weightlapse.store.packed_segment import PackedSegment

_AT_ONCE = 8 << 20  # bytes of words that one call adds up


@dataclass
class Following:
    """Numbers of the groups ``[first, stop)`` of a tensor, ``now`` as they are in frame ``at`` (-1: in none yet)."""

    tensor: int
    first: int
    stop: int
    at: int
    now: NDArray[np.int32]

    def into(self, segment: PackedSegment, frames: range, low: int, out: NDArray[Any]) -> None:
        """Those from ``low`` on at each of the rising frames, all behind ``at``, into the rows of ``out`` (frames, n) of four bytes each."""
        key = segment._key_of(frames[0], self.tensor)
        begin = key if key > self.at else self.at + 1
        target = out.view(np.uint32)
        for a, b, words, begins in self._batches(segment, range(begin, frames.stop)):
            widths = scratch("widths", (b - a) * (self.stop - self.first) * 32, np.uint8).reshape(b - a, -1)
            fresh = np.empty(b - a, np.bool_)
            for i, k in enumerate(range(a, b)):
                widths[i] = segment._table(k, self.tensor).widths[self.first : self.stop].reshape(-1)
                fresh[i] = segment._head(k).entries["key"][self.tensor]
            skipped = max(frames.start - a, 0)
            rows = target[max(a - frames.start, 0) : max(b - frames.start, 0)]
            _kernels().follow_blocks(widths, words, begins, fresh, self.now, skipped, low, rows)
            self.at = b - 1

    def _batches(
        self, segment: PackedSegment, frames: range
    ) -> Iterator[tuple[int, int, NDArray[np.uint32], NDArray[np.int64]]]:
        """(first frame, stop, words of these frames, where the words of each begin), checked."""
        spans: list[tuple[int, int]] = []
        total, a = 0, frames.start
        for k in frames:
            low, high = segment._words(k, self.tensor, self.first, self.stop)
            room = segment.checked_nbytes(k, low, high)
            if spans and total + room > _AT_ONCE:
                yield (a, k, *self._read(segment, a, spans, total))
                spans, total, a = [], 0, k
            spans.append((low, high))
            total += room
        if spans:
            yield (a, frames.stop, *self._read(segment, a, spans, total))

    def _read(
        self, segment: PackedSegment, a: int, spans: list[tuple[int, int]], total: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        data = scratch("words", total // 4, np.uint32)
        view, at, begins = data.view(np.uint8).data, 0, np.empty(len(spans), np.int64)
        for i, (low, high) in enumerate(spans):
            own, begin = segment.data_into(a + i, low, high, view[at:])
            begins[i] = (at + begin) // 4
            at += own
        return data, begins


def numbers_into(
    segment: PackedSegment, tensor: int, frames: range, low: int, out: NDArray[Any], *, keep: bool = False
) -> bool:
    """The numbers from ``low`` on of a tensor at neighbouring frames into the rows of ``out`` (frames, n), of four bytes each, in whole rows.

    ``keep``: who reads stretch after stretch goes on where he was. False where no compiler is: nothing is done then.
    """
    if _kernels() is None or not len(frames) or not out.shape[1]:
        return False
    first, stop = low // GROUP, -(-(low + out.shape[1]) // GROUP)
    left = segment.taken_up(tensor, first, stop) if keep else None
    if left is None or left[0] >= frames.start:
        left = (-1, np.empty((stop - first) * GROUP, np.int32))
    following = Following(tensor, first, stop, *left)
    following.into(segment, frames, low - first * GROUP, out)
    if keep:
        segment.leave(tensor, first, stop, following.at, following.now)
    return True

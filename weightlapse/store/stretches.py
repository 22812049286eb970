"""A recording block by block: which frames lie together, and the statistics of each such stretch, read where they are kept and else made from the values."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.block import chunks_of, lanes
from weightlapse.store.blockread import BlockSegment
from weightlapse.store.compact import block_height, chunk_limit, gather
from weightlapse.store.gathering import Gathering
from weightlapse.store.gauge import cells_of, numbers_of
from weightlapse.store.keeper import frame_before
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.packed_segment import PackedSegment
from weightlapse.store.ranks import RankedStore
from weightlapse.store.reader import Store
from weightlapse.store.segment import LostSegment, Segment, SegmentPart
from weightlapse.store.segments import TwoCopies
from weightlapse.store.statistics import COUNTS, MEASURES, Outline, Statistics

_MEMORY = 64 << 20  # bytes that making statistics may take
_MADE: weakref.WeakKeyDictionary[Any, Statistics] = weakref.WeakKeyDictionary()  # by segment

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A recording, or what one process wrote of it: ``frames`` (T,) are the numbers that the frames have there.

    ``offsets``: where each of its tensors that counts begins within the whole one; ``rank``: which process it was.
    """

    store: Store
    frames: NDArray[np.int64]
    offsets: dict[str, tuple[int, ...]] | None = None
    rank: int = 0

    def counts(self, name: str) -> bool:
        """Whether this source speaks for the tensor; of replicas only one does."""
        return self.offsets is None or name in self.offsets

    def offset(self, name: str, ndim: int) -> tuple[int, ...]:
        """Where what it has of the tensor begins within the whole one: ``ndim`` numbers, zeros where it has all."""
        return (0,) * ndim if self.offsets is None else self.offsets[name]


def sources(store: Store | RankedStore) -> list[Source]:
    """What the values of a recording come from: of replicas the first counts."""
    if isinstance(store, Store):
        return [Source(store, np.arange(len(store.steps)))]
    return [Source(part, frames, offsets, rank) for rank, (part, frames, offsets) in enumerate(store.parts())]


@dataclass(frozen=True)
class Stretch:
    """The frames ``[first, stop)`` of a store's line, all in one time block ``block`` of one segment, where the first is number ``local``.

    ``follows``: whether the first frame is compared with the one before it on this line. ``preceded``: whether there is one, of the same layout.
    """

    store: Store
    first: int
    stop: int
    layout: Layout
    statistics: Statistics
    local: int
    follows: bool
    preceded: bool

    @property
    def block(self) -> int:
        """The number of the time block within its segment."""
        return self.local // self.statistics.height

    @property
    def whole(self) -> bool:
        """Whether these are all frames of the time block."""
        height, count = self.statistics.height, self.statistics.count
        return self.local % height == 0 and self.stop - self.first == min(height, count - self.local)

    def frame_rows(self, tensor: int) -> Row | None:
        """Columns (frames,) of a tensor, None where they are kept for the time block alone."""
        statistics = self.statistics
        if not statistics.each[tensor]:
            return None
        at = int(statistics.starts[tensor]) + self.local
        rows = {name: column[at : at + self.stop - self.first].copy() for name, column in statistics.rows.items()}
        rows["updates"] = np.ones(self.stop - self.first, np.int64)
        if not self.follows:
            for name in ("update_sumsq", "update_max", "changed", "updates"):
                rows[name][0] = 0
        return rows

    def row(self, tensor: int) -> Row:
        """The numbers of a tensor over all of the stretch: those of ``MEASURES`` and ``COUNTS``, and ``updates``, the number of changes looked at."""
        rows = self.frame_rows(tensor)
        count = self.stop - self.first
        statistics = self.statistics
        if rows is None and self.whole and (self.follows or (self.local == 0 and statistics.before < 0)):
            at = statistics.row(tensor, self.local)
            found = {name: column[at].item() for name, column in statistics.rows.items()}
            return found | {"updates": count if self.follows else count - 1}
        return _together(rows if rows is not None else self._from_values(tensor))

    def _from_values(self, tensor: int) -> Row:
        spec = self.layout.tensors[tensor]
        first = self.first - self.follows
        rows = frame_rows(self.store.read(spec.name, slice(first, self.stop)), spec)
        rows["updates"] = np.ones(self.stop - first, np.int64)
        rows["updates"][0] = 0
        return {name: column[int(self.follows) :] for name, column in rows.items()}


def frame_rows(values: NDArray[Any], spec: TensorSpec) -> Row:
    """The numbers of each frame of stored ``values`` (T, \\*S), the first compared with none."""
    flat = as_numbers(values, spec)
    if flat.shape[1] == 0:
        empty = {name: np.zeros(len(flat)) for name in MEASURES} | {
            name: np.zeros(len(flat), np.int64) for name in COUNTS
        }
        return empty | {"min": np.full(len(flat), np.nan), "max": np.full(len(flat), np.nan)}
    cells = cells_of(flat, None, np.array([0, flat.shape[1]]))
    return dict(zip(MEASURES, cells.measures[:, :, 0])) | dict(zip(COUNTS, cells.counts[:, :, 0]))


def as_numbers(values: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Stored values (T, ...) as float32 or float64 (T, n), complex ones as two."""
    dtype, each = lanes(spec)
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    return numbers_of(flat.view(f"<u{spec.storage.itemsize // each}"), dtype, spec)


def _together(rows: Row) -> Row:
    with np.errstate(all="ignore"):
        return _summed(rows)


def _summed(rows: Row) -> Row:
    found = {
        "min": np.fmin.reduce(rows["min"]),
        "max": np.fmax.reduce(rows["max"]),
        "update_max": rows["update_max"].max(),
    }
    sums = ("sum", "sumsq", "update_sumsq", *COUNTS, "updates")
    return {name: value.item() for name, value in found.items()} | {name: rows[name].sum().item() for name in sums}


def stretches(source: Source, first: int = 0, stop: int | None = None, *, make: bool = True) -> Iterator[Stretch]:
    """The frames ``[first, stop)`` of a source, in order, cut where time blocks end. Lost frames have none.

    Where statistics are not kept (frames that are still a log, older recordings) they are made from the values, unless ``make`` is False: then
    these frames are left out.
    """
    store = source.store
    kept = store.statistics
    numbers = source.frames[first:stop]
    written = 0  # on the line, the frame that follows the last segment
    previous = -2  # and the number that it has in the order of writing
    layout: Layout | None = None  # of the segment before, unless that is lost
    for segment in store.segments:
        whole, start = (segment.whole, segment._start) if isinstance(segment, SegmentPart) else (segment, 0)
        begin, end = segment.first, segment.first + segment.count
        number = whole.first + start
        comes_after, previous = (previous if begin == written else -2), number + segment.count - 1
        written = end
        a, b = np.searchsorted(numbers, [begin, end])
        same, layout = layout == segment.layout, None if isinstance(whole, LostSegment) else segment.layout
        if a == b or isinstance(whole, LostSegment):
            continue
        statistics = _of(store, kept, whole, make=make)
        if statistics is None:
            continue
        for run in np.split(numbers[a:b], np.flatnonzero(np.diff(numbers[a:b]) != 1) + 1):
            low, high = int(run[0]), int(run[-1]) + 1
            while low < high:
                local = start + low - begin
                cut = min(high, low + statistics.height - local % statistics.height)
                if local == 0:
                    follows = begin > 0 and statistics.before == comes_after >= 0
                else:
                    follows = low > begin
                at = int(np.searchsorted(source.frames, low))
                before = at > 0 and bool(source.frames[at - 1] == low - 1) and (low > begin or same)
                yield Stretch(store, low, cut, segment.layout, statistics, local, follows and before, before)
                low = cut


def _of(store: Store, kept: Any, segment: Segment, *, make: bool) -> Statistics | None:
    copy: Any = segment.copy if isinstance(segment, TwoCopies) else segment
    crc = copy.opening.layout_crc
    if isinstance(copy, BlockSegment) and copy.rebuilt is None:
        found = kept.get(copy.number)
        if found is not None and found.fits(copy.layout, crc, copy.first, copy.count):
            return found  # type: ignore[no-any-return]
    made = _MADE.get(copy)
    if made is not None and made.fits(copy.layout, crc, copy.first, copy.count):
        return made
    if not make:
        return None
    made = _MADE[copy] = gathered(store, copy).done()
    return made


def without_statistics(store: Store) -> list[BlockSegment]:
    """The blocks, of all lines, of which none are kept."""
    kept, found = store.statistics, []
    for segment in store.written_segments:
        if isinstance(segment, BlockSegment) and segment.rebuilt is None:
            held = kept.get(segment.number)
            if held is None or not held.fits(segment.layout, segment.opening.layout_crc, segment.first, segment.count):
                found.append(segment)
    return found


def gathered(store: Store, segment: Any, keep_with: Path | None = None) -> Gathering:
    """The statistics of a segment, made from its values. ``keep_with``: the folder for what does not fit in memory."""
    layout, count = segment.layout, segment.count
    if isinstance(segment, BlockSegment):
        height, chunks = segment.opening.height, segment.chunks
    else:
        height = block_height(count, store.tolerance, layout.row_nbytes)
        chunks = tuple(chunks_of(layout, partial(chunk_limit, height, _MEMORY)))
    outline = Outline.of(layout, segment.opening.layout_crc, segment.first, count, height, chunks, store.tolerance)
    before = store.frame_as_last(frame_before(segment.first, store.journal.forks.values()), layout, keep_with)
    made = Gathering(outline, before, keep_with)
    for b in range(outline.blocks):
        for c, pieces in enumerate(outline.chunks):
            made.take(b, c, made.look(b, pieces, _patterns(segment, outline, b, c)))
    return made


def _patterns(segment: Any, outline: Outline, b: int, c: int) -> NDArray[Any]:
    if isinstance(segment, BlockSegment):
        return segment.patterns(b, c)
    pieces, rows = outline.chunks[c], outline.rows_of(b)
    known = segment.gridded(pieces, rows) if isinstance(segment, PackedSegment) else None
    return gather(segment, pieces, rows, known)

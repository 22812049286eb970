"""Which segments a recording has: the files of ``blocks/`` and ``log/``, put in order, with what is missing between them named."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.block import block_name
from weightlapse.store.blockread import BlockSegment
from weightlapse.store.cache import Cache
from weightlapse.store.folder import Folder
from weightlapse.store.journal import LayoutEpoch
from weightlapse.store.segment import Damage, LostSegment, RawSegment, Segment, segment_name

_JUST_BEGUN = 4096  # a last log file shorter than this may be one whose first record is still being written
_TRIES = 8  # a compaction may finish between listing and opening; eight in a row will not
_MOST_LOST = 1 << 24


class SegmentList:
    """Finds segments again and again while a recording grows; files that have not changed are not opened anew."""

    def __init__(self, folder: Folder, cache: Cache) -> None:
        self._folder = folder
        self._cache = cache
        self._open: dict[str, tuple[int, Segment]] = {}
        self.damages: list[Damage] = []  # of whole files
        self.last_number = -1

    def find(self, epochs: list[LayoutEpoch], frames: int) -> list[Segment]:
        """All segments by first frame; a :class:`LostSegment` stands for each run of frames (of ``frames`` at least) without a file."""
        for attempt in range(_TRIES):
            try:
                return self._in_order(self._found(epochs), epochs, frames)
            except FileNotFoundError:  # a log became a block after it was listed
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError

    def _found(self, epochs: list[LayoutEpoch]) -> list[Segment]:
        # the log is listed first: what has left it by then is in blocks
        logs = _numbered(self._folder.names("log"), ".seg")
        blocks = _numbered(self._folder.names("blocks"), ".blk")
        self.last_number = max((*logs, *blocks), default=-1)
        self.damages = []
        found: list[Segment] = []
        for number in sorted({*logs, *blocks}):
            segment = self._block(number, epochs) if number in blocks else None
            if segment is None and number in logs:
                segment = self._raw(number, epochs, is_last=number == self.last_number)
            if segment is not None:
                found.append(segment)
        return found

    def _block(self, number: int, epochs: list[LayoutEpoch]) -> Segment | None:
        file = block_name(number)
        size = self._folder.size(file)
        known = self._open.get(file)
        if known is not None and known[0] == size:
            return known[1]
        try:
            segment = BlockSegment(file, self._folder.data(file), epochs, self._cache)
        except DamagedRecording as error:
            self.damages.append(Damage(file, str(error)))
            return None
        self._open[file] = (size, segment)
        return segment

    def _raw(self, number: int, epochs: list[LayoutEpoch], *, is_last: bool) -> Segment | None:
        file = segment_name(number)
        data: NDArray[np.uint8] = self._folder.data(file)
        known = self._open.get(file)
        if known is not None and known[0] == len(data) and getattr(known[1], "is_last", None) == is_last:
            return known[1]
        try:
            segment = RawSegment(file, data, epochs, is_last=is_last)
        except DamagedRecording as error:
            if not (is_last and len(data) < _JUST_BEGUN):
                self.damages.append(Damage(file, str(error)))
            return None
        self._open[file] = (len(data), segment)
        return segment

    def _in_order(self, found: list[Segment], epochs: list[LayoutEpoch], frames: int) -> list[Segment]:
        ordered: list[Segment] = []
        expected = 0
        for segment in sorted(found, key=lambda s: s.first):
            if segment.first < expected:
                raise DamagedRecording(
                    f"two files of {self._folder.location} hold frame {segment.first}: which one is right is unknown"
                )
            if segment.first > expected:
                ordered.append(self._lost(expected, segment.first, epochs))
            if segment.count:
                ordered.append(segment)
            expected = segment.first + segment.count
        if frames > expected:
            ordered.append(self._lost(expected, frames, epochs))
        return ordered

    def _lost(self, first: int, stop: int, epochs: list[LayoutEpoch]) -> LostSegment:
        where = self._folder.location
        if stop - first > _MOST_LOST:  # the claim of a damaged number: not worth an array
            raise DamagedRecording(f"{where} claims {stop} frames, which no recording can have")
        layout = next((e.layout for e in reversed(epochs) if e.start <= first), epochs[0].layout)
        reasons = "; ".join(f"{d.file}: {d.what}" for d in self.damages) or "deleted or cut short?"
        return LostSegment(first, stop - first, layout, f"no file of {where} holds them ({reasons})")


def _numbered(names: list[str], suffix: str) -> set[int]:
    return {int(n[: -len(suffix)]) for n in names if n.endswith(suffix) and n[: -len(suffix)].isdigit()}

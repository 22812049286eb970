"""Keeps statistics while segments are compressed, one after the other: each needs the last frame of the one before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from weightlapse.errors import DamagedRecording
from weightlapse.store.belonging import Belonging
from weightlapse.store.block import block_name
from weightlapse.store.blockread import BlockSegment
from weightlapse.store.cache import Cache
from weightlapse.store.codecs.cutting import Piece
from weightlapse.store.files import LocalFile
from weightlapse.store.gathering import Gathering, LastFrame, read_last
from weightlapse.store.journal import FORK
from weightlapse.store.layout import Layout
from weightlapse.store.lines import Fork, lines_of, positions, take
from weightlapse.store.raw import RawSegment
from weightlapse.store.statistics import Outline, Statistics
from weightlapse.store.statistics_file import StatisticsLog

_TRIES = 8  # block files that are opened to find the frame before


def frame_before(first: int, forks: Iterable[Fork]) -> int:
    """The number of the frame that comes before frame ``first`` on the main line as it was then, -1 for none."""
    main, _ = lines_of(sorted((fork for fork in forks if fork.first <= first), key=lambda fork: fork.first))
    position = int(positions(main, np.array([first]))[0])
    return -1 if position <= 0 else take(main, position)[-1][1] - 1


class Keeper:
    """Makes the statistics of segments of the recording in ``folder``, and appends them to its file."""

    def __init__(self, folder: Path, ours: Belonging, tolerance: float | None) -> None:
        self._folder, self._ours, self._tolerance = folder, ours, tolerance
        self._log = StatisticsLog(folder, ours.id)
        self._last: LastFrame | None = None

    def begin(self, segment: RawSegment, height: int, chunks: Sequence[tuple[Piece, ...]]) -> Gathering | None:
        """The statistics of a segment that is being compressed; None where there is no room for what they need."""
        opening = segment.opening
        outline = Outline.of(
            *(segment.layout, opening.layout_crc, segment.first, segment.count, height, chunks, self._tolerance)
        )
        try:
            forks = [Fork.from_json(number, json.loads(data)) for kind, number, data in segment.copies if kind == FORK]
            before = self._frame(frame_before(segment.first, forks), segment.number, segment.layout)
            return Gathering(outline, before, self._folder)
        except OSError:
            return None

    def _frame(self, number: int, segment: int, layout: Layout) -> LastFrame | None:
        if number < 0:
            return None
        if self._last is not None and self._last.number == number:
            return self._last if self._last.layout == layout else None
        for k in range(segment - 1, max(segment - 1 - _TRIES, -1), -1):
            try:
                block = BlockSegment(k, LocalFile(self._folder / block_name(k), block_name(k)), self._ours, Cache())
            except (DamagedRecording, FileNotFoundError):
                continue
            if block.first <= number < block.first + block.count:
                return read_last(block, number, layout, self._folder) if block.layout == layout else None
        return None

    def add(self, number: int, statistics: Statistics) -> bool:
        """Keep what was made otherwise; whether it is written."""
        return self._log.put(number, statistics)

    def keep(self, number: int, made: Gathering) -> None:
        """The block of segment ``number`` is in place, and so are its statistics; the next segment begins where this one ends."""
        self._log.put(number, made.done())
        self.forget()
        self._last = made.last

    def forget(self) -> None:
        """Drop the last frame: the next segment does not follow the one before, or nothing more comes."""
        if self._last is not None:
            self._last.close()
            self._last = None

    def close(self, *, sync: bool = False) -> None:
        """``sync``: have the statistics reach the disk first, as far as it can be had; a failure is not told."""
        if sync:
            self._log.sync()
        self._log.close()
        self.forget()

"""Between a device that packs its frames and the disk: what the ring is for rows.

It has the face of a :class:`Ring`, but no rows: what moved between two frames cannot be seen here, and only the counters of the model tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weightlapse.store.manifest as manifest
from weightlapse.adapters.source import Source
from weightlapse.capture.memory import auto_memory, ring_for
from weightlapse.capture.ring import MAX_ROWS, Ring
from weightlapse.errors import CannotRecord
from weightlapse.store.layout import Layout
from weightlapse.store.packed import ENTRY, PackedFrame, group_ends
from weightlapse.store.reader import Store

_MOST_WAITING = 4 << 30  # bytes of page-locked memory
_WORTH_IT = 1.25  # times the values of a frame that its groups of 1024 may take
_LARGE = 32 << 20  # bytes of a frame from which on packing costs the training less than the copy
_SEGMENT_NBYTES = 16 << 30  # of raw frames between two whole keys
_SEGMENT_FRAMES = (32, 256)


@dataclass(frozen=True)
class Packing:
    """How ``watch(pack=...)`` and ``tolerance=`` want frames packed."""

    tolerance: float | None
    always: bool  # also exact ones, and where no device is


def packing_of(pack: bool | str, tolerance: float | None, there: Path | None) -> Packing | None:
    """What ``watch(pack=...)`` means; ``there``: the recording that is gone on with, which may be of a version that knows no packed frames."""
    if pack is False or (there is not None and Store.open(there).version <= manifest.UNPACKED):
        return None
    return Packing(tolerance, always=pack is True)


def frames_to_a_key(row_nbytes: int) -> int:
    """Frames of a segment: a key takes as much as many others, and what is damaged costs the rest of its segment."""
    fewest, most = _SEGMENT_FRAMES
    return max(fewest, min(most, _SEGMENT_NBYTES // max(row_nbytes, 1)))


def make_ring(source: Source, layout: Layout, memory: int | None, packing: Packing | None) -> Ring:
    """The ring for frames of this layout: a packed one where that is wanted and possible. ``memory`` None is "auto"."""
    budget = auto_memory(layout.row_nbytes) if memory is None else memory
    padded = 4096 * group_ends(layout)[-1]
    on_device = source.on_device and layout.row_nbytes >= _LARGE
    wanted = packing is not None and (packing.always or (packing.tolerance is not None and on_device))
    if packing is not None and wanted and 0 < padded <= max(_WORTH_IT * layout.row_nbytes, 1 << 16):
        copies = source.packed_copies(
            packing.tolerance, every=frames_to_a_key(layout.row_nbytes), memory=min(budget * 3 // 4, _MOST_WAITING)
        )
        if copies is not None:
            if memory is not None and len(copies.arena.buffer) > max(memory, 1 << 22):
                raise CannotRecord(
                    f"one frame takes up to {len(copies.arena.buffer):,} bytes and the recorder may use memory={memory:,}: "
                    "pass more, or record fewer tensors (tensors='...')"
                )
            return PackedRing(copies, layout)
    return ring_for(layout.row_nbytes, memory, source.allocate)


class PackedRing(Ring):
    """Frame number f has its step in ``steps[f % capacity]``; its bytes are where ``copies`` puts them."""

    has_rows = False

    def __init__(self, copies: Any, layout: Layout) -> None:
        self.copies = copies
        self._layout = layout
        self._begin(MAX_ROWS)
        self.rows = np.empty((self.capacity, 0), np.uint8)
        self._wake_every = self._next_wake = 1  # frames are large, and lie on the device until they are fetched

    def has_room(self) -> bool:
        """Whether the next frame has a slot for its step, and room among the ``copies``."""
        return super().has_room() and self.copies.has_room()

    def wait_for_room(self, stuck: Callable[[], bool]) -> bool:
        """Wait in the training thread until there is room, asking every 2 ms; False where ``stuck()`` says that none will come."""
        while not self.has_room():
            self._space.clear()
            self.work.set()
            if stuck() and not self.has_room():
                return False
            self._space.wait(0.002)
        return True

    def publish(self, step: int, pending: Callable[[], None] | None = None) -> None:
        """The frame whose packing was queued last is of this ``step``; ``pending`` is not needed, since the copies know when they are done."""
        self.copies.publish()
        super().publish(step, None)

    def ready(self) -> tuple[NDArray[np.int64], Any] | None:
        """(steps int64 (n,), packed frames) that have reached the host, from the oldest on; n may be 0, None where none is published."""
        if self.filled == self.taken:
            return None
        start = self.taken % self.capacity
        frames = [self._frame(*found) for found in self.copies.arrived()[: self.capacity - start]]
        frames = frames[: self.filled - self.taken]
        return self.steps[start : start + len(frames)], frames

    def release(self, count: int) -> None:
        """The oldest ``count`` frames are written: their bytes in the arena and their slots are free."""
        self.copies.release(count)
        super().release(count)

    def _frame(self, report: Any, data: NDArray[np.uint8]) -> PackedFrame:
        table = report.table
        entries = np.zeros(len(table), ENTRY)
        gridded = table[:, 0] & 1 != 0
        entries["step"] = np.where(gridded, report.steps, 0.0)
        entries["bound"] = np.where(gridded, report.bounds, 0.0)
        entries["key"] = table[:, 1]
        entries["widths"], entries["numbers"] = table[:, 4], table[:, 5]
        width_words, number_words = report.words
        return PackedFrame(entries, width_words, number_words, data)

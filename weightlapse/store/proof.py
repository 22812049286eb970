"""Whether a block holds what its log holds: asked before the log goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weightlapse.errors import DamagedRecording
from weightlapse.store.belonging import Belonging
from weightlapse.store.block import block_name, lanes
from weightlapse.store.blockread import BlockSegment
from weightlapse.store.cache import Cache
from weightlapse.store.compact import within_bounds, write_block
from weightlapse.store.files import LocalFile
from weightlapse.store.keeper import Keeper
from weightlapse.store.raw import RawSegment
from weightlapse.store.remove import remove_proved


def open_block(folder: Path, number: int, ours: Belonging) -> BlockSegment:
    """The block of this number as it is on disk now, with a cache of its own: nothing that was decoded for others answers."""
    name = block_name(number)
    return BlockSegment(number, LocalFile(folder / name, name), ours, Cache())


def is_intact(folder: Path, number: int, raw: RawSegment, ours: Belonging) -> bool:
    """Whether the block that was just written, its chunks held against the log one by one, has reached the disk as it was made."""
    try:
        block = open_block(folder, number, ours)
        same = (block.first, block.count) == (raw.first, raw.count) and np.array_equal(block.steps, raw.steps)
        return same and block.rebuilt is None and block.records_are_right()
    except (DamagedRecording, FileNotFoundError):
        return False


def holds_the_same(block: BlockSegment, raw: RawSegment) -> bool:
    """Whether every value of the block is that of the log, or within its bound. A frame that is damaged in the log may be whole in the block."""
    if (block.first, block.count) != (raw.first, raw.count) or block.rebuilt is not None or block.verify():
        return False
    for k in range(raw.count):
        if raw.steps[k] not in (block.steps[k], -1):
            return False
        for i, spec in enumerate(raw.layout.tensors):
            try:
                true = raw.read_frame([i], k)[0]
            except DamagedRecording:
                break  # this frame is only in the block, whose checksums are right
            stored = block.read_frame([i], k)[0]
            dtype, each = lanes(spec)
            kind = f"<u{spec.storage.itemsize // each}"
            a, b = (np.ascontiguousarray(x).reshape(-1).view(kind)[None] for x in (stored, true))
            if a.tobytes() != b.tobytes() and not within_bounds(a, b, dtype, [a.shape[1]], [block.bound(i, k)]):
                return False
    return True


def compress(
    folder: Path,
    raw: RawSegment,
    ours: Belonging,
    tolerance: float | None,
    *,
    keeper: Keeper | None = None,
    **settings: Any,
) -> None:
    """Make the block of a log segment, prove it, and remove the log. Raises :class:`DamagedRecording` where the log must stay."""
    gathered = write_block(folder, raw.number, raw, tolerance, keeper=keeper, **settings)
    if not is_intact(folder, raw.number, raw, ours):
        raise DamagedRecording(f"{block_name(raw.number)} did not reach the disk as it was made: {raw.file} is kept")
    if keeper is not None and gathered is not None:
        keeper.keep(raw.number, gathered)
    remove_proved(folder / raw.file)

"""Compaction: a finished log segment becomes a block file, then disappears; a frame is at every moment in at least one of them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weightlapse.store.block as block
from weightlapse.store.block import Index, Opening, block_name, chunk_payload, chunks_of, lanes
from weightlapse.store.codecs import grid
from weightlapse.store.codecs.encode import encode, encode_bounded
from weightlapse.store.codecs.form import Shape
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.codecs.plan import CHUNK, MIN_CHUNK, Piece
from weightlapse.store.log import AppendFile, record_nbytes
from weightlapse.store.log import encode as encode_record
from weightlapse.store.segment import RawSegment

LOSSLESS_HEIGHT, BOUNDED_HEIGHT = (
    96,
    256,
)  # frames of a time block, at most: longer ones are smaller, shorter ones faster to enter
_STRICTER = 1 - 1e-9  # bounds are kept this much tighter than asked, so that another way to sum a variance agrees


def block_frames(tolerance: float | None) -> int:
    """Frames of a time block, at most."""
    return LOSSLESS_HEIGHT if tolerance is None else BOUNDED_HEIGHT


def block_height(count: int, tolerance: float | None) -> int:
    """Frames per time block for a segment of ``count`` frames: as equal as can be."""
    return -(-count // -(-count // block_frames(tolerance)))


def chunk_limit(height: int, memory: int) -> int:
    """Values of one step in a chunk so that encoding it takes about a quarter of ``memory``: five copies of eight bytes at most."""
    return max(MIN_CHUNK, min(CHUNK, memory // 4 // (height * 5 * 4)))


def chunk_shape(tolerance: float | None, height: int) -> Shape:
    """Pages of about two thousand residuals where they are long, and of many more where each takes a bit or less."""
    return (
        Shape(strip=2048, tile=32 if height > 64 else 8)
        if tolerance is None
        else Shape(strip=4096, tile=32 if height > 64 else 8)
    )


def write_block(
    folder: Path,
    number: int,
    segment: RawSegment,
    tolerance: float | None,
    *,
    sync: bool = True,
    pause: Callable[[], None] | None = None,
    memory: int = 256 << 20,
) -> None:
    """Compress a raw segment into ``blocks/NNNNNN.blk``, complete or not at all. ``pause`` is called between chunks and may raise.

    Holds one chunk at a time in memory, whatever the size of the model. Raises :class:`DamagedRecording` when a frame of the segment fails
    its checksum: such a segment stays a log.
    """
    segment.check_all()
    layout, count = segment.layout, segment.count
    height = block_height(count, tolerance)
    opening = Opening(number, segment.epoch, layout.row_nbytes, segment.layout_crc, count, height)
    chunks = chunks_of(layout, chunk_limit(height, memory))
    places = np.zeros((opening.blocks, len(chunks), 2), np.uint64)
    bounds = np.zeros((opening.blocks, len(layout.tensors) if tolerance is not None else 0))
    target = folder / block_name(number)
    target.parent.mkdir(exist_ok=True)
    building = target.with_suffix(".tmp")
    building.unlink(missing_ok=True)
    file = AppendFile(building)
    try:
        steps = encode_record(block.STEPS, opening.pack() + _deflate(segment.steps), segment.first)
        file.write([encode_record(block.BLOCK, opening.pack(), segment.first), steps])
        for b in range(opening.blocks):
            rows = slice(b * height, min((b + 1) * height, count))
            if tolerance is not None:
                bounds[b] = [_bound(segment, i, rows, tolerance) for i in range(len(layout.tensors))]
            for c, pieces in enumerate(chunks):
                if pause is not None:
                    pause()
                data = _encode(segment, pieces, rows, bounds[b], tolerance)
                payload, start = chunk_payload(rows.start, rows.stop - rows.start, pieces, data)
                places[b, c] = file.nbytes + record_nbytes(0) + start, len(data)
                file.write([encode_record(block.CHUNK, payload)])
        at = file.nbytes
        file.write(
            [encode_record(block.INDEX, Index(tuple(chunks), places, bounds, segment.steps).pack(), segment.first)]
        )
        file.rewrite(0, encode_record(block.BLOCK, replace(opening, index=at).pack(), segment.first))
        if sync:
            file.sync()
    except BaseException:
        file.close()
        building.unlink(missing_ok=True)
        raise
    file.close()
    building.replace(target)
    if sync:
        sync_path(target.parent)


def replace_segment(folder: Path, segment: RawSegment, number: int, tolerance: float | None, **options: Any) -> None:
    """Write the block, then delete the log: readers prefer the block while both are there."""
    write_block(folder, number, segment, tolerance, **options)
    (folder / segment.file).unlink()


def _deflate(steps: NDArray[np.int64]) -> bytes:
    return zlib.compress(steps.astype("<i8").tobytes(), 6)


def _gather(segment: RawSegment, pieces: tuple[Piece, ...], rows: slice) -> NDArray[np.unsignedinteger]:
    """The patterns (T, n) of a chunk's pieces."""
    layout = segment.layout
    dtype = PATTERNS[lanes(layout.tensors[pieces[0].tensor])[0]]
    out = np.empty((rows.stop - rows.start, sum(p.stop - p.start for p in pieces)), dtype.unsigned)
    at = 0
    for piece in pieces:
        start = layout.offsets[piece.tensor] + piece.start * dtype.nbytes
        width = piece.stop - piece.start
        out[:, at : at + width] = segment.columns(start, width, dtype.unsigned)[rows]
        at += width
    return out


def _encode(
    segment: RawSegment, pieces: tuple[Piece, ...], rows: slice, bounds: NDArray[np.float64], tolerance: float | None
) -> bytes:
    dtype = lanes(segment.layout.tensors[pieces[0].tensor])[0]
    u = _gather(segment, pieces, rows)
    shape = chunk_shape(tolerance, len(u))
    if tolerance is not None:
        own = [float(bounds[p.tensor]) for p in pieces]
        data = encode_bounded(u, dtype, [p.stop - p.start for p in pieces], own, shape)
        if data is not None:
            return data
    return encode(u, dtype, shape)


def _bound(segment: RawSegment, tensor: int, rows: slice, tolerance: float) -> float:
    """tolerance x the standard deviation (float64) of a tensor's finite values in these rows; 0.0 for integers.

    Summed row by row, pairwise within a row and merged by Chan's formula, so that no tensor needs to be held.
    """
    spec = segment.layout.tensors[tensor]
    pattern = PATTERNS[lanes(spec)[0]]
    if not pattern.is_float or spec.size == 0:
        return 0.0
    columns = segment.columns(segment.layout.offsets[tensor], spec.size * lanes(spec)[1], pattern.unsigned)
    count, mean, spread = 0, 0.0, 0.0
    with np.errstate(all="ignore"):
        for k in range(rows.start, rows.stop):
            values = pattern.numbers(np.ascontiguousarray(columns[k]))
            if not np.isfinite(values.sum()):
                values = values[np.isfinite(values)]
            if len(values):
                own = float(values.mean())
                total = count + len(values)
                shift = own - mean
                spread += float(np.square(values - own).sum()) + shift * shift * count * len(values) / total
                mean += shift * len(values) / total
                count = total
        deviation = np.sqrt(spread / count) if count else 0.0
    return grid.error_bound(tolerance, float(deviation)) * _STRICTER if np.isfinite(deviation) else 0.0


def sync_path(path: Path) -> None:
    """Wait until a file, or the renames within a folder, are on the device, where the system lets them be synced."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        return
    finally:
        os.close(fd)

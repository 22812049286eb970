"""Compaction: a finished log segment becomes a block file, then disappears; a frame is at every moment in at least one of them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weightlapse.store.block as block
from weightlapse.errors import DamagedRecording
from weightlapse.store.block import Index, Opening, block_name, chunk_payload, chunks_of, lanes
from weightlapse.store.codecs import decode, grid
from weightlapse.store.codecs.cutting import CHUNK, MIN_CHUNK, Piece
from weightlapse.store.codecs.decode import WORTH_COMPILING, Chunk, Run, may_run
from weightlapse.store.codecs.encode import encode, encode_bounded, encode_codes
from weightlapse.store.codecs.form import Shape
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.gathering import Gathering, Seen
from weightlapse.store.keeper import Keeper
from weightlapse.store.log import BLOCK, HEADER_NBYTES, RecordFile, Seal
from weightlapse.store.log import encode as encode_record
from weightlapse.store.portable import replace as rename
from weightlapse.store.portable import sync as sync_fd
from weightlapse.store.raw import Codes, RawSegment
from weightlapse.store.remove import remove_own
from weightlapse.store.threads import in_order

LOSSLESS_HEIGHT, BOUNDED_HEIGHT = (
    96,
    256,
)  # frames of a time block, at most: longer ones are smaller, shorter ones faster to enter
TALLEST = 1024
LARGE = 1 << 19  # values of a tensor from which on its chunks are large
LARGE_CHUNK, LARGE_STRIP = 1 << 16, 1 << 14
SHORT = 16  # frames of a time block up to which chunks are twice as wide
_REACH = 5 << 29  # bytes that may have to be decoded for one frame: about a second's work of two cores
_FEWEST = 4  # frames of a time block, of however large frames
_WORTH_A_BLOCK = 1 << 19  # bytes of a time block below which it is not worth a head of its own
_WORTH_COMPILING = 48 << 20  # bytes of a segment from which on loading the compiler pays
_STRICTER = 1 - 1e-9  # bounds are kept this much tighter than asked, so that another way to sum a variance agrees


class NotTheSame(DamagedRecording):
    """What was compressed does not decode to what the log holds: the log stays."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} would not be the same when read from a block; the log is kept (a fault of this machine or of weightlapse)"
        )


def block_frames(tolerance: float | None, row_nbytes: int = 1 << 20) -> int:
    """Frames of a time block, at most: more of small frames, because every block costs a call and a head of its own, and fewer of large
    exact ones, because the last frame of a block is found through all others. (Within a tolerance a first frame costs as much as ten others.)
    """
    row = max(row_nbytes, 1)
    usual = BOUNDED_HEIGHT if tolerance is not None else min(LOSSLESS_HEIGHT, max(_FEWEST, _REACH // row))
    return max(usual, min(TALLEST, _WORTH_A_BLOCK // row))


def block_height(count: int, tolerance: float | None, row_nbytes: int = 1 << 20) -> int:
    """Frames per time block for a segment of ``count`` frames: as equal as can be."""
    return -(-count // -(-count // block_frames(tolerance, row_nbytes)))


def chunk_limit(height: int, memory: int, size: int = 0) -> int:
    """Values of one step in a chunk of a tensor of ``size`` values, so that encoding it takes about a quarter of ``memory``.

    Five copies of eight bytes at most. Large tensors have large chunks: there a call costs more than the values behind it.
    """
    most = CHUNK if size < LARGE else LARGE_CHUNK if height > SHORT else 2 * LARGE_CHUNK
    return max(MIN_CHUNK, min(most, memory // 4 // (height * 5 * 4)))


def chunk_shape(tolerance: float | None, height: int, columns: int = 1 << 20) -> Shape:
    """Pages of some thousand residuals, and of many more where each takes a bit or less; no shorter in narrow chunks.

    Half as wide and half as tall again as 2048 x 32: as many pages, as many bytes, and a third less to decode for one weight over all time.
    """
    strip, tile = 2048 if tolerance is None else 4096, 32 if height > 64 else 8
    if tolerance is None and height > 64:
        strip, tile = 1024, 48
    if columns > CHUNK:
        strip, tile = LARGE_STRIP if height > 32 else columns, 16 if height > 32 else 4
    return Shape(strip=strip, tile=max(tile, min(height, 32 * 1024 // max(columns, 1))))


def write_block(
    folder: Path,
    number: int,
    segment: RawSegment,
    tolerance: float | None,
    *,
    sync: bool = True,
    pause: Callable[[], None] | None = None,
    memory: int = 256 << 20,
    count: int = 1,
    keeper: Keeper | None = None,
) -> Gathering | None:
    """Compress a raw segment into ``blocks/NNNNNN.blk``, complete or not at all. ``pause`` is called between chunks and may raise.

    Works on ``count`` chunks at a time and holds about as many in memory, whatever the size of the model. Raises
    :class:`DamagedRecording` when a frame of the segment fails its checksum: such a segment stays a log. Returns the segment's statistics
    where a ``keeper`` wants them.
    """
    layout = segment.layout
    if not layout.value_nbytes:
        segment.check_all()  # otherwise every byte of it is checked when it is read below
    height = block_height(segment.count, tolerance, layout.row_nbytes)
    raw = segment.opening
    opening = Opening(number, raw.epoch, layout.row_nbytes, raw.layout_crc, segment.count, height, id=raw.id)
    own = raw.id or b""
    compiled = segment.count * layout.row_nbytes >= _WORTH_COMPILING
    seal = Seal(None) if raw.id is None else segment.seal
    chunks = chunks_of(layout, partial(chunk_limit, height, memory // count))
    gathered = None if keeper is None else keeper.begin(segment, height, chunks)
    places = np.zeros((opening.blocks, len(chunks), 2), np.uint64)
    heads = None if raw.id is None else np.zeros((opening.blocks, len(chunks)), np.uint32)
    bounds = np.zeros((opening.blocks, len(layout.tensors) if tolerance is not None else 0))
    target = folder / block_name(number)
    target.parent.mkdir(exist_ok=True)
    building = target.with_suffix(".tmp")
    remove_own(building)
    file = RecordFile(building, seal)
    try:
        file.put(
            (BLOCK, opening.pack(), segment.first),
            (block.STEPS, opening.pack() + _deflate(segment.steps), segment.first),
        )
        if segment.copies:
            file.put(*((kind, payload, first) for kind, first, payload in segment.copies))
        for b in range(opening.blocks):
            rows = slice(b * height, min((b + 1) * height, segment.count))
            if tolerance is not None:
                bounds[b] = [
                    segment.known_bound(i, rows) or _bound(segment, i, rows, tolerance)
                    for i in range(len(layout.tensors))
                ]
            segment.prepare(rows)
            look = None if gathered is None else partial(gathered.look, b)
            tasks = (partial(_encode, segment, pieces, rows, bounds[b], tolerance, compiled, look) for pieces in chunks)
            for c, (pieces, (data, seen)) in enumerate(zip(chunks, in_order(tasks, count))):
                if pause is not None:
                    pause()
                if gathered is not None:
                    gathered.take(b, c, seen)
                payload, start = chunk_payload(rows.start, rows.stop - rows.start, pieces, data, seal)
                (at,) = file.put((block.CHUNK, payload, number + 1))
                places[b, c] = at + HEADER_NBYTES + start, len(data)
                if heads is not None:
                    heads[b, c] = block.head_crc(data)
        at = file.nbytes
        index = Index(tuple(chunks), places, bounds, segment.steps, heads)
        file.put((block.INDEX, own + index.pack(), segment.first))
        file.rewrite(0, encode_record(BLOCK, replace(opening, index=at).pack(), segment.first))
        if sync:
            file.sync()
    except BaseException:
        file.close()
        remove_own(building)
        raise
    file.close()
    rename(building, target)
    if sync:
        sync_path(target.parent)
    return gathered


def _deflate(steps: NDArray[np.int64]) -> bytes:
    return zlib.compress(steps.astype("<i8").tobytes(), 6)


def gather(
    segment: RawSegment, pieces: tuple[Piece, ...], rows: slice, known: Sequence[Codes | None] | None = None
) -> NDArray[np.unsignedinteger]:
    """The patterns (T, n) of a chunk's pieces; those of ``known`` codes follow from these."""
    layout = segment.layout
    dtype = PATTERNS[lanes(layout.tensors[pieces[0].tensor])[0]]
    if len(pieces) == 1 and (known is None or known[0] is None or not known[0][0]):  # as it comes
        start = layout.offsets[pieces[0].tensor] + pieces[0].start * dtype.nbytes
        return segment.columns(start, pieces[0].stop - pieces[0].start, dtype.unsigned, rows)
    out = np.empty((rows.stop - rows.start, sum(p.stop - p.start for p in pieces)), dtype.unsigned)
    at = 0
    for i, piece in enumerate(pieces):
        start = layout.offsets[piece.tensor] + piece.start * dtype.nbytes
        width = piece.stop - piece.start
        codes = None if known is None else known[i]
        if codes is not None and codes[0]:
            out[:, at : at + width] = segment.patterns(piece, codes)
        else:
            out[:, at : at + width] = segment.columns(start, width, dtype.unsigned, rows)
        at += width
    return out


def _encode(
    segment: RawSegment,
    pieces: tuple[Piece, ...],
    rows: slice,
    bounds: NDArray[np.float64],
    tolerance: float | None,
    compiled: bool,
    look: Callable[[tuple[Piece, ...], NDArray[Any]], list[Seen]] | None = None,
) -> tuple[bytes, list[Seen]]:
    """A chunk, decoded again and held against the log: what is not the same (or not within its bound) is never written.

    ``look`` is shown the patterns as they will be read.
    """
    dtype = lanes(segment.layout.tensors[pieces[0].tensor])[0]
    known = None if tolerance is None else segment.gridded(pieces, rows)
    if compiled and known is not None and all(codes is not None and codes[0] for codes in known):
        found = _encode_known(segment, pieces, rows, bounds, known, look)
        if found is not None:
            return found
    u = gather(segment, pieces, rows, known)
    shape = chunk_shape(tolerance, len(u), u.shape[1])
    data = None
    widths = [p.stop - p.start for p in pieces]
    own = [float(bounds[p.tensor]) if tolerance is not None else 0.0 for p in pieces]
    if tolerance is not None:
        data = encode_bounded(u, dtype, widths, own, shape, known=known, compiled=compiled)
    exact = data is None
    data = encode(u, dtype, shape, compiled=compiled) if data is None else data
    exactly = [0.0 if known is not None and known[i] is not None else bound for i, bound in enumerate(own)]
    stored = u if exact else Chunk(data).read()
    if not _same(Chunk(data), u, compiled=compiled) if exact else not within_bounds(stored, u, dtype, widths, exactly):
        raise NotTheSame(f"frames {segment.first + rows.start} to {segment.first + rows.stop - 1} of {segment.file}")
    return data, [] if look is None else look(pieces, stored)


def _encode_known(
    segment: RawSegment,
    pieces: tuple[Piece, ...],
    rows: slice,
    bounds: NDArray[np.float64],
    known: Sequence[Codes | None],
    look: Callable[[tuple[Piece, ...], NDArray[Any]], list[Seen]] | None,
) -> tuple[bytes, list[Seen]] | None:
    """:func:`_encode` where the log has nothing but codes: the block's are held against them, and no value is made. None where the compiler is missing."""
    given = [codes for codes in known if codes is not None]
    codes = (given[0][1] if len(given) == 1 else np.concatenate([own for _, own in given], axis=1)).view(np.uint32)
    dtype, widths = lanes(segment.layout.tensors[pieces[0].tensor])[0], [p.stop - p.start for p in pieces]
    steps, shape = [step for step, _ in given], chunk_shape(0.0, *codes.shape)
    own = [float(bounds[p.tensor]) for p in pieces]
    data = encode_codes(codes, dtype, widths, steps, own, shape, compiled=True)
    chunk, inverse = Chunk(data), decode.compiled(WORTH_COMPILING)
    if not may_run(chunk, inverse):
        return None
    if not np.array_equal(chunk.steps(None), np.repeat(steps, widths)) or not _same(chunk, codes, compiled=True):
        raise NotTheSame(f"frames {segment.first + rows.start} to {segment.first + rows.stop - 1} of {segment.file}")
    return data, [] if look is None else look(pieces, gather(segment, pieces, rows, known))


def _same(chunk: Chunk, u: NDArray[np.unsignedinteger], *, compiled: bool) -> bool:
    """Whether a chunk decodes to the patterns ``u``; by the compiled pass without writing them down once more."""
    inverse = decode.compiled(WORTH_COMPILING if compiled else 0)
    if (chunk.rows, chunk.columns) != u.shape or not may_run(chunk, inverse):
        return chunk.read().tobytes() == u.tobytes()
    return Run(chunk, inverse, once=True).to(slice(0, len(u), 1), u.reshape(-1), u.shape[1], compare=True) == 0


def within_bounds(
    stored: NDArray[np.unsignedinteger],
    true: NDArray[np.unsignedinteger],
    dtype: str,
    widths: list[int],
    bounds: list[float],
) -> bool:
    """Whether every pattern stands for a value within the bound of its tensor; the same bits always do."""
    at, pattern = 0, PATTERNS[dtype]
    for width, bound in zip(widths, bounds):
        mine = slice(at, at + width)
        for top in range(0, len(true), 32):  # float64 copies of a few rows at a time
            a, b = (np.ascontiguousarray(x[top : top + 32, mine]) for x in (stored, true))
            if a.tobytes() != b.tobytes() and not grid.within_bound(b, a, bound, pattern):
                return False
        at += width
    return True


def _bound(segment: RawSegment, tensor: int, rows: slice, tolerance: float) -> float:
    """tolerance x the standard deviation (float64) of a tensor's finite values in these rows; 0.0 for integers.

    Summed row by row, pairwise within a row and merged by Chan's formula, so that no tensor needs to be held.
    """
    spec = segment.layout.tensors[tensor]
    pattern = PATTERNS[lanes(spec)[0]]
    if not pattern.is_float or spec.size == 0:
        return 0.0
    start = segment.layout.offsets[tensor]
    count, mean, spread = 0, 0.0, 0.0
    with np.errstate(all="ignore"):
        for row in segment.each_row(start, spec.size * lanes(spec)[1], pattern.unsigned, rows):
            values = pattern.numbers(row)
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
        sync_fd(fd)
    except OSError:
        return
    finally:
        os.close(fd)

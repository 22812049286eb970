"""The form of block files: a log segment, compressed. See ``blockread.py`` and ``compact.py`` for reading and writing one.

``blocks/NNNNNN.blk`` holds the frames of the log segment of the same number, in *time blocks* of ``height`` frames (the last one may be
shorter). The values of a time block lie in chunks (``codecs/form.py``), each of which holds whole *pieces* (neighbouring elements) of tensors
of one dtype. It is a sequence of records (``log.py``):

    BLCK  first frame         seven uint64: number, epoch, bytes of a frame, CRC of the layout's payload, frames, height, offset of INDX;
                              16 bytes: the id of the recording
    STEP  first frame         the same, then the steps, zlib-compressed int64
    LAYT, FORK ...            as in the log segment
    CHNK  segment's + 1       four uint32: first frame within the segment, frames, P, check; P pieces (tensor u32, start u64, stop u64);
                              padding up to a multiple of eight bytes; the chunk. ``check`` binds the head of the chunk to the recording
    INDX  first frame         the id, then zlib-compressed: see ``Index``

It is written beside its place and renamed into it, so that it is always whole. The record CRC of a CHNK covers all of it; a reader that wants
a part of a chunk relies on the checksums within, and on the copy of the head's checksum in the index. In version 1 there are no ids, no
copies, no checks.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.codecs.cutting import CHUNK as CHUNK_VALUES
from weightlapse.store.codecs.cutting import Piece, cut
from weightlapse.store.files import Part
from weightlapse.store.layout import DTYPES, Layout, TensorSpec, storage_dtype
from weightlapse.store.log import Seal

STEPS, CHUNK, INDEX = b"STEP", b"CHNK", b"INDX"
_OPENING_V1 = struct.Struct("<7Q")
_OPENING = struct.Struct("<7Q16s")
_CHUNK_HEAD_V1 = struct.Struct("<3I")
_CHUNK_HEAD = struct.Struct("<4I")
PIECE = np.dtype([("tensor", "<u4"), ("start", "<u8"), ("stop", "<u8")])
_INDEX_HEAD = struct.Struct("<4Q")
_MAX_INDEX = 1 << 28  # bytes of an index when decompressed
_LANES = {
    "complex64": ("float32", 2), "complex128": ("float64", 2), "complex32": ("float16", 2), "bcomplex32": ("bfloat16", 2)
} | {name: (storage_dtype(name).name, 1) for name in DTYPES if storage_dtype(name).itemsize == 1 and name != "bool"}  # fmt: skip


def block_name(number: int) -> str:
    """The name of a block file within the recording, for the log segment of this number: "blocks/000007.blk"."""
    return f"blocks/{number:06d}.blk"


def lanes(spec: TensorSpec) -> tuple[str, int]:
    """The dtype in which a codec sees a tensor, and how many of its numbers make one value: complex values are two floats, small floats are bytes."""
    return _LANES.get(spec.dtype, (spec.dtype, 1))


def chunks_of(layout: Layout, limit: Callable[[int], int] = lambda _: CHUNK_VALUES) -> list[tuple[Piece, ...]]:
    """Which elements (of the codec's dtype) share a chunk; ``limit`` says how many at most, for a tensor of so many values."""
    wanted = []
    for spec in layout.tensors:
        dtype, count = lanes(spec)
        row = spec.size // spec.shape[0] if spec.shape and spec.shape[0] else 1
        wanted.append((dtype, spec.size * count, row * count))
    return cut(wanted, limit)


@dataclass(frozen=True)
class Opening:
    """The fixed numbers of a block file."""

    number: int
    epoch: int
    row_nbytes: int
    layout_crc: int
    count: int
    height: int
    index: int = 0
    id: bytes | None = None  # of the recording; None in version 1

    def pack(self) -> bytes:
        """The payload of the record: seven uint64, and, where there is one, the 16 bytes of the id."""
        fields = (self.number, self.epoch, self.row_nbytes, self.layout_crc, self.count, self.height, self.index)
        return _OPENING_V1.pack(*fields) if self.id is None else _OPENING.pack(*fields, self.id)

    @classmethod
    def unpack(cls, payload: bytes) -> Opening:
        """Reads either version, told apart by length. Raises DamagedRecording for one too short, or for no frames or 2^24 of them (or of a block)."""
        if len(payload) < _OPENING_V1.size:
            raise DamagedRecording("the opening record of a block file is too short")
        own = len(payload) >= _OPENING.size
        opening = cls(*(_OPENING.unpack_from(payload) if own else _OPENING_V1.unpack_from(payload)))
        if not 0 < opening.count < 1 << 24 or not 0 < opening.height < 1 << 24:
            raise DamagedRecording(f"a block file claims {opening.count} frames in blocks of {opening.height}")
        return opening

    @property
    def nbytes(self) -> int:
        """Bytes of the payload: 56 in version 1, else 72."""
        return _OPENING_V1.size if self.id is None else _OPENING.size

    @property
    def blocks(self) -> int:
        """Time blocks in the file, the last one perhaps shorter."""
        return -(-self.count // self.height)


@dataclass(frozen=True)
class Index:
    """Where everything of a block file is: four uint64 (chunks per time block, pieces, tensors with bounds, frames), then

    - per chunk the number of its pieces (uint32), then all pieces (tensor u32, start u64, stop u64),
    - per time block and chunk: offset and length of the chunk's bytes in the file (two uint64),
    - per time block and chunk: the checksum of the chunk's head (uint32); not in version 1,
    - per time block and tensor: the absolute error bound (float64); nothing in exact recordings,
    - the steps (int64).
    """

    chunks: tuple[tuple[Piece, ...], ...]
    places: NDArray[np.uint64]  # (time blocks, chunks, 2)
    bounds: NDArray[np.float64]  # (time blocks, tensors or 0)
    steps: NDArray[np.int64]
    heads: NDArray[np.uint32] | None = None  # (time blocks, chunks)

    def pack(self) -> bytes:
        """The payload: everything above in little-endian order, deflated by zlib."""
        pieces = np.array([(p.tensor, p.start, p.stop) for chunk in self.chunks for p in chunk], PIECE)
        head = _INDEX_HEAD.pack(len(self.chunks), len(pieces), self.bounds.shape[1], len(self.steps))
        counts = np.array([len(chunk) for chunk in self.chunks], "<u4")
        heads = b"" if self.heads is None else self.heads.astype("<u4").tobytes()
        parts = (
            *(head, counts, pieces, self.places.astype("<u8"), heads),
            *(self.bounds.astype("<f8"), self.steps.astype("<i8")),
        )
        return zlib.compress(b"".join(p if isinstance(p, bytes) else p.tobytes() for p in parts), 6)

    @classmethod
    def unpack(cls, payload: bytes, blocks: int, *, with_heads: bool) -> Index:
        """``blocks``: time blocks by the file's opening; ``with_heads``: not in version 1. Raises DamagedRecording where the lengths do not add up."""
        data = inflate(payload)
        if len(data) < _INDEX_HEAD.size:
            raise DamagedRecording("the index of a block file is too short")
        count, pieces, tensors, frames = _INDEX_HEAD.unpack_from(data)
        heads = 4 * blocks * count if with_heads else 0
        sizes = (4 * count, PIECE.itemsize * pieces, 16 * blocks * count, heads, 8 * blocks * tensors, 8 * frames)
        if _INDEX_HEAD.size + sum(sizes) != len(data):
            raise DamagedRecording("the index of a block file does not have the length that it claims")
        ends = np.cumsum([_INDEX_HEAD.size, *sizes]).tolist()
        parts = [data[a:b] for a, b in pairwise(ends)]
        counts = np.frombuffer(parts[0], "<u4")
        places, bounds = np.frombuffer(parts[2], "<u8"), np.frombuffer(parts[4], "<f8")
        steps = np.frombuffer(parts[5], "<i8")
        if int(counts.sum(dtype=np.uint64)) != pieces:
            raise DamagedRecording("the index of a block file has pieces that belong to no chunk")
        return cls(
            _chunks(parts[0], parts[1]),
            places.reshape(blocks, count, 2),
            bounds.reshape(blocks, tensors),
            steps.astype(np.int64),
            np.frombuffer(parts[3], "<u4").reshape(blocks, count) if with_heads else None,
        )


@lru_cache(maxsize=16)
def _chunks(counts: bytes, table: bytes) -> tuple[tuple[Piece, ...], ...]:
    """The pieces of each chunk; the segments of a recording have the same, thousands of them."""
    rows = np.frombuffer(table, PIECE)
    every = [Piece(*numbers) for numbers in zip(*(rows[name].tolist() for name in ("tensor", "start", "stop")))]
    edges = np.cumsum([0, *np.frombuffer(counts, "<u4")]).tolist()
    return tuple(tuple(every[a:b]) for a, b in pairwise(edges))


def inflate(payload: bytes) -> bytes:
    """zlib data, refused when it would grow beyond any index."""
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(payload, _MAX_INDEX)
    except zlib.error as error:
        raise DamagedRecording(f"the index of a block file cannot be decompressed ({error})") from None
    if not stream.eof:
        raise DamagedRecording("the index of a block file is not whole, or far larger than any")
    return data


def head_crc(chunk: bytes) -> int:
    """The checksum that a chunk's head carries; it covers those of all its pages."""
    return int.from_bytes(chunk[4:8], "little")


def _check(first: int, rows: int, table: bytes, head: int, seal: Seal) -> int:
    return zlib.crc32(struct.pack("<3I", first, rows, head) + table, seal.at(CHUNK, 0))


def chunk_payload(first: int, rows: int, pieces: tuple[Piece, ...], chunk: bytes, seal: Seal) -> tuple[bytes, int]:
    """The payload of a CHNK record, and where in it the chunk begins."""
    table = np.array([(p.tensor, p.start, p.stop) for p in pieces], PIECE).tobytes()
    if seal.key is None:
        head = _CHUNK_HEAD_V1.pack(first, rows, len(pieces)) + table
    else:
        head = _CHUNK_HEAD.pack(first, rows, len(pieces), _check(first, rows, table, head_crc(chunk), seal)) + table
    head += bytes(-len(head) % 8)
    return head + chunk, len(head)


def read_chunk_head(part: Part, seal: Seal) -> tuple[int, int, tuple[Piece, ...], int] | None:
    """(first frame, frames, pieces, where the chunk begins) of a CHNK payload; None when it cannot be meant, or is of another recording."""
    form = _CHUNK_HEAD_V1 if seal.key is None else _CHUNK_HEAD
    if part.size < form.size:
        return None
    first, rows, count, *check = form.unpack(part.read(0, form.size))
    end = form.size + count * PIECE.itemsize
    at = -(-end // 8) * 8
    if at + 8 > part.size:
        return None
    table = part.read(form.size, end)
    if check and check[0] != _check(first, rows, table, head_crc(part.read(at, at + 8)), seal):
        return None
    columns = zip(*(np.frombuffer(table, PIECE)[name].tolist() for name in ("tensor", "start", "stop")))
    return first, rows, tuple(Piece(*numbers) for numbers in columns), at


Placed = list[tuple[int, int, Piece]]


def pieces_by_tensor(chunks: tuple[tuple[Piece, ...], ...]) -> dict[int, Placed]:
    """For each tensor its (chunk, where in it, piece), rising: one pass over all chunks."""
    found: dict[int, Placed] = {}
    for c, chunk in enumerate(chunks):
        at = 0
        for piece in chunk:
            found.setdefault(piece.tensor, []).append((c, at, piece))
            at += piece.stop - piece.start
    for placed in found.values():
        placed.sort(key=lambda entry: entry[2].start)
    return found


def check_pieces(placed: Placed, spec: TensorSpec) -> None:
    """Raise unless the pieces cover every value of the tensor exactly once."""
    end = 0
    for _, _, piece in placed:
        if piece.start != end or piece.stop <= end:
            break
        end = piece.stop
    if end != spec.size * lanes(spec)[1]:
        raise DamagedRecording(f"the chunks of a block file do not hold all of {spec.name}")

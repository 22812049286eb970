"""The statistics of one segment: what its values are like, tensor by tensor and block by block, in a few bytes. See ``docs/format.md``.

They are made while a segment is compressed, when its values are at hand, are those of the values as they are read (rounded ones, within a tolerance),
and can be made anew from them at any time: nothing is lost with them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.block import PIECE, lanes
from weightlapse.store.codecs.cutting import Piece
from weightlapse.store.layout import Layout, TensorSpec

MEASURES = ("min", "max", "sum", "sumsq", "update_sumsq", "update_max")  # columns of a row, float64
COUNTS = ("nan", "inf", "zeros", "changed")  # and uint64
_HEAD = struct.Struct("<8Q")
_MOST = 1 << 28  # bytes of a record when decompressed
_ROW_EACH_FRAME = (
    4096  # values from which on an exact tensor has a row for each frame, and not only for each time block
)
_ROW_EACH_FRAME_ROUNDED = 1 << 16
_UNIT_VALUES = 1 << 14  # values of a unit in a time block from which on units have bounds of their own
_UNIT_VALUES_ROUNDED = 1 << 18


@dataclass(frozen=True)
class Outline:
    """Which rows, pieces and units the statistics of a segment have."""

    layout: Layout
    layout_crc: int
    first: int
    count: int
    height: int
    chunks: tuple[tuple[Piece, ...], ...]
    each: NDArray[np.bool_]  # (tensors,) whether there is a row for each frame
    units: NDArray[np.bool_]  # (tensors,) whether there are bounds for each row of the first axis

    @classmethod
    def of(
        cls, layout: Layout, crc: int, first: int, count: int, height: int, chunks: Sequence[tuple[Piece, ...]],
        tolerance: float | None,
    ) -> Outline:  # fmt: skip
        """What is worth its room: a row for each frame only of large tensors, bounds of units only of large ones whose units no piece cuts."""
        sizes = np.array([spec.size for spec in layout.tensors], np.int64)
        each = sizes >= (_ROW_EACH_FRAME if tolerance is None else _ROW_EACH_FRAME_ROUNDED)
        least = _UNIT_VALUES if tolerance is None else _UNIT_VALUES_ROUNDED
        units = np.array(
            [row_values(s) * min(height, count) >= least and len(s.shape) > 1 for s in layout.tensors], bool
        )
        for chunk in chunks:  # a unit that is cut cannot be summed chunk by chunk
            for piece in chunk:
                row = row_values(layout.tensors[piece.tensor])
                if units[piece.tensor] and (piece.start % row or piece.stop % row):
                    units[piece.tensor] = False
        return cls(layout, crc, first, count, height, tuple(map(tuple, chunks)), each, units)

    @property
    def blocks(self) -> int:
        """Time blocks, the last one perhaps shorter."""
        return -(-self.count // self.height)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces, chunk after chunk: the columns of ``low``, ``high`` and ``jump``."""
        return tuple(piece for chunk in self.chunks for piece in chunk)

    @cached_property
    def pieces_at(self) -> list[int]:
        """The number of the first piece of each chunk."""
        return [0, *np.cumsum([len(chunk) for chunk in self.chunks]).tolist()]

    def rows_of(self, b: int) -> slice:
        """The frames of a time block, within the segment."""
        return slice(b * self.height, min((b + 1) * self.height, self.count))


def row_values(spec: TensorSpec) -> int:
    """Numbers of the codec in one row of the first axis."""
    return spec.size // spec.shape[0] * lanes(spec)[1] if spec.shape and spec.shape[0] else 0


def starts_of(each: NDArray[np.bool_], count: int, blocks: int) -> NDArray[np.int64]:
    """Where the rows of each tensor begin among all, and their number."""
    return np.concatenate([[0], np.cumsum(np.where(each, count, blocks))]).astype(np.int64)


def unit_starts_of(units: NDArray[np.bool_], layout: Layout) -> NDArray[np.int64]:
    """int64 (tensors + 1,): where the units of each tensor begin among all that have bounds, and their number."""
    sizes = [spec.shape[0] if has else 0 for spec, has in zip(layout.tensors, units)]
    return np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))]).astype(np.int64)


@dataclass(frozen=True)
class Statistics:
    """Of the frames ``[first, first + count)``, in time blocks of ``height``.

    ``rows``: the columns of ``MEASURES`` and ``COUNTS``, tensor after tensor (see ``starts``), one row for each frame or each time block.
    ``before``: the number of the frame that the first one is compared with; -1: with none, it has no update.
    ``low``, ``high``, ``jump`` (blocks, pieces) float32: no value but NaN lies outside of [low, high], none moved by more than jump; infinities are
    among them. ``unit_value``, ``unit_jump`` (blocks, units) float32: no row of the first axis is longer, or moved by more, in square sums.
    """

    first: int
    count: int
    height: int
    layout_crc: int
    before: int
    each: NDArray[np.bool_]
    units: NDArray[np.bool_]
    table: dict[str, NDArray[Any]]  # of the pieces: tensor, start, stop
    rows: dict[str, NDArray[Any]]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    jump: NDArray[np.float32]
    unit_value: NDArray[np.float32]
    unit_jump: NDArray[np.float32]

    @property
    def blocks(self) -> int:
        """Time blocks, the last one perhaps shorter: the first axis of ``low``, ``high`` and ``jump``."""
        return -(-self.count // self.height)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces as they lie in ``table``: the columns of ``low``, ``high`` and ``jump``."""
        columns = (self.table[name].tolist() for name in ("tensor", "start", "stop"))
        return tuple(Piece(*numbers) for numbers in zip(*columns))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """int64 (tensors + 1,): where the rows of each tensor begin in the columns of ``rows``, and their number."""
        return starts_of(self.each, self.count, self.blocks)

    def row(self, tensor: int, frame: int) -> int:
        """The row of a frame of the segment (or of its time block)."""
        return int(self.starts[tensor]) + (frame if self.each[tensor] else frame // self.height)

    def fits(self, layout: Layout, crc: int, first: int, count: int) -> bool:
        """Whether they can be those of a segment with these frames of this layout."""
        same = (self.layout_crc, self.first, self.count, len(self.each)) == (crc, first, count, len(layout.tensors))
        return same and int(unit_starts_of(self.units, layout)[-1]) == self.unit_value.shape[1]

    # ---- bytes -----------------------------------------------------------------------------------------------------

    def pack(self) -> bytes:
        """The payload of the record, little-endian: a head of fixed numbers, then all arrays transposed and deflated by zlib."""
        head = _HEAD.pack(
            *(self.first, self.count, self.height, self.layout_crc, self.before + 1),
            *(len(self.each), len(self.table["start"]), self.unit_value.shape[1]),
        )
        arrays = [self.each.astype("u1"), self.units.astype("u1")]
        arrays += [self.table[name].astype(PIECE[name]) for name in ("tensor", "start", "stop")]
        arrays += [self.rows[name].astype("<f8") for name in MEASURES]
        arrays += [self.rows[name].astype("<u8") for name in COUNTS]
        arrays += [a.astype("<f4") for a in (self.low, self.high, self.jump, self.unit_value, self.unit_jump)]
        return head + zlib.compress(b"".join(_transposed(array) for array in arrays), 6)

    @classmethod
    def unpack(cls, payload: bytes) -> Statistics:
        """Raises :class:`DamagedRecording` where the bytes cannot be meant."""
        if len(payload) < _HEAD.size:
            raise DamagedRecording("the statistics of a segment are too short")
        first, count, height, crc, before, tensors, pieces, units = _HEAD.unpack_from(payload)
        stream = zlib.decompressobj()
        try:
            data = stream.decompress(payload[_HEAD.size :], _MOST)
        except zlib.error as error:
            raise DamagedRecording(f"the statistics of a segment cannot be decompressed ({error})") from None
        if not 0 < count < 1 << 24 or not 0 < height < 1 << 24 or not stream.eof or tensors > len(data):
            raise DamagedRecording("the statistics of a segment are not whole")
        blocks, at = -(-count // height), 0

        def take(dtype: str, *shape: int) -> NDArray[Any]:
            nonlocal at
            size = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=object))
            if size > len(data) - at:
                raise DamagedRecording("the statistics of a segment do not have the length that they claim")
            part, at = data[at : at + size], at + size
            return _restored(part, dtype).reshape(shape)

        each, has = take("u1", tensors).astype(bool), take("u1", tensors).astype(bool)
        table = {name: take(PIECE[name].str, pieces) for name in ("tensor", "start", "stop")}
        total = int(starts_of(each, count, blocks)[-1])
        rows = {name: take("<f8", total) for name in MEASURES}
        rows |= {name: take("<u8", total).astype(np.int64) for name in COUNTS}
        low, high, jump = (take("<f4", blocks, pieces) for _ in range(3))
        unit_value, unit_jump = (take("<f4", blocks, units) for _ in range(2))
        if at != len(data):
            raise DamagedRecording("the statistics of a segment do not have the length that they claim")
        if (table["tensor"] >= tensors).any():
            raise DamagedRecording("the statistics of a segment are of tensors that it cannot have")
        return cls(
            first, count, height, crc, before - 1, each, has, table, rows, low, high, jump, unit_value, unit_jump
        )


def _transposed(array: NDArray[Any]) -> bytes:
    """The first bytes of all numbers, then the second, ...: neighbours are alike there."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(flat.size, flat.itemsize).T.tobytes() if flat.size else b""


def _restored(data: bytes, dtype: str) -> NDArray[Any]:
    kind = np.dtype(dtype)
    turned = np.frombuffer(data, np.uint8).reshape(kind.itemsize, -1).T
    return np.ascontiguousarray(turned).reshape(-1).view(kind)


def outward(values: NDArray[np.float64], *, up: bool) -> NDArray[np.float32]:
    """float32 numbers that are not below (``up``) or not above these."""
    with np.errstate(over="ignore"):
        near = values.astype(np.float32)
    wrong = near < values if up else near > values
    return np.where(wrong, np.nextafter(near, np.float32(np.inf if up else -np.inf)), near).astype(np.float32)

"""A recording made small enough for a page: frames and cells thinned evenly, values exact or quantised with a measured error.

A block holds some frames of one tensor: unsigned integers of 1, 2, 4 or 8 bytes (the values' own bits, or quantised codes), each less
the one before it in time, split into byte planes and deflated. The page undoes exactly that (viewer/src/sources/blocks.ts).
"""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.picture.sample import Piece, bands
from weightlapse.view.subject import Subject

BLOCK_VALUES = 2_000_000
SOME = 12_288  # cells of a tensor that estimates look at
ALWAYS_EXACT = 4096  # values over all frames: counters and single numbers are not worth an error


@dataclass(frozen=True)
class Detail:
    """How much of a recording goes into the page: bits per value (0: exact), at most so many frames, every so many-th cell."""

    bits: int
    frames: int
    stride: int

    def keep(self, total: int) -> NDArray[np.int64]:
        """The frames that stay: evenly spaced, the first and the last among them."""
        count = min(total, self.frames)
        return np.unique(np.round(np.linspace(0, total - 1, count)).astype(np.int64))


@dataclass(frozen=True)
class Block:
    """Encoded frames ``start:stop`` (counted among the kept ones), and how to read them."""

    start: int
    stop: int
    width: int  # bytes of one integer
    step: float  # value of one code; 0 for exact bits
    bound: list[float]  # largest absolute error, per frame
    data: bytes

    def to_json(self) -> dict[str, Any]:
        """What the page reads: data in base64, the bound as one number where it is the same for all frames."""
        bound: Any = self.bound[0] if len(set(self.bound)) == 1 else self.bound
        text = base64.b64encode(self.data).decode()
        return {
            "start": self.start,
            "stop": self.stop,
            "width": self.width,
            "step": self.step,
            "bound": bound,
            "data": text,
        }


def strides(shape: tuple[int, ...], stride: int) -> tuple[int, ...]:
    """Every ``stride``-th position on the two largest axes of a tensor; small axes (a kernel's, say) stay whole."""
    large = sorted(range(len(shape)), key=lambda axis: -shape[axis])[:2]
    return tuple(stride if axis in large and n >= 16 * stride else 1 for axis, n in enumerate(shape))


def thinned(shape: tuple[int, ...], steps: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that is left when of each axis only every so many-th place is kept."""
    return tuple(-(-n // s) for n, s in zip(shape, steps, strict=True))


def read_thinned(
    subject: Subject, name: str, piece: Piece, frames: NDArray[np.int64], steps: tuple[int, ...]
) -> NDArray[Any]:
    """The kept cells of some frames as (frames, rows, columns) of the thinned tensor, in one read."""
    with subject.lock:
        track = subject.track(name, piece)
        where = (slice(0, n, s) for n, s in zip(piece.shape, steps, strict=True))
        values = np.asarray(track[(frames - piece.start, *where)])
    return subject.arrangement(name, piece, values.shape[1:]).arrange(values)


def encode(values: NDArray[Any], dtype: str, bits: int, recorded: list[float], start: int) -> Block:
    """``values`` (frames, cells) as a block. ``recorded``: the error that each frame has in the recording itself."""
    integer_like = values.dtype.kind != "f"
    if bits == 0 or integer_like:
        codes = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        codes = codes.astype(np.float32) if codes.dtype == np.float16 else codes
        codes = codes.astype(np.uint8) if codes.dtype == np.bool_ else codes
        unsigned = codes.view(f"<u{codes.dtype.itemsize}")
        return Block(start, start + len(values), codes.dtype.itemsize, 0.0, recorded, _deflate(unsigned))
    exact = values.astype(np.float64)
    finite = np.isfinite(exact)
    largest = float(np.max(np.abs(exact), where=finite, initial=0.0))
    top = (1 << (bits - 1)) - 2  # the codes beyond it are -Inf, +Inf and NaN
    step = largest / top if largest > 0 else 1.0
    with np.errstate(invalid="ignore"):
        codes = np.clip(np.rint(np.where(finite, exact, 0) / step), -top, top).astype(np.int64)
    shown = decoded(codes, step, dtype)
    error = np.max(np.abs(shown - exact), axis=1, where=finite, initial=0.0) if exact.shape[1] else np.zeros(len(exact))
    codes[exact == -np.inf], codes[exact == np.inf], codes[np.isnan(exact)] = -top - 1, top + 1, -top - 2
    unsigned = codes.astype(f"<i{bits // 8}").view(f"<u{bits // 8}")
    bound = [
        float(np.nextafter(e + r, np.inf)) if e + r else 0.0 for e, r in zip(error.tolist(), recorded, strict=True)
    ]
    return Block(start, start + len(values), bits // 8, step, bound, _deflate(unsigned))


def decoded(codes: NDArray[np.int64], step: float, dtype: str) -> NDArray[np.float64]:
    """The numbers that the page will show for ``codes``: rounded to float32 unless the tensor is float64."""
    values: NDArray[np.float64] = codes.astype(np.float64) * step
    return values if dtype == "float64" else values.astype(np.float32).astype(np.float64)


def _deflate(unsigned: NDArray[Any]) -> bytes:
    difference = unsigned.copy()
    difference[1:] -= unsigned[:-1]  # wraps around, and so does the page's sum
    planes = difference.reshape(-1, 1).view(np.uint8).T
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(planes.tobytes()) + packer.flush()


def blocks(
    subject: Subject, name: str, piece: Piece, kept: NDArray[np.int64], first: int, detail: Detail
) -> list[Block]:
    """All blocks of one piece of a tensor; ``kept`` are its frames in the recording, the first of them number ``first`` in the page."""
    steps = strides(piece.shape, detail.stride)
    cells = max(1, math.prod(thinned(piece.shape, steps)))
    together = _together(cells)
    bits = 0 if cells * len(kept) <= ALWAYS_EXACT else detail.bits
    dtype = subject.dtype(name)
    out = []
    for at in range(0, len(kept), together):
        frames = kept[at : at + together]
        values = read_thinned(subject, name, piece, frames, steps).reshape(len(frames), -1)
        out.append(encode(values, dtype, bits, [subject.bound(name, f) for f in frames.tolist()], first + at))
    return out


class Some:
    """A few thousand cells of each tensor at the frames that estimates look at, read once."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._read: dict[tuple[str, int], NDArray[Any]] = {}

    def at(self, name: str, piece: Piece, frames: NDArray[np.int64]) -> NDArray[Any]:
        """(frames, cells), in the tensor's own dtype."""
        missing = [f for f in frames.tolist() if (name, f) not in self._read]
        if missing:
            with self.subject.lock:
                track, places = self.subject.track(name, piece), [f - piece.start for f in missing]
                read = [
                    np.asarray(track[(places, *where)]).reshape(len(places), -1) for where in bands(piece.shape, SOME)
                ]
            self._read |= {(name, f): row for f, row in zip(missing, np.concatenate(read, axis=1), strict=True)}
        return np.stack([self._read[name, f] for f in frames.tolist()])


def _together(cells: int) -> int:
    """Frames in one block."""
    return max(1, min(256, BLOCK_VALUES // max(1, cells)))


def estimate(some: Some, detail: Detail) -> float:
    """Bytes that the blocks will take as text, from a few neighbouring frames of some cells of each tensor."""
    total = told = 0.0
    subject = some.subject
    kept = detail.keep(subject.frames)
    for name in subject.names():
        for piece in subject.pieces(name):
            inside = kept[(kept >= piece.start) & (kept < piece.stop)]
            if not len(inside) or not math.prod(piece.shape):
                continue
            cells = math.prod(thinned(piece.shape, strides(piece.shape, detail.stride)))
            middle = len(inside) // 2
            values = some.at(name, piece, inside[max(0, middle - 3) : middle + 3])
            first, whole = (
                len(encode(part, subject.dtype(name), detail.bits, [0.0] * len(part), 0).data)
                for part in (values[:1], values)
            )
            later = (whole - first) / max(
                1, len(values) - 1
            )  # of a frame that is told by its difference from the one before
            blocks = -(-len(inside) // _together(cells))
            told += 100 * blocks + (22 * len(inside) if detail.bits else 0)  # an error for each frame
            total += (blocks * first + (len(inside) - blocks) * later) / values.shape[1] * cells
    return total * 4 / 3 + told

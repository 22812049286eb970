"""Reading packed numbers with a compiler (numba, cached on disk), the interpreter released. Twins in NumPy: ``packing.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

FEW = 6  # bits of a number up to which they are picked out one by one


def _compiled(function: Callable[..., Any]) -> Any:
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # read-only installation without a home: numba finds no folder for its cache
        return njit(nogil=True)(function)


@_compiled
def _unpack_blocks(widths, words, out):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(len(widths)):
        for k in range(widths[i]):
            word = words[at]
            at += 1
            for j in range(32):
                out[i, j] |= ((word >> np.uint32(j)) & np.uint32(1)) << np.uint32(k)


@_compiled
def _swap(a, distance, mask):  # type: ignore[no-untyped-def]
    """A step of turning a 32 x 32 matrix of bits: the upper halves of rows in the first of two runs change places with the lower halves in the second."""
    shift = np.uint32(distance)
    for first in range(0, 32, 2 * distance):
        for k in range(first, first + distance):
            t = ((a[k] >> shift) ^ a[k + distance]) & mask
            a[k + distance] ^= t
            a[k] ^= t << shift


@_compiled
def _turn(a):  # type: ignore[no-untyped-def]
    """Bit j of word k becomes bit k of word j."""
    _swap(a, 16, np.uint32(0x0000FFFF))
    _swap(a, 8, np.uint32(0x00FF00FF))
    _swap(a, 4, np.uint32(0x0F0F0F0F))
    _swap(a, 2, np.uint32(0x33333333))
    _swap(a, 1, np.uint32(0x55555555))


@_compiled
def _add_blocks(widths, words, out, fresh):  # type: ignore[no-untyped-def]
    at = 0
    folded = np.empty(32, np.uint32)
    one = np.uint32(1)
    for i in range(len(widths)):
        width = widths[i]
        here = out[32 * i : 32 * i + 32]
        if width == 0:
            if fresh:
                for j in range(32):
                    here[j] = 0
            continue
        if width > FEW:
            for k in range(width):
                folded[k] = words[at + k]
            for k in range(width, 32):
                folded[k] = 0
            _turn(folded)
        else:
            word = words[at]
            for j in range(32):
                folded[j] = (word >> np.uint32(j)) & one
            for k in range(1, width):
                word = words[at + k]
                for j in range(32):
                    folded[j] |= ((word >> np.uint32(j)) & one) << np.uint32(k)
        at += width
        if fresh:
            for j in range(32):
                here[j] = (folded[j] >> one) ^ (np.uint32(0) - (folded[j] & one))
        else:
            for j in range(32):
                here[j] += (folded[j] >> one) ^ (np.uint32(0) - (folded[j] & one))


@_compiled
def _follow_blocks(widths, words, begins, fresh, now, skipped, low, out):  # type: ignore[no-untyped-def]
    for f in range(len(widths)):
        _add_blocks(widths[f], words[begins[f] :], now, fresh[f])
        if f >= skipped:
            row = out[f - skipped]
            for j in range(len(row)):
                row[j] = now[low + j]


@_compiled
def _grid_values(codes, step, out):  # type: ignore[no-untyped-def]
    for j in range(len(codes)):
        out[j] = np.float32(np.float64(codes[j]) * step)


def unpack_blocks(widths: NDArray[np.uint8], words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """(N, 32) of widths whose sum is the number of words."""
    out = np.zeros((len(widths), 32), np.uint32)
    _unpack_blocks(widths, words, out)
    return out


def add_blocks(widths: NDArray[np.uint8], words: NDArray[np.uint32], out: NDArray[np.int32], fresh: bool) -> None:
    """Add to ``out`` (or put there, where ``fresh``) the numbers that these widths and words stand for, modulo 2^32."""
    _add_blocks(widths, words, out.view(np.uint32), fresh)


def follow_blocks(
    widths: NDArray[np.uint8],
    words: NDArray[np.uint32],
    begins: NDArray[np.int64],
    fresh: NDArray[np.bool_],
    now: NDArray[np.int32],
    skipped: int,
    low: int,
    out: NDArray[np.uint32],
) -> None:
    """:func:`add_blocks` to ``now`` for frame after frame, whose widths (frames, blocks) are given and whose words begin at ``begins``.

    After all but the first ``skipped`` frames the numbers from ``low`` on go to the next row of ``out`` (rows, n).
    """
    _follow_blocks(widths, words, begins, fresh, now.view(np.uint32), skipped, low, out)


def grid_values(codes: NDArray[np.int32], step: float) -> NDArray[np.float32]:
    """code x step in float64, rounded to float32."""
    out = np.empty(len(codes), np.float32)
    _grid_values(codes, np.float64(step), out)
    return out

"""Reading packed numbers with a compiler (numba, cached on disk), the interpreter released. Twins in NumPy: ``packing.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


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


def grid_values(codes: NDArray[np.int32], step: float) -> NDArray[np.float32]:
    """code x step in float64, rounded to float32."""
    out = np.empty(len(codes), np.float32)
    _grid_values(codes, np.float64(step), out)
    return out

"""One tensor of one side, read slab by slab: from a file, from memory, or from a recording.

Files are read into buffers and not mapped: pages of a map stay in memory and would count as ours, however large the file is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotRecord
from weightlapse.store.layout import storage_dtype, widen
from weightlapse.store.portable import read_into

Doubles = NDArray[np.float64]

WHOLE = 2.0**53  # from here on float64 does not hold every whole number

# bits of the mantissa that are stored; a value is rounded by at most half of 2 ** -bits of its size
MANTISSA = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7, "float8_e4m3fn": 3, "float8_e5m2": 2}
_HALVES = {"complex128": "float64", "complex64": "float32", "complex32": "float16", "bcomplex32": "bfloat16"}


class Bytes:
    """Where the bytes of a tensor are."""

    def into(self, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``start`` on."""
        raise NotImplementedError


@dataclass
class FileBytes(Bytes):
    """Bytes in an open file from ``offset`` on."""

    path: str
    descriptor: int
    offset: int

    def into(self, start: int, buffer: memoryview) -> None:
        """Fills ``buffer`` from byte ``start`` of the tensor on. Raises CannotRecord where the file ends before."""
        if read_into(self.descriptor, self.offset + start, buffer) < len(buffer):
            raise CannotRecord(f"{self.path} ended while it was read: it was cut short by somebody else")


@dataclass
class MadeBytes(Bytes):
    """Bytes of an array that is in memory, or made when it is first looked at."""

    make: Callable[[], NDArray[Any]]

    @cached_property
    def flat(self) -> NDArray[np.uint8]:
        """The bytes (n,) uint8, little-endian and in C order; made once and kept."""
        array = np.ascontiguousarray(self.make())
        little = array if array.dtype.byteorder != ">" else array.astype(array.dtype.newbyteorder("<"))
        return little.reshape(-1).view(np.uint8)

    def into(self, start: int, buffer: memoryview) -> None:
        """Fills ``buffer`` from byte ``start`` on; the array is made where this is the first look."""
        np.frombuffer(buffer, np.uint8)[:] = self.flat[start : start + len(buffer)]

    def forget(self) -> None:
        """Give the memory back; the array is made again when it is looked at again."""
        self.__dict__.pop("flat", None)


class Tensor:
    """A tensor by name. ``dtype`` is the recorded one; complex numbers have a last axis (real, imaginary) and the dtype of their parts.

    ``place`` is equal for two names of one tensor.
    """

    def __init__(self, name: str, dtype: str, shape: tuple[int, ...], source: Bytes, place: Any = None) -> None:
        self.name = name
        self.dtype = _HALVES.get(dtype, dtype)
        self.is_complex = dtype in _HALVES
        self.shape = (*shape, 2) if dtype in _HALVES else shape
        self.storage = storage_dtype(self.dtype)
        self.size = math.prod(self.shape)
        self.nbytes = self.size * self.storage.itemsize
        self.source = source
        self.place = place

    def __repr__(self) -> str:
        return f"<Tensor {self.name}: {self.dtype}{list(self.shape)}>"

    @property
    def mantissa(self) -> int | None:
        """Stored bits of the mantissa; None for whole numbers and rare floats."""
        return MANTISSA.get(self.dtype)

    def raw(self, start: int, stop: int) -> NDArray[Any]:
        """The elements [start, stop) in C order, in the dtype in which they are stored."""
        if isinstance(self.source, MadeBytes):
            size = self.storage.itemsize
            return self.source.flat[start * size : stop * size].view(self.storage)
        out = np.empty(stop - start, self.storage)
        if out.size:
            self.source.into(start * self.storage.itemsize, out.view(np.uint8).data)
        return out

    def values(self, start: int, stop: int) -> Doubles:
        """The elements [start, stop) as float64."""
        return numbers(self.raw(start, stop), self.dtype)

    def rows(self, start: int, stop: int) -> Doubles:
        """Slices [start, stop) of the first axis as float64 (stop - start, \\*S[1:])."""
        each = self.size // self.shape[0]
        return self.values(start * each, stop * each).reshape(stop - start, *self.shape[1:])

    def keys(self, start: int, stop: int) -> NDArray[np.uint64]:
        """The elements [start, stop) as patterns of bits that are equal where the numbers are (and only there)."""
        return _keys(self.raw(start, stop), self.dtype)

    def row_keys(self, start: int, stop: int) -> NDArray[np.uint64]:
        """The keys of slices [start, stop) of the first axis (stop - start, \\*S[1:])."""
        each = self.size // self.shape[0]
        return self.keys(start * each, stop * each).reshape(stop - start, *self.shape[1:])

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The keys of the given slices of the first axis, each read by itself."""
        each = self.size // self.shape[0]
        out = np.empty((len(rows), each), self.storage)
        for i, row in enumerate(rows.tolist()):
            out[i] = self.raw(row * each, (row + 1) * each)
        return _keys(out, self.dtype).reshape(len(rows), *self.shape[1:])

    def forget(self) -> None:
        """Give back what was read into memory."""
        if isinstance(self.source, MadeBytes):
            self.source.forget()


def numbers(stored: NDArray[Any], dtype: str) -> Doubles:
    """Stored values as float64."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        return widen(stored, dtype).astype(np.float64)


def _keys(stored: NDArray[Any], dtype: str) -> NDArray[np.uint64]:
    values = numbers(stored, dtype) + 0.0  # -0 is 0
    values[np.isnan(values)] = np.nan
    keys = values.view(np.uint64)
    if stored.dtype.kind in "iu" and stored.itemsize == 8:  # float64 does not hold all of these
        large = np.abs(values) >= WHOLE
        keys[large] ^= stored[large].view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return keys


def bits(stored: NDArray[Any]) -> NDArray[Any]:
    """Stored values as unsigned integers of the same width."""
    return stored.view(f"<u{stored.dtype.itemsize}")

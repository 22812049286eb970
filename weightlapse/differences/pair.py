"""Two tensors of one shape side by side: their bytes, and their values in slabs of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.differences.tensor import WHOLE, Doubles, Tensor, bits, numbers
from weightlapse.store.layout import widen

PIECE = 1 << 20  # bytes compared at a time: both buffers stay in the cache
BLOCK = 1 << 18  # numbers looked at at a time

_BUFFERS = (bytearray(PIECE), bytearray(PIECE))


def same_bytes(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one dtype and size hold the same bytes; stops at the first piece that differs."""
    one, two = _BUFFERS
    for start in range(0, a.nbytes, PIECE):
        length = min(PIECE, a.nbytes - start)
        if length < PIECE:
            one, two = bytearray(length), bytearray(length)
        a.source.into(start, memoryview(one))
        b.source.into(start, memoryview(two))
        if one != two:
            return False
    return True


@dataclass
class Slab:
    """Rows [start, stop) of both tensors: float64 (rows, columns), and where their bits differ.

    ``exact`` is y - x, of whole numbers that float64 does not tell apart; None where there are none.
    """

    start: int
    stop: int
    x: Doubles
    y: Doubles
    differs: NDArray[np.bool_]
    exact: Doubles | None = None

    @property
    def change(self) -> Doubles:
        """y - x."""
        with np.errstate(invalid="ignore", over="ignore"):
            return self.y - self.x if self.exact is None else self.exact

    @property
    def same(self) -> NDArray[np.bool_]:
        """Where the values are equal, whatever the sign of zeros and the bits of NaN."""
        equal = self.x == self.y if self.exact is None else (self.x == self.y) & (self.exact == 0)
        return equal | (np.isnan(self.x) & np.isnan(self.y))


@dataclass(frozen=True)
class Pair:
    """Two tensors of one shape as matrices (rows, columns): the first axis against the others; a vector is one column.

    Kernels with the channels last (Keras, Flax: few positions first, channels after) are (positions and inputs, outputs).
    Blocks hold values times ``2 ** exponent``: what is too large or too small to be squared is brought to where it can be.
    """

    a: Tensor
    b: Tensor
    exponent: int = 0

    @property
    def channels_last(self) -> bool:
        """Whether it looks like a kernel with few positions first: at least three axes, a first of 11 at most, and a longer last one."""
        shape = self.a.shape
        return len(shape) >= 3 and shape[0] <= 11 and shape[-1] > shape[0]

    @property
    def rows(self) -> int:
        """Outputs as a rule: the first axis; of kernels with the channels last all but the last; of a vector its elements."""
        shape = self.a.shape
        if len(shape) < 2:
            return self.a.size
        return math.prod(shape[:-1]) if self.channels_last else shape[0]

    @property
    def columns(self) -> int:
        """Values of one row; 0 of an empty tensor, 1 of a vector."""
        return self.a.size // max(self.rows, 1)

    @property
    def is_matrix(self) -> bool:
        """Whether both sides are longer than 1, so that rank and directions mean something."""
        return min(self.rows, self.columns) > 1

    @property
    def same_kind(self) -> bool:
        """Whether both have one dtype, so that bits can be compared; else numbers are."""
        return self.a.dtype == self.b.dtype

    @property
    def whole(self) -> bool:
        """Whether both hold whole numbers (no truth values)."""
        return all(t.mantissa is None and t.storage.kind in "iu" and "float" not in t.dtype for t in (self.a, self.b))

    @property
    def mantissa(self) -> int | None:
        """Stored bits of the mantissa of the coarser of the two."""
        known = [t.mantissa for t in (self.a, self.b)]
        return None if None in known else min(m for m in known if m is not None)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows of about a slab."""
        step = max(1, BLOCK // max(self.columns, 1))
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)

    def slabs(self) -> Iterator[Slab]:
        """Both sides, some rows at a time and in order. Of one dtype bits are compared, else numbers, where two NaN are equal; -0 and 0 differ in both."""
        n = self.columns
        for start, stop in self.spans():
            p, q = self.a.raw(start * n, stop * n), self.b.raw(start * n, stop * n)
            x, y = numbers(p, self.a.dtype), numbers(q, self.b.dtype)
            if self.same_kind:
                differs = bits(p) != bits(q) if p.dtype != np.bool_ else p != q
            else:
                differs = ~(((x == y) & (np.signbit(x) == np.signbit(y))) | (np.isnan(x) & np.isnan(y)))
            exact = _exact_change(widen(p, self.a.dtype), widen(q, self.b.dtype), x, y)
            if exact is not None and not self.same_kind:
                differs |= exact != 0
            if self.exponent:
                exact = None if exact is None else np.ldexp(exact, self.exponent)
                x, y = np.ldexp(x, self.exponent), np.ldexp(y, self.exponent)
            shape = (stop - start, n)
            exact = None if exact is None else exact.reshape(shape)
            yield Slab(start, stop, x.reshape(shape), y.reshape(shape), differs.reshape(shape), exact)


def _exact_change(p: NDArray[Any], q: NDArray[Any], x: Doubles, y: Doubles) -> Doubles | None:
    """y - x from the stored numbers, where one of them is whole and too large for float64; None where none is."""
    if not any(side.dtype.kind in "iu" and side.itemsize == 8 for side in (p, q)):
        return None
    large = ((np.abs(x) >= WHOLE) | (np.abs(y) >= WHOLE)) & np.isfinite(x) & np.isfinite(y)
    if not large.any():
        return None
    out = y - x
    out[large] = [int(after) - int(before) for before, after in zip(p[large].tolist(), q[large].tolist())]
    return out

"""The bounded mode: values rounded to a grid so fine that no error exceeds ``tolerance`` x the spread of the tensor in its block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.codecs.patterns import Pattern

CODE_BITS = 32  # codes are int32; a value that needs more sends its chunk to the lossless codec


def error_bound(tolerance: float, std: float) -> float:
    """The largest absolute error allowed to a tensor whose values have standard deviation ``std`` in the block (float64)."""
    return float(tolerance) * float(std)


def grid_step(bound: float, largest: float, pattern: Pattern) -> float:
    """The distance of grid points, or 0.0 when the dtype itself is too coarse for the bound.

    Half a step plus the rounding of a grid point to the dtype stays within the bound: 2 (bound - ulp(largest)).
    """
    if not pattern.is_float or not np.isfinite(bound) or not np.isfinite(largest) or largest == 0:
        return 0.0
    ulp = 2.0 ** (np.floor(np.log2(largest + bound)) - pattern.mantissa)
    step = 2.0 * (bound - ulp)
    return step if step > 0 and largest / step < 2 ** (CODE_BITS - 2) else 0.0


def to_codes(values: NDArray[np.float64], step: np.float64) -> NDArray[np.uint32]:
    """The int32 grid codes, as patterns, of ``values``."""
    return np.rint(values / step).astype(np.int32).view(np.uint32)


def from_codes(
    codes: NDArray[np.uint32], steps: NDArray[np.float64] | np.float64, pattern: Pattern
) -> NDArray[np.unsignedinteger]:
    """The patterns that the codes (T, n) stand for: code x step in float64, rounded once to the dtype.

    Where the step is 0 the code is the pattern itself: an exact column.
    """
    values = pattern.of_numbers(codes.view(np.int32) * steps)
    exact = steps == 0
    if exact.any():
        values[:, exact] = codes[:, exact].astype(pattern.unsigned)
    return values


def within_bound(
    u: NDArray[np.unsignedinteger], restored: NDArray[np.unsignedinteger], bound: float, pattern: Pattern
) -> bool:
    """True when every restored value is within ``bound`` of the true one, compared in float64; NaN never is."""
    error = np.abs(pattern.numbers(restored) - pattern.numbers(u))
    return bool((error <= bound).all())

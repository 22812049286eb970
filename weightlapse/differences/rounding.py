"""Is B nothing but A, rounded to fewer bits (or A nothing but B, rounded)?"""

from __future__ import annotations

import numpy as np

from weightlapse.differences.pair import Pair
from weightlapse.differences.tensor import MANTISSA, Doubles, numbers
from weightlapse.store.small_floats import values_of

FORMATS = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")  # from fine to coarse


def rounded(values: Doubles, dtype: str) -> Doubles:
    """``values`` rounded to the nearest number of ``dtype``, ties to even; eight-bit floats end at their largest number.

    >>> rounded(np.array([1.00390625, 3.3]), "bfloat16").tolist()
    [1.0, 3.296875]
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype in ("float32", "float16"):
            return values.astype(dtype).astype(np.float64)
        if dtype == "bfloat16":
            pattern = values.astype(np.float32).view(np.uint32)
            up = np.uint32(0x7FFF) + ((pattern >> np.uint32(16)) & np.uint32(1))
            return numbers(((pattern + up) >> np.uint32(16)).astype(np.uint16), dtype)
        table = values_of(dtype)[:128].astype(np.float64)
        table = table[np.isfinite(table)]  # pattern i is the ith number, so an even position is an even pattern
        size = np.abs(values)
        middle = (table[1:] + table[:-1]) / 2
        low, high = np.searchsorted(middle, size, "left"), np.searchsorted(middle, size, "right")
        nearest = np.where((low != high) & (low % 2 == 1), high, low)
        return np.copysign(table[nearest], values)


def truncated(values: Doubles) -> Doubles:
    """``values`` cut off to bfloat16."""
    pattern = values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return pattern.view(np.float32).astype(np.float64)


def rounding(pair: Pair) -> str | None:
    """What the rounding was, in words; None where the change is more than that."""
    for exact, kept, words in (
        ("a", "b", "rounded to {}"),
        ("b", "a", "what A holds rounded to {}, in full"),
    ):
        precise = getattr(pair, exact).mantissa
        for dtype in FORMATS:
            if precise is not None and MANTISSA[dtype] < precise and _holds(pair, exact, kept, dtype):
                return words.format(dtype)
        if precise is not None and precise > 7 and _holds(pair, exact, kept, "cut"):
            return words.format("bfloat16 (cut off)")
    if pair.same_kind and pair.mantissa is not None and pair.mantissa >= 23 and _last_place(pair):
        return f"rounded otherwise: never off by more than one unit in the last place of {pair.a.dtype}"
    return None


def _holds(pair: Pair, exact: str, kept: str, dtype: str) -> bool:
    for slab in pair.slabs():
        x, y = (slab.x, slab.y) if exact == "a" else (slab.y, slab.x)
        made = truncated(x) if dtype == "cut" else rounded(x, dtype)
        if not np.array_equal(made, y, equal_nan=True):
            return False
    return True


def _last_place(pair: Pair) -> bool:
    spacing = np.float32 if pair.a.dtype == "float32" else np.float64
    for slab in pair.slabs():
        with np.errstate(invalid="ignore", over="ignore"):
            most = np.spacing(np.maximum(np.abs(slab.x), np.abs(slab.y)).astype(spacing)).astype(np.float64)
            if not ((np.abs(slab.y - slab.x) <= most) | ~slab.differs).all():
                return False
    return True

"""Slow, obvious twins of what the store does fast. Nothing here shares code with it but the names of rules."""

from __future__ import annotations

import math
import struct

import numpy as np

from weightlapse.store.codecs.predict import DAMPED, LAST, LINEAR, MOMENTUM, NONE, SLOPE


def predicted(history: list[int], rule: int, factor: float, dtype: str) -> int:
    """The pattern that a rule predicts after ``history`` (patterns, oldest first), one number at a time in plain Python."""
    bits = {
        "float64": 64,
        "uint64": 64,
        "int64": 64,
        "float32": 32,
        "int32": 32,
        "uint32": 32,
        "bfloat16": 16,
        "float16": 16,
    }.get(dtype, 16 if "16" in dtype else 8)
    mask = (1 << bits) - 1
    u1 = history[-1] if history else 0
    if rule == NONE or not history:
        return 0
    if rule == LAST or len(history) == 1:
        return u1
    u2 = history[-2]

    def signed(u: int) -> int:
        return u - (1 << bits) if u >> (bits - 1) else u

    if rule == LINEAR:
        return (2 * u1 - u2) & mask
    if rule == DAMPED:
        d = signed((u1 - u2) & mask)
        return (u1 + d - (d >> 4)) & mask
    if rule == SLOPE:
        if len(history) < 3:
            return u1
        d = signed((u1 - history[-3]) & mask)
        return (u1 + (d // 2 if d >= 0 else -(-d // 2))) & mask
    assert rule == MOMENTUM
    if dtype == "float64":
        w1, w2 = (struct.unpack("<d", struct.pack("<Q", u))[0] for u in (u1, u2))
        return struct.unpack("<Q", struct.pack("<d", w1 + factor * (w1 - w2)))[0]
    shift = 16 if dtype == "bfloat16" else 0
    w1, w2 = (np.float32(struct.unpack("<f", struct.pack("<I", u << shift))[0]) for u in (u1, u2))
    p = np.float32(w1 + np.float32(np.float32(factor) * np.float32(w1 - w2)))
    pattern = struct.unpack("<I", struct.pack("<f", float(p)))[0]
    if dtype == "bfloat16":
        low, high = pattern & 0xFFFF, pattern >> 16
        return high + (1 if low > 0x8000 or (low == 0x8000 and high & 1) else 0)
    return pattern


def residuals(u: np.ndarray, rule: int, factor: float, dtype: str) -> np.ndarray:
    out = np.empty_like(u)
    mask = (1 << (8 * u.itemsize)) - 1
    for j in range(u.shape[1]):
        column = [int(x) for x in u[:, j]]
        for t, value in enumerate(column):
            out[t, j] = (value - predicted(column[:t], rule, factor, dtype)) & mask
    return out


def flat_elements(shape: tuple[int, ...], region: tuple[slice, ...], lanes: int = 1) -> list[int]:
    """The C-order numbers of a region's elements, by asking NumPy."""
    numbers = np.arange(math.prod(shape)).reshape(shape)[region]
    return [int(k) * lanes + lane for k in numbers.ravel() for lane in range(lanes)]


def deviation(values: np.ndarray) -> float:
    """Population standard deviation of the finite values, in exact rational sums."""
    finite = [float(x) for x in values.ravel() if math.isfinite(x)]
    if not finite:
        return 0.0
    mean = math.fsum(finite) / len(finite)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in finite) / len(finite))

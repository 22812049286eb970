"""Numbers of docs/format.md at their boundaries: one step inside is done, one step outside is not. The numbers are read from the page."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weightlapse.store.codecs.encode import encode
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.codecs.predict import MOMENTUM, within_momentum_range

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "format.md").read_text(encoding="utf-8")
UNSIGNED = {"float32": np.uint32, "float64": np.uint64, "bfloat16": np.uint16}


def momentum_range(dtype: str) -> tuple[int, int]:
    """The exponents of two between which rule 3 may be used, as the page has them."""
    found = re.search(r"magnitude in \[2\^(−\d+), 2\^(\d+)\) \(float64: \[2\^(−\d+), 2\^(\d+)\)\)", PAGE)
    assert found is not None
    numbers = [int(n.replace("−", "-")) for n in found.groups()]
    return (numbers[2], numbers[3]) if dtype == "float64" else (numbers[0], numbers[1])


def pattern_of(value: float, dtype: str) -> int:
    """The bits of a power of two (or another number that every one of these formats holds)."""
    if dtype == "float64":
        return struct.unpack("<Q", struct.pack("<d", value))[0]
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return bits >> 16 if dtype == "bfloat16" else bits


def boundary(dtype: str) -> list[tuple[str, int, bool]]:
    """(what, pattern, whether rule 3 may be used with it), of both signs."""
    low, high = momentum_range(dtype)
    least, most = pattern_of(2.0**low, dtype), pattern_of(2.0**high, dtype)
    infinite = pattern_of(float("inf"), dtype)
    sign = 1 << (PATTERNS[dtype].bits - 1)
    cases = [
        ("zero", 0, True), ("the least", least, True), ("below the least", least - 1, False), ("half of the least", pattern_of(2.0 ** (low - 1), dtype), False),
        ("twice the least", pattern_of(2.0 ** (low + 1), dtype), True), ("the smallest subnormal", 1, False), ("below the most", most - 1, True),
        ("the most", most, False), ("half of the most", pattern_of(2.0 ** (high - 1), dtype), True), ("twice the most", pattern_of(2.0 ** (high + 1), dtype), False),
        ("the largest number", infinite - 1, False), ("infinity", infinite, False), ("NaN", infinite + 1, False), ("one", pattern_of(1.0, dtype), True),
    ]  # fmt: skip
    return [
        (f"{word}{what}", pattern | bit, may)
        for what, pattern, may in cases
        for word, bit in (("", 0), ("minus ", sign))
    ]


@pytest.mark.parametrize("dtype", UNSIGNED)
def test_the_range_of_momentum(dtype: str) -> None:
    kind = UNSIGNED[dtype]
    usual = pattern_of(1.0, dtype)
    for what, pattern, may in boundary(dtype):
        for place in range(3):
            u = np.full((3, 1), usual, kind)
            u[place] = pattern
            assert within_momentum_range(u, PATTERNS[dtype]) is may, (what, place)
            assert within_momentum_range(np.full((2, 2), pattern, kind), PATTERNS[dtype]) is may, what
    assert within_momentum_range(np.zeros((0, 4), kind), PATTERNS[dtype])


def moving(dtype: str) -> np.ndarray[Any, Any]:
    """Weights that momentum moves, each step 0.9 times the last: what rule 3 is for. (bfloat16 has too few digits to be moved so.)"""
    rng = np.random.default_rng(0)
    wide = np.float64 if dtype == "float64" else np.float32
    w, speed = rng.uniform(1, 2, 300).astype(wide), rng.normal(0, 1e-3, 300).astype(wide)
    rows = [w]
    for _ in range(40):
        speed = (speed * wide(0.9)).astype(wide)
        rows.append((rows[-1] + speed).astype(wide))
    return np.stack(rows).view(UNSIGNED[dtype])


def rule_of(chunk: bytes) -> int:
    found = re.search(r"\| (\d+) \| 1 \| rule of the predictor \|", PAGE)
    assert found is not None
    return chunk[int(found[1])]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_writer_uses_momentum_within_its_range_alone(dtype: str, compiled: bool) -> None:
    u = moving(dtype)
    assert rule_of(encode(u, dtype, compiled=compiled)) == MOMENTUM, "or nothing is tested"
    for what, pattern, may in boundary(dtype):
        spoilt = u.copy()
        spoilt[20, 7] = pattern
        assert (rule_of(encode(spoilt, dtype, compiled=compiled)) == MOMENTUM) is may, what


def test_no_other_dtype_has_momentum() -> None:
    for dtype, pattern in PATTERNS.items():
        if dtype not in UNSIGNED:
            assert not within_momentum_range(np.ones((3, 3), pattern.unsigned), pattern), dtype


@pytest.mark.parametrize("dtype", UNSIGNED)
@pytest.mark.parametrize("factor", [0.9, 0.95, 1.0])
def test_no_prediction_within_the_range_is_odd(dtype: str, factor: float) -> None:
    """Why the page has these numbers: between the extremes of the range nothing is infinite, NaN or subnormal, in any of the three roundings."""
    low, high = momentum_range(dtype)
    wide = np.float64 if dtype == "float64" else np.float32
    ends = [
        2.0**low,
        2.0**low * (1 + 2.0**-7),
        2.0 ** (low + 1),
        1.0,
        2.0 ** (high - 1),
        2.0**high * (1 - 2.0**-8),
        0.0,
    ]
    values = np.array([s * v for v in ends for s in (1, -1)], wide)
    one, two = (x.ravel() for x in np.meshgrid(values, values))
    with np.errstate(all="raise"):
        difference = one - two
        product = difference * wide(factor)
        predicted = product + one
    tiny = np.finfo(wide).tiny
    for x in (difference, product, predicted):
        assert np.isfinite(x).all()
        assert (np.abs(x)[x != 0] >= tiny).all()

"""What the codecs decide, held against counting on fingers: whole numbers of Python, loops, definitions. Small and quick: `make mutate` runs it for every mutant."""

from __future__ import annotations

import itertools
import math
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from weightlapse.errors import DamagedRecording, InvalidArgument
from weightlapse.store.codecs import classes, cutting, encode, grid
from weightlapse.store.codecs import predict as p
from weightlapse.store.codecs.decode import Chunk
from weightlapse.store.codecs.entropy import FILE_HEADER, PageReader, PageWriter
from weightlapse.store.codecs.form import ENTRY, HEAD, MAGIC, PAGE, Columns, Shape, _first_groups, _ranks, tiles
from weightlapse.store.codecs.patterns import BY_CODE, PATTERNS, Pattern

RULES = (p.NONE, p.LAST, p.LINEAR, p.DAMPED, p.SLOPE)
DTYPES = ("uint8", "float16", "float32", "float64")


def odd(dtype: str, rows: int, columns: int = 6, seed: int = 0) -> Any:
    """Patterns that go through all corners: the ends of the range, halves, neighbours, and noise."""
    pattern = PATTERNS[dtype]
    rng = np.random.default_rng(seed)
    most = (1 << pattern.bits) - 1
    corners = np.array([0, 1, 2, 16, 17, most, most - 1, most >> 1, (most >> 1) + 1, most >> 4], dtype=np.uint64)
    picked = np.where(
        rng.random((rows, columns)) < 0.6,
        rng.choice(corners, (rows, columns)),
        rng.integers(0, most, (rows, columns), np.uint64, True),
    )
    return picked.astype(pattern.unsigned)


# ---- predictors ------------------------------------------------------------------------------------------------------------


def signed(x: int, bits: int) -> int:
    x %= 1 << bits
    return x - (1 << bits) if x >> (bits - 1) else x


def prediction(rule: int, before: list[int], bits: int) -> int:
    """What the page says, in whole numbers; ``before`` are the rows before, the newest last."""
    if not before or rule == p.NONE:
        return 0
    if len(before) == 1 or rule == p.LAST:
        return before[-1]
    u1, u2 = before[-1], before[-2]
    if rule == p.LINEAR:
        return 2 * u1 - u2
    if rule == p.DAMPED:
        d = signed(u1 - u2, bits)
        return u1 + d - math.floor(Fraction(d, 16))
    if len(before) == 2:
        return u1
    d = signed(u1 - before[-3], bits)
    return u1 + (abs(d) // 2 if d > 0 else -(abs(d) // 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_rules_are_those_of_whole_numbers(dtype: str, rule: int) -> None:
    bits = PATTERNS[dtype].bits
    for rows in (1, 2, 3, 4, 7):
        u = odd(dtype, rows, seed=rows)
        r = p.residuals(u, PATTERNS[dtype], p.Predictor(rule))
        for t, j in itertools.product(range(rows), range(u.shape[1])):
            expected = int(u[t, j]) - prediction(rule, [int(x) for x in u[:t, j]], bits)
            assert int(r[t, j]) == expected % (1 << bits), (rows, t, j)
        for start in range(1, rows + 1):
            mixed = np.concatenate([u[:start], r[start:]])
            p.restore(mixed, PATTERNS[dtype], p.Predictor(rule), start)
            assert np.array_equal(mixed, u), start


def test_the_rules_have_the_numbers_of_the_page() -> None:
    assert (p.NONE, p.LAST, p.LINEAR, p.MOMENTUM, p.DAMPED, p.SLOPE) == (0, 1, 2, 3, 4, 5)
    assert p.Predictor(p.LAST).factor == 0.0
    assert [(c.rule, c.factor) for c in p.LOSSLESS_CHOICES] == [(1, 0.0), (2, 0.0), (3, 0.9), (3, 0.95), (3, 1.0)]
    assert [(c.rule, c.factor) for c in p.GRID_CHOICES] == [(1, 0.0), (5, 0.0), (4, 0.0), (2, 0.0)]


def value(pattern: int, dtype: str) -> Any:
    if dtype == "bfloat16":
        return np.array([pattern << 16], np.uint32).view(np.float32)[0]
    return np.array([pattern], PATTERNS[dtype].unsigned).view(dtype)[0]


def narrowed(x: Any) -> int:
    """A float32 as the nearest bfloat16 pattern, ties to even."""
    wide = int(np.array([x], np.float32).view(np.uint32)[0])
    low, kept = wide & 0xFFFF, wide >> 16
    return (kept + (low > 0x8000 or (low == 0x8000 and kept % 2 == 1))) & 0xFFFF


def moving(dtype: str, rows: int) -> Any:
    rng = np.random.default_rng(4)
    wide = np.float64 if dtype == "float64" else np.float32
    w = (rng.normal(0, 1, (rows, 5)) * 10.0 ** rng.integers(-3, 3, 5)).astype(wide)
    w[:, 0] = np.where(np.arange(rows) % 2, 1.0, 1 + 2.0**-7)  # of bfloat16: predictions that lie half-way
    return PATTERNS[dtype].of_numbers(w.astype(np.float64)) if dtype == "bfloat16" else w.view(PATTERNS[dtype].unsigned)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("factor", [0.9, 0.95, 1.0])
def test_momentum_is_three_roundings(dtype: str, factor: float) -> None:
    u, bits = moving(dtype, 9), PATTERNS[dtype].bits
    wide = np.float64 if dtype == "float64" else np.float32
    r = p.residuals(u, PATTERNS[dtype], p.Predictor(p.MOMENTUM, factor))
    for t, j in itertools.product(range(9), range(5)):
        before = [int(x) for x in u[:t, j]]
        expected = 0 if t == 0 else before[-1]
        if t >= 2:
            w1, w2 = value(before[-1], dtype), value(before[-2], dtype)
            predicted = wide(wide(wide(w1 - w2) * wide(factor)) + w1)
            expected = (
                narrowed(predicted)
                if dtype == "bfloat16"
                else int(np.array([predicted]).view(PATTERNS[dtype].unsigned)[0])
            )
        assert int(r[t, j]) == (int(u[t, j]) - expected) % (1 << bits), (t, j)
    for start, factors in itertools.product(range(1, 10), (None, np.full(5, factor))):
        mixed = np.concatenate([u[:start], r[start:]])
        p.restore(mixed, PATTERNS[dtype], p.Predictor(p.MOMENTUM, factor if factors is None else 0.0), start, factors)
        assert np.array_equal(mixed, u), start
    if dtype != "bfloat16" and factor == 0.9:
        other = p.residuals(u, PATTERNS[dtype], p.Predictor(p.MOMENTUM, 0.95))
        assert not np.array_equal(other, r), "or the factor is not looked at"


def test_float_dtypes() -> None:
    assert p.float_dtype(PATTERNS["float64"]) is np.float64
    assert p.float_dtype(PATTERNS["float32"]) is p.float_dtype(PATTERNS["bfloat16"]) is np.float32


def test_bit_lengths_are_those_of_python() -> None:
    numbers = [0, 1, -1, 2, 3, -3, 4, 127, -128, 255, 256, -(1 << 31)]
    found = p.bit_lengths(np.array(numbers, np.int32).view(np.uint32))
    assert found.tolist() == [abs(n).bit_length() for n in numbers]


def slow_cost(numbers: list[int]) -> float:
    lengths = [abs(n).bit_length() for n in numbers]
    shares = [lengths.count(k) / len(numbers) for k in set(lengths)]
    entropy = -sum(s * math.log2(s) for s in shares)
    return entropy + sum(max(k - 1, 0) + (k > 0) for k in lengths) / len(numbers)


@pytest.mark.parametrize("numbers", [[0, 0, 0], [1, 1], [0, 1, -1, 5, 9], [0, 0, 0, 100], [-7, 8, 8, -20000]])
def test_the_cost_is_entropy_and_what_lies_below_the_leading_bit(numbers: list[int]) -> None:
    assert p.cost(np.array(numbers, np.int32).view(np.uint32)) == pytest.approx(slow_cost(numbers), abs=1e-12)
    assert p.cost(np.empty((0, 3), np.uint32)) == 0.0


def test_short_chunks_have_no_choice() -> None:
    u = odd("int32", 2)
    assert p.choose(u[:1], PATTERNS["int32"], p.GRID_CHOICES) == p.Predictor(p.NONE)
    assert p.choose(u[:0], PATTERNS["int32"], p.GRID_CHOICES) == p.Predictor(p.NONE)
    assert p.choose(u, PATTERNS["int32"], p.GRID_CHOICES) == p.Predictor(p.LAST)
    line = np.arange(3, dtype=np.uint32)[:, None] * np.array([1000, 7000], np.uint32)
    assert p.choose(line, PATTERNS["int32"], p.GRID_CHOICES) == p.Predictor(p.LINEAR)


@pytest.mark.parametrize("n", [1, 5, 128, 129, 200, 1000])
def test_the_cheapest_rule_of_a_sample_is_chosen(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(p, "residuals", lambda u, pattern, c: seen.append(u[0]) or np.full_like(u, c.rule))
    monkeypatch.setattr(p, "cost", lambda r: {1: 3.0, 2: 1.0, 4: 2.0, 5: 1.5}[int(r[0, 0])])
    u = np.tile(np.arange(n, dtype=np.uint32), (4, 1))
    assert p.choose(u, PATTERNS["int32"], p.GRID_CHOICES).rule == p.LINEAR
    at = seen[0].astype(int)
    assert len(at) == min(n, 128)
    assert (np.diff(at) >= 1).all()
    assert at.min() >= 0
    assert at.max() < n
    gap = n / len(at)
    inside = at - np.arange(len(at)) * gap
    assert ((inside > -1) & (inside < gap)).all(), "one in each stretch of equal length"
    if n <= 128:
        assert at.tolist() == list(range(n))
    if n == 1000:
        assert np.ptp(inside) > 0.8 * (gap - 1), "on no lattice"
        assert at[:8].tolist() == [int(k * gap + k * 0.618034 % 1 * (gap - 1)) for k in range(8)]


def test_what_costs_is_what_follows_the_first_two_rows() -> None:
    u = np.array([[5, 9], [1 << 20, 3], [1 << 20, 3], [1 << 20, 3]], np.uint32)  # a jump at first, then nothing moves
    assert p.choose(u, PATTERNS["int32"], (p.Predictor(p.LINEAR), p.Predictor(p.LAST))).rule == p.LAST


# ---- patterns ---------------------------------------------------------------------------------------------------------------


def test_every_pattern() -> None:
    table = {q.name: (q.code, q.bits, q.mantissa) for q in PATTERNS.values()}
    assert table == {
        "float32": (1, 32, 23), "float64": (2, 64, 52), "float16": (3, 16, 10), "bfloat16": (4, 16, 7), "int8": (5, 8, 0), "int16": (6, 16, 0),
        "int32": (7, 32, 0), "int64": (8, 64, 0), "uint8": (9, 8, 0), "uint16": (10, 16, 0), "uint32": (11, 32, 0), "uint64": (12, 64, 0), "bool": (13, 8, 0),
    }  # fmt: skip
    assert {code: q.name for code, q in BY_CODE.items()} == {code: name for name, (code, _, _) in table.items()}
    for q in PATTERNS.values():
        assert (q.nbytes, q.is_float) == (q.bits // 8, "float" in q.name)
        assert (q.unsigned.str.lstrip("<|"), q.signed.str.lstrip("<|")) == (f"u{q.nbytes}", f"i{q.nbytes}")


def test_patterns_are_numbers_and_back() -> None:
    for name in ("float16", "float32", "float64", "bfloat16"):
        q = PATTERNS[name]
        numbers = np.array([0.0, -0.0, 1.0, -1.5, 0.25, np.inf, 2.0**-14])
        assert np.array_equal(q.numbers(q.of_numbers(numbers)), numbers), name
    assert PATTERNS["bfloat16"].numbers(np.array([0x3F80, 0xC000], np.uint16)).tolist() == [1.0, -2.0]
    assert PATTERNS["bool"].numbers(np.array([0, 1], np.uint8)).tolist() == [0.0, 1.0]
    assert PATTERNS["int8"].numbers(np.array([255], np.uint8)).tolist() == [-1.0]
    halves = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20, 1 + 2.0**-9])  # ties, just above, below
    assert PATTERNS["bfloat16"].of_numbers(halves).tolist() == [narrowed(np.float32(x)) for x in halves]
    with pytest.raises(InvalidArgument, match="no order"):
        Pattern("complex64", 99, 64).numbers(np.zeros(1, np.uint64))


# ---- the grid ----------------------------------------------------------------------------------------------------------------


def ulp(x: float, mantissa: int) -> Fraction:
    return Fraction(2) ** (math.frexp(x)[1] - 1 - mantissa)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("largest", [0.75, 1.0, 3.999, 1000.0])
def test_the_step_is_twice_the_bound_less_one_place(dtype: str, largest: float) -> None:
    q = PATTERNS[dtype]
    for share in (0.01, 0.3):
        bound = grid.error_bound(share, largest)
        assert bound == share * largest
        place = ulp(largest + bound, q.mantissa)
        expected = 2 * (Fraction(bound) - place)
        found = grid.grid_step(bound, largest, q)
        assert found == (pytest.approx(float(expected), rel=1e-12) if expected > 0 else 0.0)


def test_where_there_is_no_step() -> None:
    q = PATTERNS["float32"]
    place = 2.0**-23
    assert grid.grid_step(place, 1.0, q) == 0.0
    assert grid.grid_step(place * 1.01, 1.0, q) > 0
    assert (
        grid.grid_step(0.1, 0.0, q)
        == grid.grid_step(0.1, np.inf, q)
        == grid.grid_step(np.nan, 1.0, q)
        == grid.grid_step(0.1, np.nan, q)
        == 0.0
    )
    assert grid.grid_step(0.1, 1.0, PATTERNS["int32"]) == 0.0
    wide = PATTERNS["float64"]
    for largest, there in ((2.0**30, False), (np.nextafter(2.0**30, 0), True), (2.0**29, True), (2.0**31, False)):
        bound = 0.5 + float(ulp(2.0**30 if largest < 2.0**31 else largest, 52))
        step = grid.grid_step(bound, largest, wide)
        assert bool(step > 0) is there, "codes of 31 bits and sign: largest / step < 2^30"
    half = 0.25 + float(ulp(2.0**29, 52))  # of steps of a half: twice as many codes
    assert grid.grid_step(half, 2.0**29, wide) == 0.0
    assert grid.grid_step(half, 2.0**28, wide) > 0
    assert grid.CODE_BITS == 32


def test_codes_and_values() -> None:
    q = PATTERNS["float32"]
    codes = grid.to_codes(np.array([0.0, 0.24, 0.26, -0.76, 0.25, 0.75]), np.float64(0.5))
    assert codes.view(np.int32).tolist() == [0, 0, 1, -2, 0, 2]
    back = grid.from_codes(np.array([[2, 0x3F800000], [0xFFFFFFFF, 7]], np.uint32), np.array([0.5, 0.0]), q)
    assert back[:, 0].view(np.float32).tolist() == [1.0, -0.5]
    assert back[:, 1].tolist() == [0x3F800000, 7]


def test_the_bound_holds_at_the_bound() -> None:
    q = PATTERNS["float64"]
    one = np.array([1.0]).view(np.uint64)
    for other, ok in (
        (1.5, True),
        (0.5, True),
        (np.nextafter(1.5, 2), False),
        (0.5 - 2.0**-52, False),
        (np.nan, False),
    ):
        assert grid.within_bound(one, np.array([other]).view(np.uint64), 0.5, q) is ok
    both = np.array([1.0, 1.0]).view(np.uint64)
    assert not grid.within_bound(both, np.array([1.0, 2.0]).view(np.uint64), 0.5, q)


@pytest.mark.parametrize("row", [0, 31, 32, 39])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_one_value_makes_its_tensor_exact_wherever_it_stands(row: int, bad: float) -> None:
    rng = np.random.default_rng(0)
    w = np.cumsum(rng.normal(0, 0.01, (40, 20)), axis=0).astype(np.float32)
    w[row, 3] = bad
    chunk = encode.encode_bounded(w.view(np.uint32), "float32", [10, 10], [0.01, 0.01], Shape(8, 8))
    assert chunk is not None
    found = Chunk(chunk).read().view(np.float32)
    assert np.array_equal(found[:, :10], w[:, :10], equal_nan=True)
    assert (np.abs(found[:, 10:].astype(np.float64) - w[:, 10:]) <= 0.01).all()
    assert not np.array_equal(found[:, 10:], w[:, 10:])


# ---- classes -----------------------------------------------------------------------------------------------------------------


def slow_magnitudes(r: Any, spans: list[tuple[int, int]]) -> list[list[float]]:
    bits = r.dtype.itemsize * 8
    most = 2.0 ** (bits - 4)
    return [
        [sum(min(abs(float(signed(int(x), bits))), most) for x in r[a:b, j]) / (b - a) for j in range(r.shape[1])]
        for a, b in spans
    ]


@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
def test_magnitudes_are_means(dtype: str) -> None:
    r = odd(dtype, 8, 5)
    spans = [(1, 4), (4, 8)]
    assert np.allclose(classes.magnitudes(r, spans), slow_magnitudes(r, spans), rtol=1e-6)


def slow_merged(octaves: list[int], weights: list[float], smallest: float) -> list[int]:
    """Neighbouring octaves join, the lightest first and with its lighter neighbour (the lower one of equal), until all are heavy enough and few enough."""
    groups = [({o}, sum(w for x, w in zip(octaves, weights) if x == o)) for o in sorted(set(octaves))]
    while len(groups) > 1 and (len(groups) > 16 or min(w for _, w in groups) < smallest):
        i = min(range(len(groups)), key=lambda k: groups[k][1])
        near = [k for k in (i - 1, i + 1) if 0 <= k < len(groups)]
        j = min(near, key=lambda k: (groups[k][1], k))
        a, b = sorted((i, j))
        groups[a : b + 1] = [(groups[a][0] | groups[b][0], groups[a][1] + groups[b][1])]
    return [next(k for k, (members, _) in enumerate(groups) if o in members) for o in octaves]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("smallest", [1, 3, 4, 100])
def test_octaves_merge_until_each_is_heavy_enough(seed: int, smallest: int) -> None:
    rng = np.random.default_rng(seed)
    octaves = rng.integers(-4, 20 if seed % 2 else 3, 40)
    assert classes._merged(octaves, None, smallest).tolist() == slow_merged(octaves.tolist(), [1.0] * 40, smallest)
    weights = rng.integers(1, 9, 40).astype(float)
    assert classes._merged(octaves, weights, smallest).tolist() == slow_merged(
        octaves.tolist(), weights.tolist(), smallest
    )


def test_no_more_than_sixteen_classes() -> None:
    assert classes.MAX_CLASSES == 16
    assert int(classes._merged(np.repeat(np.arange(16), 3), None, 1).max()) == 15
    assert int(classes._merged(np.repeat(np.arange(17), 3), None, 1).max()) == 15


@pytest.mark.parametrize("seed", range(4))
def test_columns_go_by_their_size_beside_what_is_usual_at_the_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = 2.0 ** rng.integers(-2, 9, 30)[None] * np.array([[1.0], [100.0], [0.0]]) * rng.uniform(0.9, 1.1, (3, 30))
    usual = [sum(row) / 30 + 2.0**-20 for row in size.tolist()]
    octaves = [
        round(math.log2(sum(size[i, j] / usual[i] for i in range(3)) / 3 * (sum(usual) / 3) + 2.0**-10))
        for j in range(30)
    ]
    assert classes.assign(size, 4).tolist() == slow_merged(octaves, [1.0] * 30, 4)
    assert classes.assign(size[:0], 4).tolist() == [0] * 30
    assert classes.assign(size[:, :0], 4).shape == (0,)


def test_octaves_are_powers_of_two_and_nothing_is_one_too() -> None:
    assert classes._octaves(np.array([0.0, 2.0**-10, 1.0, 1.4, 1.42, 3.0])).tolist() == [-10, -9, 0, 0, 1, 2]


@pytest.mark.parametrize("usual", [1000.0, 1024.0, 1200.0, 1400.0])
def test_what_is_usual_is_never_nothing(usual: float) -> None:
    """One column moves by next to nothing while no other moves at all: beside 2^-20, which is usual at the least."""
    size = np.zeros((2, 8))
    size[0, 0], size[1] = 8 * 2.0**-20, usual
    beside = [8 * 2.0**-20 / (2 * 2.0**-20), 0.0]
    mean = (2 * 2.0**-20 + usual + 2.0**-20) / 2
    octaves = [
        round(math.log2((x + usual / (usual + 2.0**-20)) / 2 * mean + 2.0**-10)) for x in (beside[0], *[0.0] * 7)
    ]
    assert classes.assign(size, 1).tolist() == [int(o > octaves[1]) for o in octaves]
    assert (
        classes._octaves((size / (size.mean(axis=1, keepdims=True) + 2.0**-20)).mean(axis=0) * mean).tolist() == octaves
    )


@pytest.mark.parametrize(("moves", "label"), [(1.1, 0), (1.2, 1)])
def test_the_least_that_is_usual(moves: float, label: int) -> None:
    """Beside 2^-20 and the mean of eight, c 2^-20 is c / (c / 8 + 1): from one on, at 8/7, the column is another octave than those at the foot of theirs."""
    size = np.zeros((2, 8))
    size[0, 0], size[1] = moves * 2.0**-20, 4 * 2.0**7.51
    assert classes.assign(size, 1).tolist() == [label, 0, 0, 0, 0, 0, 0, 0]


def test_cells_of_a_size_share_a_histogram() -> None:
    label = np.array([0, 0, 0, 1, 1], np.uint8)
    size = np.array([[1, 1, 4, 64, 64], [1000, 1000, 1000, 1000, 1000], [2, 2, 2, 64, 64]], np.float64)
    heights = np.array([2000, 3000, 2000])
    weights = [2000 * 3, 2000 * 2, 3000 * 3, 3000 * 2, 2000 * 3, 2000 * 2]
    octaves = [round(math.log2(x + 2.0**-10)) for x in (2, 64, 1000, 1000, 2, 64)]
    found = classes.streams(size, label, heights)
    assert found.shape == (3, 2)
    assert found.ravel().tolist() == slow_merged(octaves, [float(w) for w in weights], 4096)
    assert len(set(found.ravel().tolist())) == 3
    few = classes.streams(size, label, np.array([200, 300, 200]))
    assert few.ravel().tolist() == slow_merged(octaves, [w / 10 for w in weights], 4096)
    assert classes.SMALLEST_STREAM == 4096


# ---- entropy -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_pages_are_read_alone(dtype: Any) -> None:
    numbers = np.arange(700, dtype=np.uint64).astype(dtype)
    writer = PageWriter(numbers, [300, 400])
    reader = PageReader(writer.meta, np.dtype(dtype), FILE_HEADER)
    assert np.array_equal(reader.read(writer.pages[1], 400), numbers[300:])
    assert reader.read(writer.pages[1], 400).dtype == dtype
    out = np.zeros(300, dtype)
    reader.read_into(writer.pages[0], out)
    assert np.array_equal(out, numbers[:300])
    for page, count in ((writer.pages[0][:-3], 300), (b"", 300), (writer.pages[0], 400)):
        with pytest.raises(DamagedRecording):
            reader.read(page, count)
    with pytest.raises(DamagedRecording, match="ends after"):
        PageReader(writer.meta + b"\0", np.dtype(dtype), FILE_HEADER)
    with pytest.raises(DamagedRecording):
        PageReader(b"", np.dtype(dtype), FILE_HEADER)


# ---- the cutting ----------------------------------------------------------------------------------------------------------------


def slow_cut(tensors: list[tuple[str, int, int]], most: int) -> list[list[tuple[int, int, int]]]:
    """One chunk after the other, as the words say."""
    own, shared, opened = [], [], {}
    for i, (dtype, size, row) in enumerate(tensors):
        if size > most // 2:
            count = math.ceil(size / most)
            length = math.ceil(size / count)
            if 1 < row <= most:
                rows = min(math.ceil(length / row), most // row)
                length = rows * row
            own += [[(i, a, min(a + length, size))] for a in range(0, size, length)]
        elif size:
            if sum(b - a for _, a, b in opened.get(dtype, [])) + size > most:
                shared.append(opened.pop(dtype))
            opened.setdefault(dtype, []).append((i, 0, size))
    return sorted([*own, *shared, *opened.values()], key=lambda chunk: chunk[0][:2])


def test_chunks_are_cut_as_the_words_say() -> None:
    for most in (8, 9):
        for size, row in itertools.product(range(40), (1, 2, 3, 5, 8, 9, 10)):
            tensors = [("a", 3, 3), ("a", size, row), ("b", 4, 2), ("a", 2, 1), ("a", 4, 1), ("b", 5, 1)]
            found = cutting.cut(tensors, lambda _, most=most: most)
            assert [[(c.tensor, c.start, c.stop) for c in chunk] for chunk in found] == slow_cut(tensors, most), (
                most,
                size,
                row,
            )
            assert all(sum(c.stop - c.start for c in chunk) <= most for chunk in found)
    assert cutting.CHUNK == 16384
    assert cutting.MIN_CHUNK == 512
    assert [len(c) for c in cutting.cut([("a", 16384, 1)])] == [1]
    assert len(cutting.cut([("a", 16385, 1)])) == 2


# ---- the form ----------------------------------------------------------------------------------------------------------------


def test_sizes_of_the_form() -> None:
    assert (HEAD.size, ENTRY.itemsize, PAGE.itemsize, MAGIC) == (50, 20, 8, b"WLCK")
    assert Shape() == Shape(2048, 16)


@pytest.mark.parametrize("height", [1, 2, 3, 8])
def test_tiles_are_cut_at_multiples_without_row_nought(height: int) -> None:
    for rows in range(12):
        found = tiles(rows, height)
        by_row = [t // height for t in range(1, rows)]
        assert [list(range(a, b)) for a, b in found] == [
            [t for t in range(1, rows) if t // height == k] for k in sorted(set(by_row))
        ], rows


@pytest.mark.parametrize("strip", [1, 3, 4, 50])
@pytest.mark.parametrize("count", [1, 3])
def test_columns_lie_by_strip_class_and_number(strip: int, count: int) -> None:
    rng = np.random.default_rng(strip)
    n = 23
    label = rng.integers(0, count, n).astype(np.uint8)
    columns = Columns(n, strip, label, count)
    expected = sorted(range(n), key=lambda j: (j // strip, label[j], j))
    number = [j // strip * columns.classes + int(label[j]) for j in range(n)]
    for counted in (False, True):  # group by group, and from what was counted for all
        for g in range(len(columns.strips) * columns.classes):
            assert columns.width(g) == number.count(g)
            assert columns.within(g) == sum(h // columns.classes == g // columns.classes and h < g for h in number)
        assert counted or (columns.widths and columns.starts)
    assert columns.filled == [
        [number.count(k * columns.classes + c) > 0 for c in range(columns.classes)] for k in range(len(columns.strips))
    ]
    assert columns.order().tolist() == expected
    number = [j // strip * columns.classes + int(label[j]) for j in range(n)]
    assert columns.groups(np.arange(n)).tolist() == number
    assert columns.widths == [number.count(g) for g in range(len(columns.strips) * columns.classes)]
    assert columns.starts == [sum(columns.widths[:g]) for g in range(len(columns.widths) + 1)]
    assert columns.strips == [(a, min(a + strip, n)) for a in range(0, n, strip)]
    given = Columns(n, strip, label, count, columns.widths)
    assert (given.widths, given.starts, given.classes) == (columns.widths, columns.starts, count)
    for some in ([4], [0, 22], [5, 1, 9], list(range(n)), list(range(n))[::-1], [number.index(number[7])]):
        wanted = sorted({number[j] for j in some})
        laid = [j for g in wanted for j in expected if number[j] == g]
        assert columns.places(np.array(some), wanted).tolist() == [laid.index(j) for j in some], some


def test_what_chunks_share_cannot_be_written() -> None:
    shared = _first_groups(5, 2, 3)
    assert shared.tolist() == [0, 0, 3, 3, 6]
    with pytest.raises(ValueError, match="read-only"):
        shared[0] = 1


def test_classes_are_as_many_as_labels() -> None:
    assert Columns(3, 2, np.array([0, 4, 1], np.uint8), 2).classes == 5
    assert Columns(3, 2, np.zeros(3, np.uint8), 2).classes == 2


@pytest.mark.parametrize("count", [1, 2, 8, 9, 30])
def test_ranks_are_counts(count: int) -> None:
    rng = np.random.default_rng(count)
    mask, at = rng.random(60) < 0.5, rng.permutation(60)[:count]
    at = at[mask[at]] if count == 30 else np.flatnonzero(mask)[rng.permutation(int(mask.sum()))[:count]]
    assert _ranks(mask, at).tolist() == [sum(mask[:k].tolist()) for k in at]


# ---- encoding ----------------------------------------------------------------------------------------------------------------


def test_packed_only_where_it_is_smaller() -> None:
    noise = np.random.default_rng(0).integers(0, 1 << 32, (8, 50), np.uint64).astype(np.uint32)
    still = np.zeros((8, 50), np.uint32)
    shape = Shape(16, 4)
    plain, packed = encode.encode(noise, "uint32", shape), encode.encode(still, "uint32", shape)
    assert (plain[29], packed[29]) == (0, 1)
    assert len(plain) == HEAD.size + noise.nbytes + 8 * 4, "four strips: four pages"
    assert len(packed) < len(plain)
    assert encode.encode(noise[:, :0], "uint32", shape)[29] == 0


def test_packed_that_is_no_smaller_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    u = odd("uint32", 4, 10)
    size = len(encode._plain(u, PATTERNS["uint32"], Shape(3, 4)))
    for more, form in ((-1, 1), (0, 0), (1, 0)):
        monkeypatch.setattr(encode, "_pack", lambda *_, more=more: b"\1" * (size + more))
        assert encode.encode(u, "uint32", Shape(3, 4))[29] == form


def test_what_cannot_be_on_a_grid() -> None:
    w = np.linspace(0, 1, 40).reshape(10, 4)
    assert encode.encode_bounded(np.zeros((0, 4), np.uint32), "float32", [4], [0.1]) is None
    assert encode.encode_bounded(w.astype(np.int32).view(np.uint32), "int32", [4], [0.1]) is None
    assert encode.encode_bounded(w.astype(np.float32).view(np.uint32), "float32", [2, 2], [0.0, 0.0]) is None
    one = encode.encode_bounded(w.astype(np.float32).view(np.uint32), "float32", [2, 2], [0.1, 0.0])
    assert one is not None
    assert one[29] == 2
    # float64 patterns do not fit into codes: one exact tensor makes the chunk exact; one without values does not
    wide = w.view(np.uint64)
    assert encode.encode_bounded(wide, "float64", [2, 2], [0.1, 0.0]) is None
    assert encode.encode_bounded(wide, "float64", [2, 0, 2], [0.1, 0.0, 0.1]) is not None


def test_values_that_lie_on_a_grid_stay_there() -> None:
    codes = np.arange(40, dtype=np.int32).reshape(10, 4) - 20
    w = (codes * 0.25).astype(np.float32)
    known = [(0.25, codes[:, :2]), (0.0, codes[:, 2:])]
    chunk = encode.encode_bounded(w.view(np.uint32), "float32", [2, 2], [0.1, 0.1], Shape(2, 4), known=known)
    assert chunk is not None
    assert np.array_equal(Chunk(chunk).read().view(np.float32), w)
    table = np.frombuffer(chunk[50:90], ENTRY)
    assert table["columns"].tolist() == [2, 2]
    assert table["step"].tolist() == [0.25, 0.0]
    assert table["bound"].tolist() == [0.1, 0.1]


def test_nothing_but_noughts_has_a_grid() -> None:
    chunk = encode.encode_bounded(np.zeros((3, 4), np.uint32), "float32", [4], [0.5])
    assert chunk is not None
    assert np.frombuffer(chunk[50:70], ENTRY)["step"].tolist() == [1.0]


@pytest.mark.parametrize("n", [15, 16, 17, 24 * 17, 800])
def test_a_class_has_sixteen_columns_or_a_part_of_all(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = classes.assign
    monkeypatch.setattr(classes, "assign", lambda size, smallest: asked.append(smallest) or real(size, smallest))
    encode.encode(odd("uint32", 4, n), "uint32", Shape(64, 2))
    assert asked == [max(16, n // 24)]


def test_tiles_weigh_as_many_rows_as_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = classes.streams
    monkeypatch.setattr(classes, "streams", lambda *given: asked.append(given[2].tolist()) or real(*given))
    encode.encode(odd("uint32", 11, 20), "uint32", Shape(64, 4))
    assert asked == [[3, 4, 3]]


def test_an_exact_chunk_has_no_grid_and_one_class_no_map() -> None:
    u = np.tile(np.arange(40, dtype=np.uint32), (8, 1))
    chunk = encode.encode(u, "uint32", Shape(16, 4))
    assert chunk[29] == 1
    entries, mapped, histograms = struct.unpack_from("<IIH", chunk, 40)
    assert (entries, chunk[31], mapped, histograms) == (0, 1, 0, 1)
    busy = np.concatenate([u, np.cumsum(odd("uint32", 8, 40), axis=0, dtype=np.uint32)], axis=1)
    several = encode.encode(busy, "uint32", Shape(16, 4))
    assert several[29] == 0 or several[31] == 1 or struct.unpack_from("<I", several, 44)[0] > 0


def test_a_tensor_without_values_has_no_step() -> None:
    w = np.linspace(0, 1, 40).astype(np.float32).reshape(10, 4)
    chunk = encode.encode_bounded(w.view(np.uint32), "float32", [2, 0, 2], [0.1, 0.1, 0.1])
    assert chunk is not None
    steps = np.frombuffer(chunk[50:110], ENTRY)["step"]
    assert steps[1] == 0.0
    assert (steps[[0, 2]] > 0).all()


@pytest.mark.parametrize("slab", [0, 1])
def test_what_is_out_of_bounds_once_is_looked_at_no_more(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(grid, "within_bound", lambda *_: asked.append(1) or len(asked) <= slab)
    u = np.linspace(0, 1, 400).astype(np.float32).reshape(100, 4).view(np.uint32)
    codes = np.empty((100, 4), np.uint32)
    assert encode._to_grid(u, codes, 0.1, PATTERNS["float32"]) == 0.0
    assert len(asked) == slab + 1
    assert np.array_equal(codes, u)

"""The codec of chunks: every pattern comes back bit for bit, bounded values stay in bounds, fast paths equal slow ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests import oracles_store as oracle
from weightlapse.errors import DamagedRecording
from weightlapse.store.codecs import classes, form, grid
from weightlapse.store.codecs.cutting import cut
from weightlapse.store.codecs.decode import Chunk, Decoded, advance_together
from weightlapse.store.codecs.encode import encode, encode_bounded
from weightlapse.store.codecs.entropy import PageReader
from weightlapse.store.codecs.form import GRID, PACKED, PLAIN, Columns, Shape, tiles
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.codecs.predict import (
    DAMPED,
    LAST,
    LINEAR,
    MOMENTUM,
    NONE,
    SLOPE,
    Predictor,
    choose,
    residuals,
    restore,
    within_momentum_range,
)

DTYPES = sorted(PATTERNS)
SHAPES = (Shape(), Shape(strip=3, tile=2), Shape(strip=1, tile=1), Shape(strip=64, tile=7))


def walk(dtype: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Patterns that move like weights under momentum."""
    rng = np.random.default_rng(seed)
    pattern = PATTERNS[dtype]
    if not pattern.is_float:
        steps = rng.integers(-2, 3, (rows, columns)).cumsum(0)
        return steps.astype(pattern.signed).view(pattern.unsigned)
    speed, w = np.zeros(columns), rng.normal(0, 0.1, columns)
    out = np.empty((rows, columns))
    for t in range(rows):
        speed = 0.9 * speed + rng.normal(0, 1e-4, columns) * rng.lognormal(0, 2, columns)
        w = w + speed
        out[t] = w
    return pattern.of_numbers(out)


def patterns(dtype: str) -> st.SearchStrategy[np.ndarray]:
    unsigned = PATTERNS[dtype].unsigned
    size = st.tuples(st.integers(1, 12), st.integers(1, 9))
    return size.flatmap(lambda s: hnp.arrays(unsigned, s, elements=st.integers(0, 2 ** (8 * unsigned.itemsize) - 1)))


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_pattern_survives(dtype: str, data: st.DataObject) -> None:
    u = data.draw(patterns(dtype))
    shape = data.draw(st.sampled_from(SHAPES))
    encoded = encode(u, dtype, shape)
    chunk = Chunk(encoded)
    assert np.array_equal(chunk.read(), u)
    assert len(encoded) <= u.nbytes + 80 + 8 * -(-u.shape[1] // shape.strip), (
        "a block that would grow is stored as it is"
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows,columns", [(1, 1), (2, 5), (3, 5), (17, 1), (40, 700), (1, 3000), (300, 2)])
def test_moving_weights_survive(dtype: str, rows: int, columns: int) -> None:
    u = walk(dtype, rows, columns)
    for shape in (Shape(), Shape(strip=64, tile=8)):
        assert np.array_equal(Chunk(encode(u, dtype, shape)).read(), u)


SPECIAL = {
    "float32": [
        0x7FC00000,
        0x7FC00001,
        0xFFC12345,
        0x7F800001,
        0x7F800000,
        0xFF800000,
        0x80000000,
        0,
        1,
        0x80000001,
        0x007FFFFF,
        0x7F7FFFFF,
    ],
    "float64": [
        0x7FF8000000000000,
        0xFFF8000000000123,
        0x7FF0000000000001,
        0x7FF0000000000000,
        1 << 63,
        0,
        1,
        (1 << 63) + 1,
    ],
    "float16": [0x7E00, 0xFE01, 0x7C01, 0x7C00, 0xFC00, 0x8000, 0, 1, 0x8001, 0x7BFF],
    "bfloat16": [0x7FC0, 0xFFC1, 0x7F81, 0x7F80, 0xFF80, 0x8000, 0, 1, 0x8001, 0x7F7F],
}  # NaN with payloads, signalling NaN, infinities, negative zero, subnormals, the largest numbers


@pytest.mark.parametrize("dtype", sorted(SPECIAL))
def test_special_values_among_moving_weights(dtype: str) -> None:
    rng = np.random.default_rng(1)
    special = np.array(SPECIAL[dtype], PATTERNS[dtype].unsigned)
    for count in (1, 20, 2000):
        u = walk(dtype, 50, 200)
        u[rng.integers(0, 50, count), rng.integers(0, 200, count)] = rng.choice(special, count)
        assert np.array_equal(Chunk(encode(u, dtype)).read(), u)


RULES = [Predictor(NONE), Predictor(LAST), Predictor(LINEAR), Predictor(DAMPED), Predictor(SLOPE)]
MOMENTA = [Predictor(MOMENTUM, f) for f in (0.9, 0.95, 1.0)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "int8", "uint64"])
def test_residuals_equal_their_slow_twin_and_are_undone(dtype: str) -> None:
    rules = RULES + (MOMENTA if dtype in ("float32", "float64", "bfloat16") else [])
    for predictor in rules:
        for rows in (1, 2, 3, 4, 9):
            u = walk(dtype, rows, 6, seed=rows)
            r = residuals(u, PATTERNS[dtype], predictor)
            assert np.array_equal(r, oracle.residuals(u, predictor.rule, predictor.factor, dtype)), (predictor, rows)
            for start in range(1, rows + 1):  # going on in the middle: rows before `start` are values already
                if start > 1 and start < 3 and rows > start:
                    continue
                part = r.copy()
                part[:start] = u[:start]
                restore(part, PATTERNS[dtype], predictor, start)
                assert np.array_equal(part, u), (predictor, rows, start)


def test_the_twin_notices_another_factor() -> None:
    u = walk("float32", 9, 6)
    assert not np.array_equal(
        residuals(u, PATTERNS["float32"], MOMENTA[0]), oracle.residuals(u, MOMENTUM, 0.91, "float32")
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_momentum_is_kept_to_where_it_is_the_same_everywhere(dtype: str) -> None:
    pattern = PATTERNS[dtype]
    tame = pattern.of_numbers(np.array([[0.0, 1.0, -1e-20, 3e30, -0.0]]))
    assert within_momentum_range(tame, pattern)
    for bits in SPECIAL[dtype]:
        if bits in (0, 1 << (pattern.bits - 1)):
            continue
        wild = np.append(tame, np.array([[bits]], pattern.unsigned), axis=1)
        assert not within_momentum_range(wild, pattern), hex(bits)


@given(hnp.arrays(np.float32, (6, 4), elements=st.floats(-(2.0**123), 2.0**123, width=32)))
@settings(max_examples=200, deadline=None)
def test_no_intermediate_is_subnormal_or_infinite_in_momentum_range(w: np.ndarray) -> None:
    if not within_momentum_range(w.view(np.uint32), PATTERNS["float32"]):
        return
    for factor in (0.9, 0.95, 1.0):
        d = w[1:-1] - w[:-2]
        m = d * np.float32(factor)
        for x in (d, m, w[1:-1] + m):
            assert np.isfinite(x).all()
            assert ((x == 0) | (np.abs(x) >= np.finfo(np.float32).tiny)).all()


def test_the_predictor_is_chosen_by_the_data() -> None:
    pattern = PATTERNS["float32"]
    choices = (Predictor(LAST), *MOMENTA)
    assert choose(walk("float32", 96, 400), pattern, choices).rule == MOMENTUM
    noise = np.random.default_rng(0).normal(0, 0.1, (96, 400)).astype(np.float32)
    sluggish = (1.0 + noise.cumsum(0) * 1e-3).astype(np.float32)  # each step independent of the one before: order 1
    assert choose(sluggish.view(np.uint32), pattern, choices).rule == LAST
    dead_lattice = walk("float32", 96, 8192)
    dead_lattice[:, ::64] = dead_lattice[0, ::64]  # inputs that never fire must not hide the others
    assert choose(dead_lattice, pattern, choices).rule == MOMENTUM


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_part_of_a_chunk_is_the_part_of_the_whole(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["float32", "bfloat16", "int16"]))
    rows, columns = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 60))
    u = walk(dtype, rows, columns, seed=rows)
    shape = data.draw(st.sampled_from(SHAPES))
    chunk = Chunk(encode(u, dtype, shape))
    wanted = np.array(data.draw(st.lists(st.integers(0, columns - 1), min_size=1, max_size=8, unique=True)))
    held = {window: Decoded(chunk, wanted, window=window) for window in (False, True)}
    for _ in range(4):
        start = data.draw(st.integers(0, rows - 1))
        stop = data.draw(st.integers(start + 1, rows))
        step = data.draw(st.integers(1, 3))
        for window, part in held.items():
            assert np.array_equal(part.rows(start, stop, step), u[start:stop:step, wanted]), (window, start, stop, step)
    assert np.array_equal(chunk.read(None, start, stop), u[start:stop])


def test_nothing_is_decoded_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    u = walk("float32", 64, 4096)
    chunk = Chunk(encode(u, "float32", Shape(strip=512, tile=16)))
    read: list[int] = []
    page = PageReader._into
    monkeypatch.setattr(PageReader, "_into", lambda self, data, out: read.append(len(out)) or page(self, data, out))
    chunk.read(np.array([1000]), 0, 64)
    one_weight = len(read)
    assert one_weight == 1 + 4, "the first row of its strip and four tiles of its class"
    read.clear()
    chunk.read(None, 0, 16)
    assert len(read) < chunk._first[-1] / 2, "an early frame leaves the later tiles alone"
    read.clear()
    part = Decoded(chunk)
    for t in range(64):
        part.rows(t, t + 1)
    assert len(read) == chunk._first[-1], "consecutive frames decode each page once"


@pytest.mark.parametrize("few", [0, 8, 1000])
def test_chosen_columns_are_found_by_both_ways_of_counting(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "_FEW", few)
    u = walk("float32", 20, 3000)
    chunk, rng = Chunk(encode(u, "float32", Shape(strip=1024, tile=8))), np.random.default_rng(0)
    for count in (1, 5, 40, 900):
        columns = rng.choice(3000, count, replace=False)
        assert (Decoded(chunk, columns).rows(3, 20) == u[3:, columns]).all()
        assert (Decoded(chunk, np.sort(columns)).rows(0, 9, 2) == u[0:9:2, np.sort(columns)]).all()


def test_several_chunks_advance_together_as_alone() -> None:
    data = [walk("float32", 33, 80, seed=k) for k in range(5)]
    chunks = [Chunk(encode(u, "float32", Shape(16, 8))) for u in data]
    parts = [Decoded(chunk, np.array([3, 50])) for chunk in chunks]
    advance_together([(part, 33) for part in parts])
    for part, u in zip(parts, data):
        assert part.done == 33
        assert np.array_equal(part.rows(0, 33), u[:, [3, 50]])


# ---- bounded -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3, 1e-4, 1e-6])
def test_bounded_values_keep_their_bound(dtype: str, tolerance: float) -> None:
    u = walk(dtype, 60, 300)
    pattern = PATTERNS[dtype]
    columns = [100, 0, 200]
    bounds = [tolerance * oracle.deviation(pattern.numbers(u[:, a:b])) for a, b in ((0, 100), (100, 100), (100, 300))]
    encoded = encode_bounded(u, dtype, columns, bounds)
    if encoded is None:  # the dtype is coarser than the bound
        assert tolerance * 3 < 2.0**-pattern.mantissa * 10
        return
    chunk = Chunk(encoded)
    assert chunk.form == GRID
    error = np.abs(pattern.numbers(chunk.read()) - pattern.numbers(u))
    assert error[:, :100].max() <= bounds[0]
    assert error[:, 100:].max() <= bounds[2]
    assert chunk.bounds == pytest.approx(bounds, rel=0, abs=0)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_bounded_is_in_bounds_or_refused(data: st.DataObject) -> None:
    values = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from(
        [0.0, -0.0, 2.0**-140, 2.0**127, float("nan"), float("inf")]
    )
    w = data.draw(hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=values))
    bound = data.draw(st.floats(0, 1e3) | st.floats(1e-30, 1e-3))
    encoded = encode_bounded(w.view(np.uint32), "float32", [w.shape[1]], [bound])
    if encoded is None:
        return
    assert np.isfinite(w).all(), "NaN and infinities are stored exactly, which a grid cannot"
    error = np.abs(Chunk(encoded).read().view(np.float32).astype(np.float64) - w)
    assert (error <= bound).all()


def test_a_value_out_of_bounds_is_noticed_at_write_time(monkeypatch: pytest.MonkeyPatch) -> None:
    u = walk("float32", 20, 30)
    assert encode_bounded(u, "float32", [30], [1e-3]) is not None
    monkeypatch.setattr(grid, "grid_step", lambda bound, largest, pattern: 2.1 * bound)  # a grid a little too coarse
    assert encode_bounded(u, "float32", [30], [1e-3]) is None


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_a_tensor_that_cannot_be_on_a_grid_does_not_spoil_its_neighbours(dtype: str) -> None:
    pattern = PATTERNS[dtype]
    u = walk(dtype, 40, 100)
    u[:, 30:40] = u[0, 30:40]  # still: no deviation
    u[3, 60] = pattern.of_numbers(np.array([[np.nan]]))[0, 0]
    deviation = oracle.deviation(pattern.numbers(u[:, :30]))
    encoded = encode_bounded(u, dtype, [30, 10, 10, 20, 30], [0.1 * deviation, 0.0, 0.1 * deviation, 1.0, 0.0])
    if dtype == "float64":
        assert encoded is None
        return
    assert encoded is not None
    read = Chunk(encoded).read()
    assert np.array_equal(read[:, 30:40], u[:, 30:40])
    assert np.array_equal(read[:, 50:], u[:, 50:]), "NaN, and what may have no error"
    assert not np.array_equal(read[:, :30], u[:, :30])
    assert np.abs(pattern.numbers(read[:, :50]) - pattern.numbers(u[:, :50])).max() <= 0.1 * deviation


def test_zero_deviation_and_integers_are_lossless() -> None:
    still = np.full((5, 4), 0.25, np.float32).view(np.uint32)
    assert encode_bounded(still, "float32", [4], [0.0]) is None
    assert encode_bounded(walk("int32", 5, 4), "int32", [4], [1.0]) is None


# ---- form --------------------------------------------------------------------------------------------------------------


def test_noise_is_stored_plain_and_stillness_costs_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 2**32, (20, 500), np.uint64).astype(np.uint32)
    assert Chunk(encode(noise, "float32")).form == PLAIN
    still = np.repeat(walk("float32", 1, 500), 96, axis=0)
    encoded = encode(still, "float32")
    assert Chunk(encoded).form == PACKED
    assert len(encoded) < still[0].nbytes + 600


def test_scale_classes_keep_dead_and_busy_weights_apart() -> None:
    rng = np.random.default_rng(0)
    r = rng.integers(-8, 9, (40, 300)).astype(np.int32)
    r[:, 100:200] *= 4096
    r[:, 200:] = 0
    label = classes.assign(classes.magnitudes(r.view(np.uint32), tiles(40, 8)), 16)
    assert len({*label[:100]} | {*label[100:200]} | {*label[200:]}) == 3
    assert label[200] < label[0] < label[100]


@given(st.lists(st.integers(0, 15), min_size=1, max_size=200), st.integers(1, 50))
def test_columns_are_ordered_by_strip_class_and_number(labels: list[int], strip: int) -> None:
    label = np.array(labels, np.uint8)
    columns = Columns(len(label), strip, label, 16)
    expected = sorted(range(len(label)), key=lambda j: (j // strip, label[j], j))
    assert columns.order().tolist() == expected
    some = np.unique(np.arange(0, len(label), 3))
    groups = sorted({int(j) // strip * 16 + int(label[j]) for j in some})
    inside = [j for j in expected if j // strip * 16 + int(label[j]) in groups]
    assert columns.groups(some).tolist() == [int(j) // strip * 16 + int(label[j]) for j in some]
    assert columns.places(some, groups).tolist() == [inside.index(j) for j in some]


@given(st.integers(1, 100), st.integers(1, 20))
def test_tiles_cover_all_rows_but_the_first_once(rows: int, height: int) -> None:
    covered = [t for top, bottom in tiles(rows, height) for t in range(top, bottom)]
    assert covered == list(range(1, rows))
    assert all((top // height) == ((bottom - 1) // height) for top, bottom in tiles(rows, height))


@given(st.lists(st.tuples(st.sampled_from(["float32", "int8"]), st.integers(0, 5000), st.integers(1, 80)), max_size=12))
@settings(deadline=None)
def test_the_chunks_hold_every_value_once(tensors: list[tuple[str, int, int]]) -> None:
    tensors = [(dtype, rows * row, row) for dtype, rows, row in tensors]
    seen: dict[int, list[tuple[int, int]]] = {}
    for chunk in cut(tensors, lambda _: 1000):
        assert len({tensors[p.tensor][0] for p in chunk}) == 1, "one dtype per chunk"
        assert 0 < sum(p.stop - p.start for p in chunk) <= 1000
        for p in chunk:
            seen.setdefault(p.tensor, []).append((p.start, p.stop))
            row = tensors[p.tensor][2]
            assert p.start % row == 0, "rows are not split"
    for i, (_, size, _) in enumerate(tensors):
        spans = sorted(seen.get(i, []))
        assert [a for a, _ in spans] == ([0] + [b for _, b in spans[:-1]] if spans else [])
        assert (spans[-1][1] if spans else 0) == size


def test_every_flipped_bit_of_a_chunk_is_noticed() -> None:
    u = walk("float32", 12, 40)
    data = encode(u, "float32", Shape(16, 4))
    for k in range(len(data)):
        bad = bytearray(data)
        bad[k] ^= 1 << (k % 8)
        with pytest.raises(DamagedRecording):
            Chunk(bytes(bad)).read()


def test_a_truncated_chunk_is_noticed() -> None:
    data = encode(walk("float32", 12, 40), "float32")
    for stop in range(len(data)):
        with pytest.raises(DamagedRecording):
            Chunk(data[:stop]).read()

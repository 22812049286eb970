"""The compiled pass of the decoder finds the same patterns as its twin in NumPy: for every dtype, rule and shape, whole, in parts and row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.test_store_blocks import LAYOUT, holds, moving_rows
from tests.test_store_kernels import DTYPES, walk
from weightlapse.errors import DamagedRecording
from weightlapse.store import compact
from weightlapse.store.codecs import decode, inverse
from weightlapse.store.codecs import encode as encoding
from weightlapse.store.codecs.decode import Chunk, Decoded, Run, may_run
from weightlapse.store.codecs.encode import encode, encode_bounded
from weightlapse.store.codecs.form import ENTRY, PACKED, Shape
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.codecs.predict import DAMPED, LAST, LINEAR, MOMENTUM, NONE, SLOPE, Predictor
from weightlapse.store.reader import Store
from weightlapse.store.writer import Writer

SHAPES = [
    (40, 700, Shape(256, 8)),
    (9, 5000, Shape(4096, 4)),
    (3, 64, Shape(64, 8)),
    (2, 33, Shape(16, 4)),
    (1, 50, Shape(16, 4)),
    (97, 130, Shape(2048, 32)),
]


def made(u: np.ndarray, dtype: str, rule: Predictor, shape: Shape) -> Chunk:
    return Chunk(encoding._pack(u, PATTERNS[dtype], PACKED, rule, shape, np.empty(0, ENTRY), False))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_patterns_for_every_dtype_and_rule(dtype: str) -> None:
    pattern = PATTERNS[dtype]
    rules = [Predictor(r) for r in (NONE, LAST, LINEAR, DAMPED, SLOPE)]
    rules += [Predictor(MOMENTUM, 0.9)] if pattern.is_float and pattern.bits >= 32 else []
    known = 0
    for k, (rows, columns, shape) in enumerate(SHAPES):
        u = walk(dtype, rows, columns, k)
        for rule in rules:
            chunk = made(u, dtype, rule, shape)
            assert (chunk.read() == u).all()
            if not may_run(chunk, inverse):
                continue
            known += 1
            out = np.empty(u.size, u.dtype)
            assert Run(chunk, inverse).to(slice(0, rows, 1), out, columns) == 0
            assert (out.reshape(u.shape) == u).all(), (rows, columns, rule)
            assert Run(chunk, inverse, once=True).to(slice(0, rows, 1), u.ravel(), columns, compare=True) == 0
            for row in {0, rows // 2, rows - 1}:
                one = np.empty(columns, u.dtype)
                Run(chunk, inverse, once=True).row(row, one)
                assert (one == u[row]).all(), (rows, columns, rule, row)
            some = slice(rows // 3, rows, 2)
            wide = np.full((len(range(*some.indices(rows))), columns + 5), 7, u.dtype)
            Run(chunk, inverse).to(some, wide.reshape(-1), columns + 5, 3)
            assert (wide[:, 3 : 3 + columns] == u[some]).all()
            assert (wide[:, :3] == 7).all()
            assert (wide[:, 3 + columns :] == 7).all()
    assert known > 0


@pytest.mark.parametrize("window", [False, True])
def test_going_on_and_going_back(window: bool) -> None:
    u = walk("float32", 90, 300, 5)
    chunk = Chunk(encode(u, "float32", Shape(128, 8)))
    part = Decoded(chunk, window=window, inverse=inverse)
    twin = Decoded(chunk, window=window)
    for start, stop, step in ((0, 1, 1), (1, 2, 1), (2, 9, 3), (9, 60, 1), (55, 90, 7), (3, 20, 1), (89, 90, 1)):
        got = part.rows(start, stop, step)
        assert (got == u[start:stop:step]).all(), (start, stop, step)
        assert (got == twin.rows(start, stop, step)).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_same_values_within_a_bound(dtype: str) -> None:
    u = walk(dtype, 50, 400, 1)
    values = PATTERNS[dtype].numbers(u)
    bounds = [1e-2 * float(values[:, :150].std()), 0.3 * float(values[:, 150:].std())]
    data = encode_bounded(u, dtype, [150, 250], bounds, Shape(128, 16))
    assert data is not None
    chunk = Chunk(data)
    assert may_run(chunk, inverse)
    assert (Decoded(chunk, inverse=inverse).rows(0, 50) == chunk.read()).all()
    assert (Decoded(chunk, inverse=inverse).rows(7, 40, 3) == chunk.read()[7:40:3]).all()


def test_a_difference_is_counted_wherever_it_is() -> None:
    rng = np.random.default_rng(0)
    u = walk("float32", 20, 500, 2)
    chunk = made(u, "float32", Predictor(MOMENTUM, 0.9), Shape(128, 8))
    for _ in range(20):
        other = u.copy()
        t, j = int(rng.integers(20)), int(rng.integers(500))
        other[t, j] ^= np.uint32(1 << int(rng.integers(32)))
        assert Run(chunk, inverse, once=True).to(slice(0, 20, 1), other.ravel(), 500, compare=True) == 1
        assert not compact._same(chunk, other, compiled=True)
    assert compact._same(chunk, u, compiled=True)
    assert not compact._same(chunk, u[:, :-1].copy(), compiled=True)


def test_a_flipped_bit_is_found_by_this_pass_too() -> None:
    u = walk("float32", 12, 300, 3)
    data = bytearray(encode(u, "float32", Shape(128, 4)))
    head = int.from_bytes(data[8:12], "little")
    rng = np.random.default_rng(1)
    for _ in range(30):
        hurt = bytearray(data)
        hurt[int(rng.integers(head, len(data)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(DamagedRecording):
            Run(Chunk(bytes(hurt)), inverse, once=True).to(slice(0, 12, 1), np.empty(u.size, u.dtype), 300)


@pytest.mark.parametrize("tolerance", [None, 1e-2])
@pytest.mark.parametrize("limit", [0, 1 << 29])
def test_a_recording_reads_the_same_by_either(
    tmp_path: Path, tolerance: float | None, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = moving_rows(LAYOUT, 60)
    writer = Writer.create(tmp_path / "run", LAYOUT, tolerance=tolerance, compact="after")
    writer.append(np.arange(60), rows)
    writer.close()
    seen = []
    for worth in (0, 1 << 60):
        monkeypatch.setattr(decode, "WORTH_COMPILING", worth)
        monkeypatch.setattr(
            decode.sys, "modules", {k: v for k, v in decode.sys.modules.items() if k != decode._INVERSE}
        )
        store = Store.open(tmp_path / "run")
        store.cache.limit = limit
        if tolerance is None:
            holds(store, rows)
        names = [spec.name for spec in LAYOUT.tensors]
        frames = [store.read_frame(k) for k in (59, 0, 31)]
        parts = [store.read(name, slice(5, 50, 4)) for name in names]
        seen.append([v.tobytes() for frame in frames for v in frame.values()] + [p.tobytes() for p in parts])
        assert store.verify() == []
    assert seen[0] == seen[1]


def test_blocks_of_large_frames_are_short() -> None:
    assert compact.block_frames(None, 1 << 20) == compact.LOSSLESS_HEIGHT
    assert compact.block_frames(None, 43 << 20) >= 40  # forty frames of ten million weights are one block
    assert compact.block_height(12, None, 498_000_000) == 4
    assert compact.block_frames(None, 16 << 30) == 4
    assert (
        compact.block_frames(1e-2, 16 << 30) == compact.BOUNDED_HEIGHT
    )  # there a first frame costs as much as ten others
    assert compact.block_frames(None, 100) == compact.TALLEST

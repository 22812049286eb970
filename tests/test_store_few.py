"""A few columns past all that is kept of a chunk: what the decoder gives, for every shape and dtype; whatever is not as usual is left to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
import weightlapse.store.blockread as blockread
from tests.test_store_kernels import walk
from weightlapse.store.codecs.decode import Chosen, Chunk, Decoded
from weightlapse.store.codecs.encode import encode
from weightlapse.store.codecs.few import Few, few_columns
from weightlapse.store.codecs.form import PACKED, PLAIN, Shape
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.files import Part

SHAPES = [
    (96, 8_320, Shape(1024, 48)),
    (80, 2_100, Shape(1024, 32)),
    (34, 900, Shape(128, 8)),
    (4, 3_000, Shape(3_000, 4)),
    (2, 700, Shape(512, 4)),
    (1, 3_000, Shape(1024, 4)),
]


def moving(dtype: str, rows: int, columns: int) -> np.ndarray:
    """Values of which neighbours move at very different rates, so that there are several classes."""
    u = walk(dtype, rows, columns, rows)
    if PATTERNS[dtype].is_float:
        u[:, ::3] = u[0, ::3]
    return u


def few(data: bytes, dtype: str, columns: list[int], stop: int) -> Few | None:
    chunk = Chunk(data)
    return few_columns(Part(data), chunk.head_crc, (chunk.rows, chunk.columns), PATTERNS[dtype], columns, stop)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int32", "uint8"])
def test_every_choice_of_columns_and_rows_is_that_of_the_decoder(dtype: str) -> None:
    seen, rng = set(), np.random.default_rng(0)
    for rows, n, shape in SHAPES if dtype == "float32" else SHAPES[2:]:
        data = encode(moving(dtype, rows, n), dtype, shape)
        chunk = Chunk(data)
        true = chunk.read()
        for columns in ([0], [n - 1], [n // 2], rng.integers(0, n, 5).tolist(), [n - 1, 0, 1, n // 2, 0]):
            for stop in sorted({1, rows // 3, rows} & set(range(1, rows + 1))):
                part = few(data, dtype, columns, stop)
                assert (part is not None) is (chunk.form == PACKED)
                if part is not None:
                    seen.add(chunk.layout.classes > 1)
                    assert part.rows(0, stop, 2).tobytes() == true[0:stop:2, columns].tobytes(), (rows, columns, stop)
                    assert part.rows(stop - 1, stop).tobytes() == true[stop - 1 : stop, columns].tobytes()
    assert True in seen or dtype in ("int32", "uint8"), "no chunk had several classes"
    assert seen, "no chunk was packed"


def test_damage_is_left_to_the_decoder_or_does_not_touch_what_is_read() -> None:
    rows, n, shape = SHAPES[2]
    data = encode(moving("float32", rows, n), "float32", shape)
    chunk, kind, columns = Chunk(data), PATTERNS["float32"], [400]
    true, rng, left = chunk.read()[:, columns], np.random.default_rng(0), 0
    head, whole = chunk.head_crc, (rows, n)
    for at in [*range(60), *rng.integers(60, len(data), 400).tolist()]:
        hurt = bytearray(data)
        hurt[at] ^= 1 << int(rng.integers(8))
        part = few_columns(Part(bytes(hurt)), head, whole, kind, columns, rows)
        left += part is None
        assert part is None or at >= chunk._end, at
        assert part is None or part.rows(0, rows).tobytes() == true.tobytes(), at
    assert left > 60, "no page that was read was hurt"
    for cut in (0, 10, 49, 51, chunk._end - 1, chunk._end, len(data) // 2, len(data) - 1):
        assert few_columns(Part(data[:cut]), head, whole, kind, columns, rows) is None, cut


def test_what_was_not_expected_is_left_to_the_decoder() -> None:
    rows, n, shape = SHAPES[2]
    data = encode(moving("float32", rows, n), "float32", shape)
    head, kind = Chunk(data).head_crc, PATTERNS["float32"]
    assert few_columns(Part(data), head, (rows, n), kind, [3], rows) is not None
    assert few_columns(Part(data), head ^ 1, (rows, n), kind, [3], rows) is None  # another chunk than its index names
    assert few_columns(Part(data), head, (rows + 1, n), kind, [3], rows) is None
    assert few_columns(Part(data), head, (rows, n - 1), kind, [3], rows) is None
    assert few_columns(Part(data), head, (rows, n), PATTERNS["int32"], [3], rows) is None
    plain = encode(np.random.default_rng(0).integers(0, 1 << 32, (9, 50), np.uint32), "float32", Shape(32, 4))
    assert Chunk(plain).form == PLAIN
    assert few_columns(Part(plain), Chunk(plain).head_crc, (9, 50), kind, [3], 9) is None


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    rng, w = np.random.default_rng(0), np.zeros((40, 60), np.float32)
    path, states = tmp_path_factory.mktemp("few") / "run", []
    with wl.watch({"w": w}, path, compact="after") as rec:
        for _ in range(230):
            w += rng.standard_normal(w.shape).astype(np.float32) * np.float32(0.01)
            rec.step({"w": w})
            states.append(w.copy())
    return path, np.stack([np.zeros_like(w), *states])


def test_a_fresh_recording_reads_few_columns_so_and_then_as_ever(
    recording: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, true = recording
    made: list[Few | None] = []
    monkeypatch.setattr(blockread, "few_columns", lambda *given: made.append(few_columns(*given)) or made[-1])
    for where in (
        (slice(None), 3, 7),
        (slice(5, 200, 7), 39, 59),
        ([200, 3, 3, 77], 1, 2),
        ([4, 6, 7], 2, 2),
        ([100, 103, 104, 107], 0, 1),
        (slice(None), 5, slice(2, 7)),
    ):
        made.clear()
        run = wl.load(path)
        first = run["w"][where]
        assert np.array_equal(first, true[where]), where
        taken = len(made)
        assert taken > 0, "the short way was not taken"
        assert all(part is not None for part in made), "it was not gone to its end"
        assert np.array_equal(run["w"][where], first)
        assert len(made) == taken, "the second look keeps what it opens"
    run, made[:] = wl.load(path), []
    assert np.array_equal(run["w"][:, 3], true[:, 3])
    assert not made, "a whole row is no few columns"


def test_damage_under_a_few_columns_is_told_with_the_tensor(recording: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, true = recording
    shutil.copytree(path, tmp_path / "run")
    block = next((tmp_path / "run" / "blocks").iterdir())
    store = wl.load(path)._store
    start, length = store.segments[0]._index.places[1, 0].tolist()  # type: ignore[union-attr]
    data = bytearray(block.read_bytes())
    data[start + length // 2 : start + length] = bytes(length - length // 2)
    block.write_bytes(bytes(data))
    run = wl.load(tmp_path / "run")
    with pytest.raises(wl.DamagedRecording, match="values of w in frames"):
        run["w"][:, 39, 59]
    height = store.segments[0].opening.height  # type: ignore[union-attr]
    assert np.array_equal(wl.load(tmp_path / "run")["w"][:height, 39, 59], true[:height, 39, 59])


# ---- many choices of columns ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[None, 1e-2], ids=["exact", "bounded"])
def of_many(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, np.ndarray]]:
    """Sixty small tensors that share a chunk, and what they hold as it is read tensor by tensor with a fresh handle each."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("many") / "run"
    w = {f"w{i}": rng.standard_normal((i % 5 + 1, 4)).astype(np.float32) for i in range(60)}
    with wl.watch(w, path, compact="after", tolerance=request.param) as rec:
        for _ in range(70):
            w = {n: v + rng.standard_normal(v.shape).astype(np.float32) * np.float32(0.01) for n, v in w.items()}
            rec.step(w)
    return path, {name: wl.load(path)[name][:] for name in w}


def test_small_tensors_one_by_one_are_unpacked_as_a_whole_in_the_end(
    of_many: tuple[Path, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, true = of_many
    whole: list[Decoded] = []
    monkeypatch.setattr(blockread, "Chosen", lambda part, columns: whole.append(part) or Chosen(part, columns))
    run = wl.load(path)
    for frames in (slice(0, 5), slice(None), slice(3, 60, 7), [66, 2, 2, 40]):
        for name, values in true.items():
            assert np.array_equal(run[name][frames], values[frames]), (name, frames)
    assert len(whole) > 100
    assert len({id(part) for part in whole}) == 1
    assert all(
        np.array_equal(values, run.state(frame=33)[name]) for name, values in ((n, v[33]) for n, v in true.items())
    )


def test_nothing_is_unpacked_as_a_whole_where_there_is_no_room_to_keep_it(
    of_many: tuple[Path, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, true = of_many
    monkeypatch.setattr(blockread, "Chosen", None)  # would raise
    run = wl.load(path)
    run._store.cache.limit = 1 << 16  # type: ignore[union-attr]
    run._store.cache.full = True  # type: ignore[union-attr]
    for _ in range(2):
        for name, values in true.items():
            assert np.array_equal(run[name][:], values)

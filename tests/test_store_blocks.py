"""Compressed segments: the same values as the log they replace, at every moment, whatever is read and in whatever order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import oracles_store as oracle
from weightlapse.cli import main
from weightlapse.store import compact
from weightlapse.store.blockread import BlockSegment
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.layout import DTYPES as RECORDED
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.offline import compact_recording
from weightlapse.store.reader import Store
from weightlapse.store.region import flat_elements
from weightlapse.store.writer import Writer

LAYOUT = Layout(
    [
        TensorSpec("w", "float32", (12, 5)),
        TensorSpec("b", "float64", (3,)),
        TensorSpec("h", "bfloat16", (7, 2)),
        TensorSpec("z", "complex64", (2, 3)),
        TensorSpec("n", "int64", ()),
        TensorSpec("mask", "bool", (4,)),
        TensorSpec("none", "float32", (0, 3)),
        TensorSpec("half", "float16", (5,)),
    ]
)


def moving_rows(layout: Layout, count: int, seed: int = 0) -> np.ndarray:
    """Frames whose values move like weights; padding is zero, as the ring leaves it."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((count, layout.row_nbytes), np.uint8)
    for i, spec in enumerate(layout.tensors):
        view = layout.view(rows, i)
        if spec.dtype == "bool":
            view[...] = rng.integers(0, 2, view.shape)
        elif spec.storage.kind in "iu" and spec.dtype != "bfloat16":
            view[...] = rng.integers(0, 3, view.shape).cumsum(0)
        else:
            path = rng.normal(0, 0.1, view.shape[1:]) + rng.normal(0, 1e-3, view.shape).cumsum(0).cumsum(0) / count
            if spec.dtype == "bfloat16":
                view[...] = PATTERNS["bfloat16"].of_numbers(path)
            else:
                view[...] = path + 1j * path[::-1] if spec.dtype.startswith("complex") else path
    return rows


def record(path: Path, count: int, *, layout: Layout = LAYOUT, seed: int = 0, **options: Any) -> np.ndarray:
    rows = moving_rows(layout, count, seed)
    writer = Writer.create(path, layout, **options)
    writer.append(np.arange(count) * 3, rows)
    writer.close()
    return rows


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def holds(store: Store, rows: np.ndarray, layout: Layout = LAYOUT) -> None:
    """Every value of every tensor, read whole, by frame and alone, is the one that was written."""
    assert len(store.steps) == len(rows)
    for i, spec in enumerate(layout.tensors):
        assert same(store.read(spec.name, slice(None)), np.array(layout.view(rows, i))), spec
    for k in {0, len(rows) // 2, len(rows) - 1}:
        frame = store.read_frame(k)
        for i, spec in enumerate(layout.tensors):
            assert same(frame[spec.name], np.array(layout.view(rows, i)[k])), (k, spec)


def is_compact(path: Path) -> bool:
    return not list((path / "log").glob("*.seg")) and bool(list((path / "blocks").glob("*.blk")))


@pytest.mark.parametrize("count", [1, 2, 3, 95, 96, 97, 193, 300])
@pytest.mark.parametrize("mode", ["after", "live", "auto"])
def test_a_closed_recording_is_compressed_and_the_same(tmp_path: Path, count: int, mode: Any) -> None:
    rows = record(tmp_path / "run", count, compact=mode)
    assert is_compact(tmp_path / "run")
    store = Store.open(tmp_path / "run")
    holds(store, rows)
    assert store.steps.tolist() == [3 * k for k in range(count)]
    assert store.verify() == []
    assert store.closed
    assert store.bound("w", count - 1) == 0.0


DTYPES = sorted(RECORDED)
SHAPES = [(), (0,), (3, 0), (1,), (7,), (2, 3), (3, 1, 4), (1, 400), (400, 1), (3000,)]


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    kinds = draw(st.lists(st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES)), min_size=1, max_size=6))
    return Layout(TensorSpec(f"t{i}", dtype, shape) for i, (dtype, shape) in enumerate(kinds))


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[slice, ...]:
    found = []
    for n in shape:
        start = draw(st.integers(0, n))
        found.append(slice(start, draw(st.integers(start, n)), draw(st.integers(1, 3))))
    return tuple(found)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_recording_reads_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    layout = data.draw(layouts())
    count = data.draw(st.sampled_from([1, 2, 5, 96, 97, 130]))
    rows = moving_rows(layout, count, seed=count)
    if data.draw(st.booleans()):  # any bits at all, not only moving weights
        noise = np.random.default_rng(1).integers(0, 256, rows.shape, np.uint8)
        for i, spec in enumerate(layout.tensors):
            if spec.dtype != "bool":
                layout.view(rows, i)[...] = layout.view(noise, i)
    path = tmp_path_factory.mktemp("any") / "run"
    writer = Writer.create(path, layout, compact="never")
    steps = np.cumsum(data.draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count)))
    writer.append(steps, rows)
    writer.close()
    raw = Store.open(path)
    compact_recording(path)
    store = Store.open(path)
    assert store.steps.tolist() == raw.steps.tolist() == steps.tolist()
    for i, spec in enumerate(layout.tensors):
        truth = np.array(layout.view(rows, i))
        assert same(store.read(spec.name, slice(None)), truth)
        for _ in range(3):
            region = data.draw(regions(spec.shape))
            frames: Any = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=4)), np.int64)
            if data.draw(st.booleans()):
                frames = slice(0, count, data.draw(st.integers(1, 5)))
            assert same(store.read(spec.name, frames, region), truth[(slice(None), *region)][frames])


@given(st.data())
def test_regions_are_flattened_as_numpy_does(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
    region, lanes = data.draw(regions(shape)), data.draw(st.integers(1, 2))
    assert list(flat_elements(shape, region, lanes)) == oracle.flat_elements(shape, region, lanes)


def test_large_tensors_are_cut_and_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(
        [
            TensorSpec("big", "float32", (300, 200)),
            TensorSpec("thin", "float32", (1, 30000)),
            TensorSpec("b", "float32", (3,)),
        ]
    )
    rows = record(tmp_path / "run", 20, layout=layout)
    store = Store.open(tmp_path / "run")
    holds(store, rows, layout)
    truth = layout.view(rows, 0)
    assert same(
        store.read("big", slice(2, 9, 3), (slice(77, 250, 50), slice(3, 200, 7))), truth[2:9:3, 77:250:50, 3:200:7]
    )
    opened: list[tuple[int, int]] = []
    chunk, few = BlockSegment._chunk, BlockSegment._few
    monkeypatch.setattr(BlockSegment, "_chunk", lambda self, b, c: opened.append((b, c)) or chunk(self, b, c))
    monkeypatch.setattr(BlockSegment, "_few", lambda self, *what: opened.append(what[:2]) or few(self, *what))
    for _ in range(2):  # at first past what is kept of a chunk, then through it
        store.cache.clear()
        store.read("big", slice(None), (slice(5, 6), slice(7, 8)))
    assert len(opened) > 1
    assert len(set(opened)) == 1, "one weight lies in one chunk of each time block"


def test_consecutive_and_random_frames_come_from_the_cache_and_it_is_bounded(tmp_path: Path) -> None:
    layout = Layout([TensorSpec("w", "float32", (100, 100))])
    rows = record(tmp_path / "run", 250, layout=layout)
    truth = layout.view(rows, 0)
    store = Store.open(tmp_path / "run")
    for limit in (1 << 29, 1 << 21, 1 << 16):  # all, a window, and less than anything
        store.cache.clear()
        store.cache.limit = limit
        for k in [*range(0, 250, 3), 249, 0, 100, 99, 98]:
            assert same(store.read_frame(k)["w"], np.array(truth[k]))
            assert store.cache.nbytes <= max(limit, 5 << 20)


# ---- bounded -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-4])
def test_a_bounded_recording_keeps_its_bound_and_states_it(tmp_path: Path, tolerance: float) -> None:
    rows = record(tmp_path / "run", 300, tolerance=tolerance)
    store = Store.open(tmp_path / "run")
    height = compact.block_height(300, tolerance, LAYOUT.row_nbytes)
    for i, spec in enumerate(LAYOUT.tensors):
        truth = np.array(LAYOUT.view(rows, i))
        values = store.read(spec.name, slice(None))
        if spec.dtype in ("int64", "bool") or spec.size == 0:
            assert same(values, truth)
            continue
        if spec.dtype == "bfloat16":
            values, truth = (PATTERNS["bfloat16"].numbers(x) for x in (values, truth))
        if spec.dtype == "complex64":
            values, truth = values.view(np.float32), truth.view(np.float32)
        for b in range(0, 300, height):
            part = truth[b : b + height].astype(np.float64)
            allowed = tolerance * oracle.deviation(part)
            error = np.abs(values[b : b + height].astype(np.float64) - part).max()
            assert error <= store.bound(spec.name, b) <= allowed
            assert store.bound(spec.name, b) == pytest.approx(allowed, rel=1e-6)
    assert store.verify() == []


def test_info_reports_the_bound_of_each_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "run", 300, tolerance=1e-2)
    store = Store.open(tmp_path / "run")
    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / "run"), "--json"])
    told = {t["name"]: t["bound"] for t in json.loads(capsys.readouterr().out)["tensors"]}
    for spec in LAYOUT.tensors:
        assert told[spec.name] == max(store.bound(spec.name, k) for k in range(300))
    assert told["w"] > 0 == told["mask"]
    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / "run")])
    assert f"within {told['w']:.3g}" in capsys.readouterr().out


def test_a_bounded_recording_is_smaller_and_really_lossy(tmp_path: Path) -> None:
    layout = Layout([TensorSpec("w", "float32", (64, 64))])
    rows = record(tmp_path / "exact", 200, layout=layout)
    record(tmp_path / "film", 200, layout=layout, tolerance=1e-2)
    exact, film = Store.open(tmp_path / "exact"), Store.open(tmp_path / "film")
    assert film.stored_nbytes * 4 < exact.stored_nbytes
    assert not same(film.read("w", slice(None)), np.array(layout.view(rows, 0)))


def test_nan_and_infinities_are_exact_in_a_bounded_recording(tmp_path: Path) -> None:
    layout = Layout([TensorSpec("w", "float32", (40,)), TensorSpec("v", "float32", (9000,))])
    rows = moving_rows(layout, 50)
    w = layout.view(rows, 0)
    w[20:, 3], w[30:, 4], w[5, 5] = np.nan, np.inf, -np.inf
    w.view(np.uint32)[40:, 6] = 0xFFC12345
    writer = Writer.create(tmp_path / "run", layout, tolerance=1e-2)
    writer.append(np.arange(50), rows)
    writer.close()
    store = Store.open(tmp_path / "run")
    read = store.read("w", slice(None))
    odd = ~np.isfinite(w)
    assert read[odd].tobytes() == w[odd].tobytes()
    assert np.isfinite(store.bound("w", 0))
    assert np.abs(read[~odd].astype(float) - w[~odd]).max() <= store.bound("w", 0)

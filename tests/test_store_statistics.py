"""Statistics: equal to a slow twin for every dtype, line, rank and form of storage; bounds that hold; damage that costs nothing."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from tests import oracles_statistics as oracle
from tests.golden import make_v1
from weightlapse.capture.watch import watch
from weightlapse.recording.recording import Recording, load
from weightlapse.store.gauge import cells_of, compiled
from weightlapse.store.layout import Layout, TensorSpec, storage_dtype
from weightlapse.store.offline import compact_recording
from weightlapse.store.writer import Writer

pytest.importorskip("pyarrow")


def rows(run: Recording) -> list[dict[str, Any]]:
    return run.table().to_pylist()  # type: ignore[no-any-return]


def check(run: Recording) -> int:
    """Every row of the table is that of the twin; returns how many there are."""
    found = rows(run)
    for row in found:
        steps = run.steps.tolist()
        first, last = steps.index(row["first_step"]), steps.index(row["last_step"])
        span = next(e for e in run.layouts if e.start <= first < e.stop)
        track = span[row["tensor"]]
        values = [oracle.numbers(track[k - span.start]) for k in range(first, last + 1)]
        before = oracle.numbers(track[first - 1 - span.start]) if first > span.start else None
        assert oracle.alike(row, oracle.row(values, before)) == [], (row["tensor"], row["first_step"])
        assert row["stream"] == run.streams[row["tensor"]]
    for span in run.layouts:  # every frame of every tensor is in one row
        for name in span.names:
            mine = [r for r in found if r["tensor"] == name and r["first_step"] in span.steps]
            assert sum(r["frames"] for r in mine) == len(span)
    return len(found)


def walk(shapes: dict[str, tuple[int, ...]], frames: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng, w, out = np.random.default_rng(seed), {}, []
    for name, shape in shapes.items():
        w[name] = rng.standard_normal(shape).astype(np.float32)
    for _ in range(frames):
        out.append(dict(w))
        w = {k: (v + 0.01 * rng.standard_normal(v.shape)).astype(np.float32) for k, v in w.items()}
    return out


def record(path: Path, states: list[dict[str, np.ndarray]], **arguments: Any) -> Recording:
    with watch(states[0], path, **arguments) as rec:
        for state in states[1:]:
            rec.step(state)
    return load(path)


SHAPES = {"big": (72, 64), "vector": (7,), "cube": (3, 2, 2), "none": (0, 4), "one": ()}


@pytest.mark.parametrize("tolerance", [None, 1e-2])
@pytest.mark.parametrize("compact", ["after", "never"])
def test_rows_are_those_of_the_twin(tmp_path: Path, tolerance: float | None, compact: str) -> None:
    states = walk(SHAPES, 40)
    states[20]["vector"][:4] = (np.nan, np.inf, -np.inf, 0.0)
    states[21]["big"][3, :3] = (np.nan, -np.inf, 0.0)
    run = record(tmp_path / "run", states, tolerance=tolerance, compact=compact)
    assert list((tmp_path / "run").glob("stats-*.log")) == [] if compact == "never" else [run._store.statistics.name]
    assert check(run) >= len(SHAPES)
    assert run._store.verify() == []


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint16", "int32", "int64", "float16", "bfloat16", "float64", "complex64", "complex32", "bcomplex32", "float8_e5m2",
     "float8_e4m3fn", "float4_e2m1fn", "int4"],
)  # fmt: skip
def test_every_dtype(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(1)
    layout = Layout([TensorSpec("t", dtype, (5, 9)), TensorSpec("u", "float32", (3,))])
    writer = Writer.create(tmp_path / "run", layout)
    frames = np.zeros((30, layout.row_nbytes), np.uint8)
    view = layout.view(frames, 0)
    raw = rng.integers(0, 256, (30, 45 * storage_dtype(dtype).itemsize), np.uint8)
    raw[::2] = raw[1::2]
    view[...] = (
        (raw.view("u1") & 1).astype(bool).reshape(view.shape)
        if dtype == "bool"
        else raw.view(storage_dtype(dtype)).reshape(view.shape)
    )
    if dtype == "int4":
        view[...] = rng.integers(-8, 8, view.shape)
    with np.errstate(all="ignore"):
        writer.append(np.arange(30), frames)
        check(load(tmp_path / "run"))
        writer.close()
        run = load(tmp_path / "run")
        assert run._store.statistics.numbers == [0]
        check(run)
        assert run._store.verify() == []


def test_compiled_and_numpy_agree() -> None:
    rng = np.random.default_rng(3)
    kernels = compiled(1 << 40)
    for dtype in (np.float32, np.float64):
        values = rng.standard_normal((9, 700)).astype(dtype)
        values[rng.random(values.shape) < 0.1] = 0
        values[2, 10:30], values[5, 200], values[6, 200], values[:, 650:] = np.nan, np.inf, -np.inf, np.nan
        before = rng.standard_normal(700).astype(dtype)
        before[400] = np.inf
        for edges in ([0, 700], [0, 1, 100, 350, 650, 700]):
            for base in (None, before):
                a = cells_of(values, base, np.array(edges), kernels)
                b = cells_of(values, base, np.array(edges))
                assert np.array_equal(a.counts, b.counts)
                assert np.array_equal(a.measures[[0, 1, 5]], b.measures[[0, 1, 5]], equal_nan=True)
                assert np.allclose(a.measures, b.measures, rtol=1e-12, atol=1e-9, equal_nan=True)


def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightlapse.store.writer._SEGMENT_NBYTES", 1 << 16)
    monkeypatch.setattr("weightlapse.store.writer._SEGMENT_FRAMES", (4, 16))
    monkeypatch.setattr("weightlapse.store.compact._WORTH_A_BLOCK", 1 << 10)
    monkeypatch.setattr("weightlapse.store.compact.LOSSLESS_HEIGHT", 5)
    monkeypatch.setattr("weightlapse.store.compact.BOUNDED_HEIGHT", 7)


@pytest.mark.parametrize("tolerance", [None, 1e-2])
@pytest.mark.parametrize("compact", ["live", "after"])
def test_updates_go_on_from_segment_to_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tolerance: float | None, compact: str
) -> None:
    small_segments(monkeypatch)
    run = record(tmp_path / "run", walk({"big": (70, 64), "v": (9,)}, 45), tolerance=tolerance, compact=compact)
    assert len(run._store.segments) > 2
    assert check(run) > 10
    table = rows(run)
    assert sum(row["updates"] for row in table if row["tensor"] == "big") == 44
    kept = oracle.read_file(tmp_path / "run")
    assert [kept[n]["before"] for n in sorted(kept)] == [-1, *(kept[n]["first"] - 1 for n in sorted(kept)[1:])]
    assert run._store.verify() == []


def test_the_file_is_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_segments(monkeypatch)
    states = walk({"big": (6, 4096), "v": (9,)}, 10)
    states[7]["v"][2] = np.inf
    run = record(tmp_path / "run", states)
    for number, kept in oracle.read_file(tmp_path / "run").items():
        mine = run._store.statistics.get(number)
        assert mine is not None
        assert (kept["each"], kept["has"], kept["units"]) == ([1, 0], [1, 0], 6)
        values = {
            n: run[n][kept["first"] : kept["first"] + kept["count"]].reshape(kept["count"], -1) for n in ("big", "v")
        }
        before = {n: run[n][kept["first"] - 1].reshape(-1) if kept["before"] >= 0 else v[0] for n, v in values.items()}
        for k in range(kept["count"]):  # the first tensor has a row for each frame
            truth = oracle.row(
                [oracle.numbers(values["big"][k])], oracle.numbers(values["big"][k - 1] if k else before["big"])
            )
            assert (
                oracle.alike(
                    {n: kept["rows"][n][k] for n in kept["rows"]}
                    | {n: truth[n] for n in ("updates", "values", "frames")},
                    truth,
                )
                == []
            )
        for b in range(kept["blocks"]):
            rows_ = slice(b * kept["height"], min((b + 1) * kept["height"], kept["count"]))
            for p, (tensor, start, stop) in enumerate(kept["pieces"]):
                name = ("big", "v")[tensor]
                part = values[name][rows_, start:stop].astype(np.float64)
                base = (values[name][rows_.start - 1] if b else before[name])[start:stop].astype(np.float64)
                with np.errstate(invalid="ignore"):
                    moved = np.abs(np.diff(np.concatenate([base[None], part]), axis=0))
                at = b * len(kept["pieces"]) + p
                assert kept["bounds"]["low"][at] <= part.min()
                assert kept["bounds"]["high"][at] >= part.max()
                assert kept["bounds"]["jump"][at] >= np.nanmax(moved)
                if np.isfinite(part).all():  # and they are close
                    assert np.isclose(kept["bounds"]["low"][at], part.min(), rtol=1e-6)
                    assert np.isclose(kept["bounds"]["jump"][at], moved.max(), rtol=1e-6) or np.isinf(base).any()
            for u in range(6):
                part = values["big"][rows_, 4096 * u : 4096 * (u + 1)].astype(np.float64)
                most = (part**2).sum(axis=1).max()
                assert most <= kept["bounds"]["unit_value"][b * 6 + u] <= most * (1 + 1e-6)


def test_a_rewound_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_segments(monkeypatch)
    states = walk({"big": (70, 64), "v": (9,)}, 60)
    record(tmp_path / "run", states[:30])
    for at, more in ((17, 40), (8, 50), (12, 10)):
        present = load(tmp_path / "run").state(step=at)
        with watch(present, tmp_path / "run", resume=True, resume_at=at) as rec:
            for state in states[more : more + 9]:
                rec.step(state)
        run = load(tmp_path / "run")
        check(run)
        assert sum(r["updates"] for r in rows(run) if r["tensor"] == "big") == run.frames - 1
        for branch in run.branches.values():
            check(branch)
        assert run._store.verify() == []


def test_a_layout_that_changes_and_a_gap(tmp_path: Path) -> None:
    a, b = walk({"w": (70, 64), "v": (9,)}, 10), walk({"w": (80, 64), "v": (9,)}, 12)
    with watch(a[0], tmp_path / "run") as rec:
        for state in a[1:]:
            rec.step(state)
        for k, state in enumerate(b):
            rec.step(state, step=20 + k)
    run = load(tmp_path / "run")
    assert len(run.layouts) == 2
    check(run)
    assert run._store.verify() == []


def test_ranks_have_rows_of_their_own(tmp_path: Path) -> None:
    whole = walk({"w": (8, 16), "v": (9,)}, 12)
    for rank in range(2):
        shards = {"w": {"shape": [8, 16], "offset": [4 * rank, 0]}}
        meta = {"distributed": {"rank": rank, "world_size": 2, "shards": shards}}
        layout = Layout([TensorSpec("w", "float32", (4, 16)), TensorSpec("v", "float32", (9,))])
        frames = np.zeros((12 - rank, layout.row_nbytes), np.uint8)
        for k in range(12 - rank):  # rank 1 died a frame earlier
            layout.view(frames, 0)[k] = whole[k]["w"][4 * rank : 4 * rank + 4]
            layout.view(frames, 1)[k] = whole[k]["v"]
        path = tmp_path / "run" if rank == 0 else tmp_path / "run" / "ranks" / "0001"
        path.parent.mkdir(exist_ok=True, parents=True)
        writer = Writer.create(path, layout, meta=meta)
        writer.append(np.arange(12 - rank), frames)
        writer.close()
    run = load(tmp_path / "run")
    assert run.frames == 11
    found = rows(run)
    assert [(r["tensor"], r["rank"]) for r in found] == [("w", 0), ("v", 0), ("w", 1)]
    for name in ("w", "v"):
        mine = [r for r in found if r["tensor"] == name]
        truth = oracle.row([oracle.numbers(run[name][k]) for k in range(11)], None)
        for column in ("sum", "sumsq", "update_sumsq", "changed", "zeros", "values"):
            assert np.isclose(sum(r[column] for r in mine), truth[column])
        assert min(r["min"] for r in mine) == truth["min"]
    assert run._store.verify() == []


@pytest.mark.parametrize("name", ["log", "exact", "film"])
def test_recordings_of_version_1_get_them_when_they_are_compacted(tmp_path: Path, name: str) -> None:
    shutil.copytree(make_v1.FOLDER / name, tmp_path / "run")
    check(load(tmp_path / "run"))
    compact_recording(tmp_path / "run")
    run = load(tmp_path / "run")
    assert run._store.statistics.numbers == [0]
    check(run)
    assert run._store.verify() == []


def test_damage_costs_no_value_and_compact_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_segments(monkeypatch)
    run = record(tmp_path / "run", walk({"big": (70, 64), "v": (9,)}, 21))
    file = tmp_path / "run" / run._store.statistics.name
    good, truth = file.read_bytes(), rows(run)
    rng = np.random.default_rng(0)
    spoiled = [
        good[:-3],
        good[: len(good) // 2],
        good[32:],
        b"",
        bytes(len(good)),
        good + b"more",
        good[:100] + good[120:],
    ]
    for _ in range(8):
        at = int(rng.integers(len(good)))
        spoiled.append(good[:at] + bytes([good[at] ^ 1 << int(rng.integers(8))]) + good[at + 1 :])
    for k, data in enumerate(spoiled):
        file.write_bytes(data)
        again = load(tmp_path / "run")
        for row, right in zip(rows(again), truth, strict=True):
            assert oracle.alike(row, right, 1e-12) == []
        damages = again._store.verify()
        assert all(d.stop == d.first for d in damages)  # no frame is lost
        if k >= len(spoiled) - 8:
            assert damages
        compact_recording(tmp_path / "run")
        assert load(tmp_path / "run")._store.verify() == []
        assert sorted(load(tmp_path / "run")._store.statistics.numbers) == sorted(run._store.statistics.numbers)


def test_verify_finds_numbers_that_are_not_those_of_the_values(tmp_path: Path) -> None:
    run = record(tmp_path / "run", walk({"big": (70, 64), "v": (9,)}, 20))
    store = run._store
    kept, file = store.statistics.get(0), tmp_path / "run" / store.statistics.name
    good = file.read_bytes()
    from weightlapse.store.statistics_file import StatisticsLog

    for column in kept.rows:
        broken = {name: values.copy() for name, values in kept.rows.items()}
        broken[column][3] += 1
        log = StatisticsLog(tmp_path / "run", bytes.fromhex(store.id))
        log.put(0, _with(kept, rows=broken))
        log.close()
        (damage,) = load(tmp_path / "run")._store.verify()
        assert f"({column})" in damage.what
        file.write_bytes(good)
    for bound in ("low", "high", "jump", "unit_value"):
        values = getattr(kept, bound).copy()
        if values.size:
            values[0, 0] += 0.5 if bound == "low" else -0.5
            log = StatisticsLog(tmp_path / "run", bytes.fromhex(store.id))
            log.put(0, _with(kept, **{bound: values}))
            log.close()
            (damage,) = load(tmp_path / "run")._store.verify()
            assert "(bounds)" in damage.what
            file.write_bytes(good)


def _with(kept: Any, **changed: Any) -> Any:
    from dataclasses import replace

    return replace(kept, **changed)


def test_another_recordings_statistics_do_not_count(tmp_path: Path) -> None:
    a = record(tmp_path / "a", walk({"v": (9, 9)}, 20))
    b = record(tmp_path / "b", walk({"v": (9, 9)}, 20, seed=1))
    theirs = (tmp_path / "b" / b._store.statistics.name).read_bytes()
    (tmp_path / "a" / a._store.statistics.name).write_bytes(theirs)
    check(load(tmp_path / "a"))
    assert "does not begin" in load(tmp_path / "a")._store.verify()[0].what


def test_an_overwrite_takes_the_old_ones_away_and_a_refused_recording_leaves_none(tmp_path: Path) -> None:
    a = record(tmp_path / "run", walk({"v": (9, 9)}, 20))
    old = a._store.statistics.name
    b = record(tmp_path / "run", walk({"v": (9, 9)}, 20, seed=1), overwrite=True)
    assert [p.name for p in (tmp_path / "run").glob("stats-*")] == [b._store.statistics.name] != [old]
    check(b)


def test_they_take_little_room(tmp_path: Path) -> None:
    run = record(tmp_path / "run", walk({"a": (128, 256), "b": (256, 64), "v": (256,)}, 60))
    assert (tmp_path / "run" / run._store.statistics.name).stat().st_size < 0.01 * run.stored_nbytes
    json.dumps(rows(run))
    assert wl.Recording is Recording


@pytest.mark.parametrize("compact", ["after", "never"])
def test_frames_too_large_for_memory_leave_no_open_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compact: str
) -> None:
    monkeypatch.setattr("weightlapse.store.gathering._IN_MEMORY", 0)
    files: list[Any] = []

    def one_more(**_: Any) -> Any:
        files.append(open(tmp_path / f"{len(files)}", "w+b", buffering=0))  # noqa: SIM115 — who asked for it closes it
        return files[-1]

    monkeypatch.setattr("weightlapse.store.gathering.tempfile.TemporaryFile", one_more)
    draw = np.random.default_rng(0)
    with watch({"w": np.zeros((4, 3))}, tmp_path / "run", compact=compact) as rec:
        for _ in range(5):
            rec.step({"w": draw.normal(size=(4, 3))})
    run = load(tmp_path / "run")
    assert run.table().num_rows
    assert run._store.verify() == []
    del run
    gc.collect()
    assert files
    assert all(file.closed for file in files)

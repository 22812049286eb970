"""``run.top``: the same as a twin that reads everything, whatever the storage, the line, the stretch; and reading little."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_store_statistics import record, small_segments, walk
from weightlapse.capture.watch import watch
from weightlapse.errors import InvalidArgument, MissingStep, UnknownTensor
from weightlapse.recording.recording import Recording, load
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.writer import Writer

Entry = tuple[str, tuple[Any, ...], float]


def size(x: np.ndarray, of: str, axis: int) -> np.ndarray:
    """(T, *things) of values (T, *S)."""
    x = np.abs(x.astype(np.complex128 if x.dtype.kind == "c" else np.float64))
    if of == "weights":
        return x
    square = np.where(np.isnan(x), 0, x**2)
    if of == "tensors" or x.ndim == 1:
        return np.sqrt(square.reshape(len(x), -1).sum(1))
    return np.sqrt(np.moveaxis(square, 1 + axis, 1).reshape(len(x), x.shape[1 + axis], -1).sum(2))


def ends(run: Recording, name: str, frames: list[int], span: Any) -> np.ndarray:
    """(1, *S): what a tensor changed by from the first to the last frame; nothing where this is not the last span, or it was another before."""
    first, last = (next(e for e in run.layouts if e.start <= f < e.stop) for f in (frames[0], frames[-1]))
    if span.start != last.start or name not in first or first.shapes[name] != last.shapes[name]:
        return np.empty((0, 1))
    a, b = first[name][frames[0] - first.start], last[name][frames[-1] - last.start]
    wide = np.complex128 if np.asarray(a).dtype.kind == "c" else np.float64
    return (np.asarray(b).astype(wide) - np.asarray(a).astype(wide))[None]


def slow_top(
    run: Recording, what: str, k: int, steps: slice | None = None, of: str = "weights", tensors: str = "*", axes: dict[str, int] | None = None,
) -> list[Entry]:  # fmt: skip
    steps = steps or slice(None)
    low, high = steps.start if steps.start is not None else -1, steps.stop if steps.stop is not None else 1 << 60
    frames = [i for i, s in enumerate(run.steps.tolist()) if low <= s < high]
    found: dict[tuple[int, tuple[int, ...]], float] = {}
    order = {name: i for i, name in enumerate(run.names)}
    with np.errstate(all="ignore"):
        for span in run.layouts:
            for name in span.names:
                if run.streams[name] != "weights" or not fnmatch.fnmatchcase(name, tensors):
                    continue
                mine = [f - span.start for f in frames if span.start <= f < span.stop]
                axis = (axes or {}).get(name, 0) if len(span.shapes[name]) > 1 else 0
                if not mine or not np.prod(span.shapes[name]):
                    continue
                x = np.asarray(span[name][mine[0] : mine[-1] + 1])
                if x.dtype.kind in "biu":
                    x = x.astype(np.float64)
                if what == "update":
                    x = np.diff(x.astype(np.complex128 if x.dtype.kind == "c" else np.float64), axis=0)
                elif what == "change":
                    x = ends(run, name, frames, span) if len(frames) > 1 else x[:0]
                if not len(x):
                    continue
                values = np.fmax.reduce(size(x, of, axis), axis=0)
                for place in np.ndindex(values.shape):
                    if not np.isnan(values[place]):
                        key = (order[name], place)
                        found[key] = max(found.get(key, 0.0), float(values[place]))
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:k]
    names = list(run.names)
    return [
        (names[t], (*(slice(None),) * (axes or {}).get(names[t], 0), *place) if of == "units" else place, v)
        for (t, place), v in ranked
    ]


def same(a: list[Entry], b: list[Entry], of: str) -> None:
    if of == "weights":
        assert a == b
        return
    assert [x[2] for x in a] == pytest.approx([x[2] for x in b], rel=1e-9)
    assert [x[:2] for x in a] == [x[:2] for x in b]


QUESTIONS = [(what, of) for what in ("value", "update", "change") for of in ("weights", "units", "tensors")]
SHAPES = {"big": (70, 64), "v": (9,), "cube": (6, 2, 16, 2), "one": (), "none": (0, 3)}


@pytest.mark.parametrize("tolerance", [None, 1e-2])
@pytest.mark.parametrize("compact", ["after", "never"])
def test_it_is_that_of_the_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tolerance: float | None, compact: str
) -> None:
    small_segments(monkeypatch)
    states = walk(SHAPES, 40)
    states[15]["v"][:3] = (np.nan, np.inf, -np.inf)
    states[16]["big"][4, 4:6] = (np.nan, 55)
    run = record(tmp_path / "run", states, tolerance=tolerance, compact=compact, every=1)
    for what, of in QUESTIONS:
        for steps in (None, slice(0, 15), slice(17, 31), slice(7, 8), slice(16, 18)):
            same(run.top(what, 25, steps=steps, of=of), slow_top(run, what, 25, steps, of), of)
    same(run.top("value", 10**6), slow_top(run, "value", 10**6), "weights")


def test_equal_values_come_in_order(tmp_path: Path) -> None:
    ones = {"a": np.ones((40, 50), np.float32), "b": np.ones(7, np.float32)}
    moving = walk({"c": (3,)}, 5)
    run = record(tmp_path / "run", [ones | {"c": state["c"] * 0.01} for state in moving])
    assert run.top("value", 60) == slow_top(run, "value", 60)
    assert run.top("update", 60) == slow_top(run, "update", 60)
    assert run.top("value", 60)[50] == ("a", (1, 0), 1.0)


@pytest.mark.parametrize("dtype", ["int32", "bool", "float16", "complex64", "float64"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    states = [{"w": (rng.standard_normal((9, 80, 2)) * 5).astype(np.float32).view(np.complex64)[..., 0] if dtype == "complex64" else
               ((rng.standard_normal((9, 80)) * 5).astype(dtype) if dtype != "bool" else rng.random((9, 80)) < 0.5)} for _ in range(20)]  # fmt: skip
    run = record(tmp_path / "run", states)
    for what, of in QUESTIONS:
        found, twin = run.top(what, 12, of=of), slow_top(run, what, 12, None, of)
        assert [v for _, _, v in found] == pytest.approx([v for _, _, v in twin], rel=1e-9)
        if dtype != "complex64":
            same(found, twin, of)


def test_branches_growth_and_stretches_across_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_segments(monkeypatch)
    a, b = walk({"w": (70, 64), "v": (9,)}, 30), walk({"w": (80, 64), "v": (9,)}, 12, seed=1)
    with watch(a[0], tmp_path / "run") as rec:
        for state in a[1:20]:
            rec.step(state)
    with watch(a[12], tmp_path / "run", resume=True, resume_at=12) as rec:
        for state in a[20:26]:
            rec.step(state)
        for state in b:
            rec.step(state)
    run = load(tmp_path / "run")
    for one in (run, *run.branches.values()):
        for what, of in QUESTIONS:
            for steps in (None, slice(10, 16), slice(13, 24), slice(14, 18)):
                if any(s in one.steps for s in range(*(steps or slice(0, 99)).indices(99))):
                    same(one.top(what, 20, steps=steps, of=of), slow_top(one, what, 20, steps, of), of)


def test_ranks(tmp_path: Path) -> None:
    whole = walk({"w": (8, 16), "v": (9,)}, 12)
    for rank in range(2):
        shards = {"w": {"shape": [8, 16], "offset": [0, 8 * rank]}}
        layout = Layout([TensorSpec("w", "float32", (8, 8)), TensorSpec("v", "float32", (9,))])
        frames = np.zeros((12, layout.row_nbytes), np.uint8)
        for k in range(12):
            layout.view(frames, 0)[k] = whole[k]["w"][:, 8 * rank : 8 * rank + 8]
            layout.view(frames, 1)[k] = whole[k]["v"]
        path = tmp_path / "run" if rank == 0 else tmp_path / "run" / "ranks" / "0001"
        path.parent.mkdir(exist_ok=True, parents=True)
        meta = {"distributed": {"rank": rank, "world_size": 2, "shards": shards}}
        writer = Writer.create(path, layout, meta=meta)
        writer.append(np.arange(12), frames)
        writer.close()
    run = load(tmp_path / "run")
    for what, of in QUESTIONS:
        for steps in (None, slice(3, 9)):
            same(run.top(what, 30, steps=steps, of=of), slow_top(run, what, 30, steps, of), of)


def test_units_lie_along_the_axis_of_the_outputs(tmp_path: Path) -> None:
    from weightlapse.wiring.data import Wiring

    states = walk({"k": (5, 6), "b": (6,), "n": (6, 3)}, 20)
    lines = ["weightlapse wiring 1", *(f"tensor {name} {states[0][name].shape}" for name in states[0])]
    lines += ["group hidden: 6 units, permutation", "  k[1]: out ^1", "  b[0]: add ^1", "  n[0]: in ^-1"]
    wiring = Wiring.from_spec("\n".join(lines))
    run = record(tmp_path / "run", states, wiring=wiring)
    for what in ("value", "update", "change"):
        found = run.top(what, 9, of="units", tensors="k")
        same(found, slow_top(run, what, 9, None, "units", "k", {"k": 1}), "units")
        name, index, value = found[0]
        if what == "value":
            assert np.linalg.norm(run[name][(slice(None), *index)], axis=1).max() == pytest.approx(value)


def test_only_blocks_that_can_matter_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_segments(monkeypatch)
    states = walk({f"w{i}": (70, 64) for i in range(6)}, 60)
    for state in states[31:]:
        state["w3"][5, 7] += 3
    run = record(tmp_path / "run", states)
    read: list[tuple[str, int]] = []
    inner = run._store.read
    monkeypatch.setattr(
        run._store,
        "read",
        lambda name, frames, region=None: (read.append((name, len(frames))), inner(name, frames, region))[1],
    )
    assert run.top("update", 1)[0][:2] == ("w3", (5, 7))
    assert len(read) == 1
    assert read[0][0] == "w3"
    assert run.top("update", 3, of="tensors")[0][0] == "w3"
    assert sum(frames for _, frames in read) < 60


def test_wrong_questions(tmp_path: Path) -> None:
    run = record(tmp_path / "run", walk({"w": (3, 4)}, 5))
    for wrong in ({"what": "speed"}, {"k": 0}, {"k": True}, {"k": 1.5}, {"of": "layers"}, {"steps": 3}, {"steps": slice(0, 4, 2)},
                  {"steps": slice("a", None)}, {"streams": ("x",)}, {"streams": ()}):  # fmt: skip
        with pytest.raises(InvalidArgument):
            run.top(**({"what": "value", "k": 3} | wrong))  # type: ignore[arg-type]
    with pytest.raises(UnknownTensor):
        run.top("value", tensors="nothing*")
    with pytest.raises(MissingStep):
        run.top("value", steps=slice(50, 60))

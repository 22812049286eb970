"""Reading: a Track slices like the array it stands for, and reads only what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import weightlapse as wl
from weightlapse.store.blockread import BlockSegment

T = 23
RNG = np.random.default_rng(0)
TRUTH = {
    "cube": RNG.normal(size=(T, 4, 3, 5)).astype(np.float32),
    "vector": RNG.integers(-9, 9, (T, 6)),
    "scalar": RNG.normal(size=T),
    "empty": np.zeros((T, 0, 2), np.float16),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> wl.Recording:
    path = tmp_path_factory.mktemp("rec") / "run"
    at = lambda t: {name: values[t] for name, values in TRUTH.items()}  # noqa: E731
    with wl.watch(at(0), path) as rec:
        for t in range(1, T):
            rec.step(at(t), step=10 * t, loss=-t)
            if t == 5:
                rec.mark("half way <there>")
    return wl.load(path)


def slices(length: int) -> st.SearchStrategy[Any]:
    edge = st.none() | st.integers(-length - 2, length + 2)
    step = st.none() | st.integers(-4, 4).filter(bool)
    return st.builds(slice, edge, edge, step) | st.integers(-length, length - 1)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), name=st.sampled_from(["cube", "vector", "scalar"]))
def test_slicing_is_numpys(run: wl.Recording, data: st.DataObject, name: str) -> None:
    truth = TRUTH[name]
    axes = data.draw(st.integers(0, truth.ndim))
    key: list[Any] = [data.draw(slices(truth.shape[i])) for i in range(axes)]
    if data.draw(st.booleans()):
        key.insert(data.draw(st.integers(0, len(key))), None)
    if axes < truth.ndim and data.draw(st.booleans()):
        key.append(Ellipsis)
    expected = truth[tuple(key)]
    read = run[name][tuple(key)]
    assert np.shape(read) == np.shape(expected)
    assert read.dtype == expected.dtype
    assert np.array_equal(read, expected)


def test_ellipsis_may_stand_in_front_and_in_the_middle(run: wl.Recording) -> None:
    assert np.array_equal(run["cube"][..., 2], TRUTH["cube"][..., 2])
    assert np.array_equal(run["cube"][3, ..., 1:3], TRUTH["cube"][3, ..., 1:3])


def test_lists_and_masks_of_frames(run: wl.Recording) -> None:
    mask = run.steps % 20 == 0
    assert np.array_equal(run["cube"][[5, 1, -1], 2], TRUTH["cube"][[5, 1, -1], 2])
    assert np.array_equal(run["cube"][mask], TRUTH["cube"][mask])
    assert run["vector"][[]].shape == (0, 6)


@pytest.mark.parametrize("key", [23, -24, (0, 4), (0, 0, 0, 0, 0), [23], np.zeros(3, bool)])
def test_outside_is_an_index_error(run: wl.Recording, key: Any) -> None:
    with pytest.raises(IndexError):
        run["cube"][key]


def test_indexing_that_is_not_basic_says_so(run: wl.Recording) -> None:
    for key in ((slice(None), [0, 1]), "fc1", 1.5, (0, TRUTH["cube"][0] > 0)):
        with pytest.raises(wl.InvalidArgument, match="takes numbers, slices"):
            run["cube"][key]


def test_a_track_is_like_an_array(run: wl.Recording) -> None:
    track = run["cube"]
    assert track.shape == (T, 4, 3, 5)
    assert track.ndim == 4
    assert track.dtype == np.float32
    assert len(track) == T
    assert np.array_equal(np.asarray(track), TRUTH["cube"])
    assert np.asarray(track, np.float64).dtype == np.float64
    assert np.array_equal(np.stack(list(track)), TRUTH["cube"])
    assert run["scalar"].shape == (T,)
    assert run["empty"][2:5].shape == (3, 0, 2)
    with pytest.raises(ValueError, match="without a copy"):
        track.__array__(copy=False)  # what np.asarray(track, copy=False) calls, from NumPy 2 on


def test_only_what_is_asked_for_is_read(run: wl.Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = BlockSegment.begin

    def spy(*arguments: Any) -> Any:
        narrow, finish = real(*arguments)

        def counted() -> Any:
            values = finish()
            asked.append(values.size)
            return values

        return narrow, counted

    monkeypatch.setattr(BlockSegment, "begin", spy)
    assert run["cube"][3:7, 1, ::2, 4].shape == (4, 2)
    assert asked == [8]


def test_state_by_step_and_by_frame(run: wl.Recording) -> None:
    for state in (run.state(step=30), run.state(30), run.state(frame=3), run.state(frame=3 - T)):
        assert set(state) == set(TRUTH)
        assert all(np.array_equal(state[name], TRUTH[name][3]) for name in TRUTH)


def test_a_missing_step_names_its_neighbours(run: wl.Recording) -> None:
    with pytest.raises(wl.MissingStep, match="step 34 was not recorded; the nearest are 30, 40"):
        run.state(step=34)
    with pytest.raises(KeyError):
        run.state(step=-1)
    with pytest.raises(wl.MissingStep, match="frames 0 to 22"):
        run.state(frame=23)
    with pytest.raises(wl.InvalidArgument, match="either step="):
        run.state(step=1, frame=1)
    assert all(np.array_equal(run.state()[name], TRUTH[name][-1]) for name in TRUTH)


def test_an_unknown_tensor_names_the_nearest(run: wl.Recording) -> None:
    with pytest.raises(wl.UnknownTensor, match="nearest: 'vector'"):
        run["vektor"]
    with pytest.raises(KeyError):
        run["nothing"]
    assert "cube" in run
    assert "nothing" not in run
    assert list(run) == list(TRUTH)


def test_what_a_recording_says_of_itself(run: wl.Recording) -> None:
    assert run.frames == T
    assert run.names == list(TRUTH)
    assert run.shapes == {name: values.shape[1:] for name, values in TRUTH.items()}
    assert run.dtypes == {"cube": "float32", "vector": "int64", "scalar": "float64", "empty": "float16"}
    assert run.steps.dtype == np.int64
    assert run.nbytes == sum(values.nbytes for values in TRUTH.values())
    on_disk = sum(file.stat().st_size for file in Path(run.path).rglob("*") if file.is_file())
    assert run.stored_nbytes == on_disk
    assert run.events == [(50, "half way <there>")]
    assert run.gaps == []
    assert run.wiring is None
    assert run.tolerance is None
    assert run.bound("cube", 3) == 0.0
    assert np.isnan(run.scalars["loss"][0])
    assert run.scalars["loss"][1:].tolist() == [-t for t in range(1, T)]
    text = repr(run)
    assert "23 frames, steps 0 to 220" in text
    assert "bit-exact" in text
    assert len(text.splitlines()) < 10
    page = run._repr_html_()
    assert "<svg" in page
    assert "loss" in page


def test_html_is_escaped(tmp_path: Path) -> None:
    with wl.watch({"<script>alert(1)</script>": np.zeros(2)}, tmp_path / "<b>run") as rec:
        rec.log(**{"<img src=x>": 1.0})
    page = wl.load(tmp_path / "<b>run")._repr_html_()
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>" not in page


def test_load_into_a_mapping(run: wl.Recording) -> None:
    target = {name: np.zeros_like(values[0]) for name, values in TRUTH.items()}
    held = target["cube"]
    run.load_into(target, step=70)
    assert all(np.array_equal(target[name], TRUTH[name][7]) for name in TRUTH)
    assert target["cube"] is held
    wrong = {"cube": np.zeros((4, 3, 5)), "vector": np.zeros(5)}
    with pytest.raises(wl.InvalidArgument, match=r"'scalar'|vector has shape"):
        run.load_into(wrong)
    assert (wrong["cube"] == 0).all()
    with pytest.raises(wl.InvalidArgument, match="cannot be put into int"):
        run.load_into(3)


def test_a_reader_follows_a_recorder(tmp_path: Path) -> None:
    rec = wl.watch({"w": np.zeros(2)}, tmp_path / "run")
    rec.flush()
    run = wl.load(tmp_path / "run")
    assert run.frames == 1
    for k in range(1, 6):
        rec.step({"w": np.full(2, float(k))}, loss=k)
        rec.flush()
        assert run.refresh() == 1
        assert run["w"][-1].tolist() == [k, k]
        assert run.scalars["loss"][-1] == k
        assert not run.closed
    rec.close()
    assert run.refresh() == 0
    assert run.closed


def test_one_unit_over_time(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    data = pytest.importorskip("weightlapse.wiring.data")
    model = torch.nn.Sequential()
    model.add_module("fc1", torch.nn.Linear(3, 4))
    model.add_module("act", torch.nn.Tanh())
    model.add_module("fc2", torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, example=torch.randn(5, 3)):
        for _ in range(6):
            model(torch.randn(5, 3)).pow(2).mean().backward()
            optimizer.step()
    run = wl.load(tmp_path / "run")
    assert isinstance(run.wiring, data.Wiring)
    unit = run.neuron("fc1", 2)
    assert np.array_equal(unit["incoming"], run["fc1.weight"][:, 2, :])
    assert np.array_equal(unit["bias"], run["fc1.bias"][:, 2])
    assert np.array_equal(unit["outgoing"], run["fc2.weight"][:, :, 2])
    with pytest.raises(wl.WeightlapseError):
        run.neuron("fc9", 0)
    with pytest.raises(wl.WeightlapseError, match="units 0 to 3"):
        run.neuron("fc1", 4)


def test_a_unit_needs_a_wiring(run: wl.Recording) -> None:
    with pytest.raises(wl.InvalidArgument, match="holds no wiring"):
        run.neuron("fc1", 0)

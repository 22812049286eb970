"""Frames read straight into arrays and models, and frame after frame: the same values as states that are read one by one."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import weightlapse as wl
from weightlapse.store import blockread
from weightlapse.store.codecs import decode
from weightlapse.store.reader import Store

RNG = np.random.default_rng(0)
SHAPES = {"a": (300, 40), "b": (7,), "c": (), "d": (0, 4), "e": (64, 64)}
DTYPES = {"a": np.float32, "b": np.float64, "c": np.int64, "d": np.float32, "e": np.float16}


def recorded(path: Path, frames: int = 30, **options: object) -> tuple[wl.Recording, list[dict[str, np.ndarray]]]:
    state = {n: np.asarray(RNG.normal(0, 3, s)).astype(DTYPES[n]) for n, s in SHAPES.items()}
    truth = []
    with wl.watch(state, path, **options) as rec:
        for _ in range(frames):
            truth.append({n: v.copy() for n, v in state.items()})
            for n, v in state.items():
                state[n] = np.asarray(v + RNG.normal(0, 1, v.shape)).astype(DTYPES[n])
            rec.step(state)
    truth.append(state)
    return wl.load(path), truth


@pytest.mark.parametrize("compact", ["never", "after"])
@pytest.mark.parametrize("wide", [False, True])
def test_a_state_into_arrays(tmp_path: Path, compact: str, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run, truth = recorded(tmp_path / "run", compact=compact)
    if wide:  # as if nothing could be kept, and by the compiled pass
        run._store.cache.limit = 0
        monkeypatch.setattr(decode, "WORTH_COMPILING", 0)
    for k in (0, 29, 3):
        out = {n: np.full_like(v, 1) for n, v in truth[k].items()}
        got = run.state(frame=k, out=out)
        for name, values in truth[k].items():
            assert got[name] is out[name]
            assert out[name].tobytes() == values.tobytes(), (k, name)
            assert run.state(frame=k)[name].tobytes() == values.tobytes()


def test_only_what_is_asked_is_read_and_other_layouts_are_filled_too(tmp_path: Path) -> None:
    run, truth = recorded(tmp_path / "run")
    turned = np.zeros((40, 300), np.float32).T
    on_disk = np.memmap(tmp_path / "e.bin", np.float16, "w+", shape=(64, 64))
    tensor = torch.zeros(7, dtype=torch.float64)
    got = run.state(frame=-1, out={"a": turned, "e": on_disk, "b": tensor})
    assert set(got) == {"a", "e", "b"}
    assert (turned == truth[-1]["a"]).all()
    assert (on_disk == truth[-1]["e"]).all()
    assert (tensor.numpy() == truth[-1]["b"]).all()


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        ({"x": np.zeros(3)}, wl.errors.UnknownTensor, "'x'"),
        ({"a": np.zeros((300, 41), np.float32)}, wl.errors.InvalidArgument, "shape"),
        ({"a": np.zeros((300, 40), np.float64)}, wl.errors.InvalidArgument, "float64"),
        ({"a": [1, 2]}, wl.errors.InvalidArgument, "list"),
        ({"b": np.broadcast_to(np.zeros(1), 7)}, wl.errors.InvalidArgument, "written"),
        ({"b": torch.zeros(7, dtype=torch.bfloat16)}, wl.errors.InvalidArgument, "NumPy"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, out: dict, error: type, words: str) -> None:
    run, _ = recorded(tmp_path / "run", frames=2)
    good = np.full(7, 5.0)
    with pytest.raises(error, match=words):
        run.state(frame=0, out={**({"b": good} if "b" not in out else {}), **out})
    assert (good == 5).all()


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Linear(30, 20)
        self.two = torch.nn.Linear(30, 20, bias=False)
        self.two.weight = self.one.weight
        self.norm = torch.nn.BatchNorm1d(20)
        self.brief = torch.nn.Parameter(torch.randn(11).to(torch.bfloat16))
        self.turned = torch.nn.Parameter(torch.randn(4, 6).T)


def test_a_model_is_loaded_in_place_and_autograd_is_told(tmp_path: Path) -> None:
    model = Tied()
    with wl.watch(model, tmp_path / "run") as rec:
        before = {n: p.detach().clone() for n, p in model.state_dict().items()}
        with torch.no_grad():
            for p in model.parameters():
                p += 1
        rec.step()
    run = wl.load(tmp_path / "run")
    place = model.one.weight.data_ptr()
    saved = (model.one.weight * model.one.weight).sum()
    run.load_into(model, step=0)
    assert model.one.weight.data_ptr() == place
    for name, values in model.state_dict().items():
        assert torch.equal(values, before[name]), name
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.backward()
    untied = Tied()
    untied.two.weight = torch.nn.Parameter(torch.zeros(20, 30))
    run.load_into(untied, step=0)
    assert torch.equal(untied.two.weight, before["one.weight"])
    assert torch.equal(untied.one.weight, before["one.weight"])


def test_parts_of_one_memory_and_other_dtypes_are_loaded_too(tmp_path: Path) -> None:
    flat = torch.zeros(600)
    model = torch.nn.Module()
    model.a, model.b = torch.nn.Parameter(flat[:200].view(20, 10)), torch.nn.Parameter(flat[200:].view(40, 10))
    with wl.watch(model, tmp_path / "run") as rec, torch.no_grad():
        flat += torch.arange(600)
        rec.step()
    run = wl.load(tmp_path / "run")
    flat.zero_()
    run.load_into(model)
    assert torch.equal(flat, torch.arange(600.0))
    wider = torch.nn.Module()
    wider.a, wider.b = (
        torch.nn.Parameter(torch.zeros(20, 10, dtype=torch.float64)),
        torch.nn.Parameter(torch.ones(40, 10)),
    )
    run.load_into(wider)
    assert torch.equal(wider.a, torch.arange(200.0).view(20, 10).double())
    small = torch.nn.Module()
    small.a, small.b = torch.nn.Parameter(torch.ones(20, 10)), torch.nn.Parameter(torch.ones(40, 11))
    with pytest.raises(wl.errors.InvalidArgument, match="b has shape"):
        run.load_into(small)
    assert torch.equal(small.a, torch.ones(20, 10))  # nothing was changed


@pytest.mark.parametrize("compact", ["never", "after"])
@pytest.mark.parametrize("memory", [1, 400_000, 1 << 30])
def test_playing_gives_every_state(tmp_path: Path, compact: str, memory: int) -> None:
    run, truth = recorded(tmp_path / "run", compact=compact)
    for start, stop, step in ((0, None, 1), (25, 4, -3), (2, 20, 7), (5, 5, 1)):
        wanted = range(*slice(start, stop, step).indices(31))
        seen = list(run.play(start, stop, step, memory=memory))
        assert [s for s, _ in seen] == list(wanted)
        for k, (_, state) in zip(wanted, seen):
            assert set(state) == set(SHAPES)
            for name, values in state.items():
                assert values.tobytes() == truth[k][name].tobytes(), (k, name)
    assert [set(state) for _, state in run.play(29, tensors=["a"])] == [{"a"}, {"a"}]
    with pytest.raises(wl.errors.UnknownTensor, match="nope"):
        next(run.play(tensors=["nope"]))


def test_playing_goes_through_a_change_of_layout_and_can_be_left(tmp_path: Path) -> None:
    with wl.watch({"w": np.zeros((2, 3))}, tmp_path / "run") as rec:
        rec.step({"w": np.ones((2, 3))})
        rec.step({"w": np.ones((4, 3))})
        rec.step({"w": np.ones((4, 3)) * 2})
    run = wl.load(tmp_path / "run")
    assert [state["w"].shape for _, state in run.play()] == [(2, 3), (2, 3), (4, 3), (4, 3)]
    for _, state in run.play():
        assert state["w"].shape == (2, 3)
        break


@pytest.mark.parametrize("compact", ["never", "after"])
def test_a_large_state_takes_little_more_than_itself(
    tmp_path: Path, compact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTLAPSE_THREADS", "2")
    state = {f"w{i}": RNG.standard_normal((1500, 2000)).astype(np.float32) for i in range(4)}
    with wl.watch(state, tmp_path / "run", compact=compact, memory="400MB") as rec:
        rec.step({n: v + np.float32(1e-3) for n, v in state.items()})
    store = Store.open(tmp_path / "run")
    store.cache.limit = 0
    store.read_frame(1, ["w0"])
    tracemalloc.start()
    got = store.read_frame(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 1.3 * sum(v.nbytes for v in got.values())
    assert isinstance(store.segments[0], blockread.BlockSegment) == (compact == "after")

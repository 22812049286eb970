"""`wl.plan`: what it lists is what would be recorded, nothing is read for it, and what it foretells comes true."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import struct
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import weightlapse as wl
from tests.oracles_plan import simulate
from tests.test_cli_info import run_cli
from tests.zoo import ZOO
from weightlapse.adapters.checkpoints import read_checkpoint
from weightlapse.adapters.find import find_source
from weightlapse.adapters.headers import shapes_in
from weightlapse.adapters.shapes import shapes_of
from weightlapse.adapters.source import ArrayInfo, Selection
from weightlapse.adapters.torch import TorchSource
from weightlapse.capture import plan as module
from weightlapse.capture import rates
from weightlapse.capture.expected import BOUNDED, EXACT, KEY, ratio_of, stored_range
from weightlapse.capture.flow import Flow
from weightlapse.capture.plan_text import duration, settings, will_do
from weightlapse.capture.rates import Rates
from weightlapse.store.layout import TensorSpec
from weightlapse.store.sizes import size

ROOT = Path(__file__).resolve().parent.parent
SLOW_DISK = Rates(copy=5e9, disk=1e8, encode=1e8, encode_all=2e8, threads=2, measured=True)


def net() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.BatchNorm1d(128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    )


def plan(model: Any, **settings: Any) -> Any:
    return wl.plan(model, **{"measure": False, **settings})


# ---- what is listed is what is recorded ----------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [("weights",), ("weights", "buffers"), ("weights", "gradients", "optimizer")])
def test_a_frame_has_the_bytes_of_a_recorded_one(tmp_path: Path, streams: tuple[str, ...]) -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    found = plan(model, optimizer=optimizer, streams=streams)
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=streams):
        model(torch.rand(8, 64)).sum().backward()
        optimizer.step()
    run = wl.load(tmp_path / "run")
    assert found.frame_nbytes == run.nbytes / run.frames
    assert [spec.name for spec in found.layout.tensors] == run.names


@pytest.mark.parametrize("name", sorted(ZOO)[::4])
def test_networks_of_the_zoo_are_listed_as_they_are_recorded(name: str) -> None:
    model = ZOO[name].make()
    for streams in (("weights",), ("weights", "buffers", "gradients")):
        selection = Selection("*", streams)
        assert list(shapes_of(model, selection).arrays) == list(TorchSource(model, selection).arrays())


def test_kinds_of_tensors_are_listed_as_they_are_recorded() -> None:
    model = net()
    model[3].weight = torch.nn.Parameter(model[3].weight.detach().to(torch.bfloat16))
    model.tied = model[0]  # type: ignore[assignment]
    model[0].bias = None
    model.register_parameter("complex", torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64)))
    model.register_buffer("few", torch.zeros(5, dtype=torch.float8_e5m2))
    selection = Selection(["*", "!3.bias"], ("weights", "buffers"))
    wrapped = torch.nn.DataParallel(model)
    assert list(shapes_of(wrapped, selection).arrays) == list(TorchSource(wrapped, selection).arrays())


def test_models_without_values_are_listed_as_those_with() -> None:
    with torch.device("meta"):
        empty = net()
    full = net()
    for streams in (("weights",), ("weights", "buffers"), ("weights", "optimizer")):
        optimizers = [torch.optim.AdamW(m.parameters()) for m in (empty, full)]
        lists = [shapes_of(m, Selection("*", streams), [o]).arrays for m, o in zip((empty, full), optimizers)]
        assert lists[0] == lists[1]


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "RMSprop": lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.5),
    "Adagrad": torch.optim.Adagrad,
    "Adadelta": torch.optim.Adadelta,
    "Adafactor": torch.optim.Adafactor,
    "NAdam": torch.optim.NAdam,
    "foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimizer_will_keep_is_known_before_its_first_step(name: str) -> None:
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    selection = Selection("*", ("weights", "optimizer"))
    before = shapes_of(model, selection, [optimizer]).arrays
    model(torch.rand(8, 64)).sum().backward()
    optimizer.step()
    after = TorchSource(model, selection, [optimizer]).arrays()
    assert {(a.name, a.dtype, a.shape) for a in before} == {(a.name, a.dtype, a.shape) for a in after}
    assert (len(before) > 6) == (name != "SGD")


def test_mappings_and_estimators() -> None:
    from sklearn.neural_network import MLPClassifier

    weights = {"layers": [{"w": np.zeros((3, 4), np.float32)}, {"w": np.zeros(2, ">f8")}], "n": 3, "list": [1.0, 2.0]}
    assert plan(weights).frame_nbytes == 48 + 16 + 8 + 16
    assert plan({"w": torch.empty(5, 7, dtype=torch.bfloat16, device="meta")}).frame_nbytes == 70
    estimator = MLPClassifier((5,)).partial_fit(np.eye(4), [0, 1, 0, 1], classes=[0, 1])
    assert plan(estimator).frame_nbytes == sum(a.nbytes for a in (*estimator.coefs_, *estimator.intercepts_))
    two = plan({"g": net(), "d": net()})
    assert two.frame_nbytes == 2 * plan(net()).frame_nbytes
    assert two.layout.tensors[0].name == "g.0.weight"


def test_recordings_are_planned_for_with_what_they_were_compressed_by(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    weights = {"w": draw.normal(size=20_000).astype(np.float32)}
    with wl.watch(weights, tmp_path / "run", compact="after") as rec:
        for _ in range(40):
            weights["w"] += np.float32(1e-4) * draw.normal(size=20_000).astype(np.float32)
            rec.step()
    run = wl.load(tmp_path / "run")
    for given in (run, tmp_path / "run", str(tmp_path / "run")):
        found = plan(given, steps=40)
        assert found.frame_nbytes == 80_000
        assert found.known_ratio == pytest.approx(run.nbytes / run.stored_nbytes)
        low, high = found.stored_range(40)
        assert low < run.stored_nbytes < high
    assert plan(run, every=7).known_ratio is None
    assert plan(run, tolerance="film").known_ratio is None


# ---- headers -------------------------------------------------------------------------------------------------------


def listed(path: Path) -> set[tuple[str, str, tuple[int, ...]]]:
    streams = Selection("*", ("weights", "buffers"))
    source = find_source(read_checkpoint(path), streams)
    return {(a.name, a.dtype, a.shape) for a in source.arrays(read_checkpoint(path))}


def from_header(path: Path) -> set[tuple[str, str, tuple[int, ...]]]:
    return {(a.name, a.dtype, a.shape) for a in shapes_in(path, Selection("*", ("weights", "buffers"))).arrays}


def checkpoint_files(folder: Path) -> list[Path]:
    state = {n: v.clone() for n, v in net().state_dict().items()} | {"half": torch.zeros(3, 2, dtype=torch.bfloat16)}
    save_file(state, folder / "a.safetensors")
    torch.save(state, folder / "b.pt")
    torch.save({"model": state, "epoch": 3}, folder / "c.ckpt")
    torch.save(state, folder / "d.pth", _use_new_zipfile_serialization=False)
    np.savez(folder / "e.npz", **{n.replace(".", "_"): v.float().numpy() for n, v in state.items()})
    np.savez_compressed(folder / "f.npz", w=np.zeros((3, 4), np.float16), n=np.int64(3))
    for name, index in (("g", True), ("h", False)):
        shards = folder / name
        shards.mkdir()
        halves = [dict(list(state.items())[:4]), dict(list(state.items())[4:])]
        files = [f"model-0000{i + 1}-of-00002.safetensors" for i in range(2)]
        for file, half in zip(files, halves):
            save_file(half, shards / file)
        if index:
            where = {n: file for file, half in zip(files, halves) for n in half}
            (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return sorted(folder.iterdir())


def test_headers_say_what_the_files_hold(tmp_path: Path) -> None:
    files = checkpoint_files(tmp_path)
    assert len(files) == 8
    for file in files:
        if file.name == "h":  # without an index, which reading wants
            assert from_header(file) == from_header(tmp_path / "g")
        else:
            assert from_header(file) == listed(file), file
        assert plan(file).frame_nbytes > 0


def test_hdf5_headers(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.zeros((7, 5), np.float32)
        file["optimizer/vars/0"] = np.zeros((7, 5), np.float32)
    assert plan(tmp_path / "m.weights.h5").frame_nbytes == 140


def big_safetensors(path: Path, nbytes: int, end: int = 0) -> Path:
    """A file whose header says that it holds so many bytes, all of them zeros that take no room."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [nbytes // 4], "data_offsets": [0, nbytes]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + nbytes - end)
    return path


def test_a_file_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    try:
        file = big_safetensors(tmp_path / "w.safetensors", 1 << 40)
    except OSError:
        file = big_safetensors(tmp_path / "w.safetensors", 1 << 33)
    assert plan(file).frame_nbytes == file.stat().st_size // 4096 * 4096


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux says how much was read")
@pytest.mark.parametrize("old", [False, True])
def test_the_values_of_a_torch_file_are_not_read(tmp_path: Path, old: bool) -> None:
    torch.save({"w": torch.zeros(16 << 20)}, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    plan(tmp_path / "w.pt")  # imports what it needs

    def read() -> int:
        return int(re.findall(r"rchar: (\d+)", Path("/proc/self/io").read_text())[0])

    before = read()
    assert plan(tmp_path / "w.pt").frame_nbytes == 64 << 20
    assert read() - before < 1 << 20


def test_files_that_are_none_are_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    big_safetensors(tmp_path / "cut.safetensors", 4096, end=100)
    (tmp_path / "text.safetensors").write_text("hello, this is no header")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    torch.save({"w": print}, tmp_path / "code.pt")
    torch.save({"n": 3}, tmp_path / "none.pt")
    for name in (
        "cut.safetensors",
        "text.safetensors",
        "text.pt",
        "text.npz",
        "text.txt",
        "empty",
        "code.pt",
        "none.pt",
        "absent",
    ):
        code, out, err = run_cli(capsys, "plan", str(tmp_path / name), "--no-measure")
        assert code in (1, 2), name
        assert (out, len(err.splitlines())) == ("", 1), (name, err)


# ---- what cannot be meant ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"every": 0}, "every=0"),
        ({"tolerance": -1}, "tolerance=-1"),
        ({"tensors": "decoder.*"}, "matches none"),
        ({"streams": ("moods",)}, "there is no stream"),
        ({"streams": ("optimizer",)}, "give the optimizer"),
        ({"memory": "much"}, "memory='much'"),
        ({"steps": -1}, "steps=-1"),
        ({"step_seconds": 0.0}, "step_seconds=0.0"),
        ({"optimizer": torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))])}, "none of them is a parameter"),
    ],
)
def test_arguments(given: dict[str, Any], says: str) -> None:
    with pytest.raises(wl.InvalidArgument, match=re.escape(says)):
        plan(net(), **given)


@pytest.mark.parametrize("model", [3, torch.nn.Linear, object(), {}, {"a": net(), "b": 3}])
def test_what_is_no_model(model: Any) -> None:
    with pytest.raises(wl.WeightlapseError):
        plan(model)


def test_lazy_layers_have_no_shape_yet() -> None:
    with pytest.raises(wl.CannotRecord, match="no shape yet"):
        plan(torch.nn.LazyLinear(3))


# ---- what is foretold ----------------------------------------------------------------------------------------------


def tables(page: str) -> list[list[str]]:
    rows = (ROOT / "bench" / "results" / page).read_text(encoding="utf-8").splitlines()
    return [[cell.strip(" *") for cell in row.strip("|").split("|")] for row in rows if row.startswith("| ")]


def measured() -> dict[tuple[Any, ...], list[float]]:
    """Every ratio of the two tables, by what :mod:`weightlapse.capture.expected` knows it by."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in tables("plan.md"):
        if len(row) == 8 and row[3].isdigit():
            _, dtype, stream, apart, exact, fine, film, key = row
            found.setdefault((dtype, stream, apart == "1"), []).append(float(exact))
            if dtype == "float32":
                found.setdefault((1e-3, stream, apart == "1"), []).append(float(fine))
                found.setdefault((1e-2, stream, apart == "1"), []).append(float(film))
            if stream == "weights":
                found.setdefault((dtype,), []).append(float(key))
    for row in tables("size.md"):
        bounded = row[1] in ("0.01", "0.001")
        ratio = row[2] if bounded else row[1]
        if row[0] in ("mlp_adam", "mlp_sgd", "cnn", "gpt", "gpt_bf16"):
            dtype = "bfloat16" if row[0].endswith("bf16") else "float32"
            found.setdefault((float(row[1]) if bounded else dtype, "weights", True), []).append(float(ratio))
    return found


def test_ranges_are_those_of_the_benches() -> None:
    seen = measured()
    for known in (EXACT, BOUNDED):
        for key, (low, high) in known.items():
            assert (low, high) == (min(seen[key]), max(seen[key])), key
    assert {key for key in seen if len(key) == 3} == set(EXACT) | set(BOUNDED)
    for dtype, key_ratio in KEY.items():
        assert min(seen[(dtype,)]) <= key_ratio <= max(seen[(dtype,)])


def test_ranges_are_of_sense() -> None:
    for near in (True, False):
        for dtype in ("float32", "float64", "float16", "bfloat16", "complex64", "int8", "float8_e5m2", "bool"):
            ratios = [ratio_of(dtype, "weights", t, every_step=near) for t in (None, 1e-6, 1e-4, 1e-3, 5e-3, 1e-2, 0.5)]
            assert all(1 <= low <= high for low, high in ratios)
            assert ratios == sorted(ratios)  # more is allowed, less is stored


@pytest.mark.parametrize(
    ("every", "tolerance", "dtype"),
    [(1, None, "float32"), (10, None, "float32"), (1, "film", "float32"), (1, None, "float64")],
)
def test_recordings_take_what_was_foretold(tmp_path: Path, every: int, tolerance: str | None, dtype: str) -> None:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    kind = getattr(torch, dtype)
    inputs, labels = torch.tensor(x / 16, dtype=kind), torch.tensor(y)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).to(kind)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    steps = 120 * every
    found = plan(model, every=every, tolerance=tolerance, steps=steps)
    low, high = found.stored_range(steps)
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, every=every, tolerance=tolerance, compact="after"):
        for step in range(steps):
            mine = torch.arange(64) + 64 * (step % 28)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[mine]), labels[mine]).backward()
            optimizer.step()
    run = wl.load(tmp_path / "run")
    assert run.frames == found.frames(steps)
    assert 0.75 * low < run.stored_nbytes < 1.25 * high
    assert low <= found.stored_nbytes(steps) <= math.ceil(high)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("stream", ["weights", "gradients", "optimizer"])
@pytest.mark.parametrize("every_step", [True, False])
def test_a_looser_tolerance_is_never_expected_to_take_more(dtype: str, stream: str, every_step: bool) -> None:
    specs = [TensorSpec("w", dtype, (300, 200), stream), TensorSpec("b", dtype, (300,), stream)]
    for frames in (1, 10, 1000):
        expected = [
            stored_range(specs, frozenset(), frames, tolerance, every_step=every_step)
            for tolerance in (1e-3, 3e-3, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
        ]
        for tighter, looser in pairwise(expected):
            assert looser[0] <= tighter[0] * (1 + 1e-9)
            assert looser[1] <= tighter[1] * (1 + 1e-9)


def test_what_no_step_changes_costs_little() -> None:
    model = net()
    before = plan(model, steps=500)
    model[0].requires_grad_(False)
    after = plan(model, steps=500)
    assert after.frozen == {"0.weight", "0.bias"}
    assert after.frame_nbytes == before.frame_nbytes
    assert after.stored_nbytes(500) < 0.4 * before.stored_nbytes(500)
    assert "no step changes" in after.text


def test_frames_of_schedules() -> None:
    for when, count in ((1, 101), (7, 15), (wl.at([3, 50, 400]), 3), (wl.log_spaced(4), 10)):
        found = plan(net(), every=when)
        assert found.frames(100) == count
        assert found.frames(0) == 1


# ---- flow ----------------------------------------------------------------------------------------------------------


def scale_tables() -> Any:
    spec = importlib.util.spec_from_file_location("scale_tables", ROOT / "docs" / "explain" / "scale_tables.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["scale_tables"] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def complaints(flow: Flow, claimed: Flow, frames: int) -> list[str]:
    """Where what ``claimed`` says of itself differs from what happens to ``flow`` by more than a frame here or there."""
    block, stretch = simulate(flow, frames), simulate(flow, frames, stretch=True)
    frame, ends = flow.frame_nbytes, claimed.closes_in(frames)
    slack = 2 * (flow.frame_seconds + frame / min(flow.encode_all, flow.disk * flow.ratio)) + 0.01 * ends
    pairs = {
        "training": (
            block.training_seconds,
            claimed.training_seconds(frames),
            2 * flow.frame_seconds + 0.01 * frames * flow.period,
        ),
        "gap": (stretch.left_out / frames, claimed.gap(frames), 2 / frames),
        "most": (block.most_nbytes, claimed.most_nbytes(frames), 2 * frame + 0.01 * claimed.most_nbytes(frames)),
        "closes": (block.closes_in, ends, slack),
        "mirrored": (
            block.mirrored_in,
            claimed.mirrored_in(frames),
            slack + 2 * frame / flow.ratio / min(flow.network, 1e30),
        ),
    }
    found = [
        f"{name}: {seen:g} and not {said:g}" for name, (seen, said, off) in pairs.items() if abs(seen - said) > off
    ]
    waited = block.training_seconds > 1.01 * frames * flow.period + 2 * flow.frame_seconds
    return found + ["kept up"] * bool(waited and claimed.kept_up)


def test_every_row_of_the_page_is_what_a_simulation_finds() -> None:
    page = scale_tables()
    for setup in page.SETUPS:
        for recipe in page.RECIPES:
            flow, frames = page.flow_of(setup, recipe)
            assert complaints(flow, flow, frames) == [], (setup.name, recipe.name)


def test_the_page_is_what_its_tables_are() -> None:
    page = scale_tables()
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text) == text, "run: python docs/explain/scale_tables.py --write"
    assert page.filled(text.replace("| 451 ms |", "| 45 ms |")) == text
    with pytest.raises(ValueError, match="0 places"):
        page.filled(text.replace("<!-- table rates -->", ""))


def test_made_rates_of_every_kind() -> None:
    draw = np.random.default_rng(3)
    for _ in range(24):
        period, disk, encode, more, ratio = np.exp(draw.normal(size=5) * 0.7)
        flow = Flow(
            1.0, period, disk, encode, encode + more, 1 + ratio, int(draw.integers(2, 60)), float(np.exp(draw.normal()))
        )
        frames = int(draw.integers(30, 150))
        assert complaints(flow, flow, frames) == [], flow


def test_the_comparison_with_the_simulation_can_fail() -> None:
    true = Flow(1.0, 1.0, 0.8, 0.3, 0.6, 2.0, 10)
    for wrong in (
        Flow(1.0, 1.0, 1.6, 0.3, 0.6, 2.0, 10),
        Flow(1.0, 1.0, 0.8, 0.3, 1.2, 2.0, 10),
        Flow(1.0, 1.0, 0.8, 0.3, 0.6, 2.0, 60),
    ):
        assert complaints(true, wrong, 100)


# ---- what would do -------------------------------------------------------------------------------------------------


def held(nbytes_of: dict[str, int]) -> dict[str, Any]:
    """A mapping of tensors without values that take so many bytes."""
    return {name: torch.empty(n // 4, device="meta") for name, n in nbytes_of.items()}


MODELS = {
    "one large": held({"wte": 300_000_000, "a": 10_000_000, "b": 20_000_000}),
    "even": held({f"layer.{i}": 10_000_000 for i in range(30)}),
    "two large": held({"wte": 200_000_000, "head": 200_000_000, "rest": 6_000_000}),
}


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", lambda *_, **__: SLOW_DISK)
    monkeypatch.setattr(module, "free_nbytes", lambda _: 10**15)
    monkeypatch.setattr("weightlapse.capture.memory.available_memory", lambda: 8 * 10**9)


@pytest.mark.usefixtures("slow_disk")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("seconds", "steps"), [(0.1, 100_000), (1.0, 1000), (2.5, 60)])
def test_the_settings_that_are_proposed_do(name: str, seconds: float, steps: int) -> None:
    model = MODELS[name]
    first = wl.plan(model, step_seconds=seconds, steps=steps)
    proposed = settings(first, seconds, steps)
    if will_do(first, seconds, steps):
        assert first.warning() is None
        return
    said = first.warning()
    assert said is not None
    assert len(said.splitlines()) == 1
    assert any(text.startswith("every=") for text in proposed)
    for text in proposed:
        assert text in said
        if found := re.match(r"every=(\d+)", text):
            assert will_do(wl.plan(model, every=int(found[1]), step_seconds=seconds, steps=steps), seconds, steps)
        elif found := re.match(r"tensors=(\[.*?\])", text):
            assert will_do(wl.plan(model, tensors=json.loads(found[1]), steps=steps), seconds, steps)
        elif found := re.match(r'memory="(\w+)"', text):
            more = wl.plan(model, memory=found[1], steps=steps)
            assert not more.flow(seconds).held_up(more.frames(steps))
        else:
            assert text.startswith("tensors= that take")


@pytest.mark.usefixtures("slow_disk")
def test_each_kind_of_setting_is_proposed_somewhere() -> None:
    seen = set()
    for model in MODELS.values():
        for seconds, steps in ((0.1, 100_000), (1.0, 1000), (2.5, 60), (1.5, 20)):
            seen |= {
                text.split("=")[0] + "=" + text.split("=")[1][:2] for text in settings(wl.plan(model), seconds, steps)
            }
    assert {'tensors=["', "tensors= t"} <= seen
    assert any(text.startswith("every=") for text in seen)
    assert any(text.startswith("memory=") for text in seen)


def test_a_full_disk_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["even"]
    monkeypatch.setattr(module, "free_nbytes", lambda _: 10**9)
    found = plan(model, steps=1000)
    said = found.warning()
    assert said is not None
    assert "1 GB are free" in said
    every = int(re.findall(r"every=(\d+)", said)[0])
    assert plan(model, every=every, steps=1000).warning() is None
    monkeypatch.setattr(module, "free_nbytes", lambda _: 10**15)
    assert plan(model, steps=1000).warning() is None


def test_memory() -> None:
    small = plan(net(), memory="20kB")
    assert small.ring_frames < 2
    said = small.warning()
    assert said is not None
    assert f"memory={small.memory_needed}" in said
    enough = plan(net(), memory=small.memory_needed)
    assert (enough.ring_frames, enough.warning()) == (2, None)
    assert plan(MODELS["even"]).ring_frames >= 2
    assert plan(net()).memory < 10**8  # no more than a full ring takes


def test_frozen_weights_are_named_where_leaving_them_out_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Linear(8000, 8000), torch.nn.Linear(8000, 16))
    model[0].requires_grad_(False)
    monkeypatch.setattr(module, "free_nbytes", lambda _: 10**15)
    said = plan(model).warning(step_seconds=0.01, steps=10_000)
    assert said is not None
    assert "what is trained alone (512 kB a frame)" in said


# ---- measuring, text, shell ----------------------------------------------------------------------------------------


def test_measuring_gives_rates_and_leaves_nothing_behind(tmp_path: Path) -> None:
    found = wl.plan(net(), path=tmp_path / "not" / "there" / "yet", tolerance="film")
    assert found.rates.measured
    assert all(rate > 1e5 for rate in (found.rates.copy, found.rates.disk, found.rates.encode, found.rates.encode_all))
    assert found.rates.encode_all >= found.rates.encode
    assert list(tmp_path.iterdir()) == []
    assert rates._device_copy_rate("cpu") > 1e5


def test_what_is_encoded_to_measure_is_like_weights() -> None:
    for dtype in ("float32", "bfloat16", "float64"):
        patterns = rates.moving(64, 4096, dtype)
        low, high = EXACT[dtype, "weights", True][0], EXACT[dtype, "weights", False][0]
        assert 0.6 * min(low, high) < patterns.nbytes / rates.compress(patterns, dtype, None) < 1.7 * max(low, high)


def test_where_nothing_can_be_written_the_rates_are_typical(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Rates:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(module, "measure", refuse)
    found = wl.plan(net())
    assert not found.rates.measured
    assert "Read-only file system" in found.text


def test_a_billion_parameters_are_planned_for_at_once() -> None:
    with torch.device("meta"):
        model = torch.nn.Sequential(*[torch.nn.Linear(4096, 4096) for _ in range(60)])
    optimizer = torch.optim.AdamW(model.parameters())
    plan(model, optimizer=optimizer)
    began = time.process_time()
    found = plan(model, optimizer=optimizer, step_seconds=0.5)
    assert found.values > 10**9
    assert found.other_streams['streams=("weights", "optimizer")'] == pytest.approx(3 * found.frame_nbytes, rel=1e-3)
    assert len(found.text) > 500
    assert time.process_time() - began < 2.0


def test_bytes_and_times_for_people() -> None:
    said = {n: size(n) for n in (0, 999, 1000, 999_499, 999_500, 123_456_789, 5 * 10**15)}
    assert list(said.values()) == ["0 B", "999 B", "1 kB", "999 kB", "1 MB", "123 MB", "5 PB"]
    assert [duration(s) for s in (0.0, 5e-6, 0.0123, 5, 200, 10_000, 10**6)] == [
        "0 µs",
        "5 µs",
        "12 ms",
        "5 s",
        "3.3 min",
        "2.8 h",
        "12 days",
    ]


def test_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"wte": torch.zeros(1000, 50), "b": torch.zeros(50)}, tmp_path / "m.safetensors")
    file = str(tmp_path / "m.safetensors")
    code, out, err = run_cli(capsys, "plan", file, "--every", "10", "--steps", "500", "--step-ms", "20", "--no-measure")
    assert (code, err) == (0, "")
    for said in (
        "2 tensors, 50,050 values of float32",
        "200 kB before compression",
        "51 frames",
        "kept up with",
        "bench/results",
    ):
        assert said in out
    code, out, err = run_cli(
        capsys,
        "plan",
        file,
        "--tensors",
        "b",
        "--tolerance",
        "1e-3",
        "--json",
        "--step-ms",
        "20",
        "--at",
        str(tmp_path),
    )
    facts = json.loads(out)
    assert (code, facts["frame_nbytes"], facts["tolerance"], facts["frames"]) == (0, 200, 1e-3, 1001)
    assert facts["at"]["kept_up"] is True
    assert facts["rates"]["measured"] is True
    assert facts["warning"] is None
    for wrong in (["--every", "0"], ["--tolerance", "much"], ["--tensors", "x"], ["--steps", "-3"]):
        code, out, err = run_cli(capsys, "plan", file, "--no-measure", *wrong)
        assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_a_plan_shows_itself() -> None:
    found = plan({"w": np.zeros(3, np.float32)})
    assert str(found) == found.text
    assert math.isfinite(found.ratio)
    assert found.to_json()["notes"] == []
    assert ArrayInfo("w", "float32", (3,)) in shapes_of({"w": np.zeros(3, np.float32)}, Selection()).arrays

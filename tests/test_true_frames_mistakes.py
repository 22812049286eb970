"""One mistake costs what it was about, is said once, and the rest of the recording is there."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import weightlapse as wl
from tests.nets_capture import bits, clone, mlp
from tests.test_true_frames_updates import backward, said


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTLAPSE_STRICT", raising=False)
    torch.manual_seed(0)


NO_NUMBERS = {
    "None": None,
    "text": "0.5",
    "two losses": np.ones(2),
    "two losses of torch": torch.ones(2),
    "complex": 1j,
    "dict": {"loss": 1.0},
    "huge": 10**400,
}


@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_a_scalar_that_is_no_number(tmp_path: Path, kind: str) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=optimizer) as rec:
        for k in range(6):
            backward(model)
            optimizer.step()
            rec.log(loss=NO_NUMBERS[kind] if k in (2, 4) else k, lr=0.1)
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == list(range(7))
    assert run.stopped is None
    assert np.array_equal(run.scalars["loss"], [np.nan, 0, 1, np.nan, 3, np.nan, 5], equal_nan=True)
    assert run.scalars["lr"][1:].tolist() == [0.1] * 6
    assert len(texts) == 1
    assert "loss=" in texts[0]
    assert "is not a number, and is left out" in texts[0]
    assert any(f.kind == "not_a_number" and f.first_step == 3 for f in wl.diagnose(run))


def test_each_scalar_is_spoken_of(tmp_path: Path) -> None:
    with said() as texts, wl.watch({"w": np.zeros(3)}, tmp_path / "run") as rec:
        for k in range(3):
            rec.step({"w": np.full(3, k + 1.0)}, loss=None, accuracy=[], good=k)
    assert [text.split(": ")[1].split("=")[0] for text in texts] == ["loss", "accuracy"]
    assert wl.load(tmp_path / "run").scalars["good"][1:].tolist() == [0, 1, 2]


@pytest.mark.parametrize("number", [2, 0, -1, "five", 2.5, None])
def test_a_step_number_that_cannot_be_meant(tmp_path: Path, number: Any) -> None:
    w = np.zeros(3)
    rec = wl.watch({"w": w}, tmp_path / "run")
    with said() as texts:
        for k, step in enumerate([1, 2, number, 3, np.int64(4), torch.tensor(6), 7.0], 1):
            rec.step({"w": np.full(3, float(k))}, step=step, k=k)
        rec.close()
    run = wl.load(tmp_path / "run")
    if number is None:  # counted on: three is then there twice, the second time with another number
        assert run.steps.tolist() == [0, 1, 2, 3, 4, 6, 7]
        assert run["w"][:, 0].tolist() == [0, 1, 2, 3, 5, 6, 7]
    else:
        assert run.steps.tolist() == [0, 1, 2, 3, 4, 6, 7]
        assert run["w"][:, 0].tolist() == [0, 1, 2, 4, 5, 6, 7]
        assert run.scalars["k"][1:].tolist() == [1, 2, 4, 5, 6, 7]
    assert len(texts) == 1
    assert "its frame is left out" in texts[0]
    assert run.stopped is None


def surgery(kind: str, model: nn.Sequential) -> None:
    if kind == "weight norm":
        parametrizations.weight_norm(model[0])
    elif kind == "pruning":
        prune.l1_unstructured(model[0], "weight", amount=0.5)
    elif kind == "no bias":
        model[0].bias = None
    elif kind == "old weight norm":
        torch.nn.utils.weight_norm(model[0])
    elif kind == "deleted":
        del model[2]
    elif kind == "spectral norm":
        parametrizations.spectral_norm(model[2])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["weight norm", "old weight norm", "pruning", "no bias", "deleted", "spectral norm"])
@pytest.mark.parametrize("every", [1, 3])
def test_surgery_with_gradients_recorded(tmp_path: Path, kind: str, every: int) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    states, gradients = [clone(model)], [{}]
    with (
        said() as texts,
        wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=("weights", "gradients"), every=every) as rec,
    ):
        for k in range(9):
            if k == 4:
                surgery(kind, model)
                optimizer.param_groups.clear()
                optimizer.add_param_group({"params": list(model.parameters())})
            optimizer.zero_grad()
            backward(model)
            gradients.append({n: p.grad.clone().numpy() for n, p in model.named_parameters() if p.grad is not None})
            optimizer.step()
            states.append(clone(model))
        assert rec.active
    assert texts == []
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == list(range(0, 10, every))
    assert len(run.layouts) == 2
    for step in run.steps.tolist():
        state = run.state(step=step, streams=("weights", "gradients"))
        assert {n for n in state if not n.startswith("gradients:")} == set(states[step])
        for name, values in states[step].items():
            assert state[name].tobytes() == values.tobytes()
        for name, values in gradients[step].items():
            assert np.array_equal(state[f"gradients:{name}"], values), (step, name)


def test_gradients_of_steps_that_are_said(tmp_path: Path) -> None:
    """Without an optimizer nobody says when an update begins: the gradients are those at rec.step()."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with wl.watch(model, tmp_path / "run", streams=("weights", "gradients")) as rec:
        expected = []
        for _ in range(300):  # more than the ring has rows
            optimizer.zero_grad()
            backward(model)
            optimizer.step()
            expected.append(model[0].bias.grad.clone().numpy())
            rec.step()
    assert np.array_equal(wl.load(tmp_path / "run")["gradients:0.bias"][1:], np.stack(expected))


def test_a_mapping_changed_in_place(tmp_path: Path) -> None:
    w = {"a": np.zeros(4), "b": {"c": np.ones((2, 2), np.float32)}}
    by_hand = [0.0]
    with said() as texts, wl.watch(w, tmp_path / "run") as rec:
        for k in range(5):
            w["a"] += 1
            w["b"]["c"] *= 2
            rec.step(loss=k)
            by_hand.append(float(w["a"][0]))
    run = wl.load(tmp_path / "run")
    assert run["a"][:, 0].tolist() == by_hand
    assert run["b.c"][:, 0, 0].tolist() == [1, 2, 4, 8, 16, 32]
    assert texts == []


@pytest.mark.parametrize("at_rest", [range(4, 7), range(8, 10), range(3, 10, 2)])
def test_steps_in_which_nothing_changes_are_frames(tmp_path: Path, at_rest: range) -> None:
    w = {"a": np.zeros(4)}
    by_hand = [0.0]
    with said(), wl.watch(w, tmp_path / "run") as rec:
        for t in range(1, 10):
            w["a"] += t not in at_rest
            rec.step(loss=float(t))
            by_hand.append(float(w["a"][0]))
    run = wl.load(tmp_path / "run")
    assert run["a"][:, 0].tolist() == by_hand
    assert run.scalars["loss"][1:].tolist() == list(range(1, 10))
    assert run.gaps == []


def test_equal_values_that_are_given_are_frames_from_the_first_on(tmp_path: Path) -> None:
    w = {"a": np.zeros(4)}
    with said(), wl.watch(w, tmp_path / "run") as rec:
        for t in range(1, 5):
            rec.step(w, loss=float(t))
    run = wl.load(tmp_path / "run")
    assert (run.steps.tolist(), run.scalars["loss"][1:].tolist(), run.gaps) == ([0, 1, 2, 3, 4], [1, 2, 3, 4], [])


def test_a_network_of_empty_tensors_is_refused_for_what_it_is(tmp_path: Path) -> None:
    for empty in ({"a": np.zeros((0, 3))}, {"a": np.zeros(0), "b": np.zeros((2, 0), np.float32)}):
        with pytest.raises(wl.CannotRecord, match="every tensor to be recorded is empty"):
            wl.watch(empty, tmp_path / "run")


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_mapping_made_anew_must_be_given(tmp_path: Path, kind: str) -> None:
    ones = np.ones(4) if kind == "numpy" else torch.ones(4)
    w = {"a": ones * 0}
    with said() as texts, wl.watch(w, tmp_path / "run") as rec:
        for _ in range(3):
            w = {"a": w["a"] + 1}
            rec.step(loss=1.0)
        w = {"a": w["a"] + 1}
        rec.step(w)
    assert len(texts) == 1
    assert (
        "rec.step() was called without values, and the mapping given to watch() has not been changed in place"
        in texts[0]
    )
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [0, 4]
    assert run["a"][:, 0].tolist() == [0, 4]
    assert [gap[:2] for gap in run.gaps] == [(1, 3)]
    assert np.isnan(run.scalars.get("loss", np.array([np.nan]))).all()


def test_in_strict_mode_each_of_them_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTLAPSE_STRICT", "1")
    rec = wl.watch({"w": np.zeros(3)}, tmp_path / "run")
    for call in (
        lambda: rec.log(loss=None),
        lambda: rec.step({"w": np.ones(3)}, step=0),
        lambda: rec.step({"w": np.ones(3)}, step="x"),
        lambda: rec.step(),
    ):
        with pytest.raises(wl.InvalidArgument):
            call()
    rec.step({"w": np.ones(3)}, step=7)
    rec.close()
    assert wl.load(tmp_path / "run").steps.tolist() == [0, 7]


def test_warnings_that_are_errors_cost_no_frame(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    raised = 0
    rec = wl.watch(model, tmp_path / "run", optimizer=optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k in range(6):
            backward(model)
            try:
                optimizer.step()
            except UserWarning:
                raised += 1
            with torch.no_grad():
                model[0].weight.clamp_(-0.01 * k, 0.01 * k)
        try:
            rec.close()
        except UserWarning:
            raised += 1
    assert raised == 2
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == list(range(8))
    assert run.closed
    assert run["0.weight"][-1].tobytes() == bits(model[0].weight).tobytes()

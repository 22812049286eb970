"""Watching torch modules: every frame equals, bit for bit, a clone taken by hand after the same step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.nets_capture import bits, check, clone, mlp, train
from weightlapse.errors import RecorderWarning


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTLAPSE_STRICT", "1")
    torch.manual_seed(0)


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-2),
    "adamw foreach": lambda p: torch.optim.AdamW(p, 1e-2, foreach=True),
    "adam fused": lambda p: torch.optim.Adam(p, 1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-2),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_step_of_an_optimizer(tmp_path: Path, kind: str) -> None:
    model = mlp()
    optimizer = OPTIMIZERS[kind](model.parameters())
    by_hand = [clone(model)]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer) as rec:
        train(model, [optimizer], lambda k: (by_hand.append(clone(model)), rec.log(loss=k / 2))[0])
        assert rec.frames == 13
    run = check(tmp_path / "run", by_hand)
    assert np.isnan(run.scalars["loss"][0])
    assert run.scalars["loss"][1:].tolist() == [k / 2 for k in range(12)]


def test_two_optimizers_at_once(tmp_path: Path) -> None:
    model = mlp()
    both = [torch.optim.Adam(model[0].parameters(), 1e-2), torch.optim.SGD(model[2].parameters(), 0.1)]
    by_hand = [clone(model)]
    with wl.watch(model, tmp_path / "run", optimizer=both):
        train(model, both, lambda k: by_hand.append(clone(model)))
    check(tmp_path / "run", by_hand)
    assert len(by_hand) == 25


def test_gradient_accumulation_has_fewer_frames_than_batches(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    by_hand = [clone(model)]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer):
        train(model, [optimizer], lambda k: by_hand.append(clone(model)), steps=4, batches=3)
    assert check(tmp_path / "run", by_hand).frames == 5


def test_lbfgs_is_one_frame_per_step_whatever_its_closures(tmp_path: Path) -> None:
    model, x = mlp(), torch.randn(5, 6)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    by_hand, calls = [clone(model)], 0

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        return loss

    with wl.watch(model, tmp_path / "run", optimizer=optimizer):
        for _ in range(4):
            optimizer.step(closure)
            by_hand.append(clone(model))
    check(tmp_path / "run", by_hand)
    assert calls > 4


def test_tied_weights_are_stored_once_and_answer_to_all_names(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)
            self.head.weight = self.embed.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(x))

    model = Tied()
    optimizer = torch.optim.Adam(model.parameters())
    by_hand = [clone(model)]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer):
        train(model, [optimizer], lambda k: by_hand.append(clone(model)))
    run = check(tmp_path / "run", by_hand)
    assert run.aliases == {"embed.weight": ["head.weight"]}
    assert np.array_equal(run["head.weight"][:], run["embed.weight"][:])
    state = run.state(frame=3)
    assert set(state) == set(model.state_dict())
    assert state["head.weight"] is state["embed.weight"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    by_hand, values = [clone(model)], [model[0].weight.detach().clone()]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer):
        train(
            model,
            [optimizer],
            lambda k: (by_hand.append(clone(model)), values.append(model[0].weight.detach().clone()))[0],
        )
    run = check(tmp_path / "run", by_hand)
    assert run.dtypes["0.weight"] == str(dtype).removeprefix("torch.")
    expected = torch.stack(values)
    assert np.array_equal(run["0.weight"][:], (expected.float() if dtype == torch.bfloat16 else expected).numpy())
    other = mlp().to(dtype)
    run.load_into(other, step=7)
    assert all(np.array_equal(bits(p), by_hand[7][n]) for n, p in other.named_parameters())


def test_several_dtypes_and_buffers_in_one_network(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 5)
            self.norm = nn.BatchNorm1d(5)
            self.b = nn.Linear(5, 3, dtype=torch.bfloat16)
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
            self.empty = nn.Parameter(torch.zeros(0, 3))
            self.register_buffer("flags", torch.tensor([True, False, True]))
            self.register_buffer("scratch", torch.zeros(2), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.norm(self.a(x.float())).bfloat16()).double() * self.scale

    model = Mixed()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    whole = lambda: {name: bits(t) for name, t in model.state_dict().items()}  # noqa: E731
    by_hand = [whole()]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=("weights", "buffers")):
        train(model, [optimizer], lambda k: by_hand.append(whole()))
    run = check(tmp_path / "run", by_hand)
    assert run.streams["norm.num_batches_tracked"] == "buffers"
    assert run["norm.num_batches_tracked"][:].tolist() == list(range(13))
    assert run["scale"].shape == (13,)
    assert run["empty"][:].shape == (13, 0, 3)
    fresh = Mixed()
    run.load_into(fresh, step=5)
    assert all(bits(t).tobytes() == by_hand[5][n].tobytes() for n, t in fresh.state_dict().items())


def test_nan_and_inf_planted_in_mid_run(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    by_hand = [clone(model)]

    def plant(k: int) -> None:
        by_hand.append(clone(model))
        with torch.no_grad():
            if k == 4:
                model[0].weight[2, 3] = float("nan")
                model[0].bias[1] = float("-inf")
            if k == 5:
                model[0].weight.view(torch.int32)[0, 0] = 0x7FA12345  # a NaN with a payload
                model[0].weight[0, 1] = -0.0

    with (
        pytest.warns(RecorderWarning, match="not what the frame of step 6 holds when the next update begins"),
        wl.watch(model, tmp_path / "run", optimizer=optimizer),
    ):
        train(model, [optimizer], plant)
    run = check(tmp_path / "run", by_hand)
    assert np.isnan(run["0.weight"][6, 2, 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_update(tmp_path: Path, dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    gradients = []
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=("weights", "gradients")):
        for k in range(6):
            model(torch.randn(5, 6, dtype=dtype)).pow(2).mean().backward()
            if k == 3:
                model[0].bias.grad = None
            gradients.append(
                {n: None if p.grad is None else p.grad.float().numpy() for n, p in model.named_parameters()}
            )
            optimizer.step()
            optimizer.zero_grad()
    run = wl.load(tmp_path / "run")
    for name, _ in model.named_parameters():
        track = run[f"gradients:{name}"]
        assert np.isnan(track[0]).all()
        for k, by_name in enumerate(gradients):
            expected = by_name[name]
            assert np.isnan(track[k + 1]).all() if expected is None else np.array_equal(track[k + 1], expected)
    assert set(run.state(frame=2)) == {n for n, _ in model.named_parameters()}


def test_optimizer_state_from_the_first_frame_on(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    states = []
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=("weights", "optimizer")):
        train(model, [optimizer], lambda k: states.append(optimizer.state[model[0].weight]["exp_avg"].clone().numpy()))
    run = wl.load(tmp_path / "run")
    assert len(run.layouts) == 1
    track = run["optimizer:0.weight.exp_avg"]
    assert (track[0] == 0).all()
    assert np.array_equal(track[1:], np.stack(states))
    assert run["optimizer:2.bias.step"][:].tolist() == list(range(13))


def test_scaled_steps_that_were_skipped_are_no_frames(tmp_path: Path) -> None:
    for fused in (False, True):  # a fused optimizer is called even then, and skips by itself
        model = mlp()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        by_hand = [clone(model)]
        with wl.watch(model, tmp_path / f"run{fused}", optimizer=optimizer):
            for k in range(8):
                loss = model(torch.randn(5, 6)).pow(2).mean() * (float("inf") if k in (2, 5) else 1.0)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                if k not in (2, 5):
                    by_hand.append(clone(model))
        check(tmp_path / f"run{fused}", by_hand)


SCHEDULES = [
    (3, [0, 3, 6, 9, 12]),
    (wl.every(5), [0, 5, 10]),
    (wl.at([1, 2, 11]), [0, 1, 2, 11]),
    ([4, 8], [0, 4, 8]),
    (wl.log_spaced(per_decade=3), [0, 1, 2, 5, 10]),
]


@pytest.mark.parametrize("every, steps", SCHEDULES)
def test_schedules(tmp_path: Path, every: object, steps: list[int]) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    by_hand = [clone(model)]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, every=every):
        train(model, [optimizer], lambda k: by_hand.append(clone(model)))
    check(tmp_path / "run", [by_hand[s] for s in steps], steps)


def test_globs_choose_tensors(tmp_path: Path) -> None:
    model = mlp()
    with wl.watch(model, tmp_path / "a", tensors="*.weight"):
        pass
    with wl.watch(model, tmp_path / "b", tensors=["0.*", "2.bias"]):
        pass
    assert wl.load(tmp_path / "a").names == ["0.weight", "2.weight"]
    assert wl.load(tmp_path / "b").names == ["0.weight", "0.bias", "2.bias"]


def test_without_an_optimizer_each_step_is_said(tmp_path: Path) -> None:
    model = mlp()
    by_hand = [clone(model)]
    with wl.watch(model, tmp_path / "run") as rec:
        for k in range(5):
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(1)
            rec.step(step=10 * k + 10, loss=k)
            by_hand.append(clone(model))
    run = check(tmp_path / "run", by_hand, [0, 10, 20, 30, 40, 50])
    assert run.scalars["loss"][1:].tolist() == [0, 1, 2, 3, 4]


def test_training_is_the_same_with_and_without_a_recorder(tmp_path: Path) -> None:
    ends = []
    for watched in (False, True):
        torch.manual_seed(3)
        model = mlp()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        if watched:
            wl.watch(
                model, tmp_path / "run", optimizer=optimizer, streams=("weights", "buffers", "gradients", "optimizer")
            )
        train(model, [optimizer], lambda k: None)
        ends.append(clone(model))
    assert all(np.array_equal(ends[0][n], ends[1][n]) for n in ends[0])


def test_an_optimizer_that_calls_its_parent_is_one_step(tmp_path: Path) -> None:
    class Loud(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1))], lr=1.0
    )  # PyTorch wraps the parent's step when its first instance is made
    model = torch.nn.Linear(3, 2)
    optimizer = Loud(model.parameters(), lr=0.1)
    with wl.watch(model, tmp_path / "run", optimizer=optimizer):
        for _ in range(4):
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
    assert wl.load(tmp_path / "run").steps.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["AdamW", "Adam", "NAdam", "RMSprop", "Adagrad"])
def test_the_state_of_every_optimizer_is_in_the_first_layout(tmp_path: Path, kind: str) -> None:
    """AdamW keeps a default that its own constructor refuses: its state must be foreseen all the same."""
    model = torch.nn.Linear(3, 2)
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01)
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=("weights", "optimizer")):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(5, 3)).square().mean().backward()
            optimizer.step()
    run = wl.load(tmp_path / "run")
    assert len(run.layouts) == 1
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            assert np.array_equal(run[f"optimizer:{name}.{key}"][-1], value.numpy()), (name, key)

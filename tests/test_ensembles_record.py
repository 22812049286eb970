"""Lift and ensembles are recorded like any training: one recording, frame 0 before the first update."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import weightlapse as wl
from tests.oracles_lift import study_data
from weightlapse.ensembles.stack import Stack, glorot


def test_one_recording_with_a_member_axis(tmp_path: Path) -> None:
    x, y = torch.rand(20, 2), torch.rand(20, 1)
    make = glorot(2, 3, 1)
    seen: dict[int, torch.Tensor] = {}
    result = wl.ensemble(
        make, 4, x, y, steps=10, record=tmp_path / "run", record_every=3,
        callback=lambda step, s: seen.update({step: s.states["0.weight"].clone()}),
    )  # fmt: skip
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [0, 3, 6, 9, 10]
    assert run["0.weight"].shape == (5, 4, 3, 2)
    assert set(run.names) == set(result.states)
    np.testing.assert_array_equal(run["0.weight"][0], Stack.make(make, 4).states["0.weight"].numpy())
    for frame, step in enumerate([3, 6, 9, 10], 1):
        np.testing.assert_array_equal(run["0.weight"][frame], seen[step].numpy())
    np.testing.assert_array_equal(run["2.bias"][-1], result.states["2.bias"].numpy())
    np.testing.assert_allclose(run.scalars["loss"][1:], np.median(result.losses[[2, 5, 8, 9]], axis=1), rtol=1e-6)
    assert np.isnan(run.scalars["loss"][0])
    assert run.closed


def test_polishing_goes_on_in_the_same_recording(tmp_path: Path) -> None:
    x = torch.rand(40, 2, dtype=torch.float64)
    y = x.prod(1, keepdim=True)
    stack = Stack.make(glorot(2, 3, 1), 3, dtype=torch.float64)
    states = {n: v.numpy() for n, v in stack.states.items()}
    with wl.watch(states, tmp_path / "run") as rec:
        trained = wl.ensemble(stack, x=x, y=y, steps=20, lr=0.02, record=rec, record_every=10)
        polished = wl.polish(trained, x, y, steps=6, record=rec, record_every=2, first_step=20)
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [0, 10, 20, 22, 24, 26]
    np.testing.assert_array_equal(run["0.weight"][2], trained.states["0.weight"].numpy())
    np.testing.assert_array_equal(run["0.weight"][-1], polished.states["0.weight"].numpy())
    assert run.scalars["loss"][-1] < run.scalars["loss"][1]


def test_a_lift_is_recorded_while_it_trains(tmp_path: Path) -> None:
    x, y = study_data(300)
    torch.manual_seed(0)
    net = wl.Lift(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1)))
    start = net.generator[0].weight.detach().numpy().copy()
    with wl.watch(net.generator, tmp_path / "run") as rec:
        history = wl.fit_lift(net, x, y, record=rec, record_every=50)
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [0, 50, 100, 150, 200, 250, 300]
    np.testing.assert_array_equal(run["0.weight"][0], start)
    np.testing.assert_array_equal(run["0.weight"][-1], net.generator[0].weight.detach().numpy())
    np.testing.assert_allclose(run.scalars["loss"][1:], history.loss[49::50])
    assert (run["0.weight"][1] != run["0.weight"][2]).any()

"""A recording goes on across growth: a new layout, the event marked, the lineage kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tests.nets_growth as nets
import weightlapse as wl
from weightlapse.errors import InvalidArgument


def train(model: Any, optimizer: Any, steps: int) -> list[dict[str, np.ndarray]]:
    """A few steps, with copies of the weights taken by hand after each."""
    x = nets.vectors()
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
        seen.append({n: p.detach().numpy().copy() for n, p in model.named_parameters()})
    return seen


def test_widening_and_deepening_in_mid_run(tmp_path: Path) -> None:
    model, x = nets.trained_a_little(nets.mlp()), nets.vectors()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    rec = wl.watch(model, tmp_path / "run", optimizer=optimizer, example=x)
    taken = train(model, optimizer, 3)
    wide = wl.widen(model, {"0": 9, "2": 8}, x, optimizer=optimizer, seed=0)
    rec.grow(wide)
    taken += train(wide.model, wide.optimizer, 2)
    deep = wl.deepen(wide.model, x, after="0", optimizer=wide.optimizer)
    rec.grow(deep)
    taken += train(deep.model, deep.optimizer, 2)
    rec.close()

    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == list(range(8))
    assert [(e.start, e.stop) for e in run.layouts] == [(0, 4), (4, 6), (6, 8)]
    assert run.layouts[1].lineage == {g: p.tolist() for g, p in wide.lineage.items()}
    assert [text for _, text in run.events] == ["widened 0 6 -> 9, 2 5 -> 8", "an identity layer after 0"]
    assert [step for step, _ in run.events] == [3, 5]
    for frame, weights in enumerate(taken, start=1):
        state = run.state(frame=frame)
        assert {n: v.shape for n, v in state.items()} == {n: v.shape for n, v in weights.items()}
        assert all(np.array_equal(state[n], weights[n]) for n in weights), frame
    # Children start beside their parents: at the first frame after growing they are one update apart.
    rows = run.layouts[1]["0.weight"][0]
    for child, parent in enumerate(wide.lineage["0"]):
        assert np.abs(rows[child] - rows[parent]).max() < 0.05


def test_steps_of_the_old_network_are_no_longer_recorded(tmp_path: Path) -> None:
    model, x = nets.trained_a_little(nets.mlp()), nets.vectors()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    rec = wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=("weights", "gradients"))
    train(model, optimizer, 1)
    g = wl.widen(model, {"0": 9}, x, optimizer=optimizer)
    rec.grow(g)
    train(model, optimizer, 1)
    assert rec.frames == 2
    train(g.model, g.optimizer, 1)
    assert rec.frames == 3
    rec.close()
    last = wl.load(tmp_path / "run").layouts[1]
    assert np.isfinite(last["gradients:0.weight"][0]).all()
    assert last["gradients:0.weight"].shape == (1, 9, 4)


def test_a_new_optimizer_by_hand_and_frames_by_hand(tmp_path: Path) -> None:
    model, x = nets.trained_a_little(nets.mlp()), nets.vectors()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    rec = wl.watch(model, tmp_path / "auto", optimizer=optimizer)
    g = wl.widen(model, {"0": 9}, x)
    with pytest.raises(InvalidArgument, match="the growth has none"):
        rec.grow(g)
    rec = wl.watch(model, tmp_path / "again", optimizer=optimizer)
    fresh = torch.optim.Adam(g.model.parameters())
    rec.grow(g, fresh)
    train(g.model, fresh, 2)
    assert rec.frames == 3
    rec.close()
    by_hand = wl.watch(model, tmp_path / "hand")
    by_hand.grow(g)
    by_hand.step()
    by_hand.close()
    assert wl.load(tmp_path / "hand").layouts[1]["0.weight"].shape == (1, 9, 4)

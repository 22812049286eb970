"""The control: online training of a plain dense network, against torch one sample at a time."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.oracles_lift import keras_start, study_data
from weightlapse.errors import InvalidArgument
from weightlapse.lift.plain import fit_plain


@pytest.mark.parametrize("engine", ["numpy", "numba"])
@pytest.mark.parametrize("optimizer", ["rmsprop", "sgd"])
def test_equals_a_torch_loop(engine: str, optimizer: str) -> None:
    x, y = study_data(300)
    net = keras_start(
        nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 1)), 0
    ).double()
    twin = copy.deepcopy(net)
    lr = 1e-3 if optimizer == "rmsprop" else 1e-4
    opt = (
        torch.optim.RMSprop(twin.parameters(), lr, 0.9, 1e-7)
        if optimizer == "rmsprop"
        else torch.optim.SGD(twin.parameters(), lr)
    )
    losses = []
    for xi, yi in zip(x, y):
        loss = ((twin(xi) - yi) ** 2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    history = fit_plain(net, x, y, online=True, optimizer=optimizer, lr=lr, engine=engine)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-8)
    for a, b in zip(net.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_epochs_shuffle_by_seed_and_call_back() -> None:
    x, y = study_data(50)
    start = keras_start(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), 0)
    ends, seen = [], []
    for seed in (0, 0, 1):
        net = copy.deepcopy(start)
        fit_plain(net, x, y, epochs=2, seed=seed, callback=lambda n, m: seen.append((n, m[0].bias[0].item())))
        ends.append(net[0].weight.detach().clone())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert [n for n, _ in seen[:2]] == [50, 100]
    assert seen[0][1] != seen[1][1]


def test_refusals() -> None:
    x, y = study_data(5)
    with pytest.raises(InvalidArgument, match="plain chains"):
        fit_plain(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)), x, y)
    with pytest.raises(InvalidArgument, match="do not fit"):
        fit_plain(nn.Linear(3, 2), x, y)

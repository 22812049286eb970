"""Noise of one standard deviation on every weight: at least 99 % of the units are found. And networks trained apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import weightlapse as wl
from tests.test_symmetry_zoo import randomised
from tests.zoo.conv import ResNet


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for n in (16, 32, 64, 64):
        layers += [nn.Conv2d(before, n, 3, padding=1), nn.BatchNorm2d(n), nn.ReLU(), nn.MaxPool2d(2)]
        before = n
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


MODELS = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)),
        (4, 64),
    ),
    "vgg": (vgg, (4, 3, 16, 16)),
    "resnet20": (lambda: ResNet((16, 32, 64), 3, "B"), (4, 3, 16, 16)),
}


@pytest.mark.parametrize("name", MODELS)
def test_noise_of_one_standard_deviation(name: str) -> None:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().eval()
    w = wl.trace(model, torch.randn(shape), verify=False)
    a = randomised(model, w)
    g = torch.Generator().manual_seed(1)
    b = {
        n: v + v.std() * torch.randn(v.shape, generator=g) if v.is_floating_point() and v.numel() > 1 else v
        for n, v in a.items()
    }
    rng = np.random.default_rng(0)
    planted = {grp.name: rng.permutation(grp.size) for grp in w.groups}
    for group, perm in planted.items():
        b = wl.permute(b, w, group, perm)
    al = wl.align(a, b, w, symmetries=("permutation",))
    back = [planted[n][al.permutations[n]] == np.arange(len(planted[n])) for n in planted]
    assert np.concatenate(back).mean() >= 0.99


@pytest.mark.slow
def test_the_barrier_between_digits_networks() -> None:
    """A small one of bench/barrier.py: trained apart, the loss between them falls from a wall to a ripple by alignment."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))[:1400]
    x, y = torch.tensor(images[order] / 16, dtype=torch.float32), torch.tensor(labels[order])

    def trained(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(64, 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, 10),
        )
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        for _ in range(30):
            for rows in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
        return net

    a, b = trained(0), trained(1)
    res = wl.compare(a, b, data=(x, y))
    assert res.verdict == "different"
    assert res.barrier.naive > 0.3
    assert res.barrier.matched <= 0.05
    assert res.barrier.repaired <= 0.05
    assert {m.split(",")[0] for m in res.barrier.methods} == {"weights", "activations"}
    assert res.barrier.matched == min(res.barrier.methods.values())
    assert res.barrier.naive.curve.argmax() in range(3, 8), "the wall stands in the middle"

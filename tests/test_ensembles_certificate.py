"""How a polished training ended, held against a slow twin and against problems whose end is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.oracles_polish import gradient_and_hessian
from weightlapse.ensembles.stack import Stack, glorot

X = torch.linspace(-2, 2, 60, dtype=torch.float64)[:, None]


def noisy() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    y = torch.tanh(1.3 * X - 0.2) + 0.1 * torch.randn(60, 1, dtype=torch.float64)
    return nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)).double(), y


@pytest.mark.parametrize("method,steps", [("lm", 300), ("lbfgs", 4000)])
def test_a_minimum_with_noise_is_stationary_and_the_twin_agrees(method: str, steps: int) -> None:
    model, y = noisy()
    result = wl.polish(model, X, y, method=method, steps=steps)
    (found,) = result.certificates
    assert (found.kind, found.minimum) == ("stationary", True), str(found)
    net = result.member(0)
    loss, gradient, hessian = gradient_and_hessian(net, X, y)
    size = float(torch.cat([p.detach().flatten() for p in net.parameters()]).norm())
    assert found.loss == pytest.approx(loss, rel=1e-12)
    assert found.gradient == pytest.approx(np.linalg.norm(gradient) * size / loss, rel=1e-3, abs=1e-12)
    values = np.linalg.eigvalsh(hessian)
    assert found.curvature == pytest.approx(values[0] / np.abs(values).max(), rel=1e-6)
    assert found.curvature > 0
    assert "local minimum" in str(found)


def test_the_same_problem_stopped_early_is_only_a_spent_budget() -> None:
    model, y = noisy()
    (found,) = wl.polish(model, X, y, steps=2).certificates
    assert found.kind == "budget spent"
    assert found.gradient > 1e-5
    assert np.isnan(found.curvature)


def test_a_teacher_nearby_is_reached() -> None:
    teachers = Stack.make(glorot(2, 3, 1, output=nn.Tanh), 3, dtype=torch.float64)
    students = teachers[:]
    students.theta += 0.02
    torch.manual_seed(0)
    x = torch.rand(200, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result = wl.polish(students, x, teachers(x), steps=600)
    assert [c.kind for c in result.certificates] == ["zero"] * 3
    assert "3 zero" in str(result)


def test_a_saddle_is_stationary_but_no_minimum() -> None:
    """Two hidden units that are exact copies stay copies: the best such network is a saddle of the wider one."""
    torch.manual_seed(0)
    y = torch.sin(2.5 * X) + 0.3 * X + 0.2 * torch.randn(60, 1, dtype=torch.float64)
    one = wl.polish(nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)), X, y, steps=600).member(0)
    two = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        two[0].weight.copy_(one[0].weight.expand(2, 1))
        two[0].bias.copy_(one[0].bias.expand(2))
        two[2].weight.copy_(one[2].weight.expand(1, 2) * torch.tensor([0.4, 0.6]))
        two[2].bias.copy_(one[2].bias)
    (found,) = wl.polish(two, X, y, steps=1, damping=1e6).certificates
    values = np.linalg.eigvalsh(gradient_and_hessian(two, X, y)[2])
    assert values[0] < -1e-6 * values[-1], "the case is none"
    assert (found.kind, found.minimum) == ("stationary", False), str(found)


@pytest.mark.parametrize("case", ["a step", "a threshold", "not a number"])
def test_what_runs_away_is_diverging(case: str) -> None:
    if case == "a step":  # tanh(w x) comes as near to a step as w is large
        net, y = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh()), 1.5 * torch.sign(X) + 0.1 * torch.cos(9 * X)
    elif case == "a threshold":  # the same with a bias: the threshold may stand anywhere between two points
        net, y = nn.Sequential(nn.Linear(1, 1), nn.Sigmoid()), (X > 0.1).double() * 1.2 - 0.1
    else:
        net, y = nn.Sequential(nn.Linear(1, 1), nn.Tanh()), X.clone()
        net[0].weight.data.fill_(float("nan"))
    torch.manual_seed(1)
    (found,) = wl.polish(net, X, y, steps=200).certificates
    assert found.kind == "diverging", str(found)


def test_a_large_network_is_certified_without_its_whole_hessian() -> None:
    torch.manual_seed(0)
    x = torch.randn(80, 6, dtype=torch.float64)
    y = x[:, :1] + 0.1 * torch.randn(80, 1, dtype=torch.float64)
    net = nn.Linear(6, 1).double()
    (found,) = wl.polish(net, x, y, steps=30).certificates
    import weightlapse.ensembles.certificate as certificate

    dense, certificate._DENSE = certificate._DENSE, 3
    try:
        (iterated,) = wl.polish(net, x, y, steps=30).certificates
    finally:
        certificate._DENSE = dense
    assert found.kind == iterated.kind == "stationary"
    assert iterated.curvature == pytest.approx(found.curvature, rel=0.02)

"""The rules of the mass study, all run at once, against torch.optim and against plain loops, one neuron at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from weightlapse.studies.mass_rules import RULES, run_rules

STEPS = 60
TWINS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-4), "gd": lambda p: torch.optim.SGD(p, lr=0.01), "adamw": lambda p: torch.optim.AdamW(p, lr=1e-4, weight_decay=1.0),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9), "adam_eps": lambda p: torch.optim.Adam(p, lr=1e-4, eps=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-4), "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 40, 4, generator=generator, dtype=torch.float64) * torch.tensor(
        [10.0, 10.0, 0.01, 0.01], dtype=torch.float64
    )
    y = (x[..., :1] > 0).double()
    start = torch.cat(
        [torch.rand(2, 4, generator=generator, dtype=torch.float64) - 0.5, torch.zeros(2, 1, dtype=torch.float64)],
        dim=1,
    )
    seen = {}

    def keep(step, w, costs, scale):
        seen[step] = (w.clone(), costs.clone(), scale.clone())

    return x, y, start, run_rules(list(RULES.values()), x, y, start, STEPS, 20, keep), seen


@pytest.mark.parametrize("name", TWINS)
def test_a_rule_is_that_of_torch(trained, name):
    x, y, start, end, seen = trained
    for seed in range(2):
        w, b = start[seed, :-1].clone().requires_grad_(), start[seed, -1:].clone().requires_grad_()
        optimizer = TWINS[name]([w, b])
        for step in range(1, STEPS + 1):
            cost = nn.functional.binary_cross_entropy_with_logits(x[seed] @ w + b, y[seed, :, 0])
            if step in seen:
                assert cost.item() == pytest.approx(float(seen[step][1][seed, list(RULES).index(name)]), rel=1e-9)
            optimizer.zero_grad()
            cost.backward()
            optimizer.step()
        got = end[seed, list(RULES).index(name)]
        torch.testing.assert_close(got, torch.cat([w, b]).detach(), rtol=1e-6, atol=1e-12)
    assert sorted(seen) == [1, 21, 41]


@pytest.mark.parametrize("name", ["adam_shared", "l1", "eg"])
def test_the_other_rules_are_plain_loops(trained, name):
    x, y, start, end, _ = trained
    w = start[0].clone()
    m = square = torch.zeros_like(w)
    spare = 0.01 * w[:-1].abs().mean()
    u, v = w[:-1].clamp_min(0) + spare, (-w[:-1]).clamp_min(0) + spare
    total = (u + v).sum()
    for step in range(1, STEPS + 1):
        z = x[0] @ w[:-1] + w[-1]
        error = (torch.sigmoid(z) - y[0, :, 0]) / len(z)
        g = torch.cat([error @ x[0], error.sum()[None]])
        if name == "adam_shared":
            m, square = 0.9 * m + 0.1 * g, 0.999 * square + 0.001 * g**2
            w = w - 1e-4 * m / (1 - 0.9**step) / ((square / (1 - 0.999**step)).mean().sqrt() + 1e-8)
        elif name == "l1":
            w = w - 0.01 * g
            w[:-1] = w[:-1].sign() * (w[:-1].abs() - 1e-4).clamp_min(0)
        else:
            u, v = u * torch.exp(-0.01 * g[:-1]), v * torch.exp(0.01 * g[:-1])
            u, v = u * total / (u + v).sum(), v * total / (u + v).sum()
            w = torch.cat([u - v, (w[-1] - 0.01 * g[-1])[None]])
    torch.testing.assert_close(end[0, list(RULES).index(name)], w, rtol=1e-9, atol=1e-12)


def test_what_a_gradient_is_multiplied_with(trained):
    *_, seen = trained
    scale = dict(zip(RULES, seen[1][2][0]))
    assert scale["gd"].unique().tolist() == scale["momentum"].unique().tolist() == [0.01]
    assert len(scale["adam_shared"].unique()) == 1
    assert (scale["adam"][2:4] > 50 * scale["adam"][0]).all()

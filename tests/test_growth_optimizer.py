"""The optimizer after growth: predicted moments against the real ones, groups, rates, and every parameter once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import weightlapse as wl
from weightlapse.errors import CannotGrow
from weightlapse.growth.certificate import difference

KINDS: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"amsgrad": True}),
    (torch.optim.AdamW, {"weight_decay": 0.1}),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    (torch.optim.RMSprop, {"momentum": 0.9, "centered": True, "eps": 1e-30}),
    (torch.optim.Adagrad, {"eps": 1e-30}),
]


class Net(nn.Module):
    """A convolution with BatchNorm, flattened, an LSTM over rows, a skip: producers, gains, consumers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.fc = nn.Linear(5 * 16, 6)
        self.rnn = nn.LSTM(4, 6, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.norm(self.conv(x))).flatten(1)
        return self.out(torch.tanh(self.fc(h)) + self.rnn(x[:, 0])[0][:, -1])


def trained(
    kind: Any, options: dict[str, Any], steps: int = 4
) -> tuple[nn.Module, torch.optim.Optimizer, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net = Net().double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x, y = torch.randn(12, 1, 4, 4).double(), torch.randn(12, 3).double()
    optimizer = kind(net.parameters(), lr=1e-3, **options)
    for _ in range(steps):
        step(net, optimizer, x, y)
    return net, optimizer, x, y


def step(
    net: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, update: bool = True
) -> None:
    optimizer.zero_grad()
    (net(x) - y).square().mean().backward()
    if update:
        optimizer.step()


def grown(net: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, split: str = "random") -> Any:
    return wl.widen(net, {"conv": 8, "fc": 15}, x, optimizer=optimizer, split=split, seed=1)


@pytest.mark.parametrize("kind, options", KINDS, ids=lambda v: getattr(v, "__name__", None) or "-".join(v))
def test_moments_one_step_later_are_those_predicted(kind: Any, options: dict[str, Any]) -> None:
    net, optimizer, x, y = trained(kind, options)
    g = grown(net, optimizer, x)
    # Predict: take the step in the small network and widen what it leaves by the same plan.
    later = copy.deepcopy((net, optimizer))
    step(*later, x, y)
    predicted = grown(later[0], later[1], x).optimizer
    step(g.model, g.optimizer, x, y)
    pairs = list(zip(g.optimizer.param_groups[0]["params"], predicted.param_groups[0]["params"], strict=True))
    keys = set()
    for real, wanted in pairs:
        for key, value in predicted.state[wanted].items():
            got = g.optimizer.state[real][key]
            keys.add(key)
            assert difference(torch.as_tensor(value).double(), torch.as_tensor(got).double()) < 1e-10, key
    assert keys >= {"momentum_buffer"} if kind is torch.optim.SGD else len(keys) >= 2


def test_gradients_are_those_predicted() -> None:
    net, optimizer, x, y = trained(torch.optim.SGD, {})
    step(net, optimizer, x, y, update=False)
    g = grown(net, optimizer, x)
    predicted = {name: p.grad.clone() for name, p in g.model.named_parameters()}
    step(g.model, g.optimizer, x, y, update=False)
    for name, p in g.model.named_parameters():
        assert difference(predicted[name], p.grad) < 1e-12, name


def test_moments_copied_without_their_part_would_be_wrong() -> None:
    # The test above can fail: the plain copy of a bias's moments is far from the right ones.
    net, optimizer, x, _ = trained(torch.optim.Adam, {})
    g = grown(net, optimizer, x)
    old, new = optimizer.state[net.fc.bias], g.optimizer.state[g.model.fc.bias]
    parents, parts = torch.as_tensor(g.lineage["fc"]), torch.as_tensor(g.parts["fc"])
    for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
        assert difference(old[key][parents] * parts**power, new[key]) < 1e-14
        assert difference(old[key][parents], new[key]) > 0.1


def test_groups_rates_and_options_are_kept_and_every_parameter_is_there_once() -> None:
    net, _, x, y = trained(torch.optim.SGD, {})
    weights = [p for n, p in net.named_parameters() if p.ndim > 1]
    rest = [p for n, p in net.named_parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": 0.3}, {"params": rest, "lr": 7e-3, "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.8, 0.9),
    )
    step(net, optimizer, x, y)
    g = grown(net, optimizer, x)
    assert type(g.optimizer) is torch.optim.AdamW
    assert [(q["lr"], q["weight_decay"], q["betas"]) for q in g.optimizer.param_groups] == [
        (1e-2, 0.3, (0.8, 0.9)),
        (7e-3, 0.0, (0.8, 0.9)),
    ]
    held = [id(p) for q in g.optimizer.param_groups for p in q["params"]]
    assert sorted(held) == sorted(id(p) for p in g.model.parameters())
    assert g.optimizer.defaults == optimizer.defaults
    old = [id(p) for q in optimizer.param_groups for p in q["params"]]
    assert old == [id(p) for p in [*weights, *rest]]  # the argument still holds the old ones


def test_frozen_parameters_stay_out_and_frozen() -> None:
    net, _, x, _ = trained(torch.optim.SGD, {})
    net.fc.weight.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad])
    g = grown(net, optimizer, x)
    assert not g.model.fc.weight.requires_grad
    assert all(p is not g.model.fc.weight for q in g.optimizer.param_groups for p in q["params"])


def test_the_old_optimizer_is_untouched() -> None:
    net, optimizer, x, _ = trained(torch.optim.Adam, {})
    before = copy.deepcopy(optimizer.state_dict())
    grown(net, optimizer, x)
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for index, values in before["state"].items():
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(after["state"][index][k])) for k, v in values.items()
        )


def test_an_optimizer_without_a_rule_is_refused_by_name() -> None:
    net, _, x, _ = trained(torch.optim.SGD, {})
    with pytest.raises(CannotGrow, match="LBFGS has no known exact rule"):
        grown(net, torch.optim.LBFGS(net.parameters()), x)
    with pytest.raises(CannotGrow, match="Rprop"):
        wl.deepen(net, x, after="fc", optimizer=torch.optim.Rprop(net.parameters()))


def test_what_is_not_exact_is_said() -> None:
    net, _, x, y = trained(torch.optim.SGD, {})
    optimizer = torch.optim.Adam(net.parameters(), weight_decay=0.1)
    step(net, optimizer, x, y)
    assert any("weight decay is part of the gradient" in note for note in grown(net, optimizer, x).certificate.notes)
    stream = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3).double()
    g = wl.widen(stream, {"0": 8}, x, optimizer=torch.optim.Adam(stream.parameters()))
    assert any("a norm averages over 0" in note for note in g.certificate.notes)
    g = wl.widen(stream, {"0": 8}, x, optimizer=torch.optim.Adam(stream.parameters()), split="equal")
    assert not any("a norm averages" in note for note in g.certificate.notes)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_replicas_separate_with_random_parts_and_never_with_equal_ones(kind: Any) -> None:
    gaps = {}
    for split in ("random", "equal"):
        net, optimizer, x, y = trained(kind, {})
        g = wl.widen(net, {"fc": 12, "conv": 10}, x, optimizer=optimizer, split=split, seed=3)
        for _ in range(5):
            step(g.model, g.optimizer, x, y)
        rows = g.model.fc.weight.detach()
        pairs = [(int(p), u) for u, p in enumerate(g.lineage["fc"]) if u >= 6]
        gaps[split] = min(((rows[a] - rows[b]).norm() / rows[a].norm()).item() for a, b in pairs)
    # Columns of the two replicas of the layer before differ by their parts in both; equal parts leave the rows equal.
    assert gaps["random"] > 1e-6
    assert gaps["equal"] < 1e-12


def test_names_of_parameters_stay_in_the_optimizer() -> None:
    net, _, x, y = trained(torch.optim.SGD, {})
    optimizer = torch.optim.Adam(net.named_parameters())
    step(net, optimizer, x, y)
    g = grown(net, optimizer, x)
    assert g.optimizer.param_groups[0]["param_names"] == [n for n, _ in g.model.named_parameters()]
    assert (
        g.optimizer.state_dict()["param_groups"][0]["param_names"]
        == optimizer.state_dict()["param_groups"][0]["param_names"]
    )

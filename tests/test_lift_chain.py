"""What counts as a plain chain of dense layers, and above all what does not: a fast path must never pass anything by."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from weightlapse.adapters.chain import Dense, activate, find_chain, slope


class Written(nn.Module):
    """A hand-written forward pass over two layers."""

    def __init__(self, how: Callable[[nn.Module, torch.Tensor], torch.Tensor], **more: nn.Module) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)
        self.how = how
        for name, module in more.items():
            setattr(self, name, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.how(self, x)


@pytest.mark.parametrize(
    "how,act",
    [
        (lambda m, x: m.b(F.relu(m.a(x))), "relu"),
        (lambda m, x: m.b(F.relu(m.a(x), inplace=True)), "relu"),
        (lambda m, x: m.b(torch.tanh(m.a(x))), "tanh"),
        (lambda m, x: m.b(m.a(x).sigmoid()), "sigmoid"),
        (lambda m, x: m.b(m.a(x)), "identity"),
    ],
)
def test_chains_are_found_in_hand_written_modules(how, act: str) -> None:
    chain = find_chain(Written(how))
    assert chain is not None
    assert chain.layers == (Dense("a.weight", "a.bias", 3, 5, act), Dense("b.weight", "b.bias", 5, 2, "identity"))


def test_sequences_nested_and_single_layers() -> None:
    chain = find_chain(
        nn.Sequential(
            nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh()), nn.Identity(), nn.Linear(4, 1), nn.Sigmoid()
        )
    )
    assert chain is not None
    assert chain.layers == (Dense("0.0.weight", None, 3, 4, "tanh"), Dense("2.weight", "2.bias", 4, 1, "sigmoid"))
    assert (chain.inputs, chain.outputs) == (3, 1)
    single = find_chain(nn.Linear(3, 2))
    assert single is not None
    assert single.names == ("weight", "bias")


class Loud(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


def hooked() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    net[0].register_forward_hook(lambda m, i, o: o * 2)
    return net


NO_CHAINS: dict[str, nn.Module] = {
    "skip": Written(lambda m, x: m.b(m.a(x) + x.sum(1, keepdim=True))),
    "used twice": nn.Sequential(*[nn.Linear(3, 3)] * 2),
    "scaled": Written(lambda m, x: m.b(m.a(x)) * 2),
    "squeezed": Written(lambda m, x: m.b(m.a(x)).squeeze(-1)),
    "decides by value": Written(lambda m, x: m.b(m.a(x)) if x.sum() > 0 else m.b(m.a(-x))),
    "unused layer": Written(lambda m, x: m.b(m.a(x)), c=nn.Linear(2, 2)),
    "dropout": nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1)),
    "norm": nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)),
    "two activations": nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 1)),
    "activation first": nn.Sequential(nn.ReLU(), nn.Linear(3, 4)),
    "unknown activation": nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1)),
    "subclass": nn.Sequential(Loud(3, 4), nn.ReLU(), nn.Linear(4, 1)),
    "weight norm": nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 1)),
    "hook": hooked(),
    "nothing": nn.ReLU(),
}


@pytest.mark.parametrize("name", NO_CHAINS)
def test_everything_else_is_left_alone(name: str) -> None:
    assert find_chain(NO_CHAINS[name]) is None


@pytest.mark.parametrize("name", ["identity", "relu", "tanh", "sigmoid"])
def test_slopes_are_derivatives(name: str) -> None:
    z = torch.linspace(-3, 3, 50, dtype=torch.float64).requires_grad_()
    a = activate(name, z)
    (wanted,) = torch.autograd.grad(a.sum(), z)
    found = slope(name, a.detach())
    torch.testing.assert_close(torch.ones_like(wanted) if found is None else found, wanted)

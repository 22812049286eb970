"""Deeper networks: identity layers, Dirac kernels, calibrated norms, residual inserts, blocks that start as nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tests.nets_growth as nets
import weightlapse as wl
from tests.test_growth_widen import outside
from weightlapse.errors import CannotGrow, InvalidArgument, UnknownTensor, VacuousComparison


class Conv(nn.Module):
    """A convolution, perhaps a norm, a functional activation."""

    def __init__(
        self, norm: bool = False, activation: Any = F.relu, kernel: int = 3, mode: str = "zeros", **options: Any
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, kernel, padding=kernel // 2, padding_mode=mode, **options)
        self.norm = nn.BatchNorm2d(4) if norm else None
        self.fc, self.activation = nn.Linear(4, 3), activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(x)
        h = self.activation(h if self.norm is None else self.norm(h))
        return self.fc(h.mean((2, 3)))


def four_channels() -> torch.Tensor:
    return nets.images(4, 7)


EXACT: dict[str, tuple[Any, Any, str]] = {
    "relu": (nets.mlp, nets.vectors(), "0"),
    "relu6": (lambda: nets.mlp(nn.ReLU6), nets.vectors(), "2"),
    "clamp": (lambda: Conv(activation=lambda h: h.clamp(-1, 1)), four_channels(), "conv"),
    "functional, in place": (lambda: Conv(activation=lambda h: F.relu(h, inplace=True)), four_channels(), "conv"),
    "kernel 1": (lambda: Conv(kernel=1), four_channels(), "conv"),
    "kernel 5": (lambda: Conv(kernel=5), four_channels(), "conv"),
    "even kernel": (lambda: Conv(kernel=2), four_channels(), "conv"),
    "dilated": (lambda: Conv(dilation=2), four_channels(), "conv"),
    "stride 2": (lambda: Conv(stride=2), four_channels(), "conv"),
    "circular": (lambda: Conv(mode="circular"), four_channels(), "conv"),
    "reflect": (lambda: Conv(mode="reflect"), four_channels(), "conv"),
    "depthwise": (lambda: Conv(groups=4), four_channels(), "conv"),
    "recurrent neighbour": (nets.Remembers, nets.vectors(6), "fc1"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
def test_an_identity_layer_is_exact_after_an_idempotent_activation(name: str, dtype: torch.dtype) -> None:
    make, x, after = EXACT[name]
    torch.manual_seed(0)
    model, x = nets.trained_a_little(make().to(dtype)), x.to(dtype)
    g = wl.deepen(model, x, after=after, kind="identity")
    assert g.error <= 1e-15
    for train in (False, True):
        assert outside(model, g.model, x, train=train) <= 1e-15
    new = [n for n, old in g.origin.items() if old is None]
    assert new == [f"{after}.2.weight", f"{after}.2.bias"]
    assert set(g.model.state_dict()) == set(g.origin)
    assert {o for o in g.origin.values() if o} == set(model.state_dict())
    assert all(p.requires_grad for p in g.model.parameters())


def test_a_dirac_kernel_off_centre_would_be_seen() -> None:
    model, x = nets.trained_a_little(Conv()), four_channels()
    g = wl.deepen(model, x, after="conv")
    with torch.no_grad():
        kernel = g.model.conv[2].weight
        kernel.copy_(kernel.roll(1, -1))
    assert outside(model, g.model, x, train=False) > 0.01


@pytest.mark.parametrize("activation", [torch.tanh, F.gelu, F.silu, torch.sigmoid, F.leaky_relu, F.elu, F.softplus])
def test_other_activations_get_a_residual_insert(activation: Any) -> None:
    model, x = nets.trained_a_little(Conv(activation=activation)), four_channels()
    g = wl.deepen(model, x, after="conv")
    assert g.error == 0.0
    assert [n for n, old in g.origin.items() if old is None] == [
        f"conv.1.{part}" for part in ("up.weight", "up.bias", "down.weight", "down.bias")
    ]
    insert = g.model.conv[1]
    assert type(insert.activation).__name__.lower() == activation.__name__.replace("_", "")
    g.model(x).square().mean().backward()
    assert insert.down.weight.grad.abs().sum() > 0  # it learns from the first step
    with pytest.raises(CannotGrow, match=r"(\w+)\(\1\(x\)\) is not \1\(x\); kind='residual'"):
        wl.deepen(model, x, after="conv", kind="identity")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_norm_in_between_is_calibrated(dtype: torch.dtype) -> None:
    model, x = nets.trained_a_little(Conv(norm=True)).to(dtype), four_channels().to(dtype)
    g = wl.deepen(model, x, after="conv")
    assert g.error <= (1e-12 if dtype is torch.float64 else 1e-6)
    assert outside(model, g.model, x, train=False) <= g.error
    new = g.model.norm
    assert isinstance(new, nn.Sequential)
    assert [type(part).__name__ for part in new] == ["BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d"]
    with torch.no_grad():
        h = F.relu(model.eval().norm(model.conv(x)))
    torch.testing.assert_close(new[3].running_mean, h.mean((0, 2, 3)))
    torch.testing.assert_close(new[3].running_var, h.var((0, 2, 3), unbiased=False))
    told = [c for c in g.certificate.checks if c.mode == "train"]
    assert told
    assert not any(c.binding for c in told)


def test_a_norm_that_is_not_calibrated_would_be_seen() -> None:
    model, x = nets.trained_a_little(Conv(norm=True)), four_channels()
    g = wl.deepen(model, x, after="conv")
    with torch.no_grad():
        g.model.norm[3].weight.fill_(1.0)
        g.model.norm[3].bias.zero_()
    assert outside(model, g.model, x, train=False) > 1e-3


def test_several_readers_of_one_output_get_a_residual_insert() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.fc1(x)
            return self.fc2(F.relu(h) + h)

    model, x = nets.trained_a_little(Skip()), nets.vectors()
    g = wl.deepen(model, x, after="fc1")
    assert g.error == 0.0
    assert hasattr(g.model.fc1[1], "down")
    with pytest.raises(CannotGrow, match="its output goes to add"):
        wl.deepen(model, x, after="fc1", kind="identity")


def test_the_last_layer_has_no_activation_behind_it() -> None:
    model, x = nets.trained_a_little(nets.mlp()), nets.vectors()
    with pytest.raises(CannotGrow, match="no activation follows"):
        wl.deepen(model, x, after="4", kind="identity")
    assert wl.deepen(model, x, after="4", width=9).model[4][1].up.out_features == 9


class Block(nn.Module):
    """A pre-norm block with a layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.norm1(x)
        x = x + self.attention(n, n, n, need_weights=False)[0]
        return x + self.scale * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.depth = nn.Linear(3, 8), nn.Linear(8, 2), 2
        self.blocks, self.last = nn.ModuleList([Block(), Block()]), Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for index in range(self.depth):
            x = self.blocks[index](x)
        return self.head(self.last(x))


def pre_norm_encoder() -> nn.Sequential:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    return nn.Sequential(nn.Linear(3, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 2))


BLOCKS: dict[str, tuple[Any, Any, str, str]] = {
    "pre-norm, in a list": (Blocks, nets.sequences(), "blocks.0", "blocks.1."),
    "pre-norm, alone": (Blocks, nets.sequences(), "last", "last.second."),
    "nn.TransformerEncoder": (pre_norm_encoder, nets.sequences(), "1.layers.1", "1.layers.2."),
    "residual, with BatchNorm": (nets.Resnet, nets.images(), "layer1.1", "layer1.2."),
    "gpt": (nets.Gpt, nets.tokens(), "blocks.0", "blocks.1."),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_that_does_nothing_is_exact_and_learns(name: str) -> None:
    make, x, after, prefix = BLOCKS[name]
    torch.manual_seed(0)
    model = nets.trained_a_little(make())
    g = wl.deepen(model, x, after=after)
    assert g.error <= 1e-15
    for train in (False, True):
        assert outside(model, g.model, x, train=train) <= 1e-12
    new = {n for n, old in g.origin.items() if old is None}
    assert new
    assert all(n.startswith(prefix) for n in new)
    for n, old in g.origin.items():  # the others are the old ones, wherever they moved
        if old is not None:
            assert torch.equal(g.model.state_dict()[n], model.state_dict()[old])
    g.model.train()(x).square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in g.model.named_parameters() if n in new)


REFUSED_BLOCKS: dict[str, tuple[Any, Any, str, str]] = {
    "post-norm": (nets.encoder, nets.sequences(), "1.layers.0", "'1.layers.0' cannot be repeated"),
    "changes the shape": (nets.Resnet, nets.images(), "layer2.0", "'layer2.0' cannot be repeated"),
    "no residual": (
        lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2)), nets.vectors(), "0", "'0' cannot"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_BLOCKS)
def test_blocks_that_cannot_do_nothing_are_refused(name: str) -> None:
    make, x, after, text = REFUSED_BLOCKS[name]
    with pytest.raises(CannotGrow, match=text):
        wl.deepen(nets.trained_a_little(make()), x, after=after)


def test_code_that_looks_into_the_layer_is_refused() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc2(F.relu(F.linear(x, self.fc1.weight, self.fc1.bias)))

    with pytest.raises(CannotGrow):
        wl.deepen(nets.trained_a_little(Looks()), nets.vectors(), after="fc1")


@pytest.mark.parametrize(
    "after, kind, error, text",
    [
        ("1", "auto", InvalidArgument, "must name a linear layer"),
        ("9", "auto", UnknownTensor, "no module '9'"),
        ("0", "wide", InvalidArgument, "kind must be one of"),
    ],
)
def test_what_cannot_be_meant(after: str, kind: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        wl.deepen(nets.mlp(), nets.vectors(), after=after, kind=kind)


def test_both_orders_of_the_arguments_and_none() -> None:
    model, x = nets.trained_a_little(nets.mlp()), nets.vectors()
    assert wl.deepen(model, after="0", *[x, 2 * x]).error == 0.0  # noqa: B026 - the order of the documentation
    assert wl.deepen(model, x, 2 * x, after="0").error == 0.0
    with pytest.raises(InvalidArgument, match="at least one example"):
        wl.deepen(model, after="0")


def test_dead_networks_are_not_certified() -> None:
    model = nets.mlp()
    with torch.no_grad():
        model[2].bias.fill_(-1e6)
    with pytest.raises(VacuousComparison):
        wl.deepen(model, nets.vectors(), after="0")


def test_noise_is_reported() -> None:
    model, x = nets.trained_a_little(nets.mlp()).double(), nets.vectors().double()
    g = wl.deepen(model, x, after="0", noise=0.1, seed=1)
    assert 1e-4 < g.error < 1
    assert outside(model, g.model, x, train=False) <= g.error
    again = wl.deepen(model, x, after="0", noise=0.1, seed=1)
    assert torch.equal(g.model[0][2].weight, again.model[0][2].weight)


def test_the_optimizer_comes_along() -> None:
    model, x = nets.trained_a_little(Blocks()), nets.sequences()
    slow = [p for n, p in model.named_parameters() if n.startswith("blocks.0")]
    rest = [p for n, p in model.named_parameters() if not n.startswith("blocks.0")]
    optimizer = torch.optim.Adam([{"params": slow, "lr": 1e-4}, {"params": rest}], lr=1e-2)
    model(x).square().mean().backward()
    optimizer.step()
    kept = copy.deepcopy(model.state_dict())
    g = wl.deepen(model, x, after="blocks.0", optimizer=optimizer)
    names = {id(p): n for n, p in g.model.named_parameters()}
    groups = [[names[id(p)] for p in q["params"]] for q in g.optimizer.param_groups]
    assert sorted(n for q in groups for n in q) == sorted(names.values())
    assert all(
        n in groups[0] for n in names.values() if n.startswith("blocks.1.")
    )  # the copy learns at its source's rate
    assert [q["lr"] for q in g.optimizer.param_groups] == [1e-4, 1e-2]
    old = dict(model.named_parameters())
    for name, p in g.model.named_parameters():
        origin = g.origin[name]
        if origin is None:
            assert p not in g.optimizer.state
        else:
            assert torch.equal(g.optimizer.state[p]["exp_avg"], optimizer.state[old[origin]]["exp_avg"])
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    g.model(x).square().mean().backward()
    g.optimizer.step()


def test_a_frozen_layer_still_gets_its_new_one_into_the_optimizer() -> None:
    model, x = nets.trained_a_little(nets.mlp()), nets.vectors()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    g = wl.deepen(model, x, after="0", optimizer=optimizer)
    held = {id(p) for q in g.optimizer.param_groups for p in q["params"]}
    assert held == {id(p) for p in g.model.parameters() if p.requires_grad}

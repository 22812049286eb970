"""Every exact row of the table of widening, checked here again from outside, and every refusal by name."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tests.nets_growth as nets
import weightlapse as wl
from weightlapse.errors import CannotGrow, InvalidArgument, UnknownTensor, VacuousComparison

Case = tuple[Any, Any, dict[str, int]]  # how to make the model, an example, the new sizes

EXACT: dict[str, Case] = {
    "relu": (nets.mlp, nets.vectors(), {"0": 9, "2": 8}),
    "tanh": (lambda: nets.mlp(nn.Tanh), nets.vectors(), {"0": 9, "2": 11}),
    "gelu": (lambda: nets.mlp(nn.GELU), nets.vectors(), {"0": 7, "2": 20}),
    "silu x2": (lambda: nets.mlp(nn.SiLU), nets.vectors(), {"0": 12, "2": 10}),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 2)), nets.vectors(), {"0": 9}
    ),
    "conv flatten": (nets.Lenet, nets.images(1, 14), {"conv1": 7, "conv2": 9, "fc1": 11}),
    "channels last": (lambda: nets.Lenet("last"), nets.images(1, 14), {"conv1": 7, "conv2": 9, "fc1": 11}),
    "residual stream": (
        nets.Resnet, nets.images(),
        {"conv": 9, "layer1.0.conv1": 8, "layer1.1.conv1": 9, "layer2.0.conv1": 13, "layer2.0.conv2": 17, "layer2.1.conv1": 11},
    ),
    "residual inner, padded": (lambda: nets.Resnet(True), nets.images(), {"layer1.0.conv1": 9, "layer2.1.conv1": 13}),
    "depthwise, squeeze": (nets.Mobile, nets.images(), {"expand": 13, "squeeze": 7}),
    "concatenation": (nets.Densenet, nets.images(), {"conv1": 8, "conv2": 7, "conv3": 6}),
    "u-net": (nets.Unet, nets.images(), {"down1": 7, "down2": 9, "up": 8, "join": 10}),
    "lstm": (lambda: nets.Recurrent("LSTM", num_layers=2), nets.tokens(), {"embedding": 9, "rnn": 8}),
    "bi-lstm": (
        lambda: nets.Recurrent("LSTM", num_layers=2, bidirectional=True), nets.tokens(), {"embedding": 9, "rnn": 8}
    ),
    "gru": (lambda: nets.Recurrent("GRU", bidirectional=True), nets.tokens(), {"rnn": 8}),
    "rnn": (lambda: nets.Recurrent("RNN"), nets.tokens(), {"embedding": 7, "rnn": 12}),
    "gpt: heads and ffn": (
        nets.Gpt, nets.tokens(), {"blocks.0.q": 3, "blocks.0.up": 27, "blocks.1.q": 5, "blocks.1.up": 23}
    ),
    "gpt: stream x2": (nets.Gpt, nets.tokens(), {"tokens": 16, "blocks.0.up": 27}),
    "rms norm, gated: stream x3": (
        lambda: nets.Gpt(nn.RMSNorm, gated=True), nets.tokens(), {"tokens": 24, "blocks.0.up": 23, "blocks.1.q": 3}
    ),
    "tied gpt: heads and ffn": (lambda: nets.Gpt(tied=True), nets.tokens(), {"blocks.0.q": 3, "blocks.1.up": 21}),
    "encoder: ffn": (nets.encoder, nets.sequences(), {"1.layers.0.linear1": 21}),
    "encoder: stream with its heads": (
        nets.encoder, nets.sequences(), {"0": 16, "1.layers.0.self_attn": 4, "1.layers.1.self_attn": 4}
    ),
    "fused attention, around it": (nets.FusedAttention, nets.sequences(), {"stem": 11, "o": 12}),
    "experts": (nets.Experts, nets.vectors(), {"stem": 9, "experts.0.0": 11, "experts.1.0": 8, "experts.0.2": 7}),
    "glu": (nets.Glu, nets.vectors(), {"fc1": 9}),
    "group norm x2": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2)),
        nets.images(), {"0": 12},
    ),
}  # fmt: skip


def outside(old: nn.Module, new: nn.Module, example: Any, *, train: bool) -> float:
    """The relative difference, measured without the package: dropout off, in double precision."""
    results = []
    for model in (copy.deepcopy(old).double(), copy.deepcopy(new).double()):
        model.train(train)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
        with torch.no_grad():
            results.append(model(example.double() if example.is_floating_point() else example))
    return ((results[0] - results[1]).abs().max() / results[0].abs().max()).item()


@pytest.mark.parametrize("split", ["random", "equal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
def test_all_groups_at_once_compute_the_same(name: str, dtype: torch.dtype, split: str) -> None:
    make, example, sizes = EXACT[name]
    torch.manual_seed(1)
    model = nets.trained_a_little(make().to(dtype))
    example = example.to(dtype) if example.is_floating_point() else example
    g = wl.widen(model, sizes, example, split=split, seed=2)
    assert g.error <= 1e-12
    assert g.certificate.error == g.error
    for train in (False, True):
        assert outside(model, g.model, example, train=train) <= 1e-12
    with torch.no_grad():
        a, b = model.eval()(example), g.model.eval()(example)
    assert ((a - b).abs().max() / a.abs().max()).item() <= (1e-5 if dtype is torch.float32 else 1e-12)
    assert {c.mode for c in g.certificate.checks} == {"eval", "train"}
    assert {c.inputs for c in g.certificate.checks} == {"examples", "random inputs"}
    for group, parents in g.lineage.items():
        assert parents.dtype == np.int64
        counts = np.bincount(parents)
        assert (counts >= 1).all()
        assert len(g.parts[group]) == len(parents)
    for live, size in g.certificate.live.values():
        assert 0 < live <= size


def test_the_check_from_outside_can_fail() -> None:
    model = nets.trained_a_little(nets.mlp())
    g = wl.widen(model, {"0": 9}, nets.vectors())
    with torch.no_grad():
        g.model[4].bias[0] += 1e-6
    assert outside(model, g.model, nets.vectors(), train=False) > 1e-9


REFUSED: dict[str, tuple[Any, Any, dict[str, int], str]] = {
    "hard-coded view": (lambda: nets.Lenet("hard-coded"), nets.images(1, 14), {"conv2": 9}, "'conv2' from 6 to 9 .*does not run"),
    "padded stream": (lambda: nets.Resnet(True), nets.images(), {"conv": 12}, "'conv' .*pad"),
    "layer norm, uneven": (nets.Gpt, nets.tokens(), {"tokens": 11}, "'tokens' .*layer_norm.*multiple of 8"),
    "rms norm, uneven": (
        lambda: nets.Gpt(nn.RMSNorm), nets.tokens(), {"tokens": 12}, "'tokens' .*multiple of 8"
    ),
    "tied embedding": (lambda: nets.Gpt(tied=True), nets.tokens(), {"tokens": 16}, "'tokens' .*tied"),
    "tied auto-encoder": (nets.TiedAutoencoder, nets.vectors(), {"weight": 9}, "'weight' .*tied"),
    "query and key dims": (nets.Gpt, nets.tokens(), {"blocks.0.q[0]": 8}, "contraction"),
    "fused heads": (nets.FusedAttention, nets.sequences(), {"qkv": 4}, "'qkv' from 2 to 4"),
    "grouped convolution": (nets.Grouped, nets.images(), {"conv1": 12}, "'conv1' .*grouped conv"),
    "weight norm": (
        lambda: nn.Sequential(
            nn.Linear(4, 6), nn.Tanh(), nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 2)
        ),
        nets.vectors(), {"0": 9}, "'0' .*weight_norm",
    ),
    "branch never taken": (nets.Branch, nets.vectors().abs(), {"fc1": 9}, "'fc1' .*right.weight was never used"),
    "norm groups": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2)),
        nets.images(), {"0": 4}, "'0' from 2 to 4 would change the function",
    ),
    "summed units": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), Sum()), nets.vectors(), {"0": 9}, "'0' ",
    ),
}  # fmt: skip


class Sum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(-1)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_function_is_refused_by_name(name: str) -> None:
    make, example, sizes, text = REFUSED[name]
    torch.manual_seed(1)
    model = nets.trained_a_little(make())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CannotGrow, match=text):
        wl.widen(model, sizes, example)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_units_that_are_returned_are_no_group() -> None:
    with pytest.raises(UnknownTensor, match=r"fc1.*fixed: .*output"):
        wl.widen(nets.Returns(), {"fc1": 9}, nets.vectors())


def test_a_branch_is_widened_when_the_examples_reach_it() -> None:
    model = nets.trained_a_little(nets.Branch())
    x = nets.vectors().abs()
    g = wl.widen(model, {"fc1": 9}, x, -x)
    assert g.error <= 1e-12
    assert g.model.right.in_features == 9


def test_which_of_several_groups_is_guilty_is_said() -> None:
    model = nets.trained_a_little(nets.Lenet("hard-coded"))
    with pytest.raises(CannotGrow, match="alone, 'conv2' could not be widened either"):
        wl.widen(model, {"conv1": 7, "conv2": 9, "fc1": 11}, nets.images(1, 14))


def test_dead_and_constant_networks_are_not_certified() -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].weight.copy_(-model[0].weight.abs())
    with pytest.raises(VacuousComparison, match="dead or constant"):
        wl.widen(nn.Sequential(nn.ReLU(), *model), {"1": 9}, nets.vectors())
    with torch.no_grad():
        model[2].weight.zero_()
    with pytest.raises(VacuousComparison, match="dead or constant"):
        wl.widen(model, {"0": 9}, nets.vectors())


def test_a_dead_group_in_a_living_network_is_not_certified() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.fc2(torch.relu(self.fc1(x)))

    model = Skip()
    with torch.no_grad():
        model.fc1.bias.fill_(-1000.0)
    with pytest.raises(VacuousComparison, match="not one unit of 'fc1'"):
        wl.widen(model, {"fc1": 9}, nets.vectors())


def test_live_units_are_counted() -> None:
    model = nets.trained_a_little(nets.mlp())
    with torch.no_grad():
        model[0].bias[[1, 4]] = -1000.0
    g = wl.widen(model, {"0": 9}, nets.vectors())
    assert g.certificate.live["0"] == (4, 6)


def test_noise_changes_the_function_and_the_error_says_by_how_much() -> None:
    model = nets.trained_a_little(nets.mlp().double())
    x = nets.vectors().double()
    g = wl.widen(model, {"0": 12}, x, noise=0.05, seed=1)
    assert 1e-4 < g.error < 1
    assert outside(model, g.model, x, train=False) <= g.error
    assert any(
        c.inputs == "examples" and c.mode == "eval" and c.error == outside(model, g.model, x, train=False)
        for c in g.certificate.checks
    )
    assert torch.equal(g.model[0].weight[:6], model[0].weight)  # old units are left alone
    for bad in (-1.0, float("nan")):
        with pytest.raises(InvalidArgument, match="noise"):
            wl.widen(model, {"0": 12}, x, noise=bad)


def test_the_seed_fixes_everything() -> None:
    model = nets.trained_a_little(nets.mlp())
    one, two, other = (wl.widen(model, {"0": 13}, nets.vectors(), seed=s) for s in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    assert one.lineage["0"].tolist() == two.lineage["0"].tolist()
    assert not np.array_equal(one.parts["0"], other.parts["0"])


def test_widening_draws_nothing_from_torchs_generator_and_needs_an_example() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    wl.widen(nets.trained_a_little(nets.mlp()), {"0": 8}, nets.vectors(), seed=0)
    torch.manual_seed(3)
    assert torch.equal(before, torch.random.get_rng_state())
    with pytest.raises(InvalidArgument, match="at least one example"):
        wl.widen(nets.mlp(), {"0": 8})


def test_widening_twice_and_by_nothing() -> None:
    model = nets.trained_a_little(nets.mlp())
    x = nets.vectors()
    same = wl.widen(model, {"0": 6}, x)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.model.parameters(), strict=True))
    twice = wl.widen(wl.widen(model, {"0": 9}, x).model, {"0": 13, "2": 8}, x)
    assert outside(model, twice.model, x, train=False) <= 1e-12


def test_several_arguments_and_keyword_arguments() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor, shift: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
            return self.fc2(torch.relu(self.fc1(x + shift))) * gain

    model = nets.trained_a_little(Two())
    x = nets.vectors()
    assert wl.widen(model, {"fc1": 9}, (x, 0.5 * x)).error <= 1e-12
    assert wl.widen(model, {"fc1": 9}, {"x": x, "shift": x, "gain": 2.0}).error <= 1e-12


def test_a_branch_that_is_silent_at_first_is_widened() -> None:
    model = nets.trained_a_little(nets.Resnet())
    with torch.no_grad():
        for block in (*model.layer1, *model.layer2):
            block.bn2.weight.zero_()
    g = wl.widen(model, {"layer1.0.conv1": 9}, nets.images())
    assert g.error <= 1e-12
    assert g.certificate.live["layer1.0.conv1"] == (0, 6)


def test_an_example_of_nothing_but_zeros_is_no_sign_of_a_dead_network() -> None:
    model = nets.trained_a_little(nets.Gpt())
    assert wl.widen(model, {"blocks.0.up": 23}, torch.zeros(2, 5, dtype=torch.int64)).error <= 1e-12
    model = nets.trained_a_little(nets.mlp())
    assert wl.widen(model, {"0": 9}, torch.zeros(3, 4)).error <= 1e-12

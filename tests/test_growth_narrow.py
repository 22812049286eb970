"""Narrowing takes out what the function does not need, and undoes widening."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tests.nets_growth as nets
import weightlapse as wl
from tests.test_growth_widen import EXACT, outside
from weightlapse.errors import CannotGrow, InvalidArgument, UnknownTensor, VacuousComparison

# A norm over the units forbids narrowing them (LayerNorm, GroupNorm), so those widened streams stay wide.
BACK = [name for name in EXACT if "stream x" not in name and "group norm" not in name and "with its heads" not in name]


@pytest.mark.parametrize("name", BACK)
def test_narrowing_undoes_widening(name: str) -> None:
    make, x, sizes = EXACT[name]
    torch.manual_seed(1)
    model = nets.trained_a_little(make())
    g = wl.widen(model, sizes, x, seed=2)
    back = wl.narrow(g.model, x, proven=True)
    assert back.error <= 1e-12
    for (n, old), (m, new) in zip(model.state_dict().items(), back.model.state_dict().items(), strict=True):
        assert n == m
        assert torch.equal(old, new), n
    for group, kept in back.lineage.items():
        assert g.lineage[group][kept].tolist() == list(range(len(kept)))


def test_the_optimizer_goes_back_too() -> None:
    model, x = nets.trained_a_little(nets.mlp()).double(), nets.vectors().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    g = wl.widen(model, {"0": 11, "2": 9}, x, optimizer=optimizer)
    back = wl.narrow(g.model, x, optimizer=g.optimizer, proven=True)
    for p, q in zip(model.parameters(), back.model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-15)
        for key, value in optimizer.state[p].items():
            torch.testing.assert_close(back.optimizer.state[q][key], value, rtol=1e-12, atol=1e-18)
    assert back.optimizer.param_groups[0]["lr"] == 3e-3


def test_unread_dead_and_doubled_units_go_and_are_counted() -> None:
    model, x = nets.trained_a_little(nets.mlp()), nets.vectors()
    with torch.no_grad():
        model[2].weight[:, 1] = 0.0  # unread
        model[0].bias[3] = -1000.0  # dead
        model[0].weight[5], model[0].bias[5] = model[0].weight[4], model[0].bias[4]  # doubled
    n = wl.narrow(model, x)
    assert n.lineage["0"].tolist() == [0, 2, 4]
    assert outside(model, n.model, x, train=False) <= 1e-6
    told = [note for note in n.certificate.notes if note.startswith("0:")]
    assert sorted(told) == [
        "0: 1 doubles of another unit",
        "0: 1 unread (outgoing weights zero)",
        "0: 1 zero for every input tried",
    ]
    assert model[0].out_features == 6
    assert n.model[0].out_features == n.model[2].in_features == 3


def test_only_what_no_input_can_tell_goes_when_proof_is_asked() -> None:
    model, x = nets.trained_a_little(nets.mlp()), nets.vectors()
    with torch.no_grad():
        model[2].weight[:, 1] = 0.0
        model[0].bias[3] = -1000.0
    assert wl.narrow(model, x, proven=True).lineage["0"].tolist() == [0, 2, 3, 4, 5]


def test_a_constant_moves_into_the_bias() -> None:
    model, x = nets.trained_a_little(nets.mlp(nn.Tanh)).double(), nets.vectors().double()
    with torch.no_grad():
        model[0].weight[2] = 0.0
    n = wl.narrow(model, x)
    assert n.lineage["0"].tolist() == [0, 1, 3, 4, 5]
    assert n.error <= 1e-12
    assert not torch.equal(n.model[2].bias, model[2].bias)


def test_a_constant_stays_where_no_bias_can_take_it() -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2, bias=False)), nets.vectors()
    with torch.no_grad():
        model[0].weight[2] = 0.0
    assert "nothing" in wl.narrow(model, x).note


@pytest.mark.parametrize("padding", [0, 1])
def test_a_constant_before_a_convolution(padding: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.Tanh(), nn.Conv2d(5, 4, 3, padding=padding), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)
    )
    x = nets.images(3, 6)
    model(x)
    nets.trained_a_little(model.double())
    with torch.no_grad():
        model[0].weight[1] = 0.0
    n = wl.narrow(model, x.double())
    # At a padded border the constant is missing, which no bias can say.
    assert n.model[0].out_channels == (4 if padding == 0 else 5)
    assert n.error <= 1e-12


def test_dead_channels_go_with_their_statistics() -> None:
    model, x = nets.trained_a_little(nets.Mobile()), nets.images()
    with torch.no_grad():
        model.bn2.bias[4] = -1e3
        model.bn2.weight[4] = 0.0
    n = wl.narrow(model, x)
    assert n.lineage["expand"].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert n.model.depthwise.groups == n.model.bn1.num_features == n.model.excite.out_channels == 8
    assert outside(model, n.model, x, train=True) <= 1e-6


def test_a_unit_that_lives_only_in_train_mode_stays() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    nets.trained_a_little(model)
    with torch.no_grad():
        model[1].running_mean[2] = 1e4
    assert "nothing" in wl.narrow(model, nets.vectors()).note


def test_one_unit_is_always_left() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.head = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.tanh(x + self.fc2(F.relu(self.fc1(x)))))

    model = nets.trained_a_little(Skip())
    with torch.no_grad():
        model.fc2.weight.zero_()
    n = wl.narrow(model, nets.vectors())
    assert n.model.fc1.out_features == 1
    assert n.error <= 1e-12


def test_a_network_without_surplus_stays_as_it_is() -> None:
    model, x = nets.trained_a_little(nets.mlp(nn.Tanh)), nets.vectors()
    n = wl.narrow(model, x)
    assert "every unit is needed" in n.note
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), n.model.parameters(), strict=True))
    assert all(a is not b for a, b in zip(model.parameters(), n.model.parameters(), strict=True))


def test_only_the_groups_named_are_looked_at() -> None:
    model, x = nets.trained_a_little(nets.mlp()), nets.vectors()
    wide = wl.widen(model, {"0": 9, "2": 8}, x).model
    n = wl.narrow(wide, x, groups=["2"], proven=True)
    assert (n.model[0].out_features, n.model[2].out_features) == (9, 5)
    with pytest.raises(UnknownTensor):
        wl.narrow(wide, x, groups=["nine"])
    with pytest.raises(CannotGrow, match="layer_norm averages"):
        wl.narrow(nets.Gpt(), nets.tokens(), groups=["tokens"])
    with pytest.raises(InvalidArgument, match="at least one example"):
        wl.narrow(wide)


def test_a_dead_network_is_not_narrowed_to_nothing() -> None:
    model = nets.mlp()
    with torch.no_grad():
        model[2].bias.fill_(-1e6)
    with pytest.raises(VacuousComparison):
        wl.narrow(model, nets.vectors())


def test_a_trained_network_of_digits_loses_its_dead_units_only() -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.data[:500] / 16, dtype=torch.float32)
    y = torch.tensor(data.target[:500])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        model[0].bias[:7] = -100.0
    n = wl.narrow(model, x)
    kept = np.setdiff1d(np.arange(48), np.arange(7))
    assert set(n.lineage["0"]) <= set(kept.tolist())
    with torch.no_grad():
        assert torch.equal(model(x).argmax(1), n.model(x).argmax(1))

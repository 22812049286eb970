"""The verifier finds what is wrong: planted errors are dropped and named, and only they."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.zoo import ZOO
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Gauge, Group, Member, blocks
from weightlapse.wiring.outputs import chooser
from weightlapse.wiring.trace import state_tensors, trace
from weightlapse.wiring.verify import Bench, verified


def bench_of(name: str) -> tuple[Wiring, Bench]:
    case = ZOO[name]
    model = case.make()
    w = trace(model, *case.examples, verify=False)
    return w, Bench(model, case.examples, chooser(None), state_tensors(model)[0])


def test_a_right_wiring_passes_whole() -> None:
    w, bench = bench_of("resnet20_conv_shortcut")
    again = verified(w, bench)
    assert again.groups == w.groups
    assert again.dropped == ()
    assert bench.dtype == torch.float64
    assert len({len(b[0]) for b in bench.base}) == 2  # two batch sizes


def test_a_missing_member_is_found() -> None:
    w, bench = bench_of("vgg_bn")
    for i in range(len(w.group("3").members)):
        broken = replace(
            w.group("3"),
            members=tuple(m for j, m in enumerate(w.group("3").members) if j != i),
            exponents=(),
            gauges=(),
        )
        again = verified(replace(w, groups=tuple(broken if g.name == "3" else g for g in w.groups)), bench)
        assert len(again.dropped) == 1
        assert again.dropped[0].startswith("3: permuting its units changes the outputs")
        assert [g.name for g in again.groups] == ["0", "7", "10", "16"]


def test_norm_gains_of_one_cannot_hide_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    x = torch.randn(5, 4)
    members = (
        Member("0.weight", 0, blocks(8), "out"),
        Member("0.bias", 0, blocks(8), "add"),
        Member("2.weight", 1, blocks(8), "in"),
    )
    forgetful = Wiring((Group("0", 8, members),), shapes={n: tuple(t.shape) for n, t in model.state_dict().items()})
    again = verified(forgetful, Bench(model, [x], chooser(None), state_tensors(model)[0]))
    assert again.groups == ()
    assert len(again.dropped) == 1
    assert "dropped" in again.explain("0.weight", 0)


def test_wrong_symmetries_are_taken_away() -> None:
    w, bench = bench_of("mlp_gelu")
    wrong = tuple(
        replace(
            g,
            symmetries=frozenset({"permutation", "sign", "scale"}),
            exponents=(1, 1, -1),
            gauges=(Gauge("sign", (1, 0, 1)),),
        )
        for g in w.groups
    )
    again = verified(replace(w, groups=wrong), bench)
    assert [g.symmetries for g in again.groups] == [{"permutation"}] * 2
    assert [g.gauges for g in again.groups] == [()] * 2


def test_a_wrong_index_order_is_found() -> None:
    w, bench = bench_of("lenet_channels_last")
    g = w.group("conv2")
    swapped = tuple(replace(m, index=np.sort(m.index.ravel()).reshape(m.index.shape)) for m in g.members)
    again = verified(replace(w, groups=(replace(g, members=swapped),)), bench)
    assert len(again.dropped) == 1


def test_statistics_and_variances_stay_possible() -> None:
    _, bench = bench_of("vgg_bn")
    assert all((t > 0).all() for n, t in bench.state.items() if n.endswith("running_var"))
    assert all(t.std() > 0 for n, t in bench.state.items() if t.numel() > 1)


def test_models_that_round_inside_are_judged_by_their_precision() -> None:
    class Rounds(nn.Sequential):
        def forward(self, x):
            return super().forward(x).float().double()

    model = Rounds(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    bench = Bench(model, [torch.randn(5, 4)], chooser(None), state_tensors(model)[0])
    assert bench.tolerance == 1e-4
    assert len(verified(trace(model, torch.randn(5, 4), verify=False), bench).groups) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "2.bias", "4.weight"])
def test_weights_that_are_no_numbers_leave_the_wiring_as_it_is(bad: float, name: str) -> None:
    def made() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))

    x, broken = torch.randn(5, 4), made()
    broken.state_dict()[name].view(-1)[1] = bad
    w = wl.trace(broken, x, verify=True)
    assert w.report["verified"]
    assert w.groups == wl.trace(made(), x, verify=True).groups
    assert float(broken.state_dict()[name].view(-1)[1]) != 0.0

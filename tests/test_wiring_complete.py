"""The completeness oracle: what it frees, that it frees nothing else, and that the rules leave it nothing to free."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.oracles_wiring import independent_parts
from tests.zoo import ZOO
from weightlapse.wiring.bench import Bench
from weightlapse.wiring.complete import missed
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member, blocks
from weightlapse.wiring.outputs import chooser
from weightlapse.wiring.trace import state_tensors, trace


@pytest.mark.parametrize("name", ZOO)
def test_experiments_free_nothing_that_the_rules_left_out(name: str) -> None:
    case = ZOO[name]
    w = wl.trace(case.make(), *case.examples, verify="complete")
    assert w.dropped == ()
    left = [text for text in w.report["missed"] if not any(limit in text for limit in case.limits)]
    assert left == []
    assert w.report["complete"] is (w.report["missed"] == ())


def bench_of(model: nn.Module, *examples: Any) -> tuple[Wiring, Bench]:
    return trace(model, *examples, verify=False), Bench(model, examples, chooser(None), state_tensors(model)[0])


def mlp(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def joined(wiring: Wiring, *names: str) -> Wiring:
    """Several groups tied into one, as a rule that is too strict would."""
    parts = [wiring.group(n) for n in names]
    members = tuple(m for g in parts for m in g.members)
    tied = replace(
        parts[0], members=members, exponents=(0,) * len(members), symmetries=frozenset({"permutation"}), gauges=()
    )
    return replace(wiring, groups=(tied, *(g for g in wiring.groups if g.name not in names)))


def without(wiring: Wiring, name: str, reason: str = "a rule gave up") -> Wiring:
    """A group taken away, its axes called fixed."""
    gone = wiring.group(name)
    fixed = wiring.fixed | {(m.tensor, m.axis): reason for m in gone.members}
    return replace(wiring, groups=tuple(g for g in wiring.groups if g.name != name), fixed=fixed)


def test_two_layers_tied_into_one_group_are_found() -> None:
    w, bench = bench_of(mlp(4, 8, 8, 3), torch.randn(6, 4))
    assert missed(w, bench) == []
    (found,) = missed(joined(w, "0", "2"), bench)
    assert "could have an order of their own" in found.text
    assert {m.tensor for m in found.group.members} in (
        {"0.weight", "0.bias", "2.weight"},
        {"2.weight", "2.bias", "4.weight"},
    )


def test_three_streams_tied_into_one_are_found() -> None:
    case = ZOO["graph_isomorphism"]
    w, bench = bench_of(case.make(), *case.examples)
    (found,) = missed(joined(w, "one.a", "two.a"), bench)
    assert {m.tensor.split(".")[0] for m in found.group.members} in ({"one"}, {"two"})


def test_heads_that_share_one_order_of_dims_are_found() -> None:
    case = ZOO["vit_qkv_3HD"]
    w, bench = bench_of(case.make(), *case.examples)
    inner = [g for g in w.groups if g.parent is not None and len(g.members) == len(w.groups[-1].members)]
    same = [g.name for g in inner if {m.role for m in g.members} == {m.role for m in inner[0].members}]
    assert len(same) > 1
    tied = joined(w, *same)
    tied = replace(tied, groups=tuple(replace(g, parent=None) if g.name == same[0] else g for g in tied.groups))
    assert any("could have an order of their own" in m.text for m in missed(tied, bench))


@pytest.mark.parametrize(
    "name, group", [("vgg_bn", "3"), ("mlp_gelu", "0"), ("graph_sage", "one.l"), ("segformer", "up")]
)
def test_a_group_called_fixed_is_freed(name: str, group: str) -> None:
    case = ZOO[name]
    w, bench = bench_of(case.make(), *case.examples)
    found = missed(without(w, group), bench)
    assert found
    assert {(m.tensor, m.axis) for f in found for m in f.group.members} == {
        (m.tensor, m.axis) for m in w.group(group).members
    }


@pytest.mark.parametrize("reason", ["input", "output"])
def test_inputs_and_outputs_are_left_alone(reason: str) -> None:
    w, bench = bench_of(mlp(4, 8, 3), torch.randn(6, 4))
    assert missed(without(w, "0", reason), bench) == []


def test_what_truly_depends_on_the_order_is_not_freed() -> None:
    for name in (
        "refused_cumsum",
        "refused_position_encoding",
        "refused_roll",
        "index_differs_by_unit",
        "spectral_conv",
    ):
        case = ZOO[name]
        assert missed(*bench_of(case.make(), *case.examples)) == []


@pytest.mark.parametrize(
    "sizes, tied", [((3, 4, 4, 2), ("0", "2")), ((3, 4, 4, 4, 2), ("0", "2")), ((3, 4, 4, 4, 2), ("0", "4"))]
)
def test_it_agrees_with_trying_every_set(sizes: tuple[int, ...], tied: tuple[str, str]) -> None:
    w, bench = bench_of(mlp(*sizes), torch.randn(6, 3))
    wrong = joined(w, *tied)
    places = list(wrong.group(tied[0]).members)
    parts = independent_parts(bench, wrong, 4, places)
    assert sorted(map(len, parts)) == [3, 3]
    (found,) = missed(wrong, bench)
    ours = {(m.tensor, m.axis) for m in found.group.members}
    assert ours in [{(places[i].tensor, places[i].axis) for i in part} for part in parts]
    for name in ("0", "2"):
        whole = list(w.group(name).members)
        assert independent_parts(bench, w, 4, whole) == [frozenset(range(len(whole)))]


def test_places_without_influence_free_nothing() -> None:
    """The bias of the keys adds the same to every score: it could be in any order, and nothing is said about it."""
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    q = torch.randn(2, 5, 8)
    w = wl.trace(attention, (q, q, q), verify="complete")
    assert w.report["missed"] == ()
    bench = Bench(attention, [(q, q, q)], chooser(None), state_tensors(attention)[0])
    keys = Group("keys", 4, (Member("in_proj_bias", 0, blocks(4, 1, 8), "add"),))
    assert bench.error_moved({}) == 0
    assert np.isfinite(bench.error(bench.state))
    from weightlapse.wiring.verify import works

    assert works(bench, w, keys, np.random.default_rng(0)) <= bench.tolerance


def test_the_report_names_what_is_missed() -> None:
    case = ZOO["refused_sort"]
    w = wl.trace(case.make(), *case.examples, verify="complete")
    assert w.report["complete"] is False
    assert any(text.startswith("a.weight[0] is fixed (sort depends") for text in w.report["missed"])
    assert "complete" not in wl.trace(case.make(), *case.examples, verify=True).report

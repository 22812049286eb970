"""Experts behind a router: they may change places, and their own units lie inside them; claimed only when tried."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.zoo import ZOO
from weightlapse.wiring.bench import Bench
from weightlapse.wiring.experts import guesses, with_experts
from weightlapse.wiring.outputs import chooser
from weightlapse.wiring.trace import state_tensors
from weightlapse.wiring.verify import works

KINDS = ["experts_loop_over_hit", "experts_picked", "experts_picked_with_bias", "experts_picked_two_axes", "experts_grouped",
         "experts_grouped_gated", "hf_mixtral_eager", "hf_mixtral_batched_mm", "hf_mixtral_grouped_mm"]  # fmt: skip


@pytest.mark.parametrize("name", [n for n in KINDS if n in ZOO])
def test_experts_change_places_with_their_units_inside(name: str) -> None:
    case = ZOO[name]
    model = case.make()
    assert not any(
        g.parent is not None and "router" in g.parent[0] for g in wl.trace(model, *case.examples, verify=False).groups
    )
    w = wl.trace(model, *case.examples)
    (experts,) = [g for g in w.groups if any("behind a router" in b for b in g.blockers)]
    assert experts.size == 3
    inside = w.children(experts.name)
    assert [g.parent for g in inside] == [(experts.name, e) for e in range(3)]
    assert {g.size for g in inside} <= {5, 8, 24}
    at = w.groups.index(experts)
    assert all(w.groups.index(g) > at for g in inside)
    bench = Bench(model, case.examples, chooser(None), state_tensors(model)[0])
    rng = np.random.default_rng(2)
    for g in (experts, *inside):
        assert works(bench, w, g, rng) <= bench.tolerance
    state = wl.permute({n: t.detach().clone() for n, t in model.state_dict().items()}, w, experts.name, [2, 0, 1])
    moved = case.make()
    moved.load_state_dict(state)
    example = case.examples[0]
    with torch.no_grad():
        a, b = (chooser(None)(m(**example) if isinstance(example, dict) else m(example)) for m in (model, moved))
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a, b, strict=True))
    assert wl.Wiring.from_spec(w.to_spec()) == w


def test_a_guess_that_does_not_hold_is_not_claimed() -> None:
    class Numbered(nn.Module):
        """The number of the expert is part of what it computes."""

        def __init__(self) -> None:
            super().__init__()
            self.inp, self.router, self.out = nn.Linear(4, 10), nn.Linear(10, 3), nn.Linear(10, 2)
            self.up, self.down = nn.Parameter(torch.randn(3, 10, 5)), nn.Parameter(torch.randn(3, 5, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(self.inp(x))
            weight, chosen = self.router(x).softmax(-1).topk(2, -1)
            h = torch.relu(torch.einsum("bc,bkch->bkh", x, self.up[chosen])) * (1 + chosen[..., None])
            return self.out(x + torch.einsum("bkh,bkhc,bk->bc", h, self.down[chosen], weight))

    model, x = Numbered(), torch.randn(9, 4)
    w = wl.trace(model, x, verify=True)
    assert guesses(w)
    assert not any("behind a router" in b for g in w.groups for b in g.blockers)
    assert w.dropped == ()


def test_a_stack_without_influence_proves_nothing() -> None:
    case = ZOO["experts_picked"]
    model = case.make()
    with torch.no_grad():
        model.out.weight.zero_()
    w = wl.trace(model, *case.examples, verify=False)
    bench = Bench(model, case.examples, chooser(None), state_tensors(model)[0])
    with torch.no_grad():
        for t in (bench.model.up, bench.model.down):
            t.data.zero_()
    bench.base = [bench.run(c) for c in bench.calls]
    assert with_experts(w, bench).groups == w.groups


def test_a_guess_without_one_of_its_stacks_fails() -> None:
    case = ZOO["experts_picked_with_bias"]
    model = case.make()
    w = wl.trace(model, *case.examples, verify=False)
    (guess,) = guesses(w)
    bench = Bench(model, case.examples, chooser(None), state_tensors(model)[0])
    for m in guess.members:
        rest = tuple(x for x in guess.members if x is not m)
        broken = replace(guess, members=rest, exponents=(0,) * len(rest))
        assert works(bench, w, broken, np.random.default_rng(1)) > bench.tolerance, m.tensor


def test_several_examples_agree_about_the_routes() -> None:
    case = ZOO["experts_by_token_type"]
    model = case.make()
    x = torch.randn(6, 4)
    examples = ((x, torch.tensor([0, 1, 2, 2, 1, 0])), (x, torch.tensor([2, 2, 0, 1, 0, 0])))
    w = wl.trace(model, *examples, verify=True)
    assert sorted(g.size for g in w.groups) == list(case.sizes)
    assert w.dropped == ()
    some = wl.trace(model, (x, torch.tensor([0, 0, 0, 1, 1, 1])), verify=True)
    assert sorted(g.size for g in some.groups) == list(case.sizes)

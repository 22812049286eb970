"""Unification by hand, operators between two layers, and what probing may conclude."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.framework_presence import require
from weightlapse.wiring.dims import Dims


def test_products_and_sums_unify() -> None:
    d = Dims()
    whole, channels, space = d.fresh(24), d.fresh(6), d.fresh(4, "space")
    d.unify(whole, d.product([channels, space]))
    a, b = d.cut(whole, [8])  # two channels and four
    assert [d.sizes[x] for x in d.leaves(a)] == [2, 4]
    assert [d.sizes[x] for x in d.leaves(channels)] == [2, 4]
    assert d.reason(b) == "space"
    heads, dims = d.split(d.fresh(12), [3, 4])
    other = d.product([d.fresh(3), d.fresh(4)])
    d.unify(d.product([heads, dims]), other)
    assert [d.find(x) for x in d.factors(other)] == [d.find(heads), d.find(dims)]
    assert d.conflicts == []


def test_what_does_not_factor_is_fixed_on_both_sides() -> None:
    d = Dims()
    a, b = d.product([d.fresh(4), d.fresh(3)]), d.product([d.fresh(3), d.fresh(4)])
    d.unify(a, b)
    assert d.conflicts
    assert not d.any_free(a)
    assert not d.any_free(b)
    c = d.product([d.fresh(4), d.fresh(3)])
    d.cut(c, [5])
    assert not d.any_free(c)


def test_cases_of_an_atom_are_joined_when_it_is_used_as_a_whole() -> None:
    d = Dims()
    which, heads = d.fresh(3), d.fresh(4)
    d.occur([which, heads], weight=True)
    q, k = d.at(heads, which, 0), d.at(heads, which, 1)
    assert d.find(q) != d.find(k)
    d.occur([q])
    d.occur([heads])  # now it stands without the selector: one arrangement for all
    assert d.find(q) == d.find(k) == d.find(heads)


class Around(nn.Module):
    def __init__(self, act) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(4, 8), nn.Linear(8, 2), act

    def forward(self, x):
        return self.b(self.act(self.a(x)))


HARMLESS = {
    "celu": torch.celu,
    "square": torch.square,
    "softmax": lambda h: h.softmax(-1),
    "normalize": lambda h: nn.functional.normalize(h, dim=-1),
    "standardise": lambda h: (h - h.mean(-1, keepdim=True)) / h.std(-1, keepdim=True),
    "logsumexp": lambda h: h - h.logsumexp(-1, keepdim=True),
    "cdist": lambda h: h * torch.cdist(h, h).mean(),
    "cov_of_rows": lambda h: h * torch.cov(h).mean(),
    "vmap": lambda h: torch.vmap(torch.tanh)(h),
    "einsum_gate": lambda h: torch.einsum("bi,bi->bi", h, h.sigmoid()),
    "clamp_where": lambda h: torch.where(h > 0, h.clamp(max=1.0), 0.1 * h),
    "nan_to_num": torch.nan_to_num,
    "cat_split": lambda h: torch.cat([h, h], -1).chunk(2, -1)[1],
    "twice_transposed": lambda h: h.mT.contiguous().mT,
    "as_strided": lambda h: h.as_strided(h.shape, h.stride()),
    "dropout": lambda h: nn.functional.dropout(h, 0.5, training=False),
    "inplace": lambda h: h.mul_(2).add_(1).clamp_(min=0),
    "lerp": lambda h: torch.lerp(h, h.tanh(), 0.3),
    "max_over_units": lambda h: h - h.max(-1, keepdim=True).values,
    "branch_on_a_sum": lambda h: h if h.sum() > -1e9 else -h,
}
ORDERED = {
    "first_unit_gates": lambda h: h * h[:, :1],
    "branch_on_a_unit": lambda h: h if h[0, 3] > 1e9 else -h,
    "neighbours": lambda h: h + nn.functional.pad(h[:, 1:], (0, 1)),
    "unfold": lambda h: h.unfold(-1, 1, 1)[..., 0] * torch.arange(1, 9),
    "reshaped_mean": lambda h: h.view(-1, 2, 4).mean(1).repeat(1, 2),
    "cummax": lambda h: h.cummax(-1).values,
    "diff": lambda h: torch.diff(h, dim=-1, append=h[:, :1]),
    "strided_halves": lambda h: torch.cat([h[:, ::2], h[:, 1::2]], -1) * torch.linspace(0, 1, 8),
    "searchsorted": lambda h: h * torch.searchsorted(torch.linspace(-1, 1, 8), h).argsort(-1),
    "masked_prefix": lambda h: h.masked_fill(torch.arange(8) < 3, 0.0),
    "matrix_exp": lambda h: h @ torch.matrix_exp(torch.ones(8, 8).tril()),
    "index_map": lambda h: h[:, [1, 0, 3, 2, 5, 4, 7, 6]] + h,
}


@pytest.mark.parametrize("name", HARMLESS)
def test_operators_that_treat_units_alike(name: str) -> None:
    w = wl.trace(Around(HARMLESS[name]), torch.randn(5, 4), verify=True)
    assert [(g.name, g.size) for g in w.groups] == [("a", 8)], w.explain("a.weight", 0)
    assert w.dropped == ()


@pytest.mark.parametrize("name", ORDERED)
def test_operators_that_tell_units_apart(name: str) -> None:
    w = wl.trace(Around(ORDERED[name]), torch.randn(5, 4), verify=False)
    assert all(g.size < 8 for g in w.groups), str(w)
    checked = wl.trace(Around(ORDERED[name]), torch.randn(5, 4), verify=True)
    assert checked.dropped == ()  # inference alone was right: the verifier had nothing to take away
    assert "fixed" in w.explain("a.weight", 0) or w.groups


KERAS = """
import json, sys, keras, torch, weightlapse as wl
m = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu", name="hidden"), keras.layers.Dense(3)])
w = wl.trace(m, torch.randn(5, 4))
g, = w.groups
print(json.dumps([g.name, g.size, sorted(g.symmetries), [[m.tensor, m.axis, m.role] for m in g.members], sorted(v.path for v in m.variables)]))
"""


@pytest.mark.slow
def test_a_keras_model_on_the_torch_backend_is_a_torch_module() -> None:
    require("keras")
    env = os.environ | {"KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", KERAS], capture_output=True, text=True, env=env, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    name, size, symmetries, members, paths = json.loads(done.stdout.splitlines()[-1])
    assert name.endswith("hidden")
    assert (size, symmetries) == (8, ["permutation", "scale"])
    assert [m[1:] for m in members] == [[1, "out"], [0, "add"], [0, "in"]]
    assert all(m[0] in paths for m in members)


def test_a_rule_that_fails_costs_a_symmetry_and_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    from weightlapse.wiring.rules.table import RULES

    def broken(inf, call):
        raise ValueError("a form that nobody thought of")

    def short(inf, call):
        return [[]]

    for wrong in (broken, short):
        monkeypatch.setitem(RULES, "tanh", wrong)
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        w = wl.trace(net, torch.randn(5, 4), verify=True)
        assert [g.name for g in w.groups] == ["2"]
        assert "opaque op tanh" in w.explain("0.weight", 0)
        (note,) = w.report["notes"]
        assert note.startswith("tanh: its rule")


@pytest.mark.parametrize("place", ["_call", "_solved"])
def test_sign_and_scale_are_extras(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from weightlapse.wiring import symmetries
    from weightlapse.wiring.gauges import Gauges

    def broken(*_args):
        raise ValueError("all input arrays must have the same shape")

    monkeypatch.setattr(Gauges if place == "_call" else symmetries, place, broken)
    w = wl.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(5, 4), verify=True)
    (g,) = w.groups
    assert g.symmetries == {"permutation"}
    assert g.exponents == (0, 0, 0)
    assert w.dropped == ()
    assert any("sign and scale of '0' are not known" in note for note in w.report["notes"])


@pytest.mark.parametrize("name", ["efficient_vit", "efficient_vit_summed", "efficient_vit_wide", "hf_levit"])
def test_attention_at_several_scales_gives_no_notes(name: str) -> None:
    from tests.zoo import ZOO

    case = ZOO[name]
    w = wl.trace(case.make(), *case.examples, verify=True)
    assert w.report["notes"] == ()
    assert w.dropped == ()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_constants_in_steps(shape: tuple[int, ...]) -> None:
    """Units under equal values of a constant are alike, also where it has several steps."""

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 9), nn.Linear(9, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            steps = torch.repeat_interleave(torch.tensor([1.0, -2.0, 0.5], dtype=x.dtype), torch.tensor([2, 3, 4]))
            return self.b(torch.tanh(self.a(x)) * steps.expand(*shape, 9))

    w = wl.trace(Steps(), torch.randn(*(shape or (3,)), 4), verify=True)
    assert sorted(g.size for g in w.groups) == [2, 3, 4]
    assert w.dropped == ()


def test_one_index_for_two_layers_ties_nothing() -> None:
    """The expanded index is made once and handed to both layers, as a view and as a copy."""

    class Shared(nn.Module):
        def __init__(self, copy: bool) -> None:
            super().__init__()
            self.a, self.b, self.c, self.copy = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), copy

        def forward(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
            index = to[:, None].expand(-1, 8)
            index = index.contiguous() if self.copy else index
            h = torch.relu(self.a(x))
            h = torch.relu(self.b(torch.zeros_like(h).scatter_add_(0, index, h)))
            return self.c(torch.zeros_like(h).scatter_add_(0, index, h))

    x, to = torch.randn(5, 4), torch.tensor([1, 0, 4, 2, 2])
    for copy in (False, True):
        w = wl.trace(Shared(copy), (x, to), verify="complete")
        assert [(g.name, g.size) for g in w.groups] == [("a", 8), ("b", 8)]
        assert w.report["complete"]


def _put(h, where, value):
    h = h.clone()
    h[where(h)] = value
    return h


# What constants come to stand among the units' values, and whether the units may still be rescaled.
CONSTANTS = {
    "rows_of_ones": (lambda h, x: _put(h, lambda _: x[:, 0] > 0, 1.0), False),
    "rows_of_zeros": (lambda h, x: _put(h, lambda _: x[:, 0] > 0, 0.0), True),
    "indexed_rows": (lambda h, x: _put(h, lambda _: torch.tensor([0, 2]), 1.0), False),
    "slice": (lambda h, x: _put(h, lambda _: slice(0, 2), 1.0), False),
    "own_mask": (lambda h, x: _put(h, lambda h: h < 0.3, 0.1), False),
    "own_mask_zero": (lambda h, x: _put(h, lambda h: h < 0, 0.0), True),
    "masked_fill": (lambda h, x: h.masked_fill(x[:, :1] > 0, 1.0), False),
    "scatter": (lambda h, x: h.scatter(0, torch.zeros(1, 8, dtype=torch.long), 1.0), False),
    "index_fill": (lambda h, x: h.index_fill(0, torch.tensor([0, 1]), 2.0), False),
    "padding": (lambda h, x: nn.functional.pad(h, (0, 0, 1, 0), value=1.0), False),
    "zero_padding": (lambda h, x: nn.functional.pad(h, (0, 0, 1, 0)), True),
    "cat": (lambda h, x: torch.cat([h, torch.ones(1, 8, dtype=h.dtype)]), False),
    "cat_zeros": (lambda h, x: torch.cat([h, torch.zeros(1, 8, dtype=h.dtype)]), True),
    "stack": (lambda h, x: torch.stack([h, torch.ones_like(h)]), False),
    "index_copy": (lambda h, x: h.index_copy(0, torch.tensor([0]), torch.ones(1, 8, dtype=h.dtype)), False),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_among_the_values_of_units_stop_their_scale(name: str) -> None:
    act, scales = CONSTANTS[name]

    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(act(torch.relu(self.a(x)), x))

    x = torch.tensor([[1.0, 2, 0, 1], [-1, 0.5, 1, 2], [2, -1, 1, 0], [-2, 1, 1, -1]])
    w = wl.trace(Between(), x, verify=False)
    assert [g.size for g in w.groups] == [8]
    checked = wl.trace(Between(), x, verify="complete")
    assert checked.groups == w.groups  # nothing had to be taken away
    assert checked.report["complete"]
    if scales:
        assert "scale" in w.group("a").symmetries
    else:
        assert "scale" not in w.group("a").symmetries

"""Groups, signs and scales of small networks, against every exponent and every member left out.

For each network the sizes of its groups are written beside it. Then, in double precision and with random weights: every order of a group's units leaves the outputs as they
are, and no longer when one member is left out; and of all exponents from -1 to 1 exactly those that leave the outputs as they are under a factor of 2 (and under -1) are
among the claimed ones.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weightlapse as wl
from weightlapse.wiring.apply import gathered, multiplied
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.equations import Equations
from weightlapse.wiring.homogeneity import Homogeneity, Relation
from weightlapse.wiring.members import Group
from weightlapse.wiring.outputs import tensors_in
from weightlapse.wiring.record import Call

State = dict[str, Tensor]


class Net(nn.Module):
    """``f`` of the module itself and an input, with layers and tensors by name."""

    def __init__(self, f: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.f = f
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, *x: Tensor) -> Any:
        return self.f(self, *x)


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + 7 * len(shape)))


def drawn(model: nn.Module, seed: int) -> State:
    """Random weights in double precision; what is positive stays so."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name, t in model.state_dict().items():
        if t.is_floating_point():
            v = torch.randn(t.shape, generator=g, dtype=torch.float64)
            out[name] = v.abs() + 0.5 if name.endswith("var") else v
    return out


def outputs(model: nn.Module, state: State, x: Sequence[Tensor]) -> np.ndarray:
    with torch.no_grad():
        found = tensors_in(torch.func.functional_call(model, state, tuple(x)))
    return np.concatenate([t.double().numpy().ravel() for t in found])


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.abs(a - b).max() <= 1e-9 * (1 + np.abs(a).max()))


def permuted(state: State, w: Wiring, g: Group, order: np.ndarray, without: int = -1) -> State:
    out = dict(state)
    for i, m in enumerate(g.members):
        if i != without:
            at = np.arange(w.shapes[m.tensor][m.axis])
            at[m.index] = m.index[order]
            for name in w.names_of(m.tensor):
                out[name] = gathered(out[name], m, at)
    return out


def scaled(state: State, w: Wiring, g: Group, exponents: Sequence[int], factor: float) -> State:
    """All units but the last multiplied by a factor to the exponents."""
    out = dict(state)
    f = np.array([*[factor] * (g.size - 1), 1.0])
    for m, e in zip(g.members, exponents, strict=True):
        if e:
            for name in w.names_of(m.tensor):
                out[name] = multiplied(out[name], m, f ** float(e))
    return out


def shifted(state: State, name: str) -> State:
    """Something else added to each number of a tensor."""
    t = state[name]
    return {**state, name: t + torch.linspace(0, 1, t.numel()).view_as(t)}


def spanned(vectors: Sequence[Sequence[int]], most: int, modulus: int | None) -> set[tuple[int, ...]]:
    """All vectors with entries -1 to 1 (0 and 1 modulo 2) that are combinations of some: by elimination over fractions, or by all sums."""
    values = (0, 1) if modulus else (-1, 0, 1)
    every = set(itertools.product(values, repeat=most))
    if modulus:
        sums = {tuple(0 for _ in range(most))}
        for v in vectors:
            sums |= {tuple((a + b) % 2 for a, b in zip(s, v, strict=True)) for s in sums}
        return every & sums
    rank = _rank(vectors)
    return {v for v in every if _rank([*vectors, v]) == rank}


def _rank(vectors: Sequence[Sequence[int]]) -> int:
    rows, rank = [[Fraction(e) for e in v] for v in vectors], 0
    for column in range(len(rows[0]) if rows else 0):
        pivot = next((r for r in range(rank, len(rows)) if rows[r][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for r in range(rank + 1, len(rows)):
            q = rows[r][column] / rows[rank][column]
            rows[r] = [a - q * b for a, b in zip(rows[r], rows[rank], strict=True)]
        rank += 1
    return rank


def claimed(g: Group, kind: str) -> set[tuple[int, ...]]:
    vectors = [g.exponents] if kind in g.symmetries else []
    vectors += [a.exponents for a in g.gauges if a.kind == kind]
    return spanned(vectors, len(g.members), 2 if kind == "sign" else None)


def check(model: nn.Module, x: Sequence[Tensor], sizes: dict[str, int], fewer: str = "") -> Wiring:
    """The claims of a wiring against trials; ``fewer`` says of what not all is found."""
    model = copy.deepcopy(model).double().eval()
    x = [t.double() if t.is_floating_point() else t for t in x]
    w = wl.trace(model, tuple(x), verify=False)
    assert {g.name: g.size for g in w.groups} == sizes
    states = [drawn(model, seed) for seed in (4, 5, 6)]
    bases = [outputs(model, state, x) for state in states]
    assert all(np.ptp(base) > 0 for base in bases)

    def holds(change: Callable[..., State], *how: Any) -> bool:
        return all(
            same(base, outputs(model, change(state, *how), x)) for base, state in zip(bases, states, strict=True)
        )

    rng = np.random.default_rng(3)
    for g in w.groups:
        order = np.roll(np.arange(g.size), 1)
        assert holds(permuted, w, g, order), g.name
        assert holds(permuted, w, g, rng.permutation(g.size)), g.name
        loud = []  # the bias of keys, say, has no influence at all
        for i, m in enumerate(g.members):
            if holds(shifted, m.tensor):
                continue
            loud.append(i)
            assert len(g.members) == 1 or not holds(permuted, w, g, order, i), m
        if len(g.members) > 5:
            continue
        for kind, factor in (("scale", 2.0), ("sign", -1.0)):
            every = spanned(np.eye(len(g.members), dtype=int).tolist(), len(g.members), 2 if kind == "sign" else None)
            true = {e for e in every if holds(scaled, w, g, e, factor)}
            found = claimed(g, kind)
            assert found <= true, (g.name, kind, found - true)
            missed = {tuple(e[i] for i in loud) for e in true} - {tuple(e[i] for i in loud) for e in found}
            assert bool(missed) == (kind in fewer), (g.name, kind, missed)
        if g.symmetries & {"sign", "scale"} and len(g.consumers) < 2:
            assert all(e == -1 for m, e in zip(g.members, g.exponents, strict=True) if m.role == "in")
    return w


def between(act: Callable[..., Any], units: int = 4, **parts: Any) -> Net:
    """A hidden layer of 4 units, something done to it, and a reader."""
    return Net(lambda net, x: net.b(act(net, net.a(x), x)), a=nn.Linear(3, units), b=nn.Linear(units, 2), **parts)


X = rand(5, 3)
H = {"a": 4}

# what is done to the units, and further tensors
BETWEEN: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "nothing": (lambda net, h, x: h, {}),
    "relu": (lambda net, h, x: h.relu(), {}),
    "tanh": (lambda net, h, x: h.tanh(), {}),
    "gelu": (lambda net, h, x: F.gelu(h), {}),
    "square": (lambda net, h, x: h * h, {}),
    "cube": (lambda net, h, x: h**3, {}),
    "absolute": (lambda net, h, x: h.abs(), {}),
    "reciprocal": (lambda net, h, x: 1 / h, {}),
    "root": (lambda net, h, x: h.abs().sqrt(), {}),
    "sign": (lambda net, h, x: h.sign(), {}),
    "leaky": (lambda net, h, x: F.leaky_relu(h, 0.2), {}),
    "prelu_of_one": (lambda net, h, x: F.prelu(h, net.s), {"s": rand(1)}),
    "prelu": (lambda net, h, x: F.prelu(h, net.s), {"s": rand(4)}),
    "sine": (lambda net, h, x: h.sin(), {}),
    "cosine": (lambda net, h, x: h.cos(), {}),
    "constant_added": (lambda net, h, x: h + 1.5, {}),
    "constant_factor": (lambda net, h, x: h * 1.5, {}),
    "reciprocal_square": (lambda net, h, x: h**-2, {}),
    "reciprocal_root": (lambda net, h, x: h.abs().rsqrt(), {}),
    "length_of_two": (lambda net, h, x: torch.hypot(h, net.g(x)), {"g": nn.Linear(3, 4)}),
    "angle_of_two": (lambda net, h, x: torch.atan2(h, net.g(x)), {"g": nn.Linear(3, 4)}),
    "size_with_a_sign": (lambda net, h, x: torch.copysign(h, net.g(x)), {"g": nn.Linear(3, 4)}),
    "negative": (lambda net, h, x: -h, {}),
    "difference_from_one": (lambda net, h, x: 1 - h, {}),
    "gain": (lambda net, h, x: h * net.s, {"s": rand(4)}),
    "gain_behind_relu": (lambda net, h, x: h.relu() * net.s, {"s": rand(4)}),
    "gain_squared": (lambda net, h, x: h * net.s**2, {"s": rand(4)}),
    "gain_divided": (lambda net, h, x: h / net.s, {"s": rand(4)}),
    "one_gain_for_all": (lambda net, h, x: h * net.s, {"s": rand(1)}),
    "shift": (lambda net, h, x: (h + net.s).relu(), {"s": rand(4)}),
    "shift_behind_relu": (lambda net, h, x: h.relu() - net.s, {"s": rand(4)}),
    "one_shift_for_all": (lambda net, h, x: h.relu() + net.s, {"s": rand(1)}),
    "rescaled_by_softplus": (lambda net, h, x: h * F.softplus(net.s), {"s": rand(4)}),
    "gated": (lambda net, h, x: h * net.g(x), {"g": nn.Linear(3, 4)}),
    "gated_by_sigmoid": (lambda net, h, x: h * net.g(x).sigmoid(), {"g": nn.Linear(3, 4)}),
    "gated_by_relu": (lambda net, h, x: h.tanh() * net.g(x).relu(), {"g": nn.Linear(3, 4)}),
    "added_to": (lambda net, h, x: h + net.g(x), {"g": nn.Linear(3, 4)}),
    "added_to_behind_relu": (lambda net, h, x: h.relu() + net.g(x), {"g": nn.Linear(3, 4)}),
    "divided_by_another": (lambda net, h, x: h / net.g(x), {"g": nn.Linear(3, 4)}),
    "largest_of_two": (lambda net, h, x: torch.maximum(h, net.g(x)), {"g": nn.Linear(3, 4)}),
    "largest_of_zero": (lambda net, h, x: torch.maximum(h, torch.zeros(4, dtype=h.dtype)), {}),
    "where_positive": (lambda net, h, x: torch.where(h > 0, h, 0.1 * h), {}),
    "where_above_one": (lambda net, h, x: torch.where(h > 1, h, 0.1 * h), {}),
    "clamped": (lambda net, h, x: h.clamp(-1, 1), {}),
    "clamped_below": (lambda net, h, x: h.clamp(min=0), {}),
    "clipped_at_20": (lambda net, h, x: F.hardtanh(15 * h, 0.0, 20.0), {}),
    "clamped_at_100": (lambda net, h, x: (1e4 * h).clamp(max=100), {}),
    "clamped_below_hundreds": (lambda net, h, x: (1e4 * h).clamp(min=-300), {}),
    "zero_below_50": (lambda net, h, x: F.hardshrink(50 * h, 50.0), {}),
    "shrunk_by_30": (lambda net, h, x: F.softshrink(200 * h, 30.0), {}),
    "above_a_threshold": (lambda net, h, x: F.threshold(40 * h, 40.0, 0.0), {}),
    "times_zero": (lambda net, h, x: h + 0 * h, {}),
    "masked_with_zeros": (lambda net, h, x: h.masked_fill(x[:, :1] > 0, 0.0), {}),
    "masked_with_ones": (lambda net, h, x: h.masked_fill(x[:, :1] > 0, 1.0), {}),
    "softmax": (lambda net, h, x: h.softmax(-1), {}),
    "softmax_of_rows": (lambda net, h, x: h.softmax(0), {}),
    "mean_of_rows": (lambda net, h, x: h.mean(0), {}),
    "largest_of_rows": (lambda net, h, x: h.amax(0), {}),
    "norm_of_rows": (lambda net, h, x: torch.linalg.vector_norm(h, dim=0), {}),
    "product_of_rows": (lambda net, h, x: h.prod(0), {}),
    "spread_of_rows": (lambda net, h, x: h.std(0), {}),
    "centred": (lambda net, h, x: h - h.mean(-1, keepdim=True), {}),
    "divided_by_norm": (lambda net, h, x: h / torch.linalg.vector_norm(h, dim=-1, keepdim=True), {}),
    "standardised": (lambda net, h, x: (h - h.mean(0)) / h.std(0), {}),
    "cumulated_rows": (lambda net, h, x: h.cumsum(0), {}),
    "reversed_rows": (lambda net, h, x: h.flip(0), {}),
    "sorted_rows": (lambda net, h, x: h.sort(0).values, {}),
    "rows_by_number": (lambda net, h, x: h[torch.tensor([2, 0, 1])], {}),
    "gathered_rows": (lambda net, h, x: h.gather(0, torch.tensor([[2], [0]]).expand(2, 4)), {}),
    "scattered_sum": (lambda net, h, x: torch.zeros_like(h).scatter_add(0, torch.tensor([[2], [0], [1], [1], [0]]).expand(5, 4), h), {}),
    "scattered_largest": (lambda net, h, x: h.scatter_reduce(0, torch.tensor([[2], [0], [1], [1], [0]]).expand(5, 4), h, "amax"), {}),
    "scattered_product": (lambda net, h, x: h.scatter_reduce(0, torch.tensor([[2], [0], [1], [1], [0]]).expand(5, 4), h, "prod"), {}),
    "added_at_rows": (lambda net, h, x: h.index_add(0, torch.tensor([1, 0]), h[:2]), {}),
    "layer_norm": (lambda net, h, x: net.n(h), {"n": nn.LayerNorm(4)}),
    "layer_norm_plain": (lambda net, h, x: net.n(h), {"n": nn.LayerNorm(4, elementwise_affine=False)}),
    "rms_norm": (lambda net, h, x: net.n(h), {"n": nn.RMSNorm(4)}),
    "batch_norm": (lambda net, h, x: net.n(h), {"n": nn.BatchNorm1d(4)}),
    "batch_norm_and_relu": (lambda net, h, x: net.n(h).relu(), {"n": nn.BatchNorm1d(4)}),
    "batch_norm_plain": (lambda net, h, x: net.n(h), {"n": nn.BatchNorm1d(4, affine=False)}),
    "batch_norm_by_hand": (lambda net, h, x: F.batch_norm(h, None, None, net.g, None, True), {"g": rand(4)}),
    "batch_norm_without_weights": (lambda net, h, x: F.batch_norm(h, None, None, None, None, True), {}),
    "padded_rows": (lambda net, h, x: F.pad(h, (0, 0, 1, 0)), {}),
    "padded_rows_with_ones": (lambda net, h, x: F.pad(h, (0, 0, 1, 0), value=1.0), {}),
    "stacked": (lambda net, h, x: torch.stack([h, h.relu()]), {}),
    "stacked_with_zeros": (lambda net, h, x: torch.stack([h, torch.zeros_like(h)]), {}),
    "rows_and_zeros": (lambda net, h, x: torch.cat([h, torch.zeros(1, 4, dtype=h.dtype)]), {}),
    "rows_and_ones": (lambda net, h, x: torch.cat([h, torch.ones(1, 4, dtype=h.dtype)]), {}),
    "rows_and_others": (lambda net, h, x: torch.cat([h, net.g(x)]), {"g": nn.Linear(3, 4)}),
    "rows_and_a_token": (lambda net, h, x: torch.cat([h, net.t]), {"t": rand(1, 4)}),
    "expanded": (lambda net, h, x: h[:, None].expand(5, 2, 4), {}),
    "summed_with_all_rows": (lambda net, h, x: h + h.sum(0, keepdim=True), {}),
    "wrapped_copy": (lambda net, h, x: h.clone().detach(), {}),
    "written_into": (lambda net, h, x: torch.ones_like(h).mul_(h), {}),
    "added_into_ones": (lambda net, h, x: torch.ones_like(h).add_(h), {}),
    "added_into_zeros": (lambda net, h, x: torch.zeros_like(h).add_(h), {}),
    "added_to_the_product_with_a_scalar": (lambda net, h, x: torch.addcmul(h, h, h), {}),
    "of_one_input": (lambda net, h, x: h * x[:, :1], {}),
    "shifted_by_one_input": (lambda net, h, x: h + x[:, :1], {}),
}  # fmt: skip


# Where less is claimed than is true. What an operator does to factors is found by trying it on plain vectors: without slopes for each unit, without conditions, and in
# products and bags without the number of factors. Ones that something is written into stay ones, and statistics are those of one step.
# A norm that meets units twice, or averages over others, is asked to leave them as they are.
FEWER = {
    "prelu": "scale", "where_positive": "scale", "product_of_rows": "sign", "spread_of_rows": "scale sign", "standardised": "scale sign", "sorted_rows": "scale",
    "written_into": "scale sign", "bag_of_largest": "scale", "batch_norm_plain": "scale", "batch_norm_without_weights": "sign", "instance_norm": "sign", "padded_units_with_ones": "scale sign",
    "angle_of_two": "sign", "means_that_a_plain_norm_gives": "sign", "means_of_rows_that_a_norm_gives": "sign", "means_of_two_that_a_norm_gives": "scale sign",
}  # fmt: skip


@pytest.mark.parametrize("name", BETWEEN)
def test_one_layer_of_units(name: str) -> None:
    act, parts = BETWEEN[name]
    check(between(act, **parts), [X], H, FEWER.get(name, ""))


def mixed(net: Net, x: Tensor) -> Tensor:
    q, k, v = net.q(x), net.k(x), net.v(x)
    return net.o((q @ k.mT).softmax(-1) @ v)


ATTENTION = {"q": nn.Linear(3, 4), "k": nn.Linear(3, 4), "v": nn.Linear(3, 4), "o": nn.Linear(4, 2)}
S = rand(2, 3, 3)


def heads(n: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(batch, heads, time, dims) each."""
    return n.o(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


def heads_at_once(n: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """By an operator that gives the sums of the scores besides."""
    return n.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def selected(n: Net, x: Tensor) -> Tensor:
    q, k, v = n.a(x).view(2, 3, 3, 2, 2).permute(2, 0, 3, 1, 4)
    return heads(n, q, k, v)


def selected_from_behind(n: Net, x: Tensor) -> Tensor:
    qkv = n.a(x).view(2, 3, 3, 2, 2).permute(2, 0, 3, 1, 4)
    return heads(n, qkv[-3], qkv[1], qkv[-1])


def chunked(n: Net, x: Tensor) -> Tensor:
    return heads(n, *(t.view(2, 3, 2, 2).transpose(1, 2) for t in n.a(x).chunk(3, -1)))


def within_heads(n: Net, x: Tensor) -> Tensor:
    return heads(n, *n.a(x).view(2, 3, 2, 3, 2).permute(3, 0, 2, 1, 4).unbind(0))


def selected_twice(n: Net, x: Tensor) -> Tensor:
    y = n.a(x).view(5, 2, 2, 3).tanh()
    return y[:, 0, 0] @ n.b + y[:, 0, 1] @ n.c + y[:, 1, 0] @ n.d + y[:, 1, 1] @ n.e


def gates(n: Net, x: Tensor) -> Tensor:
    i, f, g = n.a(x).chunk(3, -1)
    return n.b(i * f.sigmoid() + g.tanh())


def experts(n: Net, x: Tensor, i: Tensor) -> Tensor:
    return torch.bmm(torch.bmm(x[:, None], n.up[i]).relu(), n.down[i])[:, 0]


def fused() -> dict[str, nn.Module]:
    return {"a": nn.Linear(3, 12), "o": nn.Linear(4, 2)}


# networks, inputs, sizes of the groups
NETWORKS: dict[str, tuple[Net, list[Tensor], dict[str, int]]] = {
    "two_layers": (Net(lambda n, x: n.c(n.b(n.a(x).relu()).tanh()), a=nn.Linear(3, 4), b=nn.Linear(4, 5), c=nn.Linear(5, 2)), [X], {"a": 4, "b": 5}),
    "without_bias": (Net(lambda n, x: n.b(n.a(x).relu()), a=nn.Linear(3, 4, bias=False), b=nn.Linear(4, 2, bias=False)), [X], {"a": 4}),
    "residual": (Net(lambda n, x: n.c((h := n.a(x)) + n.b(h).relu()), a=nn.Linear(3, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 2)), [X], {"a": 4}),
    "two_readers": (Net(lambda n, x: n.b(h := n.a(x).relu()) + n.c(h), a=nn.Linear(3, 4), b=nn.Linear(4, 2), c=nn.Linear(4, 2)), [X], {"a": 4}),
    "two_readers_multiplied": (Net(lambda n, x: n.b(h := n.a(x).relu()) * n.c(h), a=nn.Linear(3, 4), b=nn.Linear(4, 2), c=nn.Linear(4, 2)), [X], {"a": 4}),
    "low_rank": (Net(lambda n, x: x @ n.u @ n.v, u=rand(3, 4), v=rand(4, 2)), [X], {"u": 4}),
    "low_rank_of_weights": (Net(lambda n, x: x @ (n.u @ n.v), u=rand(3, 4), v=rand(4, 2)), [X], {"u": 4}),
    "masked_weight": (Net(lambda n, x: F.linear(n.a(x).relu(), n.w * n.m), a=nn.Linear(3, 4), w=rand(2, 4), m=rand(2, 4)), [X], {"a": 4}),
    "concatenated": (Net(lambda n, x: n.c(torch.cat([n.a(x), n.b(x).relu()], -1)), a=nn.Linear(3, 4), b=nn.Linear(3, 5), c=nn.Linear(9, 2)), [X], {"a": 4, "b": 5}),
    "concatenated_with_itself": (Net(lambda n, x: n.c(torch.cat([(h := n.a(x)), h.relu()], -1)), a=nn.Linear(3, 4), c=nn.Linear(8, 2)), [X], {"a": 4}),
    "halves": (Net(lambda n, x: n.b(n.a(x)[:, :2].relu()) + n.c(n.a(x)[:, 2:].tanh()), a=nn.Linear(3, 5), b=nn.Linear(2, 2), c=nn.Linear(3, 2)), [X], {"a": 2, "a.weight": 3}),
    "chunks_multiplied": (Net(lambda n, x: n.b((h := n.a(x).chunk(2, -1))[0] * h[1].sigmoid()), a=nn.Linear(3, 8), b=nn.Linear(4, 2)), [X], {"a": 4}),
    "glu": (Net(lambda n, x: n.b(F.glu(n.a(x))), a=nn.Linear(3, 8), b=nn.Linear(4, 2)), [X], {"a": 4}),
    "transposed": (Net(lambda n, x: n.b(n.a(x).T.relu().T), a=nn.Linear(3, 4), b=nn.Linear(4, 2)), [X], {"a": 4}),
    "einsum": (Net(lambda n, x: torch.einsum("bj,jk->bk", torch.einsum("bi,ij->bj", x, n.u).relu(), n.v), u=rand(3, 4), v=rand(4, 2)), [X], {"u": 4}),
    "bilinear": (Net(lambda n, x: n.c(n.a(x).relu(), n.b(x)), a=nn.Linear(3, 4), b=nn.Linear(3, 5), c=nn.Bilinear(4, 5, 2)), [X], {"a": 4, "b": 5}),
    "addmm_half": (Net(lambda n, x: torch.addmm(n.c, n.a(x).relu(), n.w, beta=0.5), a=nn.Linear(3, 4), w=rand(4, 2), c=rand(2)), [X], {"a": 4}),
    "addmv": (Net(lambda n, x: F.leaky_relu(torch.addmv(n.s, n.w, x[0])) @ n.v, s=rand(4), w=rand(4, 3), v=rand(4, 2)), [X], {"w": 4}),
    "a_bias_for_all": (Net(lambda n, x: torch.addmm(n.s, x, n.w).relu() @ n.v, s=rand(1), w=rand(3, 4), v=rand(4, 2)), [X], {"w": 4}),
    "conv": (Net(lambda n, x: n.b(n.a(x).relu()).mean(-1), a=nn.Conv1d(2, 4, 2), b=nn.Conv1d(4, 2, 2)), [rand(2, 2, 5)], {"a": 4}),
    "conv_transposed": (Net(lambda n, x: n.b(n.a(x).relu()), a=nn.ConvTranspose1d(2, 4, 2), b=nn.Conv1d(4, 2, 2)), [rand(2, 2, 5)], {"a": 4}),
    "conv_depthwise": (Net(lambda n, x: n.c(n.b(n.a(x).relu())), a=nn.Conv1d(2, 4, 1), b=nn.Conv1d(4, 4, 2, groups=4), c=nn.Conv1d(4, 2, 1)), [rand(2, 2, 5)], {"a": 4}),
    "conv_depthwise_transposed": (Net(lambda n, x: n.c(n.b(n.a(x).relu())), a=nn.Conv1d(2, 4, 1), b=nn.ConvTranspose1d(4, 4, 2, groups=4), c=nn.Conv1d(4, 2, 1)), [rand(2, 2, 5)], {"a": 4}),
    "conv_in_blocks": (Net(lambda n, x: n.c(n.b(n.a(x).relu())), a=nn.Conv1d(2, 6, 1), b=nn.Conv1d(6, 4, 2, groups=2), c=nn.Conv1d(4, 2, 1)), [rand(2, 2, 5)], {"a": 2, "a[0]": 3, "a[1]": 3, "a[0].b": 2, "a[1].b": 2}),
    "conv_in_blocks_transposed": (Net(lambda n, x: n.c(n.b(n.a(x).relu())), a=nn.Conv1d(2, 6, 1), b=nn.ConvTranspose1d(6, 4, 2, groups=2), c=nn.Conv1d(4, 2, 1)), [rand(2, 2, 5)], {"a": 2, "a[0]": 3, "a[1]": 3, "a[0].b": 2, "a[1].b": 2}),
    "learned_image": (Net(lambda n, x: n.b(n.a.relu().expand(2, 4, 5)) * x, a=rand(1, 4, 5), b=nn.Conv1d(4, 2, 2)), [rand(2, 2, 4)], {"a": 4}),
    "learned_image_transposed": (Net(lambda n, x: n.b(n.a) * x, a=rand(1, 4, 5), b=nn.ConvTranspose1d(4, 2, 2)), [rand(2, 2, 6)], {"a": 4}),
    "learned_image_in_two_dimensions": (Net(lambda n, x: n.b(n.a + n.s[:, None, None]) * x, a=rand(1, 4, 2, 2), s=rand(4), b=nn.Conv2d(4, 2, 1)), [rand(2, 2, 2, 2)], {"a": 4}),
    "conv_flattened": (Net(lambda n, x: n.b(n.a(x).relu().flatten(1)), a=nn.Conv1d(2, 4, 2), b=nn.Linear(16, 2)), [rand(2, 2, 5)], {"a": 4}),
    "conv_pooled": (Net(lambda n, x: n.b(F.max_pool1d(n.a(x), 2).mean(-1)), a=nn.Conv1d(2, 4, 2), b=nn.Linear(4, 2)), [rand(2, 2, 5)], {"a": 4}),
    "conv_averaged": (Net(lambda n, x: n.b(F.avg_pool1d(n.a(x), 2)[..., 0]), a=nn.Conv1d(2, 4, 2), b=nn.Linear(4, 2)), [rand(2, 2, 5)], {"a": 4}),
    "embedding": (Net(lambda n, i: n.b(n.e(i).relu()), e=nn.Embedding(5, 4), b=nn.Linear(4, 2)), [torch.tensor([0, 3, 1])], {"e": 4}),
    "bag_of_means": (Net(lambda n, i: n.b(F.embedding_bag(i, n.e)), e=rand(5, 4), b=nn.Linear(4, 2)), [torch.tensor([[0, 3], [1, 2]])], {"e": 4}),
    "bag_of_largest": (Net(lambda n, i: n.b(F.embedding_bag(i, n.e, mode="max")), e=rand(5, 4), b=nn.Linear(4, 2)), [torch.tensor([[0, 3], [1, 2]])], {"e": 4}),
    "attention_by_hand": (Net(mixed, **ATTENTION), [S], {"q": 4, "v": 4}),
    "attention_in_heads": (Net(lambda n, x: heads_at_once(n, *(f(x).view(2, 3, 2, 2).transpose(1, 2) for f in (n.q, n.k, n.v))), **ATTENTION), [S], {"q": 2, "q[0]": 2, "q[1]": 2, "q[0].v": 2, "q[1].v": 2}),
    "attention_in_heads_with_a_mask_each": (Net(lambda n, x: n.o(F.scaled_dot_product_attention(*(f(x).view(2, 3, 2, 2).transpose(1, 2) for f in (n.q, n.k, n.v)), attn_mask=n.m.expand(2, 2, 3, 3)).transpose(1, 2).flatten(2)), **ATTENTION, m=rand(2, 3, 3)), [S], {"q": 2, "q[0]": 2, "q[1]": 2, "q[0].v": 2, "q[1].v": 2}),
    "attention": (Net(lambda n, x: n.o(F.scaled_dot_product_attention(n.q(x), n.k(x), n.v(x))), **ATTENTION), [S], {"q": 4, "v": 4}),
    "attention_with_gain": (Net(lambda n, x: mixed(Net(lambda m, y: None, q=lambda y: n.q(y) * n.s, k=n.k, v=n.v, o=n.o), x), s=rand(4), **ATTENTION), [S], {"q": 4, "v": 4}),
    "weight_norm": (Net(lambda n, x: n.b(n.a(x).relu()), a=nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), b=nn.Linear(4, 2)), [X], {"a.parametrizations.weight": 4}),
    "weight_norm_of_the_reader": (Net(lambda n, x: n.b(n.a(x).relu()), a=nn.Linear(3, 4), b=nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))), [X], {"a": 4}),
    "group_norm": (Net(lambda n, x: n.b(n.g(n.a(x).relu())), a=nn.Linear(3, 4), g=nn.GroupNorm(1, 4), b=nn.Linear(4, 2)), [X], {"a": 4}),
    "outer_sum": (Net(lambda n, x: (n.a(x)[:, :, None] + n.c(x)[:, None, :]).relu().flatten(1) @ n.v, a=nn.Linear(3, 4), c=nn.Linear(3, 2), v=rand(8, 2)), [X], {"a": 4, "c": 2}),
    "outer_product": (Net(lambda n, x: (n.a(x)[:, :, None] * n.c(x)[:, None, :]).flatten(1) @ n.v, a=nn.Linear(3, 4), c=nn.Linear(3, 2), v=rand(8, 2)), [X], {"a": 4, "c": 2}),
    "heads_selected": (Net(selected, **fused()), [S], {"a": 2, "a[0]": 2, "a[1]": 2, "a[0]#2": 2, "a[1]#2": 2}),
    "heads_selected_from_behind": (Net(selected_from_behind, **fused()), [S], {"a": 2, "a[0]": 2, "a[1]": 2, "a[0]#2": 2, "a[1]#2": 2}),
    "heads_chunked": (Net(chunked, **fused()), [S], {"a": 2, "a[0]": 2, "a[1]": 2, "a[0]#2": 2, "a[1]#2": 2}),
    "heads_with_their_own": (Net(within_heads, **fused()), [S], {"a": 2, "a[0]": 2, "a[1]": 2, "a[0]#2": 2, "a[1]#2": 2}),
    "heads_inside": (Net(lambda n, x: n.b(n.a(x).view(5, 3, 2).softmax(1).flatten(1)), a=nn.Linear(3, 6), b=nn.Linear(6, 2)), [X], {"a": 2, "a[0]": 3, "a[1]": 3}),
    "selected_twice": (Net(selected_twice, a=nn.Linear(3, 12), b=rand(3, 2), c=rand(3, 2), d=rand(3, 2), e=rand(3, 2)), [X], {"a": 3, "a.weight": 3, "a.weight#2": 3, "a.weight#3": 3}),
    "gates": (Net(gates, a=nn.Linear(3, 12), b=nn.Linear(4, 2)), [X], {"a": 4}),
    "lstm": (Net(lambda n, x: n.b(n.a(x)[0]), a=nn.LSTM(3, 4), b=nn.Linear(4, 2)), [S], {"a": 4}),
    "gru": (Net(lambda n, x: n.b(n.a(x)[0]), a=nn.GRU(3, 4), b=nn.Linear(4, 2)), [S], {"a": 4}),
    "rnn": (Net(lambda n, x: n.b(n.a(x)[0]), a=nn.RNN(3, 4), b=nn.Linear(4, 2)), [S], {"a": 4}),
    "rnn_relu": (Net(lambda n, x: n.b(n.a(x)[0]), a=nn.RNN(3, 4, nonlinearity="relu"), b=nn.Linear(4, 2)), [S], {"a": 4}),
    "experts": (Net(experts, up=rand(3, 3, 4), down=rand(3, 4, 2)), [X, torch.tensor([0, 2, 1, 0, 2])], {"up[0]": 4, "up[1]": 4, "up[2]": 4}),
    "stacked_towers": (Net(lambda n, x: torch.stack([n.a(x), n.c(x).relu()], 1).flatten(1) @ n.v, a=nn.Linear(3, 4), c=nn.Linear(3, 4), v=rand(8, 2)), [X], {"a": 4, "c": 4}),
    "softmax_within_heads": (Net(lambda n, x: n.b(n.a(x).view(5, 2, 3).softmax(-1).flatten(1)), a=nn.Linear(3, 6), b=nn.Linear(6, 2)), [X], {"a": 2, "a[0]": 3, "a[1]": 3}),
    "gain_of_heads": (Net(lambda n, x: n.b((n.a(x).view(5, 2, 3) * n.s[:, None]).flatten(1)), a=nn.Linear(3, 6), s=rand(2), b=nn.Linear(6, 2)), [X], {"a": 2, "a[0]": 3, "a[1]": 3}),
    "instance_norm": (Net(lambda n, x: n.b(F.instance_norm(n.a(x))), a=nn.Conv1d(2, 4, 2), b=nn.Conv1d(4, 2, 2)), [rand(2, 2, 5)], {"a": 4}),
    "norm_of_two": (Net(lambda n, x: n.c(n.n(torch.cat([n.a(x), n.b(x)], -1))), a=nn.Linear(3, 4), b=nn.Linear(3, 5), n=nn.LayerNorm(9), c=nn.Linear(9, 2)), [X], {"a": 4, "b": 5}),
    "batch_norm_of_two": (Net(lambda n, x: n.c(n.n(torch.cat([n.a(x), n.b(x)], -1))), a=nn.Linear(3, 4), b=nn.Linear(3, 5), n=nn.BatchNorm1d(9), c=nn.Linear(9, 2)), [X], {"a": 4, "b": 5}),
    "each_unit_twice": (Net(lambda n, x: n.a(x).relu().repeat_interleave(2, -1) @ n.v, a=nn.Linear(3, 4), v=rand(8, 2)), [X], {"a": 4}),
    "all_units_twice": (Net(lambda n, x: n.a(x).relu().repeat(1, 2) @ n.v, a=nn.Linear(3, 4), v=rand(8, 2)), [X], {"a": 4}),
    "all_units_twice_read_by_two": (Net(lambda n, x: F.linear(n.a(x).relu().repeat(1, 2), torch.cat([n.u, n.v], 1)), a=nn.Linear(3, 4), u=rand(2, 4), v=rand(2, 4)), [X], {"a": 4}),
    "with_ones_added_to_another": (Net(lambda n, x: (torch.cat([n.a(x), torch.ones(5, 2, dtype=x.dtype)], -1) + n.b(x)) @ n.v, a=nn.Linear(3, 4), b=nn.Linear(3, 6), v=rand(6, 2)), [X], {"a": 4, "b": 2}),
    "means_that_a_norm_gives": (Net(lambda n, x: (r := torch.native_batch_norm(n.a(x), n.g, None, None, None, True, 0.1, 1e-5))[0] @ n.v + r[1] @ n.w, a=nn.Linear(3, 4), g=rand(4), v=rand(4, 2), w=rand(4, 2)), [X], {"a": 4}),
    "spreads_that_a_norm_gives": (Net(lambda n, x: (r := torch.native_batch_norm(n.a(x), n.g, None, None, None, True, 0.1, 1e-5))[0] @ n.v + r[2] @ n.w, a=nn.Linear(3, 4), g=rand(4), v=rand(4, 2), w=rand(4, 2)), [X], {"a": 4}),
    "means_that_a_plain_norm_gives": (Net(lambda n, x: (r := torch.native_batch_norm(n.a(x), None, None, None, None, True, 0.1, 1e-5))[0].tanh() @ n.v + r[1] @ n.w, a=nn.Linear(3, 4), v=rand(4, 2), w=rand(4, 2)), [X], {"a": 4}),
    "means_of_two_that_a_norm_gives": (Net(lambda n, x: (r := torch.native_batch_norm(torch.cat([(h := n.a(x)), h.tanh()], 1), n.g, None, None, None, True, 0.1, 1e-5))[0] @ n.v + r[1] @ n.w, a=nn.Linear(3, 3), g=rand(6), v=rand(6, 2), w=rand(6, 2)), [X], {"a": 3}),
    "means_of_rows_that_a_norm_gives": (Net(lambda n, x: (r := torch.native_layer_norm(n.a(x).T, [5], None, None, 1e-5))[0].T @ n.v + r[1].T @ n.w, a=nn.Linear(3, 4), v=rand(4, 2), w=rand(4, 2)), [X], {"a": 4}),
    "lengths_that_weight_norm_gives": (Net(lambda n, x: F.linear(x, (r := torch._weight_norm_interface(n.v, n.g, 0))[0]) @ n.u + r[1].T @ n.w, v=rand(4, 3), g=rand(4, 1), u=rand(4, 2), w=rand(4, 2)), [X], {"v": 4}),
    "with_zeros": (Net(lambda n, x: torch.cat([n.a(x), torch.zeros(5, 2, dtype=x.dtype)], -1) @ n.v, a=nn.Linear(3, 4), v=rand(6, 2)), [X], {"a": 4}),
    "with_ones": (Net(lambda n, x: torch.cat([n.a(x), torch.ones(5, 2, dtype=x.dtype)], -1) @ n.v, a=nn.Linear(3, 4), v=rand(6, 2)), [X], {"a": 4}),
    "padded_units": (Net(lambda n, x: F.pad(n.a(x), (1, 1)) @ n.v, a=nn.Linear(3, 4), v=rand(6, 2)), [X], {"a": 4}),
    "padded_units_with_ones": (Net(lambda n, x: F.pad(n.a(x), (1, 1), value=1.0) @ n.v, a=nn.Linear(3, 4), v=rand(6, 2)), [X], {"a": 4}),
    "times_itself": (Net(lambda n, x: ((h := n.a(x))[:, :, None] * h[:, None, :]).flatten(1) @ n.v, a=nn.Linear(3, 3), v=rand(9, 2)), [X], {}),
    "shared_layer": (Net(lambda n, x: n.c(n.b(n.b(n.a(x)).tanh())), a=nn.Linear(3, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 2)), [X], {"a": 4}),
    "one_gain_number": (Net(lambda n, x: n.b(n.a(x).relu() * n.t), a=nn.Linear(3, 4), t=rand(), b=nn.Linear(4, 2)), [X], {"a": 4}),
    "readers_weight_scaled": (Net(lambda n, x: F.linear(n.a(x).relu(), n.w * n.s[:, None]), a=nn.Linear(3, 4), w=rand(2, 4), s=rand(2)), [X], {"a": 4}),
    "weight_centred": (Net(lambda n, x: n.b(F.linear(x, n.w - n.w.mean(1, keepdim=True)).relu()), w=rand(4, 3), b=nn.Linear(4, 2)), [X], {"w": 4}),
    "positions_added": (Net(lambda n, i: n.b((n.e(i) + n.p).relu()), e=nn.Embedding(5, 4), p=rand(3, 4), b=nn.Linear(4, 2)), [torch.tensor([0, 3, 1])], {"e": 4}),
    "two_dimensions": (Net(lambda n, x: n.b(n.n(n.a(x)).relu()).mean((2, 3)), a=nn.Conv2d(2, 4, 2), n=nn.BatchNorm2d(4), b=nn.Conv2d(4, 2, 1)), [rand(2, 2, 3, 3)], {"a": 4}),
    "depthwise_doubled": (Net(lambda n, x: n.c(n.b(n.a(x).relu())), a=nn.Conv1d(2, 4, 1), b=nn.Conv1d(4, 8, 2, groups=4), c=nn.Conv1d(8, 2, 1)), [rand(2, 2, 5)], {"a": 4, "a[0].b": 2, "a[1].b": 2, "a[2].b": 2, "a[3].b": 2}),
    "tied": (Net(lambda n, x: F.linear(n.a(x).relu(), n.a.weight.T), a=nn.Linear(3, 4)), [X], {"a": 4}),
    "latents": (Net(lambda n, x: n.b((n.a(x) @ n.l.T).softmax(-1) @ n.l), a=nn.Linear(3, 4), l=rand(5, 4), b=nn.Linear(4, 2)), [X], {"a": 4, "l": 5}),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    model, x, sizes = NETWORKS[name]
    check(model, x, sizes, FEWER.get(name, ""))


# a network, the members of one of its groups with roles and exponents, what besides an order its units have, what acts on them, how the reasons against more units begin
SAID = [
    ("nothing", "a.weight[0] out 1, a.bias[0] add 1, b.weight[1] in -1", "scale; sign", "", ""),
    ("relu", "a.weight[0] out 1, a.bias[0] add 1, b.weight[1] in -1", "scale", "relu", ""),
    ("tanh", "a.weight[0] out 1, a.bias[0] add 1, b.weight[1] in -1", "sign", "tanh", ""),
    ("gelu", "a.weight[0] out 0, a.bias[0] add 0, b.weight[1] in 0", "", "gelu", ""),
    ("square", "a.weight[0] out 0, a.bias[0] add 0, b.weight[1] in 0", "scale -1 -1 2; sign 1 1 0", "mul", ""),
    ("cube", "a.weight[0] out 1, a.bias[0] add 1, b.weight[1] in -1", "sign; scale -1 -1 3", "pow", ""),
    ("root", "a.weight[0] out 2, a.bias[0] add 2, b.weight[1] in -1", "scale; sign 1 1 0", "abs sqrt", ""),
    ("absolute", "a.weight[0] out 1, a.bias[0] add 1, b.weight[1] in -1", "scale; sign 1 1 0", "abs", ""),
    ("reciprocal", "a.weight[0] out -1, a.bias[0] add -1, b.weight[1] in -1", "scale; sign", "mul reciprocal", ""),
    ("gain", "a.weight[0] out 1, a.bias[0] add 1, s[0] mul 0, b.weight[1] in -1", "scale; sign; scale -1 -1 1 0; sign 1 1 1 0", "mul", ""),
    ("gain_behind_relu", "a.weight[0] out 1, a.bias[0] add 1, s[0] mul 0, b.weight[1] in -1", "scale; scale -1 -1 1 0; sign 0 0 1 1", "mul relu", ""),
    ("gain_squared", "a.weight[0] out 1, a.bias[0] add 1, s[0] mul 0, b.weight[1] in -1", "scale; sign; scale -2 -2 1 0; sign 0 0 1 0", "mul pow", ""),
    ("gain_divided", "a.weight[0] out 1, a.bias[0] add 1, s[0] mul 0, b.weight[1] in -1", "scale; sign; scale 1 1 1 0; sign 1 1 1 0", "div", ""),
    ("shift", "a.weight[0] out 1, s[0] add 1, a.bias[0] add 1, b.weight[1] in -1", "scale", "add relu", ""),
    ("gated", "a.weight[0] out 0, g.weight[0] out 1, a.bias[0] add 0, g.bias[0] add 1, b.weight[1] in -1", "scale; sign; scale -1 1 -1 1 0; sign 1 1 1 1 0", "mul", ""),
    ("gated_by_sigmoid", "a.weight[0] out 1, g.weight[0] out 0, a.bias[0] add 1, g.bias[0] add 0, b.weight[1] in -1", "scale; sign", "mul sigmoid", ""),
    ("divided_by_another", "a.weight[0] out 0, g.weight[0] out -1, a.bias[0] add 0, g.bias[0] add -1, b.weight[1] in -1", "scale; sign; scale 1 1 1 1 0; sign 1 1 1 1 0", "div", ""),
    ("softmax", "a.weight[0] out 0, a.bias[0] add 0, b.weight[1] in 0", "", "softmax", "softmax: a statistic o"),
    ("softmax_of_rows", "a.weight[0] out 0, a.bias[0] add 0, b.weight[1] in 0", "", "", ""),
    ("centred", "a.weight[0] out 0, a.bias[0] add 0, b.weight[1] in 0", "", "mean sub", "mean: a statistic over"),
    ("divided_by_norm", "a.weight[0] out 1, a.bias[0] add 1, b.weight[1] in -1", "sign", "div linalg_vector_norm", "linalg_vector_norm: a "),
    ("layer_norm", "a.weight[0] out 0, a.bias[0] add 0, n.bias[0] add 1, n.weight[0] mul 1, b.weight[1] in -1", "scale; sign", "layer_norm", "layer_norm: a statisti"),
    ("rms_norm", "a.weight[0] out 0, a.bias[0] add 0, n.weight[0] mul 1, b.weight[1] in -1", "scale; sign; sign 1 1 1 0", "mul pow rms_norm", "rms_norm (mean of squa"),
    ("batch_norm", "a.weight[0] out 0, a.bias[0] add 0, n.bias[0] add 1, n.weight[0] mul 1, n.running_mean[0] stat 0, n.running_var[0] stat 0, b.weight[1] in -1", "scale; sign; sign 1 1 0 1 1 0 0", "batch_norm", ""),
    ("batch_norm_by_hand", "a.weight[0] out 0, a.bias[0] add 0, g[0] mul 1, b.weight[1] in -1", "scale; sign; sign 1 1 1 0", "batch_norm", ""),
    ("rows_and_a_token", "t[1] out 1, a.weight[0] out 1, a.bias[0] add 1, b.weight[1] in -1", "scale; sign", "", ""),
    ("clamped_below", "a.weight[0] out 1, a.bias[0] add 1, b.weight[1] in -1", "scale", "clamp", ""),
    ("residual", "a.weight[0] out 1, b.weight[0] out 1, a.bias[0] add 1, b.bias[0] add 1, b.weight[1] in -1, c.weight[1] in -1", "scale", "add relu", ""),
    ("two_readers_multiplied", "a.weight[0] out 1, a.bias[0] add 1, b.weight[1] in -1, c.weight[1] in -1", "scale", "relu", ""),
    ("low_rank_of_weights", "u[1] out 1, v[0] in -1", "scale; sign", "", ""),
    ("masked_weight", "a.weight[0] out 1, a.bias[0] add 1, w[1] in -1, m[1] in 0", "scale; scale 0 0 -1 1; sign 0 0 1 1", "mul relu", ""),
    ("concatenated_with_itself", "a.weight[0] out 1, a.bias[0] add 1, c.weight[1] in -1", "scale", "relu", ""),
    ("glu", "a.weight[0] out 0, a.bias[0] add 0, b.weight[1] in 0", "", "glu", ""),
    ("bilinear", "a.weight[0] out 1, a.bias[0] add 1, c.weight[1] in -1", "scale", "relu", ""),
    ("bilinear", "b.weight[0] out 1, b.bias[0] add 1, c.weight[2] in -1", "scale; sign", "", ""),
    ("addmm_half", "a.weight[0] out 1, a.bias[0] add 1, w[0] in -1", "scale", "relu", ""),
    ("addmv", "w[0] out 1, s[0] add 1, v[0] in -1", "scale", "leaky_relu", ""),
    ("conv_transposed", "a.weight[1] out 1, a.bias[0] add 1, b.weight[1] in -1", "scale", "relu", ""),
    ("conv_depthwise", "a.weight[0] out 0, b.weight[0] out 1, a.bias[0] add 0, b.bias[0] add 1, c.weight[1] in -1", "scale; sign; scale -1 1 -1 0 0", "depthwise conv relu", ""),
    ("conv_in_blocks", "a.weight[0] out 0, b.weight[0] out 1, a.bias[0] add 0, b.bias[0] add 1, c.weight[1] in -1", "scale; sign; scale -1 1 -1 0 0", "grouped conv relu", "grouped conv: 2 blocks"),
    ("conv_in_blocks", "a.weight[0] out 1, a.bias[0] add 1, b.weight[1] in -1", "scale", "relu", "grouped conv: 2 blocks"),
    ("conv_in_blocks", "a.weight[0] out 1, a.bias[0] add 1, b.weight[1] in -1", "scale", "relu", "grouped conv: 2 blocks"),
    ("conv_in_blocks", "b.weight[0] out 1, b.bias[0] add 1, c.weight[1] in -1", "scale; sign", "", "grouped conv: 2 blocks"),
    ("conv_in_blocks", "b.weight[0] out 1, b.bias[0] add 1, c.weight[1] in -1", "scale; sign", "", "grouped conv: 2 blocks"),
    ("conv_in_blocks_transposed", "a.weight[0] out 0, b.weight[0] out 1, a.bias[0] add 0, b.bias[0] add 1, c.weight[1] in -1", "scale; sign; scale -1 1 -1 0 0", "grouped conv relu", "grouped conv: 2 blocks"),
    ("conv_in_blocks_transposed", "a.weight[0] out 1, a.bias[0] add 1, b.weight[0] in -1", "scale", "relu", "grouped conv: 2 blocks"),
    ("conv_in_blocks_transposed", "a.weight[0] out 1, a.bias[0] add 1, b.weight[0] in -1", "scale", "relu", "grouped conv: 2 blocks"),
    ("conv_in_blocks_transposed", "b.weight[1] out 1, b.bias[0] add 1, c.weight[1] in -1", "scale; sign", "", "grouped conv: 2 blocks"),
    ("conv_in_blocks_transposed", "b.weight[1] out 1, b.bias[0] add 1, c.weight[1] in -1", "scale; sign", "", "grouped conv: 2 blocks"),
    ("learned_image", "a[1] out 1, b.weight[1] in -1", "scale", "relu", ""),
    ("conv_pooled", "a.weight[0] out 1, a.bias[0] add 1, b.weight[1] in -1", "scale", "max_pool2d", ""),
    ("bag_of_means", "e[1] out 1, b.weight[1] in -1", "scale; sign", "mean", ""),
    ("bag_of_largest", "e[1] out 0, b.weight[1] in 0", "", "max", ""),
    ("attention_by_hand", "q.weight[0] out 1, k.weight[0] out -1, q.bias[0] add 1, k.bias[0] add -1", "scale; sign", "contraction", "activation contraction"),
    ("attention_by_hand", "v.weight[0] out 1, v.bias[0] add 1, o.weight[1] in -1", "scale; sign", "", ""),
    ("attention", "q.weight[0] out 1, k.weight[0] out -1, q.bias[0] add 1, k.bias[0] add -1", "scale; sign", "contraction mul", "activation contraction"),
    ("attention", "v.weight[0] out 1, v.bias[0] add 1, o.weight[1] in -1", "scale; sign", "", ""),
    ("attention_with_gain", "q.weight[0] out 1, k.weight[0] out -1, q.bias[0] add 1, k.bias[0] add -1, s[0] mul 0", "scale; sign; scale -1 0 -1 0 1; sign 1 0 1 0 1", "contraction mul", "activation contraction"),
    ("attention_with_gain", "v.weight[0] out 1, v.bias[0] add 1, o.weight[1] in -1", "scale; sign", "", ""),
    ("weight_norm", "a.parametrizations.weight.original0[0] out 1, a.parametrizations.weight.original1[0] out 0, a.bias[0] add 1, b.weight[1] in -1", "scale; scale 0 1 0 0; sign 1 1 0 0", "relu", ""),
    ("weight_norm_of_the_reader", "a.weight[0] out 0, a.bias[0] add 0, b.parametrizations.weight.original1[1] in 0", "", "relu weight_norm", "weight_norm: the norm "),
    ("group_norm", "a.weight[0] out 0, a.bias[0] add 0, g.bias[0] add 1, g.weight[0] mul 1, b.weight[1] in -1", "scale; sign", "group_norm relu", "group_norm: a statisti"),
    ("outer_sum", "a.weight[0] out 0, a.bias[0] add 0, v[0] in 0", "", "add relu", ""),
    ("outer_sum", "c.weight[0] out 0, c.bias[0] add 0, v[0] in 0", "", "add relu", ""),
    ("tied", "a.weight[0] out+in 0, a.bias[0] add 0", "", "relu", "tied in+out: a.weight "),
    ("latents", "l[0] out+in 0", "", "softmax", "softmax: a statistic o; tied in+out: l both pr"),
    ("latents", "l[1] out+in -1, a.weight[0] out 1, a.bias[0] add 1, b.weight[1] in -1", "sign; scale -1 1 1 1", "", "tied in+out: l both pr"),
]  # fmt: skip


@pytest.mark.parametrize("name", dict.fromkeys(name for name, *_ in SAID))
def test_what_is_said_of_a_group(name: str) -> None:
    model, x = (between(BETWEEN[name][0], **BETWEEN[name][1]), [X]) if name in BETWEEN else NETWORKS[name][:2]
    w = wl.trace(model.eval(), tuple(x), verify=False)
    assert [line for line in SAID if line[0] == name] == [
        (
            name,
            ", ".join(f"{m.tensor}[{m.axis}] {m.role} {e}" for m, e in zip(g.members, g.exponents, strict=True)),
            "; ".join(
                [
                    *sorted(g.symmetries - {"permutation"}),
                    *(f"{a.kind} {' '.join(map(str, a.exponents))}" for a in g.gauges),
                ]
            ),
            " ".join(sorted(g.ops)),
            "; ".join(b[:22] for b in g.blockers),
        )
        for g in w.groups
    ]


@pytest.mark.parametrize("place", ["gauges.Gauges._call", "symmetries._solved"])
def test_units_whose_signs_cannot_be_worked_out_may_be_permuted(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("all input arrays must have the same shape")

    monkeypatch.setattr(f"weightlapse.wiring.{place}", broken)
    w = wl.trace(NETWORKS["two_layers"][0].eval(), X, verify=False)
    assert [(g.name, g.symmetries, g.exponents, g.gauges) for g in w.groups] == [
        (n, {"permutation"}, (0, 0, 0), ()) for n in "ab"
    ]
    assert any("sign and scale of 'a' are not known" in note for note in w.report["notes"])


# why axes are in no group, by network
FIXED: dict[str, dict[tuple[str, int], str]] = {
    "two_layers": {("a.weight", 1): "input", ("c.weight", 0): "output", ("c.bias", 0): "output"},
    "embedding": {("e.weight", 0): "vocabulary", ("b.weight", 0): "output", ("b.bias", 0): "output"},
    "low_rank": {("u", 0): "input", ("v", 1): "output"},
    "times_itself": {},
}


@pytest.mark.parametrize("name", FIXED)
def test_why_axes_are_fixed(name: str) -> None:
    model, x, _ = NETWORKS[name]
    w = wl.trace(copy.deepcopy(model).eval(), tuple(x), verify=False)
    assert {k: v for k, v in w.fixed.items() if name != "times_itself"} == FIXED[name]
    if name == "times_itself":
        assert w.fixed["a.weight", 0].startswith("it meets itself in one flattened axis")


def test_the_check_finds_a_claim_too_many_and_one_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    act, parts = BETWEEN["gelu"]
    with monkeypatch.context() as m:
        m.setattr(Equations, "add", lambda self, terms: None)  # nothing is asked of the exponents
        with pytest.raises(AssertionError):
            check(between(act, **parts), [X], H)
    act, parts = BETWEEN["tanh"]
    with monkeypatch.context() as m:
        m.setattr("weightlapse.wiring.gauges.is_pointwise", lambda call: False)  # nothing is known of activations
        with pytest.raises(AssertionError):
            check(between(act, **parts), [X], H)


# ---- what an operator does to factors, tried on functions of which it is known


def _of_whole(h: Tensor, n: Tensor) -> Tensor:
    if n.dtype not in (torch.int64, torch.bool):
        raise TypeError("whole numbers or conditions, as many operators want them")
    return h * n


def _out_of_range(h: Tensor) -> Tensor:
    raise IndexError


d, whole, half = torch.float64, torch.int64, torch.float32
NOTHING = Relation("zero", (), "zero", ())
# a function, the types of its inputs, which of them are scaled, further arguments, what is found
RELATIONS: dict[str, tuple[Any, tuple[torch.dtype, ...], tuple[int, ...], dict[str, Any], Relation]] = {
    "one": (lambda a: 2 * a, (d,), (0,), {}, Relation("free", (1,), "free", (1,))),
    "two": (lambda a, b: a * b, (d, d), (0, 1), {}, Relation("free", (1, 1), "free", (1, 1))),
    "three": (lambda a, b, c: a * b * c, (d, d, d), (0, 1, 2), {}, Relation("free", (1, 1, 1), "free", (1, 1, 1))),
    "four": (lambda *a: a[0] * a[1] * a[2] * a[3], (d,) * 4, (0, 1, 2, 3), {}, Relation("free", (1,) * 4, "joint", (0,))),
    "five": (lambda *a: a[0] * a[1] * a[2] * a[3] * a[4], (d,) * 5, (0, 1, 2, 3, 4), {}, Relation("free", (1,) * 5, "joint", (1,))),
    "two of three": (lambda a, b, c: a * c / b.abs(), (d, d, d), (0, 1), {}, Relation("free", (1, -1), "free", (1, 0))),
    "sum": (lambda a, b: a + b, (d, d), (0, 1), {}, Relation("joint", (1,), "joint", (1,))),
    "sum of squares": (lambda a, b: a**2 + b**2, (d, d), (0, 1), {}, Relation("joint", (2,), "free", (0, 0))),
    "product and sum": (lambda a, b: a * b + a * a, (d, d), (0, 1), {}, Relation("joint", (2,), "joint", (0,))),
    "length": (lambda a, b: torch.hypot(a, b), (d, d), (0, 1), {}, Relation("joint", (1,), "free", (0, 0))),
    "ratio": (lambda a, b: a / b, (d, d), (0, 1), {}, Relation("free", (1, -1), "free", (1, 1))),
    "direction": (lambda a, b: a / torch.hypot(a, b), (d, d), (0, 1), {}, Relation("joint", (0,), "free", (1, 0))),
    "shifted": (lambda a, b: a + b, (d, d), (0,), {}, NOTHING),
    "of whole numbers": (_of_whole, (d, whole), (0,), {}, Relation("free", (1,), "free", (1,))),
    "of conditions": (_of_whole, (d, torch.bool), (0,), {}, Relation("free", (1,), "free", (1,))),
    "of larger whole numbers": (lambda a, n: torch.where(n > 1, a * a, a), (d, whole), (0,), {}, NOTHING),
    "of either condition": (lambda a, n: torch.where(n, a * a, a), (d, torch.bool), (0,), {}, NOTHING),
    "of the other condition": (lambda a, n: torch.where(n, a, a * a), (d, torch.bool), (0,), {}, NOTHING),
    "whole numbers scaled": (lambda n: n, (whole,), (0,), {}, NOTHING),
    "nothing scaled": (lambda a: a, (d,), (), {}, NOTHING),
    "zero": (lambda a: 0 * a, (d,), (0,), {}, Relation("any", (), "any", ())),
    "no number": (lambda a: a * math.nan, (d,), (0,), {}, NOTHING),
    "infinite": (lambda a: a * math.inf, (d,), (0,), {}, NOTHING),
    "zero or infinite": (lambda a: torch.where(a > 0, math.inf, 0.0), (d,), (0,), {}, NOTHING),
    "zero or more": (lambda a: torch.where(a > 0, a, 0.0), (d,), (0,), {}, Relation("free", (1,), "zero", ())),
    "complex": (lambda a: a * 1j, (d,), (0,), {}, NOTHING),
    "refused": (_out_of_range, (d,), (0,), {}, NOTHING),
    "no tensor": (lambda a: 3, (d,), (0,), {}, NOTHING),
    "in a type": (lambda a, dtype: a.to(dtype), (half,), (0,), {"dtype": half}, Relation("free", (1,), "free", (1,))),
    "in whole numbers": (lambda a, dtype: a.to(dtype).sign(), (d,), (0,), {"dtype": whole}, Relation("zero", (), "free", (1,))),
    "in no type": (lambda a, dtype: a, (d,), (0,), {"dtype": None}, Relation("free", (1,), "free", (1,))),
    "in an order of memory": (lambda a: a, (d,), (0,), {"memory_format": torch.preserve_format}, Relation("free", (1,), "free", (1,))),
    **{f"power {p}": (lambda a, p: a.abs() ** float(p), (d,), (0,), {"p": p}, Relation("free", (Fraction(p),), "free", (0,))) for p in ("2", "-1", ".5", "-.5", "3", "-2", "4", "0")},
    "power 5": (lambda a: a**5, (d,), (0,), {}, Relation("zero", (), "free", (1,))),
}  # fmt: skip


@pytest.mark.parametrize("name", RELATIONS)
def test_what_a_function_does_to_factors(name: str) -> None:
    f, dtypes, scaled, more, relation = RELATIONS[name]
    tensors = [torch.zeros(2, dtype=dtype) for dtype in dtypes]
    call = Call(f, tuple(tensors), more, tensors, [], [])
    assert Homogeneity().relation(call, scaled) == relation
    assert Homogeneity().relation(call, scaled) is Homogeneity().relation(call, scaled)


def test_constants_that_are_zero_are_zero_when_an_operator_is_tried() -> None:
    f = RELATIONS["shifted"][0]
    a, b, c = (torch.zeros(2, dtype=d) for _ in range(3))
    for zeros, powers in (((), ()), ((b,), (1,)), ((c,), ())):
        call = Call(f, (a, b), {}, [a, b], [], [], zeros=frozenset(map(id, zeros)))
        assert Homogeneity().relation(call, (0,)).scale_powers == powers


def test_what_factors_of_inputs_ask_of_a_result() -> None:
    joint, free = Relation("joint", (2,), "joint", (1,)), Relation("free", (2, -1), "free", (1, 0))
    assert [*joint.scale("ab", "y")] == [[("a", 1), ("b", -1)], [("a", 2), ("y", -1)]]
    assert [*joint.sign("ab", None)] == [[("a", 1), ("b", -1)]]
    assert [*free.scale("ab", "y")] == [[("a", 2), ("b", -1), ("y", -1)]]
    assert [*free.sign("ab", "y")] == [[("a", 1), ("b", 0), ("y", -1)]]
    assert [*free.sign("ab", None)] == [*Relation("any", (), "any", ()).scale("ab", "y")] == []
    assert [*NOTHING.scale("ab", "y")] == [*free.scale("", "a"), [("b", 1)], [("y", 1)]] == [[(v, 1)] for v in "aby"]
    assert [*NOTHING.sign("a", None)] == [[("a", 1)]]

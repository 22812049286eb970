"""Networks that are not the same are never called so, however their attention is built, and what is done to a network changes no output."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import weightlapse as wl
from tests.planted_bases import in_other_bases, relative

D, HEADS, PER = 16, 4, 4
TOKENS = torch.randint(0, 20, (3, 6), generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Attention in which queries, keys or values serve for something else too, named by ``how``."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        one = how.startswith("one key")
        self.q, self.o = nn.Linear(6 if how == "narrow" else D, D), nn.Linear(D, D)
        self.k, self.v = (nn.Linear(D, PER if one else D) for _ in range(2))
        if how == "narrow":  # queries are made of a few numbers
            self.down = nn.Linear(D, 6, bias=False)
        if "gate" in how:
            self.gate = nn.Linear(D, D)
        if how == "positions":  # queries also meet what is known of places, as keys do, each with a shift of its own
            self.places, self.shift, self.other = (
                nn.Linear(D, D, bias=False),
                *(nn.Parameter(torch.empty(HEADS, PER)) for _ in range(2)),
            )
        if how == "temperature":
            self.heat = nn.Parameter(torch.ones(HEADS))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        how = self.how

        def split(y: Tensor) -> Tensor:
            return y.view(b, t, -1, PER).transpose(1, 2)

        q, k, v = split(self.q(self.down(x) if how == "narrow" else x)), split(self.k(x)), split(self.v(x))
        if how == "one key, read by values":
            v = v + k
        if how == "bent":
            q = torch.tanh(q)
        if how == "read by values":
            v = v + q
        if how == "normed":
            q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)
        far = torch.arange(t)[:, None] - torch.arange(t)
        if how == "positions":
            places = split(
                self.places(torch.sin(torch.arange(t, dtype=x.dtype)[:, None] * torch.arange(1, D + 1)).expand(b, t, D))
            )
            scores = (q + self.shift[:, None]) @ k.mT + (q + self.other[:, None]) @ places.mT
        else:
            scores = q @ k.mT
        if how in ("slopes", "one key, slopes"):
            scores = scores - far.abs() * torch.tensor([0.5, 0.25, 0.125, 0.0625], dtype=x.dtype)[:, None, None]
        if how == "capped":
            scores = 2 * torch.tanh(scores / 2)
        if how == "window":
            scores = scores.masked_fill((far < 0) | (far > 2), -1e9)
        if how == "temperature":
            scores = scores * self.heat[:, None, None]
        y = torch.softmax(scores, -1) @ v
        if how == "gated heads":
            y = y * torch.sigmoid(split(self.gate(x)).mean(-1, keepdim=True))
        y = y.transpose(1, 2).reshape(b, t, D)
        return self.o(y * torch.sigmoid(self.gate(x)) if how == "gated" else y)


class Net(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, D), nn.Linear(D, 7)
        self.norms = nn.ModuleList(nn.RMSNorm(D) for _ in range(2))
        self.layers = nn.ModuleList(Attention(how) for _ in range(1 if how == "shared" else 2))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for i, norm in enumerate(self.norms):
            x = x + self.layers[i % len(self.layers)](norm(x))
        return self.head(x)


HOW = (
    "plain", "shared", "narrow", "gated", "gated heads", "positions", "temperature", "read by values", "bent", "normed", "capped", "window", "slopes",
    "one key", "one key, slopes", "one key, read by values",
)  # fmt: skip


def made(how: str, seed: int) -> Net:
    torch.manual_seed(seed)
    net = Net(how).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(
                1 + 0.3 * torch.randn_like(p)
                if p.ndim == 1 and float(p.mean()) > 0.9
                else torch.randn_like(p) / p.shape[-1] ** 0.5
            )
    return net


def said(net: nn.Module, state: Any) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = torch.func.functional_call(net, dict(state), TOKENS).numpy()
    return found


def apart(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.abs(x - y).max() / np.abs(x).max())


@pytest.mark.parametrize("how", HOW)
def test_strangers_are_different_and_nothing_that_is_done_changes_an_output(how: str) -> None:
    net, other = made(how, 1), made(how, 2)
    w, a, b = wl.trace(net, TOKENS), dict(net.state_dict()), dict(other.state_dict())
    assert apart(said(net, a), said(net, b)) > 0.05
    found = wl.compare(a, b, w)
    assert found.verdict == "different"
    assert found.alignment is not None
    assert apart(said(net, b), said(net, found.alignment.state)) < 1e-9
    form = wl.canonical(a, w)
    assert apart(said(net, a), said(net, form)) < 1e-9
    c = in_other_bases(a, w, np.random.default_rng(3))
    assert apart(said(net, a), said(net, c)) < 1e-9
    assert wl.compare(a, c, w).verdict == "same up to symmetry"
    assert relative(form, wl.canonical(c, w)) < 1e-6


def planted(how: str, what: str) -> tuple[Net, dict[str, Tensor], dict[str, Tensor]]:
    """By hand, in the last head of the first layer: values, or queries and keys, times a matrix and its inverse."""
    net = made(how, 1)
    a = {n: v.clone() for n, v in net.state_dict().items()}
    b = {n: v.clone() for n, v in a.items()}
    m = torch.randn(PER, PER, dtype=torch.double, generator=torch.Generator().manual_seed(4))
    one = how.startswith("one key")
    at, all_heads = slice(-PER, None), [slice(i * PER, (i + 1) * PER) for i in range(HEADS)]
    make = "v" if what == "values" else "k"
    for end in ("weight", "bias"):
        b[f"layers.0.{make}.{end}"][at] = m @ b[f"layers.0.{make}.{end}"][at]
    for s in all_heads if one else [at]:
        if what == "values":
            b["layers.0.o.weight"][:, s] = b["layers.0.o.weight"][:, s] @ torch.linalg.inv(m)
        else:
            for end in ("weight", "bias"):
                b[f"layers.0.q.{end}"][s] = torch.linalg.inv(m).T @ b[f"layers.0.q.{end}"][s]
    return net, a, b


@pytest.mark.parametrize("what", ["values", "queries"])
@pytest.mark.parametrize("how", HOW)
def test_what_is_done_to_one_head_by_hand_is_the_same_exactly_where_the_outputs_say_so(how: str, what: str) -> None:
    net, a, b = planted(how, what)
    w = wl.trace(net, TOKENS)
    same = apart(said(net, a), said(net, b)) < 1e-9
    assert same == (what not in NOT_FREE.get(how, ()))
    found = wl.compare(a, b, w)
    assert found.verdict == ("same up to symmetry" if same else "different"), str(found)
    assert found.alignment is not None
    assert apart(said(net, b), said(net, found.alignment.state)) < 1e-9


NOT_FREE = {
    "gated": ("values",), "read by values": ("values", "queries"), "bent": ("queries",), "normed": ("queries",), "positions": ("queries",),
    "one key, read by values": ("values", "queries"),
}  # fmt: skip

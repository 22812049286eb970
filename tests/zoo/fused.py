"""Weights put together or taken apart in the forward: biases by concatenation, fused projections, slices that nobody uses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import add


def tokens():
    return (torch.randn(2, 5, 6),)


class _Attention(nn.Module):
    """Three heads of four dims; ``bias`` says how the bias of the fused projection comes about."""

    def __init__(self, bias: str) -> None:
        super().__init__()
        self.kind, self.inp, self.proj, self.out = bias, nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.qkv = nn.Linear(12, 36, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(12))
        if bias == "buffer":
            self.register_buffer("k_bias", torch.zeros(12), persistent=False)
        if bias == "kept buffer":
            self.register_buffer("k_bias", torch.zeros(12))
        if bias == "padded":
            self.v_bias = None

    def bias(self):
        if self.kind == "zeros":
            return torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        if self.kind == "detached":
            return torch.cat((self.q_bias, torch.zeros_like(self.v_bias, requires_grad=False), self.v_bias)).detach()
        if self.kind == "stacked":
            return torch.stack((self.q_bias, torch.zeros(12, dtype=self.q_bias.dtype), self.v_bias)).flatten()
        if self.kind == "padded":
            return F.pad(self.q_bias, (0, 24))
        if self.kind == "written":
            b = torch.zeros(36, dtype=self.q_bias.dtype)
            b[:12], b[24:] = self.q_bias, self.v_bias
            return b
        return torch.cat((self.q_bias, self.k_bias, self.v_bias))

    def forward(self, x):
        x = self.inp(x)
        q, k, v = F.linear(x, self.qkv.weight, self.bias()).reshape(*x.shape[:2], 3, 3, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out(F.layer_norm(x + self.proj(y), (12,)))


# Padding leaves open where the keys end and the values begin, so that these have one order of dims with the queries.
for _kind, _nested in {
    "buffer": 6,
    "kept buffer": 6,
    "zeros": 6,
    "detached": 6,
    "stacked": 6,
    "written": 6,
    "padded": 3,
}.items():
    # A constant part of a bias stops the sign, although zeros would not.
    _limits = () if _kind in ("kept buffer", "stacked") else ("sign of qkv", "qkv[0]: its units in qkv.weight[0]")
    add(f"qkv_bias_{_kind.replace(' ', '_')}", tokens, sizes=(12, 3), nested=_nested, limits=_limits)(
        lambda kind=_kind: _Attention(kind)
    )


@add("gate_bias_by_concatenation", lambda: (torch.randn(4, 6),), sizes=(8,))
class GateBias(nn.Module):
    """A gated layer whose two halves have one weight and a bias each, one of them a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b, self.out = nn.Parameter(torch.randn(16, 6)), nn.Parameter(torch.randn(8)), nn.Linear(8, 2)

    def forward(self, x):
        value, gate = F.linear(x, self.w, torch.cat([self.b, torch.ones_like(self.b)])).chunk(2, -1)
        return self.out(value * torch.sigmoid(gate))


@add("lstm_bias_by_concatenation", lambda: (torch.randn(3, 5, 4),), sizes=(6,))
class ForgetBias(nn.Module):
    """A recurrent cell by hand whose forget gate starts open: i, f + 1, g, o in one weight, the ones a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h, self.out = nn.Linear(4, 24), nn.Linear(6, 24, bias=False), nn.Linear(6, 2)

    def forward(self, x):
        h = c = torch.zeros(x.shape[0], 6, dtype=x.dtype)
        extra = torch.cat([torch.zeros(6, dtype=x.dtype), torch.ones(6, dtype=x.dtype), torch.zeros(12, dtype=x.dtype)])
        for t in range(x.shape[1]):
            i, f, g, o = (self.x(x[:, t]) + self.h(h) + extra).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.out(h)


@add("weights_by_concatenation", lambda: (torch.randn(4, 6),), sizes=(5, 7))
class TwoInOne(nn.Module):
    """Two matrices multiplied in one go, then taken apart again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.oa, self.ob = nn.Linear(6, 5), nn.Linear(6, 7), nn.Linear(5, 2), nn.Linear(7, 2)

    def forward(self, x):
        both = F.linear(x, torch.cat([self.a.weight, self.b.weight]), torch.cat([self.a.bias, self.b.bias]))
        h, g = both.split([5, 7], -1)
        return self.oa(h.relu()) + self.ob(g.tanh())


# ---- operations whose results nobody needs


class _Dead(nn.Module):
    def __init__(self, act) -> None:
        super().__init__()
        self.a, self.b, self.c, self.act = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2), act

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.c(torch.relu(self.b(self.act(h))))


def _and(used, unused):
    def act(h):
        unused(h)
        return used(h)

    return act


def _shape_only(h):
    return h.expand(2, *h.shape)[0, :, : h[:, 3:].shape[1] + 3]


def _written_and_left(h):
    scratch = torch.zeros_like(h)
    scratch[:, 0] = h[:, 1]
    scratch.cumsum_(1)
    return h


_DEAD = {
    "slice": _and(torch.tanh, lambda h: h[:, -1]),
    "flip": _and(torch.tanh, lambda h: h.flip(-1).sum()),
    "sort": _and(torch.tanh, lambda h: h.sort(-1)),
    "shape_only": lambda h: torch.tanh(h) * h[:, -1:].shape[0],
    "written_and_left": _and(torch.tanh, _written_and_left),
    "view_chain": _and(torch.tanh, lambda h: h.view(-1, 2, 4)[:, 0].t().reshape(4, -1)[1:]),
    "argmax_index": lambda h: h.max(-1, keepdim=True).values * h,
    "constant_added": _and(torch.tanh, lambda h: h + torch.arange(8, dtype=h.dtype)),
    "inplace_on_copy": _and(torch.tanh, lambda h: h.clone()[:, :4].mul_(2)),
}
for _name, _act in _DEAD.items():
    add(f"dead_{_name}", lambda: (torch.randn(6, 4),), sizes=(8, 6))(lambda act=_act: _Dead(act))


@add("dead_then_live_view", lambda: (torch.randn(6, 4),), sizes=(6,))
class LiveView(nn.Module):
    """A slice that is written to is no dead slice: the first layer's units are told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = torch.relu(self.a(x)).clone()
        last = h[:, -1]
        last.mul_(2)
        first = h.view(-1, 2, 4)[:, 0]
        first.cumsum_(-1)
        h.view(-1, 4, 2)[:, :, 0].mul_(torch.arange(4.0, dtype=h.dtype))
        return self.c(torch.relu(self.b(h)))


@add("dead_shape_of_decoder", lambda: (torch.randint(0, 9, (2, 5)),), sizes=(12, 12, 20))
class ShapeOfDecoder(nn.Module):
    """Like BART: a slice of the embedded input is taken for its shape alone, for the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(9, 12), nn.Embedding(7, 12)
        self.up, self.down, self.mid, self.out = (
            nn.Linear(12, 20),
            nn.Linear(20, 12),
            nn.Linear(12, 12),
            nn.Linear(12, 9),
        )

    def forward(self, tokens):
        x = self.embed(tokens)
        probe = x[:, :, -1]
        x = x + self.positions(torch.arange(probe.shape[1]))[None]
        x = x + self.down(F.gelu(self.up(x)))
        return self.out(torch.tanh(self.mid(x)))

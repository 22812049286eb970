"""Networks that keep things: caches, counters, hooks that install themselves, memories, buffers outside the state dict."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from tests.zoo import add


def rows():
    return (torch.randn(6, 4),)


def tokens():
    return (torch.randn(2, 5, 6),)


@add("hooks_installed_at_first_run", rows, sizes=(8, 6))
class SelfInstalling(nn.Module):
    """Collects hidden states through hooks that it puts into its own layers when it first runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.states, self.installed = (
            nn.Linear(4, 8),
            nn.Linear(8, 6),
            nn.Linear(6, 2),
            [],
            False,
        )

    def forward(self, x):
        if not self.installed:
            for layer in (self.a, self.b):
                layer.register_forward_hook(lambda _m, _i, out: self.states.append(out))
            self.installed = True
        self.states.clear()
        out = self.c(torch.tanh(self.b(torch.relu(self.a(x)))))
        return out + 0 * len(self.states)


@add("cached_attention_bias", tokens, sizes=(3,), nested=6)
class CachedBias(nn.Module):
    """A table of biases read once in eval mode, by an index that is no part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.kept = nn.Linear(6, 36), nn.Linear(12, 2), {}
        self.table = nn.Parameter(torch.randn(3, 9))
        self.register_buffer("index", torch.arange(5)[:, None] - torch.arange(5)[None] + 4, persistent=False)

    def forward(self, x):
        if self.training or "bias" not in self.kept:
            self.kept["bias"] = self.table[:, self.index]
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 3, 4).permute(2, 0, 3, 1, 4)
        y = (q @ k.mT / 2 + self.kept["bias"]).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


@add("counts_and_remembers", rows, sizes=(8,))
class Remembers(nn.Module):
    """A running mean as a plain attribute, a counter, a list that grows, a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.mean, self.steps, self.log = torch.zeros(()), 0, []
        self.noise = torch.Generator().manual_seed(2)

    def forward(self, x):
        h = torch.relu(self.a(x))
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * h.mean()
        self.log.append(self.steps)
        jitter = torch.rand((), generator=self.noise, dtype=x.dtype)
        return self.b(h * (1 + jitter))


@add("buffer_outside_the_state", rows, sizes=(6,))
class Plain(nn.Module):
    """A plain tensor and a buffer that is not saved run along the units of the first layer: they are fixed, with their name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)
        self.positions = torch.linspace(0, 1, 8)
        self.register_buffer("angles", torch.linspace(0, 3, 8), persistent=False)

    def forward(self, x):
        h = torch.relu(self.a(x)) * self.angles.cos().to(x.dtype) + self.positions.to(x.dtype)
        return self.c(torch.relu(self.b(h)))


@add("rotary_from_a_buffer", lambda: (torch.randint(0, 11, (2, 6)),), sizes=(12, 3), nested=3)
class RotaryBuffer(nn.Module):
    """Rotary frequencies in a buffer that is not saved, as in the libraries: query-key dims are fixed, value dims and heads free."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.o, self.out = (
            nn.Embedding(11, 12),
            nn.Linear(12, 36),
            nn.Linear(12, 12),
            nn.Linear(12, 4),
        )
        self.register_buffer("frequencies", 100 ** (-torch.arange(2) / 2.0), persistent=False)

    def turned(self, x):
        angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * self.frequencies.to(x.dtype)
        angle = torch.cat([angle, angle], -1)
        a, b = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    def forward(self, t):
        x = self.embed(t)
        q, k, v = self.qkv(x).view(*t.shape, 3, 3, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v, is_causal=True)
        return self.out(x + self.o(y.transpose(1, 2).flatten(2)))


@add("sinusoidal_stream", lambda: ((torch.randn(2, 3, 8, 8), torch.tensor([0.1, 0.9])),), sizes=(16, 12, 72))
class Diffusion(nn.Module):
    """Like DiT: patches get fixed sinusoidal positions (the stream is fixed), the time modulates each norm; hidden layers are free."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 12, 4, 4), nn.LayerNorm(12, elementwise_affine=False)
        self.register_buffer("positions", torch.randn(1, 4, 12), persistent=False)
        self.time = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 12))
        self.modulation = nn.Linear(12, 36)
        self.up, self.down, self.out = nn.Linear(12, 72), nn.Linear(72, 12), nn.Linear(12, 48)

    def forward(self, x, t=None):
        t = x.new_ones(x.shape[0]) if t is None else t
        angle = t[:, None] * torch.arange(1, 5, dtype=x.dtype)
        c = self.time(torch.cat([angle.cos(), angle.sin()], -1))
        x = self.patch(x).flatten(2).transpose(1, 2) + self.positions.to(x.dtype)
        shift, scale, gate = self.modulation(F.silu(c)).chunk(3, -1)
        h = self.norm(x) * (1 + scale[:, None]) + shift[:, None]
        return self.out(x + gate[:, None] * self.down(F.gelu(self.up(h))))


@add("memoised_positions", tokens, sizes=(12,))
class Memoised(nn.Module):
    """Positions made once for each length and kept in a dictionary; sums over time keep the order, the units are free."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out, self.lengths = nn.Linear(6, 12), nn.Linear(12, 2), {}

    def weights(self, n, dtype):
        if n not in self.lengths:
            self.lengths[n] = torch.linspace(0, 1, n)[:, None]
        return self.lengths[n].to(dtype)

    def forward(self, x):
        return self.out((torch.tanh(self.a(x)) * self.weights(x.shape[1], x.dtype)).sum(1))


class _Wrapped(nn.Module):
    """A forward replaced from outside, as libraries that offload or quantise do it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)
        self.calls = []
        inner = self.b.forward
        self.b.forward = functools.partial(_counted, inner, self.calls)

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.relu(self.a(x)))))


def _counted(inner, calls, x):
    calls.append(x.shape)
    return inner(x)


add("forward_replaced", rows, sizes=(8, 6))(_Wrapped)


@add("spectral_norm_by_hook", rows, sizes=(6,))
class SpectralHook(nn.Module):
    """The old spectral norm: a hook makes the weight anew, from a weight, a vector and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.spectral_norm(nn.Linear(4, 6))
        self.b = nn.Linear(6, 2)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


@add("pruned_by_mask", rows, sizes=(8,))
class Pruned(nn.Module):
    """torch's pruning: a mask over every weight, kept as a buffer, goes with the units."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        for layer in (self.a, self.b):
            prune.random_unstructured(layer, "weight", 0.3)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


@add("pair_of_buffers_swapped", rows, sizes=(8,))
class Swaps(nn.Module):
    """Two buffers change places at every call, a third is written into."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        for name in ("old", "new", "sum"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, x):
        self.old, self.new = self.new, self.old
        self.sum.add_(1)
        return self.b(torch.relu(self.a(x))) + 0 * (self.old + self.sum)


@add("weights_standardised", lambda: (torch.randn(2, 3, 8, 8),), sizes=(5, 4))
class Standardised(nn.Module):
    """Weight standardisation: every filter is brought to mean zero and size one in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3), nn.Linear(4, 2)

    def conv(self, layer, x):
        w = layer.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, layer.bias)

    def forward(self, x):
        return self.out(F.relu(self.conv(self.b, F.relu(self.conv(self.a, x)))).mean((2, 3)))

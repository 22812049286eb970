"""Attention in its many layouts."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import add


class Tokens(nn.Module):
    """Embedding, a body that maps (batch, time, 12) to the same, a head."""

    def __init__(self, body: nn.Module, positions: bool = True) -> None:
        super().__init__()
        self.embed, self.body, self.out = nn.Embedding(11, 12), body, nn.Linear(12, 5)
        self.position = nn.Parameter(torch.randn(6, 12)) if positions else None

    def forward(self, t):
        x = self.embed(t)
        if self.position is not None:
            x = x + self.position
        return self.out(self.body(x))


def tokens():
    return (torch.randint(0, 11, (2, 6)),)


# Stream 12, 3 heads in each of 2 layers, 20 hidden; per head 4 query-key and 4 value dims.
add("transformer_encoder", tokens, sizes=(12, 3, 20, 3, 20), nested=12)(
    lambda: Tokens(nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3, 20, batch_first=True), 2))
)
add("transformer_encoder_prenorm", tokens, sizes=(12, 3, 20, 3, 20), nested=12)(
    lambda: Tokens(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=True, activation="gelu"),
            2,
            enable_nested_tensor=False,
        )
    )
)


class FusedAttention(nn.Module):
    """Query, key and value in one matrix whose rows are laid out as (3, H, D), (H, 3, D) or (H, D, 3)."""

    def __init__(self, layout: str, causal: bool = False) -> None:
        super().__init__()
        self.qkv, self.proj, self.norm, self.layout, self.causal = (
            nn.Linear(12, 36),
            nn.Linear(12, 12),
            nn.LayerNorm(12),
            layout,
            causal,
        )

    def forward(self, x):
        b, n, c = x.shape
        y = self.qkv(self.norm(x))
        if self.layout == "3HD":
            q, k, v = y.reshape(b, n, 3, 3, 4).permute(2, 0, 3, 1, 4)
        elif self.layout == "H3D":
            q, k, v = y.view(b, n, 3, 12).transpose(1, 2).chunk(3, -1)
        elif self.layout == "HD3":
            q, k, v = y.view(b, n, 3, 4, 3).transpose(1, 2).unbind(-1)
        else:
            q, k, v = (z.view(b, n, 3, 4).transpose(1, 2) for z in y.split(12, -1))
        a = q @ k.transpose(-2, -1) / math.sqrt(4)
        if self.causal:
            a = a.masked_fill(torch.ones(n, n, dtype=torch.bool).tril().logical_not(), float("-inf"))
        return x + self.proj((a.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


class ViT(nn.Module):
    def __init__(self, layout: str) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 17, 12))
        self.attn, self.norm = FusedAttention(layout), nn.LayerNorm(12)
        self.up, self.down, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        x = self.attn(x)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x[:, 0])


for _layout in ("3HD", "H3D", "HD3", "split"):
    add(f"vit_qkv_{_layout}", lambda: (torch.randn(2, 3, 16, 16),), sizes=(12, 3, 20), nested=6)(
        lambda layout=_layout: ViT(layout)
    )


@add("gpt_tied", tokens, sizes=(12, 3, 20), nested=6)
class GPT(nn.Module):
    """The embedding is also the output layer: one tensor, two roles."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(11, 12), nn.Embedding(6, 12)
        self.attn, self.norm, self.last = FusedAttention("split", causal=True), nn.LayerNorm(12), nn.LayerNorm(12)
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)
        self.lm_head = nn.Linear(12, 11, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, t):
        x = self.attn(self.wte(t) + self.wpe(torch.arange(t.shape[1])))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.lm_head(self.last(x))


class MultiQuery(nn.Module):
    """One key-value head for all query heads: its dims are one set of units for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.o = nn.Linear(12, 12), nn.Linear(12, 8), nn.Linear(12, 12)

    def forward(self, x):
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 3, 4).transpose(1, 2)
        k, v = self.kv(x)[:, None].chunk(2, -1)
        return self.o(
            F.scaled_dot_product_attention(q, k.expand(-1, 3, -1, -1), v.expand(-1, 3, -1, -1))
            .transpose(1, 2)
            .reshape(b, n, 12)
        )


add("multi_query", tokens, sizes=(12, 12, 3, 4, 4))(lambda: Tokens(MultiQuery()))


class Parallel(nn.Module):
    """Attention and feed-forward side by side, SwiGLU from one fused matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(12), FusedAttention("3HD", causal=True)
        self.up, self.down = nn.Linear(12, 28), nn.Linear(14, 12)

    def forward(self, x):
        a, b = self.up(self.norm(x)).chunk(2, -1)
        return self.attn(x) + self.down(F.silu(a) * b)


add("parallel_block_swiglu", tokens, sizes=(12, 3, 14), nested=6)(lambda: Tokens(Parallel()))


class ALiBi(nn.Module):
    """Every head has a slope of its own that no weight holds: heads are fixed, the dims in them are free."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))
        self.register_buffer("slopes", torch.tensor([0.5, 0.25, 0.125]), persistent=False)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, 3, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        distance = torch.arange(n)[None, :] - torch.arange(n)[:, None]
        scores = q @ k.transpose(-2, -1) + self.slopes[:, None, None] * distance
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, 12))


add("alibi", tokens, sizes=(12, 12, 4, 4, 4, 4, 4, 4))(lambda: Tokens(ALiBi(), positions=False))


class RelativeBias(nn.Module):
    """A learned bias per head and distance (T5, Swin): heads stay free, the table moves with them."""

    def __init__(self, width: int = 12, heads: int = 3, side: int = 6) -> None:
        super().__init__()
        self.qkv, self.o, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads
        self.table = nn.Parameter(torch.randn(2 * side - 1, heads))
        self.register_buffer("index", torch.arange(side)[:, None] - torch.arange(side)[None, :] + side - 1)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        a = (q @ k.transpose(-2, -1) + bias).softmax(-1)
        return self.o((a @ v).transpose(1, 2).reshape(b, n, c))


add("relative_position_bias", tokens, sizes=(12, 12, 3), nested=6)(lambda: Tokens(RelativeBias()))


@add("swin_windows", lambda: (torch.randn(2, 3, 16, 16),), sizes=(12, 24, 3), nested=6)
class Swin(nn.Module):
    """Shifted windows of 4 x 4 tokens; four neighbours merge into one token of twice the width."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 12, 2, 2), nn.LayerNorm(12)
        self.attn = RelativeBias(12, 3, 16)
        self.merge, self.head = nn.Linear(48, 24, bias=False), nn.Linear(24, 5)

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-2, -2), (1, 2))
        y = y.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        y = self.attn(y).view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(y, (2, 2), (1, 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(F.gelu(self.merge(x)).mean((1, 2)))


@add("mlp_mixer", lambda: (torch.randn(2, 3, 16, 16),), sizes=(12, 10, 20))
class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.n1, self.n2 = nn.Conv2d(3, 12, 4, 4), nn.LayerNorm(12), nn.LayerNorm(12)
        self.t1, self.t2, self.c1, self.c2, self.head = (
            nn.Linear(16, 10),
            nn.Linear(10, 16),
            nn.Linear(12, 20),
            nn.Linear(20, 12),
            nn.Linear(12, 3),
        )

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.t2(F.gelu(self.t1(self.n1(x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.c2(F.gelu(self.c1(self.n2(x))))
        return self.head(x.mean(1))


@add("perceiver", lambda: (torch.randn(2, 9, 5),), sizes=(12, 7, 3), nested=6)
class Perceiver(nn.Module):
    """Learned latents ask the input: the latents are interchangeable too, for their mean is read."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.attn = (
            nn.Parameter(torch.randn(7, 12)),
            nn.MultiheadAttention(12, 3, kdim=5, vdim=5, batch_first=True),
        )
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 2)

    def forward(self, x):
        q = self.latents.expand(x.shape[0], -1, -1)
        return self.head(self.norm(q + self.attn(q, x, x, need_weights=False)[0]).mean(1))


@add(
    "cross_attention_decoder",
    lambda: ((torch.randn(2, 5, 12), torch.randn(2, 4, 12)),),
    sizes=(3, 3, 3, 16, 16),
    nested=18,
)
class EncoderDecoder(nn.Module):
    """nn.Transformer: its streams begin at the inputs and end at the output, so only heads and hidden layers are free."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Transformer(12, 3, 1, 1, 16, batch_first=True)

    def forward(self, s, t):
        return self.net(s, t)


@add("set_attention_pooling", lambda: (torch.randn(2, 7, 4),), sizes=(8, 6))
class AttentionPooling(nn.Module):
    """Multiple-instance learning with gated attention."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.v, self.u, self.w, self.out = (
            nn.Linear(4, 8),
            nn.Linear(8, 6),
            nn.Linear(8, 6),
            nn.Linear(6, 1),
            nn.Linear(8, 2),
        )

    def forward(self, x):
        h = torch.relu(self.f(x))
        a = self.w(torch.tanh(self.v(h)) * torch.sigmoid(self.u(h))).softmax(1)
        return self.out((a * h).sum(1))


@add("per_head_einsum", tokens, sizes=(12, 3), nested=6)
class PerHead(nn.Module):
    """Heads in weights of three axes, without any reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(11, 12), nn.Linear(12, 4)
        self.q, self.k, self.v = (nn.Parameter(torch.randn(3, 12, 4)) for _ in range(3))
        self.o = nn.Parameter(torch.randn(3, 4, 12))

    def forward(self, t):
        x = self.embed(t)
        q, k, v = (torch.einsum("bnc,hcd->bhnd", x, w) for w in (self.q, self.k, self.v))
        a = torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(-1)
        return self.out(x + torch.einsum("bhnm,bhmd,hdc->bnc", a, v, self.o))


@add("linear_attention", tokens, sizes=(12, 3), nested=6)
class LinearAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.o, self.out = (
            nn.Embedding(11, 12),
            nn.Linear(12, 36),
            nn.Linear(12, 12),
            nn.Linear(12, 4),
        )

    def forward(self, t):
        x = self.embed(t)
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 3, 4).unbind(2)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        kv = torch.einsum("bnhd,bnhe->bhde", k, v)
        z = 1 / (torch.einsum("bnhd,bhd->bnh", q, k.sum(1)) + 1e-6)
        return self.out(x + self.o(torch.einsum("bnhd,bhde,bnh->bnhe", q, kv, z).reshape(b, n, c)))

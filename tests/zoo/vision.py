"""Vision networks written by hand after well-known ones: multi-scale attention, windows, biases in tables, patches, statistics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import add


def image(channels=3, size=8):
    return lambda: (torch.randn(2, channels, size, size),)


class _MultiScale(nn.Module):
    """EfficientViT's linear attention: queries, keys and values at two scales, heads of both attend alike, a one is padded."""

    def __init__(self, width=8, heads=2, dim=4, pad=True) -> None:
        super().__init__()
        self.dim, self.pad, total = dim, pad, heads * dim
        self.qkv = nn.Conv2d(width, 3 * total, 1, bias=False)
        self.wide = nn.Conv2d(3 * total, 3 * total, 5, padding=2, groups=3 * total, bias=False)
        self.mix = nn.Conv2d(3 * total, 3 * total, 1, groups=3 * heads, bias=False)
        self.proj, self.norm = nn.Conv2d(2 * total, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        b, _, h, w = x.shape
        qkv = self.qkv(x)
        both = torch.cat([qkv, self.mix(self.wide(qkv))], 1)
        both = both.reshape(b, -1, 3 * self.dim, h * w).transpose(-1, -2)
        q, k, v = both.chunk(3, -1)
        q, k = F.relu(q), F.relu(k)
        if self.pad:
            v = F.pad(v, (0, 1), mode="constant", value=1.0)
            out = q @ (k.transpose(-1, -2) @ v)
            out = out[..., :-1] / (out[..., -1:] + 1e-5)
        else:
            out = (q @ (k.transpose(-1, -2) @ v)) / (q @ k.sum(-2)[..., None] + 1e-5)
        return self.norm(self.proj(out.transpose(-1, -2).reshape(b, -1, h, w)))


class _Vit(nn.Module):
    def __init__(self, block) -> None:
        super().__init__()
        self.stem, self.block, self.out = nn.Conv2d(3, 8, 3, padding=1), block, nn.Linear(8, 3)

    def forward(self, x):
        x = F.hardswish(self.stem(x))
        return self.out((x + self.block(x)).mean((2, 3)))


# All heads and both scales share one order of query-key dims, and one of value dims: the blocks of the grouped convolution could
# each have their own. Their signs are not worked out.
_LIMITS = (
    "sign of block.qkv",
    "block.qkv.weight: its units in block.mix",
    "block.qkv.weight#2: its units in block.mix",
)
add("efficient_vit", image(), sizes=(8, 2, 4, 4), limits=_LIMITS)(lambda: _Vit(_MultiScale()))
add("efficient_vit_summed", image(), sizes=(8, 2, 4, 4), limits=_LIMITS)(lambda: _Vit(_MultiScale(pad=False)))
add("efficient_vit_wide", image(), sizes=(8, 3, 2, 2), limits=_LIMITS)(lambda: _Vit(_MultiScale(heads=3, dim=2)))


class _LeVit(nn.Module):
    """LeViT: queries and keys smaller than values, a norm for each, biases of positions, a hard activation on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.norm = (
            nn.Conv2d(3, 8, 4, 4),
            nn.Linear(8, 2 * (3 + 3 + 5), bias=False),
            nn.BatchNorm1d(22),
        )
        self.biases = nn.Parameter(torch.randn(2, 4))
        self.register_buffer(
            "index", torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]), persistent=False
        )
        self.proj, self.out = nn.Linear(10, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = F.hardswish(self.stem(x)).flatten(2).transpose(1, 2)
        b, n, _ = x.shape
        h = self.norm(self.qkv(x).flatten(0, 1)).view(b, n, 2, 11)
        q, k, v = (t.transpose(1, 2) for t in h.split([3, 3, 5], -1))
        y = (q @ k.transpose(-1, -2) + self.biases[:, self.index]).softmax(-1) @ v
        return self.out((x + self.proj(F.hardswish(y.transpose(1, 2).reshape(b, n, 10)))).mean(1))


add("levit", image(), sizes=(8, 2), nested=4)(_LeVit)


class _Segformer(nn.Module):
    """Segformer: keys and values from a smaller image, a depthwise convolution between the two layers of the perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.q, self.kv, self.sr = (
            nn.Conv2d(3, 8, 2, 2),
            nn.Linear(8, 8),
            nn.Linear(8, 16),
            nn.Conv2d(8, 8, 2, 2),
        )
        self.n1, self.n2, self.n3, self.proj = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.up, self.dw, self.down = nn.Linear(8, 20), nn.Conv2d(20, 20, 3, padding=1, groups=20), nn.Linear(20, 8)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = self.stem(x)
        b, c, height, width = x.shape
        x = x.flatten(2).transpose(1, 2)
        h = self.n1(x)
        q = self.q(h).view(b, -1, 2, 4).transpose(1, 2)
        small = self.n2(self.sr(h.transpose(1, 2).view(b, c, height, width)).flatten(2).transpose(1, 2))
        k, v = self.kv(small).view(b, -1, 2, 2, 4).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, -1, c))
        h = self.up(self.n3(x)).transpose(1, 2).view(b, 20, height, width)
        x = x + self.down(F.gelu(self.dw(h).flatten(2).transpose(1, 2)))
        return F.interpolate(self.out(x.transpose(1, 2).reshape(b, c, height, width)), scale_factor=2, mode="bilinear")


# the norm of the smaller image makes units of its own
add("segformer", image(), sizes=(8, 8, 2, 20), nested=4)(_Segformer)


class _Res2(nn.Module):
    """Res2Net: the channels go through a cascade, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, 9, 1), nn.Linear(9, 2)
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

    def forward(self, x):
        first, second, third = F.relu(self.a(x)).chunk(3, 1)
        second = F.relu(self.convs[0](second))
        third = F.relu(self.convs[1](third + second))
        return self.out(torch.cat([first, second, third], 1).mean((2, 3)))


add("res2net", image(), sizes=(3, 3, 3, 3))(_Res2)


class _Gated(nn.Module):
    """A gated convolution with layer scale, drop path (off in eval mode) and a global response norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dw, self.up, self.down = (
            nn.Conv2d(3, 8, 2, 2),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Linear(8, 12),
            nn.Linear(12, 8),
        )
        self.gain, self.shift, self.scale = (
            nn.Parameter(torch.randn(12)),
            nn.Parameter(torch.randn(12)),
            nn.Parameter(torch.randn(8)),
        )
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        h = F.gelu(self.up(self.dw(x).permute(0, 2, 3, 1)))
        size = torch.norm(h, p=2, dim=(1, 2), keepdim=True)
        h = self.gain * (h * size / (size.mean(-1, keepdim=True) + 1e-6)) + self.shift + h
        x = x + (self.scale * self.down(h)).permute(0, 3, 1, 2)
        return self.out(x.mean((2, 3)))


add("convnext_v2", image(), sizes=(8, 12))(_Gated)


class _Involution(nn.Module):
    """Kernels made by a network, for each place and each group of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.reduce, self.span, self.out = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(4, 2 * 9, 1),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        x = F.relu(self.stem(x))
        b, c, h, w = x.shape
        kernel = self.span(F.relu(self.reduce(x))).view(b, 2, 9, h, w).unsqueeze(2)
        patches = F.unfold(x, 3, padding=1).view(b, 2, c // 2, 9, h, w)
        return self.out((kernel * patches).sum(3).view(b, c, h, w).mean((2, 3)))


add("involution", image(), sizes=(2, 4), nested=2)(_Involution)


class _Token(nn.Module):
    """A class token and a token that is used only when patches are hidden, which they are not here."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)
        self.cls, self.mask_token, self.positions = (
            nn.Parameter(torch.randn(1, 1, 8)),
            nn.Parameter(torch.zeros(1, 8)),
            nn.Parameter(torch.randn(1, 5, 8)),
        )
        self.body = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)

    def forward(self, x, hidden=None):
        x = self.stem(x).flatten(2).transpose(1, 2)
        if hidden is not None:
            x = torch.where(hidden[..., None], self.mask_token, x)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.out(self.body(x)[:, 0])


add("unused_mask_token", image(), sizes=(8, 2, 16), nested=4)(_Token)

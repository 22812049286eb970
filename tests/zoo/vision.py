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
_LIMITS = ("sign of block.qkv", "dims of every block of a grouped convolution")
add("efficient_vit", image(), sizes=(8, 2, 4, 4), limits=_LIMITS)(lambda: _Vit(_MultiScale()))
add("efficient_vit_summed", image(), sizes=(8, 2, 4, 4), limits=_LIMITS)(lambda: _Vit(_MultiScale(pad=False)))
add("efficient_vit_wide", image(), sizes=(8, 3, 2, 2), limits=_LIMITS)(lambda: _Vit(_MultiScale(heads=3, dim=2)))

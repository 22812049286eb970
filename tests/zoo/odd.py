"""Control flow, experts, scripts, custom operators, and networks whose units are not interchangeable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.zoo import add


def rows():
    return (torch.randn(6, 4),)


@add("control_flow", lambda: (torch.ones(3, 4), -torch.ones(3, 4)), sizes=(8,))
class Branches(nn.Module):
    """Two examples show both branches; with one, the other branch's weights would be left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.b(h) if x.sum() > 0 else self.c(h)


@add("mixture_of_experts", rows, sizes=(10, 5, 5, 5))
class MoE(nn.Module):
    """Top-2 of three experts; their order is read by indices, their hidden units are free."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.router, self.out = nn.Linear(4, 10), nn.Linear(10, 3), nn.Linear(10, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 10)) for _ in range(3))

    def forward(self, x):
        x = torch.tanh(self.inp(x))
        weight, chosen = self.router(x).softmax(-1).topk(2, -1)
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            row, slot = torch.where(chosen == i)
            y.index_add_(0, row, expert(x[row]) * weight[row, slot, None])
        return self.out(x + y)


@add("soft_mixture_stacked", rows, sizes=(10, 3), nested=3)
class SoftMoE(nn.Module):
    """Experts in stacked weights, all of them mixed by a softmax: the experts themselves are interchangeable."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.router, self.out = nn.Linear(4, 10), nn.Linear(10, 3), nn.Linear(10, 2)
        self.up, self.down = nn.Parameter(torch.randn(3, 10, 5)), nn.Parameter(torch.randn(3, 5, 10))

    def forward(self, x):
        x = torch.tanh(self.inp(x))
        h = torch.relu(torch.einsum("bc,ech->ebh", x, self.up))
        y = torch.einsum("ebh,ehc,be->bc", h, self.down, self.router(x).softmax(-1))
        return self.out(x + y)


@add("stacked_experts_by_index", rows, sizes=(10, 5, 5, 5))
class IndexedMoE(nn.Module):
    """Experts picked from stacked weights one by one: each has hidden units of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(4, 10), nn.Linear(10, 2)
        self.up, self.down = nn.Parameter(torch.randn(3, 10, 5)), nn.Parameter(torch.randn(3, 5, 10))

    def forward(self, x):
        x = torch.tanh(self.inp(x))
        for e in range(3):
            x = x + (e + 1) * (torch.relu(x @ self.up[e]) @ self.down[e])
        return self.out(x)


@add("checkpointed", rows, sizes=(8, 6))
class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.c(checkpoint(lambda y: torch.relu(self.b(y)), h, use_reentrant=False))


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


@add("autograd_function", rows, sizes=(8,))
class CustomGradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(_Square.apply(self.a(x)))


@torch.library.custom_op("weightlapse_zoo::swish", mutates_args=())
def swish(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(gate)


@torch.library.custom_op("weightlapse_zoo::running", mutates_args=())
def running(x: torch.Tensor) -> torch.Tensor:
    return torch.cumsum(x, -1)


@add("custom_operator", rows, sizes=(8,))
class CustomOperator(nn.Module):
    """An operator nobody has a rule for, found harmless by trying it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g, self.b = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(torch.ops.weightlapse_zoo.swish(self.a(x), self.g(x)))


@add("custom_operator_that_orders", rows, sizes=(6,))
class OrderingOperator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.ops.weightlapse_zoo.running(self.a(x)))))


class _Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        if x.shape[0] > 1:
            x = torch.tanh(self.b(x))
        return self.c(x)


add("jit_scripted", rows, sizes=(8, 6))(lambda: torch.jit.script(_Plain()))
add("jit_traced", rows, sizes=(8, 6))(lambda: torch.jit.trace(_Plain(), torch.randn(6, 4)))


class Between(nn.Module):
    """A hidden layer of 8 whose units something makes different from each other, then an ordinary one of 6."""

    def __init__(self, act, width: int = 8) -> None:
        super().__init__()
        self.a, self.b, self.c, self.act = nn.Linear(4, 8), nn.Linear(width, 6), nn.Linear(6, 2), act

    def forward(self, x):
        return self.c(torch.relu(self.b(self.act(self.a(x)))))


_REFUSED = {
    "roll": lambda h: torch.roll(h, 1, -1) * h,
    "cumsum": lambda h: torch.cumsum(h, -1),
    "flip": lambda h: h + h.flip(-1),
    "fft": lambda h: torch.fft.fft(h).real,
    "sort": lambda h: h.sort(-1).values,
    "topk": lambda h: F.pad(h.topk(3, -1).values, (0, 5)),
    "position_encoding": lambda h: h + torch.linspace(0, 1, 8, dtype=h.dtype),
    "random_noise": lambda h: h + torch.randn_like(h),
    "coin_flips": lambda h: h * torch.bernoulli(h.sigmoid()),
    "dropout_left_on": lambda h: F.dropout(h, 0.5, training=True),
    "conv_along_units": lambda h: F.conv1d(h[:, None], torch.ones(1, 1, 3, dtype=h.dtype), padding=1)[:, 0],
    "pooled_units": lambda h: F.interpolate(F.avg_pool1d(h[:, None], 2), 8)[:, 0],
    "mask_of_units": lambda h: h * (torch.arange(8) % 2),
    "tril_of_gram": lambda h: (h[:, :, None] * h[:, None, :]).tril().sum(-1),
    "argmax": lambda h: h * F.one_hot(h.argmax(-1), 8),
}
# Their values alone do not depend on the order of the units, and these are refused all the same.
_LIMITS = {
    "sort": "sort depends on the order",
    "topk": "topk depends on the order",
    "argmax": "argmax depends on the order",
}
for _name, _act in _REFUSED.items():
    _limits = (_LIMITS[_name],) if _name in _LIMITS else ()
    add(f"refused_{_name}", rows, sizes=(6,), limits=_limits)(lambda act=_act: Between(act))
add("refused_outer_product", rows, sizes=(6,), limits=("outer product",))(
    lambda: Between(lambda h: (h[:, :, None] * h[:, None, :]).flatten(1), 64)
)


@add("rope_dims", lambda: (torch.randint(0, 11, (2, 6)),), sizes=(12, 3), nested=3)
class Rope(nn.Module):
    """Rotary positions tie the query-key dims to their angle; heads and value dims stay free."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.o, self.out = (
            nn.Embedding(11, 12),
            nn.Linear(12, 36),
            nn.Linear(12, 12),
            nn.Linear(12, 4),
        )

    def rotate(self, x):
        angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * 100 ** (-torch.arange(2, dtype=x.dtype) / 2)
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)

    def forward(self, t):
        x = self.embed(t)
        q, k, v = self.qkv(x).view(*t.shape, 3, 3, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        return self.out(x + self.o(y.transpose(1, 2).flatten(2)))


@add("spectral_conv", lambda: (torch.randn(2, 3, 16),), sizes=(5,))
class SpectralConv(nn.Module):
    """Fourier operator: complex weights mix channels per frequency; frequencies are fixed, channels free."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.out = nn.Conv1d(3, 5, 1), nn.Conv1d(5, 2, 1)
        self.w = nn.Parameter(torch.randn(5, 5, 9, dtype=torch.cfloat))

    def forward(self, x):
        x = self.lift(x)
        y = torch.fft.irfft(
            torch.einsum(
                "bif,iof->bof",
                torch.fft.rfft(x),
                self.w.to(torch.complex128 if x.dtype == torch.float64 else torch.cfloat),
            ),
            16,
        )
        return self.out(F.gelu(x + y))


@add("embedding_bag", lambda: (torch.randint(0, 9, (3, 5)),), sizes=(7,))
class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(9, 7), nn.Linear(7, 2)

    def forward(self, t):
        return self.out(torch.relu(self.bag(t)))


@add("shared_layer_twice", rows, sizes=(8,))
class Twice(nn.Module):
    """One square layer used twice: the same units on both of its axes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.b(torch.relu(self.a(x)))))))


@add("inplace_transpose", rows, sizes=(8,))
class InplaceViews(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = self.a(x).clone()
        h.transpose_(0, 1)
        h.unsqueeze_(0).mul_(2.0)
        return self.b(torch.relu(h.squeeze_(0)).t())


@add("detached_weights", rows, sizes=(8,))
class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return F.linear(torch.relu(F.linear(x, self.a.weight.data, self.a.bias.detach())), self.b.weight, self.b.bias)

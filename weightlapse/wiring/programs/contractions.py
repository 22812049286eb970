"""What the translated operators of all frameworks are made of: products over any axes, convolutions, pooling, padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from weightlapse.errors import CannotTrace


def contracted(
    x: Tensor,
    y: Tensor,
    left: Sequence[int],
    right: Sequence[int],
    left_batch: Sequence[int] = (),
    right_batch: Sequence[int] = (),
) -> Tensor:
    """Sum over the axes ``left`` of x and ``right`` of y; the batch axes come first, then what is left of x, then of y."""
    rows = [a for a in range(x.ndim) if a not in left and a not in left_batch]
    columns = [a for a in range(y.ndim) if a not in right and a not in right_batch]
    shape = [x.shape[a] for a in (*left_batch, *rows)] + [y.shape[a] for a in columns]
    x, y = _ordered(x, [*left_batch, *rows, *left]), _ordered(y, [*right_batch, *right, *columns])
    b, r, k = len(left_batch), len(rows), len(left)
    batch, inner = x.shape[:b], math.prod(x.shape[b + r :])
    m, n = math.prod(x.shape[b : b + r]), math.prod(y.shape[b + k :])
    if not b:
        out = torch.mm(x.reshape(m, inner), y.reshape(inner, n))
    else:
        out = torch.bmm(x.reshape(math.prod(batch), m, inner), y.reshape(math.prod(batch), inner, n))
    return out.reshape(shape)


def _ordered(x: Tensor, order: list[int]) -> Tensor:
    return x if order == list(range(x.ndim)) else x.permute(order)


def convolved(
    x: Tensor,
    w: Tensor,
    strides: Sequence[int],
    dilation: Sequence[int],
    pads: Sequence[tuple[int, ...]],
    between: Sequence[int],
    groups: int,
) -> Tensor:
    """A convolution of (N, C, *space) with (O, I, *kernel); ``pads`` (low, high) and ``between`` are for all axes."""
    same = all(low == high >= 0 for low, high in pads[2:]) and not any(between)
    if not same:
        x = padded(x, [(low, high, b) for (low, high), b in zip(pads, between, strict=True)], 0.0)
    kernel: Callable[..., Tensor] = (functional.conv1d, functional.conv2d, functional.conv3d)[x.ndim - 3]
    padding = [low for low, _ in pads[2:]] if same else [0] * (x.ndim - 2)
    return kernel(x, w, None, list(map(int, strides)), padding, list(map(int, dilation)), groups)


def pooled(
    x: Tensor, kind: str, window: Sequence[int], strides: Sequence[int], pads: Sequence[tuple[int, ...]]
) -> Tensor:
    """The largest, smallest number or the sum of every window; all arguments have an entry for each axis."""
    space = [a for a in range(x.ndim) if window[a] != 1 or strides[a] != 1 or any(pads[a])]
    if not space:
        return x
    rest = [a for a in range(x.ndim) if a not in space]
    if len(space) > 3:
        raise CannotTrace("the program pools over more than three axes, which its trace cannot follow")
    order, lead = [*rest, *space], len(rest)
    y = x.permute(order)
    y = -y if kind == "min" else y
    lowest = torch.finfo(torch.float32).min if x.is_floating_point() else -(1 << 31)
    y = padded(y, [(0, 0, 0)] * lead + [(pads[a][0], pads[a][1], 0) for a in space], 0.0 if kind == "sum" else lowest)
    before = y.shape[:lead]
    y = y.flatten(0, lead - 2) if lead > 2 else y.reshape([1] * (2 - lead) + list(y.shape))
    n, size, step = len(space) - 1, [window[a] for a in space], [strides[a] for a in space]
    if kind == "sum":
        mean: Any = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[n]
        out = mean(y, size, step) * math.prod(size)
    else:
        largest: Any = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[n]
        out = largest(y, size, step)
        out = -out if kind == "min" else out
    out = out.reshape([*before, *out.shape[2:]])
    return out.permute([order.index(a) for a in range(x.ndim)])


def padded(x: Tensor, config: Sequence[tuple[int, int, int]], value: float) -> Tensor:
    """(low, high, between) numbers of padding for each axis; negative ones cut off."""
    for axis, (_, _, between) in enumerate(config):
        if between and x.shape[axis] > 1:
            spread = x.unsqueeze(axis + 1)
            amounts = [0, 0] * (spread.ndim - axis - 2) + [0, between]
            spread = torch.nn.functional.pad(spread, amounts, value=value)
            x = spread.flatten(axis, axis + 1).narrow(axis, 0, x.shape[axis] * (between + 1) - between)
    amounts = [n for low, high, _ in reversed(config) for n in (max(low, 0), max(high, 0))]
    while amounts and amounts[-2:] == [0, 0]:
        amounts = amounts[:-2]
    if amounts:
        x = torch.nn.functional.pad(x, amounts, value=value)
    for axis, (low, high, _) in enumerate(config):
        if low < 0 or high < 0:
            x = x.narrow(axis, max(-low, 0), x.shape[axis] - max(-low, 0) - max(-high, 0))
    return x


def einsum(equation: str, factors: Sequence[Tensor]) -> Tensor:
    """A product of two factors in the notation of einsum, by `contracted`; other forms by torch."""
    left, _, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(factors) != 2 or "." in equation or any(len(set(t)) != len(t) for t in (*terms, right)):
        return torch.einsum(equation, *factors)
    (x, y), (a, b) = factors, terms
    for term, keep in ((a, b + right), (b, a + right)):
        if any(c not in keep for c in term):
            return torch.einsum(equation, *factors)
    batch = [c for c in a if c in b and c in right]
    summed = [c for c in a if c in b and c not in right]
    out = contracted(
        x,
        y,
        [a.index(c) for c in summed],
        [b.index(c) for c in summed],
        [a.index(c) for c in batch],
        [b.index(c) for c in batch],
    )
    have = batch + [c for c in a if c not in batch + summed] + [c for c in b if c not in batch + summed]
    return out.permute([have.index(c) for c in right]) if "".join(have) != right else out

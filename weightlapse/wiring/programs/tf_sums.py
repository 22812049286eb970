"""TensorFlow operators that sum: products, convolutions, pooling, norms, reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from weightlapse.errors import CannotTrace
from weightlapse.wiring.programs.contractions import contracted, convolved, einsum, pooled
from weightlapse.wiring.programs.tf_graph import GraphRunner, Value, operator
from weightlapse.wiring.programs.tf_shapes import numbers


@operator("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def _matmul(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, y = args
    plain = op.type == "MatMul"
    if op.get_attr("transpose_a" if plain else "adj_x"):
        x = x.transpose(-1, -2)
    if op.get_attr("transpose_b" if plain else "adj_y"):
        y = y.transpose(-1, -2)
    if y.ndim == 2 or x.ndim == 2:
        return contracted(x, y, [x.ndim - 1], [y.ndim - 2]) if y.ndim == 2 else torch.matmul(x, y)
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x, y = (t if t.shape[:-2] == batch else t.expand(*batch, *t.shape[-2:]) for t in (x, y))
    axes = list(range(len(batch)))
    return contracted(x, y, [x.ndim - 1], [y.ndim - 2], axes, axes)


@operator("Einsum")
def _einsum(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return einsum(op.get_attr("equation").decode(), args)


@operator("BiasAdd")
def _bias_add(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, b = args
    if op.get_attr("data_format") == b"NCHW" and x.ndim > 2:
        b = b.reshape([-1] + [1] * (x.ndim - 2))
    return x + b


def _axes(op: Any, rank: int) -> tuple[bool, list[int]]:
    """Whether the channels come last, and the axes of (samples, channels, *space)."""
    last = not op.get_attr("data_format").decode().startswith("NC")
    return last, [0, rank - 1, *range(1, rank - 1)] if last else list(range(rank))


def _spread(values: Sequence[int], last: bool) -> list[int]:
    """The entries of a list of strides, windows or dilations that are for the axes of space."""
    return [int(v) for v in (values[1:-1] if last else values[2:])]


def _pads(
    op: Any, last: bool, sizes: Sequence[int], window: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    kind = op.get_attr("padding").decode()
    if kind == "EXPLICIT":
        flat = [int(p) for p in op.get_attr("explicit_paddings")]
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        return pairs[1:-1] if last else pairs[2:]
    if kind == "VALID":
        return [(0, 0)] * len(sizes)
    total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, window, strides, strict=True)]
    return [(t // 2, t - t // 2) for t in total]


@operator("Conv2D", "Conv3D", "DepthwiseConv2dNative")
def _convolution(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, w = args
    last, order = _axes(op, x.ndim)
    x = x.permute(order)
    strides, dilation = _spread(op.get_attr("strides"), last), _spread(op.get_attr("dilations"), last)
    space = w.shape[:-2]
    reach = [(k - 1) * d + 1 for k, d in zip(space, dilation, strict=True)]
    pads = _pads(op, last, x.shape[2:], reach, strides)
    if op.type == "DepthwiseConv2dNative":
        groups = w.shape[-2]
        w = w.reshape(*space, 1, w.shape[-2] * w.shape[-1])
    else:
        groups = x.shape[1] // w.shape[-2]
    w = w.permute([w.ndim - 1, w.ndim - 2, *range(w.ndim - 2)])
    none = [(0, 0), (0, 0)]
    out = convolved(x, w, strides, dilation, [*none, *pads], [0] * x.ndim, groups)
    return out.permute(_back(order))


def _back(order: Sequence[int]) -> list[int]:
    return [list(order).index(a) for a in range(len(order))]


@operator("Conv2DBackpropInput", "Conv3DBackpropInputV2")
def _transposed(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    """A transposed convolution, written as what it is: a convolution of the spread input with the flipped kernel."""
    sizes, w, y = numbers(args[0]), args[1], args[2]
    last, order = _axes(op, y.ndim)
    strides, dilation = _spread(op.get_attr("strides"), last), _spread(op.get_attr("dilations"), last)
    space = list(w.shape[:-2])
    reach = [(k - 1) * d + 1 for k, d in zip(space, dilation, strict=True)]
    out = _spread(sizes, last)
    low_high = _pads(op, last, out, reach, strides)
    y = y.permute(order)
    pads, between = [(0, 0), (0, 0)], [0, 0]
    for n, m, r, s, (low, _) in zip(out, y.shape[2:], reach, strides, low_high, strict=True):
        before = r - 1 - low
        pads.append((before, n + r - 1 - before - ((m - 1) * s + 1)))
        between.append(s - 1)
    flipped = torch.flip(w, list(range(len(space)))).permute([w.ndim - 2, w.ndim - 1, *range(w.ndim - 2)])
    found = convolved(y, flipped, [1] * len(space), dilation, pads, between, 1)
    return found.permute(_back(order))


@operator("MaxPool", "MaxPool3D", "MaxPoolV2", "AvgPool", "AvgPool3D")
def _pool(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x = args[0]
    last, _ = _axes(op, x.ndim)
    window, strides = [int(v) for v in op.get_attr("ksize")], [int(v) for v in op.get_attr("strides")]
    size, step = _spread(window, last), _spread(strides, last)
    space = list(range(1, x.ndim - 1)) if last else list(range(2, x.ndim))
    pads = [(0, 0)] * x.ndim
    for axis, pair in zip(space, _pads(op, last, [x.shape[a] for a in space], size, step), strict=True):
        pads[axis] = pair
    if op.type.startswith("Max"):
        return pooled(x, "max", window, strides, pads)
    total = pooled(x, "sum", window, strides, pads)
    if not any(map(any, pads)):
        return total / math.prod(size)
    ones = torch.ones([n if a in space else 1 for a, n in enumerate(x.shape)], dtype=x.dtype)
    return total / pooled(ones, "sum", window, strides, pads)


@operator("FusedBatchNormV3", "FusedBatchNormV2", "FusedBatchNorm")
def _batch_norm(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, gain, shift, mean, variance = args
    if op.get_attr("is_training"):
        if mean.numel():
            raise CannotTrace(
                "the network updates running statistics although it is not training, which its trace cannot follow"
            )
        last, _ = _axes(op, x.ndim)
        over = [a for a in range(x.ndim) if a != (x.ndim - 1 if last else 1)]
        mean, variance = x.mean(over), x.var(over, unbiased=False)
    last, order = _axes(op, x.ndim)
    y = functional.batch_norm(x.permute(order), mean, variance, gain, shift, False, 0.0, op.get_attr("epsilon"))
    return (y.permute(_back(order)), mean, variance, mean, variance, mean)


@operator("Softmax")
def _softmax(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.softmax(args[0], -1)


@operator("LogSoftmax")
def _log_softmax(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.log_softmax(args[0], -1)


@operator("Sum", "Mean", "Max", "Min", "Prod", "All", "Any", "EuclideanNorm")
def _reduce(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, axes, keep = (
        args[0],
        sorted({a % args[0].ndim for a in numbers(args[1])}) if args[0].ndim else [],
        op.get_attr("keep_dims"),
    )
    if not axes:
        return x
    if op.type == "Sum":
        return x.sum(axes, keepdim=keep)
    if op.type == "Mean":
        return x.mean(axes, keepdim=keep)
    if op.type in ("Max", "Min"):
        return x.amax(axes, keepdim=keep) if op.type == "Max" else x.amin(axes, keepdim=keep)
    if op.type == "EuclideanNorm":
        return torch.linalg.vector_norm(x, dim=axes, keepdim=keep)
    function: Any = {"Prod": torch.prod, "All": torch.all, "Any": torch.any}[op.type]
    for axis in reversed(axes):
        x = function(x, axis, keepdim=keep)
    return x


@operator("ArgMax", "ArgMin")
def _arg(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return (torch.argmax if op.type == "ArgMax" else torch.argmin)(args[0], int(args[1]))


@operator("Cumsum", "Cumprod")
def _cumulative(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, axis = args[0], int(args[1])
    if op.get_attr("exclusive"):
        raise CannotTrace("the graph sums up exclusively (Cumsum), which its trace cannot follow")
    function: Any = torch.cumsum if op.type == "Cumsum" else torch.cumprod
    if op.get_attr("reverse"):
        return torch.flip(function(torch.flip(x, [axis]), axis), [axis])
    return function(x, axis)


@operator("L2Loss")
def _l2(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return args[0].square().sum() / 2


@operator("ResizeNearestNeighbor", "ResizeBilinear")
def _resize(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, size = args[0].permute(0, 3, 1, 2), numbers(args[1])
    corners, centers = op.get_attr("align_corners"), op.get_attr("half_pixel_centers")
    if op.type == "ResizeBilinear" and (corners or centers):
        y = functional.interpolate(x, size, mode="bilinear", align_corners=bool(corners))
    elif op.type == "ResizeNearestNeighbor" and not corners:
        y = functional.interpolate(x, size, mode="nearest-exact" if centers else "nearest")
    else:
        raise CannotTrace(f"the graph resizes images in a way ({op.type}) that its trace cannot follow")
    return y.permute(0, 2, 3, 1)

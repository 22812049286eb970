"""TensorFlow operators that move numbers about: reshapes, slices, concatenations, padding, indexing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from weightlapse.errors import CannotTrace
from weightlapse.wiring.programs.contractions import padded
from weightlapse.wiring.programs.tf_graph import GraphRunner, Value, operator


def numbers(value: Value) -> list[int]:
    """The whole numbers of a shape, of axes or of paddings."""
    return [int(n) for n in value.reshape(-1)]


@operator("Shape", "ShapeN")
def _shape(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    found = tuple(torch.tensor(list(x.shape), dtype=torch.int64) for x in args)
    return found if op.type == "ShapeN" else found[0]


@operator("Size")
def _size(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.tensor(args[0].numel())


@operator("Rank")
def _rank(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.tensor(args[0].ndim)


@operator("Reshape")
def _reshape(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return args[0].reshape(numbers(args[1]))


@operator("ExpandDims")
def _expand_dims(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return args[0].unsqueeze(int(args[1]))


@operator("Squeeze")
def _squeeze(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x = args[0]
    axes = {a % x.ndim for a in op.get_attr("squeeze_dims")} or {a for a, n in enumerate(x.shape) if n == 1}
    return x.reshape([n for a, n in enumerate(x.shape) if a not in axes])


@operator("Transpose")
def _transpose(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return args[0].permute(numbers(args[1]))


@operator("BroadcastTo")
def _broadcast_to(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return args[0].expand(numbers(args[1]))


@operator("BroadcastArgs")
def _broadcast_args(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.tensor(list(torch.broadcast_shapes(numbers(args[0]), numbers(args[1]))))


@operator("Tile")
def _tile(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return args[0].repeat(numbers(args[1]))


@operator("ConcatV2")
def _concat(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.cat(args[:-1], int(args[-1]))


@operator("Pack")
def _pack(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.stack(args, op.get_attr("axis"))


@operator("Unpack")
def _unpack(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return tuple(torch.unbind(args[0], op.get_attr("axis")))


@operator("Split")
def _split(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    axis, x = int(args[0]), args[1]
    return tuple(torch.split(x, x.shape[axis] // op.get_attr("num_split"), axis))


@operator("SplitV")
def _split_v(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, sizes, axis = args[0], numbers(args[1]), int(args[2])
    if -1 in sizes:
        sizes[sizes.index(-1)] = x.shape[axis] - sum(s for s in sizes if s >= 0)
    return tuple(torch.split(x, sizes, axis))


@operator("Slice")
def _slice(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x = args[0]
    for axis, (start, size) in enumerate(zip(numbers(args[1]), numbers(args[2]), strict=True)):
        size = x.shape[axis] - start if size == -1 else size
        if size != x.shape[axis]:
            x = x.narrow(axis, start, size)
    return x


@operator("StridedSlice")
def _strided_slice(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, begin, end, step = args[0], *map(numbers, args[1:])
    masks = {k: op.get_attr(f"{k}_mask") for k in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    axis = 0
    for i in range(len(begin)):
        bit = 1 << i
        if masks["ellipsis"] & bit:
            after = sum(1 for j in range(i + 1, len(begin)) if not masks["new_axis"] & (1 << j))
            axis = x.ndim - after
        elif masks["new_axis"] & bit:
            x, axis = x.unsqueeze(axis), axis + 1
        elif masks["shrink_axis"] & bit:
            x = x.select(axis, begin[i])
        else:
            where = slice(None if masks["begin"] & bit else begin[i], None if masks["end"] & bit else end[i], step[i])
            x, axis = _cut(x, axis, where), axis + 1
    return x


def _cut(x: Tensor, axis: int, where: slice) -> Tensor:
    start, stop, step = where.indices(x.shape[axis])
    if step < 0:
        picked = list(range(start, stop, step))
        x = torch.flip(x.narrow(axis, picked[-1], picked[0] - picked[-1] + 1), [axis])
        start, stop, step = 0, x.shape[axis], -step
    if (start, stop, step) == (0, x.shape[axis], 1):
        return x
    return torch.ops.aten.slice.Tensor(x, axis, start, max(stop, start), step)  # type: ignore[no-any-return]


@operator("Pad", "PadV2")
def _pad(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    pairs = args[1].reshape(-1, 2).tolist()
    value = args[2].item() if op.type == "PadV2" else 0.0
    return padded(args[0], [(int(low), int(high), 0) for low, high in pairs], value)


@operator("MirrorPad")
def _mirror(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, pairs = args[0], args[1].reshape(-1, 2).tolist()
    first = 1 if op.get_attr("mode") == b"REFLECT" else 0
    for axis, (low, high) in enumerate(pairs):
        n = x.shape[axis]
        parts = [torch.flip(x.narrow(axis, first, low), [axis])] if low else []
        parts.append(x)
        parts += [torch.flip(x.narrow(axis, n - first - high, high), [axis])] if high else []
        x = torch.cat(parts, axis) if len(parts) > 1 else x
    return x


@operator("ReverseV2")
def _reverse(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.flip(args[0], numbers(args[1])) if args[1].numel() else args[0]


@operator("Roll")
def _roll(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.roll(args[0], numbers(args[1]), numbers(args[2]))


@operator("SpaceToBatchND")
def _space_to_batch(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, blocks, pads = args[0], numbers(args[1]), args[2].reshape(-1, 2).tolist()
    n = len(blocks)
    x = padded(x, [(0, 0, 0), *((int(a), int(b), 0) for a, b in pads), *([(0, 0, 0)] * (x.ndim - 1 - n))], 0.0)
    shape = [
        x.shape[0],
        *(s for a, b in zip(x.shape[1 : 1 + n], blocks, strict=True) for s in (a // b, b)),
        *x.shape[1 + n :],
    ]
    order = [*range(2, 2 * n + 1, 2), 0, *range(1, 2 * n, 2), *range(2 * n + 1, len(shape))]
    x = x.reshape(shape).permute(order)
    return x.flatten(0, n)


@operator("BatchToSpaceND")
def _batch_to_space(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, blocks, crops = args[0], numbers(args[1]), args[2].reshape(-1, 2).tolist()
    n, batch = len(blocks), x.shape[0]
    for b in blocks:
        batch //= b
    y = x.reshape([*blocks, batch, *x.shape[1:]])
    order = [n, *(a for i in range(n) for a in (n + 1 + i, i)), *range(2 * n + 1, y.ndim)]
    y = y.permute(order).reshape(
        [batch, *(s * b for s, b in zip(x.shape[1 : 1 + n], blocks, strict=True)), *x.shape[1 + n :]]
    )
    for axis, (low, high) in enumerate(crops, 1):
        if low or high:
            y = y.narrow(axis, low, y.shape[axis] - low - high)
    return y


@operator("MatrixBandPart")
def _band(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, low, high = args[0], int(args[1]), int(args[2])
    rows, columns = torch.arange(x.shape[-2]).unsqueeze(1), torch.arange(x.shape[-1]).unsqueeze(0)
    keep = ((low < 0) | (rows - columns <= low)) & ((high < 0) | (columns - rows <= high))
    return torch.where(keep, x, torch.zeros_like(x))


# ---- indexing


@operator("GatherV2")
def _gather(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, index, axis = args[0], args[1], int(args[2])
    axis, batch = axis % x.ndim, op.get_attr("batch_dims")
    if batch:
        if index.ndim == batch + 1 and axis == batch:
            places = index.reshape([*index.shape, *([1] * (x.ndim - index.ndim))]).expand(
                [*index.shape, *x.shape[axis + 1 :]]
            )
            return torch.gather(x, axis, places)
        raise CannotTrace(
            "the graph gathers rows of every sample by themselves (batch_dims), which its trace cannot follow"
        )
    if index.ndim == 0:
        return x.select(axis, int(index))
    if axis == 0 and x.ndim == 2:
        return functional.embedding(index, x)
    return x[(slice(None),) * axis + (index,)]


@operator("GatherNd")
def _gather_nd(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, index = args
    return x[tuple(index[..., k] for k in range(index.shape[-1]))]


@operator("TensorScatterUpdate", "TensorScatterAdd", "ScatterNd")
def _scatter(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    if op.type == "ScatterNd":
        index, values = args[:2]
        x = torch.zeros(numbers(args[2]), dtype=values.dtype)
    else:
        x, index, values = args
    places = tuple(index[..., k] for k in range(index.shape[-1]))
    return x.index_put(places, values, accumulate=op.type != "TensorScatterUpdate")


@operator("TopKV2")
def _top_k(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return tuple(torch.topk(args[0], int(args[1])))

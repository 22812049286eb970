"""Operators that move values about: reshapes, slices, concatenations, padding, indexing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightlapse.wiring.infer import Inference
from weightlapse.wiring.record import Call
from weightlapse.wiring.rules.table import Axes, rule, tensors_of


def reshaped(inf: Inference, sizes: Sequence[int], axes: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Axis types after a row-major reshape: matching runs of axes become products, or are split into factors."""
    if 0 in shape:
        return [inf.fixed(n, "empty") for n in shape]
    out: list[int] = []
    i = j = 0
    while i < len(sizes) or j < len(shape):
        a, b, pa, pb = [], [], 1, 1
        if i < len(sizes):
            a, pa, i = [i], sizes[i], i + 1
        if j < len(shape):
            b, pb, j = [j], shape[j], j + 1
        while pa != pb:
            if pa < pb:
                a, pa, i = [*a, i], pa * sizes[i], i + 1
            else:
                b, pb, j = [*b, j], pb * shape[j], j + 1
        if len(a) == len(b) == 1:
            out.append(axes[a[0]])
        elif b:
            out += inf.dims.split(inf.dims.product([axes[k] for k in a]), [shape[k] for k in b])
    return out


@rule(
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "_reshape_copy",
    "view_copy",
)
def _view(inf: Inference, call: Call) -> Axes:
    x = call.inputs[0]
    if call.func._overloadname == "dtype":
        axes = inf.axes(x)
        if x.shape == call.outs[0].shape:
            return [axes]
        inf.dims.fix(axes[-1], "the bits of its values are read as another type")
        return [[*axes[:-1], inf.fixed(call.outs[0].shape[-1], "bits")]]
    return [reshaped(inf, x.shape, inf.axes(x), call.outs[0].shape)]


@rule("as_strided")
def _as_strided(inf: Inference, call: Call) -> Axes:
    """Only the form that changes nothing (pooling of channels-last images ends in it) is understood."""
    x, shape = call.inputs[0], tuple(call["size"])
    moved = [s for n, s in zip(shape, call["stride"], strict=True) if n > 1]
    if shape == tuple(x.shape) and moved == [s for n, s in zip(shape, x.stride(), strict=True) if n > 1]:
        return [inf.axes(x)]
    from weightlapse.wiring.rules.opaque import give_up

    return give_up(inf, call, "as_strided reads its memory in another order")


@rule("permute")
def _permute(inf: Inference, call: Call) -> Axes:
    axes = inf.axes(call.inputs[0])
    return [[axes[d] for d in call["dims"]]]


@rule("t", "transpose", "numpy_T", "mT", "swapaxes", "adjoint")
def _transpose(inf: Inference, call: Call) -> Axes:
    axes = inf.axes(call.inputs[0])
    d0, d1 = (call["dim0"], call["dim1"]) if call.name in ("transpose", "swapaxes") else (0, -1)
    if len(axes) > 1:
        axes[d0], axes[d1] = axes[d1], axes[d0]
    return [axes]


@rule("expand", "expand_as", "broadcast_to", "expand_copy")
def _expand(inf: Inference, call: Call) -> Axes:
    x, shape = call.inputs[0], call.outs[0].shape
    axes, lead = inf.axes(x), len(shape) - x.ndim
    # Along an expanded axis all values are equal: an atom of its own, as for constants.
    return [
        [axes[d - lead] if d >= lead and x.shape[d - lead] == n else inf.dims.fresh(n) for d, n in enumerate(shape)]
    ]


@rule("repeat", "tile")
def _repeat(inf: Inference, call: Call) -> Axes:
    x = call.inputs[0]
    times = list(call["repeats"] if call.name == "repeat" else call["dims"])
    times = [1] * (x.ndim - len(times)) + times
    axes, lead = inf.axes(x), len(times) - x.ndim
    out = []
    for d, r in enumerate(times):
        copies = inf.dims.fresh(r, "size 1" if r == 1 else None)
        out.append(inf.dims.product([copies, axes[d - lead]]) if d >= lead else copies)
    return [out]


def cut_at(inf: Inference, node: int, size: int, sizes: Sequence[int]) -> list[int]:
    edges = [sum(sizes[:i]) for i in range(1, len(sizes))]
    if 0 in sizes:
        inf.dims.fix(node, "split")
        return [inf.fixed(n, "split") for n in sizes]
    return inf.dims.cut(node, edges)


@rule(
    "split",
    "split_with_sizes",
    "chunk",
    "tensor_split",
    "unsafe_split",
    "unsafe_chunk",
    "split_with_sizes_copy",
    "split_copy",
)
def _split(inf: Inference, call: Call) -> Axes:
    x, dim = call.inputs[0], call["dim"] % call.inputs[0].ndim
    axes = inf.axes(x)
    pieces = cut_at(inf, axes[dim], x.shape[dim], [t.shape[dim] for t in call.outs])
    return [[p if d == dim else a for d, a in enumerate(axes)] for p in pieces]


@rule("slice", "narrow", "slice_copy")
def _slice(inf: Inference, call: Call) -> Axes:
    x, out = call.inputs[0], call.outs[0]
    dim = call["dim"] % x.ndim
    size, axes = x.shape[dim], inf.axes(x)
    start = call["start"] or 0
    start = max(0, start + size if start < 0 else start)
    step = call["step"] if call.name != "narrow" else 1
    n = out.shape[dim]
    if n == size:
        return [axes]
    if n == 0:
        axes[dim] = inf.fixed(0, "empty")
    elif step == 1:
        axes[dim] = inf.dims.cut(axes[dim], sorted({start, start + n}))[1 if start else 0]
    elif size % step == 0 and start < step:
        axes[dim], phase = inf.dims.split(axes[dim], [size // step, step])
        inf.dims.fix(phase, "sliced with a step")
    else:
        inf.dims.fix(axes[dim], "sliced with a step")
        axes[dim] = inf.fixed(n, "sliced with a step")
    return [axes]


def pick(inf: Inference, axes: list[int], dim: int, position: int) -> list[int]:
    """One position of an axis: what stands beside it may be another set of units at each position."""
    node = axes[dim]
    rest = [inf.dims.at(a, node, position) for d, a in enumerate(axes) if d != dim]
    inf.dims.fix(node, "single positions of it are selected")
    return rest


@rule("select", "select_copy")
def _select(inf: Inference, call: Call) -> Axes:
    x = call.inputs[0]
    dim = call["dim"] % x.ndim
    return [pick(inf, inf.axes(x), dim, call["index"] % x.shape[dim])]


@rule("unbind", "unbind_copy")
def _unbind(inf: Inference, call: Call) -> Axes:
    dim = call["dim"] % call.inputs[0].ndim
    return [pick(inf, inf.axes(call.inputs[0]), dim, i) for i in range(len(call.outs))]


def joined(inf: Inference, tensors: Sequence[Tensor], dim: int) -> list[int]:
    rows = [inf.axes(t) for t in tensors]
    for row in rows[1:]:
        for d, (a, b) in enumerate(zip(rows[0], row, strict=True)):
            if d != dim:
                inf.dims.unify(a, b)
    if not all(inf.is_weight(t) for t in tensors):
        for t in tensors:  # a learned token among activations produces the units it is made of
            for d in range(t.ndim):
                inf.role(t, d, "out")
    return rows[0]


@rule("cat", "concat", "concatenate")
def _cat(inf: Inference, call: Call) -> Axes:
    tensors = [t for t in tensors_of(call["tensors"]) if not (t.ndim == 1 and t.shape[0] == 0)]
    dim = call["dim"] % call.outs[0].ndim
    parts = [inf.axes(t)[dim] for t in tensors]
    axes = joined(inf, tensors, dim)
    axes[dim] = inf.dims.sum(parts) if len(parts) > 1 else parts[0]
    return [axes]


@rule("stack")
def _stack(inf: Inference, call: Call) -> Axes:
    tensors = tensors_of(call["tensors"])
    dim = call["dim"] % call.outs[0].ndim
    axes = joined(inf, tensors, -1)
    axes.insert(dim, inf.fixed(len(tensors), "stack") if len(tensors) > 1 else inf.fixed(1, "size 1"))
    return [axes]


@rule("constant_pad_nd", "pad")
def _pad(inf: Inference, call: Call) -> Axes:
    x, amounts = call.inputs[0], list(call["pad"])
    axes = inf.axes(x)
    for i in range(len(amounts) // 2):
        d, (lo, hi) = x.ndim - 1 - i, amounts[2 * i : 2 * i + 2]
        if lo == hi == 0:
            continue
        if min(lo, hi) < 0 or (call.name == "pad" and call["mode"] != "constant"):
            inf.dims.fix(axes[d], "padding")
            axes[d] = inf.fixed(call.outs[0].shape[d], "padding")
            continue
        # The padding is the same everywhere, so it constrains nothing but where it lies.
        axes[d] = inf.dims.sum([inf.dims.fresh(lo), axes[d], inf.dims.fresh(hi)])
        inf.block(axes[d], "pad: the width of the padding is a constant in the code")
        inf.label(axes[d], "pad")
    return [axes]


@rule("pixel_shuffle", "pixel_unshuffle")
def _pixel(inf: Inference, call: Call) -> Axes:
    x, out = call.inputs[0], call.outs[0]
    axes = inf.axes(x)
    space = [inf.fixed(n, "space") for n in out.shape[-2:]]
    for a in axes[-2:]:
        inf.dims.fix(a, "space")
    if call.name == "pixel_shuffle":
        channels, spots = inf.dims.split(axes[-3], [out.shape[-3], x.shape[-3] // out.shape[-3]])
        inf.dims.fix(spots, "pixel shuffle")
    else:
        factor = out.shape[-3] // x.shape[-3]
        channels = inf.dims.product([axes[-3], inf.fixed(factor, "pixel unshuffle" if factor > 1 else "size 1")])
    return [[*axes[:-3], channels, *space]]


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(inf: Inference, call: Call) -> Axes:
    axes, g = inf.axes(call.inputs[0]), call["groups"]
    outer, inner = inf.dims.split(axes[1], [g, inf.dims.sizes[axes[1]] // g])
    axes[1] = inf.dims.product([inner, outer])
    return [axes]


@rule("embedding", "_embedding_bag", "_embedding_bag_forward_only")
def _embedding(inf: Inference, call: Call) -> Axes:
    weight, index = call["weight"], call["indices"]
    w = inf.axes(weight)
    inf.dims.fix(w[0], "vocabulary")
    inf.role(weight, 1, "out")
    if call.name == "embedding":
        return [[*inf.axes(index), w[1]]]
    if (mode := call["mode"]) != 0:
        inf.label(w[1], ("sum", "mean", "max")[mode])
    bag = [inf.fixed(call.outs[0].shape[0], "bags"), w[1]]
    return [bag, *([inf.fixed(n, "bags") for n in t.shape] for t in call.outs[1:])]


@rule("index", "_unsafe_index")
def _index(inf: Inference, call: Call) -> Axes:
    x, indices = call.inputs[0], list(call["indices"])
    axes = inf.axes(x)
    run = _constant_run(call, indices)
    if run is not None:
        dim, start, n = run
        if n < x.shape[dim]:
            axes[dim] = inf.dims.cut(axes[dim], sorted({start, start + n}))[1 if start else 0]
        return [axes]
    spots: list[int] = []  # axes of x that are indexed; a boolean mask covers several
    masks, d = False, 0
    for index in indices:
        width = index.ndim if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        if index is not None:
            spots += range(d, d + width)
            masks = masks or index.dtype in (torch.bool, torch.uint8)
        d += width
    for s in spots:
        inf.dims.fix(axes[s], "indexed by a tensor")
    for index in (i for i in indices if i is not None):
        for a in inf.axes(index):
            inf.dims.fix(a, "used as an index")
    picked = call.outs[0].ndim - (x.ndim - len(spots))
    shape = call.outs[0].shape
    adjacent = spots == list(range(spots[0], spots[0] + len(spots))) and not any(
        i is None for i in indices[next(k for k, i in enumerate(indices) if i is not None) : _last(indices) + 1]
    )
    at = spots[0] if adjacent else 0
    rest = [a for i, a in enumerate(axes) if i not in spots]
    chosen = [inf.fixed(n, "indexed") for n in shape[at : at + picked]]
    for d in range(x.ndim):
        if d not in spots:
            inf.role(x, d, "out")
    return [[*rest[:at], *chosen, *rest[at:]]]


def _constant_run(call: Call, indices: Sequence[Tensor | None]) -> tuple[int, int, int] | None:
    """``x[:, [2, 3, 4]]`` is a slice: (axis, start, length) of a constant index that counts up by one."""
    given = [(d, i) for d, i in enumerate(indices) if i is not None]
    if len(given) != 1 or id(given[0][1]) not in call.flat or given[0][1].ndim != 1 or given[0][1].dtype == torch.bool:
        return None
    dim, index = given[0]
    size = call.inputs[0].shape[dim]
    positions = [int(p) % size for p in index]
    if not positions or positions != list(range(positions[0], positions[0] + len(positions))):
        return None
    return dim, positions[0], len(positions)


def _last(indices: Sequence[Tensor | None]) -> int:
    return max(k for k, i in enumerate(indices) if i is not None)


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def _index_put(inf: Inference, call: Call) -> Axes:
    x, values = call["self"], call["values"]
    axes, indices = inf.axes(x), list(call["indices"])
    spots: list[int] = []
    d = 0
    for index in indices:
        width = index.ndim if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        if index is not None:
            spots += range(d, d + width)
        d += width
    for s in spots:
        inf.dims.fix(axes[s], "indexed by a tensor")
    rest = [i for i in range(x.ndim) if i not in spots]
    plain = spots == list(range(len(spots)))  # then the other axes of the values come last, in order
    v = inf.axes(values)
    for back, i in enumerate(reversed(rest), 1):
        if plain and back <= len(v) and values.shape[-back] == x.shape[i]:
            inf.dims.unify(axes[i], v[-back])
        elif not plain:
            inf.dims.fix(axes[i], "written through an index")
    for a in v if not plain else v[: len(v) - len(rest)]:
        inf.dims.fix(a, "written through an index")
    return [axes]


@rule("index_select")
def _index_select(inf: Inference, call: Call) -> Axes:
    x, index = call.inputs[0], call["index"]
    dim = call["dim"] % max(x.ndim, 1)
    axes = inf.axes(x)
    n, m = x.shape[dim], index.shape[0]
    if id(index) in call.flat and m % n == 0:
        each = torch.arange(n, device=index.device).repeat_interleave(m // n)
        if torch.equal(index.long(), each):  # every position m/n times in a row
            copies = inf.dims.fresh(m // n, None if m > n else "size 1")
            axes[dim] = inf.dims.product([axes[dim], copies])
            return [axes]
    inf.dims.fix(axes[dim], "indexed by a tensor")
    axes[dim] = inf.fixed(m, "indexed")
    for d in range(x.ndim):
        if d != dim:
            inf.role(x, d, "out")
    return [axes]


@rule("index_add", "index_copy", "index_reduce")
def _index_add(inf: Inference, call: Call) -> Axes:
    x, source = call["self"], call["source"]
    dim = call["dim"] % x.ndim
    axes, s = inf.axes(x), inf.axes(source)
    for d in range(x.ndim):
        if d == dim:
            inf.dims.fix(axes[d], "written through an index")
            inf.dims.fix(s[d], "written through an index")
        else:
            inf.dims.unify(axes[d], s[d])
    return [axes]


@rule("gather", "scatter", "scatter_add", "scatter_reduce")
def _gather(inf: Inference, call: Call) -> Axes:
    x, index = call["self"], call["index"]
    dim = call["dim"] % max(x.ndim, 1)
    axes, ix = inf.axes(x), inf.axes(index)
    others = [index] + ([call["src"]] if call.name != "gather" and isinstance(call.args[3], Tensor) else [])
    inf.dims.fix(axes[dim], "indexed by a tensor")
    for d in range(x.ndim):
        for t in others:
            a = inf.axes(t)[d]
            if d == dim or t.shape[d] != x.shape[d]:
                inf.dims.fix(a, "used as an index" if d == dim else call.name)
                if d != dim:
                    inf.dims.fix(axes[d], call.name)
            else:
                inf.dims.unify(axes[d], a)
    if call.name == "gather":
        return [[inf.fixed(index.shape[d], "indexed") if d == dim else ix[d] for d in range(x.ndim)]]
    return [axes]


@rule("_pack_padded_sequence")
def _pack(inf: Inference, call: Call) -> Axes:
    x, out = call.inputs[0], call.outs[0]
    axes = inf.axes(x)
    for a in axes[:2]:
        inf.dims.fix(a, "time")
    return [[inf.fixed(out.shape[0], "time"), *axes[2:]], [inf.fixed(call.outs[1].shape[0], "time")]]


@rule("_pad_packed_sequence")
def _unpack(inf: Inference, call: Call) -> Axes:
    axes = inf.axes(call.inputs[0])
    inf.dims.fix(axes[0], "time")
    out = call.outs[0]
    return [[inf.fixed(n, "time") for n in out.shape[:2]] + axes[1:], [inf.fixed(call.outs[1].shape[0], "time")]]

"""Operators that move values about: reshapes, slices, concatenations, padding."""

from __future__ import annotations

from collections.abc import Sequence

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
        [axes[d - lead] if d >= lead and x.shape[d - lead] == n else inf.dims.copies(n) for d, n in enumerate(shape)]
    ]


@rule("repeat", "tile")
def _repeat(inf: Inference, call: Call) -> Axes:
    x = call.inputs[0]
    times = list(call["repeats"] if call.name == "repeat" else call["dims"])
    times = [1] * (x.ndim - len(times)) + times
    axes, lead = inf.axes(x), len(times) - x.ndim
    out = []
    for d, r in enumerate(times):
        copies = inf.dims.copies(r)
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
    _produced(inf, tensors)
    return rows[0]


def _produced(inf: Inference, tensors: Sequence[Tensor]) -> None:
    if not all(inf.is_weight(t) for t in tensors):
        for t in tensors:  # a learned token among activations produces the units it is made of
            for d in range(t.ndim):
                inf.role(t, d, "out")


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
    rows = [inf.axes(t) for t in tensors]
    which = inf.fixed(len(tensors), "stack" if len(tensors) > 1 else "size 1")
    axes = [inf.dims.piled(which, nodes) if len(nodes) > 1 else nodes[0] for nodes in zip(*rows, strict=True)]
    _produced(inf, tensors)
    axes.insert(dim, which)
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
        axes[d] = inf.dims.sum([inf.dims.copies(lo), axes[d], inf.dims.copies(hi)])
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


@rule("im2col", "col2im")
def _patches(inf: Inference, call: Call) -> Axes:
    """Patches of an image laid out as channels × kernel, and back."""
    x, out = call.inputs[0], call.outs[0]
    axes = inf.axes(x)
    if call.name == "im2col":
        for a in axes[2:]:
            inf.dims.fix(a, "space")
        kernel = out.shape[1] // x.shape[1]
        channels = inf.dims.product([axes[1], inf.fixed(kernel, "patch" if kernel > 1 else "size 1")])
    else:
        inf.dims.fix(axes[2], "space")
        channels, spots = inf.dims.split(axes[1], [out.shape[1], x.shape[1] // out.shape[1]])
        inf.dims.fix(spots, "patch")
    return [[axes[0], channels, *(inf.fixed(n, "space") for n in out.shape[2:])]]


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(inf: Inference, call: Call) -> Axes:
    axes, g = inf.axes(call.inputs[0]), call["groups"]
    outer, inner = inf.dims.split(axes[1], [g, inf.dims.sizes[axes[1]] // g])
    axes[1] = inf.dims.product([inner, outer])
    return [axes]

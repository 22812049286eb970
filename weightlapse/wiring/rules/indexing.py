"""Operators that read or write at positions given by other tensors: embeddings, indexing, gather and scatter, packed sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightlapse.wiring.infer import Inference
from weightlapse.wiring.record import Call
from weightlapse.wiring.rules.table import Axes, rule


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
    d = 0
    for index in indices:
        width = index.ndim if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        if index is not None:
            spots += range(d, d + width)
        d += width
    routed = _route(inf, call, x, indices)
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
    if routed and x.ndim > 2:
        inf.picks.add(id(call))
    if routed:
        rest = [inf.dims.at(a, axes[spots[0]], routed, inf.dims.product(chosen)) for a in rest]
    for s in spots:
        inf.dims.fix(axes[s], "indexed by a tensor")
    for d in range(x.ndim) if id(call) not in inf.picks else ():
        if d not in spots:
            inf.role(x, d, "out")
    return [[*rest[:at], *chosen, *rest[at:]]]


def _route(inf: Inference, call: Call, x: Tensor, indices: Sequence[Tensor | None]) -> bytes:
    """Which position of a weight each row takes, when one tensor of whole numbers says so (an expert for each token)."""
    given = [i for i in indices if i is not None]
    if len(given) != 1 or not inf.is_weight(x) or given[0].dtype in (torch.bool, torch.uint8):
        return b""
    return route(call, given[0])


def route(call: Call, positions: Tensor) -> bytes:
    value = call.value(positions)
    if value is None:  # without values, the tensor itself has to be the same one
        return b"at %d" % id(positions)
    return value.detach().to(device="cpu", dtype=torch.int64).contiguous().numpy().tobytes()


def _constant_run(call: Call, indices: Sequence[Tensor | None]) -> tuple[int, int, int] | None:
    """``x[:, [2, 3, 4]]`` is a slice: (axis, start, length) of a constant index that counts up by one."""
    given = [(d, i) for d, i in enumerate(indices) if i is not None]
    if len(given) != 1 or id(given[0][1]) not in call.flat or given[0][1].ndim != 1 or given[0][1].dtype == torch.bool:
        return None
    dim, index = given[0]
    size = call.inputs[0].shape[dim]
    value = call.value(index)
    positions = [] if value is None else [int(p) % size for p in value]
    if not positions or positions != list(range(positions[0], positions[0] + len(positions))):
        return None
    return dim, positions[0], len(positions)


def _last(indices: Sequence[Tensor | None]) -> int:
    return max(k for k, i in enumerate(indices) if i is not None)


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def _index_put(inf: Inference, call: Call) -> Axes:
    x, values = call["self"], call["values"]
    axes, indices = inf.axes(x), list(call["indices"])
    mask = indices[0] if len(indices) == 1 else None
    if mask is not None and mask.dtype == torch.bool and mask.shape == x.shape and values.numel() == 1:
        for a, b in zip(axes, inf.axes(mask), strict=True):  # one number where the mask says so: position by position
            inf.dims.unify(a, b)
            inf.label(a, "index_put")
        return [axes]
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
    if not x.ndim:
        return [inf.axes(x)]
    dim, axes = call["dim"] % x.ndim, inf.axes(x)
    n, m = x.shape[dim], index.shape[0]
    value = call.value(index) if id(index) in call.flat else None
    if value is not None and m % n == 0:
        each = torch.arange(n, device=value.device).repeat_interleave(m // n)
        if torch.equal(value.long(), each):  # every position m/n times in a row
            copies = inf.dims.copies(m // n)
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
    if not x.ndim:
        return [inf.axes(x)]
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
    if not x.ndim:
        return [[inf.fixed(n, "indexed") for n in call.outs[0].shape]]
    dim = call["dim"] % x.ndim
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

"""Operators that contract axes: matrix products, convolutions, attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weightlapse.wiring.infer import Inference
from weightlapse.wiring.record import Call
from weightlapse.wiring.rules.indexing import route
from weightlapse.wiring.rules.table import Axes, rule

CONTRACTION = (
    "activation contraction: two activations are multiplied and summed over these units, so more of them change the sum"
)


def contract(inf: Inference, x: Tensor, i: int, w: Tensor, j: int) -> None:
    """Axis ``i`` of ``x`` and axis ``j`` of ``w`` are multiplied and summed."""
    a, b = inf.axes(x)[i], inf.axes(w)[j]
    inf.dims.unify(a, b)
    weights = inf.is_weight(x), inf.is_weight(w)
    if not any(weights):
        inf.block(a, CONTRACTION)
        inf.label(a, "contraction")
    elif all(weights):  # by convention the left one is data: a learned latent, or the outer factor of a low-rank pair
        inf.role(x, i, "out")
        inf.role(w, j, "in")
    else:
        inf.role(x, i, "in")
        inf.role(w, j, "in")


def produce(inf: Inference, w: Tensor, axis: int, x: Tensor) -> None:
    """Axis ``axis`` of the weight ``w`` becomes an axis of the result."""
    if inf.is_weight(w):
        inf.role(w, axis, "out" if not inf.is_weight(x) or w is not x else "add")


def _matmul(inf: Inference, a: Tensor, b: Tensor, batch: int) -> list[int]:
    """(batch.., m, k) @ (batch.., k, n), with k or n absent for vectors."""
    x, y = inf.axes(a), inf.axes(b)
    for d in range(batch):
        inf.dims.unify(x[d], y[d])
        if inf.is_weight(a) != inf.is_weight(b):
            inf.role(a if inf.is_weight(a) else b, d, "out")
    contract(inf, a, a.ndim - 1, b, batch)
    if inf.is_weight(a) and not inf.is_weight(b) and a.ndim > batch + 1:
        inf.role(a, batch, "out")
    if inf.is_weight(b) and b.ndim > batch + 1:
        inf.role(b, batch + 1, "out")
    return [*x[: a.ndim - 1], *y[batch + 1 :]]


@rule("mm", "mv", "dot", "vdot", "bmm", "_sparse_mm")
def _mm(inf: Inference, call: Call) -> Axes:
    a, b = call.inputs[:2]
    return [_matmul(inf, a, b, 1 if call.name == "bmm" else 0)]


@rule("_grouped_mm", "_scaled_grouped_mm", "transformers::grouped_mm_fallback")
def _grouped_mm(inf: Inference, call: Call) -> Axes:
    """Rows in runs, each run with a matrix of its own: (rows, k) and (experts, k, n), the runs' ends in ``offs``."""
    x, w = call.inputs[:2]
    names = [a.name for a in call.func._schema.arguments]
    offs = call["offs"]
    if offs is None and x.ndim == w.ndim == 3:
        return [_matmul(inf, x, w, 1)]
    if x.ndim != 2 or w.ndim != 3 or offs is None:
        from weightlapse.wiring.rules.opaque import give_up

        return give_up(inf, call, f"opaque op {call.name} (rows in runs on both sides)")
    rows, k = inf.axes(x)
    experts, inner, outer = inf.axes(w)
    inf.dims.fix(rows, "rows in runs, one for each matrix")
    which = route(call, _run_of(call, offs, x.shape[0]))
    inner, outer = (inf.dims.at(a, experts, which, rows) for a in (inner, outer))
    inf.dims.fix(experts, "which matrix a row meets is computed")
    inf.dims.unify(k, inner)
    if inf.is_weight(w):
        inf.role(w, 1, "in")
        inf.role(w, 2, "out")
    else:
        inf.block(k, CONTRACTION)
    if inf.is_weight(x):
        inf.role(x, 1, "out")
    out = [rows, outer]
    if "bias" in names and call["bias"] is not None:
        _, b = inf.axes(call["bias"])
        inf.dims.unify(inf.dims.at(b, experts, which, rows), outer)
        inf.role(call["bias"], 1, "add")
    return [out]


def _run_of(call: Call, ends: Tensor, rows: int) -> Tensor:
    """The number of the run that each row lies in; the tensor of ends itself when it has no values."""
    value = call.value(ends)
    if value is None:
        return ends
    return torch.searchsorted(value.detach().cpu().to(torch.int64), torch.arange(rows), right=True)


@rule("addmm", "_sparse_addmm", "addmv", "baddbmm", "_addmm_activation", "addbmm", "addr")
def _addmm(inf: Inference, call: Call) -> Axes:
    bias, a, b = call.inputs[:3]
    if call.name == "addr":
        out = [inf.axes(a)[0], inf.axes(b)[0]]
    elif call.name == "addbmm":
        out = _matmul(inf, a, b, 1)[1:]
        inf.dims.occur(out)
    else:
        out = _matmul(inf, a, b, 1 if call.name == "baddbmm" else 0)
    if call["beta"] != 0:
        add_bias(inf, bias, out, call)
    if call.name == "_addmm_activation":
        for a_ in out:
            inf.label(a_, "relu")
    return [out]


def add_bias(inf: Inference, bias: Tensor | None, out: list[int], call: Call) -> None:
    if bias is None:
        return
    b = inf.axes(bias)
    for back in range(1, bias.ndim + 1):
        if bias.shape[-back] == call.outs[0].shape[-back]:
            inf.dims.unify(out[-back], b[-back])
        if not all(inf.is_weight(t) for t in call.inputs):
            inf.role(bias, bias.ndim - back, "add")


@rule("inner")
def _inner(inf: Inference, call: Call) -> Axes:
    """Sums over the last axes of both; a number times anything is opaque."""
    a, b = call.inputs[:2]
    if not a.ndim or not b.ndim:
        from weightlapse.wiring.rules.opaque import probe

        return probe(inf, call)
    contract(inf, a, a.ndim - 1, b, b.ndim - 1)
    for t in (a, b):
        if inf.is_weight(t) and t.ndim > 1:
            inf.role(t, t.ndim - 2, "out")
    return [[*inf.axes(a)[:-1], *inf.axes(b)[:-1]]]


@rule("linear", "matmul")
def _linear(inf: Inference, call: Call) -> Axes:
    x, w = call.inputs[:2]
    if call.name == "matmul":
        from weightlapse.wiring.rules.opaque import probe

        return probe(inf, call)
    contract(inf, x, x.ndim - 1, w, w.ndim - 1)
    out = inf.axes(x)[:-1]
    if w.ndim == 2:
        inf.role(w, 0, "out")
        out.append(inf.axes(w)[0])
    add_bias(inf, call["bias"], out, call)
    return [out]


@rule("_trilinear")
def _trilinear(inf: Inference, call: Call) -> Axes:
    """Three factors, each widened by size-1 axes, multiplied element by element, and summed over ``sumdim``."""
    factors = [call["i1"], call["i2"], call["i3"]]
    rows: list[list[int | None]] = []
    for t, where in zip(factors, (call["expand1"], call["expand2"], call["expand3"]), strict=True):
        row: list[int | None] = list(inf.axes(t))
        for d in sorted(where):
            row.insert(d, None)
        rows.append(row)
    full: list[int] = []
    for d in range(len(rows[0])):
        nodes = [row[d] for row in rows if row[d] is not None]
        for n in nodes[1:]:
            inf.dims.unify(nodes[0], n)  # type: ignore[arg-type]
        full.append(nodes[0])  # type: ignore[arg-type]
        present = [(t, row) for t, row in zip(factors, rows, strict=True) if row[d] is not None]
        for t, row in present:
            axis = sum(r is not None for r in row[:d])
            inf.role(t, axis, "in" if d in call["sumdim"] else "out")
        if d in call["sumdim"] and not any(inf.is_weight(t) for t, _ in present):
            inf.block(full[d], CONTRACTION)
    return [[n for d, n in enumerate(full) if d not in call["sumdim"]]]


@rule("convolution", "_convolution", "cudnn_convolution", "mkldnn_convolution", "convolution_overrideable")
def _convolution(inf: Inference, call: Call) -> Axes:
    x, w = call.inputs[:2]
    bias, groups, transposed = call["bias"], call["groups"], call["transposed"]
    xa, wa, out = inf.axes(x), inf.axes(w), call.outs[0]
    cin, cout = (0, 1) if transposed else (1, 0)
    outer, inner = wa[cin if transposed else cout], wa[cout if transposed else cin]
    if groups == 1:
        contract(inf, x, 1, w, cin)
        channels = wa[cout]
        inf.role(w, cout, "out")
    else:
        channels = _grouped(inf, x, w, outer, inner, groups, transposed)
    plain = all(k == 1 for k in w.shape[2:]) and all(s == 1 for s in call["stride"]) and not any(call["padding"])
    space = []
    for d in range(2, x.ndim):
        if plain and x.shape[d] == out.shape[d]:
            space.append(xa[d])
            continue
        inf.dims.fix(xa[d], "space (a convolution slides along it)")
        space.append(inf.fixed(out.shape[d], "space"))
    for a in wa[2:]:
        inf.dims.fix(a, "conv kernel")
    axes = [xa[0], channels, *space]
    if bias is not None:
        inf.dims.unify(channels, inf.axes(bias)[0])
        inf.role(bias, 0, "add")
    return [axes]


def _grouped(inf: Inference, x: Tensor, w: Tensor, outer: int, inner: int, groups: int, transposed: bool) -> int:
    """Each of ``groups`` blocks of input channels feeds its own block of output channels."""
    dims = inf.dims
    block, within = dims.split(outer, [groups, dims.sizes[outer] // groups])
    into, out = (within, inner) if transposed else (inner, within)
    dims.unify(inf.axes(x)[1], dims.product([block, into]))
    inf.role(w, 0, "out", block)
    inf.role(w, 0, "in" if transposed else "out", within)
    inf.role(w, 1, "out" if transposed else "in")
    if dims.sizes[into] > 1:
        why = f"grouped conv: {groups} blocks of channels, each of a size that the layer keeps in its code"
        for n in (block, into, out):
            inf.block(n, why)
    inf.label(block, "depthwise conv" if dims.sizes[into] == 1 else "grouped conv")
    return dims.product([block, out])


@rule(
    "scaled_dot_product_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
def _attention(inf: Inference, call: Call) -> Axes:
    q, k, v = call.inputs[:3]
    qa, ka, va = inf.axes(q), inf.axes(k), inf.axes(v)
    for i in range(q.ndim - 2):
        if q.shape[i] == k.shape[i]:
            inf.dims.unify(qa[i], ka[i])
            inf.dims.unify(ka[i], va[i])
        else:  # fewer key-value heads than query heads: each serves a run of query heads
            inf.dims.unify(qa[i], inf.dims.product([ka[i], inf.dims.fresh(q.shape[i] // k.shape[i])]))
            inf.dims.unify(ka[i], va[i])
    inf.dims.unify(qa[-1], ka[-1])
    inf.dims.unify(ka[-2], va[-2])
    inf.block(qa[-1], CONTRACTION)
    inf.label(qa[-1], "attention scores")
    if call["is_causal"]:
        inf.dims.fix(qa[-2], "time (causal attention)")
        inf.dims.fix(ka[-2], "time (causal attention)")
    scores = [*qa[:-1], ka[-2]]
    _masked(inf, call, scores)
    inf.dims.occur(scores)
    inf.mixes(scores, [len(scores) - 1], "softmax")
    result = [*qa[:-1], va[-1]]
    first = call.outs[0]
    rest: list[list[int]] = [_like(inf, t, scores, call) for t in call.outs[1:]]
    return [result if first.ndim == len(result) else [inf.fixed(n, "attention") for n in first.shape], *rest]


def _masked(inf: Inference, call: Call, scores: list[int]) -> None:
    mask: Any = next(
        (call[n] for n in ("attn_mask", "attn_bias") if any(a.name == n for a in call.func._schema.arguments)), None
    )
    if not isinstance(mask, Tensor):
        return
    for back, m in enumerate(reversed(inf.axes(mask)), 1):
        if mask.shape[-back] > 1:
            inf.dims.unify(scores[-back], m)
            inf.role(mask, mask.ndim - back, "add")


def _like(inf: Inference, t: Tensor, scores: list[int], call: Call) -> list[int]:
    if t.ndim == len(scores) - 1:
        return scores[:-1]
    return scores if t.ndim == len(scores) else [inf.fixed(n, call.name) for n in t.shape]

"""Operators that compute across positions: norms, softmax, reductions, pooling."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from weightlapse.wiring.infer import Inference
from weightlapse.wiring.operators import storage_of
from weightlapse.wiring.record import Call
from weightlapse.wiring.rules.table import Axes, rule

_UNEVEN = "a statistic over the units, which changes unless every unit is replicated equally often"


def affine(inf: Inference, node: int, **tensors: Tensor | None) -> None:
    """The vectors of a norm run along ``node``; the keyword is their role."""
    for role, t in tensors.items():
        if t is not None:
            inf.dims.unify(node, inf.axes(t)[-1])
            inf.role(t, t.ndim - 1, role.split("_")[0])


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "batch_norm",
      "_batch_norm_with_update", "_batch_norm_no_update", "miopen_batch_norm", "_batch_norm_impl_index")  # fmt: skip
def _batch_norm(inf: Inference, call: Call) -> Axes:
    x = call.inputs[0]
    axes = inf.axes(x)
    names = {a.name for a in call.func._schema.arguments}
    mean = call["running_mean"] if "running_mean" in names else None
    var = call["running_var"] if "running_var" in names else None
    affine(inf, axes[1], mul=call["weight"], add=call["bias"], stat_1=mean, stat_2=var)
    inf.label(axes[1], "batch_norm")
    inf.dims.occur([axes[1]])
    return [
        axes,
        *(
            [
                [axes[1]] if t.ndim == 1 and t.shape[0] == x.shape[1] else [inf.fixed(n, "statistics") for n in t.shape]
                for t in call.outs[1:]
            ]
        ),
    ]


@rule("native_layer_norm", "layer_norm", "rms_norm", "_fused_rms_norm")
def _layer_norm(inf: Inference, call: Call) -> Axes:
    x = call.inputs[0]
    axes, n = inf.axes(x), len(call["normalized_shape"])
    kind = "rms_norm" if "rms" in call.name else "layer_norm"
    names = {a.name for a in call.func._schema.arguments}
    for role, t in (("mul", call["weight"]), ("add", call["bias"] if "bias" in names else None)):
        if t is not None:
            for a, b in zip(axes[-n:], inf.axes(t), strict=True):
                inf.dims.unify(a, b)
            for d in range(t.ndim):
                inf.role(t, d, role)
    for a in axes[-n:]:
        inf.block(a, f"{kind}: {_UNEVEN}")
    inf.mixes(axes, range(len(axes) - n, len(axes)), kind)
    return [axes, *([*axes[:-n], *(inf.fixed(1, "size 1") for _ in range(n))][: t.ndim] for t in call.outs[1:])]


@rule("native_group_norm", "group_norm")
def _group_norm(inf: Inference, call: Call) -> Axes:
    x = call.inputs[0]
    axes = inf.axes(x)
    groups = call["group"] if call.name == "native_group_norm" else call["num_groups"]
    for role, t in (("mul", call["weight"]), ("add", call["bias"])):
        affine(inf, axes[1], **{role: t})
    block, within = inf.dims.split(axes[1], [groups, x.shape[1] // groups])
    for node in (block, within):
        inf.label(node, "group_norm")
        inf.block(node, f"group_norm: {_UNEVEN}")
    inf.dims.occur([axes[0], block])
    return [axes, *([axes[0], block] for _ in call.outs[1:])]


@rule("_weight_norm_interface", "_weight_norm")
def _weight_norm(inf: Inference, call: Call) -> Axes:
    v, g = call.inputs[:2]
    axes, dim = inf.axes(v), call["dim"] % v.ndim
    for a, b, n in zip(axes, inf.axes(g), g.shape, strict=True):
        if n > 1:
            inf.dims.unify(a, b)
    over = [d for d in range(v.ndim) if d != dim]
    for d in over:
        inf.block(axes[d], "weight_norm: the norm of the weight runs over these units")
    inf.mixes(axes, over, "weight_norm")
    return [axes, *(inf.axes(g) for _ in call.outs[1:])]


@rule("_softmax", "softmax", "_log_softmax", "log_softmax", "_safe_softmax")
def _softmax(inf: Inference, call: Call) -> Axes:
    axes = inf.axes(call.inputs[0])
    if not axes:
        return [axes]
    dim = call["dim"] % len(axes)
    inf.block(axes[dim], f"softmax: {_UNEVEN}")
    inf.mixes(axes, [dim], "softmax")
    return [axes]


@rule("glu")
def _glu(inf: Inference, call: Call) -> Axes:
    axes = inf.axes(call.inputs[0])
    dim = call["dim"] % len(axes)
    half = inf.dims.sizes[axes[dim]] // 2
    a, b = inf.dims.cut(axes[dim], [half])
    inf.dims.unify(a, b)
    inf.label(a, "glu")
    axes[dim] = a
    return [axes]


_REDUCE = (
    "sum mean amax amin max min var std var_mean std_mean prod linalg_vector_norm norm any all logsumexp nansum nanmean count_nonzero "
    "median aminmax"
).split()


@rule(*_REDUCE)
def _reduce(inf: Inference, call: Call) -> Axes:
    x = call.inputs[0]
    if call.name in ("max", "min") and call.func._overloadname == "other":
        from weightlapse.wiring.rules.table import pointwise

        return pointwise(inf, call)
    names = {a.name for a in call.func._schema.arguments}
    dim = call["dim"] if "dim" in names else None
    dims = range(x.ndim) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    over = {d % x.ndim for d in dims} if x.ndim else set()
    axes = inf.axes(x)
    if call.name in ("max", "min", "median") and len(call.outs) == 2:
        _positions(inf, call, axes, over)
    squares = call.name == "mean" and inf.made_by.get(id(x)) in ("pow", "square")
    for d in over:
        inf.block(axes[d], f"{'rms_norm (mean of squares)' if squares else call.name}: {_UNEVEN}")
    inf.mixes(axes, over, "rms_norm" if squares else call.name)
    keep = "keepdim" in names and call["keepdim"]
    out = [inf.fixed(1, "size 1") if d in over else a for d, a in enumerate(axes) if keep or d not in over]
    return [list(out) for _ in call.outs]


def _positions(inf: Inference, call: Call, axes: list[int], over: Iterable[int]) -> None:
    """The second result says *which* unit won: if anybody reads it, the order of the units matters."""
    where = storage_of(call.outs[1])
    calls = inf._tape.calls
    if any(c.live and any(storage_of(t) == where for t in c.inputs) for c in calls) or any(
        storage_of(t) == where for t in inf._tape.outputs
    ):
        for d in over:
            inf.dims.fix(axes[d], f"{call.name} returns positions along it")


_POOLS = ("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
          "adaptive_avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
          "adaptive_max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d_with_indices", "fractional_max_pool2d",
          "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
          "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
          "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d",
          "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")  # fmt: skip


@rule(*_POOLS)
def _pool(inf: Inference, call: Call) -> Axes:
    x = call.inputs[0]
    axes = inf.axes(x)
    spatial = next(int(c) for c in call.name if c in "123")
    for a in axes[-spatial:]:
        inf.dims.fix(a, "space")
    for a in axes[:-spatial]:
        inf.label(a, call.name.removesuffix("_with_indices").lstrip("_"))
    return [[*axes[:-spatial], *(inf.fixed(n, "space") for n in t.shape[-spatial:])] for t in call.outs]


@rule("_thnn_fused_lstm_cell", "_thnn_fused_gru_cell")
def _fused_cell(inf: Inference, call: Call) -> Axes:
    """One step of an LSTM or GRU on a GPU: the gates lie one after the other, each with the units of the state."""
    state = call["cx"] if "lstm" in call.name else call["hx"]
    axes, units = inf.axes(state), state.shape[-1]
    gates = [t for t in call.inputs if t is not state]
    for t in gates:
        edges = [units * i for i in range(1, t.shape[-1] // units)]
        for piece in inf.dims.cut(inf.axes(t)[-1], edges):
            inf.dims.unify(axes[-1], piece)
        if t.ndim == 2:
            inf.dims.unify(axes[0], inf.axes(t)[0])
        inf.role(t, t.ndim - 1, "add")
    inf.label(axes[-1], "recurrent cell")
    return [axes if t.shape[-1] == units else [axes[0], inf.fixed(t.shape[-1], "workspace")] for t in call.outs]

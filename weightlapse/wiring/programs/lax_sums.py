"""JAX primitives that sum: products, convolutions, pooling, reductions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from weightlapse.errors import CannotTrace
from weightlapse.wiring.programs.contractions import contracted, convolved, pooled
from weightlapse.wiring.programs.jaxpr import Interpreter, Value, primitive

Params = Mapping[str, Any]


@primitive("dot_general")
def _dot_general(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    (left, right), (left_batch, right_batch) = params["dimension_numbers"]
    x, y = args
    dtype = it.dtype(eqn.outvars[0].aval.dtype)
    if x.dtype != y.dtype or x.dtype != dtype:
        wide = torch.promote_types(torch.promote_types(x.dtype, y.dtype), dtype)
        x, y = x.to(wide), y.to(wide)
    return contracted(x, y, left, right, left_batch, right_batch).to(dtype)


@primitive("conv_general_dilated")
def _convolution(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    x, w = args
    spec = params["dimension_numbers"]
    if params["batch_group_count"] != 1:
        raise CannotTrace(
            "the program convolves groups of samples (batch_group_count), which its trace cannot follow; write its wiring as a spec"
        )
    x, w = x.permute(spec.lhs_spec), w.permute(spec.rhs_spec)
    between = [0, 0, *(d - 1 for d in params["lhs_dilation"])]
    pads = [(0, 0), (0, 0), *(tuple(map(int, p)) for p in params["padding"])]
    out = convolved(
        x, w, params["window_strides"], params["rhs_dilation"], pads, between, params["feature_group_count"]
    )
    back = [0] * out.ndim
    for own, axis in enumerate(spec.out_spec):
        back[axis] = own
    return out.permute(back)


# ---- pooling


@primitive("reduce_window_max", "reduce_window_min", "reduce_window_sum", "reduce_window")
def _window(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    kind = eqn.primitive.name.removeprefix("reduce_window").strip("_")
    if not kind:
        inner = params.get("jaxpr")
        called = {e.primitive.name for e in inner.eqns} if inner is not None else set()
        kind = {"add": "sum"}.get(next(iter(called), ""), next(iter(called), ""))
    if kind not in ("max", "min", "sum") or any(d != 1 for d in (*params["base_dilation"], *params["window_dilation"])):
        raise CannotTrace(
            "the program reduces windows in a way of its own (reduce_window), which its trace cannot follow"
        )
    x = args[0]
    window, strides, pads = (list(params[k]) for k in ("window_dimensions", "window_strides", "padding"))
    return pooled(x, kind, window, strides, [tuple(map(int, p)) for p in pads])


# ---- reductions


@primitive("reduce_sum")
def _sum(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    axes = list(params["axes"])
    return it.summed(args[0].sum(axes), args[0], axes) if axes else args[0]


@primitive("reduce_max")
def _max(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    return args[0].amax(list(params["axes"])) if params["axes"] else args[0]


@primitive("reduce_min")
def _min(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    return args[0].amin(list(params["axes"])) if params["axes"] else args[0]


@primitive("reduce_prod", "reduce_and", "reduce_or")
def _one_by_one(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    function: Any = {"reduce_prod": torch.prod, "reduce_and": torch.all, "reduce_or": torch.any}[eqn.primitive.name]
    x = args[0]
    for axis in sorted(params["axes"], reverse=True):
        x = function(x, axis)
    return x  # type: ignore[no-any-return]


@primitive("argmax", "argmin")
def _arg(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    function: Any = torch.argmax if eqn.primitive.name == "argmax" else torch.argmin
    return function(args[0], params["axes"][0])  # type: ignore[no-any-return]


@primitive("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def _cumulative(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    name = {"cumlogsumexp": "logcumsumexp"}.get(eqn.primitive.name, eqn.primitive.name)
    function, axis = getattr(torch, name), params["axis"]
    x = torch.flip(args[0], [axis]) if params["reverse"] else args[0]
    out = function(x, axis)
    out = out[0] if isinstance(out, tuple) else out
    return torch.flip(out, [axis]) if params["reverse"] else out

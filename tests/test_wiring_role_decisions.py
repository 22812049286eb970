"""What a rule says of the tensors of one operator: what is free, which weights make, read, shift or multiply units, what acts on them, and why there cannot be more.

Operators are handed to their rules as they are, for torch takes many apart before a recorder sees them. Tensors are data (d) or weights (w); whole numbers are neither.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.test_wiring_decisions import of_node
from tests.test_wiring_rule_decisions import rand, reordered, whole
from weightlapse.wiring.infer import Inference, Typed, _is_expanded
from weightlapse.wiring.operators import tensors_among
from weightlapse.wiring.record import Call, Tape
from weightlapse.wiring.rules.opaque import _Experiment
from weightlapse.wiring.rules.table import is_pointwise, pointwise
from weightlapse.wiring.trace import rule_of

aten = torch.ops.aten


def grouped_mm(x: Tensor, w: Tensor, ends: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows in runs, each with a matrix of its own, in a loop."""
    starts = [0, *ends.tolist()]
    parts = [x[a:b] @ m for a, b, m in zip(starts, ends.tolist(), w, strict=False)]
    return torch.cat(parts)


#: operators that this machine cannot run in double precision, or that take more than tensors and numbers in order
BY_HAND: dict[Any, Callable[..., Any]] = {
    aten._grouped_mm.default: grouped_mm,
    aten.scaled_dot_product_attention.default: lambda q, *rest: F.scaled_dot_product_attention(
        q, *rest, enable_gqa=q.shape[1] != rest[0].shape[1]
    ),
}


def asked(
    op: Any, kinds: str, args: tuple[Any, ...]
) -> tuple[Inference, list[Tensor], list[list[int]], list[list[int]]]:
    """The inference after the rule of an operator; its tensors and what their axes and those of the results are made of."""
    tensors = tensors_among(args)
    floats = [t for t in tensors if t.is_floating_point()]
    assert len(kinds) == len(floats)
    number = {id(t): i for i, t in enumerate(tensors)}
    weights = {f"x{number[id(t)]}": t for t, kind in zip(floats, kinds, strict=True) if kind == "w"}
    inf = Inference(weights, set(weights))
    for t in tensors:
        if id(t) not in inf.types:
            free = [inf.dims.fresh(n) if t.is_floating_point() else inf.fixed(n, "input") for n in t.shape]
            inf.types[id(t)] = Typed(free, None)
    outs = tensors_among((BY_HAND.get(op, op)(*args),))
    call = Call(op, args, {}, tensors, outs, [])
    inf._tape = Tape([call], [], [], [], [], set(), {}, set())
    results = rule_of(call)(inf, call)
    assert [len(axes) for axes in results] == [t.ndim for t in outs]
    for selector, instances in inf.dims.cases.values():
        assert all(isinstance(p, bytes) or 0 <= p < inf.dims.sizes[selector] for p in instances)
    for axes in results:
        inf.dims.occur(axes)
        leaves = [leaf for a in axes for leaf in inf.dims.leaves(a)]
        assert all(inf.dims.reason(leaf) != "size 1" or inf.dims.sizes[leaf] <= 1 for leaf in leaves)
    return inf, tensors, [inf.axes(t) for t in tensors], results


def orders(op: Any, kinds: str, args: tuple[Any, ...]) -> int:
    """How many orders of the tensors are let free; each is tried."""
    inf, tensors, axes, results = asked(op, kinds, args)
    dims = inf.dims
    every = {leaf for row in [*axes, *results] for a in row for leaf in dims.leaves(a)}
    for leaf in every & set(dims.cases):
        dims.occur([leaf])
    leaves = sorted({x for leaf in every for x in dims.leaves(leaf) if dims.is_free(x)})
    run = BY_HAND.get(op, op)
    before, found = tensors_among((run(*args),)), set()
    for choice in itertools.product(*(itertools.permutations(range(dims.sizes[leaf])) for leaf in leaves)):
        chosen = dict(zip(leaves, choice, strict=True))
        mine = [[of_node(dims, a, chosen) for a in row] for row in axes]
        moved = {id(t): reordered(t, o) for t, o in zip(tensors, mine, strict=True)}
        after = tensors_among((run(*_replaced(args, moved)),))
        for old, new, row in zip(before, after, results, strict=True):
            want = reordered(old, [of_node(dims, a, chosen) for a in row])
            assert torch.allclose(new.double(), want.double(), rtol=1e-9, atol=1e-9, equal_nan=True), chosen
        found.add(tuple(map(tuple, mine)))
    return len(found)


def _replaced(value: Any, by: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return by[id(value)]
    return type(value)(_replaced(v, by) for v in value) if isinstance(value, (list, tuple)) else value


def said(op: Any, kinds: str, args: tuple[Any, ...]) -> str:
    """Roles of the weights; then operators (with @) and reasons against more units (with !), each with the first axis that is meant."""
    inf, _, axes, results = asked(op, kinds, args)
    rows = {f"x{i}[{d}]": n for i, row in enumerate(axes) for d, n in enumerate(row)}
    rows |= {f"y{i}[{d}]": n for i, row in enumerate(results) for d, n in enumerate(row)}

    def place(node: int) -> str:
        leaves = set(inf.dims.leaves(node))
        exact = [p for p, n in rows.items() if inf.dims.find(n) == inf.dims.find(node)]
        return next(iter(exact or [p for p, n in rows.items() if leaves & set(inf.dims.leaves(n))]), "?")

    roles = dict.fromkeys(f"{name}[{axis}] {role}" for name, axis, _, role in inf.roles)
    labels = dict.fromkeys(f"@{name} {place(n)}" for n, name in inf.labels if inf.dims.sizes[n] > 1)
    blocks = dict.fromkeys(f"!{why[:12].strip()} {place(n)}" for n, why in inf.blocks if inf.dims.sizes[n] > 1)
    return ", ".join([*sorted(roles), *labels, *blocks])


L = [False, True]
# an operator, its tensors' kinds, arguments, how many orders are free, what is said
CASES: dict[str, tuple[Any, str, tuple[Any, ...], int, str]] = {
    "mm": (aten.mm.default, "dw", (rand(2, 3), rand(3, 4)), 2 * 6 * 24, "x1[0] in, x1[1] out"),
    "mm_from_left": (aten.mm.default, "wd", (rand(2, 3), rand(3, 4)), 2 * 6 * 24, "x0[0] out, x0[1] in"),
    "mm_of_weights": (aten.mm.default, "ww", (rand(2, 3), rand(3, 4)), 2 * 6 * 24, "x0[1] out, x1[0] in, x1[1] out"),
    "mm_of_data": (aten.mm.default, "dd", (rand(2, 3), rand(3, 4)), 2 * 6 * 24, "@contraction x0[1], !activation c x0[1]"),
    "mv": (aten.mv.default, "wd", (rand(2, 3), rand(3)), 2 * 6, "x0[0] out, x0[1] in"),
    "mv_data": (aten.mv.default, "dw", (rand(2, 3), rand(3)), 2 * 6, "x1[0] in"),
    "bmm": (aten.bmm.default, "dw", (rand(2, 3, 2), rand(2, 2, 3)), 2 * 6 * 2 * 6, "x1[0] out, x1[1] in, x1[2] out"),
    "bmm_from_left": (aten.bmm.default, "wd", (rand(2, 3, 2), rand(2, 2, 3)), 2 * 6 * 2 * 6, "x0[0] out, x0[1] out, x0[2] in"),
    "bmm_of_data": (aten.bmm.default, "dd", (rand(2, 3, 2), rand(2, 2, 3)), 2 * 6 * 2 * 6, "@contraction x0[2], !activation c x0[2]"),
    "addmm": (aten.addmm.default, "wdw", (rand(4), rand(2, 3), rand(3, 4)), 2 * 6 * 24, "x0[0] add, x2[0] in, x2[1] out"),
    "addmm_data": (aten.addmm.default, "dww", (rand(4), rand(2, 3), rand(3, 4)), 2 * 6 * 24, "x1[1] out, x2[0] in, x2[1] out"),
    "addmm_weights": (aten.addmm.default, "www", (rand(2, 4), rand(2, 3), rand(3, 4)), 2 * 6 * 24, "x1[1] out, x2[0] in, x2[1] out"),
    "addmm_activated": (aten._addmm_activation.default, "wdw", (rand(2), rand(3, 3), rand(3, 2)), 6 * 6 * 2, "x0[0] add, x2[0] in, x2[1] out, @relu x1[0], @relu x0[0]"),
    "linear": (aten.linear.default, "dww", (rand(2, 3), rand(4, 3), rand(4)), 2 * 6 * 24, "x1[0] out, x1[1] in, x2[0] add"),
    "linear_deep": (aten.linear.default, "dw", (rand(2, 2, 3), rand(4, 3)), 2 * 2 * 6 * 24, "x1[0] out, x1[1] in"),
    "linear_of_one": (aten.linear.default, "dw", (rand(2, 3), rand(3)), 2 * 6, "x1[0] in"),
    "linear_of_weights": (aten.linear.default, "www", (rand(2, 3), rand(4, 3), rand(4)), 2 * 6 * 24, "x0[1] out, x1[0] out, x1[1] in"),
    "trilinear": (aten._trilinear.default, "dwd", (rand(2, 3), rand(4, 3, 2), rand(2, 2), [1, 3], [0], [1, 2], [2, 3]), 2 * 6 * 24 * 2, "x1[0] out, x1[1] in, x1[2] in"),
    "trilinear_data": (aten._trilinear.default, "ddd", (rand(2, 3), rand(4, 3, 2), rand(2, 2), [1, 3], [0], [1, 2], [2, 3]), 2 * 6 * 24 * 2, "!activation c x0[1], !activation c x1[2]"),
    "conv": (aten.convolution.default, "dww", (rand(2, 3, 4), rand(2, 3, 2), rand(2), [1], [0], [1], False, [0], 1), 2 * 6 * 2, "x1[0] out, x1[1] in, x2[0] add"),
    "conv_of_weights": (aten.convolution.default, "ww", (rand(2, 3, 4), rand(2, 3, 2), None, [1], [0], [1], False, [0], 1), 2 * 6 * 2, "x0[1] out, x1[0] out, x1[1] in"),
    "conv_transposed": (aten.convolution.default, "dww", (rand(2, 3, 4), rand(3, 2, 2), rand(2), [1], [0], [1], True, [0], 1), 2 * 6 * 2, "x1[0] in, x1[1] out, x2[0] add"),
    "conv_of_images": (aten.convolution.default, "dww", (rand(2, 3, 2, 2), rand(2, 3, 1, 1), rand(2), [1, 1], [0, 0], [1, 1], False, [0, 0], 1), 2 * 6 * 2 * 2 * 2, "x1[0] out, x1[1] in, x2[0] add"),
    "conv_of_one_row": (aten.convolution.default, "dw", (rand(2, 3, 2, 3), rand(2, 3, 1, 2), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1), 2 * 6 * 2, "x1[0] out, x1[1] in"),
    "conv_of_images_with_steps": (aten.convolution.default, "dw", (rand(1, 3, 2, 2), rand(2, 3, 1, 1), None, [1, 2], [0, 0], [1, 1], False, [0, 0], 1), 6 * 2, "x1[0] out, x1[1] in"),
    "conv_depthwise": (aten.convolution.default, "dww", (rand(2, 3, 4), rand(3, 1, 2), rand(3), [1], [0], [1], False, [0], 3), 2 * 6, "x1[0] out, x1[1] in, x2[0] add, @depthwise conv x0[1]"),
    "conv_in_blocks": (aten.convolution.default, "dww", (rand(2, 4, 4), rand(6, 2, 2), rand(6), [1], [0], [1], False, [0], 2), 2 * 2 * 2 * 6, "x1[0] out, x1[1] in, x2[0] add, @grouped conv x0[1], !grouped conv x0[1], !grouped conv x1[1], !grouped conv x1[0]"),
    "conv_in_blocks_transposed": (aten.convolution.default, "dw", (rand(2, 6, 4), rand(6, 2, 2), None, [1], [0], [1], True, [0], 2), 2 * 2 * 2 * 6, "x1[0] in, x1[0] out, x1[1] out, @grouped conv x0[1], !grouped conv x0[1], !grouped conv x1[1]"),
    "conv_multiplied_transposed": (aten.convolution.default, "dw", (rand(2, 2, 4), rand(2, 3, 2), None, [1], [0], [1], True, [0], 2), 2 * 2 * 6, "x1[0] in, x1[0] out, x1[1] out, @depthwise conv x0[1]"),
    "attention": (aten.scaled_dot_product_attention.default, "ddd", (rand(2, 2, 3, 2), rand(2, 2, 2, 2), rand(2, 2, 2, 3)), 2 * 2 * 6 * 2 * 2 * 6, "@attention scores x0[3], @softmax x1[2], !activation c x0[3]"),
    "attention_of_few": (aten.scaled_dot_product_attention.default, "ddd", (rand(2, 3, 2), rand(2, 2, 2), rand(2, 2, 3)), 2 * 6 * 2 * 2 * 6, "@attention scores x0[2], @softmax x1[1], !activation c x0[2]"),
    "attention_masked": (aten.scaled_dot_product_attention.default, "dddw", (rand(1, 2, 3, 2), rand(1, 2, 2, 2), rand(1, 2, 2, 3), rand(3, 2)), 2 * 6 * 2 * 2 * 6, "x3[0] add, x3[1] add, @attention scores x0[3], @softmax x1[2], !activation c x0[3]"),
    "attention_masked_by_head": (aten.scaled_dot_product_attention.default, "dddw", (rand(1, 2, 3, 2), rand(1, 2, 2, 2), rand(1, 2, 2, 3), rand(2, 1, 2)), 2 * 6 * 2 * 2 * 6, "x3[0] add, x3[2] add, @attention scores x0[3], @softmax x1[2], !activation c x0[3]"),
    "attention_causal": (aten.scaled_dot_product_attention.default, "ddd", (rand(1, 2, 3, 2), rand(1, 2, 3, 2), rand(1, 2, 3, 3), None, 0.0, True), 2 * 2 * 6, "@attention scores x0[3], @softmax x1[2], !activation c x0[3]"),
    "attention_shared_keys": (aten.scaled_dot_product_attention.default, "ddd", (rand(1, 4, 2, 2), rand(1, 2, 2, 2), rand(1, 2, 2, 3), None, 0.0, False), 2 * 2 * 2 * 2 * 2 * 6, "@attention scores x0[3], @softmax x1[2], !activation c x0[3]"),
    "attention_with_sums": (aten._scaled_dot_product_flash_attention_for_cpu.default, "ddd", (rand(1, 2, 3, 2), rand(1, 2, 2, 2), rand(1, 2, 2, 2)), 2 * 6 * 2 * 2 * 2, "@attention scores x0[3], @softmax x1[2], !activation c x0[3]"),
    "attention_with_scores": (aten._scaled_dot_product_attention_math.default, "ddd", (rand(1, 2, 3, 2), rand(1, 2, 2, 2), rand(1, 2, 2, 3)), 2 * 6 * 2 * 2 * 6, "@attention scores x0[3], @softmax x1[2], !activation c x0[3]"),
    "rows_in_runs": (aten._grouped_mm.default, "dw", (rand(5, 3), rand(2, 3, 4), whole(2, 5)), 6 * 24, "x1[1] in, x1[2] out"),
    "rows_of_weights_in_runs": (aten._grouped_mm.default, "ww", (rand(5, 3), rand(2, 3, 4), whole(2, 5)), 6 * 24, "x0[1] out, x1[1] in, x1[2] out"),
    "rows_in_runs_of_data": (aten._grouped_mm.default, "dd", (rand(5, 3), rand(2, 3, 4), whole(2, 5)), 6 * 24, "!activation c x0[1]"),
    "batch_norm": (aten.native_batch_norm.default, "dwwww", (rand(2, 3), rand(3), rand(3), rand(3), rand(3).abs(), False, 0.1, 1e-5), 2 * 6, "x1[0] mul, x2[0] add, x3[0] stat, x4[0] stat, @batch_norm x0[1]"),
    "batch_norm_training": (aten.native_batch_norm.default, "dww", (rand(2, 3, 2), rand(3), rand(3), None, None, True, 0.1, 1e-5), 2 * 6 * 2, "x1[0] mul, x2[0] add, @batch_norm x0[1]"),
    "batch_norm_still": (aten._native_batch_norm_legit_no_training.default, "dwwww", (rand(2, 3), rand(3), rand(3), rand(3), rand(3).abs(), 0.1, 1e-5), 2 * 6, "x1[0] mul, x2[0] add, x3[0] stat, x4[0] stat, @batch_norm x0[1]"),
    "batch_norm_of_as_many": (aten.native_batch_norm.default, "dww", (rand(3, 3), rand(3), rand(3), None, None, True, 0.1, 1e-5), 6 * 6, "x1[0] mul, x2[0] add, @batch_norm x0[1]"),
    "layer_norm": (aten.native_layer_norm.default, "dww", (rand(2, 3), [3], rand(3), rand(3), 1e-5), 2 * 6, "x1[0] mul, x2[0] add, @layer_norm x0[1], !layer_norm: x0[1]"),
    "layer_norm_of_two": (aten.native_layer_norm.default, "dww", (rand(2, 2, 3), [2, 3], rand(2, 3), rand(2, 3), 1e-5), 2 * 2 * 6, "x1[0] mul, x1[1] mul, x2[0] add, x2[1] add, @layer_norm x0[1], @layer_norm x0[2], !layer_norm: x0[1], !layer_norm: x0[2]"),
    "layer_norm_alone": (aten.layer_norm.default, "dww", (rand(2, 3), [3], rand(3), rand(3)), 2 * 6, "x1[0] mul, x2[0] add, @layer_norm x0[1], !layer_norm: x0[1]"),
    "rms_norm": (aten.rms_norm.default, "dw", (rand(2, 3), [3], rand(3)), 2 * 6, "x1[0] mul, @rms_norm x0[1], !rms_norm: a x0[1]"),
    "rms_norm_fused": (aten._fused_rms_norm.default, "dw", (rand(2, 3), [3], rand(3), 1e-5), 2 * 6, "x1[0] mul, @rms_norm x0[1], !rms_norm: a x0[1]"),
    "group_norm": (aten.native_group_norm.default, "dww", (rand(2, 6, 2), rand(6), rand(6), 2, 6, 2, 2, 1e-5), 2 * 2 * 6 * 2, "x1[0] mul, x2[0] add, @group_norm y1[1], @group_norm x0[1], !group_norm: y1[1], !group_norm: x0[1]"),
    "group_norm_alone": (aten.group_norm.default, "dww", (rand(3, 6, 2), 2, rand(6), rand(6)), 6 * 2 * 6 * 2, "x1[0] mul, x2[0] add, @group_norm x0[1], !group_norm: x0[1]"),
    "weight_norm": (aten._weight_norm_interface.default, "ww", (rand(3, 2), rand(3, 1), 0), 6 * 2, "@weight_norm x0[1], !weight_norm: x0[1]"),
    "weight_norm_of_columns": (aten._weight_norm_interface.default, "ww", (rand(2, 3), rand(1, 3), 1), 6 * 2, "@weight_norm x0[0], !weight_norm: x0[0]"),
    "weight_norm_of_one": (aten._weight_norm_interface.default, "ww", (rand(1, 3), rand(1, 1), 0), 6, "@weight_norm x0[1], !weight_norm: x0[1]"),
    "softmax": (aten._softmax.default, "d", (rand(2, 3), -1, False), 2 * 6, "@softmax x0[1], !softmax: a s x0[1]"),
    "softmax_of_a_number": (aten._softmax.default, "d", (rand(), 0, False), 1, ""),
    "glu": (aten.glu.default, "d", (rand(2, 6), -1), 2 * 6, "@glu y0[1]"),
    "sum": (aten.sum.dim_IntList, "d", (rand(2, 3), [1], False), 2 * 6, "@sum x0[1], !sum: a stati x0[1]"),
    "sum_kept": (aten.sum.dim_IntList, "d", (rand(2, 3), [-2], True), 2 * 6, "@sum x0[0], !sum: a stati x0[0]"),
    "sum_of_all": (aten.sum.default, "d", (rand(2, 3),), 2 * 6, "@sum x0[0], @sum x0[1], !sum: a stati x0[0], !sum: a stati x0[1]"),
    "sum_over_none": (aten.sum.dim_IntList, "d", (rand(2, 3), [], False), 2 * 6, "@sum x0[0], @sum x0[1], !sum: a stati x0[0], !sum: a stati x0[1]"),
    "sum_of_a_number": (aten.sum.dim_IntList, "d", (rand(), [0], False), 1, ""),
    "mean_and_spread": (aten.var_mean.correction, "d", (rand(2, 3), [0]), 2 * 6, "@var_mean x0[0], !var_mean: a x0[0]"),
    "largest": (aten.amax.default, "d", (rand(2, 3), [1]), 2 * 6, "@amax x0[1], !amax: a stat x0[1]"),
    "largest_of_two": (aten.max.other, "dw", (rand(2, 3), rand(3)), 2 * 6, "x1[0] mul, @max x0[0], @max x0[1]"),
    "pooled": (aten.max_pool2d_with_indices.default, "d", (rand(2, 3, 2, 4), [2, 2]), 2 * 6, "@max_pool2d x0[0], @max_pool2d x0[1]"),
    "averaged": (aten.avg_pool2d.default, "d", (rand(2, 3, 2, 4), [2, 2]), 2 * 6, "@avg_pool2d x0[0], @avg_pool2d x0[1]"),
    "averaged_alone": (aten._adaptive_avg_pool2d.default, "d", (rand(3, 2, 4), [1, 1]), 6, "@adaptive_avg_pool2d x0[0]"),
    "enlarged": (aten.upsample_nearest1d.default, "d", (rand(2, 3, 2), [4]), 2 * 6, "@upsample_nearest1d x0[0], @upsample_nearest1d x0[1]"),
    "add": (aten.add.Tensor, "dw", (rand(2, 3), rand(3)), 2 * 6, "x1[0] add, @add x0[0], @add x0[1]"),
    "sub": (aten.sub.Tensor, "wd", (rand(3), rand(2, 3)), 2 * 6, "x0[0] add, @sub x1[0], @sub x0[0]"),
    "mul": (aten.mul.Tensor, "dw", (rand(2, 3), rand(2, 1)), 2 * 6, "x1[0] mul, x1[1] mul, @mul x0[0], @mul x0[1]"),
    "mul_of_data": (aten.mul.Tensor, "dd", (rand(2, 3), rand(2, 3)), 2 * 6, "@mul x0[0], @mul x0[1]"),
    "mul_of_weights": (aten.mul.Tensor, "ww", (rand(2, 3), rand(3)), 2 * 6, "x1[0] mul, @mul x0[0], @mul x0[1]"),
    "mul_of_equal_weights": (aten.mul.Tensor, "ww", (rand(2, 3), rand(2, 3)), 2 * 6, "@mul x0[0], @mul x0[1]"),
    "mul_by_a_number": (aten.mul.Tensor, "dw", (rand(2, 3), rand()), 2 * 6, "@mul x0[0], @mul x0[1]"),
    "lerp": (aten.lerp.Scalar, "dw", (rand(2, 3), rand(3), 0.3), 2 * 6, "x1[0] add, @lerp x0[0], @lerp x0[1]"),
    "copied": (aten.clone.default, "d", (rand(2, 3),), 2 * 6, ""),
    "embedding": (aten.embedding.default, "w", (rand(4, 3), whole([0, 1], [2, 0])), 6, "x0[1] out"),
    "bag_of_sums": (aten._embedding_bag.default, "w", (rand(4, 3), whole(0, 1, 2, 0), whole(0, 2)), 6, "x0[1] out"),
    "bag_of_means": (aten._embedding_bag.default, "w", (rand(4, 3), whole(0, 1, 2, 0), whole(0, 2), False, 1), 6, "x0[1] out, @mean x0[1]"),
    "rows": (aten.index.Tensor, "w", (rand(3, 4), [whole(2, 0)]), 24, "x0[1] out"),
    "rows_of_data": (aten.index.Tensor, "d", (rand(3, 4), [whole(2, 0)]), 24, ""),
    "columns": (aten.index.Tensor, "w", (rand(3, 4), [None, whole(2, 0)]), 6, "x0[0] out"),
    "matrices": (aten.index.Tensor, "w", (rand(3, 2, 4), [whole(2, 0)]), 2 * 24, ""),
    "index_select": (aten.index_select.default, "w", (rand(3, 4), 0, whole(2, 0)), 24, "x0[1] out"),
    "index_select_of_a_vector": (aten.index_select.default, "w", (rand(3), 0, whole(2, 0)), 1, ""),
    "gather_of_a_vector": (aten.gather.default, "d", (rand(3), 0, whole(2, 0)), 1, ""),
    "scatter": (aten.scatter.src, "dd", (rand(3, 4), 0, whole([2, 0, 1, 1]), rand(1, 4)), 1, ""),
    "scatter_of_a_number": (aten.scatter.value, "d", (rand(3, 4), 0, whole([2, 0, 1, 1]), 1.5), 1, ""),
    "put_accumulated": (aten.index_put.default, "dd", (rand(3, 4), [whole(2, 0)], rand(2, 4), True), 24, ""),
    "put_of_a_column": (aten.index_put.default, "dd", (rand(3, 2, 4), [None, whole(1, 0)], rand(4)), 1, ""),
    "put_broadcast": (aten.index_put.default, "dd", (rand(3, 4), [whole(2, 0)], rand(1)), 24, ""),
    "put_into_masked_rows": (aten.index_put.default, "dd", (rand(2, 3, 4), [torch.tensor([L, L, L]).T.contiguous()], rand(3, 4)), 24, ""),
    "packed": (aten._pack_padded_sequence.default, "d", (rand(3, 2, 4), whole(3, 2), False), 24, ""),
    "unpacked": (aten._pad_packed_sequence.default, "d", (rand(5, 4), whole(2, 2, 1), False, 0.0, 3), 24, ""),
    "narrow": (aten.narrow.default, "d", (rand(5, 2), 0, 1, 3), 6 * 2, ""),
    "narrow_from_behind": (aten.narrow.default, "d", (rand(5), -1, 3, 2), 6 * 2, ""),
    "chunk": (aten.chunk.default, "d", (rand(2, 6), 3, -1), 2 * 2 * 2 * 2, ""),
    "tile": (aten.tile.default, "d", (rand(2, 3), [2]), 2 * 6, ""),
    "tile_in_front": (aten.tile.default, "d", (rand(3), [2, 2]), 6, ""),
    "repeat": (aten.repeat.default, "d", (rand(3), [2, 1]), 6, ""),
    "select": (aten.select.int, "d", (rand(2, 3), 0, -1), 6, ""),
    "select_of_columns": (aten.select.int, "d", (rand(2, 3), -1, 1), 2, ""),
    "unbind": (aten.unbind.int, "d", (rand(2, 3), -2), 6, ""),
    "cat": (aten.cat.default, "dw", ([rand(2, 3), rand(1, 3)],), 2 * 6, "x1[0] out, x1[1] out"),
    "cat_of_weights": (aten.cat.default, "ww", ([rand(2, 3), rand(1, 3)],), 2 * 6, ""),
    "stack": (aten.stack.default, "dw", ([rand(2, 3), rand(2, 3) + 1], -1), 2 * 6, "x1[0] out, x1[1] out"),
    "pad": (aten.constant_pad_nd.default, "d", (rand(2, 3), [1, 0]), 2 * 6, "@pad y0[1], !pad: the wid y0[1]"),
    "pad_of_none": (aten.constant_pad_nd.default, "d", (rand(2, 3), [0, 0, 1, 1]), 2 * 6, "@pad y0[0], !pad: the wid y0[0]"),
    "pad_by_mode": (aten.pad.default, "d", (rand(2, 3, 3), [1, 0], "replicate"), 2 * 6, ""),
    "pad_plainly": (aten.pad.default, "d", (rand(2, 3), [1, 0], "constant", 0.5), 2 * 6, "@pad y0[1], !pad: the wid y0[1]"),
    "sort": (aten.sort.default, "d", (rand(2, 3), -1), 2, "@sort x0[1]"),
    "argmax": (aten.argmax.default, "d", (rand(2, 3), 1), 2, "@argmax x0[1]"),
    "argmax_of_all": (aten.argmax.default, "d", (rand(2, 3),), 1, "@argmax x0[0], @argmax x0[1]"),
    "cumsum_of_a_number": (aten.cumsum.default, "d", (rand(), 0), 1, ""),
    "flip": (aten.flip.default, "d", (rand(2, 3), [0]), 6, "@flip x0[0]"),
    "distances": (aten._cdist_forward.default, "dw", (rand(2, 3), rand(2, 3), 2.0, None), 2 * 2 * 6, "x1[0] out, x1[1] in, @_cdist_forward x0[0], @_cdist_forward x1[0], @_cdist_forward x0[1], !opaque op _c x0[0], !opaque op _c x1[0], !opaque op _c x0[1]"),
    "distances_of_weights": (aten._cdist_forward.default, "ww", (rand(2, 3), rand(4, 3), 2.0, None), 2 * 24 * 6, "x0[0] out, x0[1] in, x1[0] out, x1[1] in, @_cdist_forward x0[0], @_cdist_forward x1[0], @_cdist_forward x0[1], !opaque op _c x0[0], !opaque op _c x1[0], !opaque op _c x0[1]"),
    "taken": (aten.take.default, "d", (rand(2, 3), whole(1, 3)), 1, ""),
    "counted": (aten.bincount.default, "", (whole(1, 1, 0, 2),), 1, ""),
    "inverse": (aten.linalg_inv_ex.default, "d", (rand(2, 3, 3),), 2 * 6 * 6, "@linalg_inv_ex x0[0], @linalg_inv_ex x0[1], @linalg_inv_ex x0[2], !opaque op li x0[0], !opaque op li x0[1], !opaque op li x0[2]"),
    "triangle": (aten.tril.default, "w", (rand(2, 3, 3),), 2, "x0[0] out, @tril x0[0], !opaque op tr x0[0]"),
    "diagonal": (aten.trace.default, "w", (rand(3, 3),), 6, "x0[0] in, x0[1] in, @trace x0[0], !opaque op tr x0[0]"),
    "softmax_of_a_number_alone": (aten.softmax.int, "d", (rand(), 0), 1, ""),
    "sorted_number": (aten.sort.default, "d", (rand(), 0), 1, ""),
    "one_of_a_number": (aten.index_select.default, "w", (rand(), 0, whole(0)), 1, ""),
    "one_of_a_number_gathered": (aten.gather.default, "d", (rand(), 0, whole(0)), 1, ""),
    "one_added_to_a_number": (aten.index_add.default, "dd", (rand(), 0, whole(0), rand()), 1, ""),
    "all_of_one_size": (aten._cdist_forward.default, "dw", (rand(3, 3), rand(3, 3), 2.0, None), 6 * 6 * 6, "x1[0] out, x1[1] in, @_cdist_forward x0[0], @_cdist_forward x1[0], @_cdist_forward x0[1], !opaque op _c x0[0], !opaque op _c x1[0], !opaque op _c x0[1]"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_free(name: str) -> None:
    op, kinds, args, count, _ = CASES[name]
    assert orders(op, kinds, args) == count


@pytest.mark.parametrize("name", CASES)
def test_what_is_said(name: str) -> None:
    op, kinds, args, _, text = CASES[name]
    assert said(op, kinds, args) == text


def test_weights_behind_one_axis_come_in_the_order_of_the_network() -> None:
    """Sets of names are in another order in each process."""
    weights = {name: rand(4) for name in "spring summer autumn winter dawn noon dusk night".split()}
    inf = Inference(weights, set(weights))
    total = torch.stack(list(weights.values())).sum(0)
    inf.types[id(total)] = Typed([inf.dims.fresh(4)], [frozenset((name, 0) for name in weights)])
    inf.role(total, 0, "out")
    assert [name for name, *_ in inf.roles] == list(weights)


@pytest.mark.parametrize("gates, name", [(4, "_thnn_fused_lstm_cell"), (3, "_thnn_fused_gru_cell")])
def test_fused_recurrent_cells_of_a_gpu(gates: int, name: str) -> None:
    """One step with 5 units: of what comes in, of the state, and biases, each with the gates one after the other."""
    into, hidden, state, b1, b2 = (
        rand(*shape) for shape in ((2, gates * 5), (2, gates * 5), (2, 5), (gates * 5,), (gates * 5,))
    )
    weights = {"i": into, "h": hidden, "s": state, "b1": b1, "b2": b2}
    inf = Inference(weights, set(weights))
    outs = [rand(2, 5), rand(2, 5), rand(2, 20)] if gates == 4 else [rand(2, 5), rand(10, 25)]
    args = (into, hidden, state, b1, b2)
    result = rule_of(call := Call(getattr(aten, name).default, args, {}, list(args), outs, []))(inf, call)
    unit, row = map(inf.dims.find, inf.axes(state)[::-1])
    for t in (into, hidden, b1, b2):
        assert [inf.dims.find(p) for p in inf.dims.leaves(inf.axes(t)[-1])] == [unit] * gates
    assert [inf.dims.find(inf.axes(t)[0]) for t in (into, hidden)] == [row, row]
    assert inf.dims.is_free(unit)
    assert [[inf.dims.find(a) for a in axes] for axes in result[:-1]] == [[row, unit]] * len(result[:-1])
    assert inf.dims.find(result[-1][0]) == row
    assert inf.dims.reason(result[-1][1]) == "workspace"
    assert inf.roles == [(n, t.ndim - 1, inf.axes(t)[-1], "add") for n, t in weights.items() if t is not state]
    assert [(inf.dims.find(n), text) for n, text in inf.labels] == [(unit, "recurrent cell")]


# ---- operators without a rule, tried out

UNKNOWN: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    **{f"ring_of_{n}": (lambda x: x * x.roll(1, 0), [rand(n, 2)]) for n in (2, 3, 4, 5)},
    **{f"volume_of_{n}": (torch.linalg.det, [rand(n, n)]) for n in (2, 3, 4, 5)},
    **{f"size_of_volume_of_{n}": (lambda x: torch.linalg.det(x).abs(), [rand(n, n)]) for n in (2, 3)},
    "cross_product": (torch.linalg.cross, [rand(2, 3), rand(2, 3)]),
    "circular_product": (lambda x, y: torch.stack([x[0] * y[0] + x[1] * y[1], x[0] * y[1] + x[1] * y[0]]), [rand(2), rand(2)]),
    "matrix_product": (torch.mm, [rand(2, 3), rand(3, 4)]),
    "matrix_product_turned": (lambda x, y: y.T @ x.T, [rand(2, 3), rand(3, 4)]),
    "distances": (torch.cdist, [rand(3, 4), rand(2, 4)]),
    "mostly_zero": (lambda x: (x - x.max()).exp().floor(), [rand(4, 2)]),
    "of_one": (lambda x: x * x.roll(1, 0), [rand(1, 3)]),
}  # fmt: skip


def tried(f: Callable[..., Any], tensors: list[Tensor], known: Callable[[Tensor], Tensor | None] = lambda t: t) -> Any:
    return _Experiment(
        SimpleNamespace(func=f, args=tuple(tensors), kwargs={}, value=known, outs=tensors_among((f(*tensors),)))  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_tried_out_holds_for_every_order(name: str) -> None:
    """Of every set of axes of one length: moved alike, a result moves along the axis that is told, in every order, or nothing is told."""
    f, tensors = UNKNOWN[name]
    spots = [(i, d) for i, t in enumerate(tensors) for d in range(t.ndim)]
    run, true = tried(f, tensors), 0
    for k in range(1, len(spots) + 1):
        for chosen in itertools.combinations(spots, k):
            sizes = {tensors[i].shape[d] for i, d in chosen}
            if len(sizes) != 1 or len({i for i, _ in chosen}) != k:
                continue
            ways: set[int | None] = {None, *range(f(*tensors).ndim)}
            for order in itertools.permutations(range(sizes.pop())):
                moved = list(tensors)
                for i, d in chosen:
                    moved[i] = moved[i].index_select(d, torch.tensor(order))
                old, new = f(*tensors), f(*moved)
                ways &= {
                    *([None] if torch.allclose(new, old, 1e-9, 1e-12) else []),
                    *(d for d, n in enumerate(old.shape) if n == len(order) and torch.allclose(new, old.index_select(d, torch.tensor(order)), 1e-9, 1e-12)),
                }  # fmt: skip
            found = run.moves(list(chosen))
            assert (found is not None) == bool(ways), (chosen, found, ways)
            assert found is None or found[0] in ways
            true += found is not None
    assert true == HOLDING[name]


#: how many sets of axes may be moved: of the volume none, of its size either axis alone
HOLDING = {
    "ring_of_2": 2, "ring_of_3": 1, "ring_of_4": 1, "ring_of_5": 1, "volume_of_2": 0, "volume_of_3": 0, "volume_of_4": 0, "volume_of_5": 0, "size_of_volume_of_2": 2,
    "size_of_volume_of_3": 2, "cross_product": 1, "circular_product": 3, "matrix_product": 3, "matrix_product_turned": 3, "distances": 3, "mostly_zero": 2, "of_one": 2,
}  # fmt: skip


def test_what_cannot_be_tried_out() -> None:
    x, at = rand(3, 2), whole(0, 2, 1)
    assert tried(lambda t, i: t[i], [x, at]).base is not None
    assert tried(lambda t, i: t[i], [x, at], lambda t: None if t is at else t).base is None  # numbers nobody knows
    assert tried(lambda t, i: t[i], [x, at], lambda t: t if t is at else None).base is not None
    assert tried(lambda t: t.log(), [x.abs()]).base is not None  # as it was met: of random numbers it is none
    assert tried(lambda t: t.log(), [x.abs()], lambda t: None).base is None
    y = x.abs() + 1
    assert tried(lambda t, u: t.log() + u, [y, x], lambda t: t if t is x else None).base is None


def test_units_that_an_unknown_operator_binds_are_one_and_counted() -> None:
    x, y = rand(2), rand(2)
    both = torch.library.custom_op(
        "weightlapse_tests::circular_product",
        UNKNOWN["circular_product"][0],
        mutates_args=(),
        schema="(Tensor x, Tensor y) -> Tensor",
    )
    inf, _, axes, results = asked(both._opoverload, "dd", (x, y))
    assert {inf.dims.find(n) for row in [*axes, *results] for n in row} == {inf.dims.find(axes[0][0])}
    assert inf.probed == {"weightlapse_tests::circular_product": 1}


@pytest.mark.parametrize(("name", "made", "why"), [("mean", "pow", "rms_norm (mean of squares)"), ("mean", "square", "rms_norm (mean of squares)"), ("mean", "abs", "mean"), ("sum", "pow", "sum")])  # fmt: skip
def test_a_mean_of_squares_is_a_norm(name: str, made: str, why: str) -> None:
    x = rand(2, 3)
    inf = Inference({}, set())
    inf.types[id(x)] = Typed([inf.dims.fresh(2), inf.dims.fresh(3)], None)
    inf.made_by[id(x)] = made
    op = {"mean": aten.mean.dim, "sum": aten.sum.dim_IntList}[name]
    call = Call(op, (x, [1]), {}, [x], [op(x, [1])], [])
    rule_of(call)(inf, call)
    assert [text for _, text in inf.labels] == [why.split(" ")[0]]
    assert [text.partition(":")[0] for _, text in inf.blocks] == [why]


# ---- what works element by element


@torch.library.custom_op("weightlapse_tests::doubled", mutates_args=(), tags=(torch.Tag.pointwise,))
def doubled(x: Tensor) -> Tensor:
    return 2 * x


@torch.library.custom_op("weightlapse_tests::turned", mutates_args=())
def turned(x: Tensor) -> Tensor:
    return x.flip(0)


@pytest.mark.parametrize(
    ("op", "args", "each"),
    [
        (aten.tanh.default, (), True), (aten.detach.default, (), True), (aten.prelu.default, (), True), (aten.abs_.default, (), True), (aten.eq_.Scalar, (1,), True),
        (aten.mm.default, (), False), (aten.cumsum_.default, (0,), False), (aten.rand_like.default, (), False), (aten.normal_.default, (), False),
        (aten.bernoulli.default, (), False), (aten.native_dropout.default, (0.5, True), False), (aten.native_dropout.default, (0.5, False), True),
        (aten.rrelu_with_noise.default, (rand(2), 0.1, 0.3, True), False), (aten.rrelu_with_noise.default, (rand(2), 0.1, 0.3, False), True),
        (torch.ops.weightlapse_tests.doubled.default, (), True), (torch.ops.weightlapse_tests.turned.default, (), False),
    ],
)  # fmt: skip
def test_what_works_element_by_element(op: Any, args: tuple[Any, ...], each: bool) -> None:
    x = rand(2)
    assert is_pointwise(Call(op, (x, *args), {}, [x], [], [])) is each


def test_axes_that_no_input_has_are_fixed() -> None:
    inf, number, row = Inference({}, set()), rand(), rand(1, 3)
    for t in (number, row):
        inf.types[id(t)] = Typed([inf.dims.fresh(n) for n in t.shape], None)
    (axes,) = pointwise(inf, Call(aten.add.Tensor, (number, number), {}, [number, number], [rand(1, 2)], []))
    assert [inf.dims.reason(a) for a in axes] == ["size 1", "add"]
    (axes,) = pointwise(inf, Call(aten.add.Tensor, (row, number), {}, [row, number], [rand(2, 1, 3)], []))
    assert [inf.dims.reason(a) for a in axes] == ["add", "size 1", None]
    assert inf.dims.find(axes[2]) == inf.dims.find(inf.axes(row)[1])
    assert pointwise(inf, Call(aten.add_.Tensor, (row, number), {}, [row, number], [], [])) == []


# ---- what is kept of a network and its calls


def test_weights_of_one_position_or_of_no_floats_are_fixed() -> None:
    w, n = rand(1, 2), whole(1, 2)
    inf = Inference({"w": w, "n": n}, {"w"})
    assert [inf.dims.reason(a) for a in inf.axes(w)] == ["size 1", None]
    assert [inf.dims.reason(a) for a in inf.axes(n)] == ["not a floating-point tensor of the state dict"]
    assert inf.is_weight(w)
    assert inf.typed(w).source == [frozenset({("w", 0)}), frozenset({("w", 1)})]


def test_tensors_that_are_known_by_their_place_live_on() -> None:
    """Another tensor in the same memory would be taken for them."""
    inf = Inference({"w": rand(2)}, {"w"})
    again, constant = rand(2), rand(3)
    kept = [weakref.ref(again), weakref.ref(constant)]
    inf.bind({"w": again}, {"c": constant})
    assert inf.axes(again) == inf.params["w"].axes
    del again, constant
    assert all(ref() is not None for ref in kept)


def _fails(inf: Inference, call: Call) -> list[list[int]]:
    raise ValueError("an unknown form")


@pytest.mark.parametrize(("rule", "why"), [(_fails, "its rule fails on this use of it (ValueError: an unknown form)"), (lambda inf, call: [[]], "its rule does not fit this use of it")])  # fmt: skip
def test_a_rule_that_does_not_fit_fixes_what_it_was_asked_about(rule: Any, why: str) -> None:
    x, y = rand(2, 3), rand(3, 2)
    inf = Inference({"x": x}, {"x"})
    call = Call(aten.t.default, (x,), {}, [x], [y], [])
    for count in (1, 2):
        (axes,) = inf._results(call, lambda _: rule)
        assert [(inf.dims.sizes[a], inf.dims.reason(a)) for a in axes] == [(3, "opaque op t"), (2, "opaque op t")]
        assert [inf.dims.reason(a) for a in inf.axes(x)] == ["opaque op t"] * 2
        assert inf.opaque == {"t": count}
        assert inf.notes == [f"t: {why}; the axes of its tensors are taken as fixed"] * count
    other = Inference({"x": x}, {"x"})
    found = other._results(call, lambda _: lambda inf, call: [list(reversed(inf.axes(call.inputs[0])))])
    assert found == [list(reversed(other.axes(x)))]
    assert (other.notes, other.opaque) == ([], {})


def test_views_that_repeat_what_they_show_have_no_place() -> None:
    x = rand(2, 1)
    assert _is_expanded(x.expand(2, 2))
    assert _is_expanded(x.expand(2, 3))
    assert not any(map(_is_expanded, (x, rand(), rand(3, 2).T, x.as_strided((1, 2), (0, 1)), x.to_sparse())))


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("view", [lambda t: t, lambda t: t.view(2, 3)])
def test_what_is_written_into_a_tensor_is_of_its_units(view: Callable[[Tensor], Tensor], data: bool) -> None:
    w, other = rand(2, 3), rand(2, 3)
    inf = Inference({"w": w}, {"w"})
    inf.types[id(other)] = Typed([inf.dims.fresh(2), inf.dims.fresh(3)], None)
    inputs, result = [w, other] if data else [w], view(w)
    axes = [inf.dims.fresh(2), inf.dims.fresh(3)]
    inf._set(Call(aten.add_.Tensor, (*inputs,), {}, inputs, [result], [w]), result, axes)
    assert [inf.dims.find(a) for a in axes] == [inf.dims.find(a) for a in inf.axes(w)]
    assert inf.is_weight(w) is inf.is_weight(result) is not data


def test_what_is_written_into_a_repeated_view_is_of_its_units() -> None:
    x = rand(2, 1).expand(2, 3)
    inf = Inference({}, set())
    inf.types[id(x)] = Typed([inf.dims.fresh(2), inf.dims.fresh(3)], None)
    axes = [inf.dims.fresh(2), inf.dims.fresh(3)]
    inf._set(Call(aten.add_.Tensor, (x,), {}, [x], [x], [x]), x, axes)
    assert [inf.dims.find(a) for a in axes] == [inf.dims.find(a) for a in inf.axes(x)]

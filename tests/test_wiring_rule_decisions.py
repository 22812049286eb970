"""What a rule says about the axes of one operator, against every order of a few units.

The operator is recorded alone, its tensors taken as weights, and its rule read. Whatever the rule lets free is gone through, order by order: the operator on reordered
tensors must give the reordered result. How many orders of the tensors are let free is written beside each case, as counted by hand.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.test_wiring_decisions import Order, of_node
from weightlapse.wiring.infer import Inference
from weightlapse.wiring.outputs import tensors_in
from weightlapse.wiring.record import quietly, record
from weightlapse.wiring.trace import rule_of

Operator = Callable[..., Any]


class Alone(nn.Module):
    """An operator whose tensors of floating point are weights; those of whole numbers and masks are given."""

    def __init__(self, f: Operator, tensors: list[Tensor]) -> None:
        super().__init__()
        self.f, self.n = f, len(tensors)
        for i, t in enumerate(tensors):
            if t.is_floating_point():
                self.register_parameter(f"w{i}", nn.Parameter(t))

    def forward(self, **given: Tensor) -> Any:
        return self.f(*(given[f"w{i}"] if f"w{i}" in given else getattr(self, f"w{i}") for i in range(self.n)))


def read(f: Operator, *tensors: Tensor) -> tuple[Inference, list[Tensor], list[list[int]], list[list[int]]]:
    """The inference of one operator: its float tensors, what their axes are made of, and those of the results."""
    model = Alone(f, list(tensors))
    weights = dict(model.named_parameters())
    given = {f"w{i}": t for i, t in enumerate(tensors) if f"w{i}" not in weights}
    inf = Inference(weights, set(weights))
    with quietly():
        tape = record(model, given, list(weights.values()), [], tensors_in)
        outs = tape.outputs
        inf.run(dataclasses.replace(tape, outputs=[]), rule_of)  # not returned: only then may they be in another order
    assert inf.notes == []  # no rule failed
    return inf, list(weights.values()), [inf.axes(t) for t in weights.values()], [inf.axes(t) for t in outs]


def reordered(t: Tensor, orders: list[Order]) -> Tensor:
    for d, order in enumerate(orders):
        t = t.index_select(d, torch.tensor(order, dtype=torch.long))
    return t


def free(f: Operator, *tensors: Tensor) -> int:
    """How many orders of the tensors the rule lets free; each of them is tried."""
    inf, weights, axes, results = read(f, *tensors)
    dims = inf.dims
    every = {leaf for row in [*axes, *results] for a in row for leaf in dims.leaves(a)}
    for leaf in every & set(dims.cases):
        dims.occur([leaf])  # another order at each position of a neighbour is for whole networks: here one for all
    leaves = sorted(leaf for leaf in every if dims.is_free(leaf))
    assert math.prod(math.factorial(dims.sizes[leaf]) for leaf in leaves) <= 20_000
    plain = [t.detach() for t in weights]
    before = _results(f, tensors, plain)
    found = set()
    for choice in itertools.product(*(itertools.permutations(range(dims.sizes[leaf])) for leaf in leaves)):
        orders = dict(zip(leaves, choice, strict=True))
        mine = [[of_node(dims, a, orders) for a in row] for row in axes]
        after = _results(f, tensors, [reordered(t, o) for t, o in zip(plain, mine, strict=True)])
        for old, new, row in zip(before, after, results, strict=True):
            want = reordered(old, [of_node(dims, a, orders) for a in row])
            assert torch.allclose(new.double(), want.double(), rtol=1e-9, atol=1e-9), orders
        found.add(tuple(map(tuple, mine)))
    return len(found)


def _results(f: Operator, tensors: tuple[Tensor, ...], floats: list[Tensor]) -> list[Tensor]:
    rest = iter(floats)
    return tensors_in(f(*(next(rest) if t.is_floating_point() else t for t in tensors)))


DRAWS = torch.Generator().manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, generator=DRAWS, dtype=torch.float64)


def whole(*values: Any) -> Tensor:
    return torch.tensor(values)


two, three, four = 2, 6, 24  # orders of so many units

SHAPE: dict[str, tuple[Operator, list[Tensor], int]] = {
    "view_same": (lambda x: x.view(3, 4), [rand(3, 4)], three * four),
    "flatten": (lambda x: x.reshape(6), [rand(2, 3)], two * three),
    "flatten_middle": (lambda x: x.flatten(1, 2), [rand(3, 2, 2)], three * two * two),
    "unflatten": (lambda x: x.view(2, 3), [rand(6)], two * three),
    "unflatten_behind": (lambda x: x.view(3, 2, 2), [rand(3, 4)], three * two * two),
    "regrouped": (lambda x: x.view(4, 3), [rand(2, 6)], two * two * three),
    "regrouped_twice": (lambda x: x.view(2, 2, 2, 3), [rand(4, 6)], two * two * two * three),
    "across": (lambda x: x.view(2, 3), [rand(3, 2)], 1),
    "squeezed": (lambda x: x.squeeze(1), [rand(3, 1, 2)], three * two),
    "unsqueezed": (lambda x: x.unsqueeze(0).unsqueeze(-1), [rand(3, 2)], three * two),
    "ones": (lambda x: x.view(1, 3, 1), [rand(3)], three),
    "to_one": (lambda x: x.view(()), [rand(1)], 1),
    "empty": (lambda x: x.view(0, 3), [rand(3, 0)], three),
    "bits": (lambda x: x.view(torch.int64), [rand(2, 3)], two * three),
    "bits_of_halves": (lambda x: x.view(torch.int32), [rand(2, 3)], two),
    "permute": (lambda x: x.permute(2, 0, 1), [rand(2, 3, 4)], two * three * four),
    "t": (lambda x: x.t(), [rand(2, 3)], two * three),
    "transpose": (lambda x: x.transpose(0, 2), [rand(2, 3, 4)], two * three * four),
    "t_of_a_vector": (lambda x: x.t(), [rand(3)], three),
    "swapped": (lambda x: x.swapaxes(0, 1), [rand(2, 3)], two * three),
    "mT": (lambda x: x.mT, [rand(2, 3)], two * three),
    "expand": (lambda x: x.expand(2, 3), [rand(1, 3)], three),
    "expand_in_front": (lambda x: x.expand(2, 3), [rand(3)], three),
    "expand_behind": (lambda x: x[:, None].expand(3, 2), [rand(3)], three),
    "repeat": (lambda x: x.repeat(2, 1), [rand(2, 3)], two * three),
    "repeat_in_front": (lambda x: x.repeat(2, 2), [rand(3)], three),
    "tile": (lambda x: x.tile(2), [rand(2, 3)], two * three),
    "split": (lambda x: x.split([1, 3]), [rand(4)], three),
    "split_even": (lambda x: x.split(2, 1), [rand(2, 4)], two * two * two),
    "split_into_nothing": (lambda x: x.split([0, 3]), [rand(3)], 1),
    "split_around_nothing": (lambda x: x.split([2, 0, 1]), [rand(3)], 1),
    "chunk": (lambda x: x.chunk(2, -1), [rand(2, 6)], two * three * three),
    "slice": (lambda x: x[1:3], [rand(4)], two),
    "slice_start": (lambda x: x[:2], [rand(5)], two * three),
    "slice_end": (lambda x: x[-2:], [rand(5)], two * three),
    "slice_all": (lambda x: x[0:9], [rand(3)], three),
    "slice_nothing": (lambda x: x[3:], [rand(3, 2)], three * two),
    "slice_of_columns": (lambda x: x[:, 1:], [rand(2, 4)], two * three),
    "slice_step": (lambda x: x[::2], [rand(6)], three),
    "slice_step_from_one": (lambda x: x[1::2], [rand(6)], three),
    "slice_step_late": (lambda x: x[2::2], [rand(6)], 1),
    "slice_step_uneven": (lambda x: x[::2], [rand(5)], 1),
    "narrow": (lambda x: x.narrow(0, 1, 2), [rand(4)], two),
    "narrow_all": (lambda x: x.narrow(0, 0, 3), [rand(3)], three),
    "cat": (lambda x, y: torch.cat([x, y]), [rand(2), rand(3)], two * three),
    "cat_of_columns": (lambda x, y: torch.cat([x, y], -1), [rand(3, 2), rand(3, 3)], three * two * three),
    "cat_with_itself": (lambda x: torch.cat([x, x]), [rand(3)], three),
    "cat_of_one": (lambda x: torch.cat([x]), [rand(3)], three),
    "cat_with_nothing": (lambda x: torch.cat([x, torch.empty(0, dtype=x.dtype)], 1), [rand(3, 2)], three * two),
    "stack": (lambda x, y: torch.stack([x, x * y]), [rand(3), rand(3)], three),
    "stack_of_one": (lambda x: torch.stack([x], 1), [rand(3)], three),
    "pad": (lambda x: F.pad(x, (1, 2)), [rand(2, 3)], two * three),
    "pad_of_rows": (lambda x: F.pad(x, (0, 0, 1, 0)), [rand(2, 3)], two * three),
    "pad_of_both": (lambda x: F.pad(x, (1, 0, 0, 1)), [rand(2, 3)], two * three),
    "cropped": (lambda x: F.pad(x, (-1, 0)), [rand(2, 3)], two),
    "cropped_and_padded": (lambda x: F.pad(x, (2, -1)), [rand(2, 3)], two),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), [rand(1, 8, 1, 2)], two),
    "pixel_shuffle_of_one": (lambda x: F.pixel_shuffle(x, 2), [rand(8, 1, 2)], two),
    "pixel_unshuffle_of_one": (lambda x: F.pixel_unshuffle(x, 2), [rand(3, 2, 2)], three),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), [rand(1, 3, 2, 2)], three),
    "patches": (lambda x: F.unfold(x, (1, 2)), [rand(2, 3, 1, 4)], two * three),
    "patches_of_one": (lambda x: F.unfold(x, 1), [rand(2, 3, 1, 2)], two * three),
    "patches_back": (lambda x: F.fold(x, (1, 4), (1, 2)), [rand(2, 6, 3)], two * three),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), [rand(1, 6, 1, 1)], two * three),
    "as_strided": (lambda x: x.as_strided((2, 3), (3, 1)), [rand(2, 3)], two * three),
    "as_strided_turned": (lambda x: x.as_strided((3, 2), (1, 3)), [rand(2, 3)], 1),
    "as_strided_overlapping": (lambda x: x.as_strided((2, 3), (1, 1)), [rand(2, 3)], 1),
    "as_strided_of_one_row": (lambda x: x.as_strided((1, 3), (7, 1)), [rand(1, 3)], three),
}  # fmt: skip


def _batch(x: Tensor, g: Tensor, b: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var * var, g, b)


ACROSS: dict[str, tuple[Operator, list[Tensor], int]] = {
    "batch_norm": (_batch, [rand(2, 3), *(rand(3) for _ in range(4))], two * three),
    "batch_norm_training": (lambda x, g, b: F.batch_norm(x, None, None, g, b, True), [rand(2, 3, 2), rand(3), rand(3)], two * three * two),
    "batch_norm_plain": (lambda x: F.batch_norm(x, None, None, None, None, True), [rand(4, 3)], four * three),
    "layer_norm": (lambda x, g, b: F.layer_norm(x, (3,), g, b), [rand(2, 3), rand(3), rand(3)], two * three),
    "layer_norm_of_two": (lambda x, g, b: F.layer_norm(x, (2, 3), g, b), [rand(2, 2, 3), rand(2, 3), rand(2, 3)], two * two * three),
    "layer_norm_plain": (lambda x: F.layer_norm(x, (3,)), [rand(2, 3)], two * three),
    "rms_norm": (lambda x, g: F.rms_norm(x, (3,), g), [rand(2, 3), rand(3)], two * three),
    "group_norm": (lambda x, g, b: F.group_norm(x, 2, g, b), [rand(2, 6, 2), rand(6), rand(6)], two * two * three * two),
    "weight_norm": (lambda v, g: torch._weight_norm(v, g, 0), [rand(3, 2), rand(3, 1)], three * two),
    "weight_norm_of_columns": (lambda v, g: torch._weight_norm(v, g, 1), [rand(3, 2), rand(1, 2)], three * two),
    "softmax": (lambda x: x.softmax(-1), [rand(2, 3)], two * three),
    "log_softmax": (lambda x: x.log_softmax(0), [rand(2, 3)], two * three),
    "glu": (lambda x: F.glu(x), [rand(2, 6)], two * three),
    "glu_of_rows": (lambda x: F.glu(x, 0), [rand(4, 3)], two * three),
    "sum": (lambda x: x.sum(), [rand(2, 3)], two * three),
    "sum_of_rows": (lambda x: x.sum(0), [rand(2, 3)], two * three),
    "sum_kept": (lambda x: x.sum((0, -1), keepdim=True), [rand(2, 3, 2)], two * three * two),
    "mean_of_squares": (lambda x: x.pow(2).mean(-1), [rand(2, 3)], two * three),
    "variance": (lambda x: x.var(1), [rand(2, 3)], two * three),
    "norm": (lambda x: torch.linalg.vector_norm(x, dim=1), [rand(2, 3)], two * three),
    "product": (lambda x: x.prod(1), [rand(2, 3)], two * three),
    "largest_of_two": (torch.maximum, [rand(2, 3), rand(3)], two * three),
    "largest_of_two_max": (lambda x, y: torch.max(x, y), [rand(2, 3), rand(3)], two * three),
    "largest": (lambda x: x.max(1).values, [rand(2, 3)], two * three),
    "largest_at": (lambda x: x.max(1).indices.double(), [rand(2, 3)], two),
    "median": (lambda x: x.median(1).values, [rand(2, 3)], two * three),
    "amax": (lambda x: x.amax(1), [rand(2, 3)], two * three),
    "logsumexp": (lambda x: x.logsumexp(0), [rand(2, 3)], two * three),
    "pooled": (lambda x: F.max_pool1d(x, 2), [rand(2, 3, 4)], two * three),
    "pooled_images": (lambda x: F.max_pool2d(x, 2), [rand(2, 3, 2, 4)], two * three),
    "averaged": (lambda x: F.avg_pool2d(x, 2), [rand(2, 3, 2, 4)], two * three),
    "averaged_without_a_batch": (lambda x: F.avg_pool1d(x, 2), [rand(3, 4)], three),
    "averaged_to_one": (lambda x: F.adaptive_avg_pool1d(x, 2), [rand(2, 3, 4)], two * three),
    "enlarged": (lambda x: F.interpolate(x, scale_factor=2), [rand(2, 3, 2)], two * three),
    "reflected": (lambda x: F.pad(x, (1, 1), mode="reflect"), [rand(2, 3, 3)], two * three),
}  # fmt: skip

LINEAR: dict[str, tuple[Operator, list[Tensor], int]] = {
    "mm": (torch.mm, [rand(2, 3), rand(3, 4)], two * three * four),
    "mv": (torch.mv, [rand(2, 3), rand(3)], two * three),
    "dot": (torch.dot, [rand(3), rand(3)], three),
    "bmm": (torch.bmm, [rand(2, 3, 2), rand(2, 2, 3)], two * three * two * three),
    "addmm": (torch.addmm, [rand(4), rand(2, 3), rand(3, 4)], two * three * four),
    "addmm_of_one": (torch.addmm, [rand(1), rand(2, 3), rand(3, 4)], two * three * four),
    "addmm_of_a_table": (torch.addmm, [rand(2, 4), rand(2, 3), rand(3, 4)], two * three * four),
    "addmm_without": (lambda b, x, y: torch.addmm(b, x, y, beta=0), [rand(2), rand(3, 3), rand(3, 2)], two * three * three * two),
    "addmm_activated": (torch.ops.aten._addmm_activation, [rand(2), rand(3, 3), rand(3, 2)], three * three * two),
    "addmv": (torch.addmv, [rand(2), rand(2, 3), rand(3)], two * three),
    "baddbmm": (torch.baddbmm, [rand(2, 1, 3), rand(2, 3, 2), rand(2, 2, 3)], two * three * two * three),
    "addbmm": (torch.addbmm, [rand(3, 4), rand(2, 3, 2), rand(2, 2, 4)], two * three * two * four),
    "addr": (torch.addr, [rand(2, 3), rand(2), rand(3)], two * three),
    "linear": (F.linear, [rand(2, 3), rand(4, 3), rand(4)], two * three * four),
    "linear_plain": (F.linear, [rand(2, 2, 3), rand(4, 3)], two * two * three * four),
    "linear_of_a_vector": (F.linear, [rand(3), rand(4, 3), rand(4)], three * four),
    "bilinear": (F.bilinear, [rand(2, 3), rand(2, 2), rand(2, 3, 2)], two * three * two * two),
    "conv": (F.conv1d, [rand(2, 3, 4), rand(2, 3, 2), rand(2)], two * three * two),
    "conv_of_one": (F.conv1d, [rand(2, 3, 2), rand(2, 3, 1)], two * three * two * two),
    "conv_of_one_with_steps": (lambda x, w: F.conv1d(x, w, stride=2), [rand(2, 3, 2), rand(2, 3, 1)], two * three * two),
    "conv_of_one_padded": (lambda x, w: F.conv1d(x, w, padding=1), [rand(2, 3, 2), rand(2, 3, 1)], two * three * two),
    "conv_transposed": (F.conv_transpose1d, [rand(2, 3, 2), rand(3, 2, 2), rand(2)], two * three * two),
    "conv_depthwise": (lambda x, w, b: F.conv1d(x, w, b, groups=3), [rand(2, 3, 3), rand(3, 1, 2), rand(3)], two * three),
    "conv_multiplied": (lambda x, w: F.conv1d(x, w, groups=2), [rand(2, 2, 3), rand(6, 1, 2)], two * two * three),
    "conv_in_blocks": (lambda x, w: F.conv1d(x, w, groups=2), [rand(2, 4, 3), rand(6, 2, 2)], two * two * two * three),
    "conv_in_blocks_transposed": (lambda x, w, b: F.conv_transpose1d(x, w, b, groups=2), [rand(2, 6, 3), rand(6, 2, 2), rand(4)], two * two * three * two),
    "attention": (F.scaled_dot_product_attention, [rand(1, 2, 3, 2), rand(1, 2, 2, 2), rand(1, 2, 2, 3)], two * three * two * two * three),
    "attention_causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), [rand(1, 2, 3, 2), rand(1, 2, 3, 2), rand(1, 2, 3, 3)], two * two * three),
    "attention_masked": (lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m), [rand(1, 2, 3, 2), rand(1, 2, 2, 2), rand(1, 2, 2, 3), rand(3, 2)], two * three * two * two * three),
    "attention_masked_by_head": (lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m), [rand(1, 2, 3, 2), rand(1, 2, 2, 2), rand(1, 2, 2, 3), rand(2, 1, 2)], two * three * two * two * three),
    "attention_shared_keys": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), [rand(1, 4, 2, 2), rand(1, 2, 2, 2), rand(1, 2, 2, 2)], two * two * two * two * two * two),
}  # fmt: skip

MASK = torch.tensor([True, False, True])

INDEXED: dict[str, tuple[Operator, list[Tensor], int]] = {
    "embedding": (lambda w, i: F.embedding(i, w), [rand(4, 3), whole([0, 1], [2, 0])], three),
    "embedding_bag": (lambda w, i: F.embedding_bag(i, w, mode="sum"), [rand(4, 3), whole([0, 1], [2, 0])], three),
    "embedding_bag_largest": (lambda w, i: F.embedding_bag(i, w, mode="max"), [rand(4, 3), whole([0, 1], [2, 0])], three),
    "rows": (lambda x, i: x[i], [rand(3, 4), whole(2, 0)], four),
    "columns": (lambda x, i: x[:, i], [rand(3, 4), whole(2, 0)], three),
    "middle": (lambda x, i: x[:, i], [rand(2, 3, 4), whole(2, 0)], two * four),
    "table_of_rows": (lambda x, i: x[i], [rand(3, 4), whole([2, 0], [1, 1])], four),
    "pairs": (lambda x, i: x[i, i], [rand(3, 3, 2), whole(2, 0)], two),
    "pairs_apart": (lambda x, i: x[i, :, i], [rand(3, 2, 3), whole(2, 0)], two),
    "pairs_behind": (lambda x, i: x[:, i, i], [rand(2, 3, 3), whole(2, 0)], two),
    "pairs_apart_behind": (lambda x, i: x[:, i, :, i], [rand(2, 3, 3, 3), whole(2, 0)], two * three),
    "masked_rows": (lambda x, m: x[m], [rand(3, 4), MASK], four),
    "masked_columns": (lambda x, m: x[:, m], [rand(2, 3), MASK], two),
    "masked_table": (lambda x, m: x[m], [rand(2, 3, 4), torch.tensor([[True, False, True], [False, True, True]])], four),
    "constant_run": (lambda x: x[:, [1, 2]], [rand(2, 4)], two * two),
    "constant_run_at_first": (lambda x: x[[0, 1]], [rand(5)], two * three),
    "constant_run_of_all": (lambda x: x[[0, 1, 2]], [rand(3)], three),
    "constant_run_from_behind": (lambda x: x[[-2, -1]], [rand(5)], two * three),
    "constants_out_of_order": (lambda x: x[[1, 0]], [rand(3, 2)], two),
    "constants_with_a_gap": (lambda x: x[[0, 2]], [rand(3, 2)], two),
    "index_select": (lambda x, i: x.index_select(1, i), [rand(2, 3), whole(2, 0)], two),
    "repeated_each": (lambda x: x.repeat_interleave(2, 0), [rand(3, 2)], three * two),
    "repeated_columns": (lambda x: x.repeat_interleave(2, 1), [rand(3, 2)], three * two),
    "selected_each_twice": (lambda x: x.index_select(0, torch.tensor([0, 0, 1, 1, 2, 2])), [rand(3, 2)], three * two),
    "selected_in_order": (lambda x: x.index_select(1, torch.tensor([0, 1, 2])), [rand(2, 3)], two * three),
    "selected_unevenly": (lambda x: x.index_select(0, torch.tensor([0, 0, 1, 2])), [rand(3, 2)], two),
    "selected_out_of_order": (lambda x: x.index_select(0, torch.tensor([0, 1, 2, 0, 1, 2])), [rand(3, 2)], two),
    "index_add": (lambda x, i, s: x.index_add(0, i, s), [rand(3, 2), whole(2, 0), rand(2, 2)], two),
    "index_add_of_columns": (lambda x, i, s: x.index_add(1, i, s), [rand(2, 3), whole(2, 0), rand(2, 2)], two),
    "index_copy": (lambda x, i, s: x.index_copy(-1, i, s), [rand(2, 3), whole(2, 0), rand(2, 2)], two),
    "put": (lambda x, i, v: x.index_put((i,), v), [rand(3, 4), whole(2, 0), rand(2, 4)], four),
    "put_of_one_row": (lambda x, i, v: x.index_put((i,), v), [rand(3, 4), whole(2, 0), rand(4)], four),
    "put_of_columns": (lambda x, i, v: torch.ops.aten.index_put(x, [None, i], v), [rand(2, 3), whole(2, 0), rand(2)], 1),
    "put_of_one_number": (lambda x, m, v: x.index_put((m,), v), [rand(2, 3), torch.ones(2, 3, dtype=torch.bool), rand(1)], 1),
    "put_where_positive": (lambda x, v: x.index_put((x > 0,), v), [rand(2, 3), rand(1)], two * three),
    "put_of_masked_rows": (lambda x, m, v: x.index_put((m,), v), [rand(3, 2), MASK, rand(2, 2)], two),
    "gather": (lambda x, i: x.gather(1, i), [rand(2, 3), whole([2, 0], [1, 1])], 1),
    "gather_fewer": (lambda x, i: x.gather(0, i), [rand(3, 4), whole([2, 0])], 1),
    "gather_expanded": (lambda x: x.gather(0, torch.tensor([[2], [0]]).expand(2, 4)), [rand(3, 4)], four),
    "scatter_of_one_number": (lambda x: x.scatter(0, torch.tensor([[2], [0]]).expand(2, 4), 1.5), [rand(3, 4)], four),
    "scatter": (lambda x, s: x.scatter(0, torch.tensor([[2], [0]]).expand(2, 4), s), [rand(3, 4), rand(2, 4)], four),
    "scatter_add": (lambda x, s: x.scatter_add(0, torch.tensor([[2], [0]]).expand(2, 4), s), [rand(3, 4), rand(2, 4)], four),
    "scatter_of_some_columns": (lambda x, s: x.scatter_add(0, torch.tensor([[2], [0]]).expand(2, 2), s), [rand(3, 4), rand(2, 2)], 1),
}  # fmt: skip

ORDERED: dict[str, tuple[Operator, list[Tensor], int]] = {
    "sort": (lambda x: x.sort(1).values, [rand(2, 3)], two),
    "sort_of_rows": (lambda x: x.sort(0).values, [rand(2, 3)], three),
    "argsort": (lambda x: x.argsort(1).double(), [rand(2, 3)], two),
    "topk": (lambda x: x.topk(2, -1).values, [rand(2, 3)], two),
    "argmax": (lambda x: x.argmax(1).double(), [rand(2, 3)], two),
    "argmax_of_rows": (lambda x: x.argmax(0).double(), [rand(2, 3)], three),
    "argmax_of_all": (lambda x: x.argmax().double(), [rand(2, 3)], 1),
    "argmax_kept": (lambda x: x.argmax(1, keepdim=True).double(), [rand(2, 3)], two),
    "cumsum": (lambda x: x.cumsum(0), [rand(2, 3)], three),
    "flip": (lambda x: x.flip(1), [rand(2, 3)], two),
    "flip_of_both": (lambda x: x.flip((0, 1)), [rand(2, 3, 2)], two),
    "roll": (lambda x: x.roll(1, 0), [rand(2, 3)], three),
    "roll_of_all": (lambda x: x.roll(1), [rand(2, 3)], 1),
    "kthvalue": (lambda x: x.kthvalue(2, 1).values, [rand(2, 3)], two),
    "a_value_is_read": (lambda x: x * float(x[0, 0] > 9), [rand(2, 3)], 1),
    "distances": (torch.cdist, [rand(2, 3), rand(2, 3)], two * two * three),
    "triangle": (torch.tril, [rand(2, 3, 3)], two),
    "trace": (torch.trace, [rand(3, 3)], three),
    "inverse": (torch.linalg.inv, [rand(3, 3)], three * three),
    "exponential": (torch.linalg.matrix_exp, [rand(2, 3, 3)], two),  # both at once are free too: only what moves one axis of the result is found
    "cholesky": (lambda x: torch.linalg.cholesky(x @ x.mT + 9 * torch.eye(3, dtype=x.dtype)), [rand(3, 3)], three),
    "drawn": (lambda x: x * torch.bernoulli(x.sigmoid() * 0), [rand(2, 3)], 1),
}  # fmt: skip

EVERY = SHAPE | ACROSS | LINEAR | INDEXED | ORDERED


@pytest.mark.parametrize("name", EVERY)
def test_what_is_free_passes_through_the_operator(name: str) -> None:
    f, tensors, orders = EVERY[name]
    assert free(f, *tensors) == orders


def test_the_check_finds_a_wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    from weightlapse.wiring.rules.table import RULES

    monkeypatch.setitem(RULES, "flip", lambda inf, call: [inf.axes(call.inputs[0])])  # as if the order did not matter
    f, tensors, _ = EVERY["flip"]
    with pytest.raises(AssertionError):
        free(f, *tensors)

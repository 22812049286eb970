"""The iteration axes of products say what the operator computes, forms of heads are all guessed, tied weights are one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import weightlapse as wl
from weightlapse.wiring.members import Member
from weightlapse.wiring.products import conv_iteration, matrix_iteration
from weightlapse.wiring.query_forms import query_forms
from weightlapse.wiring.record import Call
from weightlapse.wiring.tensors import state_tensors

aten = torch.ops.aten


def rand(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def called(op: Any, *args: Any) -> Call:
    return Call(op, args, {}, [a for a in args if isinstance(a, Tensor)], [op(*args)], [])


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (aten.mm.default, [(2, 3), (3, 4)]),
        (aten.mv.default, [(2, 3), (3,)]),
        (aten.dot.default, [(3,), (3,)]),
        (aten.vdot.default, [(3,), (3,)]),
        (aten.inner.default, [(3,), (3,)]),
        (aten.inner.default, [(2, 3), (3,)]),
        (aten.inner.default, [(3, 3), (3, 3)]),
        (aten.inner.default, [(2, 3), (4, 5, 3)]),
        (aten.bmm.default, [(5, 2, 3), (5, 3, 4)]),
        (aten.addmm.default, [(2, 4), (2, 3), (3, 4)]),
        (aten.addmv.default, [(2,), (2, 3), (3,)]),
        (aten.baddbmm.default, [(5, 2, 4), (5, 2, 3), (5, 3, 4)]),
        (aten.linear.default, [(2, 3), (4, 3), (4,)]),
        (aten.linear.default, [(5, 2, 3), (4, 3)]),
        (aten.linear.default, [(3,), (4, 3)]),
        (aten.linear.default, [(2, 3), (3,)]),
    ],
)
def test_a_matrix_product_is_the_sum_over_its_axes(op: Any, shapes: list[tuple[int, ...]]) -> None:
    call = called(op, *(rand(*s) for s in shapes))
    axes = matrix_iteration(call)
    assert axes is not None
    first = 1 if call.name in ("addmm", "addmv", "baddbmm") else 0
    letters: list[dict[int, str]] = [{}, {}, {}]
    for letter, (inputs, out) in zip("abcdefgh", axes, strict=False):
        for i, axis in inputs.items():
            letters[i - first][axis] = letter
        if out is not None:
            letters[2][out] = letter
    a, b, result = ("".join(side[d] for d in range(len(side))) for side in letters)
    value = torch.einsum(f"{a},{b}->{result}", *call.inputs[first : first + 2])
    if len(call.inputs) == 3:
        value = value + call.inputs[0 if first else 2]
    torch.testing.assert_close(value, call.outs[0])


def test_a_grouped_product_has_rows_experts_and_columns() -> None:
    def of(*shapes: tuple[int, ...]) -> Any:
        return matrix_iteration(Call(aten._grouped_mm.default, (), {}, [rand(*s) for s in shapes], [], []))

    assert of((6, 3), (2, 3, 4)) == [({0: 0}, 0), ({1: 0}, None), ({0: 1, 1: 1}, None), ({1: 2}, 1)]
    assert of((6, 3), (3, 4)) is None  # the sums of the experts' weights: another product
    assert of((2, 3, 3), (2, 3, 4)) is None


@pytest.mark.parametrize(("op", "shapes"), [(aten.mul.Tensor, [(3,), (3,)]), (aten.inner.default, [(), (3,)])])
def test_other_products_are_none(op: Any, shapes: list[tuple[int, ...]]) -> None:
    assert matrix_iteration(called(op, *(rand(*s) for s in shapes))) is None


def moved(t: Tensor, axis: int, blocks: bool) -> Tensor:
    """Three blocks of two channels, or the two channels of every block, in another order; of an axis of two, its order."""
    n = t.shape[axis]
    order = torch.arange(n).reshape(-1, 2)
    return t.index_select(axis, (order.roll(1, 0) if blocks else order.flip(1)).reshape(-1))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("held", [*itertools.product([False, True], repeat=4)])
def test_the_result_of_a_convolution_moves_as_its_inputs_do(
    transposed: bool, groups: int, held: tuple[bool, ...]
) -> None:
    on_x, on_first, on_second, on_out = held
    x, w = rand(4, 6, 2), rand(6, 6 // groups, 1)
    call = called(aten.convolution.default, x, w, None, [1], [0], [1], transposed, [0], groups)
    axes = conv_iteration(call, [[False, on_x, False], [on_first, on_second, False], [False, on_out, False]])
    assert axes[:2] == [({0: 0}, 0), ({0: 2}, 2)]  # images and places, whatever stands where
    blocks = groups > 1 and not on_second and on_x and on_out
    assert len(axes) - 2 == (2 if groups == 1 else on_first + on_second if on_second else int(blocks or on_first))
    for inputs, out in axes[2:]:
        new = [moved(t, inputs[i], blocks) if i in inputs else t for i, t in enumerate((x, w))]
        expected = call.outs[0] if out is None else moved(call.outs[0], out, blocks)
        torch.testing.assert_close(aten.convolution(*new, *call.args[2:]), expected)


def test_rotary_positions_may_turn_any_even_number_of_twelve() -> None:
    forms = query_forms("q", (Member("w", 0, np.arange(12), "out"),), (1,), None, kinds=("rotary",))
    found = {2 * len(form.pairs) for form in forms[1:]}
    assert found == {2, 4, 6, 8, 10, 12}


def test_an_empty_weight_of_two_names_is_one() -> None:
    model = torch.nn.Module()
    model.first = model.second = torch.nn.Parameter(torch.empty(0, 3))
    model.other = torch.nn.Parameter(torch.empty(0, 3))
    named, aliases = state_tensors(model)
    assert list(named) == ["first", "other"]
    assert aliases == {"first": ["second"]}


class Inner(torch.nn.Module):
    """A product over last axes that is recorded as it stands: nothing takes it apart where no gradients are kept."""

    def __init__(self, *shape: int, weight_first: bool = False) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(5, 4)
        self.w = torch.nn.Parameter(torch.rand(shape))
        self.weight_first = weight_first

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.fc(x))
        return torch.inner(self.w, h) if self.weight_first else torch.inner(h, self.w)


@pytest.mark.parametrize("weight_first", [False, True])
@pytest.mark.parametrize("shape", [(4, 4), (3, 4), (4,), (2, 3, 4)])
def test_inner_products_read_last_axes(shape: tuple[int, ...], weight_first: bool) -> None:
    groups = wl.trace(Inner(*shape, weight_first=weight_first), torch.rand(6, 5)).groups
    members = {(m.tensor, m.axis) for m in groups[0].members}
    assert len(groups) == 1
    assert members == {("fc.weight", 0), ("fc.bias", 0), ("w", len(shape) - 1)}

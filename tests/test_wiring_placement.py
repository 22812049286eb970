"""Moves composed on paper do what one after the other does, for every kind of array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import weightlapse as wl
from tests.test_symmetry_zoo import randomised
from tests.zoo import ZOO
from weightlapse.symmetry.elements import Elements
from weightlapse.wiring.apply import permute_state, scale_state
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Member, blocks
from weightlapse.wiring.placement import Placement, taken


def drawn(w: Wiring, seed: int) -> Elements:
    rng = np.random.default_rng(seed)
    factor = {g.name: rng.choice([-1.0, 1.0], g.size) if "sign" in g.symmetries else np.ones(g.size) for g in w.groups}
    for g in w.groups:
        if "scale" in g.symmetries:
            factor[g.name] = factor[g.name] * 2.0 ** rng.integers(-2, 3, g.size)
    return Elements({g.name: rng.permutation(g.size) for g in w.groups}, factor)


def one_by_one(state: dict[str, Any], w: Wiring, e: Elements) -> dict[str, Any]:
    """The slow twin: every group by itself, parents first."""
    named = {g.name: g for g in w.groups}

    def depth(name: str) -> int:
        parent = named[name].parent
        return 0 if parent is None else 1 + depth(parent[0])

    for g in sorted(w.groups, key=lambda g: depth(g.name)):
        state = permute_state(state, w, g.name, e.order[g.name])
        state = scale_state(state, w, g.name, e.factor[g.name])
    return state


@pytest.mark.parametrize("name", sorted(ZOO))
def test_all_groups_at_once_is_one_after_the_other(name: str) -> None:
    case = ZOO[name]
    model = case.make().eval()
    w = wl.trace(model, *case.examples, verify=False)
    state, e = randomised(model, w), drawn(w, 1)
    slow, fast = one_by_one(state, w, e), e.on_state(state, w)
    assert list(slow) == list(fast)
    for n in slow:
        assert torch.equal(slow[n], fast[n]), n  # factors are powers of two: not one bit may differ
    back = e.off_state(fast, w)
    assert all(torch.equal(back[n], state[n]) for n in state)
    there, again = e.placements(state, w), e.placements(state, w, inverse=True)
    assert all(again[n].undoes(there[n]) in (True, None) for n in there)


def test_what_does_not_undo_a_move_is_not_said_to() -> None:
    rows = Member("a", 0, blocks(4), "out")
    there = Placement().then(rows, 4, np.array([1, 2, 3, 0]))
    assert Placement().then(rows, 4, np.array([3, 0, 1, 2])).undoes(there)
    assert not there.undoes(there)
    assert not Placement().undoes(there)
    twice = Placement().then(Member("a", 0, np.array([[0], [0]]), "out"), 4, np.array([1, 0]))
    assert not Placement().then(rows, 4, None, np.full(4, 2.0)).undoes(Placement().then(rows, 4, None, np.full(4, 2.0)))
    assert Placement().then(rows, 4, None, np.full(4, 0.5)).undoes(Placement().then(rows, 4, None, np.full(4, 2.0)))
    assert twice.stages


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.int64,
        torch.bool,
        torch.complex64,
    ],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gathering_takes_every_type_as_it_is(dtype: torch.dtype, axis: int) -> None:
    value = (torch.randn(3, 4, 5) * 4).to(dtype)
    order = np.random.default_rng(0).permutation(value.shape[axis])
    got = taken(value, order, axis)
    assert got.dtype == dtype
    want = value.movedim(axis, 0)
    for i, j in enumerate(order):
        a, b = got.movedim(axis, 0)[i], want[j]
        assert torch.equal(a.float() if dtype.itemsize == 1 else a, b.float() if dtype.itemsize == 1 else b)
    turned = taken(value.transpose(0, 2), order, 2 - axis)
    assert torch.equal(
        turned.transpose(0, 2).float() if dtype.itemsize == 1 else turned.transpose(0, 2),
        got.float() if dtype.itemsize == 1 else got,
    )


def test_tied_tensors_stay_one() -> None:
    tied = [
        n
        for n in ZOO
        if wl.trace(ZOO[n].make().eval(), *ZOO[n].examples, verify=False).aliases and n.startswith("tied")
    ]
    for case in map(ZOO.__getitem__, tied):
        model = case.make().eval()
        w = wl.trace(model, *case.examples, verify=False)
        state = dict(model.state_dict())
        moved = drawn(w, 2).on_state(state, w)
        for first, others in w.aliases.items():
            assert all(moved[first].data_ptr() == moved[other].data_ptr() for other in others)


def test_equal_names_of_different_tensors_are_moved_apart() -> None:
    spec = "tensor a.weight (2, 3)\ntensor b.weight (1, 2)\ngroup a: 2 units, permutation\n  a.weight[0]: out\n  b.weight[1]: in\n"
    w = Wiring.from_spec(spec)
    e = Elements({"a": np.array([1, 0])}, {"a": np.ones(2)})
    got = e.on_state({"a.weight": np.arange(6.0).reshape(2, 3), "b.weight": np.array([[1.0, 2.0]])}, w)
    assert got["a.weight"].tolist() == [[3, 4, 5], [0, 1, 2]]
    assert got["b.weight"].tolist() == [[2, 1]]

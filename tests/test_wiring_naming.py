"""Names of one architecture built twice are paired by structure, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import weightlapse as wl
from tests.zoo import ZOO
from weightlapse.wiring.change import tensors_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.naming import paired_names, renamed_wiring, shapes_of


def shapes(*names: str) -> dict[str, tuple[int, ...]]:
    return {n: (3, 8) if n.endswith("kernel") else (8,) for n in names}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (["sequential/dense/kernel", "sequential/dense_1/kernel"], ["sequential_1/dense_2/kernel", "sequential_1/dense_3/kernel"]),
        # a name that both have is another layer in each
        (["dense/kernel", "dense_1/kernel", "dense_2/kernel"], ["dense_1/kernel", "dense_2/kernel", "dense_3/kernel"]),
        # kinds in another order than in the other network
        (["dense/kernel", "conv2d/kernel", "dense_1/kernel"], ["dense_4/kernel", "conv2d_9/kernel", "dense_5/kernel"]),
        # names of one's own: by order
        (["teacher/in/kernel", "teacher/in/bias", "teacher/out/kernel"], ["student/dense/kernel", "student/dense/bias", "student/dense_1/kernel"]),
        (["a/lstm/lstm_cell/kernel", "a/lstm/lstm_cell/bias"], ["a_1/lstm_3/lstm_cell/kernel", "a_1/lstm_3/lstm_cell/bias"]),
    ],
)  # fmt: skip
def test_paired_in_order(a: list[str], b: list[str]) -> None:
    assert paired_names(shapes(*a), shapes(*b)) == dict(zip(b, a, strict=True))


def test_kinds_are_told_apart_where_orders_differ() -> None:
    found = paired_names(shapes("dense/kernel", "conv2d/kernel"), shapes("conv2d_1/kernel", "dense_1/kernel"))
    assert found == {"conv2d_1/kernel": "conv2d/kernel", "dense_1/kernel": "dense/kernel"}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (["dense/kernel"], ["dense_1/kernel", "dense_2/kernel"]),
        (["a/kernel", "b/bias"], ["c/bias", "d/kernel"]),
        (["fc1.weight"], ["fc2.weight"]),
    ],
)
def test_not_paired(a: list[str], b: list[str]) -> None:
    assert paired_names(shapes(*a), shapes(*b)) is None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        # another leaf at one place, the same numbers of axes
        ({"in/kernel": (3, 8), "out/kernel": (8, 2)}, {"first/kernel": (3, 8), "last/depthwise": (8, 2)}),
        ({"in/gamma": (8,), "in/beta": (8,)}, {"first/beta": (8,), "first/gamma": (8,)}),
        # another number of axes at one place, the same leaves
        ({"in/kernel": (3, 8), "out/kernel": (8, 2)}, {"first/kernel": (3, 8), "last/kernel": (3, 8, 2)}),
        ({"dense/kernel": (3, 8), "dense_1/kernel": (8, 2)}, {"dense_2/kernel": (3, 8), "dense_3/kernel": (3, 8, 2)}),
    ],
)
def test_one_place_that_differs_is_enough(a: dict[str, tuple[int, ...]], b: dict[str, tuple[int, ...]]) -> None:
    assert paired_names(a, b) is None


def test_same_names_stay() -> None:
    names = ["dense/kernel", "dense_1/kernel"]
    assert paired_names(shapes(*names), shapes(*reversed(names))) == {n: n for n in names}


def test_renamed_wiring() -> None:
    w = Wiring.from_spec(
        "tensor dense/kernel (3, 8)\ntensor dense_1/kernel (8, 2)\ngroup dense: 8 units, permutation\n  dense/kernel[1]: out\n  dense_1/kernel[0]: in\n"
    )
    new = renamed_wiring(w, {"dense/kernel": "dense_5/kernel", "dense_1/kernel": "dense_6/kernel"})
    assert [m.tensor for m in new.groups[0].members] == ["dense_5/kernel", "dense_6/kernel"]
    assert new.shapes == {"dense_5/kernel": (3, 8), "dense_6/kernel": (8, 2)}
    assert [m.tensor for m in w.groups[0].members] == ["dense/kernel", "dense_1/kernel"]


@pytest.mark.parametrize("name", ["lora", "hf_llama", "segformer"])
def test_bases_bear_the_new_names_too(name: str) -> None:
    """Linear maps between others, streams behind norms with gains, and the values of heads."""
    w = wl.trace(ZOO[name].make(), *ZOO[name].examples)
    assert w.bases
    new = renamed_wiring(w, {n: f"other/{n}" for n in w.shapes})
    assert set(tensors_of(new.bases)) == {f"other/{n}" for n in tensors_of(w.bases)}
    norms = [(n.gain, n.bias, n.readers) for b in w.bases for n in b.norms]
    of_new = [(n.gain, n.bias, n.readers) for b in new.bases for n in b.norms]
    assert of_new == [
        (f"other/{g}", b and f"other/{b}", tuple((f"other/{t}", axis) for t, axis in r)) for g, b, r in norms
    ]
    assert wl.Wiring.from_spec(new.to_spec()).to_spec() == new.to_spec()


def test_shapes_are_those_of_what_has_one() -> None:
    assert shapes_of({"a": np.zeros((2, 3)), "b": torch.zeros(4), "steps": 7}) == {"a": (2, 3), "b": (4,)}

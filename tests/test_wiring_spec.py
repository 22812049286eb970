"""The text form carries a whole wiring, reads like a person would write it, and refuses what cannot be meant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weightlapse.errors import InvalidArgument, UnknownTensor
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Gauge, Group, Member, blocks

MLP = """
# a two-layer network, as a person would write it
tensor fc1.weight (8, 4)
tensor fc1.bias (8)
tensor fc2.weight (2, 8)
fixed fc1.weight[1]: input
group fc1: 8 units, permutation, sign
  fc1.weight[0]: out
  fc1.bias[0]: add
  fc2.weight[1]: in
  ops tanh
"""

LENET = """
tensor conv.weight (6, 1, 5, 5)
tensor conv.bias (6)
tensor fc.weight (10, 96)
group conv: 6 units, permutation, scale
  conv.weight[0]: out
  conv.bias[0]: add
  fc.weight[1]: in k=16
  blocked the view in forward has a fixed size
"""


def everything() -> Wiring:
    """A wiring that uses every field."""
    heads = Group(
        "qkv",
        2,
        (
            Member("qkv.weight", 0, np.array([[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]), "out"),
            Member("o.weight", 1, np.array([[5, 0, 1], [2, 4, 3]]), "in"),
        ),
        frozenset({"permutation"}),
        (0, 0),
        ("attention: hard-coded number of heads", "second reason"),
        None,
        frozenset({"softmax", "scaled_dot_product_attention"}),
    )
    dims = Group(
        "qkv[1]",
        3,
        (Member("qkv.weight", 0, blocks(3, 1, 3), "out"), Member("w.odd name", 1, blocks(3), "in", (0, np.array([1])))),
        frozenset({"permutation", "sign", "scale"}),
        (1, -1),
        (),
        ("qkv", 1),
        frozenset(),
        (Gauge("scale", (2, 0)),),
    )
    return Wiring(
        (heads, dims),
        {"qkv.weight": ["tied.weight", "tied.again"]},
        ("spare.weight",),
        {"qkv.weight": (12, 7), "o.weight": (7, 6), "w.odd name": (2, 3), "spare.weight": (), "scale": (5,)},
        {("qkv.weight", 1): "input", ("o.weight", 0): "output"},
        ("fc9: the function changed by 3e-2",),
    )


@pytest.mark.parametrize("wiring", [everything(), Wiring.from_spec(MLP), Wiring.from_spec(LENET), Wiring(())])
def test_round_trip(wiring: Wiring) -> None:
    again = Wiring.from_spec(wiring.to_spec())
    assert again == wiring
    assert again.to_spec() == wiring.to_spec()


def test_defaults_of_a_hand_written_spec() -> None:
    g = Wiring.from_spec(MLP).group("fc1")
    assert g.symmetries == {"permutation", "sign"}
    assert g.exponents == (1, 1, -1)
    assert [m.role for m in g.members] == ["out", "add", "in"]
    assert np.array_equal(g.members[0].index, np.arange(8)[:, None])
    assert np.array_equal(Wiring.from_spec(LENET).group("conv").members[2].index, np.arange(96).reshape(6, 16))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 7),
    st.integers(1, 6),
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 90)), max_size=3),
    st.randoms(),
    st.booleans(),
)
def test_any_index_matrix_survives(offset, size, step, axes, rng, shuffle) -> None:
    slots = [0]
    for n, stride in axes:
        slots = [s + stride * i for s in slots for i in range(n)]
    index = offset + step * np.arange(size)[:, None] + np.array(slots)[None, :]
    flat = np.unique(index)
    if shuffle or flat.size != index.size:
        pool = list(range(index.size + 5))
        rng.shuffle(pool)
        index = np.array(pool[: index.size]).reshape(index.shape)
    group = Group("g", size, (Member("t", 0, index.astype(np.int64), "out"),))
    wiring = Wiring((group,), shapes={"t": (int(index.max()) + 1,)})
    assert Wiring.from_spec(wiring.to_spec()) == wiring


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("group fc1: many units", "expected 'group NAME"),
        ("  fc1.weight[0]: producer", "unknown role"),
        ("  fc1.weight[7]: out", "no axis 7"),
        ("  fc9.weight[0]: out", "not declared"),
        ("  fc1.weight[0]: out at 3*u", "reaches position 21"),
        ("  fc1.weight[0]: out at 0,1 | 2,3", "8 units"),
        ("  fc1.weight[0]: out at 0*u", "two units"),
        ("  fc1.weight[0]: out k=99999999999", "more than a spec"),
        ("  fc1.weight[0]: out at u + [9999]*[9999]", "no position term"),
        ("  nonsense", "expected"),
        ("tensor x 3 by 3", "expected 'tensor NAME"),
        ("group fc1: 8 units", "two groups"),
        ("  parent nobody 3", "does not exist"),
        ("group z: 8 units, rotation", "rotation"),
        ("weightlapse wiring 99", "version '99'"),
    ],
)
def test_what_cannot_be_meant_is_refused(line: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        Wiring.from_spec(MLP + line + "\n")


def test_a_member_before_any_group_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"line 1 .*no 'group' line"):
        Wiring.from_spec("fc1.weight[0]: out")


def test_lookup() -> None:
    w = Wiring.from_spec(MLP)
    assert w.group("fc1.weight") is w.group("fc1")
    with pytest.raises(UnknownTensor, match="fc1"):
        w.group("fc7")
    places = w.neuron("fc1", 3)
    assert [(m.tensor, p.tolist()) for m, p in places] == [("fc1.weight", [3]), ("fc1.bias", [3]), ("fc2.weight", [3])]
    with pytest.raises(InvalidArgument, match="8 units"):
        w.neuron("fc1", 8)


def test_sentences() -> None:
    w = Wiring.from_spec(MLP)
    text = str(w)
    assert "fc1: 8 units, made by fc1.weight[0], shared by fc1.bias[0], read by fc2.weight[1]" in text
    assert "permuted and flipped in sign" in text
    assert "input" in w.explain("fc1.weight", 1)
    assert "'fc1'" in w.explain("fc1.weight", 0)
    with pytest.raises(UnknownTensor, match=r"fc1\.weight"):
        w.explain("fc1.wieght", 0)
    with pytest.raises(InvalidArgument, match="no axis 2"):
        w.explain("fc1.weight", 2)
    assert "cannot be widened: the view" in str(Wiring.from_spec(LENET))
    assert "inside unit 1 of qkv" in str(everything().group("qkv[1]"))

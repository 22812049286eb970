"""The text form line by line: what a line means, how it is written, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from weightlapse.errors import InvalidArgument
from weightlapse.wiring import spec
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Basis, Gauge, Group, Member, Norm, blocks

BASIS = """
tensor a.weight (4, 3)
tensor b.weight (2, 4)
tensor g (4)
tensor s (4)
group heads: 2 units, permutation
  a.weight[0]: out k=2
basis stream: 4 numbers, rotary
  parent heads 1
  a.weight[0]: out
  b.weight[1]: in ^-1
  pairs 0,2 | 1,3
  norm g offset 1 bias s readers b.weight 1 a.weight 0
  norm g offset 0.5 readers
"""


def basis() -> Basis:
    return Wiring.from_spec(BASIS).bases[0]


def test_a_basis_is_read_and_written() -> None:
    b = basis()
    assert (b.name, b.size, b.kind, b.exponents, b.pairs, b.parent) == (
        "stream",
        4,
        "rotary",
        (1, -1),
        ((0, 2), (1, 3)),
        ("heads", 1),
    )
    assert b.norms == (Norm("g", 1.0, "s", (("b.weight", 1), ("a.weight", 0))), Norm("g", 0.5, None, ()))
    w = Wiring.from_spec(BASIS)
    assert Wiring.from_spec(w.to_spec()) == w
    lines = w.to_spec().splitlines()
    assert "  norm g offset 1 bias s readers b.weight 1 a.weight 0" in lines
    assert "  norm g offset 0.5 readers" in lines
    assert "  pairs 0,2 | 1,3" in lines
    assert lines[0] == spec.HEADER


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("parent heads 1", "parent heads 0"),
        ("0,2 | 1,3", "0,3"),
        ("a.weight[0]: out k=2", "a.weight[0]: out where 1: 2"),
    ],
)
def test_what_can_just_be_meant(old: str, new: str) -> None:
    w = Wiring.from_spec(BASIS.replace(old, new, 1))
    assert Wiring.from_spec(w.to_spec()) == w


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("rotary", "round", "unknown kind 'round'"),
        ("in ^-1", "in ^2", "exponent, 1 or -1"),
        ("in ^-1", "in ^0", "exponent, 1 or -1"),
        ("  b.weight[1]: in ^-1", "  b.weight[1]: in ^-1 where 0: 1", "no slab"),
        ("pairs 0,2 | 1,3", "pairs 0,2 | 2,3", "at most once"),
        ("pairs 0,2 | 1,3", "pairs 0,2 | 1,4", "at most once"),
        ("norm g offset 1", "norm h offset 1", "'h', which is no tensor"),
        ("bias s", "bias t", "'t', which is no tensor"),
        ("readers b.weight 1", "readers b.weight 0", "no member"),
        ("parent heads 1", "parent heads 2", "does not exist"),
        ("parent heads 1", "parent feet 1", "does not exist"),
        ("basis stream", "basis heads", "must differ"),
        ("norm g offset 1 bias s readers b.weight 1", "norm g offset 1 bias readers b.weight 1", "expected 'norm GAIN"),
        (
            "norm g offset 1 bias s readers b.weight 1",
            "norm g offset 1 shift s readers b.weight 1",
            "expected 'norm GAIN",
        ),
        ("readers b.weight 1 a.weight 0", "readers b.weight 1 a.weight", "expected 'norm GAIN"),
        ("norm g offset 1 bias s readers b.weight 1 a.weight 0", "norm g shift 1 readers", "expected 'norm GAIN"),
        ("norm g offset 1 bias s readers b.weight 1 a.weight 0", "norm g offset 1", "expected 'norm GAIN"),
        ("norm g offset 1 bias s readers b.weight 1 a.weight 0", "norm g", "expected 'norm GAIN"),
        ("4 numbers, rotary", "4 units, rotary", "expected 'basis NAME"),
        ("a.weight[0]: out k=2", "a.weight[0]: out k=3", "reaches position 5"),
        ("a.weight[0]: out k=2", "a.weight[0]: out at 0,1 | 1,2", "two units"),
        ("a.weight[0]: out k=2", "a.weight[0]: out where 0: 1", "slab on axis 0"),
        ("a.weight[0]: out k=2", "a.weight[0]: out where 2: 1", "slab on axis 2"),
        ("a.weight[0]: out k=2", "a.weight[0]: out where 1: 3", "slab on axis 1"),
        ("a.weight[0]: out k=2", "a.weight[2]: out k=2", "no axis 2"),
        ("a.weight[0]: out k=2", "c.weight[0]: out k=2", "not declared"),
        ("group heads: 2 units, permutation", "group heads: 2 units, turns", "turns"),
    ],
)
def test_what_cannot_be_meant(old: str, new: str, text: str) -> None:
    assert BASIS.count(old) >= 1
    with pytest.raises(InvalidArgument, match=text):
        Wiring.from_spec(BASIS.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "size", "index"),
    [
        ("u", 3, [[0], [1], [2]]),
        ("2*u", 2, [[0], [2]]),
        ("3 + u", 2, [[3], [4]]),
        ("3 + 2*u + 10*[2]", 2, [[3, 13], [5, 15]]),
        ("u + [2]", 1, [[0, 1]]),
        ("5", 1, [[5]]),
        ("u + 10*[2] + [3]", 2, [[0, 1, 2, 10, 11, 12], [1, 2, 3, 11, 12, 13]]),
        ("0,5 | 1,7", 2, [[0, 5], [1, 7]]),
        ("4,2", 1, [[4, 2]]),
        ("0 | 2", 2, [[0], [2]]),
    ],
)
def test_positions(text: str, size: int, index: list[list[int]]) -> None:
    assert spec._read_index(text, size).tolist() == index
    written = spec._write_index(np.array(index))
    again = blocks(size, len(index[0])) if written == "" else None
    if written.startswith(" k="):
        again = blocks(size, int(written[3:]))
    if written.startswith(" at "):
        again = spec._read_index(written[4:], size)
    assert again is not None
    assert again.tolist() == index


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ([[0], [1]], ""),
        ([[0, 1], [2, 3]], " k=2"),
        ([[1], [2]], " at 1 + u"),
        ([[0], [2]], " at 2*u"),
        ([[0, 4], [1, 5]], " at u + 4*[2]"),
        ([[3, 7], [4, 8]], " at 3 + u + 4*[2]"),
        ([[0, 1, 8, 9], [2, 3, 10, 11]], " at 2*u + 8*[2] + [2]"),
        ([[5]], " at 5"),
        ([[0]], ""),
        ([[0, 2]], " at 2*[2]"),
        ([[2], [0]], " at 2 | 0"),
        ([[0, 3], [1, 5]], " at 0,3 | 1,5"),
        ([[0, 1, 3], [4, 5, 7]], " at 0,1,3 | 4,5,7"),
        ([[4, 2]], " at 4,2"),
        ([[0], [1], [3]], " at 0 | 1 | 3"),
    ],
)
def test_how_positions_are_written(index: list[list[int]], text: str) -> None:
    assert spec._write_index(np.array(index)) == text


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("0,1 | 2", "2 rows of one length"),
        ("0 | 1 | 2", "2 rows"),
        ("v", "no position term"),
        ("u*2", "no position term"),
        ("u + -1", "no position term"),
    ],
)
def test_positions_that_cannot_be_meant(text: str, error: str) -> None:
    with pytest.raises(InvalidArgument, match=error):
        spec._read_index(text, 2)


@pytest.mark.parametrize(
    ("positions", "text"), [([3], "3"), ([2, 3, 4], "2:5"), ([2, 4], "2,4"), ([4, 3], "4,3"), ([0, 1], "0:2")]
)
def test_slabs(positions: list[int], text: str) -> None:
    assert spec._write_positions(np.array(positions)) == text
    assert spec._read_positions(text).tolist() == positions


def test_a_text_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "_LIMIT", 12)
    assert spec._read_index("u + 3*[4]", 3).shape == (3, 4)
    with pytest.raises(InvalidArgument, match="more positions"):
        spec._read_index("u + 4*[5]", 3)
    with pytest.raises(InvalidArgument, match="more positions"):
        spec._read_index("u + 4*[3] + [2]", 3)
    assert len(spec._read_positions("1:13")) == 12
    with pytest.raises(InvalidArgument, match="more positions"):
        spec._read_positions("1:14")
    line = "tensor t (99)\ngroup g: 3 units, permutation\n  t[0]: out k=%d\n"
    assert Wiring.from_spec(line % 4).group("g").members[0].k == 4
    with pytest.raises(InvalidArgument, match="more than a spec"):
        Wiring.from_spec(line % 5)


def test_lines_of_a_group() -> None:
    text = """
    # a comment
    tensor "odd # name" (2, 3)   # with a comment
    tensor t (6)
    tensor one ()
    alias u = t
    alias v = t
    unseen one
    fixed t[0]: because: it is so
    dropped g: it failed
    group g: 2 units        # permutation by default
      parent h 1
      "odd # name"[0]: out ^3 at 1 | 0 where 1: 0:2
      t[0]: add+stat at 2*u
      gauge scale 1 0
      ops relu, add
      blocked one # is kept
      blocked two
    group h: 3 units, permutation, sign
      t[0]: in k=2
    """
    w = Wiring.from_spec(text)
    g = w.group("g")
    assert g.symmetries == {"permutation"}
    assert g.parent == ("h", 1)
    assert g.exponents == (3, 1)
    assert g.gauges == (Gauge("scale", (1, 0)),)
    assert g.ops == {"relu", "add"}
    assert g.blockers == ("one # is kept", "two")
    assert g.members[0] == Member("odd # name", 0, np.array([[1], [0]]), "out", (1, np.array([0, 1])))
    assert g.members[1].roles == {"add", "stat"}
    assert w.shapes == {"odd # name": (2, 3), "t": (6,), "one": ()}
    assert w.aliases == {"t": ["u", "v"]}
    assert w.unseen == ("one",)
    assert w.fixed == {("t", 0): "because: it is so"}
    assert w.dropped == ("g: it failed",)
    assert w.group("h").exponents == (-1,)
    assert Wiring.from_spec(w.to_spec()) == w


@pytest.mark.parametrize(
    ("role", "exponent"),
    [("out", 1), ("add", 1), ("mul", 1), ("in", -1), ("stat", 0), ("out+in", 0), ("add+mul", 1), ("in+stat", -1)],
)
def test_exponents_by_default(role: str, exponent: int) -> None:
    assert Group("g", 2, (Member("t", 0, blocks(2), role),)).exponents == (exponent,)


@pytest.mark.parametrize(
    "how",
    [{"tensor": "u"}, {"axis": 1}, {"role": "in"}, {"index": blocks(2, 1, 1)}, {"index": blocks(2, 2)}, {"where": (1, np.array([0]))}, {"where": (0, np.array([0, 1]))}],
)  # fmt: skip
def test_members_are_equal_when_all_of_them_is(how: dict[str, Any]) -> None:
    base: dict[str, Any] = {"tensor": "t", "axis": 0, "index": blocks(2), "role": "out", "where": (0, np.array([0]))}
    one = Member(**base)
    assert one == Member(**base)
    assert hash(one) == hash(Member(**base))
    assert one != Member(**(base | how))
    assert one != "t"
    assert (one == Member(**(base | {"where": None}))) is False


def test_groups_that_cannot_be() -> None:
    with pytest.raises(InvalidArgument, match="1 members but 2 exponents"):
        Group("g", 2, (Member("t", 0, blocks(2), "out"),), exponents=(1, 1))
    for index in (blocks(3), np.arange(2)):
        with pytest.raises(InvalidArgument, match=r"expected \(2, k\)"):
            Group("g", 2, (Member("t", 0, index, "out"),))


def test_kinds_of_bases() -> None:
    b = basis()
    assert not b.turns
    assert not b.is_stream
    turning = Basis("s", 4, "centred", b.members, (1, -1))
    assert turning.turns
    assert turning.is_stream
    assert not Basis("s", 4, "orthogonal", b.members, (1, -1), parent=("heads", 0)).is_stream


def test_members_by_role() -> None:
    g = Group("g", 2, tuple(Member(r, 0, blocks(2), r) for r in ("out", "add", "in", "out+in")))
    assert [m.role for m in g.producers] == ["out", "out+in"]
    assert [m.role for m in g.consumers] == ["in", "out+in"]
    assert [m.role for m in g.with_role("add", "in")] == ["add", "in", "out+in"]
    assert blocks(2, 3, 1).tolist() == [[1, 2, 3], [4, 5, 6]]

"""Moves of units, moves written down and made at once, and other bases, against loops over single numbers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import weightlapse as wl
from weightlapse.errors import CannotTrace, InvalidArgument, UnknownTensor
from weightlapse.wiring.apply import checked_factors, checked_order, permute_state, scale_state
from weightlapse.wiring.change import (
    Changed,
    centring,
    change,
    drawn,
    fold,
    gain,
    held,
    is_signed_order,
    left,
    others,
    rows,
    tensors_of,
    unfold,
)
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Basis, Group, Member, Norm, blocks
from weightlapse.wiring.placement import Placement
from weightlapse.wiring.query_forms import query_forms
from weightlapse.wiring.tensors import state_tensors
from weightlapse.wiring.verify import Move, _factors, moved, shuffle

Numbers = NDArray[np.float64]
RNG = np.random.default_rng(0)


def by_hand(value: Numbers, m: Member, order: Any = None, factors: Any = None) -> Numbers:
    """One move, unit by unit and slot by slot."""
    out = value.copy()
    for place in itertools.product(*map(range, value.shape)):
        if m.where is not None and place[m.where[0]] not in m.where[1].tolist():
            continue
        for u, slot in itertools.product(range(m.index.shape[0]), range(m.k)):
            if m.index[u, slot] == place[m.axis]:
                source = list(place)
                source[m.axis] = m.index[u if order is None else order[u], slot]
                out[place] = value[tuple(source)] * (1.0 if factors is None else factors[u])
    return out


SHAPE = (6, 3, 4)
MEMBERS = [
    Member("w", 0, blocks(6), "out"),
    Member("w", 0, blocks(3, 2), "out"),
    Member("w", 0, np.array([[0, 3], [1, 4], [2, 5]]), "out"),
    Member("w", 0, np.array([[4], [1], [2]]), "out"),
    Member("w", 1, blocks(3), "in"),
    Member("w", 2, blocks(2, 1, 1), "in"),
    Member("w", 2, blocks(4), "in", (0, np.array([1, 4]))),
    Member("w", 0, blocks(2, 3), "out", (1, np.array([2]))),
]  # fmt: skip


def some_moves(seed: int) -> list[tuple[Member, Any, Any]]:
    rng = np.random.default_rng(seed)
    found = []
    for i in rng.integers(len(MEMBERS), size=rng.integers(1, 5)):
        m = MEMBERS[i]
        n = len(m.index)
        what = rng.integers(3)
        found.append((m, rng.permutation(n) if what != 1 else None, rng.normal(size=n) if what != 0 else None))
    return found


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_moves_on_paper_are_moves_one_after_the_other(seed: int, kind: str) -> None:
    value = np.random.default_rng(seed).normal(size=SHAPE)
    moves, paper, slow = some_moves(seed), Placement(), value
    for m, order, factors in moves:
        paper = paper.then(m, SHAPE[m.axis], order, factors)
        slow = by_hand(slow, m, order, factors)
    got = paper(value) if kind == "numpy" else paper(torch.from_numpy(value.copy())).numpy()
    np.testing.assert_allclose(got, slow, rtol=1e-12)
    assert paper.rescales == any(f is not None for _, _, f in moves)


@pytest.mark.parametrize("seed", range(30))
def test_what_undoes_moves_is_known(seed: int) -> None:
    value = np.random.default_rng(seed).normal(size=SHAPE)
    there = back = Placement()
    moves = some_moves(seed)
    for m, order, factors in moves:
        there = there.then(m, SHAPE[m.axis], order, factors)
    for m, order, factors in reversed(moves):
        if factors is not None:
            back = back.then(m, SHAPE[m.axis], None, 1 / factors)
        if order is not None:
            back = back.then(m, SHAPE[m.axis], np.argsort(order), None)
    np.testing.assert_allclose(back(there(value)), value, rtol=1e-9)
    slabs = any(m.where is not None for m, _, _ in moves)
    assert back.undoes(there) is (None if slabs else True)
    if not slabs:
        assert back.undoes(Placement()) is bool(np.allclose(back(value), value))
        twice = back.then(MEMBERS[0], 6, np.array([1, 0, 2, 3, 4, 5]))
        assert twice.undoes(there) is False
        assert back.then(MEMBERS[4], 3, None, np.array([1.0, 1.0, 1.5])).undoes(there) is False


def test_nothing_moves_nothing() -> None:
    value = RNG.normal(size=SHAPE)
    assert Placement()(value) is value
    assert Placement().undoes(Placement()) is True
    assert not Placement().rescales
    signs = Placement().then(MEMBERS[0], 6, None, np.array([1.0, -1, 1, 1, -1, 1]))
    assert not signs.rescales
    assert signs.undoes(signs)
    assert not signs.then(MEMBERS[6], 4, np.array([1, 0, 2, 3])).rescales
    assert signs.then(MEMBERS[6], 4, None, np.array([1.0, 2, 1, 1])).rescales


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.complex64],
)
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 0)])
def test_units_of_every_type_are_taken_as_they_are(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    value = (torch.randn(shape) * 4).to(dtype)
    got = Placement().then(Member("a", 0, blocks(4), "out"), 4, np.array([2, 0, 3, 1]))(value)
    assert got.dtype == dtype
    assert got.tolist() == [value[i].tolist() for i in (2, 0, 3, 1)]


# ---- states

SPEC = """
tensor a.weight (6, 2)
tensor a.bias (6)
tensor stats (6)
tensor b.weight (2, 6)
alias c.weight = b.weight
group a: 3 units, permutation, sign, scale
  a.weight[0]: out k=2
  a.bias[0]: add k=2
  stats[0]: stat ^0 at u + 3*[2]
  b.weight[1]: in k=2
"""


def state_of(w: Wiring) -> dict[str, Numbers]:
    return {n: RNG.normal(size=s) for n, s in w.shapes.items()}


def test_states_are_moved_member_by_member() -> None:
    w = Wiring.from_spec(SPEC)
    state = state_of(w)
    state["c.weight"] = state["b.weight"]
    kept = {n: v.copy() for n, v in state.items()}
    order, factors = np.array([2, 0, 1]), np.array([2.0, -1.0, 0.5])
    g = w.group("a")
    after, scaled = permute_state(state, w, "a", order), scale_state(state, w, "a", factors)
    gauge = scale_state(state, w, "a", factors, exponents=(0, 0, 3, -1))
    for m, e, other in zip(g.members, g.exponents, (0, 0, 3, -1), strict=True):
        for name in w.names_of(m.tensor):
            assert np.array_equal(after[name], by_hand(state[name], m, order))
            np.testing.assert_allclose(scaled[name], by_hand(state[name], m, None, factors**e), rtol=1e-12)
            np.testing.assert_allclose(gauge[name], by_hand(state[name], m, None, factors**other), rtol=1e-12)
    assert scaled["stats"] is state["stats"]
    assert all(np.array_equal(state[n], kept[n]) for n in state)
    fewer = {n: v for n, v in state.items() if n != "stats"}
    assert set(permute_state(fewer, w, "a", order)) == set(fewer)
    with pytest.raises(UnknownTensor, match=r"a\.bias"):
        permute_state({n: v for n, v in state.items() if n != "a.bias"}, w, "a", order)
    with pytest.raises(InvalidArgument, match="shape"):
        permute_state({**state, "a.bias": np.zeros(7)}, w, "a", order)


def test_a_slab_is_moved_alone() -> None:
    w = Wiring.from_spec(
        "tensor v (3, 4)\ngroup g: 2 units, permutation, sign, scale\n  v[1]: out ^1 at 1 + u where 0: 0,2\n"
    )
    state = state_of(w)
    m = w.group("g").members[0]
    for value in (state["v"], torch.from_numpy(state["v"])):
        got = permute_state({"v": value}, w, "g", [1, 0])["v"]
        assert np.array_equal(np.asarray(got), by_hand(state["v"], m, [1, 0]))
        got = scale_state({"v": value}, w, "g", [2.0, -3.0])["v"]
        np.testing.assert_allclose(np.asarray(got), by_hand(state["v"], m, None, [2.0, -3.0]))


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [1, 2, 3], [0, 1, 2, 3], [[0, 1, 2]], [0.0, 1.5, 2.0]])
def test_no_order(order: Any) -> None:
    with pytest.raises(InvalidArgument, match="0 to 2 once"):
        checked_order(Wiring.from_spec(SPEC).group("a"), order)


@pytest.mark.parametrize(
    "factors", [[1.0, 1.0], [1.0, 0.0, 1.0], [1.0, np.nan, 1.0], [1.0, np.inf, 1.0], [[1.0, 1.0, 1.0]]]
)
def test_no_factors(factors: Any) -> None:
    with pytest.raises(InvalidArgument, match="3 finite factors"):
        checked_factors(Wiring.from_spec(SPEC).group("a"), factors)


@pytest.mark.parametrize(
    ("symmetries", "factors", "text"),
    [
        ({"permutation"}, [1.0, -1.0, 1.0], "no sign"),
        ({"permutation"}, [1.0, 2.0, 1.0], "no scale"),
        ({"permutation", "sign"}, [1.0, -2.0, 1.0], "no scale"),
        ({"permutation", "scale"}, [1.0, -2.0, 1.0], "no sign"),
        ({"permutation", "sign"}, [1.0, -1.0, 1.0], ""),
        ({"permutation", "scale"}, [1.0, 0.5, 1.0], ""),
        ({"permutation"}, [1.0, 1.0, 1.0], ""),
    ],
)
def test_factors_need_their_symmetry(symmetries: set[str], factors: list[float], text: str) -> None:
    g = replace(Wiring.from_spec(SPEC).group("a"), symmetries=frozenset(symmetries))
    if text:
        with pytest.raises(InvalidArgument, match=text):
            checked_factors(g, factors)
    assert np.array_equal(checked_factors(g, factors, own=bool(not text)), factors)


# ---- moves of the verifier


@pytest.mark.parametrize("size", [1, 2, 3, 40])
@pytest.mark.parametrize("most", [None, 2, 16])
def test_an_order_is_another_one(size: int, most: int | None) -> None:
    for seed in range(20):
        order = shuffle(size, np.random.default_rng(seed), most)
        assert sorted(order) == list(range(size))
        away = int((order != np.arange(size)).sum())
        assert (away > 0) == (size > 1)
        assert most is None or away <= most or away == size  # two that stayed are all moved on by one


@pytest.mark.parametrize("kind", ["sign", "scale"])
@pytest.mark.parametrize("most", [None, 3])
def test_factors_that_are_tried(kind: str, most: int | None) -> None:
    for seed in range(20):
        factors = _factors(9, kind, np.random.default_rng(seed), most)
        assert factors.shape == (9,)
        assert (factors > 0).all() == (kind == "scale") or most is not None
        assert np.isin(factors, (-1, 1)).all() == (kind == "sign")
        if most is not None:
            assert (factors == 1).sum() >= 6
        elif kind == "sign":
            assert (factors == -1).any()


def test_moves_of_groups_are_written_down_in_their_order() -> None:
    w = Wiring.from_spec(SPEC)
    g = w.group("a")
    state = state_of(w)
    one, two, f = np.array([1, 2, 0]), np.array([0, 2, 1]), np.array([2.0, 3.0, -1.0])
    other = Group("other", 2, (Member("b.weight", 0, blocks(2), "out"),), exponents=(0,))
    moves = [
        Move(g, "permutation", one), Move(g, "scale", None, f, g.exponents), Move(g, "scale", None, f, (2, 0, 1, 0)),
        Move(g, "permutation", two), Move(other, "permutation", np.array([1, 0])), Move(g, "scale", None, f, (0, 1, 0, 0)),
        Move(g, "permutation", two), Move(g, "permutation", one), Move(g, "permutation", one),
    ]  # fmt: skip
    slow = dict(state)
    for move in moves:
        for i, m in enumerate(move.group.members):
            factors = None if move.factors is None else move.factors ** float(move.exponents[i])
            slow[m.tensor] = by_hand(slow[m.tensor], m, move.order, factors)
    found = moved(moves, w)
    for name, value in state.items():
        np.testing.assert_allclose(found[name](value) if name in found else value, slow[name], rtol=1e-12)
    assert set(moved([Move(g, "scale", None, f, (0, 1, 0, 0))], w)) == {"a.bias"}


# ---- other bases


def turned(value: Numbers, m: Member, matrix: Numbers) -> Numbers:
    out = value.copy()
    for slot in range(m.k):
        for i in range(len(matrix)):
            total = sum(matrix[i, j] * np.take(value, m.index[j, slot], axis=m.axis) for j in range(len(matrix)))
            at: list[Any] = [slice(None)] * value.ndim
            at[m.axis] = m.index[i, slot]
            out[tuple(at)] = total
    return out


TURNED = [
    Member("w", 0, blocks(6), "out"), Member("w", 0, blocks(3, 2), "out"), Member("w", 1, blocks(3), "in"), Member("w", 2, blocks(2, 1, 1), "in"),
    Member("w", 0, np.array([[0], [2], [4]]), "out"), Member("w", 0, np.array([[5], [0], [2]]), "out"),
    Member("w", 0, np.array([[0, 3], [1, 4], [2, 5]]), "out"),
]  # fmt: skip


@pytest.mark.parametrize("m", TURNED)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_numbers_are_turned_slot_by_slot(m: Member, kind: str) -> None:
    value, matrix = RNG.normal(size=SHAPE), RNG.normal(size=(len(m.index),) * 2)
    arrays = {"w": value if kind == "numpy" else torch.from_numpy(value.copy()), "other": np.ones(2)}
    state = Changed(arrays)
    state.turn(m, matrix if kind == "numpy" else torch.from_numpy(matrix))
    np.testing.assert_allclose(np.asarray(state["w"]), turned(value, m, matrix), rtol=1e-12)
    state.scale(m, np.arange(1.0, len(m.index) + 1))
    np.testing.assert_allclose(
        np.asarray(state["w"]), by_hand(turned(value, m, matrix), m, None, np.arange(1.0, len(m.index) + 1)), rtol=1e-12
    )
    assert np.array_equal(np.asarray(arrays["w"]), value)
    assert state.busy == ["w"]
    assert (list(state), len(state), "w" in state, "v" in state) == (["w", "other"], 2, True, False)
    assert state["other"] is arrays["other"]
    assert np.array_equal(
        rows(value, m),
        np.stack(
            [
                np.take(value, i, axis=m.axis).reshape(m.k, -1)
                if m.axis == 0
                else np.moveaxis(np.take(value, i, axis=m.axis), m.axis, 0).reshape(m.k, -1)
                for i in m.index
            ]
        ).reshape(len(m.index), -1),
    )
    assert np.array_equal(rows(value, m, 0), rows(value, replace(m, index=m.index[:, :1])))


@pytest.mark.parametrize("room", [0, 8 * 72, 1 << 20])
def test_what_is_held_is_what_would_be_made_again(room: int) -> None:
    arrays = {n: RNG.normal(size=SHAPE) for n in ("w", "v")}
    state = Changed(arrays, room=room)
    matrix = RNG.normal(size=(3, 3))
    for name in ("w", "v"):
        state.turn(replace(TURNED[2], tensor=name), matrix)
    first = {n: state[n].copy() for n in arrays}
    assert sum(v.nbytes for v in state._held.values()) <= room
    assert (state["w"] is state["w"]) == (room >= 8 * 72)
    other = state.copy()
    state.place("w", Placement().then(TURNED[0], 6, np.array([1, 0, 2, 3, 4, 5])))
    assert np.array_equal(state["w"], first["w"][[1, 0, 2, 3, 4, 5]])
    assert np.array_equal(other["w"], first["w"])
    state.put("v", np.ones(SHAPE))
    assert (state["v"] == 1).all()
    state.forget()
    assert np.array_equal(state["w"], first["w"][[1, 0, 2, 3, 4, 5]])
    assert state.shapes == {"w": SHAPE, "v": SHAPE}
    assert sum(v.nbytes for v in state._held.values()) <= room


class Stays(Changed):
    keeps = True


def test_what_is_kept_is_changed_in_its_place() -> None:
    state = Stays({"w": np.eye(3)})
    state.scale(Member("w", 0, blocks(3), "out"), np.array([2.0, 1.0, 1.0]))
    assert state["w"][0, 0] == 2
    state.scale(Member("w", 0, blocks(3), "out"), np.array([2.0, 1.0, 1.0]))
    assert state["w"][0, 0] == 4
    assert state["w"] is state["w"]


def basis(kind: str, d: int = 4, pairs: tuple[tuple[int, ...], ...] = (), norms: tuple[Norm, ...] = ()) -> Basis:
    members = (Member("a", 0, blocks(d), "out"), Member("b", 1, blocks(d), "in"))
    return Basis("x", d, kind, members, (1, -1), pairs, norms)


@pytest.mark.parametrize(
    ("kind", "pairs"),
    [
        ("orthogonal", ()),
        ("centred", ()),
        ("invertible", ()),
        ("rotary", ((0, 2),)),
        ("rotary", ((0, 2), (1, 3))),
        ("signs", ((0, 2), (1,))),
        ("scales", ((0,), (3,))),
    ],
)
def test_a_product_does_not_see_the_basis(kind: str, pairs: tuple[tuple[int, ...], ...]) -> None:
    b = basis(kind, pairs=pairs)
    m = drawn(b, np.random.default_rng(3))
    state = Changed({"a": RNG.normal(size=(4, 3)), "b": RNG.normal(size=(2, 4))})
    before = state["b"] @ state["a"]
    change(state, b, m)
    np.testing.assert_allclose(state["b"] @ state["a"], before, rtol=1e-9, atol=1e-12)
    assert not np.allclose(m, np.eye(4))
    assert np.abs(np.linalg.det(m)) > 1e-3
    if kind in ("orthogonal", "centred"):
        np.testing.assert_allclose(m @ m.T, np.eye(4), atol=1e-12)
    if kind == "centred":
        np.testing.assert_allclose(m @ np.ones(4), np.ones(4), atol=1e-12)
    rest = [i for i in range(4) if i not in {j for p in pairs for j in p}]
    assert others(b).tolist() == rest
    if kind == "rotary":
        for i, j in pairs:
            assert not m[[i, j]][:, [k for k in range(4) if k not in (i, j)]].any()
            np.testing.assert_allclose((m[i, i], m[i, j]), (m[j, j], -m[j, i]))
        if len(rest) == 2:
            assert not np.allclose(m[np.ix_(rest, rest)] @ m[np.ix_(rest, rest)].T, np.eye(2))
    if kind in ("signs", "scales"):
        assert np.array_equal(m, np.diag(np.diag(m)))
        assert (np.diag(m)[rest] == 1).all()
        assert is_signed_order(m) == (kind == "signs")


@pytest.mark.parametrize("d", [2, 3, 7])
def test_the_centring_basis(d: int) -> None:
    u = centring(d)
    np.testing.assert_allclose(u.T @ u, np.eye(d - 1), atol=1e-12)
    np.testing.assert_allclose(u.sum(0), 0, atol=1e-12)


def test_signed_orders() -> None:
    assert is_signed_order(np.array([[0, -1], [1, 0]]))
    for wrong in ([[1, 1], [0, 0]], [[1, 0], [1, 0]], [[0.5, 0], [0, 1]], [[0, 0], [0, 1]]):
        assert not is_signed_order(np.array(wrong))


def test_gains_are_folded_and_unfolded() -> None:
    norm = Norm("g", 1.0, "s", (("b", 1),))
    b = basis("orthogonal", norms=(norm,))
    arrays = {
        "a": RNG.normal(size=(4, 3)),
        "b": RNG.normal(size=(2, 4)),
        "g": RNG.normal(size=4),
        "s": RNG.normal(size=4),
    }
    state = Changed(arrays)
    g = 1 + arrays["g"]
    assert np.array_equal(gain(arrays, norm), g)
    gains = fold(state, b)
    assert list(gains) == ["g"]
    np.testing.assert_allclose(gains["g"], g)
    np.testing.assert_allclose(state["g"], 0, atol=1e-12)
    np.testing.assert_allclose(state["s"], arrays["s"] / g)
    np.testing.assert_allclose(state["b"], arrays["b"] * g)
    unfold(state, b, gains)
    for name, value in arrays.items():
        np.testing.assert_allclose(state[name], value, rtol=1e-12, atol=1e-12)
    zero = {**arrays, "g": np.array([0.0, -1.0, 1.0, 2.0])}
    with pytest.raises(InvalidArgument, match="0 at 1"):
        fold(Changed(zero), b)
    with pytest.raises(InvalidArgument, match="0 at 1"):
        unfold(Changed(zero), basis("orthogonal", norms=(replace(norm, bias=None),)), {"g": gain(zero, norm)})
    plain = Changed(zero)
    fold(
        plain, basis("orthogonal", norms=(replace(norm, bias=None),))
    )  # a unit that nothing passes: one from now on, and nobody reads it
    np.testing.assert_allclose(plain["g"], 0, atol=1e-12)
    np.testing.assert_allclose(plain["b"], zero["b"] * [1, 0, 2, 3])
    assert tensors_of([b]) == ["a", "b", "g", "s"]


def test_a_gain_that_is_held_follows_an_order_and_nothing_else() -> None:
    norm = Norm("g", 0.0, "s")
    b = basis("orthogonal", norms=(norm,))
    assert held(b) == [norm]
    assert held(basis("orthogonal", norms=(Norm("g", 0.0, None, (("b", 1),)),))) == []
    arrays = {
        "a": RNG.normal(size=(4, 3)),
        "b": RNG.normal(size=(2, 4)),
        "g": np.array([1.0, 2.0, 3.0, 4.0]),
        "s": np.ones(4),
    }
    order = np.eye(4)[[2, 0, 3, 1]] * np.array([[1], [-1], [1], [1]])
    state = Changed(arrays)
    change(state, b, order)
    assert state["g"].tolist() == [3, 1, 4, 2]
    turn = drawn(b, np.random.default_rng(0))
    with pytest.raises(InvalidArgument, match="cannot be folded"):
        change(Changed(arrays), b, turn)
    state = Changed({**arrays, "g": np.full(4, 2.0)})
    change(state, b, turn)
    assert state["g"].tolist() == [2, 2, 2, 2]
    near = basis("orthogonal", norms=(Norm("g", 1.0),))
    change(
        Changed({**arrays, "g": np.array([1.0, 1.0, 1.0, 1.0 + 2e-16 + 1e-15])}), near, turn
    )  # the same but for rounding
    gains = fold(state, b)
    np.testing.assert_allclose(state["s"], 0.5)
    assert state["g"].tolist() == [2, 2, 2, 2]
    unfold(state, b, gains)
    np.testing.assert_allclose(state["s"], 1)
    two = basis("orthogonal", norms=(Norm("g", 0.0, "s", (("b", 1),)), Norm("h", 0.0, "t", (("b", 1),))))
    assert left(two, ()) is two
    assert left(two, {"g"}).norms == (Norm("g"), two.norms[1])


# ---- guesses for heads


def forms(d: int, **options: Any) -> list[tuple[str, tuple[tuple[int, int], ...]]]:
    members = (Member("q", 0, blocks(d), "out"), Member("k", 0, blocks(d), "out"))
    found = query_forms("queries", members, (1, -1), ("heads", 0), **options)
    assert all(
        (b.size, b.members, b.exponents, b.parent, b.name) == (d, members, (1, -1), ("heads", 0), "queries")
        for b in found
    )
    return [(b.kind, b.pairs) for b in found]


def test_forms_of_queries() -> None:
    assert forms(1) == [("invertible", ())]
    assert forms(2) == [("invertible", ()), ("rotary", ((0, 1),)), ("signs", ((0, 1),))]
    four = [((0, 2), (1, 3)), ((0, 1), (2, 3)), ((0, 1),), ((2, 3),)]
    assert forms(4, kinds=("rotary",)) == [("invertible", ()), *(("rotary", p) for p in four)]
    assert forms(4)[1:] == [(kind, p) for kind in ("rotary", "signs") for p in four]
    three = dict.fromkeys(p for _, p in forms(3)[1:])
    assert list(three) == [((0, 1),), ((1, 2),)]
    lengths = [2 * len(p) for _, p in forms(40, kinds=("rotary",))[1:]]
    assert list(dict.fromkeys(lengths)) == [40, 20, 10, 30, 16, 32]
    assert lengths == [40, 40, *[20] * 4, *[10] * 4, *[30] * 4, *[16] * 4, *[32] * 4]
    assert all(len({i for p in pairs for i in p}) == 2 * len(pairs) for _, pairs in forms(12))
    assert all(0 <= i < 12 for _, pairs in forms(12) for p in pairs for i in p)


# ---- the tensors of a network


def test_tensors_by_their_first_name() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.register_buffer("count", torch.tensor(3))
            self.register_buffer("view", self.a.bias.detach()[:2])
            self.register_buffer("same", self.a.bias.detach())
            self.register_buffer("none", torch.zeros(0, 3))
            self.register_buffer("nothing", torch.zeros(0, 3))
            self.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))

        def get_extra_state(self) -> Any:
            return {"a": 1}

        def set_extra_state(self, state: Any) -> None:
            pass

    named, aliases = state_tensors(Odd())
    assert list(named) == ["phase", "view", "same", "none", "nothing", "a.weight", "b.bias"]
    assert aliases == {"same": ["a.bias"], "a.weight": ["b.weight"]}
    compiled = nn.Module()
    compiled._orig_mod = nn.Linear(2, 2)
    assert list(state_tensors(compiled)[0]) == ["weight", "bias"]
    with pytest.raises(CannotTrace, match="run the model once"):
        state_tensors(nn.Sequential(nn.LazyLinear(3)))
    assert wl.trace(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), torch.randn(4, 2)).aliases == {}


def test_pairs_are_turned_by_every_angle() -> None:
    b, rng = basis("rotary", pairs=((0, 2), (1, 3))), np.random.default_rng(0)
    made = [drawn(b, rng) for _ in range(40)]
    angles = np.array([[np.arctan2(m[j, i], m[i, i]) for i, j in b.pairs] for m in made])
    assert np.histogram(angles, 4, (-np.pi, np.pi))[0].min() >= 10
    assert np.abs(angles[:, 0] - angles[:, 1]).min() > 1e-3

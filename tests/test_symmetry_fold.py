"""Different widths: what a network could do without is folded away, and who has no partner is said."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import weightlapse as wl
from tests.oracles_symmetry import State, mlp_wiring, planted, random_state
from weightlapse.symmetry.fold import _ACTIVATIONS, FoldedGroup, fold, without
from weightlapse.symmetry.widths import Correspondence, OneSize, common, correspondence, laid_out, wiring_for
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member, blocks

ACTS = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}
KIND = {"tanh": "sign", "relu": "scale"}


def wiring(sizes: list[int], act: str) -> Wiring:
    w = mlp_wiring(sizes, KIND[act])
    return replace(w, groups=tuple(replace(g, ops=frozenset({act})) for g in w.groups))


def run(state: State, x: np.ndarray, act: str) -> np.ndarray:
    layers = len(state) // 2
    for i in range(1, layers + 1):
        x = x @ state[f"fc{i}.weight"].T + state[f"fc{i}.bias"]
        x = ACTS[act](x) if i < layers else x
    return x


def grown(state: State, layer: int, act: str, rng: np.random.Generator, split: int, constant: int, dead: int) -> State:
    """The same function with more units: copies up to sign or scale, constant ones, and ones that nobody hears."""
    w, b, out, bias = (state[f"fc{layer + d}.{n}"] for d, n in ((0, "weight"), (0, "bias"), (1, "weight"), (1, "bias")))
    out, bias, rows, biases, columns = out.copy(), bias.copy(), [], [], []
    for u in rng.integers(0, len(w), split):
        share, factor = rng.random(), rng.choice([-1.0, 1.0]) if act == "tanh" else np.exp(rng.normal())
        rows.append(factor * w[u])
        biases.append(factor * b[u])
        columns.append(share * out[:, u] / factor)
        out[:, u] *= 1 - share
    for _ in range(constant):
        rows.append(0 * w[0])
        biases.append(1 + rng.random())
        columns.append(rng.normal(size=len(out)))
        bias -= columns[-1] * ACTS[act](biases[-1])
    for _ in range(dead):
        rows.append(rng.normal(size=w.shape[1]))
        biases.append(rng.normal())
        columns.append(np.zeros(len(out)))
    return state | {
        f"fc{layer}.weight": np.concatenate([w, np.reshape(rows, (-1, w.shape[1]))]),
        f"fc{layer}.bias": np.append(b, biases),
        f"fc{layer + 1}.weight": np.concatenate([out, np.reshape(columns, (-1, len(out))).T], axis=1),
        f"fc{layer + 1}.bias": bias,
    }


@pytest.mark.parametrize("act", ACTS)
def test_a_wider_student_holds_its_teacher(act: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        w = wiring([10, 8, 8, 1], act)
        teacher = random_state(w, rng)
        student = grown(grown(teacher, 1, act, rng, 2, 1, 1), 2, act, rng, 1, 2, 1)
        student, _ = planted(student, wiring([10, 12, 12, 1], act), rng, signs=True, scales=True)
        x = rng.normal(size=(40, 10))
        assert np.abs(run(teacher, x, act) - run(student, x, act)).max() < 1e-12
        al = wl.align(teacher, student, w)
        assert al.distance_after < 1e-8
        assert al.distance_before > 0.5
        assert {n: v.shape for n, v in al.state.items()} == {n: v.shape for n, v in teacher.items()}
        assert np.abs(run(al.state, x, act) - run(student, x, act)).max() < 1e-12
        first = al.units["fc1"]
        assert len(first.matched) == 8
        assert (len(first.folded.merged), len(first.folded.constant), len(first.folded.dropped)) == (2, 1, 1)
        assert sorted(
            first.folded.kept + tuple(m[0] for m in first.folded.merged) + first.folded.constant + first.folded.dropped
        ) == list(range(12))
        assert any("2 of b merged" in n and "1 of b constant" in n for n in al.notes)


@pytest.mark.parametrize("act", ACTS)
def test_unrelated_networks_of_other_widths(act: str) -> None:
    rng = np.random.default_rng(1)
    w = wiring([6, 9, 7, 2], act)
    a, x = random_state(w, rng), rng.normal(size=(30, 6))
    for sizes in ([6, 5, 7, 2], [6, 12, 7, 2], [6, 5, 11, 2], [6, 12, 12, 2]):
        b = random_state(wiring(sizes, act), rng)
        al = wl.align(a, b, w)
        assert np.abs(run(al.state, x, act) - run(b, x, act)).max() < 1e-12, "its function stays"
        for i, (mine, theirs) in enumerate(zip((9, 7), sizes[1:3], strict=True), 1):
            c = al.units[f"fc{i}"]
            assert len(c.matched) == min(mine, theirs)
            assert len(c.unmatched_a) == max(mine - theirs, 0)
            assert len(c.unmatched_b) == max(theirs - mine, 0)
            assert al.state[f"fc{i}.bias"].shape == (max(mine, theirs),)
        assert al.notes
        with pytest.raises(wl.InvalidArgument, match="one state only"):
            al.apply(b)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(ACTS)), st.integers(0, 10**6), st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_folding_never_changes_the_function(act: str, seed: int, counts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    base = random_state(wiring([4, 5, 6, 2], act), rng)
    wide = grown(grown(base, 1, act, rng, *counts[:3]), 2, act, rng, *counts[3:])
    w = wiring([4, 5 + sum(counts[:3]), 6 + sum(counts[3:]), 2], act)
    folded = fold(wide, w)
    x = rng.normal(size=(25, 4))
    scale = max(1.0, float(np.abs(run(wide, x, act)).max()))
    assert np.abs(run(folded.state, x, act) - run(wide, x, act)).max() < 1e-11 * scale
    assert folded.wiring.group("fc1").size == len(folded.groups["fc1"].kept) == 5
    assert folded.wiring.group("fc2").size == len(folded.groups["fc2"].kept) == 6
    assert folded.state["fc2.weight"].shape == (6, 5)


def test_an_irreducible_network_is_left_as_it_is() -> None:
    w = wiring([4, 6, 6, 2], "tanh")
    a = random_state(w, np.random.default_rng(0))
    folded = fold(a, w)
    assert all(np.array_equal(folded.state[n], a[n]) for n in a)
    assert folded.groups["fc1"].kept == tuple(range(6))
    with pytest.raises(wl.InvalidArgument, match="negative"):
        fold(a, w, tolerance=-1)


def test_tolerance_decides_what_is_a_copy() -> None:
    rng = np.random.default_rng(0)
    w = wiring([4, 6, 2], "tanh")
    a = random_state(w, rng)
    a["fc1.weight"][5] = -a["fc1.weight"][2] * (1 + 1e-4)
    a["fc1.bias"][5] = -a["fc1.bias"][2]
    assert not fold(a, w, tolerance=1e-6).groups["fc1"].merged
    (found,) = fold(a, w, tolerance=1e-3).groups["fc1"].merged
    assert {found[0], found[1]} == {2, 5}
    assert found[2] == -1.0


def test_a_layer_that_nobody_hears_keeps_one_silent_unit() -> None:
    w = wiring([3, 5, 2], "relu")
    a = random_state(w, np.random.default_rng(0))
    a["fc2.weight"][:] = 0
    folded = fold(a, w)
    assert folded.state["fc1.weight"].shape == (1, 3)
    assert np.allclose(run(folded.state, np.ones((1, 3)), "relu"), a["fc2.bias"])


def test_convolutions_of_other_widths() -> None:
    def cnn(channels: int, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten(), nn.Linear(channels * 16, 3)
        ).eval()

    x = torch.randn(8, 1, 6, 6)
    a, b = cnn(6, 0), cnn(4, 1)
    w = wl.trace(a, x)
    assert wiring_for(w, {n: tuple(v.shape) for n, v in b.state_dict().items()}).groups[0].size == 4
    al = wl.align(a, b, w, data=x)
    a.load_state_dict(al.state, strict=False)
    with torch.no_grad():
        assert torch.allclose(a(x), b(x), atol=1e-5)
    wide = wl.widen(b, {wl.trace(b, x).groups[0].name: 6}, x, seed=0).model
    assert wl.align(b, wide, wl.trace(b, x), data=x).distance_after < 1e-6
    assert wl.compare(b, wide, data=x).verdict == "same function on the data"


def test_what_cannot_be_laid_side_by_side() -> None:
    w = mlp_wiring([3, 4, 2])
    a = random_state(w, np.random.default_rng(0))
    with pytest.raises(wl.CannotAlign, match="more than hidden units"):
        wl.align(a, random_state(mlp_wiring([5, 4, 2]), np.random.default_rng(0)), w)
    odd = a | {"fc1.weight": np.zeros((6, 3))}
    with pytest.raises(wl.CannotAlign, match="disagree"):
        wl.align(a, odd, w)


# ---- what folding decides


@pytest.mark.parametrize("op", sorted(_ACTIVATIONS))
def test_a_constant_unit_says_what_its_activation_says(op: str) -> None:
    z = torch.linspace(-3, 3, 13, dtype=torch.float64)
    real = getattr(nn.functional, op) if hasattr(nn.functional, op) else getattr(torch, op)
    assert np.allclose(_ACTIVATIONS[op](z.numpy()), real(z).numpy(), rtol=1e-14)


def test_what_only_unheard_units_hear_is_dropped_before_anything_is_merged() -> None:
    w = wiring([3, 6, 5, 4, 2], "tanh")
    a = random_state(w, np.random.default_rng(0))
    a["fc1.weight"][5], a["fc1.bias"][5] = a["fc1.weight"][2], a["fc1.bias"][2]
    a["fc2.weight"][:4, 5] = 0  # only unit 4 of the next layer hears the copy,
    a["fc3.weight"][:, 4] = 0  # and nobody hears that one
    found = fold(a, w).groups
    assert (found["fc1"].dropped, found["fc1"].merged) == ((5,), ())
    assert (found["fc2"].dropped, found["fc3"].dropped) == ((4,), ())


@pytest.mark.parametrize(("loud", "heard"), [(0.9e-6, False), (1.1e-6, True), (0.0, False)])
def test_heard_is_what_is_above_the_tolerance_of_the_loudest(loud: float, heard: bool) -> None:
    w = wiring([3, 4, 2], "tanh")
    for size in (1.0, 1e-9, 1e9):
        a = random_state(w, np.random.default_rng(0))
        a["fc2.weight"] = size * np.array([[1.0, 0.5, 0.5, loud], [0.0, 0.5, 0.0, 0.0]])
        found = fold(a, w).groups["fc1"]
        assert (found.kept, found.dropped) == ((0, 1, 2, 3) if heard else (0, 1, 2), () if heard else (3,))


@pytest.mark.parametrize(("fed", "constant"), [(0.9e-6, True), (1.1e-6, False), (0.0, True)])
def test_constant_is_what_is_fed_less_than_the_tolerance_of_the_most_fed(fed: float, constant: bool) -> None:
    w = wiring([2, 3, 2], "tanh")
    for size in (1.0, 1e-9):
        a = random_state(w, np.random.default_rng(0))
        a["fc1.weight"] = size * np.array([[1.0, 0.0], [fed, 0.0], [0.3, 0.4]])
        found = fold(a, w)
        assert found.groups["fc1"].constant == ((1,) if constant else ())
        if constant:
            assert np.allclose(
                found.state["fc2.bias"], a["fc2.bias"] + a["fc2.weight"][:, 1] * np.tanh(a["fc1.bias"][1])
            )
    a["fc1.weight"][:] = 0
    assert len(fold(a, w).groups["fc1"].constant) == 3, "of a layer that is fed nothing all units are constant"


def test_without_tolerance_only_the_same_is_a_copy() -> None:
    w = wiring([3, 5, 2], "tanh")
    a = random_state(w, np.random.default_rng(0))
    a["fc1.weight"][4], a["fc1.bias"][4] = -a["fc1.weight"][1], -a["fc1.bias"][1]
    ((unit, into, factor),) = fold(a, w, tolerance=0).groups["fc1"].merged
    assert ({unit, into}, factor) == ({1, 4}, -1.0)
    a["fc1.bias"][4] = np.nextafter(a["fc1.bias"][4], 9)
    assert fold(a, w, tolerance=0).groups["fc1"].merged == ()


def test_units_that_are_fed_nothing_are_alike_where_what_they_say_is_not_known() -> None:
    w = mlp_wiring([3, 4, 2], "scale")
    w = replace(w, groups=tuple(replace(g, ops=frozenset({"some"})) for g in w.groups))
    a = random_state(w, np.random.default_rng(0))
    for u in (1, 3):
        a["fc1.weight"][u] = a["fc1.bias"][u] = 0
    found = fold(a, w)
    ((unit, into, factor),) = found.groups["fc1"].merged
    assert ({unit, into}, factor) == ({1, 3}, 1.0)
    (place,) = [i for i, u in enumerate(found.groups["fc1"].kept) if u == into]
    assert np.allclose(found.state["fc2.weight"][:, place], a["fc2.weight"][:, 1] + a["fc2.weight"][:, 3])


def test_positions_move_up_in_every_member_and_in_what_it_sees_of_other_axes() -> None:
    g = Group("g", 4, (Member("x", 0, blocks(4), "out"), Member("y", 0, np.array([[3], [2], [1], [0]]), "out")))
    h = Group("h", 2, (Member("x", 1, blocks(2), "in", (0, np.array([0, 3]))),))
    w = Wiring((g, h), shapes={"x": (4, 3), "y": (4,)})
    a = {"x": np.arange(12.0).reshape(4, 3), "y": np.arange(4.0), "z": np.ones(4)}
    out, small = without(a, w, "g", [1, 2])
    assert out["x"].tolist() == [[0, 1, 2], [9, 10, 11]]
    assert out["y"].tolist() == [0, 3]
    assert out["z"] is a["z"]
    assert [m.index.ravel().tolist() for m in small.group("g").members] == [[0, 1], [1, 0]]
    (m,) = small.group("h").members
    assert m.where is not None
    assert (m.axis, m.index.ravel().tolist(), m.where[0], m.where[1].tolist()) == (1, [0, 1], 0, [0, 1])
    assert (small.group("g").size, small.group("h").size) == (2, 2)
    assert {n: tuple(s) for n, s in small.shapes.items()} == {"x": (2, 3), "y": (2,)}


def test_folds_follow_one_another_in_the_first_numbers() -> None:
    first = FoldedGroup((0, 2, 4, 5, 7), ((1, 0, -1.0),), (3,), (6,))
    both = first.then(FoldedGroup((0, 3), ((1, 3, 2.0),), (2,), (4,)))
    assert both == FoldedGroup((0, 5), ((1, 0, -1.0), (2, 5, 2.0)), (3, 4), (6, 7))


# ---- other widths


def test_a_sentence_says_what_became_of_every_unit() -> None:
    folded = FoldedGroup((0, 1), ((2, 0, 1.0), (3, 0, 1.0)), (4,), (5, 6, 7))
    assert Correspondence(((0, 0),), (), ()).sentence("g") == "g: 1 units matched"
    assert Correspondence(((0, 0),), (1, 2), ()).sentence("g") == "g: 1 units matched, 2 of a without partner"
    assert Correspondence(((0, 0),), (), (1,), folded).sentence("g") == (
        "g: 1 units matched, 2 of b merged, 1 of b constant, now in the next bias, 3 of b dropped because nobody listens, "
        "1 of b without partner"
    )


def test_both_networks_in_one_size_print_no_weights() -> None:
    w = mlp_wiring([3, 4, 2])
    rng = np.random.default_rng(0)
    a, b = random_state(w, rng), random_state(mlp_wiring([3, 5, 2]), rng)
    sizes = OneSize.of(a, b, w, None, 1e-6)
    shown = {f.name for f in fields(sizes) if f.repr}
    assert not shown & {"a", "b", "states"}


@pytest.mark.parametrize("seed", range(4))
def test_who_corresponds_to_whom(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size_a, kept = 4, (0, 2, 3, 5, 6)
    folded = FoldedGroup(kept, ((1, 0, 1.0),), (4,), ())
    order = rng.permutation(5)
    c = correspondence(order, size_a, len(kept), folded, 7)
    assert c.matched == tuple((u, kept[order[u]]) for u in range(4))
    assert (c.unmatched_a, c.unmatched_b) == ((), (kept[order[4]],))
    c = correspondence(order, 5, 3, None, 3)
    assert c.matched == tuple((u, int(v)) for u, v in enumerate(order) if v < 3)
    assert (c.unmatched_a, c.unmatched_b) == (tuple(u for u, v in enumerate(order) if v >= 3), ())


def test_groups_of_other_places_or_of_mixed_units_have_no_common_size() -> None:
    w, wide = mlp_wiring([3, 4, 2]), mlp_wiring([3, 6, 2])
    assert common(w, wide).group("fc1").size == common(wide, w).group("fc1").size == 6
    (g,), (h,) = w.groups, wide.groups
    for m in (
        Member("fc1.weight", 1, blocks(4), "out"),
        Member("fc2.weight", 0, blocks(4), "out"),
        Member("fc1.weight", 0, blocks(4), "add"),
    ):
        other = replace(w, groups=(replace(g, members=(m, *g.members[1:])),))
        with pytest.raises(wl.CannotAlign, match="lives in other places in the second network"):
            common(w, other)
    for op, fine in (("layer_norm", False), ("softmax", False), ("mean", False), ("sum", False), ("relu", True)):
        for pair in ((replace(g, ops=frozenset({op})), h), (g, replace(h, ops=frozenset({op})))):
            first, second = (replace(x, groups=(y,)) for x, y in zip((w, wide), pair))
            if fine:
                assert common(first, second).group("fc1").size == 6
            else:
                with pytest.raises(wl.CannotAlign, match="and its units are mixed"):
                    common(first, second)
            same = replace(w, groups=(replace(g, ops=frozenset({op})),))
            assert common(same, same).group("fc1").size == 4, "of one size nothing is added"


def test_where_nothing_makes_the_units_none_is_taken_for_constant() -> None:
    members = (Member("b", 0, blocks(3), "add"), Member("y", 1, blocks(3), "in"))
    group = Group("g", 3, members, frozenset({"permutation"}), ops=frozenset({"relu"}))
    w = Wiring((group,), shapes={"b": (3,), "y": (2, 3)})
    found = fold({"b": np.array([1.0, 2.0, 3.0]), "y": np.eye(2, 3) + 1}, w).groups["g"]
    assert found == FoldedGroup((0, 1, 2))


@pytest.mark.parametrize(
    ("sizes", "folded"),
    [([3, 4, 4, 2], False), ([3, 4, 6, 2], True), ([3, 3, 4, 2], False), ([3, 3, 6, 2], True), ([3, 4, 5, 2], False)],
)
def test_the_second_network_is_folded_where_one_of_its_groups_is_larger(sizes: list[int], folded: bool) -> None:
    rng = np.random.default_rng(0)
    a, b = random_state(wiring([3, 4, 5, 2], "tanh"), rng), random_state(wiring(sizes, "tanh"), rng)
    b["fc3.weight"][:, 0] = 0  # a unit that nobody hears
    found = OneSize.of(a, b, wiring([3, 4, 5, 2], "tanh"), None, 1e-6)
    assert bool(found.folded) is folded
    assert not folded or found.folded["fc2"].dropped == (0,)


def test_the_first_group_that_only_one_network_has_is_told() -> None:
    w = mlp_wiring([3, 4, 5, 2])
    a = random_state(w, np.random.default_rng(0))
    none = replace(w, groups=())
    for pair, side, other in (((w, none), "first", "second"), ((none, w), "second", "first")):
        with pytest.raises(wl.CannotAlign, match=f"group 'fc1' of the {side} network is no group of the {other}"):
            OneSize.of(a, a, *pair, 1e-6)


def test_what_no_unit_owns_has_the_same_length_in_both() -> None:
    w = Wiring((Group("g", 2, (Member("x", 0, blocks(2), "out"),)),), shapes={"x": (3, 2)})
    wide = Wiring((Group("g", 3, (Member("x", 0, np.array([[0], [1], [3]]), "out"),)),), shapes={"x": (4, 2)})
    x = np.arange(6.0).reshape(3, 2) + 1
    assert laid_out({"x": x}, w, wide)["x"].tolist() == [[1, 2], [3, 4], [5, 6], [0, 0]]
    with pytest.raises(wl.CannotAlign, match="'x' differs in axis 0 by more than hidden units"):
        laid_out({"x": np.ones((5, 2))}, w, wide)
    with pytest.raises(wl.CannotAlign, match="they differ by more than hidden units"):
        laid_out({"x": np.ones((3, 7))}, w, wide)


@pytest.mark.parametrize("why", ["none", "where", "shared", "uneven", "nested"])
def test_another_size_is_told_from_shapes_only_where_the_units_own_their_axis(why: str) -> None:
    k = 2 if why == "uneven" else 1
    m = Member("x", 0, blocks(2 if why == "shared" else 4, k), "out", (1, np.array([0])) if why == "where" else None)
    outer = Group("h", 2, (Member("y", 0, blocks(2), "out"),))
    group = Group("g", m.index.shape[0], (m,), parent=("h", 0) if why == "nested" else None)
    w = Wiring((outer, group), shapes={"x": (4 * k, 3), "y": (2, 1)})
    wide = {"x": (9 if k == 2 else 6, 3), "y": (2, 1)}
    if why == "none":
        assert wiring_for(w, wide).group("g").size == 6
    else:
        with pytest.raises(wl.CannotAlign, match="'x' differs in width and shares its axis 0 between groups"):
            wiring_for(w, wide)

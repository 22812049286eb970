"""What the matcher decides on networks of at most five units, held against every permutation and sign there is. Small and quick: `make mutate` runs it for each mutant."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tests.oracles_symmetry import mlp_wiring, planted, random_state
from weightlapse.errors import InvalidArgument, MissingExtra
from weightlapse.symmetry import assign as assignment
from weightlapse.symmetry import match
from weightlapse.symmetry.assign import assign, assign_blocks
from weightlapse.symmetry.match import Matcher, Move, _sorted
from weightlapse.symmetry.moved import Moved
from weightlapse.symmetry.nesting import Masked, Nesting
from weightlapse.symmetry.units import allowed_symmetries, units_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member, blocks

BOTH = frozenset({"permutation", "sign"})
ORDER = frozenset({"permutation"})


def product(a: Any, b: Any) -> float:
    return float(sum(np.sum(a[t] * b[t]) for t in a))


def recurrent(units: int, *symmetries: str) -> Wiring:
    """``h = act(inp x + rec h)``: the units stand on both axes of ``rec``."""
    members = (Member("inp", 0, blocks(units), "out"), Member("rec", 0, blocks(units), "out"), Member("rec", 1, blocks(units), "in"), Member("out", 1, blocks(units), "in"))  # fmt: skip
    return Wiring((Group("h", units, members, frozenset({"permutation", *symmetries})),), shapes={"inp": (units, 2), "rec": (units, units), "out": (1, units)})  # fmt: skip


def moves_of(size: int, sign: bool) -> Any:
    for order in itertools.permutations(range(size)):
        for flip in itertools.product((False, True), repeat=size) if sign else [(False,) * size]:
            yield np.array(order), np.array(flip)


def moved_by(w: Wiring, allowed: frozenset[str], b: Any, name: str, order: Any, flip: Any) -> Any:
    """By the definition: each part of a unit taken from where the unit was, with its sign."""
    (group,) = [g for g in w.groups if g.name == name]
    out = {t: v.copy() for t, v in b.items()}
    for part in units_of(group, allowed).parts:
        out[part.tensor] = part.moved(out[part.tensor], order, np.where(flip, -1.0, 1.0))
    return out


def best_of(w: Wiring, allowed: frozenset[str], a: Any, b: Any, name: str) -> float:
    (group,) = [g for g in w.groups if g.name == name]
    return max(
        product(a, moved_by(w, allowed, b, name, *m))
        for m in moves_of(group.size, "sign" in allowed & group.symmetries)
    )


def state_of(matcher: Matcher) -> Any:
    """Everything that a move changes."""
    at = {n: (matcher.at.order[n].tolist(), matcher.at.factor[n].tolist()) for n in matcher.at.order}
    return (
        {t: matcher.b[t].copy() for t in matcher.b},
        at,
        dict(matcher._version),
        {k: (v, c.copy()) for k, (v, c) in matcher._cost_cache.items()},
    )


def same(x: Any, y: Any) -> bool:
    arrays = all(np.array_equal(x[0][t], y[0][t]) for t in x[0])
    costs = x[3].keys() == y[3].keys() and all(
        x[3][k][0] == y[3][k][0] and np.array_equal(x[3][k][1], y[3][k][1]) for k in x[3]
    )
    return arrays and x[1:3] == y[1:3] and costs


# ---- the assignment ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_an_assignment_is_the_best_of_all(n: int) -> None:
    rng = np.random.default_rng(n)
    stack = rng.integers(-3, 4, (30, n, n)).astype(float)
    best = [max(sum(v[i, p[i]] for i in range(n)) for p in itertools.permutations(range(n))) for v in stack]
    for chosen in (
        [assign(v) for v in stack],
        assign_blocks(stack),
        assign_blocks(stack.reshape(5, 6, n, n)).reshape(30, n),
    ):
        assert all(sorted(p) == list(range(n)) for p in np.array(chosen).tolist())
        assert [sum(v[i, p[i]] for i in range(n)) for v, p in zip(stack, chosen)] == best


def test_where_the_largest_entries_stand_apart_nothing_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def solver() -> Any:
        real = linear_sum_assignment
        return lambda value, maximize: asked.append(value.tolist()) or real(value, maximize=maximize)

    monkeypatch.setattr(assignment, "_solver", solver)
    apart, clash = np.eye(4)[[2, 0, 3, 1]], np.ones((4, 4)) * [0, 3, 1, 2]
    assert assign(apart).tolist() == [2, 0, 3, 1]
    assert assign_blocks(np.stack([apart, apart.T])).tolist() == [[2, 0, 3, 1], [1, 3, 0, 2]]
    assert asked == []
    assert sorted(assign(clash).tolist()) == [0, 1, 2, 3]
    assert assign_blocks(np.stack([apart, clash, apart]))[0].tolist() == [2, 0, 3, 1]
    assert asked == [clash.tolist()] * 2


def test_without_scipy_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    for solve, value in ((assign, np.ones((2, 2))), (assign_blocks, np.ones((1, 2, 2)))):
        with pytest.raises(MissingExtra, match="aligning two networks"):
            solve(value)
    assert assign(np.eye(2)).tolist() == [0, 1], "which is not asked for where nothing is searched"


# ---- one step ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("allowed", [ORDER, BOTH])
def test_a_step_is_the_best_there_is_for_its_group(seed: int, allowed: frozenset[str]) -> None:
    rng = np.random.default_rng(seed)
    w = mlp_wiring([2, 4, 3, 2], "sign")
    a, b = random_state(w, rng), random_state(w, rng)
    matcher = Matcher(a, b, w, allowed)
    for name in ("fc1", "fc2", "fc1"):
        now = {t: matcher.b[t].copy() for t in matcher.b}
        before, best = product(a, now), best_of(w, allowed, a, now, name)
        pairs = matcher._pairs([matcher.units[name]], None, False)
        move = pairs.best()
        assert pairs.gain(move) == pytest.approx(best - before, abs=1e-12)
        assert matcher.improve(matcher.units[name]) is bool(best > before + 1e-12)
        assert product(a, matcher.b) == pytest.approx(best, abs=1e-12)
        after = state_of(matcher)
        assert not matcher.improve(matcher.units[name]), "it is the best already"
        assert same(state_of(matcher), after)
    element = matcher.at.on_arrays(b, matcher.units)
    assert all(np.allclose(element[t], matcher.b[t]) for t in a), "what it says it did is what it did"


def test_what_is_given_is_not_changed() -> None:
    rng = np.random.default_rng(0)
    w = mlp_wiring([2, 4, 3, 2], "sign")
    a, b = random_state(w, rng), random_state(w, rng)
    kept = {t: v.copy() for t, v in b.items()}, {t: v.copy() for t, v in a.items()}
    Matcher(a, b, w, BOTH).descend()
    assert all(np.array_equal(b[t], kept[0][t]) and np.array_equal(a[t], kept[1][t]) for t in a)


def test_a_move_must_raise_the_objective_by_more_than_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    w = mlp_wiring([1, 2, 1])
    ones = {
        "fc1.weight": np.ones((2, 1)),
        "fc1.bias": np.zeros(2),
        "fc2.weight": np.ones((1, 2)),
        "fc2.bias": np.zeros(1),
    }
    matcher = Matcher(ones, {t: v.copy() for t, v in ones.items()}, w, ORDER)
    (u,) = matcher.steps
    swap = Move(u, np.array([1, 0]))
    assert not swap.idle
    assert Move(u, np.array([0, 1]), np.array([False, False])).idle
    assert not Move(u, np.array([0, 1]), np.array([False, True])).idle
    assert not Move(u, np.array([0, 1]), None, [swap]).idle
    monkeypatch.setattr(match.Pairs, "best", lambda *_, **__: swap)
    for gain, taken in (
        (0.0, False),
        (1.0, True),
        (-1.0, False),
        (matcher._epsilon * 4 / 2, False),
        (matcher._epsilon * 4 * 2, True),
    ):
        monkeypatch.setattr(match.Pairs, "gain", lambda *_, gain=gain: gain)
        matcher.begin(ones)
        assert matcher.improve(u) is taken, gain
        assert (matcher.at.order["fc1"].tolist() == [1, 0]) is taken


def test_rounding_is_that_of_the_numbers() -> None:
    w = mlp_wiring([2, 3, 1])
    a = random_state(w, np.random.default_rng(0))
    assert Matcher(a, a, w, ORDER)._epsilon == 1e-13
    mixed = {t: v.astype(np.float32) if t == "fc1.bias" else v for t, v in a.items()}
    assert Matcher(mixed, mixed, w, ORDER)._epsilon == 1e-6


def test_a_step_is_asked_again_when_its_weights_have_moved() -> None:
    rng = np.random.default_rng(3)
    w = mlp_wiring([2, 4, 4, 2])
    a, b = random_state(w, rng), random_state(w, rng)
    matcher = Matcher(a, b, w, ORDER)
    one, two = matcher.units["fc1"], matcher.units["fc2"]
    matcher.improve(one)
    asked: list[str] = []
    real = matcher._pairs
    matcher._pairs = lambda groups, *rest: asked.append(groups[0].name) or real(groups, *rest)  # type: ignore[method-assign, func-returns-value]
    assert not matcher.improve(one)
    assert asked == []
    matcher.apply(Move(two, np.array([1, 0, 2, 3])))
    matcher.improve(one)
    assert asked == ["fc1"]
    matcher.improve(one, np.array([0, 1]))
    assert asked == ["fc1", "fc1"], "some units alone are always asked"


@pytest.mark.parametrize("seed", range(5))
def test_some_units_move_among_themselves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = mlp_wiring([2, 5, 2])
    a, b = random_state(w, rng), random_state(w, rng)
    matcher, some = Matcher(a, b, w, ORDER), np.array([0, 2, 3])
    best = max(
        product(a, moved_by(w, ORDER, b, "fc1", np.array([p[0], 1, p[1], p[2], 4]), np.zeros(5, bool)))
        for p in itertools.permutations(some)
    )
    assert matcher.improve(matcher.units["fc1"], some) is bool(best > product(a, b) + 1e-12)
    assert product(a, matcher.b) == pytest.approx(best, abs=1e-12)


# ---- where the cost is quadratic -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("allowed", [ORDER, BOTH])
def test_recurrent_weights_are_never_moved_for_the_worse(seed: int, allowed: frozenset[str]) -> None:
    rng = np.random.default_rng(seed)
    w = recurrent(4, "sign")
    a, b = random_state(w, rng), random_state(w, rng)
    matcher = Matcher(a, b, w, allowed)
    (u,) = matcher.steps
    assert u.twice == {"rec"}
    for _ in range(4):
        before, held = product(a, matcher.b), state_of(matcher)
        taken = matcher.improve(u)
        after = product(a, matcher.b)
        assert after > before if taken else after == before
        assert taken or same(state_of(matcher), held), "a move that does not help is taken back whole"
    assert product(a, matcher.b) <= best_of(w, allowed, a, b, "h") + 1e-9


def test_a_bad_move_is_taken_back_whole_and_a_good_one_stays() -> None:
    rng = np.random.default_rng(1)
    w = recurrent(4, "sign")
    a = random_state(w, rng)
    b, _ = planted(a, w, rng)
    matcher = Matcher(a, b, w, BOTH)
    (u,) = matcher.steps
    tensors, held, now = {"inp", "rec", "out"}, state_of(matcher), product(a, b)
    good = bad = 0
    for order, flip in moves_of(4, True):
        matcher.begin(b)
        gain = product(a, moved_by(w, BOTH, b, "h", order, flip)) - now
        for least in (0.0, gain - 1e-9, gain + 1e-9):
            matcher.begin(b)
            fine = gain > least and abs(gain - least) > 1e-12
            assert matcher._try(Move(u, order, flip), tensors, least) is fine
            good, bad = good + fine, bad + (not fine)
            assert fine or same(state_of(matcher), held)
            assert product(a, matcher.b) == pytest.approx(now + gain * fine, abs=1e-9)
    assert good > 50
    assert bad > 50


# ---- evidence and signatures ---------------------------------------------------------------------------------------------------


def test_evidence_is_the_share_of_weights_whose_other_ends_are_known() -> None:
    w = mlp_wiring([3, 4, 5, 2])
    a = random_state(w, np.random.default_rng(0))
    m = Matcher(a, a, w, ORDER)
    one, two = m.units["fc1"], m.units["fc2"]
    assert m._evidence(one, set()) == (12 + 4) / (12 + 4 + 20)
    assert m._evidence(one, {"fc2"}) == 1.0
    assert m._evidence(two, set()) == (5 + 10) / (20 + 5 + 10)
    assert m._evidence(two, {"fc1"}) == 1.0
    assert [u.name for u in m.neighbours(one.parts[2])] == ["fc2"]
    assert [u.name for u in m.neighbours(one.parts[0])] == []
    assert [u.name for u in m.neighbours(two.parts[0])] == ["fc1"]


def test_evidence_of_a_single_number_is_all_of_it_and_of_none_is_none() -> None:
    w = Wiring((Group("g", 1, (Member("x", 0, blocks(1), "out"),)), Group("none", 2, (Member("mean", 0, blocks(2), "stat"),))), shapes={"x": (1,), "mean": (2,)})  # fmt: skip
    a = {"x": np.ones(1), "mean": np.ones(2)}
    m = Matcher(a, a, w, ORDER)
    assert m._evidence(m.units["g"], set()) == 1.0
    assert m._evidence(m.units["none"], set()) == 0.0


@pytest.mark.parametrize("signs", [False, True])
def test_signatures_find_a_planted_order_at_once(signs: bool) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        w = mlp_wiring([2, 5, 5, 5, 2], *(["sign"] if signs else []))
        a = random_state(w, rng)
        b, _ = planted(a, w, rng, signs=signs)
        m = Matcher(a, b, w, BOTH)
        m.start(signatures=True)
        m.descend()
        assert all(np.array_equal(m.b[t], a[t]) for t in a), seed
        assert m.unmistakable() is False, "of so few numbers nothing is beyond doubt"


def test_without_signatures_a_group_that_nothing_is_known_of_waits() -> None:
    w = Wiring(
        (
            Group("p", 3, (Member("x", 0, blocks(3), "out"),), frozenset({"permutation"})),
            Group(
                "q", 4, (Member("x", 1, blocks(4), "out"), Member("y", 0, blocks(4), "out")), frozenset({"permutation"})
            ),
        ),
        shapes={"x": (3, 4), "y": (4, 6)},
    )
    rng = np.random.default_rng(0)
    a = random_state(w, rng)
    b, _ = planted(a, w, rng)
    m = Matcher(a, b, w, ORDER)
    seen: list[str] = []
    real = m.apply
    m.apply = lambda move: seen.append(move.units.name) or real(move)  # type: ignore[method-assign, func-returns-value]
    m.start(signatures=False)
    assert seen == ["q", "p"], "the one with most known ends first"
    assert all(np.array_equal(m.b[t], a[t]) for t in a)
    m.begin(b)
    seen.clear()
    m._evidence = lambda u, known: 0.0  # type: ignore[method-assign]
    m.start(signatures=False)
    assert seen == []


def test_rows_are_sorted_along_the_unknown_axes() -> None:
    x = np.random.default_rng(0).integers(0, 9, (2, 3, 4))
    assert _sorted(x, (1,)).tolist() == np.sort(x, axis=1).tolist()
    both = _sorted(x, (1, 2))
    assert both.shape == x.shape
    for i in range(2):
        assert both[i].ravel().tolist() == sorted(x[i].ravel().tolist())
    outer = _sorted(x, (0, 2))
    for j in range(3):
        assert outer[:, j].ravel().tolist() == sorted(x[:, j].ravel().tolist())


@pytest.mark.parametrize(
    ("numbers", "cosine", "sure"),
    [(64, 0.81, True), (63, 0.99, False), (64, 0.79, False), (200, 0.81, True), (64, 0.8, False), (64, -0.99, False)],
)
def test_beyond_doubt_are_many_numbers_that_agree(numbers: int, cosine: float, sure: bool) -> None:
    w = Wiring(
        (Group("g", 2, (Member("x", 0, blocks(2), "out"),), frozenset({"permutation"})),), shapes={"x": (2, numbers)}
    )
    a = np.zeros((2, numbers))
    b = np.zeros((2, numbers))
    a[:, 0] = 1.0
    b[0, 0] = 1.0
    b[1, :2] = cosine, np.sqrt(1 - cosine**2)
    if cosine == 0.8:
        b[1, :2] = 4, 3
    assert Matcher({"x": a}, {"x": b}, w, ORDER).unmistakable() is sure
    assert Matcher({"x": a}, {"x": b}, w, frozenset()).unmistakable(), "what may not move is no matter of doubt"


# ---- what is done and remembered -----------------------------------------------------------------------------------------------


def test_descent_ends_when_nothing_moves_and_says_how_many_sweeps() -> None:
    w = mlp_wiring([2, 4, 4, 2])
    rng = np.random.default_rng(2)
    a, b = random_state(w, rng), random_state(w, rng)
    m = Matcher(a, a, w, ORDER)
    assert m.descend() == 1
    m.begin(b)
    sweeps = m.descend()
    assert sweeps >= 2
    assert m.descend() == 1
    m.begin(b)
    assert m.descend(sweeps=1) == 1
    assert m.at.order["fc1"].tolist() != [0, 1, 2, 3], "one sweep is one"
    m.begin(b)
    m.descend(only=[m.units["fc2"]])
    assert m.at.order["fc1"].tolist() == [0, 1, 2, 3]
    assert m.descend(rng=np.random.default_rng(0)) >= 1
    assert not any(m.improve(u) for u in m.steps)


def test_a_shuffle_moves_the_share_that_is_asked_for() -> None:
    w = mlp_wiring([2, 200, 2], "sign")
    a = random_state(w, np.random.default_rng(0))
    for share, low, high in ((0.0, 0, 0), (0.5, 70, 130), (1.0, 190, 200)):
        m = Matcher(a, a, w, BOTH)
        m.shuffle(np.random.default_rng(1), share)
        assert low <= (m.at.order["fc1"] != np.arange(200)).sum() <= high
        flipped = (m.at.factor["fc1"] < 0).sum()
        assert (flipped == 0) if share == 0 else abs(flipped - 100 * share) < 35
    m = Matcher(a, a, w, ORDER)
    m.shuffle(np.random.default_rng(1))
    assert (m.at.factor["fc1"] == 1).all()


def test_costs_are_held_as_far_as_there_is_room_the_newest_ones() -> None:
    w = mlp_wiring([2, 4, 4, 2])
    a = random_state(w, np.random.default_rng(0))
    m = Matcher(a, a, w, ORDER)
    u = m.units["fc1"]
    cost = np.zeros((4, 4))
    for room, held in (
        (3 * cost.nbytes, [0, 1, 2]),
        (2 * cost.nbytes, [1, 2]),
        (cost.nbytes, [2]),
        (cost.nbytes - 1, []),
    ):
        m.begin(a)
        m._costs_at_most = room
        for i, part in enumerate(u.parts):
            m._keep(u, i, part, cost)
        assert [i for _, i in m._cost_cache] == held
    m.begin(a)
    m._costs_at_most = 4 * cost.nbytes
    for i in (0, 1, 2, 0):
        m._keep(u, i, u.parts[i], cost)
    assert [i for _, i in m._cost_cache] == [1, 2, 0], "what is kept anew is new"
    m.begin(a)
    m._costs_at_most = 3 * cost.nbytes
    m._keep(u, 0, u.parts[0], cost)
    assert m._cached(u, 0, u.parts[0]) is cost
    m._version["fc1.weight"] += 1
    assert m._cached(u, 0, u.parts[0]) is None, "of weights that have moved since"
    assert m._cached(u, 1, u.parts[1]) is None
    assert Matcher(a, a, w, ORDER)._costs_at_most == 64 * 2**20
    assert match._COSTS_AT_LEAST == 64 * 2**20


def test_costs_follow_the_move_of_their_own_group() -> None:
    rng = np.random.default_rng(5)
    w = mlp_wiring([2, 4, 3, 2], "sign")
    a, b = random_state(w, rng), random_state(w, rng)
    m = Matcher(a, b, w, BOTH)
    u = m.units["fc1"]
    for i, part in enumerate(u.parts):
        m._cost(u, i, part)
    m.apply(Move(u, np.array([2, 0, 3, 1]), np.array([True, False, False, True])))
    for i, part in enumerate(u.parts):
        held = m._cached(u, i, part)
        assert held is not None
        assert np.allclose(held, part.rows(a[part.tensor]) @ part.rows(m.b[part.tensor]).T)


def test_groups_inside_a_unit_travel_with_it() -> None:
    inner = tuple(Group(f"h.{k}", 2, (Member("x", 0, blocks(4)[2 * k : 2 * k + 2], "out"), Member("y", 1, blocks(4)[2 * k : 2 * k + 2], "in")), frozenset({"permutation"}), parent=("h", k)) for k in range(2))  # fmt: skip
    outer = Group(
        "h", 2, (Member("x", 0, blocks(2, 2), "out"), Member("y", 1, blocks(2, 2), "in")), frozenset({"permutation"})
    )
    w = Wiring((outer, *inner), shapes={"x": (4, 3), "y": (3, 4)})
    rng = np.random.default_rng(0)
    a = random_state(w, rng)
    b, _ = planted(a, w, rng)
    m = Matcher(a, b, w, ORDER)
    assert [u.name for u in m.steps] == ["h"], "those inside are solved with it"
    m.start(signatures=True)
    m.descend()
    assert all(np.array_equal(m.b[t], a[t]) for t in a)
    element = m.at.on_arrays(b, m.units)
    assert all(np.array_equal(element[t], a[t]) for t in a)
    assert isinstance(m.b, Moved)


@pytest.mark.parametrize("known", [True, False])
def test_sketches_are_asked_of_big_groups_alone_and_once_in_a_descent(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match, "UNITS", 4)
    monkeypatch.setattr(match, "NUMBERS", 6)
    asked = []
    monkeypatch.setattr(match, "plain_partners", lambda even, odd: asked.append((even is not None, odd is not None)))
    a = random_state(mlp_wiring([5, 4, 2], "sign"), np.random.default_rng(0))
    for wiring, allowed, sees in (
        (mlp_wiring([5, 4, 2]), ORDER, (True, False)),
        (mlp_wiring([5, 4, 2], "sign"), BOTH, (False, True)),
    ):
        asked.clear()
        m = Matcher(a, a, wiring, allowed)
        (u,) = m.steps
        for _ in range(2):
            assert m._plain(u, set() if known else None) is None
        assert asked == ([sees, sees] if known else [sees]), "what they did not show is not asked again"
    m = Matcher(a, a, mlp_wiring([5, 4, 2]), ORDER)
    asked.clear()
    for units, numbers, times in ((5, 6, 0), (4, 8, 1), (4, 9, 0), (4, 7, 1)):
        monkeypatch.setattr(match, "UNITS", units)
        monkeypatch.setattr(match, "NUMBERS", numbers)
        asked.clear()
        m._plain(m.steps[0], set())
        assert len(asked) == times, (units, numbers)


def test_where_units_stand_on_both_axes_the_estimate_alone_decides_nothing() -> None:
    """The assignment promises a gain here that the weights do not keep: such a move is not made."""
    broken = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        w = recurrent(5)
        a, b = random_state(w, rng), random_state(w, rng)
        a["rec"], b["rec"] = 4 * a["rec"], 4 * b["rec"]
        m = Matcher(a, b, w, ORDER)
        (u,) = m.steps
        pairs = m._pairs([u], None, False)
        move, before = pairs.best(), product(a, b)
        true = product(a, moved_by(w, ORDER, b, "h", move.order, np.zeros(5, bool))) - before
        promised = pairs.gain(move) > 1e-6 and true < 0
        broken += promised
        taken = m.improve(u)
        assert not (promised and taken)
        assert product(a, m.b) >= before
    assert broken > 5


@pytest.mark.parametrize("exponents", [(1, 1, 2), (1, 1, -1), (1, 1, 3)])
def test_a_sign_acts_as_often_as_the_exponent_says(exponents: tuple[int, ...]) -> None:
    group = Group("h", 2, (Member("x", 0, blocks(2), "out"), Member("b", 0, blocks(2), "add"), Member("y", 1, blocks(2), "in")), frozenset({"permutation", "sign"}), exponents=exponents)  # fmt: skip
    w = Wiring((group,), shapes={"x": (2, 3), "b": (2, 1), "y": (2, 2)})
    a = random_state(w, np.random.default_rng(0))
    m = Matcher(a, a, w, BOTH)
    m.apply(Move(m.units["h"], np.array([1, 0]), np.array([True, False])))
    for tensor, e in zip(("x", "b", "y"), exponents):
        signs = np.array([-1.0, 1.0]) ** e
        expected = a[tensor][:, ::-1] * signs if tensor == "y" else (a[tensor][::-1].T * signs).T
        assert np.array_equal(m.b[tensor], expected), tensor
    for i, part in enumerate(m.units["h"].parts):
        m._cost(m.units["h"], i, part)
    m.apply(Move(m.units["h"], np.array([0, 1]), np.array([False, True])))
    for i, part in enumerate(m.units["h"].parts):
        held = m._cached(m.units["h"], i, part)
        assert held is not None
        assert np.allclose(held, part.rows(a[part.tensor]) @ part.rows(m.b[part.tensor]).T), part.tensor


@pytest.mark.parametrize(("mine", "theirs", "exponent"), list(itertools.product((True, False), (True, False), (1, 2))))
def test_what_is_unsolved_is_sorted_and_seen_without_signs_where_these_are_unknown(
    mine: bool, theirs: bool, exponent: int
) -> None:
    kinds = {True: frozenset({"permutation", "sign"}), False: frozenset({"permutation"})}
    w = Wiring(
        (Group("p", 3, (Member("x", 0, blocks(3), "out"),), kinds[mine], exponents=(exponent,)), Group("q", 4, (Member("x", 1, blocks(4), "in"),), kinds[theirs])),
        shapes={"x": (3, 4)},
    )  # fmt: skip
    rng = np.random.default_rng(0)
    a, b = random_state(w, rng), random_state(w, rng)
    m = Matcher(a, b, w, BOTH)
    u = m.units["p"]
    assert m._partial_cost(list(u.parts), u, set(), False, a) is None
    found = m._partial_cost(list(u.parts), u, {"q"}, False, a)
    assert found is not None
    assert np.allclose(found[0], a["x"] @ b["x"].T)
    assert found[1] is False
    found = m._partial_cost(list(u.parts), u, set(), True, a)
    assert found is not None
    blind = theirs or (mine and exponent % 2 == 1)
    assert bool(found[1]) is blind
    x, y = (np.sort(np.abs(v["x"]) if blind else v["x"], axis=1) for v in (a, b))
    assert np.allclose(found[0], x @ y.T)


def test_signatures_alone_find_an_order_that_plain_starts_do_not() -> None:
    found = plain = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        w = mlp_wiring([1, 5, 5, 1])
        a = {t: v * (v.ndim > 1) for t, v in random_state(w, rng).items()}
        a["fc1.weight"] = np.ones_like(a["fc1.weight"])  # the ends tell nothing
        a["fc3.weight"] = np.ones_like(a["fc3.weight"])
        b, _ = planted(a, w, rng)
        m = Matcher(a, b, w, ORDER)
        m.start(signatures=True)
        found += all(np.array_equal(m.b[t], a[t]) for t in a)
        m.begin(b)
        m.start(signatures=False)
        plain += all(np.array_equal(m.b[t], a[t]) for t in a)
    assert found == 10
    assert plain < 5


def test_room_for_costs_is_an_eighth_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match, "_COSTS_AT_LEAST", 0)
    w = mlp_wiring([2, 4, 2])
    a = random_state(w, np.random.default_rng(0))
    assert Matcher(a, a, w, ORDER)._costs_at_most == 8 * (8 + 4 + 8 + 2) // 8


@pytest.mark.parametrize("signs", [False, True])
def test_tensors_show_plain_partners_by_all_products(signs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(match, "UNITS", 2)
    monkeypatch.setattr(match, "NUMBERS", 1)
    symmetries = frozenset({"permutation", "sign"} if signs else {"permutation"})
    for exponent in (1, 2):
        group = Group("p", 4, (Member("x", 0, blocks(4), "out"),), symmetries, exponents=(exponent,))
        w = Wiring((group,), shapes={"x": (4, 64)})
        a = random_state(w, np.random.default_rng(0))
        order, flip = np.array([2, 0, 3, 1]), np.array([signs and exponent == 1, False, False, False])
        b = {"x": (a["x"][order].T * np.where(flip, -1.0, 1.0)).T}
        m = Matcher({"x": torch.tensor(a["x"])}, {"x": torch.tensor(b["x"])}, w, BOTH)
        move = m._plain(m.steps[0], None)
        assert move is not None
        m.apply(move)
        assert np.allclose(np.asarray(m.b["x"]), a["x"])
    same = {"x": torch.ones(4, 64)}
    assert Matcher(same, same, w, BOTH)._plain(m.steps[0], None) is None, "nothing is plain where all are alike"


# ---- units as rows -------------------------------------------------------------------------------------------------------------

PLACES = [
    Member("x", 0, blocks(4), "out"),
    Member("x", 0, blocks(2, 2), "out"),
    Member("x", 0, np.array([[3], [1]]), "out"),
    Member("x", 0, np.array([[0, 2], [1, 3]]), "out"),
    Member("x", 0, blocks(3), "out"),
    Member("x", 1, blocks(3), "in"),
    Member("x", 2, np.array([[0], [4]]), "in"),
    Member("x", 2, blocks(3), "in"),
    Member("x", 0, blocks(4), "out", (1, np.array([2, 0]))),
    Member("x", 2, blocks(5), "in", (0, np.array([1]))),
    Member("x", 1, np.array([[2], [0]]), "in", (2, np.array([0, 3]))),
]


def held_by(m: Member, values: Any) -> Any:
    """(position along the member's axis first, then) all that the member sees of the values."""
    if m.where is not None:
        values = np.take(values, m.where[1], axis=m.where[0])
    return np.moveaxis(values, m.axis, 0)


@pytest.mark.parametrize("m", PLACES)
@pytest.mark.parametrize("exponent", [1, -1, 0, 2])
def test_a_part_gathers_and_moves_the_values_of_its_units(m: Member, exponent: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3, 5))
    size = m.index.shape[0]
    group = Group("g", size, (m,), frozenset({"permutation", "scale"}), exponents=(exponent,))
    (part,) = units_of(group, BOTH).parts
    seen = held_by(m, x)
    rows = [np.concatenate([seen[i].ravel() for i in m.index[u]]) for u in range(size)]
    assert np.array_equal(part.rows(x), rows)
    order, factors = rng.permutation(size), 2.0 ** rng.integers(-2, 3, size)
    for p, f in ((order, factors), (order, None), (None, factors), (None, None)):
        kept = x.copy()
        out = part.moved(x, p, f)
        assert np.array_equal(x, kept)
        want = seen.copy()
        for u in range(size):
            source = u if p is None else p[u]
            for i, j in zip(m.index[u], m.index[source]):
                want[i] = seen[j] * (1.0 if f is None else f[u] ** exponent)
        assert np.array_equal(held_by(m, out), want)
        untouched = np.ones(x.shape, bool)
        if m.where is not None:
            spot: list[Any] = [slice(None)] * 3
            spot[m.where[0]] = m.where[1]
            untouched[tuple(spot)] = False
            assert np.array_equal(out[untouched], x[untouched])


def test_two_axes_are_two_parts_of_a_matrix_and_statistics_do_not_vote() -> None:
    (group,) = recurrent(3, "sign").groups
    u = units_of(group, frozenset({"permutation", "scale"}))
    assert u.twice == {"rec"}
    assert (u.permute, u.sign, u.scale) == (True, False, False), "what the group has and the caller allows"
    x = np.arange(9.0).reshape(3, 3)
    assert u.parts[1].rows(x).tolist() == x.tolist()
    assert u.parts[2].rows(x).tolist() == x.T.tolist()
    members = (Member("x", 0, blocks(2), "out"), Member("mean", 0, blocks(2), "stat"))
    u = units_of(Group("g", 2, members, frozenset({"scale"})), frozenset({"permutation", "scale"}))
    assert [p.tensor for p in u.voters] == ["x"]
    assert (u.permute, u.sign, u.scale, u.twice) == (False, False, True, frozenset())


def test_the_caller_says_which_symmetries() -> None:
    every = {"permutation", "sign", "scale", "basis"}
    assert allowed_symmetries("auto") == every
    for kind in every:
        assert allowed_symmetries(kind) == allowed_symmetries([kind]) == {kind}
    assert allowed_symmetries(()) == set()
    for bad in ("turn", ["sign", "turn"]):
        with pytest.raises(InvalidArgument, match=r"unknown symmetry 'turn'; known: permutation"):
            allowed_symmetries(bad)


# ---- groups in the units of others ---------------------------------------------------------------------------------------------


def heads(*, shared: bool = False, missing: bool = False, told: tuple[int, ...] = (0, 1, 2)) -> Wiring:
    """Three heads: rows of q in one family, rows of v in another, which also have columns of o; ``shared``: those of q have them, too."""
    h, d, at = 3, 2, np.arange(6).reshape(3, 2)
    outer = Group("h", h, tuple(Member(t, axis, at, role) for t, axis, role in (("q", 0, "out"), ("v", 0, "out"), ("o", 1, "in"))), frozenset({"permutation"}))  # fmt: skip
    q, v = [], []
    for i in told:
        rows = at[i][:, None]
        out = (Member("o", 1, rows, "in"),)
        q.append(Group(f"q{i}", d, (Member("q", 0, rows, "out"), *(out if shared else ())), frozenset({"permutation"}), parent=("h", i)))  # fmt: skip
        v.append(Group(f"v{i}", d, (Member("v", 0, rows, "out"), *out), frozenset({"permutation"}), parent=("h", i)))
    return Wiring(
        (outer, *q, *(v[:-1] if missing else v)), shapes={"q": (6, 3), "v": (6, 2), "o": (3, 8 if shared else 6)}
    )


def nesting(w: Wiring, a: Any = None) -> Nesting:
    a = random_state(w, np.random.default_rng(0)) if a is None else a
    return Nesting(a, w, {g.name: units_of(g, ORDER) for g in w.groups})


def test_families_are_told_in_the_order_of_the_parents_units() -> None:
    for told in itertools.permutations(range(3)):
        n = nesting(heads(told=told))
        assert sorted([c.name for c in f] for f in n.family["h"]) == [["q0", "q1", "q2"], ["v0", "v1", "v2"]]
        assert n.nested == {f"{k}{i}" for k in "qv" for i in range(3)}
        assert [sorted(names) for names in n.inside("h")] == [[f"q{i}", f"v{i}"] for i in range(3)]
        assert n.inside("q1") == [[], []]
        assert n.overlaps == set()
    part = nesting(heads(missing=True))
    assert [[c.name for c in f] for f in part.family["h"]] == [["q0", "q1", "q2"]]
    assert part.nested == {"q0", "q1", "q2"}, "a family that does not cover every unit is matched alone"


def test_families_are_told_apart_by_all_places_of_their_parent_and_by_what_lies_outside() -> None:
    order = frozenset({"permutation"})

    def family(name: str, rows: Any) -> tuple[Group, ...]:
        return tuple(
            Group(f"{name}{i}", len(r), (Member("x", 0, np.array(r)[:, None], "out"),), order, parent=("g", i))
            for i, r in enumerate(rows)
        )

    whole = Member("x", 0, np.array([[0, 1, 4, 5], [2, 3, 6, 7]]), "out")
    first, second = (Member("x", 0, blocks(4, 2)[k : k + 2], role) for k, role in ((0, "out"), (2, "add")))
    for members in ((whole,), (first, second), (second, first)):
        outer = Group("g", 2, members, order)
        w = Wiring((outer, *family("q", ([0, 1], [2, 3])), *family("k", ([4, 5], [6, 7]))), shapes={"x": (8, 2)})
        assert [[c.name for c in f] for f in nesting(w).family["g"]] == [["q0", "q1"], ["k0", "k1"]]
    outer = Group("g", 2, (first,), order)
    w = Wiring((outer, *family("in", ([0], [2])), *family("out", ([4], [5]))), shapes={"x": (8, 2)})
    assert [[c.name for c in f] for f in nesting(w).family["g"]] == [["in0", "in1"], ["out0", "out1"]]


def test_a_weight_counts_for_one_group() -> None:
    w = heads()
    a = random_state(w, np.random.default_rng(0))
    n = nesting(w, a)
    assert {t: np.unique(c).tolist() for t, c in n.cells("h").items()} == {"q": [1], "v": [1], "o": [1]}
    assert set(n.weights_of("h")) == set(), "all that the heads have is inside them"
    assert all(np.array_equal(n.weights_of("q0")[t], a[t]) for t in a)
    part = nesting(heads(missing=True), a)
    assert set(part.weights_of("h")) == {"v", "o"}
    assert np.array_equal(part.weights_of("h")["v"], a["v"])


def test_a_weight_that_two_families_share_is_nobodys_and_both_are_improved_alone() -> None:
    w = heads(shared=True)
    a = random_state(w, np.random.default_rng(0))
    n = nesting(w, a)
    assert {t: np.unique(c).tolist() for t, c in n.cells("h").items()} == {"q": [1], "v": [1], "o": [0, 2]}
    assert not n.weights_of("q0")["o"][:, :6].any()
    assert np.array_equal(n.weights_of("q0")["o"][:, 6:], a["o"][:, 6:])
    assert np.array_equal(n.weights_of("q0")["q"], a["q"])
    assert n.overlaps == n.nested


def test_a_nested_group_on_both_axes_is_improved_alone_and_those_beside_it() -> None:
    w = heads()
    both = tuple(Member("r", axis, np.arange(6).reshape(3, 2), role) for axis, role in ((0, "out"), (1, "in")))

    def more(g: Group) -> Group:
        if g.name == "h":
            return replace(g, members=(*g.members, *both), exponents=())
        if g.name[0] == "q":
            mine = tuple(replace(m, index=m.index[int(g.name[1])][:, None]) for m in both)
            return replace(g, members=(*g.members, *mine), exponents=())
        return g

    w = replace(w, groups=tuple(more(g) for g in w.groups), shapes={**w.shapes, "r": (6, 6)})
    n = nesting(w)
    assert n.overlaps == n.nested == {f"{k}{i}" for k in "qv" for i in range(3)}


def test_what_is_inside_a_unit_and_in_no_nested_group_is_its_own() -> None:
    """Of four columns two are in the nested groups; the other two count for the unit that holds them."""
    inner = tuple(Group(f"c{i}", 2, (Member("x", 0, np.array([[3 * i], [3 * i + 1]]), "out"),), frozenset({"permutation"}), parent=("g", i)) for i in range(2))  # fmt: skip
    outer = Group("g", 2, (Member("x", 0, blocks(2, 3), "out"),), frozenset({"permutation"}))
    w = Wiring((outer, *inner), shapes={"x": (6, 2)})
    a = random_state(w, np.random.default_rng(0))
    own = nesting(w, a).weights_of("g")
    assert set(own) == {"x"}
    kept = np.zeros((6, 2))
    kept[[2, 5]] = a["x"][[2, 5]]
    assert np.array_equal(own["x"], kept)
    a["x"][[2, 5]] = 0
    assert set(nesting(w, a).weights_of("g")) == set(), "nothing is left to compare"


def test_nested_groups_that_see_a_part_of_another_axis_own_that_part() -> None:
    inner = tuple(Group(f"c{i}", 2, (Member("x", 1, blocks(2), "in", (0, np.array([i]))),), frozenset({"permutation"}), parent=("g", i)) for i in range(2))  # fmt: skip
    outer = Group("g", 2, (Member("x", 0, blocks(2), "out"),), frozenset({"permutation"}))
    w = Wiring((outer, *inner), shapes={"x": (2, 3)})
    a = random_state(w, np.random.default_rng(0))
    units = {g.name: units_of(g, ORDER) for g in w.groups}
    cells = Nesting(a, w, units)._cells_of([units["c1"]])
    assert cells["x"].tolist() == [[False, False, False], [True, True, False]]


def test_masks_add_up_and_names_are_those_that_count() -> None:
    a = {"x": np.ones(3), "y": np.ones(2)}
    m = Masked(a)
    assert (set(m), len(m)) == ({"x", "y"}, 2)
    assert m["x"] is a["x"]
    m.hide("x", np.array([True, False, False]))
    m.hide("x", np.array([False, False, True]))
    m.hide("x", np.zeros(3, bool))
    assert m["x"].tolist() == [0, 1, 0]
    assert a["x"].tolist() == [1, 1, 1]
    m.hide("y", np.zeros(2, bool))
    assert m["y"] is a["y"]
    only = Masked(a, {"y"})
    assert (list(only), len(only)) == (["y"], 1)
    with pytest.raises(KeyError):
        only["x"]

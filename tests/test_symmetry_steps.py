"""Single steps of weight matching against trying everything: what is taken, what is left, what is taken back, and which group comes first."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.oracles_symmetry import State, mlp_wiring, planted, random_state
from weightlapse.symmetry.match import Matcher, Move
from weightlapse.wiring.apply import permute_state, scale_state
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member, blocks

ALL = frozenset({"permutation", "sign"})


def recurrent_wiring(n: int) -> Wiring:
    """One group on both axes of a matrix: there the objective is quadratic in the order."""
    members = (
        Member("inp", 0, blocks(n), "out"),
        Member("loop", 0, blocks(n), "out"),
        Member("loop", 1, blocks(n), "in"),
        Member("out", 1, blocks(n), "in"),
    )
    return Wiring((Group("loop", n, members),), shapes={"inp": (n, 1), "loop": (n, n), "out": (1, n)})


def objective(a: State, b: State) -> float:
    return sum(float((a[t] * b[t]).sum()) for t in a)


def best_of_one_group(a: State, b: State, w: Wiring, group: Group) -> float:
    """The largest inner product that reordering and flipping one group can reach, all others as they are."""
    found = -np.inf
    signs = itertools.product((1.0, -1.0), repeat=group.size) if "sign" in group.symmetries else [(1.0,) * group.size]
    for flip in signs:
        for order in itertools.permutations(range(group.size)):
            moved = permute_state(b, w, group.name, list(order))
            moved = scale_state(moved, w, group.name, np.array(flip)) if min(flip) < 0 else moved
            found = max(found, objective(a, moved))
    return found


def as_it_is(m: Matcher) -> State:
    return {t: np.array(m.b[t]) for t in m.b}


@pytest.mark.parametrize("seed", range(12))
def test_a_step_is_the_best_of_one_group_and_is_taken_only_when_it_helps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = mlp_wiring([2, 3, 4, 2], *(["sign"] if seed % 2 else []))
    a, b = random_state(w, rng), random_state(w, rng)
    m = Matcher(a, b, w, ALL)
    for _ in range(3):
        for u in m.steps:
            before, best = objective(a, as_it_is(m)), best_of_one_group(a, as_it_is(m), w, u.group)
            taken = m.improve(u)
            assert taken is (best > before + 1e-9)
            assert objective(a, as_it_is(m)) == pytest.approx(best, abs=1e-12)
            again = m.at.on_state(b, w)  # the element says what was done to b
            assert all(np.allclose(again[t], m.b[t], rtol=0, atol=1e-15) for t in b)
            assert m.improve(u) is False  # nothing else moved, so nothing is left to gain
    assert m.descend() == 1


@pytest.mark.parametrize("seed", range(8))
def test_what_a_move_is_said_to_gain_is_what_it_gains(seed: int) -> None:
    """Any move, good or bad, and the costs that are held afterwards are those of the moved network."""
    rng = np.random.default_rng(seed)
    w = mlp_wiring([3, 5, 4, 2], "sign")
    a, b = random_state(w, rng), random_state(w, rng)
    m = Matcher(a, b, w, ALL)
    for _ in range(4):
        for u in m.steps:
            pairs = m._pairs([u], None, False)
            assert pairs.flip is not None
            order = rng.permutation(u.size)
            move = Move(u, order, pairs.flip[np.arange(u.size), order])
            before = objective(a, as_it_is(m))
            m.apply(move)
            assert objective(a, as_it_is(m)) - before == pytest.approx(pairs.gain(move), abs=1e-12)
            for v in m.steps:
                held, fresh = m._pairs([v], None, False), Matcher(a, as_it_is(m), w, ALL)._pairs([v], None, False)
                assert np.allclose(held.value, fresh.value, rtol=0, atol=1e-12)
                assert np.allclose(held.now, fresh.now, rtol=0, atol=1e-12)


def test_a_step_that_lowers_the_true_objective_is_taken_back_without_a_trace() -> None:
    w, rng = recurrent_wiring(4), np.random.default_rng(0)
    refused = taken = 0
    for _ in range(60):
        a, b = ({t: rng.normal(size=s) for t, s in w.shapes.items()} for _ in range(2))
        m = Matcher(a, b, w, ALL)
        (u,) = m.steps
        before, version, at = as_it_is(m), dict(m._version), m.at.copy()
        wanted = m._pairs([u], None, False).best()  # the cost is linear here only in what is held still
        would = objective(a, permute_state(b, w, "loop", wanted.order))
        if m.improve(u):
            taken += 1
            assert would > objective(a, before)
            assert objective(a, as_it_is(m)) == pytest.approx(would)
        else:
            refused += not wanted.idle
            assert wanted.idle or would <= objective(a, before) + 1e-9
            assert all(np.array_equal(before[t], m.b[t]) for t in before)
            assert m._version == version
            assert np.array_equal(m.at.order["loop"], at.order["loop"])
            held = m._pairs([u], None, False)
            assert np.allclose(held.value, Matcher(a, b, w, ALL)._pairs([u], None, False).value)
    assert refused >= 5  # both branches were met
    assert taken >= 5


@pytest.mark.parametrize(("dtype", "small", "clear"), [(np.float64, 1e-7, 1e-5), (np.float32, 2e-4, 2e-2)])
def test_a_difference_within_rounding_is_no_reason_to_move(dtype: type, small: float, clear: float) -> None:
    """Two units that are nearly the same, put the wrong way round: they are put right only when that is more than rounding."""
    w = mlp_wiring([8, 2, 1])
    rng = np.random.default_rng(0)
    for off, moves in ((small, False), (clear, True)):
        a = random_state(w, rng)
        v = rng.normal(size=8)
        for n in ("fc1.weight", "fc1.bias"):
            a[n][1] = a[n][0]
        a["fc2.weight"][:, 1] = a["fc2.weight"][:, 0]
        b = {n: x.copy() for n, x in a.items()}
        a["fc1.weight"][0] += off * v
        b["fc1.weight"][1] += off * v
        x, y = ({n: u.astype(dtype) for n, u in s.items()} for s in (a, b))
        m = Matcher(x, y, w, ALL)
        assert m._pairs([m.steps[0]], None, False).best().order.tolist() == [1, 0]  # it would be nearer
        assert m.improve(m.steps[0]) is moves


@pytest.mark.parametrize("seed", range(4))
def test_the_group_with_most_known_neighbours_comes_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.integers(2, 6, size=5)]
    w = mlp_wiring(sizes)
    a = random_state(w, rng)
    m = Matcher(a, a, w, ALL)
    inner = dict(zip((g.name for g in w.groups), sizes[1:-1]))

    def share(name: str, known: set[str]) -> float:
        """Counted weight by weight: those whose other end is no group, or a known one."""
        i = int(name[2:])
        n, before, after = sizes[i], sizes[i - 1], sizes[i + 1]
        total, seen = n * (before + 1 + after), n  # the biases end nowhere
        seen += n * before if f"fc{i - 1}" not in inner or f"fc{i - 1}" in known else 0
        seen += n * after if f"fc{i + 1}" not in inner or f"fc{i + 1}" in known else 0
        return seen / total

    for known in (set(), {"fc1"}, {"fc2"}, {"fc1", "fc3"}):
        for name in inner:
            assert m._evidence(m.units[name], known) == pytest.approx(share(name, known))

    order: list[str] = []
    apply = m.apply
    m.apply = lambda move: (order.append(move.units.name), apply(move))[1]  # type: ignore[method-assign,func-returns-value]
    m.start(signatures=False)
    known, expected = set(), []
    while len(expected) < len(inner):
        first = max((n for n in inner if n not in known), key=lambda n: share(n, known))
        expected.append(first)
        known.add(first)
    assert order == expected


def test_a_group_of_which_nothing_is_known_is_left_to_signatures() -> None:
    """Without signatures nothing can be said of it; with them it is solved all the same."""
    w = Wiring(
        tuple(
            Group(f"g{i}", 4, (Member(f"w{i}", 1, blocks(4), "in"), Member(f"w{i - 1}", 0, blocks(4), "out")))
            for i in (1, 2)
        ),
        shapes={"w0": (4, 3), "w1": (4, 4), "w2": (2, 4)},
    )
    blind = Wiring(
        (
            Group("left", 4, (Member("w", 0, blocks(4), "out"),)),
            Group("right", 4, (Member("w", 1, blocks(4), "in"),)),
        ),
        shapes={"w": (4, 4)},
    )
    rng = np.random.default_rng(0)
    for wiring, alone in ((w, False), (blind, True)):
        a = {t: rng.normal(size=s) for t, s in wiring.shapes.items()}
        b, _ = planted(a, wiring, rng)
        m = Matcher(a, b, wiring, ALL)
        m.start(signatures=False)
        if alone:  # neither end of its only matrix is known, so the first group stays as it is
            assert np.array_equal(m.at.order["left"], np.arange(4))
        m.begin(b)
        m.start(signatures=True)
        assert all(np.allclose(m.b[t], a[t]) for t in a)


def test_beyond_doubt_needs_every_unit_and_many_numbers() -> None:
    rng = np.random.default_rng(0)
    w, few = mlp_wiring([40, 6, 40]), mlp_wiring([30, 6, 32])
    a, small = random_state(w, rng), random_state(few, rng)
    assert Matcher(a, a, w, ALL).unmistakable()
    assert not Matcher(small, small, few, ALL).unmistakable()  # 63 numbers of a unit are one too few
    for level, sure in ((0.2, True), (1.5, False)):
        near = {n: v + level * v.std() * rng.normal(size=v.shape) for n, v in a.items()}
        assert Matcher(a, near, w, ALL).unmistakable() is sure
    one = {n: v.copy() for n, v in a.items()}
    one["fc1.weight"][3] *= -1  # a single unit is another one
    assert not Matcher(a, one, w, ALL).unmistakable()
    for cosine, sure in ((0.78, False), (0.82, True)):
        turned = {n: v.copy() for n, v in a.items()}
        x = np.concatenate([a["fc1.weight"][2], a["fc1.bias"][2:3], a["fc2.weight"][:, 2]])
        across = rng.normal(size=x.size)
        across -= x * (across @ x) / (x @ x)
        y = cosine * x + np.sqrt(1 - cosine**2) * across * np.linalg.norm(x) / np.linalg.norm(across)
        turned["fc1.weight"][2], turned["fc1.bias"][2], turned["fc2.weight"][:, 2] = y[:40], y[40], y[41:]
        assert Matcher(a, turned, w, ALL).unmistakable() is sure

"""Units followed through a recording, and two runs from one start until they part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import expm

import weightlapse as wl
from tests.oracles_bases import chained
from tests.oracles_symmetry import State, mlp_wiring, planted, random_state
from tests.test_symmetry_forms import record
from weightlapse.symmetry.elements import identity
from weightlapse.symmetry.follow import own_partners, parting_steps, stepped

W = mlp_wiring([9, 16, 16, 7])


def path(seed: int, start: State, frames: int = 9, step: float = 0.15) -> list[State]:
    """A random walk of weights, a little each frame."""
    rng = np.random.default_rng(seed)
    out = [start]
    for _ in range(frames - 1):
        out.append({n: v + step * v.std() * rng.normal(size=v.shape).astype(v.dtype) for n, v in out[-1].items()})
    return out


def test_a_recording_that_was_reordered_on_the_way_is_put_straight(tmp_path: Path) -> None:
    start = random_state(W, np.random.default_rng(0), np.float32)
    plain = path(1, start)
    broken = [*plain[:4], *(planted(s, W, np.random.default_rng(7))[0] for s in plain[4:])]
    run = wl.follow(record(tmp_path / "run", broken, W))
    assert run.moved == [4]
    assert run.steps.tolist() == list(range(9))
    for i, s in enumerate(plain):
        assert all(np.array_equal(run.state(i)[n], s[n]) for n in s), i
    assert np.array_equal(run["fc2.weight"][8], plain[8]["fc2.weight"])
    some = wl.follow(wl.load(tmp_path / "run"), frames=[2, 6])
    assert np.array_equal(some.state(1)["fc1.weight"], plain[6]["fc1.weight"])


def test_an_ordinary_training_keeps_its_numbers(tmp_path: Path) -> None:
    run = wl.follow(record(tmp_path / "run", path(2, random_state(W, np.random.default_rng(1), np.float32)), W))
    assert run.moved == []
    assert run.element(8).order["fc1"].tolist() == list(range(16))


def test_follow_refuses(tmp_path: Path) -> None:
    run = record(tmp_path / "run", path(2, random_state(W, np.random.default_rng(1), np.float32)), None)
    with pytest.raises(wl.InvalidArgument, match="no wiring"):
        wl.follow(run)
    with pytest.raises(wl.InvalidArgument, match="rising"):
        wl.follow(run, W, frames=[1, 1])
    with pytest.raises(wl.InvalidArgument, match="nearest is"):
        wl.follow(run, W, frames=[99])
    with pytest.raises(wl.CannotAlign, match="shape"):
        wl.follow(run, mlp_wiring([9, 15, 16, 7]))


def test_runs_from_one_start_are_followed_beyond_what_their_ends_show(tmp_path: Path) -> None:
    start = random_state(W, np.random.default_rng(3), np.float32)
    a, b = path(4, start, 9, 0.3), path(5, start, 9, 0.3)
    b = [
        planted(s, W, np.random.default_rng(11))[0] for s in b
    ]  # the whole of b in another order: only the first pair tells it
    runs = wl.align_runs(record(tmp_path / "a", a, W), record(tmp_path / "b", b, W), follow=True)
    truth = wl.align(a[0], b[0], W).permutations
    assert runs.mode == "follow"
    assert runs.raw_distance[0] > 0.5
    assert runs.aligned_distance[0] == 0
    right = [np.mean([(runs.element(i).order[g] == truth[g]).mean() for g in truth]) for i in (0, 4, 8)]
    assert right[0] == right[1] == 1
    assert right[2] > 0.9
    assert runs.matched.shape == (9, 2)
    assert runs.matched[0].tolist() == [1, 1]
    assert runs["fc1.weight"].shape == (9, 16, 9)


def test_runs_that_part_are_told_with_the_step(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    start, other = random_state(W, rng, np.float32), random_state(W, rng, np.float32)
    a = path(7, start, 8, 0.05)
    later = {n: other[n] if n.startswith(("fc3", "fc2")) else v for n, v in start.items()}
    b = [*path(8, start, 3, 0.05), *path(9, later, 5, 0.05)]  # from step 3 on fc2 is of another network, fc1 half
    runs = wl.align_runs(record(tmp_path / "a", a, W), record(tmp_path / "b", b, W), follow=True)
    assert runs.parting["fc2"] == 3
    assert runs.matched[:3].min() == 1


def test_parting_is_for_good() -> None:
    matched = np.array([[1.0, 1], [0.2, 1], [1, 0.4], [1, 0.4]])
    assert parting_steps(matched, np.array([0, 10, 20, 30]), ["x", "y"]) == {"x": None, "y": 20}
    assert parting_steps(np.zeros((2, 1)), np.array([5, 6]), ["x"]) == {"x": 5}


def test_an_order_is_left_only_for_a_clearly_nearer_one() -> None:
    rng = np.random.default_rng(8)
    a = random_state(W, rng)
    near = {n: v + 1e-3 * rng.normal(size=v.shape) for n, v in a.items()}
    near["fc1.weight"][1] = near["fc1.weight"][0] + 1e-4  # two units that are nearly one
    before = identity(W)
    assert stepped(a, near, W, before, frozenset({"permutation"})) is before
    moved = planted(a, W, rng)[0]
    assert stepped(a, moved, W, before, frozenset({"permutation"})) is not before
    assert own_partners(a, a, W) == {"fc1": 1.0, "fc2": 1.0}
    assert own_partners(a, moved, W)["fc1"] < 0.5


def test_recordings_are_taken_by_their_paths_and_nothing_else_is(tmp_path: Path) -> None:
    run = record(tmp_path / "run", path(3, random_state(W, np.random.default_rng(1), np.float32)), W)
    for where in (run.path, str(run.path)):
        assert wl.follow(where).steps.tolist() == wl.follow(run).steps.tolist()
        assert wl.align_runs(where, where).steps.tolist() == run.steps.tolist()
    for other in ({}, {"a": np.ones(3)}, None, 3, object()):
        with pytest.raises(wl.InvalidArgument, match="recording"):
            wl.follow(other)
        with pytest.raises(wl.InvalidArgument, match="recording"):
            wl.align_runs(run, other)


# ---- bases


def stream(d: int = 5) -> wl.Wiring:
    """A stream of d numbers between an embedding and what reads it: all turn together."""
    return wl.Wiring.from_spec(
        f"""tensor e.weight (40, {d})
tensor r.weight (30, {d})
group e: {d} units, permutation, sign
  e.weight[1]: out
  r.weight[1]: in
basis stream: {d} numbers, orthogonal
  e.weight[1]: out
  r.weight[1]: in
"""
    )


def turning(rate: float, d: int = 5) -> Callable[[int], np.ndarray]:
    """How far a basis has turned at a frame."""
    skew = np.random.default_rng(1).normal(size=(d, d))
    skew = skew - skew.T
    return lambda frame: expm(rate * frame * skew / np.linalg.norm(skew, 2))


def turned(states: list[State], turn: Callable[[int], np.ndarray]) -> list[State]:
    return [{n: v @ turn(i).T for n, v in s.items()} for i, s in enumerate(states)]


def apart(a: State, b: State) -> float:
    return float(np.sqrt(sum(np.square(a[n] - b[n]).sum() for n in a) / sum(np.square(v).sum() for v in a.values())))


def walk(rng: np.random.Generator, frames: int = 9, step: float = 0.02) -> list[State]:
    return path(4, {"e.weight": rng.normal(size=(40, 5)), "r.weight": rng.normal(size=(30, 5))}, frames, step)


@pytest.mark.parametrize("rate", [0.03, 0.1, 0.3])
def test_a_basis_that_drifts_is_followed(rate: float, tmp_path: Path) -> None:
    """Every frame turned a little further; with hysteresis, so what is left is no more than the steps of the training."""
    w, plain = stream(), walk(np.random.default_rng(0))
    broken = turned(plain, turning(rate))
    run = wl.follow(record(tmp_path / "run", broken, w))
    left = [apart(plain[i], run.state(i)) for i in range(9)]
    assert apart(plain[8], broken[8]) > 3 * max(left)
    assert max(left) < 0.06
    assert run.moved
    for i in run.moved:
        truth = turning(rate)(i).T
        assert np.abs(run.element(i).matrices["stream"] - truth).max() < 0.06  # type: ignore[attr-defined]
        slow = chained(broken[: i + 1])
        assert np.abs(slow - truth).max() < 0.06


def test_a_basis_that_leaps_is_put_back_and_one_that_stands_is_left(tmp_path: Path) -> None:
    w, plain = stream(), walk(np.random.default_rng(0))
    quiet = wl.follow(record(tmp_path / "quiet", plain, w))
    assert quiet.moved == []
    leap = [s if i < 5 else turned([s], lambda _: turning(2.0)(1))[0] for i, s in enumerate(plain)]
    run = wl.follow(record(tmp_path / "leap", leap, w))
    assert run.moved == [5]
    assert apart(plain[8], leap[8]) > 0.5
    assert max(apart(plain[i], run.state(i)) for i in range(9)) < 0.03


def test_two_runs_are_aligned_in_a_followed_basis(tmp_path: Path) -> None:
    w, plain = stream(), walk(np.random.default_rng(0))
    a = record(tmp_path / "a", plain, w)
    for rate in (0.1, 1.0):
        runs = wl.align_runs(a, record(tmp_path / f"b{rate}", turned(plain, turning(rate)), w), follow=True)
        assert runs.raw_distance[-1] > 0.5
        assert runs.aligned_distance.max() < 0.01
        assert runs.parting == {"e": None}
        assert "together until the last step, 8" in runs.explain()


@pytest.mark.parametrize("family", ["stream", "mlp", "narrow"])
def test_strangers_are_never_the_same(family: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    w = {"stream": stream(), "mlp": W, "narrow": mlp_wiring([2, 6, 6, 2])}[family]
    starts = [
        {n: rng.normal(size=s) for n, s in w.shapes.items()} if family == "stream" else random_state(w, rng)
        for _ in range(2)
    ]
    a, b = (path(i, s, 6, 0.02) for i, s in enumerate(starts))
    runs = wl.align_runs(record(tmp_path / "a", a, w), record(tmp_path / "b", b, w), follow=True)
    assert set(runs.parting.values()) == {0}
    assert runs.explain().startswith("The runs were never the same")
    moved = [planted(s, w, np.random.default_rng(5))[0] for s in a]
    again = wl.align_runs(tmp_path / "a", record(tmp_path / "c", moved, w), follow=True)
    assert set(again.parting.values()) == {None}


def test_a_small_turn_is_no_reordering() -> None:
    """A basis that is nearly where it was is brought back all the same."""
    w, a = stream(), walk(np.random.default_rng(0), 1)[0]
    for rate in (0.01, 0.1, 0.3):
        b = turned([a], lambda _, rate=rate: turning(rate)(1))[0]
        assert wl.align(a, b, w).distance_after < 1e-9
        assert wl.compare(a, b, w).verdict == "same up to symmetry"

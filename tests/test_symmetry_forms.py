"""Canonical form, many networks at once, and recordings aligned over time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import weightlapse as wl
from tests.oracles_symmetry import State, mlp_wiring, noisy, planted, random_state, residual_wiring
from weightlapse.symmetry.states import distance


def digest(state: State) -> str:
    return hashlib.sha256(b"".join(state[n].tobytes() for n in sorted(state))).hexdigest()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=3, max_size=5), st.booleans(), st.integers(0, 10**6), st.booleans())
def test_disguises_have_one_canonical_form(sizes: list[int], sign: bool, seed: int, double: bool) -> None:
    w = mlp_wiring(sizes, *(["sign"] if sign else []))
    rng = np.random.default_rng(seed)
    a = random_state(w, rng, np.float64 if double else np.float32)
    b, _ = planted(a, w, rng, signs=True)
    assert digest(wl.canonical(a, w)) == digest(wl.canonical(b, w))
    assert digest(wl.canonical(wl.canonical(a, w), w)) == digest(wl.canonical(a, w))
    assert wl.align(a, wl.canonical(a, w), w).distance_after < 1e-12


def test_canonical_form_of_rescaled_and_residual_networks() -> None:
    rng = np.random.default_rng(0)
    w = mlp_wiring([6, 20, 20, 3], "scale")
    a = random_state(w, rng)
    b, _ = planted(a, w, rng, scales=True)
    x, y = wl.canonical(a, w), wl.canonical(b, w)
    assert max(float(np.abs(x[n] - y[n]).max()) for n in x) < 1e-8
    assert distance(a, b) > 0.5
    w = residual_wiring(3, 32, 32, 3, 2)
    a = random_state(w, rng)
    assert digest(wl.canonical(a, w)) == digest(wl.canonical(planted(a, w, rng)[0], w))
    other = wl.canonical(noisy(a, rng, 0.1), w)
    assert digest(other) != digest(wl.canonical(a, w))


def test_canonical_only_permutes_when_told_so() -> None:
    w = mlp_wiring([4, 9, 2], "sign", "scale")
    a = random_state(w, np.random.default_rng(0))
    b = wl.canonical(a, w, symmetries=("permutation",))
    assert sorted(a["fc1.bias"]) == sorted(b["fc1.bias"])


def test_many_networks_in_one_order() -> None:
    rng = np.random.default_rng(0)
    w = mlp_wiring([10, 8, 8, 1], "sign")
    teacher = random_state(w, rng)
    states = [planted(noisy(teacher, rng, 0.2), w, rng, signs=True)[0] for _ in range(10)]
    result = wl.align_all(states, w)
    assert result.distance_before[np.triu_indices(10, 1)].min() > 0.8
    assert result.distance_after.max() < 0.35
    assert all(np.array_equal(result.states[0][n], states[0][n]) for n in teacher)
    mean = result.mean()
    assert wl.align(teacher, mean, w).distance_after < 0.1, "noise averages out"
    for e, s, t in zip(result.elements, states, result.states, strict=True):
        assert all(np.array_equal(e.on_state(s, w)[n], t[n]) for n in s)


def test_the_mean_of_many_helps_where_two_are_not_enough() -> None:
    rng = np.random.default_rng(1)
    w = residual_wiring(2, 48, 48, 2, 1)
    a = random_state(w, rng)
    states = [planted(noisy(a, rng, 1.2), w, rng)[0] for _ in range(8)]
    first = wl.align_all(states, w, rounds=0, restarts=0).distance_after.mean()
    assert wl.align_all(states, w, restarts=0).distance_after.mean() <= first + 1e-9


def test_one_network_and_none() -> None:
    w = mlp_wiring([3, 4, 2])
    a = random_state(w, np.random.default_rng(0))
    assert wl.align_all([a], w).distance_after.tolist() == [[0.0]]
    with pytest.raises(wl.InvalidArgument, match="at least one"):
        wl.align_all([], w)


def record(path: Path, states: list[State], w: wl.Wiring | None, first: int = 0) -> wl.Recording:
    current = {n: v.copy() for n, v in states[0].items()}
    with wl.watch(current, path, wiring=w) as rec:
        for step, s in enumerate(states[1:], 1):
            rec.step(s, step=first + step)
    return wl.load(path)


def test_two_recordings(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    w = mlp_wiring([5, 12, 12, 2], "sign")
    start, end = random_state(w, rng, np.float32), random_state(w, rng, np.float32)
    path_a = [{n: (1 - t) * start[n] + t * end[n] for n in start} for t in np.linspace(0, 1, 7, dtype=np.float32)]
    path_b = [planted(s, w, np.random.default_rng(5), signs=True)[0] for s in path_a]
    a, b = record(tmp_path / "a", path_a, w), record(tmp_path / "b", path_b, None)
    for mode in ("last", "each"):
        runs = wl.align_runs(a, b, mode=mode)
        assert len(runs) == 7
        assert runs.steps.tolist() == list(range(7))
        assert runs.raw_distance.min() > 0.5
        assert runs.aligned_distance.max() == 0.0
        assert runs["fc1.weight"].shape == (7, 12, 5)
        for i in range(7):
            assert all(np.array_equal(runs.state(i)[n], path_a[i][n]) for n in start)
            assert np.array_equal(runs["fc2.weight"][i], path_a[i]["fc2.weight"])
    some = wl.align_runs(a, b, frames=[1, -1])
    assert some.frames_b.tolist() == [1, 6]
    with pytest.raises(wl.InvalidArgument, match="mode"):
        wl.align_runs(a, b, mode="first")
    with pytest.raises(wl.InvalidArgument, match="frames"):
        wl.align_runs(a, b, frames=[99])
    with pytest.raises(wl.InvalidArgument, match="wiring"):
        wl.align_runs(b, b)


def test_recordings_without_a_common_step(tmp_path: Path) -> None:
    w = mlp_wiring([3, 4, 2])
    rng = np.random.default_rng(0)
    states = [random_state(w, rng) for _ in range(3)]
    a = record(tmp_path / "a", states, w)
    b = record(tmp_path / "b", states, w, first=10)
    runs = wl.align_runs(a, b)
    assert runs.steps.tolist() == [0], "frame 0 is common"
    assert len(wl.align_runs(a, b, frames=[0, 1, 2])) == 3

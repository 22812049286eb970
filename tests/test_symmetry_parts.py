"""The parts beneath align and compare: CKA, balance, fitted scales, correlation, states, repair."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import weightlapse as wl
from tests.oracles_symmetry import mlp_wiring, random_state
from weightlapse.symmetry.activations import correlation
from weightlapse.symmetry.barrier import Height, Line, Repair
from weightlapse.symmetry.cka import cka
from weightlapse.symmetry.runner import Runner, data_of
from weightlapse.symmetry.scale import balance, fit_scales, rescaled
from weightlapse.symmetry.states import distance, parameter_names, state_of
from weightlapse.symmetry.units import units_of

SCALE = frozenset({"permutation", "scale"})


def hsic_by_the_definition(k: np.ndarray, m: np.ndarray) -> float:
    """The U-statistic as a mean over all tuples of four different samples."""
    n = len(k)
    total, count = 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
                        count += 1
    return total / count


def test_cka_is_the_unbiased_estimator() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 5))
    k, m = ((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y))
    slow = hsic_by_the_definition(k, m) / np.sqrt(hsic_by_the_definition(k, k) * hsic_by_the_definition(m, m))
    assert cka(x, y) == pytest.approx(slow, abs=1e-10)


def test_cka_of_independent_data_is_near_zero_and_never_nan() -> None:
    rng = np.random.default_rng(0)
    values = [cka(rng.normal(size=(32, 8)), rng.normal(size=(32, 8))) for _ in range(200)]
    assert abs(float(np.mean(values))) < 0.02
    x = rng.normal(size=(40, 5))
    assert cka(x, 3 * x @ np.linalg.qr(rng.normal(size=(5, 5)))[0] + 7) == pytest.approx(1)
    assert cka(x[:3], x[:3]) is None
    assert cka(np.ones((10, 4)), x[:10]) is None
    assert cka(x, x[:20]) is None
    assert cka(x * 1e200, x * 1e-200) == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=3, max_size=5), st.integers(0, 10**6))
def test_balance(sizes: list[int], seed: int) -> None:
    w = mlp_wiring(sizes, "scale")
    rng = np.random.default_rng(seed)
    units = [units_of(g, SCALE) for g in w.groups]
    a = random_state(w, rng)
    wild = rescaled(a, units, {u.name: np.exp(2 * rng.normal(size=u.size)) for u in units})
    flat = rescaled(wild, units, balance(wild, units))
    for i, u in enumerate(units, 1):
        into = (flat[f"fc{i}.weight"] ** 2).sum(1) + flat[f"fc{i}.bias"] ** 2
        out = (flat[f"fc{i + 1}.weight"] ** 2).sum(0)
        np.testing.assert_allclose(into, out, rtol=1e-6)
        assert (balance(flat, units)[u.name] == pytest.approx(1, abs=1e-6)) if u.size else True
    again = rescaled(a, units, balance(a, units))
    assert all(np.allclose(flat[n], again[n], atol=1e-6) for n in a), "whatever the scale was"


def test_silent_units_are_not_balanced() -> None:
    w = mlp_wiring([3, 4, 2], "scale")
    a = random_state(w, np.random.default_rng(0))
    a["fc2.weight"][:, 1] = 0
    factors = balance(a, [units_of(g, SCALE) for g in w.groups])
    assert factors["fc1"][1] == 1.0
    assert (factors["fc1"][[0, 2, 3]] != 1.0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_fitted_scales_are_where_the_distance_is_least(seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = mlp_wiring([3, 4, 2], "scale")
    units = [units_of(g, SCALE) for g in w.groups]
    a, b = random_state(w, rng), random_state(w, rng)
    fitted = fit_scales(a, b, units)
    best = distance(a, rescaled(b, units, fitted))
    assert best <= distance(a, b) + 1e-12
    for _ in range(20):  # no small step from there is better
        nudge = {"fc1": fitted["fc1"] * np.exp(0.01 * rng.normal(size=4))}
        assert distance(a, rescaled(b, units, nudge)) >= best - 1e-9


def test_correlation_marks_the_dead() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 50))
    x[2] = 3.0
    corr, live, _ = correlation(x, -x)
    assert live.tolist() == [True, True, False, True]
    assert corr[0, 0] == pytest.approx(-1)
    assert np.all(corr[2] == 0)


def test_dead_units_are_told_apart_by_their_weights() -> None:
    """Activation matching of planted copies: most units are off on the data, and still all come back."""
    torch.manual_seed(0)
    a = nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))
    with torch.no_grad():
        a[0].bias -= 0.8
        a[2].bias -= 0.25
    x = torch.rand(200, 5)
    w = wl.trace(a, x[:3])
    from weightlapse.symmetry.activations import match_activations
    from weightlapse.symmetry.search import Search
    from weightlapse.symmetry.states import float_arrays

    state = dict(a.state_dict())
    rng = np.random.default_rng(0)
    for g in w.groups:
        state = wl.permute(state, w, g.name, rng.permutation(g.size))
    runner = Runner(a, data_of(x))
    names = [g.name for g in w.groups]
    said = [runner.units(w, names, s) for s in (a.state_dict(), state)]
    assert sum(int((v.reshape(40, -1).max(1) == 0).sum()) for v in said[0].values()) > 10, "many are dead"
    arrays = [float_arrays(s) for s in (a.state_dict(), state)]
    found = match_activations(Search(*arrays, w, frozenset({"permutation"})), *said)
    moved = found.on_state(state, w)
    assert all(torch.equal(moved[n], v) for n, v in a.state_dict().items())


def test_height_is_the_rise_above_the_line() -> None:
    at = np.linspace(0, 1, 5)
    assert float(Height(at, np.array([1.0, 2.0, 2.0, 2.5, 3.0]))) == pytest.approx(0.5)
    assert float(Height(at, 1 + 2 * at)) == pytest.approx(0)
    assert Height(at, at).curve.tolist() == at.tolist()


def test_repair_restores_the_statistics_of_the_units() -> None:
    torch.manual_seed(0)
    a, b = (
        nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)) for _ in range(2)
    )
    x = torch.randn(300, 6)
    w = wl.trace(a, x[:3])
    line = Line(Runner(a, data_of(x)), a.state_dict())
    repair = Repair(line, b.state_dict(), w)
    assert repair.layers == 2
    spread = []
    mixed = line.runner.weights({n: (v + b.state_dict()[n]) / 2 for n, v in a.state_dict().items()})
    for ctx in (None, repair.at(0.5)):
        if ctx is None:
            out = line.runner.call(mixed)
        else:
            with ctx:
                out = line.runner.call(mixed)
        spread.append(float(out.std(0).mean()))
    assert spread[1] > 1.5 * spread[0], "averaging loses variance; repair gives it back"
    plain = line.runner.call(mixed)
    assert float(plain.std(0).mean()) == pytest.approx(spread[0]), "the hooks are gone"


def test_data_by_position_by_name_and_with_labels() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return x * lengths[:, None]

    x, y = np.zeros((5, 3), np.float32), np.arange(5)
    assert data_of((x, y)).labels is not None
    assert data_of((x, y), Two()).labels is None
    assert len(data_of((x, x)).inputs) == 2
    assert data_of({"x": x, "lengths": y}).names == ("x", "lengths")
    assert data_of(((x, x), y)).labels is not None
    assert data_of(x).rows == 5
    for bad in (np.zeros((0, 3)), np.float32(3)):
        with pytest.raises(wl.InvalidArgument, match="no samples"):
            data_of(bad)


def test_names_of_wrappers_and_what_counts_in_a_distance() -> None:
    assert list(state_of({"_orig_mod.fc.weight": 1, "module.fc.bias": 2})) == ["fc.weight", "fc.bias"]
    with pytest.raises(wl.InvalidArgument, match="mapping of names"):
        state_of(3)
    state = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict()
    assert parameter_names(state, None) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert distance({"a": np.zeros(2)}, {"a": np.zeros(2)}) == 0
    assert distance({"a": np.zeros(2)}, {"a": np.ones(2)}) == float("inf")

"""The parts beneath align and compare: CKA, balance, fitted scales, correlation, states, repair."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import weightlapse as wl
from tests.oracles_symmetry import mlp_wiring, random_state
from weightlapse.symmetry.activations import correlation, match_activations, standardised
from weightlapse.symmetry.barrier import Height, Line, Repair
from weightlapse.symmetry.cka import cka
from weightlapse.symmetry.match import Matcher, Move
from weightlapse.symmetry.runner import Runner, data_of
from weightlapse.symmetry.scale import _best_factor, balance, fit_scales, rescaled, scalable
from weightlapse.symmetry.states import distance, parameter_names, state_of
from weightlapse.symmetry.units import Part, Units, units_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member, blocks

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


# ---- matching by activations


class Told:
    """A matcher of 4 and 3 units, and what is asked of it."""

    def __init__(self, *symmetries: str, allowed: frozenset[str], helps: bool = False, wiring: Wiring | None = None):
        w = mlp_wiring([2, 4, 3, 2], *symmetries) if wiring is None else wiring
        a = random_state(w, np.random.default_rng(0))
        self.m = Matcher(a, a, w, allowed)
        self.moves: list[tuple[str, list[int], list[bool] | None]] = []
        self.left: list[str] = []
        self.doubts: list[tuple[str, list[int]]] = []
        real = self.m.apply

        def apply(move: Move) -> None:
            self.moves.append((move.units.name, move.order.tolist(), None if move.flip is None else move.flip.tolist()))
            real(move)

        def descend(only: list[Units]) -> None:
            self.left += [u.name for u in only]

        self.m.apply = apply
        self.m.descend = descend
        self.m.improve = lambda u, doubt: self.doubts.append((u.name, doubt.tolist())) or helps

    def match(self, said_a: dict[str, np.ndarray], said_b: dict[str, np.ndarray]) -> Told:
        at = match_activations(SimpleNamespace(matcher=lambda: self.m), said_a, said_b)
        assert at is self.m.at
        return self


BOTH = frozenset({"permutation", "sign"})
ONE, TWO = np.random.default_rng(0).normal(size=(4, 9)), np.random.default_rng(1).normal(size=(3, 9))


@pytest.mark.parametrize("allowed", [BOTH, {"permutation"}, {"sign"}])
def test_units_go_where_they_say_the_same(allowed: frozenset[str]) -> None:
    order, signs = np.array([2, 0, 3, 1]), np.array([[-1], [1], [-1], [1]])
    if "permutation" not in allowed:
        order = np.arange(4)
    told = Told("sign", allowed=frozenset(allowed))
    there = np.zeros_like(ONE)
    there[order] = ONE * (signs if "sign" in allowed else 1)
    told.match({"fc1": ONE, "fc2": TWO}, {"fc1": there, "fc2": TWO})
    flip = (signs[:, 0] < 0).tolist() if "sign" in allowed else None
    assert told.moves[0] == ("fc1", order.tolist(), flip)
    assert told.moves[1] == ("fc2", [0, 1, 2], [False] * 3 if "sign" in allowed else None)
    assert told.left == []
    assert told.doubts == []


def test_channels_are_compared_over_all_samples_and_places() -> None:
    told = Told(allowed=BOTH)
    said = {"fc1": ONE.reshape(4, 3, 3), "fc2": TWO}
    told.match(said, {"fc1": said["fc1"][[2, 0, 3, 1]], "fc2": TWO})
    assert told.moves[0][1] == [1, 3, 0, 2]


@pytest.mark.parametrize(
    ("said_a", "said_b"),
    [({}, {"fc1": ONE}), ({"fc1": ONE}, {}), ({"fc1": ONE}, {"fc1": ONE[:, :8]}), ({"fc1": ONE[:, :8]}, {"fc1": ONE})],
)
def test_groups_that_do_not_say_the_same_kind_of_thing_are_left_to_their_weights(said_a: Any, said_b: Any) -> None:
    told = Told(allowed=BOTH).match(said_a | {"fc2": TWO}, said_b | {"fc2": TWO})
    assert [name for name, *_ in told.moves] == ["fc2"]
    assert told.left == ["fc1"]


def test_what_may_not_move_stays_and_nested_groups_are_left_to_their_weights() -> None:
    said = {"fc1": ONE, "fc2": TWO}
    assert Told(allowed=frozenset({"scale"})).match(said, said).moves == []
    at = blocks(2, 2)
    order = frozenset({"permutation"})
    inner = tuple(Group(f"c{i}", 2, (Member("x", 0, at[i][:, None], "out"),), order, parent=("g", i)) for i in range(2))
    other = Group("z", 3, (Member("x", 1, blocks(3), "in"),), order)
    w = Wiring((Group("g", 2, (Member("x", 0, at, "out"),), order), *inner, other), shapes={"x": (4, 3)})
    rng = np.random.default_rng(0)
    said = {g.name: rng.normal(size=(g.size, 9)) for g in w.groups}
    told = Told(allowed=BOTH, wiring=w).match(said, said)
    assert [name for name, *_ in told.moves] == ["z"]
    assert told.left == ["g"]


@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize(("dead_a", "dead_b"), [(0, 0), (1, 0), (0, 1), (2, 2), (3, 0), (0, 3)])
def test_silent_units_are_told_apart_by_their_weights_where_there_is_a_choice(
    sign: bool, dead_a: int, dead_b: int
) -> None:
    a, b = ONE.copy(), ONE.copy()
    a[:dead_a], b[:dead_b] = 2.0, 0.0
    told = Told(*(["sign"] if sign else []), allowed=BOTH).match({"fc1": a, "fc2": TWO}, {"fc1": b, "fc2": TWO})
    ((_, order, flip),) = [m for m in told.moves if m[0] == "fc1"]
    doubt = [u for u in range(4) if u < dead_a or order[u] < dead_b]
    assert told.doubts == ([("fc1", doubt)] if len(doubt) > (0 if sign else 1) else [])
    assert flip is None or not any(flip), "of what says nothing no sign is known"


def test_silent_units_are_looked_at_three_times_at_most() -> None:
    a, b = ONE.copy(), TWO.copy()
    a[:2], b[:2] = 0.0, 0.0
    said = {"fc1": a, "fc2": b}
    for helps, times in ((True, 3), (False, 1)):
        told = Told(allowed=BOTH, helps=helps).match(said, said)
        assert told.doubts == [("fc1", [0, 1]), ("fc2", [0, 1])] * times


def test_a_row_is_constant_below_a_billionth_of_the_loudest() -> None:
    wave = np.array([1.0, -1.0, 0.0])
    for size in (1.0, 1e-100, 1e100):
        rows, alive = standardised(size * np.outer([1, 1.05e-9, 0.95e-9, 0], wave) + size * np.array([[0, 0, 0, 3]]).T)
        assert alive.tolist() == [True, True, False, False]
        assert np.allclose((rows**2).sum(1), [1, 1, 0, 0])
        assert np.abs(rows.sum(1)).max() < 1e-6
    assert standardised(np.zeros((2, 3)))[1].tolist() == [False, False]
    assert standardised(np.zeros((0, 3)))[0].shape == (0, 3)


# ---- scales


def test_scales_are_known_for_factors_once_or_not_at_all() -> None:
    members = (Member("x", 0, blocks(2), "out"), Member("y", 1, blocks(2), "in"), Member("z", 0, blocks(2), "add"))
    for exponents, kinds, known in (
        ((1, -1, 0), {"scale"}, True), ((1, -1, 1), {"scale"}, True), ((1, -1, 2), {"scale"}, False), ((1, -2, 1), {"scale"}, False),
        ((1, -1, 0), {"sign"}, False),
    ):  # fmt: skip
        u = units_of(Group("g", 2, members, frozenset(kinds), exponents=exponents), frozenset({"scale", "sign"}))
        assert scalable([u]) == ([u] if known else [])


def test_only_the_groups_with_factors_are_rescaled() -> None:
    w = mlp_wiring([2, 3, 3, 3, 2], "scale")
    a = random_state(w, np.random.default_rng(0))
    units = [units_of(g, SCALE) for g in w.groups]
    out = rescaled(a, units, {"fc2": np.ones(3), "fc3": np.array([1.0, 2.0, 4.0])})
    assert np.array_equal(out["fc3.weight"], a["fc3.weight"] * [[1], [2], [4]])
    assert np.array_equal(out["fc3.bias"], a["fc3.bias"] * [1, 2, 4])
    assert np.array_equal(out["fc4.weight"], a["fc4.weight"] / [1, 2, 4])
    assert all(out[f"fc{i}.{n}"] is a[f"fc{i}.{n}"] for i in (1, 2) for n in ("weight", "bias"))


@pytest.mark.parametrize("far", [1.0, 1e-3, 1e3])
def test_the_best_factor_of_a_unit_is_at_the_least_value_of_its_line(far: float) -> None:
    """Against a grid over log t, from starts that are near and far."""
    rng = np.random.default_rng(0)
    w = mlp_wiring([2, 4, 2], "scale")
    (u,) = [units_of(g, SCALE) for g in w.groups]
    a = random_state(w, rng)
    b = rescaled({n: v + 0.1 * rng.normal(size=v.shape) for n, v in a.items()}, [u], {"fc1": np.full(4, far)})
    t, better = _best_factor(a, b, u)
    assert better
    p, q = (sum((x[f"fc1.{n}"] * b[f"fc1.{n}"]).reshape(4, -1).sum(1) for n in ("weight", "bias")) for x in (b, a))
    r, s = ((x["fc2.weight"] * b["fc2.weight"]).sum(0) for x in (b, a))
    for i in range(4):
        grid = np.exp(np.linspace(-20, 20, 20001))
        value = p[i] * grid**2 - 2 * q[i] * grid + r[i] / grid**2 - 2 * s[i] / grid
        least = p[i] * t[i] ** 2 - 2 * q[i] * t[i] + r[i] / t[i] ** 2 - 2 * s[i] / t[i]
        assert least <= value.min() + 1e-9 * (abs(value.min()) + 1)
        slope = 2 * p[i] * t[i] ** 2 - 2 * q[i] * t[i] - 2 * r[i] / t[i] ** 2 + 2 * s[i] / t[i]
        assert abs(slope) < 1e-9 * (p[i] * t[i] ** 2 + r[i] / t[i] ** 2 + abs(q[i] * t[i]) + abs(s[i] / t[i]))


@pytest.mark.parametrize("far", [1e-9, 1e-6, 1e6, 1e9])
def test_scales_are_fitted_from_far_away(far: float) -> None:
    w = mlp_wiring([2, 4, 2], "scale")
    units = [units_of(g, SCALE) for g in w.groups]
    a = random_state(w, np.random.default_rng(0))
    found = fit_scales(a, rescaled(a, units, {"fc1": np.full(4, far)}), units)
    assert found["fc1"] * far == pytest.approx(1, abs=1e-7)


def test_a_factor_needs_both_sides_and_helps_or_is_left() -> None:
    w = mlp_wiring([2, 3, 2], "scale")
    (u,) = [units_of(g, SCALE) for g in w.groups]
    a = random_state(w, np.random.default_rng(0))
    t, better = _best_factor(a, a, u)
    assert t == pytest.approx(1, abs=1e-9)
    assert not better or t != 1
    b = {n: v.copy() for n, v in a.items()}
    b["fc1.weight"][0] = b["fc1.bias"][0] = 0  # nothing goes in
    b["fc2.weight"][:, 0] *= 2
    b["fc2.weight"][:, 1] = 0  # nothing comes out
    b["fc1.weight"][1] *= 2
    b["fc1.weight"][2] *= 3
    t, better = _best_factor(a, b, u)
    assert t[:2].tolist() == [1, 1]
    assert t[2] != 1
    assert better


def test_units_without_one_side_keep_their_scale() -> None:
    w = mlp_wiring([2, 3, 2], "scale")
    units = [units_of(g, SCALE) for g in w.groups]
    a = random_state(w, np.random.default_rng(0))
    a["fc1.weight"][0] = a["fc1.bias"][0] = 0
    a["fc2.weight"][:, 1] = 0
    found = balance(a, units)["fc1"]
    assert found[:2].tolist() == [1, 1]
    assert abs(found[2] - 1) > 1e-3


def test_what_is_balanced_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    w = mlp_wiring([2, 3, 3, 2], "scale")
    units = [units_of(g, SCALE) for g in w.groups]
    a = random_state(w, np.random.default_rng(0))
    flat = dict(rescaled(a, units, balance(a, units)))
    moved: list[Part] = []
    real = Part.moved
    monkeypatch.setattr(Part, "moved", lambda self, *given: moved.append(self) or real(self, *given))
    balance(flat, units)
    assert len(moved) == sum(len(u.voters) for u in units)
    moved.clear()
    balance(a, units, sweeps=3)
    assert len(moved) == 3 * sum(len(u.voters) for u in units)


def test_units_that_see_a_part_of_another_axis_are_balanced_in_that_part() -> None:
    members = (Member("x", 1, blocks(2), "out", (0, np.array([0, 2]))), Member("y", 0, blocks(2), "in"))
    u = units_of(Group("g", 2, members, frozenset({"scale"})), SCALE)
    rng = np.random.default_rng(0)
    a = {"x": rng.normal(size=(3, 2)), "y": rng.normal(size=(2, 4))}
    into, out = (a["x"][[0, 2]] ** 2).sum(0), (a["y"] ** 2).sum(1)
    assert balance(a, [u])["g"] == pytest.approx((out / into) ** 0.25)


@pytest.mark.parametrize("seed", range(3))
def test_units_on_both_axes_are_rescaled_as_far_as_it_helps(seed: int) -> None:
    members = (Member("x", 0, blocks(3), "out"), Member("rec", 0, blocks(3), "out"), Member("rec", 1, blocks(3), "in"), Member("y", 1, blocks(3), "in"))  # fmt: skip
    u = units_of(Group("g", 3, members, frozenset({"scale"})), SCALE)
    rng = np.random.default_rng(seed)
    a = {"x": rng.normal(size=(3, 4)), "rec": 0.1 * rng.normal(size=(3, 3)), "y": rng.normal(size=(4, 3))}
    b = rescaled(a, [u], {"g": np.array([0.5, 1.0, 2.0])})
    found = fit_scales(a, b, [u])
    assert found["g"] == pytest.approx([2.0, 1.0, 0.5], rel=1e-3)
    assert distance(a, rescaled(b, [u], found)) < 1e-3 < distance(a, b)

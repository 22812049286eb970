"""Measures over time: each equal to a slow, obvious twin; groups, layers and units; what cannot be measured is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from tests import oracles_measures as oracle
from weightlapse.measures.measure import MEASURES
from weightlapse.measures.spectra import SMALLEST_TAIL, power_law_alpha
from weightlapse.measures.trajectory import trajectory
from weightlapse.measures.units import twins

T = 9
SHAPES = {"fc1.weight": (6, 4), "fc1.bias": (6,), "conv.weight": (3, 2, 3, 3), "fc2.weight": (2, 6)}


@pytest.fixture(scope="module")
def history() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    made = {}
    for name, shape in SHAPES.items():
        steps = 0.1 * rng.standard_normal((T, *shape))
        values = rng.standard_normal(shape) + np.cumsum(steps, axis=0)
        made[name] = np.where(np.abs(values) < 0.05, 0, values).astype(np.float32)
    return made


@pytest.fixture(scope="module")
def run(history, tmp_path_factory):
    path = tmp_path_factory.mktemp("measures") / "run"
    with wl.watch({n: h[0] for n, h in history.items()}, path) as rec:
        for t in range(1, T):
            rec.step({n: h[t] for n, h in history.items()}, loss=1 / t)
    return wl.load(path)


@pytest.mark.parametrize("what", sorted(oracle.TWINS))
def test_equals_its_twin(run, history, what):
    got = wl.measure(run, what)
    assert sorted(got) == sorted(SHAPES)
    for name, h in history.items():
        np.testing.assert_allclose(got[name], oracle.over_time(h, oracle.TWINS[what]), rtol=1e-6, atol=2e-7)


def test_the_comparison_with_twins_can_fail(run, history):
    wrong = oracle.over_time(history["fc1.bias"], lambda n, b, s, e: oracle.TWINS["norm"](n, b, s, e) * 1.001)
    assert not np.allclose(wl.measure(run, "norm")["fc1.bias"], wrong, rtol=1e-6)


def test_every_measure_has_a_test():
    tested_elsewhere = {
        "alpha", "directness", "duplicate_units", "function_drift", "gradient_noise", "histogram",
        "mass", "path_length", "pca", "quiet_units", "top_movers",
    }  # fmt: skip
    assert set(MEASURES) == set(oracle.TWINS) | tested_elsewhere


def test_path_length_and_directness(run, history):
    both = wl.measure(run, ["path_length", "directness"])
    for name, h in history.items():
        path = oracle.path_length(h)
        np.testing.assert_allclose(both["path_length"][name], path, rtol=1e-6)
        np.testing.assert_allclose(
            both["directness"][name][1:], oracle.over_time(h, oracle.TWINS["distance"])[1:] / path[1:], rtol=1e-6
        )


def test_mass_is_a_share_of_each_tensor(run, history):
    mass = wl.measure(run, "mass")
    for name, h in history.items():
        size = np.abs(h.astype(np.float64))
        np.testing.assert_allclose(
            mass[name], size / size.reshape(T, -1).sum(1).reshape(T, *[1] * (h.ndim - 1)), rtol=1e-12
        )
        np.testing.assert_allclose(mass[name].reshape(T, -1).sum(axis=1), 1)


def test_groups_named_by_the_user(run, history):
    groups = {"first": [0], "rest": range(1, 6)}
    means = wl.measure(run, "mean", tensors="fc1.bias", groups=groups)
    np.testing.assert_allclose(means["rest"], history["fc1.bias"][:, 1:].astype(np.float64).mean(axis=1))
    share = wl.measure(run, "mass", tensors="fc1.bias", groups=groups)
    np.testing.assert_allclose(share["first"] + share["rest"], 1)
    np.testing.assert_allclose(share["first"], wl.measure(run, "mass")["fc1.bias"][:, 0])


def test_groups_over_several_tensors(run, history):
    got = wl.measure(run, "norm", groups={"corner": {"fc1.weight": [0, 1], "fc2.weight": ...}})["corner"]
    flat = np.concatenate([history["fc1.weight"].reshape(T, -1)[:, :2], history["fc2.weight"].reshape(T, -1)], axis=1)
    np.testing.assert_allclose(got, np.linalg.norm(flat.astype(np.float64), axis=1))


def test_by_unit_layer_and_network(run, history):
    by_unit = wl.measure(run, "norm", by="unit")["conv.weight"]
    np.testing.assert_allclose(
        by_unit, np.linalg.norm(history["conv.weight"].reshape(T, 3, -1).astype(np.float64), axis=2)
    )
    layer = wl.measure(run, "norm", by="layer")
    assert set(layer) == {"fc1", "fc2", "conv"}
    single = wl.measure(run, "norm")
    np.testing.assert_allclose(layer["fc1"] ** 2, single["fc1.weight"] ** 2 + single["fc1.bias"] ** 2)
    whole = wl.measure(run, "norm", by="network")["network"]
    np.testing.assert_allclose(whole**2, sum(v**2 for v in single.values()))


def test_histogram_counts_every_weight_on_edges_that_stay(run, history):
    got = wl.measure(run, "histogram", tensors="fc1.weight", bins=5)
    edges, counts = got["fc1.weight:edges"], got["fc1.weight"]
    assert counts.shape == (T, 5)
    for t in range(T):
        assert counts[t].tolist() == np.histogram(history["fc1.weight"][t], bins=edges)[0].tolist()
    assert (counts.sum(axis=1) == 24).all()


def test_top_movers(run, history):
    got = wl.measure(run, "top_movers", tensors="fc1.weight", top=3)["fc1.weight"]
    change = np.diff(history["fc1.weight"].reshape(T, -1).astype(np.float64), axis=0)
    assert np.isnan(got[0]).all()
    for t in range(1, T):
        best = sorted(range(24), key=lambda i: -abs(change[t - 1, i]))[:3]
        assert got[t, :, 0].tolist() == best
        np.testing.assert_allclose(got[t, :, 1], change[t - 1, best])


def test_pca(run, history):
    flat = np.concatenate([history[n].reshape(T, -1) for n in SHAPES], axis=1)
    coordinates, explained = oracle.pca(flat)
    got = trajectory(run)
    np.testing.assert_allclose(got.coordinates, coordinates, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got.explained, explained, rtol=1e-6)
    np.testing.assert_array_equal(wl.measure(run, "pca")["network"], got.coordinates)


def test_power_law_alpha():
    values = np.random.default_rng(1).pareto(1.5, 60) + 1
    assert power_law_alpha(values) == pytest.approx(oracle.power_law_alpha(values, SMALLEST_TAIL), rel=1e-9)
    many = np.random.default_rng(2).pareto(1.5, 1500) + 1  # density exponent 2.5
    assert power_law_alpha(many) == pytest.approx(2.5, abs=0.25)
    assert np.isnan(power_law_alpha(values[:5]))


def test_alpha_of_a_recording(tmp_path):
    w = np.random.default_rng(0).standard_normal((20, 30))
    with wl.watch({"w": w}, tmp_path / "r"):
        pass
    got = wl.measure(wl.load(tmp_path / "r"), "alpha")["w"]
    assert got[0] == pytest.approx(
        oracle.power_law_alpha(np.linalg.svd(w, compute_uv=False) ** 2, SMALLEST_TAIL), rel=1e-6
    )


def test_twins_of_units():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((12, 5))
    rows[4] = rows[9] = rows[1]
    rows[7] = rows[2] * (1 + 1e-9)
    assert twins(rows).tolist() == oracle.twin_counts(rows)
    assert twins(rows)[[1, 4, 9, 2, 7]].tolist() == [2, 2, 2, 1, 1]


def test_quiet_and_duplicate_units(tmp_path):
    w = np.random.default_rng(0).standard_normal((4, 3))
    w[3] = w[2]
    with wl.watch({"l.weight": w, "l.bias": np.zeros(4)}, tmp_path / "r") as rec:
        for t in range(3):
            w = w.copy()
            w[[0, 2, 3]] += 0.1 * t
            rec.step({"l.weight": w, "l.bias": np.zeros(4)})
    run = wl.load(tmp_path / "r")
    assert wl.measure(run, "quiet_units")["l"].tolist() == [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]]
    assert wl.measure(run, "duplicate_units")["l"].tolist() == [[0, 0, 1, 1]] * 4


def test_gradient_noise(tmp_path):
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(40, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    seen = []
    with wl.watch(model, tmp_path / "r", optimizer=optimizer, streams=("weights", "gradients")):
        for _ in range(30):
            optimizer.zero_grad()
            model.weight.grad = torch.ones(1, 40) + 0.5 * torch.randn(1, 40)
            seen.append(model.weight.grad.numpy().copy().ravel().astype(np.float64))
            optimizer.step()
    run = wl.load(tmp_path / "r")
    got = wl.measure(run, "gradient_noise", tensors="weight")["weight"]
    window = np.array(seen[-16:])
    variance = window.var(axis=0, ddof=1).sum()
    expected = variance / ((window.mean(axis=0) ** 2).sum() - variance / 16)
    assert got[-1] == pytest.approx(expected, rel=1e-6)
    assert got[-1] == pytest.approx(0.25, abs=0.08)
    with wl.watch({"w": np.ones(2)}, tmp_path / "plain"):
        pass
    plain = wl.load(tmp_path / "plain")
    with pytest.raises(wl.InvalidArgument, match="streams="):
        wl.measure(plain, "gradient_noise")


def test_function_drift(tmp_path):
    import torch

    model = torch.nn.Linear(3, 2)
    x = torch.randn(16, 3)
    states = []
    with wl.watch(model, tmp_path / "r") as rec:
        states.append(model(x).detach().double().numpy())
        for _ in range(3):
            with torch.no_grad():
                model.weight += 0.1
            rec.step()
            states.append(model(x).detach().double().numpy())
    drift = wl.measure(wl.load(tmp_path / "r"), "function_drift", model=model, data=x)
    spread = (states[0] - states[0].mean(axis=0)).std()
    expected = [np.sqrt(((s - states[0]) ** 2).mean()) / spread for s in states]
    np.testing.assert_allclose(drift["from_start"], expected, rtol=1e-5, atol=1e-7)
    assert np.isnan(drift["from_previous"][0])
    with pytest.raises(wl.InvalidArgument, match="model="):
        wl.measure(wl.load(tmp_path / "r"), "function_drift")


def test_many_chunks_equal_one(run, monkeypatch):
    import weightlapse.measures.stream as stream

    whole = wl.measure(run, ["update_norm", "distance_to_end", "gini"])
    monkeypatch.setattr(stream, "CHUNK_BYTES", 1)
    for what, per in wl.measure(run, ["update_norm", "distance_to_end", "gini"]).items():
        for name, values in per.items():
            np.testing.assert_array_equal(values, whole[what][name])


def test_frames_are_chosen(run):
    np.testing.assert_array_equal(
        wl.measure(run, "norm", frames=slice(1, 8, 3))["fc1.bias"], wl.measure(run, "norm")["fc1.bias"][1:8:3]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"what": "nrom"}, "there is no measure 'nrom'; nearest: 'norm'"),
        ({"what": "norm", "by": "row"}, "by='row'"),
        ({"what": "norm", "frames": slice(50, 60)}, "selects none of the 9 frames"),
        ({"what": "norm", "tensors": "zzz*"}, "no floating-point tensor of the recording matches"),
        ({"what": "norm", "groups": {"g": [1]}}, "gives bare positions, but 4 tensors"),
        ({"what": "norm", "tensors": "fc1.bias", "groups": {"g": [6]}}, "flat indices below 6"),
        ({"what": "norm", "groups": {"g": {"nope": [1]}}}, "group 'g' names 'nope'"),
    ],
)
def test_what_cannot_be_meant_is_refused(run, arguments, message):
    with pytest.raises((wl.InvalidArgument, wl.UnknownTensor), match=message):
        wl.measure(run, **arguments)


def test_what_a_recording_keeps_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, w = np.random.default_rng(0), {"a": np.zeros((80, 60), np.float32), "b": np.ones((70, 70), np.float32)}
    with wl.watch(w, tmp_path / "run") as rec:
        for _ in range(12):
            w = {k: (v + 0.1 * rng.standard_normal(v.shape)).astype(np.float32) for k, v in w.items()}
            rec.step(w)
    what = ["norm", "mean", "max_abs", "update_norm", "update_ratio", "path_length"]
    slow = wl.load(rec.path)
    slow._store._statistics.name = "none"  # as a recording that keeps nothing
    assert slow._store.statistics.numbers == []
    run = wl.load(rec.path)
    for frames in (None, slice(3, 9)):
        truth = wl.measure(slow, what, frames=frames)
        with monkeypatch.context() as patch:
            patch.setattr(type(run._store), "read", lambda *_: pytest.fail("weights were read"))
            found = wl.measure(run, what, frames=frames)
        for name in what:
            for tensor in ("a", "b"):
                assert np.allclose(found[name][tensor], truth[name][tensor], rtol=1e-12, equal_nan=True), name
    assert wl.measure(run, "norm", frames=slice(0, None, 2))["a"].shape == (7,)
    assert wl.measure(run, ["norm", "std"])["std"]["b"][0] == 0

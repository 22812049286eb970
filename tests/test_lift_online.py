"""The online loop is exact: NumPy, compiled and autograd engines against a plain one-sample-at-a-time twin."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.oracles_lift import keras_start, lift_twin, study_data


def study_task(seed: int = 0) -> nn.Module:
    return keras_start(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1)), seed + 1)


def study_net(seed: int = 0, dtype: torch.dtype = torch.float64) -> wl.Lift:
    generator = keras_start(nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 26)), seed)
    return wl.Lift(study_task(seed), generator).to(dtype)


def weights(module: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().double().reshape(-1) for p in module.parameters()]).numpy()


CASES = [
    {},
    {"eps": "inside"},
    {"inner_steps": 3},
    {"task_optimizer": "sgd", "task_lr": 1e-4},
    {"rule": "end_to_end"},
    {"rule": "fixed_start", "inner_steps": 2},
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c.values())) or "study")
@pytest.mark.parametrize("engine", ["numpy", "numba", "torch"])
def test_engines_equal_the_twin(case: dict, engine: str) -> None:
    x, y = study_data(200)
    net = study_net()
    twin_case = {k: v for k, v in case.items() if k != "eps"} | {"inside": case.get("eps") == "inside"}
    start = torch.cat([p.reshape(-1) for p in study_task().double().parameters()])
    twin, losses = lift_twin(net.generator, study_task(), x, y, start=start.detach(), **twin_case)
    before = weights(net.generator)
    history = wl.fit_lift(net, x, y, engine=engine, **case)
    assert history.engine == engine
    assert np.abs(weights(net.generator) - before).max() > 1e-2
    np.testing.assert_allclose(weights(net.generator), weights(twin), atol=1e-9, rtol=0)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-7)
    assert np.isnan(history.target_loss).all() == (case.get("rule") == "end_to_end")


@pytest.mark.parametrize("engine", ["numpy", "numba", "torch"])
def test_a_wrong_twin_is_noticed(engine: str) -> None:
    x, y = study_data(50)
    net = study_net()
    twin, _ = lift_twin(net.generator, study_task(), x, y, inside=True)
    wl.fit_lift(net, x, y, engine=engine)
    assert np.abs(weights(net.generator) - weights(twin)).max() > 1e-5


@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid])
def test_other_activations_depths_and_missing_biases(act: type[nn.Module]) -> None:
    torch.manual_seed(1)
    task = nn.Sequential(nn.Linear(4, 6), act(), nn.Linear(6, 5, bias=False), act(), nn.Linear(5, 2))
    generator = nn.Sequential(
        nn.Linear(4, 7), act(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 24 + 6 + 30 + 12), nn.Tanh()
    )
    x, y = torch.randn(60, 4).double(), torch.randn(60, 2).double()
    results = []
    for engine in ("numpy", "numba", "torch"):
        net = wl.Lift(task, copy.deepcopy(generator), base="frozen").double()
        wl.fit_lift(net, x, y, engine=engine, inner_steps=2, task_lr=0.01, epochs=2)
        results.append(weights(net.generator))
    np.testing.assert_allclose(results[1], results[0], atol=1e-11)
    np.testing.assert_allclose(results[2], results[0], atol=1e-9)


def test_float32_nets_train_in_float64_and_keep_their_dtype() -> None:
    x, y = study_data(200)
    narrow, wide = study_net(dtype=torch.float32), study_net()
    wide.generator.load_state_dict(narrow.generator.state_dict())
    wl.fit_lift(narrow, x.float(), y.float())
    wl.fit_lift(wide, x, y)
    assert next(narrow.parameters()).dtype == torch.float32
    np.testing.assert_allclose(weights(narrow.generator), weights(wide.generator), atol=1e-6)


def test_integers_arrays_and_flat_targets_are_understood() -> None:
    x, y = study_data(60)
    wanted, got = study_net(), study_net()
    wl.fit_lift(wanted, x, y)
    wl.fit_lift(got, x.long().numpy(), y[:, 0].long().numpy())
    np.testing.assert_array_equal(weights(got), weights(wanted))
    batched = study_net()
    wl.fit_lift(batched, x.long(), y.long(), batch_size=4)
    assert np.isfinite(weights(batched)).all()


def test_without_a_place_for_its_cache_the_loop_still_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from weightlapse.lift import compiled

    def no_cache(**options: bool):
        def decorate(function):
            if options.get("cache"):
                raise RuntimeError("cannot cache function: no locator available")
            return ("plain", function)

        return decorate

    monkeypatch.setattr(compiled, "njit", no_cache)
    assert compiled.compiled(len) == ("plain", len)


def test_engine_is_numpy_for_short_runs_and_compiled_for_long_ones() -> None:
    x, y = study_data(6000)
    assert wl.fit_lift(study_net(), x[:100], y[:100]).engine == "numpy"
    assert wl.fit_lift(study_net(), x, y, epochs=10).engine == "numba"


def test_state_starts_at_zero_and_epochs_continue() -> None:
    x, y = study_data(100)
    once, again = study_net(), study_net()
    wl.fit_lift(once, x, y, epochs=2)
    wl.fit_lift(again, torch.cat([x, x]), torch.cat([y, y]))
    np.testing.assert_array_equal(weights(once), weights(again))
    twice = study_net()
    wl.fit_lift(twice, x, y)
    wl.fit_lift(twice, x, y)
    assert np.abs(weights(twice) - weights(once)).max() > 1e-6


def test_online_false_shuffles_by_seed() -> None:
    x, y = study_data(100)
    runs = []
    for seed in (0, 0, 1):
        net = study_net()
        wl.fit_lift(net, x, y, online=False, seed=seed)
        runs.append(weights(net))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_dead_units_leave_no_denormals() -> None:
    x, y = study_data(10)
    net = study_net()
    with torch.no_grad():
        net.generator[0].bias[0] = -1e6  # this unit never fires again: its second moments decay for ever
    history = wl.fit_lift(net, x, y, epochs=900, engine="numpy")
    assert np.isfinite(history.loss).all()
    from weightlapse.lift.engines import NumpyEngine, prepare
    from weightlapse.lift.rules import Rule

    engine = NumpyEngine(net, Rule(), prepare(net, x, y, None))
    for moment in engine.loop._moments:
        moment[:] = 1e-195
    engine.advance(np.tile(np.arange(10), 100), np.zeros(1000), np.zeros(1000))
    moments = np.concatenate(engine.loop._moments)
    assert ((moments == 0) | (moments >= 1e-200)).all()
    assert (moments == 0).any()


@pytest.mark.parametrize("eps,low,high", [("outside", 8, 21), ("inside", 12, 34)])
def test_the_studys_headline(eps: str, low: float, high: float) -> None:
    x, y = study_data(20_000)
    errors = []
    for seed in range(5):
        net = study_net(seed=10 * seed)
        after: list[float] = []

        def measure(_: int, net: wl.Lift, after: list[float] = after) -> None:
            with torch.no_grad():
                after.append(float(((net(x[10_000:]) - y[10_000:]) ** 2).mean()))

        wl.fit_lift(net, x[:10_000], y[:10_000], epochs=10, eps=eps, callback=measure)
        errors.append((after[0], after[-1]))
    first, tenth = np.median(errors, axis=0)
    assert low <= first <= high
    assert 0.6 <= tenth <= 8

"""scikit-learn and skorch: partial_fit loops, warm starts and a callback, against copies taken by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.framework_presence import require

require("sklearn")

from sklearn.linear_model import SGDClassifier  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402

import weightlapse as wl  # noqa: E402
from weightlapse.capture.recorder import RecordingStopped  # noqa: E402

X = np.random.default_rng(0).normal(size=(60, 5))
Y = np.random.default_rng(1).integers(0, 3, 60)


def copies(model: MLPClassifier) -> dict[str, np.ndarray]:
    return {
        **{f"coefs_.{i}": w.copy() for i, w in enumerate(model.coefs_)},
        **{f"intercepts_.{i}": b.copy() for i, b in enumerate(model.intercepts_)},
    }


def check(path: Path, by_hand: list[dict[str, np.ndarray]]) -> wl.Recording:
    run = wl.load(path)
    assert run.names == list(by_hand[0])
    assert run.frames == len(by_hand)
    for name in run.names:
        assert run[name][:].tobytes() == np.stack([state[name] for state in by_hand]).tobytes()
    return run


def test_partial_fit(tmp_path: Path) -> None:
    model = MLPClassifier((7, 4), random_state=0)
    model.partial_fit(X, Y, classes=[0, 1, 2])
    by_hand = [copies(model)]
    with wl.watch(model, tmp_path / "run") as rec:
        for _ in range(6):
            model.partial_fit(X, Y)
            rec.step(loss=model.loss_)
            by_hand.append(copies(model))
    run = check(tmp_path / "run", by_hand)
    assert run.scalars["loss"][-1] == model.loss_
    run.load_into(model, step=2)
    assert all(np.array_equal(copies(model)[n], by_hand[2][n]) for n in by_hand[2])
    with wl.watch(model, tmp_path / "run", resume=True) as rec:
        model.partial_fit(X, Y)
        rec.step()
        by_hand.append(copies(model))
    assert check(tmp_path / "run", by_hand).steps.tolist() == list(range(8))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fit_by_warm_start(tmp_path: Path) -> None:
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=1, warm_start=True, random_state=0)
    model.fit(X, X[:, 0])
    by_hand = [copies(model)]
    with wl.watch(model, tmp_path / "run") as rec:
        for _ in range(5):
            model.fit(X, X[:, 0])
            rec.step()
            by_hand.append(copies(model))
    check(tmp_path / "run", by_hand)
    assert not np.array_equal(by_hand[0]["coefs_.0"], by_hand[5]["coefs_.0"])


def test_linear_models(tmp_path: Path) -> None:
    model = SGDClassifier(random_state=0).partial_fit(X, Y, classes=[0, 1, 2])
    with wl.watch(model, tmp_path / "run") as rec:
        model.partial_fit(X, Y)
        rec.step()
    run = wl.load(tmp_path / "run")
    assert run.shapes == {"coef_": (3, 5), "intercept_": (3,)}
    assert np.array_equal(run["coef_"][-1], model.coef_)


def test_an_estimator_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(wl.CannotRecord, match="after its first partial_fit"):
        wl.watch(MLPClassifier(), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_recorder_leaves_training_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTLAPSE_STRICT", raising=False)
    ends = []
    for broken in (False, True):
        model = MLPClassifier((7,), random_state=0).partial_fit(X, Y, classes=[0, 1, 2])
        rec = wl.watch(model, tmp_path / f"run{broken}")
        if broken:
            rec._source.entries = lambda params: 1 / 0
        for k in range(4):
            model.partial_fit(X, Y)
            if broken and k == 0:
                with pytest.warns(RecordingStopped, match="division"):
                    rec.step()
            else:
                rec.step()
        rec.close()
        ends.append(copies(model))
    assert all(np.array_equal(ends[0][n], ends[1][n]) for n in ends[0])


def test_skorch(tmp_path: Path) -> None:
    require("skorch", "torch")
    import torch
    from skorch import NeuralNetClassifier

    from weightlapse.adapters.skorch import WatchCallback

    states = []

    class Net(torch.nn.Sequential):
        def __init__(self) -> None:
            torch.manual_seed(0)
            super().__init__(torch.nn.Linear(5, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))

    class Hooked(torch.optim.Adam):
        def step(self, closure=None):
            result = super().step(closure)
            states.append(self.param_groups[0]["params"][0].detach().clone().numpy())
            return result

    net = NeuralNetClassifier(
        Net, optimizer=Hooked, criterion=torch.nn.CrossEntropyLoss, max_epochs=2, batch_size=16, verbose=0, train_split=None,
        callbacks=[WatchCallback(tmp_path / "run")],
    )  # fmt: skip
    net.fit(X.astype(np.float32), Y)
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == list(range(9))
    assert np.array_equal(run["0.weight"][1:], np.stack(states))
    assert np.isfinite(run.scalars["loss"][1:]).all()
    assert run.closed

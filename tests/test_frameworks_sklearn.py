"""scikit-learn and skorch: plain fits, partial_fit loops, warm starts and a callback, against copies taken by hand."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.framework_presence import require

require("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.linear_model import (  # noqa: E402
    Lasso,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    RidgeCV,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

import weightlapse as wl  # noqa: E402
from weightlapse.errors import RecorderWarning, RecordingStopped  # noqa: E402

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
    with wl.watch(model, tmp_path / "run", resume=True) as rec:
        model.partial_fit(X, Y)
        rec.step()
        by_hand.append(copies(model))
    run = check(tmp_path / "run", by_hand)
    assert run.steps.tolist() == list(range(8))
    run.load_into(model, step=2)
    assert all(np.array_equal(copies(model)[n], by_hand[2][n]) for n in by_hand[2])


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


def test_an_estimator_without_iterations_is_refused_before_it_has_weights(tmp_path: Path) -> None:
    for estimator in (LinearRegression(), StandardScaler(), RidgeCV(), LogisticRegressionCV()):
        with pytest.raises(wl.CannotRecord, match="watch it after its first fit"):
            wl.watch(estimator, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    model = LinearRegression().fit(X, X[:, 0])
    with wl.watch(model, tmp_path / "run") as rec:
        model.fit(X, X[:, 1])
        rec.step()
    assert wl.load(tmp_path / "run").frames == 2


# ---- a plain fit -------------------------------------------------------------------------------------------------------


class Hand:
    """Takes the weights where scikit-learn counts an iteration, as a user would who knew its code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def _initialize(self, *args: Any) -> None:
        super()._initialize(*args)
        self.taken = [copies(self)]

    def _update_no_improvement_count(self, *args: Any) -> None:
        super()._update_no_improvement_count(*args)
        self.taken.append(copies(self))


class HandClassifier(Hand, MLPClassifier):
    pass


class HandRegressor(Hand, MLPRegressor):
    pass


for _hand, _kind in ((HandClassifier, MLPClassifier), (HandRegressor, MLPRegressor)):
    _hand._get_param_names = classmethod(lambda cls, kind=_kind: kind._get_param_names())

NETWORKS = {
    "adam": (HandClassifier, {"hidden_layer_sizes": (7, 4), "max_iter": 6, "batch_size": 16}),
    "sgd": (HandRegressor, {"hidden_layer_sizes": (5,), "max_iter": 5, "solver": "sgd", "learning_rate": "adaptive"}),
    "stops by itself": (
        HandClassifier,
        {"hidden_layer_sizes": (3,), "max_iter": 500, "tol": 0.05, "n_iter_no_change": 2},
    ),
    "early stopping": (
        HandClassifier,
        {"hidden_layer_sizes": (6,), "max_iter": 60, "early_stopping": True, "n_iter_no_change": 4},
    ),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", NETWORKS)
def test_every_iteration_of_a_network(tmp_path: Path, case: str) -> None:
    kind, settings = NETWORKS[case]
    y = Y if kind is HandClassifier else X[:, 0]
    model = kind(random_state=0, **settings)
    rec = wl.watch(model, tmp_path / "run")
    assert (rec.frames, rec.active) == (0, True)
    model.fit(X, y)
    rec.close()
    by_hand = list(model.taken)
    back = any(not np.array_equal(by_hand[-1][n], copies(model)[n]) for n in by_hand[-1])
    assert back == (case == "early stopping"), "the best weights are put back, and are a frame"
    run = check(tmp_path / "run", by_hand + ([copies(model)] if back else []))
    assert run.steps.tolist() == list(range(model.n_iter_ + 1 + back))
    assert np.array_equal(run.scalars["loss"][1 : model.n_iter_ + 1], model.loss_curve_)
    assert (
        (run.events[-1][1] == "the weights that fit() left: those of its best iteration") == back
        if back
        else run.events == []
    )
    plain = kind(random_state=0, **settings).fit(X, y)
    assert all(np.array_equal(copies(plain)[n], copies(model)[n]) for n in copies(model)), "recording changes nothing"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_every_iteration_of_lbfgs(tmp_path: Path, kind: type) -> None:
    y = Y if kind is MLPClassifier else X[:, 0]

    def fitted(iterations: int) -> dict[str, np.ndarray]:
        return copies(kind(hidden_layer_sizes=(6,), solver="lbfgs", max_iter=iterations, random_state=3).fit(X, y))

    model = kind(hidden_layer_sizes=(6,), solver="lbfgs", max_iter=9, random_state=3)
    with wl.watch(model, tmp_path / "run"):
        model.fit(X, y)
    run = wl.load(tmp_path / "run")
    assert run.frames == model.n_iter_ + 1 == 10
    for k in range(1, 10):
        assert all(np.array_equal(run.state(step=k)[n], w) for n, w in fitted(k).items()), k
    assert np.isclose(run.scalars["loss"][-1], model.loss_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_batch_of_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

    taken: list[np.ndarray] = []
    updates = AdamOptimizer._get_updates

    def hooked(self: Any, grads: Any) -> Any:
        found = updates(self, grads)
        taken.append(model.coefs_[0] + found[0])
        return found

    monkeypatch.setattr(AdamOptimizer, "_get_updates", hooked)
    model = MLPClassifier((4,), max_iter=3, batch_size=16, random_state=0)
    with wl.watch(model, tmp_path / "run", frame="step"):
        model.fit(X, Y)
    run = wl.load(tmp_path / "run")
    assert run.frames == 1 + 3 * 4 == 1 + len(taken)
    assert np.array_equal(run["coefs_.0"][1:], np.stack(taken))
    assert np.flatnonzero(np.isfinite(run.scalars["loss"])).tolist() == [4, 8, 12]
    with pytest.raises(wl.InvalidArgument, match="SGDClassifier does not show the steps within"):
        wl.watch(SGDClassifier(), tmp_path / "no", frame="step")


LINEAR: dict[str, Any] = {
    "classifier": lambda: SGDClassifier(random_state=0, max_iter=7),
    "averaged, early stopping": lambda: SGDClassifier(
        random_state=1, average=True, early_stopping=True, n_iter_no_change=2
    ),
    "regressor": lambda: SGDRegressor(random_state=0, max_iter=9),
    "perceptron": lambda: Perceptron(random_state=0, max_iter=5),
    "logistic": lambda: LogisticRegression(max_iter=6),
    "saga": lambda: LogisticRegression(solver="saga", random_state=0, max_iter=5),
    "lasso": lambda: Lasso(alpha=0.01, selection="random", random_state=0, max_iter=4, tol=1e-12),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", LINEAR)
def test_every_iteration_of_a_linear_model(tmp_path: Path, case: str) -> None:
    y = X[:, 0] + 0.3 * X[:, 1] if case in ("regressor", "lasso") else Y
    model, plain = LINEAR[case](), LINEAR[case]().fit(X, y)
    with wl.watch(model, tmp_path / "run"):
        assert model.fit(X, y) is model
    assert np.array_equal(model.coef_, plain.coef_), "recording changes nothing"
    run = wl.load(tmp_path / "run")
    count = int(np.max(model.n_iter_))
    first = 1 if case == "lasso" else 0
    assert run.steps.tolist() == list(range(first, count + 1))
    assert count > 1
    for k in range(1, count + 1):
        fitted = LINEAR[case]().set_params(max_iter=k).fit(X, y)
        assert np.array_equal(run.state(step=k)["coef_"], fitted.coef_), k
        assert np.array_equal(run.state(step=k)["intercept_"], fitted.intercept_), k
    if first:
        assert run.gaps == [(0, 0, "Lasso does not show what its fit begins with")]
    else:
        assert not run["coef_"][0].any()


def test_a_fit_that_draws_from_the_global_generator_is_left_as_it_would_be(tmp_path: Path) -> None:
    np.random.seed(7)  # noqa: NPY002 — what an estimator without random_state uses
    plain = SGDClassifier(max_iter=4, tol=None).fit(X, Y)
    after = np.random.random()  # noqa: NPY002 — what an estimator without random_state uses
    np.random.seed(7)  # noqa: NPY002 — what an estimator without random_state uses
    model = SGDClassifier(max_iter=4, tol=None)
    with wl.watch(model, tmp_path / "run"):
        model.fit(X, Y)
    assert np.random.random() == after  # noqa: NPY002 — what an estimator without random_state uses
    assert np.array_equal(model.coef_, plain.coef_)
    assert np.array_equal(wl.load(tmp_path / "run")["coef_"][-1], plain.coef_)
    assert wl.load(tmp_path / "run").frames == 5


def test_a_fit_that_cannot_be_repeated_notes_what_is_missing(tmp_path: Path) -> None:
    """Data that change from fit to fit: nothing is recorded that was not the estimator's."""

    class Restless(SGDClassifier):
        def fit(self, X: Any, y: Any) -> Any:
            return super().fit(X + rng.normal(size=X.shape), y)

    rng = np.random.default_rng(0)
    model = Restless(random_state=0, max_iter=5, tol=None)
    with wl.watch(model, tmp_path / "run"):
        model.fit(X, Y)
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [0, 5]
    assert run.gaps == [(1, 4, "the same fit, repeated, ended in other weights, so its iterations are not known")]
    assert np.array_equal(run["coef_"][-1], model.coef_)


def test_a_fit_that_goes_on_in_the_arrays_it_was_given(tmp_path: Path) -> None:
    """scikit-learn trains in the very array given as coef_init: repetitions must neither see nor touch it."""

    def fitted(count: int) -> np.ndarray:
        model = SGDRegressor(random_state=0, max_iter=count, tol=None)
        return model.fit(X, X[:, 0], np.ones(5), np.full(1, 0.5)).coef_

    model, first = SGDRegressor(random_state=0, max_iter=5, tol=None), np.ones(5)
    with wl.watch(model, tmp_path / "run"):
        model.fit(X, X[:, 0], coef_init=first, intercept_init=np.full(1, 0.5))
    assert np.array_equal(model.coef_, fitted(5))
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [1, 2, 3, 4, 5]
    assert all(np.array_equal(run["coef_"][k - 1], fitted(k)) for k in range(1, 6))
    weighted = SGDClassifier(random_state=0, max_iter=4, tol=None)
    with wl.watch(weighted, tmp_path / "weighted"):
        weighted.fit(X, Y, None, None, np.linspace(0, 1, 60))
    assert wl.load(tmp_path / "weighted").steps.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_that_changes_its_data_is_not_repeated(tmp_path: Path) -> None:
    settings = {"alpha": 1e-3, "copy_X": False, "max_iter": 3, "tol": 1e-12}
    data, twin = X.copy(order="F") + 1, X.copy(order="F") + 1
    plain = Lasso(**settings).fit(twin, X[:, 0])
    model = Lasso(**settings)
    with wl.watch(model, tmp_path / "run"):
        model.fit(data, X[:, 0])
    assert np.array_equal(model.coef_, plain.coef_)
    assert np.array_equal(data, twin)
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [model.n_iter_]
    assert model.n_iter_ > 1
    assert "changes its data in place" in run.gaps[0][2]
    assert np.array_equal(run["coef_"][0], model.coef_)


def test_partial_fit_before_and_after_there_are_weights(tmp_path: Path) -> None:
    model = SGDClassifier(random_state=0)
    states = [np.zeros((3, 5))]
    with wl.watch(model, tmp_path / "run") as rec:
        for _ in range(4):
            model.partial_fit(X, Y, classes=[0, 1, 2])
            states.append(model.coef_.copy())
            rec.step(accuracy=model.score(X, Y))  # adds to the frame that is there already
    run = wl.load(tmp_path / "run")
    assert np.array_equal(run["coef_"][:], np.stack(states))
    assert run.scalars["accuracy"][-1] == model.score(X, Y)
    network = MLPClassifier((4,), random_state=0)
    taken = []
    with wl.watch(network, tmp_path / "network"):
        for _ in range(3):
            network.partial_fit(X, Y, classes=[0, 1, 2])
            taken.append(copies(network))
    run = wl.load(tmp_path / "network")
    assert run.frames == 4
    assert all(np.array_equal(run[n][1:], np.stack([t[n] for t in taken])) for n in run.names)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_pipelines_schedules_and_a_second_fit(tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=10, random_state=0))
    with wl.watch(model, tmp_path / "pipe", every=4) as rec:
        rec.mark("before there are weights")
        model.fit(X, Y)
    run = wl.load(tmp_path / "pipe")
    assert run.steps.tolist() == [0, 4, 8]
    assert (0, "before there are weights") in run.events
    run.load_into(model, step=8)
    assert np.array_equal(model[-1].coefs_[0], run["coefs_.0"][2])
    again = MLPClassifier((4,), max_iter=2, random_state=0)
    with wl.watch(again, tmp_path / "twice"):
        again.fit(X, Y)
        again.fit(X, Y)
    run = wl.load(tmp_path / "twice")
    assert run.frames == 6, "0 1 2, the new start, and two more"
    assert run.events == [(3, "fit() began from new weights")]
    assert np.array_equal(run["coefs_.0"][0], run["coefs_.0"][3])
    warm = MLPClassifier((4,), max_iter=2, random_state=0, warm_start=True)
    with wl.watch(warm, tmp_path / "warm"):
        warm.fit(X, Y)
        warm.fit(X, Y)
    assert wl.load(tmp_path / "warm").frames == 5


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_copies_of_a_followed_estimator_are_not_followed(tmp_path: Path) -> None:
    model = MLPClassifier((4,), max_iter=2, random_state=0)
    with wl.watch(model, tmp_path / "run"):
        twins = [clone(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))]  # noqa: S301 — made right here
        model.fit(X, Y)
        twins += [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]  # noqa: S301 — made right here
        for twin in twins:
            twin.fit(X, Y)
        GridSearchCV(MLPClassifier((3,), max_iter=2), {"alpha": [1e-3, 1e-2]}, cv=2).fit(X, Y)
    assert wl.load(tmp_path / "run").frames == 3
    model.fit(X, Y)  # the recording is closed: nothing happens


def test_an_estimator_that_is_never_fitted_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(wl.InvalidArgument, match="already holds"):
        wl.watch(MLPClassifier(), tmp_path / "full")
    with pytest.warns(UserWarning, match="MLPClassifier was never fitted"):
        wl.watch(MLPClassifier(), tmp_path / "run").close()
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_what_cannot_be_recorded_does_not_touch_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTLAPSE_STRICT", raising=False)
    model = SGDClassifier(random_state=0, max_iter=3, tol=None)
    rec = wl.watch(model, tmp_path / "run", tensors="weights.*")
    with pytest.warns(RecordingStopped, match="cannot record.*'weights.\\*' matches none"):
        model.fit(X, Y)
    rec.close()
    assert not (tmp_path / "run").exists()
    assert np.array_equal(model.coef_, SGDClassifier(random_state=0, max_iter=3, tol=None).fit(X, Y).coef_)


def test_a_broken_recorder_leaves_training_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTLAPSE_STRICT", raising=False)
    ends = []
    for broken in (False, True):
        model = MLPClassifier((7,), random_state=0).partial_fit(X, Y, classes=[0, 1, 2])
        rec = wl.watch(model, tmp_path / f"run{broken}")
        if broken:
            rec._source.entries = lambda params: 1 / 0
        for k in range(4):
            if broken and k == 0:
                with pytest.warns(RecorderWarning, match="step 1 could not be recorded .*division"):
                    model.partial_fit(X, Y)
            else:
                model.partial_fit(X, Y)
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

"""When a scikit-learn estimator has made an iteration, inside of a plain ``fit`` or ``partial_fit``.

Estimators have no hooks, so their classes get some: the methods below are wrapped, once for each class, and look whether the estimator at hand is followed.

- Networks (``MLPClassifier``, ``MLPRegressor``): every iteration of "sgd", "adam" (one pass over the data) and "lbfgs"; with ``frame="step"`` every batch.
- Other estimators with ``max_iter`` (``SGDClassifier``, ``LogisticRegression``, ``Perceptron``, ...) iterate inside of compiled code. The fit is repeated
  with ``max_iter`` = 1, 2, ...: the weights after k iterations are what a fit of k iterations gives. The first repetition runs to the end and
  must give the very bits of the fit itself, or its iterations are noted as missing. The fit itself is the user's, untouched.
- ``partial_fit`` is one iteration.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.adapters.sklearn import GIVEN, final, has_weights, weights_of
from weightlapse.errors import InvalidArgument

_PLACE = "_weightlapse_steps"  # where a followed estimator keeps who follows it
_UNKNOWN = "the same fit, repeated, ended in other weights, so its iterations are not known"
_IN_PLACE = (
    "the fit changes its data in place (copy_X=False), so it cannot be repeated and its iterations are not known"
)
_ZERO_START = ("BaseSGD", "LogisticRegression")  # they begin with zeros, unless told otherwise
Weights = dict[str, NDArray[Any]]


def find_sklearn_steps(model: Any, frame: str | None) -> SklearnSteps | None:
    """What tells of the iterations of an estimator; None where it makes none that can be told apart."""
    from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron

    estimator = final(model)
    if isinstance(estimator, BaseMultilayerPerceptron):
        _hook_networks()
        return SklearnSteps(estimator, batches=frame == "step")
    if frame is not None:
        raise InvalidArgument(
            f"frame={frame!r}: {type(estimator).__name__} does not show the steps within its iterations: leave it out"
        )
    if type(estimator).__name__.endswith("CV"):
        return None  # its fit is many fits
    linear = any(c.__module__.startswith("sklearn.linear_model") for c in type(estimator).__mro__)
    if not linear or not hasattr(estimator, "fit"):
        return None
    if not hasattr(type(estimator), "partial_fit") and "max_iter" not in estimator.get_params(deep=False):
        return None
    for name, wrapper in (("fit", _linear_fit), ("partial_fit", _linear_partial_fit)):
        if hasattr(type(estimator), name):
            _wrap(_owner(type(estimator), name), name, wrapper)
    return SklearnSteps(estimator)


class SklearnSteps:
    """Follows one estimator, from :meth:`follow` to :meth:`leave`. A copy of the estimator is not followed."""

    given = False
    plain = False
    iteration = None
    leaves: tuple[Any, ...] = ()

    def __init__(self, estimator: Any, *, batches: bool = False) -> None:
        self.estimator = estimator
        self.batches = batches
        self.busy = False  # a method of the estimator runs, and what it calls is part of it
        self._watcher: Any = None
        self._start: Callable[..., None] | None = None
        self._told = False
        self._seen = b""  # of the weights that were last told

    @property
    def late(self) -> bool:
        """Whether the estimator has no weights yet, so that the recording begins in its first fit."""
        return not has_weights(self.estimator)

    def wait_for_weights(self, start: Callable[..., None]) -> None:
        """Call ``start(first values, step)`` when there are weights to record."""
        self._start = start
        vars(self.estimator)[_PLACE] = self

    def follow(self, watcher: Any) -> None:
        """As `Steps.follow`; it is noted in the estimator's own ``__dict__``, where the wrapped methods of its class look."""
        self._watcher, self._start = watcher, None
        self._seen = _digest(weights_of(self.estimator)) if has_weights(self.estimator) else b""
        vars(self.estimator)[_PLACE] = self

    def leave(self) -> None:
        """Tell no more; another recorder that has followed the estimator since stays."""
        self._watcher = self._start = None
        if vars(self.estimator).get(_PLACE) is self:
            del vars(self.estimator)[_PLACE]

    def wait(self) -> None:
        """Nothing to wait for: iterations are told of in the thread that fits."""

    def parameters(self) -> list[Any] | None:
        """None, not known: an estimator has no optimizer that could be asked."""
        return None

    def told(self) -> bool:
        """As `Steps.told`; asking takes it back."""
        told, self._told = self._told, False
        return told

    def __reduce__(self) -> Any:
        return _nothing, ()

    # ---- what the methods tell -------------------------------------------------------------------------------------

    def begins(self, first: Weights | None = None, step: int = 0, why: str = "") -> None:
        """The estimator begins to change the weights ``first`` (None: those that it holds).

        Where it is not known what it began with, for the reason ``why``, these are the weights after ``step`` iterations.
        """
        if self._start is not None:
            self._start(first, step)
            if self._watcher is not None and step:
                self._watcher.gap(0, step - 1, why)
            self._seen = _digest(first or weights_of(self.estimator))
        elif self._watcher is not None and _digest(first or weights_of(self.estimator)) != self._seen:
            self.tell(first)
            self._watcher.mark("fit() began from new weights")

    def tell(self, values: Weights | None = None, **scalars: float) -> None:
        """One iteration has been made; ``values`` where the estimator does not hold them."""
        if self._watcher is None:
            return
        with _given(values):
            self._watcher.after(sure=True)
        self._seen = _digest(values or weights_of(self.estimator))
        self._told = True
        if scalars:
            self._watcher.log(**scalars)

    def count(self) -> None:
        """One iteration has been made whose values nobody wants."""
        if self._watcher is not None:
            self._watcher.after(sure=True)

    def log(self, **scalars: float) -> None:
        """Numbers of the iteration that was told last (its loss) become scalars."""
        if self._watcher is not None:
            self._watcher.log(**scalars)

    def ended(self, why: str) -> None:
        """The fit is over: where something has changed since the last iteration, that is a frame too."""
        if self._watcher is not None and _digest(weights_of(self.estimator)) != self._seen:
            self.tell()
            self._watcher.mark(why)

    def failed(self, error: Exception) -> None:
        """Recording an iteration raised ``error``: the fit goes on, and the recording bears a doubt."""
        if self._watcher is not None:
            self._watcher.doubt(f"the iterations of a fit() could not be recorded ({type(error).__name__}: {error})")

    def repeated(self, fit: Callable[[Any], Any] | None, before: Any, start: Weights | None) -> None:
        """Tell of the iterations of a fit that is over. ``fit`` fits a copy of ``before`` anew; None where that must not be done."""
        end = {name: np.array(value) for name, value in weights_of(self.estimator).items()}
        count = _iterations(self.estimator)

        def after(iterations: int) -> Weights:
            assert fit is not None
            again = copy.deepcopy(before)
            again.max_iter = iterations
            with warnings.catch_warnings(action="ignore"):  # it is ended early on purpose
                fit(again)
            return weights_of(again)

        same = fit is not None and count > 1 and _digest(after(count)) == _digest(end)
        known, done = same or count == 1, 0
        unknown = _UNKNOWN if fit is not None else _IN_PLACE
        if start is not None:
            self.begins(start)
        elif self._start is not None:
            done = 1 if known else count
            why = f"{type(self.estimator).__name__} does not show what its fit begins with"
            self.begins(after(1) if same else end, done, why if known else f"{why}; {unknown}")
        if self._watcher is None:
            return
        if same:
            self._watcher.mark(
                f"the {count} iterations of this fit() are those of fits with max_iter = 1, 2, ..., repeated for the recording"
            )
        if not known and not done:
            self._watcher.skip(count - 1, unknown)
        for k in range(done + 1, count if known else 0):
            if self._watcher.wants_next():
                self.tell(after(k))
            else:
                self.count()
        if done < count:
            self.tell(end)


@contextmanager
def _given(values: Mapping[str, Any] | None) -> Iterator[None]:
    token = GIVEN.set(values)
    try:
        yield
    finally:
        GIVEN.reset(token)


def _nothing() -> None:
    """What a copy of an estimator has in the place of who follows the estimator."""


def _digest(values: Mapping[str, Any]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for value in values.values():
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.digest()


def _iterations(estimator: Any) -> int:
    """How many iterations the last fit took; 1 where it does not say."""
    made = getattr(estimator, "n_iter_", None)
    return 1 if made is None else max(int(np.max(np.asarray(made))), 1)


# ---- hooks in classes --------------------------------------------------------------------------------------------------


def _following(estimator: Any) -> SklearnSteps | None:
    found = getattr(estimator, "__dict__", {}).get(_PLACE)
    return found if isinstance(found, SklearnSteps) and not found.busy else None


def _owner(kind: type, name: str) -> type:
    return next(c for c in kind.__mro__ if name in vars(c))


def _wrap(owner: type, name: str, wrapper: Callable[[Any, Any, Any, Any], Any]) -> None:
    """Let ``wrapper(method, estimator, args, kwargs)`` run in the place of ``owner.name``, for every instance."""
    method = vars(owner)[name]
    if getattr(method, "_weightlapse", False):
        return
    if not isinstance(method, types.FunctionType):
        return _wrap_descriptor(owner, name, method, wrapper)
    setattr(owner, name, _calling(method, wrapper))


def _calling(method: Any, wrapper: Callable[[Any, Any, Any, Any], Any]) -> Any:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(method, self, args, kwargs)

    call._weightlapse = True  # type: ignore[attr-defined]
    return call


def _wrap_descriptor(owner: type, name: str, method: Any, wrapper: Callable[[Any, Any, Any, Any], Any]) -> None:
    """Methods that are there only for some settings (``available_if``) are descriptors around a function."""
    inner = getattr(method, "fn", None)
    if isinstance(inner, types.FunctionType) and not getattr(inner, "_weightlapse", False):
        method.fn = _calling(inner, wrapper)


@contextmanager
def _busy(steps: SklearnSteps) -> Iterator[None]:
    steps.busy = True
    try:
        yield
    finally:
        steps.busy = False


def _linear_fit(method: Any, estimator: Any, args: Any, kwargs: Any) -> Any:
    steps = _following(estimator)
    if steps is None:
        return method(estimator, *args, **kwargs)
    before = copy.deepcopy(estimator)
    # all but the data, because some estimators go on in the very arrays that they are told to begin with
    more, named = copy.deepcopy(args[2:]), {n: v if n in ("X", "y") else copy.deepcopy(v) for n, v in kwargs.items()}
    with _drawing(before) as again_from_here, _busy(steps):
        result = method(estimator, *args, **kwargs)

        def fit(again: Any) -> None:
            again_from_here()
            method(
                again,
                *args[:2],
                *copy.deepcopy(more),
                **{n: v if n in ("X", "y") else copy.deepcopy(v) for n, v in named.items()},
            )

        try:
            repeatable = getattr(estimator, "copy_X", True)
            steps.repeated(fit if repeatable else None, before, _start_of(method, before, estimator, args, kwargs))
        except Exception as error:  # noqa: BLE001 — the fit itself is done, and must not suffer from its repetition
            steps.failed(error)
    return result


@contextmanager
def _drawing(estimator: Any) -> Iterator[Callable[[], None]]:
    """Gives what puts NumPy's global generator back to where it is now, which at the end is where one fit leaves it.

    Only an estimator without a random_state of its own draws from it; for others it is not touched, because other threads may use it.
    """
    if getattr(estimator, "random_state", 0) is not None:
        yield lambda: None
        return
    state, after = np.random.get_state(), None  # noqa: NPY002 — what scikit-learn draws from

    def again() -> None:
        nonlocal after
        after = after or np.random.get_state()  # noqa: NPY002
        np.random.set_state(state)  # noqa: NPY002

    try:
        yield again
    finally:
        if after is not None:
            np.random.set_state(after)  # noqa: NPY002


def _start_of(method: Any, before: Any, estimator: Any, args: Any, kwargs: Any) -> Weights | None:
    """The weights that a fit began with, where that is known."""
    if has_weights(before) and getattr(before, "warm_start", False):
        return weights_of(before)
    given = inspect.signature(method).bind(estimator, *args, **kwargs).arguments
    told = any(given.get(name) is not None for name in ("coef_init", "intercept_init"))
    zero = any(c.__name__ in _ZERO_START for c in type(estimator).__mro__)
    return {n: np.zeros_like(w) for n, w in weights_of(estimator).items()} if zero and not told else None


def _linear_partial_fit(method: Any, estimator: Any, args: Any, kwargs: Any) -> Any:
    steps = _following(estimator)
    if steps is None:
        return method(estimator, *args, **kwargs)
    fresh = not has_weights(estimator)
    with _busy(steps):
        result = method(estimator, *args, **kwargs)
        if fresh:
            zero = any(c.__name__ in _ZERO_START for c in type(estimator).__mro__)
            if not zero:
                steps.begins(step=1, why="the estimator had no weights before its first partial_fit()")
                return result
            steps.begins({n: np.zeros_like(w) for n, w in weights_of(estimator).items()})
        steps.tell()
    return result


def _hook_networks() -> None:
    from sklearn.neural_network import _multilayer_perceptron as networks
    from sklearn.neural_network import _stochastic_optimizers as optimizers

    base = networks.BaseMultilayerPerceptron
    _wrap(base, "_fit", _network_fit)
    _wrap(base, "_fit_stochastic", _network_begins)
    _wrap(base, "_fit_lbfgs", _network_begins)
    _wrap(base, "_update_no_improvement_count", _network_iteration)
    _wrap(optimizers.BaseOptimizer, "update_params", _network_batch)
    if not isinstance(networks.scipy, _Scipy):
        networks.scipy = _Scipy(networks.scipy)


_fitting: list[SklearnSteps] = []  # the networks whose fit runs, the innermost last


def _network_fit(method: Any, estimator: Any, args: Any, kwargs: Any) -> Any:
    steps = _following(estimator)
    if steps is None:
        return method(estimator, *args, **kwargs)
    _fitting.append(steps)
    try:
        return method(estimator, *args, **kwargs)
    finally:
        _fitting.remove(steps)
        if has_weights(estimator):
            steps.ended("the weights that fit() left: those of its best iteration")


def _network_begins(method: Any, estimator: Any, args: Any, kwargs: Any) -> Any:
    steps = _following(estimator)
    if steps is not None:
        steps.begins()
    return method(estimator, *args, **kwargs)


def _network_iteration(method: Any, estimator: Any, args: Any, kwargs: Any) -> Any:
    result = method(estimator, *args, **kwargs)
    steps = _following(estimator)
    if steps is not None:
        scores = (
            {"validation_score": estimator.validation_scores_[-1]}
            if getattr(estimator, "validation_scores_", None)
            else {}
        )
        (steps.log if steps.batches else steps.tell)(loss=float(estimator.loss_), **scores)
    return result


def _network_batch(method: Any, optimizer: Any, args: Any, kwargs: Any) -> Any:
    result = method(optimizer, *args, **kwargs)
    for steps in _fitting:
        if steps.batches and getattr(steps.estimator, "_optimizer", None) is optimizer:
            steps.tell()
    return result


class _Scipy:
    """scipy as the module of the networks sees it: ``optimize.minimize`` tells of its iterations when it fits a network that is followed."""

    def __init__(self, scipy: Any) -> None:
        self._scipy = scipy
        self.optimize = types.SimpleNamespace(**{**vars(scipy.optimize), "minimize": self._minimize})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scipy, name)

    def _minimize(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        estimator: Any = getattr(function, "__self__", None)
        steps = _following(estimator)
        if steps is not None:

            def iterated(intermediate_result: Any) -> None:
                estimator._unpack(np.array(intermediate_result.x))
                steps.tell(loss=float(intermediate_result.fun))

            kwargs.setdefault("callback", iterated)
        return self._scipy.optimize.minimize(function, *args, **kwargs)

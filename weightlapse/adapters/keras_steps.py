"""When a Keras optimizer has made an update, on any backend: ``apply`` and ``apply_gradients`` are followed.

In an eager loop the call itself tells. Inside a graph it runs only while that is traced, so what tells is put into the graph, after the update: the
callback gets the values that the variables have right then. ``iterations`` says whether it was an update or only one of several accumulated batches,
or one that a loss scaler skipped. A graph outlives the recorder it was traced under, so its callbacks go to the hub of the optimizer, which passes
them on to whoever follows it at that time.
"""

from __future__ import annotations

import os
import sys
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np

from weightlapse.adapters.iteration import DOUBTFUL, Iteration
from weightlapse.adapters.source import Watcher

_METHODS = ("apply", "apply_gradients", "stateless_apply")
_MARKED = 1024  # bytes of each variable that tell an update from another of the same number
_IN_XLA = (
    "updates inside of a function with jit_compile=True cannot be seen one by one: compile it without (in model.compile too), use the WatchCallback in "
    "fit(), or leave optimizer= out and call rec.step() after each call of the function"
)
_AT_ONCE = (
    "one call makes the same update several times with other weights (vmap, pmap: several networks at once), and only the first of each is a frame: "
    "leave optimizer= out and call rec.step(values) with those of one network, or record all of them as a mapping of arrays"
)
_ON_REPLICAS = "updates on several replicas of tf.distribute cannot be seen one by one: use the WatchCallback in fit(), or call rec.step() after each of them"

# the values of variables (by id) at the update that is being told of, where the variables themselves do not hold them
GIVEN: ContextVar[dict[int, Any] | None] = ContextVar("values of Keras variables", default=None)


class KerasSteps:
    """Follows Keras optimizers, from :meth:`follow` to :meth:`leave`."""

    given = True
    plain = False
    leaves: tuple[Any, ...] = ()  # states of optimizers are a stream of torch modules only

    def __init__(self, models: Sequence[Any], optimizers: Sequence[Any], iteration: Iteration | None = None) -> None:
        self.iteration = iteration
        self._models = list(models)
        self._optimizers = list(optimizers)
        self._watcher: Watcher | None = None
        self._counts: list[int] = []
        self._told = False

    @property
    def optimizers(self) -> tuple[Any, ...]:
        """Those that are followed, in the order in which they were given."""
        return tuple(self._optimizers)

    def told(self) -> bool:
        """As `Steps.told`; asking takes it back."""
        told, self._told = self._told, False
        return told

    def parameters(self) -> list[Any] | None:
        """The trainable variables of all optimizers; None while one of them has not made its first update and has none yet."""
        found = []
        for optimizer in self._optimizers:
            if not optimizer.built:
                return None  # it gets its variables at its first update
            found += list(_inner(optimizer)._trainable_variables)
        return found

    def follow(self, watcher: Watcher) -> None:
        """As `Steps.follow`, from the present count of updates on; the methods of each optimizer are wrapped when the first recorder follows it."""
        self._watcher = watcher
        self._counts = [_count(optimizer) for optimizer in self._optimizers]
        for optimizer in self._optimizers:
            hub_of(optimizer).followers.append(self)

    def leave(self) -> None:
        """Tell no more. Graphs that were traced meanwhile keep their callback, which finds no follower."""
        self._watcher = None
        for optimizer in self._optimizers:
            hub_of(optimizer).forget(self)

    def variables(self) -> list[Any]:
        """All variables of the models whose updates these are."""
        return [variable for model in self._models for variable in model.weights]

    def wait(self) -> None:
        """Return when the updates that were started have told of themselves: JAX computes while the program goes on."""
        if keras.backend.backend() == "jax" and self._watcher is not None:
            with suppress(Exception):  # what fails there is the user's own computation, and fails in the loop too
                sys.modules["jax"].effects_barrier()

    # ---- what a hub tells ------------------------------------------------------------------------------------------

    def begins(self) -> None:
        """An update is about to be made: the watcher is told, but for the second and later ones of an iteration."""
        if self._watcher is not None and not (self.iteration is not None and self.iteration.under_way):
            self._watcher.before()

    def made(self, optimizer: Any, count: int) -> None:
        """``optimizer`` has made ``count`` updates in its life."""
        k = next(i for i, o in enumerate(self._optimizers) if o is optimizer)
        if self._watcher is None or count == self._counts[k]:
            return
        self._counts[k] = count
        if self.iteration is None or self.iteration.ended_by(k):
            self._watcher.after(sure=True)
            self._told = True
        if self.iteration is not None and self.iteration.doubtful:
            self._watcher.doubt(DOUBTFUL)

    def unseen(self, why: str) -> None:
        """An update cannot be followed, and ``why``: becomes a doubt of the recording."""
        if self._watcher is not None:
            self._watcher.doubt(why)


class _Hub:
    """Stands before the methods of one optimizer, and tells those who follow it."""

    def __init__(self, optimizer: Any) -> None:
        self.followers: list[KerasSteps] = []
        self._optimizer = weakref.ref(optimizer)
        self._mark = (-1, 0)  # of the last update without variables: its number, and a checksum of its values
        self._depth = 0
        for name in _METHODS:
            # not by setattr, which would have Keras and TensorFlow track it
            if hasattr(type(optimizer), name):
                vars(optimizer)[name] = _Method(self, type(optimizer), name)

    def forget(self, follower: KerasSteps) -> None:
        if follower in self.followers:
            self.followers.remove(follower)

    def call(self, name: str, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        optimizer = self._optimizer()
        if not self.followers or self._depth:
            return method(optimizer, *args, **kwargs)
        eager = _is_eager()
        if eager:
            for follower in list(self.followers):
                follower.begins()
        self._depth += 1
        try:
            result = method(optimizer, *args, **kwargs)
        finally:
            self._depth -= 1
        with self._guard():
            if name == "stateless_apply":
                self._stateless(optimizer, *result)
            else:
                self._updated(optimizer, eager)
        return result

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """The update is made, and must not suffer from what tells of it."""
        try:
            yield
        except Exception as error:
            if os.environ.get("WEIGHTLAPSE_STRICT") == "1":
                raise
            self._unseen(
                f"an update could not be followed ({type(error).__name__}: {error}): call rec.step() after each of them instead"
            )

    def _updated(self, optimizer: Any, eager: bool) -> None:
        backend = keras.backend.backend()
        if backend == "tensorflow" and not eager:
            self._in_graph(optimizer)
        elif backend == "jax" and not eager:
            held = _inner(optimizer)._trainable_variables
            self._in_trace(optimizer, _iterations(optimizer).value, [v.value for v in held])
        elif backend == "torch":
            _outside_of_graphs(self.tell, _count(optimizer))
        else:
            self.tell(_count(optimizer))

    def tell(self, count: int, values: dict[int, Any] | None = None) -> None:
        optimizer = self._optimizer()
        with _given(values):
            for follower in list(self.followers):
                follower.made(optimizer, count)

    def _unseen(self, why: str) -> None:
        for follower in list(self.followers):
            follower.unseen(why)

    # ---- TensorFlow ------------------------------------------------------------------------------------------------

    def _in_graph(self, optimizer: Any) -> None:
        """Put into the graph that is being traced what tells, with the values after the update."""
        tf = sys.modules["tensorflow"]
        from tensorflow.python.ops import control_flow_util

        if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
            self._unseen(_IN_XLA)
            return
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            self._unseen(_ON_REPLICAS)
            return
        variables = list({id(v): v for follower in self.followers for v in follower.variables()}.values())

        def told(count: Any, *values: Any) -> np.ndarray[Any, Any]:
            with self._guard():
                self.tell(_updates(optimizer, int(count)), {id(v): value for v, value in zip(variables, values)})
            return np.int64(0)  # type: ignore[return-value]

        # the reads come after the assignments before them: automatic control dependencies keep the order of a variable's operations
        tf.numpy_function(told, [_iterations(optimizer).value, *(v.value for v in variables)], tf.int64)

    # ---- JAX -------------------------------------------------------------------------------------------------------

    def _stateless(self, optimizer: Any, trainable: Any, others: Any) -> None:
        """The values that ``stateless_apply`` gave back: those of the trainable variables, and those of the optimizer's own."""
        counter = _iterations(optimizer)
        count = next(value for variable, value in zip(optimizer.variables, others) if variable is counter)
        self._in_trace(optimizer, count, list(trainable))

    def _in_trace(self, optimizer: Any, count: Any, values: list[Any]) -> None:
        """New values that no variable holds, because they are those of a stateless scope, and perhaps of a function that jit traces."""
        held = list(_inner(optimizer)._trainable_variables)

        def told(count: Any, *values: Any) -> None:
            with self._guard():
                arrays = {id(v): np.asarray(keras.ops.convert_to_numpy(value)) for v, value in zip(held, values)}
                mark = int(count), zlib.crc32(b"".join(a.tobytes()[:_MARKED] for a in arrays.values()))
                if mark[0] == self._mark[0] and mark != self._mark:
                    self._unseen(_AT_ONCE)
                self._mark = mark
                self.tell(_updates(optimizer, int(count)), arrays)

        jax = sys.modules.get("jax")
        if jax is not None and any(isinstance(value, jax.core.Tracer) for value in (count, *values)):
            jax.debug.callback(told, count, *values, ordered=True)
        else:
            told(count, *values)


class _Method:
    """``optimizer.apply`` or ``optimizer.apply_gradients`` while the optimizer lives: passes on, and tells its hub."""

    def __init__(self, hub: _Hub, kind: type, name: str) -> None:
        self.hub = hub
        self._name = name
        self._method = getattr(kind, name)
        self.__doc__ = self._method.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.hub.call(self._name, self._method, args, kwargs)


def hub_of(optimizer: Any) -> _Hub:
    """The hub that stands before the methods of an optimizer, made (and the methods wrapped) where nobody has followed it yet."""
    method = vars(optimizer).get(_METHODS[0])
    return method.hub if isinstance(method, _Method) else _Hub(optimizer)


@contextmanager
def _given(values: dict[int, Any] | None) -> Iterator[None]:
    token = GIVEN.set(values)
    try:
        yield
    finally:
        GIVEN.reset(token)


def _is_eager() -> bool:
    """Whether calls take effect at once, and not in a graph that is being traced."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return bool(sys.modules["tensorflow"].executing_eagerly())
    if backend == "torch":
        return not sys.modules["torch"].compiler.is_compiling()
    return not keras.src.backend.common.stateless_scope.in_stateless_scope()


def _outside_of_graphs(function: Callable[..., None], *args: Any) -> None:
    sys.modules["torch"].compiler.disable(function)(*args)


def _inner(optimizer: Any) -> Any:
    """The optimizer that counts and holds the variables, inside one that scales losses."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def _iterations(optimizer: Any) -> Any:
    return _inner(optimizer)._iterations


def _updates(optimizer: Any, iterations: int) -> int:
    """How many updates ``iterations`` calls have made: with gradient accumulation fewer than calls."""
    return iterations // (_inner(optimizer).gradient_accumulation_steps or 1)


def _count(optimizer: Any) -> int:
    value = _iterations(optimizer).value
    return _updates(optimizer, int(np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)))

"""What can be seen of a Keras network besides its weights, on any backend: what is frozen, what the optimizer does, where its activations lie.

The forward is a stateless call in inference mode, of the present values: statistics, seeds and metrics stay as they were, and no gradient is kept. While it
runs, the activations of the layers are listened to; nothing of the model stays changed. A function that is traced (``tf.function``, ``jax.jit``) tells of
its updates from inside, where nothing else may be run: there only what needs no forward is seen.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from weightlapse.adapters.activations import EDGE, activation_facts
from weightlapse.adapters.keras import KerasSource, fitting_state
from weightlapse.adapters.keras_steps import GIVEN

_Flat = Callable[[NDArray[Any]], NDArray[np.bool_]]
_FLAT: dict[str, tuple[str, _Flat]] = {
    "relu": ("relu", lambda y: y <= 0),
    "relu6": ("hardtanh", lambda y: (y <= 0) | (y >= 6)),
    "tanh": ("tanh", lambda y: np.abs(y) > EDGE),
    "sigmoid": ("sigmoid", lambda y: np.abs(y - 0.5) > EDGE / 2),
}


class KerasObserver:
    """Looks at the model of ``source`` and at ``optimizers()`` when asked; ``example`` as in :func:`weightlapse.watch`."""

    def __init__(self, source: KerasSource, example: Any, optimizers: Callable[[], Sequence[Any]]) -> None:
        self._source = source
        self._example = example
        self._optimizers = optimizers
        self._told: dict[str, Any] = {}  # what holds until it changes

    def look(self) -> dict[str, Any]:
        """JSON facts, see "Observations" in ``docs/format.md``; empty when there is nothing to say, or where nothing may be run."""
        if GIVEN.get() is not None:
            return {}
        model, named = self._source.model, self._source.named()
        state = fitting_state(model)
        seen: dict[str, Any] = {
            "frozen": [name for name, stream, v in named if stream == "weights" and not v.trainable],
            "groups": list(_groups(self._followed(), named, state)),
        }
        seen = {key: value for key, value in seen.items() if self._told.get(key, []) != value}
        self._told.update(seen)
        if self._example is not None and model.built:
            names = {id(v): name for name, _, v in named}
            seen["activations"] = _activations(model, self._example, names, state)
        return seen

    def _followed(self) -> Sequence[Any]:
        """The optimizers that are followed, else the one that the model was compiled with, where it is the one in use."""
        compiled = getattr(self._source.model, "optimizer", None)
        if found := tuple(self._optimizers()):
            return found
        return () if compiled is None or not compiled.built else (compiled,)


def followed(steps: Any) -> tuple[Any, ...]:
    """The optimizers whose updates become frames; none where nothing is followed."""
    return tuple(getattr(steps, "optimizers", ()))


def _groups(
    optimizers: Sequence[Any], named: list[tuple[str, str, Any]], state: Mapping[str, Any] | None
) -> Iterator[dict[str, Any]]:
    """What the variables are moved by, in plain numbers; those that decay apart from those that do not."""
    names = {id(v): name for name, _, v in named}
    for outer in optimizers:
        optimizer = outer
        while hasattr(optimizer, "inner_optimizer"):
            optimizer = optimizer.inner_optimizer
        held = [v for v in optimizer._trainable_variables if id(v) in names]
        decay = optimizer.weight_decay or 0.0
        decays = {id(v): bool(decay) and bool(optimizer._use_weight_decay(v)) for v in held}
        rate = _rate(outer, optimizer, state)
        for with_decay in sorted(set(decays.values())):
            yield {
                "optimizer": type(optimizer).__name__,
                "decoupled": True,  # Keras takes decay off the weights before the update, in every optimizer
                "names": [names[id(v)] for v in held if decays[id(v)] is with_decay],
                "lr": rate,
                "weight_decay": float(decay) if with_decay else 0.0,
                "eps": _number(getattr(optimizer, "epsilon", None)),
                "momentum": None,  # of no part in decay
            }


def _rate(outer: Any, optimizer: Any, state: Mapping[str, Any] | None) -> float | None:
    """The present learning rate. The JAX trainer holds the variables of the optimizer while it fits."""
    held = optimizer._learning_rate
    kept = {id(v): value for v, value in zip(outer.variables, state["optimizer_variables"])} if state else {}

    def now(variable: Any) -> Any:
        return kept[id(variable)] if id(variable) in kept else variable.value  # noqa: SIM401  which may be gone

    if isinstance(held, keras.optimizers.schedules.LearningRateSchedule):
        return _number(held(now(optimizer._iterations)))
    if isinstance(held, keras.Variable):
        return _number(now(held))
    return _number(held() if callable(held) else held)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(keras.ops.convert_to_numpy(value))
    return number if math.isfinite(number) else None


# ---- activations ---------------------------------------------------------------------------------------------------


def _activations(
    model: Any, example: Any, names: Mapping[int, str], state: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    args, kwargs = keras.tree.map_structure(_tensor, _as_call(model, example))
    if getattr(model, "_call_has_training_arg", True):
        kwargs["training"] = False
    parts = ("trainable_variables", "non_trainable_variables")
    values = [state[part] if state else [v.value for v in getattr(model, part)] for part in parts]
    with _no_gradients(), _listening(model, names) as found:
        model.stateless_call(*values, *args, **kwargs)
    return found


def _as_call(model: Any, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example as the arguments of ``model.call``: the inputs of a functional model are one argument, however many they are."""
    inputs = getattr(model, "_inputs_struct", None)
    if isinstance(example, Mapping):
        named = isinstance(inputs, Mapping) and set(inputs) == set(example)
        return ((dict(example),), {}) if named else ((), dict(example))
    if type(example) is tuple:
        together = isinstance(inputs, (list, tuple)) and len(inputs) == len(example) > 1
        return ((list(example),), {}) if together else (example, {})
    return (example,), {}


def _tensor(value: Any) -> Any:
    if not hasattr(value, "shape"):
        return value
    tensor = keras.ops.convert_to_tensor(value)
    return keras.ops.cast(tensor, keras.backend.floatx()) if "float" in str(tensor.dtype) else tensor


@contextlib.contextmanager
def _no_gradients() -> Iterator[None]:
    if keras.backend.backend() == "torch":
        with sys.modules["torch"].no_grad():
            yield
    else:
        yield


@contextlib.contextmanager
def _listening(model: Any, names: Mapping[int, str]) -> Iterator[list[dict[str, Any]]]:
    """Every activation that runs, with the layer with weights that ran before it. Instance attributes stand before methods while this lasts."""
    found: list[dict[str, Any]] = []
    now: list[tuple[str, Any]] = []  # the newest layer with weights
    put: list[tuple[Any, str, Any]] = []

    def stand_before(layer: Any, key: str, function: Any) -> None:
        put.append((layer, key, vars(layer).get(key, put)))  # by vars(): Keras and torch track what is set
        vars(layer)[key] = function

    try:
        for layer in dict.fromkeys(model._flatten_layers(include_self=False)):
            own = next((names[id(v)] for v in layer._trainable_variables + layer._non_trainable_variables if id(v) in names), None)  # fmt: skip
            if hasattr(
                layer, "state_size"
            ):  # a step of a recurrent layer, which may run inside a loop that is compiled
                continue
            activation = getattr(layer, "activation", None)
            kind = _FLAT.get(getattr(activation, "__name__", ""))
            relu = type(layer) is keras.layers.ReLU and layer.max_value is None and not layer.negative_slope
            if own is not None:
                stand_before(layer, "call", _first(layer.call, now, (own.rpartition("/")[0], layer)))
            elif relu:
                stand_before(layer, "call", _then(layer.call, now, found, "relu"))
            if kind is not None and "activation" in vars(layer):
                stand_before(layer, "activation", _then(activation, now, found, getattr(activation, "__name__", "")))
        yield found
    finally:
        for layer, key, before in reversed(put):
            if before is put:
                del vars(layer)[key]
            else:
                vars(layer)[key] = before


def _first(call: Any, now: list[tuple[str, Any]], layer: tuple[str, Any]) -> Any:
    def called(*args: Any, **kwargs: Any) -> Any:
        now[:] = [layer]
        return call(*args, **kwargs)

    return called


def _then(function: Any, now: list[tuple[str, Any]], found: list[dict[str, Any]], name: str) -> Any:
    def called(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if now and len(result.shape) >= 2 and not _is_traced(result):
            found.append(_summary(*now[0], name, keras.ops.convert_to_numpy(result)))
        return result

    return called


def _is_traced(value: Any) -> bool:
    jax = sys.modules.get("jax")
    if keras.backend.backend() == "tensorflow":
        return not hasattr(value, "numpy")
    return jax is not None and isinstance(value, jax.core.Tracer)


def _summary(path: str, layer: Any, name: str, values: NDArray[Any]) -> dict[str, Any]:
    op, flat_where = _FLAT[name]
    axis = 1 if getattr(layer, "data_format", None) == "channels_first" else values.ndim - 1
    flat = np.moveaxis(flat_where(values.astype(np.float32)), axis, 0).reshape(values.shape[axis], -1)
    off = np.flatnonzero(flat.all(axis=1)).tolist()
    return activation_facts(path, op, len(flat), float(flat.mean()), off)

"""Keras models on any backend as programs: ``model.stateless_call`` on named values, traced by the backend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import torch
from numpy.typing import NDArray

from weightlapse.errors import CannotTrace
from weightlapse.wiring.programs.program import Arrays, Graph, Program, Weight


def keras_program(model: Any, names: Sequence[str] | None = None) -> Program:
    """A built Keras model as a program; its weights are named by ``variable.path``, or by ``names`` in the order of its weights."""
    named = [(n, v) for n, v in named_variables(model) if _is_float(v)]
    if names is not None:
        named = [(name, v) for name, (_, v) in zip(names, named, strict=True)]
    trained = {id(v) for v in model.trainable_variables}
    moving = _statistics(model)
    if not named:
        raise CannotTrace(f"{model.name} has no weights yet: build it, or call it on one batch, before tracing it")
    weights = [Weight(n, _array(v), id(v) in trained or id(v) not in moving) for n, v in named]
    return Program(_graph(model, [n for n, _ in named], [v for _, v in named]), weights, _width(model))


def _width(model: Any) -> int | None:
    shape = getattr(model, "input_shape", None) if _inputs_of(model) == 1 and model.built else None
    sizes = shape[1:] if isinstance(shape, tuple) and all(not isinstance(n, (tuple, list)) for n in shape) else (None,)
    return None if any(n is None for n in sizes) else math.prod(sizes)


def named_variables(model: Any) -> list[tuple[str, Any]]:
    """Every variable by its path, each once; a path that two have gets a number."""
    seen: dict[int, str] = {}
    counts: dict[str, int] = {}
    found = []
    for v in model.variables:
        if id(v) in seen:
            continue
        counts[v.path] = count = counts.get(v.path, 0) + 1
        seen[id(v)] = name = v.path if count == 1 else f"{v.path}#{count}"
        found.append((name, v))
    return found


def float_variables(model: Any) -> list[Any]:
    """The variables behind the weights of the model's program, in the same order."""
    return [v for _, v in named_variables(model) if _is_float(v)]


def _statistics(model: Any) -> set[int]:
    """Variables that no gradient trains, frozen weights left aside: running means and variances."""
    return {id(v) for layer in model._flatten_layers() for v in layer._non_trainable_variables}


def _is_float(variable: Any) -> bool:
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(variable.dtype))


def _array(variable: Any) -> NDArray[Any]:
    array = np.asarray(keras.ops.convert_to_numpy(variable.value))
    return array.astype(np.float32) if array.dtype.kind not in "f" or array.dtype.itemsize < 4 else array


def _graph(model: Any, names: list[str], variables: list[Any]) -> Graph:
    backend = keras.backend.backend()
    function = Stateless(model, variables)
    dtypes = [keras.backend.standardize_dtype(v.dtype) for v in variables]
    if backend == "jax":
        from weightlapse.wiring.programs.jax_graph import JaxGraph

        return JaxGraph(model.name, function, names, dtypes, function.arguments)
    if backend == "tensorflow":
        from weightlapse.wiring.programs import tf_pointwise, tf_shapes, tf_sums  # noqa: F401  (fill the table of operators)
        from weightlapse.wiring.programs.tf_graph import TensorFlowGraph

        return TensorFlowGraph(model.name, function, names, dtypes, function.arguments)
    if backend == "torch":
        return TorchGraph(model.name, function, names, dtypes)
    raise CannotTrace(f"Keras on the backend {backend!r} cannot be traced: use tensorflow, jax or torch")


class Stateless:
    """``model`` as a function of the values of its floating-point variables; the others (counters, seeds) keep theirs."""

    __slots__ = ("_keys", "_own", "model")

    def __init__(self, model: Any, variables: list[Any]) -> None:
        self.model = model
        self._keys = [id(v) for v in variables]
        known = set(self._keys)
        self._own = {id(v): v.value for v in model.variables if id(v) not in known}

    def __deepcopy__(self, memo: Any) -> Stateless:
        return self

    def __call__(self, values: list[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], training: bool) -> Any:
        if training and any("seed_generator" in v.path for v in self.model.variables):
            raise CannotTrace(f"{self.model.name} draws random numbers while it trains")
        mode = {"training": training} if self.model._call_has_training_arg else {}
        scope = keras.StatelessScope()
        # set as they are: given to the scope they would be rounded to the dtype of the variable
        scope.state_mapping.update(zip(self._keys, values, strict=True))
        scope.state_mapping.update(self._own)
        with scope:
            return self.model.call(*args, **{**mode, **kwargs})

    def arguments(self, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """An example as the model's call takes it: a mapping, or a tuple of as many arrays as a functional model has inputs, is one argument."""
        inputs = _inputs_of(self.model)
        if isinstance(example, Mapping):
            return ((dict(example),), {}) if inputs is not None else ((), dict(example))
        if type(example) is tuple:
            if inputs is not None and len(example) == inputs and inputs > 1:
                return (list(example),), {}
            return tuple(example), {}
        return (example,), {}


def _inputs_of(model: Any) -> int | None:
    """How many inputs a functional or sequential model has; None for subclasses, whose call takes what it says."""
    from keras.src.models.functional import Functional

    if isinstance(model, keras.Sequential):
        return 1
    return len(model.inputs) if isinstance(model, Functional) and type(model).call is Functional.call else None


class TorchGraph(Graph):
    """On the torch backend the model is run itself, on the tensors that stand for its variables."""

    __slots__ = ("function",)

    def __init__(self, name: str, function: Stateless, names: list[str], dtypes: list[str]) -> None:
        super().__init__(name, names, dtypes)
        self.function = function

    def arguments(self, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.function.arguments(example)

    def run(
        self, weights: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool = False
    ) -> Any:
        from weightlapse.wiring.double import in_double

        values = [weights[n] for n in self.names]
        if any(v.dtype == torch.float64 for v in values):  # layers cast what they get to their own precision
            with in_double():
                return self.function(values, args, kwargs, training)
        return self.function(values, args, kwargs, training)

    def reference(self, weights: Arrays, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[NDArray[Any]]:
        with torch.no_grad():
            values = [torch.from_numpy(np.array(weights[n])) for n in self.names]
            result = self.function(values, args, kwargs, False)
        return [np.asarray(keras.ops.convert_to_numpy(t)) for t in keras.tree.flatten(result)]

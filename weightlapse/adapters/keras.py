"""Keras 3 on any backend: a callback for ``model.fit``, and ``watch`` for training loops written by hand.

Names are ``variable.path``; variables that no gradient updates (batch-norm statistics) belong to the stream "buffers".

On the JAX backend the trainer keeps the current values in a state of its own while it fits, and gives their memory away at the next step. They
are read from that state, right after the step: asking the model itself would make it gather and re-attach all variables every time.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from weightlapse.adapters.arrays import Entry, EntrySource
from weightlapse.adapters.keras_steps import GIVEN
from weightlapse.adapters.source import Selection
from weightlapse.adapters.trainer import Watching
from weightlapse.errors import CannotRecord, InvalidArgument, closest


class KerasSource(EntrySource):
    """A ``keras.Model``; :meth:`entries` lists its variables with their present values."""

    framework = "keras"
    takes_params = False
    elsewhere = False  # whether the present values are not in the model: a stateless loop holds them

    def __init__(self, model: Any, selection: Selection) -> None:
        super().__init__(selection)
        self._model = model
        self._variables = _variables(model)
        # where the JAX trainer keeps the value of each variable while it fits
        self._places = {
            id(v): (part, i)
            for part in ("trainable_variables", "non_trainable_variables")
            for i, v in enumerate(getattr(model, part))
        }

        self._still = {
            id(v): np.array(keras.ops.convert_to_numpy(v.value))
            for _, stream, v in self._variables
            if stream == "weights" and not v.trainable and keras.backend.backend() == "jax"
        }

    @property
    def model(self) -> Any:
        """The model that was given, whose variables are recorded."""
        return self._model

    def named(self) -> list[tuple[str, str, Any]]:
        """(name in the recording, stream, variable) of every weight."""
        return list(self._variables)

    def held(self, tensors: Sequence[Any]) -> tuple[list[str], list[str]]:
        """Names of the trainable variables that are among ``tensors``, and of those that are not."""
        ids = {id(v) for v in tensors}
        found: tuple[list[str], list[str]] = ([], [])
        trainable = {id(v) for v in self._model.trainable_variables}
        for name, _, variable in self._variables:
            if id(variable) in trainable:  # on the torch backend an optimizer of torch holds the tensor in the variable
                mine = id(variable) in ids or id(getattr(variable, "_value", variable)) in ids
                found[not mine].append(name)
        return found

    def adopt(self, names: Iterable[str]) -> None:
        """Call variables as a recording does that goes on: a model that was loaded from a file has lost (or got) the model's name in its paths."""
        known = set(names)
        ends: dict[str, list[str]] = {}
        for name in known:
            ends.setdefault(name.partition("/")[2], []).append(name)
        self._variables = [
            (
                name if name in known else _one([*ends.get(name, ()), *({name.partition("/")[2]} & known)]) or name,
                stream,
                v,
            )
            for name, stream, v in self._variables
        ]

    def entries(self, params: Any) -> list[Entry]:
        """(path, stream, value) of every variable, from wherever they are current: given by hand, in a graph that runs, in the state of a fit, or the model."""
        if not self._model.built and len(self._model.weights) != len(self._variables):
            self._variables = _variables(self._model)  # a model of models without a call of its own got more of them
        given = GIVEN.get()
        self.elsewhere = keras.backend.backend() != "tensorflow" and (params is not None or given is not None)
        if params is not None:
            return self._given_by_hand(params)
        if given is not None:
            return [(name, stream, self._value(name, stream, v, given)) for name, stream, v in self._variables]
        state = fitting_state(self._model)
        if state is None:
            return [(name, stream, v.value) for name, stream, v in self._variables]
        return [
            (name, stream, state[self._places[id(v)][0]][self._places[id(v)][1]]) for name, stream, v in self._variables
        ]

    def _value(self, name: str, stream: str, variable: Any, given: Mapping[int, Any]) -> Any:
        """The value of a variable at an update of JAX or of a graph: what is not handed over there has not changed."""
        if id(variable) in given:
            return given[id(variable)]
        if stream == "buffers":
            if stream not in self._selection.streams:
                return np.zeros(variable.shape, "float32")  # it is not recorded
            raise CannotRecord(
                f"{name} is not trained by the optimizer, and no stateless update on JAX shows it: use the WatchCallback in fit(), or leave optimizer= "
                "out and call rec.step((trainable_variables, non_trainable_variables)) after each update"
            )
        value = getattr(variable, "_value", None)
        return self._still[id(variable)] if value is None or getattr(value, "is_deleted", bool)() else value

    def _given_by_hand(self, params: Any) -> list[Entry]:
        """Values given to rec.step(), as a stateless loop on JAX holds them: trainable variables, or a pair of them and the others."""
        model = self._model
        sorts = [model.trainable_variables, model.non_trainable_variables]
        values = [list(params), None] if _is_flat(params) else [None if p is None else list(p) for p in params]
        given: dict[int, Any] = {}
        for variables, some in zip(sorts, values):
            if some is not None and [tuple(v.shape) for v in variables] != [tuple(np.shape(x)) for x in some]:
                raise InvalidArgument(
                    f"rec.step() was given {len(some)} values for the {len(variables)} variables of {model.name}, or they have other shapes: give "
                    "trainable_variables, or the pair (trainable_variables, non_trainable_variables)"
                )
            given |= {id(v): x for v, x in zip(variables, some or ())}
        return [(name, stream, self._value(name, stream, v, given)) for name, stream, v in self._variables]


def _is_flat(params: Any) -> bool:
    """Whether these are the values of variables, and not a pair of two lists of them."""
    return not (
        isinstance(params, (list, tuple))
        and len(params) == 2
        and all(p is None or isinstance(p, (list, tuple)) for p in params)
    )


def _one(names: list[str]) -> str | None:
    return names[0] if len(names) == 1 else None


def _variables(model: Any) -> list[tuple[str, str, Any]]:
    """(name, stream, variable) of every weight of the model."""
    if not model.weights:
        raise CannotRecord(f"{model.name} has no weights yet: build it, or call it on one batch, before watching it")
    frozen = {
        id(v)
        for layer in model._flatten_layers()
        if getattr(layer, "quantization_mode", None)
        is None  # whose weights are integers and their scales, which nothing trains
        for v in layer._non_trainable_variables
    }
    names: dict[str, int] = {}
    found = []
    for variable in model.weights:
        names[variable.path] = count = names.get(variable.path, 0) + 1
        name = variable.path if count == 1 else f"{variable.path}:{count}"  # Keras allows two layers of one name
        found.append((name, "buffers" if id(variable) in frozen else "weights", variable))
    return found


def fitting_state(model: Any) -> Mapping[str, Any] | None:
    """The JAX trainer's own copy of all variables, while it is newer than the model's."""
    state = getattr(model, "_jax_state", None)
    return state if state and not getattr(model, "_jax_state_synced", True) else None


def updates(model: Any) -> int:
    """How many optimizer steps the model has had; with gradient accumulation these are fewer than its batches."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise InvalidArgument("the model is not compiled: its optimizer steps cannot be counted")
    state = fitting_state(model)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    value = inner._iterations.value if state is None else _of(state["optimizer_variables"], optimizer, inner)
    count = int(np.asarray(value.detach().cpu() if hasattr(value, "detach") else value))
    return count // (inner.gradient_accumulation_steps or 1)


def _of(values: Any, optimizer: Any, inner: Any) -> Any:
    return next(value for variable, value in zip(optimizer.variables, values) if variable is inner._iterations)


def load(model: Any, state: Mapping[str, NDArray[Any]]) -> None:
    """Put ``state`` into the model's variables; nothing is changed when one does not fit."""
    variables = {name: variable for name, _, variable in _variables(model)}
    for name, values in state.items():
        if name not in variables:
            raise InvalidArgument(f"the model has no variable {name!r} to load into; {closest(name, variables)}")
        if tuple(variables[name].shape) != values.shape:
            raise InvalidArgument(
                f"{name} has shape {values.shape} in the recording and {variables[name].shape} in the model"
            )
    for name, values in state.items():
        variables[name].assign(values)


class WatchCallback(Watching, keras.callbacks.Callback):
    """Record ``model.fit``: a frame per optimizer step, the network before its first update included.

    Takes the path and the keyword arguments of :func:`weightlapse.watch`. Steps are numbered by the optimizer's own count, so a ``fit`` that goes on
    from a checkpoint with ``resume=True`` goes on at the step of the checkpoint. The loss and metrics of every batch, and the validation metrics of
    every epoch, become scalars.

    ``model.fit(x, y, callbacks=[WatchCallback("run")])``
    """

    def __init__(self, path: str | os.PathLike[str], **watch: Any) -> None:
        super().__init__()
        self.prepare(path, watch)
        self._updates = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Begins the recording; a model of TensorFlow without weights is begun by its first batch, which makes them."""
        self._updates = updates(self._model)
        if self._model.weights or keras.backend.backend() != "tensorflow":
            self.begin(self._model, self.path, lambda: self._updates)
        # else: the TensorFlow trainer builds such a model inside its first step; see _begin_late

    def _begin_late(self, step: int, logs: Any) -> None:
        """The model came to be in its first step, so its weights before that are out of reach: said, and recorded as a gap."""
        why = "the model had no weights before fit(): call it on one batch, or give it an Input, to have them recorded"
        if self.begin(self._model, self.path, lambda: step):
            self.recorder.gap(0, step - 1, why)
            self.recorder.log(**_numbers(logs))
            warnings.warn(f"the recording {self.path} begins at step {step}: {why}", stacklevel=2)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """One frame where the optimizer's count has risen, however many updates that were; batches that are only accumulated make none."""
        if self.recorder is None:
            self._updates = updates(self._model)
            self._begin_late(self._updates, logs)
            return
        if not self.recorder.active:
            return
        with self.recorder.guard():
            # self.model would make the JAX trainer gather all variables: self._model does not
            count = updates(self._model)
            if count > self._updates:  # with steps_per_execution several at once, with gradient accumulation often none
                self._updates = count
                self.recorder.step(step=count + self.offset, **_numbers(logs))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Validation metrics become scalars of the newest frame, and all frames so far reach the store."""
        if self.active:
            validation = {name: value for name, value in _numbers(logs).items() if name.startswith("val_")}
            if validation:
                self.recorder.log(**validation)
            self.recorder.flush()  # checkpoints are written at the end of an epoch: what leads up to them is there then

    def on_train_end(self, logs: Any = None) -> None:
        """Closes the recording; weights that Keras restores now (the best epoch's) are no step and make no frame."""
        self.end()


def _numbers(logs: Mapping[str, Any] | None) -> dict[str, float]:
    return {name: float(value) for name, value in (logs or {}).items() if np.ndim(value) == 0}

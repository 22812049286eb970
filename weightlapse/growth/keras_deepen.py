"""A deeper Keras model that computes the same: an identity layer where acting twice is acting once, else a residual insert that adds nothing yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.saving import serialization_lib
from torch import nn

from weightlapse.errors import CannotGrow, InvalidArgument, UnknownTensor, closest
from weightlapse.growth.certificate import Certificate, Trial
from weightlapse.growth.keras_models import settle, with_optimizer
from weightlapse.growth.keras_optimizer import powers_of
from weightlapse.growth.keras_rebuild import is_functional, naming_kept
from weightlapse.growth.module import tensors_of
from weightlapse.growth.result import Growth
from weightlapse.growth.running import check_finite, is_widened, put, sharing
from weightlapse.wiring.programs.keras_models import keras_program, named_variables
from weightlapse.wiring.programs.program import Program
from weightlapse.wiring.record import quietly

_TWICE_IS_ONCE = frozenset({"relu", "relu6"})
_CONVOLUTIONS = {3: "Conv1D", 4: "Conv2D", 5: "Conv3D"}


def deepened(
    model: Any,
    examples: Sequence[Any],
    after: str,
    *,
    kind: str,
    optimizer: Any,
    noise: float,
    width: int | None,
    seed: int | None,
) -> Growth:
    """`wl.deepen` for a Keras model; see there."""
    if kind == "block":
        raise CannotGrow(
            "kind='block' repeats a block of a torch module; for a Keras model choose 'identity' or 'residual'"
        )
    holders, layer = _layer(model, after)
    holder = holders[-1]
    if optimizer is not None or model.compiled:
        powers_of(optimizer if optimizer is not None else model.optimizer)
    program = keras_program(model)
    check_finite(program)
    trial = Trial.of(program, [program.example(e) for e in examples])
    place, activation = _place(holder, layer)
    exact = activation is not None and _can_be_identity(place)
    if kind == "identity" and not exact:
        raise CannotGrow(
            f"after {after!r} no layer is the identity: acting twice is not acting once there ({_activation_of(layer) or 'no activation'}); take kind='residual'"
        )
    draw = np.random.default_rng(seed)
    name = _free_name(model, f"{layer.name}_deeper")
    with quietly(), naming_kept():
        if kind != "residual" and exact:
            assert activation is not None
            new, inserted = _inserted(holder, place, lambda: _identity(place, activation, name))
        else:
            shown = _activation_of(layer) or "relu"
            new, inserted = _inserted(
                holder, layer, lambda: _residual(layer, shown, width, name, int(draw.integers(2**31)))
            )
        for outer, inner in zip(holders[-2::-1], holders[:0:-1], strict=True):
            new = _cloned(outer, {inner.name: new})
    origin = _carry(model, new)
    settle(model, new)
    if noise:
        _shake(inserted, layer, noise, draw)
    checks = trial.checks(lambda source: _with_values_of(new, source, origin), keras_program(new), own_only=bool(noise))
    worst = max((c for c in checks if c.binding), key=lambda c: c.error)
    if not noise and not trial.allows(worst, trial.limit):
        raise CannotGrow(f"a deeper {model.name} would compute something else: {worst}")
    opt = with_optimizer(model, new, optimizer, lambda _name, _power, value: value, origin)
    certificate = Certificate(
        checks=tuple(checks),
        tolerance=float("inf") if noise else trial.tolerance,
        live={},
        parameters=(model.count_params(), new.count_params()),
        notes=tuple(trial.notes),
    )
    return Growth(new, opt, {}, certificate, {}, origin, note=f"deepened after {after}: {inserted.name}")


def _layer(model: Any, after: str) -> tuple[list[Any], Any]:
    """The layer named ``after`` ("dense_1", or "block/dense_1"), and the models around it, the outermost first."""
    if not is_functional(model):
        raise CannotGrow(
            f"{type(model).__name__} is a class with a call of its own, into which no layer can be put from outside; write the deeper one yourself, and "
            "let wl.compare judge it"
        )
    places = list(_places(model, []))
    found = [(holders, layer) for holders, layer in places if layer.name == after]
    if not found:
        paths = ["/".join([*(h.name for h in holders[1:]), layer.name]) for holders, layer in places]
        found = [place for place, path in zip(places, paths, strict=True) if f"/{path}".endswith(f"/{after}")]
    if len({id(layer) for _, layer in found}) > 1:
        inside = [holders[-1].name for holders, _ in found]
        raise InvalidArgument(
            f"several layers are called {after!r}; say which: {', '.join(f'{h}/{after}' for h in inside)}"
        )
    if found:
        return found[0]
    inner = [path for path in (v.path for v in model.variables) if f"/{after}/" in f"/{path}"]
    if inner:
        raise CannotGrow(
            f"{after!r} is inside of a layer of {model.name} ({inner[0]}) that is no sequential or functional model: write that layer anew"
        )
    raise UnknownTensor(f"{model.name} has no layer {after!r}; {closest(after, [layer.name for _, layer in places])}")


def _places(model: Any, around: list[Any]) -> Iterator[tuple[list[Any], Any]]:
    """Every layer of the model and of the models inside of it, the outer ones first."""
    holders = [*around, model]
    yield from ((holders, layer) for layer in model.layers)
    for layer in model.layers:
        if is_functional(layer):
            yield from _places(layer, holders)


def _activation_of(layer: Any) -> str | None:
    """The name of what a layer does to each number at its end; None where it does nothing."""
    if isinstance(layer, keras.layers.ReLU):
        plain = layer.negative_slope == 0 and layer.threshold == 0
        return (
            ("relu" if layer.max_value is None else "relu6" if layer.max_value == 6 else "clipped")
            if plain
            else "leaky"
        )
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    return None if name in (None, "linear") else name


def _followers(model: Any, layer: Any) -> list[Any]:
    if isinstance(model, keras.Sequential):
        at = model.layers.index(layer)
        return list(model.layers[at + 1 : at + 2])
    inside = set(map(id, model.layers))
    return [node.operation for node in layer._outbound_nodes if id(node.operation) in inside]


def _place(model: Any, layer: Any) -> tuple[Any, str | None]:
    """The layer behind which an identity is exact, and the activation it has there: the layer's own, or the one that follows it."""
    at = layer
    while True:
        found = _activation_of(at)
        if found is not None:
            return at, found if found in _TWICE_IS_ONCE else None
        following = _followers(model, at)
        if len(following) != 1 or not isinstance(
            following[0], (keras.layers.BatchNormalization, keras.layers.ReLU, keras.layers.Activation)
        ):
            return at, None
        at = following[0]


def _shape(layer: Any) -> tuple[int | None, ...]:
    output = layer.output
    if isinstance(output, (list, tuple)):
        raise CannotGrow(f"{layer.name} puts out several arrays, so no one layer can follow it")
    return tuple(output.shape)


def _can_be_identity(layer: Any) -> bool:
    shape = _shape(layer)
    return (
        shape[-1] is not None and getattr(layer, "data_format", "channels_last") == "channels_last" and len(shape) <= 5
    )


def _identity(layer: Any, activation: str, name: str) -> Any:
    """A layer that passes on what ``layer`` puts out, acting once more as it does."""
    shape = _shape(layer)
    channels, spatial = shape[-1], len(shape) > 2 and _is_spatial(layer)
    assert channels is not None
    options = {"activation": activation, "name": name, "dtype": layer.dtype_policy}
    if not spatial:
        return keras.layers.Dense(channels, kernel_initializer="identity", **options)
    size = [k if k % 2 else k + 1 for k in getattr(layer, "kernel_size", (3,) * (len(shape) - 2))]
    kind = getattr(keras.layers, _CONVOLUTIONS[len(shape)])
    return kind(channels, size, padding="same", kernel_initializer=_dirac, **options)


def _is_spatial(layer: Any) -> bool:
    return hasattr(layer, "kernel_size") or len(_shape(layer)) >= 4


def _dirac(shape: Sequence[int], dtype: Any = None) -> Any:
    kernel = np.zeros(shape, "float32")
    kernel[tuple(n // 2 for n in shape[:-2])] = np.eye(shape[-1])
    return keras.ops.convert_to_tensor(kernel, dtype)


def _residual(layer: Any, activation: str, width: int | None, name: str, seed: int) -> Any:
    """``x + V act(U x)`` with V = 0, along the channels."""
    shape = _shape(layer)
    if shape[-1] is None or getattr(layer, "data_format", "channels_last") != "channels_last":
        raise CannotGrow(f"{layer.name} has no channels on its last axis, where a residual insert would act")
    x = keras.Input(shape[1:], dtype=layer.compute_dtype)
    hidden = keras.layers.Dense(
        width or shape[-1],
        activation=activation,
        kernel_initializer=keras.initializers.GlorotUniform(seed),
        name=f"{name}_in",
    )(x)
    added = keras.layers.Dense(shape[-1], kernel_initializer="zeros", name=f"{name}_out")(hidden)
    return keras.Model(x, keras.layers.Add(name=f"{name}_add")([x, added]), name=name)


def _inserted(model: Any, place: Any, make: Any) -> tuple[Any, Any]:
    """The model with one more layer behind ``place``, and that layer."""
    new_layer = make()
    return _cloned(model, {}, after={place.name: new_layer}), new_layer


def _cloned(model: Any, instead: Mapping[str, Any], after: Mapping[str, Any] | None = None) -> Any:
    """The model made again, with other layers in place of some, and further ones behind some, by name."""
    behind = after or {}

    def clone(layer: Any) -> Any:
        if layer.name in instead:
            return instead[layer.name]
        with serialization_lib.SafeModeScope(False):
            return type(layer).from_config(layer.get_config())

    if isinstance(model, keras.Sequential):
        parts: list[Any] = [keras.Input(batch_shape=model.input_shape, dtype=model.inputs[0].dtype)]
        for layer in model.layers:
            parts += [clone(layer), behind[layer.name]] if layer.name in behind else [clone(layer)]
        return keras.Sequential(parts, name=model.name)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        out = layer(*args, **kwargs)
        return behind[layer.name](out) if layer.name in behind else out

    return keras.models.clone_model(model, clone_function=clone, call_function=call)


def _free_name(model: Any, name: str) -> str:
    taken = {layer.name for layer in model._flatten_layers()}
    return next(n for n in (name, *(f"{name}_{i}" for i in range(2, 1 << 20))) if n not in taken)


def _carry(model: Any, new: Any) -> dict[str, str | None]:
    """All old values into the new model; for each of its names the old one, None for what is new."""
    olds, news = ({id(v): n for n, v in named_variables(m)} for m in (model, new))
    origin: dict[str, str | None] = dict.fromkeys(news.values())
    for a, b in _pairs(model, new):
        # an array of its own: JAX gives away the memory of what it trains
        b.assign(np.array(keras.ops.convert_to_numpy(a.value)))
        if id(a) in olds and id(b) in news:
            origin[news[id(b)]] = olds[id(a)]
    return origin


def _pairs(model: Any, new: Any) -> Iterator[tuple[Any, Any]]:
    """Every variable of the model with its twin in the deeper one."""
    for layer in (layer for layer in model.layers if layer.variables):
        twin = new.get_layer(layer.name)
        if is_functional(layer):
            yield from _pairs(layer, twin)
        else:
            yield from zip(layer.variables, twin.variables, strict=True)


def _shake(inserted: Any, layer: Any, noise: float, rng: np.random.Generator) -> None:
    kernel = next((v for v in layer.trainable_variables if len(v.shape) > 1), None)
    if kernel is None:
        raise InvalidArgument(f"noise is measured in spreads of the weights of {layer.name}, which has none")
    spread = float(np.std(keras.ops.convert_to_numpy(kernel.value)))
    for v in inserted.trainable_variables:
        v.assign(keras.ops.convert_to_numpy(v.value) + rng.normal(0.0, noise * spread, v.shape))


def _with_values_of(model: Any, source: nn.Module, origin: dict[str, str | None]) -> Program:
    """The new model's program with the values that another program of the old model holds."""
    made: Any = keras_program(model)
    held = tensors_of(source)
    if is_widened(source):
        made = sharing(made)
    else:
        made = made.to(next(t.dtype for t, _ in held.values() if t.is_floating_point()))
    for name, (t, slots) in tensors_of(made).items():
        was = origin.get(name)
        if was is not None and was in held:
            put(slots, t, held[was][0].detach())
    return made  # type: ignore[no-any-return]

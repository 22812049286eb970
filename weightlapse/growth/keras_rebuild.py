"""A Keras model made again from its configuration with other sizes, its random seeds and names untouched."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, combinations, islice
from typing import Any

import keras
from keras.src.saving import serialization_lib

from weightlapse.errors import CannotGrow
from weightlapse.wiring.programs.keras_models import float_variables
from weightlapse.wiring.record import quietly

_SIZE = re.compile(r"^(units|filters|output_dim|num_heads|num_query_heads|num_key_value_heads|key_dim|value_dim|head_dim|output_shape|target_shape|"
                   r"projection_dim|depth|features|hidden|width|dim|size|channels)|(dim|units|size|width|features|channels|hidden|heads)$")  # fmt: skip
_TRIES = 200


@dataclass(frozen=True)
class Entry:
    """A number in a configuration: the keys that lead to it, what it is and what it may have to become."""

    path: tuple[Any, ...]
    old: int
    new: int

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}: {self.old} -> {self.new}"


def rebuilt(
    model: Any, shapes: Sequence[tuple[int, ...]], sizes: Mapping[str, Mapping[int, int]], call: Callable[[Any], Any]
) -> tuple[Any, tuple[Entry, ...]]:
    """A new model of the same kind whose floating-point variables have ``shapes``, and the numbers of its configuration that changed.

    ``sizes`` maps names of layers ("" for the whole model) to what lengths became there; ``call`` runs the new model once, for those that have
    no variables before. Raises CannotGrow when no reading of the configuration gives these shapes.
    """
    config = _config_of(model)
    own = list(_entries(config, sizes))
    why = ""
    with quietly(), naming_kept():
        for chosen in _readings(own):
            try:
                new = _made(model, _edited(config, chosen), call)
            except Exception as error:  # noqa: BLE001  whatever a layer says to sizes that do not fit
                why = (
                    why
                    or f"made again with {_said(chosen)} it does not build ({type(error).__name__}: {str(error).strip().splitlines()[0][:200]})"
                )
                continue
            found = [tuple(v.shape) for v in float_variables(new)]
            if found == list(shapes):
                return new, tuple(chosen)
            why = why or _difference(model, found, shapes, chosen)
    if not own:
        why = "its configuration holds none of the sizes that change: they are written in its code; give them to __init__ as arguments"
    raise CannotGrow(f"{model.name} cannot be made again with other sizes: {why}")


def _said(chosen: Sequence[Entry]) -> str:
    return ", ".join(map(str, chosen)) or "the same sizes"


def _difference(
    model: Any, found: Sequence[tuple[int, ...]], shapes: Sequence[tuple[int, ...]], chosen: Sequence[Entry]
) -> str:
    for v, a, b in zip(float_variables(model), found, shapes, strict=False):
        if a != b:
            return f"with {_said(chosen)} its {v.path} has shape {a}, and {b} is needed"
    return f"with {_said(chosen)} it has {len(found)} variables, and {len(shapes)} are needed"


def _config_of(model: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = _without_built_shapes(copy.deepcopy(model.get_config()))
        return found
    except Exception as error:
        raise CannotGrow(
            f"{type(model).__name__} has no configuration to make it again from ({type(error).__name__}: {str(error).strip().splitlines()[0][:160]}); "
            "write get_config, or let __init__ take plain values only"
        ) from error


def _without_built_shapes(value: Any) -> Any:
    """The shapes that layers were built for are left out: they are built anew for those that reach them."""
    if isinstance(value, dict):
        return {k: _without_built_shapes(v) for k, v in value.items() if k != "build_config"}
    return [_without_built_shapes(v) for v in value] if isinstance(value, list) else value


def _made(model: Any, config: dict[str, Any], call: Callable[[Any], Any]) -> Any:
    with serialization_lib.SafeModeScope(False):  # the program's own model, Lambda layers among its layers
        new = type(model).from_config(config)
    if len(float_variables(new)) != len(float_variables(model)):
        call(new)
    return new


def _entries(config: Any, sizes: Mapping[str, Mapping[int, int]]) -> Iterator[Entry]:
    """Numbers in layers that ``sizes`` names, under keys that sound like sizes; of a model of one's own all numbers."""
    layers = list(_layers(config, ()))
    for path, name, inner in layers:
        for became in (sizes.get(name, {}),):
            yield from _numbers(inner, path, became, anything=False)
    if not layers:
        yield from _numbers(config, (), sizes.get("", {}), anything=True)


def _layers(config: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str, Any]]:
    if isinstance(config, Mapping):
        for i, layer in enumerate(config.get("layers", ()) if isinstance(config.get("layers"), list) else ()):
            inner, where = layer.get("config", {}), (*path, "layers", i, "config")
            nested = list(_layers(inner, where))
            if nested:
                yield from nested
            else:
                yield where, str(inner.get("name", "")), inner


def _numbers(value: Any, path: tuple[Any, ...], became: Mapping[int, int], *, anything: bool) -> Iterator[Entry]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, (Mapping, list, tuple)) or anything or _SIZE.search(str(key)):
                yield from _numbers(inner, (*path, key), became, anything=anything)
    elif isinstance(value, (list, tuple)):
        named = anything or (len(path) > 0 and bool(_SIZE.search(str(path[-1]))))
        for i, inner in enumerate(value):
            if named or isinstance(inner, (Mapping, list, tuple)):
                yield from _numbers(inner, (*path, i), became, anything=anything)
    elif type(value) is int and value in became and became[value] != value:
        yield Entry(path, value, became[value])


def _readings(own: list[Entry]) -> Iterator[tuple[Entry, ...]]:
    """All of the numbers first, then fewer."""
    yield from islice(chain.from_iterable(combinations(own, n) for n in range(len(own), -1, -1)), _TRIES)


def _edited(config: dict[str, Any], chosen: Sequence[Entry]) -> dict[str, Any]:
    new = copy.deepcopy(config)
    for entry in chosen:
        holder: Any = new
        for i, key in enumerate(entry.path[:-1]):
            if isinstance(holder[key], tuple):
                holder[key] = list(holder[key])
            holder = holder[entry.path[i]]
        holder[entry.path[-1]] = entry.new
    return new


@contextmanager
def naming_kept() -> Iterator[None]:
    """The numbers that Keras gives to layers without a name go on where they were."""
    from keras.src.backend.common import global_state

    counts = global_state.get_global_attribute("object_name_uids", default=None)
    before = None if counts is None else dict(counts)
    try:
        yield
    finally:
        now = global_state.get_global_attribute("object_name_uids", default=None)
        if now is not None and before is not None:
            now.clear()
            now.update(before)


def carry_compilation(old: Any, new: Any) -> None:
    """Compiles the new model as the old one was, with an optimizer of its own."""
    if not getattr(old, "compiled", False):
        return
    config = old.get_compile_config()
    if config:
        new.compile_from_config(config)


def is_functional(model: Any) -> bool:
    """Whether the model is a graph of layers (functional or sequential) rather than a class with a call of its own."""
    from keras.src.models.functional import Functional

    return isinstance(model, keras.Sequential) or (
        isinstance(model, Functional) and type(model).call is Functional.call
    )

"""Keras models with other sizes: made again from their configuration, compiled and seeded as before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from torch import nn

from weightlapse.errors import InvalidArgument, closest
from weightlapse.growth.cells import Cells
from weightlapse.growth.keras_optimizer import Moment, carried, powers_of
from weightlapse.growth.keras_rebuild import Entry, carry_compilation, rebuilt
from weightlapse.growth.module import tensors_of
from weightlapse.growth.tensors import grown_shape
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.programs.keras_models import float_variables, keras_program, named_variables
from weightlapse.wiring.programs.program import Program


class KerasHome:
    """Keras models are made again from their configuration."""

    def program(self, model: Any, names: Sequence[str] | None = None) -> Program:
        return keras_program(model, names)

    def check_optimizer(self, model: Any, optimizer: Any) -> None:
        if optimizer is not None or model.compiled:
            powers_of(optimizer if optimizer is not None else model.optimizer)

    def group(self, wiring: Wiring, asked: str) -> str:
        return _group_named(wiring, asked)

    def candidates(
        self, model: Any, program: Program, wiring: Wiring, cells: Cells, example: Any
    ) -> Iterator[tuple[Any, tuple[Entry, ...]]]:
        held = program.named()
        shapes = [grown_shape(wiring.shapes.get(n, tuple(held[n].shape)), cells, n) for n in program.graph.names]
        yield rebuilt(model, shapes, _became(model, wiring, cells), lambda m: _call(m, program, example))

    def put(self, program: nn.Module, new: Any, model: Any) -> Any:
        held = {n: t for n, (t, _) in tensors_of(program).items()}
        for name, v in zip(program.graph.names, float_variables(new), strict=True):  # type: ignore[union-attr]
            values: NDArray[Any] = np.array(held[name].detach().numpy())
            v.assign(values)
        settle(model, new)
        return new

    def finished(self, model: Any, new: Any, optimizer: Any, moment: Moment, origin: dict[str, str | None]) -> Any:
        return with_optimizer(model, new, optimizer, moment, origin)

    def origin(self, model: Any, new: Any) -> dict[str, str | None]:
        olds = [n for n, _ in named_variables(model)]
        news = [n for n, _ in named_variables(new)]
        if len(olds) == len(news):
            return dict(zip(news, olds, strict=True))
        return {n: n if n in olds else None for n in news}

    def count(self, model: Any) -> int:
        return int(model.count_params())

    def name(self, model: Any) -> str:
        return str(model.name)


def _group_named(wiring: Wiring, asked: str) -> str:
    """A group by its name, by the name of its layer ("dense_1") or by the end of its path ("block/dense_1")."""
    if any(g.name == asked for g in wiring.groups):
        return asked
    top = [g for g in wiring.groups if g.parent is None]
    found = [g.name for g in top if any(f"/{asked}/" in f"/{m.tensor}" for m in g.producers)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidArgument(
            f"the layer {asked!r} makes the units of several groups; name one of: {', '.join(map(repr, found))}"
        )
    raise InvalidArgument(
        f"there is no group and no layer {asked!r} whose units could change; {closest(asked, [g.name for g in top])}{_why(wiring, asked)}"
    )


def _why(wiring: Wiring, layer: str) -> str:
    reasons = [
        why for (tensor, _), why in wiring.fixed.items() if f"/{layer}/" in f"/{tensor}" and tensor.endswith("bias")
    ]
    return f"; what {layer!r} puts out is fixed: {reasons[0]}" if reasons else ""


def _call(model: Any, program: Program, example: Any) -> Any:
    args, kwargs = program.graph.arguments(example)
    args, kwargs = keras.tree.map_structure(
        lambda v: keras.ops.convert_to_tensor(np.asarray(v)) if hasattr(v, "__array__") else v, (args, kwargs)
    )
    return model(*args, **kwargs)


def _became(model: Any, wiring: Wiring, cells: Cells) -> dict[str, dict[int, int]]:
    """By name of layer, and under "" for all: what lengths of axes and numbers of units became where they are made."""
    found: dict[str, dict[int, int]] = {"": {}}
    changed = [g for g in wiring.groups if g.name in cells.lineage and len(cells.lineage[g.name]) != g.size]
    for group in changed:
        for m in group.members if not group.producers else group.producers:
            mapped = dict(cells.maps_of(m.tensor)).get(m.axis)
            pairs = {group.size: len(cells.lineage[group.name])}
            if mapped is not None:
                pairs[wiring.shapes[m.tensor][m.axis]] = len(mapped.source)
            for part in ("", *m.tensor.split("/")[:-1]):
                found.setdefault(part, {}).update({old: new for old, new in pairs.items() if old != new})
    for layer in model._flatten_layers():
        if not layer.weights and layer.name not in found:  # a Reshape, say
            found[layer.name] = dict(found[""])
    return found


def settle(model: Any, new: Any) -> None:
    """Counters and seeds as in the old model; layers that work on what they have learned before (Normalization) take it over."""
    floats = {id(v) for m in (model, new) for v in float_variables(m)}
    olds, news = ([v for _, v in named_variables(m) if id(v) not in floats] for m in (model, new))
    for a, b in zip(olds, news, strict=False):
        if tuple(a.shape) == tuple(b.shape):
            b.assign(np.array(keras.ops.convert_to_numpy(a.value)))
    for layer in new._flatten_layers():
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.finalize_state()


def with_optimizer(model: Any, new: Any, optimizer: Any, moment: Moment, origin: dict[str, str | None]) -> Any:
    """The new model compiled as the old one was; its optimizer, or one like the one given, with all moments."""
    carry_compilation(model, new)
    _carry_trainable(model, new)
    if optimizer is not None and optimizer is not getattr(model, "optimizer", None):
        return carried(optimizer, model, new, moment, origin)
    if not model.compiled or model.optimizer is None:
        return None
    return carried(model.optimizer, model, new, moment, origin, into=new.optimizer)


def _carry_trainable(model: Any, new: Any) -> None:
    still = {layer.name for layer in model._flatten_layers() if not layer.trainable}
    for layer in new._flatten_layers():
        if layer.name in still:
            layer.trainable = False

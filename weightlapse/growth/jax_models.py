"""Networks of JAX with other sizes: a Flax NNX or Equinox module of the same kind with other arrays, whose remembered sizes follow."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from torch import nn

from weightlapse.adapters.jax import is_nnx
from weightlapse.errors import InvalidArgument, closest
from weightlapse.growth.arrays import Array
from weightlapse.growth.attributes import Setting, follow, sounds_like_size
from weightlapse.growth.cells import Cells
from weightlapse.growth.foreign import Moment
from weightlapse.growth.jax_optimizer import carried, powers_of
from weightlapse.growth.module import parameter_count, tensors_of
from weightlapse.growth.tensors import grown_shape, lengths_below
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.programs.jax_models import dotted, is_float, jax_program
from weightlapse.wiring.programs.program import Program, array_of

_READS = re.compile(
    r"^(in_|in\d?_|input)|^(query|key|value)_size$"
)  # sizes of what a layer is given, not of what it makes
Became = Mapping[int, set[int]]  # an old length -> what it became


class JaxHome:
    """A module is copied, its arrays exchanged, and the sizes that it remembers in attributes set."""

    def program(self, model: Any, names: Sequence[str] | None = None) -> Program:
        return jax_program(model)

    def check_optimizer(self, model: Any, optimizer: Any) -> None:
        if optimizer is not None:
            powers_of(optimizer, jax_program(model).graph.names)

    def group(self, wiring: Wiring, asked: str) -> str:
        top = [g.name for g in wiring.groups if g.parent is None]
        if asked in {g.name for g in wiring.groups}:
            return asked
        made = [g.name for g in wiring.groups if any(f".{asked}." in f".{m.tensor}" for m in g.producers)]
        if len(made) == 1:
            return made[0]
        if made:
            raise InvalidArgument(
                f"{asked!r} makes the units of several groups; name one of: {', '.join(map(repr, made))}"
            )
        why = [why for (tensor, _), why in wiring.fixed.items() if f".{asked}." in f".{tensor}"]
        raise InvalidArgument(
            f"there is no group and no layer {asked!r} whose units could change; {closest(asked, top)}"
            + (f"; an axis of {asked!r} is fixed: {why[0]}" if why else "")
        )

    def candidates(
        self, model: Any, program: Program, wiring: Wiring, cells: Cells, example: Any
    ) -> Iterator[tuple[Any, list[Setting]]]:
        held = program.named()
        blank: dict[str, Array] = {
            n: np.zeros(grown_shape(tuple(held[n].shape), cells, n), array_of(held[n]).dtype) for n in held
        }
        tried = []
        for choose in _readings(wiring, cells):
            new = _with_arrays(model, blank)
            said = [s for path, module in modules_of(new) for s in choose(path, vars(module))]
            if (words := list(map(str, said))) in tried:
                continue
            tried.append(words)
            yield new, said

    def put(self, program: nn.Module, new: Any, model: Any) -> Any:
        values = {n: np.array(array_of(t)) for n, (t, _) in tensors_of(program).items()}
        return _with_arrays(new, values)

    def finished(self, model: Any, new: Any, optimizer: Any, moment: Moment, origin: dict[str, str | None]) -> Any:
        return None if optimizer is None else carried(optimizer, jax_program(model).graph.names, new, moment)

    def origin(self, model: Any, new: Any) -> dict[str, str | None]:
        return {n: n for n in jax_program(new).graph.names}

    def count(self, model: Any) -> int:
        return parameter_count(jax_program(model))

    def name(self, model: Any) -> str:
        return type(model).__name__


def modules_of(model: Any) -> Iterator[tuple[str, Any]]:
    """Every module of an NNX or Equinox network with its dotted path, outer ones first, each once."""
    if is_nnx(model):
        from flax import nnx

        found = [(".".join(map(str, path)), m) for path, m in nnx.iter_modules(model)]
        yield from sorted(found, key=lambda pair: pair[0].count(".") + bool(pair[0]))
        return
    seen: set[int] = set()

    def inside(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        below = f"{path}." if path else ""
        if isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                yield from inside(item, f"{below}{i}")
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from inside(item, f"{below}{key}")
        elif _is_equinox(value) and id(value) not in seen:
            seen.add(id(value))
            yield path, value
            for key, item in vars(value).items():
                yield from inside(item, f"{below}{key}")

    yield from inside(model, "")


def _is_equinox(value: Any) -> bool:
    equinox = sys.modules.get("equinox")
    return equinox is not None and isinstance(value, equinox.Module)


def _with_arrays(model: Any, values: Mapping[str, Array]) -> Any:
    """A copy of ``model`` that holds ``values``, in the precision of its own arrays; what is shared stays shared."""
    if is_nnx(model):
        from flax import nnx

        graph, state = nnx.split(model)
        flat = []
        for path, v in nnx.to_flat_state(state):
            name = ".".join(map(str, path))
            old = v.get_value() if hasattr(v, "get_value") else v.value
            flat.append((path, v.replace(jax.numpy.array(values[name], old.dtype) if name in values else _own(old))))
        return nnx.merge(graph, nnx.from_flat_state(flat))
    if isinstance(model, functools.partial):
        tree, *others = model.args
        return functools.partial(model.func, _with_arrays_of_tree(tree, values), *others, **model.keywords)
    return _with_arrays_of_tree(model, values)


def _own(value: Any) -> Any:
    return jax.numpy.copy(value) if isinstance(value, jax.Array) else value


def _with_arrays_of_tree(tree: Any, values: Mapping[str, Array]) -> Any:
    leaves, form = jax.tree_util.tree_flatten_with_path(tree)
    made: dict[int, Any] = {}
    new = []
    for path, leaf in leaves:
        if is_float(leaf) and id(leaf) not in made:
            made[id(leaf)] = jax.numpy.array(values[dotted(path)], leaf.dtype)
        new.append(made.get(id(leaf), leaf))
    return jax.tree_util.tree_unflatten(form, new)


def _readings(wiring: Wiring, cells: Cells) -> Iterator[Callable[[str, dict[str, Any]], list[Setting]]]:
    """Ways to set the remembered sizes of a module (its path, its attributes), the likeliest first.

    A layer that holds a tensor that changes knows what it reads and what it makes by its name for it. What the modules around it remember is
    followed where all such lengths below them became one other; else not at all; else wherever one did.
    """
    below = lengths_below(wiring, cells)
    layers = _layers(wiring, cells)
    whole = {
        (n.rpartition(".")[0], tuple(s)): grown_shape(s, cells, n)
        for n, s in wiring.shapes.items()
        if grown_shape(s, cells, n) != tuple(s)
    }

    def plain(path: str, attributes: dict[str, Any]) -> list[Setting]:
        done = []
        for name, value in list(attributes.items()):
            became = layers[path][0 if _READS.search(name) else 1]
            new = whole.get((path, value)) if type(value) is tuple else None
            if new is None and sounds_like_size(name):
                new = _followed(value, became)
            if new is not None and new != value:
                attributes[name] = new
                done.append(Setting(attributes, name, path, value, new))
        return done

    def reading(outer: str) -> Callable[[str, dict[str, Any]], list[Setting]]:
        def choose(path: str, attributes: dict[str, Any]) -> list[Setting]:
            if path in layers:
                return plain(path, attributes)
            return [] if outer == "none" else follow(attributes, path, below(path), outer != "careful", outer == "any")

        return choose

    yield from (reading(outer) for outer in ("careful", "none", "bold", "any"))


def _followed(value: Any, became: Became) -> Any:
    if type(value) is tuple:
        return tuple(_followed(v, became) for v in value)
    new = became.get(value, set()) if type(value) is int else set()
    return next(iter(new)) if len(new) == 1 else value


def _layers(wiring: Wiring, cells: Cells) -> Mapping[str, tuple[Became, Became]]:
    """For each layer that holds a tensor that changes: what the lengths that it reads, and those that it makes, became."""
    found: dict[str, tuple[dict[int, set[int]], dict[int, set[int]]]] = {}
    for group in wiring.groups:
        new = len(cells.lineage.get(group.name, range(group.size)))
        if new == group.size:
            continue
        for m in group.members:
            mapped = dict(cells.maps_of(m.tensor)).get(m.axis)
            if mapped is None:
                continue
            side = found.setdefault(m.tensor.rpartition(".")[0], ({}, {}))["in" not in m.roles]
            side.setdefault(wiring.shapes[m.tensor][m.axis], set()).add(len(mapped.source))
            side.setdefault(group.size, set()).add(new)
    return found

"""Flax NNX modules, Equinox modules and JAX functions with their parameters bound, as programs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from weightlapse.errors import CannotTrace
from weightlapse.wiring.programs.jax_graph import JaxGraph
from weightlapse.wiring.programs.program import Program, Weight


def is_jax_model(model: Any) -> bool:
    """Whether this is a network of JAX that can be called: an NNX or Equinox module, or ``partial(function, parameters)``."""
    return _is(model, "flax.nnx", "Module") or (_is(model, "equinox", "Module") and callable(model)) or _is_bound(model)


def _is(model: Any, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(model, kind)


def _is_bound(model: Any) -> bool:
    if not isinstance(model, functools.partial) or not model.args:
        return False
    return any(isinstance(leaf, jax.Array) for leaf in jax.tree_util.tree_leaves(model.args[0]))


def jax_program(model: Any) -> Program:
    """The network as a program; CannotTrace where it has no floating-point weights."""
    if _is(model, "flax.nnx", "Module"):
        return _nnx_program(model)
    if _is_bound(model):
        return _tree_program(
            model, model.args[0], lambda tree, _: functools.partial(model.func, tree, *model.args[1:], **model.keywords)
        )
    import equinox

    return _tree_program(
        model, model, lambda tree, training: equinox.nn.inference_mode(tree, value=not training), batched=True
    )


def _tree_program(model: Any, tree: Any, rebuilt: Any, *, batched: bool = False) -> Program:
    leaves, form = jax.tree_util.tree_flatten_with_path(tree)
    floats = [i for i, (_, leaf) in enumerate(leaves) if is_float(leaf)]
    first: dict[int, int] = {}  # arrays that are shared are one weight
    for i in floats:
        first.setdefault(id(leaves[i][1]), i)
    own = list(first.values())
    names = {i: dotted(leaves[i][0]) for i in own}

    def function(values: list[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], training: bool) -> Any:
        given = dict(zip(own, values, strict=True))
        filled = [given[first[id(leaf)]] if i in floats else leaf for i, (_, leaf) in enumerate(leaves)]
        network = rebuilt(jax.tree_util.tree_unflatten(form, filled), training)
        return _over_samples(network, args, kwargs) if batched else network(*args, **kwargs)

    name = type(model).__name__ if batched else getattr(model.func, "__name__", type(model).__name__)
    weights = [Weight(names[i], np.asarray(leaves[i][1])) for i in own]
    if not weights:
        raise CannotTrace(f"{name} has no floating-point weights, so there is nothing to find")
    return Program(JaxGraph(name, function, [names[i] for i in own], [leaves[i][1].dtype for i in own]), weights)


def _over_samples(network: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Equinox modules take one sample; examples hold several, on the first axis. A single sample will do too."""
    try:
        return jax.vmap(lambda *a: network(*a, **kwargs))(*args)
    except (TypeError, ValueError, IndexError, AssertionError):
        return network(*args, **kwargs)


def is_float(leaf: Any) -> bool:
    """Whether a leaf is an array of floating-point numbers."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and np.ndim(leaf) >= 0 and jax.dtypes.issubdtype(dtype, jax.numpy.floating)


def dotted(path: tuple[Any, ...]) -> str:
    """A key path of JAX as "layers.0.weight"."""
    return (
        ".".join(str(next((getattr(k, a) for a in ("key", "name", "idx") if hasattr(k, a)), k)) for k in path)
        or "value"
    )


def _nnx_program(model: Any) -> Program:
    from flax import nnx

    graphdef, state = nnx.split(model)
    flat = list(nnx.to_flat_state(state))
    own = [i for i, (_, v) in enumerate(flat) if is_float(_value(v)) and not isinstance(v, nnx.RngState)]
    names = [".".join(map(str, flat[i][0])) for i in own]

    def function(values: list[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], training: bool) -> Any:
        given = dict(zip(own, values, strict=True))
        filled = [(path, v.replace(given.get(i, _value(v)))) for i, (path, v) in enumerate(flat)]
        network = nnx.merge(graphdef, nnx.from_flat_state(filled))
        network.train() if training else network.eval()
        return network(*args, **kwargs)

    weights = [
        Weight(n, np.asarray(_value(flat[i][1])), isinstance(flat[i][1], nnx.Param))
        for n, i in zip(names, own, strict=True)
    ]
    if not weights:
        raise CannotTrace(f"{type(model).__name__} has no floating-point weights, so there is nothing to find")
    return Program(JaxGraph(type(model).__name__, function, names, [_value(flat[i][1]).dtype for i in own]), weights)


def _value(variable: Any) -> Any:
    return variable.get_value() if hasattr(variable, "get_value") else variable.value

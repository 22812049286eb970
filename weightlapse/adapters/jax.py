"""JAX: any pytree of arrays (Flax and Haiku parameters, Equinox modules, optax states), and Flax NNX modules, which hold theirs.

JAX has no hooks by design: call ``rec.step(params)`` after the update, outside of ``jit``. The values are copied before the call returns, so
buffers may be donated to the next step. Names are dotted paths.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from weightlapse.adapters.arrays import Entry, EntrySource
from weightlapse.adapters.source import Selection
from weightlapse.errors import InvalidArgument, closest


def is_pytree(model: Any) -> bool:
    """True for a container in which at least one leaf is a JAX array."""
    leaves = jax.tree_util.tree_leaves(model)
    return not isinstance(model, jax.Array) and any(isinstance(leaf, jax.Array) for leaf in leaves)


class JaxSource(EntrySource):
    """A pytree given to every ``rec.step(params)``. Leaves that are no arrays of numbers (functions, random keys) are left out."""

    framework = "jax"

    def entries(self, params: Any) -> list[Entry]:
        """(dotted path, "weights", array) of the leaves that are numbers, in the order of the pytree; returns when all have reached host memory."""
        leaves = [(_dotted(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]]
        found = [(name, leaf) for name, leaf in leaves if _is_numbers(leaf)]
        for _, leaf in found:
            if isinstance(leaf, jax.Array) and not leaf.is_deleted():
                leaf.copy_to_host_async()  # all copies under way before the first is waited for
        return [(name, "weights", np.asarray(leaf)) for name, leaf in found]


class NnxSource(EntrySource):
    """A ``flax.nnx.Module``: parameters are weights, every other array that it holds (batch statistics) is a buffer.

    The state of random number generators is left out.
    """

    framework = "flax.nnx"
    takes_params = False

    def __init__(self, model: Any, selection: Selection) -> None:
        super().__init__(selection)
        self._model = model

    def entries(self, params: Any) -> list[Entry]:
        """(dotted path, stream, array) of what the module holds now; ``params`` is not looked at."""
        from flax import nnx

        found: list[Entry] = []
        for path, variable in nnx.to_flat_state(nnx.state(self._model)):
            value = variable.get_value() if hasattr(variable, "get_value") else variable.value
            if _is_numbers(value) and not isinstance(variable, nnx.RngState):
                stream = "weights" if isinstance(variable, nnx.Param) else "buffers"
                found.append((".".join(str(part) for part in path), stream, np.asarray(value)))
        return found


def is_nnx(model: Any) -> bool:
    """Whether this is a Flax NNX module; imports nothing."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(model, nnx.Module)


def _is_numbers(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return False
    return not jax.dtypes.issubdtype(dtype, jax.dtypes.extended) and dtype != jax.dtypes.float0


def _dotted(path: tuple[Any, ...]) -> str:
    """A key path of JAX as "layers.0.weight"."""
    parts = []
    for key in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(key, attribute):
                parts.append(str(getattr(key, attribute)))
                break
        else:
            parts.append(str(key))
    return ".".join(parts) or "value"


def load_nnx(model: Any, state: Mapping[str, NDArray[Any]]) -> None:
    """Put ``state`` into the variables of an NNX module; nothing is changed when one does not fit."""
    from flax import nnx

    variables = {
        ".".join(str(part) for part in path): variable for path, variable in nnx.to_flat_state(nnx.state(model))
    }
    for name, values in state.items():
        if name not in variables:
            raise InvalidArgument(f"the module has no variable {name!r} to load into; {closest(name, variables)}")
        if variables[name].shape != values.shape:
            raise InvalidArgument(
                f"{name} has shape {values.shape} in the recording and {variables[name].shape} in the module"
            )
    flat = [
        (path, variable.replace(jax.numpy.asarray(state[name], variable.dtype)) if name in state else variable)
        for (path, variable), name in zip(nnx.to_flat_state(nnx.state(model)), variables)
    ]
    nnx.update(model, nnx.from_flat_state(flat))

"""What a model holds, by name, dtype and shape, without reading one value: nothing leaves a device, and models without values are fine.

What is listed is what ``watch()`` would record of the same model.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weightlapse.adapters.arrays import Patterns, flatten, stored
from weightlapse.adapters.find import _framework, _frameworks, _holds_torch
from weightlapse.adapters.several import leaves
from weightlapse.adapters.source import DTYPES, ArrayInfo, Selection, left_out_text
from weightlapse.errors import CannotRecord, InvalidArgument


@dataclass(frozen=True)
class Held:
    """The arrays of a frame. ``frozen`` are the names of those that training leaves as they are, where the model says so.

    ``device`` is where the values are copied from: a torch device, or "cpu".
    """

    arrays: tuple[ArrayInfo, ...]
    framework: str
    frozen: frozenset[str] = frozenset()
    device: str = "cpu"


Entry = tuple[str, str, Any, bool]  # name, stream, what has its dtype and shape, whether training leaves it as it is


def shapes_of(model: Any, selection: Selection, optimizers: Sequence[Any] = (), rank: int = 0) -> Held:
    """The arrays that would be recorded of ``model``; of a module that is sharded those of this ``rank``.

    Raises what ``watch()`` raises: :class:`InvalidArgument` for what is no model or has nothing of that name, :class:`CannotRecord` for a model
    whose shapes are not known yet.
    """
    kind = _framework(model)
    if kind == "torch" or _holds_torch(model, followed=bool(optimizers)):
        of_torch = importlib.import_module("weightlapse.adapters.torch_shapes").shapes_of
        found: Held = of_torch(model, selection, optimizers, rank)
        return found
    if kind is None and (kinds := _frameworks(model)):
        parts = leaves(model)
        if any(_framework(part) is None for part in parts.values()):
            raise InvalidArgument("a model among other things: give models alone, or plan for it by itself")
        entries = [
            (f"{key}.{n}", *rest) for key, part in parts.items() for n, *rest in _entries(_framework(part), part)
        ]
        return chosen(entries, selection, next(iter(kinds)))  # type: ignore[arg-type]
    return chosen(_entries(kind, model), selection, kind or "arrays")


def _entries(kind: str | None, model: Any) -> list[Entry]:
    if kind == "keras":
        variables = importlib.import_module("weightlapse.adapters.keras")._variables(model)
        return [(name, stream, v, not v.trainable and stream == "weights") for name, stream, v in variables]
    if kind == "sklearn":
        of_sklearn = importlib.import_module("weightlapse.adapters.sklearn")
        return [(n, "weights", v, False) for n, v in of_sklearn.weights_of(of_sklearn.final(model)).items()]
    if kind == "flax.nnx":
        return _nnx(model)
    if "jax" in sys.modules and (found := _pytree(model)):
        return found
    if isinstance(model, Mapping):
        return [(name, "weights", value, False) for name, value in flatten(model).items()]
    raise InvalidArgument(
        f"{type(model).__name__} cannot be planned for: give a torch.nn.Module, a keras.Model, a JAX pytree, a scikit-learn network, "
        "a mapping of names to arrays, a recording, or the path of one or of a checkpoint"
    )


def _pytree(model: Any) -> list[Entry]:
    """The leaves of a JAX pytree, arrays or what ``jax.eval_shape`` gives in their place; empty when it is none."""
    import jax

    of_jax = importlib.import_module("weightlapse.adapters.jax")
    found = [(of_jax._dotted(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(model)[0]]
    if isinstance(model, jax.Array) or not any(isinstance(v, (jax.Array, jax.ShapeDtypeStruct)) for _, v in found):
        return []
    return [(name, "weights", leaf, False) for name, leaf in found if of_jax._is_numbers(leaf)]


def _nnx(model: Any) -> list[Entry]:
    from flax import nnx

    of_jax = importlib.import_module("weightlapse.adapters.jax")
    found: list[Entry] = []
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        value = variable.get_value() if hasattr(variable, "get_value") else variable.value
        if of_jax._is_numbers(value) and not isinstance(variable, nnx.RngState):
            stream = "weights" if isinstance(variable, nnx.Param) else "buffers"
            found.append((".".join(str(part) for part in path), stream, value, False))
    return found


def chosen(entries: Sequence[Entry], selection: Selection, framework: str, *, any_stream: bool = False) -> Held:
    """Those of the entries that ``tensors=`` and ``streams=`` name, with what NumPy has no numbers for left out."""
    for stream in selection.streams:
        if stream in ("gradients", "optimizer") and not any_stream:
            raise InvalidArgument(f"the stream {stream!r} is only there for torch modules")
    if not entries:
        raise InvalidArgument(f"there is no array to record in this {framework} object")
    selection.check([name for name, stream, *_ in entries if stream in selection.streams])
    infos, frozen, left_out = [], set(), {}
    for name, stream, value, still in entries:
        if stream not in selection.streams or not selection.wants(name):
            continue
        try:
            infos.append(replace(described(name, value), stream=stream))
        except CannotRecord as error:
            left_out[name] = str(error)
            continue
        if still:
            frozen.add(name)
    if not infos:
        raise CannotRecord(
            left_out_text(left_out) or f"streams={list(selection.streams)}: the model has nothing in them"
        )
    return Held(tuple(infos), framework, frozenset(frozen))


def described(name: str, value: Any) -> ArrayInfo:
    """An array of any library by its dtype and shape; only what says neither (a list, a number) is looked into."""
    if isinstance(value, ArrayInfo):
        return value
    if isinstance(value, Patterns):
        return ArrayInfo(name, value.dtype, value.patterns.shape)
    if hasattr(value, "detach"):
        found: ArrayInfo = importlib.import_module("weightlapse.adapters.torch_shapes").described(name, value)
        return found
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        kind = _name_of(dtype)
        if kind in DTYPES:
            return ArrayInfo(name, kind, tuple(int(n) for n in shape))
    array, kind = stored(name, value)
    return ArrayInfo(name, kind, array.shape)


def _name_of(dtype: Any) -> str | None:
    """The recorded name of a dtype as NumPy, JAX or Keras says it; None where it has to be seen."""
    try:
        return dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:
        return None

"""What JAX computes: a function of named arrays, traced to a jaxpr for the shapes that it meets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightlapse.errors import CannotTrace
from weightlapse.wiring.programs import lax_pointwise, lax_shapes, lax_sums  # noqa: F401  (fill the table of primitives)
from weightlapse.wiring.programs.jaxpr import Interpreter
from weightlapse.wiring.programs.program import Arrays, Graph, array_of

_NARROW = {"float64": "float32", "int64": "int32", "uint64": "uint32", "complex128": "complex64"}


class JaxGraph(Graph):
    """``function(values, args, kwargs, training)`` with the values in the order of ``names``; ``dtypes`` are those at home.

    ``prepare`` brings an example into the form of the call.
    """

    __slots__ = ("_known", "function", "prepare")

    def __init__(
        self,
        name: str,
        function: Callable[[list[Any], tuple[Any, ...], Mapping[str, Any], bool], Any],
        names: Sequence[str],
        dtypes: Sequence[Any],
        prepare: Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]] | None = None,
    ) -> None:
        super().__init__(name, names, dtypes)
        self.function, self.prepare = function, prepare
        self._known: dict[Any, tuple[Any, Any]] = {}

    def arguments(self, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return super().arguments(example) if self.prepare is None else self.prepare(example)

    def run(
        self, weights: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool = False
    ) -> Any:
        leaves, form = jax.tree_util.tree_flatten((args, dict(kwargs)), is_leaf=lambda v: isinstance(v, Tensor))
        values = [weights[n] for n in self.names]
        arrays = [v for v in leaves if isinstance(v, Tensor)]
        key = (training, form, *(_key(v) for v in leaves), *(tuple(v.shape) for v in values))
        if key not in self._known:
            self._known[key] = self._traced(values, leaves, form, training)
        jaxpr, shape = self._known[key]
        floats = [v for v in [*values, *arrays] if v.is_floating_point() or v.is_complex()]
        it = Interpreter(wide=any(v.dtype in (torch.float64, torch.complex128) for v in floats))
        inputs = [_fitted(it, v, aval) for v, aval in zip([*values, *arrays], jaxpr.in_avals, strict=True)]
        outs = it.closed(jaxpr, inputs)
        outs = [it.tensor(o, aval) for o, aval in zip(outs, jaxpr.out_avals, strict=True)]
        return jax.tree_util.tree_unflatten(shape, outs)

    def _traced(self, values: list[Tensor], leaves: list[Any], form: Any, training: bool) -> tuple[Any, Any]:
        specs = [jax.ShapeDtypeStruct(tuple(v.shape), d) for v, d in zip(values, self.dtypes, strict=True)]
        inputs = [jax.ShapeDtypeStruct(tuple(v.shape), _dtype(v)) for v in leaves if isinstance(v, Tensor)]

        def call(own: list[Any], arrays: list[Any]) -> Any:
            given = iter(arrays)
            args, kwargs = jax.tree_util.tree_unflatten(
                form, [next(given) if isinstance(v, Tensor) else v for v in leaves]
            )
            return self.function(own, args, kwargs, training)

        try:
            jaxpr, shapes = jax.make_jaxpr(call, return_shape=True)(specs, inputs)
        except jax.errors.ConcretizationTypeError as error:
            raise CannotTrace(
                f"{self.name} decides in Python on values that JAX does not know while it traces ({str(error).splitlines()[0]}); "
                "jax.jit refuses it too: use lax.cond, or write its wiring as a spec"
            ) from error
        return jaxpr, jax.tree_util.tree_structure(shapes)

    def reference(self, weights: Arrays, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[NDArray[Any]]:
        values = [jax.numpy.asarray(weights[n], d) for n, d in zip(self.names, self.dtypes, strict=True)]
        args, kwargs = jax.tree_util.tree_map(_as_jax, (args, dict(kwargs)), is_leaf=lambda v: hasattr(v, "__array__"))
        static = {k: v for k, v in kwargs.items() if not hasattr(v, "dtype")}
        dynamic = {k: v for k, v in kwargs.items() if k not in static}
        result = jax.jit(lambda own, given: self.function(own, args, {**static, **given}, False))(values, dynamic)
        return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(result)]


def _as_jax(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _as_jax(array_of(value)).astype(str(value.dtype)[6:]) if value.ndim else value.item()
    return jax.numpy.asarray(np.asarray(value)) if hasattr(value, "__array__") and np.ndim(value) > 0 else value


def _key(value: Any) -> Any:
    return (tuple(value.shape), str(value.dtype)) if isinstance(value, Tensor) else (type(value), value)


def _dtype(value: Tensor) -> Any:
    name = str(value.dtype).removeprefix("torch.")
    return (
        np.dtype(name if jax.config.jax_enable_x64 else _NARROW.get(name, name))
        if name != "bfloat16"
        else jax.numpy.bfloat16
    )


def _fitted(it: Interpreter, value: Tensor, aval: Any) -> Tensor:
    dtype = it.dtype(aval.dtype)
    if value.dtype == dtype or (value.is_floating_point() and dtype.is_floating_point):
        return value  # in_double widens what is narrow itself
    return value.to(dtype)

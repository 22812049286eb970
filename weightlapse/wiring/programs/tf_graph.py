"""What a TensorFlow function computes: its graph for the shapes that it meets, run operator by operator with torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightlapse.errors import CannotTrace
from weightlapse.wiring.programs.program import Arrays, Graph, array_of, tensor_of

Value = Any  # a tensor, or a list of tensors (a TensorList)
Operator = Callable[["GraphRunner", Any, list[Value]], Any]
OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    def add(function: Operator) -> Operator:
        for name in names:
            OPERATORS[name] = function
        return function

    return add


class TensorFlowGraph(Graph):
    """``function(values, args, kwargs, training)`` with the values in the order of ``names``; ``dtypes`` are those at home."""

    __slots__ = ("_known", "function", "prepare")

    def __init__(self, name: str, function: Any, names: Sequence[str], dtypes: Sequence[str], prepare: Any) -> None:
        super().__init__(name, names, dtypes)
        self.function, self.prepare = function, prepare
        self._known: dict[Any, Any] = {}

    def arguments(self, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.prepare(example)  # type: ignore[no-any-return]

    def run(
        self, weights: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool = False
    ) -> Any:
        values = [weights[n] for n in self.names]
        leaves = tf.nest.flatten((args, dict(kwargs)))
        arrays = [v for v in leaves if isinstance(v, Tensor)]
        shapes = [tuple(v.shape) for v in values]
        key = (training, str(tf.nest.map_structure(_described, (args, dict(kwargs)))), *shapes)
        if key not in self._known:
            self._known[key] = self._traced(shapes, args, kwargs, leaves, training)
        concrete = self._known[key]
        floats = [v for v in [*values, *arrays] if v.is_floating_point() or v.is_complex()]
        runner = GraphRunner(wide=any(v.dtype == torch.float64 for v in floats))
        captured = [runner.captured(t) for t in concrete.captured_inputs]
        inputs = [runner.fitted(v, p.dtype) for v, p in zip([*values, *arrays], concrete.graph.inputs)]
        outs = runner.run(concrete.graph, [*inputs, *captured])
        return tf.nest.pack_sequence_as(concrete.structured_outputs, outs)

    def _traced(
        self, shapes: Sequence[tuple[int, ...]], args: Any, kwargs: Any, leaves: list[Any], training: bool
    ) -> Any:
        own = [tf.TensorSpec(s, d) for s, d in zip(shapes, self.dtypes, strict=True)]
        given = [tf.TensorSpec(tuple(v.shape), _narrow(v.dtype)) for v in leaves if isinstance(v, Tensor)]

        def call(values: list[Any], arrays: list[Any]) -> Any:
            arrived = iter(arrays)
            filled = [next(arrived) if isinstance(v, Tensor) else v for v in leaves]
            mine, named = tf.nest.pack_sequence_as((args, dict(kwargs)), filled)
            return self.function(values, mine, named, training)

        return tf.function(call, autograph=False).get_concrete_function(own, given)

    def reference(self, weights: Arrays, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[NDArray[Any]]:
        values = [tf.constant(weights[n], d) for n, d in zip(self.names, self.dtypes, strict=True)]
        args, kwargs = tf.nest.map_structure(_as_tf, (args, dict(kwargs)))
        return [np.asarray(t) for t in tf.nest.flatten(self.function(values, args, kwargs, False))]


def _as_tf(value: Any) -> Any:
    if not hasattr(value, "__array__") or np.ndim(value) == 0:
        return value
    array = array_of(value) if isinstance(value, Tensor) else np.asarray(value)
    return tf.constant(array.astype(np.float32) if array.dtype == np.float64 else array)


def _described(value: Any) -> Any:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else repr(value)


def _narrow(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    return "float32" if name == "float64" else name


class GraphRunner:
    """Runs graphs. ``wide``: floating-point numbers are computed in double precision; whole numbers are 64 bits wide."""

    def __init__(self, wide: bool) -> None:
        self.wide = wide

    def dtype(self, dtype: Any) -> torch.dtype:
        name = dtype.name.removesuffix("_ref")
        if name.startswith(("int", "uint")):
            return torch.int64
        found = getattr(torch, name, None)
        if not isinstance(found, torch.dtype):
            raise CannotTrace(f"the graph computes with values of type {name}, which its trace cannot follow")
        return torch.float64 if self.wide and found.is_floating_point else found

    def constant(self, array: Any) -> Tensor:
        array = np.asarray(array)
        if array.dtype.kind in "OSU":
            raise CannotTrace("the graph computes with texts, which its trace cannot follow")
        if array.dtype.kind in "ui":
            array = array.astype(np.int64)
        value = tensor_of(array)
        return value.double() if self.wide and value.is_floating_point() else value

    def captured(self, value: Any) -> Any:
        """What the function closes over: a constant, or a variable that is no weight (seeds, counters)."""
        if value.dtype == tf.resource:
            return value
        return self.constant(value.numpy())

    def fitted(self, value: Tensor, dtype: Any) -> Tensor:
        """An input of a graph in the kind of number that it takes; floats stay as wide as they are, unless it computes in 16 bits."""
        wanted = self.dtype(dtype)
        both = value.is_floating_point() and wanted.is_floating_point and wanted.itemsize > 2
        return value if both or value.dtype == wanted else value.to(wanted)

    def run(self, graph: Any, args: Sequence[Value]) -> list[Value]:
        """The results of a function's graph."""
        env: dict[str, Value] = {t.name: a for t, a in zip(graph.inputs, args, strict=True)}
        for op in _needed(graph):
            if op.type == "Placeholder" and op.outputs[0].name in env:
                continue
            found = self.step(op, [env[t.name] for t in op.inputs])
            outs = found if isinstance(found, tuple) else (found,)
            env.update((t.name, o) for t, o in zip(op.outputs, outs, strict=False))
        return [env[t.name] for t in graph.outputs]

    def step(self, op: Any, args: list[Value]) -> Any:
        function = OPERATORS.get(op.type)
        if function is None:
            raise CannotTrace(
                f"the graph calls {op.type!r} (in {op.name}), for which there is no translation; write its wiring as a spec (Wiring.from_spec)"
            )
        return function(self, op, args)

    def function_of(self, op: Any, name: str) -> Any:
        """The graph of a function that an operator calls, by the name of its attribute."""
        return self.graph_named(op, op.get_attr(name).name)

    def graph_named(self, op: Any, name: str) -> Any:
        graph = op.graph
        while graph is not None:
            function = graph._functions.get(name) if hasattr(graph, "_functions") else None
            if function is not None:
                return function.graph
            graph = getattr(graph, "outer_graph", None)
        raise CannotTrace(f"the graph calls the function {name!r}, which it does not hold")


def _needed(graph: Any) -> list[Any]:
    """The operators that reach a result, in the order in which they were made."""
    wanted = {t.name for t in graph.outputs}
    kept = []
    for op in reversed(graph.get_operations()):
        if any(t.name in wanted for t in op.outputs):
            kept.append(op)
            wanted.update(t.name for t in op.inputs)
    return kept[::-1]


# ---- calls, loops, branches


@operator("PartitionedCall", "StatefulPartitionedCall", "RemoteCall")
def _call(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return tuple(run.run(run.function_of(op, "f"), args))


@operator("While", "StatelessWhile")
def _while(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    test, body = run.function_of(op, "cond"), run.function_of(op, "body")
    while bool(run.run(test, args)[0]):
        args = run.run(body, args)
    return tuple(args)


@operator("If", "StatelessIf")
def _if(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return tuple(run.run(run.function_of(op, "then_branch" if bool(args[0]) else "else_branch"), args[1:]))


@operator("Case", "StatelessCase")
def _case(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    branches = [run.graph_named(op, f.name) for f in op.get_attr("branches")]
    which = int(args[0])
    return tuple(run.run(branches[which if 0 <= which < len(branches) else -1], args[1:]))


# ---- lists of tensors, which loops are made of


@operator("TensorListReserve", "EmptyTensorList")
def _reserve(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return [None] * (int(args[1]) if op.type == "TensorListReserve" else 0)


@operator("TensorListFromTensor")
def _from_tensor(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return [args[0].select(0, i) for i in range(args[0].shape[0])]


@operator("TensorListGetItem")
def _get_item(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    found = args[0][int(args[1])]
    if found is None:
        return torch.zeros([int(n) for n in args[2]], dtype=run.dtype(op.outputs[0].dtype))
    return found


@operator("TensorListSetItem")
def _set_item(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    items = list(args[0])
    at = int(args[1])
    items += [None] * (at + 1 - len(items))
    items[at] = args[2]
    return items


@operator("TensorListStack")
def _stack_list(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    known = next((t for t in args[0] if t is not None), None)
    if known is None:
        raise CannotTrace("the graph stacks a list that nothing was put into")
    return torch.stack([torch.zeros_like(known) if t is None else t for t in args[0]])


@operator("TensorListPushBack")
def _push(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return [*args[0], args[1]]


@operator("TensorListLength")
def _list_length(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.tensor(len(args[0]))

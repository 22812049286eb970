"""TensorFlow operators that work element by element, and those that make constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import torch
from torch import Tensor
from torch.nn import functional

from weightlapse.errors import CannotTrace
from weightlapse.wiring.programs.tf_graph import OPERATORS, GraphRunner, Value, operator

_PLAIN: dict[str, Callable[..., Tensor]] = {
    "Neg": torch.neg, "Abs": torch.abs, "Sign": torch.sign, "Square": torch.square, "Sqrt": torch.sqrt, "Rsqrt": torch.rsqrt, "Exp": torch.exp,
    "Expm1": torch.expm1, "Log": torch.log, "Log1p": torch.log1p, "Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "Relu": torch.relu,
    "Relu6": functional.relu6, "Elu": functional.elu, "Selu": functional.selu, "Softplus": functional.softplus, "Softsign": functional.softsign,
    "Erf": torch.erf, "Erfc": torch.erfc, "Erfinv": torch.erfinv, "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin,
    "Acos": torch.acos, "Atan": torch.atan, "Sinh": torch.sinh, "Cosh": torch.cosh, "Asinh": torch.asinh, "Acosh": torch.acosh,
    "Atanh": torch.atanh, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round, "Rint": torch.round, "Reciprocal": torch.reciprocal,
    "Inv": torch.reciprocal, "Lgamma": torch.lgamma, "Digamma": torch.digamma, "IsFinite": torch.isfinite, "IsNan": torch.isnan,
    "IsInf": torch.isinf, "LogicalNot": torch.logical_not, "Add": torch.add, "AddV2": torch.add, "Sub": torch.sub, "Mul": torch.mul,
    "Maximum": torch.maximum, "Minimum": torch.minimum, "Pow": torch.pow, "Atan2": torch.atan2, "LogicalAnd": torch.logical_and,
    "LogicalOr": torch.logical_or, "Equal": torch.eq, "NotEqual": torch.ne, "Less": torch.lt, "LessEqual": torch.le, "Greater": torch.gt,
    "GreaterEqual": torch.ge, "Real": torch.real, "Imag": torch.imag, "Conj": torch.conj_physical, "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or, "ZerosLike": torch.zeros_like, "OnesLike": torch.ones_like,
}  # fmt: skip
OPERATORS.update({name: lambda run, op, args, f=function: f(*args) for name, function in _PLAIN.items()})  # type: ignore[misc]


@operator(
    "Identity", "StopGradient", "PreventGradient", "EnsureShape", "Snapshot", "CheckNumerics", "PlaceholderWithDefault"
)
def _identity(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return args[0]


@operator("IdentityN")
def _identities(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return tuple(args)


@operator("Const")
def _const(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return run.constant(tf.make_ndarray(op.get_attr("value")))


@operator("ReadVariableOp")
def _read(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    """A variable that is no floating-point weight (a counter, a seed): its present value."""
    value = tf.raw_ops.ReadVariableOp(resource=args[0], dtype=op.get_attr("dtype"))
    return run.constant(value.numpy())


@operator("Cast")
def _cast(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    new = run.dtype(op.outputs[0].dtype)
    x: Tensor = args[0]
    return x if x.dtype == new else x.to(new)


@operator("AddN")
def _add_n(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    total = args[0]
    for x in args[1:]:
        total = total + x
    return total


@operator("RealDiv", "Div", "TruncateDiv", "FloorDiv", "DivNoNan", "Xdivy")
def _div(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    x, y = args
    if op.type == "FloorDiv":
        return torch.div(x, y, rounding_mode="floor")
    if op.type == "TruncateDiv" or not (x.is_floating_point() or x.is_complex()):
        return torch.div(x, y, rounding_mode="trunc")
    if op.type == "DivNoNan":
        return torch.where(y == 0, torch.zeros_like(y), x / torch.where(y == 0, torch.ones_like(y), y))
    return x / y


@operator("FloorMod", "Mod")
def _mod(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.remainder(*args) if op.type == "FloorMod" else torch.fmod(*args)


@operator("SquaredDifference")
def _squared_difference(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.square(args[0] - args[1])


@operator("LeakyRelu")
def _leaky(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return functional.leaky_relu(args[0], op.get_attr("alpha"))


@operator("ClipByValue")
def _clip(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.minimum(torch.maximum(args[0], args[1]), args[2])


@operator("Select", "SelectV2")
def _select(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    test, x, y = args
    if op.type == "Select" and test.ndim == 1 and x.ndim > 1:
        test = test.reshape([-1] + [1] * (x.ndim - 1))
    return torch.where(test, x, y)


@operator("Fill")
def _fill(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.full([int(n) for n in args[0]], args[1].item(), dtype=args[1].dtype)


@operator("Range")
def _range(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.arange(args[0].item(), args[1].item(), args[2].item(), dtype=run.dtype(op.outputs[0].dtype))


@operator("LinSpace")
def _linspace(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    return torch.linspace(args[0].item(), args[1].item(), int(args[2]), dtype=run.dtype(op.outputs[0].dtype))


@operator("OneHot")
def _one_hot(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    index, depth, on, off = args
    axis = op.get_attr("axis")
    hot = index.unsqueeze(axis if axis >= 0 else index.ndim) == torch.arange(int(depth)).reshape(
        [-1 if a == (axis if axis >= 0 else index.ndim) else 1 for a in range(index.ndim + 1)]
    )
    return torch.where(hot, on, off)


@operator("RandomUniform", "RandomStandardNormal", "StatelessRandomUniformV2", "StatelessRandomUniform", "StatelessRandomNormalV2",
          "StatelessRandomUniformFullIntV2", "StatelessRandomGetKeyCounter", "Multinomial", "StatelessTruncatedNormalV2")  # fmt: skip
def _random(run: GraphRunner, op: Any, args: list[Value]) -> Any:
    raise CannotTrace(
        f"the network draws random numbers although it is not training ({op.name}), so no two runs of it can be compared; "
        "write its wiring as a spec (Wiring.from_spec)"
    )

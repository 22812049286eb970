"""JAX primitives that work element by element."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from weightlapse.wiring.programs.jaxpr import PRIMITIVES, Interpreter, Value, primitive

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "neg": torch.neg, "sign": torch.sign, "floor": torch.floor, "ceil": torch.ceil, "exp": torch.exp, "exp2": torch.exp2, "log": torch.log,
    "log1p": torch.log1p, "expm1": torch.expm1, "tanh": torch.tanh, "sin": torch.sin, "cos": torch.cos, "tan": torch.tan, "asin": torch.asin,
    "acos": torch.acos, "atan": torch.atan, "sinh": torch.sinh, "cosh": torch.cosh, "asinh": torch.asinh, "acosh": torch.acosh,
    "atanh": torch.atanh, "logistic": torch.sigmoid, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "abs": torch.abs, "is_finite": torch.isfinite,
    "erf": torch.erf, "erfc": torch.erfc, "erf_inv": torch.erfinv, "lgamma": torch.lgamma, "digamma": torch.digamma, "square": torch.square,
    "real": torch.real, "imag": torch.imag, "conj": torch.conj_physical, "bessel_i0e": torch.special.i0e, "bessel_i1e": torch.special.i1e,
}  # fmt: skip
_SAME = ("copy", "copy_p", "reduce_precision", "optimization_barrier", "name", "sharding_constraint", "stop_gradient", "pvary", "mesh_cast",
         "copy_to_host_async", "layout_constraint")  # fmt: skip
_COMPARED = {"eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge}


def _whole(v: Value) -> bool:
    return not (v.is_floating_point() or v.is_complex()) if isinstance(v, Tensor) else not isinstance(v, float)


def _unary(function: Callable[[Tensor], Tensor]) -> Any:
    def run(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
        return function(it.tensor(args[0], eqn.invars[0].aval))

    return run


PRIMITIVES.update({name: _unary(function) for name, function in _UNARY.items()})
PRIMITIVES.update({name: lambda it, params, args, eqn: args for name in _SAME})


def _first_tensor(it: Interpreter, args: list[Value], eqn: Any) -> list[Value]:
    """Operands of which at least one is a tensor."""
    if not any(isinstance(a, Tensor) for a in args):
        return [it.tensor(args[0], eqn.invars[0].aval), *args[1:]]
    return args


@primitive("add", "add_any")
def _add(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    x, y = _first_tensor(it, args, eqn)
    return x + y  # type: ignore[no-any-return]


@primitive("sub")
def _sub(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    x, y = _first_tensor(it, args, eqn)
    return x - y  # type: ignore[no-any-return]


@primitive("mul")
def _mul(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    x, y = _first_tensor(it, args, eqn)
    return x * y  # type: ignore[no-any-return]


@primitive("div")
def _div(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    x, y = _first_tensor(it, args, eqn)
    if _whole(x) and _whole(y):
        return torch.div(it.tensor(x, eqn.invars[0].aval), y, rounding_mode="trunc")
    if (mean := it.mean(x, y)) is not None:
        return mean
    return x / y  # type: ignore[no-any-return]


@primitive("rem")
def _rem(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    return torch.fmod(it.tensor(args[0], eqn.invars[0].aval), args[1])


@primitive("pow")
def _pow(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    x, y = _first_tensor(it, args, eqn)
    return torch.pow(x, y)


@primitive("integer_pow")
def _integer_pow(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    return torch.pow(it.tensor(args[0], eqn.invars[0].aval), params["y"])


@primitive("cbrt")
def _cbrt(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    return torch.sign(args[0]) * torch.pow(torch.abs(args[0]), 1 / 3)


@primitive("atan2")
def _atan2(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    return torch.atan2(*(it.tensor(a, v.aval) for a, v in zip(args, eqn.invars, strict=True)))


@primitive("max")
def _max(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    return _extreme(it, args, eqn, torch.maximum, torch.clamp_min)


@primitive("min")
def _min(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    return _extreme(it, args, eqn, torch.minimum, torch.clamp_max)


def _extreme(it: Interpreter, args: list[Value], eqn: Any, both: Any, number: Any) -> Tensor:
    x, y = args
    if isinstance(x, Tensor) != isinstance(y, Tensor):
        found: Tensor = number(*((x, y) if isinstance(x, Tensor) else (y, x)))
        return found
    found = both(*(it.tensor(a, v.aval) for a, v in zip(args, eqn.invars, strict=True)))
    return found


@primitive("clamp")
def _clamp(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    low, x, high = args
    x = it.tensor(x, eqn.invars[1].aval)
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return torch.clamp(x, low, high)
    return torch.clamp(x, it.tensor(low, eqn.invars[0].aval), it.tensor(high, eqn.invars[2].aval))


@primitive("convert_element_type")
def _convert(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    x = it.tensor(args[0], eqn.invars[0].aval)
    new = it.dtype(params["new_dtype"])
    return x if x.dtype == new else x.to(new)


@primitive("round")
def _round(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    if int(params["rounding_method"]) == 1:  # to the nearest even
        return torch.round(args[0])
    return torch.sign(args[0]) * torch.floor(torch.abs(args[0]) + 0.5)


@primitive(*_COMPARED)
def _compared(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    x, y = args
    return _COMPARED[eqn.primitive.name](it.tensor(x, eqn.invars[0].aval), y)


@primitive("and", "or", "xor")
def _logical(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    x, y = (it.tensor(a, v.aval) for a, v in zip(args, eqn.invars, strict=True))
    return {"and": torch.bitwise_and, "or": torch.bitwise_or, "xor": torch.bitwise_xor}[eqn.primitive.name](x, y)


@primitive("not")
def _not(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    return torch.bitwise_not(args[0])


@primitive("select_n")
def _select(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Value:
    which, *cases = args
    if not isinstance(which, Tensor):
        return cases[int(which)]
    values = [it.tensor(c, v.aval) for c, v in zip(cases, eqn.invars[1:], strict=True)]
    if which.dtype == torch.bool:
        return torch.where(which, values[1], values[0])
    found = values[0]
    for i, value in enumerate(values[1:], 1):
        found = torch.where(which == i, value, found)
    return found


@primitive("complex")
def _complex(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Tensor:
    return torch.complex(*(it.tensor(a, v.aval) for a, v in zip(args, eqn.invars, strict=True)))

"""Runs a jaxpr, operator by operator, with torch: loops are unrolled, branches taken, calls entered.

Every floating-point type of the program becomes double precision when a weight or an input is in double precision: a cast inside the program
(Keras and Flax make many) would round there. Whole numbers are 64 bits wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightlapse.errors import CannotTrace

Value = Any  # a tensor, or a Python number for a literal of the program
Primitive = Callable[["Interpreter", Mapping[str, Any], list[Value], Any], Any]
PRIMITIVES: dict[str, Primitive] = {}

_TYPES = {
    "bool": torch.bool,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
}


def primitive(*names: str) -> Callable[[Primitive], Primitive]:
    def add(function: Primitive) -> Primitive:
        for name in names:
            PRIMITIVES[name] = function
        return function

    return add


class Interpreter:
    """``wide``: floating-point numbers are computed in double precision."""

    def __init__(self, wide: bool) -> None:
        self.wide = wide
        self._sums: dict[
            int, tuple[Tensor, Tensor, list[int]]
        ] = {}  # a sum -> itself, what was summed, over which axes

    def summed(self, out: Tensor, x: Tensor, axes: list[int]) -> Tensor:
        """Remembers that ``out`` is a sum: divided by the number of its terms it is a mean, which JAX has no operator for."""
        self._sums[id(out)] = (out, x, axes)
        return out

    def reshaped(self, out: Tensor, source: Value) -> Tensor:
        """``out``, the sum that ``source`` is in another shape."""
        known = self._sums.get(id(source))
        return out if known is None or out.numel() != known[0].numel() else self.summed(out, known[1], known[2])

    def mean(self, total: Value, count: Value) -> Tensor | None:
        """The mean that a sum divided by ``count`` is; None where it is none."""
        known = self._sums.get(id(total))
        if known is None or isinstance(count, Tensor) or count != math.prod(known[1].shape[a] for a in known[2]):
            return None
        return known[1].mean(known[2]).reshape(total.shape)

    def dtype(self, dtype: Any) -> torch.dtype:
        name = str(np.dtype(dtype)) if not str(dtype).startswith("key<") else "key"
        if name.startswith(("int", "uint")):
            return torch.int64
        if name not in _TYPES:
            raise CannotTrace(f"the program computes with numbers of type {name}, which its trace cannot follow")
        found = _TYPES[name]
        if self.wide and found.is_floating_point:
            return torch.float64
        return torch.complex128 if self.wide and found.is_complex else found

    def constant(self, value: Any) -> Any:
        """An array of JAX as a tensor; random keys stay what they are."""
        if _is_key(value):
            return value
        array = np.asarray(value)
        if str(array.dtype) == "bfloat16":
            array = array.astype(np.float32)
        dtype = self.dtype(array.dtype)
        if array.dtype.kind in "ui":
            array = array.astype(np.int64)
        return torch.from_numpy(np.array(array)).to(dtype)

    def tensor(self, value: Value, aval: Any) -> Tensor:
        """A literal as a tensor; tensors as they are."""
        return value if isinstance(value, Tensor) else torch.full((), value, dtype=self.dtype(aval.dtype))

    def run(self, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value]) -> list[Value]:
        """The results of an open jaxpr."""
        env: dict[Any, Value] = {}
        env.update(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            if hasattr(atom, "val"):
                value = atom.val
                if (np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiub") or str(
                    atom.aval.dtype
                ) == "bfloat16":
                    return (
                        np.asarray(value).astype(np.float64).item()
                        if atom.aval.dtype.kind not in "iub"
                        else np.asarray(value).item()
                    )
                return self.constant(value)
            return env[atom]

        for eqn in _needed(jaxpr):
            given = [read(v) for v in eqn.invars]
            outs = self.step(eqn, given)
            if given and not any(
                isinstance(a, Tensor) or _is_key(a) for a in given
            ):  # numbers that the program works out itself stay numbers
                outs = [o.item() if isinstance(o, Tensor) and o.ndim == 0 else o for o in outs]
            env.update((v, o) for v, o in zip(eqn.outvars, outs, strict=True) if type(v).__name__ != "DropVar")
        return [read(v) for v in jaxpr.outvars]

    def closed(self, closed: Any, args: Sequence[Value]) -> list[Value]:
        """The results of a closed jaxpr."""
        return self.run(
            closed.jaxpr, [self.constant(c) if not isinstance(c, Tensor) else c for c in closed.consts], args
        )

    def step(self, eqn: Any, args: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        function = PRIMITIVES.get(name)
        if any(map(_is_key, args)) and (function is None or eqn.primitive.name in _KEYED):
            return self._at_random(eqn, args)
        if function is None:
            raise CannotTrace(
                f"the program calls {name!r}, for which there is no translation"
                + "; write its wiring as a spec (Wiring.from_spec)"
            )
        found = function(self, eqn.params, args, eqn)
        return list(found) if isinstance(found, (list, tuple)) else [found]

    def _at_random(self, eqn: Any, args: list[Value]) -> list[Value]:
        """What is drawn with a key that the program holds, drawn by JAX: it does not depend on the weights."""
        given = [
            np.asarray(a).astype(v.aval.dtype) if not _is_key(a) else a for a, v in zip(args, eqn.invars, strict=True)
        ]
        found = eqn.primitive.bind(*given, **eqn.params)
        return [self.constant(f) for f in (found if isinstance(found, (list, tuple)) else [found])]


_KEYED = frozenset({"slice", "squeeze", "reshape", "broadcast_in_dim", "concatenate", "gather", "dynamic_slice"})


def _is_key(value: Any) -> bool:
    return str(getattr(value, "dtype", "")).startswith("key<")


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that reach a result: what is computed for nothing (random keys, counters) is not run."""
    wanted = {v for v in jaxpr.outvars if not hasattr(v, "val")}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if any(v in wanted for v in eqn.outvars if type(v).__name__ != "DropVar"):
            kept.append(eqn)
            wanted.update(v for v in eqn.invars if not hasattr(v, "val"))
    return kept[::-1]


# ---- calls, loops, branches


@primitive("pjit", "jit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
           "custom_lin", "core_closed_call", "xla_call", "run_state", "composite")  # fmt: skip
def _call(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Any:
    inner = next(params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params)
    args = [
        it.tensor(a, v.aval) if not isinstance(a, Tensor) and eqn.primitive.name == "scan" else a
        for a, v in zip(args, eqn.invars)
    ]
    return it.closed(inner, args) if hasattr(inner, "consts") else it.run(inner, [], args)


@primitive("scan")
def _scan(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Any:
    args = [it.tensor(a, v.aval) for a, v in zip(args, eqn.invars, strict=True)]
    nc, nk, length = params["num_consts"], params["num_carry"], params["length"]
    consts, carry, xs = args[:nc], args[nc : nc + nk], args[nc + nk :]
    stacks: list[list[Tensor]] = [[] for _ in range(len(eqn.outvars) - nk)]
    order = range(length - 1, -1, -1) if params["reverse"] else range(length)
    avals = (
        params["jaxpr"].out_avals
        if hasattr(params["jaxpr"], "out_avals")
        else [v.aval for v in params["jaxpr"].jaxpr.outvars]
    )
    for i in order:
        out = it.closed(params["jaxpr"], [*consts, *carry, *(x.select(0, i) for x in xs)])
        out = [it.tensor(o, a) for o, a in zip(out, avals, strict=True)]
        carry = out[:nk]
        for stack, o in zip(stacks, out[nk:], strict=True):
            stack.append(o)
    if params["reverse"]:
        stacks = [s[::-1] for s in stacks]
    empty = [v.aval for v in eqn.outvars[nk:]]
    return [
        *carry,
        *(
            torch.stack(s) if s else torch.zeros(a.shape, dtype=it.dtype(a.dtype))
            for s, a in zip(stacks, empty, strict=True)
        ),
    ]


@primitive("while")
def _while(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Any:
    args = [it.tensor(a, v.aval) for a, v in zip(args, eqn.invars, strict=True)]
    cn, bn = params["cond_nconsts"], params["body_nconsts"]
    tests, consts, carry = args[:cn], args[cn : cn + bn], args[cn + bn :]
    avals = [v.aval for v in eqn.outvars]
    while bool(it.closed(params["cond_jaxpr"], [*tests, *carry])[0]):
        carry = [
            it.tensor(o, a) for o, a in zip(it.closed(params["body_jaxpr"], [*consts, *carry]), avals, strict=True)
        ]
    return carry


@primitive("cond")
def _cond(it: Interpreter, params: Mapping[str, Any], args: list[Value], eqn: Any) -> Any:
    branches = params["branches"]
    which = min(max(int(args[0]), 0), len(branches) - 1)
    return it.closed(branches[which], args[1:])

"""The cells of a growth applied to arrays: weights, gradients, moments. NumPy only.

The parts of a divided weight are rounded to the grid of the weight itself (whole multiples of its last bit), the last one
being the rest. They are all representable and sum to the weight *exactly*, in float16 as in float64: a grown network is
the same function, not one that is the same up to the rounding of its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotGrow
from weightlapse.growth.cells import AxisMap

# significant bits and the exponent of the smallest positive number
FORMATS = {"float64": (53, -1074), "float32": (24, -149), "float16": (11, -24), "bfloat16": (8, -133)}
Array = NDArray[Any]


def grown_value(name: str, value: Array, maps: Sequence[tuple[int, AxisMap]], *, dtype: str | None = None) -> Array:
    """``value`` with its axes laid out anew, consumers divided; ``dtype`` names the format when it is held in a wider one."""
    for axis, m in maps:
        value = _take(value, m.source, axis)
        if (m.part != 1).any():
            value = _divided(name, value, axis, m, dtype or value.dtype.name)
    return value


def grown_gradient(value: Array, maps: Sequence[tuple[int, AxisMap]], *, power: float = 1.0) -> Array:
    """What a gradient (``power`` 1), or a mean of its squares (2), of the old tensor is for the grown one."""
    for axis, m in maps:
        value = _take(value, m.source, axis)
        if power and (m.gradient != 1).any():
            value = (value * _along(m.gradient**power, axis, value.ndim)).astype(value.dtype)
    return value


def fresh_places(shape: tuple[int, ...], maps: Sequence[tuple[int, AxisMap]], axes: set[int]) -> NDArray[np.bool_]:
    """Which places of the grown tensor belong to a new unit on one of ``axes``."""
    places = np.zeros(shape, dtype=bool)
    for axis, m in maps:
        if axis in axes:
            places |= _along(m.fresh, axis, len(shape))
    return places


def _take(value: Array, source: NDArray[np.int64], axis: int) -> Array:
    return np.take(value, source, axis=axis)


def _along(values: NDArray[Any], axis: int, ndim: int) -> NDArray[Any]:
    return values.reshape([-1 if a == axis else 1 for a in range(ndim)])


def _divided(name: str, gathered: Array, axis: int, m: AxisMap, dtype: str) -> Array:
    if np.iscomplexobj(gathered):
        half = {"complex64": "float32", "complex128": "float64"}[gathered.dtype.name]
        real = _divided(name, np.ascontiguousarray(gathered.real), axis, m, half)
        return (real + 1j * _divided(name, np.ascontiguousarray(gathered.imag), axis, m, half)).astype(gathered.dtype)
    if dtype not in FORMATS:
        raise CannotGrow(f"{name} is a consumer of type {dtype}, which cannot be divided; widen before quantising")
    bits, smallest = FORMATS[dtype]
    moved = np.moveaxis(gathered, axis, 0)
    out = moved.astype(np.float64)
    last = np.zeros(len(m.source), dtype=bool)
    last[np.unique(m.source[::-1], return_index=True)[1]] = True
    last = last[::-1]  # the last replica of every source takes the rest
    shares = ~last & (m.part != 1)
    whole = out[shares]
    grid = np.ldexp(1.0, np.maximum(np.frexp(whole)[1] - bits, smallest))
    with np.errstate(invalid="ignore"):
        parts = np.rint(whole / grid * m.part[shares].reshape(-1, *[1] * (whole.ndim - 1))) * grid
        given = np.zeros((int(m.source.max()) + 1, *whole.shape[1:]))
        np.add.at(given, m.source[shares], parts)
        rest = out - given[m.source]
    finite = np.isfinite(out)
    out_parts = out.copy()
    out_parts[shares] = parts
    rests = last & (m.part != 1)
    out_parts[rests] = rest[rests]
    out = np.where(finite, out_parts, out)  # an infinite or NaN weight has no parts: every replica keeps it
    return np.moveaxis(out, 0, axis).astype(gathered.dtype)

"""What must hold of networks before anything is searched: values, one wiring, one shape, weights that are numbers. Errors name the tensor."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from weightlapse.errors import CannotAlign
from weightlapse.symmetry.states import (
    FloatArrays,
    as_array,
    float_arrays,
    kind_of,
    numbers,
)
from weightlapse.wiring.arrays import Numbers, has_nan, is_finite, is_tensor, shape_of
from weightlapse.wiring.data import Wiring


def check_values(state: Mapping[str, Any], which: str) -> None:
    """Raises CannotAlign for a tensor on the meta device: it has a shape, but no numbers."""
    for name, value in state.items():
        if getattr(getattr(value, "device", None), "type", "") == "meta":
            raise CannotAlign(
                f"{name!r} of the {which} network is on the meta device: it has a shape but no values, so there is nothing to align; "
                "pass its weights as a mapping (safetensors.torch.load_file reads them from disk piece by piece), "
                "and keep the meta module for wl.trace"
            )


def check_wiring_fits(state: Mapping[str, Any], w: Wiring) -> None:
    """Raises CannotAlign when the wiring was found for other tensors or shapes."""
    for g in w.groups:
        for m in g.members:
            if m.tensor not in state:
                if m.roles == {"stat"}:
                    continue
                raise CannotAlign(
                    f"group {g.name!r} lives in {m.tensor!r}, which the networks do not have; trace these networks"
                )
            found, expected = shape_of(state, m.tensor), w.shapes.get(m.tensor)
            if expected is not None and found != tuple(expected):
                raise CannotAlign(
                    f"{m.tensor!r} has shape {found}, but the wiring was found for {tuple(expected)}; trace this network"
                )


def check_same_shapes(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raises CannotAlign naming the tensors that only one state has or whose shapes differ."""
    only_a, only_b = [n for n in a if n not in b], [n for n in b if n not in a]
    if only_a or only_b:
        side, names = ("first", only_a) if only_a else ("second", only_b)
        raise CannotAlign(
            f"the two networks have different tensors: {_some(names)} only in the {side}; "
            "alignment needs the same layers in both (wl.compare judges them by their outputs alone)"
        )
    for n in a:
        if shape_of(a, n) != shape_of(b, n):
            raise CannotAlign(
                f"{n!r} has shape {shape_of(a, n)} in the first network and {shape_of(b, n)} in the second"
            )


def check_alike(states: Sequence[Mapping[str, Any]], w: Wiring) -> None:
    """Raises CannotAlign where states differ from the first in tensors or shapes, or the wiring does not fit them."""
    for s in states:
        check_same_shapes(states[0], s)
    check_wiring_fits(states[0], w)


def _some(names: list[str]) -> str:
    return ", ".join(repr(n) for n in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_finite(name: str, values: Numbers, which: str) -> None:
    """Raises CannotAlign, naming the tensor, when it holds NaN or Inf."""
    if is_finite(values):
        return
    values = as_array(values)
    bad = ~np.isfinite(values)
    kind = "NaN" if np.isnan(values).any() else "Inf"
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    raise CannotAlign(
        f"{name!r} of the {which} network holds {kind} ({int(bad.sum())} of {values.size} values, the first at {list(where)}), "
        "so it has no distance to any other and its outputs say nothing; look at an earlier step of its training"
    )


def check_weights(state: Mapping[str, Any], names: Container[str], which: str) -> None:
    """Raises CannotAlign, naming the tensor, when a weight (one of ``names``) of a network is NaN or Inf.

    Buffers may hold infinities (masks do), but not NaN: what a network with such a buffer puts out says nothing.
    """
    for name in state:
        if kind_of(state[name]):
            value = state[name]
            values = numbers(value, value.device if is_tensor(value) and value.device.type != "cpu" else None)
            if name in names or has_nan(values):
                check_finite(name, values, which)


def wired_arrays(
    state_a: Mapping[str, Any], state_b: Mapping[str, Any], w: Wiring, device: Any = None
) -> tuple[FloatArrays, FloatArrays]:
    """The tensors that units live in, both networks in one precision."""
    names = dict.fromkeys(m.tensor for g in w.groups for m in g.members if m.roles != {"stat"})
    a, b = float_arrays(state_a, names, device), float_arrays(state_b, names, device)
    mixed = set()
    for n in a:
        for arrays, which in ((a, "first"), (b, "second")):
            check_finite(n, arrays[n], which)
        if a[n].dtype != b[n].dtype:
            mixed.add(n)
    a.double = b.double = frozenset(mixed)
    return a, b

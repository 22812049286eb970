"""Moves and rescales units: the same function, other weights. Works on mappings of NumPy arrays or of torch tensors.

No framework is imported: gathering by an index array and multiplying are written the same way in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weightlapse.errors import InvalidArgument, UnknownTensor, closest
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member

State = dict[str, Any]  # name -> ndarray or tensor


def permute_state(state: Mapping[str, Any], wiring: Wiring, group: str, perm: ArrayLike) -> State:
    """A new state in which unit u of ``group`` is the old unit ``perm[u]``; untouched values are shared, none is changed.

    ``perm`` holds each of 0 .. size-1 once. Groups nested in the units travel along. Raises InvalidArgument for another
    ``perm`` or wrong shapes, UnknownTensor for an unknown group or a state without one of the group's tensors.
    """
    g = wiring.group(group)
    order = checked_order(g, perm)
    out = dict(state)
    for m in g.members:
        for name in names_in(out, wiring, g, m):
            check_shape(out[name].shape, wiring, name, m)
            positions = np.arange(out[name].shape[m.axis])
            positions[m.index] = m.index[order]
            out[name] = gathered(out[name], m, positions)
    return out


def scale_state(
    state: Mapping[str, Any], wiring: Wiring, group: str, factors: ArrayLike, *, exponents: Sequence[int] | None = None
) -> State:
    """A new state in which unit u's values are multiplied by ``factors[u] ** exponent`` of each member.

    The function stays the same when the group has the symmetries that ``factors`` need: "sign" for negative ones, "scale"
    for sizes other than 1 (InvalidArgument otherwise). ``exponents`` chooses one of ``group.gauges`` instead; then the
    symmetries are not checked.
    """
    g = wiring.group(group)
    f = checked_factors(g, factors, own=exponents is None)
    exponents = g.exponents if exponents is None else exponents
    out = dict(state)
    for m, e in zip(g.members, exponents, strict=True):
        if e == 0:
            continue
        for name in names_in(out, wiring, g, m):
            check_shape(out[name].shape, wiring, name, m)
            out[name] = multiplied(out[name], m, f**e)
    return out


def checked_factors(g: Group, factors: ArrayLike, *, own: bool = True) -> NDArray[np.float64]:
    """``factors`` as an array; InvalidArgument when they are no rescaling of the group (with ``own``: one of its symmetries)."""
    f = np.asarray(factors, dtype=np.float64)
    if f.shape != (g.size,) or not np.isfinite(f).all() or (f == 0).any():
        raise InvalidArgument(
            f"group {g.name!r} needs {g.size} finite factors other than zero, got an array of shape {f.shape}"
        )
    if own and (f < 0).any() and "sign" not in g.symmetries:
        raise InvalidArgument(f"group {g.name!r} has no sign symmetry: flipping a unit would change the function")
    if own and (np.abs(f) != 1).any() and "scale" not in g.symmetries:
        raise InvalidArgument(f"group {g.name!r} has no scale symmetry: rescaling a unit would change the function")
    return f


def checked_order(g: Group, perm: ArrayLike) -> NDArray[np.int64]:
    order = np.asarray(perm)
    if order.shape != (g.size,) or not np.array_equal(np.sort(order), np.arange(g.size)):
        raise InvalidArgument(
            f"a permutation of group {g.name!r} must hold each of 0 to {g.size - 1} once, got shape {order.shape}"
        )
    return order.astype(np.int64)


def names_in(state: Mapping[str, Any], wiring: Wiring, g: Group, m: Member) -> list[str]:
    names = [n for n in wiring.names_of(m.tensor) if n in state]
    # Running statistics are buffers: a state of weights alone may well be without them.
    if not names and "stat" not in m.roles:
        raise UnknownTensor(
            f"the state has no {m.tensor!r}, where group {g.name!r} lives ({closest(m.tensor, state)}); "
            "without it the units would be moved only in part and the function would change"
        )
    return names


def check_shape(shape: Sequence[int], wiring: Wiring, name: str, m: Member) -> None:
    expected = wiring.shapes.get(m.tensor)
    if expected is not None and tuple(shape) != tuple(expected):
        raise InvalidArgument(
            f"{name!r} has shape {tuple(shape)}, but the wiring was found for {tuple(expected)}; trace this network"
        )


def gathered(value: Any, m: Member, positions: NDArray[np.int64]) -> Any:
    if m.where is None:
        return value[(slice(None),) * m.axis + (positions,)]
    other, slab = m.where
    source: list[Any] = [slice(None)] * len(value.shape)
    target = list(source)
    source[other] = target[other] = slab[:, None]
    source[m.axis], target[m.axis] = positions[None, :], np.arange(len(positions))[None, :]
    out = value.clone() if hasattr(value, "clone") else np.array(value)
    out[tuple(target)] = value[tuple(source)]
    return out


def multiplied(value: Any, m: Member, factors: NDArray[np.float64]) -> Any:
    table = np.ones([n if a == m.axis or (m.where and a == m.where[0]) else 1 for a, n in enumerate(value.shape)])
    along = np.ones(value.shape[m.axis])
    along[m.index] = factors[:, None]
    if m.where is None:
        table *= along.reshape([-1 if a == m.axis else 1 for a in range(len(value.shape))])
    else:
        other, slab = m.where
        spot: list[Any] = [slice(None)] * len(value.shape)
        spot[other] = slab
        shape = [1] * len(value.shape)
        shape[m.axis] = -1
        table[tuple(spot)] = along.reshape(shape)
    if hasattr(value, "new_tensor"):
        return value * value.new_tensor(table)
    return value * table.astype(value.dtype)

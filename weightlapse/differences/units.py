"""The changes unit by unit, through the wiring: which units changed, and whether units were only reordered or rescaled all over the network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from weightlapse.differences.reordering import gives
from weightlapse.differences.result import TensorDiff, UnitsDiff, plural
from weightlapse.differences.tensor import Tensor
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member

CLOSE = 1e-5  # relative: factors are read off rounded numbers
Pairs = Mapping[str, tuple[Tensor, Tensor]]  # tensors of the wiring, by its names


def unit_diffs(wiring: Wiring, pairs: Pairs, found: dict[str, TensorDiff]) -> tuple[dict[str, UnitsDiff], list[str]]:
    """What happened to each group's units, and notes on what is not consistent. Names the tensors in ``found`` that only moved with units."""
    orders = {g.name: order for g in wiring.groups if (order := _order(g, found)) is not None}
    notes = _settle(wiring, pairs, found, orders)
    out = {}
    for g in wiring.groups:
        if g.parent is None or g.name in orders:
            out[g.name] = _group(g, pairs, found, orders.get(g.name))
    return {name: u for name, u in out.items() if u is not None}, notes


def _order(g: Group, found: Mapping[str, TensorDiff]) -> NDArray[np.int64] | None:
    """The unit of A that each unit of B was, as the member that tells it apart best says."""
    for m in sorted(g.members, key=lambda m: found[m.tensor].shape[::-1] if m.tensor in found else (), reverse=True):
        t = found.get(m.tensor)
        if t is None or t.order is None or len(t.order) <= m.axis or m.where is not None:
            continue
        unit_at = np.full(t.shape[m.axis], -1)
        unit_at[m.index[:, 0]] = np.arange(g.size)
        order = unit_at[t.order[m.axis][m.index[:, 0]]]
        if (np.sort(order) == np.arange(g.size)).all() and (order != np.arange(g.size)).any():
            return order.astype(np.int64)
    return None


def _settle(
    wiring: Wiring, pairs: Pairs, found: dict[str, TensorDiff], orders: dict[str, NDArray[np.int64]]
) -> list[str]:
    """Check every tensor in which units moved against all orders together; an order that some tensor contradicts becomes a note."""
    acting: dict[str, list[tuple[Group, Member]]] = {}
    for g in wiring.groups:
        for m in g.members if g.name in orders else ():
            if m.tensor in pairs:
                acting.setdefault(m.tensor, []).append((g, m))
    held = {name: _moves(*pairs[name], acts, orders) for name, acts in acting.items()}
    notes = []
    for g in wiring.groups:
        wrong = sorted({name for name, acts in acting.items() if held[name] is None and any(g is h for h, _ in acts)})
        if wrong:
            del orders[g.name]
            notes.append(
                f"units of {g.name} are in another order, but {', '.join(wrong[:3])} did not go along with that alone"
            )
    for name, axes in held.items():
        groups = list(dict.fromkeys(g.name for g, _ in acting[name]))
        t = found[name]
        if axes is not None and t.status != "identical" and all(group in orders for group in groups):
            t.kind, t.order = "units permuted", axes
            t.text = f"only a permutation: the units of {' and '.join(groups)} in another order"
    return notes


def _moves(
    a: Tensor, b: Tensor, acts: list[tuple[Group, Member]], orders: Mapping[str, NDArray[np.int64]]
) -> list[NDArray[np.int64]] | None:
    """For each axis the position in A of every position in B, as the units' orders say; None where B does not bear that out."""
    if a.shape != b.shape or not a.shape or any(m.where is not None for _, m in acts):
        return None
    axes = [np.arange(n) for n in a.shape]
    for g, m in acts:
        axes[m.axis][m.index] = m.index[orders[g.name]]
    return axes if gives(a, b, axes) else None


def _group(
    g: Group, pairs: Pairs, found: Mapping[str, TensorDiff], order: NDArray[np.int64] | None
) -> UnitsDiff | None:
    if order is not None:
        moved = np.flatnonzero(order != np.arange(g.size)).tolist()
        text = f"{len(moved)} of {plural(g.size, 'unit')} of {g.name} are in another order in every tensor: the same function"
        return UnitsDiff(g.name, g.size, moved, text, order, same_function=True)
    touched = np.zeros(g.size, bool)
    for m in g.members:
        counts = _counts(found.get(m.tensor), m)
        if counts is not None:
            touched |= counts[m.index].any(axis=1)
    changed = np.flatnonzero(touched).tolist()
    if not changed:
        return None
    factors = _rescaled(g, pairs, found)
    if factors is not None:
        moved = np.flatnonzero(np.abs(factors - 1) > CLOSE).tolist()
        if not moved:
            return None  # what changed along these units are the units across
        text = f"{len(moved)} of {plural(g.size, 'unit')} of {g.name} are rescaled, and that is undone after: the same function"
        return UnitsDiff(g.name, g.size, moved, text, same_function=True)
    which = "all" if len(changed) == g.size else f"{len(changed)} of"
    listed = (
        "" if len(changed) == g.size else f" ({', '.join(map(str, changed[:8]))}{', ...' if len(changed) > 8 else ''})"
    )
    return UnitsDiff(g.name, g.size, changed, f"{which} {plural(g.size, 'unit')} of {g.name} changed{listed}")


def _counts(t: TensorDiff | None, m: Member) -> NDArray[np.int64] | None:
    """How many values changed at each position of a member's axis."""
    if t is None or t.status != "changed" or t.kind == "units permuted" or m.where is not None:
        return None
    last = m.axis == len(t.shape) - 1
    if len(t.shape) == 1:
        return t.rows
    channels_last = t.rows is not None and len(t.rows) != t.shape[0]
    if m.axis == 0 and not channels_last:
        return t.rows
    if t.columns is None:
        return None
    if last and (channels_last or len(t.shape) == 2):
        return t.columns
    if not channels_last:
        rest = t.columns.reshape(t.shape[1:])
        return rest.sum(axis=tuple(i for i in range(rest.ndim) if i != m.axis - 1))
    if t.rows is None:
        return None
    rest = t.rows.reshape(t.shape[:-1])
    return rest.sum(axis=tuple(i for i in range(rest.ndim) if i != m.axis))


def _rescaled(g: Group, pairs: Pairs, found: Mapping[str, TensorDiff]) -> NDArray[np.float64] | None:
    """The factor of each unit, where factors to the exponent of each member are all that happened along this group's axes; else None.

    NaN stands for a factor that zeros leave open.
    """
    along = []
    for m, exponent in zip(g.members, g.exponents, strict=True):
        factors = _factors(pairs.get(m.tensor), found.get(m.tensor), m)
        if factors is None:
            return None
        along.append((factors[m.index], exponent))
    out = np.ones(g.size)
    matrix = [len(found[m.tensor].shape) > 1 for m in g.members]
    if any(exponent and _ones(units) for units, exponent in along) and all(
        _ones(units) or (two and np.ptp(units) <= CLOSE) for (units, _), two in zip(along, matrix, strict=True)
    ):
        return out  # a factor of a whole matrix, while the rest of these units stayed: it is that of the units across
    for units, exponent in along:
        own = units[:, 0]
        if abs(exponent) == 1 and np.isfinite(own).all() and np.abs(own - 1).max() > CLOSE:
            out = own**exponent
            break
    allowed = ("sign" in g.symmetries or (out > 0).all()) and (
        "scale" in g.symmetries or np.abs(np.abs(out) - 1).max() <= CLOSE
    )
    borne_out = all((np.isnan(units) | (np.abs(units / (out**e)[:, None] - 1) <= CLOSE)).all() for units, e in along)
    return out if allowed and borne_out else None


def _ones(units: NDArray[np.float64]) -> bool:
    return bool((np.abs(units - 1) <= CLOSE).all())


def _factors(pair: tuple[Tensor, Tensor] | None, t: TensorDiff | None, m: Member) -> NDArray[np.float64] | None:
    """The factors at each position of a member's axis; None where the change is no scaling."""
    if pair is None or t is None or len(t.shape) <= m.axis or m.where is not None:
        return None
    if t.status == "identical":
        return np.ones(t.shape[m.axis])
    if len(t.shape) == 1 and pair[0].shape == pair[1].shape:
        x, y = (side.values(0, side.size) for side in pair)
        zeros = (x == 0) & (y == 0)
        return np.where(zeros, np.nan, np.divide(y, x, out=np.zeros_like(y), where=x != 0))
    if t.factors is None:
        return None
    rows, columns = t.factors
    if len(rows) != t.shape[0]:
        return None
    if np.ptp(rows) == 0 and np.ptp(columns) == 0:  # one factor for all: each group may claim it, members decide
        return np.full(t.shape[m.axis], rows[0] * columns[0])
    if m.axis == 0:
        return rows
    lines = columns.reshape(t.shape[1:])
    lines = np.moveaxis(lines, m.axis - 1, 0).reshape(t.shape[m.axis], -1)
    return lines[:, 0] if np.ptp(lines, axis=1).max() <= CLOSE else None

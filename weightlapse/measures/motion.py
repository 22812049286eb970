"""How the units of a layer move: the lengths of their updates, and whether momentum alone made them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.reading import Reading
from weightlapse.measures.series import at_once
from weightlapse.measures.stream import Array
from weightlapse.measures.units import Place


@dataclass(frozen=True)
class Moves:
    """(n, units) of the incoming (or outgoing) weights of each unit: ``length`` of each update (without decay), ``size`` of the weights after it, and
    ``aside``, the length of what of the update is not straight on from the last one; NaN where there was none, or the way goes back."""

    length: Array
    size: Array
    aside: Array


def moves(reading: Reading, places: Iterable[Place], first: int, decay: Callable[[str], Array]) -> Moves:
    """The updates number ``first`` to the last. What came before ``first`` is not known: the first of these has no last one."""
    total: list[Array] = []
    for place in places:
        own = _of_place(reading, place, first, decay(place.tensor))
        total = [a + b for a, b in zip(total, own)] if total else own
    square, along, size = total
    last = np.concatenate([np.zeros_like(square[:1]), square[:-1]])
    with np.errstate(all="ignore"):
        aside = np.sqrt(np.maximum(square - along**2 / last, 0))
    aside = np.where((last > 0) & (along > 0), aside, np.nan)
    aside[np.isnan(square) | np.isnan(along)] = np.nan
    return Moves(np.sqrt(square), np.sqrt(size), aside)


def _of_place(reading: Reading, place: Place, first: int, decay: Array) -> list[Array]:
    """Square sums of each update, its product with the last one, and square sums of the weights behind it: (n, units) each."""
    count = len(reading.frames) - 1
    per = at_once(reading.run.shapes[place.tensor])
    parts: list[list[Array]] = []
    with np.errstate(all="ignore"):
        for begin in range(first, count, per):
            stop, known = (
                min(begin + per, count),
                max(begin - 1, first),
            )  # updates; the last one before them is looked at again
            values = np.asarray(reading.values(place.tensor, known, stop + 1), np.float64)
            alone = np.diff(values, axis=0)
            share = decay[known:stop].reshape(-1, *[1] * (values.ndim - 1))
            if share.any():
                alone += share * values[:-1]
            new = alone[begin - known :]
            along = place.sums(alone[1:], alone[:-1])
            if known == begin:
                along = np.concatenate(
                    [np.zeros_like(along[:1]) if len(along) else np.zeros((1, len(place.index))), along]
                )
            after = values[begin - known + 1 :]
            parts.append([place.sums(new, new), along, place.sums(after, after)])
    return [np.concatenate(columns) for columns in zip(*parts)]


def paths_over(reading: Reading, name: str, at: Sequence[int], what: str) -> tuple[Array, Array] | None:
    """(path, way) of each weight, flat, seen at the frames number ``at``; None where that is too much to read: then ``what`` was not looked at."""
    even = isinstance(at, range)
    if not reading.may(
        reading.cost(name, at[0], at[-1] + 1) if even else sum(reading.cost(name, i, i + 1) for i in at), what
    ):
        return None
    size = max(int(np.prod(reading.run.shapes[name], dtype=np.int64)), 1)
    per = at_once(reading.run.shapes[name]) if even else 1
    path = np.zeros(size)
    start: NDArray[Any] = path
    last: NDArray[Any] = path
    with np.errstate(all="ignore"):
        for k in range(0, len(at), per):
            values = reading.values(name, at[k], at[min(k + per, len(at)) - 1] + 1)
            rows = _weights(values, "complex" in str(reading.run.dtypes[name]))
            if k:
                path += np.abs(rows[0] - last)
            else:
                start = rows[0]
            path += np.abs(np.diff(rows, axis=0)).sum(axis=0)
            last = rows[-1]
        return path, np.abs(last - start)


def _weights(values: Any, is_complex: bool) -> NDArray[Any]:
    """(frames, weights): one number per weight, complex where it is."""
    wide = np.ascontiguousarray(values, dtype=np.float64)
    return (wide.view(np.complex128) if is_complex else wide).reshape(len(values), -1)

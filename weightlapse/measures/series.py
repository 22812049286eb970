"""Curves of one tensor that the doctor reads: from the statistics of a recording where it keeps them for every frame, else from the values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.reading import Reading
from weightlapse.measures.stream import Array, Values
from weightlapse.recording.kept import Curve

STRAIGHT = 1e-4  # of an update: momentum alone goes straight on to the last bits, a gradient turns it by more
GLIDE = (0.3, 0.97)  # by which factor momentum makes an update shorter than the one before (0.9 for the usual one)
ROUNDINGS = 4  # of the weights' size: what rounding the weights twice can turn an update by
AT_ONCE = 1 << 19  # values looked at together
_SURE = 1e-6  # of a number that follows from sums: nearer to a limit than this it decides nothing
YES, NO, OPEN = 1, 0, -1


@dataclass(frozen=True)
class TensorSeries:
    """One tensor. (T,) ``norm``, ``update`` (length of the change since the frame before; NaN at the first) and ``largest`` absolute value; (T - 1,)
    ``towards``, minus the product of each update and the weights before it; ``fresh``: YES where a gradient had a part in the update,
    which is more than the last one gone on with, and than rounding; NO; and OPEN where only the values could tell.

    ``nonfinite``: (frame, coordinates (n, ndim)) of the first bad frame.
    """

    norm: Array
    update: Array
    largest: Array
    towards: Array
    fresh: NDArray[np.int8]
    nonfinite: tuple[int, NDArray[np.int64]] | None = None

    @property
    def shrink(self) -> Array:
        """(T - 1,) share of the weights that each update takes off along themselves."""
        with np.errstate(all="ignore"):
            return np.where(self.norm[:-1] > 0, self.towards / self.norm[:-1] ** 2, np.nan)

    @property
    def inward(self) -> Array:
        """(T - 1,) cosine of each update and minus the weights."""
        with np.errstate(all="ignore"):
            product = self.norm[:-1] * self.update[1:]
            return np.where(product > 0, self.towards / product, np.nan)


def at_once(shape: tuple[int, ...]) -> int:
    """How many frames of a tensor are looked at together: one at least."""
    return max(AT_ONCE // max(math.prod(shape), 1), 1)


def rounding(dtype: str) -> float:
    """Half the distance from 1 to the next number of this type."""
    return {"bfloat16": 2.0**-9, "float16": 2.0**-11, "float64": 2.0**-53, "complex128": 2.0**-53}.get(dtype, 2.0**-24)


def from_curve(reading: Reading, name: str, curve: Curve, decay: Array) -> TensorSeries:
    """From the statistics alone. ``decay`` (T - 1,): the share of the weights that decay takes between two frames."""
    sumsq, moved, odd = (reading.of(column) for column in (curve.sumsq, curve.moved, curve.odd))
    bad = odd > 0
    with np.errstate(all="ignore"):
        norm = np.where(bad, np.nan, np.sqrt(sumsq))
        update = np.where(bad | np.concatenate([[True], bad[:-1]]), np.nan, np.sqrt(moved))
        largest = np.where(bad, np.nan, np.maximum(reading.of(curve.high), -reading.of(curve.low)))
        towards = (sumsq[:-1] + moved[1:] - sumsq[1:]) / 2  # |w + u|^2 = |w|^2 + 2 uw + |u|^2
        alone = np.sqrt(np.maximum(moved[1:] - 2 * decay * towards + decay**2 * sumsq[:-1], 0))
    fresh = _as_told(np.where(bad[1:] | bad[:-1], np.nan, alone), norm[1:], rounding(str(reading.run.dtypes[name])))
    return TensorSeries(norm, update, np.nan_to_num(largest), towards, fresh, _first_bad(reading, name, bad))


def _as_told(alone: Array, norm: Array, eps: float) -> NDArray[np.int8]:
    """(T - 1,) of updates of which but the lengths are known. A shorter one may be the last gone on with; one that is longer, or much shorter, is not."""
    last = np.concatenate([[0.0], alone[:-1]])
    with np.errstate(all="ignore"):
        least = np.maximum(STRAIGHT * alone, ROUNDINGS * eps * norm)
        ratio = alone / last
        aside = last * np.sqrt(
            np.maximum(ratio**2 - GLIDE[1] ** 2, 0)
        )  # at least so much, along the fastest glide there is
        turned = ((ratio > GLIDE[1]) & (aside > least * (1 + _SURE))) | (ratio < GLIDE[0] * (1 - _SURE))
    moves, rests = alone > least * (1 + _SURE), ~(alone > least * (1 - _SURE))
    return np.where(rests, NO, np.where(moves & (turned | (last == 0)), YES, OPEN)).astype(np.int8)


def from_values(reading: Reading, name: str, decay: Array) -> TensorSeries:
    """From all of the values, as many at once as are well looked at together."""
    frames, eps = len(reading.frames), rounding(str(reading.run.dtypes[name]))
    norm, update, largest = np.full(frames, np.nan), np.full(frames, np.nan), np.zeros(frames)
    towards, fresh = np.full(frames - 1, np.nan), np.zeros(frames - 1, np.int8)
    bad = np.zeros(frames, bool)
    per = at_once(reading.run.shapes[name])
    for first in range(0, frames, per):
        stop, begin = min(first + per, frames), max(first - 2, 0)
        values = flat(reading.values(name, begin, stop))
        at = first - begin
        with np.errstate(all="ignore"):
            square = _products(values, values)
            norm[first:stop] = np.sqrt(square[at:])
            bad[first:stop] = ~np.isfinite(square[at:])
            largest[first:stop] = np.maximum(values[at:].max(axis=1, initial=0), -values[at:].min(axis=1, initial=0))
            moves, before = np.diff(values, axis=0), values[:-1]
            here = slice(begin, stop - 1)
            update[begin + 1 : stop] = np.sqrt(_products(moves, moves))
            towards[here] = -_products(moves, before)
            alone = moves + decay[here, None] * before
            new = slice(max(first - 1, 0), stop - 1)
            fresh[new] = are_fresh(alone, norm[begin + 1 : stop], eps)[new.start - begin :]
    return TensorSeries(norm, update, largest, towards, fresh, _first_bad(reading, name, bad))


def flat(values: Values) -> Array:
    """(frames, numbers) float64."""
    return np.asarray(values, np.float64).reshape(len(values), -1)


def _products(a: Array, b: Array) -> Array:
    return np.einsum("ij,ij->i", a, b)


def are_fresh(alone: Array, norm: Array, eps: float) -> NDArray[np.bool_]:
    """(n,) whether a gradient had a part in each of these updates (n, numbers): momentum alone makes the last one again, shorter, up to rounding.

    ``norm`` (n,) is that of the weights after each. Of the first the last one is not known: it counts as the first of all.
    """
    with np.errstate(all="ignore"):
        square = _products(alone, alone)
        length = np.sqrt(square)
        least = np.maximum(STRAIGHT * length, ROUNDINGS * eps * norm)
        found = np.isfinite(length) & (length > least)
        for i in np.flatnonzero(found):
            if i and square[i - 1] > 0:
                factor = max(0.0, float(alone[i] @ alone[i - 1]) / float(square[i - 1]))
                aside = alone[i] - factor * alone[i - 1]
                found[i] = float(np.sqrt(aside @ aside)) > least[i] or not GLIDE[0] <= factor <= GLIDE[1]
    return found


def _first_bad(reading: Reading, name: str, bad: NDArray[np.bool_]) -> tuple[int, NDArray[np.int64]] | None:
    """The first frame with NaN or Inf, and where in it they are."""
    for i in np.flatnonzero(bad):
        values = np.asarray(reading.run[name][reading.frames[int(i)]])
        places = np.argwhere(~np.isfinite(values if values.dtype.kind == "c" else values.astype(np.float64)))
        if len(places):  # a square sum may be too large for float64 where no value is
            return reading.frames[int(i)], places
    return None

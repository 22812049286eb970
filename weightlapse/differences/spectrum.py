"""The singular values of a change, without holding the change: exact by QR of slabs where that is cheap, else sketched.

The sketch is the randomised range finder of Halko, Martinsson and Tropp (2011) with one power iteration; energies are shares of the exact
Frobenius norm, so what a sketch does not see is known. A singular value counts towards the rank where it stands above what rounding B to
its dtype makes: the spectral norm of independent rounding errors is at most about the largest row norm and the largest column norm together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from weightlapse.differences.pair import Pair
from weightlapse.differences.survey import Survey
from weightlapse.differences.tensor import Doubles

EXACT = 2e9  # multiplications up to which all singular values are computed
SKETCHES = (40, 264)  # directions of the sketch, and of a second one where the first is too small
SPARE = 8
KEPT = 64  # directions that are given back
_ROUNDING = 0.045  # variance of rounding to p bits, in units of (value * 2 ** -p) ** 2, over evenly spread logarithms


@dataclass
class Spectrum:
    """``shares`` of the energy, largest first (all of them when ``complete``); ``rank`` where it is known; ``left`` (m, k), ``right`` (n, k)."""

    shares: Doubles
    values: Doubles
    complete: bool
    rank: int | None
    left: Doubles
    right: Doubles

    def holds(self, rank: int) -> float:
        """The share of the energy in the first ``rank`` directions."""
        return float(min(self.shares[:rank].sum(), 1.0))


def spectrum(pair: Pair, seen: Survey) -> Spectrum | None:
    """The spectrum of B - A as a matrix; None for vectors, without a change, and where values are not finite."""
    m, n = pair.rows, pair.columns
    if not pair.is_matrix or seen.dd == 0 or not np.isfinite(seen.dd):
        return None
    floor = _floor(pair, seen)
    short = min(m, n)
    if float(m) * n * short <= EXACT or short <= SKETCHES[0]:
        values, right = _exact(pair)
        left = np.zeros((m, 0))
        complete = True
    else:
        for width in SKETCHES:
            values, left, right = _sketched(pair, min(width, short))
            complete = False
            inside = (values[:-SPARE] > floor).sum()
            if inside < len(values) - SPARE or (values[:-SPARE] ** 2).sum() < 0.3 * seen.dd:
                break
    shares = values**2 / seen.dd
    above = int((values > floor).sum())
    rank: int | None = above
    if not complete and above >= len(values) - SPARE:
        rank = None
    kept = min(rank or SPARE, KEPT, right.shape[1])
    right = right[:, :kept]
    left = _times(pair, right) / np.maximum(values[:kept], 1e-300) if not left.shape[1] else left[:, :kept]
    return Spectrum(shares, values, complete, rank, left, right)


def _floor(pair: Pair, seen: Survey) -> float:
    bits = pair.mantissa
    eps = 2.0 ** -(52 if bits is None else bits)
    rows = _ROUNDING * eps**2 * (seen.row_yy + seen.row_dd)
    columns = _ROUNDING * eps**2 * (seen.column_yy + seen.column_dd)
    noise = np.sqrt(rows.max(initial=0.0)) + np.sqrt(columns.max(initial=0.0))
    return float(1.5 * noise + 1e-13 * np.sqrt(seen.dd))


def _differences(pair: Pair) -> Iterator[tuple[int, int, Doubles]]:
    for slab in pair.slabs():
        d = slab.change
        yield slab.start, slab.stop, np.where(np.isfinite(d), d, 0.0)


def _exact(pair: Pair) -> tuple[Doubles, Doubles]:
    """All singular values and the right singular vectors: the R of a QR decomposition, slab by slab."""
    m, n = pair.rows, pair.columns
    if n <= m:
        r = np.zeros((0, n))
        stack: list[Doubles] = []
        height = 0
        for _, _, d in _differences(pair):
            stack.append(d)
            height += len(d)
            if height >= 2 * n:
                r = _r_of(np.vstack([r, *stack]))
                stack, height = [], 0
        r = np.vstack([r, *stack])
    else:  # wide: few long rows, of which all are needed at once
        step = max(m, (1 << 18) // m)
        r_t = np.zeros((0, m))
        for start in range(0, n, step):
            r_t = _r_of(np.vstack([r_t, _column_slab(pair, start, min(start + step, n)).T]))
        # D.T = Q r_t, so the singular values of r_t are those of D and its right vectors are the left ones of D
        _, values, vt = np.linalg.svd(r_t, full_matrices=False)
        right = np.zeros((n, min(len(values), KEPT)))
        for start, stop, d in _differences(pair):
            right += d.T @ vt.T[start:stop, : right.shape[1]]
        return values, right / np.maximum(values[: right.shape[1]], 1e-300)
    _, values, vt = np.linalg.svd(r, full_matrices=False)
    return values, vt.T


def _r_of(tall: Doubles) -> Doubles:
    r: Any = np.linalg.qr(tall, mode="r")
    return np.asarray(r, np.float64)


def _column_slab(pair: Pair, start: int, stop: int) -> Doubles:
    """Columns [start, stop) of the change (m, stop - start)."""
    n = pair.columns
    out = np.empty((pair.rows, stop - start))
    with np.errstate(invalid="ignore", over="ignore"):
        for i in range(pair.rows):
            out[i] = pair.b.values(i * n + start, i * n + stop) - pair.a.values(i * n + start, i * n + stop)
    return np.where(np.isfinite(out), out, 0.0)


def _times(pair: Pair, right: Doubles) -> Doubles:
    out = np.zeros((pair.rows, right.shape[1]))
    for start, stop, d in _differences(pair):
        out[start:stop] = d @ right
    return out


def _transposed_times(pair: Pair, left: Doubles) -> Doubles:
    out = np.zeros((pair.columns, left.shape[1]))
    for start, stop, d in _differences(pair):
        out += d.T @ left[start:stop]
    return out


def _sketched(pair: Pair, width: int) -> tuple[Doubles, Doubles, Doubles]:
    """The first ``width`` singular values with their vectors, (k,), (m, k), (n, k)."""
    start = np.random.default_rng(0).standard_normal((pair.columns, width))
    q = _orthonormal(_times(pair, start))
    del start
    q = _orthonormal(_transposed_times(pair, q))
    q = _orthonormal(_times(pair, q))
    u, values, vt = np.linalg.svd(_transposed_times(pair, q).T, full_matrices=False)
    return values, q @ u[:, :KEPT], vt[:KEPT].T.copy()


def _orthonormal(tall: Doubles) -> Doubles:
    """An orthonormal basis of the columns, written over them: Householder's of slabs of rows, then of what is left of each, so that no second copy is made."""
    width = tall.shape[1]
    step = max(4 * width, 1)
    if len(tall) <= step:
        return np.asarray(np.linalg.qr(tall)[0], np.float64)
    spans = [(at, min(at + step, len(tall))) for at in range(0, len(tall), step)]
    if spans[-1][1] - spans[-1][0] < width:  # too few rows for a basis of their own
        spans[-2:] = [(spans[-2][0], len(tall))]
    left = []
    for a, b in spans:
        tall[a:b], r = np.linalg.qr(tall[a:b])
        left.append(r)
    top = np.linalg.qr(np.vstack(left))[0]
    for k, (a, b) in enumerate(spans):
        tall[a:b] = tall[a:b] @ top[k * width : (k + 1) * width]
    return tall

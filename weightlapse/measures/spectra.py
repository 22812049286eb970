"""Singular values of weight matrices, and what their shape says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.stream import Array

SMALLEST_TAIL = 8  # eigenvalues below which a power-law fit says nothing


def singular_values(x: NDArray[Any]) -> Array:
    """Singular values of ``x`` (real or complex) seen as (first axis) x (all others), largest first; NaN where ``x`` is not finite.

    From the Gram matrix of the shorter side when it is much shorter (values below 1e-8 of the largest are then rounded
    away), else by a full decomposition.
    """
    matrix = x.reshape(x.shape[0], -1) if x.ndim > 1 else x.reshape(1, -1)
    count = min(matrix.shape)
    if not np.isfinite(matrix).all():
        return np.full(count, np.nan)
    if max(matrix.shape) > 4 * count:
        small = matrix if matrix.shape[0] == count else matrix.T
        return np.sqrt(np.maximum(np.linalg.eigvalsh(small @ small.conj().T), 0))[::-1]
    return np.asarray(np.linalg.svd(matrix, compute_uv=False))


def effective_rank(values: Array) -> float:
    """exp(entropy of the normalised singular values): n for n equal ones, 1 for a single one. Roy and Vetterli, EUSIPCO 2007."""
    total = values.sum()
    if not np.isfinite(total) or total == 0:
        return float("nan")
    p = values[values > 0] / total
    return float(np.exp(-(p * np.log(p)).sum()))


def stable_rank(values: Array) -> float:
    """sum(s^2) / max(s)^2."""
    top = values.max(initial=0.0)
    return float((values**2).sum() / top**2) if np.isfinite(top) and top > 0 else float("nan")


def power_law_alpha(eigenvalues: Array) -> float:
    """Exponent of a power law fitted to the tail of ``eigenvalues`` by maximum likelihood.

    The start of the tail is the one with the smallest Kolmogorov-Smirnov distance (Clauset, Shalizi and Newman 2009), as in
    the heavy-tail studies of Martin and Mahoney. Departure: at least 8 eigenvalues must be in the tail, else NaN.
    """
    values = np.sort(eigenvalues[np.isfinite(eigenvalues) & (eigenvalues > 0)])
    if values.size < SMALLEST_TAIL:
        return float("nan")
    logs = np.log(values)
    best = (np.inf, float("nan"))
    for first in range(values.size - SMALLEST_TAIL + 1):
        tail = logs[first:]
        excess = (tail - tail[0]).sum()
        if excess <= 0:
            continue
        exponent = 1 + tail.size / excess
        fitted = 1 - np.exp(-(exponent - 1) * (tail - tail[0]))
        observed = np.arange(tail.size) / tail.size
        best = min(best, (float(np.abs(fitted - observed).max()), exponent))
    return best[1]

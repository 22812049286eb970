"""Optimal assignment: which unit of one network takes the place of which unit of the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import missing_extra


def assign(value: NDArray[Any]) -> NDArray[np.int64]:
    """The permutation p that maximises ``sum(value[u, p[u]])``; exact.

    When the largest entries of the rows stand in different columns they are the optimum, and no search is needed:
    a hundred times faster, and the usual case for networks that do correspond.
    """
    best = value.argmax(axis=1)
    seen = np.zeros(len(value), dtype=bool)
    seen[best] = True
    if seen.all():
        return best.astype(np.int64)
    return _solver()(value, maximize=True)[1].astype(np.int64)


def assign_blocks(value: NDArray[Any]) -> NDArray[np.int64]:
    """``assign`` for every matrix of a stack: (..., n, n) to (..., n)."""
    best = value.argmax(axis=-1)
    flat, out = value.reshape(-1, *value.shape[-2:]), best.reshape(-1, best.shape[-1])
    clash = (np.sort(out, axis=-1) != np.arange(out.shape[-1])).any(axis=-1)
    for i in np.flatnonzero(clash):
        out[i] = _solver()(flat[i], maximize=True)[1]
    return out.reshape(best.shape).astype(np.int64)


def _solver() -> Any:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise missing_extra("scipy", extra="torch", purpose="aligning two networks") from None
    return linear_sum_assignment

"""Unbiased linear CKA: how alike two layers' representations are, up to rotation and scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def cka(x: NDArray[np.floating], y: NDArray[np.floating]) -> float | None:
    """Linear CKA of two representations of the same samples, shapes (n, p) and (n, q); about 0 for independent ones.

    Uses the unbiased estimator of HSIC (Song et al. 2012) over all n rows at once; the usual biased one calls independent
    data similar when n is small (0.2 at n = 32). It may come out slightly negative. None, never NaN, where it is not defined:
    fewer than 4 samples, or a representation that does not vary.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(cka(x, 2 * x[:, ::-1]), 6)
    1.0
    """
    n = len(x)
    if n < 4 or len(y) != n:
        return None
    k, m = _gram(x), _gram(y)
    within = _hsic(k, k) * _hsic(m, m)
    if not np.isfinite(within) or within <= 0:
        return None
    return float(min(_hsic(k, m) / np.sqrt(within), 1.0))


def _gram(x: NDArray[np.floating]) -> NDArray[np.float64]:
    x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    x = x - x.mean(axis=0)
    size = np.abs(x).max(initial=0.0)
    x = x / size if size > 1e-300 else x * 0
    k: NDArray[np.float64] = x @ x.T
    np.fill_diagonal(k, 0.0)
    return k


def _hsic(k: NDArray[np.float64], m: NDArray[np.float64]) -> float:
    n = len(k)
    row_k, row_m = k.sum(axis=0), m.sum(axis=0)
    cross = float(row_k @ row_m)
    both = float(row_k.sum()) * float(row_m.sum()) / ((n - 1) * (n - 2))
    return (float(np.vdot(k, m)) + both - 2 * cross / (n - 2)) / (n * (n - 3))

"""Slow, obvious twins of the measures: the whole history in memory, one line per definition."""

from __future__ import annotations

import math

import numpy as np


def over_time(history, function):
    """``function(now, before, start, end)`` at every frame of ``history`` (T, *S)."""
    history = np.asarray(history, dtype=np.float64)
    return np.array(
        [function(history[t], history[t - 1] if t else None, history[0], history[-1]) for t in range(len(history))]
    )


def _norm(x):
    return math.sqrt(math.fsum(float(v) ** 2 for v in np.ravel(x)))


def _angle(a, b):
    cosine = float(np.dot(np.ravel(a), np.ravel(b))) / (_norm(a) * _norm(b))
    return math.acos(max(-1.0, min(1.0, cosine)))


def _share(x):
    return np.abs(x) / np.abs(x).sum()


def _entropy(x):
    p = np.ravel(_share(x))
    return -sum(v * math.log(v) for v in p if v > 0) / math.log(p.size)


def _gini(x):
    size = np.abs(np.ravel(x))
    return sum(abs(a - b) for a in size for b in size) / (2 * size.size**2 * size.mean())


def _singular(x):
    return np.sqrt(np.maximum(np.linalg.eigvalsh(_matrix(x) @ _matrix(x).T), 0))[::-1]


def _matrix(x):
    m = np.reshape(x, (x.shape[0], -1)) if x.ndim > 1 else np.reshape(x, (1, -1))
    return m if m.shape[0] <= m.shape[1] else m.T


def _effective_rank(x):
    p = _singular(x) / _singular(x).sum()
    return math.exp(-sum(v * math.log(v) for v in p if v > 0))


TWINS = {
    "norm": lambda n, b, s, e: _norm(n),
    "mean": lambda n, b, s, e: math.fsum(np.ravel(n)) / n.size,
    "std": lambda n, b, s, e: math.sqrt(math.fsum((v - n.mean()) ** 2 for v in np.ravel(n)) / n.size),
    "max_abs": lambda n, b, s, e: max(abs(v) for v in np.ravel(n)),
    "update_norm": lambda n, b, s, e: math.nan if b is None else _norm(n - b),
    "update_ratio": lambda n, b, s, e: math.nan if b is None else _norm(n - b) / _norm(b),
    "distance": lambda n, b, s, e: _norm(n - s),
    "distance_to_end": lambda n, b, s, e: _norm(n - e),
    "angle_to_start": lambda n, b, s, e: _angle(n, s),
    "angle_to_end": lambda n, b, s, e: _angle(n, e),
    "angle_to_previous": lambda n, b, s, e: math.nan if b is None else _angle(n, b),
    "sparsity": lambda n, b, s, e: sum(v == 0 for v in np.ravel(n)) / n.size,
    "sign_changes": lambda n, b, s, e: 0.0 if b is None else sum(np.ravel(np.sign(n) != np.sign(b))) / n.size,
    "entropy": lambda n, b, s, e: _entropy(n),
    "gini": lambda n, b, s, e: _gini(n),
    "transport": lambda n, b, s, e: 0.0 if b is None else float(np.maximum(_share(n) - _share(b), 0).sum()),
    "spectrum": lambda n, b, s, e: _singular(n),
    "effective_rank": lambda n, b, s, e: _effective_rank(n),
    "stable_rank": lambda n, b, s, e: (_norm(n) / _singular(n)[0]) ** 2,
}


def path_length(history):
    history = np.asarray(history, dtype=np.float64)
    return np.array([sum(_norm(history[i] - history[i - 1]) for i in range(1, t + 1)) for t in range(len(history))])


def pca(history, components=2):
    """Coordinates by a full singular value decomposition of the centred (T, weights) matrix, ends on the positive side."""
    flat = np.asarray(history, dtype=np.float64).reshape(len(history), -1)
    u, s, _ = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    coordinates = u[:, :components] * s[:components]
    return coordinates * np.where(coordinates[-1] < 0, -1, 1), (s**2 / (s**2).sum())[:components]


def power_law_alpha(values, smallest):
    """Clauset et al.: maximum likelihood for every start of the tail, the one with the smallest KS distance."""
    values = sorted(v for v in values if v > 0)
    best = (math.inf, math.nan)
    for start in range(len(values) - smallest + 1):
        tail = values[start:]
        exponent = 1 + len(tail) / sum(math.log(v / tail[0]) for v in tail)
        distance = max(abs((1 - (v / tail[0]) ** (1 - exponent)) - i / len(tail)) for i, v in enumerate(tail))
        best = min(best, (distance, exponent))
    return best[1]


def twin_counts(rows, tolerance=1e-6):
    scale = max(_norm(r) for r in rows)
    return [sum(_norm(a - b) <= tolerance * scale for j, b in enumerate(rows) if j != i) for i, a in enumerate(rows)]

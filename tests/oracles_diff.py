"""The slow, obvious twin of `wl.diff` on whole arrays: every number by its definition, every kind by trying it out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np


def numbers(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """Relative size, share of changed values, cosine, sign flips, changed values in rows and columns, shares of the singular values' squares."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    d = y - x
    changed = a.view(f"u{a.itemsize}") != b.view(f"u{b.itemsize}")
    flat = d.reshape(len(d), -1)
    values = np.linalg.svd(flat, compute_uv=False)
    return {
        "relative": np.linalg.norm(d) / np.linalg.norm(x),
        "changed_share": changed.mean(),
        "cosine": (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y),
        "signs_flipped": int((np.signbit(x) != np.signbit(y)).sum()),
        "rows": changed.reshape(len(d), -1).sum(axis=1),
        "columns": changed.reshape(len(d), -1).sum(axis=0),
        "energy": values**2 / (values**2).sum(),
    }


def is_scale(a: np.ndarray, b: np.ndarray) -> bool:
    """Every quotient is one number, to a few last places."""
    return bool(np.ptp(b / a) <= 1e-6 * np.abs(b / a).max())


def is_permutation(a: np.ndarray, b: np.ndarray) -> bool:
    """Some order of rows and some order of columns gives B: all of them are tried. For matrices of up to five rows and columns."""
    rows, columns = (list(itertools.permutations(range(n))) for n in a.shape)
    return any(np.array_equal(a[list(p)][:, list(q)], b) for p in rows for q in columns)


def is_pruned(a: np.ndarray, b: np.ndarray) -> bool:
    return all(y in (x, 0) for x, y in zip(a.reshape(-1).tolist(), b.reshape(-1).tolist()))


def is_bfloat16_of(a: np.ndarray, b: np.ndarray) -> bool:
    """Of both neighbours of a value that keep 16 bits the nearer one, and of two equally near the one whose last bit is 0."""
    for x, y in zip(a.reshape(-1).tolist(), b.reshape(-1).tolist()):
        low = int(np.float32(x).view(np.uint32)) >> 16
        both = [(abs(float(np.uint32(p << 16).view(np.float32)) - x), p & 1, p) for p in (low, low + 1)]
        if float(np.uint32(min(both)[2] << 16).view(np.float32)) != y:
            return False
    return True

"""Other ways to move the weights of a logistic neuron than gradient descent and Adam: with a price on mass, or with the mass conserved."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from weightlapse.progress import track

RULES = ("l1", "eg")
Array = NDArray[np.float64]


def gradient(w: Array, b: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Gradient of the mean sigmoid cross-entropy: w (n, d), b (n,), x (n, rows, d), y (n, rows) -> (n, d), (n,)."""
    error = 1 / (1 + np.exp(-(np.matmul(x, w[..., None])[..., 0] + b[:, None]))) - y
    rows = x.shape[1]
    return np.matmul(error[:, None], x)[:, 0] / rows, error.mean(axis=1)


def proximal_l1(w: Array, b: Array, x: Array, y: Array, lr: float = 0.01, price: float = 0.01) -> tuple[Array, Array]:
    """One proximal gradient step: gradient descent, then every weight moves ``lr * price`` towards zero and stops there.

    Iterative soft thresholding (Daubechies, Defrise and De Mol 2004).
    """
    gw, gb = gradient(w, b, x, y)
    w = w - lr * gw
    return np.sign(w) * np.maximum(np.abs(w) - lr * price, 0), b - lr * gb


def exponentiated(u: Array, v: Array, b: Array, x: Array, y: Array, lr: float = 0.01) -> tuple[Array, Array, Array]:
    """One step of exponentiated gradient descent, EG with both signs: w = u - v, u and v (n, d) positive, their total sum conserved.

    Every part is multiplied by a factor and all are scaled back to the old total: mass can only be shuffled. Kivinen and Warmuth 1997.
    """
    gw, gb = gradient(u - v, b, x, y)
    total = (u + v).sum(axis=1, keepdims=True)
    u, v = u * np.exp(-lr * gw), v * np.exp(lr * gw)
    scale = total / (u + v).sum(axis=1, keepdims=True)
    return u * scale, v * scale, b - lr * gb


SPARE = 0.01  # of the mean size: what the other sign of a weight starts with, so that it can change sign


def run_rule(
    rule: str, w: Array, b: Array, x: Array, y: Array, steps: int, keep: Callable[[int, Array, Array], None]
) -> tuple[Array, Array]:
    """``steps`` steps of "l1" or "eg" from (w, b); ``keep(step, w, b)`` after each."""
    spare = SPARE * np.abs(w).mean(axis=1, keepdims=True)
    u, v = np.maximum(w, 0) + spare, np.maximum(-w, 0) + spare
    for step in track(range(1, steps + 1), f"training by {rule}"):
        if rule == "eg":
            u, v, b = exponentiated(u, v, b, x, y)
            w = u - v
        else:
            w, b = proximal_l1(w, b, x, y)
        keep(step, w, b)
    return w, b

"""The recording that the site lets its readers play with: a small network learns to add modulo 2, in NumPy, every step recorded."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import weightlapse as wl

WIRING = """weightlapse wiring 1
tensor hidden.weight (12, 2)
tensor hidden.bias (12)
tensor output.weight (1, 12)
tensor output.bias (1)
fixed hidden.weight[1]: input
fixed output.weight[0]: output
fixed output.bias[0]: output
group hidden: 12 units, permutation, sign
  hidden.weight[0]: out
  hidden.bias[0]: add
  output.weight[1]: in
"""


def record(path: Path, steps: int = 400, seed: int = 3) -> None:
    """XOR by two layers with tanh between them, gradients by hand."""
    draw = np.random.default_rng(seed)
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float) * 2 - 1
    y = np.array([[0.0], [1], [1], [0]]) * 2 - 1
    w = {"hidden.weight": draw.normal(size=(12, 2)) * 0.7, "hidden.bias": np.zeros(12)}
    w |= {"output.weight": draw.normal(size=(1, 12)) * 0.3, "output.bias": np.zeros(1)}
    with wl.watch(w, path, wiring=wl.Wiring.from_spec(WIRING)) as rec:
        for _ in range(steps):
            h = np.tanh(x @ w["hidden.weight"].T + w["hidden.bias"])
            error = h @ w["output.weight"].T + w["output.bias"] - y
            back = (error @ w["output.weight"]) * (1 - h * h)
            slopes = {"hidden.weight": back.T @ x, "hidden.bias": back.sum(0)}
            slopes |= {"output.weight": error.T @ h, "output.bias": error.sum(0)}
            w = {name: value - 0.02 * slopes[name] for name, value in w.items()}
            rec.step(w, loss=float((error**2).mean()))
        rec.mark("four answers, all right")


def live_page() -> bytes:
    """The recording as one offline page."""
    with tempfile.TemporaryDirectory() as folder:
        record(Path(folder) / "xor")
        wl.make_page(wl.load(Path(folder) / "xor"), Path(folder) / "page.html")
        return (Path(folder) / "page.html").read_bytes()

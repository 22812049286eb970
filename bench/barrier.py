"""How high is the barrier between two networks trained apart, as they are and aligned?

Digits MLPs 64-512-512-512-10 (60 epochs of Adam, no weight decay): the rise of the training loss (cross-entropy) on the straight line between
both, 25 mixtures, for b as it is, for weight matching, activation matching and the better of all that `wl.compare` tries, and with
repaired variances; beside them weight matching as in Git Re-Basin (coordinate descent over permutations in random order, from b
as it is).

    python bench/barrier.py [--pairs N] [--epochs N]
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import weightlapse as wl
from weightlapse.symmetry.barrier import Line
from weightlapse.symmetry.match import Matcher
from weightlapse.symmetry.runner import Runner, data_of
from weightlapse.symmetry.states import float_arrays

HERE = Path(__file__).parent
TRAIN = 1400


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """All 1797 in random order, pixels in [0, 1]."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return torch.tensor(images[order] / 16, dtype=torch.float32), torch.tensor(labels[order])


def trained(seed: int, epochs: int, width: int, x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(TRAIN).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model


def plain(a: nn.Module, b: nn.Module, w: wl.Wiring, seed: int) -> dict[str, torch.Tensor]:
    """Git Re-Basin's weight matching."""
    matcher = Matcher(float_arrays(a.state_dict()), float_arrays(b.state_dict()), w, frozenset({"permutation"}))
    matcher.descend(rng=np.random.default_rng(seed))
    return matcher.at.on_state(b.state_dict(), w)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--width", type=int, default=512)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x, y = digits()
    train = (x[:TRAIN], y[:TRAIN])
    facts = f"{len(os.sched_getaffinity(0))} cores, one thread, Python {platform.python_version()}, torch {torch.__version__}, "
    facts += f"weightlapse {wl.__version__}; width {arguments.width}, {arguments.epochs} epochs, the training loss of each end below 0.001"
    lines = ["# The barrier between two networks trained apart", "", facts, ""]
    lines += [
        "| pair | as they are | Git Re-Basin's descent | weights | activations | better of all | variances repaired | found by | seconds |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for pair in range(arguments.pairs):
        a, b = (trained(2 * pair + i, arguments.epochs, arguments.width, x, y) for i in range(2))
        w = wl.trace(a, x[:4])
        line = Line(Runner(a, data_of(train)), a.state_dict())
        peer = float(line.height(plain(a, b, w, pair), 25))
        start = time.perf_counter()
        barrier = wl.compare(a, b, w, data=train, points=25).barrier
        seconds = time.perf_counter() - start
        assert barrier is not None
        by = {name.split(",")[0]: float(h) for name, h in reversed(barrier.methods.items())}
        repaired = "" if barrier.repaired is None else f"{float(barrier.repaired):.4f}"
        lines.append(
            f"| {pair} | {float(barrier.naive):.3f} | {peer:.4f} | {by['weights']:.4f} | {barrier.methods['activations']:.4f} | "
            f"**{float(barrier.matched):.4f}** | {repaired} | {barrier.method} | {seconds:.1f} |"
        )
    text = "\n".join(lines) + "\n"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "barrier.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

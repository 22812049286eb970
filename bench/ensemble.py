"""How fast do many networks train at once, against one network after the other?

Pairs: a student 10-8-8-1 (tanh) learns its teacher from fresh inputs, batch 50, Adam, 50 steps. Neurons: 2-1 (tanh), 500 rows each, SGD,
10 epochs of 16 batches. Boundary: 15-1, 800 rows each, full-batch Adam. One torch loop and one Keras loop per network stand beside.
CPU seconds, one thread for all; rounds alternate, and the fastest counts.

    python bench/ensemble.py [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import weightlapse as wl
from weightlapse.ensembles.batches import imitation
from weightlapse.ensembles.stack import Stack, glorot

HERE = Path(__file__).parent
STUDENT = glorot(10, 8, 8, 1, output=nn.Tanh)


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def pairs(n: int) -> None:
    teachers = Stack.make(STUDENT, n, seeds=range(10_000, 10_000 + n))
    wl.ensemble(STUDENT, n, fresh=imitation(teachers, 50), per_member=True, steps=50, lr=0.05, eps=1e-7)


def pair_torch() -> None:
    teacher, student = STUDENT(), STUDENT()
    optimizer = torch.optim.Adam(student.parameters(), 0.05, eps=1e-7)
    for _ in range(50):
        x = torch.rand(50, 10) * 2 - 1
        with torch.no_grad():
            y = teacher(x)
        optimizer.zero_grad()
        nn.functional.mse_loss(student(x), y).backward()
        optimizer.step()


def keras_student():
    import keras

    layers = [keras.layers.Dense(n, "tanh") for n in (8, 8, 1)]
    model = keras.Sequential([keras.Input((10,)), *layers])
    model.compile(keras.optimizers.Adam(0.05, epsilon=1e-7), "mse")
    return model


def pair_keras() -> None:
    teacher, student = keras_student(), keras_student()
    for _ in range(50):
        x = np.random.uniform(-1, 1, (50, 10)).astype(np.float32)  # noqa: NPY002
        student.train_on_batch(x, teacher(x).numpy())


def neurons(n: int) -> None:
    x = torch.rand(n, 500, 2)
    make = glorot(2, 1, output=nn.Tanh)
    wl.ensemble(make, n, x, torch.tanh(x.sum(2, keepdim=True)), epochs=10, batch_size=32, optimizer="sgd", lr=0.5)


def neuron_torch() -> None:
    x = torch.rand(500, 2)
    y = torch.tanh(x.sum(1, keepdim=True))
    model = glorot(2, 1, output=nn.Tanh)()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(10):
        for part in torch.randperm(500).split(32):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x[part]), y[part]).backward()
            optimizer.step()


def boundary_data(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.cat([10 * torch.randn(n, 800, 2), 0.01 * torch.randn(n, 800, 13)], 2)
    return x, (x[:, :, :1] >= 0).float()


def boundary(n: int, steps: int = 1000) -> None:
    wl.ensemble(glorot(15, 1), n, *boundary_data(n), steps=steps, loss="bce", lr=1e-4)


def boundary_torch(steps: int = 1000) -> None:
    x, y = (t[0] for t in boundary_data(1))
    model = glorot(15, 1)()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(x), y).backward()
        optimizer.step()


CASES: list[tuple[str, int, Callable[[int], None], str, Callable[[], None], int]] = [
    ("256 pairs, 50 steps", 256, pairs, "torch loop", pair_torch, 3),
    ("256 pairs, 50 steps", 256, pairs, "Keras loop (train_on_batch)", pair_keras, 1),
    ("1000 neurons, 160 steps", 1000, neurons, "torch loop", neuron_torch, 3),
    ("24 boundaries, 1000 full-batch steps", 24, boundary, "torch loop", boundary_torch, 1),
]


def table(rounds: int) -> list[str]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # fastest for networks of this size, ours and theirs
    lines = [
        "| | all at once | per network | one by one, per network | peer | faster by |",
        "|---|---|---|---|---|---|",
    ]
    for name, n, ours, peer, alone, repeats in CASES:
        ours(n)
        alone()
        together, apart = [], []
        for _ in range(rounds):
            together.append(seconds(lambda ours=ours, n=n: ours(n)))
            apart.append(seconds(lambda alone=alone, repeats=repeats: [alone() for _ in range(repeats)]) / repeats)
        whole, single = min(together), min(apart)
        row = f"{whole:.2f} s | {whole / n * 1e3:.2f} ms | {single * 1e3:,.0f} ms | {peer} | {single * n / whole:,.0f}"
        lines.append(f"| {name} | {row} |")
    torch.set_num_threads(before)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")
    facts = f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}, "
    facts += f"weightlapse {wl.__version__}; CPU seconds, fastest of {arguments.rounds} rounds"
    lines = ["# Many networks at once: speed", "", facts, "", *table(arguments.rounds)]
    text = "\n".join(lines) + "\n"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "ensemble.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

"""What is growing worth on real digits? Wider and deeper networks that start as their teacher, as noise around it, or from nothing.

A small network learns scikit-learn's digits (1400 to learn from, 397 to test on); its best test accuracy is the mark. Then a wider
(or deeper) network trains on from it in several ways, and from scratch. Printed: accuracy before the first step, after one
epoch, epochs until the mark is reached, accuracy at the end; medians and ranges over seeds. Then, for Adam: how far the loss jumps
when the optimizer is carried along, forgotten, or copied without the exact rule.

    python bench/grow.py [--seeds 5] [--epochs 20]
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import weightlapse as wl
from weightlapse.growth.result import Growth

torch.set_num_threads(1)
HERE = Path(__file__).parent
RATE, MOMENTUM, BATCH = 0.05, 0.9, 32
Data = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def digits(seed: int) -> Data:
    """1400 digits to learn from and 397 to test on, pixels from 0 to 1, split by ``seed``."""
    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.data))
    x = torch.tensor(found.data[order] / 16, dtype=torch.float32)
    y = torch.tensor(found.target[order])
    return x[:1400], y[:1400], x[1400:], y[1400:]


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def accuracy(model: nn.Module, data: Data) -> float:
    model.eval()
    with torch.no_grad():
        found = (model(data[2]).argmax(1) == data[3]).double().mean().item()
    model.train()
    return found


def sgd(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=MOMENTUM)


def epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, rng: torch.Generator, steps: int | None = None
) -> list[float]:
    """One pass in random order (or its first ``steps``); the losses."""
    losses = []
    for batch in torch.randperm(len(data[0]), generator=rng).split(BATCH)[:steps]:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data[0][batch]), data[1][batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def curve(model: nn.Module, data: Data, epochs: int, seed: int, optimizer: torch.optim.Optimizer) -> list[float]:
    """Test accuracy before training and after every epoch."""
    rng = torch.Generator().manual_seed(seed)
    seen = [accuracy(model, data)]
    for _ in range(epochs):
        epoch(model, optimizer, data, rng)
        seen.append(accuracy(model, data))
    return seen


@dataclass
class Start:
    """One way to begin: makes a network and its optimizer from the teacher."""

    name: str
    make: Callable[[nn.Sequential, Data, int], nn.Module]
    rate: float = RATE


def padded(teacher: nn.Sequential, width: int, seed: int) -> nn.Module:
    """The teacher's weights in the corner of a fresh wide network: the usual baseline of Net2Net."""
    torch.manual_seed(seed)
    wide = mlp(64, width, width, 10)
    with torch.no_grad():
        for new, old in zip(wide.parameters(), teacher.parameters(), strict=True):
            new[tuple(slice(n) for n in old.shape)] = old
    return wide


def fresh(seed: int, *sizes: int) -> nn.Module:
    torch.manual_seed(seed)
    return mlp(*sizes)


def with_random_layer(teacher: nn.Sequential, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    parts = [copy.deepcopy(p) for p in teacher]
    return nn.Sequential(*parts[:4], nn.Linear(32, 32), nn.ReLU(), parts[4])


def wider(width: int) -> list[Start]:
    sizes = {"0": width, "2": width}
    return [
        Start("wl.widen, random parts", lambda t, d, s: wl.widen(t, sizes, d[0][:64], seed=s).model),
        Start("wl.widen, equal parts", lambda t, d, s: wl.widen(t, sizes, d[0][:64], seed=s, split="equal").model),
        Start("random padding", lambda t, d, s: padded(t, width, s)),
        Start("from scratch", lambda t, d, s: fresh(s, 64, width, width, 10)),
    ]


def deeper() -> list[Start]:
    def identity(t: nn.Sequential, d: Data, s: int) -> nn.Module:
        return wl.deepen(t, d[0][:64], after="2", kind="identity").model

    def residual(t: nn.Sequential, d: Data, s: int) -> nn.Module:
        return wl.deepen(t, d[0][:64], after="2", kind="residual", seed=s).model

    return [
        Start("wl.deepen identity", identity),
        Start("wl.deepen identity, rate / 10", identity, RATE / 10),
        Start("wl.deepen residual", residual),
        Start("wl.deepen residual, rate / 10", residual, RATE / 10),
        Start("random layer", lambda t, d, s: with_random_layer(t, s)),
        Start("from scratch", lambda t, d, s: fresh(s, 64, 32, 32, 32, 10)),
        Start("no growth, trained on", lambda t, d, s: copy.deepcopy(t)),
    ]


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def reached(curve_: list[float], mark: float) -> float:
    """Epochs until ``mark``; infinity when it is never reached."""
    return next((float(i) for i, a in enumerate(curve_) if i and a >= mark), float("inf"))


def rows_of(
    starts: list[Start], teachers: dict[int, tuple[nn.Sequential, Data, float]], epochs: int
) -> tuple[list[str], dict[str, list[float]]]:
    """The table, and the accuracies at the end by start."""
    rows, ends = [], {}
    for start in starts:
        curves = []
        for seed, (teacher, data, _) in teachers.items():
            model = start.make(teacher, data, seed)
            curves.append(curve(model, data, epochs, seed, sgd(model, start.rate)))
        marks = [mark for _, _, mark in teachers.values()]
        times = [reached(c, mark) for c, mark in zip(curves, marks, strict=True)]
        word = spread(times, ".0f").replace("inf", f"> {epochs}")
        first, second, last = (spread([c[i] for c in curves], ".3f") for i in (0, 1, -1))
        rows.append(f"| {start.name} | {first} | {second} | {word} | {last} |")
        ends[start.name] = [c[-1] for c in curves]
    return rows, ends


def verdict(ends: dict[str, list[float]], grown: str) -> str:
    """What the ends say about growing against starting from nothing, and no more."""
    ours, scratch = ends[grown], ends["from scratch"]
    apart = min(ours) > max(scratch) or min(scratch) > max(ours)
    says = "the ranges do not overlap" if apart else "the ranges overlap, so nothing follows about the final accuracy"
    return f"At the end: {grown} {spread(ours, '.3f')}, from scratch {spread(scratch, '.3f')}; {says}. What growing saves are epochs."


def momentum_rows(seeds: int) -> list[str]:
    """Adam, grown in mid-training: mean loss over the 20 steps before and after, by what becomes of its state."""
    ways = ("carried (weightlapse)", "forgotten", "copied without the parts")
    after: dict[str, list[float]] = {way: [] for way in ways}
    last: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(seeds):
        data = digits(seed)
        torch.manual_seed(seed)
        teacher = mlp(64, 32, 32, 10)
        optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
        rng = torch.Generator().manual_seed(seed)
        for _ in range(4):
            epoch(teacher, optimizer, data, rng)
        twin = copy.deepcopy((teacher, optimizer))
        baseline = epoch(*twin, data, torch.Generator().manual_seed(seed), 20)
        for way in ways:
            g = wl.widen(teacher, {"0": 96, "2": 96}, data[0][:64], optimizer=optimizer, seed=seed)
            use = g.optimizer
            if way == "forgotten":
                use = torch.optim.Adam(g.model.parameters(), lr=3e-3)
            if way == "copied without the parts":
                undo_parts(g, optimizer, teacher)
            losses = epoch(g.model, use, data, torch.Generator().manual_seed(seed), 20)
            after[way].append(max(losses[:5]) / statistics.mean(baseline[:5]))
            last[way].append(statistics.mean(losses) / statistics.mean(baseline))
    return [f"| {way} | {spread(after[way], '.2f')} | {spread(last[way], '.2f')} |" for way in ways]


def undo_parts(g: Growth, optimizer: torch.optim.Optimizer, teacher: nn.Module) -> None:
    """What a plain gather of the state gives: producers' moments without c and c squared."""
    old = dict(teacher.named_parameters())
    for name, p in g.model.named_parameters():
        group = {"0": None, "2": "0", "4": "2"}[name.split(".")[0]]
        own = name.split(".")[0] if name.split(".")[0] in g.lineage else None
        for key in ("exp_avg", "exp_avg_sq"):
            value = optimizer.state[old[name]][key]
            if own is not None:
                value = value[torch.as_tensor(g.lineage[own])]
            if group is not None and value.ndim > 1:
                value = value[:, torch.as_tensor(g.lineage[group])]
            g.optimizer.state[p][key] = value.clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--teacher", type=int, default=10, help="epochs of the teacher")
    arguments = parser.parse_args()
    started = time.perf_counter()
    teachers: dict[int, tuple[nn.Sequential, Data, float]] = {}
    for seed in range(arguments.seeds):
        data = digits(seed)
        torch.manual_seed(seed)
        teacher = mlp(64, 32, 32, 10)
        seen = curve(teacher, data, arguments.teacher, seed, sgd(teacher, RATE))
        teachers[seed] = (teacher, data, max(seen))
    ends = [accuracy(t, d) for t, d, _ in teachers.values()]
    wide_rows, wide_ends = rows_of(wider(96), teachers, arguments.epochs)
    deep_rows, deep_ends = rows_of(deeper(), teachers, arguments.epochs)
    head = (
        "| start | before training | after 1 epoch | epochs to the teacher's best | at the end |\n|---|---|---|---|---|"
    )
    text = [
        "# What growing is worth on digits",
        "",
        f"Teacher 64-32-32-10, SGD {RATE} with momentum {MOMENTUM}, batch {BATCH}, {arguments.teacher} epochs; best test accuracy "
        f"{spread([m for _, _, m in teachers.values()], '.3f')}, at its end {spread(ends, '.3f')}. Then {arguments.epochs} epochs, each "
        f"way. Medians [smallest, largest] over {arguments.seeds} seeds (split, weights, order).",
        "",
        "## Wider: 64-96-96-10",
        "",
        head,
        *wide_rows,
        "",
        verdict(wide_ends, "wl.widen, random parts"),
        "",
        "## Deeper: one more layer of 32",
        "",
        head,
        *deep_rows,
        "",
        verdict(deep_ends, "wl.deepen residual"),
        "",
        "## Adam's state when the network grows in mid-training",
        "",
        "After 4 epochs of Adam (0.003) the network is widened to 64-96-96-10 and trained on with the same batches as its unchanged twin. "
        "Ratios to the twin's loss: the largest of the first 5 steps over the twin's mean of them, and the mean of 20 steps.",
        "",
        "| moments | largest of the first 5 | mean of 20 |\n|---|---|---|",
        *momentum_rows(arguments.seeds),
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread; "
        f"{time.perf_counter() - started:.0f} s in all.",
    ]
    print("\n".join(text))
    (HERE / "results" / "grow.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

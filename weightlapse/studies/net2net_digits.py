"""The same question on real digits: a convolutional network with BatchNorm, grown wider and deeper, its optimizer carried or not."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weightlapse.growth.deepen import deepen
from weightlapse.growth.widen import widen
from weightlapse.progress import track
from weightlapse.studies.results import Results

SEEDS = {False: 3, True: 1}
EPOCHS = {False: (8, 4), True: (3, 2)}  # of the teacher and of its students
BATCH = 64
WIDER = {"conv1": 12, "conv2": 24}


def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    xs, ys = torch.tensor(x[order] / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y[order])
    return xs[:1400], ys[:1400], xs[1400:], ys[1400:]


def _network(a: int = 8, b: int = 16) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, a, 3, padding=1), bn1=nn.BatchNorm2d(a), act1=nn.ReLU(),
            conv2=nn.Conv2d(a, b, 3, padding=1), bn2=nn.BatchNorm2d(b), act2=nn.ReLU(), pool=nn.MaxPool2d(2), flat=nn.Flatten(), fc=nn.Linear(16 * b, 10),
        )
    )  # fmt: skip


def _accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    net.eval()
    with torch.no_grad():
        right = float((net(x).argmax(dim=1) == y).float().mean())
    net.train()
    return right


def _train(
    net: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, seed: int, data: tuple[Tensor, ...]
) -> tuple[list[float], list[float]]:
    """Test accuracy before and after each epoch, and the training loss of every step."""
    x, y, x_test, y_test = data
    order = torch.Generator().manual_seed(seed)
    right, losses = [_accuracy(net, x_test, y_test)], []
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(BATCH):
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        right.append(_accuracy(net, x_test, y_test))
    return right, losses


def _adam(net: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(net.parameters(), lr=3e-3)


def digits_part(results: Results) -> None:
    """Adds ``cnn_*`` values and curves to the results."""
    data = _digits()
    teacher_epochs, student_epochs = EPOCHS[results.quick]
    rows: dict[str, list[Any]] = {k: [] for k in ("carried", "fresh", "deeper", "padded", "scratch")}
    errors: dict[str, list[float]] = {"widen": [], "deepen": []}
    first_losses: dict[str, list[float]] = {"carried": [], "fresh": []}
    for seed in track(range(SEEDS[results.quick]), "digits"):
        torch.manual_seed(seed)
        teacher = _network()
        optimizer = _adam(teacher)
        _train(teacher, optimizer, teacher_epochs, seed, data)
        teacher.eval()
        grown = widen(teacher, WIDER, data[0][:32], optimizer=optimizer, seed=seed)
        deeper = deepen(teacher, data[0][:32], after="conv2")
        teacher.train()
        errors["widen"].append(grown.error)
        errors["deepen"].append(deeper.error)
        fresh = widen(teacher.eval(), WIDER, data[0][:32], seed=seed).model
        torch.manual_seed(1000 + seed)
        scratch, padded = _network(*WIDER.values()), _network(*WIDER.values())
        _pad(padded, teacher)
        students = {
            "carried": (grown.model, grown.optimizer), "fresh": (fresh, _adam(fresh)), "deeper": (deeper.model, _adam(deeper.model)),
            "padded": (padded, _adam(padded)), "scratch": (scratch, _adam(scratch)),
        }  # fmt: skip
        for name, (net, own) in students.items():
            net.train()
            right, losses = _train(net, own, student_epochs, 2000 + seed, data)
            rows[name].append(right)
            if name in first_losses:
                first_losses[name].append(float(np.mean(losses[:5])))
    words = {
        "carried": "widened, optimizer carried", "fresh": "widened, new optimizer", "deeper": "one block deeper, new optimizer",
        "padded": "teacher's channels and random ones", "scratch": "of the wider size, from scratch",
    }  # fmt: skip
    for name, curves in rows.items():
        results.value(
            f"cnn_{name}_start",
            [c[0] for c in curves],
            "fraction",
            f"Digits CNN, {words[name]}: test accuracy before training",
        )
        results.value(
            f"cnn_{name}_end",
            [c[-1] for c in curves],
            "fraction",
            f"Digits CNN, {words[name]}: after {student_epochs} epochs",
        )
        results.curve(f"cnn_{name}", range(student_epochs + 1), curves)
    for kind, values in errors.items():
        results.value(
            f"cnn_{kind}_error",
            values,
            "relative",
            f"Digits CNN with BatchNorm: certified difference after {'widening' if kind == 'widen' else 'deepening'}",
        )
    for kind, values in first_losses.items():
        results.value(
            f"cnn_{kind}_first_steps",
            values,
            "nats",
            f"Digits CNN, {words[kind]}: training loss over the first five steps",
        )


def _pad(net: nn.Module, teacher: nn.Module) -> None:
    """The teacher's values in the first places of every tensor; flattened channels keep their place."""
    old = teacher.state_dict()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.ndim:
                value[tuple(slice(0, n) for n in old[name].shape)] = old[name]

"""What does each well-known mistake in growing cost? Every rule beside the right one, on trained networks of digits.

Each mistake is made by hand on a network that was grown correctly, in the way it is found in published code. Printed: how far the
outputs move (largest, relative, float64), test accuracy before and right after, and how many epochs of training it takes to be
back at the teacher's accuracy. Medians over seeds.

    python bench/grow_wrong_rules.py [--seeds 5]
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from grow import Data, accuracy, digits, epoch, mlp, reached, sgd
from torch import nn

import weightlapse as wl
from weightlapse.growth.result import Growth

torch.set_num_threads(1)
HERE = Path(__file__).parent


class Skip(nn.Module):
    """A residual convolutional network with BatchNorm: several readers of one stream, statistics, a flattened end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.bn0(self.stem(x.view(-1, 1, 8, 8))))
        h = F.relu(h + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(h))))))
        return self.head(F.max_pool2d(h, 2).flatten(1))


Rule = Callable[
    [nn.Module, nn.Module, object, np.random.Generator], None
]  # teacher, grown (changed in place), growth, rng


def counts(parents: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.bincount(parents)[parents], dtype=torch.float32)


# ---- the MLP 64-32-32-10, widened to 64-80-80-10 ----


def divide_incoming(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    a, b = (torch.as_tensor(g.lineage[k]) for k in ("0", "2"))
    new[0].weight.copy_(old[0].weight[a] / counts(a.numpy())[:, None])
    new[0].bias.copy_(old[0].bias[a])
    new[2].weight.copy_(old[2].weight[b][:, a] / counts(b.numpy())[:, None])
    new[2].bias.copy_(old[2].bias[b])
    new[4].weight.copy_(old[4].weight[:, b])


def forget_biases(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    for layer in ("0", "2"):
        new[int(layer)].bias[len(np.unique(g.lineage[layer])) :] = 0.0


def divide_biases(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    for layer in ("0", "2"):
        new[int(layer)].bias /= counts(g.lineage[layer])


def draw_twice(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    for layer, reader in (("0", 2), ("2", 4)):
        first = len(np.unique(g.lineage[layer]))
        other = np.concatenate([np.arange(first), rng.integers(0, first, len(g.lineage[layer]) - first)])
        columns = old[reader].weight[:, torch.as_tensor(other)] / counts(other)
        new[reader].weight.copy_(columns[torch.as_tensor(g.lineage["2"])] if reader == 2 else columns)


def divide_new_only(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    for layer, reader in (("0", 2), ("2", 4)):
        parents = g.lineage[layer]
        first = len(np.unique(parents))
        columns = old[reader].weight[:, torch.as_tensor(parents)].clone()
        columns[:, first:] /= counts(parents)[first:]
        new[reader].weight.copy_(columns[torch.as_tensor(g.lineage["2"])] if reader == 2 else columns)


def noise(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    for layer in ("0", "2"):
        weight = new[int(layer)].weight
        first = len(np.unique(g.lineage[layer]))
        weight[first:] += (
            0.05 * weight.std() * torch.as_tensor(rng.normal(size=weight[first:].shape), dtype=torch.float32)
        )


# ---- the residual network, its stream widened from 8 to 13 channels ----


def only_the_next_layer(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    p = torch.as_tensor(g.lineage["stem"])
    # conv1 is divided, the end behind the skip is forgotten
    new.head.weight.copy_(old.head.weight.view(10, 8, 16)[:, p].flatten(1))


def last_statistics(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    for norm in (new.bn0, new.bn2):
        norm.running_mean[8:], norm.running_var[8:] = norm.running_mean[7].clone(), norm.running_var[7].clone()


def fresh_statistics(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    for norm in (new.bn0, new.bn2):
        norm.running_mean[8:], norm.running_var[8:] = 0.0, 1.0


def forget_gains(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    for norm in (new.bn0, new.bn2):
        norm.weight[8:], norm.bias[8:] = 1.0, 0.0


# ---- deeper ----


def off_centre(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    kernel = new.bn1[2].weight
    kernel.copy_(kernel.roll((1, 1), (2, 3)))


def uncalibrated(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    new.bn1[3].weight.fill_(1.0)
    new.bn1[3].bias.zero_()


def identity_after_tanh(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    insert = new[2][1]
    insert.up, insert.activation, insert.down = nn.Identity(), nn.Tanh(), nn.Identity()
    new[2][1] = nn.Sequential(nn.Tanh(), nn.Linear(32, 32))
    new[2][1][1].weight.copy_(torch.eye(32))
    new[2][1][1].bias.zero_()


def nothing(old: Any, new: Any, g: Growth, rng: np.random.Generator) -> None:
    """The right rule: weightlapse's result as it is."""


def widened_mlp(teacher: nn.Module, data: Data, seed: int) -> Growth:
    return wl.widen(teacher, {"0": 80, "2": 80}, data[0][:64], seed=seed)


def widened_stream(teacher: nn.Module, data: Data, seed: int) -> Growth:
    return wl.widen(teacher, {"stem": 13}, data[0][:64], seed=seed)


def deeper_convolution(teacher: nn.Module, data: Data, seed: int) -> Growth:
    return wl.deepen(teacher, data[0][:256], after="conv1")


def deeper_tanh(teacher: nn.Module, data: Data, seed: int) -> Growth:
    return wl.deepen(teacher, data[0][:64], after="2", seed=seed)


def tanh_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))


CASES: list[tuple[str, Callable[[], nn.Module], Callable[..., Growth], list[tuple[str, Rule]]]] = [
    (
        "MLP 64-32-32-10 to 64-80-80-10",
        lambda: mlp(64, 32, 32, 10),
        widened_mlp,
        [
            ("**weightlapse**", nothing),
            ("incoming weights divided instead of outgoing", divide_incoming),
            ("biases of new units forgotten", forget_biases),
            ("biases divided like weights", divide_biases),
            ("mapping drawn twice (reader and maker disagree)", draw_twice),
            ("only the new columns divided", divide_new_only),
            ("noise of 5 % called function-preserving", noise),
        ],
    ),
    (
        "residual network with BatchNorm, stream 8 to 13",
        Skip,
        widened_stream,
        [
            ("**weightlapse**", nothing),
            ("later readers forgotten (only the next layer divided)", only_the_next_layer),
            ("statistics of new channels copied from the last one", last_statistics),
            ("statistics of new channels left at 0 and 1", fresh_statistics),
            ("gains and shifts of new channels left at 1 and 0", forget_gains),
        ],
    ),
    (
        "the same, one convolution deeper",
        Skip,
        deeper_convolution,
        [
            ("**weightlapse**", nothing),
            ("identity kernel one pixel off its centre", off_centre),
            ("inserted BatchNorm with gain 1, shift 0", uncalibrated),
        ],
    ),
    (
        "tanh MLP 64-32-32-10, one layer deeper",
        tanh_mlp,
        deeper_tanh,
        [("**weightlapse** (residual insert)", nothing), ("identity layer after tanh", identity_after_tanh)],
    ),
]


def moved(old: nn.Module, new: nn.Module, x: torch.Tensor) -> float:
    """The largest change of any output, relative to the largest output, in float64 and eval mode."""
    with torch.no_grad():
        a, b = (copy.deepcopy(m).double().eval()(x.double()) for m in (old, new))
    return ((a - b).abs().max() / a.abs().max()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    text = [
        "# What each mistake in growing costs",
        "",
        f"Digits, teachers trained for 8 epochs (SGD 0.05, momentum 0.9); medians over {arguments.seeds} seeds. The outputs' movement is "
        "the largest difference relative to the largest output, in float64. Epochs: until the accuracy before growing is back (at most 10).",
    ]
    for title, make, grow, rules in CASES:
        found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name, _ in rules}
        for seed in range(arguments.seeds):
            data = digits(seed)
            torch.manual_seed(seed)
            teacher = make()
            optimizer, rng = sgd(teacher, 0.05), torch.Generator().manual_seed(seed)
            for _ in range(8):
                epoch(teacher, optimizer, data, rng)
            before = accuracy(teacher, data)
            growth = grow(teacher, data, seed)
            for name, rule in rules:
                new = copy.deepcopy(growth.model)
                with torch.no_grad():
                    rule(teacher, new, growth, np.random.default_rng(seed))
                error, after = moved(teacher, new, data[2]), accuracy(new, data)
                seen, use, order = [after], sgd(new, 0.05), torch.Generator().manual_seed(seed)
                while len(seen) < 11 and seen[-1] < before:
                    epoch(new, use, data, order)
                    seen.append(accuracy(new, data))
                back = 0.0 if after >= before else reached(seen, before)
                found[name].append((error, before, after, back))
        text += [
            "",
            f"## {title}",
            "",
            "| rule | outputs move by | accuracy before | right after | epochs until back |",
            "|---|---|---|---|---|",
        ]
        for name, rows in found.items():
            error, before, after, back = (statistics.median(column) for column in zip(*rows, strict=True))
            text.append(
                f"| {name} | {error:.1e} | {before:.3f} | {after:.3f} | {'> 10' if back > 10 else f'{back:.0f}'} |"
            )
    text += ["", f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread."]
    print("\n".join(text))
    (HERE / "results" / "grow_wrong_rules.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

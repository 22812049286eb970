"""What does recording every weight at every step cost the training loop?

Each recorder and "none" train the same network, round after round in one run, so that a busy machine hurts all alike. Reported: the median
time of a step against the median without recording, and the median time of the record call itself.

    python bench/overhead.py [--steps N] [--rounds N]
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

import weightlapse as wl

HERE = Path(__file__).parent
Record = Callable[[nn.Module, torch.optim.Optimizer, int], None]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    def block(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]

    body = [*block(1, 32), *block(32, 64), nn.MaxPool2d(2), *block(64, 128), nn.MaxPool2d(2)]
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), *body, nn.Flatten(), nn.Linear(512, 592), nn.ReLU(), nn.Linear(592, 10)
    )


@contextmanager
def nothing(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Record | None]:
    yield None


@contextmanager
def weightlapse(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Record | None]:
    """By hand instead of by the optimizer's hook, so that the call can be timed; it does the same."""
    with wl.watch(model, folder / "run") as rec:
        yield lambda model, optimizer, step: rec.step()


@contextmanager
def torch_save(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Record | None]:
    yield lambda model, optimizer, step: torch.save(model.state_dict(), folder / f"{step}.pt")


@contextmanager
def safetensors(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Record | None]:
    from safetensors.torch import save_file

    yield lambda model, optimizer, step: save_file(model.state_dict(), folder / f"{step}.safetensors")


@contextmanager
def tensorboard(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Record | None]:
    from torch.utils.tensorboard import SummaryWriter

    def record(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        for name, parameter in model.named_parameters():
            board.add_histogram(name, parameter, step)

    with SummaryWriter(str(folder)) as board:
        yield record


RECORDERS = {
    "none": nothing,
    "weightlapse": weightlapse,
    "torch.save": torch_save,
    "safetensors": safetensors,
    "TensorBoard histograms": tensorboard,
}


def one_round(make: Callable[[], nn.Module], recorder: str, steps: int) -> tuple[list[float], list[float], float]:
    """Seconds of each step and of each record call, and the CPU seconds of all threads per step."""
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x, y = torch.randn(64, 64), torch.randint(0, 10, (64,))
    folder = Path(tempfile.mkdtemp())
    whole, calls = [], []
    cpu = time.process_time()
    with RECORDERS[recorder](model, optimizer, folder) as record:
        for step in range(steps):
            start = time.perf_counter()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            before = time.perf_counter()
            if record is not None:
                record(model, optimizer, step)
            end = time.perf_counter()
            whole.append(end - start)
            calls.append(end - before)
    cpu = (time.process_time() - cpu) / steps
    shutil.rmtree(folder)
    return whole[steps // 10 :], calls[steps // 10 :], cpu


def table(title: str, make: Callable[[], nn.Module], steps: int, rounds: int) -> list[str]:
    seconds: dict[str, list[float]] = {name: [] for name in RECORDERS}
    calls: dict[str, list[float]] = {name: [] for name in RECORDERS}
    cpus: dict[str, list[float]] = {name: [] for name in RECORDERS}
    for _ in range(rounds):
        for name in RECORDERS:
            short = steps if name in ("none", "weightlapse") else max(20, steps // 8)
            whole, call, cpu = one_round(make, name, short)
            seconds[name].append(statistics.median(whole))
            calls[name].append(statistics.median(call))
            cpus[name].append(cpu)
    count = sum(p.numel() for p in make().parameters())
    base = statistics.median(seconds["none"])
    base_cpu = statistics.median(cpus["none"])
    lines = [f"**{title}**, {count:,} weights, a step takes {base * 1e3:.2f} ms without recording", ""]
    lines += ["| recorder | step is slower by | record call | CPU of all threads |", "|---|---|---|---|"]
    for name in RECORDERS:
        slower = statistics.median(a / b for a, b in zip(seconds[name], seconds["none"])) - 1
        call = statistics.median(calls[name]) * 1e6
        cpu = statistics.median(cpus[name]) / base_cpu - 1
        lines.append(
            f"| {name} | {slower:+.1%} | {call:,.1f} µs | {cpu:+.0%} |" if name != "none" else "| none | | | |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    facts = (
        f"{len(__import__('os').sched_getaffinity(0))} cores, one torch thread, Python {platform.python_version()}, "
    )
    facts += f"torch {torch.__version__}, NumPy {np.__version__}, weightlapse {wl.__version__}"
    lines = ["# What recording every weight at every step costs the training loop", "", facts, ""]
    lines += table("Digits MLP 64-128-64-10, batch 64, Adam", mlp, arguments.steps, arguments.rounds)
    lines += table("CNN (conv + batch norm), batch 64, Adam", cnn, max(60, arguments.steps // 10), arguments.rounds)
    lines += [
        "Medians over rounds; each recorder is compared with 'none' of its own round. torch.save, safetensors and weightlapse keep"
    ]
    lines += ["every value; TensorBoard keeps histograms."]
    text = "\n".join(lines) + "\n"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "overhead.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

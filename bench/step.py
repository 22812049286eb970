"""What does the call take that a user makes: ``rec.step()``?

Networks of few and of many small tensors, recorded from torch (``rec.step()``) and as a mapping that is made anew at each step (``rec.step(mapping)``),
beside ``torch.save`` of the same weights, in turns of a few dozen steps in one process. The weights move before each call, and every row of the ring
is another one than the last. CPU time of the training thread; the first 256 steps (each row of the ring for the first time) are told by themselves.

    python bench/step.py [--rounds N]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from stores import machine
from torch import nn

import weightlapse as wl

HERE = Path(__file__).parent
FIRST, TURN = 256, 40
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "6 (digits MLP)": [(128, 64), (128,), (64, 128), (64,), (10, 64), (10,)],
    "24": [(32, 32), (32,)] * 12,
    "200 of 16 x 16": [(16, 16)] * 200,
    "1,000 of 4 x 4": [(4, 4)] * 1000,
    "10,000 of 4 x 4": [(4, 4)] * 10_000,
}


class Torch:
    """A module of these tensors, and the call that records it."""

    def __init__(self, shapes: list[tuple[int, ...]], folder: Path) -> None:
        self.model = nn.ParameterList([torch.randn(shape) for shape in shapes])
        self.parts = list(self.model)
        self.rec = wl.watch(self.model, folder / "torch", compact="never")

    @torch.no_grad()
    def move(self) -> None:
        torch._foreach_add_(self.parts, 1e-3)  # as optimizers do

    def call(self) -> None:
        self.rec.step()


class Mapping:
    def __init__(self, shapes: list[tuple[int, ...]], folder: Path) -> None:
        self.weights = {
            f"layer{i}.weight": np.random.default_rng(i).normal(size=shape).astype(np.float32)
            for i, shape in enumerate(shapes)
        }
        self.rec = wl.watch(self.weights, folder / "mapping", compact="never")

    def move(self) -> None:
        self.weights = {name: values + np.float32(1e-3) for name, values in self.weights.items()}

    def call(self) -> None:
        self.rec.step(self.weights)


class Saved:
    rec = None

    def __init__(self, shapes: list[tuple[int, ...]], folder: Path) -> None:
        self.model, self.path = nn.ParameterList([torch.randn(shape) for shape in shapes]), folder / "saved.pt"

    def move(self) -> None:
        torch._foreach_add_([p.data for p in self.model], 1e-3)

    def call(self) -> None:
        torch.save(self.model.state_dict(), self.path)


def timed(move: Callable[[], None], call: Callable[[], None], steps: int) -> list[float]:
    """Microseconds of CPU of each call."""
    found = []
    for _ in range(steps):
        move()
        begun = time.thread_time()
        call()
        found.append(1e6 * (time.thread_time() - begun))
    return found


def row(name: str, shapes: list[tuple[int, ...]], rounds: int) -> str:
    folder = Path(tempfile.mkdtemp())
    ways = {"torch": Torch(shapes, folder), "mapping": Mapping(shapes, folder), "torch.save": Saved(shapes, folder)}
    many = len(shapes) > 1000
    first = {
        way: statistics.mean(timed(w.move, w.call, 20 if many else FIRST))
        for way, w in ways.items()
        if w.rec is not None
    }
    turns: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, w in ways.items():
            turns[way].append(
                statistics.median(timed(w.move, w.call, 2 if way == "torch.save" else TURN // (8 if many else 1)))
            )
    for w in ways.values():
        if w.rec is not None:
            w.rec.close()
    shutil.rmtree(folder)
    found = {way: statistics.median(times) for way, times in turns.items()}
    dearer = statistics.median(saved / ours for saved, ours in zip(turns["torch.save"], turns["torch"]))
    times = [first["torch"], found["torch"], first["mapping"], found["mapping"], found["torch.save"]]
    return f"| {name} | " + " | ".join(f"{t:,.0f}" for t in times) + f" | {dearer:,.0f}× |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["# What the record call takes", "", machine(), ""]
    lines += [
        "| tensors | rec.step(), first 256 on average | later | rec.step(mapping), first 256 | later | torch.save | dearer than rec.step() |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    lines += [row(name, shapes, arguments.rounds) for name, shapes in SHAPES.items()]
    lines += [
        "",
        "Microseconds of CPU of the training thread; medians over turns that alternate, the first steps averages (of 20 for 10,000 tensors).",
    ]
    text = "\n".join(lines) + "\n"
    (HERE / "results" / "step.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

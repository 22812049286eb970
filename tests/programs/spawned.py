"""Recordings where processes are spawned, as on Windows and macOS: python spawned.py FOLDER

A recorder in a spawned worker beside one in its parent; a recording that was opened here and read there; a DataLoader with spawned workers beside a recording,
its recorder within reach of the data set that the workers get a copy of.
"""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import weightlapse as wl

STEPS = 20


def train(path: Path, seed: int) -> None:
    state = {"W": np.zeros((4, 3), "f4")}
    rng = np.random.default_rng(seed)
    with wl.watch(state, path) as rec:
        for _ in range(STEPS):
            state["W"] += rng.normal(size=(4, 3)).astype("f4")
            rec.step(state)


def right(path: Path, seed: int) -> None:
    moves = np.random.default_rng(seed).normal(size=(STEPS, 4, 3)).astype("f4")
    expected = np.concatenate([np.zeros((1, 4, 3), "f4"), np.cumsum(moves, axis=0, dtype="f4")])
    assert np.array_equal(np.asarray(wl.load(path)["W"]), expected), path


def read(run: wl.Recording, answers: Any) -> None:
    answers.put(run["W"][-1])


class Data(Dataset[torch.Tensor]):
    def __init__(self, recorder: Any) -> None:
        self.recorder = recorder  # as where the data set knows the trainer

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> torch.Tensor:
        assert multiprocessing.parent_process() is not None, "not in a worker"
        return torch.full((3,), float(index))


def main() -> None:
    folder = Path(sys.argv[1])
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=train, args=(folder / f"worker {k}", k)) for k in (1, 2)]
    for worker in workers:
        worker.start()
    train(folder / "parent", 0)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    for k, name in enumerate(("parent", "worker 1", "worker 2")):
        right(folder / name, k)
    print("recorded")

    answers = spawn.Queue()
    reader = spawn.Process(target=read, args=(wl.load(folder / "parent"), answers))
    reader.start()
    assert np.array_equal(answers.get(timeout=120), wl.load(folder / "parent")["W"][-1])
    reader.join()
    print("read")

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    rec = wl.watch(model, folder / "loader", optimizer=optimizer)
    seen = [model.weight.detach().numpy().copy()]
    for batch in DataLoader(Data(rec), batch_size=4, num_workers=2, multiprocessing_context="spawn"):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        seen.append(model.weight.detach().numpy().copy())
    rec.close()
    assert len(seen) == 5
    assert np.array_equal(np.asarray(wl.load(folder / "loader")["weight"]), np.stack(seen))
    print("loaded")


if __name__ == "__main__":
    main()

"""Small networks, and how a user would record them by hand: what the recorder must equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import weightlapse as wl


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def bits(tensor: torch.Tensor) -> np.ndarray:
    """The bit patterns of a tensor, so that NaN equals NaN and -0.0 differs from 0.0."""
    tensor = tensor.detach().clone()
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def clone(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: bits(p) for name, p in model.named_parameters()}


def check(path: Path, by_hand: list[dict[str, np.ndarray]], steps: list[int] | None = None) -> wl.Recording:
    run = wl.load(path)
    assert run.steps.tolist() == (steps or list(range(len(by_hand))))
    assert set(run.names) == set(by_hand[0])
    for name in by_hand[0]:
        read, expected = run[name].raw(), np.stack([state[name] for state in by_hand])
        assert read.dtype == expected.dtype
        assert read.tobytes() == expected.tobytes(), name
    assert run.closed
    return run


def train(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    each: Callable[[int], None],
    steps: int = 12,
    batches: int = 1,
) -> None:
    dtype = next(model.parameters()).dtype
    for k in range(steps):
        for optimizer in optimizers:
            for _ in range(batches):
                model(torch.randn(5, 6, dtype=dtype)).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            each(k)

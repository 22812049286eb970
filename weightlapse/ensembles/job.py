"""One ensemble's training, ready to run here or elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightlapse.ensembles.batches import Batches
from weightlapse.ensembles.gradients import gradient_of
from weightlapse.ensembles.losses import MemberLoss, value_and_slope
from weightlapse.ensembles.optimizers import Optimizer
from weightlapse.ensembles.stack import Stack

Schedule = Callable[[int], float]


@dataclass
class Frame:
    """The networks after ``step`` updates; ``losses`` (k, n) are those since the frame before."""

    step: int
    states: dict[str, NDArray[Any]]
    losses: NDArray[np.float64]


@dataclass
class Job:
    """One ensemble's training, ready to run here or elsewhere."""

    stack: Stack
    batches: Batches
    loss: str | MemberLoss
    optimizer: Optimizer
    schedule: Schedule | None
    steps: int

    def restrict(self, members: slice) -> Job:
        """The same for some of the members; each then goes through exactly the same updates."""
        return Job(
            self.stack[members],
            self.batches.restrict(members),
            self.loss,
            self.optimizer.restrict(members),
            self.schedule,
            self.steps,
        )

    def run(self, died_at: Tensor, every: int = 0) -> Iterator[Frame]:
        """Train; yields a frame after every ``every`` updates (0: only the last) and always after the last one."""
        theta, alive, everyone = self.stack.theta, torch.ones(len(self.stack), dtype=torch.bool), True
        compute = gradient_of(self.stack, value_and_slope(self.loss))
        held: list[Tensor] = []
        for step, (x, y, per_member) in enumerate(self.batches.steps(self.steps, theta.dtype)):
            losses, gradient = compute(theta, x, y, per_member)
            # One number tells whether anyone left the finite numbers; only then does it matter who.
            fine = math.isfinite(float(losses.sum()) + float(gradient.sum())) if everyone else False
            if not fine:
                fine_now = torch.isfinite(losses) & torch.isfinite(gradient.sum(1))
                died_at[alive & ~fine_now] = step
                losses = torch.where(alive, losses, torch.nan)
                alive &= fine_now
                everyone = bool(alive.all())
                gradient = torch.where(alive[:, None], gradient, 0.0)
                keep = theta[~alive].clone()
            held.append(losses)
            self.optimizer.step(theta, gradient, 1.0 if self.schedule is None else self.schedule(step))
            if not fine:
                theta[~alive] = keep
            done = step + 1
            if done == self.steps or (every and done % every == 0):
                states = {name: value.numpy() for name, value in self.stack.states.items()}
                yield Frame(done, states, torch.stack(held).numpy().astype(np.float64))
                held = []

"""Many networks of one architecture, trained at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weightlapse import progress
from weightlapse.adapters.threads import WORTH_THREADS, single_threaded
from weightlapse.arguments import renamed
from weightlapse.ensembles.batches import Fresh, arrange
from weightlapse.ensembles.job import Job, Schedule
from weightlapse.ensembles.losses import LossName, MemberLoss
from weightlapse.ensembles.optimizers import Optimizer, OptimizerName
from weightlapse.ensembles.stack import Stack
from weightlapse.errors import InvalidArgument


@dataclass
class Ensemble:
    """What `ensemble` hands back.

    ``stack``: the trained networks; a diverged member keeps its last finite weights. ``losses`` (steps, n): each member's loss before each
    update, NaN from the step after it diverged. ``alive`` (n,) bool; ``died_at`` (n,): step whose update was refused, -1 for the living.
    ``reruns``: how often a group of members was trained again because its worker was lost (engine "ray").
    """

    stack: Stack = field(repr=False)
    losses: NDArray[np.float64] = field(repr=False)
    died_at: NDArray[np.int64] = field(repr=False)
    seeds: tuple[int, ...] = field(repr=False)
    seconds: float
    engine: str = "local"
    reruns: int = 0

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which members never met NaN or Inf, bool (n,)."""
        return self.died_at < 0

    @property
    def states(self) -> dict[str, Tensor]:
        """Name -> (n, *S)."""
        return self.stack.states

    def member(self, i: int) -> nn.Module:
        """Member ``i`` as an ordinary module (a copy)."""
        return self.stack.member(i)

    def state(self, i: int) -> dict[str, Tensor]:
        """State dict of member ``i`` (a copy)."""
        return self.stack.state(i)

    def __call__(self, x: Tensor, *, per_member: bool | None = None) -> Tensor:
        """Outputs of every member, (n, B, ...)."""
        return self.stack(x, per_member=per_member)

    def __len__(self) -> int:
        return len(self.stack)

    def __str__(self) -> str:
        dead = int((~self.alive).sum())
        last = self.losses[-1][self.alive] if len(self.losses) else np.zeros(0)
        text = f"{len(self)} networks of {self.stack.parameters} parameters, {len(self.losses)} steps"
        if len(last):
            text += f"; loss at the end {np.median(last):.3g} [{last.min():.3g}, {last.max():.3g}]"
        return text + (f"; {dead} diverged" if dead else "")


@renamed("0.3", data="fresh")
def ensemble(
    make_model: Callable[..., nn.Module] | Stack,
    n: int | None = None,
    x: Any = None,
    y: Any = None,
    *,
    fresh: Fresh | None = None,
    per_member: bool | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    loss: LossName | MemberLoss = "mse",
    optimizer: OptimizerName = "adam",
    lr: float | Sequence[float] | Tensor = 1e-3,
    schedule: Literal["cosine"] | Schedule | None = None,
    seeds: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    record: Any = None,
    record_every: int = 1,
    overwrite: bool = False,
    callback: Callable[[int, Stack], None] | None = None,
    engine: Literal["local", "ray"] = "local",
    parts: int | None = None,
    **options: Any,
) -> Ensemble:
    """Train ``n`` networks of one architecture at once and return an `Ensemble`.

    Parameters
    ----------
    make_model: ``() -> module`` or ``(seed) -> module``, called n times with torch seeded by ``seeds`` (default 0..n-1); or a `Stack`.
    x, y: data, (N, ...) for all members or (n, N, ...) each its own; ``per_member`` says so where the shape does not (anything but
        dense networks). ``fresh(step) -> (x, y)`` makes fresh batches instead.
    steps, or epochs (with x and y): how long. ``batch_size`` None is the full batch; else every member shuffles by its own seed.
    loss: "mse", "bce" (on logits), "cross_entropy" (class numbers), or a function of one member's (predictions, targets).
    optimizer: "sgd", "adam", "adamw", "rmsprop" with ``torch.optim``'s options (momentum=, betas=, ...) and semantics for each member;
        ``lr`` a number or one per member; ``schedule`` "cosine" (to zero at the end) or a function step -> factor of lr.
    record: a path: one recording with the member as first axis of every tensor, frame 0 before the first update, one frame per
        ``record_every`` steps, scalar ``loss`` (median of the living members). Or a recorder: gets ``step(states, step=, loss=)``.
    callback: ``callback(steps_done, stack)`` at the same frames.
    engine: "local", or "ray": ``parts`` groups of members (default: one per CPU of the cluster) on the Ray cluster that is connected to,
        that RAY_ADDRESS names, or else a local one. Lost workers cost time only: their members are trained again, to the same end.

    A member whose loss or gradient is not finite keeps its last finite weights and is masked from then on; the others go on.
    Norm layers in training mode update their own running statistics per member. Where no random layer is used, a member's result does
    not depend on the company it trains in.

    >>> run = ensemble(lambda: nn.Linear(2, 1), 8, torch.rand(50, 2), torch.rand(50, 1), steps=20, lr=0.1)
    >>> run.losses.shape, bool(run.alive.all()), run.states["weight"].shape
    ((20, 8), True, torch.Size([8, 1, 2]))
    """
    if isinstance(make_model, Stack):
        if n not in (None, len(make_model)):
            raise InvalidArgument(f"ensemble: n is {n}, but the stack has {len(make_model)} members")
        stack = make_model[:] if dtype is None else make_model.to(dtype)
    elif n is None:
        raise InvalidArgument("ensemble: say how many members: ensemble(make_model, n, ...)")
    else:
        stack = Stack.make(make_model, n, seeds=seeds, dtype=dtype)
    seeds = tuple(range(len(stack))) if seeds is None else tuple(int(s) for s in seeds)
    if engine not in ("local", "ray"):
        raise InvalidArgument(f"ensemble: engine must be 'local' or 'ray', not {engine!r}")
    batches = arrange(stack, x, y, fresh, per_member, batch_size, seeds)
    if (steps is None) == (epochs is None):
        raise InvalidArgument("ensemble: say how long, by steps= or by epochs=")
    count = steps if steps is not None else (epochs or 0) * batches.steps_per_epoch()
    if count < 1 or record_every < 1:
        raise InvalidArgument("ensemble: steps, epochs and record_every must be at least 1")
    rate = lr if isinstance(lr, (int, float)) else torch.as_tensor(lr, dtype=torch.float64)
    if isinstance(rate, Tensor) and rate.shape != (len(stack),):
        raise InvalidArgument(
            f"ensemble: lr has shape {tuple(rate.shape)}, expected a number or one per member ({len(stack)},)"
        )
    job = Job(stack, batches, loss, Optimizer(optimizer, rate, **options), _schedule(schedule, count), count)
    started = time.perf_counter()
    losses = np.full((count, len(stack)), np.nan)
    died_at = torch.full((len(stack),), -1)
    watched = record is not None or callback is not None
    spread = None
    if engine == "ray":
        from weightlapse.ensembles.spread import Spread

        spread = Spread(job, parts)
        frames = spread.run(died_at, record_every if watched else 0)
    else:
        frames = job.run(died_at, record_every if watched else max(1, count // 100))
    recorder, ours = _recorder(record, stack, overwrite, {"members": len(stack), "seeds": list(seeds)})
    done = 0
    try:
        small = stack.theta.numel() * batches.rows < WORTH_THREADS
        with progress.bar(f"{len(stack)} networks", total=count) as shown, single_threaded(small):
            for frame in frames:
                losses[done : frame.step] = frame.losses
                shown(frame.step - done)
                done = frame.step
                wanted = done % record_every == 0 or done == count
                if recorder is not None and wanted:
                    recorder.step(frame.states, step=done, loss=_median(frame.losses[-1]))
                if callback is not None and wanted:
                    callback(done, stack if spread is None else stack.with_states(frame.states))
    finally:
        if ours:
            recorder.close()
    if spread is not None:
        stack = stack.with_states(frame.states)
    return Ensemble(
        stack,
        losses,
        died_at.numpy(),
        seeds,
        time.perf_counter() - started,
        engine,
        0 if spread is None else spread.reruns,
    )


def _median(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else math.nan


def _schedule(schedule: str | Schedule | None, steps: int) -> Schedule | None:
    if schedule is None or callable(schedule):
        return schedule
    if schedule != "cosine":
        raise InvalidArgument(
            f"ensemble: schedule must be 'cosine', a function step -> factor, or None, not {schedule!r}"
        )
    return lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))


def _recorder(record: Any, stack: Stack, overwrite: bool, meta: dict[str, Any]) -> tuple[Any, bool]:
    """The recorder to write to (or None), and whether it is ours to close."""
    if not isinstance(record, (str, Path)):
        return record, False
    from weightlapse.capture.watch import watch

    states = {name: value.numpy() for name, value in stack.states.items()}
    return watch(states, record, overwrite=overwrite, meta=meta), True

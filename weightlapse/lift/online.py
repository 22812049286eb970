"""The exact online loop in NumPy: one sample, one update, for dense generators that write dense tasks.

The same updates through one framework call per sample take milliseconds each; here a sample costs some forty small array operations,
all into buffers allocated once. `compiled.py` is the same loop for the compiler, and must agree with this one to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weightlapse.lift.dense import TINY, passes, stepper
from weightlapse.lift.plan import Plan, Vector
from weightlapse.lift.rules import Rule


@dataclass
class OnlineState:
    """Everything that changes from sample to sample. ``weights`` is the generator, ``moment`` and ``task_moment`` RMSprop's averages."""

    weights: Vector
    moment: Vector
    task_moment: Vector
    base: Vector  # added to what the generator writes
    start: Vector  # where rule "fixed_start" begins

    @classmethod
    def begin(cls, weights: Vector, base: Vector, start: Vector) -> OnlineState:
        return cls(weights, np.zeros_like(weights), np.zeros_like(base), base, start)


Run = Callable[[NDArray[np.int64], Vector, Vector], None]


def runner(rule: Rule, generator: Plan, task: Plan, state: OnlineState, hyper: Vector, x: Vector, y: Vector) -> Run:
    """A function (order, loss, target_loss) that updates ``state`` in place on the samples ``order``, one after the other.

    ``hyper`` (N, H), ``x`` (N, in) and ``y`` (N, out) are float64. ``loss`` and ``target_loss`` (len(order),) are filled: the task's mean
    squared error before the update, and the generator's distance to its target.
    """
    count = task.total
    output, raw, written = np.zeros(task.sizes[-1]), np.zeros(count), np.zeros(count)
    slope, weights, gradient, moved = np.zeros_like(output), np.zeros(count), np.zeros(count), np.zeros(count)
    grad_weights = np.zeros(generator.total)
    write_forward, write_backward = passes(generator, state.weights, raw, grad_weights)
    task_forward, task_backward = passes(task, weights, output, gradient)
    step = stepper(rule, rule.optimizer, rule.lr, state.weights, state.moment)
    task_step = stepper(rule, rule.task_optimizer, rule.task_lr, weights, state.task_moment)
    end_to_end, fixed = rule.name == "end_to_end", rule.name == "fixed_start"
    scale, pull = 2.0 / len(output), 2.0 / count

    def task_gradient(sample: int) -> None:
        task_forward(x[sample])
        np.subtract(output, y[sample], out=slope)

    def run(order: NDArray[np.int64], loss: Vector, target_loss: Vector) -> None:
        for i, sample in enumerate(order.tolist()):
            write_forward(hyper[sample])
            np.add(raw, state.base, out=written)
            weights[:] = written
            task_gradient(sample)
            loss[i] = slope.dot(slope) / len(slope)
            if end_to_end:
                np.multiply(slope, scale, out=slope)
                task_backward(x[sample], slope)
                write_backward(hyper[sample], gradient)
            else:
                if fixed:
                    weights[:] = state.start
                for inner in range(rule.inner_steps):
                    if fixed or inner:
                        task_gradient(sample)
                    np.multiply(slope, scale, out=slope)
                    task_backward(x[sample], slope)
                    task_step(gradient)
                np.subtract(written, weights, out=moved)
                target_loss[i] = moved.dot(moved) / count
                write_backward(hyper[sample], np.multiply(moved, pull, out=moved))
            step(grad_weights)
            if i % 512 == 511:
                _flush(state)
        if end_to_end:
            target_loss[:] = np.nan
        _flush(state)

    return run


def _flush(state: OnlineState) -> None:
    """Denormal second moments of dead units to zero."""
    state.moment[state.moment < TINY] = 0.0
    state.task_moment[state.task_moment < TINY] = 0.0

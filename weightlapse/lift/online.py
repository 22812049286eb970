"""The exact online loop in NumPy: one sample, one update, for dense generators that write dense tasks.

The same updates through one framework call per sample take milliseconds each; here a sample costs some forty small array operations,
all into buffers allocated once. `compiled.py` is the same loop for the compiler, and must agree with this one to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weightlapse.lift.plan import Plan, Vector
from weightlapse.lift.rules import Rule

# Second moments of units that died decay for ever; below this their root is nothing beside any epsilon, and denormals are slow.
TINY = 1e-200


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
    write_forward, write_backward = _passes(generator, state.weights, raw, grad_weights)
    task_forward, task_backward = _passes(task, weights, output, gradient)
    step = _stepper(rule, rule.optimizer, rule.lr, state.weights, state.moment)
    task_step = _stepper(rule, rule.task_optimizer, rule.task_lr, weights, state.task_moment)
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
    state.moment[state.moment < TINY] = 0.0
    state.task_moment[state.task_moment < TINY] = 0.0


Pass = Callable[[Vector], None]
Backward = Callable[[Vector, Vector], None]


def _passes(plan: Plan, flat: Vector, output: Vector, gradient: Vector) -> tuple[Pass, Backward]:
    """Forward x -> ``output`` with the weights in ``flat``; backward (x, d loss / d output) -> ``gradient``, after a forward of the same x."""
    layers, grads = plan.views(flat), plan.views(gradient)
    values = [np.zeros(n) for n in plan.sizes[1:-1]] + [output]
    deltas = [np.zeros(n) for n in plan.sizes[1:]]
    acts = [int(a) for a in plan.acts]
    last = len(layers) - 1

    def forward(x: Vector) -> None:
        for (weight, bias), value, act in zip(layers, values, acts, strict=True):
            np.dot(weight, x, out=value)
            if bias is not None:
                np.add(value, bias, out=value)
            if act == 1:
                np.maximum(value, 0.0, out=value)
            elif act == 2:
                np.tanh(value, out=value)
            elif act == 3:
                np.divide(1.0, 1.0 + np.exp(-value), out=value)
            x = value

    def backward(x: Vector, outer: Vector) -> None:
        delta = outer
        for i in range(last, -1, -1):
            value, act = values[i], acts[i]
            if act == 1:
                delta = np.multiply(delta, value > 0, out=deltas[i])
            elif act == 2:
                delta = np.multiply(delta, 1.0 - value * value, out=deltas[i])
            elif act == 3:
                delta = np.multiply(delta, value * (1.0 - value), out=deltas[i])
            weight, bias = grads[i]
            np.multiply(delta[:, None], values[i - 1] if i else x, out=weight)
            if bias is not None:
                bias[:] = delta
            if i:
                delta = np.dot(delta, layers[i][0], out=deltas[i - 1])

    return forward, backward


def _stepper(rule: Rule, optimizer: str, lr: float, flat: Vector, moment: Vector) -> Pass:
    """One optimizer step on ``flat`` in place, given the gradient."""
    scratch = np.empty_like(flat)
    rho, rest, eps, inside = rule.rho, 1.0 - rule.rho, rule.eps, rule.eps_inside

    def sgd(gradient: Vector) -> None:
        np.multiply(gradient, lr, out=scratch)
        np.subtract(flat, scratch, out=flat)

    def rmsprop(gradient: Vector) -> None:
        np.multiply(gradient, gradient, out=scratch)
        np.multiply(scratch, rest, out=scratch)
        np.multiply(moment, rho, out=moment)
        np.add(moment, scratch, out=moment)
        if inside:
            np.add(moment, eps, out=scratch)
            np.sqrt(scratch, out=scratch)
        else:
            np.sqrt(moment, out=scratch)
            np.add(scratch, eps, out=scratch)
        np.divide(gradient, scratch, out=scratch)
        np.multiply(scratch, lr, out=scratch)
        np.subtract(flat, scratch, out=flat)

    return sgd if optimizer == "sgd" else rmsprop

"""The exact online loop in NumPy: one sample, one update, for dense generators that write dense tasks.

The same updates through framework calls take milliseconds a sample; here it is some thirty small array operations.
`compiled.py` is the same loop for the compiler, and must agree with this one to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from weightlapse.lift.dense import TINY, passes, stepper, with_one
from weightlapse.lift.parameters import Offsets, Vector
from weightlapse.lift.rules import Rule

Run = Callable[[NDArray[np.int64], Vector, Vector], None]


class OnlineLoop:
    """Trains a generator on single samples. Flat vectors (``weights``, ``base``, ``start``) are in module order, as `parameters.read` gives them.

    ``base`` is added to what the generator writes; ``start`` is where rule "fixed_start" begins. ``hyper`` (N, H), ``x`` (N, in) and
    ``y`` (N, out) are float64.
    """

    def __init__(
        self,
        rule: Rule,
        generator: Offsets,
        task: Offsets,
        weights: Vector,
        base: Vector,
        start: Vector,
        hyper: Vector,
        x: Vector,
        y: Vector,
    ) -> None:
        of_task = task.gathered()
        self._gathered = generator.gathered(rows=of_task)
        self._weights = weights[self._gathered]
        self._moments = np.zeros_like(self._weights), np.zeros(task.total)
        self._advance = self._runner(
            rule, generator, task, base[of_task], start[of_task], with_one(hyper), with_one(x), y
        )

    def weights(self) -> Vector:
        """The generator as it now is, in module order."""
        flat = np.empty_like(self._weights)
        flat[self._gathered] = self._weights
        return flat

    def run(self, order: NDArray[np.int64], loss: Vector, target_loss: Vector) -> None:
        """Update on the samples ``order``, one after the other. ``loss`` and ``target_loss`` (len(order),) are filled: the task's mean
        squared error before the update, and the generator's distance to its target."""
        for at in range(0, len(order), 512):
            part = slice(at, at + 512)
            self._advance(order[part], loss[part], target_loss[part])
            for moment in self._moments:
                moment[moment < TINY] = 0.0

    def _runner(
        self,
        rule: Rule,
        generator: Offsets,
        task: Offsets,
        base: Vector,
        start: Vector,
        hyper: Vector,
        x: Vector,
        y: Vector,
    ) -> Run:
        count, outputs = task.total, y.shape[1]
        raw, weights, gradient, moved = np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count)
        output, slope = np.zeros(outputs), np.zeros(outputs)
        grad_weights = np.zeros(generator.total)
        write_forward, write_backward = passes(generator, self._weights, raw, grad_weights)
        task_forward, task_backward = passes(task, weights, output, gradient)
        step = stepper(rule, rule.optimizer, rule.lr, self._moments[0])
        task_step = stepper(rule, rule.task_optimizer, rule.task_lr, self._moments[1])
        end_to_end, fixed = rule.name == "end_to_end", rule.name == "fixed_start"
        scale, pull = np.full(outputs, 2.0 / outputs), np.full(count, 2.0 / count)
        add, subtract, multiply = np.add, np.subtract, np.multiply

        def run(order: NDArray[np.int64], loss: Vector, target_loss: Vector) -> None:
            for i, sample in enumerate(order.tolist()):
                xi, yi, hi = x[sample], y[sample], hyper[sample]
                write_forward(hi)
                add(raw, base, out=weights)
                task_forward(xi)
                subtract(output, yi, out=slope)
                loss[i] = slope.dot(slope) / outputs
                if fixed:
                    subtract(weights, start, out=moved)
                    weights[:] = start
                    task_forward(xi)
                    subtract(output, yi, out=slope)
                task_backward(xi, multiply(slope, scale, out=slope))
                if end_to_end:
                    write_backward(hi, gradient)
                else:
                    change = task_step(gradient)
                    if fixed or rule.inner_steps > 1:
                        if not fixed:
                            moved[:] = 0.0
                        add(moved, change, out=moved)
                        for _ in range(rule.inner_steps - 1):
                            subtract(weights, change, out=weights)
                            task_forward(xi)
                            subtract(output, yi, out=slope)
                            task_backward(xi, multiply(slope, scale, out=slope))
                            change = task_step(gradient)
                            add(moved, change, out=moved)
                        change = moved
                    target_loss[i] = change.dot(change) / count
                    write_backward(hi, multiply(change, pull, out=change))
                subtract(self._weights, step(grad_weights), out=self._weights)
            if end_to_end:
                target_loss[:] = np.nan

        return run

"""Forward, backward and optimizer step of a dense chain on flat vectors, one sample at a time, in NumPy, into buffers allocated once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from weightlapse.lift.plan import Plan, Vector
from weightlapse.lift.rules import Rule

# Second moments of units that died decay for ever; below this their root is nothing beside any epsilon, and denormals are slow.
TINY = 1e-200

Pass = Callable[[Vector], None]
Backward = Callable[[Vector, Vector], None]


def passes(plan: Plan, flat: Vector, output: Vector, gradient: Vector) -> tuple[Pass, Backward]:
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


def stepper(rule: Rule, optimizer: str, lr: float, flat: Vector, moment: Vector) -> Pass:
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

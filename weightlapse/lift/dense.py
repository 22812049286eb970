"""Forward, backward and optimizer step of a dense chain, one sample at a time, in NumPy: every operation into a buffer allocated once.

Vectors are in the joined layout, where a layer is one matrix and its input carries a trailing one for the bias. At this size an
operation costs its call, not its arithmetic; so the fewer calls, the faster.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from weightlapse.lift.parameters import Offsets, Vector
from weightlapse.lift.rules import Rule

# Second moments of units that died decay for ever; below this their root is nothing beside any epsilon, and denormals are slow.
TINY = 1e-200

Pass = Callable[[Vector], None]
Backward = Callable[[Vector, Vector], None]


def with_one(rows: Vector) -> Vector:
    """Inputs (N, in) with a trailing column of ones, (N, in + 1)."""
    return np.column_stack([rows, np.ones(len(rows))])


def passes(offsets: Offsets, weights: Vector, output: Vector, gradient: Vector) -> tuple[Pass, Backward]:
    """Forward x -> ``output`` with ``weights``; backward (x, d loss / d output) -> ``gradient``, after a forward of the same x.

    ``x`` (in + 1,) carries the trailing one. ``weights`` and ``gradient`` are in the joined layout and read anew at each call.
    """
    layers, grads = offsets.matrices(weights), offsets.matrices(gradient)
    acts, biased = [int(a) for a in offsets.acts], [bool(b >= 0) for b in offsets.bias_at]
    last = len(layers) - 1
    # Each layer's values, followed by the one that the next layer's bias multiplies.
    carried = [np.ones(n + 1) for n in offsets.sizes[1:-1]]
    values = [c[:-1] for c in carried] + [output]
    inputs = [c if biased[i + 1] else c[:-1] for i, c in enumerate(carried)]
    bends, deltas = [np.zeros(n) for n in offsets.sizes[1:]], [np.zeros(n) for n in offsets.sizes[1:]]
    columns = [d[:, None] for d in deltas]
    back = [layer[:, : offsets.sizes[i]] for i, layer in enumerate(layers)]
    ones = [np.ones(n) for n in offsets.sizes[1:]]
    dot, multiply, subtract = np.dot, np.multiply, np.subtract

    def forward(x: Vector) -> None:
        carry = x if biased[0] else x[:-1]
        for i in range(last + 1):
            value, act = values[i], acts[i]
            dot(layers[i], carry, out=value)
            if act == 1:
                np.maximum(value, 0.0, out=value)
            elif act == 2:
                np.tanh(value, out=value)
            elif act == 3:
                np.divide(1.0, 1.0 + np.exp(-value), out=value)
            if i < last:
                carry = inputs[i]

    def backward(x: Vector, outer: Vector) -> None:
        delta = deltas[last]
        delta[:] = outer
        for i in range(last, -1, -1):
            value, act, bend = values[i], acts[i], bends[i]
            if act == 1:
                multiply(delta, np.sign(value, out=bend), out=delta)
            elif act:
                multiply(value, value if act == 2 else subtract(ones[i], value, out=bend), out=bend)
                multiply(delta, subtract(ones[i], bend, out=bend) if act == 2 else bend, out=delta)
            carry = inputs[i - 1] if i else (x if biased[0] else x[:-1])
            multiply(columns[i], carry, out=grads[i])
            if i:
                delta = dot(delta, back[i], out=deltas[i - 1])

    return forward, backward


def stepper(rule: Rule, optimizer: str, lr: float, moment: Vector) -> Callable[[Vector], Vector]:
    """gradient -> what the optimizer subtracts from the weights (a buffer that the next call overwrites); ``moment`` is kept in place.

    ``moment`` holds the second moment divided by 1 - rho, which saves an operation.
    """
    size = len(moment)
    out, rho = np.empty(size), np.full(size, rule.rho)
    rest = 1.0 - rule.rho
    # lr g / (sqrt(rest m) + eps) = (lr / sqrt(rest)) g / (sqrt(m) + eps / sqrt(rest)); likewise with eps inside.
    scale = np.full(size, lr / np.sqrt(rest) if optimizer == "rmsprop" else lr)
    offset = np.full(size, rule.eps / rest if rule.eps_inside else rule.eps / np.sqrt(rest))
    multiply, add, sqrt = np.multiply, np.add, np.sqrt

    def sgd(gradient: Vector) -> Vector:
        return multiply(gradient, scale, out=out)

    def rmsprop(gradient: Vector) -> Vector:
        multiply(moment, rho, out=moment)
        add(moment, multiply(gradient, gradient, out=out), out=moment)
        if rule.eps_inside:
            sqrt(add(moment, offset, out=out), out=out)
        else:
            add(sqrt(moment, out=out), offset, out=out)
        return multiply(np.divide(gradient, out, out=out), scale, out=out)

    return sgd if optimizer == "sgd" else rmsprop

"""The online loop of `online.py` for the compiler (numba, cached on disk), and the same for a plain dense network.

Compiled code pays from some ten thousand samples on: `fit.py` decides. All arrays are float64 and laid out by `Offsets`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from weightlapse.lift.dense import TINY


def compiled(function: Callable[..., Any]) -> Any:
    """``function`` compiled on its first call, and kept on disk for the next process where there is a place to keep it."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # read-only installation without a home: numba finds no folder for its cache
        return njit(nogil=True)(function)


# One tuple per network: (sizes, acts, weight_at, bias_at). `values` and `deltas` are (layers + 1, widest) work space.


@compiled
def _forward(net, flat, x, values):  # type: ignore[no-untyped-def]
    sizes, acts, weight_at, bias_at = net
    for j in range(sizes[0]):
        values[0, j] = x[j]
    for layer in range(len(acts)):
        fan_in, act = sizes[layer], acts[layer]
        for o in range(sizes[layer + 1]):
            z = 0.0 if bias_at[layer] < 0 else flat[bias_at[layer] + o]
            row = weight_at[layer] + o * fan_in
            for j in range(fan_in):
                z += flat[row + j] * values[layer, j]
            if act == 1:
                z = z if z > 0.0 or z != z else 0.0
            elif act == 2:
                z = np.tanh(z)
            elif act == 3:
                z = 1.0 / (1.0 + np.exp(-z))
            values[layer + 1, o] = z


@compiled
def _backward(net, flat, values, deltas, gradient):  # type: ignore[no-untyped-def]
    """From d loss / d output in ``deltas[-1]`` to ``gradient``, which is added to."""
    sizes, acts, weight_at, bias_at = net
    for layer in range(len(acts) - 1, -1, -1):
        fan_in, act = sizes[layer], acts[layer]
        for j in range(fan_in):
            deltas[layer, j] = 0.0
        for o in range(sizes[layer + 1]):
            a, d = values[layer + 1, o], deltas[layer + 1, o]
            if act == 1:
                d = d if a > 0.0 else 0.0
            elif act == 2:
                d *= 1.0 - a * a
            elif act == 3:
                d *= a * (1.0 - a)
            if bias_at[layer] >= 0:
                gradient[bias_at[layer] + o] += d
            row = weight_at[layer] + o * fan_in
            for j in range(fan_in):
                gradient[row + j] += d * values[layer, j]
                deltas[layer, j] += d * flat[row + j]


@compiled
def _step(flat, gradient, moment, rmsprop, lr, rho, eps, inside):  # type: ignore[no-untyped-def]
    for i in range(len(flat)):
        g = gradient[i]
        if rmsprop:
            v = rho * moment[i] + (1.0 - rho) * g * g
            v = v if v >= TINY or v != v else 0.0
            moment[i] = v
            g /= np.sqrt(v + eps) if inside else np.sqrt(v) + eps
        flat[i] -= lr * g


@compiled
def run_lift(  # type: ignore[no-untyped-def]
    kind, inner_steps, gen_rmsprop, lr, task_rmsprop, task_lr, rho, eps, inside,
    gen, task, weights, moment, task_moment, base, start, hyper, x, y, order, loss, target_loss,
):  # fmt: skip
    """``kind``: 0 target, 1 end to end, 2 fixed start. Everything else as in `online.run`."""
    count, outputs = len(base), task[0][-1]
    depth, task_depth = len(gen[1]), len(task[1])
    values, deltas = np.zeros((depth + 1, gen[0].max())), np.zeros((depth + 1, gen[0].max()))
    task_values, task_deltas = np.zeros((task_depth + 1, task[0].max())), np.zeros((task_depth + 1, task[0].max()))
    written, moved, gradient, gen_gradient = np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(len(weights))
    for i in range(len(order)):
        sample = order[i]
        _forward(gen, weights, hyper[sample], values)
        for k in range(count):
            written[k] = values[depth, k] + base[k]
            moved[k] = start[k] if kind == 2 else written[k]
        if kind == 2:
            _forward(task, written, x[sample], task_values)
            loss[i] = _error(task_values[task_depth], y[sample], task_deltas[task_depth], outputs)
        for inner in range(inner_steps):
            _forward(task, moved, x[sample], task_values)
            error = _error(task_values[task_depth], y[sample], task_deltas[task_depth], outputs)
            if inner == 0 and kind != 2:
                loss[i] = error
            gradient[:] = 0.0
            _backward(task, moved, task_values, task_deltas, gradient)
            if kind == 1:
                break
            _step(moved, gradient, task_moment, task_rmsprop, task_lr, rho, eps, inside)
        total = 0.0
        for k in range(count):
            if kind == 1:
                deltas[depth, k] = gradient[k]
            else:
                distance = written[k] - moved[k]
                total += distance * distance
                deltas[depth, k] = 2.0 / count * distance
        target_loss[i] = np.nan if kind == 1 else total / count
        gen_gradient[:] = 0.0
        _backward(gen, weights, values, deltas, gen_gradient)
        _step(weights, gen_gradient, moment, gen_rmsprop, lr, rho, eps, inside)


@compiled
def _error(output, wanted, delta, outputs):  # type: ignore[no-untyped-def]
    """Mean squared error of one sample; its gradient goes to ``delta``."""
    total = 0.0
    for o in range(outputs):
        difference = output[o] - wanted[o]
        total += difference * difference
        delta[o] = 2.0 / outputs * difference
    return total / outputs


@compiled
def run_plain(rmsprop, lr, rho, eps, inside, net, flat, moment, x, y, order, loss):  # type: ignore[no-untyped-def]
    """Online training of one dense network on the squared error: the control that a Lift is compared with."""
    depth = len(net[1])
    values, deltas = np.zeros((depth + 1, net[0].max())), np.zeros((depth + 1, net[0].max()))
    gradient = np.zeros(len(flat))
    for i in range(len(order)):
        sample = order[i]
        _forward(net, flat, x[sample], values)
        loss[i] = _error(values[depth], y[sample], deltas[depth], net[0][-1])
        gradient[:] = 0.0
        _backward(net, flat, values, deltas, gradient)
        _step(flat, gradient, moment, rmsprop, lr, rho, eps, inside)

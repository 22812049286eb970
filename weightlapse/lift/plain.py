"""The control of a Lift: a plain dense network under the same online training, one sample and one RMSprop step at a time."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weightlapse.adapters.chain import find_chain
from weightlapse.errors import InvalidArgument
from weightlapse.lift.dense import TINY, passes, stepper, with_one
from weightlapse.lift.engines import COMPILE_FROM
from weightlapse.lift.parameters import Offsets, Vector, offsets_of, places_of, read, write
from weightlapse.lift.rules import History, Rule


def fit_plain(
    module: nn.Module,
    x: Any,
    y: Any,
    *,
    epochs: int = 1,
    online: bool = False,
    optimizer: str = "rmsprop",
    lr: float = 1e-3,
    rho: float = 0.9,
    eps: str = "outside",
    epsilon: float = 1e-7,
    seed: int | None = None,
    callback: Callable[[int, nn.Module], None] | None = None,
    engine: str = "auto",
) -> History:
    """Train a dense chain in place on the mean squared error, batch 1. ``x`` (N, in), ``y`` (N, out); returns a `History`.

    ``online`` False shuffles each epoch by ``seed``, True keeps the order. ``callback(updates_done, module)`` runs after each epoch.
    Computed in float64 whatever the module's dtype. Raises InvalidArgument where ``module`` is no plain chain of dense layers.

    >>> fit_plain(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1)), np.zeros((8, 3)), np.zeros((8, 1))).updates
    8
    """
    chain = find_chain(module)
    if chain is None:
        raise InvalidArgument(
            "fit_plain trains plain chains of dense layers (Linear, ReLU, Tanh, Sigmoid); use wl.ensemble for other modules"
        )
    if eps not in ("outside", "inside") or engine not in ("auto", "numpy", "numba"):
        raise InvalidArgument("fit_plain: eps is 'outside' or 'inside', engine 'auto', 'numpy' or 'numba'")
    xs, ys = (np.ascontiguousarray(torch.as_tensor(v).cpu().numpy(), np.float64) for v in (x, y))
    if xs.ndim != 2 or ys.shape != (len(xs), chain.outputs) or xs.shape[1] != chain.inputs:
        raise InvalidArgument(
            f"fit_plain: x {xs.shape} and y {ys.shape} do not fit a network from {chain.inputs} to {chain.outputs} numbers"
        )
    rule = Rule("end_to_end", optimizer=optimizer, lr=lr, rho=rho, eps=epsilon, eps_inside=eps == "inside")
    offsets, flat = offsets_of(chain, places_of(module)), read(module)
    count = len(xs)
    if engine == "auto":
        engine = "numba" if count * epochs >= COMPILE_FROM and importlib.util.find_spec("numba") else "numpy"
    rng = np.random.default_rng(seed)
    losses = np.empty(count * epochs)
    train = _compiled(rule, offsets, flat, xs, ys) if engine == "numba" else _numpy(rule, offsets, flat, xs, ys)
    started, outside = time.perf_counter(), 0.0
    for epoch in range(epochs):
        order = np.arange(count) if online else rng.permutation(count)
        train(order, losses[epoch * count : (epoch + 1) * count])
        write(module, flat)
        paused = time.perf_counter()
        if callback is not None:
            callback((epoch + 1) * count, module)
        outside += time.perf_counter() - paused
    seconds = time.perf_counter() - started - outside
    return History(losses, np.full_like(losses, np.nan), count * epochs, epochs, seconds, engine, rule)


Train = Callable[[NDArray[np.int64], Vector], None]  # order, losses to fill


def _compiled(rule: Rule, offsets: Offsets, flat: Vector, x: Vector, y: Vector) -> Train:
    from weightlapse.lift.compiled import run_plain

    moment = np.zeros_like(flat)
    settings = rule.optimizer == "rmsprop", rule.lr, rule.rho, rule.eps, rule.eps_inside
    return lambda order, loss: run_plain(*settings, offsets.arrays, flat, moment, x, y, order, loss)


def _numpy(rule: Rule, offsets: Offsets, flat: Vector, x: Vector, y: Vector) -> Train:
    gathered = offsets.gathered()
    weights, moment, gradient = flat[gathered], np.zeros_like(flat), np.zeros_like(flat)
    output, slope, inputs = np.zeros(y.shape[1]), np.zeros(y.shape[1]), with_one(x)
    forward, backward = passes(offsets, weights, output, gradient)
    step = stepper(rule, rule.optimizer, rule.lr, moment)

    def train(order: NDArray[np.int64], loss: Vector) -> None:
        for i, sample in enumerate(order.tolist()):
            forward(inputs[sample])
            np.subtract(output, y[sample], out=slope)
            loss[i] = slope.dot(slope) / len(slope)
            backward(inputs[sample], np.multiply(slope, 2.0 / len(slope), out=slope))
            np.subtract(weights, step(gradient), out=weights)
            if i % 512 == 511:
                moment[moment < TINY] = 0.0
        flat[gathered] = weights

    return train

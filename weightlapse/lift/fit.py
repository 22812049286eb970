"""Training a Lift: three rules, online or in batches, at the speed that the networks allow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch

from weightlapse import progress
from weightlapse.errors import InvalidArgument
from weightlapse.lift.engines import CompiledEngine, Engine, EngineName, NumpyEngine, TorchEngine, choose, prepare
from weightlapse.lift.general import Loss
from weightlapse.lift.hypernetwork import Lift
from weightlapse.lift.rules import History, OptimizerName, Rule, RuleName

_PROGRESS_EVERY = 1000


def fit_lift(
    net: Lift,
    x: Any,
    y: Any,
    *,
    rule: RuleName = "target",
    online: bool = True,
    batch_size: int = 1,
    epochs: int = 1,
    hyper: Any = None,
    loss: Literal["mse"] | Loss = "mse",
    optimizer: OptimizerName | torch.optim.Optimizer = "rmsprop",
    lr: float = 1e-3,
    task_optimizer: OptimizerName = "rmsprop",
    task_lr: float = 1e-3,
    inner_steps: int = 1,
    rho: float = 0.9,
    eps: Literal["outside", "inside"] = "outside",
    epsilon: float = 1e-7,
    seed: int | None = None,
    record: Any = None,
    record_every: int = 1,
    callback: Callable[[int, Lift], None] | None = None,
    callback_every: int | None = None,
    engine: EngineName = "auto",
) -> History:
    """Train ``net`` in place and return its `History`. Without further arguments: the exact online target rule, one epoch.

    Rules: "target": the generator moves (mean squared error over the generated weights) toward what it wrote *after* ``inner_steps`` steps of
    ``task_optimizer`` on that sample's loss. "fixed_start": the same, but the steps start at the task's own weights.
    "end_to_end": the task's loss is differentiated through the generated weights. With task_optimizer="sgd" and one inner step,
    "target" *is* "end_to_end": the gradients are parallel, with ratio 2 task_lr / P for P generated weights (2 task_lr when the generator's
    loss is a sum instead of a mean).

    Parameters
    ----------
    x, y: (N, ...) inputs and (N, out) targets, arrays or tensors. ``hyper`` (N, H): the generator's inputs for a net with ``hyper_input=H``.
    online: True takes the samples in their order, in every epoch; False shuffles each epoch (by ``seed``; None draws anew each time).
    batch_size: samples per update of the generator. Every sample keeps its own task; second moments of the task optimizer are shared.
    loss: "mse", or a function (predictions, targets) -> losses (B,).
    optimizer: of the generator: "rmsprop", "sgd", or a torch optimizer over ``net.parameters()``. States of the named ones start at zero.
    eps: RMSprop's epsilon "outside" the root, sqrt(v) + epsilon, or "inside", sqrt(v + epsilon). Gradients here are of the order of
        1e-4, so the two differ: 12 against 23 in test error on x^2 + 2yz after one epoch.
    record: a recorder (`wl.watch(net.generator, path)`, without an optimizer): gets a frame after every ``record_every`` updates.
    callback: called as ``callback(updates_done, net)`` every ``callback_every`` updates (default: at the end of each epoch).
    engine: "auto", or "numpy" / "numba" (dense generator, dense task, named optimizers, batch_size 1) or "torch" (everything). The first two
        compute in float64 whatever the net's dtype, and write the result back in it.

    Raises InvalidArgument for shapes, names or combinations that cannot be meant.

    >>> import torch, weightlapse as wl
    >>> task = torch.nn.Linear(2, 1)
    >>> x = torch.rand(32, 2)
    >>> history = wl.fit_lift(wl.Lift(task), x, x.sum(1, keepdim=True), epochs=2)
    >>> history.updates
    64
    """
    if not isinstance(net, Lift):
        raise InvalidArgument(
            f"fit_lift: net must be a wl.Lift, not {type(net).__name__}; wrap the task: wl.Lift(task)"
        )
    if eps not in ("outside", "inside"):
        raise InvalidArgument(f"fit_lift: eps is 'outside' or 'inside' the root, not {eps!r}; its value is epsilon=")
    if batch_size < 1 or epochs < 1 or record_every < 1 or (callback_every is not None and callback_every < 1):
        raise InvalidArgument("fit_lift: batch_size, epochs, record_every and callback_every must be at least 1")
    own = optimizer if isinstance(optimizer, torch.optim.Optimizer) else None
    settings = Rule(
        name=rule,
        optimizer="rmsprop" if isinstance(optimizer, torch.optim.Optimizer) else optimizer,
        lr=lr,
        task_optimizer=task_optimizer,
        task_lr=task_lr,
        inner_steps=inner_steps,
        rho=rho,
        eps=epsilon,
        eps_inside=eps == "inside",
    )
    data = prepare(net, x, y, hyper, loss)
    count = len(data[0])
    chosen = choose(engine, net, loss, own is not None, batch_size, count * epochs)
    worker: Engine
    if chosen == "torch":
        worker = TorchEngine(net, settings, data, loss=loss, optimizer=own, batch_size=batch_size)
    else:
        worker = (CompiledEngine if chosen == "numba" else NumpyEngine)(net, settings, data)
    per_epoch = -(-count // batch_size)
    losses = np.full(epochs * per_epoch, np.nan)
    distances = np.full_like(losses, np.nan)
    rng = np.random.default_rng(seed)
    callback_every = callback_every or per_epoch
    started, outside, done = time.perf_counter(), 0.0, 0
    with progress.bar(f"lift, {rule}", total=count * epochs) as shown:
        for _ in range(epochs):
            order = np.arange(count) if online else rng.permutation(count)
            stops = (
                {_PROGRESS_EVERY}
                | ({record_every} if record is not None else set())
                | ({callback_every} if callback else set())
            )
            for a, b in _segments(done, per_epoch, stops):
                samples = order[(a - done) * batch_size : (b - done) * batch_size]
                worker.advance(samples, losses[a:b], distances[a:b])
                shown(len(samples))
                paused = time.perf_counter()
                wanted_record = record is not None and b % record_every == 0
                wanted_call = callback is not None and b % callback_every == 0
                if wanted_record or wanted_call:
                    worker.sync()
                if wanted_record:
                    record.step(step=b, loss=float(losses[b - 1]))
                if wanted_call and callback is not None:
                    callback(b, net)
                outside += time.perf_counter() - paused
            done += per_epoch
    worker.sync()
    seconds = time.perf_counter() - started - outside
    return History(losses, distances, count * epochs, epochs, seconds, chosen, settings)


def _segments(done: int, count: int, every: set[int]) -> Iterator[tuple[int, int]]:
    """Cut the updates done..done + count wherever a multiple of one of ``every`` is reached."""
    cuts = sorted({done, done + count} | {k for n in every for k in range(-(-done // n) * n, done + count, n)})
    yield from pairwise(cuts)

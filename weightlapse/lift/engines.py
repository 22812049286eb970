"""Who does the updates: NumPy, the compiler or autograd. All three have one face: ``advance(order, loss, target_loss)`` and ``sync()``."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightlapse.adapters.chain import find_chain
from weightlapse.errors import InvalidArgument, missing_extra
from weightlapse.lift.general import Loss, Trainer, squared_error
from weightlapse.lift.hypernetwork import Lift
from weightlapse.lift.online import OnlineLoop
from weightlapse.lift.parameters import Offsets, Vector, offsets_of, places_of, read, write
from weightlapse.lift.rules import RULES, Rule

EngineName = Literal["auto", "numpy", "numba", "torch"]
# Loading the compiled loop takes a fraction of a second, compiling it (once per machine) seconds; NumPy does this many samples meanwhile.
COMPILE_FROM = 60_000

Data = tuple[Tensor, Tensor, Tensor | None]  # x (N, ...), y (N, ...), hyper-inputs (N, H) or None


class Engine(Protocol):
    """What trains a generator. The module is sure to hold the new weights only after `sync`."""

    def advance(self, order: NDArray[np.int64], loss: Vector, target_loss: Vector) -> None:
        """Train on the samples ``order``; one entry of the other two per update."""

    def sync(self) -> None:
        """Put the weights as they now are into the module."""


def choose(asked: str, net: Lift, loss: str | Loss, own_optimizer: bool, batch_size: int, samples: int) -> str:
    """The engine that ``asked`` (perhaps "auto") comes to: "numpy", "numba" or "torch"."""
    if asked not in get_args(EngineName):
        raise InvalidArgument(f"fit_lift: engine must be 'auto', 'numpy', 'numba' or 'torch', not {asked!r}")
    fits = loss == "mse" and not own_optimizer and batch_size == 1 and both_offsets(net) is not None
    if asked in ("numpy", "numba") and not fits:
        raise InvalidArgument(
            f"fit_lift: engine {asked!r} trains dense generators of fully generated dense tasks, one sample at a time, on the squared error, "
            "with named optimizers; leave engine='auto' for everything else"
        )
    installed = importlib.util.find_spec("numba") is not None
    if asked == "numba" and not installed:
        raise missing_extra("numba", extra="torch", purpose="fit_lift(engine='numba')")
    if asked != "auto":
        return asked
    if not fits:
        return "torch"
    return "numba" if installed and samples >= COMPILE_FROM else "numpy"


def both_offsets(net: Lift) -> tuple[Offsets, Offsets] | None:
    """Plans of generator and task where the flat engines apply: both dense chains, every weight of the task generated, all of it trainable."""
    chain, writer = find_chain(net.generator), net.task_chain
    if chain is None or writer is None or net.base == "trained" or {s.name for s in net.slots} != set(writer.names):
        return None
    if any(not p.requires_grad for p in net.generator.parameters()):
        return None
    return offsets_of(chain, places_of(net.generator)), offsets_of(writer, {s.name: s.start for s in net.slots})


class NumpyEngine:
    """Dense generator and task, one sample at a time, float64."""

    def __init__(self, net: Lift, rule: Rule, data: Data) -> None:
        self.net = net
        generator, task, start = _flat(net)
        base = np.zeros_like(start) if net.base is None else start
        self.loop = OnlineLoop(rule, generator, task, read(net.generator), base, start, *_samples(net, data))

    def advance(self, order: NDArray[np.int64], loss: Vector, target_loss: Vector) -> None:
        """As `Engine.advance`, an update for each sample; ``order`` may name one several times."""
        self.loop.run(order, loss, target_loss)

    def sync(self) -> None:
        """float64 weights into the generator, rounded to its own dtype; the task is not touched, for its weights are generated."""
        write(self.net.generator, self.loop.weights())


class CompiledEngine:
    """The same, compiled."""

    def __init__(self, net: Lift, rule: Rule, data: Data) -> None:
        self.net, self.rule = net, rule
        self.generator, self.task, self.start = _flat(net)
        self.base = np.zeros_like(self.start) if net.base is None else self.start
        self.samples = _samples(net, data)
        self.weights = read(net.generator)
        self.moment, self.task_moment = np.zeros_like(self.weights), np.zeros_like(self.start)

    def advance(self, order: NDArray[np.int64], loss: Vector, target_loss: Vector) -> None:
        """As `NumpyEngine.advance`; the loop is compiled at the first call of all."""
        from weightlapse.lift.compiled import run_lift

        r = self.rule
        run_lift(
            RULES.index(r.name), r.inner_steps, r.optimizer == "rmsprop", r.lr, r.task_optimizer == "rmsprop", r.task_lr, r.rho, r.eps,
            r.eps_inside, self.generator.arrays, self.task.arrays, self.weights, self.moment, self.task_moment, self.base, self.start,
            *self.samples, order, loss, target_loss,
        )  # fmt: skip

    def sync(self) -> None:
        """float64 weights into the generator, rounded to its own dtype."""
        write(self.net.generator, self.weights)


def _flat(net: Lift) -> tuple[Offsets, Offsets, Vector]:
    """Plans of generator and task, and the task's own weights, flat."""
    both = both_offsets(net)
    assert both is not None
    return *both, net.base_vector().detach().cpu().to(torch.float64).numpy()


def _samples(net: Lift, data: Data) -> tuple[Vector, Vector, Vector]:
    """Hyper-inputs, inputs and targets in float64."""
    x, y, hyper = data
    with torch.no_grad():
        hyper = x if hyper is None and net.hyper_map is None else net.hyper_for(as_input(net, x), hyper)
    h, xs, ys = (np.ascontiguousarray(t.cpu().to(torch.float64).numpy()) for t in (hyper, x, y))
    return h, xs, ys


class TorchEngine:
    """Any task, generator, loss and optimizer, in mini-batches."""

    def __init__(
        self,
        net: Lift,
        rule: Rule,
        data: Data,
        *,
        loss: str | Loss,
        optimizer: torch.optim.Optimizer | None,
        batch_size: int,
    ) -> None:
        if isinstance(loss, str) and loss != "mse":
            raise InvalidArgument(
                f"fit_lift: loss must be 'mse' or a function (predictions, targets) -> losses (B,), not {loss!r}"
            )
        self.trainer = Trainer(net, rule, squared_error if isinstance(loss, str) else loss, optimizer)
        x, y, hyper = data
        like = next(net.parameters())
        self.data = as_input(net, x), y.to(like.dtype) if y.is_floating_point() or loss == "mse" else y, hyper
        self.batch_size = batch_size

    def advance(self, order: NDArray[np.int64], loss: Vector, target_loss: Vector) -> None:
        """As `Engine.advance`, an update for each mini-batch of ``batch_size`` samples, the last one perhaps smaller."""
        x, y, hyper = self.data
        for i, batch in enumerate(torch.from_numpy(order).to(x.device).split(self.batch_size)):
            loss[i], target_loss[i] = self.trainer.update(x[batch], y[batch], None if hyper is None else hyper[batch])

    def sync(self) -> None:
        """Nothing to do: the module itself is trained."""


def prepare(net: Lift, x: Any, y: Any, hyper: Any, loss: str | Loss = "mse") -> Data:
    """Arrays or tensors as tensors on the net's device; their number, and y's shape against the net's output, are checked."""
    like = next(net.parameters())
    xs, ys = (torch.as_tensor(v).to(like.device) for v in (x, y))
    hs = None if hyper is None else torch.as_tensor(hyper).to(like)
    if xs.ndim < 2 or len(xs) == 0:
        raise InvalidArgument(f"fit_lift: x must be (N, ...) with at least one sample, not {tuple(xs.shape)}")
    if len(xs) != len(ys) or (hs is not None and len(hs) != len(xs)):
        raise InvalidArgument(
            f"fit_lift: x has {len(xs)} samples and y (or hyper) {len(ys)}; every input needs one target"
        )
    with torch.no_grad():
        shape = tuple(net(as_input(net, xs[:1]), None if hs is None else hs[:1]).shape[1:])
    if ys.ndim == 1 and shape == (1,):
        ys = ys[:, None]
    if loss == "mse" and tuple(ys.shape[1:]) != shape:
        raise InvalidArgument(
            f"fit_lift: y has shape {tuple(ys.shape)} but the net answers {(len(xs), *shape)}; they must be equal, or the error would broadcast"
        )
    return xs, ys, hs


def as_input(net: Lift, x: Tensor) -> Tensor:
    """``x`` in the net's dtype; integers stay what they are for tasks that may look them up (embeddings)."""
    return x.to(next(net.parameters()).dtype) if x.is_floating_point() or net.task_chain is not None else x

"""The last decades of the loss: second-order training of small networks in float64, many at once."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weightlapse import progress
from weightlapse.adapters.threads import single_threaded
from weightlapse.arguments import renamed
from weightlapse.ensembles.certificate import Certificate, certify
from weightlapse.ensembles.ensemble import Ensemble
from weightlapse.ensembles.gradients import gradient_of
from weightlapse.ensembles.lbfgs import Evaluate, lbfgs
from weightlapse.ensembles.levenberg import levenberg_marquardt
from weightlapse.ensembles.losses import value_and_slope
from weightlapse.ensembles.residuals import Residuals
from weightlapse.ensembles.stack import Stack
from weightlapse.errors import InvalidArgument

# J'J of one member is P x P float64: beyond this many parameters it is no longer a small network.
_MOST_PARAMETERS = 5000


@dataclass
class Polished:
    """What `polish` hands back: the ``stack`` in float64, ``losses`` (steps + 1, n), mean squared error from the start on, ``norms`` (steps + 1, n) of the
    weights, and a certificate per member."""

    stack: Stack = field(repr=False)
    losses: NDArray[np.float64] = field(repr=False)
    seconds: float
    method: str
    norms: NDArray[np.float64] = field(repr=False)
    problem: Residuals = field(repr=False)
    tolerance: float = field(repr=False)

    @cached_property
    def certificates(self) -> list[Certificate]:
        """How each member ended: "zero", "stationary", "diverging" or "budget spent", with the numbers that say so. Computed when first asked for."""
        return certify(self.problem, self.losses, self.norms, self.tolerance)

    def __str__(self) -> str:
        kinds = Counter(c.kind for c in self.certificates)
        return f"{len(self)} networks after {self.steps} steps: " + ", ".join(
            f"{n} {k}" for k, n in sorted(kinds.items())
        )

    @property
    def states(self) -> dict[str, Tensor]:
        """Name -> (n, *S), float64."""
        return self.stack.states

    @property
    def steps(self) -> int:
        """Number of second-order steps taken."""
        return len(self.losses) - 1

    def member(self, i: int) -> nn.Module:
        """Member ``i`` as an ordinary float64 module (a copy)."""
        return self.stack.member(i)

    def state(self, i: int) -> dict[str, Tensor]:
        """State dict of member ``i`` (a copy)."""
        return self.stack.state(i)

    def __len__(self) -> int:
        return len(self.stack)


@renamed("0.3", tolerance="until")
def polish(
    model: nn.Module | Stack | Ensemble,
    x: Any,
    y: Any,
    *,
    method: Literal["lm", "lbfgs"] = "lm",
    steps: int = 400,
    per_member: bool | None = None,
    damping: float = 1e-3,
    memory: int = 30,
    until: float = 1e-30,
    record: Any = None,
    record_every: int = 1,
    first_step: int = 0,
    callback: Callable[[int, Stack], None] | None = None,
) -> Polished:
    """Bring trained networks to the end of their training: least squares on fixed data, in float64, all members at once.

    First-order training ends where the loss is small but the weights still far off: at an error of 1e-6 they may be 30 % from where they
    are going. Second-order steps cover the last twenty decades. The result says of each member how it ended, in ``certificates``: at zero, at a stationary point
    (gradient norm and smallest curvature), diverging, or because the budget was spent. A loss that is merely small is none of the first three.

    Parameters
    ----------
    model: a module (one member), a `Stack`, or the result of `ensemble`. It is not changed.
    x, y: inputs (N, ...) for all members or (n, N, ...) each its own (``per_member``; told by shape for dense networks), and targets of
        the networks' output shape, with or without the member axis. Take at least a few times as many rows as there are parameters.
    method: "lm", Levenberg-Marquardt (networks of up to a few hundred parameters: 1-2 s per member of 169 for 400 steps), or "lbfgs"
        (more parameters, many more steps). ``damping`` and ``memory`` belong to one each.
    until: a member rests below this mean squared error.
    record, callback: get ``step(states, step=first_step + k, loss=median)`` and ``(k, stack)`` after every ``record_every`` steps and the last.

    Raises InvalidArgument for shapes that do not fit and for networks too large for the method.

    >>> x = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    >>> net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    >>> result = polish(net, x, 0.3 + x, steps=50)
    >>> bool(result.losses[-1, 0] < result.losses[0, 0] / 1e3)
    True
    >>> result.certificates[0].kind in ("zero", "budget spent")
    True
    """
    if method not in ("lm", "lbfgs"):
        raise InvalidArgument(f"polish: method must be 'lm' or 'lbfgs', not {method!r}")
    if steps < 1 or record_every < 1 or memory < 1 or not damping > 0:
        raise InvalidArgument("polish: steps, record_every and memory must be at least 1, damping positive")
    stack = _in_float64(model)
    xs, ys = (torch.as_tensor(v).to(torch.float64) for v in (x, y))
    if method == "lm" and stack.parameters > _MOST_PARAMETERS:
        raise InvalidArgument(
            f"polish: Levenberg-Marquardt needs a {stack.parameters} x {stack.parameters} matrix per member; use method='lbfgs'"
        )
    problem = Residuals.of(stack, xs, ys, per_member)
    with torch.no_grad():
        start = torch.cat([problem.errors(stack.theta[m], m) for m in problem.chunks(torch.arange(len(stack)))])
    losses, norms = [start.numpy()], [stack.theta.norm(dim=1).numpy()]
    started = time.perf_counter()
    # Threads over members, one core each: splitting these small products themselves over cores costs more than it brings.
    with (
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
        single_threaded(True),
        torch.no_grad(),
        progress.bar(f"polishing {len(stack)} networks", total=steps) as shown,
    ):
        moves: Iterator[Tensor]
        if method == "lm":
            moves = levenberg_marquardt(problem, stack.theta, steps, damping=damping, tolerance=until, pool=pool)
        else:
            moves = lbfgs(_evaluator(problem), stack.theta, steps, memory=memory, tolerance=until)
        shown_at = 0

        def show() -> None:
            if record is not None:
                states = {name: value.numpy() for name, value in stack.states.items()}
                record.step(states, step=first_step + step, loss=float(np.median(losses[-1])))
            if callback is not None:
                callback(step, stack)

        step = 0
        for step, error in enumerate(moves, 1):
            losses.append(error.numpy())
            norms.append(stack.theta.norm(dim=1).numpy())
            shown(1)
            if step % record_every == 0:
                shown_at = step
                show()
        if shown_at != step:
            show()
    seconds = time.perf_counter() - started
    return Polished(stack, np.array(losses), seconds, method, np.array(norms), problem, until)


def _evaluator(problem: Residuals) -> Evaluate:
    compute = gradient_of(problem.stack, value_and_slope("mse"))

    def evaluate(theta: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = compute(theta, problem.x, problem.y, problem.own_x)
        return value, gradient.clone()

    return evaluate


def _in_float64(model: nn.Module | Stack | Ensemble) -> Stack:
    if isinstance(model, Ensemble):
        model = model.stack
    stack = model if isinstance(model, Stack) else Stack.of([model])
    template = copy.deepcopy(stack.template).eval()
    return Stack(template, stack.theta.clone(), {n: b.clone() for n, b in stack.buffers.items()}).to(torch.float64)

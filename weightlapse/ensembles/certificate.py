"""How a training ended: at zero, at a stationary point, on the way to infinity, or because the budget was spent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightlapse.ensembles.residuals import Residuals

ZERO = 1e-20  # mean squared error: the square of what float64 leaves of outputs of order one, with four digits to spare
STILL = 1e-5  # relative gradient of a stationary point; what is gained by going on is of second order, 1e-10, and soon lost in rounding
FLAT = 1e-9  # of the largest curvature: what rounding makes of zero
DRIFT, STANDS = (
    0.02,
    0.9,
)  # growth of the norm of the weights in a doubling of the steps; what is left of the loss where it stands
BEYOND = (
    100.0  # times the norm at the start (or one): gone, even where the gradient has since become too small for a number
)
_DENSE = 600  # up to so many parameters the whole Hessian is cheaper than an iteration


@dataclass(frozen=True)
class Certificate:
    """What one member's training ended in, and the numbers that say so.

    ``kind``: "zero" (``loss`` at most 1e-20, or the ``tolerance`` that was asked for); "diverging" (not finite; or the norm of the weights grows with every doubling of
    the steps, by more than 2 % and at least half as fast as in the doubling before, while the loss stands: its least value seems to lie at infinity); "stationary"
    (``gradient`` at most 1e-5); or "budget spent": more steps would go on changing the loss. ``gradient``: the norm of the gradient times that of the weights
    over the loss, the relative change of the loss for a relative change of the weights; no scaling of the outputs alters it. ``curvature``: the smallest
    eigenvalue of the Hessian over the largest in size, of a stationary point (NaN elsewhere). ``growth``: the norm of the weights over that at half of the steps.
    """

    kind: str
    loss: float
    gradient: float
    curvature: float
    growth: float

    @property
    def minimum(self) -> bool:
        """Whether this is a stationary point that no direction leads down from, to second order."""
        return self.kind == "stationary" and self.curvature >= -FLAT

    def __str__(self) -> str:
        if self.kind == "stationary":
            place = "a local minimum" if self.minimum else "a saddle"
            return f"stationary: {place} (loss {self.loss:.2g}, relative gradient {self.gradient:.1g}, smallest curvature {self.curvature:.1g})"
        if self.kind == "diverging":
            return f"diverging: the weights are {self.growth:.3g} times as large as at half of the steps (loss {self.loss:.2g})"
        return f"{self.kind} (loss {self.loss:.2g}, relative gradient {self.gradient:.1g})"


def certify(
    problem: Residuals, losses: NDArray[np.float64], norms: NDArray[np.float64], tolerance: float
) -> list[Certificate]:
    """One certificate per member of ``problem.stack`` as it is; ``losses`` and ``norms`` of the weights (steps + 1, n), from the start on."""
    theta = problem.stack.theta
    last = len(norms) - 1
    quarter, half = norms[last // 4], norms[last // 2]
    found = []
    for i in range(len(theta)):
        loss, gradient = _slope(problem, theta[i], i)
        size = float(theta[i].norm())
        growth, before = (float(b / a) if a > 0 else 1.0 for a, b in ((half[i], size), (quarter[i], half[i])))
        relative = float(gradient.norm()) * size / loss if loss > 0 else 0.0
        kind, curvature = "budget spent", float("nan")
        if loss <= max(ZERO, tolerance):
            kind = "zero"
        elif (
            not np.isfinite(loss)
            or size > BEYOND * max(1.0, float(norms[0, i]))
            or (growth > max(1 + DRIFT, before**0.5) and loss > STANDS * losses[last // 2, i])
        ):
            kind = "diverging"
        elif relative <= STILL:
            kind, curvature = "stationary", _smallest_curvature(problem, theta[i], i)
        found.append(Certificate(kind, loss, relative, curvature, growth))
    return found


def _loss(problem: Residuals, row: Tensor, member: int) -> Tensor:
    return problem.errors(row[None], torch.tensor([member]))[0]


def _slope(problem: Residuals, row: Tensor, member: int) -> tuple[float, Tensor]:
    row = row.detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = _loss(problem, row, member)
        (gradient,) = torch.autograd.grad(loss, row)
    return float(loss.detach()), gradient


def _smallest_curvature(problem: Residuals, row: Tensor, member: int) -> float:
    row = row.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(_loss(problem, row, member), row, create_graph=True)

        def product(v: Tensor) -> Tensor:
            return torch.autograd.grad(gradient, row, v, retain_graph=True)[0]

        if len(row) <= _DENSE:
            hessian = torch.stack([product(v) for v in torch.eye(len(row), dtype=row.dtype)])
            values = torch.linalg.eigvalsh((hessian + hessian.T) / 2)
            return float(values[0] / values.abs().max()) if float(values.abs().max()) > 0 else 0.0
        from scipy.sparse.linalg import LinearOperator, eigsh

        p = len(row)
        operator = LinearOperator(
            (p, p), matvec=lambda v: product(torch.from_numpy(v.reshape(-1))).numpy(), dtype=np.float64
        )
        ends = [float(eigsh(operator, 1, which=side, tol=1e-3, return_eigenvectors=False)[0]) for side in ("SA", "LM")]
        return ends[0] / abs(ends[1]) if ends[1] else 0.0

"""Levenberg-Marquardt for many small networks at once; every member has its own damping and stops on its own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from weightlapse.ensembles.residuals import Residuals

_GROW, _SHRINK = 3.0, 0.5
_MOST_DAMPED = 1e12


def levenberg_marquardt(
    problem: Residuals, theta: Tensor, steps: int, *, damping: float, tolerance: float, pool: ThreadPoolExecutor
) -> Iterator[Tensor]:
    """Improve ``theta`` (n, P, float64) in place; yields the mean squared residuals (n,) after each of at most ``steps`` steps.

    A step solves (J'J / M + lambda I) d = -J'r / M; it is taken where it lowers the error (then lambda shrinks), refused elsewhere
    (then lambda grows, and the Jacobian is not computed again). A member rests when its error is below ``tolerance`` or its damping
    beyond any use. The threads of ``pool`` take groups of members: long products on one core each, with nothing to wait for.
    Source: Levenberg (1944), Marquardt (1963); More (1978) for the role of the damping.
    """
    n, p = theta.shape
    normal, pull = torch.empty(n, p, p, dtype=theta.dtype), torch.empty(n, p, dtype=theta.dtype)
    error = torch.empty(n, dtype=theta.dtype)
    rate = torch.full((n,), damping, dtype=theta.dtype)
    everyone = torch.arange(n)
    stale = torch.ones(n, dtype=torch.bool)
    active = torch.ones(n, dtype=torch.bool)
    identity = torch.eye(p, dtype=theta.dtype)

    def linearise(members: Tensor) -> None:
        residual, jacobian = problem.with_jacobian(theta[members], members)
        count = residual.shape[1]
        normal[members] = torch.bmm(jacobian.transpose(1, 2), jacobian).div_(count)
        pull[members] = torch.bmm(residual[:, None, :], jacobian)[:, 0].div_(count)
        error[members] = residual.square().mean(1)

    for _ in range(steps):
        list(pool.map(linearise, problem.chunks(everyone[active & stale])))
        stale[active] = False
        active &= torch.isfinite(error) & (error > tolerance) & (rate < _MOST_DAMPED)
        if not bool(active.any()):
            yield error.clone()
            return
        members = everyone[active]
        factor, info = torch.linalg.cholesky_ex(normal[members] + rate[members, None, None] * identity)
        move = torch.cholesky_solve(pull[members][:, :, None], factor)[:, :, 0]
        trial = theta[members] - move
        parts = list(problem.chunks(torch.arange(len(members))))
        tried = torch.cat(list(pool.map(lambda part: problem.errors(trial[part], members[part]), parts)))  # noqa: B023
        better = (tried < error[members]) & (info == 0)
        taken, refused = members[better], members[~better]
        theta[taken], error[taken] = trial[better], tried[better]
        rate[taken] *= _SHRINK
        rate[refused] *= _GROW
        stale[taken] = True
        yield error.clone()

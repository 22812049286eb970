"""L-BFGS for many small networks at once, each with its own curvature pairs and line search."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_ARMIJO, _CURVATURE, _TRIALS = 1e-4, 0.9, 25

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]  # theta (n, P) -> losses (n,), gradients (n, P)


def lbfgs(evaluate: Evaluate, theta: Tensor, steps: int, *, memory: int, tolerance: float) -> Iterator[Tensor]:
    """Improve ``theta`` (n, P, float64) in place; yields the losses (n,) after each of at most ``steps`` steps.

    Two-loop recursion over the last ``memory`` pairs (Nocedal 1980); step lengths by bisection on the weak Wolfe conditions (Lewis and
    Overton 2013), which every member runs through at its own pace. A member rests below ``tolerance``, or when no step helps it.
    """
    loss, gradient = (t.clone() for t in evaluate(theta))
    n = len(theta)
    pairs: list[
        tuple[Tensor, Tensor, Tensor]
    ] = []  # s (n, P), y (n, P), 1 / s.y (n,), zero where the pair does not count
    active = torch.isfinite(loss)
    for _ in range(steps):
        active &= (loss > tolerance) & (gradient.abs().amax(1) > 0)
        if not bool(active.any()):
            return
        direction = -_apply_inverse(pairs, gradient)
        downhill = (direction * gradient).sum(1)
        lost = downhill >= 0  # rounding has spoilt the model: fall back to the gradient
        direction[lost] = -gradient[lost]
        downhill[lost] = -(gradient[lost] ** 2).sum(1)
        first = torch.ones(n, dtype=theta.dtype) if pairs else 1.0 / gradient.norm(dim=1).clamp_min(1e-30)
        new, new_loss, new_gradient, found = _search(evaluate, theta, loss, direction, downhill, first, active)
        s, y = new - theta, new_gradient - gradient
        curvature = (s * y).sum(1)
        counts = found & (curvature > 1e-16 * y.norm(dim=1) * s.norm(dim=1))
        pairs.append((s, y, torch.where(counts, 1.0 / curvature, torch.zeros_like(curvature))))
        del pairs[:-memory]
        theta[found] = new[found]
        loss, gradient = torch.where(found, new_loss, loss), torch.where(found[:, None], new_gradient, gradient)
        active &= found
        yield loss.clone()


def _apply_inverse(pairs: list[tuple[Tensor, Tensor, Tensor]], gradient: Tensor) -> Tensor:
    q, alphas = gradient.clone(), []
    for s, y, rho in reversed(pairs):
        alpha = rho * (s * q).sum(1)
        q -= alpha[:, None] * y
        alphas.append(alpha)
    if pairs:
        s, y, rho = pairs[-1]
        scale = torch.where(rho > 0, 1.0 / (rho * (y * y).sum(1)).clamp_min(1e-300), torch.ones_like(rho))
        q *= scale[:, None]
    for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - rho * (y * q).sum(1))[:, None] * s
    return q


def _search(
    evaluate: Evaluate, theta: Tensor, loss: Tensor, direction: Tensor, downhill: Tensor, length: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    low, high = torch.zeros_like(length), torch.full_like(length, torch.inf)
    length = length.clone()
    best, best_loss, best_gradient = theta.clone(), loss.clone(), torch.zeros_like(theta)
    found, open_ = torch.zeros_like(active), active.clone()
    for _ in range(_TRIALS):
        trial = theta + length[:, None] * direction
        value, gradient = evaluate(trial)
        low_enough = value <= loss + _ARMIJO * length * downhill
        flat_enough = (gradient * direction).sum(1) >= _CURVATURE * downhill
        # Any decrease is kept, so that a search which runs out of trials has not been in vain.
        keep = open_ & low_enough & (value < best_loss)
        best[keep], best_loss[keep], best_gradient[keep] = trial[keep], value[keep], gradient[keep]
        found |= keep
        open_ &= ~(low_enough & flat_enough)
        if not bool(open_.any()):
            break
        high = torch.where(open_ & ~low_enough, length, high)
        low = torch.where(open_ & low_enough, length, low)
        middle = torch.where(torch.isinf(high), 2.0 * length, 0.5 * (low + high))
        length = torch.where(open_, middle, length)
    return best, best_loss, best_gradient, found

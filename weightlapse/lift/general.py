"""Training a Lift of any task, generator and loss with autograd: one mini-batch, one update of the generator.

Each sample keeps its own task weights; the task optimizer's second moment is shared by the batch (mean of the squared gradients), so a
batch of one is exactly the online rule. Parameters of the task that are not generated learn from the task's loss, whatever the rule.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from weightlapse.lift.dense import TINY
from weightlapse.lift.hypernetwork import Lift
from weightlapse.lift.rules import Rule

Loss = Callable[[Tensor, Tensor], Tensor]  # (predictions (B, ...), targets (B, ...)) -> losses (B,)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each row."""
    return ((prediction - target) ** 2).flatten(1).mean(1)


class Stepper:
    """One optimizer on one list of tensors, in place: SGD or RMSprop with either epsilon convention."""

    def __init__(self, rule: Rule, optimizer: str, lr: float) -> None:
        self.rule, self.optimizer, self.lr = rule, optimizer, lr
        self.moments: list[Tensor] = []

    @torch.no_grad()
    def delta(self, gradients: list[Tensor], squares: list[Tensor]) -> list[Tensor]:
        """What to subtract; ``squares`` are what the second moments average."""
        if self.optimizer == "sgd":
            return [self.lr * g for g in gradients]
        rule = self.rule
        if not self.moments:
            self.moments = [torch.zeros_like(s) for s in squares]
        for v, s in zip(self.moments, squares, strict=True):
            v.mul_(rule.rho).add_(s, alpha=1 - rule.rho)
            v[v < max(TINY, torch.finfo(v.dtype).tiny)] = 0.0
        roots = [(v + rule.eps).sqrt() if rule.eps_inside else v.sqrt() + rule.eps for v in self.moments]
        return [self.lr * g / r for g, r in zip(gradients, roots, strict=True)]


class Trainer:
    """Holds what lasts from batch to batch; ``update(x, y, hyper)`` does one and returns (task loss, distance to the target)."""

    def __init__(self, net: Lift, rule: Rule, loss: Loss, optimizer: torch.optim.Optimizer | None) -> None:
        self.net, self.rule, self.loss, self.optimizer = net, rule, loss, optimizer
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.stepper = Stepper(rule, rule.optimizer, rule.lr)
        self.task_stepper = Stepper(rule, rule.task_optimizer, rule.task_lr)

    def update(self, x: Tensor, y: Tensor, hyper: Tensor | None) -> tuple[float, float]:
        """One mini-batch x (B, ...), y (B, ...) and hyper-inputs (B, H), None where they are x; the mean loss, and NaN for the distance of end-to-end training."""
        net, rule = self.net, self.rule
        flat = net.flat_weights_for(x, hyper)
        distance = float("nan")
        if rule.name == "end_to_end":
            losses = self.loss(net.run_with(x, flat), y)
            objective = losses.mean()
        else:
            losses = self.loss(net.run_with(x, flat.detach()), y)
            goal = self._goal(x, y, flat.detach())
            pull = ((flat - goal) ** 2).mean()
            distance = float(pull.detach())
            # flat is detached in the second term: it reaches only parameters that are not generated.
            objective = pull + losses.mean() if losses.requires_grad else pull
        gradients = torch.autograd.grad(objective, self.parameters, allow_unused=True)
        self._apply(
            [g if g is not None else torch.zeros_like(p) for g, p in zip(gradients, self.parameters, strict=True)]
        )
        return float(losses.detach().mean()), distance

    def _goal(self, x: Tensor, y: Tensor, written: Tensor) -> Tensor:
        """The task's weights (B, P) after ``inner_steps`` optimizer steps of every sample's own network on its own sample."""
        weights = written
        if self.rule.name == "fixed_start":
            weights = self.net.base_vector().detach().to(written).expand_as(written)
        for _ in range(self.rule.inner_steps):
            weights = weights.detach().requires_grad_()
            with torch.enable_grad():
                total = self.loss(self.net.run_with(x, weights), y).sum()
            (gradient,) = torch.autograd.grad(total, weights)
            (delta,) = self.task_stepper.delta([gradient], [(gradient**2).mean(0)])
            weights = weights.detach() - delta
        return weights

    @torch.no_grad()
    def _apply(self, gradients: list[Tensor]) -> None:
        if self.optimizer is not None:
            for p, g in zip(self.parameters, gradients, strict=True):
                p.grad = g
            self.optimizer.step()
            return
        for p, d in zip(self.parameters, self.stepper.delta(gradients, [g * g for g in gradients]), strict=True):
            p.sub_(d)

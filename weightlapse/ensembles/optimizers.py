"""SGD, Adam, AdamW and RMSprop on a matrix of parameters, one member a row, with the semantics of torch.optim for each member."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from weightlapse.errors import InvalidArgument

OptimizerName = Literal["sgd", "adam", "adamw", "rmsprop"]
_OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0},
    "adam": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    "adamw": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2},
    "rmsprop": {"alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0, "centered": False},
}


class Optimizer:
    """One of "sgd", "adam", "adamw", "rmsprop" with torch's options and defaults. ``lr`` is a number or one per member (n,)."""

    def __init__(self, name: str, lr: float | Tensor, **options: Any) -> None:
        if name not in _OPTIONS:
            raise InvalidArgument(f"ensemble: optimizer must be one of {', '.join(map(repr, _OPTIONS))}, not {name!r}")
        unknown = set(options) - set(_OPTIONS[name])
        if unknown:
            raise InvalidArgument(
                f"ensemble: {name} has no option {', '.join(map(repr, sorted(unknown)))}; it has {', '.join(_OPTIONS[name])}"
            )
        rate = torch.as_tensor(lr, dtype=torch.float64)
        if not bool((rate >= 0).all()) or rate.ndim > 1:
            raise InvalidArgument(f"ensemble: lr must be a non-negative number, or one per member (n,), not {lr}")
        self.name = name
        self.lr: float | Tensor = float(rate) if rate.ndim == 0 else rate[:, None]
        self.options = _OPTIONS[name] | options
        self.count = 0
        self.slots: dict[str, Tensor] = {}  # moments and momentum, each (n, P)

    def restrict(self, members: slice) -> Optimizer:
        """The optimizer of some of the members, before its first step."""
        lr = self.lr if isinstance(self.lr, float) else self.lr[members, 0]
        return Optimizer(self.name, lr, **self.options)

    @torch.no_grad()
    def step(self, theta: Tensor, gradient: Tensor, factor: float = 1.0) -> None:
        """Update ``theta`` (n, P) in place; ``gradient`` is used as scratch. ``factor`` is the schedule's multiple of lr at this step."""
        self.count += 1
        lr = self.lr if isinstance(self.lr, float) else self.lr.to(theta)
        getattr(self, "_" + self.name)(theta, gradient, lr * factor)

    def _slot(self, name: str, theta: Tensor) -> Tensor:
        if name not in self.slots:
            self.slots[name] = torch.zeros_like(theta)
        return self.slots[name]

    def _move(self, theta: Tensor, direction: Tensor, lr: float | Tensor) -> None:
        if isinstance(lr, float):
            theta.add_(direction, alpha=-lr)
        else:
            theta.sub_(direction * lr)

    def _sgd(self, theta: Tensor, g: Tensor, lr: float | Tensor) -> None:
        o = self.options
        if o["weight_decay"]:
            g.add_(theta, alpha=o["weight_decay"])
        if o["momentum"]:
            first = "momentum" not in self.slots
            buffer = self._slot("momentum", theta)
            # As in torch, the first step takes the whole gradient, without dampening.
            buffer.mul_(o["momentum"]).add_(g, alpha=1.0 if first else 1.0 - o["dampening"])
            g = g.add(buffer, alpha=o["momentum"]) if o["nesterov"] else buffer
        self._move(theta, g, lr)

    def _adam(self, theta: Tensor, g: Tensor, lr: float | Tensor) -> None:
        if self.options["weight_decay"]:
            g.add_(theta, alpha=self.options["weight_decay"])
        self._adam_move(theta, g, lr)

    def _adamw(self, theta: Tensor, g: Tensor, lr: float | Tensor) -> None:
        theta.mul_(1.0 - lr * self.options["weight_decay"])
        self._adam_move(theta, g, lr)

    def _adam_move(self, theta: Tensor, g: Tensor, lr: float | Tensor) -> None:
        beta1, beta2 = self.options["betas"]
        mean, square = self._slot("exp_avg", theta), self._slot("exp_avg_sq", theta)
        mean.lerp_(g, 1.0 - beta1)
        square.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
        root = torch.sqrt(square, out=g).div_((1.0 - beta2**self.count) ** 0.5).add_(self.options["eps"])
        bias = 1.0 - beta1**self.count
        if isinstance(lr, float):
            theta.addcdiv_(mean, root, value=-lr / bias)
        else:
            theta.sub_(mean / root * (lr / bias))

    def _rmsprop(self, theta: Tensor, g: Tensor, lr: float | Tensor) -> None:
        o = self.options
        if o["weight_decay"]:
            g.add_(theta, alpha=o["weight_decay"])
        square = self._slot("square_avg", theta).mul_(o["alpha"]).addcmul_(g, g, value=1.0 - o["alpha"])
        if o["centered"]:
            mean = self._slot("grad_avg", theta).lerp_(g, 1.0 - o["alpha"])
            root = square.addcmul(mean, mean, value=-1.0).sqrt_().add_(o["eps"])
        else:
            root = square.sqrt().add_(o["eps"])
        direction = g.div_(root)
        if o["momentum"]:
            direction = self._slot("momentum_buffer", theta).mul_(o["momentum"]).add_(direction)
        self._move(theta, direction, lr)

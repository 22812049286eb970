"""Ten ways to move the weights of a logistic neuron, all run at once on the same data: they differ in how a gradient becomes a step, and in nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weightlapse.adapters.threads import single_threaded
from weightlapse.errors import InvalidArgument
from weightlapse.progress import track

SPARE = 0.01  # of the mean size: what the other sign of a weight starts with under exponentiated gradient, so that it can change sign


@dataclass(frozen=True)
class Rule:
    """One step is ``w (1 - lr decay) - lr m / d``, then ``price``.

    m is the gradient (``beta1`` 0), its running sum (``gather`` 1) or its running mean; d is 1, or sqrt(running mean of squares) + eps where ``adaptive``: "each"
    weight has its own, or all weights of a neuron "share" one. ``beta2`` 1 sums the squares instead (Adagrad). ``unbias`` as in Adam. ``price`` moves every
    weight ``lr price`` towards zero and stops there (iterative soft thresholding: Daubechies, Defrise and De Mol 2004). ``multiply``: exponentiated
    gradient with both signs, w = u - v, the total of u + v conserved (Kivinen and Warmuth 1997).
    """

    words: str
    lr: float
    beta1: float = 0.0
    gather: float = 0.0
    adaptive: str = ""
    beta2: float = 0.0
    eps: float = 0.0
    unbias: bool = False
    decay: float = 0.0
    price: float = 0.0
    multiply: bool = False

    @property
    def adapts(self) -> bool:
        """Whether a step is divided by the size of past gradients."""
        return bool(self.adaptive)


RULES = {
    "adam": Rule("Adam", 1e-4, 0.9, 0.1, "each", 0.999, 1e-8, True),
    "gd": Rule("gradient descent", 0.01, gather=1.0),
    "adamw": Rule("Adam, decoupled decay 1", 1e-4, 0.9, 0.1, "each", 0.999, 1e-8, True, decay=1.0),
    "momentum": Rule("gradient descent with momentum 0.9", 0.01, 0.9, 1.0),
    "adam_eps": Rule("Adam, epsilon 0.01", 1e-4, 0.9, 0.1, "each", 0.999, 1e-2, True),
    "adam_shared": Rule("Adam, one second moment for all weights", 1e-4, 0.9, 0.1, "share", 0.999, 1e-8, True),
    "rmsprop": Rule("RMSprop", 1e-4, 0.0, 1.0, "each", 0.99, 1e-8),
    "adagrad": Rule("Adagrad", 0.01, 0.0, 1.0, "each", 1.0, 1e-10),
    "l1": Rule("gradient descent with a price on mass (L1)", 0.01, gather=1.0, price=0.01),
    "eg": Rule("exponentiated gradient, mass conserved", 0.01, gather=1.0, multiply=True),
}

Keep = Callable[[int, Tensor, Tensor, Tensor], None]


@single_threaded(True)  # small products: sharing them out costs more than it brings
def run_rules(rules: Sequence[Rule], x: Tensor, y: Tensor, start: Tensor, steps: int, every: int, keep: Keep) -> Tensor:
    """Train one neuron per seed and rule on the mean sigmoid cross-entropy, full batch, all from ``start``; returns the weights (seeds, rules, d + 1).

    x (seeds, rows, d), y (seeds, rows, 1); start (seeds, d + 1), the bias last. After the steps 1, 1 + every, ... and none other,
    ``keep(step, weights, costs, scale)`` is called: ``costs`` (seeds, rules) before that step's update, ``scale`` (seeds, rules, d + 1) what a gradient is
    multiplied with to become this step (lr / d; for "multiply" lr (u + v)).
    """
    inputs = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
    across, labels, averaged = inputs.transpose(1, 2).contiguous(), y.transpose(1, 2), inputs / x.shape[1]
    w = start[:, None].repeat(1, len(rules), 1)
    column = lambda name: torch.tensor([[float(getattr(k, name))] for k in rules], dtype=x.dtype)  # noqa: E731
    lr, beta1, gather, beta2, price = (column(n) for n in ("lr", "beta1", "gather", "beta2", "price"))
    new = torch.where(beta2 < 1, 1 - beta2, 1.0)
    adapts, eps = column("adapts"), column("eps")
    eps = torch.where(adapts > 0, eps, 1.0)  # d = 1 without a second moment
    faded1, faded2 = column("unbias"), column("unbias")
    left = 1 - lr * column("decay")
    shared, priced, multiplied = (
        _rows([f(k) for k in rules])
        for f in (lambda k: k.adaptive == "share", lambda k: k.price > 0, lambda k: k.multiply)
    )
    most = (lr * price)[priced]
    spare = SPARE * start[:, :-1].abs().mean(dim=1)[:, None, None]
    u, v = (part[:, multiplied, :-1].clamp_min(0) + spare for part in (w, -w))
    total = (u + v).sum(dim=2, keepdim=True)
    m, square = torch.zeros_like(w), torch.zeros_like(w)
    for step in track(range(1, steps + 1), "training by every rule"):
        z = torch.bmm(w, across)
        g = torch.bmm(torch.sigmoid(z).sub_(labels), averaged)
        seen = step % every == 1
        costs = (torch.nn.functional.softplus(z) - labels * z).mean(dim=2) if seen else w
        m.mul_(beta1).addcmul_(g, gather)
        square.mul_(beta2).addcmul_(g * g, new)
        faded1.mul_(beta1)
        faded2.mul_(beta2)
        size = square / (1 - faded2)
        if shared.stop:
            size[:, shared] = size[:, shared].mean(dim=2, keepdim=True)
        scale = lr / size.sqrt_().mul_(adapts).add_(eps)
        w = w * left - scale * (m / (1 - faded1))
        if priced.stop:
            paying = w[:, priced, :-1]  # the bias has no price
            paying.sub_(paying.clamp(-most, most))
        if multiplied.stop:
            e = torch.exp(lr[multiplied] * g[:, multiplied, :-1])
            u, v = u / e, v * e
            factor = total / (u + v).sum(dim=2, keepdim=True)
            u, v = u * factor, v * factor
            w[:, multiplied, :-1] = u - v
            if seen:
                scale[:, multiplied, :-1] = lr[multiplied] * (u + v)
        if seen:
            keep(step, w, costs, scale)
    return w


def _rows(chosen: list[bool]) -> slice:
    """The rules of a kind, which stand side by side: slices are views, and cost nothing."""
    if not any(chosen):
        return slice(0, 0)
    first, count = chosen.index(True), sum(chosen)
    if not all(chosen[first : first + count]):
        raise InvalidArgument("rules of one kind must stand side by side")
    return slice(first, first + count)

"""Losses and gradients of all members: by hand for dense chains, by autograd through vmap for everything else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from weightlapse.adapters.chain import slope
from weightlapse.ensembles.losses import ValueAndSlope
from weightlapse.ensembles.stack import Stack

Gradient = Callable[
    [Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor]
]  # theta, x, y, per_member -> losses (n,), gradient (n, P)


def gradient_of(stack: Stack, loss: ValueAndSlope) -> Gradient:
    """The function that computes every member's loss (n,) and gradient (n, P). The gradient's memory is reused by the next call."""
    return _by_hand(stack, loss) if stack.chain is not None else _by_autograd(stack, loss)


def _by_autograd(stack: Stack, loss: ValueAndSlope) -> Gradient:
    def both(theta: Tensor, x: Tensor, y: Tensor, per_member: bool) -> tuple[Tensor, Tensor]:
        leaf = theta.detach().requires_grad_()
        with torch.enable_grad():
            prediction = stack.forward(leaf, x, per_member=per_member)
        values, outer = loss(prediction.detach(), y)
        (gradient,) = torch.autograd.grad(prediction, leaf, outer)
        return values, gradient.contiguous()

    return both


def _by_hand(stack: Stack, loss: ValueAndSlope) -> Gradient:
    """The usual backward pass as batched products: no graph is built, the gradient's memory is allocated once."""
    chain = stack.chain
    assert chain is not None
    layers = chain.layers
    gradient = torch.empty_like(stack.theta)
    into = stack.named(gradient)

    @torch.no_grad()
    def both(theta: Tensor, x: Tensor, y: Tensor, per_member: bool) -> tuple[Tensor, Tensor]:
        named = stack.named(theta)
        values = [x if per_member else x.expand(len(theta), *x.shape)]
        for layer in layers:
            weight = named[layer.weight].transpose(1, 2)
            z = (
                torch.bmm(values[-1], weight)
                if layer.bias is None
                else torch.baddbmm(named[layer.bias][:, None, :], values[-1], weight)
            )
            if layer.activation != "identity":
                getattr(torch, layer.activation + "_")(z)
            values.append(z)
        losses, delta = loss(values[-1], y)
        for i in range(len(layers) - 1, -1, -1):
            layer = layers[i]
            bend = slope(layer.activation, values[i + 1])
            if bend is not None:
                delta = delta * bend
            into[layer.weight].copy_(torch.bmm(delta.transpose(1, 2), values[i]))
            if layer.bias is not None:
                torch.sum(delta, dim=1, out=into[layer.bias])
            if i:
                delta = torch.bmm(delta, named[layer.weight])
        return losses, gradient

    return both

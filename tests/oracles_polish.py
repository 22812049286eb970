"""The slow, obvious twin of a certificate: gradient and Hessian of one plain module, by autograd, one entry after the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


def gradient_and_hessian(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss, gradient (P,) and Hessian (P, P) of the mean squared error of ``net``."""
    weights = list(net.parameters())
    loss = ((net(x) - y) ** 2).mean()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, create_graph=True)])
    rows = [
        torch.cat([h.flatten() for h in torch.autograd.grad(entry, weights, retain_graph=True)]) for entry in gradient
    ]
    return loss.item(), gradient.detach().numpy(), torch.stack(rows).detach().numpy()

"""New layers that do nothing yet."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_DIRAC = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Residual(nn.Module):
    """``x + down(activation(up(x)))`` with ``down`` zero at first: exact after anything, and it learns from the first step.

    ``up`` has random weights, so the gradient of ``down`` is not zero.
    """

    def __init__(self, up: nn.Module, activation: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.up, self.activation, self.down = up, activation, down

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.activation(self.up(x)))


class Chain(nn.Module):
    """Two blocks called one after the other, the second with the first's result and the same further arguments."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.second(self.first(x, *args, **kwargs), *args, **kwargs)


def is_linear(layer: nn.Module) -> bool:
    """A layer whose features lie on the last axis: Linear, and Conv1D of transformers."""
    return isinstance(layer, nn.Linear) or (type(layer).__name__ == "Conv1D" and hasattr(layer, "nf"))


def features_of(layer: nn.Module) -> int:
    if isinstance(layer, nn.modules.conv._ConvNd):
        return int(layer.out_channels)
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.nf)


def same_kind(layer: nn.Module, features_in: int, features_out: int, *, bias: bool = True) -> nn.Module:
    """A fresh layer like ``layer`` that keeps the spatial size: Linear, or a convolution of odd kernel and stride 1."""
    weight: Any = layer.weight
    place = {"dtype": weight.dtype, "device": weight.device}
    if is_linear(layer):
        return nn.Linear(features_in, features_out, bias=bias, **place)
    assert isinstance(layer, nn.modules.conv._ConvNd)
    kernel = tuple(k if k % 2 else 3 for k in layer.kernel_size)
    depthwise = 1 < layer.groups == layer.in_channels == layer.out_channels == features_in == features_out
    return _DIRAC[len(kernel)](
        features_in,
        features_out,
        kernel,
        padding=tuple(k // 2 for k in kernel),
        padding_mode=layer.padding_mode,
        groups=layer.groups if depthwise else 1,
        bias=bias,
        **place,
    )


def identity_like(layer: nn.Module, *, bias: bool = True) -> nn.Module:
    """A layer of ``layer``'s kind that returns its input: the unit matrix, or a Dirac kernel (1 at its centre)."""
    width = features_of(layer)
    new: Any = same_kind(layer, width, width, bias=bias)
    with torch.no_grad():
        if is_linear(layer):
            new.weight.copy_(torch.eye(width))
        else:
            nn.init.dirac_(new.weight, groups=new.groups)
        if new.bias is not None:
            new.bias.zero_()
    return new


def zero_residual(layer: nn.Module, activation: nn.Module, width: int | None = None) -> Residual:
    """A residual insert for the output of ``layer`` whose second layer is zero."""
    features = features_of(layer)
    up = same_kind(layer, features, width or features)
    down: Any = same_kind(layer, width or features, features)
    with torch.no_grad():
        down.weight.zero_()
        down.bias.zero_()
    return Residual(up, activation, down)


def calibrated_norm(layer: nn.Module, mean: torch.Tensor, variance: torch.Tensor) -> nn.Module:
    """A BatchNorm that returns its input in eval mode: gain sqrt(var + eps) and shift mean undo its own statistics."""
    weight: Any = layer.weight
    dims = 1 if is_linear(layer) else weight.ndim - 2
    norm = _NORMS[dims](features_of(layer), dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt())
        norm.bias.copy_(norm.running_mean)
    return norm

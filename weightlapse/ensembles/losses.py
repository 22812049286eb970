"""Losses of many members at once: the value for each member, and its slope with respect to the predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from weightlapse.errors import InvalidArgument

LossName = Literal["mse", "bce", "cross_entropy"]
MemberLoss = Callable[[Tensor, Tensor], Tensor]  # one member's (predictions, targets) -> scalar
ValueAndSlope = Callable[
    [Tensor, Tensor], tuple[Tensor, Tensor]
]  # (n, B, ...), targets -> losses (n,), slopes (n, B, ...)


def value_and_slope(loss: str | MemberLoss) -> ValueAndSlope:
    """ "mse", "bce" (binary cross-entropy on logits), "cross_entropy" (on class numbers), each a mean; or one member's loss as a function.

    Targets are (B, ...) for all members or (n, B, ...). Slopes are those of the sum over members, so each member gets its own gradient.
    """
    if callable(loss):
        return _autograd(loss)
    known = {"mse": _mse, "bce": _bce, "cross_entropy": _cross_entropy}
    if loss not in known:
        raise InvalidArgument(
            f"ensemble: loss must be one of {', '.join(map(repr, known))} or a function, not {loss!r}"
        )
    return known[loss]


def _same_shape(prediction: Tensor, target: Tensor) -> None:
    if target.shape not in (prediction.shape, prediction.shape[1:]):
        raise InvalidArgument(
            f"ensemble: targets have shape {tuple(target.shape)}, but the members answer {tuple(prediction.shape)}: "
            f"targets must be {tuple(prediction.shape)} or, for all members, {tuple(prediction.shape[1:])}"
        )


def _mse(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    _same_shape(prediction, target)
    error = prediction - target
    flat = error.reshape(len(error), -1)
    count = flat.shape[1]
    # One pass for the squares; the slope then reuses the same memory.
    value = torch.linalg.vector_norm(flat, dim=1).square_().div_(count)
    return value, error.mul_(2.0 / count)


def _bce(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    _same_shape(prediction, target)
    target = target.to(prediction.dtype)
    count = prediction[0].numel()
    value = F.softplus(prediction).sub_(prediction * target).reshape(len(prediction), -1).sum(1).div_(count)
    return value, torch.sigmoid(prediction).sub_(target).div_(count)


def _cross_entropy(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if target.shape not in (prediction.shape[:2], prediction.shape[1:2]):
        raise InvalidArgument(
            f"ensemble: class numbers have shape {tuple(target.shape)}, expected {tuple(prediction.shape[:2])} or {tuple(prediction.shape[1:2])}"
        )
    target = target.expand(prediction.shape[:2])
    logs = F.log_softmax(prediction, dim=-1)
    picked = logs.gather(2, target[:, :, None])[:, :, 0]
    slope = logs.exp()
    slope.scatter_add_(2, target[:, :, None], torch.full_like(picked[:, :, None], -1.0))
    return -picked.mean(1), slope.div_(prediction.shape[1])


def _autograd(loss: MemberLoss) -> ValueAndSlope:
    def both(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            prediction = prediction.detach().requires_grad_()
            shared = target.ndim == 0 or len(target) != len(prediction) or target.shape == prediction.shape[1:]
            values = vmap(loss, in_dims=(0, None if shared else 0))(prediction, target)
            (slope,) = torch.autograd.grad(values.sum(), prediction)
        return values.detach(), slope

    return both

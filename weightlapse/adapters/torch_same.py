"""Whether tensors still have the sizes and strides that they had: asked before every frame, so it has to cost next to nothing.

``p.data = other`` may give a parameter another shape or order in the same memory, and torch counts no change. Asking each tensor makes three objects a
tensor; the guards that torch compiles with look at all of them with one call. They look at more (whether gradients are wanted, for one): what they do not
find as it was is asked in the slow way, and where they are missing everything is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch

_SHAPE = attrgetter("shape")
_STRIDE, _IN_ORDER = torch.Tensor.stride, torch.Tensor.is_contiguous
_MOST_MADE = 8  # guards: whoever goes on changing what they look at besides has to do without


class SameShapes:
    """Call it to ask.

    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> same = SameShapes([weight])
    >>> same()
    True
    >>> weight.data = weight.data.T
    >>> same()
    False
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = tensors
        self._shapes = [*map(_SHAPE, tensors)]
        self._in_order = [*map(_IN_ORDER, tensors)]
        self._strided = [t for t, simple in zip(tensors, self._in_order) if not simple]
        self._strides = [*map(_STRIDE, self._strided)]
        self._made = 0
        self._guard = self._new_guard()

    def __call__(self) -> bool:
        if self._guard is not None and self._guard(*self._tensors):
            return True
        same = (
            [*map(_SHAPE, self._tensors)] == self._shapes
            and [*map(_IN_ORDER, self._tensors)] == self._in_order
            and [*map(_STRIDE, self._strided)] == self._strides
        )
        if same and self._guard is not None:
            self._guard = self._new_guard()
        return same

    def _new_guard(self) -> Callable[..., bool] | None:
        self._made += 1
        if self._made > _MOST_MADE or not self._tensors:
            return None
        sizes, strides = [[*t.shape] for t in self._tensors], [[*t.stride()] for t in self._tensors]
        try:
            guards: Any = importlib.import_module("torch._C._dynamo.guards")
            check = guards.TensorGuards(*self._tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check
            known = check(*self._tensors) is True
        except Exception:  # noqa: BLE001 — a part of torch that may be another in the next version: it is not needed
            return None
        return check if known else None

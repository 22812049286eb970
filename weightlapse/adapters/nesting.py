"""Optimizers whose ``step`` calls the ``step`` of a parent class: PyTorch then runs their hooks once for each, for one update."""

from __future__ import annotations

import sys
from typing import Any


def may_nest(optimizer: Any) -> bool:
    """Whether more than one class of the optimizer, the common root left out, has a ``step`` of its own."""
    own = [
        c
        for c in type(optimizer).__mro__
        if "step" in vars(c) and (c.__module__, c.__name__) != ("torch.optim.optimizer", "Optimizer")
    ]
    return len(own) > 1


def inside_another_step(optimizer: Any) -> bool:
    """Called from a hook of ``optimizer``: whether the step that it belongs to was called by another step of the same optimizer.

    PyTorch wraps every ``step`` in a function named ``wrapper``, with the optimizer as first positional argument, and calls the hooks
    there. Looking at the stack, unlike counting, stays right when a step raises.
    """
    found = 0
    frame = sys._getframe(1)
    while frame is not None and found < 2:
        if frame.f_code.co_name == "wrapper" and frame.f_code.co_filename.endswith("optimizer.py"):
            arguments = frame.f_locals.get("args") or (None,)
            found += arguments[0] is optimizer
        frame = frame.f_back  # type: ignore[assignment]
    return found > 1

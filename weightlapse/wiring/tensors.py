"""The tensors of a module by the names of its state dict: each once, with the other names of tied ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weightlapse.errors import CannotTrace
from weightlapse.wiring.operators import place_of


def state_tensors(model: torch.nn.Module) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Floating-point tensors of the state dict by their first name, and the other names of tied ones."""
    named: dict[str, Tensor] = {}
    aliases: dict[str, list[str]] = {}
    first: dict[Any, str] = {}
    for name, t in entries(model):
        if not isinstance(t, Tensor) or not (t.is_floating_point() or t.is_complex()):
            continue
        if isinstance(t, torch.nn.parameter.UninitializedTensorMixin):
            raise CannotTrace(f"{name!r} has no shape yet; run the model once on an example before tracing it")
        name = name.replace("_orig_mod.", "")
        key = place_of(t) if t.numel() else id(t)
        if key in first:
            aliases.setdefault(first[key], []).append(name)
        else:
            first[key] = name
            named[name] = t
    return named, aliases


def entries(model: torch.nn.Module) -> list[tuple[str, Any]]:
    """Whatever the state dict holds, tensors or not, by name."""
    return list(model.state_dict(keep_vars=True).items())

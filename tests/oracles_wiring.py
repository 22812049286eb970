"""Slow, obvious twins of the wiring: what a model holds, compared piece by piece."""

from __future__ import annotations

import itertools
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from weightlapse.wiring.bench import Bench
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member
from weightlapse.wiring.verify import works


def belongings(model: nn.Module) -> list[Any]:
    """Everything a model holds, in a form that can be compared: bytes, versions and identities, however deep.

    Python identities are part of it: a list replaced by an equal list is a change.
    """
    found: list[Any] = []
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", model)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, (int, float, complex, str, bytes, type(None), type, types.ModuleType)):
            found.append((path, repr(value)))
            continue
        found.append((path, id(value), type(value).__name__))
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            found.append((path, _tensor(value)))
        elif isinstance(value, np.ndarray):
            found.append((path, value.tobytes()))
        elif isinstance(value, torch.Generator):
            found.append((path, value.get_state().numpy().tobytes()))
        elif hasattr(value, "getstate"):  # random.Random
            found.append((path, repr(value.getstate())))
        elif isinstance(value, np.random.Generator):
            found.append((path, repr(value.bit_generator.state)))
        elif isinstance(value, dict):
            found.append((path, len(value)))
            waiting += [(f"{path}[{k!r:.50}]", v) for k, v in value.items()]
        elif isinstance(value, (list, tuple, set, frozenset)) or type(value).__name__ == "deque":
            found.append((path, len(value)))
            waiting += [(f"{path}[{i}]", v) for i, v in enumerate(value)]
        elif isinstance(value, types.FunctionType):
            for i, cell in enumerate(value.__closure__ or ()):
                try:
                    waiting.append((f"{path}<{i}>", cell.cell_contents))
                except ValueError:
                    found.append((path, i, "empty"))
        elif isinstance(value, types.MethodType):
            waiting.append((f"{path}.__self__", value.__self__))
        if hasattr(value, "__dict__") and not isinstance(value, (types.FunctionType, type)) and not _is_foreign(value):
            waiting += [(f"{path}.{k}", v) for k, v in vars(value).items()]
    return found


def _is_foreign(value: Any) -> bool:
    return type(value).__module__.startswith(("torch._C", "threading", "logging"))


def _tensor(t: torch.Tensor) -> Any:
    flags = (tuple(t.shape), str(t.dtype), str(t.device), t.requires_grad, t._version if not t.is_inference() else -1)
    grad = None if not t.is_leaf or t.grad is None else _tensor(t.grad)
    if t.is_meta or t.layout is not torch.strided or t.is_quantized:
        return flags, grad
    plain = t.detach().resolve_conj().contiguous()
    return flags, grad, plain.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""


def independent_parts(bench: Bench, wiring: Wiring, size: int, places: Sequence[Member]) -> list[frozenset[int]]:
    """The smallest sets of places in which units may be exchanged while all others stay, by trying every set there is.

    Places that have no influence at all are left out: anything may be done with them.
    """

    def free(chosen: Sequence[int]) -> bool:
        group = Group("tried", size, tuple(places[i] for i in chosen), exponents=(0,) * len(chosen))
        rng = np.random.default_rng(3)
        return all(works(bench, wiring, group, rng) <= bench.tolerance for _ in range(3))

    heard = [i for i in range(len(places)) if not free([i])]
    found: list[frozenset[int]] = []
    for n in range(2, len(heard) + 1):
        for chosen in itertools.combinations(heard, n):
            if not any(part <= set(chosen) for part in found) and free(chosen):
                found.append(frozenset(chosen))
    return found

"""``wl.trace``: the wiring of any torch module that runs on an example."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from weightlapse.errors import CannotTrace, InvalidArgument
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.groups import GroupBuilder
from weightlapse.wiring.infer import Inference
from weightlapse.wiring.outputs import chooser
from weightlapse.wiring.record import Call, place_of, record, untouched
from weightlapse.wiring.rules import linear, norm, opaque, shape  # noqa: F401  (fill the table)
from weightlapse.wiring.rules.table import RULES, Rule, is_pointwise, pointwise


def trace(
    model: torch.nn.Module,
    *examples: Any,
    verify: bool | str = "auto",
    outputs: str | Sequence[str] | Callable[[Any], Any] | None = None,
) -> Wiring:
    started = time.perf_counter()
    model = unwrapped(model)
    if not isinstance(model, torch.nn.Module):
        raise InvalidArgument(
            f"trace needs a torch.nn.Module, got {type(model).__name__}; write a spec for other models (Wiring.from_spec)"
        )
    if not examples:
        raise InvalidArgument(
            "trace needs at least one example: wl.trace(model, x), with a tuple for several arguments"
        )
    named, aliases = state_tensors(model)
    if not named:
        raise CannotTrace(f"{type(model).__name__} has no weights, so there is nothing to find")
    inf = Inference(named, set(named))
    everything = [t for t in [*model.parameters(), *model.buffers()] if isinstance(t, Tensor)]
    choose = chooser(outputs)
    calls = 0
    for example in examples:
        with untouched(model):
            tape = record(model, example, everything, choose)
            calls += len(tape.calls)
            inf.run(tape, rule_of)
    builder = GroupBuilder(inf, list(named))
    groups = builder.build()
    parameters = {id(p) for p in model.parameters()}
    unseen = tuple(n for n, t in named.items() if n not in inf.seen and id(t) in parameters)
    report = {
        "operators": calls,
        "seconds": time.perf_counter() - started,
        "opaque": dict(inf.opaque),
        "probed": dict(inf.probed),
        "conflicts": list(inf.dims.conflicts),
    }
    shapes = {n: tuple(t.shape) for n, t in named.items()}
    return Wiring(tuple(groups), aliases, unseen, shapes, builder.fixed, (), report)


def unwrapped(model: Any) -> Any:
    """The module inside ``torch.compile`` and data-parallel wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
            inner = model.module
        if inner is None:
            return model
        model = inner


def state_tensors(model: torch.nn.Module) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Floating-point tensors of the state dict by their first name, and the other names of tied ones."""
    named: dict[str, Tensor] = {}
    aliases: dict[str, list[str]] = {}
    first: dict[Any, str] = {}
    for name, t in model.state_dict(keep_vars=True).items():
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


def rule_of(call: Call) -> Rule:
    """The rule of an operator: by name, as element by element, or by trying it out."""
    if call.name in RULES:
        return RULES[call.name]
    return pointwise if is_pointwise(call) else opaque.probe

"""The table of rules, and the rule for everything that works element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from weightlapse.wiring.record import Call

if TYPE_CHECKING:
    from weightlapse.wiring.infer import Inference

Axes = list[list[int]]  # one list of axis types per result tensor
Rule = Callable[["Inference", Call], Axes]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return add


# Element by element although not tagged so.
_ELEMENTWISE = frozenset(
    "masked_fill hardswish fill zero copy _to_copy detach alias contiguous lift_fresh lift clone bernoulli hardtanh rrelu_with_noise "
    "complex polar _conj conj_physical resolve_conj resolve_neg _neg_view native_dropout to prelu _prelu_kernel clamp_ relu6".split()
)
_COPIES = frozenset("detach alias contiguous lift_fresh lift clone _to_copy copy to fill zero".split())


def is_pointwise(call: Call) -> bool:
    if _draws(call):
        return False
    if call.name in _ELEMENTWISE or torch.Tag.pointwise in call.func.tags:
        return True
    packet = getattr(torch.ops.aten, call.name, None)  # an in-place form of a tagged operator
    overload = getattr(packet, call.func._overloadname, None) if packet is not None else None
    return overload is not None and torch.Tag.pointwise in overload.tags


def _draws(call: Call) -> bool:
    """Whether it draws random numbers, in the order of the positions (dropout does not, outside training)."""
    if torch.Tag.nondeterministic_seeded not in call.func.tags:
        return False
    switch = next((a.name for a in call.func._schema.arguments if a.name in ("train", "training")), None)
    return switch is None or bool(call[switch])


def pointwise(inf: Inference, call: Call) -> Axes:
    """Broadcast axes are the same axis; a weight that meets an activation adds to it or scales it."""
    tensors = [t for t in call.inputs if t.ndim]
    shape = call.outs[0].shape if call.outs else ()
    out: list[int] = []
    for back in range(len(shape), 0, -1):
        size = shape[-back]
        nodes = [inf.typed(t).axes[-back] for t in tensors if t.ndim >= back and t.shape[-back] == size]
        if not nodes or size == 1:
            out.append(inf.fixed(size, "size 1" if size == 1 else call.name))
            continue
        for n in nodes[1:]:
            inf.dims.unify(nodes[0], n)
        out.append(nodes[0])
    if call.name not in _COPIES:
        for node in out:
            inf.label(node, call.name)
        _elementwise_roles(inf, call, tensors)
    return [list(out) for _ in call.outs]


def _elementwise_roles(inf: Inference, call: Call, tensors: list[Tensor]) -> None:
    if all(inf.is_weight(t) for t in tensors):
        full = max((t.ndim for t in tensors), default=0)
        tensors = [t for t in tensors if t.ndim < full]
    role = "add" if call.name in ("add", "sub", "rsub", "lerp") else "mul"
    for t in tensors:
        for axis in range(t.ndim):
            inf.role(t, axis, role)


def tensors_of(value: Any) -> list[Tensor]:
    return [t for t in value if isinstance(t, Tensor)]

"""The optimizer comes along: every moment as if the grown network had been trained from the start.

A replica with the part c of its parent's outgoing weights gets c times the parent's gradient on everything that makes it (rows,
biases, gains), and its outgoing columns get the parent's gradient unchanged. So means of gradients are copied times c there,
means of squares times c squared; columns are copied as they are. What an optimizer adds to the gradient itself (L2 decay
of Adam, SGD, RMSprop, Adagrad) does not follow this rule, nor does a norm over unequally divided units: both are noted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from weightlapse.errors import CannotGrow, InvalidArgument
from weightlapse.growth.arrays import Array, grown_gradient
from weightlapse.growth.cells import Cells
from weightlapse.growth.families import Family
from weightlapse.growth.module import changed_tensor, tensors_of

# state key -> power of the gradient that it averages (0: its scale cancels)
MOMENTS: dict[type[torch.optim.Optimizer], dict[str, float]] = {
    torch.optim.Adam: {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2},
    torch.optim.AdamW: {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2},
    torch.optim.SGD: {"momentum_buffer": 1},
    torch.optim.RMSprop: {"square_avg": 2, "grad_avg": 1, "momentum_buffer": 0},
    torch.optim.Adagrad: {"sum": 2},
}


def powers_of(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The moments of ``optimizer``; CannotGrow for one whose state has no known rule."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidArgument(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if type(optimizer) not in MOMENTS:
        known = ", ".join(kind.__name__ for kind in MOMENTS)
        raise CannotGrow(
            f"the state of {type(optimizer).__name__} has no known exact rule (known: {known}); "
            "grow without optimizer= and make a new one"
        )
    return MOMENTS[type(optimizer)]


def grown_optimizer(
    optimizer: torch.optim.Optimizer | None,
    old: nn.Module,
    new: nn.Module,
    cells: Cells,
    *,
    mixed: Sequence[Family] = (),
    apart: Mapping[str, str] | None = None,
) -> tuple[torch.optim.Optimizer | None, list[str]]:
    """A new optimizer of the same kind for ``new``, with the same groups and options; and what is not exact, in words.

    ``mixed`` are the families that a norm averages over; ``apart`` maps tensors that were untied to the old name. Parameters that
    ``old`` does not hold stay as they are.
    """
    if optimizer is None:
        return None, []
    powers = powers_of(optimizer)

    def moment(name: str, key: str, value: torch.Tensor) -> torch.Tensor:
        maps = cells.maps_of(name)
        return changed_tensor(name, value, partial(_moment, maps, powers[key])) if maps else value.clone()

    apart = dict(apart or {})
    same = {name: name for name in tensors_of(new) if name not in apart}
    carried = rebuilt(optimizer, same, old, new, moment, apart)
    notes = []
    if apart:
        notes.append(
            f"moments of a shared weight are of both its uses: {', '.join(apart)} starts without, the other keeps them"
        )
    if any(group.get("weight_decay") for group in optimizer.param_groups) and type(optimizer) is not torch.optim.AdamW:
        notes.append(
            "weight decay is part of the gradient in this optimizer, so the carried moments are exact only up to its share"
        )
    if mixed and any((cells.parts[f.name] != cells.parts[f.name][0]).any() for f in mixed):
        names = ", ".join(f.name for f in mixed)
        notes.append(f"a norm averages over {names}: with unequal parts the carried moments there are close, not exact")
    return carried, notes


def rebuilt(
    optimizer: torch.optim.Optimizer,
    origin: dict[str, str],
    old: nn.Module,
    new: nn.Module,
    moment: Any,
    extra: dict[str, str] | None = None,
) -> torch.optim.Optimizer:
    """An optimizer of the same kind over ``new``. ``origin`` maps new tensor names to old ones; ``moment(old name, key, value)``
    gives each moment; ``extra`` maps names of new parameters to the old parameter whose group they join.

    Every parameter ends in exactly one group; CannotGrow when the old optimizer held one twice.
    """
    powers = powers_of(optimizer)
    held = {id(t): name for name, (t, _) in tensors_of(old).items()}
    fresh = {name: t for name, (t, _) in tensors_of(new).items()}
    successor = {old_name: fresh[name] for name, old_name in origin.items()}
    label = {id(t): name for name, t in fresh.items()}
    joining: dict[str, list[torch.Tensor]] = {}
    for name, host in (extra or {}).items():
        joining.setdefault(host, []).append(fresh[name])
    groups: list[dict[str, Any]] = []
    state: dict[torch.Tensor, dict[str, Any]] = {}
    seen: set[int] = set()
    for group in optimizer.param_groups:
        parameters: list[torch.Tensor] = []
        for parameter in group["params"]:
            known = held.get(id(parameter))
            target = parameter if known is None else successor[known]
            if id(target) in seen:
                raise CannotGrow(
                    f"the optimizer holds {known or 'a parameter'} twice; rebuild it with every parameter once"
                )
            seen.add(id(target))
            parameters.append(target)
            parameters += joining.pop(known, []) if known else []
            if parameter in optimizer.state:
                state[target] = {
                    key: moment(known, key, value) if known and key in powers and isinstance(value, torch.Tensor)
                    else value.clone() if isinstance(value, torch.Tensor) else value
                    for key, value in optimizer.state[parameter].items()
                }  # fmt: skip
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        groups.append({"params": parameters, **options})
    for left in joining.values():  # their hosts are not trained; the new ones are
        groups[-1]["params"] += left
    for group, old_group in zip(groups, optimizer.param_groups, strict=True):
        if "param_names" in old_group:
            group["params"] = [(label.get(id(p), f"foreign.{i}"), p) for i, p in enumerate(group["params"])]
    carried = type(optimizer)(groups, lr=optimizer.param_groups[0]["lr"])
    carried.defaults = dict(optimizer.defaults)
    for parameter, values in state.items():
        carried.state[parameter] = values
    return carried


def _moment(maps: Any, power: float, _name: str, values: Array, _dtype: str) -> Array:
    return grown_gradient(values, maps, power=power)

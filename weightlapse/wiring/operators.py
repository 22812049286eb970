"""What is asked of operators and tensors everywhere: their names, the memory they lie in and write to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Results that hold no data of their inputs, only their shape: constants.
FACTORIES = frozenset(
    "zeros_like ones_like full_like empty_like rand_like randn_like randint_like new_zeros new_ones new_full new_empty new_empty_strided".split()
)
# Python reads a value out of a tensor here: a branch may depend on it.
READS_VALUE = frozenset({"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "nonzero_numpy", "item"})


def storage_of(t: Tensor) -> int:
    """Which memory a tensor lies in; tensors without plain storage (sparse) count as memory of their own."""
    if t.layout is not torch.strided:
        return id(t)
    return int(t.untyped_storage()._cdata)


def place_of(t: Tensor) -> tuple[Any, ...]:
    """Where exactly a tensor lies: two tensors of one place are one array."""
    if t.layout is not torch.strided:
        return (id(t),)
    return (storage_of(t), t.storage_offset(), tuple(t.shape), t.stride())


def tensors_among(values: Any) -> list[Tensor]:
    """The tensors in an operator's arguments or results, in order: alone, or in lists and tuples."""
    found: list[Tensor] = []
    for v in values:
        if isinstance(v, Tensor):
            found.append(v)
        elif isinstance(v, (list, tuple)):
            found += tensors_among(v)
    return found


def base_name(func: Any) -> str:
    """``add_`` for aten::add_.Tensor."""
    return str(func._schema.name.partition("::")[2])


def written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that the operator writes into."""
    schema = func._schema
    if not schema.is_mutable:
        return []
    found: list[Tensor] = []
    for i, a in enumerate(schema.arguments):
        if a.alias_info is not None and a.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(a.name)
            found += tensors_among((value,))
    return found

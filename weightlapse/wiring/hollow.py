"""Running a model whose weights have no values: on the meta device, where a tensor is a shape alone.

What is made of weights is a shape too. Constants keep their values (masks, positions, index tables: a rule may ask whether one
varies along an axis): what makes them is run a second time, on the CPU. A value that is not there is never invented: where the
program asks for one, the trace is refused with the operator's name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from weightlapse.errors import CannotTrace
from weightlapse.wiring.operators import FACTORIES, READS_VALUE, base_name, storage_of, tensors_among, written

_META = torch.device("meta")


class Hollow:
    """The values of tensors on the meta device, as far as they are known."""

    def __init__(self) -> None:
        self._values: dict[int, Tensor] = {}
        self._lost: set[int] = set()  # memory that values which nobody knows were written into
        self._keep: list[Tensor] = []

    def value(self, t: Tensor) -> Tensor | None:
        """The values of ``t``; None when nobody knows them."""
        real = self._values.get(id(t)) if t.is_meta else t
        return None if real is None or storage_of(real) in self._lost else real

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """``func`` on shapes, and beside it on values where they are known."""
        tensors = tensors_among((*args, *kwargs.values()))
        if not any(self.value(t) is not t for t in tensors) and kwargs.get("device") != _META:
            return func(*args, **kwargs)
        name = base_name(func)
        real = self._on_values(func, args, kwargs, name) if self._all_known(tensors, name) else None
        if name in READS_VALUE:
            if real is None:
                raise CannotTrace(
                    f"the program reads a value ({name}) that depends on weights without values (meta device); give them memory "
                    "first: model.to_empty(device='cpu'), any values will do"
                )
            return real
        targets = written(func, args, kwargs)
        if real is None:
            for t in targets:
                known = self.value(t)
                if known is not None:
                    self._lost.add(storage_of(known))
                    self._keep.append(known)
        if targets and not any(t.is_meta for t in targets):
            return real if real is not None else targets[0] if len(targets) == 1 else tuple(targets)
        out = self._on_shapes(func, args, kwargs)
        for i, t in enumerate(tensors_among((out,))):
            self._keep.append(t)
            if real is not None:
                self._values[id(t)] = tensors_among((real,))[i]
        return out

    def _all_known(self, tensors: list[Tensor], name: str) -> bool:
        return name in FACTORIES or all(self.value(t) is not None for t in tensors)

    def _on_values(self, func: Any, args: Any, kwargs: Any, name: str) -> Any:
        def real(v: Any) -> Any:
            if isinstance(v, Tensor):
                known = self.value(v)  # what makes a constant of the shape alone needs no values
                return torch.empty(v.shape, dtype=v.dtype) if known is None else known
            return torch.device("cpu") if v == _META else v

        return func(*tree_map(real, args), **tree_map(real, kwargs))

    def _on_shapes(self, func: Any, args: Any, kwargs: Any) -> Any:
        def hollow(v: Any) -> Any:
            return v.to(_META) if isinstance(v, Tensor) else _META if isinstance(v, torch.device) else v

        return func(*tree_map(hollow, args), **tree_map(hollow, kwargs))

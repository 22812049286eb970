"""Running a model whose weights have no values: on the meta device, where a tensor is a shape alone.

What is made of weights is a shape too. Constants keep their values (masks, positions, index tables: a rule may ask whether one
varies along an axis): what makes them is run a second time, on the CPU. A value that is not there is never invented: where the
program asks for one, the trace is refused with the operator's name.
"""

from __future__ import annotations

from typing import Any, NoReturn

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

    def emptied(self, t: Tensor) -> Tensor:
        """An input of the program on the meta device like its weights; its values stay known."""
        if t.is_meta or t.layout is not torch.strided:
            return t
        moved = t.to(_META)
        self._keep.append(moved)
        self._values[id(moved)] = t
        return moved

    def value(self, t: Tensor) -> Tensor | None:
        """The values of ``t``; None when nobody knows them."""
        real = self._values.get(id(t)) if t.is_meta else t
        return None if real is None or storage_of(real) in self._lost else real

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """``func`` on shapes, and beside it on values where they are known."""
        tensors = tensors_among((*args, *kwargs.values()))
        name = base_name(func)
        if not any(t.is_meta for t in tensors) and kwargs.get("device") != _META:
            return self._on_memory(func, args, kwargs, tensors, name)
        real = self._on_values(func, args, kwargs, name) if self._all_known(tensors, name) else None
        if name in READS_VALUE:
            return real if real is not None else _refuse(name)
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

    def _on_memory(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], name: str) -> Any:
        lost = any(self.value(t) is None for t in tensors) and name not in FACTORIES
        if lost and name in READS_VALUE:
            _refuse(name)
        out = func(*args, **kwargs)
        if lost:
            for t in tensors_among((out,)):
                self._lost.add(storage_of(t))
                self._keep.append(t)
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

        try:
            return func(*tree_map(hollow, args), **tree_map(hollow, kwargs))
        except (RuntimeError, NotImplementedError):
            if written(func, args, kwargs):
                raise
        return self._shapes_of_a_run(func, args, kwargs)  # an operator that cannot say its shapes without running

    def _shapes_of_a_run(self, func: Any, args: Any, kwargs: Any) -> Any:
        def filled(v: Any) -> Any:
            if isinstance(v, Tensor):
                known = self.value(v)
                return torch.zeros(v.shape, dtype=v.dtype) if known is None else known
            return torch.device("cpu") if v == _META else v

        out = func(*tree_map(filled, args), **tree_map(filled, kwargs))
        return tree_map(lambda v: v.to(_META) if isinstance(v, Tensor) else v, out)


def _refuse(name: str) -> NoReturn:
    raise CannotTrace(
        f"the program reads a value ({name}) that depends on weights without values (meta device); give them memory first: "
        "model.to_empty(device='cpu'), any values will do"
    )

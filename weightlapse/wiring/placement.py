"""Moves of many groups made at once: one gather and one factor for each axis, so that a tensor is copied once.

A layer of a transformer holds dozens of groups (heads, the dims of each head); moving one after the other would copy its
tensors dozens of times, and hold two copies. `Placement` composes the moves of one tensor on paper first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.wiring.apply import gathered, multiplied
from weightlapse.wiring.members import Member

Order = NDArray[np.int64]
Factors = NDArray[np.float64]


@dataclass(frozen=True)
class Placement:
    """What moves did to one tensor, in order; ``Placement()`` is none. Calling it gives the moved tensor, a new one.

    ``stages`` are either ``{axis: (positions, factors)}``, which commute and are composed, or the move of a member that
    covers a slab only, which has to stand by itself.

    >>> import numpy as np
    >>> from weightlapse.wiring.members import Member, blocks
    >>> rows = Member("a.weight", 0, blocks(3), "out")
    >>> turned = Placement().then(rows, 3, np.array([2, 0, 1])).then(rows, 3, np.array([1, 0, 2]))
    >>> turned(np.array([10.0, 20.0, 30.0])).tolist()
    [10.0, 30.0, 20.0]
    """

    stages: tuple[Any, ...] = ()

    def then(self, m: Member, length: int, order: Order | None, factors: Factors | None = None) -> Placement:
        """Followed by a move of one group: unit u is the old unit ``order[u]``, then multiplied by ``factors[u]``.

        ``length`` is that of the member's axis.
        """
        positions = along = None
        if order is not None:
            positions = np.arange(length)
            positions[m.index] = m.index[order]
        if m.where is not None:
            return Placement((*self.stages, (m, positions, factors)))
        if factors is not None:
            along = np.ones(length)
            along[m.index] = factors[:, None]
        last = self.stages[-1] if self.stages and isinstance(self.stages[-1], dict) else None
        at, by = (None, None) if last is None else last.get(m.axis, (None, None))
        if positions is not None:
            at = positions if at is None else at[positions]
            by = None if by is None else by[positions]
        if along is not None:
            by = along if by is None else by * along
        before = self.stages if last is None else self.stages[:-1]
        return Placement((*before, {**(last or {}), m.axis: (at, by)}))

    def __call__(self, value: Any) -> Any:
        """``value`` moved: an array or a tensor of the same kind and precision; the same object when nothing moves."""
        for stage in self.stages:
            if isinstance(stage, dict):
                for axis, (at, _) in stage.items():
                    if at is not None:
                        value = taken(value, at, axis)
                for axis, (_, by) in stage.items():
                    if by is not None:
                        value = _times(value, by, axis)
            else:
                member, positions, factors = stage
                value = value if positions is None else gathered(value, member, positions)
                value = value if factors is None else multiplied(value, member, factors)
        return value

    def undoes(self, first: Placement) -> bool | None:
        """Whether this takes every number back to where it was before ``first``; None when slabs move, where positions cannot tell."""
        mine, its = ([s for s in p.stages if s] for p in (self, first))
        if not all(isinstance(s, dict) for s in (*mine, *its)):
            return None
        assert max(len(mine), len(its)) <= 1  # stages without slabs are one
        back, there = (mine or [{}])[0], (its or [{}])[0]
        for axis in {*back, *there}:
            (at, by), (then_at, then_by) = there.get(axis, (None, None)), back.get(axis, (None, None))
            length = next((len(v) for v in (at, by, then_at, then_by) if v is not None), 0)
            order = np.arange(length) if at is None else at
            factors = np.ones(length) if by is None else by
            if then_at is not None:
                order, factors = order[then_at], factors[then_at]
            factors = factors if then_by is None else factors * then_by
            if not (np.array_equal(order, np.arange(length)) and np.allclose(factors, 1, rtol=1e-12, atol=0)):
                return False
        return True

    @property
    def rescales(self) -> bool:
        """Whether any value is multiplied by something else than 1 and -1."""
        for stage in self.stages:
            for by in [by for _, by in stage.values()] if isinstance(stage, dict) else [stage[2]]:
                if by is not None and (np.abs(by) != 1).any():
                    return True
        return False


def taken(value: Any, positions: Order, axis: int) -> Any:
    """``value`` with its ``axis`` read at ``positions``: np.take, for tensors in main memory too (torch is slower there)."""
    if isinstance(value, np.ndarray):
        return value.take(positions, axis=axis)
    if hasattr(value, "index_select"):
        import torch

        if value.device.type == "cpu" and value.layout is torch.strided and not value.is_quantized:
            plain = value.detach()
            bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(plain.element_size())
            if bits is not None and not plain.is_complex() and plain.ndim and plain.numel():
                got = plain.view(bits).numpy().take(positions, axis=axis)
                return torch.from_numpy(got).view(plain.dtype)
    return value[(slice(None),) * axis + (positions,)]


def _times(value: Any, along: Factors, axis: int) -> Any:
    table = along.reshape([-1 if a == axis else 1 for a in range(len(value.shape))])
    return value * (value.new_tensor(table) if hasattr(value, "new_tensor") else table.astype(value.dtype))

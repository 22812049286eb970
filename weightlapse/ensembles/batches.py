"""What each member sees at each step: fixed arrays, shuffled mini-batches, or fresh data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weightlapse.ensembles.stack import Stack
from weightlapse.errors import InvalidArgument

Fresh = Callable[[int], tuple[Any, Any]]  # step -> x, y
Batch = tuple[Tensor, Tensor, bool]  # x, y, whether both have the member axis


@dataclass(frozen=True)
class Batches:
    """The data of an ensemble. ``x`` and ``y`` are (N, ...) for all members or (n, N, ...), or ``fresh(step)`` makes them."""

    x: Tensor | None
    y: Tensor | None
    fresh: Fresh | None
    per_member: bool | None
    batch_size: int | None
    seeds: tuple[int, ...]
    rows: int  # of one batch
    offset: int = 0  # of the first member here, where these are some of a larger ensemble's

    def restrict(self, members: slice) -> Batches:
        """The data of some of the members."""
        part, offset = self.seeds[members], self.offset + members.start
        if self.fresh is not None or not self.per_member:
            return Batches(self.x, self.y, self.fresh, self.per_member, self.batch_size, part, self.rows, offset)
        assert self.x is not None
        assert self.y is not None
        return Batches(self.x[members], self.y[members], None, True, self.batch_size, part, self.rows, offset)

    def steps_per_epoch(self) -> int:
        """Batches that one pass over the data takes, a short last one counted. Raises InvalidArgument for data made by a function, which has no end."""
        if self.x is None:
            raise InvalidArgument("ensemble: epochs= needs fixed data x and y; with fresh=function say steps=")
        return 1 if self.batch_size is None else -(-self._count() // self.batch_size)

    def _count(self) -> int:
        assert self.x is not None
        return self.x.shape[1] if self.per_member else self.x.shape[0]

    def steps(self, count: int, dtype: torch.dtype) -> Iterator[Batch]:
        """``count`` batches, floating tensors in ``dtype``."""
        if self.fresh is not None:
            yield from self._fresh(count, dtype)
        elif self.batch_size is None:
            whole = _cast(self.x, dtype), _cast(self.y, dtype), bool(self.per_member)
            for _ in range(count):
                yield whole
        else:
            yield from self._shuffled(count, dtype, self.batch_size)

    def _fresh(self, count: int, dtype: torch.dtype) -> Iterator[Batch]:
        assert self.fresh is not None
        mine = slice(self.offset, self.offset + len(self.seeds))
        for step in range(count):
            x, y = self.fresh(step)
            x, y = _cast(x, dtype), _cast(y, dtype)
            per_member = bool(self.per_member)
            if per_member:
                x, y = x[mine], y[mine]
            yield x, y, per_member

    def _shuffled(self, count: int, dtype: torch.dtype, size: int) -> Iterator[Batch]:
        """Every member has its own order, from its own seed, so that it sees the same in any company."""
        x, y, total = _cast(self.x, dtype), _cast(self.y, dtype), self._count()
        generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        rows = torch.arange(len(self.seeds))[:, None]
        done = 0
        while done < count:
            order = torch.stack([torch.randperm(total, generator=g) for g in generators])
            for part in order.split(size, dim=1)[: count - done]:
                done += 1
                yield (x[rows, part], y[rows, part], True) if self.per_member else (x[part], y[part], True)


def _cast(value: Any, dtype: torch.dtype) -> Tensor:
    t = torch.as_tensor(value)
    return t.to(dtype) if t.is_floating_point() else t


def arrange(
    stack: Stack,
    x: Any,
    y: Any,
    fresh: Fresh | None,
    per_member: bool | None,
    batch_size: int | None,
    seeds: Sequence[int],
) -> Batches:
    """Check what the caller gave, and find out whether it has a member axis."""
    if (fresh is None) == (x is None) or (x is None) != (y is None):
        raise InvalidArgument("ensemble: give the data either as x and y, or as fresh=function(step) -> (x, y)")
    if batch_size is not None and batch_size < 1:
        raise InvalidArgument(f"ensemble: batch_size must be at least 1, not {batch_size}")
    sample_x, sample_y = (torch.as_tensor(v) for v in (fresh(0) if fresh is not None else (x, y)))
    if not sample_x.is_floating_point() and stack.chain is not None:
        raise InvalidArgument(
            f"ensemble: x has dtype {sample_x.dtype}, dense networks need floating numbers: x.float()"
        )
    if per_member is None:
        per_member = stack.is_per_member(sample_x)
    if per_member and not len(sample_x) == len(sample_y) == len(stack):
        raise InvalidArgument(
            f"ensemble: per-member data need {len(stack)} along the first axis, got x {tuple(sample_x.shape)} and y {tuple(sample_y.shape)}"
        )
    if fresh is not None and batch_size is not None:
        raise InvalidArgument("ensemble: batch_size belongs to x and y; fresh=function makes its own batches")
    if fresh is None and not per_member and len(sample_y) != len(sample_x):
        # y may still be one target set per member on shared inputs
        if len(sample_y) != len(stack) or sample_y.shape[1:2] != sample_x.shape[:1]:
            raise InvalidArgument(f"ensemble: {len(sample_x)} inputs but targets of shape {tuple(sample_y.shape)}")
        sample_x, per_member = sample_x.expand(len(stack), *sample_x.shape), True
    rows = batch_size or sample_x.shape[1 if per_member else 0]
    if fresh is not None:
        return Batches(None, None, fresh, per_member, None, tuple(seeds), rows)
    return Batches(sample_x, sample_y, None, per_member, batch_size, tuple(seeds), rows)


def imitation(teachers: Stack, batch_size: int, *, low: float = -1.0, high: float = 1.0, seed: int = 0) -> Fresh:
    """Fresh data for students: each member's own inputs, uniform in [low, high), answered by its own teacher.

    ``teachers`` must be one per member, with dense first layers. The same ``seed`` and step give the same batch, in any process.
    """
    chain = teachers.chain
    if chain is None:
        raise InvalidArgument(
            "imitation: the teachers must be dense chains, so that the width of their inputs is known"
        )
    width = chain.inputs

    def fresh(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed((seed << 32) + step)
        x = torch.rand(len(teachers), batch_size, width, generator=generator, dtype=teachers.theta.dtype)
        x = x.mul_(high - low).add_(low)
        return x, teachers(x, per_member=True)

    return fresh

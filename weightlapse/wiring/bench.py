"""A copy of a network on which claims are tried: random weights, the outputs they give, and what a change of weights does to them.

Every floating-point weight, gain, bias and statistic is drawn at random (a permuted LayerNorm gain of ones would prove nothing).
Small networks are tried in float64, large ones in single precision; nothing but the copy itself and what a move overwrites is
held in memory.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from weightlapse.errors import CannotTrace
from weightlapse.wiring.contents import contents
from weightlapse.wiring.operators import place_of, tensors_among
from weightlapse.wiring.placement import Placement
from weightlapse.wiring.programs.program import is_variance
from weightlapse.wiring.record import as_call, quietly
from weightlapse.wiring.tensors import state_tensors
from weightlapse.wiring.twin import at_rest

# Largest relative change that summing in another order may make.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
SMALL = 4_000_000  # numbers; above, float64 would cost more than it tells
_PERIOD = 65_521
_REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, AssertionError, AttributeError, KeyError, NotImplementedError)  # fmt: skip


class _Precisions(TorchDispatchMode):
    """Notes which floating-point types an eager run computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen.update(t.dtype for t in tensors_among((out,)) if t.dtype in TOLERANCE and t.ndim)
        return out


class Bench:
    """``names`` are the weights by name, as ``state_tensors`` finds them in ``model``, which is not touched.

    ``batches`` is how many batch sizes are tried, 1 or 2. ``subject`` is a twin of the model that may be used up, known to be changed
    by no run. Raises RuntimeError and its like when a copy cannot be made; ``calls``
    is empty when the copy runs on none of the examples.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        examples: Sequence[Any],
        choose: Callable[[Any], list[Tensor]],
        names: Mapping[str, Tensor],
        *,
        batches: int = 2,
        subject: torch.nn.Module | None = None,
    ) -> None:
        self.choose = choose
        self.names = list(names)
        self.large = sum(t.numel() for t in names.values()) > SMALL
        if any(t.is_meta for t in names.values()):
            raise RuntimeError("weights on the meta device have no values to try")
        self.model = at_rest(model) if subject is None else subject
        self._still = subject is not None
        self._holders = _holders(self.model, names)
        self._source = {n: t.detach() for n, t in names.items()}
        self._plain = {id(t): t.data for t in [*self.model.parameters(), *self.model.buffers()]}
        self.calls: list[Any] = []
        self.base: list[list[Tensor]] = []
        self.tolerance = 0.0
        self._fresh, self._own = True, True  # whether each run needs a twin, with weights of its own
        self._seed = 0
        calls = [as_call(e) for e in examples]
        if batches > 1:
            calls += [c for e in calls if (c := _halved(e)) is not None]
        for dtype in (torch.float32,) if self.large else (torch.float64, torch.float32):
            self._prepare(calls, dtype)
            if self.calls:
                return

    @classmethod
    def of(
        cls,
        model: torch.nn.Module,
        examples: Sequence[Any],
        choose: Callable[[Any], list[Tensor]],
        names: Mapping[str, Tensor],
        *,
        batches: int = 2,
        subject: torch.nn.Module | None = None,
    ) -> Bench | None:
        """The bench, or None when the model cannot be copied or its copy does not run."""
        try:
            bench = cls(model, examples, choose, names, batches=batches, subject=subject)
        except (*_REFUSALS, CannotTrace):
            return None
        return bench if bench.calls else None

    def _prepare(self, calls: Sequence[Any], dtype: torch.dtype) -> None:
        self.dtype = dtype
        wide = torch.complex128 if dtype == torch.float64 else torch.complex64
        with torch.inference_mode(False), torch.no_grad():
            drawn = set()
            noise = _Noise(self._seed, dtype, self._source.values())
            for name in self.names:
                value = self._drawn(name, noise)
                for holder in self._holders[name]:
                    holder.data = value
                    drawn.add(id(holder))
            for t in [*self.model.parameters(), *self.model.buffers()]:
                if id(t) not in drawn and (t.is_floating_point() or t.is_complex()):
                    t.data = self._plain[id(t)].to(wide if t.is_complex() else dtype)
        self._fresh, self._own = True, True
        for call in calls:
            call = _cast(call, dtype)
            out = self._first(call) if not self.calls else self._try(call)
            if out is not None:
                self.calls.append(call)
                self.base.append(out)

    def redraw(self, seed: int) -> bool:
        """Other random weights; False, with the bench left without calls, when the model does not run with them."""
        self._seed = seed
        calls, self.calls, self.base = self.calls, [], []
        self._prepare(calls, self.dtype)
        return len(self.calls) == len(calls)

    def _first(self, call: Any) -> list[Tensor] | None:
        """Also learns what a run changes, and what rounding alone may change: some models compute in float32 whatever their weights are in."""
        watch = _Precisions()
        if self._still:
            self._fresh = self._own = False
            with watch:
                out = self._try(call)
        else:
            subject = at_rest(self.model, own_weights=True)
            weights = list(subject.parameters())
            versions, before = [p._version for p in weights], contents(subject)
            with watch:
                out = self._try(call, subject)
            self._own = [p._version for p in weights] != versions
            self._fresh = self._own or contents(subject) != before
        self.tolerance = max(TOLERANCE[d] for d in watch.seen | {self.dtype})
        return out

    def _drawn(self, name: str, noise: _Noise) -> Tensor:
        """Random weights that keep activations of ordinary size; variances positive."""
        t = self._source[name]
        some = noise.like(t)
        if is_variance(name):
            return 0.5 + some.abs()
        spread = _spread(t)
        if not math.isfinite(spread):  # what is claimed holds for any values, so the lost ones may be made up
            t = torch.nan_to_num(t, nan=0.0, posinf=0.0, neginf=0.0)
            spread = _spread(t)
        return torch.add(t.to(some.dtype), some, alpha=spread if spread > 0 and t.ndim > 1 else max(spread, 0.3))

    @property
    def state(self) -> dict[str, Tensor]:
        """The random weights by name; the bench's own tensors."""
        return {n: self._holders[n][0].detach() for n in self.names}

    def _try(self, call: Any, subject: torch.nn.Module | None = None) -> list[Tensor] | None:
        try:
            out = self.run(call, subject)
        except _REFUSALS:
            return None  # this batch size or dtype does not suit the model
        return out if out and all(t.isfinite().all() for t in out if t.is_floating_point()) else None

    def run(self, call: Any, subject: torch.nn.Module | None = None) -> list[Tensor]:
        """The outputs for one call (arguments and keyword arguments), whatever was run before."""
        with quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model said it when it was traced
            _seed()
            if subject is None:
                subject = at_rest(self.model, own_weights=self._own) if self._fresh else self.model
            args, kwargs = tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, call)
            return [t.detach().clone() for t in self.choose(subject(*args, **kwargs))]

    # ---- what a change of weights does

    def error(self, state: Mapping[str, Tensor]) -> float:
        """Largest relative change of any output on any input when the weights are ``state``."""
        with self._overwritten() as write:
            for n, t in self.state.items():
                if state[n] is not t and place_of(state[n]) != place_of(t):
                    write(self._holders[n][0].data, None, None, state[n])
            return self._change()

    @contextlib.contextmanager
    def holding(self, changes: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, these weights are other ones."""
        with self._overwritten() as write:
            for name, value in changes.items():
                write(self._holders[name][0].data, None, None, value)
            yield

    def outputs(self, changes: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """All outputs with these weights changed, one after the other; nothing when the model does not run with them."""
        with self.holding(changes):
            found = [self._try(call) or [] for call in self.calls]
        numbers = [torch.view_as_real(t) if t.is_complex() else t for out in found for t in out]
        return np.concatenate([t.double().cpu().numpy().ravel() for t in numbers] or [np.zeros(0)])

    def error_moved(self, placements: Mapping[str, Placement]) -> float:
        """The same when tensors are moved; only what is moved is written, and held meanwhile."""
        with self._overwritten() as write:
            for name, placement in placements.items():
                t = self._holders[name][0].data
                for stage in placement.stages:
                    for part, axis, at, by in _steps(t, stage):
                        touched = at != np.arange(len(at)) if by is None else (at != np.arange(len(at))) | (by != 1)
                        value = part.index_select(axis, torch.from_numpy(at[touched]).to(t.device))
                        if by is not None:
                            shape = [-1 if d == axis else 1 for d in range(t.ndim)]
                            value = value * value.new_tensor(by[touched]).reshape(shape)
                        write(part, axis, torch.from_numpy(np.flatnonzero(touched)).to(t.device), value)
            return self._change()

    @contextlib.contextmanager
    def _overwritten(self) -> Iterator[Callable[[Tensor, int | None, Tensor | None, Tensor], None]]:
        """Values to be written at places on an axis of a tensor (or all over it); afterwards everything is as it was."""
        undo: list[tuple[Tensor, int | None, Tensor | None, Tensor]] = []

        def put(t: Tensor, axis: int | None, where: Tensor | None, value: Tensor) -> None:
            if axis is None or where is None:
                t.copy_(value)
            else:
                t.index_copy_(axis, where, value)

        def write(t: Tensor, axis: int | None, where: Tensor | None, value: Tensor) -> None:
            old = t.clone() if axis is None or where is None else t.index_select(axis, where)
            undo.append((t, axis, where, old))
            put(t, axis, where, value)

        with torch.inference_mode(False), torch.no_grad():
            try:
                yield write
            finally:
                for t, axis, where, old in reversed(undo):
                    put(t, axis, where, old)

    def _change(self) -> float:
        worst = 0.0
        for call, base in zip(self.calls, self.base, strict=True):
            out = self._try(call)
            if out is None or len(out) != len(base):
                return float("inf")
            worst = max(worst, *(change(a, b) for a, b in zip(out, base, strict=True)))
        return worst


_Steps = Iterator[tuple[Tensor, int, NDArray[np.int64], NDArray[np.float64] | None]]


def _steps(t: Tensor, stage: Any) -> _Steps:
    """(tensor or part of it, axis, old position of each position, factors) for each axis that one stage of a placement moves."""
    if isinstance(stage, dict):
        for axis, (at, by) in stage.items():
            yield t, axis, np.arange(t.shape[axis]) if at is None else at, by
        return
    member, at, factors = stage
    length = t.shape[member.axis]
    by = None
    if factors is not None:
        by = np.ones(length)
        by[member.index] = factors[:, None]
    other, slab = member.where
    for first, last in _stretches(slab):
        yield t.narrow(other, first, last - first), member.axis, np.arange(length) if at is None else at, by


def _stretches(positions: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    for run in np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1):
        yield int(run[0]), int(run[-1]) + 1


def _seed() -> None:
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


def change(a: Tensor, b: Tensor) -> float:
    """How far ``a`` is from ``b``, as a share of the largest value of ``b``."""
    if a.shape != b.shape:
        return float("inf")
    if not (a.is_floating_point() or a.is_complex()):
        return 0.0 if torch.equal(a, b) else 1.0
    if not b.numel():
        return 0.0
    scale = float(b.abs().max())
    return float((a - b).abs().max()) / scale if scale > 0 else float((a - b).abs().max())


def _holders(model: torch.nn.Module, names: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """The tensors of the copy for each name: several where weights are tied by lying in the same memory."""
    mine = state_tensors(model)[0]
    if missing := [n for n in names if n not in mine]:
        raise RuntimeError(f"a copy of the model has no {missing[0]!r}")  # it rebuilds itself
    alike: dict[Any, list[Tensor]] = {}
    for t in [*model.parameters(), *model.buffers()]:
        alike.setdefault(place_of(t) if t.numel() else id(t), []).append(t)
    return {n: alike.get(place_of(mine[n]) if mine[n].numel() else id(mine[n]), [mine[n]]) for n in names}


def _spread(t: Tensor) -> float:
    some = t.reshape(-1)[:_PERIOD]
    found = float(some.to(torch.float32 if t.element_size() < 4 else t.dtype).std()) if t.numel() > 1 else 0.0
    return found if found > 0 or t.numel() <= _PERIOD else float(t.std())


class _Noise:
    """Normal numbers for one tensor after the other, from one table when the network is large."""

    def __init__(self, seed: int, dtype: torch.dtype, tensors: Iterable[Tensor]) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._wide = torch.complex128 if dtype == torch.float64 else torch.complex64
        total = sum(t.numel() for t in tensors)
        self._size = total if total <= SMALL else _PERIOD
        self._table = torch.randn(self._size, generator=self._generator, dtype=dtype)
        self._at = 0

    def like(self, t: Tensor) -> Tensor:
        if t.is_complex():
            return torch.randn(t.shape, generator=self._generator, dtype=self._wide).to(t.device)
        n, at = t.numel(), self._at
        self._at = (at + n) % self._size if self._size else 0
        if at + n <= self._size:
            return self._table[at : at + n].view(t.shape).to(t.device)
        # its length is a prime, so that no two rows of a weight get the same noise
        return self._table.repeat(-(-(at + n) // self._size))[at : at + n].view(t.shape).to(t.device)


def _cast(call: Any, dtype: torch.dtype) -> Any:
    return tree_map(lambda v: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v, call)


def _halved(call: Any) -> Any | None:
    """The same inputs with the batch (the first size that all of them share) one shorter."""
    tensors: list[Tensor] = []
    tree_map(lambda v: tensors.append(v) if isinstance(v, Tensor) and v.ndim else None, call)
    if any(t.layout is not torch.strided for t in tensors):
        return None
    if not tensors or len({t.shape[0] for t in tensors}) != 1 or tensors[0].shape[0] < 2:
        return None
    return tree_map(lambda v: v[:-1] if isinstance(v, Tensor) and v.ndim else v, call)

"""The verifier: does the network really compute the same when a group is permuted, flipped or rescaled?

Every floating-point weight, gain, bias and statistic is drawn at random first (a permuted LayerNorm gain of ones would prove
nothing), in float64, and the network is run at two batch sizes. A group that fails is dropped and named.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from weightlapse.errors import CannotTrace
from weightlapse.wiring.apply import permute_state, scale_state
from weightlapse.wiring.data import Gauge, Group, Wiring
from weightlapse.wiring.record import as_call, quietly
from weightlapse.wiring.twin import at_rest

# Largest relative change that summing in another order may make.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


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
        self.seen.update(
            t.dtype for t in tree_flatten(out)[0] if isinstance(t, Tensor) and t.dtype in TOLERANCE and t.ndim
        )
        return out


class Bench:
    """A copy of the model with random weights in float64 (float32 when it cannot run so), and inputs to try it on."""

    def __init__(
        self,
        model: torch.nn.Module,
        examples: Sequence[Any],
        choose: Callable[[Any], list[Tensor]],
        names: dict[str, Tensor],
    ) -> None:
        self.choose = choose
        self.generator = torch.Generator().manual_seed(20)
        self.dtype = torch.float64
        self.model = at_rest(model, own_weights=True)
        self.tensors = {n: t for n, t in self.model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
        self.tensors = {n.replace("_orig_mod.", ""): t for n, t in self.tensors.items()}
        if missing := [n for n in names if n not in self.tensors]:
            raise RuntimeError(f"a copy of the model has no {missing[0]!r}")  # it rebuilds itself, as Keras models do
        self.names = list(names)
        self.calls = [as_call(e) for e in examples]
        self.calls += [c for e in self.calls if (c := _halved(e)) is not None]
        self._prepare()

    @classmethod
    def of(
        cls,
        model: torch.nn.Module,
        examples: Sequence[Any],
        choose: Callable[[Any], list[Tensor]],
        names: dict[str, Tensor],
    ) -> Bench | None:
        """The bench, or None when the model cannot be copied or its copy does not run."""
        try:
            bench = cls(model, examples, choose, names)
        except (RuntimeError, TypeError, AttributeError, NotImplementedError, CannotTrace):
            return None
        return bench if bench.calls else None

    def _prepare(self) -> None:
        for dtype in (torch.float64, torch.float32):
            self.dtype = dtype
            _convert(self.model, dtype)
            self.tensors = {
                n.replace("_orig_mod.", ""): t
                for n, t in self.model.state_dict(keep_vars=True).items()
                if isinstance(t, Tensor)
            }
            self._randomise()
            self.state = {n: self.tensors[n].detach().clone() for n in self.names}
            calls = self.calls
            self.calls = []
            self.base: list[list[Tensor]] = []
            for call in calls:
                out = self._try(_cast(call, dtype))
                if out is not None:
                    self.calls.append(_cast(call, dtype))
                    self.base.append(out)
            if self.calls:
                self.tolerance = self._rounding()
                return
            self.calls = calls
        self.calls, self.tolerance = [], 0.0

    def _rounding(self) -> float:
        """What rounding alone may change: some models compute in float32 inside, whatever their weights are in."""
        watch = _Precisions()
        with watch:
            self.run(self.calls[0])
        return max(TOLERANCE[d] for d in watch.seen | {self.dtype})

    def _randomise(self) -> None:
        """Random weights that keep activations of ordinary size; variances positive."""
        with torch.no_grad():
            for n in self.names:
                t = self.tensors[n]
                wide = torch.complex128 if t.is_complex() else torch.float64
                noise = torch.randn(t.shape, generator=self.generator, dtype=wide).to(t.device)
                spread = float(t.detach().to(wide).std()) if t.numel() > 1 else 0.0
                if "running_var" in n or n.endswith("_var"):
                    t.copy_(0.5 + noise.abs())
                elif spread > 0 and t.ndim > 1:
                    t.copy_(t.to(wide) + spread * noise)
                else:
                    t.copy_(t.to(wide) + max(spread, 0.3) * noise)

    def _try(self, call: tuple[Any, Any]) -> list[Tensor] | None:
        try:
            out = self.run(call)
        except (
            RuntimeError,
            TypeError,
            ValueError,
            IndexError,
            AssertionError,
            AttributeError,
            KeyError,
            NotImplementedError,
        ):
            return None  # this batch size or dtype does not suit the model
        return out if out and all(t.isfinite().all() for t in out if t.is_floating_point()) else None

    def run(self, call: tuple[Any, Any]) -> list[Tensor]:
        with quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model said it when it was run the first time
            torch.manual_seed(0)
            args, kwargs = tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, call)
            return [t.detach().clone() for t in self.choose(self.model(*args, **kwargs))]

    @contextlib.contextmanager
    def loaded(self, state: dict[str, Any]) -> Iterator[None]:
        changed = [n for n in self.names if state[n] is not self.state[n]]
        with torch.no_grad():
            for n in changed:
                self.tensors[n].copy_(state[n])
            try:
                yield
            finally:
                for n in changed:
                    self.tensors[n].copy_(self.state[n])

    def error(self, state: dict[str, Any]) -> float:
        """Largest relative change of any output on any input when the weights are ``state``."""
        worst = 0.0
        with self.loaded(state):
            for call, base in zip(self.calls, self.base, strict=True):
                out = self._try(call)
                if out is None or len(out) != len(base):
                    return float("inf")
                for a, b in zip(out, base, strict=True):
                    worst = max(worst, _change(a, b))
        return worst


def _change(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    if not (a.is_floating_point() or a.is_complex()):
        return 0.0 if torch.equal(a, b) else 1.0
    if not b.numel():
        return 0.0
    scale = float(b.abs().max())
    return float((a - b).abs().max()) / scale if scale > 0 else float((a - b).abs().max())


def _convert(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """``model.to(dtype)`` that keeps complex weights complex."""
    wide = torch.complex128 if dtype == torch.float64 else torch.complex64
    with torch.no_grad():
        for t in [*model.parameters(), *model.buffers()]:
            if t.is_floating_point() or t.is_complex():
                t.data = t.data.to(wide if t.is_complex() else dtype)


def _cast(call: tuple[Any, Any], dtype: torch.dtype) -> tuple[Any, Any]:
    return tree_map(lambda v: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v, call)


def _halved(call: tuple[Any, Any]) -> tuple[Any, Any] | None:
    """The same inputs with the batch (the first size that all of them share) one shorter."""
    tensors: list[Tensor] = []
    tree_map(lambda v: tensors.append(v) if isinstance(v, Tensor) and v.ndim else None, call)
    if any(t.layout is not torch.strided for t in tensors):
        return None
    if not tensors or len({t.shape[0] for t in tensors}) != 1 or tensors[0].shape[0] < 2:
        return None
    return tree_map(lambda v: v[:-1] if isinstance(v, Tensor) and v.ndim else v, call)


def works(bench: Bench, wiring: Wiring, group: Group, rng: np.random.Generator) -> float:
    """The relative error after a random permutation of the group's units."""
    return bench.error(permute_state(bench.state, wiring, group.name, _shuffle(group.size, rng)))


def signed(
    bench: Bench, wiring: Wiring, group: Group, exponents: Sequence[int], kind: str, rng: np.random.Generator
) -> float:
    """The relative error after flipping (``kind`` "sign") or rescaling ("scale") random units."""
    return bench.error(
        scale_state(bench.state, wiring, group.name, _factors(group.size, kind, rng), exponents=exponents)
    )


def _shuffle(size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    order = rng.permutation(size)
    return np.roll(order, 1) if np.array_equal(order, np.arange(size)) else order


def _factors(size: int, kind: str, rng: np.random.Generator) -> NDArray[np.float64]:
    if kind == "scale":
        return np.exp(rng.normal(0.0, 0.5, size))
    factors = rng.choice([-1.0, 1.0], size)
    factors[rng.integers(size)] = -1.0
    return factors


@dataclass(frozen=True)
class _Move:
    """One thing that is claimed to change nothing: a group permuted, or its units flipped or rescaled."""

    group: Group
    kind: str
    gauge: Gauge | None
    apply: Callable[[dict[str, Any]], dict[str, Any]]


def _moves(wiring: Wiring, rng: np.random.Generator) -> Iterator[_Move]:
    for g in wiring.groups:
        order = _shuffle(g.size, rng)
        yield _Move(g, "permutation", None, partial(permute_state, wiring=wiring, group=g.name, perm=order))
        own = [Gauge(kind, g.exponents) for kind in ("sign", "scale") if kind in g.symmetries]
        for gauge in [*own, *g.gauges]:
            factors = _factors(g.size, gauge.kind, rng)
            change = partial(scale_state, wiring=wiring, group=g.name, factors=factors, exponents=gauge.exponents)
            yield _Move(g, gauge.kind, gauge if gauge in g.gauges else None, change)


def _failing(moves: list[_Move], bench: Bench) -> dict[int, tuple[_Move, float]]:
    """Which moves change the outputs: all are made at once, and only when that fails each half is tried alone."""
    if not moves:
        return {}
    state: dict[str, Any] = dict(bench.state)
    for move in moves:
        state = move.apply(state)
    error = bench.error(state)
    if error <= bench.tolerance:
        return {}
    if len(moves) == 1:
        return {id(moves[0]): (moves[0], error)}
    half = len(moves) // 2
    return _failing(moves[:half], bench) | _failing(moves[half:], bench)


def verified(wiring: Wiring, bench: Bench) -> Wiring:
    """The wiring without what does not hold: failing groups are dropped and named, failing symmetries taken away."""
    rng = np.random.default_rng(7)
    moves = list(_moves(wiring, rng))
    # Permutations first: what a wrong group does to its signs is of no interest.
    bad = _failing([m for m in moves if m.kind == "permutation"], bench)
    gone = {m.group.name: error for m, error in bad.values()}
    rest = [m for m in moves if m.kind != "permutation" and m.group.name not in gone]
    lost = [m for m, _ in _failing(rest, bench).values()]
    kept: list[Group] = []
    for g in wiring.groups:
        if g.name in gone:
            continue
        kinds = {m.kind for m in lost if m.group.name == g.name and m.gauge is None}
        gauges = [m.gauge for m in lost if m.group.name == g.name and m.gauge is not None]
        kept.append(
            replace(
                g,
                parent=None if g.parent is not None and g.parent[0] in gone else g.parent,
                symmetries=g.symmetries - kinds,
                gauges=tuple(x for x in g.gauges if x not in gauges),
            )
        )
    dropped = [f"{name}: permuting its units changes the outputs by {e:.1e} of their size" for name, e in gone.items()]
    fixed = dict(wiring.fixed)
    for name in gone:
        for member in wiring.group(name).members:
            fixed.setdefault((member.tensor, member.axis), "its group was dropped: permuting it changed the outputs")
    return replace(wiring, groups=tuple(kept), dropped=(*wiring.dropped, *dropped), fixed=fixed)

"""The verifier: does the network really compute the same when a group is permuted, flipped or rescaled?

Every floating-point weight, gain, bias and statistic is drawn at random first (a permuted LayerNorm gain of ones would prove
nothing), in float64, and the network is run at two batch sizes. A group that fails is dropped and named.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from weightlapse.wiring.apply import permute_state, scale_state
from weightlapse.wiring.data import Group, Wiring
from weightlapse.wiring.record import as_call, untouched

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}


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
        self.model = _copy_of(model)
        self.tensors = {n: t for n, t in self.model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
        self.tensors = {n.replace("_orig_mod.", ""): t for n, t in self.tensors.items()}
        self.names = [n for n in names if n in self.tensors]
        self.calls = [as_call(e) for e in examples]
        self.calls += [c for e in self.calls if (c := _halved(e)) is not None]
        self._prepare()

    def _prepare(self) -> None:
        for dtype in (torch.float64, torch.float32):
            self.dtype = dtype
            self.model.to(dtype)
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
                return
            self.calls = calls
        self.calls = []

    def _randomise(self) -> None:
        """Random weights that keep activations of ordinary size; variances positive."""
        with torch.no_grad():
            for n in self.names:
                t = self.tensors[n]
                noise = torch.randn(t.shape, generator=self.generator, dtype=torch.float64).to(t.device)
                spread = float(t.detach().double().std()) if t.numel() > 1 else 0.0
                if "running_var" in n or n.endswith("_var"):
                    t.copy_(0.5 + noise.abs())
                elif spread > 0 and t.ndim > 1:
                    t.copy_(t.double() + spread * noise)
                else:
                    t.copy_(t.double() + max(spread, 0.3) * noise)

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
        with untouched(self.model):
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


def _copy_of(model: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(model)


def _cast(call: tuple[Any, Any], dtype: torch.dtype) -> tuple[Any, Any]:
    return tree_map(lambda v: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v, call)


def _halved(call: tuple[Any, Any]) -> tuple[Any, Any] | None:
    """The same inputs with the batch (the first size that all of them share) one shorter."""
    tensors: list[Tensor] = []
    tree_map(lambda v: tensors.append(v) if isinstance(v, Tensor) and v.ndim else None, call)
    if not tensors or len({t.shape[0] for t in tensors}) != 1 or tensors[0].shape[0] < 2:
        return None
    return tree_map(lambda v: v[:-1] if isinstance(v, Tensor) and v.ndim else v, call)


def works(bench: Bench, wiring: Wiring, group: Group, rng: np.random.Generator) -> float:
    """The relative error after a random permutation of the group's units."""
    order = rng.permutation(group.size)
    if np.array_equal(order, np.arange(group.size)):
        order = np.roll(order, 1)
    return bench.error(permute_state(bench.state, wiring, group.name, order))


def flipped(
    bench: Bench, wiring: Wiring, group: Group, factors: np.ndarray[Any, Any], exponents: Sequence[int]
) -> float:
    return bench.error(scale_state(bench.state, wiring, group.name, factors, exponents=exponents))

"""Operators without a rule: those known to depend on order are fixed, the rest are tried out alone.

Probing permutes one axis of the operator's own inputs, twice, and looks which axis of the results moved the same way. What passes is
as good as a rule; what does not is fixed, with the operator's name as the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from weightlapse.wiring.infer import Inference
from weightlapse.wiring.operators import READS_VALUE
from weightlapse.wiring.record import Call
from weightlapse.wiring.rules.table import Axes, rule

_ORDERED = (
    "sort topk argsort argmax argmin msort kthvalue mode cumsum cumprod cummax cummin logcumsumexp _cummax_helper _cummin_helper roll flip"
).split()


@rule(*_ORDERED)
def _ordered(inf: Inference, call: Call) -> Axes:
    """The order of the positions matters by definition; other axes pass through."""
    x = call.inputs[0]
    axes = inf.axes(x)
    names = {a.name for a in call.func._schema.arguments}
    dims = call["dims"] if "dims" in names else call["dim"] if "dim" in names else None
    if dims is None or dims == []:
        dims = list(range(x.ndim))
    over = {d % x.ndim for d in ([dims] if isinstance(dims, int) else dims)} if x.ndim else set()
    why = f"{call.name} depends on the order of its positions"
    for d in over:
        inf.dims.fix(axes[d], why)
    keep = [a for d, a in enumerate(axes) if d not in over]
    out: Axes = []
    for t in call.outs:
        if t.ndim == x.ndim:
            out.append([inf.fixed(t.shape[d], why) if d in over else a for d, a in enumerate(axes)])
        else:
            out.append(keep if t.ndim == len(keep) else [inf.fixed(n, why) for n in t.shape])
    for d in over:
        inf.label(axes[d], call.name)
    return out


@rule(*READS_VALUE)
def _read(inf: Inference, call: Call) -> Axes:
    for t in call.inputs:
        for a in inf.axes(t):
            inf.dims.fix(a, f"single values of it are read by the program ({call.name})")
    return [[inf.fixed(n, call.name) for n in t.shape] for t in call.outs]


def give_up(inf: Inference, call: Call, why: str) -> Axes:
    inf.opaque[call.name] = inf.opaque.get(call.name, 0) + 1
    for t in call.inputs:
        for a in inf.axes(t):
            inf.dims.fix(a, why)
    return [[inf.fixed(n, why) for n in t.shape] for t in call.outs]


def probe(inf: Inference, call: Call) -> Axes:
    why = f"opaque op {call.name}"
    if torch.Tag.nondeterministic_seeded in call.func.tags:
        return give_up(inf, call, f"{call.name} draws random numbers in a fixed order")
    if call.writes:
        return give_up(inf, call, why)
    run = _Experiment(call)
    if run.base is None:
        return give_up(inf, call, why)
    inf.probed[call.name] = inf.probed.get(call.name, 0) + 1
    axes = [inf.axes(t) for t in run.tensors]
    todo = [(i, d) for i, row in enumerate(axes) for d, a in enumerate(row) if inf.dims.any_free(a)]
    results: list[dict[int, list[int]]] = [{} for _ in call.outs]  # per result: axis -> types of inputs that move it
    failed: list[tuple[int, int]] = []

    def accept(spots: list[tuple[int, int]]) -> bool:
        moved = run.moves(spots)
        if moved is None:
            return False
        for i, d in spots:
            inf.dims.unify(axes[spots[0][0]][spots[0][1]], axes[i][d])
            inf.label(axes[i][d], call.name)
            # nothing is known about what happens across its positions
            inf.dims.occur([axes[i][d]])
            inf.block(axes[i][d], f"{why}: what it computes across these units is unknown")
        for j, axis in enumerate(moved):
            if axis is not None:
                results[j].setdefault(axis, []).append(axes[spots[0][0]][spots[0][1]])
        return True

    failed = [spot for spot in todo if not accept([spot])]
    for spots in _joint(failed, run.tensors):
        if all(s in failed for s in spots) and accept(spots):
            failed = [s for s in failed if s not in spots]
    for i, d in failed:
        inf.dims.fix(axes[i][d], why)
    if failed:
        inf.opaque[call.name] = inf.opaque.get(call.name, 0) + 1
    for i, t in enumerate(run.tensors):
        if inf.is_weight(t):
            for d in range(t.ndim):
                if (i, d) not in failed:
                    inf.role(
                        t,
                        d,
                        "out"
                        if any(d_nodes and axes[i][d] in d_nodes for r in results for d_nodes in r.values())
                        else "in",
                    )
    out: Axes = []
    for t, found in zip(call.outs, results, strict=True):
        row = []
        for d, n in enumerate(t.shape):
            nodes = found.get(d, [])
            for other in nodes[1:]:
                inf.dims.unify(nodes[0], other)
            row.append(nodes[0] if nodes else inf.fixed(n, why if n > 1 else "size 1"))
        out.append(row)
    return out


def _joint(failed: list[tuple[int, int]], tensors: list[Tensor]) -> list[list[tuple[int, int]]]:
    """Sets of axes to permute together: all of one size, then one axis of each tensor, then pairs."""
    sizes: dict[int, list[tuple[int, int]]] = {}
    for i, d in failed:
        sizes.setdefault(tensors[i].shape[d], []).append((i, d))
    tries: list[list[tuple[int, int]]] = []
    for spots in sizes.values():
        if len(spots) > 1:
            tries.append(spots)
            tries += [[a, b] for n, a in enumerate(spots) for b in spots[n + 1 :]][:24]
            trailing: dict[int, list[tuple[int, int]]] = {}
            for i, d in spots:
                trailing.setdefault(d - tensors[i].ndim, []).append((i, d))
            tries += [s for s in trailing.values() if len(s) > 2]
    return tries


class _Experiment:
    """One operator, called again with random inputs of the same shapes."""

    def __init__(self, call: Call) -> None:
        self.func: Callable[..., Any] = call.func
        self.leaves, self.spec = tree_flatten((call.args, call.kwargs))
        self.spots = [n for n, v in enumerate(self.leaves) if isinstance(v, Tensor)]
        self.tensors: list[Tensor] = [self.leaves[n] for n in self.spots]
        self.generator = torch.Generator().manual_seed(0)
        self.base: list[Tensor] | None = None
        real = [call.value(t) for t in self.tensors]
        if any(v is None and not t.is_floating_point() and not t.is_complex() for v, t in zip(real, self.tensors)):
            return  # whole numbers that nobody knows (meta device) cannot be made up
        tries = [[self._random(t, v) for t, v in zip(self.tensors, real, strict=True)]]
        tries += [[v.detach().clone() for v in real if v is not None]] if all(v is not None for v in real) else []
        for values in tries:
            out = self._call(values)
            if (
                out is not None
                and len(out) == len(call.outs)
                and all(not t.is_floating_point() or t.isfinite().all() for t in out)
            ):
                self.values, self.base = values, out
                return

    def _random(self, t: Tensor, real: Tensor | None) -> Tensor:
        if real is not None and not (t.is_floating_point() or t.is_complex()):
            return real.detach().clone()
        return torch.randn(t.shape, generator=self.generator, dtype=t.dtype).to("cpu" if t.is_meta else t.device)

    def _call(self, values: list[Tensor]) -> list[Tensor] | None:
        leaves = list(self.leaves)
        for n, v in zip(self.spots, values, strict=True):
            leaves[n] = v.clone()
        leaves = [torch.device("cpu") if isinstance(v, torch.device) and v.type == "meta" else v for v in leaves]
        args, kwargs = tree_unflatten(leaves, self.spec)
        try:
            with torch.no_grad():
                out = self.func(*args, **kwargs)
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
            return None  # not callable on such values: the caller fixes its axes
        return [t for t in tree_flatten(out)[0] if isinstance(t, Tensor)]

    def moves(self, spots: list[tuple[int, int]]) -> list[int | None] | None:
        """Which axis of each result moves when these input axes are permuted alike; None for a result that does not move.

        None as a whole: some result changed in another way.
        """
        n = self.tensors[spots[0][0]].shape[spots[0][1]]
        ring = torch.randperm(n, generator=self.generator)
        turned, swapped = torch.arange(n), torch.arange(n)
        turned[ring], swapped[ring[:2]] = ring.roll(1), ring[:2].flip(0)
        # A turn of all positions and a swap of two neighbours make up every order; one alone says nothing of rings and of signs of orders.
        ways = [way for order in (turned, swapped) if (way := self._moved(spots, order)) is not None]
        if len(ways) < 2:
            return None
        both = [a & b for a, b in zip(*ways, strict=True)]
        return [None if None in axes else min(axes) for axes in both] if all(both) else None  # type: ignore[type-var]

    def _moved(self, spots: list[tuple[int, int]], order: Tensor) -> list[set[int | None]] | None:
        """For each result every axis that moves by ``order`` with these input axes, and None when it stays as it is."""
        assert self.base is not None
        values = list(self.values)
        for i, d in spots:
            values[i] = values[i].index_select(d, order.to(values[i].device))
        out = self._call(values)
        if out is None or [t.shape for t in out] != [t.shape for t in self.base]:
            return None
        found: list[set[int | None]] = []
        for new, old in zip(out, self.base, strict=True):
            there = order.to(old.device)
            found.append(
                {d for d, m in enumerate(old.shape) if m == len(order) and _same(new, old.index_select(d, there))}
            )
            if _same(new, old):
                found[-1].add(None)
        return found


def _same(a: Tensor, b: Tensor) -> bool:
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    tolerance = {torch.float64: 1e-9, torch.complex128: 1e-9, torch.float16: 2e-2, torch.bfloat16: 5e-2}.get(
        a.dtype, 1e-4
    )
    scale = float(b.abs().max()) if b.numel() else 0.0
    return bool(((a - b).abs() <= tolerance * max(scale, 1e-30)).all())

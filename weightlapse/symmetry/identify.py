"""Which weights the function determines: the rank of the parameter Jacobian."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weightlapse.symmetry.runner import Data, Runner

LIMIT = 600  # parameters; the singular values of a (4 P, P) matrix take about a second there


@dataclass(frozen=True)
class Identifiability:
    """``identifiable`` of ``parameters`` directions in weight space change the function; the others are free.

    A ReLU network loses one for each hidden unit (its scale; Grillo and Montufar 2026); an irreducible tanh or GELU network
    none.
    """

    parameters: int
    identifiable: int

    @property
    def free(self) -> int:
        return self.parameters - self.identifiable


def identifiability(runner: Runner, state: Mapping[str, Any] | None = None) -> Identifiability | None:
    """Rank of d output / d weights, in float64, over the data and as many fresh inputs as the rank needs.

    None for networks of more than 600 parameters, or whose forward pass cannot be differentiated sample by sample.
    """
    torch = runner._torch
    weights = runner.weights(state) if state is not None else dict(runner.own)
    moving = [n for n, p in runner.module.named_parameters() if p.is_floating_point() and n in weights]
    count = sum(weights[n].numel() for n in moving)
    if runner.dtype is None or not 0 < count <= LIMIT or not runner.data.inputs[0].is_floating_point():
        return None
    weights = {n: v.double() if v.is_floating_point() else v for n, v in weights.items()}
    free = {n: weights[n] for n in moving}
    held = {n: v for n, v in weights.items() if n not in free}

    def one(w: Any, *sample: Any) -> Any:
        x = data.with_inputs(x[None] for x in sample)
        call = torch.func.functional_call
        out = call(runner.module, {**held, **w}, *(((), x.example) if x.names else (x.inputs, {})))
        return runner._flat(out).reshape(-1)

    outputs = max(runner.call(weights, runner.data.head(1)).numel(), 1)
    # a piecewise linear network shows a weight only to inputs of the pieces that the weight shapes: take many, and far ones
    rows = max(4 * count // outputs, min(2000, 1_500_000 // (count * outputs)), 16)
    data = more(runner.data, rows)
    runner.module.eval()
    axes = (None, *(0 for _ in data.inputs))
    try:
        rows = torch.func.vmap(torch.func.jacrev(one), in_dims=axes)(free, *data.inputs)
    except (
        RuntimeError,
        ValueError,
        TypeError,
    ):  # control flow or in-place writes that a batched derivative cannot follow
        return None
    jacobian = torch.cat([r.reshape(r.shape[0] * r.shape[1], -1) for r in rows.values()], dim=1).detach()
    # A column's size is its weight's units; the rank must not depend on them.
    jacobian = jacobian / jacobian.norm(dim=0).clamp_min(1e-300)
    values = torch.linalg.svdvals(jacobian)
    return Identifiability(count, int((values > values.max() * 1e-9).sum())) if len(values) else None


def more(data: Data, rows: int, seed: int = 0) -> Data:
    """The data followed by `fresh` inputs, ``rows`` samples in all."""
    import torch

    have = data.head(rows)
    if have.rows >= rows:
        return have
    extra = fresh(data, rows - have.rows, seed, spread=2.0)
    return have.with_inputs(torch.cat([x, y]) for x, y in zip(have.inputs, extra.inputs, strict=True))


def fresh(data: Data, rows: int, seed: int = 0, spread: float = 1.0) -> Data:
    """New random inputs of the data's kind.

    Real ones are normal with each feature's mean and ``spread`` times its standard deviation, integers drawn from those seen.
    """
    import torch

    rng = np.random.default_rng(seed)
    out = []
    for x in data.inputs:
        shape = (rows, *x.shape[1:])
        if x.is_floating_point():
            mean, own = x.mean(0, keepdim=True), x.std(0, keepdim=True, unbiased=False)
            wide = spread * (
                own + 0.1 * x.std(unbiased=False)
            )  # features that never vary in the data do vary elsewhere
            out.append(mean + wide * torch.as_tensor(rng.normal(size=shape)).to(x.dtype))
        else:
            seen = x.reshape(-1)
            out.append(seen[torch.as_tensor(rng.integers(0, len(seen), size=shape))])
    return data.with_inputs(out)

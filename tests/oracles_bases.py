"""Slow, obvious twins of `weightlapse.symmetry.fits`: every element of a small group tried, or gradient descent over the matrices."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray

from weightlapse.wiring.members import Basis

Matrix = NDArray[np.float64]


def gap(m: Matrix, xa: Matrix, ya: Matrix, xb: Matrix, yb: Matrix) -> float:
    """The squared distance that is left when b's numbers are written in another basis."""
    return float(np.square(xa - m @ xb).sum() + np.square(ya - np.linalg.inv(m).T @ yb).sum())


def best_signed_order(c: Matrix) -> float:
    """The largest ``sum(P * c)`` over every signed permutation."""
    n = len(c)
    return max(
        float(sum(s[i] * c[i, p[i]] for i in range(n)))
        for p in itertools.permutations(range(n))
        for s in itertools.product((1, -1), repeat=n)
    )


def best_heads(products: NDArray[np.float64]) -> float:
    """The largest sum over every order of heads, and of query heads in each; products (heads, heads, shared, shared)."""
    n, k = products.shape[0], products.shape[2]
    inner = np.array(
        [
            [
                max(sum(products[u, v, i, q[i]] for i in range(k)) for q in itertools.permutations(range(k)))
                for v in range(n)
            ]
            for u in range(n)
        ]
    )
    return max(float(sum(inner[u, p[u]] for u in range(n))) for p in itertools.permutations(range(n)))


def descended(basis: Basis, xa: Matrix, ya: Matrix, xb: Matrix, yb: Matrix, starts: int = 8, seed: int = 0) -> Matrix:
    """The matrix of the basis's kind that gradient descent (L-BFGS) finds from several random starts."""
    rng = np.random.default_rng(seed)
    best, found = np.inf, np.eye(basis.size)
    tensors = [torch.from_numpy(np.ascontiguousarray(v, dtype=np.float64)) for v in (xa, ya, xb, yb)]
    for i in range(starts):
        begin = np.linalg.qr(rng.normal(size=(basis.size, basis.size)))[0]
        begin[:, -1] *= (
            np.sign(np.linalg.det(begin)) * (-1) ** i
        )  # descent cannot cross from one sign of the determinant to the other
        free = torch.from_numpy(begin).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [free], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
        )

        def loss(free: torch.Tensor = free) -> torch.Tensor:
            m = of_kind(basis, free)
            x, y, u, v = tensors
            return (x - m @ u).square().sum() + (y - torch.linalg.inv(m).T @ v).square().sum()

        def step(free: torch.Tensor = free, optimizer: torch.optim.Optimizer = optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            value = loss(free)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(step)
        with torch.no_grad():
            value = float(loss(free))
            if value < best:
                best, found = value, of_kind(basis, free).numpy().copy()
    return found


def of_kind(basis: Basis, free: torch.Tensor) -> torch.Tensor:
    """Any square matrix made one of the basis's kind, smoothly."""
    if basis.kind == "invertible":
        return free
    if basis.kind == "orthogonal":
        return torch.linalg.matrix_exp(free - free.T)
    out = torch.zeros_like(free)
    for i, j in basis.pairs:  # rotary: turned and scaled, a complex number
        turn = torch.stack([torch.stack([free[i, i], -free[i, j]]), torch.stack([free[i, j], free[i, i]])])
        at = torch.tensor([i, j])
        out = out.index_put((at[:, None], at[None, :]), turn)
    rest = torch.tensor([i for i in range(basis.size) if not any(i in p for p in basis.pairs)], dtype=torch.long)
    return out.index_put((rest[:, None], rest[None, :]), free[rest][:, rest])


def chained(frames: list[dict[str, NDArray[np.float64]]]) -> NDArray[np.float64]:
    """What turns the last frame (all its columns together) to where the first one was: from frame to frame by gradient descent."""
    size = next(iter(frames[0].values())).shape[1]
    basis, nothing, total = Basis("b", size, "orthogonal", (), ()), np.zeros((size, 1)), np.eye(size)
    x = [np.concatenate([v.T for v in f.values()], axis=1) for f in frames]
    before = x[0]
    for here in x[1:]:
        total = descended(basis, before, nothing, total @ here, nothing, starts=2) @ total
        before = total @ here
    return total

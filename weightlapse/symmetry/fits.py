"""The matrix that brings one basis nearest to another, in closed form, for each kind of basis; and a basis of its own for one network.

Rows are coordinates: ``x`` and ``y`` are (size, n) and (size, m), the numbers that are multiplied by M and by its inverse transpose. For an
invertible M both are first *balanced* (``x x^T = y^T y`` up to a rotation, which is the geometric mean of the two), which
forgets all of M but a rotation; that is found by its singular values (Procrustes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.assign import assign
from weightlapse.wiring.change import centring, is_signed_order, others
from weightlapse.wiring.data import Basis

Matrix = NDArray[Any]
_ALMOST = 0.9  # a rotation is taken for a reordering when its largest entries are as large as that on the average
_TINY = 1e-7


def rotation(c: Matrix, kind: str) -> Matrix:
    """The orthogonal (centred) Q with the largest ``sum(Q * c)``."""
    if kind == "centred":
        d = len(c)
        u = centring(d)
        sign = -1.0 if c.sum() < 0 else 1.0
        found: Matrix = u @ polar(u.T @ c @ u) @ u.T + sign / d
        return found
    return polar(c)


def polar(c: Matrix) -> Matrix:
    """The orthogonal factor of a matrix."""
    u, _, v = np.linalg.svd(c.astype(np.float64))
    found: Matrix = u @ v
    return found


def signed_order(c: Matrix, kind: str) -> Matrix:
    """The signed permutation of the kind with the largest ``sum(Q * c)``: the sign of each entry is chosen inside the assignment."""
    if kind == "centred":  # flips only all together
        tries = [(s, assign(s * c)) for s in (1.0, -1.0)]
        sign, order = max(tries, key=lambda t: float((t[0] * c)[np.arange(len(c)), t[1]].sum()))
        signs = np.full(len(c), sign)
    else:
        order = assign(np.abs(c))
        signs = np.where(c[np.arange(len(c)), order] < 0, -1.0, 1.0)
    out = np.zeros((len(c), len(c)))
    out[np.arange(len(c)), order] = signs
    return out


def snapped(q: Matrix, kind: str) -> Matrix:
    """A rotation that is a reordering but for noise, as that."""
    near = signed_order(q, kind)
    return near if float((q * near).sum()) > _ALMOST * len(q) else q


def balancing(x: Matrix, y: Matrix) -> Matrix:
    """The N for which ``N x`` and ``inv(N).T y`` have one Gram matrix; the symmetric one."""
    gx, gy = (_gram(m) for m in (x, y))
    root, inverse = _roots(gx)
    middle, _ = _roots(root @ gy @ root)
    found, _ = _roots(inverse @ middle @ inverse)
    return found


def _gram(x: Matrix) -> Matrix:
    g = x.astype(np.float64) @ x.astype(np.float64).T
    trace = float(np.trace(g)) or 1.0
    found: Matrix = g + np.eye(len(g)) * (1e-14 * trace / len(g))
    return found


def _roots(g: Matrix) -> tuple[Matrix, Matrix]:
    """The square root of a positive matrix and that of its inverse."""
    values, vectors = np.linalg.eigh((g + g.T) / 2)
    values = np.sqrt(np.maximum(values, values.max(initial=0.0) * 1e-16 or 1e-300))
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def fitted(basis: Basis, xa: Matrix, ya: Matrix, xb: Matrix, yb: Matrix) -> Matrix:
    """The matrix of the basis's kind that brings b's numbers nearest to a's, and the identity where that is as near."""
    m = np.eye(basis.size)
    for at in parts(basis):
        m[np.ix_(at, at)] = _of_part(basis, at, xa[at], ya[at], xb[at], yb[at])
    near = np.round(m)
    if np.abs(m - near).max() < _TINY and is_signed_order(near):
        return near
    return m if _gap(m, xa, ya, xb, yb) < _gap(np.eye(basis.size), xa, ya, xb, yb) else np.eye(basis.size)


def parts(basis: Basis) -> list[Sequence[int]]:
    """The numbers that mix with each other only."""
    rest = others(basis).tolist()
    together = [rest] if basis.kind in ("invertible", "rotary") and rest else []
    return [*(list(p) for p in basis.pairs), *together]


def _of_part(basis: Basis, at: Sequence[int], xa: Matrix, ya: Matrix, xb: Matrix, yb: Matrix) -> Matrix:
    paired = tuple(at) in basis.pairs
    if basis.kind == "signs":
        return np.eye(len(at)) * (-1.0 if float((xa * xb).sum() + (ya * yb).sum()) < 0 else 1.0)
    if basis.kind == "scales":
        ratio = np.sqrt(_size(xa) * _size(yb) / (_size(ya) * _size(xb)))
        return np.eye(len(at)) * (ratio if float((xa * xb).sum() + (ya * yb).sum()) >= 0 else -ratio)
    if paired:
        fa, fb = (np.sqrt(_size(y) / _size(x)) for x, y in ((xa, ya), (xb, yb)))
        z = fa * fb * np.vdot(_complex(xb), _complex(xa)) + np.vdot(_complex(yb), _complex(ya)) / (fa * fb)
        return _turn(fb / fa * (z / abs(z) if z else 1.0))
    na, nb = balancing(xa, ya), balancing(xb, yb)
    ia, ib = np.linalg.inv(na).T, np.linalg.inv(nb).T
    found: Matrix = ia.T @ polar(na @ xa @ (nb @ xb).T + ia @ ya @ (ib @ yb).T) @ nb
    return found


def own(basis: Basis, x: Matrix, y: Matrix) -> Matrix:
    """The matrix that brings one network's numbers into a form of their own: balanced, sorted, with signs and turns fixed by the largest."""
    m = np.eye(basis.size)
    for at in parts(basis):
        m[np.ix_(at, at)] = _own_part(basis, at, x[at], y[at])
    return m


def _own_part(basis: Basis, at: Sequence[int], x: Matrix, y: Matrix) -> Matrix:
    if basis.kind in ("signs", "scales"):
        size = np.sqrt(_size(y) / _size(x)) if basis.kind == "scales" else 1.0
        return np.eye(len(at)) * (-size if x.ravel()[np.abs(x).argmax()] < 0 else size)
    if tuple(at) in basis.pairs:
        z = _complex(x)
        largest = z[np.abs(z).argmax()]
        return _turn(np.sqrt(_size(y) / _size(x)) * (abs(largest) / largest if largest else 1.0))
    n = balancing(x, y)
    q = principal(n @ x)
    m = q @ n
    found: Matrix = signs_of(m @ x)[:, None] * m
    return found


def principal(x: Matrix) -> Matrix:
    """The rotation to the principal axes of the rows, the largest first."""
    values, vectors = np.linalg.eigh(x.astype(np.float64) @ x.astype(np.float64).T)
    found: Matrix = vectors[:, np.argsort(-values)].T
    return found


def signs_of(x: Matrix) -> Matrix:
    """For each row the sign of its largest number."""
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(largest < 0, -1.0, 1.0)


def _size(x: Matrix) -> float:
    return max(float(np.linalg.norm(x)), 1e-300)


def _complex(x: Matrix) -> Matrix:
    found: Matrix = x[0].astype(np.float64) + 1j * x[1].astype(np.float64)
    return found


def _turn(c: complex) -> Matrix:
    return np.array([[c.real, -c.imag], [c.imag, c.real]])


def _gap(m: Matrix, xa: Matrix, ya: Matrix, xb: Matrix, yb: Matrix) -> float:
    other = np.linalg.inv(m).T
    return float(np.square(xa - m @ xb).sum() + np.square(ya - other @ yb).sum())

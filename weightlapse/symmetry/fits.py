"""The matrix that brings one basis nearest to another, in closed form, for each kind of basis; and a basis of its own for one network.

Rows are coordinates: ``x`` and ``y`` are (size, n) and (size, m), the numbers that are multiplied by M and by its inverse transpose. For an
invertible M both are first *balanced* (``x x^T = y^T y`` up to a rotation, which is the geometric mean of the two), which
forgets all of M but a rotation; that is found by its singular values (Procrustes). All that is asked of the numbers are their inner products
(`Grams`), which are made where the weights are, in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.assign import assign
from weightlapse.wiring.arrays import Numbers, at_home, doubled, on_device, products
from weightlapse.wiring.change import centring, is_signed_order, others
from weightlapse.wiring.members import Basis

Matrix = NDArray[Any]
_ALMOST = 0.9  # a rotation is taken for a reordering when its largest entries are as large as that on the average
_TINY = 1e-7
EMPTY = 1e-6  # of the largest size: a direction of a network by itself that is nothing
_EMPTY = 1e-13  # of the largest squared size: a direction without numbers, but for rounding


def rotation(c: Matrix, kind: str, device: Any = None) -> Matrix:
    """The orthogonal (centred) Q with the largest ``sum(Q * c)``; ``device``: where to look for it."""
    if kind == "centred":
        d = len(c)
        u = centring(d)
        sign = -1.0 if c.sum() < 0 else 1.0
        found: Matrix = u @ polar(u.T @ c @ u, device) @ u.T + sign / d
        return found
    return polar(c, device)


def polar(c: Matrix, device: Any = None) -> Matrix:
    """The orthogonal factor of a matrix."""
    if device is not None:
        import torch

        left, _, right = torch.linalg.svd(on_device(c.astype(np.float64), device))
        return at_home(left @ right)
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
    """A rotation that is a reordering but for noise, as that.

    What a centred one does to the vector of ones hangs on few numbers, so noise may have turned its sign: both are tried.
    """
    tries = [q, q - 2 * q.mean()] if kind == "centred" else [q]
    for one in tries:
        near = signed_order(one, kind)
        if float((one * near).sum()) > _ALMOST * len(q):
            return near
    return q


@dataclass(frozen=True)
class Grams:
    """Inner products of the coordinates: ``xa``, ``xb``, ``ya``, ``yb`` of each with itself, ``x`` and ``y`` of a's with b's. All (size, size)."""

    xa: Matrix
    ya: Matrix
    xb: Matrix
    yb: Matrix
    x: Matrix
    y: Matrix

    @classmethod
    def of(cls, xa: Numbers, ya: Numbers, xb: Numbers, yb: Numbers) -> Grams:
        """Of arrays or tensors (size, any)."""
        xa, ya, xb, yb = (doubled(v) for v in (xa, ya, xb, yb))
        return cls(*(products(u, v) for u, v in ((xa, xa), (ya, ya), (xb, xb), (yb, yb), (xa, xb), (ya, yb))))

    def part(self, at: Sequence[int]) -> Grams:
        """Of some of the coordinates."""
        here = np.ix_(at, at)
        return Grams(*(g[here] for g in (self.xa, self.ya, self.xb, self.yb, self.x, self.y)))


def balancing(gx: Matrix, gy: Matrix) -> Matrix:
    """The N for which ``N x`` and ``inv(N).T y`` have one Gram matrix; the symmetric one. From the Gram matrices of x and y."""
    root, inverse = _roots(_raised(gx))
    middle, _ = _roots(root @ _raised(gy) @ root)
    found, _ = _roots(inverse @ middle @ inverse)
    return found


def _raised(g: Matrix) -> Matrix:
    """A little larger than any rounding, so that no direction is empty."""
    trace = float(np.trace(g)) or 1.0
    found: Matrix = g + np.eye(len(g)) * (1e-14 * trace / len(g))
    return found


def _roots(g: Matrix) -> tuple[Matrix, Matrix]:
    """The square root of a positive matrix and that of its inverse."""
    values, vectors = np.linalg.eigh((g + g.T) / 2)
    values = np.sqrt(np.maximum(values, values.max(initial=0.0) * 1e-16 or 1e-300))
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def fitted(basis: Basis, grams: Grams) -> Matrix:
    """The matrix of the basis's kind that brings b's numbers nearest to a's, and the identity where that is as near."""
    m = np.eye(basis.size)
    if basis.kind == "rotary" and basis.pairs:
        _turn_pairs(m, np.array(basis.pairs), grams)
    for at in parts(basis):
        if not (basis.kind == "rotary" and tuple(at) in basis.pairs):
            m[np.ix_(at, at)] = _of_part(basis, grams.part(at))
    near = np.round(m)
    if np.abs(m - near).max() < _TINY and is_signed_order(near):
        return near
    return m if _gap(m, grams) < _gap(np.eye(basis.size), grams) else np.eye(basis.size)


def parts(basis: Basis) -> list[Sequence[int]]:
    """The numbers that mix with each other only."""
    rest = others(basis).tolist()
    together = [rest] if basis.kind in ("invertible", "rotary") and rest else []
    return [*(list(p) for p in basis.pairs), *together]


def _of_part(basis: Basis, g: Grams) -> Matrix:
    size = len(g.x)
    alike = float(np.trace(g.x) + np.trace(g.y)) >= 0
    if basis.kind == "signs":
        return np.eye(size) * (1.0 if alike else -1.0)
    if basis.kind == "scales":
        fa, fb = _evened(*(np.array([np.trace(v)]) for v in (g.xa, g.ya, g.xb, g.yb)))
        ratio = float((fb / fa)[0])
        return np.eye(size) * (ratio if alike else -ratio)
    tries = [m for m in (_from_one(g.xa, g.xb, g.x), _from_one(g.ya, g.yb, g.y, inverse=True)) if m is not None]
    if all(_full(v) for v in (g.xa, g.ya, g.xb, g.yb)):
        na, nb = balancing(g.xa, g.ya), balancing(g.xb, g.yb)
        ia, ib = np.linalg.inv(na).T, np.linalg.inv(nb).T
        found: Matrix = ia.T @ polar(na @ g.x @ nb.T + ia @ g.y @ ib.T) @ nb
        return found
    if not tries:
        both = _from_both(g)
        return np.eye(size) if both is None else both
    return min(tries, key=lambda m: _gap(m, g))


def _full(gram: Matrix) -> bool:
    """Whether the numbers span all directions."""
    sizes = np.linalg.eigvalsh((gram + gram.T) / 2)
    return bool(sizes[-1] > 0 and sizes[0] > _EMPTY * sizes[-1])


def _from_one(ga: Matrix, gb: Matrix, both: Matrix, *, inverse: bool = False) -> Matrix | None:
    """The matrix by least squares from one side alone, where the other does not span all directions (a branch that begins at 0);
    None where this side does not either."""
    if not (_full(ga) and _full(gb)):
        return None
    m: Matrix = np.linalg.solve(gb.T, both.T).T
    if np.linalg.cond(m) > 1e8:
        return None
    found: Matrix = np.linalg.inv(m).T if inverse else m
    return found


def _from_both(g: Grams) -> Matrix | None:
    """The matrix by least squares where neither side spans all directions: ``M xb = xa`` and ``M.T ya = yb`` together, a Sylvester equation.

    What neither says anything of is filled up so that the matrix can be inverted; None where that fails.
    """
    (of_b, v), (of_a, u) = (np.linalg.eigh((s + s.T) / 2) for s in (g.xb, g.ya))
    size = of_a[:, None] + of_b[None, :]
    known = size > _EMPTY * size.max(initial=0.0)
    m = np.where(known, u.T @ (g.x + g.y) @ v / np.where(known, size, 1.0), 0.0)
    free = np.ix_(~known.all(axis=1), ~known.all(axis=0))
    m[free] = np.eye(*m[free].shape)[:, ::-1] * (np.abs(m).max(initial=0.0) or 1.0)
    found: Matrix = u @ m @ v.T
    return found if np.linalg.cond(found) < 1e8 else None


def _turn_pairs(m: Matrix, pairs: NDArray[np.int64], g: Grams) -> None:
    """Every pair of coordinates turned and scaled in its plane: as complex numbers, multiplied by one."""
    i, j = pairs.T
    fa, fb = _evened(*(v[i, i] + v[j, j] for v in (g.xa, g.ya, g.xb, g.yb)))
    zx, zy = (c[i, i] + c[j, j] + 1j * (c[j, i] - c[i, j]) for c in (g.x, g.y))
    z = fa * fb * zx + zy / (fa * fb)
    z = fb / fa * np.where(z == 0, 1.0, z / np.where(z == 0, 1.0, np.abs(z)))
    m[i, i], m[i, j], m[j, i], m[j, j] = z.real, -z.imag, z.imag, z.real


def _evened(xa: Matrix, ya: Matrix, xb: Matrix, yb: Matrix) -> tuple[Matrix, Matrix]:
    """What brings both sides of a, and of b, to one size, from their squared sizes; by the other side alone where one is 0 in a or b."""
    no_y, no_x = ((u <= _EMPTY * u.max()) | (v <= _EMPTY * v.max()) for u, v in ((ya, yb), (xa, xb)))
    out = []
    for x, y in ((xa, ya), (xb, yb)):
        x, y = np.maximum(x, 1e-150), np.maximum(y, 1e-150)
        ratio = np.where(no_y & ~no_x, 1 / x**2, np.where(no_x & ~no_y, y**2, y / x))
        out.append(np.sqrt(np.sqrt(np.where(no_x & no_y, 1.0, ratio))))
    return out[0], out[1]


def whitening(basis: Basis, gram: Matrix) -> Matrix | None:
    """What makes the numbers of each part orthonormal, and so forgets all of a basis but a turn; None where they do not span it."""
    found = np.zeros((basis.size, basis.size))
    for at in parts(basis):
        here = np.ix_(at, at)
        if not _full(gram[here]):
            return None
        found[here] = _roots(gram[here])[1]
    return found


def own(basis: Basis, x: Matrix, y: Matrix) -> Matrix:
    """The matrix that brings one network's numbers into a form of their own: balanced, sorted, with signs and turns fixed by the largest."""
    m = np.eye(basis.size)
    for at in parts(basis):
        m[np.ix_(at, at)] = _own_part(basis, at, x[at], y[at])
    return m


def _own_part(basis: Basis, at: Sequence[int], x: Matrix, y: Matrix) -> Matrix:
    told = (
        x if x.any() else y
    )  # signs and turns are told by what makes the numbers; by what reads them, where nothing does
    if basis.kind in ("signs", "scales"):
        size = _evening(x, y) if basis.kind == "scales" else 1.0
        return np.eye(len(at)) * (-size if told.ravel()[np.abs(told).argmax()] < 0 else size)
    if tuple(at) in basis.pairs:
        z = _complex(told)
        largest = z[np.abs(z).argmax()]
        return _turn(_evening(x, y) * (abs(largest) / largest if largest else 1.0))
    return _own_invertible(*(v.astype(np.float64) for v in (x, y)))


def _evening(x: Matrix, y: Matrix) -> float:
    """What brings both sides to one size; where one is nothing, the other one to 1."""
    sizes = [float(np.linalg.norm(v)) for v in (x, y)]
    if not all(sizes):
        return 1 / sizes[0] if sizes[0] else sizes[1] or 1.0
    return float(np.sqrt(sizes[1] / sizes[0]))


def _own_invertible(x: Matrix, y: Matrix) -> Matrix:
    """Numbers that are made and read come first: balanced, on their principal axes. Then those that are made and never read, then those
    that are read and made of nothing: orthonormal, and free of the first (whatever of those is added to them changes nothing); then the rest.
    """
    first, made, read = apart(x, y)
    r, p, q = len(first), len(made), len(read)
    m = np.concatenate([first, made, read, _missing(read, x)])
    if p:
        u = m @ x
        m[r : r + p] -= (u[r : r + p] @ np.linalg.pinv(u[:r])) @ m[:r] if r else 0
        m[r : r + p] = _roots((v := m[r : r + p] @ x) @ v.T)[1] @ m[r : r + p]
    n = np.linalg.inv(m).T
    if q:
        at = slice(r + p, r + p + q)
        u = n @ y
        n[at] -= (u[at] @ np.linalg.pinv(u[:r])) @ n[:r] if r else 0
        n[at] = _roots((v := n[at] @ y) @ v.T)[1] @ n[at]
        m = np.linalg.inv(n).T
    if r:
        u, v = m[:r] @ x, n[:r] @ y
        even = balancing(u @ u.T, v @ v.T)
        even = principal(even @ u) @ even
        m[:r] = signs_of(even @ u)[:, None] * even @ m[:r]
    return m


def apart(x: Matrix, y: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Functionals (any, size) on the numbers: those that are made and read, that are made and not read, that are read and not made.

    ``x`` is what makes the numbers and ``y`` what reads them, the one multiplied by a matrix and the other by its inverse transpose.
    """
    of_x, of_y = _span(x), _span(y)
    u, sizes, v = np.linalg.svd(of_y.T @ of_x)
    r = int((sizes > EMPTY).sum())
    first = (u[:, :r] / sizes[:r]).T @ of_y.T
    return first, v[r:] @ of_x.T, u[:, r:].T @ of_y.T


def _span(x: Matrix) -> Matrix:
    """An orthonormal basis (size, rank) of the columns."""
    u, sizes, _ = np.linalg.svd(x, full_matrices=False)
    found: Matrix = u[:, : int((sizes > EMPTY * sizes.max(initial=0.0)).sum())]
    return found


def _missing(read: Matrix, x: Matrix) -> Matrix:
    """Further functionals, orthonormal, that are 0 on x too and together with ``read`` all that are."""
    both = np.concatenate([read, _span(x).T])
    _, sizes, v = np.linalg.svd(both)
    found: Matrix = v[int((sizes > EMPTY * sizes.max(initial=0.0)).sum()) :]
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


def _complex(x: Matrix) -> Matrix:
    found: Matrix = x[0].astype(np.float64) + 1j * x[1].astype(np.float64)
    return found


def _turn(c: complex) -> Matrix:
    return np.array([[c.real, -c.imag], [c.imag, c.real]])


def _gap(m: Matrix, g: Grams) -> float:
    """The squared distance between a's numbers and b's in another basis."""
    other = np.linalg.inv(m).T
    sides = ((m, g.xa, g.xb, g.x), (other, g.ya, g.yb, g.y))
    return float(sum(np.trace(a) - 2 * (n * c).sum() + (n @ b * n).sum() for n, a, b, c in sides))

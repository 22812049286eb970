"""Numbers of a network written in another basis: the same function, other weights. NumPy, and no framework.

See `weightlapse.wiring.data.Basis` for what may be changed. Everything works on a dict of float arrays by canonical name, and puts new
arrays in the place of those that it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.wiring.data import Basis, Member, Norm

Matrix = NDArray[Any]
State = MutableMapping[str, NDArray[Any]]


def rows(value: NDArray[Any], m: Member, slot: int | None = None) -> Matrix:
    """The numbers of a member as rows: (size, rest), or with every slot (size, slots * rest); a view where NumPy can give one."""
    x = np.moveaxis(value, m.axis, 0)
    index = m.index if slot is None else m.index[:, slot : slot + 1]
    flat = index.ravel()
    start, step = int(flat[0]), int(flat[1] - flat[0]) if len(flat) > 1 else 1
    if step > 0 and np.array_equal(flat, np.arange(start, start + step * len(flat), step)):
        x = x[start : start + step * len(flat) : step]
    else:
        x = x[flat]
    return x.reshape(index.shape[0], -1)


def turned(value: NDArray[Any], m: Member, matrix: Matrix) -> NDArray[Any]:
    """A new array in which the numbers of every slot of the member are ``matrix @`` the old ones."""
    x = np.moveaxis(value, m.axis, 0)
    out = np.array(x)
    matrix = matrix.astype(value.dtype, copy=False)
    for slot in range(m.k):
        at = m.index[:, slot]
        some = x[at]
        out[at] = (matrix @ some.reshape(len(at), -1)).reshape(some.shape)
    return np.ascontiguousarray(np.moveaxis(out, 0, m.axis))


def change(state: State, basis: Basis, matrix: Matrix) -> None:
    """Write the basis's members in another basis; the function stays the same when the norms are folded and ``matrix`` is of the kind."""
    other = matrix if basis.kind in ("orthogonal", "centred", "signs") else np.linalg.inv(matrix).T
    for m, exponent in zip(basis.members, basis.exponents, strict=True):
        if m.tensor in state:
            state[m.tensor] = turned(state[m.tensor], m, matrix if exponent > 0 else other)
    for norm in held(basis):
        state[norm.gain] = _carried(state[norm.gain], norm, matrix)


def _carried(value: NDArray[Any], norm: Norm, matrix: Matrix) -> NDArray[Any]:
    """A gain that stays where it is: it follows a reordering, and nothing else may happen to it unless it is the same for all numbers."""
    if is_signed_order(matrix):
        return value[np.abs(matrix).argmax(axis=1)]
    if np.ptp(value) > 1e-12 * np.abs(norm.offset + value).max():
        raise InvalidArgument(
            f"the gain {norm.gain!r} cannot be folded into what reads it (that is tied to what makes the stream) and is not the same "
            "for all numbers, so the stream may only be reordered and flipped"
        )
    return value


def is_signed_order(matrix: Matrix) -> bool:
    """Whether a matrix only reorders numbers and flips some."""
    size = np.abs(matrix)
    return bool(((size == 0) | (size == 1)).all() and (size.sum(axis=0) == 1).all() and (size.sum(axis=1) == 1).all())


def gain(state: Mapping[str, NDArray[Any]], norm: Norm) -> NDArray[np.float64]:
    """What the norm multiplies its numbers by."""
    found: NDArray[np.float64] = norm.offset + np.asarray(state[norm.gain], dtype=np.float64)
    return found


def fold(state: State, basis: Basis) -> dict[str, NDArray[np.float64]]:
    """Bring every gain of the basis to 1, by folding it into the readers; returns the gains by name.

    A gain without readers that may take it has the same value for all numbers, or the basis may not be changed: it stays as it
    is, and only its bias is divided by it. Raises InvalidArgument for a gain of 0 with a bias, which nothing could bring back.
    """
    gains = {}
    for norm in basis.norms:
        gains[norm.gain] = g = gain(state, norm)
        if norm.bias is not None and (g == 0).any():
            raise InvalidArgument(
                f"the gain {norm.gain!r} is 0 at {int(np.flatnonzero(g == 0)[0])}, so its bias cannot be folded"
            )
        _refolded(state, basis, norm, g)
    return gains


def unfold(state: State, basis: Basis, gains: Mapping[str, NDArray[np.float64]]) -> None:
    """The inverse of `fold`: bring every gain to ``gains``. Raises InvalidArgument for a gain of 0 whose readers are not."""
    for norm in basis.norms:
        g = gains[norm.gain] if norm.readers else gain(state, norm)
        if norm.readers and (g == 0).any():
            raise InvalidArgument(
                f"the gain {norm.gain!r} is 0 at {int(np.flatnonzero(g == 0)[0])}, so nothing can be folded out again"
            )
        _refolded(state, basis, norm, 1 / g)


def _refolded(state: State, basis: Basis, norm: Norm, g: NDArray[np.float64]) -> None:
    """Divide the gain and the bias by ``g`` and multiply the readers by it."""
    if norm.bias is not None:
        state[norm.bias] = (state[norm.bias] / g).astype(state[norm.bias].dtype)
    if not norm.readers:
        return
    state[norm.gain] = (gain(state, norm) / g - norm.offset).astype(state[norm.gain].dtype)
    for m in basis.members:
        if (m.tensor, m.axis) in norm.readers:
            value = state[m.tensor]
            along = np.ones(value.shape[m.axis], dtype=value.dtype)
            along[m.index] = g[:, None]
            state[m.tensor] = value * along.reshape([-1 if a == m.axis else 1 for a in range(value.ndim)])


def held(basis: Basis) -> list[Norm]:
    """The norms whose gain cannot be folded away."""
    return [n for n in basis.norms if not n.readers]


def tensors_of(bases: Iterable[Basis]) -> list[str]:
    """Every tensor that a change of these bases may touch."""
    found: dict[str, None] = {}
    for b in bases:
        found.update(dict.fromkeys(m.tensor for m in b.members))
        for n in b.norms:
            found.update(dict.fromkeys(t for t in (n.gain, n.bias) if t is not None))
    return list(found)


def drawn(basis: Basis, rng: np.random.Generator) -> Matrix:
    """A random matrix of the basis's kind, well conditioned."""
    d = basis.size
    if basis.kind == "orthogonal":
        return _orthogonal(d, rng)
    if basis.kind == "centred":
        u = centring(d)
        return u @ _orthogonal(d - 1, rng) @ u.T + np.full((d, d), 1 / d)
    if basis.kind == "invertible":
        return _invertible(d, rng)
    out = np.eye(d)
    for pair in basis.pairs:
        at = np.ix_(pair, pair)
        if basis.kind == "rotary":
            angle = rng.uniform(0, 2 * np.pi)
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            out[at] = turn * np.exp(0.4 * rng.normal())
        else:
            out[at] *= rng.choice([-1.0, 1.0]) * (np.exp(0.4 * rng.normal()) if basis.kind == "scales" else 1.0)
    rest = others(basis)
    if basis.kind == "rotary" and len(rest):
        out[np.ix_(rest, rest)] = _invertible(len(rest), rng)
    return out


def others(basis: Basis) -> NDArray[np.int64]:
    """The numbers in none of the pairs."""
    return np.setdiff1d(np.arange(basis.size), [i for p in basis.pairs for i in p])


def centring(d: int) -> NDArray[np.float64]:
    """An orthonormal basis of the vectors whose numbers sum to 0, (d, d - 1); the same on every call (Helmert)."""
    out = np.zeros((d, d - 1))
    for j in range(1, d):
        out[:j, j - 1] = 1 / np.sqrt(j * (j + 1))
        out[j, j - 1] = -j / np.sqrt(j * (j + 1))
    return out


def _orthogonal(d: int, rng: np.random.Generator) -> Matrix:
    q, r = np.linalg.qr(rng.normal(size=(d, d)))
    found: Matrix = q * np.sign(np.diag(r))
    return found


def _invertible(d: int, rng: np.random.Generator) -> Matrix:
    found: Matrix = (_orthogonal(d, rng) * np.exp(0.4 * rng.normal(size=d))) @ _orthogonal(d, rng)
    return found

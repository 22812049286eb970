"""Numbers of a network written in another basis: the same function, other weights, as NumPy arrays or as tensors where they are.

See `weightlapse.wiring.members.Basis` for what may be changed. Changes are noted on paper first and made when a tensor is looked at, so that a
tensor with the matrices of thirty heads is copied once, and a large network never twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.wiring.arrays import Numbers, at_home, axis_first, copied, is_tensor, like, on_device
from weightlapse.wiring.members import Basis, Member, Norm
from weightlapse.wiring.placement import Placement

Matrix = NDArray[Any]
KEEP = 32 * 2**20  # bytes of changed arrays that are held for the next look


class Changed(Mapping[str, Numbers]):
    """``arrays`` after all that was noted; they are never written to. ``dtype``: what the changed ones are computed in, their own by default.
    ``device``: where they are, when they are tensors. ``keeps``: what was made is held for good, and later changes are made in it at once
    (what was looked at before changes with them).
    """

    keeps = False

    def __init__(self, arrays: Mapping[str, Numbers], dtype: Any = None, room: int = KEEP, device: Any = None) -> None:
        self.arrays, self.dtype, self.room, self.device = arrays, dtype, room, device
        self._steps: dict[str, list[Any]] = {}
        self._held: dict[str, Numbers] = {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor; none is made for that where the arrays know their own."""
        known = getattr(self.arrays, "shapes", None)
        return dict(known) if known is not None else {n: tuple(v.shape) for n, v in self.arrays.items()}

    def copy(self) -> Changed:
        """Another one that begins with the same notes."""
        out = Changed(self.arrays, self.dtype, self.room, self.device)
        out._steps = {t: list(s) for t, s in self._steps.items()}
        return out

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __contains__(self, name: object) -> bool:
        return name in self.arrays

    @property
    def busy(self) -> list[str]:
        """The tensors that something is done to."""
        return list(self._steps)

    def __getitem__(self, name: str) -> Numbers:
        if name not in self._steps:
            return self.arrays[name]
        if name not in self._held:
            value = copied(self.arrays[name], self.dtype is np.float64)
            for step in self._steps[name]:
                value = _made(value, step)
            if self.keeps:
                self._held[name] = value
                return value
            if value.nbytes > self.room:
                return value
            while self._held and sum(v.nbytes for v in self._held.values()) + value.nbytes > self.room:
                self._held.pop(next(iter(self._held)))
            self._held[name] = value
        return self._held[name]

    def brought(self, matrix: Matrix) -> Numbers:
        """The matrix where the arrays are."""
        return matrix if self.device is None else on_device(matrix, self.device)

    def place(self, name: str, placement: Placement) -> None:
        """Its units in other places."""
        self._then(name, placement)

    def turn(self, m: Member, matrix: Numbers) -> None:
        """The numbers of every slot of the member become ``matrix @`` the old ones."""
        self._then(m.tensor, (_turned, m, matrix))

    def scale(self, m: Member, factors: NDArray[np.float64]) -> None:
        """The numbers of the member are multiplied by their factors."""
        self._then(m.tensor, (_scaled, m, factors))

    def put(self, name: str, value: NDArray[Any]) -> None:
        """A new value, whatever it was."""
        self._then(name, (_replaced, value))

    def forget(self) -> None:
        """Holds nothing any longer; what is looked at again is made again."""
        self._held.clear()

    def _then(self, name: str, step: Any) -> None:
        self._steps.setdefault(name, []).append(step)
        value = self._held.pop(name, None)
        if self.keeps and value is not None:
            self._held[name] = _made(value, step)


def _made(value: Numbers, step: Any) -> Numbers:
    return step(value) if isinstance(step, Placement) else step[0](value, *step[1:])


def _turned(value: Numbers, m: Member, matrix: Numbers) -> Numbers:
    x = axis_first(value, m.axis)  # a view: what is written into it is written into the value, which is a copy already
    matrix = like(matrix, value)
    for slot in range(m.k):
        at = _span(m.index[:, slot])
        some = x[at]
        x[at] = (matrix @ some.reshape(len(matrix), -1)).reshape(some.shape)
    return value


def _scaled(value: Numbers, m: Member, factors: NDArray[np.float64]) -> Numbers:
    along = np.ones(value.shape[m.axis])
    along[m.index] = factors[:, None]
    value *= like(along.reshape([-1 if a == m.axis else 1 for a in range(value.ndim)]), value)
    return value


def _replaced(value: Numbers, new: NDArray[Any]) -> Numbers:
    return copied(like(new, value), False)  # later steps write into it


def _span(at: NDArray[np.int64]) -> Any:
    """Positions as a slice where they are one."""
    step = int(at[1] - at[0]) if len(at) > 1 else 1
    if step > 0 and np.array_equal(at, np.arange(at[0], at[0] + step * len(at), step)):
        return slice(int(at[0]), int(at[0]) + step * len(at), step)
    return at


def rows(value: Numbers, m: Member, slot: int | None = None) -> Numbers:
    """The numbers of a member as rows: (size, rest), or with every slot (size, slots * rest); a view where there is one."""
    index = m.index if slot is None else m.index[:, slot : slot + 1]
    return axis_first(value, m.axis)[_span(index.ravel())].reshape(index.shape[0], -1)


def change(state: Changed, basis: Basis, matrix: Matrix) -> None:
    """Write the basis's members in another basis; the function stays the same when the norms are folded and ``matrix`` is of the kind."""
    other = matrix if basis.turns or basis.kind == "signs" else np.linalg.inv(matrix).T
    ready: dict[bool, Numbers] = {True: matrix, False: other}
    for m, exponent in zip(basis.members, basis.exponents, strict=True):
        if m.tensor in state:
            if not is_tensor(ready[exponent > 0]):  # brought to where the weights are once
                ready[exponent > 0] = state.brought(ready[exponent > 0])
            state.turn(m, ready[exponent > 0])
    for norm in held(basis):
        state.put(norm.gain, _carried(at_home(state[norm.gain]), norm, matrix))


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
    found: NDArray[np.float64] = norm.offset + at_home(state[norm.gain]).astype(np.float64)
    return found


def fold(state: Changed, basis: Basis) -> dict[str, NDArray[np.float64]]:
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


def unfold(state: Changed, basis: Basis, gains: Mapping[str, NDArray[np.float64]]) -> None:
    """The inverse of `fold`: bring every gain to ``gains``. Raises InvalidArgument for a gain of 0, which no reader can be divided by."""
    for norm in basis.norms:
        if not norm.readers and norm.bias is None:
            continue
        g = gains[norm.gain] if norm.readers else gain(state, norm)
        if norm.readers and (g == 0).any():
            raise InvalidArgument(
                f"the gain {norm.gain!r} is 0 at {int(np.flatnonzero(g == 0)[0])}, so nothing can be folded out again"
            )
        _refolded(state, basis, norm, 1 / g)


def _refolded(state: Changed, basis: Basis, norm: Norm, g: NDArray[np.float64]) -> None:
    """Divide the gain and the bias by ``g`` and multiply the readers by it."""
    if norm.bias is not None:
        state.put(norm.bias, at_home(state[norm.bias]) / g)
    if not norm.readers:
        return
    now = gain(state, norm)
    state.put(
        norm.gain, np.divide(now, g, out=np.ones_like(now), where=g != 0) - norm.offset
    )  # of a gain of 0 the reader's 0 is left
    for m in basis.members:
        if (m.tensor, m.axis) in norm.readers:
            state.scale(m, g)


def held(basis: Basis) -> list[Norm]:
    """The norms whose gain cannot be folded away."""
    return [n for n in basis.norms if not n.readers]


def left(basis: Basis, gains: Collection[str]) -> Basis:
    """The basis with these gains left as they are, not folded: it may be reordered and flipped then, and they follow."""
    if not gains:
        return basis
    return replace(basis, norms=tuple(Norm(n.gain, n.offset, None, ()) if n.gain in gains else n for n in basis.norms))


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

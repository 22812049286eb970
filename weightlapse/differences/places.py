"""Where the units of a stream are in the matrices of two networks: by the wiring, or by their sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weightlapse.differences.sides import Side
from weightlapse.differences.tensor import Tensor
from weightlapse.errors import CannotAlign, InvalidArgument
from weightlapse.wiring.data import Wiring

Matrix = NDArray[np.float64]

FEW = 4  # axes that are not longer are not taken for those of hidden units


@dataclass(frozen=True)
class Place:
    """On which ``axis`` of a ``tensor`` the units are; ``slots``: the positions of each, where it has several (the gates of a recurrent layer)."""

    tensor: str
    axis: int
    slots: tuple[tuple[int, ...], ...] = ()


def places_of(x: Side, y: Side, w: Wiring | None, left_out: set[str]) -> tuple[list[Place], tuple[str, ...]]:
    """The matrices that make or read the stream, and on which axis its units are; with a note where none can be told."""
    both = [n for n in x if n in y and len(x[n].shape) == len(y[n].shape) and n not in left_out]
    if w is not None:
        tops = [g for g in w.groups if g.parent is None and "permutation" in g.symmetries]
        for g in sorted(tops, key=lambda g: -len(g.members)):
            twice = Counter(m.tensor for m in g.members)
            found = [
                Place(n, m.axis, tuple(map(tuple, m.index.tolist())) if m.k > 1 else ())
                for m in g.members
                if m.where is None and m.roles & {"out", "in"} and twice[m.tensor] == 1
                for n in [n for n in w.names_of(m.tensor) if n in both][:1]
                if len(x[n].shape) > 1 and min(x[n].shape[m.axis], y[n].shape[m.axis]) > 1
                if m.k == 1 or (x[n].shape == y[n].shape == tuple(w.shapes[m.tensor]) and not w.children(g.name))
            ]
            if found:
                return found, ()
        return [], ("no group of the wiring has weights in both networks that tell its units apart",)
    if not any(len(x[n].shape) > 1 for n in x if n in y):
        raise InvalidArgument(
            f"{x.label} and {y.label} have no matrices of one name, so their units cannot be compared; "
            "wl.compare judges networks of different architectures by their outputs"
        )
    shared = [n for n in x if n in y and len(x[n].shape) == len(y[n].shape) > 1]
    matrices = {n: _axes(x, n) for n in shared}
    if matrices and all(len(set(x[n].shape)) == 1 for n in matrices):
        raise InvalidArgument(
            f"the matrices of {x.label} are all square, so nothing tells the axes of the stream from others: pass a wiring"
        )
    d = _stream_of(matrices)
    found = [
        Place(n, axes[pair.index(d or 0)])
        for n, (axes, pair) in matrices.items()
        if n in both and pair.count(d or 0) == 1
    ]
    if d is None or not found:
        return [], (
            "which axes are those of hidden units, and which have names (inputs, outputs), cannot be told from sizes here, "
            "so without a wiring nothing can be said",
        )
    return found, (f"the units were taken to be those on axes of length {d}; a wiring would say it for certain",)


def _axes(side: Side, name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """The two axes of a matrix or kernel that can be of units, and their lengths; the others are taps of a kernel."""
    shape = side[name].shape
    last = name.rpartition(".")[2].rpartition("/")[2]
    n = len(shape)
    axes = (n - 2, n - 1) if "kernel" in last else (0, 1)
    if n == 3 and "kernel" not in last and shape[1] < shape[2] and shape[2] in _lengths(side, name):
        axes = (1, 2)  # a stack of matrices, as experts have
    return axes, (shape[axes[0]], shape[axes[1]])


def _lengths(side: Side, but: str) -> set[int]:
    return {length for n in side if n != but and len(side[n].shape) == 2 for length in side[n].shape if length > FEW}


def _stream_of(matrices: Mapping[str, tuple[tuple[int, int], tuple[int, int]]]) -> int | None:
    """The most frequent length that is of hidden units for certain; None where there is none.

    Hidden units are made by one tensor and read by another, on opposite axes. A length of inputs, or of outputs, is found on one side only, unless the network
    gives back what it gets (an autoencoder): then no length is on one side only, and the inputs' own is found twice, in the first tensor and the last.
    """
    counts, inner, ends = _sides_of([pair for _, pair in matrices.values()])
    some = {k: n for k, n in counts.items() if k in inner and k > FEW and n > 1 and (ends > 1 or n > 2)}
    return max(some, key=lambda k: (some[k], k), default=None)


def outer(pairs: list[tuple[int, int]]) -> set[int]:
    """The lengths that may be those of inputs and outputs at once."""
    counts, inner, ends = _sides_of(pairs)
    return set() if ends > 1 else {k for k in inner if counts[k] <= 2}


def _sides_of(pairs: list[tuple[int, int]]) -> tuple[Counter[int], set[int], int]:
    """In how many matrices each length is, which lengths are made by one and read by one, and how many axes are of no such length."""
    counts = Counter(length for pair in pairs for length in set(pair))
    inner = {first for first, _ in pairs} & {second for _, second in pairs}
    return counts, inner, sum(length not in inner for pair in pairs for length in pair)


def rows_of(t: Tensor, p: Place) -> Matrix:
    """The numbers of each unit (units, n), float64. Raises CannotAlign for NaN and Inf."""
    values = np.moveaxis(t.values(0, t.size).reshape(t.shape), p.axis, 0)
    if not np.isfinite(values).all():
        raise CannotAlign(
            f"{t.name!r} holds NaN or Inf, which is like nothing else; look at an earlier step of its training"
        )
    values = values[np.array(p.slots)] if p.slots else values
    return values.reshape(len(values), -1)

"""``wl.lineage``: was one network made from the other? From weights alone, with an exact p-value.

Null hypothesis: the two were made independently (they may share architecture, data and recipe). Training from a random start does not know the
numbers of hidden units: a network and the same network with the units of its stream renumbered are equally likely. So when b is renumbered by chance, any
number that compares it with a, unit by unit, is as large as the one that was found, or larger, with just the probability that the test says. This is
exact; nothing is assumed about the weights (a permutation test, as in Zhu et al. 2025, arXiv 2502.12292).

*As they stand.* T is the inner product of both networks over the weights that make or read the stream, tensor by tensor of one size. Renumberings of b
give its distribution. Where none of them reaches T, a sharper count takes over: match units by these weights; for independent networks the matching is a
uniformly random one, and has k fixed points or more with probability 1 / k! at most.

*After renumbering or turning.* A copy whose units were shuffled, or whose stream was turned, hides from that test, as it must. So the stream is brought into
place first (with a wiring by ``align``, without one by Procrustes on the tensors whose other axis has names: embedding and head), and the hidden units
of each layer are matched twice: by what they read, and by what they write. Copies agree; others do not. This p-value counts only when a good part of a
layer agrees, which networks made independently do not do, so that under the null the first one is what is returned.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from weightlapse.differences.sides import Side, opened, unwrap
from weightlapse.differences.tensor import Tensor
from weightlapse.errors import CannotAlign, InvalidArgument, WeightlapseError
from weightlapse.symmetry.align import align
from weightlapse.symmetry.assign import assign
from weightlapse.symmetry.fits import polar
from weightlapse.symmetry.rebase import moved_axes
from weightlapse.wiring.data import Wiring

Verdict = Literal["derived", "same up to symmetry", "independent"]
Matrix = NDArray[np.float64]

ALPHA = 1e-4
_DRAWS = 9_999
_AGREE = 0.5  # the part of a layer's units that must be matched alike from both sides before that counts
_SAME = 1e-5


@dataclass(frozen=True)
class Lineage:
    """What `lineage` found.

    ``verdict``: "same up to symmetry" (b is a in another guise, to 1e-5), "derived" (one was made from the other, or both from one
    start) or "independent" (nothing speaks against it). ``p_value``: how probable it is that networks made independently look so
    much alike; exact under the null for the order as it is (see the module). ``as_they_stand``: that p-value. ``similarity``: the cosine of both
    networks as they stand, over the weights that were looked at. ``agreement``: the largest part of a layer's hidden units that both their sides match alike, after
    the stream was brought into place; None where that was not needed or not possible. ``units``: how many were renumbered. ``notes``: what else to know.
    """

    verdict: Verdict
    p_value: float
    as_they_stand: float
    similarity: float
    agreement: float | None
    units: int
    notes: tuple[str, ...] = field(default=())

    def explain(self) -> str:
        """The verdict and its reasons in plain sentences."""
        lines = [_HEAD[self.verdict]]
        lines.append(
            f"If they had been made independently, they would look as alike as this with probability {_in_words(self.p_value)}."
        )
        lines.append(
            f"As they stand their weights have a cosine of {self.similarity:.3f}; p = {_in_words(self.as_they_stand)} over renumberings of {self.units} units."
        )
        if self.agreement is not None:
            lines.append(
                f"With the stream brought into place, {100 * self.agreement:.0f} % of a layer's hidden units find one partner by what they read and by what they write."
            )
        return "\n".join([*lines, *(n[0].upper() + n[1:] + "." for n in self.notes)])

    def __str__(self) -> str:
        return self.explain()

    def numbers(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {**vars(self), "notes": list(self.notes)}


_HEAD = {
    "same up to symmetry": "The same network: b is a in another guise.",
    "derived": "Derived: one was made from the other, or both from one start.",
    "independent": "Independent, as far as their weights tell.",
}


def lineage(a: Any, b: Any, wiring: Wiring | None = None, *, seed: int = 0) -> Lineage:
    """Say whether one network was made from the other, without running either.

    a, b: modules, mappings of names to arrays or tensors, recordings, or paths of recordings, checkpoint files and folders (safetensors, sharded or not).
    wiring: with it, turned and renumbered copies are brought back by ``wl.align`` and "same up to symmetry" can be said; a recording's own is used when it
    has one. Without any the stream is told by its size: the most frequent length of an axis. seed: of the renumberings.

    Raises InvalidArgument when the two share too little to be compared (no tensors of one name on whose axes the same units live), CannotAlign for NaN and Inf.

    >>> import numpy as np, weightlapse as wl
    >>> rng = np.random.default_rng(0)
    >>> a = {"embed": rng.normal(size=(40, 16)), "up": rng.normal(size=(24, 16)), "down": rng.normal(size=(16, 24))}
    >>> b = {n: v + 0.1 * rng.normal(size=v.shape) for n, v in a.items()}
    >>> wl.lineage(a, b).verdict
    'derived'
    >>> wl.lineage(a, {n: rng.normal(size=v.shape) for n, v in a.items()}).verdict
    'independent'
    """
    with opened(a, "first") as x, opened(b, "second") as y:
        unwrap(x, y)
        w = wiring or x.wiring or y.wiring
        places = _places(x, y, w)
        products = _Products(x, y, places)
        standing = products.p_value(np.random.default_rng(seed))
        agreement: float | None = None
        p_other, same = 1.0, _identical(x, y)
        notes: tuple[str, ...] = ()
        if not same and (w is not None or standing > ALPHA):
            agreement, p_other, same, notes = _in_place(x, y, w, places)
        p = standing
        if agreement is not None and agreement >= _AGREE:
            p = min(p, p_other)
        verdict: Verdict = "same up to symmetry" if same else "derived" if p <= ALPHA else "independent"
        return Lineage(verdict, p, standing, products.similarity, agreement, products.size, notes)


# ---- where the units of the stream are


@dataclass(frozen=True)
class _Place:
    tensor: str
    axis: int  # the stream's


def _places(x: Side, y: Side, w: Wiring | None) -> list[_Place]:
    """The matrices that make or read the stream, and on which axis its units are."""
    both = [n for n in x if n in y and len(x[n].shape) == len(y[n].shape)]
    if w is not None:
        stream = max((g for g in w.groups if g.parent is None), key=lambda g: len(g.members), default=None)
        if stream is not None:
            members = [
                m
                for m in stream.members
                if m.tensor in both
                and m.where is None
                and m.k == 1
                and len(x[m.tensor].shape) > 1
                and m.roles & {"out", "in"}
            ]
            twice = Counter(m.tensor for m in members)
            found = [_Place(m.tensor, m.axis) for m in members if twice[m.tensor] == 1]
            if found:
                return found
    matrices = [n for n in both if len(x[n].shape) > 1]
    counts = Counter(length for n in matrices for length in set(x[n].shape) if length > 4)
    if not counts:
        raise InvalidArgument(
            f"{x.label} and {y.label} have no matrices of one name, so their units cannot be compared; "
            "wl.compare judges networks of different architectures by their outputs"
        )
    d = max(counts, key=lambda length: (counts[length], -length))
    found = [_Place(n, x[n].shape.index(d)) for n in matrices if x[n].shape.count(d) == 1]
    if not found:
        raise InvalidArgument(
            f"the matrices of {x.label} are all square, so nothing tells the axes of the stream from others: pass a wiring"
        )
    return found


class _Products:
    """Inner products of every unit of a with every unit of b, over all places whose other axes have one size (or begin alike)."""

    def __init__(self, x: Side, y: Side, places: list[_Place]) -> None:
        size_a = x[places[0].tensor].shape[places[0].axis]
        size_b = y[places[0].tensor].shape[places[0].axis]
        self.size = size_a
        total = np.zeros((size_a, size_b))
        gap = [0.0, 0.0, 0.0]
        for p in places:
            if x[p.tensor].shape[p.axis] != size_a or y[p.tensor].shape[p.axis] != size_b:
                continue
            u, v = _common(_rows(x[p.tensor], p.axis), _rows(y[p.tensor], p.axis))
            sizes = float(np.linalg.norm(u)), float(np.linalg.norm(v))
            if min(sizes) > 0:
                total += (u @ v.T) / (sizes[0] * sizes[1])
            n = min(size_a, size_b)
            gap[0] += float((u[:n] * v[:n]).sum())
            gap[1] += float(np.square(u[:n]).sum())
            gap[2] += float(np.square(v[:n]).sum())
        self.similarity = gap[0] / math.sqrt(gap[1] * gap[2]) if gap[1] * gap[2] > 0 else 0.0
        self.total = total if size_a <= size_b else total.T

    def p_value(self, rng: np.random.Generator) -> float:
        """The probability of so large a product, or of so many fixed points, when b is numbered by chance."""
        n, m = self.total.shape
        here = float(np.trace(self.total[:, :n]))
        rows = np.arange(n)
        orders = rng.permuted(np.tile(np.arange(m), (_DRAWS, 1)), axis=1)[:, :n] if m * _DRAWS < 1 << 24 else None
        drawn = np.array(
            [self.total[rows, rng.permutation(m)[:n] if orders is None else orders[i]].sum() for i in range(_DRAWS)]
        )
        reached = int((drawn >= here).sum())
        if reached:
            return (1 + reached) / (1 + _DRAWS)
        fixed = int((_matched(self.total) == rows).sum())
        return min(1 / (1 + _DRAWS), _at_least(fixed, n, m))


def _rows(t: Tensor, axis: int) -> Matrix:
    values = np.moveaxis(t.values(0, t.size).reshape(t.shape), axis, 0)
    if not np.isfinite(values).all():
        raise CannotAlign(
            f"{t.name!r} holds NaN or Inf, which is like nothing else; look at an earlier step of its training"
        )
    return values.reshape(len(values), -1)


def _common(u: Matrix, v: Matrix) -> tuple[Matrix, Matrix]:
    n = min(u.shape[1], v.shape[1])
    return u[:, :n], v[:, :n]


def _matched(value: Matrix) -> NDArray[np.int64]:
    """The best assignment of rows to columns, for as many columns or more."""
    if value.shape[0] == value.shape[1]:
        return assign(value)
    from scipy.optimize import linear_sum_assignment

    found: NDArray[np.int64] = linear_sum_assignment(value, maximize=True)[1]
    return found


def _at_least(k: int, n: int, m: int) -> float:
    """The probability that k or more of n units keep their place in a random choice among m, from above: 1 / k! for n = m."""
    logarithm = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + math.lgamma(m - k + 1) - math.lgamma(m + 1)
    )
    return min(1.0, math.exp(max(logarithm, -700.0)))


def _identical(x: Side, y: Side) -> bool:
    return set(x) == set(y) and all(
        x[n].shape == y[n].shape and np.array_equal(x[n].raw(0, x[n].size), y[n].raw(0, y[n].size)) for n in x
    )


# ---- with the stream in place


def _in_place(
    x: Side, y: Side, w: Wiring | None, places: list[_Place]
) -> tuple[float | None, float, bool, tuple[str, ...]]:
    """How far hidden units agree, the p-value of that, whether both are one network, and notes."""
    of_a: Mapping[str, Any] = _Values(x)
    of_b: Mapping[str, Any] = _Values(y)
    notes: tuple[str, ...] = ()
    same = False
    if w is not None:
        try:
            found = align(of_a, of_b, w, restarts=0)
            same, notes = found.distance_after <= _SAME and not found.units, found.notes
        except WeightlapseError as error:
            notes = (f"the networks were not aligned ({str(error).splitlines()[0]})",)
    best: tuple[float, float] | None = None
    layers = list(_layers(of_a, of_b, places))
    # only by what no symmetry moves, not by the layers themselves: else they would agree because they were made to
    turn = _turn(of_a, of_b, _named(of_a, of_b, w, places, layers))
    for layer in layers:
        agree, count = _agreeing(of_a, of_b, layer, turn)
        p = min(1.0, len(layers) * _at_least(agree, count, count))
        if best is None or (p, -agree / count) < (best[1], -best[0]):
            best = (agree / count, p)
    return (None, 1.0, same, notes) if best is None else (best[0], best[1], same, notes)


class _Values(Mapping[str, Any]):
    """A side as arrays, each read when it is looked at."""

    def __init__(self, side: Side) -> None:
        self.side = side

    def __getitem__(self, name: str) -> NDArray[Any]:
        t = self.side[name]
        return t.values(0, t.size).reshape(t.shape).astype(np.float32 if t.dtype != "float64" else np.float64)

    def __iter__(self) -> Iterator[str]:
        return iter(self.side)

    def __len__(self) -> int:
        return len(self.side)

    def __contains__(self, name: object) -> bool:
        return name in self.side


def _named(
    a: Mapping[str, Any], b: Mapping[str, Any], w: Wiring | None, places: list[_Place], layers: list[_Layer]
) -> list[_Place]:
    """Matrices of the stream whose other axis has names: by the wiring, or the longest that belongs to no layer: the vocabulary."""
    same = [p for p in places if tuple(a[p.tensor].shape) == tuple(b[p.tensor].shape)]
    if w is not None:
        moved = moved_axes(w)
        return [p for p in same if not moved.get(p.tensor, set()) - {p.axis}]
    taken = {p for layer in layers for p in (*layer.reads, *layer.writes)}
    rest = {p: a[p.tensor].shape[1 - p.axis] for p in same if p not in taken and len(a[p.tensor].shape) == 2}
    return [p for p, n in rest.items() if n == max(rest.values())]


def _turn(a: Mapping[str, Any], b: Mapping[str, Any], named: list[_Place]) -> Matrix | None:
    """The rotation that brings b's stream onto a's by these matrices."""
    total: Matrix | None = None
    for p in named:
        u, v = (_double(s[p.tensor], p.axis) for s in (a, b))
        here = (u @ v.T) / max(float(np.linalg.norm(u) * np.linalg.norm(v)), 1e-300)
        total = here if total is None else total + here
    return None if total is None else polar(total)


def _double(value: Any, axis: int) -> Matrix:
    array = value.detach().cpu().double().numpy() if hasattr(value, "detach") else np.asarray(value, np.float64)
    found: Matrix = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    return found


@dataclass(frozen=True)
class _Layer:
    reads: list[_Place]
    writes: list[_Place]


def _layers(a: Mapping[str, Any], b: Mapping[str, Any], places: list[_Place]) -> Iterator[_Layer]:
    """Hidden units between two matrices of the stream: what reads and what writes it, of one size, in one folder of names."""
    folders: dict[tuple[str, int], list[_Place]] = {}
    for p in places:
        shape = tuple(a[p.tensor].shape)
        if len(shape) == 2 and tuple(b[p.tensor].shape) == shape and shape[1 - p.axis] > 4:
            stem = p.tensor.removesuffix(".weight").rpartition(".")[0]
            folders.setdefault((stem, shape[1 - p.axis]), []).append(p)
    for same in folders.values():
        one = [p for p in same if p.axis == same[0].axis]
        other = [p for p in same if p.axis != same[0].axis]
        if one and other:
            yield _Layer(one, other)


def _agreeing(a: Mapping[str, Any], b: Mapping[str, Any], layer: _Layer, turn: Matrix | None) -> tuple[int, int]:
    """How many hidden units find one partner by what they read and by what they write."""
    found = []
    for places in (layer.reads, layer.writes):
        value: Matrix | None = None
        for p in places:
            u, v = _double(a[p.tensor], p.axis), _double(b[p.tensor], p.axis)
            v = v if turn is None else turn @ v
            u, v = (m / np.maximum(np.linalg.norm(m, axis=0), 1e-300) for m in (u, v))
            value = u.T @ v if value is None else value + u.T @ v
        assert value is not None
        found.append(assign(value))
    return int((found[0] == found[1]).sum()), len(found[0])


def _in_words(p: float) -> str:
    return f"{p:.2g}" if p > 1e-300 else "less than 1e-300"

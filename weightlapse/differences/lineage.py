"""``wl.lineage``: was one network made from the other? From weights alone, with an exact p-value.

Null hypothesis: the two were made independently (they may share architecture, data and recipe). Training from a random start does not know the
numbers of hidden units: a network and the same network with the units of its stream renumbered are equally likely. So when b is renumbered by chance, any
number that compares it with a, unit by unit, is as large as the one that was found, or larger, with just the probability that the test says. This is
exact; nothing is assumed about the weights (a permutation test, as in Zhu et al. 2025, arXiv 2502.12292).

*As they stand.* T is the inner product of both networks over the weights that make or read the stream, tensor by tensor of one size. Renumberings of b
give its distribution. Where none of them reaches T, a sharper count takes over: match units by these weights; for independent networks the matching is a
uniformly random one, and has k fixed points or more with probability 1 / k! at most. Tensors that are the same bit for bit in both, and buffers, are left out:
a fixed table (sinusoids, say) is in networks made independently too, and numbers their units alike.

*After renumbering or turning.* A copy whose units were shuffled, or whose stream was turned, hides from that test, as it must. So hidden units are matched twice,
by what makes them and by what reads them: with a wiring all groups of units that have both (`weightlapse.differences.partners`), without one the layers whose names say
so, after Procrustes on the tensors whose other axis has names: embedding and head. Copies agree; others do not. This p-value counts only when a good part of a
layer agrees, which networks made independently do not do, so that under the null the first one is what is returned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from weightlapse.arguments import search_seed
from weightlapse.differences.partners import ALPHA, Agreement, agreement, at_least, best_of, matched
from weightlapse.differences.places import FEW, Place, outer, places_of, rows_of
from weightlapse.differences.sides import Side, opened, unwrap
from weightlapse.differences.tensor import Tensor
from weightlapse.errors import InvalidArgument, VacuousComparison, WeightlapseError
from weightlapse.symmetry.align import align
from weightlapse.symmetry.fits import polar
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.naming import paired_names, renamed_wiring

Verdict = Literal["derived", "same up to symmetry", "independent"]
Matrix = NDArray[np.float64]

_DRAWS = 9_999
_AGREE = 0.5  # the part of a layer's units that must be matched alike from both sides before that counts
_SAME = 1e-5
_HUGE = 1e100  # numbers from here on are scaled down, or their squares would be no numbers


@dataclass(frozen=True)
class Lineage:
    """What `lineage` found.

    ``verdict``: "same up to symmetry" (b is a in another guise, to 1e-5), "derived" (one was made from the other, or both from one start) or
    "independent" (nothing speaks against it; where no layer could be looked at from both sides this is said of the networks as they stand alone, and
    ``notes`` says so: a renumbered copy is like a stranger then). ``p_value``: how probable it is that networks made independently look so much
    alike, by the test that decided; exact under the null for the order as it is (see the module); None where equality decided. ``as_they_stand``: the
    p-value of the order as it is; None where no axis of units is known (equal networks). ``similarity``: the cosine of both networks as they stand,
    over the weights that were looked at. ``agreement``: the part of hidden units that both their sides match alike (of the layer that says most, or
    of all); None where that was not needed or not possible. ``units``: how many were renumbered. ``notes``: what else to know.
    """

    verdict: Verdict
    p_value: float | None
    as_they_stand: float | None
    similarity: float
    agreement: float | None
    units: int
    notes: tuple[str, ...] = field(default=())

    def explain(self) -> str:
        """The verdict and its reasons in plain sentences."""
        lines = [_HEAD[self.verdict]]
        if self.p_value is not None:
            lines.append(
                f"If they had been made independently, they would look as alike as this with probability {_in_words(self.p_value)}."
            )
        if self.as_they_stand is not None:
            lines.append(
                f"As they stand their weights have a cosine of {self.similarity:.3f}; p = {_in_words(self.as_they_stand)} over renumberings of {self.units} units."
            )
        if self.agreement is not None:
            lines.append(
                f"{100 * self.agreement:.0f} % of the hidden units find one partner by what makes them and by what reads them."
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


def lineage(a: Any, b: Any, wiring: Wiring | None = None, *, seed: int | None = 0) -> Lineage:
    """Say whether one network was made from the other, without running either.

    a, b: modules, mappings of names to arrays or tensors, recordings, or paths of recordings, checkpoint files and folders (safetensors, sharded or not).
    wiring: with it, turned and renumbered copies are found and "same up to symmetry" can be said; a recording's own is used when it
    has one. Without any the stream is told by its size, the most frequent length of an axis that can be one of hidden units. seed: of the
    renumberings, 0 or more; None is 0.

    Raises InvalidArgument when the two share too little to be compared (no tensors of one name on whose axes the same units live), VacuousComparison when no
    matrix holds anything but one number, CannotAlign for NaN and Inf.

    >>> import numpy as np, weightlapse as wl
    >>> rng = np.random.default_rng(0)
    >>> shapes = {"embed": (40, 16), "up": (24, 16), "down": (16, 24), "head": (40, 16)}
    >>> a = {n: rng.normal(size=s) for n, s in shapes.items()}
    >>> b = {n: v + 0.1 * rng.normal(size=v.shape) for n, v in a.items()}
    >>> wl.lineage(a, b).verdict
    'derived'
    >>> wl.lineage(a, {n: rng.normal(size=v.shape) for n, v in a.items()}).verdict
    'independent'
    """
    rng = np.random.default_rng(search_seed(seed))
    with opened(a, "first") as x, opened(b, "second") as y:
        fixed = [*_buffers(a, x), *_buffers(b, y)]
        unwrap(x, y)
        _under_names_of(x, y)
        w = wiring or x.wiring or y.wiring
        equal = _evidence(x, y)
        same = _identical(x, y)
        left_out = set() if same else equal | {t.name for t in fixed}
        places, notes = places_of(x, y, w, left_out)
        if equal and not same:
            notes += (_said_of(equal),)
        products = _Products(x, y, places) if places else None
        standing = None if products is None else products.p_value(rng)
        looked, p_other = None, 1.0
        if not same and (w is not None or (standing or 0.0) > ALPHA):
            looked, same, more = _in_place(x, y, w, places, left_out, rng)
            notes += more
            if looked is not None and looked.part >= _AGREE and looked.p_value <= ALPHA:
                p_other = looked.p_value
        p: float | None = min(1.0 if standing is None else standing, p_other)
        verdict: Verdict = (
            "same up to symmetry" if same else "derived" if p is not None and p <= ALPHA else "independent"
        )
        if verdict == "same up to symmetry" and p is not None and p > ALPHA:
            p = None
        if verdict == "independent" and _whole_layers(x, y, w, equal):
            verdict, p = "derived", None
            notes += (
                "whole layers are the same bit for bit, which decided: by chance they are not; the rest tells nothing",
            )
        elif verdict == "independent" and products is None:
            raise InvalidArgument(
                f"{x.label} and {y.label} cannot be compared: {notes[0] if notes else 'no axis of hidden units is known'}"
                + ("; pass wiring=wl.trace(model, example)" if w is None else "")
            )
        elif verdict == "independent" and looked is None:
            notes += (
                "this is said of the networks as they stand: no layer of hidden units could be looked at from both its sides, so a renumbered copy would "
                "not have been found" + (" (pass a wiring)" if w is None else ""),
            )
        part = None if looked is None else looked.part
        similarity, units = (0.0, 0) if products is None else (products.similarity, products.size)
        return Lineage(verdict, p, standing, similarity, part, units, notes)


# ---- what is evidence


def _evidence(x: Side, y: Side) -> set[str]:
    """The matrices that are the same bit for bit. Refuses networks in which no matrix says anything."""
    both = [n for n in x if n in y and len(x[n].shape) == len(y[n].shape) > 1]
    equal, varied = set(), False
    for n in both:
        u, v = x[n].raw(0, x[n].size), y[n].raw(0, y[n].size)
        varied = varied or bool((u != u[:1]).any() and (v != v[:1]).any())
        if x[n].shape == y[n].shape and x[n].dtype == y[n].dtype and np.array_equal(u, v):
            equal.add(n)
    if both and not varied:
        raise VacuousComparison(
            f"in {x.label} and {y.label} no matrix holds anything but one number repeated, so that they are alike tells nothing about where they come from"
        )
    return equal


def _buffers(what: Any, side: Side) -> list[Tensor]:
    """The tensors that no training changes, where a module says which they are."""
    named = what.named_buffers() if callable(getattr(what, "named_buffers", None)) else ()
    return [side[n] for n, _ in named if n in side]


def _said_of(equal: set[str]) -> str:
    some = ", ".join(repr(n) for n in sorted(equal)[:3]) + (", ..." if len(equal) > 3 else "")
    return (
        f"left out of the tests, because they are the same bit for bit, as a fixed table would be: {some} ({len(equal)} in all)"
        if len(equal) > 1
        else f"left out of the tests, because it is the same bit for bit, as a fixed table would be: {some}"
    )


def _whole_layers(x: Side, y: Side, w: Wiring | None, equal: set[str]) -> bool:
    """Whether what makes hidden units and what reads them is the same in both: no table, but a layer that was learned once."""
    if w is not None:
        named = {w.canonical_name(n) for n in equal}
        return any(
            {m.tensor for m in g.producers if len(w.shapes[m.tensor]) > 1} & named
            and {m.tensor for m in g.consumers} & named - {m.tensor for m in g.producers}
            for g in w.groups
        )
    shapes = [x[n].shape for n in equal if len(x[n].shape) == 2 and len(set(x[n].shape)) == 2]
    first, second = ({s[i] for s in shapes if s[i] > FEW} for i in (0, 1))
    return bool(first & second)


# ---- as they stand


def _under_names_of(x: Side, y: Side) -> None:
    """Give y's tensors x's names where none are shared and their order and shapes tell which is which: Keras numbers layers through a program."""
    if set(x) & set(y):
        return
    found = paired_names({n: tuple(t.shape) for n, t in x.items()}, {n: tuple(t.shape) for n, t in y.items()})
    if found is None:
        return
    tensors = dict(y.items())
    y.clear()
    for own, name in found.items():
        tensors[own].name = name
        y[name] = tensors[own]
    if y.wiring is not None:
        y.wiring = renamed_wiring(y.wiring, found)


class _Products:
    """Inner products of every unit of a with every unit of b, over all places whose other axes have one size (or begin alike)."""

    def __init__(self, x: Side, y: Side, places: list[Place]) -> None:
        size_a, size_b = (len(places[0].slots) or s[places[0].tensor].shape[places[0].axis] for s in (x, y))
        self.size = size_a
        total = np.zeros((size_a, size_b))
        gap = [0.0, 0.0, 0.0]
        for p in places:
            if not p.slots and (x[p.tensor].shape[p.axis] != size_a or y[p.tensor].shape[p.axis] != size_b):
                continue
            u, v = _common(rows_of(x[p.tensor], p), rows_of(y[p.tensor], p))
            largest = max(float(np.abs(u).max(initial=0.0)), float(np.abs(v).max(initial=0.0)))
            if largest > _HUGE:
                u, v = u / largest, v / largest
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
        # sums in another order differ in their last bits: units that are all alike would seem to be in their best order
        reached = int((drawn >= here - 1e-12 * float(np.abs(self.total).sum())).sum())
        if reached:
            return (1 + reached) / (1 + _DRAWS)
        fixed = int((matched(self.total, rng) == rows).sum())
        return min(1 / (1 + _DRAWS), at_least(fixed, n, m))


def _common(u: Matrix, v: Matrix) -> tuple[Matrix, Matrix]:
    n = min(u.shape[1], v.shape[1])
    return u[:, :n], v[:, :n]


def _identical(x: Side, y: Side) -> bool:
    return set(x) == set(y) and all(
        x[n].shape == y[n].shape and np.array_equal(x[n].raw(0, x[n].size), y[n].raw(0, y[n].size)) for n in x
    )


# ---- with the stream in place


def _in_place(
    x: Side, y: Side, w: Wiring | None, places: list[Place], left_out: set[str], rng: np.random.Generator
) -> tuple[Agreement | None, bool, tuple[str, ...]]:
    """How far hidden units agree (None: there were none to look at), whether both are one network, and notes."""
    divisor = max(1.0, _largest(x), _largest(y))
    divisor = divisor if divisor > _HUGE else 1.0
    of_a: Mapping[str, Any] = _Values(x, divisor)
    of_b: Mapping[str, Any] = _Values(y, divisor)
    if w is not None:
        try:
            found = align(of_a, of_b, w, restarts=0)
            same, notes = found.distance_after <= _SAME and not found.units, found.notes
        except WeightlapseError as error:
            same, notes = False, (f"the networks were not aligned ({str(error).splitlines()[0]})",)
        return agreement(of_a, of_b, w, left_out, rng), same, notes
    layers = list(_layers(of_a, of_b, places))
    # only by what no symmetry moves, not by the layers themselves: else they would agree because they were made to
    named = _named(of_a, of_b, places, layers)
    turn = _turn(of_a, of_b, named)
    agreed = best_of([_agreeing(of_a, of_b, layer, turn, rng) for layer in layers])
    known = sum(of_a[p.tensor].shape[1 - p.axis] for p in named)
    if agreed is not None and agreed.part < _AGREE and known < of_a[places[0].tensor].shape[places[0].axis]:
        return None, False, ("too few named weights read or make the stream to tell how it was turned or renumbered",)
    return agreed, False, ()


def _largest(side: Side) -> float:
    return max(
        (float(np.abs(t.values(0, t.size)).max(initial=0.0)) for t in side.values() if t.dtype == "float64"),
        default=0.0,
    )


class _Values(Mapping[str, Any]):
    """A side as arrays, each read when it is looked at."""

    def __init__(self, side: Side, divisor: float = 1.0) -> None:
        self.side, self.divisor = side, divisor

    def __getitem__(self, name: str) -> NDArray[Any]:
        t = self.side[name]
        found = t.values(0, t.size).reshape(t.shape).astype(np.float32 if t.dtype != "float64" else np.float64)
        return found if self.divisor == 1.0 else np.divide(found, self.divisor)

    def __iter__(self) -> Iterator[str]:
        return iter(self.side)

    def __len__(self) -> int:
        return len(self.side)

    def __contains__(self, name: object) -> bool:
        return name in self.side


def _named(a: Mapping[str, Any], b: Mapping[str, Any], places: list[Place], layers: list[_Layer]) -> list[Place]:
    """Matrices of the stream whose other axis has names: the longest that belongs to no layer, which is the vocabulary."""
    same = [p for p in places if tuple(a[p.tensor].shape) == tuple(b[p.tensor].shape)]
    taken = {p for layer in layers for p in (*layer.reads, *layer.writes)}
    rest = {p: a[p.tensor].shape[1 - p.axis] for p in same if p not in taken and len(a[p.tensor].shape) == 2}
    return [p for p, n in rest.items() if n == max(rest.values())]


def _turn(a: Mapping[str, Any], b: Mapping[str, Any], named: list[Place]) -> Matrix | None:
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
    reads: list[Place]
    writes: list[Place]


def _layers(a: Mapping[str, Any], b: Mapping[str, Any], places: list[Place]) -> Iterator[_Layer]:
    """Hidden units between two matrices of the stream: what reads and what writes it, of one size, in one folder of names."""
    folders: dict[tuple[str, int], list[Place]] = {}
    ends = outer([(shape[0], shape[1]) for n in a if len(shape := tuple(a[n].shape)) == 2])
    for p in places:
        shape = tuple(a[p.tensor].shape)
        if len(shape) != 2 or tuple(b[p.tensor].shape) != shape:
            continue
        if shape[1 - p.axis] > FEW and shape[1 - p.axis] not in ends:
            stem = p.tensor.removesuffix(".weight").rpartition(".")[0]
            folders.setdefault((stem, shape[1 - p.axis]), []).append(p)
    for same in folders.values():
        one = [p for p in same if p.axis == same[0].axis]
        other = [p for p in same if p.axis != same[0].axis]
        if one and other:
            yield _Layer(one, other)


def _agreeing(
    a: Mapping[str, Any], b: Mapping[str, Any], layer: _Layer, turn: Matrix | None, rng: np.random.Generator
) -> tuple[int, int]:
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
        found.append(matched(value, rng))
    return int((found[0] == found[1]).sum()), len(found[0])


def _in_words(p: float) -> str:
    return f"{p:.2g}" if p > 1e-300 else "less than 1e-300"

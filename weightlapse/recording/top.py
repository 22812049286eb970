"""What is largest, or moved most: found through the statistics, so that only the blocks that can matter are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from weightlapse.recording.ranking import Best
from weightlapse.store.block import lanes
from weightlapse.store.layout import TensorSpec
from weightlapse.store.ranks import RankedStore
from weightlapse.store.reader import Store
from weightlapse.store.statistics import row_values
from weightlapse.store.stretches import Source, Stretch, as_numbers, sources, stretches

Quantity = Literal["update", "value", "change"]
Thing = Literal["weights", "units", "tensors"]
QUANTITIES: tuple[str, ...] = get_args(Quantity)
THINGS: tuple[str, ...] = get_args(Thing)
_AT_ONCE = 1 << 22  # numbers that are looked at together
Array = NDArray[np.float64]
Top = list[tuple[str, tuple[Any, ...], float]]
Known = Callable[[str, float], None]


@dataclass(frozen=True)
class Question:
    """``what`` is largest ``of`` which things, at the frames ``[first, stop)``, among the tensors that are ``wanted``.

    ``axes``: the axis of the units of a tensor, where that is not the first.
    """

    what: str
    of: str
    first: int
    stop: int
    wanted: Callable[[TensorSpec], bool]
    axes: dict[str, int]

    def axis(self, spec: TensorSpec) -> int:
        """The axis of a tensor along which things are counted: of units the one given in ``axes``, else 0; always 0 of vectors and single numbers."""
        return self.axes.get(spec.name, 0) if self.of == "units" and len(spec.shape) > 1 else 0

    def things(self, spec: TensorSpec) -> tuple[int, ...]:
        """The shape of the array of things that a tensor is."""
        if self.of == "tensors" or not spec.shape:
            return ()
        return (spec.shape[self.axis(spec)],) if self.of == "units" else spec.shape


@dataclass(frozen=True)
class Part:
    """The rows ``[start, stop)`` of the first axis of a tensor (0 to 1 of one without axes) at some frames of a store, in rising order."""

    store: Store | RankedStore
    spec: TensorSpec
    offset: tuple[int, ...]  # where what the store has of the tensor begins
    start: int
    stop: int
    frames: NDArray[np.int64]

    def read(self) -> NDArray[Any]:
        """(frames, numbers, 1 or 2) float32 or float64: complex ones have two."""
        rows = (slice(self.start, self.stop), *(slice(None) for _ in self.spec.shape[1:])) if self.spec.shape else ()
        values = self.store.read(self.spec.name, self.frames, rows)
        return as_numbers(values, self.spec).reshape(len(values), -1, lanes(self.spec)[1])

    def cut(self, *, rows: bool) -> Iterator[Part]:
        """Pieces that are small enough to look at, ``rows`` apart too; frames overlap by one, for the changes."""
        row = max(row_values(self.spec) * (1 if rows else self.stop - self.start), 1)
        frames = min(len(self.frames), max(_AT_ONCE // row, 2))
        count = max(_AT_ONCE // (row * frames), 1) if rows else self.stop - self.start
        for start in range(self.start, self.stop, count):
            for first in range(0, max(len(self.frames) - 1, 1), max(frames - 1, 1)):
                part = self.frames[first : first + frames]
                yield replace(self, start=start, stop=min(start + count, self.stop), frames=part)


@dataclass(frozen=True)
class Candidates:
    """Parts (n,) at the same frames of a store: what bounds them, their tensor (its number in ``specs``) and rows."""

    store: Store | RankedStore
    specs: tuple[TensorSpec, ...]
    offsets: Callable[[TensorSpec], tuple[int, ...]]
    frames: NDArray[np.int64]
    bounds: Array
    tensors: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    def part(self, i: int) -> Part:
        """Candidate ``i`` as a part that can be read: its tensor's rows ``[starts[i], stops[i])`` at the frames of the question; nothing is read yet."""
        spec = self.specs[int(self.tensors[i])]
        return Part(self.store, spec, self.offsets(spec), int(self.starts[i]), int(self.stops[i]), self.frames)


def top(store: Store | RankedStore, question: Question, k: int) -> Top:
    """See :meth:`Recording.top`."""
    specs = {spec.name: spec for _, layout in store.layouts for spec in layout.tensors}
    numbers = {name: i for i, name in enumerate(specs)}
    best = Best(k)
    known = lambda name, value: best.add(numbers[name], (), (), np.zeros(1, np.int64), np.array([value]))  # noqa: E731
    found = [c for c in _candidates(store, question, known) if len(c.bounds)]
    if found:
        bounds = np.concatenate([c.bounds for c in found])
        group = np.repeat(np.arange(len(found)), [len(c.bounds) for c in found])
        within = np.concatenate([np.arange(len(c.bounds)) for c in found])
        tensors = np.concatenate([np.array([numbers[t.name] for t in c.specs])[c.tensors] for c in found])
        starts = np.concatenate([c.starts for c in found])
        for i in np.lexsort((starts, tensors, -bounds)).tolist():
            if best.hopeless(float(bounds[i])):
                break
            part = found[group[i]].part(within[i])
            things, axis = question.things(part.spec), question.axis(part.spec)
            offset = part.offset if question.of == "weights" else (0,) * len(things)
            first = (part.start + offset[0] if axis == 0 else 0, *offset[1:]) if things else ()
            if best.may_enter(float(bounds[i]), (int(tensors[i]), first)):
                for piece in part.cut(rows=question.of != "tensors" and axis == 0):
                    best.add(int(tensors[i]), things, offset, *measured(piece, question))
    names = list(specs)
    return [
        (names[tensor], (*(slice(None),) * question.axis(specs[names[tensor]]), *place), value)
        for (tensor, place), value in best.items()[:k]
    ]


def measured(part: Part, question: Question) -> tuple[NDArray[np.int64], Array]:
    """(which things, their values) of a part. NaN counts for nothing, and a value of which nothing is known is NaN."""
    x, axis, rows = part.read(), question.axis(part.spec), part.stop - part.start
    with np.errstate(all="ignore"):
        if question.of == "weights":
            return part.start * (x.shape[1] // rows) + np.arange(x.shape[1]), _largest(x, question.what)
        x = x.astype(np.float64)
        if question.what != "value":
            x = np.diff(x, axis=0)
        square = np.where(np.isnan(x), 0.0, x * x).sum(axis=2)
        if question.of == "tensors" or not part.spec.shape:
            square = square[:, None]
        else:
            square = np.moveaxis(square.reshape(len(x), rows, *part.spec.shape[1:]), 1 + axis, 1)
        size = np.sqrt(square.reshape(*square.shape[:2], -1).sum(axis=2))
        numbers = np.arange(size.shape[1]) + (part.start if axis == 0 and question.of == "units" else 0)
        return numbers, np.fmax.reduce(size, axis=0) if len(size) else np.full(len(numbers), np.nan)


def _largest(x: NDArray[Any], what: str) -> Array:
    """(numbers,) of x (frames, numbers, 1 or 2): frame by frame, so that what is worked on stays in the cache."""
    best = np.full(x.shape[1], np.nan)
    moved = np.empty(x.shape[1:])
    for t in range(what != "value", len(x)):
        if what == "value":
            moved[...] = x[t]
        else:
            np.subtract(x[t], x[t - 1], out=moved, dtype=np.float64)
        size = np.abs(moved[:, 0], out=moved[:, 0]) if x.shape[2] == 1 else np.hypot(moved[:, 0], moved[:, 1])
        np.fmax(best, size, out=best)
    return best


# ---- what can matter -----------------------------------------------------------------------------------------------


def _candidates(store: Store | RankedStore, question: Question, known: Known) -> Iterator[Candidates]:
    """What has to be looked at. ``known`` is told the values of tensors that the statistics hold."""
    if isinstance(store, RankedStore) and question.of != "weights":  # a norm is that of the whole, which no rank has
        yield from _unbounded(Source(store, np.arange(len(store.steps))), question)  # type: ignore[arg-type]
        return
    for source in sources(store):
        if question.what == "change":
            yield from _changes(source, question)
        else:
            for stretch in stretches(source, question.first, question.stop):
                yield _of_stretch(source, stretch, question, known)


def _unbounded(source: Source, question: Question) -> Iterator[Candidates]:
    """Everything, one layout after the other: nothing is known of it."""
    every = np.arange(question.first, question.stop)
    layouts = [source.store.layout_at(int(frame)) for frame in every]
    edges = [0, *(i for i in range(1, len(every)) if layouts[i] is not layouts[i - 1]), len(every)]
    if question.what == "change":
        every = every[[0, -1]]
        edges = [0, 2] if len(layouts) > 1 and layouts[0] == layouts[-1] else [0, 0]
    for a, b in pairwise(edges):
        if b - a > (question.what == "update"):
            yield _whole(source, layouts[a].tensors, every[a:b], question, lambda _: np.inf)


def _whole(
    source: Source,
    specs: tuple[TensorSpec, ...],
    frames: NDArray[np.int64],
    question: Question,
    bound: Callable[[int], float],
) -> Candidates:
    """A candidate for each tensor."""
    chosen = [i for i, spec in enumerate(specs) if spec.size and source.counts(spec.name) and question.wanted(spec)]
    rows = np.array([specs[i].shape[0] if specs[i].shape else 1 for i in chosen], np.int64)
    bounds = np.array([bound(i) for i in chosen], np.float64)
    tensors = np.array(chosen, np.int64)
    return Candidates(source.store, specs, _offsets(source), frames, bounds, tensors, np.zeros_like(rows), rows)


def _offsets(source: Source) -> Callable[[TensorSpec], tuple[int, ...]]:
    return lambda spec: source.offset(spec.name, len(spec.shape))


def _of_stretch(source: Source, stretch: Stretch, question: Question, known: Known) -> Candidates:
    """The values of a stretch, or its changes: of each piece a candidate, of things that go across pieces each tensor."""
    specs = stretch.layout.tensors
    preceded = stretch.preceded and stretch.first > int(source.frames[question.first])  # by a frame that counts
    frames = np.arange(stretch.first - (question.what == "update" and preceded), stretch.stop)
    statistics, some = stretch.statistics, len(frames) > (question.what == "update")
    unknown = question.what == "update" and preceded and not stretch.follows
    if question.of == "tensors":
        whole = _whole(source, specs, frames, question, lambda i: np.inf if unknown else _norm(stretch, i, question))
        if not some:
            return _none(whole)
        told = [
            not unknown and stretch.statistics.each[i] and np.isfinite(b) for i, b in zip(whole.tensors, whole.bounds)
        ]
        for i in whole.tensors[told].tolist():
            rows = stretch.frame_rows(i)
            assert rows is not None
            column = rows["sumsq"] if question.what == "value" else rows["update_sumsq"][0 if preceded else 1 :]
            known(specs[i].name, float(np.sqrt(column.max())))
        return _some(whole, ~np.array(told, bool))
    table = statistics.table
    tensors = table["tensor"].astype(np.int64)
    row = np.array([max(row_values(spec), 1) for spec in specs], np.int64)[tensors]
    starts, stops = table["start"].astype(np.int64) // row, -(-table["stop"].astype(np.int64) // row)
    across = np.array([question.axis(spec) > 0 for spec in specs], bool)
    across[tensors[(table["start"] % row != 0) | (table["stop"] % row != 0)]] = True
    if unknown:
        bounds = np.full(len(tensors), np.inf)
    elif question.of == "weights":
        bounds = _of_weights(stretch, question.what) * np.sqrt([float(lanes(spec)[1]) for spec in specs])[tensors]
    else:
        bounds = _of_units(stretch, question, tensors, starts, across)
    keep = np.array([source.counts(s.name) and question.wanted(s) for s in specs], bool)[tensors] & (bounds >= 0) & some
    if across.any():  # what goes across the pieces of a tensor is looked for in all of it
        most = np.full(len(specs), -np.inf)
        np.maximum.at(most, tensors, bounds)
        tallest = np.array([spec.shape[0] if spec.shape else 1 for spec in specs], np.int64)
        bounds = np.where(across[tensors], most[tensors], bounds)
        starts = np.where(across[tensors], 0, starts)
        stops = np.where(across[tensors], tallest[tensors], stops)
        keep &= ~across[tensors] | np.concatenate([[True], tensors[1:] != tensors[:-1]])
    found = Candidates(source.store, specs, _offsets(source), frames, bounds, tensors, starts, stops)
    return _some(found, keep)


def _some(found: Candidates, keep: Any) -> Candidates:
    columns = {name: getattr(found, name)[keep] for name in ("bounds", "tensors", "starts", "stops")}
    return replace(found, **columns)


def _none(found: Candidates) -> Candidates:
    return _some(found, slice(0, 0))


def _of_weights(stretch: Stretch, what: str) -> Array:
    statistics, b = stretch.statistics, stretch.block
    if what == "update":
        return statistics.jump[b].astype(np.float64)
    return np.maximum(-statistics.low[b].astype(np.float64), statistics.high[b].astype(np.float64))


def _of_units(
    stretch: Stretch,
    question: Question,
    tensors: NDArray[np.int64],
    starts: NDArray[np.int64],
    across: NDArray[np.bool_],
) -> Array:
    """No unit of a piece is longer than its tensor; or, where units have bounds of their own, than the longest of them."""
    statistics, b = stretch.statistics, stretch.block
    whole = np.zeros(len(stretch.layout.tensors))
    for t in np.unique(tensors).tolist():
        whole[t] = _norm(stretch, t, question)
    bounds: Array = whole[tensors]
    own = np.flatnonzero((statistics.units & ~across)[tensors])
    if len(own):
        sizes = [s.shape[0] if has else 0 for s, has in zip(stretch.layout.tensors, statistics.units)]
        first = np.concatenate([[0], np.cumsum(sizes)])[tensors[own]] + starts[own]
        own, first = own[np.argsort(first)], np.sort(first)
        kept = (statistics.unit_jump if question.what == "update" else statistics.unit_value)[b].astype(np.float64)
        longest = np.maximum.reduceat(kept, first)  # up to the next piece: of what lies between, at most too much
        bounds[own] = np.minimum(bounds[own], np.sqrt(longest) * (1 + 1e-6))
    return bounds


def _norm(stretch: Stretch, tensor: int, question: Question) -> float:
    """What the norm of a tensor, or of its change, does not go beyond in a stretch."""
    statistics = stretch.statistics
    column = "update_sumsq" if question.what == "update" else "sumsq"
    at = statistics.row(tensor, stretch.local)
    rows = slice(at, at + (stretch.stop - stretch.first if statistics.each[tensor] else 1))
    if column == "sumsq":
        odd = statistics.rows["inf"][rows].any()
    else:  # an infinity before the block counts too
        odd = np.isinf(statistics.jump[stretch.block][statistics.table["tensor"] == tensor]).any()
    return np.inf if odd else float(np.sqrt(statistics.rows[column][rows].max())) * (1 + 1e-9)


def _changes(source: Source, question: Question) -> Iterator[Candidates]:
    """The first and the last frame of each tensor that has both; bounded by its values in both, and by the way between them."""
    frames = source.frames[[question.first, question.stop - 1]] if question.stop > question.first else source.frames[:0]
    if len(frames) < 2 or frames[0] == frames[1]:
        return
    first, last = (source.store.layout_at(int(frame)) for frame in frames)
    here = {spec.name: (spec.dtype, spec.shape) for spec in first.tensors}
    same = tuple(spec for spec in last.tensors if here.get(spec.name) == (spec.dtype, spec.shape))
    found = list(stretches(source, question.first, question.stop, make=False))
    bounds = _ways(found, same, question)
    yield _whole(source, same, frames, question, lambda i: bounds[i])


def _ways(found: list[Stretch], specs: tuple[TensorSpec, ...], question: Question) -> list[float]:
    """How far each tensor can have come over these stretches; infinity where they say too little."""
    bounds = []
    for spec in specs:
        way = np.inf
        if found and all(spec.name in s.layout.index for s in found):
            rows = [(s, s.row(s.layout.index[spec.name])) for s in found]
            linked = (
                all(s.follows for s in found[1:])
                and sum(s.stop - s.first for s in found) == question.stop - question.first
            )
            clean = not any(row["inf"] or row["nan"] for _, row in rows)
            if clean and linked:
                reach = max(rows[-1][1]["max"] - rows[0][1]["min"], rows[0][1]["max"] - rows[-1][1]["min"])
                steps = sum(row["update_max"] * (s.stop - s.first) for s, row in rows)
                each = lanes(spec)[1]
                way = min(reach, steps) * np.sqrt(each if question.of == "weights" else spec.size * each) * (1 + 1e-9)
        bounds.append(float(way))
    return bounds

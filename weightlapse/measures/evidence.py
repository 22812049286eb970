"""The series that the doctor reads, gathered in one pass over a recording."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.observed import Observed, observed_of
from weightlapse.measures.stream import Array, moments
from weightlapse.measures.units import Layer, gather, layers_of

STRAIGHT = 1e-4  # of an update: momentum alone goes straight on to the last bits, a gradient turns it by more
GLIDE = (0.3, 0.97)  # by which factor momentum makes an update shorter than the one before (0.9 for the usual one)
ROUNDINGS = 4  # of the weights' size: what rounding the weights twice can turn an update by


@dataclass
class TensorSeries:
    """One tensor: (T,) series, and per-weight totals over the run."""

    norm: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    nonfinite: tuple[int, NDArray[np.int64]] | None = None  # (frame, coordinates (n, ndim)) of the first bad frame
    fresh: list[bool] = field(
        default_factory=list
    )  # whether the update is more than the last one gone on with, and than rounding
    shrink: list[float] = field(default_factory=list)  # share of the weights that the update takes off along themselves
    inward: list[float] = field(default_factory=list)  # cosine of the update and minus the weights
    path: Array | None = None  # sum of |update| of each weight, flat
    displacement: Array | None = None  # |now - start| of each weight, flat


@dataclass
class UnitSeries:
    """One layer of units: (T - 1, units) update norms of incoming and outgoing weights, and how parallel successive updates are."""

    incoming: list[Array] = field(default_factory=list)
    outgoing: list[Array] = field(default_factory=list)
    size: list[Array] = field(default_factory=list)  # norm of the incoming weights themselves
    aside: list[Array] = field(
        default_factory=list
    )  # length of what of the incoming update is not straight on from the last one; NaN where there was none
    size_out: list[Array] = field(default_factory=list)  # the same two of the outgoing ones
    aside_out: list[Array] = field(default_factory=list)
    last: Array | None = None
    last_out: Array | None = None


@dataclass
class Evidence:
    """Everything one pass collects. ``steps`` (T,)."""

    run: Any
    names: list[str]
    steps: NDArray[np.int64]
    layers: list[Layer]
    tensors: dict[str, TensorSeries]
    units: dict[str, UnitSeries]
    observed: Observed
    explained: set[str] = field(default_factory=set)  # tensors of whose rest another finding has given the cause
    constant: set[str] = field(default_factory=set)  # layers that see a constant, because a layer before them is dead

    def is_dead(self, layer: Layer) -> None:
        """Take note that a whole layer is: what comes before it gets no gradient, what comes behind sees a constant."""
        self.explained |= self.up_to(layer)
        self.constant |= {x.name for x in self._reached(layer, forward=True)} - {layer.name}

    def up_to(self, layer: Layer) -> set[str]:
        """Tensors of a layer and of all that feed it."""
        return set().union(*(x.tensors for x in self._reached(layer, forward=False)))

    def _reached(self, layer: Layer, *, forward: bool) -> list[Layer]:
        """``layer`` and those behind it (or before it), as far as tensors that two layers share lead."""
        reached = {layer.name: layer}
        queue = [layer]
        while queue:
            one = queue.pop()
            ends = {p.tensor for p in (one.outgoing if forward else one.incoming)}
            for x in self.layers:
                if x.name not in reached and ends & {p.tensor for p in (x.incoming if forward else x.outgoing)}:
                    reached[x.name] = x
                    queue.append(x)
        return list(reached.values())

    def learning(self) -> NDArray[np.bool_]:
        """(T - 1,) whether a gradient had a part in the update of any tensor at all."""
        flags = [t.fresh for t in self.tensors.values() if t.fresh]
        return np.any(np.asarray(flags, dtype=bool), axis=0) if flags else np.zeros(len(self.steps) - 1, dtype=bool)

    def ratio(self, name: str) -> Array:
        """(T,) update norm per optimizer step over the norm before it; NaN at the first frame."""
        series = self.tensors[name]
        norm, update = np.asarray(series.norm), np.asarray(series.update)
        gap = np.maximum(np.diff(self.steps), 1)
        ratio = np.full(len(norm), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio[1:] = np.where(norm[:-1] > 0, update[1:] / norm[:-1] / gap, np.nan)
        return ratio


def collect(run: Any, names: list[str], frames: range) -> Evidence:
    """One pass. Memory: the series, one update of the network, and two float64 per weight."""
    layers = layers_of(run, names)
    evidence = Evidence(
        run,
        names,
        np.asarray(run.steps)[list(frames)],
        layers,
        {n: TensorSeries() for n in names},
        {layer.name: UnitSeries() for layer in layers},
        observed_of(run),
    )
    updates: dict[str, Array] = {}
    values: dict[str, Array] = {}
    last: dict[str, Array] = {}
    decay = {n: evidence.observed.decoupled_decay(n, evidence.steps) for n in names}
    gap = np.diff(evidence.steps, prepend=evidence.steps[:1])
    with np.errstate(invalid="ignore", over="ignore"):
        for m in moments(run, names, frames, together=True, label="examining"):
            series = evidence.tensors[m.name]
            series.norm.append(m.norm)
            series.update.append(m.update_norm)
            series.largest.append(float(max(m.raw.max(initial=0.0), -m.raw.min(initial=0.0))))
            if series.nonfinite is None and not np.isfinite(m.norm) and not np.isfinite(m.now).all():
                series.nonfinite = (m.frame, np.argwhere(~np.isfinite(m.weights)))
            if m.update is not None:
                assert m.before is not None
                i = len(series.norm) - 1
                before = np.asarray(m.before, dtype=np.float64)
                alone = m.update + decay[m.name][i - 1] * gap[i] * before  # what the gradient and momentum made
                _along(series, m.update, before)
                series.fresh.append(_is_fresh(alone, last.get(m.name), m.norm, rounding(str(run.dtypes[m.name]))))
                last[m.name] = alone
                moved = np.abs(m.as_weights(m.update)).reshape(-1)
                series.path = moved if series.path is None else series.path + moved
                series.displacement = np.abs(m.as_weights(m.now - m.start)).reshape(-1)
                updates[m.name], values[m.name] = alone, m.now
                if len(updates) == len(names):
                    for layer in layers:
                        _units(evidence.units[layer.name], layer, updates, values)
                    updates, values = {}, {}
    return evidence


def rounding(dtype: str) -> float:
    """Half the distance from 1 to the next number of this type."""
    return {"bfloat16": 2.0**-9, "float16": 2.0**-11, "float64": 2.0**-53, "complex128": 2.0**-53}.get(dtype, 2.0**-24)


def _along(series: TensorSeries, update: Array, before: Array) -> None:
    flat, base = update.reshape(-1), before.reshape(-1)
    dot, square, length = -float(flat @ base), float(base @ base), float(np.sqrt(flat @ flat))
    series.shrink.append(dot / square if square > 0 else float("nan"))
    series.inward.append(dot / (length * np.sqrt(square)) if square > 0 and length > 0 else float("nan"))


def _is_fresh(update: Array, last: Array | None, norm: float, eps: float) -> bool:
    """Whether a gradient had a part in this update: momentum alone makes the last one again, shorter, up to rounding."""
    new = update.reshape(-1)
    length = float(np.sqrt(new @ new))
    least = max(STRAIGHT * length, ROUNDINGS * eps * norm)
    if not np.isfinite(length) or length <= least:
        return False
    if last is None or not (square := float(last.reshape(-1) @ last.reshape(-1))) > 0:
        return True
    old = last.reshape(-1)
    factor = max(0.0, float(new @ old) / square)
    aside = new - factor * old
    return float(np.sqrt(aside @ aside)) > least or not GLIDE[0] <= factor <= GLIDE[1]


def _units(series: UnitSeries, layer: Layer, updates: dict[str, Array], values: dict[str, Array]) -> None:
    rows = gather(layer.incoming, updates)
    series.incoming.append(np.sqrt((rows**2).sum(axis=1)))
    series.size.append(np.sqrt((gather(layer.incoming, values) ** 2).sum(axis=1)))
    series.aside.append(_aside(rows, series.last))
    series.last = rows
    if layer.outgoing:
        out = gather(layer.outgoing, updates)
        series.outgoing.append(np.sqrt((out**2).sum(axis=1)))
        series.size_out.append(np.sqrt((gather(layer.outgoing, values) ** 2).sum(axis=1)))
        series.aside_out.append(_aside(out, series.last_out))
        series.last_out = out


def _aside(rows: Array, last: Array | None) -> Array:
    """(units,) length of what of each row is not straight on from the last one; NaN where there was none, or the way goes back."""
    if last is None:
        return np.full(len(rows), np.nan)
    square = (last**2).sum(axis=1)
    factor = np.where(square > 0, (rows * last).sum(axis=1) / np.where(square > 0, square, 1), 0)
    aside = np.sqrt(((rows - factor[:, None] * last) ** 2).sum(axis=1))
    return np.where((square > 0) & (factor > 0), aside, np.nan)

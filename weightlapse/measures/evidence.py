"""The series that the doctor reads, gathered in one pass over a recording."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.stream import Array, moments
from weightlapse.measures.units import Layer, gather, layers_of


@dataclass
class TensorSeries:
    """One tensor: (T,) series, and per-weight totals over the run."""

    norm: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    nonfinite: tuple[int, NDArray[np.int64]] | None = None  # (frame, coordinates (n, ndim)) of the first bad frame
    path: Array | None = None  # sum of |update| of each weight, flat
    displacement: Array | None = None  # |now - start| of each weight, flat


@dataclass
class UnitSeries:
    """One layer of units: (T - 1, units) update norms of incoming and outgoing weights, and how parallel successive updates are."""

    incoming: list[Array] = field(default_factory=list)
    outgoing: list[Array] = field(default_factory=list)
    size: list[Array] = field(default_factory=list)  # norm of the incoming weights themselves
    parallel: list[Array] = field(
        default_factory=list
    )  # cosine of this and the last incoming update; NaN where one is zero
    last: Array | None = None


@dataclass
class Evidence:
    """Everything one pass collects. ``steps`` (T,)."""

    run: Any
    names: list[str]
    steps: NDArray[np.int64]
    layers: list[Layer]
    tensors: dict[str, TensorSeries]
    units: dict[str, UnitSeries]

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
    )
    updates: dict[str, Array] = {}
    values: dict[str, Array] = {}
    with np.errstate(invalid="ignore", over="ignore"):
        for m in moments(run, names, frames, together=True, label="examining"):
            series = evidence.tensors[m.name]
            series.norm.append(m.norm)
            series.update.append(m.update_norm)
            series.largest.append(float(max(m.raw.max(initial=0.0), -m.raw.min(initial=0.0))))
            if series.nonfinite is None and not np.isfinite(m.norm) and not np.isfinite(m.now).all():
                series.nonfinite = (m.frame, np.argwhere(~np.isfinite(m.weights)))
            if m.update is not None:
                moved = np.abs(m.as_weights(m.update)).reshape(-1)
                series.path = moved if series.path is None else series.path + moved
                series.displacement = np.abs(m.as_weights(m.now - m.start)).reshape(-1)
                updates[m.name], values[m.name] = m.update, m.now
                if len(updates) == len(names):
                    for layer in layers:
                        _units(evidence.units[layer.name], layer, updates, values)
                    updates, values = {}, {}
    return evidence


def _units(series: UnitSeries, layer: Layer, updates: dict[str, Array], values: dict[str, Array]) -> None:
    rows = gather(layer.incoming, updates)
    norms = np.sqrt((rows**2).sum(axis=1))
    series.incoming.append(norms)
    series.size.append(np.sqrt((gather(layer.incoming, values) ** 2).sum(axis=1)))
    if layer.outgoing:
        series.outgoing.append(np.sqrt((gather(layer.outgoing, updates) ** 2).sum(axis=1)))
    if series.last is not None:
        product = norms * np.sqrt((series.last**2).sum(axis=1))
        dots = (rows * series.last).sum(axis=1)
        series.parallel.append(np.where(product > 0, dots / np.where(product > 0, product, 1), np.nan))
    else:
        series.parallel.append(np.full(layer.size, np.nan))
    series.last = rows

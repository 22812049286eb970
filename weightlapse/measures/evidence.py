"""What the doctor's rules ask a recording: curves of its tensors, which statistics hold, and of its values what they need beside."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.motion import Moves, moves, paths_over
from weightlapse.measures.observed import Observed, observed_of
from weightlapse.measures.reading import FEW, LIMIT, Reading
from weightlapse.measures.series import NO, OPEN, YES, TensorSeries, are_fresh, flat, from_curve, from_values, rounding
from weightlapse.measures.stream import Array
from weightlapse.measures.units import Layer, layers_of
from weightlapse.progress import track
from weightlapse.recording.run import Run


@dataclass
class Evidence:
    """Everything that is known. ``steps`` (T,). Values are read when a rule asks for them."""

    run: Run
    names: list[str]
    steps: NDArray[np.int64]
    layers: list[Layer]
    tensors: dict[str, TensorSeries]
    observed: Observed
    reading: Reading
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

    @cached_property
    def _gaps(self) -> NDArray[np.int64]:
        return np.diff(self.steps)

    def decay(self, name: str) -> Array:
        """(T - 1,) share of a weight that decay by itself takes between two frames."""
        return decay_between(self.observed, name, self.steps)

    def ratio(self, name: str) -> Array:
        """(T,) update norm per optimizer step over the norm before it; NaN at the first frame."""
        norm, update = self.tensors[name].norm, self.tensors[name].update
        ratio = np.full(len(norm), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio[1:] = np.where(norm[:-1] > 0, update[1:] / norm[:-1] / np.maximum(self._gaps, 1), np.nan)
        return ratio

    # ---- what learns -----------------------------------------------------------------------------------------------

    def learning(self, first: int = 0) -> NDArray[np.bool_]:
        """(T - 1 - first,) whether a gradient had a part in the update of any tensor at all, from update number ``first`` on."""
        if not self.tensors:
            return np.zeros(len(self.steps) - 1 - first, dtype=bool)
        told = np.stack([series.fresh[first:] for series in self.tensors.values()])
        for i in first + np.flatnonzero((told == OPEN).any(axis=0) & ~(told == YES).any(axis=0)):
            open_ = sorted((n for n in self.tensors if self.tensors[n].fresh[i] == OPEN), key=self._size)
            next((n for n in open_ if self._decided(n, int(i))), None)  # the first that shows a gradient is enough
        return np.any([series.fresh[first:] == YES for series in self.tensors.values()], axis=0)

    def has_gradient(self, name: str, first: int) -> bool:
        """Whether a gradient had a part in any update of a tensor from number ``first`` on."""
        fresh = self.tensors[name].fresh
        if (fresh[first:] == YES).any():
            return True
        return any(self._decided(name, int(first + i)) for i in np.flatnonzero(fresh[first:] == OPEN)[::-1])

    def _size(self, name: str) -> int:
        return int(np.prod(self.run.shapes[name], dtype=np.int64))

    def _decided(self, name: str, i: int) -> bool:
        """Whether a gradient had a part in update ``i`` of a tensor, from its values; where these are too many to read, none is seen."""
        first, series = max(i - 1, 0), self.tensors[name]
        series.fresh[i] = NO
        if self.reading.may(self.reading.cost(name, first, i + 2), f"whether {name} learns"):
            values = flat(self.reading.values(name, first, i + 2))
            with np.errstate(all="ignore"):
                alone = np.diff(values, axis=0) + self.decay(name)[first : i + 1, None] * values[:-1]
                eps = rounding(str(self.run.dtypes[name]))
                series.fresh[i] = are_fresh(alone, series.norm[first + 1 : i + 2], eps)[-1]
        return bool(series.fresh[i] == YES)

    # ---- how units move --------------------------------------------------------------------------------------------

    def moves(self, layer: Layer, first: int, what: str) -> tuple[Moves, Moves | None] | None:
        """The updates number ``first`` to the last of the incoming weights of a layer's units, and of the outgoing ones; None where these are too many
        to read (then they count as ``what`` that was not looked at)."""
        begin = max(first - 1, 0)
        cost = sum(self.reading.cost(name, begin, len(self.steps)) for name in layer.tensors)
        if not self.reading.may(cost, what):
            return None
        incoming = moves(self.reading, layer.incoming, begin, self.decay)
        outgoing = moves(self.reading, layer.outgoing, begin, self.decay) if layer.outgoing else None
        return incoming, outgoing

    def paths(self, name: str, enough: float) -> tuple[Array, Array] | None:
        """(path, way) of each weight of a tensor, flat: how far it went from frame to frame, and from the first to the last; None where fewer than half of
        those that move come ``enough`` of their path away, or where that was too much to read."""
        count, reading = len(self.steps), self.reading
        some = paths_over(reading, name, reading.few(name), "") if count > 2 * FEW else None
        if some is not None:  # going by a few frames is never longer
            path, way = some
            if ((way > 0) & (way >= enough * path)).sum() < max(2, 0.5 * (path > 0).sum()):
                return None
        return paths_over(reading, name, range(count), f"whether {name} marches")


def decay_between(observed: Observed, name: str, steps: NDArray[np.int64]) -> Array:
    """(T - 1,) share of a weight that decoupled decay takes between two frames."""
    return np.asarray(observed.decoupled_decay(name, steps)[:-1] * np.diff(steps), dtype=np.float64)


def collect(run: Run, names: list[str], frames: range, limit: int | None = LIMIT) -> Evidence:
    """The curves of all tensors: from statistics where these have every frame, from the values of the others. ``limit``: see :class:`Reading`."""
    reading, steps, observed = Reading(run, frames, limit), np.asarray(run.steps)[list(frames)], observed_of(run)
    found: dict[str, TensorSeries] = {}
    for name in track(names, "examining"):
        decay = decay_between(observed, name, steps)
        curve = reading.curve(name)
        if curve is not None:
            found[name] = from_curve(reading, name, curve, decay)
        elif reading.may(reading.cost(name, 0, len(frames)), name):
            found[name] = from_values(reading, name, decay)
    names = [name for name in names if name in found]
    return Evidence(run, names, steps, layers_of(run, names), found, observed, reading)

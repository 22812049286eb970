"""Findings about single units: dead, saturated, copies of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.evidence import Evidence, UnitSeries
from weightlapse.measures.finding import Finding, listed
from weightlapse.measures.stream import Array
from weightlapse.measures.units import Layer, gather, twin_labels

QUIET = 1e-6  # of the layer's median update: below it a unit gets no gradient (float32 rounding is 6e-8)
MUFFLED = 1e-3  # of the layer's median: tanh and sigmoid pass this little where they are flat (1 - tanh(4.2)^2)
ACTIVE = 1e-2  # of the layer's median: the outgoing weights still learn
SHORTEST = 20  # frames, and a tenth of the run: quiet for less is chance
LONGER = 4  # times the longest rest in the unit's life before: units that seldom fire rest often
UNBORN = 0.2  # of a layer's units: fewer that never fired since their random start are no fault of the training
PARALLEL = 0.9995  # cosine of successive updates that only momentum explains: a gradient would turn them


def dead_and_saturated(evidence: Evidence) -> Iterator[Finding]:
    """Units whose incoming weights get no gradient to the end of the run.

    A ReLU that is never on passes no gradient and feeds its consumers zeros: incoming and outgoing weights rest. A saturated
    tanh or sigmoid still feeds a constant: incoming weights rest, outgoing ones learn. Momentum goes on moving the weights for a
    while, along a straight line; the finding dates back over it to the frame where the gradient ended.
    """
    for layer in evidence.layers:
        series = evidence.units[layer.name]
        if len(series.incoming) < SHORTEST:
            continue
        incoming = np.stack(series.incoming)  # (T - 1, units); row i is the update into frame i + 1
        outgoing = np.stack(series.outgoing) if series.outgoing else None
        parallel = np.stack(series.parallel)
        typical = _typical(incoming)
        informative = typical > 0
        needed = max(SHORTEST, len(incoming) // 10)
        rest = incoming <= QUIET * typical[:, None]
        dull = incoming <= MUFFLED * typical[:, None]
        live_out = None if outgoing is None else outgoing > ACTIVE * _typical(outgoing)[:, None]
        found: dict[str, list[tuple[int, int]]] = {"dead": [], "saturated": []}
        for unit in range(layer.size):
            quiet = rest[:, unit] if live_out is None else np.where(live_out[:, unit], dull[:, unit], rest[:, unit])
            start = _since(quiet, informative)
            if start is None or informative[start:].sum() < max(needed, LONGER * _longest(quiet[:start] & informative[:start])):
                continue
            start = _before_momentum(parallel[:, unit], incoming[:, unit], start)
            late = slice(max(start, len(incoming) - needed), None)
            feeds = live_out is not None and bool(live_out[late, unit][informative[late]].mean() > 0.5)
            if (
                not feeds
                and outgoing is not None
                and not (outgoing[late, unit] <= QUIET * _typical(outgoing)[late]).all()
            ):
                continue  # neither silent nor steady: some weak signal is left
            found["saturated" if feeds else "dead"].append((unit, int(evidence.steps[start])))
        for kind, units in found.items():
            unborn = [u for u, step in units if step == evidence.steps[0]]
            if len(unborn) < UNBORN * layer.size:
                units = [(u, step) for u, step in units if u not in unborn]
            yield from _by_step(kind, layer, units)


def _by_step(kind: str, layer: Layer, units: list[tuple[int, int]]) -> Iterator[Finding]:
    for step in sorted({s for _, s in units}):
        which = tuple(u for u, s in units if s == step)
        share = f"{len(which)} of {layer.size} units of {layer.name}"
        severity = "error" if len(units) >= layer.size / 2 else "warning"
        if kind == "dead":
            text = f"{share} ({listed(which)}) get no gradient from step {step} on: they compute nothing that learns."
            advice = "Try a lower learning rate, a smaller initial bias, or an activation that is never flat (leaky ReLU, GELU)."
        else:
            text = f"{share} ({listed(which)}) sit on the flat part of their activation from step {step} on: they feed a constant onwards."
            advice = "Try smaller initial weights, normalised inputs, or a normalisation before the activation."
        yield Finding(kind, layer.producer, which, step, severity, text, advice)


def _typical(updates: Array) -> Array:
    """(T,) median update of the units that move at all."""
    return np.asarray([np.median(row[row > 0]) if (row > 0).any() else 0.0 for row in updates])


def _since(quiet: NDArray[np.bool_], informative: NDArray[np.bool_]) -> int | None:
    """First index from which ``quiet`` holds at every informative frame to the end; None when it does not hold at the end."""
    loud = np.flatnonzero(informative & ~quiet)
    start = 0 if loud.size == 0 else int(loud[-1]) + 1
    return start if start < len(quiet) and informative[start:].any() else None


def _longest(flags: NDArray[np.bool_]) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _before_momentum(parallel: Array, norms: Array, start: int) -> int:
    """Walk back from the first quiet update over updates that are straight and shrinking: only momentum made them."""
    first = start
    while first > 0 and parallel[first - 1] >= PARALLEL and norms[first - 1] <= norms[max(first - 2, 0)]:
        first -= 1
    # the first straight update continues one that still had a gradient, or starts the glide itself: that one is pure momentum too
    return first - 1 if 0 < first < start else first


def copies(evidence: Evidence) -> Iterator[Finding]:
    """Units with the same incoming weights at the end: they get the same gradients for ever and work as one."""
    run, last = evidence.run, evidence.run.frames - 1
    values = {
        n: np.asarray(run[n][last], dtype=np.float64)
        for n in sorted({t for layer in evidence.layers for t in layer.tensors})
    }
    for layer in evidence.layers:
        if layer.size < 2:
            continue
        labels = twin_labels(gather(layer.incoming, values))
        sets = [np.flatnonzero(labels == label) for label in np.flatnonzero(np.bincount(labels) > 1)]
        if not sets or not _moves(evidence.units[layer.name]):
            continue
        units = tuple(int(u) for s in sets for u in s)
        step = int(evidence.steps[_copies_since(evidence, layer, sets)])
        if len(sets) == 1 and len(units) == layer.size:
            text = f"all {layer.size} units of {layer.name} have the same weights from step {step} on, so the layer is as good as one unit."
            yield Finding(
                "collapse",
                layer.producer,
                units,
                step,
                "error",
                text,
                "Start from random weights, not from zeros or a constant.",
            )
        else:
            text = f"{len(units)} of {layer.size} units of {layer.name} ({listed(units)}) are copies of each other from step {step} to the end."
            advice = "Copies never separate by themselves: split their outgoing weights unevenly (wl.widen does) or add a little noise once."
            yield Finding("replicas", layer.producer, units, step, "warning", text, advice)


def _moves(series: UnitSeries) -> bool:
    return any((row > 0).any() for row in series.incoming)


def _copies_since(evidence: Evidence, layer: Layer, sets: list[NDArray[np.int64]]) -> int:
    """Earliest frame (by bisection between the first and the last) at which all of ``sets`` are copies already."""

    def same(frame: int) -> bool:
        values = {n: np.asarray(evidence.run[n][frame], dtype=np.float64) for n in layer.tensors}
        labels = twin_labels(gather(layer.incoming, values))
        return all(len(set(labels[s])) == 1 for s in sets)

    low, high = 0, len(evidence.steps) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if same(middle) else (middle + 1, high)
    return low


UNIT_RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (dead_and_saturated, copies)

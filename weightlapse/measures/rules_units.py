"""Findings about single units: dead, saturated, copies of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.evidence import Evidence, UnitSeries
from weightlapse.measures.finding import Finding, listed
from weightlapse.measures.stream import Array, parts
from weightlapse.measures.units import Layer, gather, twin_labels

QUIET = 1e-6  # of the layer's median update: below it a unit gets no gradient (float32 rounding is 6e-8)
MUFFLED = 1e-3  # of the layer's median: tanh and sigmoid pass this little where they are flat (1 - tanh(4.2)^2)
ACTIVE = 1e-2  # of the layer's median: the outgoing weights still learn
SHORTEST = 20  # frames, and a tenth of the run: quiet for less is chance
LONGER = 4  # times the longest rest in the unit's life before: units that seldom fire rest often
LUCK = (
    1 / 3
)  # of a layer's units: fewer fall silent by and by in healthy trainings of small ReLU networks (measured on digits: up to 0.29)
FORCE = 20  # times the unit's own and its layer's usual update, or OUTLIER times the layer's usual size: these did not fall silent by themselves
OUTLIER = 5
WINDOW = 20  # frames that say what is usual for a unit
PARALLEL = 0.9995  # cosine of successive updates that only momentum explains: a gradient would turn them
GLIDE = (0.3, 0.97)  # by which factor such an update is shorter than the one before (0.9 for the usual momentum)
ROUNDED = 3e-6  # of the weights' size, fifty float32 roundings: below it the direction of an update is noise
FADED = 0.05  # of the layer's median: and only an update this small is taken for rounding


def dead_and_saturated(evidence: Evidence) -> Iterator[Finding]:
    """Units whose incoming weights get no gradient to the end of the run.

    A ReLU that is never on passes no gradient and feeds its consumers zeros: incoming and outgoing weights rest. A saturated
    tanh or sigmoid still feeds a constant: incoming weights rest, outgoing ones learn. Momentum goes on moving the weights for a
    while, straight on in ever shorter steps; that is seen for what it is, and the finding begins where the gradient ended.
    """
    for layer in evidence.layers:
        series = evidence.units[layer.name]
        if len(series.incoming) < SHORTEST:
            continue
        incoming = np.stack(series.incoming)  # (T - 1, units); row i is the update from frame i to i + 1
        outgoing = np.stack(series.outgoing) if series.outgoing else None
        size = np.stack(series.size)
        typical = _typical(incoming)
        informative = typical > 0
        needed = max(SHORTEST, len(incoming) // 10)
        glide = _glides(series, incoming, typical)
        rest = (incoming <= QUIET * typical[:, None]) | glide
        dull = (incoming <= MUFFLED * typical[:, None]) | glide
        live_out = None if outgoing is None else outgoing > ACTIVE * _typical(outgoing)[:, None]
        found: dict[str, list[tuple[int, int, bool]]] = {"dead": [], "saturated": []}
        for unit in range(layer.size):
            quiet = rest[:, unit] if live_out is None else np.where(live_out[:, unit], dull[:, unit], rest[:, unit])
            start = _since(quiet, informative)
            if start is None or informative[start:].sum() < max(
                needed, LONGER * _longest(quiet[:start] & informative[:start])
            ):
                continue
            jump = _jumped(incoming[:, unit], glide[:, unit], start)
            start -= jump
            by_force = bool(jump or _forced(incoming[:, unit], typical, size[:, unit], np.median(size, axis=1), start))
            feeds = (
                live_out is not None
                and "relu" not in layer.ops
                and live_out[-needed:, unit][informative[-needed:]].mean() > 0.5
            )
            found["saturated" if feeds else "dead"].append((unit, int(evidence.steps[start]), by_force))
        for kind, units in found.items():
            forced = [(u, step) for u, step, by_force in units if by_force]
            gradual = [(u, step) for u, step, by_force in units if not by_force]
            for step in sorted({step for _, step in forced}):
                yield _silent(kind, layer, [u for u, s in forced if s == step], step)
            if gradual and len(units) >= LUCK * layer.size:
                yield _silent(kind, layer, [u for u, _ in gradual], min(step for _, step in gradual))


def _silent(kind: str, layer: Layer, units: list[int], step: int) -> Finding:
    share = f"{len(units)} of {layer.size} units of {layer.name}"
    severity = "error" if len(units) >= layer.size / 2 else "warning"
    if kind == "dead":
        text = f"{share} ({listed(units)}) get no gradient, the first from step {step} on: they compute nothing that learns."
        advice = (
            "Try a lower learning rate, a smaller initial bias, or an activation that is never flat (leaky ReLU, GELU)."
        )
    else:
        text = f"{share} ({listed(units)}) sit on the flat part of their activation, the first from step {step} on: they feed a constant onwards."
        advice = "Try smaller initial weights, normalised inputs, or a normalisation before the activation."
    return Finding(kind, layer.producer, tuple(units), step, severity, text, advice)


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


def _glides(series: UnitSeries, incoming: Array, typical: Array) -> NDArray[np.bool_]:
    """(T - 1, units) updates that momentum alone made: straight on and shorter, or lost in rounding on the way down."""
    ratio = np.full_like(incoming, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio[1:] = incoming[1:] / incoming[:-1]
        straight = (np.stack(series.parallel) >= PARALLEL) & (ratio >= GLIDE[0]) & (ratio <= GLIDE[1])
    rounded = (incoming <= ROUNDED * np.stack(series.size)) & (incoming <= FADED * typical[:, None])
    return np.asarray(straight | rounded)


def _forced(norms: Array, typical: Array, size: Array, usual: Array, start: int) -> bool:
    """Whether the unit was thrown: a jump just before it fell silent, or weights far larger than its neighbours' from there on."""
    before = norms[max(0, start - WINDOW) : max(0, start - 1)]
    jump = norms[max(0, start - 1) : start + 1].max(initial=0.0)
    around = slice(max(0, start - 1), start + 1)
    usually = max(float(np.median(before)), float(typical[around].max())) if before.size >= 5 else 0.0
    return bool((usually > 0 and jump > FORCE * usually) or size[start] > OUTLIER * usual[start])


def _jumped(norms: Array, glide: NDArray[np.bool_], start: int) -> int:
    """1 when the update before a glide also had no gradient, but a jump of the weights hid it; else 0.

    A weight that is set from outside shows as a huge update; the glide is seen only from the second update after it.
    """
    return int(start >= 2 and glide[start] and not glide[start - 1] and norms[start - 2] > 10 * norms[start - 1])


def copies(evidence: Evidence) -> Iterator[Finding]:
    """Units with the same incoming weights at the end: they get the same gradients for ever and work as one."""
    run, last = evidence.run, evidence.run.frames - 1
    values = {
        n: np.asarray(parts(np.asarray(run[n][last])), dtype=np.float64)
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
        values = {n: np.asarray(parts(np.asarray(evidence.run[n][frame])), dtype=np.float64) for n in layer.tensors}
        labels = twin_labels(gather(layer.incoming, values))
        return all(len(set(labels[s])) == 1 for s in sets)

    low, high = 0, len(evidence.steps) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if same(middle) else (middle + 1, high)
    return low


UNIT_RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (dead_and_saturated, copies)

"""Findings that rest on what the recorder saw besides the weights, or on what several tensors show together: saturation, decay, ties."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from weightlapse.measures.evidence import Evidence
from weightlapse.measures.finding import Finding, curve, listed
from weightlapse.measures.observed import Activation
from weightlapse.measures.rule import Rule, rule
from weightlapse.measures.units import Layer

FLAT = 0.8  # of the values of a hidden layer on the flat part: healthy tanh networks stay below a half
LOOKS = 3  # in a row, up to the last one
MEMORY = 500  # optimizer steps after which decay has taken 63 % of a weight: usual is ten thousand and more
SHORT = 200  # and so few of them are too few whatever the size of the weights
SHRUNK = 0.5  # of its norm at the start
INWARD = 0.9  # cosine of an update and minus the weights: nothing but shrinking
LONG = 20  # frames


@rule(
    "dead", "saturated",
    found="every unit of a ReLU layer is off, or four fifths of the values of a tanh or sigmoid lie on its flat part, at each of the last looks",
    direct="the activations themselves, on the example, in eval mode, at a few frames",
    blind="anything without `example=`, and frameworks other than torch and Keras; what other inputs would do; activations inside recurrent layers; in Keras "
    "what is no layer's activation (`keras.ops.relu` in a call of one's own), and a training in which a compiled function tells of the updates",
)  # fmt: skip
def flat_layers(evidence: Evidence) -> Iterator[Finding]:
    """Layers that the example shows on the flat part of their activation."""
    silent: set[str] = set()  # weights that read a dead layer
    for (module, op, _), looks in evidence.observed.activations.items():
        layer = next((layer for layer in evidence.layers if layer.has(module)), None)
        if layer is None or not layer.outgoing:
            continue  # an output may be as sure as it likes
        relu = op in ("relu", "hardtanh")
        flags = [a.all_off if relu else a.flat >= FLAT for _, a in looks]
        count = _last_in_a_row(flags)
        if count < min(LOOKS, len(flags)) or len(flags) < LOOKS:
            continue
        if relu and layer.producer in silent:
            evidence.explained |= layer.tensors
            silent |= {p.tensor for p in layer.outgoing}
            continue  # what it reads is zero: the layer before is the one that is dead
        if relu:
            silent |= {p.tensor for p in layer.outgoing}
        yield _flat(evidence, layer, op, looks, len(looks) - count)


def _last_in_a_row(flags: list[bool]) -> int:
    count = 0
    while count < len(flags) and flags[-1 - count]:
        count += 1
    return count


def _flat(evidence: Evidence, layer: Layer, op: str, looks: list[tuple[int, Activation]], first: int) -> Finding:
    step, seen = looks[first][0], looks[-1][1]
    share = curve(
        f"share of values of {layer.name} where {op} is flat", [s for s, _ in looks], [a.flat for _, a in looks]
    )
    if op in ("relu", "hardtanh"):
        evidence.is_dead(layer)
        text = f"{seen.units} of {seen.units} units of {layer.name} are off for every example from step {step} on: nothing behind them sees the input."
        advice = (
            "Try a lower learning rate, a smaller initial bias, or an activation that is never flat (leaky ReLU, GELU)."
        )
        return Finding("dead", layer.producer, tuple(range(layer.size)), step, "error", text, advice, (share,))
    evidence.explained |= evidence.up_to(layer) - {p.tensor for p in layer.outgoing}
    text = f"{seen.flat:.0%} of the values of {layer.name} lie on the flat part of {op}, from step {step} on: hardly any gradient passes."
    advice = "Try smaller initial weights, normalised inputs, or a normalisation before the activation."
    units = tuple(sorted(seen.off))
    return Finding("saturated", layer.producer, units, step, "error" if seen.flat > 0.9 else "warning", text, advice, (share,))  # fmt: skip


@rule(
    "decay_dominated",
    found="decay takes two thirds of a weight in fewer than 200 steps, or 500 where matrices are down to half; or updates point at the origin for 20 frames",
    direct="the optimizer's own rate and decay, as seen while recording; without them the angle between update and weights",
    blind="decay inside Adam's gradient (not AdamW), which its second moment normalises; optimizers other than torch's and Keras's; decay that a gradient outweighs",
)  # fmt: skip
def decay_dominated(evidence: Evidence) -> Iterator[Finding]:
    """Weights that forget what they learned faster than they learn."""
    matrices = [n for n in evidence.names if len(evidence.run.shapes[n]) >= 2 and evidence.tensors[n].nonfinite is None]
    hit: list[tuple[str, int, float]] = []
    for name in matrices:
        series = evidence.tensors[name]
        norm, inward = np.asarray(series.norm), np.asarray(series.inward)
        if len(norm) < LONG or not norm[0] > 0:
            continue
        rate = evidence.observed.decay(name, evidence.steps)
        small = np.flatnonzero(norm < SHRUNK * norm[0])
        shrunk, per_step = bool(small.size) and norm[-1] < SHRUNK * norm[0], float(np.median(rate))
        known = per_step * (MEMORY if shrunk else SHORT) > 1 and per_step * np.ptp(evidence.steps) > 1
        last = inward[-LONG:][~np.isnan(inward[-LONG:])]  # nothing is told by updates that are none
        straight = shrunk and len(inward) >= LONG and bool(last.size) and float(last.min()) > INWARD
        if known or straight:
            since = int(evidence.steps[small[0]]) if shrunk else int(evidence.steps[0])
            hit.append((name, since, per_step if known else float(np.nanmedian(series.shrink[-LONG:]))))
    if not hit or len(hit) < len(matrices) / 2:
        return
    name, step, rate_of = max(hit, key=lambda h: h[2])
    norm = np.asarray(evidence.tensors[name].norm)
    text = (
        f"weight decay takes {rate_of:.1%} of {name} at every step and has brought its norm from {norm[0]:.3g} to {norm[-1]:.3g}: the weights "
        f"remember about {1 / max(rate_of, 1e-12):.0f} steps. So do {len(hit)} of {len(matrices)} matrices."
    )
    advice = "Lower weight_decay (AdamW: 0.01 to 0.1 is usual), or the learning rate that it is multiplied with."
    shown = curve(f"norm of {name}", evidence.steps, norm)
    yield Finding("decay_dominated", name, (), step, "warning", text, advice, (shown,))


@rule(
    "tied",
    found="two layers of the same kind share one tensor, or two matrices are equal at every frame while they learn",
    direct="the model's own names for its tensors, as seen while recording; else the values of all frames",
    blind="the purpose: weights that are shared on purpose by two layers of a kind; not taken for one: an embedding read out by its transpose, and what "
    "`_tied_weights_keys` declares",
)  # fmt: skip
def tied(evidence: Evidence) -> Iterator[Finding]:
    """Layers that learn as one."""
    pairs = [(a, b) for a, b in evidence.observed.shared if a in evidence.names or b in evidence.names]
    together: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for a, b in [*pairs, *(p for p in _equal(evidence) if p not in pairs)]:
        together.setdefault(_owners(a, b), []).append((a, b))
    for (here, there), shared in together.items():
        name = shared[0][0]
        both = f"{name} and {shared[0][1]} are one and the same tensor"
        what = f"{here} and {there} share {listed([a for a, _ in shared], 4)}" if len(shared) > 1 else both
        text = f"{what}: these layers learn as one."
        advice = (
            "If that is not meant, make each layer by itself: [Linear(8, 8) for _ in range(3)], not [Linear(8, 8)] * 3."
        )
        yield Finding("tied", name, (), int(evidence.steps[0]), "warning", text, advice)


def _owners(a: str, b: str) -> tuple[str, str]:
    """The parts of two names that differ, with what is before: ``blocks.0`` and ``blocks.1`` of ``blocks.0.q.weight`` and ``blocks.1.q.weight``."""
    first, second = a.split("."), b.split(".")
    while len(first) > 1 and len(second) > 1 and first[-1] == second[-1]:
        first.pop(), second.pop()
    return ".".join(first), ".".join(second)


def _equal(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Pairs of matrices that have the same values at every frame, and move."""
    seen: dict[tuple[object, ...], str] = {}
    for name in evidence.names:
        series, shape = evidence.tensors[name], tuple(evidence.run.shapes[name])
        if len(shape) < 2 or min(shape) < 2 or series.nonfinite is not None or not np.nansum(series.update) > 0:
            continue
        sums = (
            f"{x:.6g}" for x in (series.norm.sum(), np.nansum(series.update))
        )  # made in any order: not to the last bit
        key = (shape, series.largest.tobytes(), *sums)
        other = seen.setdefault(key, name)
        if other != name:
            frames = sorted({0, evidence.run.frames // 2, evidence.run.frames - 1})
            if all(np.array_equal(evidence.run[name][k], evidence.run[other][k]) for k in frames):
                yield other, name


OBSERVED_RULES: tuple[Rule, ...] = (flat_layers, decay_dominated, tied)

"""Findings about single units: dead, saturated, copies of each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.evidence import Evidence
from weightlapse.measures.finding import Finding, curve, listed
from weightlapse.measures.rule import Rule, rule
from weightlapse.measures.series import GLIDE, ROUNDINGS, STRAIGHT, rounding
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
ROUNDED = 3e-6  # of the weights' size, fifty float32 roundings: below it the direction of an update is noise
GLANCE = 4  # updates at the end that clear most layers
FADED = 0.05  # of the layer's median: and only an update this small is taken for rounding


@rule(
    "dead", "saturated",
    found="units get no gradient to the end: a third of a layer or more, or any number that a jump or outlying weights threw there",
    direct="the update of a unit is exactly what momentum and decay make of the last one, to rounding, while other weights learn; dead: the weights that "
    "read it rest too; saturated: they learn. A gradient or an activation that was seen at the time overrules it",
    blind="units that only the example leaves unused; a layer that a lossy recording (`tolerance=`) shows at rest; whole layers of a recording without "
    "a wiring; a training that has converged as a whole, in which nothing tells a dead unit from one that is done",
)  # fmt: skip
def dead_and_saturated(evidence: Evidence) -> Iterator[Finding]:
    """Units whose incoming weights get no gradient to the end of the run.

    A ReLU that is never on passes no gradient and feeds its consumers zeros: incoming and outgoing weights rest. A saturated
    tanh or sigmoid still feeds a constant: incoming weights rest, outgoing ones learn. Momentum goes on moving the weights for a
    while, straight on in ever shorter steps; that is seen for what it is, and the finding begins where the gradient ended.
    """
    if evidence.run.tolerance is not None or len(evidence.steps) <= SHORTEST:
        return
    states = {x.name: state for x in evidence.layers if (state := _suspected(evidence, x)) is not None}
    layers = [layer for layer in evidence.layers if layer.name in states]
    silent = {layer.name for layer in layers if (state := states[layer.name]).informative.any() and state.whole()}
    for layer in layers:
        state = states[layer.name]
        if layer.producer in evidence.explained:
            continue
        if layer.name in silent:
            if _cut_off(evidence, layer, silent):
                evidence.is_dead(layer)
                step = int(evidence.steps[state.since()])
                yield _silent("dead", evidence, layer, state, list(range(layer.size)), step)
            continue
        found: dict[str, list[tuple[int, int, bool]]] = {"dead": [], "saturated": []}
        for unit in range(layer.size):
            judged = _judge(evidence, layer, state, unit)
            if judged is not None:
                found[judged[0]].append(judged[1])
        for kind, units in found.items():
            forced = [(u, step) for u, step, by_force in units if by_force]
            gradual = [(u, step) for u, step, by_force in units if not by_force]
            for step in sorted({step for _, step in forced}):
                yield _silent(kind, evidence, layer, state, [u for u, s in forced if s == step], step)
            if gradual and len(units) >= LUCK * layer.size and layer.name not in evidence.constant:
                first = min(step for _, step in gradual)
                yield _silent(kind, evidence, layer, state, [u for u, _ in gradual], first)


@dataclass
class _State:
    """(T - 1, units) arrays of a layer: what moves, what rests, and (T - 1,) at which frames that says something."""

    incoming: Array
    size: Array
    typical: Array
    informative: NDArray[np.bool_]
    glide: NDArray[np.bool_]
    rest: NDArray[np.bool_]
    dull: NDArray[np.bool_]
    live_out: NDArray[np.bool_] | None

    @property
    def needed(self) -> int:
        return max(SHORTEST, len(self.incoming) // 10)

    def suspicious(self) -> bool:
        """Whether some unit is quiet whenever anything is told."""
        told = (self.informative & (self.typical > 0))[:, None]
        quiet = self.rest if self.live_out is None else np.where(self.live_out, self.dull, self.rest)
        return not (told & ~quiet).any(axis=0).all()

    def whole(self) -> bool:
        """Whether all units rest to the end, for long enough to say so, and the weights that read them too."""
        start = _since(np.asarray(self.rest.all(axis=1)), self.informative)
        still = self.live_out is not None and start is not None and not self.live_out[start:].any()
        return bool(still and self.informative[start:].sum() >= self.needed)

    def since(self) -> int:
        start = _since(np.asarray(self.rest.all(axis=1)), self.informative) or 0
        return start - max(_jumped(norms, glide, start) for norms, glide in zip(self.incoming.T, self.glide.T))


def _suspected(evidence: Evidence, layer: Layer) -> _State | None:
    """What of a layer moves, where it may have units that get no gradient to the end; None where its last updates show that it has none.

    A unit that is loud among as many updates as it would have to be quiet for is not quiet: so a few at the end are enough for most layers.
    """
    count = len(evidence.steps) - 1
    for last in (GLANCE, max(SHORTEST, count // 10)):
        if last < count:
            state = _state(evidence, layer, count - last)
            if state is None or not state.suspicious():
                return None
    return _state(evidence, layer, 0)


def _state(evidence: Evidence, layer: Layer, first: int) -> _State | None:
    """From update number ``first`` on; None where these were too many to read."""
    known = evidence.moves(layer, first, f"the units of {layer.name}")
    if known is None:
        return None
    into, out = known
    typical, eps = _typical(into.length), rounding(str(evidence.run.dtypes[layer.producer]))
    glide = _glides(into.length, into.aside, into.size, typical, eps)
    live_out = None
    if out is not None:
        usual = _typical(out.length)
        live_out = (out.length > ACTIVE * usual[:, None]) & ~_glides(out.length, out.aside, out.size, usual, eps)
    rest, dull = ((into.length <= share * typical[:, None]) | glide for share in (QUIET, MUFFLED))
    cut = slice(int(first > 0), None)  # the one before the first was looked at for the sake of the first
    return _State(
        *(into.length[cut], into.size[cut], typical[cut], evidence.learning(first)),
        *(glide[cut], rest[cut], dull[cut], None if live_out is None else live_out[cut]),
    )


def _judge(evidence: Evidence, layer: Layer, state: _State, unit: int) -> tuple[str, tuple[int, int, bool]] | None:
    """(kind, (unit, step, whether it was thrown)) of a unit that gets no gradient to the end; None where it does or where that is not sure."""
    glide, live_out, informative = state.glide, state.live_out, state.informative & (state.typical > 0)
    quiet = (
        state.rest[:, unit]
        if live_out is None
        else np.where(live_out[:, unit], state.dull[:, unit], state.rest[:, unit])
    )
    start = _since(quiet, informative)
    longest = 0 if start is None else LONGER * _longest(quiet[:start] & informative[:start])
    if start is None or informative[start:].sum() < max(state.needed, longest):
        return None
    jump = _jumped(state.incoming[:, unit], glide[:, unit], start)
    start -= jump
    size = state.size
    by_force = bool(
        jump
        or _forced(state.incoming[:, unit], state.typical, size[:, unit], float(np.median(size[min(start, len(size) - 1)])), start)
    )  # fmt: skip
    if not by_force and _keeps_pace(state.incoming[start:, unit], state.typical[start:]):
        return None
    told = informative[start:]  # never empty: enough of these frames say something
    feeds = live_out is not None and live_out[start:, unit][told][-state.needed :].mean() > 0.5
    kind = "saturated" if feeds and "relu" not in layer.ops else "dead"
    step = int(evidence.steps[start])
    if kind == "dead" and (feeds or _seen_alive(evidence, layer, unit, step)):
        return None  # a ReLU that feeds something is on
    return kind, (unit, step, by_force)


def _seen_alive(evidence: Evidence, layer: Layer, unit: int, step: int) -> bool:
    """Whether the unit was seen with a gradient, or on for an example, after ``step``."""
    seen = evidence.observed
    place = layer.incoming[0]
    if place.axis == 0 and place.index.shape[1] == 1 and place.where is None:
        row = int(place.index[unit, 0])
        if any(row not in without for at, without in seen.without.get(place.tensor, ()) if at > step):
            return True
    for (name, op, _), looks in seen.activations.items():
        if op == "relu" and layer.has(name):
            return any(unit not in a.off for at, a in looks if at > step and a.units == layer.size)
    return False


def _cut_off(evidence: Evidence, layer: Layer, silent: set[str]) -> bool:
    """Whether a layer at rest is where the gradient ends: what reads it is at rest, and beside that something of its reader learns."""
    read = {p.tensor for p in layer.outgoing}
    readers = [x for x in evidence.layers if x.name != layer.name and read & {p.tensor for p in x.incoming}]
    if any(reader.name in silent for reader in readers):
        return False  # the gradient ends later, and this is a consequence
    beside = {p.tensor for reader in readers for p in reader.incoming} | {
        n for t in read for n in evidence.names if n.rpartition(".")[0] == t.rpartition(".")[0]
    }
    half = len(evidence.steps) // 2
    return any(evidence.has_gradient(n, half) for n in sorted(beside - read))


def _silent(kind: str, evidence: Evidence, layer: Layer, state: _State, units: list[int], step: int) -> Finding:
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
    at = int(np.searchsorted(evidence.steps, step))
    curves = [curve(f"update of unit {units[0]} of {layer.name}", evidence.steps[1:], state.incoming[:, units[0]], at)]
    others = np.delete(state.incoming, units, axis=1)
    if others.size:
        curves.append(
            curve(
                f"median update of the other units of {layer.name}", evidence.steps[1:], np.median(others, axis=1), at
            )
        )
    return Finding(kind, layer.producer, tuple(units), step, severity, text, advice, tuple(curves))


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


def _glides(moves: Array, aside: Array, size: Array, typical: Array, eps: float) -> NDArray[np.bool_]:
    """(T - 1, units) updates that momentum alone made: straight on to rounding and shorter, or lost in rounding on the way down."""
    ratio = np.full_like(moves, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio[1:] = moves[1:] / moves[:-1]
        straight = aside <= np.maximum(STRAIGHT * moves, ROUNDINGS * eps * size)
        shorter = (ratio >= GLIDE[0]) & (ratio <= GLIDE[1])
    rounded = (moves <= ROUNDED * eps / 2.0**-24 * size) & (moves <= FADED * typical[:, None])
    return np.asarray((straight & shorter) | rounded)


def _forced(norms: Array, typical: Array, size: Array, usual: float, start: int) -> bool:
    """Whether the unit was thrown: a jump just before it fell silent, or weights far larger than its neighbours' from there on."""
    before = norms[max(0, start - WINDOW) : max(0, start - 1)]
    jump = norms[max(0, start - 1) : start + 1].max(initial=0.0)
    around = slice(max(0, start - 1), start + 1)
    usually = max(float(np.median(before)), float(typical[around].max())) if before.size >= 5 else 0.0
    return bool((usually > 0 and jump > FORCE * usually) or size[min(start, len(size) - 1)] > OUTLIER * usual)


def _keeps_pace(norms: Array, typical: Array) -> bool:
    """Whether a unit's updates shrink with those of its layer: a training that converges goes straight on in ever shorter steps too, all of it at one pace.
    What momentum alone moves falls behind the others from the first step on, until it is lost in rounding."""
    some = np.flatnonzero((norms > QUIET * typical) & (typical > 0))[:SHORTEST]
    if len(some) < SHORTEST:
        return False
    first, last = norms[some[[0, -1]]] / typical[some[[0, -1]]]
    return bool((last / first) ** (1 / (some[-1] - some[0])) > GLIDE[1])


def _jumped(norms: Array, glide: NDArray[np.bool_], start: int) -> int:
    """1 when the update before a glide also had no gradient, but a jump of the weights hid it; else 0.

    A weight that is set from outside shows as a huge update; the glide is seen only from the second update after it.
    """
    return int(start >= 2 and glide[start] and not glide[start - 1] and norms[start - 2] > 10 * norms[start - 1])


@rule(
    "replicas", "collapse",
    found="some, or all, units of a layer are copies to the end",
    direct="their incoming weights are equal to 1e-6 at the last frame, and since when is sought in the frames before",
    blind="units that compute the same with other weights: behind a scale, a sign, or on this data alone",
)  # fmt: skip
def copies(evidence: Evidence) -> Iterator[Finding]:
    """Units with the same incoming weights at the end: they get the same gradients for ever and work as one."""
    last = evidence.run.frames - 1
    for layer in evidence.layers:
        into = sorted({p.tensor for p in layer.incoming})
        if layer.size < 2 or not any(np.nansum(evidence.tensors[name].update) > 0 for name in into):
            continue
        cost = sum(evidence.reading.cost_at(name, last, last + 1) for name in into)
        if not evidence.reading.may(cost, f"whether units of {layer.name} are copies"):
            continue
        values = _at(evidence, layer, last)
        labels = twin_labels(gather(layer.incoming, values))
        sets = [np.flatnonzero(labels == label) for label in np.flatnonzero(np.bincount(labels) > 1)]
        if not sets or not _moves(evidence, layer, values):
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


def _at(evidence: Evidence, layer: Layer, frame: int) -> dict[str, Array]:
    """The incoming weights of a layer at a frame of the recording."""
    names = sorted({p.tensor for p in layer.incoming})
    return {n: np.asarray(parts(np.asarray(evidence.run[n][frame])), dtype=np.float64) for n in names}


def _moves(evidence: Evidence, layer: Layer, last: dict[str, Array]) -> bool:
    """Whether the layer itself moves, and not only what else its tensors hold."""
    if any(p.where is None and np.nansum(evidence.tensors[p.tensor].update) > 0 for p in layer.incoming):
        return True
    return not np.array_equal(gather(layer.incoming, _at(evidence, layer, 0)), gather(layer.incoming, last))


def _copies_since(evidence: Evidence, layer: Layer, sets: list[NDArray[np.int64]]) -> int:
    """Earliest frame (by bisection between the first and the last) at which all of ``sets`` are copies already."""

    def same(frame: int) -> bool:
        labels = twin_labels(gather(layer.incoming, _at(evidence, layer, frame)))
        return all(len(set(labels[s])) == 1 for s in sets)

    low, high = 0, len(evidence.steps) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if same(middle) else (middle + 1, high)
    return low


UNIT_RULES: tuple[Rule, ...] = (dead_and_saturated, copies)

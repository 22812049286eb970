"""Findings about tensors and the whole run: NaN, explosions, frozen parts, learning rate, loss spikes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.autopsy import Autopsy, autopsies
from weightlapse.measures.evidence import Evidence
from weightlapse.measures.finding import Finding, curve, listed
from weightlapse.measures.rule import Rule, rule

EXPLODED = 10.0  # times its norm at the start, for a matrix; trained networks grow by 2 or 3
HUGE = 100.0  # times a matrix that keeps lengths: no task asks for this, a normalisation or a loss without end may allow it
HELD_OUT = ("val", "test", "eval")  # in the name of a loss on data that is not trained on, which may rise
VANISHED = 1e-3  # of the network's median update ratio, for a matrix
RATIO_HIGH = (
    5e-2  # update per step over weight: 1e-3 is the usual rule of thumb, monitors of live training warn above 5e-2
)
RATIO_LOW = 1e-6  # and below 1e-6
WILD_FIRST = 0.5  # of a weight matrix at one of its first five steps: what it was made with is lost
FROZEN = 0.5  # of the run without any change, after having changed
WINDOW = 20  # frames of loss before a spike
RUNAWAY = 1e4  # times its start (at least 1): a running variance beyond this has lost its data
STEADY = 0.7  # net displacement over path length: below it a weight wanders, above it it marches
FAST = 0.6  # of the fastest weight of the tensor
MARCHING_STEPS = 500  # optimizer steps before marching is more than the start of a training


@rule(
    "nonfinite",
    found="NaN or Inf among the weights",
    direct="the values, with their coordinates and the first frame",
    blind="the gradient that made them, unless it is recorded",
)  # fmt: skip
def nonfinite(evidence: Evidence) -> Iterator[Finding]:
    """NaN and Inf, with the first step and their places."""
    for name, series in evidence.tensors.items():
        if series.nonfinite is None:
            continue
        frame, places = series.nonfinite
        step = int(evidence.run.steps[frame])
        shape = tuple(evidence.run.shapes[name])
        flat = np.ravel_multi_index(tuple(places.T), shape) if shape else np.zeros(len(places), dtype=np.int64)
        where = listed([tuple(int(i) for i in p) for p in places], 4)
        text = (
            f"{len(places)} of {int(np.prod(shape))} values of {name} are NaN or Inf from step {step} on, at {where}."
        )
        advice = "Look at the update before it (a too large step, a log or division of zero, float16 overflow); clip gradients or lower the rate."
        yield Finding("nonfinite", name, tuple(int(i) for i in flat[:1000]), step, "error", text, advice)


def _matrices(evidence: Evidence) -> list[str]:
    return [n for n in evidence.names if len(evidence.run.shapes[n]) >= 2 and evidence.tensors[n].nonfinite is None]


def _moved(evidence: Evidence, name: str) -> NDArray[np.bool_]:
    return np.asarray(np.nan_to_num(evidence.tensors[name].update) > 0)


@rule(
    "exploding",
    found="a matrix norm beyond 10 times its start, to the end (of one that starts at zero: the usual start of the others); a note where the growth slowed down "
    "at a usual size and every logged training loss fell all the while, ever slower",
    direct="the norm, and the logged losses",
    blind="growth that a normalisation behind it takes back",
)  # fmt: skip
def exploding(evidence: Evidence) -> Iterator[Finding]:
    """A matrix whose norm passed ten times its start, and is there still."""
    matrices = _matrices(evidence)
    starts = {n: float(evidence.tensors[n].norm[0]) / _directions(evidence, n) for n in matrices}
    usual = float(np.median([s for s in starts.values() if s > 0] or [0.0]))
    for name in matrices:
        norm = np.asarray(evidence.tensors[name].norm)
        start = float(norm[0]) or usual * _directions(evidence, name)
        if start > 0 and norm[-1] > EXPLODED * start:
            step = int(evidence.steps[np.flatnonzero(norm <= EXPLODED * start)[-1] + 1])
            passed = "its start" if norm[0] > 0 else "the usual start of the other matrices"
            text = f"the norm of {name} grew from {norm[0]:.3g} to {norm[-1]:.3g}, past {EXPLODED:.0f} times {passed} at step {step}."
            advice = "Lower the learning rate, clip gradients, or add weight decay."
            severity = "error"
            if norm[-1] < HUGE * _directions(evidence, name) and _slows_down(norm) and _learns(evidence):
                severity = "note"
                text += " The loss fell all the while and the growth slowed down: the weights grow with what is learnt."
                advice = "Nothing, if the classes can be told apart entirely; weight decay keeps the weights smaller."
            yield Finding(
                "exploding", name, (), step, severity, text, advice, (curve(f"norm of {name}", evidence.steps, norm),)
            )


def _directions(evidence: Evidence, name: str) -> float:
    """The norm of a matrix of this shape that keeps lengths as they are: the root of its shorter side, whichever axis holds the units."""
    first, *_, last = shape = evidence.run.shapes[name]
    units = max(first, last)
    return float(np.sqrt(max(1, min(units, int(np.prod(shape)) // max(1, units)))))


def medians_of_others(values: list[float]) -> list[float]:
    """For each of two or more numbers the median of all but it.

    >>> medians_of_others([1.0, 9.0, 5.0])
    [7.0, 3.0, 5.0]
    """
    order = np.argsort(values, kind="stable")
    rising, rank = np.asarray(values)[order], np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values))
    low, high = (
        (len(values) - 2) // 2,
        (len(values) - 1) // 2,
    )  # the middle of the others, counted without the one left out
    pair = [rising[middle + (middle >= rank)] for middle in (low, high)]
    return [float(np.mean(two)) for two in zip(*pair)]


def _slows_down(norm: NDArray[np.float64]) -> bool:
    """Whether the second half of the run multiplied the norm by less than the square root of what the first half did."""
    begun = norm[norm > 0]
    first, second = (
        np.log(b / a) for a, b in ((begun[0], begun[len(begun) // 2]), (begun[len(begun) // 2], begun[-1]))
    )
    return bool(second < first / 2)


def _learns(evidence: Evidence) -> bool:
    """Whether a training loss was logged, and each fell all the while: it never stood above twice its first number, ends below half of it and
    below each earlier fifth of the run (by their medians), and fell less in the second half than in the first. A loss without a lower bound,
    which weights that grow bring down for ever, does not slow down."""
    scalars = evidence.run.scalars
    losses = [n for n in scalars if "loss" in n.lower() and not any(held in n.lower() for held in HELD_OUT)]
    return bool(losses) and all(_falls(np.asarray(scalars[label], dtype=np.float64)) for label in losses)


def _falls(values: NDArray[np.float64]) -> bool:
    values = values[~np.isnan(values)]
    if len(values) < 20 or not np.isfinite(values).all():
        return False
    first, *_, middle, _, last = fifths = [float(np.median(part)) for part in np.array_split(values, 5)]
    start = float(np.median(values[:3]))
    lower = last < min(fifths[:-1]) and last < start - abs(start) / 2 and last < first / 2
    return lower and values.max() < start + abs(start) and middle - last < start - middle


@rule(
    "vanishing",
    found="a matrix moves at a thousandth of the pace of the others",
    direct="the median update over the weights",
    blind='small gradients that Adam brings to the usual size: record `streams=("weights", "gradients")`',
)  # fmt: skip
def vanishing(evidence: Evidence) -> Iterator[Finding]:
    """A matrix that moves a thousandth as fast, relative to its size, as the others."""
    typical = {
        n: float(np.nanmedian(r))
        for n in _matrices(evidence)
        if np.isfinite(r := evidence.ratio(n)).any() and _moved(evidence, n).any()
    }
    if len(typical) < 2:
        return
    others_of = medians_of_others(list(typical.values()))
    for (name, value), others in zip(typical.items(), others_of):
        if 0 < value < VANISHED * others:
            text = f"{name} moves by {value:.1e} of its size per step, the other matrices by {others:.1e}: hardly any gradient reaches it."
            advice = "Use normalisation, residual connections, or an initialisation that keeps the signal's size through the layers."
            if name in evidence.explained:
                continue
            shown = curve(f"update over weights of {name}", evidence.steps, evidence.ratio(name))
            yield Finding("vanishing", name, (), int(evidence.steps[0]), "warning", text, advice, (shown,))


@rule(
    "never_updated", "frozen",
    found="the same at every frame; the same for the last half of the run, while others learn",
    direct="every value of the tensor; weights that were seen to take no gradient are left out, and a later freeze on purpose is a note",
    blind="the purpose, where the model is not a torch module or was recorded without optimizer and example",
)  # fmt: skip
def unmoved(evidence: Evidence) -> Iterator[Finding]:
    """Tensors that never change while others do, and tensors that stop."""
    moved = {n: _moved(evidence, n) for n in evidence.names}
    if len(evidence.steps) < 3 or not any(m.any() for m in moved.values()):
        return
    last_of_all = max(int(np.flatnonzero(m)[-1]) for m in moved.values() if m.any())
    stream = getattr(evidence.run, "streams", {})
    for name, m in moved.items():
        passive = "running_" in name or stream.get(name, "weights") == "buffers" or name in evidence.explained
        if passive or evidence.tensors[name].nonfinite is not None:
            continue
        shown = (curve(f"update of {name}", evidence.steps[1:], evidence.tensors[name].update[1:]),)
        if not m.any():
            if evidence.observed.frozen and name in evidence.observed.frozen[0][1]:
                continue  # it takes no gradient, on purpose
            text = f"{name} is the same at every one of {len(m)} frames, while other tensors learn."
            advice = "If that is not meant, check that the optimizer has it, that it requires a gradient, and that the loss depends on it."
            yield Finding("never_updated", name, (), int(evidence.steps[0]), "warning", text, advice, shown)
            continue
        last = int(np.flatnonzero(m)[-1])
        if last_of_all - last >= max(3, FROZEN * len(m)):
            step = int(evidence.steps[last])
            text = f"{name} does not change after step {step}, while others learn up to step {int(evidence.steps[last_of_all])}"
            if evidence.observed.frozen_after(name, step):
                yield Finding("frozen", name, (), step, "note", f"{text}: it takes no gradient any more.", "Nothing, where it was meant.", shown)  # fmt: skip
                continue
            advice = "If it was not frozen on purpose, look at what changed at that step."
            yield Finding("frozen", name, (), step, "warning", f"{text}.", advice, shown)


@rule(
    "lr_high", "lr_low",
    found="every fourth step changes a matrix by more than 5 % (10 % five times on end); a typical one by less than 1e-6",
    direct="the update over the weights; 1e-3 is the usual rule of thumb",
    blind="what is right for this loss: a slow or a wild run may be meant",
)  # fmt: skip
def learning_rate(evidence: Evidence) -> Iterator[Finding]:
    """Updates that are too large for the weights, for long or for five steps on end; or too small for the whole run."""
    moving = [n for n in _matrices(evidence) if _moved(evidence, n).any()]
    if not moving or len(evidence.steps) < WINDOW:
        return
    with np.errstate(all="ignore"):
        ratios = np.stack([evidence.ratio(n)[1:] for n in moving])
    together = np.median(np.nan_to_num(ratios), axis=0)  # (T - 1,) a typical matrix at each step
    half = WINDOW // 4
    lowest = np.lib.stride_tricks.sliding_window_view(together, half).min(axis=1)
    wild = np.flatnonzero(lowest > 2 * RATIO_HIGH)
    # small first weights grow fast, and soon no more: at the very beginning it takes more
    wild = wild if wild.size >= WINDOW - half else wild[(wild >= half) | (together[:half].max() > WILD_FIRST)]
    value, high = np.quantile(together, (0.5, 0.75))
    if high > RATIO_HIGH or wild.size:
        first = int(wild[0]) if wild.size else 0
        worst = float(lowest[first]) if wild.size else float(high)
        text = f"from step {int(evidence.steps[first])} on a step changes a weight matrix by {worst:.0%} of its size or more; 0.1% is usual, {RATIO_HIGH:.0%} too much."
        yield Finding(
            "lr_high",
            moving[0],
            (),
            int(evidence.steps[first]),
            "warning",
            text,
            "Try a learning rate ten times smaller.",
            (curve("update over weights, median of the matrices", evidence.steps[1:], together),),
        )
    elif 0 < value < RATIO_LOW:
        text = f"a typical step changes a weight matrix by {value:.1e} of its size; 1e-3 is usual, below {RATIO_LOW:.0e} nothing happens."
        yield Finding(
            "lr_low",
            moving[0],
            (),
            int(evidence.steps[0]),
            "warning",
            text,
            "Try a learning rate ten times larger.",
            (curve("update over weights, median of the matrices", evidence.steps[1:], together),),
        )


@rule(
    "loss_spike", "divergence",
    found="the loss is twice the largest of the last 20 and a quarter of the first; is logged as NaN after numbers; or stays three times above its best",
    direct='the logged loss (a scalar with "loss" in its name), and the updates, gradients and second moments before it',
    blind="anything where no loss is logged; spikes in the first 20 frames; the batch itself",
)  # fmt: skip
def loss_spikes(evidence: Evidence) -> Iterator[Finding]:
    """A jump of the loss, or its end, with the tensor where it began."""
    frames = [t.nonfinite[0] for t in evidence.tensors.values() if t.nonfinite is not None]
    for found in autopsies(evidence.run, evidence.names, min(frames, default=None), evidence.reading):
        yield _spike(evidence, found)


def _spike(evidence: Evidence, found: Autopsy) -> Finding:
    kind, severity = ("divergence", "error") if found.diverged else ("loss_spike", "warning")
    advice = "Look at the batch before this step; clip gradients, lower the rate, or warm it up."
    return Finding(kind, found.tensor, found.units, found.step, severity, found.text, advice, found.curves)


@rule(
    "runaway_statistics",
    found="a running mean or variance beyond 1e4 times its start",
    direct="the buffer",
    blind='statistics that are not recorded (`streams=("weights", "buffers")`)',
)  # fmt: skip
def runaway_statistics(evidence: Evidence) -> Iterator[Finding]:
    """Running statistics of a normalisation that left every reasonable range."""
    for name in evidence.names:
        if not name.endswith(("running_var", "running_mean", "moving_variance", "moving_mean")):
            continue
        largest = np.asarray(evidence.tensors[name].largest)
        beyond = np.flatnonzero(largest > RUNAWAY * max(1.0, float(largest[0])))
        if beyond.size and evidence.tensors[name].nonfinite is None:
            step = int(evidence.steps[beyond[0]])
            text = f"{name} reaches {largest.max():.3g} (from {largest[0]:.3g}) at step {step}: in evaluation the layer divides its signal away."
            advice = "Look for an outlier batch or a growing layer before it; the running average keeps it for long."
            shown = curve(f"largest of {name}", evidence.steps, largest)
            yield Finding("runaway_statistics", name, (), step, "warning", text, advice, (shown,))


@rule(
    "speed_limit",
    found="half of a tensor's weights march straight ahead at one speed for 500 steps or more",
    direct="path and displacement of every weight: Adam normalises tiny gradients to a full step",
    blind="which of these weights matter to the function",
)  # fmt: skip
def speed_limit(evidence: Evidence) -> Iterator[Finding]:
    """Weights that march in a straight line at the optimizer's own speed: Adam normalises a tiny gradient to a full step."""
    if evidence.steps[-1] - evidence.steps[0] < MARCHING_STEPS or len(evidence.steps) < WINDOW:
        return
    for name in evidence.names:
        series = evidence.tensors[name]
        if series.nonfinite is not None or "running_" in name or (known := evidence.paths(name, STEADY)) is None:
            continue
        path, way = known
        fastest = float(np.quantile(path, 0.99))
        if fastest <= 0 or path.size < 2:
            continue
        marching = (way >= STEADY * path) & (path >= FAST * fastest)
        moving = path > 0
        if marching.sum() >= 2 and marching.sum() >= 0.5 * moving.sum():
            units = tuple(int(i) for i in np.flatnonzero(marching)[:1000])
            text = (
                f"{int(marching.sum())} of {int(moving.sum())} moving weights of {name} go straight ahead at almost one speed for the whole run: "
                "the optimizer sets their pace, not the size of their gradient."
            )
            advice = "Do not read importance from the size of these weights; compare with plain gradient descent, or raise epsilon."
            yield Finding("speed_limit", name, units, int(evidence.steps[0]), "note", text, advice)


NETWORK_RULES: tuple[Rule, ...] = (
    nonfinite, exploding, vanishing, unmoved, learning_rate, loss_spikes, runaway_statistics, speed_limit,
)  # fmt: skip

"""Where a loss spike began: the earliest tensor and unit whose update, gradient or second moment left its own history."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.arguments import renamed
from weightlapse.capture.alarm import AWAKE, LASTING, RISEN, SPIKE, WINDOW
from weightlapse.errors import InvalidArgument
from weightlapse.measures.finding import Curve, curve, listed
from weightlapse.measures.reading import Reading
from weightlapse.measures.series import at_once
from weightlapse.measures.stream import Array, parts, select
from weightlapse.measures.units import Place, layers_of
from weightlapse.recording.frames import frame_of_step
from weightlapse.recording.recording import opened
from weightlapse.recording.run import Run

BEFORE = 25  # frames before a spike in which it is sought where it began
HISTORY = 40  # frames before those, which say what is usual
LEFT = 2.0  # times the largest of its history: a tensor that left it
UNIT_LEFT = 6.0  # the same for one unit of many
PAUSE = 3  # frames inside its history that a tensor may make on the way to the spike
CONCENTRATED = 0.999  # of an update in a few of many units: weights that were thrown
GROWING = 3  # frames of growth
ENDLESS = 1e30  # stands for NaN and Inf
EVEN = 20  # updates before a spike between frames at one distance, which are enough to say what is usual
FOREIGN = 10.0  # an update that left this much further than its gradient was not made by it


@dataclass(frozen=True)
class Departure:
    """One tensor's way out of its history. ``what``: "update", "gradient" or "second moment"; ``step``: the first outside;
    ``factor``: how many times the largest value of its history it reached; ``units``: those that went, empty when most
    did, and ``share``: how much of the squared length is theirs."""

    tensor: str
    what: str
    step: int
    factor: float
    units: tuple[int, ...]
    share: float


@dataclass(frozen=True)
class Autopsy:
    """One spike or divergence of the loss ``label`` at ``step``, and where it began.

    ``tensor``, ``units``, ``onset``: the earliest that left its history; "" , () and ``step`` where none did before it; of a bad batch, with which all
    leave at once, the first of the network, where it comes in. ``cause``: "step size",
    "batch", "weights" or "growth", as far as the order of events tells, else "". ``spread``: every departure, the earliest first.
    ``steps`` (n,), ``loss`` (n,) and ``factors`` {tensor: (n,)}, values over the largest of the history, are what the figure shows.
    """

    label: str
    step: int
    diverged: bool
    tensor: str
    units: tuple[int, ...]
    onset: int
    cause: str
    spread: tuple[Departure, ...]
    text: str
    steps: NDArray[np.int64]
    loss: Array
    factors: dict[str, Array]
    curves: tuple[Curve, ...]


class _Frame(int):
    """A frame, where a step is asked for otherwise."""


@renamed("0.3", broken=("step", _Frame))  # what was given by the old name is a frame
def autopsy(
    run: Run | str | os.PathLike[str], *, tensors: str | Sequence[str] = "*", step: int | None = None
) -> list[Autopsy]:
    """Every spike or divergence of a logged loss (a scalar with "loss" in its name), the earliest first, and where it began.

    Only the frames before a spike are read: the 65 of a tensor, with its gradients and second moments where these streams were
    recorded. What is usual for a tensor, and for each of its units, is the largest value of frames -65 to -25 before the spike; it has left its
    history at the first frame from which on it is beyond twice that (a single unit: six times) up to the spike.

    ``run``: a recording, or its path. ``step``: the first recorded step with NaN or Inf among its weights, where that is known: it counts as a divergence.

    Raises UnknownTensor when nothing is selected, MissingStep for a step that was not recorded.

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> rng, w = np.random.default_rng(0), {"a": np.zeros((3, 2)), "b": np.zeros((3, 2))}
    >>> with wl.watch(w, tempfile.mkdtemp() + "/run") as rec:
    ...     for t in range(1, 60):
    ...         w = {k: v + 0.01 * rng.standard_normal((3, 2)) for k, v in w.items()}
    ...         w["b"][1] += 50 * (t == 48)
    ...         rec.step(w, loss=9.0 if t >= 50 else 1.0)
    >>> [(found.tensor, found.units, found.onset, found.step) for found in wl.autopsy(wl.load(rec.path))]
    [('b', (1,), 48, 50)]
    """
    run = opened(run)
    broken = step if step is None or isinstance(step, _Frame) else frame_of_step(run, step)
    return list(autopsies(run, select(run, tensors), broken))


def autopsies(
    run: Run, names: list[str], broken: int | None = None, reading: Reading | None = None
) -> Iterator[Autopsy]:
    """:func:`autopsy` of the tensors ``names``. ``reading`` says what may be read; of the others their statistics tell, but not of their units."""
    events = spikes(run)
    if (
        broken is not None
        and broken > LASTING
        and not any(broken - BEFORE <= frame <= broken + LASTING for _, frame, _ in events)
    ):
        events.append(("the training", broken, True))
    for label, frame, diverged in sorted(events, key=lambda event: event[1]):
        found = _examined(run, names, label, frame, diverged, reading)
        if (
            label in run.scalars or found.onset < found.step
        ):  # that weights are no numbers is said already; what went before is not
            yield found


def spikes(run: Run) -> list[tuple[str, int, bool]]:
    """(loss, frame, whether it stays there) of each jump of a logged loss, also to NaN; of a loss that only rises, where it is three times its start."""
    labels = [label for label in run.scalars if "loss" in label.lower()]
    found = []
    for label in labels:
        loss = np.asarray(run.scalars[label], dtype=np.float64)
        lost = _lost(loss, _logged(run.scalars, label, loss))
        known = np.flatnonzero(~np.isnan(loss))
        if known.size <= WINDOW:
            found += [(label, frame, stays) for frame, stays in lost]
            continue
        values = loss[known]
        scale = float(np.median(values[:5]))
        jumps, quiet_until = [], -1
        for i in range(WINDOW, known.size):
            before, now = values[i - WINDOW : i], values[i]
            if i > quiet_until and now > SPIKE * before.max() and now > AWAKE * scale:
                after = values[i : i + WINDOW]
                stays = bool(np.isinf(now)) or (
                    len(after) >= LASTING and float(np.median(after)) > SPIKE * before.max()
                )
                jumps.append((label, int(known[i]), stays and i + WINDOW >= known.size - 1))
                quiet_until = i + WINDOW
        jumps = _joined(label, jumps, lost) if lost else jumps
        if not jumps and len(labels) == 1 and (risen := _risen(values, scale)) is not None:
            jumps = [(label, int(known[risen]), True)]
        found += jumps
    return found


def _logged(scalars: Any, label: str, loss: Array) -> NDArray[np.bool_]:
    """Where a number was logged, NaN too, as far as these scalars tell one from the other."""
    told = getattr(scalars, "logged", None)
    return ~np.isnan(loss) if told is None else np.asarray(told(label))


def _lost(loss: Array, logged: NDArray[np.bool_]) -> list[tuple[int, bool]]:
    """(frame, whether to the end) where a loss that was a number is logged as NaN.

    A loss that is NaN between its numbers stands for "not looked at": only after some numbers on end is NaN an event.
    """
    at = np.flatnonzero(logged)
    nan = np.isnan(loss[at])
    found: list[int] = []
    numbers = 0  # on end
    for frame, is_nan in zip(at.tolist(), nan.tolist()):
        if is_nan and numbers >= LASTING and not (found and frame - found[-1] <= WINDOW):
            found.append(frame)
        numbers = 0 if is_nan else numbers + 1
    last = int(at[~nan][-1]) if found else 0  # a loss may come back for a moment on its way out
    return [(frame, bool(nan[-1]) and last <= frame + WINDOW) for frame in found]


def _joined(
    label: str, jumps: list[tuple[str, int, bool]], lost: list[tuple[int, bool]]
) -> list[tuple[str, int, bool]]:
    """Both kinds in one list: a loss that jumps and is NaN soon after, or soon before, has diverged once, where that began."""
    out: list[tuple[str, int, bool]] = []
    for _, frame, stays in sorted([*jumps, *((label, *end) for end in lost)], key=lambda event: event[1]):
        if out and frame - out[-1][1] <= WINDOW:
            out[-1] = (label, out[-1][1], out[-1][2] or stays)
        else:
            out.append((label, frame, stays))
    return out


def _risen(values: Array, scale: float) -> int | None:
    """Where the loss has gone to three times its start, and stays; None where it has not. (Losses of two players may rise in good health.)"""
    level = np.median(np.lib.stride_tricks.sliding_window_view(values, LASTING), axis=1)
    high = level > RISEN * max(scale, float(level.min()))
    if not high[-LASTING:].all():
        return None
    low = np.flatnonzero(~high)
    first = (int(low[-1]) + 1 if low.size else 0) + LASTING - 1
    return first if first > WINDOW else None


# ---- the search ----------------------------------------------------------------------------------------------------


@dataclass
class _Series:
    """One tensor's ``what`` over the frames looked at: (n,) ``whole`` and (n, units) ``rows``."""

    tensor: str
    what: str
    whole: Array
    rows: Array


def _examined(run: Run, names: list[str], label: str, frame: int, diverged: bool, reading: Reading | None) -> Autopsy:
    first = max(0, frame - BEFORE - HISTORY)
    frames = _even(np.asarray(run.steps), range(first, frame + 1))
    steps = np.asarray(run.steps)[frame + 1 - len(frames) + 1 : frame + 1]  # of the updates: the first frame has none
    far = np.diff(np.asarray(run.steps)[frames.start : frames.stop]).astype(np.float64)
    usual = max(3, len(steps) - BEFORE) if len(steps) > BEFORE + 5 else max(3, len(steps) // 2)
    series = [s for name in names for s in _series(run, name, frames, reading)]
    departures: list[Departure] = []
    factors: dict[str, Array] = {}
    for s in series:
        distance = far if s.what == "update" else None
        ratio, rows = _over(s.whole, usual, distance), _over(s.rows, usual, distance)
        outside = (ratio > LEFT) | (rows > UNIT_LEFT).any(axis=1)
        reach = np.maximum(ratio, np.where((rows > UNIT_LEFT).any(axis=1), rows.max(axis=1, initial=0), 0))
        factors[s.tensor] = np.fmax(factors.get(s.tensor, reach), reach)
        start = _way_out(outside[usual:])
        if start is not None:
            at = usual + start
            units = _units(rows[at])
            square = s.rows[at] ** 2
            share = float(square[list(units)].sum() / square.sum()) if units and np.isfinite(square.sum()) else 0.0
            factor = float(reach[at : at + PAUSE].max())
            departures.append(Departure(s.tensor, s.what, int(steps[at]), factor, units, share))
    departures = _ranked(departures)
    step = int(run.steps[frame])
    loss = np.asarray(run.scalars[label], dtype=np.float64) if label in run.scalars else np.full(len(run.steps), np.nan)
    cause = _cause(departures, step, run, names, factors, steps)
    if cause == "batch":  # it comes in where the network begins, and no layer behind that is more to blame
        departures = sorted(departures, key=lambda d: (d.step, names.index(d.tensor)))
    first_out = departures[0] if departures else None
    shown = []
    if first_out is not None:
        shown.append(curve(f"{first_out.what} of {first_out.tensor} over the largest of its history", steps, factors[first_out.tensor], len(steps) - 1))  # fmt: skip
    if label in run.scalars:
        shown.append(curve(label, steps, loss[frame + 1 - len(steps) : frame + 1], len(steps) - 1))
    before = loss[:frame][~np.isnan(loss[:frame])]
    jump = (
        f"{label} {_from(before)}to {loss[frame]:.3g} at step {step}"
        if label in run.scalars
        else f"the weights are not finite from step {step} on"
    )
    return Autopsy(
        label,
        step,
        diverged,
        first_out.tensor if first_out else "",
        first_out.units if first_out else (),
        first_out.step if first_out else step,
        cause,
        tuple(departures),
        _sentence(jump, departures, cause),
        steps,
        loss[frame + 1 - len(steps) : frame + 1],
        factors,
        tuple(shown),
    )


def _series(run: Run, name: str, frames: range, reading: Reading | None) -> Iterator[_Series]:
    """Updates of a tensor, and its gradients and second moments where they were recorded, (n,) for the frames after the first."""
    of: list[tuple[str, str]] = [(name, "update")]
    for stream, what in ((f"gradients:{name}", "gradient"), (f"optimizer:{name}.exp_avg_sq", "second moment")):
        if stream in run.names and tuple(run.shapes[stream]) == tuple(run.shapes[name]):
            of.append((stream, what))
    for stream, what in of:
        if reading is None or reading.may(reading.cost_at(stream, frames.start, frames.stop), f"the units of {stream} before step {run.steps[frames[-1]]}"):  # fmt: skip
            yield _of_values(run, name, stream, what, frames)
        elif (lengths := reading.lengths(stream, frames, update=what == "update")) is not None:
            yield _Series(name, what, lengths, np.zeros((len(lengths), 0)))


def _rows(run: Run, name: str) -> Place | None:
    for layer in layers_of(run, [name]):
        for place in layer.incoming:
            if place.tensor == name and place.where is None:
                return place
    return None


def _of_values(run: Run, name: str, stream: str, what: str, frames: range) -> _Series:
    """From the values, a few frames at a time."""
    place = _rows(run, name)
    per = at_once(run.shapes[name])
    whole, rows = [], []
    with np.errstate(all="ignore"):
        for first in range(frames.start, frames.stop - 1, per):
            stop = min(first + per + 1, frames.stop)
            x = np.asarray(parts(np.asarray(run[stream][first:stop])), dtype=np.float64)
            x = np.diff(x, axis=0) if what == "update" else np.nan_to_num(x[1:], posinf=np.inf, neginf=-np.inf)
            flat = x.reshape(len(x), -1)
            whole.append(np.sqrt(np.einsum("ij,ij->i", flat, flat)))
            rows.append(np.sqrt(place.sums(x, x)) if place is not None and x.ndim > 1 else np.zeros((len(x), 0)))
    return _Series(name, what, np.concatenate(whole), np.concatenate(rows)) if whole else _Series(name, what, np.zeros(0), np.zeros((0, 0)))  # fmt: skip


def _even(steps: NDArray[np.int64], frames: range) -> range:
    """The last of these frames that follow each other at one distance, where they are enough; else all."""
    far = np.diff(steps[frames.start : frames.stop])
    other = np.flatnonzero(far != far[-1]) if far.size else np.zeros(0, np.int64)
    count = len(far) - 1 - int(other[-1]) if other.size else len(far)
    return range(frames.stop - 1 - count, frames.stop) if count >= EVEN else frames


def _over(values: Array, usual: int, far: Array | None = None) -> Array:
    """Values over the largest of their history: of the first ``usual`` frames. 1e30 for what is not finite, 0 without a history.

    ``far``: how many steps each value comes from, where they are sums over steps. Over more steps than those of its history a value may be larger
    in proportion, as that of a steady march is (that of a random walk grows with the root). Over fewer it may be as large: around a minimum it is.
    """
    with np.errstate(all="ignore"):
        history = np.where(np.isfinite(values[:usual]), values[:usual], np.nan)
        if far is None or (far == far[:1]).all():
            largest = np.nanmax(history, axis=0, initial=0)
        else:
            times = np.maximum(far[:, None] / far[None, :usual], 1)  # (n, usual)
            largest = np.stack([np.nanmax((history.T * by).T, axis=0, initial=0) for by in times])
        ratio = values / np.where(largest > 0, largest, np.inf)
    return np.asarray(np.where(np.isfinite(values), np.minimum(ratio, ENDLESS), ENDLESS), dtype=np.float64)


def _way_out(outside: NDArray[np.bool_]) -> int | None:
    """Where the last stay outside begins that leads to the end; None when there is none."""
    at = np.flatnonzero(outside)
    if at.size == 0 or len(outside) - 1 - at[-1] > PAUSE:
        return None
    breaks = np.flatnonzero(np.diff(at) > PAUSE + 1)
    return int(at[breaks[-1] + 1]) if breaks.size else int(at[0])


def _units(ratios: Array) -> tuple[int, ...]:
    """The units that went out, when they are fewer than half."""
    if ratios.size == 0:
        return ()
    out = np.flatnonzero(ratios > max(LEFT, 0.3 * float(ratios.max())))
    return tuple(int(u) for u in out) if 0 < len(out) <= max(1, ratios.size // 2) else ()


def _ranked(departures: list[Departure]) -> list[Departure]:
    """One for each tensor, the earliest first; of those at one step what no gradient explains, then the one that went furthest."""
    by_tensor: dict[str, list[Departure]] = {}
    for d in departures:
        by_tensor.setdefault(d.tensor, []).append(d)
    key = {}
    best = []
    for name, found in by_tensor.items():
        gradient = max([d.factor for d in found if d.what == "gradient"], default=None)
        update = max([d.factor for d in found if d.what == "update"], default=0.0)
        foreign = gradient is not None and update > FOREIGN * gradient
        chosen = min(found, key=lambda d: (d.step, -d.factor if d.what != "update" or foreign else -d.factor / 2))
        if foreign:
            chosen = next(d for d in found if d.what == "update")
        best.append(chosen)
        key[name] = (chosen.step, not foreign, -chosen.factor)
    return sorted(best, key=lambda d: key[d.tensor])


def _cause(
    departures: list[Departure], step: int, run: Run, names: list[str], factors: dict[str, Array], steps: Any
) -> str:
    """What the order and the shape of the departures say of the cause; "" where they do not say."""
    if not departures:
        return ""
    first = departures[0]
    at_once = [d for d in departures if d.step == first.step]
    i = int(np.searchsorted(steps, first.step))
    way = factors[first.tensor][i:]
    if first.what == "update" and first.share > CONCENTRATED:
        return "weights"
    if first.what == "update" and len(way) >= GROWING and (np.diff(way) > 0).all() and way[-1] > 1.5 * way[0]:
        return "growth"
    if len(at_once) >= max(2, len(names) / 2):
        return "batch" if first.step >= step else "" if first.what == "gradient" else "step size"
    if first.what == "update" and f"gradients:{first.tensor}" in run.names:
        return "step size"  # its gradient is known, and had not left
    return ""


_CAUSES = {
    "batch": "everything left its history at once, with the loss: look at the batch of this step",
    "step size": "all moved further at once while the loss was still usual: the step size changed",
    "growth": "it has grown since, step by step",
    "weights": "the weights were changed there, not trained",
    "": "",
}


def _sentence(jump: str, departures: list[Departure], cause: str) -> str:
    if not departures:
        return f"{jump}; no tensor had left its history before: look at the batch, the data and the loss itself."
    first = departures[0]
    units = f" (unit {listed(first.units, 4)})" if first.units else ""
    reach = "no number any more" if first.factor >= ENDLESS else f"{first.factor:.3g} times its largest of before"
    text = f"{jump}; it began at step {first.step} in {first.tensor}{units}, whose {first.what} was {reach}"
    later = [d for d in departures[1:] if d.step > first.step]
    if later:
        text += f", and spread to {listed([f'{d.tensor} at step {d.step}' for d in later], 3)}"
    reason = _CAUSES[cause]
    return f"{text}; {reason}." if reason else f"{text}."


def _from(before: Array) -> str:
    return f"goes from {np.median(before[-LASTING:]):.3g} " if before.size else "goes "


def one(run: Run, step: int | None) -> Autopsy:
    """The autopsy nearest to ``step``, or the first. Raises InvalidArgument when no loss spikes."""
    found = autopsy(run)
    if not found:
        raise InvalidArgument("no logged loss of this recording spikes or diverges: there is nothing to look into")
    return found[0] if step is None else min(found, key=lambda a: abs(a.step - step))

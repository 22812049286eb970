"""The numbers behind the curves of a film: scalars, single weights, averages of groups, distances, norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, closest
from weightlapse.film.colours import SERIES_COUNT
from weightlapse.film.curves import Line
from weightlapse.film.frames import all_shapes, sample, values_over
from weightlapse.measures.measure import By, measure
from weightlapse.measures.stream import Members
from weightlapse.recording.run import Run

_POINTS = 600  # moments at which weights are looked at for a curve: about one per pixel
_LINES = 32  # single weights in one chart

Shapes = Mapping[str, tuple[int, ...]]


def scalar_charts(run: Run) -> list[str]:
    """Scalars that share a chart, joined by "+": all losses first, then accuracies, then each other one alone."""
    known = [name for name, values in run.scalars.items() if np.isfinite(values).any()]
    losses = [name for name in known if "loss" in name.lower() or "error" in name.lower()]
    accuracies = [name for name in known if "acc" in name.lower() and name not in losses]
    rest = [name for name in known if name not in losses and name not in accuracies]
    return ["+".join(part) for part in (losses, accuracies) if part] + rest


def scalars(run: Run, order: Any, _: Shapes, words: str) -> tuple[str, list[Line]]:
    """The scalars named in ``words`` ("loss+val_loss"; empty: all losses, or all there are)."""
    known = dict(run.scalars)
    if not known:
        raise InvalidArgument(
            "the recording holds no scalars (rec.log(loss=...) records them), so a scalars panel would be empty"
        )
    names = words.split("+") if words else (scalar_charts(run) or list(known))[0].split("+")
    for name in names:
        if name not in known:
            raise InvalidArgument(f"no scalar is called {name!r} ({closest(name, known)})")
    low, high = order.frames.min(), order.frames.max() + 1
    steps = np.asarray(run.steps)[low:high]
    lines = []
    for i, name in enumerate(names):
        values = np.asarray(known[name], dtype=np.float64)[low:high]
        there = ~np.isnan(values)  # a scalar logged at some steps only is one curve, not crumbs
        lines.append(Line(name, steps[there], values[there], i))
    return (names[0] if len(names) == 1 else _shared_name(names)), [line for line in lines if len(line.steps)]


def _shared_name(names: list[str]) -> str:
    for word in ("loss", "error", "acc"):
        if all(word in name.lower() for name in names):
            return {"acc": "accuracy"}.get(word, word)
    return ", ".join(names)


def lines(run: Run, order: Any, shapes: Shapes, _: str) -> tuple[str, list[Line]]:
    """Single weights over time: all of a tiny network, otherwise 32 spread evenly over the chosen tensors."""
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    made = single_weights(run, sample(order.frames, _POINTS), shapes, _LINES)
    return ("weights" if len(made) == total else f"{len(made)} of {total} weights"), made


def single_weights(run: Run, frames: NDArray[np.int64], shapes: Shapes, most: int) -> list[Line]:
    """At most ``most`` weights, spread evenly over the tensors ``shapes``, at ``frames``.

    Few weights have a colour each, many the colour of their tensor.
    """
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    total = sum(sizes.values())
    picked = np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(int))
    where: list[tuple[str, tuple[int, ...]]] = []
    start = 0
    for name, size in sizes.items():
        inside = picked[(picked >= start) & (picked < start + size)] - start
        where += [
            (name, tuple(int(i) for i in np.unravel_index(flat, shapes[name])) if shapes[name] else ())
            for flat in inside
        ]
        start += size
    values_of: dict[tuple[str, tuple[int, ...]], list[float]] = {key: [] for key in where}
    for values in values_over(run, sorted({name for name, _ in where}), frames):
        for (name, index), series in values_of.items():
            value = values.get(name)
            if value is None or any(i >= n for i, n in zip(index, value.shape)):
                series.append(np.nan)  # the network had not grown that far
            else:
                series.append(float(value[index]))
    steps = np.asarray(run.steps)[frames]
    tones = {name: i for i, name in enumerate(shapes)}
    names = _short_names(shapes)
    made: list[Line] = []
    for (name, index), series in values_of.items():
        place = ",".join(str(i) for i, n in zip(index, shapes[name]) if n > 1)
        label = f"{names[name]}[{place}]" if sizes[name] > 1 else names[name]
        made.append(Line(label, steps, np.array(series), len(made) if total <= SERIES_COUNT else tones[name]))
    return made


def _short_names(shapes: Shapes) -> dict[str, str]:
    """Names without what all of them begin with."""
    heads = {name.rpartition(".")[0] for name in shapes}
    cut = len(heads.pop()) if len(heads) == 1 else 0
    return {name: name[cut:].lstrip(".") for name in shapes}


def groups(run: Run, order: Any, shapes: Shapes, _: str) -> tuple[str, list[Line]]:
    """The average of each group of weights; without ``groups=`` the mean |w| of each tensor.

    ``order.groups`` is written as for `measure`: a label and flat positions of the only tensor, ``(tensor, positions)`` or ``{tensor: positions}``.
    """
    given = order.groups
    where = members_of(run, given, shapes) if given else {name: {name: slice(None)} for name in shapes}
    looked = sample(order.frames, _POINTS)
    averages: dict[str, list[float]] = {label: [] for label in where}
    for values in values_over(run, sorted({name for members in where.values() for name in members}), looked):
        for label, members in where.items():
            parts = [values[name].reshape(-1)[at].astype(np.float64) for name, at in members.items() if name in values]
            flat = np.concatenate(parts) if parts else np.array([np.nan])
            averages[label].append(float(np.mean(flat if given else np.abs(flat))))
    steps = np.asarray(run.steps)[looked]
    return ("group averages" if given else "mean |w|"), [
        Line(label, steps, np.array(v), i) for i, (label, v) in enumerate(averages.items())
    ]


def members_of(run: Run, given: Mapping[str, Any], shapes: Shapes) -> dict[str, Mapping[str, Any]]:
    """By label the flat positions in each tensor. Raises InvalidArgument for tensors that are not there."""
    known = all_shapes(run)
    where: dict[str, Mapping[str, Any]] = {}
    for label, members in given.items():
        bare = not isinstance(members, Mapping) and not (isinstance(members, tuple) and isinstance(members[0], str))
        for name in () if bare else members if isinstance(members, Mapping) else members[:1]:
            if name not in known:
                raise InvalidArgument(f"group {label!r}: no tensor is called {name!r} ({closest(name, known)})")
        where[label] = Members(label, members, list(shapes if bare else known), known).at
    return where


def distance(run: Run, order: Any, shapes: Shapes, _: str) -> tuple[str, list[Line]]:
    """How far the chosen tensors together are from where they started."""
    return "distance from the start", _measured(run, order, shapes, "distance", "network")


def norms(run: Run, order: Any, shapes: Shapes, _: str) -> tuple[str, list[Line]]:
    """The norm of each tensor."""
    return "norms", _measured(run, order, shapes, "norm", "tensor")


def _measured(run: Run, order: Any, shapes: Shapes, what: str, by: By) -> list[Line]:
    first, last = int(order.frames.min()), int(order.frames.max())
    stride = max((last - first) // _POINTS, 1)
    part = slice(first, last + 1, stride)
    found = measure(run, what, tensors=list(shapes), by=by, frames=part)
    steps = np.asarray(run.steps)[part]
    return [
        Line(name, steps, np.asarray(values, dtype=np.float64), i) for i, (name, values) in enumerate(found.items())
    ]


def place_in_film(steps: NDArray[np.int64], step: int) -> float:
    """Where in the film (0 ... 1) the first picture at or after ``step`` is."""
    at = int(np.argmax(steps >= step))
    return at / max(len(steps) - 1, 1)

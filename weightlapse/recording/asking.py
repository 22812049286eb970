"""The arguments of :meth:`Recording.top`, checked and made a question."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from weightlapse.errors import InvalidArgument, MissingStep, UnknownTensor, closest
from weightlapse.recording.top import QUANTITIES, THINGS, Question, Top, top
from weightlapse.store.layout import STREAMS, TensorSpec

if TYPE_CHECKING:
    from weightlapse.recording.recording import Recording


def ask(
    run: Recording,
    what: str,
    k: int,
    steps: slice | None,
    of: str,
    tensors: str | Iterable[str],
    streams: Iterable[str],
) -> Top:
    """See :meth:`Recording.top`."""
    for name, value, choices in (("what", what, QUANTITIES), ("of", of, THINGS)):
        if value not in choices:
            raise InvalidArgument(f"top({name}={value!r}): choose one of {', '.join(map(repr, choices))}")
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InvalidArgument(f"top(k={k!r}): give how many, 1 or more")
    patterns = [tensors] if isinstance(tensors, str) else list(tensors)
    kinds = {streams} if isinstance(streams, str) else set(streams)
    if not kinds or not kinds <= set(STREAMS):
        raise InvalidArgument(f"streams={streams!r}: choose from {', '.join(map(repr, STREAMS))}")

    @cache
    def wanted(spec: TensorSpec) -> bool:
        names = (spec.name, *spec.aliases)
        return spec.stream in kinds and any(fnmatch.fnmatchcase(name, p) for name in names for p in patterns)

    if not any(wanted(spec) for _, layout in run._store.layouts for spec in layout.tensors):
        raise UnknownTensor(
            f"no tensor of the streams {', '.join(sorted(kinds))} matches {tensors!r}; {closest(patterns[0], run.names)}"
        )
    first, stop = _frames(run, steps)
    return top(run._store, Question(what, of, first, stop, wanted, _axes(run) if of == "units" else {}), int(k))


def _frames(run: Recording, steps: slice | None) -> tuple[int, int]:
    if steps is not None and (not isinstance(steps, slice) or steps.step not in (None, 1)):
        raise InvalidArgument(f"steps={steps!r}: give a stretch of optimizer steps as slice(first, behind the last)")
    low, high = (None, None) if steps is None else (steps.start, steps.stop)
    if any(isinstance(n, bool) or not isinstance(n, (int, np.integer, type(None))) for n in (low, high)):
        raise InvalidArgument(f"steps={steps!r}: give whole numbers of optimizer steps")
    inside = np.flatnonzero(
        (run.steps >= (0 if low is None else low)) & (run.steps < (np.inf if high is None else high))
    )
    if not len(inside):
        known = f"its steps are {run.steps[0]} to {run.steps[-1]}" if run.frames else "it has no frames yet"
        raise MissingStep(f"{run.path} holds no step of {steps}; {known}")
    return int(inside[0]), int(inside[-1]) + 1


def _axes(run: Recording) -> dict[str, int]:
    """The axis of each tensor's outputs, where the wiring knows it."""
    wiring: Any = run.wiring
    if wiring is None:
        return {}
    primary = {
        name: spec.name
        for _, layout in run._store.layouts
        for spec in layout.tensors
        for name in (spec.name, *spec.aliases)
    }
    axes: dict[str, int] = {}
    for group in wiring.groups:
        for member in group.producers:
            axes.setdefault(primary.get(member.tensor, member.tensor), member.axis)
    return axes

"""When something happens to a training: its loss spikes or diverges, or its weights are no numbers any more. Told while it trains, from what is logged."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.layout import Layout, widen

# what counts as a spike, here and in the doctor's autopsy
WINDOW = 20  # logged losses before a spike
SPIKE = 2.0  # times the largest of them
AWAKE = 0.25  # of the loss at the start, which it must be too: a loss near nothing jumps for nothing
RISEN = 3.0  # times the best and the start: a loss whose level is there has diverged
LASTING = 5  # losses whose median is the level, and that it must stay


class LossAlarm:
    """Looks at one logged loss, value after value; the same rules as the doctor's autopsy has for a whole run."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._first: list[float] = []
        self._best = math.inf
        self._broken = self._risen = False
        self._quiet = 0  # values for which nothing more is said of a spike

    def hear(self, value: float) -> str:
        """What has happened with this value, "" for nothing."""
        told = ""
        if not math.isfinite(value):
            told, self._broken = ("" if self._broken else f"{self._name} is {value}"), True
            return told
        self._broken = False
        if len(self._first) < LASTING:
            self._first.append(value)
        start, self._quiet = float(np.median(self._first)), max(self._quiet - 1, 0)
        if len(self._recent) == WINDOW:
            most = max(self._recent)
            if value > SPIKE * most and value > AWAKE * start and not self._quiet:
                told, self._quiet = (
                    f"{self._name} goes to {value:.4g}, from {most:.4g} at most in the {WINDOW} before",
                    WINDOW,
                )
        self._recent.append(value)
        if len(self._recent) >= LASTING:
            level = float(np.median(list(self._recent)[-LASTING:]))
            self._best = min(self._best, level)
            high = level > RISEN * max(start, self._best)
            if high and not self._risen and not told and not self._quiet and len(self._recent) == WINDOW:
                told = f"{self._name} is at {level:.4g}, three times what it was at its start and at its best"
            self._risen = high
        return told


class WeightsAlarm:
    """Looks at frames of a layout for weights that are NaN or infinite and were not in the frame before."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._looked_at = [i for i, spec in enumerate(layout.tensors) if spec.stream == "weights" and spec.size]
        self._broken: set[int] | None = None  # before the first frame nothing is known

    def see(self, row: NDArray[np.uint8]) -> str:
        """What has happened in this frame, "" for nothing."""
        bad = {
            i for i in self._looked_at if not _finite(self._layout.view(row[None], i)[0], self._layout.tensors[i].dtype)
        }
        fresh = [] if self._broken is None else sorted(bad - self._broken)
        self._broken = bad
        names = [self._layout.tensors[i].name for i in fresh]
        return (
            f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} {'has' if len(names) == 1 else 'have'} NaN or Inf"
            if names
            else ""
        )


def _finite(values: NDArray[Any], dtype: str) -> bool:
    with np.errstate(invalid="ignore"):  # some patterns of NaN are odd
        return bool(np.isfinite(widen(values, dtype)).all())

"""One finding: what, where, since when, why it matters, what to try, and on what evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_POINTS = 60  # of a curve that a finding carries


@dataclass(frozen=True)
class Curve:
    """A series that a finding rests on: ``label`` says what of, ``steps`` and ``values`` are as long as each other; None is NaN or Inf."""

    label: str
    steps: tuple[int, ...]
    values: tuple[float | None, ...]

    def to_json(self) -> dict[str, Any]:
        """A dict of lists that `json.dumps` writes without NaN."""
        return {"label": self.label, "steps": list(self.steps), "values": list(self.values)}

    def __str__(self) -> str:
        shown = [f"{_short(v)} at {s}" for s, v in zip(self.steps, self.values)]
        return f"{self.label}: " + (", ".join(shown) if len(shown) <= 5 else f"{', '.join(_few(shown))}")


def _few(shown: list[str]) -> list[str]:
    return [shown[i] for i in np.unique(np.linspace(0, len(shown) - 1, 5).round().astype(int))]


def _short(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


def curve(label: str, steps: Any, values: Any, around: int | None = None) -> Curve:
    """A curve of at most 60 points: the 60 around index ``around``, else spread over all; the first and the last are among these."""
    x, y = np.asarray(steps), np.asarray(values, dtype=np.float64)
    if len(x) > MOST_POINTS and around is not None:
        first = min(max(around - MOST_POINTS // 2, 0), len(x) - MOST_POINTS)
        x, y = x[first : first + MOST_POINTS], y[first : first + MOST_POINTS]
    elif len(x) > MOST_POINTS:
        kept = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int))
        x, y = x[kept], y[kept]
    return Curve(label, tuple(int(s) for s in x), tuple(float(v) if np.isfinite(v) else None for v in y))


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found.

    ``kind``: its name. ``severity``: ``"error"`` (the run is broken), ``"warning"`` (it is worse than it could be) or ``"note"``.
    ``tensor``: where. ``units``: which units (rows, channels) or, for single weights, their flat positions; may be empty.
    ``first_step``: the first recorded step at which it holds. ``text``: one sentence what and why. ``advice``: what to try.
    ``evidence``: the curves that it rests on; empty where the text holds all there is.
    """

    kind: str
    tensor: str
    units: tuple[int, ...]
    first_step: int
    severity: str
    text: str
    advice: str
    evidence: tuple[Curve, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return vars(self) | {"units": list(self.units), "evidence": [c.to_json() for c in self.evidence]}

    def __str__(self) -> str:
        where = f", {self.tensor}" if self.tensor else ""
        return f"[{self.severity}] {self.kind}{where}, from step {self.first_step}: {self.text} {self.advice}"


def listed(items: Any, most: int = 8) -> str:
    """``3, 7, 9`` or ``3, 7, 9 ... (120 in all)``."""
    values = [str(i) for i in items]
    return ", ".join(values) if len(values) <= most else f"{', '.join(values[:most])} ... ({len(values)} in all)"

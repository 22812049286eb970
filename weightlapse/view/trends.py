"""The root mean square of every tensor over time, as the recording keeps it: sparklines of a network of any size, without reading a weight."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from weightlapse.recording.kept import Curve, curves
from weightlapse.recording.polar import whole
from weightlapse.recording.recording import Recording
from weightlapse.view.manifest import numbers
from weightlapse.view.subject import Subject

POINTS = 120  # a sparkline is some eighty pixels wide


class Trends:
    """Those of the subjects of a page; what is kept is looked up again when frames have come in."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[int, dict[str, Curve] | None]] = {}

    def of(self, subject: Subject, name: str) -> dict[str, Any] | None:
        """``frames`` and ``rms``, the root of the mean square of all values there; None where the recording does not keep them."""
        run = whole(subject.run)
        if run is not subject.run or not isinstance(run, Recording):
            return None
        frames, found = self._kept.get(id(subject), (-1, None))
        if frames != subject.frames:
            with subject.lock:
                frames, found = subject.frames, curves(run._store)
            self._kept[id(subject)] = frames, found
        if found is None or name not in found:
            return None
        out: dict[str, Any] = {"frames": [], "rms": []}
        for piece in subject.pieces(name):
            last = min(piece.stop, frames) - 1
            if size := math.prod(piece.shape):
                at = np.unique(
                    np.round(np.linspace(piece.start, last, min(POINTS, last + 1 - piece.start))).astype(int)
                )
                out["frames"] += at.tolist()
                out["rms"] += numbers(np.sqrt(found[name].sumsq[at] / size))
        return out

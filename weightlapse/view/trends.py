"""What the page shows of a tensor beside its picture: where colour scales end, and its root mean square over time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.picture.limits import limit_of, limit_over
from weightlapse.view.manifest import numbers
from weightlapse.view.subject import Subject

POINTS = 120  # a sparkline is some eighty pixels wide


def sampled(subject: Subject, name: str) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Frames, and from a sample of the cells there: ``rms``, the root mean square at each, and the ends of the scales of values (``limit``), of
    differences from the start (``moved``) and of updates (``stirred``)."""
    frames = [np.empty(0, np.int64)]
    rms: list[float | None] = []
    pieces = []
    for at, values in subject.sample(name):
        pieces.append(values)
        frames.append(at)
        with np.errstate(all="ignore"):
            rms += numbers(np.sqrt(np.mean(values**2, axis=1)))
    if not pieces:  # a tensor without cells
        return frames[0], {"limit": 1.0, "moved": 1.0, "stirred": 1.0, "rms": []}
    with np.errstate(all="ignore"):
        moved = limit_over([v - v[0] for v in pieces])
    found = {"limit": limit_over(pieces), "moved": moved, "stirred": limit_of(subject.updates(name)), "rms": rms}
    return np.concatenate(frames), found


def trend(subject: Subject, name: str) -> dict[str, Any] | None:
    """``frames`` and ``rms`` of all values there, without reading one; None where the recording does not keep them."""
    found = subject.curves()
    if found is None or name not in found:
        return None
    out: dict[str, Any] = {"frames": [], "rms": []}
    for piece in subject.pieces(name):
        last = min(piece.stop, len(found[name].sumsq)) - 1
        if size := math.prod(piece.shape):
            at = np.unique(np.round(np.linspace(piece.start, last, min(POINTS, last + 1 - piece.start))).astype(int))
            out["frames"] += at.tolist()
            out["rms"] += numbers(np.sqrt(found[name].sumsq[at] / size))
    return out

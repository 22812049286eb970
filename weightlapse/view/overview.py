"""How much every tensor has changed, from a bounded sample of its cells: what the map of the network and the ranking of its layers show.

A network of 10^8 weights must be surveyed while a person waits for the page, so nothing is read whole: a few thousand cells of each tensor stand
for all of them, at a few moments of the run. Sums are scaled up to the size of the tensor, so that tensors of one layer can be added.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.picture.sample import bands
from weightlapse.recording.kept import Curve
from weightlapse.view.manifest import numbers
from weightlapse.view.subject import Subject

MOMENTS = 16
CELLS = 6144
LARGE = 20_000_000  # numbers in a frame from which on nothing is read but what the recording keeps of itself
SECONDS = 0.5  # of work for one answer; the page asks again for the rest


def moments(subject: Subject) -> NDArray[np.int64]:
    """The frames at which the run is surveyed: evenly spaced, and the first and the last of every stretch of one layout."""
    last = subject.frames - 1
    edges = [f for e in subject.run.layouts for f in (e.start, min(e.stop, subject.frames) - 1) if 0 <= f <= last]
    even = np.round(np.linspace(0, last, min(MOMENTS, last + 1))).astype(np.int64)
    return np.unique(np.concatenate([even, np.array(edges, np.int64)]))


def overview(subject: Subject, since: int, cancelled: Callable[[], bool], seconds: float = SECONDS) -> dict[str, Any]:
    """The tensors from number ``since`` on, as many as ``seconds`` allow (one at least).

    Per tensor and moment: ``norm`` sum of squares of the weights, ``moved`` that of their difference from the first frame of this shape, ``step`` that of
    the difference from the moment before (0 at the first); ``bad``: the first of these frames in which a sampled cell is no finite number. ``next``
    is the number of the first tensor that is not in the answer, None at the end. ``exact``: every cell was read.

    Of a large recording that keeps statistics all tensors are in one answer, ``norm`` and ``bad`` from all of their values, and ``moved`` and ``step`` are the
    square sums of all changes from frame to frame on the way: what the differences would be if the changes had no common direction.
    """
    begun = time.monotonic()
    names = subject.names()
    at = moments(subject)
    if since == 0 and (kept := from_statistics(subject, names, at)) is not None:
        return {"tensors": kept, "next": None, "of": len(names)}
    found: dict[str, Any] = {}
    number = since
    while number < len(names):
        if found and (cancelled() or time.monotonic() - begun > seconds):
            break
        found[names[number]] = surveyed(subject, names[number], at)
        number += 1
    return {"tensors": found, "next": number if number < len(names) else None, "of": len(names)}


def surveyed(subject: Subject, name: str, at: NDArray[np.int64]) -> dict[str, Any]:
    """One tensor at the frames ``at`` (see `overview`)."""
    out: dict[str, Any] = {"frames": [], "norm": [], "moved": [], "step": [], "bad": None, "exact": True}
    for piece in subject.pieces(name):
        size = math.prod(piece.shape)
        frames = at[(at >= piece.start) & (at < piece.stop)]
        if not size or not len(frames):
            continue
        places = (frames - piece.start).tolist()
        with subject.lock:
            track = subject.track(name, piece)
            parts = [
                np.asarray(track[(places, *where)]).reshape(len(places), -1) for where in bands(piece.shape, CELLS)
            ]
        values = np.concatenate(parts, axis=1).astype(np.float64)
        share = size / values.shape[1]
        out["exact"] &= share == 1
        finite = np.isfinite(values)
        if out["bad"] is None and not finite.all():
            out["bad"] = int(frames[np.argmin(finite.all(axis=1))])
        values = np.where(finite, values, 0.0)
        before = np.concatenate([values[:1], values[:-1]])
        with np.errstate(over="ignore"):
            out["frames"] += frames.tolist()
            out["norm"] += numbers(share * (values**2).sum(axis=1))
            out["moved"] += numbers(share * ((values - values[0]) ** 2).sum(axis=1))
            out["step"] += numbers(share * ((values - before) ** 2).sum(axis=1))
    return out


def from_statistics(subject: Subject, names: list[str], at: NDArray[np.int64]) -> dict[str, Any] | None:
    """All tensors at the frames ``at``, from the statistics of a large recording; None where it is small, or keeps none."""
    if sum(map(math.prod, subject.run.shapes.values())) < LARGE or (found := subject.curves()) is None:
        return None
    return {name: _at_moments(found[name], subject, name, at) for name in names}


def _at_moments(curve: Curve, subject: Subject, name: str, at: NDArray[np.int64]) -> dict[str, Any]:
    out: dict[str, Any] = {"frames": [], "norm": [], "moved": [], "step": [], "bad": None, "exact": False}
    for piece in subject.pieces(name):
        frames = at[(at >= piece.start) & (at < piece.stop)]
        if not math.prod(piece.shape) or not len(frames):
            continue
        way = np.cumsum(curve.moved[piece.start : piece.stop]) - curve.moved[piece.start]
        moved = way[frames - piece.start] - way[frames[0] - piece.start]
        odd = np.flatnonzero(curve.odd[frames] > 0)
        if out["bad"] is None and len(odd):
            out["bad"] = int(frames[odd[0]])
        out["frames"] += frames.tolist()
        out["norm"] += numbers(curve.sumsq[frames])
        out["moved"] += numbers(moved)
        out["step"] += numbers(np.diff(moved, prepend=moved[0]))
    return out

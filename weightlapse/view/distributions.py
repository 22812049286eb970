"""Distributions over time: percentiles and histograms of weights, updates or gradients, of a tensor or of one of its units; norms of all
units; singular values. All from a bounded number of cells and moments, and it is said where a sample stands for the whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.picture.limits import limit_of
from weightlapse.picture.sample import Piece, bands
from weightlapse.view.manifest import numbers
from weightlapse.view.subject import Subject

PERCENTILES = (
    0,
    7,
    16,
    31,
    50,
    69,
    84,
    93,
    100,
)  # the bands of a normal distribution at 0.5, 1 and 1.5 standard deviations
MOMENTS = 48
CELLS = 16_384  # of a tensor, at each moment
BINS = 48
KINDS = ("weights", "updates", "gradients")
UNITS = 512
UNIT_WEIGHTS = 393_216  # weights that the norms of units are made from, at each moment
UNIT_PLACES = 8
SPECTRUM_MOMENTS = 6
SPECTRUM_SIDE = 1024
SPECTRUM_CELLS = 4_000_000


def distribution(
    subject: Subject, names: list[str], kind: str, unit: int | None, cancelled: Callable[[], bool]
) -> dict[str, Any]:
    """The values of some tensors together. ``frames`` (T,), ``percentiles`` (T, 9) at `PERCENTILES`, ``counts`` (T, 48) of a histogram from ``low`` to
    ``high`` in equal bins (what lies beyond is in ``beyond``), ``bad`` (T,) numbers that are not finite; ``sampled``: [cells read, cells there], None when
    all were.
    """
    if kind not in KINDS:
        raise InvalidArgument(f"of={kind!r} is none of {', '.join(KINDS)}")
    if kind == "gradients":
        names = gradients_of(subject, names)
    rows: dict[int, list[NDArray[np.float64]]] = {}
    read = there = 0
    for name in names:
        pieces = [p for p in subject.pieces(name) if math.prod(p.shape)]
        for piece in pieces:
            where = _where(piece, unit)
            if piece is pieces[0]:
                there += math.prod(piece.shape) // (piece.shape[0] if unit is not None else 1)
                read += sum(math.prod(s.stop - s.start for s in w) for w in where)
            for frame in _moments(piece, sum(p.stop - p.start for p in pieces), first=int(kind == "updates")):
                if cancelled():
                    break
                values = _cells(subject, name, piece, [frame], where)
                if kind == "updates":
                    with np.errstate(invalid="ignore", over="ignore"):
                        values = values - _cells(subject, name, piece, [frame - 1], where)
                rows.setdefault(piece.start + frame, []).append(values[0])
    frames = sorted(rows)
    sampled = [read, there] if read < there else None
    return {"frames": frames, "sampled": sampled, "of": kind, **summary([np.concatenate(rows[f]) for f in frames])}


def layer_of(subject: Subject, name: str) -> list[str]:
    """The tensors of one layer and stream: those whose names differ from ``name`` in the last word only."""
    streams = subject.run.streams
    stem = re.match(r"(.*)[./]", name)
    if stem is None:
        return [name]
    same = re.compile(re.escape(stem[0]) + r"[^./]+")
    return [n for n in subject.names() if streams.get(n) == streams.get(name) and same.fullmatch(n)]


def _moments(piece: Piece, total: int, first: int) -> list[int]:
    """Frames of a piece, counted from its start, from number ``first`` on; the whole recording gets about `MOMENTS`."""
    length = piece.stop - piece.start
    if length <= first:
        return []
    count = max(2, min(length - first, round(MOMENTS * length / total)))
    return sorted({round(f) for f in np.linspace(first, length - 1, count).tolist()})


def summary(rows: list[NDArray[np.float64]]) -> dict[str, Any]:
    """Percentiles and histograms of each row of numbers, on bins common to all of them."""
    finite = [row[np.isfinite(row)] for row in rows]
    every = np.concatenate(finite) if finite else np.zeros(0)
    low, high = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
    limit = limit_of(every)
    low, high = max(low, -limit), min(high, limit)
    if not low < high:
        low, high = low - (abs(low) or 1.0) * 0.5, high + (abs(high) or 1.0) * 0.5
    percentiles, counts, beyond = [], [], []
    for row in finite:
        percentiles.append(numbers(np.percentile(row, PERCENTILES)) if row.size else [None] * len(PERCENTILES))
        made, _ = np.histogram(row, BINS, (low, high))
        counts.append(made.tolist())
        beyond.append(int(row.size - made.sum()))
    bad = [int(len(row) - len(kept)) for row, kept in zip(rows, finite, strict=True)]
    return {"percentiles": percentiles, "counts": counts, "beyond": beyond, "low": low, "high": high, "bad": bad}


def unit_norms(subject: Subject, name: str, cancelled: Callable[[], bool]) -> dict[str, Any]:
    """The root mean square of units (positions on the first axis) over time: ``frames`` (T,), ``units`` (N,), ``lines`` (N, T); those of the last shape.
    Of a large tensor neighbouring units at a few places are taken (the store keeps neighbours together), at most 512 and 393 216 weights."""
    piece = subject.pieces(name)[-1]
    if len(piece.shape) < 2 or not math.prod(piece.shape):
        raise InvalidArgument(f"{name!r} has no units of several weights: its shape is {piece.shape}")
    high, width = piece.shape[0], math.prod(piece.shape[1:])
    tail = _leading(piece.shape[1:], UNIT_WEIGHTS // min(high, UNITS))
    read = math.prod(s.stop for s in tail)
    count = min(high, UNITS, max(UNIT_PLACES, UNIT_WEIGHTS // read))
    places = min(UNIT_PLACES, count) if count < high else 1
    starts = np.linspace(0, high - count // places, places).astype(int).tolist()
    at = np.unique(np.round(np.linspace(0, piece.stop - piece.start - 1, MOMENTS)).astype(np.int64))
    units: list[int] = []
    lines: list[list[float | None]] = []
    for start in starts:
        if cancelled():
            break
        chosen = slice(start, start + count // places)
        with subject.lock:
            values = np.asarray(subject.track(name, piece)[(at.tolist(), chosen, *tail)], np.float64)
        with np.errstate(all="ignore"):
            size = np.sqrt((values.reshape(*values.shape[:2], -1) ** 2).mean(axis=2))
        units += range(chosen.start, chosen.stop)
        lines += [numbers(line) for line in size.T]
    sampled = [read, width] if read < width else None
    return {"frames": (at + piece.start).tolist(), "units": units, "of": high, "lines": lines, "sampled": sampled}


def spectrum(subject: Subject, name: str, cancelled: Callable[[], bool]) -> dict[str, Any]:
    """Singular values, largest first, of the tensor as a matrix (first axis x all others), at a few moments: ``frames`` (T,), ``values`` (T, k)."""
    frames, values = [], []
    last = subject.pieces(name)[-1]
    if len(last.shape) < 2 or not math.prod(last.shape):
        raise InvalidArgument(f"{name!r} is no matrix, so it has no spectrum: its shape is {last.shape}")
    rows, cols = last.shape[0], math.prod(last.shape[1:])
    if min(rows, cols) > SPECTRUM_SIDE or rows * cols > SPECTRUM_CELLS:
        raise InvalidArgument(
            f"the spectrum of {rows} x {cols} takes too long for a page; wl.measure(run, 'spectrum', tensors={name!r}) has the time"
        )
    for frame in np.unique(
        np.round(np.linspace(last.start, last.stop - 1, SPECTRUM_MOMENTS)).astype(np.int64)
    ).tolist():
        if cancelled():
            break
        with subject.lock:
            matrix = np.asarray(subject.track(name, last)[frame - last.start], np.float64).reshape(rows, cols)
        if not np.isfinite(matrix).all():
            continue  # a NaN has no spectrum: the moment is left out
        frames.append(frame)
        values.append(np.linalg.svd(matrix, compute_uv=False).tolist())
    return {"frames": frames, "values": values}


def gradients_of(subject: Subject, names: list[str]) -> list[str]:
    """The recorded gradients of some tensors."""
    known, streams = set(subject.names()), subject.run.streams
    found = [n if streams.get(n) == "gradients" else f"gradients:{n}" for n in names]
    found = [n for n in found if n in known]
    if not found:
        raise InvalidArgument(
            f"no gradient of {names[0]!r} is recorded; watch(..., streams=('weights', 'gradients')) records it"
        )
    return found


def _where(piece: Piece, unit: int | None) -> list[tuple[slice, ...]]:
    if unit is None:
        return bands(piece.shape, CELLS)
    if not piece.shape or not 0 <= unit < piece.shape[0]:
        raise InvalidArgument(f"unit={unit} lies outside the first axis of {piece.shape}")
    return [(slice(unit, unit + 1), *_leading(piece.shape[1:], CELLS))]


def _leading(shape: tuple[int, ...], budget: int) -> tuple[slice, ...]:
    """The first positions of each axis, at most ``budget`` cells together."""
    taken: list[slice] = []
    for n in reversed(shape):
        take = min(n, max(1, budget))
        taken.append(slice(0, take))
        budget //= take
    return tuple(reversed(taken))


def _cells(
    subject: Subject, name: str, piece: Piece, frames: list[int], where: list[tuple[slice, ...]]
) -> NDArray[np.float64]:
    with subject.lock:
        track = subject.track(name, piece)
        parts = [np.asarray(track[(frames, *w)]).reshape(len(frames), -1) for w in where]
    return np.concatenate(parts, axis=1).astype(np.float64)

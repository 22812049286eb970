"""What is odd about a series of checkpoints: the same one twice, two exchanged, some missing, some not written to their end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE = 8192  # values that stand for a checkpoint
SHORTER = 0.1  # by so much of the way past two checkpoints it must become shorter when they are exchanged
USUAL = 3.0  # times the usual unevenness of the strides, which the way must become shorter by
FEW = 1 / 3  # of the checkpoints: more that must be exchanged are another kind of way
FOREIGN = 3.0  # times the longest other stride: one to a checkpoint that belongs elsewhere
INNER = (
    0.95  # an exchange of the first or last counts so much: turning all between them round is the same way, backwards
)
_MOST_MISSING = 1000

Numbers = NDArray[np.float64]


def sample_of(tensors: Mapping[str, Any]) -> Numbers:
    """Some values of each tensor, as float64 (n,), evenly spread. ``tensors``: plain arrays."""
    each = max(SAMPLE // max(len(tensors), 1), 16)
    parts = []
    for name in sorted(tensors):
        values = np.asarray(tensors[name]).reshape(-1)
        values = values[:: max(-(-values.size // each), 1)]
        parts.append(np.abs(values).astype(np.float64) if values.dtype.kind == "c" else values.astype(np.float64))
    return np.nan_to_num(np.concatenate([np.empty(0), *parts]), posinf=0.0, neginf=0.0)


def missing_steps(steps: Sequence[int]) -> list[int]:
    """Steps that a series which goes on in equal strides leaves out.

    >>> missing_steps([0, 1, 2, 4, 8, 1000, 2000, 3000, 5000, 6000])
    [4000]
    """
    strides = Counter(b - a for a, b in pairwise(steps))
    if not strides:
        return []
    stride, times = max(strides.items(), key=lambda item: (item[1], item[0]))
    if stride <= 0 or times < 3:
        return []
    found: list[int] = []
    for a, b in pairwise(steps):
        if b - a > stride and a % stride == steps[-1] % stride == b % stride:
            found += range(a + stride, b, stride)
        if len(found) > _MOST_MISSING:
            return found[:_MOST_MISSING]
    return found


def exchanged(samples: Sequence[Numbers]) -> list[tuple[int, int]]:
    """Pairs of checkpoints that lie in each other's place: the way through all of them becomes clearly shorter when they are exchanged.

    Training moves on: what lies between two checkpoints in time lies between them in space. Around a minimum, where they are all equally far
    from each other, nothing can be told, and nothing is.
    """
    if len({len(s) for s in samples}) > 1:
        return []
    own: list[int] = []  # one that was there before, bit for bit, is no place on the way
    for k, sample in enumerate(samples):
        if not any(np.array_equal(sample, samples[other]) for other in own):
            own.append(k)
    count = len(own)
    if count < 4:
        return []
    points = np.stack([samples[k] for k in own])
    square = (points**2).sum(axis=1)
    distance = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * points @ points.T, 0))
    order, found = np.arange(count), []
    for _ in range(count // 2):
        best = _best_exchange(distance[np.ix_(order, order)])
        if best is None:
            break
        i, j = best
        found.append((own[int(min(order[i], order[j]))], own[int(max(order[i], order[j]))]))
        order[[i, j]] = order[[j, i]]
    if found and not _explains(distance, order):
        return []
    return sorted(found)


def _explains(d: NDArray[np.float64], order: NDArray[np.int64]) -> bool:
    """Whether the exchanges make an even way of an uneven one; where strides vary by themselves, as when weights swing, they explain nothing.

    A foreign checkpoint that is moved to an end shortens the way too, and leaves a stride there like no other.
    """
    now = np.arange(len(order))
    old, new = (d[at[:-1], at[1:]] for at in (now, order))
    moved = order != now
    beside = moved[:-1] | moved[1:]
    saved = 1 - new.sum() / old.sum()
    gained = 1 - new[beside].sum() / old[moved[:-1] | moved[1:]].sum()
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(new, 1e-300))
    uneven = float(np.median(np.abs(logs[1:-1] - (logs[:-2] + logs[2:]) / 2))) if len(new) > 2 else 0.0
    if saved <= 0 or gained <= USUAL * uneven or moved.sum() > max(2, FEW * len(order)):
        return False
    return bool(beside.all() or new[beside].max() <= FOREIGN * new[~beside].max())


def _best_exchange(d: NDArray[np.float64]) -> tuple[int, int] | None:
    """The two places whose exchange shortens the way most, where it does so clearly."""
    count, best, gain = len(d), None, 0.0
    wide = np.zeros((count + 2, count + 2))  # before the first and behind the last there is nothing, at no distance
    wide[1:-1, 1:-1] = d
    at = np.arange(1, count + 1)
    for i in range(1, count):
        j = at[i:]
        near = j == i + 1
        old = wide[i - 1, i] + wide[j, j + 1] + np.where(near, wide[i, j], wide[i, i + 1] + wide[j - 1, j])
        new = wide[i - 1, j] + wide[i, j + 1] + np.where(near, wide[i, j], wide[j, i + 1] + wide[j - 1, i])
        saved = old - new
        worth = saved * np.where((i == 1) | (j == count), INNER, 1.0)
        k = int(np.argmax(worth))
        if worth[k] > gain and saved[k] > SHORTER * old[k]:
            gain, best = float(worth[k]), (i - 1, int(j[k]) - 1)
    return best


def emptied(zero: Mapping[str, bool], before: Mapping[str, bool]) -> list[str]:
    """Matrices that are zero everywhere and were not in the checkpoint before: what a download that was not finished leaves. Both as `zeros_in` tells."""
    return [name for name, is_zero in zero.items() if is_zero and not before.get(name, True)]


def zeros_in(tensors: Mapping[str, Any]) -> dict[str, bool]:
    """Of each matrix whether it is zero everywhere."""
    return {name: not np.any(values) for name, values in tensors.items() if np.ndim(values) > 1 and np.size(values)}

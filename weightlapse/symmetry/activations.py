"""Activation matching: units correspond when they say the same on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.assign import assign
from weightlapse.symmetry.elements import Elements
from weightlapse.symmetry.match import Move
from weightlapse.symmetry.search import Search
from weightlapse.symmetry.units import Units

Activations = Mapping[str, NDArray[np.float64]]


def match_activations(search: Search, units_a: Activations, units_b: Activations) -> Elements:
    """The element that pairs the units of a search's networks by the correlation of what they say (rows of ``units_a``, ``units_b``).

    Units that say nothing (dead, constant) correlate with nothing: they are told apart by their weights. So are the
    units of groups without activations, with all other groups in place.
    """
    matcher = search.matcher()
    silent: list[tuple[Units, NDArray[np.int64]]] = []
    told: set[str] = set()
    for name, u in matcher.units.items():
        if name not in units_a or name not in units_b or units_a[name].shape != units_b[name].shape:
            continue  # not seen in both, or on other samples (experts choose theirs)
        if u.group.parent is not None or matcher.wiring.children(name) or not (u.permute or u.sign):
            continue
        told.add(name)
        corr, live_a, live_b = correlation(*(v[name].reshape(u.size, -1) for v in (units_a, units_b)))
        order = assign(np.abs(corr) if u.sign else corr) if u.permute else np.arange(u.size)
        flip = corr[np.arange(u.size), order] < 0 if u.sign else None
        matcher.apply(Move(u, order, flip))
        doubt = np.flatnonzero(~live_a | ~live_b[order])
        if len(doubt) > 1 or (len(doubt) and u.sign):
            silent.append((u, doubt))
    matcher.descend(only=[u for u in matcher.steps if u.name not in told])
    for _ in range(3):  # silent units of one layer see those of the next
        moved = False
        for u, doubt in silent:
            moved |= matcher.improve(u, doubt)
        if not moved:
            break
    return matcher.at


def correlation(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Correlation of the rows of x with those of y, 0 for constant rows; and which rows are not constant."""
    (rows_x, live_x), (rows_y, live_y) = standardised(x), standardised(y)
    return rows_x @ rows_y.T, live_x, live_y


def standardised(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The rows with mean 0 and norm 1, 0 for constant ones; and which are not constant."""
    z = z - z.mean(axis=1, keepdims=True)
    size = np.sqrt(np.einsum("ij,ij->i", z, z))
    alive = size > 1e-9 * size.max(initial=0.0)
    return z / np.where(alive, size, np.inf)[:, None], alive

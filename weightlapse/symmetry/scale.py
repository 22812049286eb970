"""Positive scale: bringing every unit to its balanced size, and finding the size that fits another network best.

A ReLU unit computes the same when its incoming weights and bias are multiplied by s > 0 and its outgoing ones divided by s.
Balanced means that both sides have the same norm; over all units at once that is the one rescaling that makes the sum of
all squares smallest (it is convex in log s), so it does not depend on the order of units or on how the network was scaled.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.moved import Moved
from weightlapse.symmetry.states import Arrays, Weights
from weightlapse.symmetry.units import Units
from weightlapse.wiring.arrays import is_single, of_rows, shape_of, squares

Factors = dict[str, NDArray[np.float64]]


def scalable(units: Iterable[Units]) -> list[Units]:
    """The groups whose units may be rescaled by +1 and -1 exponents, which is what the formulas here know."""
    return [u for u in units if u.scale and all(p.exponent in (-1, 0, 1) for p in u.parts)]


def balance(state: Weights, units: Iterable[Units], *, sweeps: int = 200, tolerance: float = 1e-10) -> Factors:
    """Factors that balance every scalable group: incoming and outgoing weights get the same norm.

    Units without any incoming or outgoing weight keep factor 1: no scale would balance them.
    """
    groups = scalable(units)
    factors = {u.name: np.ones(u.size) for u in groups}
    energy = _energies(state, groups)
    for _ in range(sweeps):
        worst = 0.0
        for u in groups:
            sides = {1: np.zeros(u.size), -1: np.zeros(u.size)}
            for p in u.voters:
                if p.exponent and p.tensor in energy:
                    sides[p.exponent] += p.rows(energy[p.tensor]).sum(axis=1)
            both = (sides[1] > 0) & (sides[-1] > 0)
            s = np.ones(u.size)
            s[both] = (sides[-1][both] / sides[1][both]) ** 0.25
            worst = max(worst, float(np.abs(np.log(s)).max(initial=0.0)))
            factors[u.name] *= s
            for p in u.voters:
                if p.tensor in energy:
                    energy[p.tensor] = p.moved(energy[p.tensor], None, s**2)
        if worst < tolerance:
            break
    return factors


def _energies(state: Weights, groups: list[Units]) -> Arrays:
    """Squares of the tensors that are rescaled, summed over the axes that are not."""
    axes: dict[str, set[int]] = {}
    for u in groups:
        for p in u.voters:
            axes.setdefault(p.tensor, set()).update(
                {p.member.axis} | ({p.member.where[0]} if p.member.where else set())
            )
    out: Arrays = {}
    for t, kept in axes.items():
        if t in state:
            rest = tuple(i for i in range(len(shape_of(state, t))) if i not in kept)
            out[t] = squares(state[t], rest)
    return out


def rescaled(state: Weights, units: Iterable[Units], factors: Factors) -> Weights:
    """A state with every unit multiplied by its factor, in the arrays' own precision; each array is made when looked at."""
    out = Moved(state)
    for u in units:
        f = factors.get(u.name)
        if f is None or np.all(f == 1):
            continue
        for p in u.parts:
            if p.exponent:
                out.move(p.member, None, f**p.exponent)
    return out


def fit_scales(a: Weights, b: Weights, units: Iterable[Units], *, sweeps: int = 20) -> Factors:
    """Factors for the units of b, in their present order, that bring b as near to a as scale can from here.

    Coordinate descent; each unit's best factor t minimises ``P t^2 - 2 Q t + R / t^2 - 2 S / t`` (P, R: squared norms of
    b's incoming and outgoing weights; Q, S: inner products with a's). A group's step is kept only when it helps. Ends when no
    factor moves by more than the rounding of the weights lets it be known.
    """
    groups = scalable(units)
    factors = {u.name: np.ones(u.size) for u in groups}
    tolerance = 1e-7 if any(is_single(b[p.tensor]) for u in groups[:1] for p in u.voters) else 1e-9
    b = Moved(b)
    for _ in range(sweeps):
        worst = 0.0
        for u in groups:
            t, better = _best_factor(a, b, u)
            names = {p.tensor for p in u.parts if p.exponent and p.tensor in b}
            before = dict(b.placements)
            gap = _gap(a, b, names) if u.twice else 0.0  # there the formula does not know all
            for p in u.parts:
                if p.exponent:
                    b.move(p.member, None, t**p.exponent)
            if _gap(a, b, names) < gap if u.twice else better:
                factors[u.name] *= t
                worst = max(worst, float(np.abs(np.log(t)).max(initial=0.0)))
            else:
                b.restore(before)
        if worst < tolerance:
            break
    return factors


def _best_factor(a: Weights, b: Weights, u: Units) -> tuple[NDArray[np.float64], bool]:
    """The factors, and whether they bring the group nearer at all."""
    norm = {1: np.zeros(u.size), -1: np.zeros(u.size)}
    inner = {1: np.zeros(u.size), -1: np.zeros(u.size)}
    for p in u.voters:
        if p.exponent:
            x, y = p.rows(a[p.tensor]), p.rows(b[p.tensor])
            norm[p.exponent] += of_rows(y, y)
            inner[p.exponent] += of_rows(x, y)
    P, Q, R, S = norm[1], inner[1], norm[-1], inner[-1]

    def value(x: NDArray[np.float64]) -> NDArray[np.float64]:
        t = np.exp(x)
        return P * t**2 - 2 * Q * t + R / t**2 - 2 * S / t

    x = np.zeros(u.size)
    for _ in range(30):  # Newton in log t, with steps that are clipped and halved until they help
        t = np.exp(x)
        slope = 2 * P * t**2 - 2 * Q * t - 2 * R / t**2 + 2 * S / t
        bend = 4 * P * t**2 - 2 * Q * t + 4 * R / t**2 - 2 * S / t
        step = np.where((norm[1] > 0) & (norm[-1] > 0), -slope / np.maximum(np.abs(bend), 1e-300), 0.0)
        step = np.clip(step, -1, 1)
        now = value(x)
        for _ in range(8):
            worse = value(x + step) > now
            if not worse.any():
                break
            step = np.where(worse, step / 2, step)
        step = np.where(value(x + step) > now, 0.0, step)
        x = x + step
        if np.abs(step).max(initial=0.0) < 1e-14:
            break
    return np.exp(x), bool(value(x).sum() < value(np.zeros(u.size)).sum())


def _gap(a: Weights, b: Weights, names: Iterable[str]) -> float:
    return float(sum(squares(x, tuple(range(x.ndim))).sum() for x in (a[n] - b[n] for n in sorted(names))))

"""The doctor's evidence the slow, obvious way: every value of every frame is read, all of it is kept, and every unit of every frame is looked at."""

from __future__ import annotations

from typing import Any

import numpy as np

from weightlapse.measures import rules_units
from weightlapse.measures.doctor import judged
from weightlapse.measures.evidence import Evidence, decay_between
from weightlapse.measures.finding import Finding
from weightlapse.measures.motion import Moves
from weightlapse.measures.observed import observed_of
from weightlapse.measures.reading import Reading
from weightlapse.measures.recorder import recorder_findings
from weightlapse.measures.series import GLIDE, ROUNDINGS, STRAIGHT, TensorSeries, rounding
from weightlapse.measures.stream import parts, select
from weightlapse.measures.units import Layer, gather, layers_of


class Everything(Evidence):
    """Evidence in which nothing is open."""

    values: dict[str, np.ndarray]
    alone: dict[str, np.ndarray]

    def moves(self, layer: Layer, first: int, what: str) -> tuple[Moves, Moves | None]:
        def of(places: Any) -> Moves:
            length, size, aside, last = [], [], [], None
            for t in range(max(first - 1, 0), len(self.steps) - 1):
                rows = gather(places, {p.tensor: self.alone[p.tensor][t] for p in places})
                after = gather(places, {p.tensor: self.values[p.tensor][t + 1] for p in places})
                length.append(np.sqrt((rows**2).sum(axis=1)))
                size.append(np.sqrt((after**2).sum(axis=1)))
                aside.append(_aside(rows, last))
                last = rows
            return Moves(np.stack(length), np.stack(size), np.stack(aside))

        with np.errstate(all="ignore"):
            return of(layer.incoming), of(layer.outgoing) if layer.outgoing else None

    def paths(self, name: str, enough: float) -> tuple[np.ndarray, np.ndarray]:
        x = self.values[name].reshape(len(self.steps), -1)
        if "complex" in self.run.dtypes[name]:
            x = np.ascontiguousarray(x).view(np.complex128)
        return np.abs(np.diff(x, axis=0)).sum(axis=0), np.abs(x[-1] - x[0])


def _aside(rows: np.ndarray, last: np.ndarray | None) -> np.ndarray:
    if last is None:
        return np.full(len(rows), np.nan)
    square = (last**2).sum(axis=1)
    factor = np.where(square > 0, (rows * last).sum(axis=1) / np.where(square > 0, square, 1), 0)
    aside = np.sqrt(((rows - factor[:, None] * last) ** 2).sum(axis=1))
    return np.where((square > 0) & (factor > 0), aside, np.nan)


def _is_fresh(new: np.ndarray, last: np.ndarray | None, norm: float, eps: float) -> bool:
    length = float(np.linalg.norm(new))
    least = max(STRAIGHT * length, ROUNDINGS * eps * norm)
    if not np.isfinite(length) or length <= least:
        return False
    if last is None or not float(np.linalg.norm(last)) > 0:
        return True
    factor = max(0.0, float((new * last).sum()) / float((last * last).sum()))
    return float(np.linalg.norm(new - factor * last)) > least or not GLIDE[0] <= factor <= GLIDE[1]


def everything(run: Any) -> Everything:
    names, observed, steps = select(run), observed_of(run), np.asarray(run.steps)
    names = [name for name in names if np.prod(run.shapes[name]) > 0]
    values = {n: np.asarray(parts(np.asarray(run[n][:])), np.float64) for n in names}
    alone, series = {}, {}
    with np.errstate(all="ignore"):
        for name, x in values.items():
            update, flat = np.diff(x, axis=0), x.reshape(len(x), -1)
            share = decay_between(observed, name, steps).reshape(-1, *[1] * (x.ndim - 1))
            alone[name] = update + share * x[:-1]
            norm, eps = np.linalg.norm(flat, axis=1), rounding(str(run.dtypes[name]))
            fresh = [
                _is_fresh(alone[name][t], alone[name][t - 1] if t else None, norm[t + 1], eps)
                for t in range(len(x) - 1)
            ]
            moved = update.reshape(len(update), -1)
            bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
            where = np.asarray(run[name][int(bad[0])]) if len(bad) else None
            series[name] = TensorSeries(
                norm,
                np.concatenate([[np.nan], np.linalg.norm(moved, axis=1)]),
                np.abs(flat).max(axis=1),
                -(moved * flat[:-1]).sum(axis=1),
                np.array(fresh, np.int8),
                None if where is None else (int(bad[0]), np.argwhere(~np.isfinite(where if where.dtype.kind == "c" else where.astype(float)))),
            )  # fmt: skip
    made = Everything(run, names, steps, layers_of(run, names), series, observed, Reading(run, range(run.frames), None))
    made.values, made.alone = values, alone
    return made


def diagnosed(run: Any) -> list[Finding]:
    """The findings of the rules on :func:`everything`, without the few looks that clear most layers."""
    usual, rules_units._suspected = (
        rules_units._suspected,
        lambda evidence, layer: rules_units._state(evidence, layer, 0),
    )
    try:
        return judged(everything(run)) + recorder_findings(run)
    finally:
        rules_units._suspected = usual

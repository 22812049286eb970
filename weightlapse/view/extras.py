"""Numbers that the page draws beside the pictures: unit orders, curves, one unit's weights, findings, two runs compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, WeightlapseError
from weightlapse.picture.arrangement import Arrangement, Level
from weightlapse.recording.neuron import neuron as unit_over_time
from weightlapse.recording.polar import PARTS, whole
from weightlapse.view.manifest import numbers
from weightlapse.view.subject import Subject

CURVE_POINTS = 400
CURVE_CELLS = 60_000_000  # cells that one exact curve may read; beyond that a sample of the tensor stands for it
ORDER_CELLS = 4_000_000
ORDERS = ("norm", "canonical", "kin")
NEURON_VALUES = 4_000_000


def unit_order(subject: Subject, name: str, frame: int, kind: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column orders in which the tensor is drawn.

    ``norm``: largest units of the last frame first. ``canonical``: that of `weightlapse.canonical`. ``kin``: as stored, but units that
    grew in mid-run beside their parents.
    """
    piece = subject.piece(name, frame)
    plane = subject.arrangement(name, piece)
    if plane.rows * plane.cols > ORDER_CELLS:
        raise InvalidArgument(
            f"{name!r} has {plane.rows * plane.cols:,} cells; units are put in order up to {ORDER_CELLS:,}"
        )
    if plane.wrapped or set(_axes(plane.down)) & set(_axes(plane.across)):
        if kind not in ORDERS:
            raise InvalidArgument(f"order={kind!r} is none of {', '.join(map(repr, ORDERS))}")
        return np.arange(plane.rows), np.arange(plane.cols)  # units that run over several lines stay as they are
    if kind == "kin":
        found = subject.lineage().at(frame).get(name, {})
        orders = {axis: order for axis, (order, _) in found.items()}
        return plane.moved(orders, down=True), plane.moved(orders, down=False)
    if kind == "canonical":
        return _canonical_order(subject, name, piece.stop - 1, plane)
    if kind != "norm":
        raise InvalidArgument(f"order={kind!r} is none of {', '.join(map(repr, ORDERS))}")
    with np.errstate(all="ignore"):
        weights = np.nan_to_num(np.abs(subject.picture(name, piece.stop - 1).astype(np.float64)))
        rows, cols = (weights**2).sum(axis=1), (weights**2).sum(axis=0)
    return np.argsort(-rows, kind="stable"), np.argsort(-cols, kind="stable")


def _axes(levels: tuple[Level, ...]) -> list[int]:
    return [level.axis for level in levels]


def _canonical_order(
    subject: Subject, name: str, frame: int, plane: Arrangement
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The unit order of the canonical form of the run's last state, read off by moving cell numbers instead of weights.

    Only the order is taken: signs and scales stay as recorded, so that a drawn value is a stored value.
    """
    run = subject.run
    if run.wiring is None:
        raise InvalidArgument(
            f"{subject.name} was recorded without its wiring (pass example= to watch), so its units have no canonical order"
        )
    from weightlapse.symmetry.canonical import canonical_elements
    from weightlapse.symmetry.units import units_of

    wiring = run.wiring
    stem = name if name in whole(run).shapes else name.rpartition(".")[0]  # the parts of a complex tensor move with it
    with subject.lock:
        state = whole(run).state(frame=frame)
    found = canonical_elements(state, wiring, symmetries=("permutation", "sign", "scale"))
    order = type(found)(found.order, {g: np.ones_like(f) for g, f in found.factor.items()})
    cells = np.arange(plane.rows * plane.cols, dtype=np.float64).reshape(plane.rows, plane.cols)
    units = {g.name: units_of(g, frozenset()) for g in wiring.groups}
    moved = np.asarray(order.on_arrays({stem: plane.unfold(cells)}, units)[stem])
    drawn = plane.read(moved[None], 0, slice(0, plane.rows), slice(0, plane.cols)).astype(np.int64)
    return drawn[:, 0] // plane.cols, drawn[0] % plane.cols


def curve(subject: Subject, name: str, kind: str, cancelled: Callable[[], bool]) -> dict[str, Any]:
    """A number of one tensor over time, at no more than a few hundred frames.

    ``kind``: ``norm`` (L2), ``mean``, ``mass`` (sum of magnitudes), ``update`` (L2 of the step into the frame), ``distance`` (L2 from
    the first frame), ``row:I`` or ``col:J`` (the average of one row or column). Where the tensor is too large to read whole at
    every point, a sample of its cells stands for it and ``of`` says how many of how many.
    """
    word, _, number = kind.partition(":")
    out: dict[str, Any] = {"kind": kind, "frames": [], "values": [], "sampled": None}
    for piece in subject.pieces(name):
        plane = subject.arrangement(name, piece)
        if plane.rows * plane.cols == 0:
            continue
        length = piece.stop - piece.start
        cells = plane.rows * plane.cols
        if word in ("row", "col"):
            line = int(number)
            if not 0 <= line < (plane.rows if word == "row" else plane.cols):
                continue
            cells = plane.cols if word == "row" else plane.rows
        points = min(length, CURVE_POINTS)
        stride = max(1, math.ceil(length / points))
        at = list(range(0, length, stride))
        if at[-1] != length - 1:
            at.append(length - 1)
        if word not in ("row", "col") and cells * len(at) > CURVE_CELLS:
            _sampled_curve(subject, name, word, out, plane)
            break
        first: NDArray[np.float64] | None = None
        for frame in at:
            if cancelled():
                return out
            values = _line(subject, name, piece.start + frame, word, number)
            first = values if first is None else first
            if word == "update":
                before = _line(subject, name, piece.start + max(0, frame - 1), word, number)
                values = values - before
            elif word == "distance":
                values = values - first
            out["frames"].append(piece.start + frame)
            out["values"] += numbers([_number(word, values)])
    return out


def _line(subject: Subject, name: str, frame: int, word: str, number: str) -> NDArray[np.float64]:
    """The values that a curve is made from, each weight once: a whole tensor, or one row or column of its picture."""
    if word not in ("row", "col"):
        return np.asarray(subject.values(name, frame), np.float64)
    line = slice(int(number), int(number) + 1)
    plane = subject.arrangement(name, subject.piece(name, frame))
    where = (line, slice(0, plane.cols)) if word == "row" else (slice(0, plane.rows), line)
    found = np.asarray(subject.picture(name, frame, *where), np.float64)
    return found[~plane.blank()[where]] if plane.wrapped else found


def _number(word: str, values: NDArray[np.float64]) -> float:
    with np.errstate(all="ignore"):
        if word in ("norm", "update", "distance"):
            return float(np.sqrt((values**2).sum()))
        if word == "mass":
            return float(np.abs(values).sum())
        if word in ("mean", "row", "col"):
            return float(values.mean())
    raise InvalidArgument(f"kind={word!r} is none of norm, mean, mass, update, distance, row:I, col:J")


def _sampled_curve(subject: Subject, name: str, word: str, out: dict[str, Any], plane: Arrangement) -> None:
    cells = plane.rows * plane.cols
    first: NDArray[np.float64] | None = None
    for frames, values in subject.sample(name):
        share = cells / values.shape[1]
        first = values[0] if first is None or first.shape != values[0].shape else first
        for frame, row in zip(frames.tolist(), values, strict=True):
            if word == "update":
                raise InvalidArgument(f"{name!r} is too large for update norms in the page; use weightlapse.measure")
            value = _number(word, row - first if word == "distance" else row)
            factor = {"mean": 1.0, "mass": share}.get(word, math.sqrt(share))
            out["frames"].append(frame)
            out["values"] += numbers([value * factor])
        out["sampled"] = [values.shape[1], cells]


def neuron(subject: Subject, group: str, unit: int) -> dict[str, Any]:
    """One unit's incoming and outgoing weights over time, at evenly spaced frames where all would be too many."""
    run = subject.run
    if run.wiring is None:
        raise InvalidArgument(
            f"{subject.name} was recorded without its wiring (pass example= to watch), so its units are not known"
        )
    with subject.lock:
        parts = unit_over_time(whole(run), run.wiring, group, unit)
    out: dict[str, Any] = {"group": group, "unit": unit, "parts": []}
    for label, values in _real_parts(parts):
        array = np.asarray(values, np.float64)
        array = array.reshape(array.shape[0], -1)
        stride = max(1, math.ceil(array.size / (NEURON_VALUES // 8)))
        lines = array[::stride]
        out["parts"].append(
            {
                "label": str(label),
                "frames": list(range(0, array.shape[0], stride)),
                "lines": [numbers(line) for line in lines.T],
            }
        )
    return out


def _shown(subject: Subject, tensor: str) -> str:
    """The name under which the page knows a tensor: of a complex one its magnitude."""
    magnitude = f"{tensor}.{PARTS[0]}"
    return magnitude if tensor not in subject.run.shapes and magnitude in subject.run.shapes else tensor


def _real_parts(parts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for label, values in parts.items():
        if np.iscomplexobj(values):
            yield f"{label} magnitude", np.abs(values)
            yield f"{label} phase", np.angle(values)
        else:
            yield label, values


def findings(subject: Subject) -> dict[str, Any]:
    """The doctor's findings; where it cannot judge, the reason."""
    try:
        from weightlapse.measures.doctor import diagnose
    except ImportError:
        return {"findings": [], "reason": "This installation has no doctor, so nothing was judged."}
    try:
        if not subject.frames:
            return {"findings": [], "reason": "There are no frames to judge."}
        # the doctor may read for a while: it gets a recording of its own, so that pictures need not wait for it
        found = diagnose(subject.reopened())
    except WeightlapseError as error:
        return {"findings": [], "reason": str(error)}
    except Exception as error:  # noqa: BLE001  a judgement that fails must not take the page with it: it says so instead
        return {
            "findings": [],
            "reason": f"The doctor could not judge this recording ({type(error).__name__}: {error}).",
        }
    return {
        "findings": [
            {
                "kind": str(f.kind),
                "tensor": None if f.tensor is None else _shown(subject, str(f.tensor)),
                "units": [int(u) for u in (f.units if f.units is not None else ())][:1000],
                "step": None if f.first_step is None else int(f.first_step),
                "severity": str(f.severity),
                "text": str(f.text),
            }
            for f in found
        ],
        "reason": None,
    }

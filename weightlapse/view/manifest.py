"""What the page is told about the recordings when it opens, and what is new in one that is still being written."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from weightlapse.film.grown import events_of
from weightlapse.view.subject import Subject


def numbers(values: Any) -> list[float | None]:
    """Floats for JSON, which has no NaN and no infinities: NaN becomes null, infinities the largest floats of their sign."""
    array = np.nan_to_num(np.asarray(values, np.float64), nan=np.nan)
    return [None if math.isnan(v) else v for v in array.tolist()]


def manifest(subject: Subject) -> dict[str, Any]:
    """The whole description of one recording; no weight is read."""
    run = subject.run
    with subject.lock:
        wiring = run.wiring
        tensors, streams = [], run.streams
        belonging = subject.strips_of()
        for name in subject.names():
            pieces = [
                {
                    "start": p.start,
                    "stop": p.stop,
                    "shape": list(p.shape),
                    "layout": subject.arrangement(name, p).to_json(),
                }
                for p in subject.pieces(name)
            ]
            tensors.append(
                {
                    "name": name,
                    "dtype": subject.dtype(name),
                    "kind": subject.kind(name).word,
                    **({"strip": belonging[name]} if name in belonging else {}),
                    "stream": streams.get(name, "weights"),
                    "aliases": list(run.aliases.get(name, [])),
                    "pieces": pieces,
                }
            )
        return {
            "name": subject.name,
            "path": str(run.path),
            "tensors": tensors,
            "tolerance": run.tolerance if isinstance(run.tolerance, float | int) else None,
            "exact": run.tolerance is None,
            "epochs": [{"start": e.start, "stop": e.stop} for e in run.layouts],
            "groups": [_group(g) for g in wiring.groups] if wiring is not None else [],
            "nbytes": int(run.nbytes),
            "storedNbytes": int(run.stored_nbytes),
            **additions(subject, 0),
        }


def additions(subject: Subject, since: int) -> dict[str, Any]:
    """Steps and scalars from frame ``since`` on, all events and gaps, and whether more may come."""
    run = subject.run
    with subject.lock:
        return {
            "since": since,
            "frames": subject.frames,
            "steps": [int(s) for s in run.steps[since:]],
            "scalars": {str(k): numbers(np.asarray(v)[since:]) for k, v in run.scalars.items()},
            "events": [[int(step), str(text)] for step, text in events_of(run)],
            "gaps": [_gap(g) for g in run.gaps],
            "closed": bool(run.closed),
        }


def _group(group: Any) -> dict[str, Any]:
    """A unit group with, per member, the unit of each position on its axis: a divisor where units are evenly spaced, else a list."""
    members = []
    for member in group.members:
        index = np.asarray(member.index)
        unit: int | list[int] = index.shape[1]
        if not np.array_equal(index.ravel(), np.arange(index.size)):
            table = np.full(int(index.max(initial=-1)) + 1, -1)
            table[index] = np.arange(index.shape[0])[:, None]
            unit = table.tolist()
        members.append({"tensor": member.tensor, "axis": member.axis, "role": member.role, "unit": unit})
    return {"name": group.name, "size": group.size, "members": members}


def _gap(gap: Any) -> list[Any]:
    """[first step, last step, reason], whether the recording gives a tuple or an object."""
    if isinstance(gap, tuple | list):
        first, last, reason = gap
    else:
        first, last, reason = gap.first_step, gap.last_step, gap.reason
    return [int(first), int(last), str(reason)]

"""``weightlapse verify``: check everything in a recording that can be checked."""

from __future__ import annotations

from typing import Any

import click
import numpy as np

from weightlapse.cli.recordings import Told, each
from weightlapse.errors import InvalidArgument
from weightlapse.progress import track
from weightlapse.recording.recording import Recording, load
from weightlapse.store.ranks import open_store

_AT_ONCE = 32  # frames


@click.command(
    "verify",
    help="Check every checksum, the index and the error bound of RUN, or of each of several; exit 1 when anything is wrong.",
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--against", type=click.Path(), help="An exact recording of the same training: check the bound of every value."
)
@click.option("--json", "as_json", is_flag=True, help='Print one JSON object; of several, {"recordings": [...]}.')
def command(runs: tuple[str, ...], against: str | None, as_json: bool) -> int:
    """The verb; exits with 1 where anything is wrong in any of the recordings."""
    return each(runs, as_json, lambda run: verified(run, against, as_json))


def verified(run: str, against: str | None, as_json: bool) -> Told:
    """What is wrong with one recording, if anything."""
    store = open_store(run)
    damages = store.verify()
    lost = sum(damage.stop - damage.first for damage in damages)
    told: dict[str, Any] = {"path": run, "frames": len(store.steps), "whole": not damages, "lost_frames": lost}
    told["damage"] = [{"file": d.file, "what": d.what, "first_frame": d.first, "stop_frame": d.stop} for d in damages]
    lines = [str(damage) for damage in damages]
    if damages:
        lines.append(
            f"{run}: {len(damages)} damaged places; {lost} of {len(store.steps)} frames cannot be trusted in full, everything else can be read"
        )
    else:
        state = "" if store.closed else " (still open, or its recorder was killed)"
        lines.append(f"{run}: {len(store.steps)} frames, every checksum right{state}")
    if against is not None and not damages:
        told["bound"] = compare(load(run), load(against))
        beyond, values = told["bound"]["beyond"], told["bound"]["values"]
        if beyond:
            lines.append(
                f"{beyond} of {values} values are further from {against} than their bound: it is not the same training"
            )
        else:
            lines.append(f"all {values} values are within their bound of those in {against}")
    wrong = damages or told.get("bound", {}).get("beyond")
    return 1 if wrong else 0, told if as_json else "\n".join(lines)


def compare(run: Recording, exact: Recording) -> dict[str, Any]:
    """How many values of ``run`` there are and how many are further from those of ``exact`` than their bound, in float64.

    NaN counts as equal to NaN, infinities to themselves. Raises :class:`InvalidArgument` when the two do not hold the same steps and tensors.
    """
    if run.shapes != exact.shapes or not np.isin(run.steps, exact.steps).all():
        raise InvalidArgument(
            f"{exact.path} does not hold the tensors and steps of {run.path}: there is nothing to compare"
        )
    where = np.searchsorted(exact.steps, run.steps)
    values = beyond = 0
    largest = 0.0
    for name in track(run.names, "comparing"):
        for first in range(0, run.frames, _AT_ONCE):
            stop = min(first + _AT_ONCE, run.frames)
            stored, true = _parts(run[name][first:stop]), _parts(exact[name][where[first:stop]])
            bounds = np.array([run.bound(name, k) for k in range(first, stop)]).reshape(-1, *[1] * (stored.ndim - 1))
            with np.errstate(all="ignore"):
                error = np.abs(stored.astype(np.float64) - true.astype(np.float64))
            equal = (stored == true) | ((stored != stored) & (true != true))
            beyond += int((~equal & ~(error <= bounds)).sum())
            largest = max(largest, float(np.max(error, initial=0.0, where=np.isfinite(error))))
            values += stored.size
    return {"values": values, "beyond": beyond, "largest_error": largest}


def _parts(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Complex numbers as pairs: the bound is one of each part."""
    return values[..., None].view(values.real.dtype) if values.dtype.kind == "c" else values

"""``weightlapse info``: what is in a recording."""

from __future__ import annotations

import json
from typing import Any

import click
import numpy as np

from weightlapse.measures.recorder import recorder_findings
from weightlapse.recording.recording import Recording, load


def facts(run: Recording) -> dict[str, Any]:
    """Everything that ``info`` says, as one JSON object. Numbers that JSON has no way to write are null."""
    streams, dtypes, aliases = run.streams, run.dtypes, run.aliases
    return {
        "path": str(run.path),
        "closed": run.closed,
        "stopped": run.stopped,
        "frames": run.frames,
        **_ends(run),
        "numbers": sum(int(np.prod(shape)) for shape in run.shapes.values()),
        "raw_bytes": run.nbytes,
        "stored_bytes": run.stored_nbytes,
        "ratio": run.nbytes / run.stored_nbytes if run.stored_nbytes else None,
        "tolerance": run.tolerance,
        "tensors": [
            {
                "name": name,
                "shape": list(shape),
                "dtype": dtypes[name],
                "stream": streams[name],
                "aliases": aliases.get(name, []),
                "bound": run.bound(name),
            }
            for name, shape in run.shapes.items()
        ],
        "epochs": [{"start": e.start, "stop": e.stop, "note": e.note} for e in run.epochs],
        "scalars": {name: _last_finite(column) for name, column in run.scalars.items()},
        "events": [{"step": step, "text": text} for step, text in run.events],
        "gaps": [{"first": first, "last": last, "reason": reason} for first, last, reason in run.gaps],
        "branches": [{"name": name, "frames": branch.frames, **_ends(branch)} for name, branch in run.branches.items()],
        "findings": [f.to_json() for f in recorder_findings(run)],
        "wiring": run.wiring_spec is not None,
        "meta": run.meta,
    }


def _ends(run: Recording) -> dict[str, int | None]:
    return {
        "first_step": int(run.steps[0]) if run.frames else None,
        "last_step": int(run.steps[-1]) if run.frames else None,
    }


def _last_finite(column: Any) -> float | None:
    finite = column[np.isfinite(column)]
    return float(finite[-1]) if len(finite) else None


@click.command("info", help="Say what is in a recording.")
@click.argument("run", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--wiring", is_flag=True, help="Print the network's wiring: which axes are the same neurons.")
def command(run: str, as_json: bool, wiring: bool) -> None:
    recording = load(run)
    if as_json:
        found = facts(recording)
        if wiring:
            found["wiring_spec"] = recording.wiring_spec
        click.echo(json.dumps(found, allow_nan=False, default=str))
        return
    click.echo(repr(recording))
    if recording.stopped is not None:
        click.echo(f"  stopped  {recording.stopped}")
    click.echo("")
    dtypes, aliases = recording.dtypes, recording.aliases
    for name, shape in recording.shapes.items():
        also = f"  (also {', '.join(aliases[name])})" if name in aliases else ""
        bound = recording.bound(name)
        within = f"  within {bound:.3g}" if bound else ""
        click.echo(f"  {name}  {dtypes[name]}{list(shape)}{within}{also}")
    for epoch in recording.epochs[1:]:
        click.echo(f"  from frame {epoch.start}: {epoch.note}")
    for name, branch in recording.branches.items():
        ends = f", steps {branch.steps[0]} to {branch.steps[-1]}" if branch.frames else ""
        click.echo(f"  branch {name}: {branch.frames} frames{ends}")
    for step, text in recording.events:
        click.echo(f"  step {step}: {text}")
    for first, last, reason in recording.gaps:
        click.echo(f"  steps {first} to {last} are missing: {reason}")
    if wiring:
        click.echo("")
        click.echo(
            str(recording.wiring)
            if recording.wiring is not None
            else "no wiring was recorded (watch(..., example=an_input))"
        )

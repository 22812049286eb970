"""``weightlapse info``: what is in a recording."""

from __future__ import annotations

from typing import Any

import click
import numpy as np

from weightlapse.cli.recordings import Told, each
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
        "epochs": [{"start": e.start, "stop": e.stop, "note": e.note} for e in run.layouts],
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


def told(run: Recording, wiring: bool) -> str:
    """The same for people to read."""
    lines = [repr(run)]
    if run.stopped is not None:
        lines.append(f"  stopped  {run.stopped}")
    lines.append("")
    dtypes, aliases = run.dtypes, run.aliases
    for name, shape in run.shapes.items():
        also = f"  (also {', '.join(aliases[name])})" if name in aliases else ""
        bound = run.bound(name)
        within = f"  within {bound:.3g}" if bound else ""
        lines.append(f"  {name}  {dtypes[name]}{list(shape)}{within}{also}")
    lines += [f"  from frame {span.start}: {span.note}" for span in run.layouts[1:]]
    for name, branch in run.branches.items():
        ends = f", steps {branch.steps[0]} to {branch.steps[-1]}" if branch.frames else ""
        lines.append(f"  branch {name}: {branch.frames} frames{ends}")
    lines += [f"  step {step}: {text}" for step, text in run.events]
    lines += [f"  steps {first} to {last} are missing: {reason}" for first, last, reason in run.gaps]
    if wiring:
        lines += [
            "",
            str(run.wiring) if run.wiring is not None else "no wiring was recorded (watch(..., example=an_input))",
        ]
    return "\n".join(lines)


@click.command("info", help="Say what is in RUN, or in each of several.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help='Print one JSON object; of several, {"recordings": [...]}.')
@click.option("--wiring", is_flag=True, help="Print the network's wiring: which axes are the same neurons.")
def command(runs: tuple[str, ...], as_json: bool, wiring: bool) -> int:
    """The verb; nothing is verified, so a damaged recording may still be told of."""

    def ask(path: str) -> Told:
        run = load(path)
        if as_json:
            return 0, facts(run) | ({"wiring_spec": run.wiring_spec} if wiring else {})
        return 0, told(run, wiring)

    return each(runs, as_json, ask)

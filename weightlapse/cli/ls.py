"""``weightlapse ls``: the recordings in a folder."""

from __future__ import annotations

import json
import os
from typing import Any

import click
import numpy as np

from weightlapse.cli.recordings import below
from weightlapse.errors import NotARecording, WeightlapseError
from weightlapse.measures.recorder import recorder_findings
from weightlapse.recording.recording import Recording, load
from weightlapse.store.sizes import size


def loss_of(run: Recording) -> tuple[str, float] | None:
    """The last finite value of the scalar "loss", else of the first whose name says that it is one; None where none was logged."""
    names = sorted((name for name in run.scalars if "loss" in name.lower()), key=lambda name: (name != "loss", name))
    for name in names:
        column = run.scalars[name]
        finite = column[np.isfinite(column)]
        if len(finite):
            return name, float(finite[-1])
    return None


def row(path: str) -> dict[str, Any]:
    """What ``ls`` says of one recording: from its index, scalars and events; no weight is decoded."""
    try:
        run = load(path)
        loss = loss_of(run)
        return {
            "path": path,
            "stored_bytes": run.stored_nbytes,
            "frames": run.frames,
            "first_step": int(run.steps[0]) if run.frames else None,
            "last_step": int(run.steps[-1]) if run.frames else None,
            "loss": None if loss is None else loss[1],
            "loss_name": None if loss is None else loss[0],
            "findings": len(recorder_findings(run)),
            "closed": run.closed,
            "error": None,
        }
    except WeightlapseError as error:
        return {"path": path, "error": str(error)}


def table(rows: list[dict[str, Any]], folder: str) -> str:
    """Aligned columns, paths as seen from the folder."""
    lines = [["recording", "size", "frames", "steps", "loss", "findings", ""]]
    for found in rows:
        name = os.path.relpath(found["path"], folder) if found["path"] != folder else folder
        if found["error"] is not None:
            lines.append([name, "", "", "", "", "", found["error"]])
            continue
        steps = f"{found['first_step']} to {found['last_step']}" if found["frames"] else ""
        loss = "" if found["loss"] is None else f"{found['loss']:.4g}"
        state = "" if found["closed"] else "open, or its recorder was killed"
        lines.append(
            [
                name,
                size(found["stored_bytes"]),
                f"{found['frames']:,}",
                steps,
                loss,
                str(found["findings"] or ""),
                state,
            ]
        )
    widths = [max(len(line[k]) for line in lines) for k in range(6)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:6], widths[1:])), line[6]]
        ).rstrip()
        for line in lines
    )


@click.command("ls")
@click.argument("folder", default=".", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(folder: str, as_json: bool) -> int:
    """List the recordings in FOLDER (default: here) and its folders: size, steps, last loss, findings.

    Nothing is decoded: findings are those that the recorder itself noted; `weightlapse doctor` looks at the weights. Exit code 1 when there is no recording.
    """
    if not os.path.isdir(folder):
        raise NotARecording(
            f"{folder} is {'a file' if os.path.lexists(folder) else 'not there'}: give a folder that holds recordings"
        )
    rows = [row(path) for path in below(folder)]
    if as_json:
        click.echo(json.dumps({"folder": folder, "recordings": rows}, allow_nan=False))
    elif rows:
        click.echo(table(rows, folder))
    if not rows:
        click.echo(f"weightlapse: there is no recording in {folder}", err=True)
    return 0 if rows else 1

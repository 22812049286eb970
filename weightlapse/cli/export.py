"""``weightlapse export``: a recording in another format."""

from __future__ import annotations

import json
from typing import get_args

import click

from weightlapse.recording.export import ExportKind
from weightlapse.recording.recording import load

KINDS: tuple[str, ...] = get_args(ExportKind)


@click.command("export", help="Write a recording in another format; values arrive exactly.")
@click.argument("run", type=click.Path())
@click.option("--to", "kind", required=True, type=click.Choice(KINDS), help="The format.")
@click.option(
    "-o", "dest", required=True, type=click.Path(), help="What to write; it must not exist yet (but for --partition)."
)
@click.option("--partition", help="Add it to a tree of many runs at DEST, under this name (parquet).")
@click.option("--no-weights", is_flag=True, help="With --partition: statistics, scalars and the like alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run: str, kind: ExportKind, dest: str, partition: str | None, no_weights: bool, as_json: bool) -> None:
    """The verb; errors of `Recording.export` end it with their own words."""
    recording = load(run)
    recording.export(kind, dest, partition=partition, weights=not no_weights)
    if as_json:
        click.echo(
            json.dumps({"path": dest, "format": kind, "frames": recording.frames, "tensors": len(recording.names)})
        )
    else:
        click.echo(f"{dest}: {recording.frames} frames of {len(recording.names)} tensors as {kind}")

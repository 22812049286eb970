"""``weightlapse compact``: compress a recording's log into blocks."""

from __future__ import annotations

import dataclasses
import json

import click

from weightlapse.progress import track
from weightlapse.store.offline import compact_recording


@click.command("compact", help="Compress a recording's log into blocks, bit for bit or within its own tolerance.")
@click.argument("run", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run: str, as_json: bool) -> int:
    done = compact_recording(run, track)
    if as_json:
        click.echo(json.dumps({"path": run, **dataclasses.asdict(done)}))
    else:
        for reason in done.kept:
            click.echo(f"left as a log: {reason}", err=True)
        ratio = done.nbytes_before / max(done.nbytes_after, 1)
        click.echo(
            f"{run}: {done.frames} frames compressed, {done.nbytes_before:,} bytes became {done.nbytes_after:,} ({ratio:.2f} times smaller)"
        )
    return 1 if done.kept else 0

"""``weightlapse compact``: compress a recording's log into blocks."""

from __future__ import annotations

import dataclasses

import click

from weightlapse.cli.recordings import Told, each
from weightlapse.progress import track
from weightlapse.store.offline import compact_recording


@click.command(
    "compact",
    help="Compress the log of RUN, or of each of several, into blocks: bit for bit, or within its own tolerance.",
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help='Print one JSON object; of several, {"recordings": [...]}.')
def command(runs: tuple[str, ...], as_json: bool) -> int:
    """The verb; exits with 1 where any of the recordings could not be compacted."""
    return each(runs, as_json, lambda run: compacted(run, as_json))


def compacted(run: str, as_json: bool) -> Told:
    """What became of one recording's log; exit code 1 where some of it was left."""
    done = compact_recording(run, track)
    code = 1 if done.kept else 0
    if as_json:
        return code, {"path": run, **dataclasses.asdict(done)}
    for reason in done.kept:
        click.echo(f"left as a log: {reason}", err=True)
    ratio = done.nbytes_before / max(done.nbytes_after, 1)
    return code, (
        f"{run}: {done.frames} frames compressed, {done.nbytes_before:,} bytes became {done.nbytes_after:,} ({ratio:.2f} times smaller)"
    )

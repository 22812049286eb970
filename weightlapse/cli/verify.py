"""``weightlapse verify``: check everything in a recording that can be checked."""

from __future__ import annotations

import json

import click

from weightlapse.store.ranks import open_store


@click.command("verify", help="Check every checksum, the index and the error bound; exit 1 when anything is wrong.")
@click.argument("run", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run: str, as_json: bool) -> int:
    store = open_store(run)
    damages = store.verify()
    lost = sum(damage.stop - damage.first for damage in damages)
    if as_json:
        found = [{"file": d.file, "what": d.what, "first_frame": d.first, "stop_frame": d.stop} for d in damages]
        click.echo(
            json.dumps(
                {"path": run, "frames": len(store.steps), "whole": not damages, "lost_frames": lost, "damage": found}
            )
        )
    elif damages:
        for damage in damages:
            click.echo(str(damage))
        click.echo(
            f"{run}: {len(damages)} damaged places, {lost} of {len(store.steps)} frames cannot be trusted; the others can be read"
        )
    else:
        state = "" if store.closed else " (still open, or its recorder was killed)"
        click.echo(f"{run}: {len(store.steps)} frames, every checksum right{state}")
    return 1 if damages else 0

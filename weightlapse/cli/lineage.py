"""``weightlapse lineage``: was one network made from the other?"""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("lineage")
@click.argument("a")
@click.argument("b")
@click.option("--wiring", type=click.Path(path_type=Path), help="A spec: wl.trace(model, x).to_spec().")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(a: str, b: str, wiring: Path | None, as_json: bool) -> int:
    """Say whether B was made from A (or A from B): fine-tuned, pruned, renumbered, turned; or independently. No network is run.

    A and B are recordings (RUN, or RUN@STEP), checkpoints (.safetensors, .npz, .pt with weights only) or folders with a sharded checkpoint.
    Exit code 1 when they are independent.
    """
    from weightlapse.cli.wiring_file import read_wiring
    from weightlapse.differences.lineage import lineage

    found = lineage(a, b, None if wiring is None else read_wiring(wiring))
    click.echo(json.dumps(found.numbers(), allow_nan=False) if as_json else found.explain())
    return 0 if found.verdict != "independent" else 1

"""``weightlapse import``: a series of checkpoints becomes a recording."""

from __future__ import annotations

import json
import os

import click

from weightlapse.capture.imports import import_checkpoints
from weightlapse.errors import InvalidArgument


@click.command(
    "import", help="Turn a series of checkpoints into a recording; steps are the last number in each name, or --steps."
)
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("-o", "output", required=True, type=click.Path(), help="The recording to write.")
@click.option("--steps", help="The step of each file, separated by commas, in the order of the files.")
@click.option("--tensors", multiple=True, help="Glob of the tensors to take; may be given several times.")
@click.option("--overwrite", is_flag=True, help="Replace a recording at the output path.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    files: tuple[str, ...], output: str, steps: str | None, tensors: tuple[str, ...], overwrite: bool, as_json: bool
) -> None:
    numbers = None
    if steps is not None:
        try:
            numbers = [int(part) for part in steps.split(",")]
        except ValueError:
            raise InvalidArgument(f"--steps {steps}: give whole numbers separated by commas") from None
    # no recorder that is switched off for training should make an import do nothing
    os.environ.pop("WEIGHTLAPSE_MODE", None)
    frames = import_checkpoints(files, output, steps=numbers, tensors=list(tensors) or "*", overwrite=overwrite)
    if as_json:
        click.echo(json.dumps({"path": output, "frames": frames}))
    else:
        click.echo(f"{output}: {frames} frames from {len(files)} checkpoints")

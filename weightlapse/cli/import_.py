"""``weightlapse import``: a series of checkpoints becomes a recording."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import click

from weightlapse.adapters.checkpoints import is_tree
from weightlapse.capture.import_tree import import_revisions
from weightlapse.capture.imports import import_checkpoints
from weightlapse.errors import InvalidArgument
from weightlapse.store.remote import is_url


@click.command(
    "import",
    help="Turn a series of checkpoints into a recording: FILES, or one folder (or URL) of revisions. Steps are the last number in each name, or --steps.",
)
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("-o", "output", required=True, type=click.Path(), help="The recording to write.")
@click.option("--steps", help="The step of each file, separated by commas, in the order of the files.")
@click.option("--tensors", multiple=True, help="Glob of the tensors to take; may be given several times.")
@click.option("--resume", is_flag=True, help="Go on with an import of a folder that was interrupted.")
@click.option("--overwrite", is_flag=True, help="Replace a recording at the output path.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    files: tuple[str, ...],
    output: str,
    steps: str | None,
    tensors: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> int:
    """The verb; exits with 1 where a checkpoint of a folder could not be read: all others are recorded."""
    numbers = None
    if steps is not None:
        try:
            numbers = [int(part) for part in steps.split(",")]
        except ValueError:
            raise InvalidArgument(f"--steps {steps}: give whole numbers separated by commas") from None
    # no recorder that is switched off for training should make an import do nothing
    os.environ.pop("WEIGHTLAPSE_MODE", None)
    if len(files) == 1 and (is_url(files[0]) or is_tree(Path(files[0]))):
        if numbers is not None:
            raise InvalidArgument(
                "--steps goes with a list of files; of a folder the names of its checkpoints tell the steps"
            )
        return _tree(files[0], output, as_json, resume=resume, overwrite=overwrite, tensors=list(tensors) or "*")
    if resume:
        raise InvalidArgument("--resume goes with a folder of checkpoints, or a URL")
    frames = import_checkpoints(files, output, steps=numbers, tensors=list(tensors) or "*", overwrite=overwrite)
    if as_json:
        click.echo(json.dumps({"path": output, "frames": frames}))
    else:
        click.echo(f"{output}: {frames} frames from {len(files)} checkpoints")
    return 0


def _tree(root: str, output: str, as_json: bool, **settings: Any) -> int:
    done = import_revisions(root, output, say=lambda text: click.echo(text, err=True), **settings)
    if done.ignored:
        some = "; ".join(f"{name} ({why})" for name, why in list(done.ignored.items())[:6])
        click.echo(
            f"left out: {some}{f'; and {len(done.ignored) - 6} more' if len(done.ignored) > 6 else ''}", err=True
        )
    if as_json:
        click.echo(json.dumps({"path": output, **dataclasses.asdict(done)}))
    else:
        lost = f", {len(done.lost)} could not be read" if done.lost else ""
        click.echo(f"{output}: {done.frames} frames from {done.checkpoints} checkpoints{lost}")
    return 1 if done.lost else 0

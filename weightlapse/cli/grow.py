"""weightlapse grow: a checkpoint with more units that computes the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from weightlapse.cli.wiring_file import read_wiring


@click.command("grow")
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--wiring", "spec", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Text file that says which axes are the same units (wl.trace(model, x).to_spec()).",
)  # fmt: skip
@click.option(
    "--widen",
    "sizes",
    multiple=True,
    required=True,
    metavar="NAME=SIZE",
    help="A group or layer and its new size; may be repeated.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The .safetensors file to write.",
)
@click.option(
    "--split",
    type=click.Choice(["random", "equal"]),
    default="random",
    show_default=True,
    help="How outgoing weights are divided.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Fixes which units are replicated, and the parts.")
@click.option("--overwrite", is_flag=True, help="Replace the output file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the lineage and the parts.")
def command(
    checkpoint: Path,
    spec: Path,
    sizes: tuple[str, ...],
    out: Path,
    split: str,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Widen CHECKPOINT (.safetensors or .pt) without changing its function."""
    from weightlapse.growth.checkpoint import read_checkpoint, widen_state, write_checkpoint

    wanted = dict(_size(text) for text in sizes)
    if len(wanted) < len(sizes):
        raise click.UsageError("--widen names a group twice")
    if out.suffix != ".safetensors":
        raise click.UsageError(f"-o must end in .safetensors, got {out}")
    if os.path.lexists(out) and not overwrite:
        raise click.UsageError(f"{out} exists; choose another name or give --overwrite")
    wiring = read_wiring(spec)
    state, metadata = read_checkpoint(checkpoint)
    grown, plan = widen_state(state, wiring, wanted, split=split, seed=seed)
    write_checkpoint(out, grown, metadata)
    before, after = (sum(t.numel() for t in s.values()) for s in (state, grown))
    if as_json:
        result = {
            "out": str(out),
            "weights": [before, after],
            "tensors": {n: list(grown[n].shape) for n in grown if grown[n].shape != state[n].shape},
            "lineage": {group: parents.tolist() for group, parents in plan.lineage.items()},
            "parts": {group: parts.tolist() for group, parts in plan.parts.items()},
        }
        click.echo(json.dumps(result))
        return
    for name in grown:
        if grown[name].shape != state[name].shape:
            click.echo(f"{name}  {tuple(state[name].shape)} -> {tuple(grown[name].shape)}")
    click.echo(f"{before:,} -> {after:,} weights in {out}; with replicas added up they are the old ones, bit for bit")


def _size(text: str) -> tuple[str, int]:
    name, sign, size = text.rpartition("=")
    if not sign or not name or not size.isdigit():
        raise click.UsageError(f"--widen takes NAME=SIZE, for example fc1=256; got {text!r}")
    return name, int(size)

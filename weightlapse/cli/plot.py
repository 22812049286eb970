"""``weightlapse plot``: draw one figure from a recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from weightlapse.errors import InvalidArgument, missing_extra

KINDS = ("lines", "heatmap", "mass", "norms", "scalars", "autopsy")
SUFFIXES = (".png", ".svg", ".pdf", ".jpg", ".webp")


@click.command("plot")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--kind", required=True, type=click.Choice(KINDS), help="What to draw.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="FIG.png, .svg or .pdf.")
@click.option(
    "--tensors", metavar="GLOB", help="Which tensor (lines, heatmap, mass: the first that matches) or tensors (norms)."
)
@click.option(
    "--step", type=int, help="With heatmap: the step to draw (default: the last); with autopsy: near which spike."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(run: Path, kind: str, output: Path, tensors: str | None, step: int | None, as_json: bool) -> None:
    """Draw one figure from RUN."""
    try:
        import matplotlib
    except ImportError:
        raise missing_extra("matplotlib", extra="film", purpose="drawing figures") from None
    matplotlib.use("agg")  # a file is asked for: no display is needed

    from weightlapse.film import plot
    from weightlapse.film.encode import whole_file
    from weightlapse.film.frames import chosen
    from weightlapse.recording.frames import frame_of_step
    from weightlapse.recording.recording import load

    suffix = output.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidArgument(
            f"cannot tell the format of {str(output)!r}: the suffix must be one of {', '.join(SUFFIXES)}"
        )
    recording = load(run)
    axes: Any
    if kind == "scalars":
        axes = plot.scalars(recording)
    elif kind == "autopsy":
        axes = plot.autopsy(recording, step)
    elif kind == "norms":
        axes = plot.norms(recording, tensors or "*")
    else:
        tensor = chosen(recording, tensors)[0] if tensors else None
        if kind == "heatmap":
            axes = plot.heatmap(recording, tensor, -1 if step is None else frame_of_step(recording, step))
        else:
            axes = (plot.lines if kind == "lines" else plot.mass)(recording, tensor)
    with whole_file(output) as out:
        axes.figure.savefig(out, format=suffix[1:], dpi=160)
    title = next((t for a in axes.figure.axes if (t := a.get_title() or a.get_title("left"))), "").replace(
        "\n", " " if kind == "autopsy" else ", "
    )
    click.echo(json.dumps({"path": str(output), "kind": kind, "title": title}) if as_json else f"{output}: {title}")

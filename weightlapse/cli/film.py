"""``weightlapse film``: make a film or a still of a recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument

if TYPE_CHECKING:
    from weightlapse.film.limits import Mode
    from weightlapse.film.pace import Pace
    from weightlapse.picture.palette import ThemeName


def frames_of(steps: NDArray[np.int64], words: str) -> NDArray[np.int64]:
    """Frames whose steps lie in ``A:B:C``: from A, before B, at least C steps apart; each part may be left out."""
    parts = words.split(":")
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3:
        raise InvalidArgument(f"--steps {words!r} must read A:B or A:B:C with whole numbers, such as 0:500:5")
    first, stop, apart = (
        [*numbers, None, None]
        if len(numbers) > 1
        else [numbers[0], None if numbers[0] is None else numbers[0] + 1, None]
    )[:3]
    if apart is not None and apart < 1:
        raise InvalidArgument(f"--steps {words!r}: the distance {apart} must be at least 1")
    inside = np.flatnonzero(
        (steps >= (steps[0] if first is None else first)) & (steps < (steps[-1] + 1 if stop is None else stop))
    )
    if not len(inside):
        raise InvalidArgument(
            f"--steps {words!r} selects no recorded step; the recording has steps {int(steps[0])} to {int(steps[-1])}"
        )
    if apart is None or apart == 1:
        return inside
    kept = [int(inside[0])]
    for frame in inside[1:]:
        if steps[frame] - steps[kept[-1]] >= apart:
            kept.append(int(frame))
    return np.array(kept)


def size_of(words: str) -> tuple[int, int]:
    """``WxH`` as numbers."""
    width, cut, height = words.lower().partition("x")
    if not (cut and width.isdigit() and height.isdigit()):
        raise InvalidArgument(f"--size {words!r} must read WIDTHxHEIGHT, such as 1280x720")
    return int(width), int(height)


@click.command("film")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="FILM.mp4, .webm, .gif, .apng; .png, .svg, .pdf for a still.",
)
@click.option(
    "--other", type=click.Path(path_type=Path), help="A second recording: both, aligned, and their difference."
)
@click.option("--no-align", is_flag=True, help="With --other: do not bring the second onto the first.")
@click.option("--fps", default=24.0, show_default=True, help="Frames of the film per second.")
@click.option("--size", default="1280x720", show_default=True, metavar="WxH", help="Pixels.")
@click.option("--steps", metavar="A:B:C", help="From step A, before B, at least C apart.")
@click.option("--tensors", multiple=True, metavar="GLOB", help="Which tensors; may be repeated.")
@click.option(
    "--panels",
    multiple=True,
    metavar="PANEL",
    help="weights, loss, lines:GLOB, mass, histograms, ...; may be repeated.",
)
@click.option(
    "--scale",
    default="tensor",
    type=click.Choice(["tensor", "global", "step"]),
    show_default=True,
    help="What shares one colour scale.",
)
@click.option("--cmap", default="RdBu_r", show_default=True, help="A diverging colour map.")
@click.option("--theme", default="light", type=click.Choice(["light", "dark"]), show_default=True)
@click.option("--pace", metavar="PACE", help="every, a stride, log, or 'equal change'.")
@click.option("--seconds", type=float, help="Length of the film.")
@click.option("--hold", default=0.0, show_default=True, help="Seconds to stand still at each event.")
@click.option("--faithful", is_flag=True, help="4:4:4 without loss: exact colours, fewer players.")
@click.option("--title", default="", help="Heading; the recording's name by default.")
@click.option(
    "--story/--no-story",
    default=None,
    help="A map, the layers that change most and captions (default for large networks), or every tensor.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(
    run: Path,
    output: Path,
    other: Path | None,
    no_align: bool,
    fps: float,
    size: str,
    steps: str | None,
    tensors: tuple[str, ...],
    panels: tuple[str, ...],
    scale: Mode,
    cmap: str,
    theme: ThemeName,
    pace: str | None,
    seconds: float | None,
    hold: float,
    faithful: bool,
    title: str,
    story: bool | None,
    as_json: bool,
) -> None:
    """Make a film of RUN: every weight at every step."""
    from weightlapse.film.movie import make_film
    from weightlapse.recording.recording import load

    recording = load(run)
    film = make_film(
        recording,
        output,
        tensors=tensors or "*",
        fps=fps,
        size=size_of(size),
        scale=scale,
        cmap=cmap,
        other=None if other is None else load(other),
        align=not no_align,
        frames=None if steps is None else frames_of(np.asarray(recording.steps), steps),
        panels=panels or None,
        theme=theme,
        pace=int(pace) if pace is not None and pace.isdigit() else cast("Pace | None", pace),  # which make_film checks
        seconds=seconds,
        hold=hold,
        faithful=faithful,
        title=title,
        story=story,
    )
    if as_json:
        facts = {
            "path": str(film.path),
            "width": film.size[0],
            "height": film.size[1],
            "fps": float(film.fps),
            "frames": film.frames,
            "seconds": film.seconds,
        } | ({} if film.poster is None else {"poster": str(film.poster)})
        click.echo(json.dumps(facts))
    elif film.frames == 1:
        click.echo(f"{film.path}: one picture, {film.size[0]}×{film.size[1]}")
    else:
        click.echo(f"{film.path}: {film.frames} frames, {film.seconds:.1f} s, {film.size[0]}×{film.size[1]}")

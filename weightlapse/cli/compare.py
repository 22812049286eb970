"""``weightlapse compare``: say whether two networks are the same up to symmetry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from weightlapse.cli.wiring_file import read_wiring
from weightlapse.errors import InvalidArgument

if TYPE_CHECKING:
    from weightlapse.recording.recording import Recording
    from weightlapse.symmetry.runs import AlignedRuns
    from weightlapse.wiring.data import Wiring

FRAMES = 60  # moments at which the distance of two recordings is drawn


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--wiring", type=click.Path(path_type=Path), help="A spec: wl.trace(model, x).to_spec().")
@click.option("--step", type=int, help="With recordings: the step to compare; the last by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="FIG.png, .svg or .pdf: distances and heat maps.")
def command(a: str, b: str, wiring: Path | None, step: int | None, as_json: bool, output: Path | None) -> int:
    """Say whether A and B are the same network up to symmetry.

    A and B are recordings (RUN, or RUN@STEP), checkpoints (.safetensors, .npz, .pt with weights only) or folders with a sharded checkpoint. Their hidden
    units are matched when a recording holds its wiring or --wiring gives it. Exit code 1 when they are different.
    """
    from weightlapse.symmetry.compare import compare

    (state_a, run_a), (state_b, run_b) = _read(a, step), _read(b, step)
    known = _wiring(wiring, run_a, run_b)
    found = compare(state_a, state_b, known)
    if output is not None:
        over_time = None
        if run_a is not None and run_b is not None and known is not None and found.raw_distance is not None:
            over_time = _over_time(run_a, run_b, known)
        _draw(output, found, state_a, state_b, over_time)
    if as_json:
        result = {"a": a, "b": b, **found.numbers(), "figure": None if output is None else str(output)}
        click.echo(json.dumps(_plain(result)))
    else:
        click.echo(found.explain())
        if output is not None:
            click.echo(str(output))
    return 1 if found.verdict == "different" else 0


def _read(path: str, step: int | None) -> tuple[dict[str, Any], Recording | None]:
    """The weights and buffers in a recording or checkpoint, and the recording."""
    from weightlapse.recording.given import at_path, frame_at

    found = at_path(path)
    if found.run is None:
        if step is not None:
            raise InvalidArgument(f"--step picks a step of a recording, but {path} is a checkpoint: leave it out")
        for note in found.notes:
            click.echo(f"weightlapse: {note}", err=True)
        return found.widened(), None
    if step is not None and found.step is not None:
        raise InvalidArgument(f"{path} names a step, and --step {step} another: leave one of them out")
    return dict(found.run.state(frame=frame_at(found.run, found.step if step is None else step))), found.run


def _wiring(spec: Path | None, *runs: Recording | None) -> Wiring | None:
    if spec is None:
        return next((r.wiring for r in runs if r is not None and r.wiring is not None), None)
    return read_wiring(spec)


def _over_time(a: Recording, b: Recording, wiring: Wiring) -> AlignedRuns | None:
    from weightlapse.symmetry.runs import align_runs

    shared = np.intersect1d(a.steps, b.steps)
    if len(shared) < 2 or not np.array_equal(a.steps, b.steps):
        return None
    return align_runs(a, b, wiring, frames=np.unique(np.linspace(0, len(shared) - 1, FRAMES).astype(int)))


def _draw(output: Path, found: Any, a: Any, b: Any, runs: AlignedRuns | None) -> None:
    from weightlapse.cli.plot import SUFFIXES
    from weightlapse.film.encode import whole_file
    from weightlapse.symmetry.figure import draw

    suffix = output.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidArgument(
            f"cannot tell the format of {str(output)!r}: the suffix must be one of {', '.join(SUFFIXES)}"
        )
    figure = draw(found, a, b, runs=runs)
    with whole_file(output) as out:
        figure.savefig(out, format=suffix[1:], dpi=140)


def _plain(value: Any) -> Any:
    """Numbers that JSON has no way to write become null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value

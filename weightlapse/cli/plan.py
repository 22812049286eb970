"""``weightlapse plan``: what recording a model would cost, without recording it."""

from __future__ import annotations

import json

import click

from weightlapse.errors import InvalidArgument


@click.command("plan")
@click.argument("model_or_run", type=click.Path())
@click.option("--every", default=1, show_default=True, help="Record every n-th step.")
@click.option(
    "--tolerance", help="A number or 'film': the error allowed, as a fraction of a tensor's standard deviation."
)
@click.option(
    "--tensors", multiple=True, help="Glob of the tensors to record, '!GLOB' to leave out; may be given several times."
)
@click.option("--streams", help="Streams of a recording, separated by commas; all that it has by default.")
@click.option("--steps", default=1000, show_default=True, help="Optimizer steps of the training.")
@click.option("--step-ms", type=float, help="Milliseconds that a step takes without recording.")
@click.option("--memory", default="auto", show_default=True, help="What the recorder may use, such as 2GB.")
@click.option("--at", type=click.Path(), help="Where the recording would go; the working folder by default.")
@click.option("--no-measure", is_flag=True, help="Take typical rates instead of half a second of measuring.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    model_or_run: str,
    every: int,
    tolerance: str | None,
    tensors: tuple[str, ...],
    streams: str | None,
    steps: int,
    step_ms: float | None,
    memory: str,
    at: str | None,
    no_measure: bool,
    as_json: bool,
) -> None:
    """Say what recording MODEL_OR_RUN would cost: bytes a frame and stored, what this machine keeps up with, settings that would do.

    MODEL_OR_RUN is a recording, a .safetensors, .pt, .npz or Keras file, or a folder of sharded safetensors; only headers are read.
    """
    from weightlapse.capture.plan import plan

    found = plan(
        model_or_run,
        every,
        _tolerance(tolerance),
        tensors=list(tensors) or "*",
        streams=None if streams is None else [part.strip() for part in streams.split(",")],
        memory=memory,
        path=at,
        steps=steps,
        step_seconds=None if step_ms is None else step_ms / 1000,
        measure=not no_measure,
    )
    click.echo(json.dumps(found.to_json(), allow_nan=False) if as_json else found.text)


def _tolerance(text: str | None) -> float | str | None:
    if text is None or text == "film":
        return text
    try:
        return float(text)
    except ValueError:
        raise InvalidArgument(f"--tolerance {text}: give a number or 'film'") from None

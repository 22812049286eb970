"""``weightlapse top``: what is largest, or moved most."""

from __future__ import annotations

import json

import click

from weightlapse.errors import InvalidArgument
from weightlapse.recording.recording import load
from weightlapse.recording.top import QUANTITIES, THINGS, Quantity, Thing


@click.command("top")
@click.argument("run", type=click.Path())
@click.argument("what", type=click.Choice(QUANTITIES))
@click.option("-k", default=20, show_default=True, help="How many.")
@click.option("--of", type=click.Choice(THINGS), default="weights", show_default=True)
@click.option("--steps", help="A stretch of optimizer steps, A:B (B not included).")
@click.option("--tensors", multiple=True, help="Glob of the tensors to look at; may be given several times.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    run: str, what: Quantity, k: int, of: Thing, steps: str | None, tensors: tuple[str, ...], as_json: bool
) -> None:
    """Say which weights, units or tensors are largest (value), moved most in one step (update) or over all (change)."""
    found = load(run).top(what, k, steps=_stretch(steps), of=of, tensors=list(tensors) or "*")
    places = [[":" if isinstance(i, slice) else i for i in index] for _, index, _ in found]
    if as_json:
        rows = [
            [name, place, str(value) if value == float("inf") else value]
            for (name, _, value), place in zip(found, places)
        ]
        click.echo(json.dumps({"path": run, "what": what, "of": of, "top": rows}))
        return
    for (name, _, value), place in zip(found, places):
        click.echo(f"{value:<12.6g} {name}{str(place) if place else ''}".replace("'", ""))


def _stretch(text: str | None) -> slice | None:
    if text is None:
        return None
    try:
        first, last = (int(part) if part else None for part in text.split(":"))
    except ValueError:
        raise InvalidArgument(
            f"--steps {text}: give A:B, two numbers of optimizer steps (either may be left out)"
        ) from None
    return slice(first, last)

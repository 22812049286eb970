"""``weightlapse study NAME``: run one of the five studies."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import click

STUDIES = ("neuron", "imitation", "net2net", "lift", "mass")


@click.command(name="study")
@click.argument("name", type=click.Choice(STUDIES))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder for everything it leaves. [default: study-NAME]",
)
@click.option(
    "--quick", is_flag=True, help="Fewer seeds and shorter trainings: at most about twelve seconds of computing."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON object.")
def command(name: str, out: Path | None, quick: bool, as_json: bool) -> None:
    """Run a study: a recording, a film, figures, results.json and a report, in one folder.

    \b
    neuron     watch one neuron learn tanh(x1 + x2)
    imitation  does a network that imitates another learn its weights?
    net2net    can a trained network be made wider or deeper?
    lift       a network that writes the weights of another
    mass       which weights carry the mass?
    """
    from weightlapse.studies.frame import run_study

    folder = out or Path(f"study-{name}")
    results = run_study(importlib.import_module(f"weightlapse.studies.{name}_study").study, name, folder, quick=quick)
    if as_json:
        click.echo(json.dumps(results, allow_nan=False))
        return
    click.echo(results["verdict"] + "\n")
    for claim in results["claims"]:
        click.echo(f"  {claim['holds']:8} {claim['claim']}")
    click.echo(f"\n{folder}/{results['files']['report']}   {results['seconds']:.0f} s, {results['seeds']} seeds")

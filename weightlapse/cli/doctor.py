"""``weightlapse doctor RUN``: findings in words."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(name="doctor")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--tensors", multiple=True, default=("*",), show_default=True, help="Globs of the tensors to examine.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run: Path, tensors: tuple[str, ...], as_json: bool) -> int:
    """Find dead, saturated, exploding, frozen ... weights. Exit code 1 when something is wrong."""
    from weightlapse.measures.doctor import diagnose
    from weightlapse.recording.recording import load

    recording = load(run)
    findings = diagnose(recording, tensors=list(tensors))
    if as_json:
        click.echo(
            json.dumps({"recording": str(run), "frames": recording.frames, "findings": [f.to_json() for f in findings]})
        )
    elif not findings:
        click.echo(f"{run}: {recording.frames} frames, nothing found.")
    else:
        for finding in findings:
            where = f", {finding.tensor}" if finding.tensor else ""
            click.echo(f"{finding.severity.upper():8}{finding.kind}{where}, from step {finding.first_step}")
            click.echo(f"        {finding.text}\n        {finding.advice}")
            for curve in finding.evidence:
                click.echo(f"        {curve}")
            click.echo("")
    return 1 if any(f.severity != "note" for f in findings) else 0

"""``weightlapse doctor RUN``: findings in words."""

from __future__ import annotations

from collections.abc import Sequence

import click

from weightlapse.cli.recordings import Told, each
from weightlapse.measures.finding import Finding


def told(run: str, frames: int, findings: Sequence[Finding], named: bool) -> str:
    """Findings for people to read; the recording is ``named`` where it is one of several."""
    if not findings:
        return f"{run}: {frames} frames, nothing found."
    lines = [f"{run}: {frames} frames"] if named else []
    for finding in findings:
        where = f", {finding.tensor}" if finding.tensor else ""
        lines.append(f"{finding.severity.upper():8}{finding.kind}{where}, from step {finding.first_step}")
        lines.append(f"        {finding.text}\n        {finding.advice}")
        lines += [f"        {curve}" for curve in finding.evidence]
        lines.append("")
    return "\n".join(lines)


@click.command(name="doctor")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path())
@click.option("--tensors", multiple=True, default=("*",), show_default=True, help="Globs of the tensors to examine.")
@click.option("--all", "everything", is_flag=True, help="Look at everything, however long that takes.")
@click.option("--json", "as_json", is_flag=True, help='Print one JSON object; of several, {"recordings": [...]}.')
def command(runs: tuple[str, ...], tensors: tuple[str, ...], everything: bool, as_json: bool) -> int:
    """Find dead, saturated, exploding, frozen ... weights in RUN, or in each of several. Exit code 1 when something is wrong."""
    from weightlapse.measures.doctor import diagnose
    from weightlapse.measures.reading import LIMIT
    from weightlapse.recording.recording import load

    def ask(path: str) -> Told:
        recording = load(path)
        findings = diagnose(recording, tensors=list(tensors), limit=None if everything else LIMIT)
        code = 1 if any(f.severity != "note" for f in findings) else 0
        if as_json:
            return code, {"recording": path, "frames": recording.frames, "findings": [f.to_json() for f in findings]}
        return code, told(path, recording.frames, findings, len(runs) > 1)

    return each(runs, as_json, ask)

"""What the recorder of a run had to say, as findings: they are events of the recording."""

from __future__ import annotations

from weightlapse.capture.findings import KINDS, finding_of
from weightlapse.measures.finding import Finding
from weightlapse.recording.run import Run


def recorder_findings(run: Run) -> list[Finding]:
    """Why it stopped, what is missing, and what its witness saw; they belong to no tensor, so ``tensor`` is empty."""
    found = []
    stopped = run.stopped
    if stopped is not None:
        step = int(run.steps[-1]) if len(run.steps) else 0
        advice = "What was recorded until then is whole; the run went on without a recorder."
        found.append(
            Finding("stopped", "", (), step, "error", f"the recorder had to stop after step {step}: {stopped}.", advice)
        )
    for step, text in run.events:
        if (told := finding_of(text)) is not None:
            severity, advice = KINDS[told[0]]
            found.append(Finding(told[0], "", (), step, severity, told[1], advice))
    for first, last, reason in run.gaps:
        found.append(
            Finding(
                "gap",
                "",
                (),
                first,
                "note",
                f"steps {first} to {last} are missing: {reason}.",
                "Leave them out of what you compare.",
            )
        )
    return found

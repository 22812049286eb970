"""`diagnose`: what is wrong with a training run, which units, since which step, and what to try."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from weightlapse.measures.evidence import Evidence, collect
from weightlapse.measures.finding import Finding, listed
from weightlapse.measures.part import Part
from weightlapse.measures.reading import LIMIT, SPEED
from weightlapse.measures.recorder import recorder_findings
from weightlapse.measures.rule import Rule
from weightlapse.measures.rules_network import NETWORK_RULES
from weightlapse.measures.rules_observed import OBSERVED_RULES
from weightlapse.measures.rules_units import UNIT_RULES
from weightlapse.measures.stream import frames_of, select
from weightlapse.recording.frames import Frames
from weightlapse.recording.recording import opened
from weightlapse.recording.run import Run

RULES: tuple[Rule, ...] = (
    *OBSERVED_RULES,
    *UNIT_RULES,
    *NETWORK_RULES,
)  # in this order: causes before what they explain
_ORDER = {"error": 0, "warning": 1, "note": 2}


def diagnose(
    run: Run | str | os.PathLike[str],
    *,
    tensors: str | Sequence[str] = "*",
    frames: Frames = None,
    limit: int | None = LIMIT,
) -> list[Finding]:
    """Findings about a recording, the worst first, then by the step where they begin. A healthy run gives an empty list.

    ``run``: a recording, or its path. ``frames``: which of them, rising (a slice, a range, an integer or several); all by default.

    Reads the recording alone: its statistics, and the values of small tensors and of what the statistics leave open. ``limit`` is the largest number of
    values that are unpacked for it, None for no limit; what was not looked at for that is told by a note of the kind ``unread``. With a wiring in the recording
    (``wl.watch(..., example=x)``) dead and saturated units are told apart; without one, rows of matrices stand for units.

    What the recorder itself had to say comes first of all: ``stopped`` (it had to), ``gap``, and the findings of its witness (updates that no frame
    holds, frames that change nothing, ...), which belong to no tensor.

    Further kinds: ``nonfinite``, ``dead``, ``saturated``, ``exploding``, ``vanishing``, ``frozen``, ``never_updated``, ``lr_high``,
    ``lr_low``, ``loss_spike``, ``divergence``, ``replicas``, ``collapse``, ``tied``, ``decay_dominated``, ``runaway_statistics``, ``speed_limit``.
    ``docs/explain/doctor.md`` says of each rule when it speaks, on what evidence, and what it cannot see.

    A recording whose layout changed (a grown network) is examined layout by layout.

    Raises UnknownTensor or InvalidArgument when nothing is selected; a recording of a single frame has no findings about change.

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> w = np.ones((2, 3))
    >>> with wl.watch({"w": w}, tempfile.mkdtemp() + "/run") as rec:
    ...     for t in range(5):
    ...         w = w + (np.nan if t == 3 else 0.01)
    ...         rec.step({"w": w})
    >>> [(f.kind, f.first_step) for f in wl.diagnose(wl.load(rec.path)) if f.severity == "error"]
    [('nonfinite', 4)]
    """
    run = opened(run)
    spans = list(run.layouts)
    if len(spans) > 1 and frames is None:
        findings = [
            finding for span in spans if len(span) for finding in _examined(Part(run, span), tensors, None, limit)
        ]
    else:
        findings = _examined(run, tensors, frames, limit)
    findings += recorder_findings(run)
    return sorted(findings, key=lambda f: (_ORDER[f.severity], f.first_step, f.kind, f.tensor))


def _examined(run: Run, tensors: str | Sequence[str], frames: Frames, limit: int | None) -> list[Finding]:
    run, span = frames_of(run, frames)
    names = [name for name in select(run, tensors) if np.prod(run.shapes[name]) > 0]
    return judged(collect(run, names, span, limit))


def judged(evidence: Evidence) -> list[Finding]:
    """What all rules find."""
    found: dict[tuple[str, str, object], Finding] = {}
    for rule in RULES:
        for finding in rule(evidence):
            found.setdefault(_what(finding), finding)
    return [*found.values(), *_unread(evidence)]


def _unread(evidence: Evidence) -> list[Finding]:
    unread = evidence.reading.unread
    if not unread:
        return []
    text = (
        f"not looked at: {listed(unread, 4)}. That would be {sum(unread.values()):.2g} more values to unpack, about "
        f"{sum(unread.values()) / SPEED:.0f} s of one core."
    )
    advice = "diagnose(run, limit=None), or `weightlapse doctor --all`, looks at everything; a recording without statistics gets them from `weightlapse compact`."
    return [Finding("unread", "", (), int(evidence.steps[0]), "note", text, advice)]


def _what(finding: Finding) -> tuple[str, str, object]:
    """Two findings of a layer as dead or saturated are one, the first; other kinds may befall a tensor several times."""
    whole = finding.kind in ("dead", "saturated") and finding.severity == "error"
    return finding.kind, finding.tensor, None if whole else (finding.first_step, finding.units)

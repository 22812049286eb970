"""The tables of docs/explain/doctor.md: `python -m tests.docs_tables` measures the doctor and writes them into the page."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "explain" / "doctor.md"


def filled(text: str, rows: Sequence[Any]) -> str:
    """The page with the rules of today and the trainings of ``rows``."""
    from weightlapse.measures.doctor import RULES
    from weightlapse.measures.rule import table

    for name, content in (("rules", table(RULES)), ("planted", _planted(rows)), ("healthy", _healthy(rows))):
        text = _put(text, name, content)
    return text


def with_spikes(text: str, rows: Sequence[Any]) -> str:
    """The page with the planted spikes, a line for each kind."""
    lines = [
        "| planted | spikes | found no later than the loss rose | at the right layer | told as a bad batch |",
        "|---|---|---|---|---|",
    ]
    for cause in [*dict.fromkeys(row.cause for row in rows), ""]:
        of = [row for row in rows if cause in ("", row.cause)]
        counts = (len(of), *(sum(getattr(row, what) for row in of) for what in ("in_time", "placed", "batch")))
        lines.append(f"| {cause or 'all'} | {' | '.join(map(str, counts))} |")
    return _put(text, "spikes", "\n".join(lines))


def _put(text: str, name: str, content: str) -> str:
    mark = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end of {name} -->)", re.S)
    assert mark.search(text), f"the page has no place for {name}"
    return mark.sub(lambda m: m[1] + content + m[2], text)


def _planted(rows: Sequence[Any]) -> str:
    of = [row for row in rows if row.fault]
    hits = sum(bool(row.found) for row in of)
    lines = [
        f"{hits} of {len(of)} planted faults are found, at the right tensor and units; {len(of) - hits} are missed.",
        "",
    ]
    lines += ["| planted | in | how | found as |", "|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.framework} | {row.fault} | {', '.join(f'`{k}`' for k in row.found) or f'**missed**: {row.blind}'} |"
        for row in of
    ]
    return "\n".join(lines)


def _healthy(rows: Sequence[Any]) -> str:
    of = [row for row in rows if not row.fault]
    alarms = sum(bool(row.alarms) for row in of)
    lines = [f"{alarms} of {len(of)} healthy trainings give a false alarm (an error or a warning).", ""]
    lines += ["| training | in | alarms |", "|---|---|---|"]
    lines += [f"| {row.name} | {row.framework} | {', '.join(f'`{k}`' for k in row.alarms) or 'none'} |" for row in of]
    return "\n".join(lines)


if __name__ == "__main__":
    from tests.test_measures_autopsy import SPIKES, examined
    from tests.test_measures_table import measured

    with tempfile.TemporaryDirectory() as folder:
        page = filled(PAGE.read_text(encoding="utf-8"), measured(Path(folder)))
        spikes = [examined(Path(folder) / f"s{k}", name) for k, name in enumerate(SPIKES)]
        PAGE.write_text(with_spikes(page, spikes), encoding="utf-8")

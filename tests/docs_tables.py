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
        mark = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end of {name} -->)", re.S)
        assert mark.search(text), f"the page has no place for {name}"
        text = mark.sub(lambda m: m[1] + content + m[2], text)  # noqa: B023
    return text


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
    from tests.test_measures_table import measured

    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), measured(Path(folder))), encoding="utf-8")

"""Every Python block of the documentation runs, page by page, in an empty folder, or says ``no-run``; every verb is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.framework_presence import require
from tests.scripts import run_script

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```", re.S | re.M)
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def program_of(page: str) -> str:
    """The runnable Python blocks of a page, joined in order."""
    return "\n".join(code for flags, code in BLOCK.findall(page) if "no-run" not in flags)


RUNNABLE = [p for p in PAGES if program_of(p.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda p: str(p.relative_to(ROOT)))
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    needs = re.search(r"<!-- needs: ([\w. ]+) -->", page.read_text(encoding="utf-8"))
    require(*(needs[1].split() if needs else ()))
    script = tmp_path / "page.py"
    script.write_text(program_of(page.read_text(encoding="utf-8")), encoding="utf-8")
    done = run_script(script, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_some_pages_run() -> None:
    assert len(RUNNABLE) >= 3


def test_every_verb_is_documented() -> None:
    from weightlapse.cli import VERBS

    text = "\n".join(p.read_text(encoding="utf-8") for p in PAGES)
    missing = [verb for verb in VERBS if f"weightlapse {verb}" not in text]
    assert missing == []


def test_links_between_pages_resolve() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert broken == []

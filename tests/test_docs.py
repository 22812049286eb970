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


SHELL = """
import glob, shlex
from weightlapse.cli import main
for line in {lines}:
    program, *words = shlex.split(line)
    assert program == "weightlapse", line
    words = [w for word in words for w in (sorted(glob.glob(word)) or [word])]
    try:
        main(words)
    except SystemExit as end:
        assert end.code == (words[0] == "diff"), (line, end.code)
        print("\\nanswered", line)
"""


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


def test_the_lines_of_the_quick_reference_run(tmp_path: Path) -> None:
    """The shell's, in order, on what the Python blocks have left; `view` alone would not end."""
    require("torch", "scipy", "matplotlib", "av", "pyarrow", "zarr", "duckdb", "numba")
    page = (ROOT / "docs" / "quick-reference.md").read_text(encoding="utf-8")
    lines = "".join(re.findall(r"^```sh\n(.*?)^```", page, re.S | re.M)).splitlines()
    assert len(lines) > 12
    script = tmp_path / "card.py"
    script.write_text(program_of(page) + SHELL.format(lines=[line for line in lines if " view " not in line]), "utf-8")
    done = run_script(script, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\nanswered ") == len(lines) - 1


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

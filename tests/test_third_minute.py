"""Each line of docs/third-minute.md runs (`make alone` does it from the built wheel in an empty environment)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.framework_presence import require, run_program

PROGRAM = Path(__file__).resolve().parent / "programs" / "third_minute.py"


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A path on which ``weightlapse`` and ``python`` are those of this environment."""
    for name, words in (("weightlapse", "-m weightlapse "), ("python", "")):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        (tmp_path / name).chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.skipif(os.name == "nt", reason="the stand-ins for the programs are shell scripts")
def test_every_line_runs(path: str) -> None:
    require("matplotlib", "av", "PIL")
    said = run_program("third_minute.py", PATH=path).splitlines()
    assert said[-1].startswith("first picture after ")
    assert sum("weightlapse " in line for line in said) >= 8


@pytest.mark.parametrize(
    "page, wrong",
    [
        ("```sh\npython -c 'raise SystemExit(3)'\n```\n", "exit code 3"),
        ("```sh\ntrue\n```\n", "no picture"),
        ("Nothing runs.\n", "no picture"),
    ],
)
def test_a_page_that_does_not_run_fails(tmp_path: Path, page: str, wrong: str) -> None:
    (tmp_path / "page.md").write_text(page)
    code = f"import runpy, pathlib, sys; sys.argv = ['x']; m = runpy.run_path({str(PROGRAM)!r}); m['main'].__globals__['PAGE'] = pathlib.Path({str(tmp_path / 'page.md')!r}); m['main']()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert wrong in done.stdout + done.stderr

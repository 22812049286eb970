"""The shortcut by which scripts are run tells what a process of their own would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts import run_script, run_verb


@pytest.mark.parametrize(
    ("code", "ends"),
    [
        ("print('a'); raise SystemExit(3)", 3),
        ("1 / 0", 1),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import time; time.sleep(60)", -9),
    ],
)
def test_how_a_script_fails_is_told(tmp_path: Path, code: str, ends: int) -> None:
    (tmp_path / "s.py").write_text(code)
    done = run_script(tmp_path / "s.py", tmp_path, seconds=60 if "sleep" not in code else 1)
    assert done.returncode == ends
    assert ("ZeroDivisionError" in done.stderr) == ("1 / 0" in code)
    assert done.stdout == ("a\n" if "print" in code else "")


def test_scripts_know_nothing_of_each_other(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import atexit, os, sys, torch\nassert not hasattr(torch, 'mine')\ntorch.mine = 1\nos.environ['MINE'] = '1'\n"
        "print(os.getcwd(), sys.argv, __name__, 'jax' in sys.modules, os.environ.get('HIS'))\natexit.register(print, 'the end')\n"
    )
    for _ in range(2):
        done = run_script(tmp_path / "s.py", tmp_path, HIS="2")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{tmp_path} ['{tmp_path / 's.py'}'] __main__ False 2\nthe end\n"


def test_a_verb_answers_as_in_a_shell(tmp_path: Path) -> None:
    """What it prints, where, and its exit code, of an answer and of an error."""
    for words in (["--version"], ["info", "nothing here"], ["no-such-verb"]):
        alone = subprocess.run(
            [sys.executable, "-m", "weightlapse", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        forked = run_verb(tmp_path, *words)
        assert (forked.returncode, forked.stdout, forked.stderr) == (alone.returncode, alone.stdout, alone.stderr)
        assert (forked.returncode == 0) == (words == ["--version"])

"""What an editor tells a stranger: a right script passes mypy and Pyright at their strictest, and each mistake in a wrong one is found, on its line."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def mypy(script: Path) -> set[int]:
    """The lines of ``script`` with an error."""
    words = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", str(script)]
    return _lines(
        subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=500), script, r"{}:(\d+): error"
    )


def pyright(script: Path) -> set[int]:
    words = [
        shutil.which("basedpyright", path=str(Path(sys.executable).parent)) or "basedpyright",
        "--level",
        "error",
        str(script),
    ]
    return _lines(
        subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=500), script, r"{}:(\d+):\d+ - error"
    )


def _lines(done: subprocess.CompletedProcess[str], script: Path, form: str) -> set[int]:
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {int(number) for number in re.findall(form.format(re.escape(script.name)), done.stdout)}
    assert bool(found) == (done.returncode == 1), done.stdout + done.stderr
    return found


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_right_script_passes(checker: Callable[[Path], set[int]]) -> None:
    assert checker(HERE / "passes.py") == set()


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_every_mistake_is_found_on_its_line(checker: Callable[[Path], set[int]]) -> None:
    lines = (HERE / "fails.py").read_text(encoding="utf-8").splitlines()
    wrong = {k for k, line in enumerate(lines, 1) if "# wrong" in line}
    assert len(wrong) > 15
    assert checker(HERE / "fails.py") == wrong


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_every_stand_in_is_a_run(checker: Callable[[Path], set[int]]) -> None:
    lines = (HERE / "runs.py").read_text(encoding="utf-8").splitlines()
    assert checker(HERE / "runs.py") == {k for k, line in enumerate(lines, 1) if "# wrong" in line}

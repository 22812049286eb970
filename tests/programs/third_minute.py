"""Runs each line of docs/third-minute.md as a reader would, in an empty folder: python third_minute.py WHEEL

The wheel is installed into an empty environment of its own; prints what each line took, and the time from the end of the installation to the first picture.
With the package alone every verb and public function is tried as well. Without WHEEL the lines run in the environment of this Python, and those that install are left out. Exits 1 when a line fails.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

VERBS = Path(__file__).resolve().parent / "verbs.py"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "third-minute.md"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.S | re.M)
LIMIT = 20  # seconds from the end of the installation to the first picture


def lines(text: str) -> Iterator[str]:
    """The shell's lines in order; a block of Python becomes the file that the text tells the reader to save."""
    for language, body in BLOCK.findall(text):
        if language == "python":
            Path("train.py").write_text(body, encoding="utf-8")
        else:
            yield from body.strip().split("\n")


def run(line: str) -> None:
    start = time.perf_counter()
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    print(f"{time.perf_counter() - start:6.1f} s  {line}", flush=True)
    if done.returncode:
        sys.exit(f"{line}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")


def everything() -> None:
    """Every verb and every public function, with what is installed now: each works, or says which extra it needs."""
    command = ["python", str(VERBS), tempfile.mkdtemp(), ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{VERBS.name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    needs = {told for told in found.values() if told.startswith("needs ")}
    print(
        f"         {len(found)} verbs and names: {sum(told == 'works' for told in found.values())} work, the others say {', '.join(sorted(needs))}",
        flush=True,
    )
    wrong = {name: told for name, told in found.items() if told != "works" and told not in needs}
    if wrong or not needs:
        sys.exit(
            f"neither works nor says what it needs: {wrong}"
            if wrong
            else "nothing is missing: the environment is not empty"
        )


def main() -> None:
    wheel = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    os.chdir(tempfile.mkdtemp())
    os.environ.pop("PYTHONPATH", None) if wheel else None
    programs = Path(sys.executable).parent
    if wheel is not None:
        venv.create("environment", with_pip=True)
        programs = Path("environment").resolve() / ("Scripts" if os.name == "nt" else "bin")
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    installed, picture = time.perf_counter(), None
    for line in lines(PAGE.read_text(encoding="utf-8")):
        if line.startswith("pip install"):
            if wheel is None:
                continue
            extra = re.search(r"\[\w+\]", line)
            run(f'python -m pip install --quiet --disable-pip-version-check "{wheel}{extra[0] if extra else ""}"')
            if not extra:
                everything()
                installed = time.perf_counter()
            continue
        run(line)
        if picture is None and Path("page.html").exists():
            picture = time.perf_counter() - installed
    print(f"first picture after {picture:.1f} s" if picture is not None else "no picture")
    if picture is None or (wheel is not None and picture > LIMIT):
        sys.exit(f"the first picture must be there within {LIMIT} s")


if __name__ == "__main__":
    main()

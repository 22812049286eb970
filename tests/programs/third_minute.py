"""Runs each line of docs/third-minute.md as a reader would, in an empty folder: python third_minute.py WHEEL

The wheel is installed into an empty environment of its own; prints what each line took, and the time from the end of the installation to the first picture.
Without WHEEL the lines run in the environment of this Python, and those that install are left out. Exits 1 when a line fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

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
            installed = installed if extra else time.perf_counter()
            continue
        run(line)
        if picture is None and Path("page.html").exists():
            picture = time.perf_counter() - installed
    print(f"first picture after {picture:.1f} s" if picture is not None else "no picture")
    if picture is None or (wheel is not None and picture > LIMIT):
        sys.exit(f"the first picture must be there within {LIMIT} s")


if __name__ == "__main__":
    main()

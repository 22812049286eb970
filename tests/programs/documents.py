"""Runs programs of examples/documents one after the other in this process, each in a folder of its own: ``documents.py FOLDER NAME:ARGUMENT,... ...``."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

root, folder = Path(__file__).resolve().parents[2], Path(sys.argv[1])
for order in sys.argv[2:]:
    name, _, arguments = order.partition(":")
    (folder / name).mkdir()
    os.chdir(folder / name)
    program = root / "examples" / "documents" / f"{name}.py"
    sys.argv = [str(program), *arguments.split(",")]
    print(f"== {name}")
    runpy.run_path(str(program), run_name="__main__")

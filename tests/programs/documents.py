"""Runs programs of examples/ one after the other in this process, each in a folder of its own: ``documents.py FOLDER documents/NAME:ARGUMENT,... ...``."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

root, folder = Path(__file__).resolve().parents[2], Path(sys.argv[1])
for order in sys.argv[2:]:
    name, _, arguments = order.partition(":")
    (folder / name).mkdir(parents=True)
    os.chdir(folder / name)
    program = root / "examples" / f"{name}.py"
    sys.argv = [str(program), *filter(None, arguments.split(","))]
    print(f"== {name}", flush=True)
    runpy.run_path(str(program), run_name="__main__")

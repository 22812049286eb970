"""Runs programs of this folder in one process, so that a framework is imported once: FOLDER NAME [NAME ...]; each has a folder of its own."""

from __future__ import annotations

import gc
import runpy
import sys
from pathlib import Path

folder, *names = sys.argv[1:]
# to search what a framework holds for garbage, again and again, took a tenth of the time
gc.set_threshold(100_000, 20, 50)
for name in names:
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session()  # names of layers count from 0 again
    own = Path(folder) / name
    own.mkdir()
    sys.argv = [name, str(own)]
    runpy.run_path(str(Path(__file__).with_name(f"{name}.py")), run_name="__main__")
    print("done:", name, flush=True)

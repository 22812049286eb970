"""Runs programs and notebooks of examples/ one after the other in this process, each in a folder of its own: ``documents.py FOLDER next/NAME notebooks/NAME:BUDGET,...``.

A notebook's cells are run as a notebook runs them, by IPython; the budget takes the place of the one in its second code cell.
"""

from __future__ import annotations

import gc
import json
import os
import re
import runpy
import sys
from pathlib import Path


def run_notebook(path: Path, budget: list[str]) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    shell.reset()  # of the notebook before
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    given = budget[0] if len(budget) == 1 else f"[{', '.join(budget)}]"
    sources[1], count = re.subn(r"^([A-Z]+) = .*", rf"\1 = {given}", sources[1])
    assert count == 1, f"{path} has no budget"
    for source in sources:
        done = shell.run_cell(source)
        done.raise_error()
    data, _ = shell.display_formatter.format(done.result)
    assert "data:image/png" in data["text/html"], "the last cell shows no recording"


# to search what a framework holds for garbage, again and again, took a tenth of the time
gc.set_threshold(100_000, 20, 50)
root, folder = Path(__file__).resolve().parents[2], Path(sys.argv[1])
for order in sys.argv[2:]:
    name, _, arguments = order.partition(":")
    (folder / name).mkdir(parents=True)
    os.chdir(folder / name)
    if name.startswith("notebooks/"):
        print(f"== {name}", flush=True)
        run_notebook(root / "examples" / f"{name}.ipynb", arguments.split(","))
        continue
    program = root / "examples" / f"{name}.py"
    sys.argv = [str(program), *filter(None, arguments.split(","))]
    print(f"== {name}", flush=True)
    runpy.run_path(str(program), run_name="__main__")

"""The frame around every study: a fresh folder, the run, the report, the checked results."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weightlapse.errors import InvalidArgument
from weightlapse.studies.report import write_report
from weightlapse.studies.results import Results

Study = Callable[[Path, bool], Results]


def run_study(study: Study, name: str, out: Path, *, quick: bool = False) -> dict[str, Any]:
    """Run ``study(out, quick)`` in the folder ``out`` and return the content of its ``results.json``.

    ``study`` leaves a recording, a film and figures in ``out`` and returns its `Results`; the report and ``results.json`` are
    written here. An earlier result of the same study in ``out`` is replaced; any other folder that holds something is refused.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / f".study-{name}").exists())):
        raise InvalidArgument(
            f"{out} exists and is not an earlier result of this study; nothing was written. Give another folder with --out."
        )
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / f".study-{name}").touch()
    results = study(out, quick)
    write_report(results)
    return results.write()

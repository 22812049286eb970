"""The frame around every study: a fresh folder, the run, the report, the checked results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weightlapse.errors import InvalidArgument
from weightlapse.store.remove import remove_listed
from weightlapse.studies.report import write_report
from weightlapse.studies.results import Results

Study = Callable[[Path, bool], Results]


def run_study(study: Study, name: str, out: Path, *, quick: bool = False) -> dict[str, Any]:
    """Run ``study(out, quick)`` in the folder ``out`` and return the content of its ``results.json``.

    ``study`` leaves a recording, a film and figures in ``out`` and returns its `Results`; the report and ``results.json`` are
    written here. An earlier result of the same study in ``out`` is replaced, file by file as it lists them: whatever else lies there stays. Any
    other folder that holds something is refused.
    """
    listing = out / f".study-{name}"
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not listing.exists())):
        raise InvalidArgument(
            f"{out} exists and is not an earlier result of this study; nothing was written. Give another folder with --out."
        )
    if listing.exists():
        remove_listed(out, listing)
    out.mkdir(parents=True, exist_ok=True)
    before = {path for path in out.rglob("*") if path.is_file()}
    try:
        results = study(out, quick)
        write_report(results)
        return results.write()
    finally:  # also when it is interrupted: the next run must know what is its own
        made = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and path not in before]
        listing.write_text(json.dumps({"made": sorted(made)}))

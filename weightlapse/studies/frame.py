"""The frame around every study: a fresh folder, the run, the report, the checked results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weightlapse.errors import InvalidArgument
from weightlapse.store.remove import remove_building, remove_listed
from weightlapse.studies.report import write_report
from weightlapse.studies.results import Results

Study = Callable[[Path, bool], Results]


def run_study(study: Study, name: str, out: Path, *, quick: bool = False) -> dict[str, Any]:
    """Run ``study(out, quick)`` in the folder ``out`` and return the content of its ``results.json``.

    ``study`` leaves a recording, a film and figures in the folder that it is given and returns its `Results`; the report and ``results.json`` are
    written here. Everything is made in a hidden folder of ``out`` and moved when it is whole: a study that is interrupted, killed or fails leaves
    an earlier result as it was, and the next run clears up after it. An earlier result of the same study in ``out`` is replaced, file by file
    as it lists them: whatever else lies there stays. Any other folder that holds something is refused.
    """
    listing, unfinished = out / f".study-{name}", out / f".study-{name}.unfinished"
    if out.exists() and (not out.is_dir() or not (listing.exists() or set(out.iterdir()) <= {unfinished})):
        raise InvalidArgument(
            f"{out} exists and is not an earlier result of this study; nothing was written. Give another folder with --out."
        )
    remove_building(unfinished)
    unfinished.mkdir(parents=True)
    results = study(unfinished, quick)
    write_report(results)
    content = results.write()
    if listing.exists():
        remove_listed(out, listing)
    made = [path.relative_to(unfinished).as_posix() for path in unfinished.rglob("*") if path.is_file()]
    listing.write_text(json.dumps({"made": sorted(made)}))  # before the first is moved: what is listed is ours
    for path in list(unfinished.iterdir()):
        _move(path, out / path.name)
    remove_building(unfinished)
    return content


def _move(made: Path, place: Path) -> None:
    """Into a folder that is there already, file by file: what else lies in it stays."""
    if made.is_dir() and place.is_dir():
        for inner in list(made.iterdir()):
            _move(inner, place / inner.name)
    else:
        made.replace(place)

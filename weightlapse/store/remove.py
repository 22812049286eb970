"""Every removal that the package ever makes, in one place: nothing is deleted because a file exists, only because it is proved to be needed no more.

    what                                        the proof
    unfinished files of our own (``*.tmp``,     this program made them, under a name that nobody else uses, and they were never
    ``.NAME.xxxxxxxx``)                         whole
    the log of a compressed segment             its block was read back from disk: every checksum right, every value held against the log
                                                (``proof.py``)
    a segment that was never begun              shorter than its first record, so that it holds no frame; no writer lives
    files of a recording that was overwritten   they name that recording, whose replacement is complete and said so in its manifest; the user
                                                asked for it
    an earlier result of a study                it lists the files that it made
    a copy of all these on another file system  the same file is gone here (``mirror.py``)

Everything else in a folder is the user's and stays. A test reads the package for other calls that remove files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from weightlapse.errors import InvalidArgument
from weightlapse.store.files import POOL
from weightlapse.store.portable import unlink

UNFINISHED = (".tmp", ".part")


def remove_own(path: Path) -> None:
    """An unfinished file of ours; nothing happens where there is none."""
    if path.suffix not in UNFINISHED:
        raise InvalidArgument(f"{path} does not bear the name of an unfinished file: it is not removed")
    with contextlib.suppress(FileNotFoundError):
        unlink(path)


def remove_building(folder: Path) -> None:
    """A folder (or file) that this program made with a hidden name of its own and did not finish."""
    if not folder.name.startswith("."):
        raise InvalidArgument(f"{folder} is not a hidden folder of ours: it is not removed")
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            unlink(folder)


def remove_empty(folder: Path) -> None:
    """A folder, if nothing is in it."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def remove_proved(path: Path) -> None:
    """A file of a recording that the caller has proved to be needed no more, by one of the rules above."""
    POOL.forget(str(path))
    with contextlib.suppress(FileNotFoundError):
        unlink(path)


def remove_listed(folder: Path, listing: Path) -> None:
    """The files that a JSON file ``{"made": [names]}`` in ``folder`` lists, itself, and the folders that are empty then."""
    made = json.loads(listing.read_text() or "{}").get("made", [])
    paths = [folder / name for name in made if isinstance(name, str)]
    paths = [path for path in paths if path.resolve().is_relative_to(folder.resolve())]
    for path in (*paths, listing):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            unlink(path)
    for parent in sorted(
        {p for path in paths for p in path.parents if p != folder and folder in p.parents}, reverse=True
    ):
        remove_empty(parent)


def remove_copy(files: Any, path: str) -> None:
    """A file of a copy on an fsspec file system whose original is gone."""
    files.rm_file(path)

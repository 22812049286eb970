"""What was probably meant by a path that holds no recording."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from weightlapse.errors import closest

_MOST = 5


def recordings_like(path: str | os.PathLike[str]) -> str:
    """A sentence for error messages: recordings that the pattern matches, that lie in the folder, or whose names are near. "" when there are none."""
    text = os.fspath(path)
    if glob.has_magic(text) and not os.path.lexists(text):
        found = _recordings(glob.glob(os.path.expanduser(text)))
        if not found:
            return "; it is a pattern, and matches no recording: load() opens one recording, by its path"
        return f"; it is a pattern that matches {_told(found)}: load() opens one recording, [load(p) for p in sorted(glob.glob({text!r}))] all of them"
    folder = Path(text)
    if folder.is_dir():
        found = _recordings(str(p) for p in sorted(folder.iterdir()))
        return f"; it holds the recordings {_told(found)}: give the path of one" if found else ""
    if folder.parent.is_dir():
        names = [Path(p).name for p in _recordings(str(p) for p in sorted(folder.parent.iterdir()))]
        return f"; beside it there are recordings, {closest(folder.name, names)}" if names else ""
    return ""


def _recordings(paths: Iterable[str]) -> list[str]:
    return [p for p in paths if os.path.isfile(os.path.join(p, "manifest.json"))]


def _told(paths: list[str]) -> str:
    more = f" and {len(paths) - _MOST} more" if len(paths) > _MOST else ""
    return ", ".join(sorted(paths)[:_MOST]) + more

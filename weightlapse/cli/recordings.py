"""Where a verb takes one recording it takes several: ``weightlapse info runs/*``."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from weightlapse.errors import NotARecording, WeightlapseError
from weightlapse.store.manifest import NAME
from weightlapse.store.remote import is_url

Told = tuple[int, "dict[str, Any] | str"]  # exit code; what is said, as an object or in words


def is_recording(path: str) -> bool:
    """Whether a local folder bears the manifest of a recording; nothing is read."""
    return os.path.isfile(os.path.join(path, NAME))


def is_pattern(word: str) -> bool:
    """Whether a word is a glob that the shell has left (Windows, quotes): not where a file bears this very name, and not a URL."""
    return glob.has_magic(word) and not is_url(word) and not os.path.lexists(word)


def expanded(words: Sequence[str]) -> list[str]:
    """The paths that are meant: patterns, which some shells leave to the program, become the folders that they match.

    A folder that is no recording stays, so that one whose manifest is lost is not passed over. Raises NotARecording when a pattern matches nothing.
    """
    found: list[str] = []
    for word in words:
        if is_pattern(word):
            matches = _without_files(sorted(glob.glob(os.path.expanduser(word), recursive=True)))
            if not matches:
                raise NotARecording(f"{word} is a pattern, and matches no recording")
            found += matches
        else:
            found.append(word)
    return list(dict.fromkeys(found))


def _without_files(paths: list[str]) -> list[str]:
    """The paths that are no files, and a word about the others: ``runs/*`` names the notes beside the recordings too."""
    files = [path for path in paths if os.path.isfile(path)]
    if files and len(files) < len(paths):
        click.echo(f"left out, no recordings: {', '.join(files)}", err=True)
    return [path for path in paths if path not in files]


def each(words: Sequence[str], as_json: bool, ask: Callable[[str], Told]) -> int:
    """Say what ``ask`` has to say of each recording; the largest of the exit codes.

    One recording gives its own JSON object, several ``{"recordings": [...]}``. Of several, one that cannot be read does not stop the others.
    """
    paths = expanded(words)
    if len(paths) > 1 and not (paths := _without_files(paths)):  # a shell has expanded a pattern
        raise NotARecording(f"none of these is a recording: {', '.join(words)}")
    if len(paths) == 1 and not any(map(is_pattern, words)):
        code, told = ask(paths[0])
        click.echo(json.dumps(told, allow_nan=False, default=str) if as_json else told)
        return code
    worst, objects = 0, []
    for path in paths:
        try:
            code, told = ask(path)
        except WeightlapseError as error:
            code, told = 1, {"path": path, "error": str(error)} if as_json else ""
            click.echo(f"weightlapse: {error}", err=True)
        worst = max(worst, code)
        if isinstance(told, dict):
            objects.append(told)
        elif told:
            click.echo(told)
    if as_json:
        click.echo(json.dumps({"recordings": objects}, allow_nan=False, default=str))
    return worst


def below(folder: str) -> Iterator[str]:
    """Paths of the recordings in a folder and its folders, in order; recordings are not searched for more."""
    if is_recording(folder):
        yield folder
        return
    for path, folders, _ in os.walk(folder):
        folders.sort()
        for name in list(folders):
            inner = os.path.join(path, name)
            if is_recording(inner):
                folders.remove(name)
                yield inner

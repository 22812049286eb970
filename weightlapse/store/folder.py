"""Where the bytes of a recording are read from: a folder, as named files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from weightlapse.errors import DamagedRecording, NotARecording
from weightlapse.store.files import File, LocalFile


class Folder(Protocol):
    """A place that holds a recording. Names use "/"; a missing file is a FileNotFoundError."""

    @property
    def location(self) -> str:
        """The path or address, for messages."""

    def names(self, below: str) -> list[str]:
        """The sorted file names in the sub-folder ``below``; empty when there is no such folder."""

    def open(self, name: str) -> File:
        """A file as it is now."""


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        if not self._path.is_dir():
            kind = "is a file, not a folder" if os.path.lexists(self._path) else "does not exist"
            if self._path.is_symlink() and not self._path.exists():
                kind = "is a link to nothing"
            raise NotARecording(f"{self._path} {kind}: a recording is a folder that weightlapse.watch has written")

    @property
    def location(self) -> str:
        """The path as it was given."""
        return str(self._path)

    def names(self, below: str) -> list[str]:
        """As `Folder.names`; a folder that is there and cannot be listed raises DamagedRecording."""
        try:
            return sorted(os.listdir(self._path / below))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise DamagedRecording(f"{self._path / below} cannot be listed ({error.strerror})") from None

    def open(self, name: str) -> File:
        """A regular file by its name. Raises FileNotFoundError, or DamagedRecording for what is no regular file."""
        return LocalFile(self._path / name, name)

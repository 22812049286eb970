"""Where the bytes of a recording are read from: a folder, as named byte arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import NotARecording


class Folder(Protocol):
    """A place that holds a recording. Names use "/"; a missing file is a FileNotFoundError."""

    @property
    def location(self) -> str: ...

    def names(self, below: str) -> list[str]:
        """The sorted file names in the sub-folder ``below``; empty when there is no such folder."""

    def size(self, name: str) -> int: ...

    def data(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a file as they are now, mapped where possible."""


class LocalFolder:
    """A folder of this machine; files are memory-mapped, so only the pages that are looked at are read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        if not self._path.is_dir():
            kind = "is a file, not a folder" if self._path.exists() else "does not exist"
            raise NotARecording(f"{self._path} {kind}: a recording is a folder that weightlapse.watch has written")

    @property
    def location(self) -> str:
        return str(self._path)

    def names(self, below: str) -> list[str]:
        try:
            return sorted(os.listdir(self._path / below))
        except FileNotFoundError:
            return []

    def size(self, name: str) -> int:
        return (self._path / name).stat().st_size

    def data(self, name: str) -> NDArray[np.uint8]:
        path = self._path / name
        if path.stat().st_size == 0:
            return np.empty(0, np.uint8)
        return np.memmap(path, np.uint8, mode="r")

"""Recordings that lie elsewhere: any file system that fsspec knows, by URL ("memory://run", "s3://bucket/run", "file:///tmp/run")."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import NotARecording, missing_extra


def is_url(path: object) -> bool:
    return isinstance(path, str) and "://" in path


class RemoteFolder:
    """A folder of an fsspec file system. A file is fetched when it is first read, and what was fetched is kept: files only grow.

    So opening costs the journal and the log segments, and each block file is fetched when one of its frames is asked for.
    """

    def __init__(self, url: str) -> None:
        try:
            fsspec: Any = importlib.import_module("fsspec")
        except ImportError:
            raise missing_extra("fsspec", extra="export", purpose=f"reading {url}") from None
        try:
            self._files, self._root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise NotARecording(f"{url} cannot be opened: {error}") from None
        self.location = url
        self._kept: dict[str, NDArray[np.uint8]] = {}

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else str(self._root)

    def names(self, below: str) -> list[str]:
        try:
            self._files.invalidate_cache(self._path(below))
            entries = self._files.ls(self._path(below), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def size(self, name: str) -> int:
        return int(self._files.size(self._path(name)))

    def data(self, name: str) -> NDArray[np.uint8]:
        size = self.size(name)
        kept = self._kept.get(name)
        if kept is None or len(kept) > size:  # cut by a writer that resumed
            kept = np.empty(0, np.uint8)
        if len(kept) < size:
            grown = np.frombuffer(self._files.cat_file(self._path(name), start=len(kept), end=size), np.uint8)
            kept = np.concatenate([kept, grown]) if len(kept) else grown
            self._kept[name] = kept
        return kept

"""Recordings that lie elsewhere: any file system that fsspec knows, by URL ("memory://run", "s3://bucket/run", "file:///tmp/run")."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable
from typing import Any

from weightlapse.errors import DamagedRecording, NotARecording, missing_extra
from weightlapse.store.files import File


def is_url(path: object) -> bool:
    """Whether it is a text with "://" in it; a path object never is."""
    return isinstance(path, str) and "://" in path


def file_system(url: str, *, purpose: str, refused: Callable[[Exception], Exception]) -> tuple[Any, str]:
    """The fsspec file system behind ``url``, and the path there; raises what ``refused`` makes of the reason where there is no such one."""
    try:
        fsspec: Any = importlib.import_module("fsspec.core")
    except ImportError:
        raise missing_extra("fsspec", extra="export", purpose=purpose) from None
    try:
        files, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise refused(error) from None
    return files, str(path)


class RemoteFile:
    """A file of an fsspec file system; its bytes are fetched when the first of them are read."""

    def __init__(self, folder: RemoteFolder, name: str, size: int) -> None:
        self._folder = folder
        self.name = name
        self.size = size
        self.key: Hashable = (folder.location, name)

    def read(self, start: int, stop: int) -> bytes:
        """As `File.read`; the first call fetches the whole file, later ones take from what was kept."""
        if start >= stop:
            return b""
        data = self._folder.fetched(self.name, self.size)[start:stop] if stop <= self.size else b""
        if len(data) != stop - start:
            raise DamagedRecording(f"{self.name} of {self._folder.location} has no bytes {start} to {stop - 1}")
        return data


class RemoteFolder:
    """A folder of an fsspec file system. A file is fetched when it is first read, and what was fetched is kept: files only grow.

    So opening costs the journal and the log segments, and each block file is fetched when one of its frames is asked for.
    """

    def __init__(self, url: str) -> None:
        self._files, self._root = file_system(
            url, purpose=f"reading {url}", refused=lambda why: NotARecording(f"{url} cannot be opened: {why}")
        )
        self._url = url
        self._kept: dict[str, bytes] = {}

    def __reduce__(self) -> Any:
        return RemoteFolder, (self._url,)

    @property
    def location(self) -> str:
        """The URL as it was given."""
        return self._url

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else str(self._root)

    def names(self, below: str) -> list[str]:
        """As `Folder.names`, asked anew each time: listings that fsspec keeps would hide what was written since."""
        try:
            self._files.invalidate_cache(self._path(below))
            entries = self._files.ls(self._path(below), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def open(self, name: str) -> File:
        """A file with the size that it has now; its bytes are not fetched yet."""
        return RemoteFile(self, name, int(self._files.size(self._path(name))))

    def fetched(self, name: str, size: int) -> bytes:
        """The first ``size`` bytes of a file at least."""
        kept = self._kept.get(name, b"")
        if len(kept) < size:
            kept += self._files.cat_file(self._path(name), start=len(kept), end=size)
            self._kept[name] = kept
        return kept

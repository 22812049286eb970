"""A copy of a growing recording on another file system (object storage), through fsspec.

While recording, finished block files are copied: they never change again. Raw log segments, which grow and then disappear, follow at the end. The
journal is copied last, as it was before the frames: so whoever reads the copy finds every frame that its journal speaks of.
"""

from __future__ import annotations

from pathlib import Path

import weightlapse.store.manifest as manifest
from weightlapse.errors import InvalidArgument
from weightlapse.store.folder import LocalFolder
from weightlapse.store.remote import file_system
from weightlapse.store.remove import remove_copy
from weightlapse.store.statistics_file import file_name as statistics_name

_ATTEMPTS = 10  # compaction may remove a file between listing and reading it


class Mirror:
    """Copies the recording in ``folder`` to ``url``."""

    def __init__(self, url: str, *, replace: bool = False) -> None:
        """Raises :class:`InvalidArgument` when something is there already, unless ``replace``."""
        self._files, root = file_system(
            url, purpose="mirror=", refused=lambda why: InvalidArgument(f"mirror={url!r} cannot be written: {why}")
        )
        self.url = url
        self._root = root.rstrip("/")
        self._copied: dict[str, int] = {}
        if not replace and self._files.exists(f"{self._root}/{manifest.NAME}"):
            raise InvalidArgument(
                f"mirror={url!r} already holds a recording; choose another URL, or pass overwrite=True or resume=True"
            )

    def push(self, folder: Path, *, all_of_it: bool) -> None:
        """Copy what is new: finished blocks, and with ``all_of_it`` the raw log too."""
        for attempt in range(_ATTEMPTS):
            try:
                self._push(folder, all_of_it=all_of_it)
                return
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise

    def _push(self, folder: Path, *, all_of_it: bool) -> None:
        head = manifest.read(LocalFolder(folder))[0]
        name_of_journal = head.get("journal", manifest.JOURNAL)
        journal = (folder / name_of_journal).read_bytes()
        below = ("blocks", "log") if all_of_it else ("blocks",)
        files = [path for name in below for path in sorted((folder / name).glob("[!.]*")) if path.suffix != ".tmp"]
        name_of_statistics = statistics_name(bytes.fromhex(head["id"]))
        kept = [folder / name_of_statistics] if all_of_it and (folder / name_of_statistics).is_file() else []
        for path in [*files, *kept, folder / manifest.NAME]:
            name, size = path.relative_to(folder).as_posix(), path.stat().st_size
            if self._copied.get(name) != size:
                self._put(name, path.read_bytes())
        self._put(name_of_journal, journal)
        if all_of_it:
            present = {path.relative_to(folder).as_posix() for path in files}
            for name in [n for n in self._copied if n.startswith(("log/", "blocks/")) and n not in present]:
                remove_copy(self._files, f"{self._root}/{name}")
                del self._copied[name]

    def _put(self, name: str, data: bytes) -> None:
        target = f"{self._root}/{name}"
        self._files.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        self._files.pipe_file(target, data)
        self._copied[name] = len(data)

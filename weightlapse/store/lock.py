"""One writer per recording: an advisory lock that the operating system releases when its process dies, however it dies."""

from __future__ import annotations

import os
from pathlib import Path

from weightlapse.errors import CannotRecord

try:
    import fcntl
except ImportError:  # no flock on this system: two writers are then the user's own care
    fcntl = None  # type: ignore[assignment]


class Lock:
    """Holds ``folder/lock`` from construction to :meth:`release`; raises :class:`CannotRecord` when another writer has it."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        if not self._taken():
            owner = os.pread(self._fd, 64, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise CannotRecord(
                f"{folder} is being recorded to by process {owner or 'unknown'}: two writers would mix their frames; "
                "choose another path or end that process"
            )
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def _taken(self) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Let the next writer in. The file stays: removing it would let two writers lock two different files."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1

"""One writer per recording: an advisory lock that the operating system releases when its process dies, however it dies."""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path

from weightlapse.errors import CannotRecord
from weightlapse.store.files import open_descriptor
from weightlapse.store.portable import read_at, try_lock, unlock, write_at

_HELD: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """Holds ``folder/lock`` from construction to :meth:`release`; raises :class:`CannotRecord` when another writer has it.

    A forked child has no part in it: its copy of the descriptor is closed at birth, so that a worker that outlives its parent (or the
    parent's recorder) holds nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._fd = open_descriptor(folder / "lock", os.O_RDWR | os.O_CREAT)
        if try_lock(self._fd) is False:
            owner = read_at(self._fd, 0, 64).decode("ascii", "replace").strip()
            os.close(self._fd)
            self._fd = -1
            mine = owner == str(os.getpid())
            who = f"this process ({owner})" if mine else f"process {owner or 'unknown'}"
            out = "close the recorder that writes there first" if mine else "choose another path or end that process"
            raise CannotRecord(f"{folder} is being recorded to by {who}: two writers would mix their frames; {out}")
        with contextlib.suppress(OSError):  # the number is for people: the lock is held without it
            os.ftruncate(self._fd, 0)
            write_at(self._fd, 0, f"{os.getpid()}\n".encode())
        _HELD.add(self)

    def is_in(self, folder: Path) -> bool:
        """Whether the file that is locked is the one in ``folder``: False when that was removed, moved, or removed and made anew."""
        try:
            return self._fd < 0 or os.path.samestat(os.fstat(self._fd), os.stat(folder / "lock"))
        except FileNotFoundError:
            return False
        except OSError:  # nobody can tell
            return True

    def release(self) -> None:
        """Let the next writer in. The file stays: removing it would let two writers lock two different files."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):  # only for those who look into the file
                os.ftruncate(fd, 0)
            unlock(fd)  # explicitly: a descriptor that some child still has would go on holding it
            with contextlib.suppress(OSError):
                os.close(fd)
        _HELD.discard(self)


def _forget_in_child() -> None:
    for lock in list(_HELD):
        if lock._fd >= 0:
            os.close(lock._fd)
            lock._fd = -1
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)

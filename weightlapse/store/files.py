"""Bytes of files, read by position: nothing is mapped, so that a file cut short under a reader is an error and never a signal.

All readers of a process share a bounded pool of descriptors: a recording may have more files than a process may hold open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from weightlapse.errors import DamagedRecording
from weightlapse.store.portable import OPEN_FLAGS, read_at, read_into

T = TypeVar("T")
MOST_OPEN = 32  # descriptors: far below the 256 of the stingiest system


class File(Protocol):
    """A file as it was when it was opened; what was appended since is seen by opening it again."""

    name: str
    size: int

    @property
    def key(self) -> Hashable:
        """Which file it is: another one under the same name has another key."""

    def read(self, start: int, stop: int) -> bytes:
        """Exactly the bytes ``[start, stop)``. Raises :class:`DamagedRecording` when they are not there (any more)."""


@dataclass
class _Handle:
    fd: int
    users: int = 0


class _Pool:
    """Descriptors by (path, which file it was): the least recently used idle ones are closed when there are too many.

    Where files are not read by position (Windows) an idle one is closed at once: there a file that anybody has open is neither replaced nor removed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, Hashable], _Handle] = OrderedDict()

    def use(self, path: str, key: Hashable, call: Callable[..., T], *what: Any) -> T:
        """What ``call(descriptor of a file, *what)`` gives."""
        with self._lock:
            handle = self._open.get((path, key))
            if handle is None:
                self._close_idle(self._limit - 1)
                handle = _Handle(self._opened(path, key))
                self._open[path, key] = handle
            else:
                self._open.move_to_end((path, key))
            handle.users += 1
        try:
            return call(handle.fd, *what)
        finally:
            with self._lock:
                handle.users -= 1
                if not hasattr(os, "pread"):
                    self._close_idle(0)

    def _opened(self, path: str, key: Hashable) -> int:
        flags = os.O_RDONLY | OPEN_FLAGS
        try:
            fd = os.open(path, flags)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._close_idle(0)
            fd = os.open(path, flags)
        if _key(os.fstat(fd)) != key:
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "another file has taken its place", path)
        return fd

    def _close_idle(self, keep: int) -> None:
        for key in [k for k, handle in self._open.items() if handle.users == 0][: max(len(self._open) - keep, 0)]:
            os.close(self._open.pop(key).fd)

    def forget(self, path: str) -> None:
        """Close a file that is to be removed: its bytes would go on taking room, and some systems would not let it go."""
        with self._lock:
            for key in [k for k, handle in self._open.items() if handle.users == 0 and k[0] == path]:
                os.close(self._open.pop(key).fd)

    def make_room(self) -> None:
        """Close whatever is idle: somebody else of this process needs descriptors."""
        with self._lock:
            self._close_idle(0)


POOL = _Pool(MOST_OPEN)


def open_descriptor(path: str | os.PathLike[str], flags: int) -> int:
    """``os.open``, once more after making room where this process has no descriptor left."""
    try:
        return os.open(path, flags | OPEN_FLAGS, 0o666)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        POOL.make_room()
        return os.open(path, flags | OPEN_FLAGS, 0o666)


def _key(info: os.stat_result) -> Hashable:
    return info.st_dev, info.st_ino


class LocalFile:
    """A regular file of this machine. Its absence, now or at a later read, is a FileNotFoundError."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = str(path)
        self.name = name
        try:
            info = path.stat()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DamagedRecording(f"{path} cannot be looked at ({error.strerror})") from None
        if not stat.S_ISREG(info.st_mode):
            raise DamagedRecording(f"{path} is not a regular file")
        self.size = info.st_size
        self._key = _key(info)

    @property
    def key(self) -> Hashable:
        """(device, inode) when it was opened: a file put in its place later has another."""
        return self._key

    def read(self, start: int, stop: int) -> bytes:
        """As `File.read`, through a pooled descriptor. Raises FileNotFoundError too, where the file is gone since it was opened."""
        if start >= stop:
            return b""
        data = self._using(stop, read_at, start, stop - start)
        if data is None or len(data) != stop - start:
            raise self._too_short(start, stop)
        return data

    def read_into(self, start: int, out: memoryview) -> None:
        """The bytes from ``start`` on into ``out``, all of it, without an object made for them."""
        stop = start + len(out)
        if len(out) and self._using(stop, read_into, start, out) != len(out):
            raise self._too_short(start, stop)

    def _using(self, stop: int, call: Callable[..., T], *what: Any) -> T | None:
        """What ``call`` reads; None where the file ends before ``stop``."""
        if stop > self.size:
            return None
        try:
            return POOL.use(self._path, self._key, call, *what)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DamagedRecording(f"{self._path} cannot be read ({error.strerror})") from None

    def _too_short(self, start: int, stop: int) -> DamagedRecording:
        return DamagedRecording(
            f"{self.name} has no bytes {start} to {stop - 1}: it is shorter than it says, or was cut while it was being read"
        )


class Ahead:
    """A file whose beginning is read at once: what lies there costs no further calls."""

    def __init__(self, file: File, nbytes: int = 4096) -> None:
        self.name, self.size, self._file = file.name, file.size, file
        self._held = file.read(0, min(nbytes, file.size))

    @property
    def key(self) -> Hashable:
        """That of the file behind."""
        return self._file.key

    def read(self, start: int, stop: int) -> bytes:
        """From the beginning that is held, where all of it lies there; else from the file behind."""
        return self._held[start:stop] if stop <= len(self._held) else self._file.read(start, stop)

    def read_into(self, start: int, out: memoryview) -> None:
        """The bytes from ``start`` on into ``out``, all of it."""
        Part(self._file).read_into(start, out)


class Part:
    """The bytes ``[start, start + size)`` of a file, counted from 0; or bytes in memory."""

    def __init__(self, file: File | bytes, start: int = 0, size: int | None = None) -> None:
        self._file, self._start = file, start
        self.size = (len(file) if isinstance(file, bytes) else file.size) - start if size is None else size

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` counted from the part's beginning. Its end is not guarded: beyond it come the file's next bytes, or, of bytes in memory, fewer."""
        if isinstance(self._file, bytes):
            return self._file[self._start + start : self._start + stop]
        return self._file.read(self._start + start, self._start + stop)

    def read_into(self, start: int, out: memoryview) -> None:
        """The bytes from ``start`` on into ``out``, all of it."""
        if isinstance(self._file, LocalFile):
            self._file.read_into(self._start + start, out)
        else:
            out[:] = self.read(start, start + len(out))


def regular_size(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0

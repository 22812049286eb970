"""The few calls to the operating system that are not the same everywhere, each with what stands in for it where it is missing.

    call                  missing on            here instead
    os.writev             Windows               os.write, part by part
    os.pread, os.preadv   Windows               os.lseek and os.read, one thread at a time; the position is put back
    os.pwrite             Windows               os.lseek and os.write, likewise
    F_FULLFSYNC           all but macOS         os.fsync (on macOS that one stops at the disk's own cache)
    thread priorities     all but Linux         none: elsewhere ``setpriority`` wants a process, not a thread
    fcntl.flock           Windows               msvcrt.locking, of a byte far behind the content
    rename, unlink        Windows: refused      tried again for a second: a virus scanner or a reader has the file open; what
                          while a file is open  we have open ourselves is closed for that moment (``in_use`` tells)

Functions of ``os`` are looked up when they are called, so a test can hide them.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

PARTS_PER_WRITE = 512  # below every system's IOV_MAX
NBYTES_PER_CALL = 1 << 30  # macOS refuses calls of 2 GiB and more
OPEN_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)  # to be added to the flags of every os.open

_LOWEST = 19
_LOCKED_BYTE = 1 << 40  # msvcrt locks are mandatory: this one is of a byte that nobody reads
_SHARING = (5, 32, 33)  # Windows: access denied, sharing violation, lock violation
_TRIES, _PAUSE = 20, 0.05  # seconds

_seeking = threading.Lock()  # two threads that read one file must not move its position between seek and read

Buffer = bytes | bytearray | memoryview | Any  # anything with the buffer protocol


def write_all(fd: int, parts: Sequence[Buffer]) -> int:
    """Write all ``parts`` one after the other at the file's position; returns their bytes. An OSError leaves some of them written."""
    waiting = [memoryview(part).cast("B") for part in parts if len(part)]
    total = sum(len(part) for part in waiting)
    waiting.reverse()  # the next one last: taking it off is cheap
    while waiting:
        written = _write_some(fd, waiting)
        if written <= 0:  # a device that takes nothing and says nothing would be asked for ever
            raise OSError(errno.EIO, "the system wrote nothing and gave no reason")
        while waiting and written >= len(waiting[-1]):
            written -= len(waiting.pop())
        if written:
            waiting[-1] = waiting[-1][written:]
    return total


def _write_some(fd: int, waiting: list[memoryview]) -> int:
    writev = getattr(os, "writev", None)
    if writev is None or len(waiting) == 1 or len(waiting[-1]) > NBYTES_PER_CALL:
        return os.write(fd, waiting[-1][:NBYTES_PER_CALL])
    batch = waiting[: -PARTS_PER_WRITE - 1 : -1]
    while sum(map(len, batch)) > NBYTES_PER_CALL:
        batch = batch[: len(batch) // 2]
    return int(writev(fd, batch))


def read_into(fd: int, offset: int, buffer: Buffer) -> int:
    """Fill ``buffer`` from byte ``offset`` on; returns the bytes read, fewer than it holds only where the file ends.

    The file's position stays where it is.
    """
    view = memoryview(buffer).cast("B")
    done = 0
    while done < len(view):
        part = view[done : done + NBYTES_PER_CALL]
        got = _read_some(fd, offset + done, part)
        if got == 0:
            break
        done += got
    return done


def _read_some(fd: int, offset: int, view: memoryview) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    if hasattr(os, "pread"):
        data = os.pread(fd, len(view), offset)
    else:
        with _at(fd, offset):
            data = os.read(fd, len(view))
    view[: len(data)] = data
    return len(data)


def read_at(fd: int, offset: int, nbytes: int) -> bytes:
    """``nbytes`` from byte ``offset`` on, fewer where the file ends; its position stays where it is.

    ``nbytes`` are allocated at once: hold a length that a file claims against the file's size first.
    """
    if hasattr(os, "pread") and nbytes <= NBYTES_PER_CALL:
        data = os.pread(fd, nbytes, offset)
        if len(data) == nbytes:  # nearly always: no buffer to fill and copy
            return data
    buffer = bytearray(nbytes)
    got = read_into(fd, offset, buffer)
    return bytes(memoryview(buffer)[:got])


def write_at(fd: int, offset: int, data: Buffer) -> None:
    """Write ``data`` from byte ``offset`` on; the file's position stays where it is."""
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        part = view[done : done + NBYTES_PER_CALL]
        if hasattr(os, "pwrite"):
            written = os.pwrite(fd, part, offset + done)
        else:
            with _at(fd, offset + done):
                written = os.write(fd, part)
        if written <= 0:
            raise OSError(errno.EIO, "the system wrote nothing and gave no reason")
        done += written


@contextlib.contextmanager
def _at(fd: int, offset: int) -> Iterator[None]:
    with _seeking:
        before = os.lseek(fd, 0, os.SEEK_CUR)
        os.lseek(fd, offset, os.SEEK_SET)
        try:
            yield
        finally:
            os.lseek(fd, before, os.SEEK_SET)


def sync(fd: int) -> None:
    """Wait until the file's bytes are on the device: on macOS by F_FULLFSYNC, where its file system knows that."""
    if sys.platform == "darwin":
        fcntl = _module("fcntl")
        with contextlib.suppress(OSError, AttributeError):  # network file systems do not know it
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def lower_priority() -> bool:
    """Give the calling thread the lowest priority, where a thread has one; whether that was possible.

    Only Linux takes a thread id here. Elsewhere the number would be that of some process, this one's or another's.
    """
    if sys.platform != "linux":
        return False
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
    except (AttributeError, OSError):
        return False
    return True


def replace(source: str | os.PathLike[str], target: str | os.PathLike[str], *, patient: bool = True) -> None:
    """``os.replace``, tried again for a second (if ``patient``) while Windows says that somebody has one of the files open.

    A folder replaces nothing but an empty folder, and on Windows not even that: remove it first.
    """
    _patiently(lambda: os.replace(source, target), _TRIES if patient else 1)


def rename(source: str | os.PathLike[str], target: str | os.PathLike[str], *, patient: bool = True) -> None:
    """``os.rename``, likewise; for folders, in which Windows wants no file to be open."""
    _patiently(lambda: os.rename(source, target), _TRIES if patient else 1)


def unlink(path: str | os.PathLike[str]) -> None:
    """``os.unlink``, tried again for a second while Windows says that somebody has the file open."""
    _patiently(lambda: os.unlink(path))


def in_use(error: OSError) -> bool:
    """Whether Windows refused because somebody, maybe this process, has a file open."""
    return getattr(error, "winerror", None) in _SHARING  # only errors of Windows have a ``winerror``


def _patiently(act: Callable[[], None], tries: int = _TRIES) -> None:
    for attempt in range(tries):
        try:
            act()
            return
        except OSError as error:
            if not in_use(error) or attempt == tries - 1:
                raise
            time.sleep(_PAUSE)


def try_lock(fd: int) -> bool | None:
    """Lock a file against other openings of it, in this process or another; whether that was possible, None where there are no locks.

    ``unlock`` ends it, and so does the end of the process. A child that is forked while ``fcntl`` holds the lock shares it.
    """
    fcntl, msvcrt = _module("fcntl"), _module("msvcrt")
    if fcntl is not None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            return None  # a file system without locks (some network ones)
        return True
    if msvcrt is None:
        return None
    with _at(fd, _LOCKED_BYTE):
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
    return True


def unlock(fd: int) -> None:
    """End the lock of ``try_lock`` for everybody who shares it, forked children included."""
    fcntl, msvcrt = _module("fcntl"), _module("msvcrt")
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
    elif msvcrt is not None:
        with _at(fd, _LOCKED_BYTE), contextlib.suppress(OSError):
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None

"""Windows as far as another system can play it: ``install()`` makes this process refuse what Windows refuses. For a program of its own.

    refused                                                         as on Windows
    rename, replace or removal of a file that this process has      sharing violation (32), access denied (5) for a folder with such a file in it
    open or mapped, of a folder with such a file in it
    rename onto something that is there; replace of a folder        already exists (183), access denied (5)
    names with < > : " | ? *, of a device (CON, NUL, aux.txt),      invalid name (123)
    with a dot or a space at the end
    fcntl, resource, fork, writev, pread, sysconf, affinity,        not there
    SIGALRM, SIGKILL

The locks of ``msvcrt`` are played by ``lockf``. Needs /proc, so Linux.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

ABSENT = (
    "writev", "readv", "pwritev", "preadv", "pread", "pwrite", "fork", "forkpty", "register_at_fork", "sched_getaffinity", "sysconf", "setpriority",
    "getuid", "geteuid", "getpgid", "killpg", "mkfifo", "sync", "statvfs", "uname",
)  # fmt: skip
_SIGNALS = ("SIGALRM", "SIGKILL", "SIGHUP", "SIGUSR1", "SIGPIPE")
_MODULES = ("fcntl", "resource", "pwd", "grp")
_BAD = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com[1-9¹²³]|lpt[1-9¹²³])(\..*)?$', re.IGNORECASE)
_SYSTEM = ("/proc/", "/dev/", "/sys/")


def refusal(number: int, path: Any, more: Any = None) -> OSError:
    kind = {32: PermissionError, 5: PermissionError, 183: FileExistsError, 123: OSError}[number]
    code = {32: errno.EACCES, 5: errno.EACCES, 183: errno.EEXIST, 123: errno.EINVAL}[number]
    error = kind(code, f"[WinError {number}]", os.fspath(path), None, None if more is None else os.fspath(more))
    error.winerror = number  # type: ignore[attr-defined]
    return error


def held() -> Iterator[str]:
    """The paths of what this process has open or mapped."""
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/self/fd/{fd}")
    with _open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            path = line.split(maxsplit=5)
            if len(path) == 6:
                yield path[5].rstrip("\n")


def bad_name(path: Any) -> bool:
    """Whether a part of the path is no name on Windows."""
    if isinstance(path, int):
        return False
    text = os.fsdecode(path)
    if text.startswith(_SYSTEM) or text in (".", ".."):
        return False
    return any(_BAD.search(part) for part in text.split("/") if part not in ("", ".", ".."))


_open = io.open


def install() -> None:
    real = {name: getattr(os, name) for name in ("rename", "replace", "unlink", "rmdir", "open", "mkdir")}

    def where(path: Any, dir_fd: int | None) -> str:
        text = os.fsdecode(path)
        base = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
        text = os.path.join(base, text)
        return os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))

    def free(path: Any, dir_fd: int | None = None) -> None:
        at = where(path, dir_fd)
        folder = os.path.isdir(at) and not os.path.islink(at)
        for one in held():
            if one == at and not folder:
                raise refusal(32, path)
            if folder and one.startswith(at + "/"):
                raise refusal(5, path)

    def moved(name: str) -> Callable[..., None]:
        def move(src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
            if bad_name(dst):
                raise refusal(123, dst)
            free(src, src_dir_fd)
            if os.path.lexists(where(dst, dst_dir_fd)):
                if name == "rename":
                    raise refusal(183, src, dst)
                if os.path.isdir(where(dst, dst_dir_fd)):
                    raise refusal(5, src, dst)
                free(dst, dst_dir_fd)
            real[name](src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        return move

    def removed(name: str) -> Callable[..., None]:
        def remove(path: Any, *, dir_fd: int | None = None) -> None:
            if name == "unlink":
                free(path, dir_fd)
            real[name](path, dir_fd=dir_fd)

        return remove

    def named(call: Callable[..., Any]) -> Callable[..., Any]:
        def checked(path: Any, *arguments: Any, **options: Any) -> Any:
            if bad_name(path):
                raise refusal(123, path)
            return call(path, *arguments, **options)

        return checked

    os.rename, os.replace = moved("rename"), moved("replace")  # type: ignore[assignment]
    os.unlink = os.remove = removed("unlink")  # type: ignore[assignment]
    os.rmdir = removed("rmdir")  # type: ignore[assignment]
    os.open, os.mkdir = named(real["open"]), named(real["mkdir"])  # type: ignore[assignment]
    io.open = builtins.open = named(_open)  # type: ignore[assignment]

    for name in ABSENT:
        if hasattr(os, name):
            delattr(os, name)
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on; where there is no affinity it counts all
        os.process_cpu_count = os.cpu_count
    for name in _SIGNALS:
        delattr(signal, name)
    lockf, share = __import__("fcntl").lockf, __import__("fcntl")
    for name in _MODULES:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it is an ImportError

    msvcrt: Any = ModuleType("msvcrt")
    msvcrt.LK_NBLCK, msvcrt.LK_UNLCK = 2, 0

    def locking(fd: int, mode: int, nbytes: int) -> None:
        share.flock(fd, share.LOCK_UN if mode == msvcrt.LK_UNLCK else share.LOCK_EX | share.LOCK_NB)

    msvcrt.locking, msvcrt.lockf = locking, lockf
    sys.modules["msvcrt"] = msvcrt

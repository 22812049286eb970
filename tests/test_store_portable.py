"""The portable layer gives the same bytes with and without the calls that Windows or macOS lack."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from weightlapse.store import portable

MISSING = {
    "all there": (),
    "no preadv": ("preadv",),
    "Windows": ("writev", "pwritev", "preadv", "readv", "pread", "pwrite"),
}


@pytest.fixture(params=MISSING)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in MISSING[request.param]:
        monkeypatch.delattr(os, name)
    return str(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | portable.OPEN_FLAGS)
    yield fd
    os.close(fd)


def content(fd: int) -> bytes:
    with open(f"/proc/self/fd/{fd}" if sys.platform == "linux" else fd, "rb", closefd=sys.platform == "linux") as again:
        return again.read()


PARTS = [b"ab", b"", bytearray(b"cde"), np.arange(3, dtype="<u4"), memoryview(b"z" * 5000), *[b"q"] * 1500]
WHOLE = b"".join(bytes(memoryview(p).cast("B")) if len(p) else b"" for p in PARTS)


def test_all_parts_are_written_in_order(system: str, file: int) -> None:
    assert portable.write_all(file, PARTS) == len(WHOLE)
    assert portable.write_all(file, [b"!"]) == 1
    assert portable.write_all(file, []) == 0
    assert portable.write_all(file, [b"", b""]) == 0
    assert content(file) == WHOLE + b"!"


@pytest.mark.parametrize("most", [1, 2, 7, 5001])
def test_calls_that_write_a_part_of_it_are_continued(
    system: str, file: int, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, memoryview(data)[:most]))
    if hasattr(os, "writev"):
        monkeypatch.setattr(os, "writev", lambda fd, parts: write(fd, b"".join(parts)[:most]))
    if hasattr(os, "pwrite"):
        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, memoryview(data)[:most], at))
    portable.write_all(file, PARTS)
    portable.write_at(file, 3, b"0123456789" * 3)
    assert content(file) == WHOLE[:3] + b"0123456789" * 3 + WHOLE[33:]


def test_large_calls_are_cut(system: str, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "NBYTES_PER_CALL", 700)
    monkeypatch.setattr(portable, "PARTS_PER_WRITE", 10)
    portable.write_all(file, PARTS)
    assert content(file) == WHOLE
    assert portable.read_at(file, 1, 6000) == WHOLE[1:6001]
    portable.write_at(file, 10, b"x" * 2000)
    assert content(file) == WHOLE[:10] + b"x" * 2000 + WHOLE[2010:]


def test_reading_and_writing_elsewhere_leaves_the_position(system: str, file: int) -> None:
    portable.write_all(file, [b"0123456789"])
    assert portable.read_at(file, 2, 3) == b"234"
    assert portable.read_at(file, 8, 100) == b"89"
    assert portable.read_at(file, 10, 5) == portable.read_at(file, 99, 5) == portable.read_at(file, 0, 0) == b""
    room = np.zeros(3, "<u2")
    assert portable.read_into(file, 5, room) == 5
    assert room.tobytes() == b"56789\0"
    portable.write_at(file, 4, b"XY")
    portable.write_at(file, 12, b"far")
    portable.write_all(file, [b"end"])
    assert content(file) == b"0123XY6789endar"


def test_threads_that_read_one_file_do_not_disturb_each_other(system: str, file: int) -> None:
    values = np.arange(40_000, dtype="<u4")
    portable.write_all(file, [values])
    wrong: list[int] = []

    def read(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for at in draw.integers(0, len(values) - 50, 300).tolist():
            got = np.frombuffer(portable.read_at(file, 4 * at, 200), "<u4")
            if not np.array_equal(got, values[at : at + 50]):
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("call", ["write_all", "write_at"])
def test_a_system_that_writes_nothing_is_an_error_and_no_endless_loop(
    file: int, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for name in ("write", "writev", "pwrite"):
        monkeypatch.setattr(os, name, lambda *_: 0)
    with pytest.raises(OSError, match="wrote nothing"):
        portable.write_all(file, [b"a", b"b"]) if call == "write_all" else portable.write_at(file, 0, b"a")


def test_an_error_in_the_middle_is_the_callers(system: str, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("write", "writev", "pwrite"):
        if hasattr(os, name):
            monkeypatch.setattr(os, name, full)
    with pytest.raises(OSError, match="No space"):
        portable.write_all(file, [b"a", b"b"])
    with pytest.raises(OSError, match="No space"):
        portable.write_at(file, 0, b"a")
    assert os.lseek(file, 0, os.SEEK_CUR) == 0


def test_macos_syncs_to_the_device_itself(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fake = SimpleNamespace(F_FULLFSYNC=51, fcntl=lambda fd, what: calls.append((fd, what)))
    monkeypatch.setattr(portable, "_module", lambda name: fake if name == "fcntl" else None)
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync"))
    portable.sync(file)
    monkeypatch.setattr(sys, "platform", "darwin")
    portable.sync(file)

    def unknown(fd: int, what: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    fake.fcntl = unknown
    portable.sync(file)
    assert calls == ["fsync", (file, 51), "fsync"]


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14"])
def test_no_process_is_slowed_down_where_threads_have_no_priority(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(os, "setpriority", lambda *_: pytest.fail("the number of a thread is no process"))
    monkeypatch.setattr(sys, "platform", platform)
    assert portable.lower_priority() is False


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities on Linux alone")
def test_a_linux_thread_is_slowed_down_alone() -> None:
    seen: list[Any] = []

    def thread() -> None:
        seen.extend([portable.lower_priority(), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())])

    before = os.getpriority(os.PRIO_PROCESS, 0)
    run = threading.Thread(target=thread)
    run.start()
    run.join()
    assert seen == [True, 19]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


class Shared(PermissionError):
    """As Windows raises it."""

    def __init__(self, winerror: int) -> None:
        super().__init__(errno.EACCES, "used by another process")
        self.winerror = winerror


@pytest.mark.parametrize("call", ["replace", "unlink"])
def test_files_that_are_open_elsewhere_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(portable, "_PAUSE", 0)
    real, refusals = getattr(os, call), [Shared(32), Shared(5)]

    def refuse(*arguments: Any) -> None:
        if refusals:
            raise refusals.pop()
        real(*arguments)

    monkeypatch.setattr(os, call, refuse)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("a")
    target.write_text("b")
    act = (lambda: portable.replace(source, target)) if call == "replace" else (lambda: portable.unlink(source))
    act()
    assert not source.exists()
    assert target.read_text() == ("a" if call == "replace" else "b")
    source.write_text("again")
    refusals.extend(Shared(32) for _ in range(100))  # for ever
    with pytest.raises(PermissionError, match="another process"):
        act()
    assert 70 < len(refusals) < 100
    del refusals[:]
    refusals.extend([Shared(2)])  # another error is no reason to wait
    with pytest.raises(PermissionError):
        act()
    assert refusals == []


def test_an_ordinary_refusal_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def refuse(*_: Any) -> None:
        calls.append(1)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        portable.replace(tmp_path / "a", tmp_path / "b")
    assert calls == [1]


def test_a_lock_is_held_against_every_other_opening_until_it_is_ended(tmp_path: Path) -> None:
    one, other = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert portable.try_lock(one) is True
    assert portable.try_lock(other) is False
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[one])
    portable.unlock(one)  # although the child holds the same opening
    assert portable.try_lock(other) is True
    portable.unlock(other)
    child.communicate(b"\n")
    os.close(one)
    os.close(other)


def test_locks_of_windows_leave_the_content_readable(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[tuple[int, int]] = []

    def locking(fd: int, mode: int, nbytes: int) -> None:
        place = (os.lseek(fd, 0, os.SEEK_CUR), nbytes)
        if mode == 0:
            locked.remove(place)
        elif place in locked:
            raise OSError(errno.EACCES, "Permission denied")
        else:
            locked.append(place)

    fake = SimpleNamespace(LK_NBLCK=2, LK_UNLCK=0, locking=locking)
    monkeypatch.setattr(portable, "_module", lambda name: fake if name == "msvcrt" else None)
    portable.write_all(file, [b"123\n"])
    assert portable.try_lock(file) is True
    assert portable.try_lock(file) is False
    assert locked == [(1 << 40, 1)]  # far behind the four bytes that others read
    assert os.lseek(file, 0, os.SEEK_CUR) == 4
    portable.unlock(file)
    assert locked == []
    monkeypatch.setattr(portable, "_module", lambda name: None)
    assert portable.try_lock(file) is None


def test_a_file_system_without_locks_is_told_from_a_lock_that_is_taken(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refuse(number: int) -> Any:
        def flock(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        return flock

    for number, outcome in ((errno.EAGAIN, False), (errno.EACCES, False), (errno.ENOLCK, None), (errno.ENOTSUP, None)):
        monkeypatch.setattr(fcntl, "flock", refuse(number))
        assert portable.try_lock(file) is outcome

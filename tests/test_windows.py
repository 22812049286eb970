"""What other systems do differently: Windows as far as a stand-in plays it, names and letters that some cannot hold, and no way around the portable layer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from tests.framework_presence import run_program
from weightlapse.errors import CannotRecord
from weightlapse.recording.partitions import add
from weightlapse.store import files, log, place
from weightlapse.store.files import LocalFile
from weightlapse.store.lock import Lock
from weightlapse.store.log import AppendFile

PACKAGE = Path(wl.__file__).parent
linux = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in reads /proc")


@linux
def test_a_recording_lives_where_windows_refuses_what_is_open(tmp_path: Path) -> None:
    said = run_program("on_windows.py", tmp_path, WEIGHTLAPSE_STRICT="1").splitlines()
    assert [line for line in said if line in ("recorded", "resumed", "imported", "asked")] == [
        "recorded",
        "resumed",
        "imported",
        "asked",
    ]
    assert {"overwritten under a reader", "compressed under a reader", "exported safetensors"} <= set(said)
    assert sum(line.startswith("refused") and "CannotRecord" in line for line in said) == 6


STAND_IN = """
import os, sys, tempfile, mmap
from pathlib import Path
from tests import windows_stand_in
windows_stand_in.install()
os.chdir(tempfile.mkdtemp())
folder = Path("folder"); folder.mkdir()
file = open(folder / "file", "w+b"); file.write(b"x" * 5000); file.flush()
for name in ("other", "full/x"):
    Path(name).parent.mkdir(exist_ok=True); Path(name).write_text("y")
def refused(number, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        assert error.winerror == number, (number, error)
    else:
        raise AssertionError((number, arguments))
refused(5, os.rename, "folder", "moved")
refused(32, os.rename, folder / "file", folder / "b")
refused(32, os.replace, "other", folder / "file")
refused(32, os.unlink, folder / "file")
mapped = mmap.mmap(file.fileno(), 0); file.close()
refused(32, (folder / "file").unlink)
refused(5, folder.rename, "moved")
mapped.close()
folder.rename("moved")
refused(183, os.rename, "other", "full/x")
refused(5, os.replace, "other", "full")
for name in ("con", "NUL.txt", "a:b", "end.", "end ", "Lpt1.log", "w?", "a|b"):
    refused(123, os.mkdir, name)
    refused(123, open, name, "w")
    refused(123, os.rename, "other", name)
for name in ("console", "nul1", ".hidden", "a.b", "com0"):
    os.mkdir(name)
os.replace("other", "moved/file")
for name in ("fcntl", "resource"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(name)
assert not hasattr(os, "pread") and not hasattr(os, "fork")
"""


@linux
def test_the_stand_in_refuses_what_windows_refuses_and_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", STAND_IN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Refusing:
    """``os.rename`` or ``os.replace`` that Windows refuses ``times`` times, because something is open."""

    def __init__(self, real: Any, times: int) -> None:
        self.real, self.times = real, times

    def __call__(self, *arguments: Any, **options: Any) -> None:
        self.times -= 1
        if self.times >= 0:
            error = PermissionError(13, "[WinError 5]")
            error.winerror = 5  # type: ignore[attr-defined]
            raise error
        self.real(*arguments, **options)


STATE = {"W": np.arange(12, dtype="f4").reshape(3, 4)}


@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_folder_that_cannot_be_moved_in_use_is_closed_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(os, "rename", Refusing(os.rename, times))
    with wl.watch(STATE, tmp_path / "run") as rec:
        with pytest.raises(CannotRecord, match="being recorded to by this process"):
            Lock(tmp_path / "run")
        rec.step({"W": STATE["W"] + 1}, loss=2.0)
    run = wl.load(tmp_path / "run")
    assert np.array_equal(np.asarray(run["W"]), np.stack([STATE["W"], STATE["W"] + 1]))
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_another_writer_may_be_quicker_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing, theirs = Refusing(os.rename, 1), []

    def rename(source: Any, target: Any) -> None:
        refusing(source, target)
        theirs.append(Lock(Path(target)))

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(CannotRecord, match="being recorded to"):
        wl.watch(STATE, tmp_path / "run")
    theirs[0].release()
    assert wl.load(tmp_path / "run").frames == 0  # theirs, and nothing of it is removed


@pytest.mark.parametrize("failing", ["Lock", "reopen"])
def test_what_cannot_be_opened_again_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    monkeypatch.setattr(os, "rename", Refusing(os.rename, 1))
    real = place.Lock

    def lock(folder: Path) -> Lock:
        if folder.name == "run" and failing == "Lock":
            raise OSError(24, "too many open files")
        return real(folder)

    def reopen(self: AppendFile, path: Path) -> None:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(place, "Lock", lock)
    if failing == "reopen":
        monkeypatch.setattr(log.AppendFile, "reopen", reopen)
    with pytest.raises(CannotRecord, match="too many open files"):
        wl.watch(STATE, tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("times", [0, 1, 4])
def test_an_open_file_gets_its_name_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    file = AppendFile(tmp_path / "a.tmp")
    file.write([b"one "])
    monkeypatch.setattr(os, "replace", Refusing(os.replace, times))
    file.rename(tmp_path / "a")
    file.write([b"two"])
    file.close()
    assert (tmp_path / "a").read_bytes() == b"one two"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_that_keeps_its_name_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = AppendFile(tmp_path / "a.tmp")
    file.write([b"one "])
    with monkeypatch.context() as patch:
        patch.setattr("weightlapse.store.portable._TRIES", 2)
        patch.setattr(os, "replace", Refusing(os.replace, 10**6))
        with pytest.raises(PermissionError):
            file.rename(tmp_path / "a")
    file.write([b"two"])
    file.close()
    assert (tmp_path / "a.tmp").read_bytes() == b"one two"


def test_a_reader_holds_nothing_open_where_that_would_be_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = files._Pool(8)
    monkeypatch.setattr(files, "POOL", pool)
    (tmp_path / "f").write_bytes(b"abc")
    file = LocalFile(tmp_path / "f", "f")
    assert file.read(0, 3) == b"abc"
    assert len(pool._open) == 1
    monkeypatch.delattr(os, "pread", raising=False)
    monkeypatch.delattr(os, "preadv", raising=False)
    assert file.read(1, 3) == b"bc"
    assert len(pool._open) == 0


@pytest.mark.parametrize(
    "name, folder",
    [("Run", "run=Run"), ("a.", "run=a%2E"), ("b ", "run=b%20"), (".", "run=%2E"), ("a b.c", "run=a b.c"), ("x:y?", "run=x%3Ay%3F"), ("é", "run=%C3%A9")],
)  # fmt: skip
def test_partitions_have_names_that_every_system_holds(tmp_path: Path, name: str, folder: str) -> None:
    pytest.importorskip("pyarrow")
    with wl.watch(STATE, tmp_path / "run") as rec:
        rec.step(STATE)
    add(wl.load(tmp_path / "run"), "parquet", tmp_path / "tree", name, weights=False)
    assert {p.name for p in (tmp_path / "tree").glob("*/*")} == {folder}


@pytest.mark.parametrize("coding", ["cp1252", "iso8859-2", "cp437"])
@pytest.mark.parametrize("verb", ["info", "verify", "doctor", "ls", "diff", "info --json"])
def test_names_that_the_output_cannot_hold_are_no_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], coding: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weightlapse.cli import main

    with wl.watch({"größe→λ": np.ones(3, "f4")}, tmp_path / "runλ") as rec:
        rec.step({"größe→λ": np.zeros(3, "f4")})
    path = str(tmp_path if verb == "ls" else tmp_path / "runλ")
    word, *options = verb.split()
    with open(tmp_path / "said", "w", encoding=coding) as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", out)
        with pytest.raises(SystemExit) as end:
            main([word, path, *([path + "@0"] if word == "diff" else []), *options])
    assert end.value.code in (0, 1)
    said = (tmp_path / "said").read_text(coding)
    assert "Error" not in said
    assert re.search(r"λ|\\u03bb", said)


# Calls that are not the same everywhere, and the files that may make them: each of those says what it does where the call is missing.
ALONE = {
    r"\bfcntl\b|\bmsvcrt\b|os\.(pread|pwrite|readv|writev|preadv)|(?<!stats\.)\bos\.(replace|rename|link)\(|os\.unlink\(|setpriority": {"store/portable.py"},
    r"\.rename\(": {"store/place.py", "store/compact.py", "store/statistics_file.py", "store/portable.py"},  # of an open file, by AppendFile.rename
    r"os\.fork\(|os\.kill\(|mkfifo|os\.sync\(|import multiprocessing|set_start_method|os\.symlink|\.symlink_to": set(),
    r"register_at_fork": {"store/lock.py", "capture/processes.py", "store/threads.py"},
    r"/proc/|sysconf": {"capture/memory.py"},
    r"sched_getaffinity": {"store/threads.py"},
    r"signal\.(?!SIGINT|SIGTERM|signal\()[A-Z]": set(),
    r"np\.memmap": {"adapters/checkpoint_files.py", "differences/sides.py"},
    r"\.hardlink_to|shutil\.move|\.replace\(target|os\.getuid|import (pwd|grp|resource)\b": set(),
}  # fmt: skip


def calls(pattern: str) -> set[str]:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        lines = (re.sub(r"``.*?``|#.*", "", line) for line in path.read_text("utf-8").splitlines())
        if any(re.search(pattern, line) for line in lines if not line.lstrip().startswith(('"""', "'"))):
            found.add(path.relative_to(PACKAGE).as_posix())
    return found


@pytest.mark.parametrize("pattern", ALONE)
def test_what_differs_between_systems_is_called_in_one_place(pattern: str) -> None:
    assert calls(pattern) <= ALONE[pattern]
    assert bool(ALONE[pattern]) <= bool(calls(pattern))  # the pattern still finds them

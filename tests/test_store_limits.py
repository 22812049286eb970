"""One fault costs one frame: truncation under a reader, few descriptors, writes that cannot be taken back, births cut short, hostile counts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from tests.test_store_blocks import LAYOUT, holds, moving_rows
from tests.test_store_identity import made
from tests.test_store_log import frames_at
from weightlapse.cli import main
from weightlapse.errors import DamagedRecording, WeightlapseError
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.log import encode, records
from weightlapse.store.offline import compact_recording
from weightlapse.store.raw import RawSegment
from weightlapse.store.reader import Store
from weightlapse.store.writer import Writer

ROOT = Path(__file__).parent.parent


def verified(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as end:
        main(["verify", str(path)])
    return end.value.code, capsys.readouterr().out


TRUNCATED = """
import os, sys
import numpy as np
from weightlapse.errors import DamagedRecording
from weightlapse.store.reader import Store
store = Store.open(sys.argv[1])
first = store.read("w", slice(0, 1))
for file in (sys.argv[2], "journal.log", "manifest.json"):
    os.truncate(sys.argv[1] + "/" + file, 100)
refused = 0
for k in range(len(store.steps)):
    try:
        store.read("w", slice(k, k + 1))
    except DamagedRecording:
        refused += 1
try:
    store.refresh()
except Exception as error:
    assert type(error).__name__ in ("DamagedRecording", "NotARecording"), repr(error)
print(refused)
"""


@pytest.mark.parametrize("compact, file", [("never", "log/000000.seg"), ("after", "blocks/000000.blk")])
def test_a_file_cut_under_an_open_reader_is_an_error_and_no_signal(tmp_path: Path, compact: str, file: str) -> None:
    """A mapping would end the process with SIGBUS here."""
    layout = Layout([TensorSpec("w", "float32", (100_000,))])
    writer = Writer.create(tmp_path / "run", layout, compact=compact)  # type: ignore[arg-type]
    writer.append(np.arange(20), moving_rows(layout, 20))
    writer.close()
    run = subprocess.run(
        [sys.executable, "-c", TRUNCATED, str(tmp_path / "run"), file],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 10, "what was read before may still be held"


FEW = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[2])))
import numpy as np
import weightlapse as wl
from weightlapse.store.offline import compact_recording
from weightlapse.store.reader import Store
run = wl.load(sys.argv[1])
assert run.frames == 4400, run.frames
assert np.array_equal(run["w"][:, 0], np.arange(4400.0))
assert Store.open(sys.argv[1]).verify() == []
done = compact_recording(sys.argv[1])
assert done.frames == 4400 and not done.kept
assert np.array_equal(wl.load(sys.argv[1])["w"][:, 0], np.arange(4400.0))
print("read")
"""


@pytest.fixture(scope="module")
def of_many_segments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("segments") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weightlapse.store.writer.segment_frames", lambda row, tolerance: 4)
        writer = Writer.create(path, Layout([TensorSpec("w", "float64", (2,))]), compact="never")
        writer.append(np.arange(4400), np.repeat(np.arange(4400.0)[:, None], 2, axis=1).view(np.uint8))
        writer.close()
    return path


@pytest.mark.parametrize("descriptors", [1024, 64])
def test_more_segments_than_descriptors(tmp_path: Path, of_many_segments: Path, descriptors: int) -> None:
    shutil.copytree(of_many_segments, tmp_path / "run")
    assert len(list((tmp_path / "run/log").iterdir())) == 1100
    run = subprocess.run(
        [sys.executable, "-c", FEW, str(tmp_path / "run"), str(descriptors)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert run.stdout == "read\n", run.stderr[-2000:]


class Disk:
    """Lets the writes of files with one suffix fail part of the way, and takes nothing back while it is ``stubborn``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
        self.fail, self.stubborn, self.suffix, self.failed = False, True, suffix, 0
        self._writev, self._write, self._cut = os.writev, os.write, os.ftruncate
        monkeypatch.setattr(os, "writev", self.writev)
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "ftruncate", self.cut)

    def _mine(self, fd: int) -> bool:
        return os.readlink(f"/proc/self/fd/{fd}").endswith(self.suffix)

    def writev(self, fd: int, parts: list[memoryview]) -> int:
        return self.write(fd, parts[0]) if self.fail and self._mine(fd) else self._writev(fd, parts)

    def write(self, fd: int, part: memoryview) -> int:
        if not (self.fail and self._mine(fd)):
            return self._write(fd, part)
        self.failed += 1
        if self.failed % 2 and len(part) > 8:
            return self._write(fd, part[: len(part) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def cut(self, fd: int, size: int) -> None:
        if self.fail and self.stubborn and self._mine(fd):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._cut(fd, size)


@pytest.mark.parametrize("stubborn", [True, False])
@pytest.mark.parametrize("suffix", [".seg", "journal.log"])
def test_a_write_that_fails_and_cannot_be_taken_back_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool, suffix: str
) -> None:
    rows = moving_rows(LAYOUT, 60)
    disk = Disk(monkeypatch, suffix)
    disk.stubborn = stubborn
    writer = Writer.create(tmp_path / "run", LAYOUT, compact="never")
    refused = 0
    for k in range(60):
        disk.fail = k % 7 == 3
        for _ in range(3):
            try:
                if writer.frames == k:
                    writer.append(np.array([k]), rows[k : k + 1])
                writer.scalars(np.array([k]), ["loss"], np.array([float(k)]))
                break
            except OSError:
                refused += 1
                holds(Store.open(tmp_path / "run"), rows[: writer.frames])
                disk.fail = False
    writer.close()
    assert refused >= 8
    store = Store.open(tmp_path / "run")
    assert store.steps.tolist() == list(range(60))
    holds(store, rows)
    assert store.scalars["loss"].tolist() == list(range(60))
    assert [d for d in store.verify() if d.stop > d.first] == []
    compact_recording(tmp_path / "run")
    holds(Store.open(tmp_path / "run"), rows)
    assert not list((tmp_path / "run/log").glob("*.seg"))


@pytest.mark.parametrize("nbytes", [0, 1, 31, 40, 95, 96, 200])
def test_a_kill_at_the_birth_of_a_segment_is_no_damage(
    tmp_path: Path, nbytes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = made(tmp_path / "run", count=20)
    path = tmp_path / "run/log/000000.seg"
    beginning = path.read_bytes()[: frames_at(path)]
    whole = tmp_path / "other"
    made(whole, count=1)
    from weightlapse.store.raw import Opening, opening_records

    store = Store.open(tmp_path / "run")
    raw = store.raw_segments[0]
    opening = Opening(1, raw.opening.epoch, raw.opening.row_nbytes, raw.opening.layout_crc, id=raw.opening.id)
    born = opening_records(opening, 20, raw.copies, store.ours.seal)
    assert len(born) == len(beginning) > 200
    (tmp_path / "run/log/000001.seg").write_bytes(born[:nbytes])
    assert verified(tmp_path / "run", capsys)[0] == 0
    writer = Writer.resume(tmp_path / "run", LAYOUT, compact="never")
    writer.append(np.arange(20, 25), moving_rows(LAYOUT, 25)[20:])
    writer.close()
    assert verified(tmp_path / "run", capsys)[0] == 0
    store = Store.open(tmp_path / "run")
    assert store.steps.tolist() == list(range(25))
    assert store.read("w", slice(0, 20)).tobytes() == np.array(LAYOUT.view(rows, 0)).tobytes()


def test_a_flipped_byte_in_the_last_record_of_the_journal_is_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "run", count=20)
    path = tmp_path / "run/journal.log"
    good = path.read_bytes()
    for back in range(1, 33):
        path.write_bytes(good[:-back] + bytes([good[-back] ^ 4]) + good[len(good) - back + 1 :])
        code, told = verified(tmp_path / "run", capsys)
        assert code == 1, f"{back} from the end: {told}"
        assert "journal.log" in told
    for cut in range(1, 32):  # but a write that was cut short is none
        path.write_bytes(good[:-cut])
        assert verified(tmp_path / "run", capsys)[0] == 0
    path.write_bytes(good)
    assert verified(tmp_path / "run", capsys)[0] == 0


@pytest.mark.parametrize("count", [1, 8, 64, 400])
def test_bytes_taken_out_of_the_middle_of_the_journal_are_no_write_that_was_cut_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    """The record that lost them claims more than is left, as one that is being written does; but others follow it."""
    made(tmp_path / "run", count=40)
    path = tmp_path / "run/journal.log"
    good = path.read_bytes()
    for at in range(0, len(good) - count - 32, 97):
        path.write_bytes(good[:at] + good[at + count :])
        code, told = verified(tmp_path / "run", capsys)
        assert code == 1, f"{count} bytes at {at}: {told}"
        assert "journal.log" in told


def test_counts_are_held_against_the_files_before_anything_is_made(tmp_path: Path) -> None:
    """80 kB that claim 16.7 million frames and 2000 scalars: neither memory nor time."""
    made(tmp_path / "run", count=5)
    seal = Store.open(tmp_path / "run").journal.sealed
    with open(tmp_path / "run/journal.log", "ab") as file:
        for k in range(2000):
            file.write(encode(b"NAME", f"scalar {k}".encode(), 10 + k, seal.at(b"NAME", file.tell())))
        file.write(encode(b"CLOS", b"", (1 << 24) - 1, seal.at(b"CLOS", file.tell())))
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); import weightlapse as wl; run = wl.load(sys.argv[1]); "
        "print(run.frames, len(run.scalars), sum(v.size for v in run.scalars.values()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert run.stdout.split() == ["5", "2001", str(5 * 2001)], run.stderr[-1000:]


def test_scalars_are_sorted_once(tmp_path: Path) -> None:
    writer = Writer.create(tmp_path / "run", LAYOUT)
    writer.append(np.arange(50), moving_rows(LAYOUT, 50))
    names = [f"s{k}" for k in range(100)]
    truth = np.full((100, 50), np.nan)
    rng = np.random.default_rng(0)
    for _ in range(20):
        frames, ids, values = rng.integers(0, 50, 60), rng.integers(0, 100, 60), rng.normal(size=60)
        writer.scalars(frames, [names[i] for i in ids], values)
        for f, i, v in zip(frames, ids, values):  # of several the last counts
            truth[i, f] = v
    writer.close()
    scalars = Store.open(tmp_path / "run").scalars
    assert set(scalars) <= set(names)
    for i, name in enumerate(names):
        if name in scalars:
            assert np.array_equal(scalars[name], truth[i], equal_nan=True)
        else:
            assert np.isnan(truth[i]).all()
    scalars["s1"][:] = 0
    assert np.array_equal(scalars["s1"], truth[1], equal_nan=True), "each look gives a new array"


def test_a_manifest_without_a_tolerance_and_bad_links_are_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "run", compact="after")
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    del manifest["tolerance"]
    (tmp_path / "run/manifest.json").write_text(json.dumps(manifest))
    assert Store.open(tmp_path / "run").tolerance is None
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("nowhere", "loop"):
        with pytest.raises(WeightlapseError):
            wl.load(tmp_path / name)
    told: list[str] = []
    for file in ("blocks/000000.blk", "journal.log", "manifest.json"):
        path = tmp_path / "run" / file
        data = path.read_bytes()
        for put in (
            lambda p: p.symlink_to("gone"),
            lambda p: p.mkdir(),
            lambda p: p.symlink_to(p),
            lambda p: os.mkfifo(p),
        ):
            path.unlink()
            put(path)
            try:
                store = Store.open(tmp_path / "run")
                store.verify()
                store.read("w", slice(0, 1))
            except WeightlapseError as error:
                told.append(str(error))
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            path.write_bytes(data)
    assert len(told) >= 8
    assert all(told)
    holds(Store.open(tmp_path / "run"), moving_rows(LAYOUT, 200))


def test_large_frames_are_checked_page_by_page(tmp_path: Path) -> None:
    """One weight of a large raw frame reads and trusts one page; damage elsewhere costs what lies there and nothing else."""
    layout = Layout(
        [
            TensorSpec("a", "float32", (300, 300)),
            TensorSpec("b", "float64", (5,)),
            TensorSpec("c", "float32", (40_000,)),
        ]
    )
    writer = Writer.create(tmp_path / "run", layout, compact="never")
    rows = moving_rows(layout, 6)
    writer.append(np.arange(6), rows)
    writer.close()
    store = Store.open(tmp_path / "run")
    raw = store.segments[0]
    assert isinstance(raw, RawSegment)
    assert raw.opening.page == 1 << 16
    for spec in layout.tensors:
        i = layout.index[spec.name]
        assert store.read(spec.name, slice(None)).tobytes() == np.array(layout.view(rows, i)).tobytes()
    path = tmp_path / "run/log/000000.seg"
    bad = bytearray(path.read_bytes())
    at = raw.opening.frames_at + 2 * raw.opening.frame_nbytes + 32 + layout.offsets[2] + 4 * 39_000
    bad[at] ^= 1
    path.write_bytes(bad)
    store = Store.open(tmp_path / "run")
    assert np.array_equal(store.read("a", slice(None)), layout.view(rows, 0))
    assert np.array_equal(store.read("c", slice(None), (slice(0, 10),)), layout.view(rows, 2)[:, :10])
    with pytest.raises(DamagedRecording, match="frame 2"):
        store.read("c", slice(None), (slice(39_000, 39_001),))
    assert [(d.first, d.stop) for d in store.verify()] == [(2, 3)]
    read = []
    segment = store.segments[0]
    assert isinstance(segment, RawSegment)
    real = segment._file.read
    segment._file.read = lambda a, b: read.append(b - a) or real(a, b)  # type: ignore[method-assign,func-returns-value]
    segment._verified[:] = False
    store.read("a", slice(0, 2), (slice(7, 8), slice(3, 4)))
    assert sum(read) < 2 * (raw.opening.page + 64)


def test_a_journal_that_was_cut_behind_its_head_is_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Frames are there only after a layout is: a journal without one is no crash."""
    rows = made(tmp_path / "run", count=20)
    path = tmp_path / "run/journal.log"
    good = path.read_bytes()
    path.write_bytes(good[: next(records(good)).end])
    code, told = verified(tmp_path / "run", capsys)
    assert code == 1, told
    assert "journal.log" in told
    store = Store.open(tmp_path / "run")  # the layout is in the segments too
    assert store.read("w", slice(0, 20)).tobytes() == np.array(LAYOUT.view(rows, 0)).tobytes()

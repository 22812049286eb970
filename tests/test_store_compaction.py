"""Compaction: beside training, at close and later; nothing is lost by a crash, a full disk or damage in the middle of it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import weightlapse as wl
from tests.test_store_blocks import LAYOUT, holds, is_compact, moving_rows, record, same
from tests.test_store_log import frames_at
from weightlapse.adapters.torch import TorchSource
from weightlapse.cli import main
from weightlapse.errors import CannotRecord, DamagedRecording, NotARecording
from weightlapse.store import background, compact
from weightlapse.store.background import Compactor
from weightlapse.store.blockread import BlockSegment
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.log import AppendFile
from weightlapse.store.offline import compact_recording
from weightlapse.store.raw import RawSegment
from weightlapse.store.reader import Store
from weightlapse.store.segments import TwoCopies
from weightlapse.store.threads import threads
from weightlapse.store.writer import Writer, segment_frames

# ---- while it is being written -----------------------------------------------------------------------------------------


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightlapse.store.writer.segment_frames", lambda row, tolerance: 16)


def test_a_reader_never_misses_a_frame_while_segments_become_blocks(tmp_path: Path, small_segments: None) -> None:
    rows = moving_rows(LAYOUT, 400)
    writer = Writer.create(tmp_path / "run", LAYOUT, compact="live")
    failures: list[BaseException] = []
    written, done = [0], threading.Event()

    def look() -> None:
        try:
            store = Store.open(tmp_path / "run")
            while not done.is_set():
                at_least = written[0]
                store.refresh()
                assert len(store.steps) >= at_least
                if at_least:
                    for k in np.random.default_rng(at_least).integers(0, at_least, 3).tolist():
                        assert same(store.read("w", slice(k, k + 1)), np.array(LAYOUT.view(rows[k : k + 1], 0)))
        except BaseException as error:  # handed to the test's own thread
            failures.append(error)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for k in range(0, 400, 4):
        writer.append(np.arange(k, k + 4) * 3, rows[k : k + 4])
        written[0] = k + 4
        time.sleep(0.002)
    writer.close()
    done.set()
    for reader in readers:
        reader.join()
    assert not failures, failures
    assert is_compact(tmp_path / "run")
    holds(Store.open(tmp_path / "run"), rows)


def test_live_compaction_happens_before_the_end(tmp_path: Path, small_segments: None) -> None:
    writer = Writer.create(tmp_path / "run", LAYOUT, compact="live")
    rows = moving_rows(LAYOUT, 64)
    writer.append(np.arange(64), rows)
    deadline = time.monotonic() + 30
    while len(list((tmp_path / "run/blocks").glob("*.blk"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(list((tmp_path / "run/blocks").glob("*.blk"))) >= 3
    holds(Store.open(tmp_path / "run"), rows)
    writer.close()


def test_after_and_never_leave_the_log_alone(tmp_path: Path, small_segments: None) -> None:
    for mode in ("after", "never"):
        writer = Writer.create(tmp_path / mode, LAYOUT, compact=mode)  # type: ignore[arg-type]
        writer.append(np.arange(64), moving_rows(LAYOUT, 64))
        assert len(list((tmp_path / mode / "log").glob("*.seg"))) == 4
        writer.close()
    assert is_compact(tmp_path / "after")
    assert len(list((tmp_path / "never/log").glob("*.seg"))) == 4


def test_auto_waits_for_a_free_core(tmp_path: Path, small_segments: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    writer = Writer.create(tmp_path / "run", LAYOUT, compact="auto")
    writer.append(np.arange(64), moving_rows(LAYOUT, 64))
    time.sleep(0.2)
    assert not (tmp_path / "run/blocks").exists() or not list((tmp_path / "run/blocks").iterdir())
    writer.close()
    assert is_compact(tmp_path / "run")


def test_resuming_goes_on_after_blocks(tmp_path: Path) -> None:
    rows = moving_rows(LAYOUT, 150)
    writer = Writer.create(tmp_path / "run", LAYOUT)
    writer.append(np.arange(100), rows[:100])
    writer.close()
    (tmp_path / "run/blocks/000009.tmp").write_bytes(b"left behind")
    writer = Writer.resume(tmp_path / "run", LAYOUT)
    writer.append(np.arange(100, 150), rows[100:])
    assert len(Store.open(tmp_path / "run").steps) == 150
    writer.close()
    assert sorted(p.name for p in (tmp_path / "run/blocks").iterdir()) == ["000000.blk", "000001.blk"]
    holds(Store.open(tmp_path / "run"), rows)


def test_resuming_compresses_what_a_crash_left(tmp_path: Path) -> None:
    rows = moving_rows(LAYOUT, 60)
    writer = Writer.create(tmp_path / "run", LAYOUT, compact="never")
    writer.append(np.arange(50), rows[:50])
    writer.close(in_order=False)
    writer = Writer.resume(tmp_path / "run", LAYOUT)
    writer.append(np.arange(50, 60), rows[50:])
    writer.close()
    assert is_compact(tmp_path / "run")
    holds(Store.open(tmp_path / "run"), rows)


def test_layout_epochs_keep_their_layouts(tmp_path: Path) -> None:
    other = Layout([TensorSpec("w", "float32", (20, 5)), TensorSpec("new", "float32", (3,))])
    rows, more = moving_rows(LAYOUT, 40), moving_rows(other, 40, seed=1)
    writer = Writer.create(tmp_path / "run", LAYOUT)
    writer.append(np.arange(40), rows)
    writer.relayout(other, "grown", {"w": [0]})
    writer.append(np.arange(40, 80), more)
    writer.close()
    store = Store.open(tmp_path / "run")
    assert same(store.read("w", slice(0, 40)), np.array(LAYOUT.view(rows, 0)))
    assert same(store.read("w", slice(40, 80)), np.array(other.view(more, 0)))
    assert same(store.read_frame(79)["new"], np.array(other.view(more, 1)[39]))


CRASH = """
import json, sys, numpy as np
import weightlapse.store.writer as w
from weightlapse.store.layout import Layout
w.segment_frames = lambda row, tolerance: 16
writer = w.Writer.create(sys.argv[1], Layout.from_json(json.loads(sys.argv[3])), compact="live")
rows = np.load(sys.argv[2])
for k in range(0, 4000, 4):
    writer.append(np.arange(k, k + 4), rows[k:k + 4])
    print(k + 4, flush=True)
writer.close()
"""


def test_kill_during_compaction_loses_nothing(tmp_path: Path) -> None:
    rows = moving_rows(LAYOUT, 4000)
    np.save(tmp_path / "rows.npy", rows)
    told = [str(tmp_path / "rows.npy"), json.dumps(LAYOUT.to_json())]
    for trial in range(4):
        path = tmp_path / f"run{trial}"
        child = subprocess.Popen([sys.executable, "-c", CRASH, str(path), *told], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        last = 0
        for line in child.stdout:
            last = int(line)
            if last >= 100 + 120 * trial:
                break
        child.send_signal(signal.SIGKILL)
        last = max([last, *(int(x) for x in child.stdout.read().split() if x.isdigit())])
        child.wait()
        child.stdout.close()
        store = Store.open(path)
        assert len(store.steps) >= last
        holds(store, rows[: len(store.steps)])
        assert not store.closed
        assert [d for d in store.verify() if d.stop > d.first] == []
        compact_recording(path)
        holds(Store.open(path), rows[: len(store.steps)])


# ---- trouble -----------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_log_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = moving_rows(LAYOUT, 30)
    writer = Writer.create(tmp_path / "run", LAYOUT)
    writer.append(np.arange(30), rows)
    write = AppendFile.write

    def full(self: AppendFile, parts: Any) -> None:
        if self.path.suffix == ".tmp":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, parts)

    monkeypatch.setattr(AppendFile, "write", full)
    with pytest.warns(UserWarning, match="not all frames could be compressed .*No space left"):
        writer.close()
    assert list((tmp_path / "run/blocks").iterdir()) == []
    store = Store.open(tmp_path / "run")
    holds(store, rows)
    assert store.closed
    assert "No space left" in store.events[-1][1]
    monkeypatch.undo()
    assert compact_recording(tmp_path / "run").frames == 30
    holds(Store.open(tmp_path / "run"), rows)


def test_a_damaged_frame_keeps_its_segment_a_log(tmp_path: Path) -> None:
    rows = record(tmp_path / "run", 20, compact="never")
    log = tmp_path / "run/log/000000.seg"
    bad = bytearray(log.read_bytes())
    bad[frames_at(log) + 5 * (32 + LAYOUT.row_nbytes) + 40] ^= 1
    log.write_bytes(bad)
    done = compact_recording(tmp_path / "run")
    assert done.frames == 0
    assert "frame 5" in done.kept[0]
    store = Store.open(tmp_path / "run")
    with pytest.raises(DamagedRecording, match="frame 5"):
        store.read("w", slice(5, 6))
    assert same(store.read("w", slice(6, 20)), np.array(LAYOUT.view(rows, 0)[6:]))


def test_a_recording_that_is_being_written_is_not_compacted_by_another(tmp_path: Path) -> None:
    writer = Writer.create(tmp_path / "run", LAYOUT, compact="never")
    writer.append(np.arange(3), moving_rows(LAYOUT, 3))
    with pytest.raises(CannotRecord, match="being recorded to"):
        compact_recording(tmp_path / "run")
    writer.close()
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotARecording):
        compact_recording(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == [], "nothing is left in a folder that is none of ours"


def test_where_block_and_log_exist_the_block_counts(tmp_path: Path) -> None:
    rows = record(tmp_path / "run", 20, compact="never")
    raw = Store.open(tmp_path / "run").segments[0]
    assert isinstance(raw, RawSegment)
    compact.write_block(tmp_path / "run", raw.number, raw, None)
    assert (tmp_path / "run/log/000000.seg").exists()
    store = Store.open(tmp_path / "run")
    assert [type(s) for s in store.segments] == [TwoCopies]
    assert isinstance(store.doubled[0].copy, BlockSegment)
    holds(store, rows)


def test_compacting_holds_one_chunk_in_memory(tmp_path: Path) -> None:
    layout = Layout([TensorSpec("w", "float32", (1000, 1000))])
    path = tmp_path / "run"
    writer = Writer.create(path, layout, compact="never")
    for k in range(12):
        writer.append(np.array([k]), np.full((1, layout.row_nbytes), k, np.uint8))
    writer.close()
    raw = Store.open(path).segments[0]
    assert isinstance(raw, RawSegment)
    tracemalloc.start()
    compact.write_block(path, 0, raw, None, memory=8 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20 < 12 * layout.row_nbytes


def test_segments_hold_whole_time_blocks() -> None:
    for row in (8, 70_000, 1_700_000, 43_000_000, 10**9, 10**12):
        for tolerance, height in ((None, compact.LOSSLESS_HEIGHT), (1e-2, compact.BOUNDED_HEIGHT)):
            frames = segment_frames(row, tolerance)
            height = max(height, min(1024, (1 << 19) // row))
            assert 16 <= frames <= 65536
            assert frames % height == 0 or frames < height


def test_a_compactor_that_is_stopped_drops_only_its_unfinished_block(tmp_path: Path) -> None:
    rows = record(tmp_path / "run", 50, compact="never")
    raw = Store.open(tmp_path / "run").segments[0]
    assert isinstance(raw, RawSegment)
    compactor = Compactor(
        tmp_path / "run", Store.open(tmp_path / "run").ours, None, "after", sync=False, memory=1 << 28
    )
    compactor.add(0, lambda: raw)
    compactor._ending = True
    compactor._next(pause=compactor._check_ending)
    assert not list((tmp_path / "run/blocks").iterdir())
    holds(Store.open(tmp_path / "run"), rows)
    compactor.finish()
    assert is_compact(tmp_path / "run")
    holds(Store.open(tmp_path / "run"), rows)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "run", 200, compact="never")
    with pytest.raises(SystemExit) as end:
        main(["compact", str(tmp_path / "run"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert end.value.code == 0
    assert told["frames"] == 200
    assert told["nbytes_after"] < told["nbytes_before"]
    with pytest.raises(SystemExit) as end:
        main(["compact", str(tmp_path / "run")])
    assert "0 frames compressed" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["compact", str(tmp_path / "nothing")])
    assert end.value.code == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_bound_can_be_checked_against_the_exact_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = record(tmp_path / "exact", 120)
    record(tmp_path / "film", 120, tolerance=1e-2)

    def verify(*arguments: str) -> tuple[Any, dict[str, Any]]:
        with pytest.raises(SystemExit) as end:
            main(["verify", *arguments, "--json"])
        return end.value.code, json.loads(capsys.readouterr().out)

    code, told = verify(str(tmp_path / "film"), "--against", str(tmp_path / "exact"))
    assert code == 0
    assert told["bound"]["beyond"] == 0
    assert told["bound"]["values"] == 120 * sum(t.size * (2 if t.dtype == "complex64" else 1) for t in LAYOUT.tensors)
    assert told["bound"]["largest_error"] > 0
    LAYOUT.view(rows, 0)[77, 3, 3] += 1
    writer = Writer.create(tmp_path / "other", LAYOUT)
    writer.append(np.arange(120) * 3, rows)
    writer.close()
    code, told = verify(str(tmp_path / "film"), "--against", str(tmp_path / "other"))
    assert code == 1
    assert told["bound"]["beyond"] == 1
    record(tmp_path / "short", 50)
    with pytest.raises(SystemExit) as end:
        main(["verify", str(tmp_path / "film"), "--against", str(tmp_path / "short")])
    assert end.value.code == 2


FULL = """
import resource, sys, warnings
import numpy as np
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # what a quota or a full disk does, for one file
import weightlapse as wl
told = []
warnings.showwarning = lambda message, *_: told.append(str(message))
weights = {"W": np.zeros((50, 50))}
rec = wl.watch(weights, sys.argv[1])
for k in range(200):
    weights["W"] = weights["W"] + 1
    rec.step(weights)
rec.close()
print(len(told), weights["W"][0, 0], told[0])
"""


def test_a_quota_stops_the_recorder_and_not_the_training(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "WEIGHTLAPSE_STRICT"}
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "run")], capture_output=True, text=True, check=True, env=env
    )
    count, last, *told = run.stdout.split(maxsplit=2)
    assert (count, last) == ("1", "200.0"), run.stdout
    assert "File too large" in told[0]
    recording = wl.load(tmp_path / "run")
    assert 2 <= recording.frames < 200
    assert recording.stopped is not None
    assert "File too large" in recording.stopped
    assert np.array_equal(recording["W"][:, 0, 0], np.arange(recording.frames))
    assert not recording.closed


def blocks_of(path: Path) -> list[Path]:
    return list((path / "blocks").glob("*.blk"))


def test_a_training_on_a_device_is_spared_until_the_end(
    tmp_path: Path, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(background, "usable_cores", lambda: 8)
    rows = moving_rows(LAYOUT, 96)
    writer = Writer.create(tmp_path / "run", LAYOUT, compact="spare")
    writer.append(np.arange(64), rows[:64])
    time.sleep(1.3)  # longer than the thread waits between two looks
    assert writer.uncompressed == 3  # the last one is still being written
    assert not blocks_of(tmp_path / "run")
    writer.append(np.arange(64, 96), rows[64:])
    writer.close()
    assert is_compact(tmp_path / "run")
    holds(Store.open(tmp_path / "run"), rows)


@pytest.mark.parametrize("free", [0, 1000])
def test_a_log_that_would_fill_the_disk_is_compressed_beside_the_training(
    tmp_path: Path, small_segments: None, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(background, "usable_cores", lambda: 8)
    monkeypatch.setattr(background.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    writer = Writer.create(tmp_path / "run", LAYOUT, compact="spare")
    writer.append(np.arange(64), moving_rows(LAYOUT, 64))
    until = time.monotonic() + 30
    while not blocks_of(tmp_path / "run") and time.monotonic() < until:
        time.sleep(0.02)
    assert blocks_of(tmp_path / "run")
    writer.close()
    assert is_compact(tmp_path / "run")


@pytest.mark.parametrize("mode", ["live", "auto", "after"])
def test_beside_training_one_thread_is_at_work(
    tmp_path: Path, small_segments: None, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(background, "usable_cores", lambda: 8)
    monkeypatch.setenv("WEIGHTLAPSE_THREADS", "5")
    seen: dict[str, set[tuple[int, int]]] = {}
    real = background.compress

    def compress(*args: Any, **settings: Any) -> None:
        seen.setdefault(threading.current_thread().name, set()).add((threads(), settings["count"]))
        real(*args, **settings)

    monkeypatch.setattr(background, "compress", compress)
    writer = Writer.create(tmp_path / "run", LAYOUT, compact=mode)
    writer.append(np.arange(64), moving_rows(LAYOUT, 64))
    until = time.monotonic() + 30
    while mode != "after" and not seen and time.monotonic() < until:
        time.sleep(0.02)
    writer.close()
    assert is_compact(tmp_path / "run")
    assert seen.pop("weightlapse-compactor", None) == (None if mode == "after" else {(1, 1)})
    assert all(found == {(5, 5)} for found in seen.values())  # at the end by all there are
    assert mode != "after" or seen


def test_weights_on_a_device_are_spared_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = background.Compactor.__init__

    def init(self: Any, folder: Any, ours: Any, tolerance: Any, mode: str, **settings: Any) -> None:
        made.append(mode)
        real(self, folder, ours, tolerance, mode, **settings)

    monkeypatch.setattr(background.Compactor, "__init__", init)
    for on_device in (False, True):
        monkeypatch.setattr(TorchSource, "on_device", property(lambda self, found=on_device: found))
        for mode in ("auto", "live", "after", "never"):
            wl.watch(torch.nn.Linear(2, 2), tmp_path / f"{mode}{on_device}", compact=mode).close()
    assert made == ["auto", "live", "after", "never", "spare", "live", "after", "never"]

"""Segments of packed frames: read as what they stand for, by whoever reads, in any order, and never rounded twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.packed_frames import packed_frames
from tests.test_store_blocks import LAYOUT, moving_rows
from weightlapse.errors import DamagedRecording, NotARecording, WeightlapseError
from weightlapse.recording.recording import load
from weightlapse.store import log as log_module
from weightlapse.store import packing
from weightlapse.store.blockread import BlockSegment
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.offline import compact_recording
from weightlapse.store.packed_segment import PackedSegment
from weightlapse.store.packing import Packed, fold, pack, unfold
from weightlapse.store.reader import Store
from weightlapse.store.writer import Writer

BIG = Layout([TensorSpec("w", "float32", (70, 50)), TensorSpec("h", "bfloat16", (9, 300)), TensorSpec("n", "int64", (3,)),
              TensorSpec("b", "float32", (50,)), TensorSpec("f", "float16", (33,))])  # fmt: skip


def record(path: Path, layout: Layout, count: int, tolerance: float | None = None, **options: int) -> np.ndarray:
    frames, stored = packed_frames(layout, moving_rows(layout, count), tolerance, **options)
    writer = Writer.create(path, layout, tolerance=tolerance, compact="never", packed=True)
    writer.append(np.arange(count), frames)
    writer.close()
    return stored


def check(path: Path, layout: Layout, stored: np.ndarray) -> None:
    store = Store.open(path)
    assert store.verify() == []
    assert store.steps.tolist() == list(range(len(stored)))
    for i, spec in enumerate(layout.tensors):
        truth = np.array(layout.view(stored, i))
        assert store.read(spec.name, slice(0, None)).tobytes() == truth.tobytes(), spec
        assert store.read(spec.name, slice(None, None, 3)).tobytes() == truth[::3].tobytes(), spec
        assert store.read(spec.name, np.array([5, 3, 3, 9])).tobytes() == truth[[5, 3, 3, 9]].tobytes(), spec
        if spec.size > 1:
            region = tuple(slice(n // 2, n // 2 + 1) for n in spec.shape)
            assert store.read(spec.name, slice(2, 19), region).tobytes() == truth[(slice(2, 19), *region)].tobytes()
    for k in (7, 8, 3, 18, len(stored) - 1):
        for name, value in store.read_frame(k).items():
            assert value.tobytes() == np.array(layout.view(stored[k : k + 1], layout.index[name])).tobytes(), (k, name)


@pytest.mark.parametrize("scale", [0, 1, 2, 3, 1000, 2**31 - 1])
@pytest.mark.parametrize("compiled", [False, True])
def test_numbers_come_back(scale: int, compiled: bool) -> None:
    rng = np.random.default_rng(scale)
    numbers = rng.integers(-scale, scale + 1, 5 * 1024).astype(np.int32)
    numbers[1024:2048] = 0
    numbers[3000] = -(2**31)
    assert np.array_equal(unfold(fold(numbers)), numbers)
    outer, width_words, words = pack(numbers)
    packed = Packed(outer, width_words, compiled=compiled)
    for a, b in ((0, 5), (1, 2), (2, 4)):
        part, mine = words[packed.starts[a] : packed.starts[b]], numbers[1024 * a : 1024 * b]
        out = rng.integers(-9, 9, len(mine)).astype(np.int32)
        with np.errstate(over="ignore"):
            summed = out + mine
        packed.add(a, b, part, out, fresh=False)
        assert np.array_equal(out, summed)
        packed.add(a, b, part, out, fresh=True)
        assert np.array_equal(out, mine)
    with pytest.raises(DamagedRecording):
        packed.add(0, 5, words[:-1], np.empty(5 * 1024, np.int32), fresh=True)


def test_small_numbers_take_few_bits() -> None:
    outer, width_words, words = pack(np.random.default_rng(0).integers(-1, 2, 1 << 16).astype(np.int32))
    assert len(words) * 32 == 2 << 16
    assert len(width_words) * 32 + 8 * len(outer) < 0.08 * (1 << 16)
    assert sum(map(len, pack(np.zeros(1 << 16, np.int32)))) == 64, "one byte for 1024 equal numbers"


@pytest.mark.parametrize("tolerance", [None, 1e-2])
@pytest.mark.parametrize("layout", [LAYOUT, BIG], ids=["small", "big"])
def test_packed_frames_read_as_what_they_stand_for(
    tmp_path: Path, layout: Layout, tolerance: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = record(tmp_path / "run", layout, 40, tolerance, renewed=10)
    store = Store.open(tmp_path / "run")
    assert [type(s) for s in store.segments] == [PackedSegment] * 3
    assert [s.count for s in store.segments] == [16, 16, 8]
    check(tmp_path / "run", layout, stored)
    monkeypatch.setattr("weightlapse.store.packing._kernels", lambda: None)
    monkeypatch.setattr("weightlapse.store.packed._kernels", lambda: None)
    check(tmp_path / "run", layout, stored)


def test_a_recording_of_packed_frames_is_refused_by_older_readers(tmp_path: Path) -> None:
    record(tmp_path / "run", BIG, 3)
    head = json.loads((tmp_path / "run/manifest.json").read_text())
    assert head["version"] == 3, "a reader of version 2 says that it cannot read it"
    Writer.create(tmp_path / "raw", BIG).close()
    assert json.loads((tmp_path / "raw/manifest.json").read_text())["version"] == 2, "others go on reading all the rest"
    for journal in (tmp_path / "run").glob("journal*"):
        journal.unlink()
    (tmp_path / "run/manifest.json").write_text(json.dumps(head | {"version": 4}))
    with pytest.raises(NotARecording, match="format version 4"):
        Store.open(tmp_path / "run")


@pytest.mark.parametrize("renewed", [0, 10])
def test_compaction_adds_no_second_error(tmp_path: Path, renewed: int) -> None:
    """Nor where the step changes within a time block, or a frame between is exact."""
    stored = record(tmp_path / "run", BIG, 40, 1e-2, renewed=renewed, every=40)
    bounds = [load(tmp_path / "run").bound("w", k) for k in range(40)]
    done = compact_recording(tmp_path / "run")
    assert (done.frames, done.kept) == (40, ())
    store = Store.open(tmp_path / "run")
    assert all(isinstance(s, BlockSegment) for s in store.segments)
    for i, spec in enumerate(BIG.tensors):
        assert store.read(spec.name, slice(0, None)).tobytes() == np.array(BIG.view(stored, i)).tobytes(), spec
    assert all(store.bound("w", k) >= bounds[k] > 0 or renewed for k in range(40))
    assert store.bound("w") == max(bounds)
    assert store.verify() == []


def test_compaction_of_exact_packed_frames_is_exact(tmp_path: Path) -> None:
    stored = record(tmp_path / "run", LAYOUT, 40)
    assert compact_recording(tmp_path / "run").kept == ()
    check(tmp_path / "run", LAYOUT, stored)
    assert Store.open(tmp_path / "run").bound("w") == 0.0


def test_rows_and_packed_frames_in_one_recording(tmp_path: Path) -> None:
    rows = moving_rows(BIG, 30)
    writer = Writer.create(tmp_path / "run", BIG, compact="never", packed=True)
    writer.append(np.arange(10), rows[:10])
    writer.append(np.arange(10, 16), packed_frames(BIG, rows[10:16])[0])
    writer.append(np.arange(16, 20), rows[16:20])
    writer.append(np.arange(20, 30), packed_frames(BIG, rows[20:])[0])
    writer.close()
    check(tmp_path / "run", BIG, rows)
    assert len(Store.open(tmp_path / "run").segments) == 4


def test_a_damaged_frame_costs_no_more_than_its_stretch(tmp_path: Path) -> None:
    stored = record(tmp_path / "run", BIG, 40)
    file = tmp_path / "run/log/000001.seg"
    data = bytearray(file.read_bytes())
    segment = Store.open(tmp_path / "run").segments[1]
    assert isinstance(segment, PackedSegment)
    at = segment._head(5).data_at + 40
    data[at] ^= 1
    file.write_bytes(data)
    store = Store.open(tmp_path / "run")
    lost = {k for d in store.verify() for k in range(d.first, d.stop)}
    assert lost == set(range(21, 32))
    for k in range(40):
        if k in lost:
            with pytest.raises(DamagedRecording):
                store.read_frame(k)
        else:
            assert store.read_frame(k)["w"].tobytes() == np.array(BIG.view(stored[k : k + 1], 0)).tobytes()


@pytest.mark.parametrize("what", ["header", "head", "payload number", "all"])
def test_a_lost_header_loses_its_frame_and_not_its_number(tmp_path: Path, what: str) -> None:
    stored = record(tmp_path / "run", BIG, 40)
    file = tmp_path / "run/log/000000.seg"
    data = bytearray(file.read_bytes())
    segment = Store.open(tmp_path / "run").segments[0]
    assert isinstance(segment, PackedSegment)
    place = segment._places[3]
    assert place is not None
    at = {"header": place[0] - 8, "head": place[0] + 60, "payload number": place[0], "all": place[0] - 32}[what]
    data[at : at + (place[1] + 32 if what == "all" else 3)] = b"\xa5" * (place[1] + 32 if what == "all" else 3)
    file.write_bytes(data)
    store = Store.open(tmp_path / "run")
    assert len(store.steps) == 40
    assert store.verify()
    for k in (0, 1, 2, 16, 17, 39):
        assert store.read_frame(k)["w"].tobytes() == np.array(BIG.view(stored[k : k + 1], 0)).tobytes()
    for k in (3, 4, 15):
        with pytest.raises(DamagedRecording):
            store.read_frame(k)


def test_a_cut_write_at_the_end_is_no_damage(tmp_path: Path) -> None:
    frames, stored = packed_frames(BIG, moving_rows(BIG, 20))
    writer = Writer.create(tmp_path / "run", BIG, compact="never", packed=True)
    writer.append(np.arange(20), frames)
    writer.close(in_order=False)
    file = tmp_path / "run/log/000001.seg"
    whole = file.read_bytes()
    segment = Store.open(tmp_path / "run").segments[1]
    assert isinstance(segment, PackedSegment)
    place = segment._places[3]
    assert place is not None
    for cut in (place[0] - 32 + 5, place[0] - 1, place[0] + 7, place[0] + 1000, len(whole) - 9):
        file.write_bytes(whole[:cut])
        store = Store.open(tmp_path / "run")
        assert store.verify() == []
        assert len(store.steps) == 19
        assert store.read_frame(18)["w"].tobytes() == np.array(BIG.view(stored[18:19], 0)).tobytes()
    resumed = Writer.resume(tmp_path / "run", BIG, compact="never")
    assert resumed.takes_packed
    resumed.append(np.arange(19, 20), packed_frames(BIG, moving_rows(BIG, 20)[19:])[0])
    resumed.close()
    check(tmp_path / "run", BIG, stored)


def test_a_file_that_could_not_be_gone_on_with_is_followed_by_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write fails and cannot be taken back: the next frame, of which only the difference is known, is made whole from the file."""
    frames, stored = packed_frames(BIG, moving_rows(BIG, 20), 1e-2)
    writer = Writer.create(tmp_path / "run", BIG, tolerance=1e-2, compact="never", packed=True)
    writer.append(np.arange(6), frames[:6])
    segment = writer._segment
    assert segment is not None

    def fails() -> None:
        segment.torn = True
        raise OSError(5, "no")

    def half(fd: int, parts: list[object]) -> int:
        raise OSError(28, "full")

    monkeypatch.setattr(segment, "_cut", fails)
    monkeypatch.setattr("weightlapse.store.log.write_all", half)
    with pytest.raises(OSError, match="full"):
        writer.append(np.arange(6, 9), frames[6:9])
    monkeypatch.undo()
    writer.append(np.arange(writer.frames, 20), frames[writer.frames :])
    writer.close()
    assert [s.count for s in Store.open(tmp_path / "run").segments] == [6, 10, 4]
    check(tmp_path / "run", BIG, stored)


def test_the_kernels_are_used(tmp_path: Path) -> None:
    assert packing._kernels() is not None


def damaged(file: Path, draw: random.Random) -> str:
    """One thing wrong with a file; returns what."""
    data = bytearray(file.read_bytes())
    at = draw.randrange(len(data))
    kind = draw.choice(["bit", "cut", "zeros", "noise", "insert", "header"])
    if kind == "bit":
        data[at] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "zeros":
        data[at : at + 512] = bytes(len(data[at : at + 512]))
    elif kind == "noise":
        data[at : at + 100] = draw.randbytes(len(data[at : at + 100]))
    elif kind == "insert":
        data[at:at] = draw.randbytes(draw.choice([1, 8, 64]))
    else:
        places = [m.start() for m in re.finditer(b"WLPSFRPK", data)]
        at = draw.choice(places) + draw.randrange(120)
        data[at] ^= draw.randrange(1, 256)
    file.write_bytes(data)
    return f"{kind} at {at} of {file.name}"


def values_read(store: Store, truth: list[np.ndarray], told: str) -> tuple[int, int]:
    """How many values could be read, frame by frame and over time, and how many not; fails where one is wrong."""
    good = bad = 0
    for k, step in enumerate(store.steps.tolist()):
        assert step in (k, -1), told
        for i, spec in enumerate(BIG.tensors):
            for way in ("frame", "time"):
                try:
                    value = (
                        store.read_frame(k, [spec.name])[spec.name]
                        if way == "frame"
                        else store.read(spec.name, slice(k, k + 1))[0]
                    )
                except WeightlapseError:
                    bad += 1
                    continue
                good += 1
                assert value.tobytes() == truth[i][k].tobytes(), (
                    f"{told}: frame {k} of {spec.name} was read wrong in silence"
                )
    return good, bad


@pytest.mark.parametrize("tolerance", [None, 1e-2])
def test_random_damage_is_never_read_as_truth(tmp_path: Path, tolerance: float | None) -> None:
    stored = record(tmp_path / "whole", BIG, 24, tolerance, every=9, renewed=5)
    truth = [np.array(BIG.view(stored, i)) for i in range(len(BIG.tensors))]
    draw, lost, readable = random.Random(1), 0, 0
    for trial in range(60):
        target = tmp_path / "run"
        shutil.copytree(tmp_path / "whole", target)
        told = damaged(draw.choice(sorted((target / "log").glob("*.seg"))), draw)
        store = Store.open(target)
        good, bad = values_read(store, truth, told)
        bad += 24 - len(store.steps)
        readable += good
        if bad:
            lost += 1
            assert store.verify(), f"{told}: {bad} values are lost and verify says nothing ({trial})"
        shutil.rmtree(target)
    assert lost > 30, "most damage costs something"
    assert readable > 60 * 24 * 5, "and most stays readable"


HOSTILE_RUN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from weightlapse.errors import WeightlapseError
from weightlapse.store.reader import Store
store = Store.open(sys.argv[1])
try:
    store.verify()
    store.read_frame(0)
    print("read")
except WeightlapseError as error:
    print("refused")
"""


@pytest.mark.parametrize("what", ["tensors", "head", "words", "widths", "first word", "outer", "step", "bound"])
def test_hostile_numbers_are_refused(tmp_path: Path, what: str) -> None:
    """With every checksum right: lengths that cannot be, bits that are not there, steps that are no numbers."""
    record(tmp_path / "run", BIG, 3)
    file = tmp_path / "run/log/000000.seg"
    segment, data = Store.open(tmp_path / "run").segments[0], bytearray(file.read_bytes())
    assert isinstance(segment, PackedSegment)
    head, place = segment._head(0), segment._places[0]
    assert place is not None
    at, nbytes = place
    changes = {"tensors": (12, "<I", 1 << 30), "head": (8, "<I", 1 << 31), "words": (24, "<Q", 1 << 60), "widths": (16, "<Q", 1 << 61),
               "first word": (32 + 40 + 24, "<Q", 1 << 50), "step": (32, "<d", float("nan")), "bound": (32 + 8, "<d", -1.0)}  # fmt: skip
    if what == "outer":
        data[head.data_at] = 200
        struct.pack_into(
            "<I", data, at + 32 + 40 * len(BIG.tensors), zlib.crc32(data[head.data_at : at + nbytes][:65536])
        )
    else:
        where, form, number = changes[what]
        struct.pack_into(form, data, at + where, number)
    seed = segment._seed(0)
    length = head.data_at - at
    struct.pack_into("<I", data, at - 8, zlib.crc32(data[at : at + length], seed))
    struct.pack_into("<I", data, at - 4, zlib.crc32(data[at - 32 : at - 4], seed))
    file.write_bytes(data)
    root = Path(__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", HOSTILE_RUN, str(tmp_path / "run")], capture_output=True, text=True, timeout=60,
                         check=False, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip() == "refused"


KILLED = """
import os, signal, sys, torch
import weightlapse as wl
model = torch.nn.Linear(60, 50, bias=False)
rec = wl.watch(model, sys.argv[1], pack=True, compact="never", tolerance=float(sys.argv[2]) or None)
for step in range(1, 400):
    with torch.no_grad():
        model.weight.copy_(torch.full((50, 60), float(step)) + torch.arange(3000).view(50, 60) / 4096)
    rec.step()
    if step == 300:
        rec.flush()
        print("flushed", flush=True)
    if step == 330:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("tolerance", [0.0, 1e-2])
def test_a_killed_recorder_leaves_what_was_flushed(tmp_path: Path, tolerance: float) -> None:
    root = Path(__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run"), str(tolerance)], capture_output=True, text=True, timeout=120,
                         check=False, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert run.returncode == -9, run.stderr[-2000:]
    assert run.stdout == "flushed\n"
    recording = load(tmp_path / "run")
    assert recording._store.verify() == []
    assert 301 <= recording.frames <= 331
    for k in (1, 32, 33, 299, recording.frames - 1):
        error = np.abs(recording.state(frame=k)["weight"].ravel() - (k + np.arange(3000) / 4096)).max()
        assert error <= tolerance * (np.arange(3000) / 4096).std()
    compact_recording(tmp_path / "run")
    assert load(tmp_path / "run")["weight"][5, 0, 0] == recording["weight"][5, 0, 0]


def test_a_full_disk_passes_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails is taken back, and done again when there is room."""
    frames, stored = packed_frames(BIG, moving_rows(BIG, 30), 1e-2)
    writer = Writer.create(tmp_path / "run", BIG, tolerance=1e-2, compact="never", packed=True)
    real, failing = log_module.write_all, iter([False, True, False, False, True, True, *[False] * 99])

    def half(fd: int, parts: Any) -> int:
        if next(failing):
            real(fd, [memoryview(parts[0])[:10]])
            raise OSError(28, "full")
        return int(real(fd, parts))

    monkeypatch.setattr(log_module, "write_all", half)
    done = 0
    while done < 30:
        with contextlib.suppress(OSError):
            writer.append(np.arange(done, 30), frames[done:])
        done = writer.frames
    monkeypatch.undo()
    writer.close()
    check(tmp_path / "run", BIG, stored)

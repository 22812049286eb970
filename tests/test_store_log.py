"""The log and the journal on disk: what was written is read back, and nothing that is damaged is read back in silence."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from weightlapse.errors import CannotRecord, DamagedRecording, InvalidArgument, NotARecording
from weightlapse.store.files import LocalFile
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.log import AppendFile, Seal, encode, records
from weightlapse.store.raw import RawSegment, find_opening
from weightlapse.store.reader import Store
from weightlapse.store.writer import Writer

LAYOUT = Layout(
    [TensorSpec("w", "float32", (3, 5)), TensorSpec("b", "float64", (3,)), TensorSpec("h", "bfloat16", (7,))]
)


def rows(count: int, seed: int = 0, layout: Layout = LAYOUT) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, layout.row_nbytes), np.uint8)


def written(path: Path, count: int = 40, *, close: bool = True) -> np.ndarray:
    writer = Writer.create(path, LAYOUT, meta={"who": "test"}, compact="never")
    data = rows(count)
    writer.append(np.arange(count), data)
    writer.scalars(np.array([0, 3]), ["loss", "loss"], np.array([1.0, 2.0]))
    writer.event(7, "an event — with Ünicode")
    writer.gap(8, 9, "slow disk")
    writer.close(in_order=close)
    return data


def frames_at(segment: Path) -> int:
    """Where the first frame of a log segment begins."""
    found = find_opening(LocalFile(segment, segment.name))
    assert found is not None
    return found[0].frames_at


def seal(run: Path) -> Seal:
    return Store.open(run).journal.sealed


def same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    data = written(tmp_path / "run")
    store = Store.open(tmp_path / "run")
    assert store.steps.tolist() == list(range(40))
    assert store.closed
    assert store.meta == {"who": "test"}
    assert store.events == [(7, "an event — with Ünicode")]
    assert store.gaps == [(8, 9, "slow disk")]
    assert store.scalars["loss"][[0, 3]].tolist() == [1.0, 2.0]
    assert np.isnan(np.delete(store.scalars["loss"], [0, 3])).all()
    for i, spec in enumerate(LAYOUT.tensors):
        assert same_bytes(store.read(spec.name, slice(None)), LAYOUT.view(data, i))
    assert same_bytes(store.read("w", np.array([5, 2, 39])), LAYOUT.view(data, 0)[[5, 2, 39]])
    assert same_bytes(
        store.read("w", slice(1, 30, 7), (slice(1, 2), slice(0, 5, 2))), LAYOUT.view(data, 0)[1:30:7, 1:2, 0:5:2]
    )
    assert store.verify() == []


def test_segments_rotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightlapse.store.writer._SEGMENT_FRAMES", (4, 8))
    data = written(tmp_path / "run", 45)
    assert len(list((tmp_path / "run" / "log").iterdir())) > 5
    store = Store.open(tmp_path / "run")
    assert same_bytes(store.read("b", slice(3, 41, 5)), LAYOUT.view(data, 1)[3:41:5])


@pytest.mark.parametrize("cut", [1, 7, 31, 32, 33, 100])
def test_a_cut_tail_loses_only_the_last_frame(tmp_path: Path, cut: int) -> None:
    data = written(tmp_path / "run", close=False)
    segment = tmp_path / "run" / "log" / "000000.seg"
    os.truncate(segment, segment.stat().st_size - cut)
    store = Store.open(tmp_path / "run")
    assert len(store.steps) == 39
    assert not store.closed
    assert same_bytes(store.read("w", slice(None)), LAYOUT.view(data[:39], 0))
    assert store.verify() == []


def test_a_closed_recording_that_was_cut_says_which_frames_are_lost(tmp_path: Path) -> None:
    data = written(tmp_path / "run")
    segment = tmp_path / "run" / "log" / "000000.seg"
    os.truncate(segment, segment.stat().st_size - 3 * (LAYOUT.row_nbytes + 32))
    store = Store.open(tmp_path / "run")
    assert len(store.steps) == 40
    assert store.steps[-3:].tolist() == [-1, -1, -1]
    assert same_bytes(store.read("w", slice(0, 37)), LAYOUT.view(data[:37], 0))
    with pytest.raises(DamagedRecording, match="frames 37 to 39 are lost"):
        store.read("w", slice(36, 38))
    assert [(d.first, d.stop) for d in store.verify()] == [(37, 40)]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Flip single bits all over both files: each frame reads right or is refused; never a wrong value."""
    data = written(tmp_path / "run", 12)
    expected = {spec.name: LAYOUT.view(data, i) for i, spec in enumerate(LAYOUT.tensors)}
    refused = 0
    draw = random.Random(0)
    for file in ("log/000000.seg", "journal.log"):
        path = tmp_path / "run" / file
        good = path.read_bytes()
        for _ in range(150):
            bad = bytearray(good)
            bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
            path.write_bytes(bad)
            try:
                store = Store.open(tmp_path / "run")
            except (DamagedRecording, NotARecording):
                refused += 1
                continue
            for name, values in expected.items():
                for frame in range(len(store.steps)):
                    try:
                        read = store.read(name, np.array([frame]))[0]
                    except DamagedRecording:
                        refused += 1
                    else:
                        assert read.tobytes() == values[frame].tobytes()
                        assert store.steps[frame] == frame
        path.write_bytes(good)
    assert refused > 100


def test_a_damaged_frame_leaves_the_others_readable(tmp_path: Path) -> None:
    data = written(tmp_path / "run")
    path = tmp_path / "run" / "log" / "000000.seg"
    bad = bytearray(path.read_bytes())
    bad[frames_at(path) + 5 * (LAYOUT.row_nbytes + 32) + 32 + 2] ^= 16
    path.write_bytes(bad)
    store = Store.open(tmp_path / "run")
    with pytest.raises(DamagedRecording, match=r"frame 5 \(step 5\) fails its checksum"):
        store.read("b", slice(0, 10))
    assert same_bytes(store.read("b", slice(6, None)), LAYOUT.view(data[6:], 1))
    assert [(d.first, d.stop) for d in store.verify()] == [(5, 6)]


def test_layout_epochs(tmp_path: Path) -> None:
    other = Layout([TensorSpec("w", "float32", (4, 5)), TensorSpec("new", "int8", (2,))])
    writer = Writer.create(tmp_path / "run", LAYOUT)
    a, b = rows(5), rows(6, 1, other)
    writer.append(np.arange(5), a)
    writer.relayout(LAYOUT, "replaced before it was used")
    writer.relayout(other, "w grew", lineage={"w": [0, 1, 2, 0]})
    writer.append(np.arange(5, 11), b)
    writer.close()
    store = Store.open(tmp_path / "run")
    assert [(start, layout.row_nbytes) for start, layout in store.layouts] == [
        (0, LAYOUT.row_nbytes),
        (5, other.row_nbytes),
    ]
    assert store.journal.epochs[1].lineage == {"w": [0, 1, 2, 0]}
    assert same_bytes(store.read("new", slice(5, None)), other.view(b, 1))
    with pytest.raises(InvalidArgument, match="changes its shape"):
        store.read("w", slice(None))


def test_resume_goes_on_after_the_last_whole_frame(tmp_path: Path) -> None:
    data = written(tmp_path / "run", close=False)
    segment = tmp_path / "run" / "log" / "000000.seg"
    os.truncate(segment, segment.stat().st_size - 5)
    writer = Writer.resume(tmp_path / "run", LAYOUT)
    assert writer.frames == 39
    writer.append(np.array([100]), data[:1])
    writer.close()
    store = Store.open(tmp_path / "run")
    assert store.steps.tolist() == [*range(39), 100]
    assert same_bytes(store.read("w", slice(None)), LAYOUT.view(np.concatenate([data[:39], data[:1]]), 0))
    assert store.verify() == []


def test_two_writers_are_refused(tmp_path: Path) -> None:
    writer = Writer.create(tmp_path / "run", LAYOUT)
    with pytest.raises(CannotRecord, match=rf"this process \({os.getpid()}\)"):
        Writer.resume(tmp_path / "run", LAYOUT)
    with pytest.raises(CannotRecord, match="two writers"):
        Writer.create(tmp_path / "run", LAYOUT, overwrite=True)
    writer.close()
    Writer.resume(tmp_path / "run", LAYOUT).close()


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    writer = Writer.create(tmp_path / "run", LAYOUT)
    store = Store.open(tmp_path / "run")
    data = rows(30)
    for k in range(0, 30, 3):
        writer.append(np.arange(k, k + 3), data[k : k + 3])
        assert store.refresh() == 3
        assert same_bytes(store.read("w", slice(k, None)), LAYOUT.view(data[k : k + 3], 0))
    writer.close()
    assert store.refresh() == 0
    assert store.closed


def test_a_failed_write_leaves_no_torn_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = AppendFile(tmp_path / "f.log")
    file.write([encode(b"EVNT", b"first", 1)])
    real = os.writev

    def full_disk(fd: int, parts: list[memoryview]) -> int:
        if os.fstat(fd).st_size > 60:
            raise OSError(28, "No space left on device")
        return real(fd, [parts[0][:20]])

    monkeypatch.setattr(os, "write", lambda fd, part: full_disk(fd, [part]))
    with pytest.raises(OSError, match="No space"):
        file.write([encode(b"EVNT", b"x" * 100, 2)])
    monkeypatch.undo()
    file.write([encode(b"EVNT", b"third", 3)])
    found = list(records((tmp_path / "f.log").read_bytes()))
    assert [(r.number, r.payload) for r in found] == [(1, b"first"), (3, b"third")]
    file.close()


HOSTILE = {
    "not json": b"{",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "other program": b'{"format": "something", "version": 1}',
    "newer": b'{"format": "weightlapse recording", "version": 99, "meta": {}}',
    "huge version": b'{"format": "weightlapse recording", "version": ' + b"9" * 4000 + b', "meta": {}}',
    "bad tolerance": b'{"format": "weightlapse recording", "version": 1, "meta": {}, "tolerance": "much"}',
    "bad meta": b'{"format": "weightlapse recording", "version": 1, "meta": 3, "tolerance": null}',
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_manifests_are_refused(tmp_path: Path, case: str) -> None:
    written(tmp_path / "run")
    (tmp_path / "run" / "manifest.json").write_bytes(HOSTILE[case])
    with pytest.raises(NotARecording) as caught:
        Store.open(tmp_path / "run")
    assert len(str(caught.value)) < 400


def test_a_manifest_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    written(tmp_path / "run")
    os.truncate(tmp_path / "run" / "manifest.json", 1 << 40)
    with pytest.raises(NotARecording, match="1099511627776 bytes"):
        Store.open(tmp_path / "run")


TENSOR = {"name": "w", "dtype": "float32", "shape": [2], "stream": "weights", "aliases": []}
HOSTILE_LAYOUTS = {
    "no list": 5,
    "no object": [3],
    "no name": [TENSOR | {"name": ""}],
    "name with NUL": [TENSOR | {"name": "a\0b"}],
    "endless name": [TENSOR | {"name": "x" * 10_000}],
    "same name twice": [TENSOR, TENSOR],
    "alias of another": [TENSOR, TENSOR | {"name": "v", "aliases": ["w"]}],
    "object dtype": [TENSOR | {"dtype": "object"}],
    "odd stream": [TENSOR | {"stream": "../../etc"}],
    "negative": [TENSOR | {"shape": [-1]}],
    "no number": [TENSOR | {"shape": ["2"]}],
    "boolean": [TENSOR | {"shape": [True]}],
    "overflow": [TENSOR | {"shape": [1 << 62, 1 << 62]}],
    "a huge product": [TENSOR | {"shape": [1 << 40, 1 << 40]}],
    "many axes": [TENSOR | {"shape": [1] * 1000}],
}


@pytest.mark.parametrize("case", HOSTILE_LAYOUTS)
def test_hostile_layouts_are_refused(tmp_path: Path, case: str) -> None:
    written(tmp_path / "run")
    key = seal(tmp_path / "run")
    payload = json.dumps({"tensors": HOSTILE_LAYOUTS[case]}).encode()
    head = encode(b"HEAD", (tmp_path / "run" / "manifest.json").read_bytes())
    record = encode(b"LAYT", payload, 0, key.at(b"LAYT", len(head)))
    (tmp_path / "run" / "journal.log").write_bytes(head + record)
    with pytest.raises((DamagedRecording, CannotRecord)) as caught:
        Store.open(tmp_path / "run")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"last": {}, "reason": "x"}',
        b'{"last": 1.5, "reason": "x"}',
        b'{"last": 3, "reason": 4}',
        b"[]",
        b"no json",
    ],
)
def test_hostile_gaps_are_refused(tmp_path: Path, payload: bytes) -> None:
    written(tmp_path / "run")
    key, at = seal(tmp_path / "run"), (tmp_path / "run" / "journal.log").stat().st_size
    with open(tmp_path / "run" / "journal.log", "ab") as file:
        file.write(encode(b"GAP_", payload, 3, key.at(b"GAP_", at)))
    with pytest.raises(DamagedRecording):
        Store.open(tmp_path / "run")


def test_lengths_are_claims(tmp_path: Path) -> None:
    """A record that claims 2**60 bytes, and a close that claims 2**62 frames, cost neither memory nor time."""
    written(tmp_path / "run")
    journal = tmp_path / "run" / "journal.log"
    with open(journal, "ab") as file:
        from weightlapse.store.log import encode_header

        file.write(encode_header(b"EVNT", 1 << 60, 0, 0))
    assert len(Store.open(tmp_path / "run").steps) == 40
    written(tmp_path / "other", close=False)
    key, at = seal(tmp_path / "other"), (tmp_path / "other" / "journal.log").stat().st_size
    with open(tmp_path / "other" / "journal.log", "ab") as file:
        file.write(encode(b"CLOS", b"", 1 << 30, key.at(b"CLOS", at)))
    store = Store.open(tmp_path / "other")
    assert len(store.steps) == 40
    assert "1073741824 frames are claimed" in str(store.verify()[0])


KILLED = """
import sys, numpy as np
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.writer import Writer
layout = Layout([TensorSpec("w", "float64", (500,))])
writer = Writer.create(sys.argv[1], layout)
row = np.zeros((1, layout.row_nbytes), np.uint8)
step = 0
while True:
    row.view(np.float64)[:] = step * 1000 + np.arange(500)
    writer.append(np.array([step]), row)
    writer.scalars(np.array([step]), ["loss"], np.array([float(step)]))
    print(step, flush=True)
    step += 1
"""


def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    """Twenty writers killed in the middle: every frame that append() returned for is there, and none is wrong."""
    draw = random.Random(1)
    total = 0
    for k in range(20):
        path = tmp_path / f"run{k}"
        with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(draw.random() * 0.05)
            process.send_signal(signal.SIGKILL)
            said = [0, *(int(line) for line in process.stdout.read().splitlines() if line.isdigit())]
        store = Store.open(path)
        assert len(store.steps) >= len(said) - 1  # the last line printed may itself be cut
        assert store.steps.tolist() == list(range(len(store.steps)))
        values = store.read("w", slice(None))
        assert np.array_equal(values, np.arange(len(values))[:, None] * 1000.0 + np.arange(500))
        assert len(store.scalars["loss"]) == len(store.steps)
        assert store.verify() == []
        total += len(store.steps)
    assert total > 100


def test_a_segment_without_frames_yet(tmp_path: Path) -> None:
    writer = Writer.create(tmp_path / "run", LAYOUT)
    store = Store.open(tmp_path / "run")
    assert store.steps.shape == (0,)
    assert store.read("w", slice(None)).shape == (0, 3, 5)
    writer.append(np.array([0]), rows(1))
    with open(tmp_path / "run" / "log" / "000001.seg", "wb"):
        pass  # the next segment, created in this instant
    assert store.refresh() == 1
    assert isinstance(store.segments[0], RawSegment)
    writer.close()

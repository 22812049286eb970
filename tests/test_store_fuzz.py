"""Damaged and hostile recordings: no crash, no hang, no wrong value, bounded memory; what is whole stays readable."""

from __future__ import annotations

import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.packed_chunks import forged
from tests.test_store_blocks import LAYOUT, moving_rows
from weightlapse.errors import WeightlapseError
from weightlapse.store import block
from weightlapse.store.blockread import BlockSegment
from weightlapse.store.codecs.decode import Chunk
from weightlapse.store.codecs.encode import encode
from weightlapse.store.codecs.form import HEAD, Shape
from weightlapse.store.log import BLOCK, record_nbytes, records
from weightlapse.store.log import encode as encode_record
from weightlapse.store.reader import Store
from weightlapse.store.writer import Writer

FRAMES = 60
ROWS = moving_rows(LAYOUT, FRAMES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two compressed segments and one raw one."""
    path = tmp_path_factory.mktemp("whole") / "run"
    writer = Writer.create(path, LAYOUT, meta={"who": "fuzz"})
    writer.append(np.arange(25), ROWS[:25])
    writer.scalars(np.arange(25), ["loss"] * 25, np.arange(25) / 3)
    writer.close()
    writer = Writer.resume(path, LAYOUT)
    writer.append(np.arange(25, 50), ROWS[25:50])
    writer.close()
    writer = Writer.resume(path, LAYOUT, compact="never")
    writer.append(np.arange(50, 60), ROWS[50:])
    writer.event(59, "the end")
    writer.close()
    return path


def values_read(path: Path) -> tuple[int, int, bool]:
    """(values that could be read, values refused, whether verify found nothing); fails when a value is wrong."""
    try:
        store = Store.open(path)
    except WeightlapseError:
        return 0, FRAMES * len(LAYOUT.tensors), False
    good = bad = 0
    for i, spec in enumerate(LAYOUT.tensors):
        truth = np.array(LAYOUT.view(ROWS, i))
        for k in range(min(len(store.steps), FRAMES)):
            try:
                value = store.read(spec.name, slice(k, k + 1))
            except WeightlapseError:
                bad += 1
                continue
            assert value.tobytes() == truth[k : k + 1].tobytes(), f"frame {k} of {spec.name} was read wrong in silence"
            assert store.steps[k] in (k, -1), "a wrong step number"
            good += 1
    assert len(store.steps) <= FRAMES, "frames that never were"
    column = store.scalars.get("loss", np.array([]))
    known = column[np.isfinite(column)]
    assert set(known.tolist()) <= {x / 3 for x in range(25)}, "a wrong scalar"
    bad += (FRAMES - len(store.steps)) * len(LAYOUT.tensors)
    return good, bad, store.verify() == []


def files_of(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name != "lock")


def damaged(whole: Path, target: Path, change: random.Random, kind: str) -> str:
    """A copy of the recording with one thing wrong; returns what."""
    shutil.copytree(whole, target, dirs_exist_ok=True)
    file = change.choice(files_of(target))
    data = bytearray(file.read_bytes())
    name = file.relative_to(target).as_posix()
    if kind == "bit":
        at = change.randrange(len(data))
        data[at] ^= 1 << change.randrange(8)
        told = f"bit in byte {at} of {name}"
    elif kind == "cut":
        at = change.randrange(len(data))
        del data[at:]
        told = f"{name} cut to {at}"
    elif kind == "zeros":
        at = change.randrange(len(data))
        data[at : at + 512] = bytes(len(data[at : at + 512]))
        told = f"zeros from {at} in {name}"
    elif kind == "noise":
        at, length = change.randrange(len(data)), change.randrange(1, 200)
        data[at : at + length] = change.randbytes(len(data[at : at + length]))
        told = f"noise from {at} in {name}"
    elif kind == "insert":
        at = change.randrange(len(data))
        data[at:at] = change.randbytes(change.choice([1, 8, 64]))
        told = f"bytes put in at {at} of {name}"
    elif kind == "swap":
        a, b = sorted(change.randrange(len(data) // 64) * 64 for _ in range(2))
        data[a : a + 64], data[b : b + 64] = data[b : b + 64], data[a : a + 64]
        told = f"pieces {a} and {b} of {name} swapped"
    else:
        assert kind == "gone"
        file.unlink()
        return f"{name} gone"
    file.write_bytes(data)
    return told


@pytest.mark.parametrize("kind", ["bit", "cut", "zeros", "noise", "insert", "swap", "gone"])
def test_random_damage_is_never_read_as_truth(whole: Path, tmp_path: Path, kind: str) -> None:
    change = random.Random(kind)
    readable = 0
    for trial in range(40):
        target = tmp_path / f"{trial}"
        told = damaged(whole, target, change, kind)
        try:
            good, bad, clean = values_read(target)
        except AssertionError as error:
            raise AssertionError(f"{told}: {error}") from error
        readable += good > 0
        unchanged = files_of(target) and [p.read_bytes() for p in files_of(target)] == [
            p.read_bytes() for p in files_of(whole)
        ]
        if bad:
            assert not clean, f"{told}: values are lost and verify says nothing"
        elif clean and not unchanged and kind not in ("cut", "gone"):
            assert "manifest.json" in told or "journal.log" in told, f"{told}: went unnoticed by verify"
        shutil.rmtree(target)
    # without its manifest or its journal a folder is no recording: two files of five
    assert readable >= (18 if kind == "gone" else 25), "most damage leaves most of a recording readable"


def test_every_byte_of_a_block_file_counts(whole: Path, tmp_path: Path) -> None:
    """Each bit of a block file is covered by a checksum, or by nothing that matters."""
    file = whole / "blocks/000000.blk"
    data = file.read_bytes()
    target = tmp_path / "run"
    shutil.copytree(whole, target)
    for at in range(0, len(data), 37):
        bad = bytearray(data)
        bad[at] ^= 4
        (target / "blocks/000000.blk").write_bytes(bad)
        store = Store.open(target)
        for i, spec in enumerate(LAYOUT.tensors):
            try:
                values = store.read(spec.name, slice(0, 25))
            except WeightlapseError:
                assert store.verify() != []
                continue
            assert values.tobytes() == np.array(LAYOUT.view(ROWS[:25], i)).tobytes(), at


def test_a_lost_index_is_rebuilt_by_a_scan(whole: Path, tmp_path: Path) -> None:
    target = tmp_path / "run"
    for lost in (block.INDEX, BLOCK, block.STEPS):
        shutil.copytree(whole, target)
        file = target / "blocks/000000.blk"
        data = file.read_bytes()
        record = next(r for r in records(data, seal=Store.open(whole).ours.seal) if r.kind == lost)
        bad = bytearray(data)
        bad[record.start + 40] ^= 1
        file.write_bytes(bad)
        store = Store.open(target)
        segment = store.segments[0]
        assert isinstance(segment, BlockSegment)
        assert store.steps[:25].tolist() == list(range(25))
        for i, spec in enumerate(LAYOUT.tensors):
            assert store.read(spec.name, slice(0, 60)).tobytes() == np.array(LAYOUT.view(ROWS, i)).tobytes()
        damages = store.verify()
        assert damages, lost
        assert all(d.stop == d.first for d in damages), "nothing is lost by it"
        shutil.rmtree(target)


def test_one_damaged_page_costs_only_its_tensors_and_time_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weightlapse.store.compact._WORTH_A_BLOCK", 0)
    rows = moving_rows(LAYOUT, 200)
    writer = Writer.create(tmp_path / "run", LAYOUT)
    writer.append(np.arange(200), rows)
    writer.close()
    segment = Store.open(tmp_path / "run").segments[0]
    assert isinstance(segment, BlockSegment)
    c = next(c for c, pieces in enumerate(segment._index.chunks) if pieces[0].tensor == LAYOUT.index["w"])
    start, length = (int(x) for x in segment._index.places[1, c])
    file = tmp_path / "run/blocks/000000.blk"
    bad = bytearray(file.read_bytes())
    bad[start + length - 3] ^= 1
    file.write_bytes(bad)
    store = Store.open(tmp_path / "run")
    height = segment.opening.height
    with pytest.raises(WeightlapseError, match=r"values of w .*blocks/000000.blk.*verify"):
        store.read("w", slice(0, 200))
    assert store.read("w", slice(0, height)).tobytes() == np.array(LAYOUT.view(rows, 0)[:height]).tobytes()
    assert store.read("w", slice(2 * height, 200)).tobytes() == np.array(LAYOUT.view(rows, 0)[2 * height :]).tobytes()
    assert store.read("b", slice(0, 200)).tobytes() == np.array(LAYOUT.view(rows, 1)).tobytes()
    (damage,) = [d for d in store.verify() if d.stop > d.first]
    assert (damage.first, damage.stop) == (height, 2 * height)
    assert "w" in damage.what.split(":")[0]


HOSTILE = [0, 1, 2, 15, 16, 17, 255, 1 << 15, (1 << 16) - 1, 1 << 24, (1 << 32) - 1]


def test_hostile_heads_of_chunks_are_refused_or_harmless() -> None:
    from tests.test_store_codecs import walk

    u = walk("float32", 30, 200)
    data = encode(u, "float32", Shape(64, 8))
    for field in (
        "head",
        "rows",
        "columns",
        "strip",
        "tile",
        "dtype",
        "form",
        "rule",
        "classes",
        "entries",
        "mapped",
        "streams",
    ):
        for value in HOSTILE:
            if field in ("dtype", "form", "rule", "classes") and value > 255:
                continue
            if field == "streams" and value > 65535:
                continue
            try:
                chunk = Chunk(forged(data, **{field: value}))
                assert chunk.rows * chunk.columns <= 1 << 26
                read = chunk.read()
                assert read.shape == (chunk.rows, chunk.columns)
            except WeightlapseError:
                continue


def test_garbage_pages_with_right_checksums_do_not_crash() -> None:
    from tests.test_store_codecs import walk

    change = random.Random(7)
    data = encode(walk("float32", 30, 200), "float32", Shape(64, 8))
    head = HEAD.unpack_from(data)[2]
    pages = np.frombuffer(data[: Chunk(data)._end], np.uint8)
    assert len(pages) == head
    for _ in range(300):
        bad = bytearray(data)
        for _ in range(
            change.randrange(1, 6)
        ):  # anywhere behind the fixed head: histograms, class map, directory, pages
            bad[change.randrange(HEAD.size, len(bad))] ^= 1 << change.randrange(8)
        count = len(Chunk(data)._crcs)
        at = head
        for k in range(count):  # make every page's checksum right again
            entry = head - 8 * (count - k)
            (length,) = struct.unpack_from("<I", bad, entry)
            struct.pack_into("<I", bad, entry + 4, zlib.crc32(bytes(bad[at : at + length])))
            at += length
        try:
            Chunk(forged(bytes(bad))).read()
        except WeightlapseError:
            continue


HOSTILE_RUN = """
import resource, sys
import numpy as np
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from weightlapse.errors import WeightlapseError
from weightlapse.store.reader import Store
try:
    store = Store.open(sys.argv[1])
    store.verify()
    for name in store.layouts[0][1].index:
        store.read(name, slice(0, 5))
    print("read")
except WeightlapseError as error:
    print("refused", str(error)[:200])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss would count the parent before exec
print(int(peak.split()[1]) // 1024)
"""


@pytest.mark.parametrize("what", ["count", "height", "offset", "epoch", "pieces", "steps", "bomb"])
def test_hostile_block_files_cost_no_memory(whole: Path, tmp_path: Path, what: str) -> None:
    target = tmp_path / "run"
    shutil.copytree(whole, target)
    file = target / "blocks/000000.blk"
    key = Store.open(whole).ours.seal
    found = list(records(file.read_bytes(), seal=key))
    own = found[0].payload[56:]
    opening = list(struct.unpack("<7Q", found[0].payload[:56]))
    parts = {r.kind: r.payload for r in found}
    if what in ("count", "height", "offset", "epoch"):
        opening[{"count": 4, "height": 5, "offset": 6, "epoch": 1}[what]] = (1 << 63) + 5
        if what == "count":
            opening[4] = 1 << 23
    elif what == "pieces":
        inside = bytearray(zlib.decompress(parts[block.INDEX][16:]))
        struct.pack_into("<4Q", inside, 0, 1 << 40, 1 << 40, 1 << 40, 1 << 40)
        parts[block.INDEX] = own + zlib.compress(bytes(inside))
    elif what == "steps":
        parts[block.STEPS] = parts[block.STEPS][:72] + zlib.compress(bytes(64 << 20))
    else:
        parts[block.INDEX] = own + zlib.compress(bytes(2 << 30), 1)
    made = b""
    for kind, payload in [(r.kind, parts[r.kind] if r.kind != block.CHUNK else r.payload) for r in found]:
        if kind == block.INDEX and what != "offset":
            opening[6] = len(made)
        made += encode_record(kind, payload, 0, key.at(kind, len(made)))
    first = encode_record(BLOCK, struct.pack("<7Q", *opening) + own, 0)
    file.write_bytes(first + made[record_nbytes(72) :])
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", HOSTILE_RUN, str(target)],
        capture_output=True, text=True, timeout=60, check=False, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout.split()[-1]) < 700, "MiB"


def test_swapped_block_files_are_noticed(whole: Path, tmp_path: Path) -> None:
    target = tmp_path / "run"
    shutil.copytree(whole, target)
    one, two = target / "blocks/000000.blk", target / "blocks/000001.blk"
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    values_read(target)  # whatever can be read is right: files say themselves which frames they hold
    two.write_bytes(one.read_bytes())
    assert values_read(target)[2] is False, "one file twice"


def test_a_foreign_block_does_not_slip_in(whole: Path, tmp_path: Path) -> None:
    """A block file of another recording with another layout of the same size is refused: it names its layout by checksum."""
    from weightlapse.store.layout import Layout, TensorSpec

    other = Layout([TensorSpec(t.name + "x", t.dtype, t.shape) for t in LAYOUT.tensors])
    assert other.row_nbytes == LAYOUT.row_nbytes
    writer = Writer.create(tmp_path / "other", other)
    writer.append(np.arange(25), moving_rows(other, 25, seed=9))
    writer.close()
    target = tmp_path / "run"
    shutil.copytree(whole, target)
    shutil.copy(tmp_path / "other/blocks/000000.blk", target / "blocks/000000.blk")
    good, bad, clean = values_read(target)
    assert not clean
    assert bad
    assert good


def test_memory_is_limited_in_this_test_too() -> None:
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20, "KiB"

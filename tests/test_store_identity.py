"""Nothing deleted because a file exists, nothing served without an identity: logs beside bad blocks, splices of two recordings, replaced ones."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from tests.test_store_blocks import LAYOUT, holds, moving_rows
from weightlapse.errors import DamagedRecording
from weightlapse.store.offline import compact_recording
from weightlapse.store.reader import Store
from weightlapse.store.writer import Writer

N = 200


def made(path: Path, *, seed: int = 0, compact: str = "never", count: int = N, **options: object) -> np.ndarray:
    rows = moving_rows(LAYOUT, count, seed=seed)
    writer = Writer.create(path, LAYOUT, compact=compact, **options)  # type: ignore[arg-type]
    writer.append(np.arange(count), rows)
    writer.scalars(np.arange(count), ["loss"] * count, np.arange(count) + 1000.0 * seed)
    writer.close()
    return rows


def block_of(tmp: Path, rows_seed: int = 0) -> bytes:
    made(tmp, seed=rows_seed, compact="after")
    return (tmp / "blocks/000000.blk").read_bytes()


def empty(good: bytes) -> bytes:
    return b""


def half(good: bytes) -> bytes:
    return good[: len(good) // 2]


def one_bad_page(good: bytes) -> bytes:
    return good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :]


def zeros(good: bytes) -> bytes:
    return bytes(len(good))


def text(good: bytes) -> bytes:
    return b"not a block at all\n"


@pytest.mark.parametrize("spoil", [empty, half, one_bad_page, zeros, text])
@pytest.mark.parametrize("act", ["read", "compact", "resume"])
def test_a_whole_log_survives_a_bad_block(tmp_path: Path, spoil: Callable[[bytes], bytes], act: str) -> None:
    run = tmp_path / "run"
    rows = made(run)
    whole = tmp_path / "whole"
    shutil.copytree(run, whole)
    compact_recording(whole)  # the block of this very recording
    (run / "blocks").mkdir()
    (run / "blocks/000000.blk").write_bytes(spoil((whole / "blocks/000000.blk").read_bytes()))
    holds(Store.open(run), rows)
    if act == "compact":
        assert compact_recording(run).frames == N
        assert sorted(p.name for p in (run / "log").iterdir()) == []
    elif act == "resume":
        Writer.resume(run, LAYOUT).close()
    holds(Store.open(run), rows)
    if act != "read":
        assert Store.open(run).verify() == []


def test_a_good_block_beside_its_log_replaces_it_and_a_bad_frame_of_the_log_is_read_from_the_block(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    rows = made(run)
    log = (run / "log/000000.seg").read_bytes()
    compact_recording(run)
    bad = bytearray(log)
    bad[len(bad) // 2] ^= 8
    (run / "log/000000.seg").write_bytes(bad)
    holds(Store.open(run), rows)
    (run / "blocks/000000.blk").write_bytes(one_bad_page((run / "blocks/000000.blk").read_bytes()))
    store = Store.open(run)
    good = 0
    for k in range(
        N
    ):  # one copy has lost one frame, the other some tensors of some frames: between them nearly all is there
        try:
            assert store.read("w", slice(k, k + 1)).tobytes() == np.array(LAYOUT.view(rows[k : k + 1], 0)).tobytes()
            good += 1
        except DamagedRecording:
            continue
    assert good >= N - 1
    compact_recording(run)
    assert (run / "log/000000.seg").exists(), "neither is whole: both stay"
    assert (run / "blocks/000000.blk").exists()


def test_a_block_of_equal_layout_from_another_recording_is_damage_that_names_itself(tmp_path: Path) -> None:
    made(tmp_path / "a", compact="after")
    made(tmp_path / "b", seed=5, compact="after")
    other = Store.open(tmp_path / "b").id
    shutil.copy(tmp_path / "b/blocks/000000.blk", tmp_path / "a/blocks/000000.blk")
    store = Store.open(tmp_path / "a")
    with pytest.raises(DamagedRecording, match=other):
        store.read("w", slice(0, 1))
    assert any(other in d.what for d in store.verify())


def test_a_segment_of_another_recording_beside_a_whole_block_changes_nothing(tmp_path: Path) -> None:
    rows = made(tmp_path / "a", compact="after")
    made(tmp_path / "b", seed=5)
    shutil.copy(tmp_path / "b/log/000000.seg", tmp_path / "a/log/000000.seg")
    holds(Store.open(tmp_path / "a"), rows)
    compact_recording(tmp_path / "a")
    holds(Store.open(tmp_path / "a"), rows)
    shutil.copy(tmp_path / "b/log/000000.seg", tmp_path / "a/log/000001.seg")
    store = Store.open(tmp_path / "a")
    holds(store, rows)
    assert "belongs to the recording" in str(store.verify()[0]) or "renamed" in str(store.verify()[0])


def test_records_of_another_recording_do_not_pass_inside_a_file(tmp_path: Path) -> None:
    """Frames, chunks and journal records of equal length, put where this recording has its own."""
    rows = made(tmp_path / "a")
    made(tmp_path / "b", seed=5)
    for name in ("log/000000.seg", "journal.log"):
        mine, other = (bytearray((tmp_path / run / name).read_bytes()) for run in ("a", "b"))
        half_way = len(mine) // 2 // 8 * 8
        mine[half_way:] = other[half_way : len(mine)]
        shutil.copytree(tmp_path / "a", tmp_path / f"mixed-{name[:3]}")
        (tmp_path / f"mixed-{name[:3]}" / name).write_bytes(mine)
    store = Store.open(tmp_path / "mixed-log")
    for k in range(len(store.steps)):
        try:
            value = store.read("w", slice(k, k + 1))
        except DamagedRecording:
            continue
        assert value.tobytes() == np.array(LAYOUT.view(rows[k : k + 1], 0)).tobytes()
    assert store.verify() != []
    loss = Store.open(tmp_path / "mixed-jou").scalars.get("loss", np.array([]))
    assert set(loss[np.isfinite(loss)].tolist()) <= set(range(N))


@pytest.mark.parametrize("change", ["doubled", "left out", "exchanged"])
def test_frames_that_were_moved_within_their_file_do_not_pass(tmp_path: Path, change: str) -> None:
    rows = made(tmp_path / "run", count=40)
    path = tmp_path / "run/log/000000.seg"
    data = path.read_bytes()
    length = 32 + LAYOUT.row_nbytes
    frames = [data[at : at + length] for at in range(len(data) - 40 * length, len(data), length)]
    if change == "doubled":
        frames[10:10] = [frames[10]]
    elif change == "left out":
        del frames[10]
    else:
        frames[10], frames[11] = frames[11], frames[10]
    path.write_bytes(data[: len(data) - 40 * length] + b"".join(frames))
    store = Store.open(tmp_path / "run")
    good = 0
    for k, step in enumerate(store.steps.tolist()):
        try:
            value = store.read("w", slice(k, k + 1))
        except DamagedRecording:
            continue
        assert value.tobytes() == np.array(LAYOUT.view(rows[step : step + 1], 0)).tobytes()
        good += 1
    assert good >= 9
    assert store.verify() != []


def test_chunks_that_were_exchanged_within_a_block_do_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightlapse.store.compact._WORTH_A_BLOCK", 0)
    from weightlapse.store import block
    from weightlapse.store.log import records

    rows = np.repeat(moving_rows(LAYOUT, 2), 96, axis=0)
    rows[:96], rows[96:] = rows[:96] ^ 1, rows[96:] ^ 2
    writer = Writer.create(tmp_path / "run", LAYOUT)
    writer.append(np.arange(192), rows)
    writer.close()
    path = tmp_path / "run/blocks/000000.blk"
    data, seal = bytearray(path.read_bytes()), Store.open(tmp_path / "run").ours.seal
    chunks = [r for r in records(bytes(data), seal=seal) if r.kind == block.CHUNK]
    pairs = [(a, b) for a in chunks for b in chunks if a.start < b.start and len(a.payload) == len(b.payload)]
    assert pairs, "two chunks of equal length"
    a, b = pairs[0]
    data[a.start : a.end], data[b.start : b.end] = data[b.start : b.end], data[a.start : a.end]
    path.write_bytes(data)
    store = Store.open(tmp_path / "run")
    for spec in LAYOUT.tensors:
        for k in range(0, 192, 40):
            try:
                value = store.read(spec.name, slice(k, k + 1))
            except DamagedRecording:
                continue
            assert value.tobytes() == np.array(LAYOUT.view(rows[k : k + 1], LAYOUT.index[spec.name])).tobytes()
    assert store.verify() != []


@pytest.mark.parametrize("what", [b"STEP", b"CHNK"])
def test_records_of_another_segment_at_the_same_offset_do_not_pass(
    tmp_path: Path, what: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both blocks are of this recording, and of equal form; the one that got the other's records has lost its index."""
    monkeypatch.setattr("weightlapse.store.compact._WORTH_A_BLOCK", 0)
    from weightlapse.store.log import records

    monkeypatch.setattr("weightlapse.store.writer.segment_frames", lambda row, tolerance: 32)
    rows = moving_rows(LAYOUT, 64)
    writer = Writer.create(tmp_path / "run", LAYOUT)
    writer.append(np.arange(70, 134), rows)  # whose two halves deflate to one length
    writer.close()
    first, second = (tmp_path / f"run/blocks/{number:06d}.blk" for number in (0, 1))
    seal = Store.open(tmp_path / "run").ours.seal
    mine, other = (list(records(path.read_bytes(), seal=seal)) for path in (second, first))
    at = next(r.start for r in mine if r.kind == what)
    taken = next(r for r in other if r.kind == what)
    assert taken.start == at
    data, end = bytearray(second.read_bytes()), taken.end if what == b"STEP" else None
    data[at:end] = first.read_bytes()[at:end]
    data[data.rindex(b"INDX") + 40] ^= 1
    second.write_bytes(data)
    store = Store.open(tmp_path / "run")
    assert set(store.steps.tolist()) <= {-1, *range(70, 134)}
    assert len(set(store.steps[store.steps >= 0].tolist())) == (store.steps >= 0).sum(), "one step twice"
    read = 0
    for spec in LAYOUT.tensors:
        for k in range(64):
            try:
                value = store.read(spec.name, slice(k, k + 1))
            except DamagedRecording:
                continue
            read += 1
            assert value.tobytes() == np.array(LAYOUT.view(rows[k : k + 1], LAYOUT.index[spec.name])).tobytes()
    assert read >= 32
    assert any(d.file.endswith("000001.blk") for d in store.verify())


@pytest.mark.parametrize("told", ["1e308", "2.5", "1.0000001"])
def test_a_tolerance_that_nobody_gives_compresses_nothing_with_loss(tmp_path: Path, told: str) -> None:
    """Version 1 keeps no copy of the manifest, so that nothing but its own sense speaks against an edited one."""
    shutil.copytree(Path(__file__).parent / "golden/v1/log", tmp_path / "run")
    path = tmp_path / "run/manifest.json"
    run = wl.load(tmp_path / "run")
    true = [{name: run.state(frame=k)[name].tobytes() for name in run.state(frame=k)} for k in range(len(run.steps))]
    path.write_text(re.sub(r'"tolerance": *null', f'"tolerance": {told}', path.read_text()))
    store = Store.open(tmp_path / "run")
    assert store.tolerance is None
    assert any(d.file == "manifest.json" and "tolerance" in str(d) for d in store.verify())
    compact_recording(tmp_path / "run")
    run = wl.load(tmp_path / "run")
    assert true == [{name: value.tobytes() for name, value in run.state(frame=k).items()} for k in range(len(true))]


def test_refresh_after_an_overwrite_says_that_the_recording_was_replaced(tmp_path: Path) -> None:
    a = made(tmp_path / "run", compact="after")
    run = wl.load(tmp_path / "run")
    store = Store.open(tmp_path / "run")
    made(tmp_path / "run", seed=3, overwrite=True)
    with pytest.raises(DamagedRecording, match="replaced by another recording"):
        run.refresh()
    told: list[str] = []
    for k in range(0, N, 50):  # what the old handle gives is of the old recording, or nothing
        try:
            value = store.read("w", slice(k, k + 1))
        except DamagedRecording as error:
            told.append(str(error))
            continue
        assert value.tobytes() == np.array(LAYOUT.view(a[k : k + 1], 0)).tobytes()
    assert all("replaced" in text for text in told)
    assert np.array_equal(wl.load(tmp_path / "run").scalars["loss"], np.arange(N) + 3000.0)
    shutil.rmtree(tmp_path / "run")
    made(tmp_path / "run", seed=4)  # not overwritten: deleted and made anew
    with pytest.raises(DamagedRecording, match="replaced by another recording"):
        store.refresh()


def test_a_manifest_of_another_recording_mixes_nothing(tmp_path: Path) -> None:
    made(tmp_path / "a", compact="after")
    made(tmp_path / "b", seed=5, compact="after")
    shutil.copy(tmp_path / "b/manifest.json", tmp_path / "a/manifest.json")
    with pytest.raises(DamagedRecording):
        Store.open(tmp_path / "a").read("w", slice(0, 1))


def test_a_damaged_manifest_is_read_from_its_copy(tmp_path: Path) -> None:
    rows = made(tmp_path / "run", compact="after")
    path = tmp_path / "run/manifest.json"
    good = path.read_bytes()
    for at in range(0, len(good), 7):
        path.write_bytes(good[:at] + bytes([good[at] ^ 16]) + good[at + 1 :])
        store = Store.open(tmp_path / "run")
        assert str(store.verify()[0]).startswith("manifest.json")
    holds(store, rows)
    for spoiled in (b"", good[:100], bytes(len(good))):
        path.write_bytes(spoiled)
        holds(Store.open(tmp_path / "run"), rows)


def test_an_edited_manifest_does_not_decide(tmp_path: Path) -> None:
    """What it said when the recording was made counts: with another tolerance the log would be compressed with loss."""
    rows = made(tmp_path / "run")
    path = tmp_path / "run/manifest.json"
    for old, new in (
        ('"tolerance": null', '"tolerance": 1e308'),
        ('"meta": {}', '"meta": {"who": "somebody"}'),
        ('"byte_order"', '"journal": "journal-00000000.log", "byte_order"'),
    ):
        good = path.read_text()
        assert old in good
        path.write_text(good.replace(old, new))
        store = Store.open(tmp_path / "run")
        assert store.tolerance is None
        assert store.meta == {}
        assert str(store.verify()[0]).startswith("manifest.json")
        path.write_text(good)
    path.write_text(good.replace('"tolerance": null', '"tolerance": 1e308'))
    compact_recording(tmp_path / "run")
    holds(Store.open(tmp_path / "run"), rows)


@pytest.mark.parametrize("put", [b"", b"hello", b"x" * 4000])
def test_a_journal_that_lost_everything_is_damage(tmp_path: Path, put: bytes) -> None:
    rows = made(tmp_path / "run", compact="after")
    (tmp_path / "run/journal.log").write_bytes(put)
    store = Store.open(tmp_path / "run")
    holds(store, rows)
    assert any(d.file == "journal.log" for d in store.verify())


def test_a_lost_layout_record_is_restored_from_the_segments(tmp_path: Path) -> None:
    """One bit in the only place of the journal that says what the tensors are, for each of two layouts, raw and compressed."""
    from weightlapse.store.layout import Layout, TensorSpec

    other = Layout([TensorSpec("v", "float32", (4,)), TensorSpec("w", "float32", (2, 2))])
    for compact in ("never", "after"):
        run = tmp_path / compact
        rows, more = moving_rows(LAYOUT, 20), moving_rows(other, 20)
        writer = Writer.create(run, LAYOUT, compact=compact)  # type: ignore[arg-type]
        writer.append(np.arange(20), rows)
        writer.relayout(other, "changed")
        writer.append(np.arange(20, 40), more)
        writer.close()
        journal = (run / "journal.log").read_bytes()
        places = [m.start() for m in re.finditer(b"LAYT", journal)]
        assert len(places) == 2
        for lost in ([0], [1], [0, 1]):
            bad = bytearray(journal)
            for k in lost:
                bad[places[k] + 60] ^= 1
            (run / "journal.log").write_bytes(bad)
            store = Store.open(run)
            assert store.verify() != []
            assert [(start, layout.row_nbytes) for start, layout in store.layouts] == [
                (0, LAYOUT.row_nbytes),
                (20, other.row_nbytes),
            ]
            assert store.read_frame(3)["w"].tobytes() == np.array(LAYOUT.view(rows, 0)[3]).tobytes()
            assert store.read_frame(39)["v"].tobytes() == np.array(other.view(more, 0)[19]).tobytes()
            assert wl.load(run).state(frame=0)["w"].shape == LAYOUT.tensors[0].shape
        os.unlink(run / "journal.log")
        store = Store.open(run)
        assert "missing" in str(store.verify()[0])
        assert store.read_frame(39)["v"].tobytes() == np.array(other.view(more, 0)[19]).tobytes()


def test_files_are_removed_in_one_place_only() -> None:
    """``store/remove.py`` lists every removal with its proof: no other module may remove a file."""
    root = Path(wl.__file__).parent
    calls = re.compile(r"\.unlink\(|rmtree\(|os\.(remove|rmdir|unlink)\(|\.rmdir\(|rm_file\(")
    found = [
        f"{path.relative_to(root)}: {line.strip()}"
        for path in sorted(root.rglob("*.py"))
        if path.relative_to(root).as_posix() not in ("store/remove.py", "store/portable.py")
        for line in path.read_text().splitlines()
        if calls.search(line)
    ]
    assert found == []
    assert calls.search("shutil.rmtree(folder)")
    assert calls.search("path.unlink()")

"""Overwriting replaces a recording and nothing else, whenever it is interrupted; locks end when they should; rewinding keeps what it cuts off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from tests.test_store_blocks import LAYOUT, holds, moving_rows
from tests.test_store_identity import made
from weightlapse.errors import CannotRecord, InvalidArgument, NotARecording
from weightlapse.store import place, repair
from weightlapse.store.offline import compact_recording
from weightlapse.store.reader import Store
from weightlapse.store.writer import Writer

USERS = {
    "best.pt": b"weights",
    "ckpt/step_10.pt": b"more",
    "log/notes.txt": b"mine",
    "journal.txt": b"x",
    "log/run.seg": b"?",
    "blocks/a.blk": b"b",
}


def put_users_files(folder: Path) -> None:
    for name, data in USERS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


def users_files_are_there(folder: Path) -> None:
    assert {name: (folder / name).read_bytes() for name in USERS} == USERS


@pytest.mark.parametrize("compact", ["never", "after"])
def test_what_the_user_put_into_the_folder_stays(tmp_path: Path, compact: str) -> None:
    run = tmp_path / "run"
    made(run, compact=compact)
    put_users_files(run)
    before = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    for seed in (1, 2, 3):
        rows = made(run, seed=seed, compact=compact, overwrite=True)
        holds(Store.open(run), rows)
        users_files_are_there(run)
        assert Store.open(run).verify() == []
    after = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert len(after) == len(before), "of the recordings only the last one is left"
    assert Store.open(run).stored_nbytes < sum(p.stat().st_size for p in run.rglob("*") if p.is_file())


STOPS = ["the journal has its name", "the manifest is in place", "some old files are gone"]


@pytest.mark.parametrize("stop", STOPS)
def test_an_overwrite_that_dies_leaves_the_old_recording_or_the_new_one(
    tmp_path: Path, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    old = made(run, compact="after")
    writer = Writer.resume(run, LAYOUT, compact="never")
    writer.append(np.arange(200, 230), moving_rows(LAYOUT, 30, seed=8))
    writer.close()
    old = np.concatenate([old, moving_rows(LAYOUT, 30, seed=8)])
    put_users_files(run)

    class Died(BaseException):
        pass

    def die(*_: object) -> None:
        raise Died

    if stop == STOPS[0]:
        monkeypatch.setattr("weightlapse.store.manifest.write", die)
    elif stop == STOPS[1]:
        monkeypatch.setattr(place.Takeover, "finish", die)
    else:
        real, count = repair.remove_proved, [0]

        def some(path: Path) -> None:
            count[0] += 1
            if count[0] > 1:
                raise Died
            real(path)

        monkeypatch.setattr(repair, "remove_proved", some)
    dying: list[Writer] = []

    def overwrite() -> None:
        dying.append(Writer.create(run, LAYOUT, overwrite=True))
        dying[0].append(np.array([0]), old[:1])

    with pytest.raises(Died):
        overwrite()
    for writer in dying:
        writer._lock.release()
    monkeypatch.undo()
    users_files_are_there(run)
    store = Store.open(run)
    if stop == STOPS[0]:
        holds(store, old)
        assert store.verify() == []
        Writer.resume(run, LAYOUT).close()
        holds(Store.open(run), old)
        assert not list(run.glob("journal-*"))
    else:
        assert len(store.steps) == 1
        assert store.verify() == [], "what is left of the old recording is no damage"
        assert store.leftovers
        writer = Writer.resume(run, LAYOUT)
        writer.append(np.arange(1, 20), old[1:20])
        writer.close()
        store = Store.open(run)
        holds(store, old[:20])
        assert store.leftovers == []
        assert "interrupted overwrite was completed" in store.events[1][1]
        assert sorted(p.name for p in run.glob("journal*.log")) == [store.journal_name]
    users_files_are_there(run)


def test_a_journal_that_looks_like_a_leftover_and_holds_something_stays(tmp_path: Path) -> None:
    """Two manifests were exchanged by hand: the journal that is not named now may be all that is left of a recording."""
    run = tmp_path / "run"
    made(run)
    made(run, seed=1, overwrite=True)
    manifest = json.loads((run / "manifest.json").read_text())
    journal = manifest["journal"]
    del manifest["journal"], manifest["replaced"]
    (run / "manifest.json").write_text(json.dumps(manifest | {"id": "0" * 32}))
    with pytest.raises(wl.WeightlapseError):
        Writer.resume(run, LAYOUT)
    assert (run / journal).exists()


def test_an_overwrite_by_version_1_that_died_is_explained(tmp_path: Path) -> None:
    made(tmp_path / ".run.abc.old")
    with pytest.raises(NotARecording, match=r"\.run\.abc\.old: move it back"):
        wl.load(tmp_path / "run") if (tmp_path / "run").exists() else (tmp_path / "run").mkdir() or wl.load(
            tmp_path / "run"
        )


def test_a_refused_overwrite_changes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    rows = made(run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(InvalidArgument, match="JSON"):
        Writer.create(run, LAYOUT, meta={"x": {1, 2}}, overwrite=True)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    live = Writer.resume(run, LAYOUT)
    with pytest.raises(CannotRecord, match="this process"):
        Writer.create(run, LAYOUT, overwrite=True)
    live.close()
    holds(Store.open(run), rows)


def test_an_overwrite_after_one_that_was_killed_leaves_nothing_of_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    made(run, compact="after")
    monkeypatch.setattr(place.Takeover, "finish", lambda self: None)
    made(run, seed=1, overwrite=True)  # killed before it removed the first one's files
    assert Store.open(run).leftovers
    monkeypatch.undo()
    rows = made(run, seed=2, overwrite=True)
    store = Store.open(run)
    holds(store, rows)
    assert store.verify() == []
    assert store.leftovers == []
    assert len(list(run.glob("journal*.log"))) == 1


def test_an_overwrite_without_a_frame_gives_the_place_back(tmp_path: Path) -> None:
    run = tmp_path / "run"
    rows = made(run)
    put_users_files(run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}
    writer = Writer.create(run, LAYOUT, overwrite=True)
    assert len(Store.open(run).steps) == 0
    writer.close()
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"} == before
    holds(Store.open(run), rows)


@pytest.mark.parametrize("below", ["log", "blocks"])
def test_nothing_is_written_through_a_link_or_onto_a_file(tmp_path: Path, below: str) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    made(run, count=5)
    made(other, count=5)
    (other / below).mkdir(exist_ok=True)
    for put in (lambda p: p.symlink_to(other / below), lambda p: p.write_bytes(b"mine")):
        if (run / below).is_dir() and not (run / below).is_symlink():
            for file in (run / below).iterdir():
                file.unlink()
            (run / below).rmdir()
        elif (run / below).exists():
            (run / below).unlink()
        put(run / below)
        for act in (
            lambda: Writer.resume(run, LAYOUT),
            lambda: compact_recording(run),
            lambda: Writer.create(run, LAYOUT, overwrite=True),
        ):
            with pytest.raises(CannotRecord, match="not a folder of this recording"):
                act()
    holds(Store.open(other), moving_rows(LAYOUT, 5))


KILLED = """
import sys, numpy as np
sys.path.insert(0, sys.argv[2])
from tests.test_store_blocks import LAYOUT, moving_rows
from weightlapse.store.writer import Writer
for seed in range(1, 10_000):
    print(seed, flush=True)
    writer = Writer.create(sys.argv[1], LAYOUT, overwrite=True, meta={"seed": seed}, compact="after" if seed % 2 else "never")
    writer.append(np.arange(20), moving_rows(LAYOUT, 20, seed=seed))
    writer.close()
"""


def test_kill_9_in_the_middle_of_overwrites(tmp_path: Path) -> None:
    run = tmp_path / "run"
    made(run)
    put_users_files(run)
    root = str(Path(__file__).parent.parent)
    for trial in range(8):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(run), root], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(2 + trial):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        store = Store.open(run)
        seed = store.meta.get("seed")
        assert seed is not None
        if len(store.steps):
            holds(store, moving_rows(LAYOUT, 20, seed=seed)[: len(store.steps)])
        assert store.verify() == []
        users_files_are_there(run)


# ---- locks -------------------------------------------------------------------------------------------------------------

FORKED = """
import os, sys, time
import numpy as np
from tests.test_store_blocks import LAYOUT, moving_rows
from weightlapse.store.writer import Writer
writer = Writer.create(sys.argv[1], LAYOUT)
child = os.fork()
if child == 0:
    os.close(1), os.close(2)
    time.sleep(60)  # a data loader's worker that stays
    os._exit(0)
print(child, flush=True)
if sys.argv[2] == "close":
    writer.append(np.arange(3), moving_rows(LAYOUT, 3))
    writer.close()
    Writer.resume(sys.argv[1], LAYOUT).close()
    Writer.create(sys.argv[1], LAYOUT, overwrite=True).close()
    print("went on", flush=True)
else:
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["close", "die"])
def test_a_forked_worker_holds_no_lock(tmp_path: Path, how: str) -> None:
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path / "run"), how],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    worker = int(run.stdout.split()[0])
    try:
        os.kill(worker, 0)
        if how == "close":
            assert "went on" in run.stdout, run.stderr
        Writer.resume(tmp_path / "run", LAYOUT).close()
        Writer.create(tmp_path / "run", LAYOUT, overwrite=True).close()
    finally:
        os.kill(worker, signal.SIGKILL)


# ---- rewinding ---------------------------------------------------------------------------------------------------------


def recorded(run: Path, steps: range, seed: int, **options: object) -> np.ndarray:
    rows = moving_rows(LAYOUT, len(steps), seed=seed)
    writer = Writer.resume(run, LAYOUT, **options) if run.exists() else Writer.create(run, LAYOUT, compact="never")  # type: ignore[arg-type]
    first = writer.frames
    writer.append(np.array(steps), rows)
    writer.scalars(first + np.arange(len(steps)), ["loss"] * len(steps), np.array(steps) + 1000.0 * seed)
    writer.event(steps[-1], f"end of {seed}")
    writer.gap(steps[-1], steps[-1], f"gap of {seed}")
    writer.close()
    return rows


def same_values(store: Store, rows: np.ndarray) -> None:
    for i, spec in enumerate(LAYOUT.tensors):
        assert store.read(spec.name, slice(None)).tobytes() == np.array(LAYOUT.view(rows, i)).tobytes()


@pytest.mark.parametrize("compact", ["never", "after"])
def test_rewinding_keeps_what_follows_as_a_branch(tmp_path: Path, compact: str) -> None:
    run = tmp_path / "run"
    a = recorded(run, range(16), 1)
    b = recorded(run, range(11, 14), 2, rewind_to=10, compact=compact)
    c = recorded(run, range(6, 9), 3, rewind_to=5, compact=compact)
    d = recorded(run, range(9, 12), 4, compact=compact)
    store = Store.open(run)
    assert store.steps.tolist() == [*range(6), *range(6, 9), *range(9, 12)]
    same_values(store, np.concatenate([a[:6], c, d]))
    assert store.scalars["loss"].tolist() == [
        *(1000.0 + s for s in range(6)),
        *(3000.0 + s for s in range(6, 9)),
        *(4000.0 + s for s in range(9, 12)),
    ]
    assert [text for _, text in store.events] == ["end of 3", "end of 4"]
    assert [reason for *_, reason in store.gaps] == ["gap of 3", "gap of 4"]
    assert store.branches == ["after-10", "after-5"]
    first, second = store.on_branch("after-10"), store.on_branch("after-5")
    assert first.steps.tolist() == [11, 12, 13, 14, 15]
    same_values(first, a[11:])
    assert first.scalars["loss"].tolist() == [1011.0, 1012, 1013, 1014, 1015]
    assert [text for _, text in first.events] == ["end of 1"]
    assert second.steps.tolist() == [*range(6, 11), 11, 12, 13]
    same_values(second, np.concatenate([a[6:11], b]))
    assert all(s.verify() == [] for s in (store, first, second))
    again = wl.load(run)
    assert list(again.branches) == ["after-10", "after-5"]
    assert again.branches["after-5"].state(step=13)["w"].tobytes() == np.array(LAYOUT.view(b, 0)[2]).tobytes()
    assert again.state(step=8)["w"].tobytes() == np.array(LAYOUT.view(c, 0)[2]).tobytes()
    compact_recording(run)
    same_values(Store.open(run), np.concatenate([a[:6], c, d]))


def test_rewinding_goes_back_to_the_layout_of_that_time(tmp_path: Path) -> None:
    from weightlapse.store.layout import Layout, TensorSpec

    other = Layout([TensorSpec("w", "float32", (2, 3))])
    run = tmp_path / "run"
    a = recorded(run, range(10), 1)
    writer = Writer.resume(run, other)
    writer.append(np.arange(10, 15), moving_rows(other, 5))
    writer.close()
    b = recorded(run, range(8, 12), 2, rewind_to=7)
    store = Store.open(run)
    assert len(store.layouts) == 1
    same_values(store, np.concatenate([a[:8], b]))
    assert [layout.row_nbytes for _, layout in store.on_branch("after-7").layouts] == [
        LAYOUT.row_nbytes,
        other.row_nbytes,
    ]


def test_a_lost_record_of_a_rewind_is_restored_from_the_segments(tmp_path: Path) -> None:
    for compact in ("never", "after"):
        run = tmp_path / compact
        a = recorded(run, range(16), 1)
        b = recorded(run, range(11, 14), 2, rewind_to=10, compact=compact)
        bad = bytearray((run / "journal.log").read_bytes())
        bad[bad.index(b"FORK") + 40] ^= 1
        (run / "journal.log").write_bytes(bad)
        store = Store.open(run)
        assert store.verify() != []
        assert store.steps.tolist() == [*range(11), *range(11, 14)]
        same_values(store, np.concatenate([a[:11], b]))


def test_rewinding_to_a_step_that_was_not_recorded_keeps_the_frames_before_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    a = recorded(run, range(0, 50, 5), 1)
    b = recorded(run, range(15, 30, 5), 2, rewind_to=12)
    store = Store.open(run)
    assert store.steps.tolist() == [0, 5, 10, 15, 20, 25]
    same_values(store, np.concatenate([a[:3], b]))
    with pytest.raises(InvalidArgument, match="no frame of step -3 or before"):
        Writer.resume(run, LAYOUT, rewind_to=-3)
    Writer.resume(run, LAYOUT, rewind_to=99).close()
    assert Store.open(run).branches == ["after-12"], "nothing lies behind step 99"


def test_a_recording_of_version_1_goes_on_and_can_be_rewound(tmp_path: Path) -> None:
    import shutil

    golden = sorted((Path(__file__).parent / "golden" / "v1").iterdir())
    runs = [p for p in golden if (p / "manifest.json").exists()]
    assert runs
    for k, source in enumerate(runs):
        run = tmp_path / str(k)
        shutil.copytree(source, run)
        before = Store.open(run)
        if before.meta.get("distributed") or len(before.steps) < 4:
            continue
        layout = before.layouts[-1][1]
        last = int(before.steps[-1])
        row = before.read_frame(len(before.steps) - 1)
        writer = Writer.resume(run, layout)
        writer.append(np.array([last + 1]), np.zeros((1, layout.row_nbytes), np.uint8))
        writer.close()
        assert json.loads((run / "manifest.json").read_text())["version"] == 1
        assert Store.open(run).verify() == []
        writer = Writer.resume(run, layout, rewind_to=last)
        writer.append(np.array([last + 5]), np.ones((1, layout.row_nbytes), np.uint8))
        writer.close()
        after = Store.open(run)
        assert after.steps[-2:].tolist() == [last, last + 5]
        assert after.verify() == []
        assert all(v.tobytes() == row[n].tobytes() for n, v in after.read_frame(len(after.steps) - 2).items())
        assert list(after.branches) == [f"after-{last}"]

"""Recordings on other file systems, through fsspec: memory and local files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from tests.framework_presence import require

require("fsspec")

import fsspec  # noqa: E402

from weightlapse.store.layout import Layout, TensorSpec  # noqa: E402
from weightlapse.store.mirror import Mirror  # noqa: E402
from weightlapse.store.writer import Writer  # noqa: E402

FRAMES = [{"w": np.full((3, 4), k, np.float32), "b": np.arange(5) * k} for k in range(300)]


@pytest.fixture
def local(tmp_path: Path) -> Path:
    with wl.watch(FRAMES[0], tmp_path / "run", meta={"who": "test"}) as rec:
        for k, frame in enumerate(FRAMES[1:], 1):
            rec.step(frame, loss=k)
    return tmp_path / "run"


def to_memory(local: Path, name: str) -> str:
    memory = fsspec.filesystem("memory")
    memory.put(f"{local}/", f"/{name}/", recursive=True)
    return f"memory://{name}"


@pytest.mark.parametrize("system", ["memory", "file"])
def test_the_same_as_from_the_disk(local: Path, system: str) -> None:
    url = to_memory(local, "same") if system == "memory" else f"file://{local}"
    here, there = wl.load(local), wl.load(url)
    assert there.steps.tolist() == list(range(300))
    assert there.closed
    assert there.meta["who"] == "test"
    assert np.array_equal(there["w"][:, 1, 2], here["w"][:, 1, 2])
    assert np.array_equal(there["b"][::7], here["b"][::7])
    assert there.scalars["loss"][-1] == 299
    assert there.stored_nbytes == here.stored_nbytes
    assert url in repr(there)
    state = there.state(step=250)
    assert all(np.array_equal(state[n], FRAMES[250][n]) for n in state)


def test_a_recording_that_is_uploaded_while_it_grows(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    rec = wl.watch(FRAMES[0], tmp_path / "run", compact="after")
    rec.flush()
    url = to_memory(tmp_path / "run", "growing")
    run = wl.load(url)
    assert run.frames == 1
    for k in range(1, 6):
        rec.step(FRAMES[k])
    rec.flush()
    for file in (tmp_path / "run").rglob("*"):
        if file.is_file():
            memory.pipe_file(f"/growing/{file.relative_to(tmp_path / 'run')}", file.read_bytes())
    assert run.refresh() == 5
    assert run["w"][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    rec.close()


def test_what_is_not_there(local: Path) -> None:
    with pytest.raises(wl.NotARecording, match="no manifest"):
        wl.load("memory://nothing/here")
    with pytest.raises(wl.NotARecording, match="cannot be opened"):
        wl.load("carrierpigeon://run")
    with pytest.raises(wl.WeightlapseError, match="local folder"):
        wl.watch(FRAMES[0], "memory://somewhere")


def test_a_mirror_gets_blocks_while_recording_and_the_rest_at_the_end(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    mirror = Mirror("memory://mirror-test/deep")
    layout = Layout([TensorSpec("w", "float32", (40, 40))])
    rows = np.random.default_rng(0).normal(size=(9000, 1600)).astype(np.float32).view(np.uint8)
    writer = Writer.create(tmp_path / "run", layout, compact="live")
    for first in range(0, 9000, 500):
        writer.append(np.arange(first, first + 500), rows[first : first + 500])
        mirror.push(tmp_path / "run", all_of_it=False)
        copy = wl.load(
            "memory://mirror-test/deep"
        )  # at every moment a recording, of the frames whose blocks are finished
        assert copy.steps.tolist() == list(range(copy.frames))
        assert not memory.exists("/mirror-test/deep/log")
    writer.close()
    mirror.push(tmp_path / "run", all_of_it=True)
    copy = wl.load("memory://mirror-test/deep")
    assert copy.closed
    assert copy["w"][:].tobytes() == rows.tobytes()
    local = {p.relative_to(tmp_path / "run").as_posix() for p in (tmp_path / "run").rglob("*") if p.is_file()} - {
        "lock"
    }
    assert {name.removeprefix("/mirror-test/deep/") for name in memory.find("/mirror-test/deep")} == local


def test_watch_with_a_mirror(tmp_path: Path) -> None:
    for system in ("memory://watched", f"file://{tmp_path / 'copy'}"):
        with wl.watch(FRAMES[0], tmp_path / "run", mirror=system, overwrite=True) as rec:
            for k, frame in enumerate(FRAMES[1:], 1):
                rec.step(frame, loss=k)
        here, there = wl.load(tmp_path / "run"), wl.load(system)
        assert there.closed
        assert all(np.array_equal(here[name][:], there[name][:]) for name in here.names)
        with pytest.raises(wl.InvalidArgument, match="already holds a recording"):
            wl.watch(FRAMES[0], tmp_path / "new", mirror=system)
        assert not (tmp_path / "new").exists()


def test_a_mirror_that_fails_leaves_the_recording_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rec = wl.watch(FRAMES[0], tmp_path / "run", mirror="memory://failing")

    def broken(self: Mirror, name: str, data: bytes) -> None:
        raise PermissionError("planted")

    monkeypatch.setattr(Mirror, "_put", broken)
    for frame in FRAMES[1:]:
        rec.step(frame)
    with pytest.warns(UserWarning, match="planted; the recording itself is whole"):
        rec.close()
    assert wl.load(tmp_path / "run").frames == 300
    assert wl.load(tmp_path / "run").closed

"""Recordings on other file systems, through fsspec: memory and local files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from tests.framework_presence import require

require("fsspec")

import fsspec  # noqa: E402

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

"""The folder of a recorder that is still open is removed, moved, or made anew by another recorder: no two recordings are mixed, and it is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl

GONE = r"removed, moved or made anew while it was being recorded to"


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTLAPSE_STRICT", raising=False)


def started(path: Path, steps: int = 5) -> tuple[wl.Recorder, dict[str, np.ndarray]]:
    values = {"w": np.zeros(8)}
    rec = wl.watch(values, path)
    assert isinstance(rec, wl.Recorder)
    for _ in range(steps):
        values["w"] += 1
        rec.step()
    rec.flush()
    return rec, values


def goes_on(old: wl.Recorder, values: dict[str, np.ndarray]) -> None:
    values["w"] += 1
    old.step()
    old.flush()


def grows(old: wl.Recorder, values: dict[str, np.ndarray]) -> None:
    old.step({"w": np.zeros(9)})  # another layout: a new segment
    old.flush()


LATER: dict[str, Callable[[wl.Recorder, dict[str, np.ndarray]], None]] = {
    "goes on": goes_on,
    "grows": grows,
    "is closed": lambda old, values: old.close(),
}


@pytest.mark.parametrize("what", LATER)
def test_a_recording_made_anew_is_left_alone_by_the_old_recorder(tmp_path: Path, what: str) -> None:
    path = tmp_path / "run"
    old, values = started(path)
    shutil.rmtree(path)
    model = nn.Linear(3, 3)
    seen = [model.weight.detach().clone().numpy()]
    rec = wl.watch(model, path)
    for k in range(30):
        with torch.no_grad():
            model.weight += 1
        rec.step(loss=float(k))
        seen.append(model.weight.detach().clone().numpy())
        if k == 10:
            with pytest.warns(wl.RecordingStopped, match=GONE):
                LATER[what](old, values)
        if k == 20:  # a new segment, whose number the old recorder might have taken
            model.bias = nn.Parameter(torch.zeros(2))
    rec.close()
    old.close()
    assert rec.stopped is None
    run = wl.load(path)
    assert run.steps.tolist() == list(range(31))
    assert all(np.array_equal(run.state(frame=k)["weight"], w) for k, w in enumerate(seen))
    assert run.scalars["loss"][1:].tolist() == list(range(30))
    files = sorted(file.name for below in ("log", "blocks") for file in (path / below).iterdir())
    assert len(files) == 2  # of the two layouts


@pytest.mark.parametrize("what", LATER)
def test_a_folder_that_is_removed_ends_the_recording_and_not_the_training(tmp_path: Path, what: str) -> None:
    old, values = started(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.warns(wl.RecordingStopped, match=GONE):
        LATER[what](old, values)
    old.step()
    old.close()
    assert old.stopped is not None
    assert not (tmp_path / "run").exists()


def test_what_was_recorded_before_a_folder_was_moved_is_there(tmp_path: Path) -> None:
    old, values = started(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.warns(wl.RecordingStopped, match=GONE):
        goes_on(old, values)
    run = wl.load(tmp_path / "moved")
    assert run["w"][:6, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_reached_by_another_way_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    rec, values = started(tmp_path / "link" / "run")
    goes_on(rec, values)
    rec.close()
    assert rec.stopped is None
    assert wl.load(tmp_path / "real" / "run").frames == 7

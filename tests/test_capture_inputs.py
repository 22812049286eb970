"""What watch() refuses: one clear sentence each, nothing overwritten, nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl

MODEL = nn.Linear(3, 2)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.LazyLinear(4)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "every=0": (MODEL, {"every": 0}, "every=0"),
    "every=-3": (MODEL, {"every": -3}, "every=-3"),
    "every=2.5": (MODEL, {"every": 2.5}, "every=2.5"),
    "every=True": (MODEL, {"every": True}, "every=True"),
    "every=[]": (MODEL, {"every": []}, "no step"),
    "tolerance<0": (MODEL, {"tolerance": -1e-3}, "tolerance=-0.001"),
    "tolerance=0": (MODEL, {"tolerance": 0}, "tolerance=0"),
    "tolerance=2.0": (MODEL, {"tolerance": 2.0}, "at most 1"),
    "tolerance=nan": (MODEL, {"tolerance": float("nan")}, "tolerance=nan"),
    "tolerance=word": (MODEL, {"tolerance": "movie"}, "'film'"),
    "glob": (MODEL, {"tensors": "wieght"}, "matches none of the model's 2 tensors; nearest: 'weight'"),
    "one of the globs": (MODEL, {"tensors": ["weight", "fc9.*"]}, "'fc9.*' matches none"),
    "no globs": (MODEL, {"tensors": []}, "nothing"),
    "stream": (MODEL, {"streams": ["wieghts"]}, "no stream 'wieghts'"),
    "no buffers": (MODEL, {"streams": ["buffers"]}, "nothing in them"),
    "no parameters": (nn.ReLU(), {}, "has no parameters"),
    "empty mapping": ({}, {}, "no array to record"),
    "no model": (3, {}, "int cannot be watched"),
    "optimizer": (MODEL, {"optimizer": "adam"}, "optimizer=str"),
    "optimizer of a mapping": (
        {"w": np.ones(2)},
        {"optimizer": torch.optim.SGD(MODEL.parameters(), 1)},
        "for torch modules",
    ),
    "memory": (MODEL, {"memory": "lots"}, "memory='lots'"),
    "too little memory": (nn.Linear(1000, 1000), {"memory": "1MB"}, "at least two frames must fit; pass memory="),
    "backpressure": (MODEL, {"backpressure": "pray"}, "backpressure='pray'"),
    "overwrite and resume": (MODEL, {"overwrite": True, "resume": True}, "choose one"),
    "meta": (MODEL, {"meta": {"x": object()}}, "meta cannot be written as JSON"),
    "lazy layer": (Lazy(), {}, "run one batch"),
    "meta device": (nn.Linear(2, 2, device="meta"), {}, "meta device"),
    "text": ({"w": np.array(["a"])}, {}, "only numbers"),
    "sparse": ({"w": torch.zeros(2, 2).to_sparse()}, {}, "only dense"),
    "no pattern": (MODEL, {"tensors": ["*", "!"]}, "leaves tensors out"),
    "nothing left": (MODEL, {"tensors": ["*", "!weight", "!bias"]}, "leaves none of the model's 2 tensors"),
    "nothing of that name to leave out": (
        MODEL,
        {"tensors": ["*", "!wieght"]},
        "'wieght' matches none of the model's 2 tensors; nearest: 'weight'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why_and_leave_nothing(tmp_path: Path, case: str) -> None:
    model, arguments, said = REFUSED[case]
    with pytest.raises(wl.WeightlapseError) as caught:
        wl.watch(model, tmp_path / "deep" / "below" / "run", **arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_recording_is_kept_unless_told(tmp_path: Path) -> None:
    with wl.watch(MODEL, tmp_path / "run", meta={"first": True}):
        pass
    with pytest.raises(wl.InvalidArgument, match="already holds a recording"):
        wl.watch(MODEL, tmp_path / "run")
    assert wl.load(tmp_path / "run").meta["first"] is True
    with wl.watch(MODEL, tmp_path / "run", overwrite=True):
        pass
    assert "first" not in wl.load(tmp_path / "run").meta
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_recording_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    folder, file = tmp_path / "thesis", tmp_path / "notes.txt"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("precious")
    (folder / "manifest.json").write_text('{"name": "a web app"}')
    file.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(folder)
    for target in (folder, file, link):
        with pytest.raises(wl.InvalidArgument, match="is not a recording: it is left alone"):
            wl.watch(MODEL, target, overwrite=overwrite)
    with pytest.raises(wl.WeightlapseError):
        wl.watch(MODEL, file / "below", overwrite=overwrite)
    assert (folder / "chapter1.tex").read_text() == file.read_text() == "precious"
    assert len(list(folder.iterdir())) == 2


def test_a_refused_overwrite_keeps_the_old_recording(tmp_path: Path) -> None:
    with wl.watch(MODEL, tmp_path / "run"):
        pass
    for arguments in ({"tensors": "nothing*"}, {"every": 0}, {"meta": {"x": object()}}):
        with pytest.raises(wl.InvalidArgument):
            wl.watch(MODEL, tmp_path / "run", overwrite=True, **arguments)
    assert wl.load(tmp_path / "run").frames == 1


def test_an_empty_folder_may_be_recorded_into(tmp_path: Path) -> None:
    with wl.watch(MODEL, tmp_path):
        pass
    assert wl.load(tmp_path).frames == 1


def test_the_same_path_watched_anew_closes_the_recorder_before(tmp_path: Path) -> None:
    """A notebook cell that is run twice; another process is refused (tests/test_store_log.py)."""
    first = wl.watch(MODEL, tmp_path / "run")
    with pytest.raises(wl.InvalidArgument, match="already holds a recording"):
        wl.watch(MODEL, tmp_path / "run")
    first.step()
    second = wl.watch(MODEL, tmp_path / "run", resume=True)
    assert not first.active
    assert second.frames == 2
    first.step()  # closed: nothing happens
    second.step()
    third = wl.watch(MODEL, tmp_path / "run", overwrite=True)
    assert not second.active
    third.close()
    assert wl.load(tmp_path / "run").frames == 1


def test_memory_may_be_said_in_words(tmp_path: Path) -> None:
    for k, memory in enumerate((4096, "4KB", "4 KiB", "0.5mb", "1e3", np.int64(4096))):
        with wl.watch(MODEL, tmp_path / f"run{k}", memory=memory) as rec:
            rec.step()
        assert wl.load(tmp_path / f"run{k}").frames == 2


def test_what_is_no_recording_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, said in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path, "has no manifest.json"),
        (tmp_path / "file", "is a file"),
    ):
        with pytest.raises(wl.NotARecording, match=said):
            wl.load(path)

"""Arguments that cannot be meant are refused at the call, in one sentence with the nearest name, and leave nothing behind."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import enum
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.nets_capture import mlp
from weightlapse.cli import main

MODEL = mlp()
SGD = torch.optim.SGD(MODEL.parameters(), 0.1)


class Slotted:
    __slots__ = ("optimizer",)

    def step(self) -> None: ...


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "typo": (MODEL, {"optimiser": SGD}, "watch() has no argument 'optimiser'; nearest: 'optimizer'"),
    "another typo": (MODEL, {"evry": 10}, "no argument 'evry'; nearest: 'every'"),
    "a third": (MODEL, {"overwite": True}, "nearest: 'overwrite'"),
    "class of an optimizer": (MODEL, {"optimizer": torch.optim.Adam}, "optimizer=Adam: this is the class; give the object that your loop steps"),
    "class of a model": (nn.Linear, {}, "model=Linear: this is the class; give an instance"),
    "class of a schedule": (MODEL, {"every": wl.every}, "every=every: this is the class; call it"),
    "scheduler": (MODEL, {"optimizer": torch.optim.lr_scheduler.StepLR(SGD, 1)}, "give the optimizer that it schedules"),
    "plateau": (MODEL, {"optimizer": torch.optim.lr_scheduler.ReduceLROnPlateau(SGD)}, "give the optimizer that it schedules"),
    "scaler": (MODEL, {"optimizer": torch.amp.GradScaler("cpu")}, "a scaler is not what holds the parameters"),
    "parameters": (MODEL, {"optimizer": MODEL.parameters()}, "it has no step()"),
    "a name": (MODEL, {"optimizer": "adam"}, "optimizer=str: it has no step()"),
    "slots": (MODEL, {"optimizer": Slotted()}, "nothing can be set on it"),
    "empty name": ({"": np.zeros(3)}, {}, "the name '' of a tensor of shape [3] is empty"),
    "empty name within": ({"a": {"": np.zeros(2)}, "": {"": np.ones(1)}}, {}, "is empty"),
    "zero byte": ({"a\0b": np.zeros(3)}, {}, "holds a zero byte"),
    "long name": ({"a" * 5000: np.zeros(3)}, {}, "has 5000 characters"),
    "wiring": (MODEL, {"wiring": "nonsense {"}, "wiring='nonsense {' cannot be read: line 1"),
    "wiring of a number": (MODEL, {"wiring": 5}, "give a weightlapse.Wiring or its text"),
    "wiring with a hole": (MODEL, {"wiring": "weightlapse wiring 1\ngroup x: y"}, "cannot be read"),
    "meta": (MODEL, {"meta": {"a": [1, object()]}}, "meta['a'][1] is a object"),
    "meta of data": (MODEL, {"meta": {"x": np.zeros(20_000)}}, "meta['x'] is an array of 20000 float64"),
    "meta of a function": (MODEL, {"meta": {"f": {"g": print}}}, "meta['f']['g'] is a builtin_function_or_method"),
    "meta of a number": (MODEL, {"meta": 3}, "meta=3: give facts by name"),
    "meta of a list": (MODEL, {"meta": [("a", 1)]}, "give facts by name"),
    "mirror": (MODEL, {"mirror": 3}, "mirror=3: give an fsspec URL"),
    "empty wiring": (MODEL, {"wiring": " \n"}, "the text is empty"),
    "overwrite": (MODEL, {"overwrite": "no"}, "overwrite='no': give True or False"),
    "resume": (MODEL, {"resume": 5}, "resume=5: give True or False"),
    "no path": (MODEL, {"path": ""}, "name the folder of the recording"),
    "path of a number": (MODEL, {"path": 3}, "the folder of the recording is a path"),
    "compact": (MODEL, {"compact": "liv"}, "choose one of 'auto', 'live', 'after', 'never'; nearest: 'live'"),
    "fsync": (MODEL, {"fsync": "always"}, "choose one of 'close', 'flush', 'never'"),
    "streams": (MODEL, {"streams": ("weight",)}, "nearest: 'weights'"),
    "streams of a number": (MODEL, {"streams": 5}, "streams=5"),
    "tensors of a number": (MODEL, {"tensors": 5}, "tensors=5"),
    "tensors": (MODEL, {"tensors": "0.wieght"}, "nearest: '0.weight'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    model, arguments, said = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    path = arguments.get("path", tmp_path / "deep" / "run")
    with pytest.raises(wl.InvalidArgument) as caught:
        wl.watch(model, path, **{k: v for k, v in arguments.items() if k != "path"})
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_argument_is_a_type_error_too(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="nearest: 'optimizer'"):
        wl.watch(MODEL, tmp_path / "run", optimiser=SGD)


def test_swapped(tmp_path: Path) -> None:
    for first, second in (("run", MODEL), (tmp_path / "run", MODEL), ("run", {"w": np.zeros(3)})):
        with pytest.raises(wl.InvalidArgument, match="the model comes first and then the path"):
            wl.watch(first, second)  # type: ignore[arg-type]


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Config:
    lr: Any
    path: Path


def test_facts_of_any_library(tmp_path: Path) -> None:
    meta = {
        "lr": np.float32(0.5),
        "layers": (np.int64(3), torch.tensor(4)),
        "flag": np.bool_(True),
        "where": tmp_path,
        "mean": torch.tensor([1.0, 2.0], requires_grad=True),
        "half": torch.tensor(0.25, dtype=torch.bfloat16),
        "dtype": torch.float32,
        "kind": np.dtype("float32"),
        "device": torch.device("cpu"),
        "day": datetime.date(2024, 5, 1),
        "colour": Colour.RED,
        "config": Config(np.float64(1e-3), Path("x")),
        "args": argparse.Namespace(batch=np.int32(8)),
        "names": {"b", "a"},
        1: None,
    }
    with wl.watch({"w": np.zeros(3)}, tmp_path / "run", meta=meta):
        pass
    told = wl.load(tmp_path / "run").meta
    assert {k: told[k] for k in ("lr", "layers", "flag", "where", "mean", "half", "dtype", "kind", "device")} == {
        "lr": 0.5, "layers": [3, 4], "flag": True, "where": str(tmp_path), "mean": [1.0, 2.0], "half": 0.25, "dtype": "torch.float32",
        "kind": "float32", "device": "cpu",
    }  # fmt: skip
    assert told["day"] == "2024-05-01"
    assert told["colour"] == "red"
    assert told["config"] == {"lr": 1e-3, "path": "x"}
    assert told["args"] == {"batch": 8}
    assert told["names"] == ["a", "b"]
    assert told["1"] is None


@pytest.mark.parametrize("every", [np.int64(2), np.int32(2), 2])
def test_whole_numbers_of_any_library(tmp_path: Path, every: Any) -> None:
    with wl.watch({"w": np.zeros(3)}, tmp_path / "run", every=every, first_step=np.int64(3)) as rec:
        for k in range(4):
            rec.step({"w": np.full(3, k + 1.0)})
    assert wl.load(tmp_path / "run").steps.tolist() == [3, 4, 6]


def test_the_path_of_a_recorder_stays_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    rec = wl.watch({"w": np.zeros(3)}, "runs/a")
    monkeypatch.setenv("WEIGHTLAPSE_MODE", "off")
    off = wl.watch({"w": np.zeros(3)}, Path("runs/b"))
    monkeypatch.delenv("WEIGHTLAPSE_MODE")
    monkeypatch.chdir(tmp_path / "elsewhere")
    rec.close()
    assert wl.load(rec.path).frames == 1
    assert rec.path == tmp_path / "runs" / "a"
    assert off.path == tmp_path / "runs" / "b"


def test_what_load_was_probably_meant_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        wl.watch({"w": np.zeros(3)}, f"runs/{name}").close()
    for path, said in (
        ("runs/*", r"a pattern that matches runs/first, runs/second: load\(\) opens one"),
        ("runs/none*", "a pattern, and matches no recording"),
        ("runs", "it holds the recordings runs/first, runs/second: give the path of one"),
        ("runs/secnd", "does not exist.*beside it there are recordings, nearest: 'second'"),
    ):
        with pytest.raises(wl.NotARecording, match=said):
            wl.load(path)
    with pytest.raises(wl.InvalidArgument, match="such as recorder"):
        wl.load(MODEL)  # type: ignore[arg-type]
    with pytest.raises(wl.InvalidArgument, match="the path is empty"):
        wl.load("")
    assert wl.load("runs/first").frames == 1


@pytest.mark.parametrize(
    "verb, near", [("fiml", "'film'"), ("dokter", "'doctor'"), ("inof", "'info'"), ("views", "'view'")]
)
def test_verbs(capsys: pytest.CaptureFixture[str], verb: str, near: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "run"])
    assert stopped.value.code == 2
    assert f"there is no verb {verb!r}; nearest: {near}" in capsys.readouterr().err


def test_names_of_the_package() -> None:
    with pytest.raises(AttributeError, match="Did you mean 'watch'"):
        wl.wacth
    assert not hasattr(wl, "zzzzzzz")


@pytest.mark.parametrize("module", ["lightning", "transformers", "skorch", "keras"])
def test_callbacks_refuse_unknown_keywords_when_they_are_made(module: str) -> None:
    pytest.importorskip(module)
    import importlib

    os.environ.setdefault("KERAS_BACKEND", "torch")
    callback = importlib.import_module(f"weightlapse.adapters.{module}").WatchCallback
    with pytest.raises(wl.InvalidArgument, match="WatchCallback has no argument 'stream'; nearest: 'streams'"):
        callback("run", stream=("weights",))
    assert callback("run", streams=("weights",), every=3).path == "run"

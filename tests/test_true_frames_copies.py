"""A recorder that is copied, pickled, forked or spawned: the copy records nothing, says so once, and what holds it works as before."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.nets_capture import check, clone, mlp
from tests.scripts import run_script
from tests.test_true_frames_updates import backward, said


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTLAPSE_STRICT", raising=False)
    torch.manual_seed(0)


WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),  # noqa: S301 — our own
    "in a dict": lambda thing: copy.deepcopy({"a": [thing]})["a"][0],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_records_nothing_and_says_so(tmp_path: Path, way: str) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    by_hand = [clone(model)]
    rec = wl.watch(model, tmp_path / "run", optimizer=optimizer)
    other = WAYS[way](rec)
    with said() as texts:
        for k in range(3):
            backward(model)
            optimizer.step()
            by_hand.append(clone(model))
            other.step(loss=k)
            other.log(loss=k)
        with other:
            other.mark("x")
            other.flush()
        rec.close()
    assert len(texts) == 1
    assert "this is a copy of a recorder, and only the one that watch() returned records" in texts[0]
    assert not other.active
    assert other.path == rec.path
    check(tmp_path / "run", by_hand)


class Trainer:
    """A trainer as people write them: everything in one object."""

    def __init__(self, path: Path) -> None:
        self.model = mlp()
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-2)
        self.rec = wl.watch(self.model, path, optimizer=self.optimizer)

    def step(self) -> None:
        backward(self.model)
        self.optimizer.step()


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_trainer_that_holds_its_recorder(tmp_path: Path, way: str) -> None:
    trainer = Trainer(tmp_path / "run")
    by_hand = [clone(trainer.model)]
    trainer.step()
    by_hand.append(clone(trainer.model))
    with said() as texts:
        other = WAYS[way](trainer)
        before = clone(other.model)
        other.step()
        assert not np.array_equal(before["0.weight"], clone(other.model)["0.weight"])
        trainer.step()
        by_hand.append(clone(trainer.model))
        trainer.rec.close()
    assert texts == []  # the copy's recorder was asked for nothing
    check(tmp_path / "run", by_hand)


def test_a_closed_recorder_can_be_copied_too(tmp_path: Path) -> None:
    rec = wl.watch({"w": np.zeros(3)}, tmp_path / "run")
    rec.close()
    assert not copy.deepcopy(rec).active


def test_skorch(tmp_path: Path) -> None:
    skorch = pytest.importorskip("skorch")
    sklearn_base = pytest.importorskip("sklearn.base")
    from weightlapse.adapters.skorch import WatchCallback

    x, y = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32), np.arange(32) % 3
    net = skorch.NeuralNetClassifier(
        nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3), nn.Softmax(-1)),
        max_epochs=2, batch_size=8, verbose=0, train_split=None, callbacks=[WatchCallback(tmp_path / "run", every=2)],
    )  # fmt: skip
    fresh = sklearn_base.clone(net)  # before it is fitted: it would record, with all its keywords
    assert fresh.callbacks[0].get_params() == {"path": tmp_path / "run", "every": 2}
    net.fit(x, y)
    assert wl.load(tmp_path / "run").steps.tolist() == [0, 2, 4, 6, 8]
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net), sklearn_base.clone(net)):  # noqa: S301 — our own
        with said() as texts:
            other.fit(x, y)
        assert len(texts) == 1
        assert "this is a copy of a recorder" in texts[0]
        assert other.predict(x).shape == (32,)
    assert wl.load(tmp_path / "run").frames == 5


FORKS = """
import multiprocessing, os, sys, warnings
import torch, weightlapse as wl
from torch import nn
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
how = sys.argv[2]

def train(rec, steps=300):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(steps):
            model(torch.ones(3, 4)).sum().backward()
            optimizer.step()
            rec.log(loss=k)
            if how == "by hand":
                rec.step()
        rec.flush()
        rec.close()
    print(*(str(w.message) for w in caught), sep="\\n")
    sys.stdout.flush()

if __name__ == "__main__":
    rec = wl.watch(model, sys.argv[1], optimizer=None if how == "by hand" else optimizer)
    if how == "spawn":
        process = multiprocessing.get_context("spawn").Process(target=train, args=(rec, 3))
    else:
        process = multiprocessing.get_context("fork").Process(target=train, args=(rec,))
    process.start()
    process.join()
    print("exit code", process.exitcode, "parent active", rec.active)
    rec.close()
"""


@pytest.mark.parametrize("how", ["fork", "by hand", "spawn"])
def test_trained_in_another_process(tmp_path: Path, how: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(FORKS, encoding="utf-8")
    words = str(tmp_path / "run"), how
    done = run_script(program, tmp_path, *words, seconds=100, WEIGHTLAPSE_STRICT="0", PYTHONWARNINGS="ignore")
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 2, done.stdout + done.stderr
    if how == "spawn":
        assert "this is a copy of a recorder" in lines[0]
    else:
        assert "this is its forked child" in lines[0]
        assert "nothing that is trained here is recorded" in lines[0]
    assert lines[1] == "exit code 0 parent active True"
    run = wl.load(tmp_path / "run")
    assert run.frames == 1
    assert run.closed


WORKERS = """
import os, sys, torch, weightlapse as wl
from torch import nn
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
data = torch.utils.data.DataLoader(torch.ones(20, 4), batch_size=4, num_workers=2, persistent_workers=True, multiprocessing_context="fork")
for run in range(2):
    rec = wl.watch(model, sys.argv[1], optimizer=optimizer, overwrite=True)
    for batch in data:
        model(batch).sum().backward()
        optimizer.step()
    rec.close()
print(wl.load(sys.argv[1]).frames)
"""


def test_workers_that_were_forked_hold_nothing(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(WORKERS, encoding="utf-8")
    done = run_script(program, tmp_path, str(tmp_path / "run"), seconds=100)
    assert done.stdout.strip() == "6", done.stderr[-2000:]


def test_a_recorder_lost_in_a_cycle_is_closed_without_waiting(tmp_path: Path) -> None:
    import gc

    def train() -> Any:
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        wl.watch(model, tmp_path / "run", optimizer=optimizer)
        by_hand = [clone(model)]
        for _ in range(4):
            backward(model)
            optimizer.step()
            by_hand.append(clone(model))
        return by_hand

    by_hand = train()
    gc.collect()
    rec = wl.watch({"w": np.zeros(1)}, tmp_path / "run", resume=True)  # waits until the one before is closed
    assert rec.frames == 5
    rec.close()
    assert np.array_equal(wl.load(tmp_path / "run").state(frame=4)["0.weight"], by_hand[4]["0.weight"])

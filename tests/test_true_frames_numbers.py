"""Steps bear the trainer's numbers: resumed recordings continue or rewind, and what does neither is refused."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import weightlapse as wl
from tests.nets_capture import clone, mlp
from tests.test_true_frames_updates import said
from weightlapse.view.manifest import additions
from weightlapse.view.serve import open_subjects
from weightlapse.view.subject import Subject


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTLAPSE_STRICT", raising=False)


class Run:
    """A training that keeps checkpoints, crashes, and goes on; ``states`` is what it was at each step, by hand."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = mlp()
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-2)
        self.step = 0
        self.states = {0: clone(self.model)}
        self.checkpoints: dict[int, Any] = {}

    def train(self, steps: int, salt: int = 0) -> None:
        for _ in range(steps):
            self.checkpoints[self.step] = (
                {k: v.clone() for k, v in self.model.state_dict().items()},
                copy.deepcopy(self.optimizer.state_dict()),
            )
            generator = torch.Generator().manual_seed(1000 * salt + self.step)
            self.optimizer.zero_grad()
            self.model(torch.randn(5, 6, generator=generator)).pow(2).mean().backward()
            self.optimizer.step()
            self.step += 1
            self.states[self.step] = clone(self.model)

    def restored(self, step: int) -> Run:
        """The same in a new process: another model and optimizer, from the checkpoint of ``step``."""
        other = Run()
        weights, state = self.checkpoints[step]
        other.model.load_state_dict(weights)
        other.optimizer.load_state_dict(copy.deepcopy(state))
        other.step = step
        other.states = {k: v for k, v in self.states.items() if k <= step}
        return other


def check(run: wl.Recording, states: dict[int, dict[str, np.ndarray]], steps: list[int]) -> None:
    assert run.steps.tolist() == steps
    for step in steps:
        got = run.state(step=step)
        assert all(got[name].tobytes() == values.tobytes() for name, values in states[step].items()), step


@pytest.mark.parametrize(
    "at", [{"resume_at": 10}, {"first_step": 10}, {"resume_at": np.int64(10)}, {"resume_at": "weights"}]
)
@pytest.mark.parametrize("salt", [0, 1])
def test_an_older_checkpoint_rewinds(tmp_path: Path, at: dict[str, Any], salt: int) -> None:
    first = Run()
    with said() as texts:
        rec = wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer)
        first.train(15)
        rec.log(loss=15.0)
        rec.close()
        second = first.restored(10)
        rec = wl.watch(second.model, tmp_path / "run", optimizer=second.optimizer, resume=True, **at)
        assert rec.last_step == 10
        assert rec.frames == 11
        second.train(7, salt)
        rec.log(loss=17.0)
        rec.close()
    assert texts == []
    run = wl.load(tmp_path / "run")
    check(run, second.states, list(range(18)))
    assert run.scalars["loss"][-1] == 17
    assert np.isnan(run.scalars["loss"][:-1]).all()
    (name,) = run.branches
    branch = run.branches[name]
    check(branch, first.states, list(range(11, 16)))
    assert branch.scalars["loss"][-1] == 15


def test_resuming_without_a_number_goes_on_after_the_last_step(tmp_path: Path) -> None:
    first = Run()
    with said() as texts:
        with wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer):
            first.train(5)
        with wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer, resume=True):
            first.train(5)
    assert texts == []
    run = wl.load(tmp_path / "run")
    check(run, first.states, list(range(11)))
    assert run.branches == {}


def test_resuming_after_the_last_step_with_an_older_checkpoint_is_said(tmp_path: Path) -> None:
    first = Run()
    with wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer):
        first.train(15)
    second = first.restored(10)
    with said() as texts:
        rec = wl.watch(second.model, tmp_path / "run", optimizer=second.optimizer, resume=True)
        rec.close()
    assert len(texts) == 1
    assert "the weights are those of step 10, and the recording goes on after step 15: pass resume_at=10" in texts[0]
    assert any(f.kind == "resumed_elsewhere" for f in wl.diagnose(wl.load(tmp_path / "run")))


@pytest.mark.parametrize("every", [4, 5, wl.at([3, 10, 11, 16])])
def test_rewinding_with_a_schedule_adds_no_frame(tmp_path: Path, every: Any) -> None:
    whole, first = Run(), Run()
    with wl.watch(whole.model, tmp_path / "whole", optimizer=whole.optimizer, every=every):
        whole.train(20)
    with wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer, every=every):
        first.train(14)
    second = first.restored(9)
    with wl.watch(second.model, tmp_path / "run", optimizer=second.optimizer, every=every, resume=True, resume_at=9):
        second.train(11)
    check(wl.load(tmp_path / "run"), whole.states, wl.load(tmp_path / "whole").steps.tolist())


def test_going_on_after_steps_that_the_schedule_leaves_out(tmp_path: Path) -> None:
    first = Run()
    with wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer, every=10):
        first.train(17)
    second = first.restored(16)
    with wl.watch(second.model, tmp_path / "run", optimizer=second.optimizer, every=10, resume=True, resume_at=16):
        second.train(5)
    check(wl.load(tmp_path / "run"), second.states, [0, 10, 20])


def test_rewinding_twice(tmp_path: Path) -> None:
    first = Run()
    with wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer):
        first.train(9)
    second = first.restored(6)
    with wl.watch(second.model, tmp_path / "run", optimizer=second.optimizer, resume=True, resume_at=6):
        second.train(6, 1)
    third = second.restored(8)
    with wl.watch(third.model, tmp_path / "run", optimizer=third.optimizer, resume=True, resume_at=8):
        third.train(2, 2)
    run = wl.load(tmp_path / "run")
    check(run, third.states, list(range(11)))
    ends = sorted(branch.steps[-1] for branch in run.branches.values())
    assert ends == [9, 12]
    for branch in run.branches.values():
        check(branch, first.states if branch.steps[-1] == 9 else second.states, branch.steps.tolist())


def test_other_weights_at_the_number_are_taken_anew(tmp_path: Path) -> None:
    first = Run()
    with wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer):
        first.train(8)
    second = first.restored(3)
    with (
        said() as texts,
        wl.watch(second.model, tmp_path / "run", optimizer=second.optimizer, resume=True, resume_at=6),
    ):
        pass
    assert "the weights are not those that were recorded at step 6: its frame was taken anew" in texts[0]
    run = wl.load(tmp_path / "run")
    check(run, {**first.states, 6: first.states[3]}, list(range(7)))


def test_a_new_folder_begins_at_the_number(tmp_path: Path) -> None:
    for k, arguments in enumerate(({"first_step": 10}, {"resume": True, "resume_at": 10})):
        first = Run()
        first.train(12)
        second = first.restored(10)
        with wl.watch(second.model, tmp_path / f"run{k}", optimizer=second.optimizer, **arguments):
            second.train(3)
        check(wl.load(tmp_path / f"run{k}"), second.states, [10, 11, 12, 13])


REFUSED = {
    "beyond": ({"resume": True, "resume_at": 99}, "neither continues nor rewinds"),
    "beyond, by first_step": ({"resume": True, "first_step": 17}, "neither continues nor rewinds"),
    "negative": ({"resume": True, "resume_at": -1}, "0 or more"),
    "text": ({"resume": True, "resume_at": "last"}, "0 or more"),
    "both": ({"resume": True, "resume_at": 3, "first_step": 4}, "say two things"),
    "no resume": ({"resume_at": 3}, "goes with resume=True"),
    "before its begin": ({"resume": True, "resume_at": 2}, "begins at step 5"),
    "half": ({"resume": True, "resume_at": 7.5}, "0 or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_numbers_that_cannot_be_meant_are_refused_and_change_nothing(tmp_path: Path, case: str) -> None:
    arguments, why = REFUSED[case]
    first = Run()
    with wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer, first_step=5):
        first.train(4)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(wl.InvalidArgument, match=why):
        wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer, **arguments)
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_steps_that_never_reached_the_disk_can_be_noted_as_a_gap(tmp_path: Path) -> None:
    first = Run()
    with wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer):
        first.train(4)
    first.train(4)  # recorded by nobody: as frames that a kill has lost
    with (
        said() as texts,
        wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer, resume=True, resume_at=8, missing="gap"),
    ):
        first.train(2)
    assert texts == []
    run = wl.load(tmp_path / "run")
    check(run, first.states, [0, 1, 2, 3, 4, 8, 9, 10])
    assert [gap[:2] for gap in run.gaps] == [(5, 7)]


def test_a_lossy_recording_rewinds(tmp_path: Path) -> None:
    first = Run()
    with wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer, tolerance="film"):
        first.train(30)
    second = first.restored(20)
    with (
        said() as texts,
        wl.watch(second.model, tmp_path / "run", optimizer=second.optimizer, resume=True, resume_at=20),
    ):
        second.train(2)
    assert texts == []
    assert wl.load(tmp_path / "run").steps.tolist() == list(range(23))


CRASH = """
import os, sys, torch, weightlapse as wl
from tests.test_true_frames_numbers import Run
run = Run()
rec = wl.watch(run.model, sys.argv[1], optimizer=run.optimizer)
run.train(15)
rec.flush()
os.kill(os.getpid(), 9)
"""


def test_after_a_kill(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path / "run")], timeout=60, env={**os.environ, "WEIGHTLAPSE_STRICT": "0"}
    )
    first = Run()
    first.train(15)
    second = first.restored(10)
    with wl.watch(second.model, tmp_path / "run", optimizer=second.optimizer, resume=True, resume_at=10):
        second.train(5)
    run = wl.load(tmp_path / "run")
    check(run, first.states, list(range(16)))
    check(run.branches["after-10"], first.states, list(range(11, 16)))


def test_numpy_and_steps_by_hand(tmp_path: Path) -> None:
    w = {"w": np.zeros(3)}
    with wl.watch(w, tmp_path / "run") as rec:
        for k in range(1, 6):
            rec.step({"w": np.full(3, float(k))}, loss=k)
    with wl.watch({"w": np.full(3, 3.0)}, tmp_path / "run", resume=True, resume_at=3) as rec:
        rec.step({"w": np.full(3, 40.0)}, step=4, loss=40)
        rec.step({"w": np.full(3, 60.0)}, step=6)
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [0, 1, 2, 3, 4, 6]
    assert run["w"][:, 0].tolist() == [0, 1, 2, 3, 40, 60]
    assert np.array_equal(run.scalars["loss"], [np.nan, 1, 2, 3, 40, np.nan], equal_nan=True)
    (branch,) = run.branches.values()
    assert branch.steps.tolist() == [4, 5]
    assert branch["w"][:, 0].tolist() == [4, 5]
    assert branch.scalars["loss"].tolist() == [4, 5]


def test_info_shows_branches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = Run()
    with wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer):
        first.train(5)
    second = first.restored(3)
    with wl.watch(second.model, tmp_path / "run", optimizer=second.optimizer, resume=True, resume_at=3):
        second.train(1)
    from weightlapse.cli import main

    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / "run")])
    assert "branch after-3: 2 frames, steps 4 to 5" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["info", "--json", str(tmp_path / "run")])
    facts = json.loads(capsys.readouterr().out)
    assert facts["branches"] == [{"name": "after-3", "frames": 2, "first_step": 4, "last_step": 5}]


def test_the_page_and_the_viewer_show_branches(tmp_path: Path) -> None:
    first = Run()
    with wl.watch(first.model, tmp_path / "run", optimizer=first.optimizer):
        first.train(5)
    for at in (3, 2):
        again = first.restored(at)
        with wl.watch(again.model, tmp_path / "run", optimizer=again.optimizer, resume=True, resume_at=at):
            again.train(2)
    run = wl.load(tmp_path / "run")
    assert run.branch is None
    assert {name: branch.branch for name, branch in run.branches.items()} == {n: n for n in run.branches}
    assert set(run.branches) == {"after-3", "after-2"}
    page = wl.make_page(run, tmp_path / "page.html", other=run.branches["after-3"])
    text = Path(page).read_text("utf-8")
    events = additions(Subject(run, run.name), 0)["events"]
    for name, branch in run.branches.items():
        words = (
            f"branch {name} was left here: steps {branch.steps[0]} to {branch.steps[-1]}, {len(branch.steps)} frames"
        )
        assert [int(name.split("-")[1]), words] in events
        assert words in text
    assert '"run, after-3"' in text  # beside the main line, as a recording of its own
    subjects = open_subjects([run, *run.branches.values()])
    assert [s.name for s in subjects] == ["run", *(f"run, {name}" for name in run.branches)]
    for subject in subjects:
        assert np.array_equal(subject.reopened().steps, subject.run.steps)


def test_a_grown_layer_is_no_match(tmp_path: Path) -> None:
    """Another layout cannot be compared with what was recorded: it begins a layout at the number that was given."""
    w = {"w": np.zeros(3)}
    with wl.watch(w, tmp_path / "run") as rec:
        rec.step({"w": np.ones(3)})
    with wl.watch({"w": np.zeros(4)}, tmp_path / "run", resume=True, resume_at=1) as rec:
        rec.step({"w": np.ones(4)})
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [0, 1, 2]
    assert [len(span) for span in run.layouts] == [2, 1]

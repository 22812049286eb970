"""Numbers that are logged stand at the step at which they were logged, whatever the schedule; what has no frame to stand at is left out and said."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from weightlapse.errors import RecorderWarning

nan = np.nan
EVERY: list[tuple[Any, list[int]]] = [
    (3, [0, 3, 6, 9]),
    (wl.at([0, 1, 5, 9]), [0, 1, 5, 9]),
    (wl.log_spaced(per_decade=3), [0, 1, 2, 5, 10]),
]


def recorded(path: Path, every: Any, log: Any, steps: int = 10) -> wl.Recording:
    w = {"w": np.zeros(3)}
    with wl.watch(w, path, every=every) as rec:
        for k in range(1, steps + 1):
            w["w"] = w["w"] + k
            log(rec, w, k)
    return wl.load(path)


def told(run: wl.Recording) -> list[str]:
    return [text for _, text in run.events if text.startswith("[between_frames]")]


@pytest.mark.parametrize(("every", "frames"), EVERY)
def test_a_number_given_to_step_stands_at_its_step_or_nowhere(every: Any, frames: list[int], tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", every, lambda rec, w, k: rec.step(w, loss=float(k), twice=2 * k))
    assert run.steps.tolist() == frames
    assert np.array_equal(run.scalars["loss"], [nan, *map(float, frames[1:])], equal_nan=True)
    assert np.array_equal(run.scalars["twice"], [nan, *(2.0 * step for step in frames[1:])], equal_nan=True)
    assert len(told(run)) == 1, "what is left out is said once"
    assert "loss, twice of step" in told(run)[0]


def test_step_after_an_optimizer_that_is_followed_does_the_same(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    warnings.filterwarnings("ignore", "weightlapse, recording to .* adds no frame", RecorderWarning)
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, every=4) as rec:
        for k in range(1, 11):
            model(torch.ones(3, 2)).sum().backward()
            optimizer.step()
            rec.step(loss=k)
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [0, 4, 8]
    assert np.array_equal(run.scalars["loss"], [nan, 4, 8], equal_nan=True)


@pytest.mark.parametrize(("every", "frames"), EVERY)
def test_log_never_replaces_a_number_by_that_of_a_later_step(every: Any, frames: list[int], tmp_path: Path) -> None:
    def log(rec: Any, w: Any, k: int) -> None:
        rec.step(w)
        rec.log(loss=-1.0)  # of the same step the last one counts
        rec.log(loss=k)
        if k in (4, 7, 8):  # now and then, mostly where no frame is
            rec.log(accuracy=k)

    run = recorded(tmp_path / "run", every, log)
    first = nan if 1 in frames else 1.0  # the first after frame 0, which has none of its own
    assert np.array_equal(run.scalars["loss"], [first, *map(float, frames[1:])], equal_nan=True)
    wanted = [next((float(k) for k in (4, 7, 8) if a <= k < b), nan) for a, b in zip(frames, [*frames[1:], 99])]
    assert np.array_equal(run.scalars["accuracy"], wanted, equal_nan=True), "the newest frame takes the first"
    left_out = [text for text in told(run) if "keeps it" in text]
    assert left_out, "what is left out is said"
    moved = {name for name in ("loss", "accuracy") if f"[between_frames] {name} of step" in " ".join(told(run))}
    others = {name for name, scalar in run.scalars.items() for s, v in zip(frames, scalar) if np.isfinite(v) and v != s}
    assert others <= moved, "that a number is of another step than its frame is said"
    assert len(told(run)) - len(left_out) == len(others), "once for each name"


@pytest.mark.parametrize(("at", "frame"), [(14, 10), (3, 0), (19, 10)])
def test_a_number_of_another_step_than_its_frame_is_said(at: int, frame: int, tmp_path: Path) -> None:
    def log(rec: Any, w: Any, k: int) -> None:
        rec.step(w)
        if k == at:
            rec.log(accuracy=0.5)
        if k % 10 == 0:
            rec.log(loss=k)

    run = recorded(tmp_path / "run", 10, log, steps=25)
    assert run.scalars["accuracy"][run.steps == frame].tolist() == [0.5]
    assert np.array_equal(run.scalars["loss"], [nan, 10, 20], equal_nan=True)
    text = f"[between_frames] accuracy of step {at} stands at the newest frame, of step {frame}, which has none of its own. So it will be at further frames"
    assert [(step, said) for step, said in run.events if "between" in said] == [(at, text)]


def test_where_every_step_is_a_frame_nothing_is_left_out(tmp_path: Path) -> None:
    def log(rec: Any, w: Any, k: int) -> None:
        rec.step(w, loss=k)
        rec.log(loss=10 * k)

    run = recorded(tmp_path / "run", 1, log)
    assert run.scalars["loss"][1:].tolist() == [10.0 * k for k in range(1, 11)]
    assert told(run) == []


@pytest.mark.parametrize("at", [4, 5])
def test_a_frame_that_was_there_takes_no_number_of_a_later_step(at: int, tmp_path: Path) -> None:
    recorded(tmp_path / "run", 4, lambda rec, w, k: rec.step(w, loss=k), steps=4)
    w = {"w": np.full(3, 10.0)}
    with wl.watch(w, tmp_path / "run", every=4, resume=True, resume_at=at) as rec:
        rec.log(late=1.0)
        for k in range(at + 1, 9):
            rec.step({"w": w["w"] + k})
            rec.log(loss=10 * k)
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [0, 4, 8]
    assert np.array_equal(run.scalars["loss"], [nan, 4, 80], equal_nan=True)
    late = run.scalars["late"].tolist() if "late" in run.scalars else [nan] * 3
    assert np.array_equal(late, [nan, 1.0 if at == 4 else nan, nan], equal_nan=True)


def test_a_step_that_could_not_be_recorded_has_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTLAPSE_STRICT", raising=False)
    w = {"w": np.zeros(3)}
    with wl.watch(w, tmp_path / "run") as rec:
        rec.step({"w": np.ones(3)}, loss=1)
        with pytest.warns(RecorderWarning, match="could not be recorded"):
            rec.step({"w": "no numbers"}, loss=2)
        rec.step({"w": np.full(3, 3.0)}, loss=3)
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [0, 1, 3]
    assert np.array_equal(run.scalars["loss"], [nan, 1, 3], equal_nan=True)

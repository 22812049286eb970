"""What the doctor reads: statistics first, of the values only what these leave open, no more than it may, and it says what it left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import weightlapse as wl
from tests.oracles_doctor import diagnosed
from weightlapse.cli import program
from weightlapse.measures.reading import Reading

LARGE = (80, 64)  # more than 4096 values: statistics of every frame


def recorded(path: Path, steps: int = 60, change: Any = None, **options: Any) -> wl.Recording:
    """Two large matrices and a bias that take random steps; ``change(t, w)`` may spoil them."""
    rng = np.random.default_rng(0)
    w = {
        "a.weight": rng.standard_normal(LARGE),
        "a.bias": rng.standard_normal(80),
        "b.weight": rng.standard_normal(LARGE),
    }
    w = {k: v.astype(np.float32) for k, v in w.items()}
    with wl.watch(w, path, **options) as rec:
        for t in range(1, steps):
            for v in w.values():
                v += 1e-3 * rng.standard_normal(v.shape).astype(np.float32)
            if change is not None:
                change(t, w)
            rec.step(w)
    return wl.load(path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the frames of each tensor that the doctor unpacks."""
    counts: dict[str, int] = {}
    inner = Reading.values

    def counted(self: Reading, name: str, first: int, stop: int) -> Any:
        counts[name] = counts.get(name, 0) + (0 if (name, first, stop) in self._held else stop - first)
        return inner(self, name, first, stop)

    monkeypatch.setattr(Reading, "values", counted)
    return counts


def test_of_large_tensors_the_last_frames_are_enough(tmp_path: Path, read: dict[str, int]) -> None:
    run = recorded(tmp_path / "run")
    assert wl.diagnose(run) == diagnosed(run) == []
    assert read["a.bias"] >= 60  # too small for statistics of every frame
    assert 0 < read["a.weight"] <= 8
    assert 0 < read["b.weight"] <= 8


def quiet(t: int, w: dict[str, Any]) -> None:
    if t > 20:
        w["a.weight"][5], w["a.bias"][5] = 3.0, 3.0


def grown(t: int, w: dict[str, Any]) -> None:
    if t == 30:
        w["b.weight"] *= 30


def odd(t: int, w: dict[str, Any]) -> None:
    if t >= 25:
        w["b.weight"][3, 4] = np.inf


def still(t: int, w: dict[str, Any]) -> None:
    w["a.weight"][...] = 1.5


def stopped(t: int, w: dict[str, Any]) -> None:
    w["b.weight"][...] = w["b.weight"] if t < 15 else 0.25


@pytest.mark.parametrize("change", [quiet, grown, odd, still, stopped])
@pytest.mark.parametrize("form", ["blocks", "log", "old"])
def test_findings_are_those_of_every_value(tmp_path: Path, change: Any, form: str) -> None:
    """Of a recording with statistics, of one that is a log still, and of one whose statistics are lost."""
    recorded(tmp_path / "run", change=change, compact="never" if form == "log" else "auto")
    if form == "old":
        next((tmp_path / "run").glob("stats-*.log")).unlink()
    run = wl.load(tmp_path / "run")
    found = sorted((f.kind, f.tensor, f.units, f.first_step, f.severity) for f in wl.diagnose(run))
    assert found == sorted((f.kind, f.tensor, f.units, f.first_step, f.severity) for f in diagnosed(run))
    assert found


def test_what_is_not_looked_at_is_said(tmp_path: Path, read: dict[str, int]) -> None:
    run = recorded(tmp_path / "run", change=lambda t, w: (grown(t, w), quiet(t, w)))
    everything = [f.kind for f in wl.diagnose(run, limit=None)]
    assert "unread" not in everything
    read.clear()
    found = wl.diagnose(run, limit=80 * 60)  # enough for the bias alone
    assert read == {"a.bias": 60}
    assert [(f.kind, f.tensor) for f in found if f.severity == "error"] == [("exploding", "b.weight")]
    (unread,) = (f for f in found if f.kind == "unread")
    assert unread.severity == "note"
    assert "the units of a" in unread.text
    assert "weightlapse doctor --all" in unread.advice
    assert [f.kind for f in wl.diagnose(run, limit=0) if f.kind == "unread"] == ["unread"]


def test_a_choice_of_tensors_is_all_that_is_read(tmp_path: Path, read: dict[str, int]) -> None:
    run = recorded(tmp_path / "run", change=quiet)
    assert [f.units for f in wl.diagnose(run, tensors="*.weight")] == [(5,)]
    assert set(read) == {"a.weight", "b.weight"}


def test_the_command_line_says_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(tmp_path / "run", change=quiet)
    monkeypatch.setattr("weightlapse.measures.reading.LIMIT", 80 * 60)
    short = CliRunner().invoke(program, ["doctor", str(tmp_path / "run")], standalone_mode=False)
    assert "unread" in short.output
    assert "the units of a" in short.output
    whole = CliRunner().invoke(program, ["doctor", "--all", str(tmp_path / "run")], standalone_mode=False)
    assert "unread" not in whole.output


def marching(path: Path, shape: tuple[int, ...], share: float) -> wl.Recording:
    """A share of the weights goes straight on at one speed, the others wander."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal(shape).astype(np.float32)
    straight = rng.random(shape) < share
    with wl.watch({"w": w}, path, every=1) as rec:
        for step in range(10, 700, 10):
            w = w + np.where(straight, 1e-2, 1e-2 * rng.standard_normal(shape)).astype(np.float32)
            rec.step({"w": w}, step=step)
    return wl.load(path)


@pytest.mark.parametrize(("share", "found"), [(0.9, ["speed_limit"]), (0.7, ["speed_limit"]), (0.2, [])])
def test_weights_that_march(tmp_path: Path, share: float, found: list[str]) -> None:
    run = marching(tmp_path / "run", LARGE, share)
    told = [f for f in wl.diagnose(run) if f.kind == "speed_limit"]
    assert [f.kind for f in told] == found
    assert [f.units for f in told] == [f.units for f in diagnosed(run) if f.kind == "speed_limit"]

"""Where a loss spike began: twenty planted in five kinds of network, placed in the right layer and no later than the spike."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import weightlapse as wl
from tests.docs_tables import PAGE, with_spikes
from tests.trainings_spikes import AT, all_spikes
from weightlapse.cli import program

SPIKES = all_spikes()


@dataclass(frozen=True)
class Row:
    """One planted spike: whether it was found no later than the loss went up, in the right layer, and whether a bad batch was told as one, and nothing else."""

    cause: str
    in_time: bool
    placed: bool
    batch: bool
    text: str


def examined(path: Path, name: str) -> Row:
    train, where = SPIKES[name]
    train(path)
    cause = re.sub(" of block .", "", name.partition(", ")[2])
    found = wl.autopsy(wl.load(path))
    if not found:
        return Row(cause, False, False, False, "the loss spiked and nobody saw it")
    first = found[0]
    in_time = first.onset <= first.step and AT - 8 < first.onset <= AT + 3
    said = f"step {first.onset} in {first.tensor}" in first.text
    return Row(cause, in_time, first.tensor.startswith(f"{where}.") and said, first.cause == "batch", first.text)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    folder = tmp_path_factory.mktemp("spikes")
    return {name: examined(folder / str(k), name) for k, name in enumerate(SPIKES)}


def test_there_are_twenty() -> None:
    assert len(SPIKES) == 20
    assert sum("bad batch" in name for name in SPIKES) == 4


@pytest.mark.parametrize("name", SPIKES)
def test_planted_spikes(rows: dict[str, Row], name: str) -> None:
    row = rows[name]
    assert (row.in_time, row.placed, row.batch) == (True, True, row.cause == "bad batch"), row.text


def test_the_page_shows_them(rows: dict[str, Row]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_spikes(text, list(rows.values())) == text, "run: python -m tests.docs_tables"


def recorded(path: Path, loss: list[float], thrown: dict[int, tuple[str, int, float]] | None = None) -> wl.Recording:
    """Two matrices that wander, the loss as given, and at some frames a row of one thrown away."""
    rng = np.random.default_rng(0)
    w = {"a": rng.standard_normal((4, 3)), "b": rng.standard_normal((4, 3))}
    with wl.watch(w, path) as rec:
        for t, now in enumerate(loss, 1):
            w = {k: v + 0.01 * rng.standard_normal((4, 3)) for k, v in w.items()}
            if thrown and t in thrown:
                name, row, far = thrown[t]
                w[name][row] += far
            rec.step(w, loss=now)
    return wl.load(path)


def test_a_spike_without_a_cause_in_the_weights_says_so(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", [1.0] * 40 + [9.0] + [1.0] * 9)
    (found,) = wl.autopsy(run)
    assert (found.tensor, found.units, found.step, found.diverged) == ("", (), 41, False)
    assert "no tensor had left its history" in found.text


def test_what_left_and_came_back_long_before_is_not_blamed(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", [1.0] * 60 + [9.0] * 20, {40: ("a", 0, 50.0), 59: ("b", 2, 50.0)})
    (found,) = wl.autopsy(run)
    assert (found.tensor, found.units, found.onset, found.step) == ("b", (2,), 59, 61)
    assert found.diverged  # it never came down again
    assert found.cause == "weights"


def test_a_quiet_loss_has_no_autopsy(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", [1.0 + 0.1 * (t % 3) for t in range(60)], {40: ("a", 0, 50.0)})
    assert wl.autopsy(run) == []
    with pytest.raises(wl.InvalidArgument, match="nothing to look into"):
        wl.plot.autopsy(run)


def test_a_loss_that_rises_slowly_diverges(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", [1.0] * 30 + [1.15**t for t in range(40)])
    (found,) = wl.autopsy(run)
    assert found.diverged
    assert [f.kind for f in wl.diagnose(run) if f.severity == "error"] == ["divergence"]


NAN = float("nan")


@pytest.mark.parametrize(
    ("loss", "step", "diverged"),
    [
        ([1.0] * 99 + [NAN] * 30, 100, True),  # steps count from 1
        ([1.0] * 59 + [NAN] + [1.0] * 40, 60, False),
        ([1.0] * 8 + [NAN] * 40, 9, True),  # too early for a spike, not for this
        ([1.0] * 59 + [9.0, 40.0, 1e6, float("inf")] + [NAN] * 20, 60, True),  # one event, where it began
        ([1.0] * 59 + [NAN, NAN, 5.0] + [NAN] * 20, 60, True),
        ([1.0] * 59 + [NAN], 60, True),
    ],
)
def test_a_loss_that_is_no_number_any_more(tmp_path: Path, loss: list[float], step: int, diverged: bool) -> None:
    run = recorded(tmp_path / "run", loss)
    (found,) = wl.autopsy(run)
    assert (found.step, found.diverged, found.tensor) == (step, diverged, "")
    kinds = [(f.kind, f.first_step) for f in wl.diagnose(run) if f.kind in ("loss_spike", "divergence")]
    assert kinds == [("divergence" if diverged else "loss_spike", step)]
    if np.isnan(loss[step - 1]):
        assert f"loss goes from 1 to nan at step {step}" in found.text


def test_weights_thrown_before_the_loss_is_nan_are_named(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", [1.0] * 59 + [NAN] * 20, {59: ("b", 2, 50.0)})
    (found,) = wl.autopsy(run)
    assert (found.tensor, found.units, found.onset, found.step) == ("b", (2,), 59, 60)


def test_a_loss_that_is_not_logged_or_stands_for_nothing_is_not_nan(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    w = {"a": rng.standard_normal((4, 3))}
    with wl.watch(w, tmp_path / "run") as rec:
        for t in range(1, 130):
            w = {"a": w["a"] + 0.01 * rng.standard_normal((4, 3))}
            now = {"val_loss": 1.0 if t % 10 == 0 else NAN}  # NaN says that nobody looked
            now |= {"loss": 1.0} if t < 80 else {}  # and from here on nothing is logged
            now |= {"rare_loss": 1.0} if t % 7 == 0 else {}
            rec.step(w, **now)
    run = wl.load(tmp_path / "run")
    assert wl.autopsy(run) == []
    assert run.scalars.logged("loss").sum() == 79
    assert run.scalars.logged("val_loss").sum() == 129


@pytest.mark.parametrize("motion", ["drift", "walk", "minimum"])
@pytest.mark.parametrize("spacing", ["events", "events and few", "log", "log with a march between"])
def test_frames_at_uneven_distances_blame_no_healthy_layer(tmp_path: Path, motion: str, spacing: str) -> None:
    rng = np.random.default_rng(0)
    start = {"a.weight": rng.standard_normal((30, 20)), "b.weight": rng.standard_normal((8, 30))}
    w, pull = start, {k: rng.standard_normal(v.shape) for k, v in start.items()}
    options = {
        "events": {"keep": "around_events", "every": 100},
        "events and few": {"keep": "around_events", "every": 20, "memory": 110_000},
        "log": {"every": wl.log_spaced(per_decade=40)},
        "log with a march between": {
            "every": wl.at([*range(0, 300, 10), 330, 331, 332, 340, *range(350, 420, 5), 444])
        },
    }[spacing]
    with wl.watch(w, tmp_path / "run", **options) as rec:  # type: ignore[arg-type]
        for t in range(1, 450):
            noise = {k: rng.standard_normal(v.shape) for k, v in w.items()}
            if motion == "drift":
                w = {k: v + 0.01 * pull[k] for k, v in w.items()}
            elif motion == "walk":
                w = {k: v + 0.01 * noise[k] for k, v in w.items()}
            else:
                w = {k: v + 0.3 * (start[k] - v) + 0.01 * noise[k] for k, v in w.items()}
            rec.step(w, loss=9.0 if t >= 395 else 1.0)
    run = wl.load(tmp_path / "run")
    assert len(set(np.diff(run.steps))) > 1
    (found,) = wl.autopsy(run)
    assert (found.tensor, found.spread) == ("", ())


@pytest.mark.parametrize("options", [{"keep": "around_events", "every": 100}, {"every": wl.log_spaced(per_decade=60)}])
def test_what_is_thrown_is_found_at_uneven_distances_too(tmp_path: Path, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    w = {"a.weight": rng.standard_normal((30, 20)), "b.weight": rng.standard_normal((8, 30))}
    with wl.watch(w, tmp_path / "run", **options) as rec:
        for t in range(1, 450):
            w = {k: v + 0.01 * rng.standard_normal(v.shape) for k, v in w.items()}
            w["b.weight"][2] += 50 * (t == 381)
            rec.step(w, loss=9.0 if t >= 383 else 1.0)
    run = wl.load(tmp_path / "run")
    (found,) = wl.autopsy(run)
    assert (found.tensor, found.units) == ("b.weight", (2,))
    assert found.onset == int(run.steps[np.searchsorted(run.steps, 381)])


def test_the_figure(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    run = recorded(tmp_path / "run", [1.0] * 60 + [9.0] * 20, {59: ("b", 2, 50.0)})
    (found,) = wl.autopsy(run)
    ax = wl.plot.autopsy(run)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "a"]  # what left first is on top
    marks = [line for line in ax.lines if line.get_marker() == "o"]
    assert [(int(line.get_xdata()[0]), int(line.get_ydata()[0])) for line in marks] == [(59, 0)]
    strip = next(other for other in ax.figure.axes if other.get_ylabel() == "loss")
    assert strip.lines[0].get_ydata()[-1] == 9.0
    assert strip.get_title("left").replace("\n", " ") == found.text
    given = plt.subplots()[1]
    assert wl.plot.autopsy(found, ax=given) is given
    plt.close("all")
    out = tmp_path / "spike.png"
    result = CliRunner().invoke(
        program, ["plot", str(run.path), "--kind", "autopsy", "-o", str(out)], standalone_mode=False
    )
    assert result.exception is None
    assert out.stat().st_size > 10_000
    assert "it began at step 59 in b (unit 2)" in result.output

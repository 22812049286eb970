"""``keep="around_events"``: which frames are there, with their true steps and values, after each kind of event and each way of ending."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from weightlapse.capture.alarm import LossAlarm
from weightlapse.capture.keeping import AFTER, BEFORE, KeepingWriter
from weightlapse.errors import CannotRecord, InvalidArgument
from weightlapse.recording.recording import Recording, load
from weightlapse.store.writer import Writer


def state(step: int) -> dict[str, np.ndarray]:
    return {
        "w": np.full((4, 5), step, np.float32) + np.arange(20, dtype=np.float32).reshape(4, 5) / 100,
        "b": np.full(3, -step, np.float64),
    }


def train(
    path: Path,
    steps: int,
    losses: dict[int, float] | None = None,
    broken: dict[int, float] | None = None,
    **arguments: Any,
) -> Recording:
    with wl.watch(state(0), path, keep="around_events", **arguments) as rec:
        for step in range(1, steps):
            now = state(step)
            if broken and step in broken:
                now["w"][1, 2] = broken[step]
            rec.step(now, loss=(losses or {}).get(step, 1 / (1 + step / 50)))
            if step % 10 == 0:  # the recorder's thread comes to its work
                rec._pump.ring.work.set()
    run = load(path)
    assert rec.frames == run.frames
    for frame, step in enumerate(run.steps.tolist()):
        truth = state(step)
        if broken and step in broken:
            truth["w"][1, 2] = broken[step]
        assert np.array_equal(run["w"][frame], truth["w"], equal_nan=True)
        assert np.array_equal(run["b"][frame], truth["b"])
    assert run._store.verify() == []
    return run


def test_a_quiet_training_has_its_sparse_frames_and_the_last(tmp_path: Path) -> None:
    run = train(tmp_path / "run", 756)
    assert run.steps.tolist() == [0, 100, 200, 300, 400, 500, 600, 700, 755]
    assert run.scalars["loss"][1:].tolist() == [1 / (1 + step / 50) for step in run.steps[1:].tolist()]
    assert run.gaps == []
    assert run.events == []
    assert run.meta["keep"] == "around_events"


@pytest.mark.parametrize("every", [25, wl.at([3, 10, 500])])
def test_every_says_which_are_kept_anyway(tmp_path: Path, every: Any) -> None:
    run = train(tmp_path / "run", 300, every=every)
    wanted = range(0, 300, 25) if every == 25 else [0, 3, 10]
    assert run.steps.tolist() == [*wanted, 299]


@pytest.mark.parametrize(
    ("losses", "at"),
    [({431: 9.0}, 431), ({431: float("nan")}, 431), ({431: float("inf"), 432: float("nan")}, 431), (dict.fromkeys(range(431, 800), 4.0), 431),
     ({110: 9.0}, 110)],
)  # fmt: skip
def test_every_frame_around_a_loss_that_jumps(tmp_path: Path, losses: dict[int, float], at: int) -> None:
    run = train(tmp_path / "run", 700, losses)
    kept = run.steps.tolist()
    around = [step for step in kept if at - BEFORE <= step <= at + AFTER]
    assert around[-1] == at + AFTER
    assert around[0] <= at - BEFORE + 8  # the loss is logged a moment after its frame
    assert around == list(range(around[0], at + AFTER + 1))
    others = [step for step in kept if not at - BEFORE <= step <= at + AFTER]
    assert others == [s for s in range(0, 700, 100) if not at - BEFORE <= s <= at + AFTER] + [699]
    for frame, step in enumerate(kept[1:], 1):
        assert run.scalars["loss"][frame] == losses.get(step, 1 / (1 + step / 50)) or np.isnan(losses[step])
    (event,) = run.events
    assert "loss" in event[1]
    assert event[0] == at


def test_nan_among_the_weights(tmp_path: Path) -> None:
    run = train(tmp_path / "run", 500, broken=dict.fromkeys(range(333, 500), np.nan))
    assert set(range(333 - BEFORE, 333 + AFTER + 1)) <= set(run.steps.tolist())
    assert len(run.steps) == BEFORE + AFTER + 1 + len({0, 100, 200, 400, 499})
    assert [(step, "w has NaN or Inf" in text) for step, text in run.events] == [(333, True)]
    other = train(tmp_path / "other", 500, broken={333: np.inf, 340: -np.inf})
    assert [step for step, _ in other.events] == [333, 340]
    assert set(range(333 - BEFORE, 340 + AFTER + 1)) <= set(other.steps.tolist())


def test_a_slow_divergence_is_heard() -> None:
    alarm = LossAlarm("loss")
    falling = [2 * 0.99**k for k in range(200)]
    assert [alarm.hear(x) for x in falling] == [""] * 200
    rising = [alarm.hear(falling[-1] * 1.02**k) for k in range(200)]
    assert sum(map(bool, rising)) == 1
    assert "three times" in next(filter(None, rising))


def test_healthy_losses_are_quiet() -> None:
    told = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        smooth = 2 * np.exp(-np.arange(2000) / 500) + 0.2
        alarm, noisy = LossAlarm("loss"), LossAlarm("loss")
        assert not any(alarm.hear(x) for x in smooth * np.exp(0.15 * rng.standard_normal(2000)))
        told += sum(bool(noisy.hear(x)) for x in smooth * np.exp(0.25 * rng.standard_normal(2000)))
    assert told <= 4  # twice the largest of twenty comes about by chance once in 20 000 losses of such noise


def test_a_flush_keeps_what_is_held(tmp_path: Path) -> None:
    with wl.watch(state(0), tmp_path / "run", keep="around_events") as rec:
        for step in range(1, 151):
            rec.step(state(step))
        rec.flush()
        there = load(tmp_path / "run").steps.tolist()
        assert there[-65:] == list(range(150 - 64, 151))
        for step in range(151, 330):
            rec.step(state(step))
    assert load(tmp_path / "run").steps.tolist() == [*there, 200, 300, 329]


def test_little_memory_holds_fewer_and_too_little_is_refused(tmp_path: Path) -> None:
    row = 80 + 24
    run = train(tmp_path / "run", 400, broken={300: np.nan}, memory=2 * 20 * row)
    assert [s for s in run.steps.tolist() if 250 <= s <= 300] == list(range(280, 301))
    with pytest.raises(CannotRecord, match="holds 8 frames"):
        wl.watch(state(0), tmp_path / "other", keep="around_events", memory=10 * row)
    assert not (tmp_path / "other").exists()


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    for wrong in ({"keep": "events"}, {"keep": None}, {"keep": "around_events", "pack": True}):
        with pytest.raises(InvalidArgument):
            wl.watch(state(0), tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


def test_another_layout_in_mid_run(tmp_path: Path) -> None:
    with wl.watch(state(0), tmp_path / "run", keep="around_events", every=50) as rec:
        for step in range(1, 120):
            rec.step(state(step))
        for step in range(120, 240):
            rec.step(state(step) | {"w": np.full((6, 5), step, np.float32)}, loss=50.0 if step == 200 else 1.0)
    run = load(tmp_path / "run")
    first = run.layouts[1].start
    assert run.layouts[1].steps.tolist() == [*range(120, 153), *range(200 - BEFORE if BEFORE < 48 else 153, 233), 239]
    assert run.layouts[1]["w"][:, 0, 0].tolist() == run.steps[first:].tolist()
    assert run.layouts[0].steps.tolist() == [0, 50, *range(120 - BEFORE - 1, 120)]


def test_going_on_with_a_recording(tmp_path: Path) -> None:
    train(tmp_path / "run", 250)
    with wl.watch(state(249), tmp_path / "run", keep="around_events", resume=True) as rec:
        for step in range(250, 460):
            rec.step(state(step), loss=1.0)
    run = load(tmp_path / "run")
    assert run.steps.tolist() == [0, 100, 200, 249, 250, 300, 400, 459]
    assert run.scalars["loss"][-3:].tolist() == [1.0] * 3


def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, failing = Writer._write_frames, [0]

    def sometimes(self: Writer, steps: Any, rows: Any) -> None:
        failing[0] += 1
        if failing[0] in (3, 4, 5, 40, 41):
            raise OSError(errno.ENOSPC, "No space left on device")
        inner(self, steps, rows)

    monkeypatch.setattr(Writer, "_write_frames", sometimes)
    with _quiet():
        run = train(tmp_path / "run", 400, broken={300: np.nan})
    assert set(range(300 - BEFORE, 333)) <= set(run.steps.tolist())
    assert {0, 100, 200, 399} <= set(run.steps.tolist())


def _quiet() -> Any:
    import warnings

    return warnings.catch_warnings(action="ignore")


def test_the_writer_alone_is_exact(tmp_path: Path) -> None:
    """Frame by frame, without threads: what is kept is what the definition says."""
    from weightlapse.store.layout import Layout, TensorSpec

    layout = Layout([TensorSpec("w", "float32", (4,))])
    keeping = KeepingWriter(Writer.create(tmp_path / "run", layout), wl.every(50), None)
    for step in range(400):
        value = 10.0 if step in (170, 240) else 1.0
        keeping.scalars(np.array([step]), ["train/loss"], np.array([value]))
        row = np.zeros((1, 16), np.uint8)
        row.view(np.float32)[...] = step
        keeping.append(np.array([step]), row)
    keeping.close()
    run = load(tmp_path / "run")
    wanted = {*range(0, 400, 50), 399, *range(170 - BEFORE, 170 + AFTER + 1), *range(240 - BEFORE, 240 + AFTER + 1)}
    assert run.steps.tolist() == sorted(wanted)
    assert run["w"][:, 0].tolist() == sorted(wanted)
    assert [step for step, _ in run.events] == [170, 240]
    assert (run.scalars["train/loss"] == np.where(np.isin(run.steps, (170, 240)), 10.0, 1.0)).all()

"""Every stand-in for a recording keeps the same promises: what one way of asking gives, the others give too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from weightlapse.errors import InvalidArgument, MissingStep
from weightlapse.film.pair import Pair
from weightlapse.measures.chosen import Chosen
from weightlapse.measures.part import Part
from weightlapse.recording.polar import polar
from weightlapse.recording.renamed import RenamedRecording
from weightlapse.recording.run import Run, Seen
from weightlapse.view.aligned import AlignedRun
from weightlapse.view.extras import neuron
from weightlapse.view.subject import Subject

SPEC = """
tensor a.weight (3, 2)
tensor b.weight (1, 3)
group a: 3 units, permutation
  a.weight[0]: out
  b.weight[1]: in
"""


def recorded(path: Path, *, order: list[int] | None = None, dtype: Any = np.float64, steps: int = 4) -> wl.Recording:
    w = wl.Wiring.from_spec(SPEC)
    state: dict[str, Any] = {"a.weight": np.arange(6.0).reshape(3, 2), "b.weight": np.array([[10.0, 20.0, 30.0]])}
    state = {n: v.astype(dtype) * (1 + (1j if dtype is np.complex128 else 0)) for n, v in state.items()}
    moved = state if order is None else wl.permute(state, w, "a", order)
    with wl.watch(moved, path, wiring=w) as rec:
        for t in range(1, steps):
            rec.step({n: v + t for n, v in moved.items()}, loss=1.0 / t)
        rec.mark("done")
    return wl.load(path)


def aligned(tmp: Path) -> Run:
    pairs = wl.align_runs(recorded(tmp / "one"), recorded(tmp / "two", order=[2, 0, 1]))
    return AlignedRun(pairs)


def part(tmp: Path) -> Run:
    run = recorded(tmp / "run")
    return Part(run, run.layouts[0])


def renamed(tmp: Path) -> Run:
    return RenamedRecording(recorded(tmp / "run"), {"x.weight": "a.weight", "y.weight": "b.weight"})


MADE: dict[str, Callable[[Path], Run]] = {
    "recording": lambda tmp: recorded(tmp / "run"),
    "seen": lambda tmp: Seen(recorded(tmp / "run")),
    "part": part,
    "chosen": lambda tmp: Chosen(recorded(tmp / "run", steps=6), np.array([0, 1, 4])),
    "renamed": renamed,
    "polar": lambda tmp: polar(recorded(tmp / "run", dtype=np.complex128)),
    "aligned": aligned,
    "pair": lambda tmp: Pair(recorded(tmp / "one"), recorded(tmp / "two", order=[1, 0, 2]), True),
    "pair of a short one": lambda tmp: Pair(recorded(tmp / "one", steps=6), recorded(tmp / "two", steps=2), True),
    "renamed and aligned": lambda tmp: RenamedRecording(aligned(tmp), {"x.weight": "a.weight"}),
}


@pytest.mark.parametrize("kind", MADE)
def test_all_ways_of_asking_agree(kind: str, tmp_path: Path) -> None:
    run = MADE[kind](tmp_path)
    frames = run.frames
    assert frames == len(run.steps) > 0
    assert list(run.shapes) == list(run.names) == list(run.dtypes)
    assert set(run.names) <= set(run.streams)
    for name in run.names:
        history = run[name]
        assert name in run
        assert tuple(history.shape) == (frames, *run.shapes[name])
        assert len(history) == frames
        assert np.asarray(history[:]).shape == tuple(history.shape)
        assert run.bound(name) == run.bound(name, frames - 1) == 0.0
        for frame in (0, frames // 2, -1):
            assert np.array_equal(run.state(frame=frame)[name], np.asarray(history[frame])), (name, frame)
        step = int(run.steps[frames // 2])
        assert np.array_equal(run.state(step)[name], np.asarray(history[frames // 2]))
        assert np.array_equal(run.state()[name], np.asarray(history[-1]))
    assert "no.such" not in run
    for values in run.scalars.values():
        assert len(values) == frames
    for span in run.layouts:
        assert list(span.names) == list(span.shapes) == list(span.dtypes)
        assert len(span) == len(span.steps) == span.stop - span.start
        for name in span.names:
            assert tuple(span[name].shape) == (len(span), *span.shapes[name])
    wiring = run.wiring
    if wiring is not None and kind != "polar":
        assert all(tuple(run.shapes[n]) == tuple(s) for n, s in wiring.shapes.items())
    target = {n: np.zeros_like(v) for n, v in run.state().items()}
    run.load_into(target)
    assert all(np.array_equal(target[n], v) for n, v in run.state().items())


@pytest.mark.parametrize("kind", MADE)
def test_a_step_that_is_not_its_own_is_missing(kind: str, tmp_path: Path) -> None:
    run = MADE[kind](tmp_path)
    steps = set(run.steps.tolist())
    for step in sorted(set(range(8)) - steps):
        with pytest.raises(MissingStep, match=f"step {step} was not recorded"):
            run.state(step)
    for step in steps:
        run.state(step)


@pytest.mark.parametrize("at", [[0, 2, 3], [1], [4, 5]])
def test_chosen_frames_have_the_steps_between_them_no_more(at: list[int], tmp_path: Path) -> None:
    whole = recorded(tmp_path / "run", steps=6)
    run = Chosen(whole, np.array(at))
    for step in range(6):
        if step in at:
            assert np.array_equal(run.state(step)["a.weight"], whole["a.weight"][step])
        else:
            with pytest.raises(MissingStep):
                run.state(step)
    with pytest.raises(InvalidArgument, match="either step="):
        run.state(at[0], frame=0)


def test_branches_of_a_renamed_recording_bear_the_same_names(tmp_path: Path) -> None:
    at = recorded(tmp_path / "run", steps=5).state(step=2)
    with wl.watch(at, tmp_path / "run", resume=True, resume_at=2) as rec:
        rec.step({name: value + 9 for name, value in at.items()})
    whole = wl.load(tmp_path / "run")
    ((name, behind),) = whole.branches.items()
    for own in ({"x.weight": "a.weight", "y.weight": "b.weight"}, {"x.weight": "a.weight"}):
        run = RenamedRecording(whole, own)
        branch = run.branches[name]
        assert list(run.branches) == [name]
        assert list(branch.names) == list(run.names)
        assert "x.weight" in branch
        assert "a.weight" not in branch.names
        assert np.array_equal(branch["x.weight"][:], behind["a.weight"][:])
        assert np.array_equal(branch.state()["x.weight"], behind.state()["a.weight"])


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 0, 2], [0, 2, 1]])
def test_a_unit_of_an_aligned_recording_is_the_partner_of_the_first_ones(order: list[int], tmp_path: Path) -> None:
    one, two = recorded(tmp_path / "one"), recorded(tmp_path / "two", order=order)
    moved = Subject(AlignedRun(wl.align_runs(one, two)), "two, aligned")
    for unit in range(3):
        assert neuron(moved, "a", unit)["parts"] == neuron(Subject(one, "one"), "a", unit)["parts"]
    assert any(neuron(Subject(two, "two"), "a", k)["parts"] != neuron(moved, "a", k)["parts"] for k in range(3))


def test_a_film_of_a_branch_bears_its_name(tmp_path: Path) -> None:
    at = recorded(tmp_path / "run", steps=5).state(step=2)
    with wl.watch(at, tmp_path / "run", resume=True, resume_at=2) as rec:
        rec.step({name: value + 9 for name, value in at.items()})
    run = wl.load(tmp_path / "run")
    (branch,) = run.branches.values()
    assert run.name == "run"
    assert branch.name.startswith("run, after-2")
    assert Seen(branch).name == branch.name

"""Two recordings in one film."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from weightlapse.errors import InvalidArgument
from weightlapse.film.movie import moments
from weightlapse.film.pair import ALIGNED, DIFFERENCE, FIRST, SECOND, Pair, compose_pair
from weightlapse.film.panels import Weights
from weightlapse.film.scene import Order

torch = pytest.importorskip("torch")
SIZE = (960, 540)
FRAMES = 9


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A teacher that stands still, and a student that runs into a permuted, sign-flipped copy of it."""
    folder = tmp_path_factory.mktemp("pair")
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
    example = torch.randn(3, 5, dtype=torch.float64)
    wiring = wl.trace(teacher, example)
    goal = {name: value.numpy() for name, value in teacher.state_dict().items()}
    order, sign = np.array([3, 0, 5, 1, 4, 2]), np.array([1, -1, 1, 1, -1, -1.0])
    twin = {
        "0.weight": goal["0.weight"][order] * sign[:, None],
        "0.bias": goal["0.bias"][order] * sign,
        "2.weight": goal["2.weight"][:, order] * sign,
        "2.bias": goal["2.bias"],
    }
    wl.watch(teacher, folder / "teacher", wiring=wiring).close()
    rng = np.random.default_rng(0)
    start = {name: w + rng.normal(size=w.shape) for name, w in twin.items()}
    with wl.watch(start, folder / "student", wiring=wiring) as rec:
        for step in range(1, FRAMES):
            share = step / (FRAMES - 1)
            rec.step({name: (1 - share) * start[name] + share * w for name, w in twin.items()})
            rec.log(loss=1 - share + 1e-3)
    return wl.load(folder / "teacher"), wl.load(folder / "student")


def test_the_columns_hold_what_they_say(runs: tuple[Any, Any]) -> None:
    teacher, student = runs
    pair = Pair(teacher, student, align=True)
    (last,) = pair.read(["0.weight"], np.array([FRAMES - 1]))
    assert np.array_equal(last[f"{FIRST}|0.weight"], teacher["0.weight"][0])
    assert np.array_equal(last[f"{SECOND}|0.weight"], student["0.weight"][-1])
    assert last[f"{ALIGNED}|0.weight"] == pytest.approx(last[f"{FIRST}|0.weight"])
    assert last[f"{DIFFERENCE}|0.weight"] == pytest.approx(0, abs=1e-12)
    raw, aligned = pair.distances(["0.weight", "0.bias", "2.weight"], np.arange(FRAMES))
    assert aligned.values[-1] < 1e-9
    assert raw.values[-1] > 0.5
    assert (np.diff(aligned.values) < 0).all()


def test_all_columns_share_one_scale_and_one_place(runs: tuple[Any, Any]) -> None:
    pair = Pair(*runs, align=True)
    scene = compose_pair(pair, Order(["0.weight", "0.bias"], np.arange(FRAMES), SIZE))
    columns = [panel for panel in scene.panels if isinstance(panel, Weights)]
    assert len(columns) == 4
    assert len({scale for c in columns for name, scale in (c.limits or {}).items() if name.endswith("0.weight")}) == 1
    tiles = [c.stages[0][1][0].tiles[0] for c in columns]
    assert len({(t.y, t.width, t.height, t.cell) for t in tiles}) == 1
    assert len(set(np.diff([t.x for t in tiles]))) == 1
    (moment,) = moments(pair, scene, np.array([FRAMES - 1]))
    assert {t.name for t in tiles} <= set(moment.values)


def test_films_and_stills(runs: tuple[Any, Any], tmp_path: Path) -> None:
    teacher, student = runs
    assert wl.make_film(teacher, tmp_path / "a.gif", other=student, size=SIZE).frames == FRAMES
    assert wl.make_film(student, tmp_path / "b.gif", other=str(teacher.path), size=SIZE, align=False).frames == FRAMES
    assert wl.make_film(teacher, tmp_path / "c.svg", other=student, size=SIZE).frames == 1
    words = (tmp_path / "c.svg").read_text()
    for heading in ("teacher", "student", "student, aligned", "student aligned − teacher", "loss of student"):
        assert f">{heading}<" in words
    wl.make_film(teacher, tmp_path / "d.svg", other=student, size=SIZE, align=False)
    assert "student − teacher" in (tmp_path / "d.svg").read_text()
    assert "aligned" not in (tmp_path / "d.svg").read_text()


def test_without_wiring_it_is_said(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with wl.watch({"w": np.ones((3, 3))}, tmp_path / name) as rec:
            rec.step({"w": np.eye(3)})
    wl.make_film(tmp_path / "a", tmp_path / "film.svg", other=tmp_path / "b", size=SIZE)
    assert "not aligned: neither recording holds a wiring" in (tmp_path / "film.svg").read_text()


def test_other_architectures_are_refused(runs: tuple[Any, Any], tmp_path: Path) -> None:
    with wl.watch({"0.weight": np.ones((3, 3))}, tmp_path / "other") as rec:
        rec.step({"0.weight": np.ones((3, 3))})
    with pytest.raises(
        InvalidArgument, match=r"'0.weight' has shape \(3, 3\) in the second recording and shape \(6, 5\) in the first"
    ):
        wl.make_film(runs[0], tmp_path / "film.gif", other=tmp_path / "other")
    assert not (tmp_path / "film.gif").exists()


@pytest.mark.parametrize(("one", "two"), [((0, 1, 2), (1, 2, 3)), ((0, 5, 9), (0, 1, 2)), ((3, 4), (0, 1))])
def test_recordings_of_one_length_at_other_steps_stand_at_the_steps_of_the_second(
    one: tuple[int, ...], two: tuple[int, ...], tmp_path: Path
) -> None:
    for name, steps in (("one", one), ("two", two)):
        with wl.watch({"w": np.full(2, float(steps[0]))}, tmp_path / name, first_step=steps[0]) as rec:
            for step in steps[1:]:
                rec.step({"w": np.full(2, float(step))}, step=step)
    first = Pair(wl.load(tmp_path / "one"), wl.load(tmp_path / "two"), align=False).first
    held = [max([s for s in one if s <= step], default=one[0]) for step in two]  # the newest not later, else the first
    assert np.asarray(first["w"][:])[:, 0].tolist() == held
    assert [first.state(frame=k)["w"][0] for k in range(len(two))] == held

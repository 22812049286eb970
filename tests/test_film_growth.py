"""Networks that grow in mid-run: children beside their parents, new layers at their place."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from weightlapse.film.frames import all_shapes
from weightlapse.film.grown import Lineage, events_of, stages_of
from weightlapse.film.scene import Order, compose
from weightlapse.film.surface import Surface

SIZE = (960, 540)
PARENTS = [0, 1, 2, 3, 2, 0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """4 units become 6 at frame 5 (units 2 and 0 have children); at frame 9 a layer appears, at frame 12 one vanishes."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("growth") / "run"
    small = {
        "fc1.weight": rng.normal(size=(4, 7)),
        "fc1.bias": rng.normal(size=4),
        "fc2.weight": rng.normal(size=(3, 4)),
    }
    wide = {
        "fc1.weight": small["fc1.weight"][PARENTS] + 0.01 * rng.normal(size=(6, 7)),
        "fc1.bias": small["fc1.bias"][PARENTS],
        "fc2.weight": small["fc2.weight"][:, PARENTS] * [0.5, 1, 0.5, 1, 0.5, 0.5],
    }
    deep = {**wide, "fc3.weight": np.eye(3)}
    with wl.watch(small, path) as rec:
        for state, count in (
            (small, 4),
            (wide, 4),
            (deep, 3),
            ({k: v for k, v in deep.items() if k != "fc2.weight"}, 3),
        ):
            for k in range(count):
                rec.step({n: v if k == 0 else v + 1e-9 * k for n, v in state.items()})
                rec.log(loss=0.5)
    return wl.load(path)


def test_children_are_found_and_stand_beside_their_parents(run: Any) -> None:
    lineage = Lineage(run)
    before, after = np.asarray(run.layouts[0]["fc1.weight"][0]), np.asarray(run.layouts[1]["fc1.weight"][0])
    assert np.array_equal(lineage.arranged("fc1.weight", before, 2), before)
    drawn = lineage.arranged("fc1.weight", after, 5)
    assert np.array_equal(drawn, after[[0, 5, 1, 2, 4, 3]])
    assert lineage.new_rows("fc1.weight", 5).tolist() == [False, True, False, False, True, False]
    bias = np.asarray(run.layouts[1]["fc1.bias"][0])
    assert np.array_equal(lineage.arranged("fc1.bias", bias, 5), bias[[0, 5, 1, 2, 4, 3]])
    columns = np.asarray(run.layouts[1]["fc2.weight"][0])
    assert np.array_equal(lineage.arranged("fc2.weight", columns, 5), columns[:, [0, 5, 1, 2, 4, 3]])
    later = np.asarray(run.layouts[2]["fc1.weight"][0])
    assert np.array_equal(lineage.arranged("fc1.weight", later, 10), later[[0, 5, 1, 2, 4, 3]])  # also in later layouts


def test_the_recordings_own_lineage_comes_first() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))  # nothing alike

    def stretch(start: int, stop: int, value: Any, lineage: Any = None) -> Any:
        track = np.repeat(value[None], stop - start, axis=0)
        there = {"fc.weight": tuple(value.shape)}

        class Span(SimpleNamespace):
            def __getitem__(self, name: str) -> Any:
                return track

        return Span(start=start, stop=stop, shapes=there, dtypes={"fc.weight": "float64"}, note="", lineage=lineage)

    run = SimpleNamespace(layouts=[stretch(0, 2, old), stretch(2, 4, new, {"fc": [0, 1, 2, 1, 0]})], wiring=None)
    assert Lineage(run).arranged("fc.weight", new, 2).tolist() == new[[0, 4, 1, 3, 2]].tolist()
    run.layouts[1].lineage = None
    assert Lineage(run).arranged("fc.weight", new, 2).tolist() == new.tolist()  # no parent found: at the end


def test_what_happened_is_said(run: Any) -> None:
    assert [words for _, words in events_of(run)] == ["fc1 4 → 6", "new fc3", run.layouts[3].note]


def test_stages_change_only_when_a_layer_vanishes(run: Any) -> None:
    stages = stages_of(run, np.arange(len(run.steps)))
    assert [start for start, _ in stages] == [0, run.layouts[3].start]
    assert list(all_shapes(run)) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc3.weight"]
    assert all_shapes(run)["fc1.weight"] == (6, 7)


def test_tiles_grow_in_the_picture(run: Any) -> None:
    names = list(all_shapes(run))
    scene = compose(run, Order(names, np.arange(len(run.steps)), SIZE))
    surface = Surface(*SIZE, np.arange(360, dtype=np.uint16).astype(np.uint8)[:, None])
    from weightlapse.film.movie import moments

    weights: Any = scene.panels[0]
    heights = []
    for moment in moments(run, scene, np.arange(len(run.steps))):
        scene.draw(surface, moment)
        heights.append(weights.framed["fc1.weight"].rows)
        assert ("fc3.weight" in weights.framed) == (moment.frame >= run.layouts[2].start)
    assert heights == [4] * 5 + [6] * 10


def test_the_film_and_stills_of_every_layout(run: Any, tmp_path: Path) -> None:
    assert wl.make_film(run, tmp_path / "film.mp4", size=SIZE).frames == len(run.steps)
    for frame in (0, 6, 10, -1):
        assert wl.make_film(run, tmp_path / "still.png", size=SIZE, frames=frame).frames == 1
    film = wl.make_film(
        run, tmp_path / "all.gif", size=SIZE, panels=["weights", "lines:fc1*", "groups", "histograms", "mass", "loss"]
    )
    assert film.frames == len(run.steps)


def test_films_hold_where_the_network_grew(run: Any, tmp_path: Path) -> None:
    assert wl.make_film(run, tmp_path / "film.gif", size=SIZE, fps=10, hold=1).frames == len(run.steps) + 3 * 10


def test_a_recorder_that_knows_the_lineage(tmp_path: Path) -> None:
    """The way users grow: `wl.widen`, then `rec.grow`; bias, next layer's columns and all follow the recorded parents."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    example = torch.randn(8, 6)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train(model: Any, optimizer: Any) -> None:
        for _ in range(3):
            optimizer.zero_grad()
            model(example).square().mean().backward()
            optimizer.step()

    with wl.watch(model, tmp_path / "run", optimizer=optimizer, example=example) as rec:
        train(model, optimizer)
        growth = wl.widen(model, {"0": 6}, example, optimizer=optimizer, seed=0)
        rec.grow(growth)
        train(growth.model, growth.optimizer)
    run = wl.load(tmp_path / "run")
    parents = np.asarray(growth.lineage["0"])
    order = np.lexsort((np.arange(6), np.arange(6) >= 4, parents))
    lineage = Lineage(run)
    last = len(run.steps) - 1
    for name, axis in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
        value = np.asarray(run.layouts[1][name][-1])
        assert np.array_equal(lineage.arranged(name, value, last), np.take(value, order, axis=axis))
    assert [words for _, words in events_of(run)] == ["0 4 → 6"]  # once, though the recorder marked it too
    assert wl.make_film(run, tmp_path / "film.gif", size=SIZE).frames == len(run.steps)

"""Films that tell a story: the map, what is enlarged and when, captions, and the files beside the film."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import weightlapse as wl
from tests.oracles_film import Imagined
from weightlapse.errors import InvalidArgument
from weightlapse.film.curves import Line
from weightlapse.film.scene import Order
from weightlapse.film.story import changed, rowed, told
from weightlapse.film.story_map import Map
from weightlapse.film.story_scene import compose_story, story_measure
from weightlapse.film.story_time import Timeline

BLOCKS, FRAMES, BROKEN = 12, 30, 20
SIZE = (854, 480)


def shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"embed.weight": (24, 16)}
    for i in range(BLOCKS):
        found |= {
            f"blocks.{i}.attn.weight": (16, 16),
            f"blocks.{i}.fc.weight": (32, 16),
            f"blocks.{i}.fc.bias": (32,),
            f"blocks.{i}.norm.weight": (16,),
        }
    return found | {"head.weight": (24, 16)}


def state(frame: int) -> dict[str, Any]:
    """Everything creeps; blocks.2.attn moves fast in the first half, blocks.9.attn in the second; a NaN begins in blocks.3.fc at one step."""
    out = {}
    for number, (name, shape) in enumerate(shapes().items()):
        rng = np.random.default_rng(number)
        base, way = rng.normal(size=shape), rng.normal(size=shape)
        gone = 1e-4 * frame
        if name == "blocks.2.attn.weight":
            gone = 0.05 * min(frame, FRAMES // 2)
        if name == "blocks.9.attn.weight":
            gone = 0.05 * max(frame - FRAMES // 2, 0)
        value = (base + way * gone).astype(np.float32)
        if name == "blocks.3.fc.weight" and frame >= BROKEN:
            value[4, 5] = np.nan
        out[name] = value
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("story") / "net"
    with wl.watch(state(0), path) as rec:
        for frame in range(1, FRAMES):
            rec.step(state(frame), step=10 * frame, loss=3 / frame)
            if frame == 8:
                rec.mark("warm-up ends")
    return wl.load(path)


@pytest.fixture(scope="module")
def film(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return wl.make_film(run, tmp_path_factory.mktemp("films") / "x.mp4", size=SIZE)


def test_a_large_network_tells_its_story(film: Any) -> None:
    assert film.frames == FRAMES
    assert film.poster == film.path.with_name("x.poster.png")
    assert sorted(p.name for p in film.path.parent.iterdir()) == ["x.json", "x.mp4", "x.poster.png"]
    shown = json.loads(film.path.with_suffix(".json").read_text())
    assert shown == json.loads(json.dumps(film.shows))
    assert (shown["pictures"], shown["size"]) == (FRAMES, list(SIZE))
    assert shown["time"] == {"first_step": 0, "last_step": 290, "axis": "linear", "note": "every recorded step"}
    named = {name for row in shown["network"] for layer in row["layers"] for name in layer["tensors"]}
    assert named == set(shapes())
    assert [row["row"] for row in shown["network"]] == ["embed", *(f"blocks.{i}" for i in range(BLOCKS)), "head"]


def test_what_changes_most_is_enlarged_in_its_stretch(film: Any) -> None:
    chapters = film.shows["chapters"]
    assert chapters[0]["pictures"][0] == 0
    assert chapters[-1]["pictures"][1] == FRAMES
    assert all(a["pictures"][1] == b["pictures"][0] for a, b in itertools.pairwise(chapters))
    assert chapters[0]["enlarged"][0]["tensor"] == "blocks.2.attn.weight"
    broken = next(c for c in chapters if c["pictures"][0] <= BROKEN < c["pictures"][1])
    assert [e["tensor"] for e in broken["enlarged"]][:2] == ["blocks.3.fc.weight", "blocks.9.attn.weight"]
    assert broken["pictures"][0] == BROKEN  # a new stretch where it breaks


def test_events_and_findings_are_captioned_at_their_steps(film: Any) -> None:
    captions = {c["text"]: c for c in film.shows["captions"]}
    assert captions["warm-up ends"]["step"] == 80
    nan = captions["NaN begins here: blocks.3.fc.weight, step 200"]
    assert (nan["picture"], nan["severity"], nan["tensor"]) == (BROKEN, "error", "blocks.3.fc.weight")
    assert film.shows["captions"] == sorted(film.shows["captions"], key=lambda c: c["picture"])


def test_change_is_what_it_says(run: Any) -> None:
    """Against the obvious numbers, for a tensor that is read whole."""
    frames = np.arange(FRAMES)
    found = changed(run, list(run.names), frames)
    values = np.asarray(run["blocks.2.attn.weight"][:], np.float64)
    norms = np.linalg.norm(values.reshape(FRAMES, -1), axis=1)
    expected = (
        np.linalg.norm(np.diff(values, axis=0).reshape(FRAMES - 1, -1), axis=1) / np.maximum(norms[1:], norms[:-1]) / 10
    )
    assert np.allclose(found.rate(["blocks.2.attn.weight"]), expected)
    assert found.broken == {"blocks.3.fc.weight": BROKEN}
    assert not found.sampled


def test_the_poster_is_where_it_breaks(film: Any, run: Any) -> None:
    from PIL import Image

    with Image.open(film.poster) as image:
        poster = np.asarray(image.convert("RGB")).astype(int)
    assert poster.shape == (SIZE[1], SIZE[0], 3)
    with av.open(str(film.path)) as container:
        pictures = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    apart = [np.abs(poster - picture).mean() for picture in pictures]
    assert int(np.argmin(apart)) == BROKEN
    yellow = np.array([255, 205, 0])
    assert (np.abs(poster - yellow).max(axis=2) == 0).sum() > 20  # the layer on the map


def test_in_memory_it_is_told_too(run: Any) -> None:
    film = wl.make_film(run, size=(480, 320), frames=slice(0, 8))
    assert film.path is film.poster is None
    assert film.shows is not None
    assert film.shows["pictures"] == 8


def test_a_loss_that_became_nan_is_not_said_to_be_new(run: Any) -> None:
    line = Line("loss", np.array([0, 10, 20]), np.array([3.0, 2.0, 1.0]))
    frames = np.arange(FRAMES)
    axis = Timeline(
        (0, 0, 800, 80), story_measure(854, 480), told(run, list(run.names), frames, fps=24, enlarged=1), (0, 290), line
    )
    assert axis._newest(line, 20) == "loss 1"
    assert axis._newest(line, 200) == "loss 1, last at step 20"


def test_every_tensor_when_asked(run: Any, tmp_path: Path) -> None:
    film = wl.make_film(run, tmp_path / "all.mp4", size=SIZE, story=False)
    assert (film.poster, film.shows) == (None, None)
    assert [p.name for p in tmp_path.iterdir()] == ["all.mp4"]


def test_small_networks_are_shown_whole_unless_asked(tmp_path: Path) -> None:
    small = Imagined({"fc1.weight": (8, 6), "fc1.bias": (8,), "fc2.weight": (3, 8)}, 9)
    assert wl.make_film(small, tmp_path / "a.gif", size=(480, 320)).poster is None
    film = wl.make_film(small, tmp_path / "b.gif", size=(480, 320), story=True)
    assert film.poster is not None
    assert [e["tensor"] for c in film.shows["chapters"] for e in c["enlarged"]]  # type: ignore[index]


@pytest.mark.parametrize(
    "options", [{"panels": ["weights"]}, {"other": "self"}, {"groups": {"a": ("head.weight", [0])}}]
)
def test_what_contradicts_a_story_is_refused(run: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    if "other" in options:
        options = {"other": run}
    with pytest.raises(InvalidArgument, match="story=True"):
        wl.make_film(run, tmp_path / "x.mp4", story=True, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_description_is_not_replaced(run: Any, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"mine": 1}')
    with pytest.raises(InvalidArgument, match="story=False"):
        wl.make_film(run, tmp_path / "x.mp4", size=SIZE)
    assert (tmp_path / "x.json").read_text() == '{"mine": 1}'
    assert wl.make_film(run, tmp_path / "y.mp4", size=SIZE).poster is not None
    assert wl.make_film(run, tmp_path / "y.mp4", size=SIZE).poster is not None  # our own is


@pytest.mark.parametrize("size", [(320, 240), (640, 360), (854, 480), (480, 854), (1920, 1080)])
@pytest.mark.parametrize("rows", [3, 40, 150])
def test_the_map_holds_every_layer_at_every_size(size: tuple[int, int], rows: int) -> None:
    """Inside the picture, nothing upon another, in the order of the network, wider where there are more weights."""
    sizes = {
        f"blocks.{i}.{n}.weight": s
        for i in range(rows)
        for n, s in {"a": (64, 64), "b": (8, 8), "c": (128, 64)}.items()
    }
    imagined = Imagined(sizes, 5)
    order = Order(list(sizes), np.arange(5), size)
    story = told(imagined, list(sizes), np.arange(5), fps=24, enlarged=3)
    scene = compose_story(imagined, order, story)
    found: Any = next(panel for panel in scene.panels if isinstance(panel, Map))
    assert [plate.main for cell in found.cells for plate in cell.plates] == list(sizes)
    floor = next(panel.box[1] for panel in scene.panels if isinstance(panel, Timeline))  # type: ignore[attr-defined]
    taken = np.zeros((size[1], size[0]), int)
    for cell in found.cells:
        x, y, wide, high = cell.box
        assert x % 2 == y % 2 == wide % 2 == 0
        assert x >= 0
        assert y >= 0
        assert x + wide <= size[0]
        assert y + high <= floor
        taken[y : y + high, x : x + wide] += 1
    assert taken.max() == 1
    if rows == 3:
        first = [cell.box[2] for cell in found.cells[:3]]
        assert first[1] <= first[0] <= first[2]


def test_a_row_of_hundreds_of_layers_stays_inside() -> None:
    sizes = {f"moe.experts{i}.w.weight": (8, 8) for i in range(3)} | {f"moe.0.e{i}.weight": (8, 8) for i in range(300)}
    order = Order(list(sizes), np.arange(3), SIZE)
    scene = compose_story(run := Imagined(sizes, 3), order, told(run, list(sizes), np.arange(3), fps=24, enlarged=3))
    found: Any = next(panel for panel in scene.panels if isinstance(panel, Map))
    assert sum(len(cell.plates) for cell in found.cells) == len(sizes)
    assert max(x + wide for x, _, wide, _ in (cell.box for cell in found.cells)) <= found.box[0] + found.box[2]


def test_rows_are_numbered_blocks() -> None:
    from weightlapse.film.plates import plates

    names = [
        "model.conv1.weight",
        "model.layer1.0.conv.weight",
        "model.layer1.1.conv.weight",
        "model.layer1.1.bn.weight",
        "model.fc.weight",
    ]
    found = rowed(plates(dict.fromkeys(names, (4, 4))))
    assert [title for title, _ in found] == ["conv1", "layer1.0", "layer1.1", "fc"]
    assert [len(part) for _, part in found] == [1, 1, 2, 1]


def test_time_is_kept_in_steps(run: Any) -> None:
    """The axis counts steps, not pictures; evenly, or by their logarithm when time is asked to run so."""
    frames = np.array([0, 1, 2, 3, 4, 29])
    for log in (False, True):
        order = Order(list(run.names), frames, SIZE, log_steps=log)
        story = told(run, list(run.names), frames, fps=24, enlarged=2, log_steps=log)
        scene = compose_story(run, order, story)
        axis: Any = next(panel for panel in scene.panels if isinstance(panel, Timeline))
        columns = np.array([axis._column(step) for step in (0, 145, 290)])
        assert columns[0] == 0
        assert abs(columns[2] - axis.plot[2]) <= 4
        share = columns[1] / columns[2]
        assert share > 0.8 if log else abs(share - 0.5) < 0.01


def test_letters_are_large_enough_to_read() -> None:
    assert story_measure(854, 480).text >= 13
    assert story_measure(1280, 720).text >= 15


@pytest.mark.parametrize("suffix", [".gif", ".png", ".svg", ".webm"])
def test_every_format_tells_it(run: Any, tmp_path: Path, suffix: str) -> None:
    film = wl.make_film(run, tmp_path / f"x{suffix}", size=(640, 360), frames=slice(0, FRAMES, 3))
    assert film.path.stat().st_size > 2000
    assert (film.poster is None) == (suffix in (".png", ".svg"))


def test_groups_are_written_alike_for_measures_and_films(tmp_path: Path) -> None:
    weights = {"weight": np.arange(6.0).reshape(1, 6)}
    with wl.watch(weights, tmp_path / "run") as rec:
        for step in range(1, 6):
            rec.step({"weight": weights["weight"] * step})
    run = wl.load(tmp_path / "run")
    forms = [[0, 2], ("weight", [0, 2]), {"weight": [0, 2]}, slice(0, 3, 2), np.array([1, 0, 1, 0, 0, 0], bool)]
    pictures = []
    for number, form in enumerate(forms):
        groups = {"w1": form, "weight": [5]}
        assert np.allclose(wl.measure(run, "mean", groups=groups)["w1"], np.arange(6).clip(1) * 1.0)
        film = wl.make_film(run, tmp_path / f"{number}.gif", size=(320, 240), panels=["groups"], groups=groups)
        pictures.append(film.read())
    assert len(set(pictures)) == 1
    with pytest.raises(InvalidArgument, match="flat indices below 6"):
        wl.make_film(run, tmp_path / "x.gif", size=(320, 240), panels=["groups"], groups={"w1": [6]})
    # named groups are never left out in silence: without panels= they are shown, and refused where they cannot be
    size = (640, 360)
    plain, named = (wl.make_film(run, tmp_path / "p.gif", size=size, groups=g).read() for g in (None, {"w1": [0]}))
    assert plain != named
    with pytest.raises(InvalidArgument, match="flat indices below 6"):
        wl.make_film(run, tmp_path / "x.gif", size=size, groups={"w1": [6]})
    for given in ({"groups": {"w1": [0]}}, {"panels": ["groups"]}):
        with pytest.raises(InvalidArgument, match="for the film of one recording"):
            wl.make_film(run, tmp_path / "x.gif", size=size, other=run, **given)


@pytest.mark.parametrize("groups", [{"w1": [0]}, {"w1": slice(0, 2), "w2": [2]}, {"w1": ...}])
def test_bare_positions_among_several_tensors_are_refused_by_measures_and_films(tmp_path: Path, groups: dict) -> None:
    with wl.watch({"a": np.eye(2), "b": np.ones(3)}, tmp_path / "run") as rec:
        rec.step({"a": np.eye(2) * 2, "b": np.ones(3)})
    run = wl.load(tmp_path / "run")
    for call in (
        lambda: wl.measure(run, "mean", groups=groups),
        lambda: wl.make_film(run, tmp_path / "x.gif", groups=groups),
    ):
        with pytest.raises(InvalidArgument, match="bare positions"):
            call()

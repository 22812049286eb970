"""Films: right pictures in every format, right length, honest marks, no half-written file, bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import weightlapse as wl
from tests.oracles_film import Imagined
from weightlapse.errors import InvalidArgument, MissingExtra, UnknownTensor
from weightlapse.film import colours
from weightlapse.film.frames import sample, values_over
from weightlapse.film.pace import timeline
from weightlapse.film.scene import Order, compose
from weightlapse.film.tiles import Tile
from weightlapse.recording.frames import check_frames

av = pytest.importorskip("av")

SMALL = (480, 300)
FRAMES = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A recording with a matrix whose cells all change in every frame, a bias, a loss and an event."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("film") / "noise"
    state = {"fc.weight": rng.normal(size=(16, 24)).astype(np.float32), "fc.bias": np.zeros(16, np.float32)}
    with wl.watch(state, path) as rec:
        for step in range(1, FRAMES):
            state = {name: (w + 0.3 * rng.normal(size=w.shape)).astype(np.float32) for name, w in state.items()}
            rec.step(state)
            rec.log(loss=1.0 / step)
            if step == 6:
                rec.mark("lr dropped")
    return wl.load(path)


def decoded(path: Path) -> list[NDArray[np.uint8]]:
    """The pictures of a film as RGB, read by libraries that know nothing of weightlapse."""
    if path.suffix in (".mp4", ".webm"):
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        return [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def tiles_of(
    run: Any, size: tuple[int, int] = SMALL, panels: list[str] | None = None
) -> tuple[dict[str, Tile], dict[str, Any]]:
    """Where the film draws what, by the film's own layout."""
    scene = compose(run, Order(list(run.names), np.arange(len(run.steps)), size, panels=panels))
    weights: Any = scene.panels[0]
    return {t.name: t for _, placed in weights.stages for p in placed for t in p.tiles}, dict(weights.limits)


def misses(run: Any, path: Path, size: tuple[int, int] = SMALL) -> NDArray[np.int64]:
    """The largest channel error of every cell of fc.weight in every frame, edges of the cells included."""
    tiles, limits = tiles_of(run, size, ["weights", "loss"])
    tile = tiles["fc.weight"]
    assert min(tile.cell) >= 4
    table = colours.table("light", "RdBu_r").astype(np.int64)
    errors = []
    for index, picture in enumerate(decoded(path)):
        codes = tile.codes(np.asarray(run["fc.weight"][index]), limits["fc.weight"])
        wanted = table[codes[tile.row_map][:, tile.column_map]]
        got = picture[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width].astype(np.int64)
        errors.append(np.abs(got - wanted).max())
    return np.array(errors)


@pytest.mark.parametrize(
    ("suffix", "options", "most"),
    [
        (".mp4", {"faithful": True}, 2),
        (".webm", {"faithful": True}, 2),
        (".gif", {}, 3),
        (".apng", {}, 3),
    ],
)
def test_colours_are_true(run: Any, tmp_path: Path, suffix: str, options: dict[str, Any], most: int) -> None:
    path = tmp_path / f"film{suffix}"
    wl.make_film(run, path, size=SMALL, panels=["weights", "loss"], **options)
    errors = misses(run, path)
    assert len(errors) == FRAMES
    assert errors.max() <= most


def test_gif_and_apng_hold_exactly_the_palette(run: Any, tmp_path: Path) -> None:
    """No quantising: every pixel of a cell is the palette's entry for its code."""
    entries, entry = colours.palette(colours.table("light", "RdBu_r"), 2, "RdBu_r")
    tiles, limits = tiles_of(run, SMALL, ["weights", "loss"])
    tile = tiles["fc.weight"]
    for suffix in (".gif", ".apng"):
        path = tmp_path / f"film{suffix}"
        wl.make_film(run, path, size=SMALL, panels=["weights", "loss"])
        for index, picture in enumerate(decoded(path)):
            codes = tile.codes(np.asarray(run["fc.weight"][index]), limits["fc.weight"])
            wanted = entries[entry[codes[tile.row_map][:, tile.column_map]]]
            assert (picture[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] == wanted).all()


def test_the_usual_mp4_is_close_and_plays_everywhere(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    wl.make_film(run, path, size=SMALL, panels=["weights", "loss"])
    tiles, limits = tiles_of(run, SMALL, ["weights", "loss"])
    tile = tiles["fc.weight"]
    table = colours.table("light", "RdBu_r").astype(np.int64)
    for index, picture in enumerate(decoded(path)):
        wanted = table[tile.codes(np.asarray(run["fc.weight"][index]), limits["fc.weight"])[:-1, :-1]]
        top, left = np.arange(tile.rows) * tile.cell[1], np.arange(tile.columns) * tile.cell[0]
        middle = picture[(tile.y + top + tile.cell[1] // 2)[:, None], (tile.x + left + tile.cell[0] // 2)[None, :]]
        assert np.abs(middle - wanted).mean() < 4
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.codec_context.colorspace == 6  # said, so that no player has to guess


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".apng"])
def test_length_frames_and_words(run: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film{suffix}"
    film = wl.make_film(run, path, size=SMALL, fps=7)
    assert (film.frames, film.size, film.path) == (FRAMES, SMALL, path)
    assert film.seconds == pytest.approx(FRAMES / 7)
    assert [p.shape for p in decoded(path)] == [(SMALL[1], SMALL[0], 3)] * FRAMES
    if suffix in (".mp4", ".webm"):
        with av.open(str(path)) as container:
            assert container.duration / 1e6 == pytest.approx(FRAMES / 7, abs=0.15)
            assert float(container.streams.video[0].average_rate) == pytest.approx(7)
            words = {key.lower(): value for key, value in container.metadata.items()}
        assert words["title"] == "noise"
        assert words["comment"] == f"weightlapse film of noise, steps 0 to {FRAMES - 1}"
        return
    from PIL import Image

    with Image.open(path) as image:
        assert image.info["loop"] == 0  # for ever
        lengths = []
        for frame in range(image.n_frames):
            image.seek(frame)
            lengths.append(image.info["duration"])
        image.seek(0)
        assert sum(lengths) == pytest.approx(FRAMES / 7 * 1000, abs=10)
    assert b"noise" in path.read_bytes()
    assert f"steps 0 to {FRAMES - 1}".encode() in path.read_bytes()


def test_numbered_pictures(run: Any, tmp_path: Path) -> None:
    film = wl.make_film(run, tmp_path / "at-%03d.png", size=SMALL)
    assert film.frames == FRAMES
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"at-{i:03d}.png" for i in range(FRAMES)]
    first, last = decoded(tmp_path / "at-000.png")[0], decoded(tmp_path / f"at-{FRAMES - 1:03d}.png")[0]
    assert (first != last).any()


def test_odd_values_have_their_marks(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(12, 20)).astype(np.float32)
    with wl.watch({"w": weight.copy()}, tmp_path / "run") as rec:
        weight[3, 4], weight[5, 6], weight[7, 8] = np.nan, np.inf, -np.inf
        rec.step({"w": weight.copy()})
    run = wl.load(tmp_path / "run")
    wl.make_film(run, tmp_path / "film.gif", size=SMALL, panels=["weights"])
    tiles, _ = tiles_of(run, SMALL, ["weights"])
    tile = tiles["w"]
    table = colours.table("light", "RdBu_r")
    before, after = decoded(tmp_path / "film.gif")
    for (row, column), code in {(3, 4): colours.NAN, (5, 6): colours.PLUS_INF, (7, 8): colours.MINUS_INF}.items():
        top, left = tile.y + row * tile.cell[1], tile.x + column * tile.cell[0]
        cell = after[top : top + tile.cell[1], left : left + tile.cell[0]]
        assert (cell[0, 0] == table[code]).all()
        assert (cell == table[colours.signs(table)[code]]).all(axis=2).any()  # and a sign that needs no colour
        assert (before[top : top + tile.cell[1], left : left + tile.cell[0]] != table[code]).any(axis=2).all()


def test_the_scale_does_not_jump_unless_asked(tmp_path: Path) -> None:
    """A weight that keeps its value keeps its colour while others grow; with scale="step" it does not."""
    with wl.watch({"w": np.full((2, 2), 0.5)}, tmp_path / "run") as rec:
        rec.step({"w": np.array([[0.5, 0.5], [0.5, 1.0]])})
    run = wl.load(tmp_path / "run")
    tile = tiles_of(run, SMALL, ["weights"])[0]["w"]
    at = tile.y + 2, tile.x + 2
    for scale, same in (("tensor", True), ("global", True), ("step", False)):
        wl.make_film(run, tmp_path / "film.gif", size=SMALL, panels=["weights"], scale=scale)
        first, second = decoded(tmp_path / "film.gif")
        assert (first[at] == second[at]).all() == same


def test_global_scale_is_one_scale(tmp_path: Path) -> None:
    with wl.watch({"a": np.full((2, 2), 0.5), "b": np.full((2, 2), 5.0)}, tmp_path / "run") as rec:
        rec.step({"a": np.full((2, 2), 0.5), "b": np.full((2, 2), 5.0)})
    run = wl.load(tmp_path / "run")
    for scale, same in (("tensor", True), ("global", False)):
        wl.make_film(run, tmp_path / "still.png", size=SMALL, panels=["weights"], scale=scale)
        (picture,) = decoded(tmp_path / "still.png")
        tiles, _ = tiles_of(run, SMALL, ["weights"])
        colour = [tuple(picture[tiles[name].y + 2, tiles[name].x + 2]) for name in ("a", "b")]
        assert (colour[0] == colour[1]) == same


def test_the_loss_grows(run: Any, tmp_path: Path) -> None:
    wl.make_film(run, tmp_path / "film.gif", size=SMALL, panels=["scalars:loss"])
    blue = colours.table("light", "RdBu_r")[colours.series(0) + colours.SERIES_LEVELS - 1]
    reach = []
    for picture in decoded(tmp_path / "film.gif"):
        columns = np.flatnonzero((picture[70:] == blue).all(axis=2).any(axis=0))
        reach.append(int(columns.max()) if len(columns) else 0)
    assert reach == sorted(reach)
    assert reach[-1] > SMALL[0] * 0.8
    assert reach[1] < SMALL[0] * 0.3


def test_panels_that_are_drawn_from_the_weights(run: Any, tmp_path: Path) -> None:
    panels = [
        "weights:fc.w*",
        "lines:fc.bias",
        "groups",
        "mass",
        "distance",
        "norms",
        "histograms",
        "loss",
        "text:one two\nthree",
    ]
    film = wl.make_film(
        run,
        tmp_path / "film.gif",
        size=(1280, 720),
        panels=panels,
        groups={"first": ("fc.weight", [0, 1]), "rest": ("fc.weight", slice(2, None))},
    )
    pictures = decoded(film.path)
    assert len(pictures) == FRAMES
    changed = (pictures[0] != pictures[-1]).any(axis=2)
    assert changed[:, :640].any()
    assert changed[:, 900:].sum() > 2000


def test_without_weights_panels_fill_the_page(run: Any, tmp_path: Path) -> None:
    film = wl.make_film(run, tmp_path / "still.png", size=SMALL, panels=["lines", "norms"])
    (picture,) = decoded(film.path)
    assert (picture[:, : SMALL[0] // 2] < 200).any()
    assert (picture[:, SMALL[0] // 2 :] < 200).any()


@pytest.mark.parametrize(
    "shapes",
    [{"one": (1, 1)}, {"scalar": ()}, {"fc.weight": (100, 1000), "long": (100_000,)}],
    ids=["1x1", "scalar", "100000"],
)
@pytest.mark.parametrize("frames", [1, 5])
def test_strange_sizes(tmp_path: Path, shapes: dict[str, tuple[int, ...]], frames: int) -> None:
    imagined = Imagined(shapes, frames)
    film = wl.make_film(imagined, tmp_path / "film.mp4")
    assert film.frames == frames
    assert (decoded(film.path)[0] < 250).any()


def test_three_hundred_tensors(tmp_path: Path) -> None:
    shapes = {
        f"layers.{i}.{n}": s
        for i in range(75)
        for n, s in {"a.weight": (32, 16), "a.bias": (32,), "norm.weight": (16,), "norm.bias": (16,)}.items()
    }
    film = wl.make_film(Imagined(shapes, 3), tmp_path / "film.mp4")
    tiles, _ = tiles_of(Imagined(shapes, 3), (1280, 720))
    assert len(tiles) == 300
    assert film.frames == 3


def test_a_hundred_thousand_frames(tmp_path: Path) -> None:
    """Every n-th is shown, the picture says so, and memory does not follow the length."""
    imagined = Imagined({"fc.weight": (16, 16), "fc.bias": (16,)}, 100_000)
    tracemalloc.start()
    film = wl.make_film(imagined, tmp_path / "film.gif", size=(320, 240), seconds=5, panels=["weights", "loss"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert film.frames == 120
    assert imagined.reads < 4000
    assert peak < 64 << 20
    shown = timeline(imagined, ["fc.weight"], np.arange(100_000), pace=None, seconds=None, fps=24, holds={})
    assert len(shown) <= 3601
    assert shown[-1] == 99_999


def test_reads_are_bounded_and_in_order() -> None:
    imagined = Imagined({"w": (1000, 1000)}, 50)
    seen = [int(values["w"].size) for values in values_over(imagined, ["w"], np.arange(50))]
    assert seen == [1_000_000] * 50
    assert imagined.largest_read <= 32 << 20
    frames = np.array([4, 2, 2, 9, 0])
    for frame, values in zip(frames, values_over(imagined, ["w"], frames)):
        assert np.array_equal(values["w"], imagined["w"][int(frame)])


def test_paces() -> None:
    imagined = Imagined({"w": (4,)}, 100, lambda name, frame: np.full(4, 1.0 + min(frame, 10) * 0.1))
    frames = np.arange(100)

    def shown(**more: Any) -> list[int]:
        given: dict[str, Any] = {"pace": None, "seconds": None, "fps": 10, "holds": {}} | more
        return [int(f) for f in timeline(imagined, ["w"], frames, **given)]

    assert shown() == list(range(100))
    assert shown(pace=30) == [0, 30, 60, 90, 99]
    assert len(shown(seconds=2)) == 20
    assert shown(seconds=2)[0] == 0
    assert shown(seconds=2)[-1] == 99
    assert len(shown(seconds=20)) == 200
    logarithmic = shown(pace="log")
    assert logarithmic[:3] == [0, 1, 2]
    assert np.diff(logarithmic).max() > 3
    assert logarithmic[-1] == 99
    moved = shown(pace="equal change", seconds=5)
    assert len(moved) == 50
    assert sorted(moved) == moved
    assert sum(f <= 10 for f in moved) >= 45  # all movement is in the first ten frames
    held = shown(holds={5: 7})
    assert held.count(5) == 8
    assert len(held) == 107
    assert len(shown(holds={5: 7}, seconds=2)) == 20  # the hold is part of the two seconds, at the first picture after
    with pytest.raises(InvalidArgument, match="needs weights that move"):
        timeline(
            Imagined({"w": (2,)}, 5, lambda n, f: [1.0, 2.0]),
            ["w"],
            np.arange(5),
            pace="equal change",
            seconds=None,
            fps=10,
            holds={},
        )
    for wrong in (0, -3, "slowly"):
        with pytest.raises(InvalidArgument, match="pace"):
            shown(pace=wrong)
    with pytest.raises(InvalidArgument, match="seconds"):
        shown(seconds=0)


def test_an_event_holds_and_is_said(run: Any, tmp_path: Path) -> None:
    film = wl.make_film(run, tmp_path / "film.gif", size=SMALL, fps=10, hold=0.5)
    assert film.frames == FRAMES + 5
    plain = decoded(wl.make_film(run, tmp_path / "plain.gif", size=SMALL, fps=10).path)
    orange = colours.table("light", "RdBu_r")[colours.series(1) + colours.SERIES_LEVELS - 1]
    said = [(p[:60, SMALL[0] // 2 :] == orange).all(axis=2).sum() for p in plain]
    assert max(said[:6]) < said[6]
    assert said[-1] > 0.9 * said[6]  # 1.5 seconds are longer than what is left


def test_frames_are_chosen(run: Any, tmp_path: Path) -> None:
    assert wl.make_film(run, tmp_path / "a.gif", size=SMALL, frames=slice(2, 8, 2)).frames == 3
    assert wl.make_film(run, tmp_path / "a.gif", size=SMALL, frames=[0, -1]).frames == 2
    assert wl.make_film(run, tmp_path / "a.gif", size=SMALL, frames=[5, 4, 3]).frames == 3
    assert wl.make_film(run, tmp_path / "a.gif", size=SMALL, frames=7).frames == 1
    assert check_frames(None, 4).tolist() == [0, 1, 2, 3]
    assert sample(np.arange(1000), 40).tolist()[:3] == [0, 1, 2]
    assert len(sample(np.arange(1000), 40)) <= 40


def test_a_path_will_do_and_nothing_else_is_written(run: Any, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"an older film")
    wl.make_film(str(run.path), tmp_path / "film.mp4", size=SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]
    assert len(decoded(tmp_path / "film.mp4")) == FRAMES


def test_a_failure_leaves_the_old_film_and_no_scraps(run: Any, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"an older film")
    broken = Imagined({"w": (4, 4)}, 50, lambda name, frame: 1 / 0 if frame == 33 else np.ones((4, 4)))
    broken.scalars = {}
    with pytest.raises(ZeroDivisionError):
        wl.make_film(broken, tmp_path / "film.mp4", size=SMALL, scale="step", panels=["weights"])
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]
    assert (tmp_path / "film.mp4").read_bytes() == b"an older film"


def test_in_a_notebook_it_plays_from_memory(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    film = wl.make_film(run, size=SMALL)
    assert list(tmp_path.iterdir()) == []
    page = film._repr_mimebundle_()["text/html"]
    assert page.startswith("<video controls loop")
    assert "data:video/mp4;base64," in page
    assert len(film.read()) > 1000
    assert repr(film) == f"Film(in memory, 480×300, {FRAMES} frames, {FRAMES / 24:.3g} s)"
    gif = wl.make_film(run, tmp_path / "film.gif", size=SMALL)
    assert gif._repr_html_().startswith("<img")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "film.avi"}, "cannot tell the format of 'film.avi'"),
        ({"out": "film"}, "the suffix must be one of .mp4"),
        ({"size": (641, 480)}, "need even numbers; use 642x480"),
        ({"size": (10, 10)}, "out of range"),
        ({"size": 5}, "size must be"),
        ({"fps": 0}, "fps=0 must be a number above 0"),
        ({"fps": float("nan")}, "fps"),
        ({"out": "film.gif", "fps": 60}, "fps=60 is too fast"),
        ({"scale": "frame"}, "scale must be one of 'tensor', 'global', 'step'"),
        ({"cmap": "RdBlu"}, "no colour map is called"),
        ({"theme": "sepia"}, "no theme"),
        ({"preset": "warp"}, "preset"),
        ({"crf": 99}, "crf=99"),
        ({"frames": [99]}, "frame 99 does not exist: the recording has frames 0 to 11"),
        ({"frames": slice(50, 60)}, "selects none of the 12 frames"),
        ({"frames": "all"}, "frames must be"),
        ({"panels": []}, "panels is empty"),
        ({"panels": ["wights"]}, "no panel is called 'wights'.*'weights'"),
        ({"panels": ["lines:nothing*"]}, "no drawn tensor matches 'nothing\\*'"),
        ({"panels": ["scalars:los"]}, "no scalar is called 'los'.*'loss'"),
        ({"panels": ["groups"], "groups": {"g": ("fc.wight", [0])}}, "no tensor is called 'fc.wight'"),
        ({"panels": ["groups"], "groups": {"g": ("fc.weight", slice(0, 0))}}, "holds no weight"),
        ({"hold": -1}, "hold=-1"),
        ({"out": "missing/film.mp4"}, "the folder 'missing' does not exist"),
        ({"out": "a-%d-%d.png"}, "one number in the name"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgument, match=message):
        wl.make_film(run, **{"out": "film.mp4", "size": SMALL} | options)
    assert list(tmp_path.iterdir()) == []


def test_no_tensor_is_an_error(run: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownTensor, match=r"no tensor of the recording matches 'conv\*'"):
        wl.make_film(run, tmp_path / "film.mp4", tensors="conv*")


def test_without_pyav_the_line_that_installs_it(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"writing .mp4 films needs the package 'av'.*weightlapse\[film\]"):
        wl.make_film(run, tmp_path / "film.mp4", size=SMALL)
    assert wl.make_film(run, tmp_path / "film.gif", size=SMALL).frames == FRAMES
    assert [p.name for p in tmp_path.iterdir()] == ["film.gif"]


def test_other_streams_are_drawn_when_named(tmp_path: Path) -> None:
    imagined = Imagined({"w": (3, 3), "gradients:w": (3, 3), "batches": ()}, 3)
    imagined.dtypes["batches"] = "int64"
    from weightlapse.film.frames import chosen

    assert chosen(imagined, "*") == ["w"]
    assert chosen(imagined, ["gradients:*", "w"]) == ["w", "gradients:w"]
    assert chosen(imagined, ["batches"]) == ["batches"]
    assert wl.make_film(imagined, tmp_path / "a.gif", size=SMALL, tensors=["w", "gradients:*"]).frames == 3

"""Pictures that are made while nobody waits: the same as those that are asked for, within a budget, and never in anybody's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import weightlapse as wl
from tests.test_view_answers import unpack
from weightlapse.picture.codes import codes
from weightlapse.picture.reduce import reduce_to
from weightlapse.view import previews as module
from weightlapse.view.answers import Answers
from weightlapse.view.previews import Previews
from weightlapse.view.subject import Subject

SHAPES = {"fc.weight": (701, 300), "wte.weight": (9000, 12), "conv.weight": (64, 48, 6, 6)}
FRAMES = 23


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("previews") / "run"
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    with wl.watch(state, path) as rec:
        for _ in range(1, FRAMES):
            for values in state.values():
                values += np.float32(0.1) * rng.standard_normal(values.shape).astype(np.float32)
            state["fc.weight"][3, 3] = np.nan
            rec.step(state)
    return wl.load(path)


def made(answers: Answers) -> None:
    """Waits until there is nothing left to make."""
    for _ in range(1500):
        if answers.pictures.previews._worker is None:
            return
        time.sleep(0.02)
    raise AssertionError("the previews were never finished")


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("f,mode", [("2,4", "typical"), ("8,1", "extreme")])
def test_what_was_made_beforehand_is_what_is_asked_for(run: Any, name: str, f: str, mode: str) -> None:
    answers = Answers([Subject(run, "run")])
    query = {"tensor": name, "f": f, "mode": mode, "limit": "2.5"}
    answers.reply("clip", query | {"frames": "4:5:1"})
    made(answers)
    factors = tuple(map(int, f.split(",")))
    series = answers.pictures.previews._series
    assert series is not None
    assert all(stretch.complete for stretch in series.stretches.values())
    header, pixels = unpack(answers.reply("clip", query | {"frames": f"0:{FRAMES}:1"})[1], "uint8")
    assert header["frames"] == list(range(FRAMES))
    plane = answers.subjects[0].arrangement(name, answers.subjects[0].piece(name, 0))
    for frame, picture in zip(header["frames"], pixels.reshape(-1, header["h"], header["w"]), strict=True):
        cells = plane.arrange(run[name][frame])
        assert np.array_equal(picture, codes(reduce_to(cells, *factors, mode, 2.5), 2.5)), frame


def test_a_half_made_picture_is_finished_by_the_question(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightlapse.view.pictures.BAND_CELLS", 60_000)  # so that fc.weight counts as large
    answers = Answers([Subject(run, "run")])
    whole = codes(reduce_to(run["fc.weight"][9], 8, 8, "typical", 2.5), 2.5)
    monkeypatch.setattr(answers.pictures.previews, "want", lambda *given: None)
    monkeypatch.setattr(answers.pictures.previews, "get", lambda key, frame: (whole[:31], False))
    read: list[slice] = []
    cells = answers.pictures._cells
    monkeypatch.setattr(
        answers.pictures, "_cells", lambda s, n, f, rows, *rest: read.append(rows) or cells(s, n, f, rows, *rest)
    )
    query = {"tensor": "fc.weight", "frames": "9:10:1", "f": "8,8", "limit": "2.5"}
    header, pixels = unpack(answers.reply("clip", query)[1], "uint8")
    assert np.array_equal(pixels.reshape(header["h"], header["w"]), whole)
    assert read[0].start == 31 * 8


def pictures(frames: range, rows: int = 6, cols: int = 5, strips: int = 3) -> Iterator[NDArray[np.uint8]]:
    whole = np.stack([np.full((rows, cols), frame, np.uint8) for frame in frames])
    yield from np.split(whole, strips, axis=1)


def waited(previews: Previews) -> None:
    for _ in range(500):
        if previews._worker is None:
            return
        time.sleep(0.01)
    raise AssertionError("never finished")


def test_the_stretch_where_one_stands_comes_first_and_the_budget_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET", 4 * 120)  # room for four stretches of four frames
    order: list[int] = []

    def make(frames: range) -> Iterator[NDArray[np.uint8]]:
        order.append(frames.start)
        return pictures(frames)

    previews = Previews(lambda: False)
    parts = [range(a, a + 4) for a in range(0, 40, 4)]
    previews.want("key", 21, parts, (6, 5), lambda: make)
    waited(previews)
    assert order == [20, 24, 28, 32]
    found = previews.get("key", 22)
    assert found is not None
    assert found[1]
    assert (found[0] == 22).all()
    assert previews.get("key", 3) is None
    previews.want("key", 1, parts, (6, 5), lambda: make)
    waited(previews)
    assert order[4:] == [0, 4, 8, 12]
    assert previews.get("key", 22) is None
    assert previews.get("other", 2) is None
    assert sum(s.pictures.nbytes for s in previews._series.stretches.values()) <= 4 * 120  # type: ignore[union-attr]


def test_nothing_is_made_while_somebody_waits() -> None:
    waiting = threading.Event()
    waiting.set()
    previews = Previews(waiting.is_set)
    previews.want("key", 0, [range(3)], (6, 5), lambda: pictures)
    time.sleep(0.1)
    assert previews.get("key", 0) is None
    waiting.clear()
    waited(previews)
    assert previews.get("key", 0) is not None


def test_a_stretch_that_cannot_be_read_is_left_out() -> None:
    def make(frames: range) -> Iterator[NDArray[np.uint8]]:
        if frames.start == 4:
            raise wl.DamagedRecording("a page fails its checksum")
        return pictures(frames)

    previews = Previews(lambda: False)
    previews.want("key", 0, [range(a, a + 4) for a in (0, 4, 8)], (6, 5), lambda: make)
    waited(previews)
    assert [previews.get("key", frame) is not None for frame in (1, 5, 9)] == [True, False, True]
    assert not previews.coming("key", 5)


def test_strips_are_cut_where_the_store_cuts(run: Any) -> None:
    subject = Subject(run, "run")
    for name in SHAPES:
        piece = subject.pieces(name)[0]
        strips = subject.strips(name, piece, 40_000)
        rows = subject.arrangement(name, piece).rows
        assert [s.start for s in strips] == [0, *(s.stop for s in strips[:-1])]
        assert strips[-1].stop == rows
    segment = run._store.segments[0]
    edges = {-(-cut // 300) for cut in segment.edges("fc.weight")}
    assert {s.start for s in subject.strips("fc.weight", subject.pieces("fc.weight")[0], 40_000)} <= edges
    assert set(subject.stretches()) >= {0}

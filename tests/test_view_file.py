"""The page that is one file: opened from disk in a real browser, exact when it fits, honest when it does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from tests.browser import Page, needs_chromium
from weightlapse.errors import InvalidArgument, NotARecording
from weightlapse.view import page_file
from weightlapse.view.pack import blocks
from weightlapse.view.page_file import make_page
from weightlapse.view.subject import Subject

pytestmark = [pytest.mark.xdist_group("browser")]


def record(path: Path, seed: int, frames: int = 40, size: int = 24) -> Path:
    rng = np.random.default_rng(seed)
    state: dict[str, Any] = {
        "fc1.weight": rng.standard_normal((size, size)).astype(np.float32),
        "fc1.bias": rng.standard_normal(size),
        "</script><script>alert(1)</script>": np.ones((2, 2), np.float32),
        "count": np.array(0),
    }
    with wl.watch(state, path) as rec:
        for frame in range(1, frames):
            state["fc1.weight"] = (state["fc1.weight"] + 0.1 * rng.standard_normal((size, size))).astype(np.float32)
            state["fc1.bias"] = state["fc1.bias"] * 1.01
            state["count"] = np.array(frame)
            seen = state | {"fc1.weight": state["fc1.weight"].copy()}
            if frame == 12:
                seen["fc1.weight"][0, 0], seen["fc1.weight"][0, 1] = np.nan, np.inf
            rec.step(seen, step=2 * frame, loss=1 / frame)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files")
    record(path / "a", 0)
    record(path / "b", 1)
    return path


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1300, "height": 850}, offline=True) as context:
        page = Page(context.new_page())
        yield page
        page.quiet()
        assert [u for u in page.requests if not u.startswith(("file:", "about:", "data:", "blob:"))] == []


def at(page: Page, row: int, col: int, frame: int) -> tuple[float, float, int]:
    """(value, bound, step) that the page shows for a cell of the frame drawn."""
    page.point(row, col)
    page.until("value", data_index=f"{row},{col}", data_frame=frame)
    element = page.get("value")
    names = ("data-value", "data-bound", "data-step")
    value, bound, step = (element.get_attribute(name) for name in names)
    return float(value), float(bound), int(step)


@needs_chromium
def test_a_small_recording_is_in_it_bit_for_bit(page: Page, folder: Path, tmp_path: Path) -> None:
    run = wl.load(folder / "a")
    path = make_page(run, tmp_path / "page.html")
    page.open(path.as_uri() + "#tensor=fc1.weight&frame=30")
    page.at_frame(30)
    assert not page.get("note").is_visible()
    assert page.attribute("timeline", "aria-valuemax") == "39"
    for row, col in ((0, 0), (3, 17), (23, 23)):
        value, bound, step = at(page, row, col, 30)
        assert (np.float32(value), bound, step) == (run["fc1.weight"][30, row, col], 0.0, 60)
    page.get("timeline").focus()
    before = page.pixels()
    page.page.keyboard.press("Home")
    page.at_frame(0)
    assert page.pixels() != before
    page.get("play").click()
    page.past(3)
    page.page.keyboard.press("Space")
    page.point(5, 5, click=True)
    assert page.get("pin").get_attribute("data-index") == "5,5"


@needs_chromium
@pytest.mark.parametrize("max_bytes", [200_000, 175_000])
def test_a_larger_one_is_thinned_and_says_so(page: Page, folder: Path, tmp_path: Path, max_bytes: int) -> None:
    run = wl.load(folder / "a")
    path = make_page(run, tmp_path / "page.html", max_bytes=max_bytes)
    assert path.stat().st_size <= max_bytes
    page.open(path.as_uri() + "#tensor=fc1.weight")
    assert page.get("note").is_visible()
    last = int(page.attribute("timeline", "aria-valuemax"))
    errors = []
    for frame in sorted({0, last // 2, last}):
        page.page.evaluate(f"location.hash = 'tensor=fc1.weight&frame={frame}'")
        page.at_frame(frame)
        for row, col in ((2, 3), (7, 11)):
            value, bound, step = at(page, row, col, frame)
            error = abs(value - float(run.state(step=step)["fc1.weight"][row, col]))
            assert error <= bound
            errors.append(error)
    assert max(errors) > 0
    assert page.attribute("step", "data-step") == str(run.steps[-1])  # the last frame is always kept


@needs_chromium
def test_nan_and_infinity_survive_quantising(page: Page, folder: Path, tmp_path: Path) -> None:
    page.open(
        make_page(folder / "a", tmp_path / "page.html", max_bytes=200_000).as_uri() + "#tensor=fc1.weight&step=24"
    )
    page.point(0, 0)
    page.until("value", data_value="NaN")
    page.point(0, 1)
    page.until("value", data_value="Infinity")


@needs_chromium
def test_two_runs_in_one_file(page: Page, folder: Path, tmp_path: Path) -> None:
    path = make_page(folder / "a", tmp_path / "page.html", other=folder / "b")
    page.open(path.as_uri() + "#tensor=fc1.weight&frame=5")
    page.at_frame(5)
    page.page.wait_for_selector("section[aria-label='Distance of the two runs']")
    value, bound, _ = at(page, 1, 2, 5)
    assert (np.float32(value), bound) == (wl.load(folder / "a")["fc1.weight"][5, 1, 2], 0.0)


@needs_chromium
def test_large_tensors_are_thinned_in_space_and_keep_their_own_indices(page: Page, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((300, 350)).astype(np.float32)
    with wl.watch({"W": weights}, tmp_path / "large") as rec:
        for _ in range(70):
            weights = (weights + rng.standard_normal(weights.shape)).astype(np.float32)
            rec.step({"W": weights})
    run = wl.load(tmp_path / "large")
    path = make_page(run, tmp_path / "page.html", max_bytes=750_000)
    assert path.stat().st_size <= 750_000
    page.open(path.as_uri())
    assert "row" in page.get("note").text_content()
    rows = int(page.attribute("heatmap", "data-rows"))
    assert rows < 300
    page.point(3, 5)
    page.page.wait_for_selector("[data-testid=value][data-index]")
    element = page.get("value")
    index = tuple(map(int, element.get_attribute("data-index").split(",")))
    assert index == (3 * -(-300 // rows), 5 * -(-300 // rows))
    stored = float(run["W"][(0, *index)])
    assert abs(float(element.get_attribute("data-value")) - stored) <= float(element.get_attribute("data-bound"))


def test_the_file_asks_for_nothing_and_allows_nothing(folder: Path, tmp_path: Path) -> None:
    text = make_page(folder / "a", tmp_path / "page.html").read_text()
    assert re.search(r"default-src 'none'; script-src 'sha256-[^']+'; style-src 'sha256-[^']+'", text)
    assert re.findall(r'(?:src|href)="(?!data:)[^"]+"', text.split("<script")[0]) == []
    data = text.split('id="weightlapse-data">')[1].split("</script>")[0]
    assert "<" not in data


def test_a_budget_that_nothing_meets_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="max_bytes"):
        make_page(folder / "a", tmp_path / "page.html", max_bytes=10_000)
    assert list(tmp_path.iterdir()) == []


def test_what_a_page_is_planned_from_is_read_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven plans are tried for so small a page; the samples behind its statistics are read once, and the blocks are packed in a few passes at most."""
    looked: list[str] = []
    packed: list[int] = []
    sample = Subject.sample
    monkeypatch.setattr(Subject, "sample", lambda self, name: looked.append(name) or sample(self, name))
    monkeypatch.setattr(page_file, "blocks", lambda *given: packed.append(1) or blocks(*given))
    path = make_page(folder / "a", tmp_path / "page.html", max_bytes=180_000)
    assert path.stat().st_size <= 180_000
    names = wl.load(folder / "a").names
    assert sorted(looked) == sorted(names)
    assert len(packed) <= 2 * len(names)


def test_bad_input_leaves_no_file(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotARecording):
        make_page(tmp_path / "nothing", tmp_path / "page.html")
    with pytest.raises(InvalidArgument, match="folder"):
        make_page(folder / "a", tmp_path)
    assert list(tmp_path.iterdir()) == []

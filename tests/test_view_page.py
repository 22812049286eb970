"""The viewer's page in a real browser: every fixed point, driven as a person or a script would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from tests.browser import Page, needs_chromium, served
from weightlapse.wiring.data import Wiring

pytestmark = [needs_chromium, pytest.mark.xdist_group("browser")]

FRAMES = 30
EVIL = "<img src=x onerror=alert(1)>/../../\u202eweights"


def net(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "fc1.weight": rng.standard_normal((6, 8)).astype(np.float32),
        "fc1.bias": rng.standard_normal(6).astype(np.float32),
        "fc2.weight": rng.standard_normal((4, 6)),
        "conv.weight": rng.standard_normal((4, 3, 2, 2)).astype(np.float32),
        "half": rng.standard_normal((3, 3)).astype(np.float16),
        "count": np.array(2**60 + 1),
        EVIL: rng.standard_normal((2, 2)).astype(np.float32),
    }


WIRING = """
tensor fc1.weight (6, 8)
tensor fc1.bias (6,)
tensor fc2.weight (4, 6)
group fc1: 6 units, permutation
  fc1.weight[0]: out
  fc1.bias[0]: add
  fc2.weight[1]: in
"""


def record(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    state = net(rng)
    with wl.watch(state, path, wiring=Wiring.from_spec(WIRING)) as rec:
        for frame in range(1, FRAMES):
            for name in ("fc1.weight", "fc1.bias", "fc2.weight", "conv.weight", EVIL):
                moved = state[name] + 0.1 * rng.standard_normal(state[name].shape)
                state[name] = moved.astype(state[name].dtype)
            seen = state | {"half": state["half"].copy()}
            if frame == 10:
                seen["half"][1, 1], seen["half"][1, 2] = np.nan, -np.inf
            rec.step(seen, step=frame * 10, loss=1 / frame)
            if frame == 12:
                rec.mark("<b>lr dropped</b>")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages")
    record(path / "a", 0)
    record(path / "b", 1)
    return path


@pytest.fixture(scope="module")
def run(folder: Path) -> Any:
    return wl.load(folder / "a")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with served(folder / "a") as url:
        yield url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1300, "height": 850}, accept_downloads=True) as context:
        page = Page(context.new_page())
        yield page
        page.quiet()


def value_of(page: Page) -> tuple[str, tuple[int, ...], int, float]:
    data = page.get("value").evaluate(
        "element => ({ ...element.dataset })"
    )  # at once: a playing page changes in between
    index = tuple(int(i) for i in data["index"].split(",") if i)
    return data["tensor"], index, int(data["frame"]), float(data["value"])


def test_it_opens_with_its_fixed_points(page: Page, url: str, run: Any) -> None:
    page.open(url)
    assert page.attribute("heatmap", "data-tensor") == "fc1.weight"
    assert page.attribute("heatmap", "data-frame") == "0"
    assert (page.attribute("heatmap", "data-rows"), page.attribute("heatmap", "data-cols")) == ("6", "8")
    timeline = page.get("timeline")
    assert timeline.get_attribute("role") == "slider"
    assert [timeline.get_attribute(f"aria-value{k}") for k in ("min", "max", "now")] == ["0", str(FRAMES - 1), "0"]
    assert page.attribute("step", "data-step") == "0"
    assert page.attribute("play", "aria-pressed") == "false"
    page.get("speed").select_option("60")
    names = [page.get("tensor").nth(i).get_attribute("data-tensor") for i in range(page.get("tensor").count())]
    assert sorted(names) == sorted(run.names)
    assert page.get("tensor-list").get_by_test_id("tensor").count() == len(names)
    chosen = page.page.locator("[data-testid=tensor][aria-selected=true]")
    assert chosen.count() == 1
    assert not page.get("error").is_visible()
    assert page.page.evaluate("document.body.dataset.wlLive") is None


def test_the_cells_are_where_it_says(page: Page, url: str) -> None:
    page.open(url)
    box = page.get("heatmap").bounding_box()
    x, y, dx, dy = map(float, page.attribute("heatmap", "data-cells").split())
    assert 0 <= x < x + 8 * dx <= box["width"]
    assert 0 <= y < y + 6 * dy <= box["height"]


def test_the_pointer_reads_the_stored_value(page: Page, url: str, run: Any) -> None:
    page.open(url + "#tensor=fc1.weight&frame=7")
    page.at_frame(7)
    for row, col in ((0, 0), (3, 4), (5, 7)):
        page.point(row, col)
        page.until("value", data_index=f"{row},{col}", data_frame=7)
        text = page.attribute("value", "data-value")
        assert np.float32(text) == run["fc1.weight"][7, row, col]
        assert len(text) <= len(repr(float(run["fc1.weight"][7, row, col])))
        assert page.attribute("value", "data-bound") == "0"
        assert page.attribute("value", "data-step") == "70"
        assert text in page.get("value").text_content()


@pytest.mark.parametrize(
    "tensor,cell,index", [("fc2.weight", (3, 5), (3, 5)), ("fc1.bias", (0, 4), (4,)), ("half", (2, 1), (2, 1)), ("count", (0, 0), ()),
                          ("conv.weight", (7, 5), (3, 2, 1, 1)), (EVIL, (1, 0), (1, 0))]
)  # fmt: skip
def test_every_kind_of_tensor_is_read(
    page: Page, url: str, run: Any, tensor: str, cell: tuple[int, int], index: tuple[int, ...]
) -> None:
    page.open(url)
    entries = {page.get("tensor").nth(i).get_attribute("data-tensor"): i for i in range(len(run.names))}
    page.get("tensor").nth(entries[tensor]).click()
    page.page.wait_for_selector("[data-testid=tensor][aria-selected=true] >> nth=0")
    page.page.keyboard.press("End")
    page.at_frame(FRAMES - 1)
    assert page.attribute("heatmap", "data-tensor") == tensor
    page.point(*cell)
    page.until("value", data_index=",".join(map(str, index)), data_frame=FRAMES - 1)
    stored = run[tensor][(FRAMES - 1, *index)]
    text = page.attribute("value", "data-value")
    assert stored == (int(text) if tensor == "count" else np.asarray(stored).dtype.type(text))


def test_nan_and_infinity_are_shown_as_what_they_are(page: Page, url: str) -> None:
    page.open(url + "#tensor=half&frame=10")
    page.at_frame(10)
    page.point(1, 1)
    page.until("value", data_index="1,1", data_value="NaN")
    page.point(1, 2)
    page.until("value", data_index="1,2", data_value="-Infinity")


def test_keys_move_through_time(page: Page, url: str) -> None:
    page.open(url)
    page.get("timeline").focus()
    for key, frame in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", FRAMES - 1),
        ("ArrowRight", FRAMES - 1),
        ("Home", 0),
    ):
        page.page.keyboard.press(key)
        page.at_frame(frame)
        assert page.attribute("timeline", "aria-valuenow") == str(frame)
        page.until("step", data_frame=frame, data_step=frame * 10)
        assert str(frame * 10) in page.get("step").text_content()


def test_scrubbing_changes_the_picture(page: Page, url: str) -> None:
    page.open(url)
    page.at_frame(0)
    before = page.pixels()
    box = page.get("timeline").bounding_box()
    page.page.mouse.click(box["x"] + box["width"] * 0.52, box["y"] + box["height"] * 0.5)
    page.at_frame(15)
    assert page.pixels() != before


def test_it_plays_and_pauses(page: Page, url: str) -> None:
    page.open(url + "#fps=10")
    page.get("play").click()
    page.until("play", aria_pressed="true")
    page.past(5)
    page.page.keyboard.press("Space")
    page.until("play", aria_pressed="false")
    stopped = int(page.attribute("heatmap", "data-frame"))
    page.at_frame(stopped)
    page.page.wait_for_timeout(300)
    assert page.attribute("heatmap", "data-frame") == str(stopped)


def test_playing_stops_at_the_end_and_starts_over(page: Page, url: str) -> None:
    page.open(url + f"#frame={FRAMES - 3}&fps=5")
    page.get("play").click()
    page.until("play", aria_pressed="false")
    page.at_frame(FRAMES - 1)
    page.get("play").click()
    page.until("play", aria_pressed="true")
    assert int(page.attribute("timeline", "aria-valuenow")) < FRAMES - 1


def test_the_value_stays_exact_while_playing(page: Page, url: str, run: Any) -> None:
    page.open(url + "#fps=10")
    page.point(3, 4)
    page.until("value", data_index="3,4")
    page.get("timeline").focus()
    page.page.keyboard.press("Space")
    seen = set()
    for frame in (4, 9, 14):
        page.past(frame)
        _, index, at, value = value_of(page)
        assert (index, np.float32(value)) == ((3, 4), run["fc1.weight"][at, 3, 4])
        seen.add(at)
    assert len(seen) >= 2


def test_links_restore_the_view_and_follow_it(page: Page, url: str) -> None:
    page.open(url + "#tensor=fc2.weight&step=123&fps=60&diff=first&scale=step")
    page.at_frame(12)  # the nearest recorded step is 120
    assert page.attribute("heatmap", "data-tensor") == "fc2.weight"
    assert page.get("speed").input_value() == "60"
    page.get("timeline").focus()
    page.page.keyboard.press("ArrowRight")
    page.page.wait_for_url("**frame=13**")
    address = page.page.url
    assert "tensor=fc2.weight" in address
    assert "diff=first" in address
    page.open(address)
    page.at_frame(13)
    assert page.attribute("heatmap", "data-tensor") == "fc2.weight"


def test_an_impossible_link_is_said(page: Page, url: str) -> None:
    page.open(url + "#tensor=no_such&frame=9999&colour=pink")
    message = page.get("error").text_content()
    assert page.get("error").is_visible()
    for word in ("no_such", "9999", "colour"):
        assert word in message


def test_a_picked_weight_draws_its_whole_trajectory(page: Page, url: str, run: Any) -> None:
    page.open(url)
    page.at_frame(0)
    with page.page.expect_response(lambda r: "/api/series" in r.url and f"frames=0%3A{FRAMES}" in r.url) as answer:
        page.point(1, 2, click=True)
    body = answer.value.body()
    values = np.frombuffer(body[4 + int.from_bytes(body[:4], "little") :], np.float32)
    assert np.array_equal(values, run["fc1.weight"][:, 1, 2])
    assert page.get("pin").get_attribute("data-index") == "1,2"
    page.point(1, 2, click=True)
    page.page.wait_for_selector("[data-testid=pin]", state="detached")


def test_a_unit_shows_what_comes_in_and_goes_out(page: Page, url: str) -> None:
    page.open(url)
    page.at_frame(0)
    page.point(2, 5, click=True)
    unit = page.get("unit").first
    assert (unit.get_attribute("data-group"), unit.get_attribute("data-unit")) == ("fc1", "2")
    with page.page.expect_response(lambda r: "/api/neuron" in r.url) as answer:
        unit.click()
    assert {p["label"].split(":")[0] for p in json.loads(answer.value.body())["parts"]} >= {"incoming", "outgoing"}
    assert page.page.locator("section[aria-label=Unit] canvas").count() >= 2


def test_zooming_and_panning_keep_the_cells_true(page: Page, url: str, run: Any) -> None:
    page.open(url)
    page.at_frame(0)
    page.point(3, 4)
    before = float(page.attribute("heatmap", "data-cells").split()[2])
    page.page.mouse.wheel(0, -400)
    page.page.wait_for_timeout(150)
    assert float(page.attribute("heatmap", "data-cells").split()[2]) > 1.2 * before
    page.until("value", data_index="3,4")
    box = page.get("heatmap").bounding_box()
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 300, box["y"] + 200, steps=4)
    page.page.mouse.up()
    page.point(3, 5)
    page.until("value", data_index="3,5")
    assert page.page.locator("[data-testid=pin]").count() == 0  # a drag is no click
    page.page.mouse.dblclick(box["x"] + 5, box["y"] + 5)
    page.page.wait_for_timeout(100)
    assert float(page.attribute("heatmap", "data-cells").split()[2]) == before


@pytest.mark.parametrize("order", ["norm", "canonical"])
def test_sorted_units_still_say_their_own_index(page: Page, url: str, run: Any, order: str) -> None:
    page.open(url + f"#tensor=fc1.weight&frame=5&order={order}")
    page.at_frame(5)
    page.page.wait_for_timeout(300)
    seen = set()
    for row in range(6):
        page.point(row, 0)
        page.page.wait_for_timeout(80)
        _, index, _, value = value_of(page)
        assert np.float32(value) == run["fc1.weight"][(5, *index)]
        seen.add(index[0])
    assert seen == set(range(6))


def test_differences_keep_the_stored_value(page: Page, url: str, run: Any) -> None:
    page.open(url + "#tensor=fc1.weight&frame=5&diff=prev")
    page.at_frame(5)
    page.point(0, 0)
    page.until("value", data_index="0,0")
    assert np.float32(page.attribute("value", "data-value")) == run["fc1.weight"][5, 0, 0]


def test_names_from_a_recording_are_only_ever_text(page: Page, url: str) -> None:
    alarms: list[str] = []
    page.page.on("dialog", lambda d: (alarms.append(d.message), d.dismiss()))
    page.open(url)
    page.page.wait_for_timeout(500)
    assert alarms == []
    assert page.page.locator("img").count() == 0
    assert page.page.locator("section[aria-label=Events] b >> text=step 120").count() == 1
    assert "<b>lr dropped</b>" in page.page.locator("section[aria-label=Events]").text_content()


def test_the_whole_network_and_several_tensors(page: Page, url: str) -> None:
    page.open(url + "#show=all")
    page.at_frame(0)
    assert page.attribute("heatmap", "data-tensor") == "fc1.weight"
    page.page.locator("[data-testid=tensor]").nth(2).click(modifiers=["Shift"])
    page.page.wait_for_url("**also=**")
    page.at_frame(0)


def test_a_picture_and_a_film_are_saved(page: Page, url: str, tmp_path: Path) -> None:
    page.open(url + f"#frame={FRAMES - 8}&fps=15")
    with page.page.expect_download() as picture:
        page.page.get_by_role("button", name="Save a picture").click()
    assert Path(picture.value.path()).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with page.page.expect_download(timeout=20_000) as film:
        page.page.get_by_role("button", name="Save a film").click()
    assert film.value.suggested_filename.endswith(".webm")
    assert Path(film.value.path()).read_bytes()[:4] == b"\x1aE\xdf\xa3"
    assert Path(film.value.path()).stat().st_size > 5000


def test_a_keyboard_alone_reaches_a_value(page: Page, url: str, run: Any) -> None:
    page.open(url)
    page.at_frame(0)
    page.get("tensor").nth(0).focus()
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("ArrowUp")
    page.page.keyboard.press("Enter")
    page.get("heatmap").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.page.keyboard.press(key)
    page.until("value", data_index="1,1")
    page.page.keyboard.press("Enter")
    assert page.get("pin").get_attribute("data-index") == "1,1"


def test_two_runs_side_by_side(browser: Any, folder: Path, run: Any) -> None:
    other = wl.load(folder / "b")
    with (
        served(folder / "a", folder / "b") as url,
        browser.new_context(viewport={"width": 1300, "height": 850}) as context,
    ):
        page = Page(context.new_page())
        with page.page.expect_response(lambda r: "/api/pair" in r.url, timeout=30_000) as answer:
            page.open(url + "#tensor=fc1.weight&frame=4")
        pair = json.loads(answer.value.body())
        assert pair["reason"] is None
        assert len(pair["raw"]) == len(pair["aligned"]) == len(pair["frames"])
        page.page.wait_for_selector("section[aria-label='Distance of the two runs']")
        page.at_frame(4)
        page.point(1, 2)
        page.until("value", data_index="1,2")
        assert np.float32(page.attribute("value", "data-value")) == run["fc1.weight"][4, 1, 2]
        # the picture of the second run, at the same place
        x, y, dx, dy = map(float, page.attribute("heatmap", "data-cells").split())
        box = page.get("heatmap").bounding_box()
        page.page.mouse.move(box["x"] + x + 8 * dx + 22 + 2.5 * dx, box["y"] + y + 1.5 * dy)
        page.page.wait_for_selector("[data-testid=value] >> text=step 40 of b")
        assert np.float32(page.attribute("value", "data-value")) == other["fc1.weight"][4, 1, 2]
        # and with its units followed from the first step on, as the link then says
        followed = wl.align_runs(run, other, follow=True)
        page.get("heatmap").hover(position={"x": 2, "y": 2})
        page.page.get_by_label("Alignment").select_option("follow")
        page.page.wait_for_selector("text=units followed, at the end")
        page.page.wait_for_url(lambda url: "align=follow" in url)
        page.at_frame(4)
        for _ in range(40):  # the pictures take their places when the followed run has come
            page.page.mouse.move(box["x"] + x + 8 * dx + 22 + 2.4 * dx, box["y"] + y + 1.5 * dy)
            page.page.mouse.move(box["x"] + x + 8 * dx + 22 + 2.5 * dx, box["y"] + y + 1.5 * dy)
            if "b, followed" in page.get("value").inner_text():
                break
            page.page.wait_for_timeout(50)
        assert "step 40 of b, followed" in page.get("value").inner_text()
        assert np.float32(page.attribute("value", "data-value")) == np.float32(followed["fc1.weight"][4, 1, 2])
        page.quiet()


def test_it_follows_a_run_that_is_still_training(browser: Any, tmp_path: Path) -> None:
    state = {"W": np.zeros((4, 4), np.float32)}
    rec = wl.watch(state, tmp_path / "live")
    for step in range(1, 4):
        rec.step({"W": np.full((4, 4), step, np.float32)}, loss=1 / step)
    rec.flush()
    with served(tmp_path / "live") as url, browser.new_context() as context:
        page = Page(context.new_page())
        page.open(url)
        assert page.page.evaluate("document.body.dataset.wlLive") == "1"
        page.until("timeline", aria_valuemax=3)
        for step in range(4, 9):
            rec.step({"W": np.full((4, 4), step, np.float32)}, loss=1 / step)
        rec.flush()
        page.until("timeline", aria_valuemax=8)
        page.get("timeline").focus()
        page.page.keyboard.press("End")
        page.at_frame(8)
        page.point(1, 1)
        page.until("value", data_value="8")
        rec.close()
        page.page.wait_for_selector("body:not([data-wl-live])", timeout=5000)
        page.quiet()


def test_a_damaged_recording_is_an_error_in_words(browser: Any, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder / "a", broken)
    with served(broken) as url, browser.new_context() as context:
        for file in (f for folder in broken.iterdir() if folder.is_dir() for f in folder.iterdir()):
            data = bytearray(file.read_bytes())
            data[len(data) // 4 :: 97] = bytes(b ^ 0xFF for b in data[len(data) // 4 :: 97])
            file.write_bytes(bytes(data))
        page = Page(context.new_page())
        page.page.goto(url)
        page.page.wait_for_selector("[data-testid=error]", timeout=15_000)
        assert len(page.get("error").text_content()) > 20


def test_a_network_that_grows_changes_its_shape_at_its_step(browser: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small = rng.standard_normal((3, 5)).astype(np.float32)
    large = np.vstack([small, small[[2, 0]]])
    with wl.watch({"fc1.weight": small}, tmp_path / "grown") as rec:
        for k in range(4):
            rec.step({"fc1.weight": small + np.float32(1e-3 * k + 1e-3)})
        for k in range(4):
            rec.step({"fc1.weight": large + np.float32(1e-3 * k)})
    with served(tmp_path / "grown") as url, browser.new_context() as context:
        page = Page(context.new_page())
        page.open(url + "#tensor=fc1.weight&frame=4")
        page.at_frame(4)
        assert page.attribute("heatmap", "data-rows") == "3"
        page.get("timeline").focus()
        page.page.keyboard.press("ArrowRight")
        page.at_frame(5)
        assert page.attribute("heatmap", "data-rows") == "5"
        page.point(4, 1)
        page.until("value", data_index="4,1", data_frame=5)
        assert np.float32(page.attribute("value", "data-value")) == large[4, 1]
        assert "3 → 5" in page.page.locator("section[aria-label=Events]").text_content()
        # children beside their parents: rows 0, 4 (its child), 1, 2, 3
        page.page.get_by_label("Units").select_option("kin")
        page.page.wait_for_timeout(500)
        page.point(1, 1)
        page.until("value", data_index="4,1")
        page.quiet()


@pytest.mark.parametrize("painter", ["webgl", "canvas"])
def test_the_colours_are_those_of_the_scale(browser: Any, url: str, run: Any, painter: str) -> None:
    """Drawn cells against the palette, through WebGL2 and through the plain canvas of machines without graphics."""
    from io import BytesIO

    from PIL import Image

    from weightlapse.picture.codes import codes
    from weightlapse.picture.palette import table
    from weightlapse.view.subject import Subject

    with browser.new_context(viewport={"width": 1300, "height": 850}, color_scheme="light") as context:
        page = Page(context.new_page())
        if painter == "webgl":  # without the name of its renderer the page takes it for a real one
            page.page.add_init_script("WebGL2RenderingContext.prototype.getExtension = () => null;")
        page.open(url + "#tensor=half&frame=10")
        page.at_frame(10)
        assert page.attribute("heatmap", "data-painter") == ("webgl2" if painter == "webgl" else "canvas")
        page.page.mouse.move(2, 2)
        page.page.wait_for_timeout(300)
        limit = Subject(run, "a").limit("half")
        colours = table("light")[codes(run["half"][10].astype(np.float32), limit)]
        with Image.open(BytesIO(page.pixels())) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        x, y, dx, dy = map(float, page.attribute("heatmap", "data-cells").split())
        for row in range(3):
            for col in range(3):
                if np.isinf(run["half"][10, row, col]):
                    continue  # signed
                seen = pixels[round(y + (row + 0.35) * dy), round(x + (col + 0.85) * dx)]
                assert np.abs(seen - colours[row, col]).max() <= 2, (row, col)
        page.quiet()

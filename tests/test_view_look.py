"""The page as a person meets it: where to look first, finding, comparing, taking along; for keyboards, fingers and every width of screen."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from tests.browser import Page, axe_source, needs_chromium, served
from weightlapse.picture.codes import codes
from weightlapse.picture.sample import limit
from weightlapse.view.page_file import make_page
from weightlapse.wiring.data import Wiring

pytestmark = [needs_chromium, pytest.mark.xdist_group("browser")]

FRAMES = 24
SHAPES = {
    "stem.weight": (6, 5), "stem.bias": (6,), "blocks.0.fc.weight": (8, 6), "blocks.0.out.weight": (6, 8), "blocks.13.fc.weight": (8, 6),
    "blocks.13.out.weight": (6, 8), "head.weight": (4, 6),
}  # fmt: skip
SPEED = {
    "stem": 0.01,
    "blocks.0.fc": 0.02,
    "blocks.0.out": 0.3,
    "blocks.13.fc": 0.05,
    "blocks.13.out": 0.001,
    "head": 0.1,
}
WIRING = "\n".join(
    [*(f"tensor {name} {shape}" for name, shape in SHAPES.items())]
    + ["group stem: 6 units, permutation", "  stem.weight[0]: out", "  stem.bias[0]: add"]
    + [f"  blocks.{b}.fc.weight[1]: in\n  blocks.{b}.out.weight[0]: out" for b in (0, 13)]
    + ["  head.weight[1]: in"]
    + [
        f"group fc{b}: 8 units, permutation\n  blocks.{b}.fc.weight[0]: out\n  blocks.{b}.out.weight[1]: in"
        for b in (0, 13)
    ]
)


def record(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    state = {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
    with wl.watch(state, path, wiring=Wiring.from_spec(WIRING), streams=("weights",)) as rec:
        for frame in range(1, FRAMES):
            for name in state:
                moved = rng.standard_normal(state[name].shape) * SPEED[name.rpartition(".")[0]]
                state[name] = (state[name] + moved).astype(np.float32)
            rec.step(state, step=frame * 5, loss=1 / frame)
            if frame == 9:
                rec.mark("lr dropped")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("look")
    for seed, name in enumerate("abc"):
        record(path / name, seed)
    return path


@pytest.fixture(scope="module")
def run(folder: Path) -> Any:
    return wl.load(folder / "a")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with served(folder / "a") as url:
        yield url


@pytest.fixture(scope="module")
def three(folder: Path) -> Iterator[str]:
    with served(folder / "a", folder / "b", folder / "c") as url:
        yield url


@pytest.fixture(scope="module")
def axe() -> str:
    return axe_source()


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    permissions = ["clipboard-read", "clipboard-write"]
    with browser.new_context(
        viewport={"width": 1300, "height": 850}, accept_downloads=True, permissions=permissions
    ) as context:
        page = Page(context.new_page())
        yield page
        page.quiet()


def clipboard(page: Page) -> str:
    return str(page.page.evaluate("navigator.clipboard.readText()"))


def share(page: Page, item: str) -> None:
    page.page.get_by_label("Share or copy").click()
    page.page.get_by_role("button", name=item).click()


def expected_ranking(run: Any) -> list[tuple[str, float]]:
    """Layers by ||w_end - w_start|| / max(||w_start||, ||w_end||), from whole tensors."""
    layers: dict[str, list[str]] = {}
    for name in run.names:
        layers.setdefault(name.rpartition(".")[0], []).append(name)

    def flat(names: list[str], frame: int) -> np.ndarray[Any, Any]:
        return np.concatenate([run[n][frame].astype(np.float64).ravel() for n in names])

    changes = {}
    for layer, names in layers.items():
        first, last = flat(names, 0), flat(names, len(run.steps) - 1)
        changes[layer] = np.linalg.norm(last - first) / max(np.linalg.norm(first), np.linalg.norm(last))
    return sorted(changes.items(), key=lambda item: -item[1])


def test_the_first_screen_ranks_layers_and_a_click_opens_one(page: Page, url: str, run: Any) -> None:
    page.open(url)
    assert page.get("map").is_visible()
    page.page.wait_for_selector("[data-testid=ranked]")
    expected = expected_ranking(run)
    ranked = page.get("ranked")
    assert [ranked.nth(i).get_attribute("data-layer") for i in range(len(expected))] == [layer for layer, _ in expected]
    for i, (_, change) in enumerate(expected):
        shown = float(ranked.nth(i).locator(".num").text_content().rstrip(" %")) / 100
        assert shown == pytest.approx(change, rel=0.06)
    layers = page.get("map-layer")
    assert {layers.nth(i).get_attribute("data-layer") for i in range(layers.count())} == set(SPEED)
    layers.locator("xpath=self::*[@data-layer='blocks.13.fc']").click()
    page.until("heatmap", data_tensor="blocks.13.fc.weight")
    page.page.wait_for_url("**tensor=blocks.13.fc.weight**")
    ranked.first.click()
    page.until("heatmap", data_tensor=f"{expected[0][0]}.weight")
    assert "map=on" in page.page.url
    page.page.get_by_label("Close the map").click()
    assert not page.get("map").is_visible()


def test_the_map_knows_the_stream_and_the_order(page: Page, url: str) -> None:
    page.open(url)
    boxes = {
        name: page.page.locator(f"[data-layer='{name}'][data-testid=map-layer] rect").bounding_box() for name in SPEED
    }
    order = ["stem", "blocks.0.fc", "blocks.0.out", "blocks.13.fc", "blocks.13.out", "head"]
    assert [b["x"] for b in (boxes[n] for n in order)] == sorted(b["x"] for b in boxes.values())
    assert page.page.locator(".map-wires .rail").count() == 1
    assert page.page.locator(".map-wires .writes").count() == 3  # the stem and both blocks write to the stream


def test_the_map_is_walked_by_keys(page: Page, url: str) -> None:
    page.open(url)
    first = page.get("map-layer").first
    first.focus()
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("ArrowRight")
    assert page.page.evaluate("document.activeElement.dataset.layer") == "blocks.0.out"
    page.page.keyboard.press("Enter")
    page.until("heatmap", data_tensor="blocks.0.out.weight")


def test_an_address_with_a_tensor_opens_that_and_no_map(page: Page, url: str) -> None:
    page.open(url + "#tensor=head.weight&frame=3")
    page.at_frame(3)
    assert not page.get("map").is_visible()


@pytest.mark.parametrize("words,first", [("blocks 13 fc", "blocks.13.fc.weight"), ("out 0", "blocks.0.out.weight"), ("13.fc", "blocks.13.fc.weight"),
                                         ("WEIGHT head", "head.weight")])  # fmt: skip
def test_words_in_any_order_find_and_enter_opens(page: Page, url: str, words: str, first: str) -> None:
    page.open(url)
    page.page.keyboard.press("/")
    page.page.keyboard.type(words)
    shown = page.page.locator("[data-testid=tensor]:visible")
    assert shown.count() == 1
    page.page.keyboard.press("Enter")
    page.until("heatmap", data_tensor=first)
    page.page.keyboard.press("Escape")
    assert page.page.locator("[data-testid=tensor]:visible").count() == len(SHAPES)


def test_the_arrows_walk_what_was_found(page: Page, url: str) -> None:
    page.open(url)
    page.get("search").fill("blocks fc")
    page.get("search").press("ArrowDown")
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("Enter")
    page.until("heatmap", data_tensor="blocks.13.fc.weight")
    page.page.keyboard.press("ArrowUp")
    page.page.keyboard.press("ArrowUp")
    assert page.page.evaluate("document.activeElement.dataset.testid") == "search"
    page.get("search").fill("nothing like it")
    assert "No tensor" in page.page.locator("nav .hint").text_content()


def test_everything_one_sees_is_in_the_link(page: Page, url: str) -> None:
    page.open(url + "#tensor=blocks.0.out.weight&frame=12")
    page.at_frame(12)
    page.point(1, 2, click=True)
    page.point(3, 4, click=True)
    page.page.get_by_label("Colours").select_option("symlog")
    page.page.get_by_label("Scale", exact=True).select_option("layer")
    page.page.locator("[data-testid=figure-units] summary").click()
    page.point(3, 4)
    page.page.mouse.wheel(0, -300)
    page.page.wait_for_timeout(400)
    share(page, "Copy link")
    page.page.wait_for_selector("text=Link copied")
    link, cells = clipboard(page), page.attribute("heatmap", "data-cells")
    assert link == page.page.url
    page.open(link)
    page.at_frame(12)
    page.page.wait_for_selector("[data-testid=pin] >> nth=1")
    pins = [page.get("pin").nth(i).get_attribute("data-index") for i in range(2)]
    assert pins == ["1,2", "3,4"]
    again = page.attribute("heatmap", "data-cells")
    assert [float(v) for v in again.split()] == pytest.approx([float(v) for v in cells.split()], abs=0.01)
    assert page.page.get_by_label("Colours").input_value() == "symlog"
    assert page.page.get_by_label("Scale", exact=True).input_value() == "layer"
    assert page.page.locator("[data-testid=figure-units]").get_attribute("open") is not None


def test_a_link_to_a_weight_that_is_not_there_says_so(page: Page, url: str) -> None:
    page.open(url + "#tensor=stem.weight&pins=0%7Cstem.weight%7C99,0")
    page.page.wait_for_selector("[data-testid=error]:visible")
    assert "stem.weight[99,0]" in page.get("error").text_content()


@pytest.mark.parametrize("look", ["", "&diff=first", "&diff=prev", "&scale=layer"])
def test_the_python_of_the_figure_runs_and_draws_its_values(page: Page, url: str, run: Any, look: str) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    page.open(url + f"#tensor=blocks.0.out.weight&frame=12&pins=0%7Cstem.bias%7C2{look}")
    page.at_frame(12)
    page.page.wait_for_selector("[data-testid=pin]")
    share(page, "Copy as Python")
    page.page.wait_for_selector("text=Python copied")
    plt.close("all")
    text = clipboard(page)
    exec(text, {})
    axes = plt.gcf().axes
    image = next(np.asarray(a.images[0].get_array()) for a in axes if a.images)
    now, track = run["blocks.0.out.weight"][12], run["blocks.0.out.weight"]
    expected = {"&diff=first": now - track[0], "&diff=prev": now - track[11]}.get(look, now)
    if np.issubdtype(image.dtype, np.integer):  # codes of the picture's scale
        end = re.search(r"scale=([\d.]+)", text)
        image, expected = image.astype(int), codes(now, float(end[1]) if end else limit(run, "blocks.0.out.weight"))
    np.testing.assert_allclose(image, expected, rtol=1e-6)
    lines = [line.get_ydata() for a in axes for line in a.lines]
    assert any(np.array_equal(y, run["stem.bias"][:, 2]) for y in lines)
    plt.close("all")


def test_values_and_lines_come_as_tables(page: Page, url: str, run: Any) -> None:
    page.open(url + "#tensor=stem.weight&frame=7&pins=0%7Cstem.weight%7C2,3")
    page.at_frame(7)
    page.page.wait_for_selector("[data-testid=pin]")
    page.page.wait_for_timeout(400)
    with page.page.expect_download() as values:
        share(page, "Save values as CSV")
    rows = list(csv.reader(io.StringIO(Path(values.value.path()).read_text())))
    assert rows[0] == ["axis 0", "axis 1", "value"]
    assert {(int(i), int(j)): np.float32(v) for i, j, v in rows[1:]} == {
        (i, j): run["stem.weight"][7, i, j] for i in range(6) for j in range(5)
    }
    page.page.keyboard.press("Escape")
    with page.page.expect_download() as lines:
        share(page, "Save lines as CSV")
    rows = list(csv.reader(io.StringIO(Path(lines.value.path()).read_text())))
    column = rows[0].index("stem.weight[2, 3]")
    assert [int(r[1]) for r in rows[1:]] == run.steps.tolist()
    assert np.array_equal(np.array([float(r[column]) for r in rows[1:]], np.float32), run["stem.weight"][:, 2, 3])


def test_a_picture_is_copied(page: Page, url: str) -> None:
    page.open(url + "#tensor=stem.weight&frame=7")
    page.at_frame(7)
    share(page, "Copy picture")
    page.page.wait_for_selector("text=Picture copied")
    kinds = page.page.evaluate("async () => (await navigator.clipboard.read())[0].types")
    assert "image/png" in kinds


def test_distributions_are_drawn_and_brushed(page: Page, url: str) -> None:
    page.open(url + "#tensor=head.weight&panels=distribution")
    canvas = page.page.locator("[data-testid=figure-distribution] canvas")
    page.page.wait_for_selector("text=weights of head.weight")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.page.mouse.move(box["x"] + 100, box["y"] + 50)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 200, box["y"] + 50, steps=4)
    page.page.mouse.up()
    page.page.wait_for_url(lambda url: "window=" in url)
    page.page.mouse.dblclick(box["x"] + 150, box["y"] + 50)
    page.page.wait_for_url(lambda url: "window=" not in url)
    for label, option, word in (("Distribution of", "updates", "updates of"), ("Distribution over", "layer", "of head"),
                                ("Distribution as", "ridge", "of head")):  # fmt: skip
        page.page.get_by_label(label, exact=True).select_option(option)
        page.page.wait_for_selector(f"[data-testid=figure-distribution] >> text={word}")
    page.page.get_by_label("Distribution of", exact=True).select_option("gradients")
    page.page.wait_for_selector("[data-testid=figure-distribution] >> text=streams=")  # none recorded: it says how


def test_three_runs_and_their_differences(browser: Any, three: str, folder: Path) -> None:
    with browser.new_context(viewport={"width": 1300, "height": 850}) as context:
        page = Page(context.new_page())
        page.open(three + "#tensor=stem.weight&frame=6&show=pair&align=off")
        page.at_frame(6)
        page.page.wait_for_selector("section[aria-label='Distance of the two runs']", timeout=30_000)
        seen = set()
        box = page.get("heatmap").bounding_box()
        panels = json.loads(page.attribute("heatmap", "data-panels"))
        assert [title for title, *_ in panels] == ["a", "b", "c", "difference from b", "difference from c"]
        for name, x, y, w, h in panels[:3]:
            page.page.mouse.move(box["x"] + x + w / 2, box["y"] + y + h / 2)
            page.page.wait_for_selector(f"[data-testid=value] >> text=at step 30 of {name}")
            seen.add(name)
        assert seen == set("abc")
        page.page.get_by_label("Compare", exact=True).select_option("blink")
        page.page.wait_for_timeout(300)
        first = page.pixels()
        assert any(page.page.wait_for_timeout(200) or page.pixels() != first for _ in range(12))
        page.page.get_by_label("Compare", exact=True).select_option("difference")
        page.page.wait_for_timeout(500)
        assert "compare=difference" in page.page.url
        page.quiet()


def test_a_comparison_survives_a_reload(browser: Any, three: str) -> None:
    with browser.new_context(viewport={"width": 1300, "height": 850}) as context:
        page = Page(context.new_page())
        for _ in range(2):  # the second time the server has aligned the runs already
            page.open(three + "#tensor=stem.weight&frame=6")
            page.page.wait_for_selector("section[aria-label='Distance of the two runs']", timeout=30_000)
            page.page.wait_for_timeout(500)
            assert page.page.get_by_label("Alignment", exact=True).is_visible()
            page.at_frame(6)
        page.quiet()


def test_two_steps_of_one_run(page: Page, url: str, run: Any) -> None:
    page.open(url + "#tensor=stem.weight&frame=4")
    page.at_frame(4)
    page.page.get_by_label("Show", exact=True).select_option("steps")
    page.page.wait_for_url("**against=frame%3A4**")
    page.get("timeline").focus()
    page.page.keyboard.press("End")
    page.at_frame(FRAMES - 1)
    x, y, dx, dy = map(float, page.attribute("heatmap", "data-cells").split())
    box = page.get("heatmap").bounding_box()
    page.page.mouse.move(box["x"] + x + 5 * dx + 22 + 2.5 * dx, box["y"] + y + 1.5 * dy)
    page.page.wait_for_selector("[data-testid=value] >> text=at step 20")  # frame 4, whatever the playhead says
    assert np.float32(page.attribute("value", "data-value")) == run["stem.weight"][4, 1, 2]


SIZES = [
    [(360, 740), (390, 844), (768, 1024), (1024, 768)],
    [(2560, 1300), (1440, 900), (1200, 800)],
]  # opened at the first, then drawn wider or narrower
FIGURES = "&panels=distribution%0Aunits%0Aspectrum&pins=0%7Cstem.weight%7C2,3"


@pytest.mark.parametrize("sizes", SIZES, ids=["from 360 up", "from 2560 down"])
@pytest.mark.parametrize(
    "runs,address", [(1, ""), (1, "#tensor=blocks.13.fc.weight&map=on" + FIGURES), (3, "#show=pair" + FIGURES)]
)
def test_nothing_scrolls_sideways(
    browser: Any, url: str, three: str, sizes: list[tuple[int, int]], runs: int, address: str
) -> None:
    with browser.new_context(viewport={"width": sizes[0][0], "height": sizes[0][1]}) as context:
        page = Page(context.new_page()).open((url if runs == 1 else three) + address)
        for width, height in sizes:
            page.page.set_viewport_size({"width": width, "height": height})
            page.page.wait_for_load_state("networkidle")
            page.page.wait_for_timeout(200)
            wide = page.page.evaluate(
                """() => [...document.querySelectorAll('body, body *')].filter((e) => {
                     if (e.closest('.map-drawing') || e.closest('[aria-hidden=true]') || !e.checkVisibility()) return false;
                     const box = e.getBoundingClientRect();
                     return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
                   }).map((e) => e.outerHTML.slice(0, 120))"""
            )
            assert wide == [], width
            assert page.page.evaluate("document.documentElement.scrollWidth") <= width
        page.page.evaluate("document.body.style.minWidth = '5000px'")  # the check itself sees what sticks out
        assert page.page.evaluate("document.documentElement.scrollWidth") > sizes[-1][0]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width,address", [(1300, ""), (1300, "#tensor=blocks.0.fc.weight&panels=distribution%0Aunits%0Aspectrum&pins=0%7Cstem.weight%7C2,3"), (390, "")])  # fmt: skip
def test_axe_finds_nothing_serious(browser: Any, url: str, axe: str, theme: str, width: int, address: str) -> None:
    with browser.new_context(viewport={"width": width, "height": 844}, color_scheme=theme, bypass_csp=True) as context:
        page = Page(context.new_page())
        page.open(url + address)
        page.page.wait_for_selector("[data-testid=ranked]")
        page.page.wait_for_timeout(500)
        assert page.faults(axe) == []
        page.page.get_by_label("Share or copy").click()
        assert page.faults(axe) == []
        page.page.evaluate("""document.querySelector('[data-testid=play]').removeAttribute('aria-label');
                              document.querySelector('[data-testid=play]').removeAttribute('title')""")
        assert any("button-name" in f for f in page.faults(axe))  # axe itself is awake


def test_axe_finds_nothing_serious_in_a_comparison(browser: Any, three: str, axe: str) -> None:
    with browser.new_context(viewport={"width": 1300, "height": 844}, bypass_csp=True) as context:
        page = Page(context.new_page())
        page.open(three)
        page.page.wait_for_selector("section[aria-label='Distance of the two runs']", timeout=30_000)
        assert page.faults(axe) == []


def test_fingers_zoom_pan_and_scrub(browser: Any, url: str) -> None:
    with browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as context:
        page = Page(context.new_page())
        page.open(url + "#tensor=stem.weight")
        page.at_frame(0)
        box = page.get("heatmap").bounding_box()
        page.page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.page.wait_for_selector("[data-testid=pin]")  # a tap picks
        before = float(page.attribute("heatmap", "data-cells").split()[2])
        client = context.new_cdp_session(page.page)
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

        def touch(kind: str, apart: float) -> None:
            points = (
                []
                if kind == "touchEnd"
                else [
                    {"x": middle[0] - apart, "y": middle[1], "id": 0},
                    {"x": middle[0] + apart, "y": middle[1], "id": 1},
                ]
            )
            client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", 30)
        for apart in (45, 60, 80):
            touch("touchMove", apart)
        touch("touchEnd", 0)
        page.page.wait_for_timeout(300)
        assert float(page.attribute("heatmap", "data-cells").split()[2]) > 1.5 * before
        strip = page.get("timeline").bounding_box()
        page.page.touchscreen.tap(strip["x"] + strip["width"] * 0.5, strip["y"] + strip["height"] / 2)
        assert page.past(FRAMES // 2 - 2) <= FRAMES // 2 + 2
        page.quiet()


def test_after_the_server_is_gone_handle_and_label_agree(browser: Any, folder: Path) -> None:
    with browser.new_context(viewport={"width": 1300, "height": 850}) as context:
        page = Page(context.new_page())
        with served(folder / "a") as url:
            page.open(url + "#tensor=stem.weight&frame=5")
            page.at_frame(5)
        page.page.wait_for_timeout(300)
        page.get("timeline").focus()
        for key in ("End", "ArrowLeft", "Home"):
            page.page.keyboard.press(key)
            page.page.wait_for_selector("[data-testid=error]:visible")
            page.page.wait_for_timeout(300)
            frame = page.attribute("step", "data-frame")
            assert page.attribute("timeline", "aria-valuenow") == frame == page.attribute("heatmap", "data-frame")
        assert "weightlapse view" in page.get("error").text_content()


def test_a_page_in_a_file_answers_like_the_server(
    browser: Any, folder: Path, url: str, run: Any, tmp_path: Path
) -> None:
    """Survey, distributions, norms of units and spectra, from the blocks of the file in TypeScript and from the recording in Python."""
    path = make_page(run, tmp_path / "page.html")
    words = [("distribution", "&of=weights&unit=-1&scope=tensor"), ("distribution", "&of=updates&unit=-1&scope=layer"),
             ("distribution", "&of=weights&unit=2&scope=tensor"), ("units", ""), ("spectrum", "")]  # fmt: skip
    from weightlapse.view.answers import Answers
    from weightlapse.view.subject import Subject

    answers = Answers([Subject(run, "a")])
    with browser.new_context(viewport={"width": 1300, "height": 850}) as context:
        page = Page(context.new_page())
        page.open(path.as_uri())
        assert page.get("map").is_visible()
        page.page.wait_for_selector("[data-testid=ranked]")
        ranked = page.get("ranked").nth(0).get_attribute("data-layer")
        assert ranked == expected_ranking(run)[0][0]
        for word, query in words:
            asked = dict(part.split("=") for part in f"tensor=stem.weight{query}".split("&"))
            theirs = json.loads(answers.reply(word, asked)[1])
            text = page.page.evaluate(
                "async ([word, query]) => new TextDecoder().decode(await window.weightlapseSource.ask(word, query))",
                [word, {"run": 0, **asked}],
            )
            ours = json.loads(text)
            assert ours["frames"] == theirs["frames"], word
            for key in ("percentiles", "lines", "values", "low", "high"):
                if key in theirs:
                    np.testing.assert_allclose(
                        np.array(ours[key], float),
                        np.array(theirs[key], float),
                        rtol=2e-5,
                        atol=2e-6,
                        err_msg=f"{word} {key}",
                    )
            if "counts" in theirs:
                assert (
                    np.abs(np.array(ours["counts"]) - np.array(theirs["counts"])).sum() <= 4
                )  # float32 numbers at the borders of bins
        page.quiet()


def test_strips_stand_under_their_matrix_and_experts_beside_each_other(browser: Any, tmp_path: Path) -> None:
    shapes = {
        "in/kernel": (20, 30),
        "in/bias": (30,),
        "norm.weight": (30,),
        "norm.bias": (30,),
        "out.bias": (12,),
        "out.weight": (12, 30),
    }
    shapes |= {f"moe.experts.{k}.w1.weight": (8, 12) for k in range(3)} | {
        f"moe.experts.{k}.w1.bias": (8,) for k in range(3)
    }
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    with wl.watch(state, tmp_path / "run") as rec:
        rec.step({name: values * 2 for name, values in state.items()})
    with served(tmp_path / "run") as url, browser.new_context(viewport={"width": 1300, "height": 850}) as context:
        page = Page(context.new_page()).open(url + "#show=all")
        panels = {name: box for name, *box in json.loads(page.attribute("heatmap", "data-panels"))}
        assert panels.keys() == shapes.keys()
        for strip, main in (("in/bias", "in/kernel"), ("norm.bias", "norm.weight"), ("out.bias", "out.weight")):
            (x, y, w, h), (left, top, wide, high) = panels[strip], panels[main]
            assert x == left, (strip, panels)
            assert 0 < y - (top + high) < 12, (strip, panels)
            assert strip == "out.bias" or w == wide  # along its columns: each cell under its own
            assert strip == "norm.bias" or h < high / 2
        page.page.locator("[data-testid=ranked][data-layer='moe.experts.1.w1']").click()
        page.page.wait_for_url(lambda url: "also=" in url)
        page.page.wait_for_function(
            "() => JSON.parse(document.querySelector('[data-testid=heatmap]').dataset.panels).length === 3"
        )
        shown = [name for name, *_ in json.loads(page.attribute("heatmap", "data-panels"))]
        assert sorted(shown) == [f"moe.experts.{k}.w1.weight" for k in range(3)]
        page.quiet()

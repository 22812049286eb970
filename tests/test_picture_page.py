"""Film and page paint the same pixels: every case of picture/cases.json, in a real browser, through both of its painters."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import weightlapse as wl
from tests.browser import Page, needs_chromium, node_modules, served
from weightlapse.film import colours
from weightlapse.film.colours import encode
from weightlapse.film.limits import over_frames
from weightlapse.film.painter import Painter
from weightlapse.film.surface import Surface
from weightlapse.film.tiles import Tile
from weightlapse.picture import cases
from weightlapse.picture.arrangement import Arrangement
from weightlapse.picture.compose import arrangements
from weightlapse.picture.reduce import reduce_to

VIEWER = Path(__file__).resolve().parent.parent / "viewer"
browsers = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All tensors of the cases in one recording, two frames long."""
    path = tmp_path_factory.mktemp("cases") / "run"
    first = {name: cases.values_of(name, shape) for shapes in cases.NETWORKS.values() for name, shape in shapes.items()}
    with wl.watch({name: np.roll(value, 1) for name, value in first.items()}, path) as rec:
        rec.step(first)
    return wl.load(path)


def show(page: Page, name: str) -> None:
    page.page.locator(f"[data-testid=tensor][data-tensor='{name}']").click()
    page.until("heatmap", data_tensor=name, data_frame=1, data_exact=1)


@cache
def laid_out(run: Any) -> dict[str, Arrangement]:
    return arrangements(run.shapes, run.wiring)


def painted(run: Any, name: str, frame: int, cell: tuple[int, int], theme: str) -> NDArray[np.uint8]:
    """What a film paints, with cells as large as the page's."""
    table = colours.table(theme)
    tile = Tile(name, laid_out(run)[name], cell)
    surface = Surface(tile.width, tile.height, table)
    limit = over_frames(run, [name], np.arange(len(run.steps)))[name]
    Painter(surface, colours.signs(table)).tile(tile, tile.codes(np.asarray(run[name][frame]), limit))
    return np.stack(surface.planes, axis=2)


def drawn(page: Page) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """What the page shows of the tensor, and the size of its cells."""
    from PIL import Image

    page.page.mouse.move(2, 2)
    x, y, dx, dy = map(float, page.attribute("heatmap", "data-cells").split())
    rows, cols = (int(page.attribute("heatmap", f"data-{side}")) for side in ("rows", "cols"))
    assert dx == round(dx)
    assert dy == round(dy)
    box = page.get("heatmap").bounding_box()
    left, top = (
        round(box["x"]) + round(x),
        round(box["y"]) + round(y),
    )  # a canvas stands on whole pixels, wherever its box begins
    clip = {"x": left, "y": top, "width": cols * int(dx), "height": rows * int(dy)}
    with Image.open(BytesIO(page.page.screenshot(clip=clip))) as image:
        return np.asarray(image.convert("RGB")), (int(dx), int(dy))


@needs_chromium
@browsers
@pytest.mark.parametrize("painter", ["webgl2", "canvas"])
def test_film_and_page_are_pixel_for_pixel_the_same(browser: Any, run: Any, painter: str) -> None:
    theme = "light" if painter == "webgl2" else "dark"
    with (
        served(run.path) as url,
        browser.new_context(viewport={"width": 1300, "height": 850}, color_scheme=theme) as context,
    ):
        page = Page(context.new_page())
        if painter == "webgl2":  # without the name of its renderer the page takes it for a real one
            page.page.add_init_script("WebGL2RenderingContext.prototype.getExtension = () => null;")
        page.open(f"{url}#frame=1")
        assert page.attribute("heatmap", "data-painter") == painter
        for name in run.names:
            show(page, name)
            page.page.wait_for_timeout(100)
            pixels, cell = drawn(page)
            expected = painted(run, name, 1, cell, theme)
            assert pixels.shape == expected.shape, name
            wrong = np.argwhere((pixels != expected).any(axis=2))
            assert not len(wrong), f"{name}: {len(wrong)} of {pixels[..., 0].size} pixels, the first at {wrong[0]}"
            if np.size(run[name][0]) > 1:  # the comparison sees the frame before
                assert (pixels != painted(run, name, 0, cell, theme)).any(), name
        page.quiet()


@needs_chromium
@browsers
@pytest.mark.parametrize("painter", ["webgl2", "canvas"])
def test_cells_that_stand_for_several_weights_are_drawn_and_told_alike(
    browser: Any, tmp_path: Path, painter: str
) -> None:
    """A large tensor on page and film: mostly typical weights, the spike in both, and both say so."""
    from weightlapse.film.scene import THINNED

    rng = np.random.default_rng(0)
    first = rng.uniform(-0.2, 0.2, (1400, 1100)).astype(np.float32)
    first[::2, ::2] *= 2  # extremes of tiles lie far from what is usual in them
    first[701, 333], first[10, 1000] = 1.0, -1.0
    with wl.watch({"w": first}, tmp_path / "run") as rec:
        rec.step({"w": first})
    run = wl.load(tmp_path / "run")
    limit = over_frames(run, ["w"], np.arange(2))["w"]
    with served(run.path) as url, browser.new_context(viewport={"width": 1300, "height": 850}) as context:
        page = Page(context.new_page())
        if painter == "webgl2":
            page.page.add_init_script("WebGL2RenderingContext.prototype.getExtension = () => null;")
        page.open(f"{url}#tensor=w&frame=1")
        page.at_frame(1)
        assert page.attribute("heatmap", "data-painter") == painter
        told = page.get("thinned").text_content()
        assert told.removeprefix("small cells: ") in THINNED
        x, y, dx, dy = map(float, page.attribute("heatmap", "data-cells").split())
        from PIL import Image

        page.page.mouse.move(2, 2)
        page.page.wait_for_timeout(200)
        box = page.get("heatmap").bounding_box()
        with Image.open(BytesIO(page.page.screenshot())) as image:
            shown = np.asarray(image.convert("RGB")).astype(int)

        def spot(row: int, col: int) -> NDArray[np.int_]:
            top, left = round(box["y"] + y + row * dy), round(box["x"] + x + col * dx)
            return shown[top - 3 : top + 4, left - 3 : left + 4].reshape(-1, 3)

        table = colours.table("light").astype(int)
        for row, col, value in ((701, 333, 1.0), (10, 1000, -1.0)):
            expected = table[int(encode(np.array([value], np.float32), limit)[0])]
            assert (np.abs(spot(row, col) - expected).max(axis=1) <= 2).any(), (row, col)
        page.quiet()
    tile = Tile("w", arrangements(run.shapes)["w"], (2, 2), thinned=(4, 4))
    drawn = tile.codes(first, limit)[:-1, :-1]
    assert drawn[701 // 4, 333 // 4] == encode(first[701:702, 333], limit)[0]
    assert np.array_equal(drawn, encode(reduce_to(first, 4, 4, "typical", limit), limit))


@needs_chromium
@browsers
def test_the_pointer_finds_the_weight_in_every_layout(browser: Any, run: Any) -> None:
    with served(run.path) as url, browser.new_context(viewport={"width": 1300, "height": 850}) as context:
        page = Page(context.new_page())
        page.open(f"{url}#frame=1")
        for name, arrangement in arrangements(run.shapes).items():
            if len(arrangement.shape) < 3 and not arrangement.wrapped:
                continue
            show(page, name)
            for index in (tuple(n - 1 for n in arrangement.shape), tuple(n // 2 for n in arrangement.shape)):
                page.point(*arrangement.cell(index))
                page.until("value", data_index=",".join(map(str, index)), data_tensor=name)
                stored = run[name][(1, *index)]
                assert np.array_equal(np.float32(page.attribute("value", "data-value")), stored, equal_nan=True)
        page.quiet()


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node to run the page's own tests")
def test_typescript_draws_every_case_as_python_does(tmp_path: Path) -> None:
    """The page's mirror of the model, without a browser: viewer/test/picture.test.ts over cases.json."""
    source = tmp_path / "viewer"
    shutil.copytree(VIEWER, source, ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "weightlapse" / "picture").mkdir(parents=True)
    shutil.copy(cases.PATH, tmp_path / "weightlapse" / "picture")

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["node", "test.mjs", "picture"], cwd=source, capture_output=True, text=True, timeout=300, check=False
        )

    (source / "node_modules").symlink_to(node_modules())
    done = run()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    told = json.loads(cases.PATH.read_text())
    told["tensors"][0]["limit"] *= 2
    (tmp_path / "weightlapse" / "picture" / "cases.json").write_text(json.dumps(told))
    assert run().returncode != 0  # the check itself sees a change

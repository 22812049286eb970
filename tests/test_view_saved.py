"""A notebook that was run and saved, where no kernel is: as HTML with scripts and without, and where a front end lets little through."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium, needs_chromium
from tests.framework_presence import require

require("ipykernel", "nbformat", "nbclient", "nbconvert", "anywidget")

ROOT = Path(__file__).resolve().parent.parent
CELLS = [
    """import sys
sys.path.insert(0, ROOT)
import numpy as np
import weightlapse as wl
w = {"fc1.weight": np.ones((6, 4), "f4"), "<b>": np.ones((3, 6), "f4")}
with wl.watch(w, "run") as rec:
    for step in range(5):
        w["fc1.weight"] += step
        rec.step(w, loss=1 / (step + 1))
wl.load("run")""",
    'wl.show("run")',
]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run by a kernel, saved, and read again."""
    import nbformat
    from nbclient import NotebookClient

    folder = tmp_path_factory.mktemp("saved")
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c.replace("ROOT", repr(str(ROOT)))) for c in CELLS]
    )
    own = {name: str(folder / name) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}
    NotebookClient(book, kernel_name="python3", resources={"metadata": {"path": str(folder)}}, timeout=120).execute(
        env={**os.environ, **own}
    )
    return nbformat.reads(nbformat.writes(book), as_version=4)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def pictures(html: str) -> list[tuple[int, int]]:
    """Sizes of the pictures that a text holds, each decoded."""
    from PIL import Image

    found = []
    for data in re.findall(r"data:image/png;base64,([\w+/=]+)", html):
        with Image.open(BytesIO(base64.b64decode(data))) as image:
            image.load()
            found.append(image.size)
    return found


def test_each_recording_leaves_a_picture_of_its_own(notebook: Any) -> None:
    for cell in notebook.cells:
        forms = [set(output.get("data", {})) for output in cell.outputs]
        still = next(output for output in cell.outputs if "text/html" in output.get("data", {}))
        assert (
            "application/vnd.jupyter.widget-view+json" not in still.data
        )  # a front end that prefers widgets has no choice to make
        assert any("application/vnd.jupyter.widget-view+json" in form for form in forms)
        assert len(pictures(still.data["text/html"])) == 6  # two tensors at three moments
        assert "&lt;b&gt;" in still.data["text/html"]
    assert len(json.dumps(notebook)) < 400_000  # the viewer itself is not saved with it, or once at most


@needs_chromium
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("scripts", [False, True])
def test_exported_html_shows_it(notebook: Any, browser: Any, tmp_path: Path, scripts: bool) -> None:
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook)
    (tmp_path / "book.html").write_text(html, encoding="utf-8")
    context = browser.new_context(java_script_enabled=scripts, offline=True)  # whatever it would load is not there
    page = context.new_page()
    page.goto((tmp_path / "book.html").as_uri())
    images = page.locator("img[src^='data:image/png']")
    assert images.count() == 12
    assert all(images.nth(k).is_visible() for k in range(12))
    if scripts:
        assert images.evaluate_all("all => all.every(i => i.complete && i.naturalWidth > 0)")
    context.close()


ALLOWED = {"table", "caption", "tr", "th", "td", "img", "p", "div"}


@needs_chromium
@pytest.mark.xdist_group("browser")
def test_where_styles_scripts_and_classes_are_taken_out(notebook: Any, browser: Any) -> None:
    """What web pages of notebooks, and front ends that do not trust one, leave of an output."""
    html = next(o.data["text/html"] for o in notebook.cells[0].outputs if "text/html" in o.get("data", {}))
    html = re.sub(r"<style.*?</style>", "", html, flags=re.S)
    html = re.sub(r""" (style|class|id)=("[^"]*"|'[^']*')""", "", html)
    assert set(re.findall(r"<(\w+)", html)) <= ALLOWED
    page = browser.new_page()
    page.set_content(
        f"<iframe sandbox style='width:700px;height:500px' srcdoc='{html.replace(chr(39), '&#39;')}'></iframe>"
    )
    frame = page.frame_locator("iframe")
    frame.locator("img").first.wait_for()
    assert frame.locator("img").count() == 6
    assert "step 5" in frame.locator("body").inner_text()
    assert frame.locator("img").first.evaluate("i => i.naturalWidth") > 0
    page.close()

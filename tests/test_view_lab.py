"""The notebook in a real JupyterLab, in a browser: a recording shows itself, follows the cell that trains, and stands still when the notebook is opened again."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Page, needs_chromium
from tests.framework_presence import require

require("jupyterlab", "ipykernel", "nbformat", "anywidget")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser"), needs_chromium]

ROOT = Path(__file__).resolve().parent.parent
SHOW = """import time
import numpy as np
import weightlapse as wl
w = {"fc1.weight": np.ones((6, 4), "f4"), "fc2.weight": np.ones((3, 6), "f4")}
rec = wl.watch(w, "run")
rec.step(w)
rec.flush()
wl.load("run")"""
# it trains in three parts, and begins the next when the test has seen this one: how busy the machine is decides nothing
TRAIN = """import pathlib
for step in range(30):
    w["fc1.weight"] += np.random.normal(size=(6, 4)) / 10
    rec.step(w, loss=1 / (step + 1))
    rec.flush()
    while step % 10 == 9 and not pathlib.Path(f"seen-{step}").exists():
        time.sleep(0.05)
rec.close()"""


class Lab:
    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}?token=secret"

    def asked(self, path: str, method: str = "GET") -> bytes:
        with urllib.request.urlopen(urllib.request.Request(self.address(path), method=method)) as answer:
            return bytes(answer.read())


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    import nbformat.v4 as v4

    cells = [v4.new_code_cell(SHOW), v4.new_code_cell(TRAIN)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (tmp_path / "train.ipynb").write_text(json.dumps(v4.new_notebook(cells=cells, metadata=kernel)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        lab = Lab(tmp_path, free.getsockname()[1])
    own = {name: str(tmp_path / f".{name}") for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "HOME")}  # fmt: skip
    words = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={lab.port}", "--IdentityProvider.token=secret", f"--ServerApp.root_dir={tmp_path}",
             "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    with open(tmp_path / "said", "w") as said:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT), **own},
            stdout=said,
            stderr=said,
        )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                lab.asked("api")
                break
            assert server.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.1)
        yield lab
    finally:
        server.terminate()
        server.wait(30)


def opened(browser: Any, lab: Lab) -> Page:
    page = Page(browser.new_page(viewport={"width": 1200, "height": 900}))
    page.page.goto(lab.address("lab/tree/train.ipynb") + "&reset")
    page.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
    return page


def prompt(page: Page, cell: int) -> str:
    return str(page.page.locator(".jp-CodeCell").nth(cell).locator(".jp-InputPrompt").inner_text())


def frames(page: Page) -> int:
    return int(page.attribute("timeline", "aria-valuemax")) + 1


def test_it_shows_itself_follows_and_stands_still_when_opened_again(browser: Any, lab: Lab) -> None:
    page = opened(browser, lab)
    page.page.wait_for_selector('text="Python 3 (ipykernel) | Idle"', timeout=60_000)
    for _ in range(10):  # a kernel that is not quite there yet takes no cell, and says nothing
        page.page.locator(".jp-CodeCell .cm-content").first.click()
        page.page.keyboard.press("Shift+Enter")
        page.page.wait_for_timeout(1000)
        if prompt(page, 0) != "[ ]:":
            break
    page.page.wait_for_selector("[data-testid=heatmap][data-exact='1']", timeout=60_000)
    assert frames(page) == 2
    assert page.page.locator(".weightlapse-still").count() == 1
    assert not page.page.locator(".weightlapse-still").is_visible()  # the widget stands in its place

    page.page.keyboard.press("Shift+Enter")
    for step in (9, 19, 29):  # two frames were there before
        page.until("timeline", aria_valuemax=step + 2)
        assert prompt(page, 1) == "[*]:", "the widget followed only when the cell had ended"
        (lab.folder / f"seen-{step}").touch()
    page.page.wait_for_function(
        "document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')[1].innerText == '[2]:'", timeout=60_000
    )
    assert frames(page) == 32
    assert page.page.locator(".jp-OutputArea-child").nth(1).is_visible()

    page.page.wait_for_timeout(1500)  # the last question of the page, and its answer
    page.page.keyboard.press("Control+s")
    saved: list[dict[str, Any]] = []
    for _ in range(40):
        page.page.wait_for_timeout(250)
        saved = json.loads((lab.folder / "train.ipynb").read_text())["cells"][0]["outputs"]
        if len(saved) == 2:
            break
    assert [o["output_type"] for o in saved] == ["display_data", "execute_result"]
    assert "32 frames" in "".join(saved[0]["data"]["text/html"])
    page.quiet()
    page.page.close()

    for session in json.loads(lab.asked("api/sessions")):
        lab.asked(f"api/sessions/{session['id']}", "DELETE")
    again = opened(browser, lab)
    still = again.page.locator(".weightlapse-still")
    still.wait_for(state="visible", timeout=30_000)
    again.page.wait_for_selector(".jp-OutputArea-output.jupyter-widgets", state="attached", timeout=30_000)
    assert "32 frames" in still.inner_text()
    assert still.locator("img").count() == 6
    assert all(still.locator("img").evaluate_all("images => images.map(i => i.naturalWidth > 0)"))
    assert not again.page.locator("text=Error displaying widget").is_visible()
    if shots := os.environ.get("WEIGHTLAPSE_SHOTS"):
        again.page.screenshot(path=f"{shots}/lab-opened-again.png")

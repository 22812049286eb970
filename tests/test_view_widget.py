"""The notebook's widget: questions and answers over messages, and a thumbnail that needs no script."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from tests.browser import Page, chromium, needs_chromium
from weightlapse.picture.palette import table
from weightlapse.view.subject import Subject
from weightlapse.view.thumbnail import png, thumbnail
from weightlapse.view.widget import Widget


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("widget") / "<run>"
    with wl.watch({"<b>W</b>": np.eye(5, dtype=np.float32), "b": np.zeros(3)}, path) as rec:
        for step in range(1, 9):
            rec.step({"<b>W</b>": np.eye(5, dtype=np.float32) * step, "b": np.zeros(3)})
    return path


class Told:
    """What a widget sends, in the order sent."""

    def __init__(self, widget: Widget) -> None:
        self.sent: list[tuple[dict[str, Any], list[bytes]]] = []
        self._more = threading.Condition()
        widget.send = self._take

    def _take(self, content: dict[str, Any], buffers: Any = None) -> None:
        with self._more:
            self.sent.append((content, list(buffers or [])))
            self._more.notify_all()

    def wait(self, count: int) -> list[tuple[dict[str, Any], list[bytes]]]:
        with self._more:
            assert self._more.wait_for(lambda: len(self.sent) >= count, timeout=10)
        return self.sent


def test_questions_are_answered_by_number(recording: Path) -> None:
    widget = Widget(recording)
    told = Told(widget)
    widget._asked(widget, {"id": 7, "word": "manifest", "query": {}}, [])
    (content, buffers), *_ = told.wait(1)
    assert content == {"id": 7}
    assert json.loads(buffers[0])["runs"][0]["frames"] == 9
    widget._asked(widget, {"id": 8, "word": "plane", "query": {"tensor": "none", "frame": "0"}}, [])
    content, buffers = told.wait(2)[1]
    assert content["id"] == 8
    assert "none" in content["error"]
    assert buffers == []


def test_a_cancelled_question_gets_no_answer(recording: Path) -> None:
    widget = Widget(recording)
    told = Told(widget)
    started, go = threading.Event(), threading.Event()

    def slow(word: str, query: dict[str, str], cancel: Any) -> tuple[str, bytes]:
        started.set()
        go.wait(5)
        return original(word, query, cancel)

    original = widget._answers.reply
    widget._answers.reply = slow  # type: ignore[method-assign]
    query = {"tensor": "<b>W</b>", "frames": "0:9:1", "limit": "1"}
    widget._asked(widget, {"id": 1, "word": "clip", "query": query}, [])
    assert started.wait(5)
    widget._asked(widget, {"id": 1, "cancel": True}, [])
    go.set()
    time.sleep(0.2)
    assert told.sent == []


def test_the_bundle_holds_widget_and_thumbnail(recording: Path) -> None:
    data, _ = Widget(recording)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "data:image/png;base64," in data["text/html"]
    assert "export" in Widget._esm


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)


def test_the_thumbnail_is_static_and_safe(recording: Path) -> None:
    html = thumbnail(Subject(wl.load(recording), "<script>alert(1)</script>"))
    parser = Tags()
    parser.feed(html)
    assert parser.tags <= {"table", "caption", "tr", "th", "td", "img", "p"}
    assert len(re.findall("data:image/png", html)) == 3
    assert "http" not in html


def test_the_picture_is_a_real_png() -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (7, 11)).astype(np.uint8)
    with Image.open(BytesIO(png(table("light")[pixels]))) as image:
        assert np.array_equal(np.asarray(image), table("light")[pixels])


NOTEBOOK = """<!doctype html><body><script type="module">
const listeners = [];
window.sent = [];
window.tell = (content, base64) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  for (const listener of listeners) listener(content, [new DataView(bytes.buffer)]);
};
const model = { send: (m) => window.ask(JSON.stringify(m)), on: (event, callback) => listeners.push(callback) };
const source = await window.esm();
const module = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
const el = document.createElement("div"), style = document.createElement("style");
style.textContent = await window.style();
if (window.shadow) {  // as marimo has it: a column in a shadow tree, in a page whose style has names of its own
  const host = document.createElement("div");
  host.style.cssText = "width: 600px; --warn: #00ff00; --ink: #00ff00";
  document.documentElement.style.cssText = "--warn: #00ff00; --ink: #00ff00; --accent: #00ff00";
  document.body.append(host);
  host.attachShadow({ mode: "open" }).append(style, el);
} else document.body.append(style, el);
window.dispose = module.default.render({ model, el });
</script></body>"""


COLOURS = """(canvas) => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data, found = new Set();
  for (let k = 0; k < data.length; k += 4) if (data[k + 3] === 255) found.add(data.slice(k, k + 3).join());
  return [...found];
}"""


@pytest.fixture
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@needs_chromium
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("shadow", [False, True])
def test_the_widget_draws_in_a_page_that_is_not_its_own(browser: Any, recording: Path, shadow: bool) -> None:
    """A stand-in for a notebook's front end: only messages go to and fro."""
    import base64

    widget = Widget(recording)
    page = Page(browser.new_page())
    waiting: list[dict[str, Any]] = []
    page.page.expose_function("ask", lambda text: waiting.append(json.loads(text)))
    page.page.expose_function("esm", lambda: Widget._esm)
    page.page.expose_function("style", lambda: Widget._css)
    page.page.set_content(NOTEBOOK.replace("window.shadow", str(shadow).lower()))
    for _ in range(200):
        while waiting:
            question = waiting.pop(0)
            if "word" in question:
                _, body = widget._answers.reply(question["word"], question["query"])
                page.page.evaluate(
                    "([c, b]) => window.tell(c, b)", [{"id": question["id"]}, base64.b64encode(body).decode()]
                )
        if page.page.locator("[data-testid=heatmap][data-exact='1']").count() and not waiting:
            break
        page.page.wait_for_timeout(50)
    assert page.attribute("heatmap", "data-tensor") == "<b>W</b>"
    assert page.attribute("timeline", "aria-valuemax") == "8"
    classes = set((page.page.locator(".wl").get_attribute("class") or "").split())
    assert ("narrow" in classes) is shadow  # the column's width, not the window's
    colours = page.page.locator("[data-testid=timeline] canvas").first.evaluate(COLOURS)
    assert "194,65,12" in colours  # the mark of a finding, in our colour for it
    assert "0,255,0" not in colours
    page.page.evaluate("window.dispose()")
    page.quiet()


def test_a_notebook_shows_a_recording_by_itself(recording: Path) -> None:
    """In a fresh IPython: the display formatter gives widget and thumbnail once told, and a plain console is left alone."""
    program = f"""
import sys
from weightlapse.view.notebook import register
assert register() is False  # a plain Python
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import weightlapse as wl
wl.load  # in a notebook, the first use of load does the rest
assert "weightlapse.view.widget" not in sys.modules
data, _ = shell.display_formatter.format(wl.load({str(recording)!r}))
assert "application/vnd.jupyter.widget-view+json" in data, sorted(data)
assert "data:image/png" in data["text/html"]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


MARIMO = """
import sys, types
marimo = types.ModuleType("marimo")
marimo.running_in_notebook = lambda: sys.argv[2] == "notebook"
marimo.Html = str
sys.modules["marimo"] = marimo
import weightlapse as wl
run = wl.load(sys.argv[1])
if sys.argv[2] == "script":  # the library is there, and this is no notebook of it
    assert not hasattr(run, "_display_")
    sys.exit()
from weightlapse.view.widget import Widget
assert isinstance(run._display_(), Widget)
assert isinstance(wl.show(run), Widget)  # a server would never end the cell
sys.modules["weightlapse.view.widget"] = None  # as without the extra
assert "<table" in run._display_()
"""


@pytest.mark.parametrize("kind", ["notebook", "script"])
def test_marimo_is_told_by_its_own_protocol(recording: Path, kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MARIMO, str(recording), kind], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr

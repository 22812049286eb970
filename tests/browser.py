"""A real browser for the viewer's tests: Debian's Chromium, headless, drawing in software."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
VIEWER = Path(__file__).resolve().parent.parent / "viewer"
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="needs Chromium (Debian: apt-get install chromium)"
)


class Page:
    """A page of the viewer, with everything that it complained about or asked for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: self.errors.append(str(e)))
        page.on("request", lambda r: self.requests.append(r.url))

    def open(self, url: str) -> Page:
        self.page.goto("about:blank")  # an address that differs in its fragment only would not load anew
        self.page.goto(url)
        self.page.wait_for_selector("body[data-wl-state=ready]", timeout=30_000)
        return self

    def get(self, hook: str) -> Any:
        return self.page.get_by_test_id(hook)

    def attribute(self, hook: str, name: str) -> str:
        value = self.get(hook).get_attribute(name)
        assert value is not None, f"{hook} has no {name}"
        return str(value)

    def until(self, hook: str, **attributes: Any) -> None:
        """Waits until the element bears the attributes (given with underscores)."""
        words = "".join(f"[{k.replace('_', '-')}='{v}']" for k, v in attributes.items())
        self.page.wait_for_selector(f"[data-testid={hook}]{words}", timeout=20_000, state="attached")

    def past(self, frame: int) -> int:
        """Waits until a playing page has drawn ``frame`` or a later one; returns the one drawn."""
        for _ in range(400):
            drawn = int(self.attribute("heatmap", "data-frame"))
            if drawn >= frame:
                return drawn
            self.page.wait_for_timeout(50)
        raise AssertionError(f"frame {frame} was not reached; the page shows frame {drawn}")

    def at_frame(self, frame: int) -> None:
        """Waits until the frame is drawn, exactly."""
        self.until("heatmap", data_frame=frame, data_exact=1)

    def point(self, row: int, col: int, *, click: bool = False) -> None:
        """Moves the pointer onto the middle of a cell."""
        box = self.get("heatmap").bounding_box()
        x, y, dx, dy = map(float, self.attribute("heatmap", "data-cells").split())
        at = (box["x"] + x + (col + 0.5) * dx, box["y"] + y + (row + 0.5) * dy)
        self.page.mouse.move(at[0] + 0.01, at[1])
        self.page.mouse.move(*at)
        if click:
            self.page.mouse.click(*at)

    def pixels(self) -> bytes:
        """The heat map as drawn."""
        return bytes(self.get("heatmap").screenshot())

    def faults(self, axe: str) -> list[str]:
        """What axe-core calls a serious or critical fault of accessibility, as the page is now; ``axe`` is its source."""
        self.page.evaluate(axe)
        found = self.page.evaluate("async () => (await axe.run()).violations")
        grave = [v for v in found if v["impact"] in ("serious", "critical")]
        return [
            f"{v['id']}: {', '.join(str(n['target']) + ' ' + n['html'][:120] for n in v['nodes'][:4])}" for v in grave
        ]

    def quiet(self) -> None:
        """Nothing was complained about, and nobody else was asked for anything."""
        assert self.errors == []
        foreign = [
            u for u in self.requests if not u.startswith(("http://127.0.0.1:", "file:", "data:", "blob:", "about:"))
        ]
        assert foreign == []


def node_modules() -> Path:
    """The viewer's locked development packages: its own where `npm ci` has been run there, else installed once for this machine and lock."""
    if (VIEWER / "node_modules" / ".bin").exists():
        return VIEWER / "node_modules"
    if shutil.which("npm") is None and not os.environ.get("WEIGHTLAPSE_REQUIRE_FRAMEWORKS"):
        pytest.skip("needs Node (Debian: apt-get install nodejs npm)")
    lock = (VIEWER / "package-lock.json").read_bytes()
    kept = Path(tempfile.gettempdir()) / f"weightlapse-node-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=kept.parent, ignore_cleanup_errors=True) as fresh:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(VIEWER / name, fresh)
            subprocess.run(["npm", "ci", "--no-fund", "--no-audit", "--silent"], cwd=fresh, check=True, timeout=300)
            with contextlib.suppress(OSError):  # another worker was first
                Path(fresh).rename(kept)
    return kept / "node_modules"


def axe_source() -> str:
    """The source of axe-core, one of these packages."""
    return (node_modules() / "axe-core" / "axe.min.js").read_text("utf-8")


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, "CI must have Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def served(*runs: Any) -> Iterator[str]:
    """``weightlapse view`` on some recordings, as a program of its own; yields its address."""
    command = [sys.executable, "-m", "weightlapse", "view", *map(str, runs), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            assert process.wait(10) == 0

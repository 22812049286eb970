"""How fast is the viewer, and how much memory does it take? In headless Chromium that draws in software, on this machine.

    python bench/viewer.py            1 M weights x 1000 frames and 20 M weights x 200 frames
    python bench/viewer.py --quick    the same with fewer frames

Every weight of the first recording moves at every step. No other tool plays exact weights over time in a browser, so the table
stands beside the goals and not beside a peer.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import weightlapse as wl

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.browser import chromium  # noqa: E402

QUIET_MS = 40_000  # the viewer prepares small pictures of all frames while nobody asks for anything
WATCH = """() => {
  const map = document.querySelector('[data-testid=heatmap]');
  window.frames_drawn = new Set();
  new MutationObserver(() => window.frames_drawn.add(map.dataset.frame)).observe(map, { attributeFilter: ['data-frame'] });
}"""
JUMP = """(frame) => new Promise((done) => {
  const map = document.querySelector('[data-testid=heatmap]');
  const slider = document.querySelector('[data-testid=timeline]');
  const start = performance.now();
  let drawn = null;
  const look = () => {
    if (drawn === null && map.dataset.frame === String(frame)) drawn = performance.now() - start;
    if (drawn !== null && map.dataset.exact === '1' && map.dataset.frame === String(frame)) {
      watch.disconnect();
      done([drawn, performance.now() - start]);
    }
  };
  const watch = new MutationObserver(look);
  watch.observe(map, { attributeFilter: ['data-frame', 'data-exact'] });
  history.replaceState(null, '', '#tensor=' + encodeURIComponent(map.dataset.tensor) + '&frame=' + frame + '&fps=60');
  dispatchEvent(new HashChangeEvent('hashchange'));
})"""


def record(
    path: Path, shape: tuple[int, int], frames: int, change: Callable[[np.ndarray[Any, Any], int], None]
) -> None:
    weights = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with wl.watch({"layer.weight": weights}, path) as rec:
        for frame in range(1, frames):
            change(weights, frame)
            rec.step({"layer.weight": weights}, loss=1 / frame)


def all_move(weights: np.ndarray[Any, Any], frame: int) -> None:
    weights += np.float32(0.02) * np.roll(weights, frame, axis=1)


def some_move(weights: np.ndarray[Any, Any], frame: int) -> None:
    top = (frame * 25) % (len(weights) - 25)
    weights[top : top + 25] += np.float32(0.3)


def resident(pid: int) -> float:
    """Memory that a process has to itself, in MB; pages of mapped files can be dropped at any time and do not count."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) / 1000


def measure(browser: Any, path: Path, frames: int) -> dict[str, float]:
    command = [sys.executable, "-m", "weightlapse", "view", str(path), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        context = browser.new_context(viewport={"width": 1440, "height": 900}, bypass_csp=True)
        page = context.new_page()
        start = time.perf_counter()
        page.goto(url + "#fps=60")
        page.wait_for_selector("body[data-wl-state=ready]", timeout=60_000)
        first = time.perf_counter() - start
        page.wait_for_selector("[data-testid=heatmap][data-exact='1']", timeout=60_000)
        page.wait_for_timeout(1500)
        numbers = np.random.default_rng(1).integers(0, frames, 15).tolist()
        jumps = [page.evaluate(JUMP, frame) for frame in numbers]
        page.wait_for_timeout(QUIET_MS)
        later = [page.evaluate(JUMP, frame) for frame in numbers]
        page.evaluate(JUMP, 0)
        page.evaluate(WATCH)
        page.get_by_test_id("play").click()
        start = time.perf_counter()
        page.wait_for_timeout(4000)
        rate = page.evaluate("window.frames_drawn.size") / (time.perf_counter() - start)
        page.keyboard.press("Space")
        heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
        memory = resident(server.pid)
        context.close()
        server.terminate()
        server.wait(10)
    return {
        "first picture, s": first,
        "different frames drawn per second at 60 chosen": rate,
        "jump until the frame shows, median ms": statistics.median(j[0] for j in jumps),
        "jump until the frame shows, largest ms": max(j[0] for j in jumps),
        "the same after 40 s of looking, median ms": statistics.median(j[0] for j in later),
        "jump until it is exact, median ms": statistics.median(j[1] for j in jumps),
        "page memory (JavaScript), MB": heap,
        "server memory, MB": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    sizes = (300, 40) if quick else (1000, 200)
    goals = ["< 2", "≥ 30", "< 150", "< 150", "< 150", "", "bounded", "bounded"]
    columns: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        for title, shape, frames, change in (
            (f"1 M weights × {sizes[0]} frames", (1000, 1000), sizes[0], all_move),
            (f"20 M weights × {sizes[1]} frames", (5000, 4000), sizes[1], some_move),
        ):
            path = Path(folder) / title.split()[0]
            start = time.perf_counter()
            record(path, shape, frames, change)
            print(f"recorded {title} in {time.perf_counter() - start:.0f} s", file=sys.stderr)
            columns[title] = measure(browser, path, frames)
    rows = next(iter(columns.values()))
    lines = [f"| | {' | '.join(columns)} | goal (1 M) |", f"|---|{'---|' * (len(columns) + 1)}"]
    for row, goal in zip(rows, goals, strict=True):
        cells = " | ".join(f"{c[row]:.3g}" if c[row] < 100 else f"{c[row]:.0f}" for c in columns.values())
        lines.append(f"| {row} | {cells} | {goal} |")
    lines += [
        "",
        f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.0f} beside it), Python {platform.python_version()}, weightlapse {wl.__version__}, "
        "headless Chromium with software rendering.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    (ROOT / "bench" / "results" / "viewer.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

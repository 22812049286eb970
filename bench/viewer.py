"""How fast is the viewer, and how much memory does it take? In headless Chromium that draws in software, on this machine.

    python bench/viewer.py                 1 M weights x 300 frames and 20 M weights x 40 frames
    python bench/viewer.py --large         and a GPT of 124 M weights x 20 frames (13 GB on disk for a while)
    python bench/viewer.py --in FOLDER     keeps the recordings in FOLDER, or takes those that are there

Every weight of the first and the last recording moves at every step. The page opens as for somebody who comes without an address: on the map of the
network. No other tool plays exact weights over time in a browser, so the table
stands beside the goals and not beside a peer.
"""

from __future__ import annotations

import argparse
import math
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

Weights = dict[str, np.ndarray[Any, Any]]
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


def record(path: Path, weights: Weights, frames: int, change: Callable[[Weights, int], None]) -> None:
    nbytes = sum(w.nbytes for w in weights.values())
    with wl.watch(weights, path, memory=max(256_000_000, 3 * nbytes)) as rec:
        for frame in range(1, frames):
            change(weights, frame)
            rec.step(weights, loss=1 / frame)


def all_move(weights: Weights, frame: int) -> None:
    for values in weights.values():
        values += np.float32(0.02) * np.roll(values, frame, axis=-1)


def some_move(weights: Weights, frame: int) -> None:
    for values in weights.values():
        top = (frame * 25) % (len(values) - 25)
        values[top : top + 25] += np.float32(0.3)


def matrix(*shape: int) -> Weights:
    return {"layer.weight": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def gpt(width: int = 768, depth: int = 12, vocabulary: int = 50257, context: int = 1024) -> Weights:
    """The tensors of a GPT-2 of 124 M weights."""
    block = {
        "ln_1.weight": (width,), "ln_1.bias": (width,), "attn.c_attn.weight": (3 * width, width), "attn.c_attn.bias": (3 * width,),
        "attn.c_proj.weight": (width, width), "attn.c_proj.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,), "mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,),
    }  # fmt: skip
    shapes = {"wte.weight": (vocabulary, width), "wpe.weight": (context, width)}
    shapes |= {f"h.{b}.{name}": shape for b in range(depth) for name, shape in block.items()}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    rng = np.random.default_rng(0)
    return {name: (0.02 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


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
        exact = time.perf_counter() - start
        single = page.get_by_test_id("map-layer").count() == 0  # a network of one layer has no map
        if not single:
            page.wait_for_selector("[data-testid=map][data-surveyed='1']", timeout=60_000)
        surveyed = math.nan if single else time.perf_counter() - start
        page.wait_for_timeout(1500)
        numbers = np.random.default_rng(1).permutation(np.arange(1, frames - 1))[:15].tolist()
        jumps = [page.evaluate(JUMP, frame) for frame in numbers]
        page.wait_for_timeout(QUIET_MS)
        later = [page.evaluate(JUMP, frame) for frame in numbers]
        page.evaluate(JUMP, 0)
        page.evaluate(WATCH)
        page.get_by_test_id("play").click()
        begun = time.perf_counter()
        page.wait_for_timeout(int(min(4000, (frames - 2) * 1000 / 60)))
        rate = page.evaluate("window.frames_drawn.size") / (time.perf_counter() - begun)
        page.keyboard.press("Space")
        heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
        memory = resident(server.pid)
        context.close()
        server.terminate()
        server.wait(10)
    return {
        "first picture, s": first,
        "first exact picture, s": exact,
        "map of the network in colour, s": surveyed,
        "jump until the frame shows, median ms, at first": statistics.median(j[0] for j in jumps),
        "the same, largest ms": max(j[0] for j in jumps),
        "the same after 40 s of looking, median ms": statistics.median(j[0] for j in later),
        "jump until it is exact, median ms": statistics.median(j[1] for j in jumps),
        "different frames drawn per second at 60 chosen": rate,
        "page memory (JavaScript), MB": heap,
        "server memory, MB": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--in", dest="folder", type=Path)
    given = parser.parse_args()
    cases: list[tuple[str, Callable[[], Weights], int, Callable[[Weights, int], None], dict[str, str]]] = [
        ("1 M × 300", lambda: matrix(1000, 1000), 300, all_move, {"first picture, s": "< 1", "different": "≥ 60", "at first": "< 100"}),
        ("20 M × 40", lambda: matrix(5000, 4000), 40, some_move, {"first picture, s": "< 2", "at first": "< 300"}),
    ]  # fmt: skip
    if given.large:
        cases.append(("124 M × 20", gpt, 20, all_move, {"first picture, s": "< 3"}))
    columns: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as temporary, chromium() as browser:
        folder = given.folder or Path(temporary)
        for title, weights, frames, change, goals in cases:
            path = folder / title.split(" × ")[0].replace(" ", "")
            if not path.exists():
                start = time.perf_counter()
                record(path, weights(), frames, change)
                print(f"recorded {title} in {time.perf_counter() - start:.0f} s", file=sys.stderr)
            found = measure(browser, path, frames)
            print(title, found, file=sys.stderr, flush=True)
            columns[title] = {}
            for row, value in found.items():
                goal = next((f" ({g})" for key, g in goals.items() if key in row), "")
                told = "–" if math.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:.0f}"
                columns[title][row] = told + goal
    lines = [f"| weights × frames (goal) | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row in next(iter(columns.values())):
        lines.append(f"| {row} | {' | '.join(c[row] for c in columns.values())} |")
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

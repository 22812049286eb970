"""How fast is the viewer, and how much memory does it take? In headless Chromium that draws in software, on this machine.

    python bench/viewer.py                    all three sizes, one after the other
    python bench/viewer.py 1M|20M|124M ...    those named; the columns of the others stay in bench/results/viewer.md
    python bench/viewer.py 1M --in FOLDER     keeps the recordings in FOLDER, or takes those that are there

``1M``    1 M weights x 300 frames; every weight moves at every step.
``20M``   20 M weights x 40 frames; some rows move at every step, as those of an embedding do.
``124M``  a GPT of 124 M weights x 20 frames; some rows of every tensor move. The weights begin with the digits of bfloat16, and the frames are compressed
          four at a time: 3 GB on disk while it is made, 1 GB then.

The page opens as for somebody who comes without an address: on the map of the network. No other tool plays exact weights over time in a browser, so the
table stands beside the goals and not beside a peer. Each size takes about two minutes on two quiet cores. Jumps go to frames in no order.
Frames per second are those between the first and the last new picture of four seconds of playing; how long the first one takes stands beside it.
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
from typing import Any, Literal

import numpy as np

import weightlapse as wl

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.browser import chromium  # noqa: E402

Weights = dict[str, np.ndarray[Any, Any]]
QUIET_MS = 20_000  # the viewer prepares small pictures of all frames while nobody asks for anything
WATCH = """() => {
  const map = document.querySelector('[data-testid=heatmap]');
  window.drawn = [];
  window.pressed = performance.now();
  new MutationObserver(() => {
    if (window.drawn.at(-1)?.[0] !== map.dataset.frame) window.drawn.push([map.dataset.frame, performance.now()]);
  }).observe(map, { attributeFilter: ['data-frame'] });
  document.querySelector('[data-testid=play]').click();
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


def record(path: Path, weights: Weights, frames: int, change: Callable[[Weights, int], None], at_once: int) -> None:
    """``at_once``: frames after which the recording is closed, and so compressed, before it goes on: what lies on the disk meanwhile is bounded."""
    nbytes = sum(w.nbytes for w in weights.values())
    compact: Literal["after", "auto"] = "after" if at_once < frames else "auto"
    for first in range(0, frames, at_once):
        with wl.watch(weights, path, memory=max(256_000_000, 3 * nbytes), compact=compact, resume=first > 0) as rec:
            for frame in range(
                max(first, 1), min(first + at_once, frames)
            ):  # a recording begins with a frame of its own
                change(weights, frame)
                rec.step(weights, loss=1 / frame)


def all_move(weights: Weights, frame: int) -> None:
    for values in weights.values():
        values += np.float32(0.02) * np.roll(values, frame, axis=-1)


def some_move(weights: Weights, frame: int) -> None:
    for values in weights.values():
        top = (frame * 25) % (len(values) - 25)
        values[top : top + 25] += np.float32(0.3)


def matrix(rows: int, columns: int) -> Weights:
    """One large matrix, and a small one, so that the network has a map."""
    rng = np.random.default_rng(0)
    return {
        "layer.weight": rng.standard_normal((rows, columns), np.float32),
        "head.weight": rng.standard_normal((100, rows), np.float32),
    }


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
    weights = {name: np.float32(0.02) * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    for values in weights.values():
        values.view(np.uint32)[...] &= np.uint32(0xFFFF0000)
    return weights


def resident(pid: int) -> float:
    """Memory that a process has to itself, in MB; pages of mapped files can be dropped at any time and do not count."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) / 1000


def measure(browser: Any, path: Path, frames: int) -> dict[str, float]:
    command = [sys.executable, "-m", "weightlapse", "view", str(path), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            return looked_at(browser, server.stdout.readline().strip(), server.pid, frames)
        finally:
            server.terminate()
            server.wait(20)


def looked_at(browser: Any, url: str, server: int, frames: int) -> dict[str, float]:
    with browser.new_context(viewport={"width": 1440, "height": 900}, bypass_csp=True) as context:
        page = context.new_page()
        start = time.perf_counter()
        page.goto(url + "#fps=60")
        page.wait_for_selector("body[data-wl-state=ready]", timeout=60_000)
        first = time.perf_counter() - start
        page.wait_for_selector("[data-testid=heatmap][data-exact='1']", timeout=60_000)
        exact = time.perf_counter() - start
        page.wait_for_selector("[data-testid=map][data-surveyed='1']", timeout=60_000)
        surveyed = time.perf_counter() - start
        page.wait_for_timeout(1500)
        numbers = np.random.default_rng(1).permutation(np.arange(1, frames - 1))[:15].tolist()
        jumps = [page.evaluate(JUMP, frame) for frame in numbers]
        page.wait_for_timeout(QUIET_MS)
        later = [page.evaluate(JUMP, frame) for frame in numbers]
        page.evaluate(JUMP, 0)
        page.evaluate(WATCH)
        page.wait_for_timeout(int(min(4000, (frames - 2) * 1000 / 60)))
        drawn, pressed = page.evaluate("[window.drawn, window.pressed]")
        page.wait_for_timeout(1000)
        shown = [at for _, at in drawn]
        rate = (len(shown) - 1) / (shown[-1] - shown[0]) * 1000 if len(shown) > 2 else 0.0
        heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
        memory = resident(server)
    return {
        "first picture, s": first,
        "first exact picture, s": exact,
        "map of the network in colour, s": surveyed,
        "jump until the frame shows, median ms, at first": statistics.median(j[0] for j in jumps),
        "the same, largest ms": max(j[0] for j in jumps),
        f"the same after {QUIET_MS // 1000} s of looking, median ms": statistics.median(j[0] for j in later),
        "jump until it is exact, median ms": statistics.median(j[1] for j in jumps),
        "different frames drawn per second at 60 chosen": rate,
        "from play to the next picture, ms": shown[0] - pressed if shown else float("nan"),
        "page memory (JavaScript), MB": heap,
        "server memory, MB": memory,
    }


Case = tuple[str, Callable[[], Weights], int, Callable[[Weights, int], None], int, dict[str, str]]
CASES: dict[str, Case] = {
    "1M": (
        "1 M × 300",
        lambda: matrix(1000, 1000),
        300,
        all_move,
        300,
        {"first picture, s": "< 1", "different": "≥ 60", "at first": "< 100"},
    ),
    "20M": (
        "20 M × 40",
        lambda: matrix(5000, 4000),
        40,
        some_move,
        40,
        {"first picture, s": "< 2", "at first": "< 300"},
    ),
    "124M": ("124 M × 20", gpt, 20, some_move, 4, {"first picture, s": "< 3", "map of": "< 3"}),
}
RESULTS = ROOT / "bench" / "results" / "viewer.md"


def kept() -> dict[str, dict[str, str]]:
    """The columns of the last results, by their titles."""
    lines = (
        [line.strip("|\n ").split(" | ") for line in RESULTS.read_text("utf-8").splitlines() if line.startswith("| ")]
        if RESULTS.exists()
        else []
    )
    return (
        {title: {row[0]: row[k] for row in lines[1:] if row[k] != "–"} for k, title in enumerate(lines[0][1:], 1)}
        if lines
        else {}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help="1M, 20M, 124M")
    parser.add_argument("--in", dest="folder", type=Path)
    given = parser.parse_args()
    if unknown := set(given.sizes) - set(CASES):
        parser.error(f"{', '.join(sorted(unknown))}: the sizes are {', '.join(CASES)}")
    columns = kept()
    with chromium() as browser:
        for size in given.sizes or CASES:
            title, weights, frames, change, at_once, goals = CASES[size]
            with tempfile.TemporaryDirectory() as temporary:
                path = (given.folder or Path(temporary)) / size
                if not path.exists():
                    start = time.perf_counter()
                    record(path, weights(), frames, change, at_once)
                    print(f"recorded {title} in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
                found = measure(browser, path, frames)
            print(title, {k: round(v, 3) for k, v in found.items()}, file=sys.stderr, flush=True)
            columns[title] = {}
            for row, value in found.items():
                goal = next((f" ({g})" for key, g in goals.items() if key in row), "")
                columns[title][row] = (f"{value:.3g}" if value < 100 else f"{value:.0f}") + goal
            columns[title]["load beside it"] = f"{os.getloadavg()[0]:.0f}"
    titles = [case[0] for case in CASES.values() if case[0] in columns]
    rows = dict.fromkeys(row for title in reversed(titles) for row in columns[title])
    lines = [f"| weights × frames (goal) | {' | '.join(titles)} |", f"|---|{'---|' * len(titles)}"]
    lines += [f"| {row} | {' | '.join(columns[t].get(row, '–') for t in titles)} |" for row in rows]
    lines += [
        "",
        f"{os.cpu_count()} cores, Python {platform.python_version()}, weightlapse {wl.__version__}, headless Chromium with software rendering.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""What does a measure cost beside reading alone? One pass of several measures over a large recording. Writes bench/results/measures.md."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import weightlapse as wl

SHAPES = {f"layer{i}.weight": (1000, 1000) for i in range(10)}
FRAMES = 40
SETS = (
    ["norm"],
    ["norm", "update_ratio", "distance", "max_abs"],
    ["norm", "update_ratio", "angle_to_previous", "sparsity", "sign_changes", "transport"],
)


def main() -> None:
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else FRAMES
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        state = {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
        speed = {n: np.zeros(s, np.float32) for n, s in SHAPES.items()}
        with wl.watch(state, Path(folder) / "run", memory="1GB") as rec:
            for _ in range(frames - 1):
                for n, s in SHAPES.items():
                    speed[n] = np.float32(0.9) * speed[n] + np.float32(1e-3) * rng.standard_normal(s).astype(np.float32)
                    state[n] = state[n] + speed[n]
                rec.step(state)
        rows = []
        for what in SETS:
            start = time.perf_counter()
            run = wl.load(Path(folder) / "run")
            for name in run.names:
                for first in range(0, frames, 8):
                    run[name][first : first + 8]
            reading = time.perf_counter() - start
            start = time.perf_counter()
            wl.measure(wl.load(Path(folder) / "run"), what)
            rows.append((", ".join(what), reading, time.perf_counter() - start))
    weights = sum(int(np.prod(s)) for s in SHAPES.values())
    lines = ["# What a measure costs beside reading alone", ""]
    lines += [
        f"2 cores, Python {platform.python_version()}, NumPy {np.__version__}, weightlapse {wl.__version__}; {weights / 1e6:.0f} M weights, {frames} frames.",
        "",
    ]
    lines += ["| measures in one pass | reading every value | measuring | times reading |", "|---|---|---|---|"]
    lines += [f"| {what} | {r:.1f} s | {m:.1f} s | {m / r:.2f} |" for what, r, m in rows]
    text = "\n".join(lines) + "\n"
    print(text)
    (Path(__file__).parent / "results" / "measures.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Two small transformers from one start, trained on different sentences in a different order: how long do their units stay together?

*Followed* chains alignments from the common start, frame to frame. *Matched* aligns each pair of frames by itself, as one would who has only the ends. The
true partner of a unit is the one that it began as: "kept" is the part of hidden units and heads that an alignment leaves with it.

    python bench/follow.py [--steps N] [--frames N] [--rate R]
"""
# ruff: noqa: E402  (the threads must be set before NumPy loads)

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
warnings.filterwarnings("ignore")

import numpy as np
import torch
from lineage import made, sentences

import weightlapse as wl
from weightlapse.symmetry.elements import Elements


def recorded(path: Path, seed: int, steps: int, every: int, rate: float) -> wl.Recording:
    net = made(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate)
    rec = wl.watch(
        net,
        path,
        optimizer=optimizer,
        every=every,
        example={"input_ids": sentences(1, 0, 3), "use_cache": False},
    )
    for step in range(steps):
        x = sentences(1, 10_000 * seed + step, 32)
        loss = net(input_ids=x, labels=x, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rec.close()
    return wl.load(path)


def kept(element: Elements, names: list[str]) -> float:
    return float(np.mean(np.concatenate([element.order[n] == np.arange(len(element.order[n])) for n in names])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--rate", type=float, default=2e-2)
    args = parser.parse_args()
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        a, b = (
            recorded(Path(folder) / name, seed, args.steps, args.steps // args.frames, args.rate)
            for name, seed in (("a", 1), ("b", 2))
        )
        w = a.wiring
        assert w is not None
        names = [g.name for g in w.groups if g.parent is None]
        followed = wl.align_runs(a, b, follow=True)
        rows = []
        for i, step in enumerate(followed.steps.tolist()):
            alone = wl.align(
                followed.state_a(i), followed.raw_state(i), w, symmetries=("permutation", "sign", "scale"), restarts=0
            )
            rows.append(
                (
                    step,
                    kept(followed.element(i), names),
                    kept(alone.elements, names),
                    followed.aligned_distance[i],
                    alone.distance_after,
                )
            )
        parting = followed.parting
    _draw(rows, HERE / "results" / "follow.svg")
    lines = [
        "| step | kept, followed | kept, matched alone | distance, followed | distance, matched alone |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {s} | {100 * f:.1f} % | {100 * m:.1f} % | {x:.3f} | {y:.3f} |" for s, f, m, x, y in rows]
    text = [
        "# Two trainings from one start, followed and matched",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, one thread, {time.process_time() - began:.0f} CPU seconds. "
        + str(__doc__).split("\n\n")[1].strip(),
        "",
        "![The part of units that keep their partner](follow.svg)",
        "",
        *lines,
        "",
        "Layers part for good at: "
        + ", ".join(f"{n} {'not at all' if parting[n] is None else parting[n]}" for n in names)
        + ".",
        "",
    ]
    (HERE / "results" / "follow.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


def _draw(rows: list[Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3))
    axes = figure.add_subplot()
    steps = [r[0] for r in rows]
    axes.plot(steps, [100 * r[1] for r in rows], label="followed")
    axes.plot(steps, [100 * r[2] for r in rows], label="each pair matched alone")
    axes.set_xlabel("step")
    axes.set_ylabel("units with their partner, %")
    axes.set_ylim(0, 103)
    axes.legend()
    figure.savefig(path, bbox_inches="tight")


if __name__ == "__main__":
    main()

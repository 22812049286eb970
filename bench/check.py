"""Has anything become slower or larger? A few quick questions, each a ratio to a plain peer in the same process, beside the ratios that were kept.

    python bench/check.py            measure, compare, exit 1 where a ratio is worse beyond noise
    python bench/check.py --keep     measure, and keep the ratios in bench/results/ratios.json

Times differ between machines and hours, ratios hardly: the peer (a plain write, zlib, a plain read, importing NumPy) runs in turns with ours. What is kept of a
question are the quartiles of its rounds. It is worse when even the better quartile of now lies more than a tenth (of the size: a hundredth) above the
worse quartile of then.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import weightlapse as wl

KEPT = Path(__file__).resolve().parent / "results" / "ratios.json"
ROUNDS = 9
MARGIN = {"size": 1.01}  # nothing random is in it; else
NOISE = 1.1
FRAMES = 256
SHAPES = {
    "fc1.weight": (64, 64),
    "fc1.bias": (64,),
    "fc2.weight": (128, 64),
    "fc2.bias": (128,),
    "out.weight": (10, 128),
}


def training(seed: int = 0) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Weights that move as under momentum: an endless series of float32 states."""
    draw = np.random.default_rng(seed)
    weights = {name: draw.normal(size=shape).astype(np.float32) / 8 for name, shape in SHAPES.items()}
    moving = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    while True:
        yield weights
        for name, shape in SHAPES.items():
            moving[name] = np.float32(0.9) * moving[name] + draw.normal(size=shape).astype(np.float32) * np.float32(
                1e-5
            )
        weights = {name: weights[name] + moving[name] for name in SHAPES}


STATES = [state for _, state in zip(range(FRAMES), training())]
RAW = b"".join(value.tobytes() for state in STATES for value in state.values())


def cpu(call: Callable[[], object]) -> float:
    """Seconds of CPU, all threads counted."""
    start = time.process_time()
    call()
    return time.process_time() - start


def record(path: Path, compact: str) -> None:
    with wl.watch(STATES[0], path, compact=compact) as rec:
        for state in STATES[1:]:
            rec.step(state)


def recording(folder: Path) -> tuple[float, float]:
    """Recording every state to a log, over writing the same bytes to a file, state by state, with np.save."""

    def plain() -> None:
        with open(folder / "plain.npy", "wb") as file:
            for state in STATES:
                for value in state.values():
                    np.save(file, value)

    return cpu(lambda: record(folder / "run", "never")), cpu(plain)


def compressing(folder: Path) -> tuple[float, float]:
    """Compressing the log, over zlib (level 1) of the same bytes."""
    record(folder / "run", "never")
    command = [sys.executable, "-c", "import sys; from weightlapse.store.offline import compact_recording as c; import time; t = time.process_time(); "
               "c(sys.argv[1], lambda it, *_: it); print(time.process_time() - t)", str(folder / "run")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout), cpu(lambda: zlib.compress(RAW, 1))


def reading(folder: Path) -> tuple[float, float]:
    """Opening a compressed recording and reading every value, over unpacking the same bytes with zlib."""
    record(folder / "run", "after")
    packed = zlib.compress(RAW, 1)

    def ours() -> None:
        run = wl.load(folder / "run")
        for name in run.names:
            run[name][:]

    return cpu(ours), cpu(lambda: zlib.decompress(packed))


def one_weight(folder: Path) -> tuple[float, float]:
    """Opening a recording and reading one weight at every step, over unpacking everything with zlib."""
    record(folder / "run", "after")
    packed = zlib.compress(RAW, 1)
    return cpu(lambda: wl.load(folder / "run")["fc2.weight"][:, 3, 5]), cpu(lambda: zlib.decompress(packed))


def size(folder: Path) -> tuple[float, float]:
    """Stored bytes over raw bytes."""
    record(folder / "run", "after")
    return float(wl.load(folder / "run").stored_nbytes), float(len(RAW))


def starting(_: Path) -> tuple[float, float]:
    """CPU of a program that says its help, over one that imports NumPy."""

    def child(*arguments: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    return child("-m", "weightlapse", "--help"), child("-c", "import numpy")


QUESTIONS: dict[str, Callable[[Path], tuple[float, float]]] = {
    "recording": recording,
    "compressing": compressing,
    "reading": reading,
    "one weight": one_weight,
    "size": size,
    "starting": starting,
}


def measured(question: Callable[[Path], tuple[float, float]], rounds: int = ROUNDS) -> dict[str, float]:
    """Quartiles of the ratio of ours to the peer's, over the rounds after a first one that only warms up."""
    ratios = []
    for k in range(rounds + 1):
        folder = Path(tempfile.mkdtemp())
        try:
            ours, peers = question(folder)
        finally:
            shutil.rmtree(folder)
        if k:
            ratios.append(ours / peers)
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"low": low, "median": middle, "high": high}


def verdict(name: str, then: dict[str, float] | None, now: dict[str, float]) -> str:
    """One of worse, better, same, and new where nothing was kept. Smaller is better."""
    if then is None:
        return "new"
    margin = MARGIN.get(name, NOISE)
    if now["low"] > then["high"] * margin:
        return "worse"
    return "better" if now["high"] < then["low"] / margin else "same"


def table(then: dict[str, dict[str, float]], now: dict[str, dict[str, float]]) -> str:
    lines = ["| ratio (smaller is better) | then | now | |", "|---|---|---|---|"]
    for name, found in now.items():
        old = f"{then[name]['median']:.3f}" if name in then else "–"
        lines.append(
            f"| {name} | {old} | {found['median']:.3f} ({found['low']:.3f} to {found['high']:.3f}) | {verdict(name, then.get(name), found)} |"
        )
    return "\n".join(lines)


def judge(then: dict[str, dict[str, float]], now: dict[str, dict[str, float]]) -> list[str]:
    """What is wrong: questions that became worse, that nobody kept, or that are no longer asked."""
    wrong = [f"{name} became worse" for name, found in now.items() if verdict(name, then.get(name), found) == "worse"]
    wrong += [
        f"nothing was kept of {name}: run with --keep on a state that is good" for name in now if name not in then
    ]
    return wrong + [f"{name} is no longer measured" for name in then if name not in now]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keep", action="store_true", help="keep what is measured as what to compare with")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    then = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    now = {name: measured(question, given.rounds) for name, question in QUESTIONS.items()}
    print(table(then, now))
    if given.keep:
        KEPT.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    elif wrong := judge(then, now):
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()

"""How fast are films, beside Matplotlib's animations of the same picture?

Everything runs on one core (and so do the encoders that it starts). Reported: frames per second of CPU time, own and of child processes,
medians over rounds in which all take turns; reading the recording and finding the colour scales counts as ours.

    python bench/film.py [--frames N] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import matplotlib
import numpy as np

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.animation import ArtistAnimation, FuncAnimation

import weightlapse as wl
from weightlapse.film import colours
from weightlapse.film.encode import Reel, Video, surface_for
from weightlapse.film.movie import moments
from weightlapse.film.scene import Order, compose

HERE = Path(__file__).parent
PEER_FRAMES = 40  # Matplotlib's animations cost the same per frame however many there are


def record(folder: Path, frames: int, shapes: dict[str, tuple[int, ...]]) -> Any:
    """Weights that all move at every step: the hard case for an encoder."""
    rng = np.random.default_rng(0)
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    with wl.watch(state, folder) as rec:
        for step in range(1, frames):
            state = {name: (0.995 * w + 0.1 * rng.normal(size=w.shape)).astype(np.float32) for name, w in state.items()}
            rec.step(state)
            rec.log(loss=float(np.exp(-step / frames * 4) + 0.02 * rng.random()))
    return wl.load(folder)


def cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def func_animation(run: Any, path: Path) -> int:
    """The picture as one would draw it with Matplotlib: title, counter, heat map, growing loss."""
    weights, loss, frames = np.asarray(run["w"][:PEER_FRAMES]), run.scalars["loss"], PEER_FRAMES
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.8, 7.2), dpi=100, width_ratios=[3, 1])
    image = left.imshow(weights[0], cmap="RdBu_r", vmin=-4, vmax=4, interpolation="nearest")
    left.set_title("w")
    (line,) = right.plot([], [])
    right.set(xlim=(0, frames), ylim=(0, 1.1), title="loss")
    counter = figure.suptitle("step 0")

    def update(i: int) -> list[Any]:
        image.set_data(weights[i])
        line.set_data(range(i), loss[:i])
        counter.set_text(f"step {i}")
        return [image, line, counter]

    animation = FuncAnimation(figure, update, frames=frames, interval=1000 / 24)
    animation.save(path, fps=24, writer="pillow" if path.suffix == ".gif" else "ffmpeg")
    plt.close(figure)
    return frames


def artist_animation(run: Any, path: Path) -> int:
    """Two 13 × 13 panels, one new image per frame: how such films are usually made."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 4.8), dpi=100)
    frames = [
        [ax.imshow(run[name][i], cmap="RdBu_r", vmin=-4, vmax=4) for ax, name in zip(axes, ("a", "b"))]
        for i in range(50)
    ]
    animation = ArtistAnimation(figure, frames, interval=100)
    animation.save(path, fps=10, writer="pillow" if path.suffix == ".gif" else "ffmpeg")
    plt.close(figure)
    return 50


def ours(run: Any, path: Path, **more: Any) -> int:
    return wl.make_film(run, path, panels=["weights", "loss"], **more).frames


def floor(run: Any, count: int, faithful: bool, preset: str) -> Callable[[Path], int]:
    """The encoder alone on the same frames, drawn before the clock starts."""
    order = Order(["w"], np.arange(count), (1280, 720), panels=["weights", "loss"])
    scene = compose(run, order)
    reel = Reel(1280, 720, Fraction(24), count, "", "", faithful, preset, 18)
    surface = surface_for(".mp4", reel, colours.table("light", "RdBu_r"), 2, "RdBu_r")
    ready = []
    for moment in moments(run, scene, order.frames):
        scene.draw(surface, moment)
        ready.append([plane.copy() for plane in surface.planes])

    def encode(_: Path) -> int:
        writer = Video(BytesIO(), reel, "mp4")
        for planes in ready:
            surface.planes = planes
            writer.write(surface, 1)
        writer.close()
        return count

    return encode


def measured(contenders: dict[str, Callable[[Path], int]], rounds: int, folder: Path) -> dict[str, float]:
    """Frames per CPU second."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, make in contenders.items():
            path = folder / f"film{'.gif' if 'GIF' in name else '.mp4'}"
            start = cpu_seconds()
            frames = make(path)
            rates[name].append(frames / (cpu_seconds() - start))
            time.sleep(0.1)
    return {name: statistics.median(values) for name, values in rates.items()}


def large(folder: Path, frames: int, rounds: int) -> list[str]:
    run = record(folder / "large", frames, {"w": (128, 128)})
    short = min(frames, 240)
    settings = {
        "4:4:4, veryfast": {"faithful": True, "crf": 18, "preset": "veryfast"},
        "4:2:0, veryfast": {"crf": 18, "preset": "veryfast"},
        "4:2:0, ultrafast": {"crf": 18, "preset": "ultrafast"},
    }
    contenders: dict[str, Callable[[Path], int]] = {
        "Matplotlib FuncAnimation, mp4": lambda path: func_animation(run, path),
        "Matplotlib FuncAnimation, GIF": lambda path: func_animation(run, path),
    }
    for words, options in settings.items():
        contenders[f"weightlapse, {words}"] = lambda path, o=options: ours(run, path, frames=slice(0, short), **o)
        contenders[f"encoder alone, {words}"] = floor(run, short, bool(options.get("faithful")), str(options["preset"]))
    contenders["weightlapse, 4:4:4 without loss"] = lambda path: ours(run, path, frames=slice(0, short), faithful=True)
    contenders["weightlapse, GIF"] = lambda path: ours(run, path, frames=slice(0, short))
    rates = measured(contenders, rounds, folder)
    mp4, gif = rates["Matplotlib FuncAnimation, mp4"], rates["Matplotlib FuncAnimation, GIF"]
    lines = [
        "| film | frames/s | × FuncAnimation mp4 | × FuncAnimation GIF | of the encoder alone |",
        "|---|---|---|---|---|",
    ]
    for name, rate in rates.items():
        alone = rates.get(name.replace("weightlapse", "encoder alone")) if name.startswith("weightlapse") else None
        lines.append(
            f"| {name} | {rate:.1f} | {rate / mp4:.1f} | {rate / gif:.1f} | {f'{rate / alone:.0%}' if alone else ''} |"
        )
    return ["**1280×720, 128×128 weights, title, counter, loss**; all weights move in every frame", "", *lines, ""]


def classic(folder: Path, rounds: int) -> list[str]:
    run = record(folder / "classic", 50, {"a": (13, 13), "b": (13, 13)})
    contenders: dict[str, Callable[[Path], int]] = {
        "Matplotlib ArtistAnimation, mp4": lambda path: artist_animation(run, path),
        "weightlapse, mp4": lambda path: ours(run, path, size=(640, 480), fps=10),
        "Matplotlib ArtistAnimation, GIF": lambda path: artist_animation(run, path),
        "weightlapse, GIF": lambda path: ours(run, path, size=(640, 480), fps=10),
    }
    rates = measured(contenders, rounds, folder)
    lines = ["| film | frames/s | × ArtistAnimation |", "|---|---|---|"]
    for name, rate in rates.items():
        peer = rates["Matplotlib ArtistAnimation, " + name.rpartition(" ")[2]]
        lines.append(f"| {name} | {rate:.1f} | {rate / peer:.1f} |")
    return ["**640×480, two panels of 13×13, 50 frames**", "", *lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    facts = f"one of {cores} cores, Python {platform.python_version()}, Matplotlib {matplotlib.__version__}, PyAV {av.__version__}, "
    facts += f"NumPy {np.__version__}, weightlapse {wl.__version__}"
    lines = ["# How fast films are made", "", facts, ""]
    with tempfile.TemporaryDirectory() as folder:
        lines += large(Path(folder), arguments.frames, arguments.rounds)
        lines += classic(Path(folder), arguments.rounds)
    lines.append(
        "Frames per second of CPU time, encoders included; medians over rounds in which all took turns. x264 at crf 18."
    )
    text = "\n".join(lines) + "\n"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "film.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

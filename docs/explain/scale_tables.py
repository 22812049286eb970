"""The tables of scale.md: `python docs/explain/scale_tables.py` prints them, `--write` puts them into the page."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from weightlapse.capture.expected import ratio_of
from weightlapse.capture.flow import Flow
from weightlapse.capture.plan_text import duration, rate
from weightlapse.store.sizes import size

PAGE = Path(__file__).with_name("scale.md")
STEPS = 1000
RING = 12e9  # bytes of the ring of each process: three quarters of memory="16GB"
ENCODE = 0.0  # raw bytes a second that are compressed beside training: none of weights on a GPU, see scale.md
ENCODE_EXACT, ENCODE_FILM = 0.3e9, 1.1e9  # that sixteen cores compress after it: as measured in bench/results/gpu.md


@dataclass(frozen=True)
class Setup:
    """A training, its rates for each process (made, round numbers of the kind one meets), in bytes and seconds."""

    name: str
    values: float
    processes: int
    step: float
    bus: float
    disk: float
    network: float
    where: str


SETUPS = (
    Setup("124 M", 124e6, 1, 0.072, 25e9, 1.1e9, 1.25e9, "one GPU, its own NVMe disk"),
    Setup("1 B", 1e9, 1, 0.5, 25e9, 2e9, 1.25e9, "one GPU, two NVMe disks"),
    Setup("7 B", 7e9, 8, 2.0, 25e9, 1e9, 1.25e9, "8 GPUs of a node, sharded; disks of 8 GB/s together"),
    Setup("70 B", 70e9, 64, 10.0, 25e9, 0.625e9, 0.39e9, "64 GPUs, sharded; a file system of 40 GB/s together"),
)


@dataclass(frozen=True)
class Recipe:
    """What is recorded: every how many steps, within what tolerance, which share of the float32 weights."""

    name: str
    every: int
    tolerance: float | None = None
    share: float = 1.0


RECIPES = (
    Recipe("all, every step, exact", 1),
    Recipe("all, every 10, exact", 10),
    Recipe('all, every 10, "film"', 10, 1e-2),
    Recipe("all, every 100, exact", 100),
    Recipe("a tenth, every step, exact", 1, None, 0.1),
)


def flow_of(setup: Setup, recipe: Recipe) -> tuple[Flow, int]:
    """The flow of one process, and the frames of ``STEPS`` steps."""
    frame = 4 * setup.values * recipe.share / setup.processes
    low, _ = ratio_of("float32", "weights", recipe.tolerance, every_step=recipe.every == 1)
    busy = max(setup.step, frame / setup.bus)  # the copy runs beside a step
    ring = max(2, min(256, int(RING // frame)))
    period = (recipe.every - 1) * setup.step + busy
    at_the_end = ENCODE_EXACT if recipe.tolerance is None else ENCODE_FILM
    return Flow(frame, period, setup.disk, ENCODE, at_the_end, low, ring, setup.network), STEPS // recipe.every


def rates() -> str:
    head = "| weights | where | a frame of float32 | of it a process | a step | bus | disk | network |\n|---|---|---|---|---|---|---|---|"
    rows = []
    for s in SETUPS:
        frame, per_second = 4 * s.values, " | ".join(map(rate, (s.bus, s.disk, s.network)))
        rows.append(
            f"| {s.name} | {s.where} | {size(frame)} | {size(frame / s.processes)} | {duration(s.step)} | {per_second} |"
        )
    return "\n".join([head, *rows])


def row(setup: Setup, recipe: Recipe) -> str:
    flow, frames = flow_of(setup, recipe)
    answer = (
        "**kept up with**"
        if flow.kept_up
        else f"{1 + flow.slower_by(frames):.2g} × as long, or gaps of {100 * flow.gap(frames):.0f} %"
    )
    if not flow.kept_up and not flow.held_up(frames):
        answer = "the ring holds it"
    whole = setup.processes
    cells = (
        recipe.name,
        duration(flow.frame_nbytes / setup.bus),
        duration(flow.frame_seconds),
        answer,
        duration(flow.closes_in(frames)),
        duration(flow.mirrored_in(frames)),
        size(whole * flow.most_nbytes(frames)),
        size(whole * frames * flow.frame_nbytes / flow.ratio),
    )
    return f"| {' | '.join(cells)} |"


def answers(setup: Setup) -> str:
    head = (
        f"| {setup.name} | bus | disk | {STEPS:,} steps | closes in | mirrored in | most on disk | stored |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *(row(setup, recipe) for recipe in RECIPES)])


def densest() -> str:
    """The shortest distance of exact frames of everything that is kept up with."""
    head = "| weights | all of them, exact, at the most every | at the end in the log | closes in |\n|---|---|---|---|"
    rows = []
    for setup in SETUPS:
        for every in (1, 2, 5, 10, 20, 50, 100, 200, 500):
            flow, frames = flow_of(setup, Recipe("", every))
            if flow.kept_up:
                break
        often = "step" if every == 1 else f"{every} steps"
        rows.append(
            f"| {setup.name} | {often} | {size(setup.processes * flow.left(frames))} | {duration(flow.closes_in(frames))} |"
        )
    return "\n".join([head, *rows])


def tables() -> dict[str, str]:
    found = {"rates": rates(), "densest": densest()}
    return found | {setup.name: answers(setup) for setup in SETUPS}


def filled(page: str) -> str:
    """The page with each of its tables as it is now."""
    for name, text in tables().items():
        begin, end = f"<!-- table {name} -->", "<!-- end -->"
        page, count = re.subn(
            f"{begin}.*?{end}", lambda _, b=begin, t=text, e=end: f"{b}\n\n{t}\n\n{e}", page, flags=re.S
        )
        if count != 1:
            raise ValueError(f"{PAGE.name} has {count} places for the table {name!r}")
    return page


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(tables().values()))

"""What does recording every weight at every step cost the training loop?

Each recorder and "none" train the same network in turns of a few dozen steps, round after round, so that a busy machine hurts all alike. Reported:
the median time of a step against that of the turn without recording beside it, the same in CPU time of the training thread (which a busy machine
disturbs less), and the record call itself.

    python bench/overhead.py [--steps N] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

import weightlapse as wl

HERE = Path(__file__).parent
Record = Callable[[nn.Module, torch.optim.Optimizer, int], None]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    def block(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]

    body = [*block(1, 32), *block(32, 64), nn.MaxPool2d(2), *block(64, 128), nn.MaxPool2d(2)]
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), *body, nn.Flatten(), nn.Linear(512, 592), nn.ReLU(), nn.Linear(592, 10)
    )


@contextmanager
def nothing(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Record | None]:
    yield None


@contextmanager
def weightlapse(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Record | None]:
    """By hand instead of by the optimizer's hook, so that the call can be timed; it does the same."""
    with wl.watch(model, folder / "run") as rec:
        yield lambda model, optimizer, step: rec.step()


@contextmanager
def witnessed(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Record | None]:
    """As users do it: the recorder follows the optimizer, and compares what it sees with what moved."""
    with wl.watch(model, folder / "run", optimizer=optimizer):
        yield None


class Blind:
    """In the place of the witness: sees nothing."""

    attached = False

    def before(self) -> None: ...
    def after(self, step: int) -> None: ...
    def passed(self) -> None: ...
    def ended(self, step: int) -> None: ...
    def frame(self, slot: int, step: int) -> None: ...

    def unchanged(self, slot: int) -> bool:
        return False

    def moved(self, params: object = None) -> None:
        return None


@contextmanager
def unwitnessed(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Record | None]:
    """The same recorder without its witness, called by a post-step hook of the optimizer."""
    with wl.watch(model, folder / "run") as rec:
        rec._witness = Blind()  # type: ignore[assignment]
        handle = optimizer.register_step_post_hook(lambda *_: rec.after(sure=True))
        yield None
        handle.remove()


@contextmanager
def torch_save(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Record | None]:
    yield lambda model, optimizer, step: torch.save(model.state_dict(), folder / f"{step}.pt")


@contextmanager
def safetensors(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Record | None]:
    from safetensors.torch import save_file

    yield lambda model, optimizer, step: save_file(model.state_dict(), folder / f"{step}.safetensors")


@contextmanager
def tensorboard(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Record | None]:
    from torch.utils.tensorboard import SummaryWriter

    def record(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        for name, parameter in model.named_parameters():
            board.add_histogram(name, parameter, step)

    with SummaryWriter(str(folder)) as board:
        yield record


WITNESS = {"none": nothing, "a hook, no witness": unwitnessed, "witnessed": witnessed}
RECORDERS = {
    "none": nothing,
    "weightlapse": weightlapse,
    "torch.save": torch_save,
    "safetensors": safetensors,
    "TensorBoard histograms": tensorboard,
}


class Loop:
    """One training loop with one recorder, run in turns with the others."""

    def __init__(self, make: Callable[[], nn.Module], recorder: str) -> None:
        torch.manual_seed(0)
        self.model = make()
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)
        self.x, self.y = torch.randn(64, 64), torch.randint(0, 10, (64,))
        self.folder = Path(tempfile.mkdtemp())
        self.context = {**RECORDERS, **WITNESS}[recorder](self.model, self.optimizer, self.folder)
        self.record = self.context.__enter__()
        self.step = 0

    def turn(self, steps: int) -> tuple[float, float, float, float]:
        """Medians of a step's wall time, a record call's wall time, and the training thread's CPU time for both; in seconds."""
        walls, calls, cpus, call_cpus = [], [], [], []
        for _ in range(steps):
            cpu, start = time.thread_time(), time.perf_counter()
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self.x), self.y).backward()
            self.optimizer.step()
            before, cpu_before = time.perf_counter(), time.thread_time()
            if self.record is not None:
                self.record(self.model, self.optimizer, self.step)
            call_cpus.append(time.thread_time() - cpu_before)
            cpus.append(time.thread_time() - cpu)
            end = time.perf_counter()
            walls.append(end - start)
            calls.append(end - before)
            self.step += 1
        return statistics.median(walls), statistics.median(calls), statistics.median(cpus), statistics.median(call_cpus)

    def close(self) -> None:
        self.context.__exit__(None, None, None)
        shutil.rmtree(self.folder)


def table(title: str, make: Callable[[], nn.Module], steps: int, rounds: int) -> list[str]:
    loops = {name: Loop(make, name) for name in RECORDERS}
    turns: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in RECORDERS}
    for round_ in range(rounds + 1):
        for name, loop in loops.items():
            found = loop.turn(steps if name in ("none", "weightlapse") else max(5, steps // 8))
            if round_ > 0:  # the first turn warms up
                turns[name].append(found)
    for loop in loops.values():
        loop.close()
    count = sum(p.numel() for p in make().parameters())
    base = [statistics.median(turn[i] for turn in turns["none"]) for i in range(4)]
    lines = [
        f"**{title}**, {count:,} weights, a step takes {base[0] * 1e3:.2f} ms ({base[2] * 1e3:.2f} ms of CPU) without recording",
        "",
    ]
    lines += [
        "| recorder | step is slower by | CPU of the training thread | record call | of it CPU |",
        "|---|---|---|---|---|",
    ]
    for name in RECORDERS:
        if name == "none":
            continue
        pairs = list(zip(turns[name], turns["none"]))
        slower, more = (statistics.median(a[i] / b[i] for a, b in pairs) - 1 for i in (0, 2))
        call, cpu = (statistics.median(turn[i] for turn in turns[name]) * 1e6 for i in (1, 3))
        lines.append(f"| {name} | {slower:+.1%} | {more:+.1%} | {call:,.1f} µs | {cpu:,.1f} µs |")
    return [*lines, ""]


def witness(title: str, make: Callable[[], nn.Module], steps: int, rounds: int) -> list[str]:
    """What following the optimizer from outside and witnessing costs beside a hook that records the same frames."""
    loops = {name: Loop(make, name) for name in WITNESS}
    turns: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in WITNESS}
    for round_ in range(rounds + 1):
        for name in list(loops)[:: 1 if round_ % 2 else -1]:
            found = loops[name].turn(steps)
            if round_ > 0:
                turns[name].append(found)
    for loop in loops.values():
        loop.close()
    lines = [
        f"**The witness: {title}**",
        "",
        "| | step takes | CPU of the training thread | more CPU than without |",
        "|---|---|---|---|",
    ]
    for name, found in turns.items():
        wall, cpu = (statistics.median(turn[i] for turn in found) * 1e6 for i in (0, 2))
        more = statistics.median(a[2] / b[2] for a, b in zip(found, turns["a hook, no witness"])) - 1
        lines.append(f"| {name} | {wall:,.1f} µs | {cpu:,.1f} µs | {more:+.1%} |")
    return [*lines, ""]


def worker() -> None:
    """Two loops, with and without a recorder, in a process of their own: a line of standard input is a number of steps, the answer two times."""
    loops = [Loop(mlp, "none"), Loop(mlp, "witnessed")]
    for line in sys.stdin:
        print(*(loop.turn(int(line))[2] for loop in loops), flush=True)
    for loop in loops:
        loop.close()


def before_and_now(before: Path, steps: int, rounds: int, processes: int = 4) -> list[str]:
    """The CPU time of a recorded step of another state of the package beside this one, each in several processes that take turns."""

    def start(root: Path) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "overhead.py"), "--worker"]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    roots = {"before": before, "now": HERE.parent}
    running = [(name, start(root)) for _ in range(processes) for name, root in roots.items()]
    turns: dict[str, list[list[tuple[float, float]]]] = {name: [[] for _ in range(processes)] for name in roots}
    for round_ in range(rounds + 1):
        for k, (name, process) in enumerate(running):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
            none, recorded = map(float, process.stdout.readline().split())
            if round_ > 0:
                turns[name][k // len(roots)].append((none, recorded))
    for _, process in running:
        process.communicate()
    lines = ["**Before and now: digits MLP**, CPU time of the training thread", ""]
    lines += ["| | step without | recording adds | of a step |", "|---|---|---|---|"]
    added: dict[str, float] = {}
    bare = statistics.median(none for found in turns.values() for process in found for none, _ in process) * 1e6
    for name, found in turns.items():
        added[name] = statistics.median(statistics.median(b - a for a, b in one) for one in found) * 1e6
        lines.append(f"| {name} | {bare:,.1f} µs | {added[name]:,.1f} µs | {added[name] / bare:.1%} |")
    share = (added["now"] - added["before"]) / (bare + added["before"])
    return [*lines, "", f"A recorded step takes {share:+.1%} of what it took before.", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60, help="steps of one turn")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument(
        "--before", type=Path, help="folder of another state of the repository, to compare a recorded step with"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.worker:
        return worker()
    facts = f"{len(os.sched_getaffinity(0))} cores, one torch thread, Python {platform.python_version()}, "
    facts += f"torch {torch.__version__}, NumPy {np.__version__}, weightlapse {wl.__version__}"
    lines = ["# What recording every weight at every step costs the training loop", "", facts, ""]
    lines += table("Digits MLP 64-128-64-10, batch 64, Adam", mlp, arguments.steps, arguments.rounds)
    lines += table("CNN (conv + batch norm), batch 64, Adam", cnn, max(5, arguments.steps // 6), arguments.rounds)
    lines += witness("digits MLP", mlp, arguments.steps, 2 * arguments.rounds)
    if arguments.before is not None:
        lines += before_and_now(arguments.before, arguments.steps, arguments.rounds)
    lines += [
        "Medians over rounds; each recorder is compared with 'none' of its own round. torch.save, safetensors and weightlapse keep"
    ]
    lines += ["every value; TensorBoard keeps histograms."]
    text = "\n".join(lines) + "\n"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "overhead.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

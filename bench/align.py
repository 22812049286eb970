"""Does alignment find what was planted, how fast, and is it still the same network: beside `rebasin`, in one run.

Every model gets two states: one with all numbers random (norm gains and statistics too, so that a wrong permutation cannot hide),
and the same with the units of every group in random order. Who brings the second back onto the first? rebasin runs in
processes of its own under a time limit; it is installed into a temporary folder for the occasion.

    python bench/align.py [--peer FOLDER] [--rounds N]
"""
# ruff: noqa: E402  (the repository's tests hold the models, and the threads must be set before NumPy loads)

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import numpy as np
import torch
from torch import nn

import weightlapse as wl
from tests.test_symmetry_zoo import disguised, randomised
from tests.zoo import ZOO
from tests.zoo.conv import ResNet
from weightlapse.symmetry.runner import Runner, data_of
from weightlapse.wiring.data import Wiring

LIMIT = 20  # seconds of CPU time that a peer may take for one model


def mlp(*sizes: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for n, m in itertools.pairwise(sizes):
            layers += [nn.Linear(n, m), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    return make


class Residual(nn.Module):
    """Wide in the middle, thin at both ends: plain coordinate descent is lost here."""

    def __init__(self, n: int = 2, width: int = 64, hidden: int = 128, blocks: int = 4, out: int = 1) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(n, width, bias=False), nn.Linear(width, out, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, width, bias=False))
            for _ in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inp(x)
        for block in self.blocks:
            x = x + block(x)
        return self.out(x)


BIG: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 784-512-512-512-10": (mlp(784, 512, 512, 512, 10), (4, 784)),
    "MLP 784-1024-1024-10": (mlp(784, 1024, 1024, 10), (4, 784)),
    "ResNet-20 (16, 32, 64 channels)": (lambda: ResNet((16, 32, 64), 3, "B"), (4, 3, 16, 16)),
    "ResNet-18 (64 to 512 channels)": (lambda: ResNet((64, 128, 256, 512), 2, "B"), (4, 3, 16, 16)),
    "residual MLP, 2 in, 1 out, no biases": (Residual, (4, 2)),
}


class Subject:
    """One model with a random state a and a planted copy b of it."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        if name in BIG:
            make, shape = BIG[name]
            self.make, self.example = make, torch.randn(shape)
        else:
            self.make, self.example = ZOO[name].make, ZOO[name].examples[0]
        self.model = self.make().eval()
        start = time.process_time()
        self.wiring: Wiring = wl.trace(self.model, self.example, verify=False)
        self.traced = time.process_time() - start
        self.a = randomised(self.model, self.wiring)
        self.b = disguised(self.a, self.wiring, ("permutation",))

    def with_state(self, state: dict[str, Any]) -> nn.Module:
        torch.manual_seed(0)
        model = self.make().eval()
        model.load_state_dict({n: v.clone() for n, v in state.items()}, strict=False)
        return model

    def verdict(self, state: dict[str, Any]) -> dict[str, float]:
        """The share of numbers that are back in place, and how far the function is from what it was."""
        names = [n for n, v in self.a.items() if v.is_floating_point() and v.numel() > 1]
        same = sum(int((state[n] == self.a[n]).sum()) for n in names)
        total = sum(self.a[n].numel() for n in names)
        runner = Runner(self.model, data_of(self.example, self.model))
        before, after = runner.outputs(self.b), runner.outputs(state)
        change = float(np.abs(before - after).max() / max(float(np.abs(before).max()), 1e-300))
        return {"back": same / total, "change": change}


def ours(subject: Subject, rounds: int) -> dict[str, float]:
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        al = wl.align(subject.a, subject.b, subject.wiring, symmetries=("permutation",))
        seconds.append(time.process_time() - start)
    return {"seconds": statistics.median(seconds), "trace": subject.traced, **subject.verdict(al.state)}


def peer_worker(names: list[str], rounds: int) -> None:
    """Runs rebasin on each model; one JSON line per model on standard output."""
    warnings.simplefilter("ignore")
    from rebasin import PermutationCoordinateDescent

    torch.set_num_threads(1)

    def too_long(*_: Any) -> None:
        raise TimeoutError(f"more than {LIMIT} s")

    signal.signal(signal.SIGPROF, too_long)  # CPU time, so that a busy machine fails nobody
    for name in names:
        result: dict[str, Any] = {"name": name}
        try:
            signal.setitimer(signal.ITIMER_PROF, LIMIT * rounds)
            subject = Subject(name)
            seconds = []
            for _ in range(rounds):
                a, b = subject.with_state(subject.a), subject.with_state(subject.b)
                x = subject.example
                start = time.process_time()
                PermutationCoordinateDescent(a, b, list(x) if isinstance(x, tuple) else x).rebasin()
                seconds.append(time.process_time() - start)
            result |= {"seconds": statistics.median(seconds), **subject.verdict(dict(b.state_dict()))}
        except Exception as error:  # noqa: BLE001  whatever the peer raises is its result
            result["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(result), flush=True)


def peers(names: list[str], folder: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """rebasin's results; when its process dies, it goes on behind the model that killed it."""
    found: dict[str, dict[str, Any]] = {}
    while todo := [n for n in names if n not in found]:
        env = os.environ | {"PYTHONPATH": str(folder)}
        command = [sys.executable, __file__, "--worker", json.dumps(todo), "--rounds", str(rounds)]
        process = subprocess.run(
            command,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=20 * LIMIT * len(todo),
            check=False,
        )
        lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
        found |= {r["name"]: r for r in lines}
        if len(lines) < len(todo):
            found[todo[len(lines)]] = {"error": f"the process died ({process.returncode})"}
    return found


def install(folder: Path) -> None:
    packages = ["rebasin==0.0.47", "torchview", "graphviz", "tqdm"]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *packages]
    subprocess.run(command, check=True)


def big_table(results: dict[str, dict[str, float]], theirs: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield "| model | align | with tracing | numbers back in place | rebasin | times slower | numbers back in place | its function changed by |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in BIG:
        r, p = results[name], theirs[name]
        row = f"| {name} | {r['seconds']:.3f} s | {r['seconds'] + r['trace']:.3f} s | {r['back']:.1%} | "
        if "error" in p:
            yield row + f"{p['error']} | | | |"
        else:
            slower = p["seconds"] / (r["seconds"] + r["trace"])
            yield row + f"{p['seconds']:.2f} s | {slower:.1f} | {p['back']:.1%} | {p['change']:.1e} |"


def kind_of(p: dict[str, Any]) -> str:
    if "error" in p:
        return "fails"
    if not p["change"] < 1e-4:
        return "another function"
    return "right" if p["back"] == 1 else "same function, not found"


def zoo_table(results: dict[str, dict[str, float]], theirs: dict[str, dict[str, Any]]) -> Iterator[str]:
    kinds = ("right", "same function, not found", "another function", "fails")
    count = {k: sum(kind_of(theirs[n]) == k for n in ZOO) for k in kinds}
    mine = sum(results[n]["back"] == 1 and results[n]["change"] < 1e-4 for n in ZOO)
    yield f"Of {len(ZOO)} small models of many kinds weightlapse is right on {mine}; rebasin " + ", ".join(
        f"{k}: {n}" for k, n in count.items()
    )
    yield ""
    yield "| model | weightlapse: numbers back | function changed by | rebasin: numbers back | function changed by | verdict on rebasin |"
    yield "|---|---|---|---|---|---|"
    for name in ZOO:
        r, p = results[name], theirs[name]
        row = f"| {name} | {r['back']:.1%} | {r['change']:.0e} | "
        if "error" in p:
            yield row + f" | | fails: {p['error'].replace('|', '/')} |"
        else:
            yield row + f"{p['back']:.1%} | {p['change']:.0e} | {kind_of(p)} |"


def residual_lines(count: int = 20) -> Iterator[str]:
    """Recovery of thin residual networks, beside the descent that everybody starts from b as it is."""
    from weightlapse.symmetry.match import Matcher
    from weightlapse.symmetry.states import distance, float_arrays

    yield "| 20 random residual MLPs, planted permutations | plain descent | wl.align | seconds each |"
    yield "|---|---|---|---|"
    for title, shape, level in (
        ("2 in, 64 stream, 128 hidden, 4 blocks, 1 out, no biases", (2, 64, 128, 4, 1), 0.0),
        ("the same, noise of 0.3 standard deviations", (2, 64, 128, 4, 1), 0.3),
        ("the same, noise of 1 standard deviation", (2, 64, 128, 4, 1), 1.0),
    ):
        plain = good = 0
        seconds = []
        for seed in range(count):
            torch.manual_seed(seed)
            model = Residual(*shape)
            wiring = wl.trace(model, torch.randn(4, shape[0]))
            a = dict(model.state_dict())
            noisy = {n: v + level * v.std() * torch.randn(v.shape) for n, v in a.items()}
            b = disguised(noisy, wiring, ("permutation",))
            best = wl.align(a, noisy, wiring, symmetries=("permutation",), restarts=0).distance_before * 1.000001
            start = time.process_time()
            good += wl.align(a, b, wiring, symmetries=("permutation",)).distance_after <= best
            seconds.append(time.process_time() - start)
            matcher = Matcher(float_arrays(a), float_arrays(b), wiring, frozenset({"permutation"}))
            matcher.descend()
            plain += distance(matcher.a, matcher.b) <= best
        yield f"| {title} | {plain} of {count} | {good} of {count} | {statistics.median(seconds):.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="A folder that holds rebasin, torchview and graphviz already.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        peer_worker(json.loads(arguments.worker), arguments.rounds)
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    ours(Subject(next(iter(BIG))), 1)  # warm the libraries up
    results: dict[str, dict[str, float]] = {}
    theirs: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temp:
        if arguments.peer is None:
            install(Path(temp))
        folder = arguments.peer or Path(temp)
        for name in BIG:  # in turn, so that both meet the same machine
            results[name] = ours(Subject(name), arguments.rounds)
            theirs |= peers([name], folder, arguments.rounds)
        theirs |= peers(list(ZOO), folder, 1)
    results |= {name: ours(Subject(name), 1) for name in ZOO}
    facts = f"{len(os.sched_getaffinity(0))} cores, one thread, Python {platform.python_version()}, torch {torch.__version__}, "
    facts += f"NumPy {np.__version__}, weightlapse {wl.__version__}, rebasin 0.0.47"
    lines = ["# Does alignment find what was planted, and how fast?", "", facts, ""]
    lines += [*big_table(results, theirs), "", *residual_lines(), "", *zoo_table(results, theirs), ""]
    lines += [
        "Numbers back in place: the share of all floating-point numbers of the aligned network that equal the first network's bit for bit."
    ]
    text = "\n".join(lines) + "\n"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "align.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

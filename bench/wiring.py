"""Which tool finds the interchangeable units of which network: beside Torch-Pruning and rebasin, run live, on the same models.

What a tool says is not compared with anybody's opinion but tried: the units that it calls coupled are permuted together, in a
copy with random weights, norm gains and statistics, and the network must compute the same; and it must not miss a group of the
zoo's expected ones. The peers run in processes of their own under a time limit.

    python bench/wiring.py [--peer FOLDER] [--limit SECONDS] [--only NAME...]
"""
# ruff: noqa: E402  (the repository's tests hold the models, and the threads must be set before NumPy loads)

from __future__ import annotations

import argparse
import copy
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
from collections import Counter
from collections.abc import Iterator
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
from tests.zoo import ZOO, Case
from tests.zoo.conv import ResNet
from weightlapse.wiring.outputs import chooser
from weightlapse.wiring.trace import state_tensors, trace
from weightlapse.wiring.verify import Bench, works

RIGHT, MISSES, WRONG, FAILS, OTHER = "right", "misses some", "WRONG", "fails", "not comparable"


# ---- weightlapse


def ours(case: Case) -> dict[str, Any]:
    model, examples = case.make(), case.examples
    copied = copy.deepcopy(model)  # a forward may fill caches, which a trace then finds as constants
    forward = sum(statistics.median(_timed(lambda e=e: _run(copied, e)) for _ in range(5)) for e in examples)
    trace(model, *examples)
    # as it is called: with the verifier where that is as quick as the trace
    seconds = statistics.median(_timed(lambda: trace(model, *examples)) for _ in range(5))
    w = trace(model, *examples, verify=False)
    checked = _timed(lambda: trace(model, *examples, verify=True))
    bench = Bench(model, examples, chooser(None), state_tensors(model)[0])
    rng = np.random.default_rng(0)
    bad = [g.name for g in w.groups if not works(bench, w, g, rng) <= bench.tolerance]
    sizes = Counter(g.size for g in w.groups if g.parent is None)
    missed = Counter(case.sizes) - sizes
    return {
        "verdict": WRONG if bad else MISSES if missed else RIGHT,
        "groups": len(w.groups),
        "top": sum(sizes.values()),
        "seconds": seconds,
        "checked": checked,
        "forwards": seconds / forward,
        "operators": w.report["operators"],
        "verified": trace(model, *examples).report["verified"],
        "budget": seconds / (3 * forward + 3e-4 * w.report["operators"]),
    }


def full_size() -> Case:
    """ResNet-18 with its 11 million weights, on small images."""
    widths = (64, 128, 256, 512)
    # a stream for each width, and one hidden layer for each of two blocks
    sizes = (*widths, *(w for w in widths for _ in range(2)))
    return Case(lambda: ResNet(widths, 2, "B"), lambda: (torch.randn(2, 3, 64, 64),), tuple(sorted(sizes)))


def _run(model: nn.Module, example: Any) -> None:
    with torch.no_grad():
        if isinstance(example, dict):
            model(**example)
        else:
            model(*(example if isinstance(example, tuple) else (example,)))


def _timed(call: Any) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


# ---- the peers, each in a process of its own


class Subject:
    """A model with random weights, and whether a new state leaves what it computes."""

    def __init__(self, case: Case) -> None:
        self.model, self.examples = case.make(), case.examples
        self.bench = Bench(self.model, self.examples, chooser(None), state_tensors(self.model)[0])

    def changed(self, state: dict[str, Any]) -> bool:
        return not self.bench.error(state) <= self.bench.tolerance

    @property
    def inputs(self) -> Any:
        return self.examples[0]


def torch_pruning(case: Case) -> dict[str, Any]:
    """Every group of Torch-Pruning's dependency graph: the couplings of each unit are read off, and the units permuted."""
    import torch_pruning as tp

    subject = Subject(case)
    model, example = subject.model, subject.inputs
    names = {id(m): n for n, m in model.named_modules()}
    ignored = []
    w = trace(model, *subject.examples, verify=False)  # it must be told which layers make the output; we tell it
    for name, module in model.named_modules():
        axis = 1 if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d)) else 0
        reason = w.fixed.get((f"{name}.weight", axis), "")
        if "output" in reason or "vocabulary" in reason:
            ignored.append(module)
    graph = tp.DependencyGraph().build_dependency(model, example, ignored_params=[])
    sizes: Counter[int] = Counter()
    wrong = 0
    for group in graph.get_all_groups(ignored_layers=ignored):
        dep, idxs = group[0]
        units = [_places(graph.get_pruning_group(dep.target.module, dep.handler, idxs=[i]), names) for i in idxs]
        if any({k: len(v) for k, v in u.items()} != {k: len(v) for k, v in units[0].items()} for u in units):
            continue  # units of different shapes are no permutation
        order = np.random.default_rng(0).permutation(len(units))
        state = dict(subject.bench.state)
        for tensor, axis in units[0]:
            if tensor in state:
                index = np.array([u[tensor, axis] for u in units])
                if (
                    index.max() >= state[tensor].shape[axis]
                ):  # a grouped conv, pruned at one position of every block alike
                    return {"verdict": OTHER}
                whole = np.arange(state[tensor].shape[axis])
                whole[index] = index[order]
                state[tensor] = state[tensor].index_select(axis, torch.from_numpy(whole))
        if subject.changed(state):
            wrong += 1
        else:
            sizes[len(units)] += 1
    missed = Counter(case.sizes) - sizes
    return {"verdict": WRONG if wrong else MISSES if missed else RIGHT, "wrong": wrong, "found": sum(sizes.values())}


def _places(group: Any, names: dict[int, str]) -> dict[tuple[str, int], list[int]]:
    found: dict[tuple[str, int], set[int]] = {}
    for dep, idxs in group:
        module = dep.target.module
        if id(module) not in names:
            continue
        name = names[id(module)]
        out = "out" in dep.handler.__name__
        flipped = isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d))
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.out_channels
        if isinstance(module, nn.Embedding):
            spots = [("weight", 1)]
        elif isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)):
            spots = [("weight", 0 if out != flipped or depthwise else 1)] + ([("bias", 0)] if out or depthwise else [])
        else:
            spots = [
                (n, 0)
                for n in ("weight", "bias", "running_mean", "running_var")
                if getattr(module, n, None) is not None
            ]
            spots = [s for s in spots if getattr(module, s[0]).ndim == 1]
        for leaf, axis in spots:
            found.setdefault((f"{name}.{leaf}" if name else leaf, axis), set()).update(int(i) for i in idxs)
    return {k: sorted(v) for k, v in found.items()}


def rebasin(case: Case) -> dict[str, Any]:
    """The units of a copy in random order; rebasin must bring them back, and the copy must still compute the same."""

    from rebasin import PermutationCoordinateDescent

    subject = Subject(case)
    w = trace(subject.model, *subject.examples, verify=False)
    rng = np.random.default_rng(0)
    state = dict(subject.bench.state)
    for g in w.groups:
        state = wl.permute(state, w, g.name, rng.permutation(g.size))
    a, b = copy.deepcopy(subject.model), copy.deepcopy(subject.model)
    a.load_state_dict(subject.bench.state, strict=False)
    b.load_state_dict(state, strict=False)
    x = subject.inputs
    PermutationCoordinateDescent(a, b, list(x) if isinstance(x, tuple) else x).rebasin()
    got = {n: t for n, t in b.state_dict().items() if n in subject.bench.state}
    if subject.bench.error({n: t.to(subject.bench.state[n].dtype) for n, t in got.items()}) > 1e-3:
        return {"verdict": WRONG}
    back = all(torch.equal(t, a.state_dict()[n]) for n, t in got.items())
    return {"verdict": RIGHT if back else MISSES}


PEERS = {"Torch-Pruning": torch_pruning, "rebasin": rebasin}


def work(peer: str, names: list[str], limit: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    def too_long(*_: Any) -> None:
        raise TimeoutError(f"more than {limit} s")

    signal.signal(signal.SIGALRM, too_long)
    for name in names:
        result: dict[str, Any] = {"name": name}
        try:
            signal.alarm(limit)
            result |= PEERS[peer](ZOO[name])
        except Exception as error:  # noqa: BLE001  whatever the peer raises is its result
            text = str(error).splitlines()[0][:60] if str(error) else ""
            result |= {"verdict": FAILS, "error": f"{type(error).__name__}: {text}"}
        finally:
            signal.alarm(0)
        print(json.dumps(result), flush=True)


def ask(peer: str, names: list[str], folder: Path, limit: int) -> dict[str, dict[str, Any]]:
    """A peer's results; when its process dies or hangs, it goes on behind the model that did it."""
    found: dict[str, dict[str, Any]] = {}
    while todo := [n for n in names if n not in found]:
        command = [sys.executable, __file__, "--worker", peer, "--limit", str(limit), "--only", *todo]
        process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        timer = time.monotonic()
        for line in process.stdout:
            if line.startswith("{"):
                result = json.loads(line)
                found[result["name"]] = result
            if time.monotonic() - timer > limit * len(todo):
                break
        process.kill()
        process.wait()
        left = [n for n in todo if n not in found]
        if (left and len(left) == len(todo)) or left:
            found[left[0]] = {"verdict": FAILS, "error": "its process died"}
    return found


def install(folder: Path) -> None:
    packages = ["rebasin==0.0.47", "torch-pruning==1.6.1", "torchview", "graphviz", "tqdm"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *packages], check=True
    )


def table(mine: dict[str, dict[str, Any]], theirs: dict[str, dict[str, dict[str, Any]]]) -> Iterator[str]:
    for title, results in {"weightlapse": mine, **theirs}.items():
        count = Counter(r["verdict"] for r in results.values())
        yield (
            f"- {title}: "
            + ", ".join(f"{v} {count[v]}" for v in (RIGHT, MISSES, WRONG, FAILS, OTHER) if count[v])
            + f" of {len(results)}"
        )
    budgets = sorted(r["budget"] for r in mine.values() if r["operators"] > 20)
    yield ""
    yield (
        f"Time to trace, as a share of three forward passes + 0.3 ms per operator (networks of more than 20 operators): median "
        f"{statistics.median(budgets):.2f}, largest {budgets[-1]:.2f}, {sum(b <= 2 for b in budgets)} of {len(budgets)} within twice that. "
        f"{sum(r['verified'] for r in mine.values())} of {len(mine)} are checked by the verifier in that time."
    )
    yield ""
    yield "| model | weightlapse | groups (nested too) | trace | with the whole verifier | Torch-Pruning | rebasin |"
    yield "|---|---|---|---|---|---|---|"
    for name, r in mine.items():
        cells = [t[name].get("error") or t[name]["verdict"] for t in theirs.values()]
        yield (
            f"| {name} | {r['verdict']} | {r['groups']} | {r['seconds'] * 1e3:.0f} ms | {r['checked'] * 1e3:.0f} ms | "
            + " | ".join(cells)
            + " |"
        )


ZOO["resnet18_full_size"] = full_size()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="A folder that holds the peers already.")
    parser.add_argument("--limit", type=int, default=20, help="Seconds that a peer may take for one model.")
    parser.add_argument("--only", nargs="*", default=list(ZOO))
    parser.add_argument("--worker", choices=PEERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.only, arguments.limit)
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = arguments.only
    mine = {n: ours(ZOO[n]) for n in names}
    with tempfile.TemporaryDirectory() as temp:
        if arguments.peer is None:
            install(Path(temp))
        folder = arguments.peer or Path(temp)
        theirs = {peer: ask(peer, names, folder, arguments.limit) for peer in PEERS}
    facts = f"{len(os.sched_getaffinity(0))} cores, one thread, Python {platform.python_version()}, torch {torch.__version__}, "
    facts += f"weightlapse {wl.__version__}, Torch-Pruning 1.6.1, rebasin 0.0.47; processor time"
    lines = ["# Which units are interchangeable?", "", facts, "", *table(mine, theirs), ""]
    lines.append(
        "right: what it finds holds and no expected group is missed. misses some: what it finds holds. WRONG: permuting units that it "
        "calls coupled changes what the network computes. rebasin is right when it undoes a planted permutation. "
        "Torch-Pruning is told which layers make the output; it prunes a grouped conv at one position of every block, which is no permutation."
    )
    text = "\n".join(lines) + "\n"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "wiring.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

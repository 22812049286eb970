"""What do trace, align, widen and compare cost, in time and in memory, as networks grow?

GPT-2 from configurations (random weights, no download), one thread, one fresh process for each size and verb. Memory is the peak of the
whole process (``ru_maxrss``) less what it was before the verb began, with the weights of all networks that the verb is given already
loaded; beside it stands that number over the bytes of one network's weights.

    python bench/wiring_scale.py [--sizes 1 5 124 350] [--verbs trace align widen compare]
"""
# ruff: noqa: E402  (the threads must be set before NumPy loads)

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import torch

import weightlapse as wl
from weightlapse.symmetry.elements import Elements, identity

# name -> layers, width, heads, vocabulary; the widths divide by the heads, and 124 is GPT-2 small, 350 the width of GPT-2 medium
SIZES = {
    "1": (4, 128, 4, 2000),
    "5": (6, 256, 8, 2000),
    "20": (6, 512, 8, 2000),
    "60": (12, 640, 10, 2000),
    "124": (12, 768, 12, 50257),
    "350": (24, 1024, 16, 50257),
}
WIDENED = dict.fromkeys(SIZES, "transformer.h.0.mlp.c_fc")
VERBS = ("trace", "align", "widen", "compare")
MIB = 2**20


def network(size: str, seed: int = 0) -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    layers, width, heads, vocabulary = SIZES[size]
    torch.manual_seed(seed)
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, vocab_size=vocabulary, use_cache=False)
    return GPT2LMHeadModel(config).eval()


def disguised(model: torch.nn.Module, wiring: wl.Wiring) -> torch.nn.Module:
    """The same network with the units of every group in random order: in place, so that no copy raises the peak."""
    import numpy as np

    rng = np.random.default_rng(1)
    order = {g.name: rng.permutation(g.size) for g in wiring.groups}
    plan = Elements(order, identity(wiring).factor)
    state = plan.on_state(model.state_dict(), wiring)
    with torch.no_grad():
        for name, home in model.state_dict(keep_vars=True).items():
            home.copy_(state[name])
    return model


def measured(size: str, verb: str) -> dict[str, Any]:
    """One verb on one size, in this process."""
    torch.set_num_threads(1)
    model = network(size)
    ids = torch.randint(0, SIZES[size][3], (2, 16))
    wiring = other = None
    if verb in ("align", "compare"):
        wiring = wl.trace(model, ids, verify=False)
        other = disguised(network(size), wiring)
    before, started = forgotten_peak(), time.process_time()
    if verb == "trace":
        found = wl.trace(model, ids)
        result = f"{len(found.groups)} groups, verified {found.report['verified']}"
    elif verb == "align":
        assert other is not None
        al = wl.align(model.state_dict(), other.state_dict(), wiring)
        result = f"distance {al.distance_before:.2f} -> {al.distance_after:.1e}"
    elif verb == "compare":
        result = wl.compare(model, other, wiring, data=ids).verdict
    else:
        hidden = 4 * SIZES[size][1] + 64
        result = f"error {wl.widen(model, {WIDENED[size]: hidden}, ids).error:.1e}"
    return {
        "size": size,
        "verb": verb,
        "weights": sum(p.numel() for p in model.parameters()),
        "nbytes": sum(p.nbytes for p in model.parameters()),
        "seconds": time.process_time() - started,
        "peak": peak() - before,
        "result": result,
    }


def peak() -> int:
    """Most bytes held at a time. ``ru_maxrss`` would count what the process held from which this one was started."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forgotten_peak() -> int:
    """The peak after what the preparations freed is given back and forgotten (Linux only), so that it cannot hide the verb's own."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per size and verb, peaks in MiB and in bytes of the weights, time per million weights."""
    lines = [
        "| weights | verb | CPU s | s per M weights | peak beyond what was loaded, MiB | over the weights | result |",
        "|---:|---|---:|---:|---:|---:|---|",
    ]
    for r in rows:
        if "error" in r:
            lines.append(f"| {r['size']} M | {r['verb']} | | | | | {r['error']} |")
            continue
        millions = r["weights"] / 1e6
        lines.append(
            f"| {millions:.1f} M | {r['verb']} | {r['seconds']:.1f} | {r['seconds'] / millions:.3f} "
            f"| {r['peak'] / MIB:.0f} | {r['peak'] / r['nbytes']:.1f} | {r['result']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--verbs", nargs="+", default=list(VERBS), choices=VERBS)
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "VERB"), help=argparse.SUPPRESS)
    parser.add_argument("--print", action="store_true", dest="only_print", help="leave the results file as it is")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(*args.one)))
        return
    rows = []
    for size in args.sizes:
        for verb in args.verbs:
            child = subprocess.run(
                [sys.executable, __file__, "--one", size, verb], capture_output=True, text=True, check=False
            )
            lines = child.stdout.strip().splitlines()
            if child.returncode or not lines:
                last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
                rows.append({"size": size, "verb": verb, "error": last[:160]})
            else:
                rows.append(json.loads(lines[-1]))
            print(table(rows).splitlines()[-1], flush=True)
    text = (
        f"{__doc__.splitlines()[0]}\n\n{platform.machine()}, torch {torch.__version__}, one thread.\n\n{table(rows)}\n"
    )
    if not args.only_print:
        (HERE / "results" / "wiring_scale.md").write_text(text)


if __name__ == "__main__":
    main()

"""Is every symmetry of a transformer found? Copies of tiny transformers in other bases, orders and signs, with and without noise.

Nine families from Hugging Face configurations, every weight, gain and bias random, in float64. ``back`` counts copies that come back to
1e-5 of a's norm with their function kept to 1e-9. With noise of 0.3 standard deviations under a planted order and signs, ``units`` is the share of
stream units, hidden units and heads that find their partner; ``strangers`` counts pairs of unrelated networks that are called the same.

    python bench/gauges.py [--copies N] [--strangers N] [--families NAME ...]      (rows of other families are kept)
"""
# ruff: noqa: E402  (the threads must be set before NumPy loads)

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
warnings.filterwarnings("ignore")

import numpy as np
import torch

import weightlapse as wl
from tests.planted_bases import EVERYTHING, FAMILIES, in_other_bases, logits, network, noisy, relative, wiring_of
from weightlapse.wiring.apply import permute_state

KINDS: dict[str, tuple[str, ...]] = {
    "signs": ("signs",),
    "signed order": ("order", "signs"),
    "rotations": ("rotations",),
    "heads": ("heads",),
    "all": EVERYTHING,
}


def kept(x: np.ndarray, y: np.ndarray) -> bool:
    return bool(np.abs(x - y).max() <= 1e-9 * np.abs(x).max())


def planted(family: str, copies: int) -> dict[str, int]:
    """How many copies of each kind came back; gains that cannot be folded are even, so that every stream may turn."""
    back = dict.fromkeys(KINDS, 0)
    for seed in range(copies):
        net = network(family, seed, even=True)
        w, a = wiring_of(family), {n: v.clone() for n, v in net.state_dict().items()}
        for kind, kinds in KINDS.items():
            b = in_other_bases(a, w, np.random.default_rng(seed), kinds)
            al = wl.align(a, b, w, restarts=0)
            good = relative(a, al.state) <= 1e-5
            back[kind] += good and kept(logits(family, net, b), logits(family, net, al.state))
    return back


def units_right(family: str, copies: int) -> tuple[int, int]:
    """Units that find their partner under noise, and how many there are: streams, heads and hidden units in a planted order."""
    right = total = 0
    for seed in range(copies):
        net = network(family, seed)
        w, a = wiring_of(family), {n: v.clone() for n, v in net.state_dict().items()}
        rng = np.random.default_rng(seed)
        b = in_other_bases(noisy(a, w, rng, 0.3), w, rng, ("signs",))
        orders = {g.name: rng.permutation(g.size) for g in w.groups if g.parent is None}
        for name, order in orders.items():
            b = permute_state(b, w, name, order)
        al = wl.align(a, b, w, restarts=0)
        for g in (g for g in w.groups if g.name in orders):
            turn = al.rotations.get(g.name)
            found = al.permutations[g.name] if turn is None else np.abs(turn).argmax(axis=1)
            right += int((orders[g.name][found] == np.arange(g.size)).sum())
            total += g.size
    return right, total


def strangers(family: str, pairs: int) -> int:
    w = wiring_of(family)
    states = [network(family, 50 + i).state_dict() for i in range(2 * pairs)]
    return sum(wl.compare(a, b, w).verdict != "different" for a, b in zip(states[::2], states[1::2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--strangers", type=int, default=10)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    args = parser.parse_args()
    head = ["family", *(f"{k}, back" for k in KINDS), "units right under noise", "strangers called the same", "CPU s"]
    top = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for family in args.families:
        began = time.process_time()
        back = planted(family, args.copies)
        right, total = units_right(family, max(args.copies // 5, 1))
        same = strangers(family, args.strangers)
        row = [
            family,
            *(f"{n} of {args.copies}" for n in back.values()),
            f"{100 * right / total:.2f} % of {total}",
            f"{same} of {args.strangers}",
        ]
        line = "| " + " | ".join([*row, f"{time.process_time() - began:.0f}"]) + " |"
        print(line, flush=True)
        _write(top, family, line)


def _write(top: list[str], family: str, line: str) -> None:
    kept = HERE / "results" / "gauges.md"
    known = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    rows = {f: x for f in FAMILIES for x in known if x.startswith(f"| {f} |")} | {family: line}
    lines = [*top, *(rows[f] for f in FAMILIES if f in rows)]
    text = [
        "# Every symmetry of a transformer, planted and searched",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}, one thread. "
        + str(__doc__).split("\n\n")[1].strip(),
        "",
        *lines,
        "",
    ]
    kept.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()

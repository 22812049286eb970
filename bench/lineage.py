"""Are related networks told from independent ones by their weights alone? Tiny transformers trained here on one set of sentences.

60 pairs of relatives (fine-tuned on other sentences, half of the weights pruned, noised, renumbered and flipped, turned with the heads in other bases, widened) and
91 pairs of strangers (other seeds, the same sentences). Each pair is judged from its state dicts with the wiring and without it, never running a
network. Under the null p-values must be uniform: the Kolmogorov-Smirnov test of the strangers' says whether they are.

    python bench/lineage.py [--seeds N] [--steps N]
"""
# ruff: noqa: E402  (the threads must be set before NumPy loads)

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
warnings.filterwarnings("ignore")

import numpy as np
import torch
import transformers
from scipy.stats import kstest

import weightlapse as wl
from tests.planted_bases import in_other_bases
from weightlapse.wiring.data import Wiring

State = dict[str, Any]
LENGTH, WORDS = 12, 40


def made(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=LENGTH,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(sizes)


def sentences(language: int, seed: int, count: int) -> torch.Tensor:
    """A Markov language: each word has a few that may follow it."""
    table = np.random.default_rng(language).integers(0, WORDS, (WORDS, 4))
    rng = np.random.default_rng(seed)
    words = [rng.integers(0, WORDS, count)]
    for _ in range(LENGTH - 1):
        words.append(table[words[-1], rng.integers(0, 4, count)])
    return torch.from_numpy(np.stack(words, axis=1))


def trained(net: Any, language: int, steps: int, rate: float) -> Any:
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate)
    for step in range(steps):
        x = sentences(language, step, 32)  # the same sentences in the same order for everybody
        loss = net(input_ids=x, labels=x, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.last_loss = float(loss)
    return net


def state_of(net: Any) -> State:
    return {n: v.detach().clone() for n, v in net.state_dict().items()}


def fine_tuned(net: Any, state: State, w: Wiring, rng: np.random.Generator) -> State:
    other = made(0)
    other.load_state_dict(state)
    return state_of(trained(other, 99, 100, 1e-3))


def pruned(net: Any, state: State, w: Wiring, rng: np.random.Generator) -> State:
    return {
        n: torch.where(v.abs() < v.abs().median(), torch.zeros_like(v), v) if v.ndim > 1 else v
        for n, v in state.items()
    }


def noised(net: Any, state: State, w: Wiring, rng: np.random.Generator) -> State:
    return {
        n: v + 0.5 * v.std() * torch.from_numpy(rng.normal(size=tuple(v.shape))).float() if v.ndim > 1 else v
        for n, v in state.items()
    }


def renumbered(net: Any, state: State, w: Wiring, rng: np.random.Generator) -> State:
    return in_other_bases(state, w, rng, ("order", "signs"))


def turned(net: Any, state: State, w: Wiring, rng: np.random.Generator) -> State:
    return in_other_bases(state, w, rng)


def widened(net: Any, state: State, w: Wiring, rng: np.random.Generator) -> State:
    hidden = [g.name for g in w.groups if g.size == 48]
    example = {"input_ids": sentences(1, 0, 3), "use_cache": False}
    grown = wl.widen(net, dict.fromkeys(hidden, 64), example, seed=int(rng.integers(1 << 30)))
    return state_of(grown.model)


RELATIVES: dict[str, Callable[..., State]] = {
    "fine-tuned": fine_tuned, "pruned": pruned, "noised": noised, "renumbered": renumbered, "turned": turned, "widened": widened,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=14)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    began = time.process_time()
    nets = [trained(made(s), 1, args.steps, 3e-3) for s in range(args.seeds)]
    print(
        f"trained {len(nets)} networks: losses {min(n.last_loss for n in nets):.2f} to {max(n.last_loss for n in nets):.2f}, {time.process_time() - began:.0f} s",
        flush=True,
    )
    w = wl.trace(nets[0], {"input_ids": sentences(1, 0, 3), "use_cache": False})
    states = [state_of(n) for n in nets]
    lines = ["| pair | verdict with the wiring | largest p | verdict without | largest p |", "|---|---|---|---|---|"]
    errors = {"wiring": 0, "none": 0}
    for kind, make in RELATIVES.items():
        rng = np.random.default_rng(5)
        found: dict[str, list[wl.Lineage]] = {"wiring": [], "none": []}
        for net, state in zip(nets[:10], states[:10]):
            other = make(net, state, w, rng)
            for how, wiring in (("wiring", w), ("none", None)):
                found[how].append(wl.lineage(state, other, wiring))
        cells = []
        for how, all_ in found.items():
            right = sum(f.verdict != "independent" for f in all_)
            errors[how] += len(all_) - right
            same = sum(f.verdict == "same up to symmetry" for f in all_)
            cells += [
                f"{right} of {len(all_)} related" + (f" ({same} the same)" if same else ""),
                f"{max(f.p_value or 0.0 for f in all_):.1e}",
            ]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    ks = {}
    cells = []
    for how, wiring in (("wiring", w), ("none", None)):
        null = [wl.lineage(a, b, wiring, seed=i) for i, (a, b) in enumerate(itertools.combinations(states, 2))]
        wrong = sum(f.verdict != "independent" for f in null)
        errors[how] += wrong
        ks[how] = kstest([f.as_they_stand if f.p_value is None else f.p_value for f in null], "uniform")
        cells += [
            f"{len(null) - wrong} of {len(null)} independent",
            f"smallest {min(1.0 if f.p_value is None else f.p_value for f in null):.2g}, agreement at most {max(f.agreement or 0 for f in null):.2f}",
        ]
    lines.append("| strangers | " + " | ".join(cells) + " |")
    print(lines[-1], flush=True)
    text = [
        "# Relatives and strangers, told apart by their weights",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, one thread, {time.process_time() - began:.0f} CPU seconds in all. "
        + str(__doc__).split("\n\n")[1].strip(),
        "",
        *lines,
        "",
        f"Errors: {errors['wiring']} with the wiring, {errors['none']} without. Kolmogorov-Smirnov test of the strangers' p-values against the uniform law: "
        f"D = {ks['wiring'].statistic:.3f}, p = {ks['wiring'].pvalue:.2f} with the wiring; D = {ks['none'].statistic:.3f}, p = {ks['none'].pvalue:.2f} without.",
        "",
    ]
    (HERE / "results" / "lineage.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text[-2:]))


if __name__ == "__main__":
    main()

"""A network of a billion weights and a copy of it in another guise, both on a GPU: how long until one is brought onto the other?

A Llama shape with shared keys in float32, made on the device from a seed. Of the copy every symmetry is drawn anew: the stream is turned and its
gains are folded away, heads, query heads and hidden units stand in another order, hidden units are flipped and rescaled, values, queries and keys of
every head are written in other bases. ``wl.align`` sees the two state dicts and the wiring, which is traced on a twin of one layer.
A smaller pair is aligned on the device and in main memory too: both must decide the same.

    python bench/gauges_gpu.py [--device cuda] [--layers 24] [--hidden 2048]
"""
# ruff: noqa: E402  (what is offline must be said before transformers loads)

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
warnings.filterwarnings("ignore")

import numpy as np
import torch

import weightlapse as wl
from weightlapse.symmetry.alignment import Alignment
from weightlapse.symmetry.with_bases import WithBases
from weightlapse.wiring.arrays import at_home
from weightlapse.wiring.change import drawn
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Basis, Group

State = dict[str, torch.Tensor]
FIRST = "layers.0."


def twin(hidden: int, between: int, words: int, shared: int) -> tuple[Wiring, dict[str, tuple[int, ...]]]:
    """The wiring of one layer, and the shapes of its weights; heads of 64 numbers, ``shared`` of them for each head of keys."""
    import transformers

    heads = hidden // 64
    net = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=words, hidden_size=hidden, intermediate_size=between, num_hidden_layers=1, num_attention_heads=heads,
            num_key_value_heads=heads // shared, max_position_embeddings=32,
        )
    ).eval()  # fmt: skip
    wiring = wl.trace(net, {"input_ids": torch.randint(0, words, (2, 5)), "use_cache": False})
    return wiring, {n: tuple(v.shape) for n, v in net.state_dict().items()}


def renamed(x: Any, layer: int) -> Any:
    """The same of another layer: names inside groups, bases, members and norms."""
    if isinstance(x, str):
        return x.replace(FIRST, f"layers.{layer}.")
    if isinstance(x, tuple):
        return tuple(renamed(v, layer) for v in x)
    if hasattr(x, "__dataclass_fields__"):
        return replace(x, **{n: renamed(getattr(x, n), layer) for n in x.__dataclass_fields__})
    return x


def deepened(wiring: Wiring, layers: int) -> Wiring:
    """The wiring of a network of as many layers that are all like the first."""

    def copies(x: Any, text: str) -> list[Any]:
        return [renamed(x, i) for i in range(layers)] if FIRST in text else [x]

    def through(g: Any) -> Any:
        pairs = [(c, e) for m, e in zip(g.members, g.exponents) for c in copies(m, m.tensor)]
        more = (
            {"gauges": ()} if isinstance(g, Group) else {"norms": tuple(c for n in g.norms for c in copies(n, n.gain))}
        )
        return replace(g, members=tuple(m for m, _ in pairs), exponents=tuple(e for _, e in pairs), **more)

    def all_of(things: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(c for g in things for c in (copies(g, g.name) if FIRST in g.name else [through(g)]))

    shapes = {c: s for n, s in wiring.shapes.items() for c in copies(n, n)}
    return replace(wiring, groups=all_of(wiring.groups), bases=all_of(wiring.bases), shapes=shapes)


def network(shapes: dict[str, tuple[int, ...]], layers: int, device: str, seed: int = 0) -> State:
    """Every weight and gain random, made on the device."""
    noise = torch.Generator(device).manual_seed(seed)
    named = [(c, s) for n, s in shapes.items() for c in ([renamed(n, i) for i in range(layers)] if FIRST in n else [n])]
    out = {}
    for n, shape in named:
        some = torch.randn(shape, generator=noise, device=device)
        out[n] = 1 + 0.2 * some if len(shape) == 1 else some.mul_(shape[-1] ** -0.5)
    return out


def guise(state: State, w: Wiring, device: str, seed: int = 1) -> State:
    """The same function with every symmetry drawn anew."""
    rng = np.random.default_rng(seed)
    order = {g.name: rng.permutation(g.size) if own(w, g) else np.arange(g.size) for g in w.groups}
    factor = {g.name: np.ones(g.size) for g in w.groups}
    for g in w.groups:
        if g.parent is None and own(w, g) and "scale" in g.symmetries:
            factor[g.name] = rng.choice([-1.0, 1.0], g.size) * np.exp(0.3 * rng.normal(size=g.size))
    gains = {n.gain: at_home(state[n.gain]).astype(np.float64) + n.offset for b in w.bases for n in b.norms}
    matrices = {b.name: drawn(b, rng) for b in w.bases}
    return WithBases(order, factor, matrices, {n: np.ones_like(g) for n, g in gains.items()}, gains).on_state(
        state, w, device
    )


def own(w: Wiring, g: Group) -> bool:
    """Whether a group is none whose numbers a basis mixes already."""
    return not any(isinstance(b, Basis) and all(m in g.members for m in b.members) for b in w.bases)


def kib(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def agree(x: Alignment, y: Alignment) -> bool:
    """Whether two alignments took the same decisions."""
    return all(
        np.array_equal(x.permutations[g], y.permutations[g]) and np.array_equal(x.signs[g], y.signs[g])
        for g in x.permutations
    ) and set(x.gauges) == set(y.gauges)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--between", type=int, default=5632)
    parser.add_argument("--words", type=int, default=32000)
    args = parser.parse_args()
    gpu = args.device.startswith("cuda")
    name = torch.cuda.get_device_name() if gpu else "main memory"
    lines = [f"# A billion weights on a GPU ({name})", "", f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}. "
             + str(__doc__).split("\n\n")[1].replace("\n", " ").strip(), ""]  # fmt: skip

    w, shapes = twin(256, 704, 2000, 2)
    w = deepened(w, 3)
    a = network(shapes, 3, args.device)
    b = guise(a, w, args.device)
    there = wl.align(a, b, w, restarts=0, device=args.device)
    here = wl.align(*({n: v.cpu() for n, v in s.items()} for s in (a, b)), w, restarts=0)
    lines += [f"Small pair ({sum(v.numel() for v in a.values()) / 1e6:.1f} M weights, 3 x 256): {there.distance_before:.2f} -> {there.distance_after:.1e} on the device, "
              f"{here.distance_after:.1e} in main memory; the same decisions: {'yes' if agree(there, here) else 'NO'}.", ""]  # fmt: skip
    print(lines[-2], flush=True)

    began = time.perf_counter()
    w, shapes = twin(args.hidden, args.between, 64, 4)
    shapes |= dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (args.words, args.hidden))
    w = deepened(replace(w, shapes=w.shapes | {n: s for n, s in shapes.items() if n in w.shapes}), args.layers)
    traced = time.perf_counter() - began
    began = time.perf_counter()
    a = network(shapes, args.layers, args.device)
    b = guise(a, w, args.device)
    wait(args.device)
    made = time.perf_counter() - began
    weights = sum(v.numel() for v in a.values())
    nbytes = sum(v.nbytes for v in a.values())
    print(f"{weights / 1e9:.3f} G weights; twin traced in {traced:.1f} s, both made in {made:.1f} s", flush=True)
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    host, began, busy = kib("VmRSS"), time.perf_counter(), time.process_time()
    found = wl.align(a, b, w, restarts=0, device=None if gpu else args.device)
    wait(args.device)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    above = (kib("VmHWM") - host) / 2**10
    peak = (torch.cuda.max_memory_allocated() - held) / 2**30 if gpu else float("nan")
    worst = max(float((a[n] - found.state[n]).abs().max() / a[n].abs().max()) for n in a)
    lines += [
        "| layers x width | weights | one network | seconds | host CPU s | device memory above both | host memory above | distance | largest difference in a tensor |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| {args.layers} x {args.hidden} | {weights / 1e9:.2f} G | {nbytes / 2**30:.2f} GiB | {seconds:.1f} | {busy:.1f} | {peak:.2f} GiB | {above:.0f} MB | "
        f"{found.distance_before:.2f} -> {found.distance_after:.1e} | {worst:.1e} |",
        "",
        f"Found: {found}.",
    ]  # fmt: skip
    text = "\n".join([*lines, ""])
    print(text)
    if gpu:
        (HERE / "results" / "gauges_gpu.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

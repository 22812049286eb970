"""How long does it take to bring a transformer back from another guise, and in how much memory, as it grows?

Llama shapes in float32 with shared keys, on one thread: a copy in another order, with signs flipped, its stream turned and every head in other bases. CPU
seconds of ``wl.align`` alone, and the peak of memory above both networks, each size in a process of its own (Linux).

    python bench/gauges_size.py [--large]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
warnings.filterwarnings("ignore")

SIZES = {
    "4 x 256": (4, 256, 768, 8000),
    "6 x 384": (6, 384, 1024, 8000),
    "8 x 512": (8, 512, 1792, 8000),
    "10 x 768": (10, 768, 2048, 8000),
}
LARGE = {"24 x 1024": (24, 1024, 3072, 16000)}


def _kib(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def measured(layers: int, hidden: int, between: int, words: int) -> dict[str, float]:
    import numpy as np
    import torch
    import transformers

    import weightlapse as wl
    from tests.planted_bases import in_other_bases

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = transformers.LlamaConfig(
        vocab_size=words, hidden_size=hidden, intermediate_size=between, num_hidden_layers=layers, num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128, max_position_embeddings=32,
    )  # fmt: skip
    net = transformers.LlamaForCausalLM(sizes).eval()
    w = wl.trace(net, {"input_ids": torch.randint(0, words, (2, 5)), "use_cache": False}, verify=True)
    a = net.state_dict()
    for value in a.values():
        if value.ndim == 1:
            value.add_(0.2 * torch.randn_like(value))
    b = in_other_bases(a, w, np.random.default_rng(0))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, began = _kib("VmRSS"), time.process_time()
    found = wl.align(a, b, w, restarts=0)
    seconds = time.process_time() - began
    weights = sum(v.numel() for v in a.values())
    above = (_kib("VmHWM") - before) / 1024
    return {
        "weights": weights / 1e6,
        "seconds": seconds,
        "above": above,
        "mb": weights * 4 / 2**20,
        "before": found.distance_before,
        "after": found.distance_after,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="A third of a billion weights, too.")
    parser.add_argument("--one", nargs=4, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(*args.one)))
        return
    lines = [
        "| layers x width | weights | CPU s | s per 10 M | one network | peak above both | distance |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, size in {**SIZES, **(LARGE if args.large else {})}.items():
        done = subprocess.run(
            [sys.executable, __file__, "--one", *map(str, size)], capture_output=True, text=True, check=True
        )
        r = json.loads(done.stdout.splitlines()[-1])
        lines.append(
            f"| {name} | {r['weights']:.1f} M | {r['seconds']:.2f} | {10 * r['seconds'] / r['weights']:.2f} | {r['mb']:.0f} MB | {r['above']:.0f} MB | "
            f"{r['before']:.2f} -> {r['after']:.0e} |"
        )
        print(lines[-1], flush=True)
        text = [
            "# Bases at size",
            "",
            f"Python {platform.python_version()}. " + str(__doc__).split("\n\n")[1].strip(),
            "",
            *lines,
            "",
        ]
        (HERE / "results" / "gauges_size.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()

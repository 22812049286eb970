"""How long does it take to bring a transformer back from another guise, and in how much memory, as it grows?

Llama shapes in float32 with shared keys, on one thread: of a copy the stream is turned, its gains are folded away, heads and hidden units stand in
another order, hidden units are flipped and rescaled, and every head is written in other bases. Both networks lie in safetensors files that are mapped, not
read: ``wl.align`` looks at them tensor by tensor. CPU seconds of ``wl.align`` alone; memory is what its process takes beside the mapped files at its peak (Linux,
looked at every 5 ms), and the aligned copy, one network, is a part of it. Each size in processes of its own.

    python bench/gauges_size.py [--large]      (--large: a third of a billion weights too, 2.8 GB of disk for a moment)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
warnings.filterwarnings("ignore")

SIZES = {
    "4 x 256": (4, 256, 768, 8000),
    "6 x 384": (6, 384, 1024, 8000),
    "8 x 512": (8, 512, 1792, 9500),
    "10 x 768": (10, 768, 2048, 8000),
}
LARGE = {"24 x 1024": (24, 1024, 3072, 24000)}


def make(folder: Path, layers: int, hidden: int, between: int, words: int) -> None:
    """Both networks and their wiring, as files."""
    from safetensors.torch import save_file

    from bench.gauges_gpu import deepened, guise, network, twin

    w, shapes = twin(hidden, between, 64, 2)
    shapes |= dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (words, hidden))
    w = deepened(replace(w, shapes=w.shapes | {n: s for n, s in shapes.items() if n in w.shapes}), layers)
    (folder / "wiring.txt").write_text(w.to_spec(), encoding="utf-8")
    a = network(shapes, layers, "cpu")
    save_file(a, folder / "a.safetensors")
    b = guise(a, w, "cpu")
    a.clear()
    save_file({n: v.contiguous() for n, v in b.items()}, folder / "b.safetensors")


def anonymous() -> int:
    """The memory of this process beside mapped files, in KiB."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


class Peak(threading.Thread):
    """Looks at the memory of this process until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.most = anonymous()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.005):
            self.most = max(self.most, anonymous())


def measured(folder: Path) -> dict[str, float]:
    import torch
    from safetensors import safe_open

    import weightlapse as wl

    torch.set_num_threads(1)
    w = wl.Wiring.from_spec((folder / "wiring.txt").read_text(encoding="utf-8"))
    with (
        safe_open(folder / "a.safetensors", framework="pt") as a,
        safe_open(folder / "b.safetensors", framework="pt") as b,
    ):
        peak = Peak()
        peak.start()
        began, busy = time.perf_counter(), time.thread_time()  # of this thread: the other one looks at memory
        found = wl.align(a, b, w, restarts=0)
        seconds, wall = time.thread_time() - busy, time.perf_counter() - began
        peak.done.set()
        weights = sum(v.numel() for v in found.state.values())
        layer = sum(v.nbytes for n, v in found.state.items() if "layers.0." in n)
    return {
        "weights": weights / 1e6,
        "seconds": seconds,
        "wall": wall,
        "above": (peak.most - peak.before) / 1024,
        "mb": weights * 4 / 2**20,
        "layer": layer / 2**20,
        "before": found.distance_before,
        "after": found.distance_after,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="A third of a billion weights, too.")
    parser.add_argument("--make", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make(Path(args.make[0]), *map(int, args.make[1:]))
        return
    if args.one:
        print(json.dumps(measured(Path(args.one))))
        return
    kept = HERE / "results" / "gauges_size.md"
    large = [x for x in kept.read_text(encoding="utf-8").splitlines() if x.startswith(f"| {next(iter(LARGE))} ")]
    lines = [
        "| layers x width | weights | CPU s | s per 10 M | one network | one layer | peak beside the files | of it beside the result | distance |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, size in {**SIZES, **(LARGE if args.large else {})}.items():
        with tempfile.TemporaryDirectory() as folder:
            for step in (["--make", folder, *map(str, size)], ["--one", folder]):
                done = subprocess.run([sys.executable, __file__, *step], capture_output=True, text=True, check=True)
        r = json.loads(done.stdout.splitlines()[-1])
        lines.append(
            f"| {name} | {r['weights']:.1f} M | {r['seconds']:.2f} | {10 * r['seconds'] / r['weights']:.2f} | {r['mb']:.0f} MB | {r['layer']:.0f} MB | "
            f"{r['above']:.0f} MB | {r['above'] - r['mb']:.0f} MB | {r['before']:.2f} -> {r['after']:.0e} |"
        )
        print(lines[-1], flush=True)
        text = [
            "# Bases at size",
            "",
            f"Python {platform.python_version()}. " + str(__doc__).split("\n\n")[1].strip(),
            "",
            *lines,
            *([] if args.large else large),  # the largest is measured only when that is asked for
            "",
        ]
        kept.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()

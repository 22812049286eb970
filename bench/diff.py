"""How fast is a diff beside reading the files? Two sharded folders of 500 MB, the same but for one tensor, or altogether, beside ``cat``.

Writes bench/results/diff.md. The folders are made in a temporary place and removed.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import weightlapse as wl

MEGABYTES = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 500
LAYERS = 10
TIMES = 7


def folder(path: Path, shards: int, rank: int) -> int:
    """A checkpoint of LAYERS layers, each of one large and several small tensors, one of them with an edit of this rank; returns the bytes of the largest tensor."""
    from safetensors.numpy import save_file

    path.mkdir()
    wide = 2048
    high = MEGABYTES * 1_000_000 // (4 * wide * LAYERS)
    tensors = {}
    for i in range(LAYERS):
        rng = np.random.default_rng(i)
        tensors[f"model.layers.{i}.mlp.down_proj.weight"] = rng.standard_normal((high, wide), dtype=np.float32)
        for part in range(19):
            tensors[f"model.layers.{i}.norm{part}.weight"] = rng.standard_normal(wide, dtype=np.float32)
    if rank:
        rng = np.random.default_rng(99)
        name = "model.layers.3.mlp.down_proj.weight"
        tensors[name] = tensors[name] + 0.01 * rng.standard_normal(
            (high, rank), dtype=np.float32
        ) @ rng.standard_normal((rank, wide), dtype=np.float32)
    names, where = list(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {n: tensors[n] for n in names[i::shards]}
        where |= dict.fromkeys(part, file)
        save_file(part, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return high * wide * 4


def measured(a: str, b: str) -> None:
    """In a process of its own: seconds of the call, and the peak of its memory above what it had before."""
    wl.diff({"x": np.ones(3)}, {"x": np.ones(3)})
    before = peak_memory()
    start = time.perf_counter()
    d = wl.diff(a, b)
    took = time.perf_counter() - start
    peak = peak_memory()
    print(json.dumps({"took": took, "peak": peak, "more": peak - before, "summary": d.summary}))


def peak_memory() -> int:
    """Bytes; not from getrusage, which counts the process that this one was forked from."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def cat(*folders: Path) -> float:
    files = [str(f) for folder in folders for f in sorted(folder.glob("*.safetensors"))]
    start = time.perf_counter()
    subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def call(a: Path, b: Path) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(a), str(b)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def shell(a: Path, b: Path) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "weightlapse", "diff", str(a), str(b)], stdout=subprocess.DEVNULL, check=False
    )
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        largest = folder(root / "a", 3, 0)
        folder(root / "same", 5, 0)
        folder(root / "rank 2", 3, 2)
        folder(root / "rank 100", 3, 100)
        rows = []
        for name in ("same", "rank 2", "rank 100"):
            other = root / name
            cat(root / "a", other)  # both into the page cache
            reading, calls, shells = [], [], []
            for _ in range(TIMES):
                reading.append(cat(root / "a", other))
                calls.append(call(root / "a", other))
                shells.append(shell(root / "a", other))
            read, took, whole = (
                statistics.median(reading),
                statistics.median(c["took"] for c in calls),
                statistics.median(shells),
            )
            more, peak = max(c["more"] for c in calls), max(c["peak"] for c in calls)
            rows.append((name, calls[0]["summary"], read, took, whole, more, peak))
    lines = ["# What a diff costs beside reading the files", ""]
    lines += [
        f"2 cores, Python {platform.python_version()}, NumPy {np.__version__}, weightlapse {wl.__version__}; two folders of {MEGABYTES} MB each in safetensors "
        f"shards, the largest tensor {largest / 1e6:.0f} MB, files in the page cache, medians of {TIMES} runs. Memory is the peak of the process, and what the "
        "call added to it; speed of reading is that of `cat` on the files of both.",
        "",
        "| B | answer | `cat` | wl.diff | speed of reading | in a shell | memory added | peak | largest tensors in the peak |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, said, read, took, whole, more, peak in rows:
        lines.append(
            f"| {name} | {said} | {read:.2f} s | {took:.2f} s | {read / took:.0%} | {whole:.2f} s | {more / 1e6:.0f} MB | {peak / 1e6:.0f} MB | {peak / largest:.1f} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    (Path(__file__).parent / "results" / "diff.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if "--measure" in sys.argv:
        measured(*sys.argv[2:4])
    else:
        main()

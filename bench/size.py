"""How small is a recording, beside other stores of the same values?

Ratios are raw bytes over all bytes of the folder or file, on real trajectories (see ``trajectories.py``). Every exact value is compared after
reading, every bounded one checked against its bound in float64. "limit" is the entropy of the residuals of w1 + 0.9 (w1 - w2) in units in the
last place, given the recent size of the same weight's residuals: what prediction of each weight from its own past could reach at best.

    python bench/size.py [--names mlp_adam,mlp_sgd,cnn,gpt,gpt_bf16] [--peers PYTHON]

PYTHON is an interpreter with zfpy and pysz (see ``bounded_peers.py``); without it their columns stay empty.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from stores import (
    folder_nbytes,
    fresh,
    machine,
    table,
    write_h5py,
    write_safetensors,
    write_torch,
    write_weightlapse,
    write_zarr,
)
from trajectories import CACHE, NAMES, Trajectory, trajectory

from weightlapse.store.reader import Store

HERE = Path(__file__).parent
SCRATCH = CACHE / "scratch"
GOALS = {
    "exact": {"mlp_adam": 2.35, "mlp_sgd": 2.95, "cnn": 1.78, "gpt": 1.9, "gpt_bf16": 8.0},
    1e-2: {"mlp_adam": 45, "mlp_sgd": 45, "cnn": 22, "gpt": 35},
    1e-3: {"mlp_adam": 16, "mlp_sgd": 16, "cnn": 11, "gpt": 13},
}


def limit(run: Trajectory) -> float | None:
    """Raw bits over the entropy of the residual on a sample of columns; None for bfloat16, where it means little."""
    if run.dtype != "float32":
        return None
    rng = np.random.default_rng(0)
    total, count = run.values.shape
    w = np.ascontiguousarray(
        run.values[: min(total, 2000), np.sort(rng.choice(count, min(count, 1500), replace=False))]
    )
    p = w[1:-1] + np.float32(0.9) * (w[1:-1] - w[:-2])
    ordered = [x.view(np.int32).astype(np.int64) for x in (w[2:], p)]
    r = np.abs(np.subtract(*(np.where(x < 0, -(x & 0x7FFFFFFF), x) for x in ordered)))
    recent = np.zeros(r.shape)
    for t in range(1, len(r)):
        recent[t] = 0.8 * recent[t - 1] + 0.2 * np.log2(r[t - 1] + 1)
    length = np.frexp(r.astype(np.float64))[1]
    below = np.maximum(length - 4, 0)  # bits that are noise: all below the leading four
    symbol = length * 16 + np.where(r > 0, r >> below, 0)
    bits = float(below.mean()) + float((r > 0).mean())
    context = np.rint(2 * recent[8:]).astype(int).ravel()
    symbol = symbol[8:].ravel()
    joint = np.unique(context * 4096 + symbol, return_counts=True)[1] / symbol.size
    alone = np.bincount(context) / symbol.size
    bits += -(joint * np.log2(joint)).sum() + (alone[alone > 0] * np.log2(alone[alone > 0])).sum()
    return 32 / bits


def check_exact(run: Trajectory, path: Path) -> None:
    store = Store.open(path)
    for name, shape, a, b in run.columns():
        for top in range(0, len(run.values), 500):
            truth = run.values[top : top + 500, a:b].reshape(-1, *shape)
            read = store.read(name, slice(top, top + len(truth)))
            assert read.tobytes() == np.ascontiguousarray(truth).tobytes(), name
            store.cache.clear()


def violations(run: Trajectory, path: Path, tolerance: float) -> int:
    """Values further from the truth than tolerance x the standard deviation of their tensor in their block."""
    store = Store.open(path)
    wrong = 0
    for segment in store.segments:
        height = segment.opening.height  # type: ignore[attr-defined]
        for first in range(segment.first, segment.first + segment.count, height):
            stop = min(first + height, segment.first + segment.count)
            for name, _shape, a, b in run.columns():
                truth = run.values[first:stop, a:b].astype(np.float64)
                bound = tolerance * truth.std()
                error = np.abs(store.read(name, slice(first, stop)).reshape(stop - first, -1) - truth)
                wrong += int((error > bound).sum())
            store.cache.clear()
    return wrong


def exact_row(name: str) -> list[str]:
    run = trajectory(name)
    raw = run.values.nbytes
    ours = fresh(SCRATCH / f"{name}-ours")
    seconds = write_weightlapse(run, ours)
    check_exact(run, ours)
    ratio = raw / folder_nbytes(ours)
    peers = {}
    for peer, write in (("zarr", write_zarr), ("h5py", write_h5py)):
        path = fresh(SCRATCH / f"{name}-{peer}")
        write(run, path)
        peers[peer] = raw / folder_nbytes(path)
        fresh(path)
    every = max(1, len(run.values) // 40)
    for peer, write_files in (("safetensors", write_safetensors), ("torch.save", write_torch)):
        path = fresh(SCRATCH / f"{name}-{peer}")
        write_files(run, path, every)
        peers[peer] = raw / len(run.values) * len(list(path.iterdir())) / folder_nbytes(path)
        fresh(path)
    fresh(ours)
    best = limit(run)
    print(f"{name}: {ratio:.3f} exact", file=sys.stderr)
    return [
        name,
        f"**{ratio:.3f}**",
        f"{GOALS['exact'][name]:g}",
        f"{best:.2f}" if best else "–",
        f"{peers['zarr']:.2f} ({ratio / peers['zarr']:.2f}×)",
        *(f"{peers[p]:.2f}" for p in ("h5py", "safetensors", "torch.save")),
        f"{raw / 1e6 / seconds['compress_cpu']:.0f}",
    ]


def bounded_row(name: str, tolerance: float, python: str | None) -> list[str]:
    run = trajectory(name)
    ours = fresh(SCRATCH / f"{name}-bounded")
    seconds = write_weightlapse(run, ours, tolerance)
    ratio = run.values.nbytes / folder_nbytes(ours)
    wrong = violations(run, ours, tolerance)
    fresh(ours)
    cells = ["–", "–"]
    if python is not None:
        arguments = [str(CACHE / f"{name}.npy"), str(CACHE / f"{name}.json"), str(tolerance)]
        told = subprocess.run(
            [python, str(HERE / "bounded_peers.py"), *arguments], capture_output=True, text=True, check=True
        )
        peers = json.loads(told.stdout.splitlines()[-1])
        cells = [
            f"{peers[p]['ratio']:.1f} ({ratio / peers[p]['ratio']:.2f}×, {peers[p]['violations']} violations)"
            for p in ("SZ3", "zfp")
        ]
    print(f"{name}: {ratio:.2f} at {tolerance:g}, {wrong} violations", file=sys.stderr)
    speed = run.values.nbytes / 1e6 / seconds["compress_cpu"]
    return [
        name,
        f"{tolerance:g}",
        f"**{ratio:.1f}**",
        f"{GOALS[tolerance][name]:g}",
        str(wrong),
        *cells,
        f"{speed:.0f}",
    ]


def kept(key: str, make: Callable[[], list[str]]) -> list[str]:
    """A finished row, from an earlier run when it is there: sizes do not change from run to run, and all of them take long."""
    file = CACHE / "size-rows.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    if key not in rows:
        row = make()
        rows = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**rows, key: row}))
        return row
    return rows[key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--peers", help="an interpreter with zfpy and pysz")
    parser.add_argument("--again", action="store_true", help="measure everything anew")
    options = parser.parse_args()
    if options.again:
        (CACHE / "size-rows.json").unlink(missing_ok=True)
    names = options.names.split(",")
    rows = [kept(name, lambda name=name: exact_row(name)) for name in names]
    bounded = [
        kept(
            f"{name} {tolerance:g}", lambda name=name, tolerance=tolerance: bounded_row(name, tolerance, options.peers)
        )
        for name in names
        if name != "gpt_bf16"
        for tolerance in (1e-2, 1e-3)
    ]
    head = ["exact", "weightlapse", "goal", "limit", "Zarr (smaller by)", "h5py gzip", "safetensors", "torch.save"]
    text = [
        "# Size: raw bytes over stored bytes",
        "",
        machine(),
        "",
        table([*head, "compress, MB/s of one core"], rows),
        "",
    ]
    head = ["bounded", "tolerance", "weightlapse", "goal", "violations", "SZ3 (smaller by)", "zfp (smaller by)"]
    text += [table([*head, "compress, MB/s of one core"], bounded), "", *__doc__.split("\n\n")[1:2]]
    print("\n".join(text))
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "size.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()

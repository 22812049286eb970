"""Is the store of this checkout as good as that of another one? Both take turns, in fresh processes, in one run.

The trajectories of ``trajectories.py`` are recorded step by step, compressed, and read back through fresh handles. Medians of CPU time over the rounds,
all threads counted, because the machine is shared.

    git worktree add ../before COMMIT && python bench/beside.py ../before [--rounds 5] [mlp_adam cnn ...]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
LARGER_IS_BETTER = ("ratio", "MB/s", "frames/s")


def figures(name: str) -> dict[str, float]:
    """What the weightlapse on this process's path needs for one trajectory."""
    import numpy as np
    from trajectories import trajectory

    from weightlapse.store.layout import Layout, TensorSpec
    from weightlapse.store.reader import Store
    from weightlapse.store.writer import Writer

    cpu = time.process_time
    run = trajectory(name)
    layout = Layout(TensorSpec(n, run.dtype, shape) for n, shape in run.tensors)
    count = len(run.values)
    rows = np.zeros((count, layout.row_nbytes), np.uint8)
    for i, (_, shape, a, b) in enumerate(run.columns()):
        layout.view(rows, i)[...] = np.asarray(run.values[:, a:b]).reshape(count, *shape)
    path = Path(tempfile.mkdtemp()) / "run"
    out: dict[str, float] = {}

    def median_ms(act: Callable[[], object], repeat: int = 15) -> float:
        times = []
        for _ in range(repeat):
            begun = cpu()
            act()
            times.append(1e3 * (cpu() - begun))
        return float(np.median(times))

    writer = Writer.create(path, layout, compact="after")
    begun = cpu()
    for k in range(count):
        writer.append(np.array([k]), rows[k : k + 1])
    out["append, us a frame"] = 1e6 * (cpu() - begun) / count
    begun = cpu()
    writer.close()
    out["compress, MB/s"] = rows.nbytes / 1e6 / (cpu() - begun)
    out["ratio"] = rows.nbytes / sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    rng = np.random.default_rng(0)
    tensor, shape = run.tensors[0]

    def weight() -> None:
        at = [int(rng.integers(n)) for n in shape]
        Store.open(path).read(tensor, slice(None), tuple(slice(i, i + 1) for i in at))

    out["open, ms"] = median_ms(lambda: Store.open(path))
    out["one weight over all frames, fresh handle, ms"] = median_ms(weight)
    out["one frame, fresh handle, ms"] = median_ms(lambda: Store.open(path).read_frame(int(rng.integers(count))))
    store = Store.open(path)
    begun = cpu()
    for k in range(count):
        store.read_frame(k)
    out["consecutive frames/s"] = count / (cpu() - begun)
    shutil.rmtree(path.parent)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("other", nargs="?", help="a checkout of the state before")
    parser.add_argument("names", nargs="*", default=["mlp_adam", "mlp_sgd"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.one:
        print(json.dumps(figures(told.one)))
        return
    if told.other is None:
        print("bench/beside.py needs a checkout of the state before: left out", file=sys.stderr)
        return
    lines = ["# The store beside the state before", "", (__doc__ or "").split("\n\n")[1].replace("\n", " "), ""]
    for name in told.names:
        found: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
        for _ in range(told.rounds):
            for which, root in (("before", told.other), ("now", str(HERE.parent))):
                env = {
                    **os.environ,
                    "PYTHONPATH": str(Path(root).resolve()),
                    "OMP_NUM_THREADS": "1",
                    "WEIGHTLAPSE_THREADS": "1",
                }
                run = subprocess.run(
                    [sys.executable, __file__, "--one", name], env=env, capture_output=True, text=True, check=True
                )
                found[which].append(json.loads(run.stdout))
        lines += [f"## {name}", "", "| | before | now | now / before |", "|---|---|---|---|"]
        for key in found["now"][0]:
            before, now = (sorted(each[key] for each in found[which])[told.rounds // 2] for which in ("before", "now"))
            better = " (larger is better)" if any(word in key for word in LARGER_IS_BETTER) else ""
            lines.append(f"| {key}{better} | {before:.4g} | {now:.4g} | {now / before:.3f} |")
        lines.append("")
    text = "\n".join(lines)
    (HERE / "results" / "beside.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

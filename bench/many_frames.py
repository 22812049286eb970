"""What does one weight out of very many frames cost? A network of 88 weights over 10^5 and 10^6 frames, each read in a fresh process.

python bench/many_frames.py [../before]      a checkout of the state before takes turns with this one
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

WRITE = """
import sys, numpy as np
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.writer import Writer
count, path = int(sys.argv[1]), sys.argv[2]
layout = Layout([TensorSpec("w", "float32", (8, 8)), TensorSpec("b", "float32", (8,)), TensorSpec("v", "float32", (8, 2))])
rng = np.random.default_rng(0)
writer, x = Writer.create(path, layout, compact="after"), rng.normal(size=88)
for k in range(0, count, 1000):
    walk = x + rng.normal(0, 1e-3, (1000, 88)).cumsum(0)
    writer.append(np.arange(k, k + 1000), walk.astype(np.float32).view(np.uint8))
    x = walk[-1]
writer.close()
"""

READ = """
import json, sys, time
begun = time.perf_counter()
import numpy as np
from weightlapse.store.reader import Store
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
before, loaded = peak(), time.perf_counter()
store = Store.open(sys.argv[1])
opened = time.perf_counter()
values = store.read("w", slice(None), (slice(3, 4), slice(5, 6)))
read = time.perf_counter()
assert values.shape[0] == int(sys.argv[2]) and np.isfinite(values).all() and values.std() > 0
print(json.dumps({"open, s": opened - loaded, "open and one weight, s": read - loaded, "peak, MB": peak(), "peak before anything is read, MB": before}))
"""


def run(checkout: Path, program: str, *words: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *map(str, words)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def main() -> None:
    checkouts = {"now": HERE.parent} | ({"before": Path(sys.argv[1]).resolve()} if len(sys.argv) > 1 else {})
    lines = [
        "# One weight out of very many frames",
        "",
        (__doc__ or "").splitlines()[0],
        "Medians of five fresh processes.",
        "",
    ]
    lines += [
        "| frames | state | open, s | open and one weight, s | peak, MB | peak before anything is read, MB |",
        "|---|---|---|---|---|---|",
    ]
    for count in (100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as place:
            for name, checkout in checkouts.items():
                run(checkout, WRITE, count, f"{place}/{name}")
            told: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
            for _ in range(5):
                for name, checkout in checkouts.items():
                    told[name].append(json.loads(run(checkout, READ, f"{place}/{name}", count)))
        for name, rounds in told.items():
            middle = {key: sorted(one[key] for one in rounds)[2] for key in rounds[0]}
            lines.append(f"| {count:,} | {name} | {' | '.join(f'{value:.3g}' for value in middle.values())} |")
    text = "\n".join(lines) + "\n"
    print(text)
    (HERE / "results" / "many_frames.md").write_text(text)


if __name__ == "__main__":
    main()

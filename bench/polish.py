"""How long do students take to the very end of their training, and do they then have their teachers' weights?

Students 10-8-8-1 (tanh) of eight teachers, from independent starts: Adam with cosine decay on fresh inputs, Levenberg-Marquardt in float64,
alignment by order and sign. Zero loss is an error below 1e-12 on inputs that nobody trained on. Wall seconds.

    python bench/polish.py [--students N] [--adam STEPS] [--polish STEPS]
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import weightlapse as wl
from weightlapse.ensembles.batches import imitation
from weightlapse.ensembles.stack import Stack, glorot

HERE = Path(__file__).parent
STUDENT = glorot(10, 8, 8, 1, output=nn.Tanh)


def to_the_end(students: int, adam: int, polish: int) -> list[str]:
    """Students of eight teachers: trained, polished, aligned; what share reaches zero, and what alignment then says."""
    teachers = Stack.make(STUDENT, 8, seeds=range(500, 508))
    own = teachers[[i % 8 for i in range(students)]]
    lines = ["| stage | seconds | |", "|---|---|---|"]
    start = time.perf_counter()
    trained = wl.ensemble(
        STUDENT, students, fresh=imitation(own, 256), per_member=True, steps=adam, lr=0.01, schedule="cosine"
    )
    lines.append(
        f"| Adam, {adam} steps of 256 | {time.perf_counter() - start:.1f} | loss {np.median(trained.losses[-1]):.1e} |"
    )
    exact = own.to(torch.float64)
    x, fresh = (
        torch.rand(rows, 10, generator=torch.Generator().manual_seed(rows), dtype=torch.float64) * 2 - 1
        for rows in (1024, 5000)
    )
    start = time.perf_counter()
    polished = wl.polish(trained, x, exact(x), steps=polish)
    error = ((polished.stack(fresh) - exact(fresh)) ** 2).mean((1, 2)).numpy()
    zero = error < 1e-12
    lines.append(
        f"| Levenberg-Marquardt, {polish} steps | {time.perf_counter() - start:.1f} | {zero.mean():.0%} at zero loss |"
    )
    start = time.perf_counter()
    wiring = wl.trace(STUDENT(), torch.zeros(1, 10))
    distances = []
    for i in range(students):
        a, b = ({k: v.numpy() for k, v in s.state(i).items()} for s in (exact, polished.stack))
        result = wl.align(a, b, wiring=wiring)
        distances.append((result.distance_before, result.distance_after))
    raw, aligned = np.array(distances).T
    text = f"of these: raw distance {np.median(raw[zero]):.2f}, aligned {np.median(aligned[zero]):.1e}, "
    text += f"aligned < 1e-3: {int((aligned[zero] < 1e-3).sum())} of {int(zero.sum())}"
    lines.append(f"| alignment | {time.perf_counter() - start:.1f} | {text} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--students", type=int, default=96)
    parser.add_argument("--adam", type=int, default=6000)
    parser.add_argument("--polish", type=int, default=400)
    arguments = parser.parse_args()
    facts = f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}, "
    facts += f"weightlapse {wl.__version__}"
    lines = [f"# {arguments.students} students of a 10-8-8-1 teacher, to the end", "", facts, ""]
    lines += to_the_end(arguments.students, arguments.adam, arguments.polish)
    text = "\n".join(lines) + "\n"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "polish.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

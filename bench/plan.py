"""How much smaller does a recording become, by what is recorded, its dtype, the steps between frames and the tolerance?

What ``weightlapse plan`` foretells rests on these ratios. Raw bytes over all bytes of the folder, of 64 frames of real trainings from their
beginning: the digits MLP and CNN and a GPT of two layers of width 192, of ``trajectories.py``. One frame alone is what every time block begins with.

    python bench/plan.py [--names mlp_adam,mlp_sgd,mlp_adam_f64,mlp_adam_f16,cnn,gpt,gpt_bf16]

Rows of trainings that are not named stay as they were measured before.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trajectories
from stores import folder_nbytes, fresh, machine, table
from torch import nn
from trajectories import CACHE

import weightlapse as wl
from weightlapse.adapters.arrays import Patterns
from weightlapse.capture.rates import compress, moving

RESULT = Path(__file__).parent / "results" / "plan.md"
NAMES = ("mlp_adam", "mlp_sgd", "mlp_adam_f64", "mlp_adam_f16", "cnn", "gpt", "gpt_bf16")
FRAMES = 64
TOLERANCES = (None, 1e-3, 1e-2)
Frame = dict[str, Any]


def train(name: str) -> Iterator[dict[str, Frame]]:
    """A training as its frames without end, by stream: what the network, its gradients and its optimizer hold after each step."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if name.startswith("gpt"):
        trajectories._GPT.__init__.__defaults__ = (192, 2, 128)
    held: list[torch.optim.Optimizer] = []
    real = torch.optim.Optimizer.__init__

    def remember(self: torch.optim.Optimizer, *args: Any, **more: Any) -> None:
        real(self, *args, **more)
        held.append(self)

    torch.optim.Optimizer.__init__ = remember  # type: ignore[method-assign]
    try:
        make = {"mlp": trajectories._mlp, "cnn": trajectories._cnn, "gpt": trajectories._gpt}[name.split("_")[0]]
        model, update, _ = make(name.removesuffix("_f64").removesuffix("_f16"))
        if name.endswith("f64"):
            model.double().register_forward_pre_hook(lambda _, given: (given[0].double(),))
    finally:
        torch.optim.Optimizer.__init__ = real  # type: ignore[method-assign]
    step = 0
    while True:
        frames = frame_of(model, held[0])
        if name.endswith("f16"):  # trained in float32, recorded as the float16 that the forward pass uses
            frames["weights"] = {n: value.astype(np.float16) for n, value in frames["weights"].items()}
        yield frames
        update(step)
        step += 1


def array(tensor: torch.Tensor) -> Any:
    tensor = tensor.detach().clone()
    return (
        Patterns(tensor.view(torch.int16).numpy().view("u2"), "bfloat16")
        if tensor.dtype is torch.bfloat16
        else tensor.numpy()
    )


def frame_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Frame]:
    found: dict[str, Frame] = {"weights": {}, "gradients": {}, "optimizer": {}}
    for name, p in model.named_parameters():
        found["weights"][name] = array(p)
        if p.grad is not None:
            found["gradients"][name] = array(p.grad)
        for key, value in optimizer.state.get(p, {}).items():
            found["optimizer"][f"{name}.{key}"] = array(value)
    return found


def nbytes(value: Any) -> int:
    return int(value.patterns.nbytes if isinstance(value, Patterns) else value.nbytes)


def ratio(frames: list[Frame], tolerance: float | None) -> float:
    path = fresh(CACHE / "scratch" / "plan")
    with wl.watch(frames[0], path, tolerance=tolerance, compact="after", memory="1GB") as rec:
        for frame in frames[1:]:
            rec.step(frame)
    raw = sum(nbytes(value) for frame in frames for value in frame.values())
    stored = folder_nbytes(path)
    fresh(path)
    return raw / stored


def rows_of(name: str) -> list[list[str]]:
    strides = (1, 10, 100) if name.startswith("mlp") else (1, 10)
    wanted = {k: [k * i + 1 for i in range(FRAMES)] for k in strides}
    kept: dict[int, dict[str, Frame]] = {}
    for step, frame in enumerate(train(name)):
        if any(step in steps for steps in wanted.values()):
            kept[step] = frame
        if step > max(max(steps) for steps in wanted.values()):
            break
    dtype = {"gpt_bf16": "bfloat16", "mlp_adam_f64": "float64", "mlp_adam_f16": "float16"}.get(name, "float32")
    rows = []
    for stream in ("weights", "gradients", "optimizer") if name in ("mlp_adam", "mlp_sgd", "gpt") else ("weights",):
        for k, steps in wanted.items():
            frames = [kept[step][stream] for step in steps]
            found = [ratio(frames, tolerance) for tolerance in TOLERANCES] + [ratio(frames[:1], None)]
            rows.append([name, dtype, stream, str(k), *(f"{r:.2f}" for r in found)])
            print(rows[-1], file=sys.stderr)
    return rows


def encode_row(dtype: str, tolerance: float | None) -> list[str]:
    """How fast one core compresses a chunk and reads it back, by NumPy and by the compiled kernels."""
    patterns = moving(64, 1 << 14, dtype)
    medians = []
    for compiled in (False, True):
        taken = []
        for _ in range(8):  # the first of each compiles
            began = time.thread_time()
            compress(patterns, dtype, tolerance, compiled=compiled)
            taken.append(time.thread_time() - began)
        medians.append(patterns.nbytes / 1e6 / float(np.median(taken[1:])))
    slow, fast = medians
    return [
        dtype,
        "exact" if tolerance is None else f"{tolerance:g}",
        f"{slow:.0f}",
        f"{fast:.0f}",
        f"{fast / slow:.2f}",
    ]


def rows_before(name: str) -> list[list[str]]:
    """The rows of a training that is not asked for now, as they were measured before."""
    text = RESULT.read_text(encoding="utf-8") if RESULT.exists() else ""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [row for row in rows if row[0] == name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", default=",".join(NAMES))
    names = parser.parse_args().names.split(",")
    rows = [row for name in NAMES for row in (rows_of(name) if name in names else rows_before(name))]
    speeds = [encode_row(dtype, tolerance) for dtype in ("float32", "bfloat16") for tolerance in (None, 1e-2)]
    head = ["training", "dtype", "stream", "steps between frames", "exact", "0.001", "0.01", "one frame, exact"]
    intro = __doc__.split("\n\n")
    text = ["# Ratios by stream, dtype, distance and tolerance", "", machine(), "", table(head, rows), "", intro[1], ""]
    head = ["encoded and checked, MB/s of one core", "tolerance", "NumPy", "compiled", "faster by"]
    text += ["64 frames of 16 384 weights that move like Adam's, medians of CPU time:", "", table(head, speeds)]
    print("\n".join(text))
    RESULT.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

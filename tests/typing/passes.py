"""A user's script that a type checker passes in its strictest mode: every result has a type, and each type has a public name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

import weightlapse as wl


def record(model: torch.nn.Module, optimizer: torch.optim.Optimizer, where: Path) -> Path:
    with wl.watch(model, where, optimizer=optimizer, every=wl.every(10), tolerance="film", memory="64MB") as rec:
        optimizer.step()
        rec.log(loss=0.5)
        rec.mark("done")
        frames: int = rec.frames
    assert frames >= 0
    return where


def read(where: Path) -> NDArray[np.float64]:
    run: wl.Recording = wl.load(where)
    track: wl.Track = run["fc1.weight"]
    one: dict[str, NDArray[np.generic]] = run.state(step=500)
    wiring: wl.Wiring | None = run.wiring
    groups: list[wl.Group] = [] if wiring is None else list(wiring.groups)
    names: list[str] = [member.tensor for group in groups for member in group.members]
    norms: dict[str, NDArray[np.float64]] = wl.measure(run, "norm", by="layer")
    several: dict[str, dict[str, NDArray[np.float64]]] = wl.measure(run, ["norm", "mean"])
    findings: list[wl.Finding] = wl.diagnose(run)
    kinds: list[str] = [finding.kind for finding in findings]
    axes: Axes = wl.plot.lines(run, "fc1.weight", most=8)
    axes.set_title(", ".join([*kinds, *names, *one, *several, str(track.shape)]))
    film: wl.Film = wl.make_film(run, out="out.mp4", fps=24, size=(1280, 720), frames=[0, 5, -1])
    wl.measure(where, "norm", frames=range(0, 10, 2))
    wl.diagnose(str(where), frames=3)
    run.export("npz", out=where / "run.npz")
    assert film
    return norms["fc1"]


def written(task: torch.nn.Module, run: wl.Recording) -> list[str]:
    net: wl.HyperNetwork = wl.HyperNetwork(task, (8,))
    same: wl.Lift = net
    history: wl.History = wl.fit_lift(same, torch.zeros(4, 3), torch.zeros(4, 1))
    stretches: list[wl.LayoutStretch] = run.layouts
    spans: list[wl.LayoutSpan] = [*stretches]
    return [str(len(history.loss)), *(span.note for span in spans)]


def judge(a: torch.nn.Module, b: torch.nn.Module, x: torch.Tensor, where_it_lies: Path) -> str:
    wiring: wl.Wiring = wl.trace(a, x)
    found: wl.Alignment = wl.align(a, b, wiring=wiring)
    result: wl.Comparison = wl.compare(a, b, wiring=wiring, data=x)
    grown: wl.Growth = wl.widen(a, {"fc1": 256}, example=x, split="equal", seed=None)
    kept: torch.nn.Sequential = wl.narrow(torch.nn.Sequential(), x).model
    kept.append(wl.deepen(kept, example=x, after="0", kind="residual").model[0])
    state: dict[str, object] = wl.permute(a.state_dict(), wiring, group="fc1", order=[1, 0])
    wl.align_all([a, state], data=x, seed=None)
    wl.canonical(where_it_lies)
    difference: wl.Diff = wl.diff(a, b)
    changed: list[str] = [name for name, tensor in difference.tensors.items() if tensor.status == "changed"]
    after: float = found.distance_after
    planned: wl.Plan = wl.plan(a, every=10)
    try:
        wl.deepen(grown.model, after="fc1")
    except wl.CannotGrow as error:
        return str(error)
    return f"{result.verdict} {after:.3f} {changed} {planned.frame_nbytes}"

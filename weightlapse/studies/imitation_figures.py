"""The figures of the imitation study; they only draw what was computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.studies.results import Results
from weightlapse.symmetry.align import align


def draw(results: Results, run_a: Any, run_b: Any, curves: NDArray[np.float64], wiring: Any) -> None:
    """All figures of the study into ``results``; ``curves`` (steps, 4): step, loss, raw distance, aligned distance."""
    import matplotlib.pyplot as plt

    results.figure(
        "panels",
        _panels(run_a, run_b, wiring),
        "The three weight matrices at the end (rows are units).",
    )

    figure, axes = plt.subplots(figsize=(9.2, 4.4))
    polishing, steps = results.facts["polishing_from_step"], curves[:, 0]
    borders = [0, 50, polishing, steps[-1]]  # every phase gets a third of the picture
    place = np.interp(steps, borders, range(4))
    for i, (label, colour) in enumerate(
        (("loss", "#666666"), ("raw distance", "#d55e00"), ("aligned distance", "#0072b2")), start=1
    ):
        axes.plot(place, np.maximum(curves[:, i], 1e-33), color=colour, lw=2, label=label)
    for phase, label in enumerate(
        ("the document stops after 50 steps", "Adam, to a learning rate of zero", "second-order polishing")
    ):
        axes.axvspan(phase, phase + 1, color="#0072b2", alpha=0.05 * phase, lw=0)
        axes.annotate(label, (phase + 0.5, 30), ha="center", fontsize=9, annotation_clip=False)
    marks = np.interp(np.linspace(0, 3, 13), range(4), borders)
    axes.set_xticks(np.linspace(0, 3, 13), [f"{m:.0f}" for m in marks])
    axes.set(
        yscale="log",
        xlabel="step (time runs at its own pace in each phase)",
        ylabel="loss and relative distance",
        xlim=(0, 3),
    )
    axes.legend(frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    results.figure(
        "distances",
        figure,
        "One student from its first step to its last.",
    )

    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    loss, near = (
        np.asarray(results.values[k]["samples"], dtype=np.float64) for k in ("student_loss", "student_aligned_distance")
    )
    raw = np.asarray(results.values["student_raw_distance"]["samples"], dtype=np.float64)
    axes.scatter(np.maximum(loss, 1e-33), raw, s=26, color="#d55e00", alpha=0.8, lw=0, label="as they are")
    axes.scatter(
        np.maximum(loss, 1e-33), np.maximum(near, 1e-16), s=26, color="#0072b2", alpha=0.8, lw=0, label="aligned"
    )
    axes.set(
        xscale="log", yscale="log", xlabel="error on fresh inputs", ylabel="relative distance to the teacher's weights"
    )
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    results.figure(
        "students",
        figure,
        "One dot per student: error against distance to the teacher's weights, as they are and aligned.",
    )


def _panels(run_a: Any, run_b: Any, wiring: Any) -> Any:
    import matplotlib.pyplot as plt

    a, b = run_a.state(frame=-1), run_b.state(frame=-1)
    near = align(a, b, wiring).state
    names = [n for n in a if np.ndim(a[n]) == 2]
    limit = max(float(np.abs(s[n]).max()) for s in (a, b) for n in names)
    columns = {"A": a, "B": b, "B aligned": near, "A - B aligned": {n: a[n] - near[n] for n in names}}
    heights = [a[n].shape[0] for n in names]
    figure, panels = plt.subplots(
        len(names), 4, figsize=(11, 5.2), gridspec_kw={"height_ratios": heights, "hspace": 0.15, "wspace": 0.08}
    )
    for i, name in enumerate(names):
        for axes, (title, state) in zip(panels[i], columns.items()):
            image = axes.imshow(state[name], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
            axes.set(xticks=[], yticks=[])
            if i == 0:
                axes.set_title(title, fontsize=11)
        panels[i, 0].set_ylabel(f"layer {i + 1}", fontsize=9)
    figure.colorbar(image, ax=panels, shrink=0.8, pad=0.02)
    return figure

"""The figures of the mass study; they only draw what was computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from weightlapse.studies.mass_rules import RULES
from weightlapse.studies.results import Results

COLOURS = {
    "adam": "#d55e00", "adamw": "#e69f00", "gd": "#0072b2", "momentum": "#56b4e9", "adam_eps": "#8c510a", "adam_shared": "#000000", "rmsprop": "#b8860b",
    "adagrad": "#999999", "l1": "#009e73", "eg": "#cc79a7",
}  # fmt: skip


def draw(results: Results, runs: dict[str, Any], curved: Any, bent: Any) -> None:
    """All figures of the study into ``results``; ``runs``: what each rule has made of the same data, by its name."""
    import matplotlib.pyplot as plt

    steps = np.asarray(results.curves["share_adam"]["steps"])

    figure, axes = plt.subplots(figsize=(7.6, 3.8))
    for name in ("adam", "gd", "adamw"):
        costs, colour = runs[name].costs, COLOURS[name]
        axes.plot(steps, np.median(costs, axis=1), color=colour, lw=2, label=RULES[name].words)
        axes.fill_between(steps, costs.min(axis=1), costs.max(axis=1), color=colour, alpha=0.12, lw=0)
    axes.set(yscale="log", xlabel="step", ylabel="cost (nats)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    results.figure(
        "cost",
        figure,
        "The cost, median and range over seeds. The data can be separated: there is no minimum to reach.",
    )

    figure, panels = plt.subplots(1, 2, figsize=(10.5, 4), sharey=True)
    for axes, name in zip(panels, ("adam", "gd")):
        w = runs[name].weights[1:, 0]
        axes.plot(steps, w[:, 2:], color="#aaaaaa", lw=1)
        axes.plot(steps, w[:, 2:].mean(axis=1), color="black", lw=1.6, ls="--", label="average of the rest")
        axes.plot(steps, w[:, 1], color="#009e73", lw=2, label="w2: large input, no meaning")
        axes.plot(steps, w[:, 0], color="#d55e00", lw=2.4, label="w1: the input that decides")
        axes.set(xlabel="step", title=RULES[name].words)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("weight")
    panels[1].legend(frameon=False, fontsize=9, loc="upper left")
    results.figure(
        "weights",
        figure,
        "Every weight of one seed, in grey those of the noise, under Adam and under gradient descent.",
    )

    figure, axes = plt.subplots(figsize=(7.8, 4.2))
    for name, r in runs.items():
        share = r.share[1:]
        axes.plot(steps, np.median(share, axis=1), color=COLOURS[name], lw=2.2, label=RULES[name].words)
        axes.fill_between(steps, share.min(axis=1), share.max(axis=1), color=COLOURS[name], alpha=0.1, lw=0)
    axes.axhline(1 / 15, color="black", ls=":", lw=1, label="an equal share")
    axes.set(xlabel="step", ylabel="share of the mass on w1", ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    results.figure(
        "mass",
        figure,
        "The share of sum |w| that the deciding weight holds, by rule, median and range over seeds.",
    )

    figure, axes = plt.subplots(figsize=(7.6, 4.2))
    for name in RULES:
        share = results.values["share_end" if name == "adam" else f"{name}_share_end"]["samples"]
        axes.scatter(
            runs[name].amplification, share, s=16, color=COLOURS[name], lw=0, alpha=0.8, label=RULES[name].words
        )
    axes.axhline(1 / 15, color="black", ls=":", lw=1)
    axes.set(
        xscale="log",
        xlabel="how much of its gradient a noise weight receives, over what w1 receives",
        ylabel="share of the mass on w1 at the end",
    )
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    results.figure(
        "why", figure, "Amplification of the noise against the share that w1 ends with, one dot per seed and rule."
    )

    figure, axes = plt.subplots(figsize=(6, 5.2))
    x, y = curved.x[0].numpy(), curved.y[0, :, 0].numpy() > 0.5
    axes.scatter(x[y, 0], x[y, 1], s=9, color="#0072b2", alpha=0.7, lw=0, label="class 1")
    axes.scatter(x[~y, 0], x[~y, 1], s=9, color="#e69f00", alpha=0.7, lw=0, label="class 0")
    height = np.linspace(-30, 30, 400)
    axes.plot(-4.2 * np.sin(height), height, color="black", lw=1.2, label="true boundary")
    w, b = bent.end[0], bent.end_bias[0]
    axes.plot(-(w[1] * height + b) / w[0], height, color="#d55e00", lw=2, label="the neuron's decision")
    axes.set(xlabel="x1", ylabel="x2", xlim=(-30, 30), ylim=(-30, 30))
    axes.legend(frameon=True, fontsize=8, loc="upper right")
    results.figure(
        "boundary", figure, "The boundary x1 + 4.2 sin(x2) = 0 and the straight line that one neuron can draw."
    )

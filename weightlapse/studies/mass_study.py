"""Study: which weights of a shallow network carry the mass, and does training move the mass to the weight that matters?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weightlapse.capture.watch import watch
from weightlapse.ensembles.ensemble import ensemble
from weightlapse.ensembles.stack import Stack
from weightlapse.film.movie import make_film
from weightlapse.measures.measure import measure
from weightlapse.recording.recording import load
from weightlapse.studies.mass_figures import draw
from weightlapse.studies.mass_rules import RULES, run_rules
from weightlapse.studies.mass_verdict import judge
from weightlapse.studies.results import Results

Array = NDArray[np.float64]
SEEDS = {False: 24, True: 6}
INPUTS, NOISE, STEPS, EVERY = 15, 0.01, 30_000, 40
NONLINEAR_ROWS, NONLINEAR_STEPS = 800, 10_000
FRAMES = STEPS // EVERY
REST = slice(2, INPUTS)
GROUPS = {"w1, decides": [0], "w2, large but idle": [1], "13 noise weights": range(2, INPUTS)}


@dataclass(frozen=True)
class Data:
    """(seeds, rows, 15) inputs and (seeds, rows, 1) labels in {0, 1}, for training and test."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


@dataclass(frozen=True)
class Run:
    """Neurons trained by one rule. ``costs`` (frames, seeds) before the updates 1, 41, ...; ``weights`` (frames + 1, seeds, 15) and ``biases``: the start, then
    after those updates; ``scale`` (frames, seeds, 15): what a gradient was multiplied with; ``end`` (seeds, 15) and ``end_bias`` (seeds,) after the last step."""

    costs: Array
    weights: Array
    biases: Array
    scale: Array
    end: Array
    end_bias: Array

    @property
    def share(self) -> Array:
        """(frames + 1, seeds) mass share of the first weight."""
        size = np.abs(self.weights)
        return size[..., 0] / size.sum(axis=-1)

    @property
    def amplification(self) -> Array:
        """(seeds,) how many times more of its gradient a noise weight receives than the first weight, the geometric mean over training."""
        ratio = np.log(self.scale[..., REST]).mean(axis=-1) - np.log(self.scale[..., 0])
        return np.asarray(np.exp(ratio.mean(axis=0)))


def linear(x: Array) -> NDArray[np.bool_]:
    """(rows,) class of each row: the first input decides."""
    return np.asarray(x[:, 0] >= 0)


def nonlinear(x: Array) -> NDArray[np.bool_]:
    """(rows,) class of each row on either side of x1 + 4.2 sin(x2) = 0."""
    return np.asarray(x[:, 0] + 4.2 * np.sin(x[:, 1]) >= 0)


def make_data(seeds: int, boundary: Any, rows: int, parts: tuple[float, ...] = (0.8,)) -> list[tuple[Tensor, Tensor]]:
    """Two inputs of size 10 and 13 of size 0.01; a stratified split by ``parts``, the rest last. One (x, y) pair per part."""
    split: list[list[tuple[Array, Array]]] = []
    for seed in range(seeds):
        rng = np.random.default_rng((4, seed))
        x = rng.standard_normal((rows, INPUTS)) * np.where(np.arange(INPUTS) < 2, 10.0, NOISE)
        y = boundary(x)
        order = [rng.permutation(np.flatnonzero(y == label)) for label in (False, True)]
        cuts = [np.round(np.cumsum(parts) * len(o)).astype(int) for o in order]
        chunks = [np.concatenate(pair) for pair in zip(*(np.split(o, c) for o, c in zip(order, cuts)))]
        split.append([(x[c], y[c, None].astype(np.float64)) for c in chunks])
    size = [
        min(len(s[i][0]) for s in split) for i in range(len(parts) + 1)
    ]  # classes round differently: a row less for some seeds
    return [
        (torch.tensor(np.stack([s[i][0][: size[i]] for s in split]), dtype=torch.float32), torch.tensor(np.stack([s[i][1][: size[i]] for s in split]), dtype=torch.float32))
        for i in range(len(parts) + 1)
    ]  # fmt: skip


def data_of(seeds: int, boundary: Any, rows: int) -> Data:
    """Training and test rows, four to one, for every seed."""
    (x, y), (x_test, y_test) = make_data(seeds, boundary, rows)
    return Data(x, y, x_test, y_test)


def neuron(seed: int = 0) -> nn.Module:
    """One logistic neuron: Glorot-uniform weights (limit 0.612), zero bias."""
    layer = nn.Linear(INPUTS, 1)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def train(data: Data, rules: Sequence[str], steps: int) -> dict[str, Run]:
    """Every seed by every rule, full batch, from the same start."""
    start = Stack.make(neuron, len(data.x)).theta
    frames: list[tuple[Array, Array, Array]] = []

    def keep(_step: int, w: Tensor, costs: Tensor, scale: Tensor) -> None:
        frames.append((w.double().numpy().copy(), costs.double().numpy(), scale[..., :-1].double().numpy().copy()))

    end = run_rules([RULES[r] for r in rules], data.x, data.y, start, steps, EVERY, keep).double().numpy()
    weights, costs, scale = (np.stack(part) for part in zip(*frames))
    first = start.double().numpy()[None]
    return {
        name: Run(
            costs[..., i],
            np.concatenate([first, weights[:, :, i]])[..., :-1],
            np.concatenate([first, weights[:, :, i]])[..., -1],
            scale[:, :, i],
            end[:, i, :-1],
            end[:, i, -1],
        )
        for i, name in enumerate(rules)
    }


def logits(x: Tensor, w: Array, b: Array) -> Array:
    """(seeds, rows) of the neurons w (seeds, 15), b (seeds,) on x (seeds, rows, 15)."""
    return np.asarray(np.matmul(x.double().numpy(), w[..., None])[..., 0] + b[:, None])


def accuracy(x: Tensor, y: Tensor, w: Array, b: Array, threshold: Any = 0.5) -> Array:
    """(seeds,) share of rows whose probability is on the right side of ``threshold`` (a number or one per seed); at it counts as 1."""
    probability = 1 / (1 + np.exp(-logits(x, w, b)))
    return np.asarray(
        ((probability >= np.broadcast_to(threshold, len(w))[:, None]) == (y[..., 0].numpy() > 0.5)).mean(axis=1)
    )


def study(out: Path, quick: bool) -> Results:
    """Run the study into ``out``."""
    results = Results(
        "mass",
        "Which weights carry the mass?",
        "A neuron has fifteen inputs; only the first decides. The document sees the informative weight separate from the rest and concludes that training "
        "shuffles mass to it. Does it?",
        quick,
        out,
        seeds=SEEDS[quick],
        recipe="run = wl.load('run')\n"
        "wl.measure(run, 'mass', tensors='fc1.weight', groups={'mine': [0], 'rest': range(1, 15)})   # shares over time\n"
        "wl.measure(run, 'transport')                                                              # how much mass moves per frame",
    )
    data = data_of(results.seeds, linear, 1000)
    runs = train(data, tuple(RULES), STEPS)
    curved = data_of(results.seeds, nonlinear, NONLINEAR_ROWS)
    bent = train(curved, ("adam",), NONLINEAR_STEPS)["adam"]
    _values(results, data, runs, curved, bent)
    _facts(results, runs)
    _thresholds(results)
    _deeper(results, data)
    _record(results, runs)
    draw(results, runs, curved, bent)
    judge(results)
    return results


def _values(results: Results, data: Data, runs: dict[str, Run], curved: Data, bent: Run) -> None:
    adam, gd = runs["adam"], runs["gd"]
    value = results.value
    value("cost_0", adam.costs[0], "nats", "Cost before the first update", 4.33)
    value("cost_10000", adam.costs[10_000 // EVERY], "nats", "Cost at step 10 000", 0.184)
    value("cost_end", adam.costs[-1], "nats", "Cost at step 29 960", 0.0351)
    value(
        "accuracy_train",
        accuracy(data.x, data.y, adam.end, adam.end_bias),
        "fraction",
        "Training accuracy at threshold 0.5",
        1.0,
    )
    value(
        "accuracy_test",
        accuracy(data.x_test, data.y_test, adam.end, adam.end_bias),
        "fraction",
        "Test accuracy at threshold 0.5",
        0.995,
    )
    value("w1_end", adam.end[:, 0], "weight", "The weight that matters, at the end")
    value("w2_end", adam.end[:, 1], "weight", "The weight of the second large input, at the end", 0.0)
    value("w2_over_w1", np.abs(adam.end[:, 1] / adam.end[:, 0]), "ratio", "|w2 / w1| at the end")
    rest, start = adam.end[:, REST], adam.weights[0, :, REST]
    value(
        "rest_mean_change",
        rest.mean(axis=1) - start.mean(axis=1),
        "weight",
        "Change of the mean of the 13 noise weights",
    )
    value("rest_abs_start", np.abs(start).mean(axis=1), "weight", "Mean size of the noise weights at the start")
    value("rest_abs_end", np.abs(rest).mean(axis=1), "weight", "Mean size of the noise weights at the end")
    value(
        "rest_max_over_w1",
        np.abs(rest).max(axis=1) / adam.end[:, 0],
        "ratio",
        "Largest noise weight over w1 at the end",
    )
    value("share_start", adam.share[0], "fraction", "Mass share of w1 at the start")
    value("share_end", adam.share[-1], "fraction", "Mass share of w1 at the end")
    value("gd_cost_end", gd.costs[-1], "nats", "Gradient descent: cost at step 29 960")
    value("gd_w1_end", gd.end[:, 0], "weight", "Gradient descent: w1 at the end")
    for name, r in runs.items():
        words = RULES[name].words
        if name != "adam":
            value(
                f"{name}_rest_max_over_w1",
                np.abs(r.end[:, REST]).max(axis=1) / np.abs(r.end[:, 0]),
                "ratio",
                f"{words}: largest noise weight over w1",
            )
            value(f"{name}_share_end", r.share[-1], "fraction", f"{words}: mass share of w1 at the end")
            value(
                f"{name}_accuracy_test",
                accuracy(data.x_test, data.y_test, r.end, r.end_bias),
                "fraction",
                f"{words}: test accuracy",
            )
        value(
            f"{name}_amplification", r.amplification, "ratio", f"{words}: how many times more of its gradient a noise weight receives than w1, mean over training"
        )  # fmt: skip
    value(
        "nl_accuracy_train",
        accuracy(curved.x, curved.y, bent.end, bent.end_bias),
        "fraction",
        "Boundary x1 + 4.2 sin(x2): training accuracy",
        0.8906,
    )
    value(
        "nl_accuracy_test",
        accuracy(curved.x_test, curved.y_test, bent.end, bent.end_bias),
        "fraction",
        "The same: test accuracy",
        0.85,
    )
    value("nl_cost_9000", bent.costs[9000 // EVERY], "nats", "The same: cost at step 9000", 0.2210)
    value("nl_w1_end", bent.end[:, 0], "weight", "The same: w1 at the end")
    value("nl_w2_end", bent.end[:, 1], "weight", "The same: w2 at the end")
    for name, r in runs.items():
        results.curve(f"share_{name}", range(1, STEPS, EVERY), r.share[1:].T)


def _facts(results: Results, runs: dict[str, Run]) -> None:
    change = np.asarray(results.values["rest_mean_change"]["samples"])
    adam = runs["adam"]
    silent = adam.end.copy()
    silent[:, REST] = 0
    data = data_of(results.seeds, linear, 1000)
    results.facts |= {
        "optimizers": list(runs),
        "frames": FRAMES,
        "boundaries": ["linear", "nonlinear"],
        "rest_falls": int((change < 0).sum()),
        "rest_drift_over_limit": float(
            np.median(np.abs(adam.end - adam.weights[0])[:, REST]) / (STEPS * RULES["adam"].lr)
        ),
        "accuracy_without_rest": float(np.median(accuracy(data.x_test, data.y_test, silent, adam.end_bias))),
    }


def _thresholds(results: Results) -> None:
    """Three parts: train, choose the threshold on the second, report on the third; and the area under the ROC curve."""
    (x, y), (x_choose, y_choose), (x_test, y_test) = make_data(results.seeds, nonlinear, 1000, (0.6, 0.2))
    run = train(Data(x, y, x_test, y_test), ("adam",), NONLINEAR_STEPS // (10 if results.quick else 1))["adam"]
    grid = np.linspace(0.05, 0.95, 91)
    best = grid[np.argmax([accuracy(x_choose, y_choose, run.end, run.end_bias, t) for t in grid], axis=0)]
    results.value(
        "eta_chosen", best, "fraction", "Three-way split: threshold with the best accuracy on the second part"
    )
    results.value(
        "eta_accuracy_chosen",
        accuracy(x_test, y_test, run.end, run.end_bias, best),
        "fraction",
        "Three-way split: accuracy on the third part, at it",
    )
    results.value(
        "eta_accuracy_half",
        accuracy(x_test, y_test, run.end, run.end_bias),
        "fraction",
        "Three-way split: the same at threshold 0.5",
    )
    scores, truth = logits(x_test, run.end, run.end_bias), y_test[..., 0].numpy() > 0.5
    area = [float((s[t][:, None] > s[~t][None]).mean()) for s, t in zip(scores, truth)]
    results.value("eta_roc_area", area, "fraction", "Three-way split: area under the ROC curve on the third part")


def _deeper(results: Results, data: Data) -> None:
    """A hidden layer of 16: how much of the first layer's mass sits on the input that decides."""
    ways: tuple[tuple[str, Literal["sgd", "adam"], float], ...] = (("gd", "sgd", 0.05), ("adam", "adam", 1e-3))
    for name, optimizer, lr in ways:
        done = ensemble(
            lambda: nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh(), nn.Linear(16, 1)),
            len(data.x),
            data.x,
            data.y,
            steps=300 if results.quick else 3000,
            loss="bce",
            optimizer=optimizer,
            lr=lr,
        )
        size = np.abs(done.states["0.weight"].numpy().astype(np.float64)).sum(axis=1)
        results.value(
            f"hidden_{name}_share",
            size[:, 0] / size.sum(axis=1),
            "fraction",
            f"Network 15-16-1, {name}: share of the first layer's mass on the input that decides",
        )


def _record(results: Results, runs: dict[str, Run]) -> None:
    """The first seed of every rule as a recording, the film of the document's rule, and the mass moved, measured on the recordings."""
    moved = {}
    for name, r in runs.items():
        path = results.out / ("recording" if name == "adam" else f"recording-{name}")
        start = {"weight": r.weights[0, 0], "bias": r.biases[0, :1]}
        with watch(start, path, meta={"study": "mass", "optimizer": name}) as recorder:
            for i in range(FRAMES):
                frame = {"weight": r.weights[i + 1, 0], "bias": r.biases[i + 1, :1]}
                recorder.step(frame, step=1 + i * EVERY, loss=float(r.costs[i, 0]))
        moved[name] = float(measure(load(path), "transport", tensors="weight")["weight"].sum())
    film = make_film(
        load(results.out / "recording"),
        results.out / "film.mp4",
        frames=slice(1, None),
        fps=30,
        size=(640, 360) if results.quick else (1280, 720),
        groups={name: {"weight": places} for name, places in GROUPS.items()},
        panels=("groups", "mass:weight"),
        title="Adam: w1 decides (top bar), and thirteen noise weights grow with it",
    )
    results.files |= {"recording": "recording", "film": "film.mp4"}
    results.facts |= {"film_frames": film.frames, "recorded_seed": 0, "mass_moved": moved}

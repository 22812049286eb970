"""Study: a network that looks at the input and writes the weights of the network that answers (x^2 + 2yz)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weightlapse.capture.watch import watch
from weightlapse.film.movie import make_film
from weightlapse.lift.fit import fit_lift
from weightlapse.lift.generators import glorot_
from weightlapse.lift.hypernetwork import Lift
from weightlapse.lift.plain import fit_plain
from weightlapse.progress import track
from weightlapse.recording.recording import load
from weightlapse.studies.lift_verdict import judge
from weightlapse.studies.results import Results, share_within

Rows = NDArray[np.float64]
SAMPLES, EPOCHS, RECORD_EVERY = 10_000, 10, 100
SEEDS = {False: 8, True: 2}
FIRST_SEED = 8  # eight seeds are few: the shares that one sees among eight differ much from block to block ...
MANY = {False: 120, True: 4}  # ... so the spread is also measured over seeds 0 to 119 (facts["many"])
SIZES = {"task": (3, 5, 1), "mlp": (3, 10, 10, 1), "wide": (3, 65, 1), "deep": (3, 15, 15, 1)}
LIFTS: dict[str, dict[str, str]] = {
    "outside": {"rule": "target", "eps": "outside"},
    "inside": {"rule": "target", "eps": "inside"},
    "e2e": {"rule": "end_to_end", "eps": "outside"},
}
NAMES = {
    "outside": "Lift, target rule, epsilon outside", "inside": "Lift, target rule, epsilon inside", "e2e": "Lift, end to end",
    "heldout": "Lift on points kept out of training", "task": "Task alone, 3-5-1", "mlp": "3-10-10-1",
    "wide": "3-65-1, as large as Lift", "deep": "3-15-15-1, as large as Lift",
}  # fmt: skip
COLOURS = {
    "outside": "#0072b2", "inside": "#56b4e9", "e2e": "#009e73", "heldout": "#cc79a7", "task": "#999999", "mlp": "#d55e00", "wide": "#e69f00", "deep": "#b8860b",
}  # fmt: skip
DOCUMENT = {
    "outside_1": 11.75, "task_1": 577.8, "task_10": 125.2, "mlp_1": 300.0, "mlp_10": 12.8,
    "ood_outside_1": 4.50e11, "ood_task_10": 4.31e9, "ood_mlp_10": 4.12e9,
}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Inputs (N, 3) and answers (N, 1): training, test, and inputs far outside."""

    x: Rows
    y: Rows
    x_test: Rows
    y_test: Rows
    x_far: Rows
    y_far: Rows


def answer(x: Rows) -> Rows:
    """x^2 + 2yz of rows (N, 3), as (N, 1)."""
    return (x[:, 0] ** 2 + 2 * x[:, 1] * x[:, 2])[:, None]


def document_data() -> Data:
    """The document's rows, to the bit: ``random.seed(0)`` and ``randrange``."""
    rng = random.Random(0)
    parts = [
        np.array([[rng.randrange(a, b) for _ in range(3)] for _ in range(SAMPLES)], dtype=np.float64)
        for a, b in ((0, 10), (0, 10), (100, 200))
    ]
    x, x_test, x_far = parts
    return Data(x, answer(x), x_test, answer(x_test), x_far, answer(x_far))


def held_out(data: Data, seed: int) -> Data:
    """The same, with a fifth of the 1000 grid points taken out of the training rows; the test rows are those points alone."""
    rng = np.random.default_rng(seed)
    out = np.zeros(1000, dtype=bool)
    out[rng.permutation(1000)[:200]] = True
    place = (data.x @ np.array([100, 10, 1])).astype(int)
    kept = data.x[~out[place]]
    x = np.concatenate([kept, kept[rng.integers(len(kept), size=len(data.x) - len(kept))]])
    x_test = np.stack(np.divmod(np.flatnonzero(out), 100), axis=1)
    x_test = np.column_stack([x_test[:, 0], *np.divmod(x_test[:, 1], 10)]).astype(np.float64)
    return Data(x, answer(x), x_test, answer(x_test), data.x_far, data.y_far)


def dense(*sizes: int) -> nn.Sequential:
    """Dense ReLU layers, linear at the end; Glorot-uniform kernels, zero biases; float64."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).double()
    glorot_(net)
    return net


def new_lift(seed: int) -> Lift:
    """The document's Lift: 3-10-26 writes the weights of 3-5-1; float64."""
    torch.manual_seed(seed)
    return Lift(dense(*SIZES["task"]), (10,)).double()


def error(net: nn.Module, x: Rows, y: Rows) -> float:
    """Mean squared error of ``net`` on rows x (N, 3), y (N, 1)."""
    with torch.no_grad():
        return float(((net(torch.from_numpy(x)).numpy() - y) ** 2).mean())


def train(kind: str, seed: int, data: Data, recording: Path | None = None) -> tuple[Rows, nn.Module]:
    """Train one network for ten epochs; (10, 2) test error in and out of domain after each epoch, and the network; its generator may be recorded."""
    errors: list[tuple[float, float]] = []

    def look(_updates: int, net: nn.Module) -> None:
        errors.append((error(net, data.x_test, data.y_test), error(net, data.x_far, data.y_far)))

    if kind in SIZES:
        torch.manual_seed(seed)
        net: nn.Module = dense(*SIZES[kind])
        fit_plain(net, data.x, data.y, epochs=EPOCHS, seed=seed, callback=look)
    else:
        net = new_lift(seed)
        settings: dict[str, Any] = dict(LIFTS["outside" if kind == "heldout" else kind])
        if recording is None:
            fit_lift(net, data.x, data.y, epochs=EPOCHS, callback=look, callback_every=SAMPLES, **settings)
        else:
            with watch(net.generator, recording, meta={"study": "lift"}) as recorder:
                fit_lift(
                    net,
                    data.x,
                    data.y,
                    epochs=EPOCHS,
                    callback=look,
                    callback_every=SAMPLES,
                    record=recorder,
                    record_every=RECORD_EVERY,
                    **settings,
                )
    return np.asarray(errors), net


def autograd_loop(data: Data, samples: int = 200) -> float:
    """Samples per second of the same updates, written with one plain torch autograd call after the other."""
    net = new_lift(0)
    weights = list(net.generator.parameters())
    moments = [torch.zeros_like(w) for w in weights]
    task_moment = torch.zeros(26, dtype=torch.float64)
    start = time.perf_counter()
    for i in range(samples):
        x, y = torch.from_numpy(data.x[i : i + 1]), torch.from_numpy(data.y[i : i + 1])
        written = net.flat_weights_for(x)
        leaf = written.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(((net.run_with(x, leaf) - y) ** 2).sum(), leaf)
        with torch.no_grad():
            task_moment.mul_(0.9).add_(0.1 * gradient[0] ** 2)
            target = leaf - 0.001 * gradient / (task_moment.sqrt() + 1e-7)
        gradients = torch.autograd.grad(((written - target) ** 2).mean(), weights)
        with torch.no_grad():
            for w, m, g in zip(weights, moments, gradients):
                m.mul_(0.9).add_(0.1 * g**2)
                w -= 0.001 * g / (m.sqrt() + 1e-7)
    return samples / (time.perf_counter() - start)


def study(out: Path, quick: bool) -> Results:
    """Run the study into ``out``."""
    torch.set_num_threads(1)
    results = Results(
        "lift",
        "A network that writes the weights of another",
        "A network looks at the input and writes the weights of the small network that answers. Is it better than a plain network of the same size, "
        "and does it know more outside the data it saw?",
        quick,
        out,
        seeds=SEEDS[quick],
        recipe="net = wl.Lift(your_network)                  # any module; a generator writes its weights for every input\n"
        "history = wl.fit_lift(net, x, y, epochs=10)  # or rule='end_to_end', which is the better rule here\n"
        "net.weights_for(x)                           # the weights that were written, (rows, *shape) each",
    )
    data = document_data()
    errors, nets, degrees = _train_all(results, data)
    _values(results, errors, degrees)
    _facts(results, data)
    run = load(out / "recording")
    results.files["recording"] = "recording"
    stride = max(1, run.frames // (125 if quick else 500))
    film = make_film(
        run,
        out / "film.mp4",
        frames=slice(None, None, stride),
        fps=24,
        size=(640, 360) if quick else (1280, 720),
        title="Lift: the weights of the network that writes weights",
    )
    results.files["film"] = "film.mp4"
    results.facts |= {"recorded_seed": 0, "film_frames": film.frames, "frames": run.frames}
    _figures(results, errors, nets["outside"])
    judge(results)
    return results


def _train_all(results: Results, data: Data) -> tuple[dict[str, Rows], dict[str, nn.Module], dict[str, list[float]]]:
    """{kind: (seeds, epochs, 2)} errors, the first seed's network of each kind, and {kind: [degree of each seed]}."""
    kinds = [*LIFTS, "heldout", *SIZES]
    errors: dict[str, list[Rows]] = {k: [] for k in kinds}
    first: dict[str, nn.Module] = {}
    degrees: dict[str, list[float]] = {k: [] for k in kinds}
    jobs = [(kind, seed) for seed in range(FIRST_SEED, FIRST_SEED + results.seeds) for kind in kinds]
    for kind, seed in track(jobs, "training"):
        path = results.out / "recording" if kind == "outside" and seed == FIRST_SEED else None
        got, net = train(kind, seed, held_out(data, seed) if kind == "heldout" else data, path)
        errors[kind].append(got)
        first.setdefault(kind, net)
        degrees[kind].append(degree(net, np.random.default_rng(seed)))
    return {k: np.stack(v) for k, v in errors.items()}, first, degrees


def degree(net: nn.Module, rng: np.random.Generator) -> float:
    """The power with which the answer of ``net`` grows: the median slope of log |answer| between inputs around 150 and the same ones ten times as large.

    x^2 + 2yz has 2; a ReLU network of fixed weights has 1 at most; weights that are linear in the input, times the input, times weights again would have 3.
    """
    x = torch.from_numpy(rng.uniform(100, 200, (2000, 3)))
    with torch.no_grad():
        near, far = (net(s * x).abs().clamp_min(1e-30).log10() for s in (10.0, 100.0))
    return float((far - near).median())


def _values(results: Results, errors: dict[str, Rows], degrees: dict[str, list[float]]) -> None:
    for kind, e in errors.items():
        for epoch in (1, 10):
            key = f"{kind}_{epoch}"
            results.value(
                key,
                e[:, epoch - 1, 0],
                "mse",
                f"{NAMES[kind]}: test error after {epoch} epoch{'s' * (epoch > 1)}",
                DOCUMENT.get(key),
            )
    for kind in ("outside", "e2e", "task", "mlp"):
        for epoch in (1, 10):
            key = f"ood_{kind}_{epoch}"
            results.value(
                key,
                errors[kind][:, epoch - 1, 1],
                "mse",
                f"{NAMES[kind]}: error on inputs 100 to 199, epoch {epoch}",
                DOCUMENT.get(key),
            )
    equal = {n: np.minimum(errors["wide"][:, n - 1, 0], errors["deep"][:, n - 1, 0]) for n in (1, 10)}
    for epoch, best in equal.items():
        results.value(
            f"equal_{epoch}",
            best,
            "mse",
            f"The better of the two networks as large as Lift, of the same seed: test error, epoch {epoch}",
        )
    for kind in ("outside", "e2e", "task", "mlp"):
        results.value(
            f"degree_{kind}",
            degrees[kind],
            "degree",
            f"{NAMES[kind]}: how fast its answer grows outside the data, as a power of the input",
        )
    for kind, e in errors.items():
        results.curve(kind, range(1, EPOCHS + 1), e[:, :, 0])


def _many(results: Results, data: Data, count: int) -> dict[str, Any]:
    """Test error after one epoch over ``count`` seeds: median, 5 and 95 percent, share of seeds in the usual range; the errors become values."""
    found: dict[str, Any] = {"seeds": count}
    ranges: tuple[tuple[Literal["outside", "inside"], int, int], ...] = (("outside", 9, 20), ("inside", 14, 30))
    for eps, low, high in ranges:
        errors = []
        for seed in range(count):
            net = new_lift(seed)
            fit_lift(net, data.x, data.y, eps=eps, engine="numba")
            errors.append(error(net, data.x_test, data.y_test))
        results.value(f"many_{eps}_1", errors, "mse", f"{NAMES[eps]}: test error after 1 epoch, more seeds")
        p5, median, p95 = np.quantile(errors, [0.05, 0.5, 0.95])
        found[eps] = {
            "median": float(median),
            "p5": float(p5),
            "p95": float(p95),
            f"share_{low}_to_{high}": share_within(errors, low, high),
        }
    return found


def _facts(results: Results, data: Data) -> None:
    size: Callable[[nn.Module], int] = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    lift = new_lift(0)
    history = fit_lift(new_lift(0), data.x, data.y)
    loop = autograd_loop(data)
    seen = {tuple(row) for row in data.x}
    results.facts |= {
        "parameters": {"lift": size(lift.generator)} | {k: size(dense(*s)) for k, s in SIZES.items()},
        "test_rows_in_training": float(np.mean([tuple(row) in seen for row in data.x_test])),
        "first_rows": data.x[:3].astype(int).tolist(),
        "online_samples_per_s": history.samples_per_second,
        "loop_samples_per_s": loop,
        "loop_kind": "torch autograd, one call per sample",
        "online_ratio": history.samples_per_second / loop,
        "first_seed": FIRST_SEED,
        "many": _many(results, data, MANY[results.quick]),
        "mean_square_far": float((data.y_far**2).mean()),
    }


def _figures(results: Results, errors: dict[str, Rows], net: nn.Module) -> None:
    import matplotlib.pyplot as plt

    epochs = np.arange(1, EPOCHS + 1)
    figure, axes = plt.subplots(figsize=(8.4, 4.8))
    for kind, e in errors.items():
        axes.plot(epochs, np.median(e[:, :, 0], axis=0), color=COLOURS[kind], label=NAMES[kind], lw=2)
        axes.fill_between(epochs, e[:, :, 0].min(axis=0), e[:, :, 0].max(axis=0), color=COLOURS[kind], alpha=0.1, lw=0)
    axes.set(yscale="log", xlabel="epochs of 10 000 samples", ylabel="test error (mean square)", xticks=epochs)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    results.figure(
        "errors",
        figure,
        f"Test error against training, median and range of {results.seeds} seeds.",
    )

    figure, axes = plt.subplots(figsize=(8.4, 4.2))
    for kind in ("outside", "e2e", "task", "mlp"):
        e = errors[kind][:, :, 1]
        axes.plot(epochs, np.median(e, axis=0), color=COLOURS[kind], label=NAMES[kind], lw=2)
        axes.fill_between(epochs, e.min(axis=0), e.max(axis=0), color=COLOURS[kind], alpha=0.12, lw=0)
    axes.axhline(results.facts["mean_square_far"], color="black", ls=":", lw=1, label="answering 0")
    axes.set(yscale="log", xlabel="epochs of 10 000 samples", ylabel="error on inputs 100 to 199", xticks=epochs)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    results.figure(
        "ood",
        figure,
        "Error on inputs outside the data, median and range; dotted: what answering 0 to everything would cost.",
    )
    results.figure(
        "generated",
        _generated(net),
        "The 26 weights that Lift writes, each as a map over x and y (0 to 9) at z = 5. Red is positive, blue negative, one scale.",
    )


def _generated(net: nn.Module) -> Any:
    import matplotlib.pyplot as plt

    assert isinstance(net, Lift)
    grid = np.array([[x, y, 5.0] for y in range(10) for x in range(10)])
    with torch.no_grad():
        flat = net.flat_weights_for(torch.from_numpy(grid)).numpy()
    limit = np.abs(flat).max()
    names = [
        f"{'kernel 1' if i < 15 else 'bias 1' if i < 20 else 'kernel 2' if i < 25 else 'bias 2'}" for i in range(26)
    ]
    figure, panels = plt.subplots(3, 9, figsize=(11, 4.2))
    for i, axes in enumerate(panels.flat):
        axes.axis("off")
        if i < flat.shape[1]:
            image = axes.imshow(flat[:, i].reshape(10, 10), cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
            axes.set_title(names[i], fontsize=7, pad=2)
    figure.colorbar(image, ax=panels, shrink=0.7, pad=0.02)
    return figure

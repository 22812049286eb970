"""Study: can a trained network be made wider, or deeper, without forgetting? The document's teacher was dead."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weightlapse.capture.watch import watch
from weightlapse.errors import CannotGrow, VacuousComparison
from weightlapse.film.movie import make_film
from weightlapse.growth.deepen import deepen
from weightlapse.growth.widen import widen
from weightlapse.progress import track
from weightlapse.recording.recording import load
from weightlapse.studies.net2net_digits import digits_part
from weightlapse.studies.referee import Sentence
from weightlapse.studies.results import Results
from weightlapse.symmetry.compare import compare

SEEDS = {False: 20, True: 5}
UNITS, WIDER, BATCH, TEACHER_EPOCHS, STUDENT_EPOCHS = 10, 20, 32, 10, 30
DOCUMENT_RATE, LIVE_RATE = 0.01, 0.05


@dataclass(frozen=True)
class Data:
    """800 rows to train on, 200 to test on; inputs (N, 4), targets (N, 1), float32."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def all(self) -> Tensor:
        """The inputs of both, (1000, 4): where functions are compared."""
        return torch.cat([self.x, self.x_test])


def _split(x: NDArray[np.float64], y: NDArray[np.float64], rng: np.random.Generator) -> Data:
    order = rng.permutation(1000)
    xs, ys = (torch.tensor(v[order], dtype=torch.float32) for v in (x, y))
    return Data(xs[:800], ys[:800], xs[800:], ys[800:])


def document_data(seed: int) -> Data:
    """The document's four columns, all functions of one number, raw; the target is the mean of their cosines plus noise in [0, 0.2)."""
    rng = np.random.default_rng(seed)
    x = np.stack([np.linspace(a, b, 1000) for a, b in ((-10, 10), (21, 78), (1, 2000), (-1000, 12))], axis=1)
    return _split(x, np.cos(x).mean(axis=1, keepdims=True) + rng.uniform(0, 0.2, (1000, 1)), rng)


def live_data(seed: int) -> Data:
    """The same target on four independent columns of unit variance, where a network can live and learn."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1000, 4))
    return _split(x, np.cos(x).mean(axis=1, keepdims=True) + rng.uniform(0, 0.2, (1000, 1)), rng)


def network(units: int, *, hidden: int = 1, bias: bool = True, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """4-units-1, or 4-units-units-1; PyTorch's own initialisation."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(hidden):
        layers[f"fc{i + 1}"] = nn.Linear(4 if i == 0 else units, units, bias=bias)
        layers[f"act{i + 1}"] = act()
    layers["out"] = nn.Linear(units, 1, bias=bias)
    return nn.Sequential(layers)


def loss_on(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The document's test loss: the mean over batches of 32, the last one smaller and counted alike."""
    with torch.no_grad():
        parts = [nn.functional.mse_loss(net(a), b) for a, b in zip(x.split(BATCH), y.split(BATCH))]
    return float(torch.stack(parts).mean())


def live_units(net: nn.Sequential, x: Tensor) -> float:
    """First-layer units that are positive somewhere on ``x``; NaN when the network is NaN."""
    first = net[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        z = first(x)
    return float("nan") if not torch.isfinite(z).all() else float((z > 0).any(dim=0).sum())


def train(
    net: nn.Sequential, data: Data, *, epochs: int, lr: float, seed: int, recorder: Any = None, on_step: Any = None
) -> list[float]:
    """Stochastic gradient descent, batches of 32 reshuffled every epoch; test loss before and after each epoch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    order = torch.Generator().manual_seed(seed)
    losses = [loss_on(net, data.x_test, data.y_test)]
    if recorder is not None:
        recorder = watch(net, recorder, optimizer=optimizer, example=data.x[:8], meta={"study": "net2net"})
    for _ in range(epochs):
        for batch in torch.randperm(len(data.x), generator=order).split(BATCH):
            loss = nn.functional.mse_loss(net(data.x[batch]), data.y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if recorder is not None:
                recorder.log(loss=loss.item())
            if on_step is not None:
                on_step(net)
        losses.append(loss_on(net, data.x_test, data.y_test))
    if recorder is not None:
        recorder.close()
    return losses


def document_rule(teacher: nn.Sequential, student: nn.Sequential, rng: np.random.Generator) -> None:
    """What the document does: incoming rows copied and divided by the number of copies; the output layer left as it is."""
    hidden = [(t, s) for t, s in zip(teacher, student) if isinstance(t, nn.Linear) and isinstance(s, nn.Linear)][:-1]
    for old, new in hidden:
        parent = np.concatenate(
            [np.arange(old.out_features), rng.integers(old.out_features, size=new.out_features - old.out_features)]
        )
        count = np.bincount(parent, minlength=old.out_features)[parent]
        new.weight.data = old.weight.data[parent] / torch.tensor(count, dtype=torch.float32)[:, None]
        if old.bias is not None:
            new.bias.data = old.bias.data[parent] / torch.tensor(count, dtype=torch.float32)


def padded(teacher: nn.Sequential, seed: int) -> nn.Sequential:
    """The usual alternative: the teacher's units kept, the new ones random."""
    torch.manual_seed(seed)
    net = network(WIDER)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            old = teacher.state_dict()[name]
            value[tuple(slice(0, n) for n in old.shape)] = old
    return net


def difference(a: nn.Module, b: nn.Module, data: Data, seed: int) -> float:
    """Largest difference of the outputs on the data and on as many random inputs."""
    torch.manual_seed(seed)
    x = torch.cat([data.all, torch.randn(1000, 4)])
    with torch.no_grad():
        return float((a(x) - b(x)).abs().max())


def study(out: Path, quick: bool) -> Results:
    """Run the study into ``out``."""
    torch.set_num_threads(1)
    results = Results(
        "net2net",
        "Making a trained network wider",
        "Net2Net promises a bigger network that starts exactly where the small one stopped. The document copied the weights, saw the same loss before and "
        "after, 0.1571 = 0.1571, and took it as proof. Was it?",
        quick,
        out,
        seeds=SEEDS[quick],
        recipe="grown = wl.widen(model, {'fc1': 256}, x, optimizer=optimizer)   # any module; exact, or refused with the reason\n"
        "print(grown.certificate)                                        # both networks were run side by side\n"
        "model, optimizer = grown.model, grown.optimizer                 # go on training",
    )
    death = _document_part(results)
    live = _live_part(results)
    digits_part(results)
    run = load(out / "recording")
    results.files["recording"] = "recording"
    stride = max(1, run.frames // (60 if quick else 400))
    film = make_film(
        run,
        out / "film.mp4",
        frames=slice(None, None, stride),
        fps=24,
        size=(640, 360) if quick else (1280, 720),
        title="Widened from 10 to 20 units: copies part",
    )
    results.files["film"] = "film.mp4"
    results.facts |= {
        "recorded_seed": 0,
        "seeds": results.seeds,
        "student_epochs": STUDENT_EPOCHS,
        "film_frames": film.frames,
        "frames": run.frames,
        "units": {"teacher": UNITS, "student": WIDER},
    }
    _figures(results, live, death)
    _judge(results)
    return results


def _document_part(results: Results) -> NDArray[np.float64]:
    """The document's data, rule and rates: the teacher's death, and a comparison that could not fail."""
    keys = ("teacher_before", "teacher_after", "student_before", "student_after", "live_units", "death_step")
    found: dict[str, list[float]] = {k: [] for k in keys}
    curves, refusal, trained_on = [], "", []
    for seed in track(range(results.seeds), "the document's teachers"):
        data = document_data(seed)
        torch.manual_seed(seed)
        teacher = network(UNITS, bias=False)
        student = network(WIDER, bias=False)
        alive: list[float] = [live_units(teacher, data.all)]
        found["student_before"].append(loss_on(student, data.x_test, data.y_test))
        losses = train(
            teacher,
            data,
            epochs=TEACHER_EPOCHS,
            lr=DOCUMENT_RATE,
            seed=seed,
            on_step=lambda n, a=alive, d=data: a.append(live_units(n, d.all)),
        )
        document_rule(teacher, student, np.random.default_rng(seed))
        after = loss_on(student, data.x_test, data.y_test)
        trained_on.append(
            train(student, data, epochs=3 if results.quick else STUDENT_EPOCHS, lr=DOCUMENT_RATE, seed=seed)[-1] - after
        )
        found["teacher_before"].append(losses[0])
        found["teacher_after"].append(losses[-1])
        found["student_after"].append(after)
        found["live_units"].append(alive[-1])
        gone = np.flatnonzero(np.asarray(alive) == 0)
        found["death_step"].append(float(gone[0]) if gone.size else float("nan"))
        curves.append(alive[:21])
        if not refusal:
            try:
                compare(teacher, student, data=data.all)
            except VacuousComparison as error:
                refusal = str(error)
    published = {"teacher_before": 13450.0, "teacher_after": 0.1571, "student_before": 59532.0, "student_after": 0.1571}
    words = {
        "teacher_before": "teacher's test loss before training", "teacher_after": "after its 10 epochs", "student_before": "student's test loss before the transfer",
        "student_after": "after the transfer by the document's rule", "live_units": "teacher units that are ever positive, of 10", "death_step": "step after which all are dead",
    }  # fmt: skip
    for key in keys:
        unit = {"live_units": "units", "death_step": "steps"}.get(key, "mse")
        results.value(f"doc_{key}", found[key], unit, f"Document: {words[key]}", published.get(key))
    dead = sum(1 for units in found["live_units"] if not units > 0)
    results.facts |= {
        "doc_dead": dead, "doc_vacuous": bool(refusal), "doc_refusal": refusal,
        "doc_student_moved_by_training": float(np.nanmax(np.abs(trained_on))),
    }  # fmt: skip
    return np.asarray(curves)


def _live_part(results: Results) -> dict[str, NDArray[np.float64]]:
    """A teacher that lives: the right rule, the document's rule, random padding, from scratch."""
    names = ("live_units", "live_teacher_loss", "widen_error", "widen_error_two_layers", "rule_error", "deepen_error")
    found: dict[str, list[float]] = {n: [] for n in names}
    runs: dict[str, list[list[float]]] = {"widened": [], "scratch": [], "padded": []}
    apart = []
    for seed in track(range(results.seeds), "live teachers and students"):
        data = live_data(seed)
        torch.manual_seed(seed)
        teacher, two = network(UNITS), network(UNITS, hidden=2)
        loss = train(teacher, data, epochs=TEACHER_EPOCHS, lr=LIVE_RATE, seed=seed)[-1]
        train(two, data, epochs=TEACHER_EPOCHS, lr=LIVE_RATE, seed=seed)
        grown = widen(teacher, {"fc1": WIDER}, data.x[:64], seed=seed).model
        both = widen(two, {"fc1": WIDER, "fc2": WIDER}, data.x[:64], seed=seed).model
        deeper = deepen(teacher, data.x[:64], after="fc1", kind="identity").model
        by_rule = network(WIDER)
        document_rule(teacher, by_rule, np.random.default_rng(seed))
        found["live_units"].append(live_units(teacher, data.all))
        found["live_teacher_loss"].append(loss)
        found["widen_error"].append(difference(teacher, grown, data, seed))
        found["widen_error_two_layers"].append(difference(two, both, data, seed))
        found["rule_error"].append(difference(teacher, by_rule, data, seed))
        found["deepen_error"].append(difference(teacher, deeper, data, seed))
        torch.manual_seed(1000 + seed)
        students = {"widened": copy.deepcopy(grown), "scratch": network(WIDER), "padded": padded(teacher, 2000 + seed)}
        for name, net in students.items():
            path = results.out / "recording" if name == "widened" and seed == 0 else None
            runs[name].append(train(net, data, epochs=STUDENT_EPOCHS, lr=LIVE_RATE, seed=3000 + seed, recorder=path))
        apart.append(_replica_distance(students["widened"], grown))
    words = {
        "live_units": ("units", "Live data: teacher units that are ever positive, of 10"), "live_teacher_loss": ("mse", "Live data: test loss of the teacher"),
        "widen_error": ("absolute", "Right rule: largest difference of teacher and widened student"),
        "widen_error_two_layers": ("absolute", "Right rule, two hidden layers, both widened"),
        "rule_error": ("absolute", "Document's rule on a live teacher: largest difference"),
        "deepen_error": ("absolute", "One identity layer more after ReLU: largest difference"),
    }  # fmt: skip
    for name, (unit, meaning) in words.items():
        results.value(name, found[name], unit, meaning)
    curves = {k: np.asarray(v) for k, v in runs.items()}
    labels = {
        "widened": "widened by the right rule",
        "scratch": "of the same size, from scratch",
        "padded": "the teacher's units and random new ones",
    }
    for name, c in curves.items():
        results.value(f"{name}_start", c[:, 0], "mse", f"Student {labels[name]}: test loss before training")
        results.value(f"{name}_end", c[:, -1], "mse", f"Student {labels[name]}: after 30 epochs")
        results.curve(name, range(STUDENT_EPOCHS + 1), c)
    results.facts |= {
        "replicas_apart_after_training": float(np.median(apart)), "rule_two_layers": _rule_on_two_layers(), "deepen_tanh_refused": _tanh_is_refused(),
    }  # fmt: skip
    return curves


def _replica_distance(trained: nn.Module, start: nn.Module) -> float:
    """Median distance, after training, of units that were copies of each other at the start, over the size of a unit."""
    before, after = (m.state_dict()["fc1.weight"] for m in (start, trained))
    pairs = [(i, j) for i in range(WIDER) for j in range(i) if torch.equal(before[i], before[j])]
    return float(np.median([float((after[i] - after[j]).norm() / after[i].norm()) for i, j in pairs]))


def _rule_on_two_layers() -> str:
    """What the document's rule does when two hidden layers are widened: the message of its error."""
    torch.manual_seed(0)
    teacher, student = network(UNITS, hidden=2, bias=False), network(WIDER, hidden=2, bias=False)
    document_rule(teacher, student, np.random.default_rng(0))
    try:
        student(torch.randn(4, 4))
    except RuntimeError as error:
        return f"RuntimeError: {str(error).splitlines()[0]}"
    return ""


def _tanh_is_refused() -> bool:
    torch.manual_seed(0)
    try:
        deepen(network(UNITS, act=nn.Tanh), torch.randn(64, 4), after="fc1", kind="identity")
    except CannotGrow:
        return True
    return False


def _figures(results: Results, live: dict[str, NDArray[np.float64]], death: NDArray[np.float64]) -> None:
    import matplotlib.pyplot as plt

    colours = {"widened": "#0072b2", "padded": "#e69f00", "scratch": "#999999"}
    labels = {"widened": "widened, right rule", "padded": "teacher's units + random ones", "scratch": "from scratch"}
    figure, axes = plt.subplots(figsize=(7.6, 4.4))
    for name, c in live.items():
        axes.plot(np.median(c, axis=0), color=colours[name], lw=2, label=labels[name])
        axes.fill_between(range(c.shape[1]), c.min(axis=0), c.max(axis=0), color=colours[name], alpha=0.12, lw=0)
    axes.axhline(results.values["live_teacher_loss"]["median"], color="black", ls=":", lw=1, label="teacher")
    axes.set(yscale="log", xlabel="epoch", ylabel="test loss (mean square)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    results.figure(
        "comparison",
        figure,
        f"Students of a live teacher, median and range of {results.seeds} seeds.",
    )

    figure, axes = plt.subplots(figsize=(7.6, 3.6))
    for row in death:
        axes.plot(row, color="#d55e00", alpha=0.5, lw=1.4)
    axes.set(xlabel="optimizer step", ylabel="live units of 10", ylim=(-0.4, 10.5), xticks=range(0, 21, 2))
    axes.spines[["top", "right"]].set_visible(False)
    results.figure(
        "death",
        figure,
        "The document's teachers, one line each: how many hidden units are ever positive.",
    )

    figure, axes = plt.subplots(figsize=(7.6, 3.6))
    for i, key in enumerate(("rule_error", "widen_error", "widen_error_two_layers")):
        samples = [max(s, 1e-9) for s in results.values[key]["samples"] if s is not None]
        spread = np.linspace(-0.12, 0.12, len(samples))
        axes.scatter(samples, i + spread, s=18, color=("#d55e00", "#0072b2", "#009e73")[i], alpha=0.8, lw=0)
    axes.set(xscale="log", yticks=range(3), xlabel="largest difference of teacher and student outputs")
    axes.set_yticklabels(["document's rule", "right rule", "right rule,\ntwo layers"])
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    results.figure(
        "rule",
        figure,
        "How far the wider student is from its live teacher, one dot per seed.",
    )


def _judge(results: Results) -> None:
    dead = Sentence(
        "fact", ("doc_dead",),
        "The published equality proves nothing: in all {seeds} seeds the teacher is dead or not a number after {doc_death_step} steps, it answers nothing but zero, and so does any "
        "student of it.",
        "The teacher lives in {doc_live_units} units.",
        bounds={"low": "seeds"},
    )  # fmt: skip
    rule = Sentence(
        "every", ("rule_error",),
        "On a live teacher the document's rule changes the outputs in all {n} seeds, by {rule_error}: incoming weights are divided instead of outgoing ones, and the output layer stays "
        "random.",
        "In {others} of {n} seeds the document's rule keeps the outputs ({rule_error}).",
        bounds={"low": 1e-3},
    )  # fmt: skip
    exact = Sentence(
        "every", ("widen_error",),
        "Done right, widening is exact in all {n} seeds (outputs at most {widen_error.max} apart; two layers {widen_error_two_layers.max}, one layer deeper {deepen_error.max}).",
        "Done right, widening is off by more than rounding in {others} of {n} seeds ({widen_error}).",
        bounds={"high": 1e-6},
    )  # fmt: skip
    head = Sentence(
        "less", ("widened_start", "scratch_start"),
        "The widened student starts where its teacher stopped, at {widened_start}; from scratch it would be {times:.0f} times higher, {scratch_start}, with random units added {padded_start}.",
        "The widened student does not start lower ({widened_start}) than one from scratch ({scratch_start}).",
        "The widened student starts at {widened_start}, one from scratch at {scratch_start}, a padded one at {padded_start}; {n} seeds do not decide more.",
    )  # fmt: skip
    end = Sentence(
        "less", ("widened_end", "scratch_end"),
        "After {student_epochs} epochs the widened student is better than one from scratch: {widened_end} against {scratch_end} (ratio {ratio:.2f}, interval {interval}; padded {padded_end}).",
        "But it is a head start and no gain: after {student_epochs} epochs the widened student is worse than one from scratch, {widened_end} against {scratch_end} (ratio {ratio:.2f}, interval {interval}), and "
        "the padded one has {padded_end}.",
        "After {student_epochs} epochs {n} seeds show no difference from a student from scratch: {widened_end} against {scratch_end} (ratio {ratio:.2f}, interval {interval}), padded {padded_end}.",
    )  # fmt: skip
    padded = Sentence(
        "less", ("padded_end", "widened_end"),
        "The teacher's units with random ones beside them end better than exact widening ({padded_end} against {widened_end}, ratio {ratio:.2f}, interval {interval}).",
        "The teacher's units with random ones beside them end worse than exact widening ({padded_end} against {widened_end}, ratio {ratio:.2f}, interval {interval}).",
        "Whether the teacher's units with random ones beside them end elsewhere than exact widening is not decided by {n} seeds ({padded_end} against {widened_end}, ratio {ratio:.2f}, "
        "interval {interval}).",
    )  # fmt: skip
    results.claim(
        "the student has the teacher's loss right after the transfer (0.1571 = 0.1571)", dead, yes="vacuous", no="yes"
    )
    results.claim("the rule keeps the function", rule, yes="no", no="partly")
    results.claim(
        "the rule works for any number of hidden layers",
        Sentence(
            "fact", ("rule_two_layers",), "Two widened layers end in an error ({rule_two_layers}).", "Two widened layers work."
        ),
        yes="no", no="yes",
    )  # fmt: skip
    results.claim("a correctly widened network starts where its teacher stopped", exact, head)
    results.claim("the wider student ends better for having been taught", end, padded)
    results.conclude(dead, rule, exact, head, end)

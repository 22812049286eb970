"""The doctor: every planted fault is found at its step with its units, and healthy trainings give no finding."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.datasets import load_digits
from torch import nn

import weightlapse as wl
from weightlapse.cli import program
from weightlapse.measures.rules_network import medians_of_others

PLANTED_AT = 60


def digits(count=512):
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x[:count] / 16, dtype=torch.float32), torch.tensor(y[:count])


def mlp(seed=0, act=nn.ReLU):
    torch.manual_seed(seed)
    model = nn.Sequential()
    for name, layer in {
        "fc1": nn.Linear(64, 32),
        "act": act(),
        "fc2": nn.Linear(32, 24),
        "act2": act(),
        "fc3": nn.Linear(24, 10),
    }.items():
        model.add_module(name, layer)
    return model


def train(path, model, optimizer, *, steps=120, plant=None, example=True, batch=64, seed=0):
    """Train on digits; ``plant(model)`` is called once, after step PLANTED_AT was recorded."""
    x, y = digits()
    order = torch.Generator().manual_seed(seed)
    with wl.watch(model, path, optimizer=optimizer, example=x[:4] if example else None) as rec:
        for step in range(steps):
            if plant is not None and step == PLANTED_AT:
                plant(model)
            pick = torch.randint(len(x), (batch,), generator=order)
            loss = nn.functional.cross_entropy(model(x[pick]), y[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rec.log(loss=loss.item())
    return wl.load(path)


def found(run, kind):
    return [f for f in wl.diagnose(run) if f.kind == kind]


def optimizers(model):
    p = list(model.parameters())
    return {
        "sgd": lambda: torch.optim.SGD(p, lr=0.1),
        "momentum": lambda: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        "adam": lambda: torch.optim.Adam(p, lr=2e-3),
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_healthy_runs_have_no_findings(tmp_path, seed, name):
    model = mlp(seed)
    run = train(tmp_path / "r", model, optimizers(model)[name](), steps=200, seed=seed)
    assert [str(f) for f in wl.diagnose(run)] == []


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_dead_units(tmp_path, name):
    model = mlp()

    def plant(m):
        with torch.no_grad():
            m.fc1.bias[[11, 22]] = -50.0

    run = train(tmp_path / "r", model, optimizers(model)[name](), plant=plant)
    (finding,) = found(run, "dead")
    assert (finding.tensor, finding.units, finding.first_step) == ("fc1.weight", (11, 22), PLANTED_AT + 1)
    assert found(run, "saturated") == []


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_saturated_units(tmp_path, name):
    model = mlp(act=nn.Tanh)

    def plant(m):
        with torch.no_grad():
            m.fc1.bias[5] = 30.0

    run = train(tmp_path / "r", model, optimizers(model)[name](), plant=plant)
    (finding,) = found(run, "saturated")
    assert (finding.tensor, finding.units, finding.first_step) == ("fc1.weight", (5,), PLANTED_AT + 1)
    assert found(run, "dead") == []


def test_dead_units_without_a_wiring(tmp_path):
    model = mlp()

    def plant(m):
        with torch.no_grad():
            m.fc2.bias[7] = -50.0

    run = train(tmp_path / "r", model, torch.optim.SGD(model.parameters(), lr=0.1), plant=plant, example=False)
    assert run.wiring is None
    (finding,) = found(run, "dead")
    assert (finding.tensor, finding.units, finding.first_step) == ("fc2.weight", (7,), PLANTED_AT + 1)


def test_nonfinite_with_coordinates(tmp_path):
    model = mlp()

    def plant(m):
        with torch.no_grad():
            m.fc2.weight[2, 3] = float("nan")

    run = train(tmp_path / "r", model, torch.optim.SGD(model.parameters(), lr=0.0), plant=plant, steps=70)
    finding = next(f for f in found(run, "nonfinite") if f.tensor == "fc2.weight")
    assert finding.first_step == PLANTED_AT + 1
    assert 2 * 32 + 3 in finding.units


@pytest.mark.filterwarnings("ignore:.*no optimizer given to watch:UserWarning")
def test_never_updated_and_frozen(tmp_path):
    model = mlp()
    learning = [p for n, p in model.named_parameters() if n != "fc1.weight"]
    run = train(tmp_path / "a", model, torch.optim.SGD(learning, lr=0.1))
    assert [f.tensor for f in found(run, "never_updated")] == ["fc1.weight"]

    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = train(tmp_path / "b", model, optimizer, plant=lambda m: m.fc1.requires_grad_(False), steps=180)
    frozen = found(run, "frozen")
    assert {f.tensor for f in frozen} == {"fc1.weight", "fc1.bias"}
    assert {f.first_step for f in frozen} == {PLANTED_AT}


def test_learning_rate_too_high_and_too_low(tmp_path):
    model = mlp()
    assert len(found(train(tmp_path / "a", model, torch.optim.Adam(model.parameters(), lr=0.3)), "lr_high")) == 1
    model = mlp()
    assert len(found(train(tmp_path / "b", model, torch.optim.Adam(model.parameters(), lr=1e-8)), "lr_low")) == 1


def test_replicas(tmp_path):
    model = mlp()
    with torch.no_grad():
        model.fc1.weight[9] = model.fc1.weight[4]
        model.fc1.bias[9] = model.fc1.bias[4]
        model.fc2.weight[:, 9] = model.fc2.weight[:, 4]
    (finding,) = found(train(tmp_path / "r", model, torch.optim.SGD(model.parameters(), lr=0.1)), "replicas")
    assert (finding.tensor, finding.units, finding.first_step) == ("fc1.weight", (4, 9), 0)


def test_symmetric_collapse(tmp_path):
    model = mlp()
    with torch.no_grad():
        (
            model.fc1.weight.fill_(0.05),
            model.fc1.bias.zero_(),
            model.fc2.weight.fill_(0.1),
            model.fc2.bias.zero_(),
            model.fc3.weight.fill_(0.1),
        )
    tensors = {
        f.tensor for f in found(train(tmp_path / "r", model, torch.optim.SGD(model.parameters(), lr=0.05)), "collapse")
    }
    assert tensors == {"fc1.weight", "fc2.weight"}


def test_loss_spike_names_the_tensor_that_moved(tmp_path):
    model = mlp()

    def plant(m):
        with torch.no_grad():
            m.fc2.weight += 3 * torch.randn_like(m.fc2.weight)

    (finding,) = found(
        train(tmp_path / "r", model, torch.optim.Adam(model.parameters(), lr=2e-3), plant=plant), "loss_spike"
    )
    assert finding.tensor == "fc2.weight"
    assert finding.first_step == PLANTED_AT + 1


def test_exploding_and_vanishing(tmp_path):
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal((6, 6)) for _ in range(3))
    with wl.watch({"a": a, "b": b, "c": c}, tmp_path / "r") as rec:
        for t in range(60):
            a = a * (1.15 if t >= 20 else 1.001)
            b = b + 1e-9 * rng.standard_normal((6, 6))
            c = c + 1e-3 * rng.standard_normal((6, 6))
            rec.step({"a": a, "b": b, "c": c})
    run = wl.load(tmp_path / "r")
    (exploding,) = found(run, "exploding")
    norms = wl.measure(run, "norm")["a"]
    assert exploding.tensor == "a"
    assert exploding.first_step == int(np.flatnonzero(norms > 10 * norms[0])[0])
    assert [f.tensor for f in found(run, "vanishing")] == ["b"]


@pytest.mark.parametrize(
    ("growth", "loss", "severity"),
    [
        (
            "slows down",
            "falls",
            "note",
        ),  # classes that can be told apart: cross-entropy falls for ever, and the weights grow
        ("slows down", "stays", "error"),
        ("slows down", "rises", "error"),
        ("slows down", "none", "error"),
        ("speeds up", "falls", "error"),
        ("even", "falls", "error"),
    ],
)
def test_weights_that_grow_while_the_loss_falls_do_not_explode(tmp_path, growth, loss, severity):
    t = np.linspace(0, 1, 101)
    norms = {"slows down": 1 + 30 * t**0.5, "speeds up": np.exp(4 * t**2), "even": np.exp(4 * t)}[growth]
    losses = {"falls": np.exp(-3 * t), "stays": 1 + 0 * t, "rises": 1 + t, "none": np.full(101, np.nan)}[loss]
    w = np.random.default_rng(0).standard_normal((6, 6))
    with wl.watch({"w": w * norms[0]}, tmp_path / "r") as rec:
        for size, value in zip(norms[1:], losses[1:], strict=True):
            rec.step({"w": w * size}, **({} if loss == "none" else {"loss": value}))
    (finding,) = found(wl.load(tmp_path / "r"), "exploding")
    assert finding.severity == severity


def _grown(path, sizes, losses, others=0):
    w = np.random.default_rng(0).standard_normal((6, 6))
    held = {f"other{k}": (k + 1) * w for k in range(others)}
    with wl.watch({"w": w * sizes[0], **held}, path) as rec:
        for k, size in enumerate(sizes[1:]):
            rec.step({"w": w * size, **held}, **{name: values[k] for name, values in losses.items()})
    return found(wl.load(path), "exploding")


T = np.linspace(0, 1, 101)
SLOWING, FALLING = 1 + 30 * T**0.5, 2 * np.exp(-3 * T)
KICK = np.where(T < 0.02, 1.0, np.where(T < 0.4, 40.0, 1.0))


@pytest.mark.parametrize(
    ("sizes", "losses", "severity"),
    [
        (SLOWING, {"loss": FALLING, "val_loss": 1 + T}, "note"),  # learnt by heart, not exploded
        (SLOWING, {"loss": FALLING - 1.5}, "note"),  # the likelihood of a density: below zero, and settled there
        (SLOWING, {"loss": -T}, "error"),  # a critic without a bound: the weights alone bring it down
        (SLOWING, {"loss": -(T**2) * 1e4}, "error"),
        (SLOWING, {"loss": FALLING * KICK}, "error"),  # thrown at the start, and learning from there
        (SLOWING, {"loss": np.where(T < 0.03, 0.5, FALLING)}, "error"),  # lower than it ever was again
        (SLOWING, {"aux_loss": FALLING, "loss": 1 + T}, "error"),
        (SLOWING, {"loss": FALLING, "generator/loss": 1 + T}, "error"),
        (SLOWING, {"val_loss": FALLING}, "error"),  # nothing is known of the training
        (100 * SLOWING - 99, {"loss": FALLING}, "error"),  # behind a normalisation: no task asks for this size
        (1e6 * SLOWING - 999999, {"loss": FALLING}, "error"),
    ],
)
def test_no_explosion_is_taken_for_learning(tmp_path, sizes, losses, severity):
    (finding,) = _grown(tmp_path / "r", sizes, losses)
    assert finding.severity == severity


@pytest.mark.parametrize(("end", "others", "expected"), [(100.0, 2, ["w"]), (8.0, 2, []), (100.0, 0, [])])
def test_a_matrix_that_starts_at_zero_is_held_to_the_start_of_the_others(tmp_path, end, others, expected):
    assert [f.tensor for f in _grown(tmp_path / "r", end * T, {"loss": 1 + T}, others)] == expected


@pytest.mark.parametrize("activation", [torch.nn.Tanh, torch.nn.GELU, torch.nn.SiLU])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_classifier_that_learns_all_of_its_task_is_healthy(tmp_path, activation, seed):
    x = torch.rand(128, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    y = (x[:, 0] * x[:, 1] > 0).long()
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(2, 12), activation(), torch.nn.Linear(12, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    with wl.watch(net, tmp_path / "r", optimizer=optimizer, example=x[:32], every=5) as rec:
        for _ in range(400):
            loss = torch.nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rec.log(loss=loss.item())
    run = wl.load(tmp_path / "r")
    assert max(n[-1] / n[0] for n in wl.measure(run, "norm", tensors="*weight").values()) > 10, "nothing grew"
    assert [f for f in wl.diagnose(run) if f.severity != "note"] == []


def test_runaway_statistics(tmp_path):
    v = np.ones(4)
    with wl.watch({"bn.running_var": v, "w": np.ones((2, 2))}, tmp_path / "r") as rec:
        for t in range(30):
            v = v * (1 if t < 10 else 3)
            rec.step({"bn.running_var": v, "w": np.ones((2, 2)) + t})
    (finding,) = found(wl.load(tmp_path / "r"), "runaway_statistics")
    assert finding.tensor == "bn.running_var"
    assert finding.first_step == 10 + int(np.ceil(np.log(1e4) / np.log(3)))


def test_speed_limit_of_adam_on_tiny_gradients(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(400, 15)
    x[:, 2:] *= 0.01
    y = (x[:, 0] >= 0).float()
    model = nn.Linear(15, 1)
    for name, optimizer in {
        "adam": torch.optim.Adam(model.parameters(), lr=1e-3),
        "gd": torch.optim.SGD(model.parameters(), lr=0.05),
    }.items():
        nn.init.uniform_(model.weight, -0.1, 0.1)
        with wl.watch(model, tmp_path / name, optimizer=optimizer, every=10):
            for _ in range(1500):
                loss = nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    (finding,) = found(wl.load(tmp_path / "adam"), "speed_limit")
    assert finding.tensor == "weight"
    assert len(set(finding.units) & set(range(2, 15))) >= 9
    assert found(wl.load(tmp_path / "gd"), "speed_limit") == []


@pytest.mark.filterwarnings("ignore:.*no optimizer given to watch:UserWarning")
def test_the_command(tmp_path):
    model = mlp()
    run = train(
        tmp_path / "r", model, torch.optim.SGD([p for n, p in model.named_parameters() if n != "fc1.weight"], lr=0.1)
    )
    result = CliRunner().invoke(program, ["doctor", str(run.path), "--json"], standalone_mode=False)
    report = json.loads(result.output)
    assert result.return_value == 1
    assert [f["kind"] for f in report["findings"]] == ["never_updated", "not_held"]
    spoken = CliRunner().invoke(program, ["doctor", str(run.path)], standalone_mode=False)
    assert "fc1.weight is the same at every one of 121 frames" in spoken.output


def test_a_grown_network_is_examined_epoch_by_epoch(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = digits()

    def steps(net, own, count):
        for _ in range(count):
            loss = nn.functional.cross_entropy(net(x), y)
            own.zero_grad()
            loss.backward()
            own.step()

    recorder = wl.watch(model, tmp_path / "r", optimizer=optimizer, example=x[:4])
    steps(model, optimizer, 30)
    grown = wl.widen(model, {"fc1": 40}, x[:64], optimizer=optimizer, seed=0)
    recorder.grow(grown)
    steps(grown.model, grown.optimizer, 5)
    with torch.no_grad():
        grown.model.fc2.weight[1, 2] = float("nan")
    steps(grown.model, grown.optimizer, 5)
    recorder.close()
    findings = found(wl.load(tmp_path / "r"), "nonfinite")
    assert min(f.first_step for f in findings) == 36
    assert "fc2.weight" in {f.tensor for f in findings}


def test_empty_tensors_are_no_fault(tmp_path):
    with wl.watch({"a.weight": np.ones((3, 2)), "empty": np.zeros((0, 4))}, tmp_path / "r") as rec:
        for t in range(5):
            rec.step({"a.weight": np.arange(6.0).reshape(3, 2) + t, "empty": np.zeros((0, 4))})
    assert [f.tensor for f in wl.diagnose(wl.load(tmp_path / "r")) if f.tensor == "empty"] == []


def settled(path, *, act, units, rate, momentum, seed, steps):
    """A small network by hand learns four answers until nothing is left to learn, in float64."""
    draw = np.random.default_rng(seed)
    f, slope = {
        "tanh": (np.tanh, lambda h: 1 - h * h),
        "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda h: h * (1 - h)),
    }[act]
    x = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], float)
    y = np.array([[-1.0], [1], [1], [-1]])
    w = {"hidden.weight": draw.normal(size=(units, 2)) * 0.7, "hidden.bias": np.zeros(units)}
    w |= {"output.weight": draw.normal(size=(1, units)) * 0.3, "output.bias": np.zeros(1)}
    speed = {name: np.zeros_like(value) for name, value in w.items()}
    with wl.watch(w, path) as rec:
        for _ in range(steps):
            h = f(x @ w["hidden.weight"].T + w["hidden.bias"])
            error = h @ w["output.weight"].T + w["output.bias"] - y
            back = (error @ w["output.weight"]) * slope(h)
            slopes = {"hidden.weight": back.T @ x, "hidden.bias": back.sum(0)}
            slopes |= {"output.weight": error.T @ h, "output.bias": error.sum(0)[:1]}
            speed = {name: momentum * speed[name] - rate * slopes[name] for name in w}
            w = {name: value + speed[name] for name, value in w.items()}
            rec.step(w, loss=float((error**2).mean()))
    return wl.load(path)


@pytest.mark.parametrize(
    ("act", "units", "rate", "momentum", "seed", "steps"),
    [
        ("tanh", 12, 0.02, 0.0, 4, 300),
        ("tanh", 12, 0.02, 0.0, 5, 400),
        ("tanh", 12, 0.02, 0.0, 3, 300),
        ("tanh", 8, 0.02, 0.0, 1, 400),
        ("tanh", 8, 0.01, 0.6, 6, 300),
        ("sigmoid", 16, 0.1, 0.0, 5, 300),
    ],
)
def test_units_that_are_done_are_not_dead(tmp_path, act, units, rate, momentum, seed, steps):
    run = settled(tmp_path / "r", act=act, units=units, rate=rate, momentum=momentum, seed=seed, steps=steps)
    assert [str(f) for f in wl.diagnose(run) if f.kind in ("dead", "saturated")] == []


def test_medians_of_all_others_are_those_taken_one_by_one() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 3, 4, 5, 50, 51):
        values = rng.integers(0, 9, count).astype(float) if count > 4 else rng.random(count)
        wanted = [float(np.median(np.delete(values, k))) for k in range(count)]
        assert medians_of_others(values.tolist()) == wanted, count

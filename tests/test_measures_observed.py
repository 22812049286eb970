"""What the recorder sees beside the weights, that looking changes nothing, and what the doctor makes of it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import weightlapse as wl
from tests.trainings import Residual, adam, adamw, blobs, conv, dense, fit, net, pictures, sgd
from weightlapse.adapters.torch_observe import TorchObserver
from weightlapse.cli import program
from weightlapse.measures.doctor import RULES
from weightlapse.measures.observed import observed_of


def kinds(path: Path, *, notes: bool = False) -> list[tuple[str, str]]:
    return [(f.kind, f.tensor) for f in wl.diagnose(wl.load(path)) if notes or f.severity != "note"]


# ---- looking changes nothing ---------------------------------------------------------------------------------------


def trained(path: Path | None, model: nn.Module, example: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
    x, y = pictures()
    optimizer = adam(model)
    torch.manual_seed(7)
    rec = None if path is None else wl.watch(model, path, optimizer=optimizer, example=x[:4] if example else None)
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if rec is not None:
        rec.close()
    return [*(p.detach().clone() for p in model.parameters()), *(b.clone() for b in model.buffers())], torch.rand(3)


@pytest.mark.parametrize("make", [Residual, lambda: conv(norm=True), lambda: nn.Sequential(conv(), nn.Dropout(0.5))])
def test_the_training_is_bit_for_bit_the_same(tmp_path: Path, make: Any) -> None:
    alone, number = trained(None, make(), False)
    watched, same_number = trained(tmp_path / "run", make(), True)
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))
    assert torch.equal(number, same_number)
    assert any("activations" in facts for _, facts in wl.load(tmp_path / "run").observed)


class Counts(nn.Module):
    """Counts its calls, and refuses to run in eval mode."""

    def __init__(self, refuses: bool) -> None:
        super().__init__()
        self.layer, self.calls, self.refuses = nn.Linear(12, 4), 0, refuses

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.refuses and not self.training:
            raise RuntimeError("not in eval mode")
        return torch.tanh(self.layer(x))


def test_the_model_itself_is_not_run(tmp_path: Path) -> None:
    model = Counts(refuses=False)
    fit(tmp_path / "run", model, blobs(), adam(model), steps=10)
    assert model.calls == 10


def test_a_model_that_cannot_be_looked_at_trains_on(tmp_path: Path) -> None:
    model = Counts(refuses=True)
    x, y = blobs()
    optimizer = adam(model)
    with wl.watch(model, tmp_path / "run", optimizer=optimizer) as rec:
        rec.observe(TorchObserver(lambda: model, x[:4], lambda: [optimizer]).look)
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    run = wl.load(tmp_path / "run")
    assert run.frames == 11
    failed = [facts["failed"] for _, facts in run.observed if "failed" in facts]
    assert len(failed) == 1
    assert "not in eval mode" in failed[0]


# ---- what is seen --------------------------------------------------------------------------------------------------


def test_what_is_seen(tmp_path: Path) -> None:
    model = dense(nn.Tanh)
    model.fc1.bias.requires_grad_(False)
    fit(tmp_path / "run", model, blobs(), adamw(model, weight_decay=0.2), steps=20)
    seen = dict(wl.load(tmp_path / "run").observed)
    assert sorted(seen) == [0, 1, 2, 3, 6, 10, 18, 20]
    assert seen[0]["frozen"] == ["fc1.bias"]
    (group,) = seen[0]["groups"]
    assert (group["optimizer"], group["lr"], group["weight_decay"], group["decoupled"]) == ("AdamW", 3e-3, 0.2, True)
    assert "groups" not in seen[20]  # it holds until something else is said
    x = blobs()[0][:16]
    with torch.no_grad():
        first = torch.tanh(model.fc1(x))
    told = next(a for a in seen[20]["activations"] if a["layer"] == "fc1")
    assert told["op"] == "tanh"
    assert told["flat"] == pytest.approx(float((first.abs() > 0.99).float().mean()), abs=1e-6)
    norm = float(model.fc2.weight.grad.norm())
    assert seen[20]["gradients"]["fc2.weight"]["norm"] == pytest.approx(norm, rel=1e-5)


def test_a_grown_network_is_the_one_that_is_seen(tmp_path: Path) -> None:
    model = dense()
    optimizer = adam(model)
    x, y = blobs()
    rec = wl.watch(model, tmp_path / "run", optimizer=optimizer, example=x[:4])

    def step(net_: nn.Module, own: torch.optim.Optimizer) -> None:
        own.zero_grad()
        nn.functional.cross_entropy(net_(x), y).backward()
        own.step()

    step(model, optimizer)
    grown = wl.widen(model, {"fc1": 20}, x[:64], optimizer=optimizer, seed=0)
    rec.grow(grown)
    step(grown.model, grown.optimizer)
    rec.close()
    seen = dict(wl.load(tmp_path / "run").observed)
    assert [seen[k]["activations"][0]["units"] for k in (0, 1, 2)] == [16, 16, 20]
    assert seen[2]["gradients"]["fc1.weight"]["norm"] == pytest.approx(
        float(grown.model.fc1.weight.grad.norm()), rel=1e-5
    )


def test_functions_count_as_well_as_modules(tmp_path: Path) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.out = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(nn.functional.relu_(self.norm(self.conv(x))).mean((2, 3)))

    model = Functional()
    nn.init.constant_(model.norm.bias, -50.0)
    fit(tmp_path / "run", model, pictures(), sgd(model), steps=20)
    told = dict(wl.load(tmp_path / "run").observed)[20]["activations"]
    assert [(a["layer"], a["op"], a["units"], a["all_off"]) for a in told] == [("norm", "relu", 4, True)]
    assert ("dead", "conv.weight") in kinds(tmp_path / "run")


def test_a_branch_keeps_its_own(tmp_path: Path) -> None:
    model = dense()
    fit(tmp_path / "run", model, blobs(), adam(model), steps=12)
    fit(tmp_path / "run", model, blobs(), adam(model), steps=3, resume=True, resume_at=5)
    run = wl.load(tmp_path / "run")
    assert max(step for step, _ in run.observed) <= int(run.steps[-1]) == 8
    (branch,) = run.branches.values()
    assert {step for step, _ in branch.observed} == {6, 10, 12}


def test_entries_of_another_form_are_passed_over() -> None:
    strange = {
        "frozen": 3,
        "groups": [4, {"names": "x"}],
        "shared": [[1]],
        "gradients": {"a": 1},
        "activations": [{}, 5],
    }
    seen = observed_of(SimpleNamespace(observed=[(0, strange), (1, {"activations": None, "gradients": []})]))
    assert (seen.frozen, seen.shared, seen.without, seen.activations) == ([], [], {}, {})


# ---- told the truth about ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_training_that_converges_has_no_dead_layer(tmp_path: Path, seed: int, example: bool) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)
    )
    data = torch.randn(32, 1, 8, 8), torch.randint(0, 4, (32,))
    wiring = None if example else wl.trace(model, data[0][:2])
    fit(tmp_path / "run", model, data, adam(model, 1e-2), batch=None, steps=60, example=example, wiring=wiring)
    assert wl.load(tmp_path / "run").scalars["loss"][-1] < 1e-4
    assert kinds(tmp_path / "run") == []


@pytest.mark.parametrize("make", [lambda m: adam(m, 1e-2), lambda m: sgd(m, 0.1), lambda m: adamw(m, 1e-2)])
def test_nor_has_a_dense_one(tmp_path: Path, make: Any) -> None:
    torch.manual_seed(3)
    model = net(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))
    data = torch.randn(32, 12), torch.randint(0, 4, (32,))
    fit(tmp_path / "run", model, data, make(model), batch=None, steps=120)
    assert wl.load(tmp_path / "run").scalars["loss"][-1] < 0.02
    assert kinds(tmp_path / "run") == []


def test_frozen_on_purpose_is_no_finding(tmp_path: Path) -> None:
    for name, freeze in {
        "layer": lambda m: m.fc1.requires_grad_(False),
        "bias": lambda m: m.fc2.bias.requires_grad_(False),
        "two": lambda m: (m.fc1.requires_grad_(False), m.fc2.requires_grad_(False)),
    }.items():
        model = dense(nn.Tanh)
        freeze(model)
        fit(tmp_path / name, model, blobs(), adam(model))
        assert kinds(tmp_path / name, notes=True) == [], name


def test_a_freeze_on_the_way_is_a_note(tmp_path: Path) -> None:
    model = dense(nn.Tanh)

    def before(step: int) -> None:
        if step == 20:
            model.fc1.requires_grad_(False)

    fit(tmp_path / "run", model, blobs(), sgd(model, momentum=0.0), before=before)
    found = [f for f in wl.diagnose(wl.load(tmp_path / "run")) if f.kind == "frozen"]
    assert {(f.tensor, f.severity) for f in found} == {("fc1.weight", "note"), ("fc1.bias", "note")}


@pytest.mark.parametrize("layer", ["fc1", "fc2", "fc3"])
@pytest.mark.parametrize("optimizer", [adam, sgd])
def test_a_dead_layer_is_placed_where_it_is(tmp_path: Path, layer: str, optimizer: Any) -> None:
    torch.manual_seed(0)
    model = net(
        nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    nn.init.constant_(getattr(model, layer).bias, -50.0)
    fit(tmp_path / "seen", model, blobs(), optimizer(model), steps=60)
    assert kinds(tmp_path / "seen") == [("dead", f"{layer}.weight")]


def test_a_finding_carries_its_evidence(tmp_path: Path) -> None:
    model = dense(nn.Tanh)
    with torch.no_grad():
        model.fc1.weight *= 100
    fit(tmp_path / "run", model, blobs(), adam(model))
    (finding,) = wl.diagnose(wl.load(tmp_path / "run"))
    (curve,) = finding.evidence
    assert len(curve.steps) == len(curve.values) == len(wl.load(tmp_path / "run").observed)
    assert min(v for v in curve.values if v is not None) > 0.9
    said = CliRunner().invoke(program, ["doctor", str(tmp_path / "run"), "--json"], standalone_mode=False)
    (told,) = json.loads(said.output)["findings"]
    assert told["evidence"] == [{"label": curve.label, "steps": list(curve.steps), "values": list(curve.values)}]
    spoken = CliRunner().invoke(program, ["doctor", str(tmp_path / "run")], standalone_mode=False)
    assert f"{curve.label}: " in spoken.output


def test_a_lossy_recording_shows_no_rest(tmp_path: Path) -> None:
    model = dense()
    fit(tmp_path / "run", model, blobs(), adam(model, 1e-4), tolerance=0.5)
    assert [kind for kind, _ in kinds(tmp_path / "run") if kind in ("dead", "saturated")] == []


def test_layers_that_share_on_purpose(tmp_path: Path) -> None:
    """One module known by two names is one layer; an embedding read out by its transpose is not two of a kind."""

    class TwoNames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(12, 12), nn.Linear(12, 4)
            self.body = nn.Sequential(self.fc1, nn.Tanh())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc2(self.body(x))

    model = TwoNames()
    fit(tmp_path / "run", model, blobs(), adam(model))
    assert kinds(tmp_path / "run") == []


def test_every_rule_says_what_it_cannot_see() -> None:
    assert all(len(rule.blind) > 20 and len(rule.direct) > 3 and rule.kinds for rule in RULES)
    assert len({kind for rule in RULES for kind in rule.kinds}) >= 17
    assert np.unique([rule.find.__name__ for rule in RULES]).size == len(RULES)


def test_who_trains_waits_for_no_gradient(tmp_path: Path) -> None:
    """What a look leaves to be waited for is asked for in the recorder's thread; a device that fails is a fact, and no failure of the training."""
    asked: list[str] = []

    def late() -> dict[str, Any]:
        asked.append(threading.current_thread().name)
        return {"w": {"norm": 1.0, "without": []}}

    def broken() -> dict[str, Any]:
        raise RuntimeError("the device is gone")

    weights = {"w": np.zeros(3)}
    for name, look in (("late", late), ("broken", broken)):
        with wl.watch(weights, tmp_path / name) as rec:
            rec.observe(lambda look=look: {"gradients": look, "frozen": []})  # type: ignore[misc]
            for _ in range(4):
                weights = {"w": weights["w"] + 1}
                rec.step(weights)
    assert asked
    assert set(asked) == {"weightlapse-writer"}
    observed = observed_of(wl.load(tmp_path / "late"))
    assert observed is not None
    assert wl.load(tmp_path / "broken").frames == 5
    model = net(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    model(torch.randn(3, 4)).sum().backward()
    seen = TorchObserver(lambda: model, None, list).look()
    assert callable(seen["gradients"])
    found = seen["gradients"]()
    for tensor, fact in found.items():
        true = dict(model.named_parameters())[tensor].grad
        assert fact["norm"] == pytest.approx(float(true.norm()), rel=1e-5)

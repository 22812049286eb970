"""Several models as one recording, and one frame for the steps of several optimizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.nets_capture import bits, check
from weightlapse.errors import RecorderWarning

Frames = list[dict[str, np.ndarray]]


class Gan:
    """A generator and a discriminator of toy size, with their optimizers and a loop that steps them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.g = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
        self.d = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))
        self.og = torch.optim.Adam(self.g.parameters(), lr=0.01)
        self.od = torch.optim.SGD(self.d.parameters(), lr=0.05, momentum=0.9)

    def state(self) -> dict[str, np.ndarray]:
        both = (("g", self.g), ("d", self.d))
        return {f"{key}.{n}": bits(p) for key, model in both for n, p in model.named_parameters()}

    def step_d(self) -> None:
        self.od.zero_grad()
        (self.d(torch.randn(8, 2)).mean() - self.d(self.g(torch.randn(8, 3)).detach()).mean()).backward()
        self.od.step()

    def step_g(self) -> None:
        self.og.zero_grad()
        self.d(self.g(torch.randn(8, 3))).mean().backward()
        self.og.step()


@pytest.mark.parametrize(
    "form",
    [
        lambda g, d: {"g": g, "d": d},
        lambda g, d: {"g": torch.nn.DataParallel(g), "d": torch.optim.swa_utils.AveragedModel(d).module},
    ],
    ids=["plain", "wrapped"],
)
def test_a_mapping_of_modules_every_step_a_frame(tmp_path: Path, form: Callable[..., Any]) -> None:
    gan = Gan()
    models = form(gan.g, gan.d)
    if models["d"] is not gan.d:
        gan.d = models["d"]
        gan.od = torch.optim.SGD(gan.d.parameters(), lr=0.05)
    frames: Frames = [gan.state()]
    with wl.watch(models, tmp_path / "run", optimizer=[gan.og, gan.od]):
        for _ in range(5):
            for step in (gan.step_d, gan.step_g):
                step()
                frames.append(gan.state())
    run = check(tmp_path / "run", frames)
    assert run.names[0] == "g.0.weight"
    assert run.meta["framework"] == "torch"


def test_lists_nested_mappings_and_buffers(tmp_path: Path) -> None:
    a, b, c = nn.Linear(2, 2), nn.BatchNorm1d(3), nn.Linear(3, 1)
    models = {"both": [a, b], "deep": {"er": {"c": c}}, "free": nn.Parameter(torch.zeros(2))}
    with wl.watch(models, tmp_path / "run", streams=("weights", "buffers")) as rec:
        with torch.no_grad():
            a.weight += 1
            models["free"] += 2
        rec.step()
    run = wl.load(tmp_path / "run")
    assert set(run.names) == {
        *("both.0.weight", "both.0.bias", "both.1.weight", "both.1.bias", "deep.er.c.weight", "deep.er.c.bias", "free"),
        *("both.1.running_mean", "both.1.running_var", "both.1.num_batches_tracked"),
    }
    assert run["free"][:].tolist() == [[0, 0], [2, 2]]
    with torch.no_grad():
        a.weight.zero_()
        models["free"].zero_()
    run.load_into(models)
    assert np.array_equal(a.weight.detach().numpy(), run["both.0.weight"][1])
    assert models["free"].tolist() == [2, 2]
    with wl.watch([a, c], tmp_path / "list") as rec:
        nn.init.normal_(c.weight)
        rec.step()
    assert wl.load(tmp_path / "list").names == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_mapping_of_tensors_with_their_optimizer(tmp_path: Path) -> None:
    """Training written with bare tensors: the optimizer tells, and no step needs the mapping."""
    weights = {"w": torch.randn(3, requires_grad=True), "layers": [torch.ones(2, requires_grad=True)]}
    optimizer = torch.optim.SGD([weights["w"], *weights["layers"]], lr=0.1)
    frames = [{"w": bits(weights["w"]), "layers.0": bits(weights["layers"][0])}]
    with wl.watch(weights, tmp_path / "run", optimizer=optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            (weights["w"].pow(2).sum() + weights["layers"][0].pow(2).sum()).backward()
            optimizer.step()
            frames.append({"w": bits(weights["w"]), "layers.0": bits(weights["layers"][0])})
    check(tmp_path / "run", frames)


def test_models_that_are_exchanged_or_added_are_seen(tmp_path: Path) -> None:
    models: dict[str, Any] = {"a": nn.Linear(2, 2), "more": [nn.Linear(1, 1)]}
    with wl.watch(models, tmp_path / "run") as rec:
        models["a"] = nn.Linear(2, 2)
        rec.step()
        models["more"].append(nn.Linear(3, 1))
        nn.init.normal_(models["a"].weight)
        rec.step()
        del models["a"]
        nn.init.normal_(models["more"][0].weight)
        rec.step()
    run = wl.load(tmp_path / "run")
    assert [e.names for e in run.layouts] == [
        ["a.weight", "a.bias", "more.0.weight", "more.0.bias"],
        ["a.weight", "a.bias", "more.0.weight", "more.0.bias", "more.1.weight", "more.1.bias"],
        ["more.0.weight", "more.0.bias", "more.1.weight", "more.1.bias"],
    ]
    assert not np.array_equal(run.layouts[0]["a.weight"][0], run.layouts[0]["a.weight"][1])
    assert np.array_equal(run.state(step=3)["more.0.weight"], models["more"][0].weight.detach().numpy())


def test_tied_parts_and_modules_shared_between_models(tmp_path: Path) -> None:
    shared = nn.Linear(2, 2)
    models = {"a": nn.Sequential(shared, nn.Linear(2, 1)), "b": nn.Sequential(shared)}
    wl.watch(models, tmp_path / "run").close()
    run = wl.load(tmp_path / "run")
    assert run.names == ["a.0.weight", "a.0.bias", "a.1.weight", "a.1.bias"]
    assert run.aliases == {"a.0.weight": ["b.0.weight"], "a.0.bias": ["b.0.bias"]}


@pytest.mark.parametrize(
    "models,said",
    [
        ({"g": nn.Linear(1, 1), "rate": 0.1}, "'rate' is a float among torch modules"),
        ([nn.Linear(1, 1), np.ones(2)], "'1' is a ndarray among torch modules"),
        ({"a": nn.ReLU()}, "has no parameters"),
        ([], "list cannot be watched"),
    ],
)
def test_what_is_no_group_of_models_is_refused(tmp_path: Path, models: Any, said: str) -> None:
    with pytest.raises(wl.WeightlapseError, match=said):
        wl.watch(models, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# ---- frame="iteration" -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order,ends",
    [
        ("dg" * 4, [1, 3, 5, 7]),
        ("gd" * 3, [1, 3, 5]),
        ("dddddg" * 3, [5, 11, 17]),
        ("dddg" + "dg" + "ddg", [3, 5, 8]),
        ("dg" + "g" + "dg" + "dg", [1, 2, 4, 6]),  # a step of d that a scaler skipped
    ],
)
def test_an_iteration_is_one_frame(tmp_path: Path, order: str, ends: list[int]) -> None:
    gan = Gan()
    frames: Frames = [gan.state()]
    models = {"g": gan.g, "d": gan.d}
    with wl.watch(models, tmp_path / "run", optimizer=[gan.og, gan.od], frame="iteration") as rec:
        for k, letter in enumerate(order):
            {"d": gan.step_d, "g": gan.step_g}[letter]()
            if k in ends:
                frames.append(gan.state())
                rec.log(loss=k)
    run = check(tmp_path / "run", frames)
    assert run.scalars["loss"][1:].tolist() == ends


def test_three_optimizers_and_a_schedule(tmp_path: Path) -> None:
    torch.manual_seed(0)
    models = [nn.Linear(2, 2) for _ in range(3)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
    states = []
    with wl.watch(models, tmp_path / "run", optimizer=optimizers, frame="iteration", every=2):
        for _ in range(6):
            for model, optimizer in zip(models, optimizers):
                optimizer.zero_grad()
                model(torch.randn(4, 2)).pow(2).mean().backward()
                optimizer.step()
            states.append(bits(models[2].weight))
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [0, 2, 4, 6]
    assert np.array_equal(run["2.weight"][1:], np.stack(states[1::2]))


def test_rec_step_ends_an_iteration_and_adds_numbers_to_one_that_has_ended(tmp_path: Path) -> None:
    """A discriminator that steps alone in two iterations of three: the loop says where each ends."""
    gan = Gan()
    frames: Frames = [gan.state()]
    models = {"g": gan.g, "d": gan.d}
    with wl.watch(models, tmp_path / "run", optimizer=[gan.og, gan.od], frame="iteration") as rec:
        for k in range(7):
            gan.step_d()
            if k % 3 == 2:
                gan.step_g()
            rec.step(loss=k)
            frames.append(gan.state())
    run = check(tmp_path / "run", frames)
    assert run.scalars["loss"][1:].tolist() == list(range(7))


def test_a_loop_whose_last_optimizer_steps_often_is_said_to_be_unclear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loop(path: Path) -> None:
        gan = Gan()
        with wl.watch({"g": gan.g, "d": gan.d}, path, optimizer=[gan.og, gan.od], frame="iteration"):
            for _ in range(3):
                gan.step_g()
                for _ in range(4):
                    gan.step_d()

    with pytest.raises(wl.InvalidArgument, match=r"again and again without any other.*call rec\.step"):
        loop(tmp_path / "strict")
    monkeypatch.setenv("WEIGHTLAPSE_STRICT", "0")
    with pytest.warns(RecorderWarning, match="again and again"):
        loop(tmp_path / "run")
    run = wl.load(tmp_path / "run")
    assert sum("again and again" in text for _, text in run.events) == 1
    assert run.frames == 1 + 3 * 4, "nothing is lost: every step that may end one is a frame"


def test_one_optimizer_or_none_and_what_makes_no_sense(tmp_path: Path) -> None:
    gan = Gan()
    with wl.watch(gan.d, tmp_path / "one", optimizer=gan.od, frame="iteration"):
        gan.step_d()
        gan.step_d()
    assert wl.load(tmp_path / "one").frames == 3
    with wl.watch(gan.d, tmp_path / "none", frame="iteration") as rec:
        gan.step_d()
        gan.step_d()
        rec.step()
    assert wl.load(tmp_path / "none").frames == 2
    both = {"g": gan.g, "d": gan.d}
    for arguments, said in (
        ({"frame": "epoch"}, "frame='epoch': 'step' makes"),
        ({"frame": "iteration", "optimizer": [gan.og, gan.og]}, "names one optimizer twice"),
        (
            {"frame": "iteration", "optimizer": [gan.og, gan.od], "streams": ("weights", "gradients")},
            "gradients of its own",
        ),
        ({"optimizer": []}, "names none"),
    ):
        with pytest.raises(wl.InvalidArgument, match=said):
            wl.watch(both, tmp_path / "refused", **arguments)
    assert not (tmp_path / "refused").exists()


def test_a_step_that_a_scaler_skips(tmp_path: Path) -> None:
    gan = Gan()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    frames: Frames = [gan.state()]
    with wl.watch({"g": gan.g, "d": gan.d}, tmp_path / "run", optimizer=[gan.og, gan.od], frame="iteration"):
        for k in range(5):
            for model, optimizer in ((gan.d, gan.od), (gan.g, gan.og)):
                optimizer.zero_grad()
                x = torch.randn(8, 2 if model is gan.d else 3)
                scaler.scale(model(x).pow(2).mean()).backward()
                if k == 2 and model is gan.d:
                    model[0].weight.grad[0, 0] = float("inf")
                scaler.step(optimizer)
                scaler.update()
            frames.append(gan.state())  # in the third of g alone: it is what ends an iteration
    check(tmp_path / "run", frames)

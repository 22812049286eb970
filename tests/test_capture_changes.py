"""Modules that are wrapped, averaged, frozen or changed while they are watched."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.nets_capture import bits, check, clone, mlp, train


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTLAPSE_STRICT", "1")
    torch.manual_seed(0)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # said by the compiler about its own tensors
def test_names_have_no_wrappers(tmp_path: Path) -> None:
    compiled = torch.compile(mlp(), backend="eager")
    inner = nn.Sequential(nn.Linear(6, 6), torch.compile(nn.Linear(6, 3), backend="eager"))
    parallel = nn.DataParallel(mlp())
    for k, model in enumerate((compiled, inner, parallel)):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with wl.watch(model, tmp_path / f"run{k}", optimizer=optimizer):
            train(model, [optimizer], lambda k: None, steps=3)
        plain = {n.replace("_orig_mod.", "").replace("module.", ""): bits(p) for n, p in model.named_parameters()}
        run = wl.load(tmp_path / f"run{k}")
        assert run.names == list(plain)
        assert all(np.array_equal(run[n][-1], values) for n, values in plain.items())


def test_an_average_of_the_weights_is_watched_like_a_model(tmp_path: Path) -> None:
    model = mlp()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    by_hand, averages = [clone(model)], [clone(average.module)]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer), wl.watch(average, tmp_path / "ema") as rec:

        def each(k: int) -> None:
            by_hand.append(clone(model))
            average.update_parameters(model)
            rec.step()
            averages.append(clone(average.module))

        train(model, [optimizer], each)
    check(tmp_path / "run", by_hand)
    check(tmp_path / "ema", averages)


def test_frozen_parameters_and_ones_added_to_the_optimizer_later(tmp_path: Path) -> None:
    model = mlp()
    model[2].requires_grad_(False)
    optimizer = torch.optim.Adam(model[0].parameters(), 1e-2)
    by_hand = [clone(model)]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=("weights", "optimizer")):

        def thaw(k: int) -> None:
            by_hand.append(clone(model))
            if k == 5:
                model[2].requires_grad_(True)
                optimizer.add_param_group({"params": list(model[2].parameters())})

        train(model, [optimizer], thaw)
    run = wl.load(tmp_path / "run")
    for name in by_hand[0]:
        assert np.array_equal(run[name][:], np.stack([state[name] for state in by_hand]))
    first, second = run.layouts
    assert (first.stop, second.start) == (7, 7)
    assert "optimizer:2.weight.exp_avg" in second.note
    assert second["optimizer:2.bias.step"][:].tolist() == list(range(1, 7))
    assert (run["2.weight"][:7] == run["2.weight"][0]).all()
    assert not np.array_equal(run["2.weight"][6], run["2.weight"][7])


def test_replaced_storage_and_layers_are_never_recorded_stale(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    by_hand = [clone(model)]

    def swap(k: int) -> None:
        by_hand.append(clone(model))
        if k == 3:
            model[0].weight.data = model[0].weight.data.clone() * 2
        if k == 6:
            model[2] = nn.Linear(8, 3)  # the optimizer keeps the old one: the network is what is recorded
            model[2].weight.requires_grad_(False)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rec = wl.watch(model, tmp_path / "run", optimizer=optimizer)
        train(model, [optimizer], swap)
        rec.close()
    said = [str(w.message) for w in caught]
    assert len(said) == 1  # a change between two updates is an event, and spoken of when it is no exception
    assert "no optimizer given to watch() holds 2.bias, which can be trained" in said[0]
    assert (4, "[changed_once] 0.weight changed between step 4 and the next update.") in wl.load(rec.path).events
    check(tmp_path / "run", by_hand)


@pytest.mark.parametrize("change", ["transposed", "reshaped", "shortened", "strided", "back in order"])
def test_another_view_of_the_same_memory(tmp_path: Path, change: str) -> None:
    """The same parameter at the same address, with other strides or another shape."""
    p = nn.Parameter(torch.arange(64.0).reshape(8, 8))
    if change == "back in order":
        p.data = p.data.t()
    model = nn.ParameterDict({"p": p})
    seen = [p.detach().clone()]
    with wl.watch(model, tmp_path / "run") as rec:
        for k in range(6):
            if k == 3:
                p.data = {
                    "transposed": p.data.t(),
                    "reshaped": p.data.reshape(4, 16),
                    "shortened": p.data[:5],
                    "strided": p.data.as_strided((8, 4), (8, 2)),
                    "back in order": p.data.t(),
                }[change]
            p.data.add_(1.0)
            rec.step()
            seen.append(p.detach().clone())
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == list(range(7))
    for k, expected in enumerate(seen):
        assert np.array_equal(run.state(step=k)["p"], expected.numpy()), k


class _Tied(nn.Module):
    """Two layers of one weight, a bias and a buffer that are None at first, a buffer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head, self.third = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.head.weight = self.third.weight = self.embed.weight
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("again", self.mean)
        self.register_buffer("average", None)


_UNTIED = {
    "first name": lambda m: setattr(m.embed, "weight", nn.Parameter(torch.full((4, 4), 5.0))),
    "second name": lambda m: setattr(m.head, "weight", nn.Parameter(torch.full((4, 4), 5.0))),
    "last name, same values": lambda m: setattr(m.third, "weight", nn.Parameter(m.embed.weight.detach().clone())),
    "assigned": lambda m: m.load_state_dict({k: v.detach() + 1 for k, v in m.state_dict().items()}, assign=True),
    "buffer": lambda m: setattr(m, "again", torch.full((4,), 7.0)),
    "buffer that was None": lambda m: setattr(m, "average", torch.full((4,), 7.0)),
    "bias that was None": lambda m: setattr(m.head, "bias", nn.Parameter(torch.full((4,), 7.0))),
    "bias that becomes None": lambda m: setattr(m.embed, "weight", None),
}


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("change", _UNTIED)
def test_every_name_of_a_tensor_is_watched(tmp_path: Path, change: str, in_parts: bool) -> None:
    model = _Tied()
    prefix = "part." if in_parts else ""
    seen = []

    def look() -> None:
        seen.append({prefix + k: v.detach().clone().numpy() for k, v in model.state_dict().items()})

    with wl.watch({"part": model} if in_parts else model, tmp_path / "run", streams=("weights", "buffers")) as rec:
        look()
        for k in range(1, 7):
            if k == 3:
                _UNTIED[change](model)
            with torch.no_grad():
                for tensor in {id(t): t for t in (*model.parameters(), *model.buffers())}.values():
                    tensor.add_(k * (1 + len(tensor.shape)))
            rec.step()
            look()
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == list(range(7))
    for k, expected in enumerate(seen):
        state = run.state(step=k)
        assert set(state) == set(expected), k
        for name, values in expected.items():
            assert np.array_equal(state[name], values), (k, name)


def test_what_is_not_recorded_may_change_without_a_new_layout(tmp_path: Path) -> None:
    model = _Tied()
    with wl.watch(model, tmp_path / "run", tensors="embed.*") as rec:
        rec.step()
        model.again, model.average = torch.ones(4), torch.ones(4)
        model.head.bias = nn.Parameter(torch.ones(4))
        with torch.no_grad():
            model.embed.weight += 1
        rec.step()
    run = wl.load(tmp_path / "run")
    assert len(run.layouts) == 1
    assert np.array_equal(run.state()["embed.weight"], model.embed.weight.detach().numpy())


def test_a_layer_that_grows_begins_a_layout(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before, after = [clone(model)], []
    with wl.watch(model, tmp_path / "run", optimizer=optimizer) as rec:
        train(model, [optimizer], lambda k: before.append(clone(model)), steps=4)
        model[0], model[2] = nn.Linear(6, 11), nn.Linear(11, 3)
        model.append(nn.Linear(3, 3))
        optimizer.param_groups.clear()
        optimizer.add_param_group({"params": list(model.parameters())})
        train(model, [optimizer], lambda k: after.append(clone(model)), steps=3)
        assert rec.frames == 8
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == list(range(8))
    first, second = run.layouts
    assert (first.start, first.stop, second.start, second.stop) == (0, 5, 5, 8)
    assert "3.weight" in second.note
    assert "0.weight float32[8, 6] -> float32[11, 6]" in second.note
    assert run.events == [(5, second.note)]
    for name in before[0]:
        assert np.array_equal(first[name][:], np.stack([s[name] for s in before]))
    for name in after[0]:
        assert np.array_equal(second[name][:], np.stack([s[name] for s in after]))
    assert run["2.bias"].shape == (8, 3)
    with pytest.raises(wl.InvalidArgument, match=r"frames 0 to 4: float32\[8, 6\]; frames 5 to 7: float32\[11, 6\]"):
        run["0.weight"]
    with pytest.raises(wl.InvalidArgument, match="absent"):
        run["3.weight"]
    assert run.state(frame=4)["0.weight"].shape == (8, 6)
    assert run.state(step=5)["0.weight"].shape == (11, 6)


def test_many_tensors_and_odd_memory(tmp_path: Path) -> None:
    """More tensors than are copied one by one, some of them not contiguous: the other way of copying."""
    model = nn.ModuleList([nn.Linear(6, 6) for _ in range(60)])
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    model.append(conv)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    by_hand = [clone(model)]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer):
        for _ in range(300):  # more steps than the ring has rows
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
            by_hand.append(clone(model))
    check(tmp_path / "run", by_hand)

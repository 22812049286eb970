"""Every member of an ensemble goes through exactly the updates that torch would give it alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from weightlapse.ensembles.batches import imitation
from weightlapse.ensembles.stack import Stack, glorot
from weightlapse.errors import InvalidArgument


def dense() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 2), nn.Sigmoid()
    )


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(1, 3, 2), nn.BatchNorm1d(3), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x[:, None]))).flatten(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(x[:, :, None])[0][:, -1])


def alone(
    make: Any, seed: int, batches: list, loss: Any, optimizer: type, lr: float, **options: Any
) -> tuple[nn.Module, list[float]]:
    """One member, trained by an ordinary torch loop."""
    torch.manual_seed(seed)
    model = make().double()
    opt = optimizer(model.parameters(), lr, **options)
    losses = []
    for x, y in batches:
        value = loss(model(x), y)
        opt.zero_grad()
        value.backward()
        opt.step()
        losses.append(value.item())
    return model, losses


OPTIMIZERS = [
    ("sgd", torch.optim.SGD, {}),
    ("sgd", torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.02}),
    ("sgd", torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    ("adam", torch.optim.Adam, {}),
    ("adam", torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
    ("adamw", torch.optim.AdamW, {"weight_decay": 0.3}),
    ("rmsprop", torch.optim.RMSprop, {}),
    ("rmsprop", torch.optim.RMSprop, {"alpha": 0.9, "momentum": 0.5, "centered": True, "weight_decay": 0.01}),
]


@pytest.mark.parametrize("name,kind,options", OPTIMIZERS, ids=lambda v: str(v) if isinstance(v, dict) else None)
@pytest.mark.parametrize("make", [dense, Convolutional, Recurrent])
def test_each_member_equals_torch(make: Any, name: str, kind: type, options: dict[str, Any]) -> None:
    torch.manual_seed(5)
    x, y = torch.randn(3, 12, 3).double(), torch.rand(3, 12, 2).double()
    run = wl.ensemble(make, 3, x, y, per_member=True, steps=25, optimizer=name, lr=0.03, dtype=torch.float64, **options)
    for i in range(3):
        model, losses = alone(make, i, [(x[i], y[i])] * 25, nn.functional.mse_loss, kind, 0.03, **options)
        np.testing.assert_allclose(run.losses[:, i], losses, rtol=1e-9)
        member = run.member(i)
        assert set(member.state_dict()) == set(model.state_dict())
        for n, value in model.state_dict().items():
            torch.testing.assert_close(member.state_dict()[n], value, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("loss", ["mse", "bce", "cross_entropy", "own"])
@pytest.mark.parametrize("make", [dense, Convolutional])
def test_losses_and_shared_data(make: Any, loss: str) -> None:
    torch.manual_seed(5)
    x = torch.randn(20, 3).double()
    y = {
        "mse": torch.rand(20, 2).double(),
        "bce": (torch.rand(20, 2) > 0.5).double(),
        "cross_entropy": torch.randint(0, 2, (20,)),
        "own": torch.rand(20, 2).double(),
    }[loss]

    def huber(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return nn.functional.smooth_l1_loss(p, t, beta=0.1)

    twin = {
        "mse": nn.functional.mse_loss,
        "bce": nn.functional.binary_cross_entropy_with_logits,
        "cross_entropy": nn.functional.cross_entropy,
        "own": huber,
    }[loss]
    run = wl.ensemble(make, 2, x, y, steps=10, lr=0.02, loss=huber if loss == "own" else loss, dtype=torch.float64)
    for i in range(2):
        model, losses = alone(make, i, [(x, y)] * 10, twin, torch.optim.Adam, 0.02)
        np.testing.assert_allclose(run.losses[:, i], losses, rtol=1e-9)
        for a, b in zip(run.member(i).parameters(), model.parameters()):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_minibatches_follow_each_members_own_seed() -> None:
    torch.manual_seed(5)
    x, y = torch.randn(21, 3).double(), torch.rand(21, 2).double()
    run = wl.ensemble(
        dense, 2, x, y, epochs=3, batch_size=8, lr=0.02, optimizer="sgd", seeds=[4, 9], dtype=torch.float64
    )
    assert run.losses.shape == (9, 2)
    for i, seed in enumerate([4, 9]):
        g = torch.Generator().manual_seed(seed)
        parts = [p for _ in range(3) for p in torch.randperm(21, generator=g).split(8)]
        _, losses = alone(dense, seed, [(x[p], y[p]) for p in parts], nn.functional.mse_loss, torch.optim.SGD, 0.02)
        np.testing.assert_allclose(run.losses[:, i], losses, rtol=1e-9)
    per_member = wl.ensemble(
        dense,
        2,
        x.expand(2, 21, 3),
        y.expand(2, 21, 2),
        epochs=3,
        batch_size=8,
        lr=0.02,
        optimizer="sgd",
        seeds=[4, 9],
        dtype=torch.float64,
    )
    np.testing.assert_array_equal(per_member.losses, run.losses)


def test_a_members_result_does_not_depend_on_its_company() -> None:
    x, y = torch.randn(16, 3).double(), torch.rand(16, 2).double()
    many = wl.ensemble(dense, 5, x, y, epochs=4, batch_size=5, dtype=torch.float64)
    one = wl.ensemble(dense, 1, x, y, epochs=4, batch_size=5, seeds=[3], dtype=torch.float64)
    np.testing.assert_allclose(one.losses[:, 0], many.losses[:, 3], rtol=1e-12)


def test_schedules_and_rates_per_member() -> None:
    x, y = torch.randn(16, 3).double(), torch.rand(16, 2).double()
    rates = [0.01, 0.05, 0.2]
    for name, kind in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        run = wl.ensemble(dense, 3, x, y, steps=12, lr=rates, schedule="cosine", optimizer=name, dtype=torch.float64)
        for i, rate in enumerate(rates):
            torch.manual_seed(i)
            model = dense().double()
            opt = kind(model.parameters(), rate)
            plan = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 12)
            for _ in range(12):
                opt.zero_grad()
                nn.functional.mse_loss(model(x), y).backward()
                opt.step()
                plan.step()
            for a, b in zip(run.member(i).parameters(), model.parameters()):
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    halved = wl.ensemble(
        dense, 3, x, y, steps=12, lr=0.1, schedule=lambda step: 0.5, optimizer="sgd", dtype=torch.float64
    )
    whole = wl.ensemble(dense, 3, x, y, steps=12, lr=0.05, optimizer="sgd", dtype=torch.float64)
    np.testing.assert_allclose(halved.losses, whole.losses)


@pytest.mark.parametrize("make", [dense, Convolutional])
def test_a_member_that_diverges_is_masked_and_the_others_do_not_notice(make: Any) -> None:
    torch.manual_seed(1)
    x, y = torch.randn(4, 10, 3), torch.rand(4, 10, 2)
    y[2, 0, 0] = float("inf")
    whole = wl.ensemble(make, 4, x, y, per_member=True, steps=20)
    start = Stack.make(make, 4)
    assert whole.alive.tolist() == [True, True, False, True]
    assert whole.died_at.tolist() == [-1, -1, 0, -1]
    assert np.isnan(whole.losses[1:, 2]).all()
    assert np.isfinite(whole.losses[:, [0, 1, 3]]).all()
    torch.testing.assert_close(whole.stack.theta[2], start.theta[2], rtol=0, atol=0)
    healthy = wl.ensemble(make, 4, x, y.nan_to_num(posinf=0.5), per_member=True, steps=20)
    np.testing.assert_allclose(whole.losses[:, [0, 1, 3]], healthy.losses[:, [0, 1, 3]], rtol=1e-5)
    assert "1 diverged" in str(whole)


def test_divergence_by_learning_rate_is_not_fatal() -> None:
    x = torch.randn(30, 3) * 10
    run = wl.ensemble(lambda: nn.Linear(3, 1), 3, x, x[:, :1], steps=400, optimizer="sgd", lr=[1e-4, 5.0, 1e-4])
    assert run.alive.tolist() == [True, False, True]
    assert 0 < run.died_at[1] < 400
    assert torch.isfinite(run.stack.theta).all()


def test_fresh_data_and_teachers() -> None:
    make = glorot(4, 3, 1, output=nn.Tanh)
    teachers = Stack.make(make, 3, seeds=[100, 101, 102])
    data = imitation(teachers, 16, seed=7)
    x, y = data(5)
    assert torch.equal(x, data(5)[0])
    assert not torch.equal(x, data(6)[0])
    for i in range(3):
        torch.testing.assert_close(teachers.member(i)(x[i]), y[i])
    assert float(x.min()) >= -1
    assert float(x.max()) < 1
    run = wl.ensemble(make, 3, fresh=data, steps=300, lr=0.05)
    assert (run.losses[-1] < run.losses[0] / 5).all()
    _, losses = alone(
        make,
        1,
        [(data(s)[0][1].double(), data(s)[1][1].double()) for s in range(300)],
        nn.functional.mse_loss,
        torch.optim.Adam,
        0.05,
    )
    np.testing.assert_allclose(run.losses[:50, 1], losses[:50], rtol=1e-3)


def test_stack_runs_every_member() -> None:
    for make in (dense, Convolutional):
        stack = Stack.make(make, 4, seeds=[3, 1, 4, 1])
        stack.template.eval()
        x = torch.randn(6, 3)
        out = stack(x)
        own = stack(x.expand(4, 6, 3).contiguous(), per_member=True)
        for i in range(4):
            torch.testing.assert_close(stack.member(i).eval()(x), out[i])
            torch.testing.assert_close(own[i], out[i])
        assert torch.equal(out[1], out[3])
        assert not torch.equal(out[0], out[1])
        picked = stack[[2, 0]]
        torch.testing.assert_close(picked.theta, stack.theta[[2, 0]])
        again = stack.with_states(stack.states)
        assert torch.equal(again.theta, stack.theta)


def test_make_model_may_take_its_seed() -> None:
    seen: list[int] = []

    def make(seed: int) -> nn.Module:
        seen.append(seed)
        return nn.Linear(2, 1)

    state = torch.random.get_rng_state()
    stack = Stack.make(make, 3, seeds=[5, 6, 5])
    assert seen == [5, 6, 5]
    assert torch.equal(stack.theta[0], stack.theta[2])
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random state was moved"


def test_callbacks_see_the_weights_as_they_are() -> None:
    x, y = torch.randn(8, 2), torch.randn(8, 1)
    seen: list[tuple[int, torch.Tensor]] = []
    run = wl.ensemble(
        lambda: nn.Linear(2, 1),
        2,
        x,
        y,
        steps=7,
        record_every=3,
        callback=lambda step, s: seen.append((step, s.theta.clone())),
    )
    assert [s for s, _ in seen] == [3, 6, 7]
    assert not torch.equal(seen[0][1], seen[1][1])
    assert torch.equal(seen[-1][1], run.stack.theta)


@pytest.mark.parametrize(
    "kw,match",
    [
        ({"steps": None}, "how long"),
        ({"steps": 5, "epochs": 2}, "how long"),
        ({"optimizer": "lion"}, "'sgd', 'adam'"),
        ({"betas": 3, "optimizer": "sgd"}, "no option 'betas'"),
        ({"loss": "hinge"}, "hinge"),
        ({"y": torch.zeros(8)}, r"targets have shape \(8,\)"),
        ({"y": torch.zeros(7, 1)}, "8 inputs but targets"),
        ({"fresh": lambda s: (torch.zeros(8, 2), torch.zeros(8, 1))}, "either as x and y"),
        ({"x": torch.zeros(3, 8, 2)}, "2 members"),
        ({"x": torch.zeros(8, 2, dtype=torch.int64)}, "x.float"),
        ({"lr": [0.1, 0.2, 0.3]}, "one per member"),
        ({"lr": -0.1}, "non-negative"),
        ({"seeds": [1]}, "1 seeds for 2 members"),
        ({"schedule": "linear"}, "cosine"),
        ({"engine": "spark"}, "'local' or 'ray'"),
        ({"batch_size": 0}, "batch_size"),
        ({"n": None}, "how many members"),
    ],
)
def test_refusals(kw: dict[str, Any], match: str) -> None:
    args: dict[str, Any] = {"n": 2, "x": torch.zeros(8, 2), "y": torch.zeros(8, 1), "steps": 3} | kw
    with pytest.raises(InvalidArgument, match=match):
        wl.ensemble(lambda: nn.Linear(2, 1), args.pop("n"), args.pop("x"), args.pop("y"), **args)


def test_architectures_must_agree() -> None:
    sizes = iter([3, 4])
    with pytest.raises(InvalidArgument, match="same architecture"):
        Stack.make(lambda: nn.Linear(2, next(sizes)), 2)
    with pytest.raises(InvalidArgument, match="must have parameters"):
        Stack.make(nn.ReLU, 2)
    with pytest.raises(InvalidArgument, match="CPU"):
        Stack.make(lambda: nn.Linear(2, 1, device="meta"), 2)
    with pytest.raises(InvalidArgument, match="at least one member"):
        Stack.make(dense, 0)


def test_recurrent_networks_are_polished_by_lbfgs() -> None:
    x, y = torch.randn(30, 3), torch.rand(30, 2)
    run = wl.ensemble(Recurrent, 2, x, y, steps=3)
    with pytest.raises(InvalidArgument, match="lbfgs"):
        wl.polish(run, x, y, steps=2)
    better = wl.polish(run, x, y, method="lbfgs", steps=10)
    assert (better.losses[-1] < better.losses[0]).all()


def test_the_callers_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run = wl.ensemble(dense, 2, torch.randn(5, 3), torch.rand(5, 2), steps=2)
        wl.polish(run, torch.randn(50, 3), torch.rand(50, 2), steps=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_argument_is_not_changed() -> None:
    stack = Stack.make(dense, 2)
    before = copy.deepcopy(stack.theta)
    wl.ensemble(stack, x=torch.randn(5, 3), y=torch.rand(5, 2), steps=3)
    assert torch.equal(stack.theta, before)

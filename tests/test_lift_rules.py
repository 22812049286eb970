"""The rules of fit_lift: what is the same, what differs, in batches and for tasks without a fast path."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.oracles_lift import study_data
from weightlapse.errors import InvalidArgument


def small_net(seed: int = 0) -> wl.Lift:
    torch.manual_seed(seed)
    return wl.Lift(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), (8,)).double()


def gradient(net: wl.Lift, objective: torch.Tensor) -> torch.Tensor:
    return torch.cat(
        [g.reshape(-1) for g in torch.autograd.grad(objective, list(net.generator.parameters()), retain_graph=True)]
    )


def parallel(step: str, eta: float = 0.1) -> tuple[float, float]:
    """Cosine and ratio between the gradient of ||w - target||^2 and that of the task's loss, for one sample."""
    net = small_net()
    x, y = torch.randn(1, 3).double(), torch.randn(1, 2).double()
    flat = net.flat_weights_for(x)
    loss = ((net.run_with(x, flat) - y) ** 2).mean()
    (g,) = torch.autograd.grad(loss, flat, retain_graph=True)
    target = (flat - eta * (g if step == "sgd" else g.sign())).detach()
    a = gradient(net, ((flat - target) ** 2).sum())
    b = gradient(net, loss)
    return float(a @ b / a.norm() / b.norm()), float(a.norm() / b.norm())


def test_a_plain_sgd_target_is_end_to_end_training() -> None:
    cosine, ratio = parallel("sgd", eta=0.1)
    assert cosine == pytest.approx(1, abs=1e-12)
    assert ratio == pytest.approx(2 * 0.1, rel=1e-12)


def test_a_sign_like_step_is_not() -> None:
    cosine, _ = parallel("sign")
    assert cosine < 0.99


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_the_identity_holds_through_training(engine: str) -> None:
    """SGD on the generator: lr (2 eta / P) on the task loss is lr on the mean squared distance to the target."""
    x, y = torch.randn(300, 3).double(), torch.randn(300, 2).double()
    toward, through = small_net(), small_net()
    eta, lr = 0.05, 0.2
    start = toward.flat_weights_for(x).detach()
    wl.fit_lift(toward, x, y, rule="target", task_optimizer="sgd", task_lr=eta, optimizer="sgd", lr=lr, engine=engine)
    wl.fit_lift(through, x, y, rule="end_to_end", optimizer="sgd", lr=lr * 2 * eta / toward.generated, engine=engine)
    a, b = toward.flat_weights_for(x).detach(), through.flat_weights_for(x).detach()
    assert (a - start).abs().max() > 1e-3
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_several_inner_steps_leave_the_identity() -> None:
    x, y = torch.randn(200, 3).double(), torch.randn(200, 2).double()
    nets = [small_net(), small_net()]
    for net, k in zip(nets, (1, 5)):
        wl.fit_lift(net, x, y, task_optimizer="sgd", task_lr=0.05, inner_steps=k)
    assert (nets[0].flat_weights_for(x) - nets[1].flat_weights_for(x)).abs().max() > 1e-4


def batch_twin(net: wl.Lift, x: torch.Tensor, y: torch.Tensor, size: int) -> torch.Tensor:
    """The batched target rule written out: per-sample tasks, second moment shared by the batch."""
    net = copy.deepcopy(net)
    moments = [torch.zeros_like(p) for p in net.generator.parameters()]
    shared = torch.zeros(net.generated, dtype=torch.float64)
    for xb, yb in zip(x.split(size), y.split(size)):
        written = net.flat_weights_for(xb)
        rows = []
        for i in range(len(xb)):
            w = written[i : i + 1].detach().requires_grad_()
            loss = ((net.run_with(xb[i : i + 1], w) - yb[i : i + 1]) ** 2).mean()
            rows.append(torch.autograd.grad(loss, w)[0])
        g = torch.cat(rows)
        shared = 0.9 * shared + 0.1 * (g**2).mean(0)
        target = written.detach() - 1e-3 * g / (shared.sqrt() + 1e-7)
        gs = torch.autograd.grad(((written - target) ** 2).mean(), list(net.generator.parameters()))
        with torch.no_grad():
            for p, gp, v in zip(net.generator.parameters(), gs, moments):
                v.mul_(0.9).add_(gp**2, alpha=0.1)
                p.sub_(1e-3 * gp / (v.sqrt() + 1e-7))
    return torch.cat([p.detach().reshape(-1) for p in net.generator.parameters()])


@pytest.mark.parametrize("size", [1, 8, 37])
def test_batches_equal_the_rule_written_out(size: int) -> None:
    x, y = torch.randn(100, 3).double(), torch.randn(100, 2).double()
    net = small_net()
    wanted = batch_twin(net, x, y, size)
    history = wl.fit_lift(net, x, y, batch_size=size)
    assert history.updates == -(-100 // size)
    got = torch.cat([p.detach().reshape(-1) for p in net.generator.parameters()])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


def test_any_task_any_loss_any_torch_optimizer() -> None:
    """A convolutional classifier whose head alone is generated learns by each rule; its own parameters learn as well."""
    torch.manual_seed(0)
    x = torch.randn(120, 1, 6, 6)
    labels = (x.mean((1, 2, 3)) > 0).long()
    for rule in ("target", "end_to_end", "fixed_start"):
        torch.manual_seed(1)
        task = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
        net = wl.Lift(task, nn.Sequential(nn.Flatten(), nn.Linear(36, 98)), parameters="4.*", base="frozen")
        conv = net.task[0].weight.detach().clone()
        history = wl.fit_lift(
            net, x, labels, rule=rule, online=False, seed=0, batch_size=20, epochs=15, inner_steps=5 if rule != "end_to_end" else 1,
            loss=lambda p, t: nn.functional.cross_entropy(p, t, reduction="none"), optimizer=torch.optim.Adam(net.parameters(), 1e-2), task_lr=1e-2,
        )  # fmt: skip
        means = history.epoch_means()
        assert means[-1] < 0.7 * means[0], rule
        assert (net.task[0].weight - conv).abs().max() > 1e-3
        assert history.engine == "torch"


def test_history_and_callbacks() -> None:
    x, y = study_data(50)
    net = wl.Lift(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))).double()
    seen: list[tuple[int, np.ndarray]] = []
    frames: list[tuple[int, float, np.ndarray]] = []

    class Recorder:
        def step(self, params=None, *, step: int, **scalars: float) -> None:
            frames.append((step, scalars["loss"], net.generator[0].bias.detach().numpy().copy()))

    history = wl.fit_lift(
        net, x, y, epochs=2, record=Recorder(), record_every=7, callback_every=30,
        callback=lambda done, n: seen.append((done, n.generator[0].bias.detach().numpy().copy())),
    )  # fmt: skip
    assert [s for s, _ in seen] == [30, 60, 90]
    assert [s for s, *_ in frames] == list(range(7, 100, 7))
    assert [loss for _, loss, _ in frames] == [history.loss[s - 1] for s, *_ in frames]
    assert not np.array_equal(frames[0][2], frames[-1][2]), "the module was not brought up to date"
    plain = wl.Lift(net.task_at(x[:1]), copy.deepcopy(net.generator))
    assert plain.generated == 26
    assert len(history) == history.updates == 100
    assert history.samples == 100
    assert history.epoch_means().shape == (2,)


@pytest.mark.parametrize(
    "kw,match",
    [
        ({"rule": "magic"}, "rule must be one of"),
        ({"eps": 1e-7}, "inside"),
        ({"optimizer": "adam"}, "'rmsprop' or 'sgd'"),
        ({"batch_size": 0}, "at least 1"),
        ({"lr": -1.0}, "positive"),
        ({"engine": "gpu"}, "engine must be"),
        ({"engine": "numpy", "batch_size": 4}, "one sample at a time"),
        ({"loss": "hinge"}, "hinge"),
        ({"inner_steps": 0}, "inner_steps"),
    ],
)
def test_refusals(kw: dict, match: str) -> None:
    net = small_net()
    with pytest.raises(InvalidArgument, match=match):
        wl.fit_lift(net, torch.randn(4, 3), torch.randn(4, 2), **kw)


def test_shapes_that_cannot_be_meant() -> None:
    net = small_net()
    with pytest.raises(InvalidArgument, match="4 samples and y"):
        wl.fit_lift(net, torch.randn(4, 3), torch.randn(5, 2))
    with pytest.raises(InvalidArgument, match=r"y has shape \(4,\)"):
        wl.fit_lift(net, torch.randn(4, 3), torch.randn(4))
    with pytest.raises(InvalidArgument, match="Lift"):
        wl.fit_lift(nn.Linear(3, 2), torch.randn(4, 3), torch.randn(4, 2))

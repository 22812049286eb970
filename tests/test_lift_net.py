"""Lift as a module: each row of a batch is the task run with its own weights, for any task and any subset of its parameters."""

from __future__ import annotations

import copy
from fnmatch import fnmatch

import pytest
import torch
from torch import nn
from torch.func import functional_call

import weightlapse as wl
from weightlapse.errors import InvalidArgument, UnknownTensor
from weightlapse.lift.generators import ChunkedGenerator, CosSin, dense_generator


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


class HandWritten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.tanh(self.fc1(x)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


def writer(shape: tuple[int, ...], count: int) -> nn.Module:
    return dense_generator(torch.Size(shape).numel(), count, (6,))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(x)[0][:, -1])


def rows_one_by_one(net: wl.Lift, task: nn.Module, x: torch.Tensor, hyper: torch.Tensor | None = None) -> torch.Tensor:
    written = net.weights_for(x, hyper)
    own = dict(net.task.named_parameters())
    task = copy.deepcopy(task).eval()
    return torch.cat(
        [
            functional_call(task, {**own, **{n: w[i] for n, w in written.items()}}, (x[i : i + 1],))
            for i in range(len(x))
        ]
    )


TASKS = {
    "dense": (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1)), (3,), "*"),
    "hand-written": (HandWritten(), (3,), "*"),
    "one layer": (HandWritten(), (3,), ["fc2.*"]),
    "weights only": (HandWritten(), (3,), "*.weight"),
    "norms": (nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 2)), (3,), "*"),
    "tied": (Tied(), (4,), "*"),
    "attention": (
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        (5, 8),
        ["*self_attn*", "linear1.*"],
    ),
    "recurrent": (Recurrent(), (5, 3), "*"),
    "convolutional": (Convolutional(), (1, 4, 4), ["conv.*", "head.weight"]),
}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("base", [None, "frozen", "trained"])
def test_each_row_runs_with_its_own_weights(name: str, base: str | None) -> None:
    task, shape, globs = TASKS[name]
    torch.manual_seed(0)
    before = copy.deepcopy(task.state_dict())
    count = sum(
        p.numel()
        for n, p in task.named_parameters()
        if any(fnmatch(n, g) for g in ([globs] if isinstance(globs, str) else globs))
    )
    net = wl.Lift(task, writer(shape, count), parameters=globs, base=base).double()
    x = torch.randn(9, *shape).double()
    out = net(x)
    wanted = rows_one_by_one(net, task.double(), x)
    torch.testing.assert_close(out, wanted, rtol=1e-10, atol=1e-10)
    assert (out[0] - out[1]).abs().max() > 0
    written = net.weights_for(x)
    assert {n: tuple(w.shape[1:]) for n, w in written.items()} == {
        n: tuple(p.shape) for n, p in task.named_parameters() if n in written
    }
    assert (next(iter(written.values()))[0] != next(iter(written.values()))[1]).any()
    assert all(torch.equal(before[n].double(), v.double()) for n, v in task.state_dict().items()), (
        "the argument was changed"
    )
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_what_is_trainable() -> None:
    task = HandWritten()
    whole = wl.Lift(task)
    assert all(n.startswith("generator.") for n, _ in whole.named_parameters())
    part = wl.Lift(task, parameters="fc1.*")
    assert {n for n, _ in part.named_parameters() if n.startswith("task.")} == {"task.fc2.weight", "task.fc2.bias"}
    deltas = wl.Lift(task, base="trained")
    assert (
        sum(p.numel() for p in deltas.parameters()) - sum(p.numel() for p in deltas.generator.parameters())
        == whole.generated
    )


def test_a_base_is_where_training_starts() -> None:
    task, x = HandWritten(), torch.randn(5, 3)
    net = wl.Lift(task, base="frozen")
    for p in net.generator.parameters():
        p.data.zero_()
    torch.testing.assert_close(net(x), task(x))


def test_the_network_written_for_one_input() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    net = wl.Lift(Tied(), writer((4,), 16))
    one = net.task_at(x[:1])
    assert one.a.weight is one.b.weight
    assert [n for n, _ in one.named_parameters()] == ["a.weight"]
    torch.testing.assert_close(one(x[:1]), net(x[:1]))
    with pytest.raises(InvalidArgument, match="single input"):
        net.task_at(x)


def test_a_separate_hyper_input() -> None:
    torch.manual_seed(0)
    task = HandWritten()
    x, hyper = torch.randn(7, 3), torch.randn(7, 2)
    net = wl.Lift(task, hyper_input=2)
    torch.testing.assert_close(net(x, hyper), rows_one_by_one(net, task, x, hyper), rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidArgument, match="hyper"):
        net(x)
    with pytest.raises(InvalidArgument, match=r"expected \(7, 2\)"):
        net(x, hyper[:3])
    by_map = wl.Lift(task, dense_generator(1, 38), hyper_input=lambda x: x[:, :1])
    a, b = x.clone(), x.clone()
    b[:, 1:] += 1
    assert torch.equal(by_map.flat_weights_for(a), by_map.flat_weights_for(b))
    with pytest.raises(InvalidArgument, match="no second argument"):
        by_map(x, hyper)


def test_norms_keep_to_their_running_statistics() -> None:
    task = Convolutional()
    task.norm.running_mean.normal_()
    net = wl.Lift(task, writer((1, 4, 4), sum(p.numel() for p in task.parameters()))).train()
    before = net.task.norm.running_mean.clone()
    net(torch.randn(6, 1, 4, 4))
    assert net.training
    assert not net.task.norm.training
    assert torch.equal(net.task.norm.running_mean, before)


def test_a_task_that_writes_to_its_buffers_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.register_buffer("seen", torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.fc(x)
            self.seen.add_(y.detach().mean(0))
            return y

    with pytest.raises(InvalidArgument, match="seen"):
        wl.Lift(Counting(), dense_generator(3, 8))(torch.randn(4, 3))


def test_large_tasks_get_a_chunked_generator() -> None:
    task = nn.Sequential(nn.Linear(100, 300), nn.ReLU(), nn.Linear(300, 10))
    net = wl.Lift(task)
    assert isinstance(net.generator, ChunkedGenerator)
    assert sum(p.numel() for p in net.parameters()) < net.generated * 3
    assert net(torch.randn(4, 100)).shape == (4, 10)
    written = net.weights_for(torch.randn(2, 100))
    assert (written["0.weight"][0] != written["0.weight"][1]).any()


@pytest.mark.parametrize("mode,kind", [("hyperfan_in", "forward"), ("hyperfan_out", "backward")])
def test_hyperfan_keeps_the_scale_through_a_deep_task(mode: str, kind: str) -> None:
    torch.manual_seed(0)
    depth = 8
    layers: list[nn.Module] = [nn.Linear(24, 24) for _ in range(depth)]
    task = nn.Sequential(*[m for layer in layers for m in (layer, nn.ReLU())])
    x = torch.randn(256, 24)

    def growth(init: str) -> float:
        net = wl.Lift(task, (64,), init=init)
        weights = net.flat_weights_for(x).detach()
        inputs = x.clone().requires_grad_()
        out = net.run_with(inputs, weights)
        if kind == "forward":
            return float((out.detach() ** 2).mean(1).median() / 0.5)
        noise = torch.randn_like(out)
        (gradient,) = torch.autograd.grad((out * noise).sum(), inputs)
        return float((gradient**2).mean(1).median() / 0.5)

    assert 0.1 < growth(mode) < 10
    assert not 0.1 < growth("glorot") < 10, "the plain start must show what hyperfan mends"


def test_cos_sin_has_constant_length() -> None:
    code = CosSin(scale=10.0)(torch.randn(50, 3) * 5)
    torch.testing.assert_close(code.norm(dim=1), torch.full((50,), 3**0.5))


@pytest.mark.parametrize(
    "make,error,match",
    [
        (lambda t: wl.Lift(t, parameters="fc9.*"), UnknownTensor, "fc9"),
        (lambda t: wl.Lift(t, parameters=[]), InvalidArgument, "selects nothing"),
        (lambda t: wl.Lift(t, nn.Linear(3, 7)), InvalidArgument, "writes 7 numbers"),
        (lambda t: wl.Lift(t, base="loose"), InvalidArgument, "loose"),
        (lambda t: wl.Lift(t, init="magic"), InvalidArgument, "magic"),
        (lambda t: wl.Lift(Convolutional()), InvalidArgument, "pass a generator"),
        (lambda t: wl.Lift(nn.ReLU()), InvalidArgument, "no parameters"),
    ],
)
def test_refusals(make, error, match: str) -> None:
    with pytest.raises(error, match=match):
        make(HandWritten())


def test_a_generator_of_the_wrong_width_is_named_when_it_runs() -> None:
    class Odd(nn.Module):
        def forward(self, h: torch.Tensor) -> torch.Tensor:
            return h.repeat(1, 2)

    with pytest.raises(InvalidArgument, match="must write 38 weights"):
        wl.Lift(HandWritten(), Odd())(torch.randn(4, 3))

"""Polishing: Jacobians and curvature against autograd and SciPy, and the last decades of the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import nn

import weightlapse as wl
from weightlapse.ensembles.batches import imitation
from weightlapse.ensembles.residuals import Residuals
from weightlapse.ensembles.stack import Stack, glorot
from weightlapse.errors import InvalidArgument


class HandWritten(nn.Module):
    """No chain: it skips."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.skip = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(3, 2)
        self.register_buffer("shift", torch.tensor([0.5, -0.5]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(x))) + self.skip(x) + self.shift


MODELS = {
    "tanh": lambda: nn.Sequential(
        nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.Sigmoid(), nn.Linear(4, 2), nn.Tanh()
    ),
    "relu": lambda: nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)),
    "own": HandWritten,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("own_x", [False, True])
def test_jacobian_equals_autograd(name: str, own_x: bool) -> None:
    stack = Stack.make(MODELS[name], 3, dtype=torch.float64)
    x = torch.randn(*((3, 7, 3) if own_x else (7, 3)), dtype=torch.float64)
    y = torch.randn(3, 7, 2, dtype=torch.float64)
    problem = Residuals.of(stack, x, y, own_x)
    chosen = torch.tensor([2, 0])
    residual, jacobian = problem.with_jacobian(stack.theta[chosen], chosen)
    assert jacobian.shape == (2, 14, stack.parameters)
    for row, i in enumerate(chosen.tolist()):
        model = stack.member(i)
        sample = x[i] if own_x else x
        out = (model(sample) - y[i]).flatten()
        torch.testing.assert_close(residual[row], out.detach())
        for m, value in enumerate(out):
            grads = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
            torch.testing.assert_close(
                jacobian[row, m], torch.cat([g.flatten() for g in grads]), rtol=1e-10, atol=1e-12
            )


@pytest.mark.parametrize("method,steps", [("lm", 200), ("lbfgs", 3000)])
def test_the_least_squares_are_those_of_scipy(method: str, steps: int) -> None:
    """A problem with noise has one nearest minimum, which SciPy finds as well."""
    torch.manual_seed(0)
    x = torch.linspace(-2, 2, 60, dtype=torch.float64)[:, None]
    y = torch.tanh(1.3 * x - 0.2) + 0.1 * torch.randn(60, 1, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)).double()
    problem = Residuals.of(Stack.of([model]), x, y, None)
    first = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
    one = torch.zeros(1, dtype=torch.int64)
    found = least_squares(
        lambda t: problem.values(torch.from_numpy(t)[None], one)[0].numpy(), first, method="lm", xtol=1e-14, ftol=1e-14
    )
    result = wl.polish(model, x, y, method=method, steps=steps)
    wanted = 2 * found.cost / 60
    assert result.losses[-1, 0] == pytest.approx(wanted, rel=1e-9)
    assert result.losses[0, 0] > 1.5 * wanted


CHAIN = glorot(2, 3, 1, output=nn.Tanh)


@pytest.mark.parametrize(
    "make,method,steps",
    [(CHAIN, "lm", 250), (HandWritten, "lm", 250), (CHAIN, "lbfgs", 600), (HandWritten, "lbfgs", 1500)],
)  # by lbfgs the slowest member is there after 93 and after 1028
def test_the_last_decades(make: Any, method: str, steps: int) -> None:
    """Students near their teachers reach them; each member has its own teacher, and goes its own way."""
    teachers = Stack.make(make, 4, seeds=[10, 11, 12, 13], dtype=torch.float64)
    students = teachers[:]
    students.theta += 0.05 * torch.randn(
        students.theta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    before = students.theta.clone()
    width = 2 if teachers.chain is not None else 3
    x = torch.rand(200, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    result = wl.polish(students, x, teachers(x), method=method, steps=steps)
    assert (result.losses[0] > 1e-6).all()
    assert (result.losses[-1] < (1e-12 if method == "lm" else 1e-10)).all()
    if make is not HandWritten:
        fresh = torch.rand(50, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        torch.testing.assert_close(result.stack(fresh), teachers(fresh), rtol=0, atol=1e-4)
    assert (np.diff(result.losses, axis=0) <= 0).all(), "a step that raises the error was taken"
    assert torch.equal(students.theta, before), "the argument was changed"
    alone = wl.polish(students[[2]], x, teachers[[2]](x), method=method, steps=30)
    np.testing.assert_allclose(alone.losses[:10, 0], result.losses[:10, 2], rtol=1e-6)


def test_every_student_at_zero_loss_has_its_teachers_weights() -> None:
    """From independent starts: some students reach zero, and those have the teacher's weights up to order and sign; the others have not."""
    make = glorot(4, 3, 1, output=nn.Tanh)
    teachers = Stack.make(make, 16, seeds=[200 + i % 4 for i in range(16)])
    trained = wl.ensemble(make, 16, fresh=imitation(teachers, 64), steps=1500, lr=0.02, schedule="cosine")
    exact = teachers.to(torch.float64)
    x, fresh = (
        torch.rand(n, 4, generator=torch.Generator().manual_seed(n), dtype=torch.float64) * 2 - 1 for n in (300, 700)
    )
    polished = wl.polish(trained, x, exact(x), steps=250)
    error = ((polished.stack(fresh) - exact(fresh)) ** 2).mean((1, 2)).numpy()
    zero = error < 1e-12
    assert 0.15 < zero.mean() < 1
    wiring = wl.trace(make(), torch.zeros(2, 4))
    raw, aligned = [], []
    for i in range(16):
        a, b = ({k: v.numpy() for k, v in s.state(i).items()} for s in (exact, polished.stack))
        found = wl.align(a, b, wiring=wiring)
        raw.append(found.distance_before)
        aligned.append(found.distance_after)
    assert (np.array(aligned)[zero] < 1e-3).all()
    assert np.median(np.array(raw)[zero]) > 1
    assert (np.array(aligned)[~zero] > 1e-3).all()


def test_accepts_modules_stacks_and_ensembles_in_any_dtype() -> None:
    x = torch.rand(50, 2)
    y = (x.sum(1, keepdim=True) - 1) * 0.5
    run = wl.ensemble(glorot(2, 3, 1), 3, x, y, steps=50, lr=0.02)
    by_run, by_stack = wl.polish(run, x, y, steps=20), wl.polish(run.stack, x, y, steps=20)
    np.testing.assert_array_equal(by_run.losses, by_stack.losses)
    by_module = wl.polish(run.member(1), x, y, steps=20)
    np.testing.assert_allclose(by_module.losses[:5, 0], by_run.losses[:5, 1], rtol=1e-6)
    assert by_run.member(0)[0].weight.dtype == torch.float64
    assert by_run.states["0.weight"].shape == (3, 3, 2)


def test_recorders_and_callbacks() -> None:
    x = torch.rand(50, 2)
    frames: list[tuple[int, float, np.ndarray]] = []

    class Recorder:
        def step(self, params, *, step: int, loss: float) -> None:
            frames.append((step, loss, params["0.weight"].copy()))

    seen: list[int] = []
    stack = Stack.make(glorot(2, 3, 1), 2)
    result = wl.polish(
        stack,
        x,
        x[:, :1] * x[:, 1:],
        steps=10,
        record=Recorder(),
        record_every=4,
        first_step=100,
        callback=lambda s, _: seen.append(s),
    )
    assert [f[0] for f in frames] == [104, 108, 110]
    assert result.steps == 10
    assert seen == [4, 8, 10]
    assert not np.array_equal(frames[0][2], frames[1][2])


def test_a_member_that_is_not_finite_rests() -> None:
    stack = Stack.make(glorot(2, 3, 1), 2, dtype=torch.float64)
    stack.theta[1, 0] = float("nan")
    x = torch.rand(50, 2, dtype=torch.float64)
    for method in ("lm", "lbfgs"):
        result = wl.polish(stack, x, x[:, :1] * 0.1, method=method, steps=60)
        assert result.losses[-1, 0] < result.losses[0, 0] / 10
        assert np.isnan(result.losses[-1, 1])


@pytest.mark.parametrize(
    "kw,match",
    [
        ({"method": "newton"}, "newton"),
        ({"steps": 0}, "at least 1"),
        ({"damping": 0}, "damping positive"),
        ({"y": torch.zeros(5)}, r"expected \(5, 1\)"),
    ],
)
def test_refusals(kw: dict, match: str) -> None:
    args = {"x": torch.zeros(5, 2), "y": torch.zeros(5, 1)} | kw
    with pytest.raises(InvalidArgument, match=match):
        wl.polish(nn.Linear(2, 1), args.pop("x"), args.pop("y"), **args)


def test_networks_too_large_for_lm_are_told_what_to_do() -> None:
    with pytest.raises(InvalidArgument, match="lbfgs"):
        wl.polish(nn.Linear(100, 60), torch.zeros(2, 100), torch.zeros(2, 60))

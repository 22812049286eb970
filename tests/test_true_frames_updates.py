"""Which update a frame belongs to: the outermost object that is stepped counts, and what moves besides is said."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import weightlapse as wl
from tests.nets_capture import check, clone, mlp
from weightlapse.errors import RecorderWarning


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTLAPSE_STRICT", raising=False)
    torch.manual_seed(0)


@contextmanager
def said() -> Iterator[list[str]]:
    """What recorders say within."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    texts += [str(w.message) for w in caught if issubclass(w.category, RecorderWarning)]


def backward(model: nn.Module) -> torch.Tensor:
    loss = model(torch.randn(5, 6)).pow(2).mean()
    loss.backward()
    return loss


class Lookahead:
    """Every second step the fast weights are pulled back to the slow ones: no Optimizer, but it holds one."""

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        self.optimizer = optimizer
        self.slow = [p.detach().clone() for p in model.parameters()]
        self.fast = list(model.parameters())
        self.k = 0

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def step(self) -> None:
        self.optimizer.step()
        self.k += 1
        if self.k % 2 == 0:
            for slow, fast in zip(self.slow, self.fast):
                slow += 0.5 * (fast.data - slow)
                fast.data.copy_(slow)  # moves no counter of torch


class LookaheadOptimizer(torch.optim.Optimizer):
    """The same as an Optimizer, as most are written: without ``super().__init__()``."""

    def __init__(self, base: torch.optim.Optimizer, model: nn.Module) -> None:
        self.base = base
        self.inner = Lookahead(base, model)
        self.defaults, self.param_groups, self.state = base.defaults, base.param_groups, base.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:
        self.inner.step()


class Engine:
    """As DeepSpeed's: called at every batch, and makes an update at every third."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.batches = optimizer, 0

    def zero_grad(self) -> None: ...

    def step(self) -> None:
        self.batches += 1
        if self.batches % 3 == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "lookahead": lambda m: Lookahead(torch.optim.SGD(m.parameters(), 0.1), m),
    "lookahead of adam": lambda m: Lookahead(torch.optim.Adam(m.parameters(), 1e-2), m),
    "optimizer without super().__init__()": lambda m: LookaheadOptimizer(torch.optim.SGD(m.parameters(), 0.1), m),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapper_is_recorded_when_it_is_done(tmp_path: Path, kind: str) -> None:
    model = mlp()
    optimizer = WRAPPERS[kind](model)
    by_hand = [clone(model)]
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=optimizer):
        for _ in range(7):
            optimizer.zero_grad()
            backward(model)
            optimizer.step()
            by_hand.append(clone(model))
    check(tmp_path / "run", by_hand)
    assert texts == []


@pytest.mark.parametrize("every", [1, 2])
def test_a_call_without_an_update_is_no_step(tmp_path: Path, every: int) -> None:
    model = mlp()
    engine = Engine(torch.optim.Adam(model.parameters(), 1e-2))
    by_hand = [clone(model)]
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=engine, every=every):
        for k in range(12):
            backward(model)
            engine.step()
            if k % 3 == 2:
                by_hand.append(clone(model))
    check(tmp_path / "run", by_hand[::every], list(range(0, 5, every)))
    assert texts == []


def test_an_engine_that_updates_in_its_backward(tmp_path: Path) -> None:
    """As DeepSpeed under accelerate: step() of the wrapper does nothing, the update was made before."""
    model = mlp()
    base = torch.optim.SGD(model.parameters(), 0.1)

    class Wrapper:
        optimizer = None

        def __init__(self) -> None:
            self.optimizer = base

        def step(self) -> None: ...

    wrapper = Wrapper()
    inner_step = type(base).step
    by_hand = [clone(model)]
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=wrapper):
        for _ in range(4):
            backward(model)
            inner_step.__wrapped__(base)  # past all hooks, as an engine of its own would
            base.zero_grad()
            wrapper.step()
            by_hand.append(clone(model))
    check(tmp_path / "run", by_hand)
    assert texts == []


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation as it is published (github.com/davda54/sam)."""

    def __init__(self, params: Any, base: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.data.clone()
                p.add_(p.grad * group["rho"] / norm)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old"]
        self.base_optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        closure = torch.enable_grad()(closure)
        self.first_step()
        closure()
        self.second_step()


@pytest.mark.parametrize("phases", [True, False])
def test_two_phases_are_one_update(tmp_path: Path, phases: bool) -> None:
    model = mlp()
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    by_hand = [clone(model)]
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=optimizer):
        for _ in range(6):
            backward(model)
            if phases:
                optimizer.first_step()
                backward(model)
                optimizer.second_step()
            else:
                optimizer.step(lambda: backward(model))
            by_hand.append(clone(model))
    check(tmp_path / "run", by_hand)
    assert texts == []


class Ascent:
    """The other names of the two phases, around an optimizer (ASAM)."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @torch.no_grad()
    def ascent_step(self) -> None:
        for p in self.optimizer.param_groups[0]["params"]:
            p.add_(p.grad, alpha=0.01)

    @torch.no_grad()
    def descent_step(self) -> None:
        for p in self.optimizer.param_groups[0]["params"]:
            p.sub_(p.grad, alpha=0.01)
        self.optimizer.step()
        self.optimizer.zero_grad()


def test_two_phases_by_other_names(tmp_path: Path) -> None:
    model = mlp()
    optimizer = Ascent(torch.optim.Adam(model.parameters(), 1e-2))
    by_hand = [clone(model)]
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=optimizer):
        for _ in range(5):
            backward(model)
            optimizer.ascent_step()
            optimizer.descent_step()
            by_hand.append(clone(model))
    check(tmp_path / "run", by_hand)
    assert texts == []


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("how", ["before", "after", "function", "scheduler"])
def test_compiled_steps(tmp_path: Path, how: str) -> None:
    torch._dynamo.reset()
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    if how == "before":
        optimizer.step = torch.compile(optimizer.step, backend="eager")  # type: ignore[method-assign]
    by_hand = [clone(model)]
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=optimizer) as rec:
        if how == "after":
            optimizer.step = torch.compile(optimizer.step, backend="eager")  # type: ignore[method-assign]
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2) if how == "scheduler" else None
        step = torch.compile(lambda: optimizer.step(), backend="eager") if how in ("function", "scheduler") else None
        for _ in range(5):
            optimizer.zero_grad()
            backward(model)
            step() if step is not None else optimizer.step()
            if scheduler is not None:
                scheduler.step()
            by_hand.append(clone(model))
        assert rec.frames == 6
    check(tmp_path / "run", by_hand)
    assert texts == []


@pytest.mark.parametrize("first", ["scheduler", "watch"])
def test_schedulers_wrap_the_step_too(tmp_path: Path, first: str) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    make = lambda: torch.optim.lr_scheduler.StepLR(optimizer, 3)  # noqa: E731
    scheduler = make() if first == "scheduler" else None
    by_hand = [clone(model)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch says when it thinks that step() was not called
        with wl.watch(model, tmp_path / "run", optimizer=optimizer):
            scheduler = scheduler or make()
            for _ in range(5):
                optimizer.zero_grad()
                backward(model)
                optimizer.step()
                scheduler.step()
                by_hand.append(clone(model))
    check(tmp_path / "run", by_hand)
    optimizer.step()  # after close: as ever
    assert wl.load(tmp_path / "run").frames == 6
    assert ("step" in vars(optimizer)) is True  # the scheduler's own
    assert optimizer.param_groups[0]["lr"] < 0.1


def test_a_step_bound_before_is_seen(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    bound = optimizer.step
    by_hand = [clone(model)]
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=optimizer):
        for _ in range(4):
            optimizer.zero_grad()
            backward(model)
            bound()
            by_hand.append(clone(model))
    check(tmp_path / "run", by_hand)
    assert texts == []
    assert "step" not in vars(optimizer)


def test_a_wrapper_whose_inner_optimizer_is_stepped(tmp_path: Path) -> None:
    model = mlp()
    wrapper = Engine(torch.optim.SGD(model.parameters(), 0.1))
    by_hand = [clone(model)]
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=wrapper):
        for _ in range(4):
            wrapper.optimizer.zero_grad()
            backward(model)
            wrapper.optimizer.step()
            by_hand.append(clone(model))
    check(tmp_path / "run", by_hand)
    assert texts == []


def test_accelerate(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer = accelerator.prepare(mlp(), torch.optim.Adam(mlp().parameters(), 1e-2))
    optimizer = accelerator.prepare(torch.optim.Adam(model.parameters(), 1e-2))
    for given in (optimizer, optimizer.optimizer):
        by_hand = [clone(model)]
        with said() as texts, wl.watch(model, tmp_path / type(given).__name__, optimizer=given):
            for k in range(6):
                with accelerator.accumulate(model):
                    accelerator.backward(model(torch.randn(5, 6)).pow(2).mean())
                    optimizer.step()
                    optimizer.zero_grad()
                if k % 2:
                    by_hand.append(clone(model))
        check(tmp_path / type(given).__name__, by_hand)
        assert texts == []


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.optim.SGD(mlp().parameters(), 0.1),
        lambda: Engine(torch.optim.Adam(mlp().parameters())),
        lambda: [torch.optim.SGD(mlp().parameters(), 0.1), torch.optim.Adam(mlp().parameters())],
    ],
)
def test_the_optimizer_of_another_model_is_refused(tmp_path: Path, make: Any) -> None:
    with pytest.raises(wl.InvalidArgument, match="none of them is a parameter of this Sequential"):
        wl.watch(mlp(), tmp_path / "run", optimizer=make())
    assert not (tmp_path / "run").exists()


def test_parameters_in_flat_memory_are_the_models(tmp_path: Path) -> None:
    model = mlp()
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in model.parameters()]))
    start = 0
    for p in model.parameters():
        p.data = flat.data[start : start + p.numel()].view_as(p)
        start += p.numel()
    optimizer = torch.optim.SGD([flat], 0.1)
    by_hand = [clone(model)]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer):
        for _ in range(3):
            flat.grad = torch.randn_like(flat)
            optimizer.step()
            by_hand.append(clone(model))
    check(tmp_path / "run", by_hand)


# ---- what is said ---------------------------------------------------------------------------------------------------


class GAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.G, self.D = mlp(), nn.Linear(3, 1)


def findings(path: Path) -> dict[str, str]:
    return {f.kind: f.text for f in wl.diagnose(wl.load(path)) if f.tensor == ""}


def test_one_of_two_optimizers(tmp_path: Path) -> None:
    model = GAN()
    og, od = torch.optim.SGD(model.G.parameters(), 0.1), torch.optim.SGD(model.D.parameters(), 0.1)
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=og):
        for _ in range(5):
            model.D(model.G(torch.randn(5, 6))).mean().backward()
            og.step()
            od.step()
    assert len(texts) == 3
    assert "no optimizer given to watch() holds D.weight, D.bias, which can be trained" in texts[0]
    assert (
        "of step 1 holds when the next update begins: no optimizer given to watch() holds D.weight, D.bias" in texts[1]
    )
    assert "D.weight, D.bias changed after step 5, the last one that was seen" in texts[2]
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert np.array_equal(run["D.weight"][-1], model.D.weight.detach().numpy())
    assert {"not_held", "changed_after", "last_frame"} <= set(findings(tmp_path / "run"))


@pytest.mark.parametrize("logs", [0, 2])
def test_a_forgotten_optimizer(tmp_path: Path, logs: int) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    first = clone(model)
    with said() as texts, wl.watch(model, tmp_path / "run") as rec:
        for k in range(6):
            backward(model)
            optimizer.step()
            if k < logs * 3:
                rec.log(loss=1.0)
    assert len(texts) == 1
    assert "watch() was given no optimizer and rec.step() was not called" in texts[0]
    check(tmp_path / "run", [first, clone(model)])
    assert "unseen_updates" in findings(tmp_path / "run")


def test_an_optimizer_that_is_replaced_in_mid_run(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    by_hand = [clone(model)]
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=optimizer):
        for k in range(8):
            if k == 4:
                optimizer = torch.optim.Adam(model.parameters(), 1e-2)
            backward(model)
            optimizer.step()
            if k < 4:
                by_hand.append(clone(model))
    assert len(texts) == 1
    assert "changed after step 4, the last one that was seen, by updates that were not seen" in texts[0]
    check(tmp_path / "run", [*by_hand, clone(model)])


def test_weights_clipped_after_the_step(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=optimizer):
        for _ in range(5):
            backward(model)
            optimizer.step()
            with torch.no_grad():
                for p in model.parameters():
                    p.clamp_(-0.1, 0.1)
    assert len(texts) == 2
    assert "not what the frame of step 2 holds" in texts[0]
    assert "clipping" in texts[0]
    assert "changed after step 5" in texts[1]
    assert np.array_equal(wl.load(tmp_path / "run")["0.weight"][-1], model[0].weight.detach().numpy())


@pytest.mark.parametrize("when", ["before", "after", "before, of all", "after, of all", "after, first of its kind"])
def test_hooks_that_change_weights_belong_to_the_step(tmp_path: Path, when: str) -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 0.5)
    by_hand = [clone(model)]

    def clip(*_: Any) -> None:
        with torch.no_grad():
            for p in model.parameters():
                p.clamp_(-0.1, 0.1)

    def register() -> Any:
        all_ = "of all" in when
        return register_optimizer_step_post_hook(clip) if all_ else optimizer.register_step_post_hook(clip)

    handles = [] if "after" in when else [register()]
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=optimizer):
        if "first" in when:
            handles.append(optimizer.register_step_pre_hook(lambda *_: None))
        for k in range(6):
            if k == 2 and "after" in when:
                handles.append(register())
            backward(model)
            optimizer.step()
            by_hand.append(clone(model))
    for handle in handles:
        handle.remove()
    assert texts == []
    check(tmp_path / "run", by_hand)


def test_weights_loaded_after_watch_was_called(tmp_path: Path) -> None:
    model, other = mlp(), mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=optimizer):
        model.load_state_dict(other.state_dict())
        backward(model)
        optimizer.step()
    assert len(texts) == 1
    assert "not what the frame of step 0 holds" in texts[0]
    assert "a checkpoint that is loaded" in texts[0]


def test_weights_swapped_out_and_back_are_not_spoken_of(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    by_hand = [clone(model)]
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=optimizer):
        for _ in range(4):
            backward(model)
            optimizer.step()
            by_hand.append(clone(model))
            kept = {n: t.clone() for n, t in model.state_dict().items()}
            model.load_state_dict({n: t * 0 for n, t in kept.items()})  # evaluation with an average, say
            model.load_state_dict(kept)
    check(tmp_path / "run", by_hand)
    assert texts == []


@pytest.mark.parametrize("why", ["frozen", "stale"])
def test_frames_that_change_nothing(tmp_path: Path, why: str) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=optimizer):
        if why == "stale":
            model.load_state_dict(mlp().state_dict(), assign=True)  # the optimizer keeps the tensors of before
        for _ in range(6):
            if why == "stale":
                backward(model)
            optimizer.step()
    assert wl.load(tmp_path / "run").frames == 7
    assert any("the weights do not change: the last 3 frames" in text for text in texts)
    assert "unchanged_frames" in findings(tmp_path / "run")


def test_rec_step_besides_an_optimizer_adds_nothing(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    by_hand = [clone(model)]
    with said() as texts, wl.watch(model, tmp_path / "run", optimizer=optimizer) as rec:
        for k in range(4):
            backward(model)
            optimizer.step()
            by_hand.append(clone(model))
            rec.step(loss=k)
    run = check(tmp_path / "run", by_hand)
    assert run.scalars["loss"][1:].tolist() == [0, 1, 2, 3]
    assert len(texts) == 1
    assert "rec.step() is called besides optimizer=" in texts[0]


def test_findings_are_in_info_and_the_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = mlp()
    with said(), wl.watch(model, tmp_path / "run"), torch.no_grad():
        model[0].weight.add_(1)
    from weightlapse.cli import main

    for verb in ("info", "doctor"):
        with pytest.raises(SystemExit):
            main([verb, str(tmp_path / "run")])
        assert "watch() was given no optimizer" in capsys.readouterr().out
    assert [f.severity for f in wl.diagnose(wl.load(tmp_path / "run")) if f.kind == "unseen_updates"] == ["warning"]


# ---- copies of what is followed -------------------------------------------------------------------------------------


def test_copies_of_followed_objects_are_their_own(tmp_path: Path) -> None:
    model = mlp()
    wrapper = Engine(torch.optim.SGD(model.parameters(), 0.1))
    with wl.watch(model, tmp_path / "run", optimizer=wrapper) as rec:
        pickled = pickle.loads(pickle.dumps(wrapper))  # noqa: S301 — our own
        for other in (copy.deepcopy(wrapper), pickled, copy.deepcopy(wrapper.optimizer)):
            held = (other.optimizer if isinstance(other, Engine) else other).param_groups[0]["params"]
            before = [p.detach().clone() for p in held]
            for p in held:
                p.grad = torch.ones_like(p)
            for _ in range(3):
                other.step()
            assert not any(torch.equal(a, b) for a, b in zip(before, held))
        assert rec.frames == 1
    assert wl.load(tmp_path / "run").frames == 1


def test_two_recorders_of_one_optimizer(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    by_hand = [clone(model)]
    first = wl.watch(model, tmp_path / "first", optimizer=optimizer)
    second = wl.watch(model, tmp_path / "second", optimizer=optimizer)
    for k in range(4):
        if k == 2:
            first.close()
        backward(model)
        optimizer.step()
        by_hand.append(clone(model))
    second.close()
    check(tmp_path / "first", by_hand[:3])
    check(tmp_path / "second", by_hand)

"""The twin that is run in place of the user's model, and that nothing of the model changes when it is traced."""

from __future__ import annotations

import functools
import gc
import itertools
import random
import warnings
import weakref
from collections import OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import weightlapse as wl
from tests.oracles_wiring import belongings
from tests.zoo import ZOO, Case
from weightlapse.wiring.outputs import tensors_in
from weightlapse.wiring.twin import at_rest, twin


def run(model: nn.Module, example: Any) -> list[torch.Tensor]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        if isinstance(example, dict):
            return tensors_in(model(**example))
        return tensors_in(model(*example) if isinstance(example, tuple) else model(example))


@pytest.mark.parametrize("name", ZOO)
def test_tracing_leaves_nothing_behind(name: str) -> None:
    """Hooks, dictionaries, lists, caches, buffers, versions, random states: byte for byte; and the next forward is the same."""
    case: Case = ZOO[name]
    model, control = case.make(), case.make()
    before = belongings(model)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    wl.trace(model, *case.examples)
    assert belongings(model) == before
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    for example in case.examples:
        for a, b in zip(run(model, example), run(control, example), strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b) or (a.isnan() == b.isnan()).all()


class Hoarder(nn.Module):
    """Keeps whatever it can, wherever it can."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(8), persistent=False)
        self.plain = torch.zeros(8)
        self.cache: dict[Any, Any] = {}
        self.ordered, self.by_default = OrderedDict(), defaultdict(list)
        self.queue, self.seen, self.names = deque(maxlen=2), [], set()
        self.nested = {"inner": [{"deep": []}]}
        self.numbers = itertools.count()
        self.noise = torch.Generator().manual_seed(4)
        self.dice, self.other_dice = random.Random(4), np.random.default_rng(4)
        self.table = np.zeros(3)
        self.me = weakref.ref(self)
        self.store = Store()
        outside: list[Any] = []
        self.outside = outside
        times = 0

        def hook(module: nn.Module, args: Any, out: Any) -> None:
            nonlocal times
            times += 1
            outside.append(times)

        self.hook = hook
        self.a.register_forward_hook(hook)
        self.a.register_forward_hook(self.store.keep)
        self.a.register_forward_pre_hook(functools.partial(_note, self.seen))
        old = self.b.forward
        self.b.forward = lambda x: old(x) + 0 * self.plain.sum()  # type: ignore[method-assign]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        owner = self.me()
        assert owner is self
        n = next(self.numbers)
        h = torch.relu(self.a(x)) + torch.rand(8, generator=self.noise).sum() + self.dice.random()
        h = h + self.other_dice.random() + self.table[0]
        self.table[0] += 1
        self.cache[n], self.ordered[n] = h, h
        self.by_default["x"].append(h)
        self.queue.append(h)
        self.names.add(n)
        self.nested["inner"][0]["deep"].append(h)
        self.calls += 1
        self.mean.mul_(0.5)
        self.plain.add_(1)
        self.extra = h
        if n == 0:
            self.b.register_forward_hook(lambda *_: None)
            self.late = nn.Linear(2, 2)
        return self.b(h)


class Store:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, module: nn.Module, args: Any, out: Any) -> None:
        self.kept.append(out)


def _note(seen: list[Any], module: nn.Module, args: Any) -> None:
    seen.append(len(args))


@pytest.mark.parametrize("verb", ["trace", "verify", "complete", "watch"])
def test_a_model_that_keeps_things_keeps_none_of_ours(verb: str, tmp_path: Any) -> None:
    model, x = Hoarder().train(), torch.randn(5, 4)
    before = belongings(model)
    if verb == "watch":
        wl.watch(model, tmp_path / "run", example=x).close()
    else:
        w = wl.trace(model, x, verify={"trace": False, "verify": True, "complete": "complete"}[verb])
        assert [g.size for g in w.groups] == [8]
    assert belongings(model) == before
    assert next(model.numbers) == 0
    assert model.hook.__closure__[1].cell_contents == 0  # how often it was called
    assert not hasattr(model, "late")


@pytest.mark.parametrize(
    "change", ["hook", "list", "dict", "buffer", "plain", "generator", "closure", "weight", "mode", "attribute"]
)
def test_the_comparison_sees_every_change(change: str) -> None:
    model = Hoarder()
    before = belongings(model)
    {
        "hook": lambda: model.a.register_forward_hook(_note),
        "list": lambda: model.nested["inner"][0]["deep"].append(1),
        "dict": lambda: model.cache.update({1: 2}),
        "buffer": lambda: model.mean.data.fill_(1e-30),
        "plain": lambda: model.plain.data.fill_(1),
        "generator": lambda: torch.rand(1, generator=model.noise),
        "closure": lambda: model.hook(model, 0, 0),
        "weight": lambda: model.a.weight.data[0, 0].mul_(1 + 1e-6),
        "mode": lambda: setattr(model.b, "training", False),
        "attribute": lambda: setattr(model, "more", 1),
    }[change]()
    assert belongings(model) != before


def test_weights_are_shared_and_ties_and_views_are_kept() -> None:
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    net[1].weight = net[0].weight
    net.flat = net[0].weight.view(-1)
    net.register_buffer("left", torch.arange(6.0))
    net.register_buffer("start", net.left[:3])
    for own in (False, True):
        t = twin(net, own_weights=own)
        assert t[0].weight is t[1].weight is not net[0].weight
        assert (t[0].weight.data_ptr() == net[0].weight.data_ptr()) is not own
        assert t.flat.data_ptr() == t[0].weight.data_ptr()
        assert t.left.data_ptr() == t.start.data_ptr() != net.left.data_ptr()
        assert t[0].weight.requires_grad
        assert torch.equal(t[0].weight, net[0].weight)
        t[0].weight.requires_grad_(False)
        assert net[0].weight.requires_grad


def test_what_writes_into_its_weights_gets_them_back() -> None:
    class Clips(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.weight.clamp_(-0.01, 0.01)
                self.bias.data.zero_()
            return super().forward(x)

    net = nn.Sequential(Clips(4, 8), nn.Tanh(), nn.Linear(8, 2))
    before = {n: t.clone() for n, t in net.state_dict().items()}
    w = wl.trace(net, torch.randn(5, 4), verify=True)
    assert [g.size for g in w.groups] == [8]
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())


def test_a_failing_forward_leaves_the_model_as_it_was() -> None:
    class Breaks(Hoarder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            super().forward(x)
            self.a.weight.data.zero_()
            raise ValueError("no")

    model = Breaks()
    before = belongings(model)
    with pytest.raises(wl.CannotTrace, match="no"):
        wl.trace(model, torch.randn(5, 4))
    assert belongings(model) == before


def test_eval_is_a_flag_only() -> None:
    class Merges(nn.Linear):
        def train(self, mode: bool = True) -> nn.Module:
            self.weight.data += 1
            return super().train(mode)

    net = nn.Sequential(Merges(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    before = net[0].weight.clone()
    t = at_rest(net)
    assert not any(m.training for m in t.modules())
    assert all(m.training for m in net.modules())
    wl.trace(net, torch.randn(3, 4), verify=True)
    assert torch.equal(net[0].weight, before)


class CachesBiases(nn.Module):
    """Attention biases read off a table once and kept in eval mode, thrown away by ``train()``."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.out = nn.Linear(4, 12), nn.Linear(12, 2)
        self.table = nn.Parameter(torch.randn(3, 5))
        self.register_buffer("idx", torch.randint(0, 5, (6, 6)), persistent=False)
        self.kept: dict[str, torch.Tensor] = {}

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        if mode:
            self.kept = {}
        return self

    def biases(self) -> torch.Tensor:
        if self.training:
            return self.table[:, self.idx]
        if "cpu" not in self.kept:
            self.kept["cpu"] = self.table[:, self.idx]
        return self.kept["cpu"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.q(x).view(*x.shape[:2], 3, 4).transpose(1, 2)
        h = (h @ h.mT + self.biases()).softmax(-1) @ h
        return self.out(h.transpose(1, 2).flatten(2))


def test_a_cache_filled_in_eval_mode_is_not_left_stale() -> None:
    model, x = CachesBiases().train(), torch.randn(2, 6, 4)
    w = wl.trace(model, x, verify=True)
    assert w.group("q").size == 3
    assert w.dropped == ()  # the verifier's own runs do not see each other's caches either
    assert model.kept == {}
    with torch.no_grad():
        model.table.mul_(3)
    fresh = CachesBiases()
    fresh.load_state_dict(model.state_dict())
    fresh.idx.copy_(model.idx)
    assert torch.equal(model.eval()(x), fresh.eval()(x))


def test_inference_tensors_become_ordinary_ones_and_give_their_groups() -> None:
    with torch.inference_mode():
        made = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        x = torch.randn(5, 4)
        conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        attention = nn.MultiheadAttention(12, 3, batch_first=True)
        inside = wl.trace(made, x)
    assert not twin(made)[0].weight.is_inference()
    assert made[0].weight.is_inference()
    assert [g.size for g in wl.trace(made, x, verify=True).groups] == [g.size for g in inside.groups] == [8, 6]
    assert [g.size for g in wl.trace(conv, torch.randn(2, 1, 8, 8), verify=True).groups] == [4]
    q = torch.randn(2, 5, 12)
    assert (
        len(wl.trace(attention, (q, q, q)).groups)
        == len(wl.trace(nn.MultiheadAttention(12, 3, batch_first=True), (q, q, q)).groups)
        > 3
    )
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_long_chains_and_circles_are_copied() -> None:
    class Link:
        def __init__(self, following: Any) -> None:
            self.following = following

    net = nn.Linear(2, 2)
    chain = None
    for _ in range(5000):
        chain = Link(chain)
    net.chain, net.circle = chain, []
    net.circle.append(net.circle)
    t = twin(net)
    assert t.chain is not chain
    assert t.circle[0] is t.circle
    deep = t.chain
    for _ in range(4999):
        deep = deep.following
    assert deep.following is None


def test_what_cannot_be_copied_is_shared_and_the_rest_is_not(tmp_path: Any) -> None:
    net = nn.Linear(2, 2)
    with open(tmp_path / "log", "w") as file:
        net.log, net.lock = file, __import__("threading").Lock()
        net.stream = (i for i in range(3))
        net.list = [1]
        t = twin(net)
        assert t.log is file
        assert t.lock is net.lock
        assert t.stream is net.stream
        assert t.list is not net.list


def test_the_twin_is_set_free_with_its_copies() -> None:
    net = nn.Linear(2, 2)
    t = twin(net)
    ghost = weakref.ref(t)
    del t
    gc.collect()
    assert ghost() is None


def test_functions_that_close_over_the_model_lead_to_the_twin() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.9), nn.Linear(8, 2)).train()
    inner = net.forward
    net.forward = lambda x: F.normalize(inner(x))  # type: ignore[method-assign]
    t, x = at_rest(net), torch.randn(3, 4)
    assert torch.equal(t(x), t(x))  # with the model's own dropout, in train mode, it would differ
    assert [g.size for g in wl.trace(net, x, verify=True).groups] == [8]


def _plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


class _Holds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


class _NeverCopied(_Holds):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("not to be copied")

    def __getstate__(self) -> Any:
        raise RuntimeError("not to be saved")


class _Slotted(_Holds):
    __slots__ = ("extra",)

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "extra", [])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.extra.append(len(x))
        return super().forward(x)


class _Deletes(_Holds):
    def __init__(self) -> None:
        super().__init__()
        self.spare, self.notes = nn.Linear(2, 2), ["one"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "spare"):
            del self.spare
        self.notes.clear()
        return super().forward(x)


class _Replaces(_Holds):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.a.weight = nn.Parameter(self.a.weight.detach() * 1.0)
        self.b.weight.requires_grad_(False)
        self.b.bias.mark = 1
        return super().forward(x)


class _Delegates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = _Holds()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def _in_one_buffer() -> nn.Module:
    net = _plain()
    flat = torch.cat([p.detach().flatten() for p in net.parameters()])
    at = 0
    for p in net.parameters():
        p.data = flat[at : at + p.numel()].view_as(p)
        at += p.numel()
    net.flat = flat
    return net


def _holds_itself() -> nn.Module:
    net = _plain()
    net.me, net.numbers = [net], {net: 1, net[0]: 2}
    return net


MODULES = {
    "never_copied": _NeverCopied,
    "slotted": _Slotted,
    "deletes": _Deletes,
    "replaces": _Replaces,
    "delegates": _Delegates,
    "in_one_buffer": _in_one_buffer,
    "holds_itself": _holds_itself,
    "fx": lambda: torch.fx.symbolic_trace(_plain()),
    "script_inside": lambda: nn.Sequential(
        torch.jit.script(nn.Sequential(nn.Linear(4, 8), nn.ReLU())), nn.Linear(8, 2)
    ),
    "compiled": lambda: torch.compile(_plain()),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore")
def test_unusual_modules_are_traced_and_left_alone(name: str) -> None:
    model, x = MODULES[name](), torch.randn(5, 4)
    inner = getattr(model, "_orig_mod", model)
    before = belongings(inner)
    w = wl.trace(model, x, verify=True)
    assert [g.size for g in w.groups] == [8]
    assert w.report["verified"]
    assert belongings(inner) == before

"""The verdict is right on every kind of pair, and refuses what could only come out equal."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.oracles_symmetry import mlp_wiring
from weightlapse.wiring.apply import permute_state, scale_state

SIZES = (6, 24, 24, 3)


def net(act: type[nn.Module], seed: int = 0, sizes: tuple[int, ...] = SIZES) -> nn.Sequential:
    torch.manual_seed(seed)
    out = nn.Sequential()
    for i, (n, m) in enumerate(itertools.pairwise(sizes), 1):
        out.add_module(f"fc{i}", nn.Linear(n, m))
        if i < len(sizes) - 1:
            out.add_module(f"act{i}", act())
    return out


def trained(act: type[nn.Module], seed: int) -> nn.Sequential:
    model = net(act, seed)
    x, y = data()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def data() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(256, 6, generator=g)
    return x, (x[:, :3].sum(1) > 0).long() + (x[:, 3:].sum(1) > 0).long()


def with_state(model: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    out = copy.deepcopy(model)
    out.load_state_dict(state)
    return out


def moved(model: nn.Module, w: wl.Wiring, *, signs: bool = False, scales: bool = False) -> nn.Module:
    rng = np.random.default_rng(0)
    state = dict(model.state_dict())
    for g in w.groups:
        state = permute_state(state, w, g.name, rng.permutation(g.size))
        if signs:
            state = scale_state(state, w, g.name, rng.choice([-1.0, 1.0], g.size))
        if scales:
            state = scale_state(state, w, g.name, np.exp(rng.normal(size=g.size)))
    return with_state(model, state)


TANH, RELU = (mlp_wiring(list(SIZES), kind) for kind in ("sign", "scale"))


@pytest.mark.parametrize("act, w", [(nn.Tanh, TANH), (nn.ReLU, RELU)])
def test_exact_copy(act: type[nn.Module], w: wl.Wiring) -> None:
    a = trained(act, 0)
    res = wl.compare(a, copy.deepcopy(a), w, data=data()[0])
    assert res.verdict == "identical"
    assert res.function_distance == 0.0
    assert res.raw_distance == 0.0


@pytest.mark.parametrize(
    "act, w, how",
    [(nn.Tanh, TANH, {}), (nn.Tanh, TANH, {"signs": True}), (nn.ReLU, RELU, {}), (nn.ReLU, RELU, {"scales": True})],
)
def test_permuted_flipped_and_rescaled_copies(act: type[nn.Module], w: wl.Wiring, how: dict[str, bool]) -> None:
    a = trained(act, 0)
    res = wl.compare(a, moved(a, w, **how), w, data=data())
    assert res.verdict == "same up to symmetry"
    assert res.raw_distance > 1
    assert res.aligned_distance <= 1e-6
    assert res.function_distance < 1e-5
    assert res.barrier.naive > 0.1
    assert res.barrier.matched < 1e-4
    text = res.explain()
    assert "another order" in text
    assert ("signs flipped" in text) == how.get("signs", False)
    assert ("units rescaled" in text) == how.get("scales", False)


def test_traced_when_no_wiring_is_given() -> None:
    a = trained(nn.Tanh, 0)
    res = wl.compare(a, moved(a, TANH), data=data()[0])
    assert res.verdict == "same up to symmetry"


def test_a_unit_split_in_two() -> None:
    a = trained(nn.Tanh, 0)
    x = data()[0]
    wider = wl.widen(a, {"fc1": 30}, x[:4], seed=0).model
    res = wl.compare(a, wider, data=x)
    assert res.verdict == "same function on the data"
    assert res.raw_distance is None
    assert res.aligned_distance < 1e-5
    assert "without which" in res.explain() or "could do without" in res.explain()
    assert any("merged" in n for n in res.alignment.notes)


def test_split_at_the_same_width() -> None:
    """Unit 0 is written out over two of the places that dead units leave."""
    a = trained(nn.Tanh, 0)
    with torch.no_grad():
        a.fc2.weight[:, 5] = 0.0  # nobody listens to unit 5
        b = copy.deepcopy(a)
        b.fc1.weight[5], b.fc1.bias[5] = b.fc1.weight[0], b.fc1.bias[0]
        b.fc2.weight[:, 5] = 0.3 * b.fc2.weight[:, 0]
        b.fc2.weight[:, 0] *= 0.7
    res = wl.compare(a, b, TANH, data=data()[0])
    assert res.verdict == "same function on the data"
    assert {(r.network, r.kind, r.units) for r in res.reducible} == {("a", "dead", (5,)), ("b", "duplicate", (5,))}
    assert res.live_units["fc1"] == (23, 24)


@pytest.mark.parametrize("act, w", [(nn.Tanh, TANH), (nn.ReLU, RELU)])
def test_retrained_and_untrained(act: type[nn.Module], w: wl.Wiring) -> None:
    a, x = trained(act, 0), data()
    for b in (trained(act, 1), net(act, 5)):
        res = wl.compare(a, b, w, data=x)
        assert res.verdict == "different"
        assert res.function_distance > 0.05
        assert res.aligned_distance < res.raw_distance
        assert res.aligned_distance > 0.3
        assert min(res.barrier.methods.values()) == res.barrier.matched
        assert len(res.barrier.matched.curve) == 11
        assert res.barrier.repaired is not None
    json.dumps(res.numbers(), allow_nan=False)


def test_dead_networks_are_refused() -> None:
    a = net(nn.ReLU)
    with torch.no_grad():
        a.fc1.bias -= 1000
    b = copy.deepcopy(a)
    with torch.no_grad():
        b.fc3.bias += 1
    with pytest.raises(wl.VacuousComparison, match="dead"):
        wl.compare(a, b, RELU, data=data()[0])
    with pytest.raises(wl.VacuousComparison):
        wl.compare(a, copy.deepcopy(a), RELU, data=data()[0])
    with pytest.raises(wl.VacuousComparison, match="single sample"):
        wl.compare(net(nn.ReLU), net(nn.ReLU, 1), RELU, data=torch.ones(5, 6))
    assert wl.compare(a, net(nn.ReLU, 1), RELU, data=data()[0]).verdict == "different"


def test_other_architecture() -> None:
    a, x = trained(nn.Tanh, 0), data()[0]
    res = wl.compare(a, net(nn.Tanh, 0, (6, 24, 3)), data=x)
    assert res.verdict == "different"
    assert res.raw_distance is None
    assert res.barrier is None
    assert any("different tensors" in n for n in res.notes)


def test_the_same_weights_in_other_code() -> None:
    a = trained(nn.Tanh, 0)
    b = net(nn.ReLU)
    b.load_state_dict(a.state_dict())
    res = wl.compare(a, b, TANH, data=data()[0])
    assert res.raw_distance == 0.0
    assert res.verdict == "different"
    assert res.barrier is None


def test_the_same_function_only_on_the_data() -> None:
    """A unit that is off on all data and on elsewhere."""
    a = trained(nn.ReLU, 0)
    with torch.no_grad():
        a.fc1.weight[3] = torch.tensor([1.0, 0, 0, 0, 0, 0])
        a.fc1.bias[3] = -4.5
    b = copy.deepcopy(a)
    with torch.no_grad():
        b.fc2.weight[:, 3] += 30.0
    x = data()[0].clamp(max=4)
    res = wl.compare(a, b, RELU, data=x)
    assert res.verdict == "same function on the data"
    ends = x.clone()
    ends[:, 0] = 6
    assert wl.compare(a, b, RELU, data=ends).verdict == "different"


def test_states_without_code() -> None:
    a = trained(nn.Tanh, 0)
    b = moved(a, TANH, signs=True)
    state_a, state_b = ({n: v.numpy() for n, v in m.state_dict().items()} for m in (a, b))
    res = wl.compare(state_a, state_b, TANH)
    assert res.verdict == "same up to symmetry"
    assert res.function_distance is None
    assert res.barrier is None
    assert wl.compare(state_a, state_b).verdict == "different"
    assert wl.compare(state_a, dict(state_a)).verdict == "identical"
    assert "not run" in res.explain()


def test_the_same_numbers_in_another_precision() -> None:
    a = trained(nn.Tanh, 0)
    res = wl.compare(a, copy.deepcopy(a).double(), TANH, data=data()[0])
    assert res.verdict == "same up to symmetry"
    assert "but for rounding" in res.explain()


def test_running_statistics_count() -> None:
    torch.manual_seed(0)
    a = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    b = copy.deepcopy(a)
    x = data()[0]
    assert wl.compare(a, b, data=x).verdict == "identical"
    b[1].running_mean += 1.0
    res = wl.compare(a, b, data=x)
    assert res.raw_distance == 0.0
    assert res.verdict == "different"
    w = wl.trace(a, x[:4])
    assert wl.compare(a.state_dict(), b.state_dict(), w).verdict == "different"
    c = with_state(a, permute_state(a.state_dict(), w, w.groups[0].name, np.arange(8)[::-1]))
    assert wl.compare(a, c, w, data=x).verdict == "same up to symmetry"


def test_identifiability_follows_the_theory() -> None:
    """ReLU: all parameters but one for each hidden unit; tanh: all of them."""
    torch.manual_seed(0)
    x = 3 * torch.randn(500, 2)
    for act, free in ((nn.ReLU, 5), (nn.Tanh, 0), (nn.GELU, 0)):
        a, b = net(act, 0, (2, 5, 2)), net(act, 1, (2, 5, 2))
        with torch.no_grad():
            for m in (a, b):
                m.fc1.bias *= 0.3  # kinks within the data
        res = wl.compare(a, b, data=x, points=0)
        assert [i.parameters for i in res.identifiable] == [27, 27]
        assert [i.free for i in res.identifiable] == [free, free]


def test_cka_of_copies_and_strangers() -> None:
    a, x = trained(nn.Tanh, 0), data()[0]
    same = wl.compare(a, moved(a, TANH), TANH, data=x).cka
    other = wl.compare(a, net(nn.Tanh, 9), TANH, data=x).cka
    assert all(v == pytest.approx(1) for v in same.values())
    assert all(v is not None and v < 0.95 for v in other.values())
    assert set(same) == {"fc1", "fc2"}


def test_no_module_is_changed() -> None:
    a, b = trained(nn.ReLU, 0).train(), trained(nn.ReLU, 1)
    before = [v.clone() for m in (a, b) for v in m.state_dict().values()]
    random = torch.get_rng_state()
    wl.compare(a, b, data=data())
    assert all(
        torch.equal(x, y) for x, y in zip(before, [v for m in (a, b) for v in m.state_dict().values()], strict=True)
    )
    assert a.training
    assert b.training
    assert torch.equal(random, torch.get_rng_state())
    assert not a.fc1._forward_hooks
    assert all(p.grad is None or p.grad.abs().sum() > 0 for p in a.parameters())


# ---- networks that hold something else than weights


def normed(bad: str, value: float = float("nan")) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    made.register_buffer("mask", torch.zeros(3))
    if bad:
        made.get_buffer(bad)[2] = value
    return made


@pytest.mark.parametrize("bad", ["1.running_var", "1.running_mean", "mask"])
def test_a_buffer_that_is_no_number_is_named(bad: str) -> None:
    x = torch.randn(6, 4)
    w = wl.trace(normed(""), x)
    calls = [
        lambda: wl.compare(normed(bad), normed(""), w, data=x),
        lambda: wl.compare(normed(""), normed(bad).state_dict(), w),
        lambda: wl.align(normed(bad), normed(bad), w),
        lambda: wl.canonical(normed(bad), w),
    ]
    for call in calls:
        with pytest.raises(wl.CannotAlign, match=rf"'{bad}' of the .* network holds NaN \(1 of"):
            call()
    for verb in (lambda m: wl.widen(m, {"0": 12}, x), lambda m: wl.narrow(m, x), lambda m: wl.deepen(m, x, after="0")):
        with pytest.raises(wl.CannotGrow, match=rf"{bad} holds NaN \(1 of"):
            verb(normed(bad))


def test_a_mask_may_hold_infinities() -> None:
    x = torch.randn(6, 4)
    masked = normed("mask", float("-inf"))
    assert wl.compare(masked, normed("mask", float("-inf")), data=x).verdict == "identical"
    assert wl.widen(masked, {"0": 12}, x).error < 1e-12


@pytest.mark.filterwarnings("ignore")  # torch announces that this kind of quantisation will move
@pytest.mark.parametrize("layers", [(nn.Linear,), (nn.LSTM,), (nn.Linear, nn.LSTM)])
def test_networks_packed_as_whole_numbers_are_compared_by_what_they_hold(layers: tuple[type, ...]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.a, self.b = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(self.rnn(x)[0])))

    def packed(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return torch.ao.quantization.quantize_dynamic(Net().eval(), set(layers))

    x = torch.randn(6, 5, 4)
    assert wl.compare(packed(0), packed(0), data=x).verdict == "identical"
    assert wl.compare(packed(0), packed(1), data=x).verdict == "different"
    assert wl.compare(packed(0), packed(0)).verdict == "identical"
    assert wl.compare(packed(0), packed(1)).verdict == "different"
    other = packed(0)
    getattr(other, "rnn" if nn.LSTM in layers else "a").__dict__.update(
        getattr(packed(1), "rnn" if nn.LSTM in layers else "a").__dict__
    )
    assert wl.compare(packed(0), other).verdict == "different"
    w = wl.trace(packed(0), x)
    assert any(n.startswith("rnn." if nn.LSTM in layers else "a.") for n in w.unseen)
    if nn.Linear in layers:
        with pytest.raises(wl.UnknownTensor, match=r"packed as whole numbers|opaque op"):
            wl.widen(packed(0), {"a": 12}, x)

"""What widening, narrowing and deepening decide, on networks of a few units in double precision: what is told, what is refused, what is left alone."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.test_growth_cells import HEADS, MLP, cells_of
from weightlapse.errors import CannotGrow, InvalidArgument, UnknownTensor, VacuousComparison
from weightlapse.growth.arrays import grown_gradient, grown_value
from weightlapse.growth.cells import AxisMap
from weightlapse.growth.certificate import Check, Trial
from weightlapse.growth.deepen import _renumbered
from weightlapse.growth.families import (
    _by_index,
    all_families,
    chosen_families,
    consumers_of,
    families_named,
    family_of_groups,
)
from weightlapse.growth.narrow import _families
from weightlapse.growth.surplus import Surplus, _merged, cells_without, surplus_of
from weightlapse.growth.tensors import grown_shape, lengths_below, rows_of
from weightlapse.growth.widen import _guilty
from weightlapse.wiring.members import Group, Member, blocks

X = torch.randn(7, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def mlp(act: Any = nn.Tanh, inner: int = 4) -> Any:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, inner), act(), nn.Linear(inner, 5), act(), nn.Linear(5, 2)).double()


def apart(a: nn.Module, b: nn.Module, x: torch.Tensor = X) -> float:
    with torch.no_grad():
        return float((a(x) - b(x)).abs().max())


# ---- widening


@pytest.mark.parametrize("noise", [-1e-9, -1.0, math.nan, math.inf])
def test_noise_is_a_number_of_deviations(noise: float) -> None:
    for grow in (
        lambda: wl.widen(mlp(), {"0": 6}, X, noise=noise),
        lambda: wl.deepen(mlp(), X, after="0", noise=noise),
    ):
        with pytest.raises(InvalidArgument, match="noise"):
            grow()


@pytest.mark.parametrize("verb", ["widen", "narrow", "deepen"])
def test_nothing_is_certified_without_an_example(verb: str) -> None:
    with pytest.raises(InvalidArgument, match="at least one example"):
        {
            "widen": lambda: wl.widen(mlp(), {"0": 6}),
            "narrow": lambda: wl.narrow(mlp()),
            "deepen": lambda: wl.deepen(mlp(), after="0"),
        }[verb]()


def test_a_wiring_is_no_example() -> None:
    net = mlp()
    with pytest.raises(InvalidArgument, match="at least one example"):
        wl.widen(net, {"0": 6}, wiring=wl.trace(net, X))


@pytest.mark.parametrize("verb", ["widen", "narrow", "deepen"])
def test_networks_of_other_frameworks_go_their_own_way(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"weightlapse.growth.{verb}.is_foreign", lambda model: True)
    monkeypatch.setattr("weightlapse.growth.deepen.is_keras", lambda model: True)
    monkeypatch.setattr("weightlapse.growth.foreign.widened", lambda model, sizes, examples, **_: (sizes, examples))
    monkeypatch.setattr("weightlapse.growth.foreign.narrowed", lambda model, examples, **_: (examples, "narrow"))
    monkeypatch.setattr(
        "weightlapse.growth.keras_deepen.deepened", lambda model, examples, after, **_: (examples, after)
    )
    got = {
        "widen": lambda: wl.widen(mlp(), {"0": 6}, X),
        "narrow": lambda: wl.narrow(mlp(), X),
        "deepen": lambda: wl.deepen(mlp(), X, after="0"),
    }[verb]()
    assert got == {"widen": ({"0": 6}, (X,)), "narrow": ((X,), "narrow"), "deepen": ((X,), "0")}[verb]
    if verb == "deepen":
        monkeypatch.setattr("weightlapse.growth.deepen.is_keras", lambda model: False)
        with pytest.raises(CannotGrow, match="network of JAX"):
            wl.deepen(mlp(), X, after="0")


@pytest.mark.parametrize("verb", ["widen", "narrow", "deepen"])
def test_weights_that_are_no_numbers_are_refused(verb: str) -> None:
    net = mlp()
    with torch.no_grad():
        net[2].weight[1, 1] = math.nan
    with pytest.raises((CannotGrow, InvalidArgument, VacuousComparison), match=r"2\.weight"):
        {
            "widen": lambda: wl.widen(net, {"0": 6}, X),
            "narrow": lambda: wl.narrow(net, X),
            "deepen": lambda: wl.deepen(net, X, after="0"),
        }[verb]()


def test_what_is_told_of_a_wider_network() -> None:
    net = mlp()
    g = wl.widen(net, {"0": 6, "2": 9}, X, seed=1)
    assert g.note == "widened 0 4 -> 6, 2 5 -> 9"
    assert g.certificate.parameters == (3 * 4 + 4 + 4 * 5 + 5 + 5 * 2 + 2, 3 * 6 + 6 + 6 * 9 + 9 + 9 * 2 + 2)
    assert g.certificate.live == {"0": (4, 4), "2": (5, 5)}
    assert g.certificate.tolerance < 1e-9
    assert g.error < 1e-12
    assert {"set 0.out_features: 4 -> 6", "set 2.in_features: 4 -> 6"} <= set(g.certificate.notes)
    assert g.origin == {name: name for name in net.state_dict()}
    assert g.optimizer is None
    assert apart(net, g.model) < 1e-12
    assert (g.model[0].out_features, g.model[2].in_features) == (6, 6)


def test_a_given_wiring_is_taken() -> None:
    net = mlp()
    w = wl.trace(net, X)
    g = wl.widen(net, {"0": 6}, X, wiring=w, seed=1)
    traced = wl.widen(net, {"0": 6}, X, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(g.model.parameters(), traced.model.parameters(), strict=True))
    fewer = wl.Wiring.from_spec("\n".join(line for line in w.to_spec().splitlines() if "2.weight[1]: in" not in line))
    with pytest.raises(CannotGrow, match="'0' from 4 to 6 would change the function"):
        wl.widen(net, {"0": 6}, X, wiring=fewer)
    with pytest.raises(UnknownTensor):
        wl.widen(net, {"0": 6}, X, wiring=wl.Wiring(()))


def test_gradients_come_along() -> None:
    net = mlp()
    net(X).square().mean().backward()
    g = wl.widen(net, {"0": 6}, X, seed=1)
    grown = copy.deepcopy(g.model)
    grown.zero_grad()
    grown(X).square().mean().backward()
    for p, q in zip(g.model.parameters(), grown.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12)


def test_noise_is_of_the_new_rows_and_grows_with_its_number() -> None:
    net = mlp(inner=40)
    plain, half, one, other = (
        wl.widen(net, {"0": 80}, X, seed=s, noise=n) for n, s in ((0.0, 3), (0.5, 3), (1.0, 3), (0.5, 4))
    )
    assert torch.equal(half.model[0].bias, plain.model[0].bias)
    assert torch.equal(half.model[2].weight, plain.model[2].weight)
    assert torch.equal(half.model[0].weight[:40], net[0].weight)
    shift = (half.model[0].weight - plain.model[0].weight)[40:]
    torch.testing.assert_close((one.model[0].weight - plain.model[0].weight)[40:], 2 * shift, rtol=1e-9, atol=1e-12)
    assert not torch.equal(half.model[0].weight, other.model[0].weight)
    assert 0.35 < (shift.std() / plain.model[0].weight.std()).item() < 0.65
    assert (shift != 0).all()
    assert half.certificate.tolerance == math.inf
    assert plain.error < 1e-12 < half.error < one.error
    assert {c.weights for c in half.certificate.checks} == {"own"}
    assert {c.weights for c in plain.certificate.checks} == {"own", "randomised"}


def test_noise_on_one_unit_that_stays_alone() -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 2)).double()
    w = wl.Wiring.from_spec(
        "tensor 0.weight (1, 1)\ntensor 2.weight (2, 1)\ntensor 2.bias (2)\ngroup a: 1 units, permutation\n  0.weight[0]: out\n  2.weight[1]: in\n"
    )
    g = wl.widen(net, {"a": 1}, X[:, :1], noise=0.1, seed=1, wiring=w)  # one number has no deviation
    assert torch.equal(g.model[0].weight, net[0].weight)


def test_layers_that_share_a_weight_are_parted_on_request_only() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.write = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.write.weight = self.read.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.write(self.read(x).tanh())

    torch.manual_seed(0)
    net, x = Tied().double(), torch.tensor([0, 3, 1, 4])
    with pytest.raises(CannotGrow, match="untie=True"):
        wl.widen(net, {"read": 6}, x)
    assert net.write.weight is net.read.weight
    g = wl.widen(net, {"read": 6}, x, untie=True, seed=0, wiring=wl.trace(net, x))
    assert g.error < 1e-12
    assert apart(net, g.model, x) < 1e-12
    assert g.origin == {"read.weight": "read.weight", "write.weight": "read.weight"}
    assert "write.weight is no longer read.weight" in g.certificate.notes
    assert net.write.weight is net.read.weight


def test_attributes_that_are_given_stay() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.width, self.other = nn.Linear(3, 4), nn.Linear(4, 2), 4, 4

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x)
            assert h.shape[-1] == self.width
            return self.b(h.tanh())

    torch.manual_seed(0)
    g = wl.widen(Scaled().double(), {"a": 6}, X, attributes={"width": 6, "other": 4})
    assert (g.model.width, g.model.other) == (6, 4)
    assert any(note.startswith("set width") for note in g.certificate.notes)
    with pytest.raises((InvalidArgument, UnknownTensor), match="wide"):
        wl.widen(Scaled().double(), {"a": 6}, X[:, :1], attributes={"wide": 6})  # told before anything runs


@pytest.mark.parametrize("argument", [{"untie": True}, {"attributes": {"width": 6}}])
def test_what_other_frameworks_do_not_know_is_refused(
    argument: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weightlapse.growth.widen.is_foreign", lambda model: True)
    with pytest.raises(InvalidArgument, match="is for torch modules"):
        wl.widen(mlp(), {"0": 6}, X, **argument)


def test_blocks_of_units_are_read_as_their_units_where_they_cannot_grow() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 4, 1), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    g = wl.widen(net, {"0": 8}, x, seed=0)  # twice the units in each of the two blocks
    assert apart(net, g.model, x) < 1e-12
    assert g.model[0].out_channels == 8
    assert g.model[1].num_groups == 2
    with pytest.raises(CannotGrow, match="from 2 to 7: group_norm averages"):
        wl.widen(net, {"0": 7}, x)
    with pytest.raises(CannotGrow, match="from 2 to 6 would change"):  # units in each could not be three for two
        wl.widen(net, {"0": 6}, x)


class Halves(nn.Module):
    """Two layers; of the first one's units the code takes four, whatever there are."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.a, self.b, self.c, self.both = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2), both

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.b(self.a(x).tanh().reshape(-1, 4)).tanh()
        return self.c(h.reshape(-1, 5) if self.both else h)


@pytest.mark.parametrize(
    ("both", "guilty"),
    [(False, "alone, 'a' could not be widened either"), (True, "alone, 'a', 'b' could not be widened either")],
)
def test_the_guilty_are_named_among_several(both: bool, guilty: str) -> None:
    torch.manual_seed(0)
    net = Halves(both).double()
    with pytest.raises(CannotGrow, match=guilty):
        wl.widen(net, {"a": 7, "b": 9}, X)
    with pytest.raises(CannotGrow) as alone:
        wl.widen(net, {"a": 7}, X)
    assert "alone" not in str(alone.value)


@pytest.mark.parametrize(("count", "asked"), [(1, False), (2, True), (8, True), (9, False)])
def test_each_of_a_few_is_tried_alone(count: int, asked: bool) -> None:
    net = mlp()
    w = wl.trace(net, X)
    (pair,) = chosen_families(w, {"0": 6})
    said = _guilty(net, w, Trial.of(net, [X]), [pair] * count, {})
    assert said == ("; each alone could be widened" if asked else "")


def test_dead_units_prove_nothing() -> None:
    class Side(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x))) + self.d(torch.relu(self.c(x)))

    torch.manual_seed(0)
    net = Side().double()
    with torch.no_grad():
        net.a.bias.fill_(-1e4)
    with pytest.raises(VacuousComparison, match="not one unit of 'a' has"):
        wl.widen(net, {"a": 6, "c": 7}, X)
    assert wl.widen(net, {"c": 7}, X).error < 1e-12
    with torch.no_grad():
        net.a.bias[2] = 1.0
    assert wl.widen(net, {"a": 6}, X).certificate.live == {"a": (1, 4)}


# ---- what is asked of cells


def test_lengths_below_a_path() -> None:
    wiring, cells = cells_of(MLP, {"fc1": 11})
    below = lengths_below(wiring, cells)
    assert below("") == {8: {11}, 4: {4}, 3: {3}}
    assert below("fc1") == {8: {11}, 4: {4}}
    assert below("fc2") == {3: {3}, 8: {11}}
    assert below("fc") == {}
    wiring, cells = cells_of(HEADS.replace("tensor v", "tensor in.v").replace(" v[", " in.v["), {"heads": 3, "d0": 4})
    below = lengths_below(wiring, cells)
    assert below("in") == {6: {12}, 5: {5}, 2: {3}, 3: {4}}
    assert below("o") == {}
    wiring, cells = cells_of(HEADS.replace("tensor v", "tensor in.v").replace(" v[", " in.v["), {"heads": 3})
    assert lengths_below(wiring, cells)("in") == {6: {9}, 5: {5}, 2: {3}, 3: {3}}


def test_rows_are_those_of_the_first_axis() -> None:
    _, cells = cells_of(MLP, {"fc1": 11})
    rows = rows_of(cells)
    assert set(rows) == {"fc1.weight", "fc1.bias"}
    assert grown_shape((8, 4), cells, "fc1.weight") == (11, 4)
    assert grown_shape((3, 8), cells, "fc2.weight") == (3, 11)
    assert grown_shape((3, 8), cells, "else") == (3, 8)
    assert rows["fc1.bias"].tolist() == cells.lineage["fc1"].tolist()


def test_consumers_are_what_reads() -> None:
    wiring, _ = cells_of(MLP, {"fc1": 11})
    ((tensor, axis, index),) = consumers_of(chosen_families(wiring, {"fc1": 9}))["fc1"]
    assert (tensor, axis) == ("fc2.weight", 1)
    assert index.tolist() == [[u] for u in range(8)]


# ---- families


def test_families_of_a_wiring() -> None:
    wiring, _ = cells_of(HEADS, {"heads": 3})
    assert {f.name: (len(f.groups), f.size, f.depth) for f in all_families(wiring)} == {
        "heads": (1, 2, 0),
        "d0": (2, 3, 1),
    }
    ((dims, count),) = families_named(wiring, "d1")
    assert count == 1
    assert [m.index.shape for m in dims.members] == [(3, 2), (3, 2)]
    assert str(dims) == "group 'd0' (and 1 like it)"
    assert str(families_named(wiring, "heads")[0][0]) == "group 'heads'"


def test_a_family_that_would_leave_a_ragged_tensor_is_left_out() -> None:
    wiring, _ = cells_of(MLP, {"fc1": 9})
    ragged = wl.Wiring.from_spec(
        wiring.to_spec().replace("fc2.weight[1]: in ^-1", "fc2.weight[1]: in ^-1 where 0: 0:2")
    )
    assert all_families(ragged) == []
    assert [f.name for f in all_families(wiring)] == ["fc1"]


def test_a_layer_of_several_groups_and_one_of_none() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(2, 2), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x)
            return self.b(h[:, :2].relu()) + self.c(h[:, 2:].tanh())

    w = wl.trace(Halves().double(), X, verify=False)
    assert len(w.groups) == 2
    w = replace(w, groups=tuple(replace(g, name=name) for g, name in zip(w.groups, ("first", "second"), strict=True)))
    with pytest.raises(InvalidArgument, match="units of several groups; name one or more of: " + ", ".join(re.escape(repr(g.name)) for g in w.groups)):  # fmt: skip
        families_named(w, "a")
    assert [f.size for g in w.groups for f, _ in families_named(w, g.name)] == [g.size for g in w.groups]
    w = wl.trace(mlp(), X, verify=False)
    with pytest.raises(UnknownTensor, match="what '4' puts out is fixed: output"):
        families_named(w, "4")
    with pytest.raises(UnknownTensor) as told:
        families_named(w, "1")
    assert "is fixed" not in str(told.value)


def test_slabs_of_one_tensor_are_taken_together() -> None:
    whole = Member("t", 1, blocks(2), "in")
    slab = [replace(whole, where=(0, np.array([i]))) for i in range(3)]
    ((axis, covered),) = [found for found in _by_index(slab).values() if found is not None]
    assert (axis, covered.tolist()) == (0, [0, 1, 2])
    for members in ([whole, slab[0]], [slab[0], whole], [slab[0], whole, slab[1]]):
        assert list(_by_index(members).values()) == [None]
    other = replace(slab[1], index=blocks(2) + 2)
    assert [None if f is None else f[1].tolist() for f in _by_index([slab[0], other]).values()] == [[0], [1]]


def test_a_place_of_two_roles_or_of_two_units_is_refused() -> None:
    shapes = {"t": (2, 4)}

    def of(*members: Member) -> Any:
        g = Group("g", 2, members)
        return family_of_groups(wl.Wiring((g,), shapes=shapes), (g,))

    out = Member("t", 1, blocks(2), "out")
    with pytest.raises(CannotGrow, match=r"t\[1\] has the roles add and out at once"):
        of(out, Member("t", 1, blocks(2, offset=2), "add"))
    assert of(out, Member("t", 1, blocks(2, offset=2), "out")).members[0].index.tolist() == [[0, 2], [1, 3]]
    both = (0, np.array([0, 1]))
    with pytest.raises(CannotGrow, match="different units at one position in different slabs"):
        of(replace(out, where=both), replace(out, index=blocks(2)[::-1].copy(), where=both))


@pytest.mark.parametrize("gradient", [[0.5, 0.5], [0.0, 0.0], [1.0, 0.25], [2.0, 2.0], [1.0, 1.0]])
def test_gradients_are_multiplied_by_their_parts(gradient: list[float]) -> None:
    m = AxisMap(np.array([0, 0]), np.ones(2), np.array(gradient), np.array([False, True]))
    for power in (0.0, 1.0, 2.0):
        grown = grown_gradient(np.full((1, 3), 4.0, np.float32), [(0, m)], power=power)
        assert grown.dtype == np.float32
        assert grown.tolist() == [[4 * g**power] * 3 for g in gradient]


# ---- narrowing


def narrowed(net: Any, **options: Any) -> Any:
    return wl.narrow(net, X, **options)


def test_each_reason_is_counted_and_only_proven_ones_go_on_request() -> None:
    net = mlp(nn.ReLU, inner=9)
    with torch.no_grad():
        net[2].weight[:, [0, 5]] = 0.0  # unread
        net[0].weight[7], net[0].bias[7] = net[0].weight[1], net[0].bias[1]  # a double
        net[0].weight[8], net[0].bias[8] = net[0].weight[1], net[0].bias[1]
        net[0].bias[2] = -1e4  # dead
        net[0].weight[3], net[0].bias[3] = 0.0, 2.0  # constant
    n = narrowed(net)
    assert n.lineage["0"].tolist() == [1, 4, 6]
    assert {note for note in n.certificate.notes if note.startswith("0: ")} == {
        "0: 2 unread (outgoing weights zero)", "0: 2 doubles of another unit", "0: 1 zero for every input tried", "0: 1 constant for every input tried",
    }  # fmt: skip
    assert apart(net, n.model) < 1e-12
    assert "0 9 -> 3" in n.note
    assert n.certificate.parameters[0] == sum(p.numel() for p in net.parameters())
    assert n.certificate.parameters[1] == sum(p.numel() for p in n.model.parameters())
    sure = narrowed(net, proven=True)
    assert sure.lineage["0"].tolist() == [1, 2, 3, 4, 6]
    torch.testing.assert_close(sure.model[2].weight[:, 0], net[2].weight[:, [1, 7, 8]].sum(1), rtol=1e-14, atol=0)
    assert torch.equal(sure.model[0].weight, net[0].weight[[1, 2, 3, 4, 6]])


def test_groups_that_are_named_are_looked_at_and_no_others() -> None:
    net = mlp()
    with torch.no_grad():
        net[2].weight[:, 1] = 0.0
        net[4].weight[:, 2] = 0.0
    n = narrowed(net, groups=["2"])
    assert n.note == "narrowed 2 5 -> 4"
    assert narrowed(net).note == "narrowed 0 4 -> 3, 2 5 -> 4"
    assert narrowed(mlp()).note == "narrowed nothing: every unit is needed"
    with pytest.raises(UnknownTensor):
        narrowed(net, groups=["3"])


def test_units_under_an_average_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    with torch.no_grad():
        net[2].weight[:, 1] = 0.0
        net[4].weight[:, 1] = 0.0
    assert narrowed(net).note == "narrowed 2 5 -> 4"
    with pytest.raises(CannotGrow, match="layer_norm averages over its units"):
        narrowed(net, groups=["0"])


def test_units_that_are_averaged_or_tied_are_looked_at_by_name_only() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.a(x).relu(), self.a.weight.T)

    norm = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    for net, free, named in ((Tied(), [], "a"), (norm, [], None), (mlp(), ["0", "2"], "2")):
        w = wl.trace(net.double(), X, verify=False)
        assert [f.name for f in _families(w, None)] == free
        if named:
            assert [f.name for f in _families(w, [named])] == [named]


def test_what_is_left_may_differ_by_rounding() -> None:
    assert narrowed(mlp()).certificate.tolerance < 1e-9
    assert wl.narrow(mlp().float(), X.float()).certificate.tolerance == 1e-5


def test_one_unit_is_left_of_a_group_without_influence() -> None:
    net = mlp()

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.side = net, nn.Linear(3, 2).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) + self.side(x)

    with torch.no_grad():
        net[2].weight.zero_()
    n = narrowed(Around())
    assert n.lineage["net.0"].tolist() == [0]
    assert n.model.net[2].in_features == 1


def test_a_family_that_must_stay_does_not_keep_the_others() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.b(self.a(x).tanh().reshape(-1, 4)).tanh())

    torch.manual_seed(0)
    net = Fixed().double()
    with torch.no_grad():
        net.b.weight[:, 1] = 0.0
        net.c.weight[:, 2] = 0.0
    n = narrowed(net)
    assert n.note == "narrowed b 5 -> 4"
    assert n.model.a.out_features == 4
    assert apart(net, n.model) < 1e-12
    with torch.no_grad():
        net.c.weight[:, 2] = 1.0
    assert narrowed(net).note == "narrowed nothing: every unit is needed"


def surplus_in(net: nn.Module, constants: dict[int, Any]) -> Surplus:
    (pair,) = chosen_families(wl.trace(net, X), {"0": 4})
    return surplus_of(net, pair[0], constants)


def test_which_units_can_go() -> None:
    net = mlp()
    assert surplus_in(net, {}).into.tolist() == [0, 1, 2, 3]
    assert surplus_in(net, {}).why == {}
    with torch.no_grad():
        net[0].weight[[1, 3]] = net[0].weight[0].clone()
        net[0].bias[3] = net[0].bias[0]
    found = surplus_in(net, {2: {"0": np.array([0.0])}})
    assert found.into.tolist() == [0, 1, -1, 0]  # the second has another bias
    assert found.kept.tolist() == [0, 1]
    assert found.why == {"zero for every input tried": 1, "doubles of another unit": 1}
    assert list(found.constant) == [2]
    values = {u: {"0": np.array([float(u > 1)])} for u in range(4)}
    found = surplus_in(net, values)
    assert found.into.tolist() == [0, -1, -1, -1]  # one is always left
    assert sorted(found.constant) == [1, 2, 3]
    assert found.why == {"zero for every input tried": 2, "constant for every input tried": 2}


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_what_doubles_carried_is_added_up(power: float) -> None:
    (pair,) = chosen_families(cells_of(MLP, {"fc1": 9})[0], {"fc1": 8})
    surplus = [Surplus(pair[0], np.array([0, 1, 0, -1, 1, 5, 0, 7]))]
    cells = cells_without(cells_of(MLP, {"fc1": 9})[0], surplus)
    assert cells.lineage["fc1"].tolist() == [0, 1, 5, 7]
    value = np.arange(1.0, 25.0).reshape(3, 8)
    out = _merged(surplus, cells, "fc2.weight", value, lambda consumer: power if consumer else 7.0)
    root = {0.0: lambda s, own: own, 1.0: lambda s, own: s.sum(1), 2.0: lambda s, own: np.sqrt(s).sum(1) ** 2}[power]
    expected = [root(value[:, [0, 2, 6]], value[:, 0]), root(value[:, [1, 4]], value[:, 1]), value[:, 5], value[:, 7]]
    np.testing.assert_allclose(out, np.stack(expected, 1), rtol=1e-14)
    assert np.array_equal(_merged(surplus, cells, "else", value, lambda consumer: 1.0), value)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
def test_moments_of_doubles_are_merged(make: Any) -> None:
    net = mlp()
    wide = wl.widen(net, {"0": 7}, X, seed=1).model
    options = {"momentum": 0.9} if make is torch.optim.SGD else {}
    optimizer = make(wide.parameters(), lr=0.0, **options)
    wide(X).square().mean().backward()
    optimizer.step()
    n = wl.narrow(wide, X, optimizer=optimizer, proven=True)
    small = copy.deepcopy(n.model)
    small.zero_grad()
    alone = make(small.parameters(), lr=0.0, **options)
    small(X).square().mean().backward()
    alone.step()
    for p, q in zip(n.model.parameters(), small.parameters(), strict=True):
        for key, value in alone.state[q].items():
            torch.testing.assert_close(
                torch.as_tensor(n.optimizer.state[p][key]), torch.as_tensor(value), rtol=1e-9, atol=1e-14
            )


# ---- deepening


def test_an_identity_layer_is_put_behind_the_activation() -> None:
    net = mlp(nn.ReLU)
    d = wl.deepen(net, X, after="0")
    assert d.error == 0
    assert d.note == "an identity layer after 0"
    assert [type(m).__name__ for m in d.model[0]] == ["Linear", "ReLU", "Linear"]
    assert torch.equal(d.model[0][2].weight, torch.eye(4, dtype=torch.float64))
    assert d.origin["0.0.weight"] == "0.weight"
    assert d.origin["0.2.weight"] is None
    assert d.origin["2.bias"] == "2.bias"
    assert d.certificate.parameters == (
        sum(p.numel() for p in net.parameters()),
        sum(p.numel() for p in d.model.parameters()),
    )
    assert d.certificate.live == {}
    assert d.lineage == {}
    assert apart(net, d.model) == 0


@pytest.mark.parametrize("width", [None, 1, 6])
def test_a_residual_insert_adds_nothing_yet(width: int | None) -> None:
    net = mlp(nn.GELU)
    d = wl.deepen(net, X, after="2", width=width, seed=3)
    assert d.note == "a residual insert after 2"
    assert apart(net, d.model) == 0
    assert not d.model[2][1].down.weight.any()
    assert d.model[2][1].up.weight.any()
    if width:
        assert d.model[2][1].up.out_features == width
    assert isinstance(d.model[2][1].activation, nn.GELU)
    again, other = (wl.deepen(net, X, after="2", width=width, seed=s).model[2][1].up.weight for s in (3, 4))
    assert torch.equal(again, d.model[2][1].up.weight)
    assert not torch.equal(again, other)
    drawn = [wl.deepen(net, X, after="2", width=width).model[2][1].up.weight for _ in range(2)]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize(
    ("act", "auto"),
    [
        (nn.ReLU, "an identity layer"),
        (nn.ReLU6, "an identity layer"),
        (nn.Tanh, "a residual insert"),
        (nn.ELU, "a residual insert"),
    ],
)
def test_the_kind_is_chosen_by_the_activation(act: Any, auto: str) -> None:
    net = mlp(act)
    assert wl.deepen(net, X, after="0").note.startswith(auto)
    assert wl.deepen(net, X, after="0", kind="residual").note.startswith("a residual insert")
    if auto == "an identity layer":
        assert wl.deepen(net, X, after="0", kind="identity").note.startswith(auto)
    else:
        with pytest.raises(CannotGrow, match=f"{act.__name__} follows"):
            wl.deepen(net, X, after="0", kind="identity")


def test_a_layer_without_an_activation_gets_a_rectified_insert() -> None:
    d = wl.deepen(mlp(), X, after="4")
    assert isinstance(d.model[4][1].activation, nn.ReLU)
    with pytest.raises(CannotGrow, match="no activation follows"):
        wl.deepen(mlp(), X, after="4", kind="identity")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"after": "9"}, UnknownTensor, "no module '9'"),
        ({"after": "1"}, InvalidArgument, "is a Tanh"),
        ({"after": "0", "kind": "deeper"}, InvalidArgument, "kind must be one of"),
    ],
)
def test_what_cannot_be_meant_by_a_layer(options: dict[str, str], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        wl.deepen(mlp(), X, **options)


def test_noise_is_of_the_new_layer() -> None:
    net = mlp(nn.ReLU, inner=20)
    plain, half, one = (wl.deepen(net, X, after="0", noise=n, seed=2) for n in (0.0, 0.5, 1.0))
    shift = half.model[0][2].weight - plain.model[0][2].weight
    assert torch.equal(half.model[0][2].bias, plain.model[0][2].bias)
    assert torch.equal(half.model[0][0].weight, net[0].weight)
    torch.testing.assert_close(one.model[0][2].weight - plain.model[0][2].weight, 2 * shift, rtol=1e-9, atol=1e-12)
    assert 0.4 < (shift.std() / net[0].weight.std()).item() < 0.6
    assert half.certificate.tolerance == math.inf
    assert plain.error == 0 < half.error
    assert {c.weights for c in half.certificate.checks} == {"own"}


@pytest.mark.parametrize("training", [False, True])
def test_modes_stay(training: bool) -> None:
    net = mlp(nn.ReLU).train(training)
    net[2].train(not training)
    d = wl.deepen(net, X, after="0")
    assert [m.training for m in d.model[0].modules()] == [training] * 4
    assert d.model[2].training is not training
    assert wl.deepen(net, X, after="2", kind="residual").model[2][1].up.training is not training


def test_the_optimizer_learns_of_the_new_layer() -> None:
    net = mlp(nn.ReLU)
    optimizer = torch.optim.Adam(
        [{"params": net[0].parameters(), "lr": 0.5}, {"params": net[2:].parameters(), "lr": 0.25}]
    )
    net(X).square().mean().backward()
    optimizer.step()
    d = wl.deepen(net, X, after="2", optimizer=optimizer)
    rates = {id(p): g["lr"] for g in d.optimizer.param_groups for p in g["params"]}
    assert {name: rates[id(p)] for name, p in d.model.named_parameters()} == {
        "0.weight": 0.5, "0.bias": 0.5, "2.0.weight": 0.25, "2.0.bias": 0.25, "2.2.weight": 0.25, "2.2.bias": 0.25, "4.weight": 0.25, "4.bias": 0.25,
    }  # fmt: skip
    moved = d.optimizer.state[d.model[2][0].weight]["exp_avg"]
    assert torch.equal(moved, optimizer.state[net[2].weight]["exp_avg"])
    assert moved is not optimizer.state[net[2].weight]["exp_avg"]
    assert d.model[2][2].weight not in d.optimizer.state


def test_counts_and_positions_of_layers_follow_an_inserted_block() -> None:
    class Block(nn.Module):
        def __init__(self, i: int) -> None:
            super().__init__()
            self.layer_idx, self.up, self.down = i, nn.Linear(3, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.down(torch.tanh(self.up(x)))

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block(i) for i in range(2))
            self.num_layers, self.depth, self.n_layer, self.layer_types, self.layer_sizes = (
                2,
                3,
                2,
                ["a", "b"],
                [1, 2, 3],
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    torch.manual_seed(0)
    net = Stack().double()
    d = wl.deepen(net, X, after="blocks.0")
    assert d.note == "a block that does nothing after blocks.0"
    assert apart(net, d.model) == 0
    assert len(d.model.blocks) == 3
    assert [b.layer_idx for b in d.model.blocks] == [0, 1, 2]
    assert (d.model.num_layers, d.model.depth, d.model.n_layer) == (3, 3, 3)
    assert d.model.layer_types == ["a", "a", "b"]
    assert d.model.layer_sizes == [1, 2, 3]
    assert net.layer_types == ["a", "b"]
    assert d.origin["blocks.1.up.weight"] is None
    assert d.origin["blocks.2.up.weight"] == "blocks.1.up.weight"
    assert torch.equal(d.model.blocks[1].up.weight, net.blocks[0].up.weight)
    assert any(note == "set layer_types: the entry of block 0 twice" for note in d.certificate.notes)
    last = wl.deepen(net, X, after="blocks.1", kind="block")
    assert last.model.layer_types == ["a", "b", "b"]
    assert last.origin["blocks.2.up.weight"] is None
    said = _renumbered(net, net.blocks, "blocks", 1)  # nothing was inserted: nothing fits
    assert said == []


def test_a_block_outside_of_a_list_becomes_two() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.down(torch.tanh(self.up(x)))

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = Block(), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x))

    torch.manual_seed(0)
    net = Around().double()
    d = wl.deepen(net, X, after="body")
    assert apart(net, d.model) == 0
    assert d.origin["body.first.up.weight"] == "body.up.weight"
    assert d.origin["body.second.up.weight"] is None
    assert "the new block's down.bias, down.weight are zero" in d.certificate.notes


def test_a_norm_on_the_way_gets_one_of_its_own() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
    for _ in range(3):
        net(X)
    d = wl.deepen(net.eval(), X, after="0")
    assert [type(m).__name__ for m in d.model[1]] == ["BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert d.model[1][2].bias is None
    assert apart(net, d.model) < 1e-9
    seen = torch.relu(net[1](net[0](X)))
    torch.testing.assert_close(d.model[1][3].running_mean, seen.mean(0).detach(), rtol=1e-9, atol=1e-12)
    assert not any(c.binding and c.mode == "train" for c in d.certificate.checks)


@pytest.mark.parametrize(("dtype", "bits", "least"), [("float64", 53, -1074), ("float32", 24, -149), ("float16", 11, -24), ("bfloat16", 8, -133)])  # fmt: skip
def test_numbers_are_divided_on_their_own_grid(dtype: str, bits: int, least: int) -> None:
    """A number of all its bits keeps each bit that a part can hold; the smallest number is not divided."""
    m = AxisMap(source=np.array([0, 0]), part=np.array([0.5, 0.5]), gradient=np.ones(2), fresh=np.array([False, True]))
    value = np.array([np.ldexp(2.0**bits - 1, -bits), 3 * 2.0**least, 2.0**least, 6 * 2.0**least])
    parts = grown_value("w", value[None], [(0, m)], dtype=dtype)
    assert (parts.sum(0) == value).all()
    assert sorted(np.ldexp(parts[:, 0], bits)) == [2.0 ** (bits - 1) - 1, 2.0 ** (bits - 1)]
    assert (np.ldexp(parts[:, 1:], -least) if least > -1000 else parts[:, 1:] / 2.0**least).max(0).tolist() == [2, 1, 3]
    assert grown_value("w", np.arange(2), [(0, AxisMap(m.source, np.ones(2), m.gradient, m.fresh))]).tolist() == [0, 0]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Two(nn.Module):
    """Runs its first two blocks, however many there are; a third stands beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.beside = nn.ModuleList([Residual(), Residual()]), Residual()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks[1](self.blocks[0](x))


def test_a_block_that_is_never_called_is_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(CannotGrow, match="'beside' is never called on the examples"):
        wl.deepen(Two().double(), X, after="beside")
    with pytest.raises(CannotGrow, match=r"'blocks\.2' would never be called"):
        wl.deepen(Two().double(), X, after="blocks.1")


@pytest.mark.parametrize("training", [False, True])
def test_modes_of_blocks_stay(training: bool) -> None:
    class Every(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    torch.manual_seed(0)
    net = Every().double().train(training)
    net.blocks[1].train(not training)
    d = wl.deepen(net, X, after="blocks.0")
    assert [b.training for b in d.model.blocks] == [training, training, not training]
    assert (d.model.training, d.model.beside.training) == (training, training)


def test_a_network_that_looks_into_the_layer_is_refused() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act, self.b = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.act(self.a(x))) / self.a.out_features

    for kind in ("identity", "residual"):
        with pytest.raises(CannotGrow, match="looks into the module that was wrapped"):
            wl.deepen(Looks().double(), X, after="a", kind=kind)


def test_a_norm_undoes_its_statistics_up_to_rounding() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    d = wl.deepen(net.eval(), X.float(), after="0")
    assert d.certificate.tolerance == 1e-5
    assert any("up to the rounding of this dtype" in note for note in d.certificate.notes)


@pytest.mark.parametrize("own", [True, False])
def test_the_check_that_is_furthest_beyond_its_limit_decides(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between 1e-5 for a norm in float32 with the weights as they are, and what rounding may do to others."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    trial = Trial.of(net, [X.float()], share=False)
    assert trial.tolerance < 1e-8
    checks = [Check("x", "eval", "own", 2e-5 if own else 9e-6), Check("x", "eval", "randomised", trial.tolerance * (1 if own else 2))]  # fmt: skip
    checks.append(Check("x", "train", "own", 1.0, binding=False))
    monkeypatch.setattr(Trial, "checks", lambda *_, **__: checks)
    monkeypatch.setattr(Trial, "allows", lambda self, worst, limit: worst.error <= limit)
    with pytest.raises(CannotGrow, match=f"by {checks[0 if own else 1].error:.1e}"):
        wl.deepen(net, X.float(), after="0")

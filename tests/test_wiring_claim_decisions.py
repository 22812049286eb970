"""Claims that are tried: a wrong one is taken away and named, a right one stays, and what the rules miss is found, on networks of a few units."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import weightlapse as wl
from tests.test_wiring_gauge_decisions import NETWORKS, Net, rand
from weightlapse.wiring.bench import Bench
from weightlapse.wiring.complete import _laid_out, _parts, missed
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.experts import guesses, with_experts
from weightlapse.wiring.lone_heads import _makers, _of_dims, lone_heads, not_searched
from weightlapse.wiring.members import Basis, Gauge, Group, Member, blocks
from weightlapse.wiring.outputs import chooser
from weightlapse.wiring.record import Call
from weightlapse.wiring.routes import guard
from weightlapse.wiring.tensors import state_tensors
from weightlapse.wiring.trace import trace
from weightlapse.wiring.trials import Trial, _form
from weightlapse.wiring.verify import signed, verified, works

X = rand(6, 3)


def mlp(*sizes: int, act: Any = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1]).eval()


def bench_of(model: nn.Module, *examples: Any) -> tuple[Wiring, Bench]:
    return trace(model, *examples, verify=False), Bench(model, examples, chooser(None), state_tensors(model)[0])


def changed(w: Wiring, name: str, **how: Any) -> Wiring:
    return replace(w, groups=tuple(replace(g, **how) if g.name == name else g for g in w.groups))


# ---- verify


def test_a_right_wiring_is_returned_as_it_is() -> None:
    w, bench = bench_of(mlp(3, 4, 5, 2), X)
    assert verified(w, bench) is w
    assert verified(w, bench, sample=True) is w
    assert w.fixed == {("0.weight", 1): "input", ("4.weight", 0): "output", ("4.bias", 0): "output"}


@pytest.mark.parametrize("member", [0, 1, 2])
@pytest.mark.parametrize("sample", [False, True])
def test_a_group_without_one_of_its_members_is_dropped(member: int, sample: bool) -> None:
    w, bench = bench_of(mlp(3, 4, 5, 2), X)
    members = w.group("0").members
    wrong = changed(w, "0", members=members[:member] + members[member + 1 :], exponents=())
    found = verified(wrong, bench, sample=sample)
    assert [g.name for g in found.groups] == ["2"]
    assert found.groups[0] == w.group("2")
    (text,) = found.dropped
    assert text.startswith("0: permuting its units changes the outputs by ")
    assert float(text.split()[-4]) > 1e-3
    for m in wrong.group("0").members:
        assert found.fixed[m.tensor, m.axis] == "its group was dropped: permuting it changed the outputs"
    assert found.fixed["0.weight", 1] == "input"
    both = verified(changed(wrong, "2", members=w.group("2").members[1:], exponents=()), bench)
    assert both.groups == ()
    assert [text[:2] for text in both.dropped] == ["0:", "2:"]


@pytest.mark.parametrize("wrong", ["scale", "exponents", "gauge", "both"])
def test_symmetries_that_do_not_hold_are_taken_away(wrong: str) -> None:
    w, bench = bench_of(mlp(3, 4, 5, 2), X)
    how: dict[str, Any] = {
        "scale": {"symmetries": frozenset({"permutation", "sign", "scale"})},
        "exponents": {"exponents": (1, 0, -1)},
        "gauge": {"gauges": (Gauge("scale", (1, 1, -1)), Gauge("sign", (1, 1, 1)))},
        "both": {"symmetries": frozenset({"permutation", "scale"}), "gauges": (Gauge("scale", (0, 0, 1)),)},
    }[wrong]
    found = verified(changed(w, "2", **how), bench)
    assert found.dropped == ()
    assert found.group("0") == w.group("0")
    assert found.group("2").symmetries == (
        {"permutation"} if wrong in ("exponents", "both") else {"permutation", "sign"}
    )
    assert found.group("2").gauges == ((Gauge("sign", (1, 1, 1)),) if wrong == "gauge" else ())


def test_groups_inside_a_dropped_one_are_nobodys() -> None:
    model, x, _ = NETWORKS["heads_selected"]
    w, bench = bench_of(model.eval(), tuple(x))
    (outer,) = [g for g in w.groups if g.parent is None]
    found = verified(changed(w, outer.name, members=outer.members[1:], exponents=()), bench)
    assert {g.parent for g in found.groups} == {None}
    assert [g.name for g in found.groups] == [g.name for g in w.groups if g is not outer]
    inner = next(g for g in w.groups if g.parent is not None)
    found = verified(changed(w, inner.name, members=inner.members[1:], exponents=()), bench, sample=True)
    assert inner.name not in {g.name for g in found.groups}
    assert outer in found.groups


def test_a_sample_leaves_out_what_lies_between() -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv1d(2, 12, 1), nn.Conv1d(12, 4, 1, groups=4), nn.Conv1d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(torch.relu(self.a(x))))

    w, bench = bench_of(Blocks().eval(), rand(2, 2, 3))
    inner = [g for g in w.groups if g.parent is not None]
    assert [g.parent[1] for g in inner if g.parent is not None] == [0, 1, 2, 3]
    for u, seen in ((0, True), (1, False), (2, False), (3, True)):
        wrong = changed(w, inner[u].name, members=inner[u].members[1:], exponents=())
        assert len(verified(wrong, bench, sample=True).dropped) == seen
        assert len(verified(wrong, bench).dropped) == 1


def test_how_much_a_move_changes() -> None:
    w, bench = bench_of(mlp(3, 4, 2), X)
    g, rng = w.group("0"), np.random.default_rng(0)
    assert (
        works(bench, w, g, rng)
        <= bench.tolerance
        < works(bench, w, replace(g, members=g.members[:1], exponents=(1,)), rng)
    )
    assert signed(bench, w, g, (1, 1, -1), "sign", rng) <= bench.tolerance
    assert signed(bench, w, g, (1, 1, -1), "scale", rng) > bench.tolerance
    assert signed(bench, w, g, (1, 0, 1), "sign", rng) > bench.tolerance


def _in_columns(n: Any, x: Tensor) -> Tensor:
    z = torch.zeros(6, 7, dtype=x.dtype)
    z[:, 1:5].add_(n.a(x).tanh())
    return z @ n.v


def _in_half_of_the_rows(n: Any, x: Tensor) -> Tensor:
    z = torch.zeros(6, 2, 4, dtype=x.dtype)
    rows = z.view(12, 4)[:6]
    rows += n.a(x).tanh()
    return z.flatten(1) @ n.v


@pytest.mark.parametrize(("f", "size", "index"), [(_in_columns, 7, [[1], [2], [3], [4]]), (_in_half_of_the_rows, 8, [[0, 4], [1, 5], [2, 6], [3, 7]])])  # fmt: skip
def test_what_is_written_into_a_part_of_zeros_is_in_the_whole(f: Any, size: int, index: list[list[int]]) -> None:
    w, bench = bench_of(Net(f, a=nn.Linear(3, 4), v=rand(size, 2)).eval(), X)
    (g,) = w.groups
    assert [(m.tensor, m.axis, m.index.tolist()) for m in g.members] == [("a.weight", 0, [[0], [1], [2], [3]]), ("a.bias", 0, [[0], [1], [2], [3]]), ("v", 0, index)]  # fmt: skip
    assert verified(w, bench) is w


# ---- what the rules missed


def joined(w: Wiring, *names: str) -> Wiring:
    members = tuple(m for n in names for m in w.group(n).members)
    tied = Group(names[0], w.group(names[0]).size, members, exponents=(0,) * len(members))
    return replace(w, groups=(tied, *(g for g in w.groups if g.name not in names)))


def without(w: Wiring, name: str, reason: str = "a rule gave up") -> Wiring:
    fixed = w.fixed | {(m.tensor, m.axis): reason for m in w.group(name).members}
    return replace(w, groups=tuple(g for g in w.groups if g.name != name), fixed=fixed)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_tie_too_many_is_found(size: int) -> None:
    w, bench = bench_of(mlp(3, size, size, 2), X)
    assert missed(w, bench) == []
    (found,) = missed(joined(w, "0", "2"), bench)
    assert {(m.tensor, m.axis) for m in found.group.members} in [
        {(m.tensor, m.axis) for m in g.members} for g in w.groups
    ]
    assert found.reason == "0"
    assert found.text.startswith("0: its units in ")
    assert found.group.size == size
    assert len(found.rest) == 3


def test_a_tie_too_many_is_found_beside_what_has_no_influence() -> None:
    """A bias below a mean that is taken away may be put in any order: that the others matter is enough."""

    def centred(n: Any, x: Tensor) -> Tensor:
        h = n.a(x)
        return n.c(n.b((h - h.mean(0)).tanh()).tanh())

    torch.manual_seed(0)
    w, bench = bench_of(Net(centred, a=nn.Linear(3, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 2)).eval(), X)
    (found,) = missed(joined(w, "b", "a"), bench)
    assert {m.tensor for m in found.group.members} == {"b.weight", "b.bias", "c.weight"}
    assert {m.tensor for g in found.rest for m in g.members} == {"a.weight", "a.bias", "b.weight"}


@pytest.mark.parametrize(("size", "picked", "found"), [(4, "indexed by a tensor", 1), (2, "indexed by a tensor", 1), (1, "indexed by a tensor", 0), (4, "cumsum", 0)])  # fmt: skip
def test_experts_are_guessed_where_rows_are_ranked_and_stacks_are_picked(size: int, picked: str, found: int) -> None:
    fixed = {("m.router.weight", 0): "topk depends on the order of its positions", ("m.up", 0): picked, ("other.up", 0): "indexed by a tensor"}  # fmt: skip
    w = Wiring((), fixed=fixed, shapes={"m.router.weight": (size, 3), "m.up": (size, 3, 5), "other.up": (size, 3, 5)})
    guessed = guesses(w)
    assert [[(m.tensor, m.role) for m in g.members] for g in guessed] == [[("m.router.weight", "out"), ("m.up", "in")]] * found  # fmt: skip
    assert [g.name for g in guessed] == ["m.router"] * found


@pytest.mark.parametrize("size", [2, 4])
def test_an_axis_fixed_without_need_is_found(size: int) -> None:
    w, bench = bench_of(mlp(3, size, 5, 2), X)
    (found,) = missed(without(w, "0"), bench)
    assert {(m.tensor, m.axis) for m in found.group.members} == {(m.tensor, m.axis) for m in w.group("0").members}
    assert found.reason == "a rule gave up"
    assert f"but its {size} positions may be exchanged" in found.text
    for reason in ("input", "output of it", "input; vocabulary"):
        assert missed(without(w, "0", reason), bench) == []
    assert len(missed(without(w, "0", "input; a rule gave up"), bench)) == 1
    unseen = replace(without(w, "0"), unseen=("0.weight",))
    assert all("0.weight" not in {m.tensor for m in f.group.members} for f in missed(unseen, bench))


class Flat(nn.Module):
    """Channels laid out in a row before a linear layer: all places of one after the other, or all channels of one place."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Conv1d(2, 3, 2), nn.Linear(6, 2), last

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return self.b((h.transpose(1, 2) if self.last else h).flatten(1))


@pytest.mark.parametrize(("last", "index"), [(False, [[0, 1], [2, 3], [4, 5]]), (True, [[0, 3], [1, 4], [2, 5]])])
def test_units_of_several_positions_are_found(last: bool, index: list[list[int]]) -> None:
    torch.manual_seed(0)
    w, bench = bench_of(Flat(last).eval(), rand(2, 2, 3))
    assert w.group("a").members[-1].index.tolist() == index
    (found,) = missed(without(w, "a"), bench)
    at = {(m.tensor, m.axis): m.index.tolist() for m in found.group.members}
    assert at == {("b.weight", 1): index, ("a.weight", 0): [[0], [1], [2]], ("a.bias", 0): [[0], [1], [2]]}


def test_gates_in_one_matrix_are_found() -> None:
    model, x, _ = NETWORKS["gates"]
    w, bench = bench_of(model.eval(), tuple(x))
    (found,) = missed(without(w, "a"), bench)
    assert {(m.tensor, m.index.shape[1]) for m in found.group.members} == {
        ("a.weight", 3),
        ("a.bias", 3),
        ("b.weight", 1),
    }


@pytest.mark.parametrize(
    "f",
    [lambda h: h.cumsum(-1), lambda h: h * torch.arange(1.0, 5, dtype=h.dtype), lambda h: h.sort(0).values.cumsum(1)],
)
def test_what_depends_on_the_order_is_not_freed(f: Callable[[Tensor], Tensor]) -> None:
    w, bench = bench_of(Net(lambda n, x: n.b(f(n.a(x))), a=nn.Linear(3, 4), b=nn.Linear(4, 2)).eval(), X)
    assert w.groups == ()
    assert missed(w, bench) == []


def test_places_of_a_member() -> None:
    w = Wiring((), shapes={"t": (3, 4, 2), "s": (6,)})
    assert [(p.index.tolist(), p.where) for p in _parts(Member("s", 0, blocks(3, 2), "out"), w)] == [
        ([[0], [2], [4]], None),
        ([[1], [3], [5]], None),
    ]
    stack = _parts(Member("t", 1, blocks(4), "in"), w)
    assert [(p.where[0], p.where[1].tolist()) for p in stack if p.where] == [(0, [0]), (0, [1]), (0, [2])]
    assert [p.where for p in _parts(Member("t", 0, blocks(3), "in"), w)] == [None]
    assert len(_parts(Member("s", 0, blocks(1, 9), "out"), Wiring((), shapes={"s": (9,)}))) == 1
    assert len(_parts(Member("s", 0, blocks(1, 8), "out"), Wiring((), shapes={"s": (8,)}))) == 8
    slab = Member("t", 1, blocks(4), "in", (0, np.array([1])))
    assert [p.where for p in _parts(slab, w)] == [slab.where]
    assert len(_parts(Member("t", 1, blocks(4), "in"), Wiring((), shapes={"t": (9, 4, 2)}))) == 1
    assert len(_parts(Member("t", 1, blocks(4), "in"), Wiring((), shapes={"t": (8, 4, 2)}))) == 8


def test_layouts_of_positions() -> None:
    def index(count: int, size: int, rounds: bool) -> Any:
        return [m.index.tolist() for m in _laid_out("t", 0, np.arange(count), size, rounds)]

    assert index(6, 6, False) == index(6, 6, True) == [[[i] for i in range(6)]]
    assert index(6, 3, False) == [[[0, 1], [2, 3], [4, 5]]]
    assert index(6, 3, True) == [[[0, 3], [1, 4], [2, 5]]]
    assert index(6, 4, False) == index(6, 4, True) == []
    assert index(18, 2, True) == []
    assert np.shape(index(16, 2, False)) == (1, 2, 8)


# ---- experts


class Experts(nn.Module):
    """Each row is given to the two of three experts that a router ranks first."""

    def __init__(self, numbered: bool = False, sparse: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inp, self.router, self.out = nn.Linear(3, 6), nn.Linear(6, 3), nn.Linear(6, 2)
        self.up, self.down = nn.Parameter(torch.randn(3, 6, 4)), nn.Parameter(torch.randn(3, 4, 6))
        self.numbered = numbered

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.inp(x))
        weight, chosen = self.router(x).softmax(-1).topk(2, -1)
        h = torch.relu(torch.einsum("bc,bkch->bkh", x, self.up[chosen]))
        h = h * (1 + chosen[..., None]) if self.numbered else h
        return self.out(x + torch.einsum("bkh,bkhc,bk->bc", h, self.down[chosen], weight))


def test_experts_that_may_change_places() -> None:
    model = Experts().eval()
    w, bench = bench_of(model, rand(9, 3))
    (guess,) = guesses(w)
    assert (guess.name, guess.size) == ("router.experts" if w.find("router") else "router", 3)
    assert {(m.tensor, m.axis, m.role) for m in guess.members} == {
        ("router.weight", 0, "out"), ("router.bias", 0, "add"), ("up", 0, "in"), ("down", 0, "in"),
    }  # fmt: skip
    found = with_experts(w, bench)
    assert [g.parent for g in found.groups if g.parent is not None] == [(guess.name, e) for e in range(3)]
    at = [g.name for g in found.groups].index(guess.name)
    assert all(i > at for i, g in enumerate(found.groups) if g.parent is not None)
    assert not {(m.tensor, m.axis) for m in guess.members} & set(found.fixed)
    assert verified(found, bench) is found
    for i in range(len(guess.members)):
        fewer = guess.members[:i] + guess.members[i + 1 :]
        assert (
            works(bench, w, replace(guess, members=fewer, exponents=(0,) * 3), np.random.default_rng(1))
            > bench.tolerance
        )


def test_experts_whose_number_counts_stay_in_their_places() -> None:
    w, bench = bench_of(Experts(numbered=True).eval(), rand(9, 3))
    assert guesses(w)
    assert with_experts(w, bench).groups == w.groups


def test_experts_without_influence_prove_nothing() -> None:
    w, bench = bench_of(Experts().eval(), rand(9, 3))
    with torch.no_grad():
        bench.model.up.data.zero_()
        bench.model.down.data.zero_()
    bench.base = [bench.run(c) for c in bench.calls]
    assert with_experts(w, bench).groups == w.groups


# ---- routes: what is done to the units that rows meet with an expert

ROUTED: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "relu": (lambda h: h.relu(), True),
    "softmax": (lambda h: h.softmax(-1), True),
    "shape": (lambda h: h.view(6, 2, 1, 4).transpose(1, 2).squeeze(1), True),
    "gain of rows": (lambda h: h * h.mean(-1, keepdim=True), True),
    "sum of the chosen": (lambda h: h.sum(1, keepdim=True).expand(6, 2, 4), False),
    "mean of rows": (lambda h: h + h.mean(0, keepdim=True), False),
    "another row": (lambda h: h.roll(1, 0), False),
    "turned round": (lambda h: h.flip(0), False),
    "sorted": (lambda h: h.sort(0).values, False),
    "every row's product": (
        lambda h: (h.reshape(12, 4) @ h.reshape(12, 4).T).softmax(-1).reshape(12, 12) @ h.reshape(12, 4),
        False,
    ),
}


@pytest.mark.parametrize("name", ROUTED)
def test_units_of_experts_are_apart_while_rows_stay_by_themselves(name: str) -> None:
    f, apart = ROUTED[name]

    def run(n: Net, x: Tensor, i: Tensor) -> Tensor:
        h = f(torch.einsum("bc,bkch->bkh", x, n.up[i])).reshape(6, 2, 4)
        return torch.einsum("bkh,bkhc->bc", h, n.down[i])

    model = Net(run, up=rand(3, 3, 4), down=rand(3, 4, 2)).eval()
    x = (X, torch.tensor([[0, 1], [2, 0], [1, 2], [0, 2], [1, 0], [2, 1]]))
    w, bench = bench_of(model, x)
    assert [g.size for g in w.groups] == ([4, 4, 4] if apart else [4])
    assert verified(w, bench) is w


UNIT, ROW, ELSE, OTHER = range(4)
aten = torch.ops.aten


# an operator, the axes of its inputs and of its result, and whether units that rows meet with their expert stay with their row
STEPS: dict[str, tuple[Any, tuple[list[int], ...], list[int], bool]] = {
    "made": (aten.mm.default, ([ROW, ELSE], [ELSE, UNIT]), [ROW, UNIT], True),
    "made of all rows": (aten.mm.default, ([UNIT, ROW], [ROW, ELSE]), [ROW, UNIT], False),
    "summed": (aten.mm.default, ([ROW, UNIT], [UNIT, ELSE]), [ROW, ELSE], True),
    "rows summed in each": (aten.bmm.default, ([ELSE, UNIT, ROW], [ELSE, ROW, UNIT]), [OTHER], False),
    "summed in each": (aten.bmm.default, ([ROW, ELSE, UNIT], [ROW, UNIT, OTHER]), [ROW, ELSE, OTHER], True),
    "shifted": (aten.addmm.default, ([ROW], [ROW, UNIT], [UNIT, OTHER]), [ROW, OTHER], True),
    "shifted with rows": (aten.addmm.default, ([UNIT], [UNIT, ROW], [ROW, UNIT]), [OTHER], False),
    "shifted in each": (aten.baddbmm.default, ([ROW], [ELSE, ROW, UNIT], [ELSE, UNIT, OTHER]), [ROW, OTHER], True),
    "shifted with rows in each": (aten.baddbmm.default, ([UNIT], [ELSE, UNIT, ROW], [ELSE, ROW, UNIT]), [OTHER], False),
    "another's rows": (aten._softmax.default, ([ROW, UNIT],), [ELSE, UNIT], False),
    "softmax": (aten._softmax.default, ([ROW, UNIT],), [ROW, UNIT], True),
    "element by element": (aten.relu.default, ([ROW, UNIT],), [ROW, UNIT], True),
    "turned round": (aten.flip.default, ([ROW, UNIT],), [ROW, UNIT], False),
    "of no rule": (aten.linalg_det.default, ([ROW, UNIT],), [ROW, UNIT], False),
    "rows in runs": (aten._grouped_mm.default, ([ROW, ELSE], [OTHER, ELSE, UNIT]), [ROW, UNIT], True),
}  # fmt: skip


class Routed:
    """An inference in which one axis is the units of experts, and one or two are the rows that each have one."""

    def __init__(self, axes: dict[int, list[int]], rows: dict[bytes, list[set[int]]]) -> None:
        self.of, self.rows, self.ordinary, self.dims = axes, rows, [], self

    def axes(self, t: Tensor) -> list[int]:
        return self.of[id(t)]

    def leaves(self, axis: int) -> list[int]:
        return [axis]

    def routes_of(self, leaf: int) -> list[bytes]:
        return list(self.rows) if leaf == UNIT else []

    def rows_of(self, route: bytes) -> list[set[int]]:
        return self.rows[route]

    def unroute(self, leaf: int) -> None:
        self.ordinary.append(leaf)


def stays(op: Any, inputs: Sequence[list[int]], out: list[int], rows: dict[bytes, list[set[int]]]) -> bool:
    tensors = [torch.zeros(()) for _ in inputs]
    inf: Any = Routed({id(t): axes for t, axes in zip(tensors, inputs, strict=True)}, rows)
    guard(inf, Call(op, tuple(tensors), {}, tensors, [], []), [out])
    assert inf.ordinary in ([], [UNIT])
    return not inf.ordinary


@pytest.mark.parametrize("name", STEPS)
def test_which_steps_leave_units_with_their_row(name: str) -> None:
    op, inputs, out, apart = STEPS[name]
    assert stays(op, inputs, out, {b"r": [{ROW}]}) is apart
    assert stays(op, inputs, out, {})


def test_a_row_is_all_of_its_axes_and_one_of_several_is_enough() -> None:
    for rows, apart in (([{ROW, ELSE}], False), ([{ELSE}, {ROW}], True), ([{ROW, UNIT}], True), ([{ELSE}], False)):
        assert stays(aten.relu.default, [[ROW, UNIT]], [ROW, UNIT], {b"r": rows}) is apart
    assert not stays(aten.relu.default, [[ROW, UNIT]], [ROW, UNIT], {b"r": [{ROW}], b"s": [{ELSE}]})
    assert not stays(aten.relu.default, [[ELSE]], [UNIT], {b"r": [{ROW}]})  # units that only the result has
    assert not stays(aten.flip.default, [[UNIT]], [ROW], {b"r": [{ROW}]})  # or only an input
    assert not stays(aten.mm.default, [[UNIT, ROW], [ROW, ELSE]], [ELSE], {b"r": [{OTHER}, {ROW}]})


# ---- guesses for heads that no group holds


def at(tensor: str, axis: int, index: Any, role: str, where: Any = None) -> Member:
    return Member(tensor, axis, np.asarray(index), role, where)


def stream(*reads: str, **how: Any) -> Group:
    """Four numbers that ``reads`` read by rows (``t``: by columns)."""
    members = [at(r, 0 if r.startswith("t") else 1, blocks(4), "in") for r in reads]
    return Group("s", 4, (at("e", 1, blocks(4), "out"), *members), **how)


SHAPES = {
    "e": (5, 4), "q.weight": (6, 4), "t.weight": (4, 6), "last": (7, 4), "wide": (6, 8), "three": (3, 4, 2), "o.weight": (4, 6), "q.bias": (6,), "t.bias": (4,),
}  # fmt: skip


def made(*groups: Group, kept: Sequence[Basis] = (), fixed: Any = None) -> dict[str, tuple[int, list[int], str | None]]:
    w = Wiring(groups, shapes=SHAPES, fixed=fixed or {})
    found = _makers(w, kept)
    assert all(m.tensor == name for name, m in found.items())
    return {n: (m.axis, m.left.tolist(), None if m.heads is None else m.heads.name) for n, m in found.items()}


def test_what_makes_numbers_of_a_stream() -> None:
    every = list(range(6))
    s = stream("q.weight", "t.weight", "last", "wide", "three")
    assert made(s) == {"q.weight": (0, every, None), "t.weight": (1, every, None), "last": (0, list(range(7)), None)}
    for why, left in (("output of it", False), ("vocabulary", False), ("input", False), ("attention", True)):
        assert ("last" in made(s, fixed={("last", 0): why, ("last", 1): "output"})) is left
    q = stream("q.weight")
    assert made(replace(q, parent=("s", 0))) == {}
    for member in (at("q.weight", 1, blocks(4), "in+out"), at("q.weight", 1, blocks(4), "in", (0, np.arange(2)))):
        assert made(replace(q, members=(member,), exponents=())) == {}
    assert made(Group("s", 2, (at("q.weight", 1, blocks(2, 2), "in"),))) == {}
    taken = Basis("b", 2, "invertible", (at("q.weight", 0, [[1], [2]], "out"), at("e", 0, [[0], [3]], "out")), (1, 1))
    assert made(q, kept=[taken]) == {"q.weight": (0, [0, 3, 4, 5], None)}
    whole = replace(taken, size=6, members=(at("q.weight", 0, blocks(6), "out"),), exponents=(1,))
    assert made(q, kept=[whole]) == {}


def test_hidden_units_are_no_queries_and_whole_heads_are() -> None:
    q, every = stream("q.weight"), list(range(6))

    def of(makes: Any, reads: Any, role: str = "in", **how: Any) -> dict[str, tuple[int, list[int], str | None]]:
        members = (at("q.weight", 0, makes, "out"), at("o.weight", 1, reads, role))
        return made(q, Group("h", 2, members, **how))

    assert of([[4], [5]], [[4], [5]]) == {"q.weight": (0, [0, 1, 2, 3], None)}
    assert of([[4], [5]], [[4], [5]], "out") == {"q.weight": (0, every, None)}
    assert of(blocks(2, 3), blocks(2, 3)) == {"q.weight": (0, every, "h")}
    assert of(blocks(2, 3), blocks(2, 3), "out") == {"q.weight": (0, every, None)}
    assert of(blocks(2, 3), blocks(2), "in") == {"q.weight": (0, every, None)}
    assert of(blocks(2, 3), blocks(2, 3), parent=("s", 0)) == {"q.weight": (0, every, None)}


@pytest.mark.parametrize(
    ("members", "sides"),
    [
        ([at("a", 0, blocks(2, 3), "out"), at("a.bias", 0, blocks(2, 3), "add")], ([("a", 0, [[0, 1], [3, 4]])], [("a", 0, [[2], [5]])])),
        ([at("a", 0, blocks(2, 2), "out")], ([("a", 0, [[0], [2]])], [("a", 0, [[1], [3]])])),
        ([at("a", 0, blocks(2), "out")], None),
        ([at("a", 0, blocks(2), "out"), at("b", 1, blocks(2), "out")], ([("a", 0, [[0], [1]])], [("b", 1, [[0], [1]])])),
        ([at(t, 0, blocks(2), "out") for t in "abc"], None),
        ([at("a", 0, blocks(2), "out"), at("b", 1, blocks(2), "out"), at("c", 0, blocks(2), "in")], None),
        ([at("a", 0, blocks(2), "out"), at("b", 1, blocks(2), "out", (0, np.arange(1)))], None),
        ([at("a", 0, blocks(2), "add")], None),
    ],
)  # fmt: skip
def test_queries_and_keys_of_numbers_that_nothing_reads(members: list[Member], sides: Any) -> None:
    found = _of_dims(Group("g", 2, tuple(members)))
    assert (None if found is None else tuple([(t, a, i.tolist()) for t, a, i in side] for side in found)) == sides


def guessed(w: Wiring) -> list[tuple[str, int, list[tuple[str, int, Any, str]], tuple[int, ...], Any]]:
    """Of each guess the freest form."""
    found = [alternatives[0] for alternatives in lone_heads(w, ())]
    assert all(b.kind == "invertible" for b in found)
    return [
        (b.name, b.size, [(m.tensor, m.axis, m.index.tolist(), m.role) for m in b.members], b.exponents, b.parent)
        for b in found
    ]


def test_two_matrices_one_after_the_other_may_make_queries_and_keys() -> None:
    shapes = {"e": (5, 4), "q.weight": (2, 4), "q.bias": (2,), "k.weight": (2, 4), "k.bias": (3,), "v": (3, 4), "vbias": (3,), "u": (3, 4)}  # fmt: skip
    w = Wiring((stream("q.weight", "k.weight", "v", "u"),), shapes=shapes)
    two, three = [[0], [1]], [[0], [1], [2]]
    first = ("queries q.weight[0]", 2, [("q.weight", 0, two, "out"), ("q.bias", 0, two, "add"), ("k.weight", 0, two, "out")], (1, 1, -1), None)  # fmt: skip
    second = ("queries v[0]", 3, [("v", 0, three, "out"), ("u", 0, three, "out")], (1, -1), None)
    assert guessed(w) == [first, second]
    dims = Group("g", 2, (at("q.weight", 0, two, "out"), at("k.weight", 0, two, "out")))
    assert guessed(replace(w, groups=(*w.groups, dims))) == [first, second]  # once, though they come in a row too
    inside = replace(dims, parent=("s", 0))
    assert guessed(replace(w, groups=(*w.groups, inside))) == [first, second]
    lone = Group("g", 2, (at("v", 0, [[1], [2]], "out"), at("q.weight", 0, two, "out")))
    assert [g[0] for g in guessed(replace(w, groups=(*w.groups, lone)))] == ["queries v[1]"]
    elsewhere = Group("g", 2, (at("x", 0, two, "out"), at("y", 0, two, "out")))
    assert guessed(replace(w, groups=(*w.groups, elsewhere))) == [first, second]
    assert not_searched(w) == []
    b = Basis("b", 2, "invertible", (at("q.weight", 0, two, "out"),), (1,))
    assert not_searched(replace(w, bases=(b,))) == ["k.weight", "v", "u"]


def test_heads_that_share_the_keys_of_the_next_matrix() -> None:
    shapes = {"e": (5, 4), "q": (6, 4), "k": (3, 4), "o": (4, 6)}
    heads = Group("h", 2, (at("q", 0, blocks(2, 3), "out"), at("o", 1, blocks(2, 3), "in")))
    w = Wiring((stream("q", "k"), heads), shapes=shapes)
    assert guessed(w) == [("queries q[0]", 3, [("q", 0, [[0, 3], [1, 4], [2, 5]], "out"), ("k", 0, [[0], [1], [2]], "out")], (1, -1), None)]  # fmt: skip
    turned = replace(w, shapes={"e": (5, 4), "k": (3, 4), "q": (6, 4), "o": (4, 6)})
    assert guessed(turned) == []  # what is in heads already is no key of another


def test_one_matrix_for_all_heads_and_the_keys_and_values_that_they_share() -> None:
    shapes = {"e": (5, 4), "a.weight": (8, 4), "a.bias": (8,), "o": (4, 4)}
    heads = Group("h", 2, (at("a.weight", 0, blocks(2, 2), "out"), at("o", 1, blocks(2, 2), "in"), at("a.bias", 0, blocks(2, 2), "add")))  # fmt: skip
    w = Wiring((stream("a.weight"), heads), shapes=shapes)
    both = [[0, 2], [1, 3]]
    queries = ("queries a.weight[0]", 2, [("a.weight", 0, both, "out"), ("a.bias", 0, both, "add"), ("a.weight", 0, [[4], [5]], "out"), ("a.bias", 0, [[4], [5]], "add")], (1, 1, -1, -1), None)  # fmt: skip
    values = ("values a.weight[0]", 2, [("a.weight", 0, [[6], [7]], "out"), ("a.bias", 0, [[6], [7]], "add"), ("o", 1, both, "in")], (1, 1, -1), None)  # fmt: skip
    assert guessed(w) == [queries, values]
    for rows in (7, 9):
        assert guessed(replace(w, shapes=shapes | {"a.weight": (rows, 4)})) == []


def test_one_matrix_for_all_in_each_unit() -> None:
    """Two units of eight rows: two heads of two numbers, then the keys and the values of the unit."""
    shapes = {"e": (5, 4), "a": (16, 4), "o": (4, 8)}
    units = Group("u", 2, (at("a", 0, blocks(2, 8), "out"), at("o", 1, blocks(2, 4), "in")))
    heads = [Group(f"h{u}", 2, (at("o", 1, blocks(2, 2, 4 * u), "in"), at("a", 0, blocks(2, 2, 8 * u), "out")), parent=("u", u)) for u in (0, 1)]  # fmt: skip
    other = Group("x", 2, (at("o", 1, blocks(2), "in"),), parent=("u", 1))
    w = Wiring((stream("a"), units, *heads, other), shapes=shapes)
    found = guessed(w)
    assert [(g[0], g[-1]) for g in found] == [(f"{kind} a[{u}]", ("u", u)) for u in (0, 1) for kind in ("queries", "values")]  # fmt: skip
    assert found[2][2:4] == ([("a", 0, [[8, 10], [9, 11]], "out"), ("a", 0, [[12], [13]], "out")], (1, -1))
    assert found[3][2:4] == ([("a", 0, [[14], [15]], "out"), ("o", 1, [[4, 6], [5, 7]], "in")], (1, -1))
    assert guessed(replace(w, groups=(stream("a"), units, other))) == []


# ---- bases


def linear_in_a_row() -> tuple[Wiring, Bench]:
    torch.manual_seed(0)
    return bench_of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).eval(), X)


def basis(kind: str, w: Wiring, name: str = "0", pairs: tuple[tuple[int, ...], ...] = ()) -> Basis:
    g = w.group(name)
    return Basis(name, g.size, kind, g.members, tuple(-1 if m.role == "in" else 1 for m in g.members), pairs)


@pytest.mark.parametrize(
    ("name", "kind", "pairs", "holds"),
    [
        ("0", "invertible", (), True), ("0", "orthogonal", (), True), ("0", "scales", ((0,), (1,)), True), ("0", "rotary", ((0, 1),), True),
        ("1", "invertible", (), False), ("1", "orthogonal", (), False), ("1", "scales", ((0,), (1,)), False), ("1", "signs", ((0,), (1,)), True),
        ("1", "signs", ((0, 1, 2, 3, 4),), True), ("1", "rotary", ((0, 1),), False),
    ],
)  # fmt: skip
def test_guesses_of_bases_are_tried(name: str, kind: str, pairs: tuple[tuple[int, ...], ...], holds: bool) -> None:
    w, bench = linear_in_a_row()
    trial = Trial(w, bench)
    before = {n: t.clone() for n, t in bench.state.items()}
    b = basis(kind, w, name, pairs)
    assert trial.holds([b]) is holds
    assert trial.holds([b], alone=True) is holds
    for n, t in bench.state.items():
        torch.testing.assert_close(t, before[n], rtol=1e-9, atol=1e-12)
    fewer = replace(b, members=b.members[1:], exponents=b.exponents[1:])
    assert not trial.holds([fewer])


def test_nothing_is_proved_by_what_has_no_influence() -> None:
    w, bench = linear_in_a_row()
    b = basis("invertible", w)
    with torch.no_grad():
        for t in bench.state.values():
            if t.shape == (5, 4):
                t.zero_()
    trial = Trial(w, bench)
    assert trial.holds([b])
    assert not trial.holds([b], alone=True)
    assert trial.holds([])


def test_of_alternatives_the_first_that_holds_is_taken() -> None:
    w, bench = linear_in_a_row()
    trial = Trial(w, bench)
    free, turns = basis("invertible", w), basis("orthogonal", w)
    wrong = replace(free, exponents=(1, 1, 1))
    assert trial.sifted([[free, turns]]) == [free]
    assert trial.sifted([[wrong, turns, free]]) == [turns]
    assert trial.sifted([[wrong]]) == []
    assert trial.sifted([]) == []
    assert trial.sifted([[]]) == []
    other = [basis("invertible", w, "1"), basis("signs", w, "1", tuple((i,) for i in range(5)))]
    assert trial.sifted([[free], other]) == [free, other[1]]


def test_the_rest_of_the_wiring_is_that_of_the_network() -> None:
    torch.manual_seed(0)
    w = wl.trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), X, verify="complete")
    assert w.report["complete"]
    assert [(b.kind, b.size) for b in w.bases] == [("invertible", 4)]


def straight_and_bent(*names: str) -> tuple[Wiring, Bench]:
    """Four layers: the first one's numbers may be written in any basis, those of the second in other signs, those of the third in any."""
    torch.manual_seed(0)
    layers = nn.ModuleDict({n: nn.Linear(4, 4) for n in names})

    def run(n: Any, x: Tensor) -> Tensor:
        first, second, third, fourth = n.layers.values()
        return fourth(third(torch.tanh(second(first(x)))))

    return bench_of(Net(run, layers=layers).eval(), rand(6, 4))


def number_bases(w: Wiring, kind: str, names: Sequence[str], parent: Any = None) -> list[Basis]:
    out = []
    for maker, reader in itertools.pairwise(f"layers.{n}" for n in names):
        members = (Member(f"{maker}.weight", 0, blocks(4), "out"), Member(f"{maker}.bias", 0, blocks(4), "add"), Member(f"{reader}.weight", 1, blocks(4), "in"))  # fmt: skip
        pairs = tuple((i,) for i in range(4)) if kind == "signs" else ()
        out.append(Basis(maker, 4, kind, members, (1, 1, -1), pairs, parent=parent))
    return out


def test_layers_of_one_form_are_tried_by_the_first_and_each_where_that_fails() -> None:
    names = "0123"
    trial = Trial(*straight_and_bent(*names))
    before = {n: t.clone() for n, t in trial.bench.state.items()}
    free, signs = number_bases(trial.wiring, "invertible", names), number_bases(trial.wiring, "signs", names)
    assert [trial.holds([b], alone=True) for b in free] == [True, False, True]
    assert [trial.holds([b], alone=True) for b in signs] == [True] * 3
    assert trial.holds([free[0], signs[1], free[2]])
    assert not trial.holds(free)
    assert trial.sifted([[b] for b in free]) == [free[0], free[2]]
    assert trial.sifted([[f, s] for f, s in zip(free, signs, strict=True)]) == [free[0], signs[1], free[2]]
    assert trial.sifted([[free[1], signs[1]], [free[0]]]) == [signs[1]]  # the other one has no second form
    for n, t in trial.bench.state.items():
        torch.testing.assert_close(t, before[n], rtol=1e-9, atol=1e-12)


def test_forms_are_told_apart_by_the_names_of_layers_and_not_by_their_numbers() -> None:
    names = ("a", "b", "c", "d")
    trial = Trial(*straight_and_bent(*names))
    free, signs = number_bases(trial.wiring, "invertible", names), number_bases(trial.wiring, "signs", names)
    assert trial.sifted([[f, s] for f, s in zip(reversed(free[:2]), reversed(signs[:2]), strict=True)]) == [signs[1], free[0]]  # fmt: skip
    assert len({_form(b) for b in free}) == 3
    assert len({_form(b) for b in number_bases(trial.wiring, "invertible", names, ("heads", 0))}) == 1
    assert len({_form(b) for b in number_bases(trial.wiring, "invertible", "0123")}) == 1
    assert len({_form(b) for b in number_bases(trial.wiring, "orthogonal", "0123")}) == 3  # streams: each by itself


def test_of_rotary_forms_that_hold_the_one_of_fewest_pairs_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    w, bench = linear_in_a_row()
    trial, needed = Trial(w, bench), {(0, 1)}
    monkeypatch.setattr(trial, "holds", lambda bases, alone: bases[0].kind != "invertible" and needed <= set(bases[0].pairs))  # fmt: skip
    forms = [basis("invertible", w), *(basis("rotary", w, "0", p) for p in (((0, 1), (2, 3)), ((2, 3),), ((0, 1),)))]
    assert trial._first(forms) == 3
    needed.add((2, 3))
    assert trial._first(forms) == 1


def test_outputs_are_in_double_precision_where_the_network_is(monkeypatch: pytest.MonkeyPatch) -> None:
    w, bench = linear_in_a_row()
    trial = Trial(w, bench)
    monkeypatch.setattr(trial, "_doubled", lambda: "double")
    monkeypatch.setattr(bench, "outputs", lambda _: "plain")
    for double, outputs in ((True, "double"), (False, "plain")):
        trial.double = double
        assert trial._outputs() == outputs

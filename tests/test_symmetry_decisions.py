"""What an alignment decides between its searches and its result: which candidate, whether the function stays, and what may be searched at all. Small and quick."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.oracles_symmetry import mlp_wiring, random_state
from weightlapse.errors import CannotAlign, InvalidArgument
from weightlapse.symmetry import checks, choose, judge, nets, solvers
from weightlapse.symmetry.candidate import Candidate
from weightlapse.symmetry.elements import Elements, identity
from weightlapse.symmetry.nets import Net, Nets
from weightlapse.symmetry.problem import Problem
from weightlapse.symmetry.runner import Runner, data_of
from weightlapse.symmetry.with_bases import WithBases
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member, blocks

W = mlp_wiring([3, 4, 2])
ORDER = frozenset({"permutation"})


def candidate(method: str, distance: float, **more: Any) -> Candidate:
    return Candidate(identity(W), distance, method, **more)


def states(seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return random_state(W, rng), random_state(W, rng)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Solvers that answer with what a test puts in; ``calls`` lists which were asked."""
    answers: dict[str, Any] = {
        "by_bases": (),
        "by_weights": (candidate("weights", 0.5),),
        "by_activations": (),
        "calls": [],
    }

    def solver(name: str) -> Any:
        def solve(_problem: Any) -> Any:
            answers["calls"].append(name)
            return answers[name]

        return solve

    for name in ("by_bases", "by_weights", "by_activations"):
        monkeypatch.setattr(choose, name, solver(name))
    return answers


def problem(runner: Any = None) -> Any:
    return SimpleNamespace(runner=runner)


# ---- which candidate


def test_without_bases_the_weights_decide(asked: dict[str, Any]) -> None:
    choice = choose.choose(problem())
    assert asked["calls"] == ["by_bases", "by_weights"]
    assert (choice.best.method, choice.tried, choice.notes) == ("weights", {"weights": 0.5}, ())
    assert choice.candidates == (choice.best,)


@pytest.mark.parametrize(
    ("distance", "plain", "further"),
    [(1e-5, False, False), (1.01e-5, False, True), (0.0, True, True), (0.0, False, False)],
)
def test_a_change_of_basis_that_is_near_and_more_than_an_order_needs_no_second_search(
    distance: float, plain: bool, further: bool, asked: dict[str, Any]
) -> None:
    asked["by_bases"] = (candidate("bases", distance, plain=plain, notes=("said",)),)
    choice = choose.choose(problem())
    assert ("by_weights" in asked["calls"]) is further
    assert choice.best.method == "bases"
    assert choice.notes == ("said",), "what was not searched is said whatever wins"


@pytest.mark.parametrize(
    ("ahead", "method"), [(-1e-3, "weights"), (0.0, "weights"), (1e-12, "weights"), (1.5e-12, "bases")]
)
def test_an_order_that_is_as_near_as_a_change_of_basis_is_taken(
    ahead: float, method: str, asked: dict[str, Any]
) -> None:
    asked["by_bases"] = (candidate("bases", 0.25, notes=("said",)),)
    asked["by_weights"] = (candidate("weights", 0.25 + ahead),)
    choice = choose.choose(problem())
    assert (choice.best.method, choice.notes) == (method, ("said",))


class HalfWay:
    """A line on which the element with order ``(k, ...)`` rises by ``rises[k]``."""

    rises: tuple[float, ...] = ()

    def __init__(self, runner: Any, state: Any) -> None:
        assert (runner, state) == ("runner", "a")

    def middle(self, moved: int) -> float:
        return self.rises[moved]


@pytest.mark.parametrize(("distance", "judged"), [(choose.NEAR, False), (choose.NEAR * 1.001, True)])
def test_with_data_networks_that_are_not_near_are_judged_half_way(
    distance: float, judged: bool, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "Line", HalfWay)
    monkeypatch.setattr(HalfWay, "rises", (0.3, 0.1, 0.2))
    asked["by_bases"] = (candidate("bases", 9.0, notes=("said",)),)
    asked["by_weights"] = (candidate("weights", distance, moved={"x": 1}),)
    asked["by_activations"] = (candidate("activations", 0.9), candidate("then weights", 0.8))
    numbers = iter(range(3))
    given = SimpleNamespace(runner="runner", state_a="a", moved=lambda _: next(numbers))
    choice = choose.choose(given)  # type: ignore[arg-type]
    assert ("by_activations" in asked["calls"]) is judged
    assert choice.notes == ("said",)
    if judged:
        assert choice.best.method == "activations"
        assert choice.tried == {"weights": 0.3, "activations": 0.1, "then weights": 0.2}
        assert [c.method for c in choice.candidates] == ["weights", "activations", "then weights"]
    else:
        assert choice.best.moved == {"x": 1}
        assert choice.tried == {"weights": distance}


def test_judged_half_way_the_state_that_a_search_has_made_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends up in the result is what was run."""
    monkeypatch.setattr(choose, "Line", HalfWay)
    monkeypatch.setattr(HalfWay, "rises", (0.1,))
    given = SimpleNamespace(runner="runner", state_a="a", moved=lambda _: 0)
    assert choose.half_way(given, (candidate("bases", 1.0, moved={"x": 1}),)).best.moved is None  # type: ignore[arg-type]


# ---- solvers


@pytest.mark.parametrize(
    ("bases", "allowed", "turns"), [((), {"basis"}, False), (("one",), {"basis"}, True), (("one",), {"sign"}, False)]
)
def test_bases_are_searched_where_there_are_some_and_they_may_change(
    bases: Any, allowed: set[str], turns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = SimpleNamespace(
        state_a=1, state_b=2, wiring=SimpleNamespace(bases=bases), allowed=frozenset(allowed), device=None
    )
    given.turns = Problem.turns.fget(given)  # type: ignore[attr-defined]
    monkeypatch.setattr(solvers, "Rebase", lambda *given: SimpleNamespace(run=lambda: given))
    found = solvers.by_bases(given)  # type: ignore[arg-type]
    assert found == (((1, 2, given.wiring, given.allowed, None),) if turns else ())


def test_a_search_of_bases_that_finds_none_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "Rebase", lambda *_: SimpleNamespace(run=lambda: None))
    given = SimpleNamespace(turns=True, state_a=1, state_b=2, wiring=None, allowed=None, device=None)
    assert solvers.by_bases(given) == ()  # type: ignore[arg-type]


def test_activations_need_a_runner() -> None:
    a, b = states()
    assert solvers.by_activations(Problem.of_states(a, b, W, ORDER)) == ()


def test_activations_are_tried_as_they_are_and_with_weights_after_them() -> None:
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)) for _ in range(2))
    x = torch.randn(20, 3)
    both = Nets.of(a, b, wiring=wl.trace(a, x[:3]), data=x, device=None)
    found = solvers.by_activations(Problem.of(both))
    assert [c.method for c in found] == ["activations", "activations, then weights"]
    assert found[1].distance <= found[0].distance


# ---- does the function stay?


def aligned(a: Any, b: Any, w: Wiring, data: Any = None) -> tuple[Problem, Candidate]:
    found = Problem.of(Nets.of(a, b, wiring=w, data=data, device=None))
    return found, choose.choose(found).best


def network(slope: float = 1.0) -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        net[0].bias += slope
    return net


def test_a_wiring_of_another_network_is_found_out_by_running_b() -> None:
    """The wiring says that the last layer's units may change places: they are the outputs."""
    a = network()
    w = Wiring(
        (Group("out", 2, (Member("2.weight", 0, blocks(2), "out"), Member("2.bias", 0, blocks(2), "add")), ORDER),),
        shapes={n: tuple(v.shape) for n, v in a.state_dict().items()},
    )
    b = network()
    with torch.no_grad():
        b[2].weight.copy_(a[2].weight.flip(0))
        b[2].bias.copy_(a[2].bias.flip(0))
    found, best = aligned(a, b, w)
    assert judge.judge(found, best).error is None, "nothing is run without data"
    found, best = aligned(a, b, w, torch.randn(9, 3).double())
    with pytest.raises(CannotAlign, match="moving the units changed what the network computes"):
        judge.judge(found, best)


def test_b_is_run_and_the_error_told() -> None:
    a, b = network(), network(0.5)
    found, best = aligned(a, b, wl.trace(a, torch.randn(3, 3).double()), torch.randn(9, 3).double())
    judged = judge.judge(found, best)
    assert judged.error is not None
    assert 0 <= judged.error < 1e-12
    before, after = (dict(s) for s in (b.state_dict(), judged.state))
    with torch.no_grad():
        b[0].weight.add_(1)
    assert all(judged.state[n].data_ptr() != v.data_ptr() for n, v in before.items()), "later training changes nothing"
    assert after.keys() == before.keys()


def test_a_mapping_of_which_nothing_moves_is_shared() -> None:
    a, _ = states()
    found, best = aligned(a, a, W)
    judged = judge.judge(found, best)
    assert all(judged.state[n] is v for n, v in a.items())


@pytest.mark.parametrize(("dtype", "limit"), [("double", 1e-8), ("float", 1e-3)])
def test_how_much_of_a_change_is_rounding(dtype: str, limit: float) -> None:
    net = getattr(network(), dtype)()
    x = torch.randn(5, 3).to(next(net.parameters()).dtype)
    state = dict(net.state_dict())
    more = {n: v + (0.25 if n == "2.bias" else 0) for n, v in state.items()}
    error, tolerance = judge.function_change(Runner(net, data_of(x)), state, more)
    scale = float(net(x).detach().abs().max())
    assert error == pytest.approx(0.25 / scale, rel=1e-4)
    assert tolerance == limit


def test_a_network_that_says_nothing_has_its_error_as_it_is() -> None:
    net = nn.Linear(2, 2).double()
    state = {n: torch.zeros_like(v) for n, v in net.state_dict().items()}
    more = dict(state, bias=torch.tensor([0.5, 0.0], dtype=torch.float64))
    assert judge.function_change(Runner(net, data_of(torch.ones(3, 2).double())), state, more)[0] == 0.5


def test_sixteen_bits_are_rounded_by_what_runs_them() -> None:
    net = network().to(torch.float16)
    runner = Runner(net, data_of(torch.randn(5, 3).half()), double=False)
    assert runner.dtype is None
    state = dict(net.state_dict())
    assert judge.function_change(runner, state, state) == (0.0, 5e-2)
    wide = {n: v.float() for n, v in state.items()}
    assert judge.function_change(runner, wide, wide)[1] == 1e-3


class Undoing:
    """An element whose moves lead back, or do not, or of which only numbers tell."""

    def __init__(self, undone: bool | None, back: float, rescales: bool = False) -> None:
        self.undone, self.back, self.rescales = undone, back, rescales

    def placements(self, _state: Any, _w: Any, *, inverse: bool = False) -> Any:
        move = SimpleNamespace(undoes=lambda _: self.undone, rescales=self.rescales)

        class Move:
            undoes = staticmethod(move.undoes)
            rescales = move.rescales

            def __call__(_, x: Any) -> Any:
                return x * self.back

        return {"x": Move()}


@pytest.mark.parametrize(
    ("undone", "back", "rescales", "fine"),
    [
        (True, 9.0, False, True), (False, 1.0, False, False), (None, 1.0, False, True), (None, 1 + 1e-7, False, False),
        (None, 1 + 1e-7, True, True), (None, 1 + 3e-5, True, False),
    ],
)  # fmt: skip
def test_every_move_must_lead_back(undone: bool | None, back: float, rescales: bool, fine: bool) -> None:
    state = {"x": np.array([[1.0, np.nan], [3.0, 4.0]])}
    given: Any = SimpleNamespace(state_b=state, wiring=None)
    found: Any = SimpleNamespace(elements=Undoing(undone, back, rescales))
    if fine:
        judge._check_undone(given, found, state)
    else:
        with pytest.raises(CannotAlign, match="cannot be undone on 'x': the wiring gives it to units twice"):
            judge._check_undone(given, found, state)


class Turned(WithBases):
    """Other bases that come back off by ``gap``, and in some other places."""

    gap: float = 0.0
    looked: tuple[str, ...] = ()

    def changed(self, state: Any, _w: Any, *, inverse: bool = False, device: Any = None) -> Any:
        assert inverse
        owner = self

        class Back(dict[str, Any]):
            busy = tuple(state)

            def __getitem__(_, name: str) -> Any:
                Turned.looked += (name,)
                return np.where(state[name] == 0, owner.gap, state[name])

        return Back()


@pytest.mark.parametrize(
    ("dtype", "gap", "fine"),
    [(np.float64, 1e-9 * 1.0 * 10, True), (np.float64, 1.2e-8, False), (np.float32, 0.9e-3, True), (np.float32, 1.2e-3, False), (np.float64, np.nan, False)],
)  # fmt: skip
def test_other_bases_must_lead_back_to_the_precision_of_the_weights(dtype: Any, gap: float, fine: bool) -> None:
    """Ten times a rounding error (1e-9 and 1e-4) of the largest weight, here 1."""
    state = {"x": np.array([1.0, -0.5, 0.0], dtype), "empty": np.zeros(0, dtype)}
    given: Any = SimpleNamespace(state_b=state, wiring=SimpleNamespace(names_of=lambda n: ("gone", n)), device=None)
    element = Turned({}, {})
    object.__setattr__(element, "gap", gap)
    if fine:
        judge._check_turned_back(given, element, state)
    else:
        with pytest.raises(CannotAlign, match="cannot be undone on 'x' to its precision"):
            judge._check_turned_back(given, element, state)


def test_of_a_large_network_a_sample_is_turned_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_SAMPLE", 5)
    monkeypatch.setattr(Turned, "looked", ())
    state = {f"x{i}": np.ones(3) for i in range(9)}
    given: Any = SimpleNamespace(state_b=state, wiring=SimpleNamespace(names_of=lambda n: (n,)), device=None)
    judge._check_turned_back(given, Turned({}, {}), state)
    assert len(Turned.looked) == 2, "three and three are more than five"
    assert set(Turned.looked) != {"x0", "x1"}, "drawn from the whole network"
    monkeypatch.setattr(judge, "_SAMPLE", 6)
    judge._check_turned_back(given, Turned({}, {}), state)
    assert len(Turned.looked) == 2 + 3, "as many as there are places for: no more than the sample is none"


@pytest.mark.parametrize(("bases", "run", "looked"), [(True, False, 1), (False, False, 0), (True, True, 0)])
def test_invariants_are_looked_at_where_b_cannot_be_run(
    bases: bool, run: bool, looked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(judge, "check_invariants", lambda *given: seen.append(given))
    monkeypatch.setattr(judge, "Runner", lambda net, data: (net, data))
    monkeypatch.setattr(judge, "function_change", lambda *_: (0.5, 0.5))
    b = SimpleNamespace(runs=run, net="net")
    data = SimpleNamespace(head=lambda n: n) if run else None
    given: Any = SimpleNamespace(nets=SimpleNamespace(b=b, data=data), state_b="b", wiring="w", device="d")
    found: Any = SimpleNamespace(elements=WithBases({}, {}) if bases else Elements({}, {}))
    assert judge._function(given, found, {"moved": 1}) == (0.5 if run else None), "as much as the tolerance is allowed"
    assert seen == [("b", {"moved": 1}, "w", "d")] * looked


@pytest.mark.parametrize(
    ("merge", "off", "fine"),
    [(1e-6, 1e-4, True), (1e-6, 1.1e-4, False), (1e-5, 0.9e-3, True), (1e-5, 1.005e-3, False)],
)
@pytest.mark.parametrize("size", [0.0, 0.5, 4.0])
def test_folding_may_change_the_outputs_a_hundred_times_as_much_as_merged_units_differ(
    merge: float, off: float, fine: bool, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by 1e-4 in any case; relative to the largest output, or as it is where there is none."""
    out = np.array([[0.0, -size]])
    change = np.array([[off * (size or 1), 0.0]])

    def runner(net: str, few: int) -> Any:
        assert few == 64
        return SimpleNamespace(outputs=lambda state=None: out + (change if net == "a" else 0))

    monkeypatch.setattr(judge, "Runner", runner)
    a, b = (SimpleNamespace(runs=True, net=n, state={"x": np.zeros(2)}) for n in "ab")
    given: Any = SimpleNamespace(nets=SimpleNamespace(a=a, b=b, data=SimpleNamespace(head=lambda n: n)))
    sizes: Any = SimpleNamespace(merge=merge)
    if fine:
        assert judge._folded_function(given, sizes, {"x": np.ones(2)}) == pytest.approx(off)
        assert judge._folded_function(given, sizes, {"x": np.ones(3)}) is None, "a's code does not run what is wider"
        for net in (a, b):
            net.runs = False
            assert judge._folded_function(given, sizes, {"x": np.ones(2)}) is None
            net.runs = True
    else:
        with pytest.raises(CannotAlign, match="folding changed what the second network computes"):
            judge._folded_function(given, sizes, {"x": np.ones(2)})


@pytest.mark.parametrize(
    ("short", "widened", "said"),
    [("float16", True, True), ("float16", False, False), (None, True, False), (None, False, False)],
)
def test_what_had_to_be_widened_is_said(
    short: str | None, widened: bool, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "_check_undone", lambda *_: None)
    state = {"x": np.ones(2, np.float16), "y": np.ones(2, np.float16)}
    moved = state | ({"y": np.ones(2, np.float32)} if widened else {})
    both = SimpleNamespace(b=SimpleNamespace(runs=False), data=None)
    given: Any = SimpleNamespace(short=short, sizes=None, nets=both, state_b=state, wiring=None, moved=lambda _: moved)
    judged = judge.judge(given, Candidate(Elements({}, {}), 0.0, "some"))
    assert len(judged.notes) == said
    assert judged.state["y"] is moved["y"]
    made = judge.judge(given, Candidate(Elements({}, {}), 0.0, "some", moved=state | {"z": 1}))
    assert made.state["z"] == 1, "a state that the search has made is taken"


# ---- what may be searched at all


@pytest.mark.parametrize(("dtype", "kept"), [(torch.float16, False), (torch.bfloat16, False), (torch.float32, True)])
def test_in_sixteen_bits_nothing_is_rescaled(dtype: torch.dtype, kept: bool) -> None:
    w = mlp_wiring([3, 4, 2], "scale")
    a, b = ({n: torch.tensor(v).to(dtype) for n, v in s.items()} for s in states())
    found = Problem.of(Nets.of(a, b, wiring=w, data=None, device=None))
    assert ("scale" in found.allowed) is kept
    assert (found.short is None) is kept
    assert len(found.notes) == (0 if kept else 1)
    still = Problem.of(Nets.of(a, b, wiring=mlp_wiring([3, 4, 2]), data=None, device=None))
    assert still.notes == (), "where no unit has a scale there is nothing to say"


def test_a_weight_is_looked_at_once_for_each_wiring(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[set[str]] = []
    monkeypatch.setattr(nets, "check_weights", lambda _state, names, _which: looked.append(names))
    net = Net({"x.weight": 1, "table": 2}, {"x.weight": 1, "table": 2}, "first")
    other = Wiring((Group("g", 2, (Member("table", 0, blocks(2), "out"),), ORDER),), shapes={"table": (2, 2)})
    for w in (None, None, other, other, None, W):
        net.check_weights(w)
    assert looked == [
        {"x.weight"},
        {"x.weight", "table"},
        {"x.weight"} | {m.tensor for g in W.groups for m in g.members},
    ]


def test_what_is_no_number_is_told_with_its_place() -> None:
    a, _ = states()
    name = next(n for n in a if n.endswith("weight"))
    for value, kind in ((np.nan, "NaN"), (np.inf, "Inf")):
        bad = {n: v.copy() for n, v in a.items()}
        bad[name][1, 2] = value
        with pytest.raises(
            CannotAlign,
            match=rf"{name!r} of the second network holds {kind} \(1 of {a[name].size} values, the first at \[1, 2\]\)",
        ):
            wl.align(a, bad, W)
        with pytest.raises(CannotAlign, match=rf"{name!r} of the 1-th network holds {kind}"):
            wl.align_all([a, bad], W)


def test_a_mask_may_hold_infinities_but_no_nan() -> None:
    state = {"mask": np.array([-np.inf, 0.0])}
    checks.check_weights(state, set(), "first")
    with pytest.raises(CannotAlign, match="holds Inf"):
        checks.check_weights(state, {"mask"}, "first")
    with pytest.raises(CannotAlign, match="holds NaN"):
        checks.check_weights({"mask": np.array([np.nan])}, set(), "first")
    checks.check_weights({"count": np.array([3])}, {"count"}, "first")


def test_networks_without_values_are_told_by_every_verb() -> None:
    net, empty = network(), network().to("meta")
    w = wl.trace(net, torch.randn(3, 3).double())
    for call in (
        lambda: wl.align(net, empty, w),
        lambda: wl.align_all([net, empty], w),
        lambda: wl.compare(net, empty, w),
        lambda: wl.canonical(empty, w),
    ):
        with pytest.raises(CannotAlign, match="is on the meta device: it has a shape but no values"):
            call()


def test_data_asks_for_a_network_that_runs() -> None:
    a, b = states()
    with pytest.raises(InvalidArgument, match="data= needs at least one of the networks as a module"):
        wl.align(a, b, W, data=np.zeros((4, 3)))
    assert wl.align(a, a, W, data=np.zeros((4, 3))).distance_after == 0, (
        "which is not asked for where they are the same"
    )


# ---- what must hold of states


STAT = Wiring(
    (Group("g", 2, (Member("x", 0, blocks(2), "out"), Member("mean", 0, blocks(2), "stat")), ORDER),),
    shapes={"x": (2, 3), "mean": (2,)},
)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"x": np.zeros((2, 3)), "mean": np.zeros(2)}, None),
        ({"x": np.zeros((2, 3))}, None),  # statistics may be left out of a checkpoint
        ({"mean": np.zeros(2)}, "group 'g' lives in 'x', which the networks do not have"),
        ({"x": np.zeros((2, 4))}, r"'x' has shape \(2, 4\), but the wiring was found for \(2, 3\)"),
        ({"x": np.zeros((2, 3)), "mean": np.zeros(3)}, "'mean' has shape"),
    ],
)
def test_a_wiring_fits_tensors_and_shapes(state: dict[str, Any], message: str | None) -> None:
    if message is None:
        checks.check_wiring_fits(state, STAT)
        checks.check_alike([state], STAT)
    else:
        for call in (lambda: checks.check_wiring_fits(state, STAT), lambda: checks.check_alike([state, state], STAT)):
            with pytest.raises(CannotAlign, match=message):
                call()


def test_a_wiring_without_shapes_fits_any() -> None:
    checks.check_wiring_fits({"x": np.zeros((2, 4)), "mean": np.zeros(2)}, Wiring(STAT.groups, shapes={}))


def test_states_are_alike_in_all_tensors_and_shapes() -> None:
    one = {n: np.zeros(2) for n in "abcde"}
    checks.check_same_shapes(one, dict(one))
    for fewer, told in (
        (4, "'e' only in the"),
        (2, "'c', 'd', 'e' only in the"),
        (1, "'b', 'c', 'd' and 1 more only in the"),
    ):
        less = dict(list(one.items())[:fewer])
        with pytest.raises(CannotAlign, match=f"{told} first;"):
            checks.check_same_shapes(one, less)
        with pytest.raises(CannotAlign, match=f"{told} second;"):
            checks.check_same_shapes(less, one)
    with pytest.raises(CannotAlign, match=r"'c' has shape \(2,\) in the first network and \(3,\) in the second"):
        checks.check_same_shapes(one, one | {"c": np.zeros(3)})


@pytest.mark.parametrize("at", [1, 2, 3])
def test_every_state_is_held_against_the_first(at: int) -> None:
    state = {"x": np.zeros((2, 3)), "mean": np.zeros(2)}
    all_ = [dict(state) for _ in range(4)]
    all_[at]["more"] = np.zeros(1)
    with pytest.raises(CannotAlign, match="'more' only in the second"):
        checks.check_alike(all_, STAT)
    with pytest.raises(CannotAlign, match="'more' only in the first"):
        checks.check_alike([all_[at], *all_[:at]], STAT)


def test_both_networks_come_in_one_precision() -> None:
    one = {"x": np.ones((2, 3), np.float32), "mean": np.ones(2, np.float32), "other": np.ones(2)}
    a, b = checks.wired_arrays(one, dict(one), STAT)
    assert (list(a), list(b), a["x"].dtype, b["x"].dtype) == (["x"], ["x"], np.float32, np.float32)
    assert a["x"] is one["x"], "and is not copied"
    a, b = checks.wired_arrays(one, one | {"x": np.ones((2, 3))}, STAT)
    assert (a["x"].dtype, b["x"].dtype) == (np.float64, np.float64)
    for which, pair in (("first", (0, 1)), ("second", (1, 0))):
        both = [one | {"x": np.full((2, 3), np.inf)}, one]
        with pytest.raises(CannotAlign, match=f"'x' of the {which} network holds Inf"):
            checks.wired_arrays(*(both[i] for i in pair), STAT)


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_values_are_there_on_any_device_but_one(device: str) -> None:
    state = {"n": 3, "x": SimpleNamespace(device=SimpleNamespace(type=device))}
    if device == "meta":
        with pytest.raises(CannotAlign, match="'x' of the given network is on the meta device"):
            checks.check_values(state, "given")
    else:
        checks.check_values(state, "given")


def test_statistics_that_are_left_out_hide_no_tensor_that_is_missing() -> None:
    w = Wiring((Group("g", 2, STAT.groups[0].members[::-1], ORDER),), shapes=STAT.shapes)
    with pytest.raises(CannotAlign, match="lives in 'x', which"):
        checks.check_wiring_fits({}, w)


def test_a_problem_is_of_one_wiring_and_one_shape() -> None:
    a, b = states()
    other = mlp_wiring([3, 4, 2], prefix="layer")
    with pytest.raises(CannotAlign, match="which the networks do not have"):
        Problem.of(Nets.of(a, b, wiring=other, data=None, device=None))
    with pytest.raises(CannotAlign, match="'more' only in the second"):
        Problem.of(Nets.of(a, b | {"more": np.ones(1)}, wiring=W, data=None, device=None))


@pytest.mark.parametrize("symmetries", ["auto", "scale"])
def test_one_group_with_a_scale_is_enough_to_say_that_it_stays(symmetries: Any) -> None:
    deep = mlp_wiring([3, 4, 4, 2], "scale")
    first, second = deep.groups
    w = Wiring((first, Group(second.name, second.size, second.members, ORDER)), shapes=deep.shapes)
    a = {n: v.astype(np.float16) for n, v in random_state(w, np.random.default_rng(0)).items()}
    found = Problem.of(Nets.of(a, dict(a), wiring=w, data=None, device=None), symmetries=symmetries)
    assert "scale" not in found.allowed
    assert len(found.notes) == 1


def test_a_problem_runs_data_in_the_precision_of_its_networks_and_prints_no_weights() -> None:
    a, b = network().float(), network(0.5).float()
    x = torch.randn(6, 3)
    found = Problem.of(Nets.of(a, b, wiring=wl.trace(a, x[:3]), data=x, device=None))
    assert found.runner is not None
    assert found.runner.dtype is None
    assert "tensor(" not in repr(found)
    assert "Arrays" not in repr(found)

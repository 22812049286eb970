"""What the search decides: in which order it starts, when it has seen enough, and which of two results it keeps. Small and quick: `make mutate` runs it for each mutant."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.oracles_symmetry import mlp_wiring, planted, random_state
from weightlapse.symmetry import search as searching
from weightlapse.symmetry.candidate import Candidate
from weightlapse.symmetry.elements import Elements, identity
from weightlapse.symmetry.scale import balance
from weightlapse.symmetry.search import NEAR, ONCE, Budget, Search, automatic_restarts
from weightlapse.symmetry.states import distance
from weightlapse.symmetry.units import units_of

ALL = frozenset({"permutation", "sign", "scale"})
PLAIN = mlp_wiring([2, 4, 3, 2])
SCALED = mlp_wiring([2, 4, 3, 2], "scale")


def search(w: Any = PLAIN, dtype: type = np.float64, seed: int = 0) -> Search:
    rng = np.random.default_rng(seed)
    return Search(random_state(w, rng, dtype), random_state(w, rng, dtype), w, ALL)


class Watched:
    """A matcher that only says what it is asked."""

    def __init__(self, sure_after: int = 99) -> None:
        self.said: list[Any] = []
        self.sure_after = sure_after

    def begin(self, b: Any, at: Any) -> None:
        self.said.append("begin")
        self.given = b, at

    def start(self, *, signatures: bool, rng: Any = None) -> None:
        self.said.append(("start", signatures, rng is not None))

    def shuffle(self, _rng: Any, share: float = 1.0) -> None:
        self.said.append(("shuffle", share))

    def unmistakable(self) -> bool:
        return self.said.count("descend") >= self.sure_after


def watched(near_after: int = 99, sure_after: int = 99, first: float = 0.9) -> tuple[Search, Watched, list[Any]]:
    """A search whose descents lead nowhere; from the ``near_after``-th on they lead home."""
    s, m = search(), Watched(sure_after)
    methods: list[Any] = []
    s.best = Candidate(s.best.elements, first, "as it is")

    def descend(method: str, rng: Any = None) -> None:
        m.said.append("descend")
        methods.append((method, rng is not None))
        if len(methods) == near_after:
            s.best = Candidate(s.best.elements, NEAR / 2, method)

    s._matcher = m  # type: ignore[assignment]
    s._descend = descend  # type: ignore[method-assign]
    return s, m, methods


FORWARD, SIGNATURES, AS_IT_IS = ["begin", ("start", False, False)], ["begin", ("start", True, False)], ["begin"]
RESTARTS = [["begin", ("start", True, True)], ["begin", "begin", ("shuffle", 0.3)], ["begin", ("shuffle", 1.0)]]
EVERY = [FORWARD, SIGNATURES, AS_IT_IS, *RESTARTS, *RESTARTS, RESTARTS[0]]


def told(starts: list[list[Any]]) -> list[Any]:
    return [word for start in starts for word in [*start, "descend"]]


@pytest.mark.parametrize("restarts", [0, 1, 2, 3, 7])
def test_starts_come_in_order_and_restarts_take_turns(restarts: int) -> None:
    s, m, methods = watched()
    assert s.run(restarts, np.random.default_rng(0)) is s.best
    assert m.said == told(EVERY[: 3 + restarts])
    first = [("forward", False), ("signatures", False), ("as it is", False)]
    assert methods == first + [("restart", True)] * restarts


@pytest.mark.parametrize("after", range(1, 8))
def test_a_result_that_is_near_ends_the_search(after: int) -> None:
    s, m, _ = watched(near_after=after)
    assert s.run(6, np.random.default_rng(0)).distance == NEAR / 2
    assert m.said == told(EVERY[:after])


@pytest.mark.parametrize(("after", "made"), [(1, 1), (2, 2), (3, 3), (4, 9)])
def test_what_is_beyond_doubt_ends_the_starts_and_restarts_do_not_ask(after: int, made: int) -> None:
    s, m, _ = watched(sure_after=after)
    s.run(6, np.random.default_rng(0))
    assert m.said.count("descend") == made


@pytest.mark.parametrize(("first", "starts"), [(NEAR, 3), (np.nextafter(NEAR, 0), 0), (0.0, 0)])
def test_networks_that_are_near_as_they_are_need_no_start(first: float, starts: int) -> None:
    s, m, _ = watched(first=first)
    s.run(0, np.random.default_rng(0))
    assert m.said.count("descend") == starts


def test_every_start_begins_with_the_balanced_networks() -> None:
    s, m, _ = watched()
    s.run(1, np.random.default_rng(0))
    assert m.given[0] is s._flat_b
    assert m.given[1] is s._balanced


@pytest.mark.parametrize("w", [PLAIN, SCALED])
def test_both_networks_are_balanced_where_units_have_a_scale(w: Any) -> None:
    s = search(w)
    groups = [units_of(g, ALL) for g in w.groups]
    for given, flat, factors in ((s.a, s._flat_a, s._factor_a), (s.b, s._flat_b, s._factor_b)):
        if w is PLAIN:
            assert factors == {}
            assert all(flat[t] is given[t] for t in given)
        else:
            assert any(np.abs(f - 1).max() > 0.1 for f in factors.values())
            assert all(f == pytest.approx(1, abs=1e-9) for f in balance(flat, groups).values())
    begun = s._balanced.on_arrays(s.b, s.units)
    assert all(np.allclose(begun[t], s._flat_b[t], rtol=1e-12) for t in s.b)
    between = s._balanced  # brings b onto its balanced self; undoing a's balance is all that is left
    home = s.unbalanced(between)
    assert all(np.allclose(home.factor[n] * s._factor_a.get(n, 1.0), between.factor[n]) for n in home.factor)
    assert all(home.order[n] is between.order[n] for n in home.order)


@pytest.mark.parametrize(("dtype", "rounding"), [(np.float64, 1e-7), (np.float32, 1e-6)])
def test_nearer_than_rounding_is_the_same(dtype: type, rounding: float) -> None:
    assert search(dtype=dtype)._rounding == rounding
    a = random_state(PLAIN, np.random.default_rng(0), dtype)
    first = next(iter(a))
    other = {n: v if n == first else v.astype(np.float32 if dtype is np.float64 else np.float64) for n, v in a.items()}
    assert Search(other, other, PLAIN, ALL)._rounding == rounding, "the first tensor tells the precision"


@pytest.mark.parametrize("w", [PLAIN, SCALED])
def test_a_planted_network_comes_back(w: Any) -> None:
    rng = np.random.default_rng(3)
    a = random_state(w, rng)
    b, _ = planted(a, w, rng, scales=True)
    s = Search(a, b, w, ALL)
    assert s.best.method == "as it is"
    assert s.best.distance == distance(a, b) > NEAR
    found = s.by_weights(ONCE)
    assert found.distance < 1e-7
    assert found.method.startswith("weights, ")
    assert distance(a, found.elements.on_arrays(b, s.units)) == pytest.approx(found.distance, abs=1e-12)
    assert s.near


# ---- polish


def polished(distances: list[float], *, sure: bool = False, best: float = 9.0) -> tuple[Candidate, Search, list[Any]]:
    """Elements whose distances are ``distances``, one after each descent."""
    s = search()
    s._rounding = 1e-7
    s.best = Candidate(s.best.elements, best, "before")
    elements: list[Any] = [
        SimpleNamespace(k=k, on_arrays=lambda _b, _u, k=k: ("moved", k)) for k in range(len(distances))
    ]
    said: list[Any] = []

    class Raw:
        at: Any = None

        def begin(self, b: Any, at: Any) -> None:
            said.append((b, at.k))
            self.at = elements[min(at.k + 1, len(elements) - 1)]

        def unmistakable(self) -> bool:
            return sure

        def descend(self) -> None:
            said.append("descend")

    s.judged = s.fitted = s._snapped = lambda e, m: Candidate(e, distances[e.k], m)  # type: ignore[method-assign]
    s.__dict__["_raw"] = Raw()
    return s.polish(elements[0], "some"), s, said


@pytest.mark.parametrize(
    ("distances", "ends", "descents"),
    [
        ([1e-7], 0, 0), ([1.1e-7, 1.0], 0, 1), ([0.5, 0.6], 0, 1), ([0.5, 0.4, 0.3, 0.31], 2, 3), ([0.5, 1e-7, 0.0], 1, 1),
        ([0.5, 0.5 * (1 - 0.9e-4), 0.1], 1, 1),  # too little to go on for, but nearer
        ([0.5, 0.5 * (1 - 1.1e-4), 0.1, 0.2], 2, 3), ([0.5, 0.5], 0, 1), ([1 - 0.01 * k for k in range(20)], 10, 10),
    ],
)  # fmt: skip
def test_a_polish_goes_on_as_long_as_it_pays(distances: list[float], ends: int, descents: int) -> None:
    found, s, said = polished(distances)
    assert (found.elements.k, found.distance, found.method) == (ends, distances[ends], "some")  # type: ignore[attr-defined]
    assert s.best is found
    assert said == [word for k in range(descents) for word in ((("moved", k), k), "descend")]


def test_what_is_beyond_doubt_is_fitted_without_descent() -> None:
    _, _, said = polished([0.5, 0.4, 0.3, 0.3], sure=True)
    assert said == [(("moved", k), k) for k in range(3)]


@pytest.mark.parametrize(("best", "kept"), [(0.3, True), (0.5, True), (0.51, False)])
def test_the_best_ever_seen_is_kept(best: float, kept: bool) -> None:
    found, s, _ = polished([0.5, 0.5], best=best)
    assert found.distance == 0.5
    assert (s.best.method == "before") is kept


def scaled_by(factor: float) -> tuple[Search, Elements]:
    """A search of a network with itself, and the element that multiplies its first unit."""
    a = random_state(SCALED, np.random.default_rng(0))
    e = identity(SCALED)
    e.factor["fc1"][0] = factor
    return Search(a, {t: v.copy() for t, v in a.items()}, SCALED, ALL), e


@pytest.mark.parametrize(("factor", "snapped"), [(1 + 9e-4, 1.0), (1 - 9e-4, 1.0), (1 + 1.1e-3, None), (1.0, 1.0)])
def test_a_scale_that_is_really_one_is_taken_for_one(factor: float, snapped: float | None) -> None:
    s, e = scaled_by(factor)
    found = s._snapped(e, "some")
    assert found.elements.factor["fc1"][0] == (factor if snapped is None else snapped)
    assert (found.distance == 0) is (snapped is not None)
    assert found.method == "some"


def test_rounding_a_scale_off_must_bring_it_nearer() -> None:
    s, e = scaled_by(1 / (1 + 9e-4))
    s.b["fc1.weight"][0] *= 1 + 9e-4
    s.b["fc1.bias"][0] *= 1 + 9e-4
    s.b["fc2.weight"][:, 0] /= 1 + 9e-4
    s.b["fc3.weight"] *= 1.01  # so that neither leads home
    assert s._snapped(e, "some").elements is e
    s, e = scaled_by(1 + 9e-4)
    s.b["fc3.weight"] *= 1.01
    found = s._snapped(e, "some")
    assert found.elements.factor["fc1"][0] == 1
    assert 0 < found.distance < s.judged(e, "").distance
    e.factor["fc1"][0] = -(1 + 9e-4)
    for part in (s.b["fc1.weight"][0], s.b["fc1.bias"][:1], s.b["fc2.weight"][:, 0]):
        part *= -1
    assert s._snapped(e, "some").elements.factor["fc1"][0] == -1


def test_scales_are_fitted_where_units_have_one() -> None:
    s, e = scaled_by(3.0)
    found = s.fitted(e, "some")
    assert found.distance < 1e-9 < s.judged(e, "some").distance
    assert found.elements.factor["fc1"] == pytest.approx(1)
    s = search()
    at = identity(PLAIN)
    assert s.fitted(at, "some").elements is at


@pytest.mark.parametrize(
    ("plain", "given", "wins", "looks"), [(0.0, 0.5, "plain", 1), (0.5, 0.5, "plain", 2), (0.5, 0.4, "given", 2)]
)
def test_the_simpler_scale_wins_where_it_is_as_near(plain: float, given: float, wins: str, looks: int) -> None:
    s, e = scaled_by(1 + 9e-4)
    looked: list[Elements] = []

    def judged(at: Elements, method: str) -> Candidate:
        looked.append(at)
        return Candidate(at, given if at is e else plain, method)

    s.judged = judged  # type: ignore[method-assign]
    found = s._snapped(e, "some")
    assert ("given" if found.elements is e else "plain") == wins
    assert len(looked) == looks, "once it is the same network nothing else is looked at"


# ---- after a descent


@pytest.mark.parametrize(("flat", "before", "best", "taken"), [(0.4, 0.5, 0.9, True), (0.5, 0.5, 0.9, False), (0.4, 0.5, 0.4, False)])  # fmt: skip
def test_a_descent_is_looked_at_where_it_is_nearer_than_all_before(
    flat: float, before: float, best: float, taken: bool
) -> None:
    for w in (PLAIN, SCALED):
        s = search(w)
        a = s._flat_a
        s._matcher = SimpleNamespace(b={t: a[t] * (1 - flat) for t in a}, at=identity(w), descend=lambda rng: None)  # type: ignore[assignment]
        exact = distance(a, s._matcher.b)
        assert exact == pytest.approx(flat)
        s._flat_best = exact if before == flat else before
        s.best = Candidate(identity(w), exact if best == flat else best, "before")
        seen: list[str] = []
        s.polish = lambda _at, method, seen=seen: seen.append(method)  # type: ignore[method-assign, assignment, return-value]
        s._descend("some")
        if w is PLAIN:
            assert (s.best.method == "some") is taken
            assert (s.best.elements is not s._matcher.at) or not taken, "what is kept is a copy"
        else:
            assert (seen == ["some"]) is (before != flat), "there the balanced distance is not the true one"
        assert s._flat_best == exact


@pytest.mark.parametrize(("gap", "descends"), [(0.9e-6, False), (1.1e-6, True)])
def test_what_is_there_already_does_not_descend(gap: float, descends: bool) -> None:
    s = search()
    asked: list[Any] = []
    s._matcher = SimpleNamespace(b={t: v * (1 - gap) for t, v in s.a.items()}, at=identity(PLAIN), descend=lambda rng: asked.append(rng))  # type: ignore[assignment]  # fmt: skip
    rng = np.random.default_rng(0)
    s._descend("some", rng)
    assert asked == ([rng] if descends else [])


def test_a_millionth_is_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    s = search()
    monkeypatch.setattr(searching, "distance", lambda *_: 1e-6)
    s._matcher = SimpleNamespace(b=s.b, at=identity(PLAIN))  # type: ignore[assignment]
    s._descend("some")
    assert s.best.distance == 1e-6


def test_a_restart_near_the_best_keeps_its_order_and_signs() -> None:
    w = mlp_wiring([2, 4, 3, 2], "sign", "scale")
    s = search(w)
    e = identity(w)
    e.order["fc1"] = np.array([2, 0, 1, 3])
    e.factor["fc1"] = np.array([-2.0, 0.5, 1.0, -3.0])
    s.best = Candidate(e, 0.5, "some")
    m = Watched()
    s._matcher = m  # type: ignore[assignment]
    s._restart_near(np.random.default_rng(0))
    assert m.said == ["begin", ("shuffle", 0.3)]
    flat, at = m.given
    signs = Elements(e.order, {"fc1": np.array([-1.0, 1.0, 1.0, -1.0]), "fc2": np.ones(3)})
    expected = signs.on_arrays(s._flat_b, s.units)
    assert all(np.array_equal(flat[t], expected[t]) for t in s.b)
    assert all(np.allclose(s.unbalanced(at).factor[n], e.factor[n]) for n in e.factor), "and begins from its scales"
    assert at.order["fc1"].tolist() == [2, 0, 1, 3]


# ---- how long


@pytest.mark.parametrize(("size", "restarts"), [(1, 9), (299_999, 9), (300_000, 0)])
def test_small_networks_are_searched_for_longer(size: int, restarts: int) -> None:
    assert automatic_restarts({"x": np.broadcast_to(0.0, (size - 1, 1)), "y": np.zeros(1)}) == restarts


@pytest.mark.parametrize(("budget", "count"), [(Budget(), 9), (Budget(restarts=4, seed=7), 4), (ONCE, 0)])
def test_a_budget_says_how_many_restarts_and_from_which_seed(budget: Budget, count: int) -> None:
    s = search()
    asked: list[Any] = []
    s.run = lambda n, rng: asked.append((n, rng.random())) or s.best  # type: ignore[method-assign, func-returns-value]
    assert s.by_weights(budget).method == "weights, as it is"
    assert asked == [(count, np.random.default_rng(budget.seed).random())]
    assert Budget().seed == 0

"""Weight matching finds planted permutations, signs and scales, and never makes things worse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import weightlapse as wl
from tests.oracles_symmetry import (
    best_distance,
    mlp_wiring,
    noisy,
    planted,
    random_state,
    residual_wiring,
)
from weightlapse.symmetry.assign import assign, assign_blocks
from weightlapse.symmetry.match import Matcher
from weightlapse.symmetry.states import distance
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member, blocks

PERMUTE = frozenset({"permutation"})


def recovered(al: wl.symmetry.alignment.Alignment, perms: dict[str, np.ndarray]) -> float:
    """The share of units that came back to where they were planted from."""
    return float(np.mean([(perms[n][al.permutations[n]] == np.arange(len(perms[n]))).mean() for n in perms]))


def run_mlp(state: dict[str, np.ndarray], x: np.ndarray, act=np.tanh) -> np.ndarray:
    layers = len(state) // 2
    for i in range(1, layers + 1):
        x = x @ state[f"fc{i}.weight"].T + state[f"fc{i}.bias"]
        x = act(x) if i < layers else x
    return x


@pytest.mark.parametrize("seed", range(20))
def test_planted_permutations_of_thin_residual_networks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = residual_wiring(rng.integers(2, 9), 64, 64, rng.integers(2, 5), rng.integers(1, 11))
    a = random_state(w, rng, np.float32)
    b, perms = planted(a, w, rng)
    al = wl.align(a, b, w)
    assert al.distance_before > 1
    assert al.distance_after == 0.0
    assert all(np.array_equal(al.state[n], a[n]) for n in a)
    assert recovered(al, perms) == 1.0


@pytest.mark.parametrize("shape", [(8, 32, 64, 4, 10), (2, 64, 64, 2, 1), (2, 64, 128, 4, 1)])
def test_residual_networks_without_biases_where_plain_descent_is_lost(shape: tuple[int, ...]) -> None:
    w = residual_wiring(*shape)
    rng = np.random.default_rng(0)
    for _ in range(5):
        a = {n: v * (v.ndim > 1) for n, v in random_state(w, rng).items()}
        b, _ = planted(a, w, rng)
        assert wl.align(a, b, w, restarts=0).distance_after == 0.0


def test_plain_descent_is_lost_on_them() -> None:
    """Keeps the test above honest: from b as it is, without signatures, most of these are not recovered."""
    w = residual_wiring(2, 64, 128, 4, 1)
    rng = np.random.default_rng(0)
    lost = 0
    for _ in range(10):
        a = {n: v * (v.ndim > 1) for n, v in random_state(w, rng).items()}
        b, _ = planted(noisy(a, rng, 0.6), w, rng)
        matcher = Matcher(a, b, w, PERMUTE)
        matcher.descend()
        lost += distance(a, matcher.b) > 0.8
        assert wl.align(a, b, w).distance_after < 0.65
    assert lost >= 8


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_one_standard_deviation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for w in (mlp_wiring([64, 128, 128, 10]), residual_wiring(int(rng.integers(4, 9)), 64, 64, 3, 10)):
        a = random_state(w, rng)
        b, perms = planted(noisy(a, rng, 1.0), w, rng)
        assert recovered(wl.align(a, b, w), perms) >= 0.99


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_signs_and_scales(dtype: type) -> None:
    rng = np.random.default_rng(1)
    for kind in ("sign", "scale"):
        w = mlp_wiring([12, 40, 40, 3], kind)
        a = random_state(w, rng, dtype)
        b, _ = planted(a, w, rng, signs=True, scales=True)
        al = wl.align(a, b, w)
        assert al.distance_after <= (1e-6 if kind == "scale" else 0.0)
        only = wl.align(a, b, w, symmetries=("permutation",))
        assert only.distance_after > 0.1, "permutations alone do not undo signs and scales"
        assert all((s == 1).all() for s in only.signs.values())
        assert all((s == 1).all() for s in only.scales.values())


def test_small_networks_reach_the_best_of_all_permutations_and_signs() -> None:
    w = mlp_wiring([2, 3, 1], "sign")
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(20):
        a, b = random_state(w, rng), random_state(w, rng)
        al, best = wl.align(a, b, w), best_distance(a, b, w)
        assert al.distance_after >= best - 1e-12
        hits += al.distance_after <= best + 1e-12
    assert hits == 20


def test_a_hundred_students_of_one_teacher() -> None:
    w = mlp_wiring([10, 8, 8, 1], "sign")
    rng = np.random.default_rng(0)
    teacher = random_state(w, rng)
    for _ in range(100):
        student, _ = planted(noisy(teacher, rng, 1e-4), w, rng, signs=True)
        assert wl.align(teacher, student, w).distance_after < 3e-4


def recurrent_wiring(n: int, hidden: int, out: int) -> Wiring:
    h = blocks(hidden)
    group = Group(
        "rnn",
        hidden,
        (
            Member("ih", 0, h, "out"),
            Member("hh", 0, h, "out"),
            Member("hh", 1, h, "in"),
            Member("b", 0, h, "add"),
            Member("out", 1, h, "in"),
        ),
    )
    return Wiring((group,), shapes={"ih": (hidden, n), "hh": (hidden, hidden), "b": (hidden,), "out": (out, hidden)})


def test_the_same_group_on_both_axes() -> None:
    w = recurrent_wiring(2, 32, 1)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        a = {n: rng.normal(size=s) for n, s in w.shapes.items()}
        b, perms = planted(a, w, rng)
        assert wl.align(a, b, w).distance_after == 0.0
        b, perms = planted(noisy(a, rng, 0.5), w, rng)
        assert recovered(wl.align(a, b, w), perms) == 1.0


def heads_wiring(model: int, heads: int, dim: int) -> Wiring:
    """Fused qkv (3, heads, dim) and an output projection: heads, and q/k and v dims inside each."""
    at = np.arange(3 * heads * dim).reshape(3, heads, dim)
    out = np.arange(heads * dim).reshape(heads, dim)
    groups = [
        Group(
            "qkv",
            heads,
            (
                Member("qkv", 0, at.transpose(1, 0, 2).reshape(heads, -1), "out"),
                Member("o", 1, out, "in"),
            ),
        )
    ]
    for h in range(heads):
        qk = Member("qkv", 0, at[:2, h].T.copy(), "out")
        groups.append(Group(f"qk{h}", dim, (qk,), parent=("qkv", h)))
        v = (Member("qkv", 0, at[2, h][:, None], "out"), Member("o", 1, out[h][:, None], "in"))
        groups.append(Group(f"v{h}", dim, v, parent=("qkv", h)))
    return Wiring(tuple(groups), shapes={"qkv": (3 * heads * dim, model), "o": (model, heads * dim)})


def test_heads_and_the_dims_inside_them() -> None:
    w = heads_wiring(24, 6, 8)
    rng = np.random.default_rng(0)
    a = {n: rng.normal(size=s) for n, s in w.shapes.items()}
    b, _ = planted(a, w, rng)
    al = wl.align(a, b, w)
    assert al.distance_after == 0.0
    moved = dict(b)  # the published elements, applied one after the other, give the published state
    for g in w.groups:
        moved = wl.permute(moved, w, g.name, al.permutations[g.name])
    assert all(np.array_equal(moved[n], al.state[n]) for n in a)
    noise = wl.align(a, planted(noisy(a, rng, 1.0), w, rng)[0], w)
    assert noise.distance_after < 1.01


def test_two_families_that_share_weights() -> None:
    """Query heads and value dims meet in the output projection: neither can be valued alone (grouped-query attention)."""
    kv, q, dim, model = 3, 4, 5, 32
    at = np.arange(kv * q * dim).reshape(kv, q, dim)
    groups = [
        Group(
            "kv",
            kv,
            (
                Member("q", 0, at.reshape(kv, -1), "out"),
                Member("v", 0, blocks(kv, dim), "out"),
                Member("o", 1, at.reshape(kv, -1), "in"),
            ),
        )
    ]
    for i in range(kv):
        heads = (Member("q", 0, at[i], "out"), Member("o", 1, at[i], "in"))
        values = (Member("v", 0, blocks(kv, dim)[i][:, None], "out"), Member("o", 1, at[i].T.copy(), "in"))
        groups.append(Group(f"h{i}", q, heads, parent=("kv", i)))
        groups.append(Group(f"d{i}", dim, values, parent=("kv", i)))
    w = Wiring(tuple(groups), shapes={"q": (kv * q * dim, model), "v": (kv * dim, model), "o": (model, kv * q * dim)})
    rng = np.random.default_rng(0)
    for _ in range(10):
        a = {n: rng.normal(size=s) for n, s in w.shapes.items()}
        b, _ = planted(a, w, rng)
        assert wl.align(a, b, w).distance_after == 0.0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=3, max_size=5),
    st.sampled_from(["", "sign", "scale"]),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_any_pair_of_networks(sizes: list[int], kind: str, seed: int, near: bool) -> None:
    """The function of b stays, and the distance never grows."""
    w = mlp_wiring(sizes, *([kind] if kind else []))
    rng = np.random.default_rng(seed)
    a = random_state(w, rng)
    b = noisy(a, rng, 0.1) if near else random_state(w, rng)
    act = {"": lambda z: np.log1p(np.exp(z)), "sign": np.tanh, "scale": lambda z: np.maximum(z, 0)}[kind]
    x = rng.normal(size=(20, sizes[0]))
    al = wl.align(a, b, w)
    before, after = run_mlp(b, x, act), run_mlp(al.state, x, act)
    assert np.abs(before - after).max() <= 1e-12 * max(1.0, np.abs(before).max())
    assert al.distance_after <= al.distance_before + 1e-12


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_every_step_of_descent_raises_the_objective(seed: int, sign: bool) -> None:
    w = mlp_wiring([5, 7, 6, 4], *(["sign"] if sign else []))
    rng = np.random.default_rng(seed)
    a, b = random_state(w, rng), random_state(w, rng)
    matcher = Matcher(a, b, w, frozenset({"permutation", "sign"}))
    last = sum(float(np.vdot(a[n], matcher.b[n])) for n in a)
    for _ in range(4):
        for u in matcher.steps:
            matcher.improve(u)
            now = sum(float(np.vdot(a[n], matcher.b[n])) for n in a)
            assert now >= last - 1e-12
            last = now


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(0, 10**6))
def test_assignment_is_the_best_of_all(n: int, seed: int) -> None:
    value = np.random.default_rng(seed).normal(size=(n, n)).round(1)
    import itertools

    best = (
        max(sum(value[i, p[i]] for i in range(n)) for p in itertools.permutations(range(min(n, 6)))) if n <= 6 else None
    )
    found = assign(value)
    assert sorted(found) == list(range(n))
    if best is not None:
        assert value[np.arange(n), found].sum() == pytest.approx(best)
    stacked = np.stack([value, value.T])
    assert np.array_equal(assign_blocks(stacked)[0], found)


def test_what_cannot_be_aligned_is_refused() -> None:
    w = mlp_wiring([3, 4, 2])
    a = random_state(w, np.random.default_rng(0))
    with pytest.raises(wl.CannotAlign, match=r"fc1\.weight.*NaN"):
        wl.align(a, a | {"fc1.weight": np.full((4, 3), np.nan)}, w)
    with pytest.raises(wl.CannotAlign, match="only in the first"):
        wl.align(a | {"extra": np.zeros(3)}, a, w)
    with pytest.raises(wl.CannotAlign, match="trace"):
        wl.align(a, a, mlp_wiring([3, 5, 2]))
    with pytest.raises(wl.InvalidArgument, match=r"wl\.trace"):
        wl.align(a, a)
    with pytest.raises(wl.InvalidArgument, match="unknown symmetry"):
        wl.align(a, a, w, symmetries=("rotation",))
    with pytest.raises(wl.InvalidArgument, match="module"):
        wl.align(a, random_state(w, np.random.default_rng(1)), w, data=np.zeros((4, 3)))


def test_a_wiring_that_gives_a_position_away_twice_is_noticed() -> None:
    w = mlp_wiring([3, 4, 2])
    g = w.groups[0]
    bad = Wiring(
        (g, Group("again", 3, (Member("fc1.bias", 0, blocks(3), "add"), Member("fc1.weight", 0, blocks(3), "out")))),
        shapes=w.shapes,
    )
    rng = np.random.default_rng(0)
    a = random_state(w, rng)
    al = wl.align(a, planted(a, w, rng)[0], bad)  # it is still a relabelling that can be undone
    assert sorted(al.state["fc1.bias"]) == sorted(planted(a, w, rng)[0]["fc1.bias"])


def test_low_precision_and_complex_tensors() -> None:
    import torch

    w = mlp_wiring([6, 12, 3])
    rng = np.random.default_rng(0)
    a = random_state(w, rng)
    b, _ = planted(a, w, rng)
    for dtype in (torch.bfloat16, torch.float16):
        x, y = ({n: torch.tensor(v).to(dtype) for n, v in s.items()} for s in (a, b))
        al = wl.align(x, y, w)
        assert al.distance_after == 0.0
        assert al.state["fc1.weight"].dtype == dtype
        assert torch.equal(al.state["fc1.weight"], x["fc1.weight"])
    scaled = mlp_wiring([6, 12, 3], "scale")
    half = {n: torch.tensor(v).bfloat16() for n, v in a.items()}
    al = wl.align(half, {n: torch.tensor(v).bfloat16() for n, v in b.items()}, scaled)
    assert al.distance_after == 0.0
    assert "bfloat16" in al.notes[0]
    x, y = ({n: v + 1j * v[::-1] for n, v in s.items()} for s in (a, a))
    y = wl.permute(y, w, "fc1", rng.permutation(12))
    assert wl.align(x, y, w).distance_after == 0.0

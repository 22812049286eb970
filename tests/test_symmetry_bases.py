"""Transformers in other bases: found by the tracer, brought back by ``align``, named by ``compare``, fixed by ``canonical``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.oracles_bases import best_heads, best_signed_order, descended, gap
from tests.planted_bases import (
    EVERYTHING,
    FAMILIES,
    in_other_bases,
    logits,
    network,
    noisy,
    relative,
    wiring_of,
)
from weightlapse.errors import CannotAlign, InvalidArgument
from weightlapse.symmetry.assign import assign, assign_blocks
from weightlapse.symmetry.fits import Grams, fitted, own, rotation, signed_order
from weightlapse.wiring.change import Changed, centring, change, drawn, fold, unfold
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Basis, Member, Norm, blocks

pytest.importorskip("transformers")
KINDS = [("order",), ("signs",), ("order", "signs"), ("rotations",), ("heads",), EVERYTHING]


def close(x: np.ndarray, y: np.ndarray, tolerance: float) -> bool:
    return bool(np.abs(x - y).max() <= tolerance * np.abs(x).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_planted_comes_back(family: str) -> None:
    """Whatever is planted, and with gains that cannot be folded even or not: a's weights to 1e-5, b's function to 1e-9."""
    for even in (False, True):
        net = network(family, even=even)
        w, a = wiring_of(family), {n: v.clone() for n, v in net.state_dict().items()}
        for seed, kinds in enumerate(KINDS):
            b = in_other_bases(a, w, np.random.default_rng(seed), kinds)
            moved = relative(a, b)
            if moved == 0:  # a stream that nothing may turn
                assert kinds == ("rotations",)
                assert not even
                continue
            said = logits(family, net, b)
            assert close(logits(family, net, a), said, 1e-9), kinds
            al = wl.align(a, b, w)
            assert al.distance_after <= 1e-5, (kinds, str(al))
            assert relative(a, al.state) <= 1e-5
            assert close(logits(family, net, al.state), said, 1e-9), kinds
            assert wl.compare(a, b, w).verdict == "same up to symmetry"


@pytest.mark.parametrize("family", FAMILIES)
def test_canonical_forms_agree(family: str) -> None:
    for even in (False, True):
        net = network(family, even=even)
        w, a = wiring_of(family), {n: v.clone() for n, v in net.state_dict().items()}
        form = wl.canonical(a, w)
        assert close(logits(family, net, a), logits(family, net, form), 1e-9)
        assert relative(form, wl.canonical(form, w)) <= 1e-6
        for seed in range(3):
            assert relative(form, wl.canonical(in_other_bases(a, w, np.random.default_rng(seed)), w)) <= 1e-6
        other = wl.canonical(network(family, 5, even=even).state_dict(), w)
        assert relative(form, other) > 0.5


@pytest.mark.parametrize("name", ["outer_of_two", "relative_position_bias", "linear_layers", "wide_inside"])
def test_canonical_forms_agree_where_numbers_are_not_all_made_or_read(name: str) -> None:
    """Two bases meet in one tensor, and of both some numbers are told by no size: one cannot be told by the other before that is told itself."""
    from tests.zoo import ZOO

    torch.manual_seed(0)
    made = {
        "linear_layers": lambda: torch.nn.Sequential(
            torch.nn.Linear(2, 8), torch.nn.Linear(8, 9), torch.nn.Linear(9, 3)
        ),
        "wide_inside": lambda: torch.nn.Sequential(
            torch.nn.Linear(3, 7), torch.nn.Linear(7, 2, bias=False), torch.nn.Linear(2, 6)
        ),
    }
    net = (made[name] if name in made else ZOO[name].make)().double()
    with torch.no_grad():
        for p in net.parameters():
            p.normal_()
    examples = ZOO[name].examples if name in ZOO else [torch.randn(5, net[0].in_features, dtype=torch.float64)]
    w = wl.trace(net, *(_doubled(x) for x in examples))
    a = {n: v.clone() for n, v in net.state_dict().items()}
    assert len(w.bases) > 1
    form = wl.canonical(a, w)
    for seed in range(3):
        assert relative(form, wl.canonical(in_other_bases(a, w, np.random.default_rng(seed)), w)) <= 1e-6


def _doubled(x: object) -> object:
    if isinstance(x, torch.Tensor):
        return x.double() if x.is_floating_point() else x
    return tuple(map(_doubled, x)) if isinstance(x, tuple) else x


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "t5"])
def test_noise_is_survived_and_strangers_are_strangers(family: str) -> None:
    net = network(family)
    w, a = wiring_of(family), {n: v.clone() for n, v in net.state_dict().items()}
    rng = np.random.default_rng(2)
    near = noisy(a, w, rng, 0.3)
    al = wl.align(a, in_other_bases(near, w, rng), w)
    assert al.distance_before > 1
    assert al.distance_after < 1.25 * relative(a, near)
    stranger = network(family, 7).state_dict()
    assert wl.compare(a, stranger, w).verdict == "different"
    assert wl.align(a, stranger, w).distance_after > 0.8


def test_what_the_tracer_finds() -> None:
    kinds = {f: {b.name.split()[0]: b.kind for b in wiring_of(f).bases} for f in ("llama", "qwen3", "gpt2", "gpt_neox")}
    assert kinds["llama"] == {"basis": "orthogonal", "values": "invertible", "queries": "rotary"}
    assert kinds["qwen3"] == {"basis": "orthogonal", "values": "invertible", "queries": "signs", "gains": "scales"}
    assert kinds["gpt2"] == {"basis": "centred", "values": "invertible", "queries": "invertible"}
    assert kinds["gpt_neox"] == {"basis": "centred", "values": "invertible", "queries": "rotary"}
    half = next(b for b in wiring_of("gpt_neox").bases if b.kind == "rotary")
    assert half.pairs == ((0, 2), (1, 3))  # of eight numbers the first four turn
    gemma = next(b for b in wiring_of("gemma").bases if b.kind == "orthogonal")
    assert {n.offset for n in gemma.norms if n.readers} == {1.0}
    assert [n.gain for n in gemma.norms if not n.readers] == ["model.norm.weight"]  # its reader is the embedding


def test_no_basis_is_claimed_where_an_activation_stands_between() -> None:
    torch.manual_seed(0)
    for act in (nn.Tanh(), nn.ReLU(), nn.GELU()):
        net = nn.Sequential(nn.Linear(4, 6), act, nn.Linear(6, 3))
        assert wl.trace(net, torch.randn(5, 4)).bases == ()
    line = wl.trace(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), torch.randn(5, 4))
    assert [b.kind for b in line.bases] == ["invertible"]


def test_linear_layers_in_a_row_come_back() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(9, 6), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 8))
    w = wl.trace(net, torch.randn(5, 9))
    net = net.double()
    b = in_other_bases(net.state_dict(), w, np.random.default_rng(0))
    assert wl.align(net.state_dict(), b, w).distance_after < 1e-9


def test_the_wiring_keeps_its_bases_as_text() -> None:
    for family in ("qwen3", "gpt2", "gemma"):
        w = wiring_of(family)
        assert Wiring.from_spec(w.to_spec()) == w
        assert Wiring.from_spec(w.to_spec()).bases == w.bases


def test_bad_bases_are_refused() -> None:
    w = wiring_of("llama")
    text = w.to_spec()
    for old, new, words in (
        ("16 numbers, orthogonal", "16 numbers, wobbly", "unknown kind"),
        ("pairs 0,2 | 1,3", "pairs 0,2 | 2,3", "at most once"),
        (
            "norm model.norm.weight offset 0 readers lm_head.weight 1",
            "norm model.norm.weight offset 0 readers nobody.weight 1",
            "no member",
        ),
        ("norm model.norm.weight offset 0", "norm model.norm.weight", "expected 'norm"),
    ):
        assert old in text
        with pytest.raises(InvalidArgument, match=words):
            Wiring.from_spec(text.replace(old, new, 1))


def test_the_result_tells_what_was_done() -> None:
    net = network("llama")
    w, a = wiring_of("llama"), {n: v.clone() for n, v in net.state_dict().items()}
    b = in_other_bases(a, w, np.random.default_rng(0))
    al = wl.align(a, b, w)
    (turn,) = al.rotations.values()
    assert np.allclose(turn @ turn.T, np.eye(16))
    assert len(al.gauges) == 8
    assert relative(al.state, al.apply(b)) == 0
    said = wl.compare(a, b, w).explain().splitlines()[0]
    assert "the stream of model.embed_tokens turned" in said
    assert "the values of 4 heads and queries and keys of 4 heads in other bases" in said
    flipped = (
        wl.compare(a, in_other_bases(a, w, np.random.default_rng(1), ("order", "signs")), w).explain().splitlines()[0]
    )
    assert "signs flipped" in flipped
    assert "turned" not in flipped
    plain = wl.align(a, b, w, symmetries=("permutation", "sign", "scale"))
    assert not plain.rotations
    assert plain.distance_after > 0.3


def test_a_stream_whose_gain_is_zero_is_left_with_the_reason() -> None:
    net = network("llama")
    w, a = wiring_of("llama"), {n: v.clone() for n, v in net.state_dict().items()}
    a["model.norm.weight"][3] = 0
    b = in_other_bases(a, w, np.random.default_rng(0), ("heads",))
    al = wl.align(a, b, w)
    assert any("model.norm.weight" in n and "is 0 at 3" in n for n in al.notes)
    assert al.distance_after < 1e-5  # its heads are brought back all the same


def test_a_gain_that_cannot_be_folded_forbids_turning() -> None:
    w = wiring_of("gemma")
    stream = next(b for b in w.bases if b.kind == "orthogonal")
    state = Changed({n: v.numpy() for n, v in network("gemma").state_dict().items()})
    fold(state, stream)
    with pytest.raises(InvalidArgument, match="cannot be folded"):
        change(state, stream, drawn(stream, np.random.default_rng(0)))
    even = network("gemma", even=True).state_dict()
    turned = wl.align(even, in_other_bases(even, w, np.random.default_rng(0)), w)
    assert turned.rotations
    with pytest.raises(CannotAlign, match="cannot be brought into that basis"):
        turned.apply(network("gemma").state_dict())


# ---- closed forms against slow twins


@pytest.mark.parametrize("seed", range(5))
def test_signed_orders_and_heads_against_every_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    c = rng.normal(size=(4, 4))
    assert np.isclose(float((signed_order(c, "orthogonal") * c).sum()), best_signed_order(c))
    products = rng.normal(size=(4, 4, 3, 3))
    chosen = assign_blocks(products)
    total = np.take_along_axis(products, chosen[..., None], axis=-1)[..., 0].sum(-1)
    assert np.isclose(total[np.arange(4), assign(total)].sum(), best_heads(products))


@pytest.mark.parametrize(
    ("kind", "pairs"),
    [
        ("invertible", ()),
        ("rotary", ((0, 2), (1, 3))),
        ("rotary", ((0, 1),)),
        ("signs", ((0, 2), (1, 3))),
        ("scales", ((0, 1), (2, 3))),
    ],
)
def test_closed_forms_against_descent(kind: str, pairs: tuple[tuple[int, int], ...]) -> None:
    rng = np.random.default_rng(3)
    basis = Basis("b", 4, kind, (), (), pairs)
    xb, yb = rng.normal(size=(4, 20)), rng.normal(size=(4, 12))
    m = drawn(basis, rng)
    xa, ya = m @ xb, np.linalg.inv(m).T @ yb
    assert np.allclose(fitted(basis, Grams.of(xa, ya, xb, yb)), m)
    xa, ya = xa + 0.1 * rng.normal(size=xa.shape), ya + 0.1 * rng.normal(size=ya.shape)
    mine = gap(fitted(basis, Grams.of(xa, ya, xb, yb)), xa, ya, xb, yb)
    if kind in ("invertible", "rotary"):
        slow = descended(basis, xa, ya, xb, yb)
        assert gap(slow, xa, ya, xb, yb) <= mine * 1.001  # the twin is no worse, or it would prove nothing
        assert mine <= gap(slow, xa, ya, xb, yb) * 1.2  # balanced first: near the least, not at it
    form = own(basis, xb, yb)
    again = own(basis, m @ xb, np.linalg.inv(m).T @ yb)
    assert np.allclose(form @ xb, again @ m @ xb)


@pytest.mark.parametrize("kind", ["orthogonal", "centred"])
def test_rotations_against_descent(kind: str) -> None:
    rng = np.random.default_rng(4)
    basis = Basis("b", 4, kind, (), ())
    q = drawn(basis, rng)
    xb = rng.normal(size=(4, 20))
    xa = q @ xb + 0.2 * rng.normal(size=(4, 20))
    found = rotation(xa @ xb.T, kind)
    assert np.allclose(found @ found.T, np.eye(4))
    none = np.zeros((4, 1))
    if kind == "orthogonal":
        slow = descended(replace(basis, kind="orthogonal"), xa, none, xb, none)
        assert gap(found, xa, none, xb, none) <= gap(slow, xa, none, xb, none) + 1e-9 or np.linalg.det(found) < 0
    else:
        assert np.allclose(found @ np.ones(4), np.ones(4) * np.sign((found @ np.ones(4))[0]))
        assert gap(found, xa, none, xb, none) <= gap(q, xa, none, xb, none)


def test_helmert_vectors_are_orthonormal_and_centred() -> None:
    u = centring(7)
    assert np.allclose(u.T @ u, np.eye(6))
    assert np.allclose(u.sum(axis=0), 0)


def test_a_wrong_basis_is_noticed() -> None:
    """The check of planted copies fails where a basis is none: without the gain folded, the function changes."""
    net = network("llama")
    w, a = wiring_of("llama"), {n: v.clone() for n, v in net.state_dict().items()}
    wrong = replace(w, bases=tuple(replace(b, norms=()) for b in w.bases))
    b = in_other_bases(a, wrong, np.random.default_rng(0), ("rotations",))
    assert not close(logits("llama", net, a), logits("llama", net, b), 1e-3)


def test_changes_are_undone_exactly() -> None:
    rng = np.random.default_rng(0)
    members = (
        Member("e", 1, blocks(5), "out"),
        Member("r", 0, blocks(5, 2), "in"),
        Member("beta", 0, blocks(5), "add"),
    )
    basis = Basis("s", 5, "centred", members, (1, -1, 1), (), (Norm("g", 0.0, "beta", (("r", 0),)),))
    before = {
        "e": rng.normal(size=(7, 5)),
        "r": rng.normal(size=(10, 3)),
        "beta": rng.normal(size=5),
        "g": 1 + rng.random(5),
    }
    state = Changed(before)
    gains = fold(state, basis)
    assert np.allclose(state["g"], 1)
    m = drawn(basis, rng)
    change(state, basis, m)
    change(state, basis, m.T)
    unfold(state, basis, gains)
    assert all(np.allclose(state[n], v) for n, v in before.items())


def test_what_was_noted_is_not_changed_by_looking() -> None:
    """A value that was put in place, and then turned or scaled there, is the same however often it is looked at, and in every copy."""
    rng = np.random.default_rng(0)
    bias, row = Member("b", 0, blocks(4), "add"), np.arange(1.0, 5.0)
    turn = drawn(Basis("s", 4, "orthogonal", (bias,), (1,)), rng)
    for step in (
        lambda c: c.turn(bias, turn),
        lambda c: c.scale(bias, np.full(4, 2.0)),
        lambda c: (c.turn(bias, turn), c.scale(bias, np.full(4, 0.5))),
    ):
        state = Changed({"b": np.zeros(4)}, room=0)
        state.put("b", row)
        step(state)
        first, copy = np.array(state["b"]), state.copy()
        assert np.array_equal(state["b"], first)
        assert np.array_equal(copy["b"], first)
        assert row.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bases_of_16_bit_networks_are_changed_without_rounding(dtype: torch.dtype) -> None:
    """What is turned comes back in float32, says so, and computes what b does; what is only reordered stays as it was to the bit."""
    net = network("llama")
    w = wiring_of("llama")
    a = {n: v.to(dtype) for n, v in net.state_dict().items()}
    for kinds, turned in ((EVERYTHING, True), (("order", "signs"), False)):
        b = in_other_bases(a, w, np.random.default_rng(0), kinds)
        al = wl.align(a, b, w, restarts=0)
        assert al.distance_before > 1
        if not turned:
            assert all(v.dtype == dtype for v in al.state.values())
            assert all(torch.equal(al.state[n], a[n]) for n in a)
            continue
        assert any("float32" in note and str(dtype).rpartition(".")[2] in note for note in al.notes)
        assert al.distance_after < 3 * torch.finfo(dtype).eps  # b itself is rounded
        assert {al.state[n].dtype for n in a if a[n].ndim > 1} == {torch.float32}
        wide = [{n: v.double() for n, v in s.items()} for s in (b, al.state)]
        assert close(*(logits("llama", net, s) for s in wide), 1e-5)
        assert relative(al.state, al.apply(b)) == 0
    stranger = {n: v.to(dtype) for n, v in network("llama", 7).state_dict().items()}
    assert wl.compare(a, stranger, w).verdict == "different"


@pytest.mark.parametrize(("family", "tiny"), [("vit", 0.01), ("llama", -0.003), ("gpt2", 0.001)])
def test_a_gain_that_is_nearly_zero_does_not_blow_up_noise(family: str, tiny: float) -> None:
    """In a a gain happens to be next to nothing, in b noise has made it larger: b's reader is not divided by a's."""
    net = network(family)
    w, a = wiring_of(family), {n: v.clone() for n, v in net.state_dict().items()}
    stream = next(b for b in w.bases if b.parent is None and b.norms)
    norm = next(n for n in stream.norms if n.readers)
    a[norm.gain][2] = tiny - norm.offset
    rng = np.random.default_rng(1)
    near = noisy(a, w, rng, 0.3)
    near[norm.gain][2] = 0.2 - norm.offset
    said = logits(family, net, b := in_other_bases(near, w, rng, ("order", "signs")))
    al = wl.align(a, b, w, restarts=0)
    assert al.distance_before > 1
    assert al.distance_after < 1.3 * relative(a, near)
    assert close(logits(family, net, al.state), said, 1e-9)
    assert relative(al.state, al.apply(b)) <= 1e-12

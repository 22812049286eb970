"""Heads of many builds: what the tracer lists of them is right and is all of it, and copies in these bases come back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import weightlapse as wl
from tests.planted_bases import State, in_other_bases, network, noisy, relative, wiring_of
from weightlapse.errors import InvalidArgument
from weightlapse.symmetry.invariants import check_invariants
from weightlapse.wiring.bench import Bench
from weightlapse.wiring.change import left
from weightlapse.wiring.double import in_double
from weightlapse.wiring.members import Basis, Member
from weightlapse.wiring.outputs import chooser
from weightlapse.wiring.trace import state_tensors
from weightlapse.wiring.trials import Trial

transformers = pytest.importorskip("transformers")
SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
TOKENS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
EXAMPLE = {"input_ids": torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(1)), "use_cache": False}


def made(family: str, seed: int = 3, **sizes: Any) -> torch.nn.Module:
    """In float64, every weight random."""
    torch.manual_seed(seed)
    sizes = SIZES | sizes
    config = getattr(transformers, f"{family}Config")(**sizes)
    kind = "MaskedLM" if family in ("Bert", "DebertaV2") else "CausalLM"
    net: torch.nn.Module = getattr(transformers, f"{family}For{kind}")(config).double().eval()
    noise = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for p in net.parameters():
            some = torch.randn(p.shape, generator=noise, dtype=p.dtype)
            gain = p.ndim == 1 and float(p.mean()) > 0.5
            p.copy_(1 + 0.3 * some if gain else 0.3 * some if p.ndim == 1 else some / p.shape[-1] ** 0.5)
    return net


def weights(net: torch.nn.Module) -> State:
    return {n: v.clone() for n, v in net.state_dict().items()}


def said(net: torch.nn.Module, state: State) -> np.ndarray:
    own = weights(net)
    net.load_state_dict(state)
    try:
        with torch.no_grad(), in_double():
            found: np.ndarray = net(**EXAMPLE).logits.numpy()
            return found
    finally:
        net.load_state_dict(own)


def apart(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.abs(x - y).max() / np.abs(x).max())


def come_back(net: torch.nn.Module, w: wl.Wiring, a: State, b: State) -> None:
    """b computes what a does, is far from it, and comes back; its canonical form is a's, and every form computes the same."""
    assert relative(a, b) > 0.05
    assert apart(said(net, a), said(net, b)) < 1e-9
    al = wl.align(a, b, w)
    assert al.distance_after < 1e-5, str(al)
    assert apart(said(net, a), said(net, al.state)) < 1e-9
    form = wl.canonical(a, w)
    assert apart(said(net, a), said(net, form)) < 1e-9
    assert relative(form, wl.canonical(b, w)) < 1e-6


# ---- fused queries and keys

FUSED = {"4 over 2": (16, 4, 2), "8 over 2": (64, 8, 2), "8 over 4": (32, 8, 4), "4 over 4": (16, 4, 4)}


@pytest.mark.parametrize("heads", FUSED)
def test_fused_queries_that_share_keys_are_split_where_they_end(heads: str) -> None:
    hidden, queries, keys = FUSED[heads]
    net = made("Phi3", hidden_size=hidden, num_attention_heads=queries, num_key_value_heads=keys, **TOKENS)
    w = wl.trace(net, EXAMPLE)
    d = hidden // queries
    found = [b for b in w.bases if b.name.startswith("queries")]
    assert len(found) == 2 * keys
    for b in found:
        assert (b.kind, b.size, len(b.pairs)) == ("rotary", d, d // 2)
        assert (
            b.members[0].index.max() < hidden <= b.members[1].index.min() < b.members[1].index.max() < hidden + keys * d
        )
    a = weights(net)
    come_back(net, w, a, in_other_bases(a, w, np.random.default_rng(0)))


@pytest.mark.parametrize("rows", [[0, 1, 6, 7], [0, 6], [8, 9, 14, 15, 20]])
def test_rows_of_fused_queries_that_are_no_symmetry_make_another_network(rows: list[int]) -> None:
    net = made("Phi3", **TOKENS)
    w, a = wl.trace(net, EXAMPLE), weights(net)
    b = weights(net)
    b["model.layers.0.self_attn.qkv_proj.weight"][rows] *= -1
    assert apart(said(net, a), said(net, b)) > 0.01
    assert wl.compare(a, b, w).verdict == "different"
    assert apart(said(net, b), said(net, wl.align(a, b, w).state)) < 1e-9


def trial_of(net: torch.nn.Module) -> tuple[Trial, wl.Wiring]:
    w = wl.trace(net, EXAMPLE)
    bench = Bench(net, [EXAMPLE], chooser(None), state_tensors(net)[0])
    return Trial(w, bench), w


def test_wrong_bases_are_refused_by_trial_however_few_signs_they_have() -> None:
    """Signs of one pair, of several, of a wrong half; an orthogonal stream whose gains are forgotten; what no output shows."""
    trial, w = trial_of(made("Phi3", **TOKENS))
    before = {n: v.clone() for n, v in trial.bench.state.items()}
    name = "model.layers.0.self_attn.qkv_proj.weight"
    for first, second in (([0, 1], [16, 17]), ([0, 1, 2, 3, 4], [6, 7, 16, 17, 18]), ([0, 8], [16, 20])):
        members = tuple(Member(name, 0, np.array(at)[:, None], "out") for at in (first, second))
        pairs = tuple((i,) for i in range(len(first)))
        for some in (pairs, pairs[:1], (tuple(range(len(first))),)):
            assert not trial.holds([Basis("b", len(first), "signs", members, (1, -1), some)], alone=True)
            assert not trial.holds([Basis("b", len(first), "signs", members, (1, -1), some)])
    for b in w.bases:
        assert trial.holds([b], alone=True), b.name
        if b.norms:
            assert not trial.holds([replace(b, norms=())], alone=True)
    half = trial.bench.state["model.layers.0.self_attn.o_proj.weight"]
    values = next(b for b in w.bases if b.name.startswith("values model.layers.0"))
    assert all(torch.allclose(v, before[n], rtol=1e-9, atol=1e-12) for n, v in trial.bench.state.items())
    half.zero_()  # now the outputs show nothing of the values
    trial = Trial(w, trial.bench)
    assert trial.holds([values])
    assert not trial.holds([values], alone=True)


# ---- rotary positions of some numbers

PARTIAL = {
    "Glm": ({"hidden_size": 64, "head_dim": 16, **TOKENS}, 16, 4),
    "GPTNeoX": ({"rotary_pct": 0.5}, 4, 1),
    "Phi": ({"partial_rotary_factor": 0.5}, 4, 1),
    "StableLm": ({"hidden_size": 32, "partial_rotary_factor": 0.25}, 8, 1),
}


@pytest.mark.parametrize("family", PARTIAL)
def test_pairs_are_of_what_is_turned(family: str) -> None:
    sizes, d, pairs = PARTIAL[family]
    net = made(family, **sizes)
    w = wl.trace(net, EXAMPLE)
    found = {(b.kind, b.size, len(b.pairs)) for b in w.bases if b.name.startswith("queries")}
    assert found == {("rotary", d, pairs)}
    a = weights(net)
    for kinds in (("order", "signs"), ("order", "signs", "rotations", "heads")):
        come_back(net, w, a, in_other_bases(a, w, np.random.default_rng(5), kinds))


# ---- streams that may not be turned: their order and what is inside heads are found together

STILL: dict[str, tuple[dict[str, Any], str]] = {
    "Bert": ({}, ""),
    "Olmo2": (TOKENS, ""),
    "Llama": ({}, "model.layers.0.input_layernorm.weight"),
    "Starcoder2": (TOKENS, "model.layers.1.post_attention_layernorm.weight"),
}


@pytest.mark.parametrize("family", STILL)
def test_order_and_heads_are_found_together_where_a_stream_is_not_turned(family: str) -> None:
    sizes, zero = STILL[family]
    net = made(family, **sizes)
    w = wl.trace(net, EXAMPLE)
    if zero:
        with torch.no_grad():
            net.get_parameter(zero)[3] = 0
    a, planted = weights(net), replace(w, bases=tuple(left(b, {zero}) for b in w.bases))
    for kinds in (("order", "heads"), ("heads",), ("order", "signs", "heads")) + ((("signs",),) if zero else ()):
        b = in_other_bases(a, planted, np.random.default_rng(5), kinds)
        assert relative(a, b) > 0.3
        assert apart(said(net, a), said(net, b)) < 1e-9
        al = wl.align(a, b, w)
        assert al.distance_after < 1e-5, (kinds, str(al))
        assert apart(said(net, a), said(net, al.state)) < 1e-9
        assert relative(al.state, al.apply(b)) < 1e-12
        assert bool(al.notes) == bool(zero)
        form = wl.canonical(a, w)
        assert relative(form, wl.canonical(b, w)) < 1e-6
        assert apart(said(net, a), said(net, form)) < 1e-9
    assert wl.align(a, weights(made(family, 8, **sizes)), w).distance_after > 0.7


# ---- what is said and refused


@pytest.mark.parametrize("device", ["nope", "meta", 3, "cuda:99", True])
def test_a_device_that_is_not_there_is_an_invalid_argument(device: Any) -> None:
    w = wl.Wiring.from_spec("tensor a.weight (2, 1)\ngroup a: 2 units, permutation\n  a.weight[0]: out\n")
    a = {"a.weight": torch.ones(2, 1)}
    with pytest.raises(InvalidArgument, match="cannot be computed on"):
        wl.align(a, a, w, device=device)
    assert wl.align(a, a, w, device="cpu").distance_after == 0


@pytest.mark.parametrize("kinds", [("signs",), ("order",), ("heads",), ("rotations",), ("order", "signs", "heads")])
def test_the_first_sentence_of_a_comparison_is_one(kinds: tuple[str, ...]) -> None:
    net, w = network("llama"), wiring_of("llama")
    a = weights(net)
    first = wl.compare(a, in_other_bases(a, w, np.random.default_rng(1), kinds), w).explain().splitlines()[0]
    assert "b is a with " in first
    assert first.count("with ") == 1


# ---- heads that are not of full rank

ATTENTION = "model.layers.0.self_attn."


@pytest.fixture(scope="module")
def llama() -> wl.Wiring:
    return wl.trace(made("Llama", 9), EXAMPLE)


def without_rank(net: torch.nn.Module, what: str) -> State:
    """Of the first layer (of every one) a matrix that is 0, rows that are equal, a head that reads or makes few numbers, or others than it makes."""
    with torch.no_grad():
        v, o = (net.get_parameter(ATTENTION + n + ".weight") for n in ("v_proj", "o_proj"))
        if what == "few made":
            v[:4] = torch.tensor([[1.0, 0], [0, 1], [2, -1], [1, 3]]).double() @ v[:2].clone()
        elif what == "few read":
            o[:, :4] = o[:, :2].clone() @ torch.tensor([[1.0, 0, 2, 1], [0, 1, -1, 3]]).double()
        elif what == "others read":  # two numbers of a head are only made, and two are only read
            v[:2], o[:, 2:8] = 0, 0
        elif what == "equal sizes":  # nothing tells the numbers of a head apart but where they come from
            v[:4], o[:, :8] = torch.linalg.qr(v[:4].T)[0].T, 0
            o[:, :4] = torch.linalg.qr(o[:, 8:12])[0]
        else:
            for name, p in net.named_parameters():
                wanted = ATTENTION + what.split()[-1] + ".weight"
                if name == wanted or (what.startswith("every") and name.endswith(what.split()[1] + ".weight")):
                    if what.startswith("two"):
                        p[1] = p[0]
                    else:
                        p.zero_()
    return weights(net)


@pytest.mark.parametrize(
    "what",
    [
        "o_proj", "v_proj", "q_proj", "k_proj", "two rows of v_proj", "two rows of q_proj", "every o_proj", "few made", "few read", "others read",
        "equal sizes",
    ],
)  # fmt: skip
def test_heads_without_full_rank_come_back(what: str, llama: wl.Wiring) -> None:
    """Branches that begin at nothing, and rows that are equal: what one side does not tell, the other one does."""
    net, w = made("Llama"), llama
    a = without_rank(net, what)
    form = wl.canonical(a, w)
    assert apart(said(net, a), said(net, form)) < 1e-9
    for kinds in (("heads",), ("order", "signs", "rotations", "heads")):
        b = in_other_bases(a, w, np.random.default_rng(5), kinds)
        al = wl.align(a, b, w)
        assert al.distance_before > 0.5
        assert al.distance_after < 1e-5, str(al)
        assert apart(said(net, b), said(net, al.state)) < 1e-9
        assert relative(form, wl.canonical(b, w)) < 1e-6
    assert wl.compare(a, b, w).verdict == "same up to symmetry"
    noise = np.random.default_rng(1)
    near = noisy(a, w, noise, 0.1)
    back = wl.align(a, in_other_bases(near, w, noise), w, restarts=0)
    assert back.distance_after < 1.3 * relative(a, near)


# ---- heads of every shape

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "heads of 2": ("Llama", {"num_attention_heads": 8, "num_key_value_heads": 4}),
    "heads of 3": ("GPTNeoX", {"hidden_size": 12, "num_key_value_heads": 4, "rotary_pct": 0.67}),
    "one head": ("Llama", {"hidden_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}),
    "tied": ("Qwen3", {"head_dim": 4, "tie_word_embeddings": True}),
    "one key for all": ("Qwen2", {"num_key_value_heads": 1}),
    "norms behind": ("Olmo2", {**TOKENS, "num_attention_heads": 8, "num_key_value_heads": 4}),
    "norms behind, one key for all": ("Olmo2", {**TOKENS, "num_key_value_heads": 1}),
    "norms behind, one head": ("Olmo2", {**TOKENS, "hidden_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_heads_of_every_shape_come_back_and_have_one_canonical_form(shape: str) -> None:
    family, sizes = SHAPES[shape]
    net = made(family, **sizes)
    w, a = wl.trace(net, EXAMPLE), weights(net)
    for seed in (0, 1):
        come_back(net, w, a, in_other_bases(a, w, np.random.default_rng(seed)))
    other = weights(made(family, 8, **sizes))
    assert relative(wl.canonical(a, w), wl.canonical(other, w)) > 0.3


def test_gains_of_queries_and_keys_are_rescaled_against_each_other() -> None:
    net = made("Olmo2", **TOKENS)
    w, a = wl.trace(net, EXAMPLE), weights(net)
    assert {b.kind for b in w.bases if b.name.startswith("queries")} == {"scales"}
    b = weights(net)
    for name, factor in (("q_norm", 2.0), ("k_norm", 0.5)):
        b[f"{ATTENTION}{name}.weight"] *= factor
    assert apart(said(net, a), said(net, b)) < 1e-12
    assert wl.align(a, b, w).distance_after < 1e-9
    assert relative(wl.canonical(a, w), wl.canonical(b, w)) < 1e-9


# ---- heads that are in no group

_FALCON = {"bos_token_id": 0, "eos_token_id": 1, "num_hidden_layers": 2}
ALONE: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {  # family, sizes, how many bases of queries and of values
    "Bloom": ("Bloom", {"n_layer": 2, "n_head": 4}, (8, 8)),
    "one key for all": ("Llama", {"num_key_value_heads": 1}, (2, 2)),
    "one head": ("Mistral", {"num_attention_heads": 1, "num_key_value_heads": 1}, (2, 2)),
    "GPTBigCode": (
        "GPTBigCode", {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "n_inner": 24, **TOKENS}, (2, 2),
    ),
    "Falcon": ("Falcon", {**_FALCON, "num_kv_heads": 1}, (2, 2)),
    "Falcon of keys for some": ("Falcon", {**_FALCON, "num_kv_heads": 2, "new_decoder_architecture": True}, (4, 4)),
    "Falcon with biases": ("Falcon", {**_FALCON, "num_kv_heads": 1, "bias": True}, (2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_heads_in_no_group_come_back(name: str) -> None:
    """ALiBi, one head, one head of keys: queries, keys and values in other bases come back, and what was not searched is said of strangers."""
    family, sizes, (queries, values) = ALONE[name]
    net = made(family, **sizes)
    w, a = wl.trace(net, EXAMPLE), weights(net)
    inside = [b for b in w.bases if not b.is_stream]
    assert sum(b.name.startswith("queries") for b in inside) == queries
    assert len(inside) == queries + values
    for kinds in (("heads",), ("order", "signs", "rotations", "heads")):
        come_back(net, w, a, in_other_bases(a, w, np.random.default_rng(5), kinds))
    stranger = wl.compare(a, weights(made(family, 9, **sizes)), w)
    assert stranger.verdict == "different"
    assert stranger.alignment is not None
    assert not any("not searched" in n for n in stranger.alignment.notes)
    less = replace(w, bases=tuple(b for b in w.bases if not b.name.startswith("queries")))
    notes = wl.align(a, in_other_bases(a, w, np.random.default_rng(5)), less, restarts=0).notes
    assert any("not searched for other bases" in n for n in notes)


# ---- where nothing can be run


@pytest.mark.parametrize("what", ["a row of q_proj", "a head of o_proj", "a token"])
def test_a_state_that_is_no_change_of_basis_is_refused(what: str, llama: wl.Wiring) -> None:
    a = weights(made("Llama"))
    moved = in_other_bases(a, llama, np.random.default_rng(0))
    check_invariants(a, moved, llama)
    name = {"a row of q_proj": ATTENTION + "q_proj.weight", "a head of o_proj": ATTENTION + "o_proj.weight"}.get(
        what, "model.embed_tokens.weight"
    )
    moved[name] = moved[name].clone()
    if what == "a head of o_proj":
        moved[name][:, :4] *= 1.01
    else:
        moved[name][1] *= 1.01
    with pytest.raises(wl.CannotAlign, match="changes what goes through"):
        check_invariants(a, moved, llama)


# ---- what tracing costs


def trials(net: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> tuple[int, wl.Wiring]:
    """How often bases were tried."""
    count = 0
    tried = Trial._tried

    def counted(self: Trial, *args: Any) -> bool:
        nonlocal count
        count += 1
        return tried(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "_tried", counted)
        w = wl.trace(net, EXAMPLE)
    return count, w


@pytest.mark.parametrize("name", ["Bloom", "Falcon", "one key for all", "GPTBigCode"])
def test_more_layers_and_heads_take_no_more_trials(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, sizes, _ = ALONE[name]
    few, w = trials(made(family, **sizes), monkeypatch)
    deeper = {k: 5 for k in ("n_layer", "num_hidden_layers") if k in SIZES | sizes}
    many, deep = trials(made(family, **sizes | deeper), monkeypatch)
    assert many == few > 0
    inside, inside_deep = (sum(not b.is_stream for b in v.bases) for v in (w, deep))
    assert inside_deep * 2 == inside * 5


def test_layers_of_one_form_that_differ_are_told_apart() -> None:
    """One head of keys for all, rotary positions in one layer only: queries of the other are free."""
    net = made("SmolLM3", num_key_value_heads=1, no_rope_layers=[1, 0], **TOKENS)
    w, a = wl.trace(net, EXAMPLE), weights(net)
    found = {b.members[0].tensor.split(".")[2]: b.kind for b in w.bases if b.name.startswith("queries")}
    assert found == {"0": "rotary", "1": "invertible"}
    come_back(net, w, a, in_other_bases(a, w, np.random.default_rng(5)))


def test_queries_that_meet_relative_positions_are_free_as_wholes() -> None:
    """Queries and keys of tokens and of places are of one head; the table of places is written in a basis that is no turn."""
    sizes = {
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "max_relative_positions": 8,
        "relative_attention": True,
    }
    net = made("DebertaV2", **sizes)
    w, a = wl.trace(net, EXAMPLE), weights(net)
    queries = [b for b in w.bases if b.name.startswith("queries")]
    assert {(b.kind, b.size) for b in queries} == {("invertible", 4)}
    assert len(queries) == 8
    come_back(net, w, a, in_other_bases(a, w, np.random.default_rng(5)))
    other = weights(made("DebertaV2", 9, **sizes))
    found = wl.compare(a, other, w)
    assert found.verdict == "different"
    assert found.alignment is not None
    assert apart(said(net, other), said(net, found.alignment.state)) < 1e-9

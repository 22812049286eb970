"""What is refused says what holds the size and how to go on; what need not be refused is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import tests.nets_growth as nets
import weightlapse as wl
from weightlapse.errors import CannotGrow, InvalidArgument, UnknownTensor, VacuousComparison
from weightlapse.growth.certificate import MAGNIFIED, SHALLOW, TOLERANCE, Check, Trial

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """Holds a tensor that is neither parameter nor buffer, as an attribute or in a container."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        table = torch.randn(5, 6)
        self.kind = kind
        if kind == "tensor":
            self.pos_embedding = table
        elif kind == "array":
            self.size_table = table.numpy()
        elif kind == "list":
            self.hidden_tables = [table, table]
        else:
            self.hidden_table = (8, table)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held: Any = getattr(
            self,
            {"tensor": "pos_embedding", "array": "size_table", "list": "hidden_tables"}.get(self.kind, "hidden_table"),
        )
        table = held[1] if isinstance(held, (list, tuple)) else torch.as_tensor(held)
        return self.b(torch.relu(self.a(x + table.to(x.dtype))))


@pytest.mark.parametrize("kind", ["tensor", "array", "list", "tuple"])
def test_a_plain_tensor_as_an_attribute_is_no_size(kind: str) -> None:
    g = wl.widen(Plain(kind), {"a": 11}, X)
    assert g.error <= TOLERANCE
    assert g.model.a.out_features == 11


class Heads(nn.Module):
    """Heads whose number stands in an attribute of a name that nothing knows, beside another one of the same value."""

    def __init__(self, name: str = "num_heads") -> None:
        super().__init__()
        self.name, self.rank = name, 3
        setattr(self, name, 3)
        self.lin, self.att, self.out = (
            nn.Linear(6, 12, bias=False),
            nn.Parameter(torch.randn(1, 3, 4)),
            nn.Linear(12, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.rank == 3  # must not be followed
        h = self.lin(x).view(-1, getattr(self, self.name), 4)
        weight = torch.softmax((h * self.att).sum(-1), 0)
        return self.out((h * weight[..., None]).reshape(-1, getattr(self, self.name) * 4))


@pytest.mark.parametrize("name", ["num_heads", "heads", "n", "copies"])
def test_of_two_attributes_with_one_value_the_right_one_is_followed(name: str) -> None:
    g = wl.widen(Heads(name), {"lin": 5}, X)
    assert getattr(g.model, name) == 5
    assert g.model.rank == 3
    assert g.error <= TOLERANCE


class Sum(nn.Module):
    """A size that can only be known by being told: it is made of two others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(6, 5), nn.Linear(13, 3)
        self.total = 13 * 7

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat([torch.relu(self.a(x)), torch.relu(self.b(x))], -1)
        return self.c(both.view(-1, self.total // 7))


def test_what_only_the_user_knows_is_asked_for_and_taken() -> None:
    with pytest.raises(
        CannotGrow,
        match=r"test_growth_refusals.py:\d+ in the model says `return self.c\(both.view\(-1, self.total // 7\)\)`.*total = 91",
    ):
        wl.widen(Sum(), {"a": 11}, X)
    net = nn.Sequential(Sum())
    g = wl.widen(net, {"0.a": 11}, X, attributes={"0.total": 16 * 7})
    assert g.error <= TOLERANCE
    assert (g.model[0].total, net[0].total) == (112, 91)
    assert "set 0.total: 91 -> 112" in str(g)
    with pytest.raises(CannotGrow, match=r"does not run"):
        wl.widen(net, {"0.a": 11}, X, attributes={"0.total": 17 * 7})
    for path in ("0.totl", "1.total", "total"):
        with pytest.raises(InvalidArgument, match=r"attributes: .*nearest"):
            wl.widen(net, {"0.a": 11}, X, attributes={path: 7})


def test_a_size_written_in_the_code_is_shown_with_its_line() -> None:
    class Hard(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x)).view(-1, 8))

    with pytest.raises(
        CannotGrow, match=r":\d+ in inner says `return self.b.*; the size is written in the code itself"
    ):
        wl.widen(_Outer(Hard()), {"inner.a": 11}, X)


class _Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


# ---- tied weights


class Tied(nn.Module):
    def __init__(self, copies: int = 1) -> None:
        super().__init__()
        self.embeds = nn.ModuleList(nn.Embedding(7, 6) for _ in range(copies))
        self.mid, self.head = nn.Linear(6, 6), nn.Linear(6, 7, bias=False)
        for e in self.embeds:
            e.weight = self.head.weight

    def forward(self, i: torch.Tensor) -> torch.Tensor:
        x = sum(e(i) for e in self.embeds)
        return self.head(x + torch.tanh(self.mid(x)))


IDS = torch.randint(0, 7, (4, 5), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_tied_embeddings_are_taken_apart_when_that_is_said(copies: int, kind: type[torch.optim.Optimizer]) -> None:
    model = Tied(copies)
    optimizer = kind(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(IDS).flatten(0, 1), IDS.flatten()).backward()
        optimizer.step()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(CannotGrow, match=r"untie=True"):
        wl.widen(model, {"embeds.0": 9}, IDS)
    g = wl.widen(model, {"embeds.0": 9}, IDS, untie=True, optimizer=optimizer)
    assert g.error <= TOLERANCE
    assert g.model.head.weight is not g.model.embeds[0].weight
    assert all(e.weight is g.model.embeds[0].weight for e in g.model.embeds)
    assert model.head.weight is model.embeds[0].weight
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert g.origin["head.weight"] == "embeds.0.weight"
    assert "head.weight is no longer embeds.0.weight" in str(g)
    held = [p for group in g.optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, g.model.parameters()))
    nn.functional.cross_entropy(g.model(IDS).flatten(0, 1), IDS.flatten()).backward()
    g.optimizer.step()


def test_nothing_to_untie_is_said() -> None:
    with pytest.raises(InvalidArgument, match=r"no two layers of different kinds"):
        wl.widen(nets.mlp(), {"0": 9}, nets.vectors(), untie=True)


# ---- tensors that no example reaches


class Tokens(nn.Module):
    def __init__(self, head: bool = False) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 3)
        self.mask_token = nn.Parameter(torch.randn(1, 1, 8))
        if head:
            self.value = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        h = self.up(x)
        return self.down(
            torch.relu(h if mask is None else torch.where(mask[..., None], self.mask_token.to(h.dtype), h))
        )


def test_an_unused_token_stops_nothing_and_is_told() -> None:
    x, mask = torch.randn(4, 5, 6), torch.rand(4, 5) > 0.5
    g = wl.widen(Tokens(), {"up": 11}, x)
    assert g.model.mask_token.shape == (1, 1, 8)
    assert any("mask_token was never used" in n for n in g.certificate.notes)
    with pytest.raises(RuntimeError):  # loudly, not something else
        g.model(x, mask)
    g = wl.widen(Tokens(), {"up": 11}, x, (x, mask))
    assert g.model.mask_token.shape == (1, 1, 11)
    assert not any("never used" in n for n in g.certificate.notes)
    with pytest.raises(CannotGrow, match=r"value.weight was never used"):
        wl.widen(Tokens(head=True), {"up": 11}, x)


@pytest.mark.parametrize("kind", ["attribute", "buffer", "inside"])
def test_a_constant_that_fixes_units_is_named(kind: str) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.inner = nn.Linear(6, 8), nn.Linear(8, 2), nn.Identity()
            if kind == "buffer":
                self.register_buffer("shift", torch.randn(8), persistent=False)
            else:
                (self if kind == "attribute" else self.inner).shift = torch.randn(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.tanh(self.a(x) + (self.inner if kind == "inside" else self).shift))

    name = "inner.shift" if kind == "inside" else "shift"
    with pytest.raises(UnknownTensor, match=rf"what 'a' puts out is fixed: constant tensor {name} \(no parameter"):
        wl.widen(Shifted(), {"a": 12}, X)


# ---- rounding


def test_the_tolerance_grows_with_depth_and_says_so() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(50) for layer in (nn.Linear(24, 24), nn.Tanh())]
    deep = nn.Sequential(*layers, nn.Linear(24, 3))
    with torch.no_grad():
        for p in deep.parameters():
            p.mul_(3.0 if p.ndim == 2 else 1.0)  # rounding is carried on, not forgotten
    x = torch.randn(16, 24)
    g = wl.widen(deep, {"0": 30, "50": 36}, x)
    assert g.certificate.tolerance == pytest.approx(51 / SHALLOW * TOLERANCE)
    assert any("rounding adds up with depth: 5.1e-12" in n for n in g.certificate.notes)
    trial = Trial.of(deep, [x])
    deep[0].bias.data[0] += 1e-6
    assert max(c.error for c in trial.checks(lambda m: m, deep, own_only=True)) > g.certificate.tolerance
    assert wl.widen(nets.mlp(), {"0": 9}, nets.vectors()).certificate.tolerance == TOLERANCE


class Magnifying(nn.Module):
    """A norm over a batch whose values hardly differ: what it puts out is mostly the rounding of what goes in."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.norm = nn.Linear(6, 8), nn.Linear(8, 6), nn.BatchNorm1d(6, eps=1e-30)
        self.o = nn.Linear(6, 3)
        with torch.no_grad():
            self.b.weight.mul_(spread)
            self.b.bias.fill_(3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(torch.relu(self.norm(self.b(torch.tanh(self.a(x))))))


@pytest.mark.parametrize("spread, error, allowed", [
    (1e-6, 1e-10, True), (1e-5, 1e-11, True), (1e-6, 1e-8, False), (1.0, 1e-10, False), (1.0, 1e-11, False),
])  # fmt: skip
def test_what_a_network_magnifies_is_measured_and_allowed(spread: float, error: float, allowed: bool) -> None:
    trial = Trial.of(Magnifying(spread), [X])
    worst = Check("examples", "train", "own", error)
    assert trial.allows(worst, trial.limit) is allowed
    assert any("magnifies rounding" in n for n in trial.notes) is allowed
    assert (trial.tolerance > error) is allowed
    assert trial.tolerance <= MAGNIFIED


def test_a_true_difference_is_refused_also_where_rounding_is_magnified() -> None:
    class Wrong(Magnifying):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.tanh(self.a(x))
            return self.o(torch.relu(self.norm(self.b(h)))) + 1e-7 * (h.shape[-1] - 8)

    with pytest.raises(CannotGrow, match=r"would differ by .*; 1.0e-12 is allowed"):
        wl.widen(Wrong(1e-6), {"a": 11}, X)


# ---- forwards that let no gradient through


class Overwrites(nn.Module):
    """Changes in place what autograd would need."""

    def __init__(self, how: str, dead: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.o, self.how = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3), how
        if dead:
            nn.init.constant_(self.a.bias, -100.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.sigmoid(self.b(torch.relu(self.a(x))))
        y = self.o(z) + x.sum(-1, keepdim=True)
        if self.how == "scaled":
            z.mul_(2)
        elif self.how == "row":
            z[0] = 0
        else:
            z.select(1, 0).add_(1)
        return y


@pytest.mark.parametrize("how", ["scaled", "row", "column"])
def test_units_are_not_counted_where_no_gradients_can_be_taken(how: str) -> None:
    g = wl.widen(Overwrites(how), {"a": 11}, X)
    assert g.certificate.live == {}
    assert any("live units were not counted" in n for n in g.certificate.notes)
    with pytest.raises(VacuousComparison, match="not one unit of 'a'"):
        wl.widen(Overwrites(how, dead=True), {"a": 11}, X)


# ---- numbers that are none


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("verb", ["widen", "deepen", "narrow"])
def test_a_weight_that_is_no_number_is_named(bad: float, verb: str) -> None:
    for name in ("0.weight", "2.bias"):
        model = nets.mlp()
        model.state_dict()[name].view(-1)[1] = bad
        with pytest.raises(CannotGrow, match=rf"{name} holds {'NaN' if bad != bad else 'Inf'} \(1 of"):
            _grow(verb, model)


@pytest.mark.parametrize("verb", ["widen", "deepen", "narrow"])
def test_a_network_without_values_is_named(verb: str) -> None:
    with pytest.raises(CannotGrow, match=r"0.weight is on the meta device"):
        _grow(verb, nets.mlp().to("meta"))


def _grow(verb: str, model: nn.Module) -> Any:
    x = nets.vectors()
    return {
        "widen": lambda: wl.widen(model, {"0": 9}, x),
        "deepen": lambda: wl.deepen(model, x, after="0"),
        "narrow": lambda: wl.narrow(model, x),
    }[verb]()


def test_infinite_masks_are_no_weights() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)
            self.register_buffer("mask", torch.triu(torch.full((4, 4), float("-inf")), 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.down(torch.relu(self.up(x)))[:, None] + self.mask, -1)

    assert wl.widen(Masked(), {"up": 9}, nets.vectors()).error <= TOLERANCE


# ---- heads of published language models

_SHORT = {"vocab_size": 40, "use_cache": False, "bos_token_id": 0, "eos_token_id": 0}
_BLOCKS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
}
MODELS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "GPTJ": (
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 32, "tie_word_embeddings": False},
        {"transformer.h.0.attn.q_proj": 8},
    ),
    "StableLm": (_BLOCKS, {"model.layers.1.self_attn.q_proj": 8}),
    "Llama": (_BLOCKS, {"model.layers.0.self_attn.q_proj": 8}),
    "Phi3": (
        _BLOCKS | {"pad_token_id": 0},
        {"model.layers.0.self_attn.qkv_proj": 8, "model.layers.1.self_attn.qkv_proj": 8},
    ),
    "Mamba2": (
        {
            "hidden_size": 32,
            "num_heads": 16,
            "head_dim": 4,
            "state_size": 12,
            "n_groups": 1,
            "num_hidden_layers": 2,
            "chunk_size": 5,
        },
        {"backbone.layers.0.mixer.in_proj": 32},
    ),
}


def _language_model(name: str) -> tuple[nn.Module, torch.Tensor]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(
        getattr(transformers, f"{name}Config")(**_SHORT, **MODELS[name][0])
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model.eval(), torch.randint(0, 40, (2, 7))


@pytest.mark.parametrize("name", MODELS)
def test_heads_of_language_models_grow(name: str) -> None:
    model, ids = _language_model(name)
    g = wl.widen(model, MODELS[name][1], ids)
    assert g.error <= 1e-12
    with torch.no_grad():
        torch.testing.assert_close(g.model(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_config_that_all_blocks_read_is_named() -> None:
    model, ids = _language_model("Phi3")
    with pytest.raises(
        CannotGrow, match=r"config.num_attention_heads = 4.*widen the same layer of each block in one call"
    ):
        wl.widen(model, {"model.layers.0.self_attn.qkv_proj": 8}, ids)


# ---- heads that share others


class Shared:
    """What every block reads its numbers of heads from."""

    def __init__(self, heads: int, pairs: int) -> None:
        self.num_attention_heads, self.num_kv_heads = heads, pairs


class Grouped(nn.Module):
    """Grouped queries: ``heads`` query heads, of which each ``heads // pairs`` share keys and values."""

    def __init__(self, heads: int, pairs: int, config: Shared | None = None) -> None:
        super().__init__()
        self.q, self.kv, self.o = nn.Linear(6, heads * 3), nn.Linear(6, pairs * 6), nn.Linear(heads * 3, 6)
        if config is None:
            self.n_heads, self.n_kv_heads = heads, pairs
        else:
            self.config = config

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = vars(self).get("config")
        heads, pairs = (
            (self.n_heads, self.n_kv_heads) if held is None else (held.num_attention_heads, held.num_kv_heads)
        )
        q = self.q(x).view(*x.shape[:2], heads, 3).transpose(1, 2)
        k, v = self.kv(x).view(*x.shape[:2], pairs, 2, 3).permute(3, 0, 2, 1, 4)
        k, v = (t.repeat_interleave(heads // pairs, 1) for t in (k, v))
        seen = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        return x + self.o(seen.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("heads, pairs, more", [(4, 2, 3), (6, 2, 5), (9, 3, 4)])
def test_more_shared_heads_are_more_heads(heads: int, pairs: int, more: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6)
    model = Grouped(heads, pairs)
    (group,) = [g.name for g in wl.trace(model, x).groups if g.parent is None and g.size == pairs]
    g = wl.widen(model, {group: more}, x)
    assert (g.model.n_heads, g.model.n_kv_heads) == (heads // pairs * more, more)
    assert g.error < TOLERANCE

    config = Shared(heads, pairs)
    blocks = nn.Sequential(Grouped(heads, pairs, config), Grouped(heads, pairs, config))
    names = [g.name for g in wl.trace(blocks, x).groups if g.parent is None and g.size == pairs]
    with pytest.raises(CannotGrow):  # the other block reads the same config
        wl.widen(blocks, {names[0]: more}, x)
    g = wl.widen(blocks, dict.fromkeys(names, more), x)
    grown = g.model[0].config
    assert (grown.num_attention_heads, grown.num_kv_heads) == (heads // pairs * more, more)
    assert (config.num_attention_heads, config.num_kv_heads) == (heads, pairs)

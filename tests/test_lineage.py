"""``wl.lineage``: relatives and strangers told apart by their weights, and a p-value that is uniform under the null."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from tests.planted_bases import in_other_bases, network, noisy, wiring_of
from weightlapse.cli import main
from weightlapse.differences.partners import ALPHA, at_least

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
nn = torch.nn
State = dict[str, np.ndarray]


def stranger(seed: int) -> State:
    rng = np.random.default_rng(seed)
    shapes = {
        "embed": (50, 24),
        "0.up": (40, 24),
        "0.down": (24, 40),
        "1.up": (40, 24),
        "1.down": (24, 40),
        "head": (50, 24),
        "norm": (24,),
    }
    return {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def relatives(a: State, rng: np.random.Generator) -> dict[str, State]:
    """Made from ``a``: noised, pruned, trained on (a drift of low rank), renumbered, turned."""
    order, hidden = rng.permutation(24), rng.permutation(40)
    q = np.linalg.qr(rng.normal(size=(24, 24)))[0].astype(np.float32)

    def renumbered(n: str, v: np.ndarray) -> np.ndarray:
        if v.ndim == 1:
            return v[order]
        v = v[order] if n.endswith("down") else v[:, order]
        return v[:, hidden] if n == "0.down" else v[hidden] if n == "0.up" else v

    def turned(n: str, v: np.ndarray) -> np.ndarray:
        return v if v.ndim == 1 else q @ v if n.endswith("down") else v @ q.T

    def trained(v: np.ndarray) -> np.ndarray:
        return (
            v
            if v.ndim == 1
            else v + (rng.normal(size=(v.shape[0], 2)) @ rng.normal(size=(2, v.shape[1]))).astype(v.dtype)
        )

    return {
        "noised": {n: v + 0.7 * rng.normal(size=v.shape).astype(v.dtype) for n, v in a.items()},
        "pruned": {n: np.where(np.abs(v) < 0.7, 0, v) for n, v in a.items()},
        "trained": {n: trained(v) for n, v in a.items()},
        "renumbered": {n: renumbered(n, v) for n, v in a.items()},
        "turned": {n: turned(n, v) for n, v in a.items()},
        "renumbered and noised": {
            n: renumbered(n, v) + 0.3 * rng.normal(size=v.shape).astype(v.dtype) for n, v in a.items()
        },
        "widened": {n: np.concatenate([v, v[:8]], axis=0) if n == "0.up" else v for n, v in a.items()},
    }


@pytest.mark.parametrize("seed", range(3))
def test_relatives_are_derived(seed: int) -> None:
    a = stranger(seed)
    for kind, b in relatives(a, np.random.default_rng(seed)).items():
        found = wl.lineage(a, b)
        assert found.verdict == "derived", (kind, found)
        assert found.p_value <= ALPHA
        assert wl.lineage(b, a).verdict == "derived", kind


def test_strangers_are_independent_and_their_p_values_uniform() -> None:
    from scipy.stats import kstest

    states = [stranger(100 + i) for i in range(40)]
    found = [wl.lineage(a, b, seed=i) for i, (a, b) in enumerate(zip(states[::2], states[1::2]))]
    assert {f.verdict for f in found} == {"independent"}
    assert kstest([f.p_value for f in found], "uniform").pvalue > 0.01
    assert max(f.agreement or 0 for f in found) < 0.3


def test_with_a_wiring_a_copy_is_called_the_same() -> None:
    net = network("llama")
    w, a = wiring_of("llama"), {n: v.clone() for n, v in net.state_dict().items()}
    for kinds in (("order",), ("order", "signs", "rotations", "heads")):
        found = wl.lineage(a, in_other_bases(a, w, np.random.default_rng(0), kinds), w)
        assert found.verdict == "same up to symmetry"
        assert found.p_value < ALPHA
        assert "another guise" in found.explain()
    assert wl.lineage(a, a, w).verdict == "same up to symmetry"
    assert wl.lineage(a, network("llama", 9).state_dict(), w).verdict == "independent"


def test_the_bound_of_fixed_points_against_counting() -> None:
    for n in (3, 5):
        fixed = [sum(i == p for i, p in enumerate(q)) for q in itertools.permutations(range(n))]
        for k in range(n + 1):
            share = sum(f >= k for f in fixed) / len(fixed)
            assert share <= at_least(k, n, n) + 1e-12
            assert at_least(k, n, n) == pytest.approx(1 / math.factorial(k))
    choices = list(itertools.permutations(range(5), 3))
    assert sum(q[:2] == (0, 1) for q in choices) / len(choices) <= at_least(2, 3, 5)


def test_checkpoints_on_disk_and_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.numpy import save_file

    a = stranger(0)
    made = relatives(a, np.random.default_rng(0))
    for name, state in {"a": a, "b": made["renumbered"], "c": stranger(1)}.items():
        (tmp_path / name).mkdir()
        save_file({n: np.ascontiguousarray(v) for n, v in state.items()}, tmp_path / name / "model.safetensors")
    with pytest.raises(SystemExit) as done:
        main(["lineage", str(tmp_path / "a"), str(tmp_path / "b"), "--json"])
    assert done.value.code == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "derived"
    with pytest.raises(SystemExit) as done:
        main(["lineage", str(tmp_path / "a"), str(tmp_path / "c" / "model.safetensors")])
    assert done.value.code == 1
    assert "Independent" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused() -> None:
    a = stranger(0)
    with pytest.raises(wl.InvalidArgument, match="no matrices of one name"):
        wl.lineage(a, {f"other.{n}": v for n, v in a.items()})
    with pytest.raises(wl.InvalidArgument, match="all square"):
        wl.lineage({"w": np.eye(8)}, {"w": np.eye(8)})
    broken = {n: v.copy() for n, v in a.items()}
    broken["head"][3, 3] = np.nan
    with pytest.raises(wl.CannotAlign, match="head"):
        wl.lineage(a, broken)


def mlp(seed: int, *sizes: int, activation: Any = nn.ReLU) -> Any:
    torch.manual_seed(seed)
    layers = [layer for n, m in itertools.pairwise(sizes) for layer in (nn.Linear(n, m), activation())]
    return nn.Sequential(*layers[:-1])


def copied(net: Any, w: wl.Wiring, noise: float) -> dict[str, Any]:
    """All groups renumbered, and noise of so many standard deviations of each tensor."""
    rng = np.random.default_rng(1)
    state = {
        n: v + noise * v.std() * torch.from_numpy(rng.normal(size=tuple(v.shape))).float()
        for n, v in net.state_dict().items()
    }
    for g in w.groups:
        state = wl.permute(state, w, g.name, rng.permutation(g.size))
    return state


class Series(nn.Module):  # type: ignore[misc]
    """Features in, the same features out, around a stream."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.inp, self.up, self.down, self.out = (
            nn.Linear(12, 32),
            nn.Linear(32, 48),
            nn.Linear(48, 32),
            nn.Linear(32, 12),
        )

    def forward(self, x: Any) -> Any:
        h = self.inp(x)
        return self.out(h + self.down(torch.relu(self.up(h))))


SAME_ENDS = {
    "10-32-10": (lambda s: mlp(s, 10, 32, 10), 10),
    "autoencoder": (lambda s: mlp(s, 64, 128, 64), 64),
    "deep autoencoder": (lambda s: mlp(s, 20, 32, 16, 32, 20, activation=nn.Tanh), 20),
    "series": (Series, 12),
}


@pytest.mark.parametrize("kind", SAME_ENDS)
def test_inputs_and_outputs_of_one_size_are_not_hidden_units(kind: str) -> None:
    from scipy.stats import kstest

    make, features = SAME_ENDS[kind]
    w = wl.trace(make(0), torch.rand(3, features))
    found = [wl.lineage(make(2 * i), make(2 * i + 1), w, seed=i) for i in range(12)]
    assert {f.verdict for f in found} == {"independent"}
    assert kstest([f.p_value for f in found], "uniform").pvalue > 0.01
    assert max(f.agreement or 0 for f in found) < 0.4
    assert wl.lineage(make(0), copied(make(0), w, 0.02), w).verdict == "derived"
    try:  # without a wiring: either the right units, or a wiring is asked for
        plain = wl.lineage(make(0), make(1))
    except wl.InvalidArgument:
        with pytest.raises(wl.InvalidArgument, match="pass wiring="):
            wl.lineage(make(0), make(1))
    else:
        assert plain.verdict == "independent"
        assert plain.units in {32, 128} - {features}


@pytest.mark.parametrize("sizes", [(4, 32, 32, 3), (6, 40, 2), (5, 16, 24, 16, 4)])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_renumbered_and_noised_networks_are_derived(sizes: tuple[int, ...], activation: Any) -> None:
    net = mlp(0, *sizes, activation=activation)
    w = wl.trace(net, torch.randn(3, sizes[0]))
    for noise in (1e-3, 0.05):
        found = wl.lineage(net, copied(net, w, noise), w)
        assert found.verdict == "derived"
        assert found.p_value is not None
        assert found.p_value <= ALPHA
    exact = wl.lineage(net, copied(net, w, 0), w)
    assert exact.verdict == "same up to symmetry"
    assert exact.p_value is None or exact.p_value <= ALPHA
    assert wl.lineage(net, mlp(1, *sizes, activation=activation), w).verdict == "independent"


def _sized(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1,
    } | more  # fmt: skip


TRANSFORMERS = {
    "bert": lambda t: t.BertForMaskedLM(t.BertConfig(**_sized())),
    "phi3": lambda t: t.Phi3ForCausalLM(t.Phi3Config(**_sized(num_key_value_heads=2))),
    "mixtral": lambda t: t.MixtralForCausalLM(
        t.MixtralConfig(
            **_sized(num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=4, num_hidden_layers=1)
        )
    ),
    "llama": lambda t: t.LlamaForCausalLM(t.LlamaConfig(**_sized(num_key_value_heads=2, tie_word_embeddings=True))),
}


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_copies_of_transformers_are_derived(family: str) -> None:
    import transformers

    def made(seed: int) -> Any:
        torch.manual_seed(seed)
        net = TRANSFORMERS[family](transformers).eval()
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(1 + 0.2 * torch.randn_like(p) if p.ndim == 1 else torch.randn_like(p) / p.shape[-1] ** 0.5)
        return net

    ids = {"input_ids": torch.randint(0, 50, (3, 7)), **({} if family == "bert" else {"use_cache": False})}
    net = made(0)
    w, a = wl.trace(net, ids), {n: v.clone() for n, v in net.state_dict().items()}
    for kinds in (("order",), ("order", "signs", "rotations", "heads")):
        rng = np.random.default_rng(2)
        found = wl.lineage(a, in_other_bases(noisy(a, w, rng, 0.05), w, rng, kinds), w)
        assert found.verdict == "derived", found
        assert found.p_value is not None
        assert found.p_value <= ALPHA
    assert wl.lineage(a, made(1).state_dict(), w).verdict == "independent"


def test_fixed_tables_are_no_evidence() -> None:
    table = np.sin(np.arange(64)[:, None] / 100 ** (np.arange(24) / 24))
    for name in ("pe", "embed_positions.weight", "a.table"):
        a, b = ({**stranger(s), name: table.astype(np.float32)} for s in (0, 1))
        found = wl.lineage(a, b)
        assert found.verdict == "independent"
        assert any(name in n for n in found.notes)
        near = {**relatives(a, np.random.default_rng(0))["noised"], name: a[name]}
        assert wl.lineage(a, near).verdict == "derived"
    a = stranger(0)
    frozen = {**a, "head": stranger(1)["head"]}  # a new head on what was learned before
    assert wl.lineage(a, frozen).verdict == "derived"


@pytest.mark.parametrize("seed", range(2))
def test_taps_of_kernels_are_not_units(seed: int) -> None:
    def lenet(s: int) -> dict[str, Any]:
        torch.manual_seed(s)
        layers = nn.ModuleDict(
            {
                "c1": nn.Conv2d(1, 6, 5),
                "c2": nn.Conv2d(6, 16, 5),
                "f1": nn.Linear(400, 120),
                "f2": nn.Linear(120, 84),
                "f3": nn.Linear(84, 10),
            }
        )
        return dict(layers.state_dict())

    def chain(s: int, k: int) -> dict[str, Any]:
        torch.manual_seed(s)
        sizes = (3, 16, 24, 32, 5)
        return dict(nn.Sequential(*(nn.Conv1d(n, m, k) for n, m in itertools.pairwise(sizes))).state_dict())

    def keras(s: int) -> dict[str, Any]:
        rng = np.random.default_rng(s)
        shapes = {"c1/kernel": (7, 7, 3, 16), "c2/kernel": (7, 7, 16, 24), "c3/kernel": (7, 7, 24, 32)}
        return {n: rng.normal(size=v) for n, v in shapes.items()}

    for make, units in ((lenet, {120, 84, 6}), (lambda s: chain(s, 7), {16, 24, 32}), (keras, {16, 24})):
        a, b = make(2 * seed), make(2 * seed + 1)
        far, near = wl.lineage(a, b), wl.lineage(a, {n: v * 1.01 for n, v in a.items()})
        assert far.units in units
        assert far.verdict == "independent"
        assert far.p_value == far.as_they_stand > 1e-3
        assert "a renumbered copy would not have been found" in str(far)
        assert near.verdict == "derived"


def test_verdict_and_p_value_agree_and_networks_without_information_are_refused() -> None:
    net = mlp(0, 4, 32, 3)
    same = wl.lineage(net, net)
    assert same.verdict == "same up to symmetry"
    assert same.p_value is None or same.p_value <= ALPHA
    for value in (0.0, 1.0, -3.5):
        flat = {n: torch.full_like(v, value) for n, v in net.state_dict().items()}
        with pytest.raises(wl.VacuousComparison, match="tells nothing"):
            wl.lineage(flat, flat)
    weights = net.state_dict()
    alike = {"0.weight": weights["0.weight"][:1].repeat(32, 1), "2.weight": weights["2.weight"][:, :1].repeat(1, 32)}
    assert wl.lineage(alike, {n: 1.5 * v for n, v in alike.items()}).verdict != "derived"  # units that are all alike


def test_bad_seeds_and_huge_values() -> None:
    net = mlp(0, 4, 32, 32, 3)
    w = wl.trace(net, torch.randn(3, 4))
    for seed in (-1, 1.5, "a"):
        with pytest.raises(wl.InvalidArgument, match="seed"):
            wl.lineage(net, net, seed=seed)  # type: ignore[arg-type]
    for factor in (1e200, 1e290):
        a, b = ({n: v.double() * factor for n, v in s.items()} for s in (net.state_dict(), copied(net, w, 0.01)))
        assert wl.lineage(a, b, w).verdict == "derived"
        assert wl.lineage(a, {n: 1.01 * v for n, v in a.items()}).verdict == "derived"
        assert (
            wl.lineage(a, {n: v.double() * factor for n, v in mlp(1, 4, 32, 32, 3).state_dict().items()}, w).verdict
            == "independent"
        )


class Recurrent(nn.Module):  # type: ignore[misc]
    def __init__(self, kind: str, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.cell, self.head = getattr(nn, kind)(5, 16, batch_first=True), nn.Linear(16, 6)

    def forward(self, x: Any) -> Any:
        return self.head(self.cell(x)[0])


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_recurrent_networks(kind: str) -> None:
    a, b = Recurrent(kind, 0), Recurrent(kind, 1)
    w = wl.trace(a, torch.randn(2, 4, 5))
    near = {n: v + 0.01 * torch.randn_like(v) for n, v in a.state_dict().items()}
    for other in (near, copied(a, w, 0.02)):
        assert wl.lineage(a, other, w).verdict == "derived"
    far = wl.lineage(a, b, w)
    assert far.verdict == "independent"
    assert far.units == 16


def test_streams_are_told_from_hidden_units() -> None:
    from weightlapse.differences.partners import carried

    class Residual(nn.Module):
        def __init__(self, first: int, last: int) -> None:
            super().__init__()
            self.into, self.up = nn.Linear(first, 16), nn.Linear(16, 24)
            self.down, self.out = nn.Linear(24, 16), nn.Linear(16, last)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.into(x)
            return self.out(x + self.down(torch.relu(self.up(x))))

    chain = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))
    recurrent = wl.trace(nn.LSTM(5, 7, batch_first=True), torch.rand(2, 4, 5))
    assert carried(wl.trace(Residual(6, 3), torch.rand(4, 6))) == {"into"}
    assert carried(wl.trace(chain, torch.rand(4, 6))) == set()
    assert carried(recurrent) == set()


def test_strangers_that_learnt_the_same_are_independent() -> None:
    """What reads a stream and what makes it fit together by what was learnt: no sign of one start."""
    draw = np.random.default_rng(0)
    follow = np.linalg.qr(draw.normal(size=(60, 60)))[0]  # what each of 60 words says of the next

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.up = nn.Embedding(60, 24), nn.Linear(24, 40)
            self.down, self.head = nn.Linear(40, 24, bias=False), nn.Linear(24, 60, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.embed(x)
            return self.head(x + self.down(torch.relu(self.up(x))))

    nets = []
    for seed in range(4):
        torch.manual_seed(seed)
        net = Words()
        with torch.no_grad():
            net.head.weight.copy_(torch.from_numpy(follow).float() @ net.embed.weight)
        nets.append(net)
    wiring = wl.trace(nets[0], torch.tensor([[1, 2, 3]]))
    found = [wl.lineage(a, b, wiring) for i, a in enumerate(nets) for b in nets[:i]]
    assert {f.verdict for f in found} == {"independent"}


@pytest.mark.parametrize("copy", ["noise", "same", "stranger", "renumbered"])
def test_keras_names_are_matched_by_structure(copy):
    rng = np.random.default_rng(3)
    shapes = {"dense/kernel": (9, 24), "dense/bias": (24,), "dense_1/kernel": (24, 24), "dense_2/kernel": (24, 5)}
    a = {f"sequential/{n}": rng.normal(size=s) for n, s in shapes.items()}
    lines = [f"tensor {n} {v.shape if v.ndim > 1 else f'({len(v)})'}" for n, v in a.items()]
    for group, made, read in (
        ("h", ("dense/kernel[1]", "dense/bias[0]"), "dense_1"),
        ("g", ("dense_1/kernel[1]",), "dense_2"),
    ):
        lines += [
            f"group {group}: 24 units, permutation",
            *(f"  sequential/{m}: out" for m in made),
            f"  sequential/{read}/kernel[0]: in",
        ]
    spec = wl.Wiring.from_spec(
        "\n".join([*lines, "fixed sequential/dense/kernel[0]: input", "fixed sequential/dense_2/kernel[1]: output"])
    )
    noise = {"noise": 0.3, "same": 0.0, "stranger": 1.0, "renumbered": 0.0}[copy]
    b = {n: (1 - (copy == "stranger")) * v + noise * rng.normal(size=v.shape) for n, v in a.items()}
    if copy == "renumbered":
        b = wl.permute(wl.permute(b, spec, "h", rng.permutation(24)), spec, "g", rng.permutation(24))
    moved = {"dense": "dense_7", "dense_1": "dense_8", "dense_2": "dense_9"}
    other = {f"sequential_4/{moved[n.split('/')[1]]}/{n.split('/')[2]}": v for n, v in b.items()}
    expected = {
        "noise": "derived",
        "same": "same up to symmetry",
        "stranger": "independent",
        "renumbered": "same up to symmetry",
    }
    assert wl.lineage(a, other, wiring=spec).verdict == expected[copy]
    assert wl.lineage(a, other, wiring=spec).verdict == wl.lineage(a, b, wiring=spec).verdict


def test_names_that_no_structure_matches_are_refused():
    a = {"one/kernel": np.eye(3), "two/kernel": np.eye(4)}
    with pytest.raises(wl.InvalidArgument, match="no matrices of one name"):
        wl.lineage(a, {"first/weight": np.eye(3), "second/weight": np.eye(4)})

"""Double precision on single weights: the same numbers as a copy in float64, and nothing written."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.zoo import ZOO
from weightlapse.growth.running import call, in_precision, same_draws, tensors_in
from weightlapse.wiring.double import WritesWeights, in_double, shared_buffers, with_wide_parts
from weightlapse.wiring.twin import at_rest, twin

CASTS = {
    "hf_llama",
    "hf_t5",
    "hf_gpt_neox",
    "hf_mixtral_batched_mm",
    "hf_mixtral_eager",
}  # they cast to float32 themselves: a copy in float64 rounds there


SINGLE_ONLY = {
    "experts_grouped",
    "experts_grouped_gated",
    "hf_mixtral_grouped_mm",
}  # torch has no grouped product in float64


def outputs(model: nn.Module, example: object) -> list[torch.Tensor]:
    with torch.no_grad(), same_draws():
        return tensors_in(call(model, in_precision(example, torch.float64)))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # copying scripted modules
@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_network_computes_what_its_copy_in_float64_does(name: str) -> None:
    case = ZOO[name]
    model, example = case.make().eval(), case.examples[0]
    before = {n: t.detach().clone() for n, t in model.state_dict().items()}
    other = with_wide_parts(at_rest(model))
    if name in SINGLE_ONLY:
        with (
            in_double(kept=list(other.parameters())),
            shared_buffers(),
            pytest.raises(RuntimeError, match="Expected mat_a"),
        ):
            outputs(other, example)
        return
    with in_double(kept=list(other.parameters())) as seen, shared_buffers():
        got = outputs(other, example)
    want = outputs(twin(model, own_weights=True).double(), example)
    assert len(got) == len(want) > 0
    for a, b in zip(want, got, strict=True):
        assert a.dtype == b.dtype
        if a.is_floating_point() and a.numel():
            assert (a - b).abs().max() <= (1e-6 if name in CASTS else 1e-13) * a.abs().max()
        else:
            assert torch.equal(a, b)
    assert seen.casts or name not in CASTS - {"hf_gpt_neox"}  # that one rounds a buffer, which is narrow here
    assert not seen.rounds
    assert seen.steps
    for n, t in model.state_dict().items():
        assert torch.equal(t, before[n])
        assert t.dtype == before[n].dtype


def test_the_comparison_sees_single_precision() -> None:
    case = ZOO["lenet"] if "lenet" in ZOO else next(iter(ZOO.values()))
    model = case.make().eval()
    with torch.no_grad():
        low = tensors_in(call(model, case.examples[0]))
    assert any(
        (a.double() - b).abs().max() > 1e-13
        for a, b in zip(low, outputs(copy.deepcopy(model).double(), case.examples[0]))
    )


def test_a_forward_that_writes_into_a_weight_is_stopped_before_it_does() -> None:
    bag = nn.Embedding(5, 3, max_norm=0.1)  # renormalises the rows that it reads, in place
    before = bag.weight.detach().clone()
    with pytest.raises(WritesWeights), in_double(kept=[bag.weight]), torch.no_grad():
        bag(torch.tensor([1, 2]))
    assert torch.equal(bag.weight, before)
    with in_double(), torch.no_grad():
        bag(torch.tensor([1, 2]))
    assert not torch.equal(bag.weight, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_of_wide_tensors_are_those_of_the_copy(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 600), nn.LayerNorm(600), nn.GELU(), nn.Linear(600, 500), nn.Linear(500, 2)).to(
        dtype
    )
    twin = copy.deepcopy(net).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    net.requires_grad_(False)
    net[0].weight = nn.Parameter(net[0].weight.double())
    with in_double(), torch.enable_grad():
        (got,) = torch.autograd.grad(net(x).square().sum(), [net[0].weight])
    (want,) = torch.autograd.grad(twin(x).square().sum(), [twin[0].weight])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_casts_and_rounded_results_are_noticed() -> None:
    net, x = nn.Linear(3, 2), torch.randn(2, 3, dtype=torch.float64)
    with torch.no_grad():
        with in_double() as seen:
            net(x)
        assert not seen.casts
        assert not seen.rounds
        with in_double() as seen:
            assert net(x).float().dtype == torch.float64
        assert seen.casts
        assert not seen.rounds
        low = torch.zeros(4, 2)
        with in_double() as seen:
            low[:2] += net(x)
        assert seen.rounds


def test_results_do_not_live_in_memory_that_is_used_again() -> None:
    weight = nn.Parameter(torch.randn(600, 600))
    with in_double(), torch.no_grad():
        first = torch.relu(weight)
        kept = first.clone()
        torch.tanh(weight * 2)
    assert torch.equal(first, kept)


def test_statistics_in_single_precision_move_as_they_should() -> None:
    norm, x = nn.BatchNorm1d(3), torch.randn(9, 3, dtype=torch.float64)
    twin = copy.deepcopy(norm).double()
    with in_double(), torch.no_grad():
        norm(x)
    twin(x)
    torch.testing.assert_close(norm.running_mean.double(), twin.running_mean, rtol=1e-6, atol=1e-7)
    assert norm.running_mean.dtype == torch.float32


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", ["linear", "rows"])
def test_products_with_huge_matrices_go_in_pieces(bias: bool, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightlapse.wiring.double._PIECE", 1000)
    torch.manual_seed(0)
    w, b, x = torch.randn(301, 70), torch.randn(301), torch.randn(5, 70, dtype=torch.float64)
    matrix = w.t() if layout == "linear" else w.t().contiguous()
    with in_double(), torch.no_grad():
        got = torch.addmm(b, x, matrix) if bias else x @ matrix
    want = x @ matrix.double() + (b.double() if bias else 0)
    torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)

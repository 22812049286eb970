"""Networks whose weights have no values (meta device), are kept on disk, or are whole numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import weightlapse as wl
from tests.framework_presence import require
from tests.oracles_wiring import belongings
from tests.zoo import ZOO
from weightlapse.errors import CannotTrace
from weightlapse.wiring.data import Wiring

# What a copy on the meta device cannot tell: values of buffers that are not made in the forward, ties that moving to meta breaks,
# loops over what a router picked, scripts.
_OTHER = (
    "jit",
    "gpt_tied",
    "hf_t5",
    "hf_gpt2",
    "hf_bert_masked_lm",
    "hf_bart",
    "hf_mixtral_eager",
    "mixture_of_experts",
)
_SAME = [n for n in ZOO if not n.startswith(_OTHER)]
_BLIND = {"experts_loop_over_hit", "experts_grouped_gated", "qkv_bias_buffer", "hf_bert_hidden_states"}


def shape_of(w: Wiring) -> list[tuple[int, bool, list[tuple[str, int, bytes]]]]:
    return sorted(
        (g.size, g.parent is None, sorted((m.tensor, m.axis, m.index.tobytes()) for m in g.members)) for g in w.groups
    )


@pytest.mark.parametrize("name", [n for n in _SAME if n not in _BLIND])
def test_networks_without_values_have_the_same_wiring(name: str) -> None:
    case = ZOO[name]
    real = wl.trace(case.make(), *case.examples, verify=False)
    hollow = wl.trace(case.make().to("meta"), *case.examples)
    assert shape_of(hollow) == shape_of(real)
    assert hollow.report["verified"] is False


def made_on_meta(build: Any) -> nn.Module:
    with torch.device("meta"):
        return build().eval()


def test_llama_and_a_mixture_on_the_meta_device() -> None:
    require("transformers")
    import transformers

    common = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 24,
    }
    ids = {"input_ids": torch.arange(24).reshape(2, 12) % 50}
    for kind, config, more in (
        ("LlamaForCausalLM", "LlamaConfig", {}),
        ("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 3, "num_experts_per_tok": 2}),
    ):

        def build(kind: str = kind, config: str = config, more: dict[str, Any] = more) -> nn.Module:
            return getattr(transformers, kind)(getattr(transformers, config)(**common, **more))

        hollow = wl.trace(made_on_meta(build), ids)
        assert shape_of(hollow) == shape_of(wl.trace(build().eval(), ids, verify=False))
        assert len(hollow.groups) > 6
    empty = {"input_ids": torch.empty(2, 12, dtype=torch.long, device="meta")}
    assert shape_of(wl.trace(made_on_meta(build), empty)) == shape_of(hollow)


def test_what_needs_a_value_is_refused_with_the_operator_and_what_to_do() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x)
            return self.b(h if h.sum() > 0 else -h)

    with pytest.raises(CannotTrace, match=r"reads a value .*to_empty"):
        wl.trace(made_on_meta(Branches), torch.randn(3, 4))
    with pytest.raises(CannotTrace, match=r"cannot be verified: its weights are on the meta device"):
        wl.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to("meta"), torch.randn(3, 4), verify=True)


def test_values_of_inputs_and_constants_are_known() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = torch.ones(8, device=x.device)
            mask[3:] = 0
            h = torch.relu(self.a(x)) * mask
            return self.b(h) if x.sum() > 0 and mask.sum().item() == 3 else self.c(h)

    w = wl.trace(made_on_meta(Asks), torch.ones(3, 4))
    assert sorted(g.size for g in w.groups) == [3, 5]
    assert "c.weight" in w.unseen
    again = wl.trace(made_on_meta(Asks), -torch.ones(3, 4))
    assert "b.weight" in again.unseen


def test_weights_that_are_loaded_for_each_call_stay_where_they_are(tmp_path: Any) -> None:
    require("accelerate")
    import accelerate

    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2)).eval()
    expected = shape_of(wl.trace(net, torch.randn(5, 4), verify=False))
    away = accelerate.disk_offload(net, str(tmp_path), execution_device=torch.device("cpu"))
    assert all(p.is_meta for p in away.parameters())
    before = belongings(away)
    w = wl.trace(away, torch.randn(5, 4))
    assert shape_of(w) == expected
    assert w.unseen == ()
    assert belongings(away) == before
    assert away(torch.randn(5, 4)).shape == (5, 2)


def dynamic(net: nn.Module) -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(net.eval(), {nn.Linear}, dtype=torch.qint8)


def test_packed_weights_are_unseen_and_nothing_is_called_verified() -> None:
    net = dynamic(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)))
    for verify in (False, "auto", True):
        w = wl.trace(net, torch.randn(5, 4), verify=verify)
        assert w.groups == ()
        assert [n.split(".")[0] for n in w.unseen] == ["0", "2", "4"]
        assert w.report["verified"] is False
    assert "Not seen" in str(w)
    assert "whole numbers" in w.explain(w.unseen[0], 0)
    assert wl.Wiring.from_spec(w.to_spec()) == w


def test_the_units_before_a_packed_layer_are_fixed_and_the_others_free() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), dynamic(nn.Sequential(nn.Linear(6, 2))))
    w = wl.trace(net, torch.randn(5, 4), verify=True)
    assert [g.name for g in w.groups] == ["0"]
    assert "linear_dynamic" in w.explain("2.weight", 0)
    assert len(w.unseen) == 1


def test_bytes_that_are_multiplied_out_in_the_forward_are_unseen() -> None:
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(6, 2)
            self.register_buffer("w", torch.randint(-127, 127, (6, 8), dtype=torch.int8))
            self.register_buffer("step", torch.rand(6, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(F.linear(torch.relu(self.a(x)), self.w.to(x.dtype) * self.step)))

    w = wl.trace(Bytes(), torch.randn(5, 4), verify=True)
    assert w.unseen == ("w",)
    assert w.groups == ()
    assert w.report["verified"] is False


def test_constants_are_called_by_their_name() -> None:
    case = ZOO["sinusoidal_stream"]
    w = wl.trace(case.make(), *case.examples)
    assert "constant tensor positions" in w.explain("patch.weight", 0)
    for name in ("rotary_from_a_buffer", "buffer_outside_the_state"):
        case = ZOO[name]
        w = wl.trace(case.make(), *case.examples)
        assert any("constant tensor" in why for why in w.fixed.values())
        assert not any("no operator made" in why for why in w.fixed.values())

"""The tracer: what it leaves alone, what it refuses, how it explains itself."""

from __future__ import annotations

import copy
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import weightlapse as wl
from tests.zoo import ZOO
from weightlapse.errors import CannotTrace, InvalidArgument


def mlp(act: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), act or nn.ReLU(), nn.Linear(8, 6), act or nn.ReLU(), nn.Linear(6, 3))


def test_an_mlp() -> None:
    w = wl.trace(mlp(), torch.randn(5, 4))
    assert [(g.name, g.size) for g in w.groups] == [("0", 8), ("2", 6)]
    members = [("0.weight", 0, "out"), ("0.bias", 0, "add"), ("2.weight", 1, "in")]
    assert [(m.tensor, m.axis, m.role) for m in w.group("0").members] == members
    assert w.group("0").symmetries == {"permutation", "scale"}
    assert w.group("0").exponents == (1, 1, -1)
    assert wl.trace(mlp(nn.Tanh()), torch.randn(5, 4)).group("0").symmetries == {"permutation", "sign"}
    assert wl.trace(mlp(nn.GELU()), torch.randn(5, 4)).group("0").symmetries == {"permutation"}
    assert wl.trace(mlp(nn.Identity()), torch.randn(5, 4)).group("2").symmetries == {"permutation", "sign", "scale"}
    assert "input" in w.explain("0.weight", 1)
    assert "output" in w.explain("4.weight", 0)


class Stateful(nn.Module):
    """Everything that a forward may change: statistics, attributes, buffers by assignment, all random states."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.drop, self.b = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("average", torch.zeros(8))
        self.last = None

    def forward(self, x):
        h = self.drop(torch.relu(self.norm(self.a(x))))
        self.last = h
        self.count.add_(1)
        self.average = 0.9 * self.average + 0.1 * h.mean(0)
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        return self.b(h.relu_())


def test_no_side_effects() -> None:
    model = Stateful().train()
    model.norm.eval()
    model(torch.randn(6, 4)).sum().backward()
    x = torch.randn(6, 4)
    before = copy.deepcopy(dict(model.state_dict()))
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    last, kept = model.last, x.clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    versions = {n: p._version for n, p in model.named_parameters()}
    w = wl.trace(model, x, verify=True)
    assert w.group("a").size == 8
    assert [m.training for m in (model, model.a, model.norm, model.drop)] == [True, True, False, True]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(torch.equal(grads[n], p.grad) for n, p in model.named_parameters())
    assert {n: p._version for n, p in model.named_parameters()} == versions
    assert all(p.requires_grad for p in model.parameters())
    assert model.last is last
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    assert torch.is_grad_enabled()


def test_the_first_call_does_not_import_dynamo() -> None:
    code = (
        "import sys, torch, weightlapse as wl\n"
        "wl.trace(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)), torch.randn(4, 2), verify=True)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "example, complaint", [((torch.randn(2, 9),), "does not run on the example"), ((), "at least one example")]
)
def test_examples_that_do_not_fit(example: tuple, complaint: str) -> None:
    with pytest.raises((CannotTrace, InvalidArgument), match=complaint):
        wl.trace(mlp(), *example)


def test_bad_arguments() -> None:
    with pytest.raises(CannotTrace, match="no weights"):
        wl.trace(nn.ReLU(), torch.randn(2, 2))
    with pytest.raises(InvalidArgument, match=r"torch\.nn\.Module"):
        wl.trace(lambda x: x, torch.randn(2, 2))
    with pytest.raises(InvalidArgument, match="verify"):
        wl.trace(mlp(), torch.randn(2, 4), verify="often")
    with pytest.raises(CannotTrace, match="run the model once"):
        wl.trace(nn.Sequential(nn.LazyLinear(3)), torch.randn(2, 4))

    class Silent(nn.Linear):
        def forward(self, x):
            super().forward(x)

    with pytest.raises(CannotTrace, match="returned no tensor"):
        wl.trace(Silent(2, 2), torch.randn(3, 2))


@pytest.mark.parametrize(
    "name, reason",
    [
        ("roll", "roll depends on the order"),
        ("cumsum", "cumsum depends on the order"),
        ("flip", "flip depends on the order"),
        ("fft", "opaque op _fft_r2c"),
        ("sort", "sort depends on the order"),
        ("topk", "topk depends on the order"),
        ("position_encoding", "constant tensor"),
        ("conv_along_units", "space"),
        ("argmax", "argmax depends on the order"),
        ("tril_of_gram", "opaque op tril"),
        ("outer_product", "outer product"),
    ],
)
def test_refusals_say_why(name: str, reason: str) -> None:
    case = ZOO[f"refused_{name}"]
    w = wl.trace(case.make(), *case.examples)
    assert w.find("a") is None
    assert reason in w.explain("a.weight", 0)


def test_rotary_dims_say_why() -> None:
    case = ZOO["rope_dims"]
    text = wl.trace(case.make(), *case.examples).explain("qkv.weight", 0)
    assert "constant tensor" in text


@pytest.mark.parametrize("name", ZOO)
def test_every_axis_has_an_explanation(name: str) -> None:
    case = ZOO[name]
    w = wl.trace(case.make(), *case.examples, verify=False)
    for tensor, shape in w.shapes.items():
        for axis, n in enumerate(shape):
            if n > 1:
                covered = {int(p) for _, m in w.groups_of(tensor, axis) for p in m.index.ravel()}
                assert len(covered) == n or (tensor, axis) in w.fixed, (tensor, axis)
            assert "no group was declared" not in w.explain(tensor, axis), (tensor, axis)


def test_a_branch_not_taken_is_unseen_and_several_examples_see_it() -> None:
    case = ZOO["control_flow"]
    one = wl.trace(case.make(), case.examples[0])
    assert one.unseen == ("c.weight", "c.bias")
    assert "never used" in one.explain("c.weight", 1)
    both = wl.trace(case.make(), *case.examples)
    assert both.unseen == ()
    assert {m.tensor for m in both.group("a").consumers} == {"b.weight", "c.weight"}


def test_tied_tensors_are_one_tensor_with_aliases() -> None:
    case = ZOO["gpt_tied"]
    model = case.make()
    w = wl.trace(model, *case.examples)
    assert w.aliases == {"wte.weight": ["lm_head.weight"]}
    stream = w.group("wte")
    assert "out+in" in {m.role for m in stream.members if m.tensor == "wte.weight"}
    assert any("tied" in b for b in stream.blockers)
    new = wl.permute(model.state_dict(), w, "wte", np.roll(np.arange(12), 5))
    assert torch.equal(new["wte.weight"], new["lm_head.weight"])


BLOCKED = [
    ("mlp_layernorm_prelu", "0", "layer_norm"),
    ("mlp_layernorm_prelu", "3", "rms_norm"),
    ("hf_llama", "model.embed_tokens", "rms_norm"),
    ("transformer_encoder", "body.layers.0.self_attn[0]", "activation contraction"),
    ("resnext", "layers.0.0.a", "grouped conv"),
    ("group_norm", "0", "group_norm"),
    ("tied_autoencoder", "enc", "tied in+out"),
    ("weight_norm", "0.parametrizations.weight", "weight_norm"),
    ("resnet20_padded_shortcut", "conv1", "pad"),
    ("spectral_norm", "0.parametrizations.weight.0", ""),
    ("custom_operator", "a", "opaque op"),
]


@pytest.mark.parametrize("name, group, reason", BLOCKED)
def test_blockers_name_what_forbids_more_units(name: str, group: str, reason: str) -> None:
    if name not in ZOO:
        pytest.skip("transformers is not installed")
    case = ZOO[name]
    g = wl.trace(case.make(), *case.examples, verify=False).group(group)
    assert any(reason in b for b in g.blockers), g.blockers


@pytest.mark.parametrize(
    "name", ["mlp_relu", "lenet_flatten", "vgg_bn", "resnet18", "densenet", "unet", "lstm_two_layers", "gru"]
)
def test_ordinary_layers_may_grow(name: str) -> None:
    case = ZOO[name]
    assert all(g.blockers == () for g in wl.trace(case.make(), *case.examples, verify=False).groups)


class Outputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return {"hidden": h, "logits": self.b(h)}


def test_outputs_can_be_chosen() -> None:
    x = torch.randn(5, 4)
    assert wl.trace(Outputs(), x).groups == ()
    for choice in ("logits", ["logits"], lambda out: out["logits"]):
        assert [g.size for g in wl.trace(Outputs(), x, outputs=choice).groups] == [8]
    with pytest.raises(InvalidArgument, match="logits"):
        wl.trace(Outputs(), x, outputs="logit")


def test_wrapped_models() -> None:
    inner = mlp()
    wrapped = nn.DataParallel(inner, device_ids=[])
    assert [g.name for g in wl.trace(wrapped, torch.randn(3, 4)).groups] == ["0", "2"]


class Secret(nn.Module):
    """Leaves torch in the middle: what happens in NumPy cannot be seen, so it must not be claimed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.from_numpy(np.cumsum(self.a(x).detach().numpy(), -1))
        return self.b(h)


def test_units_that_pass_outside_torch_are_not_claimed() -> None:
    w = wl.trace(Secret(), torch.randn(5, 4), verify=False)
    assert w.find("a") is None
    assert "a.weight" in w.unseen


def test_dict_examples_and_keyword_arguments() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x, *, gain):
            return self.b(F.relu(self.a(x)) * gain)

    assert [g.size for g in wl.trace(Two(), {"x": torch.randn(3, 4), "gain": torch.tensor(2.0)}).groups] == [8]


def test_arrays_may_be_examples() -> None:
    assert len(wl.trace(mlp(), np.zeros((3, 4), dtype=np.float32)).groups) == 2

"""What must survive growing: hooks, dtypes, devices, flags, ties, buffers, attributes; and the argument untouched."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import tests.nets_growth as nets
import weightlapse as wl
from weightlapse.errors import CannotGrow, InvalidArgument
from weightlapse.growth.attributes import true_attributes
from weightlapse.growth.module import tensors_of
from weightlapse.growth.readings import first_reading


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything of a module that growing could disturb."""
    return {
        "tensors": {
            n: (t.clone(), t.dtype, t.device, t.requires_grad, None if t.grad is None else t.grad.clone())
            for n, (t, _) in tensors_of(model).items()
        },
        "ids": [id(t) for t, _ in tensors_of(model).values()],
        "modes": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "attributes": [
            {k: v for k, v in vars(m).items() if type(v) in (int, float, tuple, str)} for m in model.modules()
        ],
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def busy_model() -> nn.Module:
    """Mixed modes, frozen parameters, gradients, hooks, a float64 part's buffer, a note on a parameter."""
    torch.manual_seed(0)
    model = nets.trained_a_little(nets.Resnet())
    model(nets.images()).square().mean().backward()
    model.train()
    model.layer1[0].bn1.eval()
    model.layer2.requires_grad_(False)
    model.register_buffer("table", torch.arange(5, dtype=torch.float64), persistent=False)
    model.register_buffer("count", torch.tensor(3))
    model.fc.register_forward_hook(lambda *_: None)
    model.conv.register_forward_pre_hook(lambda *_: None)
    model.fc.weight.note = "kept"
    return model


def test_the_argument_is_untouched_whatever_happens() -> None:
    model, x = busy_model(), nets.images()
    before = snapshot(model)
    wl.widen(model, {"conv": 9, "layer1.0.conv1": 8}, x)
    wl.deepen(model, x, after="layer1.0")
    wl.deepen(model, x, after="layer1.0.conv1")
    wl.narrow(model, x)
    with pytest.raises(CannotGrow):
        wl.deepen(model, x, after="layer2.0")
    after = snapshot(model)
    assert same(before, after)
    model.fc.weight.data += 1e-3
    assert not same(before, snapshot(model))  # the snapshot sees a change


def test_flags_hooks_dtypes_and_buffers_are_kept() -> None:
    model = busy_model()
    g = wl.widen(model, {"conv": 9, "layer1.0.conv1": 8}, nets.images()).model
    assert [m.training for m in g.modules()] == [m.training for m in model.modules()]
    old, new = tensors_of(model), tensors_of(g)
    assert list(old) == list(new)
    for name in old:
        a, b = old[name][0], new[name][0]
        assert (a.dtype, a.device, a.requires_grad, type(a)) == (b.dtype, b.device, b.requires_grad, type(b)), name
        assert (a.grad is None) == (b.grad is None)
        assert b.grad is None or b.grad.shape == b.shape
    assert len(g.fc._forward_hooks) == len(g.conv._forward_pre_hooks) == 1
    assert torch.equal(g.table, model.table)
    assert "table" not in g.state_dict()
    assert g.count == 3
    assert g.fc.weight.note == "kept"


def test_tied_weights_stay_tied() -> None:
    model = nets.trained_a_little(nets.Gpt(tied=True))
    g = wl.widen(model, {"blocks.0.up": 23}, nets.tokens()).model
    assert g.head.weight is g.tokens.weight
    shared = nets.Gpt()
    shared.blocks[1] = shared.blocks[0]
    g = wl.widen(nets.trained_a_little(shared), {"blocks.0.up": 23}, nets.tokens()).model
    assert g.blocks[0] is g.blocks[1]
    assert g.blocks[1].up.weight.shape == (23, 8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_float_type_sums_up_exactly(dtype: torch.dtype) -> None:
    model = nets.trained_a_little(nets.mlp()).to(dtype)
    g = wl.widen(model, {"0": 9, "2": 8}, nets.vectors().to(dtype))
    assert g.error <= 1e-12
    assert all(p.dtype == dtype for p in g.model.parameters())


def test_channels_last_memory_stays() -> None:
    model = nets.trained_a_little(nets.Densenet()).to(memory_format=torch.channels_last)
    g = wl.widen(model, {"conv1": 8}, nets.images()).model
    assert g.conv2.weight.is_contiguous(memory_format=torch.channels_last)


ATTRIBUTES: dict[str, tuple[Any, Any, dict[str, int], dict[str, Any]]] = {
    "linear": (nets.mlp, nets.vectors(), {"0": 9}, {"0.out_features": 9, "2.in_features": 9}),
    "convolution, norm": (
        nets.Densenet,
        nets.images(),
        {"conv1": 8},
        {
            "conv1.out_channels": 8,
            "conv2.in_channels": 8,
            "bn1.num_features": 8,
            "bn2.num_features": 12,
            "fc.in_features": 240,
        },
    ),
    "depthwise": (
        nets.Mobile,
        nets.images(),
        {"expand": 13},
        {"depthwise.groups": 13, "depthwise.in_channels": 13, "depthwise.out_channels": 13},
    ),
    "transposed": (
        nets.Unet,
        nets.images(),
        {"up": 8, "down2": 9},
        {"up.out_channels": 8, "up.in_channels": 9, "join.in_channels": 12},
    ),
    "recurrent": (
        lambda: nets.Recurrent("GRU"),
        nets.tokens(),
        {"embedding": 9, "rnn": 8},
        {"rnn.hidden_size": 8, "rnn.input_size": 9, "embedding.embedding_dim": 9},
    ),
    "layer norm": (
        nets.Gpt,
        nets.tokens(),
        {"tokens": 16},
        {"norm.normalized_shape": (16,), "places.embedding_dim": 16},
    ),
    "attention": (
        nets.encoder,
        nets.sequences(),
        {"0": 16, "1.layers.0.self_attn": 4, "1.layers.1.self_attn": 4},
        {f"1.layers.0.self_attn.{name}": n for name, n in (("embed_dim", 16), ("num_heads", 4), ("head_dim", 4))},
    ),
    "remembered, and an equal number that is something else": (
        nets.Remembers,
        nets.vectors(6),
        {"fc1": 9},
        {"hidden_dim": 9, "num_inputs": 6},
    ),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_stay_true(name: str) -> None:
    make, x, sizes, wanted = ATTRIBUTES[name]
    g = wl.widen(nets.trained_a_little(make()), sizes, x).model
    for path, value in wanted.items():
        owner, _, attribute = path.rpartition(".")
        assert getattr(g.get_submodule(owner), attribute) == value, path
    for path, module in g.named_modules():
        for attribute, value in true_attributes(module).items():
            assert getattr(module, attribute) == value, f"{path}.{attribute}"


def test_a_grown_model_saves_loads_and_trains() -> None:
    model, x = nets.trained_a_little(nets.Gpt()), nets.tokens()
    g = wl.widen(model, {"tokens": 16, "blocks.0.up": 23}, x).model
    file = io.BytesIO()
    torch.save(g, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again(x), g(x))
    g(x).square().mean().backward()
    assert all(p.grad is not None for p in g.parameters())


def test_wrappers_are_taken_off_and_said() -> None:
    model, x = nets.trained_a_little(nets.mlp()), nets.vectors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, on importing its compiler
        compiled = torch.compile(model)
    g = wl.widen(compiled, {"0": 9}, x)
    assert type(g.model) is nn.Sequential
    assert any("OptimizedModule wrapper was taken off" in note for note in g.certificate.notes)
    g = wl.deepen(nn.DataParallel(model), x, after="0")
    assert type(g.model) is nn.Sequential
    assert any("DataParallel wrapper" in note for note in g.certificate.notes)


class CannotBeCopied(nn.Sequential):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("holds a socket")


def test_models_that_cannot_be_grown_say_why() -> None:
    x = nets.vectors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.trace(nets.mlp(), x)
    with pytest.raises(InvalidArgument, match=r"must be a torch\.nn\.Module"):
        wl.widen({"fc1": 3}, {"fc1": 9}, x)  # type: ignore[arg-type]
    with pytest.raises(CannotGrow, match="no shape yet"):
        wl.deepen(nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2)), x, after="2")
    with pytest.raises(CannotGrow, match="holds a socket"):
        wl.widen(CannotBeCopied(*nets.mlp()), {"0": 9}, x)
    with pytest.raises(CannotGrow, match="scripted module"):
        wl.deepen(scripted, x, after="0")


def test_a_model_that_is_random_in_train_mode_is_compared_in_eval_mode_only() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.fc1(x))
            return self.fc2(h + torch.randn_like(h) * 0.1 if self.training else h)

    g = wl.widen(nets.trained_a_little(Noisy()), {"fc1": 9}, nets.vectors())
    assert {c.mode for c in g.certificate.checks} == {"eval"}
    assert any("random there beyond dropout" in note for note in g.certificate.notes)


def test_functional_dropout_does_not_disturb_the_comparison() -> None:
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc2(nn.functional.dropout(torch.relu(self.fc1(x)), 0.5, self.training))

    g = wl.widen(nets.trained_a_little(Drops()), {"fc1": 9}, nets.vectors())
    assert {c.mode for c in g.certificate.checks} == {"eval", "train"}
    assert g.error <= 1e-12


def test_a_model_that_computes_in_float32_is_told_and_given_its_rounding() -> None:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc2(torch.relu(self.fc1(x)).float().to(x.dtype))

    g = wl.widen(nets.trained_a_little(Casts()), {"fc1": 9}, nets.vectors())
    assert g.certificate.tolerance == 1e-5
    assert any("less than float64" in note for note in g.certificate.notes)


def test_the_certificate_reads_well() -> None:
    g = wl.widen(nets.trained_a_little(nets.mlp()), {"0": 9}, nets.vectors())
    text = str(g)
    assert text.startswith("widened 0 6 -> 9\n77 -> 107 parameters; largest relative difference")
    assert "train mode, randomised weights, random inputs" in text
    assert "note: set 0.out_features: 6 -> 9" in text
    assert repr(g).startswith("<Growth: widened 0 6 -> 9; 77 -> 107 parameters, error ")


def test_the_trial_sees_a_forgotten_bias_even_where_it_is_zero() -> None:
    # A rule that forgets the bias is invisible on a fresh network with zero biases: the randomised twin shows it.
    from weightlapse.growth.certificate import Trial

    model = nets.mlp()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.zero_()
    trial = Trial.of(model, [nets.vectors()])

    def forgetful(source: nn.Module) -> tuple[nn.Module, list[Any]]:
        twin = copy.deepcopy(source)
        with torch.no_grad():
            twin[0].bias.zero_()
        return twin, []

    told = first_reading(forgetful, model, lambda _path: {}, trial, 1e-12)
    assert isinstance(told, str)
    assert "randomised weights" in told
    assert not isinstance(first_reading(lambda m: (copy.deepcopy(m), []), model, lambda _path: {}, trial, 1e-12), str)


def test_complex_weights_are_divided_and_compared_in_full_precision() -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.randn(6, 4, dtype=torch.complex64))
            self.second = nn.Parameter(torch.randn(3, 6, dtype=torch.complex64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x.to(self.first.dtype) @ self.first.T) @ self.second.T

    torch.manual_seed(0)
    model = Waves()
    g = wl.widen(model, {"first": 9}, nets.vectors())
    assert g.model.second.dtype == torch.complex64
    assert g.error <= 1e-12
    assert g.certificate.live["first"] == (6, 6)


def test_an_averaged_copy_is_grown_like_any_module() -> None:
    model = torch.optim.swa_utils.AveragedModel(nets.trained_a_little(nets.mlp()))
    g = wl.widen(model, {"module.0": 9}, nets.vectors())
    assert type(g.model) is torch.optim.swa_utils.AveragedModel
    assert g.model.module[0].out_features == 9


def test_a_network_that_cannot_run_in_float64_is_compared_in_float32() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype != torch.float32:
                raise RuntimeError("expected Float32")
            return self.fc2(torch.relu(self.fc1(x)))

    model = nets.trained_a_little(Single())
    g = wl.widen(model, {"fc1": 9}, nets.vectors())
    assert g.certificate.tolerance == 1e-5
    assert g.error <= 1e-5
    assert any("does not run in float64" in note for note in g.certificate.notes)
    with pytest.raises(CannotGrow, match="does not run on the examples"):
        wl.deepen(model, torch.randn(3, 5), after="fc1")

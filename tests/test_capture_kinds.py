"""Tensors of every kind: float8 and fewer bits, complex and conjugate, quantised, scripted, wrapped, sparse; and patterns that leave tensors out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.nets_capture import bits, check, clone, mlp, train
from weightlapse.adapters import source
from weightlapse.store import layout, small_floats

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu]


@pytest.fixture(autouse=True)
def quiet_torch() -> Iterator[None]:
    """torch says of some kinds that they are experimental or old: that is why they are tested."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(quantiz|ComplexHalf|torch.jit|TorchScript).*")
        yield


def test_adapters_and_store_know_the_same_dtypes() -> None:
    assert source.DTYPES == layout.DTYPES
    assert set(source.FLOATS) == set(small_floats.FORMATS)


# ---- floats of eight bits ----------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """A weight of another dtype among ordinary ones, as a scaled matrix product of eight bits has it."""

    def __init__(self, dtype: torch.dtype, extra: int = 0) -> None:
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.low = nn.Parameter(torch.randn(3, 4).abs().to(dtype), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(()))
        self.more = nn.ParameterList(nn.Parameter(torch.randn(3)) for _ in range(extra))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) @ self.low.float().T * self.scale


@pytest.mark.parametrize("extra", [0, 60])
@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
def test_a_float8_weight_is_recorded_pattern_by_pattern(tmp_path: Path, dtype: torch.dtype, extra: int) -> None:
    torch.manual_seed(0)
    model = Mixed(dtype, extra)

    class Both(torch.optim.Adam):
        """Adam, which also writes any patterns into the low weight, NaN among them."""

        def step(self, closure: Any = None) -> Any:
            model.low.view(torch.uint8).copy_(torch.randint(0, 256, (3, 4), dtype=torch.uint8))
            return super().step(closure)

    optimizer = Both([p for p in model.parameters() if p.requires_grad], lr=0.01)
    states: list[dict[str, np.ndarray]] = []

    def state() -> dict[str, np.ndarray]:
        return {
            n: p.detach().clone().view(torch.uint8).numpy() if n == "low" else bits(p)
            for n, p in model.named_parameters()
        }

    states.append(state())
    with wl.watch(model, tmp_path / "run", optimizer=optimizer):
        for _ in range(8):
            model(torch.randn(5, 6)).nan_to_num().pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            states.append(state())
    run = check(tmp_path / "run", states)
    assert run.dtypes["low"] == str(dtype).removeprefix("torch.")
    expected = torch.from_numpy(np.stack([s["low"] for s in states])).view(dtype).float().numpy()
    assert run["low"].dtype == np.float32
    assert np.array_equal(run["low"][:], expected, equal_nan=True)
    assert np.array_equal(run.state(step=3)["low"], expected[3], equal_nan=True)
    fresh = Mixed(dtype, extra)
    run.load_into(fresh, step=5)
    assert np.array_equal(fresh.low.float().numpy(), expected[5], equal_nan=True)


def test_gradients_and_states_beside_float8(tmp_path: Path) -> None:
    model = Mixed(torch.float8_e4m3fn)
    model.low.requires_grad_()
    optimizer = torch.optim.SGD([model.first.weight, model.first.bias, model.scale], lr=0.1, momentum=0.9)
    grads, low = [], []
    with pytest.warns(UserWarning, match="holds low, which can be trained"):
        rec = wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=("weights", "gradients", "optimizer"))
    with rec:
        for _ in range(3):
            model(torch.randn(5, 6)).pow(2).mean().backward()
            grads.append(model.first.weight.grad.clone().numpy())
            low.append(model.low.grad.view(torch.uint8).clone().numpy())
            optimizer.step()
            model.zero_grad()
    run = wl.load(tmp_path / "run")
    assert np.array_equal(run["gradients:first.weight"][1:], np.stack(grads))
    assert run.dtypes["gradients:low"] == "float8_e4m3fn"
    assert np.isnan(run["gradients:low"][0]).all()
    assert np.array_equal(run["gradients:low"].raw()[1:], np.stack(low))
    assert np.isfinite(run["optimizer:first.weight.momentum_buffer"][1:]).all()


@pytest.mark.parametrize(
    "name", ["bfloat16", *source.FLOATS, "int1", "int2", "int4", "uint1", "uint2", "uint4", "complex32", "bcomplex32"]
)
def test_arrays_of_ml_dtypes(tmp_path: Path, name: str) -> None:
    if not hasattr(ml_dtypes, name):
        pytest.skip(f"ml_dtypes {ml_dtypes.__version__} has no {name}")
    dtype = getattr(ml_dtypes, name)
    size = np.dtype(dtype).itemsize
    rng = np.random.default_rng(0)
    kind = (
        int(name[5])
        if name in source.FLOATS
        else int(name.removeprefix("u").removeprefix("int"))
        if "int" in name
        else 8
    )
    frames = [rng.integers(0, 1 << kind, (2, 3 * size)).astype(np.uint8).view(dtype) for _ in range(5)]
    if "int" in name:
        low, high = ml_dtypes.iinfo(dtype).min, ml_dtypes.iinfo(dtype).max
        frames = [rng.integers(int(low), int(high) + 1, (2, 3)).astype(np.int8).astype(dtype) for _ in range(5)]
    with wl.watch({"w": frames[0], "b": np.zeros(2)}, tmp_path / "run") as rec:
        for values in frames[1:]:
            rec.step({"w": values, "b": np.zeros(2)})
    run = wl.load(tmp_path / "run")
    assert run.dtypes["w"] == name
    wide = np.int64 if "int" in name else np.complex64 if "complex" in name else np.float32
    with np.errstate(invalid="ignore"):
        expected = np.stack([v.astype(wide) for v in frames])
    assert np.array_equal(run["w"][:].astype(wide), expected, equal_nan=True)
    if "int" not in name:
        assert run["w"].raw().tobytes() == np.stack(frames).tobytes()


def test_a_float8_recording_is_measured_drawn_exported_and_imported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    w = torch.randn(8, 6)
    with wl.watch({"w": w.to(torch.float8_e4m3fn)}, tmp_path / "run") as rec:
        for _ in range(6):
            w += 0.1 * torch.randn(8, 6)
            rec.step({"w": w.to(torch.float8_e4m3fn)})
    run = wl.load(tmp_path / "run")
    assert np.allclose(wl.measure(run, "norm")["w"], [np.linalg.norm(v) for v in run["w"][:].astype(np.float64)])
    wl.diagnose(run)
    wl.make_film(run, tmp_path / "film.gif", size=(160, 120))
    assert (tmp_path / "film.gif").stat().st_size > 500
    page = wl.make_page(run, tmp_path / "page.html")
    assert "float8_e4m3fn" in page.read_text()
    run.export("safetensors", tmp_path / "series")
    from safetensors.torch import load_file

    loaded = load_file(sorted((tmp_path / "series").iterdir())[-1])["w"]
    assert loaded.dtype == torch.float8_e4m3fn
    assert np.array_equal(loaded.float().numpy(), run["w"][-1])
    from weightlapse.capture.imports import import_checkpoints

    assert import_checkpoints(sorted((tmp_path / "series").iterdir()), tmp_path / "again") == 7
    again = wl.load(tmp_path / "again")
    assert again.dtypes == {"w": "float8_e4m3fn"}
    assert again["w"].raw().tobytes() == run["w"].raw().tobytes()


# ---- integers of few bits, quantised tensors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype,recorded",
    [
        (torch.uint4, "uint4"),
        (torch.int4, "int4"),
        (torch.uint2, "uint2"),
        (torch.float4_e2m1fn_x2, "uint8"),
        (torch.bits8, "uint8"),
    ],
    ids=str,
)
def test_dtypes_that_can_only_lie_in_memory(tmp_path: Path, dtype: torch.dtype, recorded: str) -> None:
    model = nn.Linear(3, 2)
    memory = torch.randint(0, 4, (2, 3), dtype=torch.uint8)
    model.register_buffer("packed", memory.view(dtype))
    states = [memory.clone()]
    with wl.watch(model, tmp_path / "run", streams=("weights", "buffers")) as rec:
        for _ in range(4):
            memory.copy_(torch.randint(0, 4, (2, 3), dtype=torch.uint8))
            nn.init.normal_(model.weight)
            rec.step()
            states.append(memory.clone())
    run = wl.load(tmp_path / "run")
    assert run.dtypes["packed"] == recorded
    assert np.array_equal(run["packed"][:], torch.stack(states).numpy())
    run.load_into(model, step=1)
    assert np.array_equal(memory.numpy(), states[1].numpy())


def test_quantised_tensors_are_their_integers_scale_and_zero_point(tmp_path: Path) -> None:
    def made(k: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(k)
        values = torch.randn(4, 3)
        one = torch.quantize_per_tensor(values, 0.05 + k, 3, torch.quint8)
        return one, torch.quantize_per_channel(
            values, torch.rand(4) + 0.01, torch.zeros(4, dtype=torch.long), 0, torch.qint8
        )

    model = nn.Linear(3, 2)
    one, each = made(0)
    model.register_buffer("one", one)
    model.register_buffer("each", each)
    kept = [(one, each)]
    with wl.watch(model, tmp_path / "run", streams=("weights", "buffers")) as rec:
        for k in range(1, 4):
            model.one, model.each = made(k)
            kept.append((model.one, model.each))
            nn.init.normal_(model.weight)
            rec.step()
    run = wl.load(tmp_path / "run")
    assert len(run.layouts) == 1
    assert set(run.names) >= {"one", "one.scale", "one.zero_point", "each", "each.scale", "each.zero_point"}
    for k, (one, each) in enumerate(kept):
        assert np.array_equal(run["one"][k], one.int_repr().numpy())
        assert np.array_equal(run["each"][k], each.int_repr().numpy())
        assert run["one.scale"][k] == one.q_scale()
        assert run["one.zero_point"][k] == 3
        dequantised = (run["each"][k].astype(np.float64) - run["each.zero_point"][k][:, None]) * run["each.scale"][k][
            :, None
        ]
        assert np.allclose(dequantised, each.dequantize().numpy(), atol=1e-6)
    with pytest.raises(wl.InvalidArgument, match="one is quantised"):
        run.load_into(model)


def test_a_tensor_may_change_its_kind_in_mid_run(tmp_path: Path) -> None:
    """Integers and one scale, a scale per channel, plain floats, a conjugate view, floats again: each in a layout of its own where it needs one."""
    model, values = nn.Linear(3, 2), torch.randn(4, 3)
    kinds = [
        torch.quantize_per_tensor(values, 0.1, 0, torch.qint8),
        torch.quantize_per_channel(values, torch.rand(4) + 0.1, torch.zeros(4, dtype=torch.long), 0, torch.qint8),
        values,
        torch.complex(values, values).conj(),
        torch.complex(values, values),
        torch.eye(3).to_sparse(),
        values.to(torch.float8_e5m2),
    ]
    model.register_buffer("b", kinds[0])
    with wl.watch(model, tmp_path / "run", streams=("weights", "buffers")) as rec:
        for kind in kinds[1:]:
            model.b = kind
            nn.init.normal_(model.weight)
            if kind.is_sparse:
                with pytest.warns(UserWarning, match="b is not recorded"):
                    rec.step()
            else:
                rec.step()
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == list(range(7))
    assert not run.gaps
    assert np.array_equal(run.state(step=1)["b"], kinds[1].int_repr().numpy())
    assert np.array_equal(run.state(step=1)["b.scale"], kinds[1].q_per_channel_scales().numpy())
    assert np.array_equal(run.state(step=2)["b"], values.numpy())
    assert np.array_equal(run.state(step=3)["b"], kinds[3].resolve_conj().numpy())
    assert np.array_equal(run.state(step=4)["b"], kinds[4].numpy())
    assert "b" not in run.state(step=5)
    assert np.array_equal(run.state(step=6)["b"], kinds[6].float().numpy())


# ---- complex, conjugate and negative -----------------------------------------------------------------------------------


class Spectral(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.complex64) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.w = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64).to(dtype))
        self.b = nn.Parameter(torch.zeros(4))
        self.register_buffer("mirror", torch.randn(5, dtype=torch.complex64).conj())
        self.register_buffer("minus", torch.randn(5, dtype=torch.complex64).conj().imag)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.complex(x, x) @ self.w.to(torch.complex64).T).abs() + self.b


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.complex32], ids=str)
def test_complex_weights_conjugate_and_negative_views(tmp_path: Path, dtype: torch.dtype) -> None:
    model = Spectral(dtype)
    assert model.mirror.is_conj()
    assert model.minus.is_neg()
    model.w.requires_grad_(dtype != torch.complex32)  # of which torch has no update
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)

    def state() -> dict[str, np.ndarray]:
        w = model.w.detach().clone()
        w = w.view(torch.int32).numpy().view(np.uint32) if dtype == torch.complex32 else w.numpy()
        return {
            "w": w,
            "b": bits(model.b),
            "mirror": model.mirror.resolve_conj().clone().numpy(),
            "minus": model.minus.resolve_neg().clone().numpy(),
        }

    states = [state()]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=("weights", "buffers")):
        for _ in range(6):
            model(torch.randn(5, 3)).pow(2).mean().backward()
            with torch.no_grad():
                model.mirror.mul_(1.5j)
                model.minus.add_(1.0)
            optimizer.step()
            optimizer.zero_grad()
            states.append(state())
    run = check(tmp_path / "run", states)
    assert run["w"].dtype == (np.complex128 if dtype == torch.complex128 else np.complex64)
    assert np.array_equal(run["w"][-1], model.w.detach().to(torch.complex128).numpy())
    run.load_into(model, step=2)
    assert np.array_equal(model.mirror.resolve_conj().numpy(), states[2]["mirror"])
    assert np.array_equal(model.minus.resolve_neg().numpy(), states[2]["minus"])


def test_a_conjugate_parameter_with_its_gradient(tmp_path: Path) -> None:
    model = nn.Module()
    model.w = nn.Parameter(torch.randn(3, dtype=torch.complex64).conj())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    states, grads = [model.w.detach().resolve_conj().clone().numpy()], []
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=("weights", "gradients")):
        for _ in range(4):
            (model.w.abs() ** 3).sum().backward()
            grads.append(model.w.grad.resolve_conj().clone().numpy())
            optimizer.step()
            optimizer.zero_grad()
            states.append(model.w.detach().resolve_conj().clone().numpy())
    run = wl.load(tmp_path / "run")
    assert np.array_equal(run["w"][:], np.stack(states))
    assert np.array_equal(run["gradients:w"][1:], np.stack(grads))


# ---- scripted and traced -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["script", "trace", "a part"])
def test_scripted_and_traced_modules(tmp_path: Path, how: str) -> None:
    plain = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    if how == "script":
        model: Any = torch.jit.script(plain)
    elif how == "trace":
        with warnings.catch_warnings(action="ignore"):  # torch traces its own checks of sizes
            model = torch.jit.trace(plain, torch.randn(4, 6))
    else:
        model = nn.Sequential(torch.jit.script(plain[:2]), *plain[2:])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def state() -> dict[str, np.ndarray]:
        return {n: bits(t) for n, t in model.state_dict().items()}

    states = [state()]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=("weights", "buffers", "gradients")):
        train(model, [optimizer], lambda k: states.append(state()))
    run = wl.load(tmp_path / "run")
    assert [n for n in run.names if not n.startswith("gradients:")] == [n for n in run.names if n in states[0]]
    assert set(states[0]) == {n for n in run.names if not n.startswith("gradients:")}
    for name in states[0]:
        assert run[name].raw().tobytes() == np.stack([s[name] for s in states]).tobytes(), name
    assert np.isfinite(run[next(n for n in run.names if n.startswith("gradients:"))][1:]).all()
    run.load_into(model, step=3)
    assert all(bits(t).tobytes() == states[3][n].tobytes() for n, t in model.state_dict().items())


# ---- tensors made of tensors -------------------------------------------------------------------------------------------


class Scaled(torch.Tensor):
    """Integers and a scale that stand for their product, as quantisation libraries write it."""

    @staticmethod
    def __new__(cls, codes: torch.Tensor, scale: torch.Tensor) -> Scaled:
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return cls(args[0].codes, args[0].scale)
        plain = [a.codes * a.scale if isinstance(a, cls) else a for a in args]
        return function(*plain, **(kwargs or {}))


def test_a_tensor_made_of_tensors_is_recorded_as_them(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    codes, scale = torch.randint(-8, 8, (2, 3), dtype=torch.int8), torch.ones(2, 1)
    model.weight = nn.Parameter(Scaled(codes, scale), requires_grad=False)
    kept = [(codes.clone(), scale.clone())]
    with wl.watch(model, tmp_path / "run") as rec:
        for _ in range(3):
            codes += 1
            scale *= 0.5
            rec.step()
            kept.append((codes.clone(), scale.clone()))
    run = wl.load(tmp_path / "run")
    assert set(run.names) == {"weight.codes", "weight.scale", "bias"}
    assert np.array_equal(run["weight.codes"][:], torch.stack([c for c, _ in kept]).numpy())
    assert np.array_equal(run["weight.scale"][:], torch.stack([s for _, s in kept]).numpy())


# ---- what cannot be recorded costs itself alone ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sparse_coo", "sparse_csr", "nested", "qint8", "quint4x2"])
def test_a_tensor_that_cannot_be_recorded_is_left_out_and_said(tmp_path: Path, kind: str) -> None:
    model = mlp()
    odd = {
        "sparse_coo": lambda: torch.eye(3).to_sparse(),
        "sparse_csr": lambda: torch.eye(3).to_sparse_csr(),
        "qint8": lambda: torch.zeros(4, dtype=torch.uint8).view(torch.qint8),  # without a quantiser
        "quint4x2": lambda: torch.zeros(4, dtype=torch.uint8).view(torch.quint4x2),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    }[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: sparse csr and nested tensors are in beta
        model.register_buffer("odd", odd())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    states = [clone(model)]
    with pytest.warns(UserWarning, match="odd is not recorded: it"):
        rec = wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=("weights", "buffers"))
    train(model, [optimizer], lambda k: states.append(clone(model)))
    rec.close()
    run = check(tmp_path / "run", states)
    assert any("odd is not recorded" in text for step, text in run.events if step == 0)
    with pytest.raises(wl.CannotRecord, match="odd is not recorded"):
        wl.watch(model, tmp_path / "odd", tensors="odd", streams=("buffers",))
    assert not (tmp_path / "odd").exists()


def test_arrays_that_are_no_numbers_are_left_out_and_said(tmp_path: Path) -> None:
    mapping = {"w": np.ones(2), "name": "mlp", "wide": np.ones(2, np.longdouble), "objects": np.array([None, 1])}
    with pytest.warns(UserWarning, match="name is not recorded: its dtype is <U3.*wide.*objects"):
        rec = wl.watch(mapping, tmp_path / "run")
    rec.step({**mapping, "w": np.zeros(2), "name": "still a text"})
    rec.close()
    run = wl.load(tmp_path / "run")
    assert run.names == ["w"]
    assert run["w"][:].tolist() == [[1, 1], [0, 0]]
    with pytest.raises(wl.CannotRecord, match="objects"):
        wl.watch({"objects": mapping["objects"]}, tmp_path / "no")


# ---- patterns that leave tensors out -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensors,streams,names",
    [
        (
            ["*", "!*.running_*"],
            ("weights", "buffers"),
            {"0.weight", "0.bias", "1.weight", "1.bias", "1.num_batches_tracked"},
        ),
        (["*", "!*.running_*"], ("weights",), {"0.weight", "0.bias", "1.weight", "1.bias"}),
        (["!*.bias"], ("weights",), {"0.weight", "1.weight"}),
        (["!1.running_mean", "0.*", "1.running_*"], ("weights", "buffers"), {"0.weight", "0.bias", "1.running_var"}),
        (["*.weight", "!0.*"], ("weights",), {"1.weight"}),
    ],
)
def test_patterns_leave_tensors_out(tmp_path: Path, tensors: list[str], streams: Any, names: set[str]) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    wl.watch(model, tmp_path / "run", tensors=tensors, streams=streams).close()
    assert set(wl.load(tmp_path / "run").names) == names


def test_a_tied_tensor_is_left_out_when_all_its_names_are(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    wl.watch(model, tmp_path / "one", tensors=["*", "!1.weight"]).close()
    assert "0.weight" in wl.load(tmp_path / "one").names
    wl.watch(model, tmp_path / "both", tensors=["*", "!?.weight"]).close()
    assert wl.load(tmp_path / "both").names == ["0.bias", "1.bias"]

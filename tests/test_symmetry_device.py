"""Alignment where the weights are: through torch in main memory, and on a stand-in for a device that main memory cannot look into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.planted_bases import in_other_bases, network, noisy, relative, wiring_of
from weightlapse.symmetry import fits, states
from weightlapse.wiring import arrays, change

pytest.importorskip("transformers")
CUDA = torch.device("cuda:0")


class There(torch.Tensor):
    """A tensor that says it lies on a GPU: only ``cpu()`` brings its numbers home, and no operation mixes it with numbers that are at home."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, func.__name__
        if name == "cpu":
            return args[0].as_subclass(torch.Tensor)
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        given = [v for x in args for v in (x if isinstance(x, (list, tuple)) else [x]) if isinstance(v, torch.Tensor)]
        with torch._C.DisableTorchFunctionSubclass():
            at_home = [v for v in given if v.ndim and not isinstance(v, There)]
            if at_home and name not in ("__getitem__", "__setitem__", "to"):  # positions may lie at home
                raise RuntimeError(f"{name}: expected all tensors to be on the same device")
            found = func(*args, **kwargs)
        if name == "to" and isinstance(args[1], torch.Tensor) and not isinstance(args[1], There):
            return found.as_subclass(torch.Tensor)
        return _there(found)


def _there(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return type(x)(*map(_there, x)) if hasattr(x, "_fields") else type(x)(map(_there, x))
    return x.as_subclass(There) if isinstance(x, torch.Tensor) else x


def brought(value: Any, device: Any) -> Any:
    """What ``on_device`` does, where there is no device."""
    if isinstance(value, There):
        tensor: torch.Tensor = value.detach()
    else:
        tensor = (
            value.detach() if torch.is_tensor(value) else torch.from_numpy(np.ascontiguousarray(value))
        ).as_subclass(There)
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (arrays, change, fits, states):
        monkeypatch.setattr(module, "on_device", brought)


def pair(
    family: str, what: str, dtype: torch.dtype = torch.float64
) -> tuple[dict[str, Any], dict[str, Any], wl.Wiring]:
    w, rng = wiring_of(family), np.random.default_rng(3)
    a = {n: v.clone() for n, v in network(family).state_dict().items()}
    b = {
        "planted": lambda: in_other_bases(a, w, rng),
        "noisy": lambda: in_other_bases(noisy(a, w, rng, 0.3), w, rng),
        "stranger": lambda: dict(network(family, 9).state_dict()),
    }[what]()
    return *({n: v.to(dtype) if v.is_floating_point() else v for n, v in s.items()} for s in (a, b)), w  # type: ignore[return-value]


def same_decisions(x: Any, y: Any) -> bool:
    return (
        all(np.array_equal(x.permutations[g], y.permutations[g]) for g in x.permutations)
        and all(np.array_equal(x.signs[g], y.signs[g]) for g in x.signs)
        and set(x.rotations) == set(y.rotations)
        and set(x.gauges) == set(y.gauges)
    )


def test_the_stand_in_refuses_what_a_device_refuses() -> None:
    x = torch.ones(3).as_subclass(There)
    assert x.device.type == "cuda"
    assert x.cpu().device.type == "cpu"
    assert x.cpu().numpy().tolist() == [1, 1, 1]
    assert isinstance((x * 2)[np.array([0, 2])], There)
    assert isinstance(x.new_tensor([1.0]), There)
    with pytest.raises(TypeError, match="can't convert"):
        x.numpy()
    with pytest.raises(TypeError, match="can't convert"):
        np.asarray(x)
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        torch.cat([x, torch.ones(3)])


@pytest.mark.parametrize(
    ("family", "what", "dtype"),
    [
        ("llama", "planted", torch.float64),
        ("llama", "noisy", torch.float64),
        ("qwen3", "noisy", torch.float64),
        ("gpt2", "planted", torch.float32),
        ("t5", "planted", torch.float64),
        ("gemma", "noisy", torch.float32),
        ("gpt_neox", "stranger", torch.float64),
    ],
)
def test_torch_decides_as_numpy_does(family: str, what: str, dtype: torch.dtype, gpu: None) -> None:
    a, b, w = pair(family, what, dtype)
    ours = wl.align(a, b, w, restarts=0)
    for x, y, device in (
        (a, b, "cpu"),
        ({n: v.as_subclass(There) for n, v in a.items()}, {n: v.as_subclass(There) for n, v in b.items()}, None),
        (a, b, "cuda"),
    ):
        there = wl.align(x, y, w, restarts=0, device=device)
        assert same_decisions(ours, there)
        assert there.distance_after == pytest.approx(
            ours.distance_after, rel=1e-6, abs=1e-12 if dtype == torch.float64 else 1e-7
        )
        assert all(
            type(there.state[n]) is type(y[n]) and there.state[n].dtype == dtype for n in a if a[n].is_floating_point()
        )
        home = {n: v.cpu() for n, v in there.state.items()}
        assert relative(ours.state, home) <= (1e-8 if dtype == torch.float64 else 1e-5)
        again = {n: v.cpu() for n, v in there.apply(y).items()}
        assert relative(home, again) <= (1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_canonical_forms_and_verdicts_are_the_same_on_a_device(family: str, gpu: None) -> None:
    a, b, w = pair(family, "planted")
    ours = wl.canonical(a, w)
    for state, device in ((a, "cpu"), ({n: v.as_subclass(There) for n, v in b.items()}, None), (b, "cuda")):
        there = wl.canonical(state, w, device=device)
        assert all(type(there[n]) is type(state[n]) for n in there)
        assert relative(ours, {n: v.cpu() for n, v in there.items()}) < 1e-8
        verdict = "identical" if state is a else "same up to symmetry"
        assert wl.compare(a, state, w, device=device).verdict == verdict
    stranger = dict(network(family, 9).state_dict())
    assert wl.compare(a, stranger, w, device="cuda").verdict == "different"


@pytest.mark.parametrize("device", ["nope", "meta", 3, "cuda:99", True])
def test_devices_that_are_not_there_are_refused_by_all(device: Any) -> None:
    w = wl.Wiring.from_spec("tensor a.weight (2, 1)\ngroup a: 2 units, permutation\n  a.weight[0]: out\n")
    a = {"a.weight": torch.ones(2, 1)}
    for verb in (lambda: wl.compare(a, a, w, device=device), lambda: wl.canonical(a, w, device=device)):
        with pytest.raises(wl.InvalidArgument, match="cannot be computed on"):
            verb()


def test_orders_signs_and_scales_on_a_device(gpu: None) -> None:
    """A network without bases, whose heads lie in each other's units and whose layers are large enough for sketches."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 520), nn.ReLU(), nn.Linear(520, 520), nn.Tanh(), nn.Linear(520, 9))
    w = wl.trace(net, torch.randn(5, 40), verify=False)
    a = net.state_dict()
    rng = np.random.default_rng(0)
    b = {n: v + 0.05 * v.std() * torch.randn(v.shape) for n, v in a.items()}
    for g in w.groups:
        b = wl.permute(b, w, g.name, rng.permutation(g.size))
    ours = wl.align(a, b, w)
    there = wl.align(*({n: v.as_subclass(There) for n, v in s.items()} for s in (a, b)), w)
    assert same_decisions(ours, there)
    assert there.distance_after == pytest.approx(ours.distance_after, rel=1e-4)
    assert all(isinstance(v, There) for v in there.state.values())
    bad = {n: v.clone() for n, v in b.items()}
    bad["0.weight"][3, 4] = float("nan")
    with pytest.raises(wl.CannotAlign, match=r"holds NaN .* the first at \[3, 4\]"):
        wl.align(a, {n: v.as_subclass(There) for n, v in bad.items()}, w)


def test_products_keep_all_their_bits_whatever_a_training_asked_for() -> None:
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with arrays.in_full_precision(CUDA):
            assert matmul.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == "high"
        with arrays.in_full_precision("cpu"):
            assert matmul.fp32_precision != "ieee"
    finally:
        torch.set_float32_matmul_precision(before)

"""Moving and rescaling units leaves the function as it was, in NumPy and in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import weightlapse as wl
from tests.test_wiring_spec import LENET, MLP, everything
from weightlapse.errors import InvalidArgument, UnknownTensor
from weightlapse.wiring.apply import permute_state, scale_state
from weightlapse.wiring.data import Wiring


def mlp_state(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.normal(size=s) for n, s in Wiring.from_spec(MLP).shapes.items()}


def mlp(state: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ state["fc1.weight"].T + state["fc1.bias"]) @ state["fc2.weight"].T


def test_mlp_permuted_and_flipped_computes_the_same() -> None:
    w, state = Wiring.from_spec(MLP), mlp_state()
    x = np.random.default_rng(1).normal(size=(5, 4))
    perm = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    new = permute_state(state, w, "fc1", perm)
    assert np.array_equal(new["fc1.weight"][0], state["fc1.weight"][3])
    assert not np.array_equal(new["fc2.weight"], state["fc2.weight"])
    np.testing.assert_allclose(mlp(new, x), mlp(state, x), rtol=1e-12)
    flipped = scale_state(state, w, "fc1", np.array([1, -1, 1, -1, -1, 1, 1, -1]))
    assert np.array_equal(flipped["fc1.bias"][1], -state["fc1.bias"][1])
    np.testing.assert_allclose(mlp(flipped, x), mlp(state, x), rtol=1e-12)


def test_conv_then_flatten_on_torch_tensors() -> None:
    w = Wiring.from_spec(LENET)
    torch.manual_seed(0)
    conv, fc = torch.nn.Conv2d(1, 6, 5).double(), torch.nn.Linear(96, 10).double()
    net = torch.nn.ModuleDict({"conv": conv, "fc": fc})
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)

    def run() -> torch.Tensor:
        return fc(conv(x).relu().flatten(1))

    before = run()
    state = wl.permute(net.state_dict(), w, "conv", [5, 3, 1, 0, 2, 4])
    state = scale_state(state, w, "conv", np.array([0.5, 2, 3, 1, 0.25, 7]))
    assert isinstance(state["conv.weight"], torch.Tensor)
    assert state["conv.weight"].dtype == torch.float64
    net.load_state_dict(state)
    torch.testing.assert_close(run(), before, rtol=1e-12, atol=1e-12)


def test_ties_slabs_and_missing_statistics() -> None:
    w = everything()
    rng = np.random.default_rng(0)
    state = {n: rng.normal(size=s) for n, s in w.shapes.items()}
    state["tied.weight"] = state["qkv.weight"].copy()
    new = permute_state(state, w, "qkv", [1, 0])
    assert np.array_equal(new["qkv.weight"], new["tied.weight"])
    assert np.array_equal(new["qkv.weight"][[0, 1, 2]], state["qkv.weight"][[3, 4, 5]])
    assert np.array_equal(new["o.weight"][:, [5, 0, 1]], state["o.weight"][:, [2, 4, 3]])
    slab = permute_state(state, w, "qkv[1]", [2, 0, 1])["w.odd name"]
    assert np.array_equal(slab[0], state["w.odd name"][0])
    assert np.array_equal(slab[1], state["w.odd name"][1][[2, 0, 1]])
    as_torch = {n: torch.from_numpy(v) for n, v in state.items()}
    assert np.array_equal(permute_state(as_torch, w, "qkv[1]", [2, 0, 1])["w.odd name"].numpy(), slab)
    scaled = scale_state(state, w, "qkv[1]", np.array([1.0, 2.0, -4.0]))["w.odd name"]
    assert np.array_equal(scaled[1], state["w.odd name"][1] * [1, 0.5, -0.25])
    assert np.array_equal(scaled[0], state["w.odd name"][0])


def test_the_argument_stays_as_it_was() -> None:
    w, state = Wiring.from_spec(MLP), mlp_state()
    kept = {n: v.copy() for n, v in state.items()}
    permute_state(state, w, "fc1", np.arange(8)[::-1])
    scale_state(state, w, "fc1", -np.ones(8))
    assert all(np.array_equal(state[n], kept[n]) for n in kept)


@pytest.mark.parametrize("perm", [[0, 1], [0] * 8, [1, 2, 3, 4, 5, 6, 7, 8], np.ones((2, 4))])
def test_no_permutation(perm: object) -> None:
    with pytest.raises(InvalidArgument, match="0 to 7 once"):
        wl.permute(mlp_state(), Wiring.from_spec(MLP), "fc1", perm)


def test_wrong_states_and_factors() -> None:
    w, state = Wiring.from_spec(MLP), mlp_state()
    with pytest.raises(UnknownTensor, match="moved only in part"):
        wl.permute({"fc1.weight": state["fc1.weight"]}, w, "fc1", np.arange(8))
    with pytest.raises(InvalidArgument, match=r"shape \(9, 4\)"):
        wl.permute(state | {"fc1.weight": np.zeros((9, 4))}, w, "fc1", np.arange(8))
    with pytest.raises(InvalidArgument, match="no scale"):
        scale_state(state, w, "fc1", np.full(8, 2.0))
    with pytest.raises(InvalidArgument, match="other than zero"):
        scale_state(state, w, "fc1", np.zeros(8))
    lenet = Wiring.from_spec(LENET)
    with pytest.raises(InvalidArgument, match="no sign"):
        scale_state({}, lenet, "conv", -np.ones(6))

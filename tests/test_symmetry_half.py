"""Networks in 16 bits that are run on data: the same answers as of their weights in 32, and no number of theirs that NumPy does not know."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl

HALVES = [torch.bfloat16, torch.float16]


def net(dtype: torch.dtype, seed: int, *, conv: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    if conv:
        layers = [nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 4 * 4, 3)]
    else:
        layers = [nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)]
    return nn.Sequential(*layers).to(dtype).eval()


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_a_permuted_copy_in_16_bits_is_the_same(dtype: torch.dtype, conv: bool) -> None:
    a, b = net(dtype, 0, conv=conv), net(dtype, 1, conv=conv)
    x = torch.randn(24, *((2, 6, 6) if conv else (4,))).to(dtype)
    w = wl.trace(a, x[:3])
    order = np.random.default_rng(0).permutation(w.groups[0].size)
    b.load_state_dict(wl.permute(a.state_dict(), w, w.groups[0].name, order))
    found = wl.compare(a, b, w, data=x)
    assert found.verdict == "same up to symmetry"
    assert found.cka
    assert all(v is None or v == pytest.approx(1, abs=1e-3) for v in found.cka.values())


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_strangers_in_16_bits_are_matched_by_what_they_say(dtype: torch.dtype, labelled: bool) -> None:
    a, b = net(dtype, 0), net(dtype, 1)
    x = torch.randn(48, 4)
    data = (x.to(dtype), torch.arange(48) % 3) if labelled else x.to(dtype)
    found = wl.align(a, b, wl.trace(a, x[:3].to(dtype)), data=data)
    assert {c.method for c in found.candidates} >= {"activations", "activations, then weights"}
    wide = wl.align(a.float(), b.float(), wl.trace(a, x[:3]), data=(x, data[1]) if labelled else x)
    assert found.distance_after == pytest.approx(wide.distance_after, rel=0.3), "judged half way, on rounded outputs"
    assert wl.compare(net(dtype, 0), net(dtype, 1), data=data).verdict == "different"


def test_bfloat16_of_other_libraries_is_data() -> None:
    """NumPy has bfloat16 from ml_dtypes, as JAX' arrays become."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    a = net(torch.bfloat16, 0)
    x = np.random.default_rng(0).normal(size=(24, 4)).astype(ml_dtypes.bfloat16)
    assert wl.compare(a, a, data=x).verdict == "identical"
    assert wl.compare(a, net(torch.bfloat16, 1), data=x).verdict == "different"

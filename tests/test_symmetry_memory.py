"""Alignment without copies: memory, lazily loaded weights, and numbers that are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from weightlapse.errors import CannotAlign

ROOT = Path(__file__).parents[1]


def mlp(hidden: int = 30) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def pair() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], wl.Wiring]:
    torch.manual_seed(0)
    net = mlp()
    w = wl.trace(net, torch.randn(5, 4), verify=False)
    return net.state_dict(), wl.permute(net.state_dict(), w, "0", np.random.default_rng(0).permutation(30)), w


_MEASURE = """
import json, sys
sys.path[:0] = ["bench", "."]
import torch
from torch import nn
import wiring_scale

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(512, 2048), nn.Linear(2048, 512)
    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(x)))

def network(size, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(4000, 512), *(Block() for _ in range(6)), nn.Linear(512, 40)).eval()

wiring_scale.network, wiring_scale.SIZES["test"] = network, (6, 512, 8, 4000)
wiring_scale.WIDENED["test"] = "1.up"
print(json.dumps([wiring_scale.measured("test", verb) for verb in sys.argv[1:]]))
"""


def test_three_times_the_weights_are_enough() -> None:
    # A process of its own: the peak of one that ran other tests says nothing.
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux forgets the peak of what ran before")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _MEASURE, "trace", "align", "widen", "compare"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    assert [r["verb"] for r in rows] == command[3:]
    for row in rows:
        assert row["nbytes"] > 50e6
        # what is imported on the way, and the activations of the examples, come on top
        assert 0 <= row["peak"] < 3 * row["nbytes"] + 40e6, row
    # tracing shares the weights and may stay below what was there; the others cannot
    assert max(row["peak"] for row in rows) > 0.1 * rows[0]["nbytes"], rows


class OneAtATime(Mapping[str, torch.Tensor]):
    """A state dict that loads what is asked for, and counts."""

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        self._state, self.loaded = state, 0

    def __getitem__(self, name: str) -> torch.Tensor:
        self.loaded += 1
        return self._state[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def test_a_mapping_that_loads_what_is_asked_for() -> None:
    a, b, w = pair()
    lazy = OneAtATime(b)
    al = wl.align(OneAtATime(a), lazy, w)
    assert lazy.loaded
    assert all(torch.equal(al.state[n], a[n]) for n in a)
    assert wl.compare(OneAtATime(a), lazy, w).verdict == "same up to symmetry"


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_open_safetensors_files(framework: str, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    from safetensors.torch import load_file, save_file

    a, b, w = pair()
    for name, state in (("a", a), ("b", b)):
        save_file({n: v.contiguous() for n, v in state.items()}, tmp_path / name)
    with safetensors.safe_open(tmp_path / "a", framework) as x, safetensors.safe_open(tmp_path / "b", framework) as y:
        al = wl.align(x, y, w)
        assert all(np.array_equal(np.asarray(al.state[n]), a[n].numpy()) for n in a)
    al = wl.align(load_file(tmp_path / "a"), load_file(tmp_path / "b"), w)
    assert al.distance_after == 0


def test_what_was_aligned_is_nobody_elses() -> None:
    a, b, w = pair()
    net = mlp()
    net.load_state_dict(b)
    al = wl.align(a, net, w)
    before = {n: v.clone() for n, v in al.state.items()}
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    assert all(torch.equal(al.state[n], before[n]) for n in before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    a, b, w = pair()
    a, b = ({n: v.to(dtype) for n, v in s.items()} for s in (a, b))
    al = wl.align(a, b, w)
    assert all(al.state[n].dtype == dtype and torch.equal(al.state[n], a[n]) for n in a)


# ---- numbers that are none


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("tensor", ["0.weight", "0.bias", "2.weight", "2.bias"])
@pytest.mark.parametrize("which", ["first", "second"])
def test_a_weight_that_is_no_number_is_named(bad: float, tensor: str, which: str) -> None:
    w, x = wl.trace(mlp(), torch.randn(5, 4), verify=False), torch.randn(20, 4)
    nets = [mlp(), mlp()]
    nets[which == "second"].state_dict()[tensor].view(-1)[2] = bad
    kind = "NaN" if bad != bad else "Inf"
    says = f"'{tensor}' of the {which} network holds {kind} \\(1 of"
    for call in (
        lambda: wl.align(*nets, w),
        lambda: wl.align(*nets, w, data=x),
        lambda: wl.align(*(n.state_dict() for n in nets), w),
        lambda: wl.compare(*nets, w, data=x),
        lambda: wl.compare(*nets, data=x),
        lambda: wl.compare(*nets),
        lambda: wl.compare(*(n.state_dict() for n in nets), w),
    ):
        with pytest.raises(CannotAlign, match=says):
            call()
    with pytest.raises(CannotAlign, match=f"'{tensor}' .* holds {kind}"):
        wl.canonical(nets[which == "second"], w)


def test_infinities_in_a_mask_are_no_weights() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 9), nn.Linear(9, 4)
            self.register_buffer("mask", torch.triu(torch.full((5, 5), float("-inf")), 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.down(torch.relu(self.up(x)))
            return torch.softmax(h @ h.mT + self.mask, -1) @ h

    torch.manual_seed(0)
    a, x = Masked(), torch.randn(8, 5, 4)
    w = wl.trace(a, x, verify=False)
    b = Masked()
    b.load_state_dict(wl.permute(a.state_dict(), w, "up", np.random.default_rng(0).permutation(9)))
    assert wl.align(a, b, w).distance_after == 0
    assert wl.compare(a, b, w, data=x).verdict == "same up to symmetry"
    assert wl.compare(a, a, data=x).verdict == "identical"


@pytest.mark.parametrize("which", ["first", "second"])
def test_weights_without_values_are_named(which: str) -> None:
    nets: list[Any] = [mlp(), mlp()]
    w = wl.trace(nets[0], torch.randn(5, 4), verify=False)
    nets[which == "second"] = nets[which == "second"].to("meta")
    for call in (
        lambda: wl.align(*nets, w),
        lambda: wl.compare(*nets, w),
        lambda: wl.compare(*nets, w, data=torch.randn(9, 4)),
    ):
        with pytest.raises(CannotAlign, match=f"'0.weight' of the {which} network is on the meta device"):
            call()


# ---- widths


@pytest.mark.parametrize(("wide", "thin"), [(40, 24), (24, 40), (40, 1)])
def test_networks_of_different_widths_are_compared_in_either_order(wide: int, thin: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 4)
    a, b = mlp(wide), mlp(thin)
    for wiring in (None, wl.trace(a, x, verify=False)):
        c = wl.compare(a, b, wiring, data=x)
        assert c.verdict == "different"
        if thin > 1:  # a single unit makes no group
            assert c.live_units["0"][1] <= thin
        else:
            assert (
                any("'0' of the first network is no group of the second" in note for note in c.notes)
                or wiring is not None
            )
    grown = wl.widen(a, {"0": wide + 7}, x).model
    assert wl.compare(grown, a, data=x).verdict == "same function on the data"
    assert wl.compare(a, grown, data=x).verdict == "same function on the data"
    cka = wl.compare(grown, a, data=x).cka
    assert cka
    assert all(v is not None and v > 0.9 for v in cka.values())

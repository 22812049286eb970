"""Every model of the zoo: planted permutations come back exactly, and what the aligned network computes is what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import weightlapse as wl
from tests.zoo import ZOO
from weightlapse.symmetry.states import as_array
from weightlapse.wiring.apply import permute_state, scale_state
from weightlapse.wiring.data import Wiring


def randomised(model: torch.nn.Module, w: Wiring) -> dict[str, torch.Tensor]:
    """A state with every float tensor random, gains and statistics too, so that no two units are alike; ties stay tied."""
    g = torch.Generator().manual_seed(0)
    out: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        first = w.canonical_name(name)
        if first in out:
            out[name] = out[first]
        elif value.is_floating_point():
            noise = torch.randn(value.shape, generator=g, dtype=torch.float64)
            out[name] = (noise.abs() + 0.1 if "running_var" in name else 0.5 * noise).to(value.dtype)
        else:
            out[name] = value
    return out


def disguised(state: dict[str, torch.Tensor], w: Wiring, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    for g in sorted(w.groups, key=lambda g: g.parent is not None):
        state = permute_state(state, w, g.name, rng.permutation(g.size))
        if "sign" in kinds and "sign" in g.symmetries:
            state = scale_state(state, w, g.name, rng.choice([-1.0, 1.0], g.size))
        if "scale" in kinds and "scale" in g.symmetries:
            state = scale_state(state, w, g.name, np.exp(0.5 * rng.normal(size=g.size)))
    return state


@pytest.fixture(scope="module")
def wirings() -> dict[str, Wiring]:
    return {}


def wiring_of(name: str, known: dict[str, Wiring]) -> Wiring:
    if name not in known:
        known[name] = wl.trace(ZOO[name].make(), *ZOO[name].examples)
    return known[name]


@pytest.mark.parametrize("name", ZOO)
def test_planted_permutations_come_back(name: str, wirings: dict[str, Wiring]) -> None:
    w = wiring_of(name, wirings)
    a = randomised(ZOO[name].make(), w)
    b = disguised(a, w, ("permutation",))
    for symmetries in ("auto", ("permutation",)):
        al = wl.align(a, b, w, symmetries=symmetries)
        assert al.distance_before > 0.5
        assert al.distance_after == 0.0
        for tensor, value in a.items():
            if value.is_floating_point():
                assert np.array_equal(as_array(al.state[tensor]), as_array(value)), tensor


@pytest.mark.parametrize("name", ZOO)
def test_planted_signs_and_scales_come_back(name: str, wirings: dict[str, Wiring]) -> None:
    w = wiring_of(name, wirings)
    a = randomised(ZOO[name].make(), w)
    al = wl.align(a, disguised(a, w, ("sign", "scale")), w)
    assert al.distance_after <= 1e-6


@pytest.mark.parametrize(
    "name", [n for n in ZOO if n.startswith(("vgg", "resnet", "transformer", "hf_", "lstm", "unet"))]
)
def test_noise(name: str, wirings: dict[str, Wiring]) -> None:
    """Noise of a tenth of a standard deviation on these small models: the nearest disguise is still the planted one."""
    w = wiring_of(name, wirings)
    a = randomised(ZOO[name].make(), w)
    g = torch.Generator().manual_seed(1)
    noisy = {
        n: v + 0.1 * v.std() * torch.randn(v.shape, generator=g).to(v.dtype) if v.is_floating_point() else v
        for n, v in a.items()
    }
    for first, rest in w.aliases.items():
        for other in rest:
            if other in noisy and first in noisy:
                noisy[other] = noisy[first]
    al = wl.align(a, disguised(noisy, w, ("permutation",)), w, symmetries=("permutation",))
    straight = wl.align(a, noisy, w, symmetries=("permutation",), restarts=0)
    assert al.distance_after <= straight.distance_before + 1e-6
    assert al.distance_after < 0.2


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch says which kernel it uses, once per process
@pytest.mark.parametrize("name", ZOO)
def test_the_function_stays(name: str, wirings: dict[str, Wiring]) -> None:
    """Two unrelated states of one model: the second computes the same after it is brought onto the first."""
    w = wiring_of(name, wirings)
    a, b = ZOO[name].make(), ZOO[name].make()
    b.load_state_dict(randomised(b, w), strict=False)
    inputs = ZOO[name].examples[0]
    inputs = inputs if isinstance(inputs, (tuple, dict)) else (inputs,)
    before = [v.clone() for v in b.state_dict().values()]
    al = wl.align(a, b, w, data=inputs, restarts=0)
    assert al.function_error is not None
    assert al.function_error < 1e-5
    assert all(torch.equal(x, y) for x, y in zip(before, b.state_dict().values(), strict=True)), (
        "b itself stays as it is"
    )


@pytest.mark.parametrize("name", ZOO)
def test_disguises_have_one_canonical_form(name: str, wirings: dict[str, Wiring]) -> None:
    w = wiring_of(name, wirings)
    a = randomised(ZOO[name].make(), w)
    exact = ("permutation", "sign")
    x, y = (wl.canonical(s, w, symmetries=exact) for s in (a, disguised(a, w, exact)))
    assert all(torch.equal(x[n], y[n]) for n in x), "bit for bit"
    x, y = (wl.canonical(s, w) for s in (a, disguised(a, w, ("permutation", "sign", "scale"))))
    assert all(np.allclose(as_array(x[n]), as_array(y[n]), rtol=1e-4, atol=1e-6) for n in x)

"""Partners seen in sketches are those of the full products, or none are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from weightlapse.symmetry import match
from weightlapse.symmetry.assign import assign
from weightlapse.symmetry.sketch import BUCKETS, Sketches, plain_partners

N, D = 200, 3000


def seen(a: np.ndarray, b: np.ndarray) -> Sketches:
    found = Sketches(len(a))
    found.add(a[:, :1000], b[:, :1000])
    found.add(a[:, 1000:], b[:, 1000:])
    return found


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_partners_are_those_of_the_full_products(noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, order = rng.normal(size=(N, D)).astype(np.float32), rng.permutation(N)
    b = np.empty_like(a)
    b[order] = a + noise * rng.normal(size=a.shape).astype(np.float32)
    found = plain_partners(seen(a, b), None)
    assert found is not None
    np.testing.assert_array_equal(found[0], assign(a @ b.T))
    np.testing.assert_array_equal(found[0], order)


def test_signs_are_found_with_the_parts_that_they_leave_alone() -> None:
    rng = np.random.default_rng(0)
    odd, even, order = rng.normal(size=(N, D)), rng.normal(size=(N, 50)), rng.permutation(N)
    flip = rng.random(N) < 0.5
    b_odd, b_even = np.empty_like(odd), np.empty_like(even)
    b_odd[order], b_even[order] = odd * np.where(flip, -1, 1)[:, None], even
    plain, turned = Sketches(N), Sketches(N, seed=1)
    plain.add(even.astype(np.float32), b_even.astype(np.float32))
    turned.add(odd.astype(np.float32), b_odd.astype(np.float32))
    found = plain_partners(plain, turned)
    assert found is not None
    np.testing.assert_array_equal(found[0], order)
    np.testing.assert_array_equal(found[1], flip)


@pytest.mark.parametrize("case", ["unrelated", "noise", "doubled", "dead", "one number"])
def test_no_partner_is_named_in_doubt(case: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(N, D)).astype(np.float32)
    b = a.copy()
    if case == "unrelated":
        b = rng.normal(size=(N, D)).astype(np.float32)
    elif case == "noise":
        b = a + 3 * rng.normal(size=a.shape).astype(np.float32)
    elif case == "doubled":
        a[1] = b[1] = a[0]
    elif case == "dead":
        a[5] = b[7] = 0
    else:
        a[:, 1:] = b[:, 1:] = 0
    assert plain_partners(seen(a, b), None) is None


def test_estimates_are_off_by_what_is_said() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(N, D)).astype(np.float32) for _ in range(2))
    error = seen(a, b).products(slice(None)) - a @ b.T
    size = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    assert 0.9 < float(np.std(error / size)) * np.sqrt(BUCKETS) < 1.1


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.GELU])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_alignment_is_the_same_with_and_without(
    act: type[nn.Module], noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1100, 520), act(), nn.Linear(520, 600), act(), nn.Linear(600, 5))
    w = wl.trace(net, torch.randn(3, 1100), verify=False)
    rng = np.random.default_rng(1)
    a = net.state_dict()
    b = dict(a)
    for g in w.groups:
        b = wl.permute(b, w, g.name, rng.permutation(g.size))
    b = {n: v + noise * v.std() * torch.randn(v.shape) for n, v in b.items()}
    used: list[str] = []
    plain = match.Matcher._plain

    def counted(self: match.Matcher, u: match.Units, known: set[str] | None) -> match.Move | None:
        found = plain(self, u, known)
        used.append(u.name if found is not None else "")
        return found

    monkeypatch.setattr(match.Matcher, "_plain", counted)
    fast = wl.align(a, b, w)
    assert any(used)  # else nothing is compared here
    monkeypatch.setattr(match, "UNITS", 10**9)
    slow = wl.align(a, b, w)
    for g in w.groups:
        np.testing.assert_array_equal(fast.permutations[g.name], slow.permutations[g.name])
    if noise == 0:
        assert all(torch.equal(fast.state[n], a[n]) for n in a)

"""Every network of the zoo: each group either widens exactly or is refused by name; all that can, at once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import weightlapse as wl
from tests.zoo import ZOO
from weightlapse.errors import CannotGrow, VacuousComparison
from weightlapse.growth.families import Family, all_families
from weightlapse.growth.refusals import averages
from weightlapse.growth.running import map_tensors, tensors_in
from weightlapse.wiring.data import Wiring

# Networks of which nothing can be widened, and why.
NOTHING = {
    "jit_scripted": "scripted module",
    "jit_traced": "scripted module",
    "pruned_by_mask": "cannot be copied",
}


ONE_AT_A_TIME = {"hf_segformer"}  # sizes of its stages are remembered in places that one call cannot tell apart
SINGLE_ONLY = {
    "experts_grouped",
    "experts_grouped_gated",
    "hf_mixtral_grouped_mm",
}  # torch has no grouped product in float64
MAGNIFIES = {
    "hf_levit"
}  # a dozen batch norms in train mode: all its groups at once differ by more than shaken last bits do, one by one they do not


def outputs(model: nn.Module, example: Any, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return run(copy.deepcopy(model).to(dtype).eval(), example, dtype)


def run(twin: nn.Module, example: Any, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    example = map_tensors(example, lambda t: t.to(dtype) if t.is_floating_point() else t)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        result = (
            twin(**example)
            if isinstance(example, dict)
            else twin(*example)
            if type(example) is tuple
            else twin(example)
        )
    return [t for t in tensors_in(result) if t.is_floating_point()]


def wanted_size(family: Family) -> int:
    """Uneven wherever that can be exact; twice as many under a norm."""
    return 2 * family.size if averages(family) else family.size + 3


def refusal(model: nn.Module, examples: Any, wiring: Wiring, family: Family) -> str | None:
    """What is said when the family is to be widened alone; None when it is widened."""
    try:
        wl.widen(model, {family.name: wanted_size(family)}, *examples, wiring=wiring, seed=0)
    except (CannotGrow, VacuousComparison) as error:
        return str(error)
    return None


def all_that_can(
    model: nn.Module, examples: Any, wiring: Wiring
) -> tuple[dict[str, int], dict[str, str], wl.Growth | None]:
    """The groups that can be widened, with sizes, for the others what was said, and the network with all of them where that was made already."""
    families = all_families(wiring)
    free = {f.name: wanted_size(f) for f in families if (not f.blockers or averages(f)) and f.depth == 0}
    grown = None
    try:
        grown = wl.widen(model, free, *examples, wiring=wiring, seed=0) if free else None
    except (CannotGrow, VacuousComparison):
        free = {}
    said = {f.name: refusal(model, examples, wiring, f) for f in families if f.name not in free}
    can = free | {f.name: wanted_size(f) for f in families if f.name not in free and said[f.name] is None}
    return can, {name: text for name, text in said.items() if text is not None}, grown if can == free else None


@pytest.mark.parametrize("name", ZOO)
def test_exact_or_refused_by_name(name: str) -> None:
    case = ZOO[name]
    model, examples = case.make(), case.examples
    wiring = wl.trace(model, *examples, verify=False)
    if name in NOTHING:
        with pytest.raises(CannotGrow, match=NOTHING[name]):
            wl.widen(model, {wiring.groups[0].name: wiring.groups[0].size + 1}, *examples, wiring=wiring)
        return
    can, cannot, grown = all_that_can(model, examples, wiring)
    for group, said in cannot.items():
        assert repr(group) in said, said
        assert len(said) > len(repr(group)) + 30, said
    # A group without a blocker is refused only because the code holds on to a size: then it does not run.
    for group, said in cannot.items():
        if not wiring.group(group).blockers:
            assert any(
                why in said
                for why in ("does not run", "never used", "one after the other", "would change the function", "(dead)")
            ), said
    if not can:
        return
    if name in ONE_AT_A_TIME:
        with pytest.raises(CannotGrow, match="each alone could be widened"):
            wl.widen(model, can, *examples, wiring=wiring, seed=1)
        can = dict([max(can.items(), key=lambda item: item[1])])
    if name in MAGNIFIES:
        with pytest.raises(CannotGrow, match="would change the function"):
            wl.widen(model, can, *examples, wiring=wiring, seed=1)
        can = dict([max(can.items(), key=lambda item: item[1])])
    g = grown or wl.widen(model, can, *examples, wiring=wiring, seed=1)
    assert g.error <= g.certificate.tolerance
    assert g.certificate.tolerance == 1e-12 or any("float64" in n for n in g.certificate.notes)
    dtype = torch.float32 if name in SINGLE_ONLY else torch.float64
    for example in examples:
        for a, b in zip(outputs(model, example, dtype), outputs(g.model, example, dtype), strict=True):
            single = name in SINGLE_ONLY or computes_in_single(model, example)
            allowed = max(g.certificate.tolerance, 1e-6 if single else 0)
            assert ((a - b).abs().max() / a.abs().max()).item() <= allowed


class Singles(TorchDispatchMode):
    """Notes whether any operation gives single precision."""

    seen = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.seen = self.seen or any(isinstance(t, torch.Tensor) and t.dtype == torch.float32 for t in tree_leaves(out))
        return out


def computes_in_single(model, example) -> bool:
    """Whether a network casts to float32 whatever its weights are (the norms of Llama): its outputs are no more exact than that."""
    twin = copy.deepcopy(model).double().eval()
    with Singles() as mode:
        run(twin, example)
    return mode.seen


def test_most_of_the_zoo_grows() -> None:
    grown = 0
    for name, case in ZOO.items():
        if name in NOTHING:
            continue
        model, examples = case.make(), case.examples
        wiring = wl.trace(model, *examples, verify=False)
        grown += any(not f.blockers for f in all_families(wiring))
    assert grown >= 100

"""Every network of the zoo: the expected groups, and the function unchanged when any of them is permuted, flipped or rescaled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.zoo import ZOO
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.outputs import chooser
from weightlapse.wiring.trace import state_tensors, trace
from weightlapse.wiring.verify import Bench, signed, works


@pytest.mark.parametrize("name", ZOO)
def test_groups_are_as_expected_and_interchangeable(name: str) -> None:
    case = ZOO[name]
    model = case.make()
    w = trace(model, *case.examples, verify=False)
    assert tuple(sorted(g.size for g in w.groups if g.parent is None)) == case.sizes, str(w)
    assert sum(g.parent is not None for g in w.groups) == case.nested, str(w)
    bench = Bench(model, case.examples, chooser(None), state_tensors(model)[0])
    assert bench.calls
    rng = np.random.default_rng(0)
    default = {"out": 1, "add": 1, "in": -1}
    for g in w.groups:
        assert works(bench, w, g, rng) < bench.tolerance, g.name
        if g.parent is not None and g.parent[1] > 0:
            continue  # like those of the first unit
        made = tuple(m for m in g.members if "out" in m.roles)
        alone = replace(g, members=made, exponents=(0,) * len(made))
        if works(bench, w, alone, rng) < 100 * bench.tolerance:
            continue  # it hardly shows in the outputs, so a flip that is not allowed would not show either
        for kind in ("sign", "scale"):
            if kind in g.symmetries:
                assert signed(bench, w, g, g.exponents, kind, rng) < bench.tolerance, (g.name, kind)
            elif not any(
                f"sign of {g.name}".startswith(limit) for limit in case.limits
            ):  # the ordinary exponents do not happen to work: nothing was missed
                plain = [next((e for r, e in default.items() if r in m.roles), 0) for m in g.members]
                assert signed(bench, w, g, plain, kind, rng) > bench.tolerance, (g.name, kind)
        for gauge in g.gauges:
            assert signed(bench, w, g, gauge.exponents, gauge.kind, rng) < bench.tolerance, (g.name, gauge)
    assert Wiring.from_spec(w.to_spec()) == w

"""Every network of the zoo: the expected groups, and the function unchanged when any of them is permuted."""

from __future__ import annotations

import numpy as np
import pytest

from tests.zoo import ZOO
from weightlapse.wiring.outputs import chooser
from weightlapse.wiring.trace import state_tensors, trace
from weightlapse.wiring.verify import Bench, works


@pytest.mark.parametrize("name", ZOO)
def test_groups_are_as_expected_and_interchangeable(name: str) -> None:
    case = ZOO[name]
    model = case.make()
    w = trace(model, *case.examples, verify=True)
    assert tuple(sorted(g.size for g in w.groups if g.parent is None)) == case.sizes, str(w)
    assert sum(g.parent is not None for g in w.groups) == case.nested, str(w)
    assert not w.dropped
    bench = Bench(model, case.examples, chooser(None), state_tensors(model)[0])
    assert bench.calls
    rng = np.random.default_rng(0)
    for g in w.groups:
        assert works(bench, w, g, rng) < bench.tolerance, g.name

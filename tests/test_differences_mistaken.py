"""What `wl.diff` must not mistake for something else: names, whole numbers, rounding, signs, zeros, shards."""

from __future__ import annotations

import numpy as np
import pytest

import weightlapse as wl
from weightlapse.differences.result import TensorDiff

W = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)


def of(a: object, b: object) -> TensorDiff:
    return wl.diff({"w": a}, {"w": b}).tensors["w"]


# ---- names of wrappers ------------------------------------------------------------------------------------------------------------------


def test_a_part_named_module_is_no_wrapper() -> None:
    a = {"module.weight": np.ones(3), "weight": np.zeros(3)}
    b = {"module.weight": np.full(3, 7.0), "weight": np.zeros(3)}
    d = wl.diff(a, b)
    assert [t.name for t in d.differing] == ["module.weight"]
    assert len(d.tensors) == 2
    d = wl.diff({"module.a": W, "a": W * 2}, {"a": W * 2})
    assert d.tensors["module.a"].status == "removed"
    only = {"module.a": W}  # a network of nothing but this part, beside one that has more
    d = wl.diff(only, {"module.a": W + 1, "head": W})
    assert (d.tensors["module.a"].kind, d.tensors["head"].status) == ("shift", "added")
    d = wl.diff({"_orig_mod.a": W, "a": W * 3}, {"_orig_mod.a": W * 2, "a": W * 3})
    assert [t.name for t in d.differing] == ["_orig_mod.a"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_of_all_names_make_no_difference(prefix: str) -> None:
    bare = {"a": W, "module.b": W * 2}
    wrapped = {prefix + n: v for n, v in bare.items()}
    for d in (wl.diff(bare, wrapped), wl.diff(wrapped, bare), wl.diff(wrapped, wrapped)):
        assert d.identical
        assert set(d.tensors) == set(bare)
    averaged = {"n_averaged": np.array(3), "module.a": W, "module.module.b": W * 2}
    assert [t.name for t in wl.diff(bare, averaged).differing] == ["n_averaged"]

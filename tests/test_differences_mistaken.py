"""What `wl.diff` must not mistake for something else: names, whole numbers, rounding, signs, zeros, shards."""

from __future__ import annotations

import ml_dtypes
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


# ---- whole numbers ----------------------------------------------------------------------------------------------------------------------


def test_whole_numbers_are_compared_exactly_with_floats() -> None:
    t = of(np.array([2**53 + 1, 1]), np.array([2.0**53, 1]))
    assert (t.status, t.changed) == ("changed", 1)
    assert "[0] from 9007199254740993 to 9007199254740992" in t.text
    assert of(np.array([2**53, 1]), np.array([2.0**53, 1])).status == "identical"
    assert of(np.full(4, 2**63 - 1), np.full(4, 2.0**63)).changed == 4
    assert of(np.full(4, -(2**63)), np.full(4, -(2.0**63))).status == "identical"
    assert of(np.full(4, 2**64 - 1, np.uint64), np.full(4, 2.0**64)).changed == 4
    assert of(np.full(4, -1), np.full(4, 2**64 - 1, np.uint64)).changed == 4
    assert of(np.full((2, 3), 2**60 + 1), np.full((3, 2), 2**60)).kind not in ("reshaped", "transposed")
    assert of(np.full((2, 3), 2**60 + 1), np.full((4, 3), 2**60)).text.endswith(
        "0 of 6 values that both have places for are the same"
    )


def test_large_whole_numbers_are_explained_by_what_happened() -> None:
    big = np.full(10, 2**60)
    assert of(big, big + 1).text == "only a shift: 1 was added to every value"
    top = np.full((4, 4), 2**64 - 1, np.uint64)
    assert of(top, top - np.uint64(1)).text == "only a shift: -1 was added to every value"
    one = big.copy()
    one[3] += 3
    assert "from 1152921504606846976 to 1152921504606846979" in of(big, one).text
    a, b = np.array([2**60, 2**60 + 1, 5] * 8), np.array([2**60 + 1, 2**60, 5] * 8)
    assert of(a, b).kind == "permutation"
    rows = np.arange(2**60, 2**60 + 24).reshape(4, 6)
    t = of(rows, rows[[2, 0, 1, 3]])
    assert t.order is not None
    assert t.order[0].tolist() == [2, 0, 1, 3]
    noisy = big + np.arange(10) % 3
    assert of(big, noisy).kind in ("sparse", "dense")
    assert (of(big, noisy).changed, of(big, noisy).relative > 0) == (6, True)


def test_factors_and_shifts_of_whole_numbers() -> None:
    whole = np.arange(100).reshape(10, 10)
    assert of(whole, whole + 7).text == "only a shift: 7 was added to every value"
    assert of(whole, whole * 3).text == "only a scale: every value times 3"
    assert of(whole * 4, whole * 2).text == "only a scale: every value times 0.5"
    assert of(whole * 2**40, whole * 2**40 * 5).text == "only a scale: every value times 5"
    assert of(whole.astype(np.uint8), (whole + 50).astype(np.uint8)).kind == "shift"
    assert of(whole, whole * np.arange(1, 11)[:, None]).text.startswith(
        "only a scale of rows: 9 of 10 rows times 2 to 10"
    )
    large = whole + 2**50
    off = large * 3
    off[5, 5] += 1
    assert of(large, off).kind not in ("scale", "shift")
    off = whole * 3
    off[5, 5] += 1
    assert of(whole, off).kind not in ("scale", "shift")
    assert of(whole > 50, whole > 40).kind not in ("scale", "shift", "pruned")


# ---- factors ----------------------------------------------------------------------------------------------------------------------------

SHORT = ["bfloat16", "float16"]


def short(dtype: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, dtype, None) or dtype)


def moved(w: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Values moved by so many units in the last place, away from zero."""
    return (w.view(np.int16) + by.astype(np.int16)).view(w.dtype)


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("shape", [(768,), (64, 32), (256, 64)], ids=str)
def test_moves_by_the_last_places_are_no_factor(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal(shape).astype(short(dtype))
    gain = (1 + 0.02 * rng.standard_normal(shape)).astype(short(dtype))
    some = rng.random(shape)
    two = np.zeros(shape)
    two.flat[[0, 100]] = 1
    for a in (w, gain):
        noisy = (a.astype(np.float32) * (1 + 0.004 * rng.standard_normal(shape))).astype(short(dtype))
        steps = ((some < 0.3) * rng.choice([-1, 1], shape), some < 0.1, 3 * (some < 0.1), two)
        for b in (*(moved(a, by) for by in steps), noisy):
            t = of(a, b)
            assert t.kind in ("sparse", "dense", "noise", "low rank", "unrelated"), t.text
            assert t.kind != "low rank" or dtype == "bfloat16", t.text
    assert of(w, moved(w, two)).text.startswith("2 values of")


@pytest.mark.parametrize("dtype", [*SHORT, "float32", "float64"])
@pytest.mark.parametrize("factor", [1.3, 2, -0.7, 0.99, 1e-3])
def test_rounded_products_are_a_factor(dtype: str, factor: float) -> None:
    kept = short(dtype)
    w = W.astype(kept)
    t = of(w, w * np.array(factor, kept))
    assert t.kind == "scale", t.text
    inside = np.dtype(np.float64 if dtype == "float64" else np.float32)
    in_full = (w.astype(inside) * inside.type(factor)).astype(kept)
    t = of(w, in_full)
    assert t.kind == "scale", t.text
    assert t.factors is not None
    assert t.factors[0][0] == pytest.approx(factor, rel=5e-3)
    rows = np.random.default_rng(2).uniform(0.5, 2, (64, 1)).astype(kept)
    columns = np.random.default_rng(3).uniform(0.5, 2, (1, 32)).astype(kept)
    for factors, by in ((rows, "rows"), (columns, "columns"), (rows * columns, "rows and columns")):
        assert of(w, w * factors).text.startswith(f"only a scale of {by}: ")
    nearly = w.copy()
    nearly[3] = w[3] * np.array(1.5, kept)
    assert of(w, nearly).text == "only a scale of rows: 1 of 64 rows times 1.5 to 1.5"


def test_small_numbers_have_factors_of_their_own() -> None:
    other = np.random.default_rng(5).standard_normal(W.shape)
    for scale, dtype in ((1e-39, np.float32), (1e-42, np.float32), (1e-7, np.float16), (1e-310, np.float64)):
        a, b = (W * np.float64(scale)).astype(dtype), (other * scale).astype(dtype)
        assert of(a, b).kind not in ("scale", "shift", "rounding"), of(a, b).text
        assert of(a, a * dtype(2)).text == "only a scale: every value times 2"
    a = W.copy()
    a[5] *= np.float32(1e-40)
    b = a * 2
    assert of(a, b).text == "only a scale: every value times 2"
    b[5] = (other[5] * 1e-39).astype(np.float32)
    assert of(a, b).kind != "scale"


def test_a_factor_is_found_behind_zeros() -> None:
    for shape, first in (((300, 64), 100), ((9000,), 8000), ((20, 30, 30), 10)):
        a = np.zeros(shape, np.float32)
        a[first:] = np.random.default_rng(0).standard_normal(a[first:].shape)
        assert of(a, a * 2).text == "only a scale: every value times 2"


@pytest.mark.parametrize("dtype", SHORT)
def test_a_shift_is_one_number_for_all(dtype: str) -> None:
    w = W.astype(short(dtype))
    assert of(w, w + np.array(0.5, w.dtype)).kind == "shift"
    assert of(w, moved(w, np.random.default_rng(0).integers(-1, 2, w.shape))).kind not in ("shift", "scale")

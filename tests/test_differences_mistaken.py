"""What `wl.diff` must not mistake for something else: names, whole numbers, rounding, signs, zeros, shards."""

from __future__ import annotations

import json
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import weightlapse as wl
from weightlapse.differences.pairing import _by_ending
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
    assert of(big + 1, big.astype(float)).text == "only rounding: rounded to float64; float64 where A has int64"
    assert of(big.astype(float), big + 1).kind == "rounding"
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
@pytest.mark.parametrize("shape", [(768,), (64, 32), (256, 256)], ids=str)
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
            assert t.kind in ("sparse", "dense", "noise"), t.text
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
    assert of(w, nearly).text == "only a scale of rows: 1 of 64 rows times 1.5"


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


def test_two_roundings_of_the_same_numbers_are_a_factor_apart() -> None:
    wide = W.astype(np.float64)
    for scale, dtype in ((1e37, np.float32), (0.7, np.float32), (1e-310, np.float64), (1e-41, np.float32)):
        a, b = (wide * scale).astype(dtype), (wide * (1.7 * scale)).astype(dtype)
        assert of(a, b).text.startswith("only a scale: every value times 1.7"), of(a, b).text


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


# ---- signs, zeros, NaN ------------------------------------------------------------------------------------------------------------------


def test_signs_of_single_values_are_not_those_of_rows() -> None:
    rng = np.random.default_rng(0)
    two = W.copy()
    two[[2, 5], [3, 6]] *= -1
    assert of(W, two).text == "only signs: 0.098 % of the values (2) have the other sign"
    some = np.where(rng.random(W.shape) < 0.05, -W, W)
    count = int((some != W).sum())
    assert of(W, some).text.endswith(f"({count}) have the other sign")
    rows, columns = W.copy(), W.copy()
    rows[[3, 9]] *= -1
    columns[:, 4] *= -1
    assert of(W, rows).text == "only signs: 2 rows have the other sign"
    assert of(W, columns).text == "only signs: 1 column has the other sign"
    pruned = np.where(np.abs(W) < 0.3, np.float32(0), W)
    assert of(pruned, -pruned).text == "only signs: every value has the other sign"
    number = W + 1j * W[::-1]
    assert (
        of(number, number.conj()).text == "only signs: every imaginary part has the other sign (the complex conjugate)"
    )


def test_signs_of_zeros_and_bits_of_nan_are_told_as_such() -> None:
    zeros = np.zeros((4, 4), np.float32)
    assert of(zeros, -zeros).text == "only the sign of zeros: 16 of 16 zeros; every value is the same"
    mixed = np.where(np.abs(W) < 0.3, np.float32(0), W)
    assert of(mixed, np.where(mixed == 0, np.float32(-0.0), mixed)).text.startswith("only the sign of zeros: ")
    nan = np.full(4, np.nan, np.float32)
    t = of(nan, np.full(4, 0x7FC00001, np.uint32).view(np.float32))
    assert (t.kind, t.text) == ("not finite", "only NaN with other bits: 4; every number is the same")
    part = np.where(W > 0, np.float32(np.nan), W)
    other = np.where(W > 0, np.uint32(0xFFC00002).view(np.float32), W)
    assert of(part, other).text == f"only NaN with other bits: {(W > 0).sum():,}; every number is the same"


def test_only_numbers_are_pruned() -> None:
    for gone in (np.nan, np.inf):
        a = np.where(W > 0, np.float32(gone), W)
        t = of(a, np.where(W > 0, np.float32(0), W))
        assert t.kind == "not finite"
        assert t.text.endswith("of A are gone; what was finite is the same")
    mask = W > 0
    assert of(mask, mask & (W > 0.3)).kind in ("sparse", "dense")
    assert of(mask[0], mask[0] & (W[0] > 0.3)).kind in ("sparse", "dense")
    assert of(W, np.where(np.abs(W) < 0.3, np.float32(0), W)).kind == "pruned"


def test_complex_against_real() -> None:
    t = of(W + 0j, W)
    assert (t.status, t.kind, t.relative) == ("changed", "dtype", 0)
    assert t.text == "real where A is complex: the same numbers, all imaginary parts are zero"
    assert of(W, W + 0j).text == "complex where A is real: the same numbers, all imaginary parts are zero"
    t = of(W + 1j * W, W)
    assert t.text == "real where A is complex; 100 % of the values differ in their imaginary parts alone"
    assert t.relative == pytest.approx(0.5**0.5)
    assert of(W + 0j, W * 3).relative == pytest.approx(2)
    pairs = np.stack([W, W * 2], axis=-1)
    assert of(W + 2j * W, pairs).text == "real where A is complex: the same as pairs (real part, imaginary part)"
    assert of(W + 0j, W[:3]).text == "another tensor: real 3×32 instead of complex 64×32"


# ---- folders ----------------------------------------------------------------------------------------------------------------------------


def test_missing_shards_and_other_files_of_a_folder(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    whole, part = tmp_path / "whole", tmp_path / "part"
    for folder in (whole, part):
        folder.mkdir()
        save_file({"a": W}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": W}, whole / "model-00002-of-00002.safetensors")
    assert wl.diff(whole, {"a": W, "b": W}).identical
    for a, b in ((whole, part), (part, whole)):
        with pytest.raises(wl.CannotRecord, match="1 of 2 shards are there"):
            wl.diff(a, b)
    (whole / "model-00002-of-00002.safetensors").rename(part / "other-00003-of-00003.safetensors")
    (part / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(wl.CannotRecord, match="1 of 3 shards are there"):
        wl.diff(part, {"b": W})
    single = tmp_path / "single"
    single.mkdir()
    save_file({"a": W}, single / "model.safetensors")
    assert wl.diff(single, {"a": W}).notes == []
    save_file({"a": W}, single / "consolidated.safetensors")
    d = wl.diff(single, {"a": W})
    assert d.identical
    assert d.summary.endswith("model.safetensors was read and consolidated.safetensors left out")
    save_file({"lora": W}, single / "adapter_model.safetensors")
    for a, b in ((single, {"a": W}), ({"a": W}, single)):
        with pytest.raises(wl.InvalidArgument, match=r"model\.safetensors and adapter_model\.safetensors"):
            wl.diff(a, b)


def test_a_script_can_tell_an_answer_from_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from weightlapse.cli import main

    for name, value in (("a", W), ("b", W * 2)):
        np.savez(tmp_path / f"{name}.npz", w=value)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:500])
    for other, code, identical in (("a", 0, True), ("b", 1, False), ("cut", 1, None)):
        with pytest.raises(SystemExit) as stopped:
            main(["diff", str(tmp_path / "a.npz"), str(tmp_path / f"{other}.npz"), "--json"])
        said = capsys.readouterr()
        assert stopped.value.code == code
        if identical is None:
            assert said.out == ""
            assert "cut.npz" in said.err
        else:
            assert json.loads(said.out)["identical"] is identical


# ---- names of tensors that hold the same ------------------------------------------------------------------------------------------------


def test_constants_under_other_names_are_paired_in_order() -> None:
    count = 3000
    a = {f"l{i}.b": np.zeros(16, np.float32) for i in range(count)}
    b = {f"m{i}.q": np.zeros(16, np.float32) for i in range(count)}
    d = wl.diff(a, b)
    assert {t.name: t.other for t in d.differing} == {f"m{i}.q": f"l{i}.b" for i in range(count)}
    assert {t.kind for t in d.differing} == {"renamed"}
    a, b = ({f"{p}{i}.{n}": np.ones(8) for i in range(3) for n in names} for p, names in (("l", "xy"), ("m", "yx")))
    ends = [(t.name[-1], str(t.other)[-1]) for t in wl.diff(a, b).differing]
    assert sorted(ends) == [("x", "x")] * 3 + [("y", "y")] * 3
    d = wl.diff({"a.x": np.zeros(8)}, {"b.y": np.zeros(8)})
    assert {t.status for t in d.differing} == {"added", "removed"}


def test_pairing_of_equal_tensors_takes_no_longer_than_their_names() -> None:
    a, b = ([f"{p}{i}.{p}" for i in range(20_000)] for p in "xy")
    start = time.process_time()
    assert len(_by_ending(a, b, told=False)) == 20_000
    assert time.process_time() - start < 5  # each against each would take minutes

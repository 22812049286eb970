"""Every number and kind of `wl.diff` beside its slow twin, block borders included."""

from __future__ import annotations

import numpy as np
import pytest

import weightlapse as wl
import weightlapse.differences.pair as pairs
import weightlapse.differences.spectrum as spectra
from tests import oracles_diff as slow
from weightlapse.differences.rounding import rounded

SHAPES = [(6, 9), (9, 6), (40, 24), (5, 4, 3, 3), (300, 7)]


def drawn(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(params=[pairs.BLOCK, 64], ids=["one block", "many blocks"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "BLOCK", request.param)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_are_those_of_the_definitions(shape: tuple[int, ...]) -> None:
    a = drawn(shape, 0)
    b = a + 0.3 * drawn(shape, 1) * (drawn(shape, 2) > 0)
    t, true = wl.diff({"w": a}, {"w": b}).tensors["w"], slow.numbers(a, b)
    for name in ("relative", "changed_share", "cosine"):
        assert getattr(t, name) == pytest.approx(true[name], rel=1e-9)
    assert t.signs_flipped == true["signs_flipped"]
    np.testing.assert_array_equal(t.rows, true["rows"])
    np.testing.assert_array_equal(t.columns, true["columns"])
    np.testing.assert_allclose(t.energy, true["energy"], atol=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 20, 60])
def test_a_sketch_sees_what_all_singular_values_show(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a = drawn((260, 330), 0)
    b = a + 0.01 * drawn((260, rank), 1) @ drawn((rank, 330), 2)
    whole = wl.diff({"w": a}, {"w": b}).tensors["w"]
    monkeypatch.setattr(spectra, "EXACT", 0)
    sketched = wl.diff({"w": a}, {"w": b}).tensors["w"]
    assert whole.rank == sketched.rank == rank
    np.testing.assert_allclose(sketched.energy[:rank], whole.energy[:rank], rtol=1e-6)
    assert sketched.directions is not None
    left, right = sketched.directions
    d = (b - a).astype(np.float64)
    np.testing.assert_allclose(left @ (left.T @ d @ right) @ right.T, d, atol=1e-5)


def test_the_rank_of_a_sketch_that_is_too_small_is_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "EXACT", 0)
    a = drawn((400, 500), 0)
    t = wl.diff({"w": a}, {"w": a + 0.1 * a * drawn((400, 500), 3)}).tensors["w"]
    assert t.rank is None
    assert "hold" in t.text


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_rank_of_an_edit_is_seen_through_the_rounding_of_short_floats(dtype: str) -> None:
    a = rounded(drawn((200, 160), 0).astype(np.float64), dtype)
    d = drawn((200, 2), 1).astype(np.float64) @ drawn((2, 160), 2)
    b = rounded(a + 0.2 * d, dtype)
    torch = pytest.importorskip("torch")
    kept = getattr(torch, dtype)
    t = wl.diff({"w": torch.from_numpy(a).to(kept)}, {"w": torch.from_numpy(b).to(kept)}).tensors["w"]
    assert (t.kind, t.rank) == ("low rank", 2), t.text


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("seed", range(4))
def test_kinds_are_those_of_the_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = drawn((5, 5), seed)
    edits = {
        "permutation": a[rng.permutation(5)][:, rng.permutation(5)],
        "scale": a * np.float32(rng.uniform(0.5, 3)),
        "pruned": np.where(rng.random(a.shape) < 0.4, np.float32(0), a),
        "rounding": rounded(a.astype(np.float64), "bfloat16").astype(np.float32),
        "": a + drawn(a.shape, seed + 100),
    }
    twins = {
        "permutation": slow.is_permutation,
        "scale": slow.is_scale,
        "pruned": slow.is_pruned,
        "rounding": slow.is_bfloat16_of,
    }
    for b in edits.values():
        t = wl.diff({"w": a}, {"w": b}).tensors["w"]
        for kind, twin in twins.items():
            assert (t.kind == kind) == twin(a, b) or t.status == "identical", (kind, t)


def test_the_twins_can_say_no() -> None:
    a = drawn((4, 4), 0)
    for twin in (slow.is_permutation, slow.is_scale, slow.is_pruned, slow.is_bfloat16_of):
        assert not twin(a, a + drawn((4, 4), 1))


def test_rounding_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    values = np.concatenate([drawn((4000,), 0), [0.0, -0.0, 1.00390625, 1.01171875, 1e-9, 300.0]]).astype(np.float64)
    for dtype in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"):
        theirs = torch.from_numpy(values.astype(np.float32)).to(getattr(torch, dtype)).double().numpy()
        np.testing.assert_array_equal(rounded(values, dtype), theirs)


def test_no_exact_kind_is_claimed_of_changes_that_have_none() -> None:
    rng = np.random.default_rng(0)
    exact = {"scale", "shift", "rounding", "permutation", "transposed", "pruned", "quantised", "signs", "low rank"}
    for _ in range(200):
        shape = tuple(rng.integers(2, 12, rng.integers(1, 5)))
        a = rng.standard_normal(shape).astype(rng.choice([np.float16, np.float32, np.float64]))
        b = (a + rng.choice([0.01, 0.1, 1]) * rng.standard_normal(shape) * np.abs(a)).astype(a.dtype)
        t = wl.diff({"w": a}, {"w": b}).tensors["w"]
        assert t.kind not in exact, (a.dtype, shape, t.text)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(
    "sizes",
    [
        (1e-90, 1e-90),
        (1e80, 1e80),
        (1e-140, 1e-140),
        (1e150, 1e150),
        (1.0, 1e-200),
        (1.0, 1e200),
        (1e-200, 1.0),
        (1e-290, 3.0),
        (1e90, 1e-90),
    ],
)
def test_values_of_any_size_keep_their_cosine_and_their_change(sizes: tuple[float, float]) -> None:
    a, b = (drawn((40, 20), seed).astype(np.float64) for seed in (0, 1))
    b = a + 0.3 * b
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    t = wl.diff({"w": a * sizes[0]}, {"w": b * sizes[1]}).tensors["w"]
    most = max(sizes)
    one, other = (size / most for size in sizes)
    assert t.cosine == pytest.approx((a * b).sum() / lengths[0] / lengths[1], rel=1e-9)
    assert t.relative == pytest.approx(np.linalg.norm(b * other - a * one) / lengths[0] / one, rel=1e-9)
    assert "zeros" not in t.text
    assert "nothing in common" not in t.text


def test_zeros_are_still_zeros() -> None:
    a = drawn((40, 20), 0).astype(np.float64)
    for size in (1.0, 1e-200, 1e200):
        from_zero = wl.diff({"w": a * 0}, {"w": a * size}).tensors["w"]
        assert (from_zero.relative, from_zero.cosine) == (np.inf, 0.0)
        assert ("A is all zeros" in from_zero.text) == (
            size >= 1.0
        )  # 1e-200 is nothing but zero in float32: A holds B rounded
        to_zero = wl.diff({"w": a * size}, {"w": a * 0}).tensors["w"]
        assert (to_zero.relative, to_zero.cosine) == (pytest.approx(1.0, rel=1e-12), 0.0)

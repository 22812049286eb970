"""Colours: codes, marks, scales, palettes, and the way through YUV."""

from __future__ import annotations

import numpy as np
import pytest

from weightlapse.errors import InvalidArgument
from weightlapse.film import colours, scales
from weightlapse.film.colours import MINUS_INF, NAN, OVER, PLUS_INF, UNDER, ZERO, encode


def test_every_kind_of_value_has_its_code() -> None:
    values = np.array([0.0, -2.0, 2.0, 2.1, -2.1, np.nan, np.inf, -np.inf, 1.0])
    assert encode(values, 2.0).tolist() == [ZERO, 0, 255, OVER, UNDER, NAN, PLUS_INF, MINUS_INF, 192]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "bool"])
def test_every_dtype_is_drawn(dtype: str) -> None:
    values = np.array([0, 1], dtype=dtype)
    assert encode(values, 1.0).tolist() == [ZERO, 255]


def test_float64_beyond_float32_is_a_number() -> None:
    assert encode(np.array([1e300, 2e300]), 1e300).tolist() == [255, OVER]


def test_a_zero_or_broken_scale_does_not_divide_by_zero() -> None:
    assert encode(np.zeros(2), 0.0).tolist() == [ZERO, ZERO]
    assert encode(np.array([np.nan]), np.inf).tolist() == [NAN]


@pytest.mark.parametrize("name", ["RdBu_r", "RdBu", "PuOr", "BrBG_r", "PRGn"])
def test_maps_are_matplotlibs(name: str) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    theirs = np.rint(matplotlib.colormaps[name](np.arange(256))[:, :3] * 255)
    assert np.abs(colours.colour_map(name).astype(int) - theirs).max() <= 1


def test_maps_of_matplotlib_are_found_by_name() -> None:
    assert colours.colour_map("coolwarm").shape == (256, 3)
    with pytest.raises(InvalidArgument, match=r"no colour map is called 'RdBlu'.*'RdBu"):
        colours.colour_map("RdBlu")


def test_unknown_theme() -> None:
    with pytest.raises(InvalidArgument, match="there are 'light', 'dark'"):
        colours.theme("sepia")


@pytest.mark.parametrize("name", colours.THEMES)
@pytest.mark.parametrize("cmap", ["RdBu_r", "night"])
def test_yuv_comes_back_within_two(name: str, cmap: str) -> None:
    """Through the reference formula in float; the films' own test goes through a real decoder."""
    table = colours.theme(name).table(cmap)
    y, u, v = (colours.to_yuv(table).astype(float) - [16, 128, 128]).T
    back = np.stack(
        [1.164384 * y + 1.596027 * v, 1.164384 * y - 0.391762 * u - 0.812968 * v, 1.164384 * y + 2.017232 * u], axis=1
    )
    assert np.abs(np.clip(np.rint(back), 0, 255) - table).max() <= 2


@pytest.mark.parametrize("used", [1, 3, 8])
def test_palettes_fit_and_keep_the_map(used: int) -> None:
    table = colours.theme("light").table("RdBu_r")
    entries, entry = colours.palette(table, used, "RdBu_r")
    assert len(entries) <= 256
    assert np.abs(entries[entry[:256]].astype(int) - table[:256]).max() <= 3
    assert (entries[entry[OVER : MINUS_INF + 1]] == table[OVER : MINUS_INF + 1]).all()
    assert (entries[entry[colours.GROUND]] == table[colours.GROUND]).all()
    assert (entries[entry[colours.INK]] == table[colours.INK]).all()
    full = [colours.series(i) + colours.SERIES_LEVELS - 1 for i in range(used)]
    assert (entries[entry[full]] == table[full]).all()


def test_scale_is_the_largest_weight() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    assert scales.of([values]).limit == np.abs(values).max()


def test_one_runaway_does_not_bleach_the_rest() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    usual = scales.of([values]).limit
    values[17] = 1e6
    assert scales.of([values]).limit < 3 * usual
    assert encode(values, scales.of([values]).limit)[17] == OVER


def test_scales_of_nothing_finite() -> None:
    assert scales.of([np.array([np.nan, np.inf])]).limit == 1.0
    assert scales.of([np.zeros(5)]).limit == 1.0
    assert scales.of([]).limit == 1.0


def test_signs_of_marks_differ_from_each_other() -> None:
    from weightlapse.film.painter import sign

    shapes = [sign(code, 12, 12) != code for code in (NAN, PLUS_INF, MINUS_INF, OVER)]
    for i, one in enumerate(shapes):
        assert 4 < one.sum() < 100
        for other in shapes[:i]:
            assert (one != other).any()

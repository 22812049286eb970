"""Colours: codes, marks, scales, palettes, and the way through YUV."""

from __future__ import annotations

import numpy as np
import pytest

from weightlapse.errors import InvalidArgument
from weightlapse.film import colours
from weightlapse.film.colours import HIGH, LOW, MARKS, MINUS_INF, NAN, OVER, PLUS_INF, UNDER, ZERO, encode
from weightlapse.picture import palette as palettes
from weightlapse.picture.limits import limit_of


def test_every_kind_of_value_has_its_code() -> None:
    values = np.array([0.0, -2.0, 2.0, 2.1, -2.1, np.nan, np.inf, -np.inf, 1.0])
    assert encode(values, 2.0).tolist() == [ZERO, LOW, HIGH, OVER, UNDER, NAN, PLUS_INF, MINUS_INF, 191]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "bool"])
def test_every_dtype_is_drawn(dtype: str) -> None:
    values = np.array([0, 1], dtype=dtype)
    assert encode(values, 1.0).tolist() == [ZERO, HIGH]


def test_float64_beyond_float32_is_a_number() -> None:
    assert encode(np.array([1e300, 2e300]), 1e300).tolist() == [HIGH, OVER]


def test_a_zero_or_broken_scale_does_not_divide_by_zero() -> None:
    assert encode(np.zeros(2), 0.0).tolist() == [ZERO, ZERO]
    assert encode(np.array([np.nan]), np.inf).tolist() == [NAN]


@pytest.mark.parametrize("name", ["RdBu_r", "RdBu", "PuOr", "BrBG_r", "PRGn"])
def test_maps_are_matplotlibs(name: str) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    theirs = np.rint(matplotlib.colormaps[name](np.linspace(0, 1, 251))[:, :3] * 255)
    assert (
        np.abs(palettes.colour_map(name).astype(int) - theirs).max() <= 3
    )  # theirs has 256 steps, none of them the middle


def test_maps_of_matplotlib_are_found_by_name() -> None:
    assert palettes.colour_map("coolwarm").shape == (251, 3)
    with pytest.raises(InvalidArgument, match=r"no colour map is called 'RdBlu'.*'RdBu"):
        palettes.colour_map("RdBlu")


def test_unknown_theme() -> None:
    with pytest.raises(InvalidArgument, match="there are 'light', 'dark'"):
        colours.table("sepia")


@pytest.mark.parametrize("name", palettes.THEMES)
@pytest.mark.parametrize("cmap", ["RdBu_r", "night"])
def test_yuv_comes_back_within_two(name: str, cmap: str) -> None:
    """Through the reference formula in float; the films' own test goes through a real decoder."""
    table = colours.table(name, cmap)
    y, u, v = (colours.to_yuv(table).astype(float) - [16, 128, 128]).T
    back = np.stack(
        [1.164384 * y + 1.596027 * v, 1.164384 * y - 0.391762 * u - 0.812968 * v, 1.164384 * y + 2.017232 * u], axis=1
    )
    assert np.abs(np.clip(np.rint(back), 0, 255) - table).max() <= 2


@pytest.mark.parametrize("used", [1, 3, 8])
def test_palettes_fit_and_keep_the_map(used: int) -> None:
    table = colours.table("light", "RdBu_r")
    entries, entry = colours.palette(table, used, "RdBu_r")
    assert len(entries) <= 256
    assert np.abs(entries[entry[LOW : HIGH + 1]].astype(int) - table[LOW : HIGH + 1]).max() <= 3
    assert (entries[entry[list(MARKS)]] == table[list(MARKS)]).all()
    assert (entries[entry[colours.GROUND]] == table[colours.GROUND]).all()
    assert (entries[entry[colours.INK]] == table[colours.INK]).all()
    full = [colours.series(i) + colours.SERIES_LEVELS - 1 for i in range(used)]
    assert (entries[entry[full]] == table[full]).all()


def test_scale_is_the_largest_weight() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    assert limit_of(values) == np.abs(values).max()


def test_one_runaway_does_not_bleach_the_rest() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    usual = limit_of(values)
    values[17] = 1e6
    assert limit_of(values) < 3 * usual
    assert encode(values, limit_of(values))[17] == OVER

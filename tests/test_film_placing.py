"""Where things go: every tensor drawn once, nothing overlaps, everything inside, for any network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles_film import Imagined
from weightlapse.film import colours
from weightlapse.film.colours import GAP, GROUND, NAN, OVER, encode
from weightlapse.film.movie import moments
from weightlapse.film.pair import Pair, compose_pair
from weightlapse.film.placing import place
from weightlapse.film.plates import Measure, Placed, plates
from weightlapse.film.scene import Order, compose
from weightlapse.film.surface import Surface
from weightlapse.film.tiles import Tile
from weightlapse.picture.arrangement import plain
from weightlapse.picture.compose import arrangement_of
from weightlapse.picture.reduce import typical

MLP = {
    "fc1.weight": (128, 64),
    "fc1.bias": (128,),
    "fc2.weight": (64, 128),
    "fc2.bias": (64,),
    "fc3.weight": (10, 64),
    "fc3.bias": (10,),
}
CNN = {
    "conv1.weight": (16, 1, 3, 3),
    "conv1.bias": (16,),
    "bn1.weight": (16,),
    "bn1.bias": (16,),
    "conv2.weight": (32, 16, 3, 3),
    "conv2.bias": (32,),
    "fc.weight": (10, 512),
    "fc.bias": (10,),
}
NEURON = {"weight": (1, 2), "bias": (1,)}
KERAS = {"dense/kernel": (64, 32), "dense/bias": (32,), "conv/kernel": (3, 3, 4, 8), "conv/bias": (8,)}
ODD = {
    "scalar": (),
    "long": (100_000,),
    "tall.weight": (50_000, 16),
    "wide.weight": (2, 90_000),
    "volume": (4, 3, 2, 5, 5),
}
DEEP = {
    f"layers.{i}.{name}": shape
    for i in range(38)
    for name, shape in {
        "attn.weight": (96, 32),
        "attn.bias": (96,),
        "up.weight": (64, 32),
        "up.bias": (64,),
        "down.weight": (32, 64),
        "down.bias": (32,),
        "norm.weight": (32,),
        "norm.bias": (32,),
    }.items()
}
NETWORKS = {"mlp": MLP, "cnn": CNN, "neuron": NEURON, "keras": KERAS, "odd": ODD, "deep": DEEP}


def check(placed: list[Placed], shapes: dict[str, tuple[int, ...]], width: int, height: int) -> None:
    """Every tensor has a tile, inside the box, even, and no two tiles or labels share a pixel."""
    tiles = [tile for plate in placed for tile in plate.tiles]
    assert sorted(tile.name for tile in tiles) == sorted(shapes)
    taken = np.zeros((height, width), dtype=np.int32)
    for plate in placed:
        assert plate.tiles[0].y >= plate.y + plate.label
        taken[plate.y : plate.y + plate.label, plate.x : plate.x + plate.width] += 1
    for tile in tiles:
        assert tile.x % 2 == tile.y % 2 == tile.cell[0] % 2 == tile.cell[1] % 2 == 0
        assert tile.x >= 0
        assert tile.y >= 0
        assert tile.x + tile.width <= width
        assert tile.y + tile.height <= height
        taken[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += 1
        assert len(tile.row_map) == tile.height
        assert len(tile.column_map) == tile.width
    assert taken.max() == (1 if placed else 0)  # a box that is smaller than the letters of its picture may hold nothing


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(860, 560), (600, 700), (2600, 1700)])
def test_every_network_is_laid_out(name: str, size: tuple[int, int]) -> None:
    shapes = NETWORKS[name]
    placed, missing = place(plates(shapes), *size, Measure.of(size[0] * 3 // 2, size[1] * 5 // 4))
    assert missing == 0
    check(placed, shapes, *size)


def test_the_check_sees_an_overlap() -> None:
    placed, _ = place(plates(MLP), 860, 560, Measure.of(1280, 720))
    placed[1] = placed[1].moved(placed[0].x, placed[0].y)
    with pytest.raises(AssertionError):
        check(placed, MLP, 860, 560)


def test_what_does_not_fit_is_counted() -> None:
    placed, missing = place(plates(DEEP), 200, 100, Measure.of(320, 200))
    assert 0 < len(placed) < len(plates(DEEP))
    assert missing == len(plates(DEEP)) - len(placed)


def test_a_good_share_of_the_space_is_used() -> None:
    for shapes in (MLP, CNN):
        placed, _ = place(plates(shapes), 860, 560, Measure.of(1280, 720))
        assert sum(t.width * t.height for p in placed for t in p.tiles) > 0.45 * 860 * 560


def test_equal_layers_have_equal_sizes() -> None:
    shapes = {f"l{i}.weight": (40, 40) for i in range(5)} | {"head.weight": (10, 40)}
    placed, _ = place(plates(shapes), 900, 500, Measure.of(1280, 720))
    assert len({p.tiles[0].cell for p in placed[:5]}) == 1


shape = st.lists(st.integers(1, 300), min_size=0, max_size=4).map(tuple).filter(lambda s: math.prod(s) < 2_000_000)


@settings(max_examples=40, deadline=None)
@given(st.lists(shape, min_size=1, max_size=12), st.integers(300, 1400), st.integers(250, 900))
def test_any_shapes_in_any_box(shapes: list[tuple[int, ...]], width: int, height: int) -> None:
    named = {f"t{i}.weight": s for i, s in enumerate(shapes)}
    placed, missing = place(plates(named), width // 2 * 2, height // 2 * 2, Measure.of(width * 2, height * 2))
    drawn = {name: named[name] for p in placed for name in p.plate.names}
    check(placed, drawn, width // 2 * 2, height // 2 * 2)
    assert missing == len(plates(named)) - len(placed)


kinds_of_names = st.sampled_from(
    ["{}.weight", "{}/kernel", "kernel", "attn{}.in_proj_weight", "wte{}.weight", "{}.experts.w", "{}"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    st.integers(80, 900),
    st.integers(60, 700),
    st.sampled_from([(160, 120), (320, 240), (854, 480), (1280, 720), (3840, 2160)]),
)
def test_any_network_with_its_biases_in_any_box(
    data: st.DataObject, width: int, height: int, size: tuple[int, int]
) -> None:
    """Boxes smaller than a label, biases beside and below, kinds of every sort: a place for each, or counted as missing; never an error."""
    named: dict[str, tuple[int, ...]] = {}
    for i in range(data.draw(st.integers(1, 6))):
        name = data.draw(kinds_of_names).format(f"l{i}")
        s = data.draw(shape)
        named[name] = s
        if len(s) >= 2 and data.draw(st.booleans()):
            bias = name.replace("weight", "bias").replace("kernel", "bias")
            named.setdefault(bias, (data.draw(st.sampled_from([s[0], s[-1]])),))
    width, height = width // 2 * 2, height // 2 * 2
    placed, missing = place(plates(named), width, height, Measure.of(*size))
    assert missing == len(plates(named)) - len(placed)
    check(placed, {name: named[name] for p in placed for name in p.plate.names}, width, height)
    for tile in (t for p in placed for t in p.tiles):
        tile.codes(np.zeros(tile.arrangement.shape), 1.0)


NARROW = {"kernel": (10, 8), "bias": (8,)}


@pytest.mark.parametrize("shapes", [NARROW, {"kernel": (8, 10), "bias": (10,)}, {"weight": (300, 2), "bias": (300,)}, {"conv/kernel": (3, 3, 1, 40), "conv/bias": (40,)},
                                    {"a.weight": (2, 500), "a.bias": (2,), "b.bias": (7,)}])  # fmt: skip
@pytest.mark.parametrize("size", [(1280, 720), (854, 480), (320, 240), (160, 120), (480, 854)])
def test_one_run_or_two_in_any_size(shapes: dict[str, tuple[int, ...]], size: tuple[int, int]) -> None:
    """The film itself: alone, and beside another with their difference, down to boxes too small for a label."""
    large = size[0] >= 400 and size[1] >= 260  # smaller pictures of two are refused in words
    for other in (None, Imagined(shapes, 3)) if large else (None,):
        run: Any = Imagined(shapes, 3) if other is None else Pair(Imagined(shapes, 3), other, align=False)
        order = Order(list(shapes), np.arange(3), size)
        scene = compose(run, order) if other is None else compose_pair(run, order)
        surface = Surface(*size, colours.table("light"))
        drawn = []
        for moment in moments(run, scene, np.arange(3)):
            scene.draw(surface, moment)
            drawn.append(np.stack(surface.planes, axis=2).copy())
        assert (drawn[0] != drawn[-1]).any()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(shape, min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from(["{}.weight", "{}/kernel"]),
    st.sampled_from([(400, 260), (426, 480), (854, 480)]),
)
def test_two_runs_of_any_network(shapes: list[tuple[int, ...]], below: bool, form: str, size: tuple[int, int]) -> None:
    named: dict[str, tuple[int, ...]] = {}
    for i, s in enumerate(shapes):
        named[form.format(f"l{i}")] = s
        if len(s) > 1:
            named[f"l{i}.bias" if "." in form else f"l{i}/bias"] = (s[-1 if below else 0],)
    pair = Pair(Imagined(named, 2), Imagined(named, 2), align=False)
    scene = compose_pair(pair, Order(list(named), np.arange(2), size))
    surface = Surface(*size, colours.table("light"))
    for moment in moments(pair, scene, np.arange(2)):
        scene.draw(surface, moment)


def test_biases_stand_beside_their_rows() -> None:
    by_main = {b.main: b for b in plates(MLP | CNN | KERAS)}
    assert by_main["fc1.weight"].beside == ("fc1.bias",)
    assert by_main["dense/kernel"].below == ("dense/bias",)
    assert by_main["bn1.weight"].below == ("bn1.bias",)
    placed, _ = place(plates({"fc.weight": (12, 30), "fc.bias": (12,)}), 800, 500, Measure.of(1280, 720))
    matrix, bias = placed[0].tiles
    assert np.array_equal(matrix.row_map, bias.row_map)  # row for row
    assert bias.y == matrix.y
    assert bias.x > matrix.x + matrix.width


def test_cells_show_the_right_weights() -> None:
    """A tile's cells against the arrangement's own word: matrix, kernels, strips; nothing twice, nothing left out."""
    rng = np.random.default_rng(0)
    seen = set()
    for shapes in (
        CNN,
        KERAS,
        {"k.kernel": (3, 3, 2, 5)},
        {"seven.weight": (7, 2, 5, 1)},
        {"v": (700,)},
        {"m.weight": (7, 9)},
    ):
        placed, _ = place(plates(shapes), 860, 560, Measure.of(1280, 720))
        for tile in (t for p in placed for t in p.tiles):
            value = rng.normal(size=tile.arrangement.shape)
            codes = tile.codes(value, 4.0)
            shown = codes[tile.row_map][:, tile.column_map]
            assert shown.shape == (tile.height, tile.width)
            if tile.thinned != (1, 1):
                continue
            for index in np.ndindex(*tile.arrangement.shape):
                row, column = tile.arrangement.cell(index)
                assert codes[row, column] == encode(np.array([value[index]]), 4.0)[0]
                # the last pixel of a cell always shows it: gaps are at the first
                assert shown[(row + 1) * tile.cell[1] - 1, (column + 1) * tile.cell[0] - 1] == codes[row, column]
            assert np.count_nonzero((codes != GROUND) & (codes != GAP)) == value.size
            seen.add((len(tile.arrangement.shape), tile.arrangement.wrapped, tile.upright))
    assert {(4, False, False), (2, False, False), (1, False, True), (1, False, False)} <= seen


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
def test_thinning_never_hides_a_spike(rows: int, columns: int, down: int, across: int, kind: int) -> None:
    rng = np.random.default_rng(rows * 41 + columns)
    values = rng.uniform(-1, 1, size=(rows, columns))
    spike = [9.0, -9.0, np.nan, np.inf][kind]
    at = int(rng.integers(rows)), int(rng.integers(columns))
    values[at] = spike
    drawn = typical(values, down, across, 1.5)
    assert drawn.shape == (-(-rows // down), -(-columns // across))
    assert np.array_equal(drawn[at[0] // down, at[1] // across], spike, equal_nan=True)
    others = np.delete(drawn.ravel(), at[0] // down * drawn.shape[1] + at[1] // across)
    assert np.isin(others, values).all()  # every cell is a weight of the tensor, no average


def test_gaps_are_taken_from_the_entry_behind_them() -> None:
    tile = Tile("k", arrangement_of("k.weight", (4, 4, 3, 3)), (6, 6))
    assert (tile.height, tile.width) == (4 * 18, 4 * 18)
    shown = tile.codes(np.ones((4, 4, 3, 3)), 1.0)[tile.row_map][:, tile.column_map]
    assert (shown[18:20] == GAP).all()  # between filters
    assert (shown[:, 18:20] == GAP).all()  # between the kernels of one
    assert (shown[20:36, 20:36] != GAP).all()
    assert (shown[:2, :2] != GAP).all()  # nothing before the first


def test_a_tile_says_nan_where_it_is() -> None:
    tile = Tile("w", plain((3, 3)), (8, 8))
    value = np.zeros((3, 3))
    value[1, 2], value[0, 0] = np.nan, 5
    codes = tile.codes(value, 1.0)
    assert codes[1, 2] == NAN
    assert codes[0, 0] == OVER


@pytest.mark.parametrize(
    ("groups", "tones"),
    [
        ({"first": [0], "rest": [1, 2, 3]}, [0, 1, 1, 1]),
        ({"odd": {"w": [1, 3]}, "even": {"w": [0, 2]}}, [1, 0, 1, 0]),
        ({"all": ("w", range(4))}, [0, 0, 0, 0]),
        (None, [0, 0, 0, 0]),
    ],
)
def test_bars_of_mass_have_the_colours_of_their_groups(tmp_path, groups, tones):
    import weightlapse as wl
    from weightlapse.film.moving import Mass

    seen = []
    before = Mass.draw

    def draw(self, painter, moment):
        seen.append(list(self.tones))
        before(self, painter, moment)

    with wl.watch({"w": np.ones((1, 4))}, tmp_path / "r") as rec:
        for k in range(2, 5):
            rec.step({"w": np.arange(4.0)[None] + k})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mass, "draw", draw)
        wl.make_film(tmp_path / "r", tmp_path / "f.gif", groups=groups, panels=("mass:w",), size=(480, 270), fps=4)
    assert seen
    assert all(one == tones for one in seen)

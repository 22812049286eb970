"""Where things go: every tensor drawn once, nothing overlaps, everything inside, for any network."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weightlapse.film.blocks import Measure, Placed, blocks
from weightlapse.film.colours import GROUND, NAN, OVER, encode
from weightlapse.film.grids import fold, grid, pixels, thin
from weightlapse.film.layout import place
from weightlapse.film.scales import Scale
from weightlapse.film.tiles import Tile

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
    tiles = [tile for block in placed for tile in block.tiles]
    assert sorted(tile.name for tile in tiles) == sorted(shapes)
    taken = np.zeros((height, width), dtype=np.int32)
    for block in placed:
        assert block.tiles[0].y >= block.y + block.label
        taken[block.y : block.y + block.label, block.x : block.x + block.width] += 1
    for tile in tiles:
        assert tile.x % 2 == tile.y % 2 == tile.cell[0] % 2 == tile.cell[1] % 2 == 0
        assert tile.x >= 0
        assert tile.y >= 0
        assert tile.x + tile.width <= width
        assert tile.y + tile.height <= height
        taken[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += 1
        assert len(tile.row_map) == tile.height
        assert len(tile.column_map) == tile.width
    assert taken.max() == 1


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(860, 560), (600, 700), (2600, 1700)])
def test_every_network_is_laid_out(name: str, size: tuple[int, int]) -> None:
    shapes = NETWORKS[name]
    placed, missing = place(blocks(shapes), *size, Measure.of(size[0] * 3 // 2, size[1] * 5 // 4))
    assert missing == 0
    check(placed, shapes, *size)


def test_the_check_sees_an_overlap() -> None:
    placed, _ = place(blocks(MLP), 860, 560, Measure.of(1280, 720))
    placed[1] = placed[1].moved(placed[0].x, placed[0].y)
    with pytest.raises(AssertionError):
        check(placed, MLP, 860, 560)


def test_what_does_not_fit_is_counted() -> None:
    placed, missing = place(blocks(DEEP), 200, 100, Measure.of(320, 200))
    assert 0 < len(placed) < len(blocks(DEEP))
    assert missing == len(blocks(DEEP)) - len(placed)


def test_a_good_share_of_the_space_is_used() -> None:
    for shapes in (MLP, CNN):
        placed, _ = place(blocks(shapes), 860, 560, Measure.of(1280, 720))
        assert sum(t.width * t.height for p in placed for t in p.tiles) > 0.45 * 860 * 560


def test_equal_layers_have_equal_sizes() -> None:
    shapes = {f"l{i}.weight": (40, 40) for i in range(5)} | {"head.weight": (10, 40)}
    placed, _ = place(blocks(shapes), 900, 500, Measure.of(1280, 720))
    assert len({p.tiles[0].cell for p in placed[:5]}) == 1


shape = st.lists(st.integers(1, 300), min_size=0, max_size=4).map(tuple).filter(lambda s: math.prod(s) < 2_000_000)


@settings(max_examples=40, deadline=None)
@given(st.lists(shape, min_size=1, max_size=12), st.integers(300, 1400), st.integers(250, 900))
def test_any_shapes_in_any_box(shapes: list[tuple[int, ...]], width: int, height: int) -> None:
    named = {f"t{i}.weight": s for i, s in enumerate(shapes)}
    placed, missing = place(blocks(named), width // 2 * 2, height // 2 * 2, Measure.of(width * 2, height * 2))
    drawn = {name: named[name] for p in placed for name in p.block.names}
    check(placed, drawn, width // 2 * 2, height // 2 * 2)
    assert missing == len(blocks(named)) - len(placed)


def test_biases_stand_beside_their_rows() -> None:
    by_main = {b.main: b for b in blocks(MLP | CNN | KERAS)}
    assert by_main["fc1.weight"].beside == ("fc1.bias",)
    assert by_main["dense/kernel"].below == ("dense/bias",)
    assert by_main["bn1.weight"].below == ("bn1.bias",)
    placed, _ = place(blocks({"fc.weight": (12, 30), "fc.bias": (12,)}), 800, 500, Measure.of(1280, 720))
    matrix, bias = placed[0].tiles
    assert np.array_equal(matrix.row_map, bias.row_map)  # row for row
    assert bias.y == matrix.y
    assert bias.x > matrix.x + matrix.width


def test_cells_show_the_right_weights() -> None:
    """A tile's cells against the obvious loop: matrix, kernels (torch and Keras order, cut into columns or not), folded strip."""
    rng = np.random.default_rng(0)
    networks = (
        CNN,
        {"k.kernel": (3, 3, 2, 5)},
        {"eight.weight": (8, 1, 3, 3)},
        {"seven.weight": (7, 2, 5, 1)},
        {"v": (700,)},
        {"m.weight": (7, 9)},
    )
    seen = set()
    for shapes in networks:
        placed, _ = place(blocks(shapes), 860, 560, Measure.of(1280, 720))
        for tile in (t for p in placed for t in p.tiles):
            value = rng.normal(size=tile.grid.shape)
            codes = tile.codes(value, Scale(4.0, 3.0))
            assert codes[tile.row_map][:, tile.column_map].shape == (tile.height, tile.width)
            if tile.thinned != (1, 1):
                continue
            high, broad = tile.grid.unit_rows, tile.grid.unit_columns
            filled = 0
            for index in np.ndindex(*tile.grid.shape):
                if tile.upright:
                    row, column = index[0], 0
                elif not tile.grid.kernels:
                    row, column = (0, *index) if len(index) == 1 else index
                elif tile.grid.channels_last:
                    row, column = index[3] * high + index[0], index[2] * broad + index[1]
                else:
                    row, column = index[0] * high + index[2], index[1] * broad + index[3]
                if tile.parts > 1 and tile.across:
                    per = math.ceil(tile.grid.rows / high / tile.parts) * high  # whole kernels in every piece
                    row, column = row % per, column + row // per * tile.grid.columns
                elif tile.parts > 1:
                    per = math.ceil(tile.grid.columns / tile.parts)
                    row, column = row + column // per, column % per
                assert codes[row, column] == encode(np.array([value[index]]), 4.0)[0]
                filled += 1
            assert np.count_nonzero(codes != GROUND) == filled
            seen.add((tile.grid.kernels, tile.parts > 1, tile.across))
    assert {(True, True, True), (True, False, True), (False, False, True), (False, True, False)} <= seen


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
def test_thinning_never_hides_a_spike(rows: int, columns: int, down: int, across: int, kind: int) -> None:
    rng = np.random.default_rng(rows * 41 + columns)
    values = rng.uniform(-1, 1, size=(rows, columns))
    spike = [9.0, -9.0, np.nan, np.inf][kind]
    at = int(rng.integers(rows)), int(rng.integers(columns))
    values[at] = spike
    drawn = thin(values, down, across, 1.5)
    assert drawn.shape == (-(-rows // down), -(-columns // across))
    assert np.array_equal(drawn[at[0] // down, at[1] // across], spike, equal_nan=True)
    others = np.delete(drawn.ravel(), at[0] // down * drawn.shape[1] + at[1] // across)
    assert np.isin(others, values).all()  # every cell is a weight of the tensor, no average


def test_fold_keeps_every_cell_once() -> None:
    codes = np.arange(30, dtype=np.uint16).reshape(10, 3)
    folded = fold(codes, 4, across=True)
    assert folded.shape == (3, 12)
    assert sorted(folded[folded != GROUND].tolist()) == list(range(30))
    assert folded[:, :3].tolist() == codes[:3].tolist()
    wide = fold(codes.T, 4, across=False)
    assert wide.shape == (12, 3)
    assert wide[:3].tolist() == codes.T[:, :3].tolist()


def test_pixel_maps_have_their_gaps() -> None:
    assert pixels(5, 4, 2, 2).tolist() == [0] * 4 + [1] * 4 + [5] * 2 + [2] * 4 + [3] * 4 + [5] * 2 + [4] * 4
    tile = Tile("k", grid((4, 2, 3, 3)), (6, 6), group=(3, 3), gap=(2, 4))
    assert (tile.height, tile.width) == (4 * 18 + 3 * 2, 2 * 18 + 4)
    codes = tile.codes(np.ones((4, 2, 3, 3)), Scale(1.0, 1.0))
    assert codes[tile.row_map][:, tile.column_map][18, 0] == GROUND


def test_a_tile_says_nan_where_it_is() -> None:
    tile = Tile("w", grid((3, 3)), (8, 8))
    value = np.zeros((3, 3))
    value[1, 2], value[0, 0] = np.nan, 5
    codes = tile.codes(value, Scale(1.0, 1.0))
    assert codes[1, 2] == NAN
    assert codes[0, 0] == OVER

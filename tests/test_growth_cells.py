"""Plans: how axes are laid out, how weights are divided, which groups go together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles_growth import exact_sum, lines_up, widened_layers
from weightlapse.errors import CannotGrow, InvalidArgument, UnknownTensor
from weightlapse.growth.arrays import grown_gradient, grown_value
from weightlapse.growth.cells import AxisMap, Cells, choose_parents, convex_parts, grown_cells
from weightlapse.growth.families import chosen_families
from weightlapse.wiring.data import Wiring


def cells_of(spec: str, sizes: dict[str, int], split: str = "random", seed: int = 0) -> tuple[Wiring, Cells]:
    wiring = Wiring.from_spec("weightlapse wiring 1\n" + spec)
    return wiring, grown_cells(wiring, chosen_families(wiring, sizes), split=split, rng=np.random.default_rng(seed))


MLP = """
tensor fc1.weight (8, 4)
tensor fc1.bias (8)
tensor fc2.weight (3, 8)
group fc1: 8 units, permutation
  fc1.weight[0]: out
  fc1.bias[0]: add
  fc2.weight[1]: in
"""


@given(st.integers(1, 9), st.integers(0, 20), st.integers(0, 10**6))
def test_parents_are_shared_out_evenly_and_the_old_units_come_first(old: int, more: int, seed: int) -> None:
    parents = choose_parents(old, old + more, np.random.default_rng(seed))
    assert parents[:old].tolist() == list(range(old))
    counts = np.bincount(parents, minlength=old)
    assert counts.max() - counts.min() <= 1


@given(st.integers(1, 6), st.integers(0, 15), st.integers(0, 10**6))
def test_random_parts_sum_to_one_and_keep_apart(old: int, more: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parents = choose_parents(old, old + more, rng)
    parts = convex_parts(parents, "random", rng)
    for parent in range(old):
        mine = np.sort(parts[parents == parent])
        assert mine.sum() == pytest.approx(1, abs=1e-14)
        assert (mine > 0).all()
        assert (np.diff(mine) > 0.2 / len(mine) ** 2).all()


def test_equal_parts_are_one_over_the_count() -> None:
    parents = np.array([0, 1, 2, 1, 1])
    assert convex_parts(parents, "equal", np.random.default_rng(0)).tolist() == [1, 1 / 3, 1, 1 / 3, 1 / 3]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("split", ["random", "equal"])
def test_the_parts_of_a_weight_sum_to_it_without_any_rounding(dtype: str, split: str) -> None:
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(5, 3)) * 10.0 ** rng.integers(-30 if dtype == "float64" else -4, 4, size=(5, 3))
    bits = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}[dtype]
    held = weights.astype(dtype if dtype != "bfloat16" else "float32")
    if dtype == "bfloat16":
        mantissa, exponent = np.frexp(held)
        held = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits).astype(np.float32)
    parents = np.array([0, 1, 2, 2, 0, 2, 2])
    parts = convex_parts(parents, split, rng)
    one = np.ones(7)
    out = grown_value("w", held, [(1, AxisMap(parents, parts, one, one > 1))], dtype=dtype)
    assert out.dtype == held.dtype
    for row in range(5):
        for parent in range(3):
            mine = out[row, parents == parent]
            assert exact_sum(mine.tolist()) == exact_sum([held[row, parent]])
            relative = np.abs(mine - held[row, parent] * parts[parents == parent]) / abs(held[row, parent])
            assert relative.max() <= 2.0 ** (1 - bits) * len(mine)
    if dtype == "bfloat16":  # every part is a bfloat16 number: the lower half of its float32 bits is zero
        assert not (out.view(np.uint32) & 0xFFFF).any()


def test_nan_and_infinite_weights_stay_what_they_are() -> None:
    held = np.array([[np.inf, np.nan, -np.inf, 2.0]], dtype=np.float32)
    parents = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    parts = convex_parts(parents, "random", np.random.default_rng(0))
    one = np.ones(8)
    out = grown_value("w", held, [(1, AxisMap(parents, parts, one, one > 1))])[0]
    assert out[[0, 4]].tolist() == [np.inf, np.inf]
    assert np.isnan(out[[1, 5]]).all()
    assert out[3] + out[7] == 2.0


def test_a_hidden_layer_is_widened_as_by_hand() -> None:
    rng = np.random.default_rng(1)
    _, cells = cells_of(MLP, {"fc1": 13})
    first, bias, second = rng.normal(size=(8, 4)), rng.normal(size=8), rng.normal(size=(3, 8))
    rows, biases, columns = widened_layers(
        first, bias, second, cells.lineage["fc1"].tolist(), cells.parts["fc1"].tolist()
    )
    assert np.array_equal(grown_value("fc1.weight", first, cells.maps_of("fc1.weight")), rows)
    assert np.array_equal(grown_value("fc1.bias", bias, cells.maps_of("fc1.bias")), biases)
    np.testing.assert_allclose(grown_value("fc2.weight", second, cells.maps_of("fc2.weight")), columns, rtol=1e-13)


def test_gradients_of_rows_carry_the_part_and_columns_do_not() -> None:
    _, cells = cells_of(MLP, {"fc1": 11})
    parents, parts = cells.lineage["fc1"], cells.parts["fc1"]
    rows, columns = np.ones((8, 4)), np.ones((3, 8))
    assert np.array_equal(grown_gradient(rows, cells.maps_of("fc1.weight"))[:, 0], parts)
    assert np.array_equal(grown_gradient(rows, cells.maps_of("fc1.weight"), power=2)[:, 0], parts**2)
    assert np.array_equal(grown_gradient(columns, cells.maps_of("fc2.weight")), np.ones((3, len(parents))))


@pytest.mark.parametrize(
    "place, outer, inner",
    [("k=6", 1, 6), ("at u + 4*[6]", 6, 1), ("at 3*u + 12*[2] + [3]", 2, 3), ("at u", 1, 1)],
)
def test_blocks_of_positions_keep_their_layout(place: str, outer: int, inner: int) -> None:
    length = 4 * outer * inner
    spec = f"tensor c.weight (4, 2)\ntensor fc.weight (3, {length})\ngroup c: 4 units, permutation\n  c.weight[0]: out\n  fc.weight[1]: in {place}\n"
    _, cells = cells_of(spec, {"c": 7})
    assert lines_up(cells.axes["fc.weight", 1].source.tolist(), outer, 4, inner, cells.lineage["c"].tolist())


def test_concatenated_groups_keep_their_order() -> None:
    spec = """
tensor a.weight (3, 2)
tensor b.weight (2, 2)
tensor fc.weight (1, 6)
group a: 3 units, permutation
  a.weight[0]: out
  fc.weight[1]: in
group b: 2 units, permutation
  b.weight[0]: out
  fc.weight[1]: in at 4 + u
"""
    _, cells = cells_of(spec, {"a": 5, "b": 3})
    a, b = cells.lineage["a"].tolist(), cells.lineage["b"].tolist()
    assert cells.axes["fc.weight", 1].source.tolist() == [*a, 3, *[4 + u for u in b]]


def test_one_group_on_both_axes_of_a_tensor() -> None:
    spec = """
tensor hh (8, 4)
group h: 4 units, permutation
  hh[0]: out at u + 4*[2]
  hh[1]: in
"""
    _, cells = cells_of(spec, {"h": 6})
    assert [axis for axis, _ in cells.maps_of("hh")] == [0, 1]
    assert grown_value("hh", np.ones((8, 4)), cells.maps_of("hh")).shape == (12, 6)
    assert lines_up(cells.axes["hh", 0].source.tolist(), 2, 4, 1, cells.lineage["h"].tolist())


HEADS = """
tensor v (6, 5)
tensor o (5, 6)
group heads: 2 units, permutation
  v[0]: out k=3
  o[1]: in k=3
group d0: 3 units, permutation
  parent heads 0
  v[0]: out
  o[1]: in
group d1: 3 units, permutation
  parent heads 1
  v[0]: out at 3 + u
  o[1]: in at 3 + u
"""


def test_dims_of_all_heads_grow_together_and_before_the_heads() -> None:
    _, cells = cells_of(HEADS, {"heads": 3, "d0": 4})
    dims, heads = cells.lineage["d1"].tolist(), cells.lineage["heads"].tolist()
    assert cells.lineage["d0"].tolist() == dims
    assert cells.axes["v", 0].source.tolist() == [3 * h + d for h in heads for d in dims]
    value = np.arange(30.0).reshape(5, 6)
    grown = grown_value("o", value, cells.maps_of("o"))
    for source in range(6):
        assert grown[:, cells.axes["o", 1].source == source].sum(1) == pytest.approx(value[:, source])


def test_slabs_that_cover_a_tensor_are_one_member() -> None:
    spec = """
tensor a.weight (4, 3)
tensor g.weight (6, 2)
group halves: 2 units, permutation
  a.weight[0]: out k=2
group c0: 2 units, permutation
  parent halves 0
  a.weight[0]: out
  g.weight[1]: in where 0: 0,1,2
group c1: 2 units, permutation
  parent halves 1
  a.weight[0]: out at 2 + u
  g.weight[1]: in where 0: 3,4,5
"""
    _, cells = cells_of(spec, {"c1": 3})
    assert cells.lineage["c0"].tolist() == cells.lineage["c1"].tolist()
    assert len(cells.lineage["c0"]) == 3
    assert cells.axes["g.weight", 1].source.tolist() == cells.lineage["c0"].tolist()


def test_a_layer_name_takes_the_total_of_its_nested_groups() -> None:
    spec = HEADS.replace("  v[0]: out k=3\n", "")
    assert len(cells_of(spec, {"v": 8})[1].lineage["d0"]) == 4
    with pytest.raises(InvalidArgument, match="not a multiple of 2"):
        cells_of(spec, {"v": 7})


@pytest.mark.parametrize(
    "sizes, error, text",
    [
        ({}, InvalidArgument, "no group was named"),
        ({"fc1": 7}, InvalidArgument, "would be fewer"),
        ({"fc1": 0}, InvalidArgument, "whole number"),
        ({"fc1": 9.5}, InvalidArgument, "whole number"),
        ({"fc1": True}, InvalidArgument, "whole number"),
        ({"fc": 9}, UnknownTensor, "nearest: 'fc1'"),
    ],
)
def test_sizes_that_cannot_be_meant(sizes: dict[str, int], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        cells_of(MLP, sizes)


def test_the_same_units_named_twice() -> None:
    spec = MLP.replace("group fc1", "group hidden")
    assert len(cells_of(spec, {"hidden": 9, "fc1": 9})[1].lineage["hidden"]) == 9
    with pytest.raises(InvalidArgument, match=r"same units .* different sizes"):
        cells_of(spec, {"hidden": 9, "fc1": 10})


def test_an_unknown_split() -> None:
    with pytest.raises(InvalidArgument, match="split must be"):
        cells_of(MLP, {"fc1": 9}, split="even")


@pytest.mark.parametrize(
    "spec, text",
    [
        (MLP.replace("fc2.weight[1]: in", "fc2.weight[1]: in+out"), "tied"),
        (MLP.replace("fc2.weight[1]: in", "fc2.weight[1]: in where 0: 0,1"), "ragged"),
        (
            MLP.replace("fc2.weight (3, 8)", "fc2.weight (3, 16)").replace(
                "fc2.weight[1]: in", "fc2.weight[1]: in at 0 | 2 | 4 | 6 | 8 | 10 | 12 | 14"
            ),
            "one after the other",
        ),
    ],
)
def test_layouts_that_cannot_take_more_units(spec: str, text: str) -> None:
    with pytest.raises(CannotGrow, match=text):
        cells_of(spec, {"fc1": 9})


def test_a_quantised_consumer_is_refused() -> None:
    _, cells = cells_of(MLP, {"fc1": 9})
    with pytest.raises(CannotGrow, match="int8"):
        grown_value("fc2.weight", np.ones((3, 8), dtype=np.int8), cells.maps_of("fc2.weight"))


def test_a_complex_consumer_is_divided_in_both_halves() -> None:
    _, cells = cells_of(MLP, {"fc1": 12})
    value = np.random.default_rng(0).normal(size=(3, 8, 2)).view(np.complex128)[..., 0]
    grown = grown_value("fc2.weight", value, cells.maps_of("fc2.weight"))
    summed = np.zeros((3, 8), dtype=complex)
    np.add.at(summed.T, cells.lineage["fc1"], grown.T)
    assert np.array_equal(summed, value)

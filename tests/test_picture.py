"""The one model of pictures against its slow twin: arrangement by kind, reading, scale, colours, signs, ticks."""

from __future__ import annotations

import json
import math
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.oracles_picture as oracle
from weightlapse.film.tiles import Tile
from weightlapse.picture import cases
from weightlapse.picture.arrangement import Arrangement, Level, plain
from weightlapse.picture.cells import sign
from weightlapse.picture.codes import codes
from weightlapse.picture.compose import alike, arrangement, arrangement_of, arrangements, strip
from weightlapse.picture.fused import LSTM, gates, parts
from weightlapse.picture.kinds import kind_of, kinds
from weightlapse.picture.limits import limit_of, limit_over
from weightlapse.picture.numbers import short
from weightlapse.picture.palette import THEMES, rgb, table, theme
from weightlapse.picture.raster import raster
from weightlapse.picture.sample import limit, sample
from weightlapse.picture.ticks import side
from weightlapse.picture.words import describe

CASES = [(name, shape, network) for network in cases.NETWORKS.values() for name, shape in network.items()]


def test_the_file_of_cases_is_the_one_that_is_written_now() -> None:
    assert cases.PATH.read_text(encoding="utf-8") == cases.text(), (
        "run python -m weightlapse.picture.cases, and look at what changed"
    )


@pytest.mark.parametrize(
    "name,shape,expected",
    [
        ("fc.weight", (5, 7), oracle.as_stored((5, 7))),
        ("dense/kernel", (5, 7), oracle.as_stored((5, 7))),
        ("fc.bias", (5,), oracle.as_stored((5,))),
        ("conv.weight", (8, 6, 3, 3), oracle.filters((8, 6, 3, 3), filter_axis=0, input_axis=1, per_line=1)),
        ("conv/kernel", (3, 3, 16, 32), oracle.filters((3, 3, 16, 32), filter_axis=3, input_axis=2, per_line=1)),
        ("first.weight", (24, 1, 3, 3), oracle.filters((24, 1, 3, 3), filter_axis=0, input_axis=1, per_line=6)),
        ("first.weight", (16, 3, 5, 5), oracle.filters((16, 3, 5, 5), filter_axis=0, input_axis=1, per_line=3)),
        ("first/kernel", (3, 3, 1, 24), oracle.filters((3, 3, 1, 24), filter_axis=3, input_axis=2, per_line=6)),
        ("line.weight", (5, 3, 4), oracle.filters((5, 3, 4), filter_axis=0, input_axis=1, per_line=1)),
        ("volume.weight", (3, 2, 2, 3, 3), oracle.filters((3, 2, 2, 3, 3), filter_axis=0, input_axis=1, per_line=3)),
        ("experts.w1", (8, 6, 9), oracle.matrices((8, 6, 9), 3)),
    ],
)  # fmt: skip
def test_every_kind_is_laid_out_as_the_obvious_loop_says(
    name: str, shape: tuple[int, ...], expected: oracle.Cells
) -> None:
    assert oracle.cells_of(arrangement_of(name, shape)) == expected


def test_a_kernel_of_keras_and_the_same_one_of_pytorch_are_one_picture() -> None:
    values = np.random.default_rng(0).normal(size=(32, 16, 3, 3))
    torch = arrangement_of("conv.weight", values.shape)
    keras = arrangement_of("conv/kernel", (3, 3, 16, 32))
    assert (keras.rows, keras.cols) == (torch.rows, torch.cols) == (96, 48)
    assert np.array_equal(torch.arrange(values), keras.arrange(values.transpose(2, 3, 1, 0)))


@pytest.mark.parametrize("name,shape,network", CASES, ids=[c[0] for c in CASES])
def test_cells_and_weights_are_one_to_one(
    name: str, shape: tuple[int, ...], network: dict[str, tuple[int, ...]]
) -> None:
    drawn = arrangements(network)[name]
    found = oracle.cells_of(drawn)
    assert sorted(found.values()) == sorted(np.ndindex(*shape))
    values = np.arange(math.prod(shape)).reshape(shape)
    cells, blank = drawn.arrange(values), drawn.blank()
    for (row, column), index in found.items():
        assert cells[row, column] == values[index]
        assert drawn.cell(index) == (row, column)
        assert not blank[row, column]
    assert blank.sum() == drawn.rows * drawn.cols - values.size
    assert np.array_equal(drawn.unfold(cells), values)
    empty = np.zeros_like(blank)
    for row, column, rows, columns in drawn.ends():
        empty[row : row + rows, column : column + columns] = True
    assert np.array_equal(empty, blank)


shapes = st.lists(st.integers(1, 7), min_size=0, max_size=5).map(tuple)
names = st.sampled_from(
    ["a.weight", "a/kernel", "attn.in_proj_weight", "wte.weight", "experts.w", "attn.q.kernel", "x", "l.weight_hh_l0"]
)


@settings(max_examples=150, deadline=None)
@given(names, shapes, st.data())
def test_a_region_is_read_as_cut_from_the_whole(name: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    drawn = arrangement_of(name, shape)
    values = np.arange(2 * math.prod(shape)).reshape(2, *shape)
    assert sorted(oracle.cells_of(drawn).values()) == sorted(np.ndindex(*shape))
    top, left = data.draw(st.integers(0, drawn.rows - 1)), data.draw(st.integers(0, drawn.cols - 1))
    rows, cols = (
        slice(top, data.draw(st.integers(top + 1, drawn.rows))),
        slice(left, data.draw(st.integers(left + 1, drawn.cols))),
    )
    assert np.array_equal(drawn.read_many(values, slice(0, 2), rows, cols), drawn.arrange(values)[:, rows, cols])
    assert np.array_equal(drawn.read(values, 1, rows, cols), drawn.arrange(values[1])[rows, cols])


def test_little_is_read_of_a_wrapped_table() -> None:
    class Source:
        read: tuple[slice, ...] = ()

        def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
            Source.read = key
            return np.zeros([len(range(*k.indices(n))) for k, n in zip(key, (1, 50_000, 8), strict=True)])

    drawn = arrangement_of("wte.weight", (50_000, 8))
    assert 1 < drawn.cols / drawn.rows < 3
    drawn.read(Source(), 0, slice(10, 12), slice(0, drawn.cols))
    assert Source.read[1].stop - Source.read[1].start == 2 * (drawn.cols // 8)


@pytest.mark.parametrize("name,shape,network", CASES, ids=[c[0] for c in CASES])
def test_pixels_are_those_of_the_twin(name, shape, network) -> None:  # type: ignore[no-untyped-def]
    drawn = arrangements(network)[name]
    values = cases.values_of(name, shape)
    end = limit_of(values)
    small = [("light", (12, 8)), ("light", (4, 4)), ("dark", (2, 2))] if drawn.rows * drawn.cols < 200 else []
    for theme_name, cell in [("dark", (6, 6)), *small]:
        ground, between = (tuple(map(int, rgb(word)[0])) for word in (theme(theme_name).ground, theme(theme_name).gap))
        picture = raster(values, drawn, end, cell, theme_name=theme_name)
        assert np.array_equal(picture, oracle.paint(values, drawn, end, cell, table(theme_name), ground, between))


@pytest.mark.parametrize("name,shape,network", CASES, ids=[c[0] for c in CASES])
def test_a_film_paints_the_same_pixels(name, shape, network) -> None:  # type: ignore[no-untyped-def]
    from weightlapse.film import colours
    from weightlapse.film.painter import Painter
    from weightlapse.film.surface import Surface

    drawn = arrangements(network)[name]
    values = cases.values_of(name, shape)
    end = limit_of(values)
    for theme_name in THEMES:
        colour = colours.table(theme_name)
        tile = Tile(name, drawn, (8, 8))
        surface = Surface(tile.width, tile.height, colour)
        Painter(surface, colours.signs(colour)).tile(tile, tile.codes(values, end))
        assert np.array_equal(
            np.stack(surface.planes, axis=2), raster(values, drawn, end, (8, 8), theme_name=theme_name)
        )


def test_heads_are_cut_where_the_wiring_says() -> None:
    torch = pytest.importorskip("torch")
    import weightlapse as wl

    model = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    wiring = wl.trace(model, torch.randn(2, 5, 32))
    found = {name: tuple(p.shape) for name, p in model.named_parameters()}
    drawn = arrangements(found, wiring)
    assert [(level.count, level.gap, level.unit) for level in drawn["self_attn.in_proj_weight"].down] == [
        (3, 2, "part"), (4, 1, "head"), (8, 0, "unit")]  # fmt: skip
    assert [(level.count, level.unit) for level in drawn["self_attn.out_proj.weight"].across] == [
        (4, "head"),
        (8, "input"),
    ]
    assert oracle.cells_of(drawn["self_attn.in_proj_weight"]) == oracle.as_stored(
        (96, 32)
    )  # a matrix stays where it is
    assert side(drawn["self_attn.in_proj_weight"], down=True, cell=8, room=20).ticks[1].text == "key"


def attention_parts(queries: int, shared: int, width: int, *, fused: bool):  # type: ignore[no-untyped-def]
    """Grouped attention as in Llama, or, fused, as in Falcon: of each group its queries, then its key and its value."""
    torch = pytest.importorskip("torch")

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            d = queries * width
            if fused:
                self.query_key_value = torch.nn.Linear(d, (queries + 2 * shared) * width)
            else:
                self.q_proj, self.k_proj, self.v_proj = (
                    torch.nn.Linear(d, n * width) for n in (queries, shared, shared)
                )
            self.o_proj = torch.nn.Linear(d, d)

        def forward(self, x):  # type: ignore[no-untyped-def]
            b, t, _ = x.shape
            if fused:
                grouped = self.query_key_value(x).view(b, t, shared, queries // shared + 2, width)
                q = grouped[..., :-2, :].reshape(b, t, queries, width)
                k, v = grouped[..., -2, :], grouped[..., -1, :]
            else:
                q = self.q_proj(x).view(b, t, queries, width)
                k, v = (layer(x).view(b, t, shared, width) for layer in (self.k_proj, self.v_proj))
            k, v = (one.repeat_interleave(queries // shared, dim=2) for one in (k, v))
            q, k, v = (one.transpose(1, 2) for one in (q, k, v))
            seen = torch.softmax(q @ k.transpose(-1, -2) / width**0.5, -1) @ v
            return self.o_proj(seen.transpose(1, 2).reshape(b, t, -1))

    import weightlapse as wl

    model = Attention()
    found = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return found, wl.trace(model, torch.randn(2, 5, queries * width))


@pytest.mark.parametrize("queries,shared", [(4, 2), (6, 2), (4, 4)])
def test_heads_that_share_key_and_value_are_set_apart_in_groups(queries: int, shared: int) -> None:
    found, wiring = attention_parts(queries, shared, 8, fused=False)
    drawn, kind = arrangements(found, wiring), kinds(found, wiring)
    levels = [(level.count, level.unit) for level in drawn["q_proj.weight"].down]
    each = queries // shared
    assert levels == ([(shared, "group"), (each, "head"), (8, "unit")] if each > 1 else [(shared, "head"), (8, "unit")])
    assert [(level.count, level.unit) for level in drawn["k_proj.weight"].down] == [(shared, "head"), (8, "unit")]
    assert [level.unit for level in drawn["o_proj.weight"].across] == [
        *(["group"] if each > 1 else []),
        "head",
        "input",
    ]
    told = describe(found["q_proj.weight"], kind["q_proj.weight"])
    assert told.endswith(f"{queries} heads in {shared} groups" if each > 1 else f"{queries} heads")


@pytest.mark.parametrize("queries,shared", [(4, 2), (6, 2), (4, 4)])
def test_interleaved_queries_keys_and_values_are_named_in_their_order(queries: int, shared: int) -> None:
    found, wiring = attention_parts(queries, shared, 8, fused=True)
    levels = arrangements(found, wiring)["query_key_value.weight"].down
    each = queries // shared
    assert [(level.count, level.unit) for level in levels] == [
        (shared, "group" if each > 1 else "head"), (each + 2, "part"), (8, "unit")]  # fmt: skip
    assert levels[1].names == ("query",) * each + ("key", "value")
    assert not any(
        level.names for level in arrangements(found)["query_key_value.weight"].down
    )  # without heads nobody knows


@pytest.mark.parametrize(
    "name,axis,shape,others,expected",
    [
        ("lstm.weight_ih_l0", 0, (16, 3), {"lstm.weight_hh_l0": (16, 2), "lstm.weight_hr_l0": (2, 4)}, LSTM),
        ("lstm.bias_hh_l1_reverse", 0, (12,), {"lstm.weight_hh_l1_reverse": (12, 5), "lstm.weight_hr_l1_reverse": (5, 3)}, LSTM),
        ("lstm.weight_hh_l0", 0, (16, 2), {"lstm.weight_hh_l0": (16, 2)}, ()),
        ("gru/kernel", 1, (5, 9), {"gru/recurrent_kernel": (3, 9)}, ("update", "reset", "new")),
        ("gru/bias", 1, (2, 9), {"gru/recurrent_kernel": (3, 9)}, ("update", "reset", "new")),
        ("gru.weight_ih_l0", 0, (9, 5), {"gru.weight_hh_l0": (9, 3)}, ("reset", "update", "new")),
        ("rnn.weight_ih_l0", 0, (4, 3), {"rnn.weight_hh_l0": (4, 4)}, ()),
    ],
)  # fmt: skip
def test_gates_are_named_in_the_order_of_their_framework(name, axis, shape, others, expected) -> None:  # type: ignore[no-untyped-def]
    assert gates(name, axis, shape, others) == expected


def test_a_projected_lstm_has_the_names_that_pytorch_gives() -> None:
    torch = pytest.importorskip("torch")
    found = {n: tuple(p.shape) for n, p in torch.nn.LSTM(3, 4, proj_size=2, bidirectional=True).named_parameters()}
    words = {n: kind.word for n, kind in kinds(found).items() if "weight_ih" in n or "weight_hh" in n}
    assert set(words.values()) == {"gates"}
    assert len(words) == 4


@pytest.mark.parametrize(
    "name,axis,shape,others,expected",
    [
        ("x.attn.kv.weight", 0, (16, 8), {}, ("key", "value")),
        ("to_kv.bias", 0, (16,), {"to_kv.weight": (16, 8)}, ("key", "value")),
        ("x.kv.weight", 0, (24, 8), {}, ()),
        ("a.qkv_proj.weight", 0, (32, 16), {"a.o_proj.weight": (16, 16)}, ("query", "query", "key", "value")),
        ("a.Wqkv.weight", 0, (40, 32), {"a.out_proj.weight": (32, 32)}, ("query",) * 8 + ("key", "value")),
        ("a.qkv_proj.weight", 0, (32, 16), {}, ()),
        ("attn.in_proj_bias", 0, (24,), {"attn.q_proj_weight": (8, 8), "attn.out_proj.weight": (8, 8)}, ("query", "key", "value")),
        ("h.query_key_value.weight", 0, (24, 8), {}, ()),
        ("h.0.attn.c_attn.weight", 1, (8, 24), {}, ("query", "key", "value")),
    ],
)  # fmt: skip
def test_what_is_fused_is_told_by_names_and_neighbours(name, axis, shape, others, expected) -> None:  # type: ignore[no-untyped-def]
    assert parts(name, axis, shape, others) == expected


@pytest.mark.parametrize(
    "network,name,filters",
    [
        ({"up.weight": (6, 4, 3, 3), "up.bias": (4,)}, "up.weight", 1),
        ({"up/kernel": (3, 3, 6, 4), "up/bias": (6,)}, "up/kernel", 2),
        ({"up.weight": (6, 4, 5), "up.bias": (4,)}, "up.weight", 1),
        ({"c.weight": (4, 4, 3, 3), "c.bias": (4,)}, "c.weight", 0),
    ],
)
def test_a_bias_tells_which_axis_the_filters_are_on(
    network: dict[str, tuple[int, ...]], name: str, filters: int
) -> None:
    assert kinds(network)[name].down[0] == filters


@pytest.mark.parametrize(
    "network,name,across",
    [
        ({"h.0.mlp.c_fc.weight": (4, 12), "h.0.mlp.c_fc.bias": (12,)}, "h.0.mlp.c_fc.weight", True),
        ({"h.0.mlp.c_fc.weight": (12, 4), "h.0.mlp.c_fc.bias": (12,)}, "h.0.mlp.c_fc.weight", False),
        ({"h.0.attn.c_attn.weight": (4, 12), "h.0.attn.c_proj.weight": (4, 4)}, "h.0.attn.c_proj.weight", True),
        ({"h.0.attn.c_attn.weight": (12, 4), "h.0.attn.c_proj.weight": (4, 4)}, "h.0.attn.c_proj.weight", False),
        ({"fc/kernel": (4, 4)}, "fc/kernel", True),
    ],
)
def test_the_columns_of_gpt_2_are_its_units(network: dict[str, tuple[int, ...]], name: str, across: bool) -> None:
    assert kinds(network)[name].units == (("input", "unit") if across else ("unit", "input"))


def test_the_units_of_a_transposed_convolution_are_its_second_axis() -> None:
    torch = pytest.importorskip("torch")
    import weightlapse as wl

    model = torch.nn.Sequential(torch.nn.ConvTranspose2d(4, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 2, 3))
    found = {name: tuple(p.shape) for name, p in model.named_parameters()}
    kind = kinds(found, wl.trace(model, torch.randn(1, 4, 8, 8)))["0.weight"]
    assert (kind.word, kind.down[0], kind.across[0]) == ("convolution", 1, 0)


@pytest.mark.parametrize(
    "name,shape,word",
    [("lstm.weight_hh_l0", (16, 4), "gates"), ("gru.weight_hh_l0", (12, 4), "gates"), ("fc.weight", (12, 4), "dense"),
     ("gradients:conv.weight", (8, 4, 3, 3), "convolution"), ("optimizer:conv.weight.exp_avg", (8, 4, 3, 3), "convolution"),
     ("moe.experts.w2", (4, 8, 16), "experts"), ("c.weight.magnitude", (8, 4, 3, 3), "convolution"), ("empty.weight", (0, 3), "dense")],
)  # fmt: skip
def test_kinds_are_told_by_names_and_shapes(name: str, shape: tuple[int, ...], word: str) -> None:
    assert kind_of(name, shape).word == word
    assert arrangement(shape, kind_of(name, shape)).shape == shape


def test_one_scale_for_film_and_page(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import weightlapse as wl
    from weightlapse.film.limits import over_frames
    from weightlapse.view.subject import Subject

    rng = np.random.default_rng(3)
    with wl.watch({"w": rng.standard_t(2, (60, 50)).astype(np.float32)}, tmp_path / "run") as rec:
        for _ in range(9):
            rec.step({"w": rng.standard_t(2, (60, 50)).astype(np.float32)})
    run = wl.load(tmp_path / "run")
    expected = limit_of(np.asarray(run["w"][:]))
    assert over_frames(run, ["w"], np.arange(10))["w"] == Subject(run, "run").limit("w") == limit(run, "w") == expected
    assert expected < np.abs(np.asarray(run["w"][:])).max()


def test_the_scale_looks_at_all_of_time() -> None:
    class Run:
        shapes = MappingProxyType({"w": (2, 2)})
        names = ("w",)
        layouts = ()
        steps = np.arange(1000)

        def __getitem__(self, name: str) -> np.ndarray:
            return np.arange(1000.0).reshape(-1, 1, 1) * np.ones((1, 2, 2))

    ((frames, values),) = sample(Run(), "w")
    assert frames[0] == 0
    assert frames[-1] == 999
    assert len(frames) <= 50
    assert np.array_equal(values[:, 0], frames)
    assert limit(Run(), "w", np.array([0, 1, 4, 9, 3])) == 9.0


def test_a_training_that_explodes_does_not_bleach_what_was_before() -> None:
    rng = np.random.default_rng(0)
    calm = rng.uniform(-1, 1, (40, 50))
    gone = rng.uniform(-1, 1, (20, 50)) * 1e12
    gone[:, 3] = np.nan
    assert limit_over([np.concatenate([calm, gone])]) == limit_of(calm)
    assert limit_over([calm, gone[:10]]) == limit_of(calm)  # it has changed its shape meanwhile
    grows = calm * np.linspace(0.01, 2, 40)[:, None]  # growing is no running away
    assert limit_over([grows]) == limit_of(grows)
    late = np.concatenate([np.zeros((35, 50)), calm[:5]])  # and what was zero for long is seen when it is not
    assert limit_over([late]) == limit_of(calm[:5])
    assert limit_over([calm[:1], 100 * calm[1:2]]) == limit_of(100 * calm[1:2])  # of two frames none is the usual one
    assert limit_over([]) == limit_over([np.full((3, 4), np.nan)]) == 1.0


def test_scales_of_nothing() -> None:
    assert limit_of(np.array([])) == limit_of(np.array([np.nan, np.inf])) == limit_of(np.zeros(3)) == 1.0
    assert limit_of(np.array([1e-40])) == 1e-35
    assert limit_of(np.array([*range(1, 200), 1e9])) == 199
    assert limit_of(np.array([0.0] * 200 + [5.0])) == 5  # where nearly all is zero the rest is what there is to see


@settings(max_examples=200)
@given(st.floats(width=32), st.floats(2**-20, 2**20))
def test_codes_are_the_table_of_the_module(value: float, end: float) -> None:
    assert int(codes(np.array([value], np.float32), end)[0]) == oracle.code(value, end)


def test_zero_is_the_middle_of_every_map_and_the_maps_are_even() -> None:
    for name in THEMES:
        colours = table(name).astype(int)
        assert len(colours) == 256
        assert np.abs(np.diff(colours[3:254], axis=0)).max() <= 8
    assert table("light")[128].tolist() == [247, 247, 247]
    assert codes(np.zeros(1), 1.0)[0] == 128


def test_signs_are_told_apart_at_every_size() -> None:
    for size in range(6, 40):
        shown = {code: sign(code, size, size) for code in (0, 1, 254, 255)}
        assert all(0 < mask.sum() < size * size / 2 for mask in shown.values())
        assert len({mask.tobytes() for mask in shown.values()}) == 4


def test_ticks_say_where_filters_and_heads_are() -> None:
    drawn = arrangement_of("first.weight", (24, 1, 3, 3))
    down, across = side(drawn, down=True, cell=12, room=20), side(drawn, down=False, cell=12, room=20)
    assert (down.unit, [t.text for t in down.ticks]) == ("filter", ["0", "6", "12", "18"])
    assert (across.unit, [(t.first, t.cells, t.text) for t in across.ticks][:2]) == (
        "filter",
        [(0, 3, "0"), (3, 3, "1")],
    )
    assert [t.text for t in side(plain((300, 4)), down=True, cell=2, room=50).ticks] == [
        "0",
        "50",
        "100",
        "150",
        "200",
        "250",
    ]
    assert side(arrangement_of("a.in_proj_weight", (24, 8)), down=True, cell=1, room=20).ticks == ()


def test_a_strip_in_lines() -> None:
    drawn = strip(10, 3)
    assert (drawn.rows, drawn.cols) == (3, 4)
    assert drawn.index(2, 1) == (9,)
    assert drawn.index(2, 2) is None
    assert strip(4, 1, upright=True) == Arrangement((4,), (Level(0, 4),), ())


def test_what_grows_keeps_its_lines() -> None:
    whole = arrangement_of("first.weight", (24, 1, 3, 3))
    before = alike(whole, (16, 1, 3, 3))
    assert oracle.cells_of(before) == oracle.filters((16, 1, 3, 3), filter_axis=0, input_axis=1, per_line=6)
    assert (before.rows, before.cols) == (9, whole.cols)
    assert alike(plain((10, 8)), (6, 8)) == plain((6, 8))
    assert alike(strip(10, 1, upright=True), (6,)) == strip(6, 1, upright=True)


def test_the_thumbnail_of_a_notebook_is_the_same_picture(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    import weightlapse as wl
    from weightlapse.view.subject import Subject
    from weightlapse.view.thumbnail import thumbnail

    weight = np.random.default_rng(0).normal(size=(7, 3, 5, 5)).astype(np.float32)
    with wl.watch({"conv.weight": weight}, tmp_path / "run"):
        pass
    run = wl.load(tmp_path / "run")
    data = thumbnail(Subject(run, "run")).partition("base64,")[2].partition("'")[0]
    with Image.open(BytesIO(b64decode(data))) as image:
        pixels = np.asarray(image)
    drawn = arrangement_of("conv.weight", weight.shape)
    cell = pixels.shape[0] // drawn.rows
    assert np.array_equal(pixels, raster(weight, drawn, limit_of(weight), (cell, cell)))


def test_numbers_are_short() -> None:
    told = {
        key if isinstance(key, str) else float(key): text for key, text in json.loads(cases.PATH.read_text())["numbers"]
    }
    assert told[0.35123] == short(0.35123) == "0.351"
    assert told["-inf"] == "−∞"

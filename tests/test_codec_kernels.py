"""The compiled kernels as Python runs them, on small chunks: every number is that of the slow reader of the page, and nothing is read beyond an array."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.interpreted import PASSES, interpreted, uncompiled
from tests.packed_chunks import (
    COLUMNS,
    HEIGHT,
    packed,
    under_all_rules,
    walking,
    with_pages,
)
from weightlapse.errors import DamagedRecording
from weightlapse.store.codecs import classes, decode, inverse, straight, unpack
from weightlapse.store.codecs import encode as encoding
from weightlapse.store.codecs.decode import Chunk, Decoded, Run
from weightlapse.store.codecs.entropy import FILE_HEADER, PageReader, PageWriter
from weightlapse.store.codecs.form import Columns
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.codecs.predict import DAMPED, LAST, LINEAR, MOMENTUM, NONE, SLOPE, Predictor, residuals

RULES = (NONE, LAST, LINEAR, MOMENTUM, DAMPED, SLOPE)
u8 = np.uint64


@pytest.fixture(scope="module", autouse=True)
def plain() -> Iterator[ModuleType]:
    """The decoder's kernels, uncompiled, in their places; numbers of Python's NumPy say it when they wrap, as these must."""
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore"):
        yield uncompiled(patch)


def test_what_runs_here_is_not_compiled(plain: ModuleType) -> None:
    for module, names in (
        (inverse, "_strips _tile _merge _grid_values"),
        (unpack, "unpack _tables _joined _counted"),
        (straight, "_opened _chunk_row _wanted_pages"),
    ):
        for name in names.split():
            assert getattr(module, name) is getattr(plain, name), name
            assert not hasattr(getattr(module, name), "py_func"), name
    with pytest.raises(IndexError):
        plain._word(np.zeros(7, np.uint8), u8(0))


# ---- bits and checksums ------------------------------------------------------------------------------------------------------


def test_bits_are_those_of_a_whole_number(plain: ModuleType) -> None:
    data = np.random.default_rng(0).integers(0, 256, 30, np.uint8)
    whole = int.from_bytes(data.tobytes(), "little")
    for at in range(22):
        assert int(plain._word(data, u8(at))) == whole >> 8 * at & (1 << 64) - 1
    for at, count in itertools.product(range(0, 100, 3), (0, 1, 7, 8, 31, 57)):
        assert int(plain._bits(data, u8(at), count)) == whole >> at & (1 << count) - 1, (at, count)


def test_checksums_are_joined_as_zlib_counts_them(plain: ModuleType) -> None:
    rng = np.random.default_rng(0)
    for sizes in ([], [0], [1], [5, 0, 3], [300, 1, 70, 4]):
        pages = [rng.bytes(size) for size in sizes]
        found = plain._joined(np.array([zlib.crc32(p) for p in pages], np.uint32), np.array(sizes, np.int64))
        assert int(found) == zlib.crc32(b"".join(pages)), sizes
        assert unpack.all_right(np.frombuffer(b"".join(pages), np.uint8), [zlib.crc32(p) for p in pages], sizes)
    assert not unpack.all_right(np.frombuffer(b"ab", np.uint8), [zlib.crc32(b"b"), zlib.crc32(b"a")], [1, 1])


@pytest.mark.parametrize("n", [1, 3, 4, 5, 9, 16])
@pytest.mark.parametrize("strip", [2, 5, 8, 40])
def test_classes_are_counted_strip_by_strip(plain: ModuleType, n: int, strip: int) -> None:
    label = np.random.default_rng(n).integers(0, 3, n).astype(np.uint8)
    counted = [int((label[a : a + strip] == c).sum()) for a in range(0, n, strip) for c in range(3)]
    assert unpack.widths(label, strip, 3) == counted
    label[-1] = 3
    assert unpack.widths(label, strip, 3) is None
    label[-1] = 255
    assert unpack.widths(label, strip, 255) is None
    assert sum(unpack.widths(label, strip, 256) or []) == n


# ---- pcodec's pages ----------------------------------------------------------------------------------------------------------


def numbers(kind: str, n: int, dtype: Any) -> Any:
    rng, bits = np.random.default_rng(n), 8 * np.dtype(dtype).itemsize
    made = {
        "one": lambda: np.full(n, 7),
        "two": lambda: np.where(rng.random(n) < 0.2, 3, 900),
        "skewed": lambda: (rng.lognormal(0, 2, n) * 10).astype(np.int64),
        "wide": lambda: rng.integers(0, 1 << bits, n),
    }
    return made[kind]().astype(u8).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("kind", ["one", "two", "skewed", "wide"])
def test_the_numbers_of_a_page(kind: str, dtype: Any) -> None:
    bits = 8 * np.dtype(dtype).itemsize
    sizes = [1, 2, 3, 4, 5, 255, 256, 257, 261]
    values = numbers(kind, sum(sizes), dtype)
    written, at = PageWriter(values, sizes), 0
    table = unpack.Histograms([written.meta, written.meta], bits, FILE_HEADER)
    assert table.known
    assert table.logs[0] == table.logs[1]
    assert table.begins.tolist() == [0, len(table.nodes) // 2, len(table.nodes)]
    nodes = table.nodes[: table.begins[1]]
    assert np.array_equal(nodes, table.nodes[table.begins[1] :])
    for size, page in zip(sizes, written.pages):
        for some in {size, max(size - 1, 1), min(size, 256), 1}:
            out = np.full(some + 2, 99, dtype)
            before, behind = b"\xa5" * 3, b"\xff" * unpack.SLACK
            data = np.frombuffer(before + page + behind, np.uint8)
            place = (3, 3 + len(page), nodes, table.logs[0], size, out[1:-1], *unpack.work())
            assert unpack.unpack(data, *place)
            assert out[1:-1].tolist() == values[at : at + some].tolist(), (size, some)
            assert out[0] == out[-1] == 99
        if len(page) > 1:
            short = np.frombuffer(page[:-1] + b"\xff" * unpack.SLACK, np.uint8)
            every = np.empty(size, dtype)
            assert not unpack.unpack(short, 0, len(page) - 1, nodes, table.logs[0], size, every, *unpack.work())
        at += size


def histogram(
    log: int, bins: list[tuple[int, int, int]], bits: int, *, mode: int = 0, count: int | None = None
) -> bytes:
    """The bytes of a histogram of ``bins`` (weight, lower bound, bits of an offset), as pcodec's page on its format says."""
    parts = [(mode, 8), (log, 4), (len(bins) if count is None else count, 15)]
    for weight, lower, offset in bins:
        parts += [(weight - 1, log), (lower, bits), (offset, 6 if bits == 32 else 5)]
    whole, at = 0, 0
    for number, width in parts:
        whole, at = whole | number << at, at + width
    return whole.to_bytes(-(-at // 8), "little")


def known(meta: bytes, bits: int = 32) -> bool:
    return unpack.Histograms([meta], bits, FILE_HEADER).known


@pytest.mark.parametrize(("bits", "dtype"), [(16, np.uint16), (32, np.uint32)])
def test_which_histograms_are_known(bits: int, dtype: Any) -> None:
    right = histogram(2, [(3, 5, 1), (1, 9, 3)], bits)
    assert known(right, bits)
    PageReader(right, np.dtype(dtype), FILE_HEADER)  # pcodec agrees
    assert known(histogram(0, [(1, 5, 0)], bits), bits)
    assert known(histogram(0, [(1, 5, bits)], bits), bits)
    assert known(histogram(1, [(1, 0, 0), (1, 1, 0)], bits), bits), "as many bins as states"
    for why, meta in {
        "another mode": histogram(2, [(3, 5, 1), (1, 9, 3)], bits, mode=1),
        "weights that are too few": histogram(2, [(2, 5, 1), (1, 9, 3)], bits),
        "weights that are too many": histogram(2, [(4, 5, 1), (1, 9, 3)], bits),
        "offsets wider than the numbers": histogram(2, [(3, 5, 1), (1, 9, bits + 1)], bits),
        "one bin that needs no states": histogram(1, [(2, 5, 1)], bits),
        "no bins": histogram(0, [], bits),
        "more bins than states": histogram(0, [(1, 5, 1), (1, 9, 1)], bits),
        "more bins said than there": histogram(2, [(3, 5, 1), (1, 9, 3)], bits, count=3),
        "a byte more": right + b"\0",
        "a byte less": right[:-1],
        "a bit behind": right[:-1] + bytes([right[-1] | 0x80]),
        "three bytes": right[:3],
        "a byte": b"\0",
        "nothing": b"",
    }.items():
        assert not known(meta, bits), why


def test_how_large_a_table_may_be(plain: ModuleType) -> None:
    many = histogram(14, [((1 << 14) - 3, 5, 1), (1, 9, 3), (2, 30, 0)], 32)
    large = histogram(15, [((1 << 15) - 3, 5, 1), (1, 9, 3), (2, 30, 0)], 32)
    assert known(many)
    assert not known(large)
    data = np.frombuffer(large + bytes(8), np.uint8)
    assert plain._table(data, 0, len(large), 32, np.empty(1 << 15, u8)) == -1
    data, nodes = np.frombuffer(many + bytes(8), np.uint8), np.empty(1 << 14, u8)
    assert plain._table(data, 0, len(many), 32, nodes) == 14
    assert plain._table(data, 0, len(many), 32, nodes[:-1]) == -1


def test_histograms_of_other_versions_are_left() -> None:
    meta = PageWriter(numbers("two", 50, np.uint32), [50]).meta
    assert FILE_HEADER[0] == 4
    for header in (b"", b"\3", b"\5\0"):
        assert not unpack.Histograms([meta], 32, header).known
    assert not unpack.Histograms([meta, meta[:-1]], 32, FILE_HEADER).known
    assert unpack.Histograms([], 32, FILE_HEADER).begins.tolist() == [0]


def test_a_page_ends_where_it_should() -> None:
    values = numbers("skewed", 300, np.uint32)
    written = PageWriter(values, [300])
    table, page = unpack.Histograms([written.meta], 32, FILE_HEADER), written.pages[0]
    for k in range(0, len(page), 5):
        out = np.zeros(300, np.uint32)
        data = np.frombuffer(page[:k] + bytes(unpack.SLACK), np.uint8)
        assert not unpack.unpack(data, 0, k, table.nodes, table.logs[0], 300, out, *unpack.work()), k


def test_two_states_are_a_bit_each() -> None:
    """Of two bins of one state each a number is the bit of its lane; those of the next four numbers follow."""
    meta, page = histogram(1, [(1, 5, 0), (1, 900, 0)], 32), bytes([0b0101, 0b0110_1000, 0b0000_0111])
    table, out = unpack.Histograms([meta], 32, FILE_HEADER), np.zeros(11, np.uint32)
    assert (table.known, table.logs[0] % 16) == (True, 1)
    data = np.frombuffer(page + b"\xff" * unpack.SLACK, np.uint8)
    assert unpack.unpack(data, 0, 3, table.nodes, table.logs[0], 11, out, *unpack.work())
    assert out.tolist() == [900, 5, 900, 5, 5, 5, 5, 900, 5, 900, 900]
    assert PageReader(meta, np.dtype(np.uint32), FILE_HEADER).read(page, 11).tolist() == out.tolist()


def test_labels_of_columns() -> None:
    label = np.random.default_rng(0).integers(0, 5, 90).astype(np.uint8)
    written, out = PageWriter(label, [90]), np.zeros(90, np.uint8)
    size = len(written.meta)
    assert unpack.labels(written.meta + written.pages[0], size, out, FILE_HEADER)
    assert out.tolist() == label.tolist()
    assert not unpack.labels(written.meta + written.pages[0][:-1], size, out, FILE_HEADER)
    assert not unpack.labels(written.meta[:-1], size, out, FILE_HEADER)
    assert not unpack.labels(written.meta + written.pages[0], size + 1, out, FILE_HEADER)
    assert not unpack.labels(written.meta + written.pages[0], size, out, b"\3")
    lone = PageWriter(np.full(1, 3, np.uint8), [1])  # a page without a byte
    assert len(lone.pages[0]) == 0
    assert unpack.labels(lone.meta, len(lone.meta), out[:1], FILE_HEADER)
    assert out[0] == 3


# ---- residuals to patterns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "bfloat16"])
def test_rows_go_where_they_are_wanted(dtype: str) -> None:
    for what, chunk, u in under_all_rules(dtype):
        rows = len(u)
        if chunk.form == decode.GRID:
            assert np.array_equal(Decoded(chunk, inverse=inverse).rows(0, rows), u), what
        else:
            some, place = slice(rows // 3, rows, 2), 3
            wide = np.full((len(range(*some.indices(rows))), COLUMNS + 5), 7, u.dtype)
            assert Run(chunk, inverse).to(some, wide.reshape(-1), COLUMNS + 5, place) == 0
            assert np.array_equal(wide[:, place:-2], u[some]), what
            assert (np.delete(wide, slice(place, place + COLUMNS), axis=1) == 7).all(), what
            other = u.copy()
            for t, j in {(0, 0), (rows - 1, COLUMNS - 1), (rows // 2, 33)}:
                other[t, j] ^= 1
            count = len({(0, 0), (rows - 1, COLUMNS - 1), (rows // 2, 33)})
            assert (
                Run(chunk, inverse, once=True).to(slice(0, rows, 1), other.reshape(-1), COLUMNS, compare=True) == count
            )
            assert Run(chunk, inverse).to(slice(0, rows, 1), u.reshape(-1), COLUMNS, compare=True) == 0
        for row in {rows // 2, rows - 1}:
            one = np.empty(COLUMNS, u.dtype)
            Run(chunk, inverse, once=True).row(row, one)
            assert np.array_equal(one, u[row]), (what, row)


def test_rows_tile_by_tile() -> None:
    for what, chunk, u in under_all_rules("float32"):
        for window in (False, True):
            part = Decoded(chunk, window=window, inverse=inverse)
            for t in range(len(u)):
                assert np.array_equal(part.rows(t, t + 1), u[t : t + 1]), (what, t)
            assert np.array_equal(part.rows(0, len(u), 2), u[::2]), what


def test_more_columns_than_are_restored_at_a_time(plain: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain.COLUMNS == 2048
    for columns in (7, 8):  # groups of 11 to 24
        with monkeypatch.context() as patch:
            patch.setattr(plain, "COLUMNS", columns)
            patch.setattr(inverse, "COLUMNS", columns)
            u = walking("float32")
            assert np.array_equal(Decoded(Chunk(packed(u, "float32", SLOPE)), inverse=inverse).rows(0, HEIGHT), u)


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_a_page_that_cannot_be_unpacked_is_named(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, ...]] = []
    refuse = Chunk.refuse
    monkeypatch.setattr(Chunk, "refuse", lambda self, *what: told.append(what) or refuse(self, *what))
    u = walking(dtype)
    data = packed(u, dtype, LAST)
    count = len(Chunk(data)._crcs)
    out = np.empty(u.size, u.dtype)
    for k in range(count):
        if not Chunk(data)._offsets[k + 1] - Chunk(data)._offsets[k]:
            continue
        cut = with_pages(data, lambda pages, k=k: [*pages[:k], pages[k][:-1], *pages[k + 1 :]])
        told.clear()
        with pytest.raises(DamagedRecording, match="cannot be decoded"):
            Run(Chunk(cut), inverse).to(slice(0, HEIGHT, 1), out, COLUMNS)
        chunk = Chunk(data)
        assert told == [(k, *streams_of(chunk)[k])]


def streams_of(chunk: Chunk) -> list[tuple[int, int]]:
    """Of every page its histogram and how many numbers it has, counted from the start."""
    found = []
    for a, b in chunk.layout.strips:
        found.append((0, b - a))
        for i, (top, bottom) in enumerate(chunk.spans):
            for c in range(chunk.layout.classes):
                width = int((chunk.layout.label[a:b] == c).sum())
                if width:
                    found.append((chunk.stream(i, c), (bottom - top) * width))
    return found


# ---- the encoder's passes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def passes(plain: ModuleType) -> ModuleType:
    return interpreted(PASSES)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint64"])
@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_passes_are_what_numpy_finds(passes: ModuleType, dtype: str, rows: int) -> None:
    pattern, u = PATTERNS[dtype], walking(dtype, rows, 50)
    if rows > 4:
        u[4, ::5] = np.iinfo(u.dtype).max  # residuals that are larger than the limit
    spans = [(top, min(top + 3, rows)) for top in range(1, rows, 3)]
    label = np.array([0, 2, 3], np.uint8)[np.arange(50) % 3]
    columns = Columns(50, 20, label, 4)  # class 1 has no columns
    cells = ((np.arange(len(spans))[:, None] + [0, 0, 1, 2]) % 3).astype(np.uint8)
    for rule in RULES:
        if rule == MOMENTUM and not pattern.is_float:
            continue
        predictor = Predictor(rule, 0.9)
        r = residuals(u, pattern, predictor)
        own = passes.Passes(u, pattern, predictor, spans)
        assert own.sizes().dtype == np.float64
        assert np.array_equal(own.sizes(), classes.magnitudes(r, spans)), rule
        first, numbers_, sizes = own.pages(columns, cells)
        slow = encoding._gathered(r, columns, spans, cells)
        assert np.array_equal(first, slow[0])
        assert sizes == slow[2]
        assert [part.tolist() for part in numbers_] == [part.tolist() for part in slow[1]], rule


def test_order_is_counted(passes: ModuleType) -> None:
    label = np.random.default_rng(0).integers(0, 3, 23).astype(np.uint8)
    for strip in (1, 5, 23, 40):
        columns, out = Columns(23, strip, label, 3), np.full(25, -1, np.int32)
        assert passes.order(columns, out[1:-1]).tolist() == columns.order().tolist()
        assert out[0] == out[-1] == -1


def test_what_passes_are_for(passes: ModuleType) -> None:
    for dtype, rule, known_ in (
        ("uint8", LAST, False), ("float16", LAST, True), ("float16", MOMENTUM, False), ("float32", MOMENTUM, True), ("float64", MOMENTUM, True),
        ("int8", MOMENTUM, False), ("int16", SLOPE, True),
    ):  # fmt: skip
        u = walking(dtype, 3, 20)
        assert passes.Passes.know(u, PATTERNS[dtype], Predictor(rule)) is known_
        assert inverse.Inverse.knows(PATTERNS[dtype], Predictor(rule)) is known_


def test_without_a_folder_for_its_cache_a_function_is_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch, passes: ModuleType
) -> None:
    asked = []

    def njit(**options: Any) -> Any:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: ("compiled", function)

    monkeypatch.setattr(passes, "njit", njit)
    assert passes._compiled(len) == ("compiled", len)
    assert asked == [{"cache": True, "nogil": True}, {"nogil": True}]

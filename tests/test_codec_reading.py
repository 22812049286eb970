"""Values of chunks as they are read, whole, in parts and together, held against the slow reader of the page. Small and quick."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest

from tests.oracles_store import read_chunk
from tests.packed_chunks import CHOICES, CHUNKS, COLUMNS, RULES, of_many_bins, packed, said, still, walking
from weightlapse.store.codecs import decode, inverse
from weightlapse.store.codecs.decode import Chosen, Chunk, Decoded, advance_together, scratch
from weightlapse.store.codecs.form import PLAIN, Shape


@pytest.mark.parametrize("what", CHUNKS)
def test_what_is_read_is_what_the_page_says(what: str) -> None:
    data, u = CHUNKS[what]
    assert np.array_equal(read_chunk(data), u), "or the test is wrong"
    chunk = Chunk(data)
    assert (chunk.rows, chunk.columns) == u.shape
    assert chunk.head_crc == said(data)["crc"]
    assert np.array_equal(chunk.read(), u)
    assert np.array_equal(chunk.read(None, 3, 7), u[3:7])
    for columns in CHOICES:
        wanted = np.array(columns)
        assert np.array_equal(chunk.read(wanted), u[:, columns])
        for window in (False, True):
            part = Decoded(Chunk(data), wanted, window=window)
            for start, stop, step in ((2, 3, 1), (0, 5, 2), (4, 5, 1), (3, 11, 3), (8, 9, 1), (1, 11, 1)):
                assert np.array_equal(part.rows(start, stop, step), u[start:stop:step, columns]), (columns, start)
    for window in (False, True):
        part = Decoded(Chunk(data), window=window)
        for start, stop, step in ((0, 1, 1), (5, 6, 1), (2, 9, 3), (9, 11, 1)):
            assert np.array_equal(part.rows(start, stop, step), u[start:stop:step])
            assert np.array_equal(part.rows(start, stop, step, np.array([40, 3])), u[start:stop:step, [40, 3]])
            assert np.array_equal(Chosen(part, np.array([7])).rows(start, stop, step), u[start:stop:step, [7]])
    for columns in ([3], [*range(70)], None):
        part = Decoded(Chunk(data), columns and np.array(columns))
        for start, stop in ((0, 2), (1, 11)):  # two tiles at once after the first
            assert np.array_equal(part.rows(start, stop), u[start:stop, columns or slice(None)])
    for stop in (1, 4, 11):
        part = Decoded(Chunk(data), np.array([3, 50]))
        if part.fresh and part.narrow:
            assert part.rows(0, stop).tolist() == u[:stop, [3, 50]].tolist()
            assert not part.fresh


def test_short_and_narrow_chunks() -> None:
    for rows, columns, shape in itertools.product((1, 2, 3, 5), (1, 4), (Shape(2, 2), Shape(8, 8), Shape(4, 1))):
        for rule in RULES:
            u = walking("float32", rows, columns)
            chunk = Chunk(packed(u, "float32", rule, shape))
            assert np.array_equal(chunk.read(), u)
            assert np.array_equal(chunk.read(np.array([columns - 1])), u[:, -1:])


def test_pages_without_bytes_and_long_histograms() -> None:
    for data, u in (still(), of_many_bins()):
        assert np.array_equal(Chunk(data).read(), u)
        assert np.array_equal(Chunk(data).read(np.array([3])), u[:, [3]])


def test_several_parts_take_their_steps_together() -> None:
    data = {what: CHUNKS[what] for what in CHUNKS if not what.startswith(("plain", "grid"))}
    parts = [
        (Decoded(Chunk(some), np.array(columns)), stop, u[:stop, columns])
        for (some, u), columns, stop in itertools.product(data.values(), ([3], [50, 2]), (3, 11))
    ]
    advance_together([(part, stop) for part, stop, _ in parts])
    for part, stop, true in parts:
        assert part.done == min(-(-stop // 4) * 4, 11)
        assert not part.fresh
        assert np.array_equal(part.rows(0, stop), true)


def test_threads_are_for_much_work(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = decode.in_order
    monkeypatch.setattr(decode, "threads", lambda: 2)
    monkeypatch.setattr(decode, "in_order", lambda tasks, count: asked.append(count) or real(tasks, count))
    data, u = CHUNKS["float32 under 1"]
    width = Decoded(Chunk(data), np.array([3])).decoded
    for worth, count in ((width * 11, 2), (width * 11 + 1, 1)):
        monkeypatch.setattr(decode, "WORTH_THREADS", worth)
        advance_together([(part := Decoded(Chunk(data), np.array([3])), 11)])
        assert np.array_equal(part.rows(0, 11), u[:, [3]])
        assert asked.pop() == count


def test_columns_are_picked_page_by_page_where_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    data, u = CHUNKS["float32 under 5"]
    seen: list[Any] = []
    fill = Chunk.fill
    monkeypatch.setattr(Chunk, "fill", lambda self, *given: seen.append(given[3]) or fill(self, *given))
    for worth, columns, picked in (
        (1 << 13, [3], True),
        (1 << 13, [3, 4, 40], False),
        (0, [3, 4, 40], True),
        (0, [*range(70)], False),
    ):
        monkeypatch.setattr(decode, "_WORTH_PICKING", worth)
        part = Decoded(Chunk(data), np.array(columns))
        assert part.narrow is (2 * len(columns) <= part.decoded)
        assert np.array_equal(part.rows(0, 11), u[:, columns])
        assert (seen.pop() is not None) is picked, columns
    wide = len(Decoded(Chunk(data), np.array([3, 4, 40]))._picks())
    assert wide == 3, "one for each group"
    edge = Decoded(Chunk(data), np.array([3, 4, 40]))
    monkeypatch.setattr(decode, "_WORTH_PICKING", edge.decoded)
    edge.rows(0, 1)
    assert seen.pop() is not None


def test_half_of_what_is_decoded_is_few() -> None:
    data, u = CHUNKS["float32 under 1"]
    group = [j for j in range(32) if Chunk(data).layout.label[j] == Chunk(data).layout.label[0]]
    for count in (len(group) // 2, len(group) // 2 + 1, len(group)):
        part = Decoded(Chunk(data), np.array(group[:count]))
        assert part.decoded == len(group)
        assert part.narrow is (2 * count <= len(group))
        assert part.width == (count if part.narrow else len(group))
        assert np.array_equal(part.rows(0, 11), u[:, group[:count]])


def test_what_parts_hold() -> None:
    data, _ = CHUNKS["float32 under 1"]
    one = Decoded(Chunk(data), np.array([3]))
    assert one.nbytes == 11 * 1 * 4 + 8
    assert Decoded(Chunk(data), np.array([3]), window=True).nbytes == (3 + 4) * 1 * 4 + 8
    assert Decoded(Chunk(data)).nbytes == 11 * 70 * 4 + 8 * 70
    assert one.fresh
    one.rows(0, 1)
    assert not one.fresh
    assert not Decoded(Chunk(CHUNKS["plain float32"][0]), np.array([3])).fresh
    part = Decoded(Chunk(data), window=True)
    for t in range(11):
        part.rows(t, t + 1)
        assert len(part._held) <= 3 + 4, "no more than a tile and what a predictor looks back"
    chunk = Chunk(data)
    assert 2 * 70 + 100 * 30 + said(data)["head"] <= chunk.nbytes <= 2 * 70 + 100 * 30 + said(data)["head"] + 8192


def test_work_space_is_kept_and_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    first = scratch("a test", 10, np.uint32)
    assert (len(first), first.dtype) == (10, np.uint32)
    assert np.shares_memory(first, scratch("a test", 10, np.uint32))
    assert np.shares_memory(first, scratch("a test", 4, np.uint32))
    assert len(scratch("a test", 4, np.uint32)) == 4
    assert not np.shares_memory(first, scratch("a test", 10, np.uint16))
    assert not np.shares_memory(first, scratch("another", 10, np.uint32))
    larger = scratch("a test", 11, np.uint32)
    assert len(larger) == 11
    assert np.shares_memory(larger, scratch("a test", 10, np.uint32))
    monkeypatch.setattr(decode, "_MOST_KEPT", 80)
    kept = scratch("a test", 20, np.uint32)
    assert np.shares_memory(kept, scratch("a test", 20, np.uint32))
    assert not np.shares_memory(scratch("a test", 21, np.uint32), scratch("a test", 21, np.uint32))


def test_when_the_compiler_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode.compiled(0) is inverse, "it is loaded already"
    monkeypatch.setattr(decode, "WORTH_COMPILING", 1000)
    monkeypatch.setattr(decode.importlib, "import_module", lambda name: f"loaded {name}")
    monkeypatch.delitem(sys.modules, decode._INVERSE)
    assert decode.compiled(999) is None
    assert decode.compiled(1000) == f"loaded {decode._INVERSE}"
    monkeypatch.setattr(decode.importlib.util, "find_spec", lambda name: None)
    assert decode.compiled(1 << 40) is None


def test_which_chunks_the_compiled_pass_is_for() -> None:
    for what, (data, _) in CHUNKS.items():
        chunk = Chunk(data)
        assert not decode.may_run(chunk, None)
        narrow = "uint8" in what or (what == "bfloat16 under 3")
        assert decode.may_run(chunk, inverse) is (not narrow and chunk.form != PLAIN), what
        if chunk.form != PLAIN:
            assert (chunk.tables(inverse) is not None) is (chunk.number.nbytes in (2, 4)), what
        else:
            assert chunk.tables(inverse) is None


def test_many_classes_of_columns_are_read_by_either(monkeypatch: pytest.MonkeyPatch) -> None:
    data, u = CHUNKS["float32 under 1"]
    asked: list[int] = []
    monkeypatch.setattr(inverse, "labels", lambda *given: asked.append(1) or False)
    for many, count in ((COLUMNS, 1), (COLUMNS + 1, 0)):
        asked.clear()
        monkeypatch.setattr(decode, "_MANY", many)
        assert np.array_equal(Chunk(data).read(), u)
        assert len(asked) == count
    monkeypatch.undo()
    monkeypatch.setattr(decode, "_MANY", 1)
    assert "widths" in vars(Chunk(data).layout)
    assert np.array_equal(Chunk(data).read(), u)
    assert np.array_equal(Chunk(CHUNKS["float32 under 0"][0]).read(), CHUNKS["float32 under 0"][1])

"""Which bytes of a chunk are read, and which of them at once, held against counting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.packed_chunks import (
    CHUNKS,
    Watched,
    numbered,
    pages_of,
    said,
)
from weightlapse.errors import DamagedRecording
from weightlapse.store.codecs import decode, inverse
from weightlapse.store.codecs.decode import Chunk, Decoded


@pytest.mark.parametrize("column", [0, 31, 32, 69])
def test_only_the_pages_of_a_column_are_read(column: int) -> None:
    data, u = CHUNKS["float32 under 1"]
    where, label = pages_of(data), Chunk(data).layout.label
    source = Watched(data)
    chunk = Chunk(source)
    assert source.asked == [(0, len(data))], "the head is read with what is near it"
    assert bytes(chunk._data) == data[: said(data)["head"]]
    for rows, tiles in ((1, 0), (4, 1), (5, 2), (11, 3)):
        source.asked.clear()
        assert np.array_equal(chunk.read(np.array([column]), 0, rows), u[:rows, [column]])
        own = column // 32, int(label[column])
        wanted = [numbered(data, *own, None), *(numbered(data, *own, i) for i in range(max(tiles, 1)))]
        assert source.asked == [where[k] for k in wanted], rows


def test_a_long_head_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data, u = CHUNKS["float32 under 1"]
    head = said(data)["head"]
    for first, asked in ((60, [(0, 60), (0, head)]), (head - 1, [(0, head - 1), (0, head)]), (head, [(0, head)])):
        monkeypatch.setattr(decode, "_FIRST_LOOK", first)
        source = Watched(data)
        assert np.array_equal(Chunk(source).read(), u)
        assert source.asked[: len(asked)] == asked
        assert source.asked[len(asked)][0] >= head


def test_strips_are_read_at_once_where_pages_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    data, u = CHUNKS["float32 under 1"]
    where, chunk = pages_of(data), Chunk(data)
    total, count = where[-1][1] - where[0][0], len(where)
    source = Watched(data)
    for alone, asked in ((total // count, where), (total // count + 1, None)):
        monkeypatch.setattr(decode, "_ALONE", alone)
        chunk = Chunk(source)
        source.asked.clear()
        assert np.array_equal(chunk.read(), u)
        assert sorted(source.asked) == (
            asked or [(where[a][0], where[b - 1][1]) for a, b in itertools.pairwise(chunk._first)]
        )
    chunk = Chunk(source)
    for spans, tiles in (([], range(0)), ([(0, 1, 4)], range(1)), ([(1, 4, 8), (2, 8, 11)], range(1, 3))):
        for k, (a, b) in enumerate(chunk.layout.strips):
            present = len(set(chunk.layout.label[a:b].tolist()))
            first = chunk.first_page(k) + (1 + tiles[0] * present if tiles and tiles[0] else 0)
            last = chunk.first_page(k) + 1 + (tiles[-1] + 1 if tiles else 0) * present
            found = chunk.run(k, spans)
            assert found is not None
            assert found[0] == where[first][0]
            assert bytes(found[1]) == data[where[first][0] : where[last - 1][1]]


def test_what_is_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tiles of all strips once and in order, as many at once as fit into a limit, and never fewer than one tile."""
    data, _ = CHUNKS["float32 under 1"]
    chunk, where = Chunk(data), pages_of(data)
    strips = len(chunk.layout.strips)
    every = [(i, *span) for i, span in enumerate(chunk.spans)]

    def nbytes(k: int, last: int, spans: list[tuple[int, int, int]]) -> int:
        first, stop = chunk._between(k, last, spans)
        return where[stop - 1][1] - where[first][0]

    whole = [nbytes(k, k + 1, every) for k in range(strips)]
    limits = {
        0,
        1,
        *whole,
        *(w - 1 for w in whole),
        whole[0] + whole[1],
        whole[0] + whole[1] - 1,
        sum(whole),
        sum(whole) - 1,
    }
    limits |= {nbytes(0, 1, every[:2]), nbytes(0, 1, every[:2]) - 1, nbytes(1, 2, every[1:])}
    for limit, spans in itertools.product(sorted(limits), (every, every[:2], every[1:], [])):
        monkeypatch.setattr(decode, "_AT_ONCE", limit)
        found = list(chunk.together(spans))
        seen = [(k, span) for first, last, some in found for k in range(first, last) for span in some]
        assert seen == [(k, span) for k in range(strips) for span in spans]
        assert [k for first, last, _ in found for k in range(first, last) if first == k or last > first + 1] != []
        assert sorted({k for first, last, _ in found for k in range(first, last)}) == list(range(strips))
        for n, (first, last, some) in enumerate(found):
            assert last == first + 1 or some == every, "several strips as a whole alone"
            if last > first + 1 or len(some) > 1:
                assert nbytes(first, last, some) <= limit
            if n + 1 < len(found):
                k, _, more = found[n + 1]
                if k == first:  # the same strip goes on: its next tile did not fit
                    assert nbytes(k, k + 1, [*some, more[0]]) > limit
                elif spans == every and some == every and more == every:
                    assert nbytes(first, last + 1, every) > limit, "another strip would have fitted"


def test_between() -> None:
    data, _ = CHUNKS["float32 under 1"]
    chunk = Chunk(data)
    for k, last in itertools.combinations(range(4), 2):
        here = [len(set(chunk.layout.label[a:b].tolist())) for a, b in chunk.layout.strips]
        starts = [chunk.first_page(s) for s in range(3)]
        every = [(i, *span) for i, span in enumerate(chunk.spans)]
        assert chunk._between(k, last, every) == (starts[k], starts[last - 1] + 1 + 3 * here[last - 1])
        assert chunk._between(k, last, every[1:2]) == (
            starts[k] + 1 + here[k],
            starts[last - 1] + 1 + 2 * here[last - 1],
        )
        assert chunk._between(k, last, []) == (starts[k], starts[last - 1] + 1)


def test_a_page_that_changes_while_it_is_read() -> None:
    data, _ = CHUNKS["float32 under 1"]
    source = Watched(data)
    chunk = Chunk(source)
    spans = [(i, *span) for i, span in enumerate(chunk.spans)]
    bytes_, start = chunk.right_bytes(1, 3, spans, inverse)
    first, stop = chunk.first_page(1), len(chunk._crcs)
    where = pages_of(data)
    assert start == where[first][0]
    n = where[stop - 1][1] - start
    assert len(bytes_) == n + inverse.SLACK
    assert bytes_[:n].tobytes() == data[start : start + n]
    hurt = bytearray(data)
    hurt[start + 5] ^= 1
    source.data = bytes(hurt)
    with pytest.raises(DamagedRecording, match="fails its checksum"):
        chunk.right_bytes(1, 3, spans, inverse)
    source.data = data
    source.read_into = lambda start, out: None  # type: ignore[method-assign]
    with pytest.raises(DamagedRecording, match="change while they are read"):
        chunk.right_bytes(1, 3, spans, inverse)


@pytest.mark.parametrize("columns", [[3], [40, 43, 3], None])
@pytest.mark.parametrize("window", [False, True])
def test_what_is_held_is_not_read_again(columns: list[int] | None, window: bool) -> None:
    data, u = CHUNKS["float32 under 1"]
    source = Watched(data)
    chunk = Chunk(source)
    part = Decoded(chunk, columns and np.array(columns), window=window)
    part.rows(0, 4)
    kept = sum(reader is not None for reader in chunk._readers)
    assert (kept == 0) is (columns is not None), "of few columns the decoders of histograms are not kept"
    source.asked.clear()
    for start, stop in ((0, 4), (0, 1), (1, 3), (3, 4)):
        assert np.array_equal(part.rows(start, stop), u[start:stop, columns or slice(None)])
    assert source.asked == []
    part.rows(4, 5)
    count = len(source.asked)
    assert count > 0
    assert np.array_equal(part.rows(4, 8), u[4:8, columns or slice(None)])
    assert len(source.asked) == count
    assert np.array_equal(part.rows(0, 1), u[:1, columns or slice(None)])
    assert (len(source.asked) == count) is not window, "a window has passed it"


def test_a_page_that_only_the_compiled_pass_refuses_is_refused() -> None:
    chunk = Chunk(CHUNKS["float32 under 1"][0])
    with pytest.raises(DamagedRecording, match="cannot be unpacked"):
        chunk.refuse(0, 0, 32)

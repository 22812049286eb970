"""A few columns past all that is kept of a chunk, held against the columns of all; and what is left to the decoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.packed_chunks import (
    CHOICES,
    CHUNKS,
    COLUMNS,
    HEIGHT,
    Watched,
    few_of,
    forged,
    numbered,
    of_many_bins,
    packed,
    pages_of,
    said,
    still,
    walking,
    with_pages,
)
from weightlapse.errors import DamagedRecording
from weightlapse.store.codecs import few
from weightlapse.store.codecs.decode import Chunk, advance_together
from weightlapse.store.codecs.entropy import FILE_HEADER, PageWriter
from weightlapse.store.codecs.few import few_columns
from weightlapse.store.codecs.form import GRID, PLAIN
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.codecs.predict import LAST
from weightlapse.store.files import Part


@pytest.mark.parametrize("what", [w for w in CHUNKS if not w.startswith(("plain", "grid"))])
def test_a_few_columns_are_those_of_all(what: str) -> None:
    data, u = CHUNKS[what]
    for columns in CHOICES:
        for stop in (1, 4, 5, 11):
            part = few_of(data, columns, stop)
            assert part.fresh
            assert part.width == len(columns)
            groups = {(j // 32, Chunk(data).layout.label[j]) for j in columns}
            assert part.decoded == sum(
                int((Chunk(data).layout.label[k * 32 : k * 32 + 32] == c).sum()) for k, c in groups
            )
            assert np.array_equal(part.rows(0, stop), u[:stop, columns]), (columns, stop)
            assert not part.fresh
            assert np.array_equal(part.rows(0, stop, 2), u[:stop:2, columns])
            assert np.array_equal(part.rows(stop - 1, stop), u[stop - 1 : stop, columns])
    one = few_of(data, [9], 6)
    assert one.prepare(6)[1] == 0, "no row is a pattern already"
    advance_together([(one, 6)])
    assert not one.fresh
    assert np.array_equal(one.rows(0, 6), u[:6, [9]])


def test_few_columns_read_their_pages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = CHUNKS["float32 under 1"]
    where, head = pages_of(data), said(data)["head"]
    label = Chunk(data).layout.label
    for first, heads in (
        (8192, [(0, len(data))]),
        (60, [(0, 60), (0, head)]),
        (head, [(0, head)]),
        (head - 1, [(0, head - 1), (0, head)]),
    ):
        monkeypatch.setattr(few, "_FIRST_LOOK", first)
        source = Watched(data)
        few_of(data, [40, 43], 5, source)
        groups = list(dict.fromkeys((1, int(label[j])) for j in (40, 43)))
        wanted = [numbered(data, *groups[0], None)]
        for own in groups:
            wanted += [numbered(data, *own, 0), numbered(data, *own, 1)]
        assert source.asked == [*heads, *(where[k] for k in wanted)]
    monkeypatch.undo()
    source = Watched(data)
    for stop, tiles in ((1, 0), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3)):
        source.asked.clear()
        few_of(data, [40], stop, source)
        own = 1, int(label[40])
        wanted = [numbered(data, *own, None), *(numbered(data, *own, i) for i in range(tiles))]
        assert source.asked == [(0, len(data)), *(where[k] for k in wanted)], stop


def test_a_few_columns_of_pages_without_bytes_and_of_long_histograms() -> None:
    for data, u in (still(), of_many_bins()):
        assert said(data)["classes"] == 1
        assert np.array_equal(Chunk(data).read(), u)
        assert np.array_equal(few_of(data, [3, 60], len(u)).rows(0, len(u)), u[:, [3, 60]])
    assert said(still()[0])["head"] == len(still()[0])
    assert len(Chunk(of_many_bins()[0])._metas[1]) > 1024


def test_where_few_columns_are_left_to_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = CHUNKS["float32 under 5"]
    fields, kind = said(data), PATTERNS["float32"]
    right: tuple[Any, ...] = (fields["crc"], (HEIGHT, COLUMNS), kind, [3], 5)
    assert few_columns(Part(data), *right) is not None
    for k, other in (
        (0, fields["crc"] ^ 1),
        (1, (HEIGHT + 1, COLUMNS)),
        (1, (HEIGHT, COLUMNS - 1)),
        (2, PATTERNS["int32"]),
    ):
        given = [*right]
        given[k] = other
        assert few_columns(Part(data), *given) is None
    for what in ("plain float32", "grid of float32"):
        assert few_of(CHUNKS[what][0], [3]) is None
    for field, value in (
        ("magic", b"WLCX"), ("rule", 6), ("classes", 0), ("classes", 17), ("strip", 0), ("tile", 0), ("entries", 1), ("rows", 0), ("columns", 0),
        ("form", GRID), ("form", PLAIN),
    ):  # fmt: skip
        lie = forged(data, **{field: value})
        assert few_of(lie, [0]) is None, field
    single = packed(walking("float32", 1), "float32", LAST)
    assert few_of(single, [3], 1) is not None
    assert few_of(forged(single, rows=0), [3], 1) is None
    for name, limit in (("MAX_COLUMNS", COLUMNS), ("MAX_VALUES", HEIGHT * COLUMNS), ("MAX_CLASSES", fields["classes"])):
        for less in (0, 1):
            with monkeypatch.context() as patch:
                patch.setattr(few, name, limit - less)
                assert (few_of(data, [3]) is None) is (less == 1), name
    for cut in (0, 49, 50, fields["head"] - 1, fields["head"], len(data) - 1):
        assert few_columns(Part(data[:cut]), *right) is None, cut
    assert few_columns(Part(data + b"\0"), *right) is None
    for at in (*range(0, fields["head"], 11), pages_of(data)[0][0]):
        hurt = bytearray(data)
        hurt[at] ^= 1
        assert few_columns(Part(bytes(hurt)), *right) is None, at
    part = forged(data[: fields["head"]] + bytes(4) + data[fields["head"] :], head=fields["head"] + 4)
    assert few_of(part, [3]) is None, "a list of pages that ends in half of one"
    with pytest.raises(DamagedRecording, match="not whole"):
        Chunk(part)
    assert few_of(with_pages(data, lambda p: []), [3]) is None
    assert few_of(with_pages(data, lambda p: p[:2]), [40]) is None
    label = PageWriter(np.full(COLUMNS, fields["classes"], np.uint8), [COLUMNS])  # one class too many
    mapped = len(label.meta).to_bytes(2, "little") + label.meta + label.pages[0]
    codec = 50 + 2 + len(FILE_HEADER)
    rest = data[codec + fields["mapped"] :]
    lie = data[:codec] + mapped + rest
    more = len(mapped) - fields["mapped"]
    lie = forged(lie, mapped=len(mapped), head=fields["head"] + more)
    assert few_of(lie, [3]) is None
    with pytest.raises(DamagedRecording, match="class map"):
        Chunk(lie)

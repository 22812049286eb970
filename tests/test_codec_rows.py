"""One row of a chunk by two calls, uncompiled: the row of the decoder, or none; what is damaged, or lies, or has no room, is left to the decoder."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.interpreted import uncompiled
from tests.packed_chunks import COLUMNS, HEIGHT, forged, on_grid, packed, said, summed, walking
from weightlapse.store.codecs import straight
from weightlapse.store.codecs.decode import Chunk
from weightlapse.store.codecs.form import HEAD, Shape
from weightlapse.store.codecs.predict import LAST, LINEAR, NONE
from weightlapse.store.files import Part


@pytest.fixture(scope="module", autouse=True)
def plain() -> Iterator[Any]:
    """The decoder's kernels, uncompiled, in their places."""
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore"):
        yield uncompiled(patch)


def row_of(data: bytes, row: int, rows: int = HEIGHT, columns: int = COLUMNS, crc: int | None = None) -> Any:
    out = np.full(columns + 2, 99, np.uint32)
    found = straight.float_row(Part(data), crc, rows, row, out[1:-1])
    assert out[0] == out[-1] == 99
    return out[1:-1] if found else None


def directory(data: bytes) -> int:
    """Where the list of pages begins, behind the last histogram."""
    return int(said(data)["head"]) - 8 * len(Chunk(data)._crcs)


def test_a_head_that_ends_too_soon_is_left() -> None:
    for data in (packed(walking("float32"), "float32", LINEAR), on_grid("float32")[0]):
        assert row_of(data, 5) is not None
        behind = directory(data)
        for head in (
            *range(HEAD.size, behind, 37),
            *range(behind - 12, behind + 9),
            *range(behind + 17, said(data)["head"], 29),
        ):
            assert row_of(forged(data, head=head), 5) is None, head
            cut = data[:head] + data[said(data)["head"] :]
            assert row_of(forged(cut, head=head), 5) is None, head
        for streams in range(said(data)["streams"] + 3):
            assert (row_of(forged(data, streams=streams), 5) is None) is (streams != said(data)["streams"])


def test_histograms_that_are_longer_than_the_head_are_not_read() -> None:
    """Ten thousand bins in 65 535 bytes that are not there: nothing beyond the chunk is looked at."""
    lie = struct.pack("<H", 65535) + (14 << 8 | 10_000 << 12).to_bytes(4, "little")
    data = packed(walking("float32"), "float32", LINEAR)
    behind = directory(data)
    last = behind - 2 - len(Chunk(data)._metas[-1])
    first = last - sum(2 + len(meta) for meta in Chunk(data)._metas[:-1])
    for at in (first, last):
        made = data[:at] + lie
        assert row_of(forged(made, head=len(made)), 5) is None
        made += data[said(data)["head"] :]
        assert row_of(forged(made, head=at + len(lie)), 5) is None
    mapped = 50 + 2 + struct.unpack_from("<H", data, 50)[0]
    made = data[:mapped] + lie + data[mapped + len(lie) :]
    assert row_of(forged(made), 5) is None


def test_there_is_room_to_the_last_place(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, grid = packed(walking("float32"), "float32", LINEAR), on_grid("float32")[0]
    whole = packed(walking("float32"), "float32", NONE)  # of one class
    tables = [1 << (meta[1] & 15) for meta in Chunk(exact)._metas]
    for data, name, needed in (
        (exact, "_PAGES", len(Chunk(exact)._crcs) + 1),
        (whole, "_PAGES", len(Chunk(whole)._crcs) + 1),
        (exact, "_NODES", sum(tables)),
        (grid, "_ENTRIES", 3),
        (exact, "_STRIPS", 3),
        (exact, "_TILES", 3),
        (whole, "_TILES", 3),
    ):
        true = Chunk(data).read()[HEIGHT - 1]
        for less in (0, 1):
            with monkeypatch.context() as patch:
                patch.setattr(straight, name, needed - less)
                straight._OWN.__dict__.pop("room", None)
                found = row_of(data, HEIGHT - 1)
                assert (found is None) is (less == 1), (name, less)
                assert found is None or np.array_equal(found, true)
    straight._OWN.__dict__.pop("room", None)


def test_of_two_chunks_nothing_is_left_behind() -> None:
    """The room of a thread is used again: what the last chunk left there is not this one's."""
    made = [
        (packed(walking("float32", rows, columns), "float32", LAST, shape), rows, columns)
        for rows, columns, shape in (
            (11, 70, Shape(32, 4)),
            (3, 40, Shape(64, 2)),
            (11, 70, Shape(16, 8)),
            (1, 20, Shape(8, 4)),
        )
    ]
    for _ in range(2):
        for data, rows, columns in made:
            for row in {0, rows - 1}:
                assert np.array_equal(row_of(data, row, rows, columns), Chunk(data).read()[row])
    assert row_of(summed(made[0][0][:400]), 5) is None

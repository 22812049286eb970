"""One row of a chunk by two calls, uncompiled: the row of the decoder, or none; what is damaged, or lies, or has no room, is left to the decoder."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.interpreted import uncompiled
from tests.packed_chunks import (
    COLUMNS,
    HEIGHT,
    SHAPE,
    forged,
    of_many_bins,
    on_grid,
    packed,
    said,
    still,
    summed,
    under_all_rules,
    walking,
)
from weightlapse.store.codecs import encode as encoding
from weightlapse.store.codecs import straight
from weightlapse.store.codecs.decode import Chunk
from weightlapse.store.codecs.form import HEAD, Shape
from weightlapse.store.codecs.predict import LAST, LINEAR, MOMENTUM, NONE
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


@pytest.fixture(params=["whole", "page by page"])
def reads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """How a chunk is read: as a whole, or first the head and then the wanted pages alone."""
    if request.param != "whole":
        monkeypatch.setattr(straight, "_ONE_READ", 600)
        monkeypatch.setattr(straight, "_HEAD", 600)
    return request.param


def test_any_row_alone(reads: Any) -> None:
    for what, chunk, u in under_all_rules("float32"):
        data = chunk._source.read(0, chunk._source.size)
        for row in {0, 1, len(u) // 2, len(u) - 1} & set(range(len(u))):
            for crc in (chunk.head_crc,) if row else (None, chunk.head_crc):
                assert np.array_equal(row_of(data, row, len(u), crc=crc), u[row]), (what, row)
        assert row_of(data, 0, len(u), crc=chunk.head_crc ^ 1) is None
        assert row_of(data, 0, len(u) + 1) is None
        assert row_of(data, 0, len(u), COLUMNS - 1) is None


def test_damage_of_what_is_read_is_seen(reads: Any) -> None:
    for data in (packed(walking("float32"), "float32", LAST), on_grid("float32")[0]):
        head, rng = said(data)["head"], np.random.default_rng(0)
        for at in [*range(0, head, 5), *rng.integers(head, len(data), 10).tolist(), len(data) - 1]:
            hurt = bytearray(data)
            hurt[at] ^= 1 << int(rng.integers(8))
            assert row_of(bytes(hurt), HEIGHT - 1) is None, at
        for cut in (0, 49, 50, head - 1, head, len(data) - 1):
            assert row_of(data[:cut], HEIGHT - 1) is None, cut
        assert row_of(data + b"\0", HEIGHT - 1) is None


LIES: dict[str, list[Any]] = {
    "magic": [b"WLCX"],
    "strip": [0, 1, 31, 33, 64, 1 << 31],
    "tile": [0, 3, 5, 16, 1 << 31],
    "dtype": [0, 2, 3, 7, 14],
    "form": [0, 2, 3],
    "rule": [6, 255],
    "classes": [0, 1, 2, 4, 16, 17, 255],
    "entries": [1, 3, 65, 1 << 31],
    "mapped": [0, 1, 2, 5, 1 << 31],
    "streams": [0, 1, 256, 65535],
}


@pytest.mark.parametrize("grid", [False, True])
def test_heads_that_lie_are_left_to_the_decoder(grid: bool) -> None:
    data = on_grid("float32")[0] if grid else packed(walking("float32"), "float32", LAST)
    assert row_of(data, 5) is not None
    for field, values in LIES.items():
        for value in values:
            if value == said(data)[field] or (grid and field == "form" and value == 2):
                continue
            assert row_of(forged(data, **{field: value}), 5) is None, (field, value)
    for head in (0, 49, said(data)["head"] - 8, said(data)["head"] + 1, len(data), len(data) + 1):
        values = {**said(data), "head": head}
        assert row_of(summed(HEAD.pack(*values.values()) + data[HEAD.size :]), 5) is None, head


def test_every_byte_of_a_head_may_lie_under_a_right_checksum() -> None:
    """Whatever it says: the decoder's own values, or none."""
    for data in (packed(walking("float32"), "float32", MOMENTUM), on_grid("float32")[0]):
        rng = np.random.default_rng(0)
        for at in range(HEAD.size, said(data)["head"], 9):
            hurt = bytearray(data)
            hurt[at] ^= 1 << int(rng.integers(8))
            lie = summed(bytes(hurt))
            with np.errstate(all="ignore"):
                found = row_of(lie, HEIGHT - 1)
                if found is not None:
                    assert np.array_equal(found, Chunk(lie).read()[HEIGHT - 1]), at


def test_what_a_thread_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limits of the room rows are read, and one beyond them they are left."""
    u = walking("float32", 6, 64)
    assert (straight._STRIPS, straight._ENTRIES, straight._TILES) == (64, 64, 64)
    for shape, there in ((Shape(1, 4), True), (Shape(64, 4), True)):
        found = row_of(packed(u, "float32", LAST, shape), 5, 6, 64)
        assert (found is not None) is there
        assert found is None or np.array_equal(found, u[5])
    wide = walking("float32", 3, 65)
    assert row_of(packed(wide, "float32", LAST, Shape(1, 4)), 2, 3, 65) is None, "65 strips"
    for rows, there in ((128, True), (129, False)):
        tall = walking("float32", rows, 20)
        found = row_of(packed(tall, "float32", LAST, Shape(20, 2)), rows - 1, rows, 20)
        assert (found is not None) is there
        assert found is None or np.array_equal(found, tall[-1])
    for name, limit in (("MAX_COLUMNS", COLUMNS), ("MAX_VALUES", HEIGHT * COLUMNS)):
        for less in (0, 1):
            with monkeypatch.context() as patch:
                patch.setattr(straight, name, limit - less)
                assert (row_of(packed(walking("float32"), "float32", LAST), 3) is not None) is (less == 0), name


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


def test_pages_without_bytes_and_long_histograms(reads: Any) -> None:
    for data, u in (still(), of_many_bins()):
        found = row_of(data, len(u) - 1, *u.shape)
        assert (found is None) is (reads != "whole" and said(data)["head"] > 600)
        assert found is None or np.array_equal(found, u[-1])


def test_a_chunk_of_no_rows_has_none() -> None:
    data = packed(walking("float32", 1), "float32", LAST)
    assert row_of(data, 0, 1) is not None
    assert row_of(forged(data, rows=0), 0, 0) is None


def test_a_grid_of_one_step() -> None:
    codes = walking("int32")
    data = encoding.encode_codes(codes, "float32", [COLUMNS], [0.25], [0.1], SHAPE)
    assert said(data)["entries"] == 1
    assert row_of(data, 6).view(np.float32).tolist() == [int(c) * 0.25 for c in codes[6].view(np.int32)]


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
        (exact, "MAX_CLASSES", said(exact)["classes"]),
        (exact, "_TILES", 3),
        (whole, "_TILES", 3),
    ):
        true, classes = Chunk(data).read()[HEIGHT - 1], said(data)["classes"]
        for less in (0, 1):
            with monkeypatch.context() as patch:
                patch.setattr(straight, "MAX_CLASSES", classes)
                patch.setattr(straight, "_STRIPS", 3)
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


def test_what_is_read_at_first_holds_a_head() -> None:
    """The longest head of a chunk with 64 strips and 64 tiles of one class is read at once."""
    assert HEAD.size + 64 + 8 * 64 * 65 < straight._HEAD <= straight._ONE_READ

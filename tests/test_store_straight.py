"""A row of a chunk by two compiled calls: what the decoder gives, for every shape; whatever is not as usual is left to it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.test_store_kernels import walk
from weightlapse.store.codecs.decode import Chunk
from weightlapse.store.codecs.encode import encode, encode_bounded
from weightlapse.store.codecs.form import PLAIN, Shape
from weightlapse.store.codecs.straight import float_row
from weightlapse.store.files import Part

SHAPES = [
    (40, 70_000, Shape(16_384, 16)),
    (34, 5_000, Shape(1024, 8)),
    (4, 9_000, Shape(9_000, 4)),
    (1, 3_000, Shape(1024, 4)),
    (2, 3_000, Shape(512, 4)),
    (97, 800, Shape(2048, 32)),
]


def made(rows: int, columns: int, shape: Shape, kind: str) -> bytes:
    u = walk("float32", rows, columns, rows)
    if kind == "exact":
        return encode(u, "float32", shape)
    values, half = u.view(np.float32).astype(np.float64), columns // 3
    if kind == "partly":  # a step for the first third, none for the rest
        u[-1, -1] = np.float32(np.inf).view(np.uint32)
    bounds = [1e-2 * float(values[:, :half].std()), 1e-2 * float(values[:, half:].std())]
    data = encode_bounded(u, "float32", [half, columns - half], bounds, shape)
    assert data is not None
    return data


@pytest.mark.parametrize("kind", ["exact", "grid", "partly"])
def test_every_row_is_that_of_the_decoder(kind: str) -> None:
    for rows, columns, shape in SHAPES:
        data = made(rows, columns, shape, kind)
        true, chunk = Chunk(data).read(), Chunk(data)
        for row in sorted({0, 1, rows // 3, rows // 2, rows - 1} & set(range(rows))):
            out = np.full(columns + 2, 99, np.uint32)
            assert float_row(Part(data), chunk.head_crc, rows, row, out[1:-1]) is (chunk.form != PLAIN)
            assert out[0] == out[-1] == 99
            if chunk.form != PLAIN:
                assert out[1:-1].tobytes() == true[row].tobytes(), (kind, rows, row)


def test_damage_anywhere_in_what_is_read_is_seen() -> None:
    rows, columns, shape = SHAPES[1]
    for kind in ("exact", "grid"):
        data, out = made(rows, columns, shape, kind), np.empty(columns, np.uint32)
        head = Chunk(data).head_crc
        assert float_row(Part(data), head, rows, rows - 1, out)
        rng = np.random.default_rng(0)
        for at in [0, 5, 9, 29, 45, 60, len(data) - 1, *rng.integers(0, len(data), 60).tolist()]:
            hurt = bytearray(data)
            hurt[at] ^= 1 << int(rng.integers(8))
            assert not float_row(Part(bytes(hurt)), None, rows, rows - 1, out), at
            assert not float_row(Part(bytes(hurt)), head, rows, rows - 1, out), at
        for cut in (0, 10, 49, 51, 400, len(data) // 2, len(data) - 1):
            assert not float_row(Part(data[:cut]), head, rows, rows - 1, out), cut


def test_what_was_not_expected_is_left_to_the_decoder() -> None:
    rows, columns, shape = SHAPES[1]
    data, out = made(rows, columns, shape, "exact"), np.empty(columns, np.uint32)
    assert not float_row(Part(data), Chunk(data).head_crc ^ 1, rows, 0, out)  # another chunk than its index names
    assert not float_row(Part(data), None, rows + 1, 0, out)
    assert not float_row(Part(data), None, rows, 0, out[:-1])
    halves = encode(walk("float16", rows, columns, 1), "float16", shape)
    assert not float_row(Part(halves), None, rows, 0, out)
    narrow = encode(walk("float32", rows, columns, 1), "float32", Shape(16, 8))  # more strips than are provided for
    assert not float_row(Part(narrow), None, rows, 0, out)

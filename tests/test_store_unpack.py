"""pcodec's pages by the compiler: the numbers of pcodec itself, and nothing beyond the bytes that are there."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from weightlapse.errors import DamagedRecording
from weightlapse.store.codecs import unpack
from weightlapse.store.codecs.entropy import FILE_HEADER, PageReader, PageWriter


def numbers(kind: str, dtype: type, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    bits = 8 * np.dtype(dtype).itemsize
    made = {
        "constant": lambda: np.full(n, 7, np.int64),
        "few": lambda: rng.integers(0, 3, n),
        "small": lambda: rng.normal(0, 5, n).astype(np.int64),
        "wide": lambda: (rng.lognormal(0, 6, n) * rng.choice([-1, 1], n)).astype(np.int64),
        "noise": lambda: rng.integers(0, 1 << bits, n),
        "spikes": lambda: np.where(rng.random(n) < 0.01, rng.integers(0, 1 << bits, n), 3),
    }
    return made[kind]().astype(np.uint64).astype(dtype)


def padded(data: bytes) -> np.ndarray:
    """With ones behind, which nothing may depend on."""
    return np.frombuffer(data + b"\xff" * unpack.SLACK, np.uint8)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("kind", ["constant", "few", "small", "wide", "noise", "spikes"])
def test_the_numbers_of_pcodec(kind: str, dtype: type) -> None:
    for seed, sizes in enumerate(([1], [2, 3, 5], [255, 256, 257], [20_000, 1, 511], [4, 1000, 131_072])):
        values = numbers(kind, dtype, sum(sizes), seed)
        written = PageWriter(values, sizes)
        twin = PageReader(written.meta, np.dtype(dtype), FILE_HEADER)
        tables = unpack.Histograms([written.meta], 8 * np.dtype(dtype).itemsize, FILE_HEADER)
        assert tables.known
        data, at, start = padded(b"".join(written.pages)), 0, 0
        assert unpack.all_right(
            data[: -unpack.SLACK], [zlib.crc32(p) for p in written.pages], [*map(len, written.pages)]
        )
        for size, page in zip(sizes, written.pages):
            out = np.full(size + 2, 99, dtype)
            where = (start, start + len(page), tables.nodes, tables.logs[0], size, out[1:-1], *unpack.work())
            assert unpack.unpack(data, *where)
            assert (out[1:-1] == values[at : at + size]).all()
            assert (out[1:-1] == twin.read(page, size)).all()
            assert out[0] == out[-1] == 99
            few = np.full(size // 3 + 1, 99, dtype)
            where = (*where[:5], few, *unpack.work())
            assert unpack.unpack(data, *where)
            assert (few == values[at : at + len(few)]).all()
            at, start = at + size, start + len(page)


def test_bytes_that_are_none_are_left_to_pcodec() -> None:
    """Whatever is done to them: both ways say no, or both find the same numbers."""
    rng, told = np.random.default_rng(0), {"right": 0, "refused": 0}
    for k in range(400):
        values = numbers(("small", "wide", "few")[k % 3], np.uint32, 700, k)
        written = PageWriter(values, [700])
        meta, page = bytearray(written.meta), bytearray(written.pages[0])
        hurt = meta if k % 2 else page
        what = k % 5
        if what == 0:
            del hurt[int(rng.integers(len(hurt))) :]
        else:
            for _ in range(what):
                hurt[int(rng.integers(len(hurt)))] ^= 1 << int(rng.integers(8))
        out = np.zeros(700, np.uint32)
        table = unpack.Histograms([bytes(meta)], 32, FILE_HEADER)
        own = (0, len(page), table.nodes, table.logs[0], 700, out, *unpack.work())
        mine = table.known and unpack.unpack(padded(bytes(page)), *own)
        try:
            theirs = PageReader(bytes(meta), np.dtype(np.uint32), FILE_HEADER).read(bytes(page), 700)
        except DamagedRecording:
            assert not mine
            told["refused"] += 1
            continue
        if mine:
            assert (out == theirs).all()
            told["right"] += 1
    assert min(told.values()) > 20


@pytest.mark.parametrize("header", [b"", b"\x03", b"\x05\x00"])
def test_other_versions_are_left_to_pcodec(header: bytes) -> None:
    written = PageWriter(numbers("small", np.uint32, 300, 0), [300])
    assert not unpack.Histograms([written.meta], 32, header).known
    assert unpack.Histograms([written.meta, written.meta], 32, FILE_HEADER).known


def test_one_checksum_of_many_pages() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 9, 40):
        pages = [rng.bytes(int(rng.integers(0, 5000))) for _ in range(count)]
        crcs, sizes = [zlib.crc32(p) for p in pages], [*map(len, pages)]
        data = b"".join(pages)
        assert unpack.all_right(np.frombuffer(data, np.uint8), crcs, sizes)
        for _ in range(20):
            hurt = bytearray(data)
            hurt[int(rng.integers(len(hurt)))] ^= 1 << int(rng.integers(8))
            assert not unpack.all_right(np.frombuffer(hurt, np.uint8), crcs, sizes)
        if count > 2 and sizes[0] != sizes[1]:
            assert not unpack.all_right(
                np.frombuffer(b"".join([pages[1], pages[0], *pages[2:]]), np.uint8), crcs, sizes
            )

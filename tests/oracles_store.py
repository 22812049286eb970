"""Slow, obvious twins of what the store does fast. Nothing here shares code with it but the names of rules."""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from pcodec.wrapped import FileDecompressor

from weightlapse.store.codecs.predict import DAMPED, LAST, LINEAR, MOMENTUM, NONE, SLOPE


def predicted(history: list[int], rule: int, factor: float, dtype: str) -> int:
    """The pattern that a rule predicts after ``history`` (patterns, oldest first), one number at a time in plain Python."""
    bits = {
        "float64": 64,
        "uint64": 64,
        "int64": 64,
        "float32": 32,
        "int32": 32,
        "uint32": 32,
        "bfloat16": 16,
        "float16": 16,
    }.get(dtype, 16 if "16" in dtype else 8)
    mask = (1 << bits) - 1
    u1 = history[-1] if history else 0
    if rule == NONE or not history:
        return 0
    if rule == LAST or len(history) == 1:
        return u1
    u2 = history[-2]

    def signed(u: int) -> int:
        return u - (1 << bits) if u >> (bits - 1) else u

    if rule == LINEAR:
        return (2 * u1 - u2) & mask
    if rule == DAMPED:
        d = signed((u1 - u2) & mask)
        return (u1 + d - (d >> 4)) & mask
    if rule == SLOPE:
        if len(history) < 3:
            return u1
        d = signed((u1 - history[-3]) & mask)
        return (u1 + (d // 2 if d >= 0 else -(-d // 2))) & mask
    assert rule == MOMENTUM
    if dtype == "float64":
        w1, w2 = (struct.unpack("<d", struct.pack("<Q", u))[0] for u in (u1, u2))
        return struct.unpack("<Q", struct.pack("<d", w1 + factor * (w1 - w2)))[0]
    shift = 16 if dtype == "bfloat16" else 0
    w1, w2 = (np.float32(struct.unpack("<f", struct.pack("<I", u << shift))[0]) for u in (u1, u2))
    p = np.float32(w1 + np.float32(np.float32(factor) * np.float32(w1 - w2)))
    pattern = struct.unpack("<I", struct.pack("<f", float(p)))[0]
    if dtype == "bfloat16":
        low, high = pattern & 0xFFFF, pattern >> 16
        return high + (1 if low > 0x8000 or (low == 0x8000 and high & 1) else 0)
    return pattern


def residuals(u: np.ndarray, rule: int, factor: float, dtype: str) -> np.ndarray:
    out = np.empty_like(u)
    mask = (1 << (8 * u.itemsize)) - 1
    for j in range(u.shape[1]):
        column = [int(x) for x in u[:, j]]
        for t, value in enumerate(column):
            out[t, j] = (value - predicted(column[:t], rule, factor, dtype)) & mask
    return out


def flat_elements(shape: tuple[int, ...], region: tuple[slice, ...], lanes: int = 1) -> list[int]:
    """The C-order numbers of a region's elements, by asking NumPy."""
    numbers = np.arange(math.prod(shape)).reshape(shape)[region]
    return [int(k) * lanes + lane for k in numbers.ravel() for lane in range(lanes)]


def deviation(values: np.ndarray) -> float:
    """Population standard deviation of the finite values, in exact rational sums."""
    finite = [float(x) for x in values.ravel() if math.isfinite(x)]
    if not finite:
        return 0.0
    mean = math.fsum(finite) / len(finite)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in finite) / len(finite))


# ---- a second reader, written from docs/format.md alone ----------------------------------------------------------------

ITEM = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "bool": 1, "complex64": 4, "complex128": 8} | {
    f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)
}  # bytes of one number; complex numbers are two


def read_records(data: bytes, start: int = 0) -> list[tuple[bytes, int, bytes, int]]:
    """(kind, number, payload, offset) of each record."""
    found = []
    while start + 32 <= len(data):
        magic, kind, length, number, crc, own = struct.unpack_from("<4s4sQqII", data, start)
        assert magic == b"WLPS"
        assert zlib.crc32(data[start : start + 28]) == own
        payload = data[start + 32 : start + 32 + length]
        assert zlib.crc32(payload) == crc
        found.append((kind, number, payload, start))
        start += 32 + -(-length // 8) * 8
    return found


def read_recording(path: Path) -> tuple[list[int], list[list[dict]], list[dict[str, bytes]]]:
    """Steps, the layout of each frame, and each frame as patterns of its tensors by name."""
    layouts = {
        zlib.crc32(p): json.loads(p)["tensors"]
        for k, _, p, _ in read_records((path / "journal.log").read_bytes())
        if k == b"LAYT"
    }
    segments: dict[int, tuple[int, list[int], list[dict], list[dict[str, bytes]]]] = {}
    for file in sorted((path / "log").glob("*.seg")):
        segments[int(file.stem)] = _log_segment(file.read_bytes(), layouts)
    for file in sorted((path / "blocks").glob("*.blk")):
        segments[int(file.stem)] = _block_file(file.read_bytes(), layouts)
    steps, kinds, frames = [], [], []
    for first, own, layout, rows in sorted(segments.values(), key=lambda s: s[0]):
        assert first == len(frames)
        steps += own
        frames += rows
        kinds += [layout] * len(rows)
    return steps, kinds, frames


def _sizes(layout: list[dict]) -> list[tuple[str, int, int]]:
    """(name, numbers, bytes of a number) of each tensor."""
    lanes = {t["name"]: 2 if t["dtype"].startswith("complex") else 1 for t in layout}
    return [(t["name"], math.prod(t["shape"]) * lanes[t["name"]], ITEM[t["dtype"]]) for t in layout]


def _log_segment(data: bytes, layouts: dict) -> tuple[int, list[int], list[dict], list[dict[str, bytes]]]:
    (kind, first, opening, _), *rest = read_records(data)
    assert kind == b"SEGM"
    layout = layouts[struct.unpack("<4Q", opening)[3]]
    frames = []
    for _, _, row, _ in rest:
        frame, at = {}, 0
        for name, count, item in _sizes(layout):
            frame[name] = row[at : at + count * item]
            at += -(-count * item // 8) * 8
        frames.append(frame)
    return first, [step for _, step, _, _ in rest], layout, frames


def _block_file(data: bytes, layouts: dict) -> tuple[int, list[int], list[dict], list[dict[str, bytes]]]:
    found = read_records(data)
    assert found[0][0] == b"BLCK"
    first = found[0][1]
    _, _, _, crc, count, height, index = struct.unpack("<7Q", found[0][2])
    layout = layouts[crc]
    assert found[-1][0] == b"INDX"
    assert found[-1][3] == index
    assert found[1][0] == b"STEP"
    steps = list(struct.unpack(f"<{count}q", zlib.decompress(found[1][2][56:])))
    frames = [{name: bytearray(n * item) for name, n, item in _sizes(layout)} for _ in range(count)]
    names = _sizes(layout)
    for kind, _, payload, _ in found:
        if kind != b"CHNK":
            continue
        row, rows, pieces = struct.unpack_from("<3I", payload)
        assert row % height == 0
        table = [struct.unpack_from("<IQQ", payload, 12 + 20 * k) for k in range(pieces)]
        columns = read_chunk(payload[-(-(12 + 20 * pieces) // 8) * 8 :])
        item = columns.itemsize
        at = 0
        for tensor, start, stop in table:
            for t in range(rows):
                frames[row + t][names[tensor][0]][start * item : stop * item] = columns[
                    t, at : at + stop - start
                ].tobytes()
            at += stop - start
    return first, steps, layout, [{name: bytes(value) for name, value in frame.items()} for frame in frames]


def read_chunk(data: bytes) -> np.ndarray:
    """The patterns (T, n) of a chunk, one number at a time."""
    magic, crc, head, rows, n, width, height, code, form, rule, classes, factor, entries, mapped, streams = (
        struct.unpack_from("<4s6I4Bd2IH", data)
    )
    assert magic == b"WLCK"
    assert zlib.crc32(data[8:head]) == crc
    dtype = [
        "float32",
        "float64",
        "float16",
        "bfloat16",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
    ][code - 1]
    unsigned = np.dtype(f"<u{ITEM[dtype]}")
    at = 50
    grid = [struct.unpack_from("<Idd", data, at + 20 * k) for k in range(entries)]
    at += 20 * entries

    def sized() -> bytes:
        nonlocal at
        (length,) = struct.unpack_from("<H", data, at)
        at += 2 + length
        return data[at - length : at]

    strips = [range(a, min(a + width, n)) for a in range(0, n, width)]
    if form == 0:
        pages = _pages(data, at, head)
        out = np.empty((rows, n), unsigned)
        for strip, page in zip(strips, pages):
            out[:, strip.start : strip.stop] = np.frombuffer(page, unsigned).reshape(rows, len(strip))
        return out
    number = np.dtype("<u4") if form == 2 else unsigned
    wide = {1: "u16", 2: "u16", 4: "u32", 8: "u64"}[number.itemsize]
    codec = sized()
    end = at + mapped
    label = [0] * n
    if classes > 1:
        histogram = sized()
        label = _page(codec, histogram, "u16", data[at:end], n).tolist()
    at = end
    tiles = [[t for t in range(top, min(top + height, rows)) if t > 0] for top in range(0, rows, height)]
    tiles = [tile for tile in tiles if tile]
    cells = [[data[at + i * classes + c] for c in range(classes)] for i in range(len(tiles))]
    at += len(tiles) * classes
    histograms = [sized() for _ in range(1 + streams)]
    pages = iter(_pages(data, at, head))
    r = np.zeros((rows, n), np.uint64)
    for strip in strips:
        ordered = sorted(strip, key=lambda j: (label[j], j))
        r[0, ordered] = _page(codec, histograms[0], wide, next(pages), len(ordered))
        for tile, row in zip(tiles, cells):
            for c in range(classes):
                mine = [j for j in strip if label[j] == c]
                if mine:
                    values = _page(codec, histograms[1 + row[c]], wide, next(pages), len(tile) * len(mine))
                    r[np.ix_(tile, mine)] = values.reshape(len(tile), len(mine))
    kind = "int32" if form == 2 else dtype
    mask = (1 << (8 * number.itemsize)) - 1
    out = np.empty((rows, n), number)
    for j in range(n):
        column: list[int] = []
        for t in range(rows):
            column.append((int(r[t, j]) + predicted(column, rule, factor, kind)) & mask)
        out[:, j] = column
    if form == 1:
        return out
    steps = np.array([step for columns, step, _ in grid for _ in range(columns)])
    exact = steps == 0
    restored = _on_grid(out.view(np.int32) * steps, dtype, unsigned)
    restored[:, exact] = out[:, exact].astype(unsigned)
    return restored


def _on_grid(values: np.ndarray, dtype: str, unsigned: np.dtype) -> np.ndarray:
    if dtype == "bfloat16":
        pattern = values.astype(np.float32).view(np.uint32).astype(np.uint64)
        return ((pattern + 0x7FFF + (pattern >> 16 & 1)) >> 16).astype(np.uint16)
    return values.astype(dtype).view(unsigned)


def _pages(data: bytes, at: int, head: int) -> list[bytes]:
    pages, start = [], head
    for k in range(at, head, 8):
        length, crc = struct.unpack_from("<II", data, k)
        pages.append(data[start : start + length])
        assert zlib.crc32(pages[-1]) == crc
        start += length
    assert start == len(data)
    return pages


def _page(codec: bytes, histogram: bytes, kind: str, page: bytes, count: int) -> np.ndarray:
    decompressor, _ = FileDecompressor.new(codec)
    chunk, _ = decompressor.chunk_decompressor(histogram, kind)
    out = np.empty(count, {"u16": np.uint16, "u32": np.uint32, "u64": np.uint64}[kind])
    chunk.read_page_into(page, count, out)
    return out

"""Small chunks with everything in them (several strips, tiles, classes and histograms), what they hold, and heads that lie under a right checksum."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from weightlapse.store.codecs import classes
from weightlapse.store.codecs import encode as encoding
from weightlapse.store.codecs.decode import Chunk
from weightlapse.store.codecs.few import few_columns
from weightlapse.store.codecs.form import ENTRY, HEAD, PACKED, PLAIN, Shape
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.codecs.predict import DAMPED, LAST, LINEAR, MOMENTUM, NONE, SLOPE, Predictor
from weightlapse.store.files import Part

RULES = (NONE, LAST, LINEAR, MOMENTUM, DAMPED, SLOPE)
CHOICES = ([0], [69], [33, 34], [69, 0, 31, 32, 0], [*range(0, 70, 2)], [*range(70)][::-1], [5, 5])  # of columns

FIELDS = "magic crc head rows columns strip tile dtype form rule classes factor entries mapped streams".split()
HEIGHT, COLUMNS, SHAPE = 11, 70, Shape(32, 4)


def walking(dtype: str, rows: int = HEIGHT, columns: int = COLUMNS, seed: int = 0) -> Any:
    """Patterns (rows, columns) that move, neighbours at very different rates: there are three classes of them."""
    rng, pattern = np.random.default_rng(seed), PATTERNS[dtype]
    rate = np.array([0.0, 3.0, 300.0])[np.arange(columns) % 3]
    if pattern.is_float:
        steps = rng.normal(0, 1e-5, (rows, columns)) * rate
        return pattern.of_numbers(1 + rng.random(columns) + steps.cumsum(0))
    return np.rint(rng.normal(0, 1, (rows, columns)) * rate).cumsum(0).astype(np.int64).astype(pattern.unsigned)


def packed(u: Any, dtype: str, rule: int, shape: Shape = SHAPE, form: int = PACKED) -> bytes:
    """The chunk of ``u`` under this rule, with a histogram for every size of its residuals."""
    if form == PLAIN:
        return encoding._plain(u, PATTERNS[dtype], shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classes, "SMALLEST_STREAM", 8)
        predictor = Predictor(rule, 0.9 if rule == MOMENTUM else 0.0)
        return encoding._pack(u, PATTERNS[dtype], form, predictor, shape, np.empty(0, ENTRY), False)


def still() -> tuple[bytes, Any]:
    """A chunk of one value, whose pages have no bytes, and the patterns."""
    u = np.full((HEIGHT, COLUMNS), 7, np.uint32)
    return packed(u, "float32", LAST), u


def of_many_bins() -> tuple[bytes, Any]:
    """A chunk (100, 64) of one class, whose histogram has more than 256 bytes, and the patterns."""
    far = (np.arange(200) * 3_000_017).astype(np.uint32)
    u = np.random.default_rng(0).choice(far, (100, 64)).cumsum(0).astype(np.uint32)
    return packed(u, "float32", LAST, Shape(64, 64)), u


def on_grid(dtype: str, rows: int = HEIGHT, columns: int = COLUMNS, shape: Shape = SHAPE) -> tuple[bytes, Any]:
    """A chunk of grid codes of which the middle third is exact, and the patterns (rows, columns) that it stands for, counted one by one."""
    codes, pattern = walking("int32", rows, columns, 3), PATTERNS[dtype]
    third, true = columns // 3, np.empty((rows, columns), pattern.unsigned)
    cut = [(third, 0.25), (third, 0.0), (columns - 2 * third, 1 / 3)]
    codes[:, third : 2 * third] = walking(dtype, rows, columns)[:, third : 2 * third]
    steps = [step for count, step in cut for _ in range(count)]
    for t in range(rows):
        for j, step in enumerate(steps):
            if step == 0:
                true[t, j] = codes[t, j]
            else:
                true[t, j] = pattern.of_numbers(np.array([int(codes[t, j].astype(np.int32)) * step]))[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classes, "SMALLEST_STREAM", 8)
        made = encoding.encode_codes(codes, dtype, [c for c, _ in cut], [s for _, s in cut], [0.1, 0.0, 0.2], shape)
    return made, true


def forged(data: bytes, **fields: Any) -> bytes:
    """A chunk whose head says something else, with a right checksum."""
    values = dict(zip(FIELDS, HEAD.unpack_from(data))) | fields
    return summed(HEAD.pack(*values.values()) + data[HEAD.size :])


def summed(data: bytes) -> bytes:
    """The chunk with the checksum that its head should have."""
    head = min(HEAD.unpack_from(data)[2], len(data))
    return data[:4] + struct.pack("<I", zlib.crc32(data[8:head])) + data[8:]


def said(data: bytes) -> dict[str, Any]:
    """The fields of a head."""
    return dict(zip(FIELDS, HEAD.unpack_from(data)))


def with_pages(data: bytes, change: Any) -> bytes:
    """The chunk with other pages, ``change(pages)``, and a list of them and checksums that are right."""
    head = said(data)["head"]
    count = len(Chunk(data)._crcs)
    at, pages = head, []
    for k in range(count):
        (length,) = struct.unpack_from("<I", data, head - 8 * (count - k))
        pages.append(data[at : at + length])
        at += length
    pages = change(pages)
    listed = b"".join(struct.pack("<II", len(p), zlib.crc32(p)) for p in pages)
    front = data[: head - 8 * count]
    return forged(front + listed + b"".join(pages), head=len(front) + len(listed))


class Watched:
    """A chunk's bytes, and which of them were asked for."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)
        self.asked: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> bytes:
        assert 0 <= start <= stop <= self.size
        self.asked.append((start, stop))
        return self.data[start:stop]

    def read_into(self, start: int, out: memoryview) -> None:
        out[:] = self.read(start, start + len(out))


def chunks() -> Iterator[tuple[str, bytes, Any]]:
    """Every form and rule, in dtypes of every width."""
    for rule in RULES:
        for dtype in ("float32", "bfloat16", "float64") if rule == MOMENTUM else ("float32", "uint8", "int64"):
            u = walking(dtype)
            yield f"{dtype} under {rule}", packed(u, dtype, rule), u
    for dtype in ("float32", "int16", "uint8"):
        u = walking(dtype)
        yield f"plain {dtype}", packed(u, dtype, NONE, form=PLAIN), u
    for dtype in ("float32", "float16", "bfloat16"):
        yield f"grid of {dtype}", *on_grid(dtype)


CHUNKS = {what: (data, u) for what, data, u in chunks()}


def pages_of(data: bytes) -> list[tuple[int, int]]:
    """From where to where each page is."""
    chunk = Chunk(data)
    return list(itertools.pairwise(chunk._offsets))


def numbered(data: bytes, k: int, c: int, i: int | None) -> int:
    """The number of a page, counted from the first: of tile ``i`` and class ``c`` of strip ``k``, or of its row 0."""
    chunk, at = Chunk(data), 0
    for strip, (a, b) in enumerate(chunk.layout.strips):
        present = [d for d in range(chunk.layout.classes) if (chunk.layout.label[a:b] == d).any()]
        if strip == k:
            return at if i is None else at + 1 + i * len(present) + present.index(c)
        at += 1 + len(present) * len(chunk.spans)
    raise AssertionError


def few_of(data: bytes, columns: list[int], stop: int = HEIGHT, source: Any = None) -> Any:
    fields = said(data)
    dtype = next(p for p in PATTERNS.values() if p.code == fields["dtype"])
    return few_columns(source or Part(data), fields["crc"], (fields["rows"], fields["columns"]), dtype, columns, stop)


def under_all_rules(dtype: str) -> Iterator[tuple[str, Chunk, Any]]:
    for rule in RULES:
        if rule == MOMENTUM and dtype not in ("float32", "float64"):
            continue
        if rule in (NONE, LINEAR, DAMPED) and dtype != "float32":
            continue
        for rows, shape in ((HEIGHT, SHAPE), (3, Shape(32, 2)), (1, SHAPE))[: 3 if rule == LAST else 1]:
            u = walking(dtype, rows)
            yield f"rule {rule}, {rows} rows", Chunk(packed(u, dtype, rule, shape)), u
    if dtype in ("float32", "float16", "bfloat16"):
        data, u = on_grid(dtype)
        yield "grid", Chunk(data), u

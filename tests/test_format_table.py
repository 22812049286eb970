"""Every number of docs/format.md has a row here: where it stands on the page, and what holds it. Each check is shown to fail when its number moves by one."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weightlapse.capture import packed_ring
from weightlapse.errors import DamagedRecording, NotARecording
from weightlapse.store import (
    block,
    compact,
    journal,
    layout,
    log,
    manifest,
    packed,
    packing,
    raw,
    segments,
    statistics,
    writer,
)
from weightlapse.store.codecs import classes, cutting, form, patterns, predict
from weightlapse.store.codecs.decode import Chunk
from weightlapse.store.codecs.encode import encode
from weightlapse.store.folder import LocalFolder
from weightlapse.store.statistics_check import _CLOSE

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "format.md").read_text(encoding="utf-8")
RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹"
WORDS = {"two": 2, "three": 3, "four": 4, "six": 6, "seven": 7, "eight": 8}
N = rf"([\d{RAISED}]+)"
W = f"({'|'.join(WORDS)})"
HEAD = struct.calcsize(form.HEAD.format)


def fields(format_: str) -> list[tuple[int, int]]:
    """(offset, bytes) of each field of a packed struct."""
    order, rest, at, found = format_[0], format_[1:], 0, []
    for count, kind in re.findall(r"(\d*)([a-zA-Z])", rest):
        for one in [count + kind] if kind == "s" else [kind] * int(count or 1):
            found.append((at, struct.calcsize(order + one)))
            at += found[-1][1]
    return found


LOG, CHUNK, FRAME = fields(log.HEADER.format), fields(form.HEAD.format), fields(packed.FIXED.format)


def is_field(table: list[tuple[int, int]], *numbers: int) -> Callable[..., bool]:
    """That a row of a table gives offset and size(s) of the fields with these numbers."""
    return lambda at, *sizes: at == table[numbers[0]][0] and list(sizes) == [table[k][1] for k in numbers]


def record(payload: bytes = b"", kind: bytes = b"NAME", number: int = -3, place: int = 64, key: int = 77) -> bytes:
    return log.encode(kind, payload, number, log.Seal(key).at(kind, place))


def opens(dtype: str, rows: int, columns: int) -> bool:
    """Whether a chunk of this size is read: rows and columns are put into the head of a small one, whose checksum is made right again."""
    data = bytearray(encode(np.zeros((1, 4), patterns.PATTERNS[dtype].unsigned), dtype))
    data[12:20] = struct.pack("<II", rows, columns)
    data[4:8] = struct.pack("<I", zlib.crc32(data[8 : struct.unpack_from("<I", data, 8)[0]]))
    try:
        Chunk(bytes(data))
    except DamagedRecording as error:
        return "beyond the format's limits" not in str(error)
    return True


def manifest_of(nbytes: int, folder: Path) -> bool:
    """Whether a manifest of so many bytes is read; it is made of blanks, so a right size fails later."""
    (folder / manifest.NAME).write_bytes(b" " * nbytes)
    try:
        manifest.read(LocalFolder(folder))
    except NotARecording as error:
        return "more than any recording's" not in str(error)
    return True


def boundary(holds: Callable[[int], bool], most: int) -> bool:
    """True where ``most`` is the last that is allowed."""
    return holds(most) and not holds(most + 1)


def opening(kind: struct.Struct) -> int:
    """How many unsigned numbers of eight bytes an opening has before the id."""
    return kind.format.count("Q") if kind.format[1:2] == "Q" else int(re.findall(r"(\d+)Q", kind.format)[0])


#: (the words, with a group around each number; what holds them)
ROWS: list[tuple[str, Callable[..., Any]]] = [
    (rf"# The recording format, version {N}", lambda v: v == manifest.VERSION),
    (rf"of versions 1 and {N} too", lambda v: v == manifest.UNPACKED),
    (rf"version {N} is version {N} without packed frames, and recordings whose frames are never packed say {N}\.",
     lambda a, b, c: a == c == manifest.UNPACKED and b == manifest.VERSION),
    (rf"`version` \| integer: {N} where frames may be packed, else {N} ", lambda a, b: (a, b) == (manifest.VERSION, manifest.UNPACKED)),
    (rf"at most {N} MiB\. Keys", lambda m: m << 20 == manifest.MAX_NBYTES),
    (rf"`id` \| {N} hexadecimal digits \(lower case\), different for every recording\. In other files it is the {N} bytes",
     lambda digits, nbytes: digits == 2 * nbytes and nbytes == struct.calcsize(raw._OPENING.format) - 8 * opening(raw._OPENING)),
    (rf"with the first {W} digits of the id \|", lambda n: n == 8 and manifest._JOURNAL_NAME.fullmatch(f"journal-{'a' * n}.log") is not None),
    (rf"From version {N} on the bytes of the manifest", lambda v: v == manifest.UNPACKED),
    # records
    (rf"\| 0 \| {N} \| `WLPS` \|", lambda n: record()[:n] == b"WLPS"),
    (rf"\| {N} \| {N} \| kind: {W} ASCII letters", lambda at, n, letters: record()[at : at + n] == b"NAME" and n == letters),
    (rf"\| {N} \| {N} \| payload length n, unsigned", lambda at, n: is_field(LOG, 2)(at, n) and int.from_bytes(record(b"abc")[at : at + n], "little") == 3),
    (rf"\| {N} \| {N} \| a signed number", lambda at, n: is_field(LOG, 3)(at, n) and int.from_bytes(record()[at : at + n], "little", signed=True) == -3),
    (rf"\| {N} \| {N} \| CRC-32 of the payload, begun with the seal",
     lambda at, n: record(b"abc")[at : at + n] == struct.pack("<I", zlib.crc32(b"abc", 77 + 64))),
    (rf"\| {N} \| {N} \| CRC-32 of bytes 0 to {N}; in",
     lambda at, n, last: record(b"abc")[at : at + n] == struct.pack("<I", zlib.crc32(record(b"abc")[: last + 1]))),
    (rf"\| {N} \| n \| payload \|", lambda at: record(b"abc")[at : at + 3] == b"abc" and at == log.HEADER_NBYTES),
    (rf"\| {N} \+ n \| 0 to {N} \| zeros, up to the next multiple of {N} \|",
     lambda at, most, by: all(len(record(b"x" * k)) == at + k + (-(at + k)) % by for k in range(20)) and most == by - 1),
    (rf"CRC-32 of the {N} bytes of its id\. The \*\*seal\*\* of a record is \(key \+ place\) modulo 2{N};",
     lambda n, bits: n == 16 and log.Seal(2**bits - 1).at(b"NAME", 1) == 0 and log.Seal(2 ** (bits - 1)).at(b"NAME", 0) == 2 ** (bits - 1) and log.Seal(2**bits - 1).at(b"NAME", 0) == 2**bits - 1 < 2**32 == 2**bits),
    (rf"magic at a multiple of {W}", lambda n: n == 8 and all(len(record(b"x" * k)) % n == 0 for k in range(9)) and any(len(record(b"x" * k)) % (2 * n) for k in range(9))),
    # layout
    (rf"each starting at the next multiple of {N} bytes,\nzeros between; its length is a multiple of {N}\.", lambda a, b: a == b == layout.ALIGNMENT),
    (rf"in the low bits of a uint{N}, one value a byte", lambda n: n == 8),
    # segments
    (rf"{W} uint64: number of the segment, epoch of its layout, bytes of a frame, CRC-32 \(begun with 0\) of the payload of the `LAYT` record, offset of the first frame's record, bytes of a page, or 0, or 1 where frames are packed; then the {N} bytes of the id",
     lambda n, id_: n == opening(raw._OPENING) and struct.calcsize(raw._OPENING.format) == 8 * n + id_),
    (rf"A file of less than {N} bytes holds no\nframe", lambda n: n == segments.STUB_NBYTES == log.HEADER_NBYTES + 8 * opening(raw._OPENING) + 16),
    (rf"`SEGM` has the first {W} numbers only; no copies; the first frame begins at byte {N};",
     lambda n, at: n == opening(raw._OPENING_V1) and at == log.HEADER_NBYTES + struct.calcsize(raw._OPENING_V1.format)),
    # packed frames
    (rf"\| 0 \| {N} \| k: number of the frame within the segment", lambda n: is_field(FRAME, 0)(0, n)),
    (rf"\| {N} \| {N} \| bytes of a page of the data, {N} \|", lambda at, n, page: is_field(FRAME, 1)(at, n) and page == packed.PAGE_NBYTES),
    (rf"\| {N} \| {N} \| H: bytes of the head, a multiple of {N} \|", lambda at, n, by: is_field(FRAME, 2)(at, n) and by == 8),
    (rf"\| {N} \| {N} \| T: number of tensors", is_field(FRAME, 3)),
    (rf"\| {N} \| {N}, {N} \| V: words of the widths; D: words of the numbers; a word has {W} bytes",
     lambda at, a, b, word: is_field(FRAME, 4, 5)(at, a, b) and word == packing.pack_blocks(np.ones((1, 32), np.uint32))[1].itemsize),
    (rf"\| {N} \| {N} T \| for each tensor", lambda at, n: (at, n) == (packed.FIXED.size, packed.ENTRY.itemsize)),
    (rf"uint8, zeros up to a multiple of {N}; then the V words", lambda n: n == np.dtype(np.uint32).itemsize),
    (rf"where a value has {W} bytes \(float16, bfloat16, int16, uint16\)", lambda n: n == 2 and packed.numbers_in(layout.TensorSpec("w", "int16", (5,), "weights", ())) == 10 // n),
    (rf"bytes of the tensor, {W} to a number, zeros", lambda n: packed.numbers_in(layout.TensorSpec("w", "uint8", (16,), "weights", ())) == 16 // n),
    (rf"must be added, modulo 2{N}, to its numbers", lambda bits: bits == 8 * np.dtype(np.int32).itemsize),
    (rf"\*\*Groups\.\*\* {N} numbers are a block, {N} blocks a group;", lambda n, g: n == packing.BLOCK and n * g == packing.GROUP),
    (rf"folded to the uint32 \({N} n\) xor \(n >> {N}\), arithmetic\nshift: 0, 1, {N}, {N}, \.\.\. stand for 0, −1, 1, −{N}, \.\.\.",
     lambda a, b, two, three, minus: (two, three, minus) == (2, 3, 2) and [int(packing.fold(np.array([n], np.int32))[0]) for n in (0, -1, 1, -2, 2**30)] == [((a * n) ^ (n >> b)) % 2**32 for n in (0, -1, 1, -2, 2**30)] and b == 31),
    (rf"word i holding bit i of the {N}\nnumbers", lambda n: n == packing.BLOCK),
    (rf"The {N} widths of a group, not folded", lambda n: n == packing.GROUP // packing.BLOCK),
    # blocks
    (rf"Floats and integers of {W} bits and fewer are pieces of uint8 and int8", lambda n: n == 8 * np.dtype(np.uint8).itemsize),
    (rf"{W} uint64: number of the segment, epoch of its layout, bytes of a frame, CRC-32 of its `LAYT` payload, frames, height, offset in the file of the `INDX` record; then the {N} bytes of the id",
     lambda n, id_: n == opening(block._OPENING) and struct.calcsize(block._OPENING.format) == 8 * n + id_),
    (rf"{W} uint32: first frame within the segment, frames, number P of pieces, check; P times tensor \(uint32\), start \(uint64\), stop \(uint64\), packed; zeros up to a multiple of {N}; the chunk\. The check is the CRC-32, begun with the key, of {W} uint32 \(first frame, frames, checksum of the chunk's head: its bytes {N} to {N}\) and the P pieces",
     lambda n, by, checked, a, b: n * 4 == struct.calcsize(block._CHUNK_HEAD.format) and by == 8 and checked == 3 and (a, b + 1 - a) == CHUNK[1] and block.PIECE.itemsize == 20),
    (rf"`INDX` \| first frame \| the {N} bytes of the id, then zlib: {W} uint64 C, P, B, frames;", lambda id_, n: id_ == 16 and 8 * n == struct.calcsize(block._INDEX_HEAD.format)),
    (rf"the offset in the file and the length of the chunk \({W} uint64\)", lambda n: n == 2),
    (rf"no check in `CHNK` \({W} uint32\)", lambda n: n * 4 == struct.calcsize(block._CHUNK_HEAD_V1.format)),
    # chunks
    (rf"\| 0 \| {N} \| `WLCK` \|", lambda n: is_field(CHUNK, 0)(0, n)),
    (rf"\| {N} \| {N} \| CRC-32 of bytes {N} to head \|", lambda at, n, begin: is_field(CHUNK, 1)(at, n) and (lambda c: struct.unpack_from("<I", c, at)[0] == zlib.crc32(c[begin : struct.unpack_from("<I", c, 8)[0]]))(encode(np.zeros((1, 4), np.uint8), "uint8"))),
    (rf"\| {N} \| {N} \| head: bytes before the first page", is_field(CHUNK, 2)),
    (rf"\| {N} \| {N}, {N} \| T; n\. At most 2{N} columns and 2{N} values \|",
     lambda at, a, b, c, v: is_field(CHUNK, 3, 4)(at, a, b) and (2**c, 2**v) == (form.MAX_COLUMNS, form.MAX_VALUES) and boundary(lambda n: opens("uint8", 1, n), 2**c) and boundary(lambda t: opens("uint8", t, 2**c), 2 ** (v - c))),
    (rf"\| {N} \| {N}, {N} \| strip width W", is_field(CHUNK, 5, 6)),
    (rf"\| {N} \| 1 \| dtype: 1 float32, {N} float64, {N} float16, {N} bfloat16, {N}–{N} int8/16/32/64, {N}–{N} uint8/16/32/64, {N} bool \|",
     lambda at, *codes: at == CHUNK[7][0] and list(codes) == [patterns.PATTERNS[n].code for n in ("float64", "float16", "bfloat16", "int8", "int64", "uint8", "uint64", "bool")]),
    (rf"\| {N} \| 1 \| form: 0 plain, 1 packed, {N} packed grid codes", lambda at, grid: at == CHUNK[8][0] and (0, 1, grid) == (form.PLAIN, form.PACKED, form.GRID)),
    (rf"\| {N} \| 1 \| rule of the predictor", lambda at: at == CHUNK[9][0]),
    (rf"\| {N} \| 1 \| C: number of classes of columns, at most {N};", lambda at, most: at == CHUNK[10][0] and most == classes.MAX_CLASSES),
    (rf"\| {N} \| {N} \| factor of the predictor, float64", is_field(CHUNK, 11)),
    (rf"\| {N} \| {N}, {N} \| G: number of grid entries", is_field(CHUNK, 12, 13)),
    (rf"\| {N} \| {N} \| S: number of histograms", is_field(CHUNK, 14)),
    (rf"\| {N} \| {N} G \| grid entries", lambda at, n: at == HEAD and n == form.ENTRY.itemsize),
    (rf"\| \| {N} each \| per page", lambda n: n == form.PAGE.itemsize),
    (rf"type u16 \(for {N}- and {N}-bit dtypes\)", lambda a, b: (a, b) == (8, 16)),
    (rf"From row {N}\non", lambda n: n == 2),
    (rf"with u1, u2, u3 the patterns one, {W} and {W} rows before", lambda a, b: (a, b) == (2, 3)),
    (rf"\| {N} \| {N} u1 − u2 \|", lambda rule, f: rule == predict.LINEAR and follows(rule, lambda u: f * u[1] - u[2])),
    (rf"\| {N} \| the pattern of w1", lambda rule: rule == predict.MOMENTUM),
    (rf"\| {N} \| u1 \+ d − \(d >> {N}\), arithmetic", lambda rule, by: rule == predict.DAMPED and follows(rule, lambda u: u[1] + (u[1] - u[2]) - ((u[1] - u[2]) >> by))),
    (rf"\| {N} \| in row {N} u1; then u1 \+ \(u1 − u3\) / {N},", lambda rule, row, by: rule == predict.SLOPE and row == 2 and follows(rule, lambda u: u[1] + (u[1] - u[3]) // by)),
    (rf"A writer uses rule {N} only", lambda rule: rule == predict.MOMENTUM),
    (rf"magnitude in \[2\^−{N}, 2\^{N}\) \(float64: \[2\^−{N}, 2\^{N}\)\)", lambda a, b, c, d: ends("float32", np.float32, np.uint32, a, b) and ends("float64", np.float64, np.uint64, c, d)),
    (rf"as to any {N}-bit pattern", lambda n: n == patterns.PATTERNS["int32"].bits),
    # statistics
    (rf"payload is the {N} bytes of the id, with the seal", lambda n: n == 16),
    (rf"with the first {W} digits of the id, tells", lambda n: n == 8),
    (rf"{W} uint64: first frame, frames, height", lambda n: 8 * n == struct.calcsize(statistics._HEAD.format)),
    (rf"complex ones as {W}; they are those", lambda n: n == 2),
    (rf"and the {W} sums are those of the finite values", lambda n: n == len([m for m in statistics.MEASURES if m in ("sum", "sumsq")])),
    (rf"readers that check allow {N}⁻{N}\)", lambda ten, nine: pytest.approx(float(ten) ** -nine, rel=1e-6) == _CLOSE),
    # what the writer chooses
    (rf"A packed segment has {N} to {N} frames", lambda a, b: (a, b) == packed_ring._SEGMENT_FRAMES and packed_ring.frames_to_a_key(1 << 60) == a and packed_ring.frames_to_a_key(1) == b),
    (rf"Frames of {N} KiB and more have pages of {N} KiB", lambda a, b: raw.page_of(a << 10) == b << 10 and raw.page_of((a << 10) - 1) == 0),
    (rf"at most {N} frames \({N} with a tolerance; of small\nframes as many as make {N} KiB, up to {N};",
     lambda a, b, small, most: compact.block_frames(None) == a and compact.block_frames(0.1) == b and compact.block_frames(None, 1024) == small and compact.block_frames(None, 1) == most),
    (rf"at most {N}\.{N} GiB, but {W} frames at least: at {N} MB a frame", lambda a, b, few, mb: (10 * a + b) << 30 == 10 * compact._REACH and compact.block_frames(None, compact._REACH // 8) == 8 and compact.block_frames(None, 1 << 40) == few and (mb == 500 and compact.block_frames(None, mb * 10**6) == 5)),
    (rf"A chunk has at most {N} columns, of a tensor of 2{N} values and more {N} \({N} in blocks of up to {N} frames\)",
     lambda few, large, many, short, frames: [compact.chunk_limit(h, 1 << 40, s) for h, s in ((96, 2**large - 1), (96, 2**large), (frames, 2**large), (frames + 1, 2**large))] == [few, many, short, many] and few == cutting.CHUNK),
    (rf"Strips have {N} columns \({N} in short blocks\), with a tolerance {N}, in large chunks {N} or, in blocks of up to {N} frames, all of them; tiles have {N} rows \(with a tolerance {N}; {N} in short blocks, more in narrow chunks; {N} and {N} in large ones\)",
     lambda a, d, b, c, h, t, bt, s, x, y: [compact.chunk_shape(*of) for of in ((None, 96, 9000), (None, 64, 9000), (0.1, 96, 9000), (None, h + 1, 20000), (None, h, 20000))] == [form.Shape(a, t), form.Shape(d, s), form.Shape(b, bt), form.Shape(c, x), form.Shape(20000, y)]),
    (rf"Tensors of {N} values \({N} with a tolerance\)", lambda a, b: (a, b) == (statistics._ROW_EACH_FRAME, statistics._ROW_EACH_FRAME_ROUNDED)),
    (rf"have {N} values \({N}\) in a time block", lambda a, b: (a, b) == (statistics._UNIT_VALUES, statistics._UNIT_VALUES_ROUNDED)),
    (rf"A log segment is {N} MiB in whole time blocks, and for large models one time block as far as {N} GiB hold it", lambda a, b: (a << 20, b << 30) == (writer._SEGMENT_NBYTES, writer._LARGEST_NBYTES)),
]  # fmt: skip


def follows(rule: int, predicted: Callable[[list[int]], int]) -> bool:
    """Whether a rule predicts row 3 of a rising line so; u[1] is the row before it."""
    u = [0, 32000, 9100, 700]
    rows = np.array([[u[3]], [u[2]], [u[1]], [50000]], np.uint32)
    left = predict.residuals(rows, patterns.PATTERNS["int32"], predict.Predictor(rule))[3, 0]
    return int(left) == (50000 - predicted(u)) % 2**32


def ends(dtype: str, kind: Any, bits: Any, low: int, high: int) -> bool:
    """Whether 2**-low is the least and 2**high the first that is too much."""

    def may(value: Any, by: int = 0) -> bool:
        pattern = np.array([[value]], kind).view(bits)
        return predict.within_momentum_range(
            pattern + bits(by) if by >= 0 else pattern - bits(-by), patterns.PATTERNS[dtype]
        )

    least, most = kind(2.0) ** kind(-low), kind(2.0) ** kind(high)
    return may(least) and not may(least, -1) and not may(most) and may(most, -1)


def number(text: str) -> int:
    return WORDS[text] if text in WORDS else int("".join(str(RAISED.index(c)) if c in RAISED else c for c in text))


@pytest.mark.parametrize(("words", "holds"), ROWS, ids=[words[:40] for words, _ in ROWS])
def test_a_number_is_what_the_page_says_and_may_not_move(words: str, holds: Callable[..., Any]) -> None:
    found = [m for m in re.finditer(words, PAGE) if any(m.groups())]
    assert len(found) == 1, f"these words stand {len(found)} times on the page"
    numbers = [number(text) for text in found[0].groups()]
    assert holds(*numbers)
    for k in range(len(numbers)):
        for by in (1, -1):
            assert not holds(*numbers[:k], numbers[k] + by, *numbers[k + 1 :]), (
                f"number {k}, {numbers[k]}, may be another"
            )


def test_a_manifest_may_have_so_many_bytes(tmp_path: Path) -> None:
    assert boundary(lambda n: manifest_of(n, tmp_path), manifest.MAX_NBYTES)


def test_the_dtypes_of_the_page_are_those_of_a_layout() -> None:
    told = {
        name
        for line in re.findall(r"^\| ((?:b?complex32|float|bfloat|int1)[^|]*) \| (?:the|two)", PAGE, re.M)
        for name in line.split(", ")
    }
    first = re.search(r"one of bool, \(u\)int8/16/32/64, float16/32/64, complex64/128, or one of", PAGE)
    assert first is not None
    plain = {
        "bool",
        *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)),
        *(f"float{n}" for n in (16, 32, 64)),
        "complex64",
        "complex128",
    }
    few = {f"{u}int{n}" for u in ("", "u") for n in range(1, 8)}
    assert "int1 to int7" in PAGE
    assert (told - {"int1 to int7", "uint1 to uint7"}) | plain | few == layout.DTYPES


def test_scalars_are_three_numbers_of_eight_bytes() -> None:
    assert "array of (frame int64, id int64, value float64)" in PAGE
    assert [(n, journal.SCALAR[n].str) for n in journal.SCALAR.names] == [
        ("frame", "<i8"),
        ("id", "<i8"),
        ("value", "<f8"),
    ]


#: what is a name and no number of the format. 0 and 1 (first offsets, flags, row 0) are held by the second reader (oracles_format.py) on the golden recordings.
NAMES = re.compile(
    r"[A-Za-z_`][A-Za-z_]*\d\w*|\d{4,6}\.(?:seg|blk)|CRC-32|UTF-8|IEEE 754|0xEDB88320|kill -9|\(u\)int8/16/32/64, float16/32/64, complex64/128"
    r"|(?<=int8)/16/32/64|\b[01]\b|2(?=~)|2(?=\^)"  # a power of two, whose exponent has a row
)


def uncovered(page: str) -> list[str]:
    """The numbers of a page that no row names, with what stands around them."""
    hidden = list(page)
    for words, _ in ROWS:
        for m in re.finditer(words, page):
            for k in range(1, (m.lastindex or 0) + 1):
                if m[k] is not None:
                    hidden[m.start(k) : m.end(k)] = "~" * (m.end(k) - m.start(k))
    text = NAMES.sub(lambda m: "~" * len(m[0]), "".join(hidden))
    return [page[max(m.start() - 30, 0) : m.end() + 20] for m in re.finditer(rf"[\d{RAISED}]+", text)]


def test_every_number_of_the_page_has_a_row() -> None:
    assert uncovered(PAGE) == []
    assert len(uncovered(PAGE + "\nA tile has 33 rows, of 2¹⁹ columns.\n")) >= 1, "a new one is noticed"


def test_the_table_reads_numbers_as_they_are_written() -> None:
    assert [number(x) for x in ("2", "¹⁷", "eight", "65536")] == [2, 17, 8, 65536]
    assert fields("<4s2QI") == [(0, 4), (4, 8), (12, 8), (20, 4)]

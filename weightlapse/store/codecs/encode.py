"""Encoding a chunk (see ``form.py``)."""

from __future__ import annotations

import importlib
import importlib.util
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.codecs import classes, grid
from weightlapse.store.codecs.entropy import FILE_HEADER, PageWriter
from weightlapse.store.codecs.form import ENTRY, GRID, HEAD, MAGIC, PACKED, PAGE, PLAIN, SIZE, Columns, Shape, tiles
from weightlapse.store.codecs.patterns import PATTERNS, Pattern
from weightlapse.store.codecs.predict import (
    GRID_CHOICES,
    LOSSLESS_CHOICES,
    MOMENTUM,
    NONE,
    Predictor,
    choose,
    residuals,
    within_momentum_range,
)

_SLAB = 32  # rows


def encode(u: NDArray[np.unsignedinteger], dtype: str, shape: Shape = Shape(), *, compiled: bool = False) -> bytes:  # noqa: B008 (frozen)
    """Patterns ``u`` (T, n) as the bytes of a lossless chunk; never more than the patterns and a small header.

    ``compiled``: by the kernels of numba where it is installed, the same bytes.
    """
    pattern = PATTERNS[dtype]
    u = np.ascontiguousarray(u)
    choices: tuple[Predictor, ...] = LOSSLESS_CHOICES
    if not within_momentum_range(u, pattern):
        choices = tuple(c for c in choices if c.rule != MOMENTUM)
    packed = b""
    if u.size:
        packed = _pack(u, pattern, PACKED, choose(u, pattern, choices), shape, np.empty(0, ENTRY), compiled)
    plain_nbytes = HEAD.size + u.nbytes + PAGE.itemsize * -(-u.shape[1] // shape.strip)
    return packed if packed and len(packed) < plain_nbytes else _plain(u, pattern, shape)


def encode_bounded(
    u: NDArray[np.unsignedinteger],
    dtype: str,
    columns: list[int],
    bounds: list[float],
    shape: Shape = Shape(),  # noqa: B008
    *,
    known: Sequence[tuple[float, NDArray[np.int32]] | None] | None = None,
    compiled: bool = False,
) -> bytes | None:
    """Patterns ``u`` (T, n) as a chunk of grid codes, or None when all of it must be exact.

    ``columns[i]`` neighbouring columns belong to one tensor whose values may be off by ``bounds[i]``. Every value is decoded and compared
    here: columns of a tensor that has a NaN, an infinity, no deviation or a single value out of bounds are kept exactly.

    ``known[i]``: step and codes (T, columns) of values that lie on a grid already, which then stays theirs; of step 0: values that must be exact.
    """
    pattern = PATTERNS[dtype]
    if u.size == 0 or not pattern.is_float:
        return None
    codes = np.empty(u.shape, np.uint32)
    steps, at = [], 0
    for i, (count, bound) in enumerate(zip(columns, bounds)):
        mine = slice(at, at + count)
        given = known[i] if known is not None else None
        if given is None:
            steps.append(_to_grid(u[:, mine], codes[:, mine], bound, pattern) if count else 0.0)
        else:
            steps.append(given[0])
            codes[:, mine] = given[1].view(np.uint32) if given[0] else u[:, mine]
        at += count
    if not any(steps) or (pattern.bits > 32 and not all(step for step, count in zip(steps, columns) if count)):
        return None
    return encode_codes(codes, dtype, columns, steps, bounds, shape, compiled=compiled)


def encode_codes(
    codes: NDArray[np.uint32],
    dtype: str,
    columns: list[int],
    steps: list[float],
    bounds: list[float],
    shape: Shape,
    *,
    compiled: bool = False,
) -> bytes:
    """Grid codes (T, n), T and n at least 1, as a chunk: ``columns[i]`` neighbouring ones have the step ``steps[i]``; of step 0: patterns."""
    table = np.array(list(zip(columns, steps, bounds)), ENTRY)
    predictor = choose(codes, PATTERNS["int32"], GRID_CHOICES)
    return _pack(codes, PATTERNS[dtype], GRID, predictor, shape, table, compiled)


def _to_grid(u: NDArray[np.unsignedinteger], codes: NDArray[np.uint32], bound: float, pattern: Pattern) -> float:
    """Write the grid codes of ``u`` and return their step; 0.0, and the patterns as codes, when they must be exact."""
    slabs = [slice(top, top + _SLAB) for top in range(0, len(u), _SLAB)]  # float64 copies of a few rows at a time
    tops = [np.abs(pattern.numbers(np.ascontiguousarray(u[slab]))).max() for slab in slabs]
    largest = float(np.max(tops))  # NaN when any value is
    step = 1.0 if largest == 0 else grid.grid_step(bound, largest, pattern)
    if step > 0:
        for slab in slabs:
            rows = np.ascontiguousarray(u[slab])
            codes[slab] = grid.to_codes(pattern.numbers(rows), np.float64(step))
            if not grid.within_bound(rows, grid.from_codes(codes[slab], np.float64(step), pattern), bound, pattern):
                step = 0.0
                break
    if step == 0:
        codes[...] = u.astype(np.uint32)
    return step


def _pack(
    u: NDArray[np.unsignedinteger],
    pattern: Pattern,
    form: int,
    predictor: Predictor,
    shape: Shape,
    table: NDArray[Any],
    compiled: bool,
) -> bytes:
    """Patterns or grid codes ``u`` (T, n) as a chunk of that form under this predictor; ``table`` are its grid entries."""
    rows, n = u.shape
    number = PATTERNS["int32"] if form == GRID else pattern
    spans = tiles(rows, shape.tile)
    passes = _passes(u, number, predictor, spans) if compiled else None
    r = residuals(u, number, predictor) if passes is None else u[:0]
    size = classes.magnitudes(r, spans) if passes is None else passes.sizes()
    label = classes.assign(size, max(16, n // 24))
    count = int(label.max()) + 1
    columns = Columns(n, shape.strip, label, count)
    heights = np.array([bottom - top for top, bottom in spans], np.int64)
    cells = classes.streams(size, label, heights) if spans else np.empty((0, count), np.uint8)
    first, numbers, sizes = _gathered(r, columns, spans, cells) if passes is None else passes.pages(columns, cells)
    key = PageWriter(first, [stop - start for start, stop in columns.strips])
    streams = [PageWriter(values, own) for values, own in zip(numbers, sizes)]
    taken = [iter(stream.pages) for stream in streams]
    pages: list[bytes] = []
    for k in range(len(columns.strips)):
        pages.append(key.pages[k])
        present = [c for c in range(count) if columns.widths[k * count + c]]
        for row in cells.tolist():
            pages.extend(next(taken[row[c]]) for c in present)
    class_map = b""
    if count > 1:
        written = PageWriter(label, [n])
        class_map = _sized(written.meta) + written.pages[0]
    histograms = cells.tobytes() + b"".join(_sized(w.meta) for w in (key, *streams))
    head = (rows, n, shape, pattern, form, predictor, count, len(streams))
    return _assemble(head, table, class_map, histograms, pages)


def _passes(
    u: NDArray[np.unsignedinteger], pattern: Pattern, predictor: Predictor, spans: list[tuple[int, int]]
) -> Any:
    """The compiled passes over a chunk, None where numba is not installed or they are not for it."""
    if importlib.util.find_spec("numba") is None:
        return None
    kernels = importlib.import_module("weightlapse.store.codecs.kernels")
    return kernels.Passes(u, pattern, predictor, spans) if kernels.Passes.know(u, pattern, predictor) else None


def _gathered(
    r: NDArray[np.unsignedinteger], columns: Columns, spans: list[tuple[int, int]], cells: NDArray[np.uint8]
) -> tuple[NDArray[Any], list[NDArray[Any]], list[list[int]]]:
    """Row 0 in the order of the columns; for each histogram the residuals of its cells (tiles, classes) in page order, and how many a page has."""
    r = np.take(r, columns.order(), axis=1)
    numbers, sizes = [], []
    for s in range(int(cells.max()) + 1 if spans else 0):
        parts, chosen = [], [np.flatnonzero(row == s).tolist() for row in cells]
        for k in range(len(columns.strips)):
            for (top, bottom), present in zip(spans, chosen):
                for c in present:
                    g = k * columns.classes + c
                    if columns.widths[g]:
                        parts.append(r[top:bottom, columns.starts[g] : columns.starts[g + 1]].reshape(-1))
        numbers.append(np.concatenate(parts))
        sizes.append([len(p) for p in parts])
    return r[0], numbers, sizes


def _plain(u: NDArray[np.unsignedinteger], pattern: Pattern, shape: Shape) -> bytes:
    """Patterns ``u`` (T, n) as a chunk without compression."""
    rows, n = u.shape
    pages = [u[:, start : start + shape.strip].tobytes() for start in range(0, n, shape.strip)]
    head = (rows, n, shape, pattern, PLAIN, Predictor(NONE), 0, 0)
    return _assemble(head, np.empty(0, ENTRY), b"", b"", pages)


def _sized(data: bytes) -> bytes:
    """The bytes behind their length (uint16)."""
    return SIZE.pack(len(data)) + data


def _assemble(
    head: tuple[int, int, Shape, Pattern, int, Predictor, int, int],
    table: NDArray[Any],
    class_map: bytes,
    histograms: bytes,
    pages: Sequence[bytes],
) -> bytes:
    """A chunk of its parts: head with checksum, and pages."""
    rows, n, shape, pattern, form, predictor, count, streams = head
    directory = np.array([(len(p), zlib.crc32(p)) for p in pages], PAGE).tobytes()
    codec = _sized(FILE_HEADER) if form != PLAIN else b""
    rest = table.tobytes() + codec + class_map + histograms + directory
    cut = (HEAD.size + len(rest), rows, n, shape.strip, shape.tile)
    kind = (pattern.code, form, predictor.rule, count, predictor.factor)
    fixed = HEAD.pack(MAGIC, 0, *cut, *kind, len(table), len(class_map), streams)
    crc = zlib.crc32(rest, zlib.crc32(fixed[8:]))
    return b"".join([fixed[:4], struct.pack("<I", crc), fixed[8:], rest, *pages])

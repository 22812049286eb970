"""One row of a chunk, from the file to its place: the head, the pages and the values by one compiled call each, for whoever reads whole frames.

What ``decode.Chunk`` and ``decode.Run`` do step by step takes the interpreter some hundred microseconds a chunk, which many threads would wait for;
here it is some ten. They are the twin: whatever is not as usual is left to them, and they say what is wrong with it.
"""

from __future__ import annotations

import threading
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.codecs.classes import MAX_CLASSES
from weightlapse.store.codecs.decode import Bytes, scratch
from weightlapse.store.codecs.decode_kernels import HISTORY, _chunk_row, _opened, _wanted_pages
from weightlapse.store.codecs.form import GRID, HEAD, MAGIC, MAX_COLUMNS, MAX_VALUES, PACKED, tiles
from weightlapse.store.codecs.inverse import Inverse
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.codecs.predict import NONE, Predictor, float_dtype, rule_is_for
from weightlapse.store.codecs.unpack import SLACK

_FLOAT = PATTERNS["float32"]
_ONE_READ = 1 << 20  # bytes of a chunk that is read as a whole
_HEAD = 1 << 16  # else, bytes read for the head at first
_STRIPS, _ENTRIES, _TILES, _PAGES, _NODES = 64, 64, 64, 1 << 14, 1 << 16


class _Room:
    """Work space of a thread."""

    def __init__(self) -> None:
        """Room for the head of every usual chunk; one that needs more is left to the decoder."""
        self.label = np.empty(MAX_COLUMNS, np.uint8)
        self.nodes, self.begins, self.logs = (
            np.empty(_NODES, np.uint64),
            np.empty(258, np.int64),
            np.empty(257, np.int64),
        )
        self.cells = np.empty((_TILES, MAX_CLASSES), np.uint8)
        self.widths, self.starts = (
            np.empty(_STRIPS * MAX_CLASSES, np.int64),
            np.empty(_STRIPS * MAX_CLASSES + 1, np.int64),
        )
        self.firsts, self.ends = np.empty(_STRIPS + 1, np.int64), np.empty(_PAGES, np.int64)
        self.crcs = np.empty(_PAGES, np.uint32)
        self.columns, self.steps = np.empty(_ENTRIES, np.int64), np.empty(_ENTRIES, np.float64)
        self.wanted, self.bases = np.empty((_STRIPS, 2), np.int64), np.empty(_STRIPS, np.int64)
        self.none = np.empty(0, np.int32)
        inverse = Inverse(_FLOAT, Predictor(NONE))
        self.work, self.unpacking = inverse.work, inverse.unpacking
        tables = (self.label, self.nodes, self.begins, self.logs, self.cells, self.widths, self.starts, self.firsts)
        self.opened = (*tables, self.ends, self.crcs, self.columns, self.steps.view(np.uint64), *self.unpacking)


_OWN = threading.local()


def float_row(source: Bytes, head_crc: int | None, rows: int, row: int, out: NDArray[np.unsignedinteger[Any]]) -> bool:
    """The float32 patterns (n,) of one row of a chunk of ``rows`` rows into ``out``; False, and nothing said, where the twin has to do it.

    ``head_crc``: the checksum that the head must have, where somebody knows it.
    """
    room = _OWN.__dict__.get("room")
    if room is None:
        room = _OWN.room = _Room()
    whole = source.size if source.size <= _ONE_READ else _HEAD
    data = scratch("bytes", whole + SLACK, np.uint8)
    source.read_into(0, data[:whole].data)
    if whole < HEAD.size:
        return False
    magic, crc, end, height, n, strip, tile, code, form, rule, count, factor, entries, mapped, streams = (
        HEAD.unpack_from(data.data)
    )
    right = magic == MAGIC and end <= whole and head_crc in (None, crc) and (height, n) == (rows, len(out))
    if not right or zlib.crc32(data[8:end].data) != crc or code != _FLOAT.code or form not in (PACKED, GRID):
        return False
    known = (
        rule_is_for(rule, PATTERNS["int32"] if form == GRID else _FLOAT)
        and 0 < count <= MAX_CLASSES
        and (form == GRID) == (entries > 0)
    )
    if (
        not known
        or not 0 < n <= min(MAX_COLUMNS, strip * _STRIPS)
        or not 0 < rows <= min(MAX_VALUES // n, tile * _TILES)
    ):
        return False
    spans = tiles(rows, tile)
    strips = -(-n // strip)
    numbers = (n, strip, len(spans), count, entries, mapped, streams)
    if not _opened(data, end, source.size, numbers, *room.opened):
        return False
    if form == GRID and int(room.columns[:entries].sum()) != n:
        return False
    some = [(i, top, bottom) for i, (top, bottom) in enumerate(spans) if top <= row]
    _wanted_pages(room.firsts, strips, len(spans), len(some), room.wanted)
    wanted, bases = room.wanted[:strips], room.bases[:strips]
    if whole == source.size:
        every = len(some) == len(spans)
        crc = zlib.crc32(data[end:whole].data) if every else 0
        bases[:] = 0
        if not every:
            for a, b in room.ends[wanted].tolist():
                crc = zlib.crc32(data[a:b].data, crc)
    else:
        ranges = room.ends[wanted].tolist()
        total = sum(b - a for a, b in ranges)
        data, at = scratch("pages", total + SLACK, np.uint8), 0
        for k, (a, b) in enumerate(ranges):
            source.read_into(a, data[at : at + b - a].data)
            bases[k] = a - at
            at += b - a
        crc = zlib.crc32(data[:total].data)
    edges = np.array([*range(0, n, strip), n], np.int64)
    tail = scratch("tail", HISTORY * n, np.uint32).reshape(HISTORY, n)
    flat = scratch("residuals", min(strip, n) * max((b - t for _, t, b in some), default=0), np.uint32)
    codes = scratch("codes", n if form == GRID else 0, np.uint32)
    tables = (room.nodes, room.begins, room.logs, room.cells)
    layout = (edges, room.widths, room.starts, room.label, count)
    grid = (room.columns[:entries], room.steps[:entries])
    where = (data, bases, wanted, np.uint32(crc), room.crcs, np.array(some, np.int64).reshape(-1, 3), row)
    own = ((room.ends, room.firsts), tables, layout, (tail, room.none), out, codes, grid, flat)
    return bool(_chunk_row(*where, *own, rule, float_dtype(_FLOAT)(factor), room.work, room.unpacking))

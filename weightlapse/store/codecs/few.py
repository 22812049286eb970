"""A few columns of a chunk, and as little as can be of the rest: for whoever opens a recording to look at one weight over time.

What ``decode.Chunk`` and ``decode.Decoded`` prepare for the next reads of a chunk costs more than the values of one. They are the twin: whatever is
not as usual is left to them, and they say what is wrong with it. Every byte that is used is checked here as it is there.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.codecs.classes import MAX_CLASSES
from weightlapse.store.codecs.decode import Bytes
from weightlapse.store.codecs.entropy import PageReader
from weightlapse.store.codecs.form import HEAD, MAGIC, MAX_COLUMNS, MAX_VALUES, PACKED, PAGE, tiles
from weightlapse.store.codecs.patterns import Pattern
from weightlapse.store.codecs.predict import Predictor, restore, rule_is_for

_FIRST_LOOK = 8192  # bytes read for the head at first: nearly always enough
_LABEL = np.dtype(np.uint8)


class Few:
    """Some columns of the rows ``[0, stop)`` of a chunk, as :class:`Decoded` gives them; residuals until somebody has taken the steps through time."""

    def __init__(
        self, number: Pattern, predictor: Predictor, values: NDArray[np.unsignedinteger], decoded: int
    ) -> None:
        """``values`` (T, k): residuals of the columns, which are restored in place when somebody asks for them."""
        self.number, self.predictor = number, predictor
        self.width, self.decoded = values.shape[1], decoded
        self.fresh = True
        self._values = values

    def prepare(self, stop: int) -> tuple[NDArray[np.unsignedinteger], int]:
        """The residuals; how many of their rows are patterns already."""
        return self._values, 0

    def accept(self, rows: NDArray[np.unsignedinteger], lead: int) -> None:
        """Take what :meth:`prepare` gave, restored."""
        self._values, self.fresh = rows, False

    def rows(self, start: int, stop: int, step: int = 1) -> NDArray[np.unsignedinteger]:
        """Patterns (n, k) of rows ``start:stop:step``."""
        if self.fresh:
            restore(self._values, self.number, self.predictor)
            self.fresh = False
        return self._values[start:stop:step]


def few_columns(
    source: Bytes, head_crc: int, shape: tuple[int, int], kind: Pattern, columns: list[int], stop: int
) -> Few | None:
    """The columns of a chunk of this shape and dtype, up to row ``stop`` at least; None, and nothing said, where the twin has to do it."""
    try:
        return _few(source, head_crc, shape, kind, columns, stop)
    except (IndexError, ValueError, DamagedRecording):  # the twin finds it again, and knows what it means
        return None


def _few(
    source: Bytes, head_crc: int, shape: tuple[int, int], kind: Pattern, columns: list[int], stop: int
) -> Few | None:
    """As :func:`few_columns`, but raises where something is damaged."""
    data = source.read(0, min(_FIRST_LOOK, source.size))
    if len(data) < HEAD.size:
        return None
    magic, crc, end, height, n, strip, tile, code, form, rule, count, factor, entries, mapped, streams = (
        HEAD.unpack_from(data)
    )
    meant = magic == MAGIC and crc == head_crc and (height, n) == shape and (code, form) == (kind.code, PACKED)
    known = rule_is_for(rule, kind) and 0 < count <= MAX_CLASSES and strip > 0 and tile > 0 and entries == 0
    known = known and 0 < n <= MAX_COLUMNS and 0 < height <= MAX_VALUES // n
    if not meant or not known or not HEAD.size <= end <= source.size:
        return None
    if end > len(data):
        data = source.read(0, end)
    if zlib.crc32(memoryview(data)[8:end]) != crc:
        return None
    spans = tiles(height, tile)
    at = HEAD.size + 2 + (data[HEAD.size] | data[HEAD.size + 1] << 8)
    codec = data[HEAD.size + 2 : at]
    labels = _labels(data[at : at + mapped], n, count, codec)
    cells = at = at + mapped
    at += len(spans) * count
    metas = []
    for _ in range(1 + streams):
        size = data[at] | data[at + 1] << 8
        metas.append((at + 2, at + 2 + size))
        at += 2 + size
    if at >= end or (end - at) % PAGE.itemsize:
        return None
    pages = np.frombuffer(data, PAGE, (end - at) // PAGE.itemsize, at)
    ends, crcs = np.cumsum(pages["nbytes"], dtype=np.int64), pages["crc"]
    if end + int(ends[-1]) != source.size:
        return None
    readers: dict[int, PageReader] = {}

    def page(number: int, stream: int, length: int) -> NDArray[np.unsignedinteger]:
        """The numbers of a page, checked."""
        first = end + (int(ends[number - 1]) if number else 0)
        packed = source.read(first, end + int(ends[number]))
        if zlib.crc32(packed) != crcs[number]:
            raise DamagedRecording("a page of a chunk fails its checksum")
        if stream not in readers:
            a, b = metas[stream]
            readers[stream] = PageReader(data[a:b], kind.unsigned, codec)
        return readers[stream].read(packed, length)

    wanted = [span for span in spans if span[0] < stop]
    out = np.empty((wanted[-1][1] if wanted else 1, len(columns)), kind.unsigned)
    groups: dict[
        tuple[int, int], list[tuple[int, int]]
    ] = {}  # of each strip and class: where in the result, which column
    for j, column in enumerate(columns):
        groups.setdefault((column // strip, labels[column]), []).append((j, column))
    last = max(k for k, _ in groups)
    parts = [labels[a : a + strip] for a in range(0, min((last + 1) * strip, n), strip)]
    filled = [[c for c in range(count) if c in part] for part in parts]
    firsts = [0]
    for present in filled:
        firsts.append(firsts[-1] + 1 + len(present) * len(spans))
    keys: dict[int, NDArray[np.unsignedinteger]] = {}
    decoded = 0
    for (k, c), members in groups.items():
        part, present = parts[k], filled[k]
        if k not in keys:
            keys[k] = page(firsts[k], 0, len(part))
        width, below = part.count(c), sum(map(part.count, range(c)))
        ranks = [part[: column - k * strip].count(c) for _, column in members]
        number = firsts[k] + 1 + present.index(c)
        for (j, _), rank in zip(members, ranks):
            out[0, j] = keys[k][below + rank]
        for i, (top, bottom) in enumerate(wanted):
            some = page(number + i * len(present), 1 + data[cells + i * count + c], (bottom - top) * width)
            for (j, _), rank in zip(members, ranks):
                out[top:bottom, j] = some[rank::width]
        decoded += width
    return Few(kind, Predictor(rule, factor), out, decoded)


def _labels(mapped: bytes, n: int, count: int, codec: bytes) -> bytes:
    """The class of each column."""
    if count == 1:
        return bytes(n)
    size = 2 + (mapped[0] | mapped[1] << 8)
    label = PageReader(mapped[2:size], _LABEL, codec).read(mapped[size:], n)
    if int(label.max()) >= count:
        raise DamagedRecording("the class map of a chunk does not fit its classes")
    return label.tobytes()

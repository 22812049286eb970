"""What the readers of chunks refuse, under right checksums too: by name, never with a wrong number, never with another error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.packed_chunks import (
    CHUNKS,
    COLUMNS,
    HEIGHT,
    forged,
    packed,
    said,
    summed,
    walking,
    with_pages,
)
from weightlapse.errors import DamagedRecording
from weightlapse.store.codecs import decode, entropy
from weightlapse.store.codecs.decode import Chunk
from weightlapse.store.codecs.entropy import FILE_HEADER, PageReader, PageWriter
from weightlapse.store.codecs.few import few_columns
from weightlapse.store.codecs.form import GRID
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.codecs.predict import LAST, MOMENTUM
from weightlapse.store.files import Part


def test_the_limits_of_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    data, u = CHUNKS["float32 under 5"]
    assert said(data)["rule"] == 5
    for field, value in (
        ("rule", 6), ("dtype", 0), ("dtype", 14), ("form", 3), ("strip", 0), ("tile", 0), ("rows", 0), ("columns", 0), ("classes", 17), ("classes", 0),
        ("classes", 1), ("streams", said(data)["streams"] - 1), ("streams", said(data)["streams"] + 1), ("entries", 1), ("magic", b"WLCX"), ("form", GRID),
    ):  # fmt: skip
        with pytest.raises(DamagedRecording):
            Chunk(forged(data, **{field: value}))
    with pytest.raises(DamagedRecording):
        Chunk(forged(CHUNKS["plain float32"][0], classes=1))
    for name, limit in (("MAX_COLUMNS", COLUMNS), ("MAX_VALUES", COLUMNS * HEIGHT)):
        with monkeypatch.context() as patch:
            patch.setattr(decode, name, limit)
            assert np.array_equal(Chunk(data).read(), u)
            patch.setattr(decode, name, limit - 1)
            with pytest.raises(DamagedRecording, match="beyond the format's limits"):
                Chunk(data)
    single = packed(walking("float32", 1), "float32", LAST)
    assert Chunk(single).read().shape == (1, COLUMNS)
    with pytest.raises(DamagedRecording, match="beyond the format's limits"):
        Chunk(forged(single, rows=0))
    for name, fine in (("MAX_CLASSES", said(data)["classes"]),):
        with monkeypatch.context() as patch:
            patch.setattr(decode.classes, name, fine)
            Chunk(data)
            patch.setattr(decode.classes, name, fine - 1)
            with pytest.raises(DamagedRecording):
                Chunk(data)
    for k in (0, 49, said(data)["head"] - 1, len(data) - 1):
        with pytest.raises(DamagedRecording):
            Chunk(data[:k])
    with pytest.raises(DamagedRecording):
        Chunk(data + b"\0")
    for at in range(4, said(data)["head"], 7):
        hurt = bytearray(data)
        hurt[at] ^= 1
        with pytest.raises(DamagedRecording):
            Chunk(bytes(hurt))


def test_cells_name_histograms_that_are_there() -> None:
    data, _ = CHUNKS["float32 under 1"]
    chunk, streams = Chunk(data), said(data)["streams"]
    cells = len(chunk.spans) * chunk.layout.classes
    first = said(data)["head"] - 8 * len(chunk._crcs) - sum(2 + len(meta) for meta in chunk._metas) - cells
    assert [*data[first : first + cells]] == chunk.cells().ravel().tolist()
    for at in range(first, first + cells):
        hurt = bytearray(data)
        hurt[at] = streams - 1
        assert Chunk(summed(bytes(hurt))).cells().ravel()[at - first] == streams - 1
        hurt[at] = streams
        with pytest.raises(DamagedRecording, match="names a histogram that is not there"):
            Chunk(summed(bytes(hurt)))


def test_grid_entries_fit_their_columns() -> None:
    data, _ = CHUNKS["grid of float32"]
    assert Chunk(data).bounds == [0.1, 0.0, 0.2]
    columns, steps = Chunk(data).grid
    assert columns.tolist() == [23, 23, 24]
    assert steps.tolist() == [0.25, 0.0, 1 / 3]
    assert Chunk(data).steps(np.array([0, 69, 30])).tolist() == [0.25, 1 / 3, 0.0]
    hurt = bytearray(data)
    hurt[50] += 1
    with pytest.raises(DamagedRecording, match="grid entries"):
        Chunk(summed(bytes(hurt)))
    with pytest.raises(DamagedRecording, match="grid entries"):
        Chunk(forged(data, dtype=PATTERNS["int32"].code))
    exact = Chunk(CHUNKS["float32 under 1"][0])
    assert exact.bounds == [] == exact.grid[0].tolist() == exact.grid[1].tolist()


def test_pages_of_the_wrong_length_are_refused() -> None:
    for dtype in ("float32", "int16", "uint8"):
        data, u = CHUNKS[f"plain {dtype}"]
        assert np.array_equal(Chunk(data).read(), u)
        for size in (1, 2, 3, 4, 8):
            for longer in (False, True):
                lie = with_pages(
                    data, lambda p, size=size, longer=longer: [p[0] + bytes(size) if longer else p[0][:-size], *p[1:]]
                )
                with pytest.raises(DamagedRecording, match="wrong length"):
                    Chunk(lie).read()
        with pytest.raises(DamagedRecording, match="wrong length"):
            Chunk(with_pages(data, lambda p: [b"", *p[1:]])).read()
    for what in ("float32 under 1", "grid of float32"):
        data, _ = CHUNKS[what]
        for change in (lambda p: p[:-1], lambda p: [*p, b""], lambda p: []):
            with pytest.raises(DamagedRecording):
                Chunk(with_pages(data, change))
        with pytest.raises(DamagedRecording):
            Chunk(with_pages(data, lambda p: [*p[:-1], p[-1][:-1]])).read()


def test_momentum_is_for_floats_that_can_be_computed_with() -> None:
    """A head that asks for it elsewhere says what no writer does: narrow numbers cannot even be looked at as wide ones."""
    for dtype in PATTERNS:
        for columns in (69, 70):
            u = walking(dtype, 6, columns)
            lie = forged(packed(u, dtype, LAST), rule=MOMENTUM, factor=0.9)
            if dtype in ("float32", "float64", "bfloat16"):
                assert Chunk(lie).read().shape == (6, columns)
                continue
            with pytest.raises(DamagedRecording, match="does not know"):
                Chunk(lie)
            head = said(lie)["crc"]
            assert few_columns(Part(lie), head, (6, columns), PATTERNS[dtype], [3], 6) is None, dtype
    with pytest.raises(DamagedRecording, match="does not know"):
        Chunk(forged(CHUNKS["grid of float32"][0], rule=MOMENTUM, factor=0.9))


HOSTILE = [0, 1, 2, 3, 15, 16, 17, 33, 255, 1 << 15, (1 << 16) - 1, 1 << 24, (1 << 32) - 1]


@pytest.mark.parametrize("what", [w for w in CHUNKS if not w.endswith((" 0", " 2", " 4"))])
def test_heads_that_lie_are_refused_by_name(what: str) -> None:
    """Whatever a head says under a right checksum: values of the shape that it says, or the named error; and few columns are the decoder's own."""
    data, _ = CHUNKS[what]
    for field in (
        "strip",
        "tile",
        "dtype",
        "form",
        "rule",
        "classes",
        "entries",
        "mapped",
        "streams",
        "rows",
        "columns",
    ):
        for value in HOSTILE:
            most = {"dtype": 255, "form": 255, "rule": 255, "classes": 255, "streams": 65535}.get(field, (1 << 32) - 1)
            if value > most:
                continue
            lie = forged(data, **{field: value})
            fields = said(lie)
            try:
                with np.errstate(all="ignore"):
                    read = Chunk(lie).read()
                assert read.shape == (fields["rows"], fields["columns"])
            except DamagedRecording:
                read = None
            name = next((n for n, p in PATTERNS.items() if p.code == fields["dtype"]), None)
            if name and 0 < fields["columns"] < 1 << 18:
                shape = (fields["rows"], fields["columns"])
                stop = min(fields["rows"], 5)
                found = few_columns(Part(lie), fields["crc"], shape, PATTERNS[name], [0], stop)
                if found is not None and read is not None and stop:
                    assert np.array_equal(found.rows(0, stop), read[:stop, [0]]), (field, value)


def test_as_many_bins_as_the_level_allows() -> None:
    """2^8: two hundred numbers far from each other have a bin each, four hundred have not."""
    for different in (200, 400):
        values = np.repeat((np.arange(different, dtype=np.uint64) * 3_000_017 % (1 << 32)).astype(np.uint32), 300)
        meta = PageWriter(values, [len(values)]).meta
        bins = int.from_bytes(meta[1:4], "little") >> 4 & 0x7FFF
        assert bins == 200 if different == 200 else bins <= 256, bins


def test_a_decoder_that_gives_too_little_is_not_believed() -> None:
    written = PageWriter(np.arange(9, dtype=np.uint32), [9])
    reader = PageReader(written.meta, np.dtype(np.uint32), FILE_HEADER)

    class Short:
        def read_page_into(self, page: bytes, count: int, out: Any) -> Any:
            return type("Progress", (), {"n_processed": count - 1})(), 0

    reader._chunk = Short()  # type: ignore[assignment]
    with pytest.raises(DamagedRecording, match="a page of 9 numbers holds 8"):
        reader.read(written.pages[0], 9)


def test_an_interrupt_is_no_damage() -> None:
    stop = KeyboardInterrupt()
    assert entropy._damaged(stop) is stop
    assert isinstance(entropy._damaged(ValueError("x")), DamagedRecording)
    panic = type("PanicException", (BaseException,), {})("x")
    assert isinstance(entropy._damaged(panic), DamagedRecording)

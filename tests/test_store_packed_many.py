"""Many packed frames with one call: the numbers that frame by frame gives, in any order of stretches; damage is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_store_packed import BIG, record
from weightlapse.errors import DamagedRecording
from weightlapse.store import compact, packed_many
from weightlapse.store.block import chunks_of
from weightlapse.store.packed import numbers_in
from weightlapse.store.packed_many import numbers_into
from weightlapse.store.packing import GROUP
from weightlapse.store.reader import Store


def one_by_one(segment: Any, tensor: int, frames: range, low: int, count: int) -> np.ndarray:
    first, stop = low // GROUP, -(-(low + count) // GROUP)
    followed = segment._follow(tensor, frames, first, stop)
    return np.stack([numbers[low - first * GROUP :][:count].copy() for _, _, numbers in followed])


@pytest.mark.parametrize("tolerance", [None, 1e-2])
@pytest.mark.parametrize("at_once", [1, 8 << 20])
def test_the_numbers_of_frame_by_frame(
    tmp_path: Path, tolerance: float | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_many, "_AT_ONCE", at_once)
    record(tmp_path / "run", BIG, 24, tolerance, every=16)
    for segment in Store.open(tmp_path / "run").raw_segments:
        segment.prepare(slice(0, segment.count))
        for tensor, spec in enumerate(BIG.tensors):
            n = numbers_in(spec)
            for low, count in {
                (0, n),
                (n // 2, n - n // 2),
                (n // 3, 1),
                (min(1030, n - 1), min(5, n - min(1030, n - 1))),
            }:
                for frames in (range(segment.count), range(segment.count - 1, segment.count), range(2, 5)):
                    out = np.full((len(frames), count), 7, np.int32)
                    assert numbers_into(segment, tensor, frames, low, out)
                    assert np.array_equal(out, one_by_one(segment, tensor, frames, low, count)), (spec, low, frames)
            for a in range(0, segment.count - 4, 4):  # stretch after stretch, each goes on where the last one ended
                out = np.empty((4, n), np.int32)
                assert numbers_into(segment, tensor, range(a, a + 4), 0, out, keep=True)
                assert np.array_equal(out, one_by_one(segment, tensor, range(a, a + 4), 0, n))


def test_a_damaged_page_is_seen(tmp_path: Path) -> None:
    record(tmp_path / "run", BIG, 10, 1e-2)
    file = next((tmp_path / "run" / "log").glob("*.seg"))
    data = bytearray(file.read_bytes())
    segment: Any = Store.open(tmp_path / "run").raw_segments[0]
    for k in (0, 4, 8):  # the last one would be taken for a write that was cut short
        head, hurt = segment._head(k), bytearray(data)
        hurt[head.data_at + head.data_nbytes - 200] ^= 4
        file.write_bytes(bytes(hurt))
        again: Any = Store.open(tmp_path / "run").raw_segments[0]
        with pytest.raises(DamagedRecording, match="fails its checksum"):
            every_number(again)


def every_number(segment: Any) -> None:
    for tensor, spec in enumerate(BIG.tensors):
        numbers_into(segment, tensor, range(segment.count), 0, np.empty((segment.count, numbers_in(spec)), np.int32))


def test_codes_that_decode_to_others_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "run", BIG, 10, 1e-2)
    segment = Store.open(tmp_path / "run").raw_segments[0]
    bounds = np.array([segment.known_bound(i, slice(0, 10)) for i in range(len(BIG.tensors))])
    monkeypatch.setattr(compact, "WORTH_COMPILING", 1 << 26)
    real, seen = compact.encode_codes, 0

    def spoiled(codes: np.ndarray, *rest: Any, **options: Any) -> bytes:
        nonlocal seen
        seen += 1
        changed = codes.copy()
        changed[-1, -1] += np.uint32(1)
        return real(changed, *rest, **options)

    chunks = [c for c in chunks_of(BIG) if all(BIG.tensors[p.tensor].dtype == "float32" for p in c)]
    assert chunks
    for pieces in chunks:
        compact._encode(segment, pieces, slice(0, 10), bounds, 1e-2, True)
        monkeypatch.setattr(compact, "encode_codes", spoiled)
        with pytest.raises(compact.NotTheSame):
            compact._encode(segment, pieces, slice(0, 10), bounds, 1e-2, True)
        monkeypatch.setattr(compact, "encode_codes", real)
    assert seen == len(chunks)

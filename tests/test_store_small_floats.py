"""Floats and integers that NumPy has no dtype for: every pattern has the value that ml_dtypes and torch give it, and comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from weightlapse.errors import CannotRecord, DamagedRecording
from weightlapse.store.layout import DTYPES, Layout, TensorSpec, storage_dtype, value_dtype, widen
from weightlapse.store.reader import Store
from weightlapse.store.small_floats import FORMATS, values_of
from weightlapse.store.writer import Writer

BITS = {name: int(name[5]) for name in FORMATS}


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal values, NaN where NaN, and zeros of the same sign."""
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a[a == 0]), np.signbit(b[b == 0]))


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_pattern_has_the_value_of_ml_dtypes(name: str) -> None:
    if not hasattr(ml_dtypes, name):
        pytest.skip(f"ml_dtypes {ml_dtypes.__version__} has no {name}")
    patterns = np.arange(1 << BITS[name], dtype=np.uint8)
    expected = patterns.view(getattr(ml_dtypes, name)).astype(np.float64)
    assert same(values_of(name)[: len(patterns)].astype(np.float64), expected)
    assert same(widen(patterns.reshape(2, -1), name).astype(np.float64), expected.reshape(2, -1))
    assert len(np.unique(expected[~np.isnan(expected)])) >= 15, "the comparison is not one of NaN with NaN"


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
)
def test_every_pattern_has_the_value_of_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    patterns = torch.arange(256, dtype=torch.uint8)
    assert same(values_of(name), patterns.view(getattr(torch, name)).float().numpy())


def test_a_wrong_table_is_seen() -> None:
    assert not same(values_of("float8_e4m3fn"), values_of("float8_e4m3fnuz"))
    assert not same(np.array([0.0]), np.array([-0.0]))


@pytest.mark.parametrize("name,half", [("complex32", np.float16), ("bcomplex32", ml_dtypes.bfloat16)])
def test_complex_numbers_of_two_half_floats(name: str, half: Any) -> None:
    parts = np.array([[1.5, -2.0], [np.inf, 0.25], [-0.0, np.nan]], half)
    stored = parts.view("<u2").view("<u4")[..., 0]
    read = widen(stored, name)
    assert read.dtype == value_dtype(name) == np.complex64
    assert read.view(np.float32).reshape(-1, 2).tobytes() == parts.astype(np.float32).tobytes()
    assert widen(stored[1:2].reshape(()), name).shape == ()
    assert widen(stored[:0].reshape(0, 3), name).shape == (0, 3)


@pytest.mark.parametrize("tolerance", [None, 0.05])
def test_a_recording_of_all_of_them_reads_back(tmp_path: Path, tolerance: float | None) -> None:
    """Bytes are exact whatever the tolerance."""
    names = sorted(n for n in DTYPES - {"bool"} if tolerance is None or storage_dtype(n).itemsize == 1)
    layout = Layout(TensorSpec(name, name, (3, 7)) for name in names)
    rows = np.zeros((130, layout.row_nbytes), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, rows.shape, np.uint8)
    for i in range(len(names)):
        layout.view(rows, i)[...] = layout.view(noise, i)
    writer = Writer.create(tmp_path / "run", layout, tolerance=tolerance)
    writer.append(np.arange(130), rows)
    writer.close()
    assert list((tmp_path / "run" / "blocks").glob("*.blk"))
    store = Store.open(tmp_path / "run")
    for i, name in enumerate(names):
        truth = np.array(layout.view(rows, i))
        assert store.read(name, slice(None)).tobytes() == truth.tobytes(), name
        part = store.read(name, slice(0, 130, 7), (slice(1, 2), slice(2, 7, 2)))
        assert part.tobytes() == truth[::7, 1:2, 2:7:2].tobytes(), name


def test_an_unknown_small_float_is_refused_when_written_and_when_read() -> None:
    with pytest.raises(CannotRecord, match="float8_e1m6"):
        TensorSpec("w", "float8_e1m6", (2,)).storage
    with pytest.raises(DamagedRecording, match="float8_e1m6"):
        Layout.from_json([{"name": "w", "dtype": "float8_e1m6", "shape": [2]}])

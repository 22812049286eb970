"""How fast this machine copies, encodes and writes: measured in about a third of a second, in a temporary folder beside the target.

Each rate is one of raw bytes a second. They are those of the moment: a machine that is busy is slower, and that is what a recording would find.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.codecs.decode import Chunk
from weightlapse.store.codecs.encode import encode, encode_bounded
from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.compact import chunk_shape
from weightlapse.store.threads import in_order, threads

_COPIED = 16 << 20  # bytes: beyond what caches hold of it while a network trains
_WRITTEN = 4 << 20  # bytes of one write, at the most
_ENCODED = (32, 1 << 13)  # frames and values of the chunk that is encoded
_COPY_SECONDS, _DISK_SECONDS = 0.03, 0.1
_ENCODE_SECONDS = 0.06  # of one chunk, above which many are not tried


@dataclass(frozen=True)
class Rates:
    """Bytes a second: from the model to the ring, to the disk, through the codec on one core and on all ``threads``."""

    copy: float
    disk: float
    encode: float
    encode_all: float
    threads: int
    measured: bool
    seconds: float = 0.0  # that measuring took


# two cores of a server and an NVMe disk of the ordinary kind; bench/results/plan.md and size.md for the codec
TYPICAL = Rates(copy=5e9, disk=5e8, encode=1.3e8, encode_all=2.5e8, threads=2, measured=False)


def moving(frames: int, count: int, dtype: str = "float32") -> NDArray[np.unsignedinteger[Any]]:
    """Patterns (frames, count) of weights that move like those that Adam trains: steps of one size, their direction kept for some time."""
    draw, kind = np.random.default_rng(0), np.float64 if dtype == "float64" else np.float32
    values: NDArray[Any] = np.empty((frames, count), kind)
    weights = 0.02 * draw.standard_normal(count)
    first, second = np.zeros(count), np.full(count, 1e-8)
    for t in range(frames):
        gradient = 1e-3 * draw.standard_normal(count)
        first += 0.1 * (gradient - first)
        second += 0.001 * (gradient * gradient - second)
        weights -= 3e-4 * first / np.sqrt(second)
        values[t] = weights
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16).view(np.uint16) if dtype == "float16" else values.view(PATTERNS[dtype].unsigned)


def compress(
    patterns: NDArray[np.unsignedinteger[Any]], dtype: str, tolerance: float | None, *, compiled: bool = False
) -> int:
    """Encode a chunk and read it back, as compaction does; returns the bytes it takes."""
    shape = chunk_shape(tolerance, *patterns.shape)
    data = None
    if tolerance is not None:
        deviation = float(PATTERNS[dtype].numbers(patterns).std(dtype=np.float64))
        data = encode_bounded(patterns, dtype, [patterns.shape[1]], [tolerance * deviation], shape, compiled=compiled)
    data = encode(patterns, dtype, shape, compiled=compiled) if data is None else data
    Chunk(data).read()
    return len(data)


def measure(folder: Path, *, dtype: str = "float32", tolerance: float | None = None, device: str = "cpu") -> Rates:
    """The rates of now: of the disk that ``folder`` (or the nearest folder above it that exists) lies on, of copies from ``device``, of the codec.

    The codec is measured without its compiled kernels, whose loading would take longer than all the rest; they are faster by a tenth or so
    (``bench/results/plan.md``).

    Takes about a third of a second, on a machine where a write of 256 kB or a chunk of 1 MB takes longer, as long as these do. What it
    writes is removed. Raises :class:`OSError` where nothing can be written.
    """
    began = time.perf_counter()
    copy = _copy_rate() if device.split(":")[0] in ("cpu", "meta") else _device_copy_rate(device)
    disk = _disk_rate(folder)
    known = dtype if dtype in ("float32", "float64", "float16", "bfloat16") else "float32"
    one, together = _encode_rates(known, tolerance)
    seconds = time.perf_counter() - began
    return Rates(copy, disk, one, together, threads(), measured=True, seconds=seconds)


def existing(folder: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    folder = Path(os.path.abspath(folder))
    return next((f for f in (folder, *folder.parents) if f.is_dir()), Path.cwd())


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Bytes a second of ``work``, which returns how many it moved, called again until it has taken so long."""
    work()  # touches the memory for the first time
    moved, began = 0, time.perf_counter()
    while not moved or time.perf_counter() - began < seconds:
        moved += work()
    return moved / max(time.perf_counter() - began, 1e-9)


def _copy_rate() -> float:
    source, target = np.ones(_COPIED, np.uint8), np.empty(_COPIED, np.uint8)

    def work() -> int:
        np.copyto(target, source)
        return _COPIED

    return _rate(work, _COPY_SECONDS)


def _device_copy_rate(device: str) -> float:
    """From a device of torch to memory, page-locked as that of the ring is."""
    torch: Any = sys.modules["torch"]
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty(_COPIED, dtype=torch.uint8, pin_memory=source.device.type == "cuda")

    def work() -> int:
        target.copy_(source)  # returns when the bytes are there
        return _COPIED

    return _rate(work, _COPY_SECONDS)


def _disk_rate(folder: Path) -> float:
    """Bytes a second that reach the device: each write is waited for, since what only the cache has taken has yet to be written."""
    data = np.random.default_rng(0).bytes(_WRITTEN)
    below = tempfile.TemporaryDirectory(prefix=".weightlapse-plan-", dir=existing(folder))
    with below, open(Path(below.name) / "written", "wb", buffering=0) as file:
        began, size, taken = time.perf_counter(), _WRITTEN >> 4, dict[int, list[float]]()
        while not taken or time.perf_counter() - began < _DISK_SECONDS:
            before = time.perf_counter()
            written = file.write(data[:size])
            os.fsync(file.fileno())
            taken.setdefault(written, []).append(time.perf_counter() - before)
            size = min(2 * size, _WRITTEN)
    largest = max(taken)  # the smaller ones only feel how large a write may be
    return largest * len(taken[largest]) / max(sum(taken[largest]), 1e-9)


def _encode_rates(dtype: str, tolerance: float | None) -> tuple[float, float]:
    """Of one core, by the time that this thread has had one; of all of them together, by the clock."""
    patterns = moving(*_ENCODED, dtype)
    began, by_clock = time.thread_time(), time.perf_counter()
    compress(patterns, dtype, tolerance)
    busy, passed = max(time.thread_time() - began, 1e-9), time.perf_counter() - by_clock
    one, count = patterns.nbytes / busy, threads()
    if count == 1 or passed > _ENCODE_SECONDS:  # of a core that others use too, each thread gets its share
        return one, one * max(1.0, count * min(1.0, busy / passed))
    by_clock = time.perf_counter()
    tasks = [partial(compress, patterns, dtype, tolerance)] * count
    encoded = sum(patterns.nbytes for _ in in_order(tasks, count))
    return one, max(one, encoded / max(time.perf_counter() - by_clock, 1e-9))


def free_nbytes(folder: Path) -> int | None:
    """Bytes that are free on the disk of a folder, or of the nearest above it that exists; None where the system does not say."""
    try:
        return shutil.disk_usage(existing(folder)).free
    except OSError:
        return None

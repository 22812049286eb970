"""The same trajectory in several stores: what ``size.py``, ``read.py`` and ``store_write.py`` compare."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from trajectories import Trajectory

from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.writer import Writer


def folder_nbytes(path: Path) -> int:
    """Every file of a folder, or one file."""
    return sum(f.stat().st_size for f in ([path] if path.is_file() else path.rglob("*")) if f.is_file())


def layout_of(run: Trajectory) -> Layout:
    return Layout(TensorSpec(name, run.dtype, shape) for name, shape in run.tensors)


def frames_of(run: Trajectory, layout: Layout, start: int, stop: int) -> np.ndarray:
    """Rows (n, row_nbytes) of these frames, as a ring would hold them."""
    rows = np.zeros((stop - start, layout.row_nbytes), np.uint8)
    for i, (_, shape, a, b) in enumerate(run.columns()):
        layout.view(rows, i)[...] = run.values[start:stop, a:b].reshape(stop - start, *shape)
    return rows


def write_weightlapse(run: Trajectory, path: Path, tolerance: float | None = None) -> dict[str, float]:
    """A closed, compressed recording; seconds of appending and of compressing."""
    layout = layout_of(run)
    writer = Writer.create(path, layout, tolerance=tolerance, compact="after")
    size = max(1, min(256, (32 << 20) // layout.row_nbytes))
    appending = 0.0
    for start in range(0, len(run.values), size):
        stop = min(start + size, len(run.values))
        rows = frames_of(run, layout, start, stop)
        begun = time.perf_counter()
        writer.append(np.arange(start, stop), rows)
        appending += time.perf_counter() - begun
    begun, cpu = time.perf_counter(), time.process_time()
    writer.close()
    return {"append": appending, "compress": time.perf_counter() - begun, "compress_cpu": time.process_time() - cpu}


def write_zarr(run: Trajectory, path: Path, chunks: tuple[int, int] = (64, 4096)) -> None:
    """Zarr v3, flat (T, P), Blosc with zstd 5 and bit shuffle."""
    import zarr
    from zarr.codecs import BloscCodec

    codec = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
    chunks = (min(chunks[0], len(run.values)), min(chunks[1], run.values.shape[1]))
    array = zarr.create_array(path, shape=run.values.shape, dtype=run.values.dtype, chunks=chunks, compressors=codec)
    for start in range(0, len(run.values), chunks[0]):
        array[start : start + chunks[0]] = run.values[start : start + chunks[0]]


def write_h5py(run: Trajectory, path: Path) -> None:
    """HDF5, flat (T, P), gzip 4 and byte shuffle."""
    import h5py

    chunks = (min(64, len(run.values)), min(4096, run.values.shape[1]))
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "w", run.values.shape, run.values.dtype, chunks=chunks, compression="gzip", compression_opts=4, shuffle=True
        )
        for start in range(0, len(run.values), chunks[0]):
            data[start : start + chunks[0]] = run.values[start : start + chunks[0]]


def write_safetensors(run: Trajectory, path: Path, every: int = 1) -> None:
    """One file per step."""
    from safetensors.numpy import save_file

    path.mkdir()
    for t in range(0, len(run.values), every):
        save_file(
            {n: np.array(run.values[t, a:b]).reshape(s) for n, s, a, b in run.columns()}, path / f"{t:06d}.safetensors"
        )


def write_torch(run: Trajectory, path: Path, every: int = 1) -> None:
    """One file per step."""
    import torch

    path.mkdir()
    for t in range(0, len(run.values), every):
        state = {n: torch.from_numpy(np.array(run.values[t, a:b])).reshape(s) for n, s, a, b in run.columns()}
        torch.save(state, path / f"{t:06d}.pt")


def fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def median_ms(run: Callable[[], object], rounds: int, before: Callable[[], object] = lambda: None) -> float:
    """Median milliseconds of CPU time (all threads) of a call; ``before`` is called untimed before each."""
    times = []
    for _ in range(rounds):
        before()
        begun = time.process_time()
        run()
        times.append(time.process_time() - begun)
    return 1e3 * float(np.median(times))


def machine() -> str:
    import pcodec

    import weightlapse

    version = getattr(pcodec, "__version__", "?")
    return (
        f"{os.cpu_count()} cores ({platform.machine()}, shared with other work), Python {platform.python_version()}, NumPy {np.__version__}, "
        f"pcodec {version}, weightlapse {weightlapse.__version__}"
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])

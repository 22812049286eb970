"""What does it cost to append and to open a recording of many small tensors?

200 tensors of 100 numbers that move like weights, 640 steps, one step at a time as they come (no batches), files in the page cache. Medians of
CPU time, all threads counted. weightlapse hands every step to the operating system before the call returns; the peers that are written in
blocks of 64 steps may lose up to 64. "live" is appending while finished segments are compressed beside it.

    python bench/store_write.py
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from stores import folder_nbytes, fresh, machine, median_ms, table
from trajectories import CACHE

from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.reader import Store
from weightlapse.store.writer import Writer

HERE = Path(__file__).parent
TENSORS, NUMBERS, STEPS, BLOCK = 200, 100, 640, 64
LAYOUT = Layout(TensorSpec(f"layer{i}.weight", "float32", (NUMBERS,)) for i in range(TENSORS))


def steps() -> np.ndarray:
    """(STEPS, TENSORS * NUMBERS) float32 under momentum."""
    rng = np.random.default_rng(0)
    speed, w = np.zeros(TENSORS * NUMBERS), rng.normal(0, 0.1, TENSORS * NUMBERS)
    out = np.empty((STEPS, TENSORS * NUMBERS), np.float32)
    for t in range(STEPS):
        speed = 0.9 * speed + rng.normal(0, 1e-4, len(w))
        w = w + speed
        out[t] = w
    return out


Result = tuple[list[float], float, float, int]  # CPU ms of each step, of closing, of opening, bytes


def timed(values: np.ndarray, append: Callable[[int, np.ndarray], object]) -> list[float]:
    times = []
    for t, row in enumerate(values):
        begun = time.process_time()
        append(t, row)
        times.append(1e3 * (time.process_time() - begun))
    return times


def cpu_ms(run: Callable[[], object]) -> float:
    begun = time.process_time()
    run()
    return 1e3 * (time.process_time() - begun)


def weightlapse(values: np.ndarray, path: Path, mode: str) -> Result:
    writer = Writer.create(path, LAYOUT, compact=mode)  # type: ignore[arg-type]
    row = np.zeros((1, LAYOUT.row_nbytes), np.uint8)
    step = np.zeros(1, np.int64)
    own = row.view(np.float32)[0]
    assert len(own) == TENSORS * NUMBERS

    def append(t: int, values: np.ndarray) -> None:
        own[:] = values
        step[0] = t
        writer.append(step, row)

    times = timed(values, append)
    closing = cpu_ms(writer.close)
    store = Store.open(path)
    for i in (0, TENSORS - 1):
        assert np.array_equal(store.read(f"layer{i}.weight", slice(None)), values[:, NUMBERS * i : NUMBERS * (i + 1)])
    return times, closing, median_ms(lambda: Store.open(path), 15), folder_nbytes(path)


def zarr_per_tensor(values: np.ndarray, path: Path, block: int) -> Result:
    import zarr

    group = zarr.create_group(path)
    shape, chunks = (len(values), NUMBERS), (block, NUMBERS)
    arrays = [group.create_array(f"t{i}", shape=shape, chunks=chunks, dtype="f4") for i in range(TENSORS)]

    def append(t: int, row: np.ndarray) -> None:
        if (t + 1) % block == 0:
            for i, array in enumerate(arrays):
                array[t + 1 - block : t + 1] = values[t + 1 - block : t + 1, NUMBERS * i : NUMBERS * (i + 1)]

    # a step for itself costs a second or so: a few are enough to see it
    times = timed(values[: 6 if block == 1 else len(values)], append)
    return (
        times,
        0.0,
        median_ms(lambda: [a for _, a in zarr.open_group(path, mode="r").arrays()], 3),
        folder_nbytes(path),
    )


def zarr_flat(values: np.ndarray, path: Path) -> Result:
    import zarr

    array = zarr.create_array(path, shape=values.shape, chunks=(BLOCK, values.shape[1]), dtype="f4")

    def append(t: int, row: np.ndarray) -> None:
        if (t + 1) % BLOCK == 0:
            array[t + 1 - BLOCK : t + 1] = values[t + 1 - BLOCK : t + 1]

    return timed(values, append), 0.0, median_ms(lambda: zarr.open_array(path, mode="r"), 15), folder_nbytes(path)


def h5py_flat(values: np.ndarray, path: Path) -> Result:
    import h5py

    file = h5py.File(path, "w")
    data = file.create_dataset("w", values.shape, "f4", chunks=(BLOCK, 4096), compression="gzip", shuffle=True)

    def append(t: int, row: np.ndarray) -> None:
        if (t + 1) % BLOCK == 0:
            data[t + 1 - BLOCK : t + 1] = values[t + 1 - BLOCK : t + 1]
            file.flush()

    times = timed(values, append)
    closing = cpu_ms(file.close)
    return times, closing, median_ms(lambda: h5py.File(path, "r").close(), 15), folder_nbytes(path)


def safetensors_files(values: np.ndarray, path: Path) -> Result:
    from safetensors.numpy import save_file

    path.mkdir()

    def append(t: int, row: np.ndarray) -> None:
        state = {f"t{i}": row[NUMBERS * i : NUMBERS * (i + 1)] for i in range(TENSORS)}
        save_file(state, path / f"{t:06d}.safetensors")

    return timed(values, append), 0.0, median_ms(lambda: sorted(path.iterdir()), 5), folder_nbytes(path)


def main() -> None:
    values = steps()
    folder = CACHE / "write"
    stores: dict[str, Callable[[Path], Result]] = {
        "weightlapse, after": lambda path: weightlapse(values, path, "after"),
        "weightlapse, live": lambda path: weightlapse(values, path, "live"),
        "Zarr flat, blocks of 64": lambda path: zarr_flat(values, path),
        "Zarr per tensor, blocks of 64": lambda path: zarr_per_tensor(values, path, BLOCK),
        "Zarr per tensor, every step": lambda path: zarr_per_tensor(values, path, 1),
        "h5py flat gzip, blocks of 64": lambda path: h5py_flat(values, path),
        "safetensors per step": lambda path: safetensors_files(values, path),
    }
    rows, means = [], {}
    for label, run in stores.items():
        times, closing, opening, nbytes = run(fresh(folder / label.replace(" ", "-").replace(",", "")))
        raw = 4 * TENSORS * NUMBERS * len(times)
        means[label] = float(np.mean(times))
        cells = [
            f"{np.median(times):.3f}",
            f"{means[label]:.3f}",
            f"{closing:.0f}",
            f"{opening:.2f}",
            f"{raw / nbytes:.2f}",
        ]
        rows.append([label, *cells])
    shutil.rmtree(folder)
    mine = means["weightlapse, after"]
    said = (
        f"A step of 200 tensors costs {mine:.3f} ms (goal 0.3): {means['Zarr per tensor, blocks of 64'] / mine:.0f}× less than Zarr per tensor in "
        f"blocks, {means['Zarr per tensor, every step'] / mine:.0f}× less than Zarr per tensor at every step."
    )
    head = ["CPU ms", "append a step, median", "mean", "close (compresses)", "open", "ratio"]
    text = [
        "# Appending 200 small tensors",
        "",
        machine(),
        "",
        table(head, rows),
        "",
        said,
        "",
        __doc__.split("\n\n")[1],
    ]
    print("\n".join(text))
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "store_write.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()

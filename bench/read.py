"""How fast is a recording read, beside other stores of the same values?

The digits MLP (mlp_adam of ``trajectories.py``, 2000 steps of 17 226 weights), one process, files in the page cache, handles open. Our decoded
values are dropped before each timed read ("cold"), with them the heads of the compressed chunks ("colder"), or nothing is ("kept": all of them
lie in the cache of 512 MB already); the peers keep their handles and no decoded chunks. Medians of CPU time, all threads counted, because
the machine is shared; all stores take turns in one run.

    python bench/read.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from stores import (
    fresh,
    machine,
    median_ms,
    table,
    write_h5py,
    write_safetensors,
    write_torch,
    write_weightlapse,
    write_zarr,
)
from trajectories import CACHE, Trajectory, trajectory

from weightlapse.store.codecs.decode import Decoded
from weightlapse.store.reader import Store

HERE = Path(__file__).parent
Reads = dict[str, Callable[[], object]]


def ours(run: Trajectory, path: Path, rng: np.random.Generator) -> tuple[Reads, dict[str, Callable[[], None]]]:
    store = Store.open(path)
    name, shape, *_ = run.columns()[0]

    def weight() -> object:
        i, j = (int(rng.integers(n)) for n in shape)
        return store.read(name, slice(None), (slice(i, i + 1), slice(j, j + 1)))

    def row() -> object:
        i = int(rng.integers(shape[0]))
        return store.read(name, slice(None), (slice(i, i + 1), slice(None)))

    reads: Reads = {
        "one weight, all steps": weight,
        "one row (64), all steps": row,
        "random frame": lambda: store.read_frame(int(rng.integers(len(run.values)))),
        "open": lambda: Store.open(path),
    }

    def drop_values() -> None:
        for key in [key for key, held in store.cache._held.items() if isinstance(held, Decoded)]:
            store.cache.nbytes -= store.cache._held.pop(key).nbytes

    def keep_all() -> None:
        for k in range(len(run.values)):
            store.read_frame(k)

    return reads, {"cold": drop_values, "colder": store.cache.clear, "kept": keep_all}


def flat(values: object, run: Trajectory, rng: np.random.Generator, reopen: Callable[[], object]) -> Reads:
    """Reads of one (T, P) array."""
    total, _ = run.values.shape

    def row() -> object:
        i = int(rng.integers(128))
        return values[:, 64 * i : 64 * i + 64]  # type: ignore[index]

    return {
        "one weight, all steps": lambda: values[:, int(rng.integers(8192))],  # type: ignore[index]
        "one row (64), all steps": row,
        "random frame": lambda: values[int(rng.integers(total))],  # type: ignore[index]
        "open": reopen,
    }


def files(path: Path, run: Trajectory, rng: np.random.Generator, load: Callable[[Path], dict], part: Callable) -> Reads:
    """Reads of one file per step."""
    listed = sorted(path.iterdir())
    name = run.tensors[0][0]

    def over(pick: Callable) -> object:
        return np.array([part(file, name, pick) for file in listed])

    def weight() -> object:
        i, j = int(rng.integers(128)), int(rng.integers(64))
        return over(lambda w: w[i, j])

    def row() -> object:
        i = int(rng.integers(128))
        return over(lambda w: w[i])

    return {
        "one weight, all steps": weight,
        "one row (64), all steps": row,
        "random frame": lambda: load(listed[int(rng.integers(len(listed)))]),
        "open": lambda: sorted(path.iterdir()),
    }


def peers(run: Trajectory, folder: Path, rng: np.random.Generator) -> dict[str, Reads]:
    import h5py
    import torch
    import zarr
    from safetensors import safe_open
    from safetensors.numpy import load_file

    found: dict[str, Reads] = {}
    write_zarr(run, fresh(folder / "zarr"))
    found["Zarr (64, 4096)"] = flat(
        zarr.open_array(folder / "zarr", mode="r"), run, rng, lambda: zarr.open_array(folder / "zarr", mode="r")
    )
    write_h5py(run, fresh(folder / "h5"))
    found["h5py gzip (64, 4096)"] = flat(
        h5py.File(folder / "h5", "r")["w"], run, rng, lambda: h5py.File(folder / "h5", "r")["w"]
    )
    write_safetensors(run, fresh(folder / "safetensors"))

    def part(file: Path, name: str, pick: Callable) -> object:
        with safe_open(file, "numpy") as opened:
            return pick(opened.get_slice(name)[:])

    found["safetensors per step"] = files(folder / "safetensors", run, rng, load_file, part)
    write_torch(run, fresh(folder / "torch"))

    def load(file: Path) -> dict:
        return torch.load(file, weights_only=True)

    found["torch.save per step"] = files(
        folder / "torch", run, rng, load, lambda file, name, pick: pick(load(file)[name]).numpy()
    )
    return found


def sequential(run: Trajectory, path: Path) -> float:
    """Consecutive frames a second, from a cold start."""
    store = Store.open(path)
    begun = time.process_time()
    for k in range(len(run.values)):
        store.read_frame(k)
    return len(run.values) / (time.process_time() - begun)


def main() -> None:
    run, rng = trajectory("mlp_adam"), np.random.default_rng(0)
    folder = CACHE / "read"
    path = fresh(folder / "weightlapse")
    write_weightlapse(run, path)
    mine, states = ours(run, path, rng)
    others = peers(run, folder, rng)
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(3):  # all take turns
        for what in mine:
            slow = what.startswith("one")
            for state, prepare in states.items():
                prepare()
                before = prepare if state != "kept" else lambda: None
                taken = median_ms(mine[what], 9 if slow else 25, before)
                times.setdefault(f"weightlapse, {state}", {}).setdefault(what, []).append(taken)
            for label, reads in others.items():
                rounds = (1 if label.startswith("torch") else 3) if slow else 15
                times.setdefault(label, {}).setdefault(what, []).append(median_ms(reads[what], rounds))
    rate = max(sequential(run, path) for _ in range(3))
    medians = {label: {what: float(np.median(ms)) for what, ms in row.items()} for label, row in times.items()}
    rows = [[label, *(f"{ms:.2f}" for ms in row.values())] for label, row in medians.items()]
    cold = medians["weightlapse, cold"]
    weight = {label: row["one weight, all steps"] for label, row in medians.items()}
    frame = {label: row["random frame"] for label, row in medians.items()}
    zarr, mine_cold, mine_kept = "Zarr (64, 4096)", "weightlapse, cold", "weightlapse, kept"
    said = [
        f"One weight: {weight['safetensors per step'] / weight[mine_cold]:.0f}× faster than safetensors (goal 12), "
        f"{weight[zarr] / weight[mine_cold]:.1f}× than Zarr (goal 5).",
        f"A random frame takes {frame[mine_cold] / frame[zarr]:.2f} of Zarr's time cold, "
        f"{frame[mine_kept] / frame[zarr]:.2f} with blocks kept (goal 1).",
        f"Consecutive frames: {rate:.0f} a second (goal 2000). Opening: {cold['open']:.2f} ms (goal 5).",
    ]
    head = ["median ms", *mine]
    text = ["# Reading", "", machine(), "", table(head, rows), "", *said, "", __doc__.split("\n\n")[1]]
    print("\n".join(text))
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "read.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()

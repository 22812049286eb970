"""What does the store do at the size people train? Beside Zarr (Blosc, zstd 5, bit shuffle) and safetensors in the same run.

    python bench/scale.py [rates] [frames] [small] [many] [large] [shards]          all of them where none is named

``rates``   four tensors of 2 M float32 weights that move under Adam, 24 frames: MB/s of raw bytes, on one core and on both.
``frames``  GPT-2 small, 124 M weights that move under Adam, 12 frames, compressed: each kind of read in a process of its own.
``small``   one weight over 2 000 frames of a network of 17 226 weights, with a fresh handle each time.
``many``    1 000 and 10 000 tensors: state, info, page, doctor.
``large``   one tensor of 50 M weights recorded with memory="600MB": memory at its peak.
``shards``  four shards of 2 M weights, each of a process: compressed one after the other and at once, read as one.

Rates "of CPU" are raw bytes over the CPU time of all threads: what one core does, whoever else uses the machine. Those "by the clock" are what
somebody waits for, and mean little where the load was high. Files are in the page cache.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from stores import folder_nbytes, fresh, machine, median_ms, table, write_safetensors, write_weightlapse, write_zarr
from trajectories import CACHE, Trajectory, trajectory

import weightlapse as wl
from weightlapse.store import compact
from weightlapse.store.block import chunks_of
from weightlapse.store.codecs.decode import Chunk
from weightlapse.store.codecs.encode import encode
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.reader import Store
from weightlapse.store.threads import in_order
from weightlapse.store.writer import Writer

HERE = Path(__file__).parent
SCRATCH = Path(os.environ.get("WEIGHTLAPSE_BENCH_SCRATCH", CACHE / "scale"))
GPT2: dict[str, tuple[int, ...]] = {"wte.weight": (50257, 768), "wpe.weight": (1024, 768)}
for _layer in range(12):
    GPT2 |= {
        f"h.{_layer}.{name}": shape
        for name, shape in {
            "ln_1.weight": (768,),
            "ln_1.bias": (768,),
            "attn.c_attn.weight": (768, 2304),
            "attn.c_attn.bias": (2304,),
            "attn.c_proj.weight": (768, 768),
            "attn.c_proj.bias": (768,),
            "ln_2.weight": (768,),
            "ln_2.bias": (768,),
            "mlp.c_fc.weight": (768, 3072),
            "mlp.c_fc.bias": (3072,),
            "mlp.c_proj.weight": (3072, 768),
            "mlp.c_proj.bias": (768,),
        }.items()
    }
GPT2 |= {"ln_f.weight": (768,), "ln_f.bias": (768,)}
WATCHED = "h.3.mlp.c_fc.weight"
Rows = list[list[str]]


def adam(shapes: dict[str, tuple[int, ...]], frames: int, rate: float = 3e-4) -> Iterator[dict[str, np.ndarray]]:
    """Frames of weights under Adam with noisy gradients: w -= rate x m / sqrt(v), v at rest and m the running mean (0.9) of white noise."""
    rng = np.random.default_rng(0)
    w = {n: rng.standard_normal(s, dtype=np.float32) * np.float32(0.02) for n, s in shapes.items()}
    m = {n: rng.standard_normal(s, dtype=np.float32) * np.float32((0.1 / 1.9) ** 0.5) for n, s in shapes.items()}
    for _ in range(frames):
        yield w
        for n, s in shapes.items():
            m[n] *= np.float32(0.9)
            m[n] += np.float32(0.1) * rng.standard_normal(s, dtype=np.float32)
            w[n] -= np.float32(rate) * m[n]


def recorded(path: Path, shapes: dict[str, tuple[int, ...]], frames: int, mode: str, meta: Any = None) -> Path:
    """A recording of such weights; beside it the checksums of the watched tensor."""
    layout = Layout(TensorSpec(n, "float32", s) for n, s in shapes.items())
    writer = Writer.create(fresh(path), layout, compact=mode, meta=meta or {})
    row, sums = np.zeros((1, layout.row_nbytes), np.uint8), []
    for k, state in enumerate(adam(shapes, frames)):
        for i, name in enumerate(shapes):
            layout.view(row, i)[0] = state[name]
        sums.append(zlib.crc32(state.get(WATCHED, np.empty(0)).tobytes()))
        writer.append(np.array([k]), row)
    writer.close()
    if WATCHED in shapes:
        path.with_suffix(".sums").write_text(json.dumps(sums))
    return path


class Timed:
    """MB/s of raw bytes by CPU time and by the clock."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes

    def __call__(self, work: Callable[[], Any]) -> tuple[float, float]:
        cpu, clock = time.process_time(), time.perf_counter()
        work()
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        return self.nbytes / 1e6 / cpu, self.nbytes / 1e6 / clock


# ---- rates ---------------------------------------------------------------------------------------------------------


def rates() -> str:
    shapes = {f"w{i}": (2048, 1024) for i in range(4)}
    path = recorded(SCRATCH / "rates", shapes, 24, "never")
    raw = Store.open(path).raw_segments[0]
    timed = Timed(raw.count * raw.layout.row_nbytes)
    height = compact.block_height(raw.count, None, raw.layout.row_nbytes)
    chunks = chunks_of(raw.layout, partial(compact.chunk_limit, height, 256 << 20))
    rows = slice(0, height)
    values = [compact.gather(raw, pieces, rows) for pieces in chunks]
    shape = compact.chunk_shape(None, height, values[0].shape[1])
    made: list[bytes] = []

    def encoded(cores: int) -> None:
        made[:] = in_order((partial(encode, u, "float32", shape, compiled=True) for u in values), cores)

    def proved(cores: int) -> None:
        tasks = (partial(compact._same, Chunk(data), u, compiled=True) for data, u in zip(made, values))
        assert all(in_order(tasks, cores))

    def compacted(cores: int) -> None:
        compact.write_block(path, raw.number, raw, None, count=cores)

    def read(cores: int) -> None:
        os.environ["WEIGHTLAPSE_THREADS"] = str(cores)
        store = Store.open(path)
        for name in shapes:
            store.read(name, slice(None))
        del os.environ["WEIGHTLAPSE_THREADS"]

    encode(values[0], "float32", shape, compiled=True)
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for what, work in (("encode", encoded), ("decode again and hold against the log", proved)):
        for _ in range(3):
            for cores in (1, 2):
                found.setdefault(what, {}).setdefault(cores, []).append(timed(partial(work, cores)))
    ratio = sum(u.nbytes for u in values) / sum(map(len, made))
    for cores in (1, 2):
        found.setdefault("whole compaction: log read, encoded, proved, written, synced", {})[cores] = [
            timed(partial(compacted, cores))
        ]
    log = path / "log" / "000000.seg"
    log.rename(log.with_suffix(".away"))
    for _ in range(3):
        for cores in (1, 2):
            found.setdefault("decode: every value of the block, read", {}).setdefault(cores, []).append(
                timed(partial(read, cores))
            )
    lines: Rows = []
    for what, by_cores in found.items():
        best = {cores: tuple(np.median(np.array(taken), axis=0)) for cores, taken in by_cores.items()}
        lines.append([f"weightlapse, {what}", *(f"{x:.0f}" for cores in (1, 2) for x in best[cores]), f"{ratio:.3f}"])
    lines += _peers(values, timed)
    fresh(path)
    goals = "Goals: encode 130 on one core and 250 on both, decode 350 and 600; Zarr and safetensors on one core."
    head = ["MB/s of raw float32", "1 core: of CPU", "by the clock", "2 cores: of CPU", "by the clock", "ratio"]
    return "\n".join(["## Rates: tensors of 2 M weights, 24 frames", "", table(head, lines), "", goals])


def _peers(values: list[np.ndarray], timed: Timed) -> Rows:
    import zarr
    from safetensors.numpy import load_file, save_file

    zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1})
    flat = np.concatenate(values, axis=1).view(np.float32)
    run = Trajectory("rates", "float32", flat, [("w", (flat.shape[1],))])
    path = SCRATCH / "rates.zarr"
    wrote = timed(lambda: write_zarr(run, fresh(path), (24, 65536)))
    size = flat.nbytes / folder_nbytes(path)
    got = timed(lambda: zarr.open_array(path, mode="r")[:])
    fresh(path)
    lines = [["Zarr, write", *(f"{x:.0f}" for x in wrote), "", "", f"{size:.3f}"]]
    lines.append(["Zarr, read", *(f"{x:.0f}" for x in got), "", "", f"{size:.3f}"])
    file = SCRATCH / "rates.safetensors"
    wrote = timed(lambda: save_file({"w": flat}, file))
    got = timed(lambda: load_file(file))
    fresh(file)
    lines.append(["safetensors, write", *(f"{x:.0f}" for x in wrote), "", "", "1.000"])
    return [*lines, ["safetensors, read", *(f"{x:.0f}" for x in got), "", "", "1.000"]]


# ---- frames of 124 M weights ---------------------------------------------------------------------------------------

READ = """
import json, resource, sys, time, zlib
import numpy as np
import weightlapse as wl
from weightlapse.cli.info import facts
path, what, watched = sys.argv[1:4]
run = wl.load(path)
if what == "state, first":
    run[watched][0, 0, 0]
reads = {
    "state": lambda: run.state(frame=run.frames - 1),
    "first state of a process": lambda: run.state(frame=run.frames - 1),
    "one tensor, all frames": lambda: run[watched][:],
    "one weight, all frames": lambda: run[watched][:, 100, 77],
    "one unit (a row), all frames": lambda: run[watched][:, 100],
    "one unit (a column), all frames": lambda: run[watched][:, :, 100],
    "info": lambda: facts(wl.load(path)),
}
read = reads[what]
if what == "state":
    read()
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) << 10
def now():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) << 10
open("/proc/self/clear_refs", "w").write("5")
base = now()
cpu, clock = time.process_time(), time.perf_counter()
got = read()
cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
values = list(got.values()) if what.endswith(("state", "process")) else [] if what == "info" else [got]
size = sum(np.asarray(v).nbytes for v in values)
sums = [zlib.crc32(v.tobytes()) for v in got] if what == "one tensor, all frames" else None
print(json.dumps({"cpu": cpu, "clock": clock, "peak": peak() - base, "size": size, "sums": sums}))
"""


def frames() -> str:
    path = SCRATCH / "gpt2"
    if not (path / "manifest.json").exists() or not path.with_suffix(".sums").exists():
        recorded(path, GPT2, 12, "after")
    block = Store.open(path).segments[0]
    raw = sum(4 * int(np.prod(s)) for s in GPT2.values()) * 12
    lines: Rows = []
    goals = {"state": "1.2 s", "one weight, all frames": "60 ms", "info": "50 ms"}
    goals |= {f"one unit (a {w}), all frames": "100 ms" for w in ("row", "column")}
    for what in ("state", "first state of a process", "one tensor, all frames", *list(goals)[1:]):
        taken = []
        for _ in range(3):
            told = subprocess.run(
                [sys.executable, "-c", READ, str(path), what, WATCHED], capture_output=True, text=True, check=True
            )
            taken.append(json.loads(told.stdout))
        if taken[0]["sums"] is not None:
            assert taken[0]["sums"] == json.loads(path.with_suffix(".sums").read_text())
        cpu, clock = (float(np.median([t[key] for t in taken])) for key in ("cpu", "clock"))
        peak, size = taken[0]["peak"] / 1e6, taken[0]["size"] / 1e6
        memory = [f"{size:.4g}", f"{peak:.0f}", f"{peak / size:.2f}" if size > 10 else "–"]
        lines.append([what, f"{1e3 * clock:.0f}", f"{1e3 * cpu:.0f}", goals.get(what, ""), *memory])
    ratio = raw / folder_nbytes(path)
    head = ["read", "ms by the clock", "ms of CPU", "goal", "returned, MB", "memory beyond the open run, MB", "times"]
    text = [
        "## 124 M weights, 12 frames, compressed",
        "",
        table(head, lines),
        "",
        f"Ratio {ratio:.3f} in blocks of {block.opening.height} frames; the state is that of the last frame of a block, through all before it.",  # type: ignore[attr-defined]
    ]
    return "\n".join([*text, "", _heights()])


def _heights() -> str:
    """What shorter blocks cost: the ratio of the same weights by the frames of a block."""
    every = np.stack([state["w"].reshape(-1).copy() for state in adam({"w": (131072,)}, 96)]).view(np.uint32)
    lines = []
    for height in (4, 6, 12, 24, 96):
        size = sum(
            len(encode(every[a : a + height], "float32", compact.chunk_shape(None, height, 131072), compiled=True))
            for a in range(0, 96, height)
        )
        lines.append([str(height), f"{every.nbytes / size:.3f}", str(height)])
    return table(["frames of a block", "ratio", "frames decoded for its last"], lines)


# ---- a small network, a fresh handle -------------------------------------------------------------------------------


def small() -> str:
    import zarr
    from safetensors import safe_open

    run, rng = trajectory("mlp_adam"), np.random.default_rng(0)
    name, shape, *_ = run.columns()[0]
    path, files, store = SCRATCH / "mlp", SCRATCH / "mlp.safetensors", SCRATCH / "mlp.zarr"
    write_weightlapse(run, fresh(path))
    write_safetensors(run, fresh(files))
    write_zarr(run, fresh(store))

    def place() -> tuple[int, int]:
        return int(rng.integers(shape[0])), int(rng.integers(shape[1]))

    def ours() -> None:
        wl.load(path)[name][(slice(None), *place())]

    def theirs() -> None:
        at = place()
        for file in sorted(files.iterdir()):
            with safe_open(file, "numpy") as opened:
                opened.get_slice(name)[:][at]

    def zarrs() -> None:
        i, j = place()
        zarr.open_array(store, mode="r")[:, i * shape[1] + j]

    found: dict[str, list[float]] = {"weightlapse": [], "safetensors per step": [], "Zarr (64, 4096)": []}
    for _ in range(5):
        for label, read, rounds in zip(found, (ours, theirs, zarrs), (15, 1, 3)):
            found[label].append(median_ms(read, rounds))
    ms = {label: float(np.median(taken)) for label, taken in found.items()}
    for made in (path, files, store):
        fresh(made)
    mine = ms["weightlapse"]
    lines = [[label, f"{taken:.2f}", f"{taken / mine:.1f} ×"] for label, taken in ms.items()]
    head = ["one weight, 2 000 frames, fresh handle", "ms of CPU", "beside ours"]
    text = ["## A small network", "", table(head, lines), "", "Goals: 4.7 ms, safetensors 12 ×, Zarr 5 ×."]
    return "\n".join(text)


# ---- many tensors --------------------------------------------------------------------------------------------------


def many() -> str:
    from click.testing import CliRunner

    from weightlapse.cli import program

    lines: Rows = []
    for count in (500, 1000, 4000, 10000):
        path, taken = SCRATCH / f"many{count}", {}

        def timed(what: str, work: Callable[[], Any], taken: dict[str, float] = taken) -> Any:
            begun = time.process_time()
            found = work()
            taken[what] = time.process_time() - begun
            return found

        timed("record", partial(recorded, path, {f"w{i}": (4, 4) for i in range(count)}, 16, "after"))
        timed("open and state", lambda path=path: wl.load(path).state(frame=9))  # type: ignore[misc]
        for verb, suffix in (("info", ""), ("doctor", ""), ("page", ".html"), ("film", ".mp4")):
            end = ["-o", str(path.with_suffix(suffix))] if suffix else []
            command = [verb, str(path), *end]
            done = timed(verb, lambda command=command: CliRunner().invoke(program, command))  # type: ignore[misc]
            assert done.exit_code == 0, done.output
        lines.append([f"{count:,}", *(f"{seconds:.2f}" for seconds in taken.values())])
        print(lines[-1], flush=True)
        fresh(path), fresh(path.with_suffix(".html")), fresh(path.with_suffix(".mp4"))
    head = ["tensors of 16 weights, 16 frames", *taken]
    goals = "Goals: state of 10 000 in 0.4 s, everything linear. The first row holds what is loaded once."
    return "\n".join(["## Many tensors: seconds of CPU", "", table(head, lines), "", goals])


# ---- one large tensor, memory --------------------------------------------------------------------------------------

LARGE = """
import sys
import numpy as np
import weightlapse as wl
what, path = sys.argv[1:]
def status(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) / 1e3
if what == "record":
    w = {"w": np.random.default_rng(0).standard_normal(50_000_000, dtype=np.float32)}
    open("/proc/self/clear_refs", "w").write("5")
    base = status("VmRSS")
    with wl.watch(w, path, memory="600MB", overwrite=True) as rec:
        for _ in range(5):
            w["w"] *= np.float32(1.001)
            rec.step(w)
else:
    run = wl.load(path)
    if what == "state":  # not the first one
        run.state(frame=3)
    open("/proc/self/clear_refs", "w").write("5")
    base = status("VmRSS")
    run.state(frame=3)
print(status("VmHWM") - base)
"""


def large() -> str:
    path = SCRATCH / "large"
    fresh(path)
    lines = []
    for what, limit in (
        ("record", "600 (memory=)"),
        ("state", "260 (1.3 × 200)"),
        ("first state of a process", ""),
    ):
        run = [sys.executable, "-c", LARGE, what, str(path)]
        told = subprocess.run(run, capture_output=True, text=True, check=True)
        lines.append([what, f"{float(told.stdout):.0f}", limit])
    fresh(path)
    title = '## One tensor of 50 M weights (200 MB), memory="600MB"'
    note = "The first large read of a process loads the compiler (numba): about 100 MB of it, once."
    return "\n".join([title, "", table(["", "peak beyond the model, MB", "limit"], lines), "", note])


# ---- shards --------------------------------------------------------------------------------------------------------

SHARD = "import sys; from pathlib import Path; from weightlapse.store.writer import Writer; Writer.resume(sys.argv[1]).close()"


def shards(count: int = 4) -> str:
    path = SCRATCH / "shards"
    rows = 512
    places = [fresh(path)] + [path / "ranks" / f"{rank:04d}" for rank in range(1, count)]

    def record() -> None:
        for rank, place in enumerate(places):
            shard = {"w": {"shape": [count * rows, 4096], "offset": [rank * rows, 0]}}
            meta = {"distributed": {"rank": rank, "world_size": count, "shards": shard}}
            recorded(place, {"w": (rows, 4096)}, 12, "never", meta)

    def compress(together: int) -> tuple[float, float]:
        env = {**os.environ, "WEIGHTLAPSE_THREADS": "1"}
        begun, cpu = time.perf_counter(), sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        command = [sys.executable, "-m", "weightlapse", "compact"]
        for some in (*batched(places[1:], together), (path,)):  # the last compresses rank 0, and looks at the others
            running = [subprocess.Popen([*command, str(place)], env=env, stdout=subprocess.DEVNULL) for place in some]
            assert not any(process.wait() for process in running)
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - cpu, time.perf_counter() - begun

    raw = count * rows * 4096 * 4 * 12 / 1e6
    lines = []
    for together in (1, 2):
        fresh(path)
        record()
        lines.append([f"compressed, {together} at a time", *(f"{raw / seconds:.0f}" for seconds in compress(together))])
    wl.load(path)["w"][:]  # the compiler is loaded once
    for cores in ("1", "2"):
        os.environ["WEIGHTLAPSE_THREADS"] = cores
        run = wl.load(path)
        cpu, begun = time.process_time(), time.perf_counter()
        run["w"][:]
        taken = (time.process_time() - cpu, time.perf_counter() - begun)
        lines.append([f"read as one tensor, {cores} threads", *(f"{raw / seconds:.0f}" for seconds in taken)])
    del os.environ["WEIGHTLAPSE_THREADS"]
    fresh(path)
    head = [f"{count} shards, 12 frames, MB/s of raw bytes", "of CPU, processes begun and all", "by the clock"]
    return "\n".join(["## Shards", "", table(head, lines)])


def batched(items: list[Path], size: int) -> Iterator[list[Path]]:
    return (items[a : a + size] for a in range(0, len(items), size))


PARTS: dict[str, Callable[[], str]] = {f.__name__: f for f in (rates, frames, small, many, large, shards)}
TITLES = {
    "rates": "Rates",
    "frames": "124 M weights",
    "small": "A small network",
    "many": "Many tensors",
    "large": "One tensor",
    "shards": "Shards",
}
RESULT = HERE / "results" / "scale.md"


def kept(text: str) -> dict[str, str]:
    """The parts that a result holds, by their names."""
    found = {}
    for section in text.split("\n## ")[1:]:
        lines = section.splitlines()
        last = max((i for i, line in enumerate(lines) if line.startswith("Load before and after")), default=len(lines))
        for name, title in TITLES.items():
            if section.startswith(title):
                found[name] = "## " + "\n".join(lines[: last + 1])
    return found


def main() -> None:
    """Each part stays in the result as it was last measured, so that they may be measured one at a time."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    RESULT.parent.mkdir(exist_ok=True)
    for name in sys.argv[1:] or list(PARTS):
        load = os.getloadavg()[0]
        measured = f"{PARTS[name]()}\n\nLoad before and after: {load:.1f}, {os.getloadavg()[0]:.1f}."
        print(measured, flush=True)
        told = (kept(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}) | {name: measured}
        parts = ("\n" + told[n] + "\n" for n in PARTS if n in told)
        RESULT.write_text(
            "\n".join(["# Scale", "", machine(), "", *parts, __doc__.split("\n\n")[-1]]), encoding="utf-8"
        )


if __name__ == "__main__":
    main()

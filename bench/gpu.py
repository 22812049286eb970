"""What does recording cost a GPT-2 (124 M weights) that trains on one GPU, and is it all true?

The network trains as people train it (batch 16 x 1024 tokens, bf16 autocast, fused AdamW, learning rate 6e-4) and nothing is waited for: the time of
a stretch of steps is that between two looks at the whole device. Stretches without a recorder lie between those with one. What was recorded is
held against clones of the weights that were made on the device. `torch.save` and `torch.distributed.checkpoint.async_save` run in the same loop.

Without CUDA a network of 0.3 M weights does the same on the CPU, and the table says so: its figures mean nothing but that everything works.

    python bench/gpu.py [--out FILE] [--steps N] [--folder DIR] [--only overhead]

``--only overhead`` measures what recording costs with compression left for later and by default, in turns, and puts these rows into the result that is there.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import weightlapse as wl
from weightlapse.store.block import chunks_of
from weightlapse.store.compact import block_height, chunk_limit, write_block
from weightlapse.store.proof import compress
from weightlapse.store.reader import Store
from weightlapse.store.threads import VARIABLE, usable_cores

HERE = Path(__file__).parent
MEMORY = 4 << 30  # that the recorder may use
RESULT = HERE / "results" / "gpu.md"


@dataclass(frozen=True)
class Size:
    layers: int
    width: int
    heads: int
    words: int
    length: int
    batch: int


GPT2 = Size(12, 768, 12, 50304, 1024, 16)
SMALL = Size(2, 128, 4, 512, 32, 8)


class Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.attn, self.proj = nn.Linear(size.width, 3 * size.width), nn.Linear(size.width, size.width)
        self.fc, self.out = nn.Linear(size.width, 4 * size.width), nn.Linear(4 * size.width, size.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = self.attn(self.ln_1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.out(nn.functional.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT-2 with its head tied to the embedding."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(size.words, size.width), nn.Embedding(size.length, size.width)
        self.h = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.ln_f = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, size.words, bias=False)
        self.head.weight = self.wte.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deep = name.endswith(("proj.weight", "out.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * size.layers) if deep else 0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        return self.head(self.ln_f(x))


class Training:
    """An endless training; every call of :meth:`step` queues one step and waits for nothing."""

    def __init__(self, size: Size, device: str) -> None:
        torch.manual_seed(0)
        self.size, self.device = size, device
        self.model = GPT(size).to(device)
        fused = {"fused": True} if device == "cuda" else {}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 6e-4, betas=(0.9, 0.95), weight_decay=0.1, **fused)
        chance = 1 / torch.arange(1, size.words + 1, dtype=torch.float64)  # as words come in text
        draw = torch.Generator().manual_seed(1)
        count = 32 * size.batch * (size.length + 1)
        self.tokens = (
            torch.multinomial(chance, count, replacement=True, generator=draw).view(32, size.batch, -1).to(device)
        )
        self.done = 0

    def step(self) -> None:
        tokens = self.tokens[self.done % len(self.tokens)]
        self.optimizer.param_groups[0]["lr"] = 6e-4 * min(1.0, (self.done + 1) / 100)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            scores = self.model(tokens[:, :-1])
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done += 1

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def timed(self, steps: int, after: Callable[[int], None] | None = None) -> float:
        """Seconds a step of so many steps; ``after(k)`` is called after each."""
        self.wait()
        began = time.perf_counter()
        for k in range(steps):
            self.step()
            if after is not None:
                after(k + 1)
        self.wait()
        return (time.perf_counter() - began) / steps

    def clone(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    @property
    def nbytes(self) -> int:
        return sum(p.nbytes for p in self.model.parameters())


@dataclass
class Table:
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, what: str, found: str, goal: str = "") -> None:
        self.rows.append((what, found, goal))
        print(f"  {what}: {found}" + (f"   (goal {goal})" if goal else ""), flush=True)

    def text(self, title: str) -> str:
        lines = [title, "", "| | found | goal |", "|---|---|---|"]
        return "\n".join([*lines, *(f"| {a} | {b} | {c} |" for a, b, c in self.rows), ""])


@dataclass
class Recorded:
    overhead: float
    inside: list[float]  # seconds that the recorder's own calls took of the training thread, step by step
    close: float
    run: Path
    clones: dict[int, dict[str, torch.Tensor]]  # by frame
    compressed: int  # segments, beside the training


def recorded(
    training: Training, run: Path, steps: int, usual: list[float], *, kept: tuple[int, ...], **options: Any
) -> Recorded:
    """So many steps with a recorder, and as many as a fifth of them without before and after: the time between. A clone at the frames in ``kept``."""
    every = options.get("every", 1)
    plain = max(steps // 5, 10)
    usual.append(training.timed(plain))
    options = {"compact": "never", **options}
    rec = wl.watch(training.model, run, optimizer=training.optimizer, overwrite=True, **options)
    inside = [0.0]
    for name in ("before", "after"):
        setattr(rec, name, clocked(getattr(rec, name), inside))
    clones: dict[int, dict[str, torch.Tensor]] = {}

    def look(k: int) -> None:
        inside.append(0.0)
        if k % every == 0 and k // every in kept:
            clones[k // every] = training.clone()

    training.timed(2 * every, look)  # what is compiled or allocated once
    inside[:] = [0.0]
    seconds = training.timed(steps - 2 * every, lambda k: look(k + 2 * every))
    compressed = len(list((run / "blocks").glob("*.blk")))
    if options["compact"] != "never":  # what is left would take minutes
        compactor = rec._pump.writer._compactor
        compactor._keep_logs = True
        compactor._pause()
        compactor._waiting.clear()
    began = time.perf_counter()
    rec.close()
    close = time.perf_counter() - began
    if rec.failed:
        raise SystemExit(f"the recorder stopped: {rec.failed}")
    usual.append(training.timed(plain))
    return Recorded(seconds / statistics.mean(usual[-2:]) - 1, inside[:-1], close, run, clones, compressed)


def clocked(call: Callable[..., None], inside: list[float]) -> Callable[..., None]:
    """The same call, whose seconds are added to the last of ``inside``."""

    def timed(*args: Any, **options: Any) -> None:
        began = time.perf_counter()
        call(*args, **options)
        inside[-1] += time.perf_counter() - began

    return timed


def calls(found: Recorded) -> str:
    """What the recorder's calls took of the training thread."""
    times = sorted(1e3 * seconds for seconds in found.inside)
    return (
        f"{statistics.mean(times):.2f} ms a step ({times[len(times) // 2]:.2f} in the middle, {times[-1]:.1f} at most)"
    )


def twice(first: Recorded, second: Recorded) -> str:
    """Both overheads: their distance is what such a number is worth."""
    return f"{100 * first.overhead:+.2f} and {100 * second.overhead:+.2f} %"


def violations(found: Recorded, tolerance: float | None) -> tuple[int, int, float]:
    """(values out of bounds, values looked at, largest error as a share of what is allowed) against the clones."""
    run = wl.load(found.run)
    wrong = looked = 0
    worst = 0.0
    for frame, clone in found.clones.items():
        state = run.state(frame=frame)
        for name, true in clone.items():
            stored = torch.from_numpy(state[name]).to(true.device)
            if tolerance is None:
                wrong += int((stored.view(torch.int32) != true.view(torch.int32)).sum())
            else:
                error = (stored.double() - true.double()).abs()
                bound = tolerance * float(true.double().std(correction=0))
                wrong += int((error > bound).sum())
                worst = max(worst, float(error.max()) / bound if bound else 0.0)
            looked += true.numel()
    if not looked:
        raise SystemExit("no frame was held against a clone")
    return wrong, looked, worst


def gaps(run: Path) -> str:
    missing = sum(last - first + 1 for first, last, _ in wl.load(run).gaps)
    return "every frame is there" if not missing else f"{missing} steps are missing"


def log_nbytes(run: Path) -> int:
    return sum(f.stat().st_size for f in (run / "log").glob("*.seg"))


def film(table: Table, training: Training, folder: Path, steps: int, usual: list[float]) -> None:
    options: dict[str, Any] = {"tolerance": "film", "memory": MEMORY, "pack": True}
    found = recorded(training, folder / "film", steps, usual, kept=(0, 1, 2, 40, steps // 2, steps), **options)
    again = recorded(training, folder / "again", steps, usual, kept=(), **options)
    shutil.rmtree(again.run)
    found.clones.pop(0, None)
    frames = wl.load(found.run).frames
    each = log_nbytes(found.run) / frames
    table.add(f"every step, film, {steps} steps: free-running, twice", twice(found, again), "<= 2 %")
    table.add("  the recorder's calls in the training thread", calls(found))
    table.add(
        "bytes a frame over the bus and to the disk",
        f"{each / 1e6:.2f} MB of {training.nbytes / 1e6:.0f}, {training.nbytes / each:.1f} times less",
        "<= 40 MB",
    )
    table.add("kept up with", f"{gaps(found.run)}; close() {found.close:.2f} and {again.close:.2f} s", "close() <= 5 s")
    wrong, looked, worst = violations(found, 1e-2)
    table.add(
        "values out of bounds", f"{wrong} of {looked:,}; the largest error is {worst:.3f} of what is allowed", "0"
    )


class Enough(Exception):
    """The time for a measurement is over."""


def compaction(run: Path, count: int, seconds: float) -> str:
    """The rate of ``count`` threads that compress the first segment, for some seconds; how many cores they kept busy."""
    store = Store.open(run)
    segment = store.raw_segments[0]
    height = block_height(segment.count, store.tolerance, segment.layout.row_nbytes)
    chunks = chunks_of(segment.layout, partial(chunk_limit, height, MEMORY // count))
    sizes = [height * sum(p.stop - p.start for p in pieces) * 4 for pieces in chunks]
    done: list[float] = []

    def look() -> None:
        done.append(time.perf_counter())
        if done[-1] > began + seconds:
            raise Enough

    os.environ[VARIABLE] = str(count)
    segment.prepare(slice(0, height))  # what is read once for a whole segment
    began, busy = time.perf_counter(), time.process_time()
    with contextlib.suppress(Enough):
        write_block(run, segment.number, segment, store.tolerance, count=count, sync=False, memory=MEMORY, pause=look)
    (run / f"blocks/{segment.number:06d}.blk").unlink(missing_ok=True)
    clock, busy = done[-1] - began, time.process_time() - busy
    rate = sum(sizes[k % len(sizes)] for k in range(len(done))) / clock / 1e9
    return f"{count} threads {rate:.2f} GB/s ({busy / clock:.1f} cores)"


def state(run: Path, frame: int, nbytes: int, count: int, times: int = 3) -> tuple[float, str]:
    """GB/s of a whole state, the handle fresh each time (median), and in words."""
    os.environ[VARIABLE] = str(count)
    found = []
    for _ in range(times):
        began, busy = time.perf_counter(), time.process_time()
        wl.load(run).state(frame=frame)
        found.append((time.perf_counter() - began, time.process_time() - busy))
    seconds, busy = sorted(found)[len(found) // 2]
    return nbytes / seconds / 1e9, f"{nbytes / seconds / 1e9:.2f} GB/s ({seconds:.2f} s, {busy / seconds:.1f} cores)"


def counts() -> list[int]:
    """Numbers of threads that are tried: the last is as many as there are cores."""
    cores = usable_cores()
    return [n for n in (1, 8) if n < cores] + [cores]


def reading(table: Table, run: Path, training: Training, seconds: float, word: str, goal: bool) -> None:
    """What can be done with a packed log: a state, compaction, states and a weight of the block."""
    store = Store.open(run)
    segment = store.raw_segments[0]
    late, raw, cores = min(20, segment.count - 1), training.nbytes * segment.count, counts()[-1]
    wl.load(run).state(frame=0)  # what is compiled once
    table.add(f"{word}: a state out of the log, frame {late}", state(run, late, training.nbytes, cores, 1)[1])
    compaction(run, cores, 1.0)
    told = [compaction(run, count, seconds) for count in (counts() if goal else counts()[-1:])]
    table.add(f"{word}: compaction for {seconds:.0f} s", ", ".join(told))
    os.environ[VARIABLE] = str(cores)
    began, busy = time.perf_counter(), time.process_time()
    compress(run, segment, store.ours, store.tolerance, count=cores, sync=False, memory=MEMORY)
    clock, busy = time.perf_counter() - began, time.process_time() - busy
    block = (run / f"blocks/{segment.number:06d}.blk").stat().st_size
    whole = f"{raw / clock / 1e9:.2f} GB/s on {cores} threads ({busy / clock:.1f} cores), {segment.count} frames, {raw / block:.2f} times smaller"
    table.add(f"{word}: compaction of a whole segment", whole, ">= 1 GB/s with 16 cores")
    wl.load(run).state(frame=late)
    for frame in sorted({0, 5, late, segment.count - 1}):
        if frame < segment.count:
            told = [state(run, frame, training.nbytes, cores)[1]]
            if goal and frame == 5:
                told += [f"{n} threads {state(run, frame, training.nbytes, n, 1)[1]}" for n in counts()[:-1]]
            table.add(f"{word}: a state out of a block, frame {frame}", "; ".join(told), ">= 2 GB/s with 16 cores")
    os.environ[VARIABLE] = str(cores)
    began = time.perf_counter()
    wl.load(run)["wpe.weight"][:, 3, 5]
    table.add(f"{word}: one weight over all frames", f"{1e3 * (time.perf_counter() - began):.0f} ms")


def exact(table: Table, training: Training, folder: Path, steps: int, usual: list[float]) -> None:
    for pack in (False, True):
        word = "exact, packed" if pack else "exact, rows"
        options: dict[str, Any] = {"every": 10, "memory": MEMORY, "pack": pack}
        found = recorded(training, folder / "exact", steps, usual, kept=(1, 2, steps // 10), **options)
        again = recorded(training, folder / "again", steps, usual, kept=(), **options)
        shutil.rmtree(again.run)
        each = log_nbytes(found.run) / wl.load(found.run).frames
        table.add(f"every 10th step, {word}: free-running, twice", twice(found, again), "<= 1 %")
        wrong, looked, _ = violations(found, None)
        size = f"{each / 1e6:.2f} MB a frame ({training.nbytes / each:.2f} times less)"
        told = f"{size}, close() {found.close:.2f} and {again.close:.2f} s; {wrong} of {looked:,} values differ"
        table.add(f"  {word}", told, "0 differ; close() <= 5 s")
        table.add("  the recorder's calls in the training thread", calls(found))
        if not pack:
            shutil.rmtree(found.run)


def queueing(training: Training, folder: Path) -> str:
    """What the call that queues the copies of a frame in rows takes, of a device with nothing to do and behind a step that is queued."""
    rec = wl.watch(training.model, folder / "queueing", compact="never", memory=MEMORY)
    told = []
    for busy in (False, False, True, True):
        training.wait()
        if busy:
            training.step()
        began = time.perf_counter()
        rec._source.copy(rec._camera.ring.slot, None)
        told.append(1e3 * (time.perf_counter() - began))
    pinned = torch.from_numpy(rec._camera.ring.rows).is_pinned()
    training.wait()
    rec.close(last_frame=False)
    shutil.rmtree(rec.path)
    return f"{told[1]:.1f} ms of an idle device, {told[3]:.1f} behind a queued step; the ring is {'' if pinned else 'not '}page-locked"


def new_memory(nbytes: int) -> str:
    """What the system takes to give the memory of a frame, which a state that is not given its place pays."""
    began = time.perf_counter()
    here = np.empty(nbytes, np.uint8)
    here[::4096] = 1
    first = time.perf_counter() - began
    began = time.perf_counter()
    here[::4096] = 2
    return f"{first:.3f} s ({nbytes / first / 1e9:.1f} GB/s), the same again {time.perf_counter() - began:.3f} s"


def overheads(table: Table, training: Training, folder: Path, steps: int, usual: list[float]) -> None:
    """What recording costs with compact="never" and "auto", in turns."""
    table.add("queueing the copies of a frame in rows (compact= has no part in it)", queueing(training, folder))
    table.add("new memory of a frame, touched by one thread (compact= has no part in it)", new_memory(training.nbytes))
    film_too: dict[str, Any] = {"tolerance": "film", "pack": True}
    for word, options in (("every step, film", film_too), ("every 10th step, exact, rows", {"every": 10})):
        found: dict[str, list[Recorded]] = {"never": [], "auto": []}
        for mode in (
            "never",
            "auto",
            "auto",
            "never",
        ):  # there and back: what the order does is not taken for the mode's
            run = recorded(training, folder / "run", steps, usual, kept=(), compact=mode, memory=MEMORY, **options)
            found[mode].append(run)
            if mode == "auto" and run.compressed:
                print(f"    {run.compressed} segments were compressed beside the training", flush=True)
            shutil.rmtree(run.run)
        for mode, runs in found.items():
            told = f"{twice(*runs)}; calls {calls(runs[0])}; {sum(r.compressed for r in runs)} segments compressed beside it"
            table.add(f"{word}, {steps} steps, compact='{mode}'", told, "<= 2 %" if "film" in word else "<= 1 %")


def merged(text: str, table: Table, where: str) -> str:
    """A result with the rows of ``table`` in the place of those of the same name, or behind the others; said of which run they are."""
    lines = [line for line in text.rstrip().splitlines() if not line.startswith("Rows that name compact=")]
    for row in table.rows:
        line = "| " + " | ".join(row) + " |"
        at = next((i for i, old in enumerate(lines) if old.startswith(f"| {row[0]} |")), None)
        if at is None:
            last = max(i for i, old in enumerate(lines) if old.startswith("|"))
            lines.insert(last + 1, line)
        else:
            lines[at] = line
    return "\n".join(
        [
            *lines,
            "",
            f"Rows that name compact= are of a run of their own: `python bench/gpu.py --only overhead`, {where}.",
            "",
        ]
    )


def peers(table: Table, training: Training, folder: Path, usual: list[float]) -> None:
    times = []
    for k in range(2):
        training.timed(3)
        began = time.perf_counter()
        torch.save(training.model.state_dict(), folder / f"{k}.pt")
        times.append(time.perf_counter() - began)
    table.add(
        "torch.save, a call",
        f"{statistics.median(times):.3f} s ({100 * statistics.median(times) / usual[-1]:.0f} % of a step)",
    )
    checkpoint: Any = importlib.import_module("torch.distributed.checkpoint")
    distributed: Any = importlib.import_module("torch.distributed")
    try:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
        waiting: list[Any] = []
        calls: list[float] = []

        def save(k: int) -> None:
            if k % 10 == 0:
                began = time.perf_counter()
                for future in waiting:
                    future.result()
                state = {"model": training.model.state_dict()}
                waiting[:] = [checkpoint.async_save(state, checkpoint_id=str(folder / f"dcp{k}"))]
                calls.append(time.perf_counter() - began)

        seconds = training.timed(30, save)
        for future in waiting:
            future.result()
        usual.append(training.timed(10))
        over = 100 * (seconds / statistics.median(usual[-2:]) - 1)
        told = f"{over:+.1f} % free-running; a call holds the training for {statistics.median(calls):.3f} s"
        table.add("async_save every 10th step", told)
    except Exception as error:  # noqa: BLE001 — a peer that does not run here is said, not hidden
        table.add("async_save", f"does not run here: {type(error).__name__}: {str(error)[:120]}")
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=None, help="default: results/gpu.md, where there is a GPU")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk that is measured")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--only", choices=["overhead"], default=None)
    arguments = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    size, steps = (GPT2, arguments.steps or 200) if on_gpu else (SMALL, arguments.steps or 80)
    device = (
        torch.cuda.get_device_name() if on_gpu else "a small stand-in on the CPU (no CUDA here): only that it works"
    )
    table, usual = Table(), []
    began = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="weightlapse-gpu-", dir=arguments.folder))
    try:
        training = Training(size, "cuda" if on_gpu else "cpu")
        training.timed(10)
        usual.append(training.timed(max(steps // 5, 10)))
        weights = sum(p.numel() for p in training.model.parameters())
        table.add("a step without recording", f"{1e3 * usual[-1]:.1f} ms, {weights / 1e6:.1f} M weights")
        if arguments.only == "overhead":
            overheads(table, training, folder, steps // 2, usual)
            told = ", ".join(f"{1e3 * seconds:.1f}" for seconds in usual)
            where = f"{device}, torch {torch.__version__}, {time.perf_counter() - began:.0f} s; steps without recording, in between: {told} ms"
            out = arguments.out or (RESULT if on_gpu else None)
            table.rows = [row for row in table.rows if "compact=" in row[0]]
            if out is not None:
                out.write_text(merged(out.read_text(encoding="utf-8"), table, where), encoding="utf-8")
            print(table.text(f"\n{where}\n"))
            return
        film(table, training, folder, steps, usual)
        gc.collect()
        exact(table, training, folder, max(steps // 2 // 10 * 10, 40), usual)
        peers(table, training, folder, usual)
        told = ", ".join(f"{1e3 * seconds:.1f}" for seconds in usual)
        table.add("steps without recording, in between", f"{told} ms")
        seconds = 3.0 if on_gpu else 1.0
        reading(table, folder / "film", training, seconds, "film", goal=True)
        reading(table, folder / "exact", training, seconds, "exact, packed", goal=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    where = f"{device}; torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"
    title = f"# Recording on a GPU\n\n`python bench/gpu.py`, {where}; {time.perf_counter() - began:.0f} s."
    text = table.text(title)
    print("\n" + text)
    out = arguments.out or (RESULT if on_gpu else None)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())

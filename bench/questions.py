"""What statistics cost, and what they answer: ``python bench/questions.py``.

1. Segments of a GPT-like model compressed with and without statistics, in turn: CPU time and disk.
2. A made recording of 10^8 weights x 10^3 frames, exact. Its statistics are those of synthetic weights; of its values those chunks are there that answers need (with the
   ones before them), the rest of its block files are holes of the length that they would have. What is counted is what is read. Each question in a fresh process.
"""

from __future__ import annotations

import json
import os
import statistics as middle
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import weightlapse.store.block as block  # noqa: E402
import weightlapse.store.compact as compact  # noqa: E402
from weightlapse.store.block import Index, Opening, chunk_payload, chunks_of  # noqa: E402
from weightlapse.store.codecs.encode import encode  # noqa: E402
from weightlapse.store.compact import block_height, chunk_limit, chunk_shape  # noqa: E402
from weightlapse.store.gathering import Gathering  # noqa: E402
from weightlapse.store.journal import LAYOUT, layout_payload  # noqa: E402
from weightlapse.store.keeper import Keeper  # noqa: E402
from weightlapse.store.layout import Layout, TensorSpec  # noqa: E402
from weightlapse.store.log import BLOCK, HEADER_NBYTES, Seal  # noqa: E402
from weightlapse.store.log import encode as encode_record  # noqa: E402
from weightlapse.store.reader import Store  # noqa: E402
from weightlapse.store.statistics import Outline, Statistics, starts_of, unit_starts_of  # noqa: E402
from weightlapse.store.statistics_file import StatisticsLog  # noqa: E402
from weightlapse.store.writer import Writer, segment_frames  # noqa: E402

FRAMES, RATIO = 1000, 1.25  # of the made recording; how much smaller chunks of its kind become
HOT = 3e-3  # changes beyond this are in chunks that are there


def gpt(layers: int, width: int, words: int) -> Layout:
    tensors = [TensorSpec("wte.weight", "float32", (words, width)), TensorSpec("wpe.weight", "float32", (1024, width))]
    for i in range(layers):
        for name, shape in (
            *(
                ("ln_1.weight", (width,)),
                ("attn.c_attn.weight", (width, 3 * width)),
                ("attn.c_attn.bias", (3 * width,)),
            ),
            *(
                ("attn.c_proj.weight", (width, width)),
                ("mlp.c_fc.weight", (width, 4 * width)),
                ("mlp.c_proj.weight", (4 * width, width)),
            ),
        ):
            tensors.append(TensorSpec(f"h.{i}.{name}", "float32", shape))
    return Layout(tensors)


# ---- what they cost ------------------------------------------------------------------------------------------------


def cost() -> list[list[str]]:
    rows = []
    for tolerance, label in ((None, "exact"), (1e-2, "film")):
        with tempfile.TemporaryDirectory() as folder:
            path, layout = Path(folder) / "run", gpt(1, 384, 2000)
            writer = Writer.create(path, layout, compact="never", tolerance=tolerance)
            rng, row = np.random.default_rng(0), np.zeros((1, layout.row_nbytes), np.uint8)
            values, pace = row.view(np.float32), np.zeros((1, layout.row_nbytes // 4), np.float32)
            values[...] = 0.02 * rng.standard_normal(values.shape)
            for step in range(16):
                pace = 0.9 * pace + 1e-4 * rng.standard_normal(values.shape).astype(np.float32)
                values += pace
                writer.append(np.array([step]), row)
            writer.close()
            store = Store.open(path)
            (raw,) = store.raw_segments
            times: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(4):
                for with_them in (False, True):
                    keeper = Keeper(path, store.ours, tolerance) if with_them else None
                    begun = time.process_time()
                    made = compact.write_block(path, raw.number, raw, tolerance, keeper=keeper)
                    if keeper is not None and made is not None:
                        keeper.keep(raw.number, made)
                        keeper.close()
                    times[with_them].append(time.process_time() - begun)
            stored = (path / block.block_name(0)).stat().st_size
            kept = next(path.glob("stats-*.log")).stat().st_size / 4
            plain, more = (middle.median(times[which][1:]) for which in (False, True))
            number = raw.count * layout.value_nbytes / 4
            rows.append(
                [
                    label,
                    f"{plain:.2f} s",
                    f"{more:.2f} s",
                    f"{100 * (more / plain - 1):+.1f} %",
                    f"{1e9 * (more - plain) / number:.2f}",
                    f"{100 * kept / stored:.3f} %",
                ]
            )
    return rows


def share_of_recording() -> list[list[str]]:
    """A training of 0.9 M weights, recorded at every step and compressed: what of all its CPU time goes into statistics, counted in the threads that make them."""
    import torch

    import weightlapse as wl

    torch.set_num_threads(1)
    spent = [0.0]
    for owner, names in ((Gathering, ("look", "take", "done")), (Keeper, ("begin",)), (StatisticsLog, ("put",))):
        for name in names:
            setattr(owner, name, _counted(getattr(owner, name), spent))
    rows = []
    for tolerance, label in ((None, "exact"), ("film", "film")):
        tried = []
        for turn in range(4):  # the first loads compilers
            torch.manual_seed(0)
            model = torch.nn.Sequential(
                torch.nn.Linear(784, 768),
                torch.nn.ReLU(),
                torch.nn.Linear(768, 384),
                torch.nn.ReLU(),
                torch.nn.Linear(384, 10),
            )
            optimizer = torch.optim.Adam(model.parameters(), 1e-3)
            x, y = torch.randn(4096, 784), torch.randint(10, (4096,))
            with tempfile.TemporaryDirectory() as folder:
                spent[0], begun = 0.0, time.process_time()
                with wl.watch(
                    model, Path(folder) / "run", optimizer=optimizer, tolerance=tolerance, example=x[:2]
                ) as rec:
                    for step in range(96 if turn else 24):
                        pick = torch.arange(step * 64, step * 64 + 64) % len(x)
                        loss = torch.nn.functional.cross_entropy(model(x[pick]), y[pick])
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
                        rec.log(loss=loss.item())
                tried.append((time.process_time() - begun, spent[0]))
        whole, own = (middle.median(t[k] for t in tried[1:]) for k in (0, 1))
        rows.append([label, f"{whole:.1f} s", f"{own:.3f} s", f"{100 * own / whole:.1f} %"])
    return rows


def _counted(inner: Any, spent: list[float]) -> Any:
    def run(*args: Any, **options: Any) -> Any:
        begun = time.thread_time()
        try:
            return inner(*args, **options)
        finally:
            spent[0] += time.thread_time() - begun

    return run


# ---- a made recording ----------------------------------------------------------------------------------------------


def make(path: Path) -> dict[str, Any]:
    """A recording whose segments are holes but for their heads, indexes and the chunks that matter; and its statistics."""
    layout = gpt(9, 768, 50257)
    rng = np.random.default_rng(1)
    writer = Writer.create(path, layout, compact="never")
    writer.close()
    store = Store.open(path)
    seal, count = store.ours.seal, segment_frames(layout.row_nbytes, None)
    payload = layout_payload(layout, "", None)
    log = StatisticsLog(path, store.ours.id)
    (path / "blocks").mkdir(exist_ok=True)
    hot, logical = 0, 0
    deviations = rng.uniform(0.5, 1.0, len(layout.tensors)) * 2e-4
    held: dict[int, np.ndarray] = {}
    for number, first in enumerate(range(0, FRAMES, count)):
        frames = min(count, FRAMES - first)
        height = block_height(frames, None, layout.row_nbytes)
        chunks = chunks_of(layout, partial(chunk_limit, height, 256 << 20))
        opening = Opening(number, 0, layout.row_nbytes, store.journal.epochs[0].crc, frames, height, id=store.ours.id)
        outline = Outline.of(layout, opening.layout_crc, first, frames, height, chunks, None)
        statistics = _statistics(outline, deviations, rng)
        steps = np.arange(first, first + frames)
        places = np.zeros((opening.blocks, len(chunks), 2), np.uint64)
        heads = np.zeros((opening.blocks, len(chunks)), np.uint32)
        with (path / block.block_name(number)).open("wb") as file:
            opening_at = file.tell()
            file.write(encode_record(BLOCK, opening.pack(), first))
            file.write(
                encode_record(
                    block.STEPS, opening.pack() + compact._deflate(steps), first, seal.at(block.STEPS, file.tell())
                )
            )
            file.write(encode_record(LAYOUT, payload, 0, seal.at(LAYOUT, file.tell())))
            for b in range(opening.blocks):
                rows = outline.rows_of(b)
                for c, pieces in enumerate(chunks):
                    k = outline.pieces_at[c]
                    columns = sum(p.stop - p.start for p in pieces)
                    wanted = len(pieces) == 1 and statistics.jump[b, k] > HOT
                    needed = (
                        wanted
                        or len(pieces) > 1  # small tensors: the doctor reads their values
                        or (len(pieces) == 1 and _next_is_hot(statistics, b, k))
                        or (b == opening.blocks - 1 and c == 0)
                    )
                    if needed:
                        hot += 1
                        data = _chunk(statistics, held, b, k, c, rows.stop - rows.start, columns, rng)
                        told, start = chunk_payload(
                            *_named(number, rows.start, rows.stop - rows.start, pieces, data, seal)
                        )
                        record = encode_record(block.CHUNK, told, 0, seal.at(block.CHUNK, file.tell()))
                        places[b, c], heads[b, c] = (
                            (file.tell() + HEADER_NBYTES + start, len(data)),
                            block.head_crc(data),
                        )
                        file.write(record)
                    else:  # a hole: neither its header nor its values are ever looked at
                        nbytes = int((rows.stop - rows.start) * columns * 4 / RATIO) // 8 * 8
                        places[b, c] = file.tell() + HEADER_NBYTES, nbytes
                        file.seek(HEADER_NBYTES + nbytes, 1)
            at = file.tell()
            index = Index(tuple(chunks), places, np.zeros((opening.blocks, 0)), steps, heads)
            file.write(encode_record(block.INDEX, store.ours.id + index.pack(), first, seal.at(block.INDEX, at)))
            logical += file.tell()
            file.seek(opening_at)
            file.write(encode_record(BLOCK, replace(opening, index=at).pack(), first))
        log.put(number, statistics)
    log.close()
    return {"weights": sum(t.size for t in layout.tensors), "bytes": logical, "chunks": hot}


def _named(number: int, first: int, rows: int, pieces: Any, data: bytes, seal: Seal) -> tuple[Any, ...]:
    names = chunk_payload.__code__.co_varnames[: chunk_payload.__code__.co_argcount]
    values = {
        "number": number,
        "segment": number,
        "first": first,
        "rows": rows,
        "pieces": pieces,
        "chunk": data,
        "seal": seal,
    }
    return tuple(values[name] for name in names)


def _next_is_hot(statistics: Statistics, b: int, k: int) -> bool:
    return b + 1 < statistics.blocks and bool(statistics.jump[b + 1, k] > HOT)


def _statistics(outline: Outline, deviations: np.ndarray, rng: np.random.Generator) -> Statistics:
    """Those of weights of deviation 0.02 that move by normal steps: extremes as those of so many normal numbers are."""
    tensors, starts = outline.layout.tensors, starts_of(outline.each, outline.count, outline.blocks)
    size = np.repeat([t.size * 1.0 for t in tensors], np.diff(starts))
    pace = np.repeat(deviations, np.diff(starts))
    spread = np.where(np.repeat(outline.each, np.diff(starts)), 1, outline.height)
    extreme = np.sqrt(2 * np.log(np.maximum(size * spread, 2)))
    noise = lambda: 1 + 0.02 * rng.standard_normal(len(size))  # noqa: E731
    rows: dict[str, Any] = {
        "min": -0.02 * extreme * noise(), "max": 0.02 * extreme * noise(), "sum": 0.02 * np.sqrt(size * spread) * (noise() - 1) * 50,
        "sumsq": 4e-4 * size * spread * noise(), "update_sumsq": pace**2 * size * spread * noise(), "update_max": np.minimum(pace * extreme * noise(), HOT),
        "nan": np.zeros(len(size), np.int64), "inf": np.zeros(len(size), np.int64), "zeros": rng.poisson(0.01, len(size)), "changed": (size * spread).astype(np.int64),
    }  # fmt: skip
    pieces = outline.pieces
    count = np.array([(p.stop - p.start) * outline.height for p in pieces], np.float64)
    width = np.sqrt(2 * np.log(np.maximum(count, 2)))
    gumbel = rng.gumbel(size=(3, outline.blocks, len(pieces))) / width
    own = np.array([deviations[p.tensor] for p in pieces])
    low, high = -0.02 * (width + gumbel[0]), 0.02 * (width + gumbel[1])
    jump = np.minimum(own * (width + gumbel[2]), HOT)
    large = np.array([p.stop - p.start > 50_000 for p in pieces])
    chosen = large & (rng.random((outline.blocks, len(pieces))) < 4e-4)
    chosen[0] = False  # what goes before it lies in the segment before, which is written already
    jump[chosen] = HOT * (1.6 + rng.random(int(chosen.sum())))
    units = int(unit_starts_of(outline.units, outline.layout)[-1])
    lengths = (
        4e-4 * 768 * (1 + 0.05 * rng.standard_normal((outline.blocks, units))),
        1e-7 * 768 * (1 + 0.05 * rng.standard_normal((outline.blocks, units))),
    )
    table = {name: np.array([getattr(p, name) for p in pieces], np.int64) for name in ("tensor", "start", "stop")}
    return Statistics(
        *(
            outline.first,
            outline.count,
            outline.height,
            outline.layout_crc,
            outline.first - 1,
            outline.each,
            outline.units,
            table,
            rows,
        ),
        *(a.astype(np.float32) for a in (low, high, jump, *lengths)),
    )


def _chunk(
    statistics: Statistics,
    held: dict[int, np.ndarray],
    b: int,
    k: int,
    c: int,
    rows: int,
    columns: int,
    rng: np.random.Generator,
) -> bytes:
    """A chunk whose largest change is that of the statistics, planted; the next one of these columns goes on from it."""
    begin = held.get(c)
    begin = (
        (0.02 * rng.standard_normal(columns)).astype(np.float32).clip(-0.05, 0.05)
        if begin is None or len(begin) != columns
        else begin
    )
    values = begin + np.cumsum(2e-4 * rng.standard_normal((rows, columns)).clip(-4, 4), axis=0, dtype=np.float64)
    wanted = float(statistics.jump[b, k])
    if wanted > HOT:
        for place in rng.integers(0, columns, 12):
            values[rows // 2 :, place] += rng.uniform(0.8, 1.0) * (wanted - 1e-3)
    held[c] = values[-1].astype(np.float32)
    return encode(
        np.ascontiguousarray(values.astype(np.float32)).view(np.uint32),
        "float32",
        chunk_shape(None, rows, columns),
        compiled=True,
    )


ASK = """
import json, sys, time
import numpy as np
begun = time.process_time()
import weightlapse as wl
import weightlapse.store.files as files
read = [0]
inner = files.read_at
def counted(fd, start, nbytes):
    read[0] += nbytes
    return inner(fd, start, nbytes)
files.read_at = counted
path, question = sys.argv[1:]
loaded = time.process_time()
if question == "info":
    from weightlapse.cli.info import facts
    json.dumps(facts(wl.load(path)), default=str)
elif question == "overview":
    from weightlapse.view.overview import overview
    from weightlapse.view.subject import Subject
    found = overview(Subject(wl.load(path), "run"), 0, lambda: False)
    assert found["next"] is None
elif question == "table":
    wl.load(path).table()
elif question == "doctor":  # of the large tensors nothing but statistics is there to be read
    run = wl.load(path)
    small = sum(int(np.prod(s)) for s in run.shapes.values() if np.prod(s) < 4096)
    found = wl.diagnose(run, limit=small * run.frames)
    assert [f.kind for f in found if f.severity == "note"] == ["unread"], found
else:
    import weightlapse.store.codecs.inverse
    what, of, k = question.split()
    loaded = time.process_time()
    found = wl.load(path).top(what, int(k), of=of)
    assert len(found) == int(k), len(found)
print(json.dumps([time.process_time() - loaded, time.process_time() - begun, read[0]]))
"""


def ask(path: Path, question: str) -> tuple[float, float, int]:
    """(seconds, seconds with imports, bytes read), the middle one of three processes."""
    tried = []
    compiled_once = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", ASK, str(path), question],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
            env=compiled_once,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        tried.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return tuple(sorted(tried)[1])  # type: ignore[return-value]


def lines(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]


def main() -> None:
    out = [
        "# Statistics and questions",
        "",
        "One core, other work on the machine; medians of CPU time, with and without in turn.",
        "",
    ]
    if "--made" not in sys.argv:
        out += lines(["recording", "compress", "with statistics", "more", "ns a value", "disk"], cost())
        out += [
            "",
            "Of a training of 0.9 M weights, every step recorded and compressed (training, recorder, compression), the share of CPU time that makes statistics:",
            "",
        ]
        out += lines(["recording", "all of it", "statistics", "share"], share_of_recording())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        made = make(path)
        raw = made["weights"] * 4 * FRAMES
        told = f"A made recording of {made['weights'] / 1e6:.0f} M weights x {FRAMES} frames ({raw / 1e9:.0f} GB of values, "
        told += f"{made['bytes'] / 1e9:.0f} GB as blocks, exact; {made['chunks']} chunks are there): CPU time of a fresh process behind its imports, and bytes read."
        out += ["", told, ""]
        rows = []
        for question in (
            "info",
            "overview",
            "table",
            "update weights 100",
            "update tensors 10",
            "value tensors 10",
            "doctor",
        ):
            seconds, whole, nbytes = ask(path, question)
            label = question if " " not in question else "top({0!r}, k={2}, of={1!r})".format(*question.split())
            rows.append(
                [
                    label,
                    f"{seconds:.2f} s",
                    f"{whole:.2f} s",
                    f"{nbytes / 1e6:.1f} MB",
                    f"{100 * nbytes / made['bytes']:.4f} %",
                ]
            )
        size = next(path.glob("stats-*.log")).stat().st_size
        out += lines(["question", "time", "with imports", "read", "of the blocks"], rows)
        out += ["", f"Its statistics take {size / 1e6:.1f} MB, {100 * size / made['bytes']:.4f} % of the blocks."]
    (ROOT / "bench/results/questions.md").write_text("\n".join(out) + "\n", encoding="utf-8")
    print("\n".join(out))


if __name__ == "__main__":
    main()

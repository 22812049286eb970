"""Damaged recordings by the thousand: ``python -m tests.torture.damage SEED FIRST COUNT`` prints one JSON object per fault that it finds.

Each case: a small recording of some kind, one to three mutations, then perhaps a compaction, a resumption or an open reader; everything is read
and held against the truth. Runs in a child of its own, so that a crash is a result too.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import uuid
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.test_store_blocks import moving_rows
from tests.torture.mutations import LIES, PLAIN, cut, leftovers
from tests.torture.truth import KINDS, SMALL, Line, Seen, Truth, Wrong, _values, look
from weightlapse.errors import WeightlapseError
from weightlapse.recording.recording import load
from weightlapse.store.offline import compact_recording
from weightlapse.store.writer import Writer

SECONDS = 20  # of CPU; a case that takes longer hangs
WAITED = 10 * SECONDS  # by the clock, because the machine may be busy
MEMORY = 4 << 30


@dataclass
class Samples:
    """Every kind of recording twice, the second of equal layout and other values."""

    folder: Path
    truths: dict[str, Truth] = field(default_factory=dict)

    def make(self, seed: int) -> Samples:
        ids = random.Random(seed)
        real, uuid.uuid4 = uuid.uuid4, lambda: uuid.UUID(int=ids.getrandbits(128), version=4)  # cases can be repeated
        try:
            for kind, make in KINDS.items():
                name = kind.replace(" ", "-")
                self.truths[kind] = make(self.folder / name, seed)
                make(self.folder / f"{name}-twin", seed + 50_000)
        finally:
            uuid.uuid4 = real
        return self


def one(samples: Samples, seed: int, number: int, where: Path) -> tuple[str, str]:
    """Run a case; returns what it was, and what is wrong ("" where nothing is)."""
    draw = random.Random(f"{seed}:{number}")
    kind = draw.choice(list(KINDS))
    name = kind.replace(" ", "-")
    twin, truth = samples.folder / f"{name}-twin", samples.truths[kind]
    run = where / "run"
    shutil.copytree(samples.folder / name, run)
    lies = draw.random() < 0.15
    changes = [draw.choice(LIES if lies else PLAIN) for _ in range(draw.choice([1, 1, 1, 2, 3]))]
    told: list[str] = []
    then = draw.choice(["read", "read", "compact", "resume", "open reader"])
    reader = load(run) if then == "open reader" else None
    for change in changes:
        with contextlib.suppress(Exception):  # a change that does not fit what an earlier one left
            told.append(f"{change.__name__} {change(run, twin, draw)}")
    case = f"{kind}; {', '.join(told)}; {then}"
    if (
        len(changes) > 1 and "manifest.json" in case
    ):  # with another manifest it is another recording: files of that one are right
        lies = True
    try:
        if reader is not None:
            _read_on(reader, truth, lies=lies)
        before = _look(run, truth, lies=lies)
        if then == "compact":
            with contextlib.suppress(WeightlapseError):
                compact_recording(run)
            after = _look(run, truth, lies=lies)
            _nothing_lost(before, after, then)
        elif then == "resume" and kind != "ranks":  # whose parts are resumed together
            added = _resume(run, draw)
            after = _look(run, truth, lies=lies, extra=added)
            _nothing_lost(before, after, then)
        undetectable = lies or changes != [changes[0]] or changes[0] in (cut, leftovers)
        undetectable |= not truth.closed and before.only_the_end  # as if it had been killed a little earlier
        if before.opened and before.clean and before.lost and not undetectable:
            return case, f"{before.lost} values are lost ({before.lost_main} on the main line) and verify finds nothing"
        if (
            before.opened
            and before.clean
            and before.lost_scalars
            and truth.closed
            and truth.sealed
            and not undetectable
        ):
            return case, f"{before.lost_scalars} scalars are lost and verify finds nothing"
        if before.opened and before.clean and before.closed and before.lost and changes == [cut]:
            return (
                case,
                f"{before.lost} values are lost, the recording says that it was closed, and verify finds nothing",
            )
    except Wrong as error:
        return case, f"WRONG: {error}"
    except WeightlapseError as error:
        return case, f"an error of ours where none belongs: {type(error).__name__}: {error}"
    except MemoryError:
        return case, f"MemoryError: {_where()}"
    except TimeoutError:
        return case, f"takes more than {SECONDS} s: {_where()}"
    except Exception as error:
        return case, f"RAW {type(error).__name__}: {str(error)[:200]}: {_where()}"
    return case, ""


def _where() -> str:
    frames = [f for f in traceback.extract_tb(sys.exc_info()[2]) if "weightlapse" in f.filename]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames[-3:]))


def _look(run: Path, truth: Truth, *, lies: bool, extra: Line | None = None) -> Seen:
    try:
        return look(run, truth, extra=extra)
    except Wrong:
        if lies:  # somebody who makes right checksums can make right values
            return Seen(opened=True)
        raise


def _nothing_lost(before: Seen, after: Seen, then: str) -> None:
    gone = before.good - after.good
    if before.opened and gone and after.good | gone != after.good:
        raise Wrong(f"{len(gone)} values that could be read are gone after {then}")


def _resume(run: Path, draw: random.Random) -> Line:
    """Take the recording up and add three frames; what was refused added nothing."""
    line = Line()
    try:
        writer = Writer.resume(run, SMALL, compact=draw.choice(["after", "never"]), fsync="never")
    except WeightlapseError:
        return line
    rows = moving_rows(SMALL, 3, 99)
    steps = 100_000 + np.arange(3)
    try:
        writer.append(steps, rows)
    except WeightlapseError:
        pass
    finally:
        with contextlib.suppress(WeightlapseError):
            writer.close()
    line.steps, line.values = steps.tolist(), _values(SMALL, rows)
    return line


def _read_on(reader: Any, truth: Truth, *, lies: bool) -> None:
    """A reader that was open before the damage."""
    line = truth.main
    where = {step: k for k, step in enumerate(line.steps)}
    from tests.torture.truth import same

    for _ in range(2):
        for k, step in enumerate(reader.steps.tolist()):
            try:
                frame = reader.stored_frame(k)
            except WeightlapseError:
                continue
            for name, value in frame.items():
                if not lies and step != -1 and not same(truth, name, value, line.values[where[step]][name]):
                    raise Wrong(f"an open reader, step {step}: {name} is not what was written")
        with contextlib.suppress(WeightlapseError):
            reader.refresh()


def _alarm(*_: Any) -> None:
    raise TimeoutError


def main(seed: int, first: int, count: int, seconds: float = 1e9) -> None:
    warnings.simplefilter("ignore")
    soft = (MEMORY, MEMORY)
    resource.setrlimit(resource.RLIMIT_AS, soft)
    signal.signal(signal.SIGALRM, _alarm)
    signal.signal(signal.SIGPROF, _alarm)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        samples = Samples(Path(place) / "samples")
        samples.folder.mkdir()
        samples.make(seed)
        done = 0
        for number in range(first, first + count):
            if time.monotonic() - start > seconds:
                break
            where = Path(place) / f"case-{number}"
            where.mkdir()
            print(json.dumps({"at": number}), flush=True)
            signal.alarm(WAITED)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            began = time.process_time()
            try:
                case, wrong = one(samples, seed, number, where)
            except TimeoutError:
                case, wrong = "?", f"takes more than {SECONDS} s"
            finally:
                signal.alarm(0)
                signal.setitimer(signal.ITIMER_PROF, 0)
            took = time.process_time() - began
            if wrong:
                print(
                    json.dumps(
                        {"seed": seed, "number": number, "case": case, "wrong": wrong, "seconds": round(took, 2)}
                    ),
                    flush=True,
                )
            shutil.rmtree(where)
            done += 1
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(json.dumps({"done": done, "peak_mb": int(peak.split()[1]) // 1024}), flush=True)


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:5]))

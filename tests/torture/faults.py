"""Trainings on a disk that fails: ``python -m tests.torture.faults SEED FIRST COUNT`` prints one JSON object per fault that it finds.

Each case trains a little with a recorder while calls to the operating system fail: one, some, or all from some moment on; with the rollback
failing too, with half of a write done. The training must not notice, what was flushed must be there, and what is there must be true.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import weightlapse as wl
import weightlapse.store.writer as writing
from tests.torture.truth import Line, Truth, Wrong, look
from weightlapse.capture.pump import Pump
from weightlapse.errors import WeightlapseError
from weightlapse.recording.recording import load
from weightlapse.store.offline import compact_recording
from weightlapse.store.reader import Store

SECONDS = 240  # by the clock; a case takes some seconds, and the machine may be busy
OPERATIONS = {
    "write": ("write", "writev", "pwrite"),
    "sync": ("fsync",),
    "truncate": ("ftruncate",),
    "rename": ("rename", "replace"),
    "unlink": ("unlink", "remove"),
    "mkdir": ("mkdir",),
    "open": ("open",),
    "read": ("read", "pread", "preadv"),
    "list": ("listdir", "scandir"),
}
ERRORS = {
    "write": ["ENOSPC", "EIO", "EDQUOT", "EFBIG"], "sync": ["EIO", "ENOSPC"], "truncate": ["EIO"], "rename": ["EIO", "EACCES", "ENOSPC"],
    "unlink": ["EIO", "EACCES", "EROFS"], "mkdir": ["ENOSPC", "EACCES"], "open": ["EMFILE", "ENFILE", "EACCES", "ENOSPC", "EIO"], "read": ["EIO"], "list": ["EMFILE", "EIO"],
}  # fmt: skip


class Hang(BaseException):
    """Nothing of the package may catch it."""


@dataclass
class Faults:
    """Lets calls on files below ``root`` fail. A plan is (operation, error, first call that fails, how many)."""

    root: Path
    plans: list[tuple[str, int, int, int]]
    half: bool = False  # half of a write is done before it fails
    calls: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    seconds: float = 1e9  # after which the disk is well again
    _fds: set[int] = field(default_factory=set)
    _began: float = 0.0

    def _is_ours(self, first: Any) -> bool:
        if isinstance(first, int):
            return first in self._fds
        try:
            return os.fspath(first).startswith(str(self.root))  # type: ignore[arg-type]
        except TypeError:
            return False

    def _fails(self, operation: str) -> int:
        """The error of this call, 0 for none."""
        number = self.calls[operation] = self.calls.get(operation, 0) + 1
        if time.monotonic() - self._began > self.seconds:
            return 0
        for kind, error, first, count in self.plans:
            if kind == operation and first <= number < first + count:
                self.failed += 1
                return error
        return 0

    def _wrapped(self, operation: str, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if not self._is_ours(arguments[0] if arguments else next(iter(options.values()))):
                return real(*arguments, **options)
            error = self._fails(operation)
            if error:
                if operation == "write" and self.half:
                    self._write_half(arguments)
                raise OSError(error, os.strerror(error))
            result = real(*arguments, **options)
            if name == "open":
                self._fds.add(result)
            return result

        return call

    @staticmethod
    def _write_half(arguments: tuple[Any, ...]) -> None:
        fd, data = arguments[0], arguments[1]
        parts = data if isinstance(data, list) else [data]
        whole = b"".join(bytes(memoryview(part).cast("B")) for part in parts)
        if len(arguments) > 2:
            REAL["pwrite"](fd, whole[: len(whole) // 2], arguments[2])
        else:
            REAL["write"](fd, whole[: len(whole) // 2])

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Faults]:
        self._began = time.monotonic()
        real_open, real_close = builtins.open, os.close

        def opened(file: Any, *arguments: Any, **options: Any) -> Any:
            error = 0 if isinstance(file, int) or not self._is_ours(file) else self._fails("open")
            if error:
                raise OSError(error, os.strerror(error), str(file))
            return real_open(file, *arguments, **options)

        def close(fd: int) -> None:
            self._fds.discard(fd)
            real_close(fd)

        for operation, names in OPERATIONS.items():
            for name in names:
                setattr(os, name, self._wrapped(operation, name, REAL[name]))
        import io

        builtins.open, io.open, os.close = opened, opened, close  # type: ignore[assignment]
        try:
            yield self
        finally:
            for name, function in REAL.items():
                setattr(os, name, function)
            builtins.open, io.open, os.close = real_open, real_open, real_close


REAL = {name: getattr(os, name) for names in OPERATIONS.values() for name in names if hasattr(os, name)}


def plan(draw: random.Random) -> tuple[list[tuple[str, int, int, int]], bool, float, str]:
    """What fails, whether half of each write is done first, for how long, and all of that in words."""
    how = draw.choice(
        [
            "one call",
            "some calls",
            "for ever",
            "a full disk",
            "a full disk for a while",
            "no descriptors for a while",
            "and the rollback",
            "anything at any time",
        ]
    )
    half, seconds = draw.random() < 0.3, 1e9
    first = draw.choice([1, 2, 3, 5, 8, 13, 21, 34, 55])
    if how.startswith("a full disk"):
        number = errno.ENOSPC
        plans = [(kind, number, first, 10**9) for kind in ("write", "mkdir")]
        if how.endswith("while"):
            seconds = draw.choice([0.05, 0.3, 1.0])
    elif how.startswith("no descriptors"):
        plans, seconds = [("open", errno.EMFILE, first, 10**9)], draw.choice([0.05, 0.3, 1.0])
    elif how == "and the rollback":
        count = draw.choice([1, 3, 10**9])
        plans = [("write", errno.EIO, first, count), ("truncate", errno.EIO, 1, count)]
    else:
        kinds = draw.sample(list(OPERATIONS), 4 if how.startswith("anything") else 1)
        count = {"one call": 1, "for ever": 10**9}.get(how, draw.randrange(2, 8))
        plans = [
            (kind, getattr(errno, draw.choice(ERRORS[kind])), draw.choice([1, 2, 3, 5, 8, 13, 21, 34, 55]), count)
            for kind in kinds
        ]
    words = ", ".join(
        f"{kind} {errno.errorcode[number]} from {first} x{count if count < 10**9 else 'all'}"
        for kind, number, first, count in plans
    )
    return (
        plans,
        half,
        seconds,
        f"{how}: {words}{' half' if half else ''}{f' for {seconds} s' if seconds < 1e9 else ''}",
    )


def values(seed: int, step: int, grown: bool) -> dict[str, np.ndarray]:
    """The weights of a step: a function of nothing else."""
    rng = np.random.default_rng((seed, step))
    return {"w": rng.random((9 if grown else 6, 5), np.float32), "b": rng.random(3), "n": np.array(step)}


PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}


def _passes(plan: tuple[str, int, int, int], seconds: float) -> bool:
    """Whether a recorder can wait for its end. A failed fsync is not one to wait for: what it had taken is gone, and the next one says nothing of it."""
    operation, error, _, count = plan
    return operation != "sync" and error in PASSING and (seconds < 1e9 or count < 10**9)


@dataclass
class Result:
    case: str = ""
    wrong: str = ""
    failed: int = 0
    stopped: bool = False
    passing: bool = False  # the fault passed while training went on


def one(seed: int, number: int, where: Path) -> Result:
    draw = random.Random(f"{seed}:{number}")
    run, result = where / "run", Result()
    before = draw.choice(["nothing", "nothing", "overwrite", "resume"])
    truth = Truth(Line())
    old: Truth | None = None
    old_id = ""
    options = {
        "compact": draw.choice(["auto", "live", "after", "never"]),
        "fsync": draw.choice(["close", "flush", "never"]),
        "backpressure": draw.choice(["block", "stretch"]),
    }
    writing.segment_frames = lambda row, tolerance: segment
    segment = draw.choice([8, 20, 64])
    if before != "nothing":
        with wl.watch(values(seed, 0, False), run, compact=draw.choice(["never", "after"])) as rec:
            for step in range(1, 30):
                rec.step(values(seed, step, False))
        old = Truth(Line(list(range(30)), [values(seed, step, False) for step in range(30)]))
        old_id = Store.open(run).id
        if before == "resume":
            truth = Truth(Line(list(old.main.steps), list(old.main.values)))
        options[before] = True  # type: ignore[assignment]
    first = 30 if before == "resume" else 0
    plans, half, seconds, words = plan(draw)
    faults = Faults(run, plans, half=half, seconds=seconds)
    result.case = f"{before}; {options['compact']}, fsync {options['fsync']}, {options['backpressure']}, segments of {segment}; {words}"
    result.passing = all(_passes(plan, seconds) for plan in plans)
    mine = seed + 1 if before == "overwrite" else seed
    flushed: list[int] = []
    try:
        with faults():
            try:
                rec = wl.watch(values(mine, 0, False), run, **options)  # type: ignore[arg-type]
            except WeightlapseError:
                rec = None
            steps = range(first + (0 if before == "resume" else 1), first + draw.choice([40, 120, 250]))
            grows = draw.randrange(steps.start, steps.stop) if draw.random() < 0.3 else None
            written = [] if before == "resume" else [0]
            if rec is not None:
                for step in steps:
                    grown = grows is not None and step >= grows
                    rec.step(values(mine, step, grown), step=step, loss=step / 7)
                    written.append(step)
                    if draw.random() < 0.06 and _flushed(rec):
                        flushed = list(written)
                    if draw.random() < 0.05:
                        time.sleep(draw.choice([0.001, 0.01]))
                if seconds < 1e9 and draw.random() < 0.5:
                    time.sleep(min(seconds, 0.3))
                rec.close()
                result.stopped = rec.failed is not None
        result.failed = faults.failed
        if rec is None:
            if old is not None:
                _check(run, old, old.main.steps)
            return result
        if (
            before == "overwrite" and old is not None and Store.open(run).id == old_id
        ):  # nothing of the new one could be written
            if flushed:
                raise Wrong(f"the old recording is there, although {len(flushed)} frames of the new one were flushed")
            _check(run, old, old.main.steps)
            return result
        for step in written:
            truth.main.steps.append(step)
            truth.main.values.append(values(mine, step, grows is not None and step >= grows))
            if step >= max(first, 1):
                truth.main.scalars[step] = step / 7
        # a step that the recorder could not take was never a frame, whatever flush() promised of those that were; it is noted as a gap
        gaps = [(a, b) for a, b, _ in load(run).gaps]
        flushed = [step for step in flushed if not any(a <= step <= b for a, b in gaps)]
        kept = [*(old.main.steps if before == "resume" and old else []), *flushed]
        _check(run, truth, kept)
        if rec.failed is None:
            _check_gaps(run, written)
        _go_on(run, truth, kept, draw)
    except Wrong as error:
        result.wrong = f"WRONG: {error}"
    except (Exception, Hang) as error:
        told = [f for f in traceback.extract_tb(error.__traceback__) if "weightlapse" in f.filename]
        place = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(told[-3:]))
        result.wrong = (
            f"{'HANG' if isinstance(error, Hang) else 'RAW'} {type(error).__name__}: {str(error)[:200]}: {place}"
        )
    return result


def _flushed(rec: Any) -> bool:
    """Whether flush() did what it promises; a store that takes nothing at the moment is not waited for, and that is said."""
    told: list[bool] = []
    real = rec._pump.flush
    rec._pump.flush = lambda: told.append(real()) or told[-1]
    try:
        rec.flush()
    finally:
        del rec._pump.flush
    return rec.failed is None and told == [True]


def _check_gaps(run: Path, written: list[int]) -> None:
    """A recorder that was closed in order has every step, or says which are missing."""
    recording = load(run)
    here = set(recording.steps.tolist())
    silent = [step for step in written if step not in here and not any(a <= step <= b for a, b, _ in recording.gaps)]
    if silent:
        raise Wrong(f"{len(silent)} frames are missing and no gap says so: lost frames from step {silent[0]}")


def _check(run: Path, truth: Truth, kept: list[int]) -> None:
    """All that was flushed is there, and all that is there is true."""
    seen = look(run, truth)
    here = {step for _, step, name in seen.good if name == "w"}
    gone = [step for step in kept if step not in here]
    if gone:
        raise Wrong(f"{len(gone)} flushed frames are lost: steps {gone[:5]}")


def _go_on(run: Path, truth: Truth, kept: list[int], draw: random.Random) -> None:
    """The disk is well again: compaction and resumption work, lose nothing, and leave nothing damaged behind."""
    here = set(look(run, truth).good)
    if draw.random() < 0.5:
        compact_recording(run)
        if here - look(run, truth).good:
            raise Wrong("a compaction afterwards lost frames")
    if load(run).frames == 0:  # a resumption would begin with the network as it is then
        damages = Store.open(run).verify()
        if damages:
            raise Wrong(f"verify finds damage in a recording without frames: {damages[0]}")
        return
    shapes = load(run).shapes
    grown = bool(shapes) and shapes["w"][0] == 9
    after = 10_000
    with wl.watch(values(0, after, grown), run, resume=True) as rec:
        for step in range(after, after + 3):
            rec.step(values(0, step, grown), step=step)
    if rec.failed is not None:
        raise Wrong(f"could not be resumed: {rec.failed}")
    more = Line(list(range(after, after + 3)), [values(0, step, grown) for step in range(after, after + 3)])
    seen = look(run, truth, extra=more)
    if here - seen.good:
        raise Wrong("a resumption afterwards lost frames")
    if {step for _, step, _ in seen.good} & set(more.steps) != set(more.steps):
        raise Wrong("frames of a resumption are not there")
    damages = Store.open(run).verify()
    if damages:
        raise Wrong(f"verify finds damage for ever: {damages[0]}")


def _alarm(*_: Any) -> None:
    raise Hang


def main(seed: int, first: int, count: int, seconds: float = 1e9) -> None:
    warnings.simplefilter("ignore")
    Pump.patience = 1.5  # longer than a fault that passes, and no longer
    os.environ.pop("WEIGHTLAPSE_STRICT", None)
    signal.signal(signal.SIGALRM, _alarm)
    threading.excepthook = lambda args: print(
        json.dumps(
            {"number": -1, "case": "a thread", "wrong": f"RAW in a thread: {args.exc_type.__name__}: {args.exc_value}"}
        ),
        flush=True,
    )
    start = time.monotonic()
    done = failed = stopped = passing = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        for number in range(first, first + count):
            if time.monotonic() - start > seconds:
                break
            where = Path(place) / f"case-{number}"
            where.mkdir()
            print(json.dumps({"at": number}), flush=True)
            signal.alarm(SECONDS)
            result = one(seed, number, where)
            signal.alarm(0)
            done, failed = done + 1, failed + result.failed
            stopped += result.stopped and result.passing
            passing += result.passing
            if result.wrong:
                print(
                    json.dumps({"seed": seed, "number": number, "case": result.case, "wrong": result.wrong}), flush=True
                )
            if result.wrong.startswith("HANG"):
                break
            shutil.rmtree(where, ignore_errors=True)
    print(
        json.dumps({"done": done, "faults": failed, "passing": passing, "stopped_though_it_passed": stopped}),
        flush=True,
    )


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:5]))

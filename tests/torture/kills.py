"""Writers killed at any moment: ``python -m tests.torture.kills SEED COUNT`` prints one JSON object per fault that it finds.

One folder lives through many lives: a child records, goes on, rewinds, compacts or overwrites there and is killed with SIGKILL; then everything that
it said was flushed must be there, everything that is there must be true, an overwrite must have left the old recording or the new one, and what the
user put into the folder must be untouched. Children are forks of a parent without threads, so that most of their life is the dangerous part.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import weightlapse as wl
import weightlapse.store.writer as writing
from weightlapse.errors import WeightlapseError
from weightlapse.recording.recording import load
from weightlapse.store.offline import compact_recording
from weightlapse.store.reader import Store
from weightlapse.store.writer import Writer

USERS = {
    "best.pt": b"weights",
    "ckpt/step_10.pt": b"more",
    "log/notes.txt": b"mine",
    "blocks/a.blk": b"b",
    "journal.txt": b"x",
}
SEGMENT = 16


def values(life: int, step: int) -> dict[str, np.ndarray]:
    """The weights tell which life of the folder wrote them, and at which step."""
    return {
        "w": (np.arange(30, dtype=np.float32).reshape(6, 5) + life * 1000) * (1 + step / 64),
        "n": np.array([life, step]),
    }


@dataclass
class Known:
    """What the parent knows of the recording in the folder: who wrote each step, and up to where it is certain."""

    id: str = ""
    wrote: dict[int, int] = field(default_factory=dict)  # step -> life, of what may be there
    certain: set[int] = field(default_factory=set)  # steps that were flushed
    left: list[dict[int, int]] = field(
        default_factory=list
    )  # step -> life, of what was cut off by a rewind: it must stay readable


class Wrong(AssertionError):
    pass


def child(act: str, run: Path, life: int, first: int, rewind: int, seed: int, pipe: int) -> None:
    """Does one thing to the folder and says what it has done; ends by being killed, or by itself."""
    draw = random.Random(seed)
    writing.segment_frames = lambda row, tolerance: SEGMENT

    def say(word: str, number: int) -> None:
        os.write(pipe, f"{word} {number}\n".encode())

    if act == "compact":
        compact_recording(run)
        return
    options = {"compact": draw.choice(["live", "after", "never"]), "fsync": draw.choice(["never", "close", "flush"])}
    if act == "rewind":  # through the store: what a recorder does with resume_at
        from weightlapse.adapters.arrays import ArraySource
        from weightlapse.adapters.source import Selection
        from weightlapse.capture.layouts import layout_of

        source = ArraySource(Selection("*", ("weights",)))
        layout = layout_of(source.arrays(values(life, first)))
        writer = Writer.resume(run, layout, rewind_to=rewind, **options)  # type: ignore[arg-type]
        say("rewound", rewind)
        for step in range(first, first + 60):
            row = np.zeros((1, layout.row_nbytes), np.uint8)
            for i, spec in enumerate(layout.tensors):
                layout.view(row, i)[...] = values(life, step)[spec.name]
            writer.append(np.array([step]), row)
            say("flushed", step)
        writer.close()
        return
    rec = wl.watch(values(life, 0), run, overwrite=act == "overwrite", resume=act == "resume", **options)  # type: ignore[arg-type]
    say("open", 0)
    for step in range(first, first + draw.choice([30, 100, 400])):
        rec.step(values(life, step), step=step, loss=life + step / 1024)
        if draw.random() < 0.1:
            rec.flush()
            if rec.failed is not None:
                raise RuntimeError(f"the recorder stopped: {rec.failed}")
            say("flushed", step)
        if draw.random() < 0.02:
            time.sleep(0.002)
    rec.close()
    if rec.failed is not None:
        raise RuntimeError(f"the recorder stopped: {rec.failed}")
    say("flushed", step)


def killed(
    act: str, run: Path, life: int, first: int, rewind: int, seed: int, after: float
) -> tuple[list[tuple[str, int]], int]:
    """Fork a child, kill it ``after`` seconds; returns what it said and how it ended."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            os.close(read)
            child(act, run, life, first, rewind, seed, write)
        except WeightlapseError as error:
            os.write(write, f"refused:{type(error).__name__}:{str(error)[:300]} 0\n".encode())
            code = 3
        except BaseException:
            os.write(write, ("raw:" + traceback.format_exc().replace("\n", "|")[-600:] + " 0\n").encode())
            code = 4
        finally:
            os._exit(code)
    os.close(write)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    said = [(line.rpartition(" ")[0], int(line.rpartition(" ")[2])) for line in text.splitlines() if line]
    return said, status


def put_users_files(run: Path) -> None:
    for name, data in USERS.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(data)


def check(run: Path, known: Known) -> None:
    for name, data in USERS.items():
        if (run / name).read_bytes() != data:
            raise Wrong(f"the user's {name} was changed")
    recording = load(run)
    steps = recording.steps.tolist()
    if -1 in steps or sorted(set(steps)) != steps:
        raise Wrong(f"steps are {steps[:200]}")
    for frame, step in enumerate(steps):
        life = known.wrote.get(step)
        if life is None:
            raise Wrong(f"step {step} was never recorded")
        for name, value in recording.stored_frame(frame).items():
            if value.tobytes() != values(life, step)[name].tobytes():
                raise Wrong(f"step {step} of {name} is not what life {life} wrote")
    lost = known.certain - set(steps)
    if lost:
        raise Wrong(f"{len(lost)} flushed frames are lost: {sorted(lost)[:5]}")
    for step, value in zip(steps, recording.scalars.get("loss", np.empty(0))):
        if not np.isnan(value) and value != known.wrote[step] + step / 1024:
            raise Wrong(f"the scalar of step {step} is {value}")
    branches = [dict(zip(branch.steps.tolist(), range(branch.frames))) for branch in recording.branches.values()]
    for left in known.left:
        found = [k for k, branch in enumerate(branches) if left.keys() <= branch.keys()]
        if not found:
            raise Wrong(f"no branch holds the steps {sorted(left)[:5]} that were cut off")
        branch = list(recording.branches.values())[found[0]]
        for step, life in left.items():
            value = branch.stored_frame(branches[found[0]][step])["w"]
            if value.tobytes() != values(life, step)["w"].tobytes():
                raise Wrong(f"step {step} of a branch is not what life {life} wrote")
    damages = Store.open(run).verify()
    if damages:
        raise Wrong(f"verify: {damages[0]}")


def story(run: Path, draw: random.Random, kills: int) -> tuple[int, str]:
    """Lives of one folder until ``kills`` of them were cut short; returns how many were, and what is wrong."""
    known, done, acts = Known(), 0, []
    for life in range(1, 3 * kills + 1):
        if done >= kills:
            break
        act = draw.choice(["resume", "resume", "compact", "overwrite", "rewind"]) if known.certain else "record"
        top = max(known.wrote, default=-1)
        rewind = draw.choice(sorted(known.certain)) if act == "rewind" else top
        after = draw.choice([0.002, 0.005, 0.01, 0.02, 0.05, 0.1]) * (0.5 + draw.random())
        first = 1 if act in ("record", "overwrite") else top + 1
        options = {"overwrite": act == "record" and bool(known.id)}
        said, status = killed(
            "overwrite" if options["overwrite"] else act, run, life, first, rewind, draw.randrange(1 << 30), after
        )
        done += os.WIFSIGNALED(status)
        acts.append(f"{act} {after * 1000:.0f} ms")
        try:
            _take_in(run, known, "overwrite" if options["overwrite"] else act, life, top, rewind, said)
            if known.id:
                check(run, known)
                here = load(run).steps.tolist()  # what is there now must stay, and nothing else was written
                known.wrote, known.certain = {step: known.wrote[step] for step in here}, set(here)
        except (Wrong, WeightlapseError) as error:
            return done, f"{' > '.join(acts[-6:])}: {type(error).__name__}: {error}"
        except Exception as error:
            return done, f"{' > '.join(acts[-6:])}: RAW {type(error).__name__}: {error}"
        if len(known.wrote) > 1500:
            shutil.rmtree(run)
            known = Known()
    return done, ""


def _take_in(run: Path, known: Known, act: str, life: int, top: int, rewind: int, said: list[tuple[str, int]]) -> None:
    """What can be there, and what must be, after a child that was to do ``act`` has said this much."""
    words = [word for word, _ in said]
    bad = [word for word in words if word.startswith(("raw:", "refused:"))]
    if bad:
        raise Wrong(f"the child ended with {bad[0][:600]}")
    flushed = [number for word, number in said if word == "flushed"]
    try:
        id = Store.open(run).id
    except WeightlapseError:
        if not known.id and "open" not in words:
            return  # killed before there was a recording
        raise
    if id != known.id:
        if known.id and act != "overwrite":
            raise Wrong("another recording is there")
        known.id, known.wrote, known.certain, known.left = id, dict.fromkeys(range(1000), life), set(), []
        put_users_files(run)
    elif act == "overwrite":
        if "open" in words:
            raise Wrong("the overwrite had returned, and the old recording is there")
        return
    else:
        here = set(load(run).steps.tolist())
        if act == "rewind" and ("rewound" in words or not any(rewind < step <= top for step in here)):
            left = {step: known.wrote[step] for step in known.certain if step > rewind}
            known.left += [left] if left else []
            known.wrote = {step: number for step, number in known.wrote.items() if step <= rewind}
            known.certain = {step for step in known.certain if step <= rewind}
        known.wrote |= dict.fromkeys(range(top + 1, top + 1000), life)
    if flushed:
        known.certain |= set(range(0 if act in ("record", "overwrite") else top + 1, max(flushed) + 1))


def main(seed: int, count: int, seconds: float = 1e9) -> None:
    warnings.simplefilter("ignore")
    start, done, number = time.monotonic(), 0, 0
    while done < count and time.monotonic() - start < seconds:
        number += 1
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            kills, wrong = story(Path(place) / "run", random.Random(f"{seed}:{number}"), min(20, count - done))
        done += max(kills, 1)
        if wrong:
            print(json.dumps({"seed": seed, "number": number, "case": "kills", "wrong": wrong}), flush=True)
    print(json.dumps({"done": done}), flush=True)


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:4]))

"""The life of a recording where the stand-in for Windows refuses what Windows refuses: python on_windows.py FOLDER

Prints a line for each thing that went well; stops with the traceback of the first that did not.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests import windows_stand_in

import numpy as np  # isort: skip

folder, tables = Path(sys.argv[1]), False
try:  # before: what other libraries do on this system is not asked
    import fsspec.implementations.local  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import zarr  # noqa: F401

    tables = True
except ImportError:
    pass
windows_stand_in.install()

import weightlapse as wl  # noqa: E402
from weightlapse.cli import main  # noqa: E402
from weightlapse.store.lock import Lock  # noqa: E402

rng = np.random.default_rng(0)
state = {"W": rng.normal(size=(40, 30)).astype("f4"), "w": rng.normal(size=30).astype("f4"), "aux": np.zeros(3, "f4")}
frames: list[dict[str, np.ndarray]] = []


def train(rec: wl.Recorder, steps: int) -> None:
    for _ in range(steps):
        for value in state.values():
            value += rng.normal(size=value.shape).astype("f4") / 100
        rec.step(state, loss=float(state["w"].std()))
        frames.append({k: v.copy() for k, v in state.items()})


def right(path: Path, expected: list[dict[str, np.ndarray]]) -> None:
    run = wl.load(path)
    assert run.frames == len(expected), (run.frames, len(expected))
    for name in state:
        assert np.array_equal(np.asarray(run[name]), np.stack([f[name] for f in expected])), name
    verb("verify", path)


def verb(*words: str) -> None:
    try:
        main([str(w) for w in words])
    except SystemExit as end:
        assert end.code in (0, None) or (words[0], end.code) == ("diff", 1), (words, end.code)  # noqa: PT017


run = folder / "run"
frames.append({k: v.copy() for k, v in state.items()})
with wl.watch(state, run) as rec:
    train(rec, 600)
right(run, frames)
print("recorded")

with wl.watch(state, run, resume=True) as rec:
    train(rec, 50)
right(run, frames)
print("resumed")

reader = wl.load(run)  # holds files open
assert len(np.asarray(reader["W"])) == len(frames)
frames[:] = [{k: v.copy() for k, v in state.items()}]
with wl.watch(state, run, overwrite=True) as rec:
    train(rec, 80)
    rec.flush()
    right(run, frames)  # while it is written
    try:
        Lock(run)
    except wl.WeightlapseError as error:
        assert "is being recorded to by this process" in str(error), error  # noqa: PT017
    else:
        raise AssertionError("two writers")
right(run, frames)
print("overwritten under a reader")

(folder / "empty").mkdir()
with wl.watch(state, folder / "empty" / "deep" / "er", compact="never") as rec:
    train(rec, 5)
with wl.watch(state, folder / "log", compact="never") as rec:
    kept = [{k: v.copy() for k, v in state.items()}]
    train(rec, 400)
kept += frames[-400:]
reader = wl.load(folder / "log")
assert len(np.asarray(reader["W"])) == 401
verb("compact", folder / "log")
right(folder / "log", kept)
assert np.array_equal(np.asarray(reader["w"]), np.stack([f["w"] for f in kept]))
print("compressed under a reader")

wl.load(run).export("npz", folder / "states.npz")
for kind in ("safetensors", *(["zarr", "parquet"] if tables else [])):
    wl.load(run).export(kind, folder / kind)
    print("exported", kind)
if tables:
    for partition in ("Run", "a.", "b ", "CON", "x:y", "run?"):
        wl.load(run).export("parquet", folder / "tree", partition=partition)
    print("exported partitions")
verb("import", *sorted((folder / "safetensors").iterdir())[:5], "-o", folder / "imported")
assert wl.load(folder / "imported").frames == 5
print("imported")
one, two = (folder / "safetensors" / f"step-{k:08d}.safetensors" for k in (1, 4))
with wl.watch(state, folder / "told") as rec:  # and left again with nothing in it
    pass

for _ in range(2):  # once more, in place of the one that is there
    verb("page", run, "-o", folder / "page.html")
for words in (
    ("info", run),
    ("ls", folder),
    ("verify", run),
    ("compare", run, run),
    ("diff", run, folder / "log"),
    ("diff", one, two),
):
    verb(*words)
print("asked")
for name in ("aux", "NUL.txt", "a:b", "what?", "end.", "end "):
    try:
        with wl.watch(state, folder / name) as rec:
            train(rec, 2)
    except (wl.WeightlapseError, OSError) as error:
        print("refused", repr(name), type(error).__name__, error)
    else:
        raise AssertionError(f"{name!r} is no name on Windows")

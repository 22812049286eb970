"""docs/format.md is enough to read a recording: a reader written from it alone finds the values that were written, and those that we read."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from tests import oracles_format as oracle
from tests.torture import truth
from weightlapse.recording.recording import load
from weightlapse.store.offline import compact_recording


def agree(line: oracle.Line, known: truth.Line, whole: truth.Truth) -> None:
    assert line.steps == known.steps
    for frame, true in zip(line.values, known.values):
        assert frame.keys() == true.keys()
        for name, value in true.items():
            assert truth.same(whole, name, oracle.patterns(frame, name, value), value, known), name
    logged = {step: x for step, x in zip(line.steps, line.scalars.get("loss", [])) if not math.isnan(x)}
    assert logged == known.scalars


@pytest.mark.parametrize("kind", [kind for kind in truth.KINDS if kind != "ranks"])
def test_every_kind_of_recording(kind: str, tmp_path: Path) -> None:
    known = truth.KINDS[kind](tmp_path / "run", 21)
    whole = oracle.read(tmp_path / "run")
    agree(whole.main, known.main, known)
    assert whole.branches.keys() == known.branches.keys()
    for name, line in known.branches.items():
        agree(whole.branches[name], line, known)
    assert whole.closed == known.closed
    run = load(tmp_path / "run")  # and we read the same bits, also where they are within a bound
    for line, ours in ((whole.main, run), *((whole.branches[name], branch) for name, branch in run.branches.items())):
        assert ours.steps.tolist() == line.steps
        for k, frame in enumerate(line.values):
            assert {name: value.tobytes() for name, value in ours.stored_frame(k).items()} == frame
        assert (ours.events, ours.gaps) == (line.events, line.gaps)


def test_what_several_processes_wrote(tmp_path: Path) -> None:
    known = truth.KINDS["ranks"](tmp_path / "run", 21)
    parts = [oracle.read(tmp_path / "run"), oracle.read(tmp_path / "run/ranks/0001")]
    assert parts[0].main.steps == parts[1].main.steps == known.main.steps
    for rank, part in enumerate(parts):
        facts = part.manifest["meta"]["distributed"]
        assert (facts["rank"], facts["world_size"]) == (rank, 2)
        (first, _), (rows, columns) = facts["shards"]["w"]["offset"], part.main.layouts[0][0]["shape"]
        for frame, true in zip(part.main.values, known.main.values):
            assert np.array_equal(
                np.frombuffer(frame["w"], np.float32).reshape(rows, columns), true["w"][first : first + rows]
            )


@pytest.mark.parametrize("compact", ["never", "after"])
def test_what_a_recorder_writes_beside_frames(tmp_path: Path, compact: str) -> None:
    weights = {"w": np.zeros((4, 3), np.float32), "z": np.zeros(2, np.complex128), "flag": np.zeros(3, bool)}
    with wl.watch(weights, tmp_path / "run", compact=compact, meta={"who": "größe"}, tolerance=None) as rec:
        for step in range(1, 50):
            rec.step({name: value + value.dtype.type(step) for name, value in weights.items()}, loss=1 / step)
            if step == 7:
                rec.mark("sieben: größer")
                rec.gap(8, 9, "weil")
    whole, run = oracle.read(tmp_path / "run"), load(tmp_path / "run")
    assert whole.manifest["meta"]["who"] == "größe"
    assert whole.main.events == run.events
    assert whole.main.gaps == run.gaps == [(8, 9, "weil")]
    assert np.array_equal(whole.main.scalars["loss"], run.scalars["loss"], equal_nan=True)
    assert (whole.closed, whole.wiring, whole.stopped) == (True, None, None)
    for k, frame in enumerate(whole.main.values):
        assert frame == {name: (value + value.dtype.type(k)).tobytes() for name, value in weights.items()}


def test_compaction_changes_nothing_that_the_page_can_see(tmp_path: Path) -> None:
    truth.KINDS["branches"](tmp_path / "run", 22)
    before = oracle.read(tmp_path / "run")
    compact_recording(tmp_path / "run")
    assert not list((tmp_path / "run/log").glob("*.seg"))
    after = oracle.read(tmp_path / "run")
    assert (after.main, after.branches) == (before.main, before.branches)


@pytest.mark.parametrize("kind", ["log", "mixed", "branches", "pages", "packed"])
def test_the_second_reader_is_strict(kind: str, tmp_path: Path) -> None:
    """A changed byte anywhere is an error or changes nothing that is read."""
    truth.KINDS[kind](tmp_path / "run", 23)
    before = oracle.read(tmp_path / "run")
    draw, refused = random.Random(1), 0
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != "lock"]
    for _ in range(40):
        file = draw.choice(files)
        good = file.read_bytes()
        bad = bytearray(good)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        file.write_bytes(bad)
        try:
            after = oracle.read(tmp_path / "run")
        except Exception:
            refused += 1
        else:
            assert (after.main, after.branches) == (before.main, before.branches)
        file.write_bytes(good)
    assert refused >= 30
